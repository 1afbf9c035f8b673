/* bpe.c -- byte-pair encoding of one pre-token, and the memory of pre-tokens. */
#include "text/bpe.h"

#include <stdio.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "text/unicode.h"

/* ---- known words ---------------------------------------------------------------------------- */

#define KNOWN_WORDS 16384       /* 1 MB in all: it stays in the second cache of a processor */
#define KNOWN_BYTES 30
#define KNOWN_IDS 8

/* One line of a processor's cache. */
struct moe_known_word {
    uint8_t size;               /* 0 = free */
    uint8_t count;
    char text[KNOWN_BYTES];
    uint32_t ids[KNOWN_IDS];
};

static moe_known_word *known_word(const moe_bpe *b, const char *text, size_t size) {
    return &b->known[XXH3_64bits(text, size) % KNOWN_WORDS];
}

static bool is_known(const moe_known_word *w, const char *text, size_t size) {
    return w->size == size && memcmp(w->text, text, size) == 0;
}

static void remember(moe_known_word *w, const char *text, size_t size, const uint32_t *ids,
                     size_t count) {
    if (count > KNOWN_IDS) return;
    w->size = (uint8_t)size;
    w->count = (uint8_t)count;
    memcpy(w->text, text, size);
    if (count) memcpy(w->ids, ids, count * sizeof *ids);
}

/* ---- words ---------------------------------------------------------------------------------- */

#define MARK "\xE2\x96\x81"     /* U+2581, which stands for a space */
#define MARK_SIZE 3

/* Where the first mark lies that follows another character; `size` when there is none. */
static size_t next_word(const char *text, size_t size) {
    const char *end = text + size, *at = text;
    while (at < end && (at = memmem(at, (size_t)(end - at), MARK, MARK_SIZE)) != NULL) {
        bool follows_mark = at - text >= MARK_SIZE && memcmp(at - MARK_SIZE, MARK, MARK_SIZE) == 0;
        if (at > text && !follows_mark) return (size_t)(at - text);
        at += MARK_SIZE;
    }
    return size;
}

/* Sentencepiece's vocabularies come without pre-tokens. When no token has a mark behind another
 * character, merging word by word comes to the same. */
static bool marks_begin_words(const moe_bpe *b) {
    const moe_vocabulary *v = &b->vocabulary;
    if (b->byte_level || b->ignore_merges) return false;
    if (moe__vocabulary_model(v, MARK, MARK_SIZE) == MOE_NO_ID) return false;
    for (uint32_t id = 0; id < v->count; id++) {
        size_t size = v->tokens[id].size;
        if ((v->tokens[id].flags & MOE_TOKEN_MODEL) &&
            next_word(moe__token_text(v, id), size) < size)
            return false;
    }
    return true;
}

/* ---- making --------------------------------------------------------------------------------- */

static uint32_t id_of_byte(const moe_bpe *b, uint8_t byte) {
    char text[8];
    size_t size;
    if (b->byte_level) size = moe__put_character(moe__byte_symbol(byte), text);
    else size = (size_t)snprintf(text, sizeof text, "<0x%02X>", byte);
    return moe__vocabulary_model(&b->vocabulary, text, size);
}

moe_status moe__bpe_ready(moe_bpe *b) {
    size_t bytes = KNOWN_WORDS * sizeof *b->known;
    b->known = moe__alloc(b->ctx, bytes);
    if (!b->known) return moe__no_memory(b->ctx, bytes, "known words");
    memset(b->known, 0, bytes);
    for (int byte = 0; byte < 256; byte++) b->byte[byte] = id_of_byte(b, (uint8_t)byte);
    b->marks_begin_words = marks_begin_words(b);
    return MOE_OK;
}

void moe__bpe_set_ignore_merges(moe_bpe *b, bool ignore) {
    b->ignore_merges = ignore;
    memset(b->known, 0, KNOWN_WORDS * sizeof *b->known);
}

void moe__bpe_close(moe_bpe *b) {
    if (!b->ctx) return;
    moe__vocabulary_close(&b->vocabulary);
    moe__merges_close(&b->merges);
    moe__free(b->ctx, b->known, KNOWN_WORDS * sizeof *b->known);
    moe__buffer_free(&b->symbols);
    moe__buffer_free(&b->written);
    *b = (moe_bpe){0};
}

static moe_status no_token(moe_bpe *b, uint32_t rank, const char *text, size_t size) {
    return moe__fail(b->ctx, MOE_EFORMAT, "merge %u: \"%.*s\" is not in the vocabulary", rank + 1,
                     (int)(size < 64 ? size : 64), text);
}

moe_status moe__bpe_add_merge(moe_bpe *b, const char *left, size_t left_size, const char *right,
                              size_t right_size, uint32_t rank) {
    b->written.size = 0;
    uint32_t l = moe__vocabulary_model(&b->vocabulary, left, left_size);
    uint32_t r = moe__vocabulary_model(&b->vocabulary, right, right_size);
    if (l == MOE_NO_ID) return no_token(b, rank, left, left_size);
    if (r == MOE_NO_ID) return no_token(b, rank, right, right_size);
    moe_status status = moe__buffer_add(&b->written, left, left_size);
    if (status == MOE_OK) status = moe__buffer_add(&b->written, right, right_size);
    if (status != MOE_OK) return status;
    uint32_t into = moe__vocabulary_model(&b->vocabulary, b->written.data, b->written.size);
    if (into == MOE_NO_ID) return no_token(b, rank, b->written.data, b->written.size);
    moe__merges_add(&b->merges, l, r, rank, into);
    return MOE_OK;
}

/* ---- symbols -------------------------------------------------------------------------------- */

/* The symbols of a word while they are collected; there is room for one per byte. */
typedef struct collector {
    uint32_t *ids;
    size_t count;
    bool unknown;               /* one is pending: it may be fused with those that follow */
} collector;

static void add(collector *c, uint32_t id) { c->ids[c->count++] = id; }

static void settle(collector *c, const moe_bpe *b) {
    if (c->unknown) add(c, b->unknown);
    c->unknown = false;
}

static void add_unknown(collector *c, const moe_bpe *b) {
    if (b->unknown == MOE_NO_ID) return;
    if (!b->fuse_unknown) settle(c, b);
    c->unknown = true;
}

static bool has_bytes(const moe_bpe *b, const uint8_t *p, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (b->byte[p[i]] == MOE_NO_ID) return false;
    return b->byte_fallback;
}

/* Bytes of a character that is no token do not settle a pending unknown one before them: that is
 * how the reference has it. */
static void add_character(collector *c, const moe_bpe *b, const uint8_t *p, size_t size) {
    uint32_t id = moe__vocabulary_model(&b->vocabulary, (const char *)p, size);
    if (id != MOE_NO_ID) {
        settle(c, b);
        add(c, id);
    } else if (has_bytes(b, p, size)) {
        for (size_t i = 0; i < size; i++) add(c, b->byte[p[i]]);
    } else {
        add_unknown(c, b);
    }
}

static void collect_characters(collector *c, const moe_bpe *b, const uint8_t *p, size_t size) {
    const uint8_t *end = p + size;
    while (p < end) {
        uint32_t code;
        size_t n = moe__character(p, end, &code);
        add_character(c, b, p, n);
        p += n;
    }
    settle(c, b);
}

static void collect_bytes(collector *c, const moe_bpe *b, const uint8_t *p, size_t size) {
    for (size_t i = 0; i < size; i++) {
        uint32_t id = b->byte[p[i]];
        if (id == MOE_NO_ID) {
            add_unknown(c, b);
            continue;
        }
        settle(c, b);
        add(c, id);
    }
    settle(c, b);
}

/* ---- encoding ------------------------------------------------------------------------------- */

/* The id of a word that is a token as a whole; MOE_NO_ID when it is none. */
static moe_status whole(moe_bpe *b, const char *text, size_t size, uint32_t *id) {
    *id = MOE_NO_ID;
    if (size > b->vocabulary.longest) return MOE_OK;
    if (!b->byte_level) {
        *id = moe__vocabulary_model(&b->vocabulary, text, size);
        return MOE_OK;
    }
    b->written.size = 0;
    moe_status status = moe__buffer_reserve(&b->written, 2 * size);
    if (status != MOE_OK) return status;
    char *out = b->written.data;
    for (size_t i = 0; i < size; i++)
        out += moe__put_character(moe__byte_symbol((uint8_t)text[i]), out);
    *id = moe__vocabulary_model(&b->vocabulary, b->written.data, (size_t)(out - b->written.data));
    return MOE_OK;
}

static moe_status merge_word(moe_bpe *b, const char *text, size_t size, collector *c) {
    b->symbols.size = 0;
    moe_status status = moe__buffer_reserve(&b->symbols, (size + 1) * sizeof *c->ids);
    if (status != MOE_OK) return status;
    *c = (collector){.ids = (uint32_t *)(void *)b->symbols.data};
    if (b->ignore_merges) {
        uint32_t id;
        status = whole(b, text, size, &id);
        if (id != MOE_NO_ID) add(c, id);
        if (status != MOE_OK || id != MOE_NO_ID) return status;
    }
    if (b->byte_level) collect_bytes(c, b, (const uint8_t *)text, size);
    else collect_characters(c, b, (const uint8_t *)text, size);
    return moe__merges_apply(&b->merges, c->ids, &c->count);
}

static moe_status encode_word(moe_bpe *b, const char *text, size_t size, moe_buffer *ids) {
    moe_known_word *known = size <= KNOWN_BYTES ? known_word(b, text, size) : NULL;
    if (known && is_known(known, text, size))
        return moe__buffer_add(ids, known->ids, known->count * sizeof *known->ids);
    collector c;
    moe_status status = merge_word(b, text, size, &c);
    if (status != MOE_OK) return status;
    if (known) remember(known, text, size, c.ids, c.count);
    return moe__buffer_add(ids, c.ids, c.count * sizeof *c.ids);
}

moe_status moe__bpe_encode(moe_bpe *b, const char *text, size_t size, moe_buffer *ids) {
    if (!b->marks_begin_words) return encode_word(b, text, size, ids);
    moe_status status = MOE_OK;
    for (size_t at = 0, n; at < size && status == MOE_OK; at += n) {
        n = next_word(text + at, size - at);
        status = encode_word(b, text + at, n, ids);
    }
    return status;
}
