/* host.c -- an application with moelua inside.
 *
 *     cc host.c $(pkg-config --cflags --libs --static moelua) -o host && ./host
 *
 * It runs code, calls a Lua function, reads a tensor that a script made, lends one to a script,
 * stops a script that would never end, and closes.
 */
#include <lauxlib.h>
#include <lua.h>
#include <moelua.h>
#include <stdio.h>
#include <stdlib.h>
#include <threads.h>

static moelua *m;

static void must(moelua_status status) {
    if (status == MOELUA_OK) return;
    fprintf(stderr, "%s\n", moelua_errmsg(m));
    exit(1);
}

/* Any thread may interrupt at any time. */
static int impatient(void *unused) {
    (void)unused;
    thrd_sleep(&(struct timespec){.tv_nsec = 100 * 1000 * 1000}, NULL);
    moelua_interrupt(m);
    return 0;
}

int main(void) {
    /* MOELUA_WATCH: our interrupt comes from another thread and is to stop plain Lua loops too. */
    moelua_config cfg = {.size = sizeof cfg, .memory_limit = 64 << 20, .flags = MOELUA_WATCH};
    must(moelua_open(&m, &cfg));

    must(moelua_run_string(m, "moe = require('moelua')\n"
                              "x = moe.tensor {{1, 2, 3}, {4, 5, 6}}\n"
                              "function scale(a) return x:sum():item() * a end", "setup"));

    lua_State *L = moelua_state(m);                       /* call a function */
    lua_getglobal(L, "scale");
    lua_pushnumber(L, 2);
    if (lua_pcall(L, 1, 1, 0) != LUA_OK) return 1;
    printf("scale(2) = %g\n", lua_tonumber(L, -1));       /* 42 */
    lua_pop(L, 1);

    moe_tensor *x;                                        /* read a tensor */
    must(moelua_get_tensor(m, "x", &x));
    const moe_real *data = moe_tensor_data(x);
    printf("x has %d elements, the last is %g\n", (int)moe_tensor_count(x), (double)data[5]);

    must(moelua_set_tensor(m, "y", x));                   /* lend one */
    must(moelua_run_string(m, "assert(y:size(2) == 3)", "lent"));

    thrd_t thread;                                        /* stop a script */
    thrd_create(&thread, impatient, NULL);
    moelua_status status = moelua_run_string(m, "while true do end", "endless");
    thrd_join(thread, NULL);
    printf("%s: %s\n", status == MOELUA_INTERRUPTED ? "stopped" : "odd", moelua_errmsg(m));

    moelua_close(m);                                      /* x stays valid ... */
    printf("x[0] is still %g\n", (double)data[0]);
    moe_tensor_release(x);                                /* ... until here */
    return 0;
}
