/* windows.c -- which tokens a training batch and an evaluation read. corpus.h says the rules. */
#include "base/rng.h"
#include "text/corpus.h"

/* ---- epochs --------------------------------------------------------------------------------- */

/* As many windows as fit behind the largest phase, so that every epoch has the same number. A
 * split with room for a single one lets the phase vary as far as that one allows. */
int64_t moe__corpus_epoch(const moe_corpus *c, int split, int64_t context) {
    int64_t tokens = c->part[split].tokens;
    if (tokens <= context) return 0;
    return tokens / context > 2 ? tokens / context - 1 : 1;
}

static int64_t phases(const moe_corpus *c, int split, int64_t context) {
    int64_t spare = c->part[split].tokens - 1 - moe__corpus_epoch(c, split, context) * context;
    return spare < context - 1 ? spare + 1 : context;
}

/* ---- order ---------------------------------------------------------------------------------- */

#define ROUNDS 8

/* The random order of one epoch: a Feistel network over numbers of 2 * half bits. */
typedef struct order {
    uint64_t key, stream;
    int half;
} order;

static order order_of(uint64_t key, uint64_t stream, uint64_t windows) {
    order o = {.key = key, .stream = stream};
    while (((uint64_t)1 << (2 * o.half)) < windows) o.half++;
    return o;
}

static uint64_t feistel(const order *o, uint64_t n) {
    uint64_t mask = ((uint64_t)1 << o->half) - 1, left = n >> o->half, right = n & mask;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        uint32_t word[4];
        moe__philox(o->key, o->stream, round << 32 | right, word);
        uint64_t next = left ^ (word[0] & mask);
        left = right;
        right = next;
    }
    return left << o->half | right;
}

/* A permutation of 0 .. windows-1: the cycle of the larger permutation, followed until it comes
 * back into range, which takes less than four steps on average. */
static uint64_t shuffled(const order *o, uint64_t windows, uint64_t n) {
    do n = feistel(o, n);
    while (n >= windows);
    return n;
}

int64_t moe__corpus_window(const moe_corpus *c, const moe_draw *d, int64_t k) {
    int64_t windows = moe__corpus_epoch(c, d->split, d->context);
    uint32_t word[4];
    moe__philox(d->seed, d->stream, (uint64_t)(k / windows), word);
    order o = order_of((uint64_t)word[0] << 32 | word[1], d->stream, (uint64_t)windows);
    uint64_t bits = (uint64_t)word[2] << 32 | word[3];
    uint64_t choices = (uint64_t)phases(c, d->split, d->context);
    int64_t phase = (int64_t)(((unsigned __int128)bits * choices) >> 64);
    int64_t n = (int64_t)shuffled(&o, (uint64_t)windows, (uint64_t)(k % windows));
    return phase + n * d->context;
}

/* ---- batches -------------------------------------------------------------------------------- */

moe_status moe__corpus_can_draw(const moe_corpus *c, const moe_draw *d) {
    const char *name = moe__split_name(d->split);
    long long tokens = c->part[d->split].tokens;
    long long windows = moe__corpus_epoch(c, d->split, d->context);
    if (windows == 0)
        return moe__fail(c->ctx, MOE_EARG, "split \"%s\" has %lld tokens: a context of %lld needs "
                         "%lld\nhint: give the corpus more text, or use a shorter context", name,
                         tokens, (long long)d->context, (long long)d->context + 1);
    if (windows < d->batch)
        return moe__fail(c->ctx, MOE_EARG, "split \"%s\" has %lld windows of %lld tokens: a batch "
                         "of %lld would overlap\nhint: give the corpus more text, or use a smaller "
                         "batch or context", name, windows, (long long)d->context,
                         (long long)d->batch);
    return MOE_OK;
}

/* Inputs and targets of one window that lies wholly in the stream. */
static moe_status read_window(const moe_corpus *c, int split, int64_t at, int64_t context,
                              int32_t *x, int32_t *y) {
    moe_status status = moe__corpus_read(c, split, at, context, x);
    return status == MOE_OK ? moe__corpus_read(c, split, at + 1, context, y) : status;
}

/* The first draw of a batch: the next epoch's when this one has too few windows left. */
static int64_t first_draw(const moe_corpus *c, const moe_draw *d) {
    int64_t windows = moe__corpus_epoch(c, d->split, d->context), done = d->first % windows;
    return done + d->batch <= windows ? d->first : d->first - done + windows;
}

moe_status moe__corpus_batch(const moe_corpus *c, const moe_draw *d, int32_t *x, int32_t *y,
                             int64_t *next) {
    int64_t first = first_draw(c, d);
    moe_status status = MOE_OK;
    for (int64_t i = 0; i < d->batch && status == MOE_OK; i++) {
        int64_t at = moe__corpus_window(c, d, first + i);
        status = read_window(c, d->split, at, d->context, x + i * d->context, y + i * d->context);
    }
    *next = first + d->batch;
    return status;
}

/* ---- evaluation ----------------------------------------------------------------------------- */

static int64_t targets(const moe_corpus *c, int split) {
    return c->part[split].tokens > 0 ? c->part[split].tokens - 1 : 0;
}

int64_t moe__corpus_windows(const moe_corpus *c, int split, int64_t context, int64_t limit) {
    int64_t n = targets(c, split), whole = n / context, all = whole + (n % context > 0);
    if (limit < 0 || limit >= all) return all;
    return limit < whole ? limit : whole;
}

/* Where window i of `count` begins. All but the limited ones are neighbours. */
static int64_t evaluation_at(const moe_corpus *c, int split, int64_t context, int64_t count,
                             int64_t i) {
    int64_t n = targets(c, split), whole = n / context;
    if (count >= whole) return i * context;
    return (int64_t)((__int128)i * whole / count) * context;
}

/* The window at the end of the stream: `n` targets, then padding. */
static moe_status read_last(const moe_corpus *c, int split, int64_t at, int64_t n, int64_t context,
                            int32_t *x, int32_t *y) {
    for (int64_t i = n; i < context; i++) {
        x[i] = 0;
        y[i] = -1;
    }
    return read_window(c, split, at, n, x, y);
}

moe_status moe__corpus_evaluation(const moe_corpus *c, int split, int64_t context, int64_t limit,
                                  int64_t first, int64_t n, int32_t *x, int32_t *y) {
    int64_t count = moe__corpus_windows(c, split, context, limit);
    moe_status status = MOE_OK;
    for (int64_t i = 0; i < n && status == MOE_OK; i++, x += context, y += context) {
        int64_t at = evaluation_at(c, split, context, count, first + i);
        int64_t left = targets(c, split) - at;
        status = read_last(c, split, at, left < context ? left : context, context, x, y);
    }
    return status;
}
