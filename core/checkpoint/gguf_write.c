/* gguf_write.c -- GGUF files of version 3, streamed. */
#include <stdlib.h>
#include <string.h>

#include "checkpoint/gguf.h"

struct moe_gguf_writer {
    moe_body body;
};

typedef struct plan {
    moe_stored_item *items;
    size_t count;
    moe_gguf_pair *pairs;
    size_t npairs;
} plan;

static uint64_t padded(uint64_t size) {
    return (size + MOE_GGUF_ALIGNMENT - 1) / MOE_GGUF_ALIGNMENT * MOE_GGUF_ALIGNMENT;
}

/* --- the plan -------------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b) {
    return moe__slice_compare(((const moe_gguf_pair *)a)->key, ((const moe_gguf_pair *)b)->key);
}

static moe_status check_item(moe_ctx *ctx, const char *path, const moe_stored_item *item,
                             uint64_t *total) {
    uint64_t bytes;
    const char *fault = moe__gguf_name_fault(item->name, MOE_GGUF_MAX_NAME);
    if (fault)
        return moe__fail(ctx, MOE_EARG, "%s: the name of tensor `%.*s` %s", path,
                         MOE_PART(item->name), fault);
    if (item->rank > MOE_GGUF_MAX_DIMS)
        return moe__fail(ctx, MOE_EARG, "%s: tensor `%.*s` has %zu dimensions, more than %d", path,
                         MOE_PART(item->name), item->rank, MOE_GGUF_MAX_DIMS);
    if (moe__gguf_number(item->type) == UINT32_MAX)
        return moe__fail(ctx, MOE_EARG, "%s: tensor `%.*s` is %s, which GGUF does not have", path,
                         MOE_PART(item->name), moe__stored_name(item->type));
    switch (moe__stored_bytes(item->type, item->rank, item->shape, &bytes)) {
        case MOE_SIZE_MISALIGNED:
            return moe__fail(ctx, MOE_EARG, "%s: tensor `%.*s` has rows that are no whole blocks "
                             "of %s", path, MOE_PART(item->name), moe__stored_name(item->type));
        case MOE_SIZE_OK:
            if (bytes <= INT64_MAX / 2 &&
                !__builtin_add_overflow(*total, padded(bytes), total)) return MOE_OK;
            /* fall through */
        default:
            return moe__fail(ctx, MOE_EARG, "%s: tensor `%.*s` is too large", path,
                             MOE_PART(item->name));
    }
}

static moe_status check_pair(moe_ctx *ctx, const char *path, const moe_gguf_pair *pair) {
    const char *fault = moe__gguf_name_fault(pair->key, MOE_GGUF_MAX_KEY);
    if (!fault) return MOE_OK;
    return moe__fail(ctx, MOE_EARG, "%s: the key `%.*s` %s", path, MOE_PART(pair->key), fault);
}

static moe_status twice(moe_ctx *ctx, const char *path, moe_slice name) {
    return moe__fail(ctx, MOE_EARG, "%s: `%.*s` occurs twice", path, MOE_PART(name));
}

static moe_status check_plan(moe_ctx *ctx, const char *path, const plan *p, uint64_t *total) {
    *total = 0;
    for (size_t i = 0; i < p->count; i++) {
        moe_status s = check_item(ctx, path, &p->items[i], total);
        if (s) return s;
    }
    for (size_t i = 0; i < p->npairs; i++) {
        moe_status s = check_pair(ctx, path, &p->pairs[i]);
        if (s) return s;
    }
    if (p->count > 1) qsort(p->items, p->count, sizeof *p->items, moe__item_by_name);
    if (p->npairs > 1) qsort(p->pairs, p->npairs, sizeof *p->pairs, by_key);
    for (size_t i = 1; i < p->count; i++)
        if (moe__item_by_name(&p->items[i - 1], &p->items[i]) == 0)
            return twice(ctx, path, p->items[i].name);
    for (size_t i = 1; i < p->npairs; i++)
        if (by_key(&p->pairs[i - 1], &p->pairs[i]) == 0) return twice(ctx, path, p->pairs[i].key);
    return MOE_OK;
}

/* --- the header ------------------------------------------------------------------------------ */

/* Counts when `to` is NULL: the header is composed twice, once for its size. */
typedef struct composer {
    char *to;
    size_t size;
} composer;

static void add(composer *c, const void *data, size_t size) {
    if (c->to && size) memcpy(c->to + c->size, data, size);
    c->size += size;
}

static void add_u32(composer *c, uint32_t x) { add(c, &x, sizeof x); }
static void add_u64(composer *c, uint64_t x) { add(c, &x, sizeof x); }

static void add_string(composer *c, moe_slice text) {
    add_u64(c, text.size);
    add(c, text.data, text.size);
}

static void add_pair(composer *c, const moe_gguf_pair *pair) {
    add_string(c, pair->key);
    if (pair->array) add_u32(c, MOE_GGUF_ARRAY);
    add_u32(c, pair->type);
    if (pair->array) add_u64(c, pair->count);
    add(c, pair->data, pair->bytes);
}

static void add_item(composer *c, const moe_stored_item *item, uint64_t at) {
    add_string(c, item->name);
    add_u32(c, (uint32_t)item->rank);
    for (size_t i = item->rank; i-- > 0;) add_u64(c, item->shape[i]);
    add_u32(c, moe__gguf_number(item->type));
    add_u64(c, at);
}

static void compose(composer *c, const plan *p) {
    static const char zeros[MOE_GGUF_ALIGNMENT];
    uint64_t at = 0;
    add(c, MOE_GGUF_MAGIC, 4);
    add_u32(c, 3);
    add_u64(c, p->count);
    add_u64(c, p->npairs);
    for (size_t i = 0; i < p->npairs; i++) add_pair(c, &p->pairs[i]);
    for (size_t i = 0; i < p->count; i++) {
        add_item(c, &p->items[i], at);
        at += padded(moe__item_bytes(&p->items[i]));
    }
    add(c, zeros, padded(c->size) - c->size);
}

/* --- the file -------------------------------------------------------------------------------- */

static moe_status write_header(moe_gguf_writer *w, const char *path, const plan *p,
                               uint64_t data) {
    composer c = {0};
    compose(&c, p);
    size_t size = c.size;
    if (size > MOE_GGUF_MAX_HEADER)
        return moe__fail(w->body.ctx, MOE_EARG, "%s: the header is too large: %zu bytes", path,
                         size);
    char *header = moe__alloc(w->body.ctx, size);
    if (!header) return moe__no_memory(w->body.ctx, size, path);
    c = (composer){.to = header};
    compose(&c, p);
    moe__output_expect(w->body.output, size + data);
    moe_status s = moe__body_write(&w->body, header, size);
    moe__free(w->body.ctx, header, size);
    return s;
}

moe_status moe__gguf_begin(moe_ctx *ctx, const char *path, moe_stored_item *items, size_t count,
                           moe_gguf_pair *some_pairs, size_t npairs, moe_gguf_writer **out) {
    plan p = {.items = items, .count = count, .pairs = some_pairs, .npairs = npairs};
    uint64_t data;
    *out = NULL;
    moe_status s = check_plan(ctx, path, &p, &data);
    if (s) return s;
    moe_gguf_writer *w = moe__alloc(ctx, sizeof *w);
    if (!w) return moe__no_memory(ctx, sizeof *w, path);
    *w = (moe_gguf_writer){0};
    s = moe__body_open(ctx, path, &w->body);
    if (!s) s = write_header(w, path, &p, data);
    if (s)
        moe__gguf_abandon(w);
    else
        *out = w;
    return s;
}

moe_status moe__gguf_put(moe_gguf_writer *w, const moe_stored_item *item) {
    moe_status s = moe__body_put(&w->body, item);
    return s ? s : moe__gguf_filled(w, item);
}

moe_body *moe__gguf_body(moe_gguf_writer *w) { return &w->body; }

moe_status moe__gguf_filled(moe_gguf_writer *w, const moe_stored_item *item) {
    static const char zeros[MOE_GGUF_ALIGNMENT];
    uint64_t bytes = moe__item_bytes(item);
    return moe__body_write(&w->body, zeros, padded(bytes) - bytes);
}

void moe__gguf_abandon(moe_gguf_writer *w) {
    if (!w) return;
    moe_ctx *ctx = w->body.ctx;
    moe__ctx_retain(ctx);
    moe__body_close(&w->body);
    moe__free(ctx, w, sizeof *w);
    moe__ctx_release(ctx);
}

moe_status moe__gguf_commit(moe_gguf_writer *w) {
    moe_status s = moe__body_commit(&w->body);
    moe__gguf_abandon(w);
    return s;
}
