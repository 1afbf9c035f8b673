/* What checkpoint.c (reading, opener), checkpoint_save.c and checkpoint_writer.c share. */
#ifndef LMOE_CHECKPOINT_H
#define LMOE_CHECKPOINT_H

#include "bind.h"
#include "checkpoint/checkpoint.h"

/* The open checkpoint of the userdata at `arg`; NULL when it is none, or was closed. It lives as
 * long as the userdata is not closed, which a finalizer may do. */
moe_checkpoint *lmoe_tocheckpoint(lua_State *L, int arg);

/* The results of a function that failed: nil, message, code. Ctrl-C and misuse raise instead. */
int lmoe_checkpoint_fail(lua_State *L, moe_status status);

/* Pushes the metadata of the file: the value of one key or nil when `key` is not NULL, else a table
 * of all of it. */
void lmoe_checkpoint_metadata(lua_State *L, const moe_checkpoint *c, const moe_slice *key);

/* Functions of the table `checkpoint`. */
int lmoe_checkpoint_save(lua_State *L);
int lmoe_checkpoint_describe(lua_State *L);
int lmoe_checkpoint_create(lua_State *L);
int lmoe_checkpoint_create_gguf(lua_State *L);

/* Makes the metatable of what create returns. */
void lmoe_checkpoint_writer_type(lua_State *L);

/* Parts of a plan, as the table at `table` (an absolute index) gives them; `where` begins the
 * messages. The first reads dtype; the second reads shape and leaves its memory on the stack. */
void lmoe_checkpoint_type(lua_State *L, int table, const char *where, moe_stored_item *item);
void lmoe_checkpoint_shape(lua_State *L, int table, const char *where, moe_stored_item *item);
size_t lmoe_checkpoint_entries(lua_State *L, int table);
/* The list of pairs in the table at `table`, or NULL for nil; leaves its memory on the stack. */
moe_stored_pair *lmoe_checkpoint_pairs(lua_State *L, int table, const char *where, size_t *n);
/* The metadata of a GGUF file from the table at `table`; leaves its memory on the stack, as two
 * values. */
moe_gguf_pair *lmoe_checkpoint_gguf_pairs(lua_State *L, int table, size_t *n);

#endif
