/* safetensors_read.c -- from bytes that may be anything to a table of tensors. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/checksum.h"
#include "checkpoint/list.h"
#include "checkpoint/safetensors.h"

#define MAX_TENSORS ((size_t)1 << 20)
#define MAX_PAIRS ((size_t)1 << 16)
#define PIECE ((size_t)16 << 20)        /* bytes verified between two looks at the interrupt flag */

struct moe_safetensors {
    moe_ctx *ctx;
    const char *what;           /* path, for messages; its own memory */
    moe_mapping *map;           /* NULL when the caller owns the bytes */
    const char *data;           /* the first byte after the header */
    uint64_t data_size;
    char *header;               /* private copy: a file that changes cannot fool us */
    size_t header_size;
    moe_list tensors, pairs, sizes;
};

static moe_status append(moe_safetensors *f, moe_list *l, const void *item) {
    return moe__list_append(f->ctx, l, item, f->what);
}

/* --- messages -------------------------------------------------------------------------------- */

static moe_status invalid(const moe_safetensors *f, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static moe_status invalid(const moe_safetensors *f, const char *name, const char *fmt, ...) {
    char text[384];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return moe__fail(f->ctx, MOE_EFORMAT, "%s: %s (%s)", f->what, text, name);
}

/* --- the JSON of the header ------------------------------------------------------------------ */

static bool is(moe_slice text, const char *expected) {
    return text.size == strlen(expected) && memcmp(text.data, expected, text.size) == 0;
}

static moe_status bad_json(moe_safetensors *f, const moe_json *j) {
    return invalid(f, "InvalidHeaderDeserialization", "invalid JSON in header: %s at byte %zu",
                   j->error, (size_t)(j->at - j->begin) + 1);
}

static moe_status read_metadata(moe_safetensors *f, moe_json *j) {
    moe_stored_pair pair;
    moe__json_object(j);
    while (moe__json_key(j, &pair.key) && moe__json_string(j, &pair.value)) {
        if (f->pairs.count == MAX_PAIRS) {
            moe__json_fail(j, "too many entries of metadata");
            break;
        }
        moe_status s = append(f, &f->pairs, &pair);
        if (s) return s;
    }
    return MOE_OK;
}

static moe_status read_shape(moe_safetensors *f, moe_json *j, moe_stored_tensor *t) {
    uint64_t size;
    t->first_size = f->sizes.count;
    moe__json_array(j);
    while (moe__json_next(j) && moe__json_unsigned(j, &size)) {
        if (t->rank == MOE_STORED_MAX_DIMS) {
            moe__json_fail(j, "a tensor with more than 64 dimensions");
            break;
        }
        moe_status s = append(f, &f->sizes, &size);
        if (s) return s;
        t->rank++;
    }
    return MOE_OK;
}

static void read_offsets(moe_json *j, moe_stored_tensor *t) {
    uint64_t *const offset[2] = {&t->begin, &t->end};
    moe__json_array(j);
    for (int i = 0; i < 2; i++)
        if (!moe__json_next(j) || !moe__json_unsigned(j, offset[i])) {
            moe__json_fail(j, "expected two offsets");
            return;
        }
    if (moe__json_next(j)) moe__json_fail(j, "expected two offsets");
}

static void read_type(moe_json *j, moe_stored_tensor *t) {
    moe_slice name;
    if (moe__json_string(j, &name) && !moe__stored_parse(name, &t->type))
        moe__json_fail(j, "unknown dtype");
}

static moe_status read_tensor(moe_safetensors *f, moe_json *j, moe_slice name) {
    static const char *const field[] = {"dtype", "shape", "data_offsets"};
    moe_stored_tensor t = {.name = name};
    unsigned seen = 0;
    moe_slice key;
    moe_status s = MOE_OK;
    moe__json_object(j);
    while (!s && moe__json_key(j, &key)) {
        int which = 0;
        while (which < 3 && !is(key, field[which])) which++;
        if (seen & 1u << which && which < 3) moe__json_fail(j, "a field occurs twice");
        seen |= 1u << which;
        if (which == 0) read_type(j, &t);
        if (which == 1) s = read_shape(f, j, &t);
        if (which == 2) read_offsets(j, &t);
        if (which == 3) moe__json_skip(j);
    }
    if (s) return s;
    if ((seen & 7) != 7) moe__json_fail(j, "a tensor without dtype, shape or data_offsets");
    if (f->tensors.count == MAX_TENSORS) moe__json_fail(j, "too many tensors");
    return j->error ? MOE_OK : append(f, &f->tensors, &t);
}

static moe_status read_json(moe_safetensors *f) {
    moe_json j = moe__json_open(f->header, f->header_size);
    moe_slice name;
    bool metadata = false;
    moe_status s = MOE_OK;
    moe__json_object(&j);
    while (!s && moe__json_key(&j, &name)) {
        if (!is(name, "__metadata__"))
            s = read_tensor(f, &j, name);
        else if (metadata)
            moe__json_fail(&j, "`__metadata__` occurs twice");
        else
            s = read_metadata(f, &j);
        metadata = metadata || is(name, "__metadata__");
    }
    if (s) return s;
    return moe__json_end(&j) ? MOE_OK : bad_json(f, &j);
}

/* --- what the JSON says ---------------------------------------------------------------------- */

static moe_stored_tensor *tensors(const moe_safetensors *f) { return f->tensors.items; }
static moe_stored_pair *pairs(const moe_safetensors *f) { return f->pairs.items; }

static int by_name(const void *a, const void *b) {
    return moe__slice_compare(((const moe_stored_tensor *)a)->name,
                              ((const moe_stored_tensor *)b)->name);
}

static int by_key(const void *a, const void *b) {
    return moe__slice_compare(((const moe_stored_pair *)a)->key, ((const moe_stored_pair *)b)->key);
}

static int by_offset(const void *a, const void *b) {
    const moe_stored_tensor *x = a, *y = b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) return x->end < y->end ? -1 : 1;
    return by_name(a, b);
}

static moe_status twice(moe_safetensors *f, const char *what, moe_slice name) {
    return invalid(f, "InvalidHeaderDeserialization",
                   "invalid JSON in header: %s `%s` occurs twice", what, MOE_SHOWN_NAME(name));
}

static moe_status check_names(moe_safetensors *f) {
    moe__list_sort(&f->tensors, by_name);
    moe__list_sort(&f->pairs, by_key);
    for (size_t i = 1; i < f->tensors.count; i++)
        if (by_name(tensors(f) + i - 1, tensors(f) + i) == 0)
            return twice(f, "tensor", tensors(f)[i].name);
    for (size_t i = 1; i < f->pairs.count; i++)
        if (by_key(pairs(f) + i - 1, pairs(f) + i) == 0)
            return twice(f, "metadata", pairs(f)[i].key);
    return MOE_OK;
}

/* One tensor that has to begin where the one before it ended. */
static moe_status check_tensor(moe_safetensors *f, const moe_stored_tensor *t, uint64_t begin) {
    uint64_t bytes;
    if (t->begin != begin || t->end < t->begin)
        return invalid(f, "InvalidOffset", "invalid offset for tensor `%s`",
                       MOE_SHOWN_NAME(t->name));
    switch (moe__stored_bytes(t->type, t->rank, moe__safetensors_shape(f, t), &bytes)) {
        case MOE_SIZE_OVERFLOW:
            return invalid(f, "ValidationOverflow", "overflow computing the size of tensor `%s` "
                           "from its shape and dtype", MOE_SHOWN_NAME(t->name));
        case MOE_SIZE_MISALIGNED:
            return invalid(f, "MisalignedSlice", "tensor `%s` does not fill whole bytes",
                           MOE_SHOWN_NAME(t->name));
        default: break;
    }
    if (bytes != t->end - t->begin)
        return invalid(f, "TensorInvalidInfo", "invalid shape, dtype or offset for tensor `%s`",
                       MOE_SHOWN_NAME(t->name));
    return MOE_OK;
}

/* In order of their offsets the tensors have to cover the data without a hole or an overlap. */
static moe_status check_layout(moe_safetensors *f) {
    uint64_t end = 0;
    moe__list_sort(&f->tensors, by_offset);
    for (size_t i = 0; i < f->tensors.count; i++) {
        moe_status s = check_tensor(f, tensors(f) + i, end);
        if (s) return s;
        end = tensors(f)[i].end;
    }
    if (end != f->data_size)
        return invalid(f, "MetadataIncompleteBuffer",
                       "incomplete metadata, file not fully covered: %llu bytes of data, "
                       "%llu described", (unsigned long long)f->data_size,
                       (unsigned long long)end);
    moe__list_sort(&f->tensors, by_name);
    return MOE_OK;
}

/* --- opening --------------------------------------------------------------------------------- */

static moe_status copy_header(moe_safetensors *f, const unsigned char *bytes, size_t size) {
    uint64_t n = 0;
    if (size < 8) return invalid(f, "HeaderTooSmall", "header too small: %zu bytes", size);
    for (int i = 7; i >= 0; i--) n = n << 8 | bytes[i];
    if (n > MOE_HEADER_MAX)
        return invalid(f, "HeaderTooLarge", "header too large: %llu bytes", (unsigned long long)n);
    if (n > size - 8)
        return invalid(f, "InvalidHeaderLength", "invalid header length: %llu bytes of %zu",
                       (unsigned long long)n, size - 8);
    f->data = (const char *)bytes + 8 + n;
    f->data_size = size - 8 - n;
    char *copy = moe__alloc(f->ctx, (size_t)n);
    if (!copy) return moe__no_memory(f->ctx, (size_t)n, f->what);
    f->header = memcpy(copy, bytes + 8, (size_t)n);
    f->header_size = (size_t)n;
    return MOE_OK;
}

static moe_status read_all(moe_safetensors *f, const void *bytes, size_t size) {
    moe_status s = copy_header(f, bytes, size);
    if (s) return s;
    size_t valid = moe__utf8_valid(f->header, f->header_size);
    if (valid != f->header_size)
        return invalid(f, "InvalidHeader", "invalid UTF-8 in header: byte %zu", valid + 1);
    s = read_json(f);
    if (!s) s = check_names(f);
    return s ? s : check_layout(f);
}

static moe_safetensors *new_file(moe_ctx *ctx, const char *what) {
    size_t size = strlen(what) + 1;
    moe_safetensors *f = moe__alloc(ctx, sizeof *f);
    char *copy = f ? moe__alloc(ctx, size) : NULL;
    if (!copy) {
        moe__free(ctx, f, sizeof *f);
        return NULL;
    }
    *f = (moe_safetensors){.ctx = ctx, .what = memcpy(copy, what, size),
                           .tensors.size = sizeof(moe_stored_tensor),
                           .pairs.size = sizeof(moe_stored_pair),
                           .sizes.size = sizeof(uint64_t)};
    moe__ctx_retain(ctx);
    return f;
}

static moe_status open_bytes(moe_ctx *ctx, const char *what, moe_mapping *map, const void *bytes,
                             size_t size, moe_safetensors **out) {
    *out = NULL;
    moe_safetensors *f = new_file(ctx, what);
    if (!f) return moe__no_memory(ctx, sizeof *f, what);
    if (map) map->refs++;
    f->map = map;
    moe_status s = read_all(f, bytes, size);
    if (s)
        moe__safetensors_close(f);
    else
        *out = f;
    return s;
}

moe_status moe__safetensors_parse(moe_ctx *ctx, const char *what, const void *bytes, size_t size,
                                  moe_safetensors **out) {
    return open_bytes(ctx, what, NULL, bytes, size, out);
}

moe_status moe__safetensors_map(moe_ctx *ctx, const char *what, moe_mapping *map,
                                moe_safetensors **out) {
    return open_bytes(ctx, what, map, map->data, map->size, out);
}

moe_status moe__safetensors_open(moe_ctx *ctx, const char *path, moe_safetensors **out) {
    moe_mapping *map;
    *out = NULL;
    moe_status s = moe__map_file(ctx, path, &map);
    if (s) return s;
    s = moe__safetensors_map(ctx, path, map, out);
    moe__mapping_release(map);
    return s;
}

void moe__safetensors_close(moe_safetensors *f) {
    if (!f) return;
    moe_ctx *ctx = f->ctx;
    moe__list_free(ctx, &f->tensors);
    moe__list_free(ctx, &f->pairs);
    moe__list_free(ctx, &f->sizes);
    moe__free(ctx, f->header, f->header_size);
    moe__mapping_release(f->map);
    moe__free(ctx, (void *)(uintptr_t)f->what, strlen(f->what) + 1);
    moe__free(ctx, f, sizeof *f);
    moe__ctx_release(ctx);
}

/* --- the checksum ---------------------------------------------------------------------------- */

static const moe_stored_pair *find_checksum(const moe_safetensors *f) {
    moe_stored_pair key = {.key = {MOE_CHECKSUM_KEY, sizeof MOE_CHECKSUM_KEY - 1}};
    if (!f->pairs.count) return NULL;
    return bsearch(&key, pairs(f), f->pairs.count, sizeof key, by_key);
}

static moe_status add_bytes(const moe_safetensors *f, moe_checksum *c, const char *data,
                            uint64_t size) {
    while (size > 0) {
        size_t piece = size < PIECE ? (size_t)size : PIECE;
        if (moe_interrupted(f->ctx)) return moe__fail(f->ctx, MOE_EINTR, "interrupted!");
        moe__checksum_add(c, data, piece);
        data += piece;
        size -= piece;
    }
    return MOE_OK;
}

/* The file as its writer hashed it: with zeros where the digits of the checksum stand. Escapes are
 * undone in place, so a value begins in our copy of the header where it begins in the file. */
static moe_status add_file(const moe_safetensors *f, moe_checksum *c, moe_slice digits) {
    const char *begin = f->data - f->header_size - 8;
    uint64_t size = 8 + f->header_size + f->data_size;
    uint64_t before = 8 + (uint64_t)(digits.data - f->header), after = before + MOE_CHECKSUM_DIGITS;
    moe_status s = add_bytes(f, c, begin, before);
    moe__checksum_add(c, moe__checksum_blank, MOE_CHECKSUM_DIGITS);
    return s ? s : add_bytes(f, c, begin + after, size - after);
}

moe_status moe__safetensors_verify(moe_safetensors *f) {
    char got[MOE_CHECKSUM_DIGITS + 1];
    const moe_stored_pair *found = find_checksum(f);
    if (!found) return moe__fail(f->ctx, MOE_EFORMAT, "%s: it has no checksum", f->what);
    moe_slice digits = found->value;
    if (digits.size != MOE_CHECKSUM_DIGITS)
        return moe__fail(f->ctx, MOE_EFORMAT, "%s: damaged: its checksum has %zu digits, not %d",
                         f->what, digits.size, MOE_CHECKSUM_DIGITS);
    moe_checksum *c = moe__checksum_new(f->ctx);
    if (!c) return moe__no_memory(f->ctx, 1024, f->what);
    moe_status s = add_file(f, c, digits);
    moe__checksum_digits(c, got);
    moe__checksum_free(f->ctx, c);
    if (s || is(digits, got)) return s;
    return moe__fail(f->ctx, MOE_EFORMAT, "%s: damaged: its checksum is %s, its content has %s",
                     f->what, MOE_SHOWN_NAME(digits), got);
}

/* --- looking --------------------------------------------------------------------------------- */

size_t moe__safetensors_count(const moe_safetensors *f) { return f->tensors.count; }

const moe_stored_tensor *moe__safetensors_get(const moe_safetensors *f, size_t i) {
    return tensors(f) + i;
}

const moe_stored_tensor *moe__safetensors_find(const moe_safetensors *f, moe_slice name) {
    moe_stored_tensor key = {.name = name};
    if (!f->tensors.count) return NULL;
    return bsearch(&key, tensors(f), f->tensors.count, sizeof key, by_name);
}

size_t moe__safetensors_pairs(const moe_safetensors *f, const moe_stored_pair **out) {
    *out = pairs(f);
    return f->pairs.count;
}

const uint64_t *moe__safetensors_shape(const moe_safetensors *f, const moe_stored_tensor *t) {
    static const uint64_t none;
    return t->rank ? (const uint64_t *)f->sizes.items + t->first_size : &none;
}

const void *moe__safetensors_data(const moe_safetensors *f, const moe_stored_tensor *t) {
    return f->data + t->begin;
}

/* --- tensors --------------------------------------------------------------------------------- */

moe_entry moe__safetensors_entry(const moe_safetensors *f, const moe_stored_tensor *t) {
    return (moe_entry){.name = t->name, .type = t->type, .rank = t->rank,
                       .shape = moe__safetensors_shape(f, t), .data = f->data + t->begin,
                       .bytes = t->end - t->begin, .at = 8 + f->header_size + t->begin};
}

moe_status moe__safetensors_tensor(moe_safetensors *f, const moe_stored_tensor *t, moe_dtype as,
                                   moe_tensor **out) {
    moe_entry e = moe__safetensors_entry(f, t);
    return moe__entry_tensor(f->ctx, f->what, f->map, &e, as, out);
}
