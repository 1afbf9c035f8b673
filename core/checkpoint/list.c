#include "checkpoint/list.h"

#include <stdlib.h>
#include <string.h>

static bool grow(moe_ctx *ctx, moe_list *l) {
    size_t capacity = l->capacity ? 2 * l->capacity : 16;
    void *items = moe__alloc(ctx, capacity * l->size);
    if (!items) return false;
    if (l->count) memcpy(items, l->items, l->count * l->size);
    moe__free(ctx, l->items, l->capacity * l->size);
    l->items = items;
    l->capacity = capacity;
    return true;
}

moe_status moe__list_append(moe_ctx *ctx, moe_list *l, const void *item, const char *what) {
    if (l->count == l->capacity && !grow(ctx, l))
        return moe__no_memory(ctx, 2 * l->capacity * l->size, what);
    memcpy((char *)l->items + l->count++ * l->size, item, l->size);
    return MOE_OK;
}

void moe__list_sort(moe_list *l, int (*order)(const void *, const void *)) {
    if (l->count > 1) qsort(l->items, l->count, l->size, order);
}

void moe__list_free(moe_ctx *ctx, moe_list *l) {
    moe__free(ctx, l->items, l->capacity * l->size);
    *l = (moe_list){.size = l->size};
}
