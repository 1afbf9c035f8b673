/* packed.h -- weights as matrix products want them, made once for each of their versions.
 *
 * An op calls moe__packed before it writes anything, because there may be no memory. The panels of
 * a parameter are kept at its storage from one step to the next as long as gradients are computed:
 * forward, backward, accumulation and recomputation share them, and so does an evaluation in
 * between. Without gradients, and for weights that were computed themselves, they last until the
 * op is done, so that a model which only answers holds its weights once.
 */
#ifndef MOE_TAPE_PACKED_H
#define MOE_TAPE_PACKED_H

#include "kernels/kernels.h"
#include "tape/op.h"

/* Panels (kernels/product.h) in the call's format of input `input`, a contiguous weight
 * [rows x cols] or [E x rows x cols], for products with W^T (`transposed`: k = cols, n = rows) or
 * with W (k = rows, n = cols; not for weights in 16 bits). The matrices follow one another,
 * moe__right_size(f, k, n) elements each. In backward the op must save the input. MOE_ENOMEM; no
 * panels are written after an interrupt. */
moe_status moe__packed(moe_call *c, int input, bool transposed, const void **panels);

/* After forward or backward: frees what was packed for this call alone. */
void moe__packed_done(moe_call *c);

#endif
