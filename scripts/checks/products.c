/* products.c -- the matrix products of one kernel variant against three plain loops.
 *
 *   check_products VARIANT f32|bf16
 *
 * Says `absent` when this processor cannot run the variant, one line for each wrong result, and
 * `N products` at the end. Sources are as large as they have to be and begin anywhere, so that a
 * sanitizer sees whoever reads too much; results and packed operands have guards around them.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/ctx.h"
#include "kernels/kernels.h"

static const moe_format *format;
static bool narrow;                     /* operands are bf16 */
static int products, failures;

#define WRONG(...) (failures++, printf(__VA_ARGS__), putchar('\n'))

static void *zeroed(size_t bytes) {
    void *p = calloc(bytes ? bytes : 1, 1);
    if (p) return p;
    fputs("no memory\n", stderr);
    exit(1);
}

/* ---- numbers -------------------------------------------------------------------------------- */

static uint32_t draw(uint32_t below) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % below;
}
static moe_real whole(void) { return (moe_real)draw(9) - 4; }
static moe_real fraction(void) { return (moe_real)draw(1u << 24) / (1 << 23) - 1; }

/* To the nearest bf16, ties to even. */
static moe_real rounded(moe_real given) {
    float x = (float)given;
    uint32_t u;
    if (!narrow || x != x) return given;
    memcpy(&u, &x, sizeof u);
    u = (u + 0x7fff + ((u >> 16) & 1)) & 0xffff0000;
    memcpy(&x, &u, sizeof u);
    return x;
}

/* Element i of a packed operand. */
static moe_real element(const void *packed, int64_t i) {
    float x;
    if (!narrow) return ((const moe_real *)packed)[i];
    uint32_t u = (uint32_t)((const uint16_t *)packed)[i] << 16;
    memcpy(&x, &u, sizeof u);
    return x;
}

/* ---- operands ------------------------------------------------------------------------------- */

/* A matrix as a source holds it: rows apart by more than their length, in memory that ends with the
 * last element. */
typedef struct source {
    int64_t rows, columns, ld;
    moe_real *memory, *at;
} source;

static source source_of(int64_t rows, int64_t columns, moe_real (*number)(void)) {
    source s = {.rows = rows, .columns = columns, .ld = columns + draw(4)};
    int64_t offset = draw(4), size = rows ? (rows - 1) * s.ld + columns : 0;
    s.memory = zeroed(sizeof *s.at * (size_t)(offset + size));
    s.at = s.memory + offset;
    for (int64_t i = 0; i < size; i++) s.at[i] = number();
    return s;
}

/* How an operand is taken from its source. */
typedef struct way {
    bool direct, turned, gathered, scaled;
} way;

/* An operand [m x k] or [k x n], as it is meant and as it was taken. */
typedef struct operand {
    way way;
    source from;
    int32_t *index;
    moe_real *scale;
    moe_real *meant;            /* rows x columns */
} operand;

static operand operand_of(int64_t rows, int64_t columns, way w, moe_real (*number)(void)) {
    operand o = {.way = w, .meant = zeroed(sizeof *o.meant * (size_t)(rows * columns))};
    int64_t lines = w.turned ? columns : rows, length = w.turned ? rows : columns;
    o.from = source_of(w.gathered ? lines / 2 + 1 : lines, length, number);
    if (w.gathered) o.index = zeroed(sizeof *o.index * (size_t)lines);
    if (w.scaled) o.scale = zeroed(sizeof *o.scale * (size_t)lines);
    for (int64_t l = 0; l < lines; l++) {
        if (w.gathered) o.index[l] = (int32_t)draw((uint32_t)o.from.rows);
        if (w.scaled) o.scale[l] = (moe_real)(1 << draw(3)) / 2 * (draw(2) ? 1 : -1);
        for (int64_t e = 0; e < length; e++)
            o.meant[w.turned ? e * columns + l : l * columns + e] =
                rounded(o.from.at[(w.gathered ? o.index[l] : l) * o.from.ld + e] *
                        (w.scaled ? o.scale[l] : 1));
    }
    return o;
}

static void operand_free(operand *o) {
    free(o->from.memory);
    free(o->index);
    free(o->scale);
    free(o->meant);
}

enum { GUARD = 64 };            /* bytes before and after whatever is written */

static unsigned char *guarded(size_t bytes) {
    unsigned char *p = aligned_alloc(64, (bytes + 2 * GUARD + 63) / 64 * 64);
    if (!p) exit(1);
    memset(p, 0xff, bytes + 2 * GUARD);
    return p + GUARD;
}
static void check_guards(const char *what, unsigned char *p, size_t bytes) {
    bool intact = true;
    for (int i = 1; i <= GUARD; i++) intact = intact && p[-i] == 0xff;
    for (int i = 0; i < GUARD; i++) intact = intact && p[bytes + (size_t)i] == 0xff;
    if (!intact) WRONG("%s: written outside", what);
    free(p - GUARD);
}

static size_t left_bytes(int64_t m, int64_t k) {
    return format->element * (size_t)moe__left_size(format, m, k);
}
static size_t right_bytes(int64_t k, int64_t n) {
    return format->element * (size_t)moe__right_size(format, k, n);
}

/* Rows past m stay as they are: full of NaN. */
static void take_left(const operand *o, int64_t m, int64_t k, void *to) {
    (o->way.turned ? format->left_transposed : format->left)(
        m, k, o->from.at, o->from.ld, o->index, o->scale, to, moe__depth(format, k));
}

static void take_right(const operand *o, int64_t k, int64_t n, void *to) {
    if (o->way.turned)
        format->right_transposed(k, n, o->from.at, o->from.ld, to);
    else
        format->right(k, n, o->from.at, o->from.ld, o->index, to);
}

/* What a panel has past n, and past k if k is filled up, is 0. */
static void check_panels(const char *name, const void *packed, int64_t k, int64_t n) {
    int64_t step = narrow ? 2 : 1, panel = moe__panel(format, k);
    for (int64_t p = 0; p < moe__depth(format, k); p++)
        for (int64_t j = 0; j < moe__round_up(n, MOE_PANEL); j++) {
            int64_t at = j / MOE_PANEL * panel + p / step * step * MOE_PANEL +
                         j % MOE_PANEL * step + p % step;
            if ((p >= k || j >= n) && element(packed, at) != 0) {
                WRONG("%s: row %d, column %d of the panels is not 0", name, (int)p, (int)j);
                return;
            }
        }
}

/* ---- one product ---------------------------------------------------------------------------- */

typedef struct trial {
    int64_t m, n, k;
    way left, right;
    bool add, split;            /* split: in two steps of k */
    bool exact;                 /* whole numbers: every sum is exact */
} trial;

/* C (+)= A B by the format, k in one or two steps. */
static void multiply(const trial *t, const operand *a, const void *rows, const void *panels,
                     moe_real *c, int64_t ldc) {
    moe_product p = {.m = t->m, .n = t->n, .k = t->k, .a = rows,
                     .lda = moe__depth(format, t->k), .b = panels,
                     .panel = moe__panel(format, t->k), .c = c, .ldc = ldc, .add = t->add};
    if (t->left.direct) {
        p.a = a->from.at;
        p.lda = a->from.ld;
        p.turned = t->left.turned;
    }
    int64_t first = t->split ? t->k / 2 / format->depth * format->depth : 0;
    if (first) {
        p.k = first;
        format->multiply(&p);
        p.a = (const char *)p.a + format->element * (size_t)(p.turned ? first * p.lda : first);
        p.b = (const char *)p.b + format->element * (size_t)(first * MOE_PANEL);
        p.k = t->k - first;
        p.add = true;
    }
    format->multiply(&p);
}

static void compare(const trial *t, const char *name, const moe_real *a, const moe_real *b,
                    const moe_real *before, const moe_real *c, int64_t ldc) {
    const double eps = MOE_REAL_IS_DOUBLE ? 0x1p-52 : 0x1p-23;
    for (int64_t i = 0; i < t->m; i++)
        for (int64_t j = 0; j < t->n; j++) {
            double sum = t->add ? (double)before[i * ldc + j] : 0, size = fabs(sum);
            for (int64_t p = 0; p < t->k; p++) {
                double term = (double)a[i * t->k + p] * (double)b[p * t->n + j];
                sum += term;
                size += fabs(term);
            }
            double bound = t->exact ? 0 : (double)(t->k + 2) * eps * size;
            double got = (double)c[i * ldc + j];
            if (fabs(got - sum) <= bound) continue;
            WRONG("%s: row %d, column %d is %g, not %g", name, (int)i, (int)j, got, sum);
            return;
        }
}

/* Between the rows of C stands what stood there before. */
static void check_between(const trial *t, const char *name, const moe_real *before,
                          const moe_real *c, int64_t ldc) {
    for (int64_t i = 0; i + 1 < t->m; i++)
        if (memcmp(c + i * ldc + t->n, before + i * ldc + t->n,
                   sizeof *c * (size_t)(ldc - t->n))) {
            WRONG("%s: written behind row %d", name, (int)i);
            return;
        }
}

static void try(const trial *t) {
    moe_real (*number)(void) = t->exact ? whole : fraction;
    operand a = operand_of(t->m, t->k, t->left, number);
    operand b = operand_of(t->k, t->n, t->right, number);
    unsigned char *rows = guarded(left_bytes(t->m, t->k));
    unsigned char *panels = guarded(right_bytes(t->k, t->n));
    int64_t ldc = t->n + draw(4);
    size_t bytes = sizeof(moe_real) * (size_t)(t->m ? (t->m - 1) * ldc + t->n : 0);
    unsigned char *c = guarded(bytes);
    source before = source_of(1, (int64_t)(bytes / sizeof(moe_real)), number);
    memcpy(c, before.at, bytes);

    char name[128];
    snprintf(name, sizeof name, "%d x %d x %d, left%s%s%s%s, right%s%s%s%s", (int)t->m, (int)t->n,
             (int)t->k, t->left.direct ? " direct" : "", t->left.turned ? " turned" : "",
             t->left.gathered ? " gathered" : "", t->left.scaled ? " scaled" : "",
             t->right.turned ? " turned" : "", t->right.gathered ? " gathered" : "",
             t->add ? ", added" : "", t->split ? ", in two" : "");
    if (!t->left.direct) take_left(&a, t->m, t->k, rows);
    take_right(&b, t->k, t->n, panels);
    check_panels(name, panels, t->k, t->n);
    multiply(t, &a, rows, panels, (moe_real *)c, ldc);
    compare(t, name, a.meant, b.meant, before.at, (const moe_real *)c, ldc);
    check_between(t, name, before.at, (const moe_real *)c, ldc);
    products++;

    check_guards(name, rows, left_bytes(t->m, t->k));
    check_guards(name, panels, right_bytes(t->k, t->n));
    check_guards(name, c, bytes);
    operand_free(&a);
    operand_free(&b);
    free(before.memory);
}

/* ---- many products -------------------------------------------------------------------------- */

/* The ways of both sides, with and without adding and splitting, one after the other: their number
 * has no factor in common with the number of shapes in a row, so that all meet all. */
static trial next(int64_t m, int64_t n, int64_t k, bool exact) {
    static const way left[] = {{.direct = true}, {0}, {.gathered = true, .scaled = true},
                               {.turned = true}, {.turned = true, .gathered = true, .scaled = true},
                               {.scaled = true}, {.gathered = true},
                               {.direct = true, .turned = true}, {.turned = true, .scaled = true},
                               {.turned = true, .gathered = true}, {.direct = true}};
    static const way right[] = {{0}, {.gathered = true}, {.turned = true}};
    static unsigned turn;
    turn++;
    trial t = {.m = m, .n = n, .k = k, .left = left[turn % 11], .right = right[turn % 3],
               .add = draw(2), .split = draw(2), .exact = exact};
    if (!format->direct) t.left.direct = false;
    return t;
}

static void shapes(void) {
    static const int64_t n[] = {1, 15, 16, 17, 31, 32, 33, 63, 65, 100};
    static const int64_t k[] = {1, 2, 3, 31, 33, 47, 64, 65, 300};
    for (int64_t m = 1; m <= 70; m++)
        for (size_t j = 0; j < sizeof n / sizeof *n; j++)
            for (size_t p = 0; p < sizeof k / sizeof *k; p++) {
                trial t = next(m, n[j], k[p], true);
                try(&t);
            }
    for (int i = 0; i < 300; i++) {
        trial t = next(1 + draw(70), 1 + draw(100), 1 + draw(i < 250 ? 300 : 1500), false);
        try(&t);
    }
}

static void empty(void) {
    for (int i = 0; i < 100; i++) {
        trial t = next(draw(2) * draw(40), draw(2) * draw(40), draw(2) * draw(40), true);
        try(&t);
    }
}

/* ---- numbers that are none ------------------------------------------------------------------ */

enum { SIDE = 40 };

/* C [SIDE x SIDE] = A B; both made of rows. */
static void product(const moe_real *a, const moe_real *b, moe_real *c) {
    unsigned char *rows = guarded(left_bytes(SIDE, SIDE));
    unsigned char *panels = guarded(right_bytes(SIDE, SIDE));
    format->left(SIDE, SIDE, a, SIDE, NULL, NULL, rows, moe__depth(format, SIDE));
    format->right(SIDE, SIDE, b, SIDE, NULL, panels);
    format->multiply(&(moe_product){.m = SIDE, .n = SIDE, .k = SIDE, .a = rows,
                                    .lda = moe__depth(format, SIDE), .b = panels,
                                    .panel = moe__panel(format, SIDE), .c = c, .ldc = SIDE});
    free(rows - GUARD);
    free(panels - GUARD);
    products++;
}

/* One in A spoils a row, one in B a column, and nothing else; row and column differ. */
static void check_spoilt(moe_real bad, int64_t row, int64_t column) {
    moe_real a[SIDE * SIDE], b[SIDE * SIDE], c[SIDE * SIDE];
    for (int i = 0; i < SIDE * SIDE; i++) a[i] = b[i] = 1;
    a[row * SIDE + column] = b[row * SIDE + column] = bad;
    product(a, b, c);
    for (int64_t i = 0; i < SIDE; i++)
        for (int64_t j = 0; j < SIDE; j++) {
            moe_real got = c[i * SIDE + j];
            bool spoilt = i == row || j == column;
            bool good = !spoilt ? got == SIDE : isnan(bad) ? isnan(got) : got == bad;
            if (!good) WRONG("%g at %d, %d makes %g of row %d, column %d", (double)bad, (int)row,
                             (int)column, (double)got, (int)i, (int)j);
        }
}

static float from_bits(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* A times the identity shows how operands are rounded. */
static void rounding(void) {
    static const uint32_t given[] = {
        0x3f800000, 0x3f808000, 0x3f808001, 0x3f818000, 0x3f817fff, 0xbf808000, 0xbf818000,
        0x7f7f7fff, 0x7f7f8000, 0x7f7fffff, 0x00800000, 0x80800000, 0x4b7fffff, 0xc2f6e979};
    enum { COUNT = sizeof given / sizeof *given };
    moe_real a[SIDE * SIDE] = {0}, b[SIDE * SIDE] = {0}, c[SIDE * SIDE];
    for (int i = 0; i < SIDE; i++) {
        b[i * SIDE + i] = 1;
        a[i * SIDE + i] = from_bits(given[i % COUNT]);
    }
    product(a, b, c);
    for (int i = 0; i < SIDE; i++) {
        moe_real want = rounded(a[i * SIDE + i]), got = c[i * SIDE + i];
        if (got != want) WRONG("%a becomes %a, not %a", (double)a[i * SIDE + i], (double)got,
                               (double)want);
    }
}

static void special(void) {
    const moe_real inf = (moe_real)INFINITY;
    const moe_real bad[] = {inf, -inf, (moe_real)NAN, from_bits(0x7f800001), from_bits(0xffffffff)};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        check_spoilt(bad[i], 0, 1);
        check_spoilt(bad[i], SIDE - 1, SIDE - 2);
        check_spoilt(bad[i], 17, 33);
    }
}

int main(int argc, char **argv) {
    const moe_kernels *kernels = argc == 3 ? moe__kernels_select(argv[1]) : NULL;
    narrow = argc == 3 && !strcmp(argv[2], "bf16");
    format = kernels ? narrow ? kernels->bf16 : kernels->f32 : NULL;
    if (!format) {
        puts("absent");
        return 0;
    }
    shapes();
    empty();
    special();
    if (!MOE_REAL_IS_DOUBLE) rounding();
    printf("%d products\n", products);
    return failures ? 1 : 0;
}
