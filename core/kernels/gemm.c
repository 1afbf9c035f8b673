/* gemm.c -- matrix products of any layout, cut into tasks.
 *
 * A task owns a block of C, or the part of it that a slice of k contributes, and walks through k in
 * steps that stay in the second-level cache. An operand that has to be rearranged is rearranged
 * once: by the task itself when no other task needs that part, otherwise in a region of tasks
 * before. Long sums into a small C are cut into slices, whose parts a last region adds up.
 *
 * How a product is cut depends on its shape alone, so that the bits do not depend on the number of
 * threads.
 */
#include <string.h>

#include "base/ctx.h"
#include "kernels/kernels.h"

enum {
    TASKS = 32,                 /* a batch is cut into that many tasks if it has the work */
    DEPTH = 512,                /* of k at a time */
    STRIP = 96,                 /* rows that a task rearranges at a time: 8 or 6 register tiles */
    ROWS = 144,                 /* of a block when all of B fits the second-level cache ... */
    CACHED = 1 << 18,           /* ... which it does up to that many elements */
    BLOCK = 3 << 16,            /* elements of A in a block when it does not */
    SLICES = 8,                 /* of k, at most */
    PARTS = 1 << 21,            /* elements that all slices of a product may have */
    GROUPS = 1024,              /* tasks that small products are put together to */
    PACK_ROWS = 1024,           /* of B in a piece */
    PACK_COLUMNS = 4 * MOE_PANEL,
    PACK_STEP = 32,             /* rows of it that go to all panels before the next rows do */
    PACK_SLICE = 256            /* rows of it that become f32 at a time */
};

static int64_t minimum(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t maximum(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t pieces(int64_t n, int64_t size) { return (n + size - 1) / size; }

/* ---- the panels of B ------------------------------------------------------------------------ */

int64_t moe__pack_pieces(int64_t k, int64_t n) {
    return pieces(k, PACK_ROWS) * pieces(n, PACK_COLUMNS);
}

/* The panels of B [k x n], `panel` elements apart. A panel of S^T reads rows of S from left to
 * right. So does S itself when a few of its rows go to all panels at a time; down a single panel
 * each of them would come from afar. */
static void make_panels(const moe_format *f, bool transposed, int64_t k, int64_t n,
                        const moe_real *from, int64_t ld, char *to, int64_t panel) {
    int64_t step = transposed ? k : PACK_STEP;
    for (int64_t i = 0; i < k; i += step)
        for (int64_t j = 0; j < n; j += MOE_PANEL) {
            int64_t rows = minimum(k - i, step), columns = minimum(n - j, MOE_PANEL);
            char *at = to + f->element * (size_t)(j / MOE_PANEL * panel + i * MOE_PANEL);
            if (transposed)
                f->right_transposed(rows, columns, from + j * ld, ld, at);
            else
                f->right(rows, columns, from + i * ld + j, ld, NULL, at);
        }
}

/* One panel, or less, of S^T in 16 bits: f32 in slices that stay in the first-level cache. */
static void right_widened(const moe_format *f, int64_t k, int64_t n, const uint16_t *from,
                          moe_widen_fn *widen, int64_t ld, char *to) {
    moe_real slice[MOE_PANEL * PACK_SLICE];
    for (int64_t i = 0; i < k; i += PACK_SLICE) {
        int64_t rows = minimum(k - i, PACK_SLICE);
        for (int64_t j = 0; j < n; j++) widen(rows, from + j * ld + i, slice + j * PACK_SLICE);
        f->right_transposed(rows, n, slice, PACK_SLICE, to + f->element * (size_t)(i * MOE_PANEL));
    }
}

void moe__pack_piece(const moe_format *f, bool transposed, int64_t k, int64_t n,
                     const void *from, moe_widen_fn *widen, int64_t ld, void *panels,
                     int64_t piece) {
    int64_t down = pieces(k, PACK_ROWS);
    int64_t i = piece % down * PACK_ROWS, rows = minimum(k - i, PACK_ROWS);
    int64_t j = piece / down * PACK_COLUMNS, end = minimum(n, j + PACK_COLUMNS);
    char *to = (char *)panels +
               f->element * (size_t)(j / MOE_PANEL * moe__panel(f, k) + i * MOE_PANEL);
    if (!widen) {
        const moe_real *first = (const moe_real *)from + (transposed ? j * ld + i : i * ld + j);
        make_panels(f, transposed, rows, end - j, first, ld, to, moe__panel(f, k));
        return;
    }
    for (; j < end; j += MOE_PANEL, to += f->element * (size_t)moe__panel(f, k))
        right_widened(f, rows, minimum(end - j, MOE_PANEL), (const uint16_t *)from + j * ld + i,
                      widen, ld, to);
}

/* ---- plans ---------------------------------------------------------------------------------- */

/* How each product of a batch is cut, and where its operands come from. */
typedef struct plan {
    const moe_format *f;
    int64_t batch;
    int64_t rows, columns, depth;       /* of a task */
    int64_t down, across, slices;       /* tasks of a product: the product of the three */
    int64_t group;                      /* products in a task; above 1 only when they are tasks */
    bool rearranges;                    /* A cannot be read as it lies */
    bool own_rows, own_panels;          /* rearranged by the task that needs them, ... */
    int64_t row_tasks, panel_tasks;     /* ... or by that many tasks before, for each product */
    size_t row_bytes, panel_bytes;      /* of a product, rearranged before */
    size_t part_bytes;                  /* of a product's slices but the first, which goes to C */
    size_t scratch;                     /* of a task; its panels begin at `panels` */
    size_t panels;
} plan;

static size_t aligned(size_t bytes) { return (bytes + 63) & ~(size_t)63; }

/* Long sums into a small C: B would pass through the cache once for each block of rows. What the
 * slices write beside C counts as well. */
static int64_t slices_of(const moe_gemm *g, int64_t tasks) {
    if (g->k < 2 * DEPTH || g->k < 2 * maximum(g->m, g->n)) return 1;
    int64_t most = minimum(minimum(tasks, SLICES), PARTS / (g->m * g->n));
    return maximum(1, minimum(g->k / DEPTH, most));
}

/* Blocks of few rows when B stays in the cache, of as many as stay there themselves when not. */
static int64_t rows_of(const moe_gemm *g) {
    int64_t most = g->k * g->n <= CACHED ? ROWS : BLOCK / minimum(g->k, DEPTH);
    int64_t even = pieces(g->m, pieces(g->m, maximum(most, ROWS)));
    return minimum(g->m, moe__round_up(even, STRIP / 2));
}

static void cut(const moe_gemm *g, plan *p) {
    int64_t tasks = pieces(TASKS, p->batch), panels = pieces(g->n, MOE_PANEL);
    p->slices = slices_of(g, tasks);
    p->rows = p->slices > 1 || tasks == 1 ? g->m : rows_of(g);
    p->down = pieces(g->m, p->rows);
    int64_t across = p->slices > 1 ? 1 : minimum(panels, pieces(tasks, p->down));
    p->columns = pieces(panels, across) * MOE_PANEL;
    p->across = pieces(g->n, p->columns);
    p->depth = moe__round_up(pieces(g->k, p->slices), DEPTH);
    p->slices = pieces(g->k, p->depth);
    p->group = p->down * p->across * p->slices > 1 ? 1 : pieces(p->batch, GROUPS);
}

static plan plan_of(const moe_ctx *ctx, const moe_gemm *g) {
    plan p = {.f = g->format ? g->format : ctx->kernels->f32, .batch = g->batch ? g->batch : 1};
    if (g->m == 0 || g->n == 0 || g->k == 0) return p;
    cut(g, &p);
    int64_t depth = minimum(g->k, DEPTH);
    p.rearranges = !p.f->direct || g->ta;
    p.own_rows = p.rearranges && p.across == 1;
    p.own_panels = !g->panels && p.down == 1 && p.columns * depth <= 2 * CACHED;
    if (p.rearranges && !p.own_rows) {
        p.row_tasks = pieces(g->m, STRIP);
        p.row_bytes = aligned(p.f->element * (size_t)moe__left_size(p.f, g->m, g->k));
    }
    if (!g->panels && !p.own_panels) {
        p.panel_tasks = moe__pack_pieces(g->k, g->n);
        p.panel_bytes = aligned(p.f->element * (size_t)moe__right_size(p.f, g->k, g->n));
    }
    int64_t strip = moe__round_up(minimum(p.rows, STRIP), p.f->rows);
    if (p.own_rows) p.panels = aligned(p.f->element * (size_t)(strip * moe__apart(p.f, depth)));
    p.scratch = p.panels;
    if (p.own_panels) p.scratch += p.f->element * (size_t)moe__right_size(p.f, depth, p.columns);
    p.part_bytes = sizeof(moe_real) * (size_t)((p.slices - 1) * g->m * g->n);
    return p;
}

static size_t shared_bytes(const plan *p) {
    return (size_t)p->batch * (p->row_bytes + p->panel_bytes + aligned(p->part_bytes));
}

/* ---- finding work --------------------------------------------------------------------------- */

typedef struct batch {
    moe_ctx *ctx;
    const moe_gemm *list;
    int64_t count;
    moe_scratch scratch;
    char *shared;               /* of each entry: its rows, its panels, its parts of C */
} batch;

/* One product of an entry, with the operands where they lie. */
typedef struct product {
    const moe_gemm *g;
    const plan *p;
    const moe_real *a, *b;
    moe_real *c;
    char *rows, *panels;        /* rearranged before, or to be rearranged now */
    moe_real *parts;            /* of the slices but the first */
} product;

static product product_of(const moe_gemm *g, const plan *p, char *shared, int64_t i) {
    char *panels = shared + (size_t)p->batch * p->row_bytes;
    char *parts = panels + (size_t)p->batch * p->panel_bytes;
    return (product){.g = g, .p = p, .a = g->a + i * g->step_a,
                     .b = g->panels ? NULL : g->b + i * g->step_b, .c = g->c + i * g->step_c,
                     .rows = shared + (size_t)i * p->row_bytes,
                     .panels = panels + (size_t)i * p->panel_bytes,
                     .parts = (void *)(parts + (size_t)i * aligned(p->part_bytes))};
}

typedef int64_t count_fn(const moe_gemm *g, const plan *p);

/* The entry that `task` belongs to; the task becomes its number in there. */
static const moe_gemm *entry_of(const batch *b, count_fn *count, int64_t *task, plan *p,
                                char **shared) {
    *shared = b->shared;
    for (const moe_gemm *g = b->list;; g++) {
        *p = plan_of(b->ctx, g);
        int64_t n = count(g, p);
        if (*task < n) return g;
        *task -= n;
        *shared += shared_bytes(p);
    }
}

static void run(batch *b, count_fn *count, moe_task_fn task) {
    int64_t n = 0;
    for (int64_t i = 0; i < b->count; i++) {
        plan p = plan_of(b->ctx, &b->list[i]);
        n += count(&b->list[i], &p);
    }
    moe__parallel(b->ctx, n, task, b);
}

/* ---- rearranging before --------------------------------------------------------------------- */

static int64_t prepare_count(const moe_gemm *g, const plan *p) {
    (void)g;
    return p->batch * (p->row_tasks + p->panel_tasks);
}

/* `m` rows of op(A) from row i and element `first` on, `ldto` apart. */
static void prepare_rows(const product *x, int64_t i, int64_t m, int64_t first, int64_t k,
                         char *to, int64_t ldto) {
    const moe_gemm *g = x->g;
    const moe_format *f = x->p->f;
    const moe_real *from = g->ta ? x->a + first * g->lda + i : x->a + i * g->lda + first;
    (g->ta ? f->left_transposed : f->left)(m, k, from, g->lda, NULL, NULL, to, ldto);
}

static void prepare_task(void *arg, int64_t task, int worker) {
    const batch *b = arg;
    plan p;
    char *shared;
    const moe_gemm *g = entry_of(b, prepare_count, &task, &p, &shared);
    int64_t each = p.row_tasks + p.panel_tasks, piece = task % each;
    product x = product_of(g, &p, shared, task / each);
    (void)worker;
    if (piece < p.panel_tasks) {
        moe__pack_piece(p.f, g->tb, g->k, g->n, x.b, NULL, g->ldb, x.panels, piece);
        return;
    }
    int64_t i = (piece - p.panel_tasks) * STRIP;
    prepare_rows(&x, i, minimum(g->m - i, STRIP), 0, g->k,
                 x.rows + p.f->element * (size_t)(i * moe__depth(p.f, g->k)),
                 moe__depth(p.f, g->k));
}

/* ---- multiplying ---------------------------------------------------------------------------- */

static int64_t multiply_count(const moe_gemm *g, const plan *p) {
    if (g->k == 0 && g->beta == 0 && g->m && g->n) return p->batch;     /* C becomes 0 */
    int64_t each = p->down * p->across * p->slices;
    return each > 1 ? p->batch * each : each ? pieces(p->batch, p->group) : 0;
}

/* What a task has to do: C (+)= A B for m rows from i, n columns from j, k from `first` on. */
typedef struct block {
    int64_t i, m, j, n, first, k;
    moe_real *c;
    int64_t ldc;
    bool add;
    char *rows, *panels;        /* scratch */
} block;

static block block_of(const product *x, int64_t task) {
    const plan *p = x->p;
    int64_t slice = task % p->slices, tile = task / p->slices;
    block b = {.i = tile / p->across * p->rows, .j = tile % p->across * p->columns,
               .first = slice * p->depth, .c = x->c, .ldc = x->g->ldc, .add = x->g->beta != 0};
    b.m = minimum(x->g->m - b.i, p->rows);
    b.n = minimum(x->g->n - b.j, p->columns);
    b.k = minimum(x->g->k - b.first, p->depth);
    if (slice) {
        b.c = x->parts + (slice - 1) * x->g->m * x->g->n;
        b.ldc = x->g->n;
        b.add = false;
    }
    b.c += b.i * b.ldc + b.j;
    return b;
}

/* The right operand of a step through k. */
static void find_panels(const product *x, const block *b, int64_t first, moe_product *m) {
    const moe_gemm *g = x->g;
    const moe_format *f = x->p->f;
    if (x->p->own_panels) {
        m->b = b->panels;
        m->panel = moe__panel(f, m->k);
        make_panels(f, g->tb, m->k, b->n,
                    x->b + (g->tb ? b->j * g->ldb + first : first * g->ldb + b->j), g->ldb,
                    b->panels, m->panel);
        return;
    }
    m->panel = moe__panel(f, g->k);
    m->b = (const char *)(g->panels ? g->panels : x->panels) +
           f->element * (size_t)(b->j / MOE_PANEL * m->panel + first * MOE_PANEL);
}

/* The left operand of a step, for m->m rows from row i of C on. */
static void find_rows(const product *x, const block *b, int64_t i, int64_t first, moe_product *m) {
    const moe_format *f = x->p->f;
    if (x->p->own_rows) {
        m->a = b->rows;
        m->lda = moe__apart(f, m->k);
        prepare_rows(x, i, m->m, first, m->k, b->rows, m->lda);
    } else if (x->p->rearranges) {
        m->lda = moe__depth(f, x->g->k);
        m->a = x->rows + f->element * (size_t)(i * m->lda + first);
    } else {
        m->lda = x->g->lda;
        m->a = x->a + i * m->lda + first;
    }
}

static void multiply(const product *x, const block *b) {
    int64_t strip = x->p->own_rows ? STRIP : b->m;
    for (int64_t at = 0; at < b->k; at += DEPTH) {
        moe_product m = {.n = b->n, .k = minimum(b->k - at, DEPTH), .ldc = b->ldc,
                         .add = b->add || at};
        find_panels(x, b, b->first + at, &m);
        for (int64_t i = 0; i < b->m; i += strip) {
            m.m = minimum(b->m - i, strip);
            m.c = b->c + i * b->ldc;
            find_rows(x, b, b->i + i, b->first + at, &m);
            x->p->f->multiply(&m);
        }
    }
}

static void clear(const product *x) {
    for (int64_t i = 0; i < x->g->m; i++)
        memset(x->c + i * x->g->ldc, 0, sizeof *x->c * (size_t)x->g->n);
}

static void multiply_task(void *arg, int64_t task, int worker) {
    const batch *b = arg;
    char *shared, *scratch = (char *)moe__scratch_of(&b->scratch, worker);
    plan p;
    const moe_gemm *g = entry_of(b, multiply_count, &task, &p, &shared);
    int64_t each = maximum(1, p.down * p.across * p.slices), group = maximum(1, p.group);
    int64_t first = task / each * group, end = minimum(p.batch, first + group);
    for (int64_t i = first; i < end; i++) {
        product x = product_of(g, &p, shared, i);
        if (g->k == 0) {
            clear(&x);
            continue;
        }
        block w = block_of(&x, task % each);
        w.rows = scratch;
        w.panels = scratch + p.panels;
        multiply(&x, &w);
    }
}

/* ---- adding the slices up ------------------------------------------------------------------- */

static int64_t sum_count(const moe_gemm *g, const plan *p) {
    return p->slices > 1 ? p->batch * pieces(g->m, STRIP / 4) : 0;
}

static void sum_task(void *arg, int64_t task, int worker) {
    const batch *b = arg;
    plan p;
    char *shared;
    const moe_gemm *g = entry_of(b, sum_count, &task, &p, &shared);
    int64_t each = pieces(g->m, STRIP / 4), i = task % each * (STRIP / 4);
    product x = product_of(g, &p, shared, task / each);
    (void)worker;
    for (int64_t end = minimum(g->m, i + STRIP / 4); i < end; i++)
        for (int64_t s = 0; s < p.slices - 1; s++)
            b->ctx->kernels->accumulate(g->n, x.parts + (s * g->m + i) * g->n, x.c + i * g->ldc);
}

/* ---- batches -------------------------------------------------------------------------------- */

static moe_status reserve(batch *b) {
    size_t shared = 0, each = 0;
    for (int64_t i = 0; i < b->count; i++) {
        plan p = plan_of(b->ctx, &b->list[i]);
        shared += shared_bytes(&p);
        each = p.scratch > each ? p.scratch : each;
    }
    moe_status s = moe__scratch(b->ctx, each, &b->scratch);
    return s ? s : moe__shared(b->ctx, shared, &b->shared);
}

moe_status moe__gemm_reserve(moe_ctx *ctx, int64_t count, const moe_gemm *list) {
    return reserve(&(batch){.ctx = ctx, .list = list, .count = count});
}

moe_status moe__gemm_batch(moe_ctx *ctx, int64_t count, const moe_gemm *list) {
    batch b = {.ctx = ctx, .list = list, .count = count};
    moe_status s = reserve(&b);
    if (s) return s;
    run(&b, prepare_count, prepare_task);
    run(&b, multiply_count, multiply_task);
    run(&b, sum_count, sum_task);
    return MOE_OK;
}

moe_status moe__gemm_parallel(moe_ctx *ctx, const moe_gemm *g) {
    return moe__gemm_batch(ctx, 1, g);
}
