/* Passwords and admin sessions. */
#include "unit.h"
#include "model.h"

#include <sys/mman.h>

#define SALT "AAECAwQFBgcICQoLDA0ODw"
#define HASH "ECEiF3rHxiQNn3eIhD3_rQu7JgNUuHNkEwXr67HsHXA"

/* Reads a password file that holds this text. */
static bool password_try(const char *text, struct password *out, char *err)
{
    char path[64];
    int fd = memfd_create("password", MFD_CLOEXEC);
    must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    bool good = password_load(path, true, out, (struct why){err, WHY_MAX});
    close(fd);
    return good;
}

/* A hash that another implementation made (Python's hashlib) is the password's and no other's. */
static void password_vector(void **unused)
{
    (void)unused;
    static const char *const wrong[] = {
        "",  "correct hors", "correct horse ", "Correct horse", " correct horse", "correct horse\n",
        HASH};
    char err[WHY_MAX];
    struct password p;
    assert_true(password_try("pbkdf2-sha512:10000:" SALT ":" HASH "\r\n", &p, err));
    assert_int_equal(p.iterations, 10000);
    assert_true(password_check(&p, token_span("correct horse")));
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_false(password_check(&p, token_span(wrong[i])));
    p.hash[31] ^= 1;
    assert_false(password_check(&p, token_span("correct horse")));
    p.hash[31] ^= 1;
    p.iterations++;
    assert_false(password_check(&p, token_span("correct horse")));
}

/* What password_hash prints is loaded and checked; no two are alike. */
static void password_round_trip(void **unused)
{
    (void)unused;
    struct buffer b = {0};
    struct password p;
    char err[WHY_MAX];
    password_hash("\xc3\xa9\0x", 4, &b);
    buffer_add(&b, "", 1);
    assert_true(password_try(b.at, &p, err));
    assert_int_equal(p.iterations, 210000);
    assert_memory_equal(b.at, "pbkdf2-sha512:210000:", 21);
    assert_true(password_check(&p, (struct span){"\xc3\xa9\0x", 4}));
    assert_false(password_check(&p, (struct span){"\xc3\xa9\0y", 4}));
    struct password before = p;
    b.len = 0;
    password_hash("\xc3\xa9\0x", 4, &b);
    buffer_add(&b, "", 1);
    assert_true(password_try(b.at, &p, err));
    assert_memory_not_equal(p.salt, before.salt, sizeof p.salt);
    assert_memory_not_equal(p.hash, before.hash, sizeof p.hash);
    buffer_free(&b);
}

/* Lines that are no password; err names option, file and remedy, and out stays as it was. */
static void password_files_are_read(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        bool good;
    } rows[] = {
        {"pbkdf2-sha512:10000:" SALT ":" HASH, true},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "\n", true},
        {"pbkdf2-sha512:10000000:" SALT ":" HASH "\n", true},
        {"pbkdf2-sha512:9999:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:10000001:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:99999999999999999999:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:-10000:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512::" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:10000:" SALT "\n", false},
        {"pbkdf2-sha512:10000:" SALT ":\n", false},
        {"pbkdf2-sha512:10000::" HASH "\n", false},
        {"pbkdf2-sha512:10000:" HASH ":" SALT "\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH ":\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "=\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "A\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH " \n", false},
        {" pbkdf2-sha512:10000:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "\n\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "\nmore\n", false},
        {"pbkdf2-sha256:10000:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha5120:10000:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512", false},
        {"secret\n", false},
        {"\n", false},
        {"", false},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char err[WHY_MAX] = "";
        struct password p = {.iterations = 7};
        if (password_try(rows[i].text, &p, err) != rows[i].good) fail_msg("row %zu: %s", i, err);
        if (rows[i].good) continue;
        assert_int_equal(p.iterations, 7);
        assert_ptr_equal(strstr(err, "--admin-password-file: /proc/self/fd/"), err);
        assert_non_null(strstr(err, "--hash-password"));
        assert_null(strstr(err, SALT));
    }
    char err[WHY_MAX], text[300] = "";
    struct password p;
    memset(text, 'a', 257);
    assert_false(password_try(text, &p, err));
    assert_non_null(strstr(err, "is too long"));
    assert_false(password_load("/nonexistent", true, &p, WHY(err)));
    assert_string_equal(err, "--admin-password-file: cannot read /nonexistent: No such file or"
                             " directory; name a readable file");
}

/* A session holds until its end, to the millisecond, in the process that made it. */
static void sessions_end(void **unused)
{
    (void)unused;
    struct session_keys keys, other;
    struct buffer b = {0}, c = {0};
    int64_t expires = 0, end = 5;
    session_keys_init(&keys);
    session_keys_init(&other);
    session_mint(&keys, TEST_WALL, 1000, &b, &expires);
    assert_int_equal(expires, TEST_WALL + 1000);
    assert_int_equal(b.len, 76);
    struct span text = exact_copy(b.at, b.len);
    assert_true(session_check(&keys, text, TEST_WALL, &end));
    assert_int_equal(end, expires);
    assert_true(session_check(&keys, text, TEST_WALL + 999, &end));
    assert_true(session_check(&keys, text, 0, &end));
    end = 5;
    assert_false(session_check(&keys, text, TEST_WALL + 1000, &end));
    assert_false(session_check(&keys, text, INT64_MAX, &end));
    assert_false(session_check(&other, text, TEST_WALL, &end));
    assert_false(session_check(&keys, (struct span){NULL, 0}, TEST_WALL, &end));
    assert_int_equal(end, 5);
    session_mint(&keys, TEST_WALL, 1000, &c, &expires);
    assert_memory_not_equal(b.at, c.at, b.len);
    assert_memory_not_equal(keys.secret, other.secret, sizeof keys.secret);
    exact_free(text);
    buffer_free(&b);
    buffer_free(&c);
    session_keys_free(&keys);
    session_keys_free(&other);
}

/* No session with one character changed, added or taken away is one. */
static void sessions_cannot_be_changed(void **unused)
{
    (void)unused;
    struct session_keys keys;
    struct buffer b = {0};
    int64_t expires;
    session_keys_init(&keys);
    session_mint(&keys, TEST_WALL, 1000, &b, &expires);
    for (size_t i = 0; i < b.len; i++) {
        char right = b.at[i];
        for (int c = 0; c < 256; c++) {
            b.at[i] = (char)c;
            bool good = session_check(&keys, (struct span){b.at, b.len}, TEST_WALL, &expires);
            if (good != (right == (char)c)) fail_msg("character %zu made %d", i, c);
        }
        b.at[i] = right;
    }
    for (size_t i = 0; i < b.len; i++) {
        struct span text = exact_copy(b.at, i);
        assert_false(session_check(&keys, text, TEST_WALL, &expires));
        exact_free(text);
    }
    buffer_text(&b, "A");
    assert_false(session_check(&keys, (struct span){b.at, b.len}, TEST_WALL, &expires));
    buffer_free(&b);
    session_keys_free(&keys);
}

/* A revoked session ends, the others go on. Of many that have run out anyway none is kept, but of a
 * few all are: one is not valid again when a clock that was ahead is set back. */
static void sessions_are_revoked(void **unused)
{
    (void)unused;
    enum { COUNT = 2 * SESSION_REVOKED_KEPT + 100, LATE = 50 };
    static struct buffer b[COUNT];
    struct span text[COUNT];
    struct session_keys keys;
    int64_t expires;
    session_keys_init(&keys);
    for (int i = 0; i < COUNT; i++) {
        session_mint(&keys, TEST_WALL, 1000 + 100 * i, &b[i], &expires);
        text[i] = (struct span){b[i].at, b[i].len};
    }
    for (int i = 0; i < COUNT; i += 2) {
        assert_true(session_revoke(&keys, text[i], TEST_WALL));
        assert_false(session_revoke(&keys, text[i], TEST_WALL)); /* again: nothing more */
        assert_int_equal(keys.revoked_count, i / 2 + 1);
    }
    int64_t wall = TEST_WALL + 1000 + 100 * LATE; /* so many have run out */
    assert_false(session_revoke(&keys, token_span("nothing"), wall));
    assert_false(session_revoke(&keys, text[1], wall));
    assert_int_equal(keys.revoked_count, COUNT / 2);
    assert_true(session_revoke(&keys, text[COUNT - 1], wall));
    assert_int_equal(keys.revoked_count, COUNT / 2 - (LATE / 2 + 1) + 1);
    for (int i = LATE + 1; i < COUNT - 1; i++)
        assert_int_equal(session_check(&keys, text[i], wall, &expires), i % 2);
    wall = TEST_WALL + 1000 + 100 * COUNT; /* all have, and the clock was ahead */
    session_forget(&keys, wall);
    size_t kept = keys.revoked_count;
    assert_int_equal(kept, 0);
    for (int i = 1; i < COUNT && kept < SESSION_REVOKED_KEPT; i += 2, kept++)
        assert_true(session_revoke(&keys, text[i], TEST_WALL));
    session_forget(&keys, wall);
    assert_int_equal(keys.revoked_count, kept);
    assert_false(session_check(&keys, text[1], TEST_WALL, &expires));
    for (int i = 0; i < COUNT; i++) buffer_free(&b[i]);
    session_keys_free(&keys);
}

/* The file of sessions has those that were ended, and no more than twice those that still count;
 * what is read back is what was written. */
static void sessions_are_kept_in_a_file(void **unused)
{
    (void)unused;
    enum { ROUNDS = 3 * SESSION_FILE_SLACK };
    char dir[] = "/tmp/presence-sessions-XXXXXX", path[64], err[WHY_MAX];
    struct password password = {.iterations = 1};
    struct session_keys keys, again;
    struct buffer lasting = {0}, last = {0};
    struct stat info;
    int64_t expires;
    must(mkdtemp(dir) != NULL);
    session_keys_init(&keys);
    assert_true(session_keys_open(&keys, dir, &password, TEST_WALL, WHY(err)));
    session_mint(&keys, TEST_WALL, 1 << 30, &lasting, &expires);
    for (int i = 0; i < ROUNDS; i++) { /* each has run out when the next one is ended */
        int64_t now = TEST_WALL + i * 10;
        buffer_free(&last);
        session_mint(&keys, now, 5, &last, &expires);
        assert_true(session_revoke(&keys, (struct span){last.at, last.len}, now));
        assert_true(keys.noted <= 2 * keys.revoked_count + SESSION_FILE_SLACK + 1);
    }
    snprintf(path, sizeof path, "%s/admin-sessions", dir);
    assert_false(stat(path, &info));
    assert_int_equal(info.st_size, SESSION_FILE_HEAD + keys.noted * SESSION_PAYLOAD);
    int64_t now = TEST_WALL + (ROUNDS - 1) * 10;
    session_keys_init(&again);
    assert_true(session_keys_open(&again, dir, &password, now, WHY(err)));
    assert_int_equal(again.revoked_count, 1);
    assert_true(session_check(&again, (struct span){lasting.at, lasting.len}, now, &expires));
    assert_false(session_check(&again, (struct span){last.at, last.len}, now, &expires));
    session_keys_free(&again);
    password.iterations = 2; /* another password */
    session_keys_init(&again);
    assert_true(session_keys_open(&again, dir, &password, now, WHY(err)));
    assert_false(session_check(&again, (struct span){lasting.at, lasting.len}, now, &expires));
    session_keys_free(&again);
    session_keys_free(&keys);
    buffer_free(&lasting);
    buffer_free(&last);
    unlink(path);
    rmdir(dir);
}

/* A file that takes no more is emptied: with the next start all sessions end, the one that was
 * ended among them. Until then the process knows. */
static void sessions_end_when_one_that_ended_cannot_be_kept(void **unused)
{
    (void)unused;
    char dir[] = "/tmp/presence-sessions-XXXXXX", path[64], err[WHY_MAX];
    struct password password = {.iterations = 1};
    struct session_keys keys, again;
    struct buffer session[2] = {0};
    struct rlimit before, full;
    struct stat info;
    int64_t expires;
    must(mkdtemp(dir) != NULL && !getrlimit(RLIMIT_FSIZE, &before));
    session_keys_init(&keys);
    assert_true(session_keys_open(&keys, dir, &password, TEST_WALL, WHY(err)));
    for (int i = 0; i < 2; i++) session_mint(&keys, TEST_WALL, 1000, &session[i], &expires);
    struct span ended = {session[0].at, session[0].len}, other = {session[1].at, session[1].len};
    signal(SIGXFSZ, SIG_IGN);
    full = (struct rlimit){SESSION_FILE_HEAD + SESSION_PAYLOAD / 2, before.rlim_max};
    must(!setrlimit(RLIMIT_FSIZE, &full));
    assert_true(session_revoke(&keys, ended, TEST_WALL));
    must(!setrlimit(RLIMIT_FSIZE, &before));
    assert_true(keys.problem != 0);
    assert_false(session_check(&keys, ended, TEST_WALL, &expires));
    assert_true(session_check(&keys, other, TEST_WALL, &expires));
    assert_true(session_revoke(&keys, other, TEST_WALL)); /* no file: no harm */
    snprintf(path, sizeof path, "%s/admin-sessions", dir);
    assert_false(stat(path, &info));
    assert_int_equal(info.st_size, 0);
    session_keys_init(&again);
    assert_true(session_keys_open(&again, dir, &password, TEST_WALL, WHY(err)));
    assert_false(session_check(&again, ended, TEST_WALL, &expires));
    assert_false(session_check(&again, other, TEST_WALL, &expires));
    session_keys_free(&again);
    session_keys_free(&keys);
    for (int i = 0; i < 2; i++) buffer_free(&session[i]);
    unlink(path);
    rmdir(dir);
}

static const struct CMUnitTest PASSWORDS_TESTS[] = {
    cmocka_unit_test(password_vector),
    cmocka_unit_test(password_round_trip),
    cmocka_unit_test(password_files_are_read),
    cmocka_unit_test(sessions_end),
    cmocka_unit_test(sessions_cannot_be_changed),
    cmocka_unit_test(sessions_are_kept_in_a_file),
    cmocka_unit_test(sessions_end_when_one_that_ended_cannot_be_kept),
    cmocka_unit_test(sessions_are_revoked),
};
