/* rope.c -- rotary position embedding of one head (Su et al. 2021), in the half-split order: the
 * pairs are (i, i + half). */
#include "kernels/vector/vec.h"

/* x and y do not overlap, and neither do the halves of y. */
INLINE void rotate(int64_t half, const moe_real *restrict cosine, const moe_real *restrict sine,
                   moe_real sign, const moe_real *restrict x, moe_real *restrict low,
                   moe_real *restrict high, bool add) {
    for (int64_t i = 0; i < half; i++) {
        moe_real c = cosine[i], s = sign * sine[i];
        moe_real first = x[i] * c - x[i + half] * s, second = x[i + half] * c + x[i] * s;
        low[i] = add ? low[i] + first : first;
        high[i] = add ? high[i] + second : second;
    }
}

void KERNEL(rope)(int64_t half, const moe_real *cosine, const moe_real *sine, moe_real sign,
                  const moe_real *x, moe_real *y, bool add) {
    if (add)
        rotate(half, cosine, sine, sign, x, y, y + half, true);
    else
        rotate(half, cosine, sine, sign, x, y, y + half, false);
}
