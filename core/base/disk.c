#include "base/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The system may take fewer bytes than asked. */
int moe__disk_write(int fd, off_t at, const void *data, size_t size) {
    const char *next = data;
    while (size > 0) {
        ssize_t put = at == MOE_AT_THE_END ? write(fd, next, size) : pwrite(fd, next, size, at);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return errno;
        if (put == 0) return EIO;
        if (at != MOE_AT_THE_END) at += put;
        next += put;
        size -= (size_t)put;
    }
    return 0;
}

int moe__disk_flush(int fd) {
    int status;
    do status = fsync(fd);
    while (status != 0 && errno == EINTR);
    return status == 0 || errno == EINVAL || errno == EROFS || errno == ENOTSUP ? 0 : errno;
}

/* Linux has closed the descriptor even when close is interrupted. */
int moe__disk_close(int *fd) {
    int closing = *fd;
    *fd = -1;
    return closing >= 0 && close(closing) != 0 && errno != EINTR ? errno : 0;
}

size_t moe__disk_folder_length(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) + 1 : 0;
}

int moe__disk_flush_folder(const char *path) {
    char folder[PATH_MAX];
    size_t length = moe__disk_folder_length(path);
    snprintf(folder, sizeof folder, "%.*s", length ? (int)length : 1, length ? path : ".");
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno == EACCES || errno == EPERM ? 0 : errno;
    int error = moe__disk_flush(fd);
    close(fd);
    return error;
}
