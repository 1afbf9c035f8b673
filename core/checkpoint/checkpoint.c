#include "checkpoint/checkpoint.h"

#include <stdlib.h>
#include <string.h>

struct moe_checkpoint {
    moe_ctx *ctx;
    moe_mapping *map;
    char *path;
    size_t path_size;
    moe_safetensors *safetensors;
    moe_entry *entries;         /* sorted by name */
    size_t count;
};

static int by_name(const void *a, const void *b) {
    return moe__slice_compare(((const moe_entry *)a)->name, ((const moe_entry *)b)->name);
}

static moe_status list_safetensors(moe_checkpoint *c) {
    size_t n = moe__safetensors_count(c->safetensors);
    c->entries = moe__alloc(c->ctx, n * sizeof *c->entries);
    if (n && !c->entries) return moe__no_memory(c->ctx, n * sizeof *c->entries, c->path);
    for (c->count = 0; c->count < n; c->count++)
        c->entries[c->count] = moe__safetensors_entry(
            c->safetensors, moe__safetensors_get(c->safetensors, c->count));
    return MOE_OK;
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
    s = moe__safetensors_map(ctx, path, map, &c->safetensors);
    if (!s) s = list_safetensors(c);
    if (s)
        moe__checkpoint_close(c);
    else
        *out = c;
    return s;
}

void moe__checkpoint_close(moe_checkpoint *c) {
    if (!c) return;
    moe_ctx *ctx = c->ctx;
    moe__free(ctx, c->entries, c->count * sizeof *c->entries);
    moe__safetensors_close(c->safetensors);
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
    return bsearch(&key, c->entries, c->count, sizeof key, by_name);
}

moe_status moe__checkpoint_tensor(moe_checkpoint *c, const moe_entry *e, moe_dtype as,
                                  moe_tensor **out) {
    return moe__entry_tensor(c->ctx, c->path, c->map, e, as, out);
}

moe_safetensors *moe__checkpoint_safetensors(const moe_checkpoint *c) { return c->safetensors; }
