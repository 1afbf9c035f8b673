/* tokenizer.h -- text to token ids and back, as tokenizer.json describes it.
 *
 * Added tokens are cut out of the text, what is left is normalized, cut into pre-tokens, and each of
 * these goes through the model. Ids become text by the steps of the decoder.
 *
 * Text may hold any bytes. What is no UTF-8 passes through every step unchanged, and a byte-level
 * model encodes it like all others; for steps that look at characters each such byte is one, neither
 * letter nor number nor white space.
 */
#ifndef MOE_TEXT_TOKENIZER_H
#define MOE_TEXT_TOKENIZER_H

#include "text/added.h"
#include "text/bpe.h"
#include "text/split.h"

#define MOE_MOST_STEPS 32           /* of normalizer, pre-tokenizer and decoder each */
#define MOE_LONGEST_TEXT ((size_t)1 << 31)

/* ---- steps ---------------------------------------------------------------------------------- */

typedef enum moe_step_kind {
    MOE_STEP_SPLIT                  /* one of split.h */
} moe_step_kind;

typedef struct moe_step {
    moe_step_kind kind;
    moe_split split;
    moe_buffer scratch;             /* text that the step makes */
} moe_step;

typedef struct moe_steps {
    moe_step step[MOE_MOST_STEPS];
    size_t count;
} moe_steps;

/* ---- a tokenizer ---------------------------------------------------------------------------- */

typedef struct moe_tokenizer {
    moe_ctx *ctx;
    moe_bpe model;
    moe_added_set raw, normalized;  /* added tokens of the text as it is, and once normalized */
    moe_steps splitter;
    moe_buffer ids, text;           /* the last results */
} moe_tokenizer;

moe_status moe__tokenizer_new(moe_ctx *ctx, moe_tokenizer **out);
void moe__tokenizer_free(moe_tokenizer *t);

/* Ids of a text, into t->ids (uint32_t). special = false: special tokens in it are plain text. */
moe_status moe__tokenizer_encode(moe_tokenizer *t, const char *text, size_t size, bool special);

typedef struct moe_decoding {
    bool skip_special;              /* special tokens are left out */
    bool raw;                       /* bytes as they are, not U+FFFD for those that are no UTF-8 */
} moe_decoding;

/* Text of ids, into t->text. Ids without a token are left out. */
moe_status moe__tokenizer_decode(moe_tokenizer *t, const uint32_t *ids, size_t count,
                                 moe_decoding how);

#endif
