#include "tape/optimizer.h"

#include <string.h>

#define GRAIN (1 << 15)

double moe__sum_of_squares(moe_tensor *t) {
    const moe_real *x = moe__real(t);
    double sum = 0;
    for (int64_t i = 0; i < t->count; i += GRAIN) {
        int64_t n = t->count - i < GRAIN ? t->count - i : GRAIN;
        sum += (double)t->ctx->kernels->dot(n, x + i, x + i);
    }
    return sum;
}

typedef struct step {
    const moe_kernels *kernels;
    const moe_adamw_args *args;
    const moe_real *g;
    moe_real *w, *m, *v;
} step;

static void step_range(void *arg, int64_t begin, int64_t end) {
    const step *s = arg;
    s->kernels->adamw(end - begin, s->args, s->g + begin, s->w + begin, s->m + begin,
                      s->v + begin);
}

static bool usable(const moe_tensor *t, const moe_tensor *w) {
    return t->dtype == MOE_F32 && t->ndim == w->ndim && moe_tensor_contiguous(t) &&
           memcmp(t->shape, w->shape, sizeof *t->shape * (size_t)t->ndim) == 0;
}

moe_status moe__adamw_step(moe_tensor *w, moe_tensor *m, moe_tensor *v,
                           const moe_adamw_args *args) {
    moe_ctx *ctx = w->ctx;
    if (!w->grad) return moe__fail(ctx, MOE_EARG, "adamw: the parameter %s has no gradient",
                                   MOE_SHAPE(w));
    if (!usable(w, w) || !usable(m, w) || !usable(v, w))
        return moe__fail(ctx, MOE_ESHAPE, "adamw: parameter and moments differ: %s, %s and %s",
                         MOE_SHAPE(w), MOE_SHAPE(m), MOE_SHAPE(v));
    if (w->storage->mapping || m->storage->mapping || v->storage->mapping)
        return moe__fail(ctx, MOE_EARG, "adamw: %s %s is mapped from a file\n"
                         "hint: train a copy: x:clone()",
                         w->storage->mapping ? "the parameter" : "a moment", MOE_SHAPE(w));
    step s = {.kernels = ctx->kernels, .args = args, .g = moe__real(w->grad), .w = moe__real(w),
              .m = moe__real(m), .v = moe__real(v)};
    moe__parallel_range(ctx, w->count, GRAIN, step_range, &s);
    w->storage->version++;
    if (moe_interrupted(ctx)) return moe__fail(ctx, MOE_EINTR, "interrupted!");
    return MOE_OK;
}
