/* Unit tests of what guards the gate: origins, hosts, ranges, X-Forwarded-For, cookies, and the
 * table of addresses, which is held against a naive list. Included by unit.c behind unit_core.c and
 * unit_pure.c. */

/* ---- Helpers --------------------------------------------------------------------------------- */

/* The text in memory of exactly its size, or NULL; the caller frees it. */
static char *gate_copy(const char *text)
{
    if (!text) return NULL;
    char *copy = malloc(strlen(text) + 1);
    assert_non_null(copy);
    return strcpy(copy, text);
}

/* Packs an address that must be one. */
static const uint8_t *gate_address(const char *text, uint8_t out[16])
{
    if (!address_pack_text((struct span){text, strlen(text)}, out)) fail_msg("%s", text);
    return out;
}

/* A text of n times c between two others; the caller frees it. */
static char *gate_long(const char *before, char c, size_t n, const char *behind)
{
    char *text = malloc(strlen(before) + n + strlen(behind) + 1), *at = stpcpy(text, before);
    memset(at, c, n);
    strcpy(at + n, behind);
    return text;
}

/* ---- Origins and hosts ----------------------------------------------------------------------- */

/* What an origin is read as; NULL: refused. */
static const struct {
    const char *text, *origin;
} GATE_ORIGINS[] = {
    {"https://app.example.com", "https://app.example.com"},
    {"HTTPS://App.Example.COM", "https://app.example.com"},
    {"https://app.example.com:443", "https://app.example.com"},
    {"https://app.example.com:00443", "https://app.example.com"},
    {"https://app.example.com:80", "https://app.example.com:80"},
    {"http://app.example.com:80", "http://app.example.com"},
    {"http://app.example.com:443", "http://app.example.com:443"},
    {"http://localhost:5173", "http://localhost:5173"},
    {"http://a:0", "http://a:0"},
    {"http://a:080", "http://a"},
    {"http://a:65535", "http://a:65535"},
    {"http://a_b-c.d~e", "http://a_b-c.d~e"},
    {"https://app.example.com.", "https://app.example.com."},
    {"https://xn--exmple-cua.com", "https://xn--exmple-cua.com"},
    {"http://127.0.0.1:8080", "http://127.0.0.1:8080"},
    {"http://1.2.3.4.example", "http://1.2.3.4.example"},
    {"http://0xg", "http://0xg"},
    {"http://4a", "http://4a"},
    {"https://[::1]:8443", "https://[::1]:8443"},
    {"https://[::1]:443", "https://[::1]"},
    {"https://[2001:DB8:0:0::00A0]", "https://[2001:db8::a0]"},
    {"https://[1:0:2:3:4:5:6:7]", "https://[1:0:2:3:4:5:6:7]"},
    {"https://[1:0:0:2:0:0:0:3]", "https://[1:0:0:2::3]"},
    {"https://[1:0:0:2:3:0:0:4]", "https://[1::2:3:0:0:4]"},
    {"https://[0:0:2:3:4:0:0:5]", "https://[::2:3:4:0:0:5]"},
    {"https://[1:2:3:4:5:6:0:0]", "https://[1:2:3:4:5:6::]"},
    {"https://[0:1:2:3:4:5:6:7]", "https://[0:1:2:3:4:5:6:7]"},
    {"https://[1:2:3:4:5:6:7:0]", "https://[1:2:3:4:5:6:7:0]"},
    {"https://[0:0:0:0:0:0:0:0]", "https://[::]"},
    {"https://[::ffff:1.2.3.4]", "https://[::ffff:102:304]"},
    {"https://[::1.2.3.4]", "https://[::102:304]"},
    {"https://[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255]",
     "https://[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]"},
    {"", NULL},
    {"null", NULL},
    {"*", NULL},
    {"app.example.com", NULL},
    {"//app.example.com", NULL},
    {"https:app.example.com", NULL},
    {"https:/app.example.com", NULL},
    {"https://", NULL},
    {"https://:443", NULL},
    {"https:///", NULL},
    {"ws://app.example.com", NULL},
    {"wss://app.example.com", NULL},
    {"file://", NULL},
    {"http//a", NULL},
    {"capacitor://localhost", "capacitor://localhost"},
    {"ionic://localhost:8100", "ionic://localhost:8100"},
    {"TAURI://localhost", "tauri://localhost"},
    {"chrome-extension://abcdefghijklmnopabcdefghijklmnop",
     "chrome-extension://abcdefghijklmnopabcdefghijklmnop"},
    {"moz-extension://2f9a1c1e-8d4b-4a6e-9a3e-0b1c2d3e4f50",
     "moz-extension://2f9a1c1e-8d4b-4a6e-9a3e-0b1c2d3e4f50"},
    {"app://NAME", "app://NAME"}, /* compared whole: what it means is its maker's */
    {"com.example.app+x-1://a_b~c.d", "com.example.app+x-1://a_b~c.d"},
    {"WS://a", NULL},
    {"app://", NULL},
    {"app://a/", NULL},
    {"app://a/b", NULL},
    {"app://a?b", NULL},
    {"app://a#b", NULL},
    {"app://a@b", NULL},
    {"app://a:", NULL},
    {"app://a:x", NULL},
    {"app://a:1:2", NULL},
    {"app://a b", NULL},
    {"app://a,app://b", NULL},
    {"app://a%62", NULL},
    {"app://*", NULL},
    {"app://\xc3\xa4", NULL},
    {"1app://a", NULL},
    {"+app://a", NULL},
    {"a_b://a", NULL},
    {"app:/a", NULL},
    {"app:a", NULL},
    {"blob:https://a", NULL},
    {"://a", NULL},
    {"https://app.example.com/", NULL},
    {"https://app.example.com/path", NULL},
    {"https://app.example.com?x", NULL},
    {"https://app.example.com#x", NULL},
    {"https://app.example.com\\", NULL},
    {"https://user@app.example.com", NULL},
    {"https://app.example.com:443@evil.test", NULL},
    {"https://app.example.com ", NULL},
    {" https://app.example.com", NULL},
    {"https://app.example.com\t", NULL},
    {"https://app.example.com https://evil.test", NULL},
    {"https://app.example.com, https://evil.test", NULL},
    {"https://app.example.com,https://evil.test", NULL},
    {"https://app.example.com,evil.test", NULL},
    {"https://*.example.com", NULL},
    {"https://app%2eexample.com", NULL},
    {"https://app.ex\xc3\xa4mple.com", NULL},
    {"https://app.example.com:", NULL},
    {"https://app.example.com:65536", NULL},
    {"https://app.example.com:000443", NULL},
    {"https://app.example.com:0x50", NULL},
    {"https://app.example.com:-1", NULL},
    {"https://app.example.com:+1", NULL},
    {"https://app.example.com:443:443", NULL},
    {"https://a:4 3", NULL},
    {"http://127.1", NULL},
    {"http://1.2.3.4.5", NULL},
    {"http://256.1.1.1", NULL},
    {"http://01.2.3.4", NULL},
    {"http://127.0.0.1.", NULL},
    {"http://0x7f.0.0.1", NULL},
    {"http://127.0.0.0x1", NULL},
    {"http://a.0x", NULL},
    {"http://a.0XaF.", NULL},
    {"http://2130706433", NULL},
    {"http://.", NULL},
    {"https://[::1", NULL},
    {"https://::1", NULL},
    {"https://[::1]x", NULL},
    {"https://[::1]:", NULL},
    {"https://[]", NULL},
    {"https://[1.2.3.4]", NULL},
    {"https://[fe80::1%eth0]", NULL},
    {"https://[fe80::1%25eth0]", NULL},
    {"https://[1:2:3:4:5:6:7]", NULL},
    {"https://[::1]]", NULL},
    {"https://[[::1]", NULL},
    {"https://[::1 ]", NULL},
};

/* Every row of GATE_ORIGINS; what is accepted is accepted again and stays as it is. */
static void origins_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(GATE_ORIGINS); i++) {
        char out[ORIGIN_MAX], again[ORIGIN_MAX], *text = gate_copy(GATE_ORIGINS[i].text);
        bool good = origin_parse(text, out);
        if (good != !!GATE_ORIGINS[i].origin) fail_msg("\"%s\": %s", text, good ? out : "refused");
        if (good) {
            assert_string_equal(out, GATE_ORIGINS[i].origin);
            assert_true(origin_parse(out, again));
            assert_string_equal(again, out);
        }
        free(text);
    }
}

/* No other byte than those of a name may stand in one. */
static void origins_have_an_alphabet(void **state)
{
    (void)state;
    static const char name[] = "-._~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    for (int c = 1; c < 256; c++) {
        char text[] = "http://a?b", out[ORIGIN_MAX], *copy;
        text[8] = (char)c;
        copy = gate_copy(text);
        if (origin_parse(copy, out) != !!strchr(name, c)) fail_msg("%02x", c);
        free(copy);
    }
}

/* 300 bytes are the most, counted as they are written. */
static void origins_have_a_limit(void **state)
{
    (void)state;
    static const struct {
        const char *before, *behind;
        size_t fits;
    } rows[] = {
        {"http://", "", 293},       {"https://", "", 292},      {"http://", ":80", 293},
        {"https://", ":00443", 292}, {"https://", ":80", 289},  {"http://", ":65535", 287},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        for (size_t n = rows[i].fits - 1; n < rows[i].fits + 20; n++) {
            char out[ORIGIN_MAX], *text = gate_long(rows[i].before, 'a', n, rows[i].behind);
            const char *host = text + strlen(rows[i].before);
            bool good = origin_parse(text, out);
            assert_int_equal(good, n <= rows[i].fits);
            if (good) assert_int_equal(strlen(out), 300 - rows[i].fits + n);
            assert_int_equal(origin_of_host(rows[i].before[4] == 's', host, out), good);
            free(text);
        }
    }
}

/* Every scheme and name of random bytes: what is read is the text itself, but for the scheme's case,
 * and 300 bytes at most. */
static void origins_of_other_schemes_stay_whole(void **state)
{
    (void)state;
    static const char some[] = "abzAZ09+-._~:/@ %,?#[]\\*\"\x01\x7f\xc3";
    srand(6);
    int good = 0;
    for (int round = 0; round < 50000; round++) {
        char text[400] = "ap", out[ORIGIN_MAX];
        size_t n = strlen(text);
        for (int i = rand() % 4; i; i--)
            text[n++] = some[rand() % (rand() % 4 ? 8 : (int)sizeof some - 1)];
        memcpy(text + n, "://", 4);
        n += 3;
        size_t front = n;
        int len = rand() % 50 ? rand() % 8 : 280 + rand() % 30;
        while (len--) text[n++] = some[rand() % (rand() % 20 ? 6 : (int)sizeof some - 1)];
        text[n] = 0;
        char *copy = gate_copy(text);
        if (origin_parse(copy, out)) {
            good++;
            assert_true(n < ORIGIN_MAX && n > front);
            assert_string_equal(out + front, text + front);
            assert_true(!strncasecmp(out, text, front));
            for (size_t i = 0; i < front; i++) assert_true(out[i] < 'A' || out[i] > 'Z');
            assert_null(strpbrk(text + front, "/@ %,?#[]\\*\"\x01\x7f\xc3"));
        }
        free(copy);
    }
    assert_true(good > 300);
}

static void forwarded_schemes_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *value;
        int secure; /* -1: it says nothing */
    } rows[] = {
        {"https", 1}, {"http", 0}, {"wss", 1}, {"ws", 0}, {"HTTPS", 1}, {"Wss", 1}, {"WS", 0},
        {" https ", 1}, {"https, http", 1}, {"http,https", 0}, {"wss,http", 1}, {"ws , https", 0},
        {", https", 1}, {"", -1}, {",", -1}, {"ftp", -1}, {"httpsx", -1}, {"http s", -1},
        {"ftp, https", -1}, {"https;q=1", -1}, {"\"https\"", -1},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        char *value = gate_copy(rows[i].value);
        for (int otherwise = 0; otherwise < 2; otherwise++) {
            int want = rows[i].secure < 0 ? otherwise : rows[i].secure;
            if (forwarded_secure(value, otherwise) != want) fail_msg("%s", value);
        }
        free(value);
    }
}

/* Of each kind and address one a minute, of all REFUSALS_MAX: against a list. */
static void refusals_are_told_once_a_minute(void **state)
{
    (void)state;
    enum { ADDRESSES = 40, KINDS = 3 };
    static struct refusal_log log;
    const uint64_t seed[2] = {1, 2};
    static int64_t told[ADDRESSES][KINDS];
    int64_t now = 1, since = 0;
    int count = 0, missed = 0, tells = 0;
    srand(8);
    memset(told, 0, sizeof told);
    for (int step = 0; step < 20000; step++) {
        now += rand() % 300;
        int from = rand() % ADDRESSES, what = rand() % KINDS;
        uint8_t address[16] = {[0] = 0x20, [5] = (uint8_t)from, [15] = (uint8_t)rand()};
        bool last = false;
        bool tell = refusal_tells(&log, seed, (unsigned)what, address, now, &last);
        if (!count || now - since >= REFUSAL_MS) since = now, count = 0;
        bool due = !told[from][what] || now - told[from][what] >= REFUSAL_MS;
        if (tell && !due) missed++; /* another took its slot: a line too many */
        if (!tell) assert_true(!due || count >= REFUSALS_MAX);
        if (tell) {
            assert_true(count < REFUSALS_MAX);
            told[from][what] = now;
            count++;
            tells++;
        }
        assert_int_equal(last, tell && count == REFUSALS_MAX);
    }
    assert_true(tells > 1000 && missed < tells / 4);
}

/* ---- Who may try a password ------------------------------------------------------------------ */

/* A client of the model: an address that tries passwords in its own way. */
struct login_client {
    struct address_entry entry;
    enum { LOGIN_HAMMERS, LOGIN_WAITS, LOGIN_FORGETS, LOGIN_KNOWS } way;
    int64_t next, told; /* when it comes; when it was told to, or 0 */
    int64_t since;      /* of its first try */
};

/* When a client that was told to come after `wait` ms comes. */
static int64_t login_returns(const struct login_client *c, int64_t now, int64_t wait)
{
    if (c->way == LOGIN_HAMMERS) return now + 20 + rand() % 500;
    int64_t after = (wait + 999) / 1000 * 1000 + rand() % 400; /* Retry-After, and the way here */
    if (c->way == LOGIN_FORGETS && rand() % 3) after += rand() % 90000;
    return now + after;
}

/* Guessers of every kind from many addresses, and one who knows the password: whoever comes when
 * told gets in, and one who never guessed wrong does not wait for those who have. */
static void login_rounds(unsigned seed)
{
    enum { CLIENTS = 90 };
    static struct login_client clients[CLIENTS];
    static struct login_queue queue;
    struct login_client *waiting[CLIENTS], *at_it = NULL;
    int64_t now = 1000, done = 0, hash;
    int in_time = 0, known = 0;
    srand(seed);
    hash = 20 + rand() % 480;
    memset(clients, 0, sizeof clients);
    queue = (struct login_queue){.took = hash};
    for (int i = 0; i < CLIENTS; i++) {
        struct login_client *c = &clients[i];
        memcpy(c->entry.key, &i, sizeof i);
        c->way = i % 15 == 0 ? LOGIN_KNOWS : (int)(rand() % 3);
        c->next = now + rand() % 60000;
    }
    while (now < 300000) {
        struct login_client *c = &clients[0];
        for (int i = 1; i < CLIENTS; i++)
            if (clients[i].next < c->next) c = &clients[i];
        if (queue.busy && done <= c->next) { /* a hash is done; the next in turn is let in */
            now = done;
            queue.busy = false;
            if (at_it->way == LOGIN_KNOWS) address_clear_failures(&at_it->entry);
            else address_count_failure(&at_it->entry, now);
            if (at_it->way == LOGIN_KNOWS) known++;
            at_it->next = now + (at_it->way == LOGIN_KNOWS ? 40000 + rand() % 9000 : rand() % 900);
            at_it->told = 0;
            if (queue.waiting) {
                at_it = waiting[0];
                memmove(waiting, waiting + 1, (size_t)--queue.waiting * sizeof *waiting);
                queue.busy = true;
                done = now + hash;
            }
            continue;
        }
        now = c->next;
        int64_t blocked = address_blocked(&c->entry, now), wait = -1;
        bool guessed = address_has_failed(&c->entry, now);
        enum login_turn turn = login_ask(&queue, c->entry.key, guessed, blocked, now, &wait);
        bool told = c->told && now >= c->told && now < c->told + LOGIN_ON_TIME_MS;
        if (told && turn == LOGIN_LATER) fail_msg("seed %u: told %d ms ago", seed, (int)(now - c->told));
        in_time += told;
        if (blocked) assert_int_equal(turn, LOGIN_LATER);
        if (turn == LOGIN_LATER) {
            assert_true(wait >= 1 && wait >= blocked);
            if (!guessed) assert_true(wait <= CLIENTS * 1000);
            if (!c->told || now >= c->told || blocked) c->told = now + wait;
            else assert_int_equal(now + wait, c->told); /* a promise is kept */
            c->next = login_returns(c, now, wait);
        } else {
            c->next = INT64_MAX;
            if (turn == LOGIN_NOW) {
                assert_false(queue.busy);
                at_it = c;
                queue.busy = true;
                done = now + hash;
            } else waiting[queue.waiting++] = c;
            assert_true(queue.waiting <= 7); /* as many as can be in time at once */
        }
    }
    assert_true(in_time > 20 && known > 10);
}

static void logins_have_their_turn(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 20; seed++) login_rounds(seed);
}

/* However many guessers wait who are known, one who is not waits for none of them. */
static void logins_of_the_unsuspected_come_first(void **state)
{
    (void)state;
    struct login_queue *queue = mem_new(sizeof *queue);
    uint8_t key[16] = {1};
    int64_t wait, longest = 0;
    queue->busy = true;
    for (int i = 0; i < 300; i++) {
        memcpy(key + 4, &i, sizeof i);
        assert_int_equal(login_ask(queue, key, true, 0, 1000, &wait), LOGIN_LATER);
        if (wait > longest) longest = wait;
    }
    assert_true(longest >= LOGIN_PLACES * LOGIN_STEPS_LATER * LOGIN_STEP_MS);
    for (int i = 0; i < 5; i++) {
        key[1] = (uint8_t)(9 + i);
        assert_int_equal(login_ask(queue, key, false, 0, 1000, &wait), LOGIN_LATER);
        assert_int_equal(wait, 1000 + i * LOGIN_STEP_MS);
        assert_int_equal(login_ask(queue, key, false, 0, 1500, &wait), LOGIN_LATER); /* too early */
        assert_int_equal(wait, 500 + i * LOGIN_STEP_MS);
    }
    assert_int_equal(login_ask(queue, key, false, 0, 6000, &wait), LOGIN_NEXT);
    free(queue);
}

/* W12: against the allowed origins only the same scheme, host and port; nothing that begins or ends
 * with one. */
static void origins_are_exact(void **state)
{
    (void)state;
    static const char *const configured[] = {"https://App.example.com:443", "http://localhost:5173",
                                             "https://[2001:db8::1]:8443"};
    static const struct {
        const char *text;
        bool allowed;
    } rows[] = {
        {"https://app.example.com", true},
        {"https://APP.example.com", true},
        {"http://localhost:5173", true},
        {"https://[2001:db8::1]:8443", true},
        {"https://[2001:DB8:0::1]:8443", true},
        {"https://app.example.com.evil.test", false},
        {"https://evilapp.example.com", false},
        {"https://evil.app.example.com", false},
        {"https://example.com", false},
        {"https://app.example.co", false},
        {"https://app.example.com.", false},
        {"http://app.example.com", false},
        {"http://app.example.com:443", false},
        {"https://app.example.com:8443", false},
        {"https://app.example.com:4430", false},
        {"https://app.example.com:44", false},
        {"https://app.example.com:80", false},
        {"http://localhost", false},
        {"http://localhost:51730", false},
        {"https://localhost:5173", false},
        {"https://[2001:db8::1]", false},
        {"https://[2001:db8::2]:8443", false},
        {"null", false},
        {"", false},
        {"https://app.example.com, https://app.example.com", false},
        {"https://app.example.com https://app.example.com", false},
        {"https://app.example.com/", false},
        {"https://app.example.com@evil.test", false},
        {"https://evil.test@app.example.com", false},
        {"https://evil.test/app.example.com", false},
    };
    char allowed[PURE_COUNT(configured)][ORIGIN_MAX];
    for (size_t k = 0; k < PURE_COUNT(configured); k++)
        assert_true(origin_parse(configured[k], allowed[k]));
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        char origin[ORIGIN_MAX];
        bool found = false, good = origin_parse(rows[i].text, origin);
        for (size_t k = 0; good && k < PURE_COUNT(allowed); k++)
            found = found || !strcmp(origin, allowed[k]);
        if (found != rows[i].allowed) fail_msg("%s", rows[i].text);
    }
}

/* The own origin is what a browser would send from a page of that host. */
static void origins_of_hosts(void **state)
{
    (void)state;
    static const struct {
        bool secure;
        const char *host, *origin;
    } rows[] = {
        {true, "presence.example.com", "https://presence.example.com"},
        {false, "presence.example.com", "http://presence.example.com"},
        {true, "Presence.Example.com:443", "https://presence.example.com"},
        {true, "presence.example.com:80", "https://presence.example.com:80"},
        {false, "presence.example.com:80", "http://presence.example.com"},
        {false, "presence.example.com:443", "http://presence.example.com:443"},
        {false, "localhost:9000", "http://localhost:9000"},
        {false, "localhost:0", "http://localhost:0"},
        {false, "localhost:65535", "http://localhost:65535"},
        {false, "127.0.0.1:9000", "http://127.0.0.1:9000"},
        {true, "[::1]:9000", "https://[::1]:9000"},
        {true, "[0:0:0:0:0:0:0:1]:443", "https://[::1]"},
        {true, "[::FFFF:127.0.0.1]", "https://[::ffff:7f00:1]"},
        {false, "a!$&'()*+,;=b", "http://a!$&'()*+,;=b"},
        {false, "app.1", "http://app.1"},
        {false, NULL, NULL},
        {false, "", NULL},
        {false, ":80", NULL},
        {false, "localhost:", NULL},
        {false, "localhost:65536", NULL},
        {false, "localhost:000080", NULL},
        {false, "localhost:8o", NULL},
        {false, "localhost:80:80", NULL},
        {false, "localhost/", NULL},
        {false, "localhost/x:80", NULL},
        {false, "user@localhost", NULL},
        {false, "http://localhost", NULL},
        {false, "local host", NULL},
        {false, " localhost", NULL},
        {false, "localhost ", NULL},
        {false, "a%20b", NULL},
        {false, "a%41", NULL},
        {false, "a\"b", NULL},
        {false, "a<b", NULL},
        {false, "a\r\nb", NULL},
        {false, "\xc3\xa4", NULL},
        {false, "::1", NULL},
        {false, "[::1", NULL},
        {false, "[::1]a", NULL},
        {false, "[::1]80", NULL},
        {false, "[127.0.0.1]", NULL},
        {false, "[v1.a]", NULL},
        {false, "[fe80::1%1]", NULL},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        char out[ORIGIN_MAX], *host = gate_copy(rows[i].host);
        bool good = origin_of_host(rows[i].secure, host, out);
        if (good != !!rows[i].origin) fail_msg("%s: %s", rows[i].host, good ? out : "refused");
        if (good) assert_string_equal(out, rows[i].origin);
        free(host);
    }
}

/* IPv6 text is what inet_ntop makes, but for its dotted forms, and reads back as the same. */
static void ipv6_texts_agree(void **state)
{
    (void)state;
    uint32_t seed = 7;
    for (int round = 0; round < 50000; round++) {
        uint8_t address[16], back[16];
        char text[INET6_ADDRSTRLEN], known[INET6_ADDRSTRLEN];
        for (int i = 0; i < 16; i += 2) {
            uint32_t n = pure_below(&seed, 3) ? pure_random(&seed) >> pure_below(&seed, 16) : 0;
            if (pure_below(&seed, 2)) n = 0;
            address[i] = (uint8_t)(n >> 8);
            address[i + 1] = (uint8_t)n;
        }
        assert_ptr_equal(ipv6_text(address, text), text);
        assert_int_equal(inet_pton(AF_INET6, text, back), 1);
        assert_memory_equal(back, address, sizeof back);
        assert_non_null(inet_ntop(AF_INET6, address, known, sizeof known));
        if (!strchr(known, '.')) assert_string_equal(text, known);
    }
}

static void hosts_that_are_local(void **state)
{
    (void)state;
    static const struct {
        const char *host;
        bool local;
    } rows[] = {
        {"localhost", true},          {"localhost:9000", true},
        {"LOCALHOST", true},          {"LocalHost:80", true},
        {"app.localhost", true},      {"a.b.localhost:8080", true},
        {"APP.LOCALHOST:1", true},    {"127.0.0.1", true},
        {"127.0.0.1:80", true},       {"192.0.2.7:65535", true},
        {"0.0.0.0", true},            {"[::1]", true},
        {"[::1]:8080", true},         {"[2001:db8::1]:1", true},
        {"[::ffff:10.0.0.1]", true},  {NULL, false},
        {"", false},                  {":9000", false},
        {"evil.test", false},         {"localhost.evil.test", false},
        {"evillocalhost", false},     {"localhost.com", false},
        {"localhost.", true},         {"localhost.:80", true},
        {"app.localhost.", true},     {".localhost", false},
        {"localhost..", false},       {".localhost.", false},
        {"localhos", false},          {"xlocalhost", false},
        {"localhost:", false},        {"localhost:65536", false},
        {"localhost:80.evil.test", false}, {"localhost:80:80", false},
        {"localhost/", false},        {"localhost@evil.test", false},
        {"evil.test@localhost", false}, {" localhost", false},
        {"localhost ", false},        {"localhost,evil.test", false},
        {"127.0.0.1.evil.test", false}, {"127.0.0.1.nip.test", false},
        {"127.0.0.1.", false},        {"127.1", false},
        {"2130706433", false},        {"0x7f.0.0.1", false},
        {"0177.0.0.1", false},        {"127.0.0.256", false},
        {"127.0.0.1:x", false},       {"::1", false},
        {"[::1", false},              {"[::1].evil.test", false},
        {"[::1]:80.evil.test", false}, {"[127.0.0.1]", false},
        {"[localhost]", false},       {"presence", false},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        char *host = gate_copy(rows[i].host);
        if (host_is_local(host) != rows[i].local) fail_msg("%s", host ? host : "NULL");
        free(host);
    }
}

/* ---- Ranges ---------------------------------------------------------------------------------- */

static void ranges_are_read(void **state)
{
    (void)state;
    static const struct {
        const char *text, *address;
        int bits;
    } rows[] = {
        {"10.0.0.0/8", "10.0.0.0", 104},
        {"192.0.2.1", "192.0.2.1", 128},
        {"192.0.2.1/32", "192.0.2.1", 128},
        {"192.0.2.0/31", "192.0.2.0", 127},
        {"192.0.2.128/25", "192.0.2.128", 121},
        {"0.0.0.0/0", "0.0.0.0", 96},
        {"128.0.0.0/1", "128.0.0.0", 97},
        {"::1", "::1", 128},
        {"::1/128", "::1", 128},
        {"fd00::/8", "fd00::", 8},
        {"FD00::/008", "fd00::", 8},
        {"fc00::/7", "fc00::", 7},
        {"::/0", "::", 0},
        {"2001:db8:1:2::/64", "2001:db8:1:2::", 64},
        {"::ffff:10.0.0.0/104", "10.0.0.0", 104},
        {"::ffff:0:0/96", "0.0.0.0", 96},
        {"", NULL, 0},
        {"/8", NULL, 0},
        {"10.0.0.0/", NULL, 0},
        {"10.0.0.0/33", NULL, 0},
        {"10.0.0.0/128", NULL, 0},
        {"10.0.0.0/-1", NULL, 0},
        {"10.0.0.0/+8", NULL, 0},
        {"10.0.0.0/ 8", NULL, 0},
        {"10.0.0.0/8 ", NULL, 0},
        {" 10.0.0.0/8", NULL, 0},
        {"10.0.0.0 /8", NULL, 0},
        {"10.0.0.0/8/8", NULL, 0},
        {"10.0.0.0/0008", NULL, 0},
        {"10.0.0.0/255.0.0.0", NULL, 0},
        {"10.0.0.0:80", NULL, 0},
        {"10.0.0/8", NULL, 0},
        {"10/8", NULL, 0},
        {"10.0.0.256", NULL, 0},
        {"010.0.0.0/8", NULL, 0},
        {"10.0.0.1/8", NULL, 0},
        {"10.128.0.0/8", NULL, 0},
        {"192.0.2.1/31", NULL, 0},
        {"0.0.0.1/0", NULL, 0},
        {"::1/129", NULL, 0},
        {"::1/127", NULL, 0},
        {"::1/0", NULL, 0},
        {"8000::/0", NULL, 0},
        {"fd00::1/8", NULL, 0},
        {"fd80::/8", NULL, 0},
        {"2001:db8:0:1::/63", NULL, 0},
        {"::ffff:10.0.0.0/8", NULL, 0},
        {"[::1]", NULL, 0},
        {"[fd00::]/8", NULL, 0},
        {"fe80::1%lo", NULL, 0},
        {"proxy.test", NULL, 0},
        {"*", NULL, 0},
        {"1111:2222:3333:4444:5555:6666:1777:8888:9999:aaaa", NULL, 0},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        char *text = gate_copy(rows[i].text);
        uint8_t address[16];
        struct range range;
        if (range_parse(text, &range) != !!rows[i].address) fail_msg("\"%s\"", text);
        if (rows[i].address) {
            assert_int_equal(range.bits, rows[i].bits);
            assert_memory_equal(range.address, gate_address(rows[i].address, address), 16);
        }
        free(text);
    }
}

static void ranges_have_borders(void **state)
{
    (void)state;
    static const struct {
        const char *range, *address;
        bool has;
    } rows[] = {
        {"10.0.0.0/8", "10.0.0.0", true},
        {"10.0.0.0/8", "10.255.255.255", true},
        {"10.0.0.0/8", "9.255.255.255", false},
        {"10.0.0.0/8", "11.0.0.0", false},
        {"10.0.0.0/8", "::ffff:10.1.2.3", true},
        {"10.0.0.0/8", "::10.1.2.3", false},
        {"10.0.0.0/8", "::1", false},
        {"10.0.0.0/8", "a00::", false},
        {"192.0.2.1", "192.0.2.1", true},
        {"192.0.2.1", "192.0.2.0", false},
        {"192.0.2.1", "192.0.2.2", false},
        {"192.0.2.0/31", "192.0.2.1", true},
        {"192.0.2.0/31", "192.0.2.2", false},
        {"192.0.2.0/31", "192.0.1.255", false},
        {"172.16.0.0/12", "172.16.0.0", true},
        {"172.16.0.0/12", "172.31.255.255", true},
        {"172.16.0.0/12", "172.15.255.255", false},
        {"172.16.0.0/12", "172.32.0.0", false},
        {"128.0.0.0/1", "128.0.0.0", true},
        {"128.0.0.0/1", "127.255.255.255", false},
        {"0.0.0.0/0", "0.0.0.0", true},
        {"0.0.0.0/0", "255.255.255.255", true},
        {"0.0.0.0/0", "::1", false},
        {"0.0.0.0/0", "::", false},
        {"::1", "::1", true},
        {"::1", "::2", false},
        {"::1", "::", false},
        {"::1", "127.0.0.1", false},
        {"fd00::/8", "fd00::", true},
        {"fd00::/8", "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", true},
        {"fd00::/8", "fcff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", false},
        {"fd00::/8", "fe00::", false},
        {"2001:db8::/33", "2001:db8:7fff::", true},
        {"2001:db8::/33", "2001:db8:8000::", false},
        {"2001:db8:0:2::/63", "2001:db8:0:3:ffff::", true},
        {"2001:db8:0:2::/63", "2001:db8:0:4::", false},
        {"2001:db8:0:2::/63", "2001:db8:0:1:ffff::", false},
        {"::/0", "::", true},
        {"::/0", "ffff::", true},
        {"::/0", "1.2.3.4", false},
        {"::/80", "1.2.3.4", false},
        {"::/80", "::1.2.3.4", true},
        {"::fffe:0:0/95", "1.2.3.4", false},
        {"::fffe:0:0/95", "::fffe:1:1", true},
        {"::ffff:0:0/96", "1.2.3.4", true},
        {"::ffff:0:0/96", "::1.2.3.4", false},
        {"::ffff:10.0.0.0/104", "10.9.9.9", true},
        {"::ffff:10.0.0.0/104", "11.9.9.9", false},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        struct range range;
        uint8_t address[16];
        assert_true(range_parse(rows[i].range, &range));
        if (range_has(&range, gate_address(rows[i].address, address)) != rows[i].has)
            fail_msg("%s in %s", rows[i].address, rows[i].range);
    }
}

/* For every length of prefix: the last bit that counts does, the first that does not does not. */
static void ranges_of_every_length(void **state)
{
    (void)state;
    uint32_t seed = 11;
    for (int bits = 0; bits <= 128; bits++) {
        for (int round = 0; round < 20; round++) {
            struct range range = {.bits = bits};
            uint8_t address[16];
            for (int i = 0; i < 16; i++) address[i] = (uint8_t)pure_random(&seed);
            address[0] |= 1; /* not v4-mapped */
            for (int i = 0; i < bits; i++)
                range.address[i / 8] |= (uint8_t)(address[i / 8] & (0x80 >> i % 8));
            assert_true(range_has(&range, address));
            for (int i = 0; i < 128; i++) {
                uint8_t flipped[16];
                memcpy(flipped, address, sizeof flipped);
                flipped[i / 8] ^= (uint8_t)(0x80 >> i % 8);
                assert_int_equal(range_has(&range, flipped), i >= bits);
            }
        }
    }
}

/* ---- X-Forwarded-For ------------------------------------------------------------------------- */

/* The ranges that the rows below trust. */
static const char *const GATE_TRUSTED[] = {"127.0.0.1", "10.0.0.0/8", "fd00::/8"};

/* Reads GATE_TRUSTED. */
static void gate_trusted(struct range out[PURE_COUNT(GATE_TRUSTED)])
{
    for (size_t i = 0; i < PURE_COUNT(GATE_TRUSTED); i++)
        assert_true(range_parse(GATE_TRUSTED[i], &out[i]));
}

/* H04: forged entries, several lines, what is no address, all trusted. */
static void forwarded_by_trusted_hops(void **state)
{
    (void)state;
    static const struct {
        const char *lines[4];
        const char *peer, *client;
        bool trusted;
    } rows[] = {
        {{"203.0.113.9"}, "127.0.0.1", "203.0.113.9", true},
        {{"203.0.113.9"}, "127.0.0.2", "127.0.0.2", false},
        {{"203.0.113.9, 127.0.0.1"}, "127.0.0.2", "127.0.0.2", false},
        {{"127.0.0.1"}, "198.51.100.1", "198.51.100.1", false},
        {{"203.0.113.9"}, "::1", "::1", false},
        {{NULL}, "127.0.0.1", "127.0.0.1", true},
        {{NULL}, "192.0.2.1", "192.0.2.1", false},
        {{"203.0.113.9, 10.1.2.3"}, "127.0.0.1", "203.0.113.9", true},
        {{"1.1.1.1, 203.0.113.9, 10.1.2.3, 10.255.0.1"}, "127.0.0.1", "203.0.113.9", true},
        {{"1.1.1.1, 2.2.2.2, 203.0.113.9"}, "127.0.0.1", "203.0.113.9", true},
        {{"127.0.0.1, 203.0.113.9"}, "127.0.0.1", "203.0.113.9", true},
        {{"10.0.0.1, 10.0.0.2, 203.0.113.9"}, "127.0.0.1", "203.0.113.9", true},
        {{"forged, 203.0.113.9"}, "127.0.0.1", "203.0.113.9", true},
        {{"<script>, , 203.0.113.9, 10.0.0.1"}, "127.0.0.1", "203.0.113.9", true},
        {{"1.1.1.1", "203.0.113.9"}, "127.0.0.1", "203.0.113.9", true},
        {{"1.1.1.1", "203.0.113.9, 10.9.9.9", "10.1.1.1"}, "127.0.0.1", "203.0.113.9", true},
        {{"203.0.113.9", "10.1.1.1"}, "127.0.0.1", "203.0.113.9", true},
        {{"1.1.1.1, 203.0.113.9", "10.1.1.1, 10.2.2.2", "10.3.3.3", "10.4.4.4, fd00::7"},
         "127.0.0.1", "203.0.113.9", true},
        {{"\t 203.0.113.9 \t,\t 10.1.1.1  "}, "127.0.0.1", "203.0.113.9", true},
        {{"203.0.113.9,10.1.1.1"}, "127.0.0.1", "203.0.113.9", true},
        {{"11.0.0.1, 10.0.0.1"}, "127.0.0.1", "11.0.0.1", true},
        {{"2001:db8::7"}, "127.0.0.1", "2001:db8::7", true},
        {{"1.1.1.1, 2001:DB8:0::7, fd12::1"}, "fd00::1", "2001:db8::7", true},
        {{"203.0.113.9, ::ffff:10.0.0.1"}, "127.0.0.1", "203.0.113.9", true},
        {{"203.0.113.9, ::ffff:11.0.0.1"}, "127.0.0.1", "11.0.0.1", true},
        {{"10.1.1.1, 10.2.2.2"}, "127.0.0.1", "10.1.1.1", true},
        {{"10.1.1.1", "10.2.2.2"}, "127.0.0.1", "10.1.1.1", true},
        {{"127.0.0.1"}, "10.0.0.1", "127.0.0.1", true},
        {{"203.0.113.9, nonsense"}, "127.0.0.1", "127.0.0.1", true},
        {{"203.0.113.9, nonsense, 10.1.1.1"}, "127.0.0.1", "10.1.1.1", true},
        {{"203.0.113.9, nonsense", "10.2.2.2, 10.1.1.1"}, "127.0.0.1", "10.2.2.2", true},
        {{"203.0.113.9", "nonsense", "10.1.1.1"}, "127.0.0.1", "10.1.1.1", true},
        {{"203.0.113.9, nonsense, 198.51.100.1"}, "127.0.0.1", "198.51.100.1", true},
        {{"1.1.1.1, , "}, "127.0.0.1", "127.0.0.1", true},
        {{"203.0.113.9,"}, "127.0.0.1", "127.0.0.1", true},
        {{"203.0.113.9, , 10.1.1.1"}, "127.0.0.1", "10.1.1.1", true},
        {{"203.0.113.9", ""}, "127.0.0.1", "127.0.0.1", true},
        {{"203.0.113.9", " ", "10.1.1.1"}, "127.0.0.1", "10.1.1.1", true},
        {{""}, "127.0.0.1", "127.0.0.1", true},
        {{","}, "127.0.0.1", "127.0.0.1", true},
        {{"unknown"}, "127.0.0.1", "127.0.0.1", true},
        {{"203.0.113.9, unix:"}, "127.0.0.1", "127.0.0.1", true},
    };
    struct range ranges[PURE_COUNT(GATE_TRUSTED)];
    gate_trusted(ranges);
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        char *lines[4] = {0};
        uint8_t peer[16], client[16], expected[16];
        int count = 0;
        for (; count < 4 && rows[i].lines[count]; count++)
            lines[count] = gate_copy(rows[i].lines[count]);
        gate_address(rows[i].peer, peer);
        gate_address(rows[i].client, expected);
        bool trusted = forwarded_client((const char *const *)lines, count, ranges,
                                        PURE_COUNT(ranges), peer, client);
        if (trusted != rows[i].trusted || memcmp(client, expected, sizeof client)) {
            char text[INET6_ADDRSTRLEN];
            fail_msg("row %zu, \"%s\" from %s: %s, %d", i, rows[i].lines[0], rows[i].peer,
                     address_unpack_text(client, text, sizeof text), trusted);
        }
        assert_false(forwarded_client((const char *const *)lines, count, NULL, 0, peer, client));
        assert_memory_equal(client, peer, sizeof client);
        for (int k = 0; k < count; k++) free(lines[k]);
    }
}

/* What one element may look like. */
static void forwarded_elements(void **state)
{
    (void)state;
    static const struct {
        const char *text, *address;
    } rows[] = {
        {"203.0.113.9", "203.0.113.9"},
        {"203.0.113.9:5678", "203.0.113.9"},
        {"203.0.113.9:0", "203.0.113.9"},
        {"203.0.113.9:65535", "203.0.113.9"},
        {"2001:db8::1", "2001:db8::1"},
        {"[2001:db8::1]", "2001:db8::1"},
        {"[2001:db8::1]:5678", "2001:db8::1"},
        {"::1", "::1"},
        {"::", "::"},
        {"[::ffff:1.2.3.4]:5", "1.2.3.4"},
        {"::ffff:1.2.3.4", "1.2.3.4"},
        {"203.0.113.9:", NULL},
        {"203.0.113.9:65536", NULL},
        {"203.0.113.9:123456", NULL},
        {"203.0.113.9:x", NULL},
        {"203.0.113.9:-1", NULL},
        {"203.0.113.9: 80", NULL},
        {"203.0.113.9 :80", NULL},
        {"203.0.113.9 x", NULL},
        {"203.0.113.9;", NULL},
        {"\"203.0.113.9\"", NULL},
        {"\"[2001:db8::1]:80\"", NULL},
        {"[203.0.113.9]", NULL},
        {"[203.0.113.9]:80", NULL},
        {"[2001:db8::1", NULL},
        {"2001:db8::1]", NULL},
        {"[2001:db8::1]:", NULL},
        {"[2001:db8::1]:65536", NULL},
        {"[2001:db8::1]80", NULL},
        {"[2001:db8::1]x:80", NULL},
        {"[]", NULL},
        {"[]:80", NULL},
        {"[", NULL},
        {":", NULL},
        {":80", NULL},
        {"[[::1]]", NULL},
        {"fe80::1%eth0", NULL},
        {"203.0.113", NULL},
        {"203.0.113.256", NULL},
        {"203.0.113.09", NULL},
        {"0xcb.0.113.9", NULL},
        {"for=203.0.113.9", NULL},
        {"_hidden", NULL},
        {"203.0.113.9/32", NULL},
        {"1111:2222:3333:4444:5555:6666:1777:8888:9999:aaaa:bbbb", NULL},
    };
    struct range ranges[PURE_COUNT(GATE_TRUSTED)];
    uint8_t peer[16], client[16], expected[16];
    gate_trusted(ranges);
    gate_address("10.0.0.1", peer);
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        char line[100];
        gate_address(rows[i].address ? rows[i].address : "10.3.3.3", expected);
        snprintf(line, sizeof line, "198.51.100.1,%s,10.3.3.3:80", rows[i].text);
        char *copy = gate_copy(line);
        const char *lines[] = {copy};
        assert_true(forwarded_client(lines, 1, ranges, PURE_COUNT(ranges), peer, client));
        if (memcmp(client, expected, sizeof client)) fail_msg("\"%s\"", rows[i].text);
        free(copy);
        copy = gate_copy(rows[i].text);
        struct span all = {copy, strlen(copy)};
        assert_int_equal(forwarded_address(all, client), !!rows[i].address);
        free(copy);
    }
}

/* The last of 32 trusted hops is taken for the client, in one line or in many. */
static void forwarded_hops_have_a_limit(void **state)
{
    (void)state;
    enum { HOPS = 40 };
    struct range ranges[PURE_COUNT(GATE_TRUSTED)];
    uint8_t peer[16], client[16], expected[16];
    gate_trusted(ranges);
    gate_address("127.0.0.1", peer);
    for (int hops = 0; hops <= HOPS; hops++) {
        char line[HOPS * 20] = "198.51.100.1", texts[HOPS + 1][20] = {"198.51.100.1"}, last[20];
        const char *one[] = {line}, *many[HOPS + 1] = {texts[0]};
        for (int i = 1; i <= hops; i++) { /* the rightmost is 10.0.0.1 */
            snprintf(texts[i], sizeof texts[i], "10.0.0.%d", hops + 1 - i);
            strcat(strcat(line, ", "), texts[i]);
            many[i] = texts[i];
        }
        snprintf(last, sizeof last, hops < 32 ? "198.51.100.1" : "10.0.0.32");
        gate_address(last, expected);
        assert_true(forwarded_client(one, 1, ranges, PURE_COUNT(ranges), peer, client));
        assert_memory_equal(client, expected, sizeof client);
        assert_true(forwarded_client(many, hops + 1, ranges, PURE_COUNT(ranges), peer, client));
        assert_memory_equal(client, expected, sizeof client);
    }
}

static void addresses_are_grouped(void **state)
{
    (void)state;
    static const struct {
        const char *address, *group;
    } rows[] = {
        {"192.0.2.1", "192.0.2.1"},
        {"::ffff:192.0.2.1", "192.0.2.1"},
        {"0.0.0.0", "0.0.0.0"},
        {"255.255.255.255", "255.255.255.255"},
        {"2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"},
        {"2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::"},
        {"2001:db8:1:3::", "2001:db8:1:3::"},
        {"::1", "::"},
        {"::192.0.2.1", "::"},
        {"::fffe:192.0.2.1", "::"},
        {"64:ff9b::192.0.2.1", "64:ff9b::"},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        uint8_t address[16], group[16], expected[16];
        address_group(gate_address(rows[i].address, address), group);
        assert_memory_equal(group, gate_address(rows[i].group, expected), 16);
        address_group(address, address);
        assert_memory_equal(address, expected, 16);
    }
}

/* ---- Cookies --------------------------------------------------------------------------------- */

static void cookies(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        int result;
        const char *value;
    } rows[] = {
        {"token=abc", 3, "abc"},
        {"a=b; token=abc", 3, "abc"},
        {"a=b; token=abc; c=d", 3, "abc"},
        {"a=b;token=abc;c=d", 3, "abc"},
        {"a=b;  \ttoken=abc \t; c=d", 3, "abc"},
        {";;; token=abc", 3, "abc"},
        {"token=abc;", 3, "abc"},
        {"token=", 0, ""},
        {"token=; a=b", 0, ""},
        {"token=\"\"", 0, ""},
        {"token=\"abc\"", 3, "abc"},
        {"token=a=b==", 5, "a=b=="},
        {"token==", 1, "="},
        {"token=first; token=second", 5, "first"},
        {"token=; token=second", 0, ""},
        {"x=token=no; token=yes", 3, "yes"},
        {"a; token=abc", 3, "abc"},
        {"token; token=abc", 3, "abc"},
        {"token=!#$%&'()*+-./", 15, "!#$%&'()*+-./"},
        {"token=:<=>?@[]^_`{|}~", 15, ":<=>?@[]^_`{|}~"},
        {"token=1234567890123456", 16, "1234567890123456"},
        {"token=\"1234567890123456\"", 16, "1234567890123456"},
        {"token=12345678901234567", -2, NULL},
        {"token=\"12345678901234567\"", -2, NULL},
        {"token=a b", -2, NULL},
        {"token=a,b", -2, NULL},
        {"token=a\\b", -2, NULL},
        {"token=a\"b", -2, NULL},
        {"token=\"ab", -2, NULL},
        {"token=ab\"", -2, NULL},
        {"token=\"", -2, NULL},
        {"token=\"a\"b\"", -2, NULL},
        {"token=\"a b\"", -2, NULL},
        {"token=a\x7f", -2, NULL},
        {"token=a\x01", -2, NULL},
        {"token=\xc3\xa4", -2, NULL},
        {"token=a b; token=good", -2, NULL},
        {NULL, -1, NULL},
        {"", -1, NULL},
        {";", -1, NULL},
        {"token", -1, NULL},
        {"Token=abc", -1, NULL},
        {"TOKEN=abc", -1, NULL},
        {"xtoken=abc", -1, NULL},
        {"tokens=abc", -1, NULL},
        {"token =abc", -1, NULL},
        {"toke=abc", -1, NULL},
        {"a=token=abc", -1, NULL},
        {"a=\"; token\"", -1, NULL},
        {"a=b, token=abc", -1, NULL},
        {"=token", -1, NULL},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        char *header = gate_copy(rows[i].header), *out = malloc(17);
        int expected = rows[i].value ? (int)strlen(rows[i].value) : rows[i].result;
        int result = cookie_get(header, "token", out, 17);
        if (result != expected) fail_msg("%s: %d", header ? header : "NULL", result);
        if (rows[i].value) assert_string_equal(out, rows[i].value);
        free(header);
        free(out);
    }
}

/* ---- Table of addresses ---------------------------------------------------------------------- */

/* A table whose hash is the same in every run. */
static void gate_table(struct address_table *table)
{
    address_table_init(table);
    table->seed[0] = UINT64_C(0x0706050403020100);
    table->seed[1] = UINT64_C(0x0f0e0d0c0b0a0908);
}

/* The n-th of many keys, half of them IPv4. */
static const uint8_t *gate_key(uint32_t n, uint8_t out[16])
{
    static const uint8_t v6[16] = {0x20, 0x01, 0x0d, 0xb8};
    memcpy(out, v6, 16);
    if (n & 1) memcpy(out, ADDRESS_V4_MAPPED, 12);
    uint32_t at = htonl(n);
    memcpy(out + (n & 1 ? 12 : 4), &at, 4);
    return out;
}

/* Every entry stands in its slot and in the list of its rest, as often as the counts say. */
static void gate_check_table(const struct address_table *table)
{
    size_t entries = 0, expiring[EXPIRY_COUNT + 1] = {0};
    assert_true(table->used >= ADDRESS_SLOTS_MIN && table->used >= table->size / 2);
    assert_true(table->used <= table->size && !(table->size & (table->size - 1)));
    assert_true(table->count <= table->used);
    assert_true(table->used == ADDRESS_SLOTS_MIN || table->used <= 2 * table->count);
    for (size_t i = 0; i < table->used; i++) {
        for (struct address_entry *entry = table->slots[i]; entry; entry = entry->next, entries++) {
            assert_ptr_equal(address_slot(table, entry->key), &table->slots[i]);
            assert_ptr_equal(address_find(table, entry->key), entry);
            expiring[entry->expiry]++;
        }
    }
    assert_int_equal(entries, table->count);
    for (int rest = 0; rest < EXPIRY_COUNT; rest++) {
        const struct address_list *list = &table->expiring[rest];
        struct address_entry *entry, *const *place = &list->entries.tqh_first;
        size_t n = 0;
        TAILQ_FOREACH(entry, &list->entries, list)
        {
            assert_ptr_equal(entry->list.tqe_prev, place);
            assert_int_equal(entry->expiry, rest);
            place = &entry->list.tqe_next;
            n++;
        }
        assert_ptr_equal(list->entries.tqh_last, place);
        assert_int_equal(n, table->expiring[rest].count);
        assert_int_equal(n, expiring[rest]);
    }
}

/* What OpenSSL gives for SIPHASH with one and three rounds; the bytes in memory order. */
static void address_hash_is_siphash_1_3(void **state)
{
    (void)state;
    static const struct {
        uint8_t seed[16], key[16], hash[8];
    } rows[] = {
        {{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
         {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
         {0x66, 0x8b, 0x90, 0x7d, 0x1a, 0xdd, 0x4f, 0xcc}},
        {{0}, {0}, {0xa0, 0xb2, 0x25, 0x3e, 0x9e, 0x99, 0xbe, 0x76}},
        {{0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32,
          0x10},
         {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1},
         {0xdf, 0xe6, 0x1f, 0x00, 0x1a, 0xfa, 0x7c, 0x9d}},
    };
    const uint16_t one = 1;
    if (!*(const uint8_t *)&one) skip(); /* big-endian: other words */
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        uint64_t seed[2], hash;
        memcpy(seed, rows[i].seed, sizeof seed);
        hash = address_hash(seed, rows[i].key);
        assert_memory_equal(&hash, rows[i].hash, sizeof hash);
    }
    struct address_table a, b;
    address_table_init(&a);
    address_table_init(&b);
    assert_memory_not_equal(a.seed, b.seed, sizeof a.seed);
    address_table_free(&a);
    address_table_free(&b);
}

enum { GATE_MODEL_KEYS = 60 };

/* One address of the model. */
struct gate_model {
    bool there;
    uint32_t connections, http_conns, failures;
    int64_t until_us, failed_at, blocked_until;
    int expiry;             /* enum address_expiry */
    uint64_t rest_since;  /* higher is later */
};

/* Whether the model's address has failures that count. */
static bool model_failed(const struct gate_model *m, int64_t now)
{
    return m->failures && now < m->failed_at + 600000;
}

/* Whether the model's address has anything to remember. */
static bool model_rests(const struct gate_model *m, int64_t now)
{
    return model_failed(m, now) || m->until_us > now * 1000;
}

/* What address_settle does. */
static void model_settle(struct gate_model *m, int64_t now, uint64_t step)
{
    m->expiry = EXPIRY_NONE;
    if (m->connections || m->http_conns) return;
    if (!model_rests(m, now)) {
        *m = (struct gate_model){.expiry = EXPIRY_NONE};
        return;
    }
    m->expiry = model_failed(m, now) ? EXPIRY_FAILURE : EXPIRY_PACE;
    m->rest_since = step;
}

/* What address_sweep does: each list from the one that has rested longest to one that waits. */
static void model_sweep(struct gate_model *model, int64_t now)
{
    for (int rest = 0; rest < EXPIRY_COUNT; rest++) {
        for (;;) {
            struct gate_model *oldest = NULL;
            for (int i = 0; i < GATE_MODEL_KEYS; i++)
                if (model[i].there && model[i].expiry == rest &&
                    (!oldest || model[i].rest_since < oldest->rest_since))
                    oldest = &model[i];
            if (!oldest || model_rests(oldest, now)) break;
            *oldest = (struct gate_model){.expiry = EXPIRY_NONE};
        }
    }
}

/* The ms to wait after that many failures in a row. */
static int64_t model_wait(uint32_t failures)
{
    static const int64_t waits[] = {0, 0, 0, 1000, 2000, 4000, 8000, 16000, 32000};
    return failures < PURE_COUNT(waits) ? waits[failures] : 60000;
}

/* One random change of an address, in the table and in the model. */
static void model_step(struct address_table *table, struct gate_model *m, const uint8_t key[16],
                       uint64_t *seed, int64_t now, uint64_t step)
{
    static const int64_t rates[] = {0, 1, 3, 10, 1000};
    struct address_entry *entry = address_make(table, key);
    size_t what = core_below(seed, 10);
    if (!m->there) *m = (struct gate_model){.there = true, .expiry = EXPIRY_NONE};
    if (what == 0) {
        entry->connections++, m->connections++;
    } else if ((what == 1 || what == 8) && m->connections) {
        entry->connections--, m->connections--;
    } else if (what == 2) {
        entry->http_conns++, m->http_conns++;
    } else if ((what == 3 || what == 9) && m->http_conns) {
        entry->http_conns--, m->http_conns--;
    } else if (what == 4) {
        int64_t rate = rates[core_below(seed, PURE_COUNT(rates))];
        int64_t now_us = now * 1000 + (int64_t)core_below(seed, 1000);
        int64_t ahead = m->until_us > now_us ? m->until_us - now_us : 0;
        bool taken = !rate || ahead + 1000000 / rate <= 1000000;
        assert_int_equal(address_take_upgrade(entry, now_us, rate), taken);
        if (taken && rate) m->until_us = now_us + ahead + 1000000 / rate;
    } else if (what == 5) {
        m->failures = model_failed(m, now) ? m->failures + 1 : 1;
        m->failed_at = now;
        m->blocked_until = now + model_wait(m->failures);
        assert_int_equal(address_count_failure(entry, now), m->blocked_until - now);
    } else if (what == 6 && core_below(seed, 3) == 0) {
        address_clear_failures(entry);
        m->failures = 0;
        m->failed_at = m->blocked_until = 0;
    }
    address_settle(table, entry, now);
    model_settle(m, now, step);
}

/* Everything that is open ends. */
static void model_close(struct address_table *table, struct gate_model *model,
                        uint8_t keys[GATE_MODEL_KEYS][16], int64_t now, uint64_t step)
{
    for (int i = 0; i < GATE_MODEL_KEYS; i++) {
        struct address_entry *entry = address_find(table, keys[i]);
        if (!entry || entry->expiry != EXPIRY_NONE) continue;
        entry->connections = entry->http_conns = model[i].connections = model[i].http_conns = 0;
        address_settle(table, entry, now);
        model_settle(&model[i], now, step + (uint64_t)i);
    }
}

/* 100,000 random steps: the table is at each of them what a naive list is. */
static void addresses_agree_with_a_list(void **state)
{
    (void)state;
    struct address_table table;
    struct gate_model model[GATE_MODEL_KEYS] = {0};
    uint8_t keys[GATE_MODEL_KEYS][16];
    int64_t now = 1000;
    uint64_t seed = 99;
    size_t most = 0, least = SIZE_MAX;
    gate_table(&table);
    for (uint32_t i = 0; i < GATE_MODEL_KEYS; i++) gate_key(i, keys[i]);
    for (uint64_t round = 1; round <= 100000; round++) {
        uint64_t step = round * 2 * GATE_MODEL_KEYS;
        size_t some = round / 5000 % 2 ? GATE_MODEL_KEYS : 5, k = core_below(&seed, some);
        model_step(&table, &model[k], keys[k], &seed, now, step);
        if (round % 7000 == 0) model_close(&table, model, keys, now, step + 1);
        if (core_below(&seed, 50) == 0) {
            address_sweep(&table, now);
            model_sweep(model, now);
        }
        if (core_below(&seed, 3) == 0) now += (int64_t)core_below(&seed, 100);
        if (core_below(&seed, 500) == 0) now += (int64_t)core_below(&seed, 700000);
        size_t there = 0;
        for (size_t i = 0; i < GATE_MODEL_KEYS; i++) {
            const struct gate_model *m = &model[i];
            const struct address_entry *entry = address_find(&table, keys[i]);
            assert_int_equal(!!entry, m->there);
            if (!entry) continue;
            there++;
            if (entry->connections != m->connections || entry->http_conns != m->http_conns ||
                entry->failures != m->failures || entry->failed_at != m->failed_at ||
                entry->blocked_until != m->blocked_until || entry->expiry != m->expiry ||
                entry->upgrades_until_us != m->until_us || memcmp(entry->key, keys[i], 16))
                fail_msg("key %zu in round %d", i, (int)round);
            int64_t wait = m->blocked_until - now;
            assert_int_equal(address_blocked(entry, now), wait > 0 ? wait : 0);
        }
        assert_int_equal(table.count, there);
        if (round % 100 == 0) gate_check_table(&table);
        if (there > most) most = there;
        if (there < least && round > 10000) least = there;
    }
    if (most < GATE_MODEL_KEYS / 2 || least > most / 2) fail_msg("%zu to %zu", least, most);
    address_table_free(&table);
}

/* A second's worth at once, then one every 1/rate; what is refused costs nothing. */
static void upgrades_are_paced(void **state)
{
    (void)state;
    static const int64_t rates[] = {1, 2, 3, 5, 7, 10, 100, 250};
    for (size_t i = 0; i < PURE_COUNT(rates); i++) {
        struct address_entry entry = {0};
        int64_t rate = rates[i], cost = 1000000 / rate, now = 5000000;
        for (int round = 0; round < 2; round++, now += 10000000) {
            for (int n = 0; n < rate; n++) assert_true(address_take_upgrade(&entry, now, rate));
            for (int n = 0; n < 50; n++) assert_false(address_take_upgrade(&entry, now, rate));
            int64_t full = now + cost * rate - 1000000; /* a second ahead but for the rounding */
            for (int n = 1; n <= 3; n++) {
                assert_false(address_take_upgrade(&entry, full + n * cost - 1, rate));
                assert_true(address_take_upgrade(&entry, full + n * cost, rate));
                assert_false(address_take_upgrade(&entry, full + n * cost, rate));
            }
        }
    }
    struct address_entry entry = {0};
    for (int n = 0; n < 1000; n++) assert_true(address_take_upgrade(&entry, 1, 0));
    assert_int_equal(entry.upgrades_until_us, 0);
    for (int n = 0; n < 1000; n++) assert_true(address_take_upgrade(&entry, 1, 5000000));
    assert_int_equal(entry.upgrades_until_us, 1001);
    entry = (struct address_entry){0};
    for (int n = 0; n < 100; n++) /* at the allowed rate none is refused */
        assert_true(address_take_upgrade(&entry, 1000 + n * 100000, 10));
}

/* Three are free; then the waits, to the ms; then ten minutes forget, or a success. */
static void failures_make_wait(void **state)
{
    (void)state;
    static const int64_t waits[] = {0,     0,     1000,  2000,  4000,  8000,
                                    16000, 32000, 60000, 60000, 60000, 60000};
    struct address_entry entry = {0};
    int64_t now = 123456;
    assert_int_equal(address_blocked(&entry, now), 0);
    for (size_t i = 0; i < PURE_COUNT(waits); i++) {
        assert_int_equal(address_blocked(&entry, now), 0);
        assert_int_equal(address_count_failure(&entry, now), waits[i]);
        assert_int_equal(address_blocked(&entry, now), waits[i]);
        if (waits[i]) assert_int_equal(address_blocked(&entry, now + waits[i] - 1), 1);
        now += waits[i];
        assert_int_equal(address_blocked(&entry, now), 0);
    }
    address_count_failure(&entry, now);
    assert_int_equal(address_count_failure(&entry, now + 599999), 60000);
    now += 599999;
    assert_int_equal(address_count_failure(&entry, now + 600000), 0);
    now += 600000;
    assert_int_equal(address_count_failure(&entry, now), 0);
    assert_int_equal(address_count_failure(&entry, now), 1000);
    address_clear_failures(&entry);
    assert_int_equal(address_blocked(&entry, now), 0);
    assert_int_equal(address_count_failure(&entry, now), 0);
    entry.failures = UINT32_MAX;
    assert_int_equal(address_count_failure(&entry, now), 60000);
    assert_int_equal(entry.failures, UINT32_MAX);
}

/* An entry is gone when nothing is open and nothing waits, not a ms before. */
static void addresses_go_when_idle(void **state)
{
    (void)state;
    struct address_table table;
    uint8_t key[16];
    gate_table(&table);
    gate_key(1, key);
    for (int what = 0; what < 4; what++) {
        struct address_entry *entry = address_make(&table, key);
        int64_t now = 50000, end = now;
        if (what == 0) entry->connections = 1;
        if (what == 1) entry->http_conns = 1;
        if (what == 2) address_take_upgrade(entry, now * 1000, 1), end = now + 1000;
        if (what == 3) address_count_failure(entry, now), end = now + 600000;
        address_settle(&table, entry, now);
        address_sweep(&table, what < 2 ? now + 100000000 : end - 1);
        assert_ptr_equal(address_find(&table, key), entry);
        if (what < 2) {
            entry->connections = entry->http_conns = 0;
            address_settle(&table, entry, now);
        } else {
            address_sweep(&table, end);
        }
        assert_null(address_find(&table, key));
        gate_check_table(&table);
    }
    struct address_entry *entry = address_make(&table, key);
    address_take_upgrade(entry, 0, 1);
    address_settle(&table, entry, 999);
    entry->http_conns++; /* in use again, and not settled yet */
    address_sweep(&table, 5000);
    assert_ptr_equal(address_find(&table, key), entry);
    gate_check_table(&table);
    entry->http_conns--;
    address_settle(&table, entry, 1000);
    assert_int_equal(table.count, 0);
    address_table_free(&table);
}

/* A sweep does a bounded piece of work, and many of them forget everything. */
static void sweeps_forget(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    struct address_table table;
    uint8_t key[16];
    gate_table(&table);
    for (uint32_t i = 0; i < COUNT; i++) {
        struct address_entry *entry = address_make(&table, gate_key(i, key));
        if (i % 3 == 0) address_count_failure(entry, i);
        else if (i % 3 == 1) address_take_upgrade(entry, i * 1000, 1);
        else entry->connections = 1;
        address_settle(&table, entry, i);
    }
    assert_int_equal(table.count, COUNT);
    address_sweep(&table, 0);
    address_sweep(&table, 999);
    assert_int_equal(table.count, COUNT);
    for (size_t left = COUNT / 3, now = 10000; left; now++) {
        size_t gone = left < ADDRESS_SWEEP_MAX ? left : ADDRESS_SWEEP_MAX;
        address_sweep(&table, (int64_t)now);
        left -= gone;
        assert_int_equal(table.expiring[EXPIRY_PACE].count, left);
        assert_int_equal(table.expiring[EXPIRY_FAILURE].count, COUNT / 3);
    }
    address_sweep(&table, 600000 + 29); /* the failures up to 27 */
    assert_int_equal(table.expiring[EXPIRY_FAILURE].count, COUNT / 3 - 10);
    for (int i = 0; i < COUNT / ADDRESS_SWEEP_MAX; i++) address_sweep(&table, 1000000);
    assert_int_equal(table.count, COUNT / 3);
    gate_check_table(&table);
    for (uint32_t i = 2; i < COUNT; i += 3) {
        struct address_entry *entry = address_find(&table, gate_key(i, key));
        assert_non_null(entry);
        entry->connections = 0;
        address_settle(&table, entry, 1000000);
    }
    assert_int_equal(table.count, 0);
    gate_check_table(&table);
    address_table_free(&table);
}

/* What only waits for time is bounded: the one that has rested longest goes, and no other kind. */
static void resting_addresses_are_bounded(void **state)
{
    (void)state;
    enum { MORE = 100, PACED = 10, OPEN = 10 };
    struct address_table table;
    uint8_t key[16];
    uint32_t n = 0;
    gate_table(&table);
    for (uint32_t i = 0; i < PACED + OPEN; i++) {
        struct address_entry *entry = address_make(&table, gate_key(n++, key));
        if (i < PACED) address_take_upgrade(entry, 1000000, 1);
        else entry->connections = 1;
        address_settle(&table, entry, 1000);
    }
    for (uint32_t i = 0; i < ADDRESS_EXPIRING_MAX + MORE; i++) {
        struct address_entry *entry = address_make(&table, gate_key(n++, key));
        address_count_failure(entry, 1000);
        address_settle(&table, entry, 1000);
        if (i == ADDRESS_EXPIRING_MAX - 1) { /* the first is heard of again, the second in use */
            entry = address_find(&table, gate_key(PACED + OPEN, key));
            address_settle(&table, entry, 1000);
            address_find(&table, gate_key(PACED + OPEN + 1, key))->http_conns++;
        }
    }
    assert_int_equal(table.expiring[EXPIRY_FAILURE].count, ADDRESS_EXPIRING_MAX);
    assert_int_equal(table.count, ADDRESS_EXPIRING_MAX + PACED + OPEN + 1);
    for (uint32_t i = 0; i < n; i++) {
        bool gone = i >= PACED + OPEN + 2 && i < PACED + OPEN + 1 + MORE;
        if (!address_find(&table, gate_key(i, key)) != gone) fail_msg("%u of %u", i, n);
    }
    gate_check_table(&table);
    assert_int_equal(2 * ADDRESS_EXPIRING_MAX, ADDRESS_ENTRIES_MAX);
    address_table_free(&table);
}

/* Slots come and go with the entries, whose places in memory do not change. */
static void address_tables_grow_and_shrink(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    struct address_table table;
    struct address_entry **entries = calloc(COUNT, sizeof *entries);
    uint8_t key[16];
    gate_table(&table);
    for (uint32_t i = 0; i < COUNT; i++) {
        entries[i] = address_make(&table, gate_key(i, key));
        assert_ptr_equal(address_make(&table, key), entries[i]);
        entries[i]->connections = 1;
        address_settle(&table, entries[i], 1);
        if (i % 997 == 0) gate_check_table(&table);
    }
    gate_check_table(&table);
    assert_int_equal(table.count, COUNT);
    assert_int_equal(table.used, COUNT);
    size_t longest = 0;
    for (size_t i = 0; i < table.used; i++) {
        size_t n = 0;
        for (struct address_entry *entry = table.slots[i]; entry; entry = entry->next) n++;
        if (n > longest) longest = n;
    }
    assert_true(longest < 16);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t k = (uint32_t)((uint64_t)i * 7919 % COUNT); /* 7919 is prime to COUNT */
        assert_ptr_equal(address_find(&table, gate_key(k, key)), entries[k]);
        entries[k]->connections = 0;
        address_settle(&table, entries[k], 1);
        assert_null(address_find(&table, key));
        if (i % 997 == 0) gate_check_table(&table);
    }
    assert_int_equal(table.count, 0);
    assert_int_equal(table.used, ADDRESS_SLOTS_MIN);
    assert_true(table.size <= 2 * ADDRESS_SLOTS_MIN);
    free(entries);
    address_table_free(&table);
}

/* Keys that meet in one slot, which takes their seed to find, are still told apart. */
static void addresses_may_collide(void **state)
{
    (void)state;
    enum { COUNT = 60 };
    struct address_table table;
    uint8_t keys[COUNT][16];
    gate_table(&table);
    uint32_t n = 0;
    for (int i = 0; i < COUNT; i++)
        while (address_hash(table.seed, gate_key(n++, keys[i])) & 0x3ff) continue;
    for (int i = 0; i < COUNT; i++) {
        struct address_entry *entry = address_make(&table, keys[i]);
        entry->connections = (uint32_t)i + 1;
        address_settle(&table, entry, 1);
        assert_ptr_equal(table.slots[0], entry);
    }
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(address_find(&table, keys[i])->connections, i + 1);
    gate_check_table(&table);
    for (int i = 0; i < COUNT; i++) { /* first, last and middle of the chain */
        int k = i % 3 == 0 ? i / 3 : i % 3 == 1 ? COUNT - 1 - i / 3 : 20 + i / 3;
        struct address_entry *entry = address_find(&table, keys[k]);
        assert_int_equal(entry->connections, k + 1);
        entry->connections = 0;
        address_settle(&table, entry, 1);
        assert_null(address_find(&table, keys[k]));
        gate_check_table(&table);
    }
    assert_int_equal(table.count, 0);
    address_table_free(&table);
}

static const struct CMUnitTest GATE_TESTS[] = {
    cmocka_unit_test(origins_are_read),
    cmocka_unit_test(origins_have_an_alphabet),
    cmocka_unit_test(origins_have_a_limit),
    cmocka_unit_test(origins_of_other_schemes_stay_whole),
    cmocka_unit_test(forwarded_schemes_are_read),
    cmocka_unit_test(refusals_are_told_once_a_minute),
    cmocka_unit_test(logins_have_their_turn),
    cmocka_unit_test(logins_of_the_unsuspected_come_first),
    cmocka_unit_test(origins_are_exact),
    cmocka_unit_test(origins_of_hosts),
    cmocka_unit_test(ipv6_texts_agree),
    cmocka_unit_test(hosts_that_are_local),
    cmocka_unit_test(ranges_are_read),
    cmocka_unit_test(ranges_have_borders),
    cmocka_unit_test(ranges_of_every_length),
    cmocka_unit_test(forwarded_by_trusted_hops),
    cmocka_unit_test(forwarded_elements),
    cmocka_unit_test(forwarded_hops_have_a_limit),
    cmocka_unit_test(addresses_are_grouped),
    cmocka_unit_test(cookies),
    cmocka_unit_test(address_hash_is_siphash_1_3),
    cmocka_unit_test(addresses_agree_with_a_list),
    cmocka_unit_test(upgrades_are_paced),
    cmocka_unit_test(failures_make_wait),
    cmocka_unit_test(addresses_go_when_idle),
    cmocka_unit_test(sweeps_forget),
    cmocka_unit_test(resting_addresses_are_bounded),
    cmocka_unit_test(address_tables_grow_and_shrink),
    cmocka_unit_test(addresses_may_collide),
};
