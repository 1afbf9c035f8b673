/* safetensors_write.c -- the same bytes as the reference writer, streamed. */
#include <stdlib.h>
#include <string.h>

#include "checkpoint/safetensors.h"

struct moe_safetensors_writer {
    moe_body body;
    uint64_t checksum_at;       /* where in the file the digits of the checksum belong */
};

/* --- the header ------------------------------------------------------------------------------ */

/* Counts when `to` is NULL: the header is composed twice, once for its size. */
typedef struct composer {
    char *to;
    size_t size;
    size_t checksum_at;         /* where the digits of the checksum begin, 0 for none */
} composer;

static void add(composer *c, const char *text, size_t size) {
    if (c->to) memcpy(c->to + c->size, text, size);
    c->size += size;
}

static void add_text(composer *c, const char *text) { add(c, text, strlen(text)); }

static void add_number(composer *c, uint64_t value) {
    char digits[20];
    size_t at = sizeof digits;
    do digits[--at] = (char)('0' + value % 10);
    while (value /= 10);
    add(c, digits + at, sizeof digits - at);
}

/* The escapes that the reference writer uses: short ones where JSON has them. */
static void add_escape(composer *c, unsigned char byte) {
    static const char from[] = "\"\\\b\f\n\r\t", into[] = "\"\\bfnrt", hex[] = "0123456789abcdef";
    const char *found = byte ? strchr(from, byte) : NULL;
    if (found) {
        add(c, (char[]){'\\', into[found - from]}, 2);
        return;
    }
    add(c, (char[]){'\\', 'u', '0', '0', hex[byte >> 4], hex[byte & 15]}, 6);
}

static void add_string(composer *c, moe_slice text) {
    add_text(c, "\"");
    for (size_t i = 0; i < text.size; i++) {
        unsigned char byte = (unsigned char)text.data[i];
        if (byte < 0x20 || byte == '"' || byte == '\\')
            add_escape(c, byte);
        else
            add(c, text.data + i, 1);
    }
    add_text(c, "\"");
}

/* The checksum is not known before all is written: zeros hold its place. */
static void add_value(composer *c, const moe_stored_pair *pair) {
    moe_slice key = {MOE_CHECKSUM_KEY, sizeof MOE_CHECKSUM_KEY - 1};
    if (moe__slice_compare(pair->key, key) == 0) {
        c->checksum_at = c->size + 1;
        add_string(c, (moe_slice){moe__checksum_blank, MOE_CHECKSUM_DIGITS});
    } else
        add_string(c, pair->value);
}

static void add_metadata(composer *c, const moe_stored_pair *pairs, size_t n) {
    add_text(c, "\"__metadata__\":{");
    for (size_t i = 0; i < n; i++) {
        if (i) add_text(c, ",");
        add_string(c, pairs[i].key);
        add_text(c, ":");
        add_value(c, &pairs[i]);
    }
    add_text(c, "}");
}

static void add_item(composer *c, const moe_stored_item *item, uint64_t begin) {
    add_string(c, item->name);
    add_text(c, ":{\"dtype\":\"");
    add_text(c, moe__stored_name(item->type));
    add_text(c, "\",\"shape\":[");
    for (size_t i = 0; i < item->rank; i++) {
        if (i) add_text(c, ",");
        add_number(c, item->shape[i]);
    }
    add_text(c, "],\"data_offsets\":[");
    add_number(c, begin);
    add_text(c, ",");
    add_number(c, begin + moe__item_bytes(item));
    add_text(c, "]}");
}

typedef struct plan {
    moe_stored_item *items;
    size_t count;
    uint64_t bytes;             /* of all tensors together */
    moe_stored_pair *pairs;
    size_t npairs;
} plan;

static void compose(composer *c, const plan *p) {
    uint64_t begin = 0;
    add_text(c, "{");
    if (p->npairs) add_metadata(c, p->pairs, p->npairs);
    for (size_t i = 0; i < p->count; i++) {
        if (i || p->npairs) add_text(c, ",");
        add_item(c, &p->items[i], begin);
        begin += moe__item_bytes(&p->items[i]);
    }
    add_text(c, "}");
    while (c->size % 8) add_text(c, " ");
}

/* --- the plan -------------------------------------------------------------------------------- */

static int in_file_order(const void *a, const void *b) {
    const moe_stored_item *x = a, *y = b;
    if (x->type != y->type) return x->type > y->type ? -1 : 1;
    return moe__slice_compare(x->name, y->name);
}

static int by_key(const void *a, const void *b) {
    return moe__slice_compare(((const moe_stored_pair *)a)->key, ((const moe_stored_pair *)b)->key);
}

static moe_status check_text(moe_ctx *ctx, const char *path, moe_slice text) {
    size_t valid = moe__utf8_valid(text.data, text.size);
    if (valid == text.size) return MOE_OK;
    return moe__fail(ctx, MOE_EARG, "%s: a name or metadata is no UTF-8: byte %zu of `%.*s`", path,
                     valid + 1, MOE_PART(text));
}

static moe_status check_item(moe_ctx *ctx, const char *path, const moe_stored_item *item,
                             uint64_t *total) {
    uint64_t bytes;
    if (item->rank > MOE_STORED_MAX_DIMS)
        return moe__fail(ctx, MOE_EARG, "%s: tensor `%.*s` has %zu dimensions, more than %d", path,
                         MOE_PART(item->name), item->rank, MOE_STORED_MAX_DIMS);
    if (item->type > MOE_STORED_U64)
        return moe__fail(ctx, MOE_EARG, "%s: tensor `%.*s` is %s, which safetensors do not have",
                         path, MOE_PART(item->name), moe__stored_name(item->type));
    switch (moe__stored_bytes(item->type, item->rank, item->shape, &bytes)) {
        case MOE_SIZE_MISALIGNED:
            return moe__fail(ctx, MOE_EARG, "%s: tensor `%.*s` of %s does not fill whole bytes "
                             "(MisalignedSlice)", path, MOE_PART(item->name),
                             moe__stored_name(item->type));
        case MOE_SIZE_OK:
            if (!__builtin_add_overflow(*total, bytes, total)) break;
            /* fall through */
        default:
            return moe__fail(ctx, MOE_EARG, "%s: tensor `%.*s` is too large (ValidationOverflow)",
                             path, MOE_PART(item->name));
    }
    if (item->name.size == 12 && memcmp(item->name.data, "__metadata__", 12) == 0)
        return moe__fail(ctx, MOE_EARG, "%s: a tensor cannot be named `__metadata__`", path);
    return check_text(ctx, path, item->name);
}

static moe_status twice(moe_ctx *ctx, const char *path, moe_slice name) {
    return moe__fail(ctx, MOE_EARG, "%s: `%.*s` occurs twice", path, MOE_PART(name));
}

static moe_status check_plan(moe_ctx *ctx, const char *path, plan *p) {
    for (size_t i = 0; i < p->count; i++) {
        moe_status s = check_item(ctx, path, &p->items[i], &p->bytes);
        if (s) return s;
    }
    for (size_t i = 0; i < p->npairs; i++) {
        moe_status s = check_text(ctx, path, p->pairs[i].key);
        if (!s) s = check_text(ctx, path, p->pairs[i].value);
        if (s) return s;
    }
    if (p->count > 1) qsort(p->items, p->count, sizeof *p->items, moe__item_by_name);
    for (size_t i = 1; i < p->count; i++)
        if (moe__item_by_name(&p->items[i - 1], &p->items[i]) == 0)
            return twice(ctx, path, p->items[i].name);
    if (p->count > 1) qsort(p->items, p->count, sizeof *p->items, in_file_order);
    if (p->npairs > 1) qsort(p->pairs, p->npairs, sizeof *p->pairs, by_key);
    for (size_t i = 1; i < p->npairs; i++)
        if (by_key(&p->pairs[i - 1], &p->pairs[i]) == 0) return twice(ctx, path, p->pairs[i].key);
    return MOE_OK;
}

/* --- the file -------------------------------------------------------------------------------- */

/* `at`: where in the header the digits of the checksum belong. */
static moe_status begin_checksum(moe_safetensors_writer *w, const char *path, size_t at) {
    if (!moe__output_can_patch(w->body.output))
        return moe__fail(w->body.ctx, MOE_EARG, "%s: a pipe cannot carry a checksum, which is "
                         "known at the end\nhint: leave `" MOE_CHECKSUM_KEY "` out of the "
                         "metadata", path);
    w->checksum_at = 8 + at;
    w->body.checksum = moe__checksum_new(w->body.ctx);
    return w->body.checksum ? MOE_OK : moe__no_memory(w->body.ctx, 1024, path);
}

static moe_status write_header(moe_safetensors_writer *w, const char *path, const plan *p) {
    composer c = {0};
    compose(&c, p);
    size_t size = c.size;
    if (size > MOE_HEADER_MAX)
        return moe__fail(w->body.ctx, MOE_EARG, "%s: header too large: %zu bytes (HeaderTooLarge)",
                         path, size);
    char *header = moe__alloc(w->body.ctx, size + 8);
    if (!header) return moe__no_memory(w->body.ctx, size + 8, path);
    for (int i = 0; i < 8; i++) header[i] = (char)(size >> (8 * i) & 255);
    c = (composer){.to = header + 8};
    compose(&c, p);
    moe__output_expect(w->body.output, size + 8 + p->bytes);
    moe_status s = c.checksum_at ? begin_checksum(w, path, c.checksum_at) : MOE_OK;
    if (!s) s = moe__body_write(&w->body, header, size + 8);
    moe__free(w->body.ctx, header, size + 8);
    return s;
}

moe_status moe__safetensors_begin(moe_ctx *ctx, const char *path, moe_stored_item *items,
                                  size_t count, moe_stored_pair *some_pairs, size_t npairs,
                                  moe_safetensors_writer **out) {
    plan p = {.items = items, .count = count, .pairs = some_pairs, .npairs = npairs};
    *out = NULL;
    moe_status s = check_plan(ctx, path, &p);
    if (s) return s;
    moe_safetensors_writer *w = moe__alloc(ctx, sizeof *w);
    if (!w) return moe__no_memory(ctx, sizeof *w, path);
    *w = (moe_safetensors_writer){0};
    s = moe__body_open(ctx, path, &w->body);
    if (!s) s = write_header(w, path, &p);
    if (s)
        moe__safetensors_abandon(w);
    else
        *out = w;
    return s;
}

moe_status moe__safetensors_put(moe_safetensors_writer *w, const moe_stored_item *item) {
    return moe__body_put(&w->body, item);
}

moe_body *moe__safetensors_body(moe_safetensors_writer *w) { return &w->body; }

void moe__safetensors_abandon(moe_safetensors_writer *w) {
    if (!w) return;
    moe_ctx *ctx = w->body.ctx;
    moe__ctx_retain(ctx);
    moe__body_close(&w->body);
    moe__free(ctx, w, sizeof *w);
    moe__ctx_release(ctx);
}

static moe_status fill_in_checksum(moe_safetensors_writer *w) {
    char digits[MOE_CHECKSUM_DIGITS + 1];
    if (!w->body.checksum) return MOE_OK;
    moe__checksum_digits(w->body.checksum, digits);
    return moe__output_patch(w->body.output, w->checksum_at, digits, MOE_CHECKSUM_DIGITS);
}

moe_status moe__safetensors_commit(moe_safetensors_writer *w) {
    moe_status s = fill_in_checksum(w);
    if (!s) s = moe__body_commit(&w->body);
    moe__safetensors_abandon(w);
    return s;
}

moe_status moe__safetensors_write(moe_ctx *ctx, const char *path, moe_stored_item *items,
                                  size_t count, moe_stored_pair *some_pairs, size_t npairs) {
    moe_safetensors_writer *w;
    moe_status s = moe__safetensors_begin(ctx, path, items, count, some_pairs, npairs, &w);
    if (s) return s;
    for (size_t i = 0; i < count && !s; i++) s = moe__safetensors_put(w, &items[i]);
    if (!s) return moe__safetensors_commit(w);
    moe__safetensors_abandon(w);
    return s;
}
