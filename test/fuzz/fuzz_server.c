/* Fuzzes the whole server: this process starts it once, by its own main, on a directory of its own,
 * and each input is a scenario of several connections, plain and TLS. After each the views of the
 * server must agree with each other, with one who follows all users, and with what is open.
 *
 * An input is lines: a letter, the digit of a connection (one of eight), a blank, and more. What is
 * no such line is passed over; what is sent on a connection that is not open opens it.
 *
 *   o0        connect, plain; "o0 s" with a small receive buffer
 *   O0        connect, TLS, with the handshake; "O0 12 80" flips bits 80 of byte 12 that is sent
 *   t0        connect to the port of TLS, and say nothing
 *   H0 g n x  the first message of TLS 1.3, for group g with a key of n bytes x, all hexadecimal
 *   Q0 METHOD TARGET|Header: value|...||body    a request, with the length of its body
 *   U0 TARGET|Header: value|...                 an upgrade
 *   F0 81 payload                               a frame with this first byte, hexadecimal
 *   L0 81 fe 7fff payload                       the same with this second byte, and these behind it
 *   R0 bytes  bytes as they are
 *   c0        keep what is sent from here on; w0 sends it, "w0 9" in pieces of 9 bytes
 *   g0        read what there is;  s0 half close;  k0 reset;  d0 close
 *   z0        wait until the hub has done all it was asked so far
 *   j0 900    the clocks go on by that many ms;  J0 -900  UTC alone is stepped
 *   h0        SIGHUP
 *
 * In bodies, payloads and bytes \r \n \\ \x41 stand for one byte, \{300} repeats the next.
 *
 * The last inputs are kept in FUZZ_JOURNAL, since what one does may show later:
 * `FUZZER=server build/fuzzers build/fuzz/journal/server/[0-9]*` runs them again, in order.
 *
 * That it finds something is shown by faults put into presence.c, see test/full/fuzz.test.js. */

enum {
    FS_SLOTS = 8,
    FS_USERS = 8,
    FS_JOURNAL = 64,          /* inputs kept */
    FS_PATIENCE_MS = 20000,   /* what takes longer has come to a stand */
    FS_FRAME_MAX = 1 << 20,
    FS_SLACK = 96 << 20,      /* bytes that memory may grow beyond the first inputs */
    FS_WARM = 64,             /* inputs after which it is measured */
};

/* Who connects, mostly; the last is never online by itself. */
static const char *const FS_IDS[FS_USERS] = {"a", "b", "c", "d", "e%2Ff", "%C3%A9", "0", "z"};
static const char *const FS_NAMES[FS_USERS] = {"a", "b", "c", "d", "e/f", "\xc3\xa9", "0", "z"};

/* One of our connections. */
struct fs_slot {
    int fd;                   /* or -1 */
    bool clean;               /* a WebSocket on which only whole, good messages were sent */
    bool open;                /* the upgrade was answered with 101 */
    bool corked;
    int user;                 /* index of who it is, or -1 */
    struct buffer out, in;    /* not yet sent; read */
    mbedtls_ssl_context *ssl; /* after a handshake */
    long sent, flip;          /* bytes sent; the one to be changed, or -1 */
    unsigned bits;
};

/* How a user looks to one who follows. */
struct fs_view {
    bool known, online;
    int64_t connections;
    char status[16], source[16];
};

static struct fs {
    pthread_t thread;         /* runs the server's main */
    char dir[64], port[32], tls_port[32];
    _Atomic int status;       /* what main returned; -1 while it runs */
    struct fs_slot slots[FS_SLOTS];
    struct fs_slot control, witness; /* HTTP; one who follows all users */
    char witness_id[32];
    struct fs_view views[FS_USERS];
    mbedtls_ssl_config tls;
    int descriptors;          /* open between two inputs, at most */
    size_t memory;            /* allocated between two inputs, at first */
    unsigned long inputs;
    bool inside;              /* an input is being run */
} fs;

/* What presence.c takes for clocks: the system's, and what inputs added (see fuzz.c). */
static _Atomic int64_t fs_ahead_ms, fs_step_ms;
int fuzz_clock_gettime(clockid_t clock, struct timespec *t)
{
    int rc = (clock_gettime)(clock, t);
    int64_t ms = clock == CLOCK_BOOTTIME ? fs_ahead_ms : 0;
    if (clock == CLOCK_REALTIME) ms = fs_ahead_ms + fs_step_ms;
    ms += t->tv_nsec / 1000000;
    t->tv_sec += ms / 1000 - (ms % 1000 < 0);
    t->tv_nsec = (ms % 1000 + (ms % 1000 < 0 ? 1000 : 0)) * 1000000 + t->tv_nsec % 1000000;
    return rc;
}

/* Real milliseconds, which no input moves. */
static int64_t fs_now(void)
{
    struct timespec t;
    (clock_gettime)(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* A fault is found: says what, and how to have it again. */
__attribute__((format(printf, 1, 2), noreturn)) static void fs_found(const char *format, ...)
{
    const char *journal = getenv("FUZZ_JOURNAL");
    va_list args;
    va_start(args, format);
    fputs("\nfuzz_server: ", stderr);
    vfprintf(stderr, format, args);
    va_end(args);
    if (journal) fprintf(stderr, "\nagain: FUZZER=server build/fuzzers %s/[0-9]*", journal);
    fputc('\n', stderr);
    abort();
}

/* Stands for _exit() in presence.c: nothing that a stranger sends may lead there. */
__attribute__((noreturn)) void fuzz_exit(int status)
{
    fs_found("the server ends itself with status %d", status);
}

/* ---- Sockets ----------------------------------------------------------------------------- */

/* Waits for a descriptor; false after so many ms. */
static bool fs_poll(int fd, short events, int ms)
{
    struct pollfd one = {fd, events, 0};
    int64_t end = fs_now() + ms;
    for (;;) {
        int64_t left = end - fs_now();
        int n = poll(&one, 1, left > 0 ? (int)left : 0);
        if (n > 0) return true;
        if (n == 0 && left <= 0) return false;
    }
}

/* Sends as much as the socket takes within a short time; the rest is lost, as for one who left. */
static void fs_send_raw(int fd, const char *at, size_t len)
{
    while (len) {
        ssize_t n = send(fd, at, len, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN && fs_poll(fd, POLLOUT, 50)) continue;
        if (n <= 0) return;
        at += n;
        len -= (size_t)n;
    }
}

/* Mbed TLS's way out: one byte of what is sent may be changed. */
static int fs_tls_send(void *data, const unsigned char *at, size_t len)
{
    struct fs_slot *slot = data;
    unsigned char bytes[1024];
    if (len > sizeof bytes) len = sizeof bytes;
    memcpy(bytes, at, len);
    if (slot->flip >= slot->sent && slot->flip < slot->sent + (long)len)
        bytes[slot->flip - slot->sent] ^= (unsigned char)slot->bits;
    ssize_t n = send(slot->fd, bytes, len, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0) return errno == EAGAIN ? MBEDTLS_ERR_SSL_WANT_WRITE : MBEDTLS_ERR_SSL_CONN_EOF;
    slot->sent += n;
    return (int)n;
}

/* Mbed TLS's way in. */
static int fs_tls_receive(void *data, unsigned char *at, size_t len)
{
    struct fs_slot *slot = data;
    ssize_t n = recv(slot->fd, at, len, MSG_DONTWAIT);
    if (n > 0) return (int)n;
    return n < 0 && errno == EAGAIN ? MBEDTLS_ERR_SSL_WANT_READ : MBEDTLS_ERR_SSL_CONN_EOF;
}

/* A connection that is none. */
static void fs_clear(struct fs_slot *slot)
{
    *slot = (struct fs_slot){.fd = -1, .user = -1, .flip = -1};
}

/* Forgets a connection; its descriptor is closed. */
static void fs_close(struct fs_slot *slot)
{
    if (slot->fd >= 0) close(slot->fd);
    if (slot->ssl) mbedtls_ssl_free(slot->ssl);
    free(slot->ssl);
    buffer_free(&slot->in);
    buffer_free(&slot->out);
    fs_clear(slot);
}

/* Connects to a port of ours. */
static void fs_connect(struct fs_slot *slot, const char *address, bool small)
{
    struct sockaddr_storage to;
    socklen_t len;
    int one = 1, size = 2048;
    fs_close(slot);
    if (!address_parse(address, &to, &len)) abort();
    slot->fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (small) setsockopt(slot->fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    setsockopt(slot->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (slot->fd < 0) fs_found("no socket: %s", strerror(errno));
    int error = connect(slot->fd, (struct sockaddr *)&to, len) ? errno : 0;
    if (error == EINTR && fs_poll(slot->fd, POLLOUT, FS_PATIENCE_MS)) error = 0; /* an alarm */
    if (error) fs_found("cannot connect: %s", strerror(error));
}

/* Shakes hands. One in which nothing is changed must succeed. */
static void fs_shake(struct fs_slot *slot)
{
    int error;
    slot->ssl = mem_new(sizeof *slot->ssl);
    mbedtls_ssl_init(slot->ssl);
    if (mbedtls_ssl_setup(slot->ssl, &fs.tls)) abort();
    mbedtls_ssl_set_bio(slot->ssl, slot, fs_tls_send, fs_tls_receive, NULL);
    while ((error = mbedtls_ssl_handshake(slot->ssl))) {
        bool wants = error == MBEDTLS_ERR_SSL_WANT_READ || error == MBEDTLS_ERR_SSL_WANT_WRITE;
        if (wants && fs_poll(slot->fd, POLLIN, slot->flip < 0 ? FS_PATIENCE_MS : 40)) continue;
        if (slot->flip < 0) fs_found("a good handshake fails: -0x%x", (unsigned)-error);
        mbedtls_ssl_free(slot->ssl);
        free(slot->ssl);
        slot->ssl = NULL;
        return;
    }
}

/* Sends what was kept, at most so many bytes of it. */
static void fs_flush(struct fs_slot *slot, size_t most)
{
    size_t off = 0, len = slot->out.len < most ? slot->out.len : most;
    while (off < len) {
        size_t n = len - off;
        if (slot->ssl) {
            int sent = mbedtls_ssl_write(slot->ssl, (unsigned char *)slot->out.at + off, n);
            bool wants = sent == MBEDTLS_ERR_SSL_WANT_WRITE || sent == MBEDTLS_ERR_SSL_WANT_READ;
            if (wants && fs_poll(slot->fd, POLLOUT, 50)) continue;
            if (sent <= 0) break;
            n = (size_t)sent;
        } else {
            fs_send_raw(slot->fd, slot->out.at + off, n);
            slot->sent += (long)n;
        }
        off += n;
    }
    buffer_drop(&slot->out, len);
}

/* Reads once, waiting so long: true when something came. At the end fd stays, clean goes. */
static bool fs_read(struct fs_slot *slot, int ms)
{
    enum { PIECE = 64 * 1024 };
    bool pending = slot->ssl && mbedtls_ssl_get_bytes_avail(slot->ssl);
    if (!pending && !fs_poll(slot->fd, POLLIN, ms)) return false;
    char *room = buffer_room(&slot->in, PIECE);
    ssize_t n;
    if (slot->ssl) {
        n = mbedtls_ssl_read(slot->ssl, (unsigned char *)room, PIECE);
        if (n == MBEDTLS_ERR_SSL_WANT_READ || n == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET)
            return true;
    } else {
        n = recv(slot->fd, room, PIECE, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) return true;
    }
    if (n <= 0) slot->clean = false;
    else slot->in.len += (size_t)n;
    return n > 0;
}

/* ---- HTTP and WebSocket, as one of good will ---------------------------------------------- */

/* Adds a frame of a client to what is sent. */
static void fs_frame(struct buffer *out, uint8_t first, const char *at, size_t len)
{
    static const uint8_t mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    uint8_t head[14] = {first};
    size_t n = 2;
    if (len < 126) {
        head[1] = (uint8_t)(0x80 | len);
    } else if (len < 65536) {
        head[1] = 0x80 | 126;
        head[n++] = (uint8_t)(len >> 8);
        head[n++] = (uint8_t)len;
    } else {
        head[1] = 0x80 | 127;
        for (int shift = 56; shift >= 0; shift -= 8) head[n++] = (uint8_t)((uint64_t)len >> shift);
    }
    memcpy(head + n, mask, 4);
    buffer_add(out, head, n + 4);
    char *room = buffer_room(out, len + 1);
    for (size_t i = 0; i < len; i++) room[i] = (char)(at[i] ^ mask[i % 4]);
    out->len += len;
}

/* The first frame of the server in these bytes: its size, or 0 when it is not whole. The server
 * masks nothing, sets no reserved bit, and sends none that is cut. */
static size_t fs_frame_read(const struct buffer *in, uint8_t *opcode, struct span *payload)
{
    const uint8_t *at = (const uint8_t *)in->at;
    if (in->len < 2) return 0;
    size_t head = 2, len = at[1];
    if (len == 126) head = 4;
    if (len == 127) head = 10;
    if ((at[0] & 0xf0) != 0x80 || at[1] & 0x80) fs_found("a frame begins %02x %02x", at[0], at[1]);
    if (in->len < head) return 0;
    if (head > 2) len = 0;
    for (size_t i = 2; i < head; i++) len = len << 8 | at[i];
    if (len > FS_FRAME_MAX) fs_found("a frame of %zu bytes", len);
    if (in->len < head + len) return 0;
    *opcode = at[0] & 15;
    *payload = (struct span){in->at + head, len};
    return head + len;
}

/* Takes the head of an answer away; its status, or 0 when it is not whole. */
static int fs_head(struct buffer *in, int64_t *length)
{
    const char *end = in->len ? memmem(in->at, in->len, "\r\n\r\n", 4) : NULL;
    if (!end) return 0;
    char *head = mem_copy_text(in->at, (size_t)(end - in->at) + 4);
    const char *found = strcasestr(head, "\r\nContent-Length: ");
    int status = atoi(head + strlen("HTTP/1.1 "));
    if (strncmp(head, "HTTP/1.1 ", 9) || status < 100) fs_found("an answer begins %.300s", head);
    *length = found ? atoll(found + strlen("\r\nContent-Length: ")) : 0;
    free(head);
    buffer_drop(in, (size_t)(end - in->at) + 4);
    return status;
}

/* Asks on the connection that is kept for it, which the server may have closed meanwhile; the body
 * is left in control.in. Returns the status. */
static int fs_ask(const char *method, const char *target, const char *body)
{
    struct fs_slot *slot = &fs.control;
    int64_t length, end = fs_now() + FS_PATIENCE_MS;
    for (int tries = 0; tries < 3; tries++) {
        if (slot->fd < 0) fs_connect(slot, fs.port, false);
        slot->in.len = 0;
        char head[256];
        snprintf(head, sizeof head,
                 "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                 "Content-Length: %zu\r\n\r\n", method, target, strlen(body));
        buffer_text(&slot->out, head);
        buffer_text(&slot->out, body);
        fs_flush(slot, SIZE_MAX);
        int status = 0;
        while (!status && fs_read(slot, FS_PATIENCE_MS)) status = fs_head(&slot->in, &length);
        while (status && (int64_t)slot->in.len < length && fs_read(slot, FS_PATIENCE_MS)) continue;
        if (fs_now() >= end) fs_found("no answer to %s %s", method, target);
        if (status && (int64_t)slot->in.len >= length) return status;
        fs_close(slot);
    }
    fs_found("%s %s is not answered", method, target);
}

/* What it answered, as JSON. */
static struct json_value fs_json(void)
{
    struct json_value value;
    struct span text = {fs.control.in.at, fs.control.in.len};
    if (!json_parse(text, JSON_DEPTH_MAX, &value))
        fs_found("no JSON: %.*s", (int)text.len, text.at);
    return value;
}

/* A number two levels down. */
static int64_t fs_number(struct json_value value, const char *outer, const char *inner)
{
    struct json_value found;
    int64_t n;
    if (json_member(value, outer, &found) && json_member(found, inner, &found) &&
        json_number(found, &n))
        return n;
    fs_found("there is no %s.%s", outer, inner);
}

/* The index of a user, or -1. */
static int fs_index(struct json_value id)
{
    for (int i = 0; i < FS_USERS; i++)
        if (json_is(id, FS_NAMES[i])) return i;
    return -1;
}

/* Reads how a user looks. */
static struct fs_view fs_view_read(struct json_value user)
{
    struct fs_view view = {.known = true};
    struct json_value value;
    if (!json_member(user, "status", &value) ||
        json_string(value, view.status, sizeof view.status) < 0 ||
        !json_member(user, "source", &value) ||
        json_string(value, view.source, sizeof view.source) < 0 ||
        !json_member(user, "connections", &value) || !json_number(value, &view.connections) ||
        !json_member(user, "online", &value))
        fs_found("this is no user: %.*s", (int)user.raw.len, user.raw.at);
    view.online = value.kind == JSON_TRUE;
    if (view.online != !!strcmp(view.status, "offline") ||
        (!strcmp(view.source, "live") && !view.connections))
        fs_found("a user contradicts itself: %.*s", (int)user.raw.len, user.raw.at);
    return view;
}

/* What the witness is told. True when it is what the type says. */
static bool fs_witness_take(uint8_t opcode, struct span text, const char *type)
{
    struct fs_slot *slot = &fs.witness;
    struct json_value message, value, user, id;
    if (opcode == 9) {
        fs_frame(&slot->out, 0x8a, text.at, text.len);
        fs_flush(slot, SIZE_MAX);
    }
    if (opcode == 8)
        fs_found("the witness is closed: %d %.*s", text.len < 2 ? 0
                 : (uint8_t)text.at[0] << 8 | (uint8_t)text.at[1],
                 text.len < 2 ? 0 : (int)text.len - 2, text.at + 2);
    if (opcode != 1) return false;
    if (text.len == 4 && !memcmp(text.at, "pong", 4)) return !strcmp(type, "pong");
    if (!json_parse(text, JSON_DEPTH_MAX, &message) || !json_member(message, "type", &value))
        fs_found("a message is no JSON: %.*s", (int)text.len, text.at);
    bool wanted = json_is(value, type), snapshot = json_is(value, "snapshot");
    if (!snapshot && !json_is(value, "presence")) return wanted;
    if (!json_member(message, "users", &value)) fs_found("no users: %.*s", (int)text.len, text.at);
    for (size_t cursor = 0; json_item(value, &cursor, &user);) {
        int i = json_member(user, "user_id", &id) ? fs_index(id) : -1;
        if (i < 0 || (!snapshot && !fs.views[i].known))
            fs_found("the witness hears of one it does not follow: %.*s", (int)text.len, text.at);
        fs.views[i] = fs_view_read(user);
    }
    return wanted;
}

/* Reads what comes to the witness until it was told this. */
static void fs_witness_until(const char *type)
{
    struct fs_slot *slot = &fs.witness;
    for (;;) {
        uint8_t opcode;
        struct span text;
        size_t n;
        while ((n = fs_frame_read(&slot->in, &opcode, &text))) {
            bool found = fs_witness_take(opcode, text, type);
            buffer_drop(&slot->in, n);
            if (found) return;
        }
        if (!fs_read(slot, FS_PATIENCE_MS)) fs_found("the witness waits for a %s in vain", type);
    }
}

/* Waits until the hub has done what it was asked so far, and hears what that changed. */
static void fs_sync(void)
{
    fs_frame(&fs.witness.out, 0x81, "ping", 4);
    fs_flush(&fs.witness, SIZE_MAX);
    fs_witness_until("pong");
}

/* Asks for an upgrade. */
static void fs_upgrade(struct buffer *out, struct span target, struct span headers)
{
    buffer_text(out, "GET ");
    buffer_add(out, target.at, target.len);
    buffer_text(out, " HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                     "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
    buffer_add(out, headers.at, headers.len);
    buffer_text(out, "\r\n");
}

/* Opens the connection of the witness, who follows all users. */
static void fs_witness_open(void)
{
    struct fs_slot *slot = &fs.witness;
    char target[64];
    int64_t length;
    int status = 0;
    fs_connect(slot, fs.port, false);
    snprintf(target, sizeof target, "/ws/presence/%s", fs.witness_id);
    fs_upgrade(&slot->out, (struct span){target, strlen(target)}, (struct span){"", 0});
    fs_flush(slot, SIZE_MAX);
    while (!status && fs_read(slot, FS_PATIENCE_MS)) status = fs_head(&slot->in, &length);
    if (status != 101) fs_found("the witness is answered %d", status);
    fs_witness_until("hello");
    struct buffer watch = {0};
    buffer_text(&watch, "{\"type\":\"watch\",\"users\":[");
    for (int i = 0; i < FS_USERS; i++) {
        if (i) buffer_text(&watch, ",");
        json_write_string(&watch, (struct span){FS_NAMES[i], strlen(FS_NAMES[i])});
    }
    buffer_text(&watch, "]}");
    fs_frame(&slot->out, 0x81, watch.at, watch.len);
    buffer_free(&watch);
    fs_flush(slot, SIZE_MAX);
    fs_witness_until("snapshot");
}

/* ---- Start and end ------------------------------------------------------------------------ */

/* The server's main thread. */
static void *fs_main(void *unused)
{
    char *argv[] = {
        "presence", "--listen", fs.port, "--tls-listen", fs.tls_port, "--tls-self-signed",
        "--data", fs.dir, "--log-level", "error", "--workers", "2", "--tls-threads", "1",
        "--sync-interval", "20ms", "--grace", "20ms", "--online-threshold", "30s",
        "--ping-interval", "10s", "--pong-timeout", "10s", "--watch-interval", "0",
        "--request-timeout", "5s", "--keepalive-timeout", "5s", "--history", "1h",
        "--max-pending-per-address", "0", "--max-connections-per-user", "4",
        "--max-messages-per-second", "3000", "--max-watch", "50", "--max-body", "64k",
        "--events", "100", "--max-stream-buffer", "64k", NULL,
    };
    (void)unused;
    atomic_store(&fs.status, presence_main(sizeof argv / sizeof *argv - 1, argv));
    return NULL;
}

/* A port that is free, as an address. */
static void fs_free_port(char *text, size_t size)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (bind(fd, (struct sockaddr *)&address, len) ||
        getsockname(fd, (struct sockaddr *)&address, &len))
        abort();
    snprintf(text, size, "127.0.0.1:%d", ntohs(address.sin_port));
    close(fd);
}

/* Whether somebody listens there. */
static bool fs_listens(const char *address)
{
    struct sockaddr_storage to;
    socklen_t len;
    address_parse(address, &to, &len);
    int fd = socket(to.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool there = !connect(fd, (struct sockaddr *)&to, len);
    close(fd);
    return there;
}

/* Removes the directory of the store. */
static void fs_remove_dir(void)
{
    static const char *const files[] = {"data.mdb", "lock.mdb", "presence.lock", "tls-cert.pem",
                                        "tls-key.pem", "admin-sessions"};
    char path[128];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", fs.dir, files[i]);
        unlink(path);
    }
    rmdir(fs.dir);
}

/* At the end of the process the server must stop in order; after a fault it is left as it is. */
static void fs_stop(void)
{
    struct timespec until;
    if (fs.inside) return;
    atomic_store(&fs_step_ms, 0);
    fs_close(&fs.witness);
    fs_close(&fs.control);
    pthread_kill(fs.thread, SIGTERM);
    (clock_gettime)(CLOCK_REALTIME, &until);
    until.tv_sec += FS_PATIENCE_MS / 1000;
    if (pthread_timedjoin_np(fs.thread, NULL, &until)) fs_found("the server does not stop");
    if (fs.status) fs_found("the server stopped with status %d", fs.status);
    mbedtls_ssl_config_free(&fs.tls);
    fs_remove_dir();
}

/* Starts the server, once. */
static void fs_start(void)
{
    static const char *const places[] = {"/dev/shm", "/tmp"};
    atomic_store(&fs.status, -1);
    snprintf(fs.witness_id, sizeof fs.witness_id, "witness-%d", (int)getpid());
    snprintf(fs.dir, sizeof fs.dir, "%s/presence-fuzz-XXXXXX",
             places[access(places[0], W_OK) != 0]);
    if (!mkdtemp(fs.dir)) abort();
    fs_free_port(fs.port, sizeof fs.port);
    fs_free_port(fs.tls_port, sizeof fs.tls_port);
    for (int i = 0; i < FS_SLOTS; i++) fs_clear(&fs.slots[i]);
    fs_clear(&fs.control);
    fs_clear(&fs.witness);
    if (pthread_create(&fs.thread, NULL, fs_main, NULL)) abort();
    atexit(fs_stop);
    while (!fs_listens(fs.tls_port) || !fs_listens(fs.port)) {
        if (fs.status >= 0) exit(2); /* it has said why */
        poll(NULL, 0, 2);
    }
    mbedtls_ssl_config_init(&fs.tls);
    if (mbedtls_ssl_config_defaults(&fs.tls, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM,
                                    MBEDTLS_SSL_PRESET_DEFAULT))
        abort();
    mbedtls_ssl_conf_rng(&fs.tls, tls_random, NULL);
    mbedtls_ssl_conf_authmode(&fs.tls, MBEDTLS_SSL_VERIFY_NONE);
    fs_witness_open();
}

/* ---- What must hold after each input ------------------------------------------------------ */

/* How many descriptors this process has. */
static int fs_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int n = 0;
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

/* Reads until the upgrade is answered. */
static void fs_await_upgrade(struct fs_slot *slot)
{
    int64_t length, end = fs_now() + FS_PATIENCE_MS;
    int status = 0;
    while (slot->clean && !slot->open && !(status = fs_head(&slot->in, &length)))
        if (!fs_read(slot, FS_PATIENCE_MS) && fs_now() >= end) fs_found("no answer to an upgrade");
    slot->open |= status == 101;
    slot->clean &= slot->open;
}

/* Reads until a ping was answered, or the end; false then. */
static bool fs_await_pong(struct fs_slot *slot)
{
    int64_t end = fs_now() + FS_PATIENCE_MS;
    bool pong = false;
    while (slot->clean && !pong) {
        uint8_t opcode;
        struct span text;
        size_t n = fs_frame_read(&slot->in, &opcode, &text);
        if (!n && !fs_read(slot, FS_PATIENCE_MS) && fs_now() >= end)
            fs_found("a connection in order is silent");
        if (n && opcode == 8) {
            slot->clean = false;
            if (text.len >= 2 && (uint8_t)text.at[0] << 8 == (CLOSE_PROTOCOL & 0xff00) &&
                (uint8_t)text.at[1] == (CLOSE_PROTOCOL & 0xff))
                fs_found("good frames are called bad: %.*s", (int)text.len - 2, text.at + 2);
        }
        pong = n && opcode == 1 && text.len == 4 && !memcmp(text.at, "pong", 4);
        if (n) buffer_drop(&slot->in, n);
    }
    return pong;
}

/* Who has sent nothing but good messages is answered, or was told the end. Counts, by user, those
 * that are open for sure. */
static void fs_answered(int open[FS_USERS])
{
    for (struct fs_slot *slot = fs.slots; slot < fs.slots + FS_SLOTS; slot++) {
        if (slot->fd < 0 || !slot->clean) continue;
        fs_await_upgrade(slot);
        if (!slot->open) continue;
        slot->corked = false;
        fs_frame(&slot->out, 0x81, "ping", 4);
        fs_flush(slot, SIZE_MAX);
        if (fs_await_pong(slot) && slot->user >= 0) open[slot->user]++;
    }
}

/* Reads the list of all who are online; false if it does not have these connections. At quiet its
 * counts are right too: they are taken a moment before its users. */
static bool fs_online(const int open[FS_USERS], bool quiet)
{
    struct json_value list, users, user, id;
    int64_t count, sum, found[FS_USERS] = {0};
    if (fs_ask("GET", "/admin/online-users?limit=1000", "") != 200) fs_found("no list of users");
    list = fs_json();
    if (!json_member(list, "count", &users) || !json_number(users, &count) ||
        !json_member(list, "connections", &users) || !json_number(users, &sum) ||
        !json_member(list, "users", &users))
        fs_found("this is no list: %.*s", (int)list.raw.len, list.raw.at);
    for (size_t cursor = 0; json_item(users, &cursor, &user); count--) {
        struct fs_view view = fs_view_read(user);
        int i = json_member(user, "user_id", &id) ? fs_index(id) : -1;
        if (i >= 0) found[i] = view.connections;
        sum -= view.connections;
    }
    for (int i = 0; i < FS_USERS; i++)
        if (found[i] < open[i]) return false;
    return !quiet || (!count && !sum);
}

/* Whether all who answer are in the list. What was asked before may still be on its way, a kick
 * too. */
static bool fs_answer_and_listed(void)
{
    int open[FS_USERS] = {0};
    fs_answered(open);
    return fs_online(open, false);
}

/* Whether its counts are right when nobody but the witness is connected. */
static bool fs_counts_right(void)
{
    return fs_online((int[FS_USERS]){0}, true);
}

/* Whether the server has no connection left but ours, and its counters say the same. */
static bool fs_drained(void)
{
    if (fs_ask("GET", "/admin/stats", "") != 200) fs_found("no statistics");
    struct json_value stats = fs_json();
    return fs_number(stats, "connections", "sockets") == 1 &&
           fs_number(stats, "connections", "current") == 1 &&
           fs_number(stats, "connections", "watching") == FS_USERS &&
           fs_number(stats, "connections", "pending") <= 1 &&
           fs_number(stats, "users", "live") == 1 &&
           fs_number(stats, "users", "live") + fs_number(stats, "users", "cached") ==
               fs_number(stats, "users", "online") &&
           fs_number(stats, "counters", "joins") - fs_number(stats, "counters", "leaves") ==
               fs_number(stats, "users", "online") &&
           (!fs.descriptors || fs_descriptors() <= fs.descriptors);
}

/* Whether what the witness was told is what the API answers. */
static bool fs_views_agree(void)
{
    struct buffer body = {0};
    struct json_value users, user;
    bool agree = true;
    int i = 0;
    buffer_text(&body, "{\"users\":[");
    for (int k = 0; k < FS_USERS; k++) {
        if (k) buffer_text(&body, ",");
        json_write_string(&body, (struct span){FS_NAMES[k], strlen(FS_NAMES[k])});
    }
    buffer_text(&body, "]}");
    buffer_add(&body, "", 1);
    if (fs_ask("POST", "/api/presence", body.at) != 200) fs_found("no answer about users");
    buffer_free(&body);
    fs_sync();
    if (!json_member(fs_json(), "users", &users)) fs_found("no users");
    for (size_t cursor = 0; json_item(users, &cursor, &user); i++) {
        struct fs_view view = fs_view_read(user), *told = &fs.views[i];
        agree &= view.online == told->online && view.connections == told->connections &&
                 !strcmp(view.status, told->status) && !strcmp(view.source, told->source);
    }
    return agree && i == FS_USERS;
}

/* Waits until something is so. */
static void fs_until(const char *what, bool (*check)(void))
{
    int64_t end = fs_now() + FS_PATIENCE_MS;
    while (!check()) {
        if (fs_now() >= end)
            fs_found("%s: %.*s", what, (int)fs.control.in.len, fs.control.in.at);
        poll(NULL, 0, 1);
    }
}

/* What must hold after an input, when all its connections are gone. */
static void fs_check(void)
{
    fs_until("who answers is not in the list", fs_answer_and_listed);
    fs_until("the witness was told something else", fs_views_agree);
    for (int i = 0; i < FS_SLOTS; i++) fs_close(&fs.slots[i]);
    fs_until("connections are left, or counted", fs_drained);
    fs_until("the witness was told something else", fs_views_agree);
    fs_until("counts are wrong", fs_counts_right);
    if (fs_ask("GET", "/healthz", "") != 200) fs_found("not healthy");
    size_t memory = __sanitizer_get_current_allocated_bytes();
    if (fs.inputs == FS_WARM) fs.memory = memory;
    if (fs.inputs == FS_WARM) fs.descriptors = fs_descriptors() + 2;
    if (fs.memory && memory > fs.memory + FS_SLACK)
        fs_found("%zu bytes are allocated, %zu at first", memory, fs.memory);
}

/* ---- Inputs ------------------------------------------------------------------------------- */

/* Adds bytes in which escapes stand for others. */
static void fs_unescape(struct buffer *out, struct span text)
{
    size_t times = 1, limit = out->len + 300000;
    for (size_t i = 0; i < text.len && out->len < limit; i++) {
        char c = text.at[i], hex[3] = "";
        const char *rest = text.at + i + 1;
        size_t left = text.len - i - 1;
        if (c == '\\' && left) {
            if (*rest == 'r') c = '\r';
            if (*rest == 'n') c = '\n';
            if (*rest == '{') {
                times = 0;
                for (i += 2; i < text.len && digit_is(text.at[i]) && times < 20000; i++)
                    times = times * 10 + (size_t)(text.at[i] - '0');
                continue;
            }
            if (*rest == 'x' && left > 2) {
                memcpy(hex, rest + 1, 2);
                c = (char)strtoul(hex, NULL, 16);
                i += 2;
            }
            i++;
        }
        for (; times; times--) buffer_add(out, &c, 1);
        times = 1;
    }
}

/* Takes the text up to a mark, or all; the rest stays behind the mark. */
static struct span fs_take(struct span *rest, const char *mark)
{
    const char *found = rest->len ? memmem(rest->at, rest->len, mark, strlen(mark)) : NULL;
    struct span taken = {rest->at, found ? (size_t)(found - rest->at) : rest->len};
    size_t used = taken.len + (found ? strlen(mark) : 0);
    *rest = (struct span){rest->at + used, rest->len - used};
    return taken;
}

/* Takes a number. */
static long fs_take_number(struct span *rest, int base)
{
    char text[24] = "";
    struct span word = fs_take(rest, " ");
    memcpy(text, word.at, word.len < sizeof text ? word.len : sizeof text - 1);
    return strtol(text, NULL, base);
}

/* Adds header lines that stand with | between. */
static void fs_headers(struct buffer *out, struct span rest)
{
    while (rest.len) {
        fs_unescape(out, fs_take(&rest, "|"));
        buffer_text(out, "\r\n");
    }
}

/* Q: a request. */
static void fs_do_request(struct fs_slot *slot, struct span rest)
{
    struct span head = fs_take(&rest, "||"), line = fs_take(&head, "|");
    struct buffer body = {0};
    char length[48];
    slot->clean = false;
    fs_unescape(&body, rest);
    fs_unescape(&slot->out, line);
    buffer_text(&slot->out, " HTTP/1.1\r\nHost: localhost\r\n");
    bool own = head.len && memmem(head.at, head.len, "ength", 5);
    bool chunked = head.len && memmem(head.at, head.len, "ncoding", 7);
    fs_headers(&slot->out, head);
    snprintf(length, sizeof length, "Content-Length: %zu\r\n", body.len);
    if (body.len && !own && !chunked) buffer_text(&slot->out, length);
    buffer_text(&slot->out, "\r\n");
    buffer_add(&slot->out, body.at ? body.at : "", body.len);
    buffer_free(&body);
}

/* U: an upgrade. From here on the connection is in order, if it was only opened for it. */
static void fs_do_upgrade(struct fs_slot *slot, struct span rest)
{
    struct buffer headers = {0};
    struct span target = fs_take(&rest, "|");
    slot->clean = !rest.len && !slot->sent && !slot->out.len;
    fs_headers(&headers, rest);
    fs_upgrade(&slot->out, target, (struct span){headers.at ? headers.at : "", headers.len});
    buffer_free(&headers);
    for (int i = 0; i < FS_USERS; i++) {
        size_t prefix = strlen("/ws/presence/"), len = strlen(FS_IDS[i]);
        if (target.len == prefix + len && !memcmp(target.at, "/ws/presence/", prefix) &&
            !memcmp(target.at + prefix, FS_IDS[i], len))
            slot->user = i;
    }
}

/* F and L: a frame, or what looks like one. */
static void fs_do_frame(struct fs_slot *slot, struct span rest, bool lies)
{
    struct buffer payload = {0};
    uint8_t first = (uint8_t)fs_take_number(&rest, 16);
    slot->clean &= !lies && first == 0x81;
    if (lies) {
        struct span length;
        uint8_t second = (uint8_t)fs_take_number(&rest, 16);
        length = fs_take(&rest, " ");
        buffer_add(&slot->out, &first, 1);
        buffer_add(&slot->out, &second, 1);
        for (size_t i = 0; i + 1 < length.len; i += 2) {
            char hex[3] = {length.at[i], length.at[i + 1], 0};
            uint8_t byte = (uint8_t)strtoul(hex, NULL, 16);
            buffer_add(&slot->out, &byte, 1);
        }
    }
    fs_unescape(&payload, rest);
    if (lies) buffer_add(&slot->out, payload.at ? payload.at : "", payload.len);
    else fs_frame(&slot->out, first, payload.at ? payload.at : "", payload.len);
    buffer_free(&payload);
}

/* H: a ClientHello of TLS 1.3 whose key may be none. */
static void fs_do_hello(struct fs_slot *slot, struct span rest)
{
    static const uint8_t front[] = {
        0x00, 0x02, 0x13, 0x01, 0x01, 0x00, /* one cipher suite, no compression */
        0x00, 0x00,                         /* length of the extensions, filled in below */
        0x00, 0x2b, 0x00, 0x03, 0x02, 0x03, 0x04,                   /* version 1.3 */
        0x00, 0x0d, 0x00, 0x06, 0x00, 0x04, 0x04, 0x03, 0x08, 0x04, /* signatures */
        0x00, 0x0a, 0x00, 0x08, 0x00, 0x06, 0x00, 0x1d, 0x00, 0x17, 0x00, 0x18, /* groups */
    };
    enum { EXTENSIONS = 6, FRONT = sizeof front, LENGTHS = 5 + 4 + 2 + 32 + 1 };
    uint8_t bytes[LENGTHS + FRONT + 10 + 256] = {0x16, 3, 1, 0, 0, 1, 0, 0, 0, 3, 3};
    unsigned group = (unsigned)fs_take_number(&rest, 16);
    size_t key = (size_t)fs_take_number(&rest, 16) & 0xff, at = LENGTHS;
    int fill = (int)fs_take_number(&rest, 16);
    memset(bytes + 11, 0x5a, 32);
    memcpy(bytes + at, front, FRONT);
    uint8_t *extensions = bytes + at + EXTENSIONS;
    at += FRONT;
    const size_t lengths[] = {0x33, key + 6, key + 4, group, key};
    for (size_t i = 0; i < 5; i++) {
        bytes[at++] = (uint8_t)(lengths[i] >> 8);
        bytes[at++] = (uint8_t)lengths[i];
    }
    memset(bytes + at, fill, key);
    if (key) bytes[at] = fill == 4 ? 4 : bytes[at]; /* how a point of a curve begins */
    at += key;
    size_t all = at - LENGTHS - EXTENSIONS - 2;
    extensions[0] = (uint8_t)(all >> 8);
    extensions[1] = (uint8_t)all;
    bytes[7] = (uint8_t)((at - 9) >> 8);
    bytes[8] = (uint8_t)(at - 9);
    bytes[3] = (uint8_t)((at - 5) >> 8);
    bytes[4] = (uint8_t)(at - 5);
    slot->clean = false;
    buffer_add(&slot->out, bytes, at);
}

/* Opens a connection in the way of the letter. */
static void fs_do_open(struct fs_slot *slot, char letter, struct span rest)
{
    fs_connect(slot, letter == 'o' ? fs.port : fs.tls_port, letter == 'o' && rest.len);
    if (letter != 'O') return;
    slot->flip = rest.len ? fs_take_number(&rest, 10) : -1;
    slot->bits = (unsigned)fs_take_number(&rest, 16);
    if (slot->flip >= 0 && !(slot->bits & 0xff)) slot->bits = 1;
    fs_shake(slot);
    slot->sent = 0; /* of what comes after the handshake */
}

/* Closes a connection in the way of the letter. */
static void fs_do_end(struct fs_slot *slot, char letter)
{
    struct linger hard = {1, 0};
    slot->clean = false;
    if (slot->fd < 0) return;
    if (letter == 's') {
        shutdown(slot->fd, SHUT_WR);
        return;
    }
    if (letter == 'k') setsockopt(slot->fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    fs_close(slot);
}

/* Moves the clocks, and lets the server see it. */
static void fs_do_clock(char letter, long ms)
{
    enum { FURTHEST = 6000, STEP = 100000000 };
    if (letter == 'j') {
        fs_ahead_ms += ms < 0 ? 0 : ms > FURTHEST ? FURTHEST : ms;
    } else {
        fs_step_ms = ms % STEP;
    }
    fs_sync();
}

/* Sends what was kept in pieces of so many bytes. The server has time to read the first ones one by
 * one, and the last. */
static void fs_do_pieces(struct fs_slot *slot, long size)
{
    enum { ALONE = 4, PIECES = 200 };
    if (size < 1) return;
    for (int i = 0; i < PIECES && slot->out.len; i++) {
        if (i && (i < ALONE || slot->out.len <= (size_t)size)) fs_sync();
        fs_flush(slot, (size_t)size);
    }
}

/* What is sent on a connection; false if the letter is none of these. */
static bool fs_do_send(struct fs_slot *slot, char letter, struct span rest)
{
    if (!strchr("QUFLRHw", letter)) return false;
    if (slot->fd < 0) fs_connect(slot, letter == 'H' ? fs.tls_port : fs.port, false);
    switch (letter) {
    case 'Q': fs_do_request(slot, rest); break;
    case 'U': fs_do_upgrade(slot, rest); break;
    case 'F': fs_do_frame(slot, rest, false); break;
    case 'L': fs_do_frame(slot, rest, true); break;
    case 'H': fs_do_hello(slot, rest); break;
    case 'R':
        slot->clean = false;
        fs_unescape(&slot->out, rest);
        break;
    default: slot->corked = false;
    }
    if (slot->corked) return true;
    if (letter == 'w') fs_do_pieces(slot, fs_take_number(&rest, 10));
    fs_flush(slot, SIZE_MAX);
    return true;
}

/* Does what a line says. */
static void fs_line(struct span line)
{
    if (line.len < 2 || line.at[1] < '0' || line.at[1] >= '0' + FS_SLOTS) return;
    struct fs_slot *slot = &fs.slots[line.at[1] - '0'];
    struct span rest = {line.at + 2, line.len - 2};
    char letter = line.at[0];
    if (rest.len && *rest.at == ' ') rest = (struct span){rest.at + 1, rest.len - 1};
    if (!letter || fs_do_send(slot, letter, rest)) return;
    switch (letter) {
    case 'o':
    case 'O':
    case 't': fs_do_open(slot, letter, rest); break;
    case 'c': slot->corked = slot->fd >= 0; break;
    case 'g':
        if (slot->fd >= 0) fs_read(slot, 1);
        break;
    case 's':
    case 'k':
    case 'd': fs_do_end(slot, letter); break;
    case 'z': fs_sync(); break;
    case 'j':
    case 'J': fs_do_clock(letter, fs_take_number(&rest, 10)); break;
    case 'h': pthread_kill(fs.thread, SIGHUP); break;
    default: break;
    }
}

/* Writes the input into the journal. */
static void fs_keep(const uint8_t *data, size_t len)
{
    const char *journal = getenv("FUZZ_JOURNAL");
    char path[PATH_MAX];
    if (!journal) return;
    snprintf(path, sizeof path, "%s/%08lu", journal, fs.inputs - FS_JOURNAL);
    if (fs.inputs >= FS_JOURNAL) unlink(path);
    snprintf(path, sizeof path, "%s/%08lu", journal, fs.inputs);
    FILE *out = fopen(path, "we");
    if (!out) return;
    fwrite(data, 1, len, out);
    fclose(out);
}

static void fuzz_server(const uint8_t *data, size_t len)
{
    struct span rest = {(const char *)data, len};
    if (!fs.inputs) fs_start();
    fs_keep(data, len);
    fs.inputs++;
    fs.inside = true;
    for (int lines = 0; rest.len && lines < 100; lines++) fs_line(fs_take(&rest, "\n"));
    fs_check();
    fs.inside = false;
}

/* ---- Mutation, line by line ---------------------------------------------------------------- */

/* Lines that a scenario is made of. */
static const char *const FS_LINES[] = {
    "o0", "o0 s", "O0", "O0 40 1", "O0 120 80", "t0", "c0", "w0", "w0 1", "w0 7", "g0", "s0", "k0",
    "d0", "z0", "j0 30", "j0 900", "j0 6000", "J0 -90000", "J0 86400000", "h0",
    "H0 1d 20 9", "H0 1d 1 9", "H0 17 41 4", "H0 18 61 4", "H0 17 0 0", "H0 1e 38 1",
    "U0 /ws/presence/a", "U0 /ws/presence/b", "U0 /ws/presence/c", "U0 /ws/presence/d",
    "U0 /ws/presence/e%2Ff", "U0 /ws/presence/%C3%A9", "U0 /ws/presence/0?x=1",
    "U0 /ws/presence/a|Origin: http://localhost", "U0 /ws/presence/a|Origin: https://evil.example",
    "U0 /ws/presence/b|Sec-WebSocket-Protocol: presence.v1, token.x",
    "F0 81 ping", "F0 81 {\"type\":\"ping\"}", "F0 81 {\"type\":\"status\",\"status\":\"away\"}",
    "F0 81 {\"type\":\"status\",\"status\":\"busy\",\"manual\":true}",
    "F0 81 {\"type\":\"status\",\"status\":\"invisible\",\"manual\":true}",
    "F0 81 {\"type\":\"status\",\"status\":\"online\",\"manual\":true,\"message\":\"m\"}",
    "F0 81 {\"type\":\"watch\",\"users\":[\"a\",\"b\",\"c\"]}",
    "F0 81 {\"type\":\"watch\",\"users\":[\"d\",\"e/f\",\"\\x5cu00e9\",\"0\",\"n\"]}",
    "F0 81 {\"type\":\"unwatch\",\"users\":[\"a\",\"0\"]}", "F0 81 {\"type\":\"unwatch\"}",
    "F0 81 [\\{20}[", "F0 81 \\{5000}x", "F0 81 \\xff\\xfe", "F0 01 {\"type\":", "F0 00 \"pi",
    "F0 80 ng\"}", "F0 89 hi", "F0 8a hi", "F0 88 \\x03\\xe8bye", "F0 88 \\x03\\xe9", "F0 88 ",
    "F0 88 \\x03", "F0 82 bytes", "F0 c1 ping", "F0 83 x", "L0 81 85 00000000 hello",
    "L0 81 05 hello", "L0 81 fe 0005 hello", "L0 81 ff 0000000000010000 x", "L0 88 fd  x",
    "L0 81 85 000000", "L0 89 80 0000", "L0 81 fe 0100", "L0 81 ff 000000000001000000",
    "Q0 GET /healthz", "Q0 GET /readyz", "Q0 HEAD /", "Q0 GET /metrics", "Q0 GET /presence.js",
    "Q0 GET /admin/stats", "Q0 GET /admin/online-users?limit=2", "Q0 GET /admin/users?q=a&limit=3",
    "Q0 GET /admin/users?sort=-last_seen", "Q0 GET /admin/users/a", "Q0 GET /api/presence/a",
    "Q0 GET /admin/users/a/sessions", "Q0 GET /admin/history?hours=1", "Q0 GET /admin/events",
    "Q0 GET /api/events", "Q0 GET /api/events|Last-Event-ID: 0-1",
    "Q0 DELETE /admin/users/a/connections", "Q0 DELETE /admin/users/b/connections",
    "Q0 POST /api/presence/z/heartbeat", "Q0 POST /api/presence/a/heartbeat",
    "Q0 POST /api/presence/heartbeat||{\"users\":[\"z\",\"0\"]}",
    "Q0 POST /api/presence||{\"users\":[\"a\",\"b\",\"none\"]}",
    "Q0 PUT /api/presence/a/status||{\"status\":\"busy\",\"message\":\"m\",\"expires_in\":1}",
    "Q0 PUT /api/presence/b/status||{\"status\":\"invisible\"}",
    "Q0 PUT /api/presence/a/status||{\"status\":null}",
    "Q0 POST /api/presence|Transfer-Encoding: chunked||5\\r\\n{\\x22use\\r\\n0\\r\\n\\r\\n",
    "Q0 POST /api/presence|Expect: 100-continue||{\"users\":[\"a\"]}",
    "Q0 POST /api/presence|Content-Length: 60000||{", "Q0 OPTIONS /api/presence",
    "Q0 GET /healthz|Connection: close", "Q0 GET /healthz|X: \\{9000}y",
    "Q0 GET /ws/presence/a|Upgrade: websocket", "R0 GET / HTTP/1.0\\r\\n\\r\\n", "R0 \\r\\n\\r\\n",
    "R0 \\x16\\x03\\x01\\x00\\x05\\x01\\x00\\x00\\x01\\x00", "R0 GET /healthz HT",
    "R0 POST /api/presence HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: 20\\r\\n\\r\\n{",
};
enum { FS_LINE_COUNT = sizeof FS_LINES / sizeof *FS_LINES, FS_LINES_MAX = 100 };

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* Numbers from a seed. */
static unsigned fs_roll(unsigned *seed, unsigned n)
{
    *seed = *seed * 1664525 + 1013904223;
    return (*seed >> 8) % n;
}

/* Cuts an input into lines. */
static size_t fs_lines(const uint8_t *data, size_t size, struct span lines[FS_LINES_MAX + 2])
{
    struct span rest = {(const char *)data, size};
    size_t count = 0;
    while (rest.len && count < FS_LINES_MAX) lines[count++] = fs_take(&rest, "\n");
    return count;
}

/* Changes one of the lines inside; it stays where it was unless it needs room. */
static void fs_mutate_line(struct span *line, char room[2048], unsigned *seed)
{
    size_t len = line->len < 1024 ? line->len : 1024;
    memcpy(room, line->at, len);
    unsigned how = fs_roll(seed, 4);
    if (how == 0 && len > 1) {
        room[1] = (char)('0' + fs_roll(seed, FS_SLOTS));
    } else if (how == 1 && len > 3) {
        len = 3 + LLVMFuzzerMutate((uint8_t *)room + 3, len - 3, 1600);
    } else {
        const char *other = FS_LINES[fs_roll(seed, FS_LINE_COUNT)];
        char slot = len > 1 ? room[1] : '0';
        len = strlen(other);
        memcpy(room, other, len);
        room[1] = slot;
    }
    for (size_t i = 0; i < len; i++)
        if (room[i] == '\n') room[i] = ' ';
    *line = (struct span){room, len};
}

/* Makes one change to the list of lines; returns how many there are. */
static size_t fs_mutate_list(struct span *lines, size_t count, char room[2048], unsigned *seed)
{
    size_t a = count ? fs_roll(seed, (unsigned)count) : 0;
    size_t b = count ? fs_roll(seed, (unsigned)count) : 0;
    struct span kept;
    switch (count ? fs_roll(seed, 7) : 0) {
    case 0:
    case 1: /* a new line */
        kept = (struct span){FS_LINES[fs_roll(seed, FS_LINE_COUNT)], 0};
        memcpy(room, kept.at, strlen(kept.at));
        kept = (struct span){room, strlen(kept.at)};
        room[1] = count > 0 && lines[a].len > 1 && fs_roll(seed, 3)
                      ? lines[a].at[1] : (char)('0' + fs_roll(seed, FS_SLOTS));
        break;
    case 2: /* one again */
        kept = lines[b];
        break;
    case 3: /* without one */
        memmove(lines + a, lines + a + 1, (count - a - 1) * sizeof *lines);
        return count - 1;
    case 4: /* two change places */
        kept = lines[a];
        lines[a] = lines[b];
        lines[b] = kept;
        return count;
    default: fs_mutate_line(&lines[a], room, seed); return count;
    }
    if (count == FS_LINES_MAX) return count;
    if (count && fs_roll(seed, 2)) a++;
    memmove(lines + a + 1, lines + a, (count - a) * sizeof *lines);
    lines[a] = kept;
    return count + 1;
}

/* Mutates a scenario; what the other fuzzers read is mutated byte by byte. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static char rooms[8][2048];
    struct span lines[FS_LINES_MAX + 2];
    struct buffer made = {0};
    if (!fuzz_scenarios || !(seed % 16)) return LLVMFuzzerMutate(data, size, max_size);
    size_t count = fs_lines(data, size, lines);
    for (int n = 1 + (int)fs_roll(&seed, 8), i = 0; i < n; i++)
        count = fs_mutate_list(lines, count, rooms[i], &seed);
    for (size_t i = 0; i < count; i++) {
        buffer_add(&made, lines[i].at, lines[i].len);
        buffer_text(&made, "\n");
    }
    size = made.len < max_size ? made.len : max_size;
    if (size) memcpy(data, made.at, size);
    buffer_free(&made);
    return size;
}
