/* mixture_of_tokens.h -- what the parts of the op share: sizes, and how lies what is between them.
 *
 * x [B x S x d] is cut into groups: group q has the g tokens at position q % S of g successive
 * sequences, S d numbers apart. A group gives every expert one row, the mixture of its tokens, and
 * gets one back. So the experts see [E x groups x d], all as many rows; see moe__experts_forward.
 *
 *   weights   of group q: [E x across], the g tokens of an expert side by side
 *   strips    rows that experts take: of expert e, for each 32 columns, [groups x 32]
 *   panels    rows that experts give: of group q, for each 32 columns, [E x 32]
 *
 * Strips and panels are filled up with zeros. In f32 both are operands of products as they are.
 */
#ifndef MOE_OPS_MIXTURE_OF_TOKENS_H
#define MOE_OPS_MIXTURE_OF_TOKENS_H

#include "kernels/kernels.h"
#include "tape/op.h"

enum { MIX_X, MIX_CONTROLLER, MIX_W1, MIX_W3, MIX_W2, MIX_TEMPERATURE };    /* inputs */
enum { MIX_WEIGHTS, MIX_MERGED, MIX_GIVEN, MIX_HIDDEN };                    /* kept for backward */

typedef struct moe_mixture {
    moe_call *c;
    const moe_kernels *kernels;
    const moe_format *f;            /* of the experts' products; tokens are mixed in f32 */
    moe_activation activation;
    int64_t S, d, g, E, h;
    int64_t groups, across;         /* across: g filled up to whole panels */
    int64_t rows;                   /* groups filled up to the depth of the format */
    int64_t strips, panels;         /* numbers from one expert, from one group to the next */
    moe_real temperature;
    moe_scratch scratch;

    moe_real *weights;
    moe_real *merged, *given;       /* strips of m, panels of FFN(m) */
    moe_real *dgiven, *dmerged;     /* strips of dFFN(m), panels of dm; dmerged NULL: not wanted */
    void *hidden[2];                /* W1 m, W3 m before the activation, in the format: of each
                                       expert and 32 columns [rows x 32]; NULL: nothing is kept */
    moe_real *dhidden[2];           /* their gradients, in f32 */
    void *merged_panels;            /* m as a right operand, when the strips are none */
    moe_real *controller;           /* C as a right operand; NULL: there is none, as for parts */
    moe_real *parts;                /* of dC: what each task of mixing found */
} moe_mixture;

/* How many strips a row of n numbers has. */
static inline int64_t moe__strips(int64_t n) { return (n + MOE_PANEL - 1) / MOE_PANEL; }

/* Of rows that lie far apart, 32 numbers from `to` on will be written: to wait for one row after
 * the other would take longer than the product that writes them. Always inline, because compilers
 * drop calls of a function that does nothing but this. */
__attribute__((always_inline)) static inline void moe__expect(int64_t rows, const moe_real *to,
                                                              int64_t apart) {
    for (int64_t i = 0; i < rows; i++, to += apart)
        for (int line = 0; line < MOE_PANEL; line += 64 / (int)sizeof *to)
            __builtin_prefetch(to + line, 1, 2);
}

/* ---- mixing (token_mixing.c) ---------------------------------------------------------------- */

/* Bytes of scratch that a task needs. */
size_t moe__mixing_scratch(const moe_mixture *m);
/* How many parts dC comes in. */
int64_t moe__mixing_tasks(const moe_mixture *m);

/* The weights from x and the controller, and merged. */
void moe__merge_tokens(moe_mixture *m);
/* y from given. */
void moe__emit_tokens(moe_mixture *m);
/* dgiven from dy. */
void moe__merge_gradients(moe_mixture *m);
/* dx, which may be NULL, (+)= what comes from dmerged; with a controller, the parts of dC too. */
void moe__emit_gradients(moe_mixture *m, moe_real *dx, bool add);

/* ---- experts (merged_experts.c) ------------------------------------------------------------- */

/* Packs the weights for forward or backward. MOE_ENOMEM. */
typedef struct moe_experts {
    moe_mixture *m;
    const void *bank[3];            /* panels of w1, w3, w2 */
} moe_experts;
moe_status moe__experts_pack(moe_mixture *m, bool backward, moe_experts *out);
size_t moe__experts_scratch(const moe_mixture *m);

/* given = FFN(merged), and hidden. */
void moe__experts_forward(moe_experts *x);
/* dmerged from dgiven, and dhidden; hidden becomes the right operand of dw2. */
void moe__experts_backward(moe_experts *x);
/* dw (+)= the gradient of input MIX_W1, MIX_W3 or MIX_W2, after moe__experts_backward. */
void moe__experts_weights(moe_experts *x, int input, moe_real *dw, bool add);

#endif
