/* merge.h -- one tensor out of several: the methods of merging, streamed.
 *
 * A merge reads its sources in pieces and hands each finished stretch to a sink, a tensor in
 * memory or a place in a file. Arithmetic is f32 with sums in f64, and is rounded once, to the type
 * of the sink. The bits of the result depend on the sources and the parameters alone: not on the
 * number of threads, nor on the memory that the work may take.
 */
#ifndef MOE_CHECKPOINT_MERGE_H
#define MOE_CHECKPOINT_MERGE_H

#include "checkpoint/checksum.h"
#include "checkpoint/output.h"
#include "checkpoint/source.h"

/* Numbers by which methods differ; a method names those it knows. Arrays have one number for each
 * model and are never NULL. Names and defaults are mergekit's. */
typedef struct moe_merge_params {
    const double *weight, *density, *gamma, *epsilon, *scale;
    double t, lambda, eps, tol, select_topk, r, alpha;
    int max_iter;
    bool normalize, rescale, filter_wise, nuslerp_flatten, nuslerp_row_wise;
} moe_merge_params;

typedef struct moe_merge {
    const char *name;           /* of the result, for messages */
    size_t rank;
    const uint64_t *shape;
    int64_t elements;
    const moe_source *models;   /* without the base */
    int count;
    const moe_source *base;     /* NULL = none */
    const moe_source *masks;    /* for each model, not 0 = keep; NULL = the method draws its own */
    moe_stored cast;            /* what inputs are rounded to first; MOE_STORED_COUNT = nothing */
    moe_merge_params params;
    uint64_t seed;              /* of masks: element e of model i is number e of the stream ... */
    const char *stream;         /* ... of this name and i */
    size_t memory;              /* most bytes to work with, 0 = no limit */
    const moe_mapping *file;    /* of models[0], when its bytes may be copied file to file ... */
    const char *path;           /* ... and are at `at` of the file of this name; or NULL */
    uint64_t at;
} moe_merge;

/* Where the result goes: to `memory`, or to `at` of an output. */
typedef struct moe_sink {
    moe_stored type;            /* F32, BF16, F16, F64; for copies any */
    char *memory;
    moe_output *output;
    uint64_t at;
    moe_checksum *of_file, *of_tensor;      /* fed with the bytes in order; or NULL */
} moe_sink;

/* What a merge tells of one model. The reference is the base, or the mean of the models when there
 * is none. */
typedef struct moe_merge_figure {
    double cosine;              /* with the reference */
    double distance;            /* |model - reference| / |reference| */
    double kept;                /* share of elements that a mask kept */
} moe_merge_figure;

typedef struct moe_merge_figures {
    moe_merge_figure *models;   /* `count` of them, to be filled */
    double agreement;           /* share of elements where the differences from the reference that
                                   are not 0 have one sign */
} moe_merge_figures;

typedef struct moe_job moe_job;

/* A method: what a merge must have for it, and how it is done. */
typedef struct moe_method {
    const char *name;
    const char *params;         /* names of the parameters it knows, between blanks */
    enum { MOE_NO_BASE, MOE_MAYBE_BASE, MOE_NEEDS_BASE } base;
    int least, most;            /* models; most 0 = any number */
    bool normalize, rescale;    /* defaults of these parameters */
    double epsilon;             /* and of this one, when it is not 0.15 */
    bool copies;                /* elements stay as they are stored, of whatever type */
    moe_status (*run)(moe_job *j);
} moe_method;

/* The methods in order of their names, by number or by name; NULL when there is none. */
const moe_method *moe__method(size_t i);
const moe_method *moe__method_named(const char *name);

/* Does it. `figures` may be NULL. MOE_EARG when the merge does not fit the method or makes no sense
 * (messages begin with its name), MOE_ENOMEM when `memory` is too little, MOE_EINTR, and what
 * writing may meet. */
moe_status moe__merge(moe_ctx *ctx, const moe_method *method, const moe_merge *m,
                      const moe_sink *sink, moe_merge_figures *figures);

#endif
