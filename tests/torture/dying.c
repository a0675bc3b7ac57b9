// Preloaded into a process: counts what it does to the files below a folder, and fails or dies at a chosen place.
//
//     arm(root/, mode, when)  from now on; mode: COUNT, DIE (before operation `when`, from 1), TEAR (the same, but a
//                             write has written its first half), FULL (from operation `when` on nothing can be
//                             written), ONCE (operation `when` alone cannot be)
//     done()                  how many operations there were
//
// An operation is each creation, write, truncation, flush to the disk, rename, removal: what a power cut or a kill can
// fall between. Every library is seen that calls libc by name, Python, Arrow and Rust's among them.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, DIE, TEAR, FULL, ONCE };
static int mode = OFF;
static long when, count;
static char root[PATH_MAX];

void arm(const char *folder, int how, long place) {
    snprintf(root, sizeof root, "%s", folder);
    count = 0;
    when = place;
    mode = how;
}
long done(void) { return __atomic_load_n(&count, __ATOMIC_SEQ_CST); }

static int below(const char *path) {
    if (mode == OFF || !path) return 0;
    if (path[0] == '/') return strncmp(path, root, strlen(root)) == 0;
    char here[PATH_MAX];
    return getcwd(here, sizeof here) && strncmp(here, root, strlen(root)) == 0;
}
static int of_file(int file) {
    char link[64], path[PATH_MAX];
    if (mode == OFF) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return path[0] == '/' && below(path);
}
// Whether the operation must fail. `grows`: it needs room on the disk.
static int reached(int grows) {
    long now = __atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST);
    if ((mode == DIE || mode == TEAR) && now == when) kill(getpid(), SIGKILL);
    if (grows && (mode == FULL ? now >= when : mode == ONCE && now == when)) {
        errno = ENOSPC;
        return 1;
    }
    return 0;
}
static int tears(void) { return mode == TEAR && __atomic_load_n(&count, __ATOMIC_SEQ_CST) + 1 == when; }

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define ON_PATH(name, declared, passed, path, grows) \
    int name declared { REAL(name); if (below(path) && reached(grows)) return -1; return real passed; }
#define ON_FILE(name, declared, passed, grows) \
    int name declared { REAL(name); if (of_file(file) && reached(grows)) return -1; return real passed; }

ON_PATH(rename, (const char *from, const char *to), (from, to), to, 0)
ON_PATH(renameat, (int one, const char *from, int other, const char *to), (one, from, other, to), to, 0)
ON_PATH(unlink, (const char *path), (path), path, 0)
ON_PATH(unlinkat, (int at, const char *path, int flags), (at, path, flags), path[0] == '/' ? path : root, 0)
ON_PATH(rmdir, (const char *path), (path), path, 0)
ON_PATH(mkdir, (const char *path, mode_t rights), (path, rights), path, 1)
ON_PATH(symlink, (const char *to, const char *path), (to, path), path, 1)
ON_FILE(fsync, (int file), (file), 0)
ON_FILE(fdatasync, (int file), (file), 0)
ON_FILE(ftruncate, (int file, off_t size), (file, size), 1)
ON_FILE(ftruncate64, (int file, off64_t size), (file, size), 1)

ssize_t write(int file, const void *data, size_t size) {
    REAL(write);
    if (of_file(file)) {
        if (tears()) real(file, data, size / 2);
        if (reached(1)) return -1;
    }
    return real(file, data, size);
}
ssize_t writev(int file, const struct iovec *parts, int number) {
    REAL(writev);
    if (of_file(file)) {
        if (tears()) real(file, parts, number / 2);
        if (reached(1)) return -1;
    }
    return real(file, parts, number);
}
ssize_t pwrite64(int file, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    if (of_file(file)) {
        if (tears()) real(file, data, size / 2, at);
        if (reached(1)) return -1;
    }
    return real(file, data, size, at);
}
ssize_t copy_file_range(int from, off64_t *begin, int file, off64_t *to, size_t size, unsigned flags) {
    REAL(copy_file_range);
    if (of_file(file)) {
        if (tears()) real(from, begin, file, to, size / 2, flags);
        if (reached(1)) return -1;
    }
    return real(from, begin, file, to, size, flags);
}

#define OPENS(name, declared, passed, path) \
    int name declared { \
        REAL(name); \
        mode_t rights = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { \
            va_list more; va_start(more, flags); rights = va_arg(more, mode_t); va_end(more); \
        } \
        if ((flags & (O_CREAT | O_TRUNC)) && below(path) && reached(flags & O_CREAT)) return -1; \
        return real passed; \
    }
OPENS(open, (const char *path, int flags, ...), (path, flags, rights), path)
OPENS(open64, (const char *path, int flags, ...), (path, flags, rights), path)
OPENS(openat, (int at, const char *path, int flags, ...), (at, path, flags, rights), path)
OPENS(openat64, (int at, const char *path, int flags, ...), (at, path, flags, rights), path)
