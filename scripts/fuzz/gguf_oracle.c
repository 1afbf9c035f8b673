/* gguf_oracle.c -- an opinion of its own on GGUF files.
 *
 * It reads the file that was taken once more, with its own table of types and its own UTF-8, and
 * multiplies in 128 bits, where nothing that a reader may accept overflows.
 */
#include "gguf_oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/ctx.h"
#include "utf8.h"

#define REQUIRE(condition) ((condition) ? (void)0 : violation("not true: " #condition))

typedef unsigned __int128 wide;

typedef struct cursor {
    const uint8_t *bytes;
    wide at, size;
} cursor;

/* --- the bytes ------------------------------------------------------------------------------- */

static uint64_t number(cursor *c, unsigned size) {
    uint64_t value = 0;
    REQUIRE(c->at + size <= c->size);
    for (unsigned i = 0; i < size; i++) value |= (uint64_t)c->bytes[(size_t)c->at + i] << 8 * i;
    c->at += size;
    return value;
}

static moe_slice string(cursor *c) {
    uint64_t size = number(c, 8);
    REQUIRE(c->at + size <= c->size);
    moe_slice text = {(const char *)c->bytes + (size_t)c->at, (size_t)size};
    c->at += size;
    return text;
}

static void check_name(moe_slice name, size_t most) {
    REQUIRE(name.size > 0 && name.size <= most && is_utf8(name.data, name.size));
    for (size_t i = 0; i < name.size; i++) REQUIRE(name.data[i] != 0);
}

static bool same(moe_slice a, moe_slice b) {
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

/* --- the pairs ------------------------------------------------------------------------------- */

static const moe_gguf_pair *find_pair(const moe_gguf *f, moe_slice key) {
    const moe_gguf_pair *pairs;
    size_t n = moe__gguf_pairs(f, &pairs), found = n;
    for (size_t i = 0; i < n; i++) {
        if (!same(pairs[i].key, key)) continue;
        REQUIRE(found == n);
        found = i;
    }
    REQUIRE(found < n);
    return &pairs[found];
}

static void skip_value(cursor *c, uint32_t type) {
    static const unsigned sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    REQUIRE(type <= 12 && type != 9);
    if (type == 8) {
        string(c);
        return;
    }
    uint64_t value = number(c, sizes[type]);
    REQUIRE(type != 7 || value <= 1);
}

/* The alignment, if this is it; else what it was. */
static uint64_t check_pair(const moe_gguf *f, cursor *c, uint64_t alignment) {
    moe_slice key = string(c);
    check_name(key, 65535);
    const moe_gguf_pair *pair = find_pair(f, key);
    uint32_t type = (uint32_t)number(c, 4);
    bool array = type == 9;
    if (array) type = (uint32_t)number(c, 4);
    uint64_t count = array ? number(c, 8) : 1;
    REQUIRE(pair->array == array && (uint32_t)pair->type == type && pair->count == count);
    wide begin = c->at;
    for (uint64_t i = 0; i < count; i++) skip_value(c, type);
    REQUIRE(pair->bytes == c->at - begin);
    REQUIRE(memcmp(pair->data, c->bytes + (size_t)begin, pair->bytes) == 0);
    if (!same(key, (moe_slice){"general.alignment", 17})) return alignment;
    REQUIRE(!array && type == 4);
    uint32_t value;
    memcpy(&value, pair->data, 4);
    REQUIRE(value != 0 && (value & (value - 1)) == 0);
    return value;
}

/* --- the tensors ----------------------------------------------------------------------------- */

typedef struct block { unsigned elements, bytes; } block;

static block block_of(uint32_t type) {
    static const struct { uint32_t type; block block; } known[] = {
        {0, {1, 4}},      {1, {1, 2}},      {2, {32, 18}},    {3, {32, 20}},    {6, {32, 22}},
        {7, {32, 24}},    {8, {32, 34}},    {10, {256, 84}},  {11, {256, 110}}, {12, {256, 144}},
        {13, {256, 176}}, {14, {256, 210}}, {24, {1, 1}},     {25, {1, 2}},     {26, {1, 4}},
        {27, {1, 8}},     {28, {1, 8}},     {30, {1, 2}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].type == type) return known[i].block;
    violation("a type of elements that nobody knows");
}

static const moe_entry *find_entry(const moe_gguf *f, moe_slice name) {
    const moe_entry *entries;
    size_t n = moe__gguf_entries(f, &entries), found = n;
    for (size_t i = 0; i < n; i++) {
        if (!same(entries[i].name, name)) continue;
        REQUIRE(found == n);
        found = i;
    }
    REQUIRE(found < n);
    return &entries[found];
}

/* Elements in 128 bits, where a number above 64 bits stays one. */
static wide count_of(const moe_entry *e) {
    wide n = 1;
    for (uint32_t i = 0; i < e->rank; i++)
        if (e->shape[i] == 0) return 0;
    for (uint32_t i = 0; i < e->rank; i++) {
        n *= e->shape[i];
        REQUIRE(n <= UINT64_MAX);
    }
    return n;
}

/* Reads one tensor; its data is checked when it is known where that begins. */
static wide check_entry(const moe_gguf *f, cursor *c, wide *offset, const moe_entry **out) {
    moe_slice name = string(c);
    check_name(name, 63);
    const moe_entry *e = *out = find_entry(f, name);
    uint32_t rank = (uint32_t)number(c, 4);
    REQUIRE(rank <= 4 && e->rank == rank);
    for (uint32_t i = 0; i < rank; i++) {
        uint64_t size = number(c, 8);
        REQUIRE(size <= INT64_MAX && e->shape[rank - 1 - i] == size);
    }
    uint32_t type = (uint32_t)number(c, 4);
    block b = block_of(type);
    uint64_t row = rank ? e->shape[rank - 1] : 1;
    REQUIRE(moe__gguf_number(e->type) == type && row % b.elements == 0);
    wide bytes = count_of(e) / b.elements * b.bytes;
    REQUIRE(e->bytes == bytes);
    *offset = number(c, 8);
    return bytes;
}

/* Tensors lie in the order of the header without holes, up to the end of the file. */
static void check_layout(const moe_gguf *f, cursor *c, uint64_t count, uint64_t alignment) {
    const moe_entry **order = malloc((size_t)(count + 1) * sizeof *order);
    wide end = 0, last = 0, offset;
    if (!order) violation("no memory for the oracle");
    for (uint64_t i = 0; i < count; i++) {
        wide bytes = check_entry(f, c, &offset, &order[i]);
        REQUIRE(offset == end);
        last = end + bytes;
        end = (last + alignment - 1) / alignment * alignment;
    }
    wide header = c->at, begin = (header + alignment - 1) / alignment * alignment, at = begin;
    for (uint64_t i = 0; i < count; i++) {
        REQUIRE(order[i]->at == at && at + order[i]->bytes <= c->size);
        REQUIRE((const uint8_t *)order[i]->data == c->bytes + (size_t)at);
        at = (at + order[i]->bytes - begin + alignment - 1) / alignment * alignment + begin;
    }
    free(order);
    REQUIRE(c->size == (count ? begin + last : header) || c->size == begin + end);
}

static void check_order(const moe_gguf *f) {
    const moe_entry *e;
    const moe_gguf_pair *p;
    size_t n = moe__gguf_entries(f, &e), m = moe__gguf_pairs(f, &p);
    for (size_t i = 1; i < n; i++) REQUIRE(moe__slice_compare(e[i - 1].name, e[i].name) < 0);
    for (size_t i = 1; i < m; i++) REQUIRE(moe__slice_compare(p[i - 1].key, p[i].key) < 0);
}

void check_tables(const moe_gguf *f, const uint8_t *bytes, size_t size) {
    cursor c = {bytes, 0, size};
    const moe_entry *entries;
    const moe_gguf_pair *pairs;
    uint64_t alignment = 32;
    REQUIRE(number(&c, 4) == 0x46554747);
    uint64_t version = number(&c, 4), ntensors = number(&c, 8), npairs = number(&c, 8);
    REQUIRE(version == 2 || version == 3);
    REQUIRE(moe__gguf_entries(f, &entries) == ntensors && moe__gguf_pairs(f, &pairs) == npairs);
    for (uint64_t i = 0; i < npairs; i++) alignment = check_pair(f, &c, alignment);
    check_layout(f, &c, ntensors, alignment);
    check_order(f);
}

void check_equal(const moe_gguf *a, const moe_gguf *b) {
    const moe_entry *x, *y;
    const moe_gguf_pair *p, *q;
    size_t n = moe__gguf_entries(a, &x), m = moe__gguf_pairs(a, &p);
    REQUIRE(moe__gguf_entries(b, &y) == n && moe__gguf_pairs(b, &q) == m);
    for (size_t i = 0; i < n; i++) {
        REQUIRE(same(x[i].name, y[i].name) && x[i].type == y[i].type && x[i].rank == y[i].rank);
        REQUIRE(memcmp(x[i].shape, y[i].shape, x[i].rank * sizeof *x[i].shape) == 0);
        REQUIRE(x[i].bytes == y[i].bytes);
        REQUIRE(x[i].bytes == 0 || memcmp(x[i].data, y[i].data, (size_t)x[i].bytes) == 0);
    }
    for (size_t i = 0; i < m; i++) {
        REQUIRE(same(p[i].key, q[i].key) && p[i].type == q[i].type && p[i].array == q[i].array);
        REQUIRE(p[i].count == q[i].count && p[i].bytes == q[i].bytes);
        REQUIRE(p[i].bytes == 0 || memcmp(p[i].data, q[i].data, p[i].bytes) == 0);
    }
}

/* --- elements -------------------------------------------------------------------------------- */

static double half_at(const uint8_t *p) {
    int word = p[0] | p[1] << 8, mantissa = word & 1023, exponent = word >> 10 & 31;
    double sign = word & 0x8000 ? -1 : 1;
    if (exponent == 31) return mantissa ? (double)NAN : sign * (double)INFINITY;
    return exponent ? sign * ldexp(mantissa + 1024, exponent - 25) : sign * ldexp(mantissa, -24);
}

/* Those whose arithmetic is one product or none; true when this is one of them. */
static bool expected(const moe_entry *e, size_t i, double *out) {
    const uint8_t *data = e->data;
    float single;
    uint32_t wide_bits;
    switch (e->type) {
        case MOE_STORED_F16: *out = half_at(data + 2 * i); return true;
        case MOE_STORED_BF16:
            wide_bits = ((uint32_t)data[2 * i] | (uint32_t)data[2 * i + 1] << 8) << 16;
            memcpy(&single, &wide_bits, 4);
            *out = (double)single;
            return true;
        case MOE_STORED_F32:
            memcpy(&single, data + 4 * i, 4);
            *out = (double)single;
            return true;
        case MOE_STORED_I8: *out = (int8_t)data[i]; return true;
        case MOE_STORED_Q8_0:
            data += i / 32 * 34;
            *out = (double)((float)half_at(data) * (float)(int8_t)data[2 + i % 32]);
            return true;
        case MOE_STORED_Q4_0:
            data += i / 32 * 18;
            *out = (double)((float)half_at(data) *
                            (float)((data[2 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) - 8));
            return true;
        default: return false;
    }
}

static void check_numbers(const moe_entry *e, moe_tensor *t) {
    const moe_real *reals = moe_tensor_data(t);
    const int32_t *ints = moe_tensor_data(t);
    double wanted;
    for (size_t i = 0; i < (size_t)moe_tensor_count(t); i++) {
        if (!expected(e, i, &wanted)) return;
        double got = moe_tensor_dtype(t) == MOE_I32 ? ints[i] : (double)reals[i];
        REQUIRE(got == wanted || (isnan(got) && isnan(wanted)));
    }
}

void check_elements(moe_ctx *ctx, const moe_gguf *f) {
    static const moe_dtype narrow[] = {MOE_BF16, MOE_F16};
    const moe_entry *e;
    size_t n = moe__gguf_entries(f, &e);
    for (size_t i = 0; i < n; i++) {
        moe_tensor *t;
        moe_dtype as = moe__stored_compute(e[i].type);
        wide count = count_of(&e[i]);
        if (count > 512) continue;      /* the time goes into elements otherwise */
        moe_status s = moe__entry_tensor(ctx, "made up", NULL, &e[i], as, &t);
        REQUIRE(s == MOE_OK || s == MOE_EUNSUPPORTED);
        if (s != MOE_OK) continue;
        REQUIRE((wide)moe_tensor_count(t) == count);
        check_numbers(&e[i], t);
        moe_tensor_release(t);
        if (as != MOE_F32 || i % 4) continue;
        s = moe__entry_tensor(ctx, "made up", NULL, &e[i], narrow[i / 4 % 2], &t);
        REQUIRE(s == MOE_OK && (wide)moe_tensor_count(t) == count);
        moe_tensor_release(t);
    }
}
