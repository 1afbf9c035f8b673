/* merging.c -- elementwise loops over f32, which the compiler turns into vectors by itself. */
#include "kernels/vector/vec.h"
#include "base/half.h"

void KERNEL(read_bf16)(int64_t n, const uint16_t *restrict x, float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] = moe__from_bfloat(x[i]);
}

void KERNEL(read_f16)(int64_t n, const uint16_t *restrict x, float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] = moe__from_half(x[i]);
}

void KERNEL(write_bf16)(int64_t n, const float *restrict x, uint16_t *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] = moe__to_bfloat(x[i]);
}

void KERNEL(write_f16)(int64_t n, const float *restrict x, uint16_t *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] = moe__to_half(x[i]);
}

void KERNEL(merge_scale)(int64_t n, float s, const float *x, float *y) {
    for (int64_t i = 0; i < n; i++) y[i] = s * x[i];
}

void KERNEL(merge_add)(int64_t n, float s, const float *restrict x, float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] += s * x[i];
}

void KERNEL(merge_minus)(int64_t n, const float *restrict x, float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] -= x[i];
}

void KERNEL(merge_dot)(int64_t n, const float *a, const float *b, double *restrict lanes) {
    int64_t i = 0;
    double sum[16];
    memcpy(sum, lanes, sizeof sum);
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) sum[l] += (double)a[i + l] * (double)b[i + l];
    for (int l = 0; i + l < n; l++) sum[l] += (double)a[i + l] * (double)b[i + l];
    memcpy(lanes, sum, sizeof sum);
}

void KERNEL(merge_signs)(int64_t n, const float *restrict x, const float *restrict ref,
                         uint8_t *restrict flags) {
    for (int64_t i = 0; i < n; i++)
        flags[i] = (uint8_t)(flags[i] | (x[i] > ref[i]) | (x[i] < ref[i]) << 1);
}

int64_t KERNEL(merge_agreed)(int64_t n, const uint8_t *flags) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += flags[i] != 3;
    return count;
}

void KERNEL(merge_blend)(int64_t n, const float *a, const float *x, const float *b, const float *z,
                         float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * x[i] + b[i] * z[i];
}

void KERNEL(merge_l1)(int64_t n, const float *x, double *restrict lanes) {
    int64_t i = 0;
    double sum[16];
    memcpy(sum, lanes, sizeof sum);
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) sum[l] += (double)__builtin_fabsf(x[i + l]);
    for (int l = 0; i + l < n; l++) sum[l] += (double)__builtin_fabsf(x[i + l]);
    memcpy(lanes, sum, sizeof sum);
}

/* --- by size --------------------------------------------------------------------------------- */

INLINE uint32_t key_of(float x) { return moe__float_bits(x) & 0x7fffffffu; }

void KERNEL(merge_histogram)(int64_t n, const float *x, uint32_t *restrict bins) {
    for (int64_t i = 0; i < n; i++) bins[key_of(x[i]) >> 15]++;
}

#define FEW 32

INLINE int32_t count_upper(const float *x, uint32_t upper) {
    int32_t count = 0;
    for (int i = 0; i < FEW; i++) count += key_of(x[i]) >> 15 == upper;
    return count;
}

/* Few keys have these upper bits: some are looked at together, and mostly that is all. */
void KERNEL(merge_histogram_low)(int64_t n, const float *x, uint32_t upper,
                                 uint32_t *restrict bins) {
    for (int64_t i = 0; i < n; i += FEW) {
        int64_t end = i + FEW < n ? i + FEW : n;
        if (end == i + FEW && !count_upper(x + i, upper)) continue;
        for (int64_t e = i; e < end; e++)
            if (key_of(x[e]) >> 15 == upper) bins[key_of(x[e]) & 0x7fffu]++;
    }
}

int64_t KERNEL(merge_equal)(int64_t n, const float *x, uint32_t key) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) count += key_of(x[i]) == key;
    return count;
}

int64_t KERNEL(merge_between)(int64_t n, uint32_t low, uint32_t high, const float *restrict x,
                              uint8_t *restrict flags) {
    int32_t count = 0, least = (int32_t)low, most = (int32_t)high;
    for (int64_t i = 0; i < n; i++) {
        int32_t key = (int32_t)key_of(x[i]), stays = (key >= least) & (key <= most);
        flags[i] = (uint8_t)stays;
        count += stays;
    }
    return count;
}

/* --- by chance ------------------------------------------------------------------------------- */

/* Philox works on words of 32 bits; a lane of 64 holds one, and what lies above it is ignored by
 * the products, the only ones that would see it. So many blocks are made side by side: */
#define BLOCKS 8
#if defined(__AVX512F__)
typedef __m512i words;
#define PRODUCT(a, b) _mm512_mul_epu32(a, b)
#else
typedef uint64_t words __attribute__((vector_size(64)));
#define PRODUCT(a, b) (((a) & 0xffffffffu) * (b))
#endif
typedef uint64_t lanes64 __attribute__((vector_size(64)));

INLINE void philox_round(lanes64 c[4], uint64_t k0, uint64_t k1) {
    const lanes64 m0 = (lanes64){0} + 0xD2511F53u, m1 = (lanes64){0} + 0xCD9E8D57u;
    lanes64 p0 = (lanes64)PRODUCT((words)c[0], (words)m0);
    lanes64 p1 = (lanes64)PRODUCT((words)c[2], (words)m1);
    c[0] = (p1 >> 32) ^ c[1] ^ k0;
    c[1] = p1;
    c[2] = (p0 >> 32) ^ c[3] ^ k1;
    c[3] = p0;
}

/* The same numbers as moe__philox gives. */
void KERNEL(merge_random)(int64_t n, uint64_t seed, uint64_t stream, uint64_t block,
                          uint32_t *restrict out) {
    const lanes64 count = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int64_t i = 0; i < n; i += BLOCKS) {
        lanes64 number = count + (block + (uint64_t)i);
        lanes64 c[4] = {number, number >> 32, (lanes64){0} + stream,
                        (lanes64){0} + (stream >> 32)};
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int round = 0; round < 10; round++) {
            philox_round(c, k0, k1);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        lanes64 low = (c[0] & 0xffffffffu) | c[1] << 32, high = (c[2] & 0xffffffffu) | c[3] << 32;
        int64_t some = n - i < BLOCKS ? n - i : BLOCKS;
        for (int64_t b = 0; b < some; b++) {
            uint64_t pair[2] = {low[b], high[b]};
            memcpy(out + 4 * (i + b), pair, sizeof pair);
        }
    }
}

int64_t KERNEL(merge_below)(int64_t n, const uint32_t *restrict random, uint64_t limit,
                            uint8_t *restrict flags) {
    int32_t count = 0;
    if (limit >> 32) {
        memset(flags, 1, (size_t)n);
        return n;
    }
    for (int64_t i = 0; i < n; i++) {
        int32_t stays = random[i] < (uint32_t)limit;
        flags[i] = (uint8_t)stays;
        count += stays;
    }
    return count;
}

void KERNEL(merge_mask)(int64_t n, const uint8_t *restrict flags, float *restrict x) {
    for (int64_t i = 0; i < n; i++) x[i] = flags[i] ? x[i] : 0;
}

/* --- sums ------------------------------------------------------------------------------------ */

void KERNEL(merge_vote)(int64_t n, float w, const float *restrict x, const float *restrict total,
                        float *restrict y, float *restrict divisor) {
    for (int64_t i = 0; i < n; i++) {
        float share = w * x[i], signed_share = total[i] >= 0 ? share : -share;
        y[i] += signed_share > 0 ? share : 0;
        divisor[i] += signed_share > 0 ? w : 0;
    }
}

void KERNEL(merge_divide)(int64_t n, const float *restrict divisor, float least,
                          float *restrict y) {
    for (int64_t i = 0; i < n; i++) {
        float by = divisor[i] > least || least <= 0 ? divisor[i] : least;
        y[i] /= by == 0 ? 1 : by;
    }
}

void KERNEL(merge_finish)(int64_t n, float lambda, const float *restrict base, float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] = base[i] + lambda * y[i];
}

/* Sixteen elements of all models at a time; the last few, one by one. */
void KERNEL(merge_sum)(int64_t n, int count, const float *const *x, const double *c,
                       float *restrict y) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        double sum[16] = {0};
        for (int m = 0; m < count; m++)
            for (int l = 0; l < 16; l++) sum[l] += c[m] * (double)x[m][i + l];
        for (int l = 0; l < 16; l++) y[i + l] = (float)sum[l];
    }
    for (; i < n; i++) {
        double sum = 0;
        for (int m = 0; m < count; m++) sum += c[m] * (double)x[m][i];
        y[i] = (float)sum;
    }
}

void KERNEL(merge_lerp)(int64_t n, float t, const float *restrict a, const float *restrict b,
                        float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + t * (b[i] - a[i]);
}

INLINE float variance_of(int count, float share, const float *const *x, int64_t i) {
    float mean = 0, sum = 0;
    for (int m = 0; m < count; m++) mean += x[m][i];
    mean *= share;
    for (int m = 0; m < count; m++) sum += (x[m][i] - mean) * (x[m][i] - mean);
    return sum * share;
}

void KERNEL(merge_variance)(int64_t n, int count, const float *const *x, float *restrict y) {
    float share = 1 / (float)count;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        float mean[16] = {0}, sum[16] = {0};
        for (int m = 0; m < count; m++)
            for (int l = 0; l < 16; l++) mean[l] += x[m][i + l];
        for (int l = 0; l < 16; l++) mean[l] *= share;
        for (int m = 0; m < count; m++)
            for (int l = 0; l < 16; l++) {
                float apart = x[m][i + l] - mean[l];
                sum[l] += apart * apart;
            }
        for (int l = 0; l < 16; l++) y[i + l] = sum[l] * share;
    }
    for (; i < n; i++) y[i] = variance_of(count, share, x, i);
}

void KERNEL(merge_nearswap)(int64_t n, float t, const float *restrict base,
                            const float *restrict x, float *restrict y) {
    for (int64_t i = 0; i < n; i++) {
        float apart = __builtin_fabsf(base[i] - x[i]);
        float w = t / (apart > 1e-6f ? apart : 1e-6f);
        w = w > 1 ? 1 : w > 0 ? w : 0;
        y[i] = w * x[i] + (1 - w) * base[i];
    }
}

int64_t KERNEL(merge_count_changed)(int64_t n, float epsilon, const float *restrict d,
                                    uint8_t *restrict counts) {
    int32_t sum = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t changed = __builtin_fabsf(d[i]) > epsilon;
        counts[i] = (uint8_t)(counts[i] + changed);
        sum += changed;
    }
    return sum;
}

int64_t KERNEL(merge_changed)(int64_t n, float epsilon, const float *restrict d,
                              const uint8_t *restrict counts, int64_t *alone) {
    int32_t sum = 0, single = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t changed = __builtin_fabsf(d[i]) > epsilon;
        sum += changed;
        single += changed & (counts[i] == 1);
    }
    *alone = single;
    return sum;
}

void KERNEL(merge_add_changed)(int64_t n, float epsilon, float factor,
                               const uint8_t *restrict counts, const float *restrict d,
                               float *restrict y) {
    for (int64_t i = 0; i < n; i++) {
        float part = counts[i] > 1 ? d[i] / (float)counts[i] : d[i] * factor;
        y[i] += __builtin_fabsf(d[i]) > epsilon ? part : 0;
    }
}

/* --- divergence ------------------------------------------------------------------------------ */

float KERNEL(merge_max)(int64_t n, const float *x, float max) {
    for (int64_t i = 0; i < n; i++) max = x[i] > max ? x[i] : max;
    return max;
}

/* exp(x) for x <= 0, 0 where that is no normal number: 2^k times a polynomial for the rest. */
INLINE float exp_below(float x) {
    float shifted = x * 1.44269504f + 0x1.8p23f, k = shifted - 0x1.8p23f;
    float r = (x - k * 0x1.62ep-1f) - k * 0x1.0bfbe8p-15f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1;
    float y = moe__bits_float(moe__float_bits(p) + (moe__float_bits(shifted) << 23));
    return x < -87.33654f ? 0 : y;
}

/* ln(x) of a normal number: x = m 2^e with m in [1/sqrt 2, sqrt 2), the series of atanh. */
INLINE float log_of(float x) {
    int32_t bits = (int32_t)moe__float_bits(x), e = (bits - 0x3f3504f3) >> 23;
    float m = moe__bits_float((uint32_t)(bits - (int32_t)((uint32_t)e << 23)));
    float s = (m - 1) / (m + 1), s2 = s * s;
    float p = 2.0f / 9;
    p = p * s2 + 2.0f / 7;
    p = p * s2 + 2.0f / 5;
    p = p * s2 + 2.0f / 3;
    p = p * s2 + 2;
    return p * s + (float)e * 0.69314718f;
}

void KERNEL(merge_exp_sum)(int64_t n, const float *x, float max, double *restrict lanes) {
    int64_t i = 0;
    double sum[16];
    memcpy(sum, lanes, sizeof sum);
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) sum[l] += (double)exp_below(x[i + l] - max);
    for (int l = 0; i + l < n; l++) sum[l] += (double)exp_below(x[i + l] - max);
    memcpy(lanes, sum, sizeof sum);
}

INLINE float divergence_of(float x, float x_scale, float z, float z_scale) {
    float p = exp_below(x) * x_scale + 1e-8f, q = exp_below(z) * z_scale + 1e-8f;
    return p * log_of(p / q);
}

void KERNEL(merge_divergence)(int64_t n, const float *x, float x_max, float x_scale,
                              const float *z, float z_max, float z_scale,
                              double *restrict lanes) {
    int64_t i = 0;
    double sum[16];
    memcpy(sum, lanes, sizeof sum);
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++)
            sum[l] += (double)divergence_of(x[i + l] - x_max, x_scale, z[i + l] - z_max, z_scale);
    for (int l = 0; i + l < n; l++)
        sum[l] += (double)divergence_of(x[i + l] - x_max, x_scale, z[i + l] - z_max, z_scale);
    memcpy(lanes, sum, sizeof sum);
}

void KERNEL(merge_importance)(int64_t n, float factor, const float *restrict x,
                              const float *restrict base, float *restrict y) {
    for (int64_t i = 0; i < n; i++) y[i] = __builtin_fabsf(x[i] - base[i]) * factor;
}

int64_t KERNEL(merge_choose)(int64_t n, float threshold, const float *restrict importance,
                             const float *restrict x, const float *restrict base,
                             float *restrict y) {
    int32_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        int32_t taken = importance[i] >= threshold;
        y[i] = taken ? x[i] : base[i];
        count += taken;
    }
    return count;
}
