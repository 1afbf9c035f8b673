/* pool.h -- the context's own threads: one parallel region per op.
 *
 * Results never depend on the number of threads: the caller cuts its work into tasks by shape
 * alone, and each task owns the output it writes. Workers take task numbers from one counter.
 */
#ifndef MOE_BASE_POOL_H
#define MOE_BASE_POOL_H

#include "moe.h"

struct moe_pool;

/* `worker` is below moe__workers(ctx) and unique among the tasks running at the same time: it
 * indexes per-thread scratch. Tasks must not fail and never touch the context's message. */
typedef void (*moe_task_fn)(void *arg, int64_t task, int worker);

/* threads = 0 means the size of the affinity mask. Threads start with the first region. */
struct moe_pool *moe__pool_open(moe_ctx *ctx, int threads);
void moe__pool_close(moe_ctx *ctx, struct moe_pool *pool);
int moe__workers(const moe_ctx *ctx);

/* Runs fn(arg, 0..tasks-1) and returns when all are done. After moe_interrupt() the remaining tasks
 * are skipped, unless the context is shielded; whoever called the op reports it. */
void moe__parallel(moe_ctx *ctx, int64_t tasks, moe_task_fn fn, void *arg);

/* The same over a range of n items in blocks of `grain`: fn(arg, begin, end). */
typedef void (*moe_range_fn)(void *arg, int64_t begin, int64_t end);
void moe__parallel_range(moe_ctx *ctx, int64_t n, int64_t grain, moe_range_fn fn, void *arg);

/* Scratch for the running op, `bytes` for each worker, 64-byte aligned and kept between ops. */
typedef struct moe_scratch {
    char *base;
    size_t stride;
} moe_scratch;
/* MOE_ENOMEM. What an earlier call gave out is gone after it. */
moe_status moe__scratch(moe_ctx *ctx, size_t bytes, moe_scratch *out);

/* One block for all workers together, under the same rules. */
moe_status moe__shared(moe_ctx *ctx, size_t bytes, char **out);

/* The part of the worker that runs a task. */
static inline moe_real *moe__scratch_of(const moe_scratch *s, int worker) {
    return (moe_real *)(void *)(s->base + s->stride * (size_t)worker);
}

#endif
