/* tokenizer.c -- the way of a text through the parts of a tokenizer. */
#include "text/tokenizer.h"

#include <string.h>

#include "text/unicode.h"

/* ---- making --------------------------------------------------------------------------------- */

moe_status moe__tokenizer_new(moe_ctx *ctx, moe_tokenizer **out) {
    moe_tokenizer *t = moe__alloc(ctx, sizeof *t);
    *out = t;
    if (!t) return moe__no_memory(ctx, sizeof *t, "a tokenizer");
    *t = (moe_tokenizer){.ctx = ctx, .model = {.ctx = ctx, .unknown = MOE_NO_ID},
                         .raw = {.ctx = ctx, .edges = {.ctx = ctx}},
                         .normalized = {.ctx = ctx, .edges = {.ctx = ctx}},
                         .ids = {.ctx = ctx}, .text = {.ctx = ctx}};
    t->model.symbols.ctx = t->model.written.ctx = ctx;
    moe__ctx_retain(ctx);
    return MOE_OK;
}

static void close_steps(moe_steps *steps) {
    for (size_t i = 0; i < steps->count; i++) moe__buffer_free(&steps->step[i].scratch);
}

void moe__tokenizer_free(moe_tokenizer *t) {
    if (!t) return;
    moe_ctx *ctx = t->ctx;
    close_steps(&t->splitter);
    moe__bpe_close(&t->model);
    moe__added_close(&t->raw);
    moe__added_close(&t->normalized);
    moe__buffer_free(&t->ids);
    moe__buffer_free(&t->text);
    moe__free(ctx, t, sizeof *t);
    moe__ctx_release(ctx);
}

/* ---- encoding ------------------------------------------------------------------------------- */

typedef struct piece {
    const char *data;
    size_t size;
} piece;

/* Gives a piece to step number `i` of the pre-tokenizer; behind the last one is the model. */
static moe_status cut(moe_tokenizer *t, size_t i, piece p) {
    if (i == t->splitter.count) return moe__bpe_encode(&t->model, p.data, p.size, &t->ids);
    const moe_step *step = &t->splitter.step[i];
    moe_status status = MOE_OK;
    for (size_t at = 0, end; at < p.size && status == MOE_OK; at = end) {
        end = moe__split_next(step->split, p.data, p.size, at);
        status = cut(t, i + 1, (piece){p.data + at, end - at});
    }
    return status;
}

typedef moe_status piece_fn(moe_tokenizer *t, piece p, bool special);

/* Cuts the tokens of a set out of a piece and hands on what is between them. */
static moe_status find_added(moe_tokenizer *t, const moe_added_set *set, piece p, bool special,
                             piece_fn *rest) {
    moe_search search = {.set = set, .text = p.data, .size = p.size, .special = special};
    size_t done = 0;
    for (;;) {
        moe_found found = moe__added_next(&search);
        moe_status status = MOE_OK;
        if (found.begin > done)
            status = rest(t, (piece){p.data + done, found.begin - done}, special);
        if (status != MOE_OK || !found.token) return status;
        status = moe__buffer_add(&t->ids, &found.token->id, sizeof found.token->id);
        if (status != MOE_OK) return status;
        done = found.end;
    }
}

static moe_status encode_plain(moe_tokenizer *t, piece p, bool special) {
    (void)special;
    return cut(t, 0, p);
}

static moe_status normalize(moe_tokenizer *t, piece p, bool special) {
    return find_added(t, &t->normalized, p, special, encode_plain);
}

moe_status moe__tokenizer_encode(moe_tokenizer *t, const char *text, size_t size, bool special) {
    if (size > MOE_LONGEST_TEXT)
        return moe__fail(t->ctx, MOE_EARG, "a text of %zu bytes: at most %zu are possible", size,
                         MOE_LONGEST_TEXT);
    t->ids.size = 0;
    return find_added(t, &t->raw, (piece){text, size}, special, normalize);
}

/* ---- decoding ------------------------------------------------------------------------------- */

/* The bytes that a token writes in GPT-2's alphabet; its text when it is not written in it. */
static moe_status add_bytes(moe_buffer *out, const char *text, size_t size) {
    const uint8_t *p = (const uint8_t *)text, *end = p + size;
    moe_status status = moe__buffer_reserve(out, size);
    if (status != MOE_OK) return status;
    size_t n = out->size;
    while (p < end) {
        uint32_t code;
        p += moe__character(p, end, &code);
        int byte = code == MOE_NO_CHARACTER ? -1 : moe__symbol_byte(code);
        if (byte < 0) return moe__buffer_add(out, text, size);
        out->data[n++] = (char)byte;
    }
    out->size = n;
    return MOE_OK;
}

moe_status moe__tokenizer_decode(moe_tokenizer *t, const uint32_t *ids, size_t count,
                                 moe_decoding how) {
    const moe_vocabulary *v = &t->model.vocabulary;
    moe_status status = MOE_OK;
    t->text.size = 0;
    for (size_t i = 0; i < count && status == MOE_OK; i++) {
        uint32_t id = ids[i];
        if (id >= v->count || !v->tokens[id].flags) continue;
        if (how.skip_special && (v->tokens[id].flags & MOE_TOKEN_SPECIAL)) continue;
        status = add_bytes(&t->text, moe__token_text(v, id), v->tokens[id].size);
    }
    return status;
}
