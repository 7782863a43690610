/* load.c - the load generator of the benchmark: Linux, epoll, loopback only; TLS by OpenSSL.
 *
 *   gcc -std=c11 -O2 -Wall -Wextra -o load load.c -lssl -lcrypto
 *
 *   load hold    --port P --pid S -n N                    hold N users
 *                [--rate R --seconds T --beat text]       and send R heartbeats a second
 *                [--rate R --seconds T --beat status]     or R changes of their statuses
 *                [--rate R --seconds T --watch user0]     or follow user0, who changes R times
 *                [--watch all]                            or everybody follow everybody
 *                [--silent [--rate R --seconds T]]        or never send a byte, or R bytes a
 *                                                         second of a request that never ends
 *   load connect --port P --pid S -n N -c C               upgrade, wait for the hello, close
 *   load http    --port P --pid S -c C --seconds T        GET again and again
 *                [--once] [--path /api/presence/user{i}]
 *   load handshake --port P --pid S -c C --seconds T      shake hands again and again
 *                [--rate R] [--resume] [--tls-version 1.2]
 *   load start   --port P --path /x --with 'exec CMD'     start CMD, time until it answers, end it
 *   load measure --pid S                                  memory and CPU time as they are
 *
 * With --tls hold, connect and http speak TLS, with what browsers offer in their order; --resume
 * resumes sessions, --tls-version allows one version. No certificate is checked.
 *
 * The parent forks workers, tells them by a phase number in shared memory what to do, measures
 * the server (--pid) before, between and after, and prints one line of JSON. Each worker holds at
 * most SOCKETS_PER_WORKER sockets, so that N may pass the descriptor limit of one process, and
 * binds source addresses of its own, so that none runs out of ports.
 *
 * What is timed: for a connection from socket() to the server's first message; for a heartbeat
 * from send() to the answer in our hands; for a request from send() (with --once from socket()) to
 * the last byte of the answer; for a handshake from socket() to the moment in which we may send
 * (the connection ends when its ticket has come); for a followed change, and with --stamp for a
 * heartbeat, from send() to the arrival of the answer in our kernel (a receive timestamp), so that
 * what we take to read ten thousand sockets, or to get a processor, is not blamed on the server.
 * A heartbeat that comes due while the connection still waits for an answer is skipped and counted.
 *
 * Everything has an end: counts and times are bounded, every connection has CONNECT_TIMEOUT,
 * workers die with their parent, and LIFETIME ends whatever is left. SIGINT and SIGTERM end a run
 * early and still print. Exit: 0 measured, 1 something failed (the line says what), 2 wrong usage.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- 1. Limits and types ------------------------------------------------------------------ */

enum {
    SOCKETS_PER_WORKER = 18000, /* the machine allows a process 20,000 descriptors */
    WORKERS_MAX = 60,
    SOURCES_MAX = 60000, /* 127.0.1.1 to 127.0.235.96 */
    SECONDS_MAX = 600,
    LIFETIME = 1200,      /* seconds until the whole program ends, come what may */
    CONNECT_TIMEOUT = 20, /* seconds a connection may take to open */
    DRAIN_TIMEOUT = 5,    /* seconds to wait for the last answers */
    INPUT_SIZE = 1 << 16,
    RECORD_SIZE = 1 << 15, /* more than a TLS record that is not whole yet */
    EVENTS = 512,
    THREADS_MAX = 4096,
    SUB_BITS = 6,             /* 64 steps for each power of two: 1.6 % */
    BUCKETS = 36 << SUB_BITS, /* reaches 2^41 ns, 36 minutes */
};

/* Key and answer of RFC 6455, section 1.3. */
#define WS_KEY    "dGhlIHNhbXBsZSBub25jZQ=="
#define WS_ACCEPT "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

enum phase { PHASE_START, PHASE_CONNECT, PHASE_HELD, PHASE_RUN, PHASE_CLOSE, PHASE_EXIT };
enum mode { MODE_HOLD, MODE_CONNECT, MODE_HTTP, MODE_HANDSHAKE, MODE_START, MODE_MEASURE, MODES };
static const char *const mode_names[MODES] = {"hold",      "connect", "http",
                                              "handshake", "start",   "measure"};

/* Set by parse_options, never changed afterwards. */
struct options {
    enum mode mode;
    const char *host; /* destination, in 127.0.0.0/8 */
    int port;
    int pid;             /* the server, 0: not measured */
    const char *path;    /* {i}: the connection's number, in http mode the request's modulo users */
    const char *header;  /* one more header line, without its line end, or NULL */
    const char *beat;    /* text, json, frame; or status: changes of all users in place of these */
    const char *with;    /* shell command that runs while the seconds of the run pass */
    const char *watch;   /* the id of connection 0, which all others follow; "all"; or NULL */
    int count;           /* connections */
    int users;           /* http: ids are 0 .. users-1 */
    int inflight;        /* connections under way, or http connections */
    int sources;         /* source addresses a worker */
    int once;            /* http: a connection for each request */
    int silent;          /* hold: never send anything but single bytes, `rate` of them a second */
    int tls;             /* speak TLS */
    int resume;          /* resume TLS sessions */
    const char *version; /* of TLS, the only one allowed, or NULL */
    int stamp;           /* answers are timed by the kernel's receive timestamp */
    int clean;           /* end with a close frame and FIN, not with RST */
    double rate;         /* heartbeats, changes, bytes or handshakes a second */
    double seconds;      /* of the run phase */
    double settle;       /* pause before a measurement */
    double look;         /* pause between two looks of those who follow */
};

struct histogram {
    uint64_t total, largest;
    uint32_t bucket[BUCKETS];
};

/* What a worker reports; in shared memory, written by that worker only. */
struct stats {
    long connected;       /* upgraded and greeted, or for http, handshake: connections made */
    long failed;          /* did not get that far, or for http: bad or missing answers */
    long shaken, resumed; /* TLS handshakes; those of them that resumed a session */
    long dropped;         /* closed by the server afterwards */
    long sent, answered;  /* heartbeats, requests, changes, and what came back; handshakes */
    long skipped;         /* heartbeats not sent: the one before was unanswered */
    long pings;           /* ping frames of the server, all answered */
    long other;           /* messages that were nothing of what we wait for */
    long bytes;           /* http: received */
    uint64_t ended_at;    /* when the connect phase, then the run phase, was over */
    _Atomic int reached;  /* the last phase this worker has finished */
    char error[96];       /* the first one */
    struct histogram connecting, answering;
};

struct shared {
    _Atomic int phase;
    _Atomic int stop;         /* end the run phase early */
    _Atomic uint64_t changed; /* realtime of the last status change of connection 0 */
    uint64_t started_at;      /* of the present phase */
    int workers;
    struct stats stats[WORKERS_MAX];
};

enum state {
    STATE_NONE,
    STATE_CONNECTING,
    STATE_SHAKING,
    STATE_TICKET,
    STATE_HEAD,
    STATE_BODY,
    STATE_GREETING,
    STATE_SNAPSHOT,
    STATE_OPEN
};

struct connection {
    int fd;
    uint8_t state;
    uint8_t last;   /* http: the server closes behind this answer */
    uint8_t ticket; /* a session that can be resumed has come */
    uint16_t kept;  /* bytes at rest */
    long left;      /* bytes of an HTTP body still to come, with --silent: bytes sent; with
                       --watch all: snapshots still to come */
    uint64_t since; /* the start of what is being timed, 0: nothing */
    char *rest;     /* the beginning of a head or frame that was cut in two */
    SSL *ssl;       /* with --tls, from the TCP connection's beginning to its end */
};

struct worker {
    const struct options *opt;
    struct shared *shared;
    struct stats *stats;
    struct connection *connections;
    struct epoll_event *events;
    char *input, *raw; /* what came; for TLS, as it came */
    SSL_CTX *tls;
    SSL_SESSION *session; /* the last one that came, with --resume */
    int number, epoll;
    long first, count;                /* its connections' numbers */
    long started, under_way, waiting; /* connections begun, not yet open; answers awaited */
    long requests;                    /* http: counter for {i} */
    uint64_t received_at;             /* realtime stamp of the last read, only with --stamp */
    char head[512], tail[640];        /* the request around the number */
    int numbered;                     /* the path has an {i} */
    unsigned char message[64];        /* a whole heartbeat frame */
    size_t message_size;
};

/* The server at one moment. Sizes in KiB. */
struct sample {
    long rss, pss, anonymous, dirty;
    double cpu;
    int threads;
    struct {
        int id;
        char name[24];
        double cpu;
    } thread[THREADS_MAX];
};

/* ---- 2. Clock, histogram ------------------------------------------------------------------ */

/* Nanoseconds of the given clock. */
static uint64_t clock_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Nanoseconds since some fixed moment, the same one for all processes. */
static uint64_t now_ns(void)
{
    return clock_ns(CLOCK_MONOTONIC);
}

/* Sleeps; a signal ends it early, so that a run can be cut short. */
static void nap(double seconds)
{
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    if (seconds > 0) nanosleep(&t, NULL);
}

/* Counts one value in nanoseconds. */
static void histogram_add(struct histogram *h, uint64_t value)
{
    unsigned index = (unsigned)value;
    if (value >= 1u << SUB_BITS) {
        unsigned shift = 63 - SUB_BITS - (unsigned)__builtin_clzll(value);
        index = (shift << SUB_BITS) + (unsigned)(value >> shift);
    }
    h->bucket[index < BUCKETS ? index : BUCKETS - 1]++;
    h->total++;
    if (value > h->largest) h->largest = value;
}

/* The value that the given share of all values lie below, in milliseconds; 0 without values. */
static double histogram_ms(const struct histogram *h, double share)
{
    uint64_t rank = (uint64_t)((double)h->total * share), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += h->bucket[i];
        if (seen <= rank) continue;
        unsigned shift = i >> SUB_BITS ? (i >> SUB_BITS) - 1 : 0;
        return (double)((uint64_t)(i - (shift << SUB_BITS)) << shift) / 1e6;
    }
    return (double)h->largest / 1e6;
}

/* ---- 3. The server, seen from outside ----------------------------------------------------- */

/* A number of /proc/PID/FILE behind the given key, -1 if it is not there. */
static long proc_field(int pid, const char *file, const char *key)
{
    char line[256];
    long value = -1;
    snprintf(line, sizeof line, "/proc/%d/%s", pid, file);
    FILE *f = fopen(line, "r");
    while (f && value < 0 && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) value = strtol(line + strlen(key), NULL, 10);
    if (f) fclose(f);
    return value;
}

/* Reads the first line of a thread's file into line; returns 0, or -1 if the thread is gone. */
static int task_line(int pid, int task, const char *file, char *line, int size)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/task/%d/%s", pid, task, file);
    FILE *f = fopen(path, "r");
    if (!f) return -1;
    char *got = fgets(line, size, f);
    fclose(f);
    return got ? 0 : -1;
}

/* CPU seconds of a thread: nanoseconds of the scheduler where it counts them, else clock ticks. */
static double task_cpu(int pid, int task)
{
    char line[512];
    unsigned long user = 0, system = 0;
    if (!task_line(pid, task, "schedstat", line, sizeof line))
        return (double)strtoull(line, NULL, 10) / 1e9;
    if (task_line(pid, task, "stat", line, sizeof line) || !strrchr(line, ')')) return 0;
    sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user,
           &system);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* Fills in the CPU time of every thread and their sum. */
static void sample_cpu(struct sample *s, int pid)
{
    char path[64];
    s->cpu = 0;
    s->threads = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir)) && s->threads < THREADS_MAX;) {
        int task = atoi(e->d_name), i = s->threads;
        if (task <= 0 || task_line(pid, task, "comm", s->thread[i].name, sizeof s->thread[i].name))
            continue;
        s->thread[i].name[strcspn(s->thread[i].name, "\n\"\\ ")] = 0;
        s->thread[i].id = task;
        s->thread[i].cpu = task_cpu(pid, task);
        s->cpu += s->thread[i].cpu;
        s->threads++;
    }
    if (dir) closedir(dir);
}

/* Measures memory and CPU time; all -1 and 0 if there is no such process. */
static void sample_take(struct sample *s, int pid)
{
    memset(s, 0, sizeof *s);
    if (!pid) return;
    s->rss = proc_field(pid, "smaps_rollup", "Rss:");
    s->pss = proc_field(pid, "smaps_rollup", "Pss:");
    s->anonymous = proc_field(pid, "smaps_rollup", "Anonymous:");
    s->dirty = proc_field(pid, "smaps_rollup", "Private_Dirty:");
    sample_cpu(s, pid);
}

/* CPU seconds that a thread of `after` used since `before`. */
static double thread_cpu_since(const struct sample *before, const struct sample *after, int i)
{
    for (int k = 0; k < before->threads; k++)
        if (before->thread[k].id == after->thread[i].id)
            return after->thread[i].cpu - before->thread[k].cpu;
    return after->thread[i].cpu;
}

/* ---- 4. One connection -------------------------------------------------------------------- */

/* Remembers the worker's first error, for the report. */
static void note_error(struct worker *w, const char *what, const char *detail)
{
    if (w->stats->error[0]) return;
    snprintf(w->stats->error, sizeof w->stats->error, "%s: %.60s", what, detail);
    for (char *p = w->stats->error; *p; p++)
        if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ') *p = ' ';
}

/* Whether connections are there for requests, or handshakes, and not for WebSockets. */
static int is_request_mode(const struct options *o)
{
    return o->mode == MODE_HTTP || o->mode == MODE_HANDSHAKE;
}

/* Closes the socket and forgets what was cut; the connection may be used again. */
static void connection_close(struct connection *c)
{
    if (c->ssl) SSL_set_shutdown(c->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(c->ssl); /* its session lives on, having ended well */
    if (c->fd >= 0) close(c->fd);
    free(c->rest);
    *c = (struct connection){.fd = -1};
}

/* The server, or we, gave up on it: counts that as the state demands and closes it. */
static void connection_fail(struct worker *w, struct connection *c, const char *what,
                            const char *detail)
{
    note_error(w, what, detail);
    if (is_request_mode(w->opt)) {
        w->stats->failed++;
    } else if (c->state == STATE_OPEN) {
        w->stats->dropped++;
        w->waiting -= c->since != 0;
    } else {
        w->stats->failed++;
        w->under_way--;
    }
    connection_close(c);
}

/* Sends all or fails the connection: what we send always fits an idle socket's buffer. */
static int connection_send(struct worker *w, struct connection *c, const void *bytes, size_t size)
{
    ssize_t sent = c->ssl ? SSL_write(c->ssl, bytes, (int)size)
                          : send(c->fd, bytes, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent == (ssize_t)size) return 0;
    connection_fail(w, c, "send", strerror(errno));
    return -1;
}

/* Keeps the beginning of something whose end has not come yet. */
static void connection_keep(struct worker *w, struct connection *c, const char *bytes, size_t size)
{
    char *rest = NULL;
    if (size && size <= UINT16_MAX && (rest = malloc(size))) memcpy(rest, bytes, size);
    free(c->rest);
    c->rest = rest;
    c->kept = rest ? (uint16_t)size : 0;
    if (size && !rest) connection_fail(w, c, "read", "a head or frame is too long");
}

/* What came is TLS. Unless that is part of the handshake, deciphers it behind what was kept, and
 * returns as connection_receive does. */
static long connection_decipher(struct worker *w, struct connection *c, int size)
{
    int got, total = c->kept;
    BIO_write(SSL_get_rbio(c->ssl), w->raw, size);
    if (c->state == STATE_SHAKING) return size;
    if (c->kept) memcpy(w->input, c->rest, c->kept);
    while ((got = SSL_read(c->ssl, w->input + total, INPUT_SIZE + RECORD_SIZE - 1 - total)) > 0)
        total += got;
    w->input[total] = 0;
    if (total > c->kept) return total;
    return SSL_get_error(c->ssl, got) == SSL_ERROR_WANT_READ ? 0 : -1;
}

/* Reads behind what was kept; with --stamp it also notes when the bytes came in. Returns what is
 * now in the worker's input, 0 if nothing came, -1 at the end. */
static long connection_receive(struct worker *w, struct connection *c)
{
    char control[128];
    struct iovec part = {c->ssl ? w->raw : w->input + c->kept, INPUT_SIZE - 1 - (size_t)c->kept};
    struct msghdr m = {.msg_iov = &part,
                       .msg_iovlen = 1,
                       .msg_control = control,
                       .msg_controllen = sizeof control};
    ssize_t got = w->opt->stamp ? recvmsg(c->fd, &m, MSG_DONTWAIT)
                                : recv(c->fd, part.iov_base, part.iov_len, MSG_DONTWAIT);
    if (got <= 0) return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -1;
    for (struct cmsghdr *h = w->opt->stamp ? CMSG_FIRSTHDR(&m) : NULL; h; h = CMSG_NXTHDR(&m, h)) {
        struct timespec t;
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SO_TIMESTAMPNS) continue;
        memcpy(&t, CMSG_DATA(h), sizeof t);
        w->received_at = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    if (c->ssl) return connection_decipher(w, c, (int)got);
    if (c->kept) memcpy(w->input, c->rest, c->kept);
    w->input[c->kept + got] = 0;
    return c->kept + got;
}

/* Makes a masked frame of up to 125 bytes; returns its size. */
static size_t frame_make(unsigned char *out, int opcode, const void *payload, size_t size)
{
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    out[0] = (unsigned char)(0x80 | opcode);
    out[1] = (unsigned char)(0x80 | size);
    memcpy(out + 2, mask, 4);
    for (size_t i = 0; i < size; i++)
        out[6 + i] = ((const unsigned char *)payload)[i] ^ mask[i & 3];
    return size + 6;
}

/* Finds the server's frame at p: sets the sizes of its parts. 0 if not all of it is there. */
static int frame_find(const unsigned char *p, size_t size, size_t *head, size_t *payload)
{
    if (size < 2) return 0;
    *head = 2;
    *payload = p[1] & 127;
    if (*payload == 126 && size >= 4) {
        *head = 4;
        *payload = (size_t)p[2] << 8 | p[3];
    } else if (*payload >= 126) {
        return 0; /* head incomplete, or a 64-bit length, which no presence message has */
    }
    return size >= *head + *payload;
}

/* ---- 5. WebSocket ------------------------------------------------------------------------- */

/* Whether a message of the server begins so. */
static int begins(const char *p, size_t size, const char *with)
{
    return size >= strlen(with) && !memcmp(p, with, strlen(with));
}

/* We have had enough of it: ends it, with a close frame if it is to be clean. */
static void ws_close(struct worker *w, struct connection *c)
{
    unsigned char frame[16];
    size_t size = frame_make(frame, 8, "\x03\xe8", 2);
    if (w->opt->clean && c->state == STATE_OPEN && !is_request_mode(w->opt) &&
        connection_send(w, c, frame, size))
        return;
    if (w->opt->clean && c->ssl) SSL_shutdown(c->ssl);
    connection_close(c);
}

/* The connection is what it shall be: time it, and in connect mode close it again. */
static void ws_opened(struct worker *w, struct connection *c)
{
    histogram_add(&w->stats->connecting, now_ns() - c->since);
    w->stats->connected++;
    w->under_way--;
    c->since = 0;
    c->state = STATE_OPEN;
    if (w->opt->mode == MODE_CONNECT) ws_close(w, c);
}

/* Asks to follow every connection, in messages that any server takes. */
static void ws_watch_all(struct worker *w, struct connection *c)
{
    enum { SIZE = 4000 };
    static const unsigned char mask[4] = {0};
    unsigned char frame[SIZE + 64];
    char *text = (char *)frame + 8;
    for (int i = 0; i < w->opt->count; c->left++) {
        int n = sprintf(text, "{\"type\":\"watch\",\"users\":[");
        for (; i < w->opt->count && n < SIZE - 40; i++) n += sprintf(text + n, "\"user%d\",", i);
        n += sprintf(text + n - 1, "]}") - 1;
        frame[0] = 0x81;
        frame[1] = 0x80 | 126;
        frame[2] = (unsigned char)(n >> 8);
        frame[3] = (unsigned char)n;
        memcpy(frame + 4, mask, sizeof mask);
        connection_send(w, c, frame, (size_t)n + 8);
    }
}

/* The first message has come: the connection is open, or asks to follow others. */
static void ws_greeted(struct worker *w, struct connection *c)
{
    char text[120];
    unsigned char frame[136];
    if (w->opt->watch && !strcmp(w->opt->watch, "all")) {
        c->state = STATE_SNAPSHOT;
        c->left = 0;
        ws_watch_all(w, c);
        return;
    }
    if (!w->opt->watch || w->first + (c - w->connections) == 0) {
        ws_opened(w, c);
        return;
    }
    c->state = STATE_SNAPSHOT;
    int size =
        snprintf(text, sizeof text, "{\"type\":\"watch\",\"users\":[\"%.80s\"]}", w->opt->watch);
    connection_send(w, c, frame, frame_make(frame, 1, text, (size_t)size));
}

/* A message or control frame while the connection is open. */
static void ws_message(struct worker *w, struct connection *c, int opcode, const char *p,
                       size_t size)
{
    int is_pong =
        opcode == 10 ||
        (opcode == 1 && (begins(p, size, "pong") || begins(p, size, "{\"type\":\"pong\"")));
    if (is_pong && c->since) {
        uint64_t end = w->opt->stamp ? w->received_at : now_ns();
        histogram_add(&w->stats->answering, end > c->since ? end - c->since : 0);
        w->stats->answered++;
        w->waiting--;
        c->since = 0;
    } else if (w->opt->watch && opcode == 1 && begins(p, size, "{\"type\":\"presence\"")) {
        uint64_t changed = w->shared->changed; /* 0: it was no status that changed */
        histogram_add(&w->stats->answering,
                      changed && w->received_at > changed ? w->received_at - changed : 0);
        w->stats->answered++;
    } else {
        w->stats->other++;
        if (opcode == 1 && begins(p, size, "{\"type\":\"error\""))
            note_error(w, "the server says", p);
    }
}

/* One whole frame of the server. */
static void ws_frame(struct worker *w, struct connection *c, int opcode, const char *p, size_t size)
{
    unsigned char frame[136];
    if (opcode == 9 && size <= 125) {
        w->stats->pings++;
        connection_send(w, c, frame, frame_make(frame, 10, p, size));
    } else if (opcode == 8) {
        connection_fail(w, c, "closed by the server", size > 2 ? p + 2 : "");
    } else if (c->state == STATE_GREETING && begins(p, size, "{\"type\":\"hello\"")) {
        ws_greeted(w, c);
    } else if (c->state == STATE_SNAPSHOT && begins(p, size, "{\"type\":\"snapshot\"")) {
        static const char part[] = ",\"more\":true}"; /* another follows */
        size_t n = sizeof part - 1;
        if (size > n && !memcmp(p + size - n, part, n)) w->stats->other++;
        else if (--c->left <= 0) ws_opened(w, c);
    } else if (c->state == STATE_SNAPSHOT && (begins(p, size, "{\"type\":\"presence\"") ||
                                              begins(p, size, "{\"type\":\"spread\""))) {
        w->stats->other++; /* a change of one in an earlier snapshot; how many are connected */
    } else if (c->state != STATE_OPEN) {
        connection_fail(w, c, "instead of hello or snapshot", p);
    } else {
        ws_message(w, c, opcode, p, size);
    }
}

/* The head of the 101 at the start of the input: checks it. Returns its size, 0 if incomplete. */
static size_t ws_head(struct worker *w, struct connection *c, const char *p)
{
    const char *end = strstr(p, "\r\n\r\n");
    if (!end) return 0;
    const char *accept = strstr(p, WS_ACCEPT);
    if (strncmp(p, "HTTP/1.1 101 ", 13) || !accept || accept > end) {
        connection_fail(w, c, "no upgrade", p);
        return 0;
    }
    c->state = STATE_GREETING;
    return (size_t)(end + 4 - p);
}

/* Bytes on a WebSocket connection: the 101, then frames; keeps what is cut. */
static void ws_input(struct worker *w, struct connection *c, long size)
{
    size_t at = 0, head, payload;
    if (c->state == STATE_HEAD) at = ws_head(w, c, w->input);
    while (c->fd >= 0 && c->state > STATE_HEAD &&
           frame_find((unsigned char *)w->input + at, (size_t)size - at, &head, &payload)) {
        char *text = w->input + at + head;
        int opcode = w->input[at] & 15;
        at += head + payload;
        ws_frame(w, c, opcode, text, payload);
    }
    if (c->fd >= 0) connection_keep(w, c, w->input + at, (size_t)size - at);
}

/* ---- 6. HTTP ------------------------------------------------------------------------------ */

/* Sends the next request on a connection that is idle. */
static void send_request(struct worker *w, struct connection *c)
{
    char request[1200];
    const struct options *o = w->opt;
    long number = o->mode != MODE_HTTP ? w->first + (c - w->connections) : w->requests++ % o->users;
    int size = w->numbered ? snprintf(request, sizeof request, "%s%ld%s", w->head, number, w->tail)
                           : snprintf(request, sizeof request, "%s%s", w->head, w->tail);
    c->state = STATE_HEAD;
    connection_send(w, c, request, (size_t)size);
}

/* The whole answer is here: counts it and leaves the connection idle, or closed with --once. */
static void http_answered(struct worker *w, struct connection *c)
{
    histogram_add(&w->stats->answering, now_ns() - c->since);
    w->stats->answered++;
    if (w->opt->once || c->last)
        connection_close(c);
    else
        c->state = STATE_OPEN;
}

/* The head of an answer at the start of the input: sets what is left of the body. 0: cut. */
static int http_head(struct worker *w, struct connection *c, const char *p, long size)
{
    const char *end = strstr(p, "\r\n\r\n"), *length = strcasestr(p, "\r\ncontent-length:");
    if (!end) return 0;
    if (strncmp(p, "HTTP/1.1 200 ", 13) || !length || length > end) {
        connection_fail(w, c, "not a plain 200", p);
        return 0;
    }
    const char *last = strcasestr(p, "\r\nconnection: close\r\n");
    c->last = last && last < end;
    c->left = atol(length + 17) - (size - (end + 4 - p));
    c->state = STATE_BODY;
    return 1;
}

/* Bytes on an HTTP connection. */
static void http_input(struct worker *w, struct connection *c, long size)
{
    w->stats->bytes += size;
    if (c->state == STATE_BODY) {
        c->left -= size;
    } else if (http_head(w, c, w->input, size)) {
        connection_keep(w, c, NULL, 0);
    } else {
        if (c->fd >= 0) connection_keep(w, c, w->input, (size_t)size);
        return;
    }
    if (c->left < 0)
        connection_fail(w, c, "an answer", "longer than its length");
    else if (!c->left)
        http_answered(w, c);
}

/* ---- 7. TLS ------------------------------------------------------------------------------- */

/* OpenSSL has a session, for TLS 1.2 during the handshake, for 1.3 after it. */
static int tls_session(SSL *ssl, SSL_SESSION *session)
{
    struct worker *w = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    struct connection *c = SSL_get_app_data(ssl);
    c->ticket = 1;
    if (!w->opt->resume) return 0;
    SSL_SESSION_free(w->session);
    w->session = session;
    return 1; /* it is ours now */
}

/* Makes what all connections of a worker share: the offer is that of browsers. */
static void tls_prepare(struct worker *w)
{
    const char *version = w->opt->version;
    SSL_CTX *tls = w->tls = SSL_CTX_new(TLS_client_method());
    if (!tls ||
        !SSL_CTX_set_ciphersuites(tls, "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                       "TLS_CHACHA20_POLY1305_SHA256") ||
        !SSL_CTX_set_cipher_list(tls,
                                 "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
                                 "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305") ||
        !SSL_CTX_set1_groups_list(tls, "X25519:P-256:P-384") ||
        SSL_CTX_set_alpn_protos(tls, (const unsigned char *)"\x08http/1.1", 9))
        _exit(1);
    if (version) {
        int number = !strcmp(version, "1.2") ? TLS1_2_VERSION : TLS1_3_VERSION;
        SSL_CTX_set_min_proto_version(tls, number);
        SSL_CTX_set_max_proto_version(tls, number);
    }
    SSL_CTX_set_app_data(tls, w);
    SSL_CTX_set_mode(tls, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(tls, tls_session);
}

/* In handshake mode: the handshake is over, and counts when the ticket has come as well, which TLS
 * 1.3 sends behind it. */
static void tls_ticket(struct worker *w, struct connection *c)
{
    if (!c->ticket && SSL_version(c->ssl) > TLS1_2_VERSION) return;
    w->stats->answered++;
    ws_close(w, c);
}

/* Goes on with the handshake, as far as the server's bytes reach; then the request goes out, or in
 * handshake mode the ticket is awaited. */
static void tls_shake(struct worker *w, struct connection *c)
{
    int code = SSL_do_handshake(c->ssl);
    if (code != 1 && SSL_get_error(c->ssl, code) == SSL_ERROR_WANT_READ) return;
    if (code != 1) {
        connection_fail(w, c, "handshake", "failed");
        return;
    }
    w->stats->shaken++;
    w->stats->resumed += SSL_session_reused(c->ssl);
    if (w->opt->mode != MODE_HANDSHAKE) {
        send_request(w, c);
        return;
    }
    histogram_add(&w->stats->answering, now_ns() - c->since);
    c->state = STATE_TICKET;
    tls_ticket(w, c);
}

/* Begins TLS: what the server sends is handed to OpenSSL by us, what it sends goes out at once. */
static void tls_start(struct worker *w, struct connection *c)
{
    c->state = STATE_SHAKING;
    c->ssl = SSL_new(w->tls);
    BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new_socket(c->fd, BIO_NOCLOSE);
    if (!c->ssl || !in || !out) _exit(1);
    BIO_set_mem_eof_return(in, -1);
    SSL_set_bio(c->ssl, in, out);
    SSL_set_app_data(c->ssl, c);
    SSL_set_connect_state(c->ssl);
    SSL_set_tlsext_host_name(c->ssl, "localhost");
    if (w->session) SSL_set_session(c->ssl, w->session);
    tls_shake(w, c);
}

/* ---- 8. Connecting, events ---------------------------------------------------------------- */

/* Makes a socket with the worker's next source address; -1 on error. */
static int make_socket(struct worker *w, long index)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct linger reset = {1, 0};
    unsigned source =
        (unsigned)((w->number * w->opt->sources + index % w->opt->sources) % SOURCES_MAX);
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(0x7f000101u + source)};
    if (fd < 0) return -1;
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (!w->opt->clean) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    if (w->opt->stamp) setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one);
    if (bind(fd, (void *)&from, sizeof from)) {
        close(fd);
        return -1;
    }
    return fd;
}

/* The TCP connection stands: begins TLS or sends the request; is done already with --silent. */
static void connected(struct worker *w, struct connection *c)
{
    if (is_request_mode(w->opt)) w->stats->connected++;
    if (w->opt->silent)
        ws_opened(w, c);
    else if (w->opt->tls)
        tls_start(w, c);
    else
        send_request(w, c);
}

/* Begins a connection; on the loopback it usually stands at once, then the request goes out too. */
static void connection_start(struct worker *w, struct connection *c)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)w->opt->port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    c->state = STATE_CONNECTING;
    c->since = now_ns();
    w->under_way += !is_request_mode(w->opt);
    inet_pton(AF_INET, w->opt->host, &to.sin_addr);
    c->fd = make_socket(w, c - w->connections);
    if (c->fd < 0 || (connect(c->fd, (void *)&to, sizeof to) && errno != EINPROGRESS)) {
        connection_fail(w, c, "connect", strerror(errno));
        return;
    }
    int stands = !getpeername(c->fd, (void *)&peer, &size);
    if (!stands) event.events = EPOLLOUT;
    if (epoll_ctl(w->epoll, EPOLL_CTL_ADD, c->fd, &event))
        connection_fail(w, c, "epoll_ctl", strerror(errno));
    else if (stands)
        connected(w, c);
}

/* connect() has ended, well or not. */
static void connection_writable(struct worker *w, struct connection *c)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    epoll_ctl(w->epoll, EPOLL_CTL_MOD, c->fd, &event);
    if (error)
        connection_fail(w, c, "connect", strerror(error));
    else
        connected(w, c);
}

/* Something came, or the end did (size < 0). */
static void connection_input(struct worker *w, struct connection *c, long size)
{
    if (size < 0)
        connection_fail(w, c, "closed", c->state == STATE_OPEN ? "while open" : "while opening");
    else if (c->state == STATE_SHAKING)
        tls_shake(w, c);
    else if (c->state == STATE_TICKET)
        tls_ticket(w, c);
    else if (size && w->opt->mode == MODE_HTTP)
        http_input(w, c, size);
    else if (size)
        ws_input(w, c, size);
}

/* Waits for events and handles them; returns how many. */
static int poll_events(struct worker *w, int milliseconds)
{
    int count = epoll_wait(w->epoll, w->events, EVENTS, milliseconds);
    for (int i = 0; i < count; i++) {
        struct connection *c = w->events[i].data.ptr;
        if (c->state == STATE_CONNECTING)
            connection_writable(w, c);
        else
            connection_input(w, c, connection_receive(w, c));
    }
    return count;
}

/* Waits as those who follow do, then reads all that has come for them. */
static void look(struct worker *w)
{
    nap(w->opt->look);
    while (poll_events(w, 0) == EVENTS) continue;
}

/* ---- 9. The worker's phases --------------------------------------------------------------- */

/* Fails connections that do not open in time; looks once a second. */
static void expire_connections(struct worker *w, uint64_t *last)
{
    uint64_t now = now_ns();
    if (now - *last < 1000000000u) return;
    *last = now;
    for (long i = 0; i < w->started; i++) {
        struct connection *c = &w->connections[i];
        if (c->fd >= 0 && c->state != STATE_OPEN &&
            now - c->since > CONNECT_TIMEOUT * 1000000000ull)
            connection_fail(w, c, "timeout", "did not open");
    }
}

/* Opens all connections of this worker, `inflight` of all workers together at a time. */
static void phase_connect(struct worker *w)
{
    uint64_t last = now_ns();
    int share = w->opt->inflight / w->shared->workers;
    while ((w->started < w->count || w->under_way) && !w->shared->stop) {
        while (w->started < w->count && w->under_way < (share ? share : 1))
            connection_start(w, &w->connections[w->started++]);
        poll_events(w, 20);
        expire_connections(w, &last);
    }
}

/* What changes a status, and changes it back. */
static const char *const changes[2] = {"{\"type\":\"status\",\"status\":\"busy\"}",
                                       "{\"type\":\"status\",\"status\":\"away\"}"};

/* A connection's user gets another status, which is not answered. */
static void change_status(struct worker *w, struct connection *c)
{
    unsigned char frame[64];
    const char *message = changes[c->left++ & 1];
    w->stats->sent++;
    connection_send(w, c, frame, frame_make(frame, 1, message, strlen(message)));
}

/* Sends a heartbeat or a change on the next open connection, in an order that scatters them. */
static void beat_one(struct worker *w, long *at)
{
    long stride = w->count % 7919 ? 7919 : 1;
    for (long tried = 0; tried < w->count; tried++) {
        *at = (*at + stride) % w->count;
        struct connection *c = &w->connections[*at];
        if (c->state != STATE_OPEN) continue;
        if (*w->opt->beat == 's') {
            change_status(w, c);
            return;
        }
        if (c->since) {
            w->stats->skipped++;
            return;
        }
        c->since = w->opt->stamp ? clock_ns(CLOCK_REALTIME) : now_ns();
        w->waiting++;
        w->stats->sent++;
        connection_send(w, c, w->message, w->message_size);
        return;
    }
}

/* The next open connection sends one more byte of a request that never ends: a field of a head that
 * grows and grows, or the first message of TLS. */
static void drip_one(struct worker *w, long *at)
{
    static const char head[] = "GET /ws/presence/slow HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";
    static const char hello[] = "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    const char *text = w->opt->tls ? hello : head;
    long size = (w->opt->tls ? (long)sizeof hello : (long)sizeof head) - 1;
    for (long tried = 0; tried < w->count; tried++) {
        *at = (*at + 1) % w->count;
        struct connection *c = &w->connections[*at];
        if (c->state != STATE_OPEN) continue;
        long sent = c->left++;
        w->stats->sent++;
        if (send(c->fd, sent < size ? text + sent : "x", 1, MSG_NOSIGNAL | MSG_DONTWAIT) != 1)
            connection_fail(w, c, "send", strerror(errno));
        return;
    }
}

/* Connection 0 changes its status; everybody else is to hear of it. */
static void change_one(struct worker *w)
{
    unsigned char frame[64];
    const char *message = changes[w->stats->sent & 1];
    if (w->number || w->connections[0].state != STATE_OPEN) return;
    w->stats->sent++;
    w->shared->changed = clock_ns(CLOCK_REALTIME);
    connection_send(w, &w->connections[0], frame, frame_make(frame, 1, message, strlen(message)));
}

/* Heartbeats, changes, or bytes at this worker's share of the rate until the time is over. */
static void run_beats(struct worker *w, uint64_t end)
{
    double rate = w->opt->watch ? w->opt->rate : w->opt->rate / w->shared->workers;
    uint64_t start = w->shared->started_at;
    long done = 0, at = 0;
    for (uint64_t now; (now = now_ns()) < end && !w->shared->stop;) {
        long due = (long)((double)(now - start) / 1e9 * rate);
        for (int burst = 0; done < due && burst < 256; burst++, done++) {
            if (w->opt->watch)
                change_one(w);
            else if (w->opt->silent)
                drip_one(w, &at);
            else
                beat_one(w, &at);
        }
        /* Who follows is timed by the kernel's stamps, so he may look once in a millisecond: asleep
         * in epoll he would be woken by the server for each of ten thousand sockets, which no
         * client of one socket costs it. With --look he reads when all is sent, and does not take
         * the server's processors meanwhile, which clients on machines of their own do not. */
        if (w->opt->watch) look(w);
        else poll_events(w, done < due ? 0 : 1);
    }
    /* Then the answers still under way; nobody knows how many watchers will hear of a change. */
    uint64_t limit = now_ns() + (w->opt->watch ? 1 : DRAIN_TIMEOUT) * 1000000000ull;
    while ((w->waiting > 0 || w->opt->watch) && now_ns() < limit) {
        if (w->opt->watch) look(w);
        else poll_events(w, 10);
    }
}

/* Requests, or handshakes, one after another on every connection until the time is over, with
 * --rate no more than that; with --resume at first one until there is a session. */
static void run_http(struct worker *w, uint64_t end)
{
    const struct options *o = w->opt;
    uint64_t last = now_ns(), start = w->shared->started_at;
    w->started = w->count;
    for (uint64_t now; (now = now_ns()) < end && !w->shared->stop;) {
        double due =
            o->rate > 0 ? (double)(now - start) / 1e9 * o->rate / w->shared->workers : 1e18;
        for (long i = 0; i < w->count && (double)w->stats->sent < due; i++) {
            struct connection *c = &w->connections[i];
            if (c->fd >= 0 && c->state != STATE_OPEN) continue;
            if (o->resume && !w->session && w->stats->sent > w->stats->answered) break;
            w->stats->sent++;
            if (c->fd < 0) {
                connection_start(w, c);
            } else {
                c->since = now_ns();
                send_request(w, c);
            }
        }
        poll_events(w, o->rate > 0 ? 1 : 20);
        expire_connections(w, &last);
    }
}

/* What the command line asks for while the seconds pass. */
static void phase_run(struct worker *w)
{
    uint64_t end = w->shared->started_at + (uint64_t)(w->opt->seconds * 1e9);
    if (is_request_mode(w->opt))
        run_http(w, end);
    else if (w->opt->rate > 0)
        run_beats(w, end);
}

/* Allocates what a worker needs and prepares the constant parts of what it sends. */
static void worker_prepare(struct worker *w)
{
    const struct options *o = w->opt;
    const char *number = strstr(o->path, "{i}");
    int before = number ? (int)(number - o->path) : (int)strlen(o->path);
    const char *kind = o->mode == MODE_HTTP
                           ? (o->once ? "Connection: close\r\n" : "")
                           : "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: "
                             "13\r\nSec-WebSocket-Key: " WS_KEY "\r\n";
    snprintf(w->head, sizeof w->head, "GET %.*s", before, o->path);
    snprintf(w->tail, sizeof w->tail, "%s HTTP/1.1\r\nHost: %s:%d\r\n%s%s%s\r\n",
             number ? number + 3 : "", o->host, o->port, kind, o->header ? o->header : "",
             o->header ? "\r\n" : "");
    const char *beat = *o->beat == 'j' ? "{\"type\":\"ping\"}" : "ping";
    w->numbered = number != NULL;
    w->message_size = frame_make(w->message, *o->beat == 'f' ? 9 : 1, beat, strlen(beat));
    w->connections = calloc((size_t)w->count + 1, sizeof *w->connections);
    w->events = calloc(EVENTS, sizeof *w->events);
    w->input = malloc(INPUT_SIZE + RECORD_SIZE);
    w->raw = malloc(INPUT_SIZE);
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (!w->connections || !w->events || !w->input || !w->raw || w->epoll < 0) _exit(1);
    if (o->tls) tls_prepare(w);
    for (long i = 0; i < w->count; i++) w->connections[i].fd = -1;
}

/* Notes that a phase is done, then keeps the connections alive until the parent names the next. */
static void worker_await(struct worker *w, enum phase done, enum phase next)
{
    w->stats->ended_at = now_ns();
    w->stats->reached = done;
    while (w->shared->phase < (int)next) poll_events(w, 5);
}

/* A worker's whole life. */
static void worker_main(struct worker *w)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    alarm(LIFETIME);
    worker_prepare(w);
    worker_await(w, PHASE_START, PHASE_CONNECT);
    if (!is_request_mode(w->opt)) phase_connect(w);
    worker_await(w, PHASE_CONNECT, PHASE_RUN);
    if (w->shared->phase == PHASE_RUN) phase_run(w);
    worker_await(w, PHASE_RUN, PHASE_CLOSE);
    for (long i = 0; i < w->count; i++) ws_close(w, &w->connections[i]);
    worker_await(w, PHASE_CLOSE, PHASE_EXIT);
    _exit(0);
}

/* ---- 10. The parent ----------------------------------------------------------------------- */

static struct shared *shared; /* global for the signal handler alone */

/* SIGINT, SIGTERM: the run phase ends now. */
static void on_stop(int signal)
{
    (void)signal;
    shared->stop = 1;
}

/* Lets the workers begin a phase; returns when it began. */
static uint64_t begin_phase(enum phase phase)
{
    shared->started_at = now_ns();
    shared->phase = (int)phase;
    return shared->started_at;
}

/* Waits until every worker has finished a phase; returns when the last one did. */
static uint64_t await_phase(enum phase phase)
{
    uint64_t last = 0;
    for (int i = 0; i < shared->workers; i++) {
        while (shared->stats[i].reached < (int)phase) nap(0.0005);
        if (shared->stats[i].ended_at > last) last = shared->stats[i].ended_at;
    }
    return last;
}

/* Starts the --with command, if there is one, in a process group of its own; 0 without. */
static pid_t command_start(const char *command)
{
    pid_t pid = command ? fork() : 0;
    if (!command) return 0;
    if (!pid) {
        setpgid(0, 0);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
    setpgid(pid, pid);
    return pid;
}

/* Ends the command: SIGINT, and after five seconds SIGKILL. */
static void command_stop(pid_t pid)
{
    if (pid <= 0) return;
    kill(-pid, SIGINT);
    for (int i = 0; i < 500; i++) {
        if (waitpid(pid, NULL, WNOHANG)) return;
        nap(0.01);
    }
    kill(-pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

/* Forks the workers, each with its share of the connections. */
static void start_workers(const struct options *o)
{
    long count = is_request_mode(o) ? o->inflight : o->count;
    shared->workers = (int)((count + SOCKETS_PER_WORKER - 1) / SOCKETS_PER_WORKER);
    for (int i = 0; i < shared->workers; i++) {
        struct worker w = {.opt = o, .shared = shared, .stats = &shared->stats[i], .number = i};
        w.first = count * i / shared->workers;
        w.count = count * (i + 1) / shared->workers - w.first;
        shared->stats[i].reached = -1;
        pid_t pid = fork();
        if (!pid) worker_main(&w);
        if (pid < 0) {
            perror("load: fork");
            exit(1);
        }
    }
    await_phase(PHASE_START);
}

/* Adds one worker's histogram to another. */
static void histogram_merge(struct histogram *sum, const struct histogram *h)
{
    sum->total += h->total;
    if (h->largest > sum->largest) sum->largest = h->largest;
    for (unsigned i = 0; i < BUCKETS; i++) sum->bucket[i] += h->bucket[i];
}

/* Adds up what all workers report. */
static void stats_sum(struct stats *sum)
{
    for (int i = 0; i < shared->workers; i++) {
        const struct stats *s = &shared->stats[i];
        sum->connected += s->connected;
        sum->failed += s->failed;
        sum->dropped += s->dropped;
        sum->shaken += s->shaken;
        sum->resumed += s->resumed;
        sum->sent += s->sent;
        sum->answered += s->answered;
        sum->skipped += s->skipped;
        sum->pings += s->pings;
        sum->other += s->other;
        sum->bytes += s->bytes;
        histogram_merge(&sum->connecting, &s->connecting);
        histogram_merge(&sum->answering, &s->answering);
        if (!sum->error[0]) memcpy(sum->error, s->error, sizeof sum->error);
    }
}

/* ---- 11. The report ----------------------------------------------------------------------- */

/* The memory of one moment, each key with the moment's name. */
static void print_memory(const char *name, const struct sample *s)
{
    printf(",\"anonymous_%s_kb\":%ld,\"dirty_%s_kb\":%ld,\"pss_%s_kb\":%ld,\"rss_%s_kb\":%ld", name,
           s->anonymous, name, s->dirty, name, s->pss, name, s->rss);
}

/* Count and percentiles of one histogram. */
static void print_latency(const char *name, const struct histogram *h)
{
    printf(",\"%s_p50_ms\":%.3f,\"%s_p99_ms\":%.3f,\"%s_p999_ms\":%.3f,\"%s_max_ms\":%.3f", name,
           histogram_ms(h, .5), name, histogram_ms(h, .99), name, histogram_ms(h, .999), name,
           (double)h->largest / 1e6);
}

/* Prints NAME:COUNT:SECONDS for all threads that share the name of thread `first`, unless an
 * earlier thread has it: then they have been printed. */
static void print_thread(const struct sample *before, const struct sample *after, int first)
{
    double cpu = 0;
    int count = 0;
    for (int i = 0; i < after->threads; i++) {
        if (strcmp(after->thread[i].name, after->thread[first].name)) continue;
        if (i < first) return;
        cpu += thread_cpu_since(before, after, i);
        count++;
    }
    printf("%s%s:%d:%.4f", first ? " " : "", after->thread[first].name, count, cpu);
}

/* The CPU time of the run: all of it, for each 100,000 answers, and by the threads' names. */
static void print_cpu(const struct sample *before, const struct sample *after, long answered)
{
    printf(",\"cpu_seconds\":%.4f", after->cpu - before->cpu);
    if (answered && after->cpu > before->cpu)
        printf(",\"cpu_per_100k\":%.4f,\"answers_per_cpu_second\":%.0f",
               (after->cpu - before->cpu) * 1e5 / (double)answered,
               (double)answered / (after->cpu - before->cpu));
    printf(",\"threads\":\"");
    for (int i = 0; i < after->threads; i++) print_thread(before, after, i);
    printf("\"");
}

/* What the phases found: how long they took and the server at their borders. */
struct report {
    double connect_seconds, run_seconds;
    struct sample start, opened, held, run_start, run_end, closed;
};

/* The one line of JSON. */
static void print_report(const struct options *o, const struct report *r, const struct stats *s)
{
    printf("{\"mode\":\"%s\",\"connections\":%d,\"connected\":%ld,\"failed\":%ld,\"dropped\":%ld",
           mode_names[o->mode], is_request_mode(o) ? o->inflight : o->count, s->connected,
           s->failed, s->dropped);
    if (o->tls) printf(",\"shaken\":%ld,\"resumed\":%ld", s->shaken, s->resumed);
    if (!is_request_mode(o)) {
        printf(",\"connect_seconds\":%.3f,\"connects_per_second\":%.0f", r->connect_seconds,
               (double)s->connected / r->connect_seconds);
        print_latency("connect", &s->connecting);
    }
    if (o->pid && !is_request_mode(o) && s->connected)
        printf(",\"connect_cpu_us\":%.2f",
               (r->opened.cpu - r->start.cpu) * 1e6 / (double)s->connected);
    if (o->seconds > 0) {
        printf(",\"seconds\":%.3f,\"sent\":%ld,\"answered\":%ld,\"skipped\":%ld,\"server_pings\":%"
               "ld,\"other\":%ld,\"bytes\":%ld,\"answers_per_second\":%.1f",
               r->run_seconds, s->sent, s->answered, s->skipped, s->pings, s->other, s->bytes,
               (double)s->answered / r->run_seconds);
        print_latency("answer", &s->answering);
        if (o->pid) print_cpu(&r->run_start, &r->run_end, s->answered);
    }
    if (o->pid) {
        print_memory("before", &r->start);
        print_memory("held", &r->held);
        print_memory("run", &r->run_end);
        print_memory("closed", &r->closed);
        if (o->mode == MODE_HOLD && s->connected)
            printf(",\"bytes_per_connection\":%.1f,\"rss_per_connection\":%.1f",
                   (double)(r->held.anonymous - r->start.anonymous) * 1024 / (double)s->connected,
                   (double)(r->held.rss - r->start.rss) * 1024 / (double)s->connected);
    }
    printf(",\"error\":\"%s\"}\n", s->error);
}

/* Drives the workers through the phases, measuring at every border. */
static void run_phases(const struct options *o, struct report *r)
{
    sample_take(&r->start, o->pid);
    uint64_t start = begin_phase(PHASE_CONNECT);
    r->connect_seconds = (double)(await_phase(PHASE_CONNECT) - start) / 1e9;
    sample_take(&r->opened, o->pid);
    nap(o->settle);
    sample_take(&r->held, o->pid);
    pid_t command = command_start(o->with);
    if (command) nap(1); /* it has to find its feet */
    sample_take(&r->run_start, o->pid);
    start = begin_phase(PHASE_RUN);
    double past = (double)(await_phase(PHASE_RUN) - start) / 1e9;
    if (!shared->stop) nap(o->seconds - past);
    r->run_seconds = (double)(now_ns() - start) / 1e9;
    sample_take(&r->run_end, o->pid);
    command_stop(command);
    begin_phase(PHASE_CLOSE);
    await_phase(PHASE_CLOSE);
    nap(o->settle < 0.5 ? o->settle : 0.5);
    sample_take(&r->closed, o->pid);
    begin_phase(PHASE_EXIT);
    while (wait(NULL) > 0 || errno == EINTR) {}
}

/* ---- 12. Options, main -------------------------------------------------------------------- */

/* The command line: name, kind (string, integer, decimal, or flag), where it goes, help. */
static const struct setting {
    const char *name;
    char kind;
    size_t at;
    const char *help;
} settings[] = {
    {"--host", 's', offsetof(struct options, host), "destination, 127.x.x.x"},
    {"--port", 'i', offsetof(struct options, port), "destination"},
    {"--pid", 'i', offsetof(struct options, pid), "the server, to measure it"},
    {"--path", 's', offsetof(struct options, path), "what to GET, {i} is a number"},
    {"--header", 's', offsetof(struct options, header), "one more header line"},
    {"--users", 'i', offsetof(struct options, users), "http: how many numbers there are"},
    {"-n", 'i', offsetof(struct options, count), "hold, connect: connections"},
    {"-c", 'i', offsetof(struct options, inflight), "at the same time; http: connections"},
    {"--sources", 'i', offsetof(struct options, sources), "source addresses of a worker"},
    {"--tls", 'f', offsetof(struct options, tls), "speak TLS"},
    {"--tls-version", 's', offsetof(struct options, version), "only this: 1.2 or 1.3"},
    {"--resume", 'f', offsetof(struct options, resume), "resume TLS sessions"},
    {"--once", 'f', offsetof(struct options, once), "http: a connection for each request"},
    {"--silent", 'f', offsetof(struct options, silent),
     "hold: no request, but --rate bytes of one"},
    {"--clean", 'f', offsetof(struct options, clean), "close properly, not with a reset"},
    {"--beat", 's', offsetof(struct options, beat), "hold: text, json, frame or status"},
    {"--stamp", 'f', offsetof(struct options, stamp), "hold: time answers by kernel timestamps"},
    {"--watch", 's', offsetof(struct options, watch), "hold: id of connection 0, to follow; or all"},
    {"--with", 's', offsetof(struct options, with), "command to run during the run"},
    {"--rate", 'd', offsetof(struct options, rate),
     "heartbeats, changes, bytes, handshakes a second"},
    {"--seconds", 'd', offsetof(struct options, seconds), "how long the run lasts"},
    {"--settle", 'd', offsetof(struct options, settle), "seconds before a measurement"},
    {"--look", 'd', offsetof(struct options, look), "seconds between two looks of who follows"}};

enum { SETTINGS = sizeof settings / sizeof settings[0] };

/* Ends the program with one line about what is wrong, and the list of options. */
static void usage(const char *message)
{
    fprintf(stderr, "load: %s\nusage: load hold|connect|http|handshake|start|measure [options]\n",
            message);
    for (int i = 0; i < SETTINGS; i++)
        fprintf(stderr, "  %-13s %s\n", settings[i].name, settings[i].help);
    exit(2);
}

/* Refuses what is unbounded, contradictory or not on this machine. */
static void check_options(const struct options *o)
{
    if (strncmp(o->host, "127.", 4)) usage("--host must be a loopback address");
    if (o->mode != MODE_MEASURE && (o->port < 1 || o->port > 65535))
        usage("--port is out of range");
    if (o->mode == MODE_MEASURE && o->pid < 1) usage("measure needs --pid");
    if (o->mode == MODE_START && (!o->with || !(o->seconds > 0)))
        usage("start needs --with and --seconds");
    if (o->count < 1 || o->count > SOCKETS_PER_WORKER * WORKERS_MAX) usage("-n is out of range");
    if (o->inflight < 1 || o->inflight > SOCKETS_PER_WORKER) usage("-c is out of range");
    if (o->users < 1 || o->sources < 1 || o->sources > SOURCES_MAX)
        usage("--users or --sources is out of range");
    if (!(o->seconds >= 0 && o->seconds <= SECONDS_MAX)) usage("--seconds is out of range");
    if (!(o->settle >= 0 && o->settle <= SECONDS_MAX)) usage("--settle is out of range");
    if (!(o->rate >= 0 && o->rate <= 1e7)) usage("--rate is out of range");
    if (strlen(o->path) > 400 || (o->header && strlen(o->header) > 200))
        usage("--path or --header is too long");
    if (o->version && strcmp(o->version, "1.2") && strcmp(o->version, "1.3"))
        usage("--tls-version must be 1.2 or 1.3");
    if (strcmp(o->beat, "text") && strcmp(o->beat, "json") && strcmp(o->beat, "frame") &&
        strcmp(o->beat, "status"))
        usage("--beat must be text, json, frame or status");
}

/* Stores one option; `value` is what follows it. Returns how many words it took. */
static int set_option(struct options *o, const char *name, const char *value)
{
    const struct setting *s = settings;
    while (s < settings + SETTINGS && strcmp(s->name, name)) s++;
    if (s == settings + SETTINGS) usage("unknown option");
    char *at = (char *)o + s->at;
    if (s->kind != 'f' && !value) usage("an option lacks its value");
    if (s->kind == 's') *(const char **)at = value;
    if (s->kind == 'i') *(int *)at = atoi(value);
    if (s->kind == 'd') *(double *)at = atof(value);
    if (s->kind == 'f') *(int *)at = 1;
    return s->kind == 'f' ? 1 : 2;
}

/* Reads the command line. */
static void parse_options(struct options *o, int argc, char **argv)
{
    while (o->mode < MODES && (argc < 2 || strcmp(argv[1], mode_names[o->mode]))) o->mode++;
    if (o->mode == MODES) usage("what to do?");
    for (int i = 2; i < argc;) i += set_option(o, argv[i], argv[i + 1]);
    if (!o->path) o->path = o->mode < MODE_HTTP ? "/ws/presence/user{i}" : "/api/presence/user{i}";
    if (o->watch) o->stamp = 1;
    if (o->mode == MODE_HANDSHAKE) o->tls = 1;
    check_options(o);
}

/* One GET on a socket of its own, waiting for it; 1 if the answer is a 200. */
static int get_once(const struct options *o)
{
    char text[640];
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o->port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), good = 0;
    inet_pton(AF_INET, o->host, &to.sin_addr);
    int size = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s:%d\r\n\r\n", o->path,
                        o->host, o->port);
    if (!connect(fd, (void *)&to, sizeof to) && send(fd, text, (size_t)size, MSG_NOSIGNAL) == size)
        good = recv(fd, text, 13, MSG_WAITALL) == 13 && !memcmp(text, "HTTP/1.1 200 ", 13);
    close(fd);
    return good;
}

/* Starts the command, asks until it answers, and ends it. */
static int start_only(const struct options *o)
{
    uint64_t start = now_ns(), limit = start + (uint64_t)(o->seconds * 1e9);
    pid_t command = command_start(o->with);
    int good = 0;
    while (!good && now_ns() < limit && !waitpid(command, NULL, WNOHANG)) {
        nap(0.0002);
        good = get_once(o);
    }
    printf("{\"mode\":\"start\",\"answered\":%d,\"first_answer_ms\":%.3f}\n", good,
           (double)(now_ns() - start) / 1e6);
    command_stop(command);
    return !good;
}

/* Prints the memory and CPU time of a process as it is now. */
static int measure_only(const struct options *o)
{
    struct sample s;
    sample_take(&s, o->pid);
    printf("{\"mode\":\"measure\"");
    print_memory("now", &s);
    printf(",\"cpu_seconds\":%.4f,\"thread_count\":%d}\n", s.cpu, s.threads);
    return s.pss < 0;
}

int main(int argc, char **argv)
{
    static struct report report;
    static struct stats sum;
    struct options o = {.host = "127.0.0.1",
                        .beat = "text",
                        .count = 1000,
                        .users = 1000,
                        .inflight = 200,
                        .sources = 4,
                        .settle = 1,
                        .look = 0.001};
    parse_options(&o, argc, argv);
    if (o.mode == MODE_MEASURE) return measure_only(&o);
    if (o.mode == MODE_START) return start_only(&o);
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        perror("load: mmap");
        return 1;
    }
    struct sigaction stop = {.sa_handler = on_stop};
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGTERM, &stop, NULL);
    alarm(LIFETIME);
    start_workers(&o);
    run_phases(&o, &report);
    stats_sum(&sum);
    print_report(&o, &report, &sum);
    return sum.failed || !sum.connected || (sum.dropped && !o.silent);
}
