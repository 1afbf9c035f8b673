/* pattern.h -- what a step of a tokenizer looks for: a string, or a regular expression.
 *
 * Expressions are PCRE2's with UTF and Unicode properties. What is no UTF-8 in a text matches
 * nothing; the parts between such bytes are searched one by one.
 */
#ifndef MOE_TEXT_PATTERN_H
#define MOE_TEXT_PATTERN_H

#include <stdbool.h>

#include "text/buffer.h"

#define MOE_LONGEST_PATTERN 16384   /* bytes */

typedef struct moe_pattern moe_pattern;

/* MOE_EFORMAT for an empty string, MOE_EUNSUPPORTED for an expression that cannot be compiled. */
moe_status moe__pattern_new(moe_ctx *ctx, const char *text, size_t size, bool regex,
                            moe_pattern **out);
void moe__pattern_free(moe_pattern *p);

/* A search under way: begin with { .text =, .size = }. */
typedef struct moe_matching {
    const char *text;
    size_t size;
    size_t at;                      /* where to look on */
    size_t from, to;                /* the part that is searched, which is UTF-8 ... */
    bool inside;                    /* ... if there is one */
    bool matched;                   /* there was a match: it ended at ... */
    size_t last;
} moe_matching;

/* The next match, which may be empty; *found = false behind the last one. MOE_EUNSUPPORTED when it
 * takes too many steps. */
moe_status moe__pattern_next(const moe_pattern *p, moe_matching *m, bool *found, size_t *begin,
                             size_t *end);

#endif
