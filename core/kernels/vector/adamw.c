/* adamw.c -- one AdamW step over a run of parameters: every array is read and written once. */
#include "kernels/vector/vec.h"

#if MOE_REAL_IS_DOUBLE
#define ROOT __builtin_sqrt
#else
#define ROOT __builtin_sqrtf
#endif

/* The compiler makes one square root instruction of the lanes of a register. */
INLINE vec vsqrt(vec x) {
    for (int i = 0; i < VL; i++) x[i] = ROOT(x[i]);
    return x;
}

typedef struct state {
    vec w, m, v;
} state;

/* One division: it and the square root are what takes longest. `i1` is 1 / c1, `i2` is 1 / c2. */
INLINE state step(const moe_adamw_args *a, moe_real i1, moe_real i2, vec g, state s) {
    g *= a->clip;
    s.m = a->beta1 * s.m + (1 - a->beta1) * g;
    s.v = a->beta2 * s.v + (1 - a->beta2) * (g * g);
    vec direction = (s.m * i1) / (vsqrt(s.v * i2) + a->eps);
    s.w -= a->lr * (direction + a->weight_decay * s.w);
    return s;
}

void KERNEL(adamw)(int64_t n, const moe_adamw_args *args, const moe_real *g, moe_real *w,
                   moe_real *m, moe_real *v) {
    const moe_adamw_args a = *args;     /* a copy cannot alias what is written */
    const moe_real i1 = 1 / a.c1, i2 = 1 / a.c2;
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        state s = step(&a, i1, i2, load(g + i),
                       (state){load(w + i), load(m + i), load(v + i)});
        store(w + i, s.w);
        store(m + i, s.m);
        store(v + i, s.v);
    }
    if (i == n) return;
    int64_t rest = n - i;
    state s = step(&a, i1, i2, load_part(g + i, rest, 0),
                   (state){load_part(w + i, rest, 0), load_part(m + i, rest, 0),
                           load_part(v + i, rest, 0)});
    store_part(w + i, s.w, rest);
    store_part(m + i, s.m, rest);
    store_part(v + i, s.v, rest);
}
