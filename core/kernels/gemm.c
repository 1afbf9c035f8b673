/* gemm.c -- matrix products of any layout, cut into tasks; the only user of cblas.h.
 *
 * First region: op(B) becomes panels, in pieces of a few panels, unless they are given. Second: a
 * task owns a block of C, prepares its rows of op(A) in its own scratch, k in steps that fit the
 * cache, and multiplies. OpenBLAS serves processors that have neither AVX2 nor AVX-512; it is
 * always called on one thread, from inside a task. How a product is cut depends on its shape alone,
 * so that the bits do not depend on the number of threads.
 */
#include <cblas.h>
#include <string.h>

#include "base/ctx.h"
#include "kernels/kernels.h"

#if MOE_REAL_IS_DOUBLE
#define GEMM cblas_dgemm
#else
#define GEMM cblas_sgemm
#endif

enum {
    BLOCK_ROWS = 96,        /* of C in a task: eight register tiles */
    BLOCK_DEPTH = 768,      /* of k at a time: the rows of A stay in the second-level cache */
    TASKS = 8               /* a product is cut into that many tasks if it has the columns */
};

void moe__gemm(const moe_gemm *g) {
    if (g->m == 0 || g->n == 0) return;
    if (g->k == 0) {
        for (int64_t i = 0; g->beta == 0 && i < g->m; i++)
            memset(g->c + i * g->ldc, 0, sizeof *g->c * (size_t)g->n);
        return;
    }
    GEMM(CblasRowMajor, g->ta ? CblasTrans : CblasNoTrans, g->tb ? CblasTrans : CblasNoTrans,
         (blasint)g->m, (blasint)g->n, (blasint)g->k, g->alpha, g->a, (blasint)g->lda, g->b,
         (blasint)g->ldb, g->beta, g->c, (blasint)g->ldc);
}

/* ---- shapes --------------------------------------------------------------------------------- */

static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* How a product is cut: blocks of rows times chunks of whole panels. */
typedef struct cut {
    int64_t rows, columns;          /* of a block of C */
    int64_t across, blocks;         /* chunks side by side, blocks in all */
} cut;

static cut cut_of(const moe_gemm *g) {
    cut c = {.rows = minimum(g->m, BLOCK_ROWS)};
    if (g->m == 0 || g->n == 0) return c;
    int64_t down = pieces(g->m, c.rows), panels = pieces(g->n, MOE_PANEL);
    int64_t each = pieces(panels, minimum(panels, pieces(TASKS, down)));
    c.columns = each * MOE_PANEL;
    c.across = pieces(g->n, c.columns);
    c.blocks = down * c.across;
    return c;
}

typedef struct batch {
    moe_ctx *ctx;
    const moe_gemm *list;
    int64_t count;
    moe_scratch scratch;
    char *shared;               /* panels of all B that were not given, one after the other */
} batch;

static const moe_format *format_of(const batch *b, const moe_gemm *g) {
    return g->format ? g->format : b->ctx->kernels->f32;
}

static size_t panels_bytes(const batch *b, const moe_gemm *g) {
    const moe_format *f = format_of(b, g);
    if (g->panels || g->m == 0) return 0;
    return (f->element * (size_t)moe__right_size(f, g->k, g->n) + 63) & ~(size_t)63;
}

static bool needs_rows(const moe_format *f, const moe_gemm *g) {
    return !f->direct || g->ta || g->alpha != 1;
}

static size_t rows_bytes(const batch *b, const moe_gemm *g) {
    const moe_format *f = format_of(b, g);
    if (!needs_rows(f, g)) return 0;
    int64_t size = moe__left_size(f, minimum(g->m, BLOCK_ROWS), minimum(g->k, BLOCK_DEPTH));
    return f->element * (size_t)size + sizeof(moe_real) * BLOCK_DEPTH;
}

static moe_status reserve(batch *b) {
    size_t shared = 0, each = 0;
    for (int64_t i = 0; i < b->count; i++) {
        size_t rows = rows_bytes(b, &b->list[i]);
        shared += panels_bytes(b, &b->list[i]);
        each = rows > each ? rows : each;
    }
    moe_status s = moe__scratch(b->ctx, each, &b->scratch);
    return s ? s : moe__shared(b->ctx, shared, &b->shared);
}

moe_status moe__gemm_reserve(moe_ctx *ctx, int64_t count, const moe_gemm *list) {
    return reserve(&(batch){.ctx = ctx, .list = list, .count = count});
}

/* ---- the panels of B ------------------------------------------------------------------------ */

enum { PACK_ROWS = 1024, PACK_COLUMNS = 4 * MOE_PANEL };       /* of B in a piece */

int64_t moe__pack_pieces(int64_t k, int64_t n) {
    return pieces(k, PACK_ROWS) * pieces(n, PACK_COLUMNS);
}

void moe__pack_piece(const moe_format *f, bool transposed, int64_t k, int64_t n,
                     const moe_real *from, int64_t ld, void *panels, int64_t piece) {
    int64_t down = pieces(k, PACK_ROWS);
    int64_t i = piece % down * PACK_ROWS, rows = minimum(k - i, PACK_ROWS);
    int64_t j = piece / down * PACK_COLUMNS, end = minimum(n, j + PACK_COLUMNS);
    for (; j < end; j += MOE_PANEL) {
        int64_t at = j / MOE_PANEL * moe__panel(f, k) + i * MOE_PANEL;
        int64_t columns = minimum(end - j, MOE_PANEL);
        void *to = (char *)panels + f->element * (size_t)at;
        if (transposed)
            f->right_transposed(rows, columns, from + j * ld + i, ld, to);
        else
            f->right(rows, columns, from + i * ld + j, ld, NULL, to);
    }
}

static int64_t pack_tasks(const moe_gemm *g) {
    return g->panels || g->m == 0 ? 0 : moe__pack_pieces(g->k, g->n);
}

static void pack_task(void *arg, int64_t task, int worker) {
    const batch *b = arg;
    char *panels = b->shared;
    (void)worker;
    for (const moe_gemm *g = b->list; g < b->list + b->count; g++) {
        if (task < pack_tasks(g)) {
            moe__pack_piece(format_of(b, g), g->tb, g->k, g->n, g->b, g->ldb, panels, task);
            return;
        }
        task -= pack_tasks(g);
        panels += panels_bytes(b, g);
    }
}

/* ---- the blocks of C ------------------------------------------------------------------------ */

/* The rows i.. of op(A), k elements from `first` on, as the format holds them. */
static void prepare(const moe_format *f, const moe_gemm *g, int64_t i, int64_t first,
                    moe_product *p, char *scratch) {
    const moe_real *a = g->ta ? g->a + first * g->lda + i : g->a + i * g->lda + first;
    p->a = a;
    p->lda = g->lda;
    if (!needs_rows(f, g)) return;
    p->a = scratch;
    p->lda = moe__depth(f, p->k);
    moe_real *scale = (void *)(scratch + f->element * (size_t)moe__left_size(f, p->m, p->k));
    int64_t scales = g->ta ? p->k : p->m;
    for (int64_t s = 0; g->alpha != 1 && s < scales; s++) scale[s] = g->alpha;
    (g->ta ? f->left_transposed : f->left)(p->m, p->k, a, g->lda, NULL,
                                           g->alpha != 1 ? scale : NULL, scratch, p->lda);
}

static void multiply_block(const batch *b, const moe_gemm *g, const char *panels, int64_t block,
                           char *scratch) {
    const moe_format *f = format_of(b, g);
    cut c = cut_of(g);
    int64_t i = block / c.across * c.rows, j = block % c.across * c.columns;
    moe_product p = {.m = minimum(g->m - i, c.rows), .n = minimum(g->n - j, c.columns),
                     .panel = moe__panel(f, g->k), .c = g->c + i * g->ldc + j, .ldc = g->ldc,
                     .add = g->beta != 0};
    panels += f->element * (size_t)moe__right_size(f, g->k, j);
    for (int64_t first = 0; first < g->k || first == 0; first += BLOCK_DEPTH, p.add = true) {
        p.k = minimum(g->k - first, BLOCK_DEPTH);
        p.b = panels + f->element * (size_t)(first * MOE_PANEL);
        prepare(f, g, i, first, &p, scratch);
        f->multiply(&p);
    }
}

static void multiply_task(void *arg, int64_t task, int worker) {
    const batch *b = arg;
    const char *panels = b->shared;
    for (const moe_gemm *g = b->list; g < b->list + b->count; g++) {
        int64_t blocks = cut_of(g).blocks;
        if (task < blocks) {
            multiply_block(b, g, g->panels ? g->panels : panels, task,
                           (char *)moe__scratch_of(&b->scratch, worker));
            return;
        }
        task -= blocks;
        panels += panels_bytes(b, g);
    }
}

moe_status moe__gemm_batch(moe_ctx *ctx, int64_t count, const moe_gemm *list) {
    batch b = {.ctx = ctx, .list = list, .count = count};
    int64_t packs = 0, blocks = 0;
    moe_status s = reserve(&b);
    if (s) return s;
    for (int64_t i = 0; i < count; i++) {
        packs += pack_tasks(&list[i]);
        blocks += cut_of(&list[i]).blocks;
    }
    moe__parallel(ctx, packs, pack_task, &b);
    moe__parallel(ctx, blocks, multiply_task, &b);
    return MOE_OK;
}

moe_status moe__gemm_parallel(moe_ctx *ctx, const moe_gemm *g) {
    return moe__gemm_batch(ctx, 1, g);
}
