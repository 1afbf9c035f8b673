/* main.c -- the executable: what lua does, with moelua inside. */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The core splits work itself and calls BLAS from its own threads. Weak: another BLAS may be
 * linked, which then keeps its own counsel. */
extern void openblas_set_num_threads(int n) __attribute__((weak));

typedef struct cli {
    cli_options options;
    moelua *m;
} cli;

/* --- errors ---------------------------------------------------------------------------------- */

/* The exit code of an error table: its `exit`, or what its `code` stands for. */
static int exit_code(lua_State *L, int index) {
    static const struct { const char *code; int exit; } codes[] = {
        {"diverged", 3}, {"format", 65}, {"missing", 66}, {"unsupported", 69}, {"io", EXIT_OUTPUT},
        {"full", EXIT_OUTPUT}, {"busy", 75}, {"interrupted", 130}, {"memory", EXIT_FAILED}};
    int code = EXIT_FAILED;
    if (lua_getfield(L, index, "exit") == LUA_TNUMBER) {
        code = (int)lua_tointeger(L, -1);
    } else if (lua_getfield(L, index, "code") == LUA_TSTRING) {
        for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
            if (strcmp(lua_tostring(L, -1), codes[i].code) == 0) code = codes[i].exit;
    }
    lua_settop(L, index);
    return code;
}

/* Replaces the message on top of the stack by what error_text.lua makes of it, when that works. */
static void polish(lua_State *L) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moelua.error_text");
    if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_getfield(L, -1, "tell") == LUA_TFUNCTION) {
        lua_pushvalue(L, 2);
        if (lua_pcall(L, 1, 1, 0) == LUA_OK && lua_isstring(L, -1)) lua_replace(L, 2);
    }
    lua_settop(L, 2);
}

/* Prints the error value at index 1; returns the exit code. */
static int report(lua_State *L) {
    int code = EXIT_FAILED;
    lua_settop(L, 1);
    if (lua_istable(L, 1)) {
        code = exit_code(L, 1);
        lua_getfield(L, 1, "message");
    } else if (lua_isstring(L, 1)) {
        lua_pushvalue(L, 1);
        polish(L);
    }
    const char *message = lua_tostring(L, -1);
    if (!message && code != EXIT_FINE) message = "failed without a message";
    fflush(stdout);
    if (message) fprintf(stderr, "%smoelua: %s\n", cli_live() ? "\r\033[K" : "", message);
    lua_pushinteger(L, code);
    return 1;
}

/* The exit code for the error value on top of the stack. Whatever the script made of it, a run
 * that a signal ended says so. */
static int failure(lua_State *L) {
    int code = EXIT_FAILED;
    lua_pushcfunction(L, report);
    lua_insert(L, -2);
    if (lua_pcall(L, 1, 1, 0) == LUA_OK) code = (int)lua_tointeger(L, -1);
    lua_pop(L, 1);
    return cli_caught_signal() && code != EXIT_FINE ? 128 + cli_caught_signal() : code;
}

static void print_warning(void *ud, int level, const char *message) {
    (void)ud;
    (void)level;
    fprintf(stderr, "moelua: warning: %s\n", message);
}

/* --- what is run ----------------------------------------------------------------------------- */

static void run_code(lua_State *L, const char *code, const char *chunkname) {
    if (luaL_loadbufferx(L, code, strlen(code), chunkname, "t") != LUA_OK) lua_error(L);
    lua_call(L, 0, 0);
}

/* LUA_INIT holds code, or @ and the name of a file. */
static void run_init(lua_State *L) {
    const char *name = "LUA_INIT_" LUA_VERSION_MAJOR "_" LUA_VERSION_MINOR;
    const char *init = getenv(name);
    if (!init) init = getenv(name = "LUA_INIT");
    if (!init) return;
    if (init[0] == '@') {
        cli_load_script(L, init + 1);
        lua_call(L, 0, 0);
    } else {
        run_code(L, init, lua_pushfstring(L, "=%s", name));
        lua_pop(L, 1);
    }
}

/* -l mod, -l g=mod */
static void run_require(lua_State *L, const char *word) {
    const char *equals = strchr(word, '=');
    const char *module = equals ? equals + 1 : word;
    lua_getglobal(L, "require");
    lua_pushstring(L, module);
    lua_call(L, 1, 1);
    lua_pushlstring(L, word, equals ? (size_t)(equals - word) : strlen(word));
    lua_insert(L, -2);
    lua_pushglobaltable(L);
    lua_insert(L, -3);
    lua_settable(L, -3);
    lua_pop(L, 1);
}

/* -e and -l, in the order in which they stand. */
static void run_options(lua_State *L, const cli_options *o) {
    for (int i = 1; i < o->first; i++) {
        char kind = o->argv[i][1];
        if (kind != 'e' && kind != 'l') continue;
        const char *value = o->argv[i][2] != '\0' ? o->argv[i] + 2 : o->argv[++i];
        if (kind == 'e') run_code(L, value, "=(command line)");
        else run_require(L, value);
    }
}

static void run_standard_input(lua_State *L) {
    cli_load_script(L, NULL);
    lua_call(L, 0, 0);
}

static void run_script(lua_State *L, const cli_options *o) {
    const char *name = o->argv[o->script];
    bool escaped = strcmp(o->argv[o->script - 1], "--") == 0;
    int nargs = o->argc - o->script - 1;
    cli_load_script(L, strcmp(name, "-") == 0 && !escaped ? NULL : name);
    luaL_checkstack(L, nargs + 3, "too many arguments to script");
    for (int i = 1; i <= nargs; i++) lua_pushstring(L, o->argv[o->script + i]);
    lua_call(L, nargs, 0);
}

/* require("moelua.worker").run(folder) */
static void run_worker(lua_State *L, const cli_options *o) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moelua.worker");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "run");
    lua_pushstring(L, o->worker);
    lua_call(L, 1, 0);
}

/* require("moelua.repl").run{ read, remember, traceback } */
static void run_repl(lua_State *L, moelua *m) {
    lua_getglobal(L, "require");
    lua_pushliteral(L, "moelua.repl");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "run");
    lua_createtable(L, 0, 3);
    cli_push_line_reader(L, m);
    lua_setfield(L, -3, "remember");
    lua_setfield(L, -2, "read");
    lua_pushcfunction(L, moelua_traceback);
    lua_setfield(L, -2, "traceback");
    lua_call(L, 1, 0);
}

/* Everything from LUA_INIT to the session; raises what is to be reported. */
static int body(lua_State *L) {
    cli *c = lua_touserdata(L, 1);
    const cli_options *o = &c->options;
    cli_set_arg(L, o);
    if (!o->no_environment) run_init(L);
    if (o->worker) {
        run_worker(L, o);
        return 0;
    }
    run_options(L, o);
    bool bare = o->script == o->argc && !o->execute && !o->version;
    bool tty = isatty(STDIN_FILENO);
    if (o->script < o->argc) run_script(L, o);
    if (bare && !tty) run_standard_input(L);
    if (bare && tty) cli_print_version();
    if ((bare && tty) || o->interactive) run_repl(L, c->m);
    return 0;
}

/* --- opening --------------------------------------------------------------------------------- */

static const char *variable(const cli_options *o, const char *name) {
    const char *value = o->no_environment ? NULL : getenv(name);
    return value && *value ? value : NULL;
}

/* Fills the configuration from the environment; false and a message when that makes no sense. */
static bool configure(const cli_options *o, moelua_config *cfg) {
    const char *threads = variable(o, "MOELUA_THREADS");
    char *end = NULL;
    long n = threads ? strtol(threads, &end, 10) : 0;
    if (threads && (*end != '\0' || n < 1 || n > 4096)) {
        fprintf(stderr, "moelua: MOELUA_THREADS is '%s', not a number from 1 to 4096\n", threads);
        return false;
    }
    cfg->threads = (int)n;
    cfg->kernels = variable(o, "MOELUA_KERNELS");
    cfg->modules = variable(o, "MOELUA_PATH");
    cfg->log = print_warning;
    cfg->host = cli_open_host;
    cfg->flags = o->no_environment ? 0 : MOELUA_ENVIRONMENT;
    return true;
}

static int run(cli *c) {
    lua_State *L = moelua_state(c->m);
    lua_warning(L, c->options.warnings ? "@on" : "@off", 0);
    cli_watch_signals(c->m);
    lua_pushcfunction(L, moelua_traceback);
    lua_pushcfunction(L, body);
    lua_pushlightuserdata(L, c);
    int status = lua_pcall(L, 1, 0, 1);
    /* What has failed is told, even when a signal came too late to be raised. */
    cli_unwatch_signals();
    (void)moe_interrupted(moelua_ctx(c->m));
    int code = status == LUA_OK ? EXIT_FINE : failure(L);
    lua_settop(L, 0);
    return code;
}

static int open_and_run(cli *c) {
    moelua_config cfg = {.size = sizeof cfg};
    if (!configure(&c->options, &cfg)) return EXIT_USAGE;
    if (openblas_set_num_threads) openblas_set_num_threads(1);
    int code = EXIT_FAILED;
    if (moelua_open(&c->m, &cfg) == MOELUA_OK) code = run(c);
    else fprintf(stderr, "moelua: %s\n", moelua_errmsg(c->m));
    moelua_close(c->m);
    return code;
}

/* OpenBLAS starts threads of its own when it is loaded. Where the address space is limited they may
 * find no room for their buffers, ask for it for ever, and are waited for at the end. By then only
 * a new start without them helps; where that fails, so be it. */
static void start_without_blas_threads(char **argv) {
    struct rlimit space;
    if (!openblas_set_num_threads) return;
    if (getrlimit(RLIMIT_AS, &space) != 0 || space.rlim_cur == RLIM_INFINITY) return;
    if (getenv("OPENBLAS_NUM_THREADS") || setenv("OPENBLAS_NUM_THREADS", "1", 1) != 0) return;
    execv("/proc/self/exe", argv);
}

int main(int argc, char **argv) {
    start_without_blas_threads(argv);
    cli c = {.options = cli_parse(argc, argv)};
    const cli_options *o = &c.options;
    if (o->problem[0]) {
        cli_print_usage(o->problem);
        return EXIT_USAGE;
    }
    if (o->worker && !cli_die_with_parent(o->parent)) return EXIT_FAILED;
    if (o->parent) cli_serve_parent();
    cli_explain_signals();
    if (o->help) cli_print_help();
    if (o->long_version || o->version) cli_print_version();
    if (o->help || o->long_version) return EXIT_FINE;
    int code = open_and_run(&c);
    /* What could not be written must not pass for success. */
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_FINE) {
        fprintf(stderr, "moelua: cannot write standard output\n");
        code = EXIT_OUTPUT;
    }
    return code;
}
