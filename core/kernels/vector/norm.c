/* norm.c -- RMS normalisation of one row (Zhang and Sennrich 2019). */
#include <math.h>

#include "kernels/vector/vec.h"

/* Squares of floats are summed up as they are; where they leave the range of normal numbers, which
 * the result does not show, they are summed up once more in double. */
static double mean_of_squares(int64_t n, moe_real eps, const moe_real *x) {
    const double least = 1e-30, most = 1e38;
    double mean = (double)(KERNEL(dot)(n, x, x) / (moe_real)n + eps), sum = 0;
    if (mean > least && mean < most) return mean;
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum / (double)n + (double)eps;
}

/* y = x r w with r = 1 / sqrt(mean(x^2) + eps) */
moe_real KERNEL(rms_norm)(int64_t n, moe_real eps, const moe_real *x, const moe_real *w,
                          moe_real *y) {
    moe_real r = (moe_real)(1 / sqrt(mean_of_squares(n, eps, x)));
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(y + i, load(x + i) * r * load(w + i));
    if (i == n) return r;
    store_part(y + i, load_part(x + i, n - i, 0) * r * load_part(w + i, n - i, 0), n - i);
    return r;
}

/* With h = x r: dw += dy h; returns mean(w dy h). */
INLINE moe_real reduce(int64_t n, moe_real r, const moe_real *x, const moe_real *w,
                       const moe_real *dy, moe_real *dw) {
    vec sum = splat(0);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vec g = load(dy + i) * (load(x + i) * r);
        sum += load(w + i) * g;
        if (dw) store(dw + i, load(dw + i) + g);
    }
    if (i < n) {
        vec g = load_part(dy + i, n - i, 0) * (load_part(x + i, n - i, 0) * r);
        sum += load_part(w + i, n - i, 0) * g;
        if (dw) store_part(dw + i, load_part(dw + i, n - i, 0) + g, n - i);
    }
    return lanes_sum(sum) / (moe_real)n;
}

/* dx = beta dx + r (w dy - h mean) */
INLINE void spread(int64_t n, moe_real r, moe_real mean, const moe_real *x, const moe_real *w,
                   const moe_real *dy, bool add, moe_real *dx) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vec g = (load(w + i) * load(dy + i) - load(x + i) * r * mean) * r;
        store(dx + i, add ? load(dx + i) + g : g);
    }
    if (i == n) return;
    vec g = (load_part(w + i, n - i, 0) * load_part(dy + i, n - i, 0) -
             load_part(x + i, n - i, 0) * r * mean) * r;
    store_part(dx + i, add ? load_part(dx + i, n - i, 0) + g : g, n - i);
}

void KERNEL(rms_norm_grad)(int64_t n, moe_real r, const moe_real *x, const moe_real *w,
                           const moe_real *dy, moe_real beta, moe_real *dx, moe_real *dw) {
    moe_real mean = dw ? reduce(n, r, x, w, dy, dw) : reduce(n, r, x, w, dy, NULL);
    if (dx && beta == 0) spread(n, r, mean, x, w, dy, false, dx);
    if (dx && beta != 0) spread(n, r, mean, x, w, dy, true, dx);
}
