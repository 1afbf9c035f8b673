/* bf16_amx.h -- products of bf16 in the tiles of AMX.
 *
 * A tile register holds 16 rows of 64 bytes: 16 x 16 sums, 16 rows of A by 32 of k, or 16 rows of
 * pairs of half a panel. A step of k loads two tiles of A and two of B and makes four products, so
 * that loading is hidden behind multiplying. The configuration says how many rows the tiles have;
 * it is part of the thread's state, so it is given back at the end of each product.
 */
#include <immintrin.h>

enum { SUM = 16, TILE_ROWS = 2 * SUM, PART = 384 };

typedef struct tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t bytes[16];             /* of a row of each tile register */
    uint8_t rows[16];
} tile_config;

/* Some compilers do not know that tiles are loaded from memory: what is stored stands there now. */
INLINE void stored(const void *at) { __asm__ volatile("" : : "r"(at) : "memory"); }

/* C is tiles 0 1 over 2 3, A tiles 4 over 5, B tiles 6 and 7 side by side. */
static void configure(int64_t rows) {
    tile_config config = {.palette = 1};
    uint8_t upper = (uint8_t)(rows < SUM ? rows : SUM), lower = (uint8_t)(rows - upper);
    const uint8_t tall[8] = {upper, upper, lower, lower, upper, lower, SUM, SUM};
    for (int t = 0; t < 8; t++) {
        config.rows[t] = tall[t];
        config.bytes[t] = tall[t] ? 64 : 0;
    }
    stored(&config);
    _tile_loadconfig(&config);
}

/* C [up to 32 rows, 16 or 32 columns] at c (+)= A B; the lower tiles only if there are such rows.
 * Strides count bytes. */
INLINE void sums(const bool lower, const bool beside, int64_t k, const char *a, int64_t lda,
                 const char *b, char *c, int64_t ldc, bool add) {
    stored(c);
    if (add) {
        _tile_loadd(0, c, ldc);
        if (beside) _tile_loadd(1, c + 64, ldc);
        if (lower) _tile_loadd(2, c + SUM * ldc, ldc);
        if (lower && beside) _tile_loadd(3, c + SUM * ldc + 64, ldc);
    } else {
        _tile_zero(0);
        if (beside) _tile_zero(1);
        if (lower) _tile_zero(2);
        if (lower && beside) _tile_zero(3);
    }
    for (int64_t p = 0; p < k; p += 32, a += 64, b += 32 * MOE_PANEL * 2) {
        _tile_loadd(6, b, 128);
        _tile_loadd(4, a, lda);
        _tile_dpbf16ps(0, 4, 6);
        if (beside) {
            _tile_loadd(7, b + 64, 128);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (lower) {
            _tile_loadd(5, a + SUM * lda, lda);
            _tile_dpbf16ps(2, 5, 6);
            if (beside) _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, c, ldc);
    if (beside) _tile_stored(1, c + 64, ldc);
    if (lower) _tile_stored(2, c + SUM * ldc, ldc);
    if (lower && beside) _tile_stored(3, c + SUM * ldc + 64, ldc);
}

/* Up to 32 rows and columns of C, at c; all of k. */
static void tiles(const moe_product *p, int64_t rows, int64_t columns, const char *a,
                  const char *b, float *c, int64_t ldc) {
    int64_t lda = p->lda * 2;
    ldc *= (int64_t)sizeof *c;
    if (columns > SUM && rows > SUM)
        sums(true, true, p->k, a, lda, b, (char *)c, ldc, p->add);
    else if (columns > SUM)
        sums(false, true, p->k, a, lda, b, (char *)c, ldc, p->add);
    else if (rows > SUM)
        sums(true, false, p->k, a, lda, b, (char *)c, ldc, p->add);
    else
        sums(false, false, p->k, a, lda, b, (char *)c, ldc, p->add);
}

/* Those that hang over the last column go through a buffer. */
static void partial_tiles(const moe_product *p, int64_t rows, int64_t columns, const char *a,
                          const char *b, float *c) {
    float buffer[TILE_ROWS * MOE_PANEL];
    size_t bytes = sizeof *c * (size_t)columns;
    memset(buffer, 0, sizeof buffer);
    for (int64_t i = 0; p->add && i < rows; i++)
        memcpy(buffer + i * MOE_PANEL, c + i * p->ldc, bytes);
    tiles(p, rows, columns, a, b, buffer, MOE_PANEL);
    for (int64_t i = 0; i < rows; i++) memcpy(c + i * p->ldc, buffer + i * MOE_PANEL, bytes);
}

/* C over one panel or less; the tiles are configured for blocks of `step` rows. */
static void strip(const moe_product *p, int64_t step) {
    const char *a = p->a;
    for (int64_t i = 0; i < p->m; i += step, a += step * p->lda * 2) {
        float *c = p->c + i * p->ldc;
        if (p->n % SUM)
            partial_tiles(p, step, p->n, a, p->b, c);
        else
            tiles(p, step, p->n, a, p->b, c, p->ldc);
    }
}

/* One panel, a multiple of `step` rows. A part of the panel stays in the first-level cache while
 * the rows pass by; sums wait in C meanwhile, which changes no bit of them. */
static void by_parts(const moe_product *p, int64_t step) {
    int64_t parts = p->k > PART ? (p->k + PART - 1) / PART : 1, first = 0;
    int64_t depth = moe__round_up((p->k + parts - 1) / parts, DEPTH);
    do {
        moe_product part = *p;
        part.k = p->k - first < depth ? p->k - first : depth;
        part.a = (const char *)p->a + first * 2;
        part.b = (const char *)p->b + first * MOE_PANEL * 2;
        part.add = p->add || first > 0;
        strip(&part, step);
        first += depth;
    } while (first < p->k);
}

static void multiply_rows(const moe_product *p, int64_t from, int64_t rows, int64_t step) {
    configure(step);
    for (int64_t j = 0; j < p->n; j += MOE_PANEL) {
        moe_product panel = *p;
        panel.m = rows;
        panel.n = p->n - j < MOE_PANEL ? p->n - j : MOE_PANEL;
        panel.a = (const char *)p->a + from * p->lda * 2;
        panel.b = (const char *)p->b + j / MOE_PANEL * p->panel * 2;
        panel.c = p->c + from * p->ldc + j;
        by_parts(&panel, step);
    }
}

static void multiply(const moe_product *p) {
    int64_t rest = p->m % TILE_ROWS;
    if (p->m > rest) multiply_rows(p, 0, p->m - rest, TILE_ROWS);
    if (rest) multiply_rows(p, p->m - rest, rest, rest);
    _tile_release();
}
