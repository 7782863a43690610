/* What only tests need of the section Tokens: the keys of RFC 7515 appendix A, which everybody
 * knows, and tokens signed with them. Included behind presence.c. */

#include <mbedtls/ecdsa.h>
#include <sys/mman.h>

/* A secret and two key pairs, with both halves. */
struct token_signer {
    struct buffer secret;
    mbedtls_pk_context pairs[TOKEN_KIND_COUNT]; /* none for HS256 */
};

/* Ends the test at once: what it stands on does not hold. */
static void token_must(bool holds)
{
    if (!holds) abort();
}

/* Random numbers as Mbed TLS wants them. */
static int token_random(void *unused, unsigned char *out, size_t n)
{
    (void)unused;
    random_bytes(out, n);
    return 0;
}

/* Decodes base64url that is known to be valid; returns the number of bytes. */
static size_t token_bytes(const char *text, uint8_t *out, size_t size)
{
    int n = base64url_decode((struct span){text, strlen(text)}, out, size);
    token_must(n >= 0);
    return (size_t)n;
}

/* Makes the signer of appendices A.1 to A.3. */
static void token_signer_init(struct token_signer *signer)
{
    static const char secret[] = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0i"
                                 "PS4hcgUuTwjAzZr1Z9CAow";
    static const char n_text[] =
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0B"
        "m4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5"
        "z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7"
        "aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
    static const char d_text[] =
        "Eq5xpGnNCivDflJsRQBXHx1hdR1k6Ulwe2JZD50LpXyWPEAeP88vLNO97IjlA7_GQ5sLKMgvfTeXZx9SE-7YwVol2N"
        "XOoAJe46sui395IW_GO-pWJ1O0BkTGoVEn2bKVRUCgu-GjBVaYLU6f3l9kJfFNS3E0QbVdxzubSu3Mkqzjkn439X0M"
        "_V51gfpRLI9JYanrC4D4qAdGcopV_0ZHHzQlBjudU2QvXt4ehNYTCBr6XCLQUShb1juUO1ZdiYoFaFQT5Tw8bGUl_x"
        "_jTj3ccPDVZFD9pIuhLhBOneufuBiB4cS98l2SR_RQyGWSeWjnczT0QU91p1DhOVRuOopznQ";
    static const char ec_text[] = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";
    uint8_t n[256], d[256], e[] = {1, 0, 1}, k[64];
    *signer = (struct token_signer){0};
    buffer_add(&signer->secret, k, token_bytes(secret, k, sizeof k));
    mbedtls_pk_context *rsa = &signer->pairs[TOKEN_RS256], *ec = &signer->pairs[TOKEN_ES256];
    size_t n_len = token_bytes(n_text, n, sizeof n), d_len = token_bytes(d_text, d, sizeof d);
    token_must(!mbedtls_pk_setup(rsa, mbedtls_pk_info_from_type(MBEDTLS_PK_RSA)) &&
               !mbedtls_rsa_import_raw(mbedtls_pk_rsa(*rsa), n, n_len, NULL, 0, NULL, 0, d, d_len,
                                       e, sizeof e) &&
               !mbedtls_rsa_complete(mbedtls_pk_rsa(*rsa)));
    size_t k_len = token_bytes(ec_text, k, sizeof k);
    token_must(!mbedtls_pk_setup(ec, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)) &&
               !mbedtls_ecp_read_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(*ec), k, k_len) &&
               !mbedtls_ecp_keypair_calc_public(mbedtls_pk_ec(*ec), token_random, NULL));
}

/* Gives back what token_signer_init took. */
static void token_signer_free(struct token_signer *signer)
{
    buffer_free(&signer->secret);
    for (int i = 0; i < TOKEN_KIND_COUNT; i++) mbedtls_pk_free(&signer->pairs[i]);
}

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
    token_must(fd >= 0 && write(fd, bytes.at, bytes.len) == (ssize_t)bytes.len);
    snprintf(value, sizeof value, "%s%s/proc/self/fd/%d", kid, *kid ? "=" : "", fd);
    bool good = is_public ? token_keys_add_public(keys, value, true, why)
                          : token_keys_add_secret(keys, value, true, why);
    close(fd);
    return good;
}

/* The public half of a pair as PEM, NUL-terminated. */
static void token_public_pem(mbedtls_pk_context *pair, char out[1024])
{
    token_must(!mbedtls_pk_write_pubkey_pem(pair, (unsigned char *)out, 1024));
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
    token_must(token_keys_add_bytes(keys, kind != TOKEN_HS256, kid, bytes, WHY(err)));
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
    token_must(!mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), (uint8_t *)b->at, b->len,
                           hash) &&
               !mbedtls_pk_sign(&signer->pairs[kind], MBEDTLS_MD_SHA256, hash, sizeof hash,
                                signature, sizeof signature, &len, token_random, NULL));
    if (kind == TOKEN_ES256)
        token_must(!mbedtls_ecdsa_der_to_raw(256, signature, len, signature, sizeof signature,
                                             &len));
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
