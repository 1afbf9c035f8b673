#include "ops/moe_rows.h"

#include <string.h>

#include "kernels/kernels.h"

enum {
    GRAIN = 12,         /* rows of the largest register tile: blocks are made of whole ones */
    MOST_ROWS = 96,     /* of a block, so that its hidden rows stay in the second-level cache */
    LEAST_ROWS = 24,    /* below, reading the weights costs more than the products */
    TASKS = 32,         /* blocks that a call should have, between these limits */
    TOKENS = 32,        /* that one task combines */
    WAY = 1024,         /* numbers in 4 KB: rows that far apart share one set of the cache */
    LINE = 32           /* moves them to another; a multiple of every format's depth */
};

static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }
static int64_t unit_of(int64_t depth) { return moe__round_up(GRAIN, depth); }

int64_t moe__block_rows(int64_t count, int64_t depth) {
    int64_t rows = minimum(pieces(count, TASKS), MOST_ROWS);
    return moe__round_up(rows > LEAST_ROWS ? rows : LEAST_ROWS, unit_of(depth));
}

/* An expert's rows as they are laid out. */
static int64_t fill_up(int64_t rows, int64_t depth) {
    int64_t filled = moe__round_up(rows, depth);
    return filled > 0 && filled % WAY == 0 ? filled + LINE : filled;
}

int64_t moe__rows_bound(int64_t count, int64_t experts, int64_t depth) {
    int64_t filled = count + minimum(count, experts) * (depth - 1);
    return filled + filled / WAY * LINE;
}

/* ---- sorting -------------------------------------------------------------------------------- */

/* Lays the arrays out in r->memory, or counts their bytes without it. */
static void lay_out(moe_rows *r, int64_t most_blocks) {
    char *at = r->memory;
    size_t row = sizeof(int32_t) * (size_t)r->count;
    size_t pair = sizeof(int32_t) * (size_t)(r->tokens * r->slots);
    size_t each = sizeof(int64_t) * (size_t)(r->experts + 1);
    size_t size[] = {each, each, sizeof(moe_block) * (size_t)most_blocks, row, row, pair};
    void *piece[6] = {0};
    r->bytes = 0;
    for (int i = 0; i < 6; i++) {
        if (at) piece[i] = at + r->bytes;
        r->bytes += (size[i] + 63) & ~(size_t)63;
    }
    r->start = piece[0];
    r->padded = piece[1];
    r->block = piece[2];
    r->order = piece[3];
    r->token = piece[4];
    r->place = piece[5];
}

int64_t moe__rows_used(const moe_tensor *experts) {
    const int32_t *expert = moe__int(experts);
    int64_t used = 0;
    for (int64_t i = 0; i < experts->count; i++) used += expert[i] >= 0;
    return used;
}

/* Counting sort, stable in the pair. */
static void sort(moe_rows *r, const int32_t *expert) {
    int64_t *start = r->start, pairs = r->tokens * r->slots;
    memset(start, 0, sizeof *start * (size_t)(r->experts + 1));
    for (int64_t i = 0; i < pairs; i++)
        if (expert[i] >= 0) start[expert[i] + 1]++;
    for (int64_t e = 0; e < r->experts; e++) start[e + 1] += start[e];
    for (int64_t i = 0; i < pairs; i++) {
        r->place[i] = -1;
        if (expert[i] < 0) continue;
        int64_t row = start[expert[i]]++;
        r->order[row] = (int32_t)i;
        r->token[row] = (int32_t)(i / r->slots);
        r->place[i] = (int32_t)row;
    }
    for (int64_t e = r->experts; e > 0; e--) start[e] = start[e - 1];
    start[0] = 0;
}

/* Cuts the rows of every expert into blocks of about equal size. */
static void cut(moe_rows *r, int64_t depth) {
    int64_t most = moe__block_rows(r->count, depth), unit = unit_of(depth);
    r->blocks = r->padded[0] = 0;
    for (int64_t e = 0; e < r->experts; e++) {
        int64_t rows = r->start[e + 1] - r->start[e];
        int64_t parts = pieces(rows, most), units = pieces(rows, unit);
        for (int64_t p = 0; p < parts; p++) {
            int64_t begin = units * p / parts * unit;
            int64_t end = minimum(units * (p + 1) / parts * unit, rows);
            r->block[r->blocks++] =
                (moe_block){.expert = e, .first = r->start[e] + begin, .rows = end - begin};
        }
        r->padded[e + 1] = r->padded[e] + fill_up(rows, depth);
    }
}

moe_status moe__rows_sort(moe_ctx *ctx, const moe_tensor *experts, int64_t count, int64_t depth,
                          moe_rows *out) {
    *out = (moe_rows){.tokens = experts->shape[0], .slots = experts->shape[1],
                      .count = moe__rows_used(experts), .experts = count};
    int64_t most = pieces(out->count, moe__block_rows(out->count, depth)) +
                   minimum(out->count, count);
    lay_out(out, most);
    out->memory = moe__alloc(ctx, out->bytes);
    if (!out->memory) return moe__no_memory(ctx, out->bytes, "the order of the rows");
    lay_out(out, most);
    sort(out, moe__int(experts));
    cut(out, depth);
    return MOE_OK;
}

void moe__rows_free(moe_ctx *ctx, moe_rows *r) {
    moe__free(ctx, r->memory, r->bytes);
    r->memory = NULL;
}

/* ---- putting together ----------------------------------------------------------------------- */

typedef struct combination {
    const moe_kernels *kernels;
    const moe_rows *r;
    const moe_real *gate, *from;
    int64_t n;
    moe_real beta, *to;
} combination;

static void combine_token(const combination *c, int64_t t) {
    const int32_t *place = c->r->place;
    int64_t n = c->n, slots = c->r->slots;
    moe_real *to = c->to + t * n;
    bool unset = c->beta == 0;
    for (int64_t i = t * slots; i < (t + 1) * slots; i++) {
        if (place[i] < 0) continue;
        (unset ? c->kernels->scale : c->kernels->axpy)(n, c->gate ? c->gate[i] : 1,
                                                       c->from + place[i] * n, to);
        unset = false;
    }
    if (unset) memset(to, 0, sizeof *to * (size_t)n);
}

static void combine_range(void *arg, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; t++) combine_token(arg, t);
}

void moe__rows_combine(moe_ctx *ctx, const moe_rows *r, const moe_real *gate, const moe_real *from,
                       int64_t n, moe_real beta, moe_real *to) {
    combination c = {.kernels = ctx->kernels, .r = r, .gate = gate, .from = from, .n = n,
                     .beta = beta, .to = to};
    moe__parallel_range(ctx, r->tokens, TOKENS, combine_range, &c);
}
