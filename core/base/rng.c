#include "base/rng.h"

#include <math.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t moe__stream(const char *name) { return XXH3_64bits(name, strlen(name)); }

static void philox_round(uint32_t c[4], const uint32_t k[2]) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c[0], p1 = (uint64_t)0xCD9E8D57u * c[2];
    uint32_t c1 = c[1], c3 = c[3];
    c[0] = (uint32_t)(p1 >> 32) ^ c1 ^ k[0];
    c[1] = (uint32_t)p1;
    c[2] = (uint32_t)(p0 >> 32) ^ c3 ^ k[1];
    c[3] = (uint32_t)p0;
}

void moe__philox(uint64_t seed, uint64_t stream, uint64_t block, uint32_t out[4]) {
    uint32_t k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t c[4] = {(uint32_t)block, (uint32_t)(block >> 32), (uint32_t)stream,
                     (uint32_t)(stream >> 32)};
    for (int round = 0; round < 10; round++) {
        philox_round(c, k);
        k[0] += 0x9E3779B9u;
        k[1] += 0xBB67AE85u;
    }
    memcpy(out, c, sizeof c);
}

/* A block holds two 53-bit uniforms: number i is half i % 2 of block i / 2. */
static double unit(const uint32_t word[4], uint64_t i) {
    uint64_t bits = (uint64_t)word[2 * (i & 1)] << 32 | word[2 * (i & 1) + 1];
    return (double)(bits >> 11) * 0x1p-53;
}

void moe__uniform(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, moe_real *out) {
    uint32_t word[4];
    uint64_t have = UINT64_MAX;
    for (int64_t j = 0; j < n; j++) {
        uint64_t i = first + (uint64_t)j;
        if (i / 2 != have) moe__philox(seed, stream, have = i / 2, word);
        /* Cut to 24 bits, so that a float never rounds up to 1. */
        double u = unit(word, i);
        out[j] = sizeof(moe_real) == sizeof(float) ? (moe_real)(floor(u * 0x1p24) * 0x1p-24)
                                                   : (moe_real)u;
    }
}

/* Natural logarithm of x in (0, 1]: x = m 2^e with m in [sqrt(1/2), sqrt(2)), then the series of
 * atanh((m-1)/(m+1)). Only + - * / on doubles, hence the same bits everywhere. */
static double natural_log(double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    int e = (int)(bits >> 52) - 1022;
    bits = (bits & 0x000fffffffffffffu) | 0x3fe0000000000000u;
    double m;
    memcpy(&m, &bits, sizeof m);
    if (m < 0.70710678118654752440) {
        m *= 2;
        e--;
    }
    double s = (m - 1) / (m + 1), s2 = s * s, sum = 0;
    for (int k = 19; k >= 1; k -= 2) sum = sum * s2 + 1.0 / k;
    return 2 * s * sum + e * 0.69314718055994530942;
}

/* cos and sin of 2 pi t for t in [0, 1): fold to an eighth of the circle, then Taylor. */
static void cos_sin_turn(double t, double *c, double *s) {
    int quarter = (int)(t * 4 + 0.5);
    double x = (t - quarter * 0.25) * 6.28318530717958647693;     /* -pi/4 .. pi/4 */
    double x2 = x * x, cosine = 1, sine = 1;
    for (int k = 16; k >= 2; k -= 2) cosine = 1 - cosine * x2 / (k * (k - 1));
    for (int k = 17; k >= 3; k -= 2) sine = 1 - sine * x2 / (k * (k - 1));
    sine *= x;
    switch (quarter & 3) {
        case 0: *c = cosine, *s = sine; break;
        case 1: *c = -sine, *s = cosine; break;
        case 2: *c = -cosine, *s = -sine; break;
        default: *c = sine, *s = -cosine; break;
    }
}

/* Box and Muller: block b gives the numbers 2b and 2b+1. */
void moe__normal(uint64_t seed, uint64_t stream, uint64_t first, int64_t n, moe_real *out) {
    double pair[2] = {0, 0};
    uint64_t have = UINT64_MAX;
    for (int64_t j = 0; j < n; j++) {
        uint64_t i = first + (uint64_t)j;
        if (i / 2 != have) {
            uint32_t word[4];
            moe__philox(seed, stream, have = i / 2, word);
            double radius = sqrt(-2 * natural_log(1 - unit(word, 0)));
            cos_sin_turn(unit(word, 1), &pair[0], &pair[1]);
            pair[0] *= radius;
            pair[1] *= radius;
        }
        out[j] = (moe_real)pair[i & 1];
    }
}

uint64_t moe__below(uint64_t seed, uint64_t stream, uint64_t index, uint64_t bound) {
    uint32_t word[4];
    moe__philox(seed, stream, index, word);
    uint64_t bits = (uint64_t)word[0] << 32 | word[1];
    return (uint64_t)(((unsigned __int128)bits * bound) >> 64);
}
