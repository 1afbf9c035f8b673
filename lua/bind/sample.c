/* sample.c -- core.sample(logits, {temperature, top_k, top_p, seed, index}) -> 0-based token id.
 * The draw is number `index` of the stream "sample" of `seed`. */
#include "bind.h"

#include "base/rng.h"
#include "kernels/sample.h"

static int sample(lua_State *L) {
    moe_tensor *t = lmoe_checktensor(L, 1);
    lmoe_checktype(L, 2, LUA_TTABLE);
    if (t->dtype != MOE_F32 || t->ndim != 1 || !moe_tensor_contiguous(t))
        lmoe_raise(L, "sample: one row of f32 logits is needed, not %s %s",
                   moe__dtype_name(t->dtype), MOE_SHAPE(t));
    moe_sampling how = {.temperature = lmoe_numfield(L, 2, "temperature", 1),
                        .top_k = lmoe_intfield(L, 2, "top_k", 0),
                        .top_p = lmoe_numfield(L, 2, "top_p", 1)};
    uint64_t seed = (uint64_t)lmoe_intfield(L, 2, "seed", 1);
    uint32_t word[4];
    moe__philox(seed, moe__stream("sample"), (uint64_t)lmoe_intfield(L, 2, "index", 0), word);
    how.u = (double)word[0] * 0x1p-32;
    char *room;
    lmoe_check(L, moe__shared(t->ctx, moe__sample_room(t->count), &room));
    int64_t id = moe__sample(t->ctx->kernels, t->count, moe__real(t), &how, room);
    if (id < 0) lmoe_raise(L, "sample: no logit is a finite number");
    lua_pushinteger(L, id);
    return 1;
}

void lmoe_add_sample(lua_State *L) {
    lua_pushcfunction(L, sample);
    lua_setfield(L, -2, "sample");
}
