/* moelua.h -- the embedding API: an interpreter with moelua inside, in about a dozen functions.
 *
 *     moelua *m;
 *     if (moelua_open(&m, NULL) == MOELUA_OK
 *         && moelua_run_string(m, "print(require('moelua').ones(2, 3))", "hello") == MOELUA_OK)
 *         puts("fine");
 *     else
 *         fputs(moelua_errmsg(m), stderr);
 *     moelua_close(m);
 *
 * The library reads no environment, installs no signal handler, prints nothing unless a script
 * does, and never ends the process: every entry returns a moelua_status and never jumps.
 * One moelua is used by one thread at a time; several are independent of each other. Only
 * moelua_interrupt() may be called from elsewhere.
 *
 * Everything public is in this header and in moe.h, whose tensors it hands out.
 */
#ifndef MOELUA_H
#define MOELUA_H

#include <stddef.h>

#include "moe.h"

#ifdef __cplusplus
extern "C" {
#endif

struct lua_State;
typedef struct moelua moelua;

typedef enum moelua_status {
    MOELUA_OK,
    MOELUA_ERROR,        /* the script failed; moelua_errmsg() has the message and the traceback */
    MOELUA_INTERRUPTED,  /* it was stopped by moelua_interrupt()                                 */
    MOELUA_MEMORY,       /* Lua ran out of memory; a tensor operation that did is an error       */
    MOELUA_MISUSE        /* an argument of the call itself makes no sense                        */
} moelua_status;

/* Flags of the configuration. */
enum {
    /* Scripts get no io, no modules from files, no loadfile or dofile, and only the clocks of os.
     * This keeps careless scripts out of trouble; tensor files can still be read and written. A
     * hostile script belongs in a process of its own. */
    MOELUA_NO_IO = 1,
    /* moelua_interrupt() also stops Lua code that calls no tensor operation when it comes from
     * another thread. A count hook watches for it, which halves the speed of plain Lua loops;
     * tensor operations are not affected. */
    MOELUA_WATCH = 2,
    /* package.path and package.cpath follow LUA_PATH and LUA_CPATH, as on the command line. */
    MOELUA_ENVIRONMENT = 4
};

/* All fields but `size` may be zero. Strings are read until moelua_close(). */
typedef struct moelua_config {
    size_t size;               /* sizeof(moelua_config); lets the struct grow                     */
    void *(*alloc)(void *ud, void *ptr, size_t osize, size_t nsize);
                               /* Lua's heap and tensors alike, as lua_Alloc; NULL = malloc       */
    void *alloc_ud;
    void (*log)(void *ud, int level, const char *message);
                               /* warnings, level 1, one line each; NULL = silent                 */
    void *log_ud;
    size_t memory_limit;       /* bytes of tensors and scratch, 0 = none                          */
    int threads;               /* of the core's pool, 0 = as many as there are processors         */
    unsigned flags;            /* MOELUA_NO_IO ...                                                */
    const char *kernels;       /* "amx", "avx512bf16", "avx512", "avx2", "openblas", "plain",
                                  NULL = the best this processor has                              */
    const char *modules;       /* folder whose moelua/NAME.lua replace the modules compiled into the
                                  library, for work on them; NULL = none                          */
    int (*host)(struct lua_State *L);
                               /* opens the module moelua.host: where a host tells what terminal it
                                  has, as the command line does; NULL = no terminal, no progress  */
} moelua_config;

/* Opens an interpreter; cfg may be NULL. On failure *out still serves moelua_errmsg() and
 * moelua_close() (and is NULL when there was no memory for even that; both accept NULL). */
MOE_API moelua_status moelua_open(moelua **out, const moelua_config *cfg);

/* Closes it. Tensors that the host still holds stay valid until their moe_tensor_release(). */
MOE_API void moelua_close(moelua *m);

/* Runs a script, with argv[0 .. argc-1] as its arguments (`...` and the global `arg`; the path is
 * arg[0]). Source text only: precompiled chunks are refused. */
MOE_API moelua_status moelua_run_file(moelua *m, const char *path, int argc, char *const *argv);

/* Runs a piece of code; chunkname names it in messages, NULL = the code itself. */
MOE_API moelua_status moelua_run_string(moelua *m, const char *code, const char *chunkname);

/* Fetches the tensor that a global variable holds. *out is retained: release it with
 * moe_tensor_release(). It shares its storage with the script's tensor; for writing there see
 * moe_tensor_written(). MOELUA_ERROR, and *out is NULL, when the variable holds no tensor or a
 * released one. */
MOE_API moelua_status moelua_get_tensor(moelua *m, const char *global, moe_tensor **out);

/* Makes `t` the value of a global variable. The script gets its own reference. MOELUA_MISUSE when
 * `t` was made in another context than moelua_ctx(m). */
MOE_API moelua_status moelua_set_tensor(moelua *m, const char *global, moe_tensor *t);

/* Stops what runs now, or else the next run, with MOELUA_INTERRUPTED: the script sees the error
 * "interrupted!" once. Any thread, any time; safe in a signal handler. Tensor operations and Lua
 * code stop promptly; plain Lua loops do so only when the call comes from the thread that runs
 * them (a signal handler) or under MOELUA_WATCH. An update of the optimizer, and whatever else must
 * come whole or not at all, is finished first; training in a run folder saves its state. */
MOE_API void moelua_interrupt(moelua *m);

/* Message, and traceback where there is one, of the last failure; "" when there was none. */
MOE_API const char *moelua_errmsg(const moelua *m);

/* The core's context, for tensors that the host makes itself. Borrowed; NULL when moelua_open()
 * failed, as moelua_state() is. */
MOE_API moe_ctx *moelua_ctx(moelua *m);

/* The Lua state, borrowed: add functions, call functions. */
MOE_API struct lua_State *moelua_state(moelua *m);

/* A message handler for lua_pcall: adds a traceback without moelua's own frames to a string;
 * leaves "interrupted!" and error tables with a `message` or an `exit` code as they are. */
MOE_API int moelua_traceback(struct lua_State *L);

/* "0.1.0" */
MOE_API const char *moelua_version(void);

/* For hosts that own a Lua 5.4 state already: opens what require("moelua") returns. */
MOE_API int luaopen_moelua(struct lua_State *L);

#ifdef __cplusplus
}
#endif
#endif
