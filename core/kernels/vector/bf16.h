/* bf16.h -- vectors of pairs of bf16: the first of a pair in the lower half of 32 bits. */
#ifndef MOE_KERNELS_BF16_H
#define MOE_KERNELS_BF16_H

#include "kernels/vector/operands.h"

typedef uint32_t pairs __attribute__((vector_size(VBYTES)));
typedef uint32_t pairs_unaligned __attribute__((vector_size(VBYTES), aligned(4), may_alias));

INLINE pairs load_pairs(const uint32_t *p) { return *(const pairs_unaligned *)p; }
INLINE void store_pairs(uint32_t *p, pairs v) { *(pairs_unaligned *)p = v; }

/* The numbers of pairs, in f32. */
INLINE vec first_of(pairs p) { return (vec)(p << 16); }
INLINE vec second_of(pairs p) { return (vec)(p >> 16 << 16); }

#if defined(__AVX512BF16__)
#include <immintrin.h>

/* lo and hi, one after the other along k. */
INLINE pairs pairs_along(vec lo, vec hi) {
    return (pairs)_mm512_cvtne2ps_pbh((__m512)hi, (__m512)lo);
}

INLINE pairs pair(vec first, vec second) {
    typedef short halves __attribute__((vector_size(VBYTES)));
    halves h = (halves)_mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
    return (pairs)__builtin_shufflevector(h, h, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7,
                                          23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30,
                                          15, 31);
}
#else
/* To the nearest, ties to even, in the upper half; NaN stays NaN, whatever its lower bits were. */
INLINE pairs rounded(vec x) {
    pairs u = (pairs)x, nearest = u + 0x7fff + ((u >> 16) & 1), isnan = (pairs)(x != x);
    return (nearest & ~isnan) | ((u | 0x400000) & isnan);
}

INLINE pairs pair(vec first, vec second) {
    return rounded(first) >> 16 | (rounded(second) & 0xffff0000);
}

/* lo and hi, one after the other along k. */
INLINE pairs pairs_along(vec lo, vec hi) {
    return pair(__builtin_shufflevector(lo, hi, EVEN), __builtin_shufflevector(lo, hi, ODD));
}
#endif

#endif
