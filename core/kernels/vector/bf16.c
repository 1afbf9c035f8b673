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

#if defined(__AMX_BF16__)
#include "kernels/vector/bf16_amx.h"
#elif defined(__AVX512BF16__)
#include "kernels/vector/bf16_dot.h"
#else
#include "kernels/vector/bf16_wide.h"
#endif

enum { DEPTH = 32 };            /* one step of AMX, and two vectors of f32 */

static int64_t pairs_of(int64_t k) { return moe__round_up(k, DEPTH) / 2; }

static void left(int64_t m, int64_t k, const moe_real *from, int64_t ld, const int32_t *index,
                 const moe_real *scale, void *to, int64_t ldto) {
    const source s = {m, k, from, ld, index, scale};
    for (int64_t i = 0; i < m; i++) {
        uint32_t *at = (uint32_t *)to + i * (ldto / 2);
        for (int64_t p = 0; p < pairs_of(k); p += VL)
            store_pairs(at + p, pairs_along(take(&s, i, 2 * p), take(&s, i, 2 * p + VL)));
    }
}

/* Column i of S and the row of pairs that it becomes. */
static void left_transposed(int64_t m, int64_t k, const moe_real *from, int64_t ld,
                            const int32_t *index, const moe_real *scale, void *to, int64_t ldto) {
    const source s = {k, m, from, ld, index, scale};
    for (int64_t i = 0; i < m; i += VL)
        for (int64_t p = 0; p < pairs_of(k); p += VL) {
            vec block[VL];
            for (int64_t r = 0; r < VL; r++)
                block[r] = (vec)pair(take(&s, 2 * (p + r), i), take(&s, 2 * (p + r) + 1, i));
            transpose(block);
            uint32_t *at = (uint32_t *)to + i * (ldto / 2) + p;
            for (int64_t c = 0; c < VL && i + c < m; c++)
                store_pairs(at + c * (ldto / 2), (pairs)block[c]);
        }
}

static void right(int64_t k, int64_t n, const moe_real *from, int64_t ld, const int32_t *index,
                  void *to) {
    const source s = {k, n, from, ld, index, NULL};
    uint32_t *at = to;
    for (int64_t j = 0; j < n; j += MOE_PANEL)
        for (int64_t p = 0; p < pairs_of(k); p++, at += MOE_PANEL)
            for (int64_t h = 0; h < MOE_PANEL; h += VL)
                store_pairs(at + h, pair(take(&s, 2 * p, j + h), take(&s, 2 * p + 1, j + h)));
}

static void right_transposed(int64_t k, int64_t n, const moe_real *from, int64_t ld, void *to) {
    const source s = {n, k, from, ld, NULL, NULL};
    uint32_t *panel = to;
    for (int64_t j = 0; j < n; j += MOE_PANEL, panel += pairs_of(k) * MOE_PANEL)
        for (int64_t h = 0; h < MOE_PANEL; h += VL)
            for (int64_t p = 0; p < pairs_of(k); p += VL) {
                vec block[VL];
                for (int64_t r = 0; r < VL; r++)
                    block[r] = (vec)pairs_along(take(&s, j + h + r, 2 * p),
                                                take(&s, j + h + r, 2 * p + VL));
                transpose(block);
                for (int64_t c = 0; c < VL; c++)
                    store_pairs(panel + (p + c) * MOE_PANEL + h, (pairs)block[c]);
            }
}

const moe_format KERNEL(bf16) = {
    .name = KERNEL_TEXT(MOE_ISA), .element = 2, .depth = DEPTH, .rows = 16, .direct = false,
    .left = left, .left_transposed = left_transposed, .right = right,
    .right_transposed = right_transposed, .multiply = multiply};
#endif
