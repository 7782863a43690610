/* Hosts and addresses: origins, names of hosts, ranges, X-Forwarded-For. */
#include "unit.h"

static const struct test_address_row {
    const char *text, *unpacked; /* unpacked NULL: refused */
    int port;
    bool loopback;
} TEST_ADDRESSES[] = {
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
    for (size_t i = 0; i < COUNT_OF(TEST_ADDRESSES); i++) {
        const struct test_address_row *row = &TEST_ADDRESSES[i];
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

/* Packs an address that must be one. */
static const uint8_t *test_address(const char *text, uint8_t out[16])
{
    if (!address_pack_text((struct span){text, strlen(text)}, out)) fail_msg("%s", text);
    return out;
}

/* What an origin is read as; NULL: refused. */
static const struct {
    const char *text, *origin;
} TEST_ORIGINS[] = {
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

/* Every row of TEST_ORIGINS; what is accepted is accepted again and stays as it is. */
static void origins_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TEST_ORIGINS); i++) {
        char out[ORIGIN_MAX], again[ORIGIN_MAX], *text = text_copy(TEST_ORIGINS[i].text);
        bool good = origin_parse(text, out);
        if (good != !!TEST_ORIGINS[i].origin) fail_msg("\"%s\": %s", text, good ? out : "refused");
        if (good) {
            assert_string_equal(out, TEST_ORIGINS[i].origin);
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
        copy = text_copy(text);
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
        {"http://", "", 293},        {"https://", "", 292},    {"http://", ":80", 293},
        {"https://", ":00443", 292}, {"https://", ":80", 289}, {"http://", ":65535", 287},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        for (size_t n = rows[i].fits - 1; n < rows[i].fits + 20; n++) {
            char out[ORIGIN_MAX], *text = text_long(rows[i].before, 'a', n, rows[i].behind);
            const char *host = text + strlen(rows[i].before);
            bool good = origin_parse(text, out);
            assert_int_equal(good, n <= rows[i].fits);
            if (good) assert_int_equal(strlen(out), 300 - rows[i].fits + n);
            assert_int_equal(origin_of_host(rows[i].before[4] == 's', host, out), good);
            free(text);
        }
    }
}

/* Every scheme and name of random bytes: what is read is the text itself, but for the scheme's
 * case, and 300 bytes at most. */
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
        char *copy = text_copy(text);
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
        {"https", 1},      {"http", 0},       {"wss", 1},     {"ws", 0},          {"HTTPS", 1},
        {"Wss", 1},        {"WS", 0},         {" https ", 1}, {"https, http", 1}, {"http,https", 0},
        {"wss,http", 1},   {"ws , https", 0}, {", https", 1}, {"", -1},           {",", -1},
        {"ftp", -1},       {"httpsx", -1},    {"http s", -1}, {"ftp, https", -1}, {"https;q=1", -1},
        {"\"https\"", -1},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *value = text_copy(rows[i].value);
        for (int otherwise = 0; otherwise < 2; otherwise++) {
            int want = rows[i].secure < 0 ? otherwise : rows[i].secure;
            if (forwarded_secure(value, otherwise) != want) fail_msg("%s", value);
        }
        free(value);
    }
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
    char allowed[COUNT_OF(configured)][ORIGIN_MAX];
    for (size_t k = 0; k < COUNT_OF(configured); k++)
        assert_true(origin_parse(configured[k], allowed[k]));
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char origin[ORIGIN_MAX];
        bool found = false, good = origin_parse(rows[i].text, origin);
        for (size_t k = 0; good && k < COUNT_OF(allowed); k++)
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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char out[ORIGIN_MAX], *host = text_copy(rows[i].host);
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
            uint32_t n = below32(&seed, 3) ? random32(&seed) >> below32(&seed, 16) : 0;
            if (below32(&seed, 2)) n = 0;
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
        {"localhost", true},
        {"localhost:9000", true},
        {"LOCALHOST", true},
        {"LocalHost:80", true},
        {"app.localhost", true},
        {"a.b.localhost:8080", true},
        {"APP.LOCALHOST:1", true},
        {"127.0.0.1", true},
        {"127.0.0.1:80", true},
        {"192.0.2.7:65535", true},
        {"0.0.0.0", true},
        {"[::1]", true},
        {"[::1]:8080", true},
        {"[2001:db8::1]:1", true},
        {"[::ffff:10.0.0.1]", true},
        {NULL, false},
        {"", false},
        {":9000", false},
        {"evil.test", false},
        {"localhost.evil.test", false},
        {"evillocalhost", false},
        {"localhost.com", false},
        {"localhost.", true},
        {"localhost.:80", true},
        {"app.localhost.", true},
        {".localhost", false},
        {"localhost..", false},
        {".localhost.", false},
        {"localhos", false},
        {"xlocalhost", false},
        {"localhost:", false},
        {"localhost:65536", false},
        {"localhost:80.evil.test", false},
        {"localhost:80:80", false},
        {"localhost/", false},
        {"localhost@evil.test", false},
        {"evil.test@localhost", false},
        {" localhost", false},
        {"localhost ", false},
        {"localhost,evil.test", false},
        {"127.0.0.1.evil.test", false},
        {"127.0.0.1.nip.test", false},
        {"127.0.0.1.", false},
        {"127.1", false},
        {"2130706433", false},
        {"0x7f.0.0.1", false},
        {"0177.0.0.1", false},
        {"127.0.0.256", false},
        {"127.0.0.1:x", false},
        {"::1", false},
        {"[::1", false},
        {"[::1].evil.test", false},
        {"[::1]:80.evil.test", false},
        {"[127.0.0.1]", false},
        {"[localhost]", false},
        {"presence", false},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *host = text_copy(rows[i].host);
        if (host_is_local(host) != rows[i].local) fail_msg("%s", host ? host : "NULL");
        free(host);
    }
}

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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *text = text_copy(rows[i].text);
        uint8_t address[16];
        struct range range;
        if (range_parse(text, &range) != !!rows[i].address) fail_msg("\"%s\"", text);
        if (rows[i].address) {
            assert_int_equal(range.bits, rows[i].bits);
            assert_memory_equal(range.address, test_address(rows[i].address, address), 16);
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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct range range;
        uint8_t address[16];
        assert_true(range_parse(rows[i].range, &range));
        if (range_has(&range, test_address(rows[i].address, address)) != rows[i].has)
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
            for (int i = 0; i < 16; i++) address[i] = (uint8_t)random32(&seed);
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

/* The ranges that the rows below trust. */
static const char *const TEST_TRUSTED[] = {"127.0.0.1", "10.0.0.0/8", "fd00::/8"};

/* Reads TEST_TRUSTED. */
static void test_trusted(struct range out[COUNT_OF(TEST_TRUSTED)])
{
    for (size_t i = 0; i < COUNT_OF(TEST_TRUSTED); i++)
        assert_true(range_parse(TEST_TRUSTED[i], &out[i]));
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
         "127.0.0.1",
         "203.0.113.9",
         true},
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
    struct range ranges[COUNT_OF(TEST_TRUSTED)];
    test_trusted(ranges);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *lines[4] = {0};
        uint8_t peer[16], client[16], expected[16];
        int count = 0;
        for (; count < 4 && rows[i].lines[count]; count++)
            lines[count] = text_copy(rows[i].lines[count]);
        test_address(rows[i].peer, peer);
        test_address(rows[i].client, expected);
        bool trusted = forwarded_client((const char *const *)lines, count, ranges, COUNT_OF(ranges),
                                        peer, client);
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
    struct range ranges[COUNT_OF(TEST_TRUSTED)];
    uint8_t peer[16], client[16], expected[16];
    test_trusted(ranges);
    test_address("10.0.0.1", peer);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char line[100];
        test_address(rows[i].address ? rows[i].address : "10.3.3.3", expected);
        snprintf(line, sizeof line, "198.51.100.1,%s,10.3.3.3:80", rows[i].text);
        char *copy = text_copy(line);
        const char *lines[] = {copy};
        assert_true(forwarded_client(lines, 1, ranges, COUNT_OF(ranges), peer, client));
        if (memcmp(client, expected, sizeof client)) fail_msg("\"%s\"", rows[i].text);
        free(copy);
        copy = text_copy(rows[i].text);
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
    struct range ranges[COUNT_OF(TEST_TRUSTED)];
    uint8_t peer[16], client[16], expected[16];
    test_trusted(ranges);
    test_address("127.0.0.1", peer);
    for (int hops = 0; hops <= HOPS; hops++) {
        char line[HOPS * 20] = "198.51.100.1", texts[HOPS + 1][20] = {"198.51.100.1"}, last[20];
        const char *one[] = {line}, *many[HOPS + 1] = {texts[0]};
        for (int i = 1; i <= hops; i++) { /* the rightmost is 10.0.0.1 */
            snprintf(texts[i], sizeof texts[i], "10.0.0.%d", hops + 1 - i);
            strcat(strcat(line, ", "), texts[i]);
            many[i] = texts[i];
        }
        snprintf(last, sizeof last, hops < 32 ? "198.51.100.1" : "10.0.0.32");
        test_address(last, expected);
        assert_true(forwarded_client(one, 1, ranges, COUNT_OF(ranges), peer, client));
        assert_memory_equal(client, expected, sizeof client);
        assert_true(forwarded_client(many, hops + 1, ranges, COUNT_OF(ranges), peer, client));
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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        uint8_t address[16], group[16], expected[16];
        address_group(test_address(rows[i].address, address), group);
        assert_memory_equal(group, test_address(rows[i].group, expected), 16);
        address_group(address, address);
        assert_memory_equal(address, expected, 16);
    }
}

static const struct CMUnitTest HOSTS_TESTS[] = {
    cmocka_unit_test(test_addresses),
    cmocka_unit_test(test_address_of_another_family),
    cmocka_unit_test(origins_are_read),
    cmocka_unit_test(origins_have_an_alphabet),
    cmocka_unit_test(origins_have_a_limit),
    cmocka_unit_test(origins_of_other_schemes_stay_whole),
    cmocka_unit_test(forwarded_schemes_are_read),
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
};
