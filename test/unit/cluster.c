/* The cluster: entries byte by byte, and three nodes with one engine that loses, delays, forgets
 * and lies, held against what the nodes' sockets say. */
#include "unit.h"
#include "model.h"

/* ---- Entries ---- */

static struct span random_text(uint64_t *seed, char *out, size_t least, size_t most)
{
    size_t len = least + below64(seed, most - least + 1);
    for (size_t i = 0; i < len; i++) out[i] = (char)('a' + below64(seed, 26));
    return (struct span){out, len};
}

static bool spans_equal(struct span a, struct span b)
{
    return !bytes_compare(a.at, a.len, b.at, b.len);
}

/* Every kind of record comes back as it was written. */
static void records_come_back(void **unused)
{
    (void)unused;
    uint64_t seed = 20261129;
    for (int round = 0; round < 20000; round++) {
        char id[USER_ID_MAX], name[NODE_NAME_MAX], text[140];
        uint8_t address[16];
        int64_t time = 1764000000000 + (int64_t)below64(&seed, 1000000);
        for (int i = 0; i < 16; i++) address[i] = (uint8_t)below64(&seed, 256);
        struct record r =
                          {
                              .kind = (enum record_kind)(1 + below64(&seed, RECORD_STAY)),
                              .id = random_text(&seed, id, 1, USER_ID_MAX),
                              .about = below64(&seed, SIZE_MAX),
                              .node = below64(&seed, SIZE_MAX),
                              .name = random_text(&seed, name, 1, NODE_NAME_MAX),
                              .whole = below64(&seed, 2),
                              .want = (enum record_want)below64(&seed, 2),
                              .number = below64(&seed, SIZE_MAX),
                              .checksum = below64(&seed, SIZE_MAX),
                              .users = below64(&seed, 1000000),
                              .state = (enum user_state)below64(&seed, 3),
                              .status = (enum status)below64(&seed, 3),
                              .reason = (enum reason)below64(&seed, REASON_COUNT),
                              .connections = (uint16_t)below64(&seed, 65536),
                              .since = time - (int64_t)below64(&seed, 100000),
                              .last_seen = time + (int64_t)below64(&seed, 2000) - 1000,
                              .until = below64(&seed, 2) ? time + 5000 : 0,
                              .hidden = time - 77,
                              .there = below64(&seed, 2),
                              .message = random_text(&seed, text, 0, 140),
                              .address = below64(&seed, 2) ? address : NULL,
                          },
                      back;
        struct buffer out = {0};
        record_write(&out, time, &r);
        uint8_t *exact = mem_new(out.len);
        memcpy(exact, out.at, out.len);
        struct taker in = {exact, exact + out.len, false};
        record_read(&in, time, &back);
        assert_false(in.bad);
        assert_ptr_equal(in.at, in.end);
        assert_int_equal(back.kind, r.kind);
        if (r.kind == RECORD_SAYS) {
            assert_true(spans_equal(back.id, r.id));
            assert_int_equal(back.state, r.state);
            assert_int_equal(back.last_seen, r.last_seen);
            assert_int_equal(back.since, r.state ? r.since : 0);
            assert_int_equal(back.connections, r.state == USER_LIVE ? r.connections : 0);
            assert_int_equal(back.address != NULL, r.address != NULL);
        } else if (r.kind == RECORD_MANUAL) {
            assert_true(spans_equal(back.message, r.message));
            assert_int_equal(back.until, r.until);
            assert_int_equal(back.there, r.there);
        } else if (r.kind == RECORD_BEAT) {
            assert_true(back.checksum == r.checksum && back.number == r.number);
        }
        /* Cut anywhere it is damaged, not another record. */
        struct taker cut = {exact, exact + below64(&seed, out.len), false};
        record_read(&cut, time, &back);
        assert_true(cut.bad);
        buffer_free(&out);
        free(exact);
    }
}

/* Bytes that nobody wrote are never believed beyond what they are. */
static void hostile_entries_end(void **unused)
{
    (void)unused;
    uint64_t seed = 7;
    size_t good = 0;
    for (int round = 0; round < 200000; round++) {
        size_t len = below64(&seed, 80);
        uint8_t *bytes = mem_new(len + 1);
        struct entry e;
        struct record r;
        for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)below64(&seed, 256);
        struct taker in = {bytes, bytes + len, false};
        if (len) bytes[0] = (uint8_t)(1 + below64(&seed, 15));
        record_read(&in, 1764000000000, &r);
        good += !in.bad;
        if (len > 2) bytes[0] = ENTRY_VERSION, bytes[1] = 0;
        in = (struct taker){bytes, bytes + len, false};
        if (entry_read(&in, &e) == ENTRY_GOOD) assert_true(e.records <= ENTRY_RECORDS);
        free(bytes);
    }
    assert_true(good > 100);
}

/* ---- The engine, as far as a node sees it ---- */

enum { RIG_NODES = 3, RIG_USERS = 9, RIG_LINKS = 3 };

struct rig_entry {
    struct stream_id id;
    uint64_t base;
    uint32_t epoch, records;
    struct buffer text;
};

struct rig_piece {
    STAILQ_ENTRY(rig_piece) entry;
    uint64_t request;
    struct buffer text;
};

struct rig_tell {
    STAILQ_ENTRY(rig_tell) entry;
    struct engine_tell tell;
};

/* A transition that a node told: its place, and what it was. */
struct rig_event {
    uint32_t epoch;
    uint64_t position;
    uint8_t user, kind, state, status, reason;
    uint16_t connections;
};

struct rig;
struct rig_node {
    struct rig *rig;
    int number;
    bool alive, paused, cut, down;
    struct node node;
    struct presence shown;
    struct session_conn conns[RIG_USERS][RIG_LINKS];
    int links[RIG_USERS];
    /* Its connection: asks on their way, tells on their way back, what is not known to be there. */
    struct engine_ask **asks;
    size_t ask_count;
    struct engine_ask **unsent;
    size_t unsent_count, sent;
    STAILQ_HEAD(, rig_tell) tells;
    bool follows;
    struct stream_id at;
    uint64_t generation, reading, piece;
    struct rig_event *events;
    size_t event_count;
    size_t settled_from; /* events of the present settled time begin here */
    bool online[RIG_USERS];
};

/* When an entry was appended. */
struct rig_time {
    uint32_t epoch, records;
    uint64_t base;
    int64_t at;
};

/* A time through which a user had a socket at a node that could be heard. */
struct rig_hold {
    int user;
    int64_t from, to;
};

struct rig {
    uint64_t seed;
    struct rig_time *times;
    struct rig_hold *holds;
    size_t time_count, hold_count;
    int64_t held[RIG_NODES * RIG_USERS]; /* since when; 0: not */
    int64_t now;
    bool up, other_run;
    uint32_t epoch, run, began;
    uint64_t count, id;
    struct rig_entry *log;
    size_t log_count;
    struct {
        uint64_t incarnation, n;
    } * last;
    size_t last_count;
    STAILQ_HEAD(, rig_piece) pieces;
    struct rig_node nodes[RIG_NODES];
    size_t kills, flushes, tails, trims, pauses, cuts, downs, kicks, settled, states, turns,
        renewed;
    size_t causes[16];
};

/* What else a test does at a node, for cluster_webhook.c: NULL otherwise. */
enum rig_moment { RIG_STARTS, RIG_TURNS, RIG_TELLS, RIG_TOLD };
static void (*rig_also)(struct rig_node *, enum rig_moment, const struct transition *);

static uint32_t rig_random(void *context)
{
    struct rig_node *n = context;
    return (uint32_t)below64(&n->rig->seed, UINT32_MAX - 1) + 1;
}

static void rig_ask(void *context, struct engine_ask *ask)
{
    struct rig_node *n = context;
    n->asks = mem_resize(n->asks, (n->ask_count + 1) * sizeof *n->asks);
    n->asks[n->ask_count++] = ask;
}

static void rig_cause(void *context, enum node_cause cause)
{
    struct rig_node *n = context;
    n->rig->causes[cause]++;
}

static void rig_ask_free(struct engine_ask *ask)
{
    buffer_free(&ask->text);
    free(ask);
}

static struct engine_tell *rig_tell(struct rig_node *n, enum engine_tell_kind kind)
{
    struct rig_tell *t = mem_new(sizeof *t);
    t->tell.kind = kind;
    STAILQ_INSERT_TAIL(&n->tells, t, entry);
    return &t->tell;
}

static void rig_forget(struct rig_node *n)
{
    for (size_t i = 0; i < n->unsent_count; i++) rig_ask_free(n->unsent[i]);
    n->unsent_count = n->sent = 0;
}

static uint64_t *rig_last(struct rig *rig, uint64_t incarnation)
{
    for (size_t i = 0; i < rig->last_count; i++)
        if (rig->last[i].incarnation == incarnation) return &rig->last[i].n;
    rig->last = mem_resize(rig->last, (rig->last_count + 1) * sizeof *rig->last);
    rig->last[rig->last_count].incarnation = incarnation;
    rig->last[rig->last_count].n = 0;
    return &rig->last[rig->last_count++].n;
}

static void rig_log_drop(struct rig *rig, size_t from, size_t count)
{
    for (size_t i = from; i < from + count; i++) buffer_free(&rig->log[i].text);
    if (count)
        memmove(rig->log + from, rig->log + from + count,
                (rig->log_count - from - count) * sizeof *rig->log);
    rig->log_count -= count;
}

static void rig_renew(struct rig *rig, uint32_t next)
{
    rig_log_drop(rig, 0, rig->log_count);
    rig->last_count = 0;
    rig->epoch = next;
    rig->count = 0;
    rig->began = rig->run;
}

/* One append: the effect of the script. */
static void rig_append(struct rig *rig, struct rig_node *n, const struct engine_ask *ask)
{
    if (rig->epoch != ask->epoch) {
        rig_tell(n, ENGINE_REFUSED)->epoch = rig->epoch;
        n->follows = false;
        rig_forget(n);
        return;
    }
    uint64_t *last = rig_last(rig, ask->incarnation);
    if (ask->n > *last + 1) {
        struct engine_tell *tell = rig_tell(n, ENGINE_HOLE);
        tell->incarnation = ask->incarnation;
        return;
    }
    /* The script passes over repeats; an engine that forgot what was last does not. */
    if (ask->n <= *last && below64(&rig->seed, 50)) return;
    if (ask->n > *last) *last = ask->n;
    rig->log = mem_resize(rig->log, (rig->log_count + 1) * sizeof *rig->log);
    struct rig_entry *e = &rig->log[rig->log_count++];
    *e = (struct rig_entry){.id = {(uint64_t)rig->now, ++rig->id},
                            .base = rig->count,
                            .epoch = rig->epoch,
                            .records = ask->records};
    buffer_add(&e->text, ask->text.at, ask->text.len);
    rig->times = mem_resize(rig->times, (rig->time_count + 1) * sizeof *rig->times);
    rig->times[rig->time_count++] =
        (struct rig_time){rig->epoch, ask->records, rig->count, rig->now};
    rig->count += ask->records;
}

static bool id_before(struct stream_id a, struct stream_id b)
{
    return a.ms != b.ms ? a.ms < b.ms : a.sequence < b.sequence;
}

/* The node's thread takes what the node asks. */
static void rig_take_asks(struct rig *rig, struct rig_node *n)
{
    for (size_t i = 0; i < n->ask_count; i++) {
        struct engine_ask *ask = n->asks[i];
        switch (ask->kind) {
        case ENGINE_APPEND:
            n->unsent = mem_resize(n->unsent, (n->unsent_count + 1) * sizeof *n->unsent);
            n->unsent[n->unsent_count++] = ask;
            continue;
        case ENGINE_FORGET: rig_forget(n); break;
        case ENGINE_RENEW:
            if (n->down || !rig->up) break; /* it is asked again behind the next UP */
            if (rig->epoch == ask->epoch) {
                rig_renew(rig, ask->next);
                rig->renewed++;
            }
            rig_tell(n, ENGINE_EPOCH)->epoch = rig->epoch;
            n->follows = false;
            break;
        case ENGINE_FOLLOW:
            n->follows = !n->down && rig->up;
            n->at = ask->after;
            n->generation = ask->request;
            break;
        case ENGINE_PIECE: {
            struct rig_piece *piece = mem_new(sizeof *piece);
            piece->request = ask->request;
            piece->text = ask->text;
            ask->text = (struct buffer){0};
            STAILQ_INSERT_TAIL(&rig->pieces, piece, entry);
            break;
        }
        case ENGINE_PIECES:
            n->reading = ask->request;
            n->piece = 0;
            break;
        }
        rig_ask_free(ask);
    }
    n->ask_count = 0;
}

/* The engine and the node's thread do some of what they have to do. */
static void rig_carry(struct rig *rig, struct rig_node *n)
{
    rig_take_asks(rig, n);
    if (!rig->up || n->down || !n->follows) return;
    for (size_t most = 1 + below64(&rig->seed, 8); most && n->sent < n->unsent_count; most--) {
        rig_append(rig, n, n->unsent[n->sent]);
        if (!n->unsent_count) return;
        n->sent++;
        if (!below64(&rig->seed, 12)) n->sent = 0; /* answers were lost: all is sent again */
    }
    if (n->sent == n->unsent_count && below64(&rig->seed, 2)) rig_forget(n);
    struct engine_tell *tell = NULL;
    size_t most = 1 + below64(&rig->seed, 9);
    for (size_t i = 0; i < rig->log_count && most; i++) {
        const struct rig_entry *e = &rig->log[i];
        if (!id_before(n->at, e->id)) continue;
        if (!tell) {
            tell = rig_tell(n, ENGINE_ENTRIES);
            tell->request = n->generation;
        }
        struct engine_entry head = {e->id, e->base, e->epoch, (uint32_t)e->text.len};
        buffer_add(&tell->text, &head, sizeof head);
        buffer_add(&tell->text, e->text.at, e->text.len);
        n->at = e->id;
        most--;
    }
    uint64_t at = 0;
    struct rig_piece *piece;
    for (piece = STAILQ_FIRST(&rig->pieces); piece; piece = STAILQ_NEXT(piece, entry)) {
        if (!n->reading || piece->request != n->reading || at++ < n->piece) continue;
        n->piece++;
        tell = rig_tell(n, ENGINE_CAME);
        tell->request = piece->request;
        buffer_add(&tell->text, piece->text.at, piece->text.len);
        break;
    }
}

static void rig_tell_up(struct rig *rig, struct rig_node *n)
{
    struct engine_tell *tell = rig_tell(n, ENGINE_UP);
    bool there = !n->at.ms, older = false;
    for (size_t i = 0; i < rig->log_count; i++) {
        struct stream_id id = rig->log[i].id;
        there |= id.ms == n->at.ms && id.sequence == n->at.sequence;
        older |= id_before(id, n->at);
    }
    tell->epoch = rig->epoch;
    tell->same_run = rig->began == rig->run;
    tell->last_read = there ? LAST_READ_THERE : older ? LAST_READ_LOST : LAST_READ_TRIMMED;
    if (rig->log_count) tell->last = rig->log[rig->log_count - 1].id;
    n->follows = false;
    n->sent = 0;
    n->down = false;
}

static void rig_drop_tells(struct rig_node *n)
{
    for (struct rig_tell *t; (t = STAILQ_FIRST(&n->tells));) {
        STAILQ_REMOVE_HEAD(&n->tells, entry);
        buffer_free(&t->tell.text);
        free(t);
    }
}

static void rig_node_start(struct rig_node *n)
{
    struct instant now = {n->rig->now, 0};
    n->alive = true;
    n->paused = false;
    presence_init(&n->shown, 3000, 20000, now);
    n->node = (struct node){.ask = rig_ask,
                            .tell = rig_cause,
                            .context = n,
                            .random = rig_random,
                            .hooks = true,
                            .patient = n->event_count > 0};
    snprintf(n->node.name, sizeof n->node.name, "node-%d", n->number);
    node_init(&n->node, now, &n->shown, (uint64_t)n->number + 1);
    memset(n->online, 0, sizeof n->online);
    n->settled_from = n->event_count;
    n->at = (struct stream_id){0};
    n->down = true;
    if (rig_also) rig_also(n, RIG_STARTS, NULL);
}

static void rig_node_end(struct rig_node *n)
{
    rig_forget(n);
    for (size_t i = 0; i < n->ask_count; i++) rig_ask_free(n->asks[i]);
    n->ask_count = 0;
    rig_drop_tells(n);
    node_free(&n->node);
    presence_free(&n->shown);
    n->alive = n->follows = false;
    n->reading = 0;
    memset(n->links, 0, sizeof n->links);
}

static struct span rig_id(int user)
{
    static const char *const ids[RIG_USERS] = {"a", "bb", "ccc", "d", "e", "f", "g", "h", "i"};
    return span_of(ids[user]);
}

/* Takes the transitions: joins and leaves alternate, and each is at its place. */
static void rig_note(struct rig_node *n)
{
    struct presence *p = &n->shown;
    for (size_t i = 0; i < p->transition_count; i++) {
        const struct transition *t = &p->transitions[i];
        int user = 0;
        while (!spans_equal(rig_id(user), user_id(t->user))) user++;
        bool was = n->online[user];
        n->online[user] = t->state != USER_OFFLINE;
        if (t->kind == TRANSITION_QUIET) continue;
        if (rig_also) rig_also(n, RIG_TELLS, t);
        assert_int_equal(t->kind == TRANSITION_JOIN, !was && t->state != USER_OFFLINE);
        assert_int_equal(t->kind == TRANSITION_LEAVE, was && t->state == USER_OFFLINE);
        n->events = mem_resize(n->events, (n->event_count + 1) * sizeof *n->events);
        n->events[n->event_count++] =
            (struct rig_event){n->node.epoch, t->sequence, (uint8_t)user, t->kind,
                               t->state,      t->status,   t->reason,     t->connections};
    }
    presence_clear_transitions(p);
    if (rig_also) rig_also(n, RIG_TOLD, NULL);
}

/* One user's contributions as the node has them, in a text that does not depend on their order. */
static void rig_user_text(const struct node *node, const struct user *user, struct buffer *out)
{
    char rows[8][96];
    int count = 0;
    for (const struct said *said = user->said; said && count < 8; said = said->next)
        snprintf(rows[count++], sizeof *rows, "%016" PRIx64 " %d %d %d %d",
                 node->replica.incarnations[said->holder]->id, said->state, said->status,
                 said->connections, said->evicted);
    qsort(rows, (size_t)count, sizeof *rows, (int (*)(const void *, const void *))strcmp);
    buffer_print(out, "%.*s %d %d %d %" PRId64 "\n", user->id_len, user->id, user->state,
                 user->status, user->connections, user->state ? user->online_since : 0);
    for (int i = 0; i < count; i++) buffer_print(out, "  %s\n", rows[i]);
}

/* What the node does in a turn of its hub. */
static void rig_turn(struct rig_node *n)
{
    struct rig *rig = n->rig;
    struct instant now = {rig->now, 0};
    if (!n->alive || n->paused) return;
    if (rig_also) rig_also(n, RIG_TURNS, NULL);
    presence_tick(&n->node.own, now, SIZE_MAX);
    for (struct rig_tell *t; !node_busy(&n->node) && (t = STAILQ_FIRST(&n->tells));) {
        if (node_tell(&n->node, now, rig->now, &t->tell)) {
            STAILQ_REMOVE_HEAD(&n->tells, entry);
            buffer_free(&t->tell.text);
            free(t);
        }
        rig_note(n);
        if (!below64(&rig->seed, 10)) break;
    }
    struct taker kicked = {(const uint8_t *)n->node.kicked.at,
                           (const uint8_t *)n->node.kicked.at + n->node.kicked.len, false};
    while (kicked.at < kicked.end) {
        struct span id = take_id(&kicked);
        struct user *user = presence_find(&n->node.own, id);
        for (int i = 0; user && i < RIG_USERS; i++) {
            if (!spans_equal(rig_id(i), id)) continue;
            while (n->links[i])
                presence_disconnect(&n->node.own, now, &n->conns[i][--n->links[i]], END_KICKED);
            presence_end(&n->node.own, now, user, REASON_KICKED);
            break;
        }
    }
    n->node.kicked.len = 0;
    node_work(&n->node, now, rig->now, 1 + below64(&rig->seed, 8));
    rig_note(n);
    node_tick(&n->node, now, SIZE_MAX);
    rig_note(n);
    struct store_batch batch = {0};
    if (!below64(&rig->seed, 4) && presence_collect(&n->shown, now, false, SIZE_MAX, &batch))
        while (!presence_committed(&n->shown, now, SIZE_MAX)) continue;
    buffer_free(&batch.ops);
    rig->states += n->node.state == NODE_SETTLED;
    rig->turns++;
}

/* Notes who is held: by a socket of a node that goes and has the engine, and is not kicked. */
static void rig_watch(struct rig *rig, int kicked)
{
    for (int at = 0; at < RIG_NODES * RIG_USERS; at++) {
        const struct rig_node *n = &rig->nodes[at / RIG_USERS];
        int user = at % RIG_USERS;
        bool held = n->alive && !n->paused && !n->down && rig->up && n->links[user];
        if (user == kicked) held = false;
        if (held && !rig->held[at]) rig->held[at] = rig->now;
        if (held || !rig->held[at]) continue;
        rig->holds = mem_resize(rig->holds, (rig->hold_count + 1) * sizeof *rig->holds);
        rig->holds[rig->hold_count++] = (struct rig_hold){user, rig->held[at], rig->now};
        rig->held[at] = 0;
    }
}

/* A random step of a user at a node. */
static void rig_act(struct rig_node *n)
{
    struct rig *rig = n->rig;
    struct instant now = {rig->now, 0};
    int user = (int)below64(&rig->seed, RIG_USERS);
    struct presence *own = &n->node.own;
    if (!n->alive || n->paused) return;
    switch (below64(&rig->seed, 10)) {
    case 0:
    case 1:
    case 2:
        if (n->links[user] == RIG_LINKS) break;
        n->conns[user][n->links[user]] = (struct session_conn){0};
        presence_connect(own, now, rig_id(user), &n->conns[user][n->links[user]++]);
        break;
    case 3:
    case 4:
    case 5:
        if (!n->links[user]) break;
        presence_disconnect(own, now, &n->conns[user][--n->links[user]],
                            (enum ending)below64(&rig->seed, END_KICKED));
        break;
    case 6:
        if (n->links[user])
            presence_set_status(own, now, &n->conns[user][0], (enum status)below64(&rig->seed, 3));
        break;
    case 7:
        if (n->links[user]) presence_heard(own, now, n->conns[user][0].user);
        else if (!below64(&rig->seed, 6))
            presence_heartbeat(own, now, rig_id(user), (const uint8_t[16]){1});
        break;
    case 8:
        if (below64(&rig->seed, 20) || !n->node.said_hello) break;
        node_say(&n->node, now, &(struct record){.kind = RECORD_KICK, .id = rig_id(user)});
        rig->kicks++;
        rig_watch(rig, user);
        break;
    default:
        if (below64(&rig->seed, 8) || !n->node.said_hello) break;
        node_say(&n->node, now,
                 &(struct record){.kind = RECORD_MANUAL,
                                  .id = rig_id(user),
                                  .there = below64(&rig->seed, 2),
                                  .status = (enum status)below64(&rig->seed, 5),
                                  .last_seen = now.mono,
                                  .hidden = now.mono,
                                  .until = below64(&rig->seed, 2) ? now.mono + 5000 : 0});
    }
}

/* A random fault. */
static void rig_fault(struct rig *rig)
{
    struct rig_node *n = &rig->nodes[below64(&rig->seed, RIG_NODES)];
    switch (below64(&rig->seed, 60)) {
    case 0:
        if (n->alive) rig_node_end(n), rig->kills++;
        break;
    case 1:
    case 2:
    case 3:
        if (!n->alive) rig_node_start(n);
        break;
    case 4:
        n->paused = n->alive && !n->paused && !below64(&rig->seed, 2);
        rig->pauses += n->paused;
        break;
    case 5:
    case 6: n->paused = false; break;
    case 7: /* the engine is emptied */
        if (below64(&rig->seed, 4)) break;
        rig_renew(rig, 0);
        rig->flushes++;
        break;
    case 8: /* the tail is lost, with a fail-over to another engine */
        if (below64(&rig->seed, 3) || !rig->log_count) break;
        for (size_t k = 1 + below64(&rig->seed, 5); k && rig->log_count; k--) {
            rig->count = rig->log[rig->log_count - 1].base;
            rig_log_drop(rig, rig->log_count - 1, 1);
        }
        rig->run++;
        rig->tails++;
        for (int i = 0; i < RIG_NODES; i++)
            if (rig->nodes[i].alive && !rig->nodes[i].down) rig_tell_up(rig, &rig->nodes[i]);
        break;
    case 9:
        if (rig->log_count > 10)
            rig_log_drop(rig, 0, 1 + below64(&rig->seed, rig->log_count - 6)), rig->trims++;
        break;
    case 10: /* its connection is cut, and back at once */
        if (n->alive && !n->down && rig->up) rig_tell_up(rig, n), rig->cuts++;
        break;
    case 11: /* the engine, or the way to it, is gone for long */
        if (below64(&rig->seed, 2)) {
            rig->up = !rig->up;
            for (int i = 0; i < RIG_NODES && !rig->up; i++)
                if (rig->nodes[i].alive && !rig->nodes[i].down)
                    rig_tell(&rig->nodes[i], ENGINE_DOWN), rig->nodes[i].down = true;
            rig->downs++;
        } else if (n->alive && !n->down) {
            rig_tell(n, ENGINE_DOWN);
            n->down = true;
            rig->downs++;
        }
        break;
    default:
        if (rig->up && n->alive && n->down && below64(&rig->seed, 2)) rig_tell_up(rig, n);
    }
}

/* Nobody is told to have left who had a socket at the time, and some while before it: a node that
 * came back to the engine needs that to say whom it has. */
static void rig_false_leaves(struct rig *rig)
{
    for (int i = 0; i < RIG_NODES; i++) {
        for (size_t k = 0; k < rig->nodes[i].event_count; k++) {
            const struct rig_event *e = &rig->nodes[i].events[k];
            int64_t at = 0;
            for (size_t t = 0; t < rig->time_count && !at; t++) {
                const struct rig_time *time = &rig->times[t];
                if (time->epoch == e->epoch && e->position > time->base &&
                    e->position <= time->base + time->records)
                    at = time->at;
            }
            for (size_t h = 0; at && e->kind == TRANSITION_LEAVE && h < rig->hold_count; h++)
                if (rig->holds[h].user == e->user && rig->holds[h].from < at - 20000 &&
                    rig->holds[h].to > at) {
                    for (int z = 0; z < RIG_NODES; z++)
                        for (size_t q = 0; q < rig->nodes[z].event_count; q++) {
                            const struct rig_event *g = &rig->nodes[z].events[q];
                            if (g->epoch == e->epoch && g->user == e->user)
                                fprintf(stderr, "node %d %d %s conns %d reason %s\n", z,
                                        (int)g->position, TRANSITION_NAMES[g->kind], g->connections,
                                        REASON_NAMES[g->reason]);
                        }
                    for (size_t z = 0; z < rig->time_count; z++)
                        if (rig->times[z].epoch == e->epoch && rig->times[z].base <= e->position)
                            fprintf(stderr, "%d@%d ", (int)rig->times[z].base,
                                    (int)(rig->times[z].at - rig->times[0].at));
                    fprintf(stderr, "\nheld %d to %d\n",
                            (int)(rig->holds[h].from - rig->times[0].at),
                            (int)(rig->holds[h].to - rig->times[0].at));
                    fail_msg("node %d: user %d left at %08x-%d with a socket", i, e->user, e->epoch,
                             (int)e->position);
                }
        }
    }
}

static void rig_step(struct rig *rig, bool faults)
{
    rig_watch(rig, -1);
    rig->now += (int64_t)below64(&rig->seed, 120);
    if (faults && !below64(&rig->seed, 6)) rig_fault(rig);
    for (int i = 0; i < RIG_NODES; i++) {
        struct rig_node *n = &rig->nodes[i];
        if (faults && !below64(&rig->seed, 3)) rig_act(n);
        if (n->alive && !n->paused) rig_carry(rig, n);
        if (below64(&rig->seed, 4)) rig_turn(n);
    }
}

/* Without faults, until everybody has settled and what was cached has ended: all tables are equal,
 * and what they show is what the sockets say. */
static void rig_quiet(struct rig *rig)
{
    rig->up = true;
    for (int i = 0; i < RIG_NODES; i++) {
        struct rig_node *n = &rig->nodes[i];
        if (!n->alive) rig_node_start(n);
        n->paused = false;
        if (n->down) rig_tell_up(rig, n);
    }
    for (int step = 0; step < 4000; step++) rig_step(rig, false);
    struct buffer texts[RIG_NODES] = {{0}};
    for (int i = 0; i < RIG_NODES; i++) {
        struct rig_node *n = &rig->nodes[i];
        assert_int_equal(n->node.state, NODE_SETTLED);
        assert_int_equal(n->node.replica.differences, 0);
        struct presence_walk walk = {0};
        for (struct user *user; (user = presence_walk_next(&n->shown, &walk));)
            if (user->state) rig_user_text(&n->node, user, &texts[i]);
        buffer_add(&texts[i], "", 1);
    }
    for (int i = 1; i < RIG_NODES; i++) {
        if (strcmp(texts[0].at, texts[i].at))
            fail_msg("node 0 has\n%s node %d has\n%s", texts[0].at, i, texts[i].at);
    }
    for (int user = 0; user < RIG_USERS; user++) {
        int links = 0;
        bool cached = false;
        for (int i = 0; i < RIG_NODES; i++) {
            const struct user *own = presence_find(&rig->nodes[i].node.own, rig_id(user));
            links += rig->nodes[i].links[user];
            cached |= own && own->state == USER_CACHED;
        }
        const struct user *shown = presence_find(&rig->nodes[0].shown, rig_id(user));
        if (links != (shown ? shown->connections : 0) ||
            (links || cached) != (shown && shown->state))
            fail_msg("user %d has %d sockets%s and is shown\n%s", user, links,
                     cached ? " and is cached" : "", texts[0].at);
    }
    for (int i = 0; i < RIG_NODES; i++) buffer_free(&texts[i]);
}

/* The same place in the log means the same to all. */
static void rig_compare(const struct rig *rig)
{
    for (int a = 0; a < RIG_NODES; a++)
        for (int b = a + 1; b < RIG_NODES; b++) {
            const struct rig_node *x = &rig->nodes[a], *y = &rig->nodes[b];
            for (size_t i = 0; i < x->event_count; i++)
                for (size_t k = 0; k < y->event_count; k++) {
                    const struct rig_event *e = &x->events[i], *f = &y->events[k];
                    if (e->epoch != f->epoch || e->position != f->position) continue;
                    if (e->user == f->user && e->kind == f->kind) continue;
                    fail_msg("%08x-%d is user %d kind %d at node %d, user %d kind %d at node %d",
                             e->epoch, (int)e->position, e->user, e->kind, a, f->user, f->kind, b);
                }
        }
}

static void rig_free(struct rig *rig)
{
    rig_log_drop(rig, 0, rig->log_count);
    for (struct rig_piece *piece; (piece = STAILQ_FIRST(&rig->pieces));) {
        STAILQ_REMOVE_HEAD(&rig->pieces, entry);
        buffer_free(&piece->text);
        free(piece);
    }
    for (int i = 0; i < RIG_NODES; i++) {
        if (rig->nodes[i].alive) rig_node_end(&rig->nodes[i]);
        free(rig->nodes[i].asks);
        free(rig->nodes[i].unsent);
        free(rig->nodes[i].events);
    }
    free(rig->log);
    free(rig->last);
    free(rig->times);
    free(rig->holds);
}

static void rig_run(struct rig *rig, uint64_t seed, int steps)
{
    *rig = (struct rig){.seed = seed, .now = 1764000000000, .up = true};
    STAILQ_INIT(&rig->pieces);
    for (int i = 0; i < RIG_NODES; i++) {
        struct rig_node *n = &rig->nodes[i];
        n->rig = rig;
        n->number = i;
        STAILQ_INIT(&n->tells);
        rig_node_start(n);
        rig_tell_up(rig, n);
    }
    for (int step = 0; step < steps; step++) rig_step(rig, true);
    rig_quiet(rig);
    rig_compare(rig);
    rig_false_leaves(rig);
}

/* Three nodes and an engine, with every fault that the design knows. PRESENCE_SEED=N runs one. */
static void nodes_agree(void **unused)
{
    (void)unused;
    static struct rig rig;
    const char *one = getenv("PRESENCE_SEED"), *many = getenv("PRESENCE_SEEDS");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1, count = one    ? 1
                                                                : many ? strtoull(many, NULL, 10)
                                                                       : 60;
    size_t events = 0, kills = 0, settled = 0, causes[16] = {0};
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (getenv("PRESENCE_SAY")) fprintf(stderr, "seed %d\n", (int)seed);
        rig_run(&rig, seed * 0x9e3779b97f4a7c15u, 6000);
        for (int i = 0; i < RIG_NODES; i++) events += rig.nodes[i].event_count;
        kills += rig.kills;
        settled += 100 * rig.states / (rig.turns ? rig.turns : 1);
        for (int i = 0; i < 16; i++) causes[i] += rig.causes[i];
        rig_free(&rig);
    }
    if (getenv("PRESENCE_SAY")) fprintf(stderr, "hole %d damaged %d different %d\n", (int)causes[CAUSE_HOLE], (int)causes[CAUSE_DAMAGED], (int)causes[CAUSE_DIFFERENT]);
    assert_int_equal(causes[CAUSE_HOLE] + causes[CAUSE_DAMAGED] + causes[CAUSE_DIFFERENT], 0);
    assert_true(one || (causes[CAUSE_EVICTED] && causes[CAUSE_JUMPED] && causes[CAUSE_NOBODY]));
    if (getenv("PRESENCE_SAY"))
        for (int i = 0; i < 16; i++) fprintf(stderr, "cause %d: %d\n", i, (int)causes[i]);
    if (getenv("PRESENCE_SAY"))
        fprintf(stderr, "events %d kills %d settled %d\n", (int)events, (int)kills, (int)settled);
}

static const struct CMUnitTest CLUSTER_TESTS[] = {
    cmocka_unit_test(records_come_back),
    cmocka_unit_test(hostile_entries_end),
    cmocka_unit_test(nodes_agree),
};
