/* Store, records: there and back, and byte by byte as they are on the disk. */
#include "unit.h"
#include "store.h"

/* The key and the value of every record of a tree, in hex: `key=value ...`. */
static void tree_hex(struct store *st, MDB_dbi tree, struct buffer *out)
{
    MDB_txn *txn = store_begin_read(st);
    MDB_cursor *cursor;
    MDB_val record[2];
    out->len = 0;
    assert_non_null(txn);
    assert_int_equal(mdb_cursor_open(txn, tree, &cursor), 0);
    while (!mdb_cursor_get(cursor, &record[0], &record[1], MDB_NEXT)) {
        if (out->len) buffer_text(out, " ");
        for (int part = 0; part < 2; part++) {
            if (part) buffer_text(out, "=");
            for (size_t i = 0; i < record[part].mv_size; i++)
                buffer_print(out, "%02x", ((uint8_t *)record[part].mv_data)[i]);
        }
    }
    buffer_add(out, "", 1);
    mdb_cursor_close(cursor);
    store_end_read(st, txn);
}

/* The bytes of every kind of record, as schema 2 has them. They are what is on the disks of others:
 * who changes one gives the store a new schema. */
static void store_keeps_its_bytes(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct session_record session = {
        .from = 0x0102030405060708, .to = 0x0102030405060a0b, .reason = REASON_KICKED};
    struct manual_head manual = {true, STATUS_OFFLINE, 0x2122232425262728, 0x3132333435363738};
    struct sample sample = {
        .at = 0x0102030405060708, .users = 0x11121314, .connections = 0x21222324};
    memcpy(session.address, "0123456789abcdef", 16);
    st->options.outbox_batch_max = 2;
    st->options.outbox_max = 10;
    st->outbox_clock.sum = 0x4142434445464748;
    store_batch_user(&b, span_of("al"), true, STATUS_AWAY, 0x0102030405060708, 0x1112131415161718,
                     REASON_NONE);
    store_batch_user(&b, span_of("bo"), true, STATUS_ONLINE, 1, 2, REASON_NONE);
    store_batch_user(&b, span_of("bo"), false, STATUS_OFFLINE, 1, 3, REASON_KICKED);
    store_batch_session(&b, span_of("bo"), &session, false);
    store_batch_sample(&b, &sample);
    store_batch_manual(&b, span_of("al"), &manual, span_of("h\xc3\xa9"));
    store_batch_manual(&b, span_of("bo"),
                       &(struct manual_head){.there = true, .status = STATUS_BUSY}, span_of(""));
    for (int i = 0; i < 3; i++)
        store_batch_change(&b, 0x5152535455565758 + i, span_of("{}"), false);
    b.position_epoch = 0x61626364;
    b.position_number = 0x7172737475767778;
    write_now(st, &b);
    struct {
        const char *tree;
        MDB_dbi dbi;
        const char *bytes;
    } want[] = {
        {"users", st->users,
         "616c=0102010000000000"
         "0807060504030201181716151413121108070605040302010000000000000000"
         " 626f=0103000401000000"
         "0100000000000000030000000000000000000000000000000300000000000000"},
        {"open", st->open, "616c="},
        {"seen", st->seen, "0000000000000003626f="},
        {"sessions", st->sessions,
         "626f000102030405060708=01040b0a06050403020130313233343536373839616263646566"},
        {"samples", st->samples, "0102030405060708=011413121124232221"},
        {"manual", st->manual,
         "616c=010328272625242322213837363534333231"
         "68c3a9"
         " 626f=010100000000000000000000000000000000"},
        {"outbox", st->outbox,
         "0000000000000001=0201585756555453525148474645444342417b7d"
         " 0000000000000002=0200595756555453525148474645444342417b7d"
         " 0000000000000003=02015a5756555453525148474645444342417b7d"},
    };
    struct buffer got = {0};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        tree_hex(st, want[i].dbi, &got);
        if (strcmp(got.at, want[i].bytes))
            fail_msg("%s: %s\nnot: %s", want[i].tree, got.at, want[i].bytes);
    }
    static const char *const numbers[] = {/* of meta: alive is a time, node random */
                                          "626f6f7473=0100000000000000", "636c65616e=00",
                                          "736368656d61=02000000", "7472696564=4847464544434241",
                                          "706f736974696f6e=646362617877767574737271",
                                          "616c697665=", "6e6f6465="};
    tree_hex(st, st->meta, &got);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strstr(got.at, numbers[i])) fail_msg("meta: %s without %s", got.at, numbers[i]);
    assert_int_equal(strlen(got.at),
                     strlen("616c697665=0000000000000000 626f6f7473=0100000000000000 "
                            "636c65616e=00 6e6f6465=0000000000000000 "
                            "706f736974696f6e=000000000000000000000000 736368656d61=02000000 "
                            "7472696564=4847464544434241"));
    store_close(st);
    buffer_free(&got);
    buffer_free(&b.ops);
    place_remove(&p);
}

static void store_records_round_trip(void **state)
{
    (void)state;
    struct user_record in = {.first_seen = 1,
                             .last_seen = INT64_MAX,
                             .online_since = 0x0102030405060708,
                             .offline_since = 4,
                             .status = STATUS_AWAY,
                             .open = true,
                             .reason = REASON_RESTART,
                             .sessions = UINT32_MAX},
                       out;
    uint8_t bytes[STORE_USER_BYTES + 1];
    memset(bytes, 0xee, sizeof bytes);
    store_encode_user(&in, bytes);
    assert_int_equal(bytes[STORE_USER_BYTES], 0xee);
    assert_int_equal(bytes[24], 8); /* little-endian, at its place: the file's contract */
    assert_int_equal(bytes[31], 1);
    assert_true(store_decode_user((MDB_val){STORE_USER_BYTES, bytes}, &out));
    assert_int_equal(out.first_seen, in.first_seen);
    assert_int_equal(out.last_seen, in.last_seen);
    assert_int_equal(out.online_since, in.online_since);
    assert_int_equal(out.offline_since, in.offline_since);
    assert_int_equal(out.status, in.status);
    assert_int_equal(out.open, in.open);
    assert_int_equal(out.reason, in.reason);
    assert_int_equal(out.sessions, in.sessions);
    assert_false(store_decode_user((MDB_val){STORE_USER_BYTES - 1, bytes}, &out));
    static const struct {
        int at, value;
    } bad[] = {{0, 2}, {0, 0}, {1, 4}, {2, 2}, {3, REASON_COUNT}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        store_encode_user(&in, bytes);
        bytes[bad[i].at] = (uint8_t)bad[i].value;
        assert_false(store_decode_user((MDB_val){STORE_USER_BYTES, bytes}, &out));
    }
}

static void store_session_round_trip(void **state)
{
    (void)state;
    struct session_record in = {.from = 0x0102030405060708, .to = 9, .reason = REASON_KICKED}, out;
    memcpy(in.address, "0123456789abcdef", 16);
    uint8_t key[STORE_KEY_MAX], value[STORE_SESSION_BYTES];
    size_t n = store_session_key(span_of("bob"), in.from, key);
    store_encode_session(&in, value);
    assert_int_equal(n, 12);
    assert_memory_equal(key, "bob\0\1\2\3\4\5\6\7\10", 12);
    struct span id;
    assert_true(store_read_session((MDB_val){n, key}, (MDB_val){sizeof value, value}, &id, &out));
    assert_int_equal(id.len, 3);
    assert_memory_equal(id.at, "bob", 3);
    assert_int_equal(out.from, in.from);
    assert_int_equal(out.to, in.to);
    assert_int_equal(out.reason, in.reason);
    assert_memory_equal(out.address, in.address, 16);
    assert_false(
        store_read_session((MDB_val){9, key}, (MDB_val){sizeof value, value}, &id, &out));
    assert_false(
        store_read_session((MDB_val){n, key}, (MDB_val){sizeof value - 1, value}, &id, &out));
    value[1] = REASON_COUNT;
    assert_false(
        store_read_session((MDB_val){n, key}, (MDB_val){sizeof value, value}, &id, &out));
}

static void store_merges_users(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct user_record r;
    struct span bob = span_of("bob");
    assert_int_equal(store_get_user(st, bob, &r), 0);

    store_batch_user(&b, bob, true, STATUS_BUSY, 100, 150, REASON_NONE);
    write_now(st, &b);
    assert_int_equal(store_get_user(st, bob, &r), 1);
    assert_true(r.open && r.first_seen == 100 && r.last_seen == 150 && r.online_since == 100);
    assert_true(r.status == STATUS_BUSY && !r.sessions && !r.offline_since &&
                r.reason == REASON_NONE);

    struct session_record s = {.from = 100, .to = 200, .reason = REASON_TIMEOUT};
    store_batch_session(&b, bob, &s, false); /* before its user: the order must not matter */
    store_batch_user(&b, bob, false, STATUS_OFFLINE, 100, 200, REASON_TIMEOUT);
    write_now(st, &b);
    assert_int_equal(store_get_user(st, bob, &r), 1);
    assert_true(!r.open && r.first_seen == 100 && r.last_seen == 200 && r.online_since == 0);
    assert_true(r.offline_since == 200 && r.reason == REASON_TIMEOUT && r.sessions == 1);

    store_batch_user(&b, bob, true, STATUS_ONLINE, 300, 310, REASON_NONE);
    write_now(st, &b);
    assert_int_equal(store_get_user(st, bob, &r), 1);
    assert_true(r.open && r.first_seen == 100 && r.online_since == 300 && r.offline_since == 200);
    assert_true(r.reason == REASON_TIMEOUT && r.sessions == 1);

    store_batch_user(&b, span_of("eve"), false, STATUS_OFFLINE, 0, 77, REASON_CLOSED);
    s = (struct session_record){.from = 5, .to = 6, .reason = REASON_DROPPED};
    store_batch_session(&b, span_of("mallory"), &s, false); /* a session of an unknown user */
    write_now(st, &b);
    assert_int_equal(store_get_user(st, span_of("eve"), &r), 1);
    assert_true(r.first_seen == 77 && r.offline_since == 77 && r.reason == REASON_CLOSED);
    assert_int_equal(store_get_user(st, span_of("mallory"), &r), 1);
    assert_true(r.first_seen == 5 && r.last_seen == 6 && r.sessions == 1 && !r.open);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
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

static const struct CMUnitTest RECORDS_TESTS[] = {
    cmocka_unit_test(store_keeps_its_bytes),    cmocka_unit_test(store_records_round_trip),
    cmocka_unit_test(store_session_round_trip), cmocka_unit_test(store_merges_users),
    cmocka_unit_test(manual_record_codec),
};
