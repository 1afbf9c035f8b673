/* line.c -- reads the lines of an interactive session: with editing and history at a terminal,
 * plainly otherwise. */
#include "cli.h"

#include <errno.h>
#include <histedit.h>
#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HISTORY_SIZE = 1000 };

/* There is one terminal, and so there is one of these. */
static struct {
    EditLine *edit;
    History *history;
    const char *prompt;
    char file[PATH_MAX];    /* of the history, "" = none is kept */
} line;

static char *current_prompt(EditLine *edit) {
    (void)edit;
    return (char *)(uintptr_t)line.prompt;
}

/* Makes every folder on the way to the file. */
static void make_folders(char *file) {
    for (char *slash = strchr(file + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(file, 0700);
        *slash = '/';
    }
}

/* ${XDG_STATE_HOME:-~/.local/state}/moelua/history */
static void choose_history_file(void) {
    const char *state = getenv("XDG_STATE_HOME");
    const char *home = getenv("HOME");
    int n = 0;
    if (state && state[0] == '/')
        n = snprintf(line.file, sizeof line.file, "%s/moelua/history", state);
    else if (home && home[0] == '/')
        n = snprintf(line.file, sizeof line.file, "%s/.local/state/moelua/history", home);
    if (n <= 0 || n >= (int)sizeof line.file) line.file[0] = '\0';
    else make_folders(line.file);
}

static bool open_editor(void) {
    HistEvent event;
    setlocale(LC_CTYPE, "");    /* what is typed may be UTF-8 */
    line.edit = el_init("moelua", stdin, stdout, stderr);
    line.history = history_init();
    if (!line.edit || !line.history) return false;
    choose_history_file();
    history(line.history, &event, H_SETSIZE, HISTORY_SIZE);
    history(line.history, &event, H_SETUNIQUE, 1);
    if (line.file[0]) history(line.history, &event, H_LOAD, line.file);
    el_set(line.edit, EL_PROMPT, current_prompt);
    el_set(line.edit, EL_EDITOR, "emacs");
    el_set(line.edit, EL_HIST, history, line.history);
    el_set(line.edit, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_source(line.edit, NULL);
    return true;
}

static void close_editor(void) {
    if (line.history) history_end(line.history);
    if (line.edit) el_end(line.edit);
    line.history = NULL;
    line.edit = NULL;
}

/* Pushes text without its newline. */
static void push_line(lua_State *L, const char *text, size_t size) {
    if (size > 0 && text[size - 1] == '\n') size--;
    lua_pushlstring(L, text, size);
}

static bool read_edited(lua_State *L) {
    int count = 0;
    const char *text = el_gets(line.edit, &count);
    if (!text || count <= 0) return false;
    push_line(L, text, (size_t)count);
    return true;
}

static bool read_plain(lua_State *L, const char *prompt) {
    char *text = NULL;
    size_t size = 0;
    fputs(prompt, stdout);
    fflush(stdout);
    ssize_t n = getline(&text, &size, stdin);
    if (n > 0) push_line(L, text, (size_t)n);
    else clearerr(stdin);
    free(text);
    return n > 0;
}

/* read(prompt). Upvalue 1: the moelua. Signals are watched anew from here on: one that arrives
 * while the prompt is open clears the line, a later one interrupts what the line started. */
static int read_line(lua_State *L) {
    moelua *m = lua_touserdata(L, lua_upvalueindex(1));
    const char *prompt = luaL_checkstring(L, 1);
    line.prompt = prompt;
    cli_watch_signals(m);
    bool read = line.edit ? read_edited(L) : read_plain(L, prompt);
    int number = cli_caught_signal();
    cli_watch_signals(m);
    if (read) return 1;
    lua_pushnil(L);
    if (number == 0) return 1;
    lua_pushliteral(L, "interrupted");
    return 2;
}

/* remember(entry): adds to the history, which is kept at once: a session may end in any way. */
static int remember(lua_State *L) {
    HistEvent event;
    const char *entry = luaL_checkstring(L, 1);
    if (!line.history) return 0;
    history(line.history, &event, H_ENTER, entry);
    if (line.file[0]) history(line.history, &event, H_SAVE, line.file);
    return 0;
}

void cli_push_line_reader(lua_State *L, moelua *m) {
    if (isatty(STDIN_FILENO) && !line.edit) {
        if (open_editor()) atexit(close_editor);
        else close_editor();
    }
    lua_pushlightuserdata(L, m);
    lua_pushcclosure(L, read_line, 1);
    lua_pushcfunction(L, remember);
}
