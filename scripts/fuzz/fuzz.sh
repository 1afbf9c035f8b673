#!/usr/bin/env bash
# fuzz.sh [safetensors|gguf|config|yaml|tokenizer] [--runs N] [--seed S]: the fuzzers under
# libFuzzer and sanitizers.
# fuzz.sh planted [NAME...]: bugs planted in copies of the file readers, which they have to find.
# Run by `scripts/dev fuzz`. Inputs that were found stay in build/fuzz/found; those worth keeping
# go to spec/golden/fuzz, which `scripts/test` replays. The last line is `N passed, N failed`.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
. "$root/scripts/packages"
build=$root/build/fuzz
runs=""
# A model folder on disk and an interpreter for each: JSON is slower by far.
declare -A usual=([safetensors]=1000000 [gguf]=1000000 [config]=50000 [yaml]=1000000
    [tokenizer]=1000000)
seed=1
targets=()
planted=no
names=()

while [ $# -gt 0 ]; do
    case $1 in
        --runs) runs=${2:?--runs N}; shift ;;
        --seed) seed=${2:?--seed S}; shift ;;
        safetensors | gguf | config | yaml | tokenizer) targets+=("$1") ;;
        planted) planted=yes ;;
        *)
            [ $planted = yes ] || { printf 'fuzz: no target "%s"\n' "$1" >&2; exit 2; }
            names+=("$1")
            ;;
    esac
    shift
done
[ ${#targets[@]} != 0 ] || targets=(safetensors gguf config yaml tokenizer)

# Short stacks of allocations and a small quarantine: most of the time would go there.
export ASAN_OPTIONS=malloc_context_size=2:quarantine_size_mb=4
export LSAN_OPTIONS=suppressions=$root/scripts/checks/lsan.supp:print_suppressions=0
CC=clang build_in "$build" -DMOELUA_TESTING=ON -DMOELUA_FUZZING=ON \
    -DMOELUA_SANITIZE=address,undefined || exit 1

if [ $planted = yes ]; then
    exec lua5.4 "$root/scripts/fuzz/planted.lua" "$root" "$build" "${names[@]}"
fi

# fuzz TARGET: the statistics of a run, or what it found; 1 after a finding.
fuzz() {
    local target=$1 log=$build/$1.log status options=()
    local corpus=$build/corpus/$target kept=$root/spec/golden/fuzz/$target
    mkdir -p "$corpus" "$build/found" "$kept"
    [ -e "$root/scripts/fuzz/$target.dict" ] && options+=("-dict=$root/scripts/fuzz/$target.dict")
    "$build/fuzz_$target" "$corpus" "$kept" "${options[@]}" -runs="${runs:-${usual[$target]}}" -seed="$seed" \
        -max_len=512 -timeout=5 -rss_limit_mb=512 -print_final_stats=1 \
        -artifact_prefix="$build/found/$target-" > "$log" 2>&1
    status=$?
    if [ $status != 0 ]; then
        grep -avE '^#[0-9]|^stat::|NEW_FUNC' "$log" | tail -n 60
    fi
    sed -nE 's/^stat::number_of_executed_units: *([0-9]+)/\1 executions/p
        s/^stat::average_exec_per_sec: *([0-9]+)/\1 executions per second/p
        s/^stat::peak_rss_mb: *([0-9]+)/\1 MB/p' "$log" |
        paste -sd, | sed "s/,/, /g; s/^/$target: /"
    return $status
}

passed=0
failed=0
for target in "${targets[@]}"; do
    if fuzz "$target"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'FAILED  %s: what it found is in %s\n' "$target" "${build#"$root"/}/found"
    fi
done
printf '%d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
