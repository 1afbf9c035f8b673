/* attention.c -- what attention does with a block of scores, [rows x 32]: see core/ops/attention.c.
 *
 * In both kernels the last rows or the first ones meet the causal mask, and go through the same
 * code with a mask, so that the others need not look at it.
 */
#include "kernels/vector/vec.h"

#define INFINITE ((moe_real)__builtin_inf())

/* 0, 1, 2, ... from `first` on */
INLINE vec counted(moe_real first) {
    vec v;
    for (int i = 0; i < VL; i++) v[i] = (moe_real)i;
    return v + first;
}

/* ---- a column for every query ---------------------------------------------------------------- */

INLINE vec larger(vec a, vec b) { return choose(a > b, a, b); }

/* Scores that the column does not see become -inf, whose exponential is exactly 0. */
INLINE void hide(int64_t keys, int64_t seen, int column, moe_real *scores) {
    vec position = counted((moe_real)column);
    for (int64_t j = seen < 0 ? 0 : seen; j < keys; j++) {
        vec s = load(scores + j * MOE_PANEL);
        store(scores + j * MOE_PANEL, choose(position > (moe_real)(j - seen), s, splat(-INFINITE)));
    }
}

INLINE vec column_max(int64_t keys, vec top, const moe_real *scores) {
    vec other = top;                /* two chains: each maximum waits for the one before */
    int64_t j = 0;
    for (; j + 2 <= keys; j += 2) {
        top = larger(load(scores + j * MOE_PANEL), top);
        other = larger(load(scores + (j + 1) * MOE_PANEL), other);
    }
    if (j < keys) top = larger(load(scores + j * MOE_PANEL), top);
    return larger(other, top);
}

INLINE vec column_exp(int64_t keys, vec top, moe_real scale, moe_real *scores) {
    vec sum = splat(0);
    for (int64_t j = 0; j < keys; j++) {
        vec p = vexp_below((load(scores + j * MOE_PANEL) - top) * scale);
        store(scores + j * MOE_PANEL, p);
        sum += p;
    }
    return sum;
}

void KERNEL(attention_step)(int64_t keys, int64_t columns, int64_t seen, moe_real scale,
                            moe_real *scores, moe_real *top, moe_real *sum, moe_real *fade) {
    for (int c = 0; c < columns; c += VL) {
        hide(keys, seen + 1, c, scores + c);
        vec before = load(top + c), now = column_max(keys, before, scores + c);
        vec factor = vexp_below((before - now) * scale);
        store(fade + c, factor);
        store(top + c, now);
        store(sum + c, load(sum + c) * factor + column_exp(keys, now, scale, scores + c));
    }
}

void KERNEL(scale_columns)(int64_t rows, int64_t columns, const moe_real *factor, moe_real *x) {
    for (int c = 0; c < columns; c += VL) {
        vec f = load(factor + c);
        for (int64_t i = 0; i < rows; i++)
            store(x + i * MOE_PANEL + c, load(x + i * MOE_PANEL + c) * f);
    }
}

/* ---- a row for every query ------------------------------------------------------------------- */

/* Row i of attention_grad; the mask matters where `seen` is below the width. */
INLINE void grad_row(bool masked, moe_real seen, moe_real lse, moe_real delta, moe_real scale,
                     moe_real *s, moe_real *dp) {
    for (int c = 0; c < MOE_PANEL; c += VL) {
        vec p = vexp_below((load(s + c) - lse) * scale);
        vec ds = (load(dp + c) - delta) * scale * p;
        if (masked) {
            veci visible = counted((moe_real)c) < seen;
            p = choose(visible, p, splat(0));
            ds = choose(visible, ds, splat(0));
        }
        store(s + c, p);
        store(dp + c, ds);
    }
}

void KERNEL(attention_grad)(int64_t rows, int64_t seen, const moe_real *lse, const moe_real *delta,
                            moe_real scale, moe_real *s, moe_real *dp) {
    int64_t i = 0;
    for (; i < rows && seen + i < MOE_PANEL; i++)
        grad_row(true, (moe_real)(seen + i), lse[i], delta[i], scale, s + i * MOE_PANEL,
                 dp + i * MOE_PANEL);
    for (; i < rows; i++)
        grad_row(false, MOE_PANEL, lse[i], delta[i], scale, s + i * MOE_PANEL, dp + i * MOE_PANEL);
}
