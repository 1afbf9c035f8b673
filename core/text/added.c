/* added.c -- tokens that are found in text as they are written. */
#include "text/added.h"

#include <string.h>

#include "text/unicode.h"

#define ROOT 1                      /* node 0 marks a free edge */
#define NOTHING UINT32_MAX

/* From node `from` by a byte to node `to`, where a token may end. */
typedef struct edge {
    uint32_t from, to;
    uint32_t token;                 /* its place in set->tokens, or NOTHING */
    uint32_t byte;
} edge;

/* ---- the trie ------------------------------------------------------------------------------- */

static size_t room_of(const moe_added_set *set) { return set->edges.size / sizeof(edge); }

/* The place of an edge, or the free one where it belongs. The room is a power of two. */
static edge *place(const moe_added_set *set, uint32_t from, uint8_t byte) {
    edge *edges = (edge *)(void *)set->edges.data;
    size_t mask = room_of(set) - 1;
    uint64_t hash = ((uint64_t)from << 8 | byte) * 0x9E3779B97F4A7C15u;
    size_t i = (size_t)(hash >> 32) & mask;
    while (edges[i].from && (edges[i].from != from || edges[i].byte != byte)) i = (i + 1) & mask;
    return &edges[i];
}

static moe_status double_room(moe_added_set *set) {
    moe_buffer old = set->edges;
    size_t n = room_of(set), bytes = (n ? 2 * n : 256) * sizeof(edge);
    set->edges = (moe_buffer){.ctx = set->ctx};
    moe_status status = moe__buffer_reserve(&set->edges, bytes);
    if (status != MOE_OK) {
        set->edges = old;
        return status;
    }
    memset(set->edges.data, 0, bytes);
    set->edges.size = bytes;
    const edge *edges = (const edge *)(void *)old.data;
    for (size_t i = 0; i < n; i++)
        if (edges[i].from) *place(set, edges[i].from, (uint8_t)edges[i].byte) = edges[i];
    moe__buffer_free(&old);
    return MOE_OK;
}

static edge *follow_or_make(moe_added_set *set, uint32_t from, uint8_t byte) {
    edge *e = place(set, from, byte);
    if (e->from) return e;
    *e = (edge){.from = from, .to = ++set->nodes, .token = NOTHING, .byte = byte};
    set->edge_count++;
    return e;
}

moe_status moe__added_add(moe_added_set *set, const char *text, size_t size, moe_added token) {
    if (size == 0 || size > MOE_LONGEST_ADDED)
        return moe__fail(set->ctx, MOE_EUNSUPPORTED, "an added token of %zu bytes: 1 to %d are "
                         "possible", size, MOE_LONGEST_ADDED);
    if (!set->nodes) set->nodes = ROOT;
    while (2 * (set->edge_count + size) > room_of(set)) {
        moe_status status = double_room(set);
        if (status != MOE_OK) return status;
    }
    edge *e = follow_or_make(set, ROOT, (uint8_t)text[0]);
    for (size_t i = 1; i < size; i++) e = follow_or_make(set, e->to, (uint8_t)text[i]);
    e->token = (uint32_t)(set->tokens.size / sizeof token);
    set->starts[(uint8_t)text[0]] = set->any = true;
    set->tokens.ctx = set->ctx;
    return moe__buffer_add(&set->tokens, &token, sizeof token);
}

void moe__added_close(moe_added_set *set) {
    if (!set->ctx) return;
    set->tokens.ctx = set->edges.ctx = set->ctx;
    moe__buffer_free(&set->tokens);
    moe__buffer_free(&set->edges);
    *set = (moe_added_set){0};
}

/* ---- searching ------------------------------------------------------------------------------ */

/* The longest token that begins at `at`; NULL when none does. */
static const moe_added *longest(const moe_search *s, size_t at, size_t *end) {
    const moe_added *found = NULL;
    uint32_t node = ROOT;
    for (size_t i = at; i < s->size; i++) {
        const edge *e = place(s->set, node, (uint8_t)s->text[i]);
        if (!e->from) break;
        node = e->to;
        if (e->token == NOTHING) continue;
        found = (const moe_added *)(const void *)s->set->tokens.data + e->token;
        *end = i + 1;
    }
    return found;
}

static bool word_before(const moe_search *s, size_t at) {
    if (at == 0) return false;
    const uint8_t *begin = (const uint8_t *)s->text, *p = begin + at;
    uint32_t code;
    moe__character(moe__character_before(begin, p), p, &code);
    return moe__is_word(code);
}

static bool word_behind(const moe_search *s, size_t at) {
    if (at == s->size) return false;
    uint32_t code;
    moe__character((const uint8_t *)s->text + at, (const uint8_t *)s->text + s->size, &code);
    return moe__is_word(code);
}

static bool counts(const moe_search *s, const moe_added *token, size_t begin, size_t end) {
    if (token->special && !s->special) return false;
    return !token->single_word || (!word_before(s, begin) && !word_behind(s, end));
}

static size_t before_spaces(const moe_search *s, size_t at) {
    const uint8_t *begin = (const uint8_t *)s->text, *p = begin + at;
    while (p > begin + s->done) {
        const uint8_t *q = moe__character_before(begin, p);
        uint32_t code;
        moe__character(q, p, &code);
        if (moe__class(code) != MOE_SPACE || q < begin + s->done) break;
        p = q;
    }
    return (size_t)(p - begin);
}

/* Matches inside white space ask for the end of the same run again and again. */
static size_t behind_spaces(moe_search *s, size_t at) {
    if (at >= s->spaces && at <= s->spaces_end) return s->spaces_end;
    const uint8_t *begin = (const uint8_t *)s->text, *end = begin + s->size, *p = begin + at;
    while (p < end) {
        uint32_t code;
        size_t n = moe__character(p, end, &code);
        if (moe__class(code) != MOE_SPACE) break;
        p += n;
    }
    s->spaces = at;
    return s->spaces_end = (size_t)(p - begin);
}

/* What a match does not count for is plain text, but no match begins inside it. */
moe_found moe__added_next(moe_search *s) {
    while (s->set->any && s->at < s->size) {
        size_t begin = s->at, end = begin + 1;
        const moe_added *token = NULL;
        if (s->set->starts[(uint8_t)s->text[begin]]) token = longest(s, begin, &end);
        s->at = end;
        if (!token || !counts(s, token, begin, end)) continue;
        moe_found found = {token, begin, end};
        if (token->lstrip) found.begin = before_spaces(s, begin);
        if (token->rstrip) found.end = behind_spaces(s, end);
        s->done = found.end;
        return found;
    }
    return (moe_found){NULL, s->size, s->size};
}

