/* kernels.h -- the hot loops, on raw pointers: no tensors, no tape.
 *
 * The functions of `moe_kernels` stand in core/kernels/vector and are compiled once per
 * instruction set; the best set the processor has is chosen when a context opens. They run on one
 * thread: the op cuts the work. Sizes count elements. `d` in a name means a gradient; functions
 * ending in _grad add to what is there.
 */
#ifndef MOE_KERNELS_H
#define MOE_KERNELS_H

#include "base/pool.h"
#include "kernels/merging.h"
#include "kernels/product.h"
#include "moe.h"

/* y[i] = f(x[i]) */
typedef void moe_map(int64_t n, const moe_real *x, moe_real *y);
/* dx[i] += f'(.) dy[i], with f' taken from the saved x[i] (or from y[i] = f(x[i]), as noted) */
typedef void moe_map_grad(int64_t n, const moe_real *saved, const moe_real *dy, moe_real *dx);
/* y[i] = f(a[i * sa], b[i * sb]) with strides 0 or 1 */
typedef void moe_map2(int64_t n, const moe_real *a, int sa, const moe_real *b, int sb,
                      moe_real *y);

#define MOE_KERNEL_TABLE(X)                                                                        \
    X(moe_map, exp) X(moe_map_grad, exp_grad)             /* grad from y */                        \
    X(moe_map, log) X(moe_map_grad, log_grad)                                                      \
    X(moe_map, sqrt) X(moe_map_grad, sqrt_grad)           /* from y */                             \
    X(moe_map, sigmoid) X(moe_map_grad, sigmoid_grad)     /* from y */                             \
    X(moe_map, silu) X(moe_map_grad, silu_grad)                                                    \
    X(moe_map, gelu) X(moe_map_grad, gelu_grad)           /* exact: x Phi(x) */                    \
    X(moe_map, relu) X(moe_map_grad, relu_grad)                                                    \
    X(moe_map, tanh) X(moe_map_grad, tanh_grad)           /* from y */                             \
    X(moe_map, softplus) X(moe_map_grad, softplus_grad)                                            \
    X(moe_map, normal_cdf) X(moe_map_grad, normal_cdf_grad)                                        \
    X(moe_map2, add) X(moe_map2, sub) X(moe_map2, mul) X(moe_map2, div)                            \
    X(moe_accumulate_fn, accumulate)                                                               \
    X(moe_scale_fn, scale)                                                                         \
    X(moe_dot_fn, dot) X(moe_sum_fn, sum) X(moe_sum_fn, max)                                       \
    X(moe_axpy_fn, axpy)                                                                           \
    X(moe_softmax_fn, softmax) X(moe_softmax_grad_fn, softmax_grad)                                \
    X(moe_softmax_fn, log_softmax) X(moe_softmax_grad_fn, log_softmax_grad)                        \
    X(moe_rms_norm_fn, rms_norm) X(moe_rms_norm_grad_fn, rms_norm_grad)                            \
    X(moe_swiglu_fn, swiglu) X(moe_swiglu_grad_fn, swiglu_grad)                                    \
    X(moe_expert_fn, expert) X(moe_expert_grad_fn, expert_grad)                                    \
    X(moe_rope_fn, rope)                                                                           \
    X(moe_attention_step_fn, attention_step) X(moe_scale_columns_fn, scale_columns)                \
    X(moe_attention_grad_fn, attention_grad) X(moe_exp_sum_fn, exp_sum)                            \
    X(moe_cross_entropy_fn, cross_entropy)                                                         \
    X(moe_adamw_fn, adamw)                                                                         \
    X(moe_gemv_fn, gemv_f32) X(moe_gemv_fn, gemv_bf16) X(moe_gemv_fn, gemv_f16)                    \
    X(moe_gemv_fn, mix_f32) X(moe_gemv_fn, mix_bf16) X(moe_gemv_fn, mix_f16)                       \
    X(moe_widen_fn, widen_bf16) X(moe_widen_fn, widen_f16)                                         \
    MOE_MERGING_KERNELS(X)

/* y[i] += x[i] */
typedef void moe_accumulate_fn(int64_t n, const moe_real *x, moe_real *y);
/* y[i] = s * x[i] */
typedef void moe_scale_fn(int64_t n, moe_real s, const moe_real *x, moe_real *y);
/* y[i] += s * x[i] */
typedef void moe_axpy_fn(int64_t n, moe_real s, const moe_real *x, moe_real *y);
/* Sums are taken in a fixed order of lanes, the same for every thread count. */
typedef moe_real moe_dot_fn(int64_t n, const moe_real *a, const moe_real *b);
typedef moe_real moe_sum_fn(int64_t n, const moe_real *x);

/* One row of n. A row that is all -inf becomes uniform. NaN stays NaN. */
typedef void moe_softmax_fn(int64_t n, const moe_real *x, moe_real *y);
/* dx += softmax' dy, from y. */
typedef void moe_softmax_grad_fn(int64_t n, const moe_real *y, const moe_real *dy, moe_real *dx);

/* y = x / rms(x) * w; returns 1 / rms(x). */
typedef moe_real moe_rms_norm_fn(int64_t n, moe_real eps, const moe_real *x, const moe_real *w,
                                 moe_real *y);
/* dx = beta dx + ..., dw += ...; either may be NULL. */
typedef void moe_rms_norm_grad_fn(int64_t n, moe_real inv_rms, const moe_real *x,
                                  const moe_real *w, const moe_real *dy, moe_real beta,
                                  moe_real *dx, moe_real *dw);

/* y = silu(gate) * up */
typedef void moe_swiglu_fn(int64_t n, const moe_real *gate, const moe_real *up, moe_real *y);
/* Replaces dgate and dup: dgate = dy up silu'(gate), dup = dy silu(gate). y, if not NULL, receives
 * silu(gate) * up again. dgate or dup may be the same pointer as gate or up. */
typedef void moe_swiglu_grad_fn(int64_t n, const moe_real *gate, const moe_real *up,
                                const moe_real *dy, moe_real *dgate, moe_real *dup, moe_real *y);

/* Of the experts, numbered as in the signature of moe_ffn. */
typedef enum moe_activation { MOE_SWIGLU, MOE_RELU, MOE_GELU, MOE_SILU } moe_activation;

/* A strip of an expert's hidden columns, rows of MOE_PANEL: y = silu(g) u for SwiGLU, else f(g)
 * without u. The rows of y lie ldy elements apart. */
typedef void moe_expert_fn(moe_activation f, int64_t rows, const moe_real *g, const moe_real *u,
                           moe_real *y, int64_t ldy);
/* Its gradient, where dy does not contain the gate of the row yet, scale: dg and du (ld elements
 * between rows) do, dscale += <dy, y>, and y is made again. y may be g, u or dy. */
typedef struct moe_expert_strip {
    const moe_real *g, *u, *dy, *scale;
    moe_real *dg, *du, *y, *dscale;
    int64_t ld;
} moe_expert_strip;
typedef void moe_expert_grad_fn(moe_activation f, int64_t rows, const moe_expert_strip *s);

/* Rotates the pairs (i, i + half) of one head: y = x cos + rotate_half(x) sin; sign -1 turns back.
 * add: y += instead of y =. */
typedef void moe_rope_fn(int64_t half, const moe_real *cosine, const moe_real *sine, moe_real sign,
                         const moe_real *x, moe_real *y, bool add);

/* A block of scores in attention, [keys x 32], with a column for each query; `columns` is 16 or 32.
 * Column c sees the keys 0 .. seen + c. For every column: top = max(top, scores), fade =
 * exp(scale (top before - top)), scores = exp(scale (scores - top)) or 0 where it does not see,
 * sum = sum fade + the sum of these. NaN stays in its column. */
typedef void moe_attention_step_fn(int64_t keys, int64_t columns, int64_t seen, moe_real scale,
                                   moe_real *scores, moe_real *top, moe_real *sum, moe_real *fade);
/* x[i] = exp(x[i] - shift); returns the sum. */
typedef moe_real moe_exp_sum_fn(int64_t n, moe_real shift, moe_real *x);
/* x [rows x 32]: column c *= factor[c] */
typedef void moe_scale_columns_fn(int64_t rows, int64_t columns, const moe_real *factor,
                                  moe_real *x);
/* Blocks of attention backward, [rows x 32], with a row for each query; row i sees the first
 * seen + i columns: s = exp(scale (s - lse[i])) and dp = s (dp - delta[i]) scale, or 0. */
typedef void moe_attention_grad_fn(int64_t rows, int64_t seen, const moe_real *lse,
                                   const moe_real *delta, moe_real scale, moe_real *s,
                                   moe_real *dp);

/* Loss of one row of logits, -log softmax(x)[target]; if scale is not 0, replaces x by
 * scale * (softmax(x) - onehot(target)). */
typedef moe_real moe_cross_entropy_fn(int64_t n, moe_real *x, int64_t target, moe_real scale);

/* AdamW (Loshchilov and Hutter 2019, decoupled decay), in place. g is multiplied by clip first;
 * c1 = 1 - beta1^t, c2 = 1 - beta2^t. */
typedef struct moe_adamw_args {
    moe_real lr, beta1, beta2, eps, weight_decay, clip, c1, c2;
} moe_adamw_args;
typedef void moe_adamw_fn(int64_t n, const moe_adamw_args *a, const moe_real *g, moe_real *w,
                          moe_real *m, moe_real *v);

/* Few rows and a matrix W [n x k] as it is stored, in f32, bf16 or f16; ld count elements.
 * gemv: y [m x n] = x W^T with x [m x k].   mix: y [m x k] = x W with x [m x n]. */
typedef struct moe_gemv {
    int64_t m, n, k;
    const moe_real *x;
    int64_t ldx;
    const void *w;
    int64_t ldw;
    moe_real *y;
    int64_t ldy;
} moe_gemv;
typedef void moe_gemv_fn(const moe_gemv *g);

/* y[i] = x[i], from bf16 or f16 */
typedef void moe_widen_fn(int64_t n, const uint16_t *x, moe_real *y);

typedef struct moe_kernels {
    const char *name;
#define X(type, member) type *member;
    MOE_KERNEL_TABLE(X)
#undef X
    const moe_format *f32, *bf16;   /* matrix products, see product.h; bf16 NULL in double */
} moe_kernels;

/* The kernels for one element type: gemv or mix; what makes real numbers of it, NULL for f32. */
static inline moe_gemv_fn *moe__gemv(const moe_kernels *k, moe_dtype type) {
    return type == MOE_F32 ? k->gemv_f32 : type == MOE_BF16 ? k->gemv_bf16 : k->gemv_f16;
}
static inline moe_gemv_fn *moe__mix(const moe_kernels *k, moe_dtype type) {
    return type == MOE_F32 ? k->mix_f32 : type == MOE_BF16 ? k->mix_bf16 : k->mix_f16;
}
static inline moe_widen_fn *moe__widen(const moe_kernels *k, moe_dtype type) {
    return type == MOE_F32 ? NULL : type == MOE_BF16 ? k->widen_bf16 : k->widen_f16;
}

/* The variant named "amx", "avx512bf16", "avx512", "avx2", "openblas" or "plain", or the best one
 * for NULL; NULL when this processor cannot run it. Choosing AMX asks the system to let this
 * process use it. */
const moe_kernels *moe__kernels_select(const char *name);

/* ---- matrix products ------------------------------------------------------------------------
 *
 * Row-major C[m x n] = op(A) op(B) + beta C; op is the transpose when the flag says so, ld counts
 * elements between rows. beta is 0 (stores without reading C) or 1. */
typedef struct moe_gemm {
    bool ta, tb;
    int64_t m, n, k;
    const moe_real *a;
    int64_t lda;
    const moe_real *b;
    int64_t ldb;
    moe_real beta;
    moe_real *c;
    int64_t ldc;
    const moe_format *format;       /* NULL = f32 */
    const void *panels;             /* op(B) as the format holds it; NULL = made from b */
    int64_t batch;                  /* so many products of that shape, 0 = 1, ... */
    int64_t step_a, step_b, step_c; /* ... whose operands lie that far apart */
} moe_gemm;

/* The panels of B [k x n] are made in pieces, which tasks can take in any order: B = S^T from
 * S [n x k] if `transposed`, otherwise S, with ld elements between rows. S^T may be in 16 bits,
 * which `widen` makes real numbers of; NULL: it is in f32. */
int64_t moe__pack_pieces(int64_t k, int64_t n);
void moe__pack_piece(const moe_format *f, bool transposed, int64_t k, int64_t n,
                     const void *from, moe_widen_fn *widen, int64_t ld, void *panels,
                     int64_t piece);

/* Memory for a batch of these shapes; pointers and beta do not count. MOE_ENOMEM. */
moe_status moe__gemm_reserve(moe_ctx *ctx, int64_t count, const moe_gemm *list);
/* Several products in one or two regions: B is packed where it is not, then blocks of C, cut by
 * shape alone, are spread over the pool. Cannot fail after moe__gemm_reserve. */
moe_status moe__gemm_batch(moe_ctx *ctx, int64_t count, const moe_gemm *list);
moe_status moe__gemm_parallel(moe_ctx *ctx, const moe_gemm *g);

#endif
