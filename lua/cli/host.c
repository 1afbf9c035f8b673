/* host.c -- the module moelua.host: what the library may know about the terminal and the program
 * that runs it. It exists only under the executable. */
#include "cli.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { DEFAULT_WIDTH = 80, DEFAULT_HEIGHT = 24 };

static char program[PATH_MAX];

/* The absolute path of the executable, "" when the system does not tell. */
static const char *program_path(void) {
    if (program[0] == '\0') {
        ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
        program[n > 0 ? n : 0] = '\0';
    }
    return program;
}

const char *cli_program_folder(void) {
    static char folder[PATH_MAX];
    const char *slash = strrchr(program_path(), '/');
    if (!slash) return "./";
    memcpy(folder, program, (size_t)(slash - program) + 1);
    return folder;
}

bool cli_live(void) {
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

/* Colour is for people who did not ask to be spared. */
static bool wants_color(void) {
    const char *spared = getenv("NO_COLOR");
    return cli_live() && !(spared && *spared);
}

/* is_tty(fd) */
static int is_tty(lua_State *L) {
    lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
    return 1;
}

/* Columns and rows of the terminal at a descriptor, standard error unless it is given; 0 where
 * that is no terminal. */
static struct winsize terminal(lua_State *L) {
    struct winsize size = {0};
    if (ioctl((int)luaL_optinteger(L, 1, STDERR_FILENO), TIOCGWINSZ, &size) != 0)
        size = (struct winsize){0};
    return size;
}

/* width([fd]): columns of the terminal now, 80 when there is none. */
static int width(lua_State *L) {
    unsigned short columns = terminal(L).ws_col;
    lua_pushinteger(L, columns > 0 ? columns : DEFAULT_WIDTH);
    return 1;
}

/* height([fd]): rows of the terminal now, 24 when there is none. */
static int height(lua_State *L) {
    unsigned short rows = terminal(L).ws_row;
    lua_pushinteger(L, rows > 0 ? rows : DEFAULT_HEIGHT);
    return 1;
}

int cli_open_host(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"is_tty", is_tty}, {"width", width}, {"height", height}, {NULL, NULL}};
    luaL_newlib(L, functions);
    lua_pushstring(L, program_path());
    lua_setfield(L, -2, "program");
    lua_pushboolean(L, wants_color());
    lua_setfield(L, -2, "color");
    lua_pushboolean(L, cli_live());
    lua_setfield(L, -2, "live");
    lua_pushinteger(L, (lua_Integer)getpid());
    lua_setfield(L, -2, "pid");
    return 1;
}
