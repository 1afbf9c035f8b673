/* core.system: what scripts need from the machine. This half holds what the others share (checked
 * arguments, failures, the owner of a descriptor), the clocks, and the opener; files are in
 * files.c and processes in process.c.
 *
 * Expected failures return nil, message, code; misuse raises.
 */
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define DESCRIPTOR_TYPE "moelua.descriptor"
#define LONGEST_WAIT 1e9

/* ---- arguments and failures ----------------------------------------------------------------- */

const char *lmoe_check_text(lua_State *L, int arg, const char *function, const char *name,
                            size_t *size) {
    if (lua_type(L, arg) != LUA_TSTRING)
        lmoe_raise(L, "%s: %s must be a string: got %s", function, name, luaL_typename(L, arg));
    return lua_tolstring(L, arg, size);
}

lua_Integer lmoe_part_end(lua_State *L, int arg, const char *name, lua_Integer otherwise) {
    int whole = 1;
    if (lua_isnoneornil(L, arg)) return otherwise;
    lua_Integer value = lua_tointegerx(L, arg, &whole);
    if (!whole) lmoe_raise(L, "pack: %s must be an integer, not %s", name, lmoe_describe(L, arg));
    return value;
}

const char *lmoe_check_path(lua_State *L, int arg, const char *function) {
    size_t size;
    const char *path = lmoe_check_text(L, arg, function, "path", &size);
    if (strlen(path) != size) lmoe_raise(L, "%s: path holds a NUL byte: %s", function, path);
    return path;
}

double lmoe_check_seconds(lua_State *L, int arg, const char *function) {
    bool number = lua_type(L, arg) == LUA_TNUMBER;
    double seconds = lua_tonumber(L, arg);
    if (!number || !(seconds >= 0)) {
        const char *got = number ? luaL_tolstring(L, arg, NULL) : luaL_typename(L, arg);
        lmoe_raise(L, "%s: seconds must be a number from 0 on: got %s", function, got);
    }
    return fmin(seconds, LONGEST_WAIT);
}

static const char *code_of(int error) {
    switch (error) {
        case ENOENT:
        case ENOTDIR:
        case ESRCH:
        case ECHILD: return "missing";
        case ENOSPC:
        case EDQUOT:
        case EFBIG: return "full";
        case EWOULDBLOCK:
        case EBUSY:
        case ETXTBSY: return "busy";
        case ENOMEM: return "memory";
        default: return "io";
    }
}

int lmoe_fail(lua_State *L, const char *code) {
    lua_pushnil(L);
    lua_insert(L, -2);
    lua_pushstring(L, code);
    return 3;
}

int lmoe_fail_system(lua_State *L, const char *function, const char *subject, int error) {
    lua_pushfstring(L, "%s: %s: %s", function, subject, strerror(error));
    return lmoe_fail(L, code_of(error));
}

int lmoe_succeed(lua_State *L) {
    lua_pushboolean(L, 1);
    return 1;
}

/* ---- owners --------------------------------------------------------------------------------- */

void lmoe_close_descriptor(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static int descriptor_release(lua_State *L) {
    lmoe_close_descriptor(luaL_checkudata(L, 1, DESCRIPTOR_TYPE));
    return 0;
}

int *lmoe_push_descriptor(lua_State *L) {
    int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
    *fd = -1;
    luaL_setmetatable(L, DESCRIPTOR_TYPE);
    lua_toclose(L, -1);
    return fd;
}

int lmoe_open_file(const char *path, int flags) {
    int fd;
    do
        fd = open(path, flags | O_CLOEXEC | O_NOCTTY, 0666);
    while (fd < 0 && errno == EINTR);
    return fd;
}

/* ---- clocks and the machine ----------------------------------------------------------------- */

static double seconds_of(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double lmoe_clock(void) { return seconds_of(CLOCK_MONOTONIC); }

int lmoe_sleep(double seconds) {
    double whole = floor(seconds);
    struct timespec span = { (time_t)whole, (long)((seconds - whole) * 1e9) };
    return nanosleep(&span, NULL) == 0;
}

/* system.clock(): seconds from some fixed moment, for durations. */
static int system_clock(lua_State *L) {
    lua_pushnumber(L, lmoe_clock());
    return 1;
}

/* system.time(): seconds since 1970, with their fraction. */
static int system_time(lua_State *L) {
    lua_pushnumber(L, seconds_of(CLOCK_REALTIME));
    return 1;
}

/* system.sleep(seconds): true, or false when a signal ended the sleep early. */
static int system_sleep(lua_State *L) {
    lua_pushboolean(L, lmoe_sleep(lmoe_check_seconds(L, 1, "sleep")));
    return 1;
}

int lmoe_pushhash(lua_State *L, const void *data, size_t size) {
    char digits[17];
    snprintf(digits, sizeof digits, "%016llx", (unsigned long long)XXH3_64bits(data, size));
    lua_pushlstring(L, digits, 16);
    return 1;
}

/* system.hash(data): XXH3-64 as 16 hexadecimal digits. */
static int system_hash(lua_State *L) {
    size_t size;
    const char *data = lmoe_check_text(L, 1, "hash", "data", &size);
    return lmoe_pushhash(L, data, size);
}

/* system.cpus(): how many processors this process may run on. */
static int system_cpus(lua_State *L) {
    cpu_set_t allowed;
    long count = sched_getaffinity(0, sizeof allowed, &allowed) == 0
        ? CPU_COUNT(&allowed)
        : sysconf(_SC_NPROCESSORS_ONLN);
    lua_pushinteger(L, count > 0 ? count : 1);
    return 1;
}

/* system.pid(): the number of this process. */
static int system_pid(lua_State *L) {
    lua_pushinteger(L, (lua_Integer)getpid());
    return 1;
}

/* ---- opening -------------------------------------------------------------------------------- */

void lmoe_open_system(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"clock", system_clock},
        {"time", system_time},
        {"sleep", system_sleep},
        {"hash", system_hash},
        {"cpus", system_cpus},
        {"pid", system_pid},
        {NULL, NULL},
    };
    lmoe_newtype(L, DESCRIPTOR_TYPE, descriptor_release, NULL);
    luaL_newlib(L, functions);
    lmoe_add_files(L);
    lmoe_add_process(L);
}
