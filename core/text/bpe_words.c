/* bpe_words.c -- the words of a text, counted. */
#include <string.h>

#include "text/bpe_train.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

void moe__bpe_words_open(moe_ctx *ctx, uint32_t most, moe_bpe_words *out) {
    *out = (moe_bpe_words){.ctx = ctx, .most = most, .bytes.ctx = ctx, .words.ctx = ctx,
                           .slots.ctx = ctx};
    moe__ctx_retain(ctx);
}

void moe__bpe_words_close(moe_bpe_words *w) {
    moe__buffer_free(&w->bytes);
    moe__buffer_free(&w->words);
    moe__buffer_free(&w->slots);
    moe__ctx_release(w->ctx);
}

/* ---- the table ------------------------------------------------------------------------------ */

static bool is_word(const moe_bpe_words *w, uint32_t i, const char *bytes, size_t size) {
    const moe_bpe_word *word = moe__bpe_word(w, i);
    return word->size == size && memcmp(w->bytes.data + word->at, bytes, size) == 0;
}

static uint32_t *slots_of(const moe_bpe_words *w) { return (uint32_t *)(void *)w->slots.data; }

/* The slot of the word, or the free one where it belongs. */
static uint32_t *find(const moe_bpe_words *w, const char *bytes, size_t size) {
    uint32_t *slots = slots_of(w), i = (uint32_t)XXH3_64bits(bytes, size) & w->mask;
    while (slots[i] && !is_word(w, slots[i] - 1, bytes, size)) i = (i + 1) & w->mask;
    return slots + i;
}

static void fill_slots(moe_bpe_words *w) {
    memset(w->slots.data, 0, ((size_t)w->mask + 1) * sizeof(uint32_t));
    for (uint32_t i = 0; i < moe__bpe_count(w); i++) {
        const moe_bpe_word *word = moe__bpe_word(w, i);
        *find(w, w->bytes.data + word->at, word->size) = i + 1;
    }
}

/* Slots for one word more, at most half of them taken. */
static moe_status make_slots(moe_bpe_words *w) {
    size_t slots = w->slots.data ? (size_t)w->mask + 1 : 0, wanted = slots ? slots : 1024;
    while (wanted < 2 * ((size_t)moe__bpe_count(w) + 1)) wanted *= 2;
    if (wanted == slots) return MOE_OK;
    moe_status status = moe__buffer_reserve(&w->slots, wanted * sizeof(uint32_t));
    if (status != MOE_OK) return status;
    w->mask = (uint32_t)(wanted - 1);
    fill_slots(w);
    return MOE_OK;
}

/* ---- forgetting ----------------------------------------------------------------------------- */

static uint32_t count_above(const moe_bpe_words *w, int64_t count) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < moe__bpe_count(w); i++) n += moe__bpe_word(w, i)->count > count;
    return n;
}

/* Moves the words that occurred more often than `count` together. */
static void keep_above(moe_bpe_words *w, int64_t count) {
    uint32_t n = moe__bpe_count(w), kept = 0;
    moe_bpe_word *words = (moe_bpe_word *)(void *)w->words.data;
    w->bytes.size = 0;
    for (uint32_t i = 0; i < n; i++) {
        moe_bpe_word word = words[i];
        if (word.count <= count) {
            w->forgotten += word.count;
            continue;
        }
        memmove(w->bytes.data + w->bytes.size, w->bytes.data + word.at, word.size);
        word.at = w->bytes.size;
        w->bytes.size += word.size;
        words[kept++] = word;
    }
    w->words.size = kept * sizeof *words;
}

static void forget(moe_bpe_words *w) {
    int64_t count = 1;
    while (count_above(w, count) > w->most / 2) count *= 2;
    keep_above(w, count);
    fill_slots(w);
}

/* ---- counting ------------------------------------------------------------------------------- */

static moe_status add_new(moe_bpe_words *w, const char *bytes, size_t size) {
    if (moe__bpe_count(w) >= w->most) forget(w);
    moe_status status = make_slots(w);
    if (status == MOE_OK) status = moe__buffer_reserve(&w->words, sizeof(moe_bpe_word));
    if (status == MOE_OK) status = moe__buffer_add(&w->bytes, bytes, size);
    if (status != MOE_OK) return status;
    moe_bpe_word word = {w->bytes.size - size, (uint32_t)size, 1};
    *find(w, bytes, size) = moe__bpe_count(w) + 1;
    return moe__buffer_add(&w->words, &word, sizeof word);
}

static moe_status add_part(moe_bpe_words *w, const char *bytes, size_t size) {
    uint32_t *slot = w->slots.data ? find(w, bytes, size) : NULL;
    if (!slot || !*slot) return add_new(w, bytes, size);
    ((moe_bpe_word *)(void *)w->words.data)[*slot - 1].count++;
    return MOE_OK;
}

static moe_status add_piece(moe_bpe_words *w, const char *bytes, size_t size) {
    moe_status status = MOE_OK;
    while (size > 0 && status == MOE_OK) {
        size_t part = size < MOE_BPE_LONGEST ? size : MOE_BPE_LONGEST;
        status = add_part(w, bytes, part);
        bytes += part;
        size -= part;
    }
    return status;
}

moe_status moe__bpe_words_add(moe_bpe_words *w, moe_split split, const char *text, size_t size) {
    for (size_t at = 0, pieces = 0, end; at < size; at = end, pieces++) {
        if (pieces % 65536 == 0 && moe_interrupted(w->ctx))
            return moe__fail(w->ctx, MOE_EINTR, "interrupted!");
        end = moe__split_next(split, text, size, at);
        moe_status status = add_piece(w, text + at, end - at);
        if (status != MOE_OK) return status;
    }
    return MOE_OK;
}
