/* ACME: signatures, times, requests for certificates, orders from answer to answer, when to renew.
 */
#include "unit.h"

enum { ACME_SUNDAY = 784111777 /* Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 */ };

/* A member of a JSON object that is a string; asserts that it is there. */
static const char *acme_said(struct span text, const char *name, char *out, size_t size)
{
    struct json_value object, value;
    assert_true(json_parse(text, JSON_DEPTH_MAX, &object));
    assert_true(json_member(object, name, &value));
    assert_true(json_string(value, out, size) >= 0);
    return out;
}

/* The keys of all tests here: an RSA key costs more than everything else that an order does. */
static struct token_signer ACME_SIGNER;

static int acme_setup(void **unused)
{
    (void)unused;
    token_signer_init(&ACME_SIGNER);
    return 0;
}

static int acme_teardown(void **unused)
{
    (void)unused;
    token_signer_free(&ACME_SIGNER);
    return 0;
}

/* The key of RFC 7515, appendix A.3, has the hash that others make of it; what it signs is verified
 * with its public half, over the very text that is sent. */
static void acme_signs_as_others_do(void **state)
{
    (void)state;
    struct buffer proof = {0}, body = {0}, covered = {0}, head = {0};
    char first[2048], payload[256], signature[256], nonce[64];
    uint8_t raw[64], der[128], hash[SHA256_SIZE], decoded[1024];
    size_t len;
    mbedtls_pk_context *key = &ACME_SIGNER.pairs[TOKEN_ES256];
    acme_write_proof(&proof, "token", key);
    assert_string_equal((buffer_add(&proof, "", 1), proof.at),
                        "token.oKIywvGUpTVTyxMQ3bwIIeQUudfr_CkLMjCE19ECD-U");
    for (int kid = 0; kid < 2; kid++) {
        body.len = covered.len = head.len = 0;
        acme_sign(&body, key, kid ? "https://a/1" : "", "n-1", "https://a/2", span_of("{\"a\":1}"));
        struct span text = {body.at, body.len};
        acme_said(text, "protected", first, sizeof first);
        acme_said(text, "payload", payload, sizeof payload);
        acme_said(text, "signature", signature, sizeof signature);
        buffer_print(&covered, "%s.%s", first, payload);
        assert_int_equal(token_bytes(signature, raw, sizeof raw), 64);
        sha256_of((struct span){covered.at, covered.len}, hash);
        assert_int_equal(mbedtls_ecdsa_raw_to_der(256, raw, 64, der, sizeof der, &len), 0);
        assert_int_equal(mbedtls_pk_verify(key, MBEDTLS_MD_SHA256, hash, sizeof hash, der, len), 0);
        buffer_add(&head, decoded, token_bytes(first, decoded, sizeof decoded));
        struct span said = {head.at, head.len};
        assert_string_equal(acme_said(said, "nonce", nonce, sizeof nonce), "n-1");
        assert_string_equal(acme_said(said, "url", nonce, sizeof nonce), "https://a/2");
        assert_string_equal(acme_said(said, "alg", nonce, sizeof nonce), "ES256");
        struct json_value object, value;
        assert_true(json_parse(said, JSON_DEPTH_MAX, &object));
        assert_int_equal(json_member(object, "kid", &value), kid);
        assert_int_equal(json_member(object, "jwk", &value), !kid);
    }
    buffer_free(&proof);
    buffer_free(&body);
    buffer_free(&covered);
    buffer_free(&head);
}

/* The example of RFC 9773 section 4.1. */
static void acme_names_a_certificate_as_its_server_does(void **state)
{
    (void)state;
    uint8_t key[] = {0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3,
                     0x7b, 0x84, 0x7b, 0xa0, 0xae, 0x2c, 0xde, 0x01, 0xc8, 0xd4};
    uint8_t number[] = {0x00, 0x87, 0x65, 0x43, 0x21};
    mbedtls_x509_crt cert = {0};
    struct buffer out = {0};
    acme_write_cert_id(&out, &cert);
    assert_int_equal(out.len, 0);
    cert.authority_key_id.keyIdentifier = (mbedtls_x509_buf){.p = key, .len = sizeof key};
    cert.serial = (mbedtls_x509_buf){.p = number, .len = sizeof number};
    acme_write_cert_id(&out, &cert);
    buffer_add(&out, "", 1);
    assert_string_equal(out.at, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    buffer_free(&out);
}

/* Times of RFC 3339, as seconds; -1: refused. */
static const struct {
    const char *text;
    int64_t seconds;
} ACME_TIMES[] = {
    {"1970-01-01T00:00:00Z", 0},
    {"1994-11-06T08:49:37Z", ACME_SUNDAY},
    {"1994-11-06t08:49:37z", ACME_SUNDAY},
    {"1994-11-06T08:49:37.123456789Z", ACME_SUNDAY},
    {"1994-11-06T10:49:37+02:00", ACME_SUNDAY},
    {"1994-11-06T03:19:37-05:30", ACME_SUNDAY},
    {"9999-12-31T23:59:59Z", INT64_C(253402300799)},
    {"", -1},
    {"1994-11-06", -1},
    {"1994-11-06T08:49:37", -1},
    {"1994-11-06T08:49:37Zx", -1},
    {"1994-11-06 08:49:37Z", -1},
    {"1994-13-06T08:49:37Z", -1},
    {"1994-11-32T08:49:37Z", -1},
    {"1994-11-06T24:49:37Z", -1},
    {"0000-11-06T08:49:37Z", -1},
    {"1994-11-06T08:49:37+0200", -1},
    {"1994-11-06T08:49:37+ab:00", -1},
    {"-994-11-06T08:49:37Z", -1},
    {"1994-11-06T08:49:3", -1},
};

static void acme_times_are_read(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(ACME_TIMES); i++) {
        char *text = text_copy(ACME_TIMES[i].text);
        int64_t want = ACME_TIMES[i].seconds, got = acme_time(text);
        if (got != (want < 0 ? -1 : want * 1000)) fail_msg("%s: %" PRId64, text, got);
        free(text);
    }
}

/* Retry-After, 100 s before that Sunday; -1: refused. */
static const struct {
    const char *text;
    int64_t ms;
} ACME_RETRIES[] = {
    {"0", 0},
    {"120", 120000},
    {"86399", INT64_C(86399000)},
    {"86401", INT64_C(86400000)},
    {"31536000", INT64_C(86400000)},
    {"999999999999", INT64_C(86400000)},
    {"Sun, 06 Nov 1994 08:49:37 GMT", 100000},
    {"Sun, 06 Nov 1994 08:40:37 GMT", 0},
    {"Mon, 07 Nov 1994 08:47:57 GMT", INT64_C(86400000)},
    {"Tue, 08 Nov 1994 08:49:37 GMT", INT64_C(86400000)},
    {"Sun, 06 Nov 2994 08:49:37 GMT", INT64_C(86400000)},
    {"", -1},
    {"-1", -1},
    {"1.5", -1},
    {"soon", -1},
    {"99999999999999999999", -1},
    {"Sun, 06 Foo 1994 08:49:37 GMT", -1},
    {"Sun, xx Nov 1994 08:49:37 GMT", -1},
    {"Sunday, 06-Nov-94 08:49:37 GMT", -1},
};

static void acme_waits_as_it_is_told(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(ACME_RETRIES); i++) {
        char *text = text_copy(ACME_RETRIES[i].text);
        int64_t got = acme_retry_after(text, (INT64_C(1000) * ACME_SUNDAY) - 100000);
        if (got != ACME_RETRIES[i].ms) fail_msg("%s: %" PRId64, text, got);
        free(text);
    }
}

/* A renewal is in its window, else after two thirds of the life, and never in the last tenth. */
static void acme_renews_in_time(void **state)
{
    (void)state;
    const int64_t day = 86400000;
    static const uint32_t chances[] = {0, UINT32_MAX / 2, UINT32_MAX};
    struct acme_plan plan = {0};
    assert_int_equal(acme_plan_at(&plan), 0);
    for (size_t i = 0; i < COUNT_OF(chances); i++) {
        int64_t part = (int64_t)i;
        plan = (struct acme_plan){.from = 100 * day, .to = 190 * day, .chance = chances[i]};
        assert_in_range(acme_plan_at(&plan), 160 * day + part * 3 * day / 2 - 1,
                        160 * day + part * 3 * day / 2);
        plan.window_from = 150 * day;
        plan.window_to = 152 * day;
        assert_in_range(acme_plan_at(&plan), 150 * day + part * day - 1, 150 * day + part * day);
        plan.window_from = plan.window_to = INT64_C(253402300799000);
        assert_int_equal(acme_plan_at(&plan), 181 * day);
    }
    assert_int_equal(acme_backoff(1, 0), 60000);
    assert_int_equal(acme_backoff(2, 0), 120000);
    assert_int_equal(acme_backoff(10, 0), 512 * 60000);
    assert_int_equal(acme_backoff(11, 0), 43200000);
    assert_int_equal(acme_backoff(UINT_MAX, UINT16_MAX), 47520000);
}

/* A server that wants the next certificate at once, each time, is asked less and less often; one
 * whose certificates live for minutes, as often as they need it. */
static void acme_rests_between_certificates(void **state)
{
    (void)state;
    const int64_t minute = 60000, day = 1440 * minute;
    struct acme_plan plan = {.from = day, .to = 91 * day};
    struct acme_pace greedy = {0}, brief = {0}, late = {0};
    int asked = 0;
    for (int64_t now = day; now < 31 * day; asked++)
        now += minute + acme_rest(&greedy, &plan, now, false, true);
    assert_in_range(asked, 30, 80);
    plan.to = day + 15 * minute;
    for (int64_t now = day; now < 2 * day; now += 10 * minute)
        assert_int_equal(acme_rest(&brief, &plan, now, false, true), 0);
    plan.to = day + 90000; /* most of it was over before it came */
    for (int64_t now = day; now < 2 * day; now += 2000)
        assert_int_equal(acme_rest(&late, &plan, now, false, false), 0);
    assert_int_equal(acme_rest(&late, &plan, 3 * day, true, false), minute);
    assert_int_equal(acme_rest(&late, &plan, 4 * day, true, false), 2 * minute);
}

/* A request for a certificate has the names and the key, and is signed with it. */
static void acme_asks_for_all_names(void **state)
{
    (void)state;
    char one[] = "one.example.com", two[] = "two.example.com", *names[] = {one, two};
    struct buffer csr = {0};
    assert_int_equal(acme_write_csr(&csr, names, 2, &ACME_SIGNER.pairs[TOKEN_ES256]), 0);
    assert_int_equal(csr.at[0], 0x30);
    assert_non_null(memmem(csr.at, csr.len, "\x82\x0fone.example.com", 17));
    assert_non_null(memmem(csr.at, csr.len, "\x82\x0ftwo.example.com", 17));
    buffer_free(&csr);
}

/* What a challenge by TLS is answered with: one name, and the hash of the proof. */
static void acme_answers_a_challenge(void **state)
{
    (void)state;
    struct tls_pair pair;
    char name[] = "one.example.com";
    uint8_t want[19 + SHA256_SIZE] = "\x06\x08\x2b\x06\x01\x05\x05\x07\x01\x1f\x01\x01\xff\x04\x22"
                                     "\x04\x20";
    sha256_of(span_of("proof"), want + 17);
    assert_int_equal(acme_make_challenge(&pair, name, span_of("proof")), 0);
    assert_non_null(memmem(pair.chain.raw.p, pair.chain.raw.len, want, 17 + SHA256_SIZE));
    assert_true(tls_pair_is_for(&pair, span_of(name)));
    assert_false(tls_pair_is_for(&pair, span_of("two.example.com")));
    assert_int_equal(mbedtls_pk_check_pair(&pair.chain.pk, pair.keys, token_random, NULL), 0);
    tls_pair_free(&pair);
}

/* An order of a test. */
struct acme_trial {
    struct acme_order order;
    char *names[2];
};

static void acme_trial_begin(struct acme_trial *trial)
{
    static char one[] = "one.example.com", two[] = "two.example.com";
    *trial = (struct acme_trial){.names = {one, two}};
    trial->order = (struct acme_order){
        .names = trial->names,
        .count = 2,
        .server = "https://ca/dir",
        .email = "ops@example.com",
        .account = &ACME_SIGNER.pairs[TOKEN_ES256],
        .key = &ACME_SIGNER.pairs[TOKEN_ES256],
        .replaces = "",
        .kinds = {ACME_TLS_ALPN, ACME_HTTP},
        .kind_count = ACME_KINDS,
    };
    assert_true(acme_order_begin(&trial->order));
}

static void acme_trial_end(struct acme_trial *trial)
{
    acme_order_free(&trial->order);
}

/* Feeds one answer: a head without its first line, a body. */
static enum acme_turn acme_feed(struct acme_order *o, int status, const char *head,
                                const char *body)
{
    struct buffer text = {0};
    buffer_print(&text, "HTTP/1.1 %d x\r\n%s\r\n", status, head);
    size_t len = text.len;
    buffer_text(&text, body);
    char *exact = mem_copy_text(text.at, text.len);
    struct acme_answer answer = {status, {exact, len}, {exact + len, text.len - len}};
    enum acme_turn turn = acme_order_take(o, &answer, 0);
    free(exact);
    buffer_free(&text);
    return turn;
}

#define ACME_DIR                                                                                   \
    "{\"newNonce\":\"https://ca/nonce\",\"newAccount\":\"https://ca/acct\","                       \
    "\"newOrder\":\"https://ca/order\",\"renewalInfo\":\"https://ca/info\"}"
#define ACME_AUTHZ(name, status, more)                                                             \
    "{\"status\":\"" status "\",\"identifier\":{\"type\":\"dns\",\"value\":\"" name "\"}" more "}"
#define ACME_CHALLENGES                                                                            \
    ",\"challenges\":[{\"type\":\"http-01\",\"url\":\"https://ca/c1\",\"token\":\"h-1\"},"         \
    "{\"type\":\"tls-alpn-01\",\"url\":\"https://ca/c2\",\"token\":\"t_2\"}]"
#define ACME_PENDING                                                                               \
    "{\"status\":\"pending\",\"authorizations\":[\"https://ca/a1\",\"https://ca/a2\"],"            \
    "\"finalize\":\"https://ca/f\"}"
#define ACME_N "Replay-Nonce: n1\r\n"
#define ACME_BAD "{\"type\":\"urn:ietf:params:acme:error:badNonce\",\"detail\":\"no\"}"

/* An order from request to request: what is asked, what is answered, what follows. */
static const struct {
    const char *method, *url;
    int status;
    const char *head, *body;
    enum acme_turn turn;
    const char *token; /* afterwards */
} ACME_STORY[] = {
    {"GET", "https://ca/dir", 200, "", ACME_DIR, ACME_ASK, ""},
    {"HEAD", "https://ca/nonce", 200, ACME_N, "", ACME_ASK, ""},
    {"POST", "https://ca/acct", 400, "Replay-Nonce: n2\r\n", ACME_BAD, ACME_ASK, ""},
    {"POST", "https://ca/acct", 400, "", ACME_BAD, ACME_ASK, ""}, /* without another */
    {"HEAD", "https://ca/nonce", 204, ACME_N, "", ACME_ASK, ""},
    {"POST", "https://ca/acct", 201, ACME_N "Location: https://ca/acct/1\r\n", "{}", ACME_ASK, ""},
    {"POST", "https://ca/order", 201, ACME_N "Location: https://ca/order/1\r\n", ACME_PENDING,
     ACME_ASK, ""},
    {"POST", "https://ca/a1", 200, ACME_N, ACME_AUTHZ("one.example.com", "valid", ""), ACME_ASK,
     ""},
    {"POST", "https://ca/a2", 200, ACME_N,
     ACME_AUTHZ("TWO.example.com", "pending", ACME_CHALLENGES), ACME_ASK, "t_2"},
    {"POST", "https://ca/c2", 200, ACME_N "Retry-After: 3\r\n", "{}", ACME_WAIT, "t_2"},
    {"POST", "https://ca/a2", 200, ACME_N,
     ACME_AUTHZ("two.example.com", "pending", ACME_CHALLENGES), ACME_WAIT, "t_2"},
    {"POST", "https://ca/a2", 200, ACME_N, ACME_AUTHZ("two.example.com", "valid", ""), ACME_ASK,
     ""},
    {"POST", "https://ca/order/1", 200, ACME_N, ACME_PENDING, ACME_WAIT, ""},
    {"POST", "https://ca/order/1", 200, ACME_N,
     "{\"status\":\"ready\",\"finalize\":\"https://ca/f\"}", ACME_ASK, ""},
    {"POST", "https://ca/f", 200, ACME_N, "{\"status\":\"processing\"}", ACME_WAIT, ""},
    {"POST", "https://ca/order/1", 200, ACME_N,
     "{\"status\":\"valid\",\"certificate\":\"https://ca/cert\"}", ACME_ASK, ""},
    {"POST", "https://ca/cert", 200, ACME_N, "-----BEGIN", ACME_DONE, ""},
};

static void acme_order_goes_its_way(void **state)
{
    (void)state;
    struct acme_trial trial;
    acme_trial_begin(&trial);
    struct acme_order *o = &trial.order;
    for (size_t i = 0; i < COUNT_OF(ACME_STORY); i++) {
        struct acme_request request;
        assert_true(acme_order_next(o, &request));
        if (strcmp(request.method, ACME_STORY[i].method) || strcmp(request.url, ACME_STORY[i].url))
            fail_msg("%zu: %s %s", i, request.method, request.url);
        assert_int_equal(request.body.len > 0, *request.method == 'P');
        buffer_free(&request.body);
        enum acme_turn turn =
            acme_feed(o, ACME_STORY[i].status, ACME_STORY[i].head, ACME_STORY[i].body);
        if (turn != ACME_STORY[i].turn) fail_msg("%zu: turn %d, %s", i, turn, o->why);
        assert_string_equal(o->token, ACME_STORY[i].token);
        if (strstr(ACME_STORY[i].head, "Retry-After")) assert_int_equal(o->wait_ms, 3000);
        else if (turn == ACME_WAIT) assert_in_range(o->wait_ms, 500, 8000);
    }
    assert_int_equal(o->chain.len, 10);
    acme_trial_end(&trial);
}

/* An order of before a restart goes on where it stands, and is made anew where it came to nothing.
 */
static void acme_order_is_taken_up(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *body, *url;
    } rows[] = {
        {200, "{\"status\":\"valid\",\"certificate\":\"https://ca/cert\"}", "https://ca/cert"},
        {200, ACME_PENDING, "https://ca/a1"},
        {200, "{\"status\":\"invalid\"}", "https://ca/order"},
        {404, "{}", "https://ca/order"},
        {403, "gone", "https://ca/order"},
        {200, "{\"status\":\"ready\",\"finalize\":\"https://ca/f\"}", "https://ca/f"},
        {500, "{}", NULL}, /* may be better in a minute: the order is kept */
        {429, "{}", NULL},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct acme_trial trial;
        struct acme_request request;
        acme_trial_begin(&trial);
        struct acme_order *o = &trial.order;
        o->order_url = text_copy("https://ca/order/7");
        assert_true(acme_order_begin(o));
        assert_int_equal(acme_feed(o, 200, ACME_N, ACME_DIR), ACME_ASK);
        assert_int_equal(acme_feed(o, 200, ACME_N "Location: https://ca/acct/1\r\n", "{}"),
                         ACME_ASK);
        assert_true(acme_order_next(o, &request));
        assert_string_equal(request.url, "https://ca/order/7");
        buffer_free(&request.body);
        enum acme_turn turn = acme_feed(o, rows[i].status, ACME_N, rows[i].body);
        if (turn != (rows[i].url ? ACME_ASK : ACME_FAILED)) fail_msg("%zu: %s", i, o->why);
        if (rows[i].url) {
            assert_true(acme_order_next(o, &request));
            assert_string_equal(request.url, rows[i].url);
            buffer_free(&request.body);
        }
        assert_false(o->keeps_nothing);
        acme_trial_end(&trial);
    }
}

/* Whatever is answered, and in whatever order, an order ends, and keeps nothing that it could not
 * use: the search beside the stories above. The answers are others in each run; there are more of
 * them where all is wanted (./build.sh test STEP). */
static void acme_orders_end(void **state)
{
    (void)state;
    static const char *const bodies[] = {
        ACME_DIR,
        "{}",
        ACME_PENDING,
        ACME_AUTHZ("one.example.com", "valid", ""),
        ACME_AUTHZ("two.example.com", "pending", ACME_CHALLENGES),
        ACME_AUTHZ("one.example.com", "invalid", ACME_CHALLENGES),
        "{\"status\":\"ready\",\"finalize\":\"https://ca/f\"}",
        "{\"status\":\"processing\"}",
        "{\"status\":\"valid\",\"certificate\":\"https://ca/cert\"}",
        ACME_BAD,
        "{\"status\":[]}",
        "",
    };
    static const char *const heads[] = {
        ACME_N, ACME_N "Location: https://ca/acct/1\r\n", "Retry-After: 1\r\n" ACME_N,
        "",     ACME_N "Location: https://evil:444/\r\n",
    };
    static const int codes[] = {200, 200, 200, 200, 201, 400, 429, 500};
    unsigned seed = (unsigned)time(NULL), steps[ACME_STEPS] = {0};
    print_message("seed %u\n", seed);
    srandom(seed);
    int rounds = getenv("PRESENCE_THOROUGH") ? 3000 : 1000;
    for (int round = 0; round < rounds; round++) {
        struct acme_trial trial;
        acme_trial_begin(&trial);
        struct acme_order *o = &trial.order;
        enum acme_turn turn = ACME_ASK;
        int asked = 0;
        for (; turn == ACME_ASK || turn == ACME_WAIT; asked++) {
            struct acme_request request;
            steps[o->step]++;
            if (!acme_order_next(o, &request)) break;
            buffer_free(&request.body);
            /* What belongs here comes more often: else no order would come far. */
            size_t likely = (size_t[]){0, 1, 1, 2, 6, 4, 1, 8, 1}[o->step];
            bool right = random() % 16;
            turn = acme_feed(o, right ? 200 : codes[random() % (long)COUNT_OF(codes)],
                             heads[right ? 1 : random() % (long)COUNT_OF(heads)],
                             bodies[random() % 4 ? likely : (size_t)random() % COUNT_OF(bodies)]);
            assert_true(!*o->token || acme_is_base64url(o->token));
            assert_true(turn != ACME_WAIT || (o->wait_ms > 0 && o->wait_ms <= ACME_WAIT_MS));
            assert_true(turn != ACME_FAILED || *o->why);
        }
        assert_in_range(asked, 1, 301);
        acme_trial_end(&trial);
    }
    for (int i = 0; i < ACME_STEPS; i++)
        if (i != ACME_RENEWAL && !steps[i]) fail_msg("step %d was never reached", i);
}

static const struct CMUnitTest ACME_TESTS[] = {
    cmocka_unit_test(acme_signs_as_others_do),
    cmocka_unit_test(acme_names_a_certificate_as_its_server_does),
    cmocka_unit_test(acme_times_are_read),
    cmocka_unit_test(acme_waits_as_it_is_told),
    cmocka_unit_test(acme_renews_in_time),
    cmocka_unit_test(acme_rests_between_certificates),
    cmocka_unit_test(acme_asks_for_all_names),
    cmocka_unit_test(acme_answers_a_challenge),
    cmocka_unit_test(acme_order_goes_its_way),
    cmocka_unit_test(acme_order_is_taken_up),
    cmocka_unit_test(acme_orders_end),
};
