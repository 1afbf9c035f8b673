/* What checkpoint.c (reading, opener) and checkpoint_save.c share. */
#ifndef LMOE_CHECKPOINT_H
#define LMOE_CHECKPOINT_H

#include "bind.h"
#include "checkpoint/safetensors.h"

/* The results of a function that failed: nil, message, code. Ctrl-C and misuse raise instead. */
int lmoe_checkpoint_fail(lua_State *L, moe_status status);

/* Functions of the table `checkpoint`. */
int lmoe_checkpoint_save(lua_State *L);
int lmoe_checkpoint_size(lua_State *L);

#endif
