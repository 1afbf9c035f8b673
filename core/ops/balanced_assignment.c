/* balanced_assignment.c -- every token to one expert, all experts equally loaded, the sum of scores
 * as large as it can be (BASE layers, Lewis et al. 2021, eq. 2).
 *
 * Of T tokens each of N experts gets floor(T / N), and T mod N of them one more, whichever it pays
 * for. Tokens enter one after the other along shortest augmenting paths (successive shortest paths,
 * as in Jonker and Volgenant 1987): a token may go to a full expert when one of that expert's
 * tokens moves on to another, and so on until there is a free place. Experts have prices, such that
 * every token sits where score - price is largest: distances are then never negative and Dijkstra's
 * search finds the path. For each pair of experts a heap knows the token that loses least by
 * moving.
 *
 * The places beyond floor(T / N) belong to a pool, which is a node of its own: an expert takes one
 * from it, or gives it back for another to take. No token moves along its edges.
 *
 * Scores are whole numbers here, 2^44 the largest of them, so that sums are exact and the result is
 * the same everywhere. Ties: a token goes to the lowest expert, and the later token moves.
 */
#include <math.h>
#include <string.h>

#include "ops/routing.h"

#define SCORE_BITS 44
#define FAR (INT64_MAX / 2)     /* more than any path: below 2^13 edges of at most 2^45 */
#define NOBODY (-1)

typedef struct market {
    int64_t tokens, experts;
    int64_t least, extra;       /* places of each expert, places in the pool */
    int64_t taken;              /* out of the pool */
    int64_t *score;             /* [tokens x experts] */
    int64_t *load;              /* [experts] */
    /* By node, the pool last: */
    int64_t *price, *distance;
    int64_t *edge;              /* [nodes x nodes]: what the cheapest move loses, or FAR */
    int32_t *from;              /* the node before on the path; NOBODY: the new token itself */
    bool *settled;
    /* heap [experts x experts x (least + 1)] holds the tokens of i by what they lose in moving to
     * j; place [tokens x experts] is where in the heap to j of its expert a token stands. */
    int32_t *heap, *place;
    int32_t *home;              /* [tokens]: the result */
} market;

static moe_status infer(moe_call *c) {
    const moe_tensor *s = c->in[0];
    if (moe__rank(c, s, "scores", 2)) return MOE_ESHAPE;
    if (s->shape[1] < 1 || s->shape[1] > MOE_MAX_EXPERTS)
        return MOE_REJECT(c, MOE_EARG, "1 to %d experts, not %lld", MOE_MAX_EXPERTS,
                          (long long)s->shape[1]);
    moe_status status = moe__product_sizes(c, 1, s->shape);         /* tokens, numbered in i32 */
    if (!status) status = moe__logits_finite(c, s);
    if (status) return status;
    for (int64_t i = 0; i < s->count; i++)
        if (isinf(moe__real(s)[i]))
            return MOE_REJECT(c, MOE_EARG, "the logit of token %lld for expert %lld is -infinite, "
                              "but any expert may have to take any token",
                              (long long)(i / s->shape[1] + 1), (long long)(i % s->shape[1] + 1));
    const int64_t shape[2] = {s->shape[0], 1};
    moe__out(c, 0, MOE_I32, 2, shape);
    return MOE_OK;
}

/* ---- the tokens of an expert, by what they lose in moving to another ------------------------ */

static int64_t loss(const market *m, int64_t i, int64_t j, int32_t token) {
    const int64_t *s = m->score + token * m->experts;
    return s[i] - s[j];
}

static bool moves_first(const market *m, int64_t i, int64_t j, int32_t a, int32_t b) {
    const int64_t x = loss(m, i, j, a), y = loss(m, i, j, b);
    return x < y || (x == y && a > b);
}

static int32_t *heap_of(const market *m, int64_t i, int64_t j) {
    return m->heap + (i * m->experts + j) * (m->least + 1);
}

static void put(const market *m, int64_t j, int32_t *heap, int64_t at, int32_t token) {
    heap[at] = token;
    m->place[token * m->experts + j] = (int32_t)at;
}

/* Lets `token` rise or sink from the hole `at` in the heap of n. */
static void sift(const market *m, int64_t i, int64_t j, int64_t n, int64_t at, int32_t token) {
    int32_t *heap = heap_of(m, i, j);
    for (int64_t up; at > 0 && moves_first(m, i, j, token, heap[up = (at - 1) / 2]); at = up)
        put(m, j, heap, at, heap[up]);
    for (int64_t down; (down = 2 * at + 1) < n; at = down) {
        if (down + 1 < n && moves_first(m, i, j, heap[down + 1], heap[down])) down++;
        if (!moves_first(m, i, j, heap[down], token)) break;
        put(m, j, heap, at, heap[down]);
    }
    put(m, j, heap, at, token);
}

static void set_edges(const market *m, int64_t i) {
    const int64_t nodes = m->experts + 1, pool = m->experts;
    int64_t *edge = m->edge + i * nodes;
    for (int64_t j = 0; j < m->experts; j++)
        edge[j] = j != i && m->load[i] ? loss(m, i, j, *heap_of(m, i, j)) : FAR;
    edge[pool] = m->load[i] == m->least ? 0 : FAR;
    m->edge[pool * nodes + i] = m->load[i] > m->least ? 0 : FAR;
}

static void join(market *m, int64_t i, int32_t token) {
    const int64_t n = ++m->load[i];
    for (int64_t j = 0; j < m->experts; j++)
        if (j != i) sift(m, i, j, n, n - 1, token);
    m->taken += n > m->least;
    m->home[token] = (int32_t)i;
    set_edges(m, i);
}

static void leave(market *m, int64_t i, int32_t token) {
    const int64_t n = --m->load[i];
    for (int64_t j = 0; j < m->experts; j++) {
        if (j == i) continue;
        const int64_t at = m->place[token * m->experts + j];
        if (at < n) sift(m, i, j, n, at, heap_of(m, i, j)[n]);
    }
    m->taken -= n == m->least;
    set_edges(m, i);
}

/* ---- the way of a token --------------------------------------------------------------------- */

static bool has_place(const market *m, int64_t node) {
    if (node == m->experts) return false;
    return m->load[node] < m->least || (m->load[node] == m->least && m->taken < m->extra);
}

static int64_t nearest(const market *m) {
    int64_t best = NOBODY;
    for (int64_t v = 0; v <= m->experts; v++)
        if (!m->settled[v] && (best == NOBODY || m->distance[v] < m->distance[best])) best = v;
    return best;
}

static void relax(const market *m, int64_t u) {
    const int64_t nodes = m->experts + 1, *edge = m->edge + u * nodes;
    const int64_t base = m->distance[u] - m->price[u];
    for (int64_t v = 0; v < nodes; v++) {
        if (m->settled[v] || edge[v] == FAR) continue;
        const int64_t d = base + edge[v] + m->price[v];
        if (d < m->distance[v]) m->distance[v] = d, m->from[v] = (int32_t)u;
    }
}

/* The expert whose free place costs least, after which prices are such that every edge of the way
 * costs nothing. Experts with a free place keep the price 0: all that are settled have none. */
static int64_t find_place(const market *m, int32_t token) {
    const int64_t *score = m->score + token * m->experts, pool = m->experts;
    for (int64_t e = 0; e < m->experts; e++) {
        m->distance[e] = m->price[e] - score[e];
        m->from[e] = NOBODY;
    }
    m->distance[pool] = FAR;
    memset(m->settled, 0, sizeof *m->settled * (size_t)(pool + 1));
    int64_t end;
    for (end = nearest(m); !has_place(m, end); end = nearest(m)) {
        m->settled[end] = true;
        relax(m, end);
    }
    for (int64_t v = 0; v <= pool; v++)
        if (m->settled[v]) m->price[v] += m->distance[end] - m->distance[v];
    return end;
}

/* From the end of the path on, so that everybody finds the place of the one before free. */
static void add_token(market *m, int32_t token) {
    int64_t to = find_place(m, token);
    for (int64_t u; (u = m->from[to]) != NOBODY; to = u) {
        if (u == m->experts || to == m->experts) continue;
        const int32_t mover = *heap_of(m, u, to);
        leave(m, u, mover);
        join(m, to, mover);
    }
    join(m, to, token);
}

/* ---- a market ------------------------------------------------------------------------------- */

/* Scores times the power of two that makes the largest one 2^43 to 2^44. */
static void scale_scores(const market *m, const moe_real *score) {
    const int64_t count = m->tokens * m->experts;
    double most = 0;
    int exponent;
    for (int64_t i = 0; i < count; i++) most = fmax(most, fabs((double)score[i]));
    frexp(most, &exponent);
    for (int64_t i = 0; i < count; i++)
        m->score[i] = llrint(ldexp((double)score[i], SCORE_BITS - exponent));
}

/* Cuts the parts of a market out of `block`; returns their bytes, all that it does for NULL. */
static size_t lay_out(market *m, char *block) {
    const int64_t N = m->experts, nodes = N + 1;
    size_t used = 0;
#define PART(member, count)                                                          \
    do {                                                                             \
        if (block) m->member = (void *)(block + used);                               \
        used += sizeof *m->member * (size_t)(count);                                 \
    } while (0)
    PART(score, m->tokens * N);
    PART(load, N);
    PART(price, nodes);
    PART(distance, nodes);
    PART(edge, nodes * nodes);
    PART(heap, N * N * (m->least + 1));
    PART(place, m->tokens * N);
    PART(from, nodes);
    PART(settled, nodes);
#undef PART
    return used;
}

static void open_market(market *m, const moe_real *score) {
    const int64_t nodes = m->experts + 1;
    memset(m->load, 0, sizeof *m->load * (size_t)m->experts);
    memset(m->price, 0, sizeof *m->price * (size_t)nodes);
    m->edge[nodes * nodes - 1] = FAR;
    for (int64_t e = 0; e < m->experts; e++) set_edges(m, e);
    scale_scores(m, score);
}

static moe_status forward(moe_call *c) {
    const int64_t T = c->in[0]->shape[0], N = c->in[0]->shape[1];
    market m = {.tokens = T, .experts = N, .least = T / N, .extra = T % N};
    const size_t bytes = lay_out(&m, NULL);
    char *block = moe__alloc(c->ctx, bytes);
    if (!block) return moe__no_memory(c->ctx, bytes, "a balanced assignment");
    lay_out(&m, block);
    m.home = moe__int(c->out[0]);
    open_market(&m, moe__real(c->in[0]));
    for (int64_t t = 0; t < T && !moe__stopping(c->ctx); t++) add_token(&m, (int32_t)t);
    moe__free(c->ctx, block, bytes);
    return MOE_OK;
}

MOE_OP(balanced_assignment,
    .sig = "scores:tensor -> itensor",
    .doc = "The 0-based expert [T x 1] of every token: of all assignments that give each of N "
           "experts T / N tokens, rounded down or up, one with the largest sum of scores [T x N].",
    .infer = infer, .forward = forward);
