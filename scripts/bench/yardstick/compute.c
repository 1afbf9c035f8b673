/* compute.c -- the most arithmetic a processor can do: loops that never leave the registers, chosen
 * by what cpuid says.
 *
 * Each keeps more independent accumulators than the latency of an instruction times the units there
 * are. Their values are handed to an empty asm statement, which keeps the compiler from deleting or
 * folding the loop.
 */
#define _GNU_SOURCE
#include "yardstick.h"

#include <stdint.h>

#define ROUNDS 20000
#define CHAINS 20           /* of 32 registers with AVX-512 */
#define FEW_CHAINS 12       /* of 16 registers with AVX2 and SSE */

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define TWENTY(X) TWELVE(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)

typedef float vec16 __attribute__((vector_size(16)));
typedef float vec32 __attribute__((vector_size(32)));
typedef float vec64 __attribute__((vector_size(64)));

/* Named accumulators: an array of them would end up on the stack. Each tends to 0.5 / 0.5. */
#define DECLARE(i) vec a##i = x + (float)i;
#define STEP(i) a##i = a##i * x + y;
#define SINK(i) __asm__ volatile("" : : KIND(a##i));
#define LOOP(name, target, width, chains, count)                          \
    target static double name(int thread, int threads) {                  \
        typedef vec##width vec;                                           \
        vec x = (vec){0} + 0.5f, y = (vec){0} + 0.5f;                     \
        (void)thread;                                                     \
        (void)threads;                                                    \
        __asm__ volatile("" : "+" KIND(x), "+" KIND(y));                  \
        chains(DECLARE)                                                   \
        for (int i = 0; i < ROUNDS; i++) { chains(STEP) }                 \
        chains(SINK)                                                      \
        return 2.0 * ROUNDS * (count) * ((width) / sizeof(float));        \
    }

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- f32 ------------------------------------------------------------------------------------ */

#define FOR(names) __attribute__((target(names)))
#define KIND "x"
LOOP(f32_plain, , 16, TWELVE, FEW_CHAINS)
LOOP(f32_avx2, FOR("avx2,fma"), 32, TWELVE, FEW_CHAINS)
#undef KIND
#define KIND "v"
LOOP(f32_avx512, FOR("avx512f,fma"), 64, TWENTY, CHAINS)

yardstick compute_f32(void) {
    if (__builtin_cpu_supports("avx512f")) return (yardstick){ "avx512", f32_avx512 };
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (yardstick){ "avx2", f32_avx2 };
    return (yardstick){ "plain", f32_plain };
}

/* ---- bf16: each lane adds two products ------------------------------------------------------ */

#undef DECLARE
#undef STEP
#define DECLARE(i) __m512 a##i = _mm512_set1_ps((float)i);
#define STEP(i) a##i = _mm512_dpbf16_ps(a##i, x, y);
FOR("avx512f,avx512bf16") static double bf16_avx512(int thread, int threads) {
    (void)thread;
    (void)threads;
    __m512bh x = _mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5f), _mm512_set1_ps(-0.5f)), y = x;
    __asm__ volatile("" : "+v"(x), "+v"(y));
    TWENTY(DECLARE)
    for (int i = 0; i < ROUNDS; i++) { TWENTY(STEP) }
    TWENTY(SINK)
    return 4.0 * ROUNDS * CHAINS * 16;
}

static unsigned leaf7(unsigned subleaf, char reg) {
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, subleaf, &a, &b, &c, &d)) return 0;
    return reg == 'a' ? a : d;
}

yardstick compute_bf16(void) {
    int has = __builtin_cpu_supports("avx512f") && (leaf7(1, 'a') >> 5 & 1);
    if (!has) return (yardstick){ "this processor has no avx512bf16", NULL };
    return (yardstick){ "avx512bf16", bf16_avx512 };
}

/* ---- bf16 tiles: C[16 x 16] += A[16 x 32] B[32 x 16] ---------------------------------------- */

#define TILE_FLOPS (2.0 * 16 * 16 * 32)
#define REQUEST_PERMISSION 0x1023       /* arch_prctl(ARCH_REQ_XCOMP_PERM, ...) */
#define TILE_DATA 18                    /* the state component of the tile registers */

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* Four products of two A and two B tiles, as in a matrix product that keeps its C in registers. */
FOR("amx-tile,amx-bf16") static double tiles_amx(int thread, int threads) {
    tile_config config = { .palette = 1 };
    uint16_t halves[16 * 32];
    (void)thread;
    (void)threads;
    for (int i = 0; i < 16 * 32; i++) halves[i] = 0x3f00;
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
    /* The intrinsics do not tell the compiler how much of this they read. */
    __asm__ volatile("" : : "r"(&config), "r"(halves) : "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, halves, 64);
    _tile_loadd(5, halves, 64);
    _tile_loadd(6, halves, 64);
    _tile_loadd(7, halves, 64);
    for (int i = 0; i < ROUNDS; i++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
    return 4 * ROUNDS * TILE_FLOPS;
}

yardstick compute_amx(void) {
    unsigned bits = leaf7(0, 'd');
    if (!(bits >> 22 & 1) || !(bits >> 24 & 1))
        return (yardstick){ "this processor has no AMX", NULL };
    if (syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) != 0)
        return (yardstick){ "the system does not permit AMX", NULL };
    return (yardstick){ "amx", tiles_amx };
}

#else

#define KIND "w"
LOOP(f32_plain, , 16, TWENTY, CHAINS)

yardstick compute_f32(void) { return (yardstick){ "plain", f32_plain }; }
yardstick compute_bf16(void) {
    return (yardstick){ "this processor has no avx512bf16", NULL };
}
yardstick compute_amx(void) { return (yardstick){ "this processor has no AMX", NULL }; }

#endif
