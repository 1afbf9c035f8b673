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
    moe_candidate *room = lua_newuserdatauv(L, sizeof *room * (size_t)t->count, 0);
    t = lmoe_checktensor(L, 1);         /* a finalizer may have released it meanwhile */
    int64_t id = moe__sample(t->count, moe__real(t), &how, room);
    if (id < 0) lmoe_raise(L, "sample: no logit is a finite number");
    lua_pushinteger(L, id);
    return 1;
}

void lmoe_add_sample(lua_State *L) {
    lua_pushcfunction(L, sample);
    lua_setfield(L, -2, "sample");
}
