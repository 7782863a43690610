/* Views and events: positions, the ring, what is told of each change. */
#include "unit.h"
#include "model.h"

/* A position is the same again after being text; what is not exactly one is refused. */
static void positions_are_texts(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        bool good;
        struct position position;
    } rows[] = {
        {"5939c933-1042", true, {0x5939c933, 1042}},
        {"00000000-0", true, {0, 0}},
        {"ffffffff-18446744073709551615", true, {UINT32_MAX, UINT64_MAX}},
        {"ffffffff-18446744073709551616", false, {0}},
        {"ffffffff-99999999999999999999", false, {0}},
        {"5939c933-", false, {0}},
        {"5939c933", false, {0}},
        {"5939c933-01", false, {0}},
        {"5939c933-1a", false, {0}},
        {"5939c933-1 ", false, {0}},
        {" 5939c933-1", false, {0}},
        {"5939C933-1", false, {0}},
        {"5939c933+1", false, {0}},
        {"5939c9331-1", false, {0}},
        {"5939c93-12", false, {0}},
        {"5939c933--1", false, {0}},
        {"-", false, {0}},
        {"", false, {0}},
        {"5939c933-000000000000000000000000000000000001", false, {0}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct position got;
        char text[POSITION_TEXT];
        struct span span = {rows[i].text, strlen(rows[i].text)};
        assert_int_equal(position_parse(span, &got), rows[i].good);
        if (!rows[i].good) continue;
        assert_int_equal(got.epoch, rows[i].position.epoch);
        assert_int_equal(got.sequence, rows[i].position.sequence);
        assert_string_equal(position_text(got, text), rows[i].text);
    }
}

/* A ring that has seen nothing. */
static struct events ring_begin(size_t limit)
{
    return (struct events){.limit = limit};
}

/* The text of an event of the tests: its number, and as many letters as the number says. */
static struct span ring_text(uint64_t sequence, char out[512])
{
    int n = snprintf(out, 512, "%" PRIu64 ":", sequence);
    size_t more = (size_t)(sequence * 7919 % 300);
    memset(out + n, 'a' + (int)(sequence % 26), more);
    out[(size_t)n + more] = '\n';
    return (struct span){out, (size_t)n + more + 1};
}

/* Reads everything from a place on, in the pieces the ring gives, and compares it with what the
 * events from `first` on, without gaps, must be. */
static void ring_expect(const struct events *e, uint64_t at, uint64_t first)
{
    char text[512];
    struct buffer want = {0}, got = {0};
    for (uint64_t n = first; n <= e->last; n++) {
        struct span event = ring_text(n, text);
        buffer_print(&want, "event: change\nid: 000000ab-%" PRIu64 "\ndata: %.*s\n\n", n,
                     (int)event.len, event.at);
    }
    for (struct span piece; (piece = events_span(e, at)).len; at += piece.len)
        buffer_add(&got, piece.at, piece.len);
    assert_int_equal(at, e->end);
    assert_int_equal(got.len, want.len);
    if (want.len) assert_memory_equal(got.at, want.at, want.len);
    buffer_free(&want);
    buffer_free(&got);
}

/* Adds the next event of the tests. */
static void ring_add(struct events *e)
{
    char text[512];
    struct position position = {0xab, e->last + 1};
    events_add(e, position, ring_text(position.sequence, text));
}

/* 40,000 events through a ring of 100: it wraps round and grows, and whoever comes back at any
 * place that is kept gets exactly the events behind it. */
static void events_come_back_in_order(void **unused)
{
    (void)unused;
    struct events e = ring_begin(100);
    events_keep(&e);
    for (int i = 0; i < 40000; i++) {
        uint64_t at = 0;
        ring_add(&e);
        events_trim(&e, e.end);
        uint64_t kept = e.next - e.first, gone = e.last - kept;
        assert_int_equal(kept, i < 100 ? i + 1 : 100);
        assert_false(events_find(&e, e.last + 1, &at));
        assert_true(events_find(&e, e.last, &at));
        assert_int_equal(at, e.end);
        if (gone) assert_false(events_find(&e, gone - 1, &at));
        if (i % 97) continue;
        for (uint64_t after = gone; after <= e.last; after++) {
            assert_true(events_find(&e, after, &at));
            ring_expect(&e, at, after + 1);
        }
    }
    assert_true(e.size <= 64 * 1024 && e.room <= 256); /* 100 events of at most 306 bytes */
    events_drop(&e);
}

/* What a slow reader has not read yet is kept beyond the limit, also half an event; and no more
 * once it has. */
static void events_wait_for_readers(void **unused)
{
    (void)unused;
    struct events e = ring_begin(10);
    events_keep(&e);
    for (int i = 0; i < 5; i++) ring_add(&e);
    uint64_t third = events_start(&e, 2), reader = third + 1; /* in the middle of it */
    for (int i = 0; i < 1000; i++) {
        ring_add(&e);
        events_trim(&e, reader);
        assert_in_range(e.first, 0, 2);
    }
    assert_int_equal(e.first, 2);
    ring_expect(&e, third, 3);
    events_trim(&e, events_start(&e, 3)); /* read to its end */
    assert_int_equal(e.first, 3);
    events_trim(&e, e.end);
    assert_int_equal(e.next - e.first, 10);
    events_drop(&e);
    assert_null(e.bytes);
}

/* With a limit of 0, and before anybody reads, events are only counted: who is up to date may go
 * on, nobody else. */
static void events_are_counted_only(void **unused)
{
    (void)unused;
    struct events e = ring_begin(10);
    uint64_t at = 1;
    assert_true(events_find(&e, 0, &at));
    assert_int_equal(at, 0);
    for (int i = 0; i < 20; i++) ring_add(&e);
    assert_null(e.bytes);
    assert_int_equal(e.last, 20);
    assert_true(events_find(&e, 20, &at));
    assert_false(events_find(&e, 19, &at));
    assert_false(events_find(&e, 21, &at));
    assert_false(events_find(&e, UINT64_MAX, &at));
    events_keep(&e);
    ring_add(&e);
    assert_true(events_find(&e, 20, &at));
    ring_expect(&e, at, 21);
    events_drop(&e);
    assert_false(events_find(&e, 20, &at));
    assert_true(events_find(&e, 21, &at));
    struct events none = ring_begin(0);
    events_keep(&none);
    for (int i = 0; i < 20; i++) {
        ring_add(&none);
        events_trim(&none, none.end);
        assert_int_equal(none.first, none.next);
        assert_true(events_find(&none, none.last, &at));
        assert_false(events_find(&none, none.last - 1, &at));
    }
    events_drop(&none);
}

/* Sequences and bytes far beyond 32 bits change nothing. */
static void events_count_far(void **unused)
{
    (void)unused;
    struct events e = ring_begin(50);
    uint64_t at;
    e.first = e.next = (UINT64_C(1) << 40) - 20;
    e.last = e.forgotten = (UINT64_C(1) << 60) - 70;
    e.end = (UINT64_C(1) << 50) - 1000;
    events_keep(&e);
    for (int i = 0; i < 200; i++) {
        ring_add(&e);
        events_trim(&e, e.end);
    }
    assert_true(events_find(&e, e.last - 50, &at));
    ring_expect(&e, at, e.last - 49);
    assert_false(events_find(&e, e.last - 51, &at));
    events_drop(&e);
}

/* Numbers may jump: who comes back with one that no event has, or whose event has no text, goes on
 * at the next one with a text. */
static void events_may_have_gaps(void **unused)
{
    (void)unused;
    struct events e = ring_begin(2);
    uint64_t at, ends[3];
    events_keep(&e);
    for (int i = 0; i < 3; i++) {
        events_add(&e, (struct position){1, (uint64_t)i * 10 + 10}, span_of("{}"));
        ends[i] = e.end;
    }
    events_add(&e, (struct position){1, 40}, (struct span){0});
    assert_int_equal(e.end, ends[2]);
    events_trim(&e, e.end);
    static const struct {
        uint64_t sequence;
        int end; /* of which event he goes on; -1: begins again */
    } rows[] = {{0, -1}, {9, -1}, {10, 0}, {11, 0}, {19, 0},  {20, 1},
                {29, 1}, {30, 2}, {31, 2}, {40, 2}, {41, -1}, {UINT64_MAX, -1}};
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        assert_int_equal(events_find(&e, rows[i].sequence, &at), rows[i].end >= 0);
        if (rows[i].end >= 0) assert_int_equal(at, ends[rows[i].end]);
    }
    events_drop(&e);
    assert_true(events_find(&e, 40, &at));
    assert_false(events_find(&e, 39, &at));
}

/* With a new epoch numbers may go back. Who reads has what was before to its end and then the text;
 * who comes back is given neither. */
static void events_begin_an_epoch(void **unused)
{
    (void)unused;
    struct events e = ring_begin(10);
    char text[64];
    uint64_t at, first;
    events_keep(&e);
    for (int i = 0; i < 5; i++) ring_add(&e);
    first = events_start(&e, 0);
    events_reset(&e, 3, span_of("event: reset\n\n"));
    events_trim(&e, first + 1); /* he is in the middle of the first */
    assert_int_equal(e.first, 0);
    for (uint64_t n = 0; n < 10; n++) assert_int_equal(events_find(&e, n, &at), n == 3);
    assert_int_equal(at, e.end);
    events_add(&e, (struct position){2, 7}, span_of("{}"));
    assert_true(events_find(&e, 5, &at));
    assert_string_equal(events_span(&e, at).len ? "more" : "", "more");
    snprintf(text, sizeof text, "event: reset\n\nevent: change\nid: 00000002-7\ndata: {}\n\n");
    struct span end = events_span(&e, e.end - strlen(text));
    assert_int_equal(end.len, strlen(text));
    assert_memory_equal(end.at, text, end.len);
    events_trim(&e, at); /* he has read all but the last */
    assert_int_equal(e.next - e.first, 1);
    assert_true(events_find(&e, 3, &at));
    assert_false(events_find(&e, 2, &at));
    events_drop(&e);
    events_reset(&e, 100, span_of("nobody reads this"));
    assert_null(e.bytes);
    assert_true(events_find(&e, 100, &at));
    events_add(&e, (struct position){3, 101}, (struct span){0});
    assert_false(events_find(&e, 100, &at));
}

/* A ring, told the naive way: every byte and every event there ever was. */
struct ring_model {
    struct events e;
    struct buffer bytes;
    struct {
        uint64_t sequence, end;
        bool gone, counts; /* cannot be given any more; is kept, as far as the limit goes */
    } all[8000];
    size_t count, epoch;  /* events there were; the first of this epoch */
    uint64_t last, began; /* the last number; the one behind which the epoch's begin */
    uint64_t readers[3];
    uint64_t seed;
    size_t found, refused, resets, drops;
};

/* Adds an event of the model: text as it lies in the ring, perhaps none. */
static void ring_model_note(struct ring_model *m, uint64_t sequence, struct span text)
{
    buffer_add(&m->bytes, text.at, text.len);
    assert_true(m->count < COUNT_OF(m->all));
    m->all[m->count].sequence = sequence;
    m->all[m->count].end = m->bytes.len;
    m->all[m->count].counts = text.len > 0;
    m->all[m->count].gone = !m->e.kept;
    m->count++;
}

/* Step: an event, often behind a gap, sometimes nothing to the readers. */
static void ring_model_add(struct ring_model *m, uint32_t epoch)
{
    char json[512];
    struct buffer text = {0};
    uint64_t sequence = m->last + 1 + (below64(&m->seed, 2) ? 0 : below64(&m->seed, 5));
    struct span event = ring_text(sequence, json);
    if (!m->e.kept || below64(&m->seed, 5) == 0) event.len = 0;
    if (event.len)
        buffer_print(&text, "event: change\nid: %08x-%" PRIu64 "\ndata: %.*s\n\n", epoch, sequence,
                     (int)event.len, event.at);
    events_add(&m->e, (struct position){epoch, sequence}, event);
    ring_model_note(m, m->last = sequence, (struct span){text.at, text.len});
    buffer_free(&text);
}

/* Step: a new epoch, which those who read are told of. */
static void ring_model_reset(struct ring_model *m, uint32_t epoch)
{
    char text[64];
    struct span told = {text, (size_t)snprintf(text, sizeof text, "reset %u\n\n", epoch)};
    if (!m->e.kept || below64(&m->seed, 3) == 0) told.len = 0;
    m->last = below64(&m->seed, 2) ? m->last / 2 : m->last + below64(&m->seed, 100);
    events_reset(&m->e, m->last, told);
    if (told.len) ring_model_note(m, 0, told);
    m->epoch = m->count;
    m->resets++;
}

/* Step: each reader takes some bytes, which are the next there were; then the ring is trimmed, to
 * what the naive rule says. */
static void ring_model_read(struct ring_model *m)
{
    uint64_t behind = m->bytes.len;
    size_t kept = 0;
    for (size_t i = 0; m->e.kept && i < COUNT_OF(m->readers); i++) {
        uint64_t *at = &m->readers[i], most = below64(&m->seed, 1500);
        for (struct span piece; most && (piece = events_span(&m->e, *at)).len; *at += piece.len) {
            if (piece.len > most) piece.len = (size_t)most;
            most -= piece.len;
            assert_memory_equal(piece.at, m->bytes.at + *at, piece.len);
        }
        if (*at < behind) behind = *at;
    }
    for (size_t i = 0; i < m->count; i++) kept += m->all[i].counts && !m->all[i].gone;
    for (size_t i = 0; i < m->count && m->all[i].end <= behind; i++) {
        bool must = i < m->epoch || kept > m->e.limit;
        if (m->all[i].gone || !m->all[i].counts) continue;
        if (!must) break;
        m->all[i].gone = true;
        kept--;
    }
    events_trim(&m->e, behind);
    assert_int_equal(m->e.next - m->e.first, kept);
}

/* Step: somebody comes back with a number, and is told what the naive rule says. */
static void ring_model_find(struct ring_model *m)
{
    uint64_t sequence = m->last + 3 - below64(&m->seed, 60), at = 0, want = m->bytes.len;
    bool good = sequence <= m->last && sequence >= m->began;
    for (size_t i = m->count; i-- > m->epoch;) {
        if (m->all[i].sequence <= sequence) break;
        if (m->all[i].gone) good = false;
        if (m->all[i].counts) want = i ? m->all[i - 1].end : 0;
    }
    assert_int_equal(events_find(&m->e, sequence, &at), good);
    if (good) assert_int_equal(at, want);
    m->found += good;
    m->refused += !good;
}

/* 64,000 random steps of a ring with gaps, epochs, and readers of which some are slow: each reads
 * exactly what was added, and comes back to exactly where the naive rule has it. */
static void events_follow_a_model(void **unused)
{
    (void)unused;
    static struct ring_model m;
    for (uint64_t round = 1; round <= 8; round++) {
        uint32_t epoch = 1;
        m = (struct ring_model){.e = ring_begin(round * 7 % 30), .seed = round * 7919, .last = 5};
        events_reset(&m.e, m.last, (struct span){0});
        m.began = m.last;
        for (int step = 0; step < 8000; step++) {
            size_t what = below64(&m.seed, 1000);
            if (what < 2) {
                ring_model_reset(&m, ++epoch);
                m.began = m.last;
            } else if (what < 3 && m.e.kept) {
                for (size_t i = 0; i < m.count; i++) m.all[i].gone = true;
                events_drop(&m.e);
                m.drops++;
                for (size_t i = 0; i < COUNT_OF(m.readers); i++) m.readers[i] = m.bytes.len;
                m.began = m.last;
            } else if (what < 20) {
                events_keep(&m.e);
            } else if (what < 500) {
                ring_model_add(&m, epoch);
            } else if (what < 750) {
                ring_model_read(&m);
            } else {
                ring_model_find(&m);
            }
        }
        assert_true(m.found > 100 && m.refused > 100 && m.resets > 5 && m.drops > 1);
        events_drop(&m.e);
        buffer_free(&m.bytes);
    }
}

/* The text of each kind, to the byte. */
static void events_have_their_text(void **unused)
{
    (void)unused;
    struct instant now = {1000000, 1795597471120 - 1000000};
    struct user *user = mem_new(sizeof *user + 8);
    struct buffer out = {0};
    user->id_len = 8;
    memcpy(user->id, "a\"\\\xc3\xa9<b", 8);
    struct transition t = {.sequence = 7,
                           .user = user,
                           .online_since = 999000,
                           .last_seen = 1000500,
                           .connections = 2,
                           .kind = TRANSITION_STATUS,
                           .state = USER_LIVE,
                           .status = STATUS_AWAY,
                           .reason = REASON_DROPPED};
    event_write(&out, 0xab, &t, now, true);
    buffer_add(&out, "", 1);
    assert_string_equal(
        out.at,
        "{\"position\":\"000000ab-7\",\"change\":\"status\","
        "\"user\":{\"user_id\":\"a\\\"\\\\\xc3\xa9<b\\u0000\",\"online\":true,\"status\":\"away\","
        "\"source\":\"live\",\"connections\":2,\"connected_at\":\"2026-11-25T09:04:30.120Z\","
        "\"last_seen\":\"2026-11-25T09:04:31.120Z\"},\"reason\":null}");
    out.len = 0;
    t.kind = TRANSITION_LEAVE;
    t.state = USER_OFFLINE;
    t.status = STATUS_OFFLINE;
    t.connections = 0;
    event_write(&out, 0xab, &t, now, true);
    buffer_add(&out, "", 1);
    assert_non_null(strstr(out.at, "\"change\":\"leave\",\"user\":{"));
    assert_non_null(strstr(out.at, "\"online\":false,\"status\":\"offline\",\"source\":\"stored\","
                                   "\"connections\":0,\"connected_at\":null,\"last_seen\":\""));
    assert_non_null(strstr(out.at, "},\"reason\":\"dropped\"}"));
    buffer_free(&out);
    free(user);
}

/* The longest event is as long as the manual says at most, 640 bytes. */
static void events_are_bounded(void **unused)
{
    (void)unused;
    struct instant now = {1000000, 1795597471120 - 1000000};
    struct user *user = mem_new(sizeof *user + USER_ID_MAX);
    struct buffer out = {0};
    user->id_len = USER_ID_MAX;
    memset(user->id, '"', USER_ID_MAX);
    struct transition t = {.sequence = UINT64_MAX,
                           .user = user,
                           .connections = UINT16_MAX,
                           .kind = TRANSITION_CONNECTIONS,
                           .state = USER_CACHED,
                           .status = STATUS_ONLINE};
    event_write(&out, UINT32_MAX, &t, now, true);
    struct events ring = {.last = UINT64_MAX - 1, .kept = true};
    events_add(&ring, (struct position){UINT32_MAX, UINT64_MAX}, (struct span){out.at, out.len});
    assert_in_range(ring.end, 500, 640);
    events_drop(&ring);
    buffer_free(&out);
    free(user);
}

/* What a reader of all transitions knows of a user. */
struct told {
    bool online;
    uint8_t state, status;
    uint16_t connections;
    int64_t online_since;
};

/* Takes the transitions: each fits what was told before, and changes something. */
static void told_take(struct told *told, const struct presence *p)
{
    for (size_t i = 0; i < p->transition_count; i++) {
        const struct transition *t = &p->transitions[i];
        struct told *one = &told[t->user->id[0] - 'a'];
        struct told now = {t->kind != TRANSITION_LEAVE, t->state, t->status, t->connections,
                           t->online_since};
        assert_int_equal(one->online, t->kind != TRANSITION_JOIN);
        assert_int_equal(now.online, now.state != USER_OFFLINE);
        bool moved = now.connections != one->connections || now.state != one->state;
        if (t->kind == TRANSITION_STATUS) assert_int_not_equal(now.status, one->status);
        if (t->kind == TRANSITION_CONNECTIONS) assert_int_equal(now.status, one->status);
        if (t->kind == TRANSITION_CONNECTIONS) assert_true(moved);
        assert_true(t->kind != TRANSITION_LEAVE || t->reason != REASON_NONE);
        *one = now;
    }
}

/* 150,000 random steps: whoever takes the transitions in order knows at every moment what the table
 * knows of everybody; nothing is changed without one, but by a stop. */
static void events_tell_everything(void **unused)
{
    (void)unused;
    static struct model m;
    static struct told told[MODEL_USERS];
    size_t kinds[TRANSITION_CONNECTIONS + 1] = {0};
    m = (struct model){.seed = 42, .now = {1000000, 1764000000000}};
    memset(told, 0, sizeof told);
    model_rules(&m);
    for (int step = 0; step < 150000; step++) {
        int user = (int)below64(&m.seed, MODEL_USERS);
        switch (below64(&m.seed, 16)) {
        case 0:
        case 1:
        case 2:
        case 3: model_connect(&m, user); break;
        case 4:
        case 5:
        case 6: model_disconnect(&m, user, (enum ending)below64(&m.seed, END_STOP)); break;
        case 7:
        case 8: model_status(&m, user); break;
        case 9:
        case 10: model_heartbeat(&m, user); break;
        case 11:
        case 12: model_advance(&m); break;
        case 13: model_collect(&m, below64(&m.seed, 2)); break;
        case 14: model_commit(&m); break;
        default: model_heard(&m, user); break;
        }
        told_take(told, &m.table);
        for (size_t i = 0; i < m.table.transition_count; i++) kinds[m.table.transitions[i].kind]++;
        for (int i = 0; i < MODEL_USERS; i++) {
            const struct user *real = presence_find(&m.table, model_id(i));
            assert_int_equal(told[i].online, real && real->state != USER_OFFLINE);
            if (!told[i].online) continue;
            assert_int_equal(told[i].state, real->state);
            assert_int_equal(told[i].status, real->status);
            assert_int_equal(told[i].connections, real->connections);
            assert_int_equal(told[i].online_since, real->online_since);
        }
        model_check(&m);
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) assert_true(kinds[i] > 1000);
    while (m.table.live) {
        for (int i = 0; i < MODEL_USERS; i++) model_disconnect(&m, i, END_CLEAN);
    }
    buffer_free(&m.batch.ops);
    presence_free(&m.table);
}

/* A stop takes connections away and tells nobody; a change of connections is not for the store. */
static void connections_are_told_to_readers_only(void **unused)
{
    (void)unused;
    struct bench_table t;
    struct store_batch batch = {0};
    table_begin(&t);
    presence_connect(&t.table, t.now, span_of("alice"), &t.a);
    presence_collect(&t.table, t.now, true, SIZE_MAX, &batch);
    presence_committed(&t.table, t.now, SIZE_MAX);
    buffer_free(&batch.ops);
    presence_connect(&t.table, t.now, span_of("alice"), &t.b);
    assert_int_equal(t.table.sequence, 2);
    assert_int_equal(t.a.user->dirty, DIRTY_SEEN);
    presence_disconnect(&t.table, t.now, &t.b, END_AWAY);
    assert_int_equal(t.table.sequence, 3);
    assert_int_equal(t.a.user->dirty, DIRTY_SEEN);
    presence_disconnect(&t.table, t.now, &t.a, END_STOP);
    assert_int_equal(t.table.sequence, 3);
    presence_free(&t.table);
}

/* A last_seen of a clock that was ahead is not shown as to come: it is shown as now. */
static void last_seen_to_come_is_shown_as_now(void **unused)
{
    (void)unused;
    enum { HOUR = 3600000 };
    const struct instant now = {1000000, 1795597471120 - 1000000};
    const int64_t wall = wall_of(now);
    struct user_view view;
    view_record(&view, (struct span){"bob", 3}, &(struct user_record){.last_seen = wall + HOUR},
                now);
    assert_int_equal(view.last_seen, wall);
}

static const struct CMUnitTest EVENTS_TESTS[] = {
    cmocka_unit_test(positions_are_texts),
    cmocka_unit_test(events_come_back_in_order),
    cmocka_unit_test(events_wait_for_readers),
    cmocka_unit_test(events_are_counted_only),
    cmocka_unit_test(events_count_far),
    cmocka_unit_test(events_may_have_gaps),
    cmocka_unit_test(events_begin_an_epoch),
    cmocka_unit_test(events_follow_a_model),
    cmocka_unit_test(events_have_their_text),
    cmocka_unit_test(events_are_bounded),
    cmocka_unit_test(events_tell_everything),
    cmocka_unit_test(connections_are_told_to_readers_only),
    cmocka_unit_test(last_seen_to_come_is_shown_as_now),
};
