#include "tape/optimizer.h"

#include <math.h>
#include <string.h>

#define PIECE ((int64_t)1 << 15)

/* ---- pieces of all parameters that have a gradient ------------------------------------------- */

typedef struct pieces {
    const moe_kernels *kernels;
    int64_t n, count;
    const moe_param *list;
    const moe_adamw_args *args;
    moe_real factor;
    double *sum;                /* one per piece */
} pieces;

static pieces cut(moe_ctx *ctx, int64_t n, moe_param *list) {
    pieces p = {.kernels = ctx->kernels, .n = n, .list = list};
    for (int64_t i = 0; i < n; i++) {
        list[i].first = p.count;
        if (list[i].w->grad) p.count += (list[i].w->count + PIECE - 1) / PIECE;
    }
    return p;
}

/* Those without a gradient or without elements have the same `first` as the one behind them. */
static const moe_param *owner(const pieces *p, int64_t piece) {
    int64_t low = 0, high = p->n;       /* list[low].first <= piece < list[high].first */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (p->list[middle].first <= piece) low = middle;
        else high = middle;
    }
    return &p->list[low];
}

/* Where a piece begins in its parameter, and its length. */
static int64_t place(const moe_param *param, int64_t piece, int64_t *size) {
    int64_t begin = (piece - param->first) * PIECE, rest = param->w->count - begin;
    *size = rest < PIECE ? rest : PIECE;
    return begin;
}

/* ---- gradients ------------------------------------------------------------------------------ */

static void sum_piece(void *arg, int64_t piece, int worker) {
    const pieces *p = arg;
    const moe_param *param = owner(p, piece);
    int64_t size, begin = place(param, piece, &size);
    const moe_real *g = moe__real(param->w->grad) + begin;
    (void)worker;
    p->sum[piece] = (double)p->kernels->dot(size, g, g);
}

moe_status moe__grad_norm(moe_ctx *ctx, int64_t n, moe_param *list, double *norm) {
    pieces p = cut(ctx, n, list);
    size_t bytes = (size_t)p.count * sizeof *p.sum;
    p.sum = moe__alloc(ctx, bytes);
    if (!p.sum) return moe__no_memory(ctx, bytes, "the norm of gradients");
    moe__parallel(ctx, p.count, sum_piece, &p);
    double total = 0;
    for (int64_t i = 0; i < p.count; i++) total += p.sum[i];
    *norm = sqrt(total);
    moe__free(ctx, p.sum, bytes);
    return moe_interrupted(ctx) ? moe__fail(ctx, MOE_EINTR, "interrupted!") : MOE_OK;
}

static void scale_piece(void *arg, int64_t piece, int worker) {
    const pieces *p = arg;
    const moe_param *param = owner(p, piece);
    int64_t size, begin = place(param, piece, &size);
    moe_real *g = moe__real(param->w->grad) + begin;
    (void)worker;
    p->kernels->scale(size, p->factor, g, g);
}

void moe__grad_scale(moe_ctx *ctx, int64_t n, moe_param *list, moe_real factor) {
    pieces p = cut(ctx, n, list);
    p.factor = factor;
    ctx->shields++;
    moe__parallel(ctx, p.count, scale_piece, &p);
    ctx->shields--;
    for (int64_t i = 0; i < n; i++)
        if (list[i].w->grad) list[i].w->grad->storage->version++;
}

/* ---- AdamW ---------------------------------------------------------------------------------- */

static void step_piece(void *arg, int64_t piece, int worker) {
    const pieces *p = arg;
    const moe_param *param = owner(p, piece);
    int64_t size, begin = place(param, piece, &size);
    moe_adamw_args args = *p->args;
    args.weight_decay = param->weight_decay;
    (void)worker;
    p->kernels->adamw(size, &args, moe__real(param->w->grad) + begin, moe__real(param->w) + begin,
                      moe__real(param->m) + begin, moe__real(param->v) + begin);
}

static bool usable(const moe_tensor *t, const moe_tensor *w) {
    return t->dtype == MOE_F32 && t->ndim == w->ndim && moe_tensor_contiguous(t) &&
           memcmp(t->shape, w->shape, sizeof *t->shape * (size_t)t->ndim) == 0;
}

static moe_status check(const moe_param *p) {
    const moe_tensor *w = p->w, *m = p->m, *v = p->v;
    if (!usable(w, w) || !usable(m, w) || !usable(v, w))
        return moe__fail(w->ctx, MOE_ESHAPE, "adamw: parameter and moments differ: %s, %s and %s",
                         MOE_SHAPE(w), MOE_SHAPE(m), MOE_SHAPE(v));
    if (w->storage->mapping || m->storage->mapping || v->storage->mapping)
        return moe__fail(w->ctx, MOE_EARG, "adamw: %s %s is mapped from a file\n"
                         "hint: train a copy: x:clone()",
                         w->storage->mapping ? "the parameter" : "a moment", MOE_SHAPE(w));
    return MOE_OK;
}

moe_status moe__adamw_step(moe_ctx *ctx, int64_t n, moe_param *list, const moe_adamw_args *args) {
    for (int64_t i = 0; i < n; i++) {
        moe_status s = check(&list[i]);
        if (s) return s;
    }
    pieces p = cut(ctx, n, list);
    p.args = args;
    ctx->shields++;
    moe__parallel(ctx, p.count, step_piece, &p);
    ctx->shields--;
    for (int64_t i = 0; i < n; i++)
        if (list[i].w->grad) list[i].w->storage->version++;
    return MOE_OK;
}
