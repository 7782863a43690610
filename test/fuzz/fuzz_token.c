/* Fuzzes the token parser: as arbitrary text, and as an arbitrary header and payload that are
 * signed well, so that the claims are read. */

static const char SECRET[] = "0123456789abcdef0123456789abcdef";

/* Verifies; what is accepted must keep what token_verify promises. */
static enum token_problem fuzz_verify(struct token_keys *keys, struct span text)
{
    enum { NOW = 1000000000 };
    struct token token;
    enum token_problem problem = token_verify(keys, text, NOW, "", "", &token);
    if (problem) return problem;
    struct span user = {token.user, token.user_len};
    if (!user_id_valid(user) || !token_may_watch(&token, user)) abort();
    if (token.expires_ms + TOKEN_SKEW_MS <= NOW || text.len > TOKEN_MAX) abort();
    token_may_watch(&token, (struct span){"bob", 3});
    token_free(&token);
    return problem;
}

static void fuzz_token(const uint8_t *data, size_t len)
{
    struct token_key key = {.kind = TOKEN_HS256};
    struct token_keys keys = {&key, 1};
    uint8_t mac[SHA256_SIZE];
    struct buffer b = {0};
    mbedtls_pk_init(&key.pk);
    buffer_add(&key.secret, SECRET, sizeof SECRET - 1);
    fuzz_verify(&keys, (struct span){(const char *)data, len});
    const uint8_t *cut = len ? memchr(data, '\n', len) : NULL;
    size_t head = cut ? (size_t)(cut - data) : 0;
    if (cut) {
        base64url_encode(&b, data, head);
        buffer_text(&b, ".");
        base64url_encode(&b, cut + 1, len - head - 1);
        hmac_sha256((struct span){SECRET, sizeof SECRET - 1}, (struct span){b.at, b.len}, mac);
        buffer_text(&b, ".");
        base64url_encode(&b, mac, sizeof mac);
        enum token_problem problem = fuzz_verify(&keys, (struct span){b.at, b.len});
        if (problem == TOKEN_SECRET || problem == TOKEN_MISSING) abort();
        b.at[b.len - 2] = b.at[b.len - 2] == 'A' ? 'B' : 'A';
        if (fuzz_verify(&keys, (struct span){b.at, b.len}) == TOKEN_NONE) abort();
    }
    buffer_free(&b);
    secret_free(&key.secret);
}
