/* signals.c -- from Ctrl-C to an error in the script, and the end of orphaned workers. */
#include "cli.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static moelua *volatile watched;
static volatile sig_atomic_t caught;

static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
enum { SIGNALS = sizeof signals / sizeof signals[0] };

/* Sets what each signal does. Blocking reads are meant to return, hence no SA_RESTART. */
static void set_handlers(void (*handler)(int)) {
    struct sigaction action, before;
    memset(&action, 0, sizeof action);
    sigemptyset(&action.sa_mask);
    action.sa_handler = handler;
    for (int i = 0; i < SIGNALS; i++) {
        /* nohup ignores SIGHUP on behalf of its program: keep it so. */
        if (signals[i] == SIGHUP && sigaction(SIGHUP, NULL, &before) == 0
            && before.sa_handler == SIG_IGN)
            continue;
        sigaction(signals[i], &action, NULL);
    }
}

/* Only async-signal-safe calls here. Whoever presses Ctrl-C twice wants out at once. */
static void on_signal(int number) {
    caught = number;
    set_handlers(SIG_DFL);
    moelua_interrupt(watched);
}

void cli_watch_signals(moelua *m) {
    watched = m;
    caught = 0;
    moe_interrupted(moelua_ctx(m));    /* what was not taken belonged to an earlier run */
    set_handlers(on_signal);
}

void cli_unwatch_signals(void) {
    set_handlers(SIG_DFL);
    watched = NULL;
}

int cli_caught_signal(void) { return caught; }

bool cli_die_with_parent(const char *parent) {
    pid_t expected = parent ? (pid_t)strtol(parent, NULL, 10) : getppid();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    /* A parent that ended before the request was made sends nothing any more. */
    return getppid() == expected;
}
