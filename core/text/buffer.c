/* buffer.c -- bytes that grow at their end. */
#include "text/buffer.h"

#include <string.h>

#define FIRST_ROOM 256

moe_status moe__buffer_reserve(moe_buffer *b, size_t more) {
    if (more <= b->room - b->size) return MOE_OK;
    if (more > SIZE_MAX / 4 - b->size) return moe__no_memory(b->ctx, more, "a text");
    size_t room = b->room ? b->room : FIRST_ROOM;
    while (room < b->size + more) room *= 2;
    char *data = moe__alloc(b->ctx, room);
    if (!data) return moe__no_memory(b->ctx, room, "a text");
    if (b->size) memcpy(data, b->data, b->size);
    moe__free(b->ctx, b->data, b->room);
    b->data = data;
    b->room = room;
    return MOE_OK;
}

moe_status moe__buffer_add(moe_buffer *b, const void *data, size_t size) {
    moe_status status = moe__buffer_reserve(b, size);
    if (status != MOE_OK || size == 0) return status;
    memcpy(b->data + b->size, data, size);
    b->size += size;
    return MOE_OK;
}

void moe__buffer_free(moe_buffer *b) {
    moe__free(b->ctx, b->data, b->room);
    *b = (moe_buffer){.ctx = b->ctx};
}
