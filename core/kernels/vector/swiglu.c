/* swiglu.c -- silu(gate) * up (Shazeer 2020). */
#include "kernels/vector/activation.h"

void KERNEL(swiglu)(int64_t n, const moe_real *gate, const moe_real *up, moe_real *y) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) store(y + i, silu_at(load(gate + i)).y * load(up + i));
    if (i == n) return;
    vec g = load_part(gate + i, n - i, 0);
    store_part(y + i, silu_at(g).y * load_part(up + i, n - i, 0), n - i);
}

typedef struct gradients {
    vec gate, up, y;
} gradients;

INLINE gradients gradients_of(vec g, vec u, vec dy) {
    curve silu = silu_at(g);
    return (gradients){.gate = dy * u * silu.slope, .up = dy * silu.y, .y = silu.y * u};
}

/* All of a block is read before any of it is written: the results may replace the inputs. */
void KERNEL(swiglu_grad)(int64_t n, const moe_real *gate, const moe_real *up, const moe_real *dy,
                         moe_real *dgate, moe_real *dup, moe_real *y) {
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        gradients d = gradients_of(load(gate + i), load(up + i), load(dy + i));
        store(dgate + i, d.gate);
        store(dup + i, d.up);
        if (y) store(y + i, d.y);
    }
    if (i == n) return;
    int64_t rest = n - i;
    gradients d = gradients_of(load_part(gate + i, rest, 0), load_part(up + i, rest, 0),
                               load_part(dy + i, rest, 0));
    store_part(dgate + i, d.gate, rest);
    store_part(dup + i, d.up, rest);
    if (y) store_part(y + i, d.y, rest);
}
