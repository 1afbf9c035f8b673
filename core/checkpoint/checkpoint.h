/* checkpoint.h -- one handle over the files that hold named tensors: safetensors and GGUF.
 *
 *     moe_checkpoint *file;
 *     if (moe__checkpoint_open(ctx, "model.gguf", &file)) ...
 *     const moe_entry *w = moe__checkpoint_find(file, (moe_slice){"output.weight", 13});
 *     moe_tensor *t;
 *     if (w && moe__checkpoint_tensor(file, w, MOE_F32, &t)) ...
 *     moe__checkpoint_close(file);         // t keeps the mapping for itself
 */
#ifndef MOE_CHECKPOINT_CHECKPOINT_H
#define MOE_CHECKPOINT_CHECKPOINT_H

#include "checkpoint/gguf.h"
#include "checkpoint/safetensors.h"

typedef struct moe_checkpoint moe_checkpoint;

/* Maps a file and reads its header; the content tells the format. MOE_EMISSING, MOE_EIO,
 * MOE_EFORMAT, MOE_EUNSUPPORTED, MOE_ENOMEM. */
moe_status moe__checkpoint_open(moe_ctx *ctx, const char *path, moe_checkpoint **out);
void moe__checkpoint_close(moe_checkpoint *c);      /* NULL is ignored */

/* The path that it was opened with. */
const char *moe__checkpoint_path(const moe_checkpoint *c);
/* The whole file as it is mapped. */
moe_mapping *moe__checkpoint_mapping(const moe_checkpoint *c);

/* Tensors in byte order of their names. */
size_t moe__checkpoint_count(const moe_checkpoint *c);
const moe_entry *moe__checkpoint_get(const moe_checkpoint *c, size_t i);
const moe_entry *moe__checkpoint_find(const moe_checkpoint *c, moe_slice name);

/* moe__entry_tensor for an entry of this file. */
moe_status moe__checkpoint_tensor(moe_checkpoint *c, const moe_entry *e, moe_dtype as,
                                  moe_tensor **out);

/* Compares the file with its checksum; MOE_EUNSUPPORTED for GGUF, which has none. */
moe_status moe__checkpoint_verify(moe_checkpoint *c);

/* What the formats do not share: the file itself, NULL when it is of another format. */
moe_safetensors *moe__checkpoint_safetensors(const moe_checkpoint *c);
moe_gguf *moe__checkpoint_gguf(const moe_checkpoint *c);

#endif
