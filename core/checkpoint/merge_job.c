#include "checkpoint/merge_job.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/pool.h"

#define PIECE ((int64_t)2048)       /* elements on a desk: what stays in the first caches */
#define STRETCH ((int64_t)1 << 22)  /* elements that are asked of the disk at once */
#define WAITING 4                   /* spans of a lane that may wait to be summed up */
#define LEAST_PIECE ((int64_t)256)  /* when there is little memory; a multiple of MOE_LANES */

/* Sums of the figures: three for each model, then one of the reference and one for agreement. */
enum { WITH_REFERENCE, OWN, KEPT, FIGURES };

static int64_t figures_of(const moe_merge *m) { return (int64_t)m->count * FIGURES + 2; }

static size_t figure_bytes(const moe_merge *m) {
    return (size_t)figures_of(m) * MOE_LANES * sizeof(double);
}

/* --- memory ---------------------------------------------------------------------------------- */

static size_t stored_bytes(const moe_job *j, int64_t n) {
    return (size_t)n * ((size_t)moe__stored_bits(j->sink->type) / 8);
}

static int64_t longest_span(const moe_job *j) {
    return j->unit < j->m->elements ? j->unit : j->m->elements;
}

/* What a desk takes with pieces of that many elements. */
static size_t desk_bytes(const moe_job *j, int64_t piece, size_t each) {
    size_t vectors = (size_t)j->m->count + (j->m->base ? 1 : 0) + 2;
    size_t floats = vectors * MOE_ALIGNED((size_t)piece * sizeof(float));
    size_t pointers = MOE_ALIGNED((size_t)j->m->count * sizeof(float *));
    size_t sums = figure_bytes(j->m);
    return sizeof(moe_desk) + 64 + floats + pointers + sums + MOE_ALIGNED((size_t)piece * 2)
           + MOE_ALIGNED(each);
}

static size_t slot_bytes(const moe_job *j) {
    size_t out = j->sink->memory ? 0 : MOE_ALIGNED(stored_bytes(j, longest_span(j)));
    return MOE_ALIGNED(sizeof(moe_slot)) + MOE_ALIGNED(figure_bytes(j->m)) + out;
}

static char *carve(char **at, size_t bytes) {
    char *part = *at;
    *at += MOE_ALIGNED(bytes);
    return part;
}

static void lay_out_desk(moe_job *j, moe_desk *d, char *at, size_t each) {
    const moe_merge *m = j->m;
    size_t bytes = (size_t)j->piece * sizeof(float);
    *d = (moe_desk){.job = j};
    d->x = (float **)(void *)carve(&at, (size_t)m->count * sizeof(float *));
    for (int i = 0; i < m->count; i++) d->x[i] = (float *)(void *)carve(&at, bytes);
    if (m->base) d->base = (float *)(void *)carve(&at, bytes);
    d->y = (float *)(void *)carve(&at, bytes);
    d->z = (float *)(void *)carve(&at, bytes);
    d->flags = (uint8_t *)carve(&at, (size_t)j->piece * 2);
    d->spare = d->sums = (double *)(void *)carve(&at, figure_bytes(m));
    d->own = carve(&at, each);
}

static void lay_out_slots(moe_job *j, char **at) {
    j->slots = (moe_slot *)(void *)carve(at, (size_t)j->window * MOE_ALIGNED(sizeof(moe_slot)));
    for (int i = 0; i < j->window; i++) {
        j->slots[i] = (moe_slot){0};
        j->slots[i].sums = (double *)(void *)carve(at, figure_bytes(j->m));
        if (!j->sink->memory) j->slots[i].out = carve(at, stored_bytes(j, longest_span(j)));
    }
}

static moe_status too_little(const moe_job *j, size_t least) {
    char has[MOE_READABLE], needs[MOE_READABLE];
    moe__readable(j->m->memory, has);
    moe__readable(least, needs);
    return moe__fail(j->ctx, MOE_ENOMEM, "%s: %s of memory cannot merge %s, which takes %zu bytes"
                     "\nhint: memory = %zu is the least (%s)", j->m->name, has,
                     MOE_SHAPE_OF((int)j->m->rank, (const int64_t *)j->m->shape), least, least,
                     needs);
}

static size_t job_bytes(const moe_job *j, size_t shared, size_t each) {
    return shared + (size_t)j->lanes * MOE_ALIGNED(desk_bytes(j, j->piece, each))
           + (size_t)j->window * slot_bytes(j);
}

/* Gives up the room for spans that wait, then takes smaller pieces, then fewer lanes. */
static bool fit(moe_job *j, size_t shared, size_t each) {
    size_t limit = j->m->memory ? j->m->memory : SIZE_MAX;
    int64_t spans = (j->m->elements + MOE_SPAN - 1) / MOE_SPAN;
    j->lanes = moe__workers(j->ctx);
    if (j->lanes > spans) j->lanes = spans > 1 ? (int)spans : 1;
    j->window = WAITING * j->lanes;
    for (j->piece = PIECE;; ) {
        if (job_bytes(j, shared, each) <= limit) return true;
        if (j->window > j->lanes)
            j->window = j->lanes;
        else if (j->piece > LEAST_PIECE)
            j->piece /= 2;
        else if (j->lanes > 1)
            j->window = --j->lanes;
        else
            return false;
    }
}

moe_status moe__job_reserve(moe_job *j, size_t shared, size_t each) {
    size_t totals = (size_t)figures_of(j->m) * sizeof(double);
    shared = MOE_ALIGNED(shared) + MOE_ALIGNED(totals);
    bool fits = fit(j, shared, each);
    size_t desk = MOE_ALIGNED(desk_bytes(j, j->piece, each));
    j->bytes = job_bytes(j, shared, each);
    if (!fits) return too_little(j, j->bytes);
    j->memory = moe__alloc(j->ctx, j->bytes);
    if (!j->memory) return moe__no_memory(j->ctx, j->bytes, j->m->name);
    char *at = j->memory;
    memset(at, 0, shared);
    j->totals = (double *)(void *)carve(&at, totals);
    j->own = carve(&at, shared - MOE_ALIGNED(totals));
    lay_out_slots(j, &at);
    j->desks = (moe_desk *)(void *)carve(&at, (size_t)j->lanes * MOE_ALIGNED(sizeof(moe_desk)));
    desk -= MOE_ALIGNED(sizeof(moe_desk));
    for (int i = 0; i < j->lanes; i++) lay_out_desk(j, &j->desks[i], at + (size_t)i * desk, each);
    return MOE_OK;
}

void moe__job_by_rows(moe_job *j) {
    int64_t rows = j->width ? MOE_SPAN / j->width : 1;
    j->unit = (rows > 1 ? rows : 1) * j->width;
}

/* --- work ------------------------------------------------------------------------------------ */

typedef struct region {
    moe_job *job;
    moe_span_fn *fn;
    void *arg;
    int64_t total, unit;        /* elements in all, and of a span */
    bool elements;              /* of the tensor, which are read in their order */
    bool emit;
    atomic_llong next;
} region;

/* Waits until the slot of a span is free. The spans before it are finished, or at work in lanes
 * that wait for none behind them, so that one of them goes on. */
static bool wait_for_slot(moe_job *j, int64_t span) {
    for (int looks = 0; atomic_load(&j->turn) + j->window <= span;) {
        if (moe__stopping(j->ctx) || atomic_load(&j->error)) return false;
        if (looks < 200)
            looks++;
        else
            sched_yield();
    }
    return true;
}

static void sum_up(moe_job *j, const moe_slot *slot) {
    if (j->sink->of_tensor) moe__checksum_add(j->sink->of_tensor, slot->bytes, slot->size);
    if (j->sink->of_file) moe__checksum_add(j->sink->of_file, slot->bytes, slot->size);
    for (int64_t i = 0; j->figures && i < figures_of(j->m); i++)
        j->totals[i] += moe__lanes_sum(slot->sums + i * MOE_LANES);
}

/* The slot whose turn it is, if its span is finished. */
static moe_slot *next_slot(moe_job *j) {
    int64_t turn = atomic_load(&j->turn);
    moe_slot *slot = &j->slots[turn % j->window];
    return atomic_load(&slot->done) == turn + 1 ? slot : NULL;
}

/* One lane at a time sums up what is finished. It looks once more when it has stopped: what another
 * lane finished meanwhile, that lane has left to it. */
static void sum_up_finished(moe_job *j) {
    while (next_slot(j) && !atomic_exchange(&j->summing, true)) {
        for (moe_slot *slot; (slot = next_slot(j)) != NULL; atomic_fetch_add(&j->turn, 1))
            sum_up(j, slot);
        atomic_store(&j->summing, false);
    }
}

void moe__desk_placed(moe_desk *d, int64_t span, const char *bytes, size_t size, int error) {
    moe_job *j = d->job;
    if (error) atomic_store(&j->error, error);
    if (!wait_for_slot(j, span)) return;
    moe_slot *slot = &j->slots[span % j->window];
    slot->bytes = bytes;
    slot->size = size;
    atomic_store(&slot->done, span + 1);
    sum_up_finished(j);
}

static void finish_span(moe_desk *d, int64_t span, int64_t first, int64_t n) {
    moe_job *j = d->job;
    size_t size = stored_bytes(j, n), at = stored_bytes(j, first);
    int error = 0;
    if (!j->sink->memory)
        error = moe__output_place(j->sink->output, j->sink->at + at, d->out, size);
    moe__desk_placed(d, span, d->out, size, error);
    d->sums = d->spare;
}

static bool begin_span(moe_desk *d, int64_t span, int64_t first) {
    moe_job *j = d->job;
    if (!wait_for_slot(j, span)) return false;
    moe_slot *slot = &j->slots[span % j->window];
    d->put = 0;
    d->out = j->sink->memory ? j->sink->memory + stored_bytes(j, first) : slot->out;
    d->sums = slot->sums;
    memset(d->sums, 0, figure_bytes(j->m));
    return true;
}

/* While a stretch is worked on, the next one comes from the disk: its first span asks for it. */
static void expect_next(const moe_job *j, int64_t first, int64_t unit) {
    const moe_merge *m = j->m;
    int64_t stretch = first / STRETCH;
    if (first > 0 && stretch == (first - unit) / STRETCH) return;
    int64_t next = first > 0 ? (stretch + 1) * STRETCH : 0;
    int64_t some = first > 0 ? STRETCH : 2 * STRETCH;
    for (int i = 0; i < m->count; i++) moe__source_expect(&m->models[i], next, some);
    if (m->base) moe__source_expect(m->base, next, some);
}

static void run_lane(void *arg, int64_t lane, int worker) {
    region *r = arg;
    moe_job *j = r->job;
    moe_desk *d = &j->desks[lane];
    (void)worker;
    for (;;) {
        int64_t span = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed);
        int64_t first = span * r->unit;
        int64_t n = r->total - first < r->unit ? r->total - first : r->unit;
        if (n <= 0 || moe__stopping(j->ctx) || atomic_load(&j->error)) return;
        if (r->elements) expect_next(j, first, r->unit);
        if (r->emit && !begin_span(d, span, first)) return;
        r->fn(d, r->arg, span, first, n);
        if (r->emit) finish_span(d, span, first, n);
    }
}

static moe_status run(region *r) {
    moe_job *j = r->job;
    moe__parallel(j->ctx, j->lanes, run_lane, r);
    int error = atomic_load(&j->error);
    if (moe_interrupted(j->ctx)) return moe__fail(j->ctx, MOE_EINTR, "interrupted!");
    return error ? moe__output_fail(j->sink->output, error) : MOE_OK;
}

int64_t moe__job_spans(const moe_job *j) { return (j->m->elements + MOE_SPAN - 1) / MOE_SPAN; }

moe_status moe__job_scan(moe_job *j, moe_span_fn *fn, void *arg) {
    region r = {.job = j, .fn = fn, .arg = arg, .total = j->m->elements, .unit = MOE_SPAN,
                .elements = true};
    return run(&r);
}

moe_status moe__job_scan_rows(moe_job *j, moe_span_fn *fn, void *arg) {
    region r = {.job = j, .fn = fn, .arg = arg, .total = j->m->elements, .unit = j->unit,
                .elements = true};
    return run(&r);
}

moe_status moe__job_tasks(moe_job *j, int64_t n, moe_span_fn *fn, void *arg) {
    region r = {.job = j, .fn = fn, .arg = arg, .total = n, .unit = 1};
    return run(&r);
}

moe_status moe__job_emit(moe_job *j, moe_span_fn *fn, void *arg) {
    region r = {.job = j, .fn = fn, .arg = arg, .total = j->m->elements, .unit = j->unit,
                .elements = true, .emit = true};
    return run(&r);
}

moe_status moe__job_place(moe_job *j, int64_t total, int64_t unit, moe_span_fn *fn, void *arg) {
    region r = {.job = j, .fn = fn, .arg = arg, .total = total, .unit = unit};
    return run(&r);
}

/* --- the desk -------------------------------------------------------------------------------- */

/* What a narrower type would keep of the numbers. */
static void round_to(const moe_desk *d, moe_stored type, float *x, int64_t n) {
    const moe_kernels *k = d->job->k;
    uint16_t *halves = (uint16_t *)(void *)d->flags;
    if (type == MOE_STORED_BF16) {
        k->write_bf16(n, x, halves);
        k->read_bf16(n, halves, x);
    } else if (type == MOE_STORED_F16) {
        k->write_f16(n, x, halves);
        k->read_f16(n, halves, x);
    }
}

static void load_one(const moe_desk *d, const moe_source *s, int64_t first, int64_t n, float *x) {
    moe__source_read(d->job->k, s, first, n, x);
    moe__source_prefetch(s, first + n, n);
    round_to(d, d->job->m->cast, x, n);
}

int64_t moe__desk_load(moe_desk *d, int64_t first, int64_t n) {
    const moe_merge *m = d->job->m;
    int64_t some = n < d->job->piece ? n : d->job->piece;
    for (int i = 0; i < m->count; i++) load_one(d, &m->models[i], first, some, d->x[i]);
    if (m->base) load_one(d, m->base, first, some, d->base);
    return some;
}

int64_t moe__desk_load_one(moe_desk *d, int model, int64_t first, int64_t n) {
    const moe_merge *m = d->job->m;
    int64_t some = n < d->job->piece ? n : d->job->piece;
    load_one(d, &m->models[model], first, some, d->x[model]);
    if (m->base) load_one(d, m->base, first, some, d->base);
    return some;
}

void moe__desk_deltas(moe_desk *d, int64_t n) {
    for (int i = 0; i < d->job->m->count; i++) d->job->k->merge_minus(n, d->base, d->x[i]);
}

void moe__desk_put(moe_desk *d, int64_t n) {
    const moe_kernels *k = d->job->k;
    char *to = d->out + stored_bytes(d->job, d->put);
    switch (d->job->sink->type) {
        case MOE_STORED_BF16: k->write_bf16(n, d->y, (uint16_t *)(void *)to); break;
        case MOE_STORED_F16: k->write_f16(n, d->y, (uint16_t *)(void *)to); break;
        case MOE_STORED_F32: memcpy(to, d->y, (size_t)n * sizeof *d->y); break;
        default:
            for (int64_t i = 0; i < n; i++) ((double *)(void *)to)[i] = (double)d->y[i];
    }
    d->put += n;
}

/* --- figures --------------------------------------------------------------------------------- */

/* The base, or the mean of the models. */
static const float *reference(moe_desk *d, int64_t n) {
    const moe_kernels *k = d->job->k;
    int count = d->job->m->count;
    if (d->base) return d->base;
    k->merge_scale(n, 1 / (float)count, d->x[0], d->z);
    for (int i = 1; i < count; i++) k->merge_add(n, 1 / (float)count, d->x[i], d->z);
    return d->z;
}

static double *lanes_of(moe_desk *d, int model, int figure) {
    return d->sums + (model * FIGURES + figure) * MOE_LANES;
}

void moe__desk_look(moe_desk *d, int64_t n) {
    const moe_kernels *k = d->job->k;
    int count = d->job->m->count;
    if (!d->job->figures) return;
    const float *ref = reference(d, n);
    memset(d->flags, 0, (size_t)n);
    for (int i = 0; i < count; i++) {
        k->merge_dot(n, d->x[i], ref, lanes_of(d, i, WITH_REFERENCE));
        k->merge_dot(n, d->x[i], d->x[i], lanes_of(d, i, OWN));
        k->merge_signs(n, d->x[i], ref, d->flags);
    }
    k->merge_dot(n, ref, ref, lanes_of(d, count, 0));
    *lanes_of(d, count, 1) += (double)k->merge_agreed(n, d->flags);
}

void moe__desk_kept(moe_desk *d, int model, int64_t n) {
    *lanes_of(d, model, KEPT) += (double)n;
}

double moe__lanes_sum(const double lanes[MOE_LANES]) {
    double sum[MOE_LANES];
    memcpy(sum, lanes, sizeof sum);
    for (int width = MOE_LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++) sum[i] += sum[i + width];
    return sum[0];
}

void moe__slots_sum(const double *slots, int64_t spans, int64_t k, double *out) {
    for (int64_t i = 0; i < k; i++) {
        out[i] = 0;
        for (int64_t s = 0; s < spans; s++) out[i] += slots[s * k + i];
    }
}
