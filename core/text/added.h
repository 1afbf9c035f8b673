/* added.h -- tokens that are found in text as they are written, before anything else is done to it.
 *
 * Of the tokens that begin at one place the longest counts, of places the leftmost. Then:
 *   single_word     a word character (\w) on either side makes it no match
 *   lstrip, rstrip  white space before or after belongs to the match
 */
#ifndef MOE_TEXT_ADDED_H
#define MOE_TEXT_ADDED_H

#include "text/buffer.h"

#define MOE_LONGEST_ADDED 1024      /* bytes; it bounds the work at each place of a text */

typedef struct moe_added {
    uint32_t id;
    bool single_word, lstrip, rstrip, special;
} moe_added;

typedef struct moe_added_set {
    moe_ctx *ctx;
    moe_buffer tokens;              /* moe_added */
    moe_buffer edges;               /* a trie: its edges by hash */
    size_t edge_count;
    uint32_t nodes;
    bool starts[256];               /* bytes that a token begins with */
    bool any;
} moe_added_set;

/* What was found from `begin` to `end`; token = NULL: nothing more, plain text to the end. */
typedef struct moe_found {
    const moe_added *token;
    size_t begin, end;
} moe_found;

typedef struct moe_search {
    const moe_added_set *set;
    const char *text;
    size_t size;
    size_t at;                      /* where to look on */
    size_t done;                    /* the end of what was found so far */
    size_t spaces, spaces_end;      /* white space behind a match, found last */
    bool special;                   /* false: special tokens are plain text */
} moe_search;

/* An empty set needs no more than its context. */
moe_status moe__added_add(moe_added_set *set, const char *text, size_t size, moe_added token);
void moe__added_close(moe_added_set *set);
/* The next match at or behind search->at. */
moe_found moe__added_next(moe_search *search);

#endif
