/* disk.h -- what files and folders have to go through before they are safe: everything written,
 * flushed, closed without complaint. All return 0 or an error number. */
#ifndef MOE_BASE_DISK_H
#define MOE_BASE_DISK_H

#include <stddef.h>
#include <sys/types.h>

#define MOE_AT_THE_END (-1)

/* Writes all bytes, at a place in the file or MOE_AT_THE_END of what was written before. */
int moe__disk_write(int fd, off_t at, const void *data, size_t size);
/* Flushes to the disk; what cannot be flushed (pipes, devices) needs none. */
int moe__disk_flush(int fd);
/* Closes, if there is something to close, and marks it as closed. */
int moe__disk_close(int *fd);
/* The length of the folder part of a path, with its slash. */
size_t moe__disk_folder_length(const char *path);
/* Makes a rename in the folder of `path` survive a power cut. A folder that may be entered but not
 * read cannot be flushed by us; the rename itself has happened. */
int moe__disk_flush_folder(const char *path);

#endif
