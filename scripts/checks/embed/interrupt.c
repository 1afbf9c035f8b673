/* interrupt.c -- a host that interrupts its scripts all the time.
 *
 * First by signals, whose handler runs in the thread of the script, then from another thread
 * (MOELUA_WATCH). A run may end well or be interrupted, nothing else; what must come whole has come
 * whole; and afterwards the interpreter works as before. The last line is `N passed, N failed`.
 */
#include <moelua.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { INTERRUPTS = 1000 };

static const char setup[] =
    "moe, core = require('moelua'), require('moelua.core')\n"
    "model = moe.model.new { dim = 8, layers = 1, heads = 2, hidden = 12, vocab = 9,\n"
    "  context = 4 }\n"
    "x = moe.tensor({ { 1, 2, 3 } }, 'i32')\n"
    "begun, ended = 0, 0\n";

/* Operations, a coroutine, plain Lua, and what must not be cut in two. */
static const char script[] =
    "local _ <close> = moe.scope()\n"
    "local step = coroutine.wrap(function()\n"
    "  for i = 1, 50 do local _ = i * i end\n"
    "  model:loss(x, x):backward()\n"
    "  coroutine.yield()\n"
    "end)\n"
    "step()\n"
    "core.uninterrupted(function()\n"
    "  begun = begun + 1\n"
    "  for _ = 1, 20 do local _ = moe.ones(3) + 1 end\n"
    "  ended = ended + 1\n"
    "end)\n";

static moelua *m;
static pthread_t runner;
static atomic_bool over;

static void on_signal(int number) {
    (void)number;
    moelua_interrupt(m);
}

/* At moments that differ from run to run, as those of a user do. */
static void *interrupt_often(void *by_signal) {
    for (unsigned random = 1; !atomic_load(&over);) {
        random = random * 1103515245u + 12345u;
        usleep(100 + (random >> 16) % 700);
        if (by_signal) pthread_kill(runner, SIGUSR1);
        else moelua_interrupt(m);
    }
    return NULL;
}

static bool run(const char *code) {
    if (moelua_run_string(m, code, "host") == MOELUA_OK) return true;
    printf("    %s\n", moelua_errmsg(m));
    return false;
}

static bool run_interrupted(void) {
    for (int interrupted = 0; interrupted < INTERRUPTS;) {
        moelua_status status = moelua_run_string(m, script, "host");
        interrupted += status == MOELUA_INTERRUPTED;
        if (status == MOELUA_OK || status == MOELUA_INTERRUPTED) continue;
        printf("    status %d: %s\n", status, moelua_errmsg(m));
        return false;
    }
    return true;
}

static bool try(unsigned flags) {
    pthread_t other;
    moelua_config cfg = {.size = sizeof cfg, .threads = 2, .flags = flags};
    bool by_signal = !(flags & MOELUA_WATCH);
    if (moelua_open(&m, &cfg) != MOELUA_OK || !run(setup)) return false;
    atomic_store(&over, false);
    if (pthread_create(&other, NULL, interrupt_often, by_signal ? m : NULL) != 0) return false;
    bool ok = run_interrupted();
    atomic_store(&over, true);
    pthread_join(other, NULL);
    (void)moe_interrupted(moelua_ctx(m));       /* the last one may have come too late for a run */
    ok = run("assert(begun == ended, begun .. ' begun, ' .. ended .. ' ended')") && ok;
    moelua_interrupt(m);                        /* and one that nobody will take */
    moelua_close(m);
    return ok;
}

int main(void) {
    runner = pthread_self();
    signal(SIGUSR1, on_signal);
    int passed = try(0);
    passed += try(MOELUA_WATCH);
    printf("%d passed, %d failed\n", passed, 2 - passed);
    return passed != 2;
}
