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
                              .kind = (enum record_kind)(1 + below64(&seed, RECORD_SESSION)),
                              .id = random_text(&seed, id, 1, USER_ID_MAX),
                              .about = below64(&seed, SIZE_MAX),
                              .node = below64(&seed, SIZE_MAX),
                              .name = random_text(&seed, name, 1, NODE_NAME_MAX),
                              .whole = below64(&seed, 2),
                              .want = (enum record_want)below64(&seed, 3),
                              .number = below64(&seed, SIZE_MAX),
                              .checksum = below64(&seed, SIZE_MAX),
                              .users = below64(&seed, 1000000),
                              .state = (enum user_state)below64(&seed, 3),
                              .status = (enum status)below64(&seed, 3),
                              .reason = (enum reason)below64(&seed, REASON_COUNT),
                              .connections = (uint16_t)below64(&seed, 65536),
                              .since = time - (int64_t)below64(&seed, 100000),
                              .untold = below64(&seed, 2) ? time - 900000 : 0,
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

enum {
    RIG_NODES = 3,
    RIG_USERS = 9,
    RIG_LINKS = 3,
    RIG_STEPS = 6000,
    RIG_MARGIN = 200000 /* nobody pings */
};

static struct span rig_id(int user)
{
    static const char *const ids[RIG_USERS] = {"a", "bb", "ccc", "d", "e", "f", "g", "h", "i"};
    return span_of(ids[user]);
}

struct rig_entry {
    struct stream_id id;
    uint64_t base;
    uint32_t epoch, records;
    struct buffer text;
};

struct rig_piece {
    STAILQ_ENTRY(rig_piece) entry;
    uint64_t request, gone;
    bool copy;
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
    int64_t since, seen, at; /* of the session; when it was told */
};

/* A node's store, as its batches make it. */
enum { RIG_SESSIONS = 256 };
struct rig_stored {
    bool known;
    struct user_record user;
    struct session_record sessions[RIG_SESSIONS];
    int session_count;
};

enum { RIG_READS = 16 };
struct rig;
struct rig_node {
    struct rig *rig;
    int number;
    bool alive, paused, down;
    bool deaf; /* what it appends arrives, but it reads nothing */
    bool slow; /* one user a turn */
    bool late; /* no entries reach it, but pieces of a copy do */
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
    size_t mark; /* of events: what a test looks at begins here */
    bool online[RIG_USERS];
    uint32_t told_epoch; /* of what was told last, */
    uint64_t told;       /* and its place there */
    /* Its store, and what is to be read from it. */
    int64_t untold;
    struct rig_stored stored[RIG_USERS];
    int64_t known, heard;
    struct leavers_wish reads[RIG_READS];
    int read_count;
    bool read_first;
    uint64_t opened, seen_open;   /* ENGINE_UP and ENGINE_EPOCH: told, and seen */
    STAILQ_HEAD(, rig_piece) out; /* pieces on their way */
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
    enum status wishes[RIG_USERS];       /* set by hand last, */
    bool wished[RIG_USERS];              /* by a node that lives since */
    int64_t now;
    bool up;
    bool faults;  /* the engine forgets, and answers are lost */
    bool quietly; /* the end of its log is lost without a sign of it */
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
    size_t causes[CAUSE_COUNT];
};

/* True if a node has yet to say what was set by hand of a user. */
static bool rig_wish_waits(const struct node *node, int user)
{
    struct record r;
    struct taker orders = taker_of(node_orders(node));
    struct taker late = taker_of((struct span){node->late.at, node->late.len});
    uint64_t logged = node->obeys ? node->obeys_logged : node->acked, n;
    bool waits = false;
    while ((n = node_take_order(&orders, UINT64_MAX, &r)))
        waits |= n > logged && r.kind == RECORD_MANUAL && spans_equal(r.id, rig_id(user));
    while (late.at < late.end) {
        record_read(&late, 0, &r);
        waits |= r.kind == RECORD_MANUAL && spans_equal(r.id, rig_id(user));
    }
    return waits;
}

/* What was in the log may be in none now. With `whole`, the whole log is gone: then an epoch begins
 * with what is known by those who come into it, so by who set it, unless that node stands still. */
static void rig_forget_wishes(struct rig *rig, bool whole)
{
    for (int user = 0; user < RIG_USERS; user++) {
        const struct rig_node *n = &rig->nodes[user % RIG_NODES];
        if (n->alive && (rig_wish_waits(&n->node, user) || (whole && !n->paused))) continue;
        rig->wished[user] = false;
    }
}

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
    ask->opened = (uint32_t)n->seen_open;
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
    n->opened += kind == ENGINE_UP || kind == ENGINE_EPOCH;
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
    rig_forget_wishes(rig, true);
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
    if (ask->n <= *last && (!rig->faults || below64(&rig->seed, 50))) return;
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

static void rig_drop_pieces(struct rig *rig, uint64_t request)
{
    STAILQ_HEAD(, rig_piece) left;
    STAILQ_INIT(&left);
    for (struct rig_piece *piece; (piece = STAILQ_FIRST(&rig->pieces));) {
        STAILQ_REMOVE_HEAD(&rig->pieces, entry);
        if (piece->request != request) {
            STAILQ_INSERT_TAIL(&left, piece, entry);
            continue;
        }
        buffer_free(&piece->text);
        free(piece);
    }
    while (STAILQ_FIRST(&left)) {
        struct rig_piece *piece = STAILQ_FIRST(&left);
        STAILQ_REMOVE_HEAD(&left, entry);
        STAILQ_INSERT_TAIL(&rig->pieces, piece, entry);
    }
}

static bool rig_has_pieces(const struct rig *rig, uint64_t request)
{
    const struct rig_piece *piece = STAILQ_FIRST(&rig->pieces);
    while (piece && piece->request != request) piece = STAILQ_NEXT(piece, entry);
    return request && piece;
}

/* What is on its way to the engine is lost with the connection. */
static void rig_drop_out(struct rig_node *n)
{
    for (struct rig_piece *piece; (piece = STAILQ_FIRST(&n->out));) {
        STAILQ_REMOVE_HEAD(&n->out, entry);
        buffer_free(&piece->text);
        free(piece);
    }
}

/* What waits of a copy that nobody reads is not sent. */
static void rig_drop_copy(struct rig_node *n, uint64_t request, uint64_t count)
{
    STAILQ_HEAD(, rig_piece) left;
    STAILQ_INIT(&left);
    for (struct rig_piece *piece; (piece = STAILQ_FIRST(&n->out));) {
        STAILQ_REMOVE_HEAD(&n->out, entry);
        if (!piece->copy || piece->request - request >= count) {
            STAILQ_INSERT_TAIL(&left, piece, entry);
            continue;
        }
        buffer_free(&piece->text);
        free(piece);
    }
    for (struct rig_piece *piece; (piece = STAILQ_FIRST(&left));) {
        STAILQ_REMOVE_HEAD(&left, entry);
        STAILQ_INSERT_TAIL(&n->out, piece, entry);
    }
}

/* Some pieces reach the engine. */
static void rig_put_pieces(struct rig *rig, struct rig_node *n)
{
    struct rig_piece *piece;
    for (size_t most = below64(&rig->seed, 4); most && (piece = STAILQ_FIRST(&n->out)); most--) {
        if (rig_has_pieces(rig, piece->gone)) return;
        STAILQ_REMOVE_HEAD(&n->out, entry);
        STAILQ_INSERT_TAIL(&rig->pieces, piece, entry);
        rig_tell(n, ENGINE_PUT)->request = piece->request;
    }
}

static void rig_tell_up(struct rig *rig, struct rig_node *n)
{
    rig_drop_out(n);
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
            if (rig->epoch) rig_tell(n, ENGINE_EPOCH)->epoch = rig->epoch;
            else rig_tell_up(rig, n); /* no answer to that: the connection is made anew */
            n->follows = false;
            break;
        case ENGINE_FOLLOW:
            n->follows = !n->down && rig->up;
            n->at = ask->after;
            n->generation = ask->request;
            break;
        case ENGINE_PIECE: {
            if (n->down || ask->opened != (uint32_t)n->opened) break;
            struct rig_piece *piece = mem_new(sizeof *piece);
            piece->request = ask->request;
            piece->gone = ask->gone;
            piece->copy = ask->copy;
            piece->text = ask->text;
            ask->text = (struct buffer){0};
            STAILQ_INSERT_TAIL(&n->out, piece, entry);
            break;
        }
        case ENGINE_DROP: rig_drop_copy(n, ask->request, ask->n); break;
        case ENGINE_PIECES:
            if (!n->down && rig->up) rig_drop_pieces(rig, n->reading);
            n->reading = ask->request;
            n->piece = 0;
            break;
        case ENGINE_AGAIN:
            if (rig->up && !n->down) rig_tell_up(rig, n);
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
    if (rig->up && !n->down) rig_put_pieces(rig, n);
    if (!rig->up || n->down || !n->follows) return;
    uint64_t acked = 0;
    for (size_t most = 1 + below64(&rig->seed, 8); most && n->sent < n->unsent_count; most--) {
        acked = n->unsent[n->sent]->n;
        rig_append(rig, n, n->unsent[n->sent]);
        if (!n->unsent_count) return;
        n->sent++;
        if (rig->faults && !below64(&rig->seed, 12)) n->sent = 0; /* answers were lost: again */
    }
    /* Not a tell of its own, which would take a step: the thread puts them together. */
    if (acked && n->unsent[0]->incarnation == n->node.incarnation) n->node.acked = acked;
    if (n->sent == n->unsent_count && below64(&rig->seed, 2)) rig_forget(n);
    if (n->deaf) return;
    struct engine_tell *tell = NULL;
    size_t most = 1 + below64(&rig->seed, 9);
    for (size_t i = 0; i < rig->log_count && most && !n->late; i++) {
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

static void rig_drop_tells(struct rig_node *n)
{
    for (struct rig_tell *t; (t = STAILQ_FIRST(&n->tells));) {
        STAILQ_REMOVE_HEAD(&n->tells, entry);
        buffer_free(&t->tell.text);
        free(t);
    }
}

/* Applies a batch to a node's store, as the store does. */
static void rig_store(struct rig_node *n, const struct store_batch *batch)
{
    for (size_t at = 0; at < batch->ops.len;) {
        struct store_op op;
        memcpy(&op, batch->ops.at + at, sizeof op);
        at += sizeof op;
        struct span id = {batch->ops.at + at, op.id_len};
        at += (size_t)op.id_len + op.text_len;
        int user = 0;
        while (op.id_len && !spans_equal(rig_id(user), id)) user++;
        struct rig_stored *s = &n->stored[user];
        struct session_record session = op.as.session;
        if (op.kind == STORE_USER) {
            user_record_state(&s->user, &op.as.user);
        } else if (op.kind == STORE_LEAVER && s->known) {
            user_record_leaver(&s->user, &op.as.user);
        } else if (op.kind == STORE_LEAVER) {
            s->user = op.as.user;
            s->user.open = false;
        }
        s->known |= op.kind == STORE_USER || op.kind == STORE_LEAVER;
        if (op.kind != STORE_SESSION) continue;
        int i = 0;
        while (i < s->session_count && s->sessions[i].from < session.from) i++;
        bool same = i < s->session_count && s->sessions[i].from == session.from;
        if (s->known) user_record_session(&s->user, &session);
        if (same && !session_known_better(&session, &s->sessions[i])) continue;
        assert_true(same || s->session_count < RIG_SESSIONS);
        if (!same)
            memmove(&s->sessions[i + 1], &s->sessions[i],
                    (size_t)(s->session_count++ - i) * sizeof session);
        s->sessions[i] = session;
        if (s->known) continue;
        s->known = true;
        s->user = (struct user_record){.first_seen = session.from,
                                       .last_seen = session.to,
                                       .offline_since = session.to,
                                       .reason = session.reason};
    }
    n->untold = batch->untold > 0 ? batch->untold : 0;
    if (batch->known) n->known = batch->known;
    if (batch->heard) n->heard = batch->heard;
}

/* Writes what the node has for its store, as the hub does. */
static void rig_write(struct rig_node *n, bool all)
{
    struct instant now = {n->rig->now, 0};
    struct store_batch batch = {0};
    store_batch_move(&n->shown.ended, &n->node.leavers);
    bool settled = n->node.state == NODE_SETTLED;
    batch.heard = node_knows(&n->node);
    batch.untold = node_untold(&n->node);
    if (settled) batch.known = n->node.since;
    if (!presence_collect(&n->shown, now, all, SIZE_MAX, &batch)) fail();
    rig_store(n, &batch);
    while (!presence_committed(&n->shown, now, SIZE_MAX)) continue;
    buffer_free(&batch.ops);
}

static void rig_reads(void *context, const struct leavers_wish *wish, bool first)
{
    struct rig_node *n = context;
    assert_true(n->read_count < RIG_READS);
    n->read_first |= first;
    n->reads[n->read_count++] = *wish;
}

/* Reads who left from the node's store, one or two a time. */
static void rig_read(struct rig_node *n)
{
    struct buffer users = {0};
    if (!n->read_count || below64(&n->rig->seed, 2)) return;
    if (n->read_first) rig_write(n, true);
    n->read_first = false;
    struct leavers_wish wish = n->reads[0];
    memmove(n->reads, n->reads + 1, (size_t)--n->read_count * sizeof *n->reads);
    bool at_end = false;
    for (size_t most = 1 + below64(&n->rig->seed, 2); most && !at_end; most--) {
        int next = 0; /* their ids are in order */
        while (next < RIG_USERS && bytes_compare(rig_id(next).at, rig_id(next).len, wish.place.id,
                                                 wish.place.id_len) <= 0)
            next++;
        at_end = next == RIG_USERS;
        if (at_end) break;
        const struct rig_stored *s = &n->stored[next];
        int first = s->session_count;
        while (first && s->sessions[first - 1].to >= wish.place.since) first--;
        bool left = !s->user.open && s->user.last_seen >= wish.place.since;
        if (s->known && (left || first < s->session_count))
            piece_leaver(&users, rig_id(next), &s->user, &s->sessions[first],
                         (size_t)(s->session_count - first));
        wish.place.id_len = (uint8_t)rig_id(next).len;
        memcpy(wish.place.id, rig_id(next).at, wish.place.id_len);
    }
    node_leavers_read(&n->node, &wish, &users, at_end ? LEAVERS_END : LEAVERS_MORE);
}

static void rig_node_start(struct rig_node *n)
{
    struct instant now = {n->rig->now, 0};
    n->alive = true;
    n->read_count = 0;
    n->opened = n->seen_open = 0;
    n->paused = false;
    presence_init(&n->shown, 3000, 20000, now);
    n->node = (struct node){.ask = rig_ask,
                            .tell = rig_cause,
                            .context = n,
                            .random = rig_random,
                            .hooks = true,
                            .read_leavers = rig_reads,
                            .margin = RIG_MARGIN,
                            .since = n->known,
                            .knew = n->heard,
                            .untold = n->untold,
                            .patient = n->event_count > 0};
    snprintf(n->node.name, sizeof n->node.name, "node-%d", n->number);
    node_init(&n->node, now, &n->shown, (uint64_t)n->number + 1);
    n->told_epoch = n->node.epoch;
    n->told = 0;
    memset(n->online, 0, sizeof n->online);
    for (int i = 0; i < RIG_USERS; i++) { /* as server_restore does */
        const struct rig_stored *s = &n->stored[i];
        struct evidence before = {n->rig->now, 48000};
        if (!s->known || !s->user.open) continue;
        presence_restore(&n->shown, now, rig_id(i), (enum status)s->user.status,
                         s->user.online_since, s->user.last_seen, before);
        node_restored(&n->node, rig_id(i));
        n->online[i] = true;
    }
    n->at = (struct stream_id){0};
    n->down = true;
    if (rig_also) rig_also(n, RIG_STARTS, NULL);
}

static void rig_node_end(struct rig_node *n)
{
    for (int i = n->number; i < RIG_USERS; i += RIG_NODES) n->rig->wished[i] = false;
    rig_forget(n);
    for (size_t i = 0; i < n->ask_count; i++) rig_ask_free(n->asks[i]);
    n->ask_count = 0;
    rig_drop_tells(n);
    rig_drop_out(n);
    node_free(&n->node);
    presence_free(&n->shown);
    n->alive = n->follows = n->deaf = n->slow = n->late = false;
    n->reading = 0;
    memset(n->links, 0, sizeof n->links);
}

/* Takes the transitions, as the hub does, which learns of another epoch behind them: joins and
 * leaves alternate, and each is at its place. */
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
        assert_true(t->sequence > n->told);
        n->told = t->sequence;
        if (rig_also) rig_also(n, RIG_TELLS, t);
        assert_int_equal(t->kind == TRANSITION_JOIN, !was && t->state != USER_OFFLINE);
        assert_int_equal(t->kind == TRANSITION_LEAVE, was && t->state == USER_OFFLINE);
        n->events = mem_resize(n->events, (n->event_count + 1) * sizeof *n->events);
        n->events[n->event_count++] = (struct rig_event){
            n->told_epoch, t->sequence,    (uint8_t)user,   t->kind,      t->state,   t->status,
            t->reason,     t->connections, t->online_since, t->last_seen, n->rig->now};
    }
    presence_clear_transitions(p);
    if (n->told_epoch != n->node.epoch) n->told = p->sequence;
    n->told_epoch = n->node.epoch;
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

/* What the hub does with whom the node has kicked; now and then there is no time for all of it. */
static void rig_close_kicked(struct rig_node *n, bool all)
{
    struct instant now = {n->rig->now, 0};
    while (n->node.kicked.len) {
        struct taker kicked = taker_of((struct span){n->node.kicked.at, n->node.kicked.len});
        struct span id = take_id(&kicked);
        struct user *user = presence_find(&n->node.own, id);
        for (int i = 0; user && user->kicked && i < RIG_USERS; i++) {
            if (!spans_equal(rig_id(i), id)) continue;
            while (n->links[i]) {
                if (!all && !below64(&n->rig->seed, 3)) return;
                presence_disconnect(&n->node.own, now, &n->conns[i][--n->links[i]], END_KICKED);
            }
            node_closed(&n->node, now, user);
            break;
        }
        buffer_drop(&n->node.kicked, (size_t)((const char *)kicked.at - n->node.kicked.at));
    }
}

/* What the node does in a turn of its hub. */
static void rig_turn(struct rig_node *n)
{
    struct rig *rig = n->rig;
    struct instant now = {rig->now, 0};
    if (!n->alive || n->paused) return;
    if (rig_also) rig_also(n, RIG_TURNS, NULL);
    presence_tick(&n->node.own, now, n->slow ? 1 : SIZE_MAX);
    for (struct rig_tell *t; !node_busy(&n->node) && (t = STAILQ_FIRST(&n->tells));) {
        if (!t->tell.n) n->seen_open += t->tell.kind == ENGINE_UP || t->tell.kind == ENGINE_EPOCH;
        if (node_tell(&n->node, now, rig->now, &t->tell)) {
            STAILQ_REMOVE_HEAD(&n->tells, entry);
            buffer_free(&t->tell.text);
            free(t);
        }
        rig_note(n);
        if (!below64(&rig->seed, 10)) break;
    }
    node_work(&n->node, now, rig->now, n->slow ? 1 : 1 + below64(&rig->seed, 8));
    rig_note(n);
    rig_close_kicked(n, false);
    node_tick(&n->node, now, n->slow ? 1 : SIZE_MAX);
    rig_note(n);
    if (!below64(&rig->seed, 4)) rig_write(n, false);
    rig_read(n);
    rig_note(n);
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

/* Sets by hand what a user wishes whom only this node sets, so that the last order is known. */
static void rig_set_manual(struct rig_node *n)
{
    struct rig *rig = n->rig;
    struct instant now = {rig->now, 0};
    int user = n->number + RIG_NODES * (int)below64(&rig->seed, RIG_USERS / RIG_NODES);
    struct user *shown = presence_find(&n->shown, rig_id(user));
    struct manual_update update = {
        .status = below64(&rig->seed, 3) ? (enum status)below64(&rig->seed, 3) : STATUS_AUTOMATIC,
        .lifetime = below64(&rig->seed, 3) ? 0 : 5000,
    };
    if (!shown) return;
    rig->wishes[user] = update.lifetime ? STATUS_AUTOMATIC : update.status;
    rig->wished[user] = node_set_manual(&n->node, now, shown, &update);
    rig_note(n);
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
        node_kick(&n->node, now, rig_id(user));
        rig->kicks++;
        rig_watch(rig, user);
        break;
    default:
        if (!below64(&rig->seed, 4)) rig_set_manual(n);
    }
}

/* What a node does at a stop in order, whether the engine takes what it said last or not. */
static void rig_node_stop(struct rig_node *n)
{
    struct instant now = {n->rig->now, 0};
    node_leave(&n->node, now, now.mono);
    rig_note(n);
    if (n->rig->up && below64(&n->rig->seed, 2)) rig_carry(n->rig, n);
    node_keep_orders(&n->node, now);
    rig_note(n);
    rig_close_kicked(n, true);
    node_keep_own(&n->node, now);
    rig_note(n);
    rig_write(n, true);
}

/* A random fault. */
static void rig_fault(struct rig *rig)
{
    struct rig_node *n = &rig->nodes[below64(&rig->seed, RIG_NODES)];
    bool between = n->alive && node_busy(&n->node) && !below64(&rig->seed, 4);
    switch (between ? 0 : below64(&rig->seed, 60)) {
    case 0:
        if (!n->alive) break;
        if (!n->paused && below64(&rig->seed, 2)) rig_node_stop(n);
        rig_node_end(n);
        rig->kills++;
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
        rig_forget_wishes(rig, false);
        rig->tails++;
        rig->run += !rig->quietly;
        for (int i = 0; i < RIG_NODES && !rig->quietly; i++)
            if (rig->nodes[i].alive && !rig->nodes[i].down) rig_tell_up(rig, &rig->nodes[i]);
        break;
    case 9:
        if (rig->log_count > 10)
            rig_log_drop(rig, 0, 1 + below64(&rig->seed, rig->log_count - 6)), rig->trims++;
        break;
    case 10: /* its connection is cut, and back at once */
        if (n->alive && !n->down && rig->up) rig_tell_up(rig, n), rig->cuts++;
        break;
    case 11: /* the engine, or the way to it, is gone for long, often with an order under way */
        if (n->alive && !n->paused && below64(&rig->seed, 2)) rig_set_manual(n);
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

/* Fails for a leave of somebody who had a socket, with what all nodes told of that user. */
static void rig_fail_leave(const struct rig *rig, int node, const struct rig_event *leave,
                           const struct rig_hold *hold)
{
    for (int i = 0; i < RIG_NODES; i++)
        for (size_t k = 0; k < rig->nodes[i].event_count; k++) {
            const struct rig_event *e = &rig->nodes[i].events[k];
            if (e->epoch == leave->epoch && e->user == leave->user)
                print_message("node %d: %d %s, %d connections, %s\n", i, (int)e->position,
                              TRANSITION_NAMES[e->kind], e->connections, REASON_NAMES[e->reason]);
        }
    fail_msg("node %d: user %d left at %08x-%d with a socket from %d to %d", node, leave->user,
             leave->epoch, (int)leave->position, (int)(hold->from - rig->times[0].at),
             (int)(hold->to - rig->times[0].at));
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
                    rig->holds[h].to > at)
                    rig_fail_leave(rig, i, e, &rig->holds[h]);
        }
    }
}

static void rig_step(struct rig *rig, bool faults)
{
    rig->faults = faults;
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

/* What was set by hand last holds everywhere, wherever its order was lost on the way. */
static void rig_check_wish(const struct rig *rig, int user)
{
    for (int i = 0; i < RIG_NODES && rig->wished[user]; i++) {
        const struct user *shown = presence_find(&rig->nodes[i].shown, rig_id(user));
        const struct manual *manual = shown ? user_manual(shown) : NULL;
        enum status status = manual ? manual->status : STATUS_AUTOMATIC;
        if (status != rig->wishes[user])
            fail_msg("node %d has %d by hand of user %d, whose wish was %d", i, status, user,
                     rig->wishes[user]);
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
        assert_int_equal(n->node.twins, 0);
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
        rig_check_wish(rig, user);
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

/* True if two nodes told the same at a place of the log. */
static bool rig_same_event(const struct rig_event *e, const struct rig_event *f)
{
    bool same = e->user == f->user && e->kind == f->kind && e->state == f->state;
    if (!same || e->kind == TRANSITION_CONNECTIONS) return same;
    if (e->kind == TRANSITION_LEAVE) return e->reason == f->reason && e->seen == f->seen;
    return e->status == f->status && (e->state == USER_OFFLINE || e->since == f->since);
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
                    if (rig_same_event(e, f)) continue;
                    fail_msg("%08x-%d is user %d kind %d %s seen %d since %d at node %d, user %d "
                             "kind %d %s seen %d since %d at node %d",
                             e->epoch, (int)e->position, e->user, e->kind, REASON_NAMES[e->reason],
                             (int)(e->seen - 1764000000000), (int)(e->since - 1764000000000), a,
                             f->user, f->kind, REASON_NAMES[f->reason],
                             (int)(f->seen - 1764000000000), (int)(f->since - 1764000000000), b);
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

static void rig_begin(struct rig *rig, uint64_t seed)
{
    *rig = (struct rig){.seed = seed, .now = 1764000000000, .up = true};
    STAILQ_INIT(&rig->pieces);
    for (int i = 0; i < RIG_NODES; i++) {
        struct rig_node *n = &rig->nodes[i];
        n->rig = rig;
        n->number = i;
        STAILQ_INIT(&n->tells);
        STAILQ_INIT(&n->out);
        rig_node_start(n);
        rig_tell_up(rig, n);
    }
}

/* ---- What a node does, one rule a test, with an engine that works ---- */

static struct rig calm;
static const struct instant *calm_now(void)
{
    static struct instant now;
    now = (struct instant){calm.now, 0};
    return &now;
}

/* Lets so much time pass. */
static void calm_pass(int64_t ms)
{
    for (int64_t until = calm.now + ms; calm.now < until;) rig_step(&calm, false);
}

/* What tests look at begins here. */
static void calm_mark(void)
{
    for (int i = 0; i < RIG_NODES; i++) calm.nodes[i].mark = calm.nodes[i].event_count;
}

/* Three nodes that have settled. */
static void calm_begin(void)
{
    rig_begin(&calm, 20261129);
    calm_pass(15000);
    for (int i = 0; i < RIG_NODES; i++) assert_int_equal(calm.nodes[i].node.state, NODE_SETTLED);
    calm_mark();
}

/* The same place in the log means the same to all, and nobody had a reason to begin anew. */
static void calm_end(void)
{
    rig_compare(&calm);
    assert_int_equal(calm.causes[CAUSE_HOLE] + calm.causes[CAUSE_DAMAGED] +
                         calm.causes[CAUSE_DIFFERENT] + calm.causes[CAUSE_BACK],
                     0);
    rig_free(&calm);
}

/* A user comes to a node with one more tab, */
static void calm_open(int node, int user)
{
    struct rig_node *n = &calm.nodes[node];
    struct session_conn *conn = &n->conns[user][n->links[user]++];
    *conn = (struct session_conn){0};
    presence_connect(&n->node.own, *calm_now(), rig_id(user), conn);
}

/* and closes the newest. */
static void calm_close(int node, int user, enum ending ending)
{
    struct rig_node *n = &calm.nodes[node];
    assert_true(n->links[user]);
    presence_disconnect(&n->node.own, *calm_now(), &n->conns[user][--n->links[user]], ending);
}

static void calm_say_status(int node, int user, enum status status)
{
    struct rig_node *n = &calm.nodes[node];
    presence_set_status(&n->node.own, *calm_now(), &n->conns[user][0], status);
}

/* What the hub does of a request to set a status by hand; the user is shown. */
static void calm_set_manual(int node, int user, enum status status, int64_t lifetime)
{
    struct rig_node *n = &calm.nodes[node];
    struct user *shown = presence_find(&n->shown, rig_id(user));
    struct manual_update update = {.status = status, .lifetime = lifetime, .len = 3};
    memcpy(update.message, "tea", 3);
    assert_non_null(shown);
    assert_true(node_set_manual(&n->node, *calm_now(), shown, &update));
    rig_note(n);
}

/* How often a node told this of a user since the mark; *last is the last one. */
static int calm_count(int node, int user, enum transition_kind kind, const struct rig_event **last)
{
    const struct rig_node *n = &calm.nodes[node];
    int count = 0;
    for (size_t i = n->mark; i < n->event_count; i++) {
        if (n->events[i].user != user || n->events[i].kind != kind) continue;
        count++;
        *last = &n->events[i];
    }
    return count;
}

/* Every living node told this once, at the same position; that of the first of them. */
static const struct rig_event *calm_once(int user, enum transition_kind kind)
{
    const struct rig_event *first = NULL, *e = NULL;
    for (int i = 0; i < RIG_NODES; i++) {
        if (!calm.nodes[i].alive) continue;
        int count = calm_count(i, user, kind, &e);
        if (count != 1)
            fail_msg("node %d told %d times %s of %d", i, count, TRANSITION_NAMES[kind], user);
        if (!first) first = e;
        assert_int_equal(e->epoch, first->epoch);
        assert_int_equal(e->position, first->position);
        assert_int_equal(e->reason, first->reason);
        assert_int_equal(e->status, first->status);
        assert_int_equal(e->connections, first->connections);
        assert_int_equal(e->since, first->since);
    }
    assert_non_null(first);
    return first;
}

static void calm_never(int user, enum transition_kind kind)
{
    const struct rig_event *e;
    for (int i = 0; i < RIG_NODES; i++)
        if (calm.nodes[i].alive && calm_count(i, user, kind, &e))
            fail_msg("node %d told a %s of %d, %s", i, TRANSITION_NAMES[kind], user,
                     REASON_NAMES[e->reason]);
}

/* A user as a node shows them, or NULL. */
static const struct user *calm_shown(int node, int user)
{
    return presence_find(&calm.nodes[node].shown, rig_id(user));
}

/* All living nodes show this of a user. */
static void calm_shows(int user, enum user_state state, int connections)
{
    for (int i = 0; i < RIG_NODES; i++) {
        if (!calm.nodes[i].alive) continue;
        const struct user *shown = calm_shown(i, user);
        assert_int_equal(shown ? shown->state : USER_OFFLINE, state);
        assert_int_equal(shown ? shown->connections : 0, connections);
    }
}

/* A leave for want of a node is at last_seen and the threshold: not before, and soon after, or so
 * many ms later. */
static void calm_lost(int user, int64_t later)
{
    const struct rig_event *e = calm_once(user, TRANSITION_LEAVE);
    assert_int_equal(e->reason, REASON_NODE_LOST);
    if (e->at < e->seen + 20000 || e->at > e->seen + 22000 + later)
        fail_msg("user %d was lost %d ms behind the last sign", user, (int)(e->at - e->seen));
}

/* The node's connection to the engine breaks, for itself; and is there again. */
static void calm_down(int node)
{
    struct rig_node *n = &calm.nodes[node];
    rig_tell(n, ENGINE_DOWN);
    n->down = true;
}

static void calm_up(int node)
{
    rig_tell_up(&calm, &calm.nodes[node]);
}

static void calm_start(int node)
{
    rig_node_start(&calm.nodes[node]);
    calm_up(node);
}

/* A clean close of the last tab, here or anywhere, ends what is cached elsewhere: by one leave, and
 * without the help of the node that has it cached. */
static void final_end_ends_what_is_cached(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(1, 0);
    calm_pass(1000);
    calm_close(0, 0, END_DROPPED);
    calm_pass(1000);
    calm_shows(0, USER_LIVE, 1);
    calm_mark();
    calm.nodes[0].paused = true;
    calm_close(1, 0, END_CLEAN);
    calm_pass(1000);
    assert_int_equal(calm_shown(1, 0) ? calm_shown(1, 0)->state : USER_OFFLINE, USER_OFFLINE);
    calm.nodes[0].paused = false;
    calm_pass(500);
    assert_int_equal(calm_once(0, TRANSITION_LEAVE)->reason, REASON_CLOSED);
    assert_int_equal(calm.nodes[0].node.own.cached, 0);
    calm_pass(30000);
    calm_once(0, TRANSITION_LEAVE);
    calm_never(0, TRANSITION_JOIN);
    calm_end();
}

/* A clean close where another node has a tab is another number of connections, nothing else. */
static void close_with_a_tab_elsewhere_is_no_leave(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(1, 0);
    calm_pass(1000);
    calm_mark();
    calm_close(0, 0, END_CLEAN);
    calm_pass(30000);
    assert_int_equal(calm_once(0, TRANSITION_CONNECTIONS)->connections, 1);
    calm_never(0, TRANSITION_LEAVE);
    calm_never(0, TRANSITION_STATUS);
    calm_shows(0, USER_LIVE, 1);
    calm_end();
}

/* A tab that comes back on another node makes the first one drop what it has cached. */
static void tab_that_comes_back_elsewhere_is_no_leave(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_pass(1000);
    calm_close(0, 0, END_DROPPED);
    calm_pass(1000);
    calm_mark();
    calm_open(1, 0);
    calm_pass(1000);
    assert_int_equal(calm.nodes[0].node.own.cached, 0);
    for (int i = 0; i < RIG_NODES; i++) assert_null(calm_shown(i, 0)->said->next);
    calm_pass(30000);
    calm_never(0, TRANSITION_LEAVE);
    calm_never(0, TRANSITION_JOIN);
    calm_shows(0, USER_LIVE, 1);
    calm_end();
}

/* HTTP heartbeats on one node outlast a connection on another. */
static void heartbeats_elsewhere_are_kept(void **unused)
{
    (void)unused;
    calm_begin();
    presence_heartbeat(&calm.nodes[0].node.own, *calm_now(), rig_id(0), (const uint8_t[16]){1});
    int64_t heard = calm.now;
    calm_pass(1000);
    calm_mark();
    calm_open(1, 0);
    calm_pass(1000);
    assert_int_equal(calm.nodes[0].node.own.cached, 1);
    calm_close(1, 0, END_DROPPED);
    calm_pass(10000); /* more than the grace */
    calm_shows(0, USER_CACHED, 0);
    calm_pass(15000);
    const struct rig_event *e = calm_once(0, TRANSITION_LEAVE);
    assert_int_equal(e->reason, REASON_TIMEOUT);
    assert_true(e->at >= heard + 20000 && e->at < heard + 22000);
    calm_end();
}

/* Of the nodes on which a user is live, the most available status counts. */
static void most_available_status_counts(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(1, 0);
    for (int a = STATUS_ONLINE; a <= STATUS_AWAY; a++)
        for (int b = STATUS_ONLINE; b <= STATUS_AWAY; b++) {
            calm_say_status(0, 0, (enum status)a);
            calm_say_status(1, 0, (enum status)b);
            calm_pass(1500);
            for (int i = 0; i < RIG_NODES; i++)
                assert_int_equal(calm_shown(i, 0)->status, a < b ? a : b);
        }
    /* What is cached says nothing beside who is live. */
    calm_say_status(0, 0, STATUS_ONLINE);
    calm_pass(1000);
    calm_close(0, 0, END_DROPPED);
    calm_pass(1000);
    for (int i = 0; i < RIG_NODES; i++) assert_int_equal(calm_shown(i, 0)->status, STATUS_AWAY);
    calm_end();
}

/* A kick is one leave everywhere; what was said by a node that had not read of it does not count,
 * and who comes back afterwards is online. */
static void kick_ends_a_user_everywhere(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(1, 0);
    calm_pass(1000);
    calm_mark();
    calm.nodes[0].deaf = true;
    node_kick(&calm.nodes[2].node, *calm_now(), rig_id(0));
    calm_pass(500);
    calm_open(0, 0); /* behind the kick, of which node 0 knows nothing */
    calm_pass(3000);
    for (int i = 1; i < RIG_NODES; i++)
        assert_int_equal(calm_shown(i, 0) ? calm_shown(i, 0)->state : USER_OFFLINE, USER_OFFLINE);
    assert_int_equal(calm.nodes[1].links[0], 0);
    calm.nodes[0].deaf = false;
    calm_pass(1000);
    assert_int_equal(calm.nodes[0].links[0], 0);
    assert_int_equal(calm_once(0, TRANSITION_LEAVE)->reason, REASON_KICKED);
    calm_never(0, TRANSITION_JOIN);
    calm_mark();
    calm_open(0, 0);
    calm_pass(1000);
    calm_once(0, TRANSITION_JOIN);
    calm_shows(0, USER_LIVE, 1);
    calm_pass(10000);
    for (int i = 0; i < RIG_NODES; i++)
        assert_true(STAILQ_EMPTY(&calm.nodes[i].node.replica.kicks));
    calm_end();
}

/* However long a hub takes to close the tabs of whom it read to be kicked, and whatever else is new
 * of them: what is said meanwhile does not bring them back. */
static void kick_is_over_at_once_for_the_others(void **unused)
{
    (void)unused;
    calm_begin();
    for (int round = 0; round < 300; round++) {
        int user = round % RIG_USERS;
        for (int tabs = 2 + (int)below64(&calm.seed, 5); tabs; tabs--)
            if (calm.nodes[tabs % 2].links[user] < RIG_LINKS) calm_open(tabs % 2, user);
        calm_pass(500);
        calm_mark();
        node_kick(&calm.nodes[2].node, *calm_now(), rig_id(user));
        for (int i = 0; i < 4; i++) {
            int node = (int)below64(&calm.seed, 2);
            if (calm.nodes[node].links[user])
                calm_say_status(node, user, i % 2 ? STATUS_AWAY : STATUS_BUSY);
            rig_step(&calm, false);
        }
        calm_pass(500);
        assert_int_equal(calm_once(user, TRANSITION_LEAVE)->reason, REASON_KICKED);
        calm_never(user, TRANSITION_JOIN);
        calm_shows(user, USER_OFFLINE, 0);
    }
    calm_end();
}

/* Users of a node that is lost are cached: who comes back anywhere never left, who does not leaves
 * once. Node 0, which coordinates, is lost as well while that is under way: the next goes on. */
static void users_of_a_lost_node_may_come_back(void **unused)
{
    (void)unused;
    calm_begin();
    for (int user = 0; user < 4; user++) calm_open(2, user);
    calm_open(0, 4);
    calm_pass(1000);
    calm_mark();
    rig_node_end(&calm.nodes[2]);
    calm_pass(4000);
    calm_shows(0, USER_LIVE, 1);
    calm_pass(10000); /* five beats, and a little */
    for (int user = 0; user < 4; user++) calm_shows(user, USER_CACHED, 0);
    calm_open(0, 0);
    calm_open(1, 1);
    calm_pass(1000);
    rig_node_end(&calm.nodes[0]);
    calm_pass(25000);
    for (int user = 0; user < 5; user++) calm_never(user, TRANSITION_JOIN);
    calm_never(1, TRANSITION_LEAVE);
    /* Until it is known that node 0 does not say so, they wait for it. */
    for (int user = 0; user < 5; user++)
        if (user != 1) calm_lost(user, NODE_BEATS * NODE_BEAT_MS);
    calm_shows(1, USER_LIVE, 1);
    calm_end();
}

/* A node that starts again evicts its former self at once; who comes back to it never left. */
static void restart_evicts_at_once(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(2, 0);
    calm_open(2, 1);
    calm_pass(1000);
    calm_mark();
    rig_node_end(&calm.nodes[2]);
    calm_start(2);
    calm_pass(2000);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(calm_shown(i, 0)->state, USER_CACHED);
        assert_int_equal(calm_shown(i, 1)->state, USER_CACHED);
    }
    calm_open(2, 1);
    calm_pass(25000);
    calm_lost(0, 0);
    for (int user = 0; user < 2; user++) calm_never(user, TRANSITION_JOIN);
    calm_never(1, TRANSITION_LEAVE);
    calm_shows(1, USER_LIVE, 1);
    calm_end();
}

/* A node that stops in order says so: nobody waits for five beats. */
static void leaving_evicts_at_once(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(2, 0);
    calm_open(2, 1);
    calm_pass(1000);
    calm_mark();
    node_leave(&calm.nodes[2].node, *calm_now(), calm.now);
    calm_pass(500);
    rig_node_end(&calm.nodes[2]);
    calm_pass(1000);
    calm_shows(0, USER_CACHED, 0);
    calm_open(1, 1);
    calm_pass(1000); /* nobody waits for who is there */
    for (int i = 0; i < 2; i++) assert_null(calm_shown(i, 1)->said->next);
    calm_pass(24000);
    calm_lost(0, 0);
    calm_never(1, TRANSITION_LEAVE);
    calm_end();
}

/* Who stops has its own users in the store as it knows them, whether what it wrote has come back or
 * not. */
static void leaving_keeps_its_own(void **unused)
{
    (void)unused;
    struct rig_node *n = &calm.nodes[2];
    calm_begin();
    calm_open(2, 0);
    calm_pass(1000);
    n->deaf = true; /* it reads nothing: what it writes is taken or not */
    calm_open(2, 1);
    for (int turn = 0; turn < 5; turn++) rig_turn(n);
    calm_open(2, 2); /* behind what is written: its turn does not come */
    calm_set_manual(2, 0, STATUS_AWAY, 0);
    rig_node_stop(n);
    for (int user = 0; user < 3; user++) assert_int_equal(calm_shown(2, user)->state, USER_LIVE);
    assert_int_equal(user_manual(calm_shown(2, 0))->status, STATUS_AWAY);
    calm_end();
}

/* An emptied engine is no event: nobody leaves or joins, sessions go on. Users of a node that is
 * absent are stated in its name, and end by the threshold. */
static void nobody_leaves_for_a_new_epoch(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(1, 0);
    calm_open(1, 1);
    calm_open(2, 2);
    calm_open(2, 3);
    calm_pass(1000);
    int64_t since[4];
    for (int user = 0; user < 4; user++) since[user] = calm_shown(0, user)->online_since;
    calm_mark();
    uint32_t before = calm.nodes[0].node.epoch;
    rig_node_end(&calm.nodes[2]);
    rig_renew(&calm, 0);
    calm_pass(7000); /* who was living in the old view is waited for */
    for (int i = 0; i < 2; i++) assert_int_equal(calm.nodes[i].node.state, NODE_READING);
    calm_pass(7000); /* but not for ever */
    assert_int_equal(calm.renewed, 2);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(calm.nodes[i].node.state, NODE_SETTLED);
        assert_true(calm.nodes[i].node.epoch != before);
        for (int user = 0; user < 4; user++)
            assert_int_equal(calm_shown(i, user)->online_since, since[user]);
    }
    calm_shows(0, USER_LIVE, 2);
    calm_shows(1, USER_LIVE, 1);
    calm_shows(2, USER_CACHED, 0);
    calm_open(0, 3);
    calm_pass(15000);
    for (int user = 0; user < 4; user++) calm_never(user, TRANSITION_JOIN);
    for (int user = 0; user < 4; user++)
        if (user != 2) calm_never(user, TRANSITION_LEAVE);
    calm_lost(2, 0);
    calm_end();
}

static void calm_has_manual(int user, enum status status)
{
    for (int i = 0; i < RIG_NODES; i++) {
        const struct user *shown = calm_shown(i, user);
        const struct manual *manual = shown ? user_manual(shown) : NULL;
        if (!manual) fail_msg("node %d has nothing by hand of %d", i, user);
        else assert_int_equal(manual->status, status);
        assert_true(span_is(status_text_span(manual->message), "tea"));
    }
}

/* What is set by hand outlives an epoch, a copy, and its user's going; what was set while alone is
 * said on return. */
static void manual_status_survives(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(1, 1);
    calm_pass(1000);
    calm_set_manual(1, 0, STATUS_BUSY, 0);
    calm_set_manual(2, 1, STATUS_OFFLINE, 0);
    calm_pass(1000);
    calm_close(1, 1, END_CLEAN);
    calm_pass(1000);
    calm_has_manual(0, STATUS_BUSY);
    calm_has_manual(1, STATUS_OFFLINE);
    for (int i = 0; i < RIG_NODES; i++) assert_int_equal(calm_shown(i, 0)->status, STATUS_BUSY);
    rig_renew(&calm, 0);
    calm_pass(15000);
    calm_has_manual(0, STATUS_BUSY);
    calm_has_manual(1, STATUS_OFFLINE);
    rig_node_end(&calm.nodes[2]);
    calm_start(2);
    calm_pass(5000);
    calm_has_manual(0, STATUS_BUSY);
    calm_has_manual(1, STATUS_OFFLINE);
    calm_down(2);
    calm_pass(500);
    calm_set_manual(2, 0, STATUS_AWAY, 0);
    calm_pass(500);
    assert_int_equal(user_manual(calm_shown(0, 0))->status, STATUS_BUSY);
    assert_int_equal(user_manual(calm_shown(2, 0))->status, STATUS_AWAY);
    calm_up(2);
    calm_pass(5000);
    calm_has_manual(0, STATUS_AWAY);
    calm_has_manual(1, STATUS_OFFLINE);
    calm_end();
}

/* The node that settles an epoch if all know the same. */
static int calm_first(void)
{
    int first = 0;
    for (int i = 1; i < RIG_NODES; i++)
        if (calm.nodes[i].node.id < calm.nodes[first].node.id) first = i;
    return first;
}

/* What one node did not hear of, as it stood still or was cut off, it does not take back when the
 * engine has forgotten all: who knows most states what was set by hand, and who is absent. */
static void epoch_begins_with_what_was_known_last(void **unused)
{
    (void)unused;
    for (int cut = 0; cut < 2; cut++) {
        calm_begin();
        int late = calm_first(), other = (late + 1) % RIG_NODES, third = (late + 2) % RIG_NODES;
        calm_open(other, 0);
        calm_open(third, 1);
        calm_open(third, 2);
        calm_open(other, 3);
        calm_pass(1000);
        calm_set_manual(other, 0, STATUS_BUSY, 0);
        calm_pass(1000);
        if (cut) calm_down(late);
        calm.nodes[late].paused = !cut;
        calm_pass(2000);
        calm_set_manual(other, 0, STATUS_AWAY, 0);
        calm_set_manual(other, 3, STATUS_BUSY, 0);
        calm_close(third, 1, END_CLEAN);
        calm_pass(500);
        rig_node_end(&calm.nodes[third]);
        rig_renew(&calm, 0);
        calm_mark();
        if (cut) calm_up(late);
        calm.nodes[late].paused = false;
        calm_pass(13000);
        for (int i = 0; i < RIG_NODES; i++) {
            if (i == third) continue;
            assert_int_equal(user_manual(calm_shown(i, 0))->status, STATUS_AWAY);
            assert_non_null(calm_shown(i, 3));
            assert_int_equal(user_manual(calm_shown(i, 3))->status, STATUS_BUSY);
        }
        calm_shows(1, USER_OFFLINE, 0);
        calm_shows(2, USER_CACHED, 0);
        calm_never(1, TRANSITION_JOIN);
        calm_end();
    }
}

/* Nodes of a version that takes another for the one to settle an epoch do not wait for ever. */
static void epoch_is_settled_in_the_end(void **unused)
{
    (void)unused;
    calm_begin();
    int first = calm_first(), latest = -1;
    calm_open(first, 0);
    calm_pass(1000);
    calm.nodes[first].paused = true; /* so that another one knows more */
    calm_pass(3000);
    rig_renew(&calm, 0);
    calm.nodes[first].paused = false;
    for (int tries = 0; latest < 0; tries++) {
        assert_true(tries < 1000);
        rig_step(&calm, false);
        for (int i = 0; i < RIG_NODES; i++) {
            const struct node *node = &calm.nodes[i].node;
            if (node->state == NODE_READING && node->said_stated && node_coordinates(node) &&
                i != first)
                latest = i;
        }
        if (latest < 0) continue;
        calm.nodes[latest].node.said_settled = true; /* it waits for another one */
    }
    calm_pass(15000);
    for (int i = 0; i < RIG_NODES; i++) assert_int_equal(calm.nodes[i].node.state, NODE_READING);
    calm_pass(10000);
    for (int i = 0; i < RIG_NODES; i++) assert_int_equal(calm.nodes[i].node.state, NODE_SETTLED);
    calm_end();
}

/* Who set something by hand, or kicked, has an answer: if the engine goes before it has the entry,
 * it is done here, and what is set is said on return. */
static void orders_outlive_the_engine(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(2, 1);
    calm_pass(1000);
    calm_set_manual(1, 0, STATUS_BUSY, 0);
    calm_pass(1000);
    calm_set_manual(1, 0, STATUS_AWAY, 0);
    calm_set_manual(1, 0, STATUS_BUSY, 0); /* as it is shown, but not as it will be */
    calm_down(1);
    node_kick(&calm.nodes[2].node, *calm_now(), rig_id(1));
    calm_down(2);
    calm_pass(500);
    assert_int_equal(calm.nodes[2].links[1], 0);
    assert_int_equal(user_manual(calm_shown(1, 0))->status, STATUS_BUSY);
    calm_set_manual(0, 0, STATUS_OFFLINE, 0);
    calm_pass(500);
    calm_up(1);
    calm_up(2);
    calm_pass(5000);
    calm_has_manual(0, STATUS_BUSY);
    calm_pass(60000); /* the others wait for whom an incarnation had that is no more */
    assert_null(calm_shown(0, 1));
    assert_int_equal(node_orders(&calm.nodes[1].node).len, 0);
    calm_end();
}

/* However often it is set by hand while alone, what waits is bounded by the users, and the last one
 * counts. */
static void what_waits_is_what_was_set_last(void **unused)
{
    (void)unused;
    struct node *node = &calm.nodes[2].node;
    calm_begin();
    for (int user = 0; user < 3; user++) calm_open(2, user);
    calm_pass(1000);
    calm_down(2);
    calm_pass(1000);
    for (int i = 0; i < 20000; i++) {
        calm_set_manual(2, i % 3, i / 3 % 2 ? STATUS_BUSY : STATUS_AWAY, 0);
        assert_true(node->late.len <= NODE_LATE_BYTES);
    }
    for (int user = 0; user < 3; user++) calm_set_manual(2, user, STATUS_OFFLINE, 0);
    calm_set_manual(2, 1, STATUS_BUSY, 0);
    node_trim_late(node);
    assert_in_range(node->late.len, 1, 300);
    calm_up(2);
    calm_pass(5000);
    calm_has_manual(0, STATUS_OFFLINE);
    calm_has_manual(1, STATUS_BUSY);
    calm_has_manual(2, STATUS_OFFLINE);
    calm_end();
}

/* What the engine is known to have is not said again: somebody may have set another since. */
static void order_in_the_log_is_said_once(void **unused)
{
    (void)unused;
    for (int at_once = 0; at_once < 2; at_once++) { /* down and up in one turn, or not */
        calm_begin();
        calm_open(0, 0);
        calm_pass(1000);
        calm.nodes[1].deaf = true;
        calm_set_manual(1, 0, STATUS_BUSY, 0);
        calm_pass(500);
        calm_set_manual(0, 0, STATUS_AWAY, 0);
        calm_pass(500);
        assert_int_not_equal(calm.nodes[1].node.orders.len, 0);
        calm.nodes[1].deaf = false;
        calm_down(1);
        if (!at_once) calm_pass(500);
        if (!at_once) assert_int_equal(user_manual(calm_shown(1, 0))->status, STATUS_BUSY);
        calm_up(1);
        calm_pass(5000);
        calm_has_manual(0, STATUS_AWAY);
        calm_end();
    }
}

/* What a node orders that was taken for dead, and does not know it yet, is in the log and counts
 * for nobody: it is said again. */
static void order_of_the_evicted_is_said_again(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_pass(1000);
    calm.nodes[1].paused = true;
    calm_pass(15000);
    calm.nodes[1].paused = false;
    calm.nodes[1].deaf = true;
    calm_set_manual(1, 0, STATUS_BUSY, 0);
    calm_pass(500);
    assert_int_not_equal(calm.nodes[1].node.acked, 0);
    calm.nodes[1].deaf = false;
    calm_pass(5000);
    calm_has_manual(0, STATUS_BUSY);
    calm_end();
}

/* What is set by hand for a time ends then, by one transition. */
static void manual_status_ends_once(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(2, 0);
    calm_pass(1000);
    calm_set_manual(1, 0, STATUS_BUSY, 5000);
    int64_t end = calm.now + 5000;
    calm_pass(1000);
    calm_has_manual(0, STATUS_BUSY);
    calm_mark();
    calm_pass(10000);
    const struct rig_event *e = calm_once(0, TRANSITION_STATUS);
    assert_int_equal(e->status, STATUS_ONLINE);
    assert_true(e->at >= end && e->at < end + 1500);
    for (int i = 0; i < RIG_NODES; i++) assert_null(user_manual(calm_shown(i, 0)));
    calm_end();
}

/* Everything of a table that entries still to come may depend on. */
static void calm_table_text(const struct node *node, const struct presence *p, struct buffer *out)
{
    const struct replica *r = &node->replica;
    const struct kick *kick;
    struct presence_walk walk = {0};
    for (struct user *user; (user = presence_walk_next(p, &walk));) {
        const struct manual *manual = user_manual(user);
        if (!user->state && !manual) continue;
        rig_user_text(node, user, out);
        buffer_print(out, "  seen %" PRId64 "\n", atomic_load(&user->last_seen));
        if (manual)
            buffer_print(out, "  %d %" PRId64 " %" PRId64 " %.*s\n", manual->status, manual->until,
                         manual->hidden, (int)status_text_span(manual->message).len,
                         status_text_span(manual->message).at);
    }
    for (kick = STAILQ_FIRST(&r->kicks); kick; kick = STAILQ_NEXT(kick, entry))
        buffer_print(out, "kick %.*s %d\n", kick->id_len, kick->id, (int)kick->position);
    uint64_t sum = 0;
    for (size_t i = 0; i < r->count; i++) {
        const struct incarnation *inc = r->incarnations[i];
        if (!inc->n) continue;
        uint64_t one = inc->id + inc->node * 3 + inc->n * 5 + inc->read * 7;
        sum += one * 0x9e3779b97f4a7c15u + 2 * inc->evicted + inc->users * 4 + inc->live * 1024;
        assert_int_equal(inc->name[0], 'n');
    }
    buffer_print(out, "%" PRIx64 " %" PRIx64 " %d %d\n", sum, r->checksum, (int)r->next,
                 (int)r->delivered);
    buffer_add(out, "", 1);
}

/* A joiner has all that the others have: who is live, cached and lost, what is set by hand, kicks
 * that somebody has not read, the writers. */
static void joiner_takes_the_table_over(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(1, 0);
    calm_open(1, 1);
    calm_open(2, 2);
    calm_open(0, 3);
    calm_pass(1000);
    calm_close(1, 1, END_AWAY);
    presence_heartbeat(&calm.nodes[0].node.own, *calm_now(), rig_id(4), (const uint8_t[16]){1});
    calm_set_manual(1, 0, STATUS_AWAY, 60000);
    node_say(&calm.nodes[0].node, *calm_now(),
             &(struct record){.kind = RECORD_DELIVERED, .number = 7});
    rig_node_end(&calm.nodes[2]);
    calm_start(2);
    calm.nodes[1].deaf = true;
    node_kick(&calm.nodes[0].node, *calm_now(), rig_id(3));
    calm_pass(1700);
    assert_int_equal(calm.nodes[2].node.state, NODE_SETTLED);
    assert_false(STAILQ_EMPTY(&calm.nodes[2].node.replica.kicks));
    calm.nodes[1].deaf = false;
    for (int tries = 0; calm.nodes[0].node.replica.next != calm.nodes[2].node.replica.next;
         tries++) {
        assert_true(tries < 1000);
        rig_turn(&calm.nodes[0]);
        rig_turn(&calm.nodes[2]);
        rig_carry(&calm, &calm.nodes[0]);
        rig_carry(&calm, &calm.nodes[2]);
    }
    struct buffer a = {0}, b = {0};
    calm_table_text(&calm.nodes[0].node, &calm.nodes[0].shown, &a);
    calm_table_text(&calm.nodes[2].node, &calm.nodes[2].shown, &b);
    assert_string_equal(a.at, b.at);
    assert_true(strstr(a.at, "kick d") && strstr(a.at, "60000") == NULL);
    assert_int_equal(calm_shown(2, 2)->state, USER_CACHED);
    assert_true(calm_shown(2, 2)->said->evicted);
    buffer_free(&a);
    buffer_free(&b);
    calm_end();
}

/* A node whose store was of a cluster does not settle an empty engine by itself: the users that
 * others still show would leave. */
static void patient_node_waits_for_others(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(2, 0);
    calm_open(1, 1);
    calm_pass(1000);
    calm_mark();
    rig_node_end(&calm.nodes[2]);
    rig_node_end(&calm.nodes[0]);
    calm_down(1);
    rig_renew(&calm, 0);
    rig_node_start(&calm.nodes[0]);
    assert_true(calm.nodes[0].node.patient);
    calm_up(0);
    calm_pass(3500);
    assert_int_equal(calm.nodes[0].node.state, NODE_READING);
    calm_up(1);
    calm_pass(12500);
    assert_int_equal(calm.nodes[0].node.state, NODE_SETTLED);
    calm_shows(0, USER_CACHED, 0);
    calm_shows(1, USER_LIVE, 1);
    calm_pass(10000);
    calm_lost(0, 0);
    calm_end();
}

/* Who comes when an epoch has begun and nothing was written in it yet, goes on with it: also if who
 * began it is gone. */
static void empty_epoch_is_gone_on_with(void **unused)
{
    (void)unused;
    calm_begin();
    for (int i = 0; i < RIG_NODES; i++) rig_node_end(&calm.nodes[i]);
    memset(calm.causes, 0, sizeof calm.causes);
    rig_renew(&calm, 77);
    for (int i = 0; i < RIG_NODES; i++) calm_start(i);
    calm_pass(12500);
    assert_int_equal(calm.epoch, 77);
    for (int i = 0; i < RIG_NODES; i++) assert_int_equal(calm.nodes[i].node.state, NODE_SETTLED);
    assert_int_equal(calm.causes[CAUSE_NOBODY], 0);
    calm_end();
}

/* Beats that are written while an epoch waits for others do not say from where on an outbox is
 * whole: all of the epoch before is in it. */
static void outboxes_are_whole_behind_an_epoch(void **unused)
{
    (void)unused;
    calm_begin();
    calm_down(2);
    rig_renew(&calm, 0);
    rig_tell_up(&calm, &calm.nodes[0]);
    rig_tell_up(&calm, &calm.nodes[1]);
    calm_pass(7000);
    assert_int_equal(calm.nodes[0].node.state, NODE_READING);
    assert_true(calm.nodes[0].node.replica.beats > 1);
    calm_up(2);
    calm_pass(8000);
    for (int i = 0; i < RIG_NODES; i++) {
        const struct node *node = &calm.nodes[i].node;
        assert_int_equal(node->state, NODE_SETTLED);
        assert_int_equal(node->replica.incarnations[INCARNATION_SELF]->kept, 0);
    }
    calm_end();
}

/* An outbox with a gap is given up behind an epoch if another has none, and kept if there is no
 * better one. */
static void outbox_with_a_gap_is_given_up(void **unused)
{
    (void)unused;
    for (int alone = 0; alone < 2; alone++) {
        calm_begin();
        struct node *second = &calm.nodes[1].node;
        uint64_t all = second->replica.next;
        node_say(second, *calm_now(), &(struct record){.kind = RECORD_DELIVERED, .number = all});
        rig_node_end(&calm.nodes[0]);
        calm_pass(1000);
        calm_open(1, 0);
        calm_start(0);
        calm_pass(8000);
        for (int i = 0; i < RIG_NODES; i++) {
            struct node *node = &calm.nodes[i].node;
            node->told = node->replica.next; /* nobody took it */
            if (alone && i) rig_node_end(&calm.nodes[i]);
        }
        if (alone) calm_pass(15000);
        rig_renew(&calm, 0);
        calm_pass(15000);
        for (int i = 0; i < (alone ? 1 : RIG_NODES); i++) {
            const struct node *node = &calm.nodes[i].node;
            bool kept = !node->replica.incarnations[INCARNATION_SELF]->kept;
            assert_int_equal(node->state, NODE_SETTLED);
            assert_int_equal(kept, alone || i);
        }
        calm_end();
    }
}

/* True if two nodes know the same of when somebody was seen last. Of who was lost or kicked it may
 * not have been said before that any more; nor of anybody by a node that was killed while it was
 * not heard. */
static bool calm_seen(int64_t a, int64_t b, enum reason reason)
{
    bool said = reason != REASON_NODE_LOST && reason != REASON_KICKED && !calm.kills;
    return llabs(a - b) <= (said ? 0 : SEEN_FLUSH_MS);
}

/* What a user's record says of the last end is that of a session: it was no guess of a node that
 * was alone, of a session that goes on. */
static bool calm_ended(const struct rig_stored *s)
{
    for (int i = 0; i < s->session_count; i++)
        if (s->sessions[i].to == s->user.offline_since) return true;
    return false;
}

/* What two nodes have stored of a user is the same: whether they are online, when they were seen if
 * not, how the last session ended, and all of them. */
static void calm_stored(int a, int b, int user)
{
    const struct rig_stored *x = &calm.nodes[a].stored[user], *y = &calm.nodes[b].stored[user];
    bool same =
        x->known == y->known && x->user.open == y->user.open &&
        x->session_count == y->session_count &&
        (!calm_ended(x) || !calm_ended(y) ||
         (x->user.reason == y->user.reason &&
          calm_seen(x->user.offline_since, y->user.offline_since, (enum reason)x->user.reason))) &&
        (x->user.open ||
         calm_seen(x->user.last_seen, y->user.last_seen, (enum reason)x->user.reason));
    for (int i = 0; same && i < x->session_count; i++)
        same = x->sessions[i].from == y->sessions[i].from &&
               x->sessions[i].reason == y->sessions[i].reason &&
               calm_seen(x->sessions[i].to, y->sessions[i].to, (enum reason)x->sessions[i].reason);
    if (same) return;
    const struct rig_stored *both[] = {x, y};
    for (int k = 0; k < 2; k++) {
        print_message("node %d: open %d seen %d, before %d %s\n", k ? b : a, both[k]->user.open,
                      (int)(both[k]->user.last_seen - 1764000000000),
                      (int)(both[k]->user.offline_since - 1764000000000),
                      REASON_NAMES[both[k]->user.reason]);
        for (int i = 0; i < both[k]->session_count; i++)
            print_message("    %d to %d %s\n", (int)(both[k]->sessions[i].from - 1764000000000),
                          (int)(both[k]->sessions[i].to - 1764000000000),
                          REASON_NAMES[both[k]->sessions[i].reason]);
    }
    fail_msg("two nodes have stored something else of user %d", user);
}

/* Has all nodes write what their stores are to hear. */
static void calm_write(void)
{
    for (int i = 0; i < RIG_NODES; i++) rig_write(&calm.nodes[i], true);
}

static bool calm_has_session(int node, int user, enum reason reason)
{
    const struct rig_stored *s = &calm.nodes[node].stored[user];
    for (int i = 0; i < s->session_count; i++)
        if (s->sessions[i].reason == reason) return true;
    return false;
}

/* A node that comes back learns who left meanwhile: who was online when it went, who came and went
 * in between, and of who is online in its own table the true end. */
static void who_left_meanwhile_is_told(void **unused)
{
    (void)unused;
    calm_begin();
    rig_node_end(&calm.nodes[2]); /* it has joined once, and so knows until when it has all */
    calm_start(2);
    for (int user = 0; user < 3; user++) calm_open(0, user);
    calm_pass(5000);
    calm_write();
    assert_int_equal(calm.nodes[2].stored[0].user.open, true);
    int64_t known = calm.nodes[2].known;
    assert_true(known > calm.now - 6000 && known <= calm.now);
    rig_node_end(&calm.nodes[2]);
    calm_pass(1000);
    calm_close(0, 0, END_CLEAN);
    calm_open(1, 3);
    calm_open(1, 4);
    calm_pass(1000);
    calm_close(0, 1, END_TIMEOUT);
    calm_close(1, 3, END_EXPIRED);
    calm_pass(15000);
    calm_start(2);
    calm_pass(5000);
    assert_int_equal(calm.nodes[2].node.state, NODE_SETTLED);
    calm_write();
    for (int user = 0; user < 5; user++) calm_stored(0, 2, user);
    assert_true(calm_has_session(2, 0, REASON_CLOSED) && calm_has_session(2, 1, REASON_TIMEOUT));
    assert_true(calm_has_session(2, 3, REASON_EXPIRED));
    assert_int_equal(calm.nodes[2].stored[2].session_count, 0); /* they are online */
    assert_true(calm.nodes[2].known > calm.now - 6000);
    assert_int_equal(calm.nodes[2].shown.directory.users, 2); /* nobody else is left there */
    calm_end();
}

/* A node that was alone shows users as cached who left elsewhere: they end as they did there. */
static void who_left_while_alone_ends_as_there(void **unused)
{
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_open(2, 1);
    calm_pass(2000);
    calm_down(2);
    calm_pass(2000);
    calm_close(0, 0, END_CLEAN);
    calm_pass(2000);
    assert_int_equal(calm_shown(2, 0)->state, USER_CACHED);
    calm_up(2);
    calm_pass(3000);
    assert_int_equal(calm.nodes[2].node.state, NODE_SETTLED);
    calm_write();
    for (int user = 0; user < 2; user++) calm_stored(0, 2, user);
    assert_int_equal(calm.nodes[2].stored[0].user.reason, REASON_CLOSED);
    assert_int_equal(calm.nodes[2].stored[0].session_count, 1);
    calm_shows(1, USER_LIVE, 1);
    calm_end();
}

/* A store that is new gets all who are known. */
static void new_store_gets_all(void **unused)
{
    (void)unused;
    calm_begin();
    rig_node_end(&calm.nodes[2]);
    for (int user = 0; user < RIG_USERS; user++) {
        calm_open(user % 2, user);
        calm_pass(500);
        calm_close(user % 2, user, user % 3 ? END_CLEAN : END_TIMEOUT);
    }
    calm_pass(RIG_MARGIN + 10000);
    memset(calm.nodes[2].stored, 0, sizeof calm.nodes[2].stored);
    calm.nodes[2].known = 0;
    calm_start(2);
    calm_pass(5000);
    calm_write();
    for (int user = 0; user < RIG_USERS; user++) {
        assert_true(calm.nodes[2].stored[user].known);
        calm_stored(0, 2, user);
    }
    calm_end();
}

/* A joiner knows a kick that came between the begin of its copy and the user's piece: what a node
 * says that had not read it does not count there either. */
static void kick_during_a_copy_is_known(void **unused)
{
    (void)unused;
    struct node *donor = &calm.nodes[0].node;
    calm_begin();
    for (int user = 0; user < RIG_USERS; user++) calm_open(1, user);
    calm_pass(1000);
    rig_node_end(&calm.nodes[2]);
    calm.nodes[0].slow = true;
    calm_start(2);
    for (int tries = 0; tries < 1000; tries++) {
        const struct donation *d = STAILQ_FIRST(&donor->donations);
        if (d && d->begun && !d->walked && d->id_len == 1 && *d->id == 'a') break;
        rig_step(&calm, false);
    }
    assert_non_null(STAILQ_FIRST(&donor->donations));
    calm.nodes[1].deaf = true;
    node_kick(donor, *calm_now(), rig_id(RIG_USERS - 1));
    calm_pass(2500);
    assert_int_equal(calm.nodes[2].node.state, NODE_SETTLED);
    assert_false(STAILQ_EMPTY(&donor->replica.kicks));
    assert_false(STAILQ_EMPTY(&calm.nodes[2].node.replica.kicks));
    calm_open(1, RIG_USERS - 1);
    calm_pass(500);
    const struct user *shown = calm_shown(2, RIG_USERS - 1);
    assert_int_equal(shown ? shown->state : USER_OFFLINE, USER_OFFLINE);
    calm.nodes[1].deaf = false;
    calm_pass(2000);
    calm_end();
}

/* A kick reaches the connections of a node that did not read it, as it was taken for dead, or cut
 * off for a while, and takes a copy instead; but not those of who came behind it. */
static void kick_reaches_who_takes_a_copy(void **unused)
{
    (void)unused;
    for (int dead = 0; dead < 2; dead++) {
        calm_begin();
        calm_open(2, 0);
        calm_open(0, 1);
        calm_pass(1000);
        if (!dead) calm_down(2);
        calm.nodes[2].paused = dead;
        calm_pass(dead ? 15000 : 2000);
        node_kick(&calm.nodes[0].node, *calm_now(), rig_id(0));
        node_kick(&calm.nodes[0].node, *calm_now(), rig_id(1));
        calm_pass(1000);
        if (!dead) calm_open(2, 1);
        calm_mark();
        if (!dead) calm_up(2);
        calm.nodes[2].paused = false;
        calm_pass(dead ? 100 : 5000);
        if (dead) calm_open(2, 1);
        calm_pass(dead ? 10000 : 5000);
        assert_int_equal(calm.nodes[2].node.state, NODE_SETTLED);
        assert_int_equal(calm.nodes[2].links[0], 0);
        assert_int_equal(calm.nodes[2].links[1], 1);
        calm_shows(0, USER_OFFLINE, 0);
        calm_shows(1, USER_LIVE, 1);
        for (int i = 0; i < 2; i++) {
            const struct rig_event *e;
            assert_int_equal(calm_count(i, 0, TRANSITION_JOIN, &e), 0);
        }
        calm_end();
    }
}

/* A kick that is read while the copy comes closes once: who comes back meanwhile stays. */
static void kick_during_a_copy_closes_once(void **unused)
{
    (void)unused;
    struct rig_node *n = &calm.nodes[2];
    calm_begin();
    for (int user = 0; user < RIG_USERS; user++) calm_open(0, user);
    calm_pass(1000);
    rig_node_end(n);
    calm.nodes[0].slow = true;
    calm_start(2);
    for (int tries = 0; !n->node.wanted || !n->node.pieces; tries++) {
        assert_true(tries < 1000);
        rig_step(&calm, false);
    }
    calm_open(2, 1);
    node_kick(&calm.nodes[1].node, *calm_now(), rig_id(1));
    for (int tries = 0; n->links[1]; tries++) {
        assert_true(tries < 1000);
        rig_step(&calm, false);
    }
    assert_int_equal(n->node.state, NODE_JOINING);
    calm_open(2, 1);
    calm.nodes[0].slow = false;
    calm_pass(5000);
    assert_int_equal(n->node.state, NODE_SETTLED);
    assert_int_equal(n->links[1], 1);
    calm_shows(1, USER_LIVE, 1);
    calm_end();
}

/* A copy that is ahead of what its reader has read of the log is not shown before that has come by:
 * else the log would seem to have lost its end. */
static void copy_waits_for_the_log(void **unused)
{
    (void)unused;
    struct rig_node *n = &calm.nodes[2];
    calm_begin();
    calm_open(0, 0);
    calm_open(2, 1);
    calm_open(0, 2);
    calm_pass(1000);
    rig_node_end(n);
    calm_start(2);
    for (int tries = 0; n->node.state != NODE_JOINING; tries++) {
        assert_true(tries < 1000);
        rig_step(&calm, false);
    }
    n->late = true;
    calm_pass(NODE_PIECE_MS + 1000);
    assert_true(n->node.state == NODE_JOINING && n->node.copied);
    calm_close(0, 2, END_CLEAN); /* behind the copy, and behind who is told to have left */
    calm_pass(500);
    n->late = false;
    calm_pass(3000);
    assert_int_equal(n->node.state, NODE_SETTLED);
    assert_int_equal(n->node.count.joins, 1);
    calm_shows(0, USER_LIVE, 1);
    calm_shows(1, USER_CACHED, 0);
    calm_write();
    calm_stored(0, 2, 2);
    assert_true(calm_has_session(2, 2, REASON_CLOSED));
    calm_end();
}

/* A new epoch has no copies: who left while a node was away, and who came back since, it is told by
 * the others. */
static void gap_is_asked_of_others(void **unused)
{
    (void)unused;
    calm_begin();
    rig_node_end(&calm.nodes[2]);
    calm_start(2);
    calm_open(0, 0);
    calm_open(1, 1);
    calm_pass(5000);
    assert_false(calm.nodes[2].node.gap);
    assert_true(calm.nodes[2].node.since > calm.now - 6000);
    calm_down(2);
    calm_pass(1000);
    calm_close(0, 0, END_CLEAN);
    for (int i = 0; i < 3; i++) { /* who comes and goes has more than one session there */
        calm_close(1, 1, END_CLEAN);
        calm_pass(1000);
        calm_open(1, 1);
        calm_pass(1000);
    }
    rig_renew(&calm, 0);
    calm_up(2);
    calm_pass(15000);
    assert_int_equal(calm.nodes[2].node.state, NODE_SETTLED);
    assert_int_equal(calm.nodes[2].node.count.snapshots_taken, 1); /* that of its start */
    assert_false(calm.nodes[2].node.gap);
    assert_true(calm.nodes[2].node.since > calm.now - 6000);
    calm_write();
    assert_int_equal(calm.nodes[2].stored[1].session_count, 3);
    for (int user = 0; user < 2; user++) calm_stored(0, 2, user);
    calm_end();
}

/* What ended while a node was alone is in its store, and nowhere else once it is killed: as it
 * starts again, the others ask for it. */
static void what_one_knew_is_asked_for(void **unused)
{
    (void)unused;
    for (int renewed = 0; renewed < 2; renewed++) {
        calm_begin();
        rig_node_end(&calm.nodes[2]);
        calm_start(2);
        calm_open(2, 0);
        calm_pass(5000);
        calm_down(2);
        calm_pass(1000);
        calm_open(2, 1); /* who is not known to any other */
        calm_pass(1000);
        for (int user = 0; user < 2; user++) calm_close(2, user, END_CLEAN);
        calm_pass(1000);
        rig_write(&calm.nodes[2], true);
        rig_node_end(&calm.nodes[2]);
        calm_pass(30000);
        if (renewed) rig_renew(&calm, 0);
        calm_start(2);
        calm_pass(15000);
        calm_write();
        for (int user = 0; user < 2; user++)
            for (int i = 0; i < 2; i++) {
                assert_int_equal(calm.nodes[i].stored[user].session_count, 1);
                calm_stored(i, 2, user);
            }
        calm_end();
    }
}

/* A node that was cut off tells how a session ended there. Its user had moved to another node that
 * was lost, and is on the way back: nobody leaves. */
static void session_told_late_ends_no_other(void **unused)
{
    const struct rig_event *leave;
    (void)unused;
    calm_begin();
    calm_open(0, 0);
    calm_pass(1000);
    calm_down(0);
    calm_pass(500);
    calm_close(0, 0, END_CLEAN);
    calm_pass(11500); /* it is taken for dead */
    calm_open(1, 0);
    calm_pass(500);
    rig_node_end(&calm.nodes[1]);
    calm_pass(11500);
    assert_int_equal(calm_shown(2, 0)->state, USER_CACHED);
    calm_up(0);
    calm_pass(2500);
    assert_int_equal(calm.nodes[0].node.state, NODE_SETTLED);
    calm_open(2, 0);
    calm_pass(3000);
    assert_int_equal(calm_count(2, 0, TRANSITION_LEAVE, &leave), 0);
    calm_shows(0, USER_LIVE, 1);
    calm_end();
}

/* Has nodes stop and start, or anything go wrong, with users who come and go all the time: in the
 * end all stores have the same. */
static void stores_agree(uint64_t seed, bool faults)
{
    rig_begin(&calm, seed);
    for (int i = 0; i < RIG_NODES; i++)
        memset(calm.nodes[i].stored, 0, sizeof calm.nodes[i].stored);
    calm_pass(15000);
    for (int i = 1; i < RIG_NODES; i++) { /* the first settled epoch has nothing to be told */
        rig_node_end(&calm.nodes[i]);
        calm_start(i);
        calm_pass(6000);
    }
    calm.faults = faults;
    for (int i = 0; i < 2000; i++) {
        int node = 1 + (int)below64(&calm.seed, RIG_NODES - 1);
        struct rig_node *n = &calm.nodes[node];
        if (faults && !below64(&calm.seed, 3)) {
            rig_fault(&calm);
        } else if (!below64(&calm.seed, 100) && n->alive) {
            rig_write(n, true);
            rig_node_end(n);
        } else if (!below64(&calm.seed, 60) && !n->alive) {
            rig_node_start(n);
            if (calm.up) rig_tell_up(&calm, n);
        }
        if (!below64(&calm.seed, 4)) rig_act(&calm.nodes[below64(&calm.seed, RIG_NODES)]);
        rig_step(&calm, faults);
    }
    calm.faults = false;
    rig_quiet(&calm);
    calm_write();
    for (int user = 0; user < RIG_USERS; user++)
        for (int i = 1; i < RIG_NODES; i++) calm_stored(0, i, user);
    rig_free(&calm);
}

static void stores_agree_by_seeds(uint64_t seed, bool faults)
{
    for (int rounds = getenv("PRESENCE_THOROUGH") ? 200 : 25; rounds; rounds--)
        stores_agree(random64(&seed), faults);
}

static void stores_agree_after_restarts(void **unused)
{
    /* Who came to a joining node was stored as offline; a session of which another node knew
     * a later end left the user's record as it was: these found it. */
    static const uint64_t found[] = {0xde3bfbded121282c, 0xf7178606889ebba8, 0x5528a12204fbf071,
                                     0x9db27e4dba9b2797, 0x51948b775d8665fb};
    (void)unused;
    for (size_t i = 0; i < COUNT_OF(found); i++) stores_agree(found[i], false);
    stores_agree_by_seeds(20261130, false);
}

static void stores_agree_after_faults(void **unused)
{
    static const uint64_t found[] = {0x6b55a131f0b5bfec, 0xb7549ccaec401f71, 0x2ab5053075fe8e10};
    (void)unused;
    for (size_t i = 0; i < COUNT_OF(found); i++) stores_agree(found[i], true);
    stores_agree_by_seeds(20261129, true);
}

/* ---- All of it at random ---- */

/* How a row of runs went. */
struct rig_sums {
    size_t runs, steps, events, kills, settled, tails;
    size_t causes[CAUSE_COUNT];
};

/* One run. `quietly`: an engine that lost the end of its log shows it by nothing, so that two nodes
 * may have read what a third never will; tables heal all the same, but not what was told. */
static void rig_run(uint64_t seed, bool quietly, struct rig_sums *sums)
{
    static struct rig rig;
    rig_begin(&rig, seed * 0x9e3779b97f4a7c15u);
    rig.quietly = quietly;
    for (int step = 0; step < RIG_STEPS; step++) rig_step(&rig, true);
    rig_quiet(&rig);
    if (!quietly) {
        rig_compare(&rig);
        rig_false_leaves(&rig);
    }
    sums->runs++;
    sums->steps += RIG_STEPS;
    for (int i = 0; i < RIG_NODES; i++) sums->events += rig.nodes[i].event_count;
    sums->kills += rig.kills;
    sums->tails += rig.tails;
    sums->settled += 100 * rig.states / (rig.turns ? rig.turns : 1);
    for (int i = 0; i < 16; i++) sums->causes[i] += rig.causes[i];
    rig_free(&rig);
}

static uint64_t rig_running; /* the seed; 0: none */

/* A run that failed can be had again. */
static int rig_say_seed(void **unused)
{
    (void)unused;
    if (rig_running) print_message("again with PRESENCE_SEED=%" PRIu64 "\n", rig_running);
    rig_running = 0;
    return 0;
}

/* Runs so many seeds, or the one of PRESENCE_SEED. */
static struct rig_sums rig_runs(uint64_t count, bool quietly)
{
    struct rig_sums sums = {0};
    const char *one = getenv("PRESENCE_SEED");
    uint64_t seed = one ? strtoull(one, NULL, 10) : 1;
    for (uint64_t end = one ? seed + 1 : seed + count; seed < end; seed++) {
        rig_running = seed;
        rig_run(seed, quietly, &sums);
    }
    rig_running = 0;
    print_message("%zu steps: %zu events, %zu nodes killed, %zu tails lost, settled %zu %%\n",
                  sums.steps, sums.events, sums.kills, sums.tails, sums.settled / sums.runs);
    return sums;
}

/* How many seeds are tried: a second's worth, or more than a million steps, or PRESENCE_SEEDS. */
static uint64_t rig_seeds(void)
{
    const char *many = getenv("PRESENCE_SEEDS");
    return many ? strtoull(many, NULL, 10) : getenv("PRESENCE_THOROUGH") ? 200 : 40;
}

/* Three nodes and an engine, with every fault that the design knows. */
static void nodes_agree(void **unused)
{
    (void)unused;
    /* Those that found what an epoch begins with to be old. */
    static const uint64_t found[] = {335, 484};
    struct rig_sums sums = rig_runs(rig_seeds(), false);
    for (size_t i = 0; i < COUNT_OF(found) && !getenv("PRESENCE_SEED"); i++) {
        rig_running = found[i];
        rig_run(found[i], false, &sums);
    }
    rig_running = 0;
    assert_int_equal(
        sums.causes[CAUSE_HOLE] + sums.causes[CAUSE_DAMAGED] + sums.causes[CAUSE_DIFFERENT], 0);
    assert_true(sums.runs < 20 || (sums.causes[CAUSE_EVICTED] && sums.causes[CAUSE_JUMPED] &&
                                   sums.causes[CAUSE_NOBODY]));
}

/* The same with an engine that loses the end of its log and says nothing of it. */
static void nodes_heal_when_the_end_is_lost(void **unused)
{
    (void)unused;
    struct rig_sums sums = rig_runs(rig_seeds(), true);
    assert_true(sums.runs < 20 || (sums.causes[CAUSE_HOLE] && sums.causes[CAUSE_BACK]));
}

static const struct CMUnitTest CLUSTER_TESTS[] = {
    cmocka_unit_test(records_come_back),
    cmocka_unit_test(hostile_entries_end),
    cmocka_unit_test(final_end_ends_what_is_cached),
    cmocka_unit_test(close_with_a_tab_elsewhere_is_no_leave),
    cmocka_unit_test(tab_that_comes_back_elsewhere_is_no_leave),
    cmocka_unit_test(heartbeats_elsewhere_are_kept),
    cmocka_unit_test(most_available_status_counts),
    cmocka_unit_test(kick_ends_a_user_everywhere),
    cmocka_unit_test(kick_is_over_at_once_for_the_others),
    cmocka_unit_test(users_of_a_lost_node_may_come_back),
    cmocka_unit_test(restart_evicts_at_once),
    cmocka_unit_test(leaving_evicts_at_once),
    cmocka_unit_test(leaving_keeps_its_own),
    cmocka_unit_test(nobody_leaves_for_a_new_epoch),
    cmocka_unit_test(manual_status_survives),
    cmocka_unit_test(epoch_begins_with_what_was_known_last),
    cmocka_unit_test(epoch_is_settled_in_the_end),
    cmocka_unit_test(manual_status_ends_once),
    cmocka_unit_test(orders_outlive_the_engine),
    cmocka_unit_test(what_waits_is_what_was_set_last),
    cmocka_unit_test(order_in_the_log_is_said_once),
    cmocka_unit_test(order_of_the_evicted_is_said_again),
    cmocka_unit_test(joiner_takes_the_table_over),
    cmocka_unit_test(patient_node_waits_for_others),
    cmocka_unit_test(empty_epoch_is_gone_on_with),
    cmocka_unit_test(outboxes_are_whole_behind_an_epoch),
    cmocka_unit_test(outbox_with_a_gap_is_given_up),
    cmocka_unit_test(who_left_meanwhile_is_told),
    cmocka_unit_test(who_left_while_alone_ends_as_there),
    cmocka_unit_test(new_store_gets_all),
    cmocka_unit_test(kick_during_a_copy_is_known),
    cmocka_unit_test(kick_during_a_copy_closes_once),
    cmocka_unit_test(kick_reaches_who_takes_a_copy),
    cmocka_unit_test(copy_waits_for_the_log),
    cmocka_unit_test(gap_is_asked_of_others),
    cmocka_unit_test(what_one_knew_is_asked_for),
    cmocka_unit_test(session_told_late_ends_no_other),
    cmocka_unit_test(stores_agree_after_restarts),
    cmocka_unit_test(stores_agree_after_faults),
    cmocka_unit_test_teardown(nodes_agree, rig_say_seed),
    cmocka_unit_test_teardown(nodes_heal_when_the_end_is_lost, rig_say_seed),
};
