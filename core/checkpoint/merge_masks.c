#include "checkpoint/merge_masks.h"

#include <stdio.h>
#include <string.h>

#include "base/rng.h"

#define DIGITS 2048             /* of a pass of sorting: 11 bits */
#define PASSES 3
#define FEW 64                  /* columns that are sorted without counting digits */

static bool by_size(moe_thinning how) { return how == MOE_KEEP_LARGEST || how == MOE_KEEP_MIDDLE; }

static bool by_rank(const moe_masks *o) { return o->how == MOE_KEEP_RANDOM_BY_RANK; }

/* --- memory ---------------------------------------------------------------------------------- */

/* A desk's own memory: the states of its cuts behind what selecting takes, or what a row takes. */
typedef struct row_desk {
    uint64_t *pairs, *other;    /* [width] key and column */
    uint32_t *words;            /* [width] random */
    uint32_t *digits;           /* [PASSES x DIGITS] */
    uint8_t *flags;             /* [models x width] */
} row_desk;

static size_t row_bytes(const moe_job *j) {
    size_t width = (size_t)j->width;
    return 2 * MOE_ALIGNED(width * sizeof(uint64_t)) + MOE_ALIGNED((width + 8) * sizeof(uint32_t))
           + MOE_ALIGNED(PASSES * DIGITS * sizeof(uint32_t)) + (size_t)j->m->count * width;
}

static row_desk row_of(const moe_desk *d) {
    size_t width = (size_t)d->job->width;
    char *at = d->own;
    row_desk r = {.pairs = (uint64_t *)(void *)at};
    r.other = (uint64_t *)(void *)(at += MOE_ALIGNED(width * sizeof(uint64_t)));
    r.words = (uint32_t *)(void *)(at += MOE_ALIGNED(width * sizeof(uint64_t)));
    r.digits = (uint32_t *)(void *)(at += MOE_ALIGNED((width + 8) * sizeof(uint32_t)));
    r.flags = (uint8_t *)(at += MOE_ALIGNED(PASSES * DIGITS * sizeof(uint32_t)));
    return r;
}

size_t moe__masks_each(const moe_job *j, moe_thinning how) {
    size_t n = (size_t)j->m->count;
    if (j->m->masks || how == MOE_KEEP_ALL) return 64;
    if (by_size(how)) return MOE_ALIGNED(moe__cut_each((int)n)) + n * sizeof(moe_cut_state);
    if (how == MOE_KEEP_RANDOM) return (size_t)(2048 + 8) * sizeof(uint32_t);
    return row_bytes(j);
}

size_t moe__masks_shared(const moe_job *j, moe_thinning how) {
    size_t n = (size_t)j->m->count;
    size_t cuts = by_size(how) && !j->m->masks ? moe__cut_shared(j, (int)n) : 0;
    return MOE_ALIGNED(n * sizeof(moe_cut)) + MOE_ALIGNED(n * sizeof(uint64_t)) + cuts;
}

static moe_cut_state *states_of(const moe_masks *o, const moe_desk *d) {
    return (moe_cut_state *)(void *)(d->own + MOE_ALIGNED(moe__cut_each(o->job->m->count)));
}

/* --- parameters ------------------------------------------------------------------------------ */

/* A share of n, rounded down: 0 .. n for any number, NaN as well. */
static int64_t share_of(int64_t n, double share) {
    return share >= 1 ? n : share > 0 ? (int64_t)(share * (double)n) : 0;
}

moe_status moe__masks_check(const moe_job *j, moe_thinning how) {
    const moe_merge *m = j->m;
    for (int i = 0; i < m->count; i++) {
        double density = j->p->density[i], epsilon = j->p->epsilon[i], gamma = j->p->gamma[i];
        if (how == MOE_KEEP_LARGEST && share_of(m->elements, density) < 1)
            return moe__fail(j->ctx, MOE_EARG, "%s: density %g of model %d keeps none of %lld "
                             "elements", m->name, density, i + 1, (long long)m->elements);
        if (how == MOE_KEEP_MIDDLE && !(gamma >= 0 && gamma <= 1))
            return moe__fail(j->ctx, MOE_EARG, "%s: gamma of model %d must be in 0 .. 1, not %g",
                             m->name, i + 1, gamma);
        if (how == MOE_KEEP_RANDOM_BY_RANK && density > 0 &&
            !(density - epsilon > 0 && density + epsilon < 1))
            return moe__fail(j->ctx, MOE_EARG, "%s: density - epsilon and density + epsilon of "
                             "model %d must be in 0 .. 1: %g and %g", m->name, i + 1,
                             density - epsilon, density + epsilon);
    }
    return MOE_OK;
}

/* The places that stay, in descending order of size: as mergekit counts them in ascending order. */
static void place_cut(const moe_job *j, moe_thinning how, int i, moe_cut *c) {
    int64_t n = j->m->elements;
    double density = j->p->density[i];
    int64_t target = share_of(n, density);
    int64_t top = how == MOE_KEEP_MIDDLE ? share_of(n, j->p->gamma[i]) : 0;
    int64_t smallest = n - target - top > 0 ? n - target - top : 0;
    int64_t last = n - smallest, first = last - target > 0 ? last - target : 0;
    *c = (moe_cut){.all = density >= 1, .none = target == 0};
    if (how == MOE_KEEP_LARGEST) first = 0, last = target;
    c->top.place = first;
    c->bottom.place = last - 1;
}

/* --- by size --------------------------------------------------------------------------------- */

static void deltas_are_keys(moe_desk *d, void *arg, int64_t first, int64_t n) {
    (void)arg, (void)first;
    moe__desk_deltas(d, n);
}

moe_status moe__masks_open(moe_masks *o, moe_job *j, moe_thinning how, char *shared) {
    size_t n = (size_t)j->m->count;
    *o = (moe_masks){.job = j, .how = how, .cuts = (moe_cut *)(void *)shared};
    o->streams = (uint64_t *)(void *)(shared + MOE_ALIGNED(n * sizeof(moe_cut)));
    o->shared = shared + MOE_ALIGNED(n * sizeof(moe_cut)) + MOE_ALIGNED(n * sizeof(uint64_t));
    if (j->m->masks) o->how = MOE_KEEP_ALL;
    for (size_t i = 0; i < n; i++) {
        char name[512];
        snprintf(name, sizeof name, "%s/mask/%zu", j->m->stream, i + 1);
        o->streams[i] = moe__stream(name);
        if (by_size(how)) place_cut(j, how, (int)i, &o->cuts[i]);
    }
    if (!by_size(o->how)) return MOE_OK;
    return moe__cut(j, (int)n, o->cuts, deltas_are_keys, NULL, o->shared);
}

/* --- by chance ------------------------------------------------------------------------------- */

/* A number below it keeps the element: all 2^32 of them when the chance is 1. */
static uint64_t threshold(double chance) {
    double scaled = chance * 4294967296.0;
    return scaled <= 0 ? 0 : scaled >= 4294967296.0 ? (uint64_t)1 << 32 : (uint64_t)(scaled + 0.5);
}

/* Numbers first .. first + n - 1 of a stream; there is room for 8 more. Returns where they are. */
static const uint32_t *draw(const moe_masks *o, int model, int64_t first, int64_t n,
                            uint32_t *words) {
    int64_t skip = first % 4;
    o->job->k->merge_random((n + skip + 3) / 4, o->job->m->seed, o->streams[model],
                            (uint64_t)(first / 4), words);
    return words + skip;
}

/* Short rows: by insertion. */
static uint64_t *sort_few(uint64_t *pairs, int64_t n) {
    for (int64_t i = 1; i < n; i++) {
        uint64_t one = pairs[i];
        int64_t at = i;
        for (; at > 0 && pairs[at - 1] > one; at--) pairs[at] = pairs[at - 1];
        pairs[at] = one;
    }
    return pairs;
}

/* Sorts by the keys, which have 31 bits, and among equal ones by column. */
static uint64_t *sort_pairs(const row_desk *r, int64_t n) {
    uint64_t *from = r->pairs, *to = r->other;
    if (n <= FEW) return sort_few(from, n);
    memset(r->digits, 0, PASSES * DIGITS * sizeof *r->digits);
    for (int64_t i = 0; i < n; i++)
        for (int pass = 0; pass < PASSES; pass++)
            r->digits[pass * DIGITS + (int)(from[i] >> (32 + 11 * pass) & (DIGITS - 1))]++;
    for (int pass = 0; pass < PASSES; pass++) {
        uint32_t *at = r->digits + pass * DIGITS, sum = 0;
        for (int digit = 0; digit < DIGITS; digit++) {
            uint32_t here = at[digit];
            at[digit] = sum;
            sum += here;
        }
        for (int64_t i = 0; i < n; i++)
            to[at[from[i] >> (32 + 11 * pass) & (DIGITS - 1)]++] = from[i];
        uint64_t *swap = from;
        from = to, to = swap;
    }
    return from;
}

static void load_pairs(moe_desk *d, int model, int64_t first, uint64_t *pairs) {
    int64_t width = d->job->width;
    for (int64_t at = 0, some; at < width; at += some) {
        some = moe__desk_load_one(d, model, first + at, width - at);
        d->job->k->merge_minus(some, d->base, d->x[model]);
        for (int64_t i = 0; i < some; i++) {
            uint32_t key;
            memcpy(&key, &d->x[model][i], sizeof key);
            pairs[at + i] = (uint64_t)(key & 0x7fffffffu) << 32 | (uint64_t)(at + i);
        }
    }
}

/* The chance of rank r of 0 .. n-1 grows from density - epsilon to density + epsilon. Where there
 * is one element alone, it has the chance in the middle. */
static void flag_row(const moe_masks *o, moe_desk *d, int model, int64_t first) {
    row_desk r = row_of(d);
    int64_t n = d->job->width;
    uint8_t *flags = r.flags + model * n;
    double density = d->job->p->density[model], epsilon = d->job->p->epsilon[model];
    memset(flags, 0, (size_t)n);
    if (density <= 0) return;
    load_pairs(d, model, first, r.pairs);
    const uint64_t *sorted = sort_pairs(&r, n);
    const uint32_t *words = draw(o, model, first, n, r.words);
    double step = n > 1 ? 2 * epsilon / (double)(n - 1) : 0;
    double least = n > 1 ? density - epsilon : density;
    for (int64_t rank = 0; rank < n; rank++) {
        uint32_t column = (uint32_t)sorted[rank];
        flags[column] = words[column] < threshold(least + step * (double)rank);
    }
}

/* --- a span ---------------------------------------------------------------------------------- */

void moe__masks_begin(const moe_masks *o, moe_desk *d, int64_t span) {
    if (!by_size(o->how)) return;
    for (int i = 0; i < o->job->m->count; i++)
        states_of(o, d)[i] = moe__cut_begin(&o->cuts[i], span);
}

void moe__masks_row(const moe_masks *o, moe_desk *d, int64_t first) {
    if (!by_rank(o)) return;
    for (int i = 0; i < o->job->m->count; i++) flag_row(o, d, i, first);
}

/* flags[i] = whether element i stays, by a mask that was given. */
static int64_t read_mask(moe_desk *d, int model, int64_t first, int64_t n) {
    int64_t kept = 0;
    moe__source_read(d->job->k, &d->job->m->masks[model], first, n, d->z);
    for (int64_t i = 0; i < n; i++) kept += d->flags[i] = d->z[i] != 0;
    return kept;
}

static int64_t flag_piece(const moe_masks *o, moe_desk *d, int i, int64_t first, int64_t n) {
    const moe_job *j = o->job;
    if (by_size(o->how))
        return moe__cut_flags(j->k, &o->cuts[i], &states_of(o, d)[i], n, d->x[i], d->flags);
    if (o->how == MOE_KEEP_RANDOM)
        return j->k->merge_below(n, draw(o, i, first, n, (uint32_t *)(void *)d->own),
                                 threshold(j->p->density[i]), d->flags);
    const uint8_t *row = row_of(d).flags + i * j->width + first % j->width;
    int64_t kept = 0;
    memcpy(d->flags, row, (size_t)n);
    for (int64_t e = 0; e < n; e++) kept += d->flags[e];
    return kept;
}

void moe__masks_apply(const moe_masks *o, moe_desk *d, int64_t first, int64_t n) {
    const moe_job *j = o->job;
    for (int i = 0; i < j->m->count; i++) {
        int64_t kept = n;
        if (j->m->masks)
            kept = read_mask(d, i, first, n);
        else if (o->how != MOE_KEEP_ALL)
            kept = flag_piece(o, d, i, first, n);
        if (kept < n) j->k->merge_mask(n, d->flags, d->x[i]);
        moe__desk_kept(d, i, kept);
    }
}
