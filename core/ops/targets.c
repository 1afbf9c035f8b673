#include "ops/targets.h"

int64_t moe__targets_counted(const moe_tensor *targets, int64_t ignore) {
    int64_t n = 0;
    for (int64_t i = 0; i < targets->count; i++) n += moe__int(targets)[i] != ignore;
    return n;
}

moe_status moe__targets_infer(moe_call *c, const moe_tensor *x, const moe_tensor *targets,
                              int64_t classes, int64_t ignore) {
    moe_status s = moe__rank(c, targets, "targets", 1);
    if (s) return s;
    if (x->shape[0] != targets->shape[0])
        return MOE_REJECT(c, MOE_ESHAPE, "there must be one target per row: %s and %s",
                          MOE_SHAPE(x), MOE_SHAPE(targets));
    s = moe__ids_below(c, targets, classes, ignore, "targets");
    if (s) return s;
    if (moe__targets_counted(targets, ignore) == 0)
        return MOE_REJECT(c, MOE_EARG, "all %lld targets are ignored (%lld)",
                          (long long)targets->count, (long long)ignore);
    return MOE_OK;
}
