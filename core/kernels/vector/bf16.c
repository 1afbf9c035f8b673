/* bf16.c -- the bf16 format of matrix products (see kernels/product.h).
 *
 * Everything is made of pairs: two numbers that follow each other along k, in one word of 32 bits.
 * A row of A is a row of pairs, a row of a panel holds 32 of them. How pairs are multiplied depends
 * on the processor: in tiles of its own (AMX), pair by pair (AVX512_BF16), or widened to f32. The
 * first two take numbers below the smallest normal f32 as 0. The double build has no bf16.
 */
#include "kernels/vector/operands.h"

#if !MOE_REAL_IS_DOUBLE
#include "kernels/vector/bf16.h"

enum { DEPTH = 32 };            /* one step of AMX, and two vectors of f32 */

#if defined(__AMX_BF16__)
#include "kernels/vector/bf16_amx.h"
#elif defined(__AVX512BF16__)
#include "kernels/vector/bf16_dot.h"
#else
#include "kernels/vector/bf16_wide.h"
#endif

static int64_t pairs_of(int64_t k) { return moe__round_up(k, DEPTH) / 2; }

/* The pairs of row i from `begin` on; apart, because the loops of `left` need the registers. */
__attribute__((noinline)) static void left_rest(const source *s, int64_t i, int64_t begin,
                                                uint32_t *to) {
    for (int64_t p = begin; p < pairs_of(s->n); p += VL)
        store_pairs(to + p, pairs_along(take(s, i, 2 * p), take(s, i, 2 * p + VL)));
}

static void left(int64_t m, int64_t k, const moe_real *from, int64_t ld, const int32_t *index,
                 const moe_real *scale, void *to, int64_t ldto) {
    const source s = {m, k, from, ld, index, scale};
    const int64_t whole = scale ? 0 : k / (2 * VL) * VL;
    uint32_t *at = to;
    for (int64_t i = 0; i < m; i++, at += ldto / 2) {
        const moe_real *x = row(&s, i);
        for (int64_t p = 0; p < whole; p += VL)
            store_pairs(at + p, pairs_along(load(x + 2 * p), load(x + 2 * p + VL)));
        if (whole < pairs_of(k)) left_rest(&s, i, whole, at);
    }
}

static void left_transposed(int64_t m, int64_t k, const moe_real *from, int64_t ld,
                            const int32_t *index, const moe_real *scale, void *to, int64_t ldto) {
    const source s = {k, m, from, ld, index, scale};
    block_copy copy;
    for (int64_t p = 0; p < pairs_of(k); p += VL)
        for (int64_t i = 0; i < m; i += VL) {
            block b = block_at(&s, 2 * p, i, 2 * VL, VL, copy);
            vec turned[VL];
#pragma GCC unroll 16
            for (int r = 0; r < VL; r++)
                turned[r] = (vec)pair(load(b.at + 2 * r * b.ld), load(b.at + (2 * r + 1) * b.ld));
            transpose(turned);
            put(turned, m - i, VL, (moe_real *)to + i * (ldto / 2) + p, ldto / 2);
        }
}

static void right(int64_t k, int64_t n, const moe_real *from, int64_t ld, const int32_t *index,
                  void *to) {
    const source s = {k, n, from, ld, index, NULL};
    uint32_t *at = to;
    for (int64_t j = 0; j < n; j += MOE_PANEL)
        for (int64_t p = 0; p < pairs_of(k); p++, at += MOE_PANEL) {
            bool whole = n - j >= MOE_PANEL && 2 * p + 1 < k;
            for (int64_t h = j; h < j + MOE_PANEL; h += VL)
                store_pairs(at + h - j,
                            whole ? pair(load(row(&s, 2 * p) + h), load(row(&s, 2 * p + 1) + h))
                                  : pair(take(&s, 2 * p, h), take(&s, 2 * p + 1, h)));
        }
}

static void right_transposed(int64_t k, int64_t n, const moe_real *from, int64_t ld, void *to) {
    const source s = {n, k, from, ld, NULL, NULL};
    moe_real *panel = to;
    block_copy copy;
    for (int64_t j = 0; j < n; j += MOE_PANEL, panel += pairs_of(k) * MOE_PANEL)
        for (int64_t h = 0; h < MOE_PANEL; h += VL)
            for (int64_t p = 0; p < pairs_of(k); p += VL) {
                block b = block_at(&s, j + h, 2 * p, VL, 2 * VL, copy);
                vec turned[VL];
#pragma GCC unroll 16
                for (int r = 0; r < VL; r++)
                    turned[r] = (vec)pairs_along(load(b.at + r * b.ld),
                                                 load(b.at + r * b.ld + VL));
                transpose(turned);
                put(turned, VL, VL, panel + p * MOE_PANEL + h, MOE_PANEL);
            }
}

const moe_format KERNEL(bf16) = {
    .name = KERNEL_TEXT(MOE_ISA), .element = 2, .depth = DEPTH, .rows = 16, .direct = false,
    .left = left, .left_transposed = left_transposed, .right = right,
    .right_transposed = right_transposed, .multiply = multiply};
#endif
