/* Cluster: the engine. Its URL, what its replies mean, whatever they are; and its thread with a
 * real redis-server, whose scripts, memory and connections are taken away from it. */
#include "unit.h"

#include <sys/wait.h>

/* What a URL is read as; a NULL prefix: refused, and `says` is in the reason. */
static const struct {
    const char *text, *prefix, *host, *master, *says;
    size_t hosts;
    int port; /* of the first host */
    bool secure, sentinel;
} ENGINE_URLS[] = {
    {"redis://a/p", "p", "a", "", NULL, 1, 6379, false, false},
    {"REDIS://A.example:7/P_1.-", "P_1.-", "a.example", "", NULL, 1, 7, false, false},
    {"rediss://192.0.2.1:65535/p", "p", "192.0.2.1", "", NULL, 1, 65535, true, false},
    {"rediss://[2001:DB8:0::1]/p", "p", "2001:db8::1", "", NULL, 1, 6379, true, false},
    {"redis+sentinel://a,b:2,[::1]:3/p?master=m.1", "p", "a", "m.1", NULL, 3, 26379, false, true},
    {"rediss+sentinel://a:1/p?master=m", "p", "a", "m", NULL, 1, 1, true, true},
    {"", NULL, NULL, NULL, "is no URL", 0, 0, false, false},
    {"a:6379/p", NULL, NULL, NULL, "is no URL", 0, 0, false, false},
    {"http://a/p", NULL, NULL, NULL, "is no URL", 0, 0, false, false},
    {"redis:/a/p", NULL, NULL, NULL, "is no URL", 0, 0, false, false},
    {"redis://:secret@a/p", NULL, NULL, NULL, "--cluster-password-file", 0, 0, false, false},
    {"redis://bob@a/p", NULL, NULL, NULL, "--cluster-user", 0, 0, false, false},
    {"redis://bob:secret@a", NULL, NULL, NULL, "--cluster-user", 0, 0, false, false},
    {"redis://", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis:///p", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis://a:0/p", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis://a:65536/p", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis://a:/p", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis://a b/p", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis://[::1/p", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis+sentinel://a,,b/p?master=m", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis+sentinel://a,/p?master=m", NULL, NULL, NULL, "is no host", 0, 0, false, false},
    {"redis://a,b/p", NULL, NULL, NULL, "2 hosts", 0, 0, false, false},
    {"redis://a", NULL, NULL, NULL, "is no prefix", 0, 0, false, false},
    {"redis://a/", NULL, NULL, NULL, "is no prefix", 0, 0, false, false},
    {"redis://a/p/q", NULL, NULL, NULL, "is no prefix", 0, 0, false, false},
    {"redis://a/{p}", NULL, NULL, NULL, "is no prefix", 0, 0, false, false},
    {"redis://a/p#q", NULL, NULL, NULL, "is no prefix", 0, 0, false, false},
    {"redis://a?p", NULL, NULL, NULL, "is no prefix", 0, 0, false, false},
    {"redis://a/p?", NULL, NULL, NULL, "means nothing", 0, 0, false, false},
    {"redis://a/p?master=m", NULL, NULL, NULL, "means nothing", 0, 0, false, false},
    {"redis+sentinel://a/p", NULL, NULL, NULL, "?master=NAME", 0, 0, false, false},
    {"redis+sentinel://a/p?master=", NULL, NULL, NULL, "?master=NAME", 0, 0, false, false},
    {"redis+sentinel://a/p?master=m&x=y", NULL, NULL, NULL, "?master=NAME", 0, 0, false, false},
};

static void engine_urls_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(ENGINE_URLS); i++) {
        struct engine_url url;
        char err[WHY_MAX] = "", *text = text_copy(ENGINE_URLS[i].text);
        bool good = engine_url_parse(text, &url, WHY(err));
        if (good != !!ENGINE_URLS[i].prefix) fail_msg("%s: %s", text, err);
        if (good) {
            assert_string_equal(url.prefix, ENGINE_URLS[i].prefix);
            assert_string_equal(url.hosts[0].host, ENGINE_URLS[i].host);
            assert_string_equal(url.master, ENGINE_URLS[i].master);
            assert_int_equal(url.hosts[0].port, ENGINE_URLS[i].port);
            assert_int_equal(url.host_count, ENGINE_URLS[i].hosts);
            assert_int_equal(url.secure, ENGINE_URLS[i].secure);
            assert_int_equal(url.sentinel, ENGINE_URLS[i].sentinel);
        } else {
            if (!strstr(err, ENGINE_URLS[i].says)) fail_msg("%s: %s", text, err);
            assert_null(strstr(err, "secret"));
        }
        engine_url_free(&url);
        free(text);
    }
}

/* URLs with bytes changed, left out and doubled: what is taken can stand in keys and commands. */
static void engine_urls_of_any_kind(void **state)
{
    (void)state;
    uint64_t seed = 7;
    for (int round = 0; round < 100000; round++) {
        char bytes[256], err[WHY_MAX];
        snprintf(bytes, sizeof bytes, "%s",
                 ENGINE_URLS[below64(&seed, COUNT_OF(ENGINE_URLS))].text);
        for (size_t n = 1 + below64(&seed, 4), len; n && (len = strlen(bytes)); n--) {
            size_t at = below64(&seed, len), what = below64(&seed, 3);
            if (what == 0) bytes[at] = "/:@?,[]a1.#-\xff "[below64(&seed, 14)];
            else if (what == 1) memmove(bytes + at, bytes + at + 1, len - at);
            else if (len < 200) memmove(bytes + at + 1, bytes + at, len - at + 1);
        }
        struct engine_url url;
        char *text = text_copy(bytes);
        if (engine_url_parse(text, &url, WHY(err))) {
            assert_true(engine_name_good(url.prefix, strlen(url.prefix)));
            assert_true(!url.sentinel || engine_name_good(url.master, strlen(url.master)));
            assert_true(url.host_count && (url.sentinel || url.host_count == 1));
            for (size_t i = 0; i < url.host_count; i++)
                assert_true(*url.hosts[i].host && url.hosts[i].port);
        }
        engine_url_free(&url);
        free(text);
    }
}

static void engine_errors_are_known(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum engine_error error;
    } rows[] = {
        {"NOSCRIPT No matching script. Please use EVAL.", ENGINE_NO_SCRIPT},
        {"EPOCH 0", ENGINE_OTHER_EPOCH},
        {"GAP 17", ENGINE_GAP},
        {"OOM command not allowed when used memory > 'maxmemory'.", ENGINE_FULL},
        {"ERR Error running script (call to f_1): @user_script: 7: -OOM command not allowed when"
         " used memory > 'maxmemory'.",
         ENGINE_FULL},
        {"MOVED 1 a:1", ENGINE_ELSEWHERE},
        {"ASK 1 a:1", ENGINE_ELSEWHERE},
        {"WRONGPASS invalid username-password pair or user is disabled.", ENGINE_NO_AUTH},
        {"NOAUTH Authentication required.", ENGINE_NO_AUTH},
        {"ERR AUTH <password> called without any password configured", ENGINE_NO_AUTH},
        {"NOPERM this user has no permissions to run the 'xadd' command", ENGINE_NO_PERMISSION},
        {"WRONGTYPE Operation against a key holding the wrong kind of value", ENGINE_WRONG_TYPE},
        {"ERR unknown command `XADD`, with args", ENGINE_UNKNOWN},
        {"LOADING Redis is loading the dataset in memory", ENGINE_NOT_NOW},
        {"READONLY You can't write against a read only replica.", ENGINE_NOT_NOW},
        {"", ENGINE_NOT_NOW},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++)
        if (engine_error_of(rows[i].text) != rows[i].error) fail_msg("%s", rows[i].text);
    const struct engine_host from = {"here", 6379};
    struct engine_host to;
    assert_true(engine_moved_to("MOVED 7 ::1:8", &from, &to));
    assert_string_equal(to.host, "::1");
    assert_int_equal(to.port, 8);
    assert_true(engine_moved_to("ASK 7 :9", &from, &to));
    assert_string_equal(to.host, "here");
    assert_false(engine_moved_to("MOVED", &from, &to));
    assert_false(engine_moved_to("MOVED 7 a", &from, &to));
    assert_false(engine_moved_to("MOVED 7 a:0", &from, &to));
    assert_false(engine_moved_to("MOVED 7 a:65536", &from, &to));
    char *far = text_long("MOVED 7 ", 'a', ORIGIN_MAX, ":1");
    assert_false(engine_moved_to(far, &from, &to));
    free(far);
    assert_int_equal(engine_log_length(67108864, 0, 0), ENGINE_LOG_LEAST);
    assert_int_equal(engine_log_length(67108864, 6000, 100), 67108864 / 60);
    assert_int_equal(engine_log_length(1048576, 1000000, 10), ENGINE_LOG_LEAST);
}

/* What ENGINE_UP says of the entry that was read last. */
static void engine_knows_what_is_left(void **state)
{
    (void)state;
    static const struct {
        uint64_t after, first, last; /* ms; 0: nothing was read, the log is empty */
        bool there;
        int want;
    } rows[] = {
        {0, 0, 0, false, LAST_READ_THERE},   {0, 5, 9, false, LAST_READ_THERE},
        {5, 3, 9, true, LAST_READ_THERE},    {5, 5, 5, true, LAST_READ_THERE},
        {5, 6, 9, false, LAST_READ_TRIMMED}, {5, 4, 9, false, LAST_READ_LOST},
        {5, 3, 4, false, LAST_READ_LOST},    {5, 0, 0, false, LAST_READ_LOST},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct engine *engine = mem_new(sizeof *engine);
        engine->after.ms = rows[i].after;
        engine->is_there = rows[i].there;
        int found = engine_last_read(engine, !rows[i].last, (struct stream_id){rows[i].first, 0},
                                     (struct stream_id){rows[i].last, 0});
        if (found != rows[i].want) fail_msg("row %zu: %d", i, found);
        free(engine);
    }
    char said[8];
    assert_string_equal(engine_said(span_of("a\033[2J\xff"), said, sizeof said), "a?[2J?");
    assert_string_equal(engine_said(span_of("12345678"), said, sizeof said), "1234567");
}

/* ---- The engine's thread without a thread ---------------------------------------------------- */

/* An engine, and the hub that it tells. */
struct engine_side {
    struct options options;
    struct log log;
    struct engine engine;
    struct loop hub;
};

/* What the hub was told, and what it makes of the entries: n must follow on n, base on base. */
static struct {
    struct engine *engine;
    size_t count[ENGINE_CLOCK + 1];            /* of tells, by kind */
    struct engine_tell last[ENGINE_CLOCK + 1]; /* without its text */
    uint64_t n, base;                          /* the next that are to come */
    struct stream_id read;
    bool wild; /* the entries are anybody's */
    bool deaf; /* what is told waits */
    struct job_list waiting;
    struct buffer pieces;
} hub_side;

static void hub_side_takes(struct server *server, struct job *job)
{
    (void)server;
    struct engine_tell *tell = container_of(job, struct engine_tell, job);
    if (hub_side.deaf) { /* it has no time for it now */
        TAILQ_INSERT_TAIL(&hub_side.waiting, job, entry);
        return;
    }
    engine_hears(hub_side.engine, tell);
    hub_side.count[tell->kind]++;
    hub_side.last[tell->kind] = *tell;
    if (tell->kind == ENGINE_CAME) buffer_add(&hub_side.pieces, tell->text.at, tell->text.len);
    for (size_t at = 0; tell->kind == ENGINE_ENTRIES && at < tell->text.len;) {
        struct engine_entry entry;
        uint64_t n, records;
        must(tell->text.len - at >= sizeof entry);
        memcpy(&entry, tell->text.at + at, sizeof entry);
        at += sizeof entry;
        must(tell->text.len - at >= entry.len);
        if (!hub_side.wild) {
            must(sscanf(tell->text.at + at, "%" SCNu64 " %" SCNu64, &n, &records) == 2);
            if (n == hub_side.n) { /* an older one came twice, see the script */
                assert_int_equal(entry.base, hub_side.base);
                hub_side.n++;
                hub_side.base += records;
            } else fail_msg("entry %" PRIu64 " where %" PRIu64 " was to come", n, hub_side.n);
        }
        hub_side.read = entry.id;
        at += entry.len;
    }
    if (tell->kind == ENGINE_ENTRIES) engine_took(hub_side.engine);
    engine_tell_free(tell);
}

static void engine_side_open(struct engine_side *side, char *url)
{
    char err[WHY_MAX];
    static char nothing[] = "", name[] = "test";
    *side = (struct engine_side){.options = {.cluster = url,
                                             .cluster_user = nothing,
                                             .cluster_password_file = nothing,
                                             .cluster_ca_file = nothing,
                                             .node_name = name,
                                             .cluster_log = 1 << 30}};
    pthread_mutex_init(&side->log.lock, NULL);
    must(loop_init(&side->hub));
    must(engine_init(&side->engine, &side->options, &side->log, WHY(err)));
    buffer_free(&hub_side.pieces);
    memset(&hub_side, 0, sizeof hub_side);
    hub_side.engine = &side->engine;
    TAILQ_INIT(&hub_side.waiting);
    hub_side.n = 1;
}

static void engine_side_close(struct engine_side *side)
{
    engine_stop(&side->engine);
    loop_run_jobs(&side->hub, NULL);
    loop_close(&side->hub);
    engine_free(&side->engine);
    pthread_mutex_destroy(&side->log.lock);
    buffer_free(&hub_side.pieces);
}

static struct engine_ask *engine_side_ask(struct engine_side *side, struct engine_ask ask)
{
    struct engine_ask *sent = mem_new(sizeof *sent);
    *sent = ask;
    engine_submit(&side->engine, sent);
    return sent;
}

/* Appends a reply of any kind: mostly the shapes that are asked for, often with something wrong. */
static void reply_random(uint64_t *seed, struct buffer *out, int depth)
{
    static const char *const texts[] = {
        "1-1",
        "0-0",
        "18446744073709551615-1",
        "x-1",
        "1764000000000-7",
        "{p}:log",
        "e",
        "b",
        "d",
        "7",
        "0",
        "-1",
        "4294967296",
        "99999999999999999999999",
        "",
        "{p}:snapshot:0000000000000005",
        "redis_version:7.0.1\r\nrun_id:0123456789012345678901234567890123456789\r\nrole:master\r\n",
        "redis_version:5.0.1\r\nrun_id:a\r\n",
        "redis_version:7\r\nrole:slave\r\nrun_id:a",
        "0123456789012345678901234567890123456789",
        "mymaster",
        "127.0.0.1",
        "6379"};
    static const char *const errors[] = {"NOSCRIPT x", "EPOCH 5",  "EPOCH x", "GAP 1",
                                         "GAP 0",      "GAP",      "OOM ",    "MOVED 1 127.0.0.1:1",
                                         "MOVED",      "ASK 1 :0", "NOAUTH",  "LOADING",
                                         "WRONGTYPE",  "NOPERM",   "ERR x",   ""};
    const char *text = texts[below64(seed, COUNT_OF(texts))];
    switch (below64(seed, depth > 3 ? 5 : 9)) {
    case 0: buffer_print(out, ":%d\r\n", (int)below64(seed, 4) - 1); return;
    case 1: buffer_text(out, "$-1\r\n"); return;
    case 2: buffer_print(out, "-%s\r\n", errors[below64(seed, COUNT_OF(errors))]); return;
    case 3: buffer_print(out, "+%s\r\n", strchr(text, '\r') ? "OK" : text); return;
    case 4: buffer_print(out, "$%zu\r\n%s\r\n", strlen(text), text); return;
    case 5: /* an answer to XREAD */
        buffer_text(out, "*1\r\n*2\r\n$7\r\n{p}:log\r\n");
        buffer_print(out, "*%d\r\n", (int)below64(seed, 3));
        for (int i = 0; i < 2; i++)
            buffer_print(out,
                         "*2\r\n$3\r\n%d-1\r\n*6\r\n$1\r\ne\r\n$1\r\n7\r\n$1\r\nb\r\n$1\r\n%d\r\n"
                         "$1\r\nd\r\n$2\r\nxy\r\n",
                         (int)below64(seed, 9), i);
        return;
    default: {
        int n = (int)below64(seed, 5);
        buffer_print(out, "%c%d\r\n", "***~%>"[below64(seed, 6)], n);
        for (int i = 0; i < n; i++) reply_random(seed, out, depth + 1);
    }
    }
}

/* Appends an answer of the kind that is asked for. */
static void reply_fitting(uint64_t *seed, struct buffer *out, enum engine_call_kind kind)
{
    static const char *const appended[] = {":1\r\n",          ":1\r\n",     ":0\r\n",
                                           "-GAP 0\r\n",      "-GAP 1\r\n", "-EPOCH 9\r\n",
                                           "-NOSCRIPT x\r\n", "-OOM x\r\n"};
    switch (kind) {
    case CALL_APPEND: buffer_text(out, appended[below64(seed, COUNT_OF(appended))]); return;
    case CALL_GONE:
        buffer_text(out, below64(seed, 2) ? "*0\r\n" : "*1\r\n*2\r\n$3\r\n1-1\r\n*0\r\n");
        return;
    case CALL_PIECE: buffer_text(out, below64(seed, 4) ? "$3\r\n1-1\r\n" : "-OOM x\r\n"); return;
    case CALL_RENEW: buffer_text(out, below64(seed, 4) ? "$1\r\n7\r\n" : "-NOSCRIPT x\r\n"); return;
    case CALL_TIME: buffer_text(out, "*2\r\n$10\r\n1764000000\r\n$6\r\n123456\r\n"); return;
    case CALL_META:
        buffer_text(out,
                    below64(seed, 2) ? "*2\r\n$1\r\n7\r\n$1\r\nx\r\n" : "*2\r\n$-1\r\n$-1\r\n");
        return;
    case CALL_THERE:
    case CALL_FIRST:
    case CALL_LAST:
        buffer_text(out, below64(seed, 2) ? "*0\r\n" : "*1\r\n*2\r\n$3\r\n1-1\r\n*0\r\n");
        return;
    case CALL_LOAD_APPEND:
    case CALL_LOAD_RENEW:
        buffer_text(out, "$40\r\n0123456789012345678901234567890123456789\r\n");
        return;
    case CALL_READ:
        if (!below64(seed, 3)) buffer_text(out, "*-1\r\n");
        else if (below64(seed, 2))
            buffer_print(out,
                         "*1\r\n*2\r\n$30\r\n{p}:snapshot:0000000000000005\r\n*1\r\n*2\r\n"
                         "$3\r\n%d-1\r\n*2\r\n$1\r\nd\r\n$2\r\nxy\r\n",
                         (int)below64(seed, 9));
        else
            buffer_print(out,
                         "*1\r\n*2\r\n$7\r\n{p}:log\r\n*1\r\n*2\r\n$3\r\n%d-1\r\n*6\r\n$1\r\ne\r\n"
                         "$1\r\n7\r\n$1\r\nb\r\n$1\r\n0\r\n$1\r\nd\r\n$2\r\nxy\r\n",
                         (int)below64(seed, 9));
        return;
    default: buffer_text(out, "+OK\r\n");
    }
}

/* Whatever the engine answers, and wherever it is cut: the thread goes on or closes its lines, and
 * never reads beyond it. Each command is asked before it. */
static void engine_answers_of_any_kind(void **state)
{
    (void)state;
    static char url[] = "redis://127.0.0.1:1/p";
    uint64_t seed = 11, closed = 0, entries = 0;
    struct engine_side side;
    engine_side_open(&side, url);
    struct engine *engine = &side.engine;
    must(loop_init(&engine->loop));
    engine->hub = &side.hub;
    engine->told = hub_side_takes;
    for (int round = 0; round < 60000; round++) {
        int pair[2];
        struct buffer bytes = {0};
        struct engine_line *line = below64(&seed, 3) ? &engine->ask : &engine->read;
        hub_side.wild = true;
        must(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair));
        engine->step = line == &engine->ask && below64(&seed, 2) ? ENGINE_ASK_LINE : ENGINE_IS_UP;
        engine->sentinel = !below64(&seed, 8);
        engine->following = true;
        engine->request = below64(&seed, 2) ? 5 : 0;
        engine->after = engine->request_after = (struct stream_id){0};
        engine->hops = ENGINE_HOPS; /* a name that has a bit wrong is not looked up */
        line->fd = pair[0];
        line->polled = 0;
        line->state = LINE_OPEN;
        line->redis = seam_redis_new(pair[0], NULL);
        must(line->redis);
        for (int i = 0; i < 8; i++) {
            enum engine_call_kind kind = line == &engine->read
                                             ? CALL_READ
                                             : (enum engine_call_kind)below64(&seed, CALL_READ);
            if (kind == CALL_MASTER) kind = CALL_INFO;             /* that would look a name up */
            if (kind == CALL_SETUP_DONE) kind = CALL_OF_NO_MATTER; /* of the other line */
            if (engine->piece && (kind == CALL_PIECE || kind == CALL_GONE)) kind = CALL_INFO;
            if (below64(&seed, 8)) reply_fitting(&seed, &bytes, kind);
            else reply_random(&seed, &bytes, 0);
            struct engine_ask ask = {.kind = ENGINE_APPEND, .incarnation = 1, .n = 1 + (unsigned)i};
            if (kind == CALL_APPEND || kind == CALL_PIECE || kind == CALL_GONE) {
                struct engine_ask *sent = mem_new(sizeof *sent);
                *sent = ask;
                sent->copy = true;
                if (kind != CALL_APPEND) engine->piece = sent;
                TAILQ_INSERT_TAIL(kind == CALL_APPEND ? &engine->appends : &engine->pieces,
                                  &sent->job, entry);
                engine_say(line, kind, "X", NULL)->ask = kind == CALL_APPEND ? sent : NULL;
                engine->unanswered += kind == CALL_APPEND;
            } else if (kind == CALL_RENEW) {
                engine_say(line, kind, "X", NULL)->ask = mem_new(sizeof ask);
            } else {
                engine_say(line, kind, "X", NULL)->opened = engine->reads;
            }
        }
        if (below64(&seed, 2)) {
            engine->unsent = mem_new(sizeof *engine->unsent);
            *engine->unsent = (struct engine_ask){.incarnation = 1, .n = 9};
            TAILQ_INSERT_TAIL(&engine->appends, &engine->unsent->job, entry);
        }
        if (!below64(&seed, 4) && bytes.len)
            bytes.at[below64(&seed, bytes.len)] ^= (char)(1 << below64(&seed, 8));
        if (!below64(&seed, 4)) bytes.len = below64(&seed, bytes.len + 1);
        must(write(pair[1], bytes.at, bytes.len) == (ssize_t)bytes.len);
        if (!below64(&seed, 4)) close(pair[1]), pair[1] = -1;
        engine_line_read(engine, line);
        if (engine->step == ENGINE_IS_UP && line == &engine->ask) engine_send_appends(engine);
        closed += line->state == LINE_CLOSED;
        loop_run_jobs(&side.hub, NULL);
        engine_close(engine);
        engine_forget(engine);
        if (pair[1] >= 0) close(pair[1]);
        buffer_free(&bytes);
        if (engine->lookup) fail_msg("an address was looked up");
    }
    entries = hub_side.count[ENGINE_ENTRIES];
    print_message("%" PRIu64 " closed, %" PRIu64 " told entries, %zu refused, %zu holes\n", closed,
                  entries, hub_side.count[ENGINE_REFUSED], hub_side.count[ENGINE_HOLE]);
    assert_true(closed > 10000 && closed < 59000); /* both are seen */
    assert_true(entries > 100 && hub_side.count[ENGINE_CAME] + hub_side.count[ENGINE_EPOCH] > 10);
    assert_true(hub_side.count[ENGINE_REFUSED] && hub_side.count[ENGINE_HOLE]);
    engine_side_close(&side);
}

/* What one reply may have; beyond it the connection ends, and memory and stack are not used up. */
static void engine_replies_have_bounds(void **state)
{
    (void)state;
    static const struct {
        const char *again; /* so many times, then the end */
        int times;
        const char *end, *says; /* NULL: it is a reply */
    } rows[] = {
        {"*1\r\n", 8, ":1\r\n", NULL},
        {"*1\r\n", 9, ":1\r\n", "too many parts"},
        {"*1\r\n", 100000, "", "too many parts"},
        {"", 0, "*16384\r\n", ""},
        {"", 0, "*16385\r\n", "out of range"},
        {"*8000\r\n", 3, "", "too many parts"},
        {"", 0, "*9223372036854775807\r\n", "out of range"},
        {"", 0, "%16384\r\n", "too many parts"},
        {"", 0, "$9223372036854775807\r\n", ""},
        {"", 0, "$-2\r\n", "out of range"},
        {"", 0, "?\r\n", "rotocol error"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct seam_redis *redis = seam_redis_new(-1, NULL);
        redisReply *reply = NULL;
        struct buffer bytes = {0};
        for (int n = 0; n < rows[i].times; n++) buffer_text(&bytes, rows[i].again);
        buffer_text(&bytes, rows[i].end);
        must(seam_redis_feed(redis, bytes.at, bytes.len) == SEAM_REDIS_DONE);
        enum seam_redis_result result = seam_redis_next(redis, &reply);
        if (!rows[i].says) assert_int_equal(result, SEAM_REDIS_DONE);
        else if (!*rows[i].says) assert_int_equal(result, SEAM_REDIS_WAIT);
        else {
            assert_int_equal(result, SEAM_REDIS_FAILED);
            if (!strstr(seam_redis_why(redis), rows[i].says)) fail_msg("%s", seam_redis_why(redis));
            assert_int_equal(seam_redis_next(redis, &reply), SEAM_REDIS_FAILED);
        }
        if (result == SEAM_REDIS_DONE) freeReplyObject(reply);
        seam_redis_free(redis);
        buffer_free(&bytes);
    }
    /* 64 MB of a text that does not end. */
    struct seam_redis *redis = seam_redis_new(-1, NULL);
    redisReply *reply;
    char *piece = mem_new(1 << 20);
    enum seam_redis_result result = SEAM_REDIS_WAIT;
    must(seam_redis_feed(redis, "$999999999\r\n", 12) == SEAM_REDIS_DONE);
    int fed = 0;
    for (; fed < 100 && result == SEAM_REDIS_WAIT; fed++) {
        must(seam_redis_feed(redis, piece, 1 << 20) == SEAM_REDIS_DONE);
        result = seam_redis_next(redis, &reply);
    }
    assert_int_equal(result, SEAM_REDIS_FAILED);
    assert_int_equal(fed, 64);
    seam_redis_free(redis);
    free(piece);
}

/* ---- With a real one ------------------------------------------------------------------------- */

/* A redis-server of this test's own. */
static struct {
    pid_t pid;
    int port;
    char url[64];
} redis_side;

/* A connection to it, which waits. */
static int real_connect(void)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)redis_side.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!connect(fd, (struct sockaddr *)&to, sizeof to)) return fd;
    close(fd);
    return -1;
}

/* Says a line to it and returns the first bytes of its answer, in static memory. */
static const char *real_say(const char *line)
{
    static char answer[256];
    int fd = real_connect();
    must(fd >= 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line));
    must(write(fd, "\r\n", 2) == 2);
    ssize_t n = read(fd, answer, sizeof answer - 1);
    answer[n > 0 ? n : 0] = 0;
    close(fd);
    return answer;
}

static int real_start(void **state)
{
    (void)state;
    struct sockaddr_in any = {.sin_family = AF_INET};
    socklen_t len = sizeof any;
    any.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), waited;
    must(!bind(fd, (struct sockaddr *)&any, sizeof any) &&
         !getsockname(fd, (struct sockaddr *)&any, &len));
    redis_side.port = ntohs(any.sin_port);
    close(fd);
    snprintf(redis_side.url, sizeof redis_side.url, "redis://127.0.0.1:%d/p", redis_side.port);
    redis_side.pid = fork();
    if (!redis_side.pid) {
        char port[16];
        snprintf(port, sizeof port, "%d", redis_side.port);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int null = open("/dev/null", O_RDWR);
        dup2(null, 1);
        execlp("redis-server", "redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "",
               "--appendonly", "no", "--dir", "/tmp", NULL);
        _exit(127);
    }
    for (waited = 0; waited < 2000 && (fd = real_connect()) < 0; waited++)
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    if (fd < 0) return -1; /* it is no test's fault: redis-server is not installed */
    close(fd);
    return 0;
}

static int real_stop(void **state)
{
    (void)state;
    kill(redis_side.pid, SIGKILL);
    waitpid(redis_side.pid, NULL, 0);
    return 0;
}

/* Runs the hub until there were so many tells of this kind; fails after 20 s. */
static void hub_side_until(struct engine_side *side, enum engine_tell_kind kind, size_t count)
{
    struct epoll_event events[2];
    int64_t until = clock_mono_ms() + 20000;
    while (hub_side.count[kind] < count) {
        if (clock_mono_ms() > until)
            fail_msg("kind %d: %zu of %zu", kind, hub_side.count[kind], count);
        loop_wait(&side->hub, events, 2, 100);
        loop_run_jobs(&side->hub, NULL);
    }
}

static void engine_side_append(struct engine_side *side, uint32_t epoch, uint64_t n, size_t size)
{
    struct engine_ask ask = {.kind = ENGINE_APPEND,
                             .epoch = epoch,
                             .incarnation = 0xabc,
                             .n = n,
                             .records = 1 + (uint32_t)(n % 7)};
    buffer_print(&ask.text, "%" PRIu64 " %" PRIu32 " ", n, ask.records);
    if (size) memset(buffer_room(&ask.text, size), 'x', size);
    ask.text.len += size;
    engine_side_ask(side, ask);
}

/* A copy whose reader does not come on holds up no answers nor, once it is dropped, the next. */
static void engine_side_copies(struct engine_side *side)
{
    static const struct engine_ask asks[] = {
        {.kind = ENGINE_PIECE, .request = 0x21, .copy = true},
        {.kind = ENGINE_PIECE, .request = 0x23, .copy = true, .gone = 0x21}, /* waits */
        {.kind = ENGINE_PIECE, .request = 0x23, .copy = true},
        {.kind = ENGINE_PIECE, .request = 0x30},
        {.kind = ENGINE_DROP, .request = 0x21, .n = 3},
        {.kind = ENGINE_PIECE, .request = 0x40, .copy = true},
    };
    size_t put = hub_side.count[ENGINE_PUT];
    for (size_t i = 0; i < COUNT_OF(asks); i++) {
        if (asks[i].kind == ENGINE_DROP) hub_side_until(side, ENGINE_PUT, put + 2);
        struct engine_ask ask = asks[i];
        buffer_text(&ask.text, "x");
        engine_side_ask(side, ask);
    }
    hub_side_until(side, ENGINE_PUT, put + 3);
    must(!strcmp(real_say("XLEN {p}:snapshot:0000000000000030"), ":1\r\n"));
    must(!strcmp(real_say("XLEN {p}:snapshot:0000000000000040"), ":1\r\n"));
    must(!strcmp(real_say("EXISTS {p}:snapshot:0000000000000023"), ":0\r\n"));
}

/* Connects, begins an epoch, and follows it. */
static void engine_side_begin(struct engine_side *side, uint32_t epoch)
{
    must(engine_start(&side->engine, &side->hub, hub_side_takes));
    hub_side_until(side, ENGINE_UP, 1);
    engine_side_ask(side, (struct engine_ask){.kind = ENGINE_RENEW,
                                              .epoch = hub_side.last[ENGINE_UP].epoch,
                                              .next = epoch});
    hub_side_until(side, ENGINE_EPOCH, 1);
    assert_int_equal(hub_side.last[ENGINE_EPOCH].epoch, epoch);
    engine_side_ask(side, (struct engine_ask){.kind = ENGINE_FOLLOW});
}

static void engine_carries(void **state)
{
    (void)state;
    struct engine_side side;
    engine_side_open(&side, redis_side.url);
    engine_side_begin(&side, 7);
    assert_true(hub_side.last[ENGINE_UP].same_run);
    int64_t offset = hub_side.last[ENGINE_UP].offset - (clock_wall_ms() - clock_mono_ms());
    assert_in_range(offset + 1000, 0, 2000);
    for (uint64_t n = 1; n <= 500; n++) engine_side_append(&side, 7, n, n * 20);
    while (hub_side.n <= 500)
        hub_side_until(&side, ENGINE_ENTRIES, hub_side.count[ENGINE_ENTRIES] + 1);
    while (hub_side.last[ENGINE_APPENDED].n < 500)
        hub_side_until(&side, ENGINE_APPENDED, hub_side.count[ENGINE_APPENDED] + 1);
    assert_int_equal(hub_side.last[ENGINE_APPENDED].incarnation, 0xabc);
    /* Whoever asks for a new epoch in place of one that is over gets the one that holds. */
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_RENEW, .epoch = 6, .next = 9});
    hub_side_until(&side, ENGINE_EPOCH, 2);
    assert_int_equal(hub_side.last[ENGINE_EPOCH].epoch, 7);
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_FOLLOW, .after = hub_side.read});
    /* An entry for another epoch is refused once, with all behind it. */
    for (uint64_t n = 501; n <= 520; n++) engine_side_append(&side, 8, n, 0);
    hub_side_until(&side, ENGINE_REFUSED, 1);
    assert_int_equal(hub_side.last[ENGINE_REFUSED].epoch, 7);
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_FOLLOW, .after = hub_side.read});
    for (uint64_t n = 501; n <= 520; n++) engine_side_append(&side, 7, n, 0);
    while (hub_side.n <= 520)
        hub_side_until(&side, ENGINE_ENTRIES, hub_side.count[ENGINE_ENTRIES] + 1);
    assert_int_equal(hub_side.count[ENGINE_REFUSED], 1);
    /* The engine forgets what it had acknowledged. */
    must(!strcmp(real_say("HSET {p}:meta 0000000000000abc 519"), ":0\r\n"));
    engine_side_append(&side, 7, 521, 0);
    hub_side_until(&side, ENGINE_HOLE, 1);
    assert_int_equal(hub_side.last[ENGINE_HOLE].n, 519);
    /* A snapshot. */
    for (int i = 0; i < 20; i++) {
        struct engine_ask ask = {.kind = ENGINE_PIECE, .request = 5};
        buffer_print(&ask.text, "%d,", i);
        engine_side_ask(&side, ask);
    }
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_FOLLOW, .after = hub_side.read});
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_PIECES, .request = 5});
    hub_side_until(&side, ENGINE_CAME, 20);
    buffer_add(&hub_side.pieces, "", 1);
    assert_string_equal(hub_side.pieces.at, "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,");
    must(!strcmp(real_say("EXISTS {p}:snapshot:0000000000000005"), ":1\r\n"));
    must(strcmp(real_say("TTL {p}:snapshot:0000000000000005"), ":-1\r\n"));
    /* The next but one waits until it is gone. */
    assert_int_equal(hub_side.count[ENGINE_PUT], 20);
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_PIECE, .request = 9, .gone = 5});
    real_say("HSET {p}:meta 0000000000000abc 520");
    engine_side_append(&side, 7, 521, 0);
    hub_side_until(&side, ENGINE_APPENDED, hub_side.count[ENGINE_APPENDED] + 1);
    must(!strcmp(real_say("EXISTS {p}:snapshot:0000000000000009"), ":0\r\n"));
    assert_int_equal(hub_side.count[ENGINE_PUT], 20);
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_PIECES});
    for (int i = 0; i < 1000 && strcmp(real_say("EXISTS {p}:snapshot:0000000000000005"), ":0\r\n");
         i++)
        loop_run_jobs(&side.hub, NULL);
    must(!strcmp(real_say("EXISTS {p}:snapshot:0000000000000005"), ":0\r\n"));
    hub_side_until(&side, ENGINE_PUT, 21);
    must(!strcmp(real_say("XLEN {p}:snapshot:0000000000000009"), ":1\r\n"));
    engine_side_copies(&side);
    assert_int_equal(hub_side.count[ENGINE_DOWN], 0);
    /* It comes back empty: an append says so, and so does a new epoch in place of one that is not
     * there. */
    real_say("FLUSHALL");
    engine_side_append(&side, 7, 522, 0);
    hub_side_until(&side, ENGINE_REFUSED, 2);
    assert_int_equal(hub_side.last[ENGINE_REFUSED].epoch, 0);
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_RENEW, .epoch = 7, .next = 9});
    hub_side_until(&side, ENGINE_UP, 2);
    assert_int_equal(hub_side.last[ENGINE_UP].epoch, 0);
    assert_int_equal(hub_side.count[ENGINE_DOWN], 0);
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_RENEW, .epoch = 0, .next = 9});
    hub_side_until(&side, ENGINE_EPOCH, 3);
    assert_int_equal(hub_side.last[ENGINE_EPOCH].epoch, 9);
    engine_side_close(&side);
}

/* A hub that is behind: what it asks in the light of an older ENGINE_UP is not done behind a newer
 * one that it has not looked at, though that has arrived. */
static void engine_waits_to_be_heard(void **state)
{
    (void)state;
    struct engine_side side;
    struct epoll_event events[2];
    struct job *job;
    engine_side_open(&side, redis_side.url);
    engine_side_begin(&side, 71);
    engine_side_append(&side, 71, 1, 0);
    while (hub_side.n <= 1 || hub_side.last[ENGINE_APPENDED].n < 1) {
        loop_wait(&side.hub, events, 2, 100);
        loop_run_jobs(&side.hub, NULL);
    }
    hub_side.deaf = true;
    real_say("CLIENT KILL TYPE normal");
    bool up = false;
    for (int64_t end = clock_mono_ms() + 20000; !up;) {
        if (clock_mono_ms() > end) fail_msg("it does not come back");
        loop_wait(&side.hub, events, 2, 100);
        loop_run_jobs(&side.hub, NULL);
        TAILQ_FOREACH (job, &hub_side.waiting, entry)
            up = up || container_of(job, struct engine_tell, job)->kind == ENGINE_UP;
    }
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_FOLLOW, .after = hub_side.read});
    engine_side_append(&side, 71, 2, 0);
    /* Nor does a piece go into what may be another engine by now. A snapshot that is read no more
     * is removed behind all of these: once it is gone, they were looked at. */
    real_say("XADD {p}:snapshot:0000000000000006 * d x");
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_PIECE, .request = 7});
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_PIECES, .request = 6});
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_PIECES});
    for (int64_t end = clock_mono_ms() + 20000;
         strcmp(real_say("EXISTS {p}:snapshot:0000000000000006"), ":0\r\n");)
        if (clock_mono_ms() > end) fail_msg("it is not removed");
    assert_string_equal(real_say("EXISTS {p}:snapshot:0000000000000007"), ":0\r\n");
    assert_string_equal(real_say("XLEN {p}:log"), ":1\r\n");
    hub_side.deaf = false;
    while ((job = TAILQ_FIRST(&hub_side.waiting))) {
        TAILQ_REMOVE(&hub_side.waiting, job, entry);
        hub_side_takes(NULL, job);
    }
    engine_side_ask(&side, (struct engine_ask){.kind = ENGINE_FOLLOW, .after = hub_side.read});
    while (hub_side.n <= 2)
        hub_side_until(&side, ENGINE_ENTRIES, hub_side.count[ENGINE_ENTRIES] + 1);
    engine_side_close(&side);
}

/* Scripts, memory and connections are taken away again and again, under entries of any size: each
 * is in the log once, in order, and told once; and what is known to be there is. */
static void engine_carries_through_faults(void **state)
{
    (void)state;
    struct engine_side side;
    uint64_t first = (uint64_t)clock_wall_ms(), seed = first, n = 0;
    size_t ups = 1, faults = 0;
    struct epoll_event events[2];
    print_message("seed %" PRIu64 "\n", first);
    engine_side_open(&side, redis_side.url);
    engine_side_begin(&side, 70);
    int64_t end = clock_mono_ms() + 5000, until = end + 30000;
    bool over = false;
    while (clock_mono_ms() < end || hub_side.n <= n || hub_side.last[ENGINE_APPENDED].n < n) {
        bool was_over = over;
        over = clock_mono_ms() >= end;
        if (over && !was_over) real_say("CONFIG SET maxmemory 0");
        if (clock_mono_ms() > until)
            fail_msg("seed %" PRIu64 ": %" PRIu64 " read, %" PRIu64 " known, of %" PRIu64, first,
                     hub_side.n - 1, hub_side.last[ENGINE_APPENDED].n, n);
        loop_wait(&side.hub, events, 2, 1);
        loop_run_jobs(&side.hub, NULL);
        if (hub_side.count[ENGINE_UP] > ups) {
            ups = hub_side.count[ENGINE_UP];
            assert_int_equal(hub_side.last[ENGINE_UP].last_read, LAST_READ_THERE);
            assert_int_equal(hub_side.last[ENGINE_UP].epoch, 70);
            engine_side_ask(&side,
                            (struct engine_ask){.kind = ENGINE_FOLLOW, .after = hub_side.read});
        }
        if (!over && n < hub_side.n + 300)
            for (size_t k = below64(&seed, 40); k; k--)
                engine_side_append(&side, 70, ++n,
                                   below64(&seed, 9) ? below64(&seed, 200) : below64(&seed, 12000));
        if (over || below64(&seed, 20)) continue;
        faults++;
        switch (below64(&seed, 4)) {
        case 0: real_say("SCRIPT FLUSH"); break;
        case 1: real_say("CLIENT KILL TYPE normal"); break;
        case 2: real_say("CONFIG SET maxmemory 1mb"); break;
        default: real_say("CONFIG SET maxmemory 0"); break;
        }
        if (below64(&seed, 3)) real_say("CONFIG SET maxmemory 0");
    }
    assert_int_equal(hub_side.count[ENGINE_HOLE] + hub_side.count[ENGINE_REFUSED], 0);
    assert_true(n > 1000 && faults > 20 && ups > 3);
    print_message("%" PRIu64 " entries, %zu faults, %zu times up\n", n, faults, ups);
    engine_side_close(&side);
}

static const struct CMUnitTest ENGINE_TESTS[] = {
    cmocka_unit_test(engine_knows_what_is_left),
    cmocka_unit_test(engine_urls_are_read),
    cmocka_unit_test(engine_urls_of_any_kind),
    cmocka_unit_test(engine_errors_are_known),
    cmocka_unit_test(engine_answers_of_any_kind),
    cmocka_unit_test(engine_replies_have_bounds),
    cmocka_unit_test(engine_carries),
    cmocka_unit_test(engine_waits_to_be_heard),
    cmocka_unit_test(engine_carries_through_faults),
};
