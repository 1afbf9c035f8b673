/* scores.h -- vocabularies that order merges by a score per token, as sentencepiece's do.
 *
 * Of the adjacent pairs whose concatenation is a token, the one with the highest score is merged,
 * the leftmost among equals. That is merging by rank, when every way to make a token of two others
 * is a merge, and merges into tokens of one score share a rank.
 */
#ifndef MOE_TEXT_SCORES_H
#define MOE_TEXT_SCORES_H

#include "text/bpe.h"

#define MOE_LONGEST_SCORED 256      /* bytes of a token that merges make */

typedef struct moe_scored {
    uint32_t left, right, into;
    uint32_t left_size, right_size; /* characters */
    float score;
} moe_scored;

/* All merges of two tokens into a third, by id `scores` (NAN: neither part nor result of a merge),
 * appended to `out` as moe_scored: the highest score first, of equals that with the longest left
 * and then the longest right part, then the lowest id. That is the order of the merges that
 * converters to tokenizer.json write. */
moe_status moe__scored_merges(const moe_vocabulary *v, const float *scores, moe_buffer *out);

/* Makes these the merges of a model. */
moe_status moe__bpe_take_scored(moe_bpe *b, const moe_scored *merges, size_t count);

/* Lists the merges of any model in order, as above, with the rank below zero as score. */
moe_status moe__bpe_list_merges(const moe_bpe *b, moe_buffer *out);

#endif
