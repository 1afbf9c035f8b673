/* tensor.h -- storage (refcounted bytes) and tensors (a shape over a storage).
 *
 * A tensor's element (i0, i1, ...) is storage->data[offset + sum(i_k * stride_k)], counted in
 * elements. Views share storage. Each write bumps the storage's version, by which backward notices
 * that a saved tensor was overwritten. A storage may be a part of a mapped file: it is then
 * read-only until copied, and keeps the mapping alive.
 */
#ifndef MOE_TENSOR_TENSOR_H
#define MOE_TENSOR_TENSOR_H

#include <sys/types.h>

#include "base/ctx.h"

typedef struct moe_mapping {
    moe_ctx *ctx;
    int refs;
    void *data;
    size_t size;
    dev_t device;               /* which file it is, whatever its name says later */
    ino_t inode;
} moe_mapping;

/* The matrices of a tensor as panels for products (tape/packed.h), which follow this header in the
 * same block. */
typedef struct moe_pack {
    struct moe_pack *next;
    size_t bytes;               /* of the block */
    const struct moe_format *format;
    int64_t matrices, rows, columns;
    uint32_t version;           /* of the storage when they were made */
    bool transposed, whole;     /* not whole: an interrupt came while they were made */
} moe_pack;

typedef struct moe_storage {
    moe_ctx *ctx;
    int refs;
    uint32_t version;
    moe_pack *packs;
    char *data;
    size_t bytes;
    moe_mapping *mapping;       /* NULL when the bytes are our own */
} moe_storage;

struct moe_node;

struct moe_tensor {
    moe_ctx *ctx;
    int refs;
    moe_dtype dtype;
    int ndim;
    int64_t shape[MOE_MAX_DIMS];
    int64_t stride[MOE_MAX_DIMS];
    int64_t offset;
    int64_t count;
    moe_storage *storage;       /* NULL for a ghost: a shape whose bytes nobody needs any more */
    uint32_t version;           /* of the storage when this alias was made for backward */
    bool requires_grad;
    bool fresh;                 /* gradient buffer that nothing was written to yet */
    moe_tensor *grad;           /* leaves only: what backward has accumulated */
    struct moe_node *node;      /* what produced it, NULL for leaves */
    int slot;                   /* which output of `node` it is */
};

/* What a tensor will look like, before anything is allocated. */
typedef struct moe_desc {
    moe_dtype dtype;
    int ndim;
    int64_t shape[MOE_MAX_DIMS];
    int64_t stride[MOE_MAX_DIMS];   /* views only */
    int64_t offset;                 /* views only */
} moe_desc;

size_t moe__dtype_size(moe_dtype dtype);
const char *moe__dtype_name(moe_dtype dtype);

/* Elements of a shape; -1 when a size is negative or a product overflows. Sizes of 0 do not hide
 * the others: in a shape that passes, products of any of its sizes and their bytes fit. */
int64_t moe__count(int ndim, const int64_t *shape);
/* The strides of a contiguous tensor. */
void moe__row_major(int ndim, const int64_t *shape, int64_t *stride);

/* "[2 x 3]", written into `buffer` and returned. MOE_SHAPE(t) is for messages. */
const char *moe__shape_text(int ndim, const int64_t *shape, char *buffer, size_t size);
#define MOE_SHAPE_OF(ndim, shape) moe__shape_text((ndim), (shape), (char[160]){0}, 160)
#define MOE_SHAPE(t) MOE_SHAPE_OF((t)->ndim, (t)->shape)

moe_status moe__tensor_new(moe_ctx *ctx, const moe_desc *desc, moe_tensor **out);
moe_status moe__tensor_like(const moe_tensor *t, moe_tensor **out);
/* A tensor over the storage of `base`, with the strides and offset of `desc`. */
moe_status moe__tensor_view(moe_tensor *base, const moe_desc *desc, moe_tensor **out);
/* Another tensor of the same shape on the same storage (or on none), outside the tape. */
moe_status moe__tensor_alias(const moe_tensor *t, bool with_storage, moe_tensor **out);
/* A contiguous tensor over `bytes` at `data` of a mapped file. */
moe_status moe__tensor_mapped(moe_mapping *map, size_t at, const moe_desc *desc, moe_tensor **out);

static inline moe_real *moe__real(const moe_tensor *t) {
    return (moe_real *)(void *)t->storage->data + t->offset;
}
static inline int32_t *moe__int(const moe_tensor *t) {
    return (int32_t *)(void *)t->storage->data + t->offset;
}
static inline int64_t moe__last(const moe_tensor *t) {
    return t->ndim ? t->shape[t->ndim - 1] : 1;
}

/* Copies src into dst, element by element in row-major order of equal shapes; dtypes equal. */
void moe__copy_strided(const moe_tensor *src, moe_tensor *dst);
/* Converts `n` elements between any two dtypes. */
void moe__convert(moe_dtype from, const void *src, moe_dtype to, void *dst, int64_t n);

/* In-place writing, after checking the rules of design 3 (what: the function, for messages). */
moe_status moe__writable(moe_tensor *t, const char *what);
moe_status moe__fill(moe_tensor *t, double value);
moe_status moe__copy_into(moe_tensor *dst, const moe_tensor *src);
/* dst[rows[i]] = the i-th of as many equal parts of src, converted to the type of dst; both are
 * contiguous. */
moe_status moe__put_rows(moe_tensor *dst, const moe_tensor *rows, const moe_tensor *src);

/* Maps a whole file read-only. MOE_EMISSING, MOE_EIO. */
moe_status moe__map_file(moe_ctx *ctx, const char *path, moe_mapping **out);
void moe__mapping_release(moe_mapping *map);

#endif
