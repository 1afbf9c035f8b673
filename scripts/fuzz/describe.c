/* describe.c -- valid safetensors files, from the plain to the barely allowed. */
#include <stdio.h>
#include <string.h>

#include "file.h"

const element_type element_types[ELEMENT_TYPES] = {
    {"F32", 32}, {"BF16", 16}, {"F16", 16}, {"F64", 64}, {"I64", 64}, {"I32", 32}, {"I16", 16},
    {"I8", 8}, {"U8", 8}, {"U16", 16}, {"U32", 32}, {"U64", 64}, {"BOOL", 8}, {"C64", 64},
    {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8},
    {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
};

/* --- texts ----------------------------------------------------------------------------------- */

static void put_code(text *t, uint32_t code) {
    char *to = t->data + t->size;
    if (code < 0x80) {
        to[0] = (char)code;
        t->size += 1;
    } else if (code < 0x800) {
        to[0] = (char)(0xc0 + code / 64);
        to[1] = (char)(0x80 + code % 64);
        t->size += 2;
    } else if (code < 0x10000) {
        to[0] = (char)(0xe0 + code / 4096);
        to[1] = (char)(0x80 + code / 64 % 64);
        to[2] = (char)(0x80 + code % 64);
        t->size += 3;
    } else {
        to[0] = (char)(0xf0 + code / 262144);
        to[1] = (char)(0x80 + code / 4096 % 64);
        to[2] = (char)(0x80 + code / 64 % 64);
        to[3] = (char)(0x80 + code % 64);
        t->size += 4;
    }
}

static uint32_t make_code(source *s) {
    static const uint32_t rare[] = {0, 1, 0x1f, '"', '\\', '/', 0x7f, 0x80, 0x7ff, 0x800, 0xd7ff,
                                    0xe000, 0xfeff, 0xffff, 0x10000, 0x1f600, 0x10ffff};
    if (source_once_in(s, 8)) return rare[source_pick(s, sizeof rare / sizeof *rare)];
    return (unsigned char)"abwxyz._0123-ABEF"[source_pick(s, 17)];
}

static void make_text(text *t, source *s) {
    unsigned length = source_once_in(s, 16) ? 28 + source_pick(s, 8) : source_pick(s, 12);
    for (unsigned i = 0; i < length; i++) put_code(t, make_code(s));
}

static bool same(const text *a, const text *b) {
    return a->size == b->size && memcmp(a->data, b->data, a->size) == 0;
}

static bool is_taken(const file *f, const text *name) {
    for (unsigned i = 0; i < f->count; i++)
        if (same(name, &f->tensors[i].name)) return true;
    return false;
}

/* A number behind the name tells it from the others; usually it has none. */
static void make_name(file *f, text *name) {
    static const char *const special[] = {"", "__metadata_", "dtype", "model.norm.weight"};
    bool is_special = source_once_in(f->s, 16);
    if (is_special) {
        const char *word = special[source_pick(f->s, 4)];
        name->size = strlen(word);
        memcpy(name->data, word, name->size);
    } else
        make_text(name, f->s);
    while (is_taken(f, name)) put_code(name, '0' + source_pick(f->s, 10));
}

/* --- tensors --------------------------------------------------------------------------------- */

static uint64_t elements(const tensor *t) {
    uint64_t n = 1;
    for (unsigned i = 0; i < t->rank; i++) n *= t->shape[i];
    return n;
}

static unsigned make_rank(source *s) {
    static const unsigned rare[] = {5, 6, 7, 8, 9, 33, 63, 64};
    return source_once_in(s, 12) ? rare[source_pick(s, 8)] : source_pick(s, 4);
}

static void make_shape(tensor *t, source *s) {
    uint64_t n = 1;
    t->rank = make_rank(s);
    for (unsigned i = 0; i < t->rank; i++) {
        t->shape[i] = t->rank > 9 ? source_once_in(s, 64) ? 2u : 1u : source_pick(s, 8);
        if (t->shape[i] == 0 && !source_once_in(s, 4)) t->shape[i] = 1;
        if (source_once_in(s, 64)) t->shape[i] = 50 + source_pick(s, 50);
        if (n * t->shape[i] > 100) t->shape[i] = 1;
        n *= t->shape[i];
    }
}

/* No elements, and sizes that would overflow if they were multiplied without the 0 before them. */
static void make_empty_shape(tensor *t, source *s) {
    static const uint64_t large[] = {INT64_MAX, (uint64_t)1 << 62, (uint64_t)1 << 32, 3};
    t->rank = 2 + source_pick(s, 3);
    t->shape[0] = 0;
    for (unsigned i = 1; i < t->rank; i++) t->shape[i] = large[source_pick(s, 4)];
}

/* Elements of 4 and 6 bits have to fill whole bytes. */
static void fill_bytes(tensor *t) {
    if (elements(t) * element_types[t->type].bits % 8 == 0) return;
    if (t->rank == 0)
        t->type = 0;
    else
        t->shape[t->rank - 1] *= 4;
}

static void make_tensor(file *f, tensor *t) {
    static const char *const others[] = {
        "0", "-0", "-1.5e+10", "1E5", "[]", "{ }", "[[[1]]]", "null", "true", "false", "\"x\"",
        "{\"a\":{\"b\":[1,2.0,\"\\ud83d\\ude00\"]},\"c\":null}", "[\"\\u0000\",{}, [ ] ]",
        "0.5", "0e0", "123456789012345678901234567890", "128",
    };
    source *s = f->s;
    memset(t, 0, sizeof *t);
    make_name(f, &t->name);
    t->type = source_pick(s, ELEMENT_TYPES);
    if (source_once_in(s, 32))
        make_empty_shape(t, s);
    else
        make_shape(t, s);
    fill_bytes(t);
    t->begin = f->data_size;
    f->data_size += elements(t) * element_types[t->type].bits / 8;
    t->end = f->data_size;
    t->odd_field = -1;
    if (source_once_in(s, 8)) t->other = others[source_pick(s, sizeof others / sizeof *others)];
    f->count++;
}

static bool has_key(const file *f, const text *key) {
    for (unsigned i = 0; i < f->pair_count; i++)
        if (same(&f->pairs[i].key, key)) return true;
    return false;
}

/* Of the right length and form; that it is the right one is past hoping for. */
static void make_checksum(pair *p, source *s) {
    p->key = (text){.data = "checksum", .size = 8};
    p->value.size = source_once_in(s, 4) ? 31 : 32;
    for (size_t i = 0; i < p->value.size; i++)
        p->value.data[i] = "0123456789abcdef"[source_pick(s, 16)];
}

static void make_metadata(file *f) {
    unsigned n = source_pick(f->s, 4);
    f->metadata = source_pick(f->s, 2) ? 1 : 0;
    for (unsigned i = 0; f->metadata && i < n; i++) {
        pair *p = &f->pairs[f->pair_count];
        memset(p, 0, sizeof *p);
        make_text(&p->key, f->s);
        make_text(&p->value, f->s);
        if (source_once_in(f->s, 8)) make_checksum(p, f->s);
        if (!has_key(f, &p->key)) f->pair_count++;
    }
}

void describe_file(file *f, source *s) {
    memset(f, 0, offsetof(file, tensors));
    f->s = s;
    unsigned count = source_once_in(s, 64) ? 15 + source_pick(s, 25) : source_pick(s, 5);
    for (unsigned i = 0; i < count; i++) make_tensor(f, &f->tensors[i]);
    make_metadata(f);
    f->spaces = source_once_in(s, 4);
    f->padding = source_pick(s, 9);
}
