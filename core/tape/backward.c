/* backward.c -- from a scalar back to the leaves, without recursion. */
#include <stdlib.h>
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

/* After this the buffer of input i exists and nobody else shares it. */
moe_status moe__grad_ready(moe_call *c, int i) {
    moe_tensor **slot = place(&c->node->edge[i]);
    if (!slot) return MOE_OK;
    if (*slot && (*slot)->refs == 1 && (*slot)->storage->refs == 1) return MOE_OK;
    moe_tensor *mine, *shared = *slot;
    moe_status s = moe__tensor_like(c->in[i], &mine);
    if (s) return s;
    mine->fresh = !shared || shared->fresh;
    if (!mine->fresh) moe__copy_strided(shared, mine);
    moe_tensor_release(shared);
    *slot = mine;
    return MOE_OK;
}

moe_real *moe__grad_beta(moe_call *c, int i, moe_real *beta) {
    moe_tensor **slot = i < c->nin ? place(&c->node->edge[i]) : NULL;
    if (!slot) return NULL;
    *beta = (*slot)->fresh ? 0 : 1;
    (*slot)->fresh = false;
    return moe__real(*slot);
}

moe_real *moe__grad(moe_call *c, int i) {
    moe_real beta;
    moe_real *g = moe__grad_beta(c, i, &beta);
    if (g && beta == 0) memset(g, 0, sizeof *g * (size_t)c->in[i]->count);
    return g;
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

moe_status moe__grad_pass(moe_call *c, int i, moe_tensor *g) {
    moe_tensor **slot = place(&c->node->edge[i]);
    if (!slot) return MOE_OK;
    /* The same bytes under the input's shape, unless it is a leaf and others have them too: the
     * gradients of leaves are scaled in place. */
    bool shares = c->node->edge[i].node || g->storage->refs == 1;
    if (!*slot && shares && moe_tensor_contiguous(g)) {
        moe_desc desc = {.dtype = MOE_F32, .ndim = c->in[i]->ndim, .offset = g->offset};
        memcpy(desc.shape, c->in[i]->shape, sizeof desc.shape);
        moe__row_major(desc.ndim, desc.shape, desc.stride);
        return moe__tensor_view(g, &desc, slot);
    }
    moe_status s = moe__grad_ready(c, i);
    if (s) return s;
    sum_arg a = {.k = c->ctx->kernels, .x = moe__real(g), .y = moe__grad(c, i)};
    moe__parallel_range(c->ctx, g->count, 1 << 15, sum_range, &a);
    return MOE_OK;
}

/* ---- the pass ------------------------------------------------------------------------------- */

typedef struct node_list {
    moe_ctx *ctx;
    moe_node **node;
    size_t n, room;
} node_list;

static moe_status push(node_list *l, moe_node *node) {
    if (l->n == l->room) {
        size_t room = l->room ? 2 * l->room : 256;
        moe_node **more = moe__alloc(l->ctx, room * sizeof *more);
        if (!more) return moe__no_memory(l->ctx, room * sizeof *more, "the backward pass");
        if (l->n) memcpy(more, l->node, l->n * sizeof *more);
        moe__free(l->ctx, l->node, l->room * sizeof *more);
        l->node = more;
        l->room = room;
    }
    l->node[l->n++] = node;
    node->visited = true;
    return MOE_OK;
}

/* Everything reachable from `root`. A node that was passed already means a second backward. */
static moe_status collect(node_list *l, moe_node *root) {
    moe_status s = push(l, root);
    for (size_t i = 0; i < l->n && !s; i++) {
        moe_node *n = l->node[i];
        if (n->done)
            return moe__fail(l->ctx, MOE_EARG,
                             "backward: the graph was freed by an earlier backward()\n"
                             "hint: compute the loss again, or add the losses before one "
                             "backward()");
        for (int k = 0; k < n->call.nin && !s; k++) {
            moe_node *before = n->edge[k].node;
            if (before && !before->visited) s = push(l, before);
        }
    }
    return s;
}

static int newest_first(const void *a, const void *b) {
    uint64_t x = (*(moe_node *const *)a)->sequence, y = (*(moe_node *const *)b)->sequence;
    return x < y ? 1 : x > y ? -1 : 0;
}

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

static void finish_grad(moe_tensor *g) {
    if (!g || !g->fresh) return;
    memset(moe__real(g), 0, sizeof(moe_real) * (size_t)g->count);
    g->fresh = false;
}

static moe_status pass(moe_node *n) {
    moe_call *c = &n->call;
    bool any = false;
    for (int k = 0; k < c->nout; k++) {
        finish_grad(n->grad[k]);
        c->dout[k] = n->grad[k];
        any |= c->dout[k] != NULL;
    }
    if (!any) return MOE_OK;
    moe_status s = check_versions(n);
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
}

static moe_status seed_gradient(moe_tensor *loss) {
    moe_node *n = loss->node;
    moe_status s = moe__tensor_like(loss, &n->grad[loss->slot]);
    if (!s) *moe__real(n->grad[loss->slot]) = 1;
    return s;
}

/* Calls pass(n), and once more after some relief when there was no memory for it. */
static moe_status pass_or_retry(moe_node *n, moe_relief_fn relief, void *ud) {
    moe_status s = pass(n);
    if (s != MOE_ENOMEM || !relief) return s;
    relief(ud);
    return pass(n);
}

/* The nodes under the loss, newest first, and a gradient of 1 to begin with. Nothing has changed
 * when this fails, and the list is empty. */
static moe_status begin(node_list *l, moe_tensor *loss) {
    moe_status s = collect(l, loss->node);
    for (size_t i = 0; i < l->n; i++) l->node[i]->visited = false;
    if (!s) s = seed_gradient(loss);
    if (s) {
        moe__free(l->ctx, l->node, l->room * sizeof *l->node);
        *l = (node_list){.ctx = l->ctx};
        return s;
    }
    for (size_t i = 0; i < l->n; i++) l->node[i]->refs++;
    qsort(l->node, l->n, sizeof *l->node, newest_first);
    return MOE_OK;
}

moe_status moe__backward(moe_tensor *loss, moe_relief_fn relief, void *ud) {
    moe_ctx *ctx = loss->ctx;
    if (loss->count != 1)
        return moe__fail(ctx, MOE_ESHAPE, "backward: the loss must be a single number, not %s\n"
                         "hint: use :sum() or :mean()", MOE_SHAPE(loss));
    if (!loss->node)
        return moe__fail(ctx, MOE_EARG, "backward: the loss does not depend on any tensor that "
                         "requires gradients");
    node_list list = {.ctx = ctx};
    moe_tensor_retain(loss);            /* relief may run code that lets go of it */
    moe_status s = begin(&list, loss);
    if (s == MOE_ENOMEM && relief) {
        relief(ud);
        s = begin(&list, loss);
    }
    for (size_t i = 0; i < list.n; i++) {
        if (!s && moe_interrupted(ctx)) s = moe__fail(ctx, MOE_EINTR, "interrupted!");
        if (!s) s = pass_or_retry(list.node[i], relief, ud);
        retire(list.node[i]);
    }
    if (!s && moe_interrupted(ctx)) s = moe__fail(ctx, MOE_EINTR, "interrupted!");
    for (size_t i = 0; i < list.n; i++) moe__node_release(list.node[i]);
    moe__free(ctx, list.node, list.room * sizeof *list.node);
    moe_tensor_release(loss);
    return s;
}
