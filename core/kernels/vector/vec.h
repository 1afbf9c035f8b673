/* vec.h -- one register of numbers at a time, in the compiler's own vector type.
 *
 * The same source is compiled for every instruction set; only the width of a vector differs: 64
 * bytes with AVX-512, 32 with AVX2, else 16 (wider ones would be compared piece by piece). Only
 * operators that IEEE 754 rounds correctly are used, so the double build checks exactly this code.
 * Sums run in VL lanes that are combined in a fixed order.
 */
#ifndef MOE_KERNELS_VEC_H
#define MOE_KERNELS_VEC_H

#include <string.h>
#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include "base/ctx.h"
#include "kernels/kernels.h"

/* The name of a kernel in the variant being compiled: moe__silu_avx2. */
#define KERNEL_PASTE(name, isa) moe__##name##_##isa
#define KERNEL_NAME(name, isa) KERNEL_PASTE(name, isa)
#define KERNEL(name) KERNEL_NAME(name, MOE_ISA)
#define KERNEL_TEXT_OF(isa) #isa
#define KERNEL_TEXT(isa) KERNEL_TEXT_OF(isa)

#if MOE_REAL_IS_DOUBLE
typedef int64_t moe_bits;
typedef uint64_t moe_ubits;
#else
typedef int32_t moe_bits;
typedef uint32_t moe_ubits;
#endif
#if defined(__AVX512F__)
#define VBYTES 64
#elif defined(__AVX2__)
#define VBYTES 32
#else
#define VBYTES 16
#endif
#define VL ((int)(VBYTES / sizeof(moe_real)))
typedef moe_real vec __attribute__((vector_size(VBYTES)));
typedef moe_bits veci __attribute__((vector_size(VBYTES)));   /* also the type of comparisons */
typedef moe_ubits vecu __attribute__((vector_size(VBYTES)));  /* for sums that may go round */
typedef moe_real vec_unaligned
    __attribute__((vector_size(VBYTES), aligned(sizeof(moe_real)), may_alias));

#define X(type, member) type KERNEL(member);
MOE_KERNEL_TABLE(X)
#undef X
extern const moe_format KERNEL(f32), KERNEL(bf16);

#define INLINE static inline __attribute__((always_inline, unused))

INLINE vec load(const moe_real *p) { return *(const vec_unaligned *)p; }
INLINE void store(moe_real *p, vec v) { *(vec_unaligned *)p = v; }
INLINE vec splat(moe_real x) { return x - (vec){0}; }

/* The first n < VL elements; the others are `rest`. AVX-512 has masks for it; a copy through memory
 * takes as long as several whole vectors. */
#if defined(__AVX512F__) && MOE_REAL_IS_DOUBLE
INLINE vec load_part(const moe_real *p, int64_t n, moe_real rest) {
    return (vec)_mm512_mask_loadu_pd((__m512d)splat(rest), (__mmask8)((1u << n) - 1), p);
}
INLINE void store_part(moe_real *p, vec v, int64_t n) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << n) - 1), (__m512d)v);
}
#elif defined(__AVX512F__)
INLINE vec load_part(const moe_real *p, int64_t n, moe_real rest) {
    return (vec)_mm512_mask_loadu_ps((__m512)splat(rest), (__mmask16)((1u << n) - 1), p);
}
INLINE void store_part(moe_real *p, vec v, int64_t n) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), (__m512)v);
}
#else
INLINE vec load_part(const moe_real *p, int64_t n, moe_real rest) {
    vec v = splat(rest);
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
INLINE void store_part(moe_real *p, vec v, int64_t n) { memcpy(p, &v, (size_t)n * sizeof *p); }
#endif

INLINE vec choose(veci mask, vec yes, vec no) {
    return (vec)(((veci)yes & mask) | ((veci)no & ~mask));
}

/* Halves are added to halves. */
INLINE moe_real lanes_sum(vec v) {
#if VBYTES > 16 && !defined(__clang__)
    static const moe_bits lane[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                                    0, 1, 2, 3, 4, 5, 6, 7};
    typedef moe_bits some_lanes __attribute__((vector_size(VBYTES), aligned(sizeof(moe_bits))));
#pragma GCC unroll 4
    for (int width = VL / 2; width > 0; width /= 2)
        v += __builtin_shuffle(v, *(const some_lanes *)(lane + width));
#else
    for (int width = VL / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) v[i] += v[i + width];
#endif
    return v[0];
}
/* NaN if any lane is. */
INLINE moe_real lanes_max(vec v) {
    moe_real m = v[0];
    for (int i = 1; i < VL; i++) m = v[i] > m || v[i] != v[i] ? v[i] : m;
    return m;
}

/* exp(x) is 2^n exp(r) with x = n ln 2 + r and |r| <= ln 2 / 2. Below the smallest normal number it
 * becomes 0, so that a masked score gets exactly no weight. */
#if MOE_REAL_IS_DOUBLE
#define EXP_LOWEST (-708.39)
#define EXP_HIGHEST 709.78
#define EXP_ROUND 0x1.8p52      /* what is added to it keeps its whole part in the lowest bits */
#define EXP_SHIFT 52            /* of the exponent within a number */
#define EXP_BIAS ((moe_ubits)1023)
#else
#define EXP_LOWEST (-87.33654f)
#define EXP_HIGHEST 88.72283f
#define EXP_ROUND 0x1.8p23f
#define EXP_SHIFT 23
#define EXP_BIAS ((moe_ubits)127)
#endif

/* Returns exp(r), within 1 ulp in float, and n + EXP_ROUND. */
INLINE vec exp_split(vec x, vec *shifted) {
#if MOE_REAL_IS_DOUBLE
    const moe_real ln2_high = 0x1.62e42fefa3800p-1, ln2_low = 0x1.ef35793c76730p-45;
#else
    const moe_real ln2_high = 0x1.62ep-1f, ln2_low = 0x1.0bfbe8p-15f;
#endif
    *shifted = x * (moe_real)1.44269504088896340736 + EXP_ROUND;
    vec n = *shifted - EXP_ROUND;
    vec r = (x - n * ln2_high) - n * ln2_low;
#if MOE_REAL_IS_DOUBLE
    vec p = splat(1.0 / 6227020800.0);
    static const moe_real inverse_factorial[] = {
        1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
        1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5,         1.0};
    for (int i = 0; i < 12; i++) p = p * r + inverse_factorial[i];
    return p * r + 1;
#else
    vec p = splat(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return p * (r * r) + r + 1;
#endif
}

/* Above the largest number the result is inf; NaN stays NaN. n goes straight into the exponent of
 * exp(r): at both ends the sum is a normal number, though 2^n may be none. */
INLINE vec vexp(vec x) {
    vec shifted, p = exp_split(x, &shifted);
    vec y = (vec)((vecu)p + ((vecu)shifted << EXP_SHIFT));
    y = choose(x <= EXP_HIGHEST, y, x + (moe_real)__builtin_inf());
    return choose(x < EXP_LOWEST, splat(0), y);
}

/* The same, a little cheaper, for x that is at most a little above 0: there 2^n is a number. */
INLINE vec vexp_below(vec x) {
    vec shifted, p = exp_split(x, &shifted);
    vecu n = (vecu)shifted - (vecu)splat(EXP_ROUND);
    return choose(x < EXP_LOWEST, splat(0), p * (vec)((n + EXP_BIAS) << EXP_SHIFT));
}

INLINE vec vsigmoid(vec x) { return 1 / (1 + vexp(-x)); }

#endif
