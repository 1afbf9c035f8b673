/* map.c -- functions of one number, and what their gradients add. */
#include <math.h>

#include "kernels/vector/activation.h"

#if MOE_REAL_IS_DOUBLE
#define LIBM(name) name
#else
#define LIBM(name) name##f
#endif

/* A block of VL elements at a time; the last, shorter one goes through the same code, so that an
 * element's value does not depend on where it stands. */
#define MAP(name, expression)                                                                      \
    void KERNEL(name)(int64_t n, const moe_real *px, moe_real *py) {                               \
        int64_t i = 0;                                                                             \
        for (; i + VL <= n; i += VL) {                                                             \
            vec x = load(px + i);                                                                  \
            store(py + i, (expression));                                                           \
        }                                                                                          \
        if (i == n) return;                                                                        \
        vec x = load_part(px + i, n - i, 1);                                                       \
        store_part(py + i, (expression), n - i);                                                   \
    }

/* dx += slope dy, with the slope taken from the saved s */
#define MAP_GRAD(name, slope)                                                                      \
    void KERNEL(name)(int64_t n, const moe_real *saved, const moe_real *dy, moe_real *dx) {        \
        int64_t i = 0;                                                                             \
        for (; i + VL <= n; i += VL) {                                                             \
            vec s = load(saved + i);                                                               \
            store(dx + i, load(dx + i) + load(dy + i) * (slope));                                  \
        }                                                                                          \
        if (i == n) return;                                                                        \
        vec s = load_part(saved + i, n - i, 1);                                                    \
        vec sum = load_part(dx + i, n - i, 0) + load_part(dy + i, n - i, 0) * (slope);             \
        store_part(dx + i, sum, n - i);                                                            \
    }

/* Element by element: what needs libm, and what the compiler turns into one instruction itself. */
#define EACH(name, expression)                                                                     \
    void KERNEL(name)(int64_t n, const moe_real *px, moe_real *py) {                               \
        for (int64_t i = 0; i < n; i++) {                                                          \
            moe_real x = px[i];                                                                    \
            py[i] = (expression);                                                                  \
        }                                                                                          \
    }

MAP(exp, vexp(x))
MAP_GRAD(exp_grad, s)

EACH(log, LIBM(log)(x))
MAP_GRAD(log_grad, 1 / s)

EACH(sqrt, LIBM(sqrt)(x))
MAP_GRAD(sqrt_grad, (moe_real)0.5 / s)

MAP(sigmoid, vsigmoid(x))
MAP_GRAD(sigmoid_grad, s * (1 - s))

MAP(silu, silu_at(x).y)
MAP_GRAD(silu_grad, silu_at(s).slope)

MAP(gelu, gelu_at(x).y)
MAP_GRAD(gelu_grad, gelu_at(s).slope)

MAP(relu, relu_at(x).y)
MAP_GRAD(relu_grad, relu_at(s).slope)

EACH(tanh, LIBM(tanh)(x))
MAP_GRAD(tanh_grad, 1 - s * s)

/* log(1 + u) for 0 <= u <= 1 is 2 atanh(z) with z = u / (2 + u) <= 1/3: a series of positive terms,
 * which keeps the digits of a small u. */
INLINE vec log_above_1(vec u) {
    const int terms = MOE_REAL_IS_DOUBLE ? 16 : 7;
    vec z = u / (2 + u), square = z * z, sum = splat(1 / (moe_real)(2 * terms + 1));
    for (int i = terms - 1; i >= 0; i--) sum = sum * square + 1 / (moe_real)(2 * i + 1);
    return 2 * z * sum;
}

/* exp sees no positive number. */
MAP(softplus, choose(x > 0, x, splat(0)) + log_above_1(vexp_below(choose(x > 0, -x, x))))
MAP_GRAD(softplus_grad, vsigmoid(s))

MAP(normal_cdf, phi_at(x).y)
MAP_GRAD(normal_cdf_grad, phi_at(s).slope)
