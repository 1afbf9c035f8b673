/* apply.c -- one application of an op: infer, allocate, record, forward. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tape/packed.h"
#include "tape/tape.h"

extern const moe_op moe_op_contiguous;

/* ---- what infer calls ----------------------------------------------------------------------- */

static void describe(moe_desc *d, moe_dtype dtype, int ndim, const int64_t *shape) {
    *d = (moe_desc){.dtype = dtype, .ndim = ndim};
    for (int i = 0; i < ndim; i++) d->shape[i] = shape[i];
}

void moe__out(moe_call *c, int k, moe_dtype dtype, int ndim, const int64_t *shape) {
    describe(&c->out_desc[k], dtype, ndim, shape);
    if (c->nout <= k) c->nout = k + 1;
}

void moe__out_like(moe_call *c, int k, const moe_tensor *t) {
    moe__out(c, k, t->dtype, t->ndim, t->shape);
}

void moe__keep(moe_call *c, int k, moe_dtype dtype, int ndim, const int64_t *shape) {
    if (!c->needs_grad) return;
    describe(&c->keep_desc[k], dtype, ndim, shape);
    if (c->nkeep <= k) c->nkeep = k + 1;
}

moe_status moe__reject(moe_call *c, moe_status status, const char *fmt, ...) {
    char text[900];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return moe__fail(c->ctx, status, "%s: %s", c->op->name, text);
}

moe_status moe__dim(moe_call *c, int64_t dim, const moe_tensor *x, int *out) {
    int64_t d = dim < 0 ? dim + x->ndim : dim;
    if (d < 0 || d >= x->ndim)
        return MOE_REJECT(c, MOE_EARG, "there is no dimension %lld in %s",
                          (long long)(dim < 0 ? dim : dim + 1), MOE_SHAPE(x));
    *out = (int)d;
    return MOE_OK;
}

moe_status moe__rank(moe_call *c, const moe_tensor *x, const char *name, int ndim) {
    if (x->ndim == ndim) return MOE_OK;
    return MOE_REJECT(c, MOE_ESHAPE, "%s must have %d dimension%s, not %s", name, ndim,
                      ndim == 1 ? "" : "s", MOE_SHAPE(x));
}

moe_status moe__ids_below(moe_call *c, const moe_tensor *ids, int64_t bound, int64_t except,
                          const char *name) {
    const int32_t *id = moe__int(ids);
    for (int64_t i = 0; i < ids->count; i++)
        if ((id[i] < 0 || id[i] >= bound) && id[i] != except)
            return MOE_REJECT(c, MOE_EARG, "%s has %d at position %lld, but must be 0 to %lld",
                              name, id[i], (long long)(i + 1), (long long)(bound - 1));
    return MOE_OK;
}

moe_status moe__stored_alike(moe_call *c, int first, int n) {
    const char *type = moe__dtype_name(c->in[first]->dtype);
    for (int i = first + 1; i < first + n; i++)
        if (c->in[i] && c->in[i]->dtype != c->in[first]->dtype)
            return MOE_REJECT(c, MOE_ETYPE, "the element types differ: %s and %s", type,
                              moe__dtype_name(c->in[i]->dtype));
    if (c->in[first]->dtype == MOE_F32 || !c->needs_grad) return MOE_OK;
    return MOE_REJECT(c, MOE_ETYPE, "%s is for inference: there are no gradients\n"
                      "hint: model:to(\"f32\"), or moe.no_grad(function() ... end)", type);
}

moe_status moe__product_sizes(moe_call *c, int n, const int64_t *size) {
    for (int i = 0; i < n; i++)
        if (size[i] > INT32_MAX)
            return MOE_REJECT(c, MOE_EUNSUPPORTED, "a matrix of %lld rows or columns is too large "
                              "(the limit is %d)", (long long)size[i], INT32_MAX);
    return MOE_OK;
}

/* ---- gradients asked for? ------------------------------------------------------------------- */

static bool tracks(const moe_tensor *t) { return t && (t->requires_grad || t->node); }

static bool needs_grad(const moe_call *c) {
    if (!c->op->backward) return false;
    for (int i = 0; i < c->nin; i++)
        if (tracks(c->in[i])) {
            c->ctx->met_grad = true;
            return !c->ctx->no_grad;
        }
    return false;
}

/* ---- recording ------------------------------------------------------------------------------ */

static moe_edge edge_to(moe_tensor *t) {
    if (!tracks(t)) return (moe_edge){0};
    if (t->node) {
        t->node->refs++;
        return (moe_edge){.node = t->node, .slot = t->slot};
    }
    moe_tensor_retain(t);
    return (moe_edge){.leaf = t};
}

/* The node of a call that has its outputs; the saved aliases are made here. */
static moe_status record(moe_call *c, moe_node **out) {
    size_t n = (size_t)c->nin;
    size_t bytes = sizeof(moe_node) + n * (sizeof(moe_edge) + sizeof(moe_tensor *));
    moe_node *node = *out = moe__alloc(c->ctx, bytes);
    if (!node) return moe__no_memory(c->ctx, bytes, "a tape entry");
    memset(node, 0, bytes);
    *node = (moe_node){.ctx = c->ctx, .refs = 1, .sequence = ++c->ctx->sequence, .bytes = bytes,
                       .call = *c};
    node->edge = (moe_edge *)(node + 1);
    node->call.in = (moe_tensor **)(node->edge + n);
    node->call.node = node;
    memset(node->call.out, 0, sizeof node->call.out);
    memset(node->call.keep, 0, sizeof node->call.keep);
    moe__ctx_retain(c->ctx);
    unsigned saves = c->op->saves;
    moe_status s = MOE_OK;
    for (int i = 0; i < c->nin && !s; i++) {
        bool save = saves & MOE_IN(i < 15 ? i : 15);
        if (c->in[i]) s = moe__tensor_alias(c->in[i], save, &node->call.in[i]);
        if (!s) node->edge[i] = edge_to(c->in[i]);
    }
    for (int k = 0; k < c->nout && !s; k++)
        s = moe__tensor_alias(c->out[k], saves & MOE_OUT(k), &node->call.out[k]);
    for (int k = 0; k < c->nkeep; k++) {            /* kept tensors move into the node */
        node->call.keep[k] = c->keep[k];
        c->keep[k] = NULL;
    }
    return s;
}

static void own_outputs(moe_call *c, moe_node *node) {
    for (int k = 0; k < c->nout; k++) {
        if (c->out[k]->dtype != MOE_F32) continue;
        c->out[k]->node = node;
        c->out[k]->slot = k;
        node->refs++;
    }
}

/* ---- applying ------------------------------------------------------------------------------- */

static void drop(moe_tensor **list, int n) {
    for (int k = 0; k < n; k++) {
        moe_tensor_release(list[k]);
        list[k] = NULL;
    }
}

static moe_status allocate(moe_call *c) {
    for (int k = 0; k < c->nout; k++) {
        moe_status s = c->op->flags & MOE_VIEW
                           ? moe__tensor_view(c->in[0], &c->out_desc[k], &c->out[k])
                           : moe__tensor_new(c->ctx, &c->out_desc[k], &c->out[k]);
        if (s) return s;
    }
    for (int k = 0; k < c->nkeep; k++) {
        moe_status s = moe__tensor_new(c->ctx, &c->keep_desc[k], &c->keep[k]);
        if (s) return s;
    }
    return MOE_OK;
}

static moe_status interrupted(moe_call *c) {
    if (!moe_interrupted(c->ctx)) return MOE_OK;
    return moe__fail(c->ctx, MOE_EINTR, "interrupted!");
}

/* After infer has accepted the inputs. */
static moe_status run(moe_call *c) {
    moe_status s = interrupted(c);
    if (!s) s = allocate(c);
    if (!s && c->op->forward) s = c->op->forward(c);
    moe__packed_done(c);
    if (!s) s = interrupted(c);
    moe_node *node = NULL;
    if (!s && c->needs_grad) s = record(c, &node);
    if (!s && node) own_outputs(c, node);
    if (node) moe__node_release(node);          /* the outputs hold it now; or nobody */
    drop(c->keep, c->nkeep);
    if (s) drop(c->out, c->nout);
    return s;
}

/* Replaces inputs that are not contiguous by contiguous copies, through the tape. `made` holds
 * what the caller has to release. */
static moe_status straighten(moe_call *c, moe_tensor **in, moe_tensor **made, int *nmade) {
    for (int i = 0; i < c->nin; i++) {
        in[i] = c->in[i];
        if (!in[i] || moe_tensor_contiguous(in[i])) continue;
        moe_call copy = {.ctx = c->ctx, .op = &moe_op_contiguous, .nin = 1, .in = &c->in[i]};
        moe_status s = moe__apply(&copy);
        if (s) return s;
        in[i] = made[(*nmade)++] = copy.out[0];
    }
    c->in = in;
    return MOE_OK;
}

moe_status moe__apply(moe_call *c) {
    moe_tensor *in[MOE_MAX_IN], *made[MOE_MAX_IN], **given = c->in;
    int nmade = 0;
    moe_status s = MOE_OK;
    c->nout = c->nkeep = 0;
    c->needs_grad = needs_grad(c);
    c->format = c->ctx->format;
    if (!(c->op->flags & MOE_STRIDED)) s = straighten(c, in, made, &nmade);
    if (!s) s = c->op->infer(c);
    if (!s) s = run(c);
    c->in = given;
    drop(made, nmade);
    return s;
}

/* ---- computing again ------------------------------------------------------------------------ */

moe_status moe__apply_again(moe_call *c, int nout, moe_tensor *const *results,
                            moe_replay *replay) {
    static const moe_op recompute = {.name = "recompute", .flags = MOE_LAZY_GRAD, .saves = 0xffff};
    moe_node *node = NULL;
    moe_status s = MOE_OK;
    c->op = &recompute;
    c->nkeep = 0;
    for (c->nout = 0; c->nout < nout && !s; c->nout++)
        s = moe__tensor_alias(results[c->nout], true, &c->out[c->nout]);
    if (!s) s = record(c, &node);
    if (!s) own_outputs(c, node);
    if (!s) node->replay = replay;
    if (node) moe__node_release(node);
    if (s) drop(c->out, c->nout);
    return s;
}
