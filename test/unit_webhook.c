/* Unit tests of webhooks: URLs, signatures, waits, heads of answers; of the outbox in the store,
 * which is held against a list; and of the order of last_seen. Included by unit.c behind
 * unit_store.c. */

/* ---- URLs ------------------------------------------------------------------------------------ */

/* What a URL is read as; a NULL origin: refused. */
static const struct {
    const char *text, *origin, *host, *target;
    int port;
    bool secure, is_address;
} WEBHOOK_URLS[] = {
    {"http://app.example.com", "http://app.example.com", "app.example.com", "/", 80, false, false},
    {"https://app.example.com/", "https://app.example.com", "app.example.com", "/", 443, true,
     false},
    {"HTTPS://App.Example.COM:443/A/b?c=D", "https://app.example.com", "app.example.com",
     "/A/b?c=D", 443, true, false},
    {"http://app.example.com:8080?a=1", "http://app.example.com:8080", "app.example.com", "/?a=1",
     8080, false, false},
    {"https://app.example.com:80/%2F", "https://app.example.com:80", "app.example.com", "/%2F", 80,
     true, false},
    {"http://localhost:1/x", "http://localhost:1", "localhost", "/x", 1, false, false},
    {"http://192.0.2.1/x", "http://192.0.2.1", "192.0.2.1", "/x", 80, false, true},
    {"https://[2001:DB8:0::1]:65535/x", "https://[2001:db8::1]:65535", "2001:db8::1", "/x", 65535,
     true, true},
    {"http://a/?x=[1]&y='!$()*+,;:@'", "http://a", "a", "/?x=[1]&y='!$()*+,;:@'", 80, false, false},
    {"http://a./x", "http://a.", "a.", "/x", 80, false, false},
    {"", NULL, NULL, NULL, 0, false, false},
    {"app.example.com", NULL, NULL, NULL, 0, false, false},
    {"ftp://app.example.com/", NULL, NULL, NULL, 0, false, false},
    {"http:/app.example.com/", NULL, NULL, NULL, 0, false, false},
    {"http://", NULL, NULL, NULL, 0, false, false},
    {"http:///x", NULL, NULL, NULL, 0, false, false},
    {"http://:80/x", NULL, NULL, NULL, 0, false, false},
    {"http://a:0/x", NULL, NULL, NULL, 0, false, false},
    {"http://a:65536/x", NULL, NULL, NULL, 0, false, false},
    {"http://a:/x", NULL, NULL, NULL, 0, false, false},
    {"http://user@a/x", NULL, NULL, NULL, 0, false, false},
    {"http://user:pass@a/x", NULL, NULL, NULL, 0, false, false},
    {"http://a/x#y", NULL, NULL, NULL, 0, false, false},
    {"http://a#y", NULL, NULL, NULL, 0, false, false},
    {"http://a/x y", NULL, NULL, NULL, 0, false, false},
    {"http://a/x\r\nHost: b", NULL, NULL, NULL, 0, false, false},
    {"http://a/\xc3\xa9", NULL, NULL, NULL, 0, false, false},
    {"http://a/\x7f", NULL, NULL, NULL, 0, false, false},
    {"http://a/\"", NULL, NULL, NULL, 0, false, false},
    {"http://\xc3\xa9/", NULL, NULL, NULL, 0, false, false},
    {"http://1.2.3/", NULL, NULL, NULL, 0, false, false},
    {"http://[::1/", NULL, NULL, NULL, 0, false, false},
    {"http://a b/", NULL, NULL, NULL, 0, false, false},
    {" http://a/", NULL, NULL, NULL, 0, false, false},
};

static void webhook_urls_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof WEBHOOK_URLS / sizeof *WEBHOOK_URLS; i++) {
        struct webhook_url url;
        char *text = gate_copy(WEBHOOK_URLS[i].text);
        bool good = webhook_url_parse(text, &url);
        if (good != !!WEBHOOK_URLS[i].origin) fail_msg("%s", text);
        if (good) {
            assert_string_equal(url.origin, WEBHOOK_URLS[i].origin);
            assert_string_equal(url.host, WEBHOOK_URLS[i].host);
            assert_string_equal(url.target, WEBHOOK_URLS[i].target);
            assert_string_equal(url.authority, strstr(url.origin, "//") + 2);
            assert_int_equal(url.port, WEBHOOK_URLS[i].port);
            assert_int_equal(url.secure, WEBHOOK_URLS[i].secure);
            assert_int_equal(url.is_address, WEBHOOK_URLS[i].is_address);
        }
        free(text);
    }
}

static void webhook_urls_have_a_longest(void **state)
{
    (void)state;
    struct webhook_url url;
    for (int over = 0; over < 2; over++) {
        char *path = gate_long("http://a/", 'x', WEBHOOK_URL_MAX - 1 + (size_t)over, "");
        char *query = gate_long("http://a?", 'x', WEBHOOK_URL_MAX - 1 + (size_t)over, "");
        char *host = gate_long("http://", 'a', ORIGIN_MAX - 8 + (size_t)over, "/");
        assert_int_equal(webhook_url_parse(path, &url), !over);
        if (!over) assert_int_equal(strlen(url.target), WEBHOOK_URL_MAX);
        assert_int_equal(webhook_url_parse(query, &url), !over);
        if (!over) assert_int_equal(strlen(url.target), WEBHOOK_URL_MAX + 1);
        assert_int_equal(webhook_url_parse(host, &url), !over);
        free(path);
        free(query);
        free(host);
    }
}

/* ---- Signatures, waits ----------------------------------------------------------------------- */

static const char LETTERS_200[] =
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/* Made by node's crypto.createHmac; the second also by openssl dgst. */
static const struct {
    const char *secret;
    int64_t seconds;
    const char *body, *mac;
} WEBHOOK_SIGNATURES[] = {
    {"0123456789abcdef", 0, "",
     "9b9567f7a6e6e3243d8c5c66dde94f7df77b79d6edb3dee210c5778814cfaca0"},
    {"0123456789abcdef", 1700000000, "{\"sent_at\":\"x\",\"events\":[]}",
     "8c7b1c861428aecaa39a7d24be25b00e39800d34335a0f603647ff951e1539cb"},
    {"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk", 1764061471, "\xc3\xa9",
     "d7a6bd64cb6120a601d7f077011ea355b8c41394a1b5564c0c4f56b9035c99da"},
    {"kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk", 9999999999, LETTERS_200,
     "76c47eef00cac753421b8e5019802fc240638934d121a43f1af025dfcece494a"},
};

static void webhook_signs_as_others_do(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof WEBHOOK_SIGNATURES / sizeof *WEBHOOK_SIGNATURES; i++) {
        char got[WEBHOOK_SIGNATURE], want[WEBHOOK_SIGNATURE + 32];
        snprintf(want, sizeof want, "t=%" PRId64 ",v1=%s", WEBHOOK_SIGNATURES[i].seconds,
                 WEBHOOK_SIGNATURES[i].mac);
        webhook_sign(span_of(WEBHOOK_SIGNATURES[i].secret), WEBHOOK_SIGNATURES[i].seconds,
                     span_of(WEBHOOK_SIGNATURES[i].body), got);
        assert_string_equal(got, want);
    }
}

static void webhook_waits_longer_and_longer(void **state)
{
    (void)state;
    static const int64_t seconds[] = {1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300};
    for (unsigned n = 0; n < sizeof seconds / sizeof *seconds; n++) {
        assert_int_equal(webhook_backoff(n, 0), seconds[n] * 1000);
        assert_int_equal(webhook_backoff(n, UINT16_MAX), seconds[n] * 1100);
        int64_t middle = webhook_backoff(n, UINT16_MAX / 2);
        assert_true(middle >= seconds[n] * 1049 && middle <= seconds[n] * 1051);
    }
    assert_int_equal(webhook_backoff(UINT_MAX, UINT16_MAX), 330000);
}

/* ---- Heads of answers ------------------------------------------------------------------------ */

/* What a head is read as: status, Content-Length, bytes behind it; -1 as status: it is none, 0:
 * there must come more. */
static const struct {
    const char *text;
    int status;
    int64_t length;
    size_t behind;
} WEBHOOK_HEADS[] = {
    {"HTTP/1.1 200 OK\r\n\r\n", 200, -1, 0},
    {"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\nrest", 204, -1, 4},
    {"HTTP/1.0 410\r\n\r\n", 410, -1, 0},
    {"HTTP/1.1 200 \r\nContent-Length: 12\r\n\r\n", 200, 12, 0},
    {"HTTP/1.1 200 OK\ncontent-length:\t7 \n\nx", 200, 7, 1},
    {"HTTP/1.1 302 Found\r\nLocation: http://a/\r\nContent-Length: x\r\n\r\n", 302, -1, 0},
    {"HTTP/1.1 500 \xff\r\n\r\n", 500, -1, 0},
    {"HTTP/1.1 999 x\r\n\r\n", 999, -1, 0},
    {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", 100, -1, 19},
    {"", 0, 0, 0},
    {"HTT", 0, 0, 0},
    {"HTTP/1.1 200 OK", 0, 0, 0},
    {"HTTP/1.1 200 OK\r\nA: b\r\n", 0, 0, 0},
    {"HTTP/1.1 200 OK\r\n\r", 0, 0, 0},
    {"HTTP/2 200\r\n\r\n", -1, 0, 0},
    {"HTTP/1.\n\n", -1, 0, 0},
    {"HTTP/1.1 \n\n", -1, 0, 0},
    {"HTTP/1.1 20\r\n\r\n", -1, 0, 0},
    {"HTTP/1.1 2000 OK\r\n\r\n", -1, 0, 0},
    {"HTTP/1.1 099 x\r\n\r\n", -1, 0, 0},
    {"HTTP/1.1  200 OK\r\n\r\n", -1, 0, 0},
    {"HTTP/1.1 2x0 OK\r\n\r\n", -1, 0, 0},
    {"HTTP/1.x 200 OK\r\n\r\n", -1, 0, 0},
    {"http/1.1 200 OK\r\n\r\n", -1, 0, 0},
    {"220 mail ESMTP\r\n", -1, 0, 0},
    {"\x15\x03\x01\x00\x02\x02\x0a", -1, 0, 0},
    {"\r\nHTTP/1.1 200 OK\r\n\r\n", -1, 0, 0},
};

static void webhook_heads_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof WEBHOOK_HEADS / sizeof *WEBHOOK_HEADS; i++) {
        struct response_head head = {0};
        size_t len = strlen(WEBHOOK_HEADS[i].text);
        char *text = malloc(len + 1); /* without a NUL that would hide reading too far */
        memcpy(text, WEBHOOK_HEADS[i].text, len);
        int want = WEBHOOK_HEADS[i].status > 0 ? 1 : WEBHOOK_HEADS[i].status;
        char *exact = realloc(text, len ? len : 1);
        int got = response_head_read(exact, len, &head);
        if (got != want) fail_msg("%d for %s", got, WEBHOOK_HEADS[i].text);
        if (want == 1) {
            assert_int_equal(head.status, WEBHOOK_HEADS[i].status);
            assert_int_equal(head.length, WEBHOOK_HEADS[i].length);
            assert_int_equal(len - head.size, WEBHOOK_HEADS[i].behind);
        }
        free(exact);
    }
}

static void webhook_heads_have_a_longest(void **state)
{
    (void)state;
    static const char before[] = "HTTP/1.1 200 OK\r\nA: ";
    for (size_t over = 0; over < 2; over++) {
        struct response_head head = {0};
        char *text = gate_long(before, 'x', WEBHOOK_HEAD_MAX - sizeof before + 1 - 4 + over,
                               "\r\n\r\n");
        size_t len = strlen(text);
        assert_int_equal(len, WEBHOOK_HEAD_MAX + over);
        assert_int_equal(response_head_read(text, len, &head), over ? -1 : 1);
        assert_int_equal(response_head_read(text, WEBHOOK_HEAD_MAX - 1, &head), 0);
        free(text);
    }
}

/* ---- The outbox, against a list -------------------------------------------------------------- */

enum { OUTBOX_MODEL_MAX = 400000 };

/* What the outbox should hold: the serial numbers of changes, and how they have been in parcels. */
struct outbox_model {
    int first, next; /* serials of the oldest and of the next change */
    int given_up;    /* that the store said it gave up */
    uint8_t *place;  /* of each serial */
    int64_t wall;
};

/* Whether a taken begins at a change, as far as parcels have been taken that say so. */
enum { PLACE_UNKNOWN, PLACE_BEGINS, PLACE_FOLLOWS };

/* Notes whether a taken begins at a change; it does so for ever. */
static void outbox_place(struct outbox_model *m, int serial, uint8_t place)
{
    if (m->place[serial]) assert_int_equal(m->place[serial], place);
    m->place[serial] = place;
}

/* A change that carries its serial number. */
static void outbox_add(struct store_batch *batch, struct outbox_model *m)
{
    char text[64];
    int n = snprintf(text, sizeof text, "{\"position\":\"0000000a-%d\"}", m->next++);
    store_batch_change(batch, m->wall, (struct span){text, (size_t)n});
}

/* Reads the next serial of a taken's text; *at moves behind it. */
static int outbox_serial(const char *text, size_t len, size_t *at)
{
    static const char before[] = "{\"position\":\"0000000a-";
    if (*at >= len) return -1;
    if (*at) assert_int_equal(text[(*at)++], ',');
    assert_memory_equal(text + *at, before, sizeof before - 1);
    *at += sizeof before - 1;
    int n = 0;
    while (text[*at] != '"') n = n * 10 + text[(*at)++] - '0';
    *at += 2;
    return n;
}

/* Takes a taken and holds it against what is known: the oldest changes that are left, in order, in
 * the company in which they were seen before. Returns how many, and what the store calls the last. */
static int outbox_take(struct store *st, struct outbox_model *m, size_t most, uint64_t *last)
{
    struct outbox_batch taken = {0};
    assert_true(store_outbox_close(st));
    int found = store_outbox_next(st, &taken), count = 0;
    assert_int_equal(found, m->first < m->next);
    size_t at = 0;
    for (int serial; (serial = outbox_serial(taken.text.at, taken.text.len, &at)) >= 0; count++) {
        assert_int_equal(serial, m->first + count);
        outbox_place(m, serial, count ? PLACE_FOLLOWS : PLACE_BEGINS);
    }
    if (count) outbox_place(m, m->first + count, PLACE_BEGINS); /* what comes behind it */
    assert_int_equal(taken.count, count);
    assert_true((size_t)count <= most);
    if (count) { /* the same text as that of its first change says */
        char want[32], position[POSITION_TEXT];
        snprintf(want, sizeof want, "0000000a-%d", m->first);
        assert_string_equal(outbox_batch_position(&taken, position), want);
    }
    *last = taken.last;
    buffer_free(&taken.text);
    store_outbox_pin(st, 0);
    return count;
}

/* Opens the model's store. */
static struct store *outbox_open(const struct store_place *p, size_t max, size_t outbox_batch_max)
{
    char err[512];
    struct store_options options = {
        .dir = p->dir, .map_size = 1 << 20, .outbox_max = max, .outbox_batch_max = outbox_batch_max};
    struct store *st = store_open(&options, &test_log, &test_counters, WHY(err));
    if (!st) fail_msg("%s", err);
    return st;
}

/* Rounds of changes, deliveries that go well or not, restarts and overflow. */
static void outbox_rounds(unsigned seed, size_t max, size_t outbox_batch_max)
{
    struct store_place p = place_make();
    struct store *st = outbox_open(&p, max, outbox_batch_max);
    struct outbox_model m = {.wall = 1000000};
    m.place = mem_new(OUTBOX_MODEL_MAX);
    struct store_batch batch = {0};
    uint64_t dead = atomic_load(&test_counters.webhook_dead);
    int unwritten = 0; /* changes delivered of which the store has not been told */
    srand(seed);
    for (int round = 0; round < 400; round++) {
        int what = rand() % 10, changes = what < 6 ? rand() % (round % 100 < 20 ? 60 : 12) : 0;
        uint64_t last;
        for (int i = 0; i < changes; i++) outbox_add(&batch, &m);
        if (rand() % 50 == 0) m.wall += STORE_BATCH_MS;
        if (changes) write_now(st, &batch);
        if (changes) unwritten = 0;
        int trimmed = (int)(atomic_load(&test_counters.webhook_dead) - dead);
        m.first += trimmed - m.given_up;
        m.given_up = trimmed;
        if (changes) assert_true((size_t)(m.next - m.first) <= max);
        if (what == 6) { /* kill -9: what the store was not told is delivered once more */
            store_batch_clear(&batch);
            store_close(st);
            st = outbox_open(&p, max, outbox_batch_max);
            m.first -= unwritten;
            unwritten = 0;
        }
        if (what < 7) continue;
        int count = outbox_take(st, &m, outbox_batch_max, &last);
        if (!count || what == 7) continue; /* it could not be delivered */
        m.first += count;
        atomic_store(&st->outbox_done, last);
        struct store_stats stats;
        store_stats(st, &stats); /* what is done with does not count, removed or not */
        assert_int_equal(stats.outbox, m.next - m.first);
        store_batch_delivered(&batch, last);
        unwritten += count;
        if (what == 8) write_now(st, &batch); /* otherwise with the changes to come */
        if (what == 8) unwritten = 0;
        store_stats(st, &stats);
        assert_int_equal(stats.outbox, m.next - m.first);
    }
    write_now(st, &batch);
    store_close(st);
    FILE *null = fopen("/dev/null", "w");
    assert_int_equal(store_command_check(p.dir, null, stderr), 0);
    fclose(null);
    buffer_free(&batch.ops);
    free(m.place);
    place_remove(&p);
}

static void outbox_keeps_order_and_company(void **state)
{
    (void)state;
    outbox_rounds(1, 1000000, 100);
    outbox_rounds(2, 1000000, 7);
    outbox_rounds(3, 1000000, 1);
}

static void outbox_gives_up_the_oldest(void **state)
{
    (void)state;
    outbox_rounds(4, 100, 10);
    outbox_rounds(5, 40, 4);
    outbox_rounds(6, 10, 1);
}

static void outbox_spares_what_is_being_delivered(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = outbox_open(&p, 20, 2);
    struct outbox_model m = {.wall = 1000000};
    struct store_batch batch = {0};
    struct store_stats stats;
    struct outbox_batch taken = {0};
    uint64_t dead = atomic_load(&test_counters.webhook_dead);
    for (int i = 0; i < 20; i++) outbox_add(&batch, &m);
    write_now(st, &batch);
    assert_true(store_outbox_close(st));
    for (int i = 0; i < 10; i++) outbox_add(&batch, &m);
    write_now(st, &batch); /* nothing is given up before it is known what is taken */
    assert_int_equal(store_outbox_next(st, &taken), 1);
    assert_int_equal(taken.count, 2);
    store_outbox_pin(st, taken.last);
    for (int i = 0; i < 10; i++) outbox_add(&batch, &m);
    write_now(st, &batch);
    store_stats(st, &stats);
    assert_int_equal(stats.outbox, 20);
    assert_int_equal(atomic_load(&test_counters.webhook_dead) - dead, 20);
    uint64_t last = taken.last;
    buffer_free(&taken.text);
    taken = (struct outbox_batch){0};
    assert_int_equal(store_outbox_next(st, &taken), 1); /* the same is the oldest still */
    assert_memory_equal(taken.text.at, "{\"position\":\"0000000a-0\"}", 24);
    buffer_free(&taken.text);
    atomic_store(&st->outbox_done, last); /* delivered: not given up before it is removed either */
    store_outbox_pin(st, 0);
    for (int i = 0; i < 2; i++) outbox_add(&batch, &m);
    write_now(st, &batch);
    assert_int_equal(atomic_load(&test_counters.webhook_dead) - dead, 22);
    store_stats(st, &stats);
    assert_int_equal(stats.outbox, 18);
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

static void outbox_seals_after_a_transaction(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = outbox_open(&p, 1000, 100);
    struct outbox_model m = {.wall = 1000000};
    struct store_batch batch = {0};
    struct outbox_batch taken = {0};
    outbox_add(&batch, &m);
    store_write_begins(st); /* as the writer does */
    assert_false(store_outbox_close(st));
    assert_false(store_outbox_close(st));
    struct store_commit commit = {.batch = &batch};
    assert_int_equal(store_transact(st, store_apply, &commit), 0);
    store_write_ended(st, 0);
    store_batch_clear(&batch);
    outbox_add(&batch, &m);
    write_now(st, &batch); /* not to be put to what was sealed */
    assert_true(store_outbox_close(st));
    assert_int_equal(store_outbox_next(st, &taken), 1);
    assert_int_equal(taken.count, 1);
    buffer_free(&taken.text);
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

/* What is taken is the same when it is taken again, however a transaction lies to the seal: what
 * came behind that may still get company. */
static void outbox_takes_only_what_is_sealed(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = outbox_open(&p, 1000, 100);
    struct outbox_model m = {.wall = 1000000};
    struct store_batch batch = {0};
    struct store_commit commit = {0};
    for (int during = 0; during < 2; during++) {
        struct outbox_batch first = {0}, again = {0};
        if (during) store_write_begins(st); /* as the writer does */
        assert_int_equal(store_outbox_close(st), !during);
        if (during) assert_int_equal(store_transact(st, store_apply, &commit), 0);
        if (during) store_write_ended(st, 0);
        outbox_add(&batch, &m);
        write_now(st, &batch);
        if (during) store_write_begins(st);
        if (during) assert_true(store_outbox_close(st));
        int found = store_outbox_next(st, &first);
        assert_int_equal(found, during); /* or it would wait for the next change */
        outbox_add(&batch, &m);
        commit.batch = &batch;
        if (during) assert_int_equal(store_transact(st, store_apply, &commit), 0);
        if (during) store_write_ended(st, 0);
        else write_now(st, &batch);
        store_batch_clear(&batch);
        assert_true(store_outbox_close(st));
        assert_int_equal(store_outbox_next(st, &again), 1);
        if (found) assert_int_equal(again.count, first.count);
        atomic_store(&st->outbox_done, again.last);
        store_outbox_pin(st, 0);
        buffer_free(&first.text);
        buffer_free(&again.text);
        commit.batch = NULL;
    }
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

/* ---- How long delivery was tried in vain ------------------------------------------------------ */

static void outbox_clock_counts_waits_and_nothing_else(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct outbox_clock clock = {.sum = rand() % 1000};
        int64_t now = rand(), until = now, want = clock.sum;
        srand(seed);
        for (int step = 0; step < 100; step++) {
            int64_t passes = rand() % 20, wait = rand() % 30;
            if (rand() % 10 == 0) passes += 172800000; /* it slept, or was stopped, for two days */
            for (int64_t ms = 0; ms < passes && now + ms < until; ms++) want++;
            now += passes;
            assert_int_equal(outbox_clock_read(&clock, now), want);
            if (rand() % 2) continue;
            until = rand() % 3 ? now + wait : now; /* a try, or the end of it */
            outbox_clock_run(&clock, now, until);
            assert_int_equal(outbox_clock_read(&clock, now), want);
        }
    }
}

/* Takes the taken of one change and has it removed; what the clock showed when it was written. */
static int64_t outbox_take_tried(struct store *st, struct store_batch *batch)
{
    struct outbox_batch taken = {0};
    assert_true(store_outbox_close(st));
    assert_int_equal(store_outbox_next(st, &taken), 1);
    assert_int_equal(taken.count, 1);
    int64_t tried = taken.tried;
    buffer_free(&taken.text);
    atomic_store(&st->outbox_done, taken.last);
    store_outbox_pin(st, 0);
    store_batch_delivered(batch, taken.last);
    write_now(st, batch);
    return tried;
}

static void outbox_sums_waits_over_restarts(void **state)
{
    (void)state;
    struct store_place p = place_make();
    struct store *st = outbox_open(&p, 1000, 1);
    struct store_batch batch = {0};
    struct outbox_model m = {.wall = 1000000};
    int64_t want[60], now = 1, sum = 0;
    srand(11);
    for (int i = 0; i < 60; i++) {
        int64_t wait = rand() % 3 ? rand() % 20 : 0; /* long over by the machine's own clock */
        store_outbox_try(st, now, now + wait);
        sum += wait;
        now += wait;
        m.wall += rand() % 2 ? 172800000 : -172800000; /* UTC is stepped */
        want[i] = sum;
        outbox_add(&batch, &m);
        write_now(st, &batch);
        if (rand() % 4) continue;
        store_close(st);
        st = outbox_open(&p, 1000, 1);
        now = 1; /* the machine too began anew */
        assert_int_equal(store_outbox_try(st, now, now), sum);
    }
    for (int i = 0; i < 60; i++) assert_int_equal(outbox_take_tried(st, &batch), want[i]);
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

/* ---- The order of last_seen ------------------------------------------------------------------ */

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
    struct store_place p = place_make();
    struct store *st = open_good(p.dir);
    struct store_batch batch = {0};
    struct { bool known, open; int64_t seen; } users[SEEN_USERS] = {{0}};
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
            if (rand() % 3 == 0) store_batch_session(&batch, id, &session);
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

static void seen_that_disagrees_is_found(void **state)
{
    (void)state;
    static const char *const says[] = {"is not in `seen`", "`seen` names users who are online",
                                       "a change in the outbox is damaged"};
    for (int i = 0; i < 3; i++) {
        struct store_place p = place_make();
        struct store *st = open_good(p.dir);
        char said[1024] = "";
        uint8_t bytes[STORE_KEY_MAX];
        struct user_record r;
        MDB_txn *txn;
        fill(st, 0, 30);
        assert_int_equal(store_get_user(st, span_of("u000001"), &r), 1);
        MDB_val key = {store_seen_key(span_of("u000001"), r.last_seen, bytes), bytes};
        MDB_val none = {0, NULL}, change = {11, "\1\1........{"}, number = {8, "\0\0\0\0\0\0\0\1"};
        assert_int_equal(mdb_txn_begin(st->env, NULL, 0, &txn), 0);
        if (i == 0) assert_int_equal(mdb_del(txn, st->seen, &key, NULL), 0);
        bytes[7] ^= 1;
        if (i == 1) assert_int_equal(mdb_put(txn, st->seen, &key, &none, 0), 0);
        if (i == 2) assert_int_equal(mdb_put(txn, st->outbox, &number, &change, 0), 0);
        assert_int_equal(mdb_txn_commit(txn), 0);
        store_close(st);
        FILE *null = fopen("/dev/null", "w"), *err = fmemopen(said, sizeof said - 1, "w");
        assert_int_equal(store_command_check(p.dir, null, err), 1);
        fclose(err);
        fclose(null);
        assert_non_null(strstr(said, says[i]));
        place_remove(&p);
    }
}

static const struct CMUnitTest WEBHOOK_TESTS[] = {
    cmocka_unit_test(webhook_urls_are_read),
    cmocka_unit_test(webhook_urls_have_a_longest),
    cmocka_unit_test(webhook_signs_as_others_do),
    cmocka_unit_test(webhook_waits_longer_and_longer),
    cmocka_unit_test(webhook_heads_are_read),
    cmocka_unit_test(webhook_heads_have_a_longest),
    cmocka_unit_test(outbox_keeps_order_and_company),
    cmocka_unit_test(outbox_gives_up_the_oldest),
    cmocka_unit_test(outbox_spares_what_is_being_delivered),
    cmocka_unit_test(outbox_seals_after_a_transaction),
    cmocka_unit_test(outbox_takes_only_what_is_sealed),
    cmocka_unit_test(outbox_clock_counts_waits_and_nothing_else),
    cmocka_unit_test(outbox_sums_waits_over_restarts),
    cmocka_unit_test(seen_follows_the_users),
    cmocka_unit_test(seen_that_disagrees_is_found),
};
