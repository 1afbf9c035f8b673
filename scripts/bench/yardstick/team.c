/* team.c -- threads that start together: a core's clock and its share of the memory depend on what
 * the others do. */
#define _GNU_SOURCE
#include "team.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

typedef struct member {
    int number, threads;
    double seconds, rate;
    team_work work;
    atomic_int *waiting;
} member;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The n-th of the processors that this process may use, counted round and round. */
static void pin(int n) {
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) == 0) return;
    n %= CPU_COUNT(&allowed);
    size_t cpu = 0;
    while (!CPU_ISSET(cpu, &allowed) || n-- > 0) cpu++;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    (void)pthread_setaffinity_np(pthread_self(), sizeof one, &one);
}

static void *take_part(void *arg) {
    member *m = arg;
    pin(m->number);
    atomic_fetch_sub(m->waiting, 1);
    while (atomic_load(m->waiting) > 0) {}
    double start = now(), spent, done = 0;
    do {
        done += m->work(m->number, m->threads);
        spent = now() - start;
    } while (spent < m->seconds);
    m->rate = done / spent;
    return NULL;
}

double team_rate(int threads, double seconds, team_work work) {
    static member members[MOST_THREADS];
    static pthread_t thread[MOST_THREADS];
    atomic_int waiting = threads;
    int started = 0;
    for (; started < threads; started++) {
        members[started] = (member){ .number = started, .threads = threads, .seconds = seconds,
                                     .work = work, .waiting = &waiting };
        if (pthread_create(&thread[started], NULL, take_part, &members[started]) != 0) break;
    }
    atomic_fetch_sub(&waiting, threads - started);
    double sum = 0;
    for (int i = 0; i < started; i++) {
        pthread_join(thread[i], NULL);
        sum += members[i].rate;
    }
    return started == threads ? sum : -1;
}
