/* normalize.c -- the normalizer of a tokenizer: a text becomes another. */
#include <string.h>
#include <utf8proc.h>

#include "text/normal_form.h"
#include "text/steps.h"
#include "text/unicode.h"

#define MOST_TIMES 64
#define MOST_MORE 65536

/* ---- character by character ------------------------------------------------------------------ */

/* What one character becomes: at most 8 bytes. */
typedef size_t become_fn(uint32_t code, char out[8]);

/* Only the capital I with a dot becomes two characters. */
static size_t lowercase(uint32_t code, char out[8]) {
    if (code != 0x130)
        return moe__put_character((uint32_t)utf8proc_tolower((utf8proc_int32_t)code), out);
    memcpy(out, "i\xCC\x87", 3);
    return 3;
}

static size_t without_mark(uint32_t code, char out[8]) {
    switch (utf8proc_category((utf8proc_int32_t)code)) {
        case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
            return 0;
        default:
            return moe__put_character(code, out);
    }
}

static moe_status each_character(moe_piece p, become_fn *become, moe_buffer *out) {
    const uint8_t *at = (const uint8_t *)p.data, *end = at + p.size;
    while (at < end) {
        uint32_t code;
        moe_status status = moe__buffer_reserve(out, 8);
        if (status != MOE_OK) return status;
        size_t size = moe__character(at, end, &code);
        if (code == MOE_NO_CHARACTER) out->data[out->size++] = (char)*at;
        else out->size += become(code, out->data + out->size);
        at += size;
    }
    return MOE_OK;
}

/* ---- the steps ------------------------------------------------------------------------------ */

static moe_status too_long(moe_buffer *out, size_t most) {
    return moe__fail(out->ctx, MOE_EUNSUPPORTED, "a step of the tokenizer that replaces makes more "
                     "than %zu bytes of this text", most);
}

size_t moe__most_replaced(size_t size) { return MOST_TIMES * size + MOST_MORE; }

moe_status moe__replace(const moe_step *s, const char *text, size_t size, size_t most,
                        moe_buffer *out) {
    moe_matching m = {.text = text, .size = size};
    size_t done = 0, begin, end;
    bool found;
    for (;;) {
        moe_status status = moe__pattern_next(s->pattern, &m, &found, &begin, &end);
        if (status != MOE_OK) return status;
        if (!found) return moe__buffer_add(out, text + done, size - done);
        if (out->size + begin - done + s->text.size > most) return too_long(out, most);
        status = moe__buffer_add(out, text + done, begin - done);
        if (status == MOE_OK) status = moe__buffer_add(out, s->text.data, s->text.size);
        if (status != MOE_OK) return status;
        done = end;
    }
}

static bool is_space(const uint8_t *p, const uint8_t *end, size_t *size) {
    uint32_t code;
    *size = moe__character(p, end, &code);
    return moe__class(code) == MOE_SPACE;
}

static moe_piece stripped(moe_piece p, bool left, bool right) {
    const uint8_t *begin = (const uint8_t *)p.data, *end = begin + p.size;
    size_t size;
    while (left && begin < end && is_space(begin, end, &size)) begin += size;
    while (right && end > begin) {
        const uint8_t *last = moe__character_before(begin, end);
        if (!is_space(last, end, &size)) break;
        end = last;
    }
    return (moe_piece){(const char *)begin, (size_t)(end - begin), p.first};
}

static moe_status normal_form(moe_step *s, moe_piece p) {
    bool compose = s->kind == MOE_STEP_NFC || s->kind == MOE_STEP_NFKC;
    bool compatible = s->kind == MOE_STEP_NFKC || s->kind == MOE_STEP_NFKD;
    return moe__normal_form(p.data, p.size, compose, compatible, &s->text, &s->scratch);
}

static moe_status prepend(moe_step *s, moe_piece p) {
    moe_status status = moe__buffer_add(&s->scratch, s->text.data, s->text.size);
    return status == MOE_OK ? moe__buffer_add(&s->scratch, p.data, p.size) : status;
}

/* Writes what a step makes of a piece into its scratch. */
static moe_status run(moe_step *s, moe_piece p, size_t most) {
    switch (s->kind) {
        case MOE_STEP_LOWERCASE: return each_character(p, lowercase, &s->scratch);
        case MOE_STEP_STRIP_ACCENTS: return each_character(p, without_mark, &s->scratch);
        case MOE_STEP_PREPEND: return prepend(s, p);
        case MOE_STEP_REPLACE: return moe__replace(s, p.data, p.size, most, &s->scratch);
        default: return normal_form(s, p);
    }
}

static bool changes_ascii(moe_step_kind kind) {
    return kind == MOE_STEP_LOWERCASE || kind == MOE_STEP_PREPEND || kind == MOE_STEP_REPLACE;
}

moe_status moe__normalize(moe_steps *steps, moe_piece piece, moe_piece *out) {
    *out = piece;
    for (size_t i = 0; i < steps->count && out->size > 0; i++) {
        moe_step *s = &steps->step[i];
        if (s->kind == MOE_STEP_STRIP) {
            *out = stripped(*out, s->left, s->right);
            continue;
        }
        if (!changes_ascii(s->kind) && moe__is_ascii(out->data, out->size)) continue;
        s->scratch.size = 0;
        moe_status status = run(s, *out, moe__most_replaced(piece.size));
        if (status != MOE_OK) return status;
        *out = (moe_piece){moe__buffer_text(&s->scratch), s->scratch.size, piece.first};
    }
    return MOE_OK;
}
