/* Hub: streams, samples of minutes, the order of what is heard. */
#include "unit.h"

/* A server with a hub and nothing else; its clock is the caller's. */
static struct server *hub_of_tests(struct instant now)
{
    static struct server server;
    server = (struct server){.epoch = 0xab, .log = {.level = LOG_ERROR}};
    options_init(&server.options);
    server.options.events = 5;
    server.webhook.options = &server.options;
    presence_init(&server.presence, 5000, 90000, now);
    assert_true(hub_init(&server, now));
    return &server;
}

/* Ends it. */
static void hub_of_tests_free(struct server *server)
{
    hub_free(server);
    presence_free(&server->presence);
    options_free(&server->options);
}

/* One more heartbeat by a new user, taken by the hub. */
static void hub_join(struct server *server, struct instant now, int n)
{
    static const uint8_t address[16];
    char id[16];
    int len = snprintf(id, sizeof id, "user-%d", n);
    presence_heartbeat(&server->presence, now, (struct span){id, (size_t)len}, address);
    hub_take_transitions(server, now);
}

/* Nothing is kept until there was a stream, and nothing that is older than an hour without one. */
static void hub_keeps_events_for_streams(void **unused)
{
    (void)unused;
    struct instant now = {10000000, 1795597471120 - 10000000};
    struct server *server = hub_of_tests(now);
    struct events *events = &server->hub.feeds[FEED_ADMIN].events;
    for (int i = 0; i < 100; i++) hub_join(server, now, i);
    assert_null(events->bytes);
    assert_int_equal(events->last, 100);
    assert_int_equal(server->counters.joins, 100);
    events_keep(events); /* a stream came and went */
    server->hub.feeds[FEED_ADMIN].streamless_at = now.mono;
    for (int i = 100; i < 110; i++) hub_join(server, now, i);
    assert_int_equal(events->next - events->first, 5);
    now.mono += EVENTS_KEEP_MS;
    hub_join(server, now, 110);
    assert_int_equal(events->next - events->first, 5);
    now.mono++;
    hub_join(server, now, 111);
    assert_null(events->bytes);
    assert_false(events->kept);
    assert_int_equal(events->last, server->presence.sequence);
    hub_of_tests_free(server);
}

/* Each minute is sampled once, at its begin; one that was slept through is not. */
static void hub_samples_minutes(void **unused)
{
    (void)unused;
    const int64_t minute = INT64_C(1795597440000);
    struct instant now = {10000000, minute + 31120 - 10000000};
    struct server *server = hub_of_tests(now);
    struct presence *p = &server->presence;
    hub_sample(server, now);
    assert_int_equal(p->ended.samples, 0);
    assert_int_equal(hub_wait(server, now.mono), 60000 - 31120);
    now.mono += 60000 - 31120;
    hub_sample(server, now);
    hub_sample(server, now);
    assert_int_equal(p->ended.samples, 1);
    assert_true(presence_is_dirty(p));
    now.mono += 59999;
    hub_sample(server, now);
    assert_int_equal(p->ended.samples, 1);
    now.mono += 150001; /* asleep */
    hub_sample(server, now);
    assert_int_equal(p->ended.samples, 2);
    struct store_op op;
    memcpy(&op, p->ended.ops.at, sizeof op);
    assert_int_equal(op.as.sample.at, minute + 60000);
    memcpy(&op, p->ended.ops.at + sizeof op, sizeof op);
    assert_int_equal(op.as.sample.at, minute + 240000);
    now.mono += 30000;
    hub_sample(server, now);
    assert_int_equal(p->ended.samples, 3);
    for (int i = 0; i < 3000; i++) presence_sample(p, i); /* the disk is full for days */
    assert_int_equal(p->ended.samples, SAMPLES_MAX);
    hub_of_tests_free(server);
}

/* A call that takes its time, after which its user is heard by HTTP. */
static int64_t slow_call_heard;

static void slow_call(struct server *server, struct job *job)
{
    (void)job;
    static const uint8_t address[16];
    nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    struct instant now = server_now(server);
    slow_call_heard = now.mono;
    presence_heartbeat(&server->presence, now, (struct span){"bob", 3}, address);
}

/* What comes from a socket behind calls in the same turn was not heard before them: last_seen does
 * not go back. */
static void hub_hears_in_order(void **unused)
{
    (void)unused;
    struct instant now = {.mono = clock_mono_ms()};
    now.offset = clock_wall_ms() - now.mono;
    struct server *server = hub_of_tests(now);
    struct store store = {0};
    struct connection *c = mem_new(sizeof *c);
    struct http_conn *p = c->http = mem_new(sizeof *p);
    struct job job = {.run = slow_call};
    int pair[2];
    static const char ping[] = "\x89\x80\0\0\0"; /* and one more NUL */
    server->store = &store;
    server->hub.batch_under_way = true; /* there is no writer */
    assert_false(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
    p->c = c;
    p->job.run = hub_adopt;
    c->transport.fd = pair[0];
    p->grant.id_len = 3;
    memcpy(p->grant.id, "bob", 3);
    loop_submit(&server->hub.loop, &p->job);
    hub_turn(server);
    struct user *bob = presence_find(&server->presence, (struct span){"bob", 3});
    assert_int_equal(bob->state, USER_LIVE);
    assert_int_equal(write(pair[1], ping, sizeof ping), 6);
    loop_submit(&server->hub.loop, &job);
    hub_turn(server);
    assert_true(slow_call_heard > 0);
    assert_true(atomic_load(&bob->last_seen) >= slow_call_heard);
    close(pair[1]);
    hub_of_tests_free(server);
}

/* A status is set by hand for a user whom only the store knows: what they do while the store is
 * asked counts, not what it had. */
static void hub_sets_for_who_is_stored(void **unused)
{
    (void)unused;
    struct instant now = server_now(&(struct server){0});
    struct server *server = hub_of_tests(now);
    struct presence *p = &server->presence;
    const struct span bob = {"bob", 3};
    for (int comes = 0; comes < 2; comes++) {
        const struct manual_update update = {.status = STATUS_BUSY};
        struct user_view view = {0};
        struct view_texts *texts = NULL;
        struct hub_ask ask = {.id = bob, .update = &update, .view = &view, .texts = &texts};
        struct watch_read *read = watch_read_new(1);
        sem_init(&ask.done, 0, 0);
        watch_read_add(read, watch_graph_make(&server->hub.graph, bob));
        read->ask = &ask;
        read->found[0] = (struct stored_user){
            .known = true, .record = {.last_seen = now.mono + now.offset - 5000}};
        if (comes) {
            struct session_conn conn = {0};
            struct store_batch batch = {0};
            presence_connect(p, now, bob, &conn);
            hub_take_transitions(server, now);
            presence_disconnect(p, now, &conn, END_CLEAN);
            hub_take_transitions(server, now);
            presence_collect(p, now, true, SIZE_MAX, &batch);
            presence_committed(p, now, SIZE_MAX);
            buffer_free(&batch.ops);
        }
        hub_watch_found(server, &read->job);
        assert_int_equal(sem_trywait(&ask.done), 0);
        assert_true(view.known && !ask.failed);
        struct user *user = presence_find(p, bob);
        int64_t behind = now.mono - user->last_seen; /* the hub has a clock of its own */
        assert_true(comes ? !behind : behind > 4900 && behind < 5100);
        assert_int_equal(user_manual(user)->status, STATUS_BUSY);
        presence_set_manual(p, now, user, &(struct manual_update){.status = STATUS_AUTOMATIC});
        hub_take_transitions(server, now);
        struct store_batch batch = {0};
        presence_collect(p, now, true, SIZE_MAX, &batch);
        presence_committed(p, now, SIZE_MAX);
        buffer_free(&batch.ops);
        watch_graph_spread(&server->hub.graph, p, now, 10);
        watch_graph_sweep(&server->hub.graph, p, now, 10);
        presence_committed(p, now, SIZE_MAX);
        now.mono++;
        sem_destroy(&ask.done);
    }
    hub_of_tests_free(server);
}

/* Who is in the index is on a page by last_seen in one of its parts: as the store has them, as the
 * table has them while somebody follows them, and only among those online if they are by now. */
static void page_by_last_seen_has_each_once(void **unused)
{
    (void)unused;
    struct instant now = {10000000, 1795597471120 - 10000000};
    struct server *server = hub_of_tests(now);
    struct store store = {0};
    const struct span bob = {"bob", 3};
    const int64_t seen = now.mono + now.offset - 5000;
    const struct user_record stored = {.last_seen = seen};
    const struct seen_place place = {.last_seen = seen, .id_len = 3, .id = "bob"};
    static const uint8_t address[16];
    enum { GONE, FOLLOWED, HERE, CASES };
    server->store = &store;
    for (int i = GONE; i < CASES; i++) {
        struct buffer out = {0};
        struct user_view view;
        struct view_texts *texts = NULL;
        struct user_page page = {.now = now, .out = &out, .texts = &texts, .status = -1,
                                 .sort = SORT_SEEN_DOWN, .limit = 10};
        if (i == FOLLOWED) presence_recall(&server->presence, now, bob, &stored);
        if (i == HERE) presence_heartbeat(&server->presence, now, bob, address);
        page_view_places(server, &page, &place, 1, &view);
        assert_int_equal(view.id_len, i == HERE ? 0 : 3);
        assert_true(page_add_online(server, &page, true));
        assert_int_equal(page.written, i == HERE);
        if (i != HERE) assert_int_equal(view.last_seen, seen);
        struct user *user = presence_find(&server->presence, bob);
        if (i == FOLLOWED) presence_forget(&server->presence, user);
        buffer_free(&out);
    }
    server->store = NULL;
    hub_of_tests_free(server);
}

/* However short the time of a watchdog is, the next sign of life is later than this one: the hub
 * sleeps until it is due. */
static void signs_of_life_lie_apart(void **unused)
{
    (void)unused;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends), 0);
    for (int64_t ms = 1; ms < 10; ms++) {
        struct manager manager = {.fd = ends[0], .watchdog = ms};
        char said[32];
        manager_alive(&manager, 1000);
        assert_int_equal(recv(ends[1], said, sizeof said, MSG_DONTWAIT), 10);
        assert_in_range(manager.watchdog_due, 1001, 1000 + ms);
    }
    for (int i = 0; i < 2; i++) close(ends[i]);
}

static const struct CMUnitTest HUB_TESTS[] = {
    cmocka_unit_test(signs_of_life_lie_apart),
    cmocka_unit_test(hub_keeps_events_for_streams),
    cmocka_unit_test(hub_samples_minutes),
    cmocka_unit_test(hub_hears_in_order),
    cmocka_unit_test(hub_sets_for_who_is_stored),
    cmocka_unit_test(page_by_last_seen_has_each_once),
};
