/* tile.h -- C cut into register tiles, the same for all kinds of elements.
 *
 * A register tile is ROWS x 2 vectors of C: as many sums as leave registers for two vectors of B
 * and one broadcast element of A. The rows of C are cut evenly, 13 into 7 and 6, because a tile of
 * one row waits for each sum. Panels outside, rows inside: the part of a panel that a tile needs
 * stays in the first-level cache while the rows pass by. Meanwhile the next panel is fetched, line
 * by line: otherwise the first rows of every panel wait for it.
 *
 * Whoever includes this has said before
 *
 *   row_element, panel_element     the types of elements of A and of a panel
 *   STEP                           elements of a row that one step of the sum takes; of a panel it
 *                                  takes MOE_PANEL
 *   TURNS                          1 if A may lie turned, with STEP 1; otherwise 0
 *
 * and defines `step` afterwards.
 */
#include "kernels/vector/vec.h"

#if VBYTES == 64
#define ROWS 12
#else
#define ROWS 6
#endif
#define WIDTH (2 * VL)          /* columns of a tile; a panel holds one to four of them */
#define AHEAD 8                 /* row tiles that fetch the next panel together */

/* Adds one step to the sums of a tile. Row i begins at group[i / 3] + i % 3 * lda: fewer pointers
 * than rows, the same addresses. */
INLINE void step(const int rows, const int vectors, const row_element *const group[ROWS / 3],
                 int64_t lda, const panel_element *b, vec sum[ROWS][2]);

INLINE void advance(int64_t by, const row_element *group[ROWS / 3], const panel_element **b) {
#pragma GCC unroll 12
    for (int i = 0; i < ROWS / 3; i++) group[i] += by;
    *b += MOE_PANEL;
}

/* C[rows x 2 vectors] at c (+)= A B for constant sizes, so that the sums are registers. The
 * second-level cache gets an eighth of a panel from `ahead` on. */
INLINE void tile(const int rows, const int vectors, const bool turned, int64_t steps,
                 const row_element *a, int64_t lda, const panel_element *b, moe_real *c,
                 int64_t ldc, bool add, const panel_element *ahead) {
    const int64_t next_row = turned ? 1 : lda, next_step = turned ? lda : STEP;
    const int unroll = VBYTES < 64 ? 1 : rows > 8 ? 2 : 4;     /* more would spill sums */
    vec sum[ROWS][2];
    const row_element *group[ROWS / 3];
#pragma GCC unroll 12
    for (int i = 0; i < ROWS / 3; i++) group[i] = a + (3 * i < rows ? 3 * i : 0) * next_row;
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++) sum[i][v] = (vec){0};
    for (; steps % unroll; steps--) {
        step(rows, vectors, group, next_row, b, sum);
        advance(next_step, group, &b);
    }
    for (; steps > 0; steps -= unroll, ahead += unroll * MOE_PANEL / AHEAD) {
        __builtin_prefetch(ahead, 0, 2);
#pragma GCC unroll 4
        for (int u = 0; u < unroll; u++) {
            step(rows, vectors, group, next_row, b, sum);
            advance(next_step, group, &b);
        }
    }
#pragma GCC unroll 12
    for (int i = 0; i < rows; i++, c += ldc)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            store(c + v * VL, add ? load(c + v * VL) + sum[i][v] : sum[i][v]);
}

typedef void tile_fn(int64_t steps, const row_element *a, int64_t lda, const panel_element *b,
                     moe_real *c, int64_t ldc, bool add, const panel_element *ahead);

#define TILE(rows, vectors, name, turned)                                                          \
    static void name##_##rows##_##vectors(int64_t steps, const row_element *a, int64_t lda,        \
                                          const panel_element *b, moe_real *c, int64_t ldc,        \
                                          bool add, const panel_element *ahead) {                  \
        tile(rows, vectors, turned, steps, a, lda, b, c, ldc, add, ahead);                         \
    }
#define TILES(rows, name, turned) TILE(rows, 1, name, turned) TILE(rows, 2, name, turned)
#define BOTH(rows, name, turned) {name##_##rows##_1, name##_##rows##_2},
#define FEW(X, ...) X(1, __VA_ARGS__) X(2, __VA_ARGS__) X(3, __VA_ARGS__) X(4, __VA_ARGS__) \
    X(5, __VA_ARGS__) X(6, __VA_ARGS__)
#if ROWS == 12
#define ALL(X, ...) FEW(X, __VA_ARGS__) X(7, __VA_ARGS__) X(8, __VA_ARGS__) X(9, __VA_ARGS__) \
    X(10, __VA_ARGS__) X(11, __VA_ARGS__) X(12, __VA_ARGS__)
#else
#define ALL FEW
#endif

ALL(TILES, tile, false)
#if TURNS
ALL(TILES, turned_tile, true)
#endif

static tile_fn *const tiles[1 + TURNS][ROWS][2] = {
    {ALL(BOTH, tile, false)},
#if TURNS
    {ALL(BOTH, turned_tile, true)},
#endif
};

/* What the tiles of a product share; `rows` and `panels` are its operands. */
typedef struct tiling {
    const moe_product *p;
    const row_element *rows;
    const panel_element *panels;
    int64_t lda, panel, steps;      /* elements between rows and between panels; steps of the sum */
} tiling;

/* A tile that hangs over the last column goes through a buffer. */
static void partial_tile(const tiling *t, int64_t rows, int64_t columns, const row_element *a,
                         const panel_element *b, moe_real *c) {
    moe_real buffer[ROWS * WIDTH];
    tiles[t->p->turned][rows - 1][columns > VL](t->steps, a, t->lda, b, buffer, WIDTH, false, b);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) {
            moe_real *to = c + i * t->p->ldc + j;
            *to = t->p->add ? *to + buffer[i * WIDTH + j] : buffer[i * WIDTH + j];
        }
}

/* All rows of C over one tile's columns. */
static void strip(const tiling *t, int64_t first, const panel_element *b) {
    const moe_product *p = t->p;
    const panel_element *ahead = t->panels + (first / MOE_PANEL + 1) * t->panel;
    int64_t columns = p->n - first < WIDTH ? p->n - first : WIDTH;
    int64_t groups = (p->m + ROWS - 1) / ROWS, begin = 0;
    for (int64_t g = 0; g < groups; g++) {
        int64_t end = p->m * (g + 1) / groups, rows = end - begin;
        const row_element *a = t->rows + begin * (p->turned ? 1 : t->lda);
        moe_real *c = p->c + begin * p->ldc + first;
        if (columns == WIDTH)
            tiles[p->turned][rows - 1][1](t->steps, a, t->lda, b, c, p->ldc, p->add,
                                          ahead + g % AHEAD * t->steps * MOE_PANEL / AHEAD);
        else
            partial_tile(t, rows, columns, a, b, c);
        begin = end;
    }
}

static void multiply_tiles(const tiling *t) {
    for (int64_t j = 0; j < t->p->n; j += WIDTH)
        strip(t, j, t->panels + j / MOE_PANEL * t->panel + j % MOE_PANEL);
}
