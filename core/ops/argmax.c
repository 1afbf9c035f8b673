/* argmax.c -- where the largest element stands, counted from 0 as all contents of i32 tensors. */
#include "ops/reduce.h"

static moe_status infer(moe_call *c) {
    moe_status s = moe__reduce_infer(c, MOE_I32);
    if (!s) s = moe__reduce_nonempty(c, "largest element");
    if (!s && moe__reduce_axis(c).len > INT32_MAX)
        return MOE_REJECT(c, MOE_ESHAPE, "positions in %s do not fit into i32",
                          MOE_SHAPE(c->in[0]));
    return s;
}

static moe_status forward(moe_call *c) {
    moe__argmax(c, moe__int(c->out[0]), NULL);
    return MOE_OK;
}

MOE_OP(argmax,
    .sig = "x:tensor, dim:dim?, keepdim:bool=false -> itensor",
    .doc = "Position (from 0) of the largest element along `dim`, or in row-major order of all; "
           "the first of equals, NaN before everything.",
    .infer = infer, .forward = forward);
