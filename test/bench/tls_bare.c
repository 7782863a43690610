/* tls_bare.c - the least a TLS server costs that is built on our Mbed TLS: what a handshake takes
 * of the library alone. A peer for the benchmark, and how vendor/mbedtls_config.h was chosen.
 *
 *   musl-gcc -O2 -static -I MBEDTLS/include -I vendor '-DMBEDTLS_CONFIG_FILE=<mbedtls_config.h>' \
 *       -o tls_bare tls_bare.c vendor.a
 *
 *   tls_bare CERTIFICATE KEY [THREADS]
 *
 * Every thread has its own epoll set and its own listening socket on the same port of 127.0.0.1
 * (SO_REUSEPORT). It shakes hands, TLS 1.2 or 1.3, full or resumed by ticket, answers `ping` with
 * `pong`, and holds the connection until the peer ends it. It ends with a signal, or after LIFETIME seconds.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <mbedtls/pk.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/x509_crt.h>
#include <psa/crypto.h>

enum { LIFETIME = 1200, EVENTS = 64, THREADS_MAX = 16, TICKET_LIFETIME = 86400 };

struct connection {
    mbedtls_ssl_context ssl;
    int fd, established;
};

/* What all threads share; constant once they run, but for what locks itself. */
static struct {
    mbedtls_ssl_config config;
    mbedtls_ssl_ticket_context ticket;
    mbedtls_x509_crt certificate;
    mbedtls_pk_context key;
    int port;
} server;

/* Ends the program with a line about what failed. */
static void die(const char *what, int code)
{
    fprintf(stderr, "tls_bare: %s: %d\n", what, code);
    exit(1);
}

/* Random bytes from the kernel, for any thread. */
static int random_kernel(void *unused, unsigned char *out, size_t size)
{
    (void)unused;
    while (size) {
        ssize_t got = getrandom(out, size, 0);
        if (got < 0 && errno != EINTR) return MBEDTLS_ERR_SSL_NO_RNG;
        if (got > 0) out += got, size -= (size_t)got;
    }
    return 0;
}

static int transport_send(void *context, const unsigned char *bytes, size_t size)
{
    ssize_t sent = send(((struct connection *)context)->fd, bytes, size, MSG_NOSIGNAL);
    if (sent >= 0) return (int)sent;
    return errno == EAGAIN ? MBEDTLS_ERR_SSL_WANT_WRITE : MBEDTLS_ERR_SSL_INTERNAL_ERROR;
}

static int transport_receive(void *context, unsigned char *bytes, size_t size)
{
    ssize_t got = recv(((struct connection *)context)->fd, bytes, size, 0);
    if (got >= 0) return (int)got;
    return errno == EAGAIN ? MBEDTLS_ERR_SSL_WANT_READ : MBEDTLS_ERR_SSL_INTERNAL_ERROR;
}

/* Reads the files and sets up what all connections share. */
static void server_prepare(const char *certificate, const char *key)
{
    mbedtls_ssl_config *c = &server.config;
    psa_status_t status = psa_crypto_init();
    int code;
    if (status) die("psa_crypto_init", (int)status);
    mbedtls_ssl_config_init(c);
    mbedtls_ssl_ticket_init(&server.ticket);
    mbedtls_x509_crt_init(&server.certificate);
    mbedtls_pk_init(&server.key);
    if ((code = mbedtls_x509_crt_parse_file(&server.certificate, certificate)))
        die(certificate, code);
    if ((code = mbedtls_pk_parse_keyfile(&server.key, key, NULL, random_kernel, NULL)))
        die(key, code);
    if ((code = mbedtls_ssl_config_defaults(c, MBEDTLS_SSL_IS_SERVER, MBEDTLS_SSL_TRANSPORT_STREAM,
                                            MBEDTLS_SSL_PRESET_DEFAULT)) ||
        (code = mbedtls_ssl_conf_own_cert(c, &server.certificate, &server.key)) ||
        (code = mbedtls_ssl_ticket_setup(&server.ticket, random_kernel, NULL,
                                         MBEDTLS_CIPHER_AES_256_GCM, TICKET_LIFETIME)))
        die("configuration", code);
    mbedtls_ssl_conf_rng(c, random_kernel, NULL);
    mbedtls_ssl_conf_session_tickets_cb(c, mbedtls_ssl_ticket_write, mbedtls_ssl_ticket_parse,
                                        &server.ticket);
}

/* A socket that listens on the port, or on any if that is 0, which is then the port. */
static int server_listen(void)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)server.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof at;
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof one);
    if (fd < 0 || bind(fd, (void *)&at, sizeof at) || listen(fd, 4096)) die("listen", errno);
    getsockname(fd, (void *)&at, &size);
    server.port = ntohs(at.sin_port);
    return fd;
}

static void connection_free(struct connection *c)
{
    close(c->fd);
    mbedtls_ssl_free(&c->ssl);
    free(c);
}

/* Takes everything that waits to be accepted. */
static void accept_all(int epoll, int listening)
{
    int fd, one = 1;
    while ((fd = accept4(listening, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = calloc(1, sizeof *c);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (!c) die("memory", 0);
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        mbedtls_ssl_init(&c->ssl);
        if (mbedtls_ssl_setup(&c->ssl, &server.config)) die("memory", 0);
        mbedtls_ssl_set_bio(&c->ssl, c, transport_send, transport_receive, NULL);
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
}

/* Goes on with the handshake, then answers, as far as there is something to read. */
static void connection_serve(struct connection *c)
{
    unsigned char bytes[256];
    int code = c->established ? 0 : mbedtls_ssl_handshake(&c->ssl);
    if (!code) {
        c->established = 1;
        while ((code = mbedtls_ssl_read(&c->ssl, bytes, sizeof bytes)) > 0)
            if (code == 4 && !memcmp(bytes, "ping", 4))
                mbedtls_ssl_write(&c->ssl, (const unsigned char *)"pong", 4);
    }
    if (code != MBEDTLS_ERR_SSL_WANT_READ && code != MBEDTLS_ERR_SSL_WANT_WRITE) connection_free(c);
}

/* The life of a thread. */
static void *serve(void *listening)
{
    struct epoll_event events[EVENTS] = {{.events = EPOLLIN, .data.ptr = NULL}};
    int fd = (int)(long)listening, epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &events[0])) die("epoll", errno);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                connection_serve(events[i].data.ptr);
            else
                accept_all(epoll, fd);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    int threads = argc > 3 ? atoi(argv[3]) : 1, fds[THREADS_MAX];
    struct rlimit limit;
    pthread_t thread;
    if (argc < 3 || threads < 1 || threads > THREADS_MAX) {
        fprintf(stderr, "usage: tls_bare CERTIFICATE KEY [THREADS]\n");
        return 2;
    }
    alarm(LIFETIME);
    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    server_prepare(argv[1], argv[2]);
    for (int i = 0; i < threads; i++) fds[i] = server_listen();
    for (int i = 1; i < threads; i++)
        if (pthread_create(&thread, NULL, serve, (void *)(long)fds[i])) die("thread", 0);
    printf("listening on 127.0.0.1:%d\n", server.port);
    fflush(stdout);
    serve((void *)(long)fds[0]);
    return 0;
}
