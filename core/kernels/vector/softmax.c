/* softmax.c -- rows of exponentials: softmax, its logarithm, the cross entropy. */
#include <math.h>

#include "kernels/vector/vec.h"

#define INFINITE ((moe_real)__builtin_inf())

static moe_real real_log(moe_real x) { return (moe_real)log((double)x); }

static void fill(int64_t n, moe_real value, moe_real *y) {
    for (int64_t i = 0; i < n; i++) y[i] = value;
}

/* y = exp(x - shift), y may be x; returns the sum. Lanes beyond n hold exp(-inf) = 0. */
INLINE moe_real exp_shifted(int64_t n, moe_real shift, const moe_real *x, moe_real *y) {
    vec sum = splat(0);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vec e = vexp(load(x + i) - shift);
        store(y + i, e);
        sum += e;
    }
    if (i < n) {
        vec e = vexp(load_part(x + i, n - i, -INFINITE) - shift);
        store_part(y + i, e, n - i);
        sum += e;
    }
    return lanes_sum(sum);
}

/* The same without storing. */
INLINE moe_real sum_exp_shifted(int64_t n, moe_real shift, const moe_real *x) {
    vec sum = splat(0);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) sum += vexp(load(x + i) - shift);
    if (i < n) sum += vexp(load_part(x + i, n - i, -INFINITE) - shift);
    return lanes_sum(sum);
}

moe_real KERNEL(exp_sum)(int64_t n, moe_real shift, moe_real *x) {
    return exp_shifted(n, shift, x, x);
}

void KERNEL(softmax)(int64_t n, const moe_real *x, moe_real *y) {
    moe_real top = KERNEL(max)(n, x);
    if (top == -INFINITE)
        fill(n, 1 / (moe_real)n, y);
    else
        KERNEL(scale)(n, 1 / exp_shifted(n, top, x, y), y, y);
}

/* dx += y (dy - y . dy) */
void KERNEL(softmax_grad)(int64_t n, const moe_real *y, const moe_real *dy, moe_real *dx) {
    moe_real mean = KERNEL(dot)(n, y, dy);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(dx + i, load(dx + i) + load(y + i) * (load(dy + i) - mean));
    for (; i < n; i++) dx[i] += y[i] * (dy[i] - mean);
}

/* Subtracts the maximum first and the logarithm second: their sum would lose digits. */
void KERNEL(log_softmax)(int64_t n, const moe_real *x, moe_real *y) {
    moe_real top = KERNEL(max)(n, x);
    if (top == -INFINITE) {
        fill(n, -real_log((moe_real)n), y);
        return;
    }
    moe_real log_sum = real_log(sum_exp_shifted(n, top, x));
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(y + i, (load(x + i) - top) - log_sum);
    for (; i < n; i++) y[i] = (x[i] - top) - log_sum;
}

/* dx += dy - exp(y) sum(dy) */
void KERNEL(log_softmax_grad)(int64_t n, const moe_real *y, const moe_real *dy, moe_real *dx) {
    moe_real sum = KERNEL(sum)(n, dy);
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        store(dx + i, load(dx + i) + (load(dy + i) - vexp(load(y + i)) * sum));
    if (i == n) return;
    vec last = load_part(dy + i, n - i, 0) - vexp(load_part(y + i, n - i, 0)) * sum;
    store_part(dx + i, load_part(dx + i, n - i, 0) + last, n - i);
}

/* A row that is all -inf counts as uniform, as in softmax. */
moe_real KERNEL(cross_entropy)(int64_t n, moe_real *x, int64_t target, moe_real scale) {
    moe_real top = KERNEL(max)(n, x), wanted = x[target] - top;
    if (top == -INFINITE) {
        if (scale != 0) fill(n, scale / (moe_real)n, x);
        if (scale != 0) x[target] -= scale;
        return real_log((moe_real)n);
    }
    if (scale == 0) return real_log(sum_exp_shifted(n, top, x)) - wanted;
    moe_real sum = exp_shifted(n, top, x, x);
    KERNEL(scale)(n, scale / sum, x, x);
    x[target] -= scale;
    return real_log(sum) - wanted;
}
