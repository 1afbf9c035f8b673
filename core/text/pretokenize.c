/* pretokenize.c -- cutting a text into pre-tokens. */
#include <string.h>

#include "text/steps.h"
#include "text/unicode.h"

/* A text on its way through the steps; behind the last one waits `visit`. */
typedef struct way {
    moe_steps *steps;
    moe_visit_fn *visit;
    void *arg;
} way;

static moe_status go_on(const way *w, size_t i, moe_piece p);

/* What lies between two places goes on to step i. */
static moe_status hand_on(const way *w, size_t i, moe_piece p, size_t begin, size_t end) {
    if (begin == end) return MOE_OK;
    return go_on(w, i, (moe_piece){p.data + begin, end - begin, p.first && begin == 0});
}

/* ---- patterns ------------------------------------------------------------------------------- */

typedef struct part {
    size_t begin, end;
    bool match;
} part;

static part *parts_of(moe_step *s, size_t *count) {
    *count = s->scratch.size / sizeof(part);
    return (part *)(void *)s->scratch.data;
}

static moe_status add_part(moe_step *s, size_t begin, size_t end, bool match) {
    part p = {begin, end, match != s->invert};
    return moe__buffer_add(&s->scratch, &p, sizeof p);
}

/* The whole text in parts that match and parts that do not. */
static moe_status find_parts(moe_step *s, moe_piece p) {
    moe_matching m = {.text = p.data, .size = p.size};
    size_t done = 0, begin = 0, end = 0;
    bool found = true;
    s->scratch.size = 0;
    for (;;) {
        moe_status status = moe__pattern_next(s->pattern, &m, &found, &begin, &end);
        if (status != MOE_OK) return status;
        if (!found) break;
        if (begin > done) status = add_part(s, done, begin, false);
        if (status == MOE_OK) status = add_part(s, begin, end, true);
        if (status != MOE_OK) return status;
        done = end;
    }
    return done < p.size ? add_part(s, done, p.size, false) : MOE_OK;
}

/* Does this part belong to the one before it? */
static bool joins(const moe_step *s, const part *parts, size_t i) {
    bool match = parts[i].match, before = i > 0 && parts[i - 1].match;
    switch (s->behavior) {
        case MOE_CONTIGUOUS: return i > 0 && match == before;
        case MOE_MERGED_WITH_PREVIOUS: return i > 0 && match && !before;
        case MOE_MERGED_WITH_NEXT: return i > 0 && before && !match;
        default: return false;
    }
}

static moe_status cut_at_pattern(const way *w, size_t i, moe_piece p) {
    moe_step *s = &w->steps->step[i];
    size_t count;
    moe_status status = find_parts(s, p);
    part *parts = parts_of(s, &count);
    size_t begin = 0;
    for (size_t n = 0; n < count && status == MOE_OK; n++) {
        if (!joins(s, parts, n)) begin = parts[n].begin;
        if (n + 1 < count && joins(s, parts, n + 1)) continue;
        if (s->behavior == MOE_REMOVED && parts[n].match) continue;
        status = hand_on(w, i + 1, p, begin, parts[n].end);
    }
    return status;
}

/* ---- other cuts ----------------------------------------------------------------------------- */

static moe_status cut_by_hand(const way *w, size_t i, moe_piece p) {
    moe_split split = w->steps->step[i].split;
    moe_status status = MOE_OK;
    for (size_t at = 0, end; at < p.size && status == MOE_OK; at = end) {
        end = moe__split_next(split, p.data, p.size, at);
        status = hand_on(w, i + 1, p, at, end);
    }
    return status;
}

static size_t next_character(moe_piece p, size_t at, bool *is_number) {
    const uint8_t *text = (const uint8_t *)p.data;
    uint32_t code;
    size_t size = moe__character(text + at, text + p.size, &code);
    *is_number = moe__class(code) == MOE_NUMBER;
    return at + size;
}

static moe_status cut_at_digits(const way *w, size_t i, moe_piece p) {
    bool single = w->steps->step[i].single, before = false, number;
    size_t begin = 0;
    moe_status status = MOE_OK;
    for (size_t at = 0, end; at < p.size && status == MOE_OK; at = end) {
        end = next_character(p, at, &number);
        if (number != before || (number && single)) {
            status = hand_on(w, i + 1, p, begin, at);
            begin = at;
        }
        before = number;
    }
    return status == MOE_OK ? hand_on(w, i + 1, p, begin, p.size) : status;
}

static moe_status prefix_space(const way *w, size_t i, moe_piece p) {
    moe_step *s = &w->steps->step[i];
    if (p.data[0] == ' ') return go_on(w, i + 1, p);
    s->scratch.size = 0;
    moe_status status = moe__buffer_add(&s->scratch, " ", 1);
    if (status == MOE_OK) status = moe__buffer_add(&s->scratch, p.data, p.size);
    if (status != MOE_OK) return status;
    return go_on(w, i + 1, (moe_piece){moe__buffer_text(&s->scratch), s->scratch.size, p.first});
}

/* ---- metaspace ------------------------------------------------------------------------------ */

static bool begins_with(moe_piece p, const moe_buffer *text) {
    return p.size >= text->size && memcmp(p.data, text->data, text->size) == 0;
}

static moe_status write_metaspace(moe_step *s, moe_piece p) {
    bool add = s->scheme == MOE_ALWAYS || (s->scheme == MOE_FIRST && p.first);
    s->scratch.size = 0;
    if (add && p.data[0] != ' ' && !begins_with(p, &s->text)) {
        moe_status status = moe__buffer_add(&s->scratch, s->text.data, s->text.size);
        if (status != MOE_OK) return status;
    }
    const char *end = p.data + p.size;
    for (const char *at = p.data, *space; at < end; at = space + 1) {
        space = memchr(at, ' ', (size_t)(end - at));
        moe_status status = moe__buffer_add(&s->scratch, at, (size_t)((space ? space : end) - at));
        if (status == MOE_OK && space)
            status = moe__buffer_add(&s->scratch, s->text.data, s->text.size);
        if (status != MOE_OK || !space) return status;
    }
    return MOE_OK;
}

static moe_status metaspace(const way *w, size_t i, moe_piece p) {
    moe_step *s = &w->steps->step[i];
    moe_status status = write_metaspace(s, p);
    moe_piece written = {moe__buffer_text(&s->scratch), s->scratch.size, p.first};
    if (status != MOE_OK) return status;
    if (!s->single) return go_on(w, i + 1, written);
    size_t begin = 0;
    while (begin < written.size && status == MOE_OK) {
        const char *next = memmem(written.data + begin + 1, written.size - begin - 1, s->text.data,
                                  s->text.size);
        size_t end = next ? (size_t)(next - written.data) : written.size;
        status = hand_on(w, i + 1, written, begin, end);
        begin = end;
    }
    return status;
}

/* ---- all of them ---------------------------------------------------------------------------- */

static moe_status go_on(const way *w, size_t i, moe_piece p) {
    if (i == w->steps->count) return w->visit(w->arg, p.data, p.size);
    switch (w->steps->step[i].kind) {
        case MOE_STEP_SPLIT: return cut_by_hand(w, i, p);
        case MOE_STEP_PATTERN: return cut_at_pattern(w, i, p);
        case MOE_STEP_DIGITS: return cut_at_digits(w, i, p);
        case MOE_STEP_PREFIX_SPACE: return prefix_space(w, i, p);
        case MOE_STEP_METASPACE: return metaspace(w, i, p);
        default: return go_on(w, i + 1, p);
    }
}

moe_status moe__pre_tokenize(moe_steps *steps, moe_piece piece, moe_visit_fn *visit, void *arg) {
    way w = {steps, visit, arg};
    return piece.size ? go_on(&w, 0, piece) : MOE_OK;
}
