/* gguf_read.c -- from bytes that may be anything to a table of tensors.
 *
 * The header is read twice: where it lies, which tells how long it is, and again from a private
 * copy, to which everything that is kept points. So a file that changes cannot fool us.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/gguf.h"
#include "checkpoint/list.h"

#define MAX_TENSORS ((uint64_t)1 << 20)
#define MAX_PAIRS ((uint64_t)1 << 16)
#define MAX_VALUES ((uint64_t)1 << 24)      /* of an array */
#define ALIGNMENT_KEY "general.alignment"

typedef struct sizes { uint64_t of[MOE_GGUF_MAX_DIMS]; } sizes;

struct moe_gguf {
    moe_ctx *ctx;
    const char *what;           /* path, for messages; its own memory */
    moe_mapping *map;           /* NULL when the caller owns the bytes */
    const char *file;
    size_t file_size;
    char *header;               /* the copy; NULL while the first reading goes on */
    size_t header_size;
    const char *at, *end;       /* what is left of the header while it is read */
    uint64_t alignment;
    moe_list pairs, tensors, sizes;     /* of moe_gguf_pair, moe_entry, sizes */
};

static moe_gguf_pair *pairs(const moe_gguf *f) { return f->pairs.items; }
static moe_entry *tensors(const moe_gguf *f) { return f->tensors.items; }

static moe_status invalid(const moe_gguf *f, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

static moe_status invalid(const moe_gguf *f, const char *fmt, ...) {
    char text[384];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    return moe__fail(f->ctx, MOE_EFORMAT, "%s: %s", f->what, text);
}

/* --- pieces ---------------------------------------------------------------------------------- */

static size_t left(const moe_gguf *f) { return (size_t)(f->end - f->at); }

/* The next `size` bytes; false when there are not as many. */
static bool take(moe_gguf *f, void *out, size_t size) {
    if (size > left(f)) return false;
    memcpy(out, f->at, size);
    f->at += size;
    return true;
}

static bool take_string(moe_gguf *f, moe_slice *out) {
    uint64_t size;
    if (!take(f, &size, sizeof size) || size > left(f)) return false;
    *out = (moe_slice){f->at, (size_t)size};
    f->at += size;
    return true;
}

moe_slice moe__gguf_string(const char **at) {
    uint64_t size;
    memcpy(&size, *at, sizeof size);
    moe_slice text = {*at + sizeof size, (size_t)size};
    *at = text.data + text.size;
    return text;
}

/* --- pairs ----------------------------------------------------------------------------------- */

static bool skip_strings(moe_gguf *f, uint64_t count) {
    moe_slice text;
    for (; count > 0; count--)
        if (!take_string(f, &text)) return false;
    return true;
}

static bool skip_values(moe_gguf *f, const moe_gguf_pair *p) {
    uint64_t bytes;
    if (p->type == MOE_GGUF_STRING) return skip_strings(f, p->count);
    if (__builtin_mul_overflow(p->count, moe__gguf_type_size(p->type), &bytes) || bytes > left(f))
        return false;
    f->at += bytes;
    return true;
}

static moe_status check_bools(const moe_gguf *f, const moe_gguf_pair *p) {
    for (uint64_t i = 0; i < p->count; i++)
        if (p->data[i] & ~1)
            return invalid(f, "key `%s` holds the boolean %d, which is neither 0 nor 1",
                           MOE_SHOWN_NAME(p->key), (unsigned char)p->data[i]);
    return MOE_OK;
}

static moe_status cut_off(const moe_gguf *f, const char *what, moe_slice name) {
    return invalid(f, "%s `%s` runs past the end of the file", what, MOE_SHOWN_NAME(name));
}

/* The type, and for an array that of its elements and how many there are. */
static moe_status read_type(moe_gguf *f, moe_gguf_pair *p) {
    uint32_t type;
    if (!take(f, &type, sizeof type)) return cut_off(f, "the type of key", p->key);
    p->array = type == MOE_GGUF_ARRAY;
    p->count = 1;
    if (p->array && (!take(f, &type, sizeof type) || !take(f, &p->count, sizeof p->count)))
        return cut_off(f, "the array of key", p->key);
    if (p->array && type == MOE_GGUF_ARRAY)
        return invalid(f, "key `%s` is an array of arrays", MOE_SHOWN_NAME(p->key));
    if (type >= MOE_GGUF_TYPES)
        return invalid(f, "key `%s` has type %lu, which does not exist", MOE_SHOWN_NAME(p->key),
                       (unsigned long)type);
    if (p->count > MAX_VALUES)
        return invalid(f, "key `%s` has %llu values, more than %llu", MOE_SHOWN_NAME(p->key),
                       (unsigned long long)p->count, (unsigned long long)MAX_VALUES);
    p->type = (moe_gguf_type)type;
    return MOE_OK;
}

static moe_status read_alignment(moe_gguf *f, const moe_gguf_pair *p) {
    uint32_t alignment;
    if (p->array || p->type != MOE_GGUF_U32)
        return invalid(f, "key `" ALIGNMENT_KEY "` is no u32 but %s",
                       p->array ? "an array" : moe__gguf_type_name(p->type));
    memcpy(&alignment, p->data, sizeof alignment);
    if (alignment == 0 || alignment & (alignment - 1))
        return invalid(f, "the alignment %lu is no power of two", (unsigned long)alignment);
    f->alignment = alignment;
    return MOE_OK;
}

static bool is_alignment(moe_slice key) {
    return key.size == sizeof ALIGNMENT_KEY - 1 &&
           memcmp(key.data, ALIGNMENT_KEY, key.size) == 0;
}

static moe_status read_pair(moe_gguf *f, uint64_t number) {
    moe_gguf_pair p;
    if (!take_string(f, &p.key))
        return invalid(f, "key %llu runs past the end of the file", (unsigned long long)number);
    const char *fault = moe__gguf_name_fault(p.key, MOE_GGUF_MAX_KEY);
    if (fault) return invalid(f, "key %llu %s", (unsigned long long)number, fault);
    moe_status s = read_type(f, &p);
    if (s) return s;
    p.data = f->at;
    if (!skip_values(f, &p)) return cut_off(f, "the value of key", p.key);
    p.bytes = (size_t)(f->at - p.data);
    if (p.type == MOE_GGUF_BOOL) s = check_bools(f, &p);
    if (!s && is_alignment(p.key)) s = read_alignment(f, &p);
    return s ? s : moe__list_append(f->ctx, &f->pairs, &p, f->what);
}

/* --- tensors --------------------------------------------------------------------------------- */

static moe_status read_name(moe_gguf *f, uint64_t number, moe_slice *name) {
    if (!take_string(f, name))
        return invalid(f, "tensor %llu runs past the end of the file", (unsigned long long)number);
    const char *fault = moe__gguf_name_fault(*name, MOE_GGUF_MAX_NAME);
    if (!fault) return MOE_OK;
    return invalid(f, "the name of tensor %llu %s", (unsigned long long)number, fault);
}

/* Sizes come densest first, the reverse of our order. */
static moe_status read_sizes(moe_gguf *f, moe_entry *e, sizes *shape) {
    if (!take(f, &e->rank, sizeof e->rank)) return cut_off(f, "tensor", e->name);
    if (e->rank > MOE_GGUF_MAX_DIMS)
        return invalid(f, "tensor `%s` has %lu dimensions, more than %d", MOE_SHOWN_NAME(e->name),
                       (unsigned long)e->rank, MOE_GGUF_MAX_DIMS);
    for (uint32_t i = e->rank; i-- > 0;)
        if (!take(f, &shape->of[i], sizeof shape->of[i])) return cut_off(f, "tensor", e->name);
    return MOE_OK;
}

static moe_status read_element_type(moe_gguf *f, moe_entry *e) {
    uint32_t number;
    const char *name;
    if (!take(f, &number, sizeof number)) return cut_off(f, "tensor", e->name);
    e->type = moe__gguf_stored(number, &name);
    if (e->type != MOE_STORED_COUNT) return MOE_OK;
    if (!name)
        return invalid(f, "tensor `%s` has type %lu, which does not exist",
                       MOE_SHOWN_NAME(e->name), (unsigned long)number);
    return moe__fail(f->ctx, MOE_EUNSUPPORTED, "%s: tensor `%s` is quantised as %s, which is not "
                     "supported\nhint: convert the model to Q8_0, a K-quant or F16", f->what,
                     MOE_SHOWN_NAME(e->name), name);
}

static moe_status check_size(const moe_gguf *f, moe_entry *e, const sizes *shape) {
    switch (moe__stored_bytes(e->type, e->rank, shape->of, &e->bytes)) {
        case MOE_SIZE_OVERFLOW:
            return invalid(f, "tensor `%s` has sizes whose product overflows",
                           MOE_SHOWN_NAME(e->name));
        case MOE_SIZE_MISALIGNED:
            return invalid(f, "tensor `%s` has rows that are no whole blocks of %s",
                           MOE_SHOWN_NAME(e->name), moe__stored_name(e->type));
        default: return MOE_OK;
    }
}

static moe_status read_tensor(moe_gguf *f, uint64_t number) {
    moe_entry e = {0};
    sizes shape = {{0}};
    moe_status s = read_name(f, number, &e.name);
    if (!s) s = read_sizes(f, &e, &shape);
    if (!s) s = read_element_type(f, &e);
    if (!s) s = check_size(f, &e, &shape);
    if (!s && !take(f, &e.at, sizeof e.at)) s = cut_off(f, "tensor", e.name);
    if (!s) s = moe__list_append(f->ctx, &f->sizes, &shape, f->what);
    return s ? s : moe__list_append(f->ctx, &f->tensors, &e, f->what);
}

/* --- the header ------------------------------------------------------------------------------ */

static moe_status read_version(moe_gguf *f) {
    char magic[4];
    uint32_t version;
    if (!take(f, magic, sizeof magic) || memcmp(magic, MOE_GGUF_MAGIC, sizeof magic) != 0)
        return invalid(f, "no GGUF file: it does not begin with `" MOE_GGUF_MAGIC "`");
    if (!take(f, &version, sizeof version)) return invalid(f, "the file ends in its header");
    if (version == 2 || version == 3) return MOE_OK;
    return invalid(f, "GGUF version %lu%s: 2 and 3 can be read", (unsigned long)version,
                   version && !(version & 0xffff) ? " (a big-endian file?)" : "");
}

static moe_status read_counts(moe_gguf *f, uint64_t *ntensors, uint64_t *npairs) {
    if (!take(f, ntensors, sizeof *ntensors) || !take(f, npairs, sizeof *npairs))
        return invalid(f, "the file ends in its header");
    if (*ntensors > MAX_TENSORS)
        return invalid(f, "%llu tensors are more than %llu", (unsigned long long)*ntensors,
                       (unsigned long long)MAX_TENSORS);
    if (*npairs > MAX_PAIRS)
        return invalid(f, "%llu pairs of metadata are more than %llu",
                       (unsigned long long)*npairs, (unsigned long long)MAX_PAIRS);
    return MOE_OK;
}

/* Reads the header that begins at `bytes`, from `size` bytes at most. */
static moe_status read_header(moe_gguf *f, const char *bytes, size_t size) {
    uint64_t ntensors = 0, npairs = 0;
    f->at = bytes;
    f->end = bytes + size;
    f->alignment = MOE_GGUF_ALIGNMENT;
    f->pairs.count = f->tensors.count = f->sizes.count = 0;
    moe_status s = read_version(f);
    if (!s) s = read_counts(f, &ntensors, &npairs);
    for (uint64_t i = 1; i <= npairs && !s; i++) s = read_pair(f, i);
    for (uint64_t i = 1; i <= ntensors && !s; i++) s = read_tensor(f, i);
    return s;
}

static moe_status copy_header(moe_gguf *f) {
    size_t size = f->file_size < MOE_GGUF_MAX_HEADER ? f->file_size : MOE_GGUF_MAX_HEADER;
    moe_status s = read_header(f, f->file, size);
    if (s) return s;
    f->header_size = (size_t)(f->at - f->file);
    f->header = moe__alloc(f->ctx, f->header_size);
    if (!f->header) return moe__no_memory(f->ctx, f->header_size, f->what);
    memcpy(f->header, f->file, f->header_size);
    return read_header(f, f->header, f->header_size);
}

/* --- what it says ---------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b) {
    return moe__slice_compare(((const moe_gguf_pair *)a)->key, ((const moe_gguf_pair *)b)->key);
}

/* `at` rounded up to the alignment; false when it overflows. */
static bool align(const moe_gguf *f, uint64_t at, uint64_t *out) {
    if (__builtin_add_overflow(at, f->alignment - 1, out)) return false;
    *out &= ~(f->alignment - 1);
    return true;
}

/* The tensor has to begin at `*end`, counted from the beginning of the data, and moves it behind
 * itself and its padding. */
static moe_status place(const moe_gguf *f, moe_entry *e, uint64_t begin, uint64_t *end) {
    if (e->at != *end)
        return invalid(f, "tensor `%s` is at offset %llu instead of %llu", MOE_SHOWN_NAME(e->name),
                       (unsigned long long)e->at, (unsigned long long)*end);
    uint64_t available = f->file_size - begin;
    if (e->at > available || e->bytes > available - e->at)
        return invalid(f, "the data of tensor `%s` (%llu bytes) runs past the end of the file",
                       MOE_SHOWN_NAME(e->name), (unsigned long long)e->bytes);
    if (!align(f, e->at + e->bytes, end))
        return invalid(f, "the offset after tensor `%s` overflows", MOE_SHOWN_NAME(e->name));
    e->at += begin;
    e->data = f->file + e->at;
    return MOE_OK;
}

/* Tensors follow each other in the order of the header; after the last one nothing comes but its
 * padding, which some writers leave out. */
static moe_status check_layout(moe_gguf *f) {
    uint64_t begin, end = 0, last = f->header_size, padded;
    if (!align(f, f->header_size, &begin) || (f->tensors.count && begin > f->file_size))
        return invalid(f, "the file ends before its data begins");
    for (size_t i = 0; i < f->tensors.count; i++) {
        moe_entry *e = tensors(f) + i;
        moe_status s = place(f, e, begin, &end);
        if (s) return s;
        e->shape = ((const sizes *)f->sizes.items)[i].of;
        last = e->at + e->bytes;
    }
    if (__builtin_add_overflow(begin, end, &padded)) padded = UINT64_MAX;
    if (f->file_size == last || f->file_size == padded) return MOE_OK;
    return invalid(f, "%llu bytes instead of %llu: something follows the last tensor",
                   (unsigned long long)f->file_size, (unsigned long long)padded);
}

static moe_status check_names(moe_gguf *f) {
    moe__list_sort(&f->tensors, moe__entry_by_name);
    moe__list_sort(&f->pairs, by_key);
    for (size_t i = 1; i < f->tensors.count; i++)
        if (moe__entry_by_name(tensors(f) + i - 1, tensors(f) + i) == 0)
            return invalid(f, "tensor `%s` occurs twice", MOE_SHOWN_NAME(tensors(f)[i].name));
    for (size_t i = 1; i < f->pairs.count; i++)
        if (by_key(pairs(f) + i - 1, pairs(f) + i) == 0)
            return invalid(f, "key `%s` occurs twice", MOE_SHOWN_NAME(pairs(f)[i].key));
    return MOE_OK;
}

static moe_status read_all(moe_gguf *f) {
    moe_status s = copy_header(f);
    if (!s) s = check_layout(f);
    return s ? s : check_names(f);
}

/* --- opening --------------------------------------------------------------------------------- */

static moe_gguf *new_file(moe_ctx *ctx, const char *what) {
    size_t size = strlen(what) + 1;
    moe_gguf *f = moe__alloc(ctx, sizeof *f);
    char *copy = f ? moe__alloc(ctx, size) : NULL;
    if (!copy) {
        moe__free(ctx, f, sizeof *f);
        return NULL;
    }
    *f = (moe_gguf){.ctx = ctx, .what = memcpy(copy, what, size),
                    .pairs.size = sizeof(moe_gguf_pair), .tensors.size = sizeof(moe_entry),
                    .sizes.size = sizeof(sizes)};
    moe__ctx_retain(ctx);
    return f;
}

static moe_status open_bytes(moe_ctx *ctx, const char *what, moe_mapping *map, const void *bytes,
                             size_t size, moe_gguf **out) {
    *out = NULL;
    moe_gguf *f = new_file(ctx, what);
    if (!f) return moe__no_memory(ctx, sizeof *f, what);
    if (map) map->refs++;
    f->map = map;
    f->file = bytes;
    f->file_size = size;
    moe_status s = read_all(f);
    if (s)
        moe__gguf_close(f);
    else
        *out = f;
    return s;
}

moe_status moe__gguf_parse(moe_ctx *ctx, const char *what, const void *bytes, size_t size,
                           moe_gguf **out) {
    return open_bytes(ctx, what, NULL, bytes, size, out);
}

moe_status moe__gguf_map(moe_ctx *ctx, const char *what, moe_mapping *map, moe_gguf **out) {
    return open_bytes(ctx, what, map, map->data, map->size, out);
}

void moe__gguf_close(moe_gguf *f) {
    if (!f) return;
    moe_ctx *ctx = f->ctx;
    moe__list_free(ctx, &f->pairs);
    moe__list_free(ctx, &f->tensors);
    moe__list_free(ctx, &f->sizes);
    moe__free(ctx, f->header, f->header_size);
    moe__mapping_release(f->map);
    moe__free(ctx, (void *)(uintptr_t)f->what, strlen(f->what) + 1);
    moe__free(ctx, f, sizeof *f);
    moe__ctx_release(ctx);
}

size_t moe__gguf_entries(const moe_gguf *f, const moe_entry **out) {
    *out = tensors(f);
    return f->tensors.count;
}

size_t moe__gguf_pairs(const moe_gguf *f, const moe_gguf_pair **out) {
    *out = pairs(f);
    return f->pairs.count;
}
