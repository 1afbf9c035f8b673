/* ctx.c -- opening and closing a context, and the message slot. */
#include "base/ctx.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pool.h"

static void *default_alloc(void *ud, void *ptr, size_t osize, size_t nsize) {
    (void)ud;
    (void)osize;
    if (nsize == 0) {
        free(ptr);
        return NULL;
    }
    return malloc(nsize);
}

moe_status moe__ctx_open(moe_ctx **out, const moe_config *given) {
    moe_config cfg = {.size = sizeof cfg};
    if (given) memcpy(&cfg, given, given->size < sizeof cfg ? given->size : sizeof cfg);
    moe_alloc_fn alloc = cfg.alloc ? cfg.alloc : default_alloc;
    *out = NULL;
    moe_ctx *ctx = alloc(cfg.alloc_ud, NULL, 0, sizeof *ctx);
    if (!ctx) return MOE_ENOMEM;
    memset(ctx, 0, sizeof *ctx);
    ctx->refs = 1;
    ctx->heap.alloc = alloc;
    ctx->heap.alloc_ud = cfg.alloc_ud;
    ctx->heap.limit = cfg.memory_limit;
    ctx->seed = 1;
    ctx->pool = moe__pool_open(ctx, cfg.threads);
    if (!ctx->pool) {
        moe__ctx_release(ctx);
        return MOE_ENOMEM;
    }
    *out = ctx;
    return MOE_OK;
}

void moe__ctx_retain(moe_ctx *ctx) { ctx->refs++; }

void moe__ctx_release(moe_ctx *ctx) {
    if (--ctx->refs > 0) return;
    if (ctx->pool) moe__pool_close(ctx, ctx->pool);
    moe__trim(ctx);
    ctx->heap.alloc(ctx->heap.alloc_ud, ctx, sizeof *ctx, 0);
}

void moe_close(moe_ctx *ctx) {
    if (ctx) moe__ctx_release(ctx);
}

const char *moe_errmsg(const moe_ctx *ctx) { return ctx->error; }

void moe_interrupt(moe_ctx *ctx) { atomic_store_explicit(&ctx->stop, 1, memory_order_relaxed); }

bool moe_interrupted(moe_ctx *ctx) {
    return !ctx->shields && atomic_exchange(&ctx->stop, 0) != 0;
}

moe_memory_info moe_memory(const moe_ctx *ctx) {
    const moe_heap *h = &ctx->heap;
    return (moe_memory_info){.live = h->live, .peak = h->peak, .cached = h->cached,
                             .limit = h->limit, .tensors = ctx->tensors,
                             .allocations = h->system_requests};
}

void moe_set_memory_limit(moe_ctx *ctx, size_t bytes) { ctx->heap.limit = bytes; }

int moe_threads(const moe_ctx *ctx) { return moe__workers(ctx); }

moe_status moe__fail(moe_ctx *ctx, moe_status status, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(ctx->error, sizeof ctx->error, fmt, args);
    va_end(args);
    return status;
}

void moe__readable(uint64_t bytes, char text[MOE_READABLE]) {
    static const char *const unit[] = {"bytes", "KB", "MB", "GB", "TB"};
    double value = (double)bytes;
    int i = 0;
    while (value >= 1024 && i < 4) value /= 1024, i++;
    snprintf(text, MOE_READABLE, value < 10 && i ? "%.1f %s" : "%.0f %s", value, unit[i]);
}

moe_status moe__no_memory(moe_ctx *ctx, size_t bytes, const char *what) {
    char want[MOE_READABLE], live[MOE_READABLE], limit[8 + MOE_READABLE] = "";
    moe__readable(bytes, want);
    moe__readable(ctx->heap.live, live);
    if (ctx->heap.limit) {
        memcpy(limit, ", limit ", 9);
        moe__readable(ctx->heap.limit, limit + 8);
    }
    return moe__fail(ctx, MOE_ENOMEM, "out of memory: %s for %s; live %s in %zu tensors%s", want,
                     what, live, ctx->tensors, limit);
}
