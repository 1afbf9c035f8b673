/* gguf_describe.c -- valid GGUF files, and their bytes. */
#include <string.h>

#include "gguf_file.h"

const element_type element_types[ELEMENT_TYPES] = {
    {0, 1, 4},     {1, 1, 2},     {30, 1, 2},    {8, 32, 34},    {2, 32, 18},    {3, 32, 20},
    {6, 32, 22},   {7, 32, 24},   {10, 256, 84}, {11, 256, 110}, {12, 256, 144}, {13, 256, 176},
    {14, 256, 210}, {24, 1, 1},   {25, 1, 2},    {26, 1, 4},     {27, 1, 8},     {28, 1, 8},
};

unsigned value_size(uint32_t type) {
    static const unsigned char size[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof size ? size[type] : 0;
}

/* --- names ----------------------------------------------------------------------------------- */

static bool is_taken(const file *f, const label *name) {
    for (unsigned i = 0; i < f->pairs_used; i++) {
        const label *other = &f->pairs[i].key;
        if (other->used == name->used && memcmp(other->data, name->data, name->used) == 0)
            return true;
    }
    for (unsigned i = 0; i < f->tensors_used; i++) {
        const label *other = &f->tensors[i].name;
        if (other->used == name->used && memcmp(other->data, name->data, name->used) == 0)
            return true;
    }
    return false;
}

static void add(label *b, const char *text) {
    size_t size = strlen(text);
    memcpy(b->data + b->used, text, size);
    b->used += size;
    b->size = b->used;
}

/* At most 63 bytes; what tells it from the others stands at its end. */
static void make_name(const file *f, label *name) {
    static const char *const parts[] = {"a", "b", "blk.", "0", "1", ".weight", "general.", "_",
                                        "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80", "\x01"};
    unsigned n = source_once_in(f->s, 12) ? 9 : 1 + source_pick(f->s, 4);
    *name = (label){.used = 0};
    for (unsigned i = 0; i < n; i++) {
        const char *part = parts[source_pick(f->s, 12)];
        if (name->used + strlen(part) <= 56) add(name, part);
    }
    while (n == 9 && name->used < 63) add(name, "x");
    while (name->used == 0 || is_taken(f, name)) {
        if (name->used > 60) *name = (label){.data = "r", .size = 1, .used = 1};
        add(name, (char[]){(char)('0' + source_pick(f->s, 10)), '\0'});
    }
}

/* --- pairs ----------------------------------------------------------------------------------- */

static void put_value(file *f, pair *p, uint32_t type) {
    if (type == 8) {
        uint64_t size = source_pick(f->s, 9);
        memcpy(p->value + p->size, &size, 8);
        p->size += 8;
        for (uint64_t i = 0; i < size; i++) p->value[p->size++] = (uint8_t)source_pick(f->s, 256);
        return;
    }
    for (unsigned i = 0; i < value_size(type); i++)
        p->value[p->size++] = (uint8_t)source_pick(f->s, type == 7 ? 2 : 256);
}

static void make_pair(file *f) {
    static const uint32_t types[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 8, 9, 9, 9};
    pair *p = &f->pairs[f->pairs_used];
    memset(p, 0, sizeof *p);
    make_name(f, &p->key);
    p->type = types[source_pick(f->s, 16)];
    p->count = 1;
    p->element = p->type;
    if (p->type == 9) {
        p->element = types[source_pick(f->s, 13)];
        p->count = source_pick(f->s, 9);
    }
    for (uint64_t i = 0; i < p->count; i++) put_value(f, p, p->element);
    f->pairs_used++;
}

static void make_alignment(file *f) {
    pair *p = &f->pairs[f->pairs_used++];
    memset(p, 0, sizeof *p);
    add(&p->key, "general.alignment");
    p->type = p->element = 4;
    p->count = 1;
    p->size = 4;
    f->alignment = (uint64_t)1 << source_pick(f->s, 8);
    uint32_t value = (uint32_t)f->alignment;
    memcpy(p->value, &value, 4);
}

/* --- tensors --------------------------------------------------------------------------------- */

static void make_sizes(file *f, tensor *t, const element_type *type) {
    uint64_t n = 1;
    t->rank = source_pick(f->s, 5);
    if (t->rank == 0 && type->elements > 1) t->rank = 1;
    for (unsigned i = 0; i < t->rank; i++) {
        t->size[i] = source_once_in(f->s, 12) ? 0 : 1 + source_pick(f->s, 5);
        if (n * t->size[i] > 16) t->size[i] = 1;
        n *= t->size[i];
    }
    if (t->rank) t->size[0] *= type->elements;
    t->data_size = n * type->bytes;
}

static uint64_t padded(const file *f, uint64_t size) {
    return (size + f->alignment - 1) / f->alignment * f->alignment;
}

static void make_tensor(file *f, uint64_t *end) {
    tensor *t = &f->tensors[f->tensors_used];
    const element_type *type = &element_types[source_pick(f->s, ELEMENT_TYPES)];
    memset(t, 0, sizeof *t);
    make_name(f, &t->name);
    t->type = type->number;
    make_sizes(f, t, type);
    t->offset = *end;
    *end = padded(f, t->offset + t->data_size);
    f->tensors_used++;
}

void describe_file(file *f, source *s) {
    uint64_t end = 0;
    unsigned npairs = source_pick(s, 6), ntensors = source_pick(s, 6);
    memset(f, 0, offsetof(file, pairs));
    f->s = s;
    f->magic = 0x46554747;
    f->version = 2 + source_pick(s, 2);
    f->alignment = 32;
    if (source_once_in(s, 4)) make_alignment(f);
    for (unsigned i = 0; i < npairs; i++) make_pair(f);
    if (source_once_in(s, 32)) ntensors = MAX_TENSORS;
    for (unsigned i = 0; i < ntensors; i++) make_tensor(f, &end);
    f->tensor_count = f->tensors_used;
    f->pair_count = f->pairs_used;
    f->ends_early = source_once_in(s, 4);
}

/* --- bytes ----------------------------------------------------------------------------------- */

static void put(file *f, const void *data, size_t size) {
    const uint8_t *from = data;
    if (size > MAX_BYTES - f->size) size = MAX_BYTES - f->size;
    for (size_t i = 0; i < size; i++) f->bytes[f->size++] = from[i];
}

static void put_bytes(file *f, const label *b) {
    put(f, &b->size, 8);
    put(f, b->data, b->used);
}

static void put_pair(file *f, const pair *p) {
    put_bytes(f, &p->key);
    put(f, &p->type, 4);
    if (p->type == 9) {
        put(f, &p->element, 4);
        put(f, &p->count, 8);
    }
    put(f, p->value, p->size);
}

static void put_tensor(file *f, const tensor *t) {
    put_bytes(f, &t->name);
    put(f, &t->rank, 4);
    for (unsigned i = 0; i < t->rank && i < 6; i++) put(f, &t->size[i], 8);
    put(f, &t->type, 4);
    put(f, &t->offset, 8);
}

static void put_noise(file *f, uint64_t size) {
    for (uint64_t i = 0; i < size; i += 8) {
        uint64_t word = source_random(f->s);
        put(f, &word, size - i < 8 ? (size_t)(size - i) : 8);
    }
}

static void put_zeros(file *f, uint64_t size) {
    for (uint64_t i = 0; i < size; i++) put(f, "", 1);
}

/* Where the data of the last tensor would end, from the beginning of the data. */
static uint64_t data_size(const file *f) {
    uint64_t end = 0;
    for (unsigned i = 0; i < f->tensors_used; i++)
        end = padded(f, end) + f->tensors[i].data_size;
    return f->ends_early ? end : padded(f, end);
}

void write_file(file *f) {
    f->size = 0;
    put(f, &f->magic, 4);
    put(f, &f->version, 4);
    put(f, &f->tensor_count, 8);
    put(f, &f->pair_count, 8);
    for (unsigned i = 0; i < f->pairs_used; i++) put_pair(f, &f->pairs[i]);
    for (unsigned i = 0; i < f->tensors_used; i++) put_tensor(f, &f->tensors[i]);
    f->header_size = f->size;
    if (f->tensors_used || !f->ends_early) put_zeros(f, padded(f, f->size) - f->size);
    put_noise(f, data_size(f) + (uint64_t)f->data_change);
}
