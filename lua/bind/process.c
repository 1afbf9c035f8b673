/* core.system.spawn: child processes, for workers that run beside each other.
 *
 * A child starts clean: default signals, nothing blocked, standard input from /dev/null, and no
 * descriptor of ours beyond the three standard ones.
 */
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROCESS_TYPE "moelua.process"
#define SHORTEST_POLL 0.001
#define LONGEST_POLL 0.02

extern char **environ;

/* `pid` is 0 until the start succeeded; `status` holds once the child was reaped. */
struct process {
    pid_t pid;
    bool reaped;
    int status;
};

static struct process *check_process(lua_State *L, const char *method) {
    struct process *p = luaL_testudata(L, 1, PROCESS_TYPE);
    if (p == NULL)
        lmoe_raise(L, "%s: a process is expected: call it as process:%s()", method, method);
    return p;
}

/* ---- starting ------------------------------------------------------------------------------- */

/* Everything that a start needs, ready before the first call that may not be interrupted by a
 * Lua error. The descriptors are -1 where the child shares ours. */
struct plan {
    char *const *argv;
    char *const *env;
    int input;
    int output;
    int errors;
};

static int add_stream(posix_spawn_file_actions_t *actions, int from, int to) {
    return from < 0 ? 0 : posix_spawn_file_actions_adddup2(actions, from, to);
}

/* Closes what others, such as io.open, left open for children. */
static int close_the_rest(posix_spawn_file_actions_t *actions) {
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 34)
    return posix_spawn_file_actions_addclosefrom_np(actions, STDERR_FILENO + 1);
#else
    (void)actions;
    return 0;
#endif
}

static int plan_streams(posix_spawn_file_actions_t *actions, const struct plan *plan) {
    int error = add_stream(actions, plan->input, STDIN_FILENO);
    if (error == 0) error = add_stream(actions, plan->output, STDOUT_FILENO);
    if (error == 0) error = add_stream(actions, plan->errors, STDERR_FILENO);
    return error != 0 ? error : close_the_rest(actions);
}

/* An ignored signal would stay ignored in the child, a blocked one blocked. */
static int plan_signals(posix_spawnattr_t *attributes) {
    sigset_t all;
    sigset_t none;
    sigfillset(&all);
    sigemptyset(&none);
    int error = posix_spawnattr_setsigdefault(attributes, &all);
    if (error == 0) error = posix_spawnattr_setsigmask(attributes, &none);
    if (error == 0)
        error = posix_spawnattr_setflags(attributes,
                                         POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
    return error;
}

/* Starts the child; 0 or an error number. Nothing in here can raise. */
static int start(const struct plan *plan, pid_t *pid) {
    posix_spawn_file_actions_t actions;
    int error = posix_spawn_file_actions_init(&actions);
    if (error != 0) return error;
    posix_spawnattr_t attributes;
    error = posix_spawnattr_init(&attributes);
    if (error == 0) {
        error = plan_streams(&actions, plan);
        if (error == 0) error = plan_signals(&attributes);
        if (error == 0)
            error = posix_spawnp(pid, plan->argv[0], &actions, &attributes, plan->argv, plan->env);
        posix_spawnattr_destroy(&attributes);
    }
    posix_spawn_file_actions_destroy(&actions);
    return error;
}

/* ---- the argument of spawn ------------------------------------------------------------------ */

static void check_spawn_key(lua_State *L) {
    if (lua_type(L, -2) != LUA_TSTRING) return;
    const char *key = lua_tostring(L, -2);
    if (strcmp(key, "stdout") == 0 || strcmp(key, "stderr") == 0 || strcmp(key, "env") == 0) return;
    lmoe_raise(L, "spawn: unknown option: %s\nhint: the options are stdout, stderr, env", key);
}

static void check_spawn_table(lua_State *L) {
    if (!lua_istable(L, 1))
        lmoe_raise(L, "spawn: a table is expected: got %s", luaL_typename(L, 1));
    for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) check_spawn_key(L);
    if (lua_rawlen(L, 1) == 0)
        lmoe_raise(L, "spawn: the program is missing: got an empty list\n"
                   "hint: spawn{\"program\", \"argument\", ...}");
}

/* The C string at the top of the stack; it lives as long as the table that holds it. */
static char *check_word(lua_State *L, const char *what) {
    size_t size;
    if (lua_type(L, -1) != LUA_TSTRING)
        lmoe_raise(L, "spawn: %s must be a string: got %s", what, luaL_typename(L, -1));
    const char *word = lua_tolstring(L, -1, &size);
    if (strlen(word) != size) lmoe_raise(L, "spawn: %s holds a NUL byte: %s", what, word);
    /* posix_spawn's prototype lacks a const that its behaviour has. */
    return (char *)(uintptr_t)word;
}

/* Pushes the block with the argument vector. */
static char **push_arguments(lua_State *L) {
    size_t count = (size_t)lua_rawlen(L, 1);
    char **argv = lua_newuserdatauv(L, (count + 1) * sizeof *argv, 0);
    for (size_t i = 0; i < count; i++) {
        const char *what = lua_pushfstring(L, "argument %I", (LUAI_UACINT)i + 1);
        lua_rawgeti(L, 1, (lua_Integer)i + 1);
        argv[i] = check_word(L, what);
        lua_pop(L, 2);
    }
    argv[count] = NULL;
    return argv;
}

/* Whether the table at `index` has something to say on the variable of an entry "NAME=value". */
static bool is_overridden(lua_State *L, int index, const char *entry) {
    lua_pushlstring(L, entry, strcspn(entry, "="));
    bool overridden = lua_rawget(L, index) != LUA_TNIL;
    lua_pop(L, 1);
    return overridden;
}

static size_t count_variables(lua_State *L, int index) {
    size_t count = 0;
    for (char **entry = environ; entry != NULL && *entry != NULL; entry++) count++;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) count++;
    return count;
}

/* Makes "NAME=value" of the pair on top of the stack and keeps it in the table at `keeper`. */
static char *keep_variable(lua_State *L, int keeper) {
    const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "";
    if (*name == '\0' || strchr(name, '=') != NULL)
        lmoe_raise(L, "spawn: a name in env must be a string without \"=\": got \"%s\"", name);
    const char *what = lua_pushfstring(L, "env.%s", name);
    lua_insert(L, -2);
    const char *value = check_word(L, what);
    const char *entry = lua_pushfstring(L, "%s=%s", name, value);
    lua_rawseti(L, keeper, (lua_Integer)lua_rawlen(L, keeper) + 1);
    lua_remove(L, -2);
    return (char *)(uintptr_t)entry;
}

/* Pushes what the environment block points to: ours, with the changes of the table at `index`. */
static char **push_merged_environment(lua_State *L, int index) {
    size_t room = count_variables(L, index) + 1;
    char **env = lua_newuserdatauv(L, room * sizeof *env, 0);
    lua_newtable(L);
    int keeper = lua_gettop(L);
    size_t count = 0;
    for (char **entry = environ; entry != NULL && *entry != NULL && count + 1 < room; entry++)
        if (!is_overridden(L, index, *entry)) env[count++] = *entry;
    for (lua_pushnil(L); lua_next(L, index) && count + 1 < room; lua_pop(L, 1))
        if (lua_toboolean(L, -1)) env[count++] = keep_variable(L, keeper);
    env[count] = NULL;
    return env;
}

static char **push_environment(lua_State *L) {
    lua_getfield(L, 1, "env");
    if (lua_isnil(L, -1)) return environ;
    if (!lua_istable(L, -1))
        lmoe_raise(L, "spawn: env must be a table: got %s", luaL_typename(L, -1));
    return push_merged_environment(L, lua_gettop(L));
}

/* Opens a file for a stream of the child. It must not sit on 0, 1 or 2 itself, which are free in
 * a host that closed them: the next stream would overwrite it. */
static int open_stream(const char *path, int flags, int *fd) {
    *fd = lmoe_open_file(path, flags);
    if (*fd < 0) return errno;
    if (*fd > STDERR_FILENO) return 0;
    int moved = fcntl(*fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    int error = moved < 0 ? errno : 0;
    lmoe_close_descriptor(fd);
    *fd = moved;
    return error;
}

/* Opens the file that the field names, at its end; *fd stays -1 without one. Returns the number
 * of results pushed for a failure, 0 for none. */
static int open_output(lua_State *L, const char *field, int *fd) {
    int *owner = lmoe_push_descriptor(L);
    *fd = -1;
    if (lua_getfield(L, 1, field) == LUA_TNIL) return 0;
    const char *path = check_word(L, field);
    int error = open_stream(path, O_WRONLY | O_APPEND | O_CREAT, owner);
    *fd = *owner;
    return error != 0 ? lmoe_fail_system(L, "spawn", path, error) : 0;
}

static int open_input(lua_State *L, int *fd) {
    int *owner = lmoe_push_descriptor(L);
    int error = open_stream("/dev/null", O_RDONLY, owner);
    *fd = *owner;
    return error != 0 ? lmoe_fail_system(L, "spawn", "/dev/null", error) : 0;
}

static struct process *push_process(lua_State *L) {
    struct process *p = lua_newuserdatauv(L, sizeof *p, 0);
    *p = (struct process){ 0 };
    luaL_setmetatable(L, PROCESS_TYPE);
    return p;
}

/* system.spawn{program, argument..., stdout = path, stderr = path, env = {NAME = value}}: the
 * running process. A program without a slash is looked up in PATH. Files are appended to; without
 * one the child shares our stream. env adds to our environment, false removes a variable. */
static int system_spawn(lua_State *L) {
    check_spawn_table(L);
    lua_settop(L, 1);
    struct process *p = push_process(L);
    struct plan plan = { .argv = push_arguments(L), .env = push_environment(L) };
    int failed = open_input(L, &plan.input);
    if (failed == 0) failed = open_output(L, "stdout", &plan.output);
    if (failed == 0) failed = open_output(L, "stderr", &plan.errors);
    if (failed != 0) return failed;
    int error = start(&plan, &p->pid);
    if (error != 0) {
        p->pid = 0;
        return lmoe_fail_system(L, "spawn", plan.argv[0], error);
    }
    lua_pushvalue(L, 2);
    return 1;
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* Asks for the child's end; 0 or an error number. */
static int reap(struct process *p, int options) {
    if (p->reaped) return 0;
    pid_t ended;
    do
        ended = waitpid(p->pid, &p->status, options);
    while (ended < 0 && errno == EINTR);
    if (ended < 0) return errno;
    p->reaped = ended == p->pid;
    return 0;
}

/* Polls with growing pauses. A signal ends the wait early, as if the time were over, so that a
 * script may see to it. */
static int reap_within(struct process *p, double seconds) {
    double deadline = lmoe_clock() + seconds;
    double pause = SHORTEST_POLL;
    for (;;) {
        int error = reap(p, WNOHANG);
        double left = deadline - lmoe_clock();
        if (error != 0 || p->reaped || left <= 0) return error;
        if (!lmoe_sleep(fmin(pause, left))) return reap(p, WNOHANG);
        pause = fmin(pause * 2, LONGEST_POLL);
    }
}

static int push_status(lua_State *L, int status) {
    bool signaled = WIFSIGNALED(status);
    lua_createtable(L, 0, 1);
    lua_pushinteger(L, signaled ? WTERMSIG(status) : WEXITSTATUS(status));
    lua_setfield(L, -2, signaled ? "signaled" : "exited");
    return 1;
}

/* process:wait(seconds): {exited = code} or {signaled = number}; nil while it still runs after
 * that time. Without a time it waits for the end. */
static int process_wait(lua_State *L) {
    struct process *p = check_process(L, "wait");
    bool forever = lua_isnoneornil(L, 2);
    double seconds = forever ? 0 : lmoe_check_seconds(L, 2, "wait");
    int error = forever ? reap(p, 0) : reap_within(p, seconds);
    if (error != 0) return lmoe_fail_system(L, "wait", "the process", error);
    if (!p->reaped) {
        lua_pushnil(L);
        return 1;
    }
    return push_status(L, p->status);
}

static int process_pid(lua_State *L) {
    lua_pushinteger(L, check_process(L, "pid")->pid);
    return 1;
}

/* process:kill(number): sends the signal, SIGTERM by default. A child that was waited for is
 * gone; its number may belong to another process by now. */
static int process_kill(lua_State *L) {
    struct process *p = check_process(L, "kill");
    int exact = 1;
    lua_Integer number = lua_isnoneornil(L, 2) ? SIGTERM : lua_tointegerx(L, 2, &exact);
    if (!exact || number < 0 || number >= NSIG)
        return lmoe_raise(L, "kill: no such signal: %s", luaL_tolstring(L, 2, NULL));
    if (p->reaped) return lmoe_fail_system(L, "kill", "the process", ESRCH);
    if (kill(p->pid, (int)number) != 0) return lmoe_fail_system(L, "kill", "the process", errno);
    return lmoe_succeed(L);
}

static int process_tostring(lua_State *L) {
    struct process *p = check_process(L, "tostring");
    lua_pushfstring(L, "process %d (%s)", (int)p->pid, p->reaped ? "ended" : "started");
    return 1;
}

/* A handle that is merely forgotten leaves its child running; it takes leave of one that ended. */
static int process_collect(lua_State *L) {
    struct process *p = luaL_checkudata(L, 1, PROCESS_TYPE);
    if (p->pid > 0) (void)reap(p, WNOHANG);
    return 0;
}

/* local p <close> = spawn{...}: the child does not outlive the block. */
static int process_close(lua_State *L) {
    struct process *p = luaL_checkudata(L, 1, PROCESS_TYPE);
    if (p->pid <= 0 || p->reaped) return 0;
    kill(p->pid, SIGKILL);
    (void)reap(p, 0);
    return 0;
}

void lmoe_add_process(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"wait", process_wait},
        {"pid", process_pid},
        {"kill", process_kill},
        {NULL, NULL},
    };
    lmoe_newtype(L, PROCESS_TYPE, process_collect, methods);
    luaL_getmetatable(L, PROCESS_TYPE);
    lua_pushcfunction(L, process_close);
    lua_setfield(L, -2, "__close");
    lua_pushcfunction(L, process_tostring);
    lua_setfield(L, -2, "__tostring");
    lua_pop(L, 1);
    lua_pushcfunction(L, system_spawn);
    lua_setfield(L, -2, "spawn");
}
