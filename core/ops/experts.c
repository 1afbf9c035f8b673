#include "ops/experts.h"

static bool shaped(const moe_tensor *t, int64_t a, int64_t b, int64_t c) {
    return t->ndim == 3 && t->shape[0] == a && t->shape[1] == b && t->shape[2] == c;
}

moe_status moe__experts_fit(moe_call *c, const moe_tensor *x, int first, moe_activation f) {
    const moe_tensor *w1 = c->in[first], *w3 = c->in[first + 1], *w2 = c->in[first + 2];
    bool gated = f == MOE_SWIGLU;
    if (moe__rank(c, w1, "w1", 3)) return MOE_ESHAPE;
    if (gated && !w3)
        return MOE_REJECT(c, MOE_EARG, "swiglu needs w3 beside w1 %s\nhint: give w3, or an "
                          "activation for two matrices: relu, gelu or silu", MOE_SHAPE(w1));
    if (!gated && w3)
        return MOE_REJECT(c, MOE_EARG, "w3 %s is for swiglu alone\nhint: nil in its place",
                          MOE_SHAPE(w3));
    if (w1->shape[2] != moe__last(x))
        return MOE_REJECT(c, MOE_ESHAPE, "w1 [E x I x d] does not fit x [.. x d]: %s and %s",
                          MOE_SHAPE(w1), MOE_SHAPE(x));
    if (w3 && !shaped(w3, w1->shape[0], w1->shape[1], w1->shape[2]))
        return MOE_REJECT(c, MOE_ESHAPE, "w1 and w3 [E x I x d] differ: %s and %s", MOE_SHAPE(w1),
                          MOE_SHAPE(w3));
    if (!shaped(w2, w1->shape[0], w1->shape[2], w1->shape[1]))
        return MOE_REJECT(c, MOE_ESHAPE, "w1 [E x I x d] and w2 [E x d x I] do not fit: %s and %s",
                          MOE_SHAPE(w1), MOE_SHAPE(w2));
    return moe__stored_alike(c, first, 3);
}
