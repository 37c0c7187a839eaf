/* A disk that is full while a file says so: preloaded, it lets writes to files below FULL_FOLDER fail with
 * ENOSPC as long as the file FULL_FLAG exists. The first write that meets it is cut in half, as by a disk that
 * has a few bytes left. What the disk has set aside for a file already can still be written; with
 * FULL_SETS_NOTHING_ASIDE it cannot do that for any, as some network file systems.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int bytes_left; /* the half of a write has been let through */

/* Whether the disk below this file is full at the moment. */
static int full(int fd) {
    const char *folder = getenv("FULL_FOLDER"), *flag = getenv("FULL_FLAG");
    if (!folder || !flag || access(flag, F_OK) != 0) {
        bytes_left = 1;
        return 0;
    }
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int sets_nothing_aside(void) { return getenv("FULL_SETS_NOTHING_ASIDE") != NULL; }

static int set_aside(int fd, off64_t end) {
    struct stat64 file;
    return !sets_nothing_aside() && fstat64(fd, &file) == 0 && end <= file.st_size;
}

static ssize_t no_space(void) {
    errno = ENOSPC;
    return -1;
}

ssize_t write(int fd, const void *data, size_t size) {
    ssize_t (*next)(int, const void *, size_t) =
        (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (!full(fd)) return next(fd, data, size);
    if (!bytes_left || size < 2) return no_space();
    bytes_left = 0;
    return next(fd, data, size / 2);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    ssize_t (*next)(int, const void *, size_t, off_t) =
        (ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    return full(fd) && !set_aside(fd, at + (off64_t)size) ? no_space() : next(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    ssize_t (*next)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    return full(fd) && !set_aside(fd, at + (off64_t)size) ? no_space() : next(fd, data, size, at);
}

int posix_fallocate(int fd, off_t at, off_t size) {
    int (*next)(int, off_t, off_t) = (int (*)(int, off_t, off_t))dlsym(RTLD_NEXT, "posix_fallocate");
    if (sets_nothing_aside()) return EOPNOTSUPP;
    return full(fd) ? ENOSPC : next(fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    int (*next)(int, off64_t, off64_t) = (int (*)(int, off64_t, off64_t))dlsym(RTLD_NEXT, "posix_fallocate64");
    if (sets_nothing_aside()) return EOPNOTSUPP;
    return full(fd) ? ENOSPC : next(fd, at, size);
}
