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

/* ---- documents ------------------------------------------------------------------------------ */

/* The documents that a window touches with its tokens, the last target included. */
typedef struct span {
    int64_t first, last;
} span;

static span documents_of(const moe_corpus *c, int split, int64_t at, int64_t targets) {
    return (span){moe__corpus_document(c, split, at),
                  moe__corpus_document(c, split, at + targets)};
}

/* How many windows of an epoch without a phase there are, at most, no two of which share a document;
 * `enough` are not counted further. Each window in order that begins behind the documents of the
 * one before: the earliest ends leave most room. */
static int64_t windows_apart(const moe_corpus *c, int split, int64_t context, int64_t enough) {
    const moe_part *part = &c->part[split];
    int64_t windows = moe__corpus_epoch(c, split, context), count = 0;
    for (int64_t i = 0; i < windows && count < enough; count++) {
        int64_t last = documents_of(c, split, i * context, context).last;
        i = (part->at[last + 1] + context - 1) / context;
    }
    return count;
}

/* Does window `at` share a document with one of the members before it that must be apart from it? */
static bool is_near(const moe_corpus *c, const moe_draw *d, const int64_t *members, int64_t i) {
    if (d->apart == 1) return false;
    span own = documents_of(c, d->split, members[i], d->context);
    for (int64_t k = i > d->apart - 1 ? i - (d->apart - 1) : 0; k < i; k++) {
        span other = documents_of(c, d->split, members[k], d->context);
        if (own.first <= other.last && other.first <= own.last) return true;
    }
    return false;
}

/* ---- batches -------------------------------------------------------------------------------- */

static moe_status can_be_apart(const moe_corpus *c, const moe_draw *d) {
    if (d->apart == 1) return MOE_OK;
    int64_t most = windows_apart(c, d->split, d->context, d->apart);
    if (most == d->apart) return MOE_OK;
    return moe__fail(c->ctx, MOE_EARG, "split \"%s\" has %lld windows of %lld tokens that share no "
                     "document: a group needs %lld\nhint: give the corpus more documents, or use "
                     "smaller groups", moe__split_name(d->split), (long long)most,
                     (long long)d->context, (long long)d->apart);
}

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
    return can_be_apart(c, d);
}

/* Inputs and targets of one window that lies wholly in the stream. */
static moe_status read_window(const moe_corpus *c, int split, int64_t at, int64_t context,
                              int32_t *x, int32_t *y) {
    moe_status status = moe__corpus_read(c, split, at, context, x);
    return status == MOE_OK ? moe__corpus_read(c, split, at + 1, context, y) : status;
}

/* Where the members of a batch begin: windows from draw *next on, all of one epoch. Returns how many
 * there are before the epoch ends, and leaves in *next the draw behind the last. */
static int64_t choose(const moe_corpus *c, const moe_draw *d, int64_t *next, int64_t *members) {
    int64_t windows = moe__corpus_epoch(c, d->split, d->context), i = 0;
    int64_t end = (*next / windows + 1) * windows;
    while (i < d->batch && *next < end) {
        members[i] = moe__corpus_window(c, d, (*next)++);
        if (!is_near(c, d, members, i)) i++;
    }
    return i;
}

/* What is left of an epoch may be too little; of a few whole ones, none should be. */
#define EPOCHS 16

static moe_status choose_all(const moe_corpus *c, const moe_draw *d, int64_t *next,
                             int64_t *members) {
    int64_t found = 0;
    *next = d->first;
    for (int k = 0; k <= EPOCHS && found < d->batch; k++) found = choose(c, d, next, members);
    if (found == d->batch) return MOE_OK;
    return moe__fail(c->ctx, MOE_EARG, "split \"%s\": no batch of %lld windows of %lld tokens was "
                     "found in which no %lld successive ones share a document\nhint: give the "
                     "corpus more documents, or use smaller groups or batches",
                     moe__split_name(d->split), (long long)d->batch, (long long)d->context,
                     (long long)d->apart);
}

static moe_status read_members(const moe_corpus *c, const moe_draw *d, const int64_t *members,
                               int32_t *x, int32_t *y) {
    moe_status status = MOE_OK;
    for (int64_t i = 0; i < d->batch && status == MOE_OK; i++)
        status = read_window(c, d->split, members[i], d->context, x + i * d->context,
                             y + i * d->context);
    return status;
}

moe_status moe__corpus_batch(const moe_corpus *c, const moe_draw *d, int32_t *x, int32_t *y,
                             int64_t *next) {
    size_t bytes = sizeof(int64_t) * (size_t)d->batch;
    int64_t *members = moe__alloc(c->ctx, bytes);
    if (!members) return moe__no_memory(c->ctx, bytes, "a batch");
    moe_status status = choose_all(c, d, next, members);
    if (status == MOE_OK) status = read_members(c, d, members, x, y);
    moe__free(c->ctx, members, bytes);
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

void moe__corpus_evaluation_documents(const moe_corpus *c, int split, int64_t context,
                                      int64_t limit, int64_t i, int64_t *first, int64_t *last) {
    int64_t count = moe__corpus_windows(c, split, context, limit);
    int64_t at = evaluation_at(c, split, context, count, i), left = targets(c, split) - at;
    span own = documents_of(c, split, at, left < context ? left : context);
    *first = own.first;
    *last = own.last;
}
