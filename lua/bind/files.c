/* core.system: files, folders and locks.
 *
 * Whatever a crash or a full disk may interrupt is written as checkpoint/output.h does it: a reader
 * sees the old file or the new one, never a part. Every descriptor has an owner on the Lua stack
 * before it exists, so that an error on the way leaves nothing behind.
 */
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <zlib.h>

#include "base/disk.h"
#include "checkpoint/checksum.h"
#include "checkpoint/output.h"

#define GZIP_TYPE "moelua.gzip"
#define LOCK_TYPE "moelua.lock"

#define CHUNK (64u * 1024u)
#define HASHED_AT_ONCE ((size_t)1 << 20)

/* ---- reading -------------------------------------------------------------------------------- */

static ssize_t read_some(int fd, char *into, size_t size) {
    ssize_t got;
    do
        got = read(fd, into, size);
    while (got < 0 && errno == EINTR);
    return got;
}

/* How much to ask for first: a regular file in one piece, with a byte more to see its end. */
static size_t first_request(int fd) {
    struct stat status;
    if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode) || status.st_size < CHUNK) return CHUNK;
    return (size_t)status.st_size + 1;
}

/* system.read(path): the content as a string. */
static int system_read(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "read");
    int *fd = lmoe_push_descriptor(L);
    *fd = lmoe_open_file(path, O_RDONLY);
    if (*fd < 0) return lmoe_fail_system(L, "read", path, errno);
    size_t request = first_request(*fd);
    luaL_Buffer content;
    luaL_buffinit(L, &content);
    for (;;) {
        ssize_t got = read_some(*fd, luaL_prepbuffsize(&content, request), request);
        if (got < 0) return lmoe_fail_system(L, "read", path, errno);
        if (got == 0) break;
        luaL_addsize(&content, (size_t)got);
        request = CHUNK;
    }
    luaL_pushresult(&content);
    return 1;
}

/* Adds the rest of the file to the checksum; returns 0 or a system error number, EINTR when Ctrl-C
 * was pressed. */
static int checksum_rest(moe_ctx *ctx, int fd, char *piece, moe_checksum *sum) {
    for (;;) {
        if (moe_interrupted(ctx)) return EINTR;
        ssize_t got = read_some(fd, piece, HASHED_AT_ONCE);
        if (got < 0) return errno;
        if (got == 0) return 0;
        moe__checksum_add(sum, piece, (size_t)got);
    }
}

/* system.hash_file(path): XXH3-128 of the content as 32 hexadecimal digits, read piece by piece. */
static int system_hash_file(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "hash_file");
    int *fd = lmoe_push_descriptor(L);
    *fd = lmoe_open_file(path, O_RDONLY);
    if (*fd < 0) return lmoe_fail_system(L, "hash_file", path, errno);
    char *piece = lua_newuserdatauv(L, HASHED_AT_ONCE, 0);
    moe_ctx *ctx = lmoe_ctx(L);
    moe_checksum *sum = moe__checksum_new(ctx);     /* nothing below raises before it is freed */
    char digits[MOE_CHECKSUM_DIGITS + 1];
    int error = sum ? checksum_rest(ctx, *fd, piece, sum) : ENOMEM;
    if (sum) moe__checksum_digits(sum, digits);
    moe__checksum_free(ctx, sum);
    if (error == EINTR) lmoe_check(L, moe__fail(ctx, MOE_EINTR, "interrupted!"));
    if (error) return lmoe_fail_system(L, "hash_file", path, error);
    lua_pushlstring(L, digits, MOE_CHECKSUM_DIGITS);
    return 1;
}

static int gzip_release(lua_State *L) {
    gzFile *file = luaL_checkudata(L, 1, GZIP_TYPE);
    if (*file != NULL) gzclose_r(*file);
    *file = NULL;
    return 0;
}

static gzFile *push_gzip(lua_State *L) {
    gzFile *file = lua_newuserdatauv(L, sizeof *file, 0);
    *file = NULL;
    luaL_setmetatable(L, GZIP_TYPE);
    lua_toclose(L, -1);
    return file;
}

/* zlib tells a truncated file only in the error state that it leaves at the end. */
static int fail_gzip(lua_State *L, gzFile file, const char *path) {
    int status;
    int error = errno;
    const char *reason = gzerror(file, &status);
    if (status == Z_ERRNO) return lmoe_fail_system(L, "read_gzip", path, error);
    if (status == Z_BUF_ERROR) reason = "the compressed data ends too early";
    size_t n = strlen(path);            /* zlib begins with the path too */
    if (strncmp(reason, path, n) == 0 && strncmp(reason + n, ": ", 2) == 0) reason += n + 2;
    lua_pushfstring(L, "read_gzip: %s: %s", path, reason);
    return lmoe_fail(L, status == Z_MEM_ERROR ? "memory" : "format");
}

static bool gzip_is_sound(gzFile file) {
    int status;
    gzerror(file, &status);
    return status == Z_OK || status == Z_STREAM_END;
}

/* system.read_gzip(path): the uncompressed content; a plain file is read as it is. */
static int system_read_gzip(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "read_gzip");
    gzFile *file = push_gzip(L);
    errno = 0;
    *file = gzopen(path, "rbe");
    if (*file == NULL) return lmoe_fail_system(L, "read_gzip", path, errno ? errno : ENOMEM);
    gzbuffer(*file, CHUNK);
    luaL_Buffer content;
    luaL_buffinit(L, &content);
    for (;;) {
        int got = gzread(*file, luaL_prepbuffsize(&content, CHUNK), CHUNK);
        if (got < 0 || (got == 0 && !gzip_is_sound(*file))) return fail_gzip(L, *file, path);
        if (got == 0) break;
        luaL_addsize(&content, (size_t)got);
    }
    luaL_pushresult(&content);
    return 1;
}

/* ---- writing -------------------------------------------------------------------------------- */

/* Lua is not called before the output has ended, so that nothing can be left behind. */
static moe_status write_whole(moe_ctx *ctx, const char *path, const char *data, size_t size) {
    moe_output *output;
    moe_status status = moe__output_open(ctx, path, &output);
    if (status != MOE_OK) return status;
    moe__output_expect(output, size);
    status = moe__output_write(output, data, size);
    if (status == MOE_OK) return moe__output_commit(output);
    moe__output_abandon(output);
    return status;
}

/* system.write(path, data): replaces the whole file or leaves it as it was. The mode of an
 * existing file is kept, a symbolic link is followed. */
static int system_write(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "write");
    size_t size;
    const char *data = lmoe_check_text(L, 2, "write", "data", &size);
    bool tried = false;
    moe_status status;
    do status = write_whole(lmoe_ctx(L), path, data, size);
    while (lmoe_again(L, status, &tried));
    if (status == MOE_EINTR) lmoe_check(L, status);
    return status == MOE_OK ? lmoe_succeed(L) : lmoe_fail_status(L, status);
}

/* Adds bytes at the end; 0 or an error number. What a full disk took of them is cut off again,
 * so that a log never holds half a line. */
static int append_all(int fd, const char *data, size_t size) {
    struct stat before;
    bool regular = fstat(fd, &before) == 0 && S_ISREG(before.st_mode);
    int error = moe__disk_write(fd, MOE_AT_THE_END, data, size);
    if (error != 0 && regular && ftruncate(fd, before.st_size) != 0) return error;
    return error;
}

/* system.append(path, data): adds to the file, which need not exist. */
static int system_append(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "append");
    size_t size;
    const char *data = lmoe_check_text(L, 2, "append", "data", &size);
    int *fd = lmoe_push_descriptor(L);
    *fd = lmoe_open_file(path, O_WRONLY | O_APPEND | O_CREAT);
    if (*fd < 0) return lmoe_fail_system(L, "append", path, errno);
    int error = append_all(*fd, data, size);
    int close_error = moe__disk_close(fd);
    if (error == 0) error = close_error;
    return error != 0 ? lmoe_fail_system(L, "append", path, error) : lmoe_succeed(L);
}

/* ---- folders and names ---------------------------------------------------------------------- */

static bool is_folder(const char *path) {
    struct stat status;
    return stat(path, &status) == 0 && S_ISDIR(status.st_mode);
}

/* Makes one folder; one that is there already, or that another process just made, will do. */
static int make_one(const char *path) {
    if (is_folder(path) || mkdir(path, 0777) == 0) return 0;
    int error = errno;
    return error == EEXIST && is_folder(path) ? 0 : error;
}

/* system.make_folder(path): makes the folder and those above it. */
static int system_make_folder(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "make_folder");
    size_t size = strlen(path) + 1;
    char *part = memcpy(lua_newuserdatauv(L, size, 0), path, size);
    int error = 0;
    for (char *slash = part + (*part == '/'); (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        error = make_one(part);
        if (error != 0) break;
        *slash = '/';
    }
    if (error == 0) error = make_one(part);
    if (error == EEXIST) {
        lua_pushfstring(L, "make_folder: %s: a file has this name", part);
        return lmoe_fail(L, "io");
    }
    return error != 0 ? lmoe_fail_system(L, "make_folder", part, error) : lmoe_succeed(L);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *where) {
    (void)status;
    (void)kind;
    (void)where;
    return remove(path) != 0 && errno != ENOENT;
}

/* system.remove_tree(path): removes a file, or a folder with all it holds; symbolic links are
 * removed, not followed. Nothing there is no failure. */
static int system_remove_tree(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "remove_tree");
    char real[PATH_MAX];
    if (*path == '\0' || (realpath(path, real) != NULL && strcmp(real, "/") == 0))
        return lmoe_raise(L, "remove_tree: refused: \"%s\" is no folder to remove", path);
    if (nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
        return lmoe_fail_system(L, "remove_tree", path, errno);
    return lmoe_succeed(L);
}

/* system.exists(path): whether a file or folder is there; a dangling link is not. */
static int system_exists(lua_State *L) {
    struct stat status;
    lua_pushboolean(L, stat(lmoe_check_path(L, 1, "exists"), &status) == 0);
    return 1;
}

/* system.file_size(path): bytes. */
static int system_file_size(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "file_size");
    struct stat status;
    if (stat(path, &status) != 0) return lmoe_fail_system(L, "file_size", path, errno);
    lua_pushinteger(L, (lua_Integer)status.st_size);
    return 1;
}

/* system.disk_free(path): bytes that we may still write to the disk of an existing path. */
static int system_disk_free(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "disk_free");
    struct statvfs disk;
    if (statvfs(path, &disk) != 0) return lmoe_fail_system(L, "disk_free", path, errno);
    lua_pushinteger(L, (lua_Integer)disk.f_bavail * (lua_Integer)disk.f_frsize);
    return 1;
}

/* system.rename(from, to): moves a file or folder within a file system, and lasts. */
static int system_rename(lua_State *L) {
    const char *from = lmoe_check_path(L, 1, "rename");
    const char *to = lmoe_check_path(L, 2, "rename");
    int error = rename(from, to) != 0 ? errno : 0;
    if (error == 0) error = moe__disk_flush_folder(to);
    if (error == 0) return lmoe_succeed(L);
    return lmoe_fail_system(L, "rename", lua_pushfstring(L, "%s to %s", from, to), error);
}

/* ---- locks ---------------------------------------------------------------------------------- */

static int lock_release(lua_State *L) {
    int *fd = luaL_testudata(L, 1, LOCK_TYPE);
    if (fd == NULL) return lmoe_raise(L, "release: a lock is expected: call it as lock:release()");
    lmoe_close_descriptor(fd);
    return 0;
}

/* system.lock(path): a lock that the system drops when its holder ends, however it ends. The
 * file stays: removing it would let two processes hold two files of one name. */
static int system_lock(lua_State *L) {
    const char *path = lmoe_check_path(L, 1, "lock");
    int *fd = lua_newuserdatauv(L, sizeof *fd, 0);
    *fd = -1;
    luaL_setmetatable(L, LOCK_TYPE);
    *fd = lmoe_open_file(path, O_RDWR | O_CREAT);
    if (*fd < 0) return lmoe_fail_system(L, "lock", path, errno);
    int status;
    do
        status = flock(*fd, LOCK_EX | LOCK_NB);
    while (status != 0 && errno == EINTR);
    if (status == 0) return 1;
    int error = errno;
    lmoe_close_descriptor(fd);
    if (error != EWOULDBLOCK) return lmoe_fail_system(L, "lock", path, error);
    lua_pushfstring(L, "lock: %s: another process holds it", path);
    return lmoe_fail(L, "busy");
}

/* ---- opening -------------------------------------------------------------------------------- */

static void make_types(lua_State *L) {
    static const luaL_Reg lock_methods[] = { {"release", lock_release}, {NULL, NULL} };
    lmoe_newtype(L, GZIP_TYPE, gzip_release, NULL);
    lmoe_newtype(L, LOCK_TYPE, lock_release, lock_methods);
}

void lmoe_add_files(lua_State *L) {
    static const luaL_Reg functions[] = {
        {"read", system_read},
        {"read_gzip", system_read_gzip},
        {"hash_file", system_hash_file},
        {"write", system_write},
        {"append", system_append},
        {"make_folder", system_make_folder},
        {"remove_tree", system_remove_tree},
        {"exists", system_exists},
        {"file_size", system_file_size},
        {"disk_free", system_disk_free},
        {"rename", system_rename},
        {"lock", system_lock},
        {NULL, NULL},
    };
    make_types(L);
    luaL_setfuncs(L, functions, 0);
}
