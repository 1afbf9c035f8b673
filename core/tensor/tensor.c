#include "tensor/tensor.h"

#include <string.h>

static void storage_release(moe_storage *s) {
    if (!s || --s->refs > 0) return;
    for (moe_pack *p = s->packs, *next; p; p = next) {
        next = p->next;
        moe__free(s->ctx, p, p->bytes);
    }
    if (s->mapping)
        moe__mapping_release(s->mapping);
    else
        moe__free(s->ctx, s->data, s->bytes);
    moe__free(s->ctx, s, sizeof *s);
}

static moe_tensor *new_header(moe_ctx *ctx, const moe_desc *desc) {
    moe_tensor *t = moe__alloc(ctx, sizeof *t);
    if (!t) return NULL;
    memset(t, 0, sizeof *t);
    t->ctx = ctx;
    t->refs = 1;
    t->dtype = desc->dtype;
    t->ndim = desc->ndim;
    t->count = moe__count(desc->ndim, desc->shape);
    for (int i = 0; i < desc->ndim; i++) t->shape[i] = desc->shape[i];
    moe__row_major(t->ndim, t->shape, t->stride);
    moe__ctx_retain(ctx);
    ctx->tensors++;
    return t;
}

static moe_storage *new_storage(moe_ctx *ctx, size_t bytes) {
    moe_storage *s = moe__alloc(ctx, sizeof *s);
    if (!s) return NULL;
    *s = (moe_storage){.ctx = ctx, .refs = 1, .bytes = bytes};
    s->data = moe__alloc(ctx, bytes);
    if (s->data) return s;
    moe__free(ctx, s, sizeof *s);
    return NULL;
}

moe_status moe__tensor_new(moe_ctx *ctx, const moe_desc *desc, moe_tensor **out) {
    *out = NULL;
    int64_t count = moe__count(desc->ndim, desc->shape);
    for (int i = 0; i < desc->ndim; i++)
        if (desc->shape[i] < 0)
            return moe__fail(ctx, MOE_ESHAPE, "sizes must not be negative: %s",
                             MOE_SHAPE_OF(desc->ndim, desc->shape));
    if (count < 0)
        return moe__fail(ctx, MOE_ESHAPE, "a tensor of shape %s is too large",
                         MOE_SHAPE_OF(desc->ndim, desc->shape));
    size_t bytes = (size_t)count * moe__dtype_size(desc->dtype);
    moe_tensor *t = new_header(ctx, desc);
    if (t) t->storage = new_storage(ctx, bytes);
    if (!t || !t->storage) {
        moe_tensor_release(t);
        return moe__no_memory(ctx, bytes, MOE_SHAPE_OF(desc->ndim, desc->shape));
    }
    *out = t;
    return MOE_OK;
}

moe_status moe_tensor_new(moe_ctx *ctx, moe_dtype dtype, int ndim, const int64_t *shape,
                          moe_tensor **out) {
    *out = NULL;
    if (ndim < 0 || ndim > MOE_MAX_DIMS)
        return moe__fail(ctx, MOE_ESHAPE, "a tensor has 0 to %d dimensions, not %d", MOE_MAX_DIMS,
                         ndim);
    if ((unsigned)dtype >= MOE_DTYPE_COUNT)
        return moe__fail(ctx, MOE_ETYPE, "unknown element type %d", (int)dtype);
    moe_desc desc = {.dtype = dtype, .ndim = ndim};
    for (int i = 0; i < ndim; i++) desc.shape[i] = shape[i];
    return moe__tensor_new(ctx, &desc, out);
}

moe_status moe__tensor_like(const moe_tensor *t, moe_tensor **out) {
    moe_desc desc = {.dtype = t->dtype, .ndim = t->ndim};
    memcpy(desc.shape, t->shape, sizeof desc.shape);
    return moe__tensor_new(t->ctx, &desc, out);
}

moe_status moe__tensor_view(moe_tensor *base, const moe_desc *desc, moe_tensor **out) {
    moe_tensor *t = *out = new_header(base->ctx, desc);
    if (!t) return moe__no_memory(base->ctx, sizeof *t, "a view");
    memcpy(t->stride, desc->stride, sizeof t->stride);
    t->offset = desc->offset;
    t->storage = base->storage;
    t->storage->refs++;
    return MOE_OK;
}

moe_status moe__tensor_alias(const moe_tensor *src, bool with_storage, moe_tensor **out) {
    moe_desc desc = {.dtype = src->dtype, .ndim = src->ndim};
    memcpy(desc.shape, src->shape, sizeof desc.shape);
    moe_tensor *t = *out = new_header(src->ctx, &desc);
    if (!t) return moe__no_memory(src->ctx, sizeof *t, "a tape entry");
    memcpy(t->stride, src->stride, sizeof t->stride);
    t->offset = src->offset;
    if (with_storage && src->storage) {
        t->storage = src->storage;
        t->storage->refs++;
        t->version = src->storage->version;
    }
    return MOE_OK;
}

moe_status moe__tensor_mapped(moe_mapping *map, size_t at, const moe_desc *desc,
                              moe_tensor **out) {
    moe_ctx *ctx = map->ctx;
    moe_tensor *t = *out = new_header(ctx, desc);
    moe_storage *s = t ? moe__alloc(ctx, sizeof *s) : NULL;
    if (!s) {
        moe_tensor_release(t);
        *out = NULL;
        return moe__no_memory(ctx, sizeof *s, "a mapped tensor");
    }
    *s = (moe_storage){.ctx = ctx, .refs = 1, .mapping = map, .data = (char *)map->data + at,
                       .bytes = (size_t)t->count * moe__dtype_size(t->dtype)};
    map->refs++;
    t->storage = s;
    return MOE_OK;
}

void moe_tensor_retain(moe_tensor *t) { t->refs++; }

void moe_tensor_release(moe_tensor *t) {
    if (!t || --t->refs > 0) return;
    moe_ctx *ctx = t->ctx;
    storage_release(t->storage);
    moe_tensor_release(t->grad);
    if (t->node) ctx->release_node(t->node);
    moe__free(ctx, t, sizeof *t);
    ctx->tensors--;
    moe__ctx_release(ctx);
}

int moe_tensor_ndim(const moe_tensor *t) { return t->ndim; }
int64_t moe_tensor_size(const moe_tensor *t, int dim) { return t->shape[dim]; }
int64_t moe_tensor_count(const moe_tensor *t) { return t->count; }
moe_dtype moe_tensor_dtype(const moe_tensor *t) { return t->dtype; }

bool moe_tensor_contiguous(const moe_tensor *t) {
    int64_t stride = 1;
    for (int i = t->ndim - 1; i >= 0; i--) {
        if (t->shape[i] != 1 && t->stride[i] != stride) return false;
        stride *= t->shape[i];
    }
    return true;
}

void *moe_tensor_data(moe_tensor *t) {
    return t->storage->data + (size_t)t->offset * moe__dtype_size(t->dtype);
}

void moe_tensor_written(moe_tensor *t) { t->storage->version++; }
