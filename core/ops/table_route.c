/* table_route.c -- the experts of a token by a table that has a row for each id. */
#include <string.h>

#include "tape/op.h"

enum { IDS, TABLE };

static moe_status infer(moe_call *c) {
    const moe_tensor *ids = c->in[IDS], *table = c->in[TABLE];
    moe_status s = moe__rank(c, table, "table", 2);
    if (!s) s = moe__ids_below(c, ids, table->shape[0], INT64_MIN, "ids");
    if (s) return s;
    const int64_t shape[2] = {ids->count, table->shape[1]};
    moe__out(c, 0, MOE_I32, 2, shape);
    return MOE_OK;
}

static moe_status forward(moe_call *c) {
    const int64_t k = c->in[TABLE]->shape[1];
    const int32_t *table = moe__int(c->in[TABLE]);
    for (int64_t t = 0; t < c->in[IDS]->count; t++)
        memcpy(moe__int(c->out[0]) + t * k, table + moe__int(c->in[IDS])[t] * k,
               sizeof *table * (size_t)k);
    return MOE_OK;
}

MOE_OP(table_route,
    .sig = "ids:itensor, table:itensor -> itensor",
    .doc = "Routing by a table: the experts [T x k] of T token ids of any shape, from a table "
           "[V x k] with a row for each id.",
    .infer = infer, .forward = forward);
