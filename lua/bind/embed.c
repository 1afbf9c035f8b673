/* embed.c -- the embedding API of moelua.h: a Lua state with moelua inside, behind statuses.
 *
 * Nothing here jumps across the host: whatever may raise runs inside `protect`. A message is kept
 * in a fixed buffer, because reporting a lack of memory must not allocate.
 */
#include "moelua.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bind.h"

enum { MESSAGE_SIZE = 8192, WARNING_SIZE = 1024, WATCH_EVERY = 1000, FILE_SEARCHERS = 3 };

struct moelua {
    moelua_config cfg;
    lua_Alloc alloc;                /* the configuration's, or the default                  */
    lua_State *L;
    moe_ctx *ctx;                   /* borrowed from the state                              */
    pthread_t thread;               /* the one that opened or last ran something            */
    lua_State *volatile running;    /* the innermost coroutine: where an interrupt must hook */
    bool warn;                      /* a script may say warn("@off")                        */
    char warning[WARNING_SIZE];     /* pieces of a warning that is not complete yet         */
    char message[MESSAGE_SIZE];
};

/* The address is the registry key of the moelua that owns a state. */
static const char owner_key;

moelua *lmoe_owner(lua_State *L) {
    lua_rawgetp(L, LUA_REGISTRYINDEX, &owner_key);
    moelua *m = lua_touserdata(L, -1);
    lua_pop(L, 1);
    return m;
}

const char *moelua_version(void) { return MOELUA_VERSION; }

const char *moelua_errmsg(const moelua *m) { return m ? m->message : "not enough memory"; }

moe_ctx *moelua_ctx(moelua *m) { return m->ctx; }

lua_State *moelua_state(moelua *m) { return m->L; }

/* --- errors ---------------------------------------------------------------------------------- */

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

/* Adds the traceback lines that a user can do something about: frames of moelua's own modules
 * are left out, and so are the C functions that such a frame called. */
static void add_trimmed(luaL_Buffer *b, const char *trace) {
    const char *kept = NULL;    /* C frames that wait for the frame that called them */
    const char *line = strchr(trace, '\n');
    while (line) {
        const char *end = strchr(line + 1, '\n');
        size_t size = end ? (size_t)(end - line) : strlen(line);
        bool pending = starts_with(line, "\n\t[C]:") || starts_with(line, "\n\t(...tail");
        if (pending && !kept) kept = line;
        if (!pending) {
            const char *from = kept ? kept : line;
            if (!starts_with(line, "\n\tmoelua/"))
                luaL_addlstring(b, from, (size_t)(line - from) + size);
            kept = NULL;
        }
        line = end;
    }
}

static void push_traceback(lua_State *L, const char *message) {
    luaL_Buffer b;
    luaL_traceback(L, L, NULL, 1);
    const char *trace = lua_tostring(L, -1);
    luaL_buffinit(L, &b);
    luaL_addstring(&b, message);
    luaL_addstring(&b, "\nstack traceback:");
    size_t before = luaL_bufflen(&b);
    add_trimmed(&b, trace);
    if (luaL_bufflen(&b) == before) luaL_buffsub(&b, strlen("\nstack traceback:"));
    luaL_pushresult(&b);
}

/* True for error tables that are made for a reader: { message, code } and { exit }. */
static bool is_report(lua_State *L) {
    return lua_istable(L, 1) && (lua_getfield(L, 1, "message") != LUA_TNIL
                                 || lua_getfield(L, 1, "exit") != LUA_TNIL);
}

int moelua_traceback(lua_State *L) {
    const char *message = lua_tostring(L, 1);
    if (message) {
        if (strcmp(message, "interrupted!") == 0) return 1;
        if (strcmp(message, LMOE_NO_LUA_MEMORY) == 0) return 1;
        push_traceback(L, message);
    } else if (is_report(L)) {
        lua_settop(L, 1);
    } else if (luaL_callmeta(L, 1, "__tostring") && lua_isstring(L, -1)) {
        return 1;    /* the object knows how it wants to be told */
    } else {
        push_traceback(L, lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1)));
    }
    return 1;
}

static moelua_status fail(moelua *m, moelua_status status, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static moelua_status fail(moelua *m, moelua_status status, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(m->message, sizeof m->message, fmt, args);
    va_end(args);
    return status;
}

/* True when the error table at `index` has this code. Raw access: nothing may raise here. */
static bool has_code(lua_State *L, int index, const char *code) {
    lua_pushstring(L, "code");
    lua_rawget(L, index);
    const char *given = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
    bool same = strcmp(given, code) == 0;
    lua_pop(L, 1);
    return same;
}

static int describe(lua_State *L) {
    moelua *m = lua_touserdata(L, 2);
    moelua_status status = MOELUA_ERROR;
    if (lua_istable(L, 1)) {
        if (has_code(L, 1, "interrupted")) status = MOELUA_INTERRUPTED;
        if (has_code(L, 1, "memory")) status = MOELUA_MEMORY;
        lua_getfield(L, 1, "message");
        lua_replace(L, 1);
    }
    const char *message = lua_tostring(L, 1);
    if (message && strcmp(message, "interrupted!") == 0) status = MOELUA_INTERRUPTED;
    if (message && strcmp(message, LMOE_NO_LUA_MEMORY) == 0) status = MOELUA_MEMORY;
    fail(m, status, "%s", message ? message : "(an error without a message)");
    lua_pushinteger(L, status);
    return 1;
}

/* An interrupt that comes while the message is read is left to the next run. */
static int call_shielded(moelua *m, int nargs) {
    if (m->ctx) m->ctx->shields++;
    int status = lua_pcall(m->L, nargs, 1, 0);
    if (m->ctx) m->ctx->shields--;
    return status;
}

/* Turns the error value on top of the stack into a status and a message, and pops it. */
static moelua_status take_error(moelua *m, int lua_status) {
    lua_State *L = m->L;
    if (lua_status == LUA_ERRMEM) {
        lua_pop(L, 1);
        return fail(m, MOELUA_MEMORY, LMOE_NO_LUA_MEMORY);
    }
    lua_pushcfunction(L, describe);
    lua_insert(L, -2);
    lua_pushlightuserdata(L, m);
    moelua_status status = MOELUA_ERROR;
    if (call_shielded(m, 2) == LUA_OK)
        status = (moelua_status)lua_tointeger(L, -1);
    else
        fail(m, status, "(the error's message cannot be read)");
    lua_pop(L, 1);
    return status;
}

/* Calls body(L) with `arg` as its only argument, a light userdata. */
static moelua_status protect(moelua *m, lua_CFunction body, void *arg) {
    lua_State *L = m->L;
    if (!L) return fail(m, MOELUA_MISUSE, "moelua: the interpreter could not be opened");
    m->thread = pthread_self();
    m->message[0] = '\0';
    lua_pushcfunction(L, moelua_traceback);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, arg);
    int status = lua_pcall(L, 1, 0, -3);
    moelua_status result = status == LUA_OK ? MOELUA_OK : take_error(m, status);
    lua_pop(L, 1);
    return result;
}

/* --- interrupts ------------------------------------------------------------------------------ */

/* Runs soon after moelua_interrupt(). Whoever takes the flag raises: this hook or the operation
 * that polls it, so that the script sees the error once. */
static void stop_hook(lua_State *L, lua_Debug *ar) {
    (void)ar;
    moelua *m = lmoe_owner(L);
    if (m->ctx->shields) return;    /* it fires again until the shield is gone */
    if (!(m->cfg.flags & MOELUA_WATCH)) {
        lua_sethook(m->L, NULL, 0, 0);
        lua_sethook(L, NULL, 0, 0);
    }
    if (moe_interrupted(m->ctx)) {
        lua_pushliteral(L, "interrupted!");
        lua_error(L);
    }
}

void moelua_interrupt(moelua *m) {
    if (!m || !m->ctx) return;
    moe_interrupt(m->ctx);
    /* lua_sethook may be called while Lua runs in the same thread, but not from another one. */
    if (m->cfg.flags & MOELUA_WATCH || !pthread_equal(m->thread, pthread_self())) return;
    const int events = LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT;
    lua_State *running = m->running;
    lua_sethook(m->L, stop_hook, events, 1);
    if (running != m->L) lua_sethook(running, stop_hook, events, 1);
}

/* Calls the function under the `nargs` arguments on the stack while `co` counts as running. */
static int call_in(lua_State *L, lua_State *co, int nargs) {
    moelua *m = lmoe_owner(L);
    lua_State *before = m->running;
    m->running = co;
    int status = lua_pcall(L, nargs, LUA_MULTRET, 0);
    m->running = before;
    return status;
}

/* coroutine.resume that remembers who runs. Upvalue: Lua's own. */
static int resume(lua_State *L) {
    luaL_checktype(L, 1, LUA_TTHREAD);
    lua_State *co = lua_tothread(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    if (call_in(L, co, lua_gettop(L) - 1) != LUA_OK) return lua_error(L);
    return lua_gettop(L);
}

/* What coroutine.wrap returns. Upvalues: Lua's own wrapper and its coroutine. */
static int resume_wrapped(lua_State *L) {
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    if (call_in(L, lua_tothread(L, lua_upvalueindex(2)), lua_gettop(L) - 1) == LUA_OK)
        return lua_gettop(L);
    if (lua_type(L, -1) == LUA_TSTRING && strcmp(lua_tostring(L, -1), "interrupted!") != 0) {
        luaL_where(L, 1);    /* Lua's wrapper would name its caller, which is C here */
        lua_insert(L, -2);
        lua_concat(L, 2);
    }
    return lua_error(L);
}

/* coroutine.wrap. Upvalue: Lua's own. */
static int wrap(lua_State *L) {
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, 1, 1);
    lua_getupvalue(L, 1, 1);
    lua_pushcclosure(L, resume_wrapped, 2);
    return 1;
}

static void replace(lua_State *L, const char *name, lua_CFunction with) {
    lua_getfield(L, -1, name);
    lua_pushcclosure(L, with, 1);
    lua_setfield(L, -2, name);
}

/* A hook on the main state does not fire inside a coroutine, and Lua does not say which coroutine
 * runs: hence the two replacements, which behave as the originals do. */
static void follow_coroutines(lua_State *L) {
    lua_getglobal(L, LUA_COLIBNAME);
    replace(L, "resume", resume);
    replace(L, "wrap", wrap);
    lua_pop(L, 1);
}

/* --- opening --------------------------------------------------------------------------------- */

static void *default_alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
    (void)ud;
    (void)osize;
    if (nsize > 0) return realloc(ptr, nsize);
    free(ptr);
    return NULL;
}

/* Lua's warnings come in pieces; control messages ("@on", "@off") are single pieces. */
static void warned(void *ud, const char *piece, int to_continue) {
    moelua *m = ud;
    size_t used = strlen(m->warning);
    if (used == 0 && !to_continue && piece[0] == '@') {
        if (strcmp(piece, "@off") == 0) m->warn = false;
        if (strcmp(piece, "@on") == 0) m->warn = true;
        return;
    }
    snprintf(m->warning + used, sizeof m->warning - used, "%s", piece);
    if (to_continue) return;
    if (m->warn && m->cfg.log) m->cfg.log(m->cfg.log_ud, 1, m->warning);
    m->warning[0] = '\0';
}

/* Removes fields of the table on top of the stack. */
static void remove_names(lua_State *L, const char *const *names) {
    for (; *names; names++) {
        lua_pushnil(L);
        lua_setfield(L, -2, *names);
    }
}

static void remove_fields(lua_State *L, const char *library, const char *const *names) {
    lua_getglobal(L, library);
    remove_names(L, names);
    lua_pop(L, 1);
}

/* Lua's own load, for text only: a precompiled chunk can crash the virtual machine.
 * Upvalue: the original. */
static int load_text(lua_State *L) {
    int n = lua_gettop(L);
    lua_settop(L, n < 3 ? 3 : n);
    lua_pushliteral(L, "t");
    lua_replace(L, 3);
    n = lua_gettop(L);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_call(L, n, LUA_MULTRET);
    return lua_gettop(L);
}

static int refuse(lua_State *L) {
    return lmoe_raise(L, "this interpreter has no access to files (MOELUA_NO_IO)");
}

/* Leaves the clocks and the like of the table on top, moelua's own system functions. */
static void close_system(lua_State *L) {
    static const char *const harmless[] = {"clock", "time", "sleep", "cpus", "hash", NULL};
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        const char *name = lua_tostring(L, -2);
        const char *const *keep = harmless;
        while (*keep && strcmp(*keep, name) != 0) keep++;
        if (*keep) continue;
        lua_pushcfunction(L, refuse);
        lua_setfield(L, -4, name);
    }
}

/* Takes away what touches files, processes and C code. Runs when moelua is open already. */
static void close_doors(lua_State *L) {
    static const char *const os_names[] = {"execute", "exit", "getenv", "remove", "rename",
                                           "setlocale", "tmpname", NULL};
    static const char *const package_names[] = {"loadlib", "searchpath", NULL};
    static const char *const debug_names[] = {"debug", "getregistry", "getupvalue", "setupvalue",
                                              "upvaluejoin", "upvalueid", "setmetatable", "sethook",
                                              "getmetatable", "setlocal", "getuservalue",
                                              "setuservalue", "gethook", NULL};
    static const char *const global_names[] = {"io", "dofile", "loadfile", NULL};
    static const char *const loaded_names[] = {"io", "lfs", NULL};
    remove_fields(L, LUA_OSLIBNAME, os_names);
    remove_fields(L, LUA_LOADLIBNAME, package_names);
    remove_fields(L, LUA_DBLIBNAME, debug_names);
    remove_fields(L, LUA_GNAME, global_names);
    lua_getfield(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
    remove_names(L, loaded_names);
    lua_getfield(L, -1, "moelua.core");
    lua_getfield(L, -1, "system");
    close_system(L);
    lua_pushglobaltable(L);
    replace(L, "load", load_text);
    lua_pop(L, 4);
}

/* Finds which of the searchers of require are Lua's own for files: all but the first. */
static void note_file_searchers(lua_State *L, lua_CFunction files[FILE_SEARCHERS]) {
    lua_getglobal(L, LUA_LOADLIBNAME);
    lua_getfield(L, -1, "searchers");
    for (int i = 0; i < FILE_SEARCHERS; i++) {
        lua_rawgeti(L, -1, i + 2);
        files[i] = lua_tocfunction(L, -1);
        lua_pop(L, 1);
    }
    lua_pop(L, 2);
}

/* require must not load files. A new list holds the searchers that remain: preloaded modules, and
 * what looks up moelua's own, wherever it stands. */
static void close_searchers(lua_State *L, const lua_CFunction files[FILE_SEARCHERS]) {
    lua_getglobal(L, LUA_LOADLIBNAME);
    lua_getfield(L, -1, "searchers");
    lua_Integer kept = 0;
    lua_newtable(L);
    for (int i = 1; lua_rawgeti(L, -2, i) != LUA_TNIL; i++) {
        lua_CFunction f = lua_tocfunction(L, -1);
        bool closed = f && (f == files[0] || f == files[1] || f == files[2]);
        if (closed) lua_pop(L, 1);
        else lua_rawseti(L, -2, ++kept);
    }
    lua_pop(L, 1);
    lua_setfield(L, -3, "searchers");
    lua_pop(L, 2);
}

/* Leaves what the configuration says where the standard libraries and the binding look for it. */
static void note_configuration(lua_State *L, moelua *m) {
    lua_pushlightuserdata(L, m);
    lua_rawsetp(L, LUA_REGISTRYINDEX, &owner_key);
    lua_pushlightuserdata(L, &m->cfg);
    lua_setfield(L, LUA_REGISTRYINDEX, LMOE_CONFIG_KEY);
    if (!(m->cfg.flags & MOELUA_ENVIRONMENT)) {
        lua_pushboolean(L, 1);
        lua_setfield(L, LUA_REGISTRYINDEX, "LUA_NOENV");
    }
    if (m->cfg.modules) {
        lua_pushstring(L, m->cfg.modules);
        lua_setfield(L, LUA_REGISTRYINDEX, LMOE_PATH_KEY);
    }
    if (m->cfg.host) {
        luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
        lua_pushcfunction(L, m->cfg.host);
        lua_setfield(L, -2, "moelua.host");
        lua_pop(L, 1);
    }
}

static int open_state(lua_State *L) {
    moelua *m = lua_touserdata(L, 1);
    lua_CFunction files[FILE_SEARCHERS];
    note_configuration(L, m);
    luaL_openlibs(L);
    note_file_searchers(L, files);
    follow_coroutines(L);
    luaL_requiref(L, "moelua", luaopen_moelua, 0);
    m->ctx = lmoe_ctx(L);
    if (m->cfg.flags & MOELUA_NO_IO) {
        close_doors(L);
        close_searchers(L, files);
    }
    if (m->cfg.flags & MOELUA_WATCH) lua_sethook(L, stop_hook, LUA_MASKCOUNT, WATCH_EVERY);
    return 0;
}

static moelua *new_moelua(const moelua_config *given) {
    moelua_config cfg = {.size = sizeof cfg};
    if (given) memcpy(&cfg, given, given->size < sizeof cfg ? given->size : sizeof cfg);
    lua_Alloc alloc = cfg.alloc ? cfg.alloc : default_alloc;
    moelua *m = alloc(cfg.alloc_ud, NULL, 0, sizeof *m);
    if (!m) return NULL;
    memset(m, 0, sizeof *m);
    m->cfg = cfg;
    m->alloc = alloc;
    m->warn = true;
    return m;
}

moelua_status moelua_open(moelua **out, const moelua_config *cfg) {
    moelua *m = *out = new_moelua(cfg);
    if (!m) return MOELUA_MEMORY;
    m->L = lua_newstate(m->alloc, m->cfg.alloc_ud);
    if (!m->L) return fail(m, MOELUA_MEMORY, "not enough memory");
    m->running = m->L;
    lua_setwarnf(m->L, warned, m);
    /* Everything that is made now stays: collecting while it grows would be wasted work. */
    lua_gc(m->L, LUA_GCSTOP);
    moelua_status status = protect(m, open_state, m);
    lua_gc(m->L, LUA_GCRESTART);
    if (status != MOELUA_OK) {
        lua_close(m->L);
        m->L = NULL;
        m->ctx = NULL;
    }
    return status;
}

void moelua_close(moelua *m) {
    if (!m) return;
    m->ctx = NULL;    /* an interrupt that comes late finds nothing to interrupt */
    if (m->L) lua_close(m->L);
    m->alloc(m->cfg.alloc_ud, m, sizeof *m, 0);
}

/* --- running --------------------------------------------------------------------------------- */

typedef struct script {
    const char *path;
    int argc;
    char *const *argv;
} script;

static int run_file(lua_State *L) {
    const script *s = lua_touserdata(L, 1);
    luaL_checkstack(L, s->argc + 4, "too many arguments to script");
    lua_createtable(L, s->argc, 1);
    lua_pushstring(L, s->path);
    lua_rawseti(L, -2, 0);
    for (int i = 0; i < s->argc; i++) {
        lua_pushstring(L, s->argv[i]);
        lua_rawseti(L, -2, i + 1);
    }
    lua_setglobal(L, "arg");
    if (luaL_loadfilex(L, s->path, "t") != LUA_OK) return lua_error(L);
    for (int i = 0; i < s->argc; i++) lua_pushstring(L, s->argv[i]);
    lua_call(L, s->argc, 0);
    return 0;
}

moelua_status moelua_run_file(moelua *m, const char *path, int argc, char *const *argv) {
    if (!path || argc < 0) return fail(m, MOELUA_MISUSE, "moelua_run_file: no path");
    script s = {.path = path, .argc = argc, .argv = argv};
    return protect(m, run_file, &s);
}

typedef struct piece {
    const char *code, *name;
} piece;

static int run_string(lua_State *L) {
    const piece *p = lua_touserdata(L, 1);
    const char *name = p->name ? lua_pushfstring(L, "=%s", p->name) : p->code;
    if (luaL_loadbufferx(L, p->code, strlen(p->code), name, "t") != LUA_OK) return lua_error(L);
    lua_call(L, 0, 0);
    return 0;
}

moelua_status moelua_run_string(moelua *m, const char *code, const char *chunkname) {
    if (!code) return fail(m, MOELUA_MISUSE, "moelua_run_string: no code");
    piece p = {.code = code, .name = chunkname};
    return protect(m, run_string, &p);
}

/* --- tensors --------------------------------------------------------------------------------- */

typedef struct variable {
    const char *name;
    moe_tensor *tensor;
} variable;

static int get_tensor(lua_State *L) {
    variable *v = lua_touserdata(L, 1);
    lua_getglobal(L, v->name);
    moe_tensor *t = lmoe_totensor(L, -1);
    if (!t)
        return luaL_error(L, "moelua_get_tensor: global '%s' is no tensor: it is a %s", v->name,
                          luaL_typename(L, -1));
    moe_tensor_retain(t);
    v->tensor = t;
    return 0;
}

moelua_status moelua_get_tensor(moelua *m, const char *global, moe_tensor **out) {
    variable v = {.name = global};
    *out = NULL;
    if (!global) return fail(m, MOELUA_MISUSE, "moelua_get_tensor: no name");
    moelua_status status = protect(m, get_tensor, &v);
    *out = v.tensor;
    return status;
}

static int set_tensor(lua_State *L) {
    const variable *v = lua_touserdata(L, 1);
    lmoe_box *box = lmoe_pushbox(L);    /* the host holds the tensor meanwhile */
    moe_tensor_retain(v->tensor);
    box->tensor = v->tensor;
    lua_setglobal(L, v->name);
    return 0;
}

moelua_status moelua_set_tensor(moelua *m, const char *global, moe_tensor *t) {
    variable v = {.name = global, .tensor = t};
    if (!global || !t) return fail(m, MOELUA_MISUSE, "moelua_set_tensor: no name or no tensor");
    if (t->ctx != m->ctx)
        return fail(m, MOELUA_MISUSE, "moelua_set_tensor: the tensor belongs to another context");
    return protect(m, set_tensor, &v);
}
