/* Unit tests of watches and manual statuses: the table of who follows whom and the queues of what
 * is due against a naive model, random steps, every message read back. */

enum { WATCH_USERS = 12, WATCH_WATCHERS = 6, WATCH_LINKS = 3 };

/* What a watcher was told of a user, by the number of connections shown; -1: nothing. */
struct watch_model {
    struct presence table;
    struct watch_graph graph;
    struct watcher watchers[WATCH_WATCHERS];
    bool partial[WATCH_WATCHERS];          /* a part of a snapshot came, the last is to come */
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
        struct watch_target *e = watch_graph_changed(&m->graph, (struct span){user->id, user->id_len});
        if (!e) continue;
        user->pinned = true;
        e->resolved = true;
    }
    presence_clear_transitions(&m->table);
}

/* Reads a message, and notes what it tells: each user once, also over the parts of a snapshot, between
 * which no change comes; only those who are followed or were when the snapshot was asked for. */
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

/* Takes some messages of what a watcher is to be told, or all. One whose socket is full has parts of
 * a snapshot to come. */
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
    } while (all || core_below(&m->seed, 3));
    buffer_free(&text);
}

/* Step: a watcher asks for some users. */
static void watch_ask(struct watch_model *m, int w)
{
    struct snapshot *snapshot = mem_new(sizeof *snapshot + WATCH_USERS * sizeof(struct watch_target *));
    for (int i = 0; i < WATCH_USERS; i++) {
        if (core_below(&m->seed, 2)) continue;
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
    int i = (int)core_below(&m->seed, WATCH_USERS + 1);
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
    int user = (int)core_below(&m->seed, WATCH_USERS), k = m->connections[user];
    if (k < WATCH_LINKS && core_below(&m->seed, 2)) {
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
    struct store_batch batch;
    presence_collect(&m->table, m->now, true, &batch);
    presence_committed(&m->table, m->now);
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
    assert_int_equal(m->graph.count, needed);
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
        int w = (int)core_below(&m.seed, WATCH_WATCHERS);
        m.now.mono += (int64_t)core_below(&m.seed, 3);
        switch (core_below(&m.seed, 16)) {
        case 0: watch_ask(&m, w); break;
        case 1: watch_let_go(&m, w); break;
        case 2: case 3: case 4: case 5: case 6: case 7: watch_move(&m); break;
        case 8: if (!core_below(&m.seed, 8)) model_watcher_end(&m, w); break;
        case 9: watch_commit(&m); break;
        case 10: case 11:
            watch_graph_spread(&m.graph, &m.table, m.now, 1 + core_below(&m.seed, 40));
            break;
        case 12:
            watch_graph_sweep(&m.graph, &m.table, m.now, 1 + core_below(&m.seed, 12));
            break;
        case 13: if (!core_below(&m.seed, 6)) watch_check_quiet(&m); break;
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
    assert_int_equal(m.graph.count, 0);
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
    for (int i = 0; i < STATUS_TEXT_CHARACTERS; i++) memcpy(update.message + 4 * i, "\xf0\x9f\x98\x80", 4);
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
        presence_tick(&table, now);
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

/* SipHash-2-4: vectors of its authors, for the key 00 01 .. 0f and the message 00 01 .. */
static void hash_is_siphash(void **unused)
{
    (void)unused;
    static const struct {
        size_t len;
        uint64_t hash;
    } rows[] = {{0, 0x726fdb47dd0e0e31}, {1, 0x74f839c593dc67fd}, {7, 0xab0200f58b01d137},
                {8, 0x93f5f5799a932462}, {15, 0xa129ca6149be45e5}, {63, 0x958a324ceb064572}};
    const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    uint8_t message[64];
    for (size_t i = 0; i < sizeof message; i++) message[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_true(hash_keyed(key, message, rows[i].len) == rows[i].hash);
}

/* Whom a token's watch names is found, nobody else; "*" in a list is an id. */
static void id_list_finds(void **unused)
{
    (void)unused;
    struct token token = {0};
    assert_null(id_list_of_token(&token));
    assert_false(id_list_has(NULL, (struct span){"a", 1}));
    buffer_text(&token.watch, "[ \"b\", \"\\u00e9\",\"a\\\"c\" , \"*\",\"bb\",\"b\"]");
    struct id_list *list = id_list_of_token(&token);
    static const char *const in[] = {"b", "\xc3\xa9", "a\"c", "*", "bb"};
    static const char *const out[] = {"", "a", "c", "bbb", "B", "\xc3"};
    for (size_t i = 0; i < sizeof in / sizeof *in; i++)
        assert_true(id_list_has(list, (struct span){in[i], strlen(in[i])}));
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        assert_false(id_list_has(list, (struct span){out[i], strlen(out[i])}));
    free(list);
    token.watch.len = 0;
    buffer_text(&token.watch, "[]");
    assert_null(id_list_of_token(&token));
    token_free(&token);
}

/* A message has at most 140 characters, none of them a control character. */
static void note_rules(void **unused)
{
    (void)unused;
    char text[STATUS_TEXT_MAX + 4];
    assert_true(status_text_valid((struct span){"", 0}));
    for (int i = 0; i < STATUS_TEXT_CHARACTERS + 1; i++) memcpy(text + 4 * i, "\xf0\x9f\x98\x80", 4);
    assert_true(status_text_valid((struct span){text, STATUS_TEXT_MAX}));
    assert_false(status_text_valid((struct span){text, STATUS_TEXT_MAX + 4}));
    assert_false(status_text_valid((struct span){text, STATUS_TEXT_MAX - 1}));
    static const char *const bad[] = {"a\nb", "\x7f", "\xc2\x85", "\xff", "\xed\xa0\x80", "\t"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(status_text_valid((struct span){bad[i], strlen(bad[i])}));
}

/* A manual status in the store: what is written is read, what is damaged is not. */
static void manual_record_codec(void **unused)
{
    (void)unused;
    uint8_t bytes[STORE_MANUAL_BYTES + STATUS_TEXT_MAX + 1] = {0};
    struct manual_record out;
    const struct manual_head head = {true, STATUS_OFFLINE, 1764000000123, 1764000000001};
    store_encode_manual(&head, bytes);
    memcpy(bytes + STORE_MANUAL_BYTES, "h\xc3\xa9", 3);
    assert_true(store_read_manual((MDB_val){STORE_MANUAL_BYTES + 3, bytes}, &out));
    assert_true(out.head.there);
    assert_int_equal(out.head.status, STATUS_OFFLINE);
    assert_int_equal(out.head.until, head.until);
    assert_int_equal(out.head.hidden, head.hidden);
    assert_int_equal(out.len, 3);
    assert_memory_equal(out.message, "h\xc3\xa9", 3);
    assert_false(store_read_manual((MDB_val){STORE_MANUAL_BYTES - 1, bytes}, &out));
    assert_false(store_read_manual((MDB_val){STORE_MANUAL_BYTES + 2, bytes}, &out)); /* half é */
    assert_false(store_read_manual((MDB_val){sizeof bytes, bytes}, &out));
    bytes[1] = STATUS_AUTOMATIC + 1;
    assert_false(store_read_manual((MDB_val){STORE_MANUAL_BYTES, bytes}, &out));
    bytes[1] = STATUS_BUSY;
    bytes[0] = 2;
    assert_false(store_read_manual((MDB_val){STORE_MANUAL_BYTES, bytes}, &out));
}

/* The merge rule: what is set by hand, else the most available of the connections; each change one
 * transition, none when all stays as it was. */
static void manual_goes_before_connections(void **unused)
{
    (void)unused;
    struct presence p;
    struct instant now = {1000000, 1764000000000};
    struct session_conn a = {0}, b = {0};
    struct span id = {"alice", 5};
    presence_init(&p, 5000, 90000, now);
    presence_connect(&p, now, id, &a);
    presence_connect(&p, now, id, &b);
    struct user *user = presence_find(&p, id);
    presence_clear_transitions(&p);
    const struct {
        enum status manual, a, b, wanted;
        size_t transitions;
    } rows[] = {
        {STATUS_AUTOMATIC, STATUS_AWAY, STATUS_BUSY, STATUS_BUSY, 1},
        {STATUS_AWAY, STATUS_AWAY, STATUS_ONLINE, STATUS_AWAY, 1},
        {STATUS_AWAY, STATUS_BUSY, STATUS_ONLINE, STATUS_AWAY, 0},
        {STATUS_ONLINE, STATUS_AWAY, STATUS_AWAY, STATUS_ONLINE, 1},
        {STATUS_OFFLINE, STATUS_AWAY, STATUS_AWAY, STATUS_AWAY, 1},
        {STATUS_OFFLINE, STATUS_AWAY, STATUS_BUSY, STATUS_BUSY, 1},
        {STATUS_AUTOMATIC, STATUS_AWAY, STATUS_BUSY, STATUS_BUSY, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct manual_update update = {.status = rows[i].manual};
        presence_set_manual(&p, now, user, &update);
        presence_set_status(&p, now, &a, rows[i].a);
        presence_set_status(&p, now, &b, rows[i].b);
        assert_int_equal(user->status, rows[i].wanted);
        assert_int_equal(user_invisible(user), rows[i].manual == STATUS_OFFLINE);
        bool found = false;
        for (size_t k = 0; k < p.transition_count; k++) {
            assert_int_equal(p.transitions[k].kind, TRANSITION_STATUS);
            found |= p.transitions[k].status == rows[i].wanted;
        }
        assert_int_equal(p.transition_count > 0, rows[i].transitions > 0);
        if (rows[i].transitions) assert_true(found);
        presence_clear_transitions(&p);
    }
    struct manual_update update = {.status = STATUS_BUSY, .lifetime = 5000};
    presence_set_manual(&p, now, user, &update);
    presence_clear_transitions(&p);
    presence_set_manual(&p, now, user, &update); /* only its end moves: nobody is told */
    assert_int_equal(p.transition_count, 0);
    now.mono += 4900;
    presence_tick(&p, now);
    assert_int_equal(user->status, STATUS_BUSY);
    now.mono += 200;
    presence_tick(&p, now);
    assert_int_equal(user->status, STATUS_BUSY); /* of b, again */
    assert_null(user_manual(user));
    assert_int_equal(p.transition_count, 1);
    presence_free(&p);
}

/* Writes all that is dirty, as far as the table knows. */
static void commit_all(struct presence *p, struct instant now)
{
    struct store_batch batch = {0};
    presence_collect(p, now, true, &batch);
    presence_committed(p, now);
    presence_clear_transitions(p);
    buffer_free(&batch.ops);
}

/* Who set something by hand stays in the table for as long as that lasts, offline too: nobody has to
 * ask the store for it. */
static void manual_keeps_its_user(void **unused)
{
    (void)unused;
    struct presence p;
    struct instant now = {1000000, 1764000000000};
    const struct span bob = {"bob", 3}, eve = {"eve", 3}, old = {"old", 3};
    const struct manual_record lasting = {.head = {.there = true, .status = STATUS_BUSY}},
        ends = {.head = {.there = true, .status = STATUS_OFFLINE,
                         .until = now.mono + now.offset + 60000}},
        ended = {.head = {.there = true, .status = STATUS_AWAY, .until = now.mono + now.offset}};
    const struct user_record record = {.last_seen = now.mono + now.offset - 5000,
                                       .reason = REASON_DROPPED};
    presence_init(&p, 0, 90000, now);
    presence_restore_manual(&p, now, bob, &record, &lasting);
    presence_restore_manual(&p, now, eve, &record, &ends);
    presence_restore_manual(&p, now, old, &record, &ended);
    commit_all(&p, now); /* what ended meanwhile is out of the store */
    assert_null(presence_find(&p, old));
    assert_int_equal(presence_find(&p, bob)->last_seen, now.mono - 5000);
    assert_int_equal(presence_find(&p, bob)->reason, REASON_DROPPED);
    struct session_conn conn = {0};
    presence_connect(&p, now, bob, &conn);
    assert_int_equal(conn.user->status, STATUS_BUSY);
    presence_disconnect(&p, now, &conn, END_CLEAN);
    commit_all(&p, now);
    assert_int_equal(presence_find(&p, bob)->state, USER_OFFLINE);
    assert_true(user_invisible(presence_find(&p, eve)));
    now.mono += 60016;
    presence_tick(&p, now);
    assert_int_equal(p.transition_count, 1); /* for those who follow */
    assert_int_equal(p.transitions[0].kind, TRANSITION_QUIET);
    commit_all(&p, now);
    assert_null(presence_find(&p, eve));
    presence_set_manual(&p, now, presence_find(&p, bob),
                        &(struct manual_update){.status = STATUS_AUTOMATIC});
    commit_all(&p, now);
    assert_null(presence_find(&p, bob));
    presence_free(&p);
}

/* A hidden last_seen that the store has from a clock that was ahead is not shown as to come: neither
 * of one who was online, nor of one who was not. */
static void manual_hidden_is_never_to_come(void **unused)
{
    (void)unused;
    enum { HOUR = 3600000 };
    struct presence p;
    struct instant now = {1000000, 1764000000000};
    int64_t wall = now.mono + now.offset;
    const struct user_record record = {.last_seen = wall + HOUR, .online_since = wall + HOUR};
    const struct manual_record manual = {
        .head = {.there = true, .status = STATUS_OFFLINE, .hidden = wall + HOUR}};
    presence_init(&p, 5000, 90000, now);
    presence_restore(&p, now, (struct span){"alice", 5}, STATUS_ONLINE, wall + HOUR, wall + HOUR,
                     (struct evidence){0});
    presence_restore_manual(&p, now, (struct span){"alice", 5}, &record, &manual);
    presence_restore_manual(&p, now, (struct span){"bob", 3}, &record, &manual);
    for (int i = 0; i < 2; i++) {
        struct user_view view;
        const struct span ids[] = {{"alice", 5}, {"bob", 3}};
        view_user(&view, presence_find(&p, ids[i]), now);
        assert_true(view.invisible);
        view_hide(&view);
        assert_int_equal(view.last_seen, wall);
    }
    presence_free(&p);
}

/* What the jobs of a queue's test share. */
struct queue_test {
    _Atomic int64_t sum, ran, running, most;
    sem_t held, go; /* the first job waits, so that others stay in the queue */
};

/* One of them. */
struct queue_test_job {
    struct job job;
    struct queue_test *shared;
    int64_t number;
    int times; /* it adds itself again so many times */
    struct job_queue *queue;
};

static void queue_test_run(struct server *server, struct job *job)
{
    struct queue_test_job *one = container_of(job, struct queue_test_job, job);
    struct queue_test *shared = one->shared;
    (void)server;
    int64_t running = atomic_fetch_add(&shared->running, 1) + 1;
    if (running > atomic_load(&shared->most)) atomic_store(&shared->most, running);
    atomic_fetch_add(&shared->sum, one->number);
    atomic_fetch_add(&shared->ran, 1);
    atomic_fetch_sub(&shared->running, 1);
    if (one->times-- > 0) job_queue_add(one->queue, &one->job);
    else free(one);
}

static void queue_test_hold(struct server *server, struct job *job)
{
    (void)server;
    struct queue_test *shared = container_of(job, struct queue_test_job, job)->shared;
    sem_post(&shared->held);
    while (sem_wait(&shared->go)) continue;
}

/* Adds `count` jobs with the numbers from 1 on; each adds itself again `times` times. */
static void queue_test_add(struct job_queue *queue, struct queue_test *shared, int count, int times)
{
    for (int i = 1; i <= count; i++) {
        struct queue_test_job *one = mem_new(sizeof *one);
        *one = (struct queue_test_job){{.run = queue_test_run}, shared, i, times, queue};
        job_queue_add(queue, &one->job);
    }
}

/* Every job runs once, whoever has it: threads, who adds them, or both; what waits at the end is
 * done before the threads end. */
static void job_queue_runs_all(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    for (size_t threads = 0; threads < 4; threads++) {
        static struct queue_test shared;
        struct job_queue queue;
        memset(&shared, 0, sizeof shared);
        job_queue_init(&queue, NULL, threads ? threads : 1);
        assert_true(job_queue_start(&queue, "test", 0, threads));
        for (int round = 1; round <= 3; round++) {
            queue_test_add(&queue, &shared, COUNT, 0);
            job_queue_finish(&queue);
            assert_int_equal(shared.ran, round * COUNT);
            assert_int_equal(shared.sum, (int64_t)round * COUNT * (COUNT + 1) / 2);
            assert_int_equal(queue.waiting + queue.running, 0);
        }
        assert_true(shared.most <= (int64_t)threads + 1);
        if (threads) queue_test_add(&queue, &shared, COUNT, 1); /* nobody helps: all by the threads */
        job_queue_stop(&queue);
        assert_int_equal(shared.ran, (threads ? 5 : 3) * COUNT);
        assert_true(TAILQ_EMPTY(&queue.jobs));
    }
}

/* A job that no thread has begun can be taken back, from anywhere in the queue; one that has begun
 * cannot. A queue that was never set up can be stopped. */
static void job_queue_gives_back(void **state)
{
    (void)state;
    static struct job_queue never;
    struct queue_test shared = {0};
    struct queue_test_job hold = {{.run = queue_test_hold}, &shared, 0, 0, NULL}, *jobs[9];
    struct job_queue queue;
    sem_init(&shared.held, 0, 0);
    sem_init(&shared.go, 0, 0);
    job_queue_stop(&never);
    job_queue_init(&queue, NULL, 1);
    assert_true(job_queue_start(&queue, "test", 0, 1));
    job_queue_add(&queue, &hold.job);
    while (sem_wait(&shared.held)) continue;
    for (int i = 0; i < 9; i++) {
        jobs[i] = mem_new(sizeof *jobs[i]);
        *jobs[i] = (struct queue_test_job){{.run = queue_test_run}, &shared, 1 << i, 0, &queue};
        job_queue_add(&queue, &jobs[i]->job);
    }
    assert_false(job_queue_cancel(&queue, &hold.job));
    for (int i = 0; i < 9; i += 4) { /* the first, one between, the last */
        assert_true(job_queue_cancel(&queue, &jobs[i]->job));
        assert_false(job_queue_cancel(&queue, &jobs[i]->job));
        free(jobs[i]);
    }
    sem_post(&shared.go);
    job_queue_stop(&queue);
    assert_int_equal(shared.sum, 0x1ff - 0x111);
    sem_destroy(&shared.held);
    sem_destroy(&shared.go);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* What is wrong, each in a process of its own. */
static pthread_mutex_t rule_locks[RANK_LOG + 1];
static void rule_order(void)
{
    lock_take(&rule_locks[RANK_ADDRESS], RANK_ADDRESS);
    lock_take(&rule_locks[RANK_TABLE], RANK_TABLE);
}
static void rule_twice(void)
{
    lock_take(&rule_locks[RANK_LOOP], RANK_LOOP);
    lock_take(&rule_locks[RANK_LOOP], RANK_LOOP);
}
static void rule_give(void)
{
    lock_take(&rule_locks[RANK_TABLE], RANK_TABLE);
    lock_give(&rule_locks[RANK_TABLE], RANK_TABLE);
    lock_give(&rule_locks[RANK_TABLE], RANK_TABLE);
}
static void rule_held(void)
{
    static struct server server;
    static struct http_conn p;
    http_conn_unlist(&server, &p);
}
static void rule_thread(void)
{
    static struct server server;
    static struct http_conn p;
    thread_is(THREAD_WORKER);
    listener_close(&server, &p);
}
static void rule_hub(void)
{
    static struct server server;
    static struct connection c;
    thread_is(THREAD_LISTENER);
    connection_end(&server, &c, (struct instant){0}, END_CLEAN);
}
/* And what is right. */
static void rule_none(void)
{
    for (unsigned rank = 0; rank <= RANK_LOG; rank++) lock_take(&rule_locks[rank], rank);
    for (unsigned rank = 0; rank <= RANK_LOG; rank++) lock_give(&rule_locks[rank], rank);
    lock_take(&rule_locks[RANK_LOG], RANK_LOG);
    lock_give(&rule_locks[RANK_LOG], RANK_LOG);
    thread_is(THREAD_HUB);
    ASSERT_THREAD(HUB);
    thread_is(THREAD_ANY);
    ASSERT_THREAD(LISTENER);
}
#endif

/* A lock out of order, one that is not held, and a function on the wrong thread end the process in
 * the builds with a sanitizer, and say why. */
static void owners_are_asserted(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    static const struct {
        void (*run)(void);
        const char *says;
    } rows[] = {
        {rule_order, "out of order"},   {rule_twice, "out of order"},
        {rule_give, "was not taken"},   {rule_held, "ADDRESS is not held"},
        {rule_thread, "LISTENER only"}, {rule_hub, "HUB only"},
        {rule_none, NULL},
    };
    for (size_t i = 0; i < sizeof rule_locks / sizeof *rule_locks; i++)
        pthread_mutex_init(&rule_locks[i], NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int out[2], status;
        char said[1024] = "";
        size_t len = 0;
        assert_false(pipe(out));
        pid_t child = fork();
        if (!child) {
            dup2(out[1], 2);
            signal(SIGABRT, SIG_DFL);
            rows[i].run();
            _exit(0);
        }
        close(out[1]);
        for (ssize_t n; (n = read(out[0], said + len, sizeof said - 1 - len)) > 0;) len += (size_t)n;
        close(out[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!rows[i].says) {
            assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
            continue;
        }
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        if (!strstr(said, rows[i].says)) fail_msg("row %zu said: %s", i, said);
    }
#else
    skip();
#endif
}

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
    while (send(connections[POST_FULL].transport.fd, wanted, sizeof wanted, MSG_DONTWAIT) > 0) continue;
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

/* Clients come back over the time that the server needs for as many as it had; few do at once. */
static void crowds_come_back_spread(void **unused)
{
    (void)unused;
    static struct server server;
    static const struct {
        size_t connections;
        int64_t plain, tls;
    } rows[] = {{0, 0, 0}, {1, 0, 0}, {100, 0, 0}, {101, 3000, 3000}, {6000, 3000, 3000},
                {6002, 3000, 3001}, {20000, 3000, 10000}, {30010, 3001, 15005},
                {1000000, 100000, 500000}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        server.presence.connections = rows[i].connections;
        server.options.tls_listen.count = 0;
        assert_int_equal(server_spread_ms(&server), rows[i].plain);
        server.options.tls_listen.count = 1;
        assert_int_equal(server_spread_ms(&server), rows[i].tls);
    }
}

static const struct CMUnitTest WATCH_TESTS[] = {
    cmocka_unit_test(crowds_come_back_spread),
    cmocka_unit_test(watch_graph_equal_model),
    cmocka_unit_test(watch_graph_keep_to_the_bound),
    cmocka_unit_test(watch_graph_do_not_queue_states),
    cmocka_unit_test(hash_is_siphash),
    cmocka_unit_test(id_list_finds),
    cmocka_unit_test(note_rules),
    cmocka_unit_test(manual_record_codec),
    cmocka_unit_test(manual_goes_before_connections),
    cmocka_unit_test(manual_keeps_its_user),
    cmocka_unit_test(manual_hidden_is_never_to_come),
    cmocka_unit_test(job_queue_runs_all),
    cmocka_unit_test(job_queue_gives_back),
    cmocka_unit_test(owners_are_asserted),
    cmocka_unit_test(post_reaches_everybody),
    cmocka_unit_test(post_has_bounds),
};
