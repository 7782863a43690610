/* Unit tests of tokens, the admin's password and sessions. Included by unit.c behind presence.c and
 * token_extra.c. Every token is copied to memory of exactly its size, so that a sanitizer sees a
 * read past the end. */

#include <sys/ptrace.h>
#include <sys/wait.h>

#define TOKEN_WALL INT64_C(1700000000000)
#define TOKEN_ROWS(rows) (sizeof(rows) / sizeof *(rows))

/* What most tests need: the signer, and its three public halves as keys without kid. */
static struct token_world {
    struct token_signer signer;
    struct token_keys keys;
} TOKEN_WORLD;

static int token_setup(void **unused)
{
    (void)unused;
    token_signer_init(&TOKEN_WORLD.signer);
    for (int kind = 0; kind < TOKEN_KIND_COUNT; kind++)
        token_keys_add_signer(&TOKEN_WORLD.keys, &TOKEN_WORLD.signer, kind, "");
    return 0;
}

static int token_teardown(void **unused)
{
    (void)unused;
    token_keys_free(&TOKEN_WORLD.keys);
    token_signer_free(&TOKEN_WORLD.signer);
    return 0;
}

/* A C string as a span. */
static struct span token_span(const char *text)
{
    return (struct span){text, strlen(text)};
}

/* Makes b a signed token; a header of NULL is the shortest of that kind. */
static void token_make(struct buffer *b, enum token_kind kind, const char *header,
                       const char *claims)
{
    static const char *const headers[] = {"{\"alg\":\"HS256\"}", "{\"alg\":\"RS256\"}",
                                          "{\"alg\":\"ES256\"}"};
    token_write(b, token_span(header ? header : headers[kind]), token_span(claims));
    token_seal(b, &TOKEN_WORLD.signer, kind);
}

/* Verifies an exact copy, and that a token which is refused says nothing. */
static enum token_problem token_try(const struct token_keys *keys, const char *at, size_t len,
                                    int64_t wall_ms, struct token *out)
{
    struct span copy = pure_copy(at, len);
    enum token_problem problem = token_verify(keys, copy, wall_ms, "", "", out);
    pure_free(copy);
    if (problem) assert_true(!out->user_len && !out->admin && !out->watches_all && !out->watch.at);
    return problem;
}

/* The problem of a token, at TOKEN_WALL with the keys of TOKEN_WORLD. */
static enum token_problem token_judge(const char *at, size_t len)
{
    struct token token;
    enum token_problem problem = token_try(&TOKEN_WORLD.keys, at, len, TOKEN_WALL, &token);
    token_free(&token);
    return problem;
}

/* ---- base64url, comparison ------------------------------------------------------------------- */

/* RFC 4648 section 10, and what strictness refuses; out NULL: refused. */
static void base64url_rows(void **unused)
{
    (void)unused;
    static const struct {
        const char *text, *out;
    } rows[] = {
        {"", ""}, {"Zg", "f"}, {"Zm8", "fo"}, {"Zm9v", "foo"}, {"Zm9vYg", "foob"},
        {"Zm9vYmE", "fooba"}, {"Zm9vYmFy", "foobar"}, {"_-8", "\xff\xef"}, {"Z", NULL},
        {"Zm9vY", NULL}, {"Zg==", NULL}, {"Zg=", NULL}, {"Zm8=", NULL}, {"Zh", NULL},
        {"Zm9", NULL}, {"Zm9vYh", NULL}, {"/+8", NULL}, {"Zm 8", NULL}, {" Zm8", NULL},
        {"Zm8\n", NULL}, {"Zm9v\n", NULL}, {"Zm9.", NULL}, {"Zm\xc3\xa9", NULL},
    };
    for (size_t i = 0; i < TOKEN_ROWS(rows); i++) {
        char out[8];
        struct span text = pure_copy(rows[i].text, strlen(rows[i].text));
        int n = base64url_decode(text, out, sizeof out);
        size_t want = rows[i].out ? strlen(rows[i].out) : 0;
        if (n != (rows[i].out ? (int)want : -1)) fail_msg("%s: %d", rows[i].text, n);
        if (n > 0) assert_memory_equal(out, rows[i].out, want);
        if (n > 0) assert_int_equal(base64url_decode(text, out, want), want);
        if (n > 0) assert_int_equal(base64url_decode(text, out, want - 1), -1);
        pure_free(text);
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
        size_t len = pure_below(&seed, sizeof bytes);
        struct buffer b = {0};
        for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)pure_random(&seed);
        base64url_encode(&b, bytes, len);
        assert_int_equal(base64url_decode((struct span){b.at, b.len}, back, len), len);
        assert_memory_equal(back, bytes, len);
        buffer_free(&b);
    }
}

/* Whatever bit differs, it is seen. */
static void bytes_equal_sees_every_bit(void **unused)
{
    (void)unused;
    uint8_t a[40], b[40];
    for (size_t i = 0; i < sizeof a; i++) a[i] = b[i] = (uint8_t)(i * 37);
    for (size_t len = 0; len <= sizeof a; len++) {
        assert_true(bytes_equal_constant(a, b, len));
        for (size_t bit = 0; bit < sizeof a * 8; bit++) {
            b[bit / 8] ^= (uint8_t)(1 << bit % 8);
            assert_int_equal(bytes_equal_constant(a, b, len), bit / 8 >= len);
            b[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}

/* The instructions a process of its own runs to compare two runs of bytes, counted one by one;
 * -1 where that is not allowed. */
static long token_count_steps(const uint8_t *a, const uint8_t *b, size_t len)
{
    int status;
    pid_t child = fork();
    if (!child) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(9);
        raise(SIGSTOP);
        _exit(bytes_equal_constant(a, b, len) ? 1 : 2);
    }
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    if (!WIFSTOPPED(status)) return -1;
    long steps = 0;
    for (; WIFSTOPPED(status); steps++) {
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL)) {
            kill(child, SIGKILL);
            steps = -2;
        }
        assert_int_equal(waitpid(child, &status, 0), child);
    }
    return steps;
}

/* Comparing takes the same work wherever the first difference is, and where there is none. */
static void bytes_equal_is_constant(void **unused)
{
    (void)unused;
#ifdef __SANITIZE_THREAD__
    skip(); /* its runtime, called for every byte, takes as many instructions as it likes */
#endif
    enum { LEN = 32 };
    static const size_t places[] = {0, 1, 7, 8, 15, 16, 30, 31};
    uint8_t a[LEN] = {0}, b[LEN] = {0};
    long want = token_count_steps(a, b, LEN);
    if (want < 0) skip();
    assert_true(want > LEN);
    for (size_t i = 0; i < TOKEN_ROWS(places); i++) {
        b[places[i]] = 0xff;
        assert_int_equal(token_count_steps(a, b, LEN), want);
        b[places[i]] = 0;
    }
    memset(b, 0xff, sizeof b);
    assert_int_equal(token_count_steps(a, b, LEN), want);
}

/* ---- Keys ------------------------------------------------------------------------------------ */

#define PEM_RSA_1024                                                                               \
    "-----BEGIN PUBLIC KEY-----\n"                                                                 \
    "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDXEKoip9nALX3FdCTr2jxrvgDO\n"                           \
    "6YQKaWVE8o1tXsTF6i++PbEkp0D+NeK4Bg1spSR1m5pRaxGn1zOhjUb6mIEJ7dBk\n"                           \
    "h2T6F2YptvhOk+cifO+5MIAkoOClEbtGdXyXKhuK7aaZhwnulfe4rkTCidbBlgnV\n"                           \
    "eFKLtHX2jq0MF7jSFQIDAQAB\n"                                                                   \
    "-----END PUBLIC KEY-----\n"
#define PEM_RSA_PKCS1                                                                              \
    "-----BEGIN RSA PUBLIC KEY-----\n"                                                             \
    "MIIBCgKCAQEAofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd/wWJcyQoTbji9k0l8W2\n"                           \
    "6mPddxHmfHQp+Vaw+4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL+yRT+SFd2lZS+pCgNMs\n"                           \
    "D1W/YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb/7OMg0LOL+bSf63kpaSHSXndS5\n"                           \
    "z5rexMdbBYUsLA9e+KXBdQOS+UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxv\n"                           \
    "b3qCo5ZwKh9kG4LT6/I5IhlJH7aGhyxXFvUK+DWNmoudF8NAco9/h9iaGNj8q2et\n"                           \
    "hFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQIDAQAB\n"                                                   \
    "-----END RSA PUBLIC KEY-----\n"
#define PEM_P384                                                                                   \
    "-----BEGIN PUBLIC KEY-----\n"                                                                 \
    "MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEJbmNvVZKOUNcYH5NWEzEXRKCb1JDcd1h\n"                           \
    "jeFSkc0pP8FEknd6PQX3bXBNVnvHgv/8AVSpJ2j+Z4a5v2FqMxL3VUbH4Kxo6iEI\n"                           \
    "0vQbKVHmex0tXNY5tB37QdB/dUXYVyjD\n"                                                           \
    "-----END PUBLIC KEY-----\n"
#define PEM_SECP256K1                                                                              \
    "-----BEGIN PUBLIC KEY-----\n"                                                                 \
    "MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAEyq3+ckMpCgWHzhECkK5MFtRGiqW/Icen\n"                           \
    "jGJ5DV0fNOPByGgsOfi7fNpECXBP711m3iOyGRm0TNnttadj4kQU4g==\n"                                   \
    "-----END PUBLIC KEY-----\n"
#define PEM_ED25519                                                                                \
    "-----BEGIN PUBLIC KEY-----\n"                                                                 \
    "MCowBQYDK2VwAyEAzF4OvxmUG38tatarRVIabTjHos/i2uzISdai0W0bmM4=\n"                               \
    "-----END PUBLIC KEY-----\n"
#define PEM_P256                                                                                   \
    "-----BEGIN PUBLIC KEY-----\n"                                                                 \
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n"                           \
    "6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n"                               \
    "-----END PUBLIC KEY-----\n"
#define PEM_OFF_CURVE /* the last bit of y is the other one */                                     \
    "-----BEGIN PUBLIC KEY-----\n"                                                                 \
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n"                           \
    "6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrA==\n"                               \
    "-----END PUBLIC KEY-----\n"
#define PEM_P256_CRLF                                                                              \
    "-----BEGIN PUBLIC KEY-----\r\n"                                                               \
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\r\n"                         \
    "6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\r\n"                             \
    "-----END PUBLIC KEY-----\r\n"
#define SECRET_32 "0123456789abcdef0123456789abcdef"

/* What may be a key file; says: a part of the error line, or NULL where the key is taken. */
static const struct token_file_row {
    bool is_public;
    const char *text, *says;
    enum token_kind kind;
} TOKEN_FILES[] = {
    {false, SECRET_32, NULL, TOKEN_HS256},
    {false, SECRET_32 "\n", NULL, TOKEN_HS256},
    {false, SECRET_32 "\r\n", NULL, TOKEN_HS256},
    {false, SECRET_32 SECRET_32, NULL, TOKEN_HS256},
    {false, "", "has 0 bytes", 0},
    {false, "\n", "has 0 bytes", 0},
    {false, "0123456789abcdef0123456789abcde", "has 31 bytes; a secret has 32 to 4096", 0},
    {false, "0123456789abcdef0123456789abcde\n", "has 31 bytes", 0},
    {false, "0123456789abcdef0123456789abcde\r\n", "has 31 bytes", 0},
    {false, "0123456789abcdef0123456789abcd\n\r\n", "has 31 bytes", 0},
    {false, PEM_P256, "is PEM, no secret; public keys go to --jwt-public-key-file", 0},
    {true, PEM_P256, NULL, TOKEN_ES256},
    {true, PEM_P256_CRLF, NULL, TOKEN_ES256},
    {true, "a comment\n\n" PEM_P256, NULL, TOKEN_ES256},
    {true, PEM_RSA_PKCS1, NULL, TOKEN_RS256},
    {true, "", "is not PEM", 0},
    {true, SECRET_32, "is not PEM", 0},
    {true, "-----BEGIN PUBLIC KEY-----\n", "no key in it that is understood", 0},
    {true, "-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n", "no key in it", 0},
    {true, "-----BEGIN CERTIFICATE-----\nMFkw\n-----END CERTIFICATE-----\n", "no key in it", 0},
    {true, PEM_RSA_1024, "is neither RSA of 2048 to 8192 bits nor EC on P-256", 0},
    {true, PEM_P384, "is neither RSA", 0},
    {true, PEM_SECP256K1, "no key in it that is understood", 0},
    {true, PEM_ED25519, "no key in it that is understood", 0},
    {true, PEM_OFF_CURVE, "no key in it that is understood", 0},
    {true, PEM_P256 PEM_RSA_1024, "holds several keys", 0},
    {true, "-----BEGIN PRIVATE KEY-----\nMFkw\n-----END PRIVATE KEY-----\n", "holds a private", 0},
    {true, "-----BEGIN EC PRIVATE KEY-----\nMFkw\n", "holds a private key", 0},
    {true, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMFkw\n", "holds a private key", 0},
    {true, PEM_P256 "-----BEGIN RSA PRIVATE KEY-----\nMFkw\n", "holds a private key", 0},
};

static void token_files_are_read(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < TOKEN_ROWS(TOKEN_FILES); i++) {
        const struct token_file_row *row = &TOKEN_FILES[i];
        char err[WHY_MAX] = "";
        struct token_keys keys = {0};
        bool good = token_keys_add_bytes(&keys, row->is_public, "", token_span(row->text), WHY(err));
        if (good != !row->says || keys.count != good || (good && keys.at[0].kind != row->kind))
            fail_msg("file %zu: %s", i, err);
        const char *option = row->is_public ? "--jwt-public-key-file: /proc/self/fd/"
                                            : "--jwt-secret-file: /proc/self/fd/";
        if (!good && (strncmp(err, option, strlen(option)) || !strstr(err, row->says)))
            fail_msg("file %zu: %s", i, err);
        if (!good) assert_null(strchr(err, '\n'));
        if (good && !row->is_public) assert_true(keys.at[0].secret.len % 32 == 0);
        token_keys_free(&keys);
    }
}

/* Limits of size, files that are not there, directories; a key that fails leaves the others. */
static void token_files_have_limits(void **unused)
{
    (void)unused;
    static char bytes[TOKEN_PEM_MAX + 1];
    char err[WHY_MAX];
    struct token_keys keys = {0};
    memset(bytes, 'a', sizeof bytes);
    assert_true(token_keys_add_bytes(&keys, false, "", (struct span){bytes, 4096}, WHY(err)));
    assert_false(token_keys_add_bytes(&keys, false, "", (struct span){bytes, 4097}, WHY(err)));
    assert_non_null(strstr(err, "has 4097 bytes"));
    assert_false(token_keys_add_bytes(&keys, false, "", (struct span){bytes, 4099}, WHY(err)));
    assert_non_null(strstr(err, "is too long"));
    bytes[4096] = '\r';
    bytes[4097] = '\n';
    assert_true(token_keys_add_bytes(&keys, false, "", (struct span){bytes, 4098}, WHY(err)));
    assert_int_equal(keys.at[1].secret.len, 4096);
    assert_false(token_keys_add_bytes(&keys, true, "", (struct span){bytes, sizeof bytes}, WHY(err)));
    assert_non_null(strstr(err, "is too long"));
    assert_false(token_keys_add_secret(&keys, "/nonexistent", true, WHY(err)));
    assert_string_equal(err, "--jwt-secret-file: cannot read /nonexistent: No such file or"
                             " directory; name a readable file");
    assert_false(token_keys_add_public(&keys, "key=/", true, WHY(err)));
    assert_string_equal(err, "--jwt-public-key-file: cannot read /: Is a directory; name a readable"
                             " file");
    assert_int_equal(keys.count, 2);
    token_keys_free(&keys);
    assert_int_equal(keys.count, 0);
}

/* A certificate gives its key, a private key is refused, both as Mbed TLS writes them. */
static void token_files_of_pairs(void **unused)
{
    (void)unused;
    for (int kind = TOKEN_RS256; kind < TOKEN_KIND_COUNT; kind++) {
        mbedtls_pk_context *pair = &TOKEN_WORLD.signer.pairs[kind];
        static char pem[8192];
        char err[WHY_MAX];
        struct token_keys keys = {0};
        struct token token;
        struct buffer b = {0};
        mbedtls_x509write_cert cert;
        mbedtls_x509write_crt_init(&cert);
        mbedtls_x509write_crt_set_version(&cert, MBEDTLS_X509_CRT_VERSION_3);
        mbedtls_x509write_crt_set_md_alg(&cert, MBEDTLS_MD_SHA256);
        mbedtls_x509write_crt_set_subject_key(&cert, pair);
        mbedtls_x509write_crt_set_issuer_key(&cert, pair);
        assert_int_equal(mbedtls_x509write_crt_set_subject_name(&cert, "CN=a"), 0);
        assert_int_equal(mbedtls_x509write_crt_set_issuer_name(&cert, "CN=a"), 0);
        assert_int_equal(mbedtls_x509write_crt_set_serial_raw(&cert, (uint8_t *)"\1", 1), 0);
        assert_int_equal(
            mbedtls_x509write_crt_set_validity(&cert, "20200101000000", "20210101000000"), 0);
        assert_int_equal(mbedtls_x509write_crt_pem(&cert, (uint8_t *)pem, sizeof pem, token_random,
                                                   NULL), 0);
        assert_true(token_keys_add_bytes(&keys, true, "", token_span(pem), WHY(err)));
        assert_int_equal(keys.at[0].kind, kind);
        token_make(&b, kind, NULL, "{\"sub\":\"alice\",\"exp\":1700000060}");
        assert_int_equal(token_try(&keys, b.at, b.len, TOKEN_WALL, &token), TOKEN_NONE);
        token_free(&token);
        size_t len = strlen(pem);
        assert_int_equal(mbedtls_pk_write_key_pem(pair, (uint8_t *)pem + len, sizeof pem - len), 0);
        assert_false(token_keys_add_bytes(&keys, true, "", token_span(pem), WHY(err)));
        assert_non_null(strstr(err, "holds a private key"));
        assert_false(token_keys_add_bytes(&keys, true, "", token_span(pem + len), WHY(err)));
        assert_non_null(strstr(err, "holds a private key"));
        mbedtls_x509write_crt_free(&cert);
        buffer_free(&b);
        token_keys_free(&keys);
    }
}

/* [KID=]FILE */
static void token_paths_are_split(void **unused)
{
    (void)unused;
    static const struct {
        const char *value, *kid, *path;
    } rows[] = {
        {"file", "", "file"},
        {"a=file", "a", "file"},
        {"2026-01=/etc/key", "2026-01", "/etc/key"},
        {"a=b=c", "a", "b=c"},
        {"a=", "a", ""},
        {"=file", "", "=file"},
        {"/etc/a=b", "", "/etc/a=b"},
        {"./a=b", "", "./a=b"},
        {"\xc3\xa9=file", "\xc3\xa9", "file"},
        {"\xff=file", "", "\xff=file"},
        {SECRET_32 SECRET_32 "=file", SECRET_32 SECRET_32, "file"},
        {SECRET_32 SECRET_32 "0=file", "", SECRET_32 SECRET_32 "0=file"},
        {"", "", ""},
    };
    for (size_t i = 0; i < TOKEN_ROWS(rows); i++) {
        char kid[TOKEN_KID_MAX + 1];
        assert_string_equal(token_key_path(rows[i].value, kid), rows[i].path);
        assert_string_equal(kid, rows[i].kid);
    }
}

/* ---- Verification ---------------------------------------------------------------------------- */

/* The examples of RFC 7515 appendix A. Their claims have no sub, which shows only when the
 * signature is right; 1300819380 is when they expire. */
static void token_vectors(void **unused)
{
    (void)unused;
#define CLAIMS                                                                                     \
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVl"\
    "fQ."
    static const struct {
        const char *token;
        enum token_problem problem;
    } rows[] = {
        {"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9" CLAIMS
         "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk", TOKEN_SUBJECT},
        {"eyJhbGciOiJSUzI1NiJ9" CLAIMS
         "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W"
         "2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkS"
         "jtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnv"
         "Wh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
         TOKEN_SUBJECT},
        {"eyJhbGciOiJFUzI1NiJ9" CLAIMS
         "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
         TOKEN_SUBJECT},
        {"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA."
         "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7Xdt"
         "AG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
         TOKEN_ALGORITHM},
        {"eyJhbGciOiJub25lIn0" CLAIMS, TOKEN_ALGORITHM},
    };
#undef CLAIMS
    for (size_t i = 0; i < TOKEN_ROWS(rows); i++) {
        struct token token;
        const char *text = rows[i].token;
        int64_t wall = INT64_C(1300819380000);
        assert_int_equal(token_try(&TOKEN_WORLD.keys, text, strlen(text), wall, &token),
                         rows[i].problem);
        if (rows[i].problem != TOKEN_SUBJECT) continue;
        wall += TOKEN_SKEW_MS;
        assert_int_equal(token_try(&TOKEN_WORLD.keys, text, strlen(text), wall, &token),
                         TOKEN_EXPIRED);
    }
}

#define ALICE "{\"sub\":\"alice\",\"exp\":1700000060}"
#define ALICE_AND(more) "{\"sub\":\"alice\",\"exp\":1700000060," more "}"
#define EXP(exp) "{\"sub\":\"alice\",\"exp\":" exp "}"
#define SUB(sub) "{\"sub\":" sub ",\"exp\":1700000060}"
#define HS(more) "{\"alg\":\"HS256\"," more "}"
#define TEN "0123456789"
#define ID_128 TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN TEN "01234567"
#define DEEP_15 "[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]"

/* Headers and claims, well signed with the secret, and what is wrong with them. NULL is what is
 * good. */
static const struct token_row {
    const char *header, *claims;
    enum token_problem problem;
    const char *issuer, *audience;
} TOKEN_TABLE[] = {
    {.problem = TOKEN_NONE},
    {"{\"alg\":\"none\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"None\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"NONE\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"nOnE\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"hs256\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"HS256 \"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"HS256\\u0000\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"HS384\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"HS512\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"PS256\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"ES384\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"EdDSA\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":256}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":null}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":[\"HS256\"]}", .problem = TOKEN_ALGORITHM},
    {"{\"ALG\":\"HS256\"}", .problem = TOKEN_ALGORITHM},
    {"{}", .problem = TOKEN_ALGORITHM},
    {"{\"\\u0061lg\":\"H\\u0053256\"}", .problem = TOKEN_NONE},
    {" {\"alg\" : \"HS256\"}\r\n", .problem = TOKEN_NONE},
    {"{\"alg\":\"none\",\"alg\":\"HS256\"}", .problem = TOKEN_NONE},
    {"{\"alg\":\"HS256\",\"alg\":\"none\"}", .problem = TOKEN_ALGORITHM},
    {"{\"alg\":\"RS256\"}", .problem = TOKEN_SIGNATURE},
    {"{\"alg\":\"ES256\"}", .problem = TOKEN_SIGNATURE},
    {"", .problem = TOKEN_MALFORMED},
    {"HS256", .problem = TOKEN_MALFORMED},
    {"\"HS256\"", .problem = TOKEN_MALFORMED},
    {"[\"alg\",\"HS256\"]", .problem = TOKEN_MALFORMED},
    {"null", .problem = TOKEN_MALFORMED},
    {"{\"alg\":\"HS256\"", .problem = TOKEN_MALFORMED},
    {"{\"alg\":\"HS256\"}}", .problem = TOKEN_MALFORMED},
    {"\xef\xbb\xbf{\"alg\":\"HS256\"}", .problem = TOKEN_MALFORMED},
    {HS("\"x\":\"\xff\""), .problem = TOKEN_MALFORMED},
    {HS("\"x\":" DEEP_15), .problem = TOKEN_NONE},
    {HS("\"x\":[" DEEP_15 "]"), .problem = TOKEN_MALFORMED},
    {HS("\"typ\":\"JWT\""), .problem = TOKEN_NONE},
    {HS("\"typ\":\"jwt\""), .problem = TOKEN_NONE},
    {HS("\"typ\":\"at+jwt\""), .problem = TOKEN_NONE},
    {HS("\"typ\":\"AT+JWT\""), .problem = TOKEN_NONE},
    {HS("\"typ\":\"JOSE\""), .problem = TOKEN_HEADER},
    {HS("\"typ\":\"\""), .problem = TOKEN_HEADER},
    {HS("\"typ\":\"JWT\\u0000\""), .problem = TOKEN_HEADER},
    {HS("\"typ\":\"dpop+jwt\""), .problem = TOKEN_HEADER},
    {HS("\"typ\":null"), .problem = TOKEN_HEADER},
    {HS("\"crit\":[\"exp\"],\"exp\":1700000060"), .problem = TOKEN_HEADER},
    {HS("\"crit\":[\"b64\"],\"b64\":false"), .problem = TOKEN_HEADER},
    {HS("\"crit\":[]"), .problem = TOKEN_HEADER},
    {HS("\"crit\":null"), .problem = TOKEN_HEADER},
    {HS("\"kid\":\"any\""), .problem = TOKEN_NONE},
    {HS("\"kid\":\"\""), .problem = TOKEN_NONE},
    {HS("\"kid\":1"), .problem = TOKEN_MALFORMED},
    {HS("\"kid\":null"), .problem = TOKEN_MALFORMED},
    {HS("\"jwk\":{\"kty\":\"oct\"},\"jku\":\"https://example.com\""), .problem = TOKEN_NONE},

    {NULL, "", .problem = TOKEN_MALFORMED},
    {NULL, "[]", .problem = TOKEN_MALFORMED},
    {NULL, "\"alice\"", .problem = TOKEN_MALFORMED},
    {NULL, "null", .problem = TOKEN_MALFORMED},
    {NULL, ALICE "x", .problem = TOKEN_MALFORMED},
    {NULL, ALICE_AND("\"x\":" DEEP_15), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"x\":[" DEEP_15 "]"), .problem = TOKEN_MALFORMED},

    {NULL, "{}", .problem = TOKEN_CLAIMS},
    {NULL, "{\"sub\":\"alice\"}", .problem = TOKEN_CLAIMS},
    {NULL, EXP("\"1700000060\""), .problem = TOKEN_CLAIMS},
    {NULL, EXP("null"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("true"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("[1700000060]"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("-1"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("-1700000060"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("-0.0"), .problem = TOKEN_EXPIRED},
    {NULL, EXP("0"), .problem = TOKEN_EXPIRED},
    {NULL, EXP("1700000060.5"), .problem = TOKEN_NONE},
    {NULL, EXP("17000000.6e2"), .problem = TOKEN_NONE},
    {NULL, EXP("1.70000006E+9"), .problem = TOKEN_NONE},
    {NULL, EXP("253402300799"), .problem = TOKEN_NONE},
    {NULL, EXP("253402300799.5"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("1700000060000"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("9223372036854775807"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("18446744073709551615"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("1e308"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("1e400"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("-1e400"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("1e-400"), .problem = TOKEN_EXPIRED},
    {NULL, EXP("1700000060.0000000000000000000"), .problem = TOKEN_NONE},
    {NULL, EXP("1700000060.00000000000000000000000"), .problem = TOKEN_CLAIMS},
    {NULL, EXP("NaN"), .problem = TOKEN_MALFORMED},
    {NULL, EXP("Infinity"), .problem = TOKEN_MALFORMED},
    {NULL, EXP("0x7fffffff"), .problem = TOKEN_MALFORMED},
    {NULL, "{\"sub\":\"alice\",\"exp\":1,\"exp\":1700000060}", .problem = TOKEN_NONE},
    {NULL, "{\"sub\":\"alice\",\"exp\":1700000060,\"exp\":1}", .problem = TOKEN_EXPIRED},

    {NULL, ALICE_AND("\"nbf\":0"), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"nbf\":1700000000"), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"nbf\":1700000031"), .problem = TOKEN_NOT_YET},
    {NULL, ALICE_AND("\"nbf\":-1"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"nbf\":1e400"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"nbf\":\"0\""), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"nbf\":null"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"iat\":\"whenever\""), .problem = TOKEN_NONE},

    {NULL, "{\"exp\":1700000060}", .problem = TOKEN_SUBJECT},
    {NULL, SUB("\"\""), .problem = TOKEN_SUBJECT},
    {NULL, SUB("1"), .problem = TOKEN_SUBJECT},
    {NULL, SUB("null"), .problem = TOKEN_SUBJECT},
    {NULL, SUB("[\"alice\"]"), .problem = TOKEN_SUBJECT},
    {NULL, SUB("\"a\\u0000b\""), .problem = TOKEN_SUBJECT},
    {NULL, SUB("\"\\u0000\""), .problem = TOKEN_SUBJECT},
    {NULL, SUB("\"a\\nb\""), .problem = TOKEN_SUBJECT},
    {NULL, SUB("\"\\u0085\""), .problem = TOKEN_SUBJECT},
    {NULL, SUB("\"" ID_128 "\""), .problem = TOKEN_NONE},
    {NULL, SUB("\"" ID_128 "9\""), .problem = TOKEN_SUBJECT},
    {NULL, SUB("\"\\ud83d\""), .problem = TOKEN_MALFORMED},

    {NULL, ALICE, TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"joe\""), TOKEN_NONE, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"j\\u006fe\""), TOKEN_NONE, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"Joe\""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"joe \""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"joe\\u0000\""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"\""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":[\"joe\"]"), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"joe\",\"iss\":\"eve\""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"anybody\""), TOKEN_NONE, "", ""},
    {NULL, ALICE, TOKEN_AUDIENCE, "", "me"},
    {NULL, ALICE_AND("\"aud\":\"me\""), TOKEN_NONE, "", "me"},
    {NULL, ALICE_AND("\"aud\":[\"me\"]"), TOKEN_NONE, "", "me"},
    {NULL, ALICE_AND("\"aud\":[1,\"you\",\"me\"]"), TOKEN_NONE, "", "me"},
    {NULL, ALICE_AND("\"aud\":[]"), TOKEN_AUDIENCE, "", "me"},
    {NULL, ALICE_AND("\"aud\":[\"you\",[\"me\"]]"), TOKEN_AUDIENCE, "", "me"},
    {NULL, ALICE_AND("\"aud\":{\"me\":true}"), TOKEN_AUDIENCE, "", "me"},
    {NULL, ALICE_AND("\"aud\":\"Me\""), TOKEN_AUDIENCE, "", "me"},
    {NULL, ALICE_AND("\"aud\":\"me2\""), TOKEN_AUDIENCE, "", "me"},
    {NULL, ALICE_AND("\"aud\":\"you\""), TOKEN_NONE, "", ""},
    {NULL, ALICE_AND("\"iss\":\"joe\",\"aud\":\"me\""), TOKEN_NONE, "joe", "me"},
    {NULL, ALICE_AND("\"iss\":\"me\",\"aud\":\"joe\""), TOKEN_ISSUER, "joe", "me"},

    {NULL, ALICE_AND("\"watch\":\"*\""), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"watch\":[]"), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"watch\":[\"" ID_128 "\"]"), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"watch\":[\"" ID_128 "9\"]"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"watch\":\"bob\""), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"watch\":[\"bob\",1]"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"watch\":[\"\"]"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"watch\":[\"a\\u0000\"]"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"watch\":[[\"bob\"]]"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"watch\":{\"bob\":true}"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"watch\":true"), .problem = TOKEN_CLAIMS},
    {NULL, ALICE_AND("\"watch\":null"), .problem = TOKEN_CLAIMS},
};

static void token_table(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < TOKEN_ROWS(TOKEN_TABLE); i++) {
        const struct token_row *row = &TOKEN_TABLE[i];
        struct buffer b = {0};
        struct token token;
        token_make(&b, TOKEN_HS256, row->header, row->claims ? row->claims : ALICE);
        struct span copy = pure_copy(b.at, b.len);
        enum token_problem problem =
            token_verify(&TOKEN_WORLD.keys, copy, TOKEN_WALL, row->issuer ? row->issuer : "",
                         row->audience ? row->audience : "", &token);
        pure_free(copy);
        if (problem != row->problem)
            fail_msg("%s %s: %s", row->header, row->claims, TOKEN_PROBLEMS[problem]);
        if (!problem) {
            assert_int_equal(strlen(token.user), token.user_len);
            if (!row->claims) assert_string_equal(token.user, "alice");
            if (!row->claims) assert_int_equal(token.expires_ms, TOKEN_WALL + 60000);
        }
        token_free(&token);
        buffer_free(&b);
    }
}

/* Every problem has a text of its own that no token can be in. */
static void token_problems_have_texts(void **unused)
{
    (void)unused;
    for (int i = 0; i < TOKEN_PROBLEM_COUNT; i++) {
        assert_true(TOKEN_PROBLEMS[i] && *TOKEN_PROBLEMS[i] && !strchr(TOKEN_PROBLEMS[i], '%'));
        for (int k = 0; k < i; k++) assert_string_not_equal(TOKEN_PROBLEMS[i], TOKEN_PROBLEMS[k]);
    }
}

/* Texts that are no token: too few parts or too many, padding, other characters, too long. */
static void token_forms(void **unused)
{
    (void)unused;
    struct buffer b = {0}, c = {0};
    token_make(&b, TOKEN_HS256, NULL, ALICE);
    assert_int_equal(token_judge(b.at, b.len), TOKEN_NONE);
    assert_int_equal(token_judge("", 0), TOKEN_MISSING);
    assert_int_equal(token_judge(".", 1), TOKEN_MALFORMED);
    assert_int_equal(token_judge("..", 2), TOKEN_MALFORMED);
    assert_int_equal(token_judge("...", 3), TOKEN_MALFORMED);
    static const char *const tails[] = {".", "=", "==", "\n", " ", ".e30", "A", "AA", "\xc3\xa9"};
    for (size_t i = 0; i < TOKEN_ROWS(tails); i++) {
        c.len = 0;
        buffer_add(&c, b.at, b.len);
        buffer_text(&c, tails[i]);
        enum token_problem problem = token_judge(c.at, c.len);
        if (problem != TOKEN_MALFORMED && problem != TOKEN_SIGNATURE) fail_msg("tail %zu", i);
        c.len = 0;
        buffer_text(&c, tails[i]);
        buffer_add(&c, b.at, b.len);
        assert_true(token_judge(c.at, c.len) != TOKEN_NONE);
    }
    for (size_t n = 0; n < 6200; n += n < 5900 ? 5900 : 1) { /* around TOKEN_MAX */
        c.len = 0;
        buffer_text(&c, "{\"sub\":\"alice\",\"exp\":1700000060");
        memset(buffer_room(&c, n), ' ', n);
        c.len += n;
        buffer_text(&c, "}");
        token_write(&b, token_span("{\"alg\":\"HS256\"}"), (struct span){c.at, c.len});
        token_seal(&b, &TOKEN_WORLD.signer, TOKEN_HS256);
        assert_int_equal(token_judge(b.at, b.len), b.len > 8192 ? TOKEN_MALFORMED : TOKEN_NONE);
    }
    assert_true(b.len > 8192);
    buffer_free(&b);
    buffer_free(&c);
}

/* No token with one bit changed is good, nor any beginning or end of one. */
static void token_changes_are_seen(void **unused)
{
    (void)unused;
    for (int kind = 0; kind < TOKEN_KIND_COUNT; kind++) {
        struct buffer b = {0};
        token_make(&b, kind, NULL, ALICE);
        assert_int_equal(token_judge(b.at, b.len), TOKEN_NONE);
        for (size_t i = 0; i < b.len; i++) {
            for (size_t bit = 0; bit < 8; bit++) {
                if (kind != TOKEN_HS256 && bit != i % 6) continue; /* those take their time */
                b.at[i] ^= (char)(1 << bit);
                if (token_judge(b.at, b.len) == TOKEN_NONE) fail_msg("byte %zu, bit %zu", i, bit);
                b.at[i] ^= (char)(1 << bit);
            }
        }
        for (size_t i = 1; i < b.len; i++) {
            if (token_judge(b.at, b.len - i) == TOKEN_NONE) fail_msg("less the last %zu", i);
            if (token_judge(b.at + i, b.len - i) == TOKEN_NONE) fail_msg("less the first %zu", i);
        }
        assert_int_equal(token_judge(b.at, b.len), TOKEN_NONE);
        buffer_free(&b);
    }
}

/* A public key is no secret, and the header does not choose what a key is good for. */
static void token_algorithms_are_not_confused(void **unused)
{
    (void)unused;
    struct token token;
    for (int kind = TOKEN_RS256; kind < TOKEN_KIND_COUNT; kind++) {
        char pem[1024];
        struct token_keys keys = {0};
        struct buffer b = {0};
        token_keys_add_signer(&keys, &TOKEN_WORLD.signer, kind, "");
        token_public_pem(&TOKEN_WORLD.signer.pairs[kind], pem);
        for (size_t cut = 0; cut < 2; cut++) { /* with and without the last line end */
            token_write(&b, token_span("{\"alg\":\"HS256\"}"), token_span(ALICE));
            token_seal_secret(&b, (struct span){pem, strlen(pem) - cut});
            assert_int_equal(token_try(&keys, b.at, b.len, TOKEN_WALL, &token), TOKEN_ALGORITHM);
            assert_int_equal(token_judge(b.at, b.len), TOKEN_SIGNATURE);
        }
        for (int other = 0; other < TOKEN_KIND_COUNT; other++) {
            char header[32];
            snprintf(header, sizeof header, "{\"alg\":\"%s\"}", TOKEN_ALGORITHMS[other]);
            token_make(&b, kind, header, ALICE);
            assert_int_equal(token_judge(b.at, b.len),
                             other == kind ? TOKEN_NONE : TOKEN_SIGNATURE);
            assert_int_equal(token_try(&keys, b.at, b.len, TOKEN_WALL, &token),
                             other == kind ? TOKEN_NONE : TOKEN_ALGORITHM);
            token_free(&token);
        }
        token_keys_free(&keys);
        buffer_free(&b);
    }
}

/* Signatures of the wrong length and of impossible numbers are no signatures (CVE-2022-21449). */
static void token_signatures_have_a_form(void **unused)
{
    (void)unused;
    static const uint8_t order[32] = {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff,
                                      0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6, 0xfa, 0xad, 0xa7,
                                      0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25,
                                      0x51}, zero[32], one[32] = {[31] = 1};
    const uint8_t *const numbers[] = {zero, order, one};
    struct buffer b = {0};
    for (int i = 0; i < 9; i++) {
        uint8_t signature[64];
        memcpy(signature, numbers[i / 3], 32);
        memcpy(signature + 32, numbers[i % 3], 32);
        token_write(&b, token_span("{\"alg\":\"ES256\"}"), token_span(ALICE));
        buffer_text(&b, ".");
        base64url_encode(&b, signature, sizeof signature);
        assert_int_equal(token_judge(b.at, b.len), TOKEN_SIGNATURE);
    }
    for (int kind = 0; kind < TOKEN_KIND_COUNT; kind++) {
        static const size_t lengths[] = {0, 1, 31, 32, 33, 63, 64, 65, 70, 255, 256, 257, 1000};
        for (size_t i = 0; i < TOKEN_ROWS(lengths); i++) {
            static const uint8_t bytes[1000];
            char header[32];
            snprintf(header, sizeof header, "{\"alg\":\"%s\"}", TOKEN_ALGORITHMS[kind]);
            token_write(&b, token_span(header), token_span(ALICE));
            buffer_text(&b, ".");
            base64url_encode(&b, bytes, lengths[i]);
            assert_int_equal(token_judge(b.at, b.len), TOKEN_SIGNATURE);
        }
    }
    buffer_free(&b);
}

/* exp and nbf have 30 s of skew, to the millisecond, and fractions count. */
static void token_skew(void **unused)
{
    (void)unused;
    static const struct {
        const char *claims;
        int64_t after; /* TOKEN_WALL */
        enum token_problem problem;
    } rows[] = {
        {EXP("1700000000"), 29999, TOKEN_NONE},
        {EXP("1700000000"), 30000, TOKEN_EXPIRED},
        {EXP("1700000000.25"), 30249, TOKEN_NONE},
        {EXP("1700000000.25"), 30250, TOKEN_EXPIRED},
        {EXP("1700000000.001"), 30000, TOKEN_NONE},
        {EXP("1700000000.001"), 30001, TOKEN_EXPIRED},
        {EXP("1700000000.999"), 30998, TOKEN_NONE},
        {EXP("1700000000.999"), 30999, TOKEN_EXPIRED},
        {ALICE_AND("\"nbf\":1700000000"), -30000, TOKEN_NONE},
        {ALICE_AND("\"nbf\":1700000000"), -30001, TOKEN_NOT_YET},
        {ALICE_AND("\"nbf\":1700000000.5"), -29500, TOKEN_NONE},
        {ALICE_AND("\"nbf\":1700000000.5"), -29501, TOKEN_NOT_YET},
        {EXP("253402300799"), INT64_MAX - TOKEN_WALL, TOKEN_EXPIRED},
        {EXP("0"), -TOKEN_WALL, TOKEN_NONE},
        {EXP("0"), INT64_MIN, TOKEN_NONE},
        {ALICE_AND("\"nbf\":0"), INT64_MIN, TOKEN_NOT_YET},
    };
    for (size_t i = 0; i < TOKEN_ROWS(rows); i++) {
        struct buffer b = {0};
        struct token token;
        token_make(&b, TOKEN_HS256, NULL, rows[i].claims);
        enum token_problem problem =
            token_try(&TOKEN_WORLD.keys, b.at, b.len, TOKEN_WALL + rows[i].after, &token);
        if (problem != rows[i].problem)
            fail_msg("%s at %" PRId64 ": %s", rows[i].claims, rows[i].after,
                     TOKEN_PROBLEMS[problem]);
        token_free(&token);
        buffer_free(&b);
    }
}

/* Which key a kid means: four secrets, one signs, the header asks. */
static void token_keys_rotate(void **unused)
{
    (void)unused;
    static const struct {
        const char *kid, *secret;
    } keys_of[] = {{"old", "o"}, {"new", "n"}, {"new", "m"}, {"", "x"}};
    static const struct {
        const char *header, *secret;
        enum token_problem problem;
    } rows[] = {
        {HS("\"kid\":\"old\""), "o", TOKEN_NONE},
        {HS("\"kid\":\"old\""), "n", TOKEN_SIGNATURE},
        {HS("\"kid\":\"old\""), "x", TOKEN_SIGNATURE},
        {HS("\"kid\":\"new\""), "n", TOKEN_NONE},
        {HS("\"kid\":\"new\""), "m", TOKEN_NONE},
        {HS("\"kid\":\"n\\u0065w\""), "m", TOKEN_NONE},
        {HS("\"kid\":\"new\""), "o", TOKEN_SIGNATURE},
        {HS("\"kid\":\"NEW\""), "n", TOKEN_SIGNATURE},
        {HS("\"kid\":\"NEW\""), "x", TOKEN_NONE},
        {HS("\"kid\":\"\""), "x", TOKEN_NONE},
        {HS("\"kid\":\"\""), "n", TOKEN_SIGNATURE},
        {HS("\"kid\":\"new\\u0000\""), "n", TOKEN_SIGNATURE},
        {"{\"alg\":\"HS256\"}", "o", TOKEN_NONE},
        {"{\"alg\":\"HS256\"}", "m", TOKEN_NONE},
        {"{\"alg\":\"HS256\"}", "x", TOKEN_NONE},
        {"{\"alg\":\"HS256\"}", "y", TOKEN_SIGNATURE},
        {"{\"alg\":\"RS256\",\"kid\":\"old\"}", "o", TOKEN_ALGORITHM},
        {"{\"alg\":\"RS256\"}", "o", TOKEN_ALGORITHM},
    };
    struct token_keys keys = {0}, named = {0}, none = {0};
    struct token token;
    struct buffer b = {0};
    char err[WHY_MAX], secret[32];
    for (size_t i = 0; i < TOKEN_ROWS(keys_of); i++) {
        memset(secret, *keys_of[i].secret, sizeof secret);
        struct span bytes = {secret, sizeof secret};
        assert_true(token_keys_add_bytes(&keys, false, keys_of[i].kid, bytes, WHY(err)));
        if (!*keys_of[i].kid) continue;
        assert_true(token_keys_add_bytes(&named, false, keys_of[i].kid, bytes, WHY(err)));
    }
    for (size_t i = 0; i < TOKEN_ROWS(rows); i++) {
        token_write(&b, token_span(rows[i].header), token_span(ALICE));
        memset(secret, *rows[i].secret, sizeof secret);
        token_seal_secret(&b, (struct span){secret, sizeof secret});
        enum token_problem problem = token_try(&keys, b.at, b.len, TOKEN_WALL, &token);
        token_free(&token);
        if (problem != rows[i].problem)
            fail_msg("%s signed by %s: %s", rows[i].header, rows[i].secret,
                     TOKEN_PROBLEMS[problem]);
        assert_int_equal(token_try(&none, b.at, b.len, TOKEN_WALL, &token), TOKEN_UNKNOWN_KEY);
    }
    token_make(&b, TOKEN_HS256, HS("\"kid\":\"other\""), ALICE);
    assert_int_equal(token_try(&named, b.at, b.len, TOKEN_WALL, &token), TOKEN_UNKNOWN_KEY);
    buffer_free(&b);
    token_keys_free(&keys);
    token_keys_free(&named);
}

/* What a token lets its bearer see, which a list made of it for many ids has to say too. */
static bool token_sees(const struct token *token, struct span id)
{
    struct id_list *may = id_list_of_token(token);
    bool sees = token_may_watch(token, id);
    assert_int_equal(token_may_watch_listed(token, may, id), sees);
    free(may);
    return sees;
}

/* Whom a token lets its bearer see, and who is an admin. */
static void token_rights(void **unused)
{
    (void)unused;
    static const struct {
        const char *claims;
        bool admin;
        const char *sees, *sees_not;
    } rows[] = {
        {ALICE, false, "alice", "bob"},
        {ALICE, false, "alice", "alic"},
        {ALICE, false, "alice", "alicea"},
        {ALICE, false, "alice", "*"},
        {ALICE_AND("\"watch\":\"*\""), false, "bob", NULL},
        {ALICE_AND("\"watch\":[\"*\"]"), false, "*", "bob"},
        {ALICE_AND("\"watch\":[]"), false, "alice", "bob"},
        {ALICE_AND("\"watch\":[\"bob\"]"), false, "bob", "Bob"},
        {ALICE_AND("\"watch\":[\"carol\" , \"b\\u006fb\" ]"), false, "bob", "bo"},
        {ALICE_AND("\"watch\":[\"carol\",\"bob\"]"), false, "alice", "bobby"},
        {ALICE_AND("\"watch\":[\"carol\"],\"watch\":[\"bob\"]"), false, "bob", "carol"},
        {ALICE_AND("\"watch\":\"*\",\"watch\":[\"bob\"]"), false, "bob", "carol"},
        {ALICE_AND("\"admin\":true"), true, "bob", NULL},
        {ALICE_AND("\"admin\":true,\"watch\":[\"carol\"]"), true, "bob", NULL},
        {ALICE_AND("\"admin\":false"), false, "alice", "bob"},
        {ALICE_AND("\"admin\":1"), false, "alice", "bob"},
        {ALICE_AND("\"admin\":\"true\""), false, "alice", "bob"},
        {ALICE_AND("\"admin\":[true]"), false, "alice", "bob"},
        {ALICE_AND("\"admin\":null"), false, "alice", "bob"},
        {ALICE_AND("\"admin\":true,\"admin\":false"), false, "alice", "bob"},
        {ALICE_AND("\"Admin\":true"), false, "alice", "bob"},
        {"{\"sub\":\"eve\",\"sub\":\"alice\",\"exp\":1700000060}", false, "alice", "eve"},
    };
    for (size_t i = 0; i < TOKEN_ROWS(rows); i++) {
        struct buffer b = {0};
        struct token token;
        token_make(&b, TOKEN_HS256, NULL, rows[i].claims);
        assert_int_equal(token_try(&TOKEN_WORLD.keys, b.at, b.len, TOKEN_WALL, &token), TOKEN_NONE);
        assert_int_equal(token.admin, rows[i].admin);
        if (!token_sees(&token, token_span(rows[i].sees)) ||
            (rows[i].sees_not && token_sees(&token, token_span(rows[i].sees_not))))
            fail_msg("%s", rows[i].claims);
        token_free(&token);
        buffer_free(&b);
        assert_false(token_sees(&token, token_span(rows[i].sees))); /* it says nothing now */
    }
}

/* What four threads share, and what each has seen. */
struct token_crowd {
    struct buffer tokens[TOKEN_KIND_COUNT];
    _Atomic int bad;
};

static void *token_crowd_run(void *argument)
{
    struct token_crowd *crowd = argument;
    for (int i = 0; i < 60; i++) {
        struct token token;
        struct buffer *b = &crowd->tokens[i % TOKEN_KIND_COUNT];
        bool broken = i % 2;
        char copy[1024];
        memcpy(copy, b->at, b->len);
        if (broken) copy[b->len - 10] = copy[b->len - 10] == 'A' ? 'B' : 'A';
        enum token_problem problem = token_verify(
            &TOKEN_WORLD.keys, (struct span){copy, b->len}, TOKEN_WALL, "", "", &token);
        if (problem != (broken ? TOKEN_SIGNATURE : TOKEN_NONE)) crowd->bad++;
        token_free(&token);
    }
    return NULL;
}

/* Several threads verify with the same keys at once; the thread sanitizer watches. */
static void token_threads_share_keys(void **unused)
{
    (void)unused;
    struct token_crowd crowd = {0};
    pthread_t threads[4];
    token_teardown(NULL); /* so that no number of the RSA key has been computed */
    TOKEN_WORLD = (struct token_world){0};
    token_setup(NULL);
    for (int i = 0; i < TOKEN_KIND_COUNT; i++) token_make(&crowd.tokens[i], i, NULL, ALICE);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, token_crowd_run, &crowd), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_int_equal(crowd.bad, 0);
    for (int i = 0; i < TOKEN_KIND_COUNT; i++) buffer_free(&crowd.tokens[i]);
}

/* ---- Minting --------------------------------------------------------------------------------- */

/* A random valid id of up to 128 bytes, controls, quotes and all planes considered. */
static size_t token_random_id(uint32_t *seed, char out[USER_ID_MAX + 1])
{
    size_t len = 0, want = 1 + pure_below(seed, USER_ID_MAX);
    while (len < want && len + 4 <= USER_ID_MAX) {
        static const uint32_t ends[] = {0x80, 0x80, 0x800, 0xd800, 0x110000};
        uint32_t c = (uint32_t)pure_below(seed, ends[pure_below(seed, 5)]);
        size_t n = utf8_put(c, out + len);
        if (user_id_valid((struct span){out + len, n}) && c != ',') len += n;
    }
    out[len] = 0;
    return len;
}

/* What is minted verifies, and says what was asked for. */
static void token_mint_round_trip(void **unused)
{
    (void)unused;
    uint32_t seed = 11;
    for (int round = 0; round < 500; round++) {
        char user[USER_ID_MAX + 1], a[USER_ID_MAX + 1], c[USER_ID_MAX + 1], err[WHY_MAX];
        char watch[300];
        struct token_keys keys = {0};
        struct token token;
        struct buffer b = {0};
        size_t len = token_random_id(&seed, user);
        size_t a_len = token_random_id(&seed, a), c_len = token_random_id(&seed, c);
        bool admin = pure_below(&seed, 2);
        int kind = (int)pure_below(&seed, 3);
        int64_t wall = TOKEN_WALL + (int64_t)pure_below(&seed, 100000);
        int64_t lifetime = 1 + (int64_t)pure_below(&seed, 10000000), end = wall + lifetime;
        token_keys_add_signer(&keys, &TOKEN_WORLD.signer, TOKEN_ES256, "first");
        token_keys_add_signer(&keys, &TOKEN_WORLD.signer, TOKEN_HS256, round % 2 ? "k\"1" : "");
        snprintf(watch, sizeof watch, "%s,%s", a, c);
        buffer_text(&b, "Bearer ");
        assert_true(token_mint(&keys, (struct span){user, len}, wall, lifetime,
                               kind == 0 ? "" : kind == 1 ? "*" : watch, admin, "joe \"x\"", "me",
                               &b, WHY(err)));
        assert_memory_equal(b.at, "Bearer ", 7);
        struct span text = {b.at + 7, b.len - 7};
        assert_int_equal(token_verify(&keys, text, wall, "joe \"x\"", "me", &token), TOKEN_NONE);
        assert_string_equal(token.user, user);
        assert_int_equal(token.admin, admin);
        assert_true(token.expires_ms >= end && token.expires_ms < end + 1000);
        assert_true(token.expires_ms % 1000 == 0);
        assert_int_equal(token.watches_all, kind == 1);
        assert_int_equal(token_sees(&token, (struct span){a, a_len}),
                         admin || kind || !strcmp(a, user));
        assert_int_equal(token_sees(&token, (struct span){c, c_len}),
                         admin || kind || !strcmp(c, user));
        assert_int_equal(token_sees(&token, token_span("~")), admin || kind == 1);
        token_free(&token);
        assert_int_equal(token_verify(&keys, text, wall, "", "", &token), TOKEN_NONE);
        token_free(&token);
        assert_int_equal(token_verify(&keys, text, wall, "eve", "", &token), TOKEN_ISSUER);
        assert_int_equal(token_verify(&keys, text, wall, "", "you", &token), TOKEN_AUDIENCE);
        buffer_free(&b);
        token_keys_free(&keys);
    }
}

/* The claims of a minted token, to the letter. */
static void token_mint_text(void **unused)
{
    (void)unused;
    static const char want[] = "{\"alg\":\"HS256\",\"typ\":\"JWT\",\"kid\":\"k1\"}"
                               "{\"sub\":\"alice\",\"iat\":1700000000,\"exp\":1700003601,"
                               "\"iss\":\"joe\",\"aud\":\"me\",\"admin\":true,"
                               "\"watch\":[\"bob\",\"carol\"]}";
    char err[WHY_MAX];
    struct token_keys keys = {0};
    struct token_parts parts;
    struct buffer b = {0};
    token_keys_add_signer(&keys, &TOKEN_WORLD.signer, TOKEN_HS256, "k1");
    assert_true(token_mint(&keys, token_span("alice"), TOKEN_WALL + 1, 3600000, "bob,carol", true,
                           "joe", "me", &b, WHY(err)));
    assert_true(token_split((struct span){b.at, b.len}, &parts));
    assert_memory_equal(parts.header.at, want, sizeof want - 1);
    b.len = 0;
    assert_true(token_mint(&keys, token_span("alice"), TOKEN_WALL, 1000, "", false, "", "", &b,
                           WHY(err)));
    assert_true(token_split((struct span){b.at, b.len}, &parts));
    static const char least[] = "{\"sub\":\"alice\",\"iat\":1700000000,\"exp\":1700000001}";
    assert_int_equal(parts.payload.len, sizeof least - 1);
    assert_memory_equal(parts.payload.at, least, sizeof least - 1);
    buffer_free(&b);
    token_keys_free(&keys);
}

/* What cannot be minted, and what the line says; out stays as it was. */
static void token_mint_refusals(void **unused)
{
    (void)unused;
    static char many[TOKEN_MAX];
    static const struct {
        const char *user, *watch;
        int64_t lifetime;
        const char *says;
    } rows[] = {
        {"", "", 1000, "--mint-token: the user id is not valid"},
        {"a\nb", "", 1000, "--mint-token: the user id is not valid"},
        {ID_128 "9", "", 1000, "--mint-token: the user id is not valid"},
        {"alice", "", 0, "--token-lifetime: "},
        {"alice", "", -1, "--token-lifetime: "},
        {"alice", "", INT64_MAX, "--token-lifetime: "},
        {"alice", "", INT64_C(253402300800000), "--token-lifetime: "},
        {"alice", ",", 1000, "--token-watch: ',' is not"},
        {"alice", "bob,", 1000, "--token-watch: 'bob,' is not"},
        {"alice", ",bob", 1000, "--token-watch: ',bob' is not"},
        {"alice", "bob,,carol", 1000, "--token-watch: "},
        {"alice", ID_128 "9", 1000, "--token-watch: "},
        {"alice", many, 1000, "--token-watch: the token has more than 8192 bytes"},
    };
    struct token_keys keys = {0}, none = {0};
    struct buffer b = {0};
    char err[WHY_MAX];
    for (size_t i = 0; i + 1 < sizeof many; i++) many[i] = i % 2 ? ',' : 'a';
    many[sizeof many - 2] = 'a';
    token_keys_add_signer(&keys, &TOKEN_WORLD.signer, TOKEN_HS256, "");
    token_keys_add_signer(&none, &TOKEN_WORLD.signer, TOKEN_RS256, "");
    buffer_text(&b, "before");
    for (size_t i = 0; i < TOKEN_ROWS(rows); i++) {
        bool good = token_mint(&keys, token_span(rows[i].user), TOKEN_WALL, rows[i].lifetime,
                               rows[i].watch, false, "", "", &b, WHY(err));
        if (good || strncmp(err, rows[i].says, strlen(rows[i].says)) || b.len != 6)
            fail_msg("row %zu: %s", i, err);
    }
    assert_false(token_mint(&none, token_span("alice"), TOKEN_WALL, 1000, "", false, "", "", &b,
                            WHY(err)));
    assert_string_equal(err, "--mint-token: there is no secret to sign with; give it one with"
                             " --jwt-secret-file");
    buffer_free(&b);
    token_keys_free(&keys);
    token_keys_free(&none);
}

/* ---- Password -------------------------------------------------------------------------------- */

#define SALT "AAECAwQFBgcICQoLDA0ODw"
#define HASH "ECEiF3rHxiQNn3eIhD3_rQu7JgNUuHNkEwXr67HsHXA"

/* Reads a password file that holds this text. */
static bool password_try(const char *text, struct password *out, char *err)
{
    char path[64];
    int fd = memfd_create("password", MFD_CLOEXEC);
    token_must(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    bool good = password_load(path, true, out, (struct why){err, WHY_MAX});
    close(fd);
    return good;
}

/* A hash that another implementation made (Python's hashlib) is the password's and no other's. */
static void password_vector(void **unused)
{
    (void)unused;
    static const char *const wrong[] = {"",  "correct hors",  "correct horse ", "Correct horse",
                                        " correct horse", "correct horse\n", HASH};
    char err[WHY_MAX];
    struct password p;
    assert_true(password_try("pbkdf2-sha512:10000:" SALT ":" HASH "\r\n", &p, err));
    assert_int_equal(p.iterations, 10000);
    assert_true(password_check(&p, token_span("correct horse")));
    for (size_t i = 0; i < TOKEN_ROWS(wrong); i++)
        assert_false(password_check(&p, token_span(wrong[i])));
    p.hash[31] ^= 1;
    assert_false(password_check(&p, token_span("correct horse")));
    p.hash[31] ^= 1;
    p.iterations++;
    assert_false(password_check(&p, token_span("correct horse")));
}

/* What password_hash prints is loaded and checked; no two are alike. */
static void password_round_trip(void **unused)
{
    (void)unused;
    struct buffer b = {0};
    struct password p;
    char err[WHY_MAX];
    password_hash("\xc3\xa9\0x", 4, &b);
    buffer_add(&b, "", 1);
    assert_true(password_try(b.at, &p, err));
    assert_int_equal(p.iterations, 210000);
    assert_memory_equal(b.at, "pbkdf2-sha512:210000:", 21);
    assert_true(password_check(&p, (struct span){"\xc3\xa9\0x", 4}));
    assert_false(password_check(&p, (struct span){"\xc3\xa9\0y", 4}));
    struct password before = p;
    b.len = 0;
    password_hash("\xc3\xa9\0x", 4, &b);
    buffer_add(&b, "", 1);
    assert_true(password_try(b.at, &p, err));
    assert_memory_not_equal(p.salt, before.salt, sizeof p.salt);
    assert_memory_not_equal(p.hash, before.hash, sizeof p.hash);
    buffer_free(&b);
}

/* Lines that are no password; err names option, file and remedy, and out stays as it was. */
static void password_files_are_read(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        bool good;
    } rows[] = {
        {"pbkdf2-sha512:10000:" SALT ":" HASH, true},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "\n", true},
        {"pbkdf2-sha512:10000000:" SALT ":" HASH "\n", true},
        {"pbkdf2-sha512:9999:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:10000001:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:99999999999999999999:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:-10000:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512::" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:10000:" SALT "\n", false},
        {"pbkdf2-sha512:10000:" SALT ":\n", false},
        {"pbkdf2-sha512:10000::" HASH "\n", false},
        {"pbkdf2-sha512:10000:" HASH ":" SALT "\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH ":\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "=\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "A\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH " \n", false},
        {" pbkdf2-sha512:10000:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "\n\n", false},
        {"pbkdf2-sha512:10000:" SALT ":" HASH "\nmore\n", false},
        {"pbkdf2-sha256:10000:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha5120:10000:" SALT ":" HASH "\n", false},
        {"pbkdf2-sha512", false},
        {"secret\n", false},
        {"\n", false},
        {"", false},
    };
    for (size_t i = 0; i < TOKEN_ROWS(rows); i++) {
        char err[WHY_MAX] = "";
        struct password p = {.iterations = 7};
        if (password_try(rows[i].text, &p, err) != rows[i].good) fail_msg("row %zu: %s", i, err);
        if (rows[i].good) continue;
        assert_int_equal(p.iterations, 7);
        assert_ptr_equal(strstr(err, "--admin-password-file: /proc/self/fd/"), err);
        assert_non_null(strstr(err, "--hash-password"));
        assert_null(strstr(err, SALT));
    }
    char err[WHY_MAX], text[300] = "";
    struct password p;
    memset(text, 'a', 257);
    assert_false(password_try(text, &p, err));
    assert_non_null(strstr(err, "is too long"));
    assert_false(password_load("/nonexistent", true, &p, WHY(err)));
    assert_string_equal(err, "--admin-password-file: cannot read /nonexistent: No such file or"
                             " directory; name a readable file");
}

/* ---- Sessions -------------------------------------------------------------------------------- */

/* A session holds until its end, to the millisecond, in the process that made it. */
static void sessions_end(void **unused)
{
    (void)unused;
    struct session_keys keys, other;
    struct buffer b = {0}, c = {0};
    int64_t expires = 0, end = 5;
    session_keys_init(&keys);
    session_keys_init(&other);
    session_mint(&keys, TOKEN_WALL, 1000, &b, &expires);
    assert_int_equal(expires, TOKEN_WALL + 1000);
    assert_int_equal(b.len, 76);
    struct span text = pure_copy(b.at, b.len);
    assert_true(session_check(&keys, text, TOKEN_WALL, &end));
    assert_int_equal(end, expires);
    assert_true(session_check(&keys, text, TOKEN_WALL + 999, &end));
    assert_true(session_check(&keys, text, 0, &end));
    end = 5;
    assert_false(session_check(&keys, text, TOKEN_WALL + 1000, &end));
    assert_false(session_check(&keys, text, INT64_MAX, &end));
    assert_false(session_check(&other, text, TOKEN_WALL, &end));
    assert_false(session_check(&keys, (struct span){NULL, 0}, TOKEN_WALL, &end));
    assert_int_equal(end, 5);
    session_mint(&keys, TOKEN_WALL, 1000, &c, &expires);
    assert_memory_not_equal(b.at, c.at, b.len);
    assert_memory_not_equal(keys.secret, other.secret, sizeof keys.secret);
    pure_free(text);
    buffer_free(&b);
    buffer_free(&c);
    session_keys_free(&keys);
    session_keys_free(&other);
}

/* No session with one character changed, added or taken away is one. */
static void sessions_cannot_be_changed(void **unused)
{
    (void)unused;
    struct session_keys keys;
    struct buffer b = {0};
    int64_t expires;
    session_keys_init(&keys);
    session_mint(&keys, TOKEN_WALL, 1000, &b, &expires);
    for (size_t i = 0; i < b.len; i++) {
        char right = b.at[i];
        for (int c = 0; c < 256; c++) {
            b.at[i] = (char)c;
            bool good = session_check(&keys, (struct span){b.at, b.len}, TOKEN_WALL, &expires);
            if (good != (right == (char)c)) fail_msg("character %zu made %d", i, c);
        }
        b.at[i] = right;
    }
    for (size_t i = 0; i < b.len; i++) {
        struct span text = pure_copy(b.at, i);
        assert_false(session_check(&keys, text, TOKEN_WALL, &expires));
        pure_free(text);
    }
    buffer_text(&b, "A");
    assert_false(session_check(&keys, (struct span){b.at, b.len}, TOKEN_WALL, &expires));
    buffer_free(&b);
    session_keys_free(&keys);
}

/* A revoked session ends, the others go on; the list keeps none that has run out anyway. */
static void sessions_are_revoked(void **unused)
{
    (void)unused;
    enum { COUNT = 50 };
    struct session_keys keys;
    struct buffer b[COUNT] = {0};
    struct span text[COUNT];
    int64_t expires;
    session_keys_init(&keys);
    for (int i = 0; i < COUNT; i++) {
        session_mint(&keys, TOKEN_WALL, 1000 + 100 * i, &b[i], &expires);
        text[i] = (struct span){b[i].at, b[i].len};
    }
    for (int i = 0; i < COUNT; i += 2) {
        session_revoke(&keys, text[i], TOKEN_WALL);
        session_revoke(&keys, text[i], TOKEN_WALL); /* again: nothing more */
        assert_int_equal(keys.revoked_count, i / 2 + 1);
    }
    session_revoke(&keys, token_span("nothing"), TOKEN_WALL);
    session_revoke(&keys, text[1], TOKEN_WALL + 1100); /* has just run out; [0] is forgotten */
    assert_int_equal(keys.revoked_count, COUNT / 2 - 1);
    for (int at = 2; at <= COUNT; at++) {
        int64_t wall = TOKEN_WALL + 1000 + 100 * at - 1;
        session_revoke(&keys, token_span(""), wall);
        assert_int_equal(keys.revoked_count, (COUNT - at) / 2);
        for (int i = at; i < COUNT; i++)
            assert_int_equal(session_check(&keys, text[i], wall, &expires), i % 2);
    }
    assert_int_equal(keys.revoked_count, 0);
    for (int i = 0; i < COUNT; i++) buffer_free(&b[i]);
    session_keys_free(&keys);
}

static const struct CMUnitTest TOKEN_TESTS[] = {
    cmocka_unit_test(base64url_rows),
    cmocka_unit_test(base64url_has_one_text_a_value),
    cmocka_unit_test(base64url_comes_back),
    cmocka_unit_test(bytes_equal_sees_every_bit),
    cmocka_unit_test(bytes_equal_is_constant),
    cmocka_unit_test(token_files_are_read),
    cmocka_unit_test(token_files_have_limits),
    cmocka_unit_test(token_files_of_pairs),
    cmocka_unit_test(token_paths_are_split),
    cmocka_unit_test(token_vectors),
    cmocka_unit_test(token_table),
    cmocka_unit_test(token_problems_have_texts),
    cmocka_unit_test(token_forms),
    cmocka_unit_test(token_changes_are_seen),
    cmocka_unit_test(token_algorithms_are_not_confused),
    cmocka_unit_test(token_signatures_have_a_form),
    cmocka_unit_test(token_skew),
    cmocka_unit_test(token_keys_rotate),
    cmocka_unit_test(token_rights),
    cmocka_unit_test(token_threads_share_keys),
    cmocka_unit_test(token_mint_round_trip),
    cmocka_unit_test(token_mint_text),
    cmocka_unit_test(token_mint_refusals),
    cmocka_unit_test(password_vector),
    cmocka_unit_test(password_round_trip),
    cmocka_unit_test(password_files_are_read),
    cmocka_unit_test(sessions_end),
    cmocka_unit_test(sessions_cannot_be_changed),
    cmocka_unit_test(sessions_are_revoked),
};
