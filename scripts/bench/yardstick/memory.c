/* memory.c -- the most memory traffic a machine can do: one block of a gigabyte in huge pages, of
 * which each thread has its own part, read as several streams at once.
 */
#define _GNU_SOURCE
#include "yardstick.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#define BLOCK ((size_t)1 << 30)
#define STREAMS 4
#define AHEAD 512                       /* bytes that are asked for before their turn */
#define PIECE ((size_t)1 << 18)         /* bytes of a stream that one call goes through */
#define ARRAYS 4                        /* weights, gradients and two moments */

#if defined(__x86_64__) && defined(__GNUC__)
#define EVERY_WIDTH __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define EVERY_WIDTH
#endif

typedef uint64_t bits __attribute__((vector_size(64)));
typedef float floats __attribute__((vector_size(64)));

static char *block;

/* The block, each of its pages touched; NULL without the memory for it. */
static char *get_block(void) {
    if (block) return block;
    char *p = mmap(NULL, BLOCK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    (void)madvise(p, BLOCK, MADV_HUGEPAGE);
    for (size_t i = 0; i < BLOCK; i += 4096) p[i] = 0;
    return block = p;
}

/* Where a thread goes on: each call takes the next piece of its part, round and round. */
static size_t at[MOST_THREADS];

static size_t next_piece(int thread, size_t part) {
    size_t pieces = part / PIECE;
    return at[thread]++ % pieces * PIECE;
}

/* ---- reading -------------------------------------------------------------------------------- */

EVERY_WIDTH
static double read_streams(int thread, int threads) {
    size_t part = BLOCK / (size_t)threads / STREAMS / PIECE * PIECE;
    const char *p = block + (size_t)thread * STREAMS * part + next_piece(thread, part);
    bits sum[STREAMS] = {{0}};
    for (size_t i = 0; i < PIECE; i += sizeof(bits))
        for (int s = 0; s < STREAMS; s++) {
            const char *here = p + (size_t)s * part + i;
            __builtin_prefetch(here + AHEAD, 0, 2);
            sum[s] ^= *(const bits *)here;
        }
    for (int s = 0; s < STREAMS; s++) __asm__ volatile("" : : "m"(sum[s]));
    return (double)STREAMS * PIECE;
}

yardstick memory_read(void) {
    if (!get_block()) return (yardstick){ "a gigabyte of memory is not to be had", NULL };
    return (yardstick){ "streaming read", read_streams };
}

/* ---- four arrays read, three of them written ------------------------------------------------ */

EVERY_WIDTH
static double update_arrays(int thread, int threads) {
    size_t array = BLOCK / ARRAYS, part = array / (size_t)threads / PIECE * PIECE;
    char *p = block + (size_t)thread * part + next_piece(thread, part);
    for (size_t i = 0; i < PIECE; i += sizeof(floats)) {
        floats g = *(const floats *)(p + i);
        floats m = *(floats *)(p + array + i), v = *(floats *)(p + 2 * array + i);
        m = 0.5f * m + 0.5f * g;
        v = 0.5f * v + 0.5f * (g * g);
        *(floats *)(p + array + i) = m;
        *(floats *)(p + 2 * array + i) = v;
        *(floats *)(p + 3 * array + i) -= 0.5f * m * v;
    }
    return (2.0 * ARRAYS - 1) * PIECE;
}

yardstick memory_adamw(void) {
    if (!get_block()) return (yardstick){ "a gigabyte of memory is not to be had", NULL };
    return (yardstick){ "4 reads, 3 writes", update_arrays };
}
