/* Lets a system call on files below a path fail, or kills the process before it; to be preloaded (LD_PRELOAD).

   FAILING_PATH   text that the path of a call contains; without this variable nothing happens
   FAILING_CALL   the kind of call: create (an open that can write), mkdir, rename, unlink (also rmdir), link (also
                  symlink), write, sync, truncate; open (to read), read, list, stat; or change: all that come before open; or all
   FAILING_AT     number of the call, from 1
   FAILING_COUNT  how many calls fail from there on; by default 1
   FAILING_WITH   an errno, or minus a signal that the process is sent before the call
   FAILING_LOG    file that gets a line with kind and path for each call that counts

   The variables are read at the first call for which they are set, so that a process may set them after a fork. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define LONGEST 4096

static const char *below, *kind;
static long first, count, fault;
static int record = -1, counted;

static long number(const char *name, long otherwise)
{
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static int is_armed(void)
{
    if (below)
        return 1;
    const char *path = getenv("FAILING_PATH");
    if (!path)
        return 0;
    const char *log = getenv("FAILING_LOG");
    kind = getenv("FAILING_CALL") ? getenv("FAILING_CALL") : "change";
    first = number("FAILING_AT", 0);
    count = number("FAILING_COUNT", 1);
    fault = number("FAILING_WITH", EIO);
    if (log)
        record = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    kind = strdup(kind);
    below = strdup(path);
    return 1;
}

static int is_wanted(const char *call)
{
    static const char *const reading[] = {"open", "read", "list", "stat"};
    if (!strcmp(kind, "all"))
        return 1;
    if (strcmp(kind, "change"))
        return !strcmp(kind, call);
    for (int i = 0; i < 4; i++)
        if (!strcmp(reading[i], call))
            return 0;
    return 1;
}

/* Whether this call shall fail; errno is set then. */
static int fails(const char *call, const char *path)
{
    if (!path || !is_wanted(call) || !strstr(path, below))
        return 0;
    int before = errno;
    int now = __sync_add_and_fetch(&counted, 1);
    if (record >= 0) {
        char line[LONGEST + 64];
        int length = snprintf(line, sizeof line, "%s %s\n", call, path);
        syscall(SYS_write, record, line, length);
    }
    errno = before;
    if (!first || now < first || now >= first + count)
        return 0;
    if (fault < 0)
        kill(getpid(), (int)-fault);
    errno = (int)fault;
    return 1;
}

static int fails_at(const char *call, int directory, const char *path)
{
    char whole[2 * LONGEST], link[64];
    if (!is_armed() || !path)
        return 0;
    if (path[0] == '/' || directory == AT_FDCWD)
        return fails(call, path);
    snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
    ssize_t length = readlink(link, whole, LONGEST);
    if (length < 0)
        return 0;
    snprintf(whole + length, LONGEST, "/%s", path);
    return fails(call, whole);
}

static int fails_on(const char *call, int descriptor)
{
    char path[LONGEST], link[64];
    if (!is_armed())
        return 0;
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(call, path);
}

/* Define `name`, which asks `condition` before it calls the function of that name in the next library. */
#define WRAP(type, failed, name, parameters, arguments, condition)           \
    type name parameters                                                     \
    {                                                                        \
        static type(*next) parameters;                                       \
        if (!next)                                                           \
            next = (type(*) parameters)dlsym(RTLD_NEXT, #name);              \
        return (condition) ? (failed) : next arguments;                      \
    }

static const char *open_kind(int flags)
{
    return (flags & (O_CREAT | O_TRUNC | O_APPEND)) || (flags & O_ACCMODE) != O_RDONLY ? "create" : "open";
}

#define WRAP_OPEN(name)                                                      \
    int name(const char *path, int flags, ...)                               \
    {                                                                        \
        static int (*next)(const char *, int, ...);                          \
        va_list more;                                                        \
        va_start(more, flags);                                               \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                        \
        if (!next)                                                           \
            next = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        return fails_at(open_kind(flags), AT_FDCWD, path) ? -1 : next(path, flags, mode); \
    }
#define WRAP_OPENAT(name)                                                    \
    int name(int directory, const char *path, int flags, ...)                \
    {                                                                        \
        static int (*next)(int, const char *, int, ...);                     \
        va_list more;                                                        \
        va_start(more, flags);                                               \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0; \
        va_end(more);                                                        \
        if (!next)                                                           \
            next = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        return fails_at(open_kind(flags), directory, path) ? -1 : next(directory, path, flags, mode); \
    }
WRAP_OPEN(open)
WRAP_OPEN(open64)
WRAP_OPENAT(openat)
WRAP_OPENAT(openat64)

WRAP(int, -1, mkdir, (const char *path, mode_t mode), (path, mode), fails_at("mkdir", AT_FDCWD, path))
WRAP(int, -1, mkdirat, (int at, const char *path, mode_t mode), (at, path, mode), fails_at("mkdir", at, path))
WRAP(int, -1, rename, (const char *a, const char *b), (a, b), fails_at("rename", AT_FDCWD, b))
WRAP(int, -1, renameat, (int at, const char *a, int to, const char *b), (at, a, to, b), fails_at("rename", to, b))
WRAP(int, -1, renameat2, (int at, const char *a, int to, const char *b, unsigned f), (at, a, to, b, f),
     fails_at("rename", to, b))
WRAP(int, -1, unlink, (const char *path), (path), fails_at("unlink", AT_FDCWD, path))
WRAP(int, -1, unlinkat, (int at, const char *path, int flags), (at, path, flags), fails_at("unlink", at, path))
WRAP(int, -1, rmdir, (const char *path), (path), fails_at("unlink", AT_FDCWD, path))
WRAP(int, -1, symlink, (const char *to, const char *path), (to, path), fails_at("link", AT_FDCWD, path))
WRAP(int, -1, symlinkat, (const char *to, int at, const char *path), (to, at, path), fails_at("link", at, path))
WRAP(int, -1, link, (const char *a, const char *b), (a, b), fails_at("link", AT_FDCWD, b))
WRAP(int, -1, linkat, (int at, const char *a, int to, const char *b, int f), (at, a, to, b, f), fails_at("link", to, b))
WRAP(ssize_t, -1, write, (int fd, const void *from, size_t size), (fd, from, size), fails_on("write", fd))
WRAP(ssize_t, -1, pwrite, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at), fails_on("write", fd))
WRAP(ssize_t, -1, pwrite64, (int fd, const void *from, size_t size, off_t at), (fd, from, size, at),
     fails_on("write", fd))
WRAP(ssize_t, -1, writev, (int fd, const struct iovec *from, int parts), (fd, from, parts), fails_on("write", fd))
WRAP(int, -1, fsync, (int fd), (fd), fails_on("sync", fd))
WRAP(int, -1, fdatasync, (int fd), (fd), fails_on("sync", fd))
WRAP(int, -1, ftruncate, (int fd, off_t size), (fd, size), fails_on("truncate", fd))
WRAP(int, -1, ftruncate64, (int fd, off_t size), (fd, size), fails_on("truncate", fd))
WRAP(int, -1, truncate, (const char *path, off_t size), (path, size), fails_at("truncate", AT_FDCWD, path))
WRAP(int, -1, truncate64, (const char *path, off_t size), (path, size), fails_at("truncate", AT_FDCWD, path))
WRAP(ssize_t, -1, read, (int fd, void *into, size_t size), (fd, into, size), fails_on("read", fd))
WRAP(ssize_t, -1, pread, (int fd, void *into, size_t size, off_t at), (fd, into, size, at), fails_on("read", fd))
WRAP(ssize_t, -1, pread64, (int fd, void *into, size_t size, off_t at), (fd, into, size, at), fails_on("read", fd))
WRAP(ssize_t, -1, readv, (int fd, const struct iovec *into, int parts), (fd, into, parts), fails_on("read", fd))
WRAP(DIR *, NULL, opendir, (const char *path), (path), fails_at("list", AT_FDCWD, path))
WRAP(DIR *, NULL, fdopendir, (int fd), (fd), fails_on("list", fd))

struct stat;
struct stat64;
WRAP(int, -1, stat, (const char *path, struct stat *into), (path, into), fails_at("stat", AT_FDCWD, path))
WRAP(int, -1, stat64, (const char *path, struct stat64 *into), (path, into), fails_at("stat", AT_FDCWD, path))
WRAP(int, -1, lstat, (const char *path, struct stat *into), (path, into), fails_at("stat", AT_FDCWD, path))
WRAP(int, -1, lstat64, (const char *path, struct stat64 *into), (path, into), fails_at("stat", AT_FDCWD, path))
WRAP(int, -1, fstatat, (int at, const char *path, struct stat *into, int flags), (at, path, into, flags),
     fails_at("stat", at, path))
WRAP(int, -1, fstatat64, (int at, const char *path, struct stat64 *into, int flags), (at, path, into, flags),
     fails_at("stat", at, path))
