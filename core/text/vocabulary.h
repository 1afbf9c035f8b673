/* vocabulary.h -- tokens by id, and ids by what the tokens are written as. */
#ifndef MOE_TEXT_VOCABULARY_H
#define MOE_TEXT_VOCABULARY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "text/buffer.h"

#define MOE_NO_ID UINT32_MAX

/* Where a token comes from and what it is for; a gap has none of them. */
enum {
    MOE_TOKEN_MODEL = 1,        /* the model's: merges may make it */
    MOE_TOKEN_ADDED = 2,        /* found in text as it is written */
    MOE_TOKEN_SPECIAL = 4       /* of these, one that steers: no text */
};

typedef struct moe_token {
    uint32_t at, size;          /* in the text of the vocabulary */
    uint32_t flags;
} moe_token;

typedef struct moe_vocabulary {
    moe_ctx *ctx;
    moe_buffer text;
    moe_token *tokens;          /* by id */
    uint32_t count;             /* ids, gaps included */
    uint32_t *slots;            /* id + 1 by hash; 0 = free */
    uint64_t mask;
    uint32_t longest;           /* bytes of the longest token */
} moe_vocabulary;

/* Room for ids below `ids`, for `entries` tokens of `bytes` bytes in all. */
moe_status moe__vocabulary_open(moe_vocabulary *v, moe_ctx *ctx, uint32_t ids, size_t entries,
                                size_t bytes);
void moe__vocabulary_close(moe_vocabulary *v);

/* Adds a token below the limits of `open`; MOE_EFORMAT when its id or its text is taken. */
moe_status moe__vocabulary_add(moe_vocabulary *v, const char *text, size_t size, uint32_t id,
                               uint32_t flags);
/* The id of a token, MOE_NO_ID when there is none. */
uint32_t moe__vocabulary_find(const moe_vocabulary *v, const char *text, size_t size);
/* The same among the model's tokens. */
uint32_t moe__vocabulary_model(const moe_vocabulary *v, const char *text, size_t size);

static inline const char *moe__token_text(const moe_vocabulary *v, uint32_t id) {
    return v->text.data + v->tokens[id].at;
}

#endif
