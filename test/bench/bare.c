/* bare.c - the floor of the benchmark: the least that a WebSocket server with named users can cost.
 *
 *   gcc -std=c11 -O2 -Wall -Wextra -static -pthread -o bare bare.c;  ./bare [PORT]
 *
 * One thread, one epoll, 64 bytes a connection, indexed by descriptor. It shakes hands, says hello,
 * answers pings of all three kinds, and answers any other GET with a fixed user. A status is told
 * to everybody who follows anybody: a bare loop of send(), half of it in a second thread. It is a
 * yardstick and not a server: it checks nothing, keeps no timers and no table of users, and closes
 * a connection whose request or frame arrives in two pieces. PORT 0 or none: any free port.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 512, ACCEPTS = 64, INPUT_SIZE = 16384 };

/* What one connection costs here. */
struct connection {
    uint32_t last_seen;
    uint8_t upgraded, follows, id_size;
    char id[57];
};
_Static_assert(sizeof(struct connection) == 64, "the floor keeps 64 bytes a connection");

static const char hello[] = "{\"type\":\"hello\",\"user_id\":\"user\",\"connection_id\":"
                            "\"0000000000000000\",\"heartbeat_seconds\":25,\"server\":\"bare/1\"}";
static const char user[] =
    "{\"user_id\":\"user123\",\"online\":true,\"status\":\"online\",\"source\":\"live\","
    "\"connections\":1,"
    "\"connected_at\":\"2026-11-25T09:00:00.000Z\",\"last_seen\":\"2026-11-25T09:04:31.120Z\"}";
/* What ours says, in as many bytes: a frame of them has two more in its head. */
static const char snapshot[] = "{\"type\":\"snapshot\",\"users\":[]}";
static const char changed[] =
    "\x81\x7e\x00\xc0"
    "{\"type\":\"presence\",\"users\":[{\"user_id\":\"user0\",\"online\":true,\"status\":\"busy\","
    "\"source\":\"live\",\"connections\":1,\"connected_at\":\"2026-11-25T09:00:00.000Z\","
    "\"last_seen\":\"2026-11-25T09:04:31.120Z\"}]}";
static const char pong[] = "{\"type\":\"pong\",\"time\":\"2026-11-25T09:04:31.120Z\"}";

/* Rotates to the left. */
static uint32_t rotate(uint32_t value, int bits)
{
    return value << bits | value >> (32 - bits);
}

/* One block of SHA-1 (FIPS 180-4, 6.1.2). */
static void sha1_block(uint32_t hash[5], const unsigned char *p)
{
    static const uint32_t constant[4] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    uint32_t w[80], a = hash[0], b = hash[1], c = hash[2], d = hash[3], e = hash[4];
    for (int i = 0; i < 80; i++) {
        if (i < 16)
            w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 |
                   (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
        else
            w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
        uint32_t f = i < 20              ? (b & c) | (~b & d)
                     : i >= 40 && i < 60 ? (b & c) | (b & d) | (c & d)
                                         : b ^ c ^ d;
        uint32_t next = rotate(a, 5) + f + e + constant[i / 20] + w[i];
        e = d;
        d = c;
        c = rotate(b, 30);
        b = a;
        a = next;
    }
    hash[0] += a;
    hash[1] += b;
    hash[2] += c;
    hash[3] += d;
    hash[4] += e;
}

/* Writes the 28 characters of Sec-WebSocket-Accept for a key of 24 characters. */
static void make_accept(const char *key, char *out)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    unsigned char block[128] = {0}, digest[21] = {0};
    uint32_t hash[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    memcpy(block, key, 24);
    memcpy(block + 24, "258EAFA5-E914-47DA-95CA-C5AB0DC85B11\x80", 37);
    block[126] = 60 * 8 >> 8;
    block[127] = 60 * 8 & 255;
    sha1_block(hash, block);
    sha1_block(hash, block + 64);
    for (int i = 0; i < 20; i++) digest[i] = (unsigned char)(hash[i / 4] >> (24 - 8 * (i % 4)));
    for (int i = 0; i < 7; i++) {
        uint32_t three =
            (uint32_t)digest[3 * i] << 16 | (uint32_t)digest[3 * i + 1] << 8 | digest[3 * i + 2];
        for (int k = 0; k < 4; k++) out[4 * i + k] = digits[three >> (18 - 6 * k) & 63];
    }
    out[27] = '=';
}

/* Coarse monotonic seconds. */
static uint32_t now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint32_t)t.tv_sec;
}

/* Sends one unmasked frame of at most 125 bytes; -1 if it did not go. */
static int send_frame(int fd, int opcode, const char *text, size_t size)
{
    char frame[128] = {(char)(0x80 | opcode), (char)size};
    memcpy(frame + 2, text, size);
    return send(fd, frame, size + 2, MSG_NOSIGNAL) == (ssize_t)size + 2 ? 0 : -1;
}

/* Answers an upgrade with the 101 and the hello in one piece. */
static int upgrade(int fd, struct connection *c, const char *id, const char *key)
{
    char answer[512], accept[29] = "";
    size_t size = strcspn(id, " ?");
    make_accept(key, accept);
    int head =
        snprintf(answer, sizeof answer,
                 "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                 "Sec-WebSocket-Accept: %s\r\n\r\n\x81%c%s",
                 accept, (int)sizeof hello - 1, hello);
    c->id_size = (uint8_t)(size < sizeof c->id ? size : sizeof c->id);
    memcpy(c->id, id, c->id_size);
    c->upgraded = 1;
    c->last_seen = now_seconds();
    return send(fd, answer, (size_t)head, MSG_NOSIGNAL) == head ? 0 : -1;
}

/* A request: the upgrade, or a GET of the fixed user. -1: close. */
static int on_request(int fd, struct connection *c, char *p, size_t size)
{
    char answer[512];
    if (size < 16 || memcmp(p + size - 4, "\r\n\r\n", 4) || memcmp(p, "GET /", 5)) return -1;
    p[size] = 0;
    const char *key = strcasestr(p, "\r\nsec-websocket-key: ");
    if (!memcmp(p, "GET /ws/presence/", 17))
        return key && p + size - key > 45 ? upgrade(fd, c, p + 17, key + 21) : -1;
    int once = strcasestr(p, "\r\nconnection: close\r\n") != NULL;
    int length =
        snprintf(answer, sizeof answer,
                 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
                 "Content-Length: %zu\r\nConnection: %s\r\n\r\n%s",
                 sizeof user - 1, once ? "close" : "keep-alive", user);
    return send(fd, answer, (size_t)length, MSG_NOSIGNAL) == length && !once ? 0 : -1;
}

/* Those to whom a change is told, by descriptor; the second thread is woken and waited for. */
static struct connection *everybody;
static rlim_t everybody_end;
static sem_t second_begins, second_is_done;

/* Sends a change to every second one who follows. Who does not take it at once misses it. */
static void tell_half(rlim_t fd)
{
    for (; fd < everybody_end; fd += 2)
        if (everybody[fd].follows)
            send((int)fd, changed, sizeof changed - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* The second thread. */
static void *tell_second(void *nothing)
{
    for (;;) {
        while (sem_wait(&second_begins)) continue;
        tell_half(1);
        sem_post(&second_is_done);
    }
    return nothing;
}

/* Tells a change to all who follow, in two threads. */
static void tell(void)
{
    sem_post(&second_begins);
    tell_half(0);
    while (sem_wait(&second_is_done)) continue;
}

/* True when a text begins with another. */
static int begins(const unsigned char *text, size_t size, const char *with)
{
    return size >= strlen(with) && !memcmp(text, with, strlen(with));
}

/* Frames of a client, whole ones. -1: close. */
static int on_frames(int fd, struct connection *c, unsigned char *p, size_t size)
{
    while (size) {
        size_t length = size < 6 ? 0 : p[1] & 127;
        int opcode = p[0] & 15, sent = 0;
        if (size < 6 || length > 125 || size < 6 + length || opcode == 8) return -1;
        for (size_t i = 0; i < length; i++) p[6 + i] ^= p[2 + (i & 3)];
        c->last_seen = now_seconds();
        if (opcode == 9)
            sent = send_frame(fd, 10, (char *)p + 6, length);
        else if (opcode == 1 && length == 4)
            sent = send_frame(fd, 1, "pong", 4);
        else if (opcode == 1 && begins(p + 6, length, "{\"type\":\"watch\"")) {
            c->follows = 1;
            sent = send_frame(fd, 1, snapshot, sizeof snapshot - 1);
        } else if (opcode == 1 && begins(p + 6, length, "{\"type\":\"status\""))
            tell();
        else if (opcode == 1)
            sent = send_frame(fd, 1, pong, sizeof pong - 1);
        if (sent) return -1;
        p += 6 + length;
        size -= 6 + length;
    }
    return 0;
}

/* Takes up to ACCEPTS new connections. */
static void on_listener(int listener, int epoll, struct connection *all, rlim_t limit)
{
    for (int i = 0; i < ACCEPTS; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
        if (fd < 0) return;
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if ((rlim_t)fd >= limit || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event)) {
            close(fd);
            continue;
        }
        memset(&all[fd], 0, sizeof all[fd]);
        if ((rlim_t)fd >= everybody_end) everybody_end = (rlim_t)fd + 1;
    }
}

/* Something to read on a connection, or its end. */
static void on_connection(int fd, struct connection *c)
{
    static char input[INPUT_SIZE];
    ssize_t got = recv(fd, input, sizeof input - 1, 0);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0 || (c->upgraded ? on_frames(fd, c, (unsigned char *)input, (size_t)got)
                                 : on_request(fd, c, input, (size_t)got))) {
        c->follows = 0;
        close(fd);
    }
}

/* Binds to the loopback and says where; ends the program if it cannot. */
static int make_listener(int port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* accepted sockets inherit it */
    if (bind(fd, (void *)&address, size) || listen(fd, 4096) ||
        getsockname(fd, (void *)&address, &size)) {
        perror("bare: listen");
        exit(1);
    }
    fprintf(stderr, "listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    return fd;
}

int main(int argc, char **argv)
{
    static struct epoll_event events[EVENTS];
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    struct connection *all = mmap(NULL, sizeof *all * limit.rlim_cur, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int listener = make_listener(argc > 1 ? atoi(argv[1]) : 0), epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    pthread_t second;
    everybody = all;
    sem_init(&second_begins, 0, 0);
    sem_init(&second_is_done, 0, 0);
    if (pthread_create(&second, NULL, tell_second, NULL)) return 1;
    if (all == MAP_FAILED || epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event))
        return 1;
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                on_listener(listener, epoll, all, limit.rlim_cur);
            else
                on_connection(events[i].data.fd, &all[events[i].data.fd]);
        }
    }
}
