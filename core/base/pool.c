#include "base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "base/ctx.h"

#define MAX_THREADS 256
/* A waiting worker spins for some tens of microseconds. Then it offers its core to others again and
 * again, and goes on when nobody wants it: waking it up would cost the caller as much time as it
 * takes to do a small op. Between two training steps or words, it sleeps. */
#define SPINS 4000
#define AWAKE 1000000           /* nanoseconds */

/* `state` is the whole protocol: the low 16 bits count the workers inside the region, bit 16 says
 * that it is open, the rest is the region's number. A worker enters an open region that it has not
 * been in by adding one; the caller closes the region when the tasks have run out and waits only
 * for those that did enter, so a worker that never got a core costs nothing. */
#define INSIDE 0xffffu
#define OPEN 0x10000u
#define REGION 0xfffe0000u
#define NEXT_REGION 0x20000u

typedef struct moe_pool moe_pool;

typedef struct worker {
    moe_pool *pool;
    int index;
    pthread_t thread;
} worker;

typedef struct buffer {
    char *data;
    size_t bytes;
} buffer;

struct moe_pool {
    moe_ctx *ctx;
    int threads;                    /* including the caller */
    int started;                    /* worker threads that really run */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    atomic_uint state;
    atomic_int sleeping;
    atomic_bool closing;
    moe_task_fn fn;
    void *arg;
    long long tasks;
    _Alignas(64) atomic_llong next;
    buffer scratch, shared;
    worker worker[MAX_THREADS];
};

static inline void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

static int affinity(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    int n = CPU_COUNT(&set);
    return n < 1 ? 1 : n;
}

moe_pool *moe__pool_open(moe_ctx *ctx, int threads) {
    moe_pool *p = moe__alloc(ctx, sizeof *p);
    if (!p) return NULL;
    memset(p, 0, sizeof *p);
    p->ctx = ctx;
    p->threads = threads > 0 ? threads : affinity();
    if (p->threads > MAX_THREADS) p->threads = MAX_THREADS;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    return p;
}

int moe__workers(const moe_ctx *ctx) { return ctx->pool->threads; }

static void run_tasks(moe_pool *p, int index) {
    for (;;) {
        long long task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (task >= p->tasks) return;
        if (moe__stopping(p->ctx)) continue;
        p->fn(p->arg, task, index);
    }
}

static bool enterable(unsigned state, unsigned seen) {
    return (state & OPEN) && (state & REGION) != seen;
}

static void sleep_until_work(moe_pool *p, unsigned seen) {
    pthread_mutex_lock(&p->lock);
    atomic_fetch_add(&p->sleeping, 1);
    while (!enterable(atomic_load(&p->state), seen) && !atomic_load(&p->closing))
        pthread_cond_wait(&p->wake, &p->lock);
    atomic_fetch_sub(&p->sleeping, 1);
    pthread_mutex_unlock(&p->lock);
}

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Enters the next region; returns its number, or `seen` when the pool closes. */
static unsigned enter_region(moe_pool *p, unsigned seen) {
    int64_t tired = 0;                  /* when it will have waited long enough; 0 = not long yet */
    for (int spins = 0; !atomic_load_explicit(&p->closing, memory_order_relaxed); spins++) {
        unsigned state = atomic_load_explicit(&p->state, memory_order_relaxed);
        if (enterable(state, seen)) {
            if (atomic_compare_exchange_weak_explicit(&p->state, &state, state + 1,
                                                      memory_order_acquire, memory_order_relaxed))
                return state & REGION;
        } else if (spins < SPINS) {
            relax();
        } else if (!tired) {
            tired = now() + AWAKE;
        } else if (now() < tired) {
            sched_yield();
        } else {
            sleep_until_work(p, seen);
            spins = 0;
            tired = 0;
        }
    }
    return seen;
}

static void *worker_main(void *arg) {
    worker *w = arg;
    moe_pool *p = w->pool;
    unsigned seen = 1;                  /* no region has this number: they are multiples of 2^17 */
    for (;;) {
        unsigned region = enter_region(p, seen);
        if (region == seen) return NULL;
        seen = region;
        run_tasks(p, w->index);
        atomic_fetch_sub_explicit(&p->state, 1, memory_order_release);
    }
}

/* Threads that cannot be started are done without: the caller does their share. */
static void start_each(moe_pool *p) {
    for (int i = 1; i < p->threads; i++) {
        p->worker[i] = (worker){.pool = p, .index = i};
        if (pthread_create(&p->worker[i].thread, NULL, worker_main, &p->worker[i]) != 0) {
            p->threads = i;
            return;
        }
        p->started = i;
    }
}

/* Signals are for the threads of the program, which never asked for ours; only what a worker's own
 * instruction raises stays with it. A thread inherits the mask of the one that starts it. */
static void start_workers(moe_pool *p) {
    const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) sigdelset(&blocked, own[i]);
    pthread_sigmask(SIG_BLOCK, &blocked, &before);
    start_each(p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void open_region(moe_pool *p) {
    unsigned state = atomic_load_explicit(&p->state, memory_order_relaxed);
    atomic_store(&p->state, ((state & REGION) + NEXT_REGION) | OPEN);
    if (atomic_load(&p->sleeping) == 0) return;
    pthread_mutex_lock(&p->lock);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void close_region(moe_pool *p) {
    atomic_fetch_and(&p->state, ~OPEN);
    for (int spins = 0; atomic_load_explicit(&p->state, memory_order_acquire) & INSIDE; spins++)
        if (spins < SPINS) relax();
        else sched_yield();
}

void moe__parallel(moe_ctx *ctx, int64_t tasks, moe_task_fn fn, void *arg) {
    moe_pool *p = ctx->pool;
    if (tasks <= 0) return;
    p->fn = fn;
    p->arg = arg;
    p->tasks = tasks;
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    if (tasks == 1 || p->threads == 1) {
        run_tasks(p, 0);
        return;
    }
    if (!p->started) start_workers(p);
    open_region(p);
    run_tasks(p, 0);
    close_region(p);
}

typedef struct range {
    moe_range_fn fn;
    void *arg;
    int64_t n, grain;
} range;

static void range_task(void *arg, int64_t task, int index) {
    const range *r = arg;
    (void)index;
    int64_t begin = task * r->grain, end = begin + r->grain;
    r->fn(r->arg, begin, end < r->n ? end : r->n);
}

void moe__parallel_range(moe_ctx *ctx, int64_t n, int64_t grain, moe_range_fn fn, void *arg) {
    range r = {.fn = fn, .arg = arg, .n = n, .grain = grain < 1 ? 1 : grain};
    moe__parallel(ctx, (n + r.grain - 1) / r.grain, range_task, &r);
}

/* Makes the buffer at least that large; it grows alone. */
static moe_status grow(moe_ctx *ctx, buffer *b, size_t bytes) {
    if (bytes <= b->bytes) return MOE_OK;
    moe__free(ctx, b->data, b->bytes);
    b->bytes = 0;
    b->data = moe__alloc(ctx, bytes);
    if (!b->data) return moe__no_memory(ctx, bytes, "scratch");
    b->bytes = bytes;
    return MOE_OK;
}

moe_status moe__scratch(moe_ctx *ctx, size_t bytes, moe_scratch *out) {
    moe_pool *p = ctx->pool;
    size_t stride = (bytes + 63) & ~(size_t)63;
    moe_status s = grow(ctx, &p->scratch, stride * (size_t)p->threads);
    *out = (moe_scratch){.base = p->scratch.data, .stride = stride};
    return s;
}

moe_status moe__shared(moe_ctx *ctx, size_t bytes, char **out) {
    moe_status s = grow(ctx, &ctx->pool->shared, bytes);
    *out = ctx->pool->shared.data;
    return s;
}

void moe__pool_close(moe_ctx *ctx, moe_pool *p) {
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->closing, true);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (int i = 1; i <= p->started; i++) pthread_join(p->worker[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    moe__free(ctx, p->scratch.data, p->scratch.bytes);
    moe__free(ctx, p->shared.data, p->shared.bytes);
    moe__free(ctx, p, sizeof *p);
}
