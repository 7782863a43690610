/* What the tests of the store share: a directory for each, a store in it, a child that may die.
 * What a child finds wrong, it prints and exits with 1. */
#ifndef UNIT_STORE_H
#define UNIT_STORE_H

#include "unit.h"

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
struct test_place {
    char root[64], dir[96], file[112];
};

/* Makes the directories' names; only root exists. */
static struct test_place place_make(void)
{
    struct test_place p;
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
static void place_remove(const struct test_place *p)
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
        store_batch_session(&b, span_of(id), &s, false);
        if (b.users == 10000 || i == end - 1) write_now(st, &b);
    }
    buffer_free(&b.ops);
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

/* In a child, since it must not crash: what opening and checking say of a file. */
struct damage {
    struct test_place *p;
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
static void expect_refused(struct test_place *p, const void *at, size_t n, struct damage d)
{
    d.p = p;
    file_write(p->file, at, n);
    int code = in_child(open_damaged, &d);
    if (code) fail_msg("%zu bytes (%s): exit %d", n, d.says ? d.says : "", code);
}

/* A child that commits batches for ever, and says over a pipe which are done. */
struct killed {
    struct test_place *p;
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
            store_batch_session(&b, owner, &s, false);
        }
        b.position_epoch = k->number % 7;
        b.position_number = k->number;
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

/* Dumps to a file. */
static int dump_to(const char *dir, const char *path)
{
    FILE *out = fopen(path, "w");
    int code = store_command_dump(dir, out, stderr);
    fclose(out);
    return code;
}

#endif
