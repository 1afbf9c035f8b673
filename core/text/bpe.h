/* bpe.h -- the model of a tokenizer: byte-pair encoding of one pre-token.
 *
 * A byte-level model works on bytes; its vocabulary writes them in GPT-2's alphabet. Another works
 * on characters; one that it lacks becomes the tokens <0x00> to <0xFF> of its bytes when there is
 * byte_fallback and all of them are tokens, else the unknown token, else nothing.
 *
 * What pre-tokens become is remembered: words come again and again.
 */
#ifndef MOE_TEXT_BPE_H
#define MOE_TEXT_BPE_H

#include "text/merges.h"
#include "text/vocabulary.h"

typedef struct moe_known_word moe_known_word;

typedef struct moe_bpe {
    moe_ctx *ctx;
    moe_vocabulary vocabulary;
    moe_merges merges;
    bool byte_level, byte_fallback, fuse_unknown, ignore_merges;
    bool marks_begin_words;     /* no merge crosses from another character to U+2581 */
    uint32_t unknown;           /* id, or MOE_NO_ID */
    uint32_t byte[256];         /* the ids of single bytes, MOE_NO_ID where there is none */
    moe_known_word *known;
    moe_buffer symbols, written;
} moe_bpe;

/* Looks single bytes up, when vocabulary, merges and switches are in place. */
moe_status moe__bpe_ready(moe_bpe *b);
void moe__bpe_close(moe_bpe *b);

/* Whether words that are tokens are merged all the same; what is remembered is forgotten. */
void moe__bpe_set_ignore_merges(moe_bpe *b, bool ignore);

/* Adds merge number `rank` of two tokens by their texts. MOE_EFORMAT when one of them, or what they
 * become, is no token of the model. */
moe_status moe__bpe_add_merge(moe_bpe *b, const char *left, size_t left_size, const char *right,
                              size_t right_size, uint32_t rank);

/* Adds the ids (uint32_t) of a pre-token to `ids`. */
moe_status moe__bpe_encode(moe_bpe *b, const char *text, size_t size, moe_buffer *ids);

#endif
