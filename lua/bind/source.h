/* What source.c gives merge.c: the description of a source, as Lua has it, read. */
#ifndef LMOE_SOURCE_H
#define LMOE_SOURCE_H

#include "checkpoint.h"
#include "checkpoint/source.h"

/* A source as it was read. Everything it points to belongs to values that the table holds. */
typedef struct lmoe_source {
    moe_source source;
    size_t rank;
    uint64_t shape[MOE_MAX_DIMS];
    moe_checkpoint *file;           /* NULL when it is a tensor */
    const moe_entry *entry;
} lmoe_source;

/* How many sources `others` of the table at `table` lists. */
size_t lmoe_count_others(lua_State *L, int table);

/* Reads the source at `table`, an absolute index; `others` has room for `room` of them.
 * Raises "where: ..." when it makes no sense; returns false and leaves nil, message, "missing" when
 * the file has no such tensor. Runs no finalizer unless it raises. */
bool lmoe_read_source(lua_State *L, int table, const char *where, lmoe_source *out,
                      moe_source *others, size_t room);

/* core.checkpoint.read(source, dtype) */
int lmoe_checkpoint_read(lua_State *L);

#endif
