/* list.h -- an array that doubles, for what a file holds an unknown number of.
 *
 *     moe_list names = {.size = sizeof(moe_slice)};
 *     if (moe__list_append(ctx, &names, &name)) ...       // MOE_ENOMEM
 *     moe__list_free(ctx, &names);
 */
#ifndef MOE_CHECKPOINT_LIST_H
#define MOE_CHECKPOINT_LIST_H

#include "base/ctx.h"

typedef struct moe_list {
    void *items;
    size_t count, capacity, size;       /* size: bytes of one item */
} moe_list;

/* Copies the item to the end; `what` names the reason for a message. */
moe_status moe__list_append(moe_ctx *ctx, moe_list *l, const void *item, const char *what);
void moe__list_sort(moe_list *l, int (*order)(const void *, const void *));
void moe__list_free(moe_ctx *ctx, moe_list *l);

#endif
