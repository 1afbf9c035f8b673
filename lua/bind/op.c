/* op.c -- one generic closure per op record: moe.softmax(x, -1) and x:softmax(-1).
 *
 * The record's signature is parsed once, when the module opens. Calling an op reads the arguments
 * by it, checks their types, applies the op, and boxes the outputs.
 */
#include "bind.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "tape/tape.h"

#define MAX_PARAMS 12
#define MAX_WORDS 8

typedef enum kind {
    TENSOR, ITENSOR, ANY, FLOAT, OPERAND, TENSORS, INT, NUM, BOOL, DIM, INDEX, SIZES, WORD
} kind;

typedef struct param {
    kind kind;
    char name[24];
    bool optional;              /* has a default, or may be absent */
    moe_arg otherwise;
    int nwords;
    char word[MAX_WORDS][16];
} param;

typedef struct signature {
    const moe_op *op;
    int nparams, nresults;
    param param[MAX_PARAMS];
} signature;

/* ---- parsing -------------------------------------------------------------------------------- */

static bool is_tensor(kind k) { return k <= OPERAND; }

static const char *copy_until(const char *from, const char *stops, char *to, size_t size) {
    size_t n = strcspn(from, stops);
    size_t kept = n < size ? n : size - 1;
    memcpy(to, from, kept);
    to[kept] = 0;
    return from + n;
}

static kind kind_of(lua_State *L, const char *type) {
    static const char *const name[] = {"tensor", "itensor", "any", "float", "operand", "tensors",
                                       "int", "num", "bool", "dim", "index", "sizes"};
    for (int i = 0; i < (int)(sizeof name / sizeof *name); i++)
        if (strcmp(type, name[i]) == 0) return (kind)i;
    luaL_error(L, "unknown parameter type '%s'", type);
    return ANY;
}

static int find_word(const param *p, const char *text) {
    for (int i = 0; i < p->nwords; i++)
        if (strcmp(p->word[i], text) == 0) return i;
    return -1;
}

static void parse_default(param *p, const char *text) {
    if (p->kind == NUM)
        p->otherwise.f = strtod(text, NULL);
    else if (p->kind == BOOL)
        p->otherwise.i = strcmp(text, "true") == 0;
    else if (p->kind == WORD)
        p->otherwise.i = find_word(p, text);
    else {
        p->otherwise.i = strtoll(text, NULL, 10);
        if ((p->kind == DIM || p->kind == INDEX) && p->otherwise.i > 0) p->otherwise.i--;
    }
}

/* name:type[?][=default] */
static const char *parse_param(lua_State *L, const char *s, param *p) {
    char text[32];
    s = copy_until(s, ":", p->name, sizeof p->name) + 1;
    if (*s == '{') {
        p->kind = WORD;
        do {
            s = copy_until(s + 1, "|}", p->word[p->nwords], sizeof p->word[0]);
            p->nwords++;
        } while (*s == '|' && p->nwords < MAX_WORDS);
        s++;
    } else {
        s = copy_until(s, "?=, ", text, sizeof text);
        p->kind = kind_of(L, text);
    }
    if (*s == '?') {
        p->optional = true;
        p->otherwise.i = MOE_NO_DIM;
        s++;
    }
    if (*s == '=') {
        s = copy_until(s + 1, ", ", text, sizeof text);
        p->optional = true;
        parse_default(p, text);
    }
    return s;
}

static void parse(lua_State *L, const moe_op *op, signature *sig) {
    *sig = (signature){.op = op, .nresults = 1};
    const char *s = op->sig;
    while (*s && *s != '-' && sig->nparams < MAX_PARAMS) {
        s = parse_param(L, s, &sig->param[sig->nparams++]);
        s += strspn(s, ", ");
    }
    for (; *s; s++) sig->nresults += *s == ',';
}

/* ---- reading arguments ---------------------------------------------------------------------- */

static void wrong(lua_State *L, const signature *sig, const param *p, int arg, const char *wanted) {
    lmoe_raise(L, "%s: %s must be %s, not %s", sig->op->name, p->name, wanted,
               lmoe_describe(L, arg));
}

static void check_dtype(lua_State *L, const signature *sig, const param *p, const moe_tensor *t) {
    moe_dtype wanted = p->kind == ITENSOR ? MOE_I32 : MOE_F32;
    if (p->kind == ANY || t->dtype == wanted) return;
    if (p->kind == FLOAT && t->dtype != MOE_I32) return;
    lmoe_raise(L, "%s: %s is %s, but must be %s\nhint: %s:to(\"%s\")", sig->op->name, p->name,
               moe__dtype_name(t->dtype), moe__dtype_name(wanted), p->name,
               moe__dtype_name(wanted));
}

/* A number given as an operand becomes a 0-dimensional tensor in its place on the stack. */
static void number_to_tensor(lua_State *L, int arg) {
    lua_Number value = lua_tonumber(L, arg);
    moe_tensor *t = lmoe_fillbox(L, lmoe_newbox(L), MOE_F32, 0, NULL);
    *(moe_real *)moe_tensor_data(t) = (moe_real)value;
    lua_replace(L, arg);
}

static moe_tensor *read_tensor(lua_State *L, const signature *sig, const param *p, int arg) {
    if (p->optional && lua_isnoneornil(L, arg)) return NULL;
    moe_tensor *t = lmoe_totensor(L, arg);
    if (!t) {
        if (!luaL_testudata(L, arg, LMOE_TENSOR))
            wrong(L, sig, p, arg, p->kind == OPERAND ? "a tensor or a number" : "a tensor");
        lmoe_raise(L, "%s: %s was released\nhint: scope:keep(x) lets a tensor outlive its scope",
                   sig->op->name, p->name);
    }
    check_dtype(L, sig, p, t);
    return t;
}

static void read_list(lua_State *L, const signature *sig, const param *p, int arg, moe_call *c) {
    if (!lua_istable(L, arg)) wrong(L, sig, p, arg, "a list of tensors");
    lua_Unsigned n = lua_rawlen(L, arg);
    if (n < 1 || n > MOE_MAX_IN)
        lmoe_raise(L, "%s: %s must hold 1 to %d tensors, not %I", sig->op->name, p->name,
                   MOE_MAX_IN, (LUAI_UACINT)n);
    for (lua_Integer i = 1; i <= (lua_Integer)n; i++) {
        lua_rawgeti(L, arg, i);             /* the table keeps it alive */
        moe_tensor *t = lmoe_totensor(L, -1);
        if (!t && luaL_testudata(L, -1, LMOE_TENSOR))
            lmoe_raise(L, "%s: tensor %I of %s was released\n"
                       "hint: scope:keep(x) lets a tensor outlive its scope", sig->op->name,
                       (LUAI_UACINT)i, p->name);
        if (!t) wrong(L, sig, p, -1, "a list of tensors");
        c->in[c->nin++] = t;
        lua_pop(L, 1);
    }
}

static int64_t read_integer(lua_State *L, const signature *sig, const param *p, int arg) {
    int whole;
    lua_Integer value = lua_tointegerx(L, arg, &whole);
    if (!whole || lua_type(L, arg) != LUA_TNUMBER) wrong(L, sig, p, arg, "an integer");
    if ((p->kind == DIM || p->kind == INDEX) && value == 0)
        lmoe_raise(L, "%s: %s counts from 1 (or from -1, the last), not 0", sig->op->name,
                   p->name);
    return (p->kind == DIM || p->kind == INDEX) && value > 0 ? value - 1 : value;
}

static int64_t read_word(lua_State *L, const signature *sig, const param *p, int arg) {
    bool text = lua_type(L, arg) == LUA_TSTRING;
    const char *word = text ? lua_tostring(L, arg) : "";
    int i = find_word(p, word);
    if (i >= 0) return i;
    lmoe_guess guess = lmoe_new_guess(word, strlen(word));
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    luaL_addstring(&b, "one of");
    for (int k = 0; k < p->nwords; k++) {
        luaL_addstring(&b, k ? ", \"" : " \"");
        luaL_addstring(&b, p->word[k]);
        luaL_addstring(&b, "\"");
        lmoe_consider(&guess, p->word[k], strlen(p->word[k]));
    }
    luaL_pushresult(&b);
    const char *wanted = lua_tostring(L, -1), *got = lmoe_describe(L, arg);
    lmoe_raise(L, "%s: %s must be %s, not %s%s%s%s", sig->op->name, p->name, wanted, got,
               guess.name ? "\nhint: did you mean \"" : "", guess.name ? guess.name : "",
               guess.name ? "\"?" : "");
    return 0;
}

static moe_arg read_scalar(lua_State *L, const signature *sig, const param *p, int arg) {
    moe_arg a = {.i = 0};
    if (lua_isnoneornil(L, arg)) {
        if (!p->optional) wrong(L, sig, p, arg, p->kind == NUM ? "a number" : "given");
        return p->otherwise;
    }
    switch (p->kind) {
        case NUM:
            if (lua_type(L, arg) != LUA_TNUMBER) wrong(L, sig, p, arg, "a number");
            a.f = lua_tonumber(L, arg);
            break;
        case BOOL:
            if (!lua_isboolean(L, arg)) wrong(L, sig, p, arg, "true or false");
            a.i = lua_toboolean(L, arg);
            break;
        case WORD: a.i = read_word(L, sig, p, arg); break;
        default: a.i = read_integer(L, sig, p, arg); break;
    }
    return a;
}

/* Checks how many there are, makes tensors of numbers, and returns the index of the last one. */
static int settle_arguments(lua_State *L, const signature *sig) {
    int given = lua_gettop(L);
    bool variadic = sig->nparams && sig->param[sig->nparams - 1].kind == SIZES;
    if (given > sig->nparams && !variadic)
        lmoe_raise(L, "%s: %d arguments, but it takes at most %d\nhint: %s(%s)", sig->op->name,
                   given, sig->nparams, sig->op->name, sig->op->sig);
    if (!variadic) lua_settop(L, given = sig->nparams);
    for (int i = 1; i <= sig->nparams; i++)
        if (sig->param[i - 1].kind == OPERAND && lua_type(L, i) == LUA_TNUMBER)
            number_to_tensor(L, i);
    return given;
}

/* Nothing here runs the collector: a finalizer might release a tensor that was read already. */
static void read_arguments(lua_State *L, const signature *sig, int last, moe_call *c) {
    int narg = 0;
    for (int i = 0; i < sig->nparams; i++) {
        const param *p = &sig->param[i];
        if (is_tensor(p->kind))
            c->in[c->nin++] = read_tensor(L, sig, p, i + 1);
        else if (p->kind == TENSORS)
            read_list(L, sig, p, i + 1, c);
        else if (p->kind == SIZES)
            c->nsizes = lmoe_readshape(L, i + 1, last, sig->op->name, c->sizes);
        else
            c->arg[narg++] = read_scalar(L, sig, p, i + 1);
    }
}

/* ---- calling -------------------------------------------------------------------------------- */

static int call_op(lua_State *L) {
    const signature *sig = lua_touserdata(L, lua_upvalueindex(1));
    int last = settle_arguments(L, sig);
    luaL_checkstack(L, sig->nresults + 4, sig->op->name);
    lmoe_box *box[MOE_MAX_OUT];
    for (int k = 0; k < sig->nresults; k++) box[k] = lmoe_newbox(L);
    moe_tensor *in[MOE_MAX_IN];
    moe_call c;
    moe_status s;
    size_t live;
    bool tried = false;
    do {
        c = (moe_call){.ctx = lmoe_ctx(L), .op = sig->op, .in = in};
        read_arguments(L, sig, last, &c);
        live = moe_memory(c.ctx).live;
        s = moe__apply(&c);
    } while (lmoe_again(L, s, &tried));
    for (int k = 0; k < sig->nresults && !s; k++) box[k]->tensor = c.out[k];
    lmoe_check(L, s);
    lmoe_charge(L, live);
    return sig->nresults;
}

/* ---- registration --------------------------------------------------------------------------- */

static void push_record(lua_State *L, const moe_op *op) {
    lua_createtable(L, 0, 4);
    lua_pushstring(L, op->sig);
    lua_setfield(L, -2, "sig");
    lua_pushstring(L, op->doc);
    lua_setfield(L, -2, "doc");
    lua_pushstring(L, op->sample);
    lua_setfield(L, -2, "sample");
    lua_pushboolean(L, op->backward != NULL);
    lua_setfield(L, -2, "differentiable");
}

/* Adds the ops to the table on top of the stack, and their records as its field `ops`. */
void lmoe_add_ops(lua_State *L) {
    lua_createtable(L, 0, moe_nops);
    for (int i = 0; i < moe_nops; i++) {
        const moe_op *op = moe_ops[i];
        signature *sig = lua_newuserdatauv(L, sizeof *sig, 0);
        parse(L, op, sig);
        lua_pushcclosure(L, call_op, 1);
        lua_setfield(L, -3, op->name);
        push_record(L, op);
        lua_setfield(L, -2, op->name);
    }
    lua_setfield(L, -2, "ops");
}
