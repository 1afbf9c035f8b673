/* norm.c -- RMS normalisation of one row (Zhang and Sennrich 2019). */
#include <math.h>

#include "kernels/vector/vec.h"

/* y = x r w with r = 1 / sqrt(mean(x^2) + eps) */
moe_real KERNEL(rms_norm)(int64_t n, moe_real eps, const moe_real *x, const moe_real *w,
                          moe_real *y) {
    vec sum = splat(0);
    int64_t i = 0;
    for (; i + VL <= n; i += VL) sum += load(x + i) * load(x + i);
    if (i < n) {
        vec last = load_part(x + i, n - i, 0);
        sum += last * last;
    }
    moe_real r = 1 / (moe_real)sqrt((double)(lanes_sum(sum) / (moe_real)n + eps));
    for (i = 0; i + VL <= n; i += VL) store(y + i, load(x + i) * r * load(w + i));
    for (; i < n; i++) y[i] = x[i] * r * w[i];
    return r;
}

/* dx = r (w dy - x r^2 mean(w dy x)), dw = dy x r */
void KERNEL(rms_norm_grad)(int64_t n, moe_real r, const moe_real *x, const moe_real *w,
                           const moe_real *dy, moe_real beta, moe_real *dx, moe_real *dw) {
    int64_t i = 0;
    if (dw) {
        for (; i + VL <= n; i += VL) store(dw + i, load(dw + i) + load(dy + i) * load(x + i) * r);
        for (; i < n; i++) dw[i] += dy[i] * x[i] * r;
    }
    if (!dx) return;
    vec sum = splat(0);
    for (i = 0; i + VL <= n; i += VL) sum += load(w + i) * load(dy + i) * load(x + i);
    if (i < n)
        sum += load_part(w + i, n - i, 0) * load_part(dy + i, n - i, 0) *
               load_part(x + i, n - i, 0);
    moe_real mean = lanes_sum(sum) / (moe_real)n * r * r;
    for (i = 0; i < n; i += VL) {
        int64_t part = n - i < VL ? n - i : VL;
        vec vx = part == VL ? load(x + i) : load_part(x + i, part, 0);
        vec vw = part == VL ? load(w + i) : load_part(w + i, part, 0);
        vec vdy = part == VL ? load(dy + i) : load_part(dy + i, part, 0);
        vec g = (vw * vdy - vx * mean) * r;
        if (beta != 0) g += part == VL ? load(dx + i) : load_part(dx + i, part, 0);
        if (part == VL)
            store(dx + i, g);
        else
            store_part(dx + i, g, part);
    }
}
