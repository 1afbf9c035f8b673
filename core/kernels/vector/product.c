/* product.c -- the f32 format of matrix products (see kernels/product.h).
 *
 * A register tile is ROWS x 2 vectors of C: as many accumulators as leave registers for two vectors
 * of B and one broadcast element of A. The rows of C are cut evenly, 13 into 7 and 6, because a
 * tile of one row waits for each sum.
 */
#include "kernels/product.h"
#include "kernels/vector/vec.h"

#if VBYTES == 64
#define ROWS 12
#else
#define ROWS 6
#endif
#define WIDTH (2 * VL)          /* columns of a tile; a panel holds one to four of them */

/* C[rows x width] at c (+)= A B for constant sizes, so that the accumulators are registers. */
INLINE void tile(const int rows, const int vectors, int64_t k, const moe_real *a, int64_t lda,
                 const moe_real *b, moe_real *c, int64_t ldc, bool add) {
    vec sum[ROWS][2];
    const moe_real *group[ROWS / 3];        /* every third row: fewer pointers, same addresses */
#pragma GCC unroll 12
    for (int i = 0; i < ROWS / 3; i++) group[i] = a + (3 * i < rows ? 3 * i : 0) * lda;
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[i][v] = (vec){0};
    for (int64_t p = 0; p < k; p++, b += MOE_PANEL) {
        vec right[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) right[v] = load(b + v * VL);
#pragma GCC unroll 12
        for (int i = 0; i < rows; i++) {
            vec left = splat(group[i / 3][i % 3 * lda + p]);
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++) sum[i][v] += left * right[v];
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) {
            moe_real *to = c + i * ldc + v * VL;
            store(to, add ? load(to) + sum[i][v] : sum[i][v]);
        }
}

typedef void tile_fn(int64_t k, const moe_real *a, int64_t lda, const moe_real *b, moe_real *c,
                     int64_t ldc, bool add);

#define TILE(rows, vectors)                                                                        \
    static void tile_##rows##_##vectors(int64_t k, const moe_real *a, int64_t lda,                 \
                                        const moe_real *b, moe_real *c, int64_t ldc, bool add) {   \
        tile(rows, vectors, k, a, lda, b, c, ldc, add);                                            \
    }
#define TILES(rows) TILE(rows, 1) TILE(rows, 2)
TILES(1) TILES(2) TILES(3) TILES(4) TILES(5) TILES(6)
#if ROWS == 12
TILES(7) TILES(8) TILES(9) TILES(10) TILES(11) TILES(12)
#endif

#define PAIR(rows) {tile_##rows##_1, tile_##rows##_2}
static tile_fn *const tiles[ROWS][2] = {
    PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5), PAIR(6),
#if ROWS == 12
    PAIR(7), PAIR(8), PAIR(9), PAIR(10), PAIR(11), PAIR(12),
#endif
};

/* A tile that hangs over the last column goes through a buffer. */
static void partial_tile(const moe_product *p, int64_t rows, int64_t columns, const moe_real *a,
                         const moe_real *b, moe_real *c) {
    moe_real buffer[ROWS * WIDTH];
    tiles[rows - 1][columns > VL](p->k, a, p->lda, b, buffer, WIDTH, false);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            moe_real *to = c + i * p->ldc + j;
            *to = p->add ? *to + buffer[i * WIDTH + j] : buffer[i * WIDTH + j];
        }
}

/* All rows of C over one tile's columns. */
static void strip(const moe_product *p, int64_t first, const moe_real *b) {
    int64_t columns = p->n - first < WIDTH ? p->n - first : WIDTH;
    int64_t groups = (p->m + ROWS - 1) / ROWS, begin = 0;
    for (int64_t g = 0; g < groups; g++) {
        int64_t end = p->m * (g + 1) / groups, rows = end - begin;
        const moe_real *a = (const moe_real *)p->a + begin * p->lda;
        moe_real *c = p->c + begin * p->ldc + first;
        if (columns == WIDTH)
            tiles[rows - 1][1](p->k, a, p->lda, b, c, p->ldc, p->add);
        else
            partial_tile(p, rows, columns, a, b, c);
        begin = end;
    }
}

static void multiply(const moe_product *p) {
    const moe_real *b = p->b;
    for (int64_t j = 0; j < p->n; j += WIDTH)
        strip(p, j, b + j / MOE_PANEL * p->panel + j % MOE_PANEL);
}

/* ---- operands ------------------------------------------------------------------------------- */

static void left(int64_t m, int64_t k, const moe_real *from, int64_t ld, const int32_t *index,
                 const moe_real *scale, void *to, int64_t ldto) {
    moe_real *rows = to;
    for (int64_t i = 0; i < m; i++) {
        const moe_real *row = from + (index ? index[i] : i) * ld;
        if (scale)
            KERNEL(scale)(k, scale[i], row, rows + i * ldto);
        else
            memcpy(rows + i * ldto, row, sizeof *row * (size_t)k);
    }
}

static void left_transposed(int64_t m, int64_t k, const moe_real *from, int64_t ld,
                            const int32_t *index, const moe_real *scale, void *to, int64_t ldto) {
    moe_real *rows = to;
    for (int64_t p = 0; p < k; p++) {
        const moe_real *column = from + (index ? index[p] : p) * ld;
        moe_real s = scale ? scale[p] : 1;
        for (int64_t i = 0; i < m; i++) rows[i * ldto + p] = s * column[i];
    }
}

static void right(int64_t k, int64_t n, const moe_real *from, int64_t ld, const int32_t *index,
                  void *to) {
    moe_real *panel = to;
    for (int64_t j = 0; j < n; j += MOE_PANEL, panel += k * MOE_PANEL) {
        size_t columns = (size_t)(n - j < MOE_PANEL ? n - j : MOE_PANEL);
        for (int64_t p = 0; p < k; p++) {
            moe_real *row = panel + p * MOE_PANEL;
            memcpy(row, from + (index ? index[p] : p) * ld + j, sizeof *row * columns);
            memset(row + columns, 0, sizeof *row * (MOE_PANEL - columns));
        }
    }
}

static void right_transposed(int64_t k, int64_t n, const moe_real *from, int64_t ld, void *to) {
    moe_real *panel = to;
    for (int64_t j = 0; j < n; j += MOE_PANEL, panel += k * MOE_PANEL) {
        int64_t columns = n - j < MOE_PANEL ? n - j : MOE_PANEL;
        for (int64_t p = 0; p < k; p++)
            for (int64_t i = 0; i < MOE_PANEL; i++)
                panel[p * MOE_PANEL + i] = i < columns ? from[(j + i) * ld + p] : 0;
    }
}

const moe_format KERNEL(f32) = {
    .name = KERNEL_TEXT(MOE_ISA), .element = sizeof(moe_real), .depth = 1, .rows = 1,
    .direct = true, .left = left, .left_transposed = left_transposed, .right = right,
    .right_transposed = right_transposed, .multiply = multiply};
