/* mixture_of_tokens.c -- mixture of tokens (Antoniak et al. 2023, arXiv 2310.15961), one node.
 *
 * A group is g tokens from g sequences at the same position. With C the controller and T the
 * temperature, for the tokens i of a group and every expert e:
 *
 *     w_ie = softmax over i of <x_i, C_e> / T      m_e = sum_i w_ie x_i
 *     o_e = W2_e f(W1_e m_e)                       y_i = sum_e w_ie o_e
 *
 * Backward, with do_e = sum_i w_ie dy_i and dm_e from it through the expert:
 *
 *     dw_ie = <dy_i, o_e> + <dm_e, x_i>            dl_ie = w_ie (dw_ie - sum_j w_je dw_je) / T
 *     dx_i = sum_e w_ie dm_e + dl_ie C_e           dC_e = sum_i dl_ie x_i
 *
 * and dT = -<C, dC> / T, because the weights depend on C / T alone. A direction is three regions:
 * groups, experts, groups. Kept are the weights, what experts took and gave, and their hidden rows
 * before the activation.
 */
#include "ops/mixture_of_tokens.h"

#include "ops/experts.h"
#include "tape/packed.h"

enum { GROUP, ACTIVATION };     /* parameters that are no tensors */
enum {
    LINE = 32,                  /* numbers that move rows a power of 2 apart to other cache sets */
    GRAIN = 4096                /* of dC that one task adds up */
};

/* Of a call whose shapes fit together. */
static moe_mixture measure(moe_call *c) {
    const int64_t *x = c->in[MIX_X]->shape, *w1 = c->in[MIX_W1]->shape;
    moe_mixture m = {.c = c, .kernels = c->ctx->kernels, .f = c->format,
                     .activation = (moe_activation)c->arg[ACTIVATION].i, .S = x[1], .d = x[2],
                     .g = c->arg[GROUP].i, .E = w1[0], .h = w1[1]};
    m.groups = x[0] / m.g * m.S;
    m.across = moe__strips(m.g) * MOE_PANEL;
    m.rows = moe__round_up(m.groups, m.f->depth);
    m.strips = moe__strips(m.d) * MOE_PANEL * m.rows + LINE;
    m.panels = moe__strips(m.d) * MOE_PANEL * m.E + LINE;
    m.temperature = c->in[MIX_TEMPERATURE] ? *moe__real(c->in[MIX_TEMPERATURE]) : 1;
    return m;
}

/* ---- infer ---------------------------------------------------------------------------------- */

static moe_status check_controller(moe_call *c) {
    const moe_tensor *t = c->in[MIX_CONTROLLER];
    int64_t E = c->in[MIX_W1]->shape[0], d = c->in[MIX_X]->shape[2];
    if (!t || (t->ndim == 2 && t->shape[0] == E && t->shape[1] == d)) return MOE_OK;
    return MOE_REJECT(c, MOE_ESHAPE, "the controller must be [%lld x %lld], not %s", (long long)E,
                      (long long)d, MOE_SHAPE(t));
}

static moe_status check_group(moe_call *c) {
    int64_t g = c->arg[GROUP].i, B = c->in[MIX_X]->shape[0];
    if (g < 1) return MOE_REJECT(c, MOE_EARG, "group must be at least 1, not %lld", (long long)g);
    if (B % g == 0) return MOE_OK;
    return MOE_REJECT(c, MOE_ESHAPE, "%lld sequences are no whole number of groups of %lld\n"
                      "hint: a batch must be a multiple of the group", (long long)B, (long long)g);
}

static moe_status check_temperature(moe_call *c) {
    const moe_tensor *t = c->in[MIX_TEMPERATURE];
    if (!t) return MOE_OK;
    if (t->count != 1)
        return MOE_REJECT(c, MOE_ESHAPE, "temperature must be one number, not %s", MOE_SHAPE(t));
    double value = (double)*moe__real(t);
    if (value > 0) return MOE_OK;
    return MOE_REJECT(c, MOE_EARG, "temperature must be above 0, not %g\n"
                      "hint: a learned temperature wants a smaller learning rate", value);
}

/* Sizes of what is kept: rows and columns. */
static void sizes_kept(const moe_mixture *m, int64_t size[4][2]) {
    int64_t matrices = m->activation == MOE_SWIGLU ? 2 : 1;
    const int64_t kept[4][2] = {{m->groups, m->E * m->across}, {m->E, m->strips},
                                {m->groups, m->panels},
                                {matrices * m->E, moe__strips(m->h) * MOE_PANEL * m->rows}};
    for (int i = 0; i < 4; i++) size[i][0] = kept[i][0], size[i][1] = kept[i][1];
}

static moe_status infer(moe_call *c) {
    const moe_tensor *x = c->in[MIX_X], *w1 = c->in[MIX_W1];
    moe_status s = moe__rank(c, x, "x", 3);
    if (!s) s = moe__experts_fit(c, x, MIX_W1, (moe_activation)c->arg[ACTIVATION].i);
    if (!s) s = check_controller(c);
    if (!s) s = check_group(c);
    if (!s) s = check_temperature(c);
    if (!s)
        s = moe__product_sizes(c, 5, (int64_t[]){x->shape[1], x->shape[2], w1->shape[0],
                                                 w1->shape[1], c->arg[GROUP].i});
    if (s) return s;
    moe_mixture m = measure(c);
    s = moe__product_sizes(c, 5, (int64_t[]){m.S * m.d, m.E * m.across, m.groups, m.strips,
                                             m.panels});
    if (s) return s;
    int64_t size[4][2];
    sizes_kept(&m, size);
    for (int i = 0; i < 4; i++) {
        if (moe__count(2, size[i]) < 0)
            return MOE_REJECT(c, MOE_ESHAPE, "x %s is too large for w1 %s", MOE_SHAPE(x),
                              MOE_SHAPE(w1));
        moe__keep(c, i, i == MIX_HIDDEN && !m.f->direct ? MOE_BF16 : MOE_F32, 2, size[i]);
    }
    moe__out_like(c, 0, c->in[MIX_X]);
    return MOE_OK;
}

/* ---- memory --------------------------------------------------------------------------------- */

/* Memory for what the op needs beside its tensors: laid out twice, to count and to have. */
typedef struct room {
    char *block;
    size_t used, bytes;
} room;

static void *piece(room *r, size_t bytes) {
    void *p = r->block ? r->block + r->used : NULL;
    r->used += (bytes + 63) & ~(size_t)63;
    return p;
}
static moe_real *reals(room *r, const int64_t size[2]) {
    return piece(r, sizeof(moe_real) * (size_t)(size[0] * size[1]));
}

/* Where what is kept is, or would be. */
static void lay_kept(moe_mixture *m, room *r) {
    moe_real **place[] = {&m->weights, &m->merged, &m->given};
    moe_call *c = m->c;
    int64_t size[4][2];
    sizes_kept(m, size);
    for (int i = 0; i < 3; i++)
        *place[i] = c->keep[i] ? moe__real(c->keep[i]) : reals(r, size[i]);
    if (!c->keep[MIX_HIDDEN]) return;
    m->hidden[0] = c->keep[MIX_HIDDEN]->storage->data;
    if (m->activation == MOE_SWIGLU)
        m->hidden[1] = moe__ahead(m->f, m->hidden[0], m->E * size[MIX_HIDDEN][1]);
}

/* Whether tokens, controller or temperature get a gradient. */
static bool wants_mixing(const moe_mixture *m) {
    return moe__wants(m->c, MIX_X) || moe__wants(m->c, MIX_CONTROLLER) ||
           moe__wants(m->c, MIX_TEMPERATURE);
}

static void lay_backward(moe_mixture *m, room *r) {
    int64_t size[4][2], part[2] = {moe__mixing_tasks(m), m->E * m->d};
    const moe_format *f32 = m->kernels->f32;
    sizes_kept(m, size);
    const int64_t hidden[2] = {m->E, size[MIX_HIDDEN][1]};
    lay_kept(m, r);
    m->dgiven = reals(r, size[MIX_MERGED]);
    for (int i = 0; i < 2; i++)
        if (i == 0 || m->activation == MOE_SWIGLU) m->dhidden[i] = reals(r, hidden);
    if (!m->f->direct)
        m->merged_panels = piece(r, m->f->element * (size_t)(m->E * m->strips));
    if (!wants_mixing(m)) return;
    m->dmerged = reals(r, size[MIX_GIVEN]);
    if (!m->c->in[MIX_CONTROLLER]) return;
    m->parts = reals(r, part);
    m->controller = piece(r, f32->element * (size_t)moe__right_size(f32, m->E, m->d));
}

static moe_status prepare(moe_mixture *m, bool backward, moe_experts *x, room *r) {
    void (*lay_out)(moe_mixture *, room *) = backward ? lay_backward : lay_kept;
    moe_ctx *ctx = m->c->ctx;
    *r = (room){0};
    moe_status s = moe__experts_pack(m, backward, x);
    if (s) return s;
    lay_out(m, r);
    r->bytes = r->used;
    r->used = 0;
    r->block = moe__alloc(ctx, r->bytes);
    if (!r->block) return moe__no_memory(ctx, r->bytes, "the rows of the experts");
    lay_out(m, r);
    size_t mixing = moe__mixing_scratch(m), experts = moe__experts_scratch(m);
    return moe__scratch(ctx, mixing > experts ? mixing : experts, &m->scratch);
}

/* ---- forward and backward ------------------------------------------------------------------- */

static moe_status forward(moe_call *c) {
    moe_mixture m = measure(c);
    moe_experts x;
    room r;
    moe_status s = prepare(&m, false, &x, &r);
    if (!s) {
        moe__merge_tokens(&m);
        moe__experts_forward(&x);
        moe__emit_tokens(&m);
    }
    moe__free(c->ctx, r.block, r.bytes);
    return s;
}

/* The parts are added up in their order, into the first. */
static void sum_parts(void *arg, int64_t begin, int64_t end) {
    const moe_mixture *m = arg;
    int64_t each = m->E * m->d;
    for (int64_t part = 1; part < moe__mixing_tasks(m); part++)
        m->kernels->accumulate(end - begin, m->parts + part * each + begin, m->parts + begin);
}

static void controller_gradients(moe_mixture *m) {
    moe_call *c = m->c;
    int64_t count = m->E * m->d;
    if (m->groups == 0) return;
    moe__parallel_range(c->ctx, count, GRAIN, sum_parts, m);
    moe_real *dcontroller = moe__grad(c, MIX_CONTROLLER);
    if (dcontroller) m->kernels->accumulate(count, m->parts, dcontroller);
    moe_real *dtemperature = moe__grad(c, MIX_TEMPERATURE);
    if (dtemperature)
        *dtemperature -= m->kernels->dot(count, moe__real(c->in[MIX_CONTROLLER]), m->parts) /
                         m->temperature;
}

static void mixing_gradients(moe_mixture *m) {
    moe_real beta = 0, *dx = moe__grad_beta(m->c, MIX_X, &beta);
    const moe_tensor *controller = m->c->in[MIX_CONTROLLER];
    if (controller)
        m->kernels->f32->right(m->E, m->d, moe__real(controller), m->d, NULL, m->controller);
    moe__emit_gradients(m, dx, beta != 0);
    if (controller) controller_gradients(m);
}

static moe_status backward(moe_call *c) {
    moe_mixture m = measure(c);
    moe_experts x;
    room r;
    moe_status s = prepare(&m, true, &x, &r);
    if (!s) {
        moe__merge_gradients(&m);
        moe__experts_backward(&x);
        for (int i = MIX_W1; i <= MIX_W2; i++) {
            moe_real beta = 0, *dw = moe__grad_beta(c, i, &beta);
            if (dw) moe__experts_weights(&x, i, dw, beta != 0);
        }
        if (m.dmerged) mixing_gradients(&m);
    }
    moe__free(c->ctx, r.block, r.bytes);
    return s;
}

MOE_OP(mixture_of_tokens,
    .sig = "x:tensor, controller:tensor?, w1:float, w3:float?, w2:float, temperature:operand?, "
           "group:int, activation:{swiglu|relu|gelu|silu}=relu -> tensor",
    .doc = "Mixture of tokens (Antoniak et al. 2023): x [B x S x d], groups of `group` successive "
           "sequences at each position; controller [E x d] (nil: all tokens weigh the same), w1 "
           "[E x I x d], w3 like it for swiglu, else nil, w2 [E x d x I], temperature one number "
           "(nil: 1) -> [B x S x d].",
    .sample = "randn(4, 3, 5), randn(3, 5), randn(3, 4, 5), nil, randn(3, 5, 4), rand(0.5, 2, 1), "
              "2, 'silu'"
              " | randn(2, 2, 3), randn(2, 3), randn(2, 35, 3), randn(2, 35, 3), randn(2, 3, 35), "
              "rand(0.5, 2, 1), 2, 'swiglu'"
              " | randn(3, 1, 3), nil, randn(2, 4, 3), nil, randn(2, 3, 4), nil, 3, 'gelu'"
              " | randn(70, 1, 2), randn(5, 2), randn(5, 3, 2), nil, randn(5, 2, 3), 0.7, 35, "
              "'gelu'",
    .saves = MOE_IN(MIX_X) | MOE_IN(MIX_CONTROLLER) | MOE_IN(MIX_W1) | MOE_IN(MIX_W3) |
             MOE_IN(MIX_W2) | MOE_IN(MIX_TEMPERATURE),
    .infer = infer, .forward = forward, .backward = backward);
