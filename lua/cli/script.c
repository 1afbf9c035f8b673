/* script.c -- finding and loading the script that the command line names. */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
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

/* Looks through the folder of `path` for a name near to its last part, which goes to `best`. */
static void look_for(lmoe_guess *guess, const char *path, char best[NAME_MAX + 1]) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (strlen(path) >= sizeof folder) return;
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    DIR *dir = opendir(folder);
    for (const struct dirent *entry; dir && (entry = readdir(dir)) != NULL;)
        if (lmoe_consider(guess, entry->d_name, strlen(entry->d_name)))
            snprintf(best, NAME_MAX + 1, "%s", entry->d_name);
    if (dir) closedir(dir);
}

/* Pushes "\nhint: ..." about a script in one of the places that was probably meant, or "". */
static void push_hint(lua_State *L, const char *name) {
    char best[NAME_MAX + 1] = "";
    const char *slash = strrchr(name, '/'), *last = slash ? slash + 1 : name;
    lmoe_guess guess = lmoe_new_guess(last, strlen(last));
    for (int n = 0; push_place(L, name, n); n++) {
        look_for(&guess, lua_tostring(L, -1), best);
        lua_pop(L, 1);
    }
    lua_pushlstring(L, name, (size_t)(last - name));
    if (best[0]) lua_pushfstring(L, "\nhint: did you mean '%s%s'?", lua_tostring(L, -1), best);
    else lua_pushliteral(L, "");
    lua_remove(L, -2);
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
    if (error == ENOENT) {
        push_hint(L, name);
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
