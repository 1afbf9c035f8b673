#include "checkpoint/entry.h"

#include <stdio.h>
#include <string.h>

int moe__entry_by_name(const void *a, const void *b) {
    return moe__slice_compare(((const moe_entry *)a)->name, ((const moe_entry *)b)->name);
}

const char *moe__shown(moe_slice name, char text[MOE_SHOWN + 4]) {
    size_t size = name.size < MOE_SHOWN ? name.size : MOE_SHOWN;
    while (size < name.size && size > 0 && ((unsigned char)name.data[size] & 0xc0) == 0x80) size--;
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)name.data[i];
        text[i] = c < 0x20 || c == 0x7f ? '?' : name.data[i];
    }
    strcpy(text + size, size < name.size ? "..." : "");
    return text;
}

static moe_status unsupported(moe_ctx *ctx, const char *what, const moe_entry *e,
                              const char *why) {
    return moe__fail(ctx, MOE_EUNSUPPORTED, "%s: tensor `%s` %s\nhint: raw() gives its bytes",
                     what, MOE_SHOWN_NAME(e->name), why);
}

static bool convertible(moe_stored from, moe_dtype to) {
    moe_dtype compute = moe__stored_compute(from);
    return compute == to || (compute == MOE_F32 && (to == MOE_BF16 || to == MOE_F16));
}

static moe_status describe(moe_ctx *ctx, const char *what, const moe_entry *e, moe_dtype as,
                           moe_desc *desc) {
    char why[96];
    if (!convertible(e->type, as)) {
        snprintf(why, sizeof why, "is %s, which cannot become %s", moe__stored_name(e->type),
                 moe__dtype_name(as));
        return unsupported(ctx, what, e, why);
    }
    if (e->rank > MOE_MAX_DIMS) {
        snprintf(why, sizeof why, "has %d dimensions, more than %d", (int)e->rank, MOE_MAX_DIMS);
        return unsupported(ctx, what, e, why);
    }
    *desc = (moe_desc){.dtype = as, .ndim = (int)e->rank};
    for (int i = 0; i < desc->ndim; i++) desc->shape[i] = (int64_t)e->shape[i];
    if (moe__count(desc->ndim, desc->shape) < 0)
        return unsupported(ctx, what, e, "has a shape that no tensor can have");
    return MOE_OK;
}

/* Whether the elements can be used where they lie. */
static bool usable(const moe_mapping *map, const moe_entry *e, moe_dtype as) {
    uint64_t elements, bytes;
    moe__stored_block(e->type, &elements, &bytes);
    return map && e->type == moe__stored_of(as) && bytes == moe__dtype_size(as) &&
           (uintptr_t)e->data % bytes == 0;
}

moe_status moe__entry_tensor(moe_ctx *ctx, const char *what, moe_mapping *map, const moe_entry *e,
                             moe_dtype as, moe_tensor **out) {
    moe_desc desc;
    *out = NULL;
    moe_status s = describe(ctx, what, e, as, &desc);
    if (s) return s;
    if (usable(map, e, as)) return moe__tensor_mapped(map, (size_t)e->at, &desc, out);
    s = moe__tensor_new(ctx, &desc, out);
    if (s) return s;
    char name[MOE_SHOWN + 16];
    snprintf(name, sizeof name, "tensor `%s`", MOE_SHOWN_NAME(e->name));
    s = moe__stored_load(e->type, e->data, *out, name);
    if (s) {
        moe_tensor_release(*out);
        *out = NULL;
    }
    return s;
}
