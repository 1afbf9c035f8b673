/* product.h -- matrix products on prepared operands: C (+)= A B, on one thread.
 *
 * The left operand A [m x k] is made of rows, `lda` elements apart. The right operand B [k x n] is
 * made of panels of 32 columns: panel j holds columns 32 j .. 32 j + 31, its rows one after the
 * other, the last panel filled up with zeros. So a register tile of C runs down one panel with
 * every load in order, whatever B looked like before.
 *
 * A format says what the elements are. f32: those of the core, a panel is [k][32]. bf16: the upper
 * half of an f32 rounded to nearest, products summed in f32; two rows of a panel are interleaved,
 * [k / 2][32][2], because the instructions multiply pairs; k is filled up with zeros to a multiple
 * of `depth` in rows and panels alike. All variants of a format share its layout. Operands of bf16
 * lie on multiples of 4 bytes, best of 64. Some processors take what is below the smallest normal
 * f32 as 0.
 *
 * The order in which a sum is taken depends on k and the variant alone, so that C has the same bits
 * however rows and panels are spread over tasks.
 */
#ifndef MOE_KERNELS_PRODUCT_H
#define MOE_KERNELS_PRODUCT_H

#include "moe.h"

#define MOE_PANEL 32

/* C [m x n] = A B, or += with `add`. A, B: elements of the format; b points to the first of the
 * ceil(n / 32) panels, which lie `panel` elements apart (moe__panel(f, k), more when B has more
 * rows than k). */
typedef struct moe_product {
    int64_t m, n, k;
    const void *a;
    int64_t lda;
    const void *b;
    int64_t panel;
    moe_real *c;
    int64_t ldc;
    bool add;
    bool turned;                /* A lies as [k x m], k rows lda apart; in direct formats only */
} moe_product;
typedef void moe_multiply_fn(const moe_product *p);
/* In f32, by OpenBLAS. */
moe_multiply_fn moe__blas_multiply;

/* Rows of A from f32: to[i] = scale[i] * from[index[i]], i < m; index and scale may be NULL, which
 * means i and 1. ld and ldto count elements between rows. */
typedef void moe_left_fn(int64_t m, int64_t k, const moe_real *from, int64_t ld,
                         const int32_t *index, const moe_real *scale, void *to, int64_t ldto);
/* Rows of A = S^T from S [k x m] in f32, the rows of S taken and scaled as above. */
typedef void moe_left_transposed_fn(int64_t m, int64_t k, const moe_real *from, int64_t ld,
                                    const int32_t *index, const moe_real *scale, void *to,
                                    int64_t ldto);
/* The panels of B [k x n] from f32; row i of B is from[index[i]] (index may be NULL). */
typedef void moe_right_fn(int64_t k, int64_t n, const moe_real *from, int64_t ld,
                          const int32_t *index, void *to);
/* The panels of B = S^T from S [n x k]: weights are stored [out x in]. */
typedef void moe_right_transposed_fn(int64_t k, int64_t n, const moe_real *from, int64_t ld,
                                     void *to);

typedef struct moe_format {
    const char *name;           /* of the variant: "avx512", "amx", ... */
    size_t element;             /* bytes */
    int64_t depth;              /* k is filled up to a multiple of this */
    int64_t rows;               /* A is read in multiples of this: rows past m may hold anything */
    bool direct;                /* A may be an f32 matrix as it lies in memory, or
                                   its transpose */
    moe_left_fn *left;
    moe_left_transposed_fn *left_transposed;
    moe_right_fn *right;
    moe_right_transposed_fn *right_transposed;
    moe_multiply_fn *multiply;
} moe_format;

/* `n` elements of the format further on. */
static inline void *moe__ahead(const moe_format *f, const void *p, int64_t n) {
    return (char *)p + (int64_t)f->element * n;
}

static inline int64_t moe__round_up(int64_t n, int64_t step) {
    return (n + step - 1) / step * step;
}

/* k as rows and panels hold it. */
static inline int64_t moe__depth(const moe_format *f, int64_t k) {
    return moe__round_up(k, f->depth);
}
/* Elements from one row of A to the next where an op lays them out: a cache line more than a row
 * has, because rows a power of two apart would share a few sets of the cache. */
static inline int64_t moe__apart(const moe_format *f, int64_t k) {
    return moe__depth(f, k) + (int64_t)(64 / f->element);
}
/* Elements of one panel, of all panels, of A. */
static inline int64_t moe__panel(const moe_format *f, int64_t k) {
    return moe__depth(f, k) * MOE_PANEL;
}
static inline int64_t moe__right_size(const moe_format *f, int64_t k, int64_t n) {
    return moe__panel(f, k) * ((n + MOE_PANEL - 1) / MOE_PANEL);
}
static inline int64_t moe__left_size(const moe_format *f, int64_t m, int64_t k) {
    return moe__round_up(m, f->rows) * moe__depth(f, k);
}

#endif
