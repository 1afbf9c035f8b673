/* stored.h -- element types of safetensors and GGUF files, and their way to compute tensors.
 *
 * The core computes in f32 and i32; files hold more. Every type can be carried as bytes; the
 * floats of 16 bits and more and the quantised types become f32, integers and booleans become i32
 * when they fit. All data is little endian and may lie at any address.
 *
 * A quantised type exists in blocks of 32 or 256 elements (blocks.h); the last dimension of such a
 * tensor is a multiple of the block, so that no block is shared by two rows.
 */
#ifndef MOE_CHECKPOINT_STORED_H
#define MOE_CHECKPOINT_STORED_H

#include "checkpoint/json.h"
#include "tensor/tensor.h"

/* In the order by which safetensors files are sorted; they know those up to U64. */
typedef enum moe_stored {
    MOE_STORED_BOOL,
    MOE_STORED_F4,
    MOE_STORED_F6_E2M3,
    MOE_STORED_F6_E3M2,
    MOE_STORED_U8,
    MOE_STORED_I8,
    MOE_STORED_F8_E5M2,
    MOE_STORED_F8_E4M3,
    MOE_STORED_F8_E8M0,
    MOE_STORED_F8_E4M3FNUZ,
    MOE_STORED_F8_E5M2FNUZ,
    MOE_STORED_I16,
    MOE_STORED_U16,
    MOE_STORED_F16,
    MOE_STORED_BF16,
    MOE_STORED_I32,
    MOE_STORED_U32,
    MOE_STORED_F32,
    MOE_STORED_C64,
    MOE_STORED_F64,
    MOE_STORED_I64,
    MOE_STORED_U64,
    MOE_STORED_Q4_0,
    MOE_STORED_Q4_1,
    MOE_STORED_Q5_0,
    MOE_STORED_Q5_1,
    MOE_STORED_Q8_0,
    MOE_STORED_Q2_K,
    MOE_STORED_Q3_K,
    MOE_STORED_Q4_K,
    MOE_STORED_Q5_K,
    MOE_STORED_Q6_K,
    MOE_STORED_COUNT
} moe_stored;

/* "BF16". */
const char *moe__stored_name(moe_stored type);
/* Of one element; 0 for a quantised type. */
int moe__stored_bits(moe_stored type);
/* The fewest elements that fill whole bytes, and how many bytes these are: 1 and 2 for BF16, 32 and
 * 18 for Q4_0. */
void moe__stored_block(moe_stored type, uint64_t *elements, uint64_t *bytes);
/* A type by its name, in which case matters; false when there is no such type. The second knows
 * those of safetensors alone. */
bool moe__stored_find(moe_slice name, moe_stored *out);
bool moe__stored_parse(moe_slice name, moe_stored *out);

typedef enum moe_size_error { MOE_SIZE_OK, MOE_SIZE_OVERFLOW, MOE_SIZE_MISALIGNED } moe_size_error;

/* Bytes of a tensor of this shape. An overflow is one of the number of elements or of bits beyond
 * 2^64-1, or a size beyond 2^63-1; misaligned means that the elements do not fill whole bytes, or
 * the rows no whole blocks. */
moe_size_error moe__stored_bytes(moe_stored type, size_t rank, const uint64_t *shape,
                                 uint64_t *bytes);

/* What elements of this type become: MOE_F32 or MOE_I32; MOE_DTYPE_COUNT when bytes are all that
 * can be had of them. */
moe_dtype moe__stored_compute(moe_stored type);
/* The type that holds a tensor's elements unchanged. */
moe_stored moe__stored_of(moe_dtype dtype);

/* Converts `n` elements from `first` on of any float or quantised type, both multiples of its
 * block, into `out`: on the calling thread, for work that comes in pieces. Of other types 0 is
 * read. */
void moe__stored_read(moe_stored type, const void *data, uint64_t first, uint64_t n, float *out);

/* Fills `out` (contiguous, of the type that moe__stored_compute tells, or BF16 or F16 from any
 * float) from `data`, in parallel. MOE_EUNSUPPORTED for an integer that i32 cannot hold, with its
 * position in the message after `what`; MOE_EINTR. */
moe_status moe__stored_load(moe_stored type, const void *data, moe_tensor *out, const char *what);

/* Whether elements of `from` can be written as `to`: any float as F32, BF16 or F16, rounded to the
 * nearest (even when tied), or as Q8_0; i32 as I32. */
bool moe__stored_can_save(moe_dtype from, moe_stored to);
/* Converts `n` elements from `first` on (a multiple of the block) of a contiguous tensor into
 * `out`. False when Q8_0 cannot hold one: it is not finite, or its scale beyond f16. */
bool moe__stored_save(moe_tensor *t, int64_t first, int64_t n, moe_stored to, void *out);

#endif
