/* normal_form.c -- normal forms: utf8proc decomposes characters and composes them again; marks are
 * put in order here, because utf8proc takes quadratic time for many of them. */
#include "text/normal_form.h"

#include <string.h>
#include <utf8proc.h>

#include "text/unicode.h"

#define MOST_CHARACTERS 32      /* that one decomposes into; 18 is the longest so far */

bool moe__is_ascii(const char *text, size_t size) {
    uint8_t all = 0;
    for (size_t i = 0; i < size; i++) all |= (uint8_t)text[i];
    return all < 0x80;
}

/* ---- marks in order ------------------------------------------------------------------------- */

static int mark_class(int32_t code) {
    return code < 0x300 ? 0 : utf8proc_get_property(code)->combining_class;
}

/* Sorts the n marks by class, equal ones as they are. `spare` has room for n. */
static void sort_marks(int32_t *marks, size_t n, int32_t *spare) {
    size_t begin[257] = {0};
    for (size_t i = 0; i < n; i++) begin[mark_class(marks[i]) + 1]++;
    for (int i = 1; i < 257; i++) begin[i] += begin[i - 1];
    for (size_t i = 0; i < n; i++) spare[begin[mark_class(marks[i])]++] = marks[i];
    memcpy(marks, spare, n * sizeof *marks);
}

/* Characters of class 0 stay; the marks between them are sorted. */
static void order_marks(int32_t *codes, size_t n, int32_t *spare) {
    for (size_t i = 0; i < n;) {
        size_t begin = i;
        while (i < n && mark_class(codes[i])) i++;
        if (i - begin > 1) sort_marks(codes + begin, i - begin, spare);
        if (i == begin) i++;
    }
}

/* ---- one part ------------------------------------------------------------------------------- */

static moe_status decompose(const uint8_t *p, const uint8_t *end, utf8proc_option_t options,
                            moe_buffer *codes) {
    codes->size = 0;
    while (p < end) {
        moe_status status = moe__buffer_reserve(codes, MOST_CHARACTERS * sizeof(int32_t));
        if (status != MOE_OK) return status;
        uint32_t code;
        p += moe__character(p, end, &code);
        int32_t *to = (int32_t *)(void *)(codes->data + codes->size);
        utf8proc_ssize_t n =
            utf8proc_decompose_char((utf8proc_int32_t)code, to, MOST_CHARACTERS, options, NULL);
        if (n < 0 || n > MOST_CHARACTERS) {
            to[0] = (int32_t)code;
            n = 1;
        }
        codes->size += (size_t)n * sizeof *to;
    }
    return MOE_OK;
}

static moe_status write_codes(const int32_t *codes, size_t n, moe_buffer *out) {
    moe_status status = moe__buffer_reserve(out, 4 * n);
    if (status != MOE_OK) return status;
    for (size_t i = 0; i < n; i++)
        out->size += moe__put_character((uint32_t)codes[i], out->data + out->size);
    return MOE_OK;
}

/* A part that is UTF-8 and does not begin with a mark that belongs to something before it. */
static moe_status add_part(const uint8_t *p, const uint8_t *end, bool compose, bool compatible,
                           moe_buffer *scratch, moe_buffer *out) {
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0);
    moe_status status = decompose(p, end, (utf8proc_option_t)options, scratch);
    size_t n = scratch->size / sizeof(int32_t);
    if (status != MOE_OK || !n) return status;      /* nothing may lie nowhere */
    status = moe__buffer_reserve(scratch, scratch->size);
    if (status != MOE_OK) return status;
    int32_t *codes = (int32_t *)(void *)scratch->data;
    order_marks(codes, n, codes + n);
    if (compose) {
        options = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
        n = (size_t)utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n,
                                             (utf8proc_option_t)options);
    }
    return write_codes(codes, n, out);
}

/* ---- a text --------------------------------------------------------------------------------- */

/* Behind the ASCII that begins at `p`, less its last character if something else follows: that may
 * be composed with it. */
static const uint8_t *plain_end(const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = p;
    while (q < end && *q < 0x80) q++;
    return q < end && q > p ? q - 1 : q;
}

/* Behind the part that begins at `p` with at most one character of ASCII: the next one, or what is
 * no UTF-8, ends it. */
static const uint8_t *part_end(const uint8_t *p, const uint8_t *end) {
    const uint8_t *q = *p < 0x80 ? p + 1 : p;
    while (q < end && *q >= 0x80) {
        uint32_t code;
        size_t n = moe__character(q, end, &code);
        if (code == MOE_NO_CHARACTER) break;
        q += n;
    }
    return q;
}

moe_status moe__normal_form(const char *text, size_t size, bool compose, bool compatible,
                            moe_buffer *scratch, moe_buffer *out) {
    const uint8_t *p = (const uint8_t *)text, *end = p + size;
    while (p < end) {
        const uint8_t *q = plain_end(p, end);
        moe_status status = moe__buffer_add(out, p, (size_t)(q - p));
        if (status != MOE_OK || q == end) return status;
        p = q;
        q = part_end(p, end);
        status = add_part(p, q, compose, compatible, scratch, out);
        if (status == MOE_OK && q < end && *q >= 0x80) status = moe__buffer_add(out, q++, 1);
        if (status != MOE_OK) return status;
        p = q;
    }
    return MOE_OK;
}
