#include "checkpoint/source.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE 256       /* a multiple of every block of a quantised type */

static const char *address(const moe_source *s, uint64_t element) {
    uint64_t elements, bytes;
    moe__stored_block(s->type, &elements, &bytes);
    return s->data + element / elements * bytes;
}

/* Elements of one block in part, through a copy of all of it. Returns how many there were. */
static int64_t read_part(const moe_source *s, uint64_t at, int64_t n, float *out) {
    uint64_t elements, bytes;
    float whole[PIECE];
    moe__stored_block(s->type, &elements, &bytes);
    uint64_t skip = at % elements;
    int64_t some = (int64_t)(elements - skip) < n ? (int64_t)(elements - skip) : n;
    moe__stored_read(s->type, s->data, at - skip, elements, whole);
    memcpy(out, whole + skip, (size_t)some * sizeof *out);
    return some;
}

static void read_blocks(const moe_source *s, uint64_t at, int64_t n, float *out) {
    uint64_t elements, bytes;
    moe__stored_block(s->type, &elements, &bytes);
    if (at % elements && n > 0) {
        int64_t some = read_part(s, at, n, out);
        at += (uint64_t)some, n -= some, out += some;
    }
    int64_t whole = n - n % (int64_t)elements;
    if (whole > 0) moe__stored_read(s->type, s->data, at, (uint64_t)whole, out);
    if (n > whole) read_part(s, at + (uint64_t)whole, n - whole, out + whole);
}

/* The kernels know the types of nearly all models; any address will do for them on a processor
 * that has vectors, but the language wants halves aligned. */
static void read_run(const moe_kernels *k, const moe_source *s, uint64_t at, int64_t n,
                     float *out) {
    const char *from = address(s, at);
    bool aligned = (uintptr_t)from % sizeof(uint16_t) == 0;
    if (s->type == MOE_STORED_BF16 && aligned)
        k->read_bf16(n, (const uint16_t *)(const void *)from, out);
    else if (s->type == MOE_STORED_F16 && aligned)
        k->read_f16(n, (const uint16_t *)(const void *)from, out);
    else
        read_blocks(s, at, n, out);
}

/* The source that really has row i; `row` becomes its number there, -1 for zeros. */
static const moe_source *find_row(const moe_source *s, int64_t i, int64_t *row) {
    if (s->from && s->from[i] > 0) s = &s->others[s->from[i] - 1];
    *row = s->rows ? s->rows[i] : i;
    return s;
}

void moe__source_read(const moe_kernels *k, const moe_source *s, int64_t first, int64_t n,
                      float *out) {
    if (!s->rows && !s->from) {
        read_run(k, s, s->first + (uint64_t)first, n, out);
        return;
    }
    for (int64_t i = first / s->width, column = first % s->width; n > 0; i++, column = 0) {
        int64_t row, some = s->width - column < n ? s->width - column : n;
        const moe_source *real = find_row(s, i, &row);
        uint64_t at = real->first + (uint64_t)row * (uint64_t)s->width + (uint64_t)column;
        if (row < 0)
            memset(out, 0, (size_t)some * sizeof *out);
        else
            read_run(k, real, at, some, out);
        n -= some, out += some;
    }
}

#define LINE 64         /* bytes that come at once */

void moe__source_prefetch(const moe_source *s, int64_t first, int64_t n) {
    if (s->rows || s->from) return;
    int64_t last = first + n < s->count ? first + n : s->count;
    if (first >= last) return;
    const char *end = address(s, s->first + (uint64_t)last);
    for (const char *at = address(s, s->first + (uint64_t)first); at < end; at += LINE)
        __builtin_prefetch(at, 0, 2);
}

/* The system wants whole pages, and does not mind when it is told of memory that is no file. */
void moe__source_expect(const moe_source *s, int64_t first, int64_t n) {
    int64_t last = first + n < s->count ? first + n : s->count;
    if (s->rows || s->from || first >= last) return;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)address(s, s->first + (uint64_t)first) & ~(page - 1);
    uintptr_t end = (uintptr_t)address(s, s->first + (uint64_t)last);
    (void)madvise((void *)begin, end - begin, MADV_WILLNEED);
}

bool moe__source_is(const moe_source *s, int64_t others, moe_stored type) {
    if (s->type != type || moe__stored_bits(type) % 8 || !moe__stored_bits(type)) return false;
    for (int64_t i = 0; i < others; i++)
        if (s->others[i].type != type) return false;
    return true;
}

void moe__source_copy(const moe_source *s, int64_t first, int64_t n, char *out) {
    size_t bytes = (size_t)s->width * ((size_t)moe__stored_bits(s->type) / 8);
    for (int64_t i = first; i < first + n; i++, out += bytes) {
        int64_t row;
        const moe_source *real = find_row(s, i, &row);
        if (row < 0)
            memset(out, 0, bytes);
        else
            memcpy(out, address(real, real->first + (uint64_t)row * (uint64_t)s->width), bytes);
    }
}

const char *moe__source_run(const moe_source *s) {
    return s->rows || s->from ? NULL : address(s, s->first);
}
