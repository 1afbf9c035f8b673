/* safetensors.h -- named tensors in a file.
 *
 *     u64 N | N bytes of JSON | data
 *     JSON: {"__metadata__": {"key": "value", ...},
 *            "name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
 *
 * Everything is little endian and row-major; offsets count from the first byte of the data.
 *
 * Reading trusts nothing. The rules and their order are those of the reference reader, whose name
 * for the error ends each message: `path: invalid offset for tensor `x` (InvalidOffset)`. We are
 * stricter in four places: a name may not occur twice, a tensor has at most 64 dimensions, a file
 * at most 2^20 tensors and 2^16 entries of metadata.
 *
 * An entry `checksum` of the metadata is ours (checksum.h): the writer fills it in, whatever value
 * it is given, and moe__safetensors_verify compares. A pipe cannot have one.
 *
 *     moe_safetensors *file;
 *     moe_tensor *w;
 *     if (moe__safetensors_open(ctx, "model.safetensors", &file)) ...
 *     const moe_stored_tensor *info = moe__safetensors_find(file, (moe_slice){"w", 1});
 *     if (info && moe__safetensors_tensor(file, info, MOE_F32, &w)) ...
 *     moe__safetensors_close(file);        // w keeps the mapping for itself
 */
#ifndef MOE_CHECKPOINT_SAFETENSORS_H
#define MOE_CHECKPOINT_SAFETENSORS_H

#include "checkpoint/body.h"
#include "checkpoint/entry.h"

#define MOE_HEADER_MAX ((uint64_t)100000000)    /* bytes of JSON */
#define MOE_STORED_MAX_DIMS 64

typedef struct moe_safetensors moe_safetensors;

/* What a file says of one tensor. */
typedef struct moe_stored_tensor {
    moe_slice name;
    moe_stored type;
    uint32_t rank;
    size_t first_size;          /* where its shape begins among all shapes of the file */
    uint64_t begin, end;        /* bytes from the beginning of the data */
} moe_stored_tensor;

typedef struct moe_stored_pair {
    moe_slice key, value;
} moe_stored_pair;

/* Maps a file and reads its header. MOE_EMISSING, MOE_EIO, MOE_EFORMAT, MOE_ENOMEM. */
moe_status moe__safetensors_open(moe_ctx *ctx, const char *path, moe_safetensors **out);
/* The same over a mapping, which it keeps. */
moe_status moe__safetensors_map(moe_ctx *ctx, const char *what, moe_mapping *map,
                                moe_safetensors **out);
/* The same over `size` bytes of the caller's, who keeps them until the file is closed; `what`
 * names them in messages. */
moe_status moe__safetensors_parse(moe_ctx *ctx, const char *what, const void *bytes, size_t size,
                                  moe_safetensors **out);
void moe__safetensors_close(moe_safetensors *f);    /* NULL is ignored */

/* Reads the whole file and compares it with its checksum. MOE_EFORMAT when it differs, or when
 * there is none; MOE_EINTR, MOE_ENOMEM. */
moe_status moe__safetensors_verify(moe_safetensors *f);

/* Tensors in byte order of their names; metadata in byte order of the keys. */
size_t moe__safetensors_count(const moe_safetensors *f);
const moe_stored_tensor *moe__safetensors_get(const moe_safetensors *f, size_t i);
const moe_stored_tensor *moe__safetensors_find(const moe_safetensors *f, moe_slice name);
size_t moe__safetensors_pairs(const moe_safetensors *f, const moe_stored_pair **pairs);

/* `rank` sizes, none above 2^63-1; `end - begin` bytes, at any alignment. */
const uint64_t *moe__safetensors_shape(const moe_safetensors *f, const moe_stored_tensor *t);
const void *moe__safetensors_data(const moe_safetensors *f, const moe_stored_tensor *t);

/* The same in the words of every format, and as a tensor (see entry.h). */
moe_entry moe__safetensors_entry(const moe_safetensors *f, const moe_stored_tensor *t);
moe_status moe__safetensors_tensor(moe_safetensors *f, const moe_stored_tensor *t, moe_dtype as,
                                   moe_tensor **out);

/* --- writing --------------------------------------------------------------------------------- */

typedef struct moe_safetensors_writer moe_safetensors_writer;

/* Plans a file: sorts `items` into the order in which they have to be put (type, widest first,
 * then name) and writes the header to a temporary file beside `path`. Only name, type, rank and
 * shape are looked at, and no longer than this call takes. Metadata is written in order of its
 * keys. MOE_EARG for names that are equal, reserved or no UTF-8, for sizes that overflow and for a
 * checksum in a pipe; MOE_EFULL, MOE_EIO, MOE_EMISSING. */
moe_status moe__safetensors_begin(moe_ctx *ctx, const char *path, moe_stored_item *items,
                                  size_t count, moe_stored_pair *pairs, size_t npairs,
                                  moe_safetensors_writer **out);
/* Writes the data of the next item; it is not kept. After MOE_ENOMEM nothing of it is written, and
 * it may be put again. */
moe_status moe__safetensors_put(moe_safetensors_writer *w, const moe_stored_item *item);
/* For who writes the bytes of the next item by himself, see body.h. */
moe_body *moe__safetensors_body(moe_safetensors_writer *w);
/* Makes the file appear, or forgets it. Both end the writer; abandoning NULL does nothing. */
moe_status moe__safetensors_commit(moe_safetensors_writer *w);
void moe__safetensors_abandon(moe_safetensors_writer *w);

/* All of it at once. */
moe_status moe__safetensors_write(moe_ctx *ctx, const char *path, moe_stored_item *items,
                                  size_t count, moe_stored_pair *pairs, size_t npairs);

#endif
