/* select.c -- which kernel variant runs: the named one, or the best the processor has. */
#include <string.h>

#include "kernels/kernels.h"

static bool always(void) { return true; }

#ifndef MOE_ONLY_PLAIN
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool has_avx2(void) {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx512bf16(void) { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

/* The tiles are 8 KB of state in every thread: Linux gives them to a process that asks, once. It
 * refuses where it does not know them, or where a signal stack is too small for them. */
static bool has_amx(void) {
#ifdef SYS_arch_prctl
    enum { AMX_BF16 = 1 << 22, AMX_TILE = 1 << 24, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };
    unsigned a, b, c, d;
    return has_avx512bf16() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_BF16) &&
           (d & AMX_TILE) && !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
#else
    return false;
#endif
}
#endif

/* The best first. */
extern const moe_kernels moe__kernels_openblas, moe__kernels_plain;
#ifndef MOE_ONLY_PLAIN
extern const moe_kernels moe__kernels_avx2, moe__kernels_avx512, moe__kernels_avx512bf16,
    moe__kernels_amx;
#endif

static const struct {
    const moe_kernels *kernels;
    bool (*runs)(void);
} variants[] = {
#ifndef MOE_ONLY_PLAIN
    {&moe__kernels_amx, has_amx},
    {&moe__kernels_avx512bf16, has_avx512bf16},
    {&moe__kernels_avx512, has_avx512},
    {&moe__kernels_avx2, has_avx2},
#endif
    {&moe__kernels_openblas, always},
    {&moe__kernels_plain, always},
};

const moe_kernels *moe__kernels_select(const char *name) {
#ifndef MOE_ONLY_PLAIN
    __builtin_cpu_init();
#endif
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const moe_kernels *k = variants[i].kernels;
        if ((!name || !strcmp(name, k->name)) && variants[i].runs()) return k;
    }
    return NULL;
}
