/* oracle.c -- an opinion of its own on safetensors files.
 *
 * It shares no code with the reader: it has its own table of types, its own UTF-8, its own
 * conversions, and multiplies in 128 bits, where nothing that a reader may accept overflows.
 */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/ctx.h"
#include "utf8.h"

#define REQUIRE(condition) ((condition) ? (void)0 : violation("not true: " #condition))

/* --- texts ----------------------------------------------------------------------------------- */

static bool before(moe_slice a, moe_slice b) {
    for (size_t i = 0; i < a.size && i < b.size; i++)
        if (a.data[i] != b.data[i]) return (unsigned char)a.data[i] < (unsigned char)b.data[i];
    return a.size < b.size;
}

static bool equal(moe_slice a, const text *b) {
    return a.size == b->size && memcmp(a.data, b->data, b->size) == 0;
}

/* --- the table ------------------------------------------------------------------------------- */

static const element_type *type_of(const moe_stored_tensor *t) {
    const char *name = moe__stored_name(t->type);
    for (unsigned i = 0; i < ELEMENT_TYPES; i++)
        if (strcmp(element_types[i].name, name) == 0) return &element_types[i];
    violation("a type that safetensors does not have");
}

/* Elements in 128 bits, where a size above 64 bits stays one. */
static wide elements_of(const moe_safetensors *f, const moe_stored_tensor *t) {
    const uint64_t *shape = moe__safetensors_shape(f, t);
    wide n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        if (shape[i] == 0) return 0;
    for (uint32_t i = 0; i < t->rank; i++) {
        n *= shape[i];
        REQUIRE(n <= UINT64_MAX);
    }
    return n;
}

static void check_tensor(const moe_safetensors *f, const moe_stored_tensor *t, uint64_t data_size) {
    const uint64_t *shape = moe__safetensors_shape(f, t);
    REQUIRE(t->rank <= 64);
    for (uint32_t i = 0; i < t->rank; i++) REQUIRE(shape[i] <= INT64_MAX);
    wide bits = elements_of(f, t) * type_of(t)->bits;
    REQUIRE(bits % 8 == 0);
    REQUIRE(t->begin <= t->end && t->end <= data_size);
    REQUIRE(bits / 8 == t->end - t->begin);
    REQUIRE(is_utf8(t->name.data, t->name.size));
    REQUIRE(moe__safetensors_find(f, t->name) == t);
    const volatile uint8_t *data = moe__safetensors_data(f, t);
    if (t->end > t->begin) (void)(data[0] + data[t->end - t->begin - 1]);
}

static int by_place(const void *a, const void *b) {
    const moe_stored_tensor *x = *(const moe_stored_tensor *const *)a,
                            *y = *(const moe_stored_tensor *const *)b;
    if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* Side by side, and nothing left over. */
static void check_cover(const moe_safetensors *f, uint64_t data_size) {
    size_t count = moe__safetensors_count(f);
    const moe_stored_tensor **order = malloc((count + 1) * sizeof *order);
    uint64_t end = 0;
    if (!order) violation("no memory for the oracle");
    for (size_t i = 0; i < count; i++) order[i] = moe__safetensors_get(f, i);
    qsort(order, count, sizeof *order, by_place);
    for (size_t i = 0; i < count; i++) {
        REQUIRE(order[i]->begin == end);
        end = order[i]->end;
    }
    REQUIRE(end == data_size);
    free(order);
}

void check_table(const moe_safetensors *f, const uint8_t *bytes, size_t size) {
    wide length = 0;
    REQUIRE(size >= 8);
    for (int i = 0; i < 8; i++) length |= (wide)bytes[i] << 8 * i;
    REQUIRE(length <= 100000000 && length + 8 <= size);
    uint64_t data_size = (uint64_t)(size - 8 - length);
    size_t count = moe__safetensors_count(f);
    const moe_stored_pair *pairs;
    size_t npairs = moe__safetensors_pairs(f, &pairs);
    for (size_t i = 0; i < count; i++) {
        const moe_stored_tensor *t = moe__safetensors_get(f, i);
        check_tensor(f, t, data_size);
        REQUIRE(i == 0 || before(moe__safetensors_get(f, i - 1)->name, t->name));
    }
    for (size_t i = 0; i < npairs; i++) {
        REQUIRE(is_utf8(pairs[i].key.data, pairs[i].key.size));
        REQUIRE(is_utf8(pairs[i].value.data, pairs[i].value.size));
        REQUIRE(i == 0 || before(pairs[i - 1].key, pairs[i].key));
    }
    check_cover(f, data_size);
}

/* --- the description ------------------------------------------------------------------------- */

static void check_told(const moe_safetensors *f, const tensor *t, const uint8_t *data) {
    moe_slice name = {t->name.data, t->name.size};
    const moe_stored_tensor *found = moe__safetensors_find(f, name);
    if (!found) violation("a tensor of the file is not in the table");
    REQUIRE(strcmp(type_of(found)->name, element_types[t->type].name) == 0);
    REQUIRE(found->rank == t->rank);
    const uint64_t *shape = moe__safetensors_shape(f, found);
    for (unsigned i = 0; i < t->rank; i++) REQUIRE(shape[i] == t->shape[i]);
    REQUIRE(found->begin == t->begin && found->end == t->end);
    size_t size = (size_t)(t->end - t->begin);
    REQUIRE(!size || memcmp(moe__safetensors_data(f, found), data + t->begin, size) == 0);
}

static void check_pair(const moe_stored_pair *pairs, size_t count, const pair *p) {
    size_t i = 0;
    while (i < count && !equal(pairs[i].key, &p->key)) i++;
    if (i == count) violation("metadata of the file is missing");
    REQUIRE(equal(pairs[i].value, &p->value));
}

void check_description(const moe_safetensors *f, const file *made) {
    const moe_stored_pair *pairs;
    size_t npairs = moe__safetensors_pairs(f, &pairs);
    REQUIRE(moe__safetensors_count(f) == made->count);
    REQUIRE(npairs == made->pair_count);
    for (unsigned i = 0; i < made->count; i++)
        check_told(f, &made->tensors[i], made->bytes + 8 + made->header_size);
    for (unsigned i = 0; i < made->pair_count; i++) check_pair(pairs, npairs, &made->pairs[i]);
}

/* --- elements -------------------------------------------------------------------------------- */

static double float_at(moe_stored type, const uint8_t *p) {
    if (type == MOE_STORED_F64 || type == MOE_STORED_F32) {
        float single;
        double value;
        memcpy(&single, p, sizeof single);
        if (type == MOE_STORED_F32) return (double)single;
        memcpy(&value, p, sizeof value);
        return (double)(moe_real)value;
    }
    int half = type == MOE_STORED_F16, mantissa_bits = half ? 10 : 7, bias = half ? 15 : 127;
    int word = p[0] | p[1] << 8, mantissa = word & ((1 << mantissa_bits) - 1);
    int exponent = (word & 0x7fff) >> mantissa_bits, most = half ? 31 : 255;
    double sign = word & 0x8000 ? -1 : 1;
    if (exponent == most) return mantissa ? (double)NAN : sign * (double)INFINITY;
    if (exponent > 0)
        mantissa |= 1 << mantissa_bits;
    else
        exponent = 1;
    return sign * ldexp(mantissa, exponent - bias - mantissa_bits);
}

/* An integer of at most 64 bits in a type that holds them all. */
static __int128 integer_at(moe_stored type, const uint8_t *p) {
    int bits = moe__stored_bits(type);
    bool is_signed = moe__stored_name(type)[0] == 'I';
    uint64_t value = 0;
    for (int i = 0; i < bits / 8; i++) value |= (uint64_t)p[i] << 8 * i;
    if (type == MOE_STORED_BOOL) return value != 0;
    if (!is_signed || !(value >> (bits - 1) & 1)) return (__int128)value;
    return (__int128)value - ((__int128)1 << bits);
}

static bool fits_i32(const moe_stored_tensor *t, const uint8_t *data, size_t n) {
    size_t size = (size_t)moe__stored_bits(t->type) / 8;
    for (size_t i = 0; i < n; i++) {
        __int128 value = integer_at(t->type, data + i * size);
        if (value < INT32_MIN || value > INT32_MAX) return false;
    }
    return true;
}

static void check_loaded(const moe_stored_tensor *t, const uint8_t *data, moe_tensor *loaded) {
    size_t n = (size_t)moe_tensor_count(loaded), size = (size_t)moe__stored_bits(t->type) / 8;
    const moe_real *reals = moe_tensor_data(loaded);
    const int32_t *ints = moe_tensor_data(loaded);
    REQUIRE(moe_tensor_ndim(loaded) == (int)t->rank);
    for (size_t i = 0; i < n; i++) {
        if (moe_tensor_dtype(loaded) == MOE_I32) {
            REQUIRE(ints[i] == integer_at(t->type, data + i * size));
            continue;
        }
        double expected = float_at(t->type, data + i * size);
        REQUIRE((double)reals[i] == expected || (isnan(reals[i]) && isnan(expected)));
    }
}

/* As another type the elements are only looked at for their number. */
static void check_narrow(moe_safetensors *f, const moe_stored_tensor *t, moe_dtype as) {
    moe_tensor *loaded;
    moe_status s = moe__safetensors_tensor(f, t, as, &loaded);
    REQUIRE(s == MOE_OK && moe_tensor_dtype(loaded) == as);
    if (t->type == moe__stored_of(as))
        REQUIRE(t->end == t->begin || memcmp(moe_tensor_data(loaded), moe__safetensors_data(f, t),
                                             (size_t)(t->end - t->begin)) == 0);
    moe_tensor_release(loaded);
}

static bool has_large_size(const moe_safetensors *f, const moe_stored_tensor *t) {
    for (uint32_t i = 0; i < t->rank; i++)
        if (moe__safetensors_shape(f, t)[i] > INT32_MAX) return true;
    return false;
}

static void check_tensor_elements(moe_ctx *ctx, moe_safetensors *f, const moe_stored_tensor *t) {
    moe_dtype as = moe__stored_compute(t->type);
    const uint8_t *data = moe__safetensors_data(f, t);
    wide n = elements_of(f, t);
    bool possible = as != MOE_DTYPE_COUNT && t->rank <= MOE_MAX_DIMS;
    if (n > 4096) return;
    if (possible && as == MOE_I32) possible = fits_i32(t, data, (size_t)n);
    moe_tensor *loaded;
    moe_status s = moe__safetensors_tensor(f, t, as == MOE_DTYPE_COUNT ? MOE_F32 : as, &loaded);
    if (s != MOE_OK) {
        REQUIRE(s == MOE_EUNSUPPORTED && loaded == NULL && *moe_errmsg(ctx));
        REQUIRE(!possible || has_large_size(f, t));
        return;
    }
    REQUIRE(possible && (wide)moe_tensor_count(loaded) == n);
    check_loaded(t, data, loaded);
    moe_tensor_release(loaded);
    if (as == MOE_F32) check_narrow(f, t, MOE_BF16);
    if (as == MOE_F32) check_narrow(f, t, MOE_F16);
}

void check_elements(moe_ctx *ctx, moe_safetensors *f) {
    for (size_t i = 0; i < moe__safetensors_count(f); i++)
        check_tensor_elements(ctx, f, moe__safetensors_get(f, i));
}
