/* split.c -- four ways of cutting text into pre-tokens, by hand. */
#include "text/split.h"

#include <string.h>

#include "text/unicode.h"

typedef struct character {
    uint32_t code;
    uint32_t size;
    moe_class class;
} character;

/* ---- names ---------------------------------------------------------------------------------- */

bool moe__split_find(const char *name, moe_split *out) {
    static const char *const names[MOE_SPLITS_KNOWN] = {"gpt2", "llama3", "qwen2", "smollm"};
    for (int i = 0; i < MOE_SPLITS_KNOWN; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (moe_split)i;
        return true;
    }
    return false;
}

#define LLAMA3(numbers) \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" numbers \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

const char *moe__split_pattern(moe_split split) {
    static const char *const patterns[MOE_SPLITS_KNOWN] = {
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+",
        LLAMA3("\\p{N}{1,3}"), LLAMA3("\\p{N}"), NULL};
    return patterns[split];
}

/* ---- characters ----------------------------------------------------------------------------- */

#define O MOE_OTHER
#define L MOE_LETTER
#define N MOE_NUMBER
#define S MOE_SPACE
static const uint8_t ascii[128] = {
    O, O, O, O, O, O, O, O, O, S, S, S, S, S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O,
    S, O, O, O, O, O, O, O, O, O, O, O, O, O, O, O, N, N, N, N, N, N, N, N, N, N, O, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
    O, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, L, O, O, O, O, O,
};
#undef O
#undef L
#undef N
#undef S

static inline character look(const uint8_t *p, const uint8_t *end) {
    if (*p < 0x80) return (character){*p, 1, (moe_class)ascii[*p]};
    character c;
    c.size = (uint32_t)moe__character(p, end, &c.code);
    c.class = moe__class(c.code);
    return c;
}

/* Behind the characters of one class that begin at `p`. */
static const uint8_t *run(const uint8_t *p, const uint8_t *end, moe_class class) {
    while (p < end) {
        character c = look(p, end);
        if (c.class != class) break;
        p += c.size;
    }
    return p;
}

/* At most `most` numbers. */
static const uint8_t *numbers(const uint8_t *p, const uint8_t *end, int most) {
    for (int i = 0; i < most && p < end; i++) {
        character c = look(p, end);
        if (c.class != MOE_NUMBER) break;
        p += c.size;
    }
    return p;
}

static bool is_newline(uint32_t code) { return code == '\r' || code == '\n'; }

/* ---- parts of the patterns ------------------------------------------------------------------ */

/* The small letter of a code point, where letters of contractions are concerned: the long s is an s
 * when case does not matter. */
static uint32_t small(uint32_t code) {
    if (code == 0x17F) return 's';
    return code >= 'A' && code <= 'Z' ? code | 0x20 : code;
}

/* Behind 's 't 're 've 'm 'll 'd at the apostrophe `p`, or `p` when there is none. */
static const uint8_t *contraction(const uint8_t *p, const uint8_t *end, bool any_case) {
    if (p + 1 >= end) return p;
    character c = look(p + 1, end);
    uint32_t first = any_case ? small(c.code) : c.code;
    const uint8_t *q = p + 1 + c.size;
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return q;
    if (q >= end || (first != 'r' && first != 'v' && first != 'l')) return p;
    uint32_t second = any_case ? small(*q) : *q;
    return second == (first == 'l' ? 'l' : 'e') ? q + 1 : p;
}

/* \s+(?!\S)|\s+ on the white space from `p` to `q`: its last character is left to what follows,
 * unless nothing does or it is the only one. */
static const uint8_t *white_space(const uint8_t *p, const uint8_t *q, bool followed) {
    if (!followed) return q;
    const uint8_t *last = moe__character_before(p, q);
    return last > p ? last : q;
}

/* Behind the last newline of the white space from `p` to `q`; NULL when it has none. */
static const uint8_t *last_newline(const uint8_t *p, const uint8_t *q) {
    while (q > p && !is_newline(q[-1])) q--;
    return q > p ? q : NULL;
}

/* ---- the patterns --------------------------------------------------------------------------- */

/* With `alone`, numbers stand alone: text ends where one begins. */
static const uint8_t *gpt2(const uint8_t *p, const uint8_t *end, bool alone) {
    if (*p == '\'') {
        const uint8_t *q = contraction(p, end, false);
        if (q > p) return q;
    }
    character c = look(p, end);
    if (c.class == MOE_NUMBER && alone) return p + c.size;
    if (*p == ' ' && p + 1 < end) {
        character next = look(p + 1, end);
        if (next.class != MOE_SPACE && !(next.class == MOE_NUMBER && alone))
            return run(p + 1 + next.size, end, next.class);
    }
    const uint8_t *q = run(p + c.size, end, c.class);
    if (c.class != MOE_SPACE) return q;
    return white_space(p, q, q < end && !(alone && look(q, end).class == MOE_NUMBER));
}

static const uint8_t *others(const uint8_t *p, const uint8_t *end) {
    p = run(p, end, MOE_OTHER);
    while (p < end && is_newline(*p)) p++;
    return p;
}

static const uint8_t *llama3(const uint8_t *p, const uint8_t *end, int most_numbers) {
    if (*p == '\'') {
        const uint8_t *q = contraction(p, end, true);
        if (q > p) return q;
    }
    character c = look(p, end);
    if (c.class == MOE_LETTER) return run(p + c.size, end, MOE_LETTER);
    if (c.class == MOE_NUMBER) return numbers(p, end, most_numbers);
    const uint8_t *q = p + c.size;
    moe_class next = q < end ? look(q, end).class : MOE_SPACE;
    if (next == MOE_LETTER && !is_newline(c.code)) return run(q, end, MOE_LETTER);
    if (c.class == MOE_OTHER) return others(q, end);
    if (*p == ' ' && next == MOE_OTHER) return others(q, end);
    q = run(q, end, MOE_SPACE);
    const uint8_t *line = last_newline(p, q);
    return line ? line : white_space(p, q, q < end);
}

size_t moe__split_next(moe_split split, const char *text, size_t size, size_t at) {
    const uint8_t *begin = (const uint8_t *)text, *p = begin + at, *end = begin + size;
    switch (split) {
        case MOE_SPLIT_LLAMA3: p = llama3(p, end, 3); break;
        case MOE_SPLIT_QWEN2: p = llama3(p, end, 1); break;
        default: p = gpt2(p, end, split == MOE_SPLIT_SMOLLM); break;
    }
    return (size_t)(p - begin);
}
