/* gguf_spoil.c -- one fault for a valid GGUF file, of any of the kinds that a reader has to notice.
 * A kind that finds no place for itself leaves the file valid. */
#include <string.h>

#include "gguf_file.h"

#define PICK(s, list) (list)[source_pick((s), sizeof(list) / sizeof *(list))]

static tensor *any(file *f) {
    return f->tensors_used ? &f->tensors[source_pick(f->s, f->tensors_used)] : NULL;
}

static pair *any_pair(file *f) {
    return f->pairs_used ? &f->pairs[source_pick(f->s, f->pairs_used)] : NULL;
}

static label *any_name(file *f) {
    tensor *t = any(f);
    pair *p = any_pair(f);
    if (t && (!p || source_pick(f->s, 2))) return &t->name;
    return p ? &p->key : NULL;
}

static const element_type *type_of(const tensor *t) {
    for (unsigned i = 0; i < ELEMENT_TYPES; i++)
        if (element_types[i].number == t->type) return &element_types[i];
    return NULL;
}

/* --- the head -------------------------------------------------------------------------------- */

static bool bad_magic(file *f) {
    f->magic ^= (uint32_t)1 << source_pick(f->s, 32);
    return true;
}

static bool bad_version(file *f) {
    static const uint32_t versions[] = {0, 1, 4, 0x03000000, 0x02000000, UINT32_MAX, 0x10003};
    f->version = PICK(f->s, versions);
    return true;
}

static bool bad_counts(file *f) {
    static const uint64_t more[] = {1, 2, 1 << 16, 1 << 20, (uint64_t)1 << 32, (uint64_t)1 << 62,
                                    (uint64_t)1 << 63};
    uint64_t by = PICK(f->s, more);
    if (source_pick(f->s, 2)) {
        f->tensor_count += by;          /* the zeros and the noise that follow are no tensors */
        return true;
    }
    f->pair_count += by;
    if (by > 2) return true;
    f->verdict = MAY_DO_EITHER;         /* a tensor may pass for a pair */
    return false;
}

/* --- names ----------------------------------------------------------------------------------- */

static bool empty_name(file *f) {
    label *b = any_name(f);
    if (b) *b = (label){.size = 0};
    return b;
}

static bool odd_byte(file *f) {
    static const char *const values[] = {"\xff", "\x80", "\xc0\x80", "\xed\xa0\x80", "\xc3",
                                         "\xf5"};
    label *b = any_name(f);
    if (!b || b->used > 40) return false;
    const char *value = source_pick(f->s, 3) ? PICK(f->s, values) : "";
    size_t size = *value ? strlen(value) : 1;           /* or a NUL */
    memcpy(b->data + b->used, value, size);
    b->used += size;
    b->size = b->used;
    return true;
}

static bool name_twice(file *f) {
    tensor *a = any(f), *b = any(f);
    if (!a || a == b) return false;
    b->name = a->name;
    return true;
}

static bool key_twice(file *f) {
    pair *a = any_pair(f), *b = any_pair(f);
    if (!a || a == b) return false;
    b->key = a->key;
    return true;
}

static bool long_name(file *f) {
    tensor *t = any(f);
    if (!t) return false;
    memset(t->name.data, 'n', sizeof t->name.data);
    t->name.size = t->name.used = 64 + source_pick(f->s, 10);
    return true;
}

static bool endless_name(file *f) {
    static const uint64_t sizes[] = {UINT64_MAX, (uint64_t)1 << 63, INT64_MAX, 1 << 30, 1 << 20,
                                     UINT64_MAX - 7};
    label *b = any_name(f);
    if (b) b->size = PICK(f->s, sizes);
    return b;
}

/* --- pairs ----------------------------------------------------------------------------------- */

static bool odd_type(file *f) {
    static const uint32_t types[] = {13, 14, 255, UINT32_MAX, 0x80000000u, 0x108};
    pair *p = any_pair(f);
    if (!p) return false;
    if (p->type == 9 && source_pick(f->s, 2))
        p->element = source_pick(f->s, 2) ? 9 : PICK(f->s, types);
    else
        p->type = PICK(f->s, types);
    return true;
}

static bool endless_array(file *f) {
    static const uint64_t counts[] = {UINT64_MAX, (uint64_t)1 << 63, (uint64_t)1 << 62, 1 << 20,
                                      (uint64_t)1 << 61, (1 << 24) + 1};
    pair *p = any_pair(f);
    if (!p || p->type != 9) return false;
    p->count = PICK(f->s, counts);
    return true;
}

static bool endless_string(file *f) {
    static const uint64_t sizes[] = {UINT64_MAX, (uint64_t)1 << 63, 1 << 30, 1 << 20};
    pair *p = any_pair(f);
    if (!p || p->element != 8 || p->count == 0) return false;
    uint64_t size = PICK(f->s, sizes);
    memcpy(p->value, &size, 8);
    return true;
}

static bool odd_bool(file *f) {
    pair *p = any_pair(f);
    if (!p || p->element != 7 || p->count == 0) return false;
    p->value[source_pick(f->s, (unsigned)p->count)] = (uint8_t)(2 + source_pick(f->s, 254));
    return true;
}

static bool odd_alignment(file *f) {
    static const uint32_t values[] = {0, 3, 6, 31, 33, 48, UINT32_MAX, 0x80000001u};
    static const uint32_t types[] = {5, 6, 0, 2, 10};
    pair *p = &f->pairs[0];
    if (!f->pairs_used || p->key.used != 17) return false;
    if (memcmp(p->key.data, "general.alignment", 17) != 0) return false;
    if (source_pick(f->s, 2)) {
        uint32_t value = PICK(f->s, values);
        memcpy(p->value, &value, 4);
    } else {
        p->type = p->element = PICK(f->s, types);
        memset(p->value, 0, 8);
        p->value[0] = 32;
        p->size = value_size(p->type);
    }
    return true;
}

/* --- tensors --------------------------------------------------------------------------------- */

static bool many_dimensions(file *f) {
    static const uint32_t ranks[] = {5, 6, UINT32_MAX, 0x80000000u, 255};
    tensor *t = any(f);
    if (t) t->rank = PICK(f->s, ranks);
    return t;
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
    if (!t || type_of(t)->elements > 1) return false;
    uint64_t n = t->data_size / type_of(t)->bytes;
    uint64_t a = source_u64(f->s) >> (1 + source_pick(f->s, 40)) | 1, b = n * inverse(a);
    if (b > INT64_MAX || (wide)a * b == n) return false;
    t->rank = 2;
    t->size[0] = a;
    t->size[1] = b;
    return true;
}

/* The bytes of so many blocks are the true number modulo 2^64. */
static bool bytes_wrap(file *f) {
    tensor *t = any(f);
    if (!t || t->rank == 0) return false;
    const element_type *type = type_of(t);
    uint64_t odd = type->bytes, zeros = 0;
    while (odd % 2 == 0) {
        odd /= 2;
        zeros++;
    }
    if (zeros == 0) return false;
    wide blocks = t->data_size / type->bytes + ((wide)1 << (64 - zeros));
    wide elements = blocks * type->elements;
    if (elements > INT64_MAX) return false;
    t->rank = 1;
    t->size[0] = (uint64_t)elements;
    return true;
}

static bool huge_size(file *f) {
    static const uint64_t sizes[] = {(uint64_t)1 << 63, UINT64_MAX, UINT64_MAX - 31,
                                     (uint64_t)3 << 62};
    tensor *t = any(f);
    if (!t || t->rank == 0) return false;
    for (unsigned i = 0; i < t->rank; i++)
        if (t->size[i] == 0) return false;
    t->size[source_pick(f->s, t->rank)] = PICK(f->s, sizes);
    return true;
}

static bool cut_block(file *f) {
    tensor *t = any(f);
    if (!t || type_of(t)->elements == 1) return false;
    t->size[0] += 1 + source_pick(f->s, type_of(t)->elements - 1);
    return true;
}

static bool odd_element(file *f) {
    static const uint32_t types[] = {4, 5, 9, 15, 16, 20, 23, 29, 31, 32, 33, 34, 36, 39, 42, 43,
                                     99, UINT32_MAX, 0x80000000u};
    tensor *t = any(f);
    if (t) t->type = PICK(f->s, types);
    return t;
}

static bool other_offset(file *f) {
    static const uint64_t places[] = {UINT64_MAX, (uint64_t)1 << 63, 1, 32, 31, 64,
                                      UINT64_MAX - 31};
    tensor *t = any(f);
    if (!t) return false;
    t->offset += PICK(f->s, places);
    return true;
}

static bool swapped(file *f) {
    tensor *a = any(f), *b = any(f);
    if (!a || a->offset == b->offset) return false;
    uint64_t offset = a->offset;
    a->offset = b->offset;
    b->offset = offset;
    return true;
}

/* --- the data -------------------------------------------------------------------------------- */

static bool data_behind(file *f) {
    f->ends_early = false;
    f->data_change = 1 + source_pick(f->s, 40);
    return true;
}

/* Bytes of the last tensor itself, not of its padding. */
static bool data_missing(file *f) {
    if (!f->tensors_used) return false;
    const tensor *last = &f->tensors[f->tensors_used - 1];
    if (last->data_size == 0) return false;
    f->ends_early = true;
    f->data_change = -1 - (int64_t)source_pick(f->s, last->data_size < 30
                                                         ? (unsigned)last->data_size : 30);
    return true;
}

/* --- all of them ----------------------------------------------------------------------------- */

#define FAULT(name) {#name, name}

void spoil_file(file *f) {
    static const struct {
        const char *name;
        bool (*put_into)(file *f);
    } faults[] = {
        FAULT(bad_magic), FAULT(bad_version), FAULT(bad_counts), FAULT(empty_name),
        FAULT(odd_byte), FAULT(name_twice), FAULT(key_twice), FAULT(long_name),
        FAULT(endless_name), FAULT(odd_type), FAULT(endless_array), FAULT(endless_string),
        FAULT(odd_bool), FAULT(odd_alignment), FAULT(many_dimensions), FAULT(product_wraps),
        FAULT(bytes_wrap), FAULT(huge_size), FAULT(cut_block), FAULT(odd_element),
        FAULT(other_offset), FAULT(swapped), FAULT(data_behind), FAULT(data_missing),
    };
    unsigned which = source_pick(f->s, sizeof faults / sizeof *faults);
    f->fault = faults[which].name;
    if (faults[which].put_into(f)) f->verdict = MUST_FAIL;
}
