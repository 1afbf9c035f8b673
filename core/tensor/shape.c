/* shape.c -- element types, sizes that cannot overflow, and shapes as text. */
#include <stdio.h>
#include <string.h>

#include "tensor/tensor.h"

size_t moe__dtype_size(moe_dtype dtype) {
    switch (dtype) {
        case MOE_F32: return sizeof(moe_real);
        case MOE_I32: return 4;
        case MOE_BF16:
        case MOE_F16: return 2;
        default: return 0;
    }
}

const char *moe__dtype_name(moe_dtype dtype) {
    static const char *const name[] = {"f32", "i32", "bf16", "f16"};
    return (unsigned)dtype < MOE_DTYPE_COUNT ? name[dtype] : "?";
}

int64_t moe__count(int ndim, const int64_t *shape) {
    int64_t product = 1;
    bool empty = false;
    for (int i = 0; i < ndim; i++) {
        empty |= shape[i] == 0;
        if (shape[i] < 0 || __builtin_mul_overflow(product, shape[i] ? shape[i] : 1, &product))
            return -1;
    }
    if (product > INT64_MAX / 64) return -1;
    return empty ? 0 : product;
}

void moe__row_major(int ndim, const int64_t *shape, int64_t *stride) {
    int64_t step = 1;
    for (int d = ndim - 1; d >= 0; step *= shape[d--]) stride[d] = step;
}

const char *moe__shape_text(int ndim, const int64_t *shape, char *buffer, size_t size) {
    size_t used = (size_t)snprintf(buffer, size, "[");
    for (int i = 0; i < ndim && used < size; i++)
        used += (size_t)snprintf(buffer + used, size - used, "%s%lld", i ? " x " : "",
                                 (long long)shape[i]);
    if (used < size) snprintf(buffer + used, size - used, "]");
    return buffer;
}
