/* tape.h -- applying ops and going back.
 *
 * Applying an op whose inputs need gradients makes a node. The node holds aliases of what backward
 * reads (storage without tape), and an edge per input: to the node that produced it, or to the
 * leaf. Tensors own their node, nodes own the nodes before them: no cycles. A node is older than
 * all nodes that use it, so descending creation order is a topological order.
 */
#ifndef MOE_TAPE_TAPE_H
#define MOE_TAPE_TAPE_H

#include "tape/op.h"

typedef struct moe_edge {
    struct moe_node *node;      /* NULL for leaves */
    moe_tensor *leaf;           /* NULL for nodes, and for inputs without gradient */
    int slot;                   /* output number of `node` */
} moe_edge;

/* How the host computes a part of the graph once more, see moe__apply_again. */
typedef struct moe_replay {
    /* From the same inputs, in the same precision, and on the tape. `ud` is that of moe__backward;
     * out[0..c->nout-1] become the caller's. Not called again when it fails. */
    moe_status (*run)(struct moe_replay *r, void *ud, const moe_call *c, moe_tensor *const *in,
                      moe_tensor **out);
    void (*release)(struct moe_replay *r);
} moe_replay;

typedef struct moe_node {
    moe_ctx *ctx;
    int refs;
    uint64_t sequence;          /* creation order */
    bool done;                  /* backward has passed: the saved tensors are gone */
    struct moe_pass *pass;      /* the backward that is going to pass, or NULL */
    struct moe_node *next;      /* in the list of that pass, or of the dead */
    moe_replay *replay;         /* instead of an op's backward */
    moe_tensor *grad[MOE_MAX_OUT];
    moe_call call;
    moe_edge *edge;             /* call.nin of them; call.in follows in the same block */
    size_t bytes;
} moe_node;

/* Runs c->op on c->in and c->arg. On success c->out[0..nout-1] are new tensors that the caller
 * owns; on failure there are none. */
moe_status moe__apply(moe_call *c);

/* Puts on the tape what was computed without it: the node of c->in and `results`, nout f32 tensors,
 * keeps the inputs alone. backward lets `replay` compute the results again, this time recording,
 * and goes on through the nodes that this makes (Chen et al. 2016): the gradients are the same, bit
 * for bit. c->out[0..nout-1] are new tensors with the bytes of the results. On success the node
 * owns `replay`. */
moe_status moe__apply_again(moe_call *c, int nout, moe_tensor *const *results, moe_replay *replay);

/* Called when memory has run out, while no kernel runs: the caller may let go of what it has. */
typedef void (*moe_relief_fn)(void *ud);

/* Gradients of the scalar `loss` with respect to every leaf that requires them, added to the
 * leaves' grad. Frees the tape; MOE_EARG the second time. What lacks memory is tried once more
 * after relief(ud); NULL = no relief. */
moe_status moe__backward(moe_tensor *loss, moe_relief_fn relief, void *ud);

void moe__node_release(moe_node *node);

#endif
