/* Tokens: every row of a table, every bit changed, keys, rights, minting. Each token is copied to
 * memory of exactly its size, so that a sanitizer sees a read past the end. */
#include "unit.h"

#include <mbedtls/ecdsa.h>
#include <sys/mman.h>

/* The signer's secret as a span. */
static struct span token_signer_secret(const struct token_signer *signer)
{
    return (struct span){signer->secret.at, signer->secret.len};
}

/* The file's bytes as keys are given to the program: adds them under the kid, "" for none. */
static bool token_keys_add_bytes(struct token_keys *keys, bool is_public, const char *kid,
                                 struct span bytes, struct why why)
{
    char value[128];
    int fd = memfd_create("key", MFD_CLOEXEC);
    must(fd >= 0 && write(fd, bytes.at, bytes.len) == (ssize_t)bytes.len);
    snprintf(value, sizeof value, "%s%s/proc/self/fd/%d", kid, *kid ? "=" : "", fd);
    bool good = is_public ? token_keys_add_public(keys, value, true, why)
                          : token_keys_add_secret(keys, value, true, why);
    close(fd);
    return good;
}

/* The public half of a pair as PEM, NUL-terminated. */
static void token_public_pem(mbedtls_pk_context *pair, char out[1024])
{
    must(!mbedtls_pk_write_pubkey_pem(pair, (unsigned char *)out, 1024));
}

/* Adds the signer's key of that kind under the kid. */
static void token_keys_add_signer(struct token_keys *keys, struct token_signer *signer,
                                  enum token_kind kind, const char *kid)
{
    char err[WHY_MAX], pem[1024];
    struct span bytes = token_signer_secret(signer);
    if (kind != TOKEN_HS256) {
        token_public_pem(&signer->pairs[kind], pem);
        bytes = (struct span){pem, strlen(pem)};
    }
    must(token_keys_add_bytes(keys, kind != TOKEN_HS256, kid, bytes, WHY(err)));
}

/* Signs what b holds and appends a dot and the HMAC. */
static void token_seal_secret(struct buffer *b, struct span secret)
{
    uint8_t mac[SHA256_SIZE];
    hmac_sha256(secret, (struct span){b->at, b->len}, mac);
    buffer_text(b, ".");
    base64url_encode(b, mac, sizeof mac);
}

/* Signs what b holds and appends a dot and the signature. */
static void token_seal(struct buffer *b, struct token_signer *signer, enum token_kind kind)
{
    uint8_t hash[SHA256_SIZE], signature[512];
    size_t len;
    if (kind == TOKEN_HS256) {
        token_seal_secret(b, token_signer_secret(signer));
        return;
    }
    must(
        !mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), (uint8_t *)b->at, b->len, hash) &&
        !mbedtls_pk_sign(&signer->pairs[kind], MBEDTLS_MD_SHA256, hash, sizeof hash, signature,
                         sizeof signature, &len, token_random, NULL));
    if (kind == TOKEN_ES256)
        must(!mbedtls_ecdsa_der_to_raw(256, signature, len, signature, sizeof signature, &len));
    buffer_text(b, ".");
    base64url_encode(b, signature, len);
}

/* Makes b the token of this header and these claims but for the signature. */
static void token_write(struct buffer *b, struct span header, struct span claims)
{
    b->len = 0;
    base64url_encode(b, header.at, header.len);
    buffer_text(b, ".");
    base64url_encode(b, claims.at, claims.len);
}

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
    struct span copy = exact_copy(at, len);
    enum token_problem problem = token_verify(keys, copy, wall_ms, "", "", out);
    exact_free(copy);
    if (problem) assert_true(!out->user_len && !out->admin && !out->watches_all && !out->watch.at);
    return problem;
}

/* The problem of a token, at TEST_WALL with the keys of TOKEN_WORLD. */
static enum token_problem token_judge(const char *at, size_t len)
{
    struct token token;
    enum token_problem problem = token_try(&TOKEN_WORLD.keys, at, len, TEST_WALL, &token);
    token_free(&token);
    return problem;
}

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
    for (size_t i = 0; i < COUNT_OF(TOKEN_FILES); i++) {
        const struct token_file_row *row = &TOKEN_FILES[i];
        char err[WHY_MAX] = "";
        struct token_keys keys = {0};
        bool good =
            token_keys_add_bytes(&keys, row->is_public, "", token_span(row->text), WHY(err));
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
    assert_false(
        token_keys_add_bytes(&keys, true, "", (struct span){bytes, sizeof bytes}, WHY(err)));
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
        assert_int_equal(
            mbedtls_x509write_crt_pem(&cert, (uint8_t *)pem, sizeof pem, token_random, NULL), 0);
        assert_true(token_keys_add_bytes(&keys, true, "", token_span(pem), WHY(err)));
        assert_int_equal(keys.at[0].kind, kind);
        token_make(&b, kind, NULL, "{\"sub\":\"alice\",\"exp\":1700000060}");
        assert_int_equal(token_try(&keys, b.at, b.len, TEST_WALL, &token), TOKEN_NONE);
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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char kid[TOKEN_KID_MAX + 1];
        assert_string_equal(token_key_path(rows[i].value, kid), rows[i].path);
        assert_string_equal(kid, rows[i].kid);
    }
}

/* The examples of RFC 7515 appendix A. Their claims have no sub, which shows only when the
 * signature is right; 1300819380 is when they expire. */
static void token_vectors(void **unused)
{
    (void)unused;
#define CLAIMS                                                                                     \
    ".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnV" \
    "l"                                                                                            \
    "fQ."
    static const struct {
        const char *token;
        enum token_problem problem;
    } rows[] = {
        {"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9" CLAIMS
         "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
         TOKEN_SUBJECT},
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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
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

#define TOKEN_ALICE "{\"sub\":\"alice\",\"exp\":1700000060}"

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
    {NULL, TOKEN_ALICE "x", .problem = TOKEN_MALFORMED},
    {NULL, ALICE_AND("\"x\":" DEEP_15), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"x\":[" DEEP_15 "]"), .problem = TOKEN_MALFORMED},

    {NULL, "{}", .problem = TOKEN_TIMES},
    {NULL, "{\"sub\":\"alice\"}", .problem = TOKEN_TIMES},
    {NULL, EXP("\"1700000060\""), .problem = TOKEN_TIMES},
    {NULL, EXP("null"), .problem = TOKEN_TIMES},
    {NULL, EXP("true"), .problem = TOKEN_TIMES},
    {NULL, EXP("[1700000060]"), .problem = TOKEN_TIMES},
    {NULL, EXP("-1"), .problem = TOKEN_TIMES},
    {NULL, EXP("-1700000060"), .problem = TOKEN_TIMES},
    {NULL, EXP("-0.0"), .problem = TOKEN_EXPIRED},
    {NULL, EXP("0"), .problem = TOKEN_EXPIRED},
    {NULL, EXP("1700000060.5"), .problem = TOKEN_NONE},
    {NULL, EXP("17000000.6e2"), .problem = TOKEN_NONE},
    {NULL, EXP("1.70000006E+9"), .problem = TOKEN_NONE},
    {NULL, EXP("253402300799"), .problem = TOKEN_NONE},
    {NULL, EXP("253402300799.5"), .problem = TOKEN_TIMES},
    {NULL, EXP("1700000060000"), .problem = TOKEN_TIMES},
    {NULL, EXP("9223372036854775807"), .problem = TOKEN_TIMES},
    {NULL, EXP("18446744073709551615"), .problem = TOKEN_TIMES},
    {NULL, EXP("1e308"), .problem = TOKEN_TIMES},
    {NULL, EXP("1e400"), .problem = TOKEN_TIMES},
    {NULL, EXP("-1e400"), .problem = TOKEN_TIMES},
    {NULL, EXP("1e-400"), .problem = TOKEN_EXPIRED},
    {NULL, EXP("1700000060.0000000000000000000"), .problem = TOKEN_NONE},
    {NULL, EXP("1700000060.00000000000000000000000"), .problem = TOKEN_TIMES},
    {NULL, EXP("NaN"), .problem = TOKEN_MALFORMED},
    {NULL, EXP("Infinity"), .problem = TOKEN_MALFORMED},
    {NULL, EXP("0x7fffffff"), .problem = TOKEN_MALFORMED},
    {NULL, "{\"sub\":\"alice\",\"exp\":1,\"exp\":1700000060}", .problem = TOKEN_NONE},
    {NULL, "{\"sub\":\"alice\",\"exp\":1700000060,\"exp\":1}", .problem = TOKEN_EXPIRED},

    {NULL, ALICE_AND("\"nbf\":0"), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"nbf\":1700000000"), .problem = TOKEN_NONE},
    {NULL, ALICE_AND("\"nbf\":1700000031"), .problem = TOKEN_NOT_YET},
    {NULL, ALICE_AND("\"nbf\":-1"), .problem = TOKEN_TIMES},
    {NULL, ALICE_AND("\"nbf\":1e400"), .problem = TOKEN_TIMES},
    {NULL, ALICE_AND("\"nbf\":\"0\""), .problem = TOKEN_TIMES},
    {NULL, ALICE_AND("\"nbf\":null"), .problem = TOKEN_TIMES},
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

    {NULL, TOKEN_ALICE, TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"joe\""), TOKEN_NONE, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"j\\u006fe\""), TOKEN_NONE, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"Joe\""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"joe \""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"joe\\u0000\""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"\""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":[\"joe\"]"), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"joe\",\"iss\":\"eve\""), TOKEN_ISSUER, "joe", ""},
    {NULL, ALICE_AND("\"iss\":\"anybody\""), TOKEN_NONE, "", ""},
    {NULL, TOKEN_ALICE, TOKEN_AUDIENCE, "", "me"},
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
    {NULL, ALICE_AND("\"watch\":[\"" ID_128 "9\"]"), .problem = TOKEN_WATCH},
    {NULL, ALICE_AND("\"watch\":\"bob\""), .problem = TOKEN_WATCH},
    {NULL, ALICE_AND("\"watch\":[\"bob\",1]"), .problem = TOKEN_WATCH},
    {NULL, ALICE_AND("\"watch\":[\"\"]"), .problem = TOKEN_WATCH},
    {NULL, ALICE_AND("\"watch\":[\"a\\u0000\"]"), .problem = TOKEN_WATCH},
    {NULL, ALICE_AND("\"watch\":[[\"bob\"]]"), .problem = TOKEN_WATCH},
    {NULL, ALICE_AND("\"watch\":{\"bob\":true}"), .problem = TOKEN_WATCH},
    {NULL, ALICE_AND("\"watch\":true"), .problem = TOKEN_WATCH},
    {NULL, ALICE_AND("\"watch\":null"), .problem = TOKEN_NONE},
};

static void token_table(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < COUNT_OF(TOKEN_TABLE); i++) {
        const struct token_row *row = &TOKEN_TABLE[i];
        struct buffer b = {0};
        struct token token;
        token_make(&b, TOKEN_HS256, row->header, row->claims ? row->claims : TOKEN_ALICE);
        struct span copy = exact_copy(b.at, b.len);
        enum token_problem problem =
            token_verify(&TOKEN_WORLD.keys, copy, TEST_WALL, row->issuer ? row->issuer : "",
                         row->audience ? row->audience : "", &token);
        exact_free(copy);
        if (problem != row->problem)
            fail_msg("%s %s: %s", row->header, row->claims, TOKEN_PROBLEMS[problem].text);
        if (!problem) {
            assert_int_equal(strlen(token.user), token.user_len);
            if (!row->claims) assert_string_equal(token.user, "alice");
            if (!row->claims) assert_int_equal(token.expires_ms, TEST_WALL + 60000);
        }
        token_free(&token);
        buffer_free(&b);
    }
}

/* What a wrong signature of an algorithm is, where there is a key for it. */
static enum token_problem token_unsigned(int kind)
{
    return kind == TOKEN_HS256 ? TOKEN_SECRET : TOKEN_SIGNATURE;
}

/* Every problem has a text of its own that no token can be in, and that fits behind its error's
 * code in a close frame. */
static void token_problems_have_texts(void **unused)
{
    (void)unused;
    for (int i = 0; i < TOKEN_PROBLEM_COUNT; i++) {
        const struct token_problem_row *row = &TOKEN_PROBLEMS[i];
        assert_true(row->text && *row->text && !strchr(row->text, '%'));
        assert_true(strlen(ERRORS[row->error].code) + 2 + strlen(row->text) <= WS_REASON_MAX);
        assert_true(!i == (row->error == ERROR_NONE));
        for (int k = 0; k < i; k++) assert_string_not_equal(row->text, TOKEN_PROBLEMS[k].text);
    }
}

/* Texts that are no token: too few parts or too many, padding, other characters, too long. */
static void token_forms(void **unused)
{
    (void)unused;
    struct buffer b = {0}, c = {0};
    token_make(&b, TOKEN_HS256, NULL, TOKEN_ALICE);
    assert_int_equal(token_judge(b.at, b.len), TOKEN_NONE);
    assert_int_equal(token_judge("", 0), TOKEN_MISSING);
    assert_int_equal(token_judge(".", 1), TOKEN_MALFORMED);
    assert_int_equal(token_judge("..", 2), TOKEN_MALFORMED);
    assert_int_equal(token_judge("...", 3), TOKEN_MALFORMED);
    static const char *const tails[] = {".", "=", "==", "\n", " ", ".e30", "A", "AA", "\xc3\xa9"};
    for (size_t i = 0; i < COUNT_OF(tails); i++) {
        c.len = 0;
        buffer_add(&c, b.at, b.len);
        buffer_text(&c, tails[i]);
        enum token_problem problem = token_judge(c.at, c.len);
        if (problem != TOKEN_MALFORMED && problem != TOKEN_SECRET) fail_msg("tail %zu", i);
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
        token_make(&b, kind, NULL, TOKEN_ALICE);
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
            token_write(&b, token_span("{\"alg\":\"HS256\"}"), token_span(TOKEN_ALICE));
            token_seal_secret(&b, (struct span){pem, strlen(pem) - cut});
            assert_int_equal(token_try(&keys, b.at, b.len, TEST_WALL, &token), TOKEN_ALGORITHM);
            assert_int_equal(token_judge(b.at, b.len), TOKEN_SECRET);
        }
        for (int other = 0; other < TOKEN_KIND_COUNT; other++) {
            char header[32];
            snprintf(header, sizeof header, "{\"alg\":\"%s\"}", TOKEN_ALGORITHMS[other]);
            token_make(&b, kind, header, TOKEN_ALICE);
            assert_int_equal(token_judge(b.at, b.len),
                             other == kind ? TOKEN_NONE : token_unsigned(other));
            assert_int_equal(token_try(&keys, b.at, b.len, TEST_WALL, &token),
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
    static const uint8_t order[32] = {0xff, 0xff, 0xff, 0xff, 0,    0,    0,    0,
                                      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                      0xbc, 0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84,
                                      0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51},
                         zero[32], one[32] = {[31] = 1};
    const uint8_t *const numbers[] = {zero, order, one};
    struct buffer b = {0};
    for (int i = 0; i < 9; i++) {
        uint8_t signature[64];
        memcpy(signature, numbers[i / 3], 32);
        memcpy(signature + 32, numbers[i % 3], 32);
        token_write(&b, token_span("{\"alg\":\"ES256\"}"), token_span(TOKEN_ALICE));
        buffer_text(&b, ".");
        base64url_encode(&b, signature, sizeof signature);
        assert_int_equal(token_judge(b.at, b.len), TOKEN_SIGNATURE);
    }
    for (int kind = 0; kind < TOKEN_KIND_COUNT; kind++) {
        static const size_t lengths[] = {0, 1, 31, 32, 33, 63, 64, 65, 70, 255, 256, 257, 1000};
        for (size_t i = 0; i < COUNT_OF(lengths); i++) {
            static const uint8_t bytes[1000];
            char header[32];
            snprintf(header, sizeof header, "{\"alg\":\"%s\"}", TOKEN_ALGORITHMS[kind]);
            token_write(&b, token_span(header), token_span(TOKEN_ALICE));
            buffer_text(&b, ".");
            base64url_encode(&b, bytes, lengths[i]);
            assert_int_equal(token_judge(b.at, b.len), token_unsigned(kind));
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
        int64_t after; /* TEST_WALL */
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
        {EXP("253402300799"), INT64_MAX - TEST_WALL, TOKEN_EXPIRED},
        {EXP("0"), -TEST_WALL, TOKEN_NONE},
        {EXP("0"), INT64_MIN, TOKEN_NONE},
        {ALICE_AND("\"nbf\":0"), INT64_MIN, TOKEN_NOT_YET},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buffer b = {0};
        struct token token;
        token_make(&b, TOKEN_HS256, NULL, rows[i].claims);
        enum token_problem problem =
            token_try(&TOKEN_WORLD.keys, b.at, b.len, TEST_WALL + rows[i].after, &token);
        if (problem != rows[i].problem)
            fail_msg("%s at %" PRId64 ": %s", rows[i].claims, rows[i].after,
                     TOKEN_PROBLEMS[problem].text);
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
        {HS("\"kid\":\"old\""), "n", TOKEN_SECRET},
        {HS("\"kid\":\"old\""), "x", TOKEN_SECRET},
        {HS("\"kid\":\"new\""), "n", TOKEN_NONE},
        {HS("\"kid\":\"new\""), "m", TOKEN_NONE},
        {HS("\"kid\":\"n\\u0065w\""), "m", TOKEN_NONE},
        {HS("\"kid\":\"new\""), "o", TOKEN_SECRET},
        {HS("\"kid\":\"NEW\""), "n", TOKEN_SECRET},
        {HS("\"kid\":\"NEW\""), "x", TOKEN_NONE},
        {HS("\"kid\":\"\""), "x", TOKEN_NONE},
        {HS("\"kid\":\"\""), "n", TOKEN_SECRET},
        {HS("\"kid\":\"new\\u0000\""), "n", TOKEN_SECRET},
        {"{\"alg\":\"HS256\"}", "o", TOKEN_NONE},
        {"{\"alg\":\"HS256\"}", "m", TOKEN_NONE},
        {"{\"alg\":\"HS256\"}", "x", TOKEN_NONE},
        {"{\"alg\":\"HS256\"}", "y", TOKEN_SECRET},
        {"{\"alg\":\"RS256\",\"kid\":\"old\"}", "o", TOKEN_ALGORITHM},
        {"{\"alg\":\"RS256\"}", "o", TOKEN_ALGORITHM},
    };
    struct token_keys keys = {0}, named = {0}, none = {0};
    struct token token;
    struct buffer b = {0};
    char err[WHY_MAX], secret[32];
    for (size_t i = 0; i < COUNT_OF(keys_of); i++) {
        memset(secret, *keys_of[i].secret, sizeof secret);
        struct span bytes = {secret, sizeof secret};
        assert_true(token_keys_add_bytes(&keys, false, keys_of[i].kid, bytes, WHY(err)));
        if (!*keys_of[i].kid) continue;
        assert_true(token_keys_add_bytes(&named, false, keys_of[i].kid, bytes, WHY(err)));
    }
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        token_write(&b, token_span(rows[i].header), token_span(TOKEN_ALICE));
        memset(secret, *rows[i].secret, sizeof secret);
        token_seal_secret(&b, (struct span){secret, sizeof secret});
        enum token_problem problem = token_try(&keys, b.at, b.len, TEST_WALL, &token);
        token_free(&token);
        if (problem != rows[i].problem)
            fail_msg("%s signed by %s: %s", rows[i].header, rows[i].secret,
                     TOKEN_PROBLEMS[problem].text);
        assert_int_equal(token_try(&none, b.at, b.len, TEST_WALL, &token), TOKEN_UNKNOWN_KEY);
    }
    token_make(&b, TOKEN_HS256, HS("\"kid\":\"other\""), TOKEN_ALICE);
    assert_int_equal(token_try(&named, b.at, b.len, TEST_WALL, &token), TOKEN_UNKNOWN_KEY);
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
        {TOKEN_ALICE, false, "alice", "bob"},
        {TOKEN_ALICE, false, "alice", "alic"},
        {TOKEN_ALICE, false, "alice", "alicea"},
        {TOKEN_ALICE, false, "alice", "*"},
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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buffer b = {0};
        struct token token;
        token_make(&b, TOKEN_HS256, NULL, rows[i].claims);
        assert_int_equal(token_try(&TOKEN_WORLD.keys, b.at, b.len, TEST_WALL, &token), TOKEN_NONE);
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
        enum token_problem problem =
            token_verify(&TOKEN_WORLD.keys, (struct span){copy, b->len}, TEST_WALL, "", "", &token);
        if (problem != (broken ? token_unsigned(i % TOKEN_KIND_COUNT) : TOKEN_NONE)) crowd->bad++;
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
    for (int i = 0; i < TOKEN_KIND_COUNT; i++) token_make(&crowd.tokens[i], i, NULL, TOKEN_ALICE);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, token_crowd_run, &crowd), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    assert_int_equal(crowd.bad, 0);
    for (int i = 0; i < TOKEN_KIND_COUNT; i++) buffer_free(&crowd.tokens[i]);
}

/* A random valid id of up to 128 bytes, controls, quotes and all planes considered. */
static size_t token_random_id(uint32_t *seed, char out[USER_ID_MAX + 1])
{
    size_t len = 0, want = 1 + below32(seed, USER_ID_MAX);
    while (len < want && len + 4 <= USER_ID_MAX) {
        static const uint32_t ends[] = {0x80, 0x80, 0x800, 0xd800, 0x110000};
        uint32_t c = (uint32_t)below32(seed, ends[below32(seed, 5)]);
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
        bool admin = below32(&seed, 2);
        int kind = (int)below32(&seed, 3);
        int64_t wall = TEST_WALL + (int64_t)below32(&seed, 100000);
        int64_t lifetime = 1 + (int64_t)below32(&seed, 10000000), end = wall + lifetime;
        token_keys_add_signer(&keys, &TOKEN_WORLD.signer, TOKEN_ES256, "first");
        token_keys_add_signer(&keys, &TOKEN_WORLD.signer, TOKEN_HS256, round % 2 ? "k\"1" : "");
        snprintf(watch, sizeof watch, "%s,%s", a, c);
        buffer_text(&b, "Bearer ");
        assert_true(token_mint(&keys, (struct span){user, len}, wall, lifetime,
                               kind == 0   ? ""
                               : kind == 1 ? "*"
                                           : watch,
                               admin, "joe \"x\"", "me", &b, WHY(err)));
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
    assert_true(token_mint(&keys, token_span("alice"), TEST_WALL + 1, 3600000, "bob,carol", true,
                           "joe", "me", &b, WHY(err)));
    assert_true(token_split((struct span){b.at, b.len}, &parts));
    assert_memory_equal(parts.header.at, want, sizeof want - 1);
    b.len = 0;
    assert_true(
        token_mint(&keys, token_span("alice"), TEST_WALL, 1000, "", false, "", "", &b, WHY(err)));
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
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        bool good = token_mint(&keys, token_span(rows[i].user), TEST_WALL, rows[i].lifetime,
                               rows[i].watch, false, "", "", &b, WHY(err));
        if (good || strncmp(err, rows[i].says, strlen(rows[i].says)) || b.len != 6)
            fail_msg("row %zu: %s", i, err);
    }
    assert_false(
        token_mint(&none, token_span("alice"), TEST_WALL, 1000, "", false, "", "", &b, WHY(err)));
    assert_string_equal(err, "--mint-token: there is no secret to sign with; give it one with"
                             " --jwt-secret-file");
    buffer_free(&b);
    token_keys_free(&keys);
    token_keys_free(&none);
}

static const struct CMUnitTest TOKENS_TESTS[] = {
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
    crossing_test(token_threads_share_keys),
    cmocka_unit_test(token_mint_round_trip),
    cmocka_unit_test(token_mint_text),
    cmocka_unit_test(token_mint_refusals),
};
