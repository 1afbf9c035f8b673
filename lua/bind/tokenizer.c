/* tokenizer.c -- core.text.tokenizer: the Tokenizer userdata.
 *
 * tokenizer.lua has read and checked what a tokenizer.json says; here its parts reach the core. The
 * userdata is one pointer, NULL once released.
 */
#include "system.h"

#include <math.h>
#include <string.h>

#include "tensor/tensor.h"
#include "text/scores.h"
#include "text/tokenizer.h"

#define TOKENIZER_TYPE "moelua.Tokenizer.handle"
#define MOST_GAPS 65536         /* ids without a token, beside as many as there are tokens */

static moe_tokenizer *check_tokenizer(lua_State *L, const char *what) {
    moe_tokenizer **box = luaL_testudata(L, 1, TOKENIZER_TYPE);
    if (!box) lmoe_raise(L, "%s: a tokenizer expected, got %s", what, luaL_typename(L, 1));
    if (!*box) lmoe_raise(L, "%s: the tokenizer was released", what);
    return *box;
}

/* Parts are given once, and in order: `present` and `missing` tell what is there of them. */
static void check_order(lua_State *L, const char *what, bool missing, bool present) {
    if (missing) lmoe_raise(L, "%s: the part before it is missing", what);
    if (present) lmoe_raise(L, "%s: the tokenizer has it", what);
}

static moe_tokenizer *check_complete(lua_State *L, const char *what) {
    moe_tokenizer *t = check_tokenizer(L, what);
    check_order(L, what, !t->model.known, false);
    return t;
}

/* ---- making: vocabulary ---------------------------------------------------------------------- */

/* What a table of tokens holds: { token = id }. */
typedef struct extent {
    size_t entries, bytes;
    uint32_t ids;
} extent;

/* Pushes nil, message, "format" about the pair of token and value on top of the stack. */
static int wrong_entry(lua_State *L, const char *why) {
    const char *token = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
    lua_pushfstring(L, "token \"%s\": %s", token, why);
    return lmoe_fail(L, "format");
}

/* Measures the table at `index`; false leaves nil, message, code. */
static bool measure(lua_State *L, int index, extent *e) {
    lua_Integer highest = -1;
    *e = (extent){0};
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        int whole;
        lua_Integer id = lua_tointegerx(L, -1, &whole);
        if (lua_type(L, -2) != LUA_TSTRING || lua_type(L, -1) != LUA_TNUMBER || !whole || id < 0)
            return wrong_entry(L, "its id must be an integer from 0 on"), false;
        e->entries++;
        e->bytes += lua_rawlen(L, -2);
        if (id > highest) highest = id;
        if (highest > (lua_Integer)INT32_MAX - 1)
            return wrong_entry(L, "its id is too large"), false;
    }
    if (highest >= 2 * (lua_Integer)e->entries + MOST_GAPS) {
        lua_pushfstring(L, "id %I is out of range for %I tokens", (LUAI_UACINT)highest,
                        (LUAI_UACINT)e->entries);
        return lmoe_fail(L, "format"), false;
    }
    if (e->entries == 0) {
        lua_pushliteral(L, "the vocabulary is empty");
        return lmoe_fail(L, "format"), false;
    }
    e->ids = (uint32_t)(highest + 1);
    return true;
}

/* vocabulary(tokens, flags): tokens and flags by token ("added" tables are part of both). */
static int set_vocabulary(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "vocabulary");
    extent e;
    lua_settop(L, 3);
    luaL_checktype(L, 2, LUA_TTABLE);
    luaL_checktype(L, 3, LUA_TTABLE);
    check_order(L, "vocabulary", false, t->model.vocabulary.ctx != NULL);
    if (!measure(L, 2, &e)) return 3;
    if (e.bytes > UINT32_MAX / 2) {
        lua_pushliteral(L, "the tokens are too long");
        return lmoe_fail(L, "format");
    }
    moe_vocabulary *v = &t->model.vocabulary;
    moe_status status = moe__vocabulary_open(v, t->ctx, e.ids, e.entries, e.bytes);
    for (lua_pushnil(L); status == MOE_OK && lua_next(L, 2); lua_pop(L, 1)) {
        size_t size;
        const char *token = lua_tolstring(L, -2, &size);
        lua_pushvalue(L, -2);
        lua_rawget(L, 3);
        uint32_t flags = lua_isnil(L, -1) ? MOE_TOKEN_MODEL : (uint32_t)lua_tointeger(L, -1);
        lua_pop(L, 1);
        status = moe__vocabulary_add(v, token, size, (uint32_t)lua_tointeger(L, -1), flags);
    }
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_fail_status(L, status);
}

/* ---- making: merges ------------------------------------------------------------------------- */

static int wrong_merge(lua_State *L, lua_Integer i) {
    lua_pushfstring(L, "merge %I is neither \"left right\" nor a list of two tokens",
                    (LUAI_UACINT)i);
    return lmoe_fail(L, "format");
}

/* Merge number i, on top of the stack: "left right". */
static moe_status add_written(lua_State *L, moe_tokenizer *t, lua_Integer i, bool *fits) {
    size_t size;
    const char *text = lua_tolstring(L, -1, &size);
    const char *space = memchr(text, ' ', size);
    *fits = space && !memchr(space + 1, ' ', size - (size_t)(space + 1 - text));
    if (!*fits) return MOE_OK;
    return moe__bpe_add_merge(&t->model, text, (size_t)(space - text), space + 1,
                              size - (size_t)(space + 1 - text), (uint32_t)(i - 1));
}

/* The same as a list of two. */
static moe_status add_listed(lua_State *L, moe_tokenizer *t, lua_Integer i, bool *fits) {
    *fits = lua_rawlen(L, -1) == 2 && lua_rawgeti(L, -1, 1) == LUA_TSTRING &&
            lua_rawgeti(L, -2, 2) == LUA_TSTRING;
    if (!*fits) return MOE_OK;
    size_t left_size, right_size;
    const char *left = lua_tolstring(L, -2, &left_size), *right = lua_tolstring(L, -1, &right_size);
    return moe__bpe_add_merge(&t->model, left, left_size, right, right_size, (uint32_t)(i - 1));
}

/* merges(list): of "left right" or { left, right }. */
static int set_merges(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "merges");
    luaL_checktype(L, 2, LUA_TTABLE);
    check_order(L, "merges", !t->model.vocabulary.slots, t->model.merges.ctx != NULL);
    lua_Integer n = (lua_Integer)lua_rawlen(L, 2);
    moe_status status = n < UINT32_MAX / 4
        ? moe__merges_open(&t->model.merges, t->ctx, (size_t)n) : MOE_ENOMEM;
    for (lua_Integer i = 1; i <= n && status == MOE_OK; i++) {
        bool fits = false;
        lua_settop(L, 2);
        int type = lua_rawgeti(L, 2, i);
        if (type == LUA_TSTRING) status = add_written(L, t, i, &fits);
        else if (type == LUA_TTABLE) status = add_listed(L, t, i, &fits);
        if (!fits) return wrong_merge(L, i);
    }
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_fail_status(L, status);
}

/* ---- making: scores ------------------------------------------------------------------------- */

/* Lists the merges that the scores at index 2 mean in t->text. */
static moe_status list_scored(lua_State *L, moe_tokenizer *t) {
    const moe_vocabulary *v = &t->model.vocabulary;
    moe_buffer scores = {.ctx = t->ctx};
    moe_status status = MOE_OK;
    for (uint32_t id = 0; id < v->count && status == MOE_OK; id++) {
        lua_rawgeti(L, 2, (lua_Integer)id + 1);
        float score = lua_type(L, -1) == LUA_TNUMBER ? (float)lua_tonumber(L, -1) : NAN;
        lua_pop(L, 1);
        status = moe__buffer_add(&scores, &score, sizeof score);
    }
    t->text.size = 0;
    if (status == MOE_OK)
        status = moe__scored_merges(v, (const float *)(void *)scores.data, &t->text);
    moe__buffer_free(&scores);
    return status;
}

/* scores(list): a number for each id from 0 on that merges make or take, false for others. Instead
 * of merges. */
static int set_scores(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "scores");
    luaL_checktype(L, 2, LUA_TTABLE);
    check_order(L, "scores", !t->model.vocabulary.slots, t->model.merges.ctx != NULL);
    moe_status status = list_scored(L, t);
    if (status == MOE_OK)
        status = moe__bpe_take_scored(&t->model, (const moe_scored *)(void *)t->text.data,
                                      t->text.size / sizeof(moe_scored));
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_fail_status(L, status);
}

/* unmerged(): the first id of a model's token that merging its bytes does not make, or nil. */
static int unmerged(lua_State *L) {
    uint32_t id;
    lmoe_check(L, moe__tokenizer_unmerged(check_complete(L, "unmerged"), &id));
    if (id == MOE_NO_ID) return 0;
    lua_pushinteger(L, id);
    return 1;
}

/* Pushes the texts of two tokens with a space between them. */
static void push_pair(lua_State *L, const moe_vocabulary *v, uint32_t left, uint32_t right) {
    lua_pushlstring(L, moe__token_text(v, left), v->tokens[left].size);
    lua_pushliteral(L, " ");
    lua_pushlstring(L, moe__token_text(v, right), v->tokens[right].size);
    lua_concat(L, 3);
}

/* Pushes { "left right", ... } of what is listed in t->text, and what they become, as ids. */
static int push_listed(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "merges");
    size_t count = t->text.size / sizeof(moe_scored);
    lua_createtable(L, (int)count, 0);
    lua_createtable(L, (int)count, 0);
    t = check_tokenizer(L, "merges");
    for (size_t i = 0; i < count; i++) {
        const moe_scored *merge = (const moe_scored *)(const void *)t->text.data + i;
        push_pair(L, &t->model.vocabulary, merge->left, merge->right);
        lua_rawseti(L, -3, (lua_Integer)i + 1);
        lua_pushinteger(L, merge->into);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 2;
}

/* merge_list(): the merges in order, and what they become. */
static int merge_list(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "merge_list");
    t->text.size = 0;
    lmoe_check(L, moe__bpe_list_merges(&t->model, &t->text));
    return push_listed(L);
}

/* scored_merges(list): the same of those that scores mean. */
static int scored_merges(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "scored_merges");
    luaL_checktype(L, 2, LUA_TTABLE);
    check_order(L, "scored_merges", !t->model.vocabulary.slots, false);
    lmoe_check(L, list_scored(L, t));
    return push_listed(L);
}

/* ---- making: the rest ------------------------------------------------------------------------ */

static bool flag(lua_State *L, int index, const char *name) {
    lua_getfield(L, index, name);
    bool set = lua_toboolean(L, -1);
    lua_pop(L, 1);
    return set;
}

/* model{byte_level=, byte_fallback=, fuse_unk=, ignore_merges=, unk=id}: what has to follow
 * vocabulary and merges. */
static int set_model(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "model");
    moe_bpe *model = &t->model;
    luaL_checktype(L, 2, LUA_TTABLE);
    check_order(L, "model", !model->merges.table, model->known != NULL);
    model->byte_level = flag(L, 2, "byte_level");
    model->byte_fallback = flag(L, 2, "byte_fallback");
    model->fuse_unknown = flag(L, 2, "fuse_unk");
    model->ignore_merges = flag(L, 2, "ignore_merges");
    lua_getfield(L, 2, "unk");
    model->unknown = lua_isinteger(L, -1) ? (uint32_t)lua_tointeger(L, -1) : MOE_NO_ID;
    moe_status status = moe__bpe_ready(model);
    for (int byte = 0; byte < 256 && model->byte_level && model->byte_fallback; byte++)
        if (status == MOE_OK && model->byte[byte] == MOE_NO_ID)
            status = moe__fail(t->ctx, MOE_EUNSUPPORTED, "byte_fallback of a byte-level model that "
                               "lacks byte %d", byte);
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_fail_status(L, status);
}

/* added{content=, id=, single_word=, lstrip=, rstrip=, special=, normalized=}, behind the steps. */
static int add_token(lua_State *L) {
    moe_tokenizer *t = check_complete(L, "added");
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_getfield(L, 2, "id");
    moe_added token = {(uint32_t)lua_tointeger(L, -1), flag(L, 2, "single_word"),
                       flag(L, 2, "lstrip"), flag(L, 2, "rstrip"), flag(L, 2, "special")};
    bool normalized = flag(L, 2, "normalized");
    lua_getfield(L, 2, "content");
    size_t size;
    const char *text = luaL_checklstring(L, -1, &size);
    moe_status status = moe__tokenizer_add(t, text, size, normalized, token);
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_fail_status(L, status);
}

static moe_steps *steps_of(lua_State *L, moe_tokenizer *t) {
    const char *list = luaL_checkstring(L, 2);
    moe_steps *steps = strcmp(list, "normalizer") == 0 ? &t->normalizer
                       : strcmp(list, "splitter") == 0 ? &t->splitter : &t->decoder;
    if (steps->count == MOE_MOST_STEPS) lmoe_raise(L, "step: too many steps");
    return steps;
}

/* The words of a step, of the table at index 3. */
static void read_words(lua_State *L, moe_step *step) {
    const char *scheme = lmoe_strfield(L, 3, "scheme", "always");
    const char *behavior = lmoe_strfield(L, 3, "behavior", "isolated");
    if (!moe__step_find(lmoe_strfield(L, 3, "kind", ""), &step->kind) ||
        !moe__split_find(lmoe_strfield(L, 3, "split", "gpt2"), &step->split) ||
        !moe__scheme_find(scheme, &step->scheme) ||
        !moe__behavior_find(behavior, &step->behavior))
        lmoe_raise(L, "step: there is no such step");
    step->invert = flag(L, 3, "invert");
    step->single = flag(L, 3, "single");
    step->left = (uint32_t)lmoe_intfield(L, 3, "left", 0);
    step->right = (uint32_t)lmoe_intfield(L, 3, "right", 0);
}

/* step(list, {kind=, ...}): one more step of the "normalizer", "splitter" or "decoder". Its fields
 * are those of moe_step; `pattern` is a string and an expression if `regex`. */
static int add_step(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "step");
    moe_steps *steps = steps_of(L, t);
    moe_step step = {.text = {.ctx = t->ctx}, .scratch = {.ctx = t->ctx}};
    read_words(L, &step);
    bool regex = flag(L, 3, "regex");
    size_t size = 0, pattern_size = 0;
    lua_getfield(L, 3, "text");
    const char *text = lua_tolstring(L, -1, &size);
    lua_getfield(L, 3, "pattern");
    const char *pattern = lua_tolstring(L, -1, &pattern_size);
    if (!pattern && (step.kind == MOE_STEP_REPLACE || step.kind == MOE_STEP_PATTERN))
        lmoe_raise(L, "step: the pattern is missing");
    if (!size && (step.kind == MOE_STEP_METASPACE || step.kind == MOE_STEP_TRIM))
        lmoe_raise(L, "step: the text is missing");
    moe_step *added = &steps->step[steps->count++];
    *added = step;
    moe_status status = text ? moe__buffer_add(&added->text, text, size) : MOE_OK;
    if (status == MOE_OK && pattern)
        status = moe__pattern_new(t->ctx, pattern, pattern_size, regex, &added->pattern);
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_fail_status(L, status);
}

/* ---- using ----------------------------------------------------------------------------------- */

/* encode(text, special): a list of ids. */
static int encode(lua_State *L) {
    size_t size;
    moe_tokenizer *t = check_complete(L, "encode");
    const char *text = lmoe_check_text(L, 2, "encode", "text", &size);
    lmoe_check(L, moe__tokenizer_encode(t, text, size, lua_toboolean(L, 3)));
    size_t count = t->ids.size / sizeof(uint32_t);
    lua_createtable(L, count < INT32_MAX ? (int)count : 0, 0);
    t = check_tokenizer(L, "encode");       /* finalizers may have used it, too */
    count = t->ids.size / sizeof(uint32_t);
    const uint32_t *ids = (const uint32_t *)(void *)t->ids.data;
    for (size_t i = 0; i < count; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    return 1;
}

static void put_packed(char *out, const uint32_t *ids, size_t count, bool narrow) {
    for (size_t i = 0; i < count; i++) {
        for (int byte = 0; byte < (narrow ? 2 : 4); byte++) *out++ = (char)(ids[i] >> 8 * byte);
    }
}

/* pack(text[, first, last]): the ids of those bytes as little-endian numbers, U16 when the
 * vocabulary fits, else U32; and how many they are. Special tokens are plain text. */
static int pack(lua_State *L) {
    size_t size;
    moe_tokenizer *t = check_complete(L, "pack");
    const char *text = lmoe_check_text(L, 2, "pack", "text", &size);
    lua_Integer first = lmoe_part_end(L, 3, "first", 1);
    lua_Integer last = lmoe_part_end(L, 4, "last", (lua_Integer)size);
    if (first < 1 || last < first - 1 || last > (lua_Integer)size)
        lmoe_raise(L, "pack: no such part: bytes %I to %I of %I", (LUAI_UACINT)first,
                   (LUAI_UACINT)last, (LUAI_UACINT)size);
    lmoe_check(L, moe__tokenizer_encode(t, text + first - 1, (size_t)(last - first + 1), false));
    size_t count = t->ids.size / sizeof(uint32_t);
    bool narrow = t->model.vocabulary.count <= 65536;
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, count * (narrow ? 2 : 4));
    if (check_tokenizer(L, "pack")->ids.size != count * sizeof(uint32_t))
        lmoe_raise(L, "pack: a finalizer used the tokenizer");
    put_packed(out, (const uint32_t *)(void *)t->ids.data, count, narrow);
    luaL_pushresultsize(&b, count * (narrow ? 2 : 4));
    lua_pushinteger(L, (lua_Integer)count);
    return 2;
}

/* Reads the list of ids at `arg` into t->ids. */
static void read_ids(lua_State *L, moe_tokenizer *t, int arg) {
    lua_Integer n = (lua_Integer)lua_rawlen(L, arg);
    t->ids.size = 0;
    for (lua_Integer i = 1; i <= n; i++) {
        int whole;
        lua_rawgeti(L, arg, i);
        lua_Integer id = lua_tointegerx(L, -1, &whole);
        if (lua_type(L, -1) != LUA_TNUMBER || !whole || id < 0 || id > INT32_MAX)
            lmoe_raise(L, "decode: id %I is no token id: %s", (LUAI_UACINT)i,
                       lmoe_describe(L, -1));
        lua_pop(L, 1);
        uint32_t value = (uint32_t)id;
        lmoe_check(L, moe__buffer_add(&t->ids, &value, sizeof value));
    }
}

/* decode(ids, skip_special, raw): the text of a list of ids. */
static int decode(lua_State *L) {
    moe_tokenizer *t = check_tokenizer(L, "decode");
    read_ids(L, t, 2);
    moe_decoding how = {.skip_special = lua_toboolean(L, 3), .raw = lua_toboolean(L, 4)};
    lmoe_check(L, moe__tokenizer_decode(t, (const uint32_t *)(void *)t->ids.data,
                                        t->ids.size / sizeof(uint32_t), how));
    lua_pushlstring(L, t->text.data, t->text.size);
    return 1;
}

/* token(id): what it is written as; nil for a gap and for what is no id. */
static int token(lua_State *L) {
    const moe_vocabulary *v = &check_tokenizer(L, "token")->model.vocabulary;
    lua_Integer id = lua_isinteger(L, 2) ? lua_tointeger(L, 2) : -1;
    if (id < 0 || id >= v->count || !v->tokens[id].flags) return 0;
    lua_pushlstring(L, moe__token_text(v, (uint32_t)id), v->tokens[id].size);
    return 1;
}

/* id(token): nil when there is no such token. */
static int id_of(lua_State *L) {
    const moe_vocabulary *v = &check_tokenizer(L, "id")->model.vocabulary;
    size_t size;
    const char *text = lmoe_check_text(L, 2, "id", "token", &size);
    uint32_t id = moe__vocabulary_find(v, text, size);
    if (id == MOE_NO_ID) return 0;
    lua_pushinteger(L, id);
    return 1;
}

static int vocab(lua_State *L) {
    lua_pushinteger(L, check_tokenizer(L, "vocab")->model.vocabulary.count);
    return 1;
}

/* byte_lengths(): i32 [vocab], the bytes that each token adds to a text that has begun. */
static int byte_lengths(lua_State *L) {
    int64_t shape[1] = {check_tokenizer(L, "byte_lengths")->model.vocabulary.count};
    lmoe_fillbox(L, lmoe_newbox(L), MOE_I32, 1, shape);
    moe_tokenizer *t = check_tokenizer(L, "byte_lengths");
    lmoe_check(L, moe__tokenizer_lengths(t, moe__int(lmoe_checktensor(L, -1))));
    return 1;
}

/* digest(): of vocabulary, merges and switches, an integer. */
static int digest(lua_State *L) {
    uint64_t hash;
    lmoe_check(L, moe__tokenizer_digest(check_tokenizer(L, "digest"), &hash));
    lua_pushinteger(L, (lua_Integer)hash);
    return 1;
}

static int release(lua_State *L) {
    moe_tokenizer **box = luaL_testudata(L, 1, TOKENIZER_TYPE);
    if (!box) return lmoe_raise(L, "release: a tokenizer expected, got %s", luaL_typename(L, 1));
    moe_tokenizer *t = *box;
    *box = NULL;
    moe__tokenizer_free(t);
    return 0;
}

/* tokenizer(): an empty one, to be given its parts. */
static int new_tokenizer(lua_State *L) {
    moe_tokenizer **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, TOKENIZER_TYPE);
    lmoe_check(L, moe__tokenizer_new(lmoe_ctx(L), box));
    return 1;
}

/* split_pattern(name): the regular expression that the split stands for; nil for SmolLM's. */
static int split_pattern(lua_State *L) {
    moe_split split;
    if (!moe__split_find(luaL_checkstring(L, 1), &split)) return 0;
    lua_pushstring(L, moe__split_pattern(split));
    return 1;
}

void lmoe_add_tokenizer(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"vocabulary", set_vocabulary}, {"merges", set_merges},
        {"scores", set_scores}, {"merge_list", merge_list},
        {"scored_merges", scored_merges}, {"unmerged", unmerged},
        {"model", set_model},
        {"added", add_token}, {"step", add_step}, {"encode", encode}, {"pack", pack},
        {"decode", decode}, {"byte_lengths", byte_lengths}, {"digest", digest},
        {"token", token}, {"id", id_of}, {"vocab", vocab},
        {"release", release}, {NULL, NULL}};
    lmoe_newtype(L, TOKENIZER_TYPE, release, methods);
    lua_pushcfunction(L, new_tokenizer);
    lua_setfield(L, -2, "tokenizer");
    lua_pushcfunction(L, split_pattern);
    lua_setfield(L, -2, "split_pattern");
}
