/* binary.h -- what the arithmetic of two broadcast tensors shares: add, sub, mul, div.
 *
 * Shapes are aligned at their last dimensions; a dimension of 1 (or one that is absent) is repeated
 * to the size of the other. Backward sums over what was repeated.
 */
#ifndef MOE_OPS_BINARY_H
#define MOE_OPS_BINARY_H

#include "kernels/kernels.h"
#include "tape/op.h"

/* A run of dy with the operands it belongs to (stride 0 or 1; NULL if the op does not save it). */
typedef struct moe_run {
    const moe_kernels *k;
    int64_t n;
    const moe_real *dy, *a, *b;
    int sa, sb;
} moe_run;

/* What a run contributes to the gradient of one operand: term[0 .. n-1]. */
typedef void moe_term_fn(const moe_run *run, moe_real *term);

moe_status moe__binary_infer(moe_call *c);
moe_status moe__binary_forward(moe_call *c, moe_map2 *f);

/* Adds the terms to the gradient of operand i, summed where the operand was repeated. */
moe_status moe__binary_backward(moe_call *c, int i, moe_term_fn *term);

/* The term is dy itself: passes it on without a copy where the operand was not repeated. */
moe_status moe__binary_pass(moe_call *c, int i);

#endif
