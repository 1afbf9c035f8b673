/* write.c -- the bytes of a described file. */
#include <stdio.h>
#include <string.h>

#include "file.h"

/* What is put is short, and memcpy is slow under a sanitizer. */
static void put(file *f, const void *data, size_t size) {
    const uint8_t *from = data;
    if (size > MAX_BYTES - f->size) size = MAX_BYTES - f->size;
    for (size_t i = 0; i < size; i++) f->bytes[f->size++] = from[i];
}

static void put_string(file *f, const char *s) { put(f, s, strlen(s)); }

static void put_space(file *f) {
    if (f->spaces && source_once_in(f->s, 3))
        put(f, &" \n\t\r"[source_pick(f->s, 4)], 1);
}

/* Punctuation, or what the fault has for it, once. */
static void put_mark(file *f, const char *mark, const char **fault) {
    put_space(f);
    if (*fault && source_pick(f->s, 2)) {
        mark = *fault;
        *fault = NULL;
        f->verdict = MUST_FAIL;
    }
    put_string(f, mark);
    put_space(f);
}

/* --- texts ----------------------------------------------------------------------------------- */

/* The code point at *at, which is moved behind it. */
static uint32_t take_code(const char **at) {
    const unsigned char *p = (const unsigned char *)*at;
    unsigned size = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    uint32_t code = size == 1 ? p[0] : p[0] & (0x7fu >> size);
    for (unsigned i = 1; i < size; i++) code = code * 64 + (p[i] & 0x3fu);
    *at += size;
    return code;
}

static void put_unit(file *f, unsigned unit) {
    char escape[8];
    const char *digits = source_pick(f->s, 2) ? "0123456789abcdef" : "0123456789ABCDEF";
    memcpy(escape, "\\u", 2);
    for (int i = 0; i < 4; i++) escape[2 + i] = digits[unit >> (12 - 4 * i) & 15];
    put(f, escape, 6);
}

static void put_escaped(file *f, uint32_t code) {
    static const char plain[] = "\"\\/\b\f\n\r\t", letters[] = "\"\\/bfnrt";
    const char *found = code && code < 0x80 ? strchr(plain, (int)code) : NULL;
    if (found && source_pick(f->s, 2)) {
        put(f, "\\", 1);
        put(f, &letters[found - plain], 1);
    } else if (code < 0x10000)
        put_unit(f, code);
    else {
        put_unit(f, 0xd800 + ((code - 0x10000) >> 10));
        put_unit(f, 0xdc00 + ((code - 0x10000) & 1023));
    }
}

static void put_text(file *f, const text *t, bool escapes) {
    const char *at = t->data, *end = t->data + t->size;
    put(f, "\"", 1);
    while (at < end) {
        const char *from = at;
        uint32_t code = take_code(&at);
        if (code < 0x20 || code == '"' || code == '\\' || (escapes && source_once_in(f->s, 4)))
            put_escaped(f, code);
        else
            put(f, from, (size_t)(at - from));
    }
    if (t->bad) put_string(f, t->bad);
    put(f, "\"", 1);
}

/* A key that is spelled out here; once in a while with escapes. */
static void put_key(file *f, const char *key) {
    text t = {.size = strlen(key)};
    memcpy(t.data, key, t.size);
    put_text(f, &t, source_once_in(f->s, 32));
    put_mark(f, ":", &f->colon);
}

/* --- numbers --------------------------------------------------------------------------------- */

static void put_wide(file *f, wide value) {
    char digits[40];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + (int)(value % 10));
        value /= 10;
    } while (value);
    put(f, digits + at, sizeof digits - at);
}

static void put_number(file *f, uint64_t value, number_form form) {
    if (form == LEADING_ZERO) put(f, "0", 1);
    if (form == NEGATIVE) put(f, "-", 1);
    put_wide(f, form == WRAPPED ? value + ((wide)(1 + source_pick(f->s, 99)) << 64) : value);
    if (form == FRACTION) put(f, ".0", 2);
    if (form == EXPONENT) put(f, "e0", 2);
}

static void put_numbers(file *f, const tensor *t, int field, const uint64_t *values, unsigned n) {
    put(f, "[", 1);
    for (unsigned i = 0; i < n; i++) {
        bool odd = t->odd_field == field && t->odd_number == i;
        if (i) put_mark(f, ",", &f->comma);
        put_number(f, values[i], odd ? t->odd_form : PLAIN);
    }
    put_space(f);
    put(f, "]", 1);
}

/* --- values ---------------------------------------------------------------------------------- */

/* "128" and "129" stand for that many nested arrays. */
static void put_other(file *f, const char *value) {
    size_t depth = strcmp(value, "128") == 0 ? 128 : strcmp(value, "129") == 0 ? 129 : 0;
    if (!depth) {
        put_string(f, value);
        return;
    }
    for (size_t i = 0; i < depth; i++) put(f, "[", 1);
    for (size_t i = 0; i < depth; i++) put(f, "]", 1);
}

static void put_field(file *f, const tensor *t, int field) {
    static const char *const keys[] = {"dtype", "shape", "data_offsets"};
    const char *type = element_types[t->type].name;
    put_key(f, keys[field]);
    if (t->raw[field])
        put_string(f, t->raw[field]);
    else if (field == DTYPE) {
        put(f, "\"", 1);
        put_string(f, type);
        put(f, "\"", 1);
    } else if (field == SHAPE)
        put_numbers(f, t, field, t->shape, t->rank);
    else
        put_numbers(f, t, field, (const uint64_t[]){t->begin, t->end}, 2);
}

static void put_tensor(file *f, const tensor *t) {
    unsigned first = source_pick(f->s, FIELDS), written = 0;
    put(f, "{", 1);
    put_space(f);
    for (unsigned i = 0; i < 2 * FIELDS; i++) {
        unsigned field = (first + i) % FIELDS, set = i < FIELDS ? ~t->missing : t->twice;
        if (!(set >> field & 1)) continue;
        if (written++) put_mark(f, ",", &f->comma);
        put_field(f, t, (int)field);
    }
    if (t->other) {
        if (written) put_mark(f, ",", &f->comma);
        put_key(f, "other");
        put_other(f, t->other);
    }
    put_space(f);
    put(f, "}", 1);
}

static void put_pairs(file *f) {
    if (f->metadata_raw) {
        put_string(f, f->metadata_raw);
        return;
    }
    put(f, "{", 1);
    for (unsigned i = 0; i < f->pair_count; i++) {
        if (i) put_mark(f, ",", &f->comma);
        put_text(f, &f->pairs[i].key, true);
        put_mark(f, ":", &f->colon);
        put_text(f, &f->pairs[i].value, true);
    }
    put_space(f);
    put(f, "}", 1);
}

/* Tensors in an order of their own, the metadata before one of them or at the end. */
static void put_json(file *f) {
    unsigned count = f->count, first = count ? source_pick(f->s, count) : 0, written = 0;
    unsigned place = source_pick(f->s, count + 1);
    bool backwards = source_pick(f->s, 2);
    put(f, "{", 1);
    for (unsigned i = 0; i <= count; i++) {
        for (int k = 0; i == place && k < f->metadata; k++) {
            if (written++) put_mark(f, ",", &f->comma);
            put_key(f, "__metadata__");
            put_pairs(f);
        }
        if (i == count) break;
        unsigned at = backwards ? first + count - i : first + i;
        const tensor *t = &f->tensors[at % count];
        if (written++) put_mark(f, ",", &f->comma);
        put_text(f, &t->name, true);
        put_mark(f, ":", &f->colon);
        put_tensor(f, t);
    }
    put_space(f);
    put(f, "}", 1);
    if (f->behind) put_string(f, f->behind);
}

static void put_data(file *f, uint64_t size) {
    bool small = source_pick(f->s, 2);
    for (uint64_t i = 0; i < size; i += 8) {
        uint64_t word = source_random(f->s);
        if (small) word &= 0x7f;
        put(f, &word, size - i < 8 ? (size_t)(size - i) : 8);
    }
}

void write_file(file *f) {
    f->size = 8;
    if (f->header)
        put_string(f, f->header);
    else
        put_json(f);
    for (unsigned i = 0; !f->header && i < f->padding; i++) put(f, " ", 1);
    f->header_size = f->size - 8;
    put_data(f, f->data_size + (uint64_t)f->data_change);
    uint64_t length = f->length ? f->length : f->header_size + (uint64_t)f->length_change;
    for (int i = 0; i < 8; i++) f->bytes[i] = (uint8_t)(length >> 8 * i);
}
