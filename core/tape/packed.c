#include "tape/packed.h"

#include "tape/tape.h"

#define HEADER ((size_t)64)     /* of a pack; the panels behind it stay aligned */
_Static_assert(sizeof(moe_pack) <= HEADER, "a pack's header is larger than was thought");

static char *panels_of(const moe_pack *p) { return (char *)p + HEADER; }

/* The sizes of the right operand that a pack holds. */
static int64_t depth_of(const moe_pack *p) { return p->transposed ? p->columns : p->rows; }
static int64_t width_of(const moe_pack *p) { return p->transposed ? p->rows : p->columns; }

static size_t matrix_bytes(const moe_pack *p) {
    return p->format->element * (size_t)moe__right_size(p->format, depth_of(p), width_of(p));
}

/* ---- making the panels ---------------------------------------------------------------------- */

typedef struct packing {
    const moe_pack *pack;
    const char *weight;
    size_t element;             /* bytes, of the weight as it is stored */
    moe_widen_fn *widen;
    int64_t pieces;             /* of one matrix */
} packing;

static void pack_task(void *arg, int64_t task, int worker) {
    const packing *w = arg;
    const moe_pack *p = w->pack;
    int64_t matrix = task / w->pieces;
    (void)worker;
    moe__pack_piece(p->format, p->transposed, depth_of(p), width_of(p),
                    w->weight + w->element * (size_t)(matrix * p->rows * p->columns), w->widen,
                    p->columns, panels_of(p) + (size_t)matrix * matrix_bytes(p), task % w->pieces);
}

/* Tasks are skipped after an interrupt: such a pack must not pass for a whole one. */
static void refresh(moe_pack *p, moe_tensor *w) {
    packing work = {.pack = p, .weight = moe_tensor_data(w),
                    .element = moe__dtype_size(w->dtype),
                    .widen = moe__widen(w->ctx->kernels, w->dtype),
                    .pieces = moe__pack_pieces(depth_of(p), width_of(p))};
    moe__parallel(w->ctx, p->matrices * work.pieces, pack_task, &work);
    p->version = w->storage->version;
    p->whole = !moe__stopping(w->ctx);
}

/* ---- finding them --------------------------------------------------------------------------- */

/* A header that says what is wanted; `bytes` is the whole block. */
static moe_pack describe(const moe_call *c, const moe_tensor *w, bool transposed) {
    moe_pack p = {.format = c->format, .transposed = transposed,
                  .matrices = w->ndim == 3 ? w->shape[0] : 1,
                  .rows = w->shape[w->ndim - 2], .columns = w->shape[w->ndim - 1]};
    p.bytes = HEADER + (size_t)p.matrices * matrix_bytes(&p);
    return p;
}

static bool alike(const moe_pack *a, const moe_pack *b) {
    return a->format == b->format && a->transposed == b->transposed &&
           a->matrices == b->matrices && a->rows == b->rows && a->columns == b->columns;
}

static moe_pack *find(const moe_storage *s, const moe_pack *wanted) {
    moe_pack *p = s->packs;
    while (p && !alike(p, wanted)) p = p->next;
    return p;
}

static void drop(moe_ctx *ctx, moe_pack **at) {
    moe_pack *p = *at;
    *at = p->next;
    moe__free(ctx, p, p->bytes);
}

/* A parameter or frozen weight, no part of a larger one, in a call that takes part in training. */
static bool stays(const moe_call *c, int input) {
    const moe_tensor *w = c->in[input];
    bool computed = c->node ? c->node->edge[input].node != NULL : w->node != NULL;
    return c->needs_grad && !computed &&
           (size_t)w->count * moe__dtype_size(w->dtype) == w->storage->bytes;
}

/* A weight that is trained in another precision from now on. */
static void drop_others(moe_storage *s, const moe_format *format) {
    for (moe_pack **at = &s->packs; *at;)
        if ((*at)->format == format)
            at = &(*at)->next;
        else
            drop(s->ctx, at);
}

/* A new pack, at the storage or at the call. */
static moe_status add(moe_call *c, int input, const moe_pack *wanted, moe_pack **out) {
    moe_storage *s = c->in[input]->storage;
    bool kept = stays(c, input);
    if (kept) drop_others(s, c->format);
    moe_pack **list = kept ? &s->packs : &c->packs;
    moe_pack *p = *out = moe__alloc(c->ctx, wanted->bytes);
    if (!p) return moe__no_memory(c->ctx, wanted->bytes, "a packed weight");
    *p = *wanted;
    p->next = *list;
    *list = p;
    return MOE_OK;
}

moe_status moe__packed(moe_call *c, int input, bool transposed, const void **panels) {
    moe_tensor *w = c->in[input];
    moe_pack wanted = describe(c, w, transposed);
    moe_pack *p = find(w->storage, &wanted);
    moe_status s = p ? MOE_OK : add(c, input, &wanted, &p);
    if (s) return s;
    if (!p->whole || p->version != w->storage->version) refresh(p, w);
    *panels = panels_of(p);
    return MOE_OK;
}

void moe__packed_done(moe_call *c) {
    while (c->packs) drop(c->ctx, &c->packs);
}
