/* options.c -- the command line: everything that lua takes, and a few words more. */
#include "cli.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage_text[] =
    "usage: moelua [options] [script [arguments]]\n";

static const char help_text[] =
    "\n"
    "Runs a Lua 5.4 script with moelua inside. Without a script it reads standard input, or\n"
    "opens an interactive session when that is a terminal.\n"
    "\n"
    "examples:\n"
    "  moelua recipes/btx.lua --preset smoke    a recipe that comes with moelua\n"
    "  moelua recipes/btx.lua --dry-run         its plan: compute, memory, disk and time\n"
    "  moelua recipes/btx.lua --help            its own options\n"
    "  moelua -e \"print(require('moelua').ones(2, 3))\"\n"
    "\n"
    "options:\n"
    "  -e stat        run the string 'stat'\n"
    "  -l mod         require the library 'mod' into the global 'mod'\n"
    "  -l g=mod       require the library 'mod' into the global 'g'\n"
    "  -i             enter interactive mode after running the script\n"
    "  -v             show version information\n"
    "  -E             ignore LUA_* and MOELUA_* environment variables\n"
    "  -W             turn warnings on\n"
    "  --             stop handling options\n"
    "  -              run standard input and stop handling options\n"
    "  --help         show this text and exit\n"
    "  --version      show the version and exit\n"
    "\n"
    "Recipes take --preset, --seed, --out, --fresh, --precision, --save-every, --dry-run, --json,\n"
    "--quiet. The same command again continues a run. Results go to stdout, everything else to\n"
    "stderr.\n"
    "\n"
    "A script is looked for as given, then among those installed with moelua, then in scripts/\n"
    "of its source tree: a recipes/ folder of your own wins.\n"
    "\n"
    "environment:\n"
    "  MOELUA_THREADS   threads to compute with (default: one per processor)\n"
    "  MOELUA_KERNELS   amx, avx512bf16, avx512, avx2, openblas or plain (default: the best that\n"
    "                   runs here)\n"
    "  MOELUA_PATH      folder whose moelua/*.lua replace the built-in modules, for work on them\n"
    "  LUA_INIT, LUA_PATH, LUA_CPATH   as for lua\n"
    "  NO_COLOR, TERM   no colour when the first is set or the second is dumb\n"
    "\n"
    "exit codes:\n"
    "  0 fine   1 failed   2 wrong usage   3 training diverged   65 a file is damaged\n"
    "  66 a file is missing   69 not supported here   74 reading or writing failed, disk full\n"
    "  75 in use by another process   130 stopped by Ctrl-C   143 stopped by SIGTERM\n"
    "  129 stopped because the terminal was closed\n";

void cli_print_help(void) { printf("%s%s", usage_text, help_text); }

void cli_print_version(void) { printf("moelua %s (%s)\n", moelua_version(), LUA_RELEASE); }

void cli_print_usage(const char *problem) {
    fprintf(stderr, "moelua: %s\n%shint: moelua --help lists the options\n", problem, usage_text);
}

/* -e and -l take the rest of the word, or else the next word. Returns the index of the last word
 * that was used, 0 when the value is missing. */
static int option_value(cli_options *o, int i) {
    if (o->argv[i][2] != '\0') return i;
    if (i + 1 < o->argc && o->argv[i + 1][0] != '-') return i + 1;
    snprintf(o->problem, sizeof o->problem, "'%s' needs an argument", o->argv[i]);
    return 0;
}

static int worker_value(cli_options *o, int i) {
    if (i + 1 >= o->argc) {
        snprintf(o->problem, sizeof o->problem, "'--worker' needs a folder");
        return 0;
    }
    o->worker = o->argv[++i];
    if (i + 1 < o->argc) o->parent = o->argv[++i];
    return i;
}

static int unrecognized(cli_options *o, int i) {
    static const char *const words[] = {"--help", "--version"};
    lmoe_guess guess = lmoe_new_guess(o->argv[i], strlen(o->argv[i]));
    for (size_t k = 0; k < sizeof words / sizeof *words; k++)
        lmoe_consider(&guess, words[k], strlen(words[k]));
    snprintf(o->problem, sizeof o->problem, "unrecognized option '%.100s'%s%s%s", o->argv[i],
             guess.name ? ", did you mean '" : "", guess.name ? guess.name : "",
             guess.name ? "'?" : "");
    return 0;
}

static int long_option(cli_options *o, int i) {
    const char *word = o->argv[i];
    if (strcmp(word, "--worker") == 0) return worker_value(o, i);
    if (strcmp(word, "--help") == 0) o->help = true;
    else if (strcmp(word, "--version") == 0) o->long_version = true;
    else return unrecognized(o, i);
    return i;
}

/* Reads the option argv[i]; returns the index of the last word that belongs to it, or 0. */
static int read_option(cli_options *o, int i) {
    const char *word = o->argv[i];
    if (word[1] == '-') return long_option(o, i);
    if (word[1] == 'e') o->execute = true;
    if (word[1] == 'e' || word[1] == 'l') return option_value(o, i);
    if (word[2] != '\0') return unrecognized(o, i);
    switch (word[1]) {
        case 'i': o->interactive = o->version = true; return i;
        case 'v': o->version = true; return i;
        case 'E': o->no_environment = true; return i;
        case 'W': o->warnings = true; return i;
        default: return unrecognized(o, i);
    }
}

cli_options cli_parse(int argc, char **argv) {
    cli_options o = {.argv = argv, .argc = argc, .first = argc, .script = argc};
    for (int i = 1; i < argc; i++) {
        bool dashes = strcmp(argv[i], "--") == 0;
        if (argv[i][0] != '-' || argv[i][1] == '\0' || dashes) {
            o.first = i;
            o.script = dashes ? i + 1 : i;
            break;
        }
        i = read_option(&o, i);
        if (i == 0 || o.worker) break;
    }
    return o;
}

void cli_set_arg(lua_State *L, const cli_options *o) {
    int zero = o->script < o->argc ? o->script : 0;    /* without a script: the program */
    lua_createtable(L, o->argc - zero, zero + 1);
    for (int i = 0; i < o->argc; i++) {
        lua_pushstring(L, o->argv[i]);
        lua_rawseti(L, -2, i - zero);
    }
    lua_setglobal(L, "arg");
}
