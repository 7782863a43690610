/* Store, commands: dump, restore, backup, and readers that died. */
#include "unit.h"
#include "store.h"

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
    struct test_place p = place_make();
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
    store_batch_session(&b, span_of("quote\"back\\slash"), &s, false);
    memcpy(s.address, ADDRESS_V4_MAPPED, 12);
    memcpy(s.address + 12, "\x7f\0\0\1", 4);
    store_batch_session(&b, span_of("\xc3\xa9mile \xf0\x9f\x98\x80"), &s, false);
    write_now(st, &b);
    fill(st, 0, 12000); /* more than a batch */
    b.position_epoch = 7;
    write_now(st, &b);
    uint64_t node = st->node;
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
    assert_true(st->node && st->node != node && !st->was_position_epoch); /* another node */
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
        {LINE_USER LINE_USER LINE_END(2, 0), "", "", "a user is in the dump twice, before line 4"},
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
        struct test_place p = place_make();
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
    struct test_place *p = context;
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
    struct test_place p = place_make();
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
        struct test_place other = p;
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
    struct test_place *p = context;
    struct log log = {.level = LOG_ERROR, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct counters counters = {0};
    CHILD_CHECK(store_command_open(p->dir, &log, &counters, stderr) != NULL);
    _exit(0); /* no store_close: as kill -9 would have it */
}

static void store_clears_readers_that_died(void **state)
{
    (void)state;
    struct test_place p = place_make();
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
    struct test_place p = place_make();
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

static const struct CMUnitTest STORE_COMMANDS_TESTS[] = {
    cmocka_unit_test(store_dump_restore_dump),
    cmocka_unit_test(store_restores_all_or_nothing),
    crossing_test(store_backs_up_beside_a_writer),
    cmocka_unit_test(store_clears_readers_that_died),
    cmocka_unit_test(store_commands_name_a_missing_store),
};
