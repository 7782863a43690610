/* Fuzzes whole handshakes: a client of Mbed TLS against the server's own TLS, from the socket to
 * the data, with what the client says changed on its way. The input is a script: which version and
 * group, and for each record what becomes of it; a script that changes nothing has to succeed.
 * Besides whatever the sanitizers find: the process does not end (see fuzz.c), and whatever fails
 * has its alert. */

#include <ssl_misc.h>
#include <ssl_tls13_keys.h>

struct fuzz_script {
    const uint8_t *at;
    size_t len;
};

/* One run. */
struct fuzz_tls {
    struct fuzz_script script;
    mbedtls_ssl_context client;
    mbedtls_ssl_config config;
    struct buffer sent, got; /* by the client, still to be changed; for the client */
    struct transport transport;        /* the server's end */
    struct tls_hello hello;
    int fd;                  /* the client's end */
    struct tls_shared *server;
    uint8_t shape;           /* of the key share: 0 leaves it */
    uint8_t pieces;          /* of the client's Finished, TLS 1.3: 0 leaves it whole */
    bool open, over;         /* the server's handshake is done; its connection has ended */
    bool changed;            /* the client's own bytes are not what arrives */
    bool alerted;            /* an alert of the client may have arrived */
    bool echoed;
};

static struct tls_shared fuzz_tls_servers[2]; /* the second knows P-384 only: HelloRetryRequest */
static struct counters fuzz_tls_counters;
static mbedtls_ssl_session fuzz_tls_session; /* of TLS 1.2, to be resumed */

enum {
    FUZZ_X25519 = MBEDTLS_SSL_IANA_TLS_GROUP_X25519,
    FUZZ_P256 = MBEDTLS_SSL_IANA_TLS_GROUP_SECP256R1,
    FUZZ_P384 = MBEDTLS_SSL_IANA_TLS_GROUP_SECP384R1,
};

/* The next byte of the script; 0, which changes nothing, behind its end. */
static uint8_t fuzz_take(struct fuzz_tls *f)
{
    if (!f->script.len) return 0;
    f->script.len--;
    return *f->script.at++;
}

/* What the client says waits to be changed. */
static int fuzz_client_send(void *context, const unsigned char *at, size_t len)
{
    buffer_add(&((struct fuzz_tls *)context)->sent, at, len);
    return (int)len;
}

/* What the server said. */
static int fuzz_client_receive(void *context, unsigned char *out, size_t size)
{
    struct buffer *got = &((struct fuzz_tls *)context)->got;
    size_t n = got->len < size ? got->len : size;
    if (!n) return MBEDTLS_ERR_SSL_WANT_READ;
    memcpy(out, got->at, n);
    buffer_drop(got, n);
    return (int)n;
}

/* Adds a record to what arrives. */
static void fuzz_record(struct buffer *out, uint8_t type, const void *at, size_t len)
{
    uint8_t head[] = {type, 3, 3, (uint8_t)(len >> 8), (uint8_t)len};
    buffer_add(out, head, sizeof head);
    if (len) buffer_add(out, at, len);
}

/* A key share of this shape and group in place of one of len bytes; returns its length. */
static size_t fuzz_share(uint8_t shape, size_t group, const uint8_t *old, size_t len,
                         uint8_t out[200])
{
    bool p384 = group == MBEDTLS_SSL_IANA_TLS_GROUP_SECP384R1;
    size_t size = p384 ? 97 : group == MBEDTLS_SSL_IANA_TLS_GROUP_X25519 ? 32 : 65;
    memset(out, 0, 200);
    memcpy(out, old, len < 200 ? len : 200);
    switch (shape % 12) {
    case 1: return 0;
    case 2: return 1;
    case 3: return size - 1;
    case 4: return size + 1;
    case 5: memset(out, 0, 200); return size;
    case 6: memset(out, 0xff, 200); return size;
    case 7: out[0] = 2; return 1 + size / 2;
    case 8: memset(out, 0, 200); out[0] = 4; return size;
    case 9: out[size - 1] ^= 1; return size;
    case 10: memset(out, 0, 200); out[0] = 1; return size;
    case 11: memset(out, 0, 200); return 1;
    default: return len;
    }
}

/* Puts n bytes in place of len at `at` of a message, and mends its length. */
static void fuzz_replace(struct buffer *message, size_t at, size_t len, const uint8_t *with,
                         size_t n)
{
    struct buffer rest = {0};
    if (message->len > at + len) buffer_add(&rest, message->at + at + len, message->len - at - len);
    message->len = at;
    if (n) buffer_add(message, with, n);
    if (rest.len) buffer_add(message, rest.at, rest.len);
    buffer_free(&rest);
    size_t body = message->len - 4;
    for (int i = 0; i < 3; i++) message->at[1 + i] = (char)(body >> (16 - 8 * i));
}

/* 16 bits of a message; 0 behind its end. */
static size_t fuzz_u16(const struct buffer *b, size_t at)
{
    return at + 2 > b->len ? 0 : (size_t)(uint8_t)b->at[at] << 8 | (uint8_t)b->at[at + 1];
}

/* Puts 16 bits into a message. */
static void fuzz_put_u16(struct buffer *b, size_t at, size_t n)
{
    b->at[at] = (char)(n >> 8), b->at[at + 1] = (char)n;
}

/* Changes the key share in a ClientHello or a ClientKeyExchange. True if there was one. */
static bool fuzz_reshape(struct buffer *m, uint8_t shape)
{
    uint8_t share[200];
    if (m->len > 6 && m->at[0] == 16) {
        size_t n = fuzz_share(shape, 0, (uint8_t *)m->at + 5, m->len - 5, share);
        uint8_t with[201] = {0};
        with[0] = (uint8_t)n;
        memcpy(with + 1, share, n);
        fuzz_replace(m, 4, m->len - 4, with, n + 1);
        return true;
    }
    if (m->len < 43 || m->at[0] != 1) return false;
    size_t at = 4 + 34;
    at += 1 + (uint8_t)m->at[at];
    at += 2 + fuzz_u16(m, at);
    if (at >= m->len) return false;
    at += 1 + (uint8_t)m->at[at];
    size_t all = at;
    for (at += 2; at + 4 <= m->len; at += 4 + fuzz_u16(m, at + 2)) {
        if (fuzz_u16(m, at) != 51 || fuzz_u16(m, at + 2) < 6) continue;
        size_t len = fuzz_u16(m, at + 8);
        if (at + 10 + len > m->len) return false;
        const uint8_t *old = (uint8_t *)m->at + at + 10;
        size_t n = fuzz_share(shape, fuzz_u16(m, at + 6), old, len, share);
        fuzz_replace(m, at + 10, len, share, n);
        fuzz_put_u16(m, at + 8, n);
        fuzz_put_u16(m, at + 4, fuzz_u16(m, at + 4) + n - len);
        fuzz_put_u16(m, at + 2, fuzz_u16(m, at + 2) + n - len);
        fuzz_put_u16(m, all, fuzz_u16(m, all) + n - len);
        return true;
    }
    return false;
}

/* A record that nobody asked for. */
static void fuzz_insert(struct fuzz_tls *f, struct buffer *out)
{
    uint8_t what = fuzz_take(f), bytes[40] = {0};
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(what * 31 + i);
    switch (what % 8) {
    case 0: fuzz_record(out, 21, (uint8_t[]){what & 8 ? 1 : 2, fuzz_take(f)}, 2); break;
    case 1: fuzz_record(out, 20, (uint8_t[]){1}, 1); break;
    case 2: fuzz_record(out, 22, NULL, 0); break;
    case 3: fuzz_record(out, (uint8_t)(24 + (what >> 3)), bytes, 3); break;
    case 4: buffer_add(out, (uint8_t[]){23, 3, 3, 0x41, 1}, 5); break;
    case 5: fuzz_record(out, 23, bytes, sizeof bytes); break;
    case 6: fuzz_record(out, 22, (uint8_t[]){what >> 3, 0, 0, 0}, 1 + (what >> 3) % 4); break;
    default: buffer_add(out, bytes, 1 + what % 32); break;
    }
    f->alerted |= what % 8 == 0 || what % 8 == 7;
}

/* What becomes of one record on its way. */
static void fuzz_change(struct fuzz_tls *f, struct buffer *out, const uint8_t *at, size_t len)
{
    const uint8_t *content = at + 5;
    size_t n = len - 5, size;
    struct buffer message = {0};
    bool clear = at[0] == 22 && n >= 4 && (content[0] == 1 || content[0] == 16);
    buffer_add(&message, content, n);
    if (f->shape && clear && fuzz_reshape(&message, f->shape)) f->changed = true;
    content = (uint8_t *)message.at;
    n = message.len;
    uint8_t op = fuzz_take(f) & 15;
    f->changed |= op > 8;
    switch (op) {
    case 7: /* as it may be, in the clear */
    case 8:
        size = 1 + fuzz_take(f) % (op == 7 ? n : 5);
        if (!clear) size = n;
        for (size_t i = 0; i < n; i += size)
            fuzz_record(out, at[0], content + i, n - i < size ? n - i : size);
        break;
    case 9:
        fuzz_record(out, (uint8_t)(16 + fuzz_take(f) % 12), content, n);
        f->alerted = true;
        break;
    case 10:
        size = fuzz_take(f) << 8;
        size = (size | fuzz_take(f)) % n;
        ((uint8_t *)message.at)[size] ^= (uint8_t)(fuzz_take(f) | 1);
        fuzz_record(out, at[0], content, n);
        break;
    case 11: fuzz_insert(f, out); fuzz_record(out, at[0], content, n); break;
    case 12: fuzz_record(out, at[0], content, n); fuzz_insert(f, out); break;
    case 13: break;
    case 14: fuzz_record(out, at[0], content, n); fuzz_record(out, at[0], content, n); break;
    case 15: fuzz_record(out, at[0], content, fuzz_take(f) % n); break;
    default: fuzz_record(out, at[0], content, n); break;
    }
    buffer_free(&message);
}

/* The server's turn, as the door and the hub take it. True when something happened. */
static bool fuzz_serve(struct fuzz_tls *f)
{
    static char scratch[LISTENER_READ_SIZE];
    struct tls *tls = f->transport.tls;
    uint8_t alert;
    ssize_t n;
    if (f->over) return false;
    if (f->open) {
        n = transport_read(&f->transport, scratch, sizeof scratch);
        if (n > 0 && transport_write(&f->transport, scratch, (size_t)n) < 0) n = TRANSPORT_BROKEN;
        f->over = n == TRANSPORT_BROKEN || n == TRANSPORT_END;
        f->alerted |= n == TRANSPORT_END;
        return n != TRANSPORT_AGAIN;
    }
    if (tls->in.len >= LISTENER_HELLO_MAX) abort();
    n = transport_receive(f->transport.fd, scratch, LISTENER_HELLO_MAX - tls->in.len);
    if (n > 0) buffer_add(&tls->in, scratch, (size_t)n);
    switch (tls_hello_look(tls, &f->hello, &alert)) {
    case HELLO_REFUSE: transport_refuse_tls(&f->transport, alert); f->over = true; return true;
    case HELLO_WAIT: return n > 0;
    default: break;
    }
    switch (transport_handshake(&f->transport, f->server)) {
    case HANDSHAKE_FAILED: f->over = true; break;
    case HANDSHAKE_DONE: f->open = true; break;
    default: break;
    }
    return true;
}

/* Has the server read what was sent, in pieces as the script has them, and the client what the
 * server says. */
static void fuzz_deliver(struct fuzz_tls *f, const struct buffer *bytes)
{
    static char scratch[65536];
    size_t step = fuzz_take(f);
    step = step ? (step < 128 ? step : step * 64) : 65536;
    for (size_t i = 0; i < bytes->len; i += step) {
        size_t n = bytes->len - i < step ? bytes->len - i : step;
        if (send(f->fd, bytes->at + i, n, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) break;
        bool was_over = f->over;
        size_t said = 0;
        while (fuzz_serve(f)) continue;
        for (ssize_t got; (got = recv(f->fd, scratch, sizeof scratch, MSG_DONTWAIT)) > 0;) {
            buffer_add(&f->got, scratch, (size_t)got);
            said += (size_t)got;
        }
        if (f->over && !was_over && !said && !f->alerted) abort(); /* no alert */
    }
}

/* Sends a record of the client's own that nobody expects, enciphered. */
static void fuzz_craft(struct fuzz_tls *f)
{
    static const uint8_t types[] = {20, 21, 22, 22, 22, 23, 23, 24};
    mbedtls_ssl_context *ssl = &f->client;
    uint8_t how = fuzz_take(f);
    if (!ssl->transform_out || ssl->out_left || how < 128) return;
    uint8_t content[32] = {0};
    size_t len = fuzz_take(f) % sizeof content;
    for (size_t i = 0; i < len; i++) content[i] = fuzz_take(f);
    if (how & 8 && len >= 5) memcpy(content, (uint8_t[]){24, 0, 0, 1}, 4); /* KeyUpdate */
    if (how & 16 && len >= 4) memcpy(content, (uint8_t[]){1, 0, 0, 0}, 4); /* another hello */
    ssl->out_msgtype = types[how & 7];
    ssl->out_msglen = len;
    memcpy(ssl->out_msg, content, len);
    f->changed = f->alerted = true;
    (void)mbedtls_ssl_write_record(ssl, 1);
}

/* Sends the client's Finished of TLS 1.3 in pieces, and goes on as if Mbed TLS had sent it. */
static void fuzz_finish(struct fuzz_tls *f)
{
    mbedtls_ssl_context *ssl = &f->client;
    uint8_t message[4 + 64] = {20};
    size_t len = 0, done = 0;
    if (mbedtls_ssl_flush_output(ssl)) abort();
    if (mbedtls_ssl_tls13_calculate_verify_data(ssl, message + 4, 64, &len, MBEDTLS_SSL_IS_CLIENT))
        abort();
    message[3] = (uint8_t)len;
    for (size_t n; done < 4 + len; done += n) {
        n = f->pieces < 4 + len - done ? f->pieces : 4 + len - done;
        ssl->out_msgtype = 22;
        ssl->out_msglen = n;
        memcpy(ssl->out_msg, message + done, n);
        if (mbedtls_ssl_write_record(ssl, 1)) abort();
    }
    mbedtls_ssl_set_outbound_transform(ssl, ssl->transform_application);
    mbedtls_ssl_set_inbound_transform(ssl, ssl->transform_application);
    ssl->state = MBEDTLS_SSL_HANDSHAKE_OVER;
}

/* The client's turn. */
static void fuzz_speak(struct fuzz_tls *f, int64_t turn)
{
    mbedtls_ssl_context *ssl = &f->client;
    unsigned char data[256];
    int error = 0;
    while (!error && ssl->state != MBEDTLS_SSL_HANDSHAKE_OVER) {
        if (f->pieces && ssl->state == MBEDTLS_SSL_CLIENT_FINISHED &&
            ssl->tls_version == MBEDTLS_SSL_VERSION_TLS1_3)
            fuzz_finish(f);
        else error = mbedtls_ssl_handshake_step(ssl);
    }
    if (error && error != MBEDTLS_ERR_SSL_WANT_READ) f->alerted = true; /* it has said so */
    fuzz_craft(f);
    if (error || f->echoed) return;
    int got = mbedtls_ssl_read(ssl, data, sizeof data);
    if (got == 5 && !memcmp(data, "hello", 5)) f->echoed = true;
    if (!f->echoed && turn % 2) (void)mbedtls_ssl_write(ssl, (const unsigned char *)"hello", 5);
}

/* Sets both ends up as the first bytes of the script have them. */
static bool fuzz_tls_init(struct fuzz_tls *f)
{
    static const uint16_t groups[][4] = {
        {FUZZ_X25519, FUZZ_P256, FUZZ_P384},
        {FUZZ_P256, FUZZ_P384},
        {FUZZ_P384, FUZZ_P256},
    };
    int ends[2];
    uint8_t how = fuzz_take(f);
    bool old = how & 1;
    mbedtls_ssl_protocol_version version =
        old ? MBEDTLS_SSL_VERSION_TLS1_2 : MBEDTLS_SSL_VERSION_TLS1_3;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends)) abort();
    f->fd = ends[1];
    f->transport.fd = ends[0];
    f->server = &fuzz_tls_servers[old ? 0 : how >> 1 & 1]; /* TLS 1.2 needs the key's curve */
    transport_begin_tls(&f->transport);
    mbedtls_ssl_init(&f->client);
    mbedtls_ssl_config_init(&f->config);
    if (tls_config_base(&f->config, MBEDTLS_SSL_IS_CLIENT)) abort();
    mbedtls_ssl_conf_authmode(&f->config, MBEDTLS_SSL_VERIFY_NONE);
    mbedtls_ssl_conf_max_tls_version(&f->config, version);
    mbedtls_ssl_conf_min_tls_version(&f->config, version);
    mbedtls_ssl_conf_groups(&f->config, groups[(how >> 2 & 3) % 3]);
    if (mbedtls_ssl_setup(&f->client, &f->config)) abort();
    if (mbedtls_ssl_set_hostname(&f->client, NULL)) abort();
    if (how & 32 && old && mbedtls_ssl_set_session(&f->client, &fuzz_tls_session)) abort();
    mbedtls_ssl_set_bio(&f->client, f, fuzz_client_send, fuzz_client_receive, NULL);
    f->shape = how & 64 ? fuzz_take(f) % 12 : 0;
    f->pieces = how & 128 ? 1 + fuzz_take(f) % 5 : 0;
    return old;
}

/* Runs one script. */
static void fuzz_tls_run(const uint8_t *data, size_t len, bool keep)
{
    enum { TURNS = 12 };
    struct fuzz_tls f = {.script = {data, len}};
    bool old = fuzz_tls_init(&f);
    for (int turn = 0; turn < TURNS && !f.over && !f.echoed; turn++) {
        struct buffer out = {0}, sent;
        fuzz_speak(&f, turn);
        sent = f.sent;
        f.sent = (struct buffer){0};
        for (size_t i = 0, n; i + 5 <= sent.len; i += n) {
            n = 5 + fuzz_u16(&sent, i + 3);
            fuzz_change(&f, &out, (uint8_t *)sent.at + i, n);
        }
        fuzz_deliver(&f, &out);
        buffer_free(&out);
        buffer_free(&sent);
    }
    if (!f.changed && !f.echoed) abort(); /* nothing was wrong with this client */
    if (keep && old && mbedtls_ssl_get_session(&f.client, &fuzz_tls_session)) abort();
    mbedtls_ssl_free(&f.client);
    mbedtls_ssl_config_free(&f.config);
    buffer_free(&f.sent);
    buffer_free(&f.got);
    transport_close(&f.transport);
    close(f.fd);
}

/* Makes the servers, with a certificate of their own. */
static void fuzz_tls_start(void)
{
    static const uint16_t only[] = {FUZZ_P384, 0};
    char dir[] = "/tmp/presence-fuzz-XXXXXX", cert[64], key[64], err[WHY_MAX];
    char *certs[] = {cert}, *keys[] = {key};
    if (psa_crypto_init() != PSA_SUCCESS || !mkdtemp(dir)) abort();
    snprintf(cert, sizeof cert, "%s/cert", dir);
    snprintf(key, sizeof key, "%s/key", dir);
    if (!tls_self_make(cert, key, NULL, 0, WHY(err))) abort();
    for (size_t i = 0; i < 2; i++) {
        struct tls_shared *shared = &fuzz_tls_servers[i];
        if (!tls_shared_init(shared, 1, &fuzz_tls_counters)) abort();
        struct tls_config *config = tls_config_make(shared, certs, 1, keys, 1, WHY(err));
        if (!config) abort();
        if (i) mbedtls_ssl_conf_groups(&config->ssl, only);
        tls_config_use(shared, config);
    }
    unlink(cert);
    unlink(key);
    rmdir(dir);
    mbedtls_ssl_session_init(&fuzz_tls_session);
    for (uint8_t how = 0; how < 12; how++) fuzz_tls_run(&how, 1, how == 1);
}

static void fuzz_tls(const uint8_t *data, size_t len)
{
    static bool started;
    if (!started) fuzz_tls_start();
    started = true;
    fuzz_tls_run(data, len, false);
}
