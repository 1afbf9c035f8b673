/* json.encode: Lua values to JSON text.
 *
 * The walk is over the Lua value itself, because an error can then name the place
 * ("layers[3].rate is nan"); escaping and checking of strings is left to jansson.
 */
#include "json.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INDENT_LIMIT 16
#define PATH_SHOWN 100
#define WRITER_TYPE "moelua.json.writer"

/* ---- encoding: the text so far -------------------------------------------------------------- */

/* The growing text. It comes from Lua's own allocator, so that a host's limit holds for it. */
struct writer {
    lua_State *L;
    char *text;
    size_t used;
    size_t room;
    int indent;
};

static int writer_release(lua_State *L) {
    struct writer *w = luaL_checkudata(L, 1, WRITER_TYPE);
    void *data;
    lua_Alloc allocate = lua_getallocf(L, &data);
    if (w->text != NULL) allocate(data, w->text, w->room, 0);
    w->text = NULL;
    w->used = w->room = 0;
    return 0;
}

static struct writer *push_writer(lua_State *L, int indent) {
    struct writer *w = lua_newuserdatauv(L, sizeof *w, 0);
    *w = (struct writer){ .L = L, .indent = indent };
    luaL_setmetatable(L, WRITER_TYPE);
    lua_toclose(L, -1);
    return w;
}

static int grow(struct writer *w, size_t least) {
    size_t room = w->room < 512 ? 1024 : w->room * 2;
    if (room < least) room = least;
    void *data;
    lua_Alloc allocate = lua_getallocf(w->L, &data);
    char *text = allocate(data, w->text, w->room, room);
    if (text == NULL) return -1;
    w->text = text;
    w->room = room;
    return 0;
}

/* Adds bytes without ever raising: jansson calls this with memory of its own at stake. */
static int append(const char *bytes, size_t size, void *writer) {
    struct writer *w = writer;
    if (w->room - w->used < size && grow(w, w->used + size) != 0) return -1;
    memcpy(w->text + w->used, bytes, size);
    w->used += size;
    return 0;
}

static void raise_memory(lua_State *L) {
    lua_pushliteral(L, "not enough memory");
    lua_error(L);
}

static void add(struct writer *w, const char *bytes, size_t size) {
    if (append(bytes, size, w) != 0) raise_memory(w->L);
}

static void add_text(struct writer *w, const char *text) {
    add(w, text, strlen(text));
}

static void add_line_break(struct writer *w, int depth) {
    if (w->indent == 0) return;
    add_text(w, "\n");
    for (int i = 0; i < depth * w->indent; i++) add_text(w, " ");
}

/* ---- encoding: the place in the value ------------------------------------------------------- */

/* One step of the way from the value given to encode to the one at hand. `table` is the container
 * that the step enters; `key` is NULL in a list, where `index` counts. */
struct step {
    const struct step *outer;
    const void *table;
    const char *key;
    lua_Integer index;
    int depth;
};

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static bool is_name(const char *key) {
    if (*key == '\0' || is_digit(*key)) return false;
    for (; *key; key++) {
        bool letter = (*key >= 'a' && *key <= 'z') || (*key >= 'A' && *key <= 'Z');
        if (!letter && !is_digit(*key) && *key != '_') return false;
    }
    return true;
}

static void push_path(lua_State *L, const struct step *step) {
    if (step == NULL) {
        lua_pushliteral(L, "");
        return;
    }
    push_path(L, step->outer);
    const char *outer = lua_tostring(L, -1);
    if (step->key == NULL)
        lua_pushfstring(L, "%s[%I]", outer, (LUAI_UACINT)step->index);
    else if (is_name(step->key))
        lua_pushfstring(L, "%s%s%s", outer, *outer ? "." : "", step->key);
    else
        lua_pushfstring(L, "%s[\"%s\"]", outer, step->key);
    lua_remove(L, -2);
}

/* The path for a message; only the end of a long one is of use. */
static const char *place(struct writer *w, const struct step *step) {
    lua_State *L = w->L;
    luaL_checkstack(L, 8, "encode: too deep");
    if (step == NULL) return "the value";
    push_path(L, step);
    size_t size;
    const char *path = lua_tolstring(L, -1, &size);
    if (size <= PATH_SHOWN) return path;
    return lua_pushfstring(L, "...%s", path + size - PATH_SHOWN);
}

/* ---- encoding: values ----------------------------------------------------------------------- */

static void encode_value(struct writer *w, int index, const struct step *step);

static void encode_string(struct writer *w, const char *text, size_t size,
                          const struct step *step) {
    json_t *string = json_stringn(text, size);
    if (string == NULL) {
        lmoe_raise(w->L, "encode: %s is not valid UTF-8", place(w, step));
        return;
    }
    int failed = json_dump_callback(string, append, w, JSON_ENCODE_ANY);
    json_decref(string);
    if (failed) raise_memory(w->L);
}

/* Writes the shortest of 15 to 17 digits that reads back as the same double, with a point or an
 * exponent, so that it also reads back as a float; snprintf follows the locale, JSON does not. */
static void encode_float(struct writer *w, double number, const struct step *step) {
    if (!isfinite(number)) {
        const char *name = isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
        lmoe_raise(w->L, "encode: %s is %s: JSON has no such number", place(w, step), name);
        return;
    }
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, number);
        if (!(strtod(text, NULL) < number) && !(strtod(text, NULL) > number)) break;
    }
    char *point = text + strspn(text, "-0123456789");
    if (*point == '\0')
        strcat(text, ".0");
    else if (*point != 'e')
        *point = '.';
    add_text(w, text);
}

static void encode_number(struct writer *w, int index, const struct step *step) {
    if (!lua_isinteger(w->L, index)) {
        encode_float(w, lua_tonumber(w->L, index), step);
        return;
    }
    char text[32];
    snprintf(text, sizeof text, LUA_INTEGER_FMT, (LUAI_UACINT)lua_tointeger(w->L, index));
    add_text(w, text);
}

/* A list holds 1..n and nothing else; what else it holds would be lost without a word. */
static lua_Integer check_list(struct writer *w, int index, const struct step *step) {
    lua_State *L = w->L;
    lua_Integer count = 0;
    lua_Integer last = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        if (!lua_isinteger(L, -2) || lua_tointeger(L, -2) < 1) {
            lua_pop(L, 1);
            const char *key = luaL_tolstring(L, -1, NULL);
            lmoe_raise(L, "encode: %s is a list that also has the key %s", place(w, step), key);
        }
        count++;
        if (lua_tointeger(L, -2) > last) last = lua_tointeger(L, -2);
    }
    if (count != last) {
        lmoe_raise(L, "encode: %s is a list with holes: %I values, last index %I\n"
                   "hint: put json.null where there is no value",
                   place(w, step), (LUAI_UACINT)count, (LUAI_UACINT)last);
    }
    return count;
}

static void encode_list(struct writer *w, int index, const struct step *step, int depth) {
    lua_Integer count = check_list(w, index, step);
    struct step inner = { step, lua_topointer(w->L, index), NULL, 0, depth };
    add_text(w, "[");
    for (lua_Integer i = 1; i <= count; i++) {
        add_text(w, i > 1 ? "," : "");
        add_line_break(w, depth);
        inner.index = i;
        lua_rawgeti(w->L, index, i);
        encode_value(w, lua_gettop(w->L), &inner);
        lua_pop(w->L, 1);
    }
    if (count > 0) add_line_break(w, depth - 1);
    add_text(w, "]");
}

struct key {
    const char *text;
    size_t size;
};

static int compare_keys(const void *left, const void *right) {
    const struct key *a = left;
    const struct key *b = right;
    size_t shared = a->size < b->size ? a->size : b->size;
    int order = memcmp(a->text, b->text, shared);
    return order != 0 ? order : (a->size > b->size) - (a->size < b->size);
}

static size_t count_keys(struct writer *w, int index, const struct step *step) {
    lua_State *L = w->L;
    size_t count = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        if (lua_type(L, -2) != LUA_TSTRING) {
            const char *type = luaL_typename(L, -2);
            lua_pop(L, 1);
            const char *key = luaL_tolstring(L, -1, NULL);
            lmoe_raise(L, "encode: %s has the key %s: keys of an object are strings, not %ss",
                       place(w, step), key, type);
        }
        count++;
    }
    return count;
}

/* Pushes a block with the keys in byte order. They point into strings that the table keeps. */
static struct key *push_sorted_keys(lua_State *L, int index, size_t count) {
    struct key *keys = lua_newuserdatauv(L, count * sizeof *keys, 0);
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), i++)
        keys[i].text = lua_tolstring(L, -2, &keys[i].size);
    if (count > 0) qsort(keys, count, sizeof *keys, compare_keys);
    return keys;
}

static void encode_object(struct writer *w, int index, const struct step *step, int depth) {
    lua_State *L = w->L;
    size_t count = count_keys(w, index, step);
    const struct key *keys = push_sorted_keys(L, index, count);
    struct step inner = { step, lua_topointer(L, index), NULL, 0, depth };
    add_text(w, "{");
    for (size_t i = 0; i < count; i++) {
        add_text(w, i > 0 ? "," : "");
        add_line_break(w, depth);
        inner.key = keys[i].text;
        encode_string(w, keys[i].text, keys[i].size, &inner);
        add_text(w, w->indent > 0 ? ": " : ":");
        lua_pushlstring(L, keys[i].text, keys[i].size);
        lua_rawget(L, index);
        encode_value(w, lua_gettop(L), &inner);
        lua_pop(L, 1);
    }
    lua_pop(L, 1);
    if (count > 0) add_line_break(w, depth - 1);
    add_text(w, "}");
}

static void refuse_cycle(struct writer *w, int index, const struct step *step) {
    const void *table = lua_topointer(w->L, index);
    for (const struct step *at = step; at != NULL; at = at->outer)
        if (at->table == table)
            lmoe_raise(w->L, "encode: %s is a table that contains itself", place(w, step));
}

static void encode_table(struct writer *w, int index, const struct step *step) {
    lua_State *L = w->L;
    int depth = step == NULL ? 1 : step->depth + 1;
    refuse_cycle(w, index, step);
    if (depth > LMOE_JSON_DEPTH) {
        lmoe_raise(L, "encode: %s is nested deeper than %d levels", place(w, step),
                   LMOE_JSON_DEPTH);
    }
    lua_rawgeti(L, index, 1);
    bool list = !lua_isnil(L, -1) || lmoe_json_is_array(L, index);
    lua_pop(L, 1);
    if (list)
        encode_list(w, index, step, depth);
    else
        encode_object(w, index, step, depth);
}

static void encode_other(struct writer *w, int index, const struct step *step) {
    if (lmoe_json_is_null(w->L, index)) {
        add_text(w, "null");
        return;
    }
    if (lua_isnil(w->L, index))
        lmoe_raise(w->L, "encode: the value is nil\nhint: json.null writes null");
    const char *type = luaL_typename(w->L, index);
    lmoe_raise(w->L, "encode: %s is a %s, which JSON cannot hold", place(w, step), type);
}

static void encode_value(struct writer *w, int index, const struct step *step) {
    luaL_checkstack(w->L, 16, "encode: too deep");
    switch (lua_type(w->L, index)) {
        case LUA_TBOOLEAN: add_text(w, lua_toboolean(w->L, index) ? "true" : "false"); break;
        case LUA_TNUMBER: encode_number(w, index, step); break;
        case LUA_TTABLE: encode_table(w, index, step); break;
        case LUA_TSTRING: {
            size_t size;
            const char *text = lua_tolstring(w->L, index, &size);
            encode_string(w, text, size, step);
            break;
        }
        default: encode_other(w, index, step); break;
    }
}

static void check_option_names(lua_State *L, int index) {
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        bool known = lua_type(L, -2) == LUA_TSTRING && strcmp(lua_tostring(L, -2), "indent") == 0;
        if (!known) {
            lua_pop(L, 1);
            lmoe_raise(L, "encode: unknown option: %s\nhint: the only option is indent",
                       luaL_tolstring(L, -1, NULL));
        }
    }
}

static int check_indent(lua_State *L, int index) {
    if (lua_isnoneornil(L, index)) return 0;
    if (!lua_istable(L, index))
        return lmoe_raise(L, "encode: options must be a table: got %s", luaL_typename(L, index));
    check_option_names(L, index);
    lua_getfield(L, index, "indent");
    int exact;
    lua_Integer indent = lua_isnil(L, -1) ? 0 : lua_tointegerx(L, -1, &exact);
    bool valid = lua_isnil(L, -1) || (exact && indent >= 0 && indent <= INDENT_LIMIT);
    if (!valid) {
        return lmoe_raise(L, "encode: indent must be an integer from 0 to %d: got %s",
                          INDENT_LIMIT, luaL_tolstring(L, -1, NULL));
    }
    return (int)indent;
}

/* json.encode(value, {indent = 2}?): the text. Keys are sorted, so that equal values give equal
 * text; misuse raises and names the place. */
static int json_encode(lua_State *L) {
    int indent = check_indent(L, 2);
    lua_settop(L, 1);
    struct writer *w = push_writer(L, indent);
    encode_value(w, 1, NULL);
    lua_pushlstring(L, w->text, w->used);
    return 1;
}


void lmoe_json_add_encode(lua_State *L) {
    lmoe_newtype(L, WRITER_TYPE, writer_release, NULL);
    lua_pushcfunction(L, json_encode);
    lua_setfield(L, -2, "encode");
}
