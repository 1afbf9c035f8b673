/* token_mixing.c -- the small products of each group: its tokens to a row per expert, and back.
 *
 * They are taken in f32, and from operands as they lie wherever that can be: strips, panels and
 * weights are, and rows of x become panels in the first-level cache. A task takes a range of
 * groups.
 */
#include <string.h>

#include "ops/mixture_of_tokens.h"

enum { TASKS = 32 };

static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t moe__mixing_tasks(const moe_mixture *m) { return minimum(m->groups, TASKS); }

/* ---- where things are ----------------------------------------------------------------------- */

/* What a task works on. */
typedef struct desk {
    moe_real *columns, *rows;       /* panels of the group's tokens: [d x g] and [g x d] */
    moe_real *dw, *dl;              /* gradients of the weights and of the logits */
} desk;

static size_t lay_desk(const moe_mixture *m, moe_real *at, desk *out) {
    int64_t weights = m->E * m->across;
    int64_t size[] = {m->d * m->across, m->g * moe__strips(m->d) * MOE_PANEL, weights, weights};
    moe_real **piece[] = {&out->columns, &out->rows, &out->dw, &out->dl};
    int64_t used = 0;
    for (int i = 0; i < 4; i++) {
        *piece[i] = at ? at + used : NULL;
        used += moe__round_up(size[i], MOE_PANEL);
    }
    return sizeof(moe_real) * (size_t)used;
}

size_t moe__mixing_scratch(const moe_mixture *m) {
    desk unused;
    return lay_desk(m, NULL, &unused);
}

static moe_real *weights_of(const moe_mixture *m, int64_t q) {
    return m->weights + q * m->E * m->across;
}

/* The first token of a group in x, y or a gradient of them; the next is `stride` further on. */
static int64_t first_of(const moe_mixture *m, int64_t q) {
    return (q / m->S * m->g * m->S + q % m->S) * m->d;
}
static int64_t stride(const moe_mixture *m) { return m->S * m->d; }

static void multiply(const moe_mixture *m, moe_product p) { m->kernels->f32->multiply(&p); }

/* ---- forward -------------------------------------------------------------------------------- */

/* The g numbers of an expert, from logits to weights: without a controller all are the same. */
static void weigh(const moe_mixture *m, const moe_real *x, const desk *s, moe_real *w) {
    const moe_kernels *k = m->kernels;
    const moe_tensor *controller = m->c->in[MIX_CONTROLLER];
    if (!controller) {
        for (int64_t i = 0; i < m->E * m->across; i++) w[i] = 1 / (moe_real)m->g;
        return;
    }
    k->f32->right_transposed(m->d, m->g, x, stride(m), s->columns);
    multiply(m, (moe_product){.m = m->E, .n = m->across, .k = m->d, .a = moe__real(controller),
                              .lda = m->d, .b = s->columns, .panel = m->d * MOE_PANEL, .c = w,
                              .ldc = m->across});
    for (int64_t e = 0; e < m->E; e++, w += m->across) {
        k->scale(m->g, 1 / m->temperature, w, w);
        k->softmax(m->g, w, w);
    }
}

/* Rows of a group's strips = w [E x g] times its tokens. */
static void merge(const moe_mixture *m, int64_t q, const moe_real *tokens, const desk *s,
                  moe_real *strips) {
    m->kernels->f32->right(m->g, m->d, tokens, stride(m), NULL, s->rows);
    moe_real *to = strips + q * MOE_PANEL;
    moe__expect(m->E, to, m->strips);
    for (int64_t j = 0; j < moe__strips(m->d); j++, to += m->rows * MOE_PANEL) {
        if (j + 1 < moe__strips(m->d)) moe__expect(m->E, to + m->rows * MOE_PANEL, m->strips);
        multiply(m, (moe_product){.m = m->E, .n = MOE_PANEL, .k = m->g, .a = weights_of(m, q),
                                  .lda = m->across, .b = s->rows + j * m->g * MOE_PANEL,
                                  .panel = m->g * MOE_PANEL, .c = to, .ldc = m->strips});
    }
}

/* Tokens of a group (+)= w^T times rows of its experts, panels [E x d]. */
static void emit(const moe_mixture *m, const moe_real *w, const moe_real *panels, moe_real *tokens,
                 bool add) {
    multiply(m, (moe_product){.m = m->g, .n = m->d, .k = m->E, .a = w, .lda = m->across,
                              .turned = true, .b = panels, .panel = m->E * MOE_PANEL, .c = tokens,
                              .ldc = stride(m), .add = add});
}

/* ---- backward ------------------------------------------------------------------------------- */

/* dw [E x g] (+)= panels [E x d] times the tokens of the group, transposed: a strip of a panel is
 * a left operand. */
static void compare(const moe_mixture *m, const moe_real *panels, const moe_real *tokens,
                    const desk *s, bool add) {
    m->kernels->f32->right_transposed(m->d, m->g, tokens, stride(m), s->columns);
    for (int64_t j = 0; j < moe__strips(m->d); j++)
        multiply(m, (moe_product){.m = m->E, .n = m->across, .ldc = m->across, .c = s->dw,
                                  .k = minimum(MOE_PANEL, m->d - j * MOE_PANEL),
                                  .a = panels + j * m->E * MOE_PANEL, .lda = MOE_PANEL,
                                  .b = s->columns + j * MOE_PANEL * MOE_PANEL,
                                  .panel = m->d * MOE_PANEL, .add = add || j > 0});
}

/* dl = w (dw - <w, dw>) / temperature for each expert, where dw = <dy, o> + <dm, x>. */
static void logits_gradient(const moe_mixture *m, int64_t q, const desk *s) {
    const moe_kernels *k = m->kernels;
    const moe_real *w = weights_of(m, q);
    int64_t at = first_of(m, q);
    compare(m, m->given + q * m->panels, moe__real(m->c->dout[0]) + at, s, false);
    compare(m, m->dmerged + q * m->panels, moe__real(m->c->in[MIX_X]) + at, s, true);
    memset(s->dl, 0, sizeof *s->dl * (size_t)(m->E * m->across));
    for (int64_t i = 0; i < m->E * m->across; i += m->across) {
        k->softmax_grad(m->g, w + i, s->dw + i, s->dl + i);
        k->scale(m->g, 1 / m->temperature, s->dl + i, s->dl + i);
    }
}

/* part [E x d] (+)= dl times the tokens of the group. */
static void controller_gradient(const moe_mixture *m, int64_t q, const desk *s, moe_real *part,
                                bool add) {
    m->kernels->f32->right(m->g, m->d, moe__real(m->c->in[MIX_X]) + first_of(m, q), stride(m),
                           NULL, s->rows);
    multiply(m, (moe_product){.m = m->E, .n = m->d, .k = m->g, .a = s->dl, .lda = m->across,
                              .b = s->rows, .panel = m->g * MOE_PANEL, .c = part, .ldc = m->d,
                              .add = add});
}

/* ---- tasks ---------------------------------------------------------------------------------- */

typedef struct mixing mixing;
typedef void each_fn(const mixing *x, int64_t q, const desk *s, int64_t task, bool first);

struct mixing {
    moe_mixture *m;
    each_fn *each;                  /* what is done with a group; `first` of its task */
    moe_real *dx;
    bool add;
};

static void mixing_task(void *arg, int64_t task, int worker) {
    const mixing *x = arg;
    int64_t tasks = moe__mixing_tasks(x->m), begin = x->m->groups * task / tasks;
    int64_t end = x->m->groups * (task + 1) / tasks;
    desk s;
    lay_desk(x->m, moe__scratch_of(&x->m->scratch, worker), &s);
    for (int64_t q = begin; q < end; q++) x->each(x, q, &s, task, q == begin);
}

static void run(mixing x) {
    moe__parallel(x.m->c->ctx, moe__mixing_tasks(x.m), mixing_task, &x);
}

static void merge_tokens(const mixing *x, int64_t q, const desk *s, int64_t task, bool first) {
    const moe_real *tokens = moe__real(x->m->c->in[MIX_X]) + first_of(x->m, q);
    (void)task, (void)first;
    weigh(x->m, tokens, s, weights_of(x->m, q));
    merge(x->m, q, tokens, s, x->m->merged);
}

static void emit_tokens(const mixing *x, int64_t q, const desk *s, int64_t task, bool first) {
    (void)s, (void)task, (void)first;
    emit(x->m, weights_of(x->m, q), x->m->given + q * x->m->panels,
         moe__real(x->m->c->out[0]) + first_of(x->m, q), false);
}

static void merge_gradients(const mixing *x, int64_t q, const desk *s, int64_t task, bool first) {
    (void)task, (void)first;
    merge(x->m, q, moe__real(x->m->c->dout[0]) + first_of(x->m, q), s, x->m->dgiven);
}

static void emit_gradients(const mixing *x, int64_t q, const desk *s, int64_t task, bool first) {
    const moe_mixture *m = x->m;
    moe_real *dx = x->dx ? x->dx + first_of(m, q) : NULL;
    if (dx) emit(m, weights_of(m, q), m->dmerged + q * m->panels, dx, x->add);
    if (!m->controller) return;
    logits_gradient(m, q, s);
    if (dx) emit(m, s->dl, m->controller, dx, true);
    controller_gradient(m, q, s, m->parts + task * m->E * m->d, !first);
}

void moe__merge_tokens(moe_mixture *m) { run((mixing){.m = m, .each = merge_tokens}); }
void moe__emit_tokens(moe_mixture *m) { run((mixing){.m = m, .each = emit_tokens}); }
void moe__merge_gradients(moe_mixture *m) { run((mixing){.m = m, .each = merge_gradients}); }

void moe__emit_gradients(moe_mixture *m, moe_real *dx, bool add) {
    run((mixing){.m = m, .each = emit_gradients, .dx = dx, .add = add});
}
