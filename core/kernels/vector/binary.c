/* binary.c -- arithmetic of two rows, and sums over them. */
#include "kernels/vector/vec.h"

/* The operand with stride 0 is a number, spread over a vector once. */
#define MAP2(name, op)                                                                             \
    INLINE void name##_loop(int64_t n, const moe_real *a, int sa, const moe_real *b, int sb,       \
                            moe_real *y) {                                                         \
        const vec a0 = splat(n ? *a : 0), b0 = splat(n ? *b : 0);                                  \
        int64_t i = 0;                                                                             \
        for (; i + VL <= n; i += VL)                                                               \
            store(y + i, (sa ? load(a + i) : a0) op (sb ? load(b + i) : b0));                      \
        for (; i < n; i++) y[i] = (sa ? a[i] : a0[0]) op (sb ? b[i] : b0[0]);                      \
    }                                                                                              \
    void KERNEL(name)(int64_t n, const moe_real *a, int sa, const moe_real *b, int sb,             \
                      moe_real *y) {                                                               \
        if (sa && sb)                                                                              \
            name##_loop(n, a, 1, b, 1, y);                                                         \
        else if (sa)                                                                               \
            name##_loop(n, a, 1, b, 0, y);                                                         \
        else                                                                                       \
            name##_loop(n, a, 0, b, sb, y);                                                        \
    }

MAP2(add, +)
MAP2(sub, -)
MAP2(mul, *)
MAP2(div, /)

void KERNEL(accumulate)(int64_t n, const moe_real *x, moe_real *y) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(y + i, load(y + i) + load(x + i));
    for (; i < n; i++) y[i] += x[i];
}

void KERNEL(scale)(int64_t n, moe_real s, const moe_real *x, moe_real *y) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(y + i, load(x + i) * s);
    for (; i < n; i++) y[i] = x[i] * s;
}

void KERNEL(axpy)(int64_t n, moe_real s, const moe_real *x, moe_real *y) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(y + i, load(y + i) + load(x + i) * s);
    for (; i < n; i++) y[i] += x[i] * s;
}

/* Four chains hide the latency of the additions; they are joined in a fixed order. */
moe_real KERNEL(dot)(int64_t n, const moe_real *a, const moe_real *b) {
    vec sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int k = 0; k < 4; k++) sum[k] += load(a + i + k * VL) * load(b + i + k * VL);
    for (; i + VL <= n; i += VL) sum[0] += load(a + i) * load(b + i);
    if (i < n) sum[1] += load_part(a + i, n - i, 0) * load_part(b + i, n - i, 0);
    return lanes_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

moe_real KERNEL(sum)(int64_t n, const moe_real *x) {
    vec sum[4] = {{0}};
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int k = 0; k < 4; k++) sum[k] += load(x + i + k * VL);
    for (; i + VL <= n; i += VL) sum[0] += load(x + i);
    if (i < n) sum[1] += load_part(x + i, n - i, 0);
    return lanes_sum((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

/* -inf for an empty row; NaN if there is one. */
moe_real KERNEL(max)(int64_t n, const moe_real *x) {
    const moe_real least = -(moe_real)__builtin_inf();
    vec best = splat(least);
    for (int64_t i = 0; i < n; i += VL) {
        vec v = i + VL <= n ? load(x + i) : load_part(x + i, n - i, least);
        best = choose((v > best) | (v != v), v, best);
    }
    return lanes_max(best);
}
