/* Webhooks: URLs, signatures, waits, heads of answers. */
#include "unit.h"

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
        struct call_url url;
        char *text = text_copy(WEBHOOK_URLS[i].text);
        bool good = call_url_parse(text, &url);
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
    struct call_url url;
    for (int over = 0; over < 2; over++) {
        char *path = text_long("http://a/", 'x', CALL_URL_MAX - 1 + (size_t)over, "");
        char *query = text_long("http://a?", 'x', CALL_URL_MAX - 1 + (size_t)over, "");
        char *host = text_long("http://", 'a', ORIGIN_MAX - 8 + (size_t)over, "/");
        assert_int_equal(call_url_parse(path, &url), !over);
        if (!over) assert_int_equal(strlen(url.target), CALL_URL_MAX);
        assert_int_equal(call_url_parse(query, &url), !over);
        if (!over) assert_int_equal(strlen(url.target), CALL_URL_MAX + 1);
        assert_int_equal(call_url_parse(host, &url), !over);
        free(path);
        free(query);
        free(host);
    }
}

static const char LETTERS_200[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
                                  "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/* Made by node's crypto.createHmac; the second also by openssl dgst. */
static const struct {
    const char *secret;
    int64_t seconds;
    const char *body, *mac;
} WEBHOOK_SIGNATURES[] = {
    {"0123456789abcdef", 0, "", "9b9567f7a6e6e3243d8c5c66dde94f7df77b79d6edb3dee210c5778814cfaca0"},
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
        char *text =
            text_long(before, 'x', CALL_HEAD_MAX - sizeof before + 1 - 4 + over, "\r\n\r\n");
        size_t len = strlen(text);
        assert_int_equal(len, CALL_HEAD_MAX + over);
        assert_int_equal(response_head_read(text, len, &head), over ? -1 : 1);
        assert_int_equal(response_head_read(text, CALL_HEAD_MAX - 1, &head), 0);
        free(text);
    }
}

static const struct CMUnitTest WEBHOOKS_TESTS[] = {
    cmocka_unit_test(webhook_urls_are_read),      cmocka_unit_test(webhook_urls_have_a_longest),
    cmocka_unit_test(webhook_signs_as_others_do), cmocka_unit_test(webhook_waits_longer_and_longer),
    cmocka_unit_test(webhook_heads_are_read),     cmocka_unit_test(webhook_heads_have_a_longest),
};
