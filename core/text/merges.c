/* merges.c -- the merging of words: short ones by looking at all pairs each time, long ones by a
 * heap of pairs, so that a word of n symbols takes O(n log n) steps and memory linear in n. */
#include "text/merges.h"

#include <string.h>

/* Up to here looking at all pairs is faster than a heap. */
#define SHORT 48

/* ---- the table ------------------------------------------------------------------------------ */

static size_t table_bytes(const moe_merges *m) {
    return ((size_t)m->mask + 1) * sizeof *m->table;
}

moe_status moe__merges_open(moe_merges *m, moe_ctx *ctx, size_t count) {
    size_t room = 16;
    while (room < 2 * count) room *= 2;
    *m = (moe_merges){.ctx = ctx, .mask = room - 1, .scratch = {.ctx = ctx}};
    m->table = moe__alloc(ctx, table_bytes(m));
    if (!m->table) return moe__no_memory(ctx, table_bytes(m), "the merges of a tokenizer");
    memset(m->table, 0xFF, table_bytes(m));
    return MOE_OK;
}

void moe__merges_close(moe_merges *m) {
    if (!m->ctx) return;
    moe__free(m->ctx, m->table, table_bytes(m));
    moe__buffer_free(&m->scratch);
    *m = (moe_merges){0};
}

/* The place of the pair, or the free one where it belongs. */
static moe_merge *place(const moe_merges *m, uint32_t left, uint32_t right) {
    uint64_t hash = ((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u;
    uint64_t i = (hash ^ hash >> 32) & m->mask;
    while (m->table[i].rank != MOE_NO_ID &&
           (m->table[i].left != left || m->table[i].right != right))
        i = (i + 1) & m->mask;
    return &m->table[i];
}

void moe__merges_add(moe_merges *m, uint32_t left, uint32_t right, uint32_t rank, uint32_t into) {
    moe_merge *merge = place(m, left, right);
    m->count += merge->rank == MOE_NO_ID;
    *merge = (moe_merge){left, right, rank, into};
}

const moe_merge *moe__merges_find(const moe_merges *m, uint32_t left, uint32_t right) {
    const moe_merge *merge = place(m, left, right);
    return merge->rank == MOE_NO_ID ? NULL : merge;
}

/* ---- short words ---------------------------------------------------------------------------- */

typedef struct pair {
    uint32_t rank, into;
} pair;

static pair look_up(const moe_merges *m, uint32_t left, uint32_t right) {
    const moe_merge *merge = place(m, left, right);
    return (pair){merge->rank, merge->into};
}

static size_t lowest(const pair *pairs, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (pairs[i].rank < pairs[best].rank) best = i;
    return best;
}

/* pairs[i] is what symbols i and i + 1 become. */
static size_t merge_short(const moe_merges *m, uint32_t *symbols, size_t n) {
    pair pairs[SHORT];
    for (size_t i = 0; i + 1 < n; i++) pairs[i] = look_up(m, symbols[i], symbols[i + 1]);
    while (n > 1) {
        size_t i = lowest(pairs, n - 1);
        if (pairs[i].rank == MOE_NO_ID) break;
        symbols[i] = pairs[i].into;
        n--;
        memmove(symbols + i + 1, symbols + i + 2, (n - i - 1) * sizeof *symbols);
        if (i + 1 < n) {
            memmove(pairs + i + 1, pairs + i + 2, (n - i - 2) * sizeof *pairs);
            pairs[i] = look_up(m, symbols[i], symbols[i + 1]);
        }
        if (i > 0) pairs[i - 1] = look_up(m, symbols[i - 1], symbols[i]);
    }
    return n;
}

/* ---- long words ----------------------------------------------------------------------------- */

/* A pair that waits: the symbol that it begins at, and what the two were when it was seen. Symbols
 * that have changed since make it void. */
typedef struct waiting {
    uint32_t rank, at, left, right, into;
} waiting;

typedef struct node {
    uint32_t previous, next;    /* MOE_NO_ID = none */
} node;

typedef struct word {
    const moe_merges *m;
    uint32_t *symbols;          /* MOE_NO_ID where one was merged into the one before */
    node *nodes;
    waiting *heap;
    size_t heap_size;
} word;

static bool is_before(const waiting *a, const waiting *b) {
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(word *w, waiting item) {
    size_t i = w->heap_size++;
    while (i > 0 && is_before(&item, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = item;
}

static waiting pop(word *w) {
    waiting top = w->heap[0], item = w->heap[--w->heap_size];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < w->heap_size) {
        if (child + 1 < w->heap_size && is_before(&w->heap[child + 1], &w->heap[child])) child++;
        if (!is_before(&w->heap[child], &item)) break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = item;
    return top;
}

/* The pair that begins at symbol `at`, if it is one. */
static void consider(word *w, uint32_t at) {
    if (at == MOE_NO_ID || w->nodes[at].next == MOE_NO_ID) return;
    uint32_t left = w->symbols[at], right = w->symbols[w->nodes[at].next];
    const moe_merge *merge = moe__merges_find(w->m, left, right);
    if (merge) push(w, (waiting){merge->rank, at, left, right, merge->into});
}

static bool is_void(const word *w, const waiting *item) {
    if (w->symbols[item->at] != item->left) return true;
    uint32_t next = w->nodes[item->at].next;
    return next == MOE_NO_ID || w->symbols[next] != item->right;
}

static void join(word *w, const waiting *item) {
    node *here = &w->nodes[item->at];
    uint32_t gone = here->next;
    w->symbols[item->at] = item->into;
    w->symbols[gone] = MOE_NO_ID;
    here->next = w->nodes[gone].next;
    if (here->next != MOE_NO_ID) w->nodes[here->next].previous = item->at;
    consider(w, here->previous);
    consider(w, item->at);
}

/* Each merge puts at most two pairs into the heap, so that 3 n are enough. */
static moe_status open_word(moe_merges *m, uint32_t *symbols, size_t n, word *w) {
    size_t bytes = n * (sizeof(node) + 3 * sizeof(waiting));
    m->scratch.size = 0;
    moe_status status = moe__buffer_reserve(&m->scratch, bytes);
    if (status != MOE_OK) return status;
    *w = (word){.m = m, .symbols = symbols};
    w->nodes = (node *)(void *)m->scratch.data;
    w->heap = (waiting *)(void *)(w->nodes + n);
    for (size_t i = 0; i < n; i++)
        w->nodes[i] = (node){(uint32_t)i - 1, i + 1 < n ? (uint32_t)i + 1 : MOE_NO_ID};
    return MOE_OK;
}

static moe_status merge_long(moe_merges *m, uint32_t *symbols, size_t *n) {
    word w;
    moe_status status = open_word(m, symbols, *n, &w);
    if (status != MOE_OK) return status;
    for (size_t i = 0; i < *n; i++) consider(&w, (uint32_t)i);
    for (uint32_t merged = 0; w.heap_size > 0; merged++) {
        if (merged % 4096 == 4095 && moe_interrupted(m->ctx))
            return moe__fail(m->ctx, MOE_EINTR, "interrupted!");
        waiting item = pop(&w);
        if (!is_void(&w, &item)) join(&w, &item);
    }
    size_t left = 0;
    for (size_t i = 0; i < *n; i++)
        if (symbols[i] != MOE_NO_ID) symbols[left++] = symbols[i];
    *n = left;
    return MOE_OK;
}

moe_status moe__merges_apply(moe_merges *m, uint32_t *symbols, size_t *n) {
    if (*n > SHORT) return merge_long(m, symbols, n);
    *n = merge_short(m, symbols, *n);
    return MOE_OK;
}
