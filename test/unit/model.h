/* A naive model of the presence table, and a table to begin with: for the rules and the events. */
#ifndef UNIT_MODEL_H
#define UNIT_MODEL_H

#include "unit.h"

enum { MODEL_USERS = 24, MODEL_LINKS = 4, MODEL_SIGN = 4000, MODEL_SILENCE = 48000 };

/* What a user should be, kept the naive way. Times are mono; wall ones add the model's offset. */
struct model_user {
    enum user_state state;
    int status, conns;
    int link_status[MODEL_LINKS];
    int64_t since, seen, until, heartbeat_until;
    enum reason reason; /* of the end to come while cached, of the last end after it */
    bool known;
    int joins, leaves, changes; /* transitions in this step */
    bool stored, stored_open;   /* what the store was told and has committed */
    int64_t stored_seen, stored_since;
    int stored_status;
    int sessions, sessions_stored;
    int64_t session_to; /* wall, of the last one */
    enum reason session_reason;
};

struct model {
    struct model_user users[MODEL_USERS];
    struct presence table;
    struct session_conn conns[MODEL_USERS][MODEL_LINKS];
    struct store_batch batch;
    bool in_flight, filling; /* the batch is whole; it is not */
    struct instant now;
    int64_t grace, threshold;
    int64_t alive;    /* wall: when the store was last written */
    int64_t judge_at; /* mono: nobody is judged before it */
    uint64_t seed;
    size_t restarts, leaves, pauses, spared, kept, filled;
};

/* The id of a user; lengths and bytes vary. */
static struct span model_id(int user)
{
    static char ids[MODEL_USERS][USER_ID_MAX];
    size_t len = 1 + (size_t)user * (USER_ID_MAX - 1) / (MODEL_USERS - 1);
    memset(ids[user], 'a' + user, len);
    return (struct span){ids[user], len};
}

/* The model's end of a stay. */
static void model_leave(struct model *m, struct model_user *u, enum reason reason)
{
    u->state = USER_OFFLINE;
    u->status = STATUS_OFFLINE;
    u->reason = u->session_reason = reason;
    u->heartbeat_until = 0;
    u->leaves++;
    u->sessions++;
    u->session_to = (u->seen > u->since ? u->seen : u->since) + m->now.offset;
    m->leaves++;
}

/* The most available status of a user's connections. */
static int model_merged(const struct model_user *u)
{
    int best = STATUS_AWAY;
    for (int i = 0; i < u->conns; i++)
        if (u->link_status[i] < best) best = u->link_status[i];
    return best;
}

/* The model's way to a state with a status. */
static void model_enter(struct model *m, struct model_user *u, enum user_state state, int status)
{
    if (u->state == USER_OFFLINE) {
        bool there = presence_find(&m->table, model_id((int)(u - m->users))) != NULL;
        u->since = there && u->since >= m->now.mono ? u->since + 1 : m->now.mono;
        u->joins++;
    } else if (u->status != status) {
        u->changes++;
    }
    u->known = true;
    u->state = state;
    u->status = status;
}

/* Step: a connection opens. */
static void model_connect(struct model *m, int i)
{
    struct model_user *u = &m->users[i];
    if (u->conns == MODEL_LINKS) return;
    struct session_conn *conn = &m->conns[i][u->conns];
    *conn = (struct session_conn){.status = STATUS_ONLINE};
    u->link_status[u->conns++] = STATUS_ONLINE;
    u->seen = m->now.mono;
    model_enter(m, u, USER_LIVE, model_merged(u));
    presence_connect(&m->table, m->now, model_id(i), conn);
}

/* Step: a connection ends in one of all ways. */
static void model_disconnect(struct model *m, int i, enum ending ending)
{
    struct model_user *u = &m->users[i];
    if (!u->conns) return;
    int64_t now = m->now.mono;
    u->conns--; /* the newest; the table keeps no order among them */
    presence_disconnect(&m->table, m->now, &m->conns[i][u->conns], ending);
    if (u->conns && ending == END_STOP) return; /* the others end too, and she stays as she was */
    if (u->conns) {
        int status = model_merged(u);
        u->changes += status != u->status;
        u->status = status;
        return;
    }
    enum reason reason = REASON_CLOSED;
    int64_t until = now;
    bool final = false;
    switch (ending) {
    case END_CLEAN: final = true; break;
    case END_AWAY: until = now + m->grace; break;
    case END_DROPPED:
        reason = REASON_DROPPED;
        until = now + m->grace;
        break;
    case END_TIMEOUT: reason = REASON_TIMEOUT; break;
    case END_KICKED:
        reason = REASON_KICKED;
        final = true;
        break;
    case END_EXPIRED:
        reason = REASON_EXPIRED;
        final = true;
        break;
    case END_STOP:
        reason = REASON_RESTART;
        until = now + m->threshold;
        break;
    }
    if (!final && u->heartbeat_until > until) {
        until = u->heartbeat_until;
        reason = REASON_TIMEOUT;
    }
    if (until == now) {
        model_leave(m, u, reason);
        return;
    }
    u->state = USER_CACHED;
    u->until = until;
    u->reason = reason;
}

/* Step: something is heard on a connection. */
static void model_heard(struct model *m, int i)
{
    struct model_user *u = &m->users[i];
    if (!u->conns) return;
    u->seen = m->now.mono;
    presence_heard(&m->table, m->now, m->conns[i][0].user);
}

/* Step: a connection says a status. */
static void model_status(struct model *m, int i)
{
    struct model_user *u = &m->users[i];
    if (!u->conns) return;
    int k = (int)below64(&m->seed, (size_t)u->conns), status = (int)below64(&m->seed, 3);
    u->link_status[k] = status;
    model_enter(m, u, USER_LIVE, model_merged(u));
    presence_set_status(&m->table, m->now, &m->conns[i][k], (enum status)status);
}

/* Step: an HTTP heartbeat. */
static void model_heartbeat(struct model *m, int i)
{
    static const uint8_t address[16] = {1};
    struct model_user *u = &m->users[i];
    u->seen = m->now.mono;
    u->heartbeat_until = m->now.mono + m->threshold;
    bool grace = u->state == USER_CACHED && u->reason != REASON_RESTART;
    if (u->state == USER_OFFLINE) model_enter(m, u, USER_CACHED, STATUS_ONLINE);
    if (u->state == USER_CACHED && !(grace && u->until > u->heartbeat_until)) {
        u->until = u->heartbeat_until;
        u->reason = REASON_TIMEOUT;
    }
    presence_heartbeat(&m->table, m->now, model_id(i), address);
}

/* Step: whose time is over leaves, unless what waits in sockets was not read yet. */
static void model_tick(struct model *m)
{
    for (int i = 0; i < MODEL_USERS && m->now.mono >= m->judge_at; i++) {
        struct model_user *u = &m->users[i];
        if (u->state == USER_CACHED && u->until <= m->now.mono) model_leave(m, u, u->reason);
    }
    while (!presence_tick(&m->table, m->now, 1 + below64(&m->seed, 3))) continue;
}

/* Step: time goes on, by a little or by a lot. */
static void model_advance(struct model *m)
{
    m->now.mono += 16 * (int64_t)below64(&m->seed, below64(&m->seed, 10) ? 40 : 9000);
    model_tick(m);
}

/* The store takes what is in flight: every piece of the batch is read back into the model. */
static void model_commit(struct model *m)
{
    if (!m->in_flight) return;
    m->in_flight = m->filling = false;
    for (size_t at = 0; at < m->batch.ops.len;) {
        struct store_op op;
        memcpy(&op, m->batch.ops.at + at, sizeof op);
        at += sizeof op;
        struct model_user *u = &m->users[m->batch.ops.at[at] - 'a'];
        assert_int_equal(op.id_len, model_id((int)(u - m->users)).len);
        at += op.id_len;
        if (op.kind == STORE_SESSION) {
            u->sessions_stored++;
            assert_true(op.as.session.from <= op.as.session.to);
            if (u->sessions_stored == u->sessions) { /* the last one so far */
                assert_int_equal(op.as.session.to, u->session_to);
                assert_int_equal(op.as.session.reason, u->session_reason);
            }
            continue;
        }
        u->stored = true;
        u->stored_open = op.as.user.open;
        u->stored_seen = op.as.user.last_seen;
        u->stored_since = op.as.user.online_since;
        u->stored_status = op.as.user.status;
    }
    m->alive = m->now.mono + m->now.offset;
    while (!presence_committed(&m->table, m->now, 1 + below64(&m->seed, 3))) continue;
    buffer_free(&m->batch.ops);
}

/* Step: what is dirty goes into a batch, perhaps not all of it yet. */
static void model_collect(struct model *m, bool all)
{
    if (m->in_flight) return;
    size_t most = all ? SIZE_MAX : below64(&m->seed, 4);
    m->in_flight = presence_collect(&m->table, m->now, all, most, &m->batch);
    m->filled += m->filling && m->in_flight;
    m->filling = !m->in_flight;
}

/* Another grace and threshold, each the longer one at times. */
static void model_rules(struct model *m)
{
    static const int64_t graces[] = {0, 992, 4992, 59984}, thresholds[] = {1008, 9008, 89984};
    m->grace = graces[below64(&m->seed, sizeof graces / sizeof *graces)];
    m->threshold = thresholds[below64(&m->seed, sizeof thresholds / sizeof *thresholds)];
    presence_init(&m->table, m->grace, m->threshold, m->now);
    m->judge_at = 0;
}

/* Compares everything. */
static void model_check(struct model *m)
{
    size_t live = 0, cached = 0, conns = 0;
    int joins[MODEL_USERS] = {0}, leaves[MODEL_USERS] = {0}, changes[MODEL_USERS] = {0};
    int others[MODEL_USERS] = {0};
    uint64_t sequence = m->table.sequence - m->table.transition_count;
    for (size_t i = 0; i < m->table.transition_count; i++) {
        const struct transition *t = &m->table.transitions[i];
        assert_int_equal(t->sequence, ++sequence);
        int *kinds[] = {joins, leaves, changes, others};
        kinds[t->kind][t->user->id[0] - 'a']++; /* connections: see events_tell_everything */
    }
    for (int i = 0; i < MODEL_USERS; i++) {
        struct model_user *u = &m->users[i];
        const struct user *user = presence_find(&m->table, model_id(i));
        assert_int_equal(joins[i], u->joins);
        assert_int_equal(leaves[i], u->leaves);
        assert_int_equal(changes[i], u->changes);
        u->joins = u->leaves = u->changes = 0;
        live += u->state == USER_LIVE;
        cached += u->state == USER_CACHED;
        conns += (size_t)u->conns;
        if (!user) { /* then the store must know the whole truth */
            assert_int_equal(u->state, USER_OFFLINE);
            assert_true(!u->known || (u->stored && !u->stored_open));
            continue;
        }
        assert_int_equal(user->state, u->state);
        assert_true(u->state != USER_OFFLINE || user->dirty != DIRTY_NONE); /* else it had to go */
        assert_int_equal(user->status, u->status);
        assert_int_equal(user->connections, u->conns);
        assert_int_equal(user->last_seen, u->seen);
        assert_true(user->last_seen <= m->now.mono);
        if (u->state != USER_OFFLINE) assert_int_equal(user->online_since, u->since);
        if (u->state == USER_CACHED)
            assert_int_equal(user->timer.due, timer_tick(u->until - m->table.stood_still));
    }
    assert_int_equal(m->table.live, live);
    assert_int_equal(m->table.cached, cached);
    assert_int_equal(m->table.connections, conns);
    presence_clear_transitions(&m->table);
}

/* A table with grace 3 s and threshold 90 s at mono 1,000,000. */
struct bench_table {
    struct presence table;
    struct instant now;
    struct session_conn a, b, c;
};

/* Sets one up. */
static void table_begin(struct bench_table *t)
{
    *t = (struct bench_table){.now = {1000000, 1764000000000}};
    presence_init(&t->table, 3000, 90000, t->now);
}

static const struct span ALICE = {"alice", 5};

#endif
