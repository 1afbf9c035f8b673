/* lines.c -- how much of the test split a model may have seen: lines that train holds as well. */
#include <string.h>

#include "text/corpus.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* Hashes of lines, open addressing; 0 marks a free place. */
typedef struct line_set {
    uint64_t *slot;
    size_t bytes;
    uint64_t mask;
} line_set;

typedef void visit_fn(void *arg, uint64_t hash);

static bool is_newline(const moe_corpus *c, const char *id, uint32_t newline) {
    if (c->width == 2) {
        uint16_t value;
        memcpy(&value, id, sizeof value);
        return value == newline;
    }
    uint32_t value;
    memcpy(&value, id, sizeof value);
    return value == newline;
}

/* Calls visit with the hash of each line of a document that is longer than asked for. */
static void document_lines(const moe_corpus *c, int64_t from, int64_t to, uint32_t newline,
                           int64_t longer, visit_fn *visit, void *arg) {
    for (int64_t begin = from; begin < to;) {
        int64_t end = begin;
        while (end < to && !is_newline(c, c->ids + end * c->width, newline)) end++;
        if (end - begin > longer) {
            uint64_t hash = XXH3_64bits(c->ids + begin * c->width,
                                        (size_t)((end - begin) * c->width));
            visit(arg, hash ? hash : 1);
        }
        begin = end + 1;
    }
}

static void split_lines(const moe_corpus *c, int split, uint32_t newline, int64_t longer,
                        visit_fn *visit, void *arg) {
    const moe_part *part = &c->part[split];
    for (int64_t d = 0; d < part->documents; d++) {
        int64_t from = part->from[d];
        document_lines(c, from, from + part->at[d + 1] - part->at[d], newline, longer, visit, arg);
    }
}

static void count_line(void *arg, uint64_t hash) {
    (void)hash;
    ++*(uint64_t *)arg;
}

/* The place of the hash, or the free one where it belongs. */
static uint64_t *find(const line_set *set, uint64_t hash) {
    uint64_t i = hash & set->mask;
    while (set->slot[i] && set->slot[i] != hash) i = (i + 1) & set->mask;
    return &set->slot[i];
}

static void insert_line(void *arg, uint64_t hash) { *find(arg, hash) = hash; }

typedef struct tally {
    const line_set *set;
    int64_t lines, shared;
} tally;

static void look_up_line(void *arg, uint64_t hash) {
    tally *t = arg;
    t->lines++;
    t->shared += *find(t->set, hash) == hash;
}

/* Room for the lines of the train split, at most half full. */
static moe_status open_set(const moe_corpus *c, uint32_t newline, int64_t longer, line_set *set) {
    uint64_t lines = 0, room = 2;
    split_lines(c, MOE_TRAIN, newline, longer, count_line, &lines);
    while (room < 2 * lines) room *= 2;
    set->bytes = (size_t)room * sizeof *set->slot;
    set->mask = room - 1;
    set->slot = moe__alloc(c->ctx, set->bytes);
    if (!set->slot) return moe__no_memory(c->ctx, set->bytes, "the lines of a corpus");
    memset(set->slot, 0, set->bytes);
    return MOE_OK;
}

moe_status moe__corpus_shared_lines(const moe_corpus *c, uint32_t newline, int64_t longer,
                                    int64_t *lines, int64_t *shared) {
    line_set set;
    moe_status status = open_set(c, newline, longer, &set);
    if (status != MOE_OK) return status;
    split_lines(c, MOE_TRAIN, newline, longer, insert_line, &set);
    tally t = {.set = &set};
    split_lines(c, MOE_TEST, newline, longer, look_up_line, &t);
    moe__free(c->ctx, set.slot, set.bytes);
    *lines = t.lines;
    *shared = t.shared;
    return MOE_OK;
}
