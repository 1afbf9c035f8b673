/* hash_route.c -- the experts of a token by a fixed hash of its id (Roller et al. 2021).
 *
 * Hash j of k chooses one of the experts j N/k .. (j+1) N/k - 1, as number `id` of a stream of
 * random numbers that seed and j name. With grams = 2 the number is made of the id and the one
 * before it: ids of few values, as bytes, then reach all experts in many ways. Nothing here knows
 * the token to come.
 */
#include "base/rng.h"
#include "ops/axis.h"
#include "ops/routing.h"

enum { IDS, BEFORE };
enum { EXPERTS, K, GRAMS, SEED };

#define NONE (-1)       /* the id before the first */

static moe_status infer_before(moe_call *c) {
    const moe_tensor *ids = c->in[IDS], *before = c->in[BEFORE];
    if (!before) return MOE_OK;
    if (c->arg[GRAMS].i != 2)
        return MOE_REJECT(c, MOE_EARG, "before is read for grams = 2 only");
    if (before->ndim != 2 || before->shape[0] != ids->shape[0] || before->shape[1] != 1)
        return MOE_REJECT(c, MOE_ESHAPE, "before must be one id for each of %lld sequences, "
                          "[%lld x 1], not %s", (long long)ids->shape[0],
                          (long long)ids->shape[0], MOE_SHAPE(before));
    return moe__ids_below(c, before, (int64_t)INT32_MAX + 1, NONE, "before");
}

static moe_status infer(moe_call *c) {
    const moe_tensor *ids = c->in[IDS];
    if (moe__rank(c, ids, "ids", 2)) return MOE_ESHAPE;
    if (moe__dealt_evenly(c, c->arg[EXPERTS].i, c->arg[K].i)) return MOE_EARG;
    if (c->arg[GRAMS].i != 1 && c->arg[GRAMS].i != 2)
        return MOE_REJECT(c, MOE_EARG, "grams must be 1 or 2, not %lld",
                          (long long)c->arg[GRAMS].i);
    moe_status s = moe__ids_below(c, ids, (int64_t)INT32_MAX + 1, INT64_MIN, "ids");
    if (!s) s = infer_before(c);
    if (s) return s;
    const int64_t shape[2] = {ids->count, c->arg[K].i};
    moe__out(c, 0, MOE_I32, 2, shape);
    return MOE_OK;
}

static int32_t id_before(const moe_call *c, int64_t t) {
    const int64_t S = c->in[IDS]->shape[1];
    if (t % S) return moe__int(c->in[IDS])[t - 1];
    return c->in[BEFORE] ? moe__int(c->in[BEFORE])[t / S] : NONE;
}

static void route_rows(void *arg, int64_t begin, int64_t end) {
    const moe_call *c = arg;
    const int64_t k = c->arg[K].i, each = c->arg[EXPERTS].i / k;
    const uint64_t stream = moe__stream("hash_route");
    for (int64_t t = begin; t < end; t++) {
        uint64_t gram = (uint32_t)moe__int(c->in[IDS])[t];
        if (c->arg[GRAMS].i == 2) gram |= (uint64_t)(uint32_t)id_before(c, t) << 32;
        for (int64_t j = 0; j < k; j++) {
            const uint64_t e = moe__below((uint64_t)c->arg[SEED].i, stream + (uint64_t)j, gram,
                                          (uint64_t)each);
            moe__int(c->out[0])[t * k + j] = (int32_t)(j * each + (int64_t)e);
        }
    }
}

static moe_status forward(moe_call *c) {
    moe__parallel_range(c->ctx, c->in[IDS]->count, moe__grain(100 * c->arg[K].i), route_rows, c);
    return MOE_OK;
}

MOE_OP(hash_route,
    .sig = "ids:itensor, experts:int, k:int=1, grams:int=1, seed:int=1, before:itensor? -> itensor",
    .doc = "Hash routing: the 0-based experts [B*S x k] of token ids [B x S]. Hash j of k draws "
           "one of the experts of slice j, from the id alone (grams = 1) or from it and the one "
           "before (2); what stands before the first is `before` [B x 1], -1 for nothing.",
    .infer = infer, .forward = forward);
