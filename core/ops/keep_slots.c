/* keep_slots.c -- takes experts out of a routing: where `keep` is not above 0, the slot is unused.
 *
 *     y[t][i] = keep[t][i] > 0 ? experts[t][i] : -1
 */
#include <string.h>

#include "tape/op.h"

static moe_status infer(moe_call *c) {
    const moe_tensor *experts = c->in[0], *keep = c->in[1];
    if (moe__rank(c, experts, "experts", 2)) return MOE_ESHAPE;
    bool by_row = keep->ndim == 1 && keep->shape[0] == experts->shape[0];
    bool by_slot = keep->ndim == 2 && memcmp(keep->shape, experts->shape,
                                             2 * sizeof *keep->shape) == 0;
    if (!by_row && !by_slot)
        return MOE_REJECT(c, MOE_ESHAPE, "keep must have a number for each slot or row of %s, not "
                          "be %s", MOE_SHAPE(experts), MOE_SHAPE(keep));
    moe__out(c, 0, MOE_I32, 2, experts->shape);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    const moe_tensor *experts = c->in[0], *keep = c->in[1];
    int64_t each = keep->ndim == 2 ? 1 : experts->shape[1];    /* slots that a number stands for */
    for (int64_t i = 0; i < experts->count; i++)
        moe__int(c->out[0])[i] = moe__real(keep)[i / each] > 0 ? moe__int(experts)[i] : -1;
    return MOE_OK;
}

MOE_OP(keep_slots,
    .sig = "experts:itensor, keep:tensor -> itensor",
    .doc = "Experts [T x s] of a routing with -1, for an unused slot, where `keep` is not above 0: "
           "a number for each slot [T x s] or row [T].",
    .infer = infer, .forward = forward);
