/* bf16_dot.h -- products of bf16 in register tiles, pair by pair (AVX512_BF16). */
#include <immintrin.h>

typedef uint32_t row_element, panel_element;
#define STEP 1
#define TURNS 0
#include "kernels/vector/tile.h"

INLINE void step(const int rows, const int vectors, const row_element *const group[ROWS / 3],
                 int64_t lda, const panel_element *b, vec sum[ROWS][2]) {
    __m512bh right[2];
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) right[v] = (__m512bh)load_pairs(b + v * VL);
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++) {
        __m512bh left = (__m512bh)_mm512_set1_epi32((int)group[i / 3][i % 3 * lda]);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[i][v] = (vec)_mm512_dpbf16_ps((__m512)sum[i][v], left, right[v]);
    }
}

static void multiply(const moe_product *p) {
    multiply_tiles(&(tiling){.p = p, .rows = p->a, .lda = p->lda / 2, .panels = p->b,
                             .panel = p->panel / 2, .steps = (p->k + 1) / 2});
}
