/* signals.c -- from Ctrl-C to an error in the script, the end of orphaned workers, and signals
 * that would end the process without a word. */
#include "cli.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static moelua *volatile watched;
static volatile sig_atomic_t caught;
static bool serving;            /* a worker with a parent: see cli_serve_parent */
static pthread_t listener;      /* the thread that runs Lua */

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { SIGNALS = sizeof signals / sizeof signals[0] };

/* Blocking calls are meant to return, hence no SA_RESTART. */
static void set_handler(int number, void (*handler)(int)) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = handler;
    sigaction(number, &action, NULL);
}

/* nohup ignores SIGHUP on behalf of its program: keep it so. */
static bool keeps_ignored(int number) {
    struct sigaction before;
    return number == SIGHUP && sigaction(number, NULL, &before) == 0
           && before.sa_handler == SIG_IGN;
}

static void set_handlers(void (*handler)(int)) {
    for (int i = 0; i < SIGNALS; i++)
        if (!keeps_ignored(signals[i])) set_handler(signals[i], handler);
}

/* Only async-signal-safe calls here. The system may choose any thread, and a library that has
 * threads of its own (OpenBLAS) leaves them open to it. Whoever presses Ctrl-C twice wants out at
 * once. */
static void on_signal(int number) {
    if (!pthread_equal(pthread_self(), listener)) {
        pthread_kill(listener, number);
        return;
    }
    if (serving && caught) return;
    caught = number;
    if (!serving) set_handlers(SIG_DFL);
    moelua_interrupt(watched);
}

void cli_watch_signals(moelua *m) {
    listener = pthread_self();
    watched = m;
    caught = 0;
    moe_interrupted(moelua_ctx(m));    /* what was not taken belonged to an earlier run */
    if (serving) set_handler(SIGTERM, on_signal);
    else set_handlers(on_signal);
}

void cli_unwatch_signals(void) {
    if (!serving) set_handlers(SIG_DFL);
    watched = NULL;
}

int cli_caught_signal(void) { return caught; }

/* A terminal sends Ctrl-C to parent and workers alike, `timeout` and service managers do the same
 * with SIGTERM, and then the parent ends its workers itself. */
void cli_serve_parent(void) {
    serving = true;
    set_handler(SIGINT, SIG_IGN);
    set_handler(SIGHUP, SIG_IGN);
}

bool cli_die_with_parent(const char *parent) {
    pid_t expected = parent ? (pid_t)strtol(parent, NULL, 10) : getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* A parent that ended before the request was made sends nothing any more. */
    return getppid() == expected;
}

/* A file is read where it lies; when somebody shortens it meanwhile, or the disk fails, the
 * system has no other way to tell. Nothing can go on from here. */
static void on_bus_error(int number) {
    static const char text[] =
        "moelua: a file that was being read became shorter, or its disk failed\n"
        "hint: what was saved is complete: put the file back and run the same command again\n";
    (void)number;
    ssize_t written = write(STDERR_FILENO, text, sizeof text - 1);
    (void)written;
    _exit(EXIT_OUTPUT);
}

/* Writing beyond the limit on the size of files (ulimit -f) then fails, as on a full disk. Ignoring
 * the signal would do the same, but also in the programs that a script starts. */
static void on_file_size(int number) { (void)number; }

void cli_explain_signals(void) {
    set_handler(SIGBUS, on_bus_error);
    set_handler(SIGXFSZ, on_file_size);
}
