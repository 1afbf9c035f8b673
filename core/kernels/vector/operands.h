/* operands.h -- reading f32 matrices for packing: rows by index and scale, blocks turned round. */
#ifndef MOE_KERNELS_OPERANDS_H
#define MOE_KERNELS_OPERANDS_H

#include "kernels/vector/vec.h"

/* A matrix [m x n]: row i is scale[i] * from[index[i]]; index and scale may be NULL. */
typedef struct source {
    int64_t m, n;
    const moe_real *from;
    int64_t ld;
    const int32_t *index;
    const moe_real *scale;
} source;

INLINE const moe_real *row(const source *s, int64_t i) {
    return s->from + (s->index ? s->index[i] : i) * s->ld;
}

/* VL elements of row i from column j on; outside of the matrix there are zeros. */
INLINE vec take(const source *s, int64_t i, int64_t j) {
    if (i >= s->m || j >= s->n) return splat(0);
    const moe_real *at = row(s, i) + j;
    vec v = s->n - j >= VL ? load(at) : load_part(at, s->n - j, 0);
    return s->scale ? v * s->scale[i] : v;
}

/* A block of up to 2 VL x VL elements in memory. */
typedef struct block {
    const moe_real *at;
    int64_t ld;
} block;
typedef moe_real block_copy[2 * VL * VL];

__attribute__((noinline, unused)) static block copy_block(const source *s, int64_t i, int64_t j,
                                                          int64_t m, int64_t n,
                                                          block_copy copy) {
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < n; c += VL) store(copy + r * n + c, take(s, i + r, j + c));
    return (block){copy, n};
}

/* The m x n elements from i, j on: as they lie in memory, unless rows are gathered or scaled or the
 * block hangs over the edge. */
INLINE block block_at(const source *s, int64_t i, int64_t j, int64_t m, int64_t n,
                      block_copy copy) {
    if (s->index || s->scale || i + m > s->m || j + n > s->n)
        return copy_block(s, i, j, m, n, copy);
    return (block){s->from + i * s->ld + j, s->ld};
}

/* Stores VL vectors, of which so many rows and columns have a place. */
INLINE void put(const vec r[VL], int64_t rows, int64_t columns, moe_real *to, int64_t ld) {
    moe_real copy[VL * VL];
    bool whole = rows >= VL && columns >= VL;
    moe_real *at = whole ? to : copy;
    int64_t step = whole ? ld : VL;
#pragma GCC unroll 16
    for (int i = 0; i < VL; i++) store(at + i * step, r[i]);
    if (whole) return;
    size_t bytes = sizeof *to * (size_t)(columns < VL ? columns : VL);
    for (int64_t i = 0; i < VL && i < rows; i++) memcpy(to + i * ld, copy + i * VL, bytes);
}

/* Patterns for __builtin_shufflevector(a, b, ...): the lower or the upper halves of a and b,
 * element by element in turn; the even or the odd elements of a, then of b. */
#if VBYTES == 64 && !MOE_REAL_IS_DOUBLE
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#elif VBYTES == 64 || (VBYTES == 32 && !MOE_REAL_IS_DOUBLE)
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define EVEN 0, 2, 4, 6, 8, 10, 12, 14
#define ODD 1, 3, 5, 7, 9, 11, 13, 15
#elif VBYTES == 32 || !MOE_REAL_IS_DOUBLE
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#define EVEN 0, 2, 4, 6
#define ODD 1, 3, 5, 7
#else
#define LOW 0, 2
#define HIGH 1, 3
#endif

/* Transposes VL x VL elements: riffling the rows is one step of turning their index bits round, and
 * log2(VL) of those swap row and column. */
INLINE void transpose(vec r[VL]) {
#pragma GCC unroll 4
    for (int bits = VL; bits > 1; bits /= 2) {
        vec t[VL];
#pragma GCC unroll 8
        for (int i = 0; i < VL / 2; i++) {
            t[2 * i] = __builtin_shufflevector(r[i], r[i + VL / 2], LOW);
            t[2 * i + 1] = __builtin_shufflevector(r[i], r[i + VL / 2], HIGH);
        }
#pragma GCC unroll 16
        for (int i = 0; i < VL; i++) r[i] = t[i];
    }
}

#endif
