/* Preloaded into a dynamically linked presence: its time is under a test's hand.
 *
 * STEP_CLOCK names a file: UTC is off by the seconds written in it, the other clocks stay.
 * CLOCK_SPEED is a number: the monotonic clocks go so many times as fast from the start of the
 * process, and what is waited for a time takes as much less. UTC does so too with CLOCK_UTC. Once
 * there is a file of the name CLOCK_CALM, all go on from there as fast as time does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

enum { SECOND = 1000000000, CLOCKS = 16 };

static long speed = 1;
static long utc_speed = 1;
static long long began[CLOCKS]; /* ns of each clock */
static long long ahead[CLOCKS]; /* since it is calm: by how much */
static atomic_int calm;

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

static long speed_of(clockid_t id)
{
    if (id == CLOCK_REALTIME) return utc_speed;
    return id == CLOCK_MONOTONIC || id == CLOCK_BOOTTIME ? speed : 1;
}

static long long hurried_ns(clockid_t id)
{
    return began[id] + (real_ns(id) - began[id]) * speed_of(id);
}

/* Whether it is calm by now. */
static int is_calm(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const char *path = getenv("CLOCK_CALM");
    if (atomic_load(&calm) || !path || access(path, F_OK)) return atomic_load(&calm);
    pthread_mutex_lock(&lock);
    if (!atomic_load(&calm))
        for (int id = 0; id < CLOCKS; id++) ahead[id] = hurried_ns(id) - real_ns(id);
    atomic_store(&calm, 1);
    pthread_mutex_unlock(&lock);
    return 1;
}

int clock_gettime(clockid_t id, struct timespec *out)
{
    int result = (int)syscall(SYS_clock_gettime, id, out);
    if (result) return result;
    if (speed_of(id) > 1) *out = from_ns(is_calm() ? real_ns(id) + ahead[id] : hurried_ns(id));
    if (id == CLOCK_REALTIME) out->tv_sec += stepped();
    return 0;
}

/* ms to wait in place of `ms`: rounded up, so that nobody wakes too early and asks again at once. */
static int scaled_ms(int ms)
{
    return ms <= 0 || is_calm() ? ms : (int)((ms + speed - 1) / speed);
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
    long long ns = (long long)wait->tv_sec * SECOND + wait->tv_nsec;
    struct timespec less = from_ns(is_calm() ? ns : ns / speed);
    return next(set, info, &less);
}

/* Only conditions that go by the monotonic clock are waited for with a time. */
int pthread_cond_timedwait(pthread_cond_t *cond, pthread_mutex_t *mutex, const struct timespec *at)
{
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next) next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    long long ns = (long long)at->tv_sec * SECOND + at->tv_nsec, from = began[CLOCK_MONOTONIC];
    struct timespec real =
        from_ns(is_calm() ? ns - ahead[CLOCK_MONOTONIC] : from + (ns - from + speed - 1) / speed);
    return next(cond, mutex, &real);
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    int result = clock_gettime(CLOCK_REALTIME, &t);
    *out = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
    return result;
}
