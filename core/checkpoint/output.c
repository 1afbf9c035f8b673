#include "checkpoint/output.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/disk.h"

#define PIECE ((size_t)16 << 20)    /* bytes between two looks at the interrupt flag */
#define NAME_ATTEMPTS 100

struct moe_output {
    moe_ctx *ctx;
    int fd;
    bool in_place;              /* a pipe or device: nothing to rename */
    bool exists;                /* the temporary file is there */
    uint64_t expected;          /* bytes in all, 0 when not known */
    char *path;                 /* as the caller named it, for messages */
    size_t path_size;
    char target[PATH_MAX];      /* with links resolved */
    char temporary[PATH_MAX];
};

/* ": 5.9 GB needed, 1.2 GB free": why the file did not fit, as far as that is known. The bytes
 * that did fit are given back first, so that they count as free. */
static void describe_room(moe_output *o, int error, char *text, size_t size) {
    struct rlimit limit = {.rlim_cur = RLIM_INFINITY};
    struct statvfs disk;
    char needed[MOE_READABLE], room[MOE_READABLE];
    text[0] = '\0';
    if (!o->exists || truncate(o->temporary, 0) != 0) return;
    moe__readable(o->expected, needed);
    if (error == EFBIG && getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY) {
        moe__readable(limit.rlim_cur, room);
        snprintf(text, size, ": %s needed, %s is the limit (ulimit -f)", needed, room);
    } else if (error == ENOSPC && statvfs(o->temporary, &disk) == 0) {
        moe__readable((uint64_t)disk.f_bavail * disk.f_frsize, room);
        snprintf(text, size, ": %s needed, %s free", needed, room);
    }
}

static moe_status fail_full(moe_output *o, int error) {
    char room[2 * MOE_READABLE + 64];
    describe_room(o, error, room, sizeof room);
    return moe__fail(o->ctx, MOE_EFULL, "%s: cannot be written: %s%s", o->path, strerror(error),
                     room);
}

static moe_status fail(moe_output *o, int error) {
    if (error == ENOSPC || error == EDQUOT || error == EFBIG) return fail_full(o, error);
    bool missing = error == ENOENT || error == ENOTDIR;
    return moe__fail(o->ctx, missing ? MOE_EMISSING : MOE_EIO, "%s: cannot be written: %s", o->path,
                     strerror(error));
}

static void release(moe_output *o) {
    moe__disk_close(&o->fd);
    if (o->exists) unlink(o->temporary);
    moe__free(o->ctx, o->path, o->path_size);
    moe_ctx *ctx = o->ctx;
    moe__free(ctx, o, sizeof *o);
    moe__ctx_release(ctx);
}

/* Creates a hidden file under a name that was free; 0 or an error number. */
static int create_temporary(moe_output *o) {
    int folder = (int)moe__disk_folder_length(o->target);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned long stamp = (unsigned long)now.tv_sec * 1000000000ul + (unsigned long)now.tv_nsec;
    for (unsigned long i = 0; i < NAME_ATTEMPTS; i++) {
        int used = snprintf(o->temporary, sizeof o->temporary, "%.*s.moelua-%ld-%lx.tmp", folder,
                            o->target, (long)getpid(), stamp + i);
        if (used < 0 || (size_t)used >= sizeof o->temporary) return ENAMETOOLONG;
        do o->fd = open(o->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        while (o->fd < 0 && errno == EINTR);
        if (o->fd >= 0) {
            o->exists = true;
            return 0;
        }
        if (errno != EEXIST) return errno;
    }
    return EEXIST;
}

static int open_in_place(moe_output *o) {
    o->in_place = true;
    o->fd = open(o->path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    return o->fd < 0 ? errno : 0;
}

/* Finds out what is at the path now and opens what will be written; 0 or an error number. */
static int prepare(moe_output *o) {
    struct stat old;
    if (stat(o->path, &old) != 0) {
        if (errno != ENOENT) return errno;
        if (strlen(o->path) >= sizeof o->target) return ENAMETOOLONG;
        strcpy(o->target, o->path);
        return create_temporary(o);
    }
    if (S_ISDIR(old.st_mode)) return EISDIR;
    if (!S_ISREG(old.st_mode)) return open_in_place(o);
    if (!realpath(o->path, o->target)) return errno;
    int error = create_temporary(o);
    if (!error) (void)fchmod(o->fd, old.st_mode & 07777);
    return error;
}

moe_status moe__output_open(moe_ctx *ctx, const char *path, moe_output **out) {
    *out = NULL;
    size_t size = strlen(path) + 1;
    moe_output *o = moe__alloc(ctx, sizeof *o);
    char *copy = o ? moe__alloc(ctx, size) : NULL;
    if (!copy) {
        moe__free(ctx, o, sizeof *o);
        return moe__no_memory(ctx, sizeof *o, path);
    }
    memset(o, 0, sizeof *o);
    o->ctx = ctx;
    o->fd = -1;
    o->path = memcpy(copy, path, size);
    o->path_size = size;
    moe__ctx_retain(ctx);
    int error = prepare(o);
    if (!error) {
        *out = o;
        return MOE_OK;
    }
    moe_status status = fail(o, error);
    release(o);
    return status;
}

void moe__output_expect(moe_output *o, uint64_t bytes) { o->expected = bytes; }

moe_status moe__output_write(moe_output *o, const void *data, size_t size) {
    const char *at = data;
    while (size > 0) {
        size_t piece = size < PIECE ? size : PIECE;
        if (moe_interrupted(o->ctx)) return moe__fail(o->ctx, MOE_EINTR, "interrupted!");
        int error = moe__disk_write(o->fd, MOE_AT_THE_END, at, piece);
        if (error) return fail(o, error);
        at += piece;
        size -= piece;
    }
    return MOE_OK;
}

bool moe__output_can_patch(const moe_output *o) { return lseek(o->fd, 0, SEEK_CUR) >= 0; }

moe_status moe__output_patch(moe_output *o, uint64_t at, const void *data, size_t size) {
    int error = moe__disk_write(o->fd, (off_t)at, data, size);
    return error ? fail(o, error) : MOE_OK;
}

int moe__output_place(const moe_output *o, uint64_t at, const void *data, size_t size) {
    return moe__disk_write(o->fd, (off_t)at, data, size);
}

moe_status moe__output_skip(moe_output *o, uint64_t size) {
    return lseek(o->fd, (off_t)size, SEEK_CUR) < 0 ? fail(o, errno) : MOE_OK;
}

moe_status moe__output_fail(moe_output *o, int error) { return fail(o, error); }

int moe__output_clone(const moe_output *o, uint64_t at, int from, uint64_t from_at, size_t size) {
    off64_t in = (off64_t)from_at, out = (off64_t)at;
    while (size > 0) {
        ssize_t copied = copy_file_range(from, &in, o->fd, &out, size, 0);
        if (copied < 0 && errno == EINTR) continue;
        if (copied < 0) return errno;
        if (copied == 0) return EIO;
        size -= (size_t)copied;
    }
    return 0;
}

moe_status moe__output_commit(moe_output *o) {
    int error = moe__disk_flush(o->fd), close_error = moe__disk_close(&o->fd);
    if (!error) error = close_error;
    if (!error && !o->in_place) {
        if (rename(o->temporary, o->target) == 0) {
            o->exists = false;
            error = moe__disk_flush_folder(o->target);
        } else
            error = errno;
    }
    moe_status status = error ? fail(o, error) : MOE_OK;
    release(o);
    return status;
}

void moe__output_abandon(moe_output *o) {
    if (o) release(o);
}
