/* Ids and text: UTF-8, user ids, percent-encoding, base64url, names in headers. */
#include "unit.h"

/* Runs a predicate over an exact copy. */
static bool exact_holds(bool (*predicate)(struct span), const char *at, size_t len)
{
    struct span copy = exact_copy(at, len);
    bool holds = predicate(copy);
    exact_free(copy);
    return holds;
}

/* A text that is not complete is refused as soon as no bytes that follow could make it valid. */
static void test_utf8_begins_agrees_with_the_grammar(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {'a',  0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf,
                                    0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed, 0xee,
                                    0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5};
    uint32_t seed = 1;
    for (int i = 0; i < 4000; i++) {
        uint8_t s[16];
        size_t n = 0, whole;
        for (seed = seed * 1664525 + 1013904223; n < (seed >> 28); n++) {
            uint32_t r = seed >> 5 ^ (uint32_t)(i * 2654435761U) >> n;
            s[n] = n + 5 < (seed >> 28) && r % 8 ? 'x' : bytes[(r >> 7) % sizeof bytes];
        }
        struct span text = {(char *)s, n};
        assert_int_equal(utf8_begins(text, &whole), utf8_begins_reference(s, n));
        if (utf8_begins_reference(s, n)) assert_in_range(whole, n < 3 ? 0 : n - 3, n);
        assert_true(utf8_text_reference(s, whole));
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
            for (size_t c = 0; c < COUNT_OF(watches); c++) {
                for (size_t d = 0; d < COUNT_OF(watches); d++) {
                    uint8_t s[4] = {(uint8_t)a, (uint8_t)b, watches[c], watches[d]};
                    for (size_t n = 1; n <= 4; n++) {
                        struct span text = {(char *)s, n};
                        if (utf8_valid(text) != utf8_text_reference(s, n))
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
            assert_true(exact_holds(utf8_valid, text, len));
            text[bad] = (char)0xff;
            assert_false(exact_holds(utf8_valid, text, len));
            if (bad + 1 == len) continue;
            memcpy(text + bad, "\xc3\xa9", 2);
            assert_true(exact_holds(utf8_valid, text, len));
            assert_false(exact_holds(utf8_valid, text, bad + 1));
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
        if (exact_holds(user_id_valid, id, n + 1) == control) fail_msg("U+%04x", c);
        if (exact_holds(user_id_valid, id + 1, n - 1) == control) fail_msg("U+%04x alone", c);
    }
}

static void test_user_id_has_a_limit(void **state)
{
    (void)state;
    char id[USER_ID_MAX + 8];
    memset(id, 'a', sizeof id);
    assert_false(exact_holds(user_id_valid, id, 0));
    assert_true(exact_holds(user_id_valid, id, 1));
    assert_true(exact_holds(user_id_valid, id, 128));
    assert_false(exact_holds(user_id_valid, id, 129));
    for (size_t at = 123; at <= 128; at++) { /* an emoji across the limit, S04 */
        memset(id, 'a', sizeof id);
        memcpy(id + at, "\xf0\x9f\x98\x80", 4);
        assert_int_equal(exact_holds(user_id_valid, id, at + 4), at <= 124);
        assert_int_equal(exact_holds(user_id_valid, id, 128), at <= 124 || at == 128);
    }
}

static const struct test_id_row {
    const char *segment, *id; /* id NULL: refused */
} TEST_IDS[] = {
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
    for (size_t i = 0; i < COUNT_OF(TEST_IDS); i++) {
        const struct test_id_row *row = &TEST_IDS[i];
        char id[USER_ID_MAX + 1];
        size_t len = 0;
        struct span segment = exact_copy(row->segment, strlen(row->segment));
        bool valid = uri_user_id(segment, id, &len);
        exact_free(segment);
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
        size_t len = below32(&seed, sizeof bytes);
        for (size_t i = 0; i < len; i++) bytes[i] = (char)random32(&seed);
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

static const struct test_query_row {
    const char *query, *name;
    int result;
    const char *value;
} TEST_QUERIES[] = {
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
    for (size_t i = 0; i < COUNT_OF(TEST_QUERIES); i++) {
        const struct test_query_row *row = &TEST_QUERIES[i];
        char out[8];
        int n = query_get(row->query, row->name, out, sizeof out);
        if (n != row->result) fail_msg("query %s: %d", row->query, n);
        if (row->value) assert_string_equal(out, row->value);
    }
}

static const struct test_token_row {
    const char *value;
    bool has_upgrade;
} TEST_TOKENS[] = {
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
    for (size_t i = 0; i < COUNT_OF(TEST_TOKENS); i++)
        if (header_has_token(TEST_TOKENS[i].value, "upgrade") != TEST_TOKENS[i].has_upgrade)
            fail_msg("value %s", TEST_TOKENS[i].value);
    assert_false(header_has_token("a,,b", ""));
}

/* RFC 4648 section 10, and what strictness refuses; out NULL: refused. */
static void base64url_rows(void **unused)
{
    (void)unused;
    static const struct {
        const char *text, *out;
    } rows[] = {
        {"", ""},           {"Zg", "f"},          {"Zm8", "fo"},          {"Zm9v", "foo"},
        {"Zm9vYg", "foob"}, {"Zm9vYmE", "fooba"}, {"Zm9vYmFy", "foobar"}, {"_-8", "\xff\xef"},
        {"Z", NULL},        {"Zm9vY", NULL},      {"Zg==", NULL},         {"Zg=", NULL},
        {"Zm8=", NULL},     {"Zh", NULL},         {"Zm9", NULL},          {"Zm9vYh", NULL},
        {"/+8", NULL},      {"Zm 8", NULL},       {" Zm8", NULL},         {"Zm8\n", NULL},
        {"Zm9v\n", NULL},   {"Zm9.", NULL},       {"Zm\xc3\xa9", NULL},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char out[8];
        struct span text = exact_copy(rows[i].text, strlen(rows[i].text));
        int n = base64url_decode(text, out, sizeof out);
        size_t want = rows[i].out ? strlen(rows[i].out) : 0;
        if (n != (rows[i].out ? (int)want : -1)) fail_msg("%s: %d", rows[i].text, n);
        if (n > 0) assert_memory_equal(out, rows[i].out, want);
        if (n > 0) assert_int_equal(base64url_decode(text, out, want), want);
        if (n > 0) assert_int_equal(base64url_decode(text, out, want - 1), -1);
        exact_free(text);
    }
}

/* Of all texts of two characters and of those of three that begin with one, exactly those are taken
 * that encoding gives back. */
static void base64url_has_one_text_a_value(void **unused)
{
    (void)unused;
    int taken = 0;
    struct buffer b = {0};
    for (int len = 2; len <= 3; len++) {
        for (unsigned c = 0; c < 65536; c++) {
            char text[3] = {(char)(c >> 8), (char)c, 0}, out[2];
            if (len == 3) memcpy(text, (char[]){'A', (char)(c >> 8), (char)c}, 3);
            int n = base64url_decode((struct span){text, (size_t)len}, out, sizeof out);
            if (n < 0) continue;
            b.len = 0;
            base64url_encode(&b, out, (size_t)n);
            assert_int_equal(b.len, len);
            assert_memory_equal(b.at, text, len);
            taken++;
        }
    }
    assert_int_equal(taken, 256 + 64 * 16);
    buffer_free(&b);
}

/* Random bytes of any length come back. */
static void base64url_comes_back(void **unused)
{
    (void)unused;
    uint32_t seed = 7;
    for (int round = 0; round < 2000; round++) {
        uint8_t bytes[70], back[70];
        size_t len = below32(&seed, sizeof bytes);
        struct buffer b = {0};
        for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)random32(&seed);
        base64url_encode(&b, bytes, len);
        assert_int_equal(base64url_decode((struct span){b.at, b.len}, back, len), len);
        assert_memory_equal(back, bytes, len);
        buffer_free(&b);
    }
}

static const struct CMUnitTest TEXT_TESTS[] = {
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
    cmocka_unit_test(test_header_has_token),
    cmocka_unit_test(base64url_rows),
    cmocka_unit_test(base64url_has_one_text_a_value),
    cmocka_unit_test(base64url_comes_back),
};
