/* split.h -- the ways of cutting text into pre-tokens that nearly all byte-level vocabularies use.
 *
 *   GPT-2    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *   Llama-3  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
 *             ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   Qwen2    the same with \p{N} alone
 *   SmolLM   numbers one by one, and GPT-2's on what lies between them (StarCoder's as well)
 *
 * They are written out because a regular expression takes longer than all the rest of encoding.
 */
#ifndef MOE_TEXT_SPLIT_H
#define MOE_TEXT_SPLIT_H

#include <stdbool.h>
#include <stddef.h>

typedef enum moe_split {
    MOE_SPLIT_GPT2, MOE_SPLIT_LLAMA3, MOE_SPLIT_QWEN2, MOE_SPLIT_SMOLLM, MOE_SPLITS_KNOWN
} moe_split;

/* "gpt2", "llama3", "qwen2" or "smollm": false for another name. */
bool moe__split_find(const char *name, moe_split *out);
/* The regular expressions of the first three; NULL for SmolLM, which is none. */
const char *moe__split_pattern(moe_split split);

/* Where the pre-token ends that begins at `at` < `size`. Any bytes. */
size_t moe__split_next(moe_split split, const char *text, size_t size, size_t at);

#endif
