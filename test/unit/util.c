/* Util: times as texts, hashes, lists of ids, comparing secrets, the queue of jobs. */
#include "unit.h"

#include <sys/ptrace.h>
#include <sys/wait.h>

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

/* Whatever bit differs, it is seen. */
static void bytes_equal_sees_every_bit(void **unused)
{
    (void)unused;
    uint8_t a[40], b[40];
    for (size_t i = 0; i < sizeof a; i++) a[i] = b[i] = (uint8_t)(i * 37);
    for (size_t len = 0; len <= sizeof a; len++) {
        assert_true(bytes_equal_constant(a, b, len));
        for (size_t bit = 0; bit < sizeof a * 8; bit++) {
            b[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(bytes_equal_constant(a, b, len), bit / 8 >= len);
            b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

/* The instructions a process of its own runs to compare two runs of bytes, counted one by one;
 * -1 where that is not allowed. */
static long token_count_steps(const uint8_t *a, const uint8_t *b, size_t len)
{
    int status;
    pid_t child = fork();
    if (!child) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(9);
        raise(SIGSTOP);
        _exit(1 + bytes_equal_constant(a, b, len)); /* no branch on what it says */
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    if (!WIFSTOPPED(status)) return -1;
    long steps = 0;
    for (; WIFSTOPPED(status); steps++) {
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL)) {
            kill(child, SIGKILL);
            steps = -2;
        }
        assert_int_equal(waitpid(child, &status, 0), child);
    }
    return steps;
}

/* Comparing takes the same work wherever the first difference is, and where there is none. */
static void bytes_equal_is_constant(void **unused)
{
    (void)unused;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    skip(); /* a sanitizer's own work for every byte is counted as well: the plain build is asked */
#endif
    enum { LEN = 32 };
    static const size_t places[] = {0, 1, 7, 8, 15, 16, 30, 31};
    uint8_t a[LEN] = {0}, b[LEN] = {0};
    long want = token_count_steps(a, b, LEN);
    if (want < 0) skip();
    assert_true(want > LEN);
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        b[places[i]] = 0xff;
        assert_int_equal(token_count_steps(a, b, LEN), want);
        b[places[i]] = 0;
    }
    memset(b, 0xff, sizeof b);
    assert_int_equal(token_count_steps(a, b, LEN), want);
}

/* SipHash-2-4: vectors of its authors, for the key 00 01 .. 0f and the message 00 01 .. */
static void hash_is_siphash(void **unused)
{
    (void)unused;
    static const struct {
        size_t len;
        uint64_t hash;
    } rows[] = {{0, 0x726fdb47dd0e0e31}, {1, 0x74f839c593dc67fd},  {7, 0xab0200f58b01d137},
                {8, 0x93f5f5799a932462}, {15, 0xa129ca6149be45e5}, {63, 0x958a324ceb064572}};
    const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    uint8_t message[64];
    for (size_t i = 0; i < sizeof message; i++) message[i] = (uint8_t)i;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        assert_true(hash_keyed(key, message, rows[i].len) == rows[i].hash);
}

/* Whom a token's watch names is found, nobody else; "*" in a list is an id. */
static void id_list_finds(void **unused)
{
    (void)unused;
    struct token token = {0};
    assert_null(id_list_of_token(&token));
    assert_false(id_list_has(NULL, (struct span){"a", 1}));
    buffer_text(&token.watch, "[ \"b\", \"\\u00e9\",\"a\\\"c\" , \"*\",\"bb\",\"b\"]");
    struct id_list *list = id_list_of_token(&token);
    static const char *const in[] = {"b", "\xc3\xa9", "a\"c", "*", "bb"};
    static const char *const out[] = {"", "a", "c", "bbb", "B", "\xc3"};
    for (size_t i = 0; i < sizeof in / sizeof *in; i++)
        assert_true(id_list_has(list, (struct span){in[i], strlen(in[i])}));
    for (size_t i = 0; i < sizeof out / sizeof *out; i++)
        assert_false(id_list_has(list, (struct span){out[i], strlen(out[i])}));
    free(list);
    token.watch.len = 0;
    buffer_text(&token.watch, "[]");
    assert_null(id_list_of_token(&token));
    token_free(&token);
}

/* What the jobs of a queue's test share. */
struct queue_test {
    _Atomic int64_t sum, ran, running, most;
    sem_t held, go; /* the first job waits, so that others stay in the queue */
};

/* One of them. */
struct queue_test_job {
    struct job job;
    struct queue_test *shared;
    int64_t number;
    int times; /* it adds itself again so many times */
    struct job_queue *queue;
};

static void queue_test_run(struct server *server, struct job *job)
{
    struct queue_test_job *one = container_of(job, struct queue_test_job, job);
    struct queue_test *shared = one->shared;
    (void)server;
    int64_t running = atomic_fetch_add(&shared->running, 1) + 1;
    if (running > atomic_load(&shared->most)) atomic_store(&shared->most, running);
    atomic_fetch_add(&shared->sum, one->number);
    atomic_fetch_add(&shared->ran, 1);
    atomic_fetch_sub(&shared->running, 1);
    if (one->times-- > 0) job_queue_add(one->queue, &one->job);
    else free(one);
}

static void queue_test_hold(struct server *server, struct job *job)
{
    (void)server;
    struct queue_test *shared = container_of(job, struct queue_test_job, job)->shared;
    sem_post(&shared->held);
    while (sem_wait(&shared->go)) continue;
}

/* Adds `count` jobs with the numbers from 1 on; each adds itself again `times` times. */
static void queue_test_add(struct job_queue *queue, struct queue_test *shared, int count, int times)
{
    for (int i = 1; i <= count; i++) {
        struct queue_test_job *one = mem_new(sizeof *one);
        *one = (struct queue_test_job){{.run = queue_test_run}, shared, i, times, queue};
        job_queue_add(queue, &one->job);
    }
}

/* Every job runs once, whoever has it: threads, who adds them, or both; what waits at the end is
 * done before the threads end. */
static void job_queue_runs_all(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    for (size_t threads = 0; threads < 4; threads++) {
        static struct queue_test shared;
        struct job_queue queue;
        memset(&shared, 0, sizeof shared);
        job_queue_init(&queue, NULL, threads ? threads : 1);
        assert_true(job_queue_start(&queue, "test", 0, threads));
        for (int round = 1; round <= 3; round++) {
            queue_test_add(&queue, &shared, COUNT, 0);
            job_queue_finish(&queue);
            assert_int_equal(shared.ran, round * COUNT);
            assert_int_equal(shared.sum, (int64_t)round * COUNT * (COUNT + 1) / 2);
            assert_int_equal(queue.waiting + queue.running, 0);
        }
        assert_true(shared.most <= (int64_t)threads + 1);
        if (threads)
            queue_test_add(&queue, &shared, COUNT, 1); /* nobody helps: all by the threads */
        job_queue_stop(&queue);
        assert_int_equal(shared.ran, (threads ? 5 : 3) * COUNT);
        assert_true(TAILQ_EMPTY(&queue.jobs));
    }
}

/* A job that no thread has begun can be taken back, from anywhere in the queue; one that has begun
 * cannot. A queue that was never set up can be stopped. */
static void job_queue_gives_back(void **state)
{
    (void)state;
    static struct job_queue never;
    struct queue_test shared = {0};
    struct queue_test_job hold = {{.run = queue_test_hold}, &shared, 0, 0, NULL}, *jobs[9];
    struct job_queue queue;
    sem_init(&shared.held, 0, 0);
    sem_init(&shared.go, 0, 0);
    job_queue_stop(&never);
    job_queue_init(&queue, NULL, 1);
    assert_true(job_queue_start(&queue, "test", 0, 1));
    job_queue_add(&queue, &hold.job);
    while (sem_wait(&shared.held)) continue;
    for (int i = 0; i < 9; i++) {
        jobs[i] = mem_new(sizeof *jobs[i]);
        *jobs[i] = (struct queue_test_job){{.run = queue_test_run}, &shared, 1 << i, 0, &queue};
        job_queue_add(&queue, &jobs[i]->job);
    }
    assert_false(job_queue_cancel(&queue, &hold.job));
    for (int i = 0; i < 9; i += 4) { /* the first, one between, the last */
        assert_true(job_queue_cancel(&queue, &jobs[i]->job));
        assert_false(job_queue_cancel(&queue, &jobs[i]->job));
        free(jobs[i]);
    }
    sem_post(&shared.go);
    job_queue_stop(&queue);
    assert_int_equal(shared.sum, 0x1ff - 0x111);
    sem_destroy(&shared.held);
    sem_destroy(&shared.go);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
/* What is wrong, each in a process of its own. */
static pthread_mutex_t rule_locks[RANK_LOG + 1];

static void rule_order(void)
{
    lock_take(&rule_locks[RANK_ADDRESS], RANK_ADDRESS);
    lock_take(&rule_locks[RANK_TABLE], RANK_TABLE);
}

static void rule_twice(void)
{
    lock_take(&rule_locks[RANK_LOOP], RANK_LOOP);
    lock_take(&rule_locks[RANK_LOOP], RANK_LOOP);
}

static void rule_give(void)
{
    lock_take(&rule_locks[RANK_TABLE], RANK_TABLE);
    lock_give(&rule_locks[RANK_TABLE], RANK_TABLE);
    lock_give(&rule_locks[RANK_TABLE], RANK_TABLE);
}

static void rule_held(void)
{
    static struct server server;
    static struct http_conn p;
    http_conn_unlist(&server, &p);
}

static void rule_thread(void)
{
    static struct server server;
    static struct http_conn p;
    thread_is(THREAD_WORKER);
    listener_close(&server, &p);
}

static void rule_hub(void)
{
    static struct server server;
    static struct connection c;
    thread_is(THREAD_LISTENER);
    connection_end(&server, &c, (struct instant){0}, END_CLEAN);
}

/* And what is right. */
static void rule_none(void)
{
    for (unsigned rank = 0; rank <= RANK_LOG; rank++) lock_take(&rule_locks[rank], rank);
    for (unsigned rank = 0; rank <= RANK_LOG; rank++) lock_give(&rule_locks[rank], rank);
    lock_take(&rule_locks[RANK_LOG], RANK_LOG);
    lock_give(&rule_locks[RANK_LOG], RANK_LOG);
    thread_is(THREAD_HUB);
    ASSERT_THREAD(HUB);
    thread_is(THREAD_ANY);
    ASSERT_THREAD(LISTENER);
}

#endif

/* A lock out of order, one that is not held, and a function on the wrong thread end the process in
 * the builds with a sanitizer, and say why. */
static void owners_are_asserted(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    static const struct {
        void (*run)(void);
        const char *says;
    } rows[] = {
        {rule_order, "out of order"},   {rule_twice, "out of order"},
        {rule_give, "was not taken"},   {rule_held, "ADDRESS is not held"},
        {rule_thread, "LISTENER only"}, {rule_hub, "HUB only"},
        {rule_none, NULL},
    };
    for (size_t i = 0; i < sizeof rule_locks / sizeof *rule_locks; i++)
        pthread_mutex_init(&rule_locks[i], NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int out[2], status;
        char said[1024] = "";
        size_t len = 0;
        assert_false(pipe(out));
        pid_t child = fork();
        if (!child) {
            dup2(out[1], 2);
            signal(SIGABRT, SIG_DFL);
            rows[i].run();
            _exit(0);
        }
        close(out[1]);
        for (ssize_t n; (n = read(out[0], said + len, sizeof said - 1 - len)) > 0;)
            len += (size_t)n;
        close(out[0]);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (!rows[i].says) {
            assert_true(WIFEXITED(status) && !WEXITSTATUS(status));
            continue;
        }
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
        if (!strstr(said, rows[i].says)) fail_msg("row %zu said: %s", i, said);
    }
#else
    skip();
#endif
}

static const struct CMUnitTest UTIL_TESTS[] = {
    cmocka_unit_test(times_are_texts),         cmocka_unit_test(bytes_equal_sees_every_bit),
    cmocka_unit_test(bytes_equal_is_constant), cmocka_unit_test(hash_is_siphash),
    cmocka_unit_test(id_list_finds),           crossing_test(job_queue_runs_all),
    crossing_test(job_queue_gives_back),
    cmocka_unit_test(owners_are_asserted),
};
