/* Presence rules: the table is held against a naive model, with random steps and everything
 * compared after each of them. */
#include "unit.h"
#include "model.h"

/* Peers with random intervals and timeouts, who answer pings sooner or later, say something by
 * themselves, and die: no ping before the interval or more than a tick after it, nobody is
 * dropped who answered in time, and who is dead is dropped within interval + timeout of the last
 * byte. */
static void silence_keeps_its_bound(void **unused)
{
    (void)unused;
    enum { TICK = 1 << WHEEL_TICK_SHIFT };
    uint64_t seed = 20261129;
    size_t dropped = 0, pings = 0, longer = 0;
    for (int peer = 0; peer < 4000; peer++) {
        int64_t interval = 100 + (int64_t)below64(&seed, below64(&seed, 2) ? 400 : 40000);
        int64_t timeout = 100 + (int64_t)below64(&seed, below64(&seed, 2) ? 400 : 40000);
        int64_t start = (int64_t)below64(&seed, 3) * (INT64_C(1) << 32) - 50000; /* around 2^32 */
        if (start < 0) start = 1000000;
        int64_t heard = start, death = start + (int64_t)below64(&seed, 400000), next = INT64_MAX;
        int64_t timer = heard + interval, ping_at = 0;
        uint32_t pinged = 0;
        longer += timeout > interval;
        for (bool over = false; !over;) {
            int64_t now = (timer + TICK - 1) / TICK * TICK; /* as the wheel fires */
            if (next <= now) {                              /* a byte arrives before that */
                heard = next;
                ping_at = 0;
                next = below64(&seed, 8) ? INT64_MAX
                                         : heard + 1 + (int64_t)below64(&seed, (size_t)interval);
                if (next > death) next = INT64_MAX;
                continue;
            }
            int64_t due;
            switch (silence_judge(interval, timeout, heard, now, &pinged, &due)) {
            case SILENCE_PING:
                assert_int_equal(ping_at, 0);
                assert_true(now >= heard + interval && now < heard + interval + TICK);
                ping_at = now;
                pings++;
                next = now + (int64_t)below64(&seed, (size_t)timeout); /* within the same ms, too */
                if (next > death) next = INT64_MAX;
                break;
            case SILENCE_OVER:
                assert_true(ping_at && now >= ping_at + timeout);
                assert_true(now < heard + interval + timeout + 2 * TICK);
                over = true;
                dropped++;
                continue;
            default: break;
            }
            assert_true(due > now);
            timer = due;
        }
    }
    assert_int_equal(dropped, 4000);
    assert_true(pings > 20000 && longer > 1000);
}

/* Step: the process stands still, and what some sent meanwhile waits. Who had time left when it
 * stopped has as much when it goes on, and at least what it takes to read that. */
static void model_pause(struct model *m)
{
    int64_t gap = 16 * (1 + (int64_t)below64(&m->seed, below64(&m->seed, 4) ? 1000 : 20000));
    size_t before = m->leaves;
    m->now.mono += gap;
    presence_resume(&m->table, m->now, gap);
    m->judge_at = m->now.mono + PAUSE_READ_MS;
    for (int i = 0; i < MODEL_USERS; i++) {
        struct model_user *u = &m->users[i];
        if (u->state == USER_CACHED && u->until <= m->now.mono) m->spared++;
        u->until += gap;
        if (u->heartbeat_until) u->heartbeat_until += gap;
    }
    model_tick(m);
    assert_int_equal(m->leaves, before);
    m->pauses++;
}

/* The model's end of the stay of one who was online as the store says, of a server that was killed
 * at this moment or stopped. */
static int64_t model_evidence(struct model *m, const struct model_user *u, bool clean,
                              int64_t killed, bool was_online)
{
    int64_t wall = m->now.mono + m->now.offset, alive = m->alive + (clean ? 0 : MODEL_SIGN);
    int64_t seen = u->stored_seen < wall ? u->stored_seen : wall;
    int64_t there = seen + MODEL_SILENCE < alive ? seen + MODEL_SILENCE : alive;
    if (there > wall) there = wall;
    if (there < seen) there = seen;
    /* Whatever the rule: who was there at the end has the whole threshold from then on, if the
     * store was written as often as the server promises; and there are no ghosts. */
    if (was_online && killed <= alive && seen + MODEL_SILENCE >= killed) {
        assert_true(there >= killed);
        m->kept++;
    }
    assert_true(there <= seen + MODEL_SILENCE);
    return there - m->now.offset + m->threshold;
}

/* Step: the server stops cleanly, or is killed with what was committed; it starts again after a
 * while, perhaps with other options. */
static void model_restart(struct model *m, bool clean)
{
    bool online[MODEL_USERS];
    for (int i = 0; i < MODEL_USERS; i++) online[i] = m->users[i].state != USER_OFFLINE;
    if (clean) {
        model_commit(m);
        for (int i = 0; i < MODEL_USERS; i++)
            while (m->users[i].conns) model_disconnect(m, i, END_STOP);
        model_collect(m, true);
        model_commit(m);
    }
    buffer_free(&m->batch.ops);
    m->batch = (struct store_batch){0};
    m->in_flight = m->filling = false;
    presence_free(&m->table);
    int64_t killed = m->now.mono + m->now.offset;
    m->now.mono += 16 * (int64_t)below64(&m->seed, 8000);
    model_rules(m);
    int64_t wall = m->now.mono + m->now.offset;
    struct evidence before = {m->alive + (clean ? 0 : MODEL_SIGN), MODEL_SILENCE};
    for (int i = 0; i < MODEL_USERS; i++) {
        struct model_user *u = &m->users[i];
        u->conns = 0;
        u->heartbeat_until = 0;
        u->known = u->stored;
        u->state = USER_OFFLINE;
        u->status = STATUS_OFFLINE;
        u->joins = u->leaves = u->changes = 0;
        u->sessions = u->sessions_stored;
        if (!u->stored || !u->stored_open) continue;
        int64_t seen = u->stored_seen < wall ? u->stored_seen : wall;
        int64_t since = u->stored_since < seen ? u->stored_since : seen;
        u->state = USER_CACHED;
        u->status = u->stored_status;
        u->seen = seen - m->now.offset;
        u->since = since - m->now.offset;
        u->until = model_evidence(m, u, clean, killed, online[i]);
        u->reason = REASON_RESTART;
        presence_restore(&m->table, m->now, model_id(i), (enum status)u->stored_status,
                         u->stored_since, u->stored_seen, before);
    }
    m->restarts++;
}

/* 150,000 random steps; see the cases P01, P03, P04, P06, P13, P14 and P15. */
static void table_equals_model(void **unused)
{
    (void)unused;
    static struct model m;
    m = (struct model){.seed = 20261125, .now = {1000000, 1764000000000}};
    model_rules(&m);
    for (int step = 0; step < 150000; step++) {
        int user = (int)below64(&m.seed, MODEL_USERS);
        switch (below64(&m.seed, 25)) {
        case 0:
        case 1:
        case 2:
        case 3:
        case 4: model_connect(&m, user); break;
        case 5:
        case 6:
        case 7:
        case 8: model_disconnect(&m, user, (enum ending)below64(&m.seed, END_STOP)); break;
        case 9:
        case 10:
        case 11: model_heard(&m, user); break;
        case 12:
        case 13: model_status(&m, user); break;
        case 14: model_heartbeat(&m, user); break;
        case 15:
        case 16:
        case 17:
        case 18: model_advance(&m); break;
        case 24:
            if (!below64(&m.seed, 4)) model_pause(&m);
            break;
        case 19: model_collect(&m, !below64(&m.seed, 8)); break;
        case 20:
        case 21: model_commit(&m); break;
        case 22: /* UTC is stepped, by hours, either way */
            if (!below64(&m.seed, 20))
                m.now.offset += 3600000 * ((int64_t)below64(&m.seed, 25) - 12);
            break;
        default:
            if (!below64(&m.seed, 20)) model_restart(&m, below64(&m.seed, 2));
            break;
        }
        model_check(&m);
    }
    assert_true(m.restarts > 100 && m.leaves > 5000);
    assert_true(m.pauses > 1000 && m.spared > 500 && m.kept > 500 && m.filled > 500);
    while (m.table.live) {
        for (int i = 0; i < MODEL_USERS; i++) model_disconnect(&m, i, END_CLEAN);
    }
    buffer_free(&m.batch.ops);
    presence_free(&m.table);
}

/* Lets time pass; how many joins, leaves and changes of a status came since the last call, and
 * clears all transitions. */
static size_t table_pass(struct bench_table *t, int64_t ms)
{
    t->now.mono += ms;
    presence_tick(&t->table, t->now, SIZE_MAX);
    size_t count = 0;
    for (size_t i = 0; i < t->table.transition_count; i++)
        count += t->table.transitions[i].kind != TRANSITION_CONNECTIONS;
    presence_clear_transitions(&t->table);
    return count;
}

/* P03: the old socket times out after the new one opened: nobody hears of it. */
static void table_late_end_of_old_socket(void **unused)
{
    (void)unused;
    struct bench_table t;
    table_begin(&t);
    presence_connect(&t.table, t.now, ALICE, &t.a);
    assert_int_equal(table_pass(&t, 1000), 1);
    presence_connect(&t.table, t.now, ALICE, &t.b);
    presence_disconnect(&t.table, t.now, &t.a, END_TIMEOUT);
    assert_int_equal(table_pass(&t, 100000), 0);
    assert_int_equal(t.table.live, 1);
    presence_disconnect(&t.table, t.now, &t.b, END_CLEAN);
    assert_int_equal(table_pass(&t, 0), 1);
    presence_free(&t.table);
}

/* P13: a reload within the grace time is no event; one that stays away is exactly one. */
static void table_reload_within_grace(void **unused)
{
    (void)unused;
    struct bench_table t;
    table_begin(&t);
    presence_connect(&t.table, t.now, ALICE, &t.a);
    assert_int_equal(table_pass(&t, 1000), 1);
    presence_disconnect(&t.table, t.now, &t.a, END_AWAY);
    assert_int_equal(table_pass(&t, 2980), 0);
    presence_connect(&t.table, t.now, ALICE, &t.b);
    assert_int_equal(table_pass(&t, 60000), 0);
    presence_disconnect(&t.table, t.now, &t.b, END_AWAY);
    assert_int_equal(table_pass(&t, 2980), 0);
    assert_int_equal(table_pass(&t, 40), 1);
    assert_int_equal(presence_find(&t.table, ALICE)->reason, REASON_CLOSED);
    presence_free(&t.table);
}

/* Two stays within one millisecond begin at different times, by which they are told apart. */
static void table_tells_stays_apart(void **unused)
{
    (void)unused;
    struct bench_table t;
    struct store_op op;
    table_begin(&t);
    int64_t last = 0;
    for (int i = 0; i < 5; i++) {
        presence_connect(&t.table, t.now, ALICE, &t.a);
        presence_disconnect(&t.table, t.now, &t.a, END_CLEAN);
        memcpy(&op, t.table.ended.ops.at + (size_t)i * (sizeof op + ALICE.len), sizeof op);
        assert_true(op.as.session.from > last);
        assert_true(op.as.session.to >= op.as.session.from);
        last = op.as.session.from;
    }
    presence_free(&t.table);
}

/* The server's own end leaves every stay open, however short the grace: the next start waits. */
static void table_stop_keeps_stays(void **unused)
{
    (void)unused;
    struct bench_table t;
    table_begin(&t);
    presence_connect(&t.table, t.now, ALICE, &t.a);
    table_pass(&t, 1000);
    presence_disconnect(&t.table, t.now, &t.a, END_STOP);
    assert_int_equal(table_pass(&t, 80000), 0);
    assert_int_equal(t.table.cached, 1);
    presence_free(&t.table);
}

/* P15: of two devices the more available one wins, and the idle one changes nothing. */
static void table_most_available_wins(void **unused)
{
    (void)unused;
    struct bench_table t;
    table_begin(&t);
    presence_connect(&t.table, t.now, ALICE, &t.a);
    presence_connect(&t.table, t.now, ALICE, &t.b);
    table_pass(&t, 0);
    for (int i = 0; i < 10; i++) {
        presence_set_status(&t.table, t.now, &t.a, STATUS_AWAY);
        presence_set_status(&t.table, t.now, &t.a, STATUS_BUSY);
    }
    assert_int_equal(table_pass(&t, 1000), 0);
    presence_set_status(&t.table, t.now, &t.b, STATUS_AWAY);
    assert_int_equal(presence_find(&t.table, ALICE)->status, STATUS_BUSY);
    assert_int_equal(table_pass(&t, 0), 1);
    presence_free(&t.table);
}

/* P06: UTC goes 12 hours forward and back: ages stay what they are, nobody leaves. */
static void table_stepped_clock(void **unused)
{
    (void)unused;
    struct bench_table t;
    struct user_view view;
    table_begin(&t);
    presence_connect(&t.table, t.now, ALICE, &t.a);
    table_pass(&t, 20000);
    static const int64_t hours[] = {12, -12, -12, 12, 0};
    for (size_t i = 0; i < 5; i++) {
        t.now.offset += hours[i] * 3600000;
        assert_int_equal(table_pass(&t, 16), 0);
        view_user(&view, presence_find(&t.table, ALICE), t.now);
        assert_int_equal(t.now.mono + t.now.offset - view.last_seen, 20000 + 16 * (int64_t)(i + 1));
    }
    presence_free(&t.table);
}

/* P06: a stamp from the future in the store counts as now, and is corrected. */
static void table_restores_future_stamp(void **unused)
{
    (void)unused;
    struct bench_table t;
    table_begin(&t);
    int64_t wall = t.now.mono + t.now.offset;
    presence_restore(&t.table, t.now, ALICE, STATUS_AWAY, wall + 7200000, wall + 7200000,
                     (struct evidence){0});
    const struct user *user = presence_find(&t.table, ALICE);
    assert_int_equal(user->last_seen, t.now.mono);
    assert_int_equal(user->online_since, t.now.mono);
    assert_int_equal(table_pass(&t, 89980), 0);
    assert_int_equal(table_pass(&t, 40), 1);
    assert_int_equal(user->reason, REASON_RESTART);
    presence_free(&t.table);
}

/* A broken connection and then a heartbeat: the later of the two ends counts, and gives the
 * reason. */
static void table_heartbeat_shortens_no_grace(void **unused)
{
    (void)unused;
    static const struct {
        int64_t grace, threshold, end;
        enum reason reason;
    } rows[] = {{6000, 1000, 6000, REASON_DROPPED},
                {1000, 6000, 6304, REASON_TIMEOUT},
                {1304, 1000, 1304, REASON_TIMEOUT},
                {0, 1000, 1304, REASON_TIMEOUT}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct bench_table t;
        table_begin(&t);
        t.now.mono = 1000000 - 1000000 % 16;
        presence_init(&t.table, rows[i].grace, rows[i].threshold, t.now);
        presence_connect(&t.table, t.now, ALICE, &t.a);
        presence_disconnect(&t.table, t.now, &t.a, END_DROPPED);
        table_pass(&t, 304);
        presence_heartbeat(&t.table, t.now, ALICE, (const uint8_t[16]){1});
        table_pass(&t, rows[i].end - 304 - 16);
        assert_int_equal(t.table.cached, 1);
        table_pass(&t, 32);
        assert_int_equal(t.table.cached, 0);
        assert_int_equal(presence_find(&t.table, ALICE)->reason, rows[i].reason);
        presence_free(&t.table);
    }
}

/* Servers that die one after the other keep no ghosts: each gives a sign of life, but who does not
 * come back was there no longer than a silence can last. */
static void table_crash_loop_keeps_no_ghost(void **unused)
{
    (void)unused;
    struct bench_table t;
    table_begin(&t);
    int64_t seen = t.now.mono + t.now.offset, last = 0;
    for (int start = 0; start < 100; start++) {
        struct evidence before = {t.now.mono + t.now.offset, 51000};
        presence_init(&t.table, 3000, 90000, t.now);
        presence_restore(&t.table, t.now, ALICE, STATUS_ONLINE, seen, seen, before);
        table_pass(&t, 5000);
        if (t.table.cached) last = t.now.mono + t.now.offset - seen;
        presence_free(&t.table);
    }
    assert_in_range(last, 51000 + 90000 - 5000, 51000 + 90000);
}

/* Servers that die one after the other forget nobody who comes back to each of them, by a
 * connection or a heartbeat, though none lives until its first last_seen is written. */
static void table_crash_loop_keeps_who_comes_back(void **unused)
{
    (void)unused;
    for (int by_http = 0; by_http < 2; by_http++) {
        struct bench_table t;
        struct store_batch batch = {0};
        struct store_op op;
        table_begin(&t);
        int64_t since = t.now.mono + t.now.offset, seen = since;
        for (int start = 0; start < 100; start++) {
            struct evidence before = {t.now.mono + t.now.offset, 51000};
            presence_init(&t.table, 3000, 90000, t.now);
            presence_restore(&t.table, t.now, ALICE, STATUS_ONLINE, since, seen, before);
            assert_int_equal(table_pass(&t, 1000), 0);
            assert_int_equal(t.table.cached, 1);
            if (by_http) presence_heartbeat(&t.table, t.now, ALICE, t.a.address);
            else presence_connect(&t.table, t.now, ALICE, &t.a);
            presence_collect(&t.table, t.now, false, SIZE_MAX, &batch);
            assert_int_equal(batch.users, 1);
            memcpy(&op, batch.ops.at, sizeof op);
            seen = op.as.user.last_seen;
            assert_int_equal(op.as.user.online_since, since);
            buffer_free(&batch.ops);
            batch = (struct store_batch){0};
            presence_free(&t.table);
        }
    }
}

/* While the disk is full so many ended sessions wait, and no more. */
static void sessions_beyond_the_most_are_counted(void **unused)
{
    (void)unused;
    struct bench_table t;
    table_begin(&t);
    for (size_t i = 0; i < ENDED_SESSIONS_MAX + 7; i++) {
        t.a = (struct session_conn){0};
        presence_connect(&t.table, t.now, ALICE, &t.a);
        presence_disconnect(&t.table, t.now, &t.a, END_CLEAN);
        presence_clear_transitions(&t.table);
    }
    assert_int_equal(t.table.ended.sessions, ENDED_SESSIONS_MAX);
    assert_int_equal(t.table.sessions_dropped, 7);
    presence_free(&t.table);
}

/* However many end at once while the store is busy, each leaves a record; not while the disk takes
 * nothing. */
static void everybody_may_end_at_once(void **unused)
{
    (void)unused;
    enum { USERS = 130000 };
    assert_true(USERS > ENDED_SESSIONS_MAX);
    for (int fails = 0; fails < 2; fails++) {
        struct bench_table t;
        char id[16];
        table_begin(&t);
        t.table.disk_fails = fails;
        for (int i = 0; i < USERS; i++) {
            size_t len = (size_t)snprintf(id, sizeof id, "u%d", i);
            presence_restore(&t.table, t.now, (struct span){id, len}, STATUS_ONLINE, 0, 0,
                             (struct evidence){0});
        }
        assert_int_equal(table_pass(&t, 1000), USERS);
        assert_int_equal(t.table.ended.sessions, fails ? ENDED_SESSIONS_MAX : USERS);
        assert_int_equal(t.table.sessions_dropped, fails ? USERS - ENDED_SESSIONS_MAX : 0);
        presence_free(&t.table);
    }
}

/* A heartbeat over a connection allocates nothing and makes the store owe one write in 15 s. */
static void table_heartbeats_are_coalesced(void **unused)
{
    (void)unused;
    struct bench_table t;
    struct store_batch batch = {0};
    table_begin(&t);
    presence_connect(&t.table, t.now, ALICE, &t.a);
    presence_collect(&t.table, t.now, true, SIZE_MAX, &batch);
    presence_committed(&t.table, t.now, SIZE_MAX);
    size_t written = 0;
    for (int second = 0; second < 60; second++) {
        buffer_free(&batch.ops);
        t.now.mono += 1000;
        presence_heard(&t.table, t.now, t.a.user);
        presence_collect(&t.table, t.now, false, SIZE_MAX, &batch);
        written += batch.users;
        presence_committed(&t.table, t.now, SIZE_MAX);
    }
    assert_in_range(written, 3, 5);
    buffer_free(&batch.ops);
    presence_free(&t.table);
}

/* However many are due, collected or written at once: each call does no more than it is told to,
 * and all is done in the end. */
static void table_works_in_slices(void **unused)
{
    (void)unused;
    enum { USERS = 1000, SLICE = 64, CALLS = (USERS + SLICE - 1) / SLICE };
    struct bench_table t;
    struct store_batch batch = {0};
    table_begin(&t);
    for (int i = 0; i < USERS; i++) {
        char id[16];
        int len = snprintf(id, sizeof id, "user%d", i);
        presence_restore(&t.table, t.now, (struct span){id, (size_t)len}, STATUS_ONLINE, 0, 0,
                         (struct evidence){0});
    }
    t.now.mono += 200000;
    int calls = 1;
    for (; !presence_tick(&t.table, t.now, SLICE); calls++) {
        assert_int_equal(t.table.cached, USERS - calls * SLICE);
        assert_int_equal(presence_wait(&t.table, t.now.mono), 0);
    }
    assert_int_equal(calls, CALLS);
    assert_int_equal(t.table.cached, 0);
    presence_clear_transitions(&t.table);
    for (calls = 1; !presence_collect(&t.table, t.now, false, SLICE, &batch); calls++)
        assert_int_equal(batch.users, calls * SLICE);
    assert_int_equal(calls, CALLS);
    assert_int_equal(batch.users, USERS);
    assert_int_equal(batch.sessions, USERS);
    for (calls = 1; !presence_committed(&t.table, t.now, SLICE); calls++) {
        size_t left = 0;
        struct presence_walk walk = {0};
        while (presence_walk_next(&t.table, &walk)) left++;
        assert_int_equal(left, USERS - calls * SLICE);
    }
    assert_int_equal(calls, CALLS);
    assert_int_equal(t.table.directory.count, 0);
    buffer_free(&batch.ops);
    presence_free(&t.table);
}

/* Who changes while a batch is being filled is in it as they are when it is whole. */
static void table_collects_the_latest(void **unused)
{
    (void)unused;
    struct bench_table t;
    struct store_batch batch = {0};
    table_begin(&t);
    presence_connect(&t.table, t.now, ALICE, &t.a);
    presence_connect(&t.table, t.now, (struct span){"bob", 3}, &t.b);
    assert_false(presence_collect(&t.table, t.now, false, 1, &batch));
    presence_disconnect(&t.table, t.now, &t.a, END_CLEAN);
    presence_disconnect(&t.table, t.now, &t.b, END_CLEAN);
    while (!presence_collect(&t.table, t.now, false, 1, &batch)) continue;
    assert_int_equal(batch.sessions, 2);
    bool open[2] = {true, true};
    for (size_t at = 0; at < batch.ops.len;) {
        struct store_op op;
        memcpy(&op, batch.ops.at + at, sizeof op);
        at += sizeof op;
        if (op.kind == STORE_USER) open[batch.ops.at[at] == 'b'] = op.as.user.open;
        at += op.id_len;
    }
    assert_false(open[0] || open[1]);
    presence_committed(&t.table, t.now, SIZE_MAX);
    buffer_free(&batch.ops);
    presence_free(&t.table);
}

/* Stays of less than a millisecond, written between two of them: every stay begins later than the
 * one before, also when the table could have forgotten the user. */
static void table_fast_stays_stay_in_order(void **unused)
{
    (void)unused;
    struct bench_table t;
    struct store_batch batch = {0};
    table_begin(&t);
    int64_t before = -1;
    for (int i = 0; i < 10; i++) {
        presence_connect(&t.table, t.now, ALICE, &t.a);
        int64_t since = t.a.user->online_since;
        assert_true(since > before);
        before = since;
        presence_disconnect(&t.table, t.now, &t.a, END_CLEAN);
        presence_collect(&t.table, t.now, true, SIZE_MAX, &batch);
        presence_committed(&t.table, t.now, SIZE_MAX);
        buffer_free(&batch.ops);
        presence_clear_transitions(&t.table);
    }
    t.now.mono += 10; /* the clock has caught up */
    presence_collect(&t.table, t.now, true, SIZE_MAX, &batch);
    presence_committed(&t.table, t.now, SIZE_MAX);
    buffer_free(&batch.ops);
    assert_null(presence_find(&t.table, ALICE));
    /* But nobody waits for hours, written again and again, for a clock that was set back. */
    presence_connect(&t.table, t.now, ALICE, &t.a);
    presence_disconnect(&t.table, t.now, &t.a, END_CLEAN);
    presence_clear_transitions(&t.table);
    t.now.mono -= 7200000;
    presence_collect(&t.table, t.now, true, SIZE_MAX, &batch);
    presence_committed(&t.table, t.now, SIZE_MAX);
    buffer_free(&batch.ops);
    assert_false(presence_is_dirty(&t.table));
    assert_null(presence_find(&t.table, ALICE));
    presence_free(&t.table);
}

/* A message has at most 140 characters, none of them a control character. */
static void note_rules(void **unused)
{
    (void)unused;
    char text[STATUS_TEXT_MAX + 4];
    assert_true(status_text_valid((struct span){"", 0}));
    for (int i = 0; i < STATUS_TEXT_CHARACTERS + 1; i++)
        memcpy(text + 4 * i, "\xf0\x9f\x98\x80", 4);
    assert_true(status_text_valid((struct span){text, STATUS_TEXT_MAX}));
    assert_false(status_text_valid((struct span){text, STATUS_TEXT_MAX + 4}));
    assert_false(status_text_valid((struct span){text, STATUS_TEXT_MAX - 1}));
    static const char *const bad[] = {"a\nb", "\x7f", "\xc2\x85", "\xff", "\xed\xa0\x80", "\t"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(status_text_valid((struct span){bad[i], strlen(bad[i])}));
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
    presence_tick(&p, now, SIZE_MAX);
    assert_int_equal(user->status, STATUS_BUSY);
    now.mono += 200;
    presence_tick(&p, now, SIZE_MAX);
    assert_int_equal(user->status, STATUS_BUSY); /* of b, again */
    assert_null(user_manual(user));
    assert_int_equal(p.transition_count, 1);
    presence_free(&p);
}

/* Writes all that is dirty, as far as the table knows. */
static void commit_all(struct presence *p, struct instant now)
{
    struct store_batch batch = {0};
    presence_collect(p, now, true, SIZE_MAX, &batch);
    presence_committed(p, now, SIZE_MAX);
    presence_clear_transitions(p);
    buffer_free(&batch.ops);
}

/* Who set something by hand stays in the table for as long as that lasts, offline too: nobody
 * has to ask the store for it. */
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
    presence_tick(&p, now, SIZE_MAX);
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

/* A hidden last_seen that the store has from a clock that was ahead is not shown as to come:
 * neither of one who was online, nor of one who was not. */
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

static const struct CMUnitTest RULES_TESTS[] = {
    cmocka_unit_test(silence_keeps_its_bound),
    cmocka_unit_test(table_equals_model),
    cmocka_unit_test(table_late_end_of_old_socket),
    cmocka_unit_test(table_reload_within_grace),
    cmocka_unit_test(table_tells_stays_apart),
    cmocka_unit_test(table_stop_keeps_stays),
    cmocka_unit_test(table_most_available_wins),
    cmocka_unit_test(table_stepped_clock),
    cmocka_unit_test(table_restores_future_stamp),
    cmocka_unit_test(table_heartbeat_shortens_no_grace),
    cmocka_unit_test(table_crash_loop_keeps_no_ghost),
    cmocka_unit_test(table_crash_loop_keeps_who_comes_back),
    cmocka_unit_test(sessions_beyond_the_most_are_counted),
    cmocka_unit_test(everybody_may_end_at_once),
    cmocka_unit_test(table_heartbeats_are_coalesced),
    cmocka_unit_test(table_works_in_slices),
    cmocka_unit_test(table_collects_the_latest),
    cmocka_unit_test(table_fast_stays_stay_in_order),
    cmocka_unit_test(note_rules),
    cmocka_unit_test(manual_goes_before_connections),
    cmocka_unit_test(manual_keeps_its_user),
    cmocka_unit_test(manual_hidden_is_never_to_come),
};
