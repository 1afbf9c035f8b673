/* merge.c -- the table of methods, and what surrounds every merge. */
#include "checkpoint/merge.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "checkpoint/merge_job.h"

static const moe_method *const methods[] = {
#define X(name) &moe__method_##name,
    MOE_METHODS(X)
#undef X
};

#define METHODS (sizeof methods / sizeof *methods)

const moe_method *moe__method(size_t i) { return i < METHODS ? methods[i] : NULL; }

const moe_method *moe__method_named(const char *name) {
    for (size_t i = 0; i < METHODS; i++)
        if (strcmp(methods[i]->name, name) == 0) return methods[i];
    return NULL;
}

static moe_status check_sources(moe_ctx *ctx, const moe_method *method, const moe_merge *m) {
    const char *name = method->name;
    if (m->count < method->least || (method->most && m->count > method->most)) {
        char range[64];
        if (method->least == method->most)
            snprintf(range, sizeof range, "%d", method->least);
        else
            snprintf(range, sizeof range, "at least %d", method->least);
        return moe__fail(ctx, MOE_EARG, "%s: %s takes %s model%s%s, not %d", m->name, name, range,
                         method->least == 1 ? "" : "s",
                         method->base == MOE_NEEDS_BASE ? " beside the base" : "", m->count);
    }
    if (method->base == MOE_NEEDS_BASE && !m->base)
        return moe__fail(ctx, MOE_EARG, "%s: %s needs a base", m->name, name);
    if (method->base == MOE_NO_BASE && m->base)
        return moe__fail(ctx, MOE_EARG, "%s: %s knows no base\nhint: list it as a model", m->name,
                         name);
    return MOE_OK;
}

static moe_status check_type(moe_ctx *ctx, const moe_merge *m, const moe_source *s) {
    if (!s || moe__stored_compute(s->type) == MOE_F32) return MOE_OK;
    return moe__fail(ctx, MOE_EUNSUPPORTED, "%s: %s is no type that can be merged", m->name,
                     moe__stored_name(s->type));
}

static moe_status check_types(moe_ctx *ctx, const moe_merge *m, const moe_sink *sink) {
    bool fits = sink->type == MOE_STORED_F32 || sink->type == MOE_STORED_F64 ||
                sink->type == MOE_STORED_BF16 || sink->type == MOE_STORED_F16;
    if (!fits)
        return moe__fail(ctx, MOE_EUNSUPPORTED, "%s: a merge cannot be written as %s\nhint: F32, "
                         "BF16, F16 and F64 can", m->name, moe__stored_name(sink->type));
    moe_status s = check_type(ctx, m, m->base);
    for (int i = 0; i < m->count && !s; i++) {
        s = check_type(ctx, m, &m->models[i]);
        if (!s && m->masks) s = check_type(ctx, m, &m->masks[i]);
    }
    return s;
}

/* Whether the elements can go where they belong as they are stored. */
static bool as_stored(const moe_method *method, const moe_merge *m, moe_stored type) {
    const moe_source *s = m->models;
    int64_t others = 0, rows = s->width ? s->count / s->width : 0;
    if (!method->copies || m->cast != MOE_STORED_COUNT) return false;
    for (int64_t i = 0; s->from && i < rows; i++)
        if (s->from[i] > others) others = s->from[i];
    return moe__source_is(s, others, type);
}

static void tell(const moe_job *j) {
    const double *sum = j->totals;
    double n = (double)j->m->elements, rr = sum[j->m->count * 3];
    for (int i = 0; i < j->m->count; i++) {
        double xr = sum[i * 3], xx = sum[i * 3 + 1], apart = xx - 2 * xr + rr;
        j->figures->models[i] = (moe_merge_figure){
            .cosine = xx > 0 && rr > 0 ? xr / sqrt(xx * rr) : 0,
            .distance = rr > 0 && apart > 0 ? sqrt(apart / rr) : 0,
            .kept = n > 0 ? sum[i * 3 + 2] / n : 1,
        };
    }
    j->figures->agreement = n > 0 ? sum[j->m->count * 3 + 1] / n : 1;
}

moe_status moe__merge(moe_ctx *ctx, const moe_method *method, const moe_merge *m,
                      const moe_sink *sink, moe_merge_figures *figures) {
    moe_status s = check_sources(ctx, method, m);
    bool raw = !s && as_stored(method, m, sink->type);
    if (!s && !raw) s = check_types(ctx, m, sink);
    if (s || !m->elements) return s;
    moe_job j = {.ctx = ctx, .k = ctx->kernels, .m = m, .p = &m->params, .sink = sink,
                 .figures = raw ? NULL : figures, .raw = raw, .unit = MOE_SPAN};
    j.width = m->rank ? (int64_t)m->shape[m->rank - 1] : 1;
    j.rows = m->elements / j.width;
    s = method->run(&j);
    if (!s && j.figures && j.totals) tell(&j);
    moe__free(ctx, j.memory, j.bytes);
    return s;
}
