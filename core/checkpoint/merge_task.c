/* merge_task.c -- methods that add differences from a base (Ilharco et al. 2023), thinned out.
 *
 *   d = x - base  ->  mask  ->  w d  ->  drop what contradicts the majority  ->  sum  ->  + base
 *
 * One path for all of them: they differ in the mask (merge_masks.h), in whether there is a vote on
 * signs (TIES, Yadav et al. 2023), and in defaults.
 */
#include <math.h>
#include <string.h>

#include "checkpoint/merge_masks.h"

typedef struct task {
    moe_masks masks;
    bool vote;
    float *scale;               /* of each model's differences */
    double *slots;              /* [spans x models x 2] |d| before and after the mask */
    double divisor;             /* without a vote */
} task;

/* --- differences ----------------------------------------------------------------------------- */

/* Calls `fn` for each piece of a span, with the thinned differences on the desk. */
typedef void piece_fn(moe_desk *d, task *t, int64_t n);
static void each_piece(moe_desk *d, task *t, int64_t span, int64_t first, int64_t n, bool emit,
                       piece_fn *before, piece_fn *after) {
    bool rows = t->masks.how == MOE_KEEP_RANDOM_BY_RANK;
    moe__masks_begin(&t->masks, d, span);
    for (int64_t end = first + n, some; first < end; first += some) {
        int64_t left = end - first, column = first % d->job->width;
        if (rows && left > d->job->width - column) left = d->job->width - column;
        if (column == 0) moe__masks_row(&t->masks, d, first);
        some = moe__desk_load(d, first, left);
        if (emit) moe__desk_look(d, some);
        moe__desk_deltas(d, some);
        if (before) before(d, t, some);
        moe__masks_apply(&t->masks, d, first, some);
        after(d, t, some);
    }
}

/* --- rescaling: |d| of all elements together stays what it was ------------------------------- */

static double *lanes_of(moe_desk *d, const task *t) {
    size_t masks = moe__masks_each(d->job, t->masks.how);
    return (double *)(void *)(d->own + MOE_ALIGNED(masks));
}

static void measure(moe_desk *d, task *t, int64_t n, int which) {
    for (int i = 0; i < d->job->m->count; i++)
        d->job->k->merge_l1(n, d->x[i], lanes_of(d, t) + (2 * i + which) * MOE_LANES);
}

static void measure_before(moe_desk *d, task *t, int64_t n) { measure(d, t, n, 0); }
static void measure_after(moe_desk *d, task *t, int64_t n) { measure(d, t, n, 1); }

static void measure_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    task *t = arg;
    int sums = 2 * d->job->m->count;
    memset(lanes_of(d, t), 0, (size_t)sums * MOE_LANES * sizeof(double));
    each_piece(d, t, span, first, n, false, measure_before, measure_after);
    for (int i = 0; i < sums; i++)
        t->slots[span * sums + i] = moe__lanes_sum(lanes_of(d, t) + i * MOE_LANES);
}

static int64_t spans_of(const moe_job *j) { return (j->m->elements + j->unit - 1) / j->unit; }

static moe_status find_scales(moe_job *j, task *t) {
    int n = j->m->count;
    for (int i = 0; i < n; i++) t->scale[i] = 1;
    if (!j->p->rescale) return MOE_OK;
    moe_status s = moe__job_scan_rows(j, measure_span, t);
    double *sums = t->slots + spans_of(j) * 2 * n;
    moe__slots_sum(t->slots, spans_of(j), 2 * n, sums);
    for (int i = 0; i < n; i++)
        if (sums[2 * i] >= 1e-7 && sums[2 * i + 1] >= 1e-7)
            t->scale[i] = (float)(sums[2 * i] / sums[2 * i + 1]);
    return s;
}

/* --- the sum --------------------------------------------------------------------------------- */

/* y = base + lambda (sum w d) / divisor; with a vote only over those elements of d whose weighted
 * sign is that of the sum, by their weights. */
static void add_piece(moe_desk *d, task *t, int64_t n) {
    const moe_job *j = d->job;
    const moe_kernels *k = j->k;
    float *total = t->vote ? d->z : d->y;
    float *divisor = (float *)(void *)(lanes_of(d, t) + 2 * j->m->count * MOE_LANES);
    for (int i = 0; i < j->m->count; i++)
        if (t->scale[i] != 1) k->merge_scale(n, t->scale[i], d->x[i], d->x[i]);
    k->merge_sum(n, j->m->count, (const float *const *)d->x, j->p->weight, total);
    if (t->vote) {
        memset(d->y, 0, (size_t)n * sizeof(float));
        memset(divisor, 0, (size_t)n * sizeof(float));
        for (int i = 0; i < j->m->count; i++)
            k->merge_vote(n, (float)j->p->weight[i], d->x[i], d->z, d->y, divisor);
        if (j->p->normalize) k->merge_divide(n, divisor, 0, d->y);
    } else if (j->p->normalize && t->divisor != 1)
        k->merge_scale(n, (float)(1 / t->divisor), d->y, d->y);
    k->merge_finish(n, (float)j->p->lambda, d->base, d->y);
    moe__desk_put(d, n);
}

static void add_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    each_piece(d, arg, span, first, n, true, NULL, add_piece);
}

static moe_status run(moe_job *j, moe_thinning how, bool vote) {
    task t = {.vote = vote, .divisor = 0};
    size_t n = (size_t)j->m->count;
    moe_status s = j->m->masks ? MOE_OK : moe__masks_check(j, how);
    if (s) return s;
    if (how == MOE_KEEP_RANDOM_BY_RANK && !j->m->masks) moe__job_by_rows(j);
    size_t slots = j->p->rescale ? ((size_t)spans_of(j) + 1) * 2 * n * sizeof(double) : 0;
    size_t lanes = 2 * n * MOE_LANES * sizeof(double), floats = 2048 * sizeof(float);
    size_t each = MOE_ALIGNED(moe__masks_each(j, how)) + lanes + floats;
    size_t masks = moe__masks_shared(j, how);
    s = moe__job_reserve(j, masks + slots + n * sizeof(float), each);
    if (s) return s;
    t.slots = (double *)(void *)(j->own + masks);
    t.scale = (float *)(void *)(j->own + masks + slots);
    for (size_t i = 0; i < n; i++) t.divisor += j->p->weight[i];
    if (fabs(t.divisor) < 1e-8) t.divisor = 1;
    s = moe__masks_open(&t.masks, j, how, j->own);
    if (!s) s = find_scales(j, &t);
    return s ? s : moe__job_emit(j, add_span, &t);
}

/* --- records --------------------------------------------------------------------------------- */

#define METHOD(id, how, vote, known, ...)                                                          \
    static moe_status id(moe_job *j) { return run(j, how, vote); }                                 \
    const moe_method moe__method_##id = {.name = #id,                                              \
        .params = " weight! normalize rescale lambda " known, .base = MOE_NEEDS_BASE,              \
        .least = 1, .run = id, __VA_ARGS__};

METHOD(task_arithmetic, MOE_KEEP_ALL, false, "", .normalize = false)
METHOD(ties, MOE_KEEP_LARGEST, true, "density ", .normalize = true)
METHOD(dare_linear, MOE_KEEP_RANDOM, false, "density ", .rescale = true)
METHOD(dare_ties, MOE_KEEP_RANDOM, true, "density ", .rescale = true)
METHOD(breadcrumbs, MOE_KEEP_MIDDLE, false, "density gamma ", .normalize = false)
METHOD(breadcrumbs_ties, MOE_KEEP_MIDDLE, true, "density gamma ", .normalize = false)
METHOD(della, MOE_KEEP_RANDOM_BY_RANK, true, "density epsilon ", .normalize = true, .rescale = true)
METHOD(della_linear, MOE_KEEP_RANDOM_BY_RANK, false, "density epsilon ", .rescale = true)
