/* interrupt.c -- core.uninterrupted: what must happen as a whole or not at all.
 *
 * An interrupt may come between any two instructions of Lua and in any operation. While the
 * context is shielded nobody sees it: neither the hook of embed.c nor an operation that polls, and
 * the pool leaves no task out. */
#include "bind.h"

#include "base/ctx.h"

static void raise_if_interrupted(lua_State *L, moe_ctx *ctx) {
    if (moe_interrupted(ctx)) lmoe_check(L, MOE_EINTR);
}

/* uninterrupted(f, ...) -> f's results. An interrupt that arrives meanwhile is raised when f has
 * returned; with an error of f's own it stays pending. One that was pending before is raised
 * first: what an operation computed under it may be incomplete. f must not yield. */
static int uninterrupted(lua_State *L) {
    moe_ctx *ctx = lmoe_ctx(L);
    lmoe_checktype(L, 1, LUA_TFUNCTION);
    raise_if_interrupted(L, ctx);
    ctx->shields++;
    int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
    ctx->shields--;
    if (status != LUA_OK) return lua_error(L);
    raise_if_interrupted(L, ctx);
    return lua_gettop(L);
}

#ifdef MOELUA_TESTING
/* interrupt([where]): what Ctrl-C does. Where "operation": only the next operation sees it, as
 * when the signal arrives while one is running. */
static int interrupt(lua_State *L) {
    static const char *const places[] = {"anywhere", "operation", NULL};
    if (luaL_checkoption(L, 1, "anywhere", places) == 0) moelua_interrupt(lmoe_owner(L));
    else moe_interrupt(lmoe_ctx(L));
    return 0;
}
#endif

void lmoe_add_interrupt(lua_State *L) {
    static const luaL_Reg functions[] = {{"uninterrupted", uninterrupted},
#ifdef MOELUA_TESTING
                                         {"interrupt", interrupt},
#endif
                                         {NULL, NULL}};
    luaL_setfuncs(L, functions, 0);
}
