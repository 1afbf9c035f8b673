/* blas.c -- f32 products through OpenBLAS, for processors that have no kernels of their own here:
 * the only user of cblas.h.
 *
 * The operands are those of the format; a panel is an ordinary matrix of 32 columns. OpenBLAS is
 * called on one thread, from inside a task.
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

static void clear(const moe_product *p) {
    for (int64_t i = 0; i < p->m; i++) memset(p->c + i * p->ldc, 0, sizeof *p->c * (size_t)p->n);
}

void moe__blas_multiply(const moe_product *p) {
    const moe_real *panel = p->b;
    if (p->k == 0 && !p->add) clear(p);
    if (p->m == 0 || p->k == 0) return;
    for (int64_t j = 0; j < p->n; j += MOE_PANEL, panel += p->panel) {
        int64_t n = p->n - j < MOE_PANEL ? p->n - j : MOE_PANEL;
        GEMM(CblasRowMajor, p->turned ? CblasTrans : CblasNoTrans, CblasNoTrans, (blasint)p->m,
             (blasint)n, (blasint)p->k, 1, p->a, (blasint)p->lda, panel, MOE_PANEL, p->add ? 1 : 0,
             p->c + j, (blasint)p->ldc);
    }
}
