/* tokenizer.c -- the way of a text through the parts of a tokenizer. */
#include "text/tokenizer.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "text/scores.h"
#include "text/unicode.h"

/* ---- making --------------------------------------------------------------------------------- */

moe_status moe__tokenizer_new(moe_ctx *ctx, moe_tokenizer **out) {
    moe_tokenizer *t = moe__alloc(ctx, sizeof *t);
    *out = t;
    if (!t) return moe__no_memory(ctx, sizeof *t, "a tokenizer");
    *t = (moe_tokenizer){.ctx = ctx, .model = {.ctx = ctx, .unknown = MOE_NO_ID},
                         .raw = {.ctx = ctx, .edges = {.ctx = ctx}},
                         .normalized = {.ctx = ctx, .edges = {.ctx = ctx}},
                         .tokens = {{.ctx = ctx}, {.ctx = ctx}},
                         .spare = {{.ctx = ctx}, {.ctx = ctx}},
                         .ids = {.ctx = ctx}, .text = {.ctx = ctx}};
    t->model.symbols.ctx = t->model.written.ctx = ctx;
    moe__ctx_retain(ctx);
    return MOE_OK;
}

static void close_strings(moe_strings *s) {
    moe__buffer_free(&s->text);
    moe__buffer_free(&s->ends);
}

void moe__tokenizer_free(moe_tokenizer *t) {
    if (!t) return;
    moe_ctx *ctx = t->ctx;
    moe__steps_close(&t->normalizer);
    moe__steps_close(&t->splitter);
    moe__steps_close(&t->decoder);
    close_strings(&t->tokens);
    close_strings(&t->spare);
    moe__bpe_close(&t->model);
    moe__added_close(&t->raw);
    moe__added_close(&t->normalized);
    moe__buffer_free(&t->ids);
    moe__buffer_free(&t->text);
    moe__free(ctx, t, sizeof *t);
    moe__ctx_release(ctx);
}

/* The reference normalizes what such a token is written as just like the text. */
moe_status moe__tokenizer_add(moe_tokenizer *t, const char *text, size_t size, bool normalized,
                              moe_added token) {
    moe_piece piece = {text, size, true};
    if (!normalized) return moe__added_add(&t->raw, text, size, token);
    moe_status status = moe__normalize(&t->normalizer, piece, &piece);
    if (status != MOE_OK || piece.size == 0) return status;
    return moe__added_add(&t->normalized, piece.data, piece.size, token);
}

/* ---- encoding ------------------------------------------------------------------------------- */

typedef moe_status piece_fn(moe_tokenizer *t, moe_piece p, bool special);

/* Adds the ids of the set's tokens in a piece, and what `rest` makes of what lies between. */
static moe_status find_added(moe_tokenizer *t, const moe_added_set *set, moe_piece p, bool special,
                             piece_fn *rest) {
    moe_search search = {.set = set, .text = p.data, .size = p.size, .special = special};
    size_t done = 0;
    for (;;) {
        moe_found found = moe__added_next(&search);
        moe_piece before = {p.data + done, found.begin - done, p.first && done == 0};
        moe_status status = found.begin > done ? rest(t, before, special) : MOE_OK;
        if (status != MOE_OK || !found.token) return status;
        status = moe__buffer_add(&t->ids, &found.token->id, sizeof found.token->id);
        if (status != MOE_OK) return status;
        done = found.end;
    }
}

static moe_status encode_word(void *arg, const char *text, size_t size) {
    moe_tokenizer *t = arg;
    if (moe__stopping(t->ctx) && moe_interrupted(t->ctx))
        return moe__fail(t->ctx, MOE_EINTR, "interrupted!");
    return moe__bpe_encode(&t->model, text, size, &t->ids);
}

static moe_status encode_normalized(moe_tokenizer *t, moe_piece p, bool special) {
    (void)special;
    return moe__pre_tokenize(&t->splitter, p, encode_word, t);
}

static moe_status encode_plain(moe_tokenizer *t, moe_piece p, bool special) {
    moe_status status = moe__normalize(&t->normalizer, p, &p);
    if (status != MOE_OK) return status;
    return find_added(t, &t->normalized, p, special, encode_normalized);
}

moe_status moe__tokenizer_encode(moe_tokenizer *t, const char *text, size_t size, bool special) {
    if (size > MOE_LONGEST_TEXT)
        return moe__fail(t->ctx, MOE_EARG, "a text of %zu bytes: at most %zu are possible", size,
                         MOE_LONGEST_TEXT);
    t->ids.size = 0;
    return find_added(t, &t->raw, (moe_piece){text, size, true}, special, encode_plain);
}

/* ---- decoding ------------------------------------------------------------------------------- */

static void clear(moe_strings *s) { s->text.size = s->ends.size = 0; }

static moe_status add_token(moe_tokenizer *t, uint32_t id) {
    const moe_vocabulary *v = &t->model.vocabulary;
    moe_strings *s = &t->tokens;
    moe_status status = MOE_OK;
    if (t->decoder.count == 0 && s->ends.size > 0) status = moe__buffer_add(&s->text, " ", 1);
    if (status == MOE_OK)
        status = moe__buffer_add(&s->text, moe__token_text(v, id), v->tokens[id].size);
    return status == MOE_OK ? moe__buffer_add(&s->ends, &s->text.size, sizeof s->text.size)
                            : status;
}

static bool has_token(const moe_vocabulary *v, uint32_t id, bool skip_special) {
    if (id >= v->count || !v->tokens[id].flags) return false;
    return !(skip_special && (v->tokens[id].flags & MOE_TOKEN_SPECIAL));
}

/* Without a decoder tokens are words: a space stands between them. */
moe_status moe__tokenizer_decode(moe_tokenizer *t, const uint32_t *ids, size_t count,
                                 moe_decoding how) {
    moe_status status = MOE_OK;
    clear(&t->tokens);
    t->text.size = 0;
    for (size_t i = 0; i < count && status == MOE_OK; i++)
        if (has_token(&t->model.vocabulary, ids[i], how.skip_special))
            status = add_token(t, ids[i]);
    if (status == MOE_OK) status = moe__decode(&t->decoder, &t->tokens, &t->spare, how.raw);
    if (status != MOE_OK) return status;
    const moe_buffer *text = &t->tokens.text;
    return how.raw ? moe__buffer_add(&t->text, moe__buffer_text(text), text->size)
                   : moe__replace_invalid(moe__buffer_text(text), text->size, &t->text);
}

/* ---- figures -------------------------------------------------------------------------------- */

/* A token that any other may follow: the first one whose text is a letter. */
static uint32_t beginning(const moe_vocabulary *v) {
    uint32_t best = MOE_NO_ID;
    for (uint32_t id = 0; id < v->count; id++) {
        const moe_token *token = &v->tokens[id];
        if (token->flags != MOE_TOKEN_MODEL || token->size != 1) continue;
        uint8_t c = (uint8_t)*moe__token_text(v, id);
        if (moe__class(c) == MOE_LETTER) return id;
        if (best == MOE_NO_ID) best = id;
    }
    return best;
}

static moe_status length_behind(moe_tokenizer *t, uint32_t first, uint32_t id, size_t *length) {
    uint32_t ids[2] = {first, id};
    moe_decoding how = {.raw = true};
    moe_status status = first == MOE_NO_ID ? moe__tokenizer_decode(t, ids + 1, 1, how)
                                           : moe__tokenizer_decode(t, ids, 2, how);
    *length = t->text.size;
    return status;
}

moe_status moe__tokenizer_lengths(moe_tokenizer *t, int32_t *lengths) {
    const moe_vocabulary *v = &t->model.vocabulary;
    uint32_t first = beginning(v);
    size_t alone = 0, both;
    moe_status status = length_behind(t, first, MOE_NO_ID, &alone);
    for (uint32_t id = 0; id < v->count && status == MOE_OK; id++) {
        lengths[id] = 0;
        if (!has_token(v, id, true)) continue;
        status = length_behind(t, first, id, &both);
        lengths[id] = both > alone ? (int32_t)(both - alone) : 0;
    }
    return status;
}

static moe_status merged_id(moe_tokenizer *t, uint32_t id, uint32_t *merged) {
    moe_status status = moe__tokenizer_decode(t, &id, 1, (moe_decoding){.raw = true});
    t->ids.size = 0;
    if (status == MOE_OK)
        status = moe__bpe_encode(&t->model, moe__buffer_text(&t->text), t->text.size, &t->ids);
    if (status != MOE_OK) return status;
    *merged = t->ids.size == sizeof id ? *(const uint32_t *)(const void *)t->ids.data : MOE_NO_ID;
    return MOE_OK;
}

/* What whole words became is forgotten before and after. */
moe_status moe__tokenizer_unmerged(moe_tokenizer *t, uint32_t *id) {
    bool ignore = t->model.ignore_merges;
    const moe_vocabulary *v = &t->model.vocabulary;
    moe_status status = MOE_OK;
    moe__bpe_set_ignore_merges(&t->model, false);
    for (*id = 0; *id < v->count; ++*id) {
        uint32_t merged = *id;
        if (v->tokens[*id].flags == MOE_TOKEN_MODEL) status = merged_id(t, *id, &merged);
        if (status != MOE_OK || merged != *id) break;
    }
    moe__bpe_set_ignore_merges(&t->model, ignore);
    if (*id == v->count) *id = MOE_NO_ID;
    return status;
}

static uint64_t merges_digest(const moe_buffer *list, uint64_t hash) {
    const moe_scored *merges = (const moe_scored *)(const void *)list->data;
    for (size_t i = 0; i < list->size / sizeof *merges; i++) {
        uint32_t merge[3] = {merges[i].left, merges[i].right, merges[i].into};
        hash = XXH3_64bits_withSeed(merge, sizeof merge, hash);
    }
    return hash;
}

moe_status moe__tokenizer_digest(moe_tokenizer *t, uint64_t *hash) {
    const moe_bpe *m = &t->model;
    const moe_vocabulary *v = &m->vocabulary;
    uint32_t switches[] = {m->byte_level, m->byte_fallback, m->fuse_unknown, m->ignore_merges,
                           m->unknown, v->count};
    *hash = XXH3_64bits(switches, sizeof switches);
    for (uint32_t id = 0; id < v->count; id++) {
        const moe_token *token = &v->tokens[id];
        *hash = XXH3_64bits_withSeed(moe__token_text(v, id), token->size, *hash + token->flags);
    }
    t->text.size = 0;
    moe_status status = moe__bpe_list_merges(m, &t->text);
    if (status == MOE_OK) *hash = merges_digest(&t->text, *hash);
    return status;
}
