/* lines.h -- how much of one text another one holds: its lines, by their hashes.
 *
 * A line ends with the symbol `newline` or with its text. Symbols are little-endian numbers of
 * `width` bytes: the bytes of a text, or the ids of a corpus. Only lines of more than `longer`
 * symbols count: short ones say nothing of where a text comes from.
 */
#ifndef MOE_TEXT_LINES_H
#define MOE_TEXT_LINES_H

#include "text/buffer.h"

typedef struct moe_lines {
    moe_ctx *ctx;
    int width;
    uint32_t newline;
    int64_t longer;
    moe_buffer slots;       /* uint64_t hashes, open addressing; 0: free */
    size_t known;           /* different lines */
} moe_lines;

void moe__lines_open(moe_ctx *ctx, int width, uint32_t newline, int64_t longer, moe_lines *out);
/* Harmless the second time. */
void moe__lines_close(moe_lines *set);

/* Adds the lines of a text of `n` symbols. MOE_ENOMEM. */
moe_status moe__lines_add(moe_lines *set, const char *text, int64_t n);

/* Adds to *lines how many lines a text has, and to *shared how many of them are in the set. */
void moe__lines_tally(const moe_lines *set, const char *text, int64_t n, int64_t *lines,
                      int64_t *shared);

#endif
