/* lines.c -- how much of the test split a model may have seen: lines that train holds as well. */
#include "text/lines.h"

#include <string.h>

#include "text/corpus.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* ---- lines ---------------------------------------------------------------------------------- */

static uint32_t symbol_at(const char *p, int width) {
    uint32_t value = 0;
    memcpy(&value, p, (size_t)width);
    return value;
}

/* The next line of more than `longer` symbols that begins at or after *at; false when there is
 * none. Its hash is never 0. */
static bool next_line(const moe_lines *set, const char *text, int64_t n, int64_t *at,
                      uint64_t *hash) {
    while (*at < n) {
        int64_t begin = *at, end = begin;
        while (end < n && symbol_at(text + end * set->width, set->width) != set->newline) end++;
        *at = end + 1;
        if (end - begin <= set->longer) continue;
        *hash = XXH3_64bits(text + begin * set->width, (size_t)((end - begin) * set->width));
        *hash += *hash == 0;
        return true;
    }
    return false;
}

/* ---- the set -------------------------------------------------------------------------------- */

static size_t slots_of(const moe_lines *set) { return set->slots.size / sizeof(uint64_t); }

/* The place of the hash, or the free one where it belongs. */
static uint64_t *find(const moe_lines *set, uint64_t hash) {
    uint64_t *slots = (uint64_t *)(void *)set->slots.data;
    size_t mask = slots_of(set) - 1, i = hash & mask;
    while (slots[i] && slots[i] != hash) i = (i + 1) & mask;
    return slots + i;
}

/* Twice as many slots, or the first. */
static moe_status grow(moe_lines *set) {
    moe_lines old = *set;
    size_t bytes = old.slots.size ? 2 * old.slots.size : 1024 * sizeof(uint64_t);
    set->slots = (moe_buffer){.ctx = set->ctx};
    moe_status status = moe__buffer_reserve(&set->slots, bytes);
    if (status != MOE_OK) {
        set->slots = old.slots;
        return status;
    }
    memset(set->slots.data, 0, bytes);
    set->slots.size = bytes;
    for (size_t i = 0; i < slots_of(&old); i++) {
        uint64_t hash = ((uint64_t *)(void *)old.slots.data)[i];
        if (hash) *find(set, hash) = hash;
    }
    moe__buffer_free(&old.slots);
    return MOE_OK;
}

moe_status moe__lines_add(moe_lines *set, const char *text, int64_t n) {
    uint64_t hash;
    for (int64_t at = 0; next_line(set, text, n, &at, &hash);) {
        if (2 * (set->known + 1) > slots_of(set)) {
            moe_status status = grow(set);
            if (status != MOE_OK) return status;
        }
        uint64_t *slot = find(set, hash);
        set->known += *slot == 0;
        *slot = hash;
    }
    return MOE_OK;
}

void moe__lines_tally(const moe_lines *set, const char *text, int64_t n, int64_t *lines,
                      int64_t *shared) {
    uint64_t hash;
    for (int64_t at = 0; next_line(set, text, n, &at, &hash);) {
        ++*lines;
        *shared += set->known > 0 && *find(set, hash) == hash;
    }
}

void moe__lines_open(moe_ctx *ctx, int width, uint32_t newline, int64_t longer, moe_lines *out) {
    *out = (moe_lines){.ctx = ctx, .width = width, .newline = newline, .longer = longer,
                       .slots.ctx = ctx};
    moe__ctx_retain(ctx);
}

void moe__lines_close(moe_lines *set) {
    if (!set->ctx) return;
    moe__buffer_free(&set->slots);
    moe__ctx_release(set->ctx);
    set->ctx = NULL;
}

/* ---- a corpus ------------------------------------------------------------------------------- */

static const char *document(const moe_corpus *c, const moe_part *part, int64_t d, int64_t *n) {
    *n = part->at[d + 1] - part->at[d];
    return c->ids + part->from[d] * c->width;
}

moe_status moe__corpus_shared_lines(const moe_corpus *c, uint32_t newline, int64_t longer,
                                    int64_t *lines, int64_t *shared) {
    const moe_part *train = &c->part[MOE_TRAIN], *test = &c->part[MOE_TEST];
    moe_lines set;
    moe_status status = MOE_OK;
    int64_t n;
    *lines = *shared = 0;
    moe__lines_open(c->ctx, c->width, newline, longer, &set);
    for (int64_t d = 0; d < train->documents && status == MOE_OK; d++) {
        const char *ids = document(c, train, d, &n);
        status = moe__lines_add(&set, ids, n);
    }
    for (int64_t d = 0; d < test->documents && status == MOE_OK; d++) {
        const char *ids = document(c, test, d, &n);
        moe__lines_tally(&set, ids, n, lines, shared);
    }
    moe__lines_close(&set);
    return status;
}
