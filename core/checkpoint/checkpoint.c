#include "checkpoint/checkpoint.h"

#include <stdlib.h>
#include <string.h>

struct moe_checkpoint {
    moe_ctx *ctx;
    moe_mapping *map;
    char *path;
    size_t path_size;
    moe_safetensors *safetensors;       /* one of these two */
    moe_gguf *gguf;
    moe_entry *listed;          /* those of safetensors, which keeps them in another form */
    const moe_entry *entries;   /* sorted by name */
    size_t count;
};

static moe_status open_safetensors(moe_checkpoint *c) {
    moe_status s = moe__safetensors_map(c->ctx, c->path, c->map, &c->safetensors);
    if (s) return s;
    size_t n = moe__safetensors_count(c->safetensors);
    c->listed = moe__alloc(c->ctx, n * sizeof *c->listed);
    if (n && !c->listed) return moe__no_memory(c->ctx, n * sizeof *c->listed, c->path);
    c->count = n;
    c->entries = c->listed;
    for (size_t i = 0; i < n; i++)
        c->listed[i] = moe__safetensors_entry(c->safetensors,
                                              moe__safetensors_get(c->safetensors, i));
    return MOE_OK;
}

static moe_status open_gguf(moe_checkpoint *c) {
    moe_status s = moe__gguf_map(c->ctx, c->path, c->map, &c->gguf);
    if (!s) c->count = moe__gguf_entries(c->gguf, &c->entries);
    return s;
}

/* As the size of a header of safetensors these bytes would be too large: no file is both. A file
 * that is named .gguf shall hear what it lacks of that. */
static bool is_gguf(const moe_mapping *map, const char *path) {
    size_t size = strlen(path);
    if (map->size >= 4 && memcmp(map->data, MOE_GGUF_MAGIC, 4) == 0) return true;
    return size >= 5 && strcmp(path + size - 5, ".gguf") == 0;
}

static moe_checkpoint *new_checkpoint(moe_ctx *ctx, const char *path, moe_mapping *map) {
    size_t size = strlen(path) + 1;
    moe_checkpoint *c = moe__alloc(ctx, sizeof *c);
    char *copy = c ? moe__alloc(ctx, size) : NULL;
    if (!copy) {
        moe__free(ctx, c, sizeof *c);
        return NULL;
    }
    *c = (moe_checkpoint){.ctx = ctx, .map = map, .path = memcpy(copy, path, size),
                          .path_size = size};
    moe__ctx_retain(ctx);
    return c;
}

moe_status moe__checkpoint_open(moe_ctx *ctx, const char *path, moe_checkpoint **out) {
    moe_mapping *map;
    *out = NULL;
    moe_status s = moe__map_file(ctx, path, &map);
    if (s) return s;
    moe_checkpoint *c = new_checkpoint(ctx, path, map);
    if (!c) {
        moe__mapping_release(map);
        return moe__no_memory(ctx, sizeof *c, path);
    }
    s = is_gguf(map, path) ? open_gguf(c) : open_safetensors(c);
    if (s)
        moe__checkpoint_close(c);
    else
        *out = c;
    return s;
}

void moe__checkpoint_close(moe_checkpoint *c) {
    if (!c) return;
    moe_ctx *ctx = c->ctx;
    moe__free(ctx, c->listed, c->listed ? c->count * sizeof *c->listed : 0);
    moe__safetensors_close(c->safetensors);
    moe__gguf_close(c->gguf);
    moe__mapping_release(c->map);
    moe__free(ctx, c->path, c->path_size);
    moe__free(ctx, c, sizeof *c);
    moe__ctx_release(ctx);
}

const char *moe__checkpoint_path(const moe_checkpoint *c) { return c->path; }
moe_mapping *moe__checkpoint_mapping(const moe_checkpoint *c) { return c->map; }
size_t moe__checkpoint_count(const moe_checkpoint *c) { return c->count; }
const moe_entry *moe__checkpoint_get(const moe_checkpoint *c, size_t i) { return c->entries + i; }

const moe_entry *moe__checkpoint_find(const moe_checkpoint *c, moe_slice name) {
    moe_entry key = {.name = name};
    if (!c->count) return NULL;
    return bsearch(&key, c->entries, c->count, sizeof key, moe__entry_by_name);
}

moe_status moe__checkpoint_tensor(moe_checkpoint *c, const moe_entry *e, moe_dtype as,
                                  moe_tensor **out) {
    return moe__entry_tensor(c->ctx, c->path, c->map, e, as, out);
}

moe_status moe__checkpoint_verify(moe_checkpoint *c) {
    if (c->safetensors) return moe__safetensors_verify(c->safetensors);
    return moe__fail(c->ctx, MOE_EUNSUPPORTED, "%s: a GGUF file has no checksum", c->path);
}

moe_safetensors *moe__checkpoint_safetensors(const moe_checkpoint *c) { return c->safetensors; }
moe_gguf *moe__checkpoint_gguf(const moe_checkpoint *c) { return c->gguf; }
