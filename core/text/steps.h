/* steps.h -- what a text and its tokens go through: normalizer, pre-tokenizer, decoder. */
#ifndef MOE_TEXT_STEPS_H
#define MOE_TEXT_STEPS_H

#include "text/pattern.h"
#include "text/split.h"

#define MOE_MOST_STEPS 32           /* of each of the three */

typedef enum moe_step_kind {
    /* normalizer: a text becomes another */
    MOE_STEP_NFC, MOE_STEP_NFD, MOE_STEP_NFKC, MOE_STEP_NFKD,
    MOE_STEP_LOWERCASE, MOE_STEP_STRIP_ACCENTS,
    MOE_STEP_PREPEND,               /* `text` in front of what is not empty */
    MOE_STEP_STRIP,                 /* white space, at `left` and `right` */
    /* normalizer and decoder */
    MOE_STEP_REPLACE,               /* what `pattern` finds becomes `text` */
    /* pre-tokenizer: a text is cut */
    MOE_STEP_SPLIT,                 /* by hand, see split.h */
    MOE_STEP_PATTERN,               /* at what `pattern` finds, as `behavior` says */
    MOE_STEP_DIGITS,                /* numbers from others; one by one if `single` */
    MOE_STEP_PREFIX_SPACE,          /* a space in front of what begins with none */
    /* pre-tokenizer and decoder */
    MOE_STEP_METASPACE,             /* `text` stands for a space, `scheme` says where one is added;
                                       cuts before each if `single` */
    /* decoder: the tokens become a text */
    MOE_STEP_BYTE_LEVEL,            /* from GPT-2's alphabet */
    MOE_STEP_BYTE_FALLBACK,         /* <0x00> to <0xFF> are bytes */
    MOE_STEP_FUSE,                  /* all tokens become one */
    MOE_STEP_TRIM,                  /* at most `left` times `text` in front, `right` at the end */
    MOE_STEPS_KNOWN
} moe_step_kind;

typedef enum moe_behavior {
    MOE_ISOLATED, MOE_REMOVED, MOE_MERGED_WITH_PREVIOUS, MOE_MERGED_WITH_NEXT, MOE_CONTIGUOUS,
    MOE_BEHAVIORS
} moe_behavior;

typedef enum moe_scheme { MOE_ALWAYS, MOE_FIRST, MOE_NEVER, MOE_SCHEMES } moe_scheme;

typedef struct moe_step {
    moe_step_kind kind;
    moe_split split;
    moe_pattern *pattern;
    moe_behavior behavior;
    moe_scheme scheme;
    bool invert;                    /* what the pattern does not find is the match */
    bool single;
    uint32_t left, right;
    moe_buffer text;
    moe_buffer scratch;             /* what the step makes: valid until it runs again */
} moe_step;

typedef struct moe_steps {
    moe_step step[MOE_MOST_STEPS];
    size_t count;
} moe_steps;

/* By the names that the binding uses, the words above in small letters: false for another. */
bool moe__step_find(const char *name, moe_step_kind *out);
bool moe__behavior_find(const char *name, moe_behavior *out);
bool moe__scheme_find(const char *name, moe_scheme *out);

void moe__steps_close(moe_steps *steps);

/* A text, or a part of one. */
typedef struct moe_piece {
    const char *data;
    size_t size;
    bool first;                     /* it begins where the whole text begins */
} moe_piece;

/* Normalizes a piece by all steps; *out may be the piece itself or lie in a step's scratch. What is
 * no UTF-8 stays as it is. */
moe_status moe__normalize(moe_steps *steps, moe_piece piece, moe_piece *out);
/* How long all steps that replace may make a text of `size` bytes together: each alone could make
 * it many times longer. */
size_t moe__most_replaced(size_t size);
/* Replaces what the step's pattern finds: appends to `out`, up to `most` bytes in all.
 * MOE_EUNSUPPORTED beyond. */
moe_status moe__replace(const moe_step *step, const char *text, size_t size, size_t most,
                        moe_buffer *out);

/* Cuts a piece by all steps and gives `visit` what comes out, in order; the first status that is
 * not MOE_OK ends it. */
typedef moe_status moe_visit_fn(void *arg, const char *text, size_t size);
moe_status moe__pre_tokenize(moe_steps *steps, moe_piece piece, moe_visit_fn *visit, void *arg);

/* The strings of tokens while they are decoded. */
typedef struct moe_strings {
    moe_buffer text;
    moe_buffer ends;                /* size_t: where each string ends */
} moe_strings;

/* Takes the tokens through all steps of a decoder. `scratch` is for what lies between. raw: bytes
 * that are no UTF-8 stay; else U+FFFD stands for each of them in what byte_fallback makes. */
moe_status moe__decode(moe_steps *steps, moe_strings *tokens, moe_strings *scratch, bool raw);

#endif
