/* mapping.c -- whole files as read-only memory. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor/tensor.h"

static moe_status cannot(moe_ctx *ctx, const char *path, int error) {
    return moe__fail(ctx, error == ENOENT || error == ENOTDIR ? MOE_EMISSING : MOE_EIO,
                     "cannot open %s: %s", path, strerror(error));
}

moe_status moe__map_file(moe_ctx *ctx, const char *path, moe_mapping **out) {
    *out = NULL;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);     /* a pipe would block for ever */
    if (fd < 0) return cannot(ctx, path, errno);
    struct stat info;
    if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
        int error = S_ISDIR(info.st_mode) ? EISDIR : EINVAL;
        close(fd);
        return cannot(ctx, path, error);
    }
    size_t size = (size_t)info.st_size;
    void *data = size ? mmap(NULL, size, PROT_READ, MAP_SHARED, fd, 0) : NULL;
    int error = errno;
    close(fd);
    if (data == MAP_FAILED) return cannot(ctx, path, error);
    moe_mapping *map = moe__alloc(ctx, sizeof *map);
    if (!map) {
        if (size) munmap(data, size);
        return moe__no_memory(ctx, sizeof *map, path);
    }
    *map = (moe_mapping){.ctx = ctx, .refs = 1, .data = data, .size = size,
                         .device = info.st_dev, .inode = info.st_ino};
    moe__ctx_retain(ctx);
    *out = map;
    return MOE_OK;
}

void moe__mapping_release(moe_mapping *map) {
    if (!map || --map->refs > 0) return;
    moe_ctx *ctx = map->ctx;
    if (map->size) munmap(map->data, map->size);
    moe__free(ctx, map, sizeof *map);
    moe__ctx_release(ctx);
}
