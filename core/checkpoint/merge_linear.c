/* merge_linear.c -- methods that add multiples of their models, or one alone. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "checkpoint/merge_job.h"

/* --- sums ------------------------------------------------------------------------------------ */

/* Two whose factors sum to 1, by far the most frequent case, do not need f64 when the result has 16
 * bits: what f32 loses is lost there anyway, and where they are equal the difference is 0. */
static void sum(moe_desk *d, const double *factor, int64_t n) {
    const moe_job *j = d->job;
    bool narrow = j->sink->type == MOE_STORED_BF16 || j->sink->type == MOE_STORED_F16;
    if (narrow && j->m->count == 2 && fabs(factor[0] + factor[1] - 1) < 1e-12)
        j->k->merge_lerp(n, (float)factor[1], d->x[0], d->x[1], d->y);
    else
        j->k->merge_sum(n, j->m->count, (const float *const *)d->x, factor, d->y);
}

/* y = sum of factor[i] model i */
static void add_up(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    (void)span;
    while (n > 0) {
        int64_t some = moe__desk_load(d, first, n);
        moe__desk_look(d, some);
        sum(d, arg, some);
        for (int i = 0; i < d->job->m->count; i++) moe__desk_kept(d, i, some);
        moe__desk_put(d, some);
        first += some, n -= some;
    }
}

/* y = sum w x / sum w, or without the division. Weights that sum to 0 give what
 * arithmetic gives. */
static moe_status linear(moe_job *j) {
    double sum = 0;
    moe_status s = moe__job_reserve(j, (size_t)j->m->count * sizeof(double), 0);
    if (s) return s;
    double *factor = (double *)(void *)j->own;
    for (int i = 0; i < j->m->count; i++) sum += j->p->weight[i];
    for (int i = 0; i < j->m->count; i++)
        factor[i] = j->p->normalize ? j->p->weight[i] / sum : j->p->weight[i];
    return moe__job_emit(j, add_up, factor);
}

static moe_status passthrough(moe_job *j) {
    double factor = j->p->scale[0];
    moe_status s = moe__job_reserve(j, 0, 0);
    return s ? s : moe__job_emit(j, add_up, &factor);
}

const moe_method moe__method_linear = {
    .name = "linear", .params = " weight! normalize ", .least = 1,
    .normalize = true, .run = linear};
const moe_method moe__method_passthrough = {
    .name = "passthrough", .params = " scale ", .least = 1, .most = 1, .run = passthrough};

/* --- copies ---------------------------------------------------------------------------------- */

static size_t stored_bytes(const moe_job *j, int64_t n) {
    return (size_t)n * ((size_t)moe__stored_bits(j->sink->type) / 8);
}

/* Rows of the first dimension, as they are stored. */
static void copy_rows(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const moe_source *s = d->job->m->models;
    (void)arg, (void)span;
    moe__source_copy(s, first / s->width, n / s->width, d->out);
    d->put = n;
}

static moe_status gather(moe_job *j) {
    int64_t width = j->m->models->width, rows = width ? MOE_SPAN / width : 1;
    j->unit = (rows > 1 ? rows : 1) * width;
    moe_status s = moe__job_reserve(j, 0, 0);
    return s ? s : moe__job_emit(j, copy_rows, NULL);
}

/* A descriptor of the file that is mapped, unless another has taken its name since; or -1. */
static int reopen(const moe_merge *m) {
    struct stat now;
    if (!m->path || !m->file) return -1;
    int fd = open(m->path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    bool same = fstat(fd, &now) == 0 && now.st_dev == m->file->device &&
                now.st_ino == m->file->inode;
    if (same) return fd;
    close(fd);
    return -1;
}

#define STRETCH ((int64_t)4 << 20)      /* bytes copied at a time */

typedef struct copying {
    const char *from;
    int fd;                     /* of the file they are in, or -1 */
} copying;

/* File to file where the system can; the checksums look at the bytes as they are mapped. */
static void copy_stretch(moe_desk *d, void *arg, int64_t span, int64_t first, int64_t n) {
    const copying *c = arg;
    const moe_sink *sink = d->job->sink;
    uint64_t at = sink->at + (uint64_t)first;
    int error = c->fd < 0 ? EXDEV : moe__output_clone(sink->output, at, c->fd,
                                                      d->job->m->at + (uint64_t)first, (size_t)n);
    if (error && error != ENOSPC && error != EDQUOT && error != EFBIG)
        error = moe__output_place(sink->output, at, c->from + first, (size_t)n);
    moe__desk_placed(d, span, c->from + first, (size_t)n, error);
}

static moe_status copy_run(moe_job *j, const char *from) {
    copying c = {.from = from, .fd = reopen(j->m)};
    int64_t bytes = (int64_t)stored_bytes(j, j->m->elements);
    moe_status s = moe__job_reserve(j, 0, 0);
    if (!s) s = moe__job_place(j, bytes, STRETCH, copy_stretch, &c);
    if (c.fd >= 0) close(c.fd);
    return s;
}

/* Elements of another type are converted, as by passthrough without a scale. */
static moe_status copy(moe_job *j) {
    const char *run = moe__source_run(j->m->models);
    if (!j->raw) return passthrough(j);
    return run && j->sink->output ? copy_run(j, run) : gather(j);
}

const moe_method moe__method_copy = {
    .name = "copy", .params = " ", .least = 1, .most = 1, .copies = true, .run = copy};
