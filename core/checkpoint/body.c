#include "checkpoint/body.h"

#define CHUNK ((size_t)8 << 20)         /* bytes converted at a time */

uint64_t moe__item_bytes(const moe_stored_item *item) {
    uint64_t bytes = 0;
    moe__stored_bytes(item->type, item->rank, item->shape, &bytes);
    return bytes;
}

int moe__item_by_name(const void *a, const void *b) {
    return moe__slice_compare(((const moe_stored_item *)a)->name,
                              ((const moe_stored_item *)b)->name);
}

moe_status moe__body_open(moe_ctx *ctx, const char *path, moe_body *out) {
    *out = (moe_body){.ctx = ctx};
    moe__ctx_retain(ctx);
    return moe__output_open(ctx, path, &out->output);
}

moe_status moe__body_write(moe_body *b, const void *data, size_t size) {
    if (b->checksum) moe__checksum_add(b->checksum, data, size);
    b->at += size;
    return moe__output_write(b->output, data, size);
}

static uint64_t bytes_of(moe_stored type, uint64_t count) {
    uint64_t elements, bytes;
    moe__stored_block(type, &elements, &bytes);
    return count / elements * bytes;
}

static moe_status put_converted(moe_body *b, moe_tensor *t, const moe_stored_item *item) {
    uint64_t elements, bytes;
    moe__stored_block(item->type, &elements, &bytes);
    int64_t step = (int64_t)(CHUNK / bytes * elements);
    if (!b->chunk && !(b->chunk = moe__alloc(b->ctx, CHUNK)))
        return moe__no_memory(b->ctx, CHUNK, "writing a checkpoint");
    for (int64_t i = 0; i < t->count; i += step) {
        int64_t n = t->count - i < step ? t->count - i : step;
        if (!moe__stored_save(t, i, n, item->type, b->chunk))
            return moe__fail(b->ctx, MOE_EARG, "tensor `%.*s` holds a value that is not finite or "
                             "too large for %s", MOE_PART(item->name),
                             moe__stored_name(item->type));
        moe_status s = moe__body_write(b, b->chunk, bytes_of(item->type, (uint64_t)n));
        if (s) return s;
    }
    return MOE_OK;
}

/* A contiguous tensor; its bytes go out as they are when they are what the file wants. */
static moe_status put_tensor(moe_body *b, moe_tensor *t, const moe_stored_item *item) {
    size_t size = moe__dtype_size(t->dtype);
    if (moe__stored_of(t->dtype) == item->type && bytes_of(item->type, 1) == size)
        return moe__body_write(b, moe_tensor_data(t), (size_t)t->count * size);
    return put_converted(b, t, item);
}

static moe_status put_strided(moe_body *b, moe_tensor *t, const moe_stored_item *item) {
    moe_tensor *copy;
    moe_status s = moe__tensor_like(t, &copy);
    if (s) return s;
    moe__copy_strided(t, copy);
    s = put_tensor(b, copy, item);
    moe_tensor_release(copy);
    return s;
}

static bool same_shape(const moe_tensor *t, const moe_stored_item *item) {
    if ((size_t)t->ndim != item->rank) return false;
    for (int i = 0; i < t->ndim; i++)
        if ((uint64_t)t->shape[i] != item->shape[i]) return false;
    return true;
}

static moe_status put_data(moe_body *b, const moe_stored_item *item) {
    uint64_t bytes = moe__item_bytes(item);
    if (item->data.size == bytes) return moe__body_write(b, item->data.data, bytes);
    return moe__fail(b->ctx, MOE_EARG, "tensor `%.*s` has %zu bytes of data, not the %llu of its "
                     "shape and dtype (InvalidTensorView)", MOE_PART(item->name), item->data.size,
                     (unsigned long long)bytes);
}

moe_status moe__body_put(moe_body *b, const moe_stored_item *item) {
    moe_tensor *t = item->tensor;
    if (!t) return put_data(b, item);
    if (!same_shape(t, item))
        return moe__fail(b->ctx, MOE_EARG, "tensor `%.*s` is %s, not of the shape that was planned",
                         MOE_PART(item->name), MOE_SHAPE(t));
    if (!moe__stored_can_save(t->dtype, item->type))
        return moe__fail(b->ctx, MOE_EARG, "tensor `%.*s` is %s, which cannot be written as %s",
                         MOE_PART(item->name), moe__dtype_name(t->dtype),
                         moe__stored_name(item->type));
    return (moe_tensor_contiguous(t) ? put_tensor : put_strided)(b, t, item);
}

moe_status moe__body_filled(moe_body *b, uint64_t bytes) {
    b->at += bytes;
    return moe__output_skip(b->output, bytes);
}

moe_status moe__body_commit(moe_body *b) {
    moe_output *output = b->output;
    b->output = NULL;
    return moe__output_commit(output);
}

void moe__body_close(moe_body *b) {
    moe_ctx *ctx = b->ctx;
    moe__output_abandon(b->output);
    moe__free(ctx, b->chunk, CHUNK);
    moe__checksum_free(ctx, b->checksum);
    moe__ctx_release(ctx);
}
