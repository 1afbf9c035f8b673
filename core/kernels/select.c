/* select.c -- which kernel variant runs: the named one, or the best the processor has. */
#include <string.h>

#include "kernels/kernels.h"

extern const moe_kernels moe__kernels_plain;
#ifndef MOE_ONLY_PLAIN
extern const moe_kernels moe__kernels_avx2, moe__kernels_avx512;

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#endif

const moe_kernels *moe__kernels_select(const char *name) {
#ifndef MOE_ONLY_PLAIN
    __builtin_cpu_init();
    if ((!name || !strcmp(name, "avx512")) && has_avx512()) return &moe__kernels_avx512;
    if ((!name || !strcmp(name, "avx2")) && has_avx2()) return &moe__kernels_avx2;
#endif
    return !name || !strcmp(name, "plain") ? &moe__kernels_plain : NULL;
}
