/* peak.c -- the most f32 arithmetic this machine can do: a loop of fused multiply-adds that never
 * leaves the registers. It shares no code with moelua, so that the benchmarks have a yardstick.
 *
 *     peak THREADS MILLISECONDS        prints "GFLOPS INSTRUCTION_SET"
 *
 * Each thread keeps CHAINS independent accumulators: more than the latency of an FMA times the
 * units there are. Their values are handed to an empty asm statement, which keeps the compiler from
 * deleting or folding the loop.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHAINS 20           /* of 32 registers with AVX-512 */
#define FEW_CHAINS 12       /* of 16 registers with AVX2 and SSE */
#define ROUNDS 20000
#define MAX_THREADS 1024

#define TWELVE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define TWENTY(X) TWELVE(X) X(12) X(13) X(14) X(15) X(16) X(17) X(18) X(19)

typedef float vec16 __attribute__((vector_size(16)));
typedef float vec32 __attribute__((vector_size(32)));
typedef float vec64 __attribute__((vector_size(64)));

/* Named accumulators: an array of them would end up on the stack. Each tends to 0.5 / 0.5. */
#define DECLARE(i) vec a##i = x + (float)i;
#define STEP(i) a##i = a##i * x + y;
#define SINK(i) __asm__ volatile("" : : KIND(a##i));
#define LOOP(name, width, chains)                            \
    static void name(void) {                                 \
        typedef vec##width vec;                              \
        vec x = (vec){0} + 0.5f, y = (vec){0} + 0.5f;        \
        __asm__ volatile("" : "+" KIND(x), "+" KIND(y));     \
        chains(DECLARE)                                      \
        for (int i = 0; i < ROUNDS; i++) { chains(STEP) }    \
        chains(SINK)                                         \
    }

#if defined(__x86_64__)
#define KIND "x"
LOOP(run_plain, 16, TWELVE)
#pragma GCC push_options
#pragma GCC target("avx2,fma")
LOOP(run_avx2, 32, TWELVE)
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,fma")
#undef KIND
#define KIND "v"
LOOP(run_avx512, 64, TWENTY)
#pragma GCC pop_options
#else
#define KIND "w"
LOOP(run_plain, 16, TWENTY)
#endif

typedef struct variant {
    const char *name;
    void (*run)(void);
    double flops;               /* of one call */
} variant;

#define FLOPS(bytes, chains) (2.0 * ROUNDS * (chains) * ((bytes) / sizeof(float)))

static variant best(void) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        return (variant){"avx512", run_avx512, FLOPS(64, CHAINS)};
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return (variant){"avx2", run_avx2, FLOPS(32, FEW_CHAINS)};
    return (variant){"plain", run_plain, FLOPS(16, FEW_CHAINS)};
#else
    return (variant){"plain", run_plain, FLOPS(16, CHAINS)};
#endif
}

typedef struct job {
    variant v;
    double seconds, rate;
    atomic_int *waiting;
} job;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* All threads start together, as a core's clock depends on what the others do. */
static void *work(void *arg) {
    job *j = arg;
    atomic_fetch_sub(j->waiting, 1);
    while (atomic_load(j->waiting) > 0) {}
    double start = now(), spent = 0;
    long calls = 0;
    do {
        j->v.run();
        calls++;
        spent = now() - start;
    } while (spent < j->seconds);
    j->rate = (double)calls * j->v.flops / spent;
    return NULL;
}

int main(int argc, char **argv) {
    static job jobs[MAX_THREADS];
    static pthread_t thread[MAX_THREADS];
    int threads = argc == 3 ? atoi(argv[1]) : 0, milliseconds = argc == 3 ? atoi(argv[2]) : 0;
    if (threads < 1 || threads > MAX_THREADS || milliseconds < 1) {
        fprintf(stderr, "usage: peak THREADS MILLISECONDS\n");
        return 2;
    }
    variant v = best();
    atomic_int waiting = threads;
    double sum = 0;
    for (int i = 0; i < threads; i++) {
        jobs[i] = (job){.v = v, .seconds = milliseconds * 1e-3, .waiting = &waiting};
        if (pthread_create(&thread[i], NULL, work, &jobs[i]) != 0) {
            fprintf(stderr, "peak: cannot start thread %d\n", i + 1);
            return 1;
        }
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        sum += jobs[i].rate;
    }
    printf("%.1f %s\n", sum * 1e-9, v.name);
    return 0;
}
