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

void KERNEL(merge_scale)(int64_t n, float s, const float *restrict x, float *restrict y) {
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
