/* Watch graph: against a model, and within its bounds. */
#include "unit.h"

enum { WATCH_USERS = 12, WATCH_WATCHERS = 6, WATCH_LINKS = 3 };

/* What a watcher was told of a user, by the number of connections shown; -1: nothing. */
struct watch_model {
    struct presence table;
    struct watch_graph graph;
    struct watcher watchers[WATCH_WATCHERS];
    bool partial[WATCH_WATCHERS];            /* a part of a snapshot came, the last is to come */
    bool parts[WATCH_WATCHERS][WATCH_USERS]; /* who was in the parts so far */
    bool follows[WATCH_WATCHERS][WATCH_USERS];
    int sent_version[WATCH_WATCHERS][WATCH_USERS];
    int64_t told_seen[WATCH_WATCHERS][WATCH_USERS];
    struct session_conn conns[WATCH_USERS][WATCH_LINKS];
    int connections[WATCH_USERS];
    struct instant now;
    uint64_t seed;
    long snapshots, changes, messages;
};

/* The id of a user; the first ones are long, so that messages take several pieces. */
static struct span watch_id(int i)
{
    static char ids[WATCH_USERS][USER_ID_MAX];
    memset(ids[i], '"', sizeof ids[i]);
    ids[i][0] = (char)('a' + i);
    return (struct span){ids[i], i < 3 ? USER_ID_MAX : 2};
}

/* Takes the transitions as the hub does. */
static void watch_take(struct watch_model *m)
{
    for (size_t i = 0; i < m->table.transition_count; i++) {
        struct user *user = m->table.transitions[i].user;
        struct watch_target *e =
            watch_graph_changed(&m->graph, (struct span){user->id, user->id_len});
        if (!e) continue;
        user->pinned = true;
        e->resolved = true;
    }
    presence_clear_transitions(&m->table);
}

/* Reads a message, and notes what it tells: each user once, also over the parts of a snapshot,
 * between which no change comes; only those who are followed or were when the snapshot was asked
 * for. */
static void watch_read_message(struct watch_model *m, int w, enum watcher_message kind, bool more,
                               struct span text)
{
    struct json_value message, type, users, item, value;
    bool snapshot = kind == WATCHER_SNAPSHOT;
    assert_true(json_parse(text, JSON_DEPTH_MAX, &message));
    assert_true(json_member(message, "type", &type) && json_member(message, "users", &users));
    assert_true(json_is(type, snapshot ? "snapshot" : "presence"));
    assert_int_equal(json_member(message, "more", &value) && value.kind == JSON_TRUE, more);
    assert_true(snapshot || (!more && !m->partial[w]));
    if (!m->partial[w]) memset(m->parts[w], 0, sizeof m->parts[w]);
    m->partial[w] = more;
    size_t cursor = 0;
    for (; json_item(users, &cursor, &item);) {
        char id[USER_ID_MAX + 1];
        int64_t connections;
        assert_true(json_member(item, "user_id", &value));
        assert_true(json_string(value, id, sizeof id) > 0);
        int user = id[0] - 'a';
        assert_true(json_member(item, "connections", &value) && json_number(value, &connections));
        assert_false(m->parts[w][user]);
        m->parts[w][user] = true;
        bool online = json_member(item, "online", &value) && value.kind == JSON_TRUE;
        assert_int_equal(online, connections > 0);
        assert_int_equal(json_member(item, "reason", &value), !snapshot && !online);
        if (!snapshot) {
            assert_true(m->follows[w][user]);
            assert_true(m->sent_version[w][user] >= 0);
        }
        m->sent_version[w][user] = (int)connections;
    }
    if (snapshot) m->snapshots += !more;
    else m->changes++;
    if (!snapshot || more) assert_true(cursor > 0);
}

/* Takes some messages of what a watcher is to be told, or all. One whose socket is full has
 * parts of a snapshot to come. */
static void watch_serve(struct watch_model *m, int w, bool all)
{
    struct buffer text = {0};
    bool more;
    watch_graph_begin_turn(&m->graph);
    do {
        text.len = 0;
        enum watcher_message kind =
            watcher_fill(&m->graph, &m->table, m->now, &m->watchers[w], &text, &more);
        if (!kind) break;
        assert_true(text.len <= m->graph.full + WATCH_USER_MAX);
        m->messages++;
        watch_read_message(m, w, kind, more, (struct span){text.at, text.len});
    } while (all || below64(&m->seed, 3));
    buffer_free(&text);
}

/* Step: a watcher asks for some users. */
static void watch_ask(struct watch_model *m, int w)
{
    struct snapshot *snapshot =
        mem_new(sizeof *snapshot + WATCH_USERS * sizeof(struct watch_target *));
    for (int i = 0; i < WATCH_USERS; i++) {
        if (below64(&m->seed, 2)) continue;
        struct watch_target *e = watch_graph_make(&m->graph, watch_id(i));
        struct user *user = presence_find(&m->table, watch_id(i));
        if (user) user->pinned = true;
        e->resolved = true;
        if (!watcher_find(&m->watchers[w], e)) watcher_follow(&m->watchers[w], e);
        snapshot->users[snapshot->count++] = e;
        m->follows[w][i] = true;
    }
    watcher_add_snapshot(&m->graph, &m->watchers[w], snapshot);
}

/* Step: a watcher lets one or all go, also between the parts of a snapshot. */
static void watch_let_go(struct watch_model *m, int w)
{
    int i = (int)below64(&m->seed, WATCH_USERS + 1);
    if (i == WATCH_USERS) {
        watcher_let_all_go(&m->graph, &m->watchers[w]);
        memset(m->follows[w], 0, sizeof m->follows[w]);
        return;
    }
    const struct watch_target *e = watch_graph_find(&m->graph, watch_id(i));
    if (e) watcher_let_go(&m->graph, &m->watchers[w], e);
    m->follows[w][i] = false;
}

/* Step: a connection of a user comes or goes. */
static void watch_move(struct watch_model *m)
{
    int user = (int)below64(&m->seed, WATCH_USERS), k = m->connections[user];
    if (k < WATCH_LINKS && below64(&m->seed, 2)) {
        presence_connect(&m->table, m->now, watch_id(user), &m->conns[user][k]);
        m->connections[user]++;
    } else if (k) {
        presence_disconnect(&m->table, m->now, &m->conns[user][k - 1], END_CLEAN);
        m->connections[user]--;
    }
}

/* Step: the store takes what it is owed; those offline whom nobody follows leave the table. */
static void watch_commit(struct watch_model *m)
{
    struct store_batch batch = {0};
    presence_collect(&m->table, m->now, true, SIZE_MAX, &batch);
    presence_committed(&m->table, m->now, SIZE_MAX);
    buffer_free(&batch.ops);
}

/* After all was told: every watcher knows of whom it follows how she is. */
static void watch_check_quiet(struct watch_model *m)
{
    watch_take(m);
    while (!STAILQ_EMPTY(&m->graph.spreading) || !STAILQ_EMPTY(&m->graph.changed))
        watch_graph_spread(&m->graph, &m->table, m->now, SIZE_MAX);
    size_t watches = 0;
    for (int w = 0; w < WATCH_WATCHERS; w++) {
        watch_serve(m, w, true);
        assert_int_equal(m->watchers[w].queued, 0);
        assert_int_equal(m->watchers[w].backlog, 0);
        assert_false(m->partial[w]);
        size_t count = 0;
        for (int i = 0; i < WATCH_USERS; i++) {
            if (!m->follows[w][i]) continue;
            count++;
            assert_int_equal(m->sent_version[w][i], m->connections[i]);
        }
        assert_int_equal(m->watchers[w].count, count);
        watches += count;
    }
    watch_graph_sweep(&m->graph, &m->table, m->now, SIZE_MAX);
    size_t found = 0, needed = 0;
    for (int i = 0; i < WATCH_USERS; i++) {
        const struct watch_target *e = watch_graph_find(&m->graph, watch_id(i));
        const struct user *user = presence_find(&m->table, watch_id(i));
        needed += e != NULL;
        if (user) assert_int_equal(user->pinned, e != NULL);
        const struct watch *watch = e ? LIST_FIRST(&e->watches) : NULL;
        for (; watch; watch = LIST_NEXT(watch, list)) found++;
    }
    assert_int_equal(found, watches);
    assert_int_equal(m->graph.targets.count, needed);
}

/* Step: a watcher ends, with whatever it has; another begins in its place. */
static void model_watcher_end(struct watch_model *m, int w)
{
    watcher_end(&m->graph, &m->watchers[w]);
    assert_true(watcher_idle(&m->watchers[w]));
    watcher_free(&m->watchers[w]);
    watcher_init(&m->watchers[w]);
    m->partial[w] = false;
    memset(m->follows[w], 0, sizeof m->follows[w]);
    for (int i = 0; i < WATCH_USERS; i++) m->sent_version[w][i] = -1;
}

/* 200,000 random steps. */
static void watch_graph_equal_model(void **unused)
{
    (void)unused;
    static struct watch_model m;
    m = (struct watch_model){.seed = 20261125, .now = {1000000, 1764000000000}};
    presence_init(&m.table, 5000, 90000, m.now);
    watch_graph_init(&m.graph);
    m.graph.full = 500;
    for (int w = 0; w < WATCH_WATCHERS; w++) {
        watcher_init(&m.watchers[w]);
        model_watcher_end(&m, w);
    }
    for (int step = 0; step < 200000; step++) {
        int w = (int)below64(&m.seed, WATCH_WATCHERS);
        m.now.mono += (int64_t)below64(&m.seed, 3);
        switch (below64(&m.seed, 16)) {
        case 0: watch_ask(&m, w); break;
        case 1: watch_let_go(&m, w); break;
        case 2:
        case 3:
        case 4:
        case 5:
        case 6:
        case 7: watch_move(&m); break;
        case 8:
            if (!below64(&m.seed, 8)) model_watcher_end(&m, w);
            break;
        case 9: watch_commit(&m); break;
        case 10:
        case 11: watch_graph_spread(&m.graph, &m.table, m.now, 1 + below64(&m.seed, 40)); break;
        case 12: watch_graph_sweep(&m.graph, &m.table, m.now, 1 + below64(&m.seed, 12)); break;
        case 13:
            if (!below64(&m.seed, 6)) watch_check_quiet(&m);
            break;
        default: watch_serve(&m, w, false); break;
        }
        watch_take(&m);
    }
    watch_check_quiet(&m);
    assert_true(m.snapshots > 3000 && m.changes > 3000 && m.messages > m.snapshots + m.changes);
    for (int w = 0; w < WATCH_WATCHERS; w++) {
        watcher_end(&m.graph, &m.watchers[w]);
        watcher_free(&m.watchers[w]);
    }
    while (!STAILQ_EMPTY(&m.graph.spreading) || !STAILQ_EMPTY(&m.graph.changed))
        watch_graph_spread(&m.graph, &m.table, m.now, SIZE_MAX);
    watch_graph_sweep(&m.graph, &m.table, m.now, SIZE_MAX);
    assert_int_equal(m.graph.targets.count, 0);
    watch_graph_free(&m.graph);
    presence_free(&m.table);
}

/* The longest users there are: no message is above its bound, and a part is not much below it. */
static void watch_graph_keep_to_the_bound(void **unused)
{
    (void)unused;
    enum { COUNT = 300 };
    struct presence table;
    struct watch_graph graph;
    struct watcher watcher;
    struct instant now = {1000, 1764000000000};
    struct snapshot *snapshot = mem_new(sizeof *snapshot + COUNT * sizeof(struct watch_target *));
    struct buffer text = {0};
    struct manual_update update = {.status = STATUS_BUSY, .len = STATUS_TEXT_MAX};
    for (int i = 0; i < STATUS_TEXT_CHARACTERS; i++)
        memcpy(update.message + 4 * i, "\xf0\x9f\x98\x80", 4);
    presence_init(&table, 5000, 90000, now);
    watch_graph_init(&graph);
    watcher_init(&watcher);
    for (int i = 0; i < COUNT; i++) {
        char id[USER_ID_MAX];
        memset(id, '"', sizeof id);
        id[0] = (char)('a' + i % 26);
        id[1] = (char)('a' + i / 26);
        struct span span = {id, sizeof id};
        presence_heartbeat(&table, now, span, (const uint8_t[16]){1});
        presence_set_manual(&table, now, presence_find(&table, span), &update);
        struct watch_target *e = watch_graph_make(&graph, span);
        e->resolved = true;
        watcher_follow(&watcher, e);
        snapshot->users[snapshot->count++] = e;
    }
    watcher_add_snapshot(&graph, &watcher, snapshot);
    presence_clear_transitions(&table);
    bool more;
    int parts = 0, changes = 0;
    for (enum watcher_message kind = WATCHER_SNAPSHOT; kind; text.len = 0) {
        watch_graph_begin_turn(&graph);
        kind = watcher_fill(&graph, &table, now, &watcher, &text, &more);
        assert_true(text.len <= WATCH_MESSAGE_MAX && text.len <= 16384);
        assert_true(!more || text.len > WATCH_FULL);
        parts += kind == WATCHER_SNAPSHOT;
        changes += kind == WATCHER_CHANGES;
        if (kind != WATCHER_SNAPSHOT || more) continue;
        now.mono += 100000; /* all leave: the longest change */
        presence_tick(&table, now, SIZE_MAX);
        for (size_t i = 0; i < table.transition_count; i++) {
            const struct user *user = table.transitions[i].user;
            watch_graph_changed(&graph, (struct span){user->id, user->id_len});
        }
        presence_clear_transitions(&table);
        watch_graph_spread(&graph, &table, now, SIZE_MAX);
    }
    assert_true(parts > 10 && changes > 10);
    buffer_free(&text);
    watcher_end(&graph, &watcher);
    watcher_free(&watcher);
    watch_graph_free(&graph);
    presence_free(&table);
}

/* A change costs no more memory, whoever waits: the queue has each edge once. */
static void watch_graph_do_not_queue_states(void **unused)
{
    (void)unused;
    struct presence table;
    struct watch_graph graph;
    struct watcher watcher;
    struct session_conn link = {0};
    struct instant now = {1000, 0};
    struct span id = {"alice", 5};
    presence_init(&table, 5000, 90000, now);
    watch_graph_init(&graph);
    watcher_init(&watcher);
    watcher_follow(&watcher, watch_graph_make(&graph, id));
    for (int i = 0; i < 1000; i++) {
        presence_connect(&table, now, id, &link);
        watch_graph_changed(&graph, id);
        watch_graph_spread(&graph, &table, now, SIZE_MAX);
        assert_int_equal(watcher.queued, 1);
        presence_disconnect(&table, now, &link, END_CLEAN);
        watch_graph_changed(&graph, id);
        watch_graph_spread(&graph, &table, now, SIZE_MAX);
        presence_clear_transitions(&table);
        now.mono += 10;
    }
    assert_int_equal(watcher.queued, 1);
    watcher_end(&graph, &watcher);
    watcher_free(&watcher);
    watch_graph_free(&graph);
    presence_free(&table);
}

/* A step of UTC changes the moments that are shown, and is no change of a user: whoever is hidden
 * would be told of at their next act. */
static void step_of_the_clock_is_no_change(void **unused)
{
    (void)unused;
    struct watch_graph w;
    watch_graph_init(&w);
    struct user_view hidden = {.known = true, .last_seen = 1000};
    struct user_view shown = {.known = true, .state = USER_LIVE, .connected_at = 900};
    struct instant now = {5000, 0}, stepped = {5000, 7200000};
    uint64_t was_hidden = view_digest(&w, now, &hidden), was_shown = view_digest(&w, now, &shown);
    hidden.last_seen += stepped.offset;
    shown.connected_at += stepped.offset;
    assert_true(view_digest(&w, stepped, &hidden) == was_hidden);
    assert_true(view_digest(&w, stepped, &shown) == was_shown);
    hidden.last_seen++;
    assert_true(view_digest(&w, stepped, &hidden) != was_hidden);
    watch_graph_free(&w);
}

/* A watcher that has followed many and follows few gives the room of the many back. */
static void watcher_gives_room_back(void **unused)
{
    (void)unused;
    enum { COUNT = 1000, KEPT = 3 };
    struct watch_graph graph;
    struct watcher watcher;
    struct watch_target *targets[COUNT];
    char ids[COUNT][8];
    watch_graph_init(&graph);
    watcher_init(&watcher);
    for (int i = 0; i < COUNT; i++) {
        size_t len = (size_t)snprintf(ids[i], sizeof ids[i], "u%d", i);
        targets[i] = watch_graph_make(&graph, (struct span){ids[i], len});
        watcher_follow(&watcher, targets[i]);
    }
    size_t full = watcher.size;
    assert_true(full >= COUNT);
    for (int i = KEPT; i < COUNT; i++) {
        watcher_let_go(&graph, &watcher, targets[i]);
        assert_int_equal(watcher.count, COUNT - 1 - (i - KEPT));
        for (int k = 0; k < KEPT; k++) assert_non_null(watcher_find(&watcher, targets[k]));
    }
    assert_true(watcher.size <= full / 16);
    watcher_end(&graph, &watcher);
    watcher_free(&watcher);
    watch_graph_free(&graph);
}

static const struct CMUnitTest WATCH_TESTS[] = {
    cmocka_unit_test(watch_graph_equal_model),
    cmocka_unit_test(watch_graph_keep_to_the_bound),
    cmocka_unit_test(watch_graph_do_not_queue_states),
    cmocka_unit_test(step_of_the_clock_is_no_change),
    cmocka_unit_test(watcher_gives_room_back),
};
