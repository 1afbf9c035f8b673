/* copy.c -- how fast a machine copies a file: from a mapping of it into a fresh file, by threads that
 * take turns. Nothing here is shared with moelua.
 *
 *     copy FROM TO THREADS       prints the seconds, and those of the processors
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PIECE ((off_t)128 << 10)        /* fits the caches, so that it is read once */
#define MOST_THREADS 64

static const char *from;
static off_t size;
static int to;
static atomic_llong next;

static void *work(void *failed) {
    for (;;) {
        off_t at = (off_t)atomic_fetch_add(&next, 1) * PIECE;
        if (at >= size) return NULL;
        size_t some = (size_t)(size - at < PIECE ? size - at : PIECE);
        if (pwrite(to, from + at, some, at) != (ssize_t)some) *(int *)failed = 1;
    }
}

static double now(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    pthread_t threads[MOST_THREADS];
    struct stat info;
    int failed = 0, n = argc == 4 ? atoi(argv[3]) : 0;
    int in = argc == 4 ? open(argv[1], O_RDONLY) : -1;
    if (in < 0 || n < 1 || n > MOST_THREADS || fstat(in, &info) != 0) return 2;
    size = info.st_size;
    from = mmap(NULL, (size_t)size, PROT_READ, MAP_SHARED, in, 0);
    to = open(argv[2], O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (from == MAP_FAILED || to < 0) return 1;
    double began = now(CLOCK_MONOTONIC), worked = now(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 1; i < n; i++)
        if (pthread_create(&threads[i], NULL, work, &failed) != 0) return 1;
    work(&failed);
    for (int i = 1; i < n; i++) pthread_join(threads[i], NULL);
    printf("%.6f %.6f\n", now(CLOCK_MONOTONIC) - began, now(CLOCK_PROCESS_CPUTIME_ID) - worked);
    return failed;
}
