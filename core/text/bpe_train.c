/* bpe_train.c -- learns merges from counted words.
 *
 * Every pair of neighbouring symbols has its exact count and a list of the words that it is in. A
 * heap holds the pairs by count; its entries may be out of date, too large and never too small, and
 * are corrected when they come to the top. A merge then costs only the words that it changes.
 */
#include "text/bpe_train.h"

#include <string.h>

#include "text/unicode.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#define NONE UINT32_MAX
#define BYTES 256u

/* Two neighbours: left << 32 | right. Comparing keys compares left, then right. */
typedef struct pair {
    uint64_t key;
    int64_t count;
    uint32_t words;         /* first node of the list of words that it is, or was, in; or NONE */
    bool grew;              /* in this merge: it may occur more often than the heap knows */
} pair;

typedef struct node {
    uint32_t word, next;
} node;

/* A word in symbols; the first of them is number `at` of all. */
typedef struct spelled {
    size_t at;
    uint32_t length;
    int64_t count;
} spelled;

typedef struct entry {
    int64_t count;
    uint64_t key;
    uint32_t pair;
} entry;

/* Arrays are buffers of their elements. */
typedef struct trainer {
    moe_ctx *ctx;
    moe_buffer symbols, words, pairs, nodes, heap, grown;
    moe_buffer pair_slots, token_slots;     /* number + 1 by hash, 0: free */
    uint32_t pair_mask, token_mask;
    uint32_t free_node;                     /* of lists that are not needed any more */
    moe_bpe_result *out;
} trainer;

static void *at(const moe_buffer *array, size_t size, uint32_t i) { return array->data + size * i; }

static uint32_t length(const moe_buffer *array, size_t size) {
    return (uint32_t)(array->size / size);
}

static pair *pair_at(const trainer *t, uint32_t i) { return at(&t->pairs, sizeof(pair), i); }

static node *node_at(const trainer *t, uint32_t i) { return at(&t->nodes, sizeof(node), i); }

static spelled *word_at(const trainer *t, uint32_t i) {
    return at(&t->words, sizeof(spelled), i);
}

static uint32_t *numbers(const moe_buffer *array) { return at(array, sizeof(uint32_t), 0); }

/* Appends an element whose number must stay below NONE. */
static moe_status append(trainer *t, moe_buffer *array, const void *element, size_t size) {
    if (array->size / size >= NONE)
        return moe__no_memory(t->ctx, array->size, "the pairs of a tokenizer's words");
    return moe__buffer_add(array, element, size);
}

/* ---- the heap ------------------------------------------------------------------------------- */

static bool goes_first(const entry *a, const entry *b) {
    return a->count != b->count ? a->count > b->count : a->key < b->key;
}

static moe_status push(trainer *t, uint32_t i) {
    entry e = {pair_at(t, i)->count, pair_at(t, i)->key, i};
    moe_status status = append(t, &t->heap, &e, sizeof e);
    if (status != MOE_OK) return status;
    entry *heap = at(&t->heap, sizeof e, 0);
    size_t k = length(&t->heap, sizeof e) - 1;
    for (; k > 0 && goes_first(&e, &heap[(k - 1) / 2]); k = (k - 1) / 2)
        heap[k] = heap[(k - 1) / 2];
    heap[k] = e;
    return MOE_OK;
}

/* Puts `e` in the place of the first entry. */
static void sink(trainer *t, entry e) {
    entry *heap = at(&t->heap, sizeof e, 0);
    size_t n = length(&t->heap, sizeof e), k = 0;
    for (size_t child; (child = 2 * k + 1) < n; k = child) {
        if (child + 1 < n && goes_first(&heap[child + 1], &heap[child])) child++;
        if (!goes_first(&heap[child], &e)) break;
        heap[k] = heap[child];
    }
    heap[k] = e;
}

static void drop_first(trainer *t) {
    entry last;
    t->heap.size -= sizeof last;
    memcpy(&last, t->heap.data + t->heap.size, sizeof last);
    if (t->heap.size > 0) sink(t, last);
}

/* The most frequent pair, taken from the heap; NONE when none occurs `least` times. */
static uint32_t pop(trainer *t, int64_t least) {
    while (t->heap.size > 0) {
        entry top = *(entry *)at(&t->heap, sizeof top, 0);
        int64_t count = pair_at(t, top.pair)->count;
        if (count >= least && count < top.count) {
            top.count = count;
            sink(t, top);
            continue;
        }
        drop_first(t);
        if (count >= least) return top.pair;
    }
    return NONE;
}

/* ---- pairs ---------------------------------------------------------------------------------- */

static uint32_t *pair_slot(const trainer *t, uint64_t key) {
    uint32_t *slots = numbers(&t->pair_slots);
    uint32_t i = (uint32_t)XXH3_64bits(&key, sizeof key) & t->pair_mask;
    while (slots[i] && pair_at(t, slots[i] - 1)->key != key) i = (i + 1) & t->pair_mask;
    return slots + i;
}

/* Empty slots, a power of two. */
static moe_status make_slots(moe_buffer *slots, size_t wanted, uint32_t *mask) {
    moe_status status = moe__buffer_reserve(slots, wanted * sizeof(uint32_t));
    if (status != MOE_OK) return status;
    memset(slots->data, 0, wanted * sizeof(uint32_t));
    *mask = (uint32_t)(wanted - 1);
    return MOE_OK;
}

/* Slots for a pair more, at most half of them taken. */
static moe_status make_pair_slots(trainer *t) {
    size_t slots = t->pair_slots.data ? (size_t)t->pair_mask + 1 : 512;
    uint32_t n = length(&t->pairs, sizeof(pair));
    if (t->pair_slots.data && slots > 2 * (size_t)n) return MOE_OK;
    moe_status status = make_slots(&t->pair_slots, 2 * slots, &t->pair_mask);
    for (uint32_t i = 0; i < n && status == MOE_OK; i++)
        *pair_slot(t, pair_at(t, i)->key) = i + 1;
    return status;
}

/* The pair with this key, a new one that does not occur if need be. */
static moe_status find_pair(trainer *t, uint64_t key, uint32_t *out) {
    moe_status status = make_pair_slots(t);
    if (status != MOE_OK) return status;
    uint32_t *slot = pair_slot(t, key);
    if (!*slot) {
        status = append(t, &t->pairs, &(pair){.key = key, .words = NONE}, sizeof(pair));
        if (status != MOE_OK) return status;
        *slot = length(&t->pairs, sizeof(pair));
    }
    *out = *slot - 1;
    return MOE_OK;
}

/* Notes that the pair is in a word. The words come one after the other, so that one which is noted
 * already is the newest of the list. */
static moe_status note_word(trainer *t, uint32_t i, uint32_t word) {
    node new = {word, pair_at(t, i)->words};
    if (new.next != NONE && node_at(t, new.next)->word == word) return MOE_OK;
    uint32_t place = t->free_node;
    if (place == NONE) {
        place = length(&t->nodes, sizeof new);
        moe_status status = append(t, &t->nodes, &new, sizeof new);
        if (status != MOE_OK) return status;
    } else {
        t->free_node = node_at(t, place)->next;
        *node_at(t, place) = new;
    }
    pair_at(t, i)->words = place;
    return MOE_OK;
}

static uint64_t key_of(uint32_t left, uint32_t right) { return (uint64_t)left << 32 | right; }

/* The pair occurs once more in each of the `count` occurrences of a word. */
static moe_status gain(trainer *t, uint32_t left, uint32_t right, uint32_t word, int64_t count) {
    uint32_t i;
    moe_status status = find_pair(t, key_of(left, right), &i);
    if (status != MOE_OK) return status;
    pair_at(t, i)->count += count;
    if (!pair_at(t, i)->grew) status = append(t, &t->grown, &i, sizeof i);
    if (status != MOE_OK) return status;
    pair_at(t, i)->grew = true;
    return note_word(t, i, word);
}

/* Such a pair exists: every pair of neighbours does. */
static void lose(trainer *t, uint32_t left, uint32_t right, int64_t count) {
    pair_at(t, *pair_slot(t, key_of(left, right)) - 1)->count -= count;
}

static moe_status push_grown(trainer *t) {
    moe_status status = MOE_OK;
    for (uint32_t k = 0; k < length(&t->grown, sizeof k) && status == MOE_OK; k++) {
        uint32_t i = numbers(&t->grown)[k];
        pair_at(t, i)->grew = false;
        if (pair_at(t, i)->count > 0) status = push(t, i);
    }
    t->grown.size = 0;
    return status;
}

/* ---- words ---------------------------------------------------------------------------------- */

static moe_status spell(trainer *t, const moe_bpe_words *words, const uint32_t symbol[BYTES]) {
    const unsigned char *bytes = (const unsigned char *)words->bytes.data;
    size_t n = words->bytes.size;
    moe_status status = moe__buffer_reserve(&t->symbols, n * sizeof *symbol);
    if (status != MOE_OK) return status;
    for (size_t i = 0; i < n; i++) numbers(&t->symbols)[i] = symbol[bytes[i]];
    for (uint32_t i = 0; i < moe__bpe_count(words) && status == MOE_OK; i++) {
        const moe_bpe_word *w = moe__bpe_word(words, i);
        status = append(t, &t->words, &(spelled){w->at, w->size, w->count}, sizeof(spelled));
    }
    return status;
}

static moe_status count_pairs(trainer *t) {
    moe_status status = MOE_OK;
    for (uint32_t i = 0; i < length(&t->words, sizeof(spelled)) && status == MOE_OK; i++) {
        if (i % 65536 == 0 && moe_interrupted(t->ctx))
            return moe__fail(t->ctx, MOE_EINTR, "interrupted!");
        const spelled *word = word_at(t, i);
        const uint32_t *s = numbers(&t->symbols) + word->at;
        for (uint32_t k = 1; k < word->length && status == MOE_OK; k++)
            status = gain(t, s[k - 1], s[k], i, word->count);
    }
    return status == MOE_OK ? push_grown(t) : status;
}

/* A merge took place in word `i`: its symbol number k is new, and `next`, if there is one, comes
 * behind it. */
static moe_status update(trainer *t, uint32_t i, const moe_bpe_merge *m, uint32_t k,
                         const uint32_t *next) {
    int64_t count = word_at(t, i)->count;
    uint32_t before = k > 0 ? numbers(&t->symbols)[word_at(t, i)->at + k - 1] : 0;
    moe_status status = MOE_OK;
    if (k > 0) {
        lose(t, before, m->left, count);
        status = gain(t, before, m->result, i, count);
    }
    if (next && status == MOE_OK) {
        lose(t, m->right, *next, count);
        status = gain(t, m->result, *next, i, count);
    }
    return status;
}

/* Puts the result in the place of the pair wherever it is in the word, from left to right. */
static moe_status merge_word(trainer *t, uint32_t i, const moe_bpe_merge *m) {
    spelled *word = word_at(t, i);
    uint32_t *s = numbers(&t->symbols) + word->at, to = 0;
    moe_status status = MOE_OK;
    for (uint32_t from = 0; from < word->length && status == MOE_OK; to++) {
        s[to] = s[from++];
        if (s[to] != m->left || from == word->length || s[from] != m->right) continue;
        from++;
        s[to] = m->result;
        status = update(t, i, m, to, from < word->length ? &s[from] : NULL);
    }
    word->length = to;
    return status;
}

/* Merges a pair everywhere; then it occurs no more, and its list is free. */
static moe_status merge_all(trainer *t, uint32_t i, const moe_bpe_merge *m) {
    uint32_t first = pair_at(t, i)->words, last = NONE;
    moe_status status = MOE_OK;
    for (uint32_t n = first; n != NONE && status == MOE_OK; n = node_at(t, n)->next) {
        status = merge_word(t, node_at(t, n)->word, m);
        last = n;
    }
    if (status != MOE_OK) return status;
    node_at(t, last)->next = t->free_node;
    t->free_node = first;
    pair_at(t, i)->words = NONE;
    pair_at(t, i)->count = 0;
    return push_grown(t);
}

/* ---- tokens --------------------------------------------------------------------------------- */

static const moe_bpe_token *token_at(const trainer *t, uint32_t i) {
    return at(&t->out->tokens, sizeof(moe_bpe_token), i);
}

static const char *text_of(const trainer *t, const moe_bpe_token *token) {
    return t->out->bytes.data + token->at;
}

static bool same_text(const trainer *t, const moe_bpe_token *a, const moe_bpe_token *b) {
    return a->size == b->size && memcmp(text_of(t, a), text_of(t, b), a->size) == 0;
}

static uint32_t *token_slot(const trainer *t, const moe_bpe_token *token) {
    uint32_t *slots = numbers(&t->token_slots);
    uint32_t i = (uint32_t)XXH3_64bits(text_of(t, token), token->size) & t->token_mask;
    while (slots[i] && !same_text(t, token_at(t, slots[i] - 1), token)) i = (i + 1) & t->token_mask;
    return slots + i;
}

/* The bytes at the end become a token unless there is one with the same; *out is its symbol. */
static moe_status add_token(trainer *t, uint32_t size, uint32_t *out) {
    moe_bpe_token token = {t->out->bytes.size - size, size};
    uint32_t *slot = token_slot(t, &token);
    if (*slot) {
        t->out->bytes.size = token.at;
    } else {
        moe_status status = append(t, &t->out->tokens, &token, sizeof token);
        if (status != MOE_OK) return status;
        *slot = length(&t->out->tokens, sizeof token);
    }
    *out = *slot - 1;
    return MOE_OK;
}

/* The alphabet, in the order of the code points that bytes are written as. */
static moe_status add_bytes(trainer *t, uint32_t vocab, uint32_t symbol[BYTES]) {
    size_t slots = 1024;
    while (slots < 2 * (size_t)vocab) slots *= 2;
    moe_status status = make_slots(&t->token_slots, slots, &t->token_mask);
    for (uint32_t code = 0; code < 2 * BYTES && status == MOE_OK; code++) {
        int byte = moe__symbol_byte(code);
        if (byte < 0) continue;
        status = moe__buffer_add(&t->out->bytes, &(char){(char)byte}, 1);
        if (status == MOE_OK) status = add_token(t, 1, &symbol[byte]);
    }
    return status;
}

/* Fills in the token that the pair makes. */
static moe_status join(trainer *t, moe_bpe_merge *m) {
    moe_bpe_token left = *token_at(t, m->left), right = *token_at(t, m->right);
    moe_buffer *bytes = &t->out->bytes;
    moe_status status = moe__buffer_reserve(bytes, (size_t)left.size + right.size);
    if (status == MOE_OK) status = moe__buffer_add(bytes, bytes->data + left.at, left.size);
    if (status == MOE_OK) status = moe__buffer_add(bytes, bytes->data + right.at, right.size);
    if (status == MOE_OK) status = add_token(t, left.size + right.size, &m->result);
    return status == MOE_OK ? append(t, &t->out->merges, m, sizeof *m) : status;
}

/* ---- training ------------------------------------------------------------------------------- */

static moe_status learn(trainer *t, uint32_t vocab, int64_t least) {
    moe_status status = MOE_OK;
    while (length(&t->out->tokens, sizeof(moe_bpe_token)) < vocab && status == MOE_OK) {
        if (moe_interrupted(t->ctx)) return moe__fail(t->ctx, MOE_EINTR, "interrupted!");
        uint32_t i = pop(t, least);
        if (i == NONE) break;
        uint64_t key = pair_at(t, i)->key;
        moe_bpe_merge m = {.left = (uint32_t)(key >> 32), .right = (uint32_t)key};
        status = join(t, &m);
        if (status == MOE_OK) status = merge_all(t, i, &m);
    }
    return status;
}

static moe_status train(trainer *t, const moe_bpe_words *words, uint32_t vocab, int64_t least) {
    uint32_t symbol[BYTES];
    /* Each merge leaves fewer symbols: there are no more tokens than this. */
    if (vocab - BYTES > words->bytes.size) vocab = BYTES + (uint32_t)words->bytes.size;
    moe_status status = add_bytes(t, vocab, symbol);
    if (status == MOE_OK) status = spell(t, words, symbol);
    if (status == MOE_OK) status = count_pairs(t);
    return status == MOE_OK ? learn(t, vocab, least) : status;
}

moe_status moe__bpe_train(const moe_bpe_words *words, uint32_t vocab, int64_t least,
                          moe_bpe_result *out) {
    moe_buffer empty = {.ctx = words->ctx};
    *out = (moe_bpe_result){empty, empty, empty};
    trainer t = {.ctx = words->ctx, .symbols = empty, .words = empty, .pairs = empty,
                 .nodes = empty, .heap = empty, .grown = empty, .pair_slots = empty,
                 .token_slots = empty, .free_node = NONE, .out = out};
    moe_status status = train(&t, words, vocab, least < 1 ? 1 : least);
    moe_buffer *used[] = {&t.symbols, &t.words, &t.pairs,      &t.nodes,
                          &t.heap,    &t.grown, &t.pair_slots, &t.token_slots};
    for (size_t i = 0; i < sizeof used / sizeof *used; i++) moe__buffer_free(used[i]);
    if (status != MOE_OK) moe__bpe_result_free(out);
    return status;
}

void moe__bpe_result_free(moe_bpe_result *result) {
    moe__buffer_free(&result->merges);
    moe__buffer_free(&result->tokens);
    moe__buffer_free(&result->bytes);
}
