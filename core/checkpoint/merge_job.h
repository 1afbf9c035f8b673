/* merge_job.h -- what methods of merging are written with.
 *
 * A job cuts its tensor into spans, by shape alone, and its lanes (as many as there are workers and
 * memory for) take one span after the other. A lane has a desk: the sources' next piece as floats,
 * and the result of it. Whoever emits finishes each span's bytes; checksums and figures take
 * spans in their order, whatever the lanes do.
 */
#ifndef MOE_CHECKPOINT_MERGE_JOB_H
#define MOE_CHECKPOINT_MERGE_JOB_H

#include <stdatomic.h>

#include "checkpoint/merge.h"
#include "kernels/kernels.h"

#define MOE_SPAN ((int64_t)1 << 16)     /* elements of a task and of a partial sum */
#define MOE_LANES 16                    /* f64 accumulators of a sum: element i goes to i % 16 */

/* Parts of one block of memory take sizes like these, so that each begins at an address for
 * anything. */
#define MOE_ALIGNED(bytes) (((bytes) + 63) & ~(size_t)63)

typedef struct moe_desk {
    moe_job *job;
    float **x;                  /* a piece of each model */
    float *base;                /* of the base, NULL when there is none */
    float *y, *z;               /* of the result; to work with */
    uint8_t *flags;             /* two for each element of a piece */
    char *own;                  /* what the method asked for, at an address for anything */
    double *sums;               /* of the figures of this span */
    double *spare;              /* the same while nothing is emitted */
    char *out;                  /* the span as it will be stored */
    int64_t put;                /* elements of it that are there */
} moe_desk;

/* A span that is finished and waits for its turn to be summed up; then its room is free again. */
typedef struct moe_slot {
    char *out;
    double *sums;
    const char *bytes;
    size_t size;
    atomic_llong done;          /* its number + 1 */
} moe_slot;

struct moe_job {
    moe_ctx *ctx;
    const moe_kernels *k;
    const moe_merge *m;
    const moe_merge_params *p;
    const moe_sink *sink;
    moe_merge_figures *figures;
    bool raw;                   /* the elements are stored as the sink wants them */
    int64_t rows, width;        /* the last dimension, and the others; 1-D is one row */
    int64_t unit;               /* elements of a span that is emitted: MOE_SPAN or whole rows */
    int64_t piece;              /* elements on a desk */
    int lanes;
    char *memory, *own;         /* of all desks; what the method asked for, for all lanes */
    size_t bytes;
    moe_desk *desks;
    double *totals;             /* of the figures */
    moe_slot *slots;            /* span s is in slot s % window */
    int window;
    atomic_llong turn;          /* the span that is summed up next */
    atomic_bool summing;        /* a lane is at it */
    atomic_int error;           /* of writing */
};

/* --- memory ---------------------------------------------------------------------------------- */

/* Asks for all the memory of the job at once: `shared` bytes for all lanes together (zeroed) and
 * `each` for every lane. To be called once, before any work. MOE_ENOMEM. */
moe_status moe__job_reserve(moe_job *j, size_t shared, size_t each);
/* Lets spans that are emitted consist of whole rows. Before moe__job_reserve. */
void moe__job_by_rows(moe_job *j);

/* --- work ------------------------------------------------------------------------------------ */

/* Does one span: elements first .. first + n - 1. */
typedef void moe_span_fn(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n);

/* How many spans of MOE_SPAN elements the tensor has. */
int64_t moe__job_spans(const moe_job *j);
/* Reads without emitting: spans of MOE_SPAN elements, or of whole rows. */
moe_status moe__job_scan(moe_job *j, moe_span_fn *fn, void *arg);
moe_status moe__job_scan_rows(moe_job *j, moe_span_fn *fn, void *arg);
/* `fn` puts all elements of its span. */
moe_status moe__job_emit(moe_job *j, moe_span_fn *fn, void *arg);
/* For what is no arithmetic: spans of `unit` of `total` bytes, of which `fn` tells by
 * moe__desk_placed where its bytes are and what became of them. */
moe_status moe__job_place(moe_job *j, int64_t total, int64_t unit, moe_span_fn *fn, void *arg);
void moe__desk_placed(moe_desk *d, int64_t span, const char *bytes, size_t size, int error);
/* `n` independent tasks: fn(desk, arg, task, task, 1). */
moe_status moe__job_tasks(moe_job *j, int64_t n, moe_span_fn *fn, void *arg);

/* Puts a piece of all sources on the desk, at most n elements; returns how many. */
int64_t moe__desk_load(moe_desk *d, int64_t first, int64_t n);
/* The same for one model and the base alone. */
int64_t moe__desk_load_one(moe_desk *d, int model, int64_t first, int64_t n);
/* Looks at what was loaded, for the figures of the merge: once for each element of the tensor. */
void moe__desk_look(moe_desk *d, int64_t n);
/* Makes differences from the base of the models on the desk. */
void moe__desk_deltas(moe_desk *d, int64_t n);
/* Appends y[0 .. n-1] to the span. */
void moe__desk_put(moe_desk *d, int64_t n);
/* Tells how many elements of a model a mask kept. */
void moe__desk_kept(moe_desk *d, int model, int64_t n);

/* --- sums ------------------------------------------------------------------------------------ */

/* The lanes of one sum, added up in a fixed order. */
double moe__lanes_sum(const double lanes[MOE_LANES]);
/* slots [spans x k] summed over the spans, in order. */
void moe__slots_sum(const double *slots, int64_t spans, int64_t k, double *out);

/* --- methods --------------------------------------------------------------------------------- */

#define MOE_METHODS(X)                                                                             \
    X(arcee_fusion) X(breadcrumbs) X(breadcrumbs_ties) X(copy) X(dare_linear) X(dare_ties)         \
    X(della) X(della_linear) X(karcher) X(linear) X(model_stock) X(multislerp) X(nearswap)         \
    X(nuslerp) X(passthrough) X(ram) X(ramplus_tl) X(sce) X(slerp) X(task_arithmetic) X(ties)
#define X(name) extern const moe_method moe__method_##name;
MOE_METHODS(X)
#undef X

#endif
