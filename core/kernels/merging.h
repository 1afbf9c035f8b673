/* merging.h -- the hot loops of merging checkpoints, which are a part of the table of kernels.
 *
 * All of them compute in f32 and sum in f64, in every build, and no product is contracted with a
 * sum: merged files have the same bits whatever processor makes them. Elements are counted by n;
 * arrays do not overlap unless they are the same.
 */
#ifndef MOE_KERNELS_MERGING_H
#define MOE_KERNELS_MERGING_H

#include <stdint.h>

/* y[i] = x[i] */
typedef void moe_read_halves_fn(int64_t n, const uint16_t *x, float *y);
/* y[i] = x[i], rounded to the nearest (even when tied) */
typedef void moe_write_halves_fn(int64_t n, const float *x, uint16_t *y);
/* y[i] = s x[i]; y[i] += s x[i]; y[i] -= x[i] */
typedef void moe_merge_scale_fn(int64_t n, float s, const float *x, float *y);
typedef void moe_merge_minus_fn(int64_t n, const float *x, float *y);
/* lanes[i % 16] += a[i] b[i] */
typedef void moe_merge_dot_fn(int64_t n, const float *a, const float *b, double *lanes);
/* flags[i] |= 1 where x[i] > ref[i], |= 2 where it is below */
typedef void moe_merge_signs_fn(int64_t n, const float *x, const float *ref, uint8_t *flags);
/* How many flags are not 3. */
typedef int64_t moe_merge_agreed_fn(int64_t n, const uint8_t *flags);

#define MOE_MERGING_KERNELS(X)                                                                     \
    X(moe_read_halves_fn, read_bf16) X(moe_read_halves_fn, read_f16)                               \
    X(moe_write_halves_fn, write_bf16) X(moe_write_halves_fn, write_f16)                           \
    X(moe_merge_scale_fn, merge_scale) X(moe_merge_scale_fn, merge_add)                            \
    X(moe_merge_minus_fn, merge_minus) X(moe_merge_dot_fn, merge_dot)                              \
    X(moe_merge_signs_fn, merge_signs) X(moe_merge_agreed_fn, merge_agreed)

#endif
