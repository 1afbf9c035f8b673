/* core.yaml: YAML text for configurations that people write.
 *
 * Reading the text is libyaml's; this file turns its events into the values that core.json makes
 * of JSON: lists carry the array mark, null is json.null. Nothing here recurses, and what a small
 * file could blow up is refused: anchors and aliases, tags, deep nesting. A mapping that says a key
 * twice is refused too, because one of the two would be ignored.
 *
 * Plain scalars are what YAML 1.2 calls them, and yes, no, on and off are booleans besides, as in
 * YAML 1.1; 1e-4 is a number. Keys are strings, however they are written.
 */
#include "json.h"
#include "system.h"

#include <math.h>
#include <string.h>
#include <yaml.h>

#define READER_TYPE "moelua.yaml.reader"
#define DEPTH 64                            /* of lists and mappings in one another */
#define MOST_BYTES ((size_t)1 << 20)        /* a configuration has thousands */

/* The stack of Lua while a text is read. Each open collection has three more slots: its table,
 * the lines of what it holds, and the key of a mapping whose value is next. */
enum { TEXT = 1, READER, LINES, DOCUMENTS, DOCUMENT_LINES, FIRST };

/* A list or mapping that has not ended. */
typedef struct frame {
    lua_Integer count;      /* of the values of a list */
    bool mapping, keyed;    /* keyed: the next node is the value of a key */
} frame;

/* Owns what libyaml has allocated while Lua values are made, which may raise at any step. */
typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event;
    bool open, pending;     /* parser and event have something to release */
    int depth;
    lua_Integer documents;
    frame frames[DEPTH];
} reader;

static int reader_release(lua_State *L) {
    reader *r = luaL_checkudata(L, 1, READER_TYPE);
    if (r->pending) yaml_event_delete(&r->event);
    if (r->open) yaml_parser_delete(&r->parser);
    r->pending = r->open = false;
    return 0;
}

static reader *push_reader(lua_State *L) {
    reader *r = lua_newuserdatauv(L, sizeof *r, 0);
    memset(r, 0, sizeof *r);
    luaL_setmetatable(L, READER_TYPE);
    lua_toclose(L, -1);
    return r;
}

/* ---- errors --------------------------------------------------------------------------------- */

/* nil, "decode: line 3, column 5: text", "format"; the text is on top of the stack. */
static int fail_at(lua_State *L, const yaml_mark_t *mark) {
    lua_pushfstring(L, "decode: line %d, column %d: %s", (int)mark->line + 1, (int)mark->column + 1,
                    lua_tostring(L, -1));
    return lmoe_fail(L, "format");
}

/* The same for the event at hand. */
static int refuse(lua_State *L, const reader *r, const char *text) {
    lua_pushstring(L, text);
    return fail_at(L, &r->event.start_mark);
}

/* What libyaml found wrong. Its readers of bytes know an offset alone. */
static int fail_parse(lua_State *L, const yaml_parser_t *parser) {
    if (parser->error == YAML_MEMORY_ERROR) {
        lua_pushliteral(L, "decode: not enough memory");
        return lmoe_fail(L, "memory");
    }
    const char *problem = parser->problem ? parser->problem : "not YAML";
    if (parser->error == YAML_READER_ERROR) {
        lua_pushfstring(L, "decode: byte %d: %s", (int)parser->problem_offset + 1, problem);
        return lmoe_fail(L, "format");
    }
    if (parser->context) lua_pushfstring(L, "%s, %s", parser->context, problem);
    else lua_pushstring(L, problem);
    return fail_at(L, &parser->problem_mark);
}

/* ---- scalars -------------------------------------------------------------------------------- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static const char *skip_digits(const char *at) {
    while (is_digit(*at)) at++;
    return at;
}

/* Whether the text is a decimal number; numbers that begin with a needless 0 are text, since
 * versions of YAML disagree on what they are. */
static bool is_decimal(const char *at) {
    if (*at == '-' || *at == '+') at++;
    const char *whole = at;
    at = skip_digits(at);
    bool digits = at != whole;
    if (at - whole > 1 && *whole == '0') return false;
    if (*at == '.') {
        const char *fraction = ++at;
        at = skip_digits(at);
        digits = digits || at != fraction;
    }
    if (!digits) return false;
    if (*at == 'e' || *at == 'E') {
        at++;
        if (*at == '-' || *at == '+') at++;
        if (!is_digit(*at)) return false;
        at = skip_digits(at);
    }
    return *at == '\0';
}

/* 0x1F; Lua reads it, but would wrap around past 64 bits. */
static bool is_hexadecimal(const char *at) {
    if (at[0] != '0' || at[1] != 'x') return false;
    size_t digits = strspn(at + 2, "0123456789abcdefABCDEF");
    return digits > 0 && digits <= 15 && at[2 + digits] == '\0';
}

/* The text in one of the three ways in which words of YAML are written: word, Word, WORD. */
static bool is_word(const char *text, const char *lower) {
    size_t size = strlen(lower), upper = 0;
    if (strlen(text) != size) return false;
    for (size_t i = 0; i < size; i++) {
        bool large = text[i] == lower[i] - ('a' - 'A') && lower[i] >= 'a';
        if (!large && text[i] != lower[i]) return false;
        upper += large;
    }
    size_t letters = size - (lower[0] == '.');
    bool first = lower[0] != '.' ? text[0] != lower[0] : text[1] != lower[1];
    return upper == 0 || upper == letters || (upper == 1 && first);
}

static bool is_one_of(const char *text, const char *const *words) {
    for (; *words; words++)
        if (is_word(text, *words)) return true;
    return false;
}

/* Pushes infinity or NaN when the text is one of YAML's names for them. */
static bool push_not_finite(lua_State *L, const char *text) {
    bool negative = *text == '-';
    const char *name = text + (negative || *text == '+');
    if (is_word(name, ".inf")) {
        lua_pushnumber(L, negative ? -HUGE_VAL : HUGE_VAL);
        return true;
    }
    if (!is_word(text, ".nan") && strcmp(text, ".NaN") != 0) return false;
    lua_pushnumber(L, (lua_Number)NAN);
    return true;
}

/* Pushes what a plain scalar that is no string stands for. */
static bool push_resolved(lua_State *L, const char *text) {
    static const char *const yes[] = {"true", "yes", "on", NULL};
    static const char *const no[] = {"false", "no", "off", NULL};
    bool truth = is_one_of(text, yes);
    if (truth || is_one_of(text, no)) {
        lua_pushboolean(L, truth);
        return true;
    }
    if (*text == '\0' || strcmp(text, "~") == 0 || is_word(text, "null")) {
        lmoe_json_push_null(L);
        return true;
    }
    if (is_decimal(text) || is_hexadecimal(text)) return lua_stringtonumber(L, text) != 0;
    return push_not_finite(L, text);
}

static bool awaits_key(const reader *r) {
    return r->depth > 0 && r->frames[r->depth - 1].mapping && !r->frames[r->depth - 1].keyed;
}

static void push_scalar(lua_State *L, const reader *r) {
    const char *text = (const char *)r->event.data.scalar.value;
    size_t size = r->event.data.scalar.length;
    bool plain = r->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    if (plain && !awaits_key(r) && strlen(text) == size && push_resolved(L, text)) return;
    lua_pushlstring(L, text, size);
}

/* ---- collections ---------------------------------------------------------------------------- */

static int table_slot(const reader *r) { return FIRST + 3 * (r->depth - 1); }

/* Notes under the key or place on top, which it pops, where the event at hand is. */
static void note_line(lua_State *L, const reader *r, int lines) {
    lua_pushinteger(L, (lua_Integer)r->event.start_mark.line + 1);
    lua_rawset(L, lines);
}

/* Takes the string on top as the key of the innermost mapping. */
static int take_key(lua_State *L, reader *r) {
    int slot = table_slot(r);
    lua_pushvalue(L, -1);
    lua_rawget(L, slot + 1);
    bool twice = !lua_isnil(L, -1);
    lua_pop(L, 1);
    if (twice) {
        lua_pushfstring(L, "the key '%s' is there twice", lua_tostring(L, -1));
        return fail_at(L, &r->event.start_mark);
    }
    lua_pushvalue(L, -1);
    note_line(L, r, slot + 1);
    lua_replace(L, slot + 2);
    r->frames[r->depth - 1].keyed = true;
    return 0;
}

/* Makes room for the value that begins with the event at hand. That of a key is found where its
 * key is. */
static void expect_value(lua_State *L, reader *r) {
    if (r->depth == 0) {
        lua_pushinteger(L, ++r->documents);
        note_line(L, r, DOCUMENT_LINES);
        return;
    }
    frame *f = &r->frames[r->depth - 1];
    if (f->mapping) return;
    lua_pushinteger(L, ++f->count);
    note_line(L, r, table_slot(r) + 1);
}

/* Puts the value on top where it belongs: under its key, at the end of its list, or among the
 * documents. */
static void put_value(lua_State *L, reader *r) {
    if (r->depth == 0) {
        lua_rawseti(L, DOCUMENTS, r->documents);
        return;
    }
    frame *f = &r->frames[r->depth - 1];
    int slot = table_slot(r);
    if (f->mapping) {
        lua_pushvalue(L, slot + 2);
        lua_insert(L, -2);
        lua_rawset(L, slot);
        f->keyed = false;
        return;
    }
    lua_rawseti(L, slot, f->count);
}

static int begin(lua_State *L, reader *r, bool mapping) {
    if (awaits_key(r)) return refuse(L, r, "a key must be a string");
    if (r->depth == DEPTH) {
        lua_pushfstring(L, "nested deeper than %d levels", DEPTH);
        return fail_at(L, &r->event.start_mark);
    }
    expect_value(L, r);
    luaL_checkstack(L, 16, "decode: too deep");
    lua_newtable(L);
    if (!mapping) lmoe_json_mark_array(L);
    lua_newtable(L);
    lua_pushvalue(L, -2);
    lua_pushvalue(L, -2);
    lua_rawset(L, LINES);
    lua_pushnil(L);
    r->frames[r->depth++] = (frame){.mapping = mapping};
    return 0;
}

static void end(lua_State *L, reader *r) {
    lua_pop(L, 2);
    r->depth--;
    put_value(L, r);
}

static int scalar(lua_State *L, reader *r) {
    push_scalar(L, r);
    if (awaits_key(r)) return take_key(L, r);
    expect_value(L, r);
    put_value(L, r);
    return 0;
}

/* ---- the text ------------------------------------------------------------------------------- */

static bool has_anchor(const yaml_event_t *event) {
    switch (event->type) {
        case YAML_SCALAR_EVENT: return event->data.scalar.anchor != NULL;
        case YAML_SEQUENCE_START_EVENT: return event->data.sequence_start.anchor != NULL;
        case YAML_MAPPING_START_EVENT: return event->data.mapping_start.anchor != NULL;
        default: return event->type == YAML_ALIAS_EVENT;
    }
}

static bool has_tag(const yaml_event_t *event) {
    switch (event->type) {
        case YAML_SCALAR_EVENT: return event->data.scalar.tag != NULL;
        case YAML_SEQUENCE_START_EVENT: return event->data.sequence_start.tag != NULL;
        case YAML_MAPPING_START_EVENT: return event->data.mapping_start.tag != NULL;
        default: return false;
    }
}

/* Returns 0, or the number of results of a failure. */
static int take_event(lua_State *L, reader *r) {
    if (has_anchor(&r->event))
        return refuse(L, r, "anchors and aliases are not read\nhint: write the value out");
    if (has_tag(&r->event)) return refuse(L, r, "tags are not read\nhint: leave it out");
    switch (r->event.type) {
        case YAML_SCALAR_EVENT: return scalar(L, r);
        case YAML_SEQUENCE_START_EVENT: return begin(L, r, false);
        case YAML_MAPPING_START_EVENT: return begin(L, r, true);
        case YAML_SEQUENCE_END_EVENT:
        case YAML_MAPPING_END_EVENT: end(L, r); return 0;
        default: return 0;
    }
}

static int read_events(lua_State *L, reader *r) {
    for (bool over = false; !over;) {
        if (!yaml_parser_parse(&r->parser, &r->event)) return fail_parse(L, &r->parser);
        r->pending = true;
        over = r->event.type == YAML_STREAM_END_EVENT;
        int results = take_event(L, r);
        if (results) return results;
        yaml_event_delete(&r->event);
        r->pending = false;
    }
    return 0;
}

static void push_marked_table(lua_State *L) {
    lua_newtable(L);
    lmoe_json_mark_array(L);
}

/* yaml.decode(text): a list of the documents, and the lines: for each table that was read, that of
 * the documents too, a table that says in which line each key or element stands. Or nil, message,
 * "format". */
static int yaml_decode(lua_State *L) {
    if (lua_type(L, TEXT) != LUA_TSTRING)
        return lmoe_raise(L, "decode: text must be a string: got %s", luaL_typename(L, TEXT));
    lua_settop(L, TEXT);
    size_t size;
    const char *text = lua_tolstring(L, TEXT, &size);
    if (size > MOST_BYTES) {
        lua_pushfstring(L, "decode: the text has more than %d bytes", (int)MOST_BYTES);
        return lmoe_fail(L, "format");
    }
    reader *r = push_reader(L);
    lua_newtable(L);
    push_marked_table(L);
    lua_newtable(L);
    lua_pushvalue(L, DOCUMENTS);
    lua_pushvalue(L, DOCUMENT_LINES);
    lua_rawset(L, LINES);
    if (!yaml_parser_initialize(&r->parser)) return luaL_error(L, LMOE_NO_LUA_MEMORY);
    r->open = true;
    yaml_parser_set_encoding(&r->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&r->parser, (const unsigned char *)text, size);
    int results = read_events(L, r);
    if (results) return results;
    lua_pushvalue(L, DOCUMENTS);
    lua_pushvalue(L, LINES);
    return 2;
}

void lmoe_open_yaml(lua_State *L) {
    static const luaL_Reg functions[] = {{"decode", yaml_decode}, {NULL, NULL}};
    lmoe_newtype(L, READER_TYPE, reader_release, NULL);
    luaL_newlib(L, functions);
}
