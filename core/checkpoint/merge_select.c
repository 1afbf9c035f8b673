#include "checkpoint/merge_select.h"

#include <string.h>

#define BINS 65536              /* the upper 16 of 31 bits */
#define LOW_BITS 15
#define LOW_BINS 32768

/* --- counting -------------------------------------------------------------------------------- */

size_t moe__select_each(int streams, int ranks) {
    size_t upper = (size_t)streams * BINS, lower = (size_t)ranks * LOW_BINS;
    return (upper > lower ? upper : lower) * sizeof(uint32_t);
}

size_t moe__select_shared(int streams, int ranks) {
    size_t upper = (size_t)streams * BINS, lower = (size_t)ranks * LOW_BINS;
    return (upper > lower ? upper : lower) * sizeof(int64_t);
}

typedef struct selection {
    moe_job *job;
    int streams, count;
    moe_rank *ranks;
    moe_keys_fn *keys;
    void *arg;
} selection;

static uint32_t *bins_of(moe_desk *d, int i, int bins) {
    return (uint32_t *)(void *)d->own + (size_t)i * (size_t)bins;
}

static void count_upper(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const selection *s = arg;
    (void)span;
    while (n > 0) {
        int64_t some = moe__desk_load(d, first, n);
        s->keys(d, s->arg, first, some);
        for (int i = 0; i < s->streams; i++)
            d->job->k->merge_histogram(some, d->x[i], bins_of(d, i, BINS));
        first += some, n -= some;
    }
}

static void count_lower(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const selection *s = arg;
    (void)span;
    while (n > 0) {
        int64_t some = moe__desk_load(d, first, n);
        s->keys(d, s->arg, first, some);
        for (int i = 0; i < s->count; i++)
            d->job->k->merge_histogram_low(some, d->x[s->ranks[i].stream],
                                           s->ranks[i].key >> LOW_BITS, bins_of(d, i, LOW_BINS));
        first += some, n -= some;
    }
}

/* Runs a pass and adds the bins of all desks. Counts are whole numbers: any order will do. */
static moe_status count(selection *s, moe_span_fn *fn, int sets, int bins, int64_t *totals) {
    moe_job *j = s->job;
    size_t n = (size_t)sets * (size_t)bins;
    for (int i = 0; i < j->lanes; i++) memset(j->desks[i].own, 0, n * sizeof(uint32_t));
    moe_status status = moe__job_scan(j, fn, s);
    memset(totals, 0, n * sizeof *totals);
    for (int i = 0; i < j->lanes; i++) {
        const uint32_t *own = (const uint32_t *)(const void *)j->desks[i].own;
        for (size_t b = 0; b < n; b++) totals[b] += own[b];
    }
    return status;
}

/* The bin from the top in which a place lies; `above` grows by what lies over it. */
static int find_bin(const int64_t *bins, int n, int64_t place, int64_t *above) {
    int bin = n - 1;
    while (bin > 0 && *above + bins[bin] <= place) *above += bins[bin--];
    return bin;
}

moe_status moe__select(moe_job *j, int streams, moe_rank *ranks, int n, moe_keys_fn *keys,
                       void *arg, char *shared) {
    selection s = {.job = j, .streams = streams, .count = n, .ranks = ranks, .keys = keys,
                       .arg = arg};
    int64_t *totals = (int64_t *)(void *)shared;
    if (j->m->elements > (int64_t)UINT32_MAX)
        return moe__fail(j->ctx, MOE_EUNSUPPORTED, "%s: %lld elements are too many to rank",
                         j->m->name, (long long)j->m->elements);
    moe_status status = n ? count(&s, count_upper, streams, BINS, totals) : MOE_OK;
    for (int i = 0; i < n; i++) {
        ranks[i].above = 0;
        int bin = find_bin(totals + (size_t)ranks[i].stream * BINS, BINS, ranks[i].place,
                           &ranks[i].above);
        ranks[i].key = (uint32_t)bin << LOW_BITS;
    }
    if (!status && n) status = count(&s, count_lower, n, LOW_BINS, totals);
    for (int i = 0; i < n && !status; i++) {
        const int64_t *bins = totals + (size_t)i * LOW_BINS;
        int bin = find_bin(bins, LOW_BINS, ranks[i].place, &ranks[i].above);
        ranks[i].key |= (uint32_t)bin;
        ranks[i].equal = bins[bin];
    }
    return status;
}

/* --- cuts ------------------------------------------------------------------------------------ */

size_t moe__cut_each(int streams) { return moe__select_each(streams, 2 * streams); }

static size_t before_bytes(const moe_job *j) {
    return MOE_ALIGNED((size_t)moe__job_spans(j) * 2 * sizeof(int64_t));
}

size_t moe__cut_shared(const moe_job *j, int streams) {
    size_t n = (size_t)streams;
    return MOE_ALIGNED(moe__select_shared(streams, 2 * streams)) + n * before_bytes(j)
           + MOE_ALIGNED(2 * n * sizeof(moe_rank));
}

typedef struct numbering {
    int streams;
    moe_cut *cuts;
    moe_keys_fn *keys;
    void *arg;
} numbering;

static bool is_cut(const moe_cut *c) { return !c->all && !c->none; }

static void count_equal(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const numbering *u = arg;
    while (n > 0) {
        int64_t some = moe__desk_load(d, first, n);
        u->keys(d, u->arg, first, some);
        for (int i = 0; i < u->streams; i++) {
            const moe_cut *c = &u->cuts[i];
            if (!is_cut(c) || !c->before) continue;
            c->before[2 * span] += d->job->k->merge_equal(some, d->x[i], c->top.key);
            c->before[2 * span + 1] += d->job->k->merge_equal(some, d->x[i], c->bottom.key);
        }
        first += some, n -= some;
    }
}

/* From how many are in a span to how many are before it. */
static void add_up_before(moe_cut *c, int64_t spans) {
    int64_t sum[2] = {0, 0};
    for (int64_t s = 0; s < spans; s++)
        for (int i = 0; i < 2; i++) {
            int64_t here = c->before[2 * s + i];
            c->before[2 * s + i] = sum[i];
            sum[i] += here;
        }
}

/* Whether it matters which of equal ones come first. */
static bool undecided(const moe_cut *c) {
    return is_cut(c) && (c->skip > 0 || c->keep < c->bottom.equal);
}

/* The ranks of all cuts, as one list and back. */
static int collect(int streams, moe_cut *cuts, moe_rank *ranks, bool back) {
    int n = 0;
    for (int i = 0; i < streams; i++) {
        if (!is_cut(&cuts[i])) continue;
        moe_rank *of[2] = {&cuts[i].top, &cuts[i].bottom};
        for (int k = 0; k < 2; k++, n++) {
            of[k]->stream = i;
            if (back)
                *of[k] = ranks[n];
            else
                ranks[n] = *of[k];
        }
    }
    return n;
}

moe_status moe__cut(moe_job *j, int streams, moe_cut *cuts, moe_keys_fn *keys, void *arg,
                    char *shared) {
    numbering u = {.streams = streams, .cuts = cuts, .keys = keys, .arg = arg};
    char *before = shared + MOE_ALIGNED(moe__select_shared(streams, 2 * streams));
    moe_rank *ranks = (moe_rank *)(void *)(before + (size_t)streams * before_bytes(j));
    bool any = false;
    int n = collect(streams, cuts, ranks, false);
    moe_status s = moe__select(j, streams, ranks, n, keys, arg, shared);
    collect(streams, cuts, ranks, true);
    for (int i = 0; i < streams && !s; i++) {
        moe_cut *c = &cuts[i];
        c->before = NULL;
        if (!is_cut(c)) continue;
        c->skip = c->top.place - c->top.above;
        c->keep = c->bottom.place + 1 - c->bottom.above;
        if (!undecided(c)) continue;
        c->before = (int64_t *)(void *)(before + (size_t)i * before_bytes(j));
        any = true;
    }
    if (s || !any) return s;
    s = moe__job_scan(j, count_equal, &u);
    for (int i = 0; i < streams && !s; i++)
        if (cuts[i].before) add_up_before(&cuts[i], moe__job_spans(j));
    return s;
}

moe_cut_state moe__cut_begin(const moe_cut *c, int64_t span) {
    if (!is_cut(c) || !c->before) return (moe_cut_state){0, 0};
    return (moe_cut_state){c->before[2 * span], c->before[2 * span + 1]};
}

/* One by one: a piece in which the equal ones that stay meet those that go. */
static int64_t decide_each(const moe_cut *c, moe_cut_state s, int64_t n, const float *x,
                           uint8_t *flags) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t key;
        memcpy(&key, &x[i], sizeof key);
        key &= 0x7fffffffu;
        bool stays = key <= c->top.key && key >= c->bottom.key;
        if (key == c->top.key && s.top++ < c->skip) stays = false;
        if (key == c->bottom.key && s.bottom++ >= c->keep) stays = false;
        flags[i] = stays;
        kept += stays;
    }
    return kept;
}

int64_t moe__cut_flags(const moe_kernels *k, const moe_cut *c, moe_cut_state *s, int64_t n,
                       const float *x, uint8_t *flags) {
    if (!is_cut(c)) {
        memset(flags, c->all, (size_t)n);
        return c->all ? n : 0;
    }
    uint32_t low = c->bottom.key, high = c->top.key;
    if (!c->before) return k->merge_between(n, low, high, x, flags);
    int64_t tops = k->merge_equal(n, x, high), bottoms = k->merge_equal(n, x, low);
    moe_cut_state before = *s;
    s->top += tops;
    s->bottom += bottoms;
    bool mixed = (before.top < c->skip && s->top > c->skip) ||
                 (before.bottom < c->keep && s->bottom > c->keep);
    if (mixed || low == high) return decide_each(c, before, n, x, flags);
    if (s->top <= c->skip && tops) high--;
    if (before.bottom >= c->keep) low++;
    return k->merge_between(n, low, high, x, flags);
}
