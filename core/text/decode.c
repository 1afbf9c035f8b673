/* decode.c -- the decoder of a tokenizer: its tokens become a text. */
#include <string.h>

#include "checkpoint/json.h"
#include "text/steps.h"
#include "text/unicode.h"

/* ---- strings -------------------------------------------------------------------------------- */

static size_t count_of(const moe_strings *s) { return s->ends.size / sizeof(size_t); }

static moe_slice string_at(const moe_strings *s, size_t i) {
    const size_t *ends = (const size_t *)(void *)s->ends.data;
    size_t begin = i ? ends[i - 1] : 0;
    return (moe_slice){moe__buffer_text(&s->text) + begin, ends[i] - begin};
}

static moe_status end_string(moe_strings *s) {
    return moe__buffer_add(&s->ends, &s->text.size, sizeof s->text.size);
}

static moe_status add_string(moe_strings *s, const char *data, size_t size) {
    moe_status status = moe__buffer_add(&s->text, data, size);
    return status == MOE_OK ? end_string(s) : status;
}

/* ---- bytes ---------------------------------------------------------------------------------- */

/* The bytes that a token writes in GPT-2's alphabet; its text when it is not written in it. */
static moe_status add_bytes(moe_buffer *out, moe_slice token) {
    const uint8_t *p = (const uint8_t *)token.data, *end = p + token.size;
    moe_status status = moe__buffer_reserve(out, token.size);
    if (status != MOE_OK) return status;
    size_t n = out->size;
    while (p < end) {
        uint32_t code;
        p += moe__character(p, end, &code);
        int byte = code == MOE_NO_CHARACTER ? -1 : moe__symbol_byte(code);
        if (byte < 0) return moe__buffer_add(out, token.data, token.size);
        out->data[n++] = (char)byte;
    }
    out->size = n;
    return MOE_OK;
}

static int digit_of(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that <0x00> to <0xFF> stand for, or -1. */
static int fallback_byte(moe_slice t) {
    if (t.size != 6 || memcmp(t.data, "<0x", 3) != 0 || t.data[5] != '>') return -1;
    int high = digit_of(t.data[3]), low = digit_of(t.data[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* The bytes from `begin` on are a run of such tokens: one string if they are UTF-8, else U+FFFD for
 * each. */
static moe_status end_bytes(moe_strings *to, size_t begin, bool raw) {
    size_t size = to->text.size - begin;
    if (size == 0) return MOE_OK;
    if (raw || moe__utf8_valid(to->text.data + begin, size) == size) return end_string(to);
    to->text.size = begin;
    moe_status status = MOE_OK;
    for (size_t i = 0; i < size && status == MOE_OK; i++)
        status = add_string(to, "\xEF\xBF\xBD", 3);
    return status;
}

static moe_status byte_fallback(const moe_strings *from, moe_strings *to, bool raw) {
    size_t begin = 0;
    moe_status status = MOE_OK;
    for (size_t i = 0; i < count_of(from) && status == MOE_OK; i++) {
        moe_slice token = string_at(from, i);
        int byte = fallback_byte(token);
        if (byte >= 0) {
            char c = (char)byte;
            status = moe__buffer_add(&to->text, &c, 1);
            continue;
        }
        status = end_bytes(to, begin, raw);
        if (status == MOE_OK) status = add_string(to, token.data, token.size);
        begin = to->text.size;
    }
    return status == MOE_OK ? end_bytes(to, begin, raw) : status;
}

/* ---- the other steps ------------------------------------------------------------------------ */

static moe_status byte_level(const moe_strings *from, moe_strings *to) {
    moe_status status = MOE_OK;
    for (size_t i = 0; i < count_of(from) && status == MOE_OK; i++)
        status = add_bytes(&to->text, string_at(from, i));
    return status == MOE_OK ? end_string(to) : status;
}

static bool begins_with(const char *at, size_t size, const moe_buffer *text) {
    return size >= text->size && memcmp(at, text->data, text->size) == 0;
}

static moe_status trim(const moe_step *s, moe_slice t, moe_strings *to) {
    size_t n = s->text.size;
    for (uint32_t i = 0; i < s->left && begins_with(t.data, t.size, &s->text); i++) {
        t.data += n;
        t.size -= n;
    }
    for (uint32_t i = 0; i < s->right && t.size >= n; i++) {
        if (!begins_with(t.data + t.size - n, n, &s->text)) break;
        t.size -= n;
    }
    return add_string(to, t.data, t.size);
}

/* Each mark is a space; the first token's are none when one was put in front. */
static moe_status metaspace(const moe_step *s, moe_slice t, bool first, moe_strings *to) {
    const char *end = t.data + t.size;
    bool drop = first && s->scheme != MOE_NEVER;
    for (const char *at = t.data, *mark; at < end; at = mark + s->text.size) {
        mark = memmem(at, (size_t)(end - at), s->text.data, s->text.size);
        moe_status status = moe__buffer_add(&to->text, at, (size_t)((mark ? mark : end) - at));
        if (status == MOE_OK && mark && !drop) status = moe__buffer_add(&to->text, " ", 1);
        if (status != MOE_OK) return status;
        if (!mark) break;
    }
    return end_string(to);
}

static moe_status replace(const moe_step *s, moe_slice t, size_t most, moe_strings *to) {
    moe_status status = moe__replace(s, t.data, t.size, most, &to->text);
    return status == MOE_OK ? end_string(to) : status;
}

static moe_status each_string(const moe_step *s, const moe_strings *from, size_t most,
                              moe_strings *to) {
    moe_status status = MOE_OK;
    for (size_t i = 0; i < count_of(from) && status == MOE_OK; i++) {
        moe_slice token = string_at(from, i);
        if (s->kind == MOE_STEP_TRIM) status = trim(s, token, to);
        else if (s->kind == MOE_STEP_METASPACE) status = metaspace(s, token, i == 0, to);
        else status = replace(s, token, most, to);
    }
    return status;
}

/* All strings become one: what they are is there already. */
static moe_status fuse(moe_strings *tokens) {
    tokens->ends.size = 0;
    return end_string(tokens);
}

static void exchange(moe_strings *a, moe_strings *b) {
    moe_strings was = *a;
    *a = *b;
    *b = was;
}

moe_status moe__decode(moe_steps *steps, moe_strings *tokens, moe_strings *scratch, bool raw) {
    moe_status status = MOE_OK;
    size_t most = moe__most_replaced(tokens->text.size);
    for (size_t i = 0; i < steps->count && status == MOE_OK; i++) {
        const moe_step *s = &steps->step[i];
        scratch->text.size = scratch->ends.size = 0;
        switch (s->kind) {
            case MOE_STEP_FUSE: status = fuse(tokens); continue;
            case MOE_STEP_BYTE_LEVEL: status = byte_level(tokens, scratch); break;
            case MOE_STEP_BYTE_FALLBACK: status = byte_fallback(tokens, scratch, raw); break;
            default: status = each_string(s, tokens, most, scratch); break;
        }
        exchange(tokens, scratch);
    }
    return status;
}
