/* gemv.c -- few rows against a matrix as it is stored: decoding (see moe_gemv in kernels.h).
 *
 * A matrix is read once, in order, and the processor mostly waits for it. Two rows of it far apart
 * are read side by side, each a little ahead of the arithmetic: two streams keep more reads under
 * way than one. 16-bit numbers become real ones in registers.
 *
 * Every sum runs through two accumulators in an order that depends on its length alone, so that its
 * bits are the same whatever rows are computed together.
 */
#include "kernels/vector/vec.h"

#if VBYTES > 16
#include <immintrin.h>
#endif

#define AHEAD 2048              /* bytes between what is read and what is asked for */

typedef uint16_t narrow __attribute__((vector_size(2 * VL)));
typedef uint16_t narrow_unaligned __attribute__((vector_size(2 * VL), aligned(2), may_alias));
typedef uint32_t bits32 __attribute__((vector_size(4 * VL)));
typedef float float32 __attribute__((vector_size(4 * VL)));

/* The compiler takes __builtin_convertvector apart into narrower pieces. */
INLINE bits32 extend(narrow h) {
#if VBYTES == 64 && !MOE_REAL_IS_DOUBLE
    return (bits32)_mm512_cvtepu16_epi32((__m256i)h);
#elif VBYTES == 32 && !MOE_REAL_IS_DOUBLE
    return (bits32)_mm256_cvtepu16_epi32((__m128i)h);
#else
    return __builtin_convertvector(h, bits32);
#endif
}

INLINE vec from_bfloat(narrow h) {
    bits32 b = extend(h) << 16;
    return __builtin_convertvector((float32)b, vec);
}

/* As moe__from_half: the exponent moves by a product, which also makes subnormals normal. */
INLINE vec from_half(narrow h) {
    bits32 b = extend(h), magnitude = (b & 0x7fffu) << 13;
    bits32 finite = (bits32)((float32)magnitude * 0x1p112f), special = magnitude | 0x7f800000u;
    bits32 is_special = (bits32)(magnitude >= 0x7c00u << 13);
    b = ((b & 0x8000u) << 16) | (special & is_special) | (finite & ~is_special);
    return __builtin_convertvector((float32)b, vec);
}

/* VL elements of type `type` from number i on. */
INLINE vec widen(const int type, const void *p, int64_t i) {
    if (type == MOE_F32) return load((const moe_real *)p + i);
    narrow h = *(const narrow_unaligned *)((const uint16_t *)p + i);
    return type == MOE_BF16 ? from_bfloat(h) : from_half(h);
}

/* The same for the last n < VL, and zeros. Out of the way: it is needed once per sum at most. */
static __attribute__((noinline)) vec widen_part(int type, const void *p, int64_t i, int64_t n) {
    if (type == MOE_F32) return load_part((const moe_real *)p + i, n, 0);
    narrow h = {0};
    memcpy(&h, (const uint16_t *)p + i, (size_t)n * 2);
    return type == MOE_BF16 ? from_bfloat(h) : from_half(h);
}

/* n elements of type `type` from number i on, VL of them, or fewer and zeros. */
INLINE vec stored(const int type, const void *p, int64_t i, int64_t n) {
    return n < VL ? widen_part(type, p, i, n) : widen(type, p, i);
}
INLINE const void *element(const int type, const void *p, int64_t i) {
    return (const char *)p + i * (type == MOE_F32 ? (int64_t)sizeof(moe_real) : 2);
}

/* Registers for two accumulators per row of x and of W, where there are 32 of them. */
#if VBYTES == 64
#define GROUP 4
#else
#define GROUP 2
#endif

/* ---- y = x W^T ------------------------------------------------------------------------------ */

/* Adds the products of n elements from number i on to accumulator `a`. */
INLINE void add_products(const int type, const int rows, const int streams, const moe_gemv *g,
                         const moe_real *x, const void *w, int64_t step, int64_t i, int64_t n,
                         const int a, vec sum[GROUP][2][2]) {
#pragma GCC unroll 2
    for (int s = 0; s < streams; s++) {
        vec right = stored(type, w, s * step + i, n);
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++)
            sum[r][s][a] += stored(MOE_F32, x + r * g->ldx, i, n) * right;
    }
}

/* Some rows of x times one row of W, or two that lie `apart` rows apart. */
INLINE void dots(const int type, const int rows, const int streams, const moe_gemv *g,
                 const moe_real *x, const void *w, int64_t apart, moe_real *y) {
    vec sum[GROUP][2][2] = {0};
    int64_t i = 0, step = apart * g->ldw;
    for (; i + 2 * VL <= g->k; i += 2 * VL) {
#pragma GCC unroll 2
        for (int s = 0; s < streams; s++)
            __builtin_prefetch((const char *)element(type, w, s * step + i) + AHEAD);
        add_products(type, rows, streams, g, x, w, step, i, VL, 0, sum);
        add_products(type, rows, streams, g, x, w, step, i + VL, VL, 1, sum);
    }
    if (i + VL <= g->k) {
        add_products(type, rows, streams, g, x, w, step, i, VL, 0, sum);
        i += VL;
    }
    if (i < g->k) add_products(type, rows, streams, g, x, w, step, i, g->k - i, 1, sum);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int s = 0; s < streams; s++)
            y[r * g->ldy + s * apart] = lanes_sum(sum[r][s][0] + sum[r][s][1]);
}

INLINE void all_rows(const int type, const int rows, const moe_gemv *g, const moe_real *x,
                     moe_real *y) {
    int64_t half = g->n / 2;
    for (int64_t j = 0; j < half; j++)
        dots(type, rows, 2, g, x, element(type, g->w, j * g->ldw), half, y + j);
    for (int64_t j = 2 * half; j < g->n; j++)
        dots(type, rows, 1, g, x, element(type, g->w, j * g->ldw), 0, y + j);
}

/* ---- y = x W -------------------------------------------------------------------------------- */

/* Two vectors of columns, of which n elements count. */
INLINE void mix(const int type, const int rows, const moe_gemv *g, const moe_real *x,
                const void *w, int64_t n, moe_real *y) {
    vec sum[GROUP][2] = {0};
    int64_t low = n < VL ? n : VL, high = n - low;
    for (int64_t j = 0; j < g->n; j++) {
        vec left = stored(type, w, j * g->ldw, low);
        vec right = high ? stored(type, w, j * g->ldw + VL, high) : (vec){0};
#pragma GCC unroll 4
        for (int r = 0; r < rows; r++) {
            sum[r][0] += x[r * g->ldx + j] * left;
            sum[r][1] += x[r * g->ldx + j] * right;
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
        store_part(y + r * g->ldy, sum[r][0], low);
        store_part(y + r * g->ldy + VL, sum[r][1], high);
    }
}

INLINE void all_columns(const int type, const int rows, const moe_gemv *g, const moe_real *x,
                        moe_real *y) {
    int64_t i = 0;
    for (; i + 2 * VL <= g->k; i += 2 * VL)
        mix(type, rows, g, x, element(type, g->w, i), 2 * VL, y + i);
    if (i < g->k) mix(type, rows, g, x, element(type, g->w, i), g->k - i, y + i);
}

/* ---- all rows of x -------------------------------------------------------------------------- */

#if GROUP == 4
#define BY_ROWS(f, type, rows, ...)                                                                \
    switch (rows) {                                                                                \
        case 1: f(type, 1, __VA_ARGS__); break;                                                    \
        case 2: f(type, 2, __VA_ARGS__); break;                                                    \
        case 3: f(type, 3, __VA_ARGS__); break;                                                    \
        default: f(type, 4, __VA_ARGS__); break;                                                   \
    }
#else
#define BY_ROWS(f, type, rows, ...)                                                                \
    switch (rows) {                                                                                \
        case 1: f(type, 1, __VA_ARGS__); break;                                                    \
        default: f(type, 2, __VA_ARGS__); break;                                                   \
    }
#endif

#define KERNELS(name, f, type)                                                                     \
    void KERNEL(name)(const moe_gemv *g) {                                                         \
        for (int64_t i = 0; i < g->m; i += GROUP)                                                  \
            BY_ROWS(f, type, g->m - i, g, g->x + i * g->ldx, g->y + i * g->ldy)                    \
    }

KERNELS(gemv_f32, all_rows, MOE_F32)
KERNELS(gemv_bf16, all_rows, MOE_BF16)
KERNELS(gemv_f16, all_rows, MOE_F16)
KERNELS(mix_f32, all_columns, MOE_F32)
KERNELS(mix_bf16, all_columns, MOE_BF16)
KERNELS(mix_f16, all_columns, MOE_F16)

/* ---- other types ---------------------------------------------------------------------------- */

#define WIDEN(name, type)                                                                          \
    void KERNEL(name)(int64_t n, const uint16_t *x, moe_real *y) {                                 \
        int64_t i = 0;                                                                             \
        for (; i + VL <= n; i += VL) store(y + i, widen(type, x, i));                              \
        if (i < n) store_part(y + i, widen_part(type, x, i, n - i), n - i);                        \
    }

WIDEN(widen_bf16, MOE_BF16)
WIDEN(widen_f16, MOE_F16)
