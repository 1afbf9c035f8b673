/* cli.h -- what the files of the command line share.
 *
 * Only this folder may read argv and the environment, print, end the process, and touch signals
 * or the terminal.
 */
#ifndef MOELUA_CLI_H
#define MOELUA_CLI_H

#include <stdbool.h>

#include "bind.h"
#include "moelua.h"

/* Exit codes. The rest follow from the `code` of an error, see exit_code in main.c. */
enum { EXIT_FINE = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_OUTPUT = 74 };

/* options.c: what the command line asks for. */
typedef struct cli_options {
    char **argv;
    int argc;
    int first;              /* argv[1 .. first-1] are options: -e and -l are read from there      */
    int script;             /* index of the script in argv, argc when there is none               */
    bool interactive;       /* -i                                                                 */
    bool version;           /* -v or -i                                                           */
    bool execute;           /* -e                                                                 */
    bool no_environment;    /* -E                                                                 */
    bool warnings;          /* -W                                                                 */
    bool help, long_version;
    const char *worker;     /* the folder of --worker                                             */
    const char *parent;     /* process id that a worker expects as its parent, or NULL            */
    char problem[256];      /* says what is wrong with the command line, "" = nothing             */
} cli_options;

cli_options cli_parse(int argc, char **argv);
void cli_print_help(void);
void cli_print_version(void);
void cli_print_usage(const char *problem);
/* Sets the global `arg`: the script at 0, its arguments after it, what came before at negatives. */
void cli_set_arg(lua_State *L, const cli_options *o);

/* script.c: loads the script that was named, leaving a function on the stack; raises a message
 * that lists where it looked. NULL means standard input. */
void cli_load_script(lua_State *L, const char *name);

/* signals.c: Ctrl-C and friends become moelua_interrupt(); a second one ends the process. */
void cli_watch_signals(moelua *m);
/* Before the moelua is closed: from here on a signal ends the process. */
void cli_unwatch_signals(void);
/* The signal that arrived since then, 0 for none. */
int cli_caught_signal(void);
/* For a worker with a parent: only the parent's SIGTERM counts, and it counts once. */
void cli_serve_parent(void);
/* Failures of a file that the system reports by signals become a message, or an error code. */
void cli_explain_signals(void);
/* Ends this process together with its parent. False when the parent, whose id may be given as
 * text, is gone already. */
bool cli_die_with_parent(const char *parent);

/* line.c: leaves the functions read(prompt) and remember(entry) on the stack. read returns a line,
 * nothing at the end of input, and nil, "interrupted" after Ctrl-C. */
void cli_push_line_reader(lua_State *L, moelua *m);

/* host.c: opens the module moelua.host. */
int cli_open_host(lua_State *L);
/* Whether a line on stderr can be drawn over: a terminal that is not dumb. */
bool cli_live(void);
/* The folder of the executable, with a slash at its end. */
const char *cli_program_folder(void);

#endif
