/* bf16_wide.h -- products of bf16 on processors without instructions for it.
 *
 * A panel is widened in the registers, where a pair serves all rows of a tile. Rows of A would be
 * widened for every panel again: so a block of them, of both m and k, is widened beforehand.
 */
typedef float row_element;
typedef uint32_t panel_element;
#define STEP 2
#define TURNS 0
#include "kernels/vector/tile.h"

enum { WIDE_ROWS = 4 * ROWS, WIDE_DEPTH = 256 };

INLINE void step(const int rows, const int vectors, const row_element *const group[ROWS / 3],
                 int64_t lda, const panel_element *b, vec sum[ROWS][2]) {
#pragma GCC unroll 2
    for (int second = 0; second < 2; second++) {
        vec right[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            pairs p = load_pairs(b + v * VL);
            right[v] = second ? second_of(p) : first_of(p);
        }
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            vec left = splat(group[i / 3][i % 3 * lda + second]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[i][v] += left * right[v];
        }
    }
}

/* Both [m x k]; whole pairs and whole vectors of them, which rows of A are filled up to. */
static void widen(int64_t m, int64_t k, const uint32_t *from, int64_t ld, float *to) {
    for (int64_t i = 0; i < m; i++, from += ld, to += WIDE_DEPTH)
        for (int64_t p = 0; 2 * p < k; p += VL) {
            vec first = first_of(load_pairs(from + p)), second = second_of(load_pairs(from + p));
            store(to + 2 * p, __builtin_shufflevector(first, second, LOW));
            store(to + 2 * p + VL, __builtin_shufflevector(first, second, HIGH));
        }
}

/* The rows i.. of C, k from `first` on. */
static void multiply_block(const moe_product *p, int64_t i, int64_t first) {
    float wide[WIDE_ROWS * WIDE_DEPTH];
    moe_product part = *p;
    part.m = p->m - i < WIDE_ROWS ? p->m - i : WIDE_ROWS;
    part.k = p->k - first < WIDE_DEPTH ? p->k - first : WIDE_DEPTH;
    part.c = p->c + i * p->ldc;
    part.add = p->add || first > 0;
    widen(part.m, part.k, (const uint32_t *)p->a + i * (p->lda / 2) + first / 2, p->lda / 2, wide);
    multiply_tiles(&(tiling){.p = &part, .rows = wide, .lda = WIDE_DEPTH,
                             .panels = (const uint32_t *)p->b + first / 2 * MOE_PANEL,
                             .panel = p->panel / 2, .steps = (part.k + 1) / 2});
}

static void multiply(const moe_product *p) {
    for (int64_t i = 0; i < p->m; i += WIDE_ROWS)
        for (int64_t first = 0; first < p->k || first == 0; first += WIDE_DEPTH)
            multiply_block(p, i, first);
}
