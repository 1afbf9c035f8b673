/* pattern.c -- strings and regular expressions (PCRE2) that steps of a tokenizer look for. */
#include "text/pattern.h"

#include <string.h>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "checkpoint/json.h"
#include "text/unicode.h"

/* Steps of backtracking that one search may take at one place; and what it may have for them. */
#define MOST_STEPS 1000000
#define MOST_KILOBYTES 65536
#define STACK_FIRST (32 * 1024)
#define STACK_MOST (1024 * 1024)

struct moe_pattern {
    moe_ctx *ctx;
    char *text;                     /* of a string; NULL: a regular expression */
    size_t size;
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *limits;
    pcre2_jit_stack *stack;
};

/* ---- making --------------------------------------------------------------------------------- */

void moe__pattern_free(moe_pattern *p) {
    if (!p) return;
    moe__free(p->ctx, p->text, p->size);
    pcre2_match_data_free(p->data);
    pcre2_match_context_free(p->limits);
    pcre2_jit_stack_free(p->stack);
    pcre2_code_free(p->code);
    moe__free(p->ctx, p, sizeof *p);
}

static moe_status keep_string(moe_pattern *p, const char *text, size_t size) {
    if (size == 0) return moe__fail(p->ctx, MOE_EFORMAT, "the pattern is empty");
    p->text = moe__alloc(p->ctx, size);
    if (!p->text) return moe__no_memory(p->ctx, size, "a pattern");
    p->size = size;
    memcpy(p->text, text, size);
    return MOE_OK;
}

static moe_status no_pattern(moe_pattern *p, int error, size_t at) {
    PCRE2_UCHAR why[120];
    pcre2_get_error_message(error, why, sizeof why);
    return moe__fail(p->ctx, MOE_EUNSUPPORTED, "the pattern is wrong at byte %zu: %s", at + 1,
                     (const char *)why);
}

/* Without a compiler for this processor the interpreter runs it. */
static void prepare(moe_pattern *p) {
    if (pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) != 0) return;
    p->stack = pcre2_jit_stack_create(STACK_FIRST, STACK_MOST, NULL);
    if (p->stack) pcre2_jit_stack_assign(p->limits, NULL, p->stack);
}

static moe_status compile(moe_pattern *p, const char *text, size_t size) {
    int error;
    PCRE2_SIZE at;
    /* As the reference has it, ^ and $ are the ends of lines. */
    uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    p->code = pcre2_compile((PCRE2_SPTR)text, size, options, &error, &at, NULL);
    if (!p->code) return no_pattern(p, error, at);
    p->data = pcre2_match_data_create_from_pattern(p->code, NULL);
    p->limits = pcre2_match_context_create(NULL);
    if (!p->data || !p->limits) return moe__no_memory(p->ctx, size, "a pattern");
    pcre2_set_match_limit(p->limits, MOST_STEPS);
    pcre2_set_depth_limit(p->limits, MOST_STEPS);
    pcre2_set_heap_limit(p->limits, MOST_KILOBYTES);
    prepare(p);
    return MOE_OK;
}

moe_status moe__pattern_new(moe_ctx *ctx, const char *text, size_t size, bool regex,
                            moe_pattern **out) {
    *out = NULL;
    if (size > MOE_LONGEST_PATTERN)
        return moe__fail(ctx, MOE_EUNSUPPORTED, "a pattern of %zu bytes: at most %d are possible",
                         size, MOE_LONGEST_PATTERN);
    moe_pattern *p = moe__alloc(ctx, sizeof *p);
    if (!p) return moe__no_memory(ctx, sizeof *p, "a pattern");
    *p = (moe_pattern){.ctx = ctx};
    moe_status status = regex ? compile(p, text, size) : keep_string(p, text, size);
    if (status == MOE_OK) *out = p;
    else moe__pattern_free(p);
    return status;
}

/* ---- searching ------------------------------------------------------------------------------ */

static bool next_string(const moe_pattern *p, moe_matching *m, size_t *begin, size_t *end) {
    const char *found = memmem(m->text + m->at, m->size - m->at, p->text, p->size);
    if (!found) return false;
    *begin = (size_t)(found - m->text);
    m->at = *end = *begin + p->size;
    return true;
}

/* Makes [from, to) the next part that is UTF-8, unless one is being searched. */
static bool inside_part(moe_matching *m) {
    if (m->inside && m->at > m->to) {
        m->inside = false;
        m->at = m->to;
    }
    while (!m->inside && m->at < m->size) {
        size_t length = moe__utf8_valid(m->text + m->at, m->size - m->at);
        m->from = m->at;
        m->to = m->at + length;
        m->inside = length > 0;
        if (!m->inside) m->at++;
    }
    return m->inside;
}

static moe_status search(const moe_pattern *p, const moe_matching *m, bool *found, size_t *begin,
                         size_t *end) {
    int result = pcre2_match(p->code, (PCRE2_SPTR)(m->text + m->from), m->to - m->from,
                             m->at - m->from, PCRE2_NO_UTF_CHECK, p->data, p->limits);
    *found = result >= 0;
    if (result == PCRE2_ERROR_NOMATCH) return MOE_OK;
    if (result < 0)
        return moe__fail(p->ctx, MOE_EUNSUPPORTED, "the pattern of a step of the tokenizer takes "
                         "too many steps or too much memory on this text");
    const PCRE2_SIZE *at = pcre2_get_ovector_pointer(p->data);
    *begin = m->from + at[0];
    *end = m->from + at[1];
    return MOE_OK;
}

/* \K can put the begin behind the end, and lookbehind before what was matched already. */
static void put_in_order(const moe_matching *m, size_t *begin, size_t *end) {
    if (*begin < m->at) *begin = m->at;
    if (*end < *begin) *end = *begin;
}

static size_t behind_character(const moe_matching *m) {
    uint32_t code;
    const uint8_t *text = (const uint8_t *)m->text;
    if (m->at >= m->to) return m->to + 1;
    return m->at + moe__character(text + m->at, text + m->to, &code);
}

/* An empty match does not count right behind another match. */
static moe_status next_regex(const moe_pattern *p, moe_matching *m, bool *found, size_t *begin,
                             size_t *end) {
    *found = false;
    while (inside_part(m)) {
        moe_status status = search(p, m, found, begin, end);
        if (status != MOE_OK) return status;
        if (moe_interrupted(p->ctx)) return moe__fail(p->ctx, MOE_EINTR, "interrupted!");
        if (!*found) {
            m->at = m->to + 1;
            continue;
        }
        put_in_order(m, begin, end);
        m->at = *end;
        if (*begin < *end || !m->matched || m->last != *end) {
            m->matched = true;
            m->last = *end;
            return MOE_OK;
        }
        m->at = behind_character(m);
        *found = false;
    }
    return MOE_OK;
}

moe_status moe__pattern_next(const moe_pattern *p, moe_matching *m, bool *found, size_t *begin,
                             size_t *end) {
    if (!p->text) return next_regex(p, m, found, begin, end);
    *found = m->at < m->size && next_string(p, m, begin, end);
    return MOE_OK;
}
