/* optimizer.h -- what happens to parameters between two steps, in place. All of them together are
 * one region: cut into pieces by their sizes alone, so that small ones keep no thread waiting. */
#ifndef MOE_TAPE_OPTIMIZER_H
#define MOE_TAPE_OPTIMIZER_H

#include "kernels/kernels.h"
#include "tensor/tensor.h"

typedef struct moe_param {
    moe_tensor *w;              /* f32, contiguous; its gradient, if there is one, is w->grad */
    moe_tensor *m, *v;          /* for AdamW: moments of the same shape */
    moe_real weight_decay;
    int64_t first;              /* for the functions below: the number of its first piece */
} moe_param;

/* The 2-norm of all gradients together, in an order fixed by the sizes; absent ones count as 0.
 * MOE_ENOMEM, MOE_EINTR. */
moe_status moe__grad_norm(moe_ctx *ctx, int64_t n, moe_param *list, double *norm);

/* Multiplies all gradients. */
void moe__grad_scale(moe_ctx *ctx, int64_t n, moe_param *list, moe_real factor);

/* One AdamW step; parameters without a gradient stay as they are. Bumps the versions of the others.
 * MOE_ESHAPE when moments differ, MOE_EARG for what is mapped from a file; nothing has changed
 * then. No interrupt cuts it in two. */
moe_status moe__adamw_step(moe_ctx *ctx, int64_t n, moe_param *list, const moe_adamw_args *args);

#endif
