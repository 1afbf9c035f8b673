/* copy.c -- moving elements: strided copies, conversions, and the two functions that write. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "tensor/tensor.h"

static void copy_run(char *dst, int64_t dst_stride, const char *src, int64_t src_stride, int64_t n,
                     size_t size) {
    if (dst_stride == 1 && src_stride == 1) {
        memcpy(dst, src, (size_t)n * size);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        memcpy(dst + (size_t)(i * dst_stride) * size, src + (size_t)(i * src_stride) * size, size);
}

/* Walks both tensors as rows of their last dimension; `index` is the odometer over the others. */
void moe__copy_strided(const moe_tensor *src, moe_tensor *dst) {
    size_t size = moe__dtype_size(src->dtype);
    const char *from = src->storage->data + (size_t)src->offset * size;
    char *to = dst->storage->data + (size_t)dst->offset * size;
    if (src->count == 0) return;
    int last = src->ndim - 1;
    if (last < 0 || (moe_tensor_contiguous(src) && moe_tensor_contiguous(dst))) {
        memcpy(to, from, (size_t)src->count * size);
        return;
    }
    int64_t index[MOE_MAX_DIMS] = {0}, n = src->shape[last];
    for (;;) {
        copy_run(to, dst->stride[last], from, src->stride[last], n, size);
        int d = last - 1;
        for (; d >= 0; d--) {
            from += src->stride[d] * (int64_t)size;
            to += dst->stride[d] * (int64_t)size;
            if (++index[d] < src->shape[d]) break;
            from -= src->stride[d] * src->shape[d] * (int64_t)size;
            to -= dst->stride[d] * dst->shape[d] * (int64_t)size;
            index[d] = 0;
        }
        if (d < 0) return;
    }
}

static double load(moe_dtype dtype, const void *data, int64_t i) {
    switch (dtype) {
        case MOE_I32: return ((const int32_t *)data)[i];
        case MOE_BF16: return (double)moe__from_bfloat(((const uint16_t *)data)[i]);
        case MOE_F16: return (double)moe__from_half(((const uint16_t *)data)[i]);
        default: return (double)((const moe_real *)data)[i];
    }
}

static int32_t to_int(double value) {
    if (isnan(value)) return 0;
    if (value >= 2147483647.0) return INT32_MAX;
    return value <= -2147483648.0 ? INT32_MIN : (int32_t)value;
}

static void store(moe_dtype dtype, void *data, int64_t i, double value) {
    switch (dtype) {
        case MOE_I32: ((int32_t *)data)[i] = to_int(value); break;
        case MOE_BF16: ((uint16_t *)data)[i] = moe__to_bfloat((float)value); break;
        case MOE_F16: ((uint16_t *)data)[i] = moe__to_half((float)value); break;
        default: ((moe_real *)data)[i] = (moe_real)value; break;
    }
}

/* The pairs that whole models pass through; the compiler makes vectors of these. */
static void to_bfloat(int64_t n, const moe_real *restrict src, uint16_t *restrict dst) {
    for (int64_t i = 0; i < n; i++) dst[i] = moe__to_bfloat((float)src[i]);
}
static void from_bfloat(int64_t n, const uint16_t *restrict src, moe_real *restrict dst) {
    for (int64_t i = 0; i < n; i++) dst[i] = (moe_real)moe__from_bfloat(src[i]);
}

void moe__convert(moe_dtype from, const void *src, moe_dtype to, void *dst, int64_t n) {
    if (from == to) {
        memcpy(dst, src, (size_t)n * moe__dtype_size(from));
        return;
    }
    if (from == MOE_F32 && to == MOE_BF16) {
        to_bfloat(n, src, dst);
        return;
    }
    if (from == MOE_BF16 && to == MOE_F32) {
        from_bfloat(n, src, dst);
        return;
    }
    for (int64_t i = 0; i < n; i++) store(to, dst, i, load(from, src, i));
}

moe_status moe__writable(moe_tensor *t, const char *what) {
    if (t->storage->mapping)
        return moe__fail(t->ctx, MOE_EARG,
                         "%s: the tensor is mapped from a file and cannot be written\n"
                         "hint: write to x:clone()", what);
    if ((t->requires_grad || t->node) && t->ctx->no_grad == 0)
        return moe__fail(t->ctx, MOE_EARG,
                         "%s: the tensor %s requires gradients and must not be overwritten\n"
                         "hint: inside moe.no_grad(function() ... end) it may be", what,
                         MOE_SHAPE(t));
    return MOE_OK;
}

moe_status moe__fill(moe_tensor *t, double value) {
    moe_status s = moe__writable(t, "fill_");
    if (s) return s;
    if (value == 0 && moe_tensor_contiguous(t)) {
        memset(moe_tensor_data(t), 0, (size_t)t->count * moe__dtype_size(t->dtype));
    } else {                            /* one element, seen under the shape of t */
        char element[sizeof(double)];
        store(t->dtype, element, 0, value);
        moe_storage one = {.data = element};
        moe_tensor from = *t;
        from.storage = &one;
        from.offset = 0;
        memset(from.stride, 0, sizeof from.stride);
        moe__copy_strided(&from, t);
    }
    t->storage->version++;
    return MOE_OK;
}

moe_status moe__copy_into(moe_tensor *dst, const moe_tensor *src) {
    moe_status s = moe__writable(dst, "copy_");
    if (s) return s;
    if (dst->ndim != src->ndim || memcmp(dst->shape, src->shape,
                                         sizeof *dst->shape * (size_t)dst->ndim) != 0)
        return moe__fail(dst->ctx, MOE_ESHAPE, "copy_: shapes differ: %s and %s", MOE_SHAPE(dst),
                         MOE_SHAPE(src));
    if (dst->dtype != src->dtype)
        return moe__fail(dst->ctx, MOE_ETYPE, "copy_: element types differ: %s and %s",
                         moe__dtype_name(dst->dtype), moe__dtype_name(src->dtype));
    moe_tensor *apart = NULL;               /* parts of one storage may overlap */
    if (dst->storage == src->storage) {
        s = moe__tensor_like(src, &apart);
        if (s) return s;
        moe__copy_strided(src, apart);
        src = apart;
    }
    moe__copy_strided(src, dst);
    moe_tensor_release(apart);
    dst->storage->version++;
    return MOE_OK;
}

moe_status moe__put_rows(moe_tensor *dst, const moe_tensor *rows, const moe_tensor *src) {
    moe_status s = moe__writable(dst, "put_rows_");
    if (s) return s;
    int64_t n = dst->ndim && dst->shape[0] ? dst->count / dst->shape[0] : 0;
    if (rows->dtype != MOE_I32 || src->count != rows->count * n)
        return moe__fail(dst->ctx, MOE_ESHAPE, "put_rows_: rows %s (i32) of %s do not take %s",
                         MOE_SHAPE(rows), MOE_SHAPE(dst), MOE_SHAPE(src));
    if (!moe_tensor_contiguous(dst) || !moe_tensor_contiguous(rows) || !moe_tensor_contiguous(src))
        return moe__fail(dst->ctx, MOE_EARG, "put_rows_: the tensors must be contiguous\n"
                         "hint: x:contiguous()");
    for (int64_t i = 0; i < rows->count; i++)
        if (moe__int(rows)[i] < 0 || moe__int(rows)[i] >= dst->shape[0])
            return moe__fail(dst->ctx, MOE_EARG, "put_rows_: row %d is not one of the %lld",
                             moe__int(rows)[i], (long long)dst->shape[0]);
    size_t to = moe__dtype_size(dst->dtype), from = moe__dtype_size(src->dtype);
    char *at = dst->storage->data + (size_t)dst->offset * to;
    const char *row = src->storage->data + (size_t)src->offset * from;
    for (int64_t i = 0; i < rows->count; i++, row += (size_t)n * from)
        moe__convert(src->dtype, row, dst->dtype, at + (size_t)(moe__int(rows)[i] * n) * to, n);
    dst->storage->version++;
    return MOE_OK;
}
