/* Unit tests of timers, presence table, HTTP messages, options and the log. The table is held
 * against a naive model: random steps, everything compared after each of them. */

/* A small generator, the same numbers in every run. */
static uint64_t core_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A number from 0 to n - 1. */
static size_t core_below(uint64_t *state, size_t n)
{
    return core_random(state) % n;
}

/* ---- Timers ---------------------------------------------------------------------------------- */

/* Every timer fires once, not before it is due and at most a tick after, whatever the steps. */
static void timers_fire_in_time(void **unused)
{
    (void)unused;
    enum { COUNT = 300, TICK = 1 << WHEEL_TICK_SHIFT };
    static const int64_t horizons[] = {100, 5000, 300000, 20000000, INT64_C(20000000000)};
    struct wheel wheel;
    struct timer timers[COUNT] = {0};
    int64_t due[COUNT] = {0}, hoped[COUNT] = {0}, now = 1000003;
    uint64_t seed = 42;
    size_t fired = 0, armed = 0;
    wheel_init(&wheel, now);
    for (int step = 0; step < 200000; step++) {
        size_t i = core_below(&seed, COUNT);
        int64_t horizon = horizons[core_below(&seed, 5)];
        if (core_below(&seed, 4) == 0) {
            if (due[i]) armed--;
            timer_disarm(&wheel, &timers[i]);
            due[i] = 0;
        } else {
            if (!due[i]) armed++;
            due[i] = now + (int64_t)core_below(&seed, (size_t)horizon) - horizon / 50;
            if (due[i] < 1) due[i] = 1;
            timer_arm(&wheel, &timers[i], due[i]);
            hoped[i] = due[i] > now ? due[i] : now; /* armed for the past: at once */
        }
        int64_t wait = wheel_wait(&wheel, now), first = INT64_MAX;
        for (int k = 0; k < COUNT; k++)
            if (due[k] && due[k] < first) first = due[k];
        assert_int_equal(wheel.armed, armed);
        if (!armed) assert_int_equal(wait, -1);
        else assert_true(wait >= 0 && now + wait <= (first > now ? first : now) + TICK);
        int64_t before = now;
        now += core_below(&seed, 2000) ? (int64_t)core_below(&seed, 200)
                                       : (int64_t)core_below(&seed, 40000000);
        for (struct timer *timer; (timer = wheel_pop(&wheel, now));) {
            size_t k = (size_t)(timer - timers);
            assert_true(due[k] && due[k] <= now);
            assert_true(hoped[k] + TICK > before);
            due[k] = 0;
            armed--;
            fired++;
        }
        for (int k = 0; k < COUNT; k++) assert_true(!due[k] || due[k] + TICK > now);
    }
    assert_true(fired > 5000);
    while (wheel_take(&wheel)) armed--;
    assert_int_equal(armed, 0);
}

/* ---- Directory ------------------------------------------------------------------------------- */

/* Users stay in byte order, each once, through random insertions and removals. */
static void directory_keeps_order(void **unused)
{
    (void)unused;
    enum { COUNT = 3000 };
    struct directory d = {0};
    struct user *users[COUNT];
    bool in[COUNT] = {0};
    size_t count = 0;
    uint64_t seed = 7;
    for (int i = 0; i < COUNT; i++) {
        char id[16];
        int len = snprintf(id, sizeof id, "%c%d", "aZ\xc3"[i % 3], i * 7919 % 100003);
        users[i] = mem_new(sizeof **users + (size_t)len);
        memcpy(users[i]->id, id, (size_t)len);
        users[i]->id_len = (uint8_t)len;
    }
    for (int step = 0; step < 60000; step++) {
        bool grow = step % 20000 < 12000;
        size_t i = core_below(&seed, COUNT);
        if (!in[i] && (grow || core_below(&seed, 3) == 0)) directory_insert(&d, users[i]);
        else if (in[i] && (!grow || core_below(&seed, 3) == 0)) directory_remove(&d, users[i]);
        else continue;
        in[i] = !in[i];
        count += in[i] ? 1 : (size_t)-1;
        if (step % 97) continue;
        size_t seen = 0;
        const struct user *last = NULL;
        for (size_t r = 0; r < d.count; r++) {
            assert_true(d.runs[r]->count > 0 && d.runs[r]->count <= RUN_MAX);
            for (size_t k = 0; k < d.runs[r]->count; k++, seen++) {
                const struct user *user = d.runs[r]->users[k];
                if (last) assert_true(bytes_compare(last->id, last->id_len, user->id, user->id_len) < 0);
                last = user;
            }
        }
        assert_int_equal(seen, count);
        for (int k = 0; k < COUNT; k += 13) {
            size_t run, at;
            assert_int_equal(directory_seek(&d, (struct span){users[k]->id, users[k]->id_len}, &run, &at),
                             in[k]);
        }
    }
    for (int i = 0; i < COUNT; i++) {
        if (in[i]) directory_remove(&d, users[i]);
        free(users[i]);
    }
    assert_int_equal(d.count, 0);
    free(d.runs);
}

/* Ids that come in order fill their runs: memory for a user is one pointer, not two. */
static void directory_fills_runs_in_order(void **unused)
{
    (void)unused;
    struct directory d = {0};
    enum { COUNT = RUN_MAX * 40 };
    for (int i = 0; i < COUNT; i++) {
        struct user *user = mem_new(sizeof *user + 9); /* snprintf adds a NUL */
        user->id_len = (uint8_t)snprintf(user->id, 9, "%08d", i);
        directory_insert(&d, user);
    }
    assert_int_equal(d.count, 40);
    for (size_t r = 0; r < d.count; r++) {
        for (size_t k = 0; k < d.runs[r]->count; k++) free(d.runs[r]->users[k]);
        free(d.runs[r]);
    }
    free(d.runs);
}

/* Peers with random intervals and timeouts, who answer pings sooner or later, say something by
 * themselves, and die: no ping before the interval or more than a tick after it, nobody is dropped who
 * answered in time, and who is dead is dropped within interval + timeout of the last byte. */
static void silence_keeps_its_bound(void **unused)
{
    (void)unused;
    enum { TICK = 1 << WHEEL_TICK_SHIFT };
    uint64_t seed = 20261129;
    size_t dropped = 0, pings = 0, longer = 0;
    for (int peer = 0; peer < 4000; peer++) {
        int64_t interval = 100 + (int64_t)core_below(&seed, core_below(&seed, 2) ? 400 : 40000);
        int64_t timeout = 100 + (int64_t)core_below(&seed, core_below(&seed, 2) ? 400 : 40000);
        int64_t start = (int64_t)core_below(&seed, 3) * (INT64_C(1) << 32) - 50000; /* around 2^32 */
        if (start < 0) start = 1000000;
        int64_t heard = start, death = start + (int64_t)core_below(&seed, 400000), next = INT64_MAX;
        int64_t timer = heard + interval, ping_at = 0;
        uint32_t pinged = 0;
        longer += timeout > interval;
        for (bool over = false; !over;) {
            int64_t now = (timer + TICK - 1) / TICK * TICK; /* as the wheel fires */
            if (next <= now) { /* a byte arrives before that */
                heard = next;
                ping_at = 0;
                next = core_below(&seed, 8) ? INT64_MAX
                                            : heard + 1 + (int64_t)core_below(&seed, (size_t)interval);
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
                next = now + (int64_t)core_below(&seed, (size_t)timeout); /* within the same ms, too */
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

/* ---- Presence table against a model ---------------------------------------------------------- */

enum { MODEL_USERS = 24, MODEL_LINKS = 4, MODEL_SIGN = 4000, MODEL_SILENCE = 48000 };

/* What a user should be, kept the naive way. Times are mono; wall ones add the model's offset. */
struct model_user {
    enum user_state state;
    int status, conns;
    int link_status[MODEL_LINKS];
    int64_t since, seen, until, heartbeat_until;
    enum reason reason;            /* of the end to come while cached, of the last end after it */
    bool known;
    int joins, leaves, changes;    /* transitions in this step */
    bool stored, stored_open;      /* what the store was told and has committed */
    int64_t stored_seen, stored_since;
    int stored_status;
    int sessions, sessions_stored;
    int64_t session_to;            /* wall, of the last one */
    enum reason session_reason;
};

struct model {
    struct model_user users[MODEL_USERS];
    struct presence table;
    struct session_conn conns[MODEL_USERS][MODEL_LINKS];
    struct store_batch batch;
    bool in_flight;
    struct instant now;
    int64_t grace, threshold;
    int64_t alive;                 /* wall: when the store was last written */
    int64_t judge_at;              /* mono: nobody is judged before it */
    uint64_t seed;
    size_t restarts, leaves, pauses, spared, kept;
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
    case END_DROPPED: reason = REASON_DROPPED; until = now + m->grace; break;
    case END_TIMEOUT: reason = REASON_TIMEOUT; break;
    case END_KICKED: reason = REASON_KICKED; final = true; break;
    case END_EXPIRED: reason = REASON_EXPIRED; final = true; break;
    case END_STOP: reason = REASON_RESTART; until = now + m->threshold; break;
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
    int k = (int)core_below(&m->seed, (size_t)u->conns), status = (int)core_below(&m->seed, 3);
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
    presence_tick(&m->table, m->now);
}

/* Step: time goes on, by a little or by a lot. */
static void model_advance(struct model *m)
{
    m->now.mono += 16 * (int64_t)core_below(&m->seed, core_below(&m->seed, 10) ? 40 : 9000);
    model_tick(m);
}

/* Step: the process stands still, and what some sent meanwhile waits. Who had time left when it
 * stopped has as much when it goes on, and at least what it takes to read that. */
static void model_pause(struct model *m)
{
    int64_t gap = 16 * (1 + (int64_t)core_below(&m->seed, core_below(&m->seed, 4) ? 1000 : 20000));
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

/* The store takes what is in flight: every piece of the batch is read back into the model. */
static void model_commit(struct model *m)
{
    if (!m->in_flight) return;
    m->in_flight = false;
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
    presence_committed(&m->table, m->now);
    buffer_free(&m->batch.ops);
}

/* Step: what is owed goes into a batch. */
static void model_collect(struct model *m, bool all)
{
    if (m->in_flight) return;
    presence_collect(&m->table, m->now, all, &m->batch);
    m->in_flight = true;
}

/* Another grace and threshold, each the longer one at times. */
static void model_rules(struct model *m)
{
    static const int64_t graces[] = {0, 992, 4992, 59984}, thresholds[] = {1008, 9008, 89984};
    m->grace = graces[core_below(&m->seed, sizeof graces / sizeof *graces)];
    m->threshold = thresholds[core_below(&m->seed, sizeof thresholds / sizeof *thresholds)];
    presence_init(&m->table, m->grace, m->threshold, m->now);
    m->judge_at = 0;
}

/* The model's end of the stay of one who was online as the store says, of a server that was killed
 * at this moment or stopped. */
static int64_t model_evidence(struct model *m, const struct model_user *u, bool clean, int64_t killed,
                              bool was_online)
{
    int64_t wall = m->now.mono + m->now.offset, alive = m->alive + (clean ? 0 : MODEL_SIGN);
    int64_t seen = u->stored_seen < wall ? u->stored_seen : wall;
    int64_t there = seen + MODEL_SILENCE < alive ? seen + MODEL_SILENCE : alive;
    if (there > wall) there = wall;
    if (there < seen) there = seen;
    /* Whatever the rule: who was there at the end has the whole threshold from then on, if the store
     * was written as often as the server promises; and there are no ghosts. */
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
    m->in_flight = false;
    presence_free(&m->table);
    int64_t killed = m->now.mono + m->now.offset;
    m->now.mono += 16 * (int64_t)core_below(&m->seed, 8000);
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

/* 150,000 random steps; see the cases P01, P03, P04, P06, P13, P14 and P15. */
static void table_equals_model(void **unused)
{
    (void)unused;
    static struct model m;
    m = (struct model){.seed = 20261125, .now = {1000000, 1764000000000}};
    model_rules(&m);
    for (int step = 0; step < 150000; step++) {
        int user = (int)core_below(&m.seed, MODEL_USERS);
        switch (core_below(&m.seed, 25)) {
        case 0: case 1: case 2: case 3: case 4: model_connect(&m, user); break;
        case 5: case 6: case 7: case 8:
            model_disconnect(&m, user, (enum ending)core_below(&m.seed, END_STOP));
            break;
        case 9: case 10: case 11: model_heard(&m, user); break;
        case 12: case 13: model_status(&m, user); break;
        case 14: model_heartbeat(&m, user); break;
        case 15: case 16: case 17: case 18: model_advance(&m); break;
        case 24: if (!core_below(&m.seed, 4)) model_pause(&m); break;
        case 19: model_collect(&m, core_below(&m.seed, 2)); break;
        case 20: case 21: model_commit(&m); break;
        case 22: /* UTC is stepped, by hours, either way */
            if (!core_below(&m.seed, 20))
                m.now.offset += 3600000 * ((int64_t)core_below(&m.seed, 25) - 12);
            break;
        default:
            if (!core_below(&m.seed, 20)) model_restart(&m, core_below(&m.seed, 2));
            break;
        }
        model_check(&m);
    }
    assert_true(m.restarts > 100 && m.leaves > 5000);
    assert_true(m.pauses > 1000 && m.spared > 500 && m.kept > 500);
    while (m.table.live) {
        for (int i = 0; i < MODEL_USERS; i++) model_disconnect(&m, i, END_CLEAN);
    }
    buffer_free(&m.batch.ops);
    presence_free(&m.table);
}

/* ---- Presence table, case by case ------------------------------------------------------------ */

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

/* Lets time pass; how many joins, leaves and changes of a status came since the last call, and clears
 * all transitions. */
static size_t table_pass(struct bench_table *t, int64_t ms)
{
    t->now.mono += ms;
    presence_tick(&t->table, t->now);
    size_t count = 0;
    for (size_t i = 0; i < t->table.transition_count; i++)
        count += t->table.transitions[i].kind != TRANSITION_CONNECTIONS;
    presence_clear_transitions(&t->table);
    return count;
}

static const struct span ALICE = {"alice", 5};

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

/* A broken connection and then a heartbeat: the later of the two ends counts, and gives the reason. */
static void table_heartbeat_shortens_no_grace(void **unused)
{
    (void)unused;
    static const struct {
        int64_t grace, threshold, end;
        enum reason reason;
    } rows[] = {{6000, 1000, 6000, REASON_DROPPED}, {1000, 6000, 6304, REASON_TIMEOUT},
                {1304, 1000, 1304, REASON_TIMEOUT}, {0, 1000, 1304, REASON_TIMEOUT}};
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

/* A heartbeat over a connection allocates nothing and makes the store owe one write in 15 s. */
static void table_heartbeats_are_coalesced(void **unused)
{
    (void)unused;
    struct bench_table t;
    struct store_batch batch = {0};
    table_begin(&t);
    presence_connect(&t.table, t.now, ALICE, &t.a);
    presence_collect(&t.table, t.now, true, &batch);
    presence_committed(&t.table, t.now);
    size_t written = 0;
    for (int second = 0; second < 60; second++) {
        buffer_free(&batch.ops);
        t.now.mono += 1000;
        presence_heard(&t.table, t.now, t.a.user);
        presence_collect(&t.table, t.now, false, &batch);
        written += batch.users;
        presence_committed(&t.table, t.now);
    }
    assert_in_range(written, 3, 5);
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
        presence_collect(&t.table, t.now, true, &batch);
        presence_committed(&t.table, t.now);
        buffer_free(&batch.ops);
        presence_clear_transitions(&t.table);
    }
    t.now.mono += 10; /* the clock has caught up */
    presence_collect(&t.table, t.now, true, &batch);
    presence_committed(&t.table, t.now);
    buffer_free(&batch.ops);
    assert_null(presence_find(&t.table, ALICE));
    presence_free(&t.table);
}

/* ---- HTTP messages --------------------------------------------------------------------------- */

/* Where requests end, and what is refused before CivetWeb sees it. */
static void http_frames_are_read(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        size_t head, body;
        enum error error;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27, 0, ERROR_NONE},
        {"GET / HTTP/1.1\r\nHost: a\r\n\r", 0, 0, ERROR_NONE},
        {"GET / HTTP/1.1\nHost: a\n\n", 24, 0, ERROR_NONE},
        {"GET / HTTP/1.1\nHost: a\n\r\n", 0, 0, ERROR_NONE}, /* CivetWeb does not take it */
        {"POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\n", 39, 12, ERROR_NONE},
        {"POST / HTTP/1.1\r\ncontent-length:12\r\n\r\n", 38, 12, ERROR_NONE},
        {"POST / HTTP/1.1\r\nContent-Length: +12\r\n\r\n", 40, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 39, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", 36, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: 1 1\r\n\r\n", 40, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 57, 1,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 41, 0, ERROR_BODY_TOO_LARGE},
        {"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 57, 0,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 47, 0, ERROR_NONE},
        {"POST / HTTP/1.1\r\ntransfer-encoding:\tCHUNKED \r\n\r\n", 48, 0, ERROR_NONE},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 47, 0, ERROR_LENGTH_REQUIRED},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 53, 0,
         ERROR_NOT_IMPLEMENTED},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: ,chunked\r\n\r\n", 48, 0, ERROR_NOT_IMPLEMENTED},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 53, 0,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked,\r\n\r\n", 48, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", 51, 0,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 48, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", 48, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", 39, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n", 48, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", 49, 0,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 75,
         0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", 66, 0,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 66, 4,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nExpect: foo\r\n\r\n", 32, 0, ERROR_EXPECTATION_FAILED},
        {"GET / HTTP/1.1\r\nA: b\r\n c: d\r\n\r\n", 31, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA: b\x01\r\n\r\n", 25, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA: b\x7f\r\n\r\n", 25, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA:\tb\r\n\r\n", 24, 0, ERROR_NONE}, /* W03 */
        {"GET / HTTP/1.1\rA: b\r\n\r\n", 23, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", 29, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA: b\r\r\n\r\n", 25, 0, ERROR_INVALID_REQUEST},
        {"\n\n", 2, 0, ERROR_NONE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t len = strlen(rows[i].text);
        char *text = malloc(len);
        for (size_t scanned = 0; scanned <= len; scanned += scanned ? 1 : len > 2 ? 2 : 3) {
            if (http_head_end(rows[i].text, scanned, 0)) break; /* only what was there without an end */
            memcpy(text, rows[i].text, len); /* it is changed where it is read */
            struct http_frame frame = http_frame_read(text, len, scanned, 200, 1000);
            if (frame.head != rows[i].head || frame.body != rows[i].body || frame.error != rows[i].error)
                fail_msg("row %zu, scanned %zu: %zu %zu %s", i, scanned, frame.head, frame.body,
                         ERRORS[frame.error].code);
        }
        assert_null(memchr(text, '\t', len) && rows[i].head ? text : NULL);
        free(text);
    }
}

enum { CHUNKS_BODY = 40, CHUNKS_BESIDE = 30 };

/* What a body in chunks is read as. */
struct chunks_read {
    enum error error;
    bool done;
    char text[512]; /* the body and, behind a |, what was sent after it */
};

/* Reads a body in chunks that comes in pieces of so many bytes, the first of `cut`. */
static struct chunks_read read_chunks(struct span text, size_t cut, size_t piece)
{
    struct chunks_read result = {0};
    struct http_chunks chunks = {0};
    char *at = malloc(text.len + 1);
    size_t len = 0, given = 0;
    for (size_t n = cut; given < text.len && chunks.state != CHUNK_DONE && !result.error;
         n = piece) {
        if (n > text.len - given) n = text.len - given;
        memcpy(at + len, text.at + given, n);
        given += n;
        len += n;
        result.error = http_chunks_read(&chunks, at, &len, CHUNKS_BODY, CHUNKS_BESIDE);
        if (!result.error && chunks.state != CHUNK_DONE) assert_int_equal(len, chunks.made);
    }
    result.done = chunks.state == CHUNK_DONE && !result.error;
    assert_true(chunks.made <= len && len <= text.len);
    if (result.done)
        snprintf(result.text, sizeof result.text, "%.*s|%.*s%.*s", (int)chunks.made, at,
                 (int)(len - chunks.made), at + chunks.made, (int)(text.len - given),
                 text.at + given);
    free(at);
    return result;
}

/* Bodies in chunks: what is read, what is refused (RFC 9112 section 7.1), and that it is the same
 * wherever the bytes are cut. */
static void http_chunks_are_read(void **unused)
{
    (void)unused;
    static const struct {
        const char *text, *body; /* NULL: not done yet */
        enum error error;
    } rows[] = {
        {"0\r\n\r\n", "|", ERROR_NONE},
        {"2\r\n{}\r\n0\r\n\r\n", "{}|", ERROR_NONE},
        {"2\r\n{}\r\n0\r\n\r\nGET /", "{}|GET /", ERROR_NONE},
        {"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n0\r\n\r\n", "{}|0\r\n\r\n", ERROR_NONE},
        {"a\r\n0123456789\r\n0\r\n\r\n", "0123456789|", ERROR_NONE},
        {"A\r\n0123456789\r\n00000\r\n\r\n", "0123456789|", ERROR_NONE},
        {"0000000000000002\r\n{}\r\n0000000000000000\r\n\r\n", "{}|", ERROR_NONE},
        {"2\r\n\r\n\r\n0\r\n\r\n", "\r\n|", ERROR_NONE},
        {"2;a=b\r\n{}\r\n0;c;d=\"e f\"\r\n\r\n", "{}|", ERROR_NONE},
        {"2 \t;a\r\n{}\r\n0\r\n\r\n", "{}|", ERROR_NONE},
        {"2; a = b ;c\r\n{}\r\n0\r\n\r\n", "{}|", ERROR_NONE},
        {"2;a=\"b\\\"; \\\\\" ; c=\"\"\r\n{}\r\n0\r\n\r\n", "{}|", ERROR_NONE},
        {"2;\r\n{}\r\n0;\r\n\r\n", "{}|", ERROR_NONE},
        {"2\r\n{}\r\n0\r\nA: b\r\nC:\r\n\r\nx", "{}|x", ERROR_NONE},
        {"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\nx", "{}|x", ERROR_NONE},
        {"28\r\n0123456789012345678901234567890123456789\r\n0\r\n\r\n",
         "0123456789012345678901234567890123456789|", ERROR_NONE},
        {"", NULL, ERROR_NONE},
        {"2\r\n{}\r\n0\r\n\r", NULL, ERROR_NONE},
        {"2\r\n{}\r\n0\r\nA: b\r\n", NULL, ERROR_NONE},
        {"2\r\n{}\r\n", NULL, ERROR_NONE},
        {"29\r\n", NULL, ERROR_BODY_TOO_LARGE},
        {"27\r\n012345678901234567890123456789012345678\r\n2\r\n", NULL, ERROR_BODY_TOO_LARGE},
        {"ffffffffffffffff\r\n", NULL, ERROR_BODY_TOO_LARGE},
        {"8000000000000002\r\n{}", NULL, ERROR_BODY_TOO_LARGE},
        {"10000000000000002\r\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"00000000000000002\r\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"\r\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {";a\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {" 2\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2 \r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"+2\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"-2\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"0x2\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2g\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2_0\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2;a\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2;a\x01\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"b\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"b\\\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"b\"c\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"b\x7f\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=b\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;\"a\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;;\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;=b\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a b\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a \r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=b \r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r\n{}\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r\n{}0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r\n{}}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3\r\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\n\n", NULL, ERROR_INVALID_REQUEST},
        {"0\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA : b\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\n b\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA: b\r\n c\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\n: b\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA: b\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA: b\x7f\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0;0123456789012345678901234567890\r\n\r\n", NULL, ERROR_HEAD_TOO_LARGE},
        {"0\r\nA: 012345678901234567890123456\r\n\r\n", NULL, ERROR_HEAD_TOO_LARGE},
        {"1;012345678901234567\r\n{\r\n1;012345678901234567\r\n", NULL, ERROR_HEAD_TOO_LARGE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct span text = {rows[i].text, strlen(rows[i].text)};
        for (size_t cut = 0; cut <= 2 * text.len; cut++) { /* two pieces, then bytes one by one */
            bool one_by_one = cut > text.len;
            struct chunks_read got = read_chunks(text, one_by_one ? cut - text.len : cut,
                                                 one_by_one ? 1 : text.len + 1);
            if (got.error != rows[i].error || got.done != !!rows[i].body ||
                strcmp(got.text, rows[i].body ? rows[i].body : ""))
                fail_msg("row %zu, cut %zu: %s %d '%s'", i, cut, ERRORS[got.error].code, got.done,
                         got.text);
        }
    }
}

/* Passes over blanks. */
static const char *chunk_blanks(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t')) at++;
    return at;
}

/* Passes over a token, which has a character at least, or a quoted string; NULL for neither. */
static const char *chunk_word(const char *at, const char *end, bool quoted)
{
    const char *start = at;
    if (!quoted || at == end || *at != '"') {
        while (at < end && http_is_token(*at)) at++;
        return at > start ? at : NULL;
    }
    for (at++; at < end && (*at == '\t' || (*at >= ' ' && *at < 127)); at++) {
        if (*at == '"') return at + 1;
        if (*at == '\\' && ++at < end && *at != '\t' && (*at < ' ' || *at == 127)) return NULL;
    }
    return NULL;
}

/* Passes over the extensions of a chunk, as their grammar is; a `;` may end the line. */
static const char *chunk_extensions(const char *at, const char *end)
{
    for (;;) {
        const char *here = at;
        at = chunk_blanks(at, end);
        if (at == end || *at != ';') return at == here ? at : NULL;
        at = chunk_blanks(at + 1, end);
        if (at < end && *at == '\r') return at;
        if (!(at = chunk_word(at, end, false))) return NULL;
        const char *equals = chunk_blanks(at, end);
        if (equals == end || *equals != '=') continue;
        if (!(at = chunk_word(chunk_blanks(equals + 1, end), end, true))) return NULL;
    }
}

/* A second reader of chunks, written as the grammar is, of bytes that are all there; true when it
 * accepts them. Knows neither bounds nor pieces. */
static bool chunks_by_grammar(struct span in, struct buffer *body)
{
    const char *at = in.at, *end = in.at + in.len;
    for (;;) {
        const char *line = at;
        while (at < end && isxdigit((unsigned char)*at)) at++;
        if (at == line || at - line > 16) return false;
        size_t size = strtoull(line, NULL, 16);
        if (!(at = chunk_extensions(at, end))) return false;
        if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return false;
        at += 2;
        if (!size) break;
        if ((size_t)(end - at) < size || (size_t)(end - at) - size < 2) return false;
        buffer_add(body, at, size);
        at += size;
        if (at[0] != '\r' || at[1] != '\n') return false;
        at += 2;
    }
    while (end - at >= 2 && *at != '\r') {
        const char *name = at;
        while (at < end && http_is_token(*at)) at++;
        if (at == name || at == end || *at != ':') return false;
        while (at < end && (*at == '\t' || (*at >= ' ' && *at < 127) || *at == ':')) at++;
        if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return false;
        at += 2;
    }
    if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return false;
    buffer_text(body, "|");
    buffer_add(body, at + 2, (size_t)(end - at) - 2);
    return true;
}

/* Random bodies made of the pieces of right and wrong ones are read as the grammar says, however
 * they are cut. */
static void http_chunks_agree_with_the_grammar(void **unused)
{
    (void)unused;
    static const char *const pieces[] = {"\r\n", "\r\n", "\r\n", "0", "1", "2", "a", "F", ";", "=",
                                         " ", "\t", "\r", "\n", "A: b", ":", "x", "1\r\nx\r\n",
                                         "2\r\nxy\r\n", "0\r\n", "0\r\n\r\n", "\"", "3;a=b\r\n",
                                         "1;a=\"", "\\", "\"\r\n", ";a"};
    uint64_t seed = 4711;
    int taken = 0;
    for (int round = 0; round < 20000; round++) {
        struct buffer text = {0}, body = {0};
        for (int n = 1 + round % 9; n; n--) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            buffer_text(&text, pieces[(seed >> 33) % (sizeof pieces / sizeof *pieces)]);
        }
        struct span in = {text.at, text.len};
        bool good = chunks_by_grammar(in, &body);
        buffer_add(&body, "", 1);
        for (size_t cut = 0; cut <= text.len; cut++) {
            struct chunks_read got = read_chunks(in, cut, text.len);
            if (got.error == ERROR_BODY_TOO_LARGE || got.error == ERROR_HEAD_TOO_LARGE) break;
            if (got.done != good || (good && strcmp(got.text, body.at)))
                fail_msg("'%.*s' cut at %zu: %d '%s', by the grammar %d '%s'", (int)in.len, in.at,
                         cut, got.done, got.text, good, good ? body.at : "");
        }
        taken += good;
        buffer_free(&text);
        buffer_free(&body);
    }
    assert_true(taken > 150);
}

/* A head larger than allowed is refused as soon as it is, ended or not. */
static void http_long_heads_are_refused(void **unused)
{
    (void)unused;
    char text[400];
    memset(text, 'a', sizeof text);
    assert_int_equal(http_frame_read(text, 200, 0, 200, 0).error, ERROR_NONE);
    assert_int_equal(http_frame_read(text, 201, 0, 200, 0).error, ERROR_HEAD_TOO_LARGE);
    memcpy(text + 300, "\r\n\r\n", 4);
    assert_int_equal(http_frame_read(text, 400, 0, 200, 0).error, ERROR_HEAD_TOO_LARGE);
}

/* As many header lines as CivetWeb reads are let through; with one more the last would be lost. */
static void http_many_headers_are_refused(void **unused)
{
    (void)unused;
    struct buffer text = {0};
    buffer_text(&text, "GET / HTTP/1.1\r\n");
    for (int i = 0; i < SEAM_HEADERS_MAX; i++) buffer_print(&text, "H%d: a\r\n", i);
    size_t len = text.len;
    buffer_text(&text, "\r\n");
    assert_int_equal(http_frame_read(text.at, text.len, 0, 8192, 0).error, ERROR_NONE);
    text.len = len;
    buffer_text(&text, "X-Forwarded-For: 192.0.2.1\r\n\r\n");
    assert_int_equal(http_frame_read(text.at, text.len, 0, 8192, 0).error, ERROR_HEAD_TOO_LARGE);
    buffer_free(&text);
}

/* Every error of the table becomes an answer with its status, and valid JSON. */
static void http_errors_are_json(void **unused)
{
    (void)unused;
    for (int error = 1; error < ERROR_COUNT; error++) {
        struct http_response response = {0};
        struct buffer out = {0};
        struct json_value body, inner, code;
        http_set_error(&response, (enum error)error);
        assert_string_not_equal(http_phrase(response.status), "Unknown");
        assert_true(json_parse((struct span){response.body.at, response.body.len - 1}, 4, &body));
        assert_true(json_member(body, "error", &inner) && json_member(inner, "code", &code));
        assert_true(json_is(code, ERRORS[error].code));
        http_write(&out, &response, false, false);
        buffer_add(&out, "", 1);
        assert_non_null(strstr(out.at, "\r\nCache-Control: no-store\r\n"));
        buffer_free(&out);
        buffer_free(&response.body);
    }
}

/* A large body becomes the answer without a copy, to the same bytes as a small one; not behind bytes
 * that wait, and not for HEAD. */
static void http_bodies_are_moved(void **unused)
{
    (void)unused;
    for (int i = 0; i < 8; i++) {
        bool waits = i & 1, head_only = i & 2, large = i & 4;
        size_t size = large ? 250000 : HTTP_BODY_MOVED - 1;
        struct http_response response = {.status = 200, .type = JSON_TYPE};
        struct buffer out = {0};
        memset(buffer_room(&response.body, size), 'x', size);
        response.body.len = size;
        if (waits) buffer_text(&out, "waits");
        http_write(&out, &response, true, head_only);
        bool moves = large && !waits && !head_only;
        assert_int_equal(!response.body.at, moves);
        buffer_add(&out, "", 1);
        char *head = out.at + (waits ? 5 : 0), *body = strstr(head, "\r\n\r\n") + 4, length[40];
        assert_memory_equal(head, "HTTP/1.1 200 OK\r\n", 17);
        snprintf(length, sizeof length, "\r\nContent-Length: %zu\r\n", size);
        assert_non_null(strstr(head, length));
        assert_int_equal(strlen(body), head_only ? 0 : size);
        assert_int_equal(strspn(body, "x"), strlen(body));
        buffer_free(&out);
        buffer_free(&response.body);
    }
}

/* ---- Routes ---------------------------------------------------------------------------------- */

/* Which route a path takes, and which user it names. */
static void routes_match(void **unused)
{
    (void)unused;
    static const struct {
        const char *method, *path, *pattern, *id;
        enum error error;
    } rows[] = {
        {"GET", "/api/presence/alice", "/api/presence/{id}", "alice", ERROR_NONE},
        {"HEAD", "/api/presence/alice", "/api/presence/{id}", "alice", ERROR_NONE},
        {"GET", "/api/presence/a%2Fb", "/api/presence/{id}", "a/b", ERROR_NONE},
        {"GET", "/api/presence/100%25", "/api/presence/{id}", "100%", ERROR_NONE},
        {"GET", "/api/presence/a+b", "/api/presence/{id}", "a+b", ERROR_NONE},
        {"GET", "/api/presence/..", "/api/presence/{id}", "..", ERROR_NONE},
        {"GET", "/ws/presence/.", "/ws/presence/{id}", ".", ERROR_NONE},
        {"GET", "/api/presence/", "/api/presence/{id}", NULL, ERROR_INVALID_USER_ID},
        {"GET", "/api/presence/%", "/api/presence/{id}", NULL, ERROR_INVALID_USER_ID},
        {"GET", "/api/presence/%00", "/api/presence/{id}", NULL, ERROR_INVALID_USER_ID},
        {"GET", "/api/presence/%0a", "/api/presence/{id}", NULL, ERROR_INVALID_USER_ID},
        {"GET", "/api/presence/a/b", NULL, NULL, ERROR_NOT_FOUND},
        {"GET", "/api/presence", NULL, NULL, ERROR_METHOD_NOT_ALLOWED},
        {"POST", "/api/presence", "/api/presence", NULL, ERROR_NONE},
        {"POST", "/api/presence/a/heartbeat", "/api/presence/{id}/heartbeat", "a", ERROR_NONE},
        {"GET", "/api/presence/a/heartbeat", NULL, NULL, ERROR_METHOD_NOT_ALLOWED},
        {"DELETE", "/admin/users/a/connections", "/admin/users/{id}/connections", "a", ERROR_NONE},
        {"PUT", "/healthz", NULL, NULL, ERROR_METHOD_NOT_ALLOWED},
        {"GET", "/healthz/", NULL, NULL, ERROR_NOT_FOUND},
        {"GET", "/nothing", NULL, NULL, ERROR_NOT_FOUND},
        {"GET", "//////", NULL, NULL, ERROR_NOT_FOUND},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct seam_request raw = {.method = rows[i].method, .target = rows[i].path};
        struct http_request request = {.raw = &raw};
        struct http_response response = {0};
        const struct route *route = NULL;
        enum error error = route_find(&request, &response, &route);
        if (error != rows[i].error) fail_msg("%s: %s", rows[i].path, ERRORS[error].code);
        if (rows[i].pattern) assert_string_equal(route->pattern, rows[i].pattern);
        if (rows[i].id) assert_string_equal(request.id, rows[i].id);
        assert_int_equal(error == ERROR_METHOD_NOT_ALLOWED, strstr(response.extra, "Allow: ") != NULL);
    }
}

/* ---- Options --------------------------------------------------------------------------------- */

/* Reads one command line; the line of an error is in err. */
static bool options_try(struct options *options, struct command_line *line, char *err, char *arguments)
{
    char *argv[32] = {"presence"};
    int argc = 1;
    for (char *word; (word = strsep(&arguments, " "));)
        if (*word) argv[argc++] = word;
    options_init(options);
    return options_read(options, argc, argv, line, (struct why){err, WHY_MAX});
}

/* Every option's default lies within its own bounds, is printed, and is read back as the same. */
static void options_round_trip(void **unused)
{
    (void)unused;
    struct options first, second;
    char *text = NULL, err[WHY_MAX];
    size_t size = 0;
    uint64_t seen = 0;
    options_init(&first);
    FILE *out = open_memstream(&text, &size);
    options_print(&first, out);
    fclose(out);
    options_init(&second);
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (!options_from_line(&second, line, &seen, WHY(err))) fail_msg("%s", err);
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        const struct option_row *row = &OPTIONS[i];
        const char *a = (char *)&first + row->offset, *b = (char *)&second + row->offset;
        if (row->type == OPTION_TEXT) assert_string_equal(*(char *const *)a, *(char *const *)b);
        else if (option_is_list(row))
            assert_int_equal(((struct option_list *)b)->count, ((struct option_list *)a)->count);
        else assert_int_equal(*(const int64_t *)a, *(const int64_t *)b);
    }
    free(text);
    options_free(&first);
    options_free(&second);
}

/* Wrong command lines: the error names the option. */
static void options_errors_name_the_option(void **unused)
{
    (void)unused;
    static const struct {
        const char *arguments, *names;
    } rows[] = {
        {"--nonsense", "--nonsense"}, {"nonsense", "'nonsense'"}, {"--grace", "--grace"},
        {"--grace soon", "--grace"}, {"--grace -1s", "--grace"}, {"--workers -1", "--workers"},
        {"--workers 9999", "--workers"}, {"--listen 8080", "--listen"}, {"--listen [::1", "--listen"},
        {"--listen 1.2.3.4:70000", "--listen"}, {"--log-level loud", "--log-level"},
        {"--config /nonexistent/file", "/nonexistent/file"}, {"--version=1", "--version"},
        {"--dump --help", "--dump"}, {"--backup", "--backup"}, {"--data=", "--data"},
        {"--insecure=perhaps", "--insecure"}, {"--", "'--'"}, {"--max-message 1", "--max-message"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct options options;
        struct command_line line;
        char err[WHY_MAX] = "", arguments[64];
        snprintf(arguments, sizeof arguments, "%s", rows[i].arguments);
        assert_false(options_try(&options, &line, err, arguments));
        if (!strstr(err, rows[i].names)) fail_msg("%s: %s", rows[i].arguments, err);
        assert_null(strchr(err, '\n'));
        options_free(&options);
    }
}

/* Lists replace the weaker source's whole list and grow within one. */
static void options_lists(void **unused)
{
    (void)unused;
    struct options options;
    struct command_line line;
    char err[WHY_MAX], arguments[] = "--listen [::1]:1 --listen=127.0.0.1:2 --insecure --dump";
    assert_true(options_try(&options, &line, err, arguments));
    assert_int_equal(options.listen.count, 2);
    assert_string_equal(options.listen.at[0], "[::1]:1");
    assert_int_equal(options.insecure, 1);
    assert_int_equal(line.command, COMMAND_DUMP);
    options_free(&options);
}

/* ---- Log ------------------------------------------------------------------------------------- */

/* A01: what a client sends cannot forge a line, close a quote or colour a terminal. */
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

/* Random bytes: what comes out is UTF-8, nothing in it is hidden or ends the string, and it fits. */
static void log_escapes_whatever_comes(void **unused)
{
    (void)unused;
    static const char *const some[] = {"\u202e", "\u2028", "\u2069", "\\", "\"", "\n", "\x9f", "\xe2\x80",
                                       "\xc2\x85", "\u00e9", "\U0001f600", "a", "\x7f", "\ufeff"};
    srand(3);
    for (int round = 0; round < 10000; round++) {
        char text[64] = "", out[128];
        size_t size = 16 + (size_t)rand() % (sizeof out - 15);
        for (int i = rand() % 8; i; i--) strcat(text, some[rand() % (int)(sizeof some / sizeof *some)]);
        size_t n = log_escape(text, out, size);
        assert_true(n < size && n == strlen(out));
        for (size_t at = 0, step; at < n; at += step) {
            uint32_t point;
            step = utf8_step(out + at, n - at, &point);
            assert_true(step && !log_hides(point) && point != '"');
            if (point == '\\') {
                step = out[at + 1] == 'u' ? 6 : 2;
                assert_true(strchr("\"\\u", out[at + 1]) && at + step <= n);
            }
        }
    }
}

static void log_escapes(void **unused)
{
    (void)unused;
    char out[128];
    log_escape("a\"b\\c\nlevel=error\x1b[2J\x7f", out, sizeof out);
    assert_string_equal(out, "a\\\"b\\\\c\\u000alevel=error\\u001b[2J\\u007f");
    log_escape("\u202e\u2028\u2066\xc2\x85\ufeff\u200fa\u00e9\U0001f600\xff\xc3", out, sizeof out);
    assert_string_equal(out, "\\u202e\\u2028\\u2066\\u0085\\ufeff\\u200fa\u00e9\U0001f600\\ufffd\\ufffd");
    assert_true(log_escape("\x01\x01\x01\x01", out, 16) < 16);
}

/* Times are RFC 3339, to the millisecond. */
static void times_are_texts(void **unused)
{
    (void)unused;
    char out[TIME_TEXT];
    assert_string_equal(time_text(0, out), "1970-01-01T00:00:00.000Z");
    assert_string_equal(time_text(INT64_C(1795597471120), out), "2026-11-25T09:04:31.120Z");
    assert_string_equal(time_text(-5, out), "1970-01-01T00:00:00.000Z");
    assert_string_equal(time_text(INT64_C(951782399999), out), "2000-02-28T23:59:59.999Z");
}

static const struct CMUnitTest CORE_TESTS[] = {
    cmocka_unit_test(timers_fire_in_time),
    cmocka_unit_test(silence_keeps_its_bound),
    cmocka_unit_test(directory_keeps_order),
    cmocka_unit_test(directory_fills_runs_in_order),
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
    cmocka_unit_test(table_heartbeats_are_coalesced),
    cmocka_unit_test(table_fast_stays_stay_in_order),
    cmocka_unit_test(http_frames_are_read),
    cmocka_unit_test(http_chunks_are_read),
    cmocka_unit_test(http_chunks_agree_with_the_grammar),
    cmocka_unit_test(http_many_headers_are_refused),
    cmocka_unit_test(http_long_heads_are_refused),
    cmocka_unit_test(http_errors_are_json),
    cmocka_unit_test(http_bodies_are_moved),
    cmocka_unit_test(routes_match),
    cmocka_unit_test(options_round_trip),
    cmocka_unit_test(options_errors_name_the_option),
    cmocka_unit_test(options_lists),
    cmocka_unit_test(log_escapes),
    cmocka_unit_test(sessions_beyond_the_most_are_counted),
    cmocka_unit_test(log_escapes_whatever_comes),
    cmocka_unit_test(times_are_texts),
};
