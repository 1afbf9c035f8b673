#include "base/mem.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "base/ctx.h"

#define ALIGN ((size_t)64)
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_FROM ((size_t)2 << 20)
#define LARGEST ((size_t)1 << 49)       /* its class is still one of the MOE_BINS */
#define SPARE ((size_t)64 << 20)        /* what may be held beside twice the peak */

/* Sanitizers see overflows and use after free only when every block comes from malloc, and ends
 * where it was asked to end. */
#ifdef __has_feature            /* clang tells in its own way */
#if __has_feature(address_sanitizer) && !defined(__SANITIZE_ADDRESS__)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define CACHING 0
#else
#define CACHING 1
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, size) ((void)(from), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(from, size) ((void)(from), (void)(size))
#endif

/* The bin that `bytes` belongs to, and the size all blocks of that bin have: eight steps per power
 * of two, so that at most an eighth of a block is wasted. */
static int size_class(size_t bytes, size_t *rounded) {
    if (bytes <= 64) {
        *rounded = 64;
        return 0;
    }
    int log = 63 - __builtin_clzll((unsigned long long)(bytes - 1));    /* 2^log < bytes ...     */
    size_t step = ((size_t)1 << log) >> 3;                              /* ... <= 2^(log + 1)    */
    size_t steps = (bytes - ((size_t)1 << log) + step - 1) / step;      /* 1..8 */
    *rounded = ((size_t)1 << log) + steps * step;
    return (log - 6) * 8 + (int)steps;
}

static size_t alignment(size_t bytes) { return bytes >= HUGE_FROM ? HUGE_PAGE : ALIGN; }

static void *system_alloc(moe_heap *h, size_t bytes) {
    size_t align = alignment(bytes);
    h->system_requests++;
    char *raw = h->alloc(h->alloc_ud, NULL, 0, bytes + align + sizeof(void *));
    if (!raw) return NULL;
    uintptr_t start = ((uintptr_t)raw + sizeof(void *) + align - 1) & ~(uintptr_t)(align - 1);
    ((void **)start)[-1] = raw;         /* where the block really begins */
    if (align == HUGE_PAGE) madvise((void *)start, bytes & ~(HUGE_PAGE - 1), MADV_HUGEPAGE);
    return (void *)start;
}

/* The fence goes with the block: the host's allocator may use the memory again. */
static void system_free(moe_heap *h, void *block, size_t bytes) {
    void *raw = ((void **)block)[-1];
    size_t size = bytes + alignment(bytes) + sizeof(void *);
    ASAN_UNPOISON_MEMORY_REGION(raw, size);
    h->alloc(h->alloc_ud, raw, size, 0);
}

/* For sanitizers: from the end of what was asked for to the end of what malloc gave. */
static void fence(void *block, size_t bytes, size_t rounded) {
    char *begin = (char *)block + bytes;
    char *end = (char *)((void **)block)[-1] + rounded + alignment(rounded) + sizeof(void *);
    ASAN_POISON_MEMORY_REGION(begin, (size_t)(end - begin));
}

#ifdef MOELUA_TESTING
static bool told_to_fail(const moe_heap *h) {
    return h->fail_from && h->requests >= h->fail_from &&
           h->requests - h->fail_from < h->fail_count;
}
#else
#define told_to_fail(h) false
#endif

static void *take(moe_heap *h, int bin, size_t bytes) {
    void *block = h->bin[bin];
    if (block) {
        h->bin[bin] = *(void **)block;
        h->cached -= bytes;
        return block;
    }
    return system_alloc(h, bytes);
}

/* Would another block of the system's be more than we may hold? Freeing the cache is the remedy. */
static bool holds_too_much(const moe_heap *h, size_t more) {
    size_t held = h->live + h->cached + more;
    return (h->limit && held > h->limit) || held > 2 * h->peak + SPARE;
}

void *moe__alloc(moe_ctx *ctx, size_t bytes) {
    moe_heap *h = &ctx->heap;
    h->requests++;
    if (told_to_fail(h) || bytes > LARGEST) return NULL;
    size_t size;
    int bin = size_class(bytes, &size);
    if (h->limit && (size > h->limit || h->live > h->limit - size)) return NULL;
    if (!h->bin[bin] && holds_too_much(h, size)) moe__trim(ctx);
    void *block = take(h, bin, size);
    if (!block) {                       /* the cache may be what is in the way */
        moe__trim(ctx);
        block = take(h, bin, size);
    }
    if (!block) return NULL;
    if (!CACHING) fence(block, bytes, size);
    h->live += size;
    if (h->live > h->peak) h->peak = h->live;
    return block;
}

void moe__free(moe_ctx *ctx, void *block, size_t bytes) {
    if (!block) return;
    moe_heap *h = &ctx->heap;
    size_t size;
    int bin = size_class(bytes, &size);
    h->live -= size;
    if (!CACHING) {
        system_free(h, block, size);
        return;
    }
    *(void **)block = h->bin[bin];
    h->bin[bin] = block;
    h->cached += size;
}

void *moe__record_alloc(moe_ctx *ctx, size_t bytes) {
    return ctx->heap.alloc(ctx->heap.alloc_ud, NULL, 0, bytes);
}

void moe__record_free(moe_ctx *ctx, void *record, size_t bytes) {
    ctx->heap.alloc(ctx->heap.alloc_ud, record, bytes, 0);
}

/* Class sizes follow from the bin number: the inverse of size_class. */
static size_t bin_size(int bin) {
    if (bin == 0) return 64;
    size_t base = (size_t)64 << ((bin - 1) / 8);
    return base + (base >> 3) * (size_t)((bin - 1) % 8 + 1);
}

void moe__trim(moe_ctx *ctx) {
    moe_heap *h = &ctx->heap;
    for (int bin = 0; bin < MOE_BINS; bin++)
        while (h->bin[bin]) {
            void *block = h->bin[bin];
            h->bin[bin] = *(void **)block;
            system_free(h, block, bin_size(bin));
        }
    h->cached = 0;
}
