/* output.h -- a file that appears whole or not at all.
 *
 * The bytes go to a temporary file in the folder of the target; committing flushes it, renames it
 * over the target and flushes the folder. Until the rename, and after any failure before it, the
 * target is what it was; when only the folder cannot be flushed, it is the new one. A mapping of
 * the old file keeps the old bytes. A symbolic link is followed and the mode of an existing file
 * kept. Pipes and devices cannot be replaced and are written to as they are.
 *
 * A temporary file is named .moelua-PROCESS-NUMBER.tmp. Only a process that is killed leaves one
 * behind; whoever knows that nobody else writes in the folder may remove it.
 */
#ifndef MOE_CHECKPOINT_OUTPUT_H
#define MOE_CHECKPOINT_OUTPUT_H

#include "base/ctx.h"

typedef struct moe_output moe_output;

/* All fail with MOE_EFULL (disk, quota or limit of a file's size), MOE_EMISSING (no such folder) or
 * MOE_EIO and a message that begins with the path; writing also with MOE_EINTR. A failed write
 * leaves the output to be abandoned. */
moe_status moe__output_open(moe_ctx *ctx, const char *path, moe_output **out);
/* How many bytes will be written in all: a full disk is then reported with what is needed. */
void moe__output_expect(moe_output *o, uint64_t bytes);
moe_status moe__output_write(moe_output *o, const void *data, size_t size);
/* Replaces bytes that were written before, which a pipe cannot do. */
bool moe__output_can_patch(const moe_output *o);
moe_status moe__output_patch(moe_output *o, uint64_t at, const void *data, size_t size);
/* For several threads: writes bytes at a place, beyond what was written, and reports an error
 * number (0 = none) and not the message, which moe__output_fail makes. Afterwards moe__output_skip
 * moves on what is written next. */
int moe__output_place(const moe_output *o, uint64_t at, const void *data, size_t size);
moe_status moe__output_skip(moe_output *o, uint64_t size);
moe_status moe__output_fail(moe_output *o, int error);
/* The same from another file, without a copy through our memory where the system can. */
int moe__output_clone(const moe_output *o, uint64_t at, int from, uint64_t from_at, size_t size);
/* Ends the output, whether it succeeds or not. */
moe_status moe__output_commit(moe_output *o);
void moe__output_abandon(moe_output *o);    /* NULL is ignored */

#endif
