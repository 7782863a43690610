/* Unit tests of the store: records, the check of damaged files, the writer, the commands.
 * Every test works in a directory of its own under $TMPDIR. What may end a process (kill -9, full
 * disks, a second server) runs in a child; what a child finds wrong, it prints and exits with 1. */

#include <ftw.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>

#define CHILD_CHECK(condition)                                                                     \
    do {                                                                                           \
        if (condition) break;                                                                      \
        fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                    \
        _exit(1);                                                                                  \
    } while (0)

static struct log test_log = {.level = LOG_WARN, .lock = PTHREAD_MUTEX_INITIALIZER};
static struct counters test_counters;

/* Reads one user: 1 found, 0 never seen, -1 failed and logged. */
static int store_get_user(struct store *st, struct span id, struct user_record *out)
{
    MDB_txn *txn = store_begin_read(st);
    if (!txn) return -1;
    int rc = store_find_user(st, txn, id, out);
    store_end_read(st, txn);
    if (rc && rc != MDB_NOTFOUND) store_log_read(st, rc);
    return rc ? rc == MDB_NOTFOUND ? 0 : -1 : 1;
}

/* The directory of the test that runs, and the store's inside it. */
struct store_place {
    char root[64], dir[96], file[112];
};

/* Makes the directories' names; only root exists. */
static struct store_place place_make(void)
{
    struct store_place p;
    const char *tmp = getenv("TMPDIR");
    snprintf(p.root, sizeof p.root, "%s/presence-store-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(p.root));
    snprintf(p.dir, sizeof p.dir, "%s/data", p.root);
    snprintf(p.file, sizeof p.file, "%s/data.mdb", p.dir);
    return p;
}

static int remove_one(const char *path, const struct stat *s, int kind, struct FTW *where)
{
    (void)s, (void)kind, (void)where;
    return remove(path);
}

/* Removes everything below root. */
static void place_remove(const struct store_place *p)
{
    nftw(p->root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Opens a server's store; NULL with err filled. */
static struct store *open_with(const char *dir, size_t map, char err[512])
{
    struct store_options options = {.dir = dir, .map_size = map};
    err[0] = 0;
    return store_open(&options, &test_log, &test_counters, (struct why){err, 512});
}

/* Opens a server's store that must open. */
static struct store *open_good(const char *dir)
{
    char err[512];
    struct store *st = open_with(dir, 1 << 20, err);
    if (!st) fail_msg("%s", err);
    return st;
}

/* Writes a batch on this thread and empties it. */
static void write_now(struct store *st, struct store_batch *b)
{
    assert_int_equal(store_write(st, b, false), 0);
    store_batch_clear(b);
}

/* Counts done calls, and lets a thread wait for them. */
struct done_count {
    sem_t sem;
    struct store_batch *last;
};

static void done_post(void *context, struct store_batch *b)
{
    struct done_count *d = context;
    d->last = b;
    sem_post(&d->sem);
}

/* Waits for the next done; false if it did not come in 20 s. */
static bool wait_done(struct done_count *d)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20;
    return !sem_timedwait(&d->sem, &until);
}

/* Runs f(context) in a child; its exit code, or 128 and the signal that ended it. */
static int in_child(void (*f)(void *), void *context)
{
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        f(context);
        _exit(0);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* The whole content of a file. */
static struct buffer file_read(const char *path)
{
    struct buffer b = {0};
    FILE *f = fopen(path, "rb");
    if (!f) return b;
    for (size_t n; (n = fread(buffer_room(&b, 65536), 1, 65536, f)) > 0;) b.len += n;
    fclose(f);
    return b;
}

static void file_write(const char *path, const void *at, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(at, 1, n, f), n);
    fclose(f);
}

/* Adds users u000000.. from first to end, every third one open, each with one session. */
static void fill(struct store *st, int first, int end)
{
    struct store_batch b = {0};
    for (int i = first; i < end; i++) {
        char id[32];
        snprintf(id, sizeof id, "u%06d", i);
        struct session_record s = {.from = 1000 + i, .to = 2000 + i, .reason = REASON_CLOSED};
        store_batch_user(&b, span_of(id), i % 3 == 0, STATUS_ONLINE, 1000 + i, 3000 + i,
                         REASON_CLOSED);
        store_batch_session(&b, span_of(id), &s);
        if (b.users == 10000 || i == end - 1) write_now(st, &b);
    }
    buffer_free(&b.ops);
}

/* ---- Records ---- */

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
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct session_record session = {
        .from = 0x0102030405060708, .to = 0x0102030405060a0b, .reason = REASON_KICKED};
    struct manual_head manual = {true, STATUS_OFFLINE, 0x2122232425262728, 0x3132333435363738};
    struct sample sample = {.at = 0x0102030405060708, .users = 0x11121314, .connections = 0x21222324};
    memcpy(session.address, "0123456789abcdef", 16);
    st->options.outbox_batch_max = 2;
    st->options.outbox_max = 10;
    st->outbox_clock.sum = 0x4142434445464748;
    store_batch_user(&b, span_of("al"), true, STATUS_AWAY, 0x0102030405060708, 0x1112131415161718,
                     REASON_NONE);
    store_batch_user(&b, span_of("bo"), true, STATUS_ONLINE, 1, 2, REASON_NONE);
    store_batch_user(&b, span_of("bo"), false, STATUS_OFFLINE, 1, 3, REASON_KICKED);
    store_batch_session(&b, span_of("bo"), &session);
    store_batch_sample(&b, &sample);
    store_batch_manual(&b, span_of("al"), &manual, span_of("h\xc3\xa9"));
    store_batch_manual(&b, span_of("bo"), &(struct manual_head){.there = true, .status = STATUS_BUSY},
                       span_of(""));
    for (int i = 0; i < 3; i++) store_batch_change(&b, 0x5152535455565758 + i, span_of("{}"));
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
    static const char *const numbers[] = {/* of meta: alive is a time */
                                          "626f6f7473=0100000000000000", "636c65616e=00",
                                          "736368656d61=02000000",
                                          "7472696564=4847464544434241", "616c697665="};
    tree_hex(st, st->meta, &got);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strstr(got.at, numbers[i])) fail_msg("meta: %s without %s", got.at, numbers[i]);
    assert_int_equal(strlen(got.at), strlen("616c697665=0000000000000000 626f6f7473=0100000000000000 "
                                            "636c65616e=00 736368656d61=02000000 "
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
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct user_record r;
    struct span bob = span_of("bob");
    assert_int_equal(store_get_user(st, bob, &r), 0);

    store_batch_user(&b, bob, true, STATUS_BUSY, 100, 150, REASON_NONE);
    write_now(st, &b);
    assert_int_equal(store_get_user(st, bob, &r), 1);
    assert_true(r.open && r.first_seen == 100 && r.last_seen == 150 && r.online_since == 100);
    assert_true(r.status == STATUS_BUSY && !r.sessions && !r.offline_since && r.reason == REASON_NONE);

    struct session_record s = {.from = 100, .to = 200, .reason = REASON_TIMEOUT};
    store_batch_session(&b, bob, &s); /* before its user: the order must not matter */
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
    store_batch_session(&b, span_of("mallory"), &s); /* a stay of an unknown user */
    write_now(st, &b);
    assert_int_equal(store_get_user(st, span_of("eve"), &r), 1);
    assert_true(r.first_seen == 77 && r.offline_since == 77 && r.reason == REASON_CLOSED);
    assert_int_equal(store_get_user(st, span_of("mallory"), &r), 1);
    assert_true(r.first_seen == 5 && r.last_seen == 6 && r.sessions == 1 && !r.open);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* ---- Reads ---- */

/* What a visit saw. */
struct seen {
    struct buffer ids; /* each with a blank behind it */
    int left;          /* visits until it says stop; -1: never */
};

static bool see(void *context, struct span id, const struct user_record *r)
{
    struct seen *s = context;
    (void)r;
    buffer_add(&s->ids, id.at, id.len);
    buffer_add(&s->ids, " ", 1);
    return s->left < 0 || --s->left > 0;
}

/* Compares what was seen, and forgets it. */
static void assert_seen(struct seen *s, const char *ids)
{
    buffer_add(&s->ids, "", 1);
    assert_string_equal(s->ids.at, ids);
    s->ids.len = 0;
}

static void store_index_of_open(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct seen s = {.left = -1};
    for (const char *id = "abcdef"; *id; id++)
        store_batch_user(&b, (struct span){id, 1}, *id != 'c', STATUS_ONLINE, 1, 2, REASON_CLOSED);
    store_batch_user(&b, span_of("a"), false, STATUS_OFFLINE, 0, 2, REASON_CLOSED);
    store_batch_user(&b, span_of("e"), true, STATUS_AWAY, 1, 3, REASON_NONE);
    write_now(st, &b);
    store_close(st);
    st = open_good(p.dir);
    assert_true(store_each_open(st, see, &s));
    assert_seen(&s, "b d e f ");
    struct store_stats stats;
    store_stats(st, &stats);
    assert_true(stats.users == 6 && stats.open == 4 && stats.sessions == 0);
    assert_true(stats.boots == 2 && !stats.was_clean && stats.was_alive > 0 && stats.writable);
    assert_true(stats.map_size == 1 << 20 && stats.used_bytes && stats.file_bytes);
    store_close(st);
    st = open_good(p.dir);
    fill(st, 0, 1000); /* more than one read transaction holds */
    s.ids.len = 0;
    assert_true(store_each_open(st, see, &s));
    assert_int_equal(s.ids.len, 4 * 2 + 334 * 8);
    store_close(st);
    buffer_free(&b.ops);
    buffer_free(&s.ids);
    place_remove(&p);
}

static void store_pages_through_users(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct seen s = {.left = -1};
    bool at_end;
    assert_true(store_each_user(st, (struct span){0}, 10, see, &s, &at_end));
    assert_true(at_end);
    for (const char *id = "acegi"; *id; id++)
        store_batch_user(&b, (struct span){id, 1}, true, STATUS_ONLINE, 1, 2, REASON_NONE);
    write_now(st, &b);
    static const struct {
        const char *after;
        size_t scan;
        int stop;
        const char *seen;
        bool at_end;
    } cases[] = {
        {"", 100, -1, "a c e g i ", true},
        {"", 2, -1, "a c ", false},
        {"c", 2, -1, "e g ", false},
        {"d", 2, -1, "e g ", false},
        {"g", 2, -1, "i ", true},
        {"i", 2, -1, "", true},
        {"z", 2, -1, "", true},
        {"", 100, 2, "a c ", false},
        {"g", 9, 1, "i ", true},
        {"", 5, -1, "a c e g i ", true},
        {"", 0, -1, "", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        s.left = cases[i].stop;
        assert_true(store_each_user(st, span_of(cases[i].after), cases[i].scan, see, &s, &at_end));
        assert_seen(&s, cases[i].seen);
        assert_int_equal(at_end, cases[i].at_end);
    }
    fill(st, 0, 500);
    s.left = -1;
    assert_true(store_each_user(st, span_of("i"), 129, see, &s, &at_end));
    assert_int_equal(s.ids.len, 129 * 8);
    assert_memory_equal(s.ids.at + 128 * 8, "u000128 ", 8);
    assert_false(at_end);
    store_close(st);
    buffer_free(&b.ops);
    buffer_free(&s.ids);
    place_remove(&p);
}

static void store_sessions_newest_first(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct session_record out[8];
    static const char *const ids[] = {"bo", "bob", "bobby", "z"};
    for (int i = 0; i < 4; i++)
        for (int n = 1; n <= 3; n++) {
            struct session_record s = {.from = n * 100, .to = n * 100 + i, .reason = REASON_CLOSED};
            store_batch_session(&b, span_of(ids[i]), &s);
        }
    write_now(st, &b);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(store_sessions(st, span_of(ids[i]), INT64_MAX, out, 8), 3);
        for (int n = 0; n < 3; n++) {
            assert_int_equal(out[n].from, 300 - n * 100);
            assert_int_equal(out[n].to, 300 - n * 100 + i);
        }
    }
    assert_int_equal(store_sessions(st, span_of("bob"), 300, out, 8), 2);
    assert_int_equal(out[0].from, 200);
    assert_int_equal(store_sessions(st, span_of("bob"), 201, out, 1), 1);
    assert_int_equal(out[0].from, 200);
    assert_int_equal(store_sessions(st, span_of("bob"), 100, out, 8), 0);
    assert_int_equal(store_sessions(st, span_of("bob"), -5, out, 8), 0);
    assert_int_equal(store_sessions(st, span_of("a"), INT64_MAX, out, 8), 0);
    assert_int_equal(store_sessions(st, span_of("zz"), INT64_MAX, out, 8), 0);
    struct user_record r;
    assert_int_equal(store_get_user(st, span_of("bob"), &r), 1);
    assert_int_equal(r.sessions, 3);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

static void store_removes_old_sessions(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    int64_t now = clock_wall_ms();
    struct store_batch b = {0};
    for (int i = 0; i < 2500; i++) {
        char id[16];
        snprintf(id, sizeof id, "s%04d", i);
        struct session_record s = {
            .from = 1, .to = i % 2 ? now : now - 100000, .reason = REASON_CLOSED};
        store_batch_session(&b, span_of(id), &s);
    }
    write_now(st, &b);
    st->options.history_ms = 50000;
    struct store_stats stats;
    for (int i = 0, left[] = {2000, 1500, 1250}; i < 3; i++) {
        write_now(st, &b); /* empty: the sweep alone, in steps */
        store_stats(st, &stats);
        assert_int_equal(stats.sessions, left[i]);
    }
    struct session_record out;
    assert_int_equal(store_sessions(st, span_of("s0000"), INT64_MAX, &out, 1), 0);
    assert_int_equal(store_sessions(st, span_of("s2499"), INT64_MAX, &out, 1), 1);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* Old sessions are removed faster than new ones come, however fast that is. */
static void store_sweep_keeps_up(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    int64_t now = clock_wall_ms();
    struct store_stats stats;
    st->options.history_ms = 50000;
    for (int turn = 0; turn < 12; turn++) {
        struct store_batch b = {0};
        for (int i = 0; i < 3000; i++) {
            char id[16];
            snprintf(id, sizeof id, "s%04d", i);
            struct session_record s = {
                .from = turn + 1, .to = now - 100000, .reason = REASON_CLOSED};
            store_batch_session(&b, span_of(id), &s);
        }
        write_now(st, &b);
        buffer_free(&b.ops);
    }
    store_stats(st, &stats);
    assert_true(stats.sessions <= 2 * 3000);
    store_close(st);
    place_remove(&p);
}

/* ---- Growth, failure, recovery ---- */

static void store_grows_its_map(void **state)
{
    (void)state;
    struct store_place p = place_make();
    char err[512];
    struct store *st = open_with(p.dir, 65536, err);
    assert_non_null(st);
    struct done_count d = {0};
    sem_init(&d.sem, 0, 0);
    assert_true(store_start_writer(st, done_post, &d));
    struct store_batch b = {0};
    for (int i = 0; i < 50000; i++) {
        char id[32];
        snprintf(id, sizeof id, "user-%d", i);
        store_batch_user(&b, span_of(id), i % 2, STATUS_ONLINE, 10 + i, 20 + i, REASON_NONE);
    }
    store_submit(st, &b);
    assert_true(wait_done(&d));
    assert_ptr_equal(d.last, &b);
    struct store_stats stats;
    store_stats(st, &stats);
    assert_int_equal(stats.users, 50000);
    assert_int_equal(stats.open, 25000);
    assert_true(stats.map_size > 65536 && stats.map_size >= stats.used_bytes);
    assert_true(store_stop_writer(st, 5000));
    store_close(st);
    st = open_with(p.dir, 65536, err); /* the data is larger than the map that is asked for */
    assert_non_null(st);
    store_stats(st, &stats);
    assert_int_equal(stats.users, 50000);
    assert_true(stats.was_clean);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* Waits until the store is (not) writable; at most 10 s. */
static bool wait_writable(struct store *st, bool writable)
{
    struct store_stats stats;
    for (int i = 0; i < 1000; i++) {
        store_stats(st, &stats);
        if (stats.writable == writable) return true;
        nanosleep(&(struct timespec){0, 10000000}, NULL);
    }
    return false;
}

/* Fills what is left of a file system with a file. */
static void fill_disk(const char *path)
{
    static char zeros[65536];
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    for (size_t n = sizeof zeros; n; n /= 2)
        while (write(fd, zeros, n) == (ssize_t)n) continue;
    close(fd);
}

/* How often text occurs in a file. */
static int file_count(const char *path, const char *text)
{
    struct buffer b = file_read(path);
    buffer_add(&b, "", 1);
    int n = 0;
    for (const char *at = b.at; (at = strstr(at, text)); at++) n++;
    buffer_free(&b);
    return n;
}

/* In a child: a disk of 4 MB fills up, and is freed again. */
static void full_disk(void *context)
{
    struct store_place *p = context;
    char err[512], filler[128], log[128], id[129];
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mkdir(p->dir, 0700) || mount("none", p->dir, "tmpfs", 0, "size=4m,mode=0700"))
        _exit(77);
    snprintf(filler, sizeof filler, "%s/filler", p->dir);
    snprintf(log, sizeof log, "%s/log", p->root);
    CHILD_CHECK(freopen(log, "w", stderr));
    struct store *st = open_with(p->dir, 65536, err);
    CHILD_CHECK(st);
    struct done_count d = {0};
    sem_init(&d.sem, 0, 0);
    store_start_writer(st, done_post, &d);
    struct store_batch b = {0};
    store_batch_user(&b, span_of("first"), true, STATUS_ONLINE, 1, 2, REASON_NONE);
    store_submit(st, &b);
    CHILD_CHECK(wait_done(&d));
    fill_disk(filler);
    store_batch_clear(&b);
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof id, "%0128d", i);
        store_batch_user(&b, span_of(id), true, STATUS_ONLINE, 1, 2, REASON_NONE);
    }
    store_submit(st, &b);
    CHILD_CHECK(wait_writable(st, false));
    nanosleep(&(struct timespec){2, 500000000}, NULL); /* more tries, no more lines */
    struct store_stats stats;
    struct user_record r;
    store_stats(st, &stats);
    CHILD_CHECK(strstr(stats.problem, "No space left on device"));
    CHILD_CHECK(store_get_user(st, span_of("first"), &r) == 1); /* reads go on */
    CHILD_CHECK(store_get_user(st, span_of(id), &r) == 0);
    CHILD_CHECK(atomic_load(&test_counters.store_failures) >= 2);
    CHILD_CHECK(sem_trywait(&d.sem));
    unlink(filler);
    CHILD_CHECK(wait_writable(st, true));
    CHILD_CHECK(wait_done(&d));
    CHILD_CHECK(store_get_user(st, span_of(id), &r) == 1);
    store_stats(st, &stats);
    CHILD_CHECK(stats.users == 5001 && !stats.problem[0]);
    CHILD_CHECK(file_count(log, "presence goes on in memory; free space in ") == 1);
    CHILD_CHECK(file_count(log, "again, after ") == 1);

    /* A server starts on a full disk or says why not; a stop that cannot write says so. */
    fill_disk(filler);
    store_batch_clear(&b);
    for (int i = 0; i < 5000; i++) {
        snprintf(id, sizeof id, "x%0127d", i);
        store_batch_user(&b, span_of(id), true, STATUS_ONLINE, 1, 2, REASON_NONE);
    }
    store_submit(st, &b);
    CHILD_CHECK(wait_writable(st, false));
    int64_t before = clock_mono_ms();
    CHILD_CHECK(!store_stop_writer(st, 700));
    int64_t took = clock_mono_ms() - before; /* the thread sanitizer is slow beside other tests */
    CHILD_CHECK(took >= 690 && took < (ONLY_THREADS ? 15000 : 1500));
    store_close(st);
    st = open_with(p->dir, 65536, err);
    CHILD_CHECK(st || strstr(err, "No space left on device; free space in "));
    if (st) CHILD_CHECK(store_get_user(st, span_of("first"), &r) == 1);
    store_close(st);
    unlink(filler);
    st = open_with(p->dir, 65536, err);
    CHILD_CHECK(st);
    store_close(st);
    buffer_free(&b.ops);
    umount(p->dir);
}

static void store_survives_a_full_disk(void **state)
{
    (void)state;
    struct store_place p = place_make();
    int code = in_child(full_disk, &p);
    char log[96];
    snprintf(log, sizeof log, "%s/log", p.root);
    struct buffer said = file_read(log);
    if (code && code != 77) print_message("%.*s\n", (int)said.len, said.at);
    buffer_free(&said);
    place_remove(&p);
    if (code == 77) {
        print_message("needs CAP_SYS_ADMIN for a tmpfs of 4 MB\n");
        skip();
    }
    assert_int_equal(code, 0);
}

/* In a child: a directory on a full disk from the start. */
static void full_from_start(void *context)
{
    struct store_place *p = context;
    char err[512], filler[128];
    if (unshare(CLONE_NEWNS) || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mkdir(p->dir, 0700) || mount("none", p->dir, "tmpfs", 0, "size=256k,mode=0700"))
        _exit(77);
    snprintf(filler, sizeof filler, "%s/filler", p->dir);
    for (int room = 0; room < 64; room++) { /* every way to be short of a few pages */
        fill_disk(filler);
        CHILD_CHECK(truncate(filler, 256 * 1024 - 4096 * room) == 0 || room == 0);
        struct store *st = open_with(p->dir, 65536, err);
        CHILD_CHECK(st || strstr(err, "No space left on device"));
        /* Half a file never has the name. */
        CHILD_CHECK(st || access(p->file, F_OK) ||
                    store_check_file(p->file, 0, 0, WHY(err)));
        store_close(st);
        if (st) break;
        CHILD_CHECK(room < 40);
    }
    umount(p->dir);
}

static void store_refuses_a_full_disk(void **state)
{
    (void)state;
    struct store_place p = place_make();
    int code = in_child(full_from_start, &p);
    place_remove(&p);
    if (code == 77) skip();
    assert_int_equal(code, 0);
}

/* In a child: the meta page cannot be written; LMDB then refuses all until it is reopened. */
static void meta_write_fails(void *context)
{
    struct store_place *p = context;
    char err[512];
    struct store *st = open_with(p->dir, 1 << 20, err);
    CHILD_CHECK(st);
    struct done_count d = {0};
    sem_init(&d.sem, 0, 0);
    struct store_batch b = {0};
    store_batch_user(&b, span_of("bob"), true, STATUS_ONLINE, 1, 2, REASON_NONE);
    int full = open("/dev/full", O_RDWR);
    CHILD_CHECK(full >= 0 && dup2(full, ((int *)st->env)[2]) >= 0); /* me_mfd of struct MDB_env */
    CHILD_CHECK(freopen("/dev/null", "w", stderr));
    store_start_writer(st, done_post, &d);
    store_submit(st, &b);
    CHILD_CHECK(wait_done(&d));
    struct user_record r;
    CHILD_CHECK(store_get_user(st, span_of("bob"), &r) == 1);
    CHILD_CHECK(atomic_load(&test_counters.store_failures) >= 1);
    CHILD_CHECK(store_stop_writer(st, 5000));
    store_close(st);
    st = open_with(p->dir, 1 << 20, err);
    CHILD_CHECK(st && store_get_user(st, span_of("bob"), &r) == 1);
    store_close(st);
    buffer_free(&b.ops);
}

static void store_recovers_from_a_failed_meta_page(void **state)
{
    (void)state;
    struct store_place p = place_make();
    assert_int_equal(in_child(meta_write_fails, &p), 0);
    place_remove(&p);
}

/* ---- Damage ---- */

/* LMDB's file format, data version 1, as these tests know it: they make damage by it. */
struct lmdb_tree {
    uint32_t pad;
    uint16_t flags, depth;
    size_t branches, leaves, overflows, entries, root;
};
struct lmdb_page {
    size_t number;
    uint16_t pad, flags;
    uint16_t lower, upper;
    uint16_t nodes[];
};
struct lmdb_meta {
    uint32_t magic, version;
    size_t address, map_size;
    struct lmdb_tree free, named;
    size_t last_page, transaction;
};
struct lmdb_node {
    uint16_t low, high, flags, key_len;
};
enum {
    LMDB_BRANCH = 1,
    LMDB_LEAF = 2,
    LMDB_NODE_OVERFLOW = 1,
    LMDB_HEAD = offsetof(struct lmdb_page, nodes),
};

/* In a child, since it must not crash: what opening and checking say of a file. */
struct damage {
    struct store_place *p;
    bool may_open;     /* the damage is where a start does not look */
    bool may_be_whole; /* and may have hit nothing */
    const char *says;
};

static void open_damaged(void *context)
{
    struct damage *d = context;
    char err[512], text[1024] = "";
    struct buffer before = file_read(d->p->file);
    int64_t start = clock_mono_ms();
    struct store *st = open_with(d->p->dir, 1 << 20, err);
    if (!st) {
        CHILD_CHECK(strstr(err, d->p->file) && !strchr(err, '\n'));
        if (d->says) CHILD_CHECK(strstr(err, d->says));
        struct buffer after = file_read(d->p->file);
        CHILD_CHECK(before.len == after.len);
        CHILD_CHECK(!before.len || !memcmp(before.at, after.at, before.len));
        buffer_free(&after);
    }
    CHILD_CHECK(!st || d->may_open);
    store_close(st);
    FILE *said = fmemopen(text, sizeof text - 1, "w"), *out = fopen("/dev/null", "w");
    int code = store_command_check(d->p->dir, out, said);
    fclose(said);
    fclose(out);
    CHILD_CHECK(code == 1 || d->may_be_whole);
    CHILD_CHECK(code == 0 ||
                (strstr(text, d->p->file) && strchr(text, '\n') == text + strlen(text) - 1));
    CHILD_CHECK(clock_mono_ms() - start < 2000);
    buffer_free(&before);
}

/* Puts bytes into data.mdb, and expects that they are refused. */
static void expect_refused(struct store_place *p, const void *at, size_t n, struct damage d)
{
    d.p = p;
    file_write(p->file, at, n);
    int code = in_child(open_damaged, &d);
    if (code) fail_msg("%zu bytes (%s): exit %d", n, d.says ? d.says : "", code);
}

static void store_refuses_damaged_files(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    fill(st, 0, 20000);
    store_close(st);
    struct buffer good = file_read(p.file);
    char *bad = mem_new(good.len);

    expect_refused(&p, good.at, 0, (struct damage){.says = "is empty"});
    expect_refused(&p, good.at, 1, (struct damage){.says = "is damaged or no store"});
    expect_refused(&p, good.at, 4096, (struct damage){.says = "is damaged or no store"});
    expect_refused(&p, good.at, 8192, (struct damage){.says = "restore a backup"});
    expect_refused(&p, good.at, good.len / 2, (struct damage){.says = "end of the file"});
    expect_refused(&p, good.at, good.len / 2 + 1234, (struct damage){.says = "end of the file"});
    random_bytes(bad, good.len);
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged or no store"});
    memset(bad, 0, good.len);
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged or no store"});
    memcpy(bad, "SQLite format 3", 16);
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged or no store"});
    memcpy(bad, good.at, 8192);
    random_bytes(bad + 8192, good.len - 8192); /* all but the meta pages */
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged"});
    memcpy(bad, good.at, good.len);
    memset(bad + 16, 0, 4); /* the first meta's magic */
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged or no store"});

    file_write(p.file, good.at, good.len); /* and the whole one is taken */
    st = open_good(p.dir);
    store_close(st);
    free(bad);
    buffer_free(&good);
    place_remove(&p);
}

static void store_never_crashes_on_damage(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    fill(st, 0, 3000);
    fill(st, 0, 1500); /* so that there are free pages */
    store_close(st);
    struct buffer good = file_read(p.file);
    char *bad = mem_new(good.len);
    unsigned seed = 1;
    for (int round = 0; round < 150; round++) {
        memcpy(bad, good.at, good.len);
        int kind = round % 3;
        for (int i = 0; i < (kind ? 1 + round / 10 : 1); i++) {
            size_t at = (size_t)rand_r(&seed) * 16 % good.len, n = kind == 2 ? 1 : 700;
            if (kind == 0) at = at / 4096 * 4096, n = 4096;         /* a whole page */
            if (kind == 1 && at % 4096 > 64) at = at / 4096 * 4096; /* heads of pages */
            for (size_t k = at; k < at + n && k < good.len; k++) bad[k] = (char)rand_r(&seed);
        }
        expect_refused(&p, bad, good.len, (struct damage){.may_open = true, .may_be_whole = true});
    }
    free(bad);
    buffer_free(&good);
    place_remove(&p);
}

static void store_check_finds_damaged_pages(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    fill(st, 0, 6000);
    store_close(st);
    struct buffer good = file_read(p.file);
    size_t pages = good.len / 4096, found = 0, used = 0;
    for (size_t page = 2; page < pages; page++) {
        char path[128], err[512] = "";
        snprintf(path, sizeof path, "%s/one", p.root);
        struct buffer bad = {0};
        buffer_add(&bad, good.at, good.len);
        uint16_t flags;
        memcpy(&flags, bad.at + page * 4096 + 10, 2);
        used += flags == LMDB_LEAF || flags == LMDB_BRANCH;
        memset(bad.at + page * 4096 + 10, 0xff, 2);
        file_write(path, bad.at, bad.len);
        found += !store_check_file(path, 0, 0, WHY(err));
        buffer_free(&bad);
    }
    /* Every page of a tree is looked at; free ones need not be. */
    assert_true(used > 100);
    assert_true(found >= used * 9 / 10);
    buffer_free(&good);
    place_remove(&p);
}

/* The newest meta page of a file. */
static struct lmdb_meta meta_of(const char *file)
{
    struct lmdb_meta meta[2];
    memcpy(&meta[0], file + LMDB_HEAD, sizeof meta[0]);
    memcpy(&meta[1], file + 4096 + LMDB_HEAD, sizeof meta[1]);
    return meta[meta[1].transaction > meta[0].transaction];
}

/* Where the record of the users' tree is, in the page that is the root of the main tree. */
static char *users_tree_at(char *file)
{
    static const char name[] = "user_presence";
    struct lmdb_page *p = (struct lmdb_page *)(void *)(file + meta_of(file).named.root * 4096);
    for (size_t i = 0; i < (size_t)(p->lower - LMDB_HEAD) / 2; i++) {
        char *node = (char *)p + p->nodes[i] + sizeof(struct lmdb_node);
        if (!memcmp(node, name, sizeof name - 1)) return node + sizeof name - 1;
    }
    return NULL;
}

/* Every kind of damage that the check knows, made by hand in a sound file. */
enum kind_of_damage {
    BAD_NUMBER,
    BAD_FLAGS,
    BAD_LOWER,
    BAD_NODE_LOW,
    BAD_NODE_HIGH,
    BAD_KEY,
    BAD_VALUE,
    BAD_KIND,
    BAD_ORDER,
    BAD_BOUND,
    BAD_TWICE,
    BAD_CHILD,
    BAD_ENTRIES,
    BAD_DEPTH,
    BAD_TREE_FLAGS,
    BAD_FREE_COUNT,
    BAD_FREE_ORDER,
    BAD_FREE_USED,
    BAD_KINDS
};
static const char *const DAMAGE_SAYS[BAD_KINDS] = {
    "holds something else", "holds something else", "holds something else",
    "a bad node",           "a bad node",           "a bad key",
    "a bad value",          "a bad value",          "out of order",
    "out of order",         "used twice",           "cannot exist",
    "entries where",        "holds something else", "not presence's own",
    "list of free pages",   "list of free pages",   "used twice"};

/* Makes one kind of damage in a file whose users have a branch for a root. */
static void make_damage(char *file, enum kind_of_damage kind)
{
    struct lmdb_tree users;
    memcpy(&users, users_tree_at(file), sizeof users);
    struct lmdb_page *branch = (struct lmdb_page *)(void *)(file + users.root * 4096);
    struct lmdb_node *child[2];
    for (int i = 0; i < 2; i++)
        child[i] = (struct lmdb_node *)(void *)((char *)branch + branch->nodes[i + 1]);
    struct lmdb_page *leaf = (struct lmdb_page *)(void *)(file + child[0]->low * 4096);
    struct lmdb_node *node = (struct lmdb_node *)(void *)((char *)leaf + leaf->nodes[1]);
    /* The last free list: its count, then its pages, the largest first. */
    size_t root = meta_of(file).free.root;
    struct lmdb_page *list = (struct lmdb_page *)(void *)(file + root * 4096);
    size_t last = (size_t)(list->lower - LMDB_HEAD) / 2 - 1, numbers[3];
    char *free_at = (char *)list + list->nodes[last] + sizeof *node + sizeof(size_t);
    memcpy(numbers, free_at, sizeof numbers);
    assert_true(branch->flags == LMDB_BRANCH && leaf->flags == LMDB_LEAF && numbers[0] >= 2);
    switch (kind) {
    case BAD_NUMBER: leaf->number++; break;
    case BAD_FLAGS: leaf->flags = LMDB_BRANCH; break;
    case BAD_LOWER: leaf->lower = 4098; break;
    case BAD_NODE_LOW: leaf->nodes[1] = (uint16_t)(leaf->upper - 2); break;
    case BAD_NODE_HIGH: leaf->nodes[1] = 4092; break;
    case BAD_KEY: node->key_len = 4096; break;
    case BAD_VALUE: node->low = 4096; break;
    case BAD_KIND: node->flags = LMDB_NODE_OVERFLOW; break;
    case BAD_ORDER:
        leaf->nodes[1] ^= leaf->nodes[2];
        leaf->nodes[2] ^= leaf->nodes[1];
        leaf->nodes[1] ^= leaf->nodes[2];
        break;
    case BAD_BOUND: ((char *)(child[0] + 1))[0] = 'z'; break;
    case BAD_TWICE: child[1]->low = child[0]->low; break;
    case BAD_CHILD: child[1]->high = 0xffff; break;
    case BAD_ENTRIES: users.entries++; break;
    case BAD_DEPTH: users.depth++; break;
    case BAD_TREE_FLAGS: users.flags = MDB_DUPSORT; break;
    case BAD_FREE_COUNT: numbers[0] = 4096; break;
    case BAD_FREE_ORDER: numbers[1] = numbers[2]; break;
    case BAD_FREE_USED: numbers[2] = users.root < numbers[1] ? users.root : 2; break;
    case BAD_KINDS: break;
    }
    memcpy(free_at, numbers, sizeof numbers);
    memcpy(users_tree_at(file), &users, sizeof users);
}

static void store_check_knows_each_kind_of_damage(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    char path[128], err[512];
    fill(st, 0, 3000);
    store_close(st);
    struct buffer good = file_read(p.file);
    snprintf(path, sizeof path, "%s/one", p.root);
    for (int kind = 0; kind <= BAD_KINDS; kind++) {
        char *bad = mem_new(good.len);
        memcpy(bad, good.at, good.len);
        make_damage(bad, (enum kind_of_damage)kind);
        file_write(path, bad, good.len);
        free(bad);
        err[0] = 0;
        bool ok = store_check_file(path, 0, 0, WHY(err));
        assert_int_equal(ok, kind == BAD_KINDS); /* the last one is no damage at all */
        if (!ok && (!strstr(err, DAMAGE_SAYS[kind]) || !strstr(err, path)))
            fail_msg("%d: %s", kind, err);
    }
    buffer_free(&good);
    place_remove(&p);
}

static void store_check_finds_records_that_disagree(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    char text[1024] = "", said[1024] = "";
    fill(st, 0, 300);
    FILE *out = fmemopen(text, sizeof text - 1, "w"), *err = fmemopen(said, sizeof said - 1, "w");
    store_close(st);
    assert_int_equal(store_command_check(p.dir, out, err), 0);
    fflush(out);
    assert_string_equal(text, "store ok: 300 users, 300 sessions, 100 open\n");
    st = open_good(p.dir);
    MDB_txn *txn;
    MDB_val key = {7, "u000003"};
    assert_int_equal(mdb_txn_begin(st->env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_del(txn, st->open, &key, NULL), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    store_close(st);
    assert_int_equal(store_command_check(p.dir, out, err), 1);
    fflush(err);
    assert_non_null(strstr(said, "not in `open`"));
    fclose(out);
    fclose(err);
    place_remove(&p);
}

static void store_refuses_a_foreign_lmdb_file(void **state)
{
    (void)state;
    struct store_place p = place_make();
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_val key = {1, "k"}, value = {1, "v"};
    assert_int_equal(mkdir(p.dir, 0700), 0);
    mdb_env_create(&env);
    assert_int_equal(mdb_env_open(env, p.dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    struct buffer file = file_read(p.file);
    expect_refused(&p, file.at, file.len,
                   (struct damage){.says = "was written by another program"});
    buffer_free(&file);
    assert_int_equal(unlink(p.file), 0);
    mdb_env_create(&env);
    assert_int_equal(mdb_env_open(env, p.dir, 0, 0600), 0); /* and one without anything in it */
    mdb_env_close(env);
    file = file_read(p.file);
    expect_refused(&p, file.at, file.len, (struct damage){.says = "is no store of presence"});
    buffer_free(&file);
    place_remove(&p);
}

/* Sets a number in the meta of a closed store. */
static void set_meta(const char *dir, const char *name, uint64_t number, int n)
{
    struct store *st = open_good(dir);
    MDB_txn *txn;
    assert_int_equal(mdb_txn_begin(st->env, NULL, 0, &txn), 0);
    assert_int_equal(store_put_number(st, txn, name, number, n), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    store_close(st);
}

static void store_refuses_a_newer_schema(void **state)
{
    (void)state;
    struct store_place p = place_make();
    set_meta(p.dir, "schema", 7, 4);
    char err[512], want[256];
    assert_null(open_with(p.dir, 1 << 20, err));
    snprintf(want, sizeof want, "%s has schema 7, this presence knows 2; use the newer presence",
             p.file);
    assert_string_equal(err, want);
    struct buffer file = file_read(p.file);
    expect_refused(&p, file.at, file.len, (struct damage){.says = "schema 7"});
    buffer_free(&file);
    place_remove(&p);
}

/* Work: drops a tree, as if the store were from before it was added. */
static int drop_tree(struct store *st, MDB_txn *txn, void *tree)
{
    return mdb_drop(txn, *(MDB_dbi *)(void *)((char *)st + *(size_t *)tree), 1);
}

/* An older schema, and stores from before some tree was added: all are refused as they are, with
 * the way out. */
static void store_refuses_an_older_schema(void **state)
{
    (void)state;
    static size_t trees[] = {offsetof(struct store, seen), offsetof(struct store, outbox),
                             offsetof(struct store, samples), offsetof(struct store, manual)};
    for (int old = 0; old < STORE_SCHEMA + 4; old++) {
        struct store_place p = place_make();
        char err[512], want[512];
        struct store *st = open_good(p.dir);
        fill(st, 0, 300);
        if (old >= STORE_SCHEMA)
            assert_int_equal(store_transact(st, drop_tree, &trees[old - STORE_SCHEMA]), 0);
        store_close(st);
        if (old < STORE_SCHEMA) set_meta(p.dir, "schema", (uint64_t)old, 4);
        assert_null(open_with(p.dir, 1 << 20, err));
        snprintf(want, sizeof want,
                 "%s is from an older presence; --dump it with that one, and --restore the dump"
                 " with this one into an empty --data",
                 p.file);
        assert_string_equal(err, want);
        struct buffer file = file_read(p.file);
        expect_refused(&p, file.at, file.len, (struct damage){.says = "an older presence"});
        buffer_free(&file);
        place_remove(&p);
    }
}

/* ---- Processes ---- */

static void open_second(void *context)
{
    struct store_place *p = context;
    char err[512], want[256];
    CHILD_CHECK(!open_with(p->dir, 1 << 20, err));
    snprintf(want, sizeof want, "%s is in use by process %d; stop it or choose another --data",
             p->dir, (int)getppid());
    CHILD_CHECK(!strcmp(err, want));
    FILE *in = fopen("/dev/null", "r"), *out = fopen("/dev/null", "w");
    CHILD_CHECK(store_command_restore(p->dir, in, "dump", out) == 1);
    CHILD_CHECK(store_command_check(p->dir, out, stderr) == 0); /* commands that read may */
}

static void store_refuses_a_second_server(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    assert_int_equal(in_child(open_second, &p), 0);
    store_close(st);
    st = open_good(p.dir);
    store_close(st);
    place_remove(&p);
}

static void store_refuses_unusable_places(void **state)
{
    (void)state;
    struct store_place p = place_make();
    char err[512], path[128];
    file_write(p.dir, "x", 1);
    assert_null(open_with(p.dir, 0, err));
    assert_non_null(strstr(err, "is not a directory"));
    assert_non_null(strstr(err, p.dir));
    snprintf(path, sizeof path, "%s/missing/data", p.root);
    assert_null(open_with(path, 0, err));
    assert_non_null(strstr(err, "No such file or directory"));
    char *long_path = mem_new(PATH_MAX + 1);
    memset(long_path, 'x', PATH_MAX);
    assert_null(open_with(long_path, 0, err));
    free(long_path);
    assert_int_equal(unlink(p.dir), 0);
    struct store *st = open_good(p.dir);
    struct stat s;
    assert_int_equal(stat(p.dir, &s), 0);
    assert_int_equal(s.st_mode & 0777, 0700);
    snprintf(path, sizeof path, "%s/lock.mdb", p.dir);
    assert_int_equal(stat(path, &s), 0);
    assert_true(s.st_blocks * 512 >= STORE_LOCK_SERVER); /* no holes that a full disk could hit */
    store_close(st);
    place_remove(&p);
}

/* A child that commits batches for ever, and says over a pipe which are done. */
struct killed {
    struct store_place *p;
    int pipe[2];
    uint32_t number; /* of the batch under way */
    sem_t done;
};

static void done_tell(void *context, struct store_batch *b)
{
    struct killed *k = context;
    (void)b;
    CHILD_CHECK(write(k->pipe[1], &k->number, sizeof k->number) == sizeof k->number);
    sem_post(&k->done);
}

static void commit_for_ever(void *context)
{
    struct killed *k = context;
    char err[512];
    struct store *st = open_with(k->p->dir, 65536, err);
    struct store_batch b = {0};
    CHILD_CHECK(st);
    sem_init(&k->done, 0, 0);
    CHILD_CHECK(store_start_writer(st, done_tell, k));
    for (;; k->number++) {
        char id[32];
        store_batch_clear(&b);
        for (uint32_t i = 0; i < 50; i++) {
            int len = snprintf(id, sizeof id, "%u-%u", k->number % 1000, i);
            struct span owner = {id, (size_t)len};
            struct session_record s = {
                .from = k->number, .to = k->number + i, .reason = REASON_CLOSED};
            store_batch_user(&b, owner, i % 2, STATUS_ONLINE, k->number, k->number, REASON_CLOSED);
            store_batch_session(&b, owner, &s);
        }
        store_submit(st, &b);
        sem_wait(&k->done);
        nanosleep(&(struct timespec){0, 500000}, NULL); /* on a fast disk, not too many */
    }
}

/* Whether batch n of such a child is whole in the store. */
static bool batch_is_there(struct store *st, uint32_t n)
{
    for (uint32_t i = 0; i < 50; i++) {
        char id[32];
        struct session_record s;
        struct user_record r;
        int len = snprintf(id, sizeof id, "%u-%u", n % 1000, i);
        struct span owner = {id, (size_t)len};
        if (store_get_user(st, owner, &r) != 1 || r.last_seen < n || !r.sessions) return false;
        if (store_sessions(st, owner, n + 1, &s, 1) != 1 || s.from != n || s.to != n + i)
            return false;
    }
    return true;
}

static void store_keeps_what_was_committed(void **state)
{
    (void)state;
    struct store_place p = place_make();
    unsigned seed = (unsigned)getpid();
    uint32_t told = 0, whole = 0;
    FILE *null = fopen("/dev/null", "w");
    for (int round = 0; round < 50; round++) {
        struct killed k = {.p = &p, .number = told + 1};
        uint32_t first = k.number;
        assert_int_equal(pipe(k.pipe), 0);
        fflush(NULL);
        pid_t pid = fork();
        if (!pid) commit_for_ever(&k);
        assert_true(pid > 0);
        assert_int_equal(read(k.pipe[0], &told, sizeof told), sizeof told);
        nanosleep(&(struct timespec){0, rand_r(&seed) % 30000000}, NULL);
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        close(k.pipe[1]);
        while (read(k.pipe[0], &told, sizeof told) == sizeof told) continue;
        close(k.pipe[0]);
        assert_int_equal(store_command_check(p.dir, null, stderr), 0);
        struct store *st = open_good(p.dir); /* no lock is left behind */
        assert_false(st->was_clean);
        for (uint32_t n = first; n <= told; n++, whole++) assert_true(batch_is_there(st, n));
        if (batch_is_there(st, told + 1)) told++; /* committed, but not told of any more */
        store_close(st);
    }
    print_message("    %u batches in 50 lives\n", whole);
    fclose(null);
    place_remove(&p);
}

static void store_stops_cleanly(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct done_count d = {0};
    struct store_batch b = {0};
    struct user_record r;
    sem_init(&d.sem, 0, 0);
    struct store *st = open_good(p.dir);
    assert_true(store_start_writer(st, done_post, &d));
    store_batch_user(&b, span_of("bob"), true, STATUS_ONLINE, 1, 2, REASON_NONE);
    store_submit(st, &b);
    int64_t before = clock_wall_ms();
    assert_true(store_stop_writer(st, 5000)); /* writes what was submitted */
    assert_int_equal(sem_trywait(&d.sem), 0);
    store_close(st);
    st = open_good(p.dir);
    assert_true(st->was_clean);
    assert_in_range(st->was_alive, before, clock_wall_ms());
    assert_int_equal(st->boots, 2);
    assert_int_equal(store_get_user(st, span_of("bob"), &r), 1);
    assert_true(store_stop_writer(st, 0)); /* none was started */
    store_close(st);
    st = open_good(p.dir);
    assert_false(st->was_clean);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* ---- Readers and writer side by side ---- */

struct reader {
    struct store *st;
    _Atomic bool stop;
    _Atomic int reads, wrong;
};

static bool see_nothing(void *context, struct span id, const struct user_record *r)
{
    (void)context, (void)id, (void)r;
    return true;
}

/* Reads until told to stop. A user's numbers are all the same in each of its versions. */
static void *read_on(void *context)
{
    struct reader *reader = context;
    for (int i = 0; !atomic_load(&reader->stop); i++) {
        char id[16];
        struct user_record r;
        struct session_record s[4];
        struct store_stats stats;
        bool at_end;
        snprintf(id, sizeof id, "u%d", i % 100);
        int found = store_get_user(reader->st, span_of(id), &r);
        bool wrong = found < 0 || (found && r.last_seen != r.online_since);
        wrong |= store_sessions(reader->st, span_of(id), INT64_MAX, s, 4) < 0;
        wrong |= !store_each_user(reader->st, span_of(id), 70, see_nothing, NULL, &at_end);
        wrong |= i % 50 == 0 && !store_each_open(reader->st, see_nothing, NULL);
        store_stats(reader->st, &stats);
        wrong |= !stats.writable || stats.used_bytes > stats.map_size;
        atomic_fetch_add(&reader->wrong, wrong);
        atomic_fetch_add(&reader->reads, 1);
    }
    return NULL;
}

static void store_reads_during_commits(void **state)
{
    (void)state;
    struct store_place p = place_make();
    char err[512];
    struct store *st = open_with(p.dir, 65536, err); /* so that it also grows meanwhile */
    assert_non_null(st);
    struct reader reader = {.st = st};
    pthread_t threads[4];
    struct done_count d = {0};
    sem_init(&d.sem, 0, 0);
    assert_true(store_start_writer(st, done_post, &d));
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, read_on, &reader), 0);
    struct store_batch b = {0};
    for (int n = 1; n <= 100; n++) {
        store_batch_clear(&b);
        for (int i = 0; i < 100; i++) {
            char id[16];
            snprintf(id, sizeof id, "u%d", i);
            struct session_record s = {.from = n, .to = n, .reason = REASON_CLOSED};
            store_batch_user(&b, span_of(id), true, STATUS_ONLINE, n, n, REASON_NONE);
            store_batch_session(&b, span_of(id), &s);
        }
        store_submit(st, &b);
        assert_true(wait_done(&d));
        if (n == 50)
            assert_int_equal(store_reopen(st), 0); /* between batches, as the writer would */
    }
    atomic_store(&reader.stop, true);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&reader.wrong), 0);
    assert_true(atomic_load(&reader.reads) > 50);
    struct store_stats stats;
    store_stats(st, &stats);
    assert_int_equal(stats.sessions, 10000);
    assert_true(stats.map_size > 65536);
    assert_true(store_stop_writer(st, 5000));
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* ---- Commands ---- */

/* Dumps to a file. */
static int dump_to(const char *dir, const char *path)
{
    FILE *out = fopen(path, "w");
    int code = store_command_dump(dir, out, stderr);
    fclose(out);
    return code;
}

/* Restores text; its exit code, with what was said in said. */
static int restore_text(const char *dir, const char *text, size_t n, char said[1024])
{
    FILE *in = fmemopen((void *)(uintptr_t)text, n, "r"), *err = fmemopen(said, 1023, "w");
    memset(said, 0, 1024);
    int code = store_command_restore(dir, in, "dump", err);
    fclose(in);
    fclose(err);
    return code;
}

static void assert_same_file(const char *a, const char *b)
{
    struct buffer x = file_read(a), y = file_read(b);
    assert_int_equal(x.len, y.len);
    assert_memory_equal(x.at, y.at, x.len);
    buffer_free(&x);
    buffer_free(&y);
}

static void store_dump_restore_dump(void **state)
{
    (void)state;
    struct store_place p = place_make();
    char one[96], two[96], other[96], err[512], said[1024];
    snprintf(one, sizeof one, "%s/one", p.root);
    snprintf(two, sizeof two, "%s/two", p.root);
    snprintf(other, sizeof other, "%s/other", p.root);
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    int64_t at = 1795597471120;
    struct session_record s = {.from = at, .to = at + 1, .reason = REASON_EXPIRED};
    inet_pton(AF_INET6, "2001:db8::1", s.address);
    store_batch_user(&b, span_of("quote\"back\\slash"), true, STATUS_AWAY, at, at + 5, REASON_NONE);
    store_batch_session(&b, span_of("quote\"back\\slash"), &s);
    memcpy(s.address, ADDRESS_V4_MAPPED, 12);
    memcpy(s.address + 12, "\x7f\0\0\1", 4);
    store_batch_session(&b, span_of("\xc3\xa9mile \xf0\x9f\x98\x80"), &s);
    write_now(st, &b);
    fill(st, 0, 12000); /* more than a batch */
    store_close(st);
    assert_int_equal(dump_to(p.dir, one), 0);
    assert_int_equal(
        file_count(one, "{\"user\":\"quote\\\"back\\\\slash\",\"first_seen\":"
                        "\"2026-11-25T09:04:31.120Z\",\"last_seen\":\"2026-11-25T09:04:31.125Z\","
                        "\"online_since\":\"2026-11-25T09:04:31.120Z\",\"offline_since\":null,"
                        "\"status\":\"away\",\"open\":true,\"reason\":\"none\",\"sessions\":1}\n"),
        1);
    assert_int_equal(file_count(one,
                                "{\"session\":\"\xc3\xa9mile \xf0\x9f\x98\x80\",\"from\":"
                                "\"2026-11-25T09:04:31.120Z\",\"to\":\"2026-11-25T09:04:31.121Z\","
                                "\"reason\":\"expired\",\"address\":\"127.0.0.1\"}\n"),
                     1);
    assert_int_equal(file_count(one, "\"address\":\"2001:db8::1\"}\n"), 1);
    FILE *in = fopen(one, "r");
    assert_int_equal(store_command_restore(other, in, "dump", stderr), 0);
    fclose(in);
    assert_int_equal(dump_to(other, two), 0);
    assert_same_file(one, two);
    FILE *null = fopen("/dev/null", "w");
    assert_int_equal(store_command_check(other, null, stderr), 0);
    struct buffer text = file_read(one);
    assert_int_equal(restore_text(other, text.at, text.len, said), 1); /* not into what is there */
    assert_non_null(strstr(said, "exists; restore into an empty --data"));
    st = open_with(other, 65536, err); /* and a server takes it */
    assert_non_null(st);
    assert_int_equal(st->boots, 1);
    store_close(st);
    fclose(null);
    buffer_free(&text);
    buffer_free(&b.ops);
    place_remove(&p);
}

static void store_restores_all_or_nothing(void **state)
{
    (void)state;
#define LINE_USER                                                                                  \
    "{\"user\":\"a\",\"first_seen\":\"2026-11-25T09:04:31.120Z\",\"last_seen\":null,"              \
    "\"online_since\":null,\"offline_since\":null,\"status\":\"away\",\"open\":true,"              \
    "\"reason\":\"none\",\"sessions\":1}\n"
#define LINE_SESSION                                                                               \
    "{\"session\":\"a\",\"from\":\"2026-11-25T09:04:31.120Z\",\"to\":null,"                        \
    "\"reason\":\"closed\",\"address\":null}\n"
#define LINE_END(users, sessions)                                                                  \
    "{\"end\":\"presence\",\"users\":" #users ",\"sessions\":" #sessions "}\n"
    static const struct {
        const char *text, *from, *to, *says; /* from: what in text becomes to */
    } cases[] = {
        {LINE_USER LINE_SESSION LINE_END(1, 1), "", "", NULL},
        {LINE_END(0, 0), "", "", NULL},
        {LINE_USER LINE_SESSION, "", "", "ends early, after line 2"},
        {LINE_USER LINE_SESSION LINE_END(2, 1), "", "", "line 3 "},
        {LINE_USER LINE_SESSION LINE_END(1, 0), "", "", "line 3 "},
        {LINE_USER LINE_END(1, 0) LINE_USER, "", "", "line 3 "},
        {LINE_USER "nonsense\n" LINE_END(1, 0), "", "", "line 2 "},
        {LINE_USER "\n" LINE_END(1, 0), "", "", "line 2 "},
        {LINE_USER LINE_END(1, 0), "\"a\"", "\"\"", "line 1 "},
        {LINE_USER LINE_END(1, 0), "\"a\"", "\"\\u0000\"", "line 1 "},
        {LINE_USER LINE_END(1, 0), "\"a\"", "7", "line 1 "},
        {LINE_USER LINE_END(1, 0), "09:04", "9:04", "line 1 "},
        {LINE_USER LINE_END(1, 0), "11-25", "11-32", "line 1 "},
        {LINE_USER LINE_END(1, 0), "120Z", "120", "line 1 "},
        {LINE_USER LINE_END(1, 0), "away", "gone", "line 1 "},
        {LINE_USER LINE_END(1, 0), "none", "nope", "line 1 "},
        {LINE_USER LINE_END(1, 0), "true", "null", "line 1 "},
        {LINE_USER LINE_END(1, 0), ":1}", ":-1}", "line 1 "},
        {LINE_USER LINE_END(1, 0), ":1}", ":4294967296}", "line 1 "},
        {LINE_USER LINE_END(1, 0), "last_seen", "lost_seen", "line 1 "},
        {LINE_USER LINE_END(1, 0), "\"sessions\":1}", "\"stays\":1}", NULL}, /* an older dump */
        {LINE_USER LINE_END(1, 0), "\"sessions\":1}", "\"visits\":1}", "line 1 "},
        {LINE_USER LINE_END(1, 0), "\"first_seen\"", "\"session\":\"a\",\"first_seen\"", "line 1 "},
        {LINE_SESSION LINE_END(0, 1), "s\":null", "s\":\"1.2.3\"", "line 1 "},
        {LINE_SESSION LINE_END(0, 1), "s\":null", "s\":\"1.2.3.4\"", NULL},
        {LINE_SESSION LINE_END(0, 1), "closed", "bored", "line 1 "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct store_place p = place_make();
        struct buffer text = {0};
        char said[1024];
        const char *at = strstr(cases[i].text, cases[i].from);
        assert_non_null(at);
        buffer_add(&text, cases[i].text, (size_t)(at - cases[i].text));
        buffer_text(&text, cases[i].to);
        buffer_text(&text, at + strlen(cases[i].from));
        int code = restore_text(p.dir, text.at, text.len, said);
        if (code != !!cases[i].says || (code && !strstr(said, cases[i].says)))
            fail_msg("%.*s%d: %s", (int)text.len, text.at, code, said);
        assert_int_equal(!access(p.file, F_OK), !cases[i].says);
        char begun[128];
        snprintf(begun, sizeof begun, "%s.new", p.file);
        assert_int_equal(access(begun, F_OK), -1);
        if (code)
            assert_int_equal(restore_text(p.dir, LINE_END(0, 0), sizeof LINE_END(0, 0) - 1, said),
                             0); /* again */
        buffer_free(&text);
        place_remove(&p);
    }
}

/* In a child: a backup, a dump and a check beside the server. */
static void use_commands(void *context)
{
    struct store_place *p = context;
    char copy[128];
    FILE *null = fopen("/dev/null", "w");
    for (int i = 0; i < 10; i++) {
        snprintf(copy, sizeof copy, "%s/backup-%d", p->root, i);
        CHILD_CHECK(store_command_backup(p->dir, copy, stderr) == 0);
        CHILD_CHECK(store_command_backup(p->dir, copy, null) == 1); /* never over a file */
        CHILD_CHECK(store_command_check(p->dir, null, stderr) == 0);
        CHILD_CHECK(store_command_dump(p->dir, null, stderr) == 0);
    }
    FILE *full = fopen("/dev/full", "w");
    CHILD_CHECK(store_command_dump(p->dir, full, null) == 1);
}

static void store_backs_up_beside_a_writer(void **state)
{
    (void)state;
    struct store_place p = place_make();
    fflush(NULL);
    struct killed k = {.p = &p, .number = 1};
    assert_int_equal(pipe(k.pipe), 0);
    pid_t pid = fork();
    if (!pid) commit_for_ever(&k);
    uint32_t told;
    assert_int_equal(read(k.pipe[0], &told, sizeof told), sizeof told);
    fcntl(k.pipe[0], F_SETPIPE_SZ, 1 << 20);
    int code = in_child(use_commands, &p);
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    close(k.pipe[0]);
    close(k.pipe[1]);
    assert_int_equal(code, 0);
    uint32_t last = 0;
    for (int i = 0; i < 10; i++) { /* each is a data.mdb, whole batches and no less than before */
        struct store_place other = p;
        char copy[128];
        snprintf(other.dir, sizeof other.dir, "%s/from-%d", p.root, i);
        snprintf(other.file, sizeof other.file, "%s/data.mdb", other.dir);
        snprintf(copy, sizeof copy, "%s/backup-%d", p.root, i);
        assert_int_equal(mkdir(other.dir, 0700), 0);
        assert_int_equal(rename(copy, other.file), 0);
        struct store *st = open_good(other.dir);
        struct store_stats stats;
        store_stats(st, &stats);
        assert_int_equal(stats.sessions % 50, 0);
        uint32_t n = (uint32_t)stats.sessions / 50;
        assert_true(n >= last);
        if (n) assert_true(batch_is_there(st, n));
        last = n;
        store_close(st);
    }
    assert_true(last > 0);
    place_remove(&p);
}

/* In a child: begins a snapshot and dies with it. */
static void die_reading(void *context)
{
    struct store_place *p = context;
    struct log log = {.level = LOG_ERROR, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct counters counters = {0};
    CHILD_CHECK(store_command_open(p->dir, &log, &counters, stderr) != NULL);
    _exit(0); /* no store_close: as kill -9 would have it */
}

static void store_clears_readers_that_died(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_stats stats;
    for (int i = 0; i < 3; i++) assert_int_equal(in_child(die_reading, &p), 0);
    store_look_at_readers(st);
    st->readers[1].since -= 5000;
    store_stats(st, &stats);
    assert_true(stats.readable && stats.oldest_reader_ms >= 5000 && stats.oldest_reader_ms < 65000);
    st->look_at = clock_mono_ms() + STORE_LOOK_MS;
    store_look_after_readers(st); /* not yet */
    store_stats(st, &stats);
    assert_true(stats.oldest_reader_ms >= 5000);
    st->look_at = clock_mono_ms();
    store_look_after_readers(st);
    store_stats(st, &stats);
    assert_int_equal(stats.oldest_reader_ms, 0);
    assert_true(st->look_at > clock_mono_ms());
    store_close(st);
    place_remove(&p);
}

static void store_commands_name_a_missing_store(void **state)
{
    (void)state;
    struct store_place p = place_make();
    char said[1024] = "", copy[128];
    FILE *err = fmemopen(said, sizeof said - 1, "w"), *null = fopen("/dev/null", "w");
    snprintf(copy, sizeof copy, "%s/copy", p.root);
    assert_int_equal(store_command_check(p.dir, null, err), 1);
    assert_int_equal(store_command_dump(p.dir, null, err), 1);
    assert_int_equal(store_command_backup(p.dir, copy, err), 1);
    fclose(err);
    fclose(null);
    const char *first = strstr(said, p.file);
    assert_non_null(first);
    assert_non_null(strstr(first + 1, p.file));
    assert_int_equal(access(copy, F_OK), -1);
    assert_int_equal(access(p.dir, F_OK), -1); /* asking makes nothing */
    place_remove(&p);
}

static const struct CMUnitTest STORE_TESTS[] = {
    cmocka_unit_test(store_keeps_its_bytes),
    cmocka_unit_test(store_records_round_trip),
    cmocka_unit_test(store_session_round_trip),
    cmocka_unit_test(store_merges_users),
    cmocka_unit_test(store_index_of_open),
    cmocka_unit_test(store_pages_through_users),
    cmocka_unit_test(store_sessions_newest_first),
    cmocka_unit_test(store_removes_old_sessions),
    cmocka_unit_test(store_sweep_keeps_up),
    cmocka_unit_test(store_grows_its_map),
    cmocka_unit_test(store_survives_a_full_disk),
    cmocka_unit_test(store_refuses_a_full_disk),
    cmocka_unit_test(store_recovers_from_a_failed_meta_page),
    cmocka_unit_test(store_refuses_damaged_files),
    cmocka_unit_test(store_never_crashes_on_damage),
    cmocka_unit_test(store_check_finds_damaged_pages),
    cmocka_unit_test(store_check_knows_each_kind_of_damage),
    cmocka_unit_test(store_check_finds_records_that_disagree),
    cmocka_unit_test(store_refuses_a_foreign_lmdb_file),
    cmocka_unit_test(store_refuses_a_newer_schema),
    cmocka_unit_test(store_refuses_an_older_schema),
    cmocka_unit_test(store_refuses_a_second_server),
    cmocka_unit_test(store_refuses_unusable_places),
    cmocka_unit_test(store_keeps_what_was_committed),
    cmocka_unit_test(store_stops_cleanly),
    cmocka_unit_test(store_reads_during_commits),
    cmocka_unit_test(store_dump_restore_dump),
    cmocka_unit_test(store_restores_all_or_nothing),
    cmocka_unit_test(store_backs_up_beside_a_writer),
    cmocka_unit_test(store_clears_readers_that_died),
    cmocka_unit_test(store_commands_name_a_missing_store),
};
