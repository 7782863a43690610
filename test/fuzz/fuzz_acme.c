/* Fuzzes an order for a certificate with what a hostile server answers, over a real socket and the
 * code that reads answers: each byte string is answers to one order, in turn. An order ends, keeps
 * only what it can use, and waits no longer than it may; the chain it got is read as a certificate.
 * The same bytes are read as times. */

/* Bodies that bring an order on, so that the fuzzer comes far with a few bytes. */
static const char *const FUZZ_ACME_BODIES[] = {
    "{\"newNonce\":\"http://127.0.0.1/n\",\"newAccount\":\"http://127.0.0.1/a\",\"newOrder\":"
    "\"http://127.0.0.1/o\",\"renewalInfo\":\"http://127.0.0.1/i\"}",
    "{\"status\":\"valid\"}",
    "{\"status\":\"pending\",\"authorizations\":[\"http://127.0.0.1/1\",\"http://127.0.0.1/2\"]}",
    "{\"status\":\"pending\",\"identifier\":{\"value\":\"a.test\"},\"challenges\":[{\"type\":"
    "\"http-01\",\"url\":\"http://127.0.0.1/c\",\"token\":\"abc\"},{\"type\":\"tls-alpn-01\","
    "\"url\":\"http://127.0.0.1/d\",\"token\":\"def\"}]}",
    "{\"status\":\"valid\",\"identifier\":{\"value\":\"a.test\"}}",
    "{\"status\":\"ready\",\"finalize\":\"http://127.0.0.1/f\"}",
    "{\"status\":\"valid\",\"certificate\":\"http://127.0.0.1/z\"}",
    "{\"status\":\"processing\"}",
    "{\"suggestedWindow\":{\"start\":\"2025-01-01T00:00:00Z\",\"end\":\"2025-01-02T00:00:00Z\"}}",
    "{\"type\":\"urn:ietf:params:acme:error:badNonce\",\"detail\":\"x\"}",
};
enum { FUZZ_ACME_COUNT = sizeof FUZZ_ACME_BODIES / sizeof *FUZZ_ACME_BODIES };

/* Bodies with a hole, for up to 15 bytes of the input: what is of meaning is not far away then. */
static const char *const FUZZ_ACME_HOLES[][2] = {
    {"{\"newNonce\":\"http://127.0.0.1", "\"}"},
    {"{\"newNonce\":\"http://", "/n\"}"},
    {"{\"status\":\"pending\",\"authorizations\":[", "]}"},
    {"{\"status\":\"", "\",\"identifier\":{\"value\":\"a.test\"}}"},
    {"{\"status\":\"pending\",\"identifier\":{\"value\":\"", "\"}}"},
    {"{\"status\":\"pending\",\"identifier\":{\"value\":\"a.test\"},\"challenges\":[{\"type\":"
     "\"http-01\",\"url\":\"http://127.0.0.1/c\",\"token\":\"",
     "\"}]}"},
    {"{\"type\":\"urn:ietf:params:acme:error:", "\",\"detail\":\"x\"}"},
    {"{\"type\":\"x\",\"detail\":\"", "\"}"},
    {"{\"suggestedWindow\":{\"start\":\"", "\",\"end\":\"2025-01-02T00:00:00Z\"}}"},
    {"-----BEGIN CERTIFICATE-----\n", "\n-----END CERTIFICATE-----\n"},
};
enum { FUZZ_ACME_HOLED = sizeof FUZZ_ACME_HOLES / sizeof *FUZZ_ACME_HOLES };

/* In place of a signature, which took nine tenths of the time, and is the library's. */
int fuzz_pk_sign(mbedtls_pk_context *key, mbedtls_md_type_t kind, const unsigned char *hash,
                 size_t hash_len, unsigned char *out, size_t size, size_t *len,
                 int (*random)(void *, unsigned char *, size_t), void *context)
{
    static const unsigned char any[] = {0x30, 6, 2, 1, 1, 2, 1, 1};
    (void)key, (void)kind, (void)hash, (void)hash_len, (void)size, (void)random, (void)context;
    memcpy(out, any, sizeof any);
    *len = sizeof any;
    return 0;
}

/* What an order may hold at any time. */
static void fuzz_acme_look(const struct acme_order *o, enum acme_turn turn)
{
    const char *const urls[] = {o->nonce_url,    o->account_new_url, o->order_new_url,
                                o->info_url,     o->account_url,     o->order_url,
                                o->finalize_url, o->certificate_url, o->challenge_url};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++) {
        struct call_url url;
        if (!urls[i]) continue;
        if (!call_url_parse(urls[i], &url) || url.secure || url.port != 80) abort();
        if (!acme_is_near(&url)) abort();
    }
    if (*o->token && (!acme_is_base64url(o->token) || strlen(o->token) >= ACME_NONCE_MAX)) abort();
    if (*o->nonce && !acme_is_base64url(o->nonce)) abort();
    if (o->authorization_count > o->count || o->at > o->authorization_count) abort();
    if (turn == ACME_WAIT && (o->wait_ms <= 0 || o->waited_ms > ACME_WAIT_MS)) abort();
    if (turn == ACME_FAILED && !*o->why) abort();
    if (strlen(o->why) >= sizeof o->why || o->chain.len > ACME_BODY_MAX) abort();
    if (o->window_to && (o->window_from < 0 || o->window_to < o->window_from)) abort();
}

/* Sends these bytes as an answer and reads it as the thread does; the status, or 0. */
static int fuzz_acme_call(struct acme_order *o, struct span text, bool head, struct buffer *in,
                          struct acme_answer *answer)
{
    static struct caller caller = {.wake = -1};
    int pair[2];
    struct response_head found = {0};
    if (caller.wake < 0) caller.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair)) abort();
    if (text.len && write(pair[1], text.at, text.len) != (ssize_t)text.len) abort();
    shutdown(pair[1], SHUT_WR);
    struct call call = {.caller = &caller, .fd = pair[0], .why = o->why, .no_body = head};
    call.deadline = clock_mono_ms() + 1000000;
    *o->why = 0;
    answer->status =
        call_exchange(&call, span_of("GET / HTTP/1.1\r\n\r\n"), in, &found, ACME_BODY_MAX);
    call_finish(&call);
    close(pair[1]);
    if (!answer->status) {
        if (!*o->why) abort();
        return 0;
    }
    if (found.size > in->len || in->len - found.size > ACME_BODY_MAX) abort();
    answer->head = (struct span){in->at, found.size};
    answer->body = (struct span){in->at + found.size, in->len - found.size};
    return answer->status;
}

/* Takes so many bytes, or those there are. */
static struct span fuzz_acme_bytes(struct span *data, size_t len)
{
    struct span taken = {data->at, len < data->len ? len : data->len};
    data->at += taken.len;
    data->len -= taken.len;
    return taken;
}

/* Takes the next answer off the bytes: one that is known, by a byte, with a hole or without; or as
 * it is, by its length. */
static void fuzz_acme_next(struct span *data, struct buffer *out)
{
    static const char *const heads[] = {"200 OK", "201 OK", "400 No", "429 No"};
    static const char more[] = "Replay-Nonce: abc\r\nLocation: http://127.0.0.1/l\r\n";
    unsigned kind = (uint8_t)*fuzz_acme_bytes(data, 1).at, holed = kind - 4 * FUZZ_ACME_COUNT;
    if (kind < 4 * FUZZ_ACME_COUNT) {
        const char *body = FUZZ_ACME_BODIES[kind % FUZZ_ACME_COUNT];
        buffer_print(out, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n%s",
                     heads[kind / FUZZ_ACME_COUNT], more, strlen(body), body);
    } else if (holed < 2 * FUZZ_ACME_HOLED) {
        const char *const *hole = FUZZ_ACME_HOLES[holed % FUZZ_ACME_HOLED];
        struct span len = fuzz_acme_bytes(data, 1);
        struct span in = fuzz_acme_bytes(data, len.len ? *len.at & 15 : 0);
        buffer_print(out, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n%s",
                     heads[holed < FUZZ_ACME_HOLED ? 0 : 2], more,
                     strlen(hole[0]) + in.len + strlen(hole[1]), hole[0]);
        buffer_add(out, in.at, in.len);
        buffer_text(out, hole[1]);
    } else {
        struct span raw = fuzz_acme_bytes(data, (size_t)kind * 4);
        if (kind % 2) buffer_print(out, "HTTP/1.1 200 OK\r\n%s", more);
        else if (kind % 4)
            buffer_print(out, "HTTP/1.1 200 OK\r\n%sContent-Length: %zu\r\n\r\n", more, raw.len);
        buffer_add(out, raw.at, raw.len);
    }
}

/* The key of both, made once: what is fuzzed does not depend on it. */
static mbedtls_pk_context *fuzz_acme_key(void)
{
    static mbedtls_pk_context key;
    if (mbedtls_pk_get_type(&key) == MBEDTLS_PK_NONE) {
        mbedtls_pk_init(&key);
        if (psa_crypto_init() || tls_new_key(&key)) abort();
    }
    return &key;
}

static void fuzz_acme(const uint8_t *bytes, size_t len)
{
    static char name[] = "a.test", other[] = "b.test", *names[] = {name, other};
    struct span data = {(const char *)bytes, len};
    if (!len) return;
    char *text = mem_copy_text(data.at, len);
    if (acme_time(text) < -86400000 || acme_retry_after(text, 0) < -1) abort();
    free(text);
    uint8_t flags = bytes[0];
    data.at++;
    data.len--;
    struct acme_order o = {
        .names = names,
        .count = 1 + (flags & 1),
        .server = "http://127.0.0.1/d",
        .email = "",
        .account = fuzz_acme_key(),
        .key = fuzz_acme_key(),
        .replaces = flags & 2 ? "a.b" : "",
        .only_info = flags & 4,
        .kinds = {ACME_TLS_ALPN, ACME_HTTP},
        .kind_count = flags & 8 ? 1 : 2,
    };
    if (flags & 16) o.order_url = mem_copy_text("http://127.0.0.1/old", 20);
    if (!acme_order_begin(&o)) abort();
    enum acme_turn turn = ACME_ASK;
    while (data.len && (turn == ACME_ASK || turn == ACME_WAIT)) {
        struct acme_request request;
        struct acme_answer answer = {0};
        struct buffer sent = {0}, in = {0};
        if (!acme_order_next(&o, &request)) break;
        fuzz_acme_next(&data, &sent);
        turn = ACME_FAILED;
        if (fuzz_acme_call(&o, (struct span){sent.at, sent.len}, *request.method == 'H', &in,
                           &answer))
            turn = acme_order_take(&o, &answer, 0);
        fuzz_acme_look(&o, turn);
        buffer_free(&request.body);
        buffer_free(&sent);
        buffer_free(&in);
    }
    if (turn == ACME_DONE && !o.only_info) {
        struct tls_pair pair;
        tls_pair_init(&pair, "acme", "");
        acme_check(&o, &pair);
        tls_pair_free(&pair);
    }
    acme_order_free(&o);
}
