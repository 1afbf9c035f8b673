#include "checkpoint/checksum.h"

#include <stdio.h>

#include "kernels/kernels.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

const char moe__checksum_blank[MOE_CHECKSUM_DIGITS + 1] = "00000000000000000000000000000000";

struct moe_checksum {
    XXH3_state_t state;     /* wants to be aligned to 64, as every block of ours is */
    moe_hash_add_fn *add;
};

moe_checksum *moe__checksum_new(moe_ctx *ctx) {
    moe_checksum *c = moe__alloc(ctx, sizeof *c);
    if (!c) return NULL;
    XXH3_128bits_reset(&c->state);
    c->add = ctx->kernels->hash_add;
    return c;
}

void moe__checksum_add(moe_checksum *c, const void *data, size_t size) {
    c->add(&c->state, data, size);
}

void moe__checksum_digits(const moe_checksum *c, char digits[MOE_CHECKSUM_DIGITS + 1]) {
    XXH128_hash_t hash = XXH3_128bits_digest(&c->state);
    snprintf(digits, MOE_CHECKSUM_DIGITS + 1, "%016llx%016llx", (unsigned long long)hash.high64,
             (unsigned long long)hash.low64);
}

void moe__checksum_free(moe_ctx *ctx, moe_checksum *c) { moe__free(ctx, c, sizeof *c); }
