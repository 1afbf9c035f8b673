#!/usr/bin/env bash
# spec.sh EXECUTABLE [--gradients] [--filter=PATTERN] [--filter-out=PATTERN] [spec file...]:
# the busted suite with our own executable as the interpreter.
#
# Every file runs in a process of its own: one that crashes or hangs costs one failure, and the
# rest still runs. A file that runs no test, or whose process ends badly after good tests (as with
# a leak report), fails too. The last line is `N passed, N failed`.
#   SPEC_TIMEOUT=300   seconds that one file may take
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
program=$(readlink -f "$1")
shift

gradients=no
options=()
while [ $# -gt 0 ]; do
    case $1 in
        --gradients) gradients=yes ;;
        --filter=* | --filter-out=*) options+=("$1") ;;
        *) break ;;
    esac
    shift
done

cd "$root" || exit 1
files=("$@")
if [ ${#files[@]} = 0 ] && [ $gradients = yes ]; then
    mapfile -t files < <(find spec/gradients -name '*_spec.lua' 2> /dev/null | sort)
elif [ ${#files[@]} = 0 ]; then
    mapfile -t files < <(find spec -name '*_spec.lua' ! -path 'spec/gradients/*' | sort)
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/moelua-spec.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/tmp"
passed=0
failed=0

# count NAME: the number before NAME in busted's summary line; 0 when there is no such line.
count() { sed -nE "s/^(.* )?([0-9]+) $1 .*/\2/p; \$!d" "$work/summary" | grep . || echo 0; }

run_file() {
    local file=$1 status started=$SECONDS good bad pending note=""
    (
        TMPDIR=$work/tmp timeout --kill-after=10 "${SPEC_TIMEOUT:-300}" \
            "$program" /usr/bin/busted --ignore-lua -o plainTerminal --helper=spec/helper.lua \
            "${options[@]}" "$file"
        exit $?
    ) > "$work/out" 2>&1 < /dev/null
    status=$?
    grep -aE '^[0-9]+ success(es)? / [0-9]+ failures?' "$work/out" | tail -n 1 > "$work/summary"
    good=$(count 'success(es)?')
    bad=$(($(count 'failures?') + $(count 'errors?')))
    pending=$(count 'pending')
    [ "$pending" = 0 ] || note=", $pending pending"
    if [ $status != 0 ] && [ $bad = 0 ]; then
        bad=1
        note=", ended with status $status"
        [ $status = 124 ] && note=", took longer than ${SPEC_TIMEOUT:-300} s"
    elif [ $((good + bad)) = 0 ] && [ ${#options[@]} = 0 ]; then
        bad=1
        note=", ran no test"
    fi
    passed=$((passed + good))
    failed=$((failed + bad))
    if [ $bad != 0 ]; then
        sed 's/^/    /' "$work/out"
        printf 'FAILED  '
    else
        [ $good = 0 ] && return
        printf 'ok      '
    fi
    printf '%s: %d passed, %d failed%s (%d s)\n' "$file" "$good" "$bad" "$note" \
        $((SECONDS - started))
}

for file in "${files[@]}"; do
    run_file "$file"
done
[ ${#files[@]} != 0 ] && [ $((passed + failed)) != 0 ] || {
    echo "FAILED  no spec was run"
    failed=$((failed + 1))
}
printf '%d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
