#include "ops/routing.h"

#include <math.h>
#include <string.h>

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

moe_status moe__routing_alike(moe_call *c, const moe_tensor *gates, const moe_tensor *experts) {
    if (moe__rank(c, gates, "gates", 2)) return MOE_ESHAPE;
    if (experts->ndim == 2 && memcmp(experts->shape, gates->shape, 2 * sizeof *gates->shape) == 0)
        return MOE_OK;
    return MOE_REJECT(c, MOE_ESHAPE, "gates and experts differ: %s and %s", MOE_SHAPE(gates),
                      MOE_SHAPE(experts));
}

moe_status moe__equal_segments(moe_call *c, int64_t tokens, int64_t segments) {
    if (segments >= 1 && tokens % segments == 0) return MOE_OK;
    return MOE_REJECT(c, MOE_ESHAPE, "%lld tokens do not make %lld segments of equal length",
                      (long long)tokens, (long long)segments);
}

moe_status moe__mask_fits(moe_call *c, const moe_tensor *mask, int64_t tokens) {
    if (!mask || mask->count == tokens) return MOE_OK;
    return MOE_REJECT(c, MOE_ESHAPE, "mask must have one number for each of %lld tokens, not %s",
                      (long long)tokens, MOE_SHAPE(mask));
}

moe_status moe__dealt_evenly(moe_call *c, int64_t experts, int64_t k) {
    if (k >= 1 && experts >= k && experts % k == 0 && experts <= INT32_MAX) return MOE_OK;
    return MOE_REJECT(c, MOE_EARG, "%lld experts cannot be dealt out evenly to %lld hashes",
                      (long long)experts, (long long)k);
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
