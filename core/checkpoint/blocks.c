/* blocks.c -- from blocks of a GGUF file to floats, and from floats to Q8_0.
 *
 * Each function takes one block apart. Loops run over places that lie side by side, so that the
 * compiler makes vectors of them; no product is fused with a sum (-ffp-contract=off), because the
 * reference rounds both.
 */
#include "checkpoint/blocks.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "base/half.h"

typedef const unsigned char *restrict bytes;

static float half_at(bytes b) { return moe__from_half((uint16_t)(b[0] | b[1] << 8)); }

static uint32_t word_at(bytes b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* --- 32 elements ----------------------------------------------------------------------------- */

/* d; 16 bytes: the low halves are elements 0..15, the high ones 16..31 */
static void read_q4_0(bytes b, float *restrict y) {
    float d = half_at(b);
    bytes q = b + 2;
    for (int j = 0; j < 16; j++) {
        y[j] = (float)((q[j] & 15) - 8) * d;
        y[j + 16] = (float)((q[j] >> 4) - 8) * d;
    }
}

/* d, m; 16 bytes */
static void read_q4_1(bytes b, float *restrict y) {
    float d = half_at(b), m = half_at(b + 2);
    bytes q = b + 4;
    for (int j = 0; j < 16; j++) {
        y[j] = (float)(q[j] & 15) * d + m;
        y[j + 16] = (float)(q[j] >> 4) * d + m;
    }
}

/* The integers of Q5_0 and Q5_1: the fifth bits stand in a word of their own. */
static void fives(uint32_t high, bytes q, int *restrict x) {
    for (int j = 0; j < 16; j++) {
        x[j] = (q[j] & 15) | (int)(high >> j << 4 & 16);
        x[j + 16] = q[j] >> 4 | (int)(high >> (j + 12) & 16);
    }
}

/* d; the fifth bits; 16 bytes */
static void read_q5_0(bytes b, float *restrict y) {
    int x[32];
    float d = half_at(b);
    fives(word_at(b + 2), b + 6, x);
    for (int j = 0; j < 32; j++) y[j] = (float)(x[j] - 16) * d;
}

/* d, m; the fifth bits; 16 bytes */
static void read_q5_1(bytes b, float *restrict y) {
    int x[32];
    float d = half_at(b), m = half_at(b + 2);
    fives(word_at(b + 4), b + 8, x);
    for (int j = 0; j < 32; j++) y[j] = (float)x[j] * d + m;
}

/* d; 32 signed bytes */
static void read_q8_0(bytes b, float *restrict y) {
    float d = half_at(b);
    for (int j = 0; j < 32; j++) y[j] = (float)(signed char)b[2 + j] * d;
}

/* --- 256 elements ---------------------------------------------------------------------------- */

/* 16 bytes of scales (low half) and minima (high half), each of 16 elements; 64 bytes of four
 * elements, 32 places apart; d, dmin */
static void read_q2_k(bytes b, float *restrict y) {
    bytes scale = b, q = b + 16;
    float d = half_at(b + 80), dmin = half_at(b + 82);
    for (int group = 0; group < 16; group++, y += 16) {
        int shift = group % 8 / 2 * 2;
        bytes from = q + group / 8 * 32 + group % 2 * 16;
        float dl = d * (float)(scale[group] & 15), ml = dmin * (float)(scale[group] >> 4);
        for (int l = 0; l < 16; l++) y[l] = dl * (float)(from[l] >> shift & 3) - ml;
    }
}

/* The 16 scales of Q3_K have 6 bits: the lower four in 8 bytes, the upper two in 4 more. */
static void scales_of_q3(bytes s, int scale[16]) {
    for (int j = 0; j < 16; j++) {
        int low = j < 8 ? s[j] & 15 : s[j - 8] >> 4, high = s[8 + j % 4] >> (j / 4 * 2) & 3;
        scale[j] = (low | high << 4) - 32;
    }
}

/* 32 bytes of third bits; 64 bytes of four elements; 12 bytes of scales; d */
static void read_q3_k(bytes b, float *restrict y) {
    int scale[16];
    bytes mask = b, q = b + 32;
    float d = half_at(b + 108);
    scales_of_q3(b + 96, scale);
    for (int group = 0; group < 16; group++, y += 16) {
        int shift = group % 8 / 2 * 2, bit = group / 2;
        bytes from = q + group / 8 * 32 + group % 2 * 16, third = mask + group % 2 * 16;
        float dl = d * (float)scale[group];
        for (int l = 0; l < 16; l++) {
            int lowered = 4 - (third[l] >> bit & 1) * 4;
            y[l] = dl * (float)((from[l] >> shift & 3) - lowered);
        }
    }
}

/* Eight scales and eight minima of 6 bits in 12 bytes. */
static void scale_of_q4(bytes s, int j, int *scale, int *min) {
    *scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    *min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | s[j] >> 6 << 4;
}

/* d, dmin; 12 bytes of scales; 128 bytes of two elements, 32 places apart */
static void read_q4_k(bytes b, float *restrict y) {
    float d = half_at(b), dmin = half_at(b + 2);
    for (int group = 0; group < 8; group++, y += 32) {
        int scale, min, shift = group % 2 * 4;
        bytes q = b + 16 + group / 2 * 32;
        scale_of_q4(b + 4, group, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int l = 0; l < 32; l++) y[l] = dl * (float)(q[l] >> shift & 15) - ml;
    }
}

/* d, dmin; 12 bytes of scales; 32 bytes of fifth bits; 128 bytes as in Q4_K */
static void read_q5_k(bytes b, float *restrict y) {
    float d = half_at(b), dmin = half_at(b + 2);
    bytes fifth = b + 16;
    for (int group = 0; group < 8; group++, y += 32) {
        int scale, min, shift = group % 2 * 4;
        bytes q = b + 48 + group / 2 * 32;
        scale_of_q4(b + 4, group, &scale, &min);
        float dl = d * (float)scale, ml = dmin * (float)min;
        for (int l = 0; l < 32; l++)
            y[l] = dl * (float)((q[l] >> shift & 15) + (fifth[l] >> group & 1) * 16) - ml;
    }
}

/* 128 bytes of lower and 64 of upper bits, 16 signed scales, d: a half of the block has four runs
 * of 32, whose upper bits share a byte */
static void read_q6_k(bytes b, float *restrict y) {
    float d = half_at(b + 208);
    for (int run = 0; run < 8; run++, y += 32) {
        int half = run / 4, part = run % 4, shift = part / 2 * 4;
        bytes low = b + half * 64 + part % 2 * 32, high = b + 128 + half * 32;
        bytes scale = b + 192 + run * 2;
        float first = d * (float)(signed char)scale[0], second = d * (float)(signed char)scale[1];
        for (int l = 0; l < 32; l++) {
            int q = ((low[l] >> shift & 15) | (high[l] >> (part * 2) & 3) << 4) - 32;
            y[l] = (l < 16 ? first : second) * (float)q;
        }
    }
}

/* --- all of them ----------------------------------------------------------------------------- */

#define EACH_BLOCK(read) \
    for (; n > 0; n--, at += size, out += elements) read(at, out); \
    break

void moe__blocks_read(moe_stored type, const void *data, uint64_t n, float *out) {
    uint64_t elements, size;
    const unsigned char *at = data;
    moe__stored_block(type, &elements, &size);
    switch (type) {
        case MOE_STORED_Q4_0: EACH_BLOCK(read_q4_0);
        case MOE_STORED_Q4_1: EACH_BLOCK(read_q4_1);
        case MOE_STORED_Q5_0: EACH_BLOCK(read_q5_0);
        case MOE_STORED_Q5_1: EACH_BLOCK(read_q5_1);
        case MOE_STORED_Q8_0: EACH_BLOCK(read_q8_0);
        case MOE_STORED_Q2_K: EACH_BLOCK(read_q2_k);
        case MOE_STORED_Q3_K: EACH_BLOCK(read_q3_k);
        case MOE_STORED_Q4_K: EACH_BLOCK(read_q4_k);
        case MOE_STORED_Q5_K: EACH_BLOCK(read_q5_k);
        case MOE_STORED_Q6_K: EACH_BLOCK(read_q6_k);
        default: break;
    }
}

/* The scale is exact when the integers are chosen, and rounded when it is stored. One so small that
 * it has no inverse is stored as 0. */
static bool write_q8_0(const float *restrict x, unsigned char *restrict out) {
    float most = 0, sum = 0;
    for (int j = 0; j < 32; j++) {
        float size = fabsf(x[j]);
        most = size > most ? size : most;
        sum += size * 0;                /* NaN when one of them is not finite */
    }
    float d = most / 127, inverse = d > 1 / FLT_MAX ? 1 / d : 0;
    if (sum != 0 || d > 65504) return false;
    uint16_t half = moe__to_half(d);
    out[0] = (unsigned char)half;
    out[1] = (unsigned char)(half >> 8);
    for (int j = 0; j < 32; j++) out[2 + j] = (unsigned char)(signed char)roundf(x[j] * inverse);
    return true;
}

bool moe__blocks_write_q8_0(const float *x, uint64_t n, void *out) {
    bool fits = true;
    for (uint64_t i = 0; i < n; i++)
        fits &= write_q8_0(x + i * 32, (unsigned char *)out + i * 34);
    return fits;
}
