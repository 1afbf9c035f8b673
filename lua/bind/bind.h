/* bind.h -- what the files of the binding share. lua/bind is the only C that includes lua.h.
 *
 * Rules that make errors leak-proof: no pointer that we own lives in a C local across a lua_* call
 * that can raise; the (empty) userdata exists before what it will own; core functions return a
 * status and only lmoe_check() raises, when every live resource sits in a userdata.
 */
#ifndef LMOE_BIND_H
#define LMOE_BIND_H

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "moe.h"
#include "moelua.h"
#include "tape/op.h"

#define LMOE_TENSOR "moelua.Tensor"
#define LMOE_CONFIG_KEY "moelua.config"     /* registry: light userdata, const moelua_config * */
#define LMOE_NO_LUA_MEMORY "not enough memory"      /* Lua's own message for a lack of memory */
#define LMOE_PATH_KEY "moelua.path"         /* registry: folder of the Lua modules, or nil */

/* What a tensor userdata points to. Each box is in the list of a scope, or in that of the state. It
 * lies beside Lua's memory and not in it: Lua drops a finalizer that it has no memory to call,
 * and frees the userdata all the same. Such a box is found by its scope, or when the state closes.
 * The same holds for what a scope userdata points to. */
typedef struct lmoe_box {
    moe_tensor *tensor;             /* NULL when released */
    struct lmoe_box *next, **link;  /* link: what points to us */
    struct lmoe_scope *scope;       /* the one whose list we are in */
} lmoe_box;

typedef struct lmoe_scope {
    struct lmoe_scope *outer;
    lmoe_box *first;
    bool open;
} lmoe_scope;

/* A backward under way: the `ud` of moe__backward. */
typedef struct lmoe_pass {
    lua_State *L;
    bool raised;                    /* a function to recompute did, and left its error on top */
} lmoe_pass;

/* One per Lua state, a userdata in the registry. */
typedef struct lmoe_state {
    moe_ctx *ctx;
    const void *tensor_type;        /* address of the tensor metatable: the cheapest type check */
    lmoe_scope *scope;              /* innermost open one */
    lmoe_scope *closed;             /* those that were abandoned, then closed with an outer one */
    lmoe_scope outside;             /* has the boxes that belong to no scope */
    int64_t charged;                /* bytes not yet charged to Lua's collector; what scopes free
                                       counts against it: the next step takes it again */
    size_t ceiling;                 /* live bytes that force a full collection */
    size_t floor;                   /* moe.memory{floor=...} */
    double growth;                  /* moe.memory{growth=...} */
    moe_status raised;              /* what lmoe_check raised last, for attempt() */
    lua_State *main;                /* of the Lua state: one of its coroutines may be gone */
    struct lmoe_again *again;       /* the calls that nodes on the tape refer to, see recompute.c */
} lmoe_state;

lmoe_state *lmoe_getstate(lua_State *L);
moe_ctx *lmoe_ctx(lua_State *L);
moelua *lmoe_owner(lua_State *L);           /* of this state; NULL in a Lua that is not ours */

/* ---- tensors ------------------------------------------------------------------------------- */

moe_tensor *lmoe_checktensor(lua_State *L, int arg);
/* NULL when the value is no tensor or a released one. */
moe_tensor *lmoe_totensor(lua_State *L, int arg);
/* Pushes an empty box; fill its tensor afterwards. Gives the collector its chance first: whatever
 * pointer to a tensor was read before may be dangling after it, because finalizers are the
 * script's code. So read arguments after making boxes. */
lmoe_box *lmoe_newbox(lua_State *L);
/* Puts a new tensor into a box. When memory is short it collects (see lmoe_newbox) and tries once
 * more; raises when that does not help. */
moe_tensor *lmoe_fillbox(lua_State *L, lmoe_box *box, moe_dtype dtype, int ndim,
                         const int64_t *shape);
/* The element type of that name; raises "what: ..." when there is none. */
moe_dtype lmoe_dtype(lua_State *L, const char *name, const char *what);
/* Pushes the XXH3-64 of the bytes as 16 hexadecimal digits. Returns 1. */
int lmoe_pushhash(lua_State *L, const void *data, size_t size);
/* Moves a box into the list of a scope; NULL: of none. */
void lmoe_setscope(lmoe_state *s, lmoe_box *box, lmoe_scope *scope);
/* Pushes an empty box without looking at the ceiling; Lua may collect all the same. */
lmoe_box *lmoe_pushbox(lua_State *L);
/* For `do s = f(); while (lmoe_again(L, s, &tried));`, tried = false before: true once, when s says
 * that there was no memory, after a full collection (see lmoe_newbox). */
bool lmoe_again(lua_State *L, moe_status s, bool *tried);
/* Charges what was allocated since `live_before` to Lua's collector. */
void lmoe_charge(lua_State *L, size_t live_before);
/* A full collection, after which the ceiling follows what is left alive. Does nothing when there is
 * no memory to call finalizers with. */
void lmoe_collect(lua_State *L);
/* Releases what the box holds; an empty one stays as it is. */
void lmoe_emptybox(lmoe_state *s, lmoe_box *box);
/* For the end of a state: the scopes, then what the boxes hold and the boxes, then the calls. */
void lmoe_freescopes(lmoe_state *s);
void lmoe_freeboxes(lmoe_state *s);
void lmoe_forgetcalls(lmoe_state *s);
/* Pushes a new scope, which lua_toclose() can close. */
lmoe_scope *lmoe_pushscope(lua_State *L);
/* If closing the scope would release the box, it now belongs to the scope around that one. */
void lmoe_keep(lmoe_state *s, const lmoe_scope *scope, lmoe_box *box);
/* The box of the tensor userdata at `arg`; NULL when it is none, or its box is gone. */
lmoe_box *lmoe_tobox(lua_State *L, int arg);
/* The state, or NULL when it is closed. */
lmoe_state *lmoe_findstate(lua_State *L);
/* Makes the metatable `name` of a userdata that `release` empties, by __gc and __close alike. What
 * release does must be harmless the second time. `methods` may be NULL. Scripts that ask for the
 * metatable get the name. */
void lmoe_newtype(lua_State *L, const char *name, lua_CFunction release, const luaL_Reg *methods);

/* ---- errors -------------------------------------------------------------------------------- */

/* Raises "script.lua:42: message" with the user's line: frames of moelua's own modules are
 * skipped. The format is lua_pushfstring's. Never returns. */
int lmoe_raise(lua_State *L, const char *fmt, ...);
/* Raises the context's message unless the status is MOE_OK. */
void lmoe_check(lua_State *L, moe_status status);
/* Pushes nil, the context's message and its code ("missing", "io" ...); returns 3. */
int lmoe_fail_status(lua_State *L, moe_status status);
const char *lmoe_code(moe_status status);

/* ---- arguments (arguments.c) --------------------------------------------------------------- */

/* Raises "function: parameter must be WANTED, not VALUE" about an argument of the running function;
 * the names are those of its record in functions.lua. */
int lmoe_wrong(lua_State *L, int arg, const char *wanted);
/* The same for a tensor that is gone. */
int lmoe_released(lua_State *L, int arg);
/* Pushes a value as messages show it: numbers and short strings themselves, else what it is. */
const char *lmoe_describe(lua_State *L, int arg);
lua_Integer lmoe_checkinteger(lua_State *L, int arg);
lua_Number lmoe_checknumber(lua_State *L, int arg);
lua_Number lmoe_optnumber(lua_State *L, int arg, lua_Number otherwise);
const char *lmoe_checkstring(lua_State *L, int arg);
void lmoe_checktype(lua_State *L, int arg, int type);

/* The list of integers at `arg` (a table) or from `arg` on (plain integers). Returns how many. */
int lmoe_checkshape(lua_State *L, int arg, const char *what, int64_t *shape);
/* The same when the arguments end at index `last`. Does not run the collector. */
int lmoe_readshape(lua_State *L, int arg, int last, const char *what, int64_t *shape);
/* Raises when the table at `arg` has a field that is not one of the words in `known`. */
void lmoe_checkfields(lua_State *L, int arg, const char *what, const char *known);
/* Reads an optional field of the options table at `arg`. */
lua_Integer lmoe_intfield(lua_State *L, int arg, const char *name, lua_Integer otherwise);
lua_Number lmoe_numfield(lua_State *L, int arg, const char *name, lua_Number otherwise);
const char *lmoe_strfield(lua_State *L, int arg, const char *name, const char *otherwise);

/* ---- the name that was meant (nearest.c) ---------------------------------------------------- */

typedef struct lmoe_guess {
    const char *word;           /* what was written */
    size_t size;
    const char *name;           /* the nearest so far, NULL while there is none */
    size_t length;
    int edits;
} lmoe_guess;

lmoe_guess lmoe_new_guess(const char *word, size_t size);
/* Is this name the nearest so far? The guess points to it then. */
bool lmoe_consider(lmoe_guess *g, const char *name, size_t size);

/* ---- the parts of the module: each leaves, or adds to, one table on top of the stack -------- */

void lmoe_open_tensor(lua_State *L);        /* Tensor functions and methods, one table for both */
void lmoe_add_ops(lua_State *L);            /* adds every op, and the field `ops` */
void lmoe_add_create(lua_State *L);         /* zeros, randn, ... */
void lmoe_add_memory(lua_State *L);         /* memory, scope, no_grad, manual_seed */
void lmoe_add_optimizer(lua_State *L);
void lmoe_add_interrupt(lua_State *L);      /* uninterrupted */
void lmoe_add_recompute(lua_State *L);
void lmoe_add_sample(lua_State *L);
void lmoe_add_nearest(lua_State *L);
void lmoe_open_json(lua_State *L);
void lmoe_open_yaml(lua_State *L);
void lmoe_open_system(lua_State *L);
void lmoe_open_checkpoint(lua_State *L);
void lmoe_open_text(lua_State *L);
void lmoe_add_tokenizer(lua_State *L);      /* adds `tokenizer` to the table `text` */
void lmoe_add_training(lua_State *L);       /* of tokenizers, to the same */
void lmoe_add_lines(lua_State *L);          /* `lines`, to the same */
void lmoe_open_slots(lua_State *L);         /* userdata that hold tensors, see class.lua */

#endif
