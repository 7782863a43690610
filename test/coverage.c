/* test/coverage.c - counts of the lines that ran; linked into the programs of `./build.sh coverage`.
 *
 * gcc's own library opens its file when a process ends. Under our tests that fails: by then the
 * process is inside its sandbox, or another user, or its disk is full; and hundreds of processes
 * would change one file. So each opens a file of its own before main, and writes into it at its end.
 * One that is killed leaves it empty, and what it counted is lost. */

#include <fcntl.h>
#include <gcov.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* What gcc knows of each object compiled with -fprofile-info-section=gcov_info: of one, in fact. */
extern const struct gcov_info *const __start_gcov_info[];
extern const struct gcov_info *const __stop_gcov_info[];

enum { HIGH = 900 }; /* descriptors below are the program's: tests count and close them */

static int file = -1;
static pid_t owner; /* a child made by fork() has the same file, and leaves it alone */

/* COVERAGE_DIR/PID-TIME/program.gcda: names and folders as gcov-tool merges them. */
__attribute__((constructor)) static void coverage_open(void)
{
    struct timespec now;
    char path[4096];
    clock_gettime(CLOCK_MONOTONIC, &now);
    owner = getpid();
    int n = snprintf(path, sizeof path, COVERAGE_DIR "/%d-%lld%09ld", (int)owner,
                     (long long)now.tv_sec, now.tv_nsec);
    if (mkdir(path, 0755)) return;
    snprintf(path + n, sizeof path - (size_t)n, "/program.gcda");
    int low = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (low < 0) return;
    file = fcntl(low, F_DUPFD_CLOEXEC, HIGH);
    if (file < 0) file = fcntl(low, F_DUPFD_CLOEXEC, 60); /* under a limit of 64 */
    if (file < 0) file = low;
    else close(low);
}

static void on_name(const char *name, void *argument)
{
    (void)name, (void)argument;
}

static void on_bytes(const void *bytes, unsigned size, void *argument)
{
    (void)argument;
    for (const char *at = bytes; size;) {
        ssize_t n = write(file, at, size);
        if (n <= 0) _exit(1); /* half a file is none: gcov-tool refuses it */
        at += n;
        size -= (unsigned)n;
    }
}

static void *on_memory(unsigned size, void *argument)
{
    (void)argument;
    return malloc(size);
}

__attribute__((destructor)) static void coverage_write(void)
{
    if (file < 0 || getpid() != owner) return;
    for (const struct gcov_info *const *info = __start_gcov_info; info < __stop_gcov_info; info++)
        __gcov_info_to_gcda(*info, on_name, on_bytes, on_memory, NULL);
}
