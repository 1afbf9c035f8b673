/* bpe_train.c -- core.text.bpe_trainer: counts the words of texts and learns merges from them.
 *
 * The userdata owns the words. Tokens are named by their symbols, counted from 0: the 256 bytes in
 * the order of GPT-2's alphabet, then what was learned.
 */
#include "system.h"

#include "text/bpe_train.h"
#include "text/unicode.h"

#define TRAINER_TYPE "moelua.BpeTrainer"
#define RESULT_TYPE "moelua.BpeResult"

typedef struct trainer {
    moe_bpe_words words;
    moe_split split;
    bool open;
} trainer;

static trainer *check_trainer(lua_State *L, const char *what) {
    trainer *t = luaL_testudata(L, 1, TRAINER_TYPE);
    if (!t) lmoe_raise(L, "%s: a trainer expected, got %s", what, luaL_typename(L, 1));
    if (!t->open) lmoe_raise(L, "%s: the trainer was released", what);
    return t;
}

static lua_Integer whole(lua_State *L, int arg, const char *what, const char *name,
                         lua_Integer least, lua_Integer most) {
    int is_whole;
    lua_Integer value = lua_tointegerx(L, arg, &is_whole);
    if (!is_whole || value < least || value > most)
        lmoe_raise(L, "%s: %s must be a whole number from %I to %I: got %s", what, name,
                   (LUAI_UACINT)least, (LUAI_UACINT)most, lmoe_describe(L, arg));
    return value;
}

/* add(text, first, last): counts the words of these bytes of a text. */
static int trainer_add(lua_State *L) {
    size_t size;
    trainer *t = check_trainer(L, "add");
    const char *text = lmoe_check_text(L, 2, "add", "text", &size);
    lua_Integer last = whole(L, 4, "add", "last", 0, (lua_Integer)size);
    lua_Integer first = whole(L, 3, "add", "first", 1, last + 1);
    lmoe_check(L, moe__bpe_words_add(&t->words, t->split, text + first - 1,
                                     (size_t)(last - first + 1)));
    return 0;
}

/* words(): how many different ones there are, and how many occurrences were forgotten. */
static int trainer_words(lua_State *L) {
    const trainer *t = check_trainer(L, "words");
    lua_pushinteger(L, moe__bpe_count(&t->words));
    lua_pushinteger(L, t->words.forgotten);
    return 2;
}

/* Pushes bytes as tokenizer.json writes them, in GPT-2's alphabet. */
static void push_spelled(lua_State *L, const char *bytes, uint32_t n) {
    luaL_Buffer b;
    luaL_buffinit(L, &b);
    for (uint32_t i = 0; i < n; i++) {
        char symbol[4];
        uint32_t code = moe__byte_symbol((uint8_t)bytes[i]);
        luaL_addlstring(&b, symbol, moe__put_character(code, symbol));
    }
    luaL_pushresult(&b);
}

static void push_tokens(lua_State *L, const moe_bpe_result *r) {
    const moe_bpe_token *tokens = (const void *)r->tokens.data;
    lua_Integer n = (lua_Integer)(r->tokens.size / sizeof *tokens);
    lua_createtable(L, (int)n, 0);
    for (lua_Integer i = 0; i < n; i++) {
        push_spelled(L, r->bytes.data + tokens[i].at, tokens[i].size);
        lua_seti(L, -2, i + 1);
    }
}

static void push_merges(lua_State *L, const moe_bpe_result *r) {
    const moe_bpe_merge *merges = (const void *)r->merges.data;
    lua_Integer n = (lua_Integer)(r->merges.size / sizeof *merges);
    lua_newtable(L);
    for (lua_Integer i = 0; i < n; i++) {
        lua_createtable(L, 2, 0);
        lua_pushinteger(L, merges[i].left);
        lua_seti(L, -2, 1);
        lua_pushinteger(L, merges[i].right);
        lua_seti(L, -2, 2);
        lua_seti(L, -2, i + 1);
    }
}

static int result_release(lua_State *L) {
    moe_bpe_result *r = luaL_checkudata(L, 1, RESULT_TYPE);
    moe__bpe_result_free(r);
    return 0;
}

/* train(vocab, least): the tokens, a list by symbol, and the merges in their order, a list of
 * { left, right }. Ends early when no pair occurs `least` times. */
static int trainer_train(lua_State *L) {
    const trainer *t = check_trainer(L, "train");
    uint32_t vocab = (uint32_t)whole(L, 2, "train", "vocab", 256, INT32_MAX);
    int64_t least = whole(L, 3, "train", "least", 1, INT64_MAX);
    moe_buffer empty = {.ctx = lmoe_ctx(L)};
    moe_bpe_result *r = lua_newuserdatauv(L, sizeof *r, 0);
    *r = (moe_bpe_result){empty, empty, empty};
    luaL_setmetatable(L, RESULT_TYPE);
    lua_toclose(L, -1);
    bool tried = false;
    moe_status status;
    do status = moe__bpe_train(&t->words, vocab, least, r);
    while (lmoe_again(L, status, &tried));
    lmoe_check(L, status);
    push_tokens(L, r);
    push_merges(L, r);
    return 2;
}

static int trainer_release(lua_State *L) {
    trainer *t = luaL_testudata(L, 1, TRAINER_TYPE);
    if (!t) return lmoe_raise(L, "release: a trainer expected, got %s", luaL_typename(L, 1));
    if (t->open) moe__bpe_words_close(&t->words);
    t->open = false;
    return 0;
}

/* bpe_trainer(split, most): counts at most so many different words at a time. */
static int bpe_trainer(lua_State *L) {
    moe_split split;
    const char *name = lmoe_checkstring(L, 1);
    if (!moe__split_find(name, &split))
        lmoe_raise(L, "bpe_trainer: there is no split \"%s\"", name);
    uint32_t most = (uint32_t)whole(L, 2, "bpe_trainer", "most", 1, MOE_BPE_WORDS);
    trainer *t = lua_newuserdatauv(L, sizeof *t, 0);
    t->open = false;
    luaL_setmetatable(L, TRAINER_TYPE);
    moe__bpe_words_open(lmoe_ctx(L), most, &t->words);
    t->split = split;
    t->open = true;
    return 1;
}

void lmoe_add_training(lua_State *L) {
    static const luaL_Reg methods[] = {{"add", trainer_add},
                                       {"words", trainer_words},
                                       {"train", trainer_train},
                                       {"release", trainer_release},
                                       {NULL, NULL}};
    lmoe_newtype(L, TRAINER_TYPE, trainer_release, methods);
    lmoe_newtype(L, RESULT_TYPE, result_release, NULL);
    lua_pushcfunction(L, bpe_trainer);
    lua_setfield(L, -2, "bpe_trainer");
}
