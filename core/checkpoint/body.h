/* body.h -- the data of a checkpoint file while it is written, whatever its format: bytes as they
 * are, tensors converted a chunk at a time.
 */
#ifndef MOE_CHECKPOINT_BODY_H
#define MOE_CHECKPOINT_BODY_H

#include "checkpoint/checksum.h"
#include "checkpoint/output.h"
#include "checkpoint/stored.h"

/* A tensor that will be written. */
typedef struct moe_stored_item {
    moe_slice name;
    moe_stored type;
    size_t rank;
    const uint64_t *shape;
    moe_tensor *tensor;         /* converted to `type`; NULL when `data` holds the bytes */
    moe_slice data;
} moe_stored_item;

/* Bytes of an item whose size was checked. */
uint64_t moe__item_bytes(const moe_stored_item *item);
/* Byte order of the names, for qsort. */
int moe__item_by_name(const void *a, const void *b);

typedef struct moe_body {
    moe_ctx *ctx;
    moe_output *output;
    uint64_t at;                /* bytes written so far */
    char *chunk;                /* made when the first tensor needs to be converted */
    moe_checksum *checksum;     /* of what was written; NULL when the file carries none */
} moe_body;

/* Opens the output; zeros beforehand. Keeps the context. */
moe_status moe__body_open(moe_ctx *ctx, const char *path, moe_body *out);
moe_status moe__body_write(moe_body *b, const void *data, size_t size);
/* Writes the data of a tensor; nothing of it after MOE_ENOMEM. MOE_EARG when it is not of the shape
 * and type that were planned, or holds what the type cannot. */
moe_status moe__body_put(moe_body *b, const moe_stored_item *item);
/* For who writes the next `bytes` by moe__output_place and feeds the checksum himself. */
moe_status moe__body_filled(moe_body *b, uint64_t bytes);
/* Makes the file appear. What else the body holds stays to be closed. */
moe_status moe__body_commit(moe_body *b);
/* Forgets the file unless it was committed, and the context. */
void moe__body_close(moe_body *b);

/* For "%.*s" in messages. */
#define MOE_PART(text) (int)((text).size < 120 ? (text).size : 120), (text).data

#endif
