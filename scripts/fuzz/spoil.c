/* spoil.c -- one fault for a valid file, of any of the kinds that a reader has to notice.
 *
 * A kind that finds no place for itself (an overlap needs two tensors) leaves the file valid.
 * Those of texts, which depend on what is written, set the verdict themselves.
 */
#include <stdio.h>
#include <string.h>

#include "file.h"

#define PICK(s, list) (list)[source_pick((s), sizeof(list) / sizeof *(list))]

static tensor *any(file *f) {
    return f->count ? &f->tensors[source_pick(f->s, f->count)] : NULL;
}

/* One that has bytes. */
static tensor *any_full(file *f) {
    unsigned first = f->count ? source_pick(f->s, f->count) : 0;
    for (unsigned i = 0; i < f->count; i++) {
        tensor *t = &f->tensors[(first + i) % f->count];
        if (t->end > t->begin) return t;
    }
    return NULL;
}

/* One to sixteen bytes, small steps as often as whole elements. */
static uint64_t few(file *f) { return 1 + source_pick(f->s, source_pick(f->s, 2) ? 16 : 2); }

/* --- values that are none -------------------------------------------------------------------- */

static bool raw_dtype(file *f) {
    static const char *const values[] = {
        "\"f32\"", "\"F3\"", "\"F32 \"", "\"F320\"", "\"\"", "32", "null", "[\"F32\"]", "true",
        "\"F32\\u0000\"", "\"BF\"", "F32", "{}", "\"F8_E4M3FNU\"", "\"U\"", "\"I128\"",
        "\"\\u0000\"",
    };
    tensor *t = any(f);
    if (t) t->raw[DTYPE] = PICK(f->s, values);
    return t;
}

static bool raw_shape(file *f) {
    static const char *const values[] = {
        "null", "3", "\"3\"", "{}", "[-1]", "[1.0]", "[1e0]", "[01]", "[00]", "[1,]", "[,1]",
        "[1 1]", "[[1]]", "[\"1\"]", "[1", "[18446744073709551616]", "[99999999999999999999]",
        "[true]", "[+1]", "[0x1]", "[1_0]", "[9223372036854775808]", "[0,9223372036854775808]",
        "[-0]", "[0,18446744073709551615]", "[0,36893488147419103232]", "[1,,1]", "[", "]", "[1]]",
        "[1}",
    };
    tensor *t = any(f);
    if (t) t->raw[SHAPE] = PICK(f->s, values);
    return t;
}

static bool raw_offsets(file *f) {
    static const char *const values[] = {
        "[]", "[0]", "[0,0,0]", "[0 0]", "[0,-1]", "[0,1.0]", "{\"0\":0}", "null", "\"0,1\"",
        "[00,0]", "[[0,0]]", "[0,0", "[0,]", "[,0]", "[0,0]]", "[0,18446744073709551616]", "0",
        "[null,0]",
    };
    tensor *t = any(f);
    if (t) t->raw[OFFSETS] = PICK(f->s, values);
    return t;
}

/* The right number in a form that is not allowed, or with 2^64 added to it. */
static bool odd_number(file *f) {
    tensor *t = any(f);
    if (!t) return false;
    t->odd_field = t->rank && source_pick(f->s, 2) ? SHAPE : OFFSETS;
    t->odd_number = source_pick(f->s, t->odd_field == SHAPE ? t->rank : 2);
    t->odd_form = LEADING_ZERO + source_pick(f->s, WRAPPED);
    return true;
}

static bool raw_other(file *f) {
    static const char *const values[] = {
        "01", "-", "+1", ".5", "1.", "1e", "1e+", "tru", "nul", "NaN", "Infinity", "-Infinity",
        "'a'", "\"\t\"", "{\"a\"}", "{1:2}", "[1,]", "{\"a\":1,}", "[}", "{]", "/**/1", "1 2",
        "--1", "0x10", "truefalse", "129", "129", "", "-01", "1.e1", "00", "\"\\x\"", "[1 2]",
        "{\"a\" 1}", "{,}", "[,]", "{\"a\":1 \"b\":2}", "\"\n\"", "-a", "\\u0031", "1.5.5", "1e5e5",
        "[[]", "{\"a\":[}]",
    };
    tensor *t = any(f);
    if (t) t->other = PICK(f->s, values);
    return t;
}

static bool raw_metadata(file *f) {
    static const char *const values[] = {
        "[]", "1", "\"a\"", "{\"a\":1}", "{\"a\":null}", "{\"a\":{}}", "{\"a\"}", "{\"a\":\"b\",}",
        "{", "{\"a\":\"b\"", "{\"a\":\"b\",\"a\":\"c\"}",
        "{\"a\":\"\",\"b\":\"\",\"\\u0061\":\"\"}", "true", "{\"a\":[\"b\"]}", "{a:\"b\"}",
        "{\"a\":\"b\" \"c\":\"d\"}", "{,\"a\":\"b\"}",
    };
    f->metadata = 1;
    f->metadata_raw = PICK(f->s, values);
    return true;
}

static bool raw_header(file *f) {
    static const char *const values[] = {
        "", " ", "{", "[", "[]", "null", "1", "\"a\"", "{\"", "{\"a\\", "{\"abcdefghijk\\",
        "{\"\\u", "{\"\\u12", "{\"\\uD800\\", "{\"\\ud800\\u", "{\"\\ud800\\udc0", "{}{}", "{}x",
        "{},", "{}\"", "}", "\xef\xbb\xbf{}", "{\"a\":}", "{,}", "{\"a\"", "{\"a\":", "{\"a\":{",
        "{\"a\":{}}", "{\"a\":[]}", "{\"a\":null}", "{\"a\":{\"x\":tru", "{\"a\":{\"x\":-",
        "{\"a\":{\"x\":1", "{\"a\":{\"x\":1.", "{\"a\":{\"x\":1e", "{\"a\":{\"shape\":[1",
        "{\"a\":{\"shape\":", "{\"a\":{\"dtype\":\"F32", "{\"a\":{\"data_offsets\":[0",
        "{\"a\":{\"x\":[", "{\"a\":{\"x\":{\"", "// \n{}", "{'a':1}",
        "{\"__metadata__\":{\"a\":\"\\", "{\"a\":{\"x\":\"\\", "{\"__metadata__\"}",
    };
    f->header = PICK(f->s, values);
    f->count = 0;
    f->data_size = 0;
    return true;
}

/* --- names and fields ------------------------------------------------------------------------ */

static bool name_twice(file *f) {
    tensor *a = any(f), *b = any(f);
    if (!a || a == b) return false;
    b->name = a->name;
    return true;
}

static bool key_twice(file *f) {
    if (f->pair_count < 2) return false;
    f->pairs[f->pair_count - 1].key = f->pairs[source_pick(f->s, f->pair_count - 1)].key;
    return true;
}

static bool metadata_twice(file *f) {
    f->metadata = 2;
    return true;
}

static bool field_missing(file *f) {
    tensor *t = any(f);
    if (t) t->missing = 1 + source_pick(f->s, 7);
    return t;
}

static bool field_twice(file *f) {
    tensor *t = any(f);
    if (t) t->twice = 1 + source_pick(f->s, 7);
    return t;
}

static text *any_text(file *f) {
    if (f->pair_count && source_pick(f->s, 2)) {
        pair *p = &f->pairs[source_pick(f->s, f->pair_count)];
        return source_pick(f->s, 2) ? &p->key : &p->value;
    }
    tensor *t = any(f);
    return t ? &t->name : NULL;
}

/* The sequence may be cut off by the quote that ends the string. */
static bool no_utf8(file *f) {
    static const char *const values[] = {
        "\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf4\x90\x80\x80",
        "\xf5\x80\x80\x80", "\xe2\x82", "\xff", "\xfe", "\xf0\x80\x80\x80", "\xf0\x8f\xbf\xbf",
        "\xe0\x80\x80", "\xe0\x9f\xbf", "\xc3", "\xf0\x9f\x98", "\xf0\x9f", "\xc3(", "\xe2(\xa1",
        "\xe2\x82(", "\xf0(\x8c\xbc", "\xf0\x90(\xbc", "\xf0\x90\x8c(",
    };
    text *t = any_text(f);
    if (t) t->bad = PICK(f->s, values);
    return t;
}

static bool bad_string(file *f) {
    static const char *const values[] = {
        "\\x", "\\u12", "\\uD800", "\\uDBFF", "\\uDC00", "\\uDFFF", "\\uD800\\u0041", "\\uD800x",
        "\\uZZZZ", "\\u000g", "\\", "\\u", "\\uD800\\n", "\\uD800\\uD800", "\\uD800\\uE000", "\x01",
        "\n", "\t", "\x1f", "\\'", "\\a", "\\0", "\\U0041", "\\u 041", "\\u+041", "\"",
        "\\uDC00\\uD800",
    };
    text *t = any_text(f);
    if (t) t->bad = PICK(f->s, values);
    return t;
}

/* --- punctuation: write_file sets the verdict when there was a place -------------------------- */

static bool bad_comma(file *f) {
    static const char *const values[] = {" ", ",,", ";", ":", "}", "]", "},{", ", ,"};
    f->comma = PICK(f->s, values);
    return false;
}

static bool bad_colon(file *f) {
    static const char *const values[] = {" ", "::", "=", ",", ": :", ":,"};
    f->colon = PICK(f->s, values);
    return false;
}

static bool something_behind(file *f) {
    static const char *const values[] = {
        "x", "}", ",", "{}", "1", "\"\"", "\x0b", "\xc2\xa0", "\x01",
    };
    f->behind = PICK(f->s, values);
    return true;
}

/* --- shapes ---------------------------------------------------------------------------------- */

static bool too_many_dimensions(file *f) {
    tensor *t = any(f);
    if (!t) return false;
    while (t->rank < 65) t->shape[t->rank++] = 1;
    return true;
}

/* The number that times `a`, which is odd, is 1 modulo 2^64 (Newton). */
static uint64_t inverse(uint64_t a) {
    uint64_t x = a;
    for (int i = 0; i < 6; i++) x *= 2 - a * x;
    return x;
}

/* Sizes whose product modulo 2^64 is the true number of elements. */
static bool product_wraps(file *f) {
    tensor *t = any(f);
    if (!t) return false;
    uint64_t n = 1, a = source_u64(f->s) >> (1 + source_pick(f->s, 40)) | 1;
    for (unsigned i = 0; i < t->rank; i++) n *= t->shape[i];
    uint64_t b = n * inverse(a);
    if (a > INT64_MAX || b > INT64_MAX || (wide)a * b == n) return false;
    t->rank = 2;
    t->shape[0] = a;
    t->shape[1] = b;
    return true;
}

/* The number of elements fits into 64 bits, that of their bits is the true one modulo 2^64. */
static bool bits_wrap(file *f) {
    tensor *t = any(f);
    if (!t || t->rank == 0 || element_types[t->type].bits % 8) return false;
    uint64_t n = 1, extra = ((uint64_t)1 << 63) / (element_types[t->type].bits / 2);
    for (unsigned i = 0; i < t->rank; i++) n *= t->shape[i];
    t->rank = 1;
    t->shape[0] = n + extra * (1 + source_pick(f->s, 2));
    return true;
}

/* A product beyond 64 bits before a 0, or one of exactly 2^64. */
static bool zero_hides_overflow(file *f) {
    static const uint64_t shapes[][4] = {
        {(uint64_t)1 << 40, (uint64_t)1 << 40, 0, 1}, {(uint64_t)1 << 32, (uint64_t)1 << 32, 1, 1},
        {(uint64_t)1 << 62, 4, 1, 1}, {(uint64_t)1 << 32, (uint64_t)1 << 32, 0, 5},
        {3, (uint64_t)1 << 63, 2, 1}, {1, (uint64_t)1 << 63, 2, 0},
    };
    tensor *t = any(f);
    if (!t || t->end != t->begin) return false;
    t->rank = 4;
    memcpy(t->shape, PICK(f->s, shapes), sizeof *shapes);
    return true;
}

/* Bits that do not fill the last byte, with the byte counted or not. */
static bool misaligned(file *f) {
    unsigned last = f->count - 1;
    if (!f->count) return false;
    tensor *t = &f->tensors[last];
    t->type = 14 + source_pick(f->s, 3);
    t->rank = 1;
    t->shape[0] = 2 * (uint64_t)source_pick(f->s, 20) + 1;
    uint64_t bits = t->shape[0] * element_types[t->type].bits;
    t->end = t->begin + (bits + (source_pick(f->s, 2) ? 7 : 0)) / 8;
    f->data_size = t->end;
    return true;
}

/* One element more or less than there is data for. */
static bool size_off(file *f) {
    tensor *t = any(f);
    if (!t || t->rank == 0) return false;
    wide before = 1, after = 1;
    unsigned at = source_pick(f->s, t->rank);
    for (unsigned i = 0; i < t->rank; i++) {
        if (t->shape[i] > 1000) return false;
        before *= t->shape[i];
    }
    t->shape[at] += source_pick(f->s, 2) || t->shape[at] == 0 ? 1 : (uint64_t)-1;
    for (unsigned i = 0; i < t->rank; i++) after *= t->shape[i];
    return after != before;
}

static bool other_type(file *f) {
    tensor *t = any_full(f);
    if (!t) return false;
    unsigned type = source_pick(f->s, ELEMENT_TYPES), before = element_types[t->type].bits;
    t->type = type;
    return element_types[type].bits != before;
}

/* --- offsets --------------------------------------------------------------------------------- */

/* Moves the beginnings from tensor `first` on, and the ends that are behind them. */
static void shift(file *f, unsigned first, uint64_t by) {
    for (unsigned i = first; i < f->count; i++) {
        f->tensors[i].begin += by;
        f->tensors[i].end += by;
    }
    f->data_size += by;
}

static bool hole(file *f) {
    if (!f->count) return false;
    shift(f, source_pick(f->s, f->count), few(f));
    return true;
}

static bool overlap(file *f) {
    if (f->count < 2) return false;
    unsigned second = 1 + source_pick(f->s, f->count - 1);
    uint64_t by = few(f), begin = f->tensors[second].begin;
    if (by > begin || f->tensors[second].end == begin) return false;
    shift(f, second, (uint64_t)0 - by);
    return true;
}

/* Data that no shape accounts for. */
static bool longer(file *f) {
    if (!f->count) return false;
    unsigned which = source_pick(f->s, f->count);
    uint64_t by = few(f);
    f->tensors[which].end += by;
    shift(f, which + 1, by);
    return true;
}

static bool shorter(file *f) {
    tensor *t = any_full(f);
    if (!t) return false;
    uint64_t by = few(f);
    if (by > t->end - t->begin) by = t->end - t->begin;
    t->end -= by;
    shift(f, (unsigned)(t - f->tensors) + 1, (uint64_t)0 - by);
    return true;
}

static bool reversed(file *f) {
    tensor *t = any_full(f);
    if (!t) return false;
    uint64_t begin = t->begin;
    t->begin = t->end;
    t->end = begin;
    return true;
}

static bool size_for_end(file *f) {
    tensor *t = any_full(f);
    if (!t || t->begin == 0) return false;
    t->end -= t->begin;
    return true;
}

static bool same_place(file *f) {
    tensor *a = any_full(f), *b = any_full(f);
    if (!a || a == b) return false;
    b->begin = a->begin;
    b->end = a->end;
    return true;
}

/* A tensor without data in the middle of another one. */
static bool empty_inside(file *f) {
    tensor *around = any_full(f), *t = any(f);
    if (!t || t->begin != t->end || around == NULL || around->end - around->begin < 2) return false;
    t->begin = t->end = around->begin + 1;
    return true;
}

static bool far_away(file *f) {
    static const uint64_t places[] = {UINT64_MAX, (uint64_t)1 << 63, UINT64_MAX - 7, INT64_MAX,
                                      (uint64_t)1 << 32};
    tensor *t = any(f);
    if (!t) return false;
    uint64_t place = PICK(f->s, places), size = t->end - t->begin;
    if (source_pick(f->s, 2)) t->begin = place;
    t->end = source_pick(f->s, 2) ? place : place + size;
    return true;
}

/* --- the file -------------------------------------------------------------------------------- */

static bool data_behind(file *f) {
    f->data_change = (int64_t)few(f);
    return true;
}

static bool data_cut_off(file *f) {
    uint64_t by = few(f);
    if (by > f->data_size) by = f->data_size;
    f->data_change = -(int64_t)by;
    return by;
}

static bool wrong_length(file *f) {
    static const uint64_t lengths[] = {UINT64_MAX, (uint64_t)1 << 63, INT64_MAX, UINT64_MAX - 7,
                                       (uint64_t)1 << 32, 100000001, 100000000, 1 << 20};
    f->length = PICK(f->s, lengths);
    return true;
}

/* A few bytes more or less; what is cut off must not be padding. */
static bool length_near(file *f) {
    f->length_change = (int64_t)few(f);
    if (source_pick(f->s, 2) == 0) return true;
    f->length_change = -f->length_change;
    f->padding = 0;
    return true;
}

/* --- all of them ----------------------------------------------------------------------------- */

#define FAULT(name) {#name, name}

void spoil_file(file *f) {
    static const struct {
        const char *name;
        bool (*put_into)(file *f);
    } faults[] = {
        FAULT(raw_dtype), FAULT(raw_shape), FAULT(raw_offsets), FAULT(odd_number),
        FAULT(raw_other), FAULT(raw_metadata), FAULT(raw_header), FAULT(name_twice),
        FAULT(key_twice), FAULT(metadata_twice), FAULT(field_missing), FAULT(field_twice),
        FAULT(no_utf8), FAULT(bad_string), FAULT(bad_comma), FAULT(bad_colon),
        FAULT(something_behind), FAULT(too_many_dimensions), FAULT(product_wraps),
        FAULT(bits_wrap), FAULT(zero_hides_overflow), FAULT(misaligned), FAULT(size_off),
        FAULT(other_type), FAULT(hole), FAULT(overlap), FAULT(longer), FAULT(shorter),
        FAULT(reversed), FAULT(size_for_end), FAULT(same_place), FAULT(empty_inside),
        FAULT(far_away), FAULT(data_behind), FAULT(data_cut_off), FAULT(wrong_length),
        FAULT(length_near),
    };
    unsigned kind = source_pick(f->s, sizeof faults / sizeof *faults);
    f->fault = faults[kind].name;
    if (faults[kind].put_into(f)) f->verdict = MUST_FAIL;
}
