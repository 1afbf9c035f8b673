/* checksum.h -- the hash by which a file knows itself: XXH3-128, in hexadecimal digits.
 *
 * A safetensors file carries it as the entry `checksum` of its metadata. It covers every byte of
 * the file, header included; the digits themselves count as zeros. The file stays what any reader
 * of the format expects, and no flipped bit goes unnoticed.
 */
#ifndef MOE_CHECKPOINT_CHECKSUM_H
#define MOE_CHECKPOINT_CHECKSUM_H

#include "base/ctx.h"

#define MOE_CHECKSUM_KEY "checksum"
#define MOE_CHECKSUM_DIGITS 32

/* What stands for the digits while they are not known. */
extern const char moe__checksum_blank[MOE_CHECKSUM_DIGITS + 1];

typedef struct moe_checksum moe_checksum;

moe_checksum *moe__checksum_new(moe_ctx *ctx);      /* NULL when there is no memory */
void moe__checksum_add(moe_checksum *c, const void *data, size_t size);
void moe__checksum_digits(const moe_checksum *c, char digits[MOE_CHECKSUM_DIGITS + 1]);
void moe__checksum_free(moe_ctx *ctx, moe_checksum *c);     /* NULL is ignored */

#endif
