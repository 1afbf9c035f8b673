/* buffer.h -- bytes that grow at their end. An empty one is { .ctx = ctx }. */
#ifndef MOE_TEXT_BUFFER_H
#define MOE_TEXT_BUFFER_H

#include "base/ctx.h"

typedef struct moe_buffer {
    moe_ctx *ctx;
    char *data;             /* NULL while nothing was put there */
    size_t size, room;
} moe_buffer;

/* Room for `more` bytes behind the present ones; the data may move. */
moe_status moe__buffer_reserve(moe_buffer *b, size_t more);
moe_status moe__buffer_add(moe_buffer *b, const void *data, size_t size);
void moe__buffer_free(moe_buffer *b);

/* Where its bytes begin: never NULL, to which not even 0 may be added. */
static inline const char *moe__buffer_text(const moe_buffer *b) { return b->data ? b->data : ""; }

#endif
