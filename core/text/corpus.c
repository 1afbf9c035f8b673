/* corpus.c -- the documents of a token file as one stream per split. */
#include "text/corpus.h"

#include <string.h>

const char *moe__split_name(int split) {
    static const char *const names[MOE_SPLITS] = {"test", "validation", "train"};
    return names[split];
}

/* ---- opening -------------------------------------------------------------------------------- */

static int64_t offset_of(const moe_token_file *file, int64_t document) {
    int64_t offset;
    memcpy(&offset, file->docs + document * (int64_t)sizeof offset, sizeof offset);
    return offset;
}

static int split_of(const moe_token_file *file, int64_t document) {
    return (unsigned char)file->split[document];
}

/* Documents lie behind one another and fill the file; each is in a split. */
static moe_status check(moe_ctx *ctx, const moe_token_file *file, const char *path) {
    int64_t end = offset_of(file, 0);
    if (end != 0)
        return moe__fail(ctx, MOE_EFORMAT, "%s: document 1 begins at token %lld instead of 0", path,
                         (long long)end);
    for (int64_t d = 0; d < file->documents; d++) {
        int64_t begin = end;
        end = offset_of(file, d + 1);
        if (end < begin || end > file->tokens)
            return moe__fail(ctx, MOE_EFORMAT, "%s: document %lld ends at token %lld: it begins at "
                             "%lld, and there are %lld tokens", path, (long long)d + 1,
                             (long long)end, (long long)begin, (long long)file->tokens);
        if (split_of(file, d) >= MOE_SPLITS)
            return moe__fail(ctx, MOE_EFORMAT, "%s: document %lld is in split %d: known are 0 to "
                             "%d", path, (long long)d + 1, split_of(file, d), MOE_SPLITS - 1);
    }
    if (end != file->tokens)
        return moe__fail(ctx, MOE_EFORMAT, "%s: the documents end at token %lld: there are %lld",
                         path, (long long)end, (long long)file->tokens);
    return MOE_OK;
}

static size_t part_bytes(int64_t documents) {
    return sizeof(int64_t) * (2 * (size_t)documents + 1);
}

static void count(moe_corpus *c, const moe_token_file *file) {
    for (int64_t d = 0; d < file->documents; d++) {
        moe_part *part = &c->part[split_of(file, d)];
        part->documents++;
        part->tokens += offset_of(file, d + 1) - offset_of(file, d);
    }
}

static moe_status make_room(moe_corpus *c) {
    for (int s = 0; s < MOE_SPLITS; s++) {
        moe_part *part = &c->part[s];
        size_t bytes = part_bytes(part->documents);
        part->at = moe__alloc(c->ctx, bytes);
        if (!part->at) return moe__no_memory(c->ctx, bytes, "the documents of a corpus");
        part->from = part->at + part->documents + 1;
    }
    return MOE_OK;
}

static void fill(moe_corpus *c, const moe_token_file *file) {
    int64_t documents[MOE_SPLITS] = {0}, tokens[MOE_SPLITS] = {0};
    for (int64_t d = 0; d < file->documents; d++) {
        int s = split_of(file, d);
        c->part[s].at[documents[s]] = tokens[s];
        c->part[s].from[documents[s]++] = offset_of(file, d);
        tokens[s] += offset_of(file, d + 1) - offset_of(file, d);
    }
    for (int s = 0; s < MOE_SPLITS; s++) c->part[s].at[documents[s]] = tokens[s];
}

moe_status moe__corpus_new(moe_ctx *ctx, const moe_token_file *file, const char *path,
                           moe_corpus **out) {
    *out = NULL;
    moe_status status = check(ctx, file, path);
    if (status != MOE_OK) return status;
    moe_corpus *c = moe__alloc(ctx, sizeof *c);
    if (!c) return moe__no_memory(ctx, sizeof *c, path);
    *c = (moe_corpus){.ctx = ctx, .ids = file->ids, .lengths = file->lengths,
                      .width = file->width, .tokens = file->tokens, .documents = file->documents,
                      .vocab = file->vocab};
    moe__ctx_retain(ctx);
    count(c, file);
    status = make_room(c);
    if (status != MOE_OK) {
        moe__corpus_free(c);
        return status;
    }
    fill(c, file);
    c->file = file->file;
    *out = c;
    return MOE_OK;
}

void moe__corpus_free(moe_corpus *c) {
    if (!c) return;
    moe_ctx *ctx = c->ctx;
    for (int s = 0; s < MOE_SPLITS; s++)
        if (c->part[s].at) moe__free(ctx, c->part[s].at, part_bytes(c->part[s].documents));
    moe__safetensors_close(c->file);
    moe__free(ctx, c, sizeof *c);
    moe__ctx_release(ctx);
}

/* ---- reading -------------------------------------------------------------------------------- */

static uint32_t id_at(const moe_corpus *c, int64_t token) {
    const char *p = c->ids + token * c->width;
    if (c->width == 4) {
        uint32_t id;
        memcpy(&id, p, sizeof id);
        return id;
    }
    uint16_t id;
    memcpy(&id, p, sizeof id);
    return id;
}

static moe_status no_token(const moe_corpus *c, int64_t i, long long id) {
    return moe__fail(c->ctx, MOE_EFORMAT, "token %lld of the corpus is %lld: the vocabulary has "
                     "%lld", (long long)i + 1, id, (long long)c->vocab);
}

static moe_status copy_ids(const moe_corpus *c, int64_t from, int64_t n, int32_t *out) {
    for (int64_t i = 0; i < n; i++) {
        uint32_t id = id_at(c, from + i);
        if (id >= c->vocab) return no_token(c, from + i, id);
        out[i] = (int32_t)id;
    }
    return MOE_OK;
}

int64_t moe__corpus_document(const moe_corpus *c, int split, int64_t at) {
    const moe_part *part = &c->part[split];
    int64_t low = 0, high = part->documents - 1;
    while (low < high) {
        int64_t middle = high - (high - low) / 2;
        if (part->at[middle] <= at) low = middle;
        else high = middle - 1;
    }
    return low;
}

moe_status moe__corpus_read(const moe_corpus *c, int split, int64_t first, int64_t n,
                            int32_t *out) {
    const moe_part *part = &c->part[split];
    moe_status status = MOE_OK;
    int64_t d = n > 0 ? moe__corpus_document(c, split, first) : 0;
    for (; n > 0 && status == MOE_OK; d++) {
        int64_t here = part->at[d + 1] - first < n ? part->at[d + 1] - first : n;
        status = copy_ids(c, part->from[d] + first - part->at[d], here, out);
        first += here;
        out += here;
        n -= here;
    }
    return status;
}

static int64_t length_of(const moe_corpus *c, int32_t id) {
    int32_t length = 1;
    if (c->lengths) memcpy(&length, c->lengths + (size_t)id * sizeof length, sizeof length);
    return length;
}

moe_status moe__corpus_bytes(const moe_corpus *c, const int32_t *ids, int64_t n, int64_t *bytes) {
    *bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        if (ids[i] >= c->vocab) return no_token(c, i, ids[i]);
        if (ids[i] >= 0) *bytes += length_of(c, ids[i]);
    }
    return MOE_OK;
}
