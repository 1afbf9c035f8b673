/* vocabulary.c -- tokens by id, and ids by what the tokens are written as. */
#include "text/vocabulary.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static size_t slot_bytes(const moe_vocabulary *v) {
    return ((size_t)v->mask + 1) * sizeof *v->slots;
}

static size_t token_bytes(const moe_vocabulary *v) { return v->count * sizeof *v->tokens; }

moe_status moe__vocabulary_open(moe_vocabulary *v, moe_ctx *ctx, uint32_t ids, size_t entries,
                                size_t bytes) {
    size_t slots = 16;
    while (slots < 2 * entries) slots *= 2;
    *v = (moe_vocabulary){.ctx = ctx, .text = {.ctx = ctx}, .count = ids, .mask = slots - 1};
    moe_status status = moe__buffer_reserve(&v->text, bytes + 1);
    if (status != MOE_OK) return status;
    v->tokens = moe__alloc(ctx, token_bytes(v));
    v->slots = moe__alloc(ctx, slot_bytes(v));
    if (!v->tokens || !v->slots)
        return moe__no_memory(ctx, token_bytes(v) + slot_bytes(v), "a vocabulary");
    memset(v->tokens, 0, token_bytes(v));
    memset(v->slots, 0, slot_bytes(v));
    return MOE_OK;
}

void moe__vocabulary_close(moe_vocabulary *v) {
    if (!v->ctx) return;
    moe__buffer_free(&v->text);
    moe__free(v->ctx, v->tokens, token_bytes(v));
    moe__free(v->ctx, v->slots, slot_bytes(v));
    *v = (moe_vocabulary){0};
}

static bool is_written(const moe_vocabulary *v, uint32_t id, const char *text, size_t size) {
    return v->tokens[id].size == size && memcmp(moe__token_text(v, id), text, size) == 0;
}

/* The place of the text, or the free one where it belongs. */
static uint32_t *place(const moe_vocabulary *v, const char *text, size_t size) {
    uint64_t i = XXH3_64bits(text, size) & v->mask;
    while (v->slots[i] && !is_written(v, v->slots[i] - 1, text, size)) i = (i + 1) & v->mask;
    return &v->slots[i];
}

moe_status moe__vocabulary_add(moe_vocabulary *v, const char *text, size_t size, uint32_t id,
                               uint32_t flags) {
    moe_token *token = &v->tokens[id];
    if (token->flags)
        return moe__fail(v->ctx, MOE_EFORMAT, "id %u is that of \"%.*s\" and of \"%.*s\"", id,
                         (int)(token->size < 64 ? token->size : 64), moe__token_text(v, id),
                         (int)(size < 64 ? size : 64), text);
    uint32_t *slot = place(v, text, size);
    if (*slot)
        return moe__fail(v->ctx, MOE_EFORMAT, "\"%.*s\" has the ids %u and %u",
                         (int)(size < 64 ? size : 64), text, *slot - 1, id);
    *slot = id + 1;
    *token = (moe_token){(uint32_t)v->text.size, (uint32_t)size, flags};
    if (size > v->longest) v->longest = (uint32_t)size;
    return moe__buffer_add(&v->text, text, size);
}

uint32_t moe__vocabulary_find(const moe_vocabulary *v, const char *text, size_t size) {
    if (size > v->longest) return MOE_NO_ID;
    return *place(v, text, size) - 1;       /* 0 - 1 = MOE_NO_ID */
}

uint32_t moe__vocabulary_model(const moe_vocabulary *v, const char *text, size_t size) {
    uint32_t id = moe__vocabulary_find(v, text, size);
    return id != MOE_NO_ID && (v->tokens[id].flags & MOE_TOKEN_MODEL) ? id : MOE_NO_ID;
}
