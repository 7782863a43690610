/* Store: reads, changes, opening, the writer. Every test has a directory of its own. */
#include "unit.h"
#include "store.h"

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
    struct test_place p = place_make();
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
    struct test_place p = place_make();
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
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct session_record out[8];
    static const char *const ids[] = {"bo", "bob", "bobby", "z"};
    for (int i = 0; i < 4; i++)
        for (int n = 1; n <= 3; n++) {
            struct session_record s = {.from = n * 100, .to = n * 100 + i, .reason = REASON_CLOSED};
            store_batch_session(&b, span_of(ids[i]), &s, false);
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

/* Sessions of a few users as they should be, by their begins. */
enum { SESSION_USERS = 4, SESSION_TIMES = 600 };
struct known_sessions {
    struct session_record at[SESSION_USERS][SESSION_TIMES]; /* to 0: none */
    uint32_t count[SESSION_USERS];
};

/* What the naive rule makes of one more. */
static void sessions_add(struct known_sessions *want, int user, struct session_record s,
                         bool shared)
{
    bool there = want->at[user][s.from].to;
    for (; !shared && want->at[user][s.from].to; s.from++)
        if (s.to <= s.from) s.to = s.from + 1;
    if (!there || !shared || session_known_better(&s, &want->at[user][s.from]))
        want->at[user][s.from] = s;
    want->count[user] += !(shared && there);
}

/* Compares all sessions of each user, and how many they had. */
static void sessions_expect(struct store *st, const struct known_sessions *want)
{
    static struct session_record got[SESSION_TIMES];
    for (int user = 0; user < SESSION_USERS; user++) {
        char id[2] = {(char)('a' + user)};
        struct user_record r;
        int n = store_sessions(st, span_of(id), INT64_MAX, got, SESSION_TIMES), seen = 0;
        for (int from = SESSION_TIMES - 1; from >= 0; from--) {
            struct session_record s = want->at[user][from];
            if (!s.to) continue;
            assert_true(seen < n);
            assert_int_equal(got[seen].from, from);
            assert_int_equal(got[seen].to, s.to);
            assert_int_equal(got[seen].reason, s.reason);
            assert_memory_equal(got[seen++].address, s.address, 16);
        }
        assert_int_equal(seen, n);
        if (n) assert_int_equal(store_get_user(st, span_of(id), &r), 1);
        if (n) assert_int_equal(r.sessions, want->count[user]);
    }
}

/* A user's record has the end that is known best of the session that ended last, whoever tells of
 * it and in which order; who is online stays so. */
static void last_end_is_the_one_known_best(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct user_record r, told = {.first_seen = 1, .last_seen = 90, .offline_since = 90};
    const struct session_record ends[] = {{.from = 5, .to = 50, .reason = REASON_NODE_LOST},
                                          {.from = 5, .to = 50, .reason = REASON_DROPPED},
                                          {.from = 5, .to = 50, .reason = REASON_NODE_LOST},
                                          {.from = 60, .to = 90, .reason = REASON_NODE_LOST},
                                          {.from = 2, .to = 4, .reason = REASON_CLOSED}};
    static const int since[] = {50, 50, 50, 90, 90};
    static const uint8_t reasons[] = {REASON_NODE_LOST, REASON_DROPPED, REASON_DROPPED,
                                      REASON_NODE_LOST, REASON_NODE_LOST};
    store_batch_user(&b, span_of("a"), true, STATUS_ONLINE, 100, 120, REASON_NONE);
    write_now(st, &b);
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        store_batch_session(&b, span_of("a"), &ends[i], true);
        write_now(st, &b);
        assert_int_equal(store_get_user(st, span_of("a"), &r), 1);
        assert_true(r.open && r.last_seen == 120);
        assert_int_equal(r.offline_since, since[i]);
        assert_int_equal(r.reason, reasons[i]);
    }
    told.reason = REASON_KICKED; /* the same end, by another node's store */
    store_batch_leaver(&b, span_of("a"), &told, NULL, 0);
    write_now(st, &b);
    assert_int_equal(store_get_user(st, span_of("a"), &r), 1);
    assert_true(r.open && r.offline_since == 90 && r.reason == REASON_KICKED && r.first_seen == 1);
    store_batch_user(&b, span_of("a"), false, STATUS_OFFLINE, 0, 90, REASON_NODE_LOST);
    write_now(st, &b);
    assert_int_equal(store_get_user(st, span_of("a"), &r), 1);
    assert_true(!r.open && r.reason == REASON_KICKED);
    store_batch_session(&b, span_of("a"),
                        &(struct session_record){.from = 95, .to = 130, .reason = REASON_TIMEOUT},
                        true);
    write_now(st, &b);
    assert_int_equal(store_get_user(st, span_of("a"), &r), 1);
    assert_true(r.last_seen == 130 && r.offline_since == 130 && r.reason == REASON_TIMEOUT);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* A session that nodes share may be told again, in the same batch or after a restart, and is there
 * and counted once; all others are counted, and none replaces another. */
static void shared_sessions_are_counted_once(void **state)
{
    (void)state;
    static struct known_sessions want;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    struct user_record r;
    uint64_t seed = 99, again = 0;
    struct session_record s = {.from = 5, .to = 9, .reason = REASON_NODE_LOST};
    memset(&want, 0, sizeof want);
    store_batch_session(&b, span_of("a"), &s, true);
    write_now(st, &b);
    sessions_add(&want, 0, s, true);
    sessions_expect(st, &want);
    assert_int_equal(store_get_user(st, span_of("a"), &r), 1);
    assert_true(!r.open && r.first_seen == 5 && r.last_seen == 9 && r.reason == REASON_NODE_LOST);
    for (int round = 0; round < 60; round++) {
        for (size_t i = below64(&seed, 12); i; i--) {
            int user = (int)below64(&seed, SESSION_USERS);
            bool shared = below64(&seed, 3);
            s = (struct session_record){.from = (int64_t)below64(&seed, 200),
                                        .reason = (uint8_t)below64(&seed, REASON_COUNT)};
            s.to = s.from + 1 + (int64_t)below64(&seed, 3);
            s.address[15] = (uint8_t)round;
            again += shared && want.at[user][s.from].to;
            sessions_add(&want, user, s, shared);
            store_batch_session(&b, (struct span){&"abcd"[user], 1}, &s, shared);
        }
        write_now(st, &b);
        sessions_expect(st, &want);
        if (round % 20) continue;
        store_close(st);
        st = open_good(p.dir);
    }
    assert_true(again > 20);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

static void store_removes_old_sessions(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    int64_t now = clock_wall_ms();
    struct store_batch b = {0};
    for (int i = 0; i < 2500; i++) {
        char id[16];
        snprintf(id, sizeof id, "s%04d", i);
        struct session_record s = {
            .from = 1, .to = i % 2 ? now : now - 100000, .reason = REASON_CLOSED};
        store_batch_session(&b, span_of(id), &s, false);
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
    struct test_place p = place_make();
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
            store_batch_session(&b, span_of(id), &s, false);
        }
        write_now(st, &b);
        buffer_free(&b.ops);
    }
    store_stats(st, &stats);
    assert_true(stats.sessions <= 2 * 3000);
    store_close(st);
    place_remove(&p);
}

static void store_grows_its_map(void **state)
{
    (void)state;
    struct test_place p = place_make();
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
    assert_true(store_stop_writer(st, clock_mono_ms() + 5000));
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

/* A stop without the last batch is none in order, though all that was given to the writer is on the
 * disk: neither the caller nor the next start is told so. */
static void store_without_the_last_batch_is_not_whole(void **state)
{
    (void)state;
    for (int lacks = 0; lacks < 2; lacks++) {
        struct test_place p = place_make();
        char err[512];
        struct store *st = open_with(p.dir, 65536, err);
        assert_non_null(st);
        struct done_count d = {0};
        sem_init(&d.sem, 0, 0);
        assert_true(store_start_writer(st, done_post, &d));
        struct store_batch b = {0};
        store_batch_user(&b, span_of("user"), true, STATUS_ONLINE, 10, 20, REASON_NONE);
        store_submit(st, &b);
        assert_true(wait_done(&d));
        if (lacks) store_lacks_last(st);
        assert_int_equal(store_stop_writer(st, clock_mono_ms() + 5000), !lacks);
        store_close(st);
        st = open_with(p.dir, 65536, err);
        assert_non_null(st);
        struct store_stats stats;
        store_stats(st, &stats);
        assert_int_equal(stats.was_clean, !lacks);
        assert_int_equal(stats.users, 1);
        store_close(st);
        buffer_free(&b.ops);
        place_remove(&p);
    }
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

/* In a child: a disk of 4 MB fills up, and is freed again. */
static void full_disk(void *context)
{
    struct test_place *p = context;
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
    CHILD_CHECK(!store_stop_writer(st, clock_mono_ms() + 700));
    int64_t took = clock_mono_ms() - before; /* the thread sanitizer is slow beside other tests */
    CHILD_CHECK(took >= 690 && took < (ONLY_THREADS ? 15000 : 1500));
    if (st->running) { /* an attempt that outlasts the patience is its last: a slow machine */
        pthread_join(st->writer, NULL);
        st->running = false;
    }
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
    struct test_place p = place_make();
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
    struct test_place *p = context;
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
        CHILD_CHECK(st || access(p->file, F_OK) || store_check_file(p->file, 0, 0, WHY(err)));
        store_close(st);
        if (st) break;
        CHILD_CHECK(room < 40);
    }
    umount(p->dir);
}

static void store_refuses_a_full_disk(void **state)
{
    (void)state;
    struct test_place p = place_make();
    int code = in_child(full_from_start, &p);
    place_remove(&p);
    if (code == 77) skip();
    assert_int_equal(code, 0);
}

/* In a child: the meta page cannot be written; LMDB then refuses all until it is reopened. */
static void meta_write_fails(void *context)
{
    struct test_place *p = context;
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
    CHILD_CHECK(store_stop_writer(st, clock_mono_ms() + 5000));
    store_close(st);
    st = open_with(p->dir, 1 << 20, err);
    CHILD_CHECK(st && store_get_user(st, span_of("bob"), &r) == 1);
    store_close(st);
    buffer_free(&b.ops);
}

static void store_recovers_from_a_failed_meta_page(void **state)
{
    (void)state;
    struct test_place p = place_make();
    assert_int_equal(in_child(meta_write_fails, &p), 0);
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
    struct test_place p = place_make();
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
        struct test_place p = place_make();
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

static void open_second(void *context)
{
    struct test_place *p = context;
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
    struct test_place p = place_make();
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
    struct test_place p = place_make();
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

static void store_keeps_what_was_committed(void **state)
{
    (void)state;
    struct test_place p = place_make();
    unsigned seed = (unsigned)getpid();
    uint32_t told = 0, whole = 0;
    uint64_t node = 0;
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
        if (batch_is_there(st, told + 1)) told++;        /* committed, but not told of any more */
        assert_int_equal(st->was_position_number, told); /* with its batch, or not at all */
        assert_int_equal(st->was_position_epoch, told % 7);
        assert_true(!node || st->node == node);
        node = st->node;
        store_close(st);
    }
    print_message("    %u batches in 50 lives\n", whole);
    fclose(null);
    place_remove(&p);
}

/* Where a cluster's log was read up to: of the batches that have one, the last counts. */
static void positions_move_with_their_batches(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store_batch a = {0}, b = {0};
    uint64_t seed = 5, want = 0;
    for (int step = 0; step < 20000; step++) {
        struct store_batch *one = below64(&seed, 2) ? &a : &b, *other = one == &a ? &b : &a;
        switch (below64(&seed, 4)) {
        case 0: store_batch_sample(one, &(struct sample){.at = 60000}); break;
        case 1:
            one->position_epoch = below64(&seed, 2);
            one->position_number = (uint64_t)step;
            break;
        case 2:
            want = store_batch_has_position(other) ? other->position_number : one->position_number;
            size_t samples = a.samples + b.samples;
            store_batch_move(one, other);
            assert_int_equal(one->position_number, want);
            assert_int_equal(one->samples, samples);
            assert_false(store_batch_has_position(other));
            assert_int_equal(other->ops.len, 0);
            break;
        default: store_batch_clear(one); assert_false(store_batch_has_position(one));
        }
    }
    store_batch_clear(&a);
    struct store *st = open_good(p.dir);
    assert_true(!st->was_position_epoch && !st->was_position_number && st->node);
    uint64_t node = st->node;
    a.position_epoch = UINT32_MAX; /* a position alone, and at the begin of its epoch */
    write_now(st, &a);
    store_batch_sample(&a, &(struct sample){.at = 60000});
    write_now(st, &a); /* and a batch without one */
    store_close(st);
    st = open_good(p.dir);
    assert_int_equal(st->was_position_epoch, UINT32_MAX);
    assert_int_equal(st->was_position_number, 0);
    assert_int_equal(st->node, node);
    store_close(st);
    buffer_free(&a.ops);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* Puts something of the wrong size into meta. */
static int put_short(struct store *st, MDB_txn *txn, void *name)
{
    return store_put_number(st, txn, name, 7, 3);
}

/* Removes a number from meta. */
static int remove_number(struct store *st, MDB_txn *txn, void *name)
{
    MDB_val key = {strlen(name), name};
    return mdb_del(txn, st->meta, &key, NULL);
}

/* A store of before has no node and gets one; a backup has that of its store. */
static void nodes_are_made_once(void **state)
{
    (void)state;
    struct test_place p = place_make();
    char other[80], copy[96];
    snprintf(other, sizeof other, "%s/other", p.root);
    snprintf(copy, sizeof copy, "%s/data.mdb", other);
    struct store *st = open_good(p.dir);
    uint64_t node = st->node;
    assert_int_equal(store_transact(st, remove_number, (void *)(uintptr_t) "node"), 0);
    store_close(st);
    st = open_good(p.dir);
    assert_true(st->node && st->node != node);
    node = st->node;
    store_close(st);
    assert_int_equal(mkdir(other, 0700), 0);
    assert_int_equal(store_command_backup(p.dir, copy, stderr), 0);
    st = open_good(other);
    assert_int_equal(st->node, node);
    store_close(st);
    place_remove(&p);
}

/* One in which they are damaged is refused. */
static void node_and_position_may_be_damaged(void **state)
{
    (void)state;
    static const char *const names[] = {"node", "position", "known", "heard", "untold"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct test_place p = place_make();
        char err[512];
        struct store *st = open_good(p.dir);
        assert_int_equal(store_transact(st, put_short, (void *)(uintptr_t)names[i]), 0);
        store_close(st);
        assert_null(open_with(p.dir, 1 << 20, err));
        assert_non_null(strstr(err, p.file));
        assert_null(strchr(err, '\n'));
        place_remove(&p);
    }
}

static void store_stops_cleanly(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct done_count d = {0};
    struct store_batch b = {0};
    struct user_record r;
    sem_init(&d.sem, 0, 0);
    struct store *st = open_good(p.dir);
    assert_true(store_start_writer(st, done_post, &d));
    store_batch_user(&b, span_of("bob"), true, STATUS_ONLINE, 1, 2, REASON_NONE);
    store_submit(st, &b);
    int64_t before = clock_wall_ms();
    assert_true(store_stop_writer(st, clock_mono_ms() + 5000)); /* writes what was submitted */
    assert_int_equal(sem_trywait(&d.sem), 0);
    store_close(st);
    st = open_good(p.dir);
    assert_true(st->was_clean);
    assert_in_range(st->was_alive, before, clock_wall_ms());
    assert_int_equal(st->boots, 2);
    assert_int_equal(store_get_user(st, span_of("bob"), &r), 1);
    assert_true(store_stop_writer(st, clock_mono_ms())); /* none was started */
    store_close(st);
    st = open_good(p.dir);
    assert_false(st->was_clean);
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

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
    struct test_place p = place_make();
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
            store_batch_session(&b, span_of(id), &s, false);
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
    assert_true(store_stop_writer(st, clock_mono_ms() + 5000));
    store_close(st);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* Puts samples of these minutes, with numbers made from them. */
static void put_samples(struct store *st, int64_t from, int count)
{
    struct store_batch b = {0};
    for (int i = 0; i < count; i++) {
        struct sample s = {from + i * INT64_C(60000), (uint32_t)i, (uint32_t)(2 * i)};
        store_batch_sample(&b, &s);
    }
    write_now(st, &b);
    buffer_free(&b.ops);
}

/* Samples come back by time, in ranges and pieces; a second one of a minute replaces the first. */
static void samples_round_trip(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct sample got[64];
    assert_int_equal(store_samples(st, 0, INT64_MAX, got, 64), 0);
    put_samples(st, 600000, 50);
    assert_int_equal(store_samples(st, 0, INT64_MAX, got, 64), 50);
    assert_int_equal(store_samples(st, -5, INT64_MAX, got, 7), 7);
    assert_int_equal(got[6].at, 600000 + 6 * 60000);
    assert_int_equal(got[6].users, 6);
    assert_int_equal(got[6].connections, 12);
    assert_int_equal(store_samples(st, 600001, 720000, got, 64), 2);
    assert_int_equal(got[0].at, 660000);
    assert_int_equal(store_samples(st, 600000 + 50 * 60000, INT64_MAX, got, 64), 0);
    put_samples(st, 660000, 1);
    assert_int_equal(store_samples(st, 660000, 660000, got, 64), 1);
    assert_int_equal(got[0].users, 0);
    store_close(st);
    place_remove(&p);
}

/* Old samples go, so many with each write, and only old ones. */
static void samples_are_removed_in_steps(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct sample *got = mem_new(1000 * sizeof *got);
    int64_t now = clock_wall_ms();
    put_samples(st, now - INT64_C(500) * 60000, 500);
    st->options.history_ms = INT64_C(250) * 60000 + 30000;
    for (int left = 400; left >= 300; left -= STORE_SWEEP_SAMPLES) {
        assert_int_equal(store_write(st, NULL, false), 0);
        assert_int_equal(store_samples(st, 0, INT64_MAX, got, 1000), left);
    }
    for (int i = 0; i < 3; i++) assert_int_equal(store_write(st, NULL, false), 0);
    int count = store_samples(st, 0, INT64_MAX, got, 1000);
    assert_in_range(count, 249, 251); /* the clock goes on */
    assert_true(got[0].at >= now - st->options.history_ms);
    free(got);
    store_close(st);
    place_remove(&p);
}

/* A record that is none is said to be damaged. */
static void samples_may_be_damaged(void **state)
{
    (void)state;
    struct sample s = {60000, 1, 2};
    uint8_t key[8], bytes[STORE_SAMPLE_BYTES];
    put_be64(key, (uint64_t)s.at);
    store_encode_sample(&s, bytes);
    MDB_val k = {sizeof key, key}, v = {sizeof bytes, bytes};
    assert_true(store_read_sample(k, v, &s));
    v.mv_size--;
    assert_false(store_read_sample(k, v, &s));
    v.mv_size++;
    k.mv_size--;
    assert_false(store_read_sample(k, v, &s));
    k.mv_size++;
    bytes[0] = 2;
    assert_false(store_read_sample(k, v, &s));
    bytes[0] = 1;
    key[0] = 0x80;
    assert_false(store_read_sample(k, v, &s));
}

enum { SEEN_USERS = 300 };

/* Orders places by time, then id. */
static int seen_compare(const void *a, const void *b)
{
    const struct seen_place *x = a, *y = b;
    if (x->last_seen != y->last_seen) return x->last_seen < y->last_seen ? -1 : 1;
    return bytes_compare(x->id, x->id_len, y->id, y->id_len);
}

/* The place of user n. */
static struct seen_place seen_of(int n, int64_t last_seen)
{
    struct seen_place place = {.last_seen = last_seen};
    place.id_len = (uint8_t)snprintf(place.id, sizeof place.id, "u%d", n);
    return place;
}

/* Walks the store in both directions, with steps of that many, and compares with the list. */
static void seen_expect(struct store *st, const struct seen_place *want, int count, int step)
{
    struct seen_place got[64], after;
    for (int down = 0; down < 2; down++) {
        int n = step, total = 0;
        for (; n == step; total += n) {
            n = store_seen(st, total ? &after : NULL, down, got, step);
            assert_true(n >= 0 && total + n <= count);
            for (int i = 0; i < n; i++) {
                const struct seen_place *w = &want[down ? count - 1 - total - i : total + i];
                assert_int_equal(seen_compare(&got[i], w), 0);
            }
            if (n) after = got[n - 1];
        }
        assert_int_equal(total, count);
    }
}

static void seen_follows_the_users(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch batch = {0};
    struct {
        bool known, open;
        int64_t seen;
    } users[SEEN_USERS] = {{0}};
    static struct seen_place want[SEEN_USERS];
    srand(7);
    for (int round = 0; round < 400; round++) {
        int count = 0;
        for (int i = 0; i < 20; i++) {
            int n = rand() % SEEN_USERS;
            struct seen_place name = seen_of(n, 0);
            struct span id = {name.id, name.id_len};
            users[n].open = rand() % 2;
            users[n].known = true;
            users[n].seen = 1000000 + rand() % 50; /* many of the same moment, also backwards */
            store_batch_user(&batch, id, users[n].open, users[n].open ? 0 : STATUS_OFFLINE, 999999,
                             users[n].seen, REASON_CLOSED);
            struct session_record session = {.from = 1, .to = 2};
            if (rand() % 3 == 0) store_batch_session(&batch, id, &session, false);
        }
        write_now(st, &batch);
        for (int n = 0; n < SEEN_USERS; n++)
            if (users[n].known && !users[n].open) want[count++] = seen_of(n, users[n].seen);
        qsort(want, (size_t)count, sizeof *want, seen_compare);
        if (round % 20 == 0 || round == 399) seen_expect(st, want, count, 1 + round % 64);
    }
    struct seen_place beyond = seen_of(0, INT64_MAX), got; /* places where nobody is */
    assert_int_equal(store_seen(st, &beyond, false, &got, 1), 0);
    assert_int_equal(store_seen(st, &beyond, true, &got, 1), 1);
    beyond.last_seen = 0;
    assert_int_equal(store_seen(st, &beyond, true, &got, 1), 0);
    assert_int_equal(store_seen(st, &beyond, false, &got, 1), 1);
    store_close(st);
    FILE *null = fopen("/dev/null", "w");
    assert_int_equal(store_command_check(p.dir, null, stderr), 0);
    fclose(null);
    buffer_free(&batch.ops);
    place_remove(&p);
}

enum { LEAVERS = 300, LEFT_SESSIONS = 64 };

/* A user who left, as a walk showed them or the store has them; by their bytes. */
struct left {
    uint8_t user[STORE_USER_BYTES], sessions[LEFT_SESSIONS][8 + STORE_SESSION_BYTES];
    size_t count;
};

static struct left left_of(const struct user_record *user, const struct session_record *sessions,
                           size_t count)
{
    struct left left = {.count = count};
    assert_true(count <= LEFT_SESSIONS);
    store_encode_user(user, left.user);
    for (size_t i = 0; i < count; i++) {
        put_be64(left.sessions[i], (uint64_t)sessions[i].from);
        store_encode_session(&sessions[i], left.sessions[i] + 8);
    }
    return left;
}

/* The same from reads of one user; false if they did not leave since. */
static bool left_read(struct store *st, struct span id, int64_t since, struct left *left)
{
    struct user_record user;
    struct session_record sessions[LEFT_SESSIONS];
    if (store_get_user(st, id, &user) != 1 || user.last_seen < since) return false;
    int n = store_sessions(st, id, INT64_MAX, sessions, LEFT_SESSIONS), count = 0;
    assert_true(n >= 0 && n < LEFT_SESSIONS);
    while (count < n && sessions[count].to >= since) count++;
    *left = left_of(&user, sessions, (size_t)count);
    return count || !user.open;
}

/* A walk over who left, what it has shown, and where else that goes. */
struct leavers_walk {
    struct store *st;
    struct left seen[LEAVERS];
    int times[LEAVERS];
    int64_t since;
    int left; /* visits until it says stop */
    struct store_batch *to;
};

static bool leavers_see(void *context, struct span id, const struct user_record *user,
                        const struct session_record *sessions, size_t count)
{
    struct leavers_walk *w = context;
    char text[USER_ID_MAX + 1];
    struct left now = left_of(user, sessions, count), read;
    snprintf(text, sizeof text, "%.*s", (int)id.len, id.at);
    int n = atoi(text + 1);
    assert_in_range(n, 0, LEAVERS - 1);
    assert_true(left_read(w->st, id, w->since, &read));
    assert_memory_equal(&now, &read, sizeof now);
    w->seen[n] = now;
    w->times[n]++;
    if (w->to) store_batch_leaver(w->to, id, user, sessions, count);
    return --w->left > 0;
}

/* Changes a user at a moment: comes, goes with or without a session, or goes at once. */
static void leavers_change(struct store_batch *b, uint64_t *seed, int64_t now)
{
    struct seen_place name = seen_of((int)below64(seed, LEAVERS), 0);
    struct span id = {name.id, name.id_len};
    struct session_record session = {.from = now - 5, .to = now, .reason = REASON_DROPPED};
    bool open = below64(seed, 3) == 0;
    store_batch_user(b, id, open, open ? STATUS_BUSY : STATUS_OFFLINE, now - 5, now,
                     REASON_DROPPED);
    if (!open && below64(seed, 4)) store_batch_session(b, id, &session, true);
}

/* The walk over who left shows each once, exactly as the store has them, wherever it is stopped and
 * whatever is written in between: where nothing is, nobody is missing. What it showed, told to
 * another node in any state before, makes that one the same. */
static void leavers_are_all_visited(void **state)
{
    (void)state;
    static struct leavers_walk w;
    struct test_place p = place_make();
    char other[80];
    snprintf(other, sizeof other, "%s/other", p.root);
    struct store *st = open_good(p.dir), *second;
    struct store_batch b = {0}, to = {0};
    uint64_t seed = 77, all = 0, back = 0;
    int64_t now = 1000, knows = 0;
    for (int round = 0; round < 60; round++) {
        bool quiet = round % 3 == 0, at_end = false;
        for (size_t i = below64(&seed, 200); i; i--)
            leavers_change(&b, &seed, now += (int64_t)below64(&seed, 3));
        write_now(st, &b);
        w = (struct leavers_walk){.st = st, .to = &to};
        w.since = below64(&seed, 4) ? knows - (int64_t)below64(&seed, 300) : 0;
        if (w.since < 0) w.since = 0;
        knows = now; /* the other node, of all before */
        struct left_place place = {.since = w.since};
        while (!at_end) {
            w.left = 1 + (int)below64(&seed, round % 2 ? 20 : 400);
            assert_true(store_leavers(st, &place, leavers_see, &w, &at_end));
            assert_true(at_end || !w.left);
            for (size_t i = quiet || at_end ? 0 : below64(&seed, 8); i; i--)
                leavers_change(&b, &seed, now += (int64_t)below64(&seed, 2));
            write_now(st, &b);
        }
        assert_true(store_leavers(st, &place, leavers_see, &w, &at_end) && at_end);
        static struct left want[LEAVERS];
        static bool left[LEAVERS];
        for (int n = 0; n < LEAVERS; n++) {
            struct seen_place name = seen_of(n, 0);
            left[n] = left_read(st, (struct span){name.id, name.id_len}, w.since, &want[n]);
            assert_true(w.times[n] <= 1);
            if (!quiet) continue;
            assert_int_equal(w.times[n], left[n]);
            if (left[n]) assert_memory_equal(&want[n], &w.seen[n], sizeof want[n]);
            all += left[n];
            struct user_record user;
            if (left[n] && store_decode_user((MDB_val){STORE_USER_BYTES, want[n].user}, &user))
                back += user.open;
        }
        store_close(st); /* one store is open at a time */
        second = open_good(other);
        write_now(second, &to);
        for (int n = 0; n < LEAVERS && quiet && !w.since; n++) {
            struct seen_place name = seen_of(n, 0);
            struct user_record user, told;
            struct left is;
            if (!left[n]) continue;
            assert_true(left_read(second, (struct span){name.id, name.id_len}, 0, &is));
            assert_true(store_decode_user((MDB_val){STORE_USER_BYTES, want[n].user}, &user));
            assert_true(store_decode_user((MDB_val){STORE_USER_BYTES, is.user}, &told));
            assert_int_equal(is.count, want[n].count);
            assert_memory_equal(is.sessions, want[n].sessions, sizeof is.sessions);
            assert_int_equal(told.sessions, user.sessions);
            if (!user.open) assert_memory_equal(is.user, want[n].user, sizeof is.user);
        }
        store_close(second);
        st = open_good(p.dir);
    }
    assert_true(back > 100 && all > 1000);
    store_close(st);
    FILE *null = fopen("/dev/null", "w");
    assert_int_equal(store_command_check(other, null, stderr), 0);
    fclose(null);
    buffer_free(&b.ops);
    buffer_free(&to.ops);
    place_remove(&p);
}

/* How little is known by a reason: the less, the better. */
static int reason_rank(uint8_t reason)
{
    return reason == REASON_NONE ? 100 : reason == REASON_NODE_LOST ? 99 : reason;
}

/* Takes an end of a user's session if it is the last one, or the same and better known. */
static bool leaver_end(struct user_record *is, int64_t end, uint8_t reason)
{
    bool same = end == is->offline_since && reason_rank(reason) < reason_rank(is->reason);
    if (end <= is->offline_since && !same) return false;
    is->offline_since = end;
    is->reason = reason;
    return true;
}

/* What the naive rule makes of a user of whom another node tells, with a session, which may be new
 * here, or with none. */
static void leaver_merge(struct user_record *is, bool *known, struct user_record told, int sessions,
                         int fresh)
{
    struct user_record was = *is;
    bool later = told.last_seen > was.last_seen ||
                 (told.last_seen == was.last_seen &&
                  (was.open || reason_rank(told.reason) < reason_rank(was.reason)));
    uint32_t before = told.sessions - (sessions && told.sessions);
    if (!*known || (later && !told.open)) {
        *is = told;
        is->open = false;
        is->online_since = 0;
    }
    is->sessions = (*known && was.sessions > before ? was.sessions : before) + (uint32_t)fresh;
    if (*known) {
        int64_t a = was.first_seen, b = told.first_seen;
        is->first_seen = !a ? b : !b ? a : a < b ? a : b;
        if (is->open) leaver_end(is, told.offline_since, told.reason);
    }
    *known = true;
}

/* Users whom other nodes tell of, among those of this node, and their sessions; in the end indexes
 * are as they should be. */
static void leavers_merge_into_users(void **state)
{
    (void)state;
    enum { COUNT = 12 };
    struct user_record is[COUNT] = {{0}};
    bool known[COUNT] = {0};
    static struct known_sessions want;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch b = {0};
    uint64_t seed = 3;
    memset(&want, 0, sizeof want);
    for (int round = 0; round < 200; round++) {
        for (size_t i = below64(&seed, 9); i; i--) {
            int n = (int)below64(&seed, COUNT);
            char text[2] = {(char)('a' + n)};
            int64_t seen = 100 + (int64_t)below64(&seed, 40);
            struct user_record told = {.first_seen = (int64_t)below64(&seed, 50),
                                       .last_seen = seen,
                                       .online_since = 7,
                                       .offline_since = seen,
                                       .status = STATUS_OFFLINE,
                                       .open = below64(&seed, 2),
                                       .reason = (uint8_t)below64(&seed, REASON_COUNT),
                                       .sessions = (uint32_t)below64(&seed, 9)};
            struct session_record session = {.from = (int64_t)below64(&seed, 90),
                                             .to = seen,
                                             .reason = (uint8_t)below64(&seed, REASON_COUNT)};
            bool sessions = n < SESSION_USERS && below64(&seed, 2);
            if (below64(&seed, 3)) {
                struct session_record *old = sessions ? &want.at[n][session.from] : NULL;
                bool fresh = sessions && !old->to;
                store_batch_leaver(&b, span_of(text), &told, &session, sessions);
                leaver_merge(&is[n], &known[n], told, sessions, fresh);
                if (fresh && session.from < is[n].first_seen) is[n].first_seen = session.from;
                if (sessions && (fresh || session_known_better(&session, old))) *old = session;
                if (sessions && leaver_end(&is[n], session.to, session.reason) && !is[n].open &&
                    is[n].last_seen < session.to)
                    is[n].last_seen = session.to;
                continue;
            }
            bool open = below64(&seed, 2);
            store_batch_user(&b, span_of(text), open, STATUS_AWAY, 60, seen, REASON_KICKED);
            if (!known[n]) is[n] = (struct user_record){.first_seen = 60};
            is[n].open = open;
            is[n].status = STATUS_AWAY;
            is[n].last_seen = seen;
            is[n].online_since = open ? 60 : 0;
            bool better = seen == is[n].offline_since &&
                          reason_rank(is[n].reason) < reason_rank(REASON_KICKED);
            if (!open && !better) is[n].reason = REASON_KICKED;
            if (!open) is[n].offline_since = seen;
            known[n] = true;
        }
        write_now(st, &b);
        for (int n = 0; n < COUNT; n++) {
            char text[2] = {(char)('a' + n)};
            struct user_record r;
            assert_int_equal(store_get_user(st, span_of(text), &r), known[n]);
            if (!known[n]) continue;
            struct left got = left_of(&r, NULL, 0), model = left_of(&is[n], NULL, 0);
            assert_memory_equal(&got, &model, sizeof got);
            if (n < SESSION_USERS) want.count[n] = is[n].sessions;
        }
        sessions_expect(st, &want);
    }
    store_close(st);
    FILE *null = fopen("/dev/null", "w");
    assert_int_equal(store_command_check(p.dir, null, stderr), 0);
    fclose(null);
    buffer_free(&b.ops);
    place_remove(&p);
}

/* In whatever order and however often nodes tell of users, and whether in one batch or in many, in
 * the end all have the same. */
static void leavers_come_in_any_order(void **state)
{
    (void)state;
    enum { TOLD = 60, USERS = 10 };
    struct user_record told[TOLD];
    uint64_t seed = 21;
    for (int round = 0; round < 4; round++) {
        struct left first[USERS];
        for (int i = 0; i < TOLD; i++)
            told[i] = (struct user_record){.first_seen = 1 + (int64_t)below64(&seed, 90),
                                           .last_seen = 100 + i,
                                           .offline_since = 100 + i,
                                           .status = STATUS_OFFLINE,
                                           .reason = (uint8_t)below64(&seed, REASON_COUNT),
                                           .sessions = 40 + (uint32_t)i % USERS};
        for (int node = 0; node < 3; node++) {
            struct test_place p = place_make();
            struct store *st = open_good(p.dir);
            struct store_batch b = {0};
            bool done[TOLD] = {0};
            for (int left = TOLD; left;) {
                int i = (int)below64(&seed, TOLD);
                char text[2] = {(char)('a' + i % USERS)};
                struct session_record session = {.from = 50 + i, .to = 100 + i};
                store_batch_leaver(&b, span_of(text), &told[i], &session, 1);
                left -= !done[i];
                done[i] = true;
                if (below64(&seed, 5) == 0 || !left) write_now(st, &b);
            }
            for (int n = 0; n < USERS; n++) {
                char text[2] = {(char)('a' + n)};
                struct left is;
                assert_true(left_read(st, span_of(text), 0, &is));
                assert_int_equal(is.count, TOLD / USERS);
                if (!node) first[n] = is;
                else assert_memory_equal(&is, &first[n], sizeof is);
            }
            store_close(st);
            buffer_free(&b.ops);
            place_remove(&p);
        }
    }
}

/* What a test puts into a tree as it is. */
struct raw_record {
    size_t tree; /* where struct store has it */
    struct span key, value;
};

static int put_raw(struct store *st, MDB_txn *txn, void *context)
{
    struct raw_record *r = context;
    MDB_dbi tree;
    memcpy(&tree, (char *)st + r->tree, sizeof tree);
    MDB_val key = {r->key.len, (void *)(uintptr_t)r->key.at};
    MDB_val value = {r->value.len, (void *)(uintptr_t)r->value.at};
    return mdb_put(txn, tree, &key, &value, 0);
}

static bool count_leaver(void *context, struct span id, const struct user_record *user,
                         const struct session_record *sessions, size_t n)
{
    (void)id, (void)user, (void)sessions, (void)n;
    ++*(int *)context;
    return true;
}

/* In a child, as it says on stderr what it cannot read: a walk with a record that is none. */
struct leavers_row {
    struct raw_record put;
    bool good;
    struct test_place p;
    char log[96];
};

static void leavers_walk_damaged(void *context)
{
    struct leavers_row *row = context;
    struct store *st = open_good(row->p.dir);
    struct left_place place = {0};
    bool at_end;
    int count = 0;
    CHILD_CHECK(freopen(row->log, "w", stderr));
    fill(st, 0, 90);
    CHILD_CHECK(!store_transact(st, put_raw, &row->put));
    CHILD_CHECK(store_leavers(st, &place, count_leaver, &count, &at_end) == row->good);
    CHILD_CHECK(at_end == row->good);
    CHILD_CHECK(!row->good || count == 60);
    store_close(st);
}

/* A damaged record ends the walk and is logged; it is not taken for a user who is not there. */
static void leavers_may_be_damaged(void **state)
{
    (void)state;
    static struct leavers_row rows[] = {
        {.put = {offsetof(struct store, users), {"u000070", 7}, {"\1", 1}}},
        {.put = {offsetof(struct store, sessions), {"u000070\0\0\0\0\0\0\0\7\7", 16}, {"?", 1}}},
        {.put = {offsetof(struct store, users), {"u000071", 7}, {0}}},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        rows[i].p = place_make();
        snprintf(rows[i].log, sizeof rows[i].log, "%s/log", rows[i].p.root);
        int code = in_child(leavers_walk_damaged, &rows[i]);
        if (code) fail_msg("row %zu: exit %d", i, code);
        assert_int_equal(file_count(rows[i].log, "store: cannot read"), !rows[i].good);
        place_remove(&rows[i].p);
    }
}

static const struct CMUnitTest STORE_TESTS[] = {
    cmocka_unit_test(store_index_of_open),
    cmocka_unit_test(store_pages_through_users),
    cmocka_unit_test(store_sessions_newest_first),
    cmocka_unit_test(shared_sessions_are_counted_once),
    cmocka_unit_test(last_end_is_the_one_known_best),
    cmocka_unit_test(store_removes_old_sessions),
    cmocka_unit_test(store_sweep_keeps_up),
    crossing_test(store_grows_its_map),
    crossing_test(store_without_the_last_batch_is_not_whole),
    crossing_test(store_survives_a_full_disk),
    cmocka_unit_test(store_refuses_a_full_disk),
    crossing_test(store_recovers_from_a_failed_meta_page),
    cmocka_unit_test(store_refuses_a_newer_schema),
    cmocka_unit_test(store_refuses_an_older_schema),
    cmocka_unit_test(store_refuses_a_second_server),
    cmocka_unit_test(store_refuses_unusable_places),
    crossing_test(store_keeps_what_was_committed),
    cmocka_unit_test(positions_move_with_their_batches),
    cmocka_unit_test(nodes_are_made_once),
    cmocka_unit_test(node_and_position_may_be_damaged),
    crossing_test(store_stops_cleanly),
    crossing_test(store_reads_during_commits),
    cmocka_unit_test(samples_round_trip),
    cmocka_unit_test(samples_are_removed_in_steps),
    cmocka_unit_test(samples_may_be_damaged),
    cmocka_unit_test(seen_follows_the_users),
    cmocka_unit_test(leavers_are_all_visited),
    cmocka_unit_test(leavers_merge_into_users),
    cmocka_unit_test(leavers_come_in_any_order),
    cmocka_unit_test(leavers_may_be_damaged),
};
