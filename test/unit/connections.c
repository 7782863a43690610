/* Connections: who comes back is spread over time. */
#include "unit.h"

/* Clients come back over the time that the server needs for as many as it had; few do at once. */
static void crowds_come_back_spread(void **unused)
{
    (void)unused;
    static struct server server;
    static const struct {
        size_t connections;
        int64_t plain, tls;
    } rows[] = {{0, 0, 0},
                {1, 0, 0},
                {100, 0, 0},
                {101, 3000, 3000},
                {6000, 3000, 3000},
                {6002, 3000, 3001},
                {20000, 3000, 10000},
                {30010, 3001, 15005},
                {1000000, 100000, 500000}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        server.presence.connections = rows[i].connections;
        server.options.tls_listen.count = 0;
        assert_int_equal(server_spread_ms(&server), rows[i].plain);
        server.options.tls_listen.count = 1;
        assert_int_equal(server_spread_ms(&server), rows[i].tls);
    }
}

static const struct CMUnitTest CONNECTIONS_TESTS[] = {
    cmocka_unit_test(crowds_come_back_spread),
};
