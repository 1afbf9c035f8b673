#!/usr/bin/env bash
# registers.sh BUILD_FOLDER: the sums of matrix products stay in registers. Every innermost loop
# with products in it, in every register tile of every variant, is read in the disassembly; one
# that stores a vector on the stack can lose half of its speed. One line `object: function:
# instruction` per violation; the last line is `N passed, N failed`, counting objects.
set -u
build=${1:?usage: registers.sh BUILD_FOLDER}
passed=0
failed=0

# An instruction is `address: name operands`. A frame pointer is one only if the function made it.
violations() {
    objdump -d --no-show-raw-insn "$1" | awk -F'\t' '
        function number(hex,  i, n) {
            for (n = i = 0; i++ < length(hex);)
                n = n * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
            return n
        }
        function innermost(first, last,  i) {
            for (i = first; i < last; i++) if (back[i]) return 0
            return 1
        }
        function read_loop(first, last,  i, products) {
            for (i = first; i <= last; i++) products += text[i] ~ /fmadd|dpbf16|mulp[sd]/
            if (!products || !innermost(first, last)) return
            loops++
            for (i = first; i <= last; i++)
                if (text[i] ~ /%[xyz]mm[0-9]+,.*\(%rsp/ ||
                    (framed && text[i] ~ /%[xyz]mm[0-9]+,.*\(%rbp/))
                    print name ": " text[i]
        }
        function read_function(  i, j) {
            for (i = 1; i <= count; i++)
                for (j = 1; back[i] && j < i; j++)
                    if (address[j] == back[i]) read_loop(j, i)
        }
        /^[0-9a-f]+ <.*>:$/ {
            read_function()
            count = framed = 0
            delete back
            name = $0
            gsub(/.*<|>:/, "", name)
        }
        name ~ /^tile_/ && /^ *[0-9a-f]+:/ {
            split($1, part, /[ :]+/)
            at = part[1] == "" ? part[2] : part[1]
            address[++count] = number(at)
            text[count] = $2
            if ($2 ~ /^mov +%rsp,%rbp/) framed = 1
            if ($2 ~ /^j/) {
                split($2, part, /[ \t]+/)
                to = number(part[2])
                if (to <= address[count]) back[count] = to
            }
        }
        END {
            read_function()
            if (!loops) print "no loop with products was found"
        }'
}

for object in "$build"/CMakeFiles/moekernels_*.dir/core/kernels/vector/{product,bf16}.c.o; do
    case $object in
        *_amx.dir/*/bf16.c.o) continue ;;       # its sums are in tiles, which have no other place
        *_plain.dir/*/bf16.c.o) continue ;;     # 16 registers, and no product that adds as well
        *_openblas.dir/*) continue ;;           # f32 sums are not ours, others as plain's
    esac
    said=$(violations "$object")
    if [ -z "$said" ]; then
        passed=$((passed + 1))
    else
        printf '%s\n' "$said" | sed "s|^|${object#"$build"/CMakeFiles/}: |"
        failed=$((failed + 1))
    fi
done
printf '%d passed, %d failed\n' $passed $failed
[ $failed = 0 ]
