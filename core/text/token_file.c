/* token_file.c -- opens a corpus: the tensors of a token file and the size of its vocabulary. */
#include <string.h>

#include "text/corpus.h"

#define VOCAB_MAX ((int64_t)1 << 31)

static moe_slice slice(const char *text) { return (moe_slice){text, strlen(text)}; }

/* The tensor `name`, which must have one dimension; its size in *n. */
static moe_status part(moe_ctx *ctx, const moe_safetensors *file, const char *path,
                       const char *name, const moe_stored_tensor **out, int64_t *n) {
    *out = moe__safetensors_find(file, slice(name));
    if (!*out)
        return moe__fail(ctx, MOE_EFORMAT, "%s is no token file: it has no tensor \"%s\"", path,
                         name);
    if ((*out)->rank != 1)
        return moe__fail(ctx, MOE_EFORMAT, "%s: \"%s\" has %lu dimensions instead of one", path,
                         name, (unsigned long)(*out)->rank);
    *n = (int64_t)*moe__safetensors_shape(file, *out);
    return MOE_OK;
}

static moe_status wrong_type(moe_ctx *ctx, const char *path, const char *name, moe_stored got,
                             const char *wanted) {
    return moe__fail(ctx, MOE_EFORMAT, "%s: \"%s\" is %s instead of %s", path, name,
                     moe__stored_name(got), wanted);
}

static moe_status find_ids(moe_ctx *ctx, const char *path, moe_token_file *out) {
    const moe_stored_tensor *t;
    moe_status status = part(ctx, out->file, path, "ids", &t, &out->tokens);
    if (status != MOE_OK) return status;
    if (t->type != MOE_STORED_U16 && t->type != MOE_STORED_U32)
        return wrong_type(ctx, path, "ids", t->type, "U16 or U32");
    out->width = t->type == MOE_STORED_U16 ? 2 : 4;
    out->ids = moe__safetensors_data(out->file, t);
    return MOE_OK;
}

static moe_status find_split(moe_ctx *ctx, const char *path, moe_token_file *out) {
    const moe_stored_tensor *t;
    moe_status status = part(ctx, out->file, path, "split", &t, &out->documents);
    if (status != MOE_OK) return status;
    if (t->type != MOE_STORED_U8) return wrong_type(ctx, path, "split", t->type, "U8");
    out->split = moe__safetensors_data(out->file, t);
    return MOE_OK;
}

static moe_status find_docs(moe_ctx *ctx, const char *path, moe_token_file *out) {
    const moe_stored_tensor *t;
    int64_t n;
    moe_status status = part(ctx, out->file, path, "docs", &t, &n);
    if (status != MOE_OK) return status;
    if (t->type != MOE_STORED_I64) return wrong_type(ctx, path, "docs", t->type, "I64");
    if (n != out->documents + 1)
        return moe__fail(ctx, MOE_EFORMAT, "%s: \"docs\" has %lld offsets: %lld documents need one "
                         "more", path, (long long)n, (long long)out->documents);
    out->docs = moe__safetensors_data(out->file, t);
    return MOE_OK;
}

/* A whole number without sign, at most VOCAB_MAX; 0 when it is none. */
static int64_t number(moe_slice text) {
    int64_t n = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9' || n > VOCAB_MAX) return 0;
        n = 10 * n + (text.data[i] - '0');
    }
    return n <= VOCAB_MAX ? n : 0;
}

static moe_status find_vocab(moe_ctx *ctx, const char *path, moe_token_file *out) {
    const moe_stored_pair *pairs;
    size_t n = moe__safetensors_pairs(out->file, &pairs);
    for (size_t i = 0; i < n; i++)
        if (moe__slice_compare(pairs[i].key, slice("vocab")) == 0)
            out->vocab = number(pairs[i].value);
    if (out->vocab > 0) return MOE_OK;
    return moe__fail(ctx, MOE_EFORMAT, "%s: the metadata gives no size of the vocabulary", path);
}

static int32_t length_at(const moe_token_file *file, int64_t id) {
    int32_t length;
    memcpy(&length, file->lengths + id * (int64_t)sizeof length, sizeof length);
    return length;
}

/* How long tokens are, where the file says so. */
static moe_status find_lengths(moe_ctx *ctx, const char *path, moe_token_file *out) {
    const moe_stored_tensor *t;
    int64_t n;
    if (!moe__safetensors_find(out->file, slice("lengths"))) return MOE_OK;
    moe_status status = part(ctx, out->file, path, "lengths", &t, &n);
    if (status != MOE_OK) return status;
    if (t->type != MOE_STORED_I32) return wrong_type(ctx, path, "lengths", t->type, "I32");
    if (n != out->vocab)
        return moe__fail(ctx, MOE_EFORMAT, "%s: \"lengths\" has %lld tokens: the vocabulary has "
                         "%lld", path, (long long)n, (long long)out->vocab);
    out->lengths = moe__safetensors_data(out->file, t);
    for (int64_t i = 0; i < n; i++)
        if (length_at(out, i) < 0)
            return moe__fail(ctx, MOE_EFORMAT, "%s: token %lld has %ld bytes", path, (long long)i,
                             (long)length_at(out, i));
    return MOE_OK;
}

static moe_status take_apart(moe_ctx *ctx, const char *path, moe_token_file *out) {
    moe_status status = find_ids(ctx, path, out);
    if (status == MOE_OK) status = find_split(ctx, path, out);
    if (status == MOE_OK) status = find_docs(ctx, path, out);
    if (status == MOE_OK) status = find_vocab(ctx, path, out);
    if (status == MOE_OK) status = find_lengths(ctx, path, out);
    return status;
}

moe_status moe__corpus_open(moe_ctx *ctx, const char *path, moe_corpus **out) {
    *out = NULL;
    moe_token_file parts = {0};
    moe_status status = moe__safetensors_open(ctx, path, &parts.file);
    if (status != MOE_OK) return status;
    status = take_apart(ctx, path, &parts);
    if (status == MOE_OK) status = moe__corpus_new(ctx, &parts, path, out);
    if (status != MOE_OK) moe__safetensors_close(parts.file);
    return status;
}
