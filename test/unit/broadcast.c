/* Broadcast: many are told by several threads. */
#include "unit.h"

/* Everybody a letter's bytes reach has them, in order, however many send: what was sent counts
 * what the socket took, and one that is gone is broken. */
static void post_reaches_everybody(void **state)
{
    (void)state;
    enum { POST_PEERS = 500, POST_ROUNDS = 60, POST_DEAD = 7, POST_FULL = 11 };
    static struct broadcast broadcast;
    static struct connection connections[POST_PEERS];
    static int peers[POST_PEERS];
    static char wanted[64 * 1024], got[64 * 1024];
    broadcast_init(&broadcast);
    assert_true(job_queue_start(&broadcast.queue, "io", 0, IO_THREADS_MAX));
    for (int i = 0; i < POST_PEERS; i++) {
        int pair[2];
        assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
        connections[i].transport.fd = pair[0];
        peers[i] = pair[1];
    }
    while (send(connections[POST_FULL].transport.fd, wanted, sizeof wanted, MSG_DONTWAIT) > 0)
        continue;
    close(peers[POST_DEAD]);
    char *const text = broadcast.text.at;
    for (int round = 0; round < POST_ROUNDS; round++) {
        for (int i = 0; i < POST_PEERS; i++) {
            size_t at = broadcast.text.len;
            assert_true(broadcast_has_room(&broadcast));
            buffer_print(&broadcast.text, "%d.%d;", round, i / 3); /* three in a row are the same */
            broadcast_fill(&broadcast, &connections[i], at);
        }
        assert_int_equal(broadcast_deliver(&broadcast), POST_PEERS);
        assert_ptr_equal(broadcast.text.at, text);
        for (int i = 0; i < POST_PEERS; i++) {
            const struct io_write *l = &broadcast.writes[i];
            assert_ptr_equal(l->c, &connections[i]);
            if (i % 3) assert_int_equal(l->at, broadcast.writes[i - 1].at);
            else if (i) assert_int_not_equal(l->at, broadcast.writes[i - 1].at);
            assert_int_equal(l->result, i == POST_DEAD   ? TRANSPORT_BROKEN
                                        : i == POST_FULL ? TRANSPORT_AGAIN
                                                         : (ssize_t)l->len);
        }
        broadcast.text.len = 0;
    }
    for (int i = 0; i < POST_PEERS; i++) {
        size_t len = 0;
        for (int round = 0; round < POST_ROUNDS; round++)
            len += (size_t)sprintf(wanted + len, "%d.%d;", round, i / 3);
        close(connections[i].transport.fd);
        if (i == POST_DEAD) continue;
        if (i != POST_FULL) {
            assert_int_equal(recv(peers[i], got, sizeof got, MSG_WAITALL), len);
            assert_memory_equal(got, wanted, len);
        }
        close(peers[i]);
    }
    job_queue_stop(&broadcast.queue);
    assert_int_equal(broadcast.queue.count, 0);
    buffer_free(&broadcast.text);
}

/* There is room while every letter and any text fits. */
static void post_has_bounds(void **state)
{
    (void)state;
    static struct broadcast broadcast;
    static struct connection c;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    c.transport.fd = pair[0];
    broadcast_init(&broadcast);
    size_t count = 0;
    for (; broadcast_has_room(&broadcast); count++) { /* all the same: letters run out */
        size_t at = broadcast.text.len;
        buffer_text(&broadcast.text, "x");
        broadcast_fill(&broadcast, &c, at);
    }
    assert_int_equal(count, BROADCAST_MAX);
    assert_int_equal(broadcast.text.len, 1);
    broadcast_deliver(&broadcast);
    broadcast.text.len = 0;
    for (count = 0; broadcast_has_room(&broadcast); count++) { /* no two the same: text runs out */
        size_t at = broadcast.text.len;
        memset(buffer_room(&broadcast.text, WATCH_FULL), 'a' + (int)(count % 2), WATCH_FULL);
        broadcast.text.len += WATCH_FULL;
        broadcast_fill(&broadcast, &c, at);
    }
    assert_int_equal(count, (BROADCAST_TEXT - BROADCAST_ROOM) / WATCH_FULL + 1);
    assert_int_equal(broadcast.text.size, BROADCAST_TEXT);
    broadcast_deliver(&broadcast);
    job_queue_stop(&broadcast.queue);
    buffer_free(&broadcast.text);
    close(pair[0]);
    close(pair[1]);
}

static const struct CMUnitTest BROADCAST_TESTS[] = {
    crossing_test(post_reaches_everybody),
    cmocka_unit_test(post_has_bounds),
};
