/* merging.h -- the hot loops of merging checkpoints, which are a part of the table of kernels.
 *
 * All of them compute in f32 and sum in f64, in every build, and no product is contracted with a
 * sum: merged files have the same bits whatever processor makes them. Elements are counted by n;
 * arrays do not overlap unless they are the same.
 */
#ifndef MOE_KERNELS_MERGING_H
#define MOE_KERNELS_MERGING_H

#include <stddef.h>
#include <stdint.h>

/* y[i] = x[i] */
typedef void moe_read_halves_fn(int64_t n, const uint16_t *x, float *y);
/* y[i] = x[i], rounded to the nearest (even when tied) */
typedef void moe_write_halves_fn(int64_t n, const float *x, uint16_t *y);
/* Feeds the state of an XXH3-128. */
typedef void moe_hash_add_fn(void *state, const void *data, size_t size);

/* y[i] = s x[i]; y[i] += s x[i] */
typedef void moe_merge_scale_fn(int64_t n, float s, const float *x, float *y);
/* y[i] -= x[i] */
typedef void moe_merge_minus_fn(int64_t n, const float *x, float *y);
/* y[i] = the sum of c[m] x[m][i] over count models, in f64 and rounded once */
typedef void moe_merge_sum_fn(int64_t n, int count, const float *const *x, const double *c,
                              float *y);
/* y[i] = a[i] + t (b[i] - a[i]) */
typedef void moe_merge_lerp_fn(int64_t n, float t, const float *a, const float *b, float *y);
/* y[i] = a[i] x[i] + b[i] z[i] */
typedef void moe_merge_blend_fn(int64_t n, const float *a, const float *x, const float *b,
                                const float *z, float *y);

/* lanes[i % 16] += a[i] b[i]; lanes[i % 16] += |x[i]| */
typedef void moe_merge_dot_fn(int64_t n, const float *a, const float *b, double *lanes);
typedef void moe_merge_l1_fn(int64_t n, const float *x, double *lanes);
/* flags[i] |= 1 where x[i] > ref[i], |= 2 where it is below; how many flags are not 3 */
typedef void moe_merge_signs_fn(int64_t n, const float *x, const float *ref, uint8_t *flags);
typedef int64_t moe_merge_agreed_fn(int64_t n, const uint8_t *flags);

/* The key of a number is its bits without the sign.
 * bins[key >> 15]++; bins[key & 0x7fff]++ where key >> 15 is `upper` */
typedef void moe_merge_histogram_fn(int64_t n, const float *x, uint32_t *bins);
typedef void moe_merge_histogram_low_fn(int64_t n, const float *x, uint32_t upper, uint32_t *bins);
/* How many have this key. */
typedef int64_t moe_merge_equal_fn(int64_t n, const float *x, uint32_t key);
/* flags[i] = low <= key <= high; returns how many */
typedef int64_t moe_merge_between_fn(int64_t n, uint32_t low, uint32_t high, const float *x,
                                     uint8_t *flags);
/* words of Philox4x32-10, four for each of n blocks; flags[i] = words[i] < limit, returns how
 * many; x[i] = 0 where there is no flag */
typedef void moe_merge_random_fn(int64_t n, uint64_t seed, uint64_t stream, uint64_t block,
                                 uint32_t *words);
typedef int64_t moe_merge_below_fn(int64_t n, const uint32_t *words, uint64_t limit,
                                   uint8_t *flags);
typedef void moe_merge_mask_fn(int64_t n, const uint8_t *flags, float *x);

/* Where w x[i] is above 0 and total[i] >= 0, or both are below: y[i] += w x[i], divisor[i] += w */
typedef void moe_merge_vote_fn(int64_t n, float w, const float *x, const float *total, float *y,
                               float *divisor);
/* y[i] /= divisor[i], or least if that is above 0 and more; divisors of 0 count as 1 */
typedef void moe_merge_divide_fn(int64_t n, const float *divisor, float least, float *y);
/* y[i] = base[i] + lambda y[i] */
typedef void moe_merge_finish_fn(int64_t n, float lambda, const float *base, float *y);
/* y[i] = the variance of x[0 .. count-1][i] */
typedef void moe_merge_variance_fn(int64_t n, int count, const float *const *x, float *y);
/* y[i] = base[i] + w (x[i] - base[i]) with w = t / |x[i] - base[i]| in 0 .. 1 */
typedef void moe_merge_nearswap_fn(int64_t n, float t, const float *base, const float *x, float *y);

/* Changed are those with |d[i]| > epsilon; counts[i] is how many models changed it.
 * Adds to counts, returns how many changed; those returned, and of them those changed alone;
 * y[i] += d[i] factor or d[i] / counts[i] */
typedef int64_t moe_merge_count_changed_fn(int64_t n, float epsilon, const float *d,
                                           uint8_t *counts);
typedef int64_t moe_merge_changed_fn(int64_t n, float epsilon, const float *d,
                                     const uint8_t *counts, int64_t *alone);
typedef void moe_merge_add_changed_fn(int64_t n, float epsilon, float factor,
                                      const uint8_t *counts, const float *d, float *y);

/* The largest of x and `max`; lanes += exp(x[i] - max); lanes += P ln(P / Q), where P and Q are
 * exp(. - max) * scale + 1e-8 of x and z */
typedef float moe_merge_max_fn(int64_t n, const float *x, float max);
typedef void moe_merge_exp_sum_fn(int64_t n, const float *x, float max, double *lanes);
typedef void moe_merge_divergence_fn(int64_t n, const float *x, float x_max, float x_scale,
                                     const float *z, float z_max, float z_scale, double *lanes);
/* y[i] = |x[i] - base[i]| factor */
typedef void moe_merge_importance_fn(int64_t n, float factor, const float *x, const float *base,
                                     float *y);
/* y[i] = x[i] where importance[i] >= threshold, else base[i]; returns how many x */
typedef int64_t moe_merge_choose_fn(int64_t n, float threshold, const float *importance,
                                    const float *x, const float *base, float *y);

#define MOE_MERGING_KERNELS(X)                                                                     \
    X(moe_read_halves_fn, read_bf16) X(moe_read_halves_fn, read_f16)                               \
    X(moe_write_halves_fn, write_bf16) X(moe_write_halves_fn, write_f16)                           \
    X(moe_merge_scale_fn, merge_scale) X(moe_merge_scale_fn, merge_add)                            \
    X(moe_merge_minus_fn, merge_minus) X(moe_merge_blend_fn, merge_blend)                          \
    X(moe_merge_sum_fn, merge_sum) X(moe_merge_lerp_fn, merge_lerp) X(moe_hash_add_fn, hash_add)   \
    X(moe_merge_dot_fn, merge_dot) X(moe_merge_l1_fn, merge_l1)                                    \
    X(moe_merge_signs_fn, merge_signs) X(moe_merge_agreed_fn, merge_agreed)                        \
    X(moe_merge_histogram_fn, merge_histogram)                                                     \
    X(moe_merge_histogram_low_fn, merge_histogram_low)                                             \
    X(moe_merge_equal_fn, merge_equal) X(moe_merge_between_fn, merge_between)                      \
    X(moe_merge_random_fn, merge_random) X(moe_merge_below_fn, merge_below)                        \
    X(moe_merge_mask_fn, merge_mask) X(moe_merge_vote_fn, merge_vote)                              \
    X(moe_merge_divide_fn, merge_divide) X(moe_merge_finish_fn, merge_finish)                      \
    X(moe_merge_variance_fn, merge_variance) X(moe_merge_nearswap_fn, merge_nearswap)              \
    X(moe_merge_count_changed_fn, merge_count_changed)                                             \
    X(moe_merge_changed_fn, merge_changed) X(moe_merge_add_changed_fn, merge_add_changed)          \
    X(moe_merge_max_fn, merge_max) X(moe_merge_exp_sum_fn, merge_exp_sum)                          \
    X(moe_merge_divergence_fn, merge_divergence)                                                   \
    X(moe_merge_importance_fn, merge_importance) X(moe_merge_choose_fn, merge_choose)

#endif
