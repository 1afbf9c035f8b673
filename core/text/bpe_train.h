/* bpe_train.h -- training of a byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909): the pieces
 * that a splitter cuts texts into are counted as words, then the most frequent pair of neighbouring
 * symbols is merged, again and again.
 *
 * Symbols are numbered: 0 to 255 are the bytes in the order of GPT-2's alphabet (printable Latin-1
 * first, then the others), each new token follows. Of pairs that are equally frequent the one with
 * the smaller left number goes first, then the one with the smaller right number. The merges depend
 * on nothing but the counts: not on the order of texts, on hashing, or on threads.
 */
#ifndef MOE_TEXT_BPE_TRAIN_H
#define MOE_TEXT_BPE_TRAIN_H

#include "text/buffer.h"
#include "text/split.h"

/* Longer pieces are counted in parts of so many bytes: they are data, not words. */
#define MOE_BPE_LONGEST ((size_t)1 << 14)
/* Words that can be counted at a time. */
#define MOE_BPE_WORDS ((uint32_t)1 << 30)

typedef struct moe_bpe_word {
    size_t at;              /* its bytes among those of all words */
    uint32_t size;
    int64_t count;
} moe_bpe_word;

/* Words and how often they occurred. When there are more than `most` different ones, the rarest are
 * forgotten, until half of that is left: what occurred once in so much text makes no token. */
typedef struct moe_bpe_words {
    moe_ctx *ctx;
    uint32_t most;
    uint32_t mask;                      /* slots - 1 */
    moe_buffer bytes, words, slots;     /* moe_bpe_word; number of a word + 1, or 0: free */
    int64_t forgotten;                  /* occurrences of words that were forgotten */
} moe_bpe_words;

/* At most MOE_BPE_WORDS. */
void moe__bpe_words_open(moe_ctx *ctx, uint32_t most, moe_bpe_words *out);
void moe__bpe_words_close(moe_bpe_words *words);

/* Counts the pieces of a text. MOE_ENOMEM, MOE_EINTR. */
moe_status moe__bpe_words_add(moe_bpe_words *words, moe_split split, const char *text, size_t size);

static inline uint32_t moe__bpe_count(const moe_bpe_words *words) {
    return (uint32_t)(words->words.size / sizeof(moe_bpe_word));
}

static inline const moe_bpe_word *moe__bpe_word(const moe_bpe_words *words, uint32_t i) {
    return (const moe_bpe_word *)(const void *)words->words.data + i;
}

typedef struct moe_bpe_merge {
    uint32_t left, right, result;       /* new, unless two pairs make the same string */
} moe_bpe_merge;

typedef struct moe_bpe_token {
    size_t at;
    uint32_t size;
} moe_bpe_token;

/* What was learned: moe_bpe_merge in their order, moe_bpe_token by symbol, and their bytes. */
typedef struct moe_bpe_result {
    moe_buffer merges, tokens, bytes;
} moe_bpe_result;

/* Merges until there are `vocab` tokens (256 to 2^31) or no pair occurs `least` times. The words
 * stay as they are. On failure the result is empty. MOE_ENOMEM, MOE_EINTR. */
moe_status moe__bpe_train(const moe_bpe_words *words, uint32_t vocab, int64_t least,
                          moe_bpe_result *out);
void moe__bpe_result_free(moe_bpe_result *result);

#endif
