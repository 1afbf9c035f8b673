/* corpus.c -- core.text: cutting texts into documents, and the Corpus userdata.
 *
 * The userdata is one pointer, NULL once released. Splits are named, positions of windows and
 * documents are 1-based, draws are counted from 0: they say how many came before.
 */
#include "system.h"

#include <string.h>

#include "base/rng.h"
#include "text/corpus.h"

#define CORPUS_TYPE "moelua.Corpus"

/* ---- texts ---------------------------------------------------------------------------------- */

static void push_document(lua_State *L, const moe_document *d) {
    lua_createtable(L, 0, 4);
    lua_pushinteger(L, (lua_Integer)d->begin + 1);
    lua_setfield(L, -2, "first");
    lua_pushinteger(L, (lua_Integer)d->end);
    lua_setfield(L, -2, "last");
    lua_pushinteger(L, (lua_Integer)d->hash);
    lua_setfield(L, -2, "hash");
    lua_pushstring(L, moe__split_name(d->split));
    lua_setfield(L, -2, "split");
}

/* documents(text): a list of { first =, last =, hash = (64 bits), split = (name) }. */
static int documents(lua_State *L) {
    size_t size, at = 0;
    const char *text = lmoe_check_text(L, 1, "documents", "text", &size);
    moe_document document;
    lua_newtable(L);
    for (lua_Integer n = 1; moe__next_document(text, size, &at, &document); n++) {
        push_document(L, &document);
        lua_seti(L, -2, n);
    }
    return 1;
}

/* pack_bytes(text[, first, last]): the bytes as 16-bit little-endian token ids. */
static int pack_bytes(lua_State *L) {
    size_t size;
    const char *text = lmoe_check_text(L, 1, "pack", "text", &size);
    lua_Integer first = lmoe_part_end(L, 2, "first", 1);
    lua_Integer last = lmoe_part_end(L, 3, "last", (lua_Integer)size);
    if (first < 1 || last < first - 1 || last > (lua_Integer)size)
        lmoe_raise(L, "pack: no such part: bytes %I to %I of %I", (LUAI_UACINT)first,
                   (LUAI_UACINT)last, (LUAI_UACINT)size);
    size_t n = (size_t)(last - first + 1);
    luaL_Buffer b;
    char *out = luaL_buffinitsize(L, &b, 2 * n);
    for (size_t i = 0; i < n; i++) {
        out[2 * i] = text[(size_t)first - 1 + i];
        out[2 * i + 1] = 0;
    }
    luaL_pushresultsize(&b, 2 * n);
    return 1;
}

/* ---- Corpus: arguments ---------------------------------------------------------------------- */

static const moe_corpus *check_corpus(lua_State *L, const char *what) {
    moe_corpus **box = luaL_testudata(L, 1, CORPUS_TYPE);
    if (!box) lmoe_raise(L, "%s: a corpus expected, got %s", what, luaL_typename(L, 1));
    if (!*box) lmoe_raise(L, "%s: the corpus was released", what);
    return *box;
}

static int split_of(lua_State *L, const char *what, const char *name) {
    for (int s = 0; s < MOE_SPLITS; s++)
        if (strcmp(name, moe__split_name(s)) == 0) return s;
    lmoe_raise(L, "%s: there is no split \"%s\"\nhint: train, validation and test exist", what,
               name);
    return -1;
}

static int check_split(lua_State *L, int arg, const char *what) {
    if (lua_type(L, arg) != LUA_TSTRING)
        lmoe_raise(L, "%s: split must be a string: got %s", what, lmoe_describe(L, arg));
    return split_of(L, what, lua_tostring(L, arg));
}

/* Far beyond any file, and sums of a few of them still fit. */
#define LARGEST ((lua_Integer)1 << 60)

static int64_t whole(lua_State *L, int arg, const char *what, const char *name, int64_t least) {
    int is_whole;
    lua_Integer value = lua_tointegerx(L, arg, &is_whole);
    if (!is_whole || value < least)
        lmoe_raise(L, "%s: %s must be a whole number from %I on: got %s", what, name,
                   (LUAI_UACINT)least, lmoe_describe(L, arg));
    if (value > LARGEST)
        lmoe_raise(L, "%s: %s is too large: %I", what, name, (LUAI_UACINT)value);
    return value;
}

static int64_t whole_field(lua_State *L, const char *name, int64_t least) {
    lua_getfield(L, 2, name);
    int64_t value = whole(L, lua_gettop(L), "batch", name, least);
    lua_pop(L, 1);
    return value;
}

/* Limits have no use for more windows than fit; none at all is written as nil. */
static int64_t opt_limit(lua_State *L, int arg, const char *what) {
    return lua_isnoneornil(L, arg) ? -1 : whole(L, arg, what, "limit", 1);
}

/* ---- Corpus: methods ------------------------------------------------------------------------ */

/* tokens(split) and documents(split): how many; without a split, of all three. */
static int corpus_tokens(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "tokens");
    bool all = lua_isnoneornil(L, 2);
    lua_pushinteger(L, all ? c->tokens : c->part[check_split(L, 2, "tokens")].tokens);
    return 1;
}

static int corpus_documents(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "documents");
    bool all = lua_isnoneornil(L, 2);
    lua_pushinteger(L, all ? c->documents : c->part[check_split(L, 2, "documents")].documents);
    return 1;
}

/* document(split, i): where the i-th document of a split begins in its stream, and its tokens. */
static int corpus_document(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "document");
    const moe_part *part = &c->part[check_split(L, 2, "document")];
    int64_t i = whole(L, 3, "document", "i", 1);
    if (i > part->documents)
        lmoe_raise(L, "document: there are %I documents: no number %I",
                   (LUAI_UACINT)part->documents, (LUAI_UACINT)i);
    lua_pushinteger(L, part->at[i - 1] + 1);
    lua_pushinteger(L, part->at[i] - part->at[i - 1]);
    return 2;
}

static int corpus_vocab(lua_State *L) {
    lua_pushinteger(L, check_corpus(L, "vocab")->vocab);
    return 1;
}

/* metadata(): what the token file says of itself, strings by strings. */
static int corpus_metadata(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "metadata");
    const moe_stored_pair *pairs;
    size_t n = moe__safetensors_pairs(c->file, &pairs);
    lua_createtable(L, 0, (int)n);
    for (size_t i = 0; i < n; i++) {
        lua_pushlstring(L, pairs[i].key.data, pairs[i].key.size);
        lua_pushlstring(L, pairs[i].value.data, pairs[i].value.size);
        lua_rawset(L, -3);
    }
    return 1;
}

/* digests(): XXH3-64 of the bytes of ids, docs and split. */
static int corpus_digests(lua_State *L) {
    static const moe_slice names[] = {{"ids", 3}, {"docs", 4}, {"split", 5}};
    const moe_corpus *c = check_corpus(L, "digests");
    for (int i = 0; i < 3; i++) {
        const moe_stored_tensor *t = moe__safetensors_find(c->file, names[i]);
        lmoe_pushhash(L, moe__safetensors_data(c->file, t), (size_t)(t->end - t->begin));
    }
    return 3;
}

/* Pushes two i32 tensors [rows x columns] with unspecified contents, for inputs and targets. May
 * collect: read the corpus and the tensors afterwards. */
static void push_pair(lua_State *L, int64_t rows, int64_t columns) {
    int64_t shape[2] = {rows, columns};
    for (int i = 0; i < 2; i++) lmoe_fillbox(L, lmoe_newbox(L), MOE_I32, 2, shape);
}

static moe_draw check_draw(lua_State *L) {
    if (!lua_istable(L, 2))
        lmoe_raise(L, "batch: a table of options expected, got %s", luaL_typename(L, 2));
    return (moe_draw){
        .split = split_of(L, "batch", lmoe_strfield(L, 2, "split", "train")),
        .batch = whole_field(L, "batch", 1),
        .context = whole_field(L, "context", 1),
        .apart = lmoe_intfield(L, 2, "apart", 1) == 1 ? 1 : whole_field(L, "apart", 1),
        .seed = (uint64_t)lmoe_intfield(L, 2, "seed", 1),
        .stream = moe__stream(lmoe_strfield(L, 2, "stream", "data")),
        .first = lmoe_intfield(L, 2, "draw", 0) ? whole_field(L, "draw", 0) : 0,
    };
}

/* batch{batch=, context=, split="train", seed=1, stream="data", draw=0, apart=1}: inputs and
 * targets, i32 [batch x context] each, and the number of the draw to go on with. */
static int corpus_batch(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "batch");
    moe_draw draw = check_draw(L);
    if (moe__corpus_can_draw(c, &draw) != MOE_OK)
        lmoe_raise(L, "batch: %s", moe_errmsg(lmoe_ctx(L)));
    int64_t next;
    push_pair(L, draw.batch, draw.context);
    moe_tensor *x = lmoe_checktensor(L, -2), *y = lmoe_checktensor(L, -1);
    c = check_corpus(L, "batch");
    moe_status status = moe__corpus_batch(c, &draw, moe__int(x), moe__int(y), &next);
    if (status == MOE_EARG) lmoe_raise(L, "batch: %s", moe_errmsg(lmoe_ctx(L)));
    lmoe_check(L, status);
    lua_pushinteger(L, next);
    return 3;
}

/* epoch(split, context): how many windows an epoch draws; 0 when the split is too short. */
static int corpus_epoch(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "epoch");
    int split = check_split(L, 2, "epoch");
    lua_pushinteger(L, moe__corpus_epoch(c, split, whole(L, 3, "epoch", "context", 1)));
    return 1;
}

/* windows(split, context[, limit]): how many windows an evaluation reads. */
static int corpus_windows(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "windows");
    int split = check_split(L, 2, "windows");
    int64_t context = whole(L, 3, "windows", "context", 1);
    lua_pushinteger(L, moe__corpus_windows(c, split, context, opt_limit(L, 4, "windows")));
    return 1;
}

/* window_batch(split, context, limit, first, n): windows first .. first+n-1 of those, inputs and
 * targets; -1 among the targets marks padding. */
static int corpus_window_batch(lua_State *L) {
    const char *what = "window_batch";
    const moe_corpus *c = check_corpus(L, what);
    int split = check_split(L, 2, what);
    int64_t context = whole(L, 3, what, "context", 1), limit = opt_limit(L, 4, what);
    int64_t first = whole(L, 5, what, "first", 1), n = whole(L, 6, what, "n", 1);
    int64_t count = moe__corpus_windows(c, split, context, limit);
    if (first > count || n > count - first + 1)
        lmoe_raise(L, "window_batch: split \"%s\" has %I windows: %I from %I on are too many",
                   moe__split_name(split), (LUAI_UACINT)count, (LUAI_UACINT)n, (LUAI_UACINT)first);
    push_pair(L, n, context);
    moe_tensor *x = lmoe_checktensor(L, -2), *y = lmoe_checktensor(L, -1);
    c = check_corpus(L, what);
    lmoe_check(L, moe__corpus_evaluation(c, split, context, limit, first - 1, n, moe__int(x),
                                         moe__int(y)));
    return 2;
}

/* window_documents(split, context[, limit]): the first and the last document that each window of an
 * evaluation touches, i32 [windows x 2] counted from 0. */
static int corpus_window_documents(lua_State *L) {
    const char *what = "window_documents";
    const moe_corpus *c = check_corpus(L, what);
    int split = check_split(L, 2, what);
    int64_t context = whole(L, 3, what, "context", 1), limit = opt_limit(L, 4, what);
    int64_t shape[2] = {moe__corpus_windows(c, split, context, limit), 2};
    lmoe_fillbox(L, lmoe_newbox(L), MOE_I32, 2, shape);
    int32_t *out = moe__int(lmoe_checktensor(L, -1));
    c = check_corpus(L, what);
    for (int64_t i = 0; i < shape[0]; i++) {
        int64_t first, last;
        moe__corpus_evaluation_documents(c, split, context, limit, i, &first, &last);
        out[2 * i] = (int32_t)first;
        out[2 * i + 1] = (int32_t)last;
    }
    return 1;
}

/* ids(split, first, n): tokens of the split's stream as a list of at most n. */
static int corpus_ids(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "ids");
    int split = check_split(L, 2, "ids");
    int64_t first = whole(L, 3, "ids", "first", 1), n = whole(L, 4, "ids", "n", 0);
    int64_t left = c->part[split].tokens - first + 1;
    n = left < n ? (left > 0 ? left : 0) : n;
    lua_createtable(L, n < INT32_MAX ? (int)n : 0, 0);
    for (int64_t i = 0; i < n; i++) {
        int32_t id;
        lmoe_check(L, moe__corpus_read(c, split, first - 1 + i, 1, &id));
        lua_pushinteger(L, id);
        lua_seti(L, -2, i + 1);
    }
    return 1;
}

/* bytes(ids): how many bytes of text the ids of an i32 tensor stand for; padding stands for none. */
static int corpus_bytes(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "bytes");
    const moe_tensor *ids = lmoe_totensor(L, 2);
    if (!ids || moe_tensor_dtype(ids) != MOE_I32 || !moe_tensor_contiguous(ids))
        lmoe_raise(L, "bytes: a contiguous i32 tensor expected, got %s", lmoe_describe(L, 2));
    int64_t bytes;
    lmoe_check(L, moe__corpus_bytes(c, moe__int(ids), ids->count, &bytes));
    lua_pushinteger(L, bytes);
    return 1;
}

/* shared_lines(newline, longer): how many lines of more than `longer` tokens test has, and how
 * many of them train has too. */
static int corpus_shared_lines(lua_State *L) {
    const moe_corpus *c = check_corpus(L, "shared_lines");
    int64_t newline = whole(L, 2, "shared_lines", "newline", 0);
    int64_t longer = whole(L, 3, "shared_lines", "longer", 0), lines, shared;
    lmoe_check(L, moe__corpus_shared_lines(c, (uint32_t)newline, longer, &lines, &shared));
    lua_pushinteger(L, lines);
    lua_pushinteger(L, shared);
    return 2;
}

/* ---- opening -------------------------------------------------------------------------------- */

static int corpus_release(lua_State *L) {
    moe_corpus **box = luaL_testudata(L, 1, CORPUS_TYPE);
    if (!box) return lmoe_raise(L, "release: a corpus expected, got %s", luaL_typename(L, 1));
    moe__corpus_free(*box);
    *box = NULL;
    return 0;
}

/* corpus_open(path): the corpus of a token file, or nil, message, code. */
static int corpus_open(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "corpus_open");
    moe_corpus **box = lua_newuserdatauv(L, sizeof *box, 0);
    *box = NULL;
    luaL_setmetatable(L, CORPUS_TYPE);
    bool tried = false;
    moe_status status;
    do status = moe__corpus_open(lmoe_ctx(L), path, box);
    while (lmoe_again(L, status, &tried));
    return status == MOE_OK ? 1 : lmoe_fail_status(L, status);
}

void lmoe_open_text(lua_State *L) {
    static const luaL_Reg methods[] = {
        {"tokens", corpus_tokens},   {"documents", corpus_documents},
        {"document", corpus_document}, {"bytes", corpus_bytes},
        {"vocab", corpus_vocab},     {"batch", corpus_batch},
        {"epoch", corpus_epoch},     {"windows", corpus_windows},
        {"ids", corpus_ids},         {"window_batch", corpus_window_batch},
        {"window_documents", corpus_window_documents},
        {"metadata", corpus_metadata}, {"shared_lines", corpus_shared_lines},
        {"digests", corpus_digests}, {"release", corpus_release},
        {NULL, NULL}};
    static const luaL_Reg functions[] = {{"documents", documents},
                                         {"pack_bytes", pack_bytes},
                                         {"corpus_open", corpus_open},
                                         {NULL, NULL}};
    lmoe_newtype(L, CORPUS_TYPE, corpus_release, methods);
    luaL_newlib(L, functions);
    lmoe_add_tokenizer(L);
    lmoe_add_training(L);
    lmoe_add_lines(L);
}
