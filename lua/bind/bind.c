/* bind.c -- the module itself: state, errors that name the user's line, embedded Lua sources. */
#include "bind.h"

#include <stdarg.h>
#include <string.h>

#include "base/ctx.h"

static const char state_key = 0;        /* its address is the registry key */

lmoe_state *lmoe_findstate(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &state_key);
    lmoe_state *s = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return s && s->ctx ? s : NULL;
}

lmoe_state *lmoe_getstate(lua_State *L) {
    lmoe_state *s = lmoe_findstate(L);
    /* Finalizers of objects older than the module run after ours when the Lua state closes. */
    if (!s) luaL_error(L, "moelua is closed");
    return s;
}

moe_ctx *lmoe_ctx(lua_State *L) { return lmoe_getstate(L)->ctx; }

/* ---- errors --------------------------------------------------------------------------------- */

#define OWN_CHUNK "=moelua/"
#define LONGEST_MESSAGE 8000

/* Pushes "script.lua:42: " for the innermost Lua frame that is not ours, or "". A tail call erases
 * its caller's frame: then the next live one is named. */
static void push_where(lua_State *L) {
    lua_Debug ar;
    for (int level = 0; lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (ar.currentline > 0 && strncmp(ar.source, OWN_CHUNK, strlen(OWN_CHUNK)) != 0) {
            lua_pushfstring(L, "%s:%d: ", ar.short_src, ar.currentline);
            return;
        }
    }
    lua_pushliteral(L, "");
}

int lmoe_raise(lua_State *L, const char *fmt, ...) {
    push_where(L);
    va_list args;
    va_start(args, fmt);
    lua_pushvfstring(L, fmt, args);
    va_end(args);
    lua_concat(L, 2);
    size_t size;
    const char *text = lua_tolstring(L, -1, &size);
    /* A value that fills screens says no more than its beginning. */
    if (size > LONGEST_MESSAGE) {
        lua_pushlstring(L, text, LONGEST_MESSAGE);
        lua_pushliteral(L, "...");
        lua_concat(L, 2);
    }
    return lua_error(L);
}

void lmoe_check(lua_State *L, moe_status status) {
    if (status == MOE_OK) return;
    lmoe_getstate(L)->raised = status;
    if (status == MOE_EINTR) {
        lua_pushliteral(L, "interrupted!");
        lua_error(L);
    }
    lmoe_raise(L, "%s", moe_errmsg(lmoe_ctx(L)));
}

const char *lmoe_code(moe_status status) {
    switch (status) {
        case MOE_EMISSING: return "missing";
        case MOE_EIO: return "io";
        case MOE_EFULL: return "full";
        case MOE_EINTR: return "interrupted";
        case MOE_ENOMEM: return "memory";
        case MOE_EUNSUPPORTED: return "unsupported";
        default: return "format";
    }
}

int lmoe_fail_status(lua_State *L, moe_status status) {
    lua_pushnil(L);
    lua_pushstring(L, moe_errmsg(lmoe_ctx(L)));
    lua_pushstring(L, lmoe_code(status));
    return 3;
}

/* What follows "script.lua:42: ", as push_where writes it; the whole message without one. */
static const char *without_place(const char *message) {
    const char *end = strchr(message, '\n');
    const char *at = strchr(message, ':');
    for (; at && (!end || at < end); at = strchr(at + 1, ':')) {
        size_t digits = strspn(at + 1, "0123456789");
        if (digits && strncmp(at + 1 + digits, ": ", 2) == 0) return at + digits + 3;
    }
    return message;
}

/* raise(fmt, ...): for our Lua modules; formats like string.format. */
static int raise(lua_State *L) {
    int n = lua_gettop(L);
    if (n > 1) {
        lua_getglobal(L, "string");
        lua_getfield(L, -1, "format");
        lua_insert(L, 1);
        lua_pop(L, 1);
        lua_call(L, n, 1);
    }
    return lmoe_raise(L, "%s", luaL_tolstring(L, 1, NULL));
}

/* attempt(f, ...) -> true and f's results; or nil, message, code when it raised: "memory" when that
 * was the reason, else "format", because f works on what a file says. The message has no place in
 * the script, which is not where the mistake is. An interruption goes on its way. */
static int attempt(lua_State *L) {
    lmoe_state *s = lmoe_getstate(L);
    s->raised = MOE_OK;
    lua_pushboolean(L, true);
    lua_insert(L, 1);
    int status = lua_pcall(L, lua_gettop(L) - 2, LUA_MULTRET, 0);
    if (status == LUA_OK) return lua_gettop(L);
    const char *message = lua_tostring(L, -1);
    if (!message || strcmp(message, "interrupted!") == 0) return lua_error(L);
    bool memory = status == LUA_ERRMEM || s->raised == MOE_ENOMEM ||
                  strcmp(message, LMOE_NO_LUA_MEMORY) == 0;
    lua_pushnil(L);
    lua_pushstring(L, without_place(message));
    lua_pushstring(L, memory ? "memory" : "format");
    return 3;
}

/* describe(value) -> the value as messages show it, see lmoe_describe. */
static int describe(lua_State *L) {
    lmoe_describe(L, 1);
    return 1;
}

/* ---- types ---------------------------------------------------------------------------------- */

void lmoe_newtype(lua_State *L, const char *name, lua_CFunction release, const luaL_Reg *methods) {
    luaL_newmetatable(L, name);
    lua_pushcfunction(L, release);
    lua_setfield(L, -2, "__gc");
    lua_pushcfunction(L, release);
    lua_setfield(L, -2, "__close");
    lua_pushstring(L, name);
    lua_setfield(L, -2, "__metatable");
    if (methods) {
        lua_newtable(L);
        luaL_setfuncs(L, methods, 0);
        lua_setfield(L, -2, "__index");
    }
    lua_pop(L, 1);
}

/* ---- Lua sources ---------------------------------------------------------------------------- */

struct lmoe_source {
    const char *name;           /* "train", "routers/topk" */
    const unsigned char *data;
    size_t size;
};
extern const struct lmoe_source lmoe_sources[];
extern const size_t lmoe_nsources;

/* Pushes the text of `path`, or returns false. */
static bool push_file(lua_State *L, const char *path) {
    int top = lua_gettop(L);
    lua_getglobal(L, "io");
    lua_getfield(L, -1, "open");
    lua_pushstring(L, path);
    lua_call(L, 1, 1);
    if (!lua_isnil(L, -1)) {
        lua_getfield(L, -1, "read");
        lua_pushvalue(L, -2);
        lua_pushliteral(L, "a");
        lua_call(L, 2, 1);
        lua_replace(L, top + 1);
        lua_settop(L, top + 1);
        if (lua_isstring(L, -1)) return true;
    }
    lua_settop(L, top);
    return false;
}

/* Pushes the text of a module: from the folder in the registry when there is one (while
 * developing), else as it was compiled in. */
static void push_source(lua_State *L, const struct lmoe_source *s) {
    if (lua_getfield(L, LUA_REGISTRYINDEX, LMOE_PATH_KEY) == LUA_TSTRING) {
        lua_pushfstring(L, "%s/moelua/%s.lua", lua_tostring(L, -1), s->name);
        lua_remove(L, -2);
        if (push_file(L, lua_tostring(L, -1))) {
            lua_remove(L, -2);
            return;
        }
    }
    lua_pop(L, 1);
    lua_pushlstring(L, (const char *)s->data, s->size);
}

static int load_source(lua_State *L, const struct lmoe_source *s) {
    size_t size;
    const char *chunk = lua_pushfstring(L, OWN_CHUNK "%s.lua", s->name);
    push_source(L, s);
    const char *text = lua_tolstring(L, -1, &size);
    return luaL_loadbufferx(L, text, size, chunk, "t");
}

static const struct lmoe_source *find_source(const char *name) {
    for (size_t i = 0; i < lmoe_nsources; i++)
        if (strcmp(lmoe_sources[i].name, name) == 0) return &lmoe_sources[i];
    return NULL;
}

/* source(name) -> the text of a module of ours, for help() and the editor stubs; nil for others. */
static int source(lua_State *L) {
    const struct lmoe_source *found = find_source(lmoe_checkstring(L, 1));
    if (!found) return 0;
    push_source(L, found);
    return 1;
}

/* package.preload's loader of one module; the source is the upvalue. */
static int load_module(lua_State *L) {
    if (load_source(L, lua_touserdata(L, lua_upvalueindex(1))) != LUA_OK) return lua_error(L);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 1);
    return 1;
}

static void preload_sources(lua_State *L) {
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
    for (size_t i = 0; i < lmoe_nsources; i++) {
        if (strcmp(lmoe_sources[i].name, "init") == 0) continue;
        lua_pushlightuserdata(L, (void *)&lmoe_sources[i]);
        lua_pushcclosure(L, load_module, 1);
        lua_pushliteral(L, "moelua.");
        luaL_gsub(L, lmoe_sources[i].name, "/", ".");
        lua_concat(L, 2);
        lua_insert(L, -2);
        lua_settable(L, -3);
    }
    lua_pop(L, 1);
}

/* ---- opening -------------------------------------------------------------------------------- */

static int close_state(lua_State *L) {
    lmoe_state *s = lua_touserdata(L, 1);
    if (!s->ctx) return 0;
    lmoe_freescopes(s);
    lmoe_freeboxes(s);
    lmoe_forgetcalls(s);
    moe_close(s->ctx);
    s->ctx = NULL;
    return 0;
}

static void open_context(lua_State *L) {
    lmoe_state *s = lua_newuserdatauv(L, sizeof *s, 0);
    *s = (lmoe_state){.floor = (size_t)64 << 20, .growth = 1.5};
    lua_createtable(L, 0, 1);
    lua_pushcfunction(L, close_state);
    lua_setfield(L, -2, "__gc");
    lua_setmetatable(L, -2);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &state_key);
    lua_rawgeti(L, LUA_REGISTRYINDEX, LUA_RIDX_MAINTHREAD);
    s->main = lua_tothread(L, -1);
    lua_pop(L, 1);

    moe_config cfg = {.size = sizeof cfg};
    lua_getfield(L, LUA_REGISTRYINDEX, LMOE_CONFIG_KEY);
    const moelua_config *given = lua_touserdata(L, -1);
    if (given) {
        cfg.alloc = given->alloc;
        cfg.alloc_ud = given->alloc_ud;
        cfg.memory_limit = given->memory_limit;
        cfg.threads = given->threads;
        cfg.kernels = given->kernels;
    }
    lua_pop(L, 1);
    moe_status status = moe_open(&s->ctx, &cfg);
    if (status == MOE_EARG)
        luaL_error(L, "kernels \"%s\" cannot run here\nhint: amx, avx512bf16, avx512, avx2, "
                   "openblas and plain exist; leave it out for the best this processor has",
                    cfg.kernels);
    if (status != MOE_OK) luaL_error(L, "not enough memory");
    s->ceiling = s->floor;
}

typedef struct part {
    const char *name;
    void (*open)(lua_State *L);
} part;

/* What require("moelua.core") returns: everything in C, for our own Lua modules. */
static void push_core(lua_State *L) {
    static const part parts[] = {{"json", lmoe_open_json},
                                 {"yaml", lmoe_open_yaml},
                                 {"system", lmoe_open_system},
                                 {"checkpoint", lmoe_open_checkpoint},
                                 {"text", lmoe_open_text},
                                 {"slots", lmoe_open_slots}};
    lmoe_open_tensor(L);
    lmoe_add_ops(L);
    lmoe_add_create(L);
    lmoe_add_memory(L);
    lmoe_add_optimizer(L);
    lmoe_add_interrupt(L);
    lmoe_add_recompute(L);
    lmoe_add_sample(L);
    lmoe_add_nearest(L);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        parts[i].open(L);
        lua_setfield(L, -2, parts[i].name);
    }
    lua_pushcfunction(L, raise);
    lua_setfield(L, -2, "raise");
    lua_pushcfunction(L, attempt);
    lua_setfield(L, -2, "attempt");
    lua_pushcfunction(L, describe);
    lua_setfield(L, -2, "describe");
    lua_pushcfunction(L, source);
    lua_setfield(L, -2, "source");
    lua_pushliteral(L, MOELUA_VERSION);
    lua_setfield(L, -2, "version");
    lua_pushstring(L, moe_kernels_name(lmoe_ctx(L)));
    lua_setfield(L, -2, "kernels");
    lua_pushinteger(L, moe_threads(lmoe_ctx(L)));
    lua_setfield(L, -2, "threads");
    lua_pushboolean(L, sizeof(moe_real) == sizeof(double));
    lua_setfield(L, -2, "double");
}

MOE_API int luaopen_moelua(lua_State *L) {
    luaL_checkversion(L);
    /* One context per Lua state, also when a script forgets the module and requires it again. */
    if (!lmoe_findstate(L)) open_context(L);
    preload_sources(L);
    luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    push_core(L);
    lua_setfield(L, -2, "moelua.core");
    lua_pop(L, 1);
    if (load_source(L, find_source("init")) != LUA_OK) return lua_error(L);
    lua_pushliteral(L, "moelua");
    lua_call(L, 1, 1);
    return 1;
}
