/* Unit tests of the pure sections of presence.c: ids and URIs, JSON, WebSocket codec. Included by
 * unit.c behind presence.c and cmocka.h. Every input is copied to memory of exactly its size, so
 * that a sanitizer sees a read past the end. */

/* ---- Helpers ------------------------------------------------------------------------------- */

#define PURE_COUNT(rows) (sizeof(rows) / sizeof *(rows))

/* A small generator, the same numbers in every run. */
static uint32_t pure_random(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* A number from 0 to n - 1. */
static size_t pure_below(uint32_t *state, size_t n)
{
    return pure_random(state) % n;
}

/* The C string as a span of its own memory, without the NUL; the caller frees .at. */
static struct span pure_copy(const char *at, size_t len)
{
    char *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, at, len);
    return (struct span){copy, len};
}

/* Frees what pure_copy gave. */
static void pure_free(struct span s)
{
    free((char *)s.at);
}

/* Runs a predicate over an exact copy. */
static bool pure_holds(bool (*predicate)(struct span), const char *at, size_t len)
{
    struct span copy = pure_copy(at, len);
    bool holds = predicate(copy);
    pure_free(copy);
    return holds;
}

/* ---- UTF-8 and ids ------------------------------------------------------------------------- */

/* The grammar of RFC 3629 section 4, row by row: does this single sequence match? */
static bool pure_utf8_reference(const uint8_t *s, size_t n)
{
    static const struct {
        size_t n;
        uint8_t low[4], high[4];
    } rows[] = {
        {1, {0x00}, {0x7f}},
        {2, {0xc2, 0x80}, {0xdf, 0xbf}},
        {3, {0xe0, 0xa0, 0x80}, {0xe0, 0xbf, 0xbf}},
        {3, {0xe1, 0x80, 0x80}, {0xec, 0xbf, 0xbf}},
        {3, {0xed, 0x80, 0x80}, {0xed, 0x9f, 0xbf}},
        {3, {0xee, 0x80, 0x80}, {0xef, 0xbf, 0xbf}},
        {4, {0xf0, 0x90, 0x80, 0x80}, {0xf0, 0xbf, 0xbf, 0xbf}},
        {4, {0xf1, 0x80, 0x80, 0x80}, {0xf3, 0xbf, 0xbf, 0xbf}},
        {4, {0xf4, 0x80, 0x80, 0x80}, {0xf4, 0x8f, 0xbf, 0xbf}},
    };
    for (size_t r = 0; r < PURE_COUNT(rows); r++) {
        bool fits = rows[r].n == n;
        for (size_t i = 0; fits && i < n; i++)
            fits = s[i] >= rows[r].low[i] && s[i] <= rows[r].high[i];
        if (fits) return true;
    }
    return false;
}

/* Whether s can be cut into sequences of the grammar. The grammar is prefix-free. */
static bool pure_utf8_text_reference(const uint8_t *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t step = 1;
        while (step <= 4 && step <= n - i && !pure_utf8_reference(s + i, step)) step++;
        if (step > 4 || step > n - i) return false;
        i += step;
    }
    return true;
}

/* Whether bytes could follow that make the text valid. */
static bool pure_utf8_begins_reference(const uint8_t *s, size_t n)
{
    static const uint8_t watches[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf};
    uint8_t last[8];
    for (size_t cut = 0; cut <= 3 && cut <= n; cut++) {
        if (!pure_utf8_text_reference(s, n - cut)) continue;
        if (!cut) return true;
        if (n) memcpy(last, s + n - cut, cut);
        for (size_t more = 1; more + cut <= 4; more++) {
            for (int i = 0, all = more == 1 ? 6 : more == 2 ? 36 : 216; i < all; i++) {
                const int picks[] = {i % 6, i / 6 % 6, i / 36};
                for (size_t k = 0; k < more; k++) last[cut + k] = watches[picks[k]];
                if (pure_utf8_text_reference(last, cut + more)) return true;
            }
        }
    }
    return false;
}

/* A text that is not complete is refused as soon as no bytes that follow could make it valid. */
static void test_utf8_begins_agrees_with_the_grammar(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {'a', 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2,
                                    0xdf, 0xe0, 0xe1, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5};
    uint32_t seed = 1;
    for (int i = 0; i < 4000; i++) {
        uint8_t s[16];
        size_t n = 0, whole;
        for (seed = seed * 1664525 + 1013904223; n < (seed >> 28); n++) {
            uint32_t r = seed >> 5 ^ (uint32_t)(i * 2654435761U) >> n;
            s[n] = n + 5 < (seed >> 28) && r % 8 ? 'x' : bytes[(r >> 7) % sizeof bytes];
        }
        struct span text = {(char *)s, n};
        assert_int_equal(utf8_begins(text, &whole), pure_utf8_begins_reference(s, n));
        if (pure_utf8_begins_reference(s, n)) assert_in_range(whole, n < 3 ? 0 : n - 3, n);
        assert_true(pure_utf8_text_reference(s, whole));
    }
}

static void test_utf8_agrees_with_the_grammar(void **state)
{
    (void)state;
    static const uint8_t watches[] = {0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f,
                                    0xa0, 0xbf, 0xc0, 0xc2, 0xff};
    assert_true(utf8_valid((struct span){NULL, 0}));
    for (unsigned a = 0; a < 256; a++) {
        for (unsigned b = 0; b < 256; b++) {
            for (size_t c = 0; c < PURE_COUNT(watches); c++) {
                for (size_t d = 0; d < PURE_COUNT(watches); d++) {
                    uint8_t s[4] = {(uint8_t)a, (uint8_t)b, watches[c], watches[d]};
                    for (size_t n = 1; n <= 4; n++) {
                        struct span text = {(char *)s, n};
                        if (utf8_valid(text) != pure_utf8_text_reference(s, n))
                            fail_msg("%02x %02x %02x %02x, %zu bytes", a, b, s[2], s[3], n);
                    }
                }
            }
        }
    }
}

static void test_utf8_takes_every_code_point(void **state)
{
    (void)state;
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        char s[4];
        uint32_t back = 0;
        size_t n = utf8_put(c, s);
        bool surrogate = c >= 0xd800 && c <= 0xdfff;
        assert_int_equal(n, c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4);
        assert_int_equal(utf8_step(s, n, &back), surrogate ? 0 : n);
        if (!surrogate) assert_int_equal(back, c);
        assert_int_equal(utf8_step(s, n - 1, &back), 0);
    }
}

static void test_utf8_finds_a_bad_byte_anywhere(void **state)
{
    (void)state;
    for (size_t len = 1; len < 40; len++) {
        for (size_t bad = 0; bad < len; bad++) {
            char text[40];
            memset(text, 'a', sizeof text);
            assert_true(pure_holds(utf8_valid, text, len));
            text[bad] = (char)0xff;
            assert_false(pure_holds(utf8_valid, text, len));
            if (bad + 1 == len) continue;
            memcpy(text + bad, "\xc3\xa9", 2);
            assert_true(pure_holds(utf8_valid, text, len));
            assert_false(pure_holds(utf8_valid, text, bad + 1));
        }
    }
}

static void test_user_id_refuses_controls(void **state)
{
    (void)state;
    for (uint32_t c = 0; c < 0x800; c++) {
        char id[6] = "a";
        size_t n = 1 + utf8_put(c, id + 1);
        bool control = c < 0x20 || (c >= 0x7f && c <= 0x9f);
        id[n] = 'z';
        if (pure_holds(user_id_valid, id, n + 1) == control) fail_msg("U+%04x", c);
        if (pure_holds(user_id_valid, id + 1, n - 1) == control) fail_msg("U+%04x alone", c);
    }
}

static void test_user_id_has_a_limit(void **state)
{
    (void)state;
    char id[USER_ID_MAX + 8];
    memset(id, 'a', sizeof id);
    assert_false(pure_holds(user_id_valid, id, 0));
    assert_true(pure_holds(user_id_valid, id, 1));
    assert_true(pure_holds(user_id_valid, id, 128));
    assert_false(pure_holds(user_id_valid, id, 129));
    for (size_t at = 123; at <= 128; at++) { /* an emoji across the limit, S04 */
        memset(id, 'a', sizeof id);
        memcpy(id + at, "\xf0\x9f\x98\x80", 4);
        assert_int_equal(pure_holds(user_id_valid, id, at + 4), at <= 124);
        assert_int_equal(pure_holds(user_id_valid, id, 128), at <= 124 || at == 128);
    }
}

static const struct pure_id_row {
    const char *segment, *id; /* id NULL: refused */
} PURE_IDS[] = {
    {"alice", "alice"},
    {"a%2Fb", "a/b"},
    {"a%2fb", "a/b"},
    {"100%25", "100%"},
    {"a%252Fb", "a%2Fb"},
    {"a+b%20c", "a+b c"},
    {"x@y.example", "x@y.example"},
    {"x%40y.example", "x@y.example"},
    {"a%3Fb%23c", "a?b#c"},
    {"%F0%9F%98%80", "\xf0\x9f\x98\x80"},
    {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"},
    {"%C3%A9", "\xc3\xa9"},
    {"e%CC%81", "e\xcc\x81"},
    {"Bob", "Bob"},
    {"bob", "bob"},
    {"bob%20", "bob "},
    {".", "."},
    {"..", ".."},
    {"%2E%2e", ".."},
    {"%EF%BF%BF", "\xef\xbf\xbf"},
    {"%C2%A0", "\xc2\xa0"},
    {"", NULL},
    {"a/b", NULL},
    {"/", NULL},
    {"100%", NULL},
    {"%", NULL},
    {"%4", NULL},
    {"a%4", NULL},
    {"%4g", NULL},
    {"%g4", NULL},
    {"%%41", NULL},
    {"% 41", NULL},
    {"%+4", NULL},
    {"a%00", NULL},
    {"%00", NULL},
    {"a%0Ab", NULL},
    {"a%7Fb", NULL},
    {"a%C2%85b", NULL},
    {"%C3", NULL},
    {"%C0%AF", NULL},
    {"%ED%A0%80", NULL},
    {"%F4%90%80%80", NULL},
    {"a\tb", NULL},
    {"a\xff", NULL},
};

static void test_uri_user_id(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_IDS); i++) {
        const struct pure_id_row *row = &PURE_IDS[i];
        char id[USER_ID_MAX + 1];
        size_t len = 0;
        struct span segment = pure_copy(row->segment, strlen(row->segment));
        bool valid = uri_user_id(segment, id, &len);
        pure_free(segment);
        if (valid != (row->id != NULL)) fail_msg("segment %s", row->segment);
        if (!valid) continue;
        assert_string_equal(id, row->id);
        assert_int_equal(len, strlen(row->id));
    }
}

static void test_uri_user_id_limit_is_decoded(void **state)
{
    (void)state;
    struct buffer segment = {0};
    char id[USER_ID_MAX + 1];
    size_t len;
    for (int i = 0; i < USER_ID_MAX; i++) buffer_text(&segment, "%41");
    assert_true(uri_user_id((struct span){segment.at, segment.len}, id, &len));
    assert_int_equal(len, USER_ID_MAX);
    assert_int_equal(strlen(id), USER_ID_MAX);
    buffer_text(&segment, "a");
    assert_false(uri_user_id((struct span){segment.at, segment.len}, id, &len));
    buffer_free(&segment);
}

static void test_uri_encode_comes_back(void **state)
{
    (void)state;
    uint32_t seed = 6;
    for (int round = 0; round < 2000; round++) {
        char bytes[64], back[65];
        size_t len = pure_below(&seed, sizeof bytes);
        for (size_t i = 0; i < len; i++) bytes[i] = (char)pure_random(&seed);
        struct buffer b = {0};
        uri_encode(&b, (struct span){bytes, len});
        for (size_t i = 0; i < b.len; i++)
            assert_non_null(strchr(
                "%-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", b.at[i]));
        assert_int_equal(uri_decode((struct span){b.at, b.len}, back, sizeof back), len);
        assert_memory_equal(back, bytes, len);
        assert_int_equal(back[len], 0);
        if (len) assert_int_equal(uri_decode((struct span){b.at, b.len}, back, len), -1);
        buffer_free(&b);
    }
    struct buffer b = {0};
    uri_encode(&b, (struct span){"aZ09-._~ /%+\xc3\xa9", 14});
    buffer_add(&b, "", 1);
    assert_string_equal(b.at, "aZ09-._~%20%2F%25%2B%C3%A9");
    buffer_free(&b);
}

static const struct pure_query_row {
    const char *query, *name;
    int result;
    const char *value;
} PURE_QUERIES[] = {
    {"q=abc", "q", 3, "abc"},
    {"a=1&q=abc", "q", 3, "abc"},
    {"q=&a=1", "q", 0, ""},
    {"q=first&q=second", "q", 5, "first"},
    {"xq=1&q=2", "q", 1, "2"},
    {"qx=1&q=2", "q", 1, "2"},
    {"q&q=2", "q", 1, "2"},
    {"&&q=2&", "q", 1, "2"},
    {"q=a=b", "q", 3, "a=b"},
    {"q=a+b%2Bc%26", "q", 6, "a b+c&"},
    {"q=%C3%A9", "q", 2, "\xc3\xa9"},
    {"q=1234567", "q", 7, "1234567"},
    {"q=12345678", "q", -2, NULL},
    {"q=%31%32%33%34%35%36%37", "q", 7, "1234567"},
    {"q=%", "q", -2, NULL},
    {"q=%4", "q", -2, NULL},
    {"q=%4&a=1", "q", -2, NULL},
    {"q=%zz", "q", -2, NULL},
    {"q=a%00b", "q", -2, NULL},
    {"", "q", -1, NULL},
    {NULL, "q", -1, NULL},
    {"q", "q", -1, NULL},
    {"Q=1", "q", -1, NULL},
    {"a=1&b=2", "q", -1, NULL},
    {"a=q=2", "q", -1, NULL},
};

static void test_query_get(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_QUERIES); i++) {
        const struct pure_query_row *row = &PURE_QUERIES[i];
        char out[8];
        int n = query_get(row->query, row->name, out, sizeof out);
        if (n != row->result) fail_msg("query %s: %d", row->query, n);
        if (row->value) assert_string_equal(out, row->value);
    }
}

/* ---- Addresses, durations, sizes, header tokens, keys -------------------------------------- */

static const struct pure_address_row {
    const char *text, *unpacked; /* unpacked NULL: refused */
    int port;
    bool loopback;
} PURE_ADDRESSES[] = {
    {"127.0.0.1:8080", "127.0.0.1", 8080, true},
    {"127.255.0.9:1", "127.255.0.9", 1, true},
    {"0.0.0.0:0", "0.0.0.0", 0, false},
    {"128.0.0.1:65535", "128.0.0.1", 65535, false},
    {"[::1]:8080", "::1", 8080, true},
    {"[::]:80", "", 80, false},
    {"[2001:db8::7]:443", "2001:db8::7", 443, false},
    {"[::ffff:127.0.0.1]:80", "127.0.0.1", 80, true},
    {"[::ffff:10.0.0.1]:80", "10.0.0.1", 80, false},
    {"[::2]:80", "::2", 80, false},
    {"", NULL, 0, false},
    {"127.0.0.1", NULL, 0, false},
    {"127.0.0.1:", NULL, 0, false},
    {"127.0.0.1:65536", NULL, 0, false},
    {"127.0.0.1:100000", NULL, 0, false},
    {"127.0.0.1:000080", NULL, 0, false},
    {"127.0.0.1:-1", NULL, 0, false},
    {"127.0.0.1:+1", NULL, 0, false},
    {"127.0.0.1: 1", NULL, 0, false},
    {"127.0.0.1:1x", NULL, 0, false},
    {"127.0.0.1:1:2", NULL, 0, false},
    {"127.1:80", NULL, 0, false},
    {"256.0.0.1:80", NULL, 0, false},
    {":80", NULL, 0, false},
    {"*:80", NULL, 0, false},
    {"8080", NULL, 0, false},
    {"localhost:80", NULL, 0, false},
    {"::1:80", NULL, 0, false},
    {"[::1]", NULL, 0, false},
    {"[::1", NULL, 0, false},
    {"[", NULL, 0, false},
    {"[]:80", NULL, 0, false},
    {"[::1]80", NULL, 0, false},
    {"[127.0.0.1]:80", NULL, 0, false},
    {"[::1%lo]:80", NULL, 0, false},
    {"[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:80", NULL, 0, false},
};

static void test_addresses(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_ADDRESSES); i++) {
        const struct pure_address_row *row = &PURE_ADDRESSES[i];
        struct sockaddr_storage address;
        socklen_t len = 0;
        char text[ADDRESS_TEXT], unpacked[INET6_ADDRSTRLEN];
        uint8_t packed[16];
        uint16_t port;
        bool valid = address_parse(row->text, &address, &len);
        if (valid != (row->unpacked != NULL)) fail_msg("address %s", row->text);
        if (!valid) continue;
        assert_string_equal(address_text(&address, text, sizeof text), row->text);
        assert_int_equal(len, *row->text == '[' ? sizeof(struct sockaddr_in6)
                                                : sizeof(struct sockaddr_in));
        address_pack(&address, packed, &port);
        assert_int_equal(port, row->port);
        assert_string_equal(address_unpack_text(packed, unpacked, sizeof unpacked), row->unpacked);
        if (address_is_loopback(&address) != row->loopback) fail_msg("loopback %s", row->text);
    }
}

static void test_address_of_another_family(void **state)
{
    (void)state;
    struct sockaddr_storage address = {.ss_family = AF_UNIX};
    uint8_t packed[16], none[16] = {0};
    uint16_t port = 1;
    char text[ADDRESS_TEXT] = "x";
    memset(packed, 1, sizeof packed);
    assert_string_equal(address_text(&address, text, sizeof text), "");
    address_pack(&address, packed, &port);
    assert_memory_equal(packed, none, sizeof none);
    assert_int_equal(port, 0);
    assert_false(address_is_loopback(&address));
    assert_string_equal(address_unpack_text(packed, text, 0), "");
    packed[15] = 7;
    assert_string_equal(address_unpack_text(packed, text, 3), "");
}

static const struct pure_duration_row {
    const char *text;
    int64_t ms; /* -1: refused */
    const char *short_text;
} PURE_DURATIONS[] = {
    {"90", 90000, "90s"},
    {"0", 0, "0s"},
    {"0ms", 0, "0s"},
    {"1ms", 1, "1ms"},
    {"250ms", 250, "250ms"},
    {"0.25s", 250, "250ms"},
    {"1.5s", 1500, "1.5s"},
    {"1500ms", 1500, "1.5s"},
    {"1.5", 1500, "1.5s"},
    {"1.050s", 1050, "1.05s"},
    {"1.005s", 1005, "1.005s"},
    {"60s", 60000, "1m"},
    {"61s", 61000, "61s"},
    {"1m", 60000, "1m"},
    {"1.5m", 90000, "90s"},
    {"1h", 3600000, "1h"},
    {"36h", 129600000, "36h"},
    {"24h", 86400000, "1d"},
    {"30d", 2592000000, "30d"},
    {"0.5d", 43200000, "12h"},
    {"1.000000000s", 1000, "1s"},
    {"007s", 7000, "7s"},
    {"9223372036854775.807s", INT64_MAX, "9223372036854775.807s"},
    {"9223372036854775.808s", -1, NULL},
    {"9223372036854776s", -1, NULL},
    {"106751991167d", 9223372036828800000, "106751991167d"},
    {"106751991168d", -1, NULL},
    {"999999999999999999d", -1, NULL},
    {"1000000000000000000ms", -1, NULL},
    {"99999999999999999999", -1, NULL},
    {"18446744073709551616ms", -1, NULL},
    {"", -1, NULL},
    {"s", -1, NULL},
    {"-1", -1, NULL},
    {"-1s", -1, NULL},
    {"+1s", -1, NULL},
    {" 1s", -1, NULL},
    {"1s ", -1, NULL},
    {"1 s", -1, NULL},
    {"1.s", -1, NULL},
    {".5s", -1, NULL},
    {"1..5s", -1, NULL},
    {"1.5.5s", -1, NULL},
    {"1.0000000000s", -1, NULL},
    {"1.0005s", -1, NULL},
    {"0.5ms", -1, NULL},
    {"1S", -1, NULL},
    {"1sec", -1, NULL},
    {"1w", -1, NULL},
    {"1e3", -1, NULL},
    {"0x10", -1, NULL},
    {"1,5s", -1, NULL},
    {"inf", -1, NULL},
};

static void test_durations(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_DURATIONS); i++) {
        const struct pure_duration_row *row = &PURE_DURATIONS[i];
        int64_t ms = -7;
        char text[32];
        bool valid = duration_parse(row->text, &ms);
        if (valid != (row->ms >= 0)) fail_msg("duration %s", row->text);
        if (ms != (valid ? row->ms : -7)) fail_msg("duration %s: %" PRId64, row->text, ms);
        if (valid) assert_string_equal(duration_text(ms, text, sizeof text), row->short_text);
    }
}

static void test_durations_come_back(void **state)
{
    (void)state;
    static const int64_t units[] = {1, 10, 100, 1000, 60000, 3600000, 86400000};
    uint32_t seed = 7;
    for (int round = 0; round < 50000; round++) {
        int64_t ms = (int64_t)pure_random(&seed) << pure_below(&seed, 31) >> pure_below(&seed, 60);
        int64_t back = -1;
        char text[32], plain[32];
        if (round % 2) ms = (int64_t)pure_below(&seed, 5000) * units[pure_below(&seed, 7)];
        assert_true(duration_parse(duration_text(ms, text, sizeof text), &back));
        if (back != ms) fail_msg("%" PRId64 " as %s is %" PRId64, ms, text, back);
        snprintf(plain, sizeof plain, "%" PRId64 "ms", ms);
        assert_true(strlen(text) <= strlen(plain));
    }
}

static const struct pure_size_row {
    const char *text;
    int64_t bytes; /* -1: refused */
} PURE_SIZES[] = {
    {"0", 0},
    {"4096", 4096},
    {"64k", 65536},
    {"64K", 65536},
    {"8m", 8388608},
    {"8M", 8388608},
    {"2g", 2147483648},
    {"8589934591g", 9223372035781033984},
    {"8589934592g", -1},
    {"999999999999999999k", -1},
    {"9999999999999999999", -1},
    {"", -1},
    {"k", -1},
    {"-1", -1},
    {"+1", -1},
    {" 1", -1},
    {"1 ", -1},
    {"1kb", -1},
    {"1kk", -1},
    {"1t", -1},
    {"1\x0b", -1},
    {"1\xeb", -1},
    {"1.5k", -1},
    {"0x10", -1},
};

static void test_sizes(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_SIZES); i++) {
        const struct pure_size_row *row = &PURE_SIZES[i];
        int64_t bytes = -7;
        bool valid = size_parse(row->text, &bytes);
        if (valid != (row->bytes >= 0)) fail_msg("size %s", row->text);
        if (bytes != (valid ? row->bytes : -7)) fail_msg("size %s: %" PRId64, row->text, bytes);
    }
}

static const struct pure_token_row {
    const char *value;
    bool has_upgrade;
} PURE_TOKENS[] = {
    {"upgrade", true},
    {"Upgrade", true},
    {"keep-alive, Upgrade", true},
    {"keep-alive,UPGRADE", true},
    {"\tupgrade\t", true},
    {" , ,upgrade , close", true},
    {"close ,\t upgrade", true},
    {"", false},
    {NULL, false},
    {",", false},
    {" ", false},
    {"upgrades", false},
    {"xupgrade", false},
    {"up grade", false},
    {"upgrade;q=1", false},
    {"keep-alive upgrade", false},
    {"upgrad", false},
    {"\"upgrade\"", false},
};

static void test_header_has_token(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_TOKENS); i++)
        if (header_has_token(PURE_TOKENS[i].value, "upgrade") != PURE_TOKENS[i].has_upgrade)
            fail_msg("value %s", PURE_TOKENS[i].value);
    assert_false(header_has_token("a,,b", ""));
}

static void test_ws_key(void **state)
{
    (void)state;
    static const char *const bad[] = {NULL,
                                      "",
                                      "abc",
                                      "==",
                                      "dGhlIHNhbXBsZSBub25jZQ=",
                                      "dGhlIHNhbXBsZSBub25jZQ===",
                                      "dGhlIHNhbXBsZSBub25jZR==",
                                      "dGhlIHNhbXBsZSBub25jZ===",
                                      "dGhlIHNhbXBsZSBub25jZQA=",
                                      "dGhlIHNhbXBsZSBub25jZQAA",
                                      "dGhlIHNhbXBsZS=ub25jZQ==",
                                      "dGhlIHNhbXBsZS-ub25jZQ==",
                                      "dGhlIHNhbXBsZS_ub25jZQ==",
                                      "dGhlIHNhbXBsZSBub25jZQ= ",
                                      " GhlIHNhbXBsZSBub25jZQ==",
                                      "dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ=="};
    for (size_t i = 0; i < PURE_COUNT(bad); i++)
        if (ws_key_valid(bad[i])) fail_msg("key %s", bad[i]);
    assert_true(ws_key_valid("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_true(ws_key_valid("AAAAAAAAAAAAAAAAAAAAAA=="));
    assert_true(ws_key_valid("/////////////////////w=="));
    assert_true(ws_key_valid("+/09azAZAAAAAAAAAAAAAg=="));
}

/* ---- JSON ---------------------------------------------------------------------------------- */

/* Texts that RFC 8259 allows. */
static const char *const PURE_JSON_GOOD[] = {
    "null",
    "true",
    "false",
    " \t\r\n0 ",
    "-0",
    "1",
    "-1",
    "10",
    "1.0",
    "1.50",
    "-0.0",
    "1e1",
    "1E1",
    "1e+1",
    "1e-1",
    "0e1",
    "0.0e-0",
    "123456789012345678901234567890",
    "1E400",
    "\"\"",
    "\"a\"",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0000\"",
    "\"\\u00e9\"",
    "\"\\uD83D\\uDE00\"",
    "\"\\ud83d\\ude00x\"",
    "\"\\uFFFF\"",
    "\"\x7f\"",
    "\"\xc3\xa9\"",
    "\"\xf0\x9f\x98\x80\"",
    "\"\xe2\x80\xa8\"",
    "\"\\u005C\"",
    "\"\\\\u\"",
    "\"\xef\xbb\xbf\"",
    "[]",
    "[ ]",
    "[1]",
    "[1,2]",
    " [ 1 , 2 ] ",
    "[[]]",
    "[[],{}]",
    "[null,true,false,\"\",1,[],{}]",
    "{}",
    "{ }",
    "{\"a\":1}",
    "{ \"a\" : 1 , \"b\" : 2 }",
    "{\"\":0}",
    "{\"a\":1,\"a\":2}",
    "{\"a\":{\"b\":[{}]}}",
    "{\"\\u0061\":1}",
    "[\"]\",\"}\"]",
    "[\"\\\"]\"]",
    "[[[[]]]]",
    "\"-\"",
    "[-1,-0]",
};

/* Texts that it does not allow. */
static const char *const PURE_JSON_BAD[] = {
    "",
    " ",
    "n",
    "nul",
    "nulL",
    "NULL",
    "nullx",
    "null null",
    "True",
    "tru",
    "fals",
    "undefined",
    "NaN",
    "Infinity",
    "-Infinity",
    "-",
    "+1",
    "+",
    "01",
    "-01",
    "00",
    "1.",
    ".1",
    "-.1",
    "1.e1",
    "1e",
    "1e+",
    "1E-",
    "1ee1",
    "1e1.0",
    "1.2.3",
    "0x1",
    "1_0",
    "1 2",
    "--1",
    "1-",
    "0-",
    "\"",
    "\"a",
    "a\"",
    "'a'",
    "\"a\"b",
    "\"\\\"",
    "\"\\",
    "\"\\x\"",
    "\"\\a\"",
    "\"\\U0041\"",
    "\"\\0\"",
    "\"\\'\"",
    "\"\\u\"",
    "\"\\u0\"",
    "\"\\u00\"",
    "\"\\u000\"",
    "\"\\u000g\"",
    "\"\\u 041\"",
    "\"\\u+041\"",
    "\"\\ud83d\"",
    "\"\\ud83dx\"",
    "\"\\ud83d\\n\"",
    "\"\\ud83d\\u\"",
    "\"\\ud83d\\u0041\"",
    "\"\\ud83d\\ud83d\"",
    "\"\\ude00\"",
    "\"\\ude00\\ud83d\"",
    "\"\\udfff\"",
    "\"\\ude00\\ude00\"",
    "\"\\ud83d\\ue000\"",
    "\"\t\"",
    "\"\n\"",
    "\"\x01\"",
    "\"\x1f\"",
    "\"\xff\"",
    "\"\xc3\"",
    "\"\xc0\x80\"",
    "\"\xed\xa0\x80\"",
    "\"\xf4\x90\x80\x80\"",
    "\"\x80\"",
    "\xef\xbb\xbfnull",
    "\xc2\xa0null",
    "\vnull",
    "\fnull",
    "[",
    "]",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[,]",
    "[1,,2]",
    "[1 2]",
    "[1;2]",
    "[1}",
    "[1]]",
    "[[1]",
    "[]]",
    "[\"a\"",
    "[\"a",
    "[a]",
    "[1]x",
    "{",
    "}",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\":1,}",
    "{,}",
    "{,\"a\":1}",
    "{\"a\" 1}",
    "{\"a\"}",
    "{\"a\",1}",
    "{a:1}",
    "{1:1}",
    "{'a':1}",
    "{null:1}",
    "{\"a\":1 \"b\":2}",
    "{\"a\":1]",
    "{\"a\"::1}",
    "{\"a\":}",
    "{}}",
    "{[]:1}",
    "[1]//x",
    "/**/1",
    "[1]#",
    "{\"a\":1}{}",
    "\"a\",",
    "1,",
    "[\"\\u00",
    "[[[[[]]]]]",
    "[{\"a\":[[[1]]]}]",
    "{\"a\":{\"a\":{\"a\":{\"a\":{}}}}}",
};

static void test_json_accepts(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_JSON_GOOD); i++) {
        struct span text = pure_copy(PURE_JSON_GOOD[i], strlen(PURE_JSON_GOOD[i]));
        struct json_value value;
        if (!json_parse(text, 4, &value)) fail_msg("refused: %s", PURE_JSON_GOOD[i]);
        assert_false(strchr(" \t\r\n", value.raw.at[0]));
        assert_false(strchr(" \t\r\n", value.raw.at[value.raw.len - 1]));
        pure_free(text);
    }
}

static void test_json_refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_JSON_BAD); i++) {
        struct span text = pure_copy(PURE_JSON_BAD[i], strlen(PURE_JSON_BAD[i]));
        if (json_valid(text, 4)) fail_msg("accepted: %s", PURE_JSON_BAD[i]);
        pure_free(text);
    }
    assert_false(json_valid((struct span){"1\0", 2}, 4));
    assert_false(json_valid((struct span){"\0"
                                          "1",
                                          2},
                            4));
    assert_false(json_valid((struct span){"\"a\0b\"", 5}, 4));
    assert_false(json_valid((struct span){NULL, 0}, 4));
}

static void test_json_refuses_every_prefix(void **state)
{
    (void)state;
    static const char text[] =
        "{\"a\\ud83d\\ude00\xc3\xa9\":[-1.5e+10,true,false,null,\"\\n\",{}],\"b\":{}}";
    for (size_t n = 0; n < sizeof text; n++) {
        struct span part = pure_copy(text, n);
        assert_int_equal(json_valid(part, 3), n == sizeof text - 1);
        pure_free(part);
    }
}

static void test_json_depth(void **state)
{
    (void)state;
    char text[2 * 1000 + 1];
    for (int depth = 0; depth <= 40; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        struct span all = {depth ? text : "1", depth ? 2 * (size_t)depth : 1};
        assert_true(json_valid(all, depth));
        assert_int_equal(json_valid(all, JSON_DEPTH_MAX), depth <= JSON_DEPTH_MAX);
        if (depth) assert_false(json_valid(all, depth - 1));
    }
    memset(text, '[', sizeof text);
    assert_false(json_valid((struct span){text, sizeof text}, JSON_DEPTH_MAX));
}

/* A value of a text that must be valid. */
static struct json_value pure_json(const char *text)
{
    struct json_value value;
    assert_true(json_parse((struct span){text, strlen(text)}, 16, &value));
    return value;
}

static void test_json_kinds(void **state)
{
    (void)state;
    static const char *const texts[] = {"null", "false", "true", "-1", "\"\"", "[]", "{}"};
    for (size_t i = 0; i < PURE_COUNT(texts); i++) {
        struct json_value value = pure_json(texts[i]), other = {.raw.len = 7};
        char out[8];
        int64_t n = 7;
        size_t cursor = 0;
        assert_int_equal(value.kind, i);
        assert_int_equal(value.raw.len, strlen(texts[i]));
        assert_int_equal(json_string(value, out, sizeof out), value.kind == JSON_STRING ? 0 : -1);
        assert_int_equal(json_number(value, &n), value.kind == JSON_NUMBER);
        assert_int_equal(n, value.kind == JSON_NUMBER ? -1 : 7);
        assert_int_equal(json_is(value, ""), value.kind == JSON_STRING);
        assert_false(json_member(value, "", &other));
        assert_false(json_item(value, &cursor, &other));
        assert_int_equal(other.raw.len, 7);
    }
}

static void test_json_members(void **state)
{
    (void)state;
    struct json_value value;
    struct json_value object = pure_json(
        " { \"a\" : 1 , \"b\":[1,{\"c\":9}] ,\"\\u0063\":\"\\u0078\", \"a\":{\"a\":3}, \"\":5,"
        "\"n\\u0000\":6,\"\\u00e9\\ud83d\\ude00\":7 } ");
    assert_true(json_member(object, "a", &value));
    assert_int_equal(value.kind, JSON_OBJECT);
    assert_int_equal(value.raw.len, 7);
    assert_true(json_member(value, "a", &value));
    assert_int_equal(value.raw.at[0], '3');
    assert_true(json_member(object, "b", &value));
    assert_memory_equal(value.raw.at, "[1,{\"c\":9}]", value.raw.len);
    assert_true(json_member(object, "c", &value));
    assert_true(json_is(value, "x"));
    assert_false(json_is(value, ""));
    assert_false(json_is(value, "xy"));
    assert_true(json_member(object, "", &value));
    assert_int_equal(value.raw.at[0], '5');
    assert_true(json_member(object, "\xc3\xa9\xf0\x9f\x98\x80", &value));
    assert_int_equal(value.raw.at[0], '7');
    value.raw.len = 99;
    assert_false(json_member(object, "n", &value));
    assert_false(json_member(object, "A", &value));
    assert_false(json_member(object, "aa", &value));
    assert_false(json_member(pure_json("{}"), "a", &value));
    assert_false(json_member(pure_json("[\"a\",1]"), "a", &value));
    assert_int_equal(value.raw.len, 99);
}

static void test_json_items(void **state)
{
    (void)state;
    static const char *const items[] = {"1", "\"a,]\"", "[2,[3]]", "{\"a\":[4]}", "null"};
    struct json_value array = pure_json(" [1 , \"a,]\",[2,[3]] ,{\"a\":[4]}, null ] "), item;
    size_t cursor = 0;
    for (size_t i = 0; i < PURE_COUNT(items); i++) {
        assert_true(json_item(array, &cursor, &item));
        assert_int_equal(item.raw.len, strlen(items[i]));
        assert_memory_equal(item.raw.at, items[i], item.raw.len);
    }
    assert_false(json_item(array, &cursor, &item));
    assert_false(json_item(array, &cursor, &item));
}

static const struct pure_string_row {
    const char *text, *bytes;
    int len;
} PURE_STRINGS[] = {
    {"\"\"", "", 0},
    {"\"abc\"", "abc", 3},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
    {"\"a\\u0000b\"", "a\0b", 3},
    {"\"\\u007f\\u0080\\u07ff\"", "\x7f\xc2\x80\xdf\xbf", 5},
    {"\"\\u0800\\uFFFF\"", "\xe0\xa0\x80\xef\xbf\xbf", 6},
    {"\"\\ud800\\udc00\"", "\xf0\x90\x80\x80", 4},
    {"\"\\uDBFF\\uDFFF\"", "\xf4\x8f\xbf\xbf", 4},
    {"\"\xc3\xa9\"", "\xc3\xa9", 2},
};

static void test_json_strings(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_STRINGS); i++) {
        const struct pure_string_row *row = &PURE_STRINGS[i];
        size_t size = (size_t)row->len + 1;
        char *out = malloc(size);
        assert_non_null(out);
        assert_int_equal(json_string(pure_json(row->text), out, size), row->len);
        assert_memory_equal(out, row->bytes, size);
        assert_int_equal(json_string(pure_json(row->text), out, size - 1), -1);
        assert_int_equal(json_string(pure_json(row->text), out, 0), -1);
        free(out);
    }
}

static const struct pure_number_row {
    const char *text;
    bool whole;
    int64_t n;
} PURE_NUMBERS[] = {
    {"0", true, 0},
    {"-0", true, 0},
    {"3600", true, 3600},
    {"-1", true, -1},
    {"9223372036854775807", true, INT64_MAX},
    {"-9223372036854775808", true, INT64_MIN},
    {"9223372036854775808", false, 0},
    {"-9223372036854775809", false, 0},
    {"92233720368547758070", false, 0},
    {"1.0", false, 0},
    {"1e3", false, 0},
    {"1E3", false, 0},
    {"\"1\"", false, 0},
    {"true", false, 0},
};

static void test_json_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_NUMBERS); i++) {
        const struct pure_number_row *row = &PURE_NUMBERS[i];
        int64_t n = 77;
        if (json_number(pure_json(row->text), &n) != row->whole) fail_msg("number %s", row->text);
        assert_true(n == (row->whole ? row->n : 77));
    }
}

static const struct pure_write_row {
    const char *bytes;
    size_t len;
    const char *json;
} PURE_WRITES[] = {
    {"", 0, "\"\""},
    {"abc", 3, "\"abc\""},
    {"a\"b\\c", 5, "\"a\\\"b\\\\c\""},
    {"\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\""},
    {"\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\x7f\""},
    {"\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\""},
    {"a\xff"
     "b",
     3,
     "\"a\xef\xbf\xbd"
     "b\""},
    {"\xc3", 1, "\"\xef\xbf\xbd\""},
    {"\xe2\x82", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""},
    {"</script>", 9, "\"</script>\""},
};

static void test_json_writes(void **state)
{
    (void)state;
    struct buffer b = {0};
    for (size_t i = 0; i < PURE_COUNT(PURE_WRITES); i++) {
        struct span bytes = pure_copy(PURE_WRITES[i].bytes, PURE_WRITES[i].len);
        b.len = 0;
        json_write_string(&b, bytes);
        buffer_add(&b, "", 1);
        assert_string_equal(b.at, PURE_WRITES[i].json);
        pure_free(bytes);
    }
    b.len = 0;
    json_write_string(&b, (struct span){NULL, 0});
    buffer_text(&b, ",{");
    json_write_key(&b, "a");
    buffer_text(&b, "1");
    json_write_key(&b, "b");
    buffer_text(&b, "{");
    json_write_key(&b, "c");
    buffer_text(&b, "[],");
    json_write_key(&b, "d");
    buffer_text(&b, "2}}");
    buffer_add(&b, "", 1);
    assert_string_equal(b.at, "\"\",{\"a\":1,\"b\":{\"c\":[],\"d\":2}}");
    buffer_free(&b);
}

/* A text of every kind of value, and the commas between: names and items, empty ones, a second text
 * behind the first. */
static void test_json_writer(void **state)
{
    (void)state;
    static const struct {
        int64_t n;
        const char *text;
    } numbers[] = {{0, "0"},
                   {9, "9"},
                   {10, "10"},
                   {-1, "-1"},
                   {INT64_MAX, "9223372036854775807"},
                   {INT64_MIN, "-9223372036854775808"}};
    struct buffer b = {0};
    json_open(&b, NULL, '[');
    for (size_t i = 0; i < PURE_COUNT(numbers); i++) json_int(&b, NULL, numbers[i].n);
    json_uint(&b, NULL, UINT64_MAX);
    json_close(&b, ']');
    buffer_add(&b, "", 1);
    assert_string_equal(b.at, "[0,9,10,-1,9223372036854775807,-9223372036854775808,"
                              "18446744073709551615]");
    b.len = 0;
    json_begin(&b);
    json_text(&b, "ends in a brace", "{");
    json_span(&b, "and", (struct span){"\"[", 2});
    json_open(&b, "empty", '{');
    json_close(&b, '}');
    json_open(&b, "list", '[');
    json_open(&b, NULL, '[');
    json_close(&b, ']');
    json_open(&b, NULL, '{');
    json_bool(&b, "yes", true);
    json_bool(&b, "no", false);
    json_close(&b, '}');
    json_null(&b, NULL);
    json_text_or_null(&b, NULL, "");
    json_text_or_null(&b, NULL, "x");
    json_close(&b, ']');
    json_time(&b, "at", 1795597471120, true);
    json_time(&b, "never", 1795597471120, false);
    json_close(&b, '}');
    size_t first = b.len;
    struct json_value value;
    assert_true(json_parse((struct span){b.at, first}, 3, &value));
    json_begin(&b); /* whatever stands before it */
    json_uint(&b, "n", 1);
    buffer_text(&b, "}\n");
    json_open(&b, NULL, '{'); /* nor does a line need a comma */
    json_close(&b, '}');
    buffer_add(&b, "", 1);
    assert_string_equal(
        b.at, "{\"ends in a brace\":\"{\",\"and\":\"\\\"[\",\"empty\":{},\"list\":[[],"
              "{\"yes\":true,\"no\":false},null,null,\"x\"],\"at\":\"2026-11-25T09:04:31.120Z\","
              "\"never\":null}{\"n\":1}\n{}");
    buffer_free(&b);
}

static void test_json_strings_come_back(void **state)
{
    (void)state;
    static const char *const pieces[] = {"a",        "\"",           "\\",
                                         "\n",       "\x1f",         "\x7f",
                                         "\xc3\xa9", "\xe2\x80\xa8", "\xf0\x9f\x98\x80",
                                         "\xff",     "\xc3",         "\xed\xa0\x80",
                                         "\\u0041"};
    uint32_t seed = 70;
    size_t whole = 0;
    for (int round = 0; round < 5000; round++) {
        struct buffer bytes = {0}, json = {0};
        size_t kinds = round % 2 ? PURE_COUNT(pieces) : 9; /* even rounds are valid UTF-8 */
        for (size_t n = pure_below(&seed, 20); n; n--)
            buffer_text(&bytes, pieces[pure_below(&seed, kinds)]);
        struct span text = {bytes.at ? bytes.at : "", bytes.len};
        json_write_string(&json, text);
        struct json_value value;
        char back[512];
        assert_true(json_parse((struct span){json.at, json.len}, 0, &value));
        int n = json_string(value, back, sizeof back);
        assert_true(n >= 0 && utf8_valid((struct span){back, (size_t)n}));
        if (utf8_valid(text)) {
            assert_int_equal(n, text.len);
            assert_memory_equal(back, text.at, text.len);
            assert_true(json_equals(value, text));
            whole++;
        }
        buffer_free(&bytes);
        buffer_free(&json);
    }
    assert_true(whole >= 2500 && whole < 5000);
}

/* Appends a random value; depth bounds its nesting. */
static void pure_random_json(uint32_t *seed, struct buffer *b, int depth)
{
    static const char *const scalars[] = {"null",
                                          "true",
                                          "false",
                                          "0",
                                          "-12.5e+3",
                                          "\"\"",
                                          "\"a\\u00e9\\\"\"",
                                          "\"\xf0\x9f\x98\x80\"",
                                          " 7 "};
    size_t kind = pure_below(seed, 4);
    if (!depth || kind < 2) {
        buffer_text(b, scalars[pure_below(seed, PURE_COUNT(scalars))]);
        return;
    }
    buffer_text(b, kind == 2 ? "[" : "{ ");
    for (size_t n = pure_below(seed, 4), i = 0; i < n; i++) {
        if (i) buffer_text(b, " ,");
        if (kind == 3) buffer_print(b, "\"k%zu\" :", i);
        pure_random_json(seed, b, depth - 1);
    }
    buffer_text(b, kind == 2 ? "]" : "}");
}

/* Counts the values in a value by way of the readers, and looks each member up by name. */
static size_t pure_walk(struct json_value value)
{
    struct json_value inner;
    size_t total = 1, cursor = 0;
    while (json_item(value, &cursor, &inner)) total += pure_walk(inner);
    for (int i = 0; i < 4; i++) {
        char name[3] = {'k', (char)('0' + i)};
        if (json_member(value, name, &inner)) total += pure_walk(inner);
    }
    return total;
}

/* Counts the values in a text by its characters: every value but the first follows a [ that is not
 * closed at once, a colon or, in an array, a comma. */
static size_t pure_count_values(struct span text)
{
    size_t total = 1;
    char stack[32];
    int depth = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        if (c == '"')
            for (i++; text.at[i] != '"'; i++) i += text.at[i] == '\\';
        else if (c == '[' || c == '{')
            stack[depth++] = c;
        else if (c == ']' || c == '}')
            depth--;
        total += c == ':' || (c == '[' && text.at[i + 1] != ']') ||
                 (c == ',' && stack[depth - 1] == '[');
    }
    return total;
}

static void test_json_random_documents(void **state)
{
    (void)state;
    uint32_t seed = 700;
    for (int round = 0; round < 3000; round++) {
        struct buffer b = {0};
        struct json_value value;
        pure_random_json(&seed, &b, 6);
        struct span text = pure_copy(b.at, b.len);
        if (!json_parse(text, 6, &value)) fail_msg("refused: %.*s", (int)b.len, b.at);
        assert_int_equal(pure_walk(value), pure_count_values(text));
        pure_free(text);
        buffer_free(&b);
    }
}

/* ---- WebSocket codec ----------------------------------------------------------------------- */

static const struct ws_limits PURE_LIMITS = {4096, 4};

/* Appends a client's frame: masked, and the length in its shortest form. */
static void pure_frame(struct buffer *b, uint8_t first, const char *payload, size_t len,
                       uint32_t mask)
{
    uint8_t head[14] = {first};
    size_t n = 2;
    head[1] = (uint8_t)(0x80 | (len < 126 ? len : len < 65536 ? 126 : 127));
    if (len >= 65536)
        for (int i = 0; i < 4; i++) head[n++] = 0;
    if (len >= 65536)
        for (int i = 0; i < 2; i++) head[n++] = (uint8_t)(len >> (24 - 8 * i));
    if (len >= 126)
        for (int i = 0; i < 2; i++) head[n++] = (uint8_t)(len >> (8 - 8 * i));
    uint8_t key[4] = {(uint8_t)(mask >> 24), (uint8_t)(mask >> 16), (uint8_t)(mask >> 8),
                      (uint8_t)mask};
    buffer_add(b, head, n);
    buffer_add(b, key, 4);
    for (size_t i = 0; i < len; i++) {
        char c = (char)((uint8_t)payload[i] ^ key[i % 4]);
        buffer_add(b, &c, 1);
    }
}

/* Appends an event as text: `text(hi)`, `close(1000,bye)`, `fail(1002)`. */
static void pure_event(struct buffer *log, enum ws_kind kind, int code, const char *data,
                       size_t len)
{
    static const char *const names[] = {"more", "text", "binary", "ping", "pong", "close", "fail"};
    buffer_print(log, "%s%s(", log->len ? " " : "", names[kind]);
    if (kind == WS_CLOSE || kind == WS_FAIL) buffer_print(log, "%d", code);
    if (kind == WS_CLOSE && len) buffer_text(log, ",");
    for (size_t i = 0; i < len; i++) {
        bool plain = data[i] > ' ' && data[i] < 0x7f && data[i] != '%';
        if (plain)
            buffer_add(log, data + i, 1);
        else
            buffer_print(log, "%%%02X", (uint8_t)data[i]);
    }
    buffer_text(log, ")");
}

/* How a stream is cut: into pieces of `every` bytes, or of random size if that is 0. */
struct pure_cut {
    size_t every;
    uint32_t seed;
};

/* Decodes one piece that lies in memory of its own. Adds the events to the log, and the texts of
 * failures to why. False after the last event there can be. */
static bool pure_decode_piece(struct ws_partial **kept, const struct ws_limits *limits,
                              struct span piece, struct buffer *log, const char **why)
{
    struct ws_event event;
    for (size_t off = 0, used; off <= piece.len; off += used) {
        event = ws_decode(kept, limits, (uint8_t *)piece.at + off, piece.len - off, &used);
        assert_true(used <= piece.len - off);
        if (event.kind == WS_MORE) {
            assert_int_equal(off + used, piece.len);
            return true;
        }
        pure_event(log, event.kind, event.code, event.data.at, event.data.len);
        if (event.kind == WS_FAIL) {
            assert_null(*kept);
            *why = event.reason;
        }
        if (event.kind == WS_FAIL || event.kind == WS_CLOSE) return false;
    }
    return true;
}

/* Decodes a stream that arrives in pieces; the log is NUL-terminated after. Returns the text of
 * the failure, or NULL. What is kept must never be much more than what arrived. */
static const char *pure_decode(struct span stream, const struct ws_limits *limits,
                               struct pure_cut cut, struct buffer *log)
{
    struct ws_partial *kept = NULL;
    const char *why = NULL;
    bool more = true;
    for (size_t off = 0, n; more && off < stream.len; off += n) {
        n = cut.every ? cut.every : 1 + pure_below(&cut.seed, pure_below(&cut.seed, 2) ? 12 : 3000);
        if (n > stream.len - off) n = stream.len - off;
        struct span piece = pure_copy(stream.at + off, n);
        more = pure_decode_piece(&kept, limits, piece, log, &why);
        pure_free(piece);
        assert_true(ws_partial_size(kept) <= sizeof(struct ws_partial) + 256 + 2 * (off + n));
    }
    ws_partial_free(&kept);
    assert_int_equal(ws_partial_size(kept), 0);
    buffer_add(log, "", 1);
    return why;
}

/* The rules of RFC 6455 in the plainest way: the whole stream at hand, a byte at a time. Returns
 * the close code of the first fault in the frame at s, 0 if the n bytes show none. */
static int pure_reference_fault(const uint8_t *s, size_t n, int open, int frames, size_t before,
                                const struct ws_limits *limits)
{
    int opcode = s[0] % 16;
    if (s[0] / 16 != 0 && s[0] / 16 != 8) return 1002;
    if (opcode != 0 && opcode != 1 && opcode != 2 && opcode != 8 && opcode != 9 && opcode != 10)
        return 1002;
    if (opcode >= 8 && s[0] < 0x80) return 1002;
    if (opcode == 0 && !open) return 1002;
    if ((opcode == 1 || opcode == 2) && open) return 1002;
    if (opcode == 0 && frames == limits->max_fragments) return 1009;
    if (n < 2) return 0;
    if (s[1] < 0x80) return 1002;
    uint64_t length = s[1] - 0x80;
    if (opcode >= 8 && length >= 126) return 1002;
    if (opcode == 8 && length == 1) return 1002;
    if (length == 126) {
        if (n < 4) return 0;
        length = s[2] * 256U + s[3];
        if (length <= 125) return 1002;
    } else if (length == 127) {
        if (n < 10) return 0;
        length = 0;
        for (int i = 2; i < 10; i++) length = length * 256 + s[i];
        if (length <= 65535 || s[2] >= 0x80) return 1002;
    }
    return opcode < 8 && (length > limits->max_message || length + before > limits->max_message)
               ? 1009
               : 0;
}

/* The event of a complete message or control frame, by the plain rules. Whether it is the last. */
static bool pure_reference_event(struct buffer *log, int opcode, const char *at, size_t n)
{
    const uint8_t *data = (const uint8_t *)at;
    int code = opcode != 8 ? 0 : n ? data[0] * 256 + data[1] : 1005, fault = 0;
    bool known = (code >= 3000 && code < 5000) || (code >= 1007 && code < 1015) ||
                 (code >= 1000 && code < 1004);
    if (opcode == 8 && n && !known) fault = 1002;
    if (!fault && opcode == 8 && n && !pure_utf8_text_reference(data + 2, n - 2)) fault = 1007;
    if (opcode == 1 && !pure_utf8_text_reference(data, n)) fault = 1007;
    enum ws_kind kind = opcode == 1   ? WS_TEXT
                        : opcode == 2 ? WS_BINARY
                        : opcode == 9 ? WS_PING
                                      : WS_PONG;
    if (fault)
        pure_event(log, WS_FAIL, fault, "", 0);
    else if (opcode == 8)
        pure_event(log, WS_CLOSE, code, n ? at + 2 : "", n ? n - 2 : 0);
    else
        pure_event(log, kind, 0, at, n);
    return fault || opcode == 8;
}

/* Decodes a whole stream by the plain rules; the log is NUL-terminated after. */
static void pure_reference(struct span stream, const struct ws_limits *limits, struct buffer *log)
{
    const uint8_t *s = (const uint8_t *)stream.at;
    struct buffer message = {0};
    int open = 0, frames = 0;
    for (size_t i = 0; i < stream.len;) {
        size_t n = stream.len - i, opcode = s[i] % 16;
        int fault = pure_reference_fault(s + i, n, open, frames, message.len, limits);
        if (fault) pure_event(log, WS_FAIL, fault, "", 0);
        size_t coded = n > 1 ? s[i + 1] & 127U : 0, head = coded == 127 ? 14 : coded == 126 ? 8 : 6;
        if (fault || n < head) break;
        uint64_t length = coded;
        if (head > 6) length = 0;
        for (size_t k = 2; head > 6 && k < head - 4; k++) length = length * 256 + s[i + k];
        bool whole = n - head >= length;
        if (!whole) length = n - head;
        struct buffer payload = {0};
        for (size_t k = 0; k < length; k++) {
            char c = (char)(s[i + head + k] ^ s[i + head - 4 + k % 4]);
            buffer_add(opcode < 8 ? &message : &payload, &c, 1);
        }
        if (opcode < 8 && !open) open = (int)opcode;
        frames += opcode < 8;
        bool last = false;
        if ((!whole || s[i] < 0x80) && opcode < 8) { /* a text is refused at its first bad byte */
            last = open == 1 &&
                   !pure_utf8_begins_reference((uint8_t *)message.at, message.len);
            if (last) pure_event(log, WS_FAIL, 1007, "", 0);
        } else if (!whole) {
            last = true;
        } else if (opcode >= 8)
            last = pure_reference_event(log, (int)opcode, payload.at, payload.len);
        else {
            last = pure_reference_event(log, open, message.at, message.len);
            message.len = 0;
            open = frames = 0;
        }
        buffer_free(&payload);
        if (last || !whole) break;
        i += head + (size_t)length;
    }
    buffer_free(&message);
    buffer_add(log, "", 1);
}

/* Decodes the stream as a whole, byte by byte, in twos, sevens and randomly cut, and by the plain
 * rules: every time it must be the same. Returns the failure's text; log has the events. */
static const char *pure_check(struct span stream, const struct ws_limits *limits, uint32_t seed,
                              struct buffer *log)
{
    const struct pure_cut cuts[] = {
        {1, 0}, {2, 0}, {7, 0}, {0, seed | 1}, {0, (seed ^ 0x5555) | 1}};
    struct buffer other = {0};
    const char *why = pure_decode(stream, limits, (struct pure_cut){stream.len + 1, 0}, log);
    for (size_t i = 0; i <= PURE_COUNT(cuts); i++) {
        other.len = 0;
        const char *other_why = why;
        if (i < PURE_COUNT(cuts))
            other_why = pure_decode(stream, limits, cuts[i], &other);
        else
            pure_reference(stream, limits, &other);
        if (strcmp(log->at, other.at) || why != other_why)
            fail_msg("seed %u: whole: %.300s (%s); %s %zu: %.300s (%s)", seed, log->at,
                     why ? why : "", i < PURE_COUNT(cuts) ? "cut" : "reference", i, other.at,
                     other_why ? other_why : "");
    }
    buffer_free(&other);
    return why;
}

/* Makes a stream of a text: `81:payload` is a frame with that first byte, masked; `=8100` is these
 * bytes; blanks part them. */
static struct buffer pure_stream(const char *text)
{
    struct buffer b = {0};
    for (uint32_t mask = 0x01fe8037; *text; mask = mask * 5 + 1) {
        size_t n = strcspn(text, " ");
        if (*text == '=') {
            for (size_t i = 1; i + 1 < n; i += 2) {
                char c = (char)(hex_value(text[i]) << 4 | hex_value(text[i + 1]));
                buffer_add(&b, &c, 1);
            }
        } else {
            uint8_t first = (uint8_t)(hex_value(text[0]) << 4 | hex_value(text[1]));
            pure_frame(&b, first, text + 3, n - 3, mask);
        }
        text += n + (text[n] == ' ');
    }
    return b;
}

#define PURE_A25  "aaaaaaaaaaaaaaaaaaaaaaaaa"
#define PURE_A125 PURE_A25 PURE_A25 PURE_A25 PURE_A25 PURE_A25

static const struct pure_ws_row {
    const char *what, *stream, *events, *why; /* why: a piece of the failure's text */
} PURE_WS[] = {
    {"a text", "81:Hello", "text(Hello)", NULL},
    {"the masked example of RFC 6455 5.7", "=818537fa213d7f9f4d5158", "text(Hello)", NULL},
    {"an empty text", "81:", "text()", NULL},
    {"an empty binary", "82:", "binary()", NULL},
    {"any bytes in a binary", "82:\xff\xc3\x01", "binary(%FF%C3%01)", NULL},
    {"125 bytes", "81:" PURE_A125, "text(" PURE_A125 ")", NULL},
    {"126 bytes", "81:a" PURE_A125, "text(a" PURE_A125 ")", NULL},
    {"two texts", "81:a 81:b", "text(a) text(b)", NULL},
    {"a ping and a pong", "89:hi 8a:ho 89: 8a:", "ping(hi) pong(ho) ping() pong()", NULL},
    {"a ping of 125 bytes", "89:" PURE_A125, "ping(" PURE_A125 ")", NULL},
    {"any bytes in a ping", "89:\xff", "ping(%FF)", NULL},
    {"a ping of 126 bytes, W07", "89:a" PURE_A125, "fail(1002)", "longer than 125"},
    {"a close of 126 bytes", "88:a" PURE_A125, "fail(1002)", "longer than 125"},
    {"a fragmented ping, W07", "09:a", "fail(1002)", "control frame is fragmented"},
    {"a fragmented close", "08:", "fail(1002)", "control frame is fragmented"},
    {"a fragmented pong", "0a:", "fail(1002)", "control frame is fragmented"},
    {"fragments", "01:a 00:b 80:c", "text(abc)", NULL},
    {"empty fragments", "01: 00: 80:", "text()", NULL},
    {"binary fragments", "02:a 80:\xff", "binary(a%FF)", NULL},
    {"a ping between fragments, W07", "01:a 89:p 80:b", "ping(p) text(ab)", NULL},
    {"a close between fragments", "01:a 88:\x03\xe8", "close(1000)", NULL},
    {"a message after fragments", "01:a 80:b 81:c 80:d", "text(ab) text(c) fail(1002)",
     "without a message"},
    {"an orphan continuation, W07", "80:a", "fail(1002)", "without a message"},
    {"an orphan fragment", "00:a", "fail(1002)", "without a message"},
    {"a new text in the middle, W07", "01:a 81:b", "fail(1002)", "inside a fragmented"},
    {"a new binary in the middle", "01:a 02:b", "fail(1002)", "inside a fragmented"},
    {"an e-acute over two fragments, W07", "01:h\xc3 80:\xa9", "text(h%C3%A9)", NULL},
    {"an emoji over four", "01:\xf0 00:\x9f 00:\x98 80:\x80", "text(%F0%9F%98%80)", NULL},
    {"bad UTF-8, W07", "81:a\xff", "fail(1007)", "text message"},
    {"UTF-8 that stops", "81:a\xc3", "fail(1007)", "text message"},
    {"a surrogate", "81:\xed\xa0\x80", "fail(1007)", "text message"},
    {"an overlong", "81:\xc0\xaf", "fail(1007)", "text message"},
    {"bad UTF-8 in fragments", "01:\xc3 80:\xc3", "fail(1007)", "text message"},
    {"bad UTF-8 in a fragment, judged at once", "01:\xff 89:p", "fail(1007)", "text message"},
    {"four fragments are allowed", "01:a 00:b 00:c 80:d", "text(abcd)", NULL},
    {"five are not", "01:a 00:b 00:c 00:d 80:e", "fail(1009)", "too many frames"},
    {"a ping is no fragment", "01:a 89: 00:b 89: 00:c 89: 80:d", "ping() ping() ping() text(abcd)",
     NULL},
    {"unmasked, W11", "=810161", "fail(1002)", "not masked"},
    {"unmasked and empty", "=8100", "fail(1002)", "not masked"},
    {"unmasked ping", "=8900", "fail(1002)", "not masked"},
    {"RSV1, W11", "c1:a", "fail(1002)", "reserved bit"},
    {"RSV2", "a1:a", "fail(1002)", "reserved bit"},
    {"RSV3", "91:a", "fail(1002)", "reserved bit"},
    {"RSV1 on a control frame", "c9:", "fail(1002)", "reserved bit"},
    {"opcode 3", "83:", "fail(1002)", "opcode"},
    {"opcode 7", "87:", "fail(1002)", "opcode"},
    {"opcode 11", "8b:", "fail(1002)", "opcode"},
    {"opcode 15", "8f:", "fail(1002)", "opcode"},
    {"a fault shows in the first byte", "=c1", "fail(1002)", "reserved bit"},
    {"a fault shows in the second byte", "=8100", "fail(1002)", "not masked"},
    {"16 bits for 125", "=81fe007d", "fail(1002)", "shortest form"},
    {"16 bits for 126", "=81fe007e", "", NULL},
    {"64 bits for 65535", "=81ff000000000000ffff", "fail(1002)", "shortest form"},
    {"64 bits for 0", "=81ff0000000000000000", "fail(1002)", "shortest form"},
    {"2^63, W06", "=82ff8000000000000000a5", "fail(1002)", "63 bits"},
    {"2^64 - 4, W06", "=82fffffffffffffffffca5", "fail(1002)", "63 bits"},
    {"2^63 - 1", "=82ff7fffffffffffffff", "fail(1009)", "larger than"},
    {"2 GiB less 128 KiB, W06", "=82ff000000007ffe0000a5", "fail(1009)", "larger than"},
    {"65536 at a limit of 4096", "=82ff0000000000010000", "fail(1009)", "larger than"},
    {"4096 is allowed", "=82fe1000", "", NULL},
    {"4097 is not", "=82fe1001", "fail(1009)", "larger than"},
    {"an empty close, W09", "88:", "close(1005)", NULL},
    {"a close of 1 byte, W09", "88:a", "fail(1002)", "half a code"},
    {"the same, seen in the head", "=8881", "fail(1002)", "half a code"},
    {"1000", "88:\x03\xe8", "close(1000)", NULL},
    {"1000 with a reason",
     "88:\x03\xe8"
     "bye",
     "close(1000,bye)", NULL},
    {"a reason of 123 bytes",
     "88:\x03\xe8" PURE_A25 PURE_A25 PURE_A25 PURE_A25 "aaaaaaaaaaaaaaaaaaaaaaa",
     "close(1000," PURE_A25 PURE_A25 PURE_A25 PURE_A25 "aaaaaaaaaaaaaaaaaaaaaaa)", NULL},
    {"1000 with a bad reason, W09", "88:\x03\xe8\xff", "fail(1007)", "close reason"},
    {"a bad code with a bad reason", "88:\x03\xe7\xff", "fail(1002)", "close code"},
    {"code 0, W09", "=8882000000000000", "fail(1002)", "close code"},
    {"nothing counts after a close", "88: 81:\xff =ff", "close(1005)", NULL},
    {"a head that stops", "81:a =81", "text(a)", NULL},
    {"a head that stops in the mask", "81:a =8185010203", "text(a)", NULL},
    {"a payload that stops", "81:a =818501020304", "text(a)", NULL},
    {"text, ping, binary, pong, close", "81:t 89:p 82:b 8a:q 88:\x0f\xa0!",
     "text(t) ping(p) binary(b) pong(q) close(4000,!)", NULL},
};

static void test_ws_rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < PURE_COUNT(PURE_WS); i++) {
        const struct pure_ws_row *row = &PURE_WS[i];
        struct buffer stream = pure_stream(row->stream), log = {0};
        struct span bytes = {stream.at, stream.len};
        const char *why = pure_check(bytes, &PURE_LIMITS, 12, &log);
        if (strcmp(log.at, row->events)) fail_msg("%s: %s", row->what, log.at);
        if (!why != !row->why || (why && !strstr(why, row->why)))
            fail_msg("%s: %s", row->what, why);
        for (size_t cut = 1; cut < stream.len; cut++) { /* every cut in two */
            struct buffer again = {0};
            struct ws_partial *kept = NULL;
            struct span a = pure_copy(stream.at, cut),
                        b = pure_copy(stream.at + cut, stream.len - cut);
            if (pure_decode_piece(&kept, &PURE_LIMITS, a, &again, &why))
                pure_decode_piece(&kept, &PURE_LIMITS, b, &again, &why);
            buffer_add(&again, "", 1);
            if (strcmp(again.at, log.at)) fail_msg("%s, cut at %zu: %s", row->what, cut, again.at);
            ws_partial_free(&kept);
            pure_free(a);
            pure_free(b);
            buffer_free(&again);
        }
        buffer_free(&log);
        buffer_free(&stream);
    }
}

static void test_ws_slow_bytes(void **state)
{
    (void)state;
    static const struct ws_limits limits = {100000, 4}; /* W02 */
    struct buffer stream = {0}, log = {0};
    char payload[70000];
    memset(payload, 'x', sizeof payload);
    pure_frame(&stream, 0x81, payload, 200, 0xa1b2c3d4);
    pure_frame(&stream, 0x82, payload, sizeof payload, 0x00ff00ff);
    pure_frame(&stream, 0x88, "\x03\xe8", 2, 1);
    assert_null(pure_check((struct span){stream.at, stream.len}, &limits, 2, &log));
    assert_int_equal(log.len, strlen("text() binary() close(1000)") + 200 + sizeof payload + 1);
    buffer_free(&log);
    buffer_free(&stream);
}

static void test_ws_close_codes(void **state)
{
    (void)state;
    for (unsigned code = 0; code < 65536; code++) {
        char payload[2] = {(char)(code >> 8), (char)code};
        struct buffer stream = {0};
        struct ws_partial *kept = NULL;
        size_t used;
        bool valid = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
                     (code >= 3000 && code <= 4999);
        if (ws_close_code_valid(code) != valid) fail_msg("code %u", code);
        pure_frame(&stream, 0x88, payload, 2, 0x11223344);
        struct ws_event event =
            ws_decode(&kept, &PURE_LIMITS, (uint8_t *)stream.at, stream.len, &used);
        assert_int_equal(event.kind, valid ? WS_CLOSE : WS_FAIL);
        assert_int_equal(event.code, valid ? code : 1002);
        assert_null(kept);
        buffer_free(&stream);
    }
    assert_false(ws_close_code_valid(65536 + 1000));
}

static void test_ws_sum_of_fragments(void **state)
{
    (void)state;
    static const struct ws_limits limits = {10, 4};
    static const struct {
        const char *stream, *events;
    } rows[] = {
        {"81:0123456789", "text(0123456789)"},
        {"81:0123456789a", "fail(1009)"},
        {"01:0123 00:456 80:789", "text(0123456789)"},
        {"01:0123 00:456 80:789a", "fail(1009)"},
        {"01:0123 00:456 =80fe0400", "fail(1009)"},
        {"01:0123 00:456 =8084", "fail(1009)"},
        {"01:0123456789 80:", "text(0123456789)"},
        {"01:0123456789 89:more_than_ten_bytes 80:", "ping(more_than_ten_bytes) text(0123456789)"},
        {"01:01234567 80:8 81:0123456789", "text(012345678) text(0123456789)"},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        struct buffer stream = pure_stream(rows[i].stream), log = {0};
        pure_check((struct span){stream.at, stream.len}, &limits, 3, &log);
        assert_string_equal(log.at, rows[i].events);
        buffer_free(&log);
        buffer_free(&stream);
    }
}

static void test_ws_memory(void **state)
{
    (void)state;
    struct ws_partial *kept = NULL;
    struct buffer stream = {0};
    struct ws_limits huge = {SIZE_MAX / 2, 4};
    size_t used;
    /* A whole frame is handed out from the input and costs nothing. */
    pure_frame(&stream, 0x81, "hello", 5, 0x0a0b0c0d);
    struct ws_event event = ws_decode(&kept, &PURE_LIMITS, (uint8_t *)stream.at, stream.len, &used);
    assert_int_equal(event.kind, WS_TEXT);
    assert_ptr_equal(event.data.at, stream.at + 6);
    assert_null(kept);
    /* An announced length costs nothing either, W06. */
    uint8_t head[] = {0x82, 0xff, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5};
    event = ws_decode(&kept, &huge, head, sizeof head, &used);
    assert_int_equal(event.kind, WS_MORE);
    assert_int_equal(used, sizeof head);
    assert_true(ws_partial_size(kept) <= sizeof(struct ws_partial) + 256);
    ws_partial_free(&kept);
    assert_null(kept);
    /* Half a frame is kept, then freed by the call that finds nothing more. */
    pure_frame(&stream, 0x81, "hello", 5, 0x0a0b0c0d);
    for (size_t i = 11; i < 22; i++) {
        event = ws_decode(&kept, &PURE_LIMITS, (uint8_t *)stream.at + i, 1, &used);
        assert_int_equal(event.kind, i < 21 ? WS_MORE : WS_TEXT);
        assert_non_null(kept);
    }
    event = ws_decode(&kept, &PURE_LIMITS, NULL, 0, &used);
    assert_int_equal(event.kind, WS_MORE);
    assert_null(kept);
    assert_int_equal(sizeof kept, sizeof(void *));
    /* A fragment is kept though it is empty. */
    uint8_t fragment[] = {0x01, 0x80, 0, 0, 0, 0};
    ws_decode(&kept, &PURE_LIMITS, fragment, sizeof fragment, &used);
    assert_non_null(kept);
    assert_int_equal(ws_partial_size(kept), sizeof(struct ws_partial));
    ws_partial_free(&kept);
    buffer_free(&stream);
}

/* Appends a random frame that, most of the time, the state of the stream allows. */
static void pure_random_frame(uint32_t *seed, struct buffer *b, bool *open)
{
    static const char *const pieces[] = {"a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    static const size_t lengths[] = {0,  0,   1,   2,   3,   7,    8,    9,   16,
                                     40, 124, 125, 126, 127, 1000, 4096, 4097};
    static const char *const closes[] = {
        "\x03\xe8", "\x03\xe9gone", "\x0f\xa0\xc3\xa9", "\x03\xe8\xff", "\x03\xed", "\x03",
        "",         "\x0b\xb7"};
    struct buffer payload = {0};
    bool control = pure_below(seed, 4) == 0, final = control || pure_below(seed, 2);
    size_t len = lengths[pure_below(seed, control               ? 12
                                          : pure_below(seed, 4) ? 13
                                                                : PURE_COUNT(lengths))];
    uint8_t opcode = control ? (uint8_t)(9 + pure_below(seed, 2))
                     : *open ? 0
                             : (uint8_t)(1 + pure_below(seed, 2));
    if (control && pure_below(seed, 8) == 0) {
        opcode = 8;
        buffer_text(&payload, closes[pure_below(seed, PURE_COUNT(closes))]);
    }
    while (opcode != 8 && payload.len < len) buffer_text(&payload, pieces[pure_below(seed, 4)]);
    if (opcode != 8 && payload.len > len && (control || pure_below(seed, 8) == 0))
        payload.len = len;
    if (!control) *open = !final;
    uint8_t first = (uint8_t)((final ? 0x80 : 0) | opcode);
    if (pure_below(seed, 24) == 0) first ^= (uint8_t)(1U << pure_below(seed, 8));
    size_t second = b->len + 1;
    pure_frame(b, first, payload.at, payload.len, pure_random(seed));
    if (pure_below(seed, 24) == 0) b->at[second] ^= (char)(1U << (pure_below(seed, 2) ? 7 : 5));
    buffer_free(&payload);
}

/* A random stream: frames, then perhaps a byte spoilt, an end cut off, or a strange head. */
static struct buffer pure_random_stream(uint32_t *seed)
{
    struct buffer b = {0};
    bool open = false;
    for (size_t n = 1 + pure_below(seed, 12); n; n--) pure_random_frame(seed, &b, &open);
    size_t spoil = pure_below(seed, 6);
    if (spoil == 0) b.at[pure_below(seed, b.len)] ^= (char)(1U << pure_below(seed, 8));
    if (spoil == 1) b.len -= pure_below(seed, b.len);
    if (spoil == 2) {
        uint8_t head[10] = {0x82, 0xff};
        size_t small = pure_below(seed, 3);
        head[1] = (uint8_t)(0xff - (small == 0));
        for (size_t i = small == 2 ? 2 : 8; i < 10; i++) head[i] = (uint8_t)pure_random(seed);
        buffer_add(&b, head, small ? 10 : 4);
    }
    return b;
}

static void test_ws_any_cut_gives_the_same(void **state)
{
    (void)state;
    static const char *const kinds[] = {"text(",   "binary(", "ping(", "pong(",
                                        "close(1", "close(4", "fail("};
    size_t kind_seen[PURE_COUNT(kinds)] = {0}, fault_seen[PURE_COUNT(WS_FAULTS)] = {0};
    uint32_t seed = 1200;
    for (int round = 0; round < 6000; round++) {
        struct buffer stream = pure_random_stream(&seed), log = {0};
        const char *why =
            pure_check((struct span){stream.at, stream.len}, &PURE_LIMITS, seed, &log);
        for (size_t i = 0; i < PURE_COUNT(kinds); i++)
            kind_seen[i] += strstr(log.at, kinds[i]) != NULL;
        for (size_t i = 0; i < PURE_COUNT(WS_FAULTS); i++)
            fault_seen[i] += why == WS_FAULTS[i].text;
        buffer_free(&log);
        buffer_free(&stream);
    }
    for (size_t i = 0; i < PURE_COUNT(kinds); i++)
        if (kind_seen[i] < 10) fail_msg("%s came %zu times", kinds[i], kind_seen[i]);
    for (size_t i = 1; i < PURE_COUNT(WS_FAULTS); i++)
        if (fault_seen[i] < 5) fail_msg("%s: %zu times", WS_FAULTS[i].text, fault_seen[i]);
}

static void test_ws_every_prefix_gives_the_same(void **state)
{
    (void)state;
    uint32_t seed = 1201;
    for (int round = 0; round < 300; round++) {
        struct buffer stream = pure_random_stream(&seed);
        for (size_t n = 0; n <= stream.len && n <= 100; n++) {
            struct buffer log = {0};
            pure_check((struct span){stream.at, n}, &PURE_LIMITS, seed, &log);
            buffer_free(&log);
        }
        buffer_free(&stream);
    }
}

static void test_ws_every_head(void **state)
{
    (void)state;
    for (unsigned first = 0; first < 256; first++) {
        for (unsigned second = 0; second < 256; second++) {
            for (int open = 0; open < 2; open++) {
                struct buffer stream = pure_stream(open ? "01:a" : ""), log = {0}, reference = {0};
                char head[] = {(char)first, (char)second, 0,  1,  2, 3, 4, 5, 6, 7, 8,
                               9,           10,           11, 12, 13};
                buffer_add(&stream, head, sizeof head);
                struct span bytes = {stream.at, stream.len};
                pure_decode(bytes, &PURE_LIMITS, (struct pure_cut){stream.len, 0}, &log);
                pure_reference(bytes, &PURE_LIMITS, &reference);
                if (strcmp(log.at, reference.at))
                    fail_msg("%02x %02x: %s, not %s", first, second, log.at, reference.at);
                buffer_free(&stream);
                buffer_free(&log);
                buffer_free(&reference);
            }
        }
    }
}

static void test_ws_unmask(void **state)
{
    (void)state;
    static const uint8_t mask[4] = {0x12, 0x34, 0x80, 0xff};
    for (size_t len = 0; len < 40; len++) {
        for (size_t phase = 0; phase < 9; phase++) {
            uint8_t *at = malloc(len + 3);
            assert_non_null(at);
            for (size_t i = 0; i < len; i++) at[3 + i] = (uint8_t)(i * 7);
            ws_unmask(at + 3, len, mask, phase);
            for (size_t i = 0; i < len; i++)
                assert_int_equal(at[3 + i], (uint8_t)(i * 7) ^ mask[(phase + i) % 4]);
            free(at);
        }
    }
}

static void test_ws_encode(void **state)
{
    (void)state;
    static const struct {
        size_t len;
        const char *head;
        size_t head_len;
    } rows[] = {
        {0, "\x81\x00", 2},
        {125, "\x81\x7d", 2},
        {126, "\x81\x7e\x00\x7e", 4},
        {65535, "\x81\x7e\xff\xff", 4},
        {65536, "\x81\x7f\0\0\0\0\0\1\0\0", 10},
    };
    char *payload = malloc(65536);
    assert_non_null(payload);
    memset(payload, 'x', 65536);
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        struct buffer b = {0};
        ws_encode(&b, WS_OP_TEXT, (struct span){payload, rows[i].len});
        assert_int_equal(b.len, rows[i].head_len + rows[i].len);
        assert_memory_equal(b.at, rows[i].head, rows[i].head_len);
        if (rows[i].len) assert_memory_equal(b.at + rows[i].head_len, payload, rows[i].len);
        buffer_free(&b);
    }
    uint8_t head[10];
    assert_int_equal(ws_encode_head(head, WS_OP_PONG, 3), 2);
    assert_int_equal(head[0], 0x8a);
    assert_int_equal(ws_encode_head(head, WS_OP_BINARY, (size_t)1 << 40), 10);
    assert_memory_equal(head, "\x82\x7f\0\0\1\0\0\0\0\0", 10);
    free(payload);
}

static void test_ws_encode_close(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *reason, *frame;
        size_t len;
    } rows[] = {
        {1000, NULL, "\x88\x02\x03\xe8", 4},
        {1000, "", "\x88\x02\x03\xe8", 4},
        {1012, "retry_after=5", "\x88\x0f\x03\xf4retry_after=5", 17},
        {4403, "kicked", "\x88\x08\x11\x33kicked", 10},
        {1005, "x", "\x88\x00", 2},
        {1006, "x", "\x88\x00", 2},
        {1015, NULL, "\x88\x00", 2},
        {0, NULL, "\x88\x00", 2},
        {-1, NULL, "\x88\x00", 2},
        {66536, NULL, "\x88\x00", 2},
    };
    for (size_t i = 0; i < PURE_COUNT(rows); i++) {
        struct buffer b = {0};
        ws_encode_close(&b, rows[i].code, rows[i].reason);
        assert_int_equal(b.len, rows[i].len);
        assert_memory_equal(b.at, rows[i].frame, b.len);
        buffer_free(&b);
    }
}

static void test_ws_encode_close_cuts_the_reason(void **state)
{
    (void)state;
    for (size_t before = 100; before < 130; before++) {
        for (size_t c = 0; c < 3; c++) {
            static const char *const characters[] = {"a", "\xc3\xa9", "\xf0\x9f\x98\x80"};
            char reason[300];
            memset(reason, 'x', before);
            reason[before] = 0;
            while (strlen(reason) < 200) strcat(reason, characters[c]);
            struct buffer b = {0};
            ws_encode_close(&b, 1000, reason);
            size_t n = b.len - 4, step = strlen(characters[c]);
            assert_int_equal((uint8_t)b.at[1], n + 2);
            assert_true(n <= 123 && n + step > 123);
            assert_true(utf8_valid((struct span){b.at + 4, n}));
            assert_memory_equal(b.at + 4, reason, n);
            buffer_free(&b);
        }
    }
}

static const struct CMUnitTest PURE_TESTS[] = {
    cmocka_unit_test(test_utf8_agrees_with_the_grammar),
    cmocka_unit_test(test_utf8_begins_agrees_with_the_grammar),
    cmocka_unit_test(test_utf8_takes_every_code_point),
    cmocka_unit_test(test_utf8_finds_a_bad_byte_anywhere),
    cmocka_unit_test(test_user_id_refuses_controls),
    cmocka_unit_test(test_user_id_has_a_limit),
    cmocka_unit_test(test_uri_user_id),
    cmocka_unit_test(test_uri_user_id_limit_is_decoded),
    cmocka_unit_test(test_uri_encode_comes_back),
    cmocka_unit_test(test_query_get),
    cmocka_unit_test(test_addresses),
    cmocka_unit_test(test_address_of_another_family),
    cmocka_unit_test(test_durations),
    cmocka_unit_test(test_durations_come_back),
    cmocka_unit_test(test_sizes),
    cmocka_unit_test(test_header_has_token),
    cmocka_unit_test(test_ws_key),
    cmocka_unit_test(test_json_accepts),
    cmocka_unit_test(test_json_refuses),
    cmocka_unit_test(test_json_refuses_every_prefix),
    cmocka_unit_test(test_json_depth),
    cmocka_unit_test(test_json_kinds),
    cmocka_unit_test(test_json_members),
    cmocka_unit_test(test_json_items),
    cmocka_unit_test(test_json_strings),
    cmocka_unit_test(test_json_numbers),
    cmocka_unit_test(test_json_writes),
    cmocka_unit_test(test_json_writer),
    cmocka_unit_test(test_json_strings_come_back),
    cmocka_unit_test(test_json_random_documents),
    cmocka_unit_test(test_ws_rules),
    cmocka_unit_test(test_ws_slow_bytes),
    cmocka_unit_test(test_ws_close_codes),
    cmocka_unit_test(test_ws_sum_of_fragments),
    cmocka_unit_test(test_ws_memory),
    cmocka_unit_test(test_ws_any_cut_gives_the_same),
    cmocka_unit_test(test_ws_every_prefix_gives_the_same),
    cmocka_unit_test(test_ws_every_head),
    cmocka_unit_test(test_ws_unmask),
    cmocka_unit_test(test_ws_encode),
    cmocka_unit_test(test_ws_encode_close),
    cmocka_unit_test(test_ws_encode_close_cuts_the_reason),
};
