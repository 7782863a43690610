/* Fuzzes what stands in request lines, headers and options: ids, queries, addresses, durations,
 * sizes, tokens, keys. What is accepted must come back when it is written. */

/* An id that a segment gave must be valid, and encode to a segment that gives it again. */
static void fuzz_id(struct span segment)
{
    char id[USER_ID_MAX + 1], again[USER_ID_MAX + 1];
    size_t len, again_len;
    struct buffer b = {0};
    if (!uri_user_id(segment, id, &len)) return;
    if (!len || len > USER_ID_MAX || id[len] || strlen(id) != len) abort();
    if (!utf8_valid((struct span){id, len})) abort();
    uri_encode(&b, (struct span){id, len});
    if (!uri_user_id((struct span){b.at, b.len}, again, &again_len)) abort();
    if (again_len != len || memcmp(id, again, len)) abort();
    buffer_free(&b);
}

/* Any bytes must survive encoding and decoding. */
static void fuzz_encode(struct span bytes)
{
    struct buffer b = {0};
    char *back = malloc(bytes.len + 1);
    uri_encode(&b, bytes);
    if (uri_decode((struct span){b.at, b.len}, back, bytes.len + 1) != (int)bytes.len) abort();
    if (bytes.len && memcmp(back, bytes.at, bytes.len)) abort();
    if (bytes.len && uri_decode((struct span){b.at, b.len}, back, bytes.len) != -1) abort();
    buffer_free(&b);
    free(back);
}

/* An address must come back as text, a duration and a size as numbers. */
static void fuzz_options(const char *text)
{
    struct sockaddr_storage address, again;
    socklen_t len, again_len;
    char out[ADDRESS_TEXT], host[INET6_ADDRSTRLEN];
    uint8_t a[16], b[16];
    uint16_t a_port, b_port;
    int64_t n, m;
    if (address_parse(text, &address, &len)) {
        if (!address_parse(address_text(&address, out, sizeof out), &again, &again_len)) abort();
        address_pack(&address, a, &a_port);
        address_pack(&again, b, &b_port);
        if (len != again_len || a_port != b_port || memcmp(a, b, sizeof a)) abort();
        address_unpack_text(a, host, sizeof host);
        if (address_is_loopback(&address) && strncmp(host, "127.", 4) && strcmp(host, "::1"))
            abort();
    }
    if (duration_parse(text, &n) &&
        (n < 0 || !duration_parse(duration_text(n, out, sizeof out), &m) || n != m))
        abort();
    if (size_parse(text, &n) && n < 0) abort();
}

static void fuzz_uri(const uint8_t *data, size_t len)
{
    char *text = malloc(len + 1);
    if (len) memcpy(text, data, len);
    text[len] = 0;
    struct span bytes = {(const char *)data, len};
    char out[16];
    fuzz_id(bytes);
    fuzz_encode(bytes);
    fuzz_options(text);
    int n = query_get(text, "q", out, sizeof out);
    if (n < -2 || n >= (int)sizeof out || (n >= 0 && strlen(out) != (size_t)n)) abort();
    if (header_has_token(text, "upgrade") && strlen(text) < strlen("upgrade")) abort();
    if (ws_key_valid(text) && strlen(text) != 24) abort();
    free(text);
}
