/* backward.c -- from a scalar back to the leaves, without recursion. */
#include <string.h>

#include "kernels/kernels.h"
#include "tape/packed.h"
#include "tape/tape.h"

/* ---- releasing ------------------------------------------------------------------------------ */

static void forget_saved(moe_node *n) {
    for (int i = 0; i < n->call.nin; i++) {
        moe_tensor_release(n->call.in[i]);
        n->call.in[i] = NULL;
    }
    for (int k = 0; k < MOE_MAX_OUT; k++) {
        moe_tensor_release(n->call.out[k]);
        moe_tensor_release(n->call.keep[k]);
        moe_tensor_release(n->grad[k]);
        n->call.out[k] = n->call.keep[k] = n->grad[k] = n->call.dout[k] = NULL;
    }
    if (n->replay) n->replay->release(n->replay);
    n->replay = NULL;
}

static void forget_edges(moe_node *n) {
    for (int i = 0; i < n->call.nin; i++) {
        if (n->edge[i].node) moe__node_release(n->edge[i].node);
        moe_tensor_release(n->edge[i].leaf);
        n->edge[i] = (moe_edge){0};
    }
}

/* Releasing a node may release the one before it, and so on: a list instead of recursion, so that
 * a graph of any depth can die. */
void moe__node_release(moe_node *node) {
    if (--node->refs > 0) return;
    moe_ctx *ctx = node->ctx;
    node->next = ctx->dead;
    ctx->dead = node;
    if (ctx->draining) return;
    ctx->draining = true;
    moe__ctx_retain(ctx);
    while (ctx->dead) {
        moe_node *n = ctx->dead;
        ctx->dead = n->next;
        forget_saved(n);
        forget_edges(n);
        moe__free(ctx, n, n->bytes);
        moe__ctx_release(ctx);
    }
    ctx->draining = false;
    moe__ctx_release(ctx);
}

/* ---- gradient buffers ----------------------------------------------------------------------- */

static moe_tensor **place(const moe_edge *e) {
    if (e->node) return &e->node->grad[e->slot];
    return e->leaf ? &e->leaf->grad : NULL;
}

bool moe__wants(const moe_call *c, int i) {
    return i < c->nin && !(c->given >> i & 1) && place(&c->node->edge[i]) != NULL;
}

/* After this the edge's buffer exists, in the shape of `like`, and nobody else shares it. */
static moe_status make_ready(const moe_edge *e, const moe_tensor *like) {
    moe_tensor **slot = place(e);
    if (!slot) return MOE_OK;
    if (*slot && (*slot)->refs == 1 && (*slot)->storage->refs == 1) return MOE_OK;
    moe_tensor *mine, *shared = *slot;
    moe_status s = moe__tensor_like(like, &mine);
    if (s) return s;
    mine->fresh = !shared || shared->fresh;
    if (!mine->fresh) moe__copy_strided(shared, mine);
    moe_tensor_release(shared);
    *slot = mine;
    return MOE_OK;
}

moe_status moe__grad_ready(moe_call *c, int i) { return make_ready(&c->node->edge[i], c->in[i]); }

moe_real *moe__grad_beta(moe_call *c, int i, moe_real *beta) {
    moe_tensor **slot = i < c->nin ? place(&c->node->edge[i]) : NULL;
    if (!slot) return NULL;
    *beta = (*slot)->fresh ? 0 : 1;
    (*slot)->fresh = false;
    return moe__real(*slot);
}

/* A buffer that nobody has written to is zero. */
static void finish_grad(moe_tensor *g) {
    if (!g || !g->fresh) return;
    memset(moe__real(g), 0, sizeof(moe_real) * (size_t)g->count);
    g->fresh = false;
}

moe_real *moe__grad(moe_call *c, int i) {
    moe_tensor **slot = i < c->nin ? place(&c->node->edge[i]) : NULL;
    if (!slot) return NULL;
    finish_grad(*slot);
    return moe__real(*slot);
}

typedef struct sum_arg {
    const moe_kernels *k;
    const moe_real *x;
    moe_real *y;
} sum_arg;

static void sum_range(void *arg, int64_t begin, int64_t end) {
    const sum_arg *a = arg;
    a->k->accumulate(end - begin, a->x + begin, a->y + begin);
}

/* The edge's gradient, of the shape of `like`, gets `g` added. */
static moe_status pass_on(const moe_edge *e, const moe_tensor *like, moe_tensor *g) {
    moe_tensor **slot = place(e);
    if (!slot) return MOE_OK;
    /* The same bytes under another shape, unless it is a leaf and others have them too: the
     * gradients of leaves are scaled in place. */
    bool shares = e->node || g->storage->refs == 1;
    if (!*slot && shares && moe_tensor_contiguous(g)) {
        moe_desc desc = {.dtype = MOE_F32, .ndim = like->ndim, .offset = g->offset};
        memcpy(desc.shape, like->shape, sizeof desc.shape);
        moe__row_major(desc.ndim, desc.shape, desc.stride);
        return moe__tensor_view(g, &desc, slot);
    }
    moe_status s = make_ready(e, like);
    if (s) return s;
    finish_grad(*slot);
    sum_arg a = {.k = g->ctx->kernels, .x = moe__real(g), .y = moe__real(*slot)};
    moe__parallel_range(g->ctx, g->count, 1 << 15, sum_range, &a);
    return MOE_OK;
}

moe_status moe__grad_pass(moe_call *c, int i, moe_tensor *g) {
    return pass_on(&c->node->edge[i], c->in[i], g);
}

/* ---- the order ------------------------------------------------------------------------------ */

/* A backward that is under way. The nodes hang on one another: the graph may have any size, and no
 * memory is needed to walk it. */
typedef struct moe_pass {
    moe_ctx *ctx;
    moe_relief_fn relief;
    void *ud;
    moe_node *next;             /* those to come, newest first */
} moe_pass;

/* Appends a node to the list that ends at `end`, which moves on; the list holds it. */
static moe_status append(moe_pass *p, moe_node *n, moe_node ***end) {
    if (n->done)
        return moe__fail(p->ctx, MOE_EARG,
                         "backward: the graph was freed by an earlier backward()\n"
                         "hint: compute the loss again, or add the losses before one backward()");
    if (n->pass == p) return MOE_OK;
    if (n->pass)
        return moe__fail(p->ctx, MOE_EARG, "backward: another backward() of this graph is not "
                         "finished");
    n->pass = p;
    n->refs++;
    n->next = NULL;
    **end = n;
    *end = &n->next;
    return MOE_OK;
}

static moe_node *merge(moe_node *a, moe_node *b) {
    moe_node *first, **end = &first;
    while (a && b) {
        moe_node **newer = a->sequence > b->sequence ? &a : &b, *n = *newer;
        *newer = n->next;
        *end = n;
        end = &n->next;
    }
    *end = a ? a : b;
    return first;
}

/* The first n > 0 of a list, newest first. */
static moe_node *sort(moe_node *list, size_t n) {
    if (n == 1) {
        list->next = NULL;
        return list;
    }
    moe_node *half = list;
    for (size_t i = 0; i < n / 2; i++) half = half->next;
    half = sort(half, n - n / 2);
    return merge(sort(list, n / 2), half);
}

static moe_node *take_next(moe_pass *p) {
    moe_node *n = p->next;
    p->next = n->next;
    return n;
}

static void let_go(moe_node *n) {
    n->pass = NULL;
    moe__node_release(n);
}

static void give_up(moe_pass *p) {
    while (p->next) let_go(take_next(p));
}

/* Everything reachable from `root` joins those to come; nothing has changed when this fails. */
static moe_status reach(moe_pass *p, moe_node *root) {
    moe_node *list = NULL, **end = &list;
    size_t count = 0;
    moe_status s = append(p, root, &end);
    for (moe_node *n = list; n && !s; n = n->next, count++)
        for (int k = 0; k < n->call.nin && !s; k++)
            if (n->edge[k].node) s = append(p, n->edge[k].node, &end);
    if (!s && list) p->next = merge(sort(list, count), p->next);
    if (s) give_up(&(moe_pass){.next = list});
    return s;
}

/* ---- the pass ------------------------------------------------------------------------------- */

static moe_status check_version(moe_node *n, const moe_tensor *t) {
    if (!t || !t->storage || t->version == t->storage->version) return MOE_OK;
    return moe__fail(n->ctx, MOE_EARG,
                     "backward: the tensor %s that %s saved was overwritten since", MOE_SHAPE(t),
                     n->call.op->name);
}

static moe_status check_versions(moe_node *n) {
    moe_status s = MOE_OK;
    for (int i = 0; i < n->call.nin && !s; i++) s = check_version(n, n->call.in[i]);
    for (int k = 0; k < n->call.nout && !s; k++) s = check_version(n, n->call.out[k]);
    return s;
}

/* Lets the host compute the outputs again; they are kept. It gets the inputs as they were on the
 * tape: then whatever it computes is connected as it was the first time. */
static moe_status run_again(moe_pass *p, moe_node *n) {
    moe_tensor *in[MOE_MAX_IN];
    for (int i = 0; i < n->call.nin; i++) {
        const moe_edge *e = &n->edge[i];
        in[i] = e->leaf ? e->leaf : n->call.in[i];
        if (!e->node || in[i]->node) continue;
        in[i]->node = e->node;
        in[i]->slot = e->slot;
        e->node->refs++;
    }
    return n->replay->run(n->replay, p->ud, &n->call, in, n->call.keep);
}

/* The outputs hand their gradients to what has computed them now, and that comes next: it is newer
 * than all other nodes. When memory runs out in between, the next call goes on from there. */
static moe_status replay(moe_pass *p, moe_node *n) {
    moe_status s = n->call.keep[0] ? MOE_OK : run_again(p, n);
    for (int k = 0; k < n->call.nout && !s; k++) {
        moe_tensor *y = n->call.keep[k];
        if (!n->grad[k]) continue;
        if (y->node) s = reach(p, y->node);
        moe_edge e = {.node = y->node, .slot = y->slot};
        if (!y->node && y->requires_grad) e.leaf = y;
        if (!s) s = pass_on(&e, y, n->grad[k]);
        if (s) break;
        moe_tensor_release(n->grad[k]);
        n->grad[k] = NULL;
    }
    return s;
}

static moe_status pass(moe_pass *p, moe_node *n) {
    moe_call *c = &n->call;
    bool any = false;
    for (int k = 0; k < c->nout; k++) {
        finish_grad(n->grad[k]);
        c->dout[k] = n->grad[k];
        any |= c->dout[k] != NULL;
    }
    if (!any) return MOE_OK;
    moe_status s = check_versions(n);
    if (n->replay) return s ? s : replay(p, n);
    for (int i = 0; i < c->nin && !s && !(c->op->flags & MOE_LAZY_GRAD); i++)
        s = moe__grad_ready(c, i);
    if (!s) s = c->op->backward(c);
    moe__packed_done(c);
    return s;
}

static void retire(moe_node *n) {
    for (int i = 0; i < n->call.nin; i++)
        if (n->edge[i].leaf) finish_grad(n->edge[i].leaf->grad);
    n->done = true;
    forget_saved(n);
    forget_edges(n);
    let_go(n);
}

static moe_status seed_gradient(moe_tensor *loss) {
    moe_tensor **g = &loss->node->grad[loss->slot];
    moe_status s = moe__tensor_like(loss, g);
    if (!s) *moe__real(*g) = 1;
    return s;
}

/* The nodes under the loss, newest first, and a gradient of 1 to begin with. Nothing has changed
 * when this fails. */
static moe_status begin(moe_pass *p, moe_tensor *loss) {
    moe_status s = reach(p, loss->node);
    if (!s) s = seed_gradient(loss);
    if (s) give_up(p);
    return s;
}

/* What is tried once more after some relief when there was no memory for it. */
static moe_status begin_or_retry(moe_pass *p, moe_tensor *loss) {
    moe_status s = begin(p, loss);
    if (s != MOE_ENOMEM || !p->relief) return s;
    p->relief(p->ud);
    return begin(p, loss);
}

static moe_status pass_or_retry(moe_pass *p, moe_node *n) {
    moe_status s = pass(p, n);
    if (s != MOE_ENOMEM || !p->relief) return s;
    p->relief(p->ud);
    return pass(p, n);
}

static moe_status interrupted(moe_ctx *ctx) {
    return moe_interrupted(ctx) ? moe__fail(ctx, MOE_EINTR, "interrupted!") : MOE_OK;
}

moe_status moe__backward(moe_tensor *loss, moe_relief_fn relief, void *ud) {
    moe_ctx *ctx = loss->ctx;
    if (loss->count != 1)
        return moe__fail(ctx, MOE_ESHAPE, "backward: the loss must be a single number, not %s\n"
                         "hint: use :sum() or :mean()", MOE_SHAPE(loss));
    if (!loss->node)
        return moe__fail(ctx, MOE_EARG, "backward: the loss does not depend on any tensor that "
                         "requires gradients");
    moe_pass p = {.ctx = ctx, .relief = relief, .ud = ud};
    moe_tensor_retain(loss);            /* relief may run code that lets go of it */
    moe_status s = begin_or_retry(&p, loss);
    while (p.next) {
        moe_node *n = take_next(&p);
        if (!s) s = interrupted(ctx);
        if (!s) s = pass_or_retry(&p, n);
        retire(n);
    }
    if (!s) s = interrupted(ctx);
    moe_tensor_release(loss);
    return s;
}
