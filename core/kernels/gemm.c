/* gemm.c -- matrix products through OpenBLAS: the only user of cblas.h.
 *
 * OpenBLAS is always called on one thread, from inside a task. How a product is cut into tasks
 * depends on its shape alone, so that the bits do not depend on the number of threads.
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

static void scale_only(const moe_gemm *g) {
    for (int64_t i = 0; i < g->m; i++) {
        moe_real *c = g->c + i * g->ldc;
        if (g->beta == 0)
            memset(c, 0, sizeof *c * (size_t)g->n);
        else
            for (int64_t j = 0; j < g->n; j++) c[j] *= g->beta;
    }
}

void moe__gemm(const moe_gemm *g) {
    if (g->m == 0 || g->n == 0) return;
    if (g->k == 0) {
        scale_only(g);
        return;
    }
    GEMM(CblasRowMajor, g->ta ? CblasTrans : CblasNoTrans, g->tb ? CblasTrans : CblasNoTrans,
         (blasint)g->m, (blasint)g->n, (blasint)g->k, g->alpha, g->a, (blasint)g->lda, g->b,
         (blasint)g->ldb, g->beta, g->c, (blasint)g->ldc);
}

/* Rows and columns of one block of C. Tall products are cut into 256 rows; smaller ones into about
 * eight blocks along the longer side, because two to four threads must find work. */
static void block_size(const moe_gemm *g, int64_t *rows, int64_t *columns) {
    *rows = g->m;
    *columns = g->n;
    double work = 2.0 * (double)g->m * (double)g->n * (double)g->k;
    if (work < 2e6) return;
    int64_t *side = g->m >= g->n ? rows : columns;
    int64_t eighth = (*side / 8 + 15) / 16 * 16;
    *side = eighth < 48 ? 48 : eighth > 256 ? 256 : eighth;
}

typedef struct batch {
    const moe_gemm *list;
    int64_t count, each;        /* each: blocks of every product if they all have equally many */
} batch;

static int64_t blocks_of(const moe_gemm *g) {
    int64_t rows, columns;
    if (g->m == 0 || g->n == 0) return 0;
    block_size(g, &rows, &columns);
    return ((g->m + rows - 1) / rows) * ((g->n + columns - 1) / columns);
}

static void run_block(const moe_gemm *g, int64_t block) {
    int64_t rows, columns;
    block_size(g, &rows, &columns);
    int64_t across = (g->n + columns - 1) / columns;
    int64_t i = block / across * rows, j = block % across * columns;
    moe_gemm part = *g;
    part.m = g->m - i < rows ? g->m - i : rows;
    part.n = g->n - j < columns ? g->n - j : columns;
    part.a += g->ta ? i : i * g->lda;
    part.b += g->tb ? j * g->ldb : j;
    part.c += i * g->ldc + j;
    moe__gemm(&part);
}

static void batch_task(void *arg, int64_t task, int worker) {
    const batch *b = arg;
    (void)worker;
    if (b->each) {
        run_block(&b->list[task / b->each], task % b->each);
        return;
    }
    for (int64_t i = 0; i < b->count; i++) {
        int64_t blocks = blocks_of(&b->list[i]);
        if (task < blocks) {
            run_block(&b->list[i], task);
            return;
        }
        task -= blocks;
    }
}

void moe__gemm_batch(moe_ctx *ctx, int64_t count, const moe_gemm *list) {
    batch b = {.list = list, .count = count, .each = count ? blocks_of(&list[0]) : 0};
    int64_t tasks = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t blocks = blocks_of(&list[i]);
        if (blocks != b.each) b.each = 0;
        tasks += blocks;
    }
    moe__parallel(ctx, tasks, batch_task, &b);
}

void moe__gemm_parallel(moe_ctx *ctx, const moe_gemm *g) { moe__gemm_batch(ctx, 1, g); }
