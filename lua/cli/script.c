/* script.c -- finding and loading the script that the command line names. */
#include "cli.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

typedef struct source {
    FILE *file;
    bool newline;       /* a skipped first line leaves its newline, so that line numbers hold */
    char block[BUFSIZ];
} source;

static const char *next_block(lua_State *L, void *ud, size_t *size) {
    source *s = ud;
    (void)L;
    if (s->newline) {
        s->newline = false;
        *size = 1;
        return "\n";
    }
    *size = fread(s->block, 1, sizeof s->block, s->file);
    return *size > 0 ? s->block : NULL;
}

/* Skips a byte order mark and a first line that starts with '#', as lua does. */
static void skip_first_line(source *s) {
    int c = getc(s->file);
    if (c == 0xEF && getc(s->file) == 0xBB && getc(s->file) == 0xBF) c = getc(s->file);
    if (c == '#') {
        while (c != EOF && c != '\n') c = getc(s->file);
        s->newline = true;
    } else if (c != EOF) {
        ungetc(c, s->file);
    }
}

/* Loads source text only: a precompiled chunk can crash the virtual machine. */
static int load(lua_State *L, FILE *file, const char *chunkname) {
    source s = {.file = file};
    skip_first_line(&s);
    int status = lua_load(L, next_block, &s, chunkname, "t");
    if (!ferror(file)) return status;
    lua_pop(L, 1);
    lua_pushfstring(L, "cannot read %s", chunkname + 1);
    return LUA_ERRFILE;
}

/* Opens the file of the path on top of the stack, unless it is a folder. */
static FILE *open_path(lua_State *L) {
    const char *path = lua_tostring(L, -1);
    struct stat info;
    if (stat(path, &info) == 0 && S_ISDIR(info.st_mode)) {
        errno = EISDIR;
        return NULL;
    }
    return fopen(path, "r");
}

/* Pushes the path of the script in the n-th place that is looked at; false after the last one. */
static bool push_place(lua_State *L, const char *name, int n) {
    bool fixed = name[0] == '/' || strncmp(name, "./", 2) == 0 || strncmp(name, "../", 3) == 0;
    bool absolute = MOELUA_SHARE_DIR[0] == '/';
    if (n > 2 || (fixed && n > 0)) return false;
    if (n == 0)
        lua_pushstring(L, name);
    else if (n == 1)    /* an installed tree may be moved as a whole */
        lua_pushfstring(L, "%s%s/%s", absolute ? "" : cli_program_folder(), MOELUA_SHARE_DIR, name);
    else
        lua_pushfstring(L, "%s/scripts/%s", MOELUA_SOURCE_DIR, name);
    return true;
}

/* Raises { message, code } that lists the places. */
static int not_found(lua_State *L, const char *name, int error) {
    luaL_Buffer b;
    lua_createtable(L, 0, 2);
    luaL_buffinit(L, &b);
    lua_pushfstring(L, "cannot open %s: %s", name, strerror(error));
    luaL_addvalue(&b);
    for (int n = 1; push_place(L, name, n); n++) {
        lua_pushliteral(L, "\n  also looked at ");
        lua_insert(L, -2);
        lua_concat(L, 2);
        luaL_addvalue(&b);
    }
    luaL_pushresult(&b);
    lua_setfield(L, -2, "message");
    lua_pushstring(L, error == ENOENT ? "missing" : "io");
    lua_setfield(L, -2, "code");
    return lua_error(L);
}

void cli_load_script(lua_State *L, const char *name) {
    int why = ENOENT;
    if (!name) {
        if (load(L, stdin, "=stdin") != LUA_OK) lua_error(L);
        return;
    }
    /* The name that was typed, not the place where it was found, stands in messages. */
    const char *chunkname = lua_pushfstring(L, "@%s", name);
    for (int n = 0; push_place(L, name, n); n++) {
        FILE *file = open_path(L);
        if (!file && errno != ENOENT && why == ENOENT) why = errno;
        lua_pop(L, 1);
        if (!file) continue;
        int status = load(L, file, chunkname);
        fclose(file);
        lua_remove(L, -2);
        if (status != LUA_OK) lua_error(L);
        return;
    }
    not_found(L, name, why);
}
