/* Preloaded into a dynamically linked presence: its time is under a test's hand.
 *
 * STEP_CLOCK names a file: UTC is off by the seconds written in it, the other clocks stay.
 * CLOCK_SPEED is a number: the monotonic clocks go so many times as fast from the start of the
 * process, and what is waited for a time takes as much less. UTC does so too with CLOCK_UTC. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { SECOND = 1000000000, CLOCKS = 16 };

static long speed = 1;
static long utc_speed = 1;
static long long began[CLOCKS]; /* ns of each clock */

static long long real_ns(clockid_t id)
{
    struct timespec t = {0};
    syscall(SYS_clock_gettime, id, &t);
    return (long long)t.tv_sec * SECOND + t.tv_nsec;
}

static struct timespec from_ns(long long ns)
{
    return (struct timespec){.tv_sec = ns / SECOND, .tv_nsec = ns % SECOND};
}

__attribute__((constructor)) static void clock_begin(void)
{
    const char *text = getenv("CLOCK_SPEED");
    for (int id = 0; id < CLOCKS; id++) began[id] = real_ns(id);
    if (text) speed = atol(text);
    if (getenv("CLOCK_UTC")) utc_speed = speed;
}

static long stepped(void)
{
    const char *path = getenv("STEP_CLOCK");
    FILE *file = path ? fopen(path, "r") : NULL;
    long seconds = 0;
    if (file && fscanf(file, "%ld", &seconds) != 1) seconds = 0;
    if (file) fclose(file);
    return seconds;
}

int clock_gettime(clockid_t id, struct timespec *out)
{
    int result = (int)syscall(SYS_clock_gettime, id, out);
    if (result) return result;
    long times = id == CLOCK_REALTIME                            ? utc_speed
                 : id == CLOCK_MONOTONIC || id == CLOCK_BOOTTIME ? speed
                                                                 : 1;
    if (times > 1) *out = from_ns(began[id] + (real_ns(id) - began[id]) * times);
    if (id == CLOCK_REALTIME) out->tv_sec += stepped();
    return 0;
}

/* ms to wait in place of `ms`: rounded up, so that nobody wakes too early and asks again at once. */
static int scaled_ms(int ms)
{
    return ms <= 0 ? ms : (int)((ms + speed - 1) / speed);
}

int epoll_wait(int epoll, struct epoll_event *events, int most, int ms)
{
    static int (*next)(int, struct epoll_event *, int, int);
    if (!next) next = dlsym(RTLD_NEXT, "epoll_wait");
    return next(epoll, events, most, scaled_ms(ms));
}

int poll(struct pollfd *fds, nfds_t count, int ms)
{
    static int (*next)(struct pollfd *, nfds_t, int);
    if (!next) next = dlsym(RTLD_NEXT, "poll");
    return next(fds, count, scaled_ms(ms));
}

int sigtimedwait(const sigset_t *set, siginfo_t *info, const struct timespec *wait)
{
    static int (*next)(const sigset_t *, siginfo_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "sigtimedwait");
    struct timespec less = from_ns(((long long)wait->tv_sec * SECOND + wait->tv_nsec) / speed);
    return next(set, info, &less);
}

/* Only conditions that go by the monotonic clock are waited for with a time. */
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *at)
{
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    long long ns = (long long)at->tv_sec * SECOND + at->tv_nsec, from = began[CLOCK_MONOTONIC];
    struct timespec real = from_ns(from + (ns - from + speed - 1) / speed);
    return next(cond, mutex, &real);
}
