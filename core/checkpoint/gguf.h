/* gguf.h -- GGUF files: named tensors, many of them quantised, after typed metadata.
 *
 *     "GGUF" | u32 version | u64 tensors | u64 pairs
 *     pairs:   string key | u32 type | value                     string: u64 length | bytes
 *     tensors: string name | u32 dimensions | u64 sizes[] | u32 type | u64 offset
 *     zeros up to the alignment | the data of each tensor, padded to the alignment
 *
 * Everything is little endian; the first size is that of the densest dimension, the reverse of the
 * order in a moe_entry. Versions 2 and 3 have this layout. The specification is docs/gguf.md of
 * ggml.
 *
 * Reading trusts nothing. What the reference reader refuses is refused here, and beyond that: sizes
 * whose product overflows, a byte of a boolean that is not 0 or 1, names and keys that are empty,
 * no UTF-8 or hold a NUL, data that is missing, bytes after the data, headers above 100 MB, more
 * than 2^20 tensors, 2^16 pairs or 2^24 values of a pair. Types of elements that moelua cannot
 * compute with are MOE_EUNSUPPORTED.
 */
#ifndef MOE_CHECKPOINT_GGUF_H
#define MOE_CHECKPOINT_GGUF_H

#include "checkpoint/body.h"
#include "checkpoint/entry.h"

#define MOE_GGUF_MAGIC "GGUF"
#define MOE_GGUF_ALIGNMENT 32       /* unless general.alignment says otherwise */
#define MOE_GGUF_MAX_DIMS 4
#define MOE_GGUF_MAX_NAME 63        /* bytes */
#define MOE_GGUF_MAX_KEY 65535
#define MOE_GGUF_MAX_HEADER ((size_t)100000000)

typedef struct moe_gguf moe_gguf;

/* Types of metadata, by their number in the file. */
typedef enum moe_gguf_type {
    MOE_GGUF_U8,
    MOE_GGUF_I8,
    MOE_GGUF_U16,
    MOE_GGUF_I16,
    MOE_GGUF_U32,
    MOE_GGUF_I32,
    MOE_GGUF_F32,
    MOE_GGUF_BOOL,
    MOE_GGUF_STRING,
    MOE_GGUF_ARRAY,
    MOE_GGUF_U64,
    MOE_GGUF_I64,
    MOE_GGUF_F64,
    MOE_GGUF_TYPES
} moe_gguf_type;

/* A value, or an array of `count` values, that begins at `data`. */
typedef struct moe_gguf_pair {
    moe_slice key;
    bool array;
    moe_gguf_type type;         /* of the value or of each element; never ARRAY */
    uint64_t count;             /* 1 unless it is an array */
    const char *data;
    size_t bytes;
} moe_gguf_pair;

/* "u32". */
const char *moe__gguf_type_name(moe_gguf_type type);
/* Bytes of one value; 0 for strings and arrays. */
size_t moe__gguf_type_size(moe_gguf_type type);

/* Takes a mapping, which it keeps, or `size` bytes of the caller's, who keeps them until the file
 * is closed; `what` names them in messages. MOE_EFORMAT, MOE_EUNSUPPORTED, MOE_ENOMEM. */
moe_status moe__gguf_map(moe_ctx *ctx, const char *what, moe_mapping *map, moe_gguf **out);
moe_status moe__gguf_parse(moe_ctx *ctx, const char *what, const void *bytes, size_t size,
                           moe_gguf **out);
void moe__gguf_close(moe_gguf *f);      /* NULL is ignored */

/* Tensors in byte order of their names; pairs in byte order of their keys. */
size_t moe__gguf_entries(const moe_gguf *f, const moe_entry **entries);
size_t moe__gguf_pairs(const moe_gguf *f, const moe_gguf_pair **pairs);

/* The string at *at, which moves behind it: for each of a pair's values in turn. */
moe_slice moe__gguf_string(const char **at);

/* --- writing --------------------------------------------------------------------------------- */

typedef struct moe_gguf_writer moe_gguf_writer;

/* Plans a file of version 3: sorts `items` by their names, the order in which they have to be put,
 * and `pairs` by their keys, and writes the header to a temporary file beside `path`. Both are
 * looked at no longer than this call takes, and of the items only name, type, rank and shape.
 * MOE_EARG for what the reader would refuse; MOE_EFULL, MOE_EIO, MOE_EMISSING. */
moe_status moe__gguf_begin(moe_ctx *ctx, const char *path, moe_stored_item *items, size_t count,
                           moe_gguf_pair *pairs, size_t npairs, moe_gguf_writer **out);
/* As for safetensors.h: the data of the next item; then all of it appears, or is forgotten. */
moe_status moe__gguf_put(moe_gguf_writer *w, const moe_stored_item *item);
/* For who writes the bytes of the next item by himself, see body.h; then what follows them. */
moe_body *moe__gguf_body(moe_gguf_writer *w);
moe_status moe__gguf_filled(moe_gguf_writer *w, const moe_stored_item *item);
moe_status moe__gguf_commit(moe_gguf_writer *w);
void moe__gguf_abandon(moe_gguf_writer *w);

/* --- types ----------------------------------------------------------------------------------- */

/* Why these bytes can be no key or name of a tensor, of at most so many bytes: "is empty"; NULL
 * when they can. */
const char *moe__gguf_name_fault(moe_slice name, size_t most);

/* The type by its number in a GGUF file; MOE_STORED_COUNT, with the name of the type if it has one
 * (else NULL), when moelua does not know it. */
moe_stored moe__gguf_stored(uint32_t number, const char **name);
/* And the number by the type; UINT32_MAX when GGUF has none. */
uint32_t moe__gguf_number(moe_stored type);

#endif
