/* tokenizer.h -- text to token ids and back, as tokenizer.json describes it.
 *
 * Added tokens are cut out of the text, what is left is normalized, cut into pre-tokens, and each
 * of these goes through the model. Ids become text by the steps of the decoder.
 *
 * Text may hold any bytes. What is no UTF-8 passes through every step unchanged, and a byte-level
 * model encodes it like all others; for steps that look at characters each such byte is one,
 * neither letter nor number nor white space.
 */
#ifndef MOE_TEXT_TOKENIZER_H
#define MOE_TEXT_TOKENIZER_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/steps.h"

#define MOE_LONGEST_TEXT ((size_t)1 << 31)

typedef struct moe_tokenizer {
    moe_ctx *ctx;
    moe_bpe model;
    moe_added_set raw, normalized;  /* added tokens of the text as it is, and once normalized */
    moe_steps normalizer, splitter, decoder;
    moe_strings tokens, spare;      /* while decoding */
    moe_buffer ids, text;           /* the last results */
} moe_tokenizer;

moe_status moe__tokenizer_new(moe_ctx *ctx, moe_tokenizer **out);
void moe__tokenizer_free(moe_tokenizer *t);

/* Adds an added token, whose id is in the vocabulary, when the normalizer is complete. */
moe_status moe__tokenizer_add(moe_tokenizer *t, const char *text, size_t size, bool normalized,
                              moe_added token);

/* Ids of a text, into t->ids (uint32_t). special = false: special tokens in it are plain text. */
moe_status moe__tokenizer_encode(moe_tokenizer *t, const char *text, size_t size, bool special);

typedef struct moe_decoding {
    bool skip_special;              /* special tokens are left out */
    bool raw;                       /* bytes as they are, not U+FFFD for those that are no UTF-8 */
} moe_decoding;

/* Text of ids, into t->text. Ids without a token are left out. */
moe_status moe__tokenizer_decode(moe_tokenizer *t, const uint32_t *ids, size_t count,
                                 moe_decoding how);

/* For each id the bytes that it adds to a text that has begun: 0 for special tokens and gaps. */
moe_status moe__tokenizer_lengths(moe_tokenizer *t, int32_t *lengths);

/* The first token of a byte-level model that merging its bytes does not make; MOE_NO_ID when there
 * is none. */
moe_status moe__tokenizer_unmerged(moe_tokenizer *t, uint32_t *id);

/* XXH3-64 of vocabulary, merges and the switches of the model. */
moe_status moe__tokenizer_digest(moe_tokenizer *t, uint64_t *hash);

#endif
