/* What the two halves of core.json share: json.c (marks, decode) and json_encode.c. */
#ifndef LMOE_JSON_H
#define LMOE_JSON_H

#include "bind.h"

#include <stdbool.h>

/* What decode accepts, encode accepts: both stop at this nesting. */
#define LMOE_JSON_DEPTH 200

/* Whether the table at `index` carries the array mark. */
bool lmoe_json_is_array(lua_State *L, int index);

/* Marks the table on top of the stack as an array. */
void lmoe_json_mark_array(lua_State *L);

/* Whether the value at `index` is json.null. */
bool lmoe_json_is_null(lua_State *L, int index);

/* Pushes json.null. */
void lmoe_json_push_null(lua_State *L);

/* Adds `encode` to the table on top of the stack. */
void lmoe_json_add_encode(lua_State *L);

#endif
