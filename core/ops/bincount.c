/* bincount.c -- how often each id occurs: the load of the experts. A slot of -1 is not used and
 * counts for nobody. */
#include <string.h>

#include "tape/op.h"

static moe_status infer(moe_call *c) {
    if (c->arg[0].i < 0)
        return MOE_REJECT(c, MOE_EARG, "count must not be negative: %lld", (long long)c->arg[0].i);
    moe_status s = moe__ids_below(c, c->in[0], c->arg[0].i, -1, "ids");
    if (s) return s;
    moe__out(c, 0, MOE_F32, 1, &c->arg[0].i);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    moe_real *n = moe__real(c->out[0]);
    memset(n, 0, sizeof *n * (size_t)c->arg[0].i);
    for (int64_t i = 0; i < c->in[0]->count; i++) {
        int32_t id = moe__int(c->in[0])[i];
        if (id >= 0) n[id] += 1;
    }
    return MOE_OK;
}

MOE_OP(bincount,
    .sig = "ids:itensor, count:int -> tensor",
    .doc = "How often each of the ids 0 .. count-1 occurs, as an f32 tensor [count]; ids of -1 are "
           "passed over, as slots that no expert takes.",
    .infer = infer, .forward = forward);
