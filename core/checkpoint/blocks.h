/* blocks.h -- the quantised types of GGUF files: blocks of small integers with common scales.
 *
 * The arithmetic is that of the reference implementation (ggml), operation for operation in f32,
 * so the same bits come out on every processor.
 */
#ifndef MOE_CHECKPOINT_BLOCKS_H
#define MOE_CHECKPOINT_BLOCKS_H

#include "checkpoint/stored.h"

/* Converts `n` blocks of a quantised type into floats. */
void moe__blocks_read(moe_stored type, const void *data, uint64_t n, float *out);

/* Quantises `n` blocks of 32 floats to Q8_0, 34 bytes each. False when one of them holds a value
 * that is not finite, or needs a scale beyond f16. */
bool moe__blocks_write_q8_0(const float *x, uint64_t n, void *out);

#endif
