/* gguf.c -- a fuzzer of the GGUF reader and writer.
 *
 * An input that begins with 'R' is a file as it stands. Any other makes one up (gguf_describe.c,
 * gguf_spoil.c), and then it is known what the reader has to say. What it takes is checked by
 * gguf_oracle.c, and some of it is written again, to be read as the same. Every input has to cost
 * no more memory than its size can explain, and has to leave the context as it was.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/ctx.h"
#include "gguf_file.h"
#include "gguf_oracle.h"

/* Bytes of memory per byte of a file: the least a tensor takes is 25, for records of 104 that may
 * be held three times while their list doubles. */
#define COST 20
#define COST_ANYWAY 8192

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static moe_ctx *ctx;
static size_t idle;         /* bytes that the context itself holds */
static file made;

_Noreturn void violation(const char *what) {
    static const char *const verdicts[] = {"must load", "must be refused", "may be either"};
    fprintf(stderr, "VIOLATION %s\n    file: %s, fault: %s\n    the reader said: %s\n", what,
            verdicts[made.verdict], made.fault ? made.fault : "none", moe_errmsg(ctx));
    abort();
}

static void open_context(void) {
    moe_config config = {.size = sizeof config, .threads = 1, .kernels = "plain"};
    if (moe_open(&ctx, &config) != MOE_OK) abort();
    idle = ctx->heap.live;
}

/* Random edits of the finished bytes, of which nobody knows what they do. */
static void scratch(file *f) {
    unsigned edits = 1 + source_pick(f->s, 4);
    for (unsigned i = 0; i < edits && f->size; i++) {
        size_t range = source_pick(f->s, 8) ? f->header_size : f->size;
        size_t at = (size_t)(source_random(f->s) % (range ? range : 1));
        if (at >= f->size) continue;
        switch (source_pick(f->s, 4)) {
            case 0: f->bytes[at] = (uint8_t)source_pick(f->s, 256); break;
            case 1: f->bytes[at] = (uint8_t)source_pick(f->s, 16); break;
            case 2: f->bytes[at] ^= (uint8_t)(1u << source_pick(f->s, 8)); break;
            default: memmove(f->bytes + at, f->bytes + at + 1, --f->size - at);
        }
    }
    f->verdict = MAY_DO_EITHER;
}

static void make_file(source *s) {
    describe_file(&made, s);
    if (source_pick(s, 2)) spoil_file(&made);
    write_file(&made);
    if (source_once_in(s, 8)) scratch(&made);
    if (source_once_in(s, 64) && made.header_size) {    /* a part of a header is none */
        made.size = (size_t)(source_random(s) % made.header_size);
        made.verdict = made.verdict == MUST_LOAD ? MUST_FAIL : MAY_DO_EITHER;
    }
}

/* --- reading --------------------------------------------------------------------------------- */

/* A message names the file and is fit for a terminal; only a hint is on a line of its own. */
static void check_message(void) {
    const char *message = moe_errmsg(ctx);
    if (strncmp(message, "made up: ", 9) != 0) violation("a message without the name of the file");
    for (const char *at = message; *at; at++)
        if (((unsigned char)*at < 0x20 && strncmp(at, "\nhint: ", 7) != 0) || *at == 0x7f)
            violation("a message with a control character");
}

static void check_status(moe_status s, bool memory_may_fail) {
    if (s == MOE_ENOMEM && memory_may_fail) return;
    if (s != MOE_OK && s != MOE_EFORMAT && s != MOE_EUNSUPPORTED)
        violation("neither taken nor refused");
    if (s == MOE_OK && made.verdict == MUST_FAIL) violation("a bad file was taken");
    if (s != MOE_OK && made.verdict == MUST_LOAD) violation("a good file was refused");
    if (s != MOE_OK) check_message();
}

/* --- writing --------------------------------------------------------------------------------- */

static moe_status write_entries(const char *path, const moe_entry *e, size_t n,
                                moe_gguf_pair *pairs, size_t npairs) {
    moe_stored_item items[MAX_TENSORS];
    moe_gguf_writer *w;
    for (size_t i = 0; i < n; i++)
        items[i] = (moe_stored_item){.name = e[i].name, .type = e[i].type, .rank = e[i].rank,
                                     .shape = e[i].shape,
                                     .data = {e[i].data, (size_t)e[i].bytes}};
    moe_status s = moe__gguf_begin(ctx, path, items, n, pairs, npairs, &w);
    if (s != MOE_OK) return s;
    for (size_t i = 0; i < n && s == MOE_OK; i++) s = moe__gguf_put(w, &items[i]);
    if (s == MOE_OK) return moe__gguf_commit(w);
    moe__gguf_abandon(w);
    return s;
}

/* Writes what was read into a pipe, which needs no disk, and reads it again; but no file with an
 * alignment of its own, which is not kept. */
static void write_again(const moe_gguf *f, size_t size) {
    static uint8_t again[MAX_BYTES + 4096];
    int ends[2];
    char path[32];
    const moe_entry *e;
    const moe_gguf_pair *p;
    moe_gguf_pair pairs[MAX_PAIRS];
    size_t n = moe__gguf_entries(f, &e), npairs = moe__gguf_pairs(f, &p);
    if (n > MAX_TENSORS || npairs > MAX_PAIRS || size > MAX_BYTES) return;
    for (size_t i = 0; i < npairs; i++) {
        if (p[i].key.size == 17 && memcmp(p[i].key.data, "general.alignment", 17) == 0) return;
        pairs[i] = p[i];
    }
    if (pipe2(ends, O_CLOEXEC) != 0 || fcntl(ends[1], F_SETPIPE_SZ, 1 << 18) < 0) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[1]);
    if (write_entries(path, e, n, pairs, npairs) != MOE_OK) violation("it cannot be written again");
    close(ends[1]);
    size_t got = 0;
    for (ssize_t part; (part = read(ends[0], again + got, sizeof again - got)) > 0;)
        got += (size_t)part;
    close(ends[0]);
    moe_gguf *copy;
    if (moe__gguf_parse(ctx, "made up", again, got, &copy) != MOE_OK)
        violation("what was written cannot be read");
    check_tables(copy, again, got);
    check_equal(f, copy);
    moe__gguf_close(copy);
}

/* --- one input ------------------------------------------------------------------------------- */

static void check_taken(source *s, const moe_gguf *f, const uint8_t *bytes, size_t size) {
    const moe_entry *entries;
    const moe_gguf_pair *pairs;
    check_tables(f, bytes, size);
    if (made.verdict == MUST_LOAD && (moe__gguf_entries(f, &entries) != made.tensors_used ||
                                      moe__gguf_pairs(f, &pairs) != made.pairs_used))
        violation("not what the description says");
    check_elements(ctx, f);
    if (source_once_in(s, 16)) write_again(f, size);
}

static void read_bytes(source *s, const uint8_t *bytes, size_t size) {
    moe_gguf *f = (moe_gguf *)(uintptr_t)8;
    bool memory_may_fail = source_once_in(s, 16);
    ctx->error[0] = '\0';
    ctx->heap.peak = ctx->heap.live;
    ctx->heap.fail_from = memory_may_fail ? ctx->heap.requests + 1 + source_pick(s, 8) : 0;
    ctx->heap.fail_count = source_pick(s, 2) ? 1 : UINT64_MAX;
    moe_status status = moe__gguf_parse(ctx, "made up", bytes, size, &f);
    ctx->heap.fail_from = 0;
    if (ctx->heap.peak - idle > COST * size + COST_ANYWAY) violation("it costs too much memory");
    check_status(status, memory_may_fail);
    if ((status == MOE_OK) != (f != NULL)) violation("a status that does not tell of the file");
    if (f) {
        check_taken(s, f, bytes, size);
        moe__gguf_close(f);
    }
    if (ctx->heap.live != idle || ctx->tensors || ctx->refs != 1) violation("something is left");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!ctx) open_context();
    source s = source_open(data, size);
    const uint8_t *bytes = data;
    size_t length = size;
    made.verdict = MAY_DO_EITHER;
    made.fault = NULL;
    if (source_pick(&s, 256) == 'R') {
        bytes = s.at;
        length = (size_t)(s.end - s.at);
        s.at = s.end;
    } else {
        make_file(&s);
        bytes = made.bytes;
        length = made.size;
    }
    /* A copy of its very size: what is read beyond it is noticed. */
    uint8_t *exact = malloc(length ? length : 1);
    if (!exact) abort();
    memcpy(exact, bytes, length);
    read_bytes(&s, exact, length);
    free(exact);
    return 0;
}
