/* merge_sce.c -- SCE (Wan et al. 2024): select the elements in which the models differ most,
 * calculate how much each model moved there, erase what contradicts the majority. */
#include <string.h>

#include "checkpoint/merge_select.h"

typedef struct sce {
    moe_cut cut;
    float *share;               /* of each model */
    double *slots;              /* [spans x models] d^2, or how many elements differ at all */
} sce;

static double *lanes_of(moe_desk *d) {
    return (double *)(void *)(d->own + MOE_ALIGNED(moe__cut_each(1)));
}

/* --- selection ------------------------------------------------------------------------------- */

static void variances(moe_desk *d, void *arg, int64_t first, int64_t n) {
    (void)arg, (void)first;
    moe__desk_deltas(d, n);
    d->job->k->merge_variance(n, d->job->m->count, (const float *const *)d->x, d->y);
    memcpy(d->x[0], d->y, (size_t)n * sizeof(float));
}

static void count_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const sce *o = arg;
    int64_t equal = 0;
    for (int64_t end = first + n, some; first < end; first += some) {
        some = moe__desk_load(d, first, end - first);
        variances(d, NULL, first, some);
        equal += d->job->k->merge_equal(some, d->x[0], 0);
    }
    o->slots[span] = (double)(n - equal);
}

static moe_status select_elements(moe_job *j, sce *o, char *shared) {
    double differing;
    o->cut = (moe_cut){.all = j->p->select_topk >= 1};
    if (o->cut.all) return MOE_OK;
    moe_status s = moe__job_scan(j, count_span, o);
    if (s) return s;
    moe__slots_sum(o->slots, moe__job_spans(j), 1, &differing);
    int64_t k = j->p->select_topk > 0 ? (int64_t)(differing * j->p->select_topk) : 0;
    o->cut.none = k <= 0;
    o->cut.bottom.place = k - 1;
    return moe__cut(j, 1, &o->cut, variances, NULL, shared);
}

/* --- erasing --------------------------------------------------------------------------------- */

/* Loads a piece as differences, those that were not selected being 0. */
static int64_t load(moe_desk *d, const sce *o, moe_cut_state *state, int64_t first, int64_t n,
                    bool emit) {
    const moe_kernels *k = d->job->k;
    int count = d->job->m->count;
    int64_t some = moe__desk_load(d, first, n), kept = some;
    if (emit) moe__desk_look(d, some);
    moe__desk_deltas(d, some);
    if (!o->cut.all) {
        k->merge_variance(some, count, (const float *const *)d->x, d->y);
        kept = moe__cut_flags(k, &o->cut, state, some, d->y, d->flags);
        for (int i = 0; i < count; i++) k->merge_mask(some, d->flags, d->x[i]);
    }
    for (int i = 0; emit && i < count; i++) moe__desk_kept(d, i, kept);
    return some;
}

static void measure_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const sce *o = arg;
    int count = d->job->m->count;
    double *lanes = lanes_of(d);
    moe_cut_state state = moe__cut_begin(&o->cut, span);
    memset(lanes, 0, (size_t)count * MOE_LANES * sizeof(double));
    for (int64_t end = first + n, some; first < end; first += some) {
        some = load(d, o, &state, first, end - first, false);
        for (int i = 0; i < count; i++)
            d->job->k->merge_dot(some, d->x[i], d->x[i], lanes + i * MOE_LANES);
    }
    for (int i = 0; i < count; i++)
        o->slots[span * count + i] = moe__lanes_sum(lanes + i * MOE_LANES);
}

static moe_status find_shares(moe_job *j, sce *o) {
    int count = j->m->count;
    double *sums = o->slots + moe__job_spans(j) * count, total = 0;
    moe_status s = moe__job_scan(j, measure_span, o);
    moe__slots_sum(o->slots, moe__job_spans(j), count, sums);
    for (int i = 0; i < count; i++) total += sums[i] / (double)j->m->elements;
    for (int i = 0; i < count; i++)
        o->share[i] = (float)(total < 1e-6 ? 1.0 / count
                                           : sums[i] / (double)j->m->elements / total);
    return s;
}

static void add_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const sce *o = arg;
    const moe_kernels *k = d->job->k;
    int count = d->job->m->count;
    float *divisor = (float *)(void *)(lanes_of(d) + count * MOE_LANES);
    moe_cut_state state = moe__cut_begin(&o->cut, span);
    for (int64_t end = first + n, some; first < end; first += some) {
        some = load(d, o, &state, first, end - first, true);
        for (int i = 0; i < count; i++)
            (i ? k->merge_add : k->merge_scale)(some, 1, d->x[i], d->z);
        memset(d->y, 0, (size_t)some * sizeof(float));
        memset(divisor, 0, (size_t)some * sizeof(float));
        for (int i = 0; i < count; i++)
            k->merge_vote(some, o->share[i], d->x[i], d->z, d->y, divisor);
        k->merge_divide(some, divisor, 1e-6f, d->y);
        k->merge_finish(some, 1, d->base, d->y);
        moe__desk_put(d, some);
    }
}

static moe_status run(moe_job *j) {
    size_t count = (size_t)j->m->count, cut = MOE_ALIGNED(moe__cut_shared(j, 1));
    size_t slots = ((size_t)moe__job_spans(j) + 1) * count * sizeof(double);
    size_t each = MOE_ALIGNED(moe__cut_each(1)) + count * MOE_LANES * sizeof(double)
                  + 2048 * sizeof(float);
    moe_status s = moe__job_reserve(j, cut + slots + count * sizeof(float), each);
    if (s) return s;
    sce o = {.slots = (double *)(void *)(j->own + cut)};
    o.share = (float *)(void *)(j->own + cut + slots);
    s = select_elements(j, &o, j->own);
    if (!s) s = find_shares(j, &o);
    return s ? s : moe__job_emit(j, add_span, &o);
}

const moe_method moe__method_sce = {
    .name = "sce", .params = " select_topk ", .base = MOE_NEEDS_BASE, .least = 1, .run = run};
