/* op.h -- what an op is: one record at the end of one file in core/ops.
 *
 *     static moe_status infer(moe_call *c)    checks everything, sizes the outputs; the only place
 *                                             that may reject input, before anything is allocated
 *     static moe_status forward(moe_call *c)  fills c->out
 *     static moe_status backward(moe_call *c) adds to the gradients of the inputs
 *     MOE_OP(name, .sig = "...", ...)
 *
 * The Lua function and method, help, the editor stub and the gradient check all derive from the
 * record. forward and backward fail only for lack of memory. backward is called again when some was
 * found, so it asks for all it needs before it touches a gradient.
 *
 * Signature: "x:tensor, dim:dim=-1 -> tensor". Parameter types:
 *   tensor    f32               itensor   i32                tensors   a list of tensors
 *   operand   f32 tensor or a number       any       a tensor of any type
 *   float     f32, bf16 or f16, read as it is stored: weights and caches
 *   int num bool                dim       a dimension, 1-based in Lua, negative from the end
 *   index     a position, 1-based in Lua, negative from the end
 *   sizes     all remaining integers (only last)             {a|b|c}   one of these words
 * `=value` gives a default; a trailing `?` makes a tensor optional (NULL) or a dim absent (NO_DIM).
 */
#ifndef MOE_TAPE_OP_H
#define MOE_TAPE_OP_H

#include "base/pool.h"
#include "tensor/tensor.h"

#define MOE_MAX_IN 64
#define MOE_MAX_OUT 4
#define MOE_MAX_ARG 10
#define MOE_NO_DIM INT64_MIN

typedef struct moe_call moe_call;
typedef struct moe_op moe_op;

typedef union moe_arg {
    int64_t i;
    double f;
} moe_arg;

/* One application of an op. infer and forward see it with whole tensors; backward sees those that
 * the record saves, the others as ghosts (shape without storage). */
struct moe_call {
    moe_ctx *ctx;
    const moe_op *op;
    int nin;
    moe_tensor **in;                    /* NULL where an optional tensor is absent */
    int nout, nkeep;
    moe_tensor *out[MOE_MAX_OUT];
    moe_tensor *keep[MOE_MAX_OUT];      /* what forward leaves for backward, NULL without it */
    moe_tensor *dout[MOE_MAX_OUT];      /* backward: gradients of the outputs, NULL = zero */
    moe_desc out_desc[MOE_MAX_OUT], keep_desc[MOE_MAX_OUT];
    moe_arg arg[MOE_MAX_ARG];           /* the parameters that are no tensors, in order */
    int nsizes;
    int64_t sizes[MOE_MAX_DIMS];
    bool needs_grad;
    const struct moe_format *format;    /* of matrix products, forward and backward alike */
    struct moe_node *node;              /* backward only */
    moe_pack *packs;                    /* weights packed for this call alone (tape/packed.h) */
    uint64_t given;                     /* backward only: inputs that are done (MOE_LAZY_GRAD) */
};

/* .flags */
#define MOE_VIEW 1u       /* the output shares in[0]'s storage: out_desc has strides and offset   */
#define MOE_STRIDED 2u    /* takes inputs that are not contiguous; others get a contiguous copy   */
#define MOE_LAZY_GRAD 4u  /* backward asks for gradient buffers itself (moe__grad_pass)           */

/* .saves: what the tape keeps alive for backward. */
#define MOE_IN(i) (1u << (i))
#define MOE_OUT(i) (1u << (16 + (i)))

struct moe_op {
    const char *name, *sig, *doc;
    const char *sample;             /* Lua: arguments for the gradient check, alternatives
                                       separated by ` | `; NULL = not differentiable */
    unsigned flags, saves;
    moe_status (*infer)(moe_call *c);
    moe_status (*forward)(moe_call *c);
    moe_status (*backward)(moe_call *c);
};

#define MOE_OP(stem, ...)              \
    extern const moe_op moe_op_##stem; \
    const moe_op moe_op_##stem = {.name = #stem, __VA_ARGS__}

extern const moe_op *const moe_ops[];
extern const int moe_nops;

/* ---- for infer ---------------------------------------------------------------------------- */

/* Output or kept tensor `k` with the given shape. Kept ones exist only if a gradient is needed. */
void moe__out(moe_call *c, int k, moe_dtype dtype, int ndim, const int64_t *shape);
void moe__out_like(moe_call *c, int k, const moe_tensor *t);
void moe__keep(moe_call *c, int k, moe_dtype dtype, int ndim, const int64_t *shape);

/* Resolves a possibly negative dimension of x, 0-based; `name` for the message. */
moe_status moe__dim(moe_call *c, int64_t dim, const moe_tensor *x, int *out);
/* Checks the rank. */
moe_status moe__rank(moe_call *c, const moe_tensor *x, const char *name, int ndim);
/* Fails with "op: ..." in front. */
#define MOE_REJECT(c, status, ...) moe__reject((c), (status), __VA_ARGS__)
moe_status moe__reject(moe_call *c, moe_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Every element of the i32 tensor lies in 0 .. bound-1 (or equals `except`). */
moe_status moe__ids_below(moe_call *c, const moe_tensor *ids, int64_t bound, int64_t except,
                          const char *name);

/* Rejects gradients through inputs first .. first + n - 1 that are stored in 16 bits, and inputs of
 * several types among them. All but the first may be absent. */
moe_status moe__stored_alike(moe_call *c, int first, int n);

/* Rejects rows, columns or row distances of matrices above 2^31 - 1. */
moe_status moe__product_sizes(moe_call *c, int n, const int64_t *size);

/* ---- for backward ------------------------------------------------------------------------- */

/* Does input i still need a gradient? */
bool moe__wants(const moe_call *c, int i);
/* The contiguous gradient buffer of input i to add to; NULL when it needs none. */
moe_real *moe__grad(moe_call *c, int i);
/* The same for ops that can store as well as add: *beta is 0 (contents undefined) or 1. */
moe_real *moe__grad_beta(moe_call *c, int i, moe_real *beta);
/* The gradient of input i gets `g` (of equal count) added, without a copy where possible. For ops
 * with MOE_LAZY_GRAD. */
moe_status moe__grad_pass(moe_call *c, int i, moe_tensor *g);
/* Makes the buffer of input i exist, for MOE_LAZY_GRAD ops that then call moe__grad. */
moe_status moe__grad_ready(moe_call *c, int i);

#endif
