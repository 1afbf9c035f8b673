/* merge_fusion.c -- Arcee Fusion: of two models, the elements of one that matter and changed.
 *
 * Importance is |x - base| times the divergence of the two rows' softmaxes. What is 1.5 times the
 * distance of the quartiles above the median is taken. The quartiles are those of all elements,
 * where others draw a sample from large tensors.
 */
#include <string.h>

#include "checkpoint/merge_select.h"

typedef struct fusion {
    float *divergence;          /* of each row */
    float threshold;
} fusion;

/* --- rows ------------------------------------------------------------------------------------ */

typedef struct row_sums {
    float max[2];
    double lanes[2][MOE_LANES], divergence[MOE_LANES];
} row_sums;

static void one_row(moe_desk *d, const fusion *o, int64_t row) {
    const moe_kernels *k = d->job->k;
    int64_t width = d->job->width, first = row * width;
    row_sums s = {.max = {-__builtin_inff(), -__builtin_inff()}};
    for (int64_t at = 0, some; at < width; at += some) {
        some = moe__desk_load(d, first + at, width - at);
        s.max[0] = k->merge_max(some, d->x[0], s.max[0]);
        s.max[1] = k->merge_max(some, d->base, s.max[1]);
    }
    for (int64_t at = 0, some; at < width; at += some) {
        some = moe__desk_load(d, first + at, width - at);
        k->merge_exp_sum(some, d->x[0], s.max[0], s.lanes[0]);
        k->merge_exp_sum(some, d->base, s.max[1], s.lanes[1]);
    }
    float a = (float)(1 / moe__lanes_sum(s.lanes[0])), b = (float)(1 / moe__lanes_sum(s.lanes[1]));
    for (int64_t at = 0, some; at < width; at += some) {
        some = moe__desk_load(d, first + at, width - at);
        k->merge_divergence(some, d->x[0], s.max[0], a, d->base, s.max[1], b, s.divergence);
    }
    double sum = moe__lanes_sum(s.divergence);
    o->divergence[row] = sum > 0 ? (float)sum : 0;      /* rounding alone makes it negative */
}

static void do_rows(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const fusion *o = arg;
    int64_t width = d->job->width;
    (void)span;
    for (int64_t row = first / width; row < (first + n) / width; row++) one_row(d, o, row);
}

/* --- elements -------------------------------------------------------------------------------- */

/* y = importance of the loaded piece */
static void weigh(moe_desk *d, const fusion *o, int64_t first, int64_t n) {
    int64_t width = d->job->width;
    for (int64_t at = 0, some; at < n; at += some) {
        int64_t row = (first + at) / width, left = width - (first + at) % width;
        some = left < n - at ? left : n - at;
        d->job->k->merge_importance(some, o->divergence[row], d->x[0] + at, d->base + at,
                                    d->y + at);
    }
}

static void importances(moe_desk *d, void *arg, int64_t first, int64_t n) {
    weigh(d, arg, first, n);
    memcpy(d->x[0], d->y, (size_t)n * sizeof(float));
}

static float value_of(uint32_t key) {
    float value;
    memcpy(&value, &key, sizeof value);
    return value;
}

static moe_status find_threshold(moe_job *j, fusion *o, char *shared) {
    int64_t n = j->m->elements;
    moe_rank rank[3] = {{0}};
    for (int i = 0; i < 3; i++) rank[i].place = n - 1 - (int64_t)(0.25 * (i + 1) * (double)(n - 1));
    moe_status s = moe__select(j, 1, rank, 3, importances, o, shared);
    float quarter[3];
    for (int i = 0; i < 3; i++) quarter[i] = value_of(rank[i].key);
    o->threshold = quarter[1] + 1.5f * (quarter[2] - quarter[0]);
    return s;
}

static void choose_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const fusion *o = arg;
    (void)span;
    for (int64_t end = first + n, some; first < end; first += some) {
        some = moe__desk_load(d, first, end - first);
        moe__desk_look(d, some);
        weigh(d, o, first, some);
        memcpy(d->z, d->y, (size_t)some * sizeof(float));
        moe__desk_kept(d, 0, d->job->k->merge_choose(some, o->threshold, d->z, d->x[0], d->base,
                                                     d->y));
        moe__desk_put(d, some);
    }
}

/* Rows are scanned by whole rows, whatever their length: a piece of each at a time. */
static moe_status arcee_fusion(moe_job *j) {
    size_t select = MOE_ALIGNED(moe__select_shared(1, 3));
    moe_status s = moe__job_reserve(j, select + (size_t)j->rows * sizeof(float),
                                    moe__select_each(1, 3));
    if (s) return s;
    fusion o = {.divergence = (float *)(void *)(j->own + select)};
    int64_t emitted = j->unit;
    moe__job_by_rows(j);
    s = moe__job_scan_rows(j, do_rows, &o);
    j->unit = emitted;
    if (!s) s = find_threshold(j, &o, j->own);
    return s ? s : moe__job_emit(j, choose_span, &o);
}

const moe_method moe__method_arcee_fusion = {
    .name = "arcee_fusion", .params = " ", .base = MOE_NEEDS_BASE, .least = 1, .most = 1,
    .run = arcee_fusion};
