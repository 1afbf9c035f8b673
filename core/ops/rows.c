/* rows.c -- rows picked and rows added up. */
#include "ops/rows.h"

#include <string.h>

#include "ops/axis.h"

#define OWNERS 16       /* tasks that share out the target rows; each reads all row numbers */

typedef struct rows {
    const moe_kernels *k;
    const int32_t *id;
    int64_t count, n;
    const moe_real *from;
    moe_real *to;
    bool add;
} rows;

static void take_range(void *arg, int64_t begin, int64_t end) {
    const rows *r = arg;
    for (int64_t i = begin; i < end; i++) {
        const moe_real *from = r->from + r->id[i] * r->n;
        moe_real *to = r->to + i * r->n;
        if (r->add)
            r->k->accumulate(r->n, from, to);
        else
            memcpy(to, from, sizeof *to * (size_t)r->n);
    }
}

void moe__rows_take(moe_ctx *ctx, const moe_tensor *ids, int64_t n, const moe_real *from,
                    moe_real *to, bool add) {
    rows r = {.k = ctx->kernels, .id = moe__int(ids), .count = ids->count, .n = n, .from = from,
              .to = to, .add = add};
    if (n) moe__parallel_range(ctx, r.count, moe__grain(n), take_range, &r);
}

/* Target rows are dealt out like cards, so that popular neighbours get different owners. */
static void add_owned(void *arg, int64_t owner, int worker) {
    const rows *r = arg;
    (void)worker;
    for (int64_t i = 0; i < r->count; i++)
        if (r->id[i] % OWNERS == owner)
            r->k->accumulate(r->n, r->from + i * r->n, r->to + r->id[i] * r->n);
}

void moe__rows_add(moe_ctx *ctx, const moe_tensor *ids, int64_t n, const moe_real *from,
                   moe_real *to) {
    rows r = {.k = ctx->kernels, .id = moe__int(ids), .count = ids->count, .n = n, .from = from,
              .to = to};
    if (n) moe__parallel(ctx, OWNERS, add_owned, &r);
}
