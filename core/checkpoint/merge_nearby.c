/* merge_nearby.c -- methods that decide for each element by how far the models are apart. */
#include <math.h>
#include <string.h>

#include "checkpoint/merge_job.h"

/* --- nearswap -------------------------------------------------------------------------------- */

/* The base moves to the other model where the two are within t of each other, and less
 * elsewhere. */
static void swap_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    (void)arg, (void)span;
    for (int64_t end = first + n, some; first < end; first += some) {
        some = moe__desk_load(d, first, end - first);
        moe__desk_look(d, some);
        d->job->k->merge_nearswap(some, (float)d->job->p->t, d->base, d->x[0], d->y);
        moe__desk_kept(d, 0, some);
        moe__desk_put(d, some);
    }
}

static moe_status nearswap(moe_job *j) {
    moe_status s = moe__job_reserve(j, 0, 0);
    return s ? s : moe__job_emit(j, swap_span, NULL);
}

/* --- RAM ------------------------------------------------------------------------------------- */

/* What a model changed alone is taken as it is, what several changed as their mean. */
typedef struct ram {
    float *factor;              /* of what a model changed alone */
    int64_t *slots;             /* [spans x models x 2]: changed together, and alone */
    float epsilon;
} ram;

static void add_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const ram *o = arg;
    const moe_kernels *k = d->job->k;
    int count = d->job->m->count;
    (void)span;
    for (int64_t end = first + n, some; first < end; first += some) {
        some = moe__desk_load(d, first, end - first);
        moe__desk_look(d, some);
        moe__desk_deltas(d, some);
        memset(d->flags, 0, (size_t)some);
        for (int i = 0; i < count; i++)
            moe__desk_kept(d, i, k->merge_count_changed(some, o->epsilon, d->x[i], d->flags));
        memset(d->y, 0, (size_t)some * sizeof(float));
        for (int i = 0; i < count; i++)
            k->merge_add_changed(some, o->epsilon, o->factor[i], d->flags, d->x[i], d->y);
        k->merge_finish(some, 1, d->base, d->y);
        moe__desk_put(d, some);
    }
}

static void count_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const ram *o = arg;
    const moe_kernels *k = d->job->k;
    int count = d->job->m->count;
    int64_t *slots = o->slots + span * count * 2;
    for (int64_t end = first + n, some; first < end; first += some) {
        some = moe__desk_load(d, first, end - first);
        moe__desk_deltas(d, some);
        memset(d->flags, 0, (size_t)some);
        for (int i = 0; i < count; i++) k->merge_count_changed(some, o->epsilon, d->x[i], d->flags);
        for (int i = 0; i < count; i++) {
            int64_t alone, changed = k->merge_changed(some, o->epsilon, d->x[i], d->flags, &alone);
            slots[2 * i] += changed - alone;
            slots[2 * i + 1] += alone;
        }
    }
}

static moe_status open_ram(moe_job *j, ram *o, bool counts) {
    size_t n = (size_t)j->m->count;
    size_t slots = counts ? (size_t)moe__job_spans(j) * n * 2 * sizeof(int64_t) : 0;
    moe_status s = moe__job_reserve(j, slots + n * sizeof(float), 0);
    if (s) return s;
    if (j->m->count > 255)
        return moe__fail(j->ctx, MOE_EARG, "%s: %d models are too many, 255 is the most",
                         j->m->name, j->m->count);
    o->slots = (int64_t *)(void *)j->own;
    o->factor = (float *)(void *)(j->own + slots);
    o->epsilon = (float)j->p->epsilon[0];
    for (size_t i = 0; i < n; i++) o->factor[i] = 1;
    return MOE_OK;
}

static moe_status run_ram(moe_job *j) {
    ram o;
    moe_status s = open_ram(j, &o, false);
    return s ? s : moe__job_emit(j, add_span, &o);
}

/* The more a model shares with others, the more what it changed alone counts. */
static moe_status run_ramplus(moe_job *j) {
    ram o;
    moe_status s = open_ram(j, &o, true);
    if (!s) s = moe__job_scan(j, count_span, &o);
    for (int i = 0; i < j->m->count && !s; i++) {
        double shared = 0, alone = 0;
        for (int64_t span = 0; span < moe__job_spans(j); span++) {
            shared += (double)o.slots[(span * j->m->count + i) * 2];
            alone += (double)o.slots[(span * j->m->count + i) * 2 + 1];
        }
        double ratio = shared / fmax(alone, j->p->epsilon[i]);
        o.factor[i] = (float)(1 + j->p->r * fmin(fmax(ratio, 0), j->p->alpha));
    }
    return s ? s : moe__job_emit(j, add_span, &o);
}

/* --- records --------------------------------------------------------------------------------- */

const moe_method moe__method_nearswap = {
    .name = "nearswap", .params = " t! ", .base = MOE_NEEDS_BASE, .least = 1, .most = 1,
    .run = nearswap};
const moe_method moe__method_ram = {
    .name = "ram", .params = " epsilon ", .base = MOE_NEEDS_BASE, .least = 1, .epsilon = 1e-5,
    .run = run_ram};
const moe_method moe__method_ramplus_tl = {
    .name = "ramplus_tl", .params = " epsilon r alpha ", .base = MOE_NEEDS_BASE, .least = 1,
    .epsilon = 1e-5, .run = run_ramplus};
