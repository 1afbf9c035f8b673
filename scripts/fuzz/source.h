/* source.h -- choices made from the bytes of a fuzzer.
 *
 * Every choice takes one byte. When they run out, a generator that the whole input seeds goes on:
 * an input of eight bytes is a complete test, and one that coverage made longer steers it.
 */
#ifndef FUZZ_SOURCE_H
#define FUZZ_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct source {
    const uint8_t *at, *end;
    uint64_t state;
} source;

static inline source source_open(const uint8_t *data, size_t size) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++) hash = (hash ^ data[i]) * 0x100000001b3u;
    return (source){data, data + size, hash};
}

/* splitmix64 */
static inline uint64_t source_random(source *s) {
    uint64_t z = s->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* A number below n, which is at most 256. */
static inline unsigned source_pick(source *s, unsigned n) {
    unsigned byte = s->at < s->end ? *s->at++ : (unsigned)(source_random(s) >> 56);
    return byte * n >> 8;
}

/* True once in n. */
static inline bool source_once_in(source *s, unsigned n) { return source_pick(s, n) == n - 1; }

static inline uint64_t source_u64(source *s) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value = value << 8 | source_pick(s, 256);
    return value;
}

#endif
