/* scores.c -- merges of vocabularies that order them by scores. */
#include "text/scores.h"

#include <math.h>
#include <stdlib.h>

#include "text/unicode.h"

static uint32_t part_id(const moe_vocabulary *v, const float *scores, const char *text,
                        size_t size) {
    uint32_t id = moe__vocabulary_model(v, text, size);
    return id != MOE_NO_ID && !isnan(scores[id]) ? id : MOE_NO_ID;
}

/* Behind the character at `at`; `size` when there is none. */
static size_t next(const char *text, size_t size, size_t at) {
    const uint8_t *p = (const uint8_t *)text;
    uint32_t code;
    return at < size ? at + moe__character(p + at, p + size, &code) : size;
}

static uint32_t characters(const char *text, size_t size) {
    uint32_t n = 0;
    for (size_t at = 0; at < size; at = next(text, size, at)) n++;
    return n;
}

/* The ways to make one token. */
static moe_status split_token(const moe_vocabulary *v, const float *scores, uint32_t id,
                              moe_buffer *out) {
    const char *text = moe__token_text(v, id);
    size_t size = v->tokens[id].size;
    if (size > MOE_LONGEST_SCORED)
        return moe__fail(v->ctx, MOE_EUNSUPPORTED, "token %u has %zu bytes: at most %d are "
                         "possible", id, size, MOE_LONGEST_SCORED);
    moe_scored merge = {.into = id, .score = scores[id], .right_size = characters(text, size)};
    for (size_t at = next(text, size, 0); at < size; at = next(text, size, at)) {
        merge.left_size++;
        merge.right_size--;
        merge.left = part_id(v, scores, text, at);
        if (merge.left == MOE_NO_ID) continue;
        merge.right = part_id(v, scores, text + at, size - at);
        if (merge.right == MOE_NO_ID) continue;
        moe_status status = moe__buffer_add(out, &merge, sizeof merge);
        if (status != MOE_OK) return status;
    }
    return MOE_OK;
}

static int compare(const void *left, const void *right) {
    const moe_scored *a = left, *b = right;
    if (a->score != b->score) return a->score > b->score ? -1 : 1;
    if (a->left_size != b->left_size) return a->left_size > b->left_size ? -1 : 1;
    if (a->right_size != b->right_size) return a->right_size > b->right_size ? -1 : 1;
    return (a->into > b->into) - (a->into < b->into);
}

moe_status moe__scored_merges(const moe_vocabulary *v, const float *scores, moe_buffer *out) {
    moe_status status = MOE_OK;
    for (uint32_t id = 0; id < v->count && status == MOE_OK; id++)
        if ((v->tokens[id].flags & MOE_TOKEN_MODEL) && !isnan(scores[id]))
            status = split_token(v, scores, id, out);
    if (status == MOE_OK && out->size)
        qsort(out->data, out->size / sizeof(moe_scored), sizeof(moe_scored), compare);
    return status;
}

moe_status moe__bpe_take_scored(moe_bpe *b, const moe_scored *merges, size_t count) {
    moe_status status = moe__merges_open(&b->merges, b->ctx, count);
    uint32_t rank = 0;
    for (size_t i = 0; i < count && status == MOE_OK; i++) {
        if (i > 0 && merges[i].score != merges[i - 1].score) rank++;
        moe__merges_add(&b->merges, merges[i].left, merges[i].right, rank, merges[i].into);
    }
    return status;
}

moe_status moe__bpe_list_merges(const moe_bpe *b, moe_buffer *out) {
    const moe_vocabulary *v = &b->vocabulary;
    moe_status status = MOE_OK;
    for (uint64_t i = 0; b->merges.table && i <= b->merges.mask && status == MOE_OK; i++) {
        const moe_merge *merge = &b->merges.table[i];
        if (merge->rank == MOE_NO_ID) continue;
        moe_scored listed = {
            merge->left, merge->right, merge->into,
            characters(moe__token_text(v, merge->left), v->tokens[merge->left].size),
            characters(moe__token_text(v, merge->right), v->tokens[merge->right].size),
            -(float)merge->rank};
        status = moe__buffer_add(out, &listed, sizeof listed);
    }
    if (status == MOE_OK && out->size)
        qsort(out->data, out->size / sizeof(moe_scored), sizeof(moe_scored), compare);
    return status;
}
