/* ctx.h -- the context: everything the core would otherwise keep in globals. */
#ifndef MOE_BASE_CTX_H
#define MOE_BASE_CTX_H

#include "moe.h"

#include <stdatomic.h>

#include "base/mem.h"

/* True in the double build: MOE_REAL is `float` or `double`, pasted to a 0 or a 1. */
#define MOE__IS_float 0
#define MOE__IS_double 1
#define MOE__PASTE(a, b) a##b
#define MOE__IS(real) MOE__PASTE(MOE__IS_, real)
#define MOE_REAL_IS_DOUBLE MOE__IS(MOE_REAL)

struct moe_pool;
struct moe_kernels;
struct moe_format;
struct moe_node;

struct moe_ctx {
    int refs;                           /* the opener's, and one per live tensor */
    moe_heap heap;
    struct moe_pool *pool;
    const struct moe_kernels *kernels;
    const struct moe_format *format;    /* of matrix products: kernels->f32 or ->bf16 */
    atomic_int stop;                    /* set by moe_interrupt, polled per block */
    int shields;                        /* while above 0 nobody sees `stop` */
    int no_grad;                        /* depth of moe.no_grad */
    bool met_grad;                      /* an op saw a tensor that tracks, on the tape or not */
    uint64_t seed, draws;               /* moe.manual_seed and how often it was drawn from */
    uint64_t sequence;                  /* creation order of tape nodes */
    struct moe_node *dead;              /* nodes waiting to be freed without recursion */
    bool draining;
    void (*release_node)(struct moe_node *);    /* the tape's, for tensors that hold a node */
    size_t tensors;
    char error[1024];                   /* fixed: reporting a lack of memory must not allocate */
};

/* The only place where a message is made. Returns `status`, so that callers can return it on. */
moe_status moe__fail(moe_ctx *ctx, moe_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* MOE_ENOMEM with the request and the state of the memory; `what` says what it was for. */
moe_status moe__no_memory(moe_ctx *ctx, size_t bytes, const char *what);

/* "512 MB": whole numbers of the largest unit that keeps them readable. */
#define MOE_READABLE 32
void moe__readable(uint64_t bytes, char text[MOE_READABLE]);

/* The base of moe_open(): everything but the parts that higher layers plug in. */
moe_status moe__ctx_open(moe_ctx **out, const moe_config *cfg);

/* Whether work may be left undone, because an interrupt is going to be reported. */
static inline bool moe__stopping(const moe_ctx *ctx) {
    return !ctx->shields && atomic_load_explicit(&ctx->stop, memory_order_relaxed);
}

void moe__ctx_retain(moe_ctx *ctx);
void moe__ctx_release(moe_ctx *ctx);

#endif
