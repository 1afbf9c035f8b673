/* safetensors.c -- a fuzzer of the safetensors reader.
 *
 * An input that begins with 'R' is a file as it stands. Any other makes one up (describe.c,
 * spoil.c, write.c), and then it is known what the reader has to say. What it takes is checked by
 * oracle.c, and after every input the context has to hold what it held before: nothing.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/ctx.h"
#include "oracle.h"

/* Bytes of memory per byte of a file: the least an entry of metadata takes is 6, for a record of 32
 * that may be held three times while their list doubles. */
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
    static const char marks[] = "{}[]\",:\\ 0123456789-.eEuntfs\x80\xff";
    unsigned edits = 1 + source_pick(f->s, 4);
    for (unsigned i = 0; i < edits && f->size; i++) {
        size_t range = source_pick(f->s, 4) ? f->header_size + 8 : f->size;
        size_t at = (size_t)(source_random(f->s) % range);
        if (at >= f->size) continue;
        switch (source_pick(f->s, 4)) {
            case 0: f->bytes[at] = (uint8_t)source_pick(f->s, 256); break;
            case 1: f->bytes[at] = (uint8_t)marks[source_pick(f->s, sizeof marks - 1)]; break;
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
    if (source_once_in(s, 64)) {        /* the beginning of a good file is no file */
        made.size = source_pick(s, (unsigned)(made.size < 256 ? made.size : 256));
        made.verdict = made.verdict == MUST_LOAD ? MUST_FAIL : MAY_DO_EITHER;
    }
}

/* --- reading --------------------------------------------------------------------------------- */

static moe_status open_through_file(const uint8_t *bytes, size_t size, moe_safetensors **out) {
    static int fd = -1;
    char path[32];
    if (fd < 0) fd = memfd_create("fuzz", MFD_CLOEXEC);
    if (fd < 0 || ftruncate(fd, 0) != 0 || pwrite(fd, bytes, size, 0) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return moe__safetensors_open(ctx, path, out);
}

/* A message is one line that names the file and a kind of error, and is fit for a terminal. */
static void check_message(void) {
    const char *message = moe_errmsg(ctx);
    size_t size = strlen(message);
    if (!strchr(message, ':') || size < 8 || message[size - 1] != ')')
        violation("a message without the name of the error");
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)message[i] < 0x20 || message[i] == 0x7f)
            violation("a message with a control character");
}

static void check_status(moe_status s, bool memory_may_fail) {
    if (s == MOE_ENOMEM && memory_may_fail) return;
    if (s != MOE_OK && s != MOE_EFORMAT) violation("neither taken nor refused");
    if (s == MOE_OK && made.verdict == MUST_FAIL) violation("a bad file was taken");
    if (s != MOE_OK && made.verdict == MUST_LOAD) violation("a good file was refused");
    if (s == MOE_EFORMAT) check_message();
}

static void read_bytes(source *s, const uint8_t *bytes, size_t size) {
    moe_safetensors *f = (moe_safetensors *)(uintptr_t)8;
    bool by_file = source_once_in(s, 64), memory_may_fail = source_once_in(s, 16);
    ctx->error[0] = '\0';
    ctx->heap.peak = ctx->heap.live;
    ctx->heap.fail_from = memory_may_fail ? ctx->heap.requests + 1 + source_pick(s, 8) : 0;
    ctx->heap.fail_count = source_pick(s, 2) ? 1 : UINT64_MAX;
    moe_status status = by_file ? open_through_file(bytes, size, &f)
                                : moe__safetensors_parse(ctx, "made up", bytes, size, &f);
    ctx->heap.fail_from = 0;
    if (ctx->heap.peak - idle > COST * size + COST_ANYWAY) violation("it costs too much memory");
    check_status(status, memory_may_fail);
    if ((status == MOE_OK) != (f != NULL)) violation("a status that does not tell of the file");
    if (f) {
        check_table(f, bytes, size);
        if (made.verdict == MUST_LOAD) check_description(f, &made);
        check_elements(ctx, f);
        moe_status same = moe__safetensors_verify(f);
        if (same != MOE_OK && same != MOE_EFORMAT) violation("a checksum neither right nor wrong");
        moe__safetensors_close(f);
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
