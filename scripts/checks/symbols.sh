#!/usr/bin/env bash
# symbols.sh BUILD_FOLDER: what the finished libraries contain. Three rules, one line
# `file:line: what` per violation:
#   calls    no library calls what ends the process, speaks, jumps or asks the environment
#   globals  no library has a variable: everything hangs off a context
#   exports  exactly what moe.h and moelua.h declare is visible from outside
# The last line is `N passed, N failed`, counting the rules per library.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=${1:?usage: symbols.sh BUILD_FOLDER}
cd "$root" || exit 1

# Variables that may exist, as `object symbol`; there is none, and each needs a reason here.
allowed_globals=""

banned='exit|_Exit|quick_exit|abort|atexit|printf|vprintf|fprintf|vfprintf|puts|putchar|perror'
banned="$banned|(__)?(v?f?printf|longjmp|printf)_chk|stdout|stderr|stdin"
banned="$banned|(sig)?longjmp|_?_?(sig)?setjmp"
banned="$banned|signal|sigaction|getenv|secure_getenv|setenv|isatty|setlocale|system|popen"
banned="$banned|__assert_fail|tcsetattr"

passed=0
failed=0
work=$(mktemp -d "${TMPDIR:-/tmp}/moelua-symbols.XXXXXX")
trap 'rm -rf "$work"' EXIT

# place OBJECT SYMBOL: file:line where the source of an object mentions a symbol.
place() {
    local source
    source=$(find core lua "$build/generated" -name "${1%.o}" 2> /dev/null | while read -r each; do
        grep -nwH -m 1 -- "${2%%.*}" "$each"
    done | head -n 1 | cut -d: -f1,2)
    printf '%s' "${source:-$1:1}"
}

# verdict: counts one rule; the violations are the lines `object symbol` on stdin.
verdict() {
    local what=$1 object symbol bad=0
    while read -r object symbol; do
        bad=1
        printf '%s: %s: %s\n' "$(place "$object" "$symbol")" "$symbol" "$what"
    done
    if [ $bad = 1 ]; then failed=$((failed + 1)); else passed=$((passed + 1)); fi
}

# table ARCHIVE: `object section visibility kind symbol` for each symbol of an archive.
table() {
    objdump -t "$1" | awk '
        /file format/ { object = $1; sub(/:$/, "", object); next }
        /^[0-9a-f]+ / {
            flags = substr($0, 18, 7); rest = substr($0, 26); split(rest, part, /[ \t]+/)
            name = $NF
            hidden = (rest ~ /[ \t]\.hidden[ \t]/) ? "hidden" : "visible"
            scope = (flags ~ /^[gu]/ || flags ~ /w/) ? "global" : "local"
            kind = (flags ~ /O$/) ? "object" : (flags ~ /F$/) ? "function" : "other"
            print object, part[1], scope, hidden, kind, name
        }'
}

check_calls() {
    awk -v banned="^($banned)$" '$2 == "*UND*" && $6 ~ banned { print $1, $6 }' "$1" |
        sort -u > "$work/list"
    verdict "belongs to lua/cli alone" < "$work/list"
}

# Constants that need relocation sit in .data.rel.ro, which is read-only at run time.
check_globals() {
    awk '$2 ~ /^(\.data|\.bss|\.tdata|\.tbss|\*COM\*)/ && $2 !~ /^\.data\.rel\.ro/ &&
            ($5 == "object" || $2 ~ /^\.t/) && $6 !~ /^\./ {
            print $1, $6 }' "$1" | sort -u |
        grep -vxF -e "${allowed_globals:-none}" > "$work/list"
    verdict "a variable that outlives its context" < "$work/list"
}

# declared HEADER...: the names with default visibility that the headers declare.
declared() {
    local header
    for header in "$@"; do
        printf '#include "%s"\n' "$header"
    done | cc -E -P -x c -I core -I lua $(pkg-config --cflags lua5.4) - |
        tr '\n' ' ' | tr ';' '\n' | grep 'visibility("default")' |
        sed -E 's/__attribute__ *\(\([^()]*(\([^()]*\))?[^()]*(\([^()]*\))?[^()]*\)\)//g' |
        sed -nE 's/^[^(]*[ *]([A-Za-z_][A-Za-z0-9_]*) *\(.*/\1/p' | sort -u
}

check_exports() {
    local symbols=$1
    shift
    declared "$@" > "$work/declared"
    awk '$2 != "*UND*" && $3 == "global" && $4 == "visible" { print $6 }' "$symbols" | sort -u \
        > "$work/exported"
    {
        comm -23 "$work/exported" "$work/declared" | while read -r name; do
            awk -v name="$name" '$2 != "*UND*" && $6 == name { print $1, name; exit }' "$symbols"
        done
    } > "$work/list"
    verdict "visible, but in no public header" < "$work/list"
    comm -13 "$work/exported" "$work/declared" | while read -r name; do
        echo "$(basename "$1").o $name"
    done > "$work/list"
    verdict "declared in a public header, but not in the library" < "$work/list"
}

for library in libmoecore libmoelua; do
    archive=$build/$library.a
    if [ ! -e "$archive" ]; then
        echo "$archive: 1: there is no such library to check"
        failed=$((failed + 1))
        continue
    fi
    table "$archive" > "$work/$library"
    check_calls "$work/$library"
    check_globals "$work/$library"
done
[ -e "$work/libmoecore" ] && check_exports "$work/libmoecore" moe.h
[ -e "$work/libmoelua" ] && check_exports "$work/libmoelua" moe.h moelua.h

printf '%d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
