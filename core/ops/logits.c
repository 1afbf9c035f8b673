#include "ops/logits.h"

#include <math.h>

moe_status moe__logits_finite(moe_call *c, const moe_tensor *logits) {
    const int64_t experts = moe__last(logits);
    const moe_real *l = moe__real(logits);
    for (int64_t i = 0; i < logits->count; i++)
        if (isnan(l[i]) || (isinf(l[i]) && l[i] > 0))
            return MOE_REJECT(c, MOE_EARG, "the logit of token %lld for expert %lld is %s",
                              (long long)(i / experts + 1), (long long)(i % experts + 1),
                              isnan(l[i]) ? "NaN" : "infinite");
    return MOE_OK;
}
