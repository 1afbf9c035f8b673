/* attention_cached.c -- attention with the keys and values of a cache (see attention.c).
 *
 * A few queries per sequence read each key and value once, as they are stored: the work is cut into
 * chunks of keys, whose partial softmaxes are put together in order (Dao 2023, flash decoding). A
 * sum depends on its own sequence alone, so that a sequence gets the same bits in any batch. Many
 * queries are a prompt that continues a cache: the keys are made f32 once, and `attention` does the
 * rest.
 */
#include "ops/attention_cached.h"

#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "ops/few.h"

extern const moe_op moe_op_attention;

enum { Q, K, V, LENGTHS };

#define CHUNK 128       /* keys of a task */

typedef struct sizes {
    int64_t B, T, S, H, KV, D;
    int64_t group;              /* query heads per key head */
    int64_t chunks;             /* of the longest sequence that fits */
} sizes;

static sizes measure(const moe_call *c) {
    const int64_t *q = c->in[Q]->shape, *k = c->in[K]->shape;
    return (sizes){.B = q[0], .T = q[1], .S = k[1], .H = q[2], .KV = k[2], .D = q[3],
                   .group = q[2] / k[2], .chunks = (k[1] + CHUNK - 1) / CHUNK};
}

/* Keys of batch element b, its newest queries included. */
static int64_t length_of(const moe_call *c, int64_t b) {
    return c->in[LENGTHS] ? moe__int(c->in[LENGTHS])[b] : c->in[K]->shape[1];
}

bool moe__is_cached(const moe_call *c) {
    return c->in[LENGTHS] || c->in[K]->dtype != MOE_F32 ||
           (c->in[Q]->shape[1] <= 1 && !c->needs_grad);
}

moe_status moe__attention_cached_infer(moe_call *c) {
    moe_status s = moe__stored_alike(c, K, 2);
    const moe_tensor *lengths = c->in[LENGTHS];
    if (s || !lengths) return s;
    if (c->needs_grad)
        return MOE_REJECT(c, MOE_EARG, "lengths are for inference: there are no gradients\n"
                          "hint: moe.no_grad(function() ... end)");
    if (lengths->ndim != 1 || lengths->shape[0] != c->in[Q]->shape[0])
        return MOE_REJECT(c, MOE_ESHAPE, "one length per batch element is needed: lengths %s and "
                          "q %s", MOE_SHAPE(lengths), MOE_SHAPE(c->in[Q]));
    int64_t T = c->in[Q]->shape[1], S = c->in[K]->shape[1];
    for (int64_t b = 0; b < lengths->count; b++)
        if (length_of(c, b) < T || length_of(c, b) > S)
            return MOE_REJECT(c, MOE_EARG, "length %lld is %lld, but must be %lld (the queries) to "
                              "%lld (the keys)", (long long)(b + 1), (long long)length_of(c, b),
                              (long long)T, (long long)S);
    return MOE_OK;
}

/* ---- few queries ---------------------------------------------------------------------------- */

/* What a chunk of keys contributes to the heads of a group: the largest score, the sum of
 * exponentials, and the values weighted with them. */
typedef struct work {
    moe_call *c;
    sizes s;
    moe_real *top, *sum, *mixed;        /* [B x T x KV x chunks x group], mixed with x D */
    moe_scratch scratch;                /* scores [group x CHUNK] */
} work;

static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }

/* A part of the cache from key `first` of batch element b on, for one key head. */
static const void *cached(const work *w, int input, int64_t b, int64_t first, int64_t kv) {
    const sizes *s = &w->s;
    int64_t at = ((b * s->S + first) * s->KV + kv) * s->D;
    moe_tensor *t = w->c->in[input];
    return (const char *)moe_tensor_data(t) + (size_t)at * moe__dtype_size(t->dtype);
}

/* One query position of the heads that share a key head, and one chunk of keys. */
static void chunk_task(void *arg, int64_t task, int worker) {
    const work *w = arg;
    const sizes *s = &w->s;
    const moe_kernels *kernels = w->c->ctx->kernels;
    int64_t chunk = task % s->chunks, row = task / s->chunks;
    int64_t kv = row % s->KV, t = row / s->KV % s->T, b = row / s->KV / s->T;
    int64_t seen = length_of(w->c, b) - s->T + t + 1, first = chunk * CHUNK;
    int64_t keys = minimum(seen - first, CHUNK), at = task * s->group;
    if (keys <= 0) return;
    moe_real *scores = moe__scratch_of(&w->scratch, worker);
    const moe_real *q = moe__real(w->c->in[Q]) + ((b * s->T + t) * s->H + kv * s->group) * s->D;
    moe_gemv g = {.m = s->group, .n = keys, .k = s->D, .x = q, .ldx = s->D,
                  .w = cached(w, K, b, first, kv), .ldw = s->KV * s->D, .y = scores, .ldy = CHUNK};
    moe__gemv(kernels, w->c->in[K]->dtype)(&g);
    for (int64_t h = 0; h < s->group; h++) {
        moe_real *p = scores + h * CHUNK;
        kernels->scale(keys, (moe_real)(1 / sqrt((double)s->D)), p, p);
        w->top[at + h] = kernels->max(keys, p);
        w->sum[at + h] = kernels->exp_sum(keys, w->top[at + h], p);
    }
    moe__mix(kernels, w->c->in[V]->dtype)(&(moe_gemv){
        .m = s->group, .n = keys, .k = s->D, .x = scores, .ldx = CHUNK,
        .w = cached(w, V, b, first, kv), .ldw = s->KV * s->D, .y = w->mixed + at * s->D,
        .ldy = s->D});
}

/* Puts the chunks of one head together: o = sum of mixed e^(top - most) / sum of sum e^(...). */
static void combine(const work *w, int64_t row, int64_t h, int64_t chunks, moe_real *o) {
    const sizes *s = &w->s;
    const moe_kernels *kernels = w->c->ctx->kernels;
    int64_t first = row * s->chunks * s->group + h, last = first + chunks * s->group;
    moe_real most = w->top[first], sum = 0;
    for (int64_t i = first; i < last; i += s->group)
        if (!(w->top[i] <= most)) most = w->top[i];         /* NaN stays */
    memset(o, 0, sizeof *o * (size_t)s->D);
    for (int64_t i = first; i < last; i += s->group) {
        moe_real factor = (moe_real)exp((double)(w->top[i] - most));
        sum += factor * w->sum[i];
        kernels->axpy(s->D, factor, w->mixed + i * s->D, o);
    }
    kernels->scale(s->D, 1 / sum, o, o);
}

static void combine_range(void *arg, int64_t begin, int64_t end) {
    const work *w = arg;
    const sizes *s = &w->s;
    for (int64_t row = begin; row < end; row++) {
        int64_t kv = row % s->KV, t = row / s->KV % s->T, b = row / s->KV / s->T;
        int64_t chunks = (length_of(w->c, b) - s->T + t + CHUNK) / CHUNK;
        moe_real *o = moe__real(w->c->out[0]) + ((b * s->T + t) * s->H + kv * s->group) * s->D;
        for (int64_t h = 0; h < s->group; h++) combine(w, row, h, chunks, o + h * s->D);
    }
}

static moe_status few_queries(moe_call *c) {
    work w = {.c = c, .s = measure(c)};
    int64_t rows = w.s.B * w.s.T * w.s.KV, parts = rows * w.s.chunks * w.s.group;
    char *shared;
    moe_status s = moe__shared(c->ctx, sizeof(moe_real) * (size_t)(parts * (2 + w.s.D)), &shared);
    if (!s) s = moe__scratch(c->ctx, sizeof(moe_real) * (size_t)(w.s.group * CHUNK), &w.scratch);
    if (s) return s;
    w.top = (void *)shared;
    w.sum = w.top + parts;
    w.mixed = w.sum + parts;
    moe__parallel(c->ctx, rows * w.s.chunks, chunk_task, &w);
    moe__parallel_range(c->ctx, rows, 64, combine_range, &w);
    return MOE_OK;
}

/* ---- many queries --------------------------------------------------------------------------- */

/* A tensor over the elements of batch element b of t, and of them the first n rows. */
static moe_tensor part_of(const moe_tensor *t, int64_t b, int64_t n) {
    moe_tensor part = *t;
    part.offset += b * t->stride[0];
    part.shape[0] = 1;
    part.shape[1] = n;
    part.count = n * t->shape[2] * t->shape[3];
    return part;
}

typedef struct widening {
    moe_widen_fn *widen;
    const uint16_t *from;
    moe_real *to;
} widening;

static void widen_range(void *arg, int64_t begin, int64_t end) {
    const widening *w = arg;
    w->widen(end - begin, w->from + begin, w->to + begin);
}

/* The same elements in f32, at `to` of the block `room`. */
static moe_tensor widened(moe_ctx *ctx, const moe_tensor *t, moe_storage *room, int64_t to) {
    moe_tensor made = *t;
    widening w = {.widen = moe__widen(ctx->kernels, t->dtype)};
    if (!w.widen) return made;
    made.dtype = MOE_F32;
    made.storage = room;
    made.offset = to;
    w.from = (const uint16_t *)(const void *)t->storage->data + t->offset;
    w.to = moe__real(&made);
    moe__parallel_range(ctx, t->count, 1 << 14, widen_range, &w);
    return made;
}

/* The op itself on one batch element, whose keys fill their tensor. */
static moe_status one_sequence(moe_call *c, int64_t b, moe_storage *room) {
    int64_t T = c->in[Q]->shape[1], S = length_of(c, b);
    moe_tensor q = part_of(c->in[Q], b, T), o = part_of(c->out[0], b, T);
    moe_tensor k = part_of(c->in[K], b, S), v = part_of(c->in[V], b, S);
    k = widened(c->ctx, &k, room, 0);
    v = widened(c->ctx, &v, room, k.count);
    moe_tensor *in[] = {&q, &k, &v, NULL};
    moe_call part = *c;
    part.in = in;
    part.out[0] = &o;
    return moe_op_attention.forward(&part);
}

static moe_status many_queries(moe_call *c) {
    const moe_tensor *k = c->in[K];
    int64_t most = k->shape[1] * k->shape[2] * k->shape[3];
    moe_storage room = {.bytes = k->dtype == MOE_F32 ? 0 : 2 * sizeof(moe_real) * (size_t)most};
    if (room.bytes) {
        room.data = moe__alloc(c->ctx, room.bytes);
        if (!room.data) return moe__no_memory(c->ctx, room.bytes, "the cache in f32");
    }
    moe_status s = MOE_OK;
    for (int64_t b = 0; b < c->in[Q]->shape[0] && !s; b++) s = one_sequence(c, b, &room);
    if (room.bytes) moe__free(c->ctx, room.data, room.bytes);
    return s;
}

moe_status moe__attention_cached(moe_call *c) {
    return c->in[Q]->shape[1] <= MOE_FEW_ROWS ? few_queries(c) : many_queries(c);
}
