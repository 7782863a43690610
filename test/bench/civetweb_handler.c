/* civetweb_handler.c - peer of the benchmark: CivetWeb as it comes, its handler trivial.
 *
 *   civetweb_handler [PORT [THREADS]]
 *
 * GET /api/presence/ID answers a fixed user in one write; /ws/presence/ID is CivetWeb's own
 * WebSocket, which keeps one of its THREADS (its default is 50) for as long as the connection
 * lasts. Its own accept loop, thread pool and keep-alive. PORT 0 or none: any free port.
 */
#include "civetweb.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char user[] =
    "{\"user_id\":\"user123\",\"online\":true,\"status\":\"online\",\"source\":\"live\","
    "\"connections\":1,"
    "\"connected_at\":\"2026-11-25T09:00:00.000Z\",\"last_seen\":\"2026-11-25T09:04:31.120Z\"}";
static const char hello[] = "{\"type\":\"hello\",\"user_id\":\"user123\",\"heartbeat_seconds\":25}";
static const char pong[] = "{\"type\":\"pong\",\"time\":\"2026-11-25T09:04:31.120Z\"}";

/* Answers every request alike; CivetWeb keeps the connection unless the client said close. */
static int on_get(struct mg_connection *c, void *context)
{
    (void)context;
    const char *connection = mg_get_header(c, "Connection");
    int once = connection && !strcmp(connection, "close");
    mg_printf(c,
              "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nCache-Control: no-store\r\n"
              "Content-Length: %u\r\nConnection: %s\r\n\r\n%s",
              (unsigned)sizeof user - 1, once ? "close" : "keep-alive", user);
    return 200;
}

/* Accepts every upgrade. */
static int on_connect(const struct mg_connection *c, void *context)
{
    (void)c;
    (void)context;
    return 0;
}

/* The connection stands: the first message. */
static void on_ready(struct mg_connection *c, void *context)
{
    (void)context;
    mg_websocket_write(c, MG_WEBSOCKET_OPCODE_TEXT, hello, sizeof hello - 1);
}

/* Answers pings of all three kinds; 0 closes. */
static int on_data(struct mg_connection *c, int bits, char *data, size_t size, void *context)
{
    (void)context;
    int opcode = bits & 15;
    if (opcode == MG_WEBSOCKET_OPCODE_PING)
        mg_websocket_write(c, MG_WEBSOCKET_OPCODE_PONG, data, size);
    else if (opcode == MG_WEBSOCKET_OPCODE_TEXT && size == 4)
        mg_websocket_write(c, MG_WEBSOCKET_OPCODE_TEXT, "pong", 4);
    else if (opcode == MG_WEBSOCKET_OPCODE_TEXT)
        mg_websocket_write(c, MG_WEBSOCKET_OPCODE_TEXT, pong, sizeof pong - 1);
    return opcode != MG_WEBSOCKET_OPCODE_CONNECTION_CLOSE;
}

int main(int argc, char **argv)
{
    char address[32];
    snprintf(address, sizeof address, "127.0.0.1:%d", argc > 1 ? atoi(argv[1]) : 0);
    const char *options[] = {"listening_ports",
                             address,
                             "num_threads",
                             argc > 2 ? argv[2] : "50",
                             "enable_keep_alive",
                             "yes",
                             "keep_alive_timeout_ms",
                             "5000",
                             "tcp_nodelay",
                             "1",
                             "connection_queue",
                             "4096",
                             "listen_backlog",
                             "4096",
                             "websocket_timeout_ms",
                             "600000",
                             NULL};
    struct mg_callbacks callbacks;
    struct mg_server_port port;
    memset(&callbacks, 0, sizeof callbacks);
    signal(SIGPIPE, SIG_IGN);
    mg_init_library(MG_FEATURES_WEBSOCKET);
    struct mg_context *server = mg_start(&callbacks, NULL, options);
    if (!server || mg_get_server_ports(server, 1, &port) != 1) {
        fputs("civetweb_handler: cannot start\n", stderr);
        return 1;
    }
    mg_set_request_handler(server, "/api/presence/", on_get, NULL);
    mg_set_websocket_handler(server, "/ws/presence/", on_connect, on_ready, on_data, NULL, NULL);
    fprintf(stderr, "listening on 127.0.0.1:%d\n", port.port);
    for (;;) pause();
}
