/* Preloaded into a dynamically linked presence: UTC is off by the seconds written in the file that
 * STEP_CLOCK names. The monotonic clocks stay as they are. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *out)
{
    int result = (int)syscall(SYS_clock_gettime, id, out);
    const char *path = getenv("STEP_CLOCK");
    if (result || id != CLOCK_REALTIME || !path) return result;
    FILE *file = fopen(path, "r");
    long seconds = 0;
    if (file && fscanf(file, "%ld", &seconds) != 1) seconds = 0;
    if (file) fclose(file);
    out->tv_sec += seconds;
    return result;
}
