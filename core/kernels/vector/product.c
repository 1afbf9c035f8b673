/* product.c -- the f32 format of matrix products (see kernels/product.h). */
#include "kernels/vector/operands.h"

#if MOE_THROUGH_BLAS
#define MULTIPLY moe__blas_multiply
#else
#define MULTIPLY multiply
typedef moe_real row_element, panel_element;
#define STEP 1
#define TURNS 1
#include "kernels/vector/tile.h"

INLINE void step(const int rows, const int vectors, const row_element *const group[ROWS / 3],
                 int64_t lda, const panel_element *b, vec sum[ROWS][2]) {
    vec right[2];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) right[v] = load(b + v * VL);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        vec left = splat(group[i / 3][i % 3 * lda]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[i][v] += left * right[v];
    }
}

static void multiply(const moe_product *p) {
    multiply_tiles(&(tiling){.p = p, .rows = p->a, .lda = p->lda, .panels = p->b,
                             .panel = p->panel, .steps = p->k});
}
#endif

/* ---- operands ------------------------------------------------------------------------------- */

/* Rows are short as a rule: a call of memcpy would take longer than the copy. */
INLINE void copy(int64_t n, const moe_real *from, moe_real *to) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(to + i, load(from + i));
    if (i < n) store_part(to + i, load_part(from + i, n - i, 0), n - i);
}

static void left(int64_t m, int64_t k, const moe_real *from, int64_t ld, const int32_t *index,
                 const moe_real *scale, void *to, int64_t ldto) {
    const source s = {m, k, from, ld, index, scale};
    for (int64_t i = 0; i < m; i++) {
        moe_real *at = (moe_real *)to + i * ldto;
        if (scale)
            KERNEL(scale)(k, scale[i], row(&s, i), at);
        else
            copy(k, row(&s, i), at);
    }
}

/* to[j][i] = element i, j of s for j < s->n; a row of `to` has `width` elements, of which those
 * from s->m on become 0. */
static void transpose_all(const source *s, int64_t width, moe_real *to, int64_t ldto) {
    block_copy copy;
    for (int64_t i = 0; i < width; i += VL)
        for (int64_t j = 0; j < s->n; j += VL) {
            block from = block_at(s, i, j, VL, VL, copy);
            vec turned[VL];
#pragma GCC unroll 16
            for (int r = 0; r < VL; r++) turned[r] = load(from.at + r * from.ld);
            transpose(turned);
            put(turned, s->n - j, width - i, to + j * ldto + i, ldto);
        }
}

static void left_transposed(int64_t m, int64_t k, const moe_real *from, int64_t ld,
                            const int32_t *index, const moe_real *scale, void *to, int64_t ldto) {
    transpose_all(&(source){k, m, from, ld, index, scale}, k, to, ldto);
}

static void right(int64_t k, int64_t n, const moe_real *from, int64_t ld, const int32_t *index,
                  void *to) {
    const source s = {k, n, from, ld, index, NULL};
    moe_real *panel = to;
    for (int64_t j = 0; j < n; j += MOE_PANEL, panel += k * MOE_PANEL) {
        bool whole = n - j >= MOE_PANEL;
        for (int64_t p = 0; p < k; p++)
            for (int64_t h = 0; h < MOE_PANEL; h += VL)
                store(panel + p * MOE_PANEL + h, whole ? load(row(&s, p) + j + h)
                                                       : take(&s, p, j + h));
    }
}

static void right_transposed(int64_t k, int64_t n, const moe_real *from, int64_t ld, void *to) {
    moe_real *panel = to;
    for (int64_t j = 0; j < n; j += MOE_PANEL, panel += k * MOE_PANEL)
        transpose_all(&(source){n - j, k, from + j * ld, ld, NULL, NULL}, MOE_PANEL, panel,
                      MOE_PANEL);
}

const moe_format KERNEL(f32) = {
    .name = KERNEL_TEXT(MOE_ISA), .element = sizeof(moe_real), .depth = 1, .rows = 1,
    .direct = true, .left = left, .left_transposed = left_transposed, .right = right,
    .right_transposed = right_transposed, .multiply = MULTIPLY};
