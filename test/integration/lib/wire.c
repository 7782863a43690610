/* The network between the hosts of a test, each of which is a namespace: a router in user space,
 * since not every kernel has one that loses and delays. A host's packets come from a TUN device
 * that the test moves into its namespace, so what is lost is lost for TCP, which sends it again.
 *
 *     wire SEED, and then, one a line, each answered by a line:
 *     host N DEVICE         host N (1 to 31) has the address 10.77.0.N and this new device
 *     way A B LOST MS       from A to B, of 1000 packets so many are lost, the rest is MS late
 *     floating A B          10.77.0.100, as A sees it, is B
 *     count                 packets that arrived, packets that were lost
 *
 * Both ways of a pair are apart: one may be cut, and the other not. It ends with its input. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/queue.h>
#include <time.h>
#include <unistd.h>

enum {
    HOSTS = 32,
    FLOATING = 100,
    WAITING = 2000, /* packets a way holds; a real one forgets as well */
    PACKET = 2048,
    LINE = 256,
    IP_HEADER = 20,
    IP_DESTINATION = 16,
};

struct packet {
    STAILQ_ENTRY(packet) entry;
    long long due;
    size_t len;
    unsigned char bytes[];
};
/* From one host to another. */
struct way {
    STAILQ_HEAD(, packet) waiting;
    int count, lost;
    long long late;
};

static struct way ways[HOSTS][HOSTS];
static int devices[HOSTS];
static int floating[HOSTS];
static uint64_t chance;
static long long arrived, gone;

static void fail(const char *what)
{
    fprintf(stderr, "wire: %s: %s\n", what, strerror(errno));
    exit(1);
}

static long long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Below 1000. */
static int dice(void)
{
    chance ^= chance << 13;
    chance ^= chance >> 7;
    chance ^= chance << 17;
    return (int)(chance % 1000);
}

/* A full queue of the device, or a host that is going down, loses it. */
static void deliver(int to, const unsigned char *bytes, size_t len)
{
    if (write(devices[to], bytes, len) == (ssize_t)len) arrived++;
    else gone++;
}

/* Hands over what is due, and tells the ms until more is; -1: nothing waits. */
static int deliver_due(void)
{
    long long now = now_ms(), first = -1;
    for (int i = 0; i < HOSTS * HOSTS; i++) {
        struct way *way = &ways[i / HOSTS][i % HOSTS];
        for (struct packet *packet; (packet = STAILQ_FIRST(&way->waiting));) {
            if (packet->due > now) {
                if (first < 0 || packet->due < first) first = packet->due;
                break;
            }
            STAILQ_REMOVE_HEAD(&way->waiting, entry);
            way->count--;
            deliver(i % HOSTS, packet->bytes, packet->len);
            free(packet);
        }
    }
    return first < 0 ? -1 : (int)(first - now);
}

/* A packet of a host: to whom it is, and whether it gets there. */
static void route(int from, const unsigned char *bytes, size_t len)
{
    if (len < IP_HEADER || bytes[0] >> 4 != 4) return; /* IPv6 looks for a router, in vain */
    const unsigned char *address = bytes + IP_DESTINATION;
    int to = address[3] == FLOATING ? floating[from] : address[3];
    if (address[0] != 10 || address[1] != 77 || to <= 0 || to >= HOSTS || devices[to] < 0) return;
    struct way *way = &ways[from][to];
    if (dice() < way->lost || way->count >= WAITING) {
        gone++;
    } else if (!way->late && STAILQ_EMPTY(&way->waiting)) {
        deliver(to, bytes, len);
    } else {
        struct packet *packet = malloc(sizeof *packet + len);
        if (!packet) fail("malloc");
        *packet = (struct packet){.due = now_ms() + way->late, .len = len};
        memcpy(packet->bytes, bytes, len);
        STAILQ_INSERT_TAIL(&way->waiting, packet, entry);
        way->count++;
    }
}

static void add_host(int host, const char *device)
{
    struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", device);
    devices[host] = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (devices[host] < 0) fail("/dev/net/tun");
    if (ioctl(devices[host], TUNSETIFF, &request)) fail(device);
}

static int is_host(int host)
{
    return host > 0 && host < HOSTS;
}

static void obey(const char *line)
{
    char device[IFNAMSIZ];
    int a, b, lost, late;
    if (sscanf(line, "host %d %15s", &a, device) == 2 && is_host(a)) {
        add_host(a, device);
    } else if (sscanf(line, "way %d %d %d %d", &a, &b, &lost, &late) == 4 && is_host(a) &&
               is_host(b)) {
        ways[a][b].lost = lost;
        ways[a][b].late = late;
    } else if (sscanf(line, "floating %d %d", &a, &b) == 2 && is_host(a) && is_host(b)) {
        floating[a] = b;
    } else if (strncmp(line, "count", 5)) {
        errno = EINVAL;
        fail(line);
    }
    printf("%lld %lld\n", arrived, gone);
    fflush(stdout);
}

/* Obeys whole lines of the input; false at its end. */
static int obey_input(void)
{
    static char text[LINE];
    static size_t len;
    ssize_t got = read(0, text + len, sizeof text - 1 - len);
    if (got <= 0) return 0;
    len += (size_t)got;
    text[len] = 0;
    for (char *end; (end = strchr(text, '\n'));) {
        *end = 0;
        obey(text);
        len -= (size_t)(end + 1 - text);
        memmove(text, end + 1, len + 1);
    }
    return 1;
}

/* Takes all that a host has sent. */
static void take_packets(int host)
{
    unsigned char bytes[PACKET];
    ssize_t len;
    while ((len = read(devices[host], bytes, sizeof bytes)) > 0) route(host, bytes, (size_t)len);
}

int main(int argc, char **argv)
{
    struct pollfd polled[HOSTS] = {{.fd = 0, .events = POLLIN}};
    chance = argc > 1 ? strtoull(argv[1], NULL, 10) * 2 + 1 : 1;
    for (int i = 0; i < HOSTS; i++) {
        devices[i] = -1;
        for (int j = 0; j < HOSTS; j++) STAILQ_INIT(&ways[i][j].waiting);
    }
    for (;;) {
        int timeout = deliver_due();
        for (int i = 1; i < HOSTS; i++)
            polled[i] = (struct pollfd){.fd = devices[i], .events = POLLIN};
        if (poll(polled, HOSTS, timeout) < 0 && errno != EINTR) fail("poll");
        for (int i = 1; i < HOSTS; i++)
            if (polled[i].revents) take_packets(i);
        if (polled[0].revents && !obey_input()) return 0;
    }
}
