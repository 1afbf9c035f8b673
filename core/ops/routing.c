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

/* Insertion into a list that is kept in order; strict comparison leaves equal ones as they came. */
void moe__select_top(const moe_real *x, int64_t N, int64_t k, int32_t *best) {
    int64_t n = 0;
    for (int64_t e = 0; e < N; e++) {
        if (n == k && !(x[e] > x[best[k - 1]])) continue;
        int64_t at = n < k ? n++ : k - 1;
        for (; at > 0 && x[e] > x[best[at - 1]]; at--) best[at] = best[at - 1];
        best[at] = (int32_t)e;
    }
}
