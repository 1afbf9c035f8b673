/* merge_gram.c -- methods that know their models by lengths and angles alone.
 *
 * Whatever they do on a sphere, the result is a sum of multiples of the models, and the multiples
 * follow from the dot products: one pass for these, a second for the sum. That takes no more
 * memory than a piece of each model, and is the same for a tensor, for each row and each column.
 */
#include <math.h>
#include <string.h>

#include "checkpoint/merge_job.h"

/* Multiples of n vectors with the dot products g [n x n]; false when there are none. */
typedef bool multiples_fn(const moe_merge_params *p, int n, const double *g, double *c);

typedef struct gram {
    multiples_fn *multiples;
    bool deltas;                /* the vectors are differences from the base, which is added */
    bool with_base;             /* the base is the first vector */
    int n, pairs;
    double *slots;              /* [spans x pairs] */
    double *c;                  /* of the whole tensor */
} gram;

/* What a desk has beside its pieces. */
typedef struct gram_desk {
    double *lanes;              /* [pairs x MOE_LANES] */
    double *products, *c;       /* [n x n], [n + 1] */
    const float **v;            /* [n + 1] */
} gram_desk;

static size_t each(const gram *g) {
    size_t n = (size_t)g->n;
    return sizeof(double) * ((size_t)g->pairs * MOE_LANES + n * n + n + 1)
           + (n + 1) * sizeof(float *);
}

static gram_desk desk_of(const gram *g, moe_desk *d) {
    gram_desk o = {.lanes = (double *)(void *)d->own};
    o.products = o.lanes + (size_t)g->pairs * MOE_LANES;
    o.c = o.products + (size_t)g->n * (size_t)g->n;
    o.c[g->n] = 1;
    o.v = (const float **)(void *)(o.c + g->n + 1);
    return o;
}

static int64_t load(const gram *g, moe_desk *d, const gram_desk *o, int64_t first, int64_t n) {
    int64_t some = moe__desk_load(d, first, n);
    int at = 0;
    if (g->with_base) o->v[at++] = d->base;
    for (int i = 0; i < d->job->m->count; i++) o->v[at++] = d->x[i];
    return some;
}

/* --- dot products ---------------------------------------------------------------------------- */

static void add_products(const gram *g, moe_desk *d, const gram_desk *o, int64_t first,
                         int64_t n) {
    memset(o->lanes, 0, (size_t)g->pairs * MOE_LANES * sizeof(double));
    while (n > 0) {
        int64_t some = load(g, d, o, first, n);
        double *lanes = o->lanes;
        if (g->deltas) moe__desk_deltas(d, some);
        for (int i = 0; i < g->n; i++)
            for (int j = 0; j <= i; j++, lanes += MOE_LANES)
                d->job->k->merge_dot(some, o->v[i], o->v[j], lanes);
        first += some, n -= some;
    }
}

static void multiply_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const gram *g = arg;
    gram_desk o = desk_of(g, d);
    add_products(g, d, &o, first, n);
    for (int i = 0; i < g->pairs; i++)
        g->slots[span * g->pairs + i] = moe__lanes_sum(o.lanes + (size_t)i * MOE_LANES);
}

/* From the lower triangle to all of the matrix. */
static void unfold(int n, const double *pairs, double *products) {
    for (int i = 0; i < n; i++)
        for (int j = 0; j <= i; j++)
            products[i * n + j] = products[j * n + i] = *pairs++;
}

/* --- the sum --------------------------------------------------------------------------------- */

/* c[0 .. n-1] are the multiples, and c[n] that of the base when the vectors are differences. */
static void add_up(const gram *g, moe_desk *d, const gram_desk *o, const double *c, int64_t first,
                   int64_t n) {
    while (n > 0) {
        int64_t some = load(g, d, o, first, n);
        moe__desk_look(d, some);
        if (g->deltas) moe__desk_deltas(d, some);
        o->v[g->n] = d->base;
        d->job->k->merge_sum(some, g->n + (g->deltas ? 1 : 0), o->v, c, d->y);
        for (int i = 0; i < d->job->m->count; i++) moe__desk_kept(d, i, some);
        moe__desk_put(d, some);
        first += some, n -= some;
    }
}

static void add_up_span(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const gram *g = arg;
    gram_desk o = desk_of(g, d);
    (void)span;
    add_up(g, d, &o, g->c, first, n);
}

/* Each row has multiples of its own. */
static void do_rows(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const gram *g = arg;
    gram_desk o = desk_of(g, d);
    int64_t width = d->job->width;
    (void)span;
    for (int64_t end = first + n; first < end; first += width) {
        add_products(g, d, &o, first, width);
        for (int i = 0; i < g->pairs; i++)
            o.lanes[i] = moe__lanes_sum(o.lanes + (size_t)i * MOE_LANES);
        unfold(g->n, o.lanes, o.products);
        g->multiples(d->job->p, g->n, o.products, o.c);
        add_up(g, d, &o, o.c, first, width);
    }
}

/* --- how it goes ----------------------------------------------------------------------------- */

static gram begin(const moe_job *j, multiples_fn *multiples, bool with_base) {
    gram g = {.multiples = multiples, .with_base = with_base};
    g.deltas = j->m->base && !with_base;
    g.n = j->m->count + (with_base ? 1 : 0);
    g.pairs = g.n * (g.n + 1) / 2;
    return g;
}

static moe_status by_tensor(moe_job *j, multiples_fn *multiples, bool with_base) {
    gram g = begin(j, multiples, with_base);
    int64_t spans = moe__job_spans(j);
    size_t n = (size_t)g.n, slots = (size_t)spans * (size_t)g.pairs;
    moe_status s = moe__job_reserve(j, (slots + n + 1 + n * n + (size_t)g.pairs) * sizeof(double),
                                    each(&g));
    if (s) return s;
    g.slots = (double *)(void *)j->own;
    g.c = g.slots + slots;
    double *products = g.c + n + 1, *sums = products + n * n;
    g.c[n] = 1;
    s = moe__job_scan(j, multiply_span, &g);
    if (s) return s;
    moe__slots_sum(g.slots, spans, g.pairs, sums);
    unfold(g.n, sums, products);
    if (!multiples(j->p, g.n, products, g.c))
        return moe__fail(j->ctx, MOE_EARG, "%s: the models cancel: their mean has no direction",
                         j->m->name);
    return moe__job_emit(j, add_up_span, &g);
}

static moe_status by_rows(moe_job *j, multiples_fn *multiples) {
    gram g = begin(j, multiples, false);
    if (j->rows == 1) return by_tensor(j, multiples, false);
    moe__job_by_rows(j);
    moe_status s = moe__job_reserve(j, 0, each(&g));
    return s ? s : moe__job_emit(j, do_rows, &g);
}

/* --- slerp ----------------------------------------------------------------------------------- */

static void lerp(double t, double *c) { c[0] = 1 - t, c[1] = t; }

static void arc(double t, double angle, double *c) {
    c[0] = sin((1 - t) * angle) / sin(angle);
    c[1] = sin(t * angle) / sin(angle);
}

static double clamped(double x) { return x < -1 ? -1 : x > 1 ? 1 : x; }

/* Nearly equal or opposite directions have no arc between them that arithmetic would find. */
static bool slerp_multiples(const moe_merge_params *p, int n, const double *g, double *c) {
    double a = sqrt(g[0]), b = sqrt(g[3]);
    double cosine = g[1] / (a > 1e-8 ? a : 1) / (b > 1e-8 ? b : 1);
    (void)n;
    if (fabs(cosine) > 0.9995)
        lerp(p->t, c);
    else
        arc(p->t, acos(cosine), c);
    return true;
}

static moe_status slerp(moe_job *j) { return by_tensor(j, slerp_multiples, true); }

static bool nuslerp_multiples(const moe_merge_params *p, int n, const double *g, double *c) {
    double sum = p->weight[0] + p->weight[1];
    double t = fabs(sum) < 1e-6 ? 0.5 : p->weight[1] / sum;
    double a = fmax(sqrt(g[0]), 1e-7), b = fmax(sqrt(g[3]), 1e-7);
    double angle = acos(clamped(g[1] / (a * b)));
    (void)n;
    if (fabs(sin(angle)) < 1e-8)
        lerp(t, c);
    else
        arc(t, angle, c);
    return true;
}

/* --- columns --------------------------------------------------------------------------------- */

#define STRIPE ((int64_t)256)       /* columns of a task */

typedef struct columns {
    int64_t width;              /* elements in a row: all dimensions but the first */
    float *c[2];                /* of each column */
} columns;

static void multiply_columns(moe_desk *d, int64_t at, int64_t n, double (*sum)[3]) {
    moe__desk_load(d, at, n);
    if (d->base) moe__desk_deltas(d, n);
    for (int64_t i = 0; i < n; i++) {
        double a = (double)d->x[0][i], b = (double)d->x[1][i];
        sum[i][0] += a * a;
        sum[i][1] += a * b;
        sum[i][2] += b * b;
    }
}

static void do_stripe(moe_desk *d, void *arg, int64_t span, int64_t stripe, int64_t one) {
    const columns *o = arg;
    double sum[STRIPE][3] = {{0}};
    int64_t first = stripe * STRIPE;
    int64_t n = o->width - first < STRIPE ? o->width - first : STRIPE;
    (void)span, (void)one;
    for (int64_t at = first; at < d->job->m->elements; at += o->width)
        multiply_columns(d, at, n, sum);
    for (int64_t i = 0; i < n; i++) {
        double c[2], g[4] = {sum[i][0], sum[i][1], sum[i][1], sum[i][2]};
        nuslerp_multiples(d->job->p, 2, g, c);
        o->c[0][first + i] = (float)c[0];
        o->c[1][first + i] = (float)c[1];
    }
}

/* Up to the end of the row that `first` is in. */
static int64_t in_row(const columns *o, int64_t first, int64_t n) {
    int64_t left = o->width - first % o->width;
    return left < n ? left : n;
}

static void blend_columns(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const columns *o = arg;
    (void)span;
    while (n > 0) {
        int64_t some = moe__desk_load(d, first, in_row(o, first, n)), at = first % o->width;
        moe__desk_look(d, some);
        if (d->base) moe__desk_deltas(d, some);
        d->job->k->merge_blend(some, o->c[0] + at, d->x[0], o->c[1] + at, d->x[1], d->y);
        if (d->base) d->job->k->merge_finish(some, 1, d->base, d->y);
        for (int i = 0; i < 2; i++) moe__desk_kept(d, i, some);
        moe__desk_put(d, some);
        first += some, n -= some;
    }
}

static moe_status by_columns(moe_job *j) {
    columns o = {.width = j->m->rank > 1 ? j->m->elements / (int64_t)j->m->shape[0] : 1};
    moe_status s = moe__job_reserve(j, (size_t)o.width * 2 * sizeof(float), 0);
    if (s) return s;
    o.c[0] = (float *)(void *)j->own;
    o.c[1] = o.c[0] + o.width;
    s = moe__job_tasks(j, (o.width + STRIPE - 1) / STRIPE, do_stripe, &o);
    return s ? s : moe__job_emit(j, blend_columns, &o);
}

/* What mergekit calls row-wise makes the columns of W [out, in] meet, and the other way round; so
 * do we. */
static moe_status nuslerp(moe_job *j) {
    if (j->p->nuslerp_flatten) return by_tensor(j, nuslerp_multiples, false);
    return j->p->nuslerp_row_wise ? by_columns(j) : by_rows(j, nuslerp_multiples);
}

/* --- means on a sphere ----------------------------------------------------------------------- */

/* |sum of a[i] vector i| */
static double length(int n, const double *g, const double *a) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) sum += a[i] * a[j] * g[i * n + j];
    return sum > 0 ? sqrt(sum) : 0;
}

static double norm(int n, const double *g, int i) { return sqrt(g[i * n + i]); }

/* <vector i, sum of a[k] vector k> */
static double product(int n, const double *g, int i, const double *a) {
    double sum = 0;
    for (int k = 0; k < n; k++) sum += a[k] * g[i * n + k];
    return sum;
}

/* One step from the normalised mean m: y = (m cos tau + T sin(tau) / tau) sum w |x|, where T is the
 * mean of the directions' parts that are normal to m. */
static bool multislerp_multiples(const moe_merge_params *p, int n, const double *g, double *c) {
    double total = 0, scale = 0, along = 0;
    for (int i = 0; i < n; i++) total += p->weight[i];
    if (!p->normalize) total = 1;
    for (int i = 0; i < n; i++) {
        scale += p->weight[i] / total * norm(n, g, i);
        c[i] = p->weight[i] / total / (norm(n, g, i) + p->eps);
    }
    double mean = length(n, g, c);
    if (mean < p->eps) {
        for (int i = 0; i < n; i++) c[i] = p->weight[i] / total;
        return n == 2;
    }
    for (int i = 0; i < n; i++) along += c[i] * product(n, g, i, c) / mean;
    /* T = mean's vector - along m = (mean - along) m: rounding is all that is left of it. */
    double tangent = mean - along, tau = fabs(tangent) + p->eps;
    double factor = (cos(tau) + tangent * sin(tau) / tau) / mean * scale;
    for (int i = 0; i < n; i++) c[i] *= factor;
    return true;
}

static moe_status multislerp(moe_job *j) { return by_tensor(j, multislerp_multiples, false); }

static void rescale(int n, double *c, double factor) {
    for (int i = 0; i < n; i++) c[i] *= factor;
}

/* The direction to begin with: the mean of all, or the first when they cancel. */
static void karcher_begin(const moe_merge_params *p, int n, const double *g, double *c) {
    for (int i = 0; i < n; i++) c[i] = norm(n, g, i) > p->tol ? 1 / norm(n, g, i) : 0;
    double mean = length(n, g, c), some = 0;
    for (int i = 0; i < n; i++) some += c[i] != 0;
    if (mean / some >= p->tol) {
        rescale(n, c, 1 / mean);
        return;
    }
    for (int i = 0, first = 1; i < n; i++) {
        c[i] = first ? c[i] : 0;
        if (c[i] != 0) first = 0;
    }
}

/* c += the mean of the logarithms of all directions at c; returns the length of it. */
static double karcher_step(const moe_merge_params *p, int n, const double *g, double *c,
                           double *step) {
    double some = 0, back = 0;
    for (int i = 0; i < n; i++) some += norm(n, g, i) > p->tol;
    for (int i = 0; i < n; i++) {
        step[i] = 0;
        if (norm(n, g, i) <= p->tol) continue;
        double cosine = clamped(product(n, g, i, c) / norm(n, g, i)), angle = acos(cosine);
        if (angle < p->tol) continue;
        double factor = angle / sin(angle) / some;
        step[i] = factor / norm(n, g, i);
        back += factor * cosine;
    }
    for (int i = 0; i < n; i++) step[i] -= back * c[i];
    return length(n, g, step);
}

/* Riemannian mean of the directions, times the mean length. */
static bool karcher_multiples(const moe_merge_params *p, int n, const double *g, double *c) {
    double step[256], scale = 0;
    for (int i = 0; i < n; i++) scale += norm(n, g, i) / n;
    karcher_begin(p, n, g, c);
    for (int k = 0; k < p->max_iter; k++) {
        double tau = karcher_step(p, n, g, c, step);
        if (!(tau >= p->tol)) break;
        for (int i = 0; i < n; i++) c[i] = cos(tau) * c[i] + sin(tau) / tau * step[i];
        rescale(n, c, 1 / length(n, g, c));
    }
    rescale(n, c, scale);
    return true;
}

static moe_status karcher(moe_job *j) { return by_tensor(j, karcher_multiples, false); }

/* --- model stock (Jang et al. 2024) ---------------------------------------------------------- */

/* The mean, drawn to the base by the angle between the differences. */
static bool stock_multiples(const moe_merge_params *p, int n, const double *g, double *c) {
    double sum = 0;
    (void)p;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < i; k++)
            sum += clamped(g[i * n + k] / fmax(norm(n, g, i) * norm(n, g, k), 1e-6));
    double cosine = sum / (n * (n - 1) / 2.0);
    for (int i = 0; i < n; i++) c[i] = cosine / (1 + (n - 1) * cosine);
    return true;
}

static moe_status model_stock(moe_job *j) {
    return j->p->filter_wise ? by_rows(j, stock_multiples) : by_tensor(j, stock_multiples, false);
}

/* --- records --------------------------------------------------------------------------------- */

const moe_method moe__method_slerp = {
    .name = "slerp", .params = " t! ", .base = MOE_NEEDS_BASE, .least = 1, .most = 1,
    .run = slerp};
const moe_method moe__method_nuslerp = {
    .name = "nuslerp", .params = " weight! nuslerp_flatten nuslerp_row_wise ",
    .base = MOE_MAYBE_BASE, .least = 2, .most = 2, .run = nuslerp};
const moe_method moe__method_multislerp = {
    .name = "multislerp", .params = " weight! normalize_weights eps ", .base = MOE_MAYBE_BASE,
    .least = 2, .most = 256, .normalize = true, .run = multislerp};
const moe_method moe__method_karcher = {
    .name = "karcher", .params = " max_iter tol ", .least = 1, .most = 256, .run = karcher};
const moe_method moe__method_model_stock = {
    .name = "model_stock", .params = " filter_wise ", .base = MOE_NEEDS_BASE, .least = 2,
    .most = 256, .run = model_stock};
