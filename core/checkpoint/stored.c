#include "checkpoint/stored.h"

#include <stdatomic.h>
#include <string.h>

#include "base/pool.h"
#include "checkpoint/blocks.h"
#include "base/half.h"

#define GRAIN 65536     /* elements of one task */

static const struct {
    const char *name;
    uint8_t bits;               /* of an element; 0 for a type in blocks, */
    uint16_t elements, bytes;   /* which has these */
} types[] = {
    [MOE_STORED_BOOL] = {"BOOL", 8},
    [MOE_STORED_F4] = {"F4", 4},
    [MOE_STORED_F6_E2M3] = {"F6_E2M3", 6},
    [MOE_STORED_F6_E3M2] = {"F6_E3M2", 6},
    [MOE_STORED_U8] = {"U8", 8},
    [MOE_STORED_I8] = {"I8", 8},
    [MOE_STORED_F8_E5M2] = {"F8_E5M2", 8},
    [MOE_STORED_F8_E4M3] = {"F8_E4M3", 8},
    [MOE_STORED_F8_E8M0] = {"F8_E8M0", 8},
    [MOE_STORED_F8_E4M3FNUZ] = {"F8_E4M3FNUZ", 8},
    [MOE_STORED_F8_E5M2FNUZ] = {"F8_E5M2FNUZ", 8},
    [MOE_STORED_I16] = {"I16", 16},
    [MOE_STORED_U16] = {"U16", 16},
    [MOE_STORED_F16] = {"F16", 16},
    [MOE_STORED_BF16] = {"BF16", 16},
    [MOE_STORED_I32] = {"I32", 32},
    [MOE_STORED_U32] = {"U32", 32},
    [MOE_STORED_F32] = {"F32", 32},
    [MOE_STORED_C64] = {"C64", 64},
    [MOE_STORED_F64] = {"F64", 64},
    [MOE_STORED_I64] = {"I64", 64},
    [MOE_STORED_U64] = {"U64", 64},
    [MOE_STORED_Q4_0] = {"Q4_0", .elements = 32, .bytes = 18},
    [MOE_STORED_Q4_1] = {"Q4_1", .elements = 32, .bytes = 20},
    [MOE_STORED_Q5_0] = {"Q5_0", .elements = 32, .bytes = 22},
    [MOE_STORED_Q5_1] = {"Q5_1", .elements = 32, .bytes = 24},
    [MOE_STORED_Q8_0] = {"Q8_0", .elements = 32, .bytes = 34},
    [MOE_STORED_Q2_K] = {"Q2_K", .elements = 256, .bytes = 84},
    [MOE_STORED_Q3_K] = {"Q3_K", .elements = 256, .bytes = 110},
    [MOE_STORED_Q4_K] = {"Q4_K", .elements = 256, .bytes = 144},
    [MOE_STORED_Q5_K] = {"Q5_K", .elements = 256, .bytes = 176},
    [MOE_STORED_Q6_K] = {"Q6_K", .elements = 256, .bytes = 210},
};

const char *moe__stored_name(moe_stored type) { return types[type].name; }

int moe__stored_bits(moe_stored type) { return types[type].bits; }

void moe__stored_block(moe_stored type, uint64_t *elements, uint64_t *bytes) {
    *elements = types[type].elements;
    *bytes = types[type].bytes;
    if (*elements) return;
    *bytes = types[type].bits;
    for (*elements = 8; *elements > 1 && *bytes % 2 == 0; *elements /= 2) *bytes /= 2;
}

bool moe__stored_find(moe_slice name, moe_stored *out) {
    for (int type = 0; type < MOE_STORED_COUNT; type++)
        if (strlen(types[type].name) == name.size &&
            memcmp(types[type].name, name.data, name.size) == 0) {
            *out = (moe_stored)type;
            return true;
        }
    return false;
}

bool moe__stored_parse(moe_slice name, moe_stored *out) {
    return moe__stored_find(name, out) && *out <= MOE_STORED_U64;
}

static moe_size_error bytes_in_blocks(moe_stored type, uint64_t count, uint64_t row,
                                      uint64_t *bytes) {
    if (row % types[type].elements) return MOE_SIZE_MISALIGNED;
    uint64_t blocks = count / types[type].elements;
    bool over = __builtin_mul_overflow(blocks, (uint64_t)types[type].bytes, bytes);
    return over || *bytes > INT64_MAX ? MOE_SIZE_OVERFLOW : MOE_SIZE_OK;
}

moe_size_error moe__stored_bytes(moe_stored type, size_t rank, const uint64_t *shape,
                                 uint64_t *bytes) {
    uint64_t count = 1, bits;
    for (size_t i = 0; i < rank; i++)
        if (shape[i] > INT64_MAX || __builtin_mul_overflow(count, shape[i], &count))
            return MOE_SIZE_OVERFLOW;
    if (types[type].elements)
        return bytes_in_blocks(type, count, rank ? shape[rank - 1] : 1, bytes);
    if (__builtin_mul_overflow(count, (uint64_t)types[type].bits, &bits)) return MOE_SIZE_OVERFLOW;
    if (bits % 8) return MOE_SIZE_MISALIGNED;
    *bytes = bits / 8;
    return MOE_SIZE_OK;
}

moe_dtype moe__stored_compute(moe_stored type) {
    switch (type) {
        case MOE_STORED_F16:
        case MOE_STORED_BF16:
        case MOE_STORED_F32:
        case MOE_STORED_F64:
        case MOE_STORED_Q4_0:
        case MOE_STORED_Q4_1:
        case MOE_STORED_Q5_0:
        case MOE_STORED_Q5_1:
        case MOE_STORED_Q8_0:
        case MOE_STORED_Q2_K:
        case MOE_STORED_Q3_K:
        case MOE_STORED_Q4_K:
        case MOE_STORED_Q5_K:
        case MOE_STORED_Q6_K: return MOE_F32;
        case MOE_STORED_BOOL:
        case MOE_STORED_U8:
        case MOE_STORED_I8:
        case MOE_STORED_I16:
        case MOE_STORED_U16:
        case MOE_STORED_I32:
        case MOE_STORED_U32:
        case MOE_STORED_I64:
        case MOE_STORED_U64: return MOE_I32;
        default: return MOE_DTYPE_COUNT;
    }
}

moe_stored moe__stored_of(moe_dtype dtype) {
    switch (dtype) {
        case MOE_I32: return MOE_STORED_I32;
        case MOE_BF16: return MOE_STORED_BF16;
        case MOE_F16: return MOE_STORED_F16;
        default: return MOE_STORED_F32;
    }
}

/* --- loading --------------------------------------------------------------------------------- */

typedef struct loading {
    moe_stored type;
    const char *data;
    moe_tensor *out;
} loading;

/* `value` is an expression of x, the element as the file holds it. */
#define EACH(stored_type, data, n, target, value)                     \
    for (size_t i = 0; i < (n); i++) {                                \
        stored_type x;                                                \
        memcpy(&x, (data) + i * sizeof x, sizeof x);                  \
        (target)[i] = (value);                                        \
    }                                                                 \
    break

static const char *element_at(moe_stored type, const void *data, uint64_t i) {
    uint64_t elements, bytes;
    moe__stored_block(type, &elements, &bytes);
    return (const char *)data + i / elements * bytes;
}

void moe__stored_read(moe_stored type, const void *data, uint64_t first, uint64_t n, float *out) {
    const char *from = element_at(type, data, first);
    switch (type) {
        case MOE_STORED_F16: EACH(uint16_t, from, n, out, moe__from_half(x));
        case MOE_STORED_BF16: EACH(uint16_t, from, n, out, moe__from_bfloat(x));
        case MOE_STORED_F32: memcpy(out, from, n * sizeof *out); break;
        case MOE_STORED_F64: EACH(double, from, n, out, (float)x);
        default:
            if (types[type].elements)
                moe__blocks_read(type, from, n / types[type].elements, out);
            else
                memset(out, 0, n * sizeof *out);
    }
}

#define BLOCK 256       /* a multiple of every block of a quantised type */

/* Doubles keep their digits in a build that computes in them; all else passes through floats. */
static void load_floats(const loading *l, moe_real *to, int64_t begin, int64_t end) {
    float block[BLOCK];
    if (l->type == MOE_STORED_F64) {
        const char *from = l->data + (size_t)begin * sizeof(double);
        for (int64_t i = begin; i < end; i++, from += sizeof(double)) {
            double x;
            memcpy(&x, from, sizeof x);
            to[i] = (moe_real)x;
        }
        return;
    }
    for (int64_t i = begin; i < end; i += BLOCK) {
        int64_t n = end - i < BLOCK ? end - i : BLOCK;
        moe__stored_read(l->type, l->data, (uint64_t)i, (uint64_t)n, block);
        for (int64_t k = 0; k < n; k++) to[i + k] = (moe_real)block[k];
    }
}

/* Integers beyond i32 are cut here; find_too_large tells of them afterwards. */
static void load_ints(const loading *l, int32_t *to, int64_t begin, int64_t end) {
    const char *from = element_at(l->type, l->data, (uint64_t)begin);
    size_t n = (size_t)(end - begin);
    to += begin;
    switch (l->type) {
        case MOE_STORED_BOOL: EACH(uint8_t, from, n, to, x != 0);
        case MOE_STORED_U8: EACH(uint8_t, from, n, to, x);
        case MOE_STORED_I8: EACH(int8_t, from, n, to, x);
        case MOE_STORED_I16: EACH(int16_t, from, n, to, x);
        case MOE_STORED_U16: EACH(uint16_t, from, n, to, x);
        case MOE_STORED_I32: EACH(int32_t, from, n, to, x);
        case MOE_STORED_U32: EACH(uint32_t, from, n, to, (int32_t)x);
        case MOE_STORED_I64: EACH(int64_t, from, n, to, (int32_t)x);
        case MOE_STORED_U64: EACH(uint64_t, from, n, to, (int32_t)x);
        default: break;
    }
}

/* BF16 and F16 targets of another type go through the compute type, a block at a time. */
static void load_narrow(const loading *l, int64_t begin, int64_t end) {
    moe_real block[BLOCK];
    uint16_t *to = (uint16_t *)(void *)l->out->storage->data + l->out->offset;
    if (moe__stored_of(l->out->dtype) == l->type) {
        memcpy(to + begin, l->data + (size_t)begin * 2, (size_t)(end - begin) * 2);
        return;
    }
    for (int64_t i = begin; i < end; i += BLOCK) {
        int64_t n = end - i < BLOCK ? end - i : BLOCK;
        loading part = {.type = l->type, .data = element_at(l->type, l->data, (uint64_t)i)};
        load_floats(&part, block, 0, n);
        moe__convert(MOE_F32, block, l->out->dtype, to + i, n);
    }
}

static void load_range(void *arg, int64_t begin, int64_t end) {
    const loading *l = arg;
    if (l->out->dtype == MOE_F32)
        load_floats(l, moe__real(l->out), begin, end);
    else if (l->out->dtype == MOE_I32)
        load_ints(l, moe__int(l->out), begin, end);
    else
        load_narrow(l, begin, end);
}

#define FIRST_BEYOND(stored_type, condition)                                       \
    for (int64_t i = 0; i < n; i++) {                                              \
        stored_type x;                                                             \
        memcpy(&x, data + (size_t)i * sizeof x, sizeof x);                         \
        if (condition) return i;                                                   \
    }                                                                              \
    return -1

/* Position of the first integer that i32 cannot hold, or -1. */
static int64_t find_too_large(moe_stored type, const char *data, int64_t n) {
    switch (type) {
        case MOE_STORED_U32: FIRST_BEYOND(uint32_t, x > INT32_MAX);
        case MOE_STORED_I64: FIRST_BEYOND(int64_t, x > INT32_MAX || x < INT32_MIN);
        case MOE_STORED_U64: FIRST_BEYOND(uint64_t, x > INT32_MAX);
        default: return -1;
    }
}

moe_status moe__stored_load(moe_stored type, const void *data, moe_tensor *out, const char *what) {
    moe_ctx *ctx = out->ctx;
    loading l = {.type = type, .data = data, .out = out};
    int64_t bad = find_too_large(type, data, out->count);
    if (bad >= 0)
        return moe__fail(ctx, MOE_EUNSUPPORTED,
                         "%s: element %lld of %s %s does not fit into i32\n"
                         "hint: raw() gives its bytes", what, (long long)bad + 1, types[type].name,
                         MOE_SHAPE(out));
    moe__parallel_range(ctx, out->count, GRAIN, load_range, &l);
    if (moe_interrupted(ctx)) return moe__fail(ctx, MOE_EINTR, "interrupted!");
    return MOE_OK;
}

/* --- saving ---------------------------------------------------------------------------------- */

bool moe__stored_can_save(moe_dtype from, moe_stored to) {
    if (from == MOE_I32) return to == MOE_STORED_I32;
    return to == MOE_STORED_F32 || to == MOE_STORED_BF16 || to == MOE_STORED_F16 ||
           to == MOE_STORED_Q8_0;
}

typedef struct saving {
    moe_dtype dtype;
    const char *from;
    moe_stored to;
    char *out;
    atomic_bool failed;
} saving;

/* The compute type, which is a double in one of the builds, as floats. */
static void save_floats(const saving *s, int64_t begin, int64_t end) {
    moe_real block[BLOCK];
    size_t size = moe__dtype_size(s->dtype);
    for (int64_t i = begin; i < end; i += BLOCK) {
        int64_t n = end - i < BLOCK ? end - i : BLOCK;
        moe__convert(s->dtype, s->from + (size_t)i * size, MOE_F32, block, n);
        for (int64_t k = 0; k < n; k++) {
            float x = (float)block[k];
            memcpy(s->out + (size_t)(i + k) * sizeof x, &x, sizeof x);
        }
    }
}

static void save_q8_0(saving *s, const char *from, char *out, int64_t n) {
    float block[BLOCK];
    size_t size = moe__dtype_size(s->dtype);
    for (int64_t i = 0; i < n; i += BLOCK) {
        int64_t part = n - i < BLOCK ? n - i : BLOCK;
        saving floats = {.dtype = s->dtype, .from = from + (size_t)i * size, .out = (char *)block};
        save_floats(&floats, 0, part);
        if (!moe__blocks_write_q8_0(block, (uint64_t)part / 32, out + i / 32 * 34))
            atomic_store(&s->failed, true);
    }
}

static void save_range(void *arg, int64_t begin, int64_t end) {
    saving *s = arg;
    if (s->to == MOE_STORED_Q8_0) {
        save_q8_0(s, s->from + (size_t)begin * moe__dtype_size(s->dtype),
                  s->out + begin / 32 * 34, end - begin);
        return;
    }
    size_t from = moe__dtype_size(s->dtype), to = (size_t)types[s->to].bits / 8;
    const char *source = s->from + (size_t)begin * from;
    char *target = s->out + (size_t)begin * to;
    if (s->to == MOE_STORED_BF16)
        moe__convert(s->dtype, source, MOE_BF16, target, end - begin);
    else if (s->to == MOE_STORED_F16)
        moe__convert(s->dtype, source, MOE_F16, target, end - begin);
    else if (s->to == MOE_STORED_F32)
        save_floats(s, begin, end);
    else
        memcpy(target, source, (size_t)(end - begin) * to);
}

bool moe__stored_save(moe_tensor *t, int64_t first, int64_t n, moe_stored to, void *out) {
    size_t at = (size_t)(t->offset + first) * moe__dtype_size(t->dtype);
    saving s = {.dtype = t->dtype, .from = t->storage->data + at, .to = to, .out = out};
    moe__parallel_range(t->ctx, n, GRAIN, save_range, &s);
    return !atomic_load(&s.failed);
}
