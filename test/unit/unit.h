/* What every file of unit tests needs: presence.c as it is, with its main out of the way,
 * cmocka, and the helpers that several use. Every input of a pure function is copied to memory
 * of exactly its size, so that a sanitizer sees a read past the end. */
#ifndef UNIT_UNIT_H
#define UNIT_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#define main presence_main
#include "../../presence.c"
#undef main

#include <cmocka.h>

#include "pure.h"

#define COUNT_OF(rows) (sizeof(rows) / sizeof *(rows))

/* A test in which threads cross. Under the thread sanitizer, which has nothing to see where there
 * is one thread and takes minutes for it, only these run by default. */
#define crossing_test(f) cmocka_unit_test_prestate(f, CROSSING)
#define CROSSING (&crossing)
static char crossing;
#ifdef __SANITIZE_THREAD__
enum { ONLY_THREADS = 1 };
#else
enum { ONLY_THREADS = 0 };
#endif

/* A secret and two key pairs, with both halves. */
struct token_signer {
    struct buffer secret;
    mbedtls_pk_context pairs[TOKEN_KIND_COUNT]; /* none for HS256 */
};

/* Ends the test at once: what it stands on does not hold. */
static void must(bool holds)
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
    must(n >= 0);
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
    must(!mbedtls_pk_setup(rsa, mbedtls_pk_info_from_type(MBEDTLS_PK_RSA)) &&
         !mbedtls_rsa_import_raw(mbedtls_pk_rsa(*rsa), n, n_len, NULL, 0, NULL, 0, d, d_len, e,
                                 sizeof e) &&
         !mbedtls_rsa_complete(mbedtls_pk_rsa(*rsa)));
    size_t k_len = token_bytes(ec_text, k, sizeof k);
    must(!mbedtls_pk_setup(ec, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)) &&
         !mbedtls_ecp_read_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(*ec), k, k_len) &&
         !mbedtls_ecp_keypair_calc_public(mbedtls_pk_ec(*ec), token_random, NULL));
}

/* Gives back what token_signer_init took. */
static void token_signer_free(struct token_signer *signer)
{
    buffer_free(&signer->secret);
    for (int i = 0; i < TOKEN_KIND_COUNT; i++) mbedtls_pk_free(&signer->pairs[i]);
}

/* A small generator, the same numbers in every run. */
static uint64_t random64(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* A number from 0 to n - 1. */
static size_t below64(uint64_t *state, size_t n)
{
    return random64(state) % n;
}

/* A small generator, the same numbers in every run. */
static uint32_t random32(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

/* A number from 0 to n - 1. */
static size_t below32(uint32_t *state, size_t n)
{
    return random32(state) % n;
}

/* The C string as a span of its own memory, without the NUL; the caller frees .at. */
static struct span exact_copy(const char *at, size_t len)
{
    char *copy = malloc(len ? len : 1);
    assert_non_null(copy);
    memcpy(copy, at, len);
    return (struct span){copy, len};
}

/* Frees what exact_copy gave. */
static void exact_free(struct span s)
{
    free((char *)s.at);
}

/* The grammar of RFC 3629 section 4, row by row: does this single sequence match? */
static bool utf8_reference(const uint8_t *s, size_t n)
{
    static const struct {
        size_t n;
        uint8_t low[4], high[4];
    } rows[] = {
        {1, {0x00}, {0x7f}},
        {2, {0xc2, 0x80}, {0xdf, 0xbf}},
        {3, {0xe0, 0xa0, 0x80}, {0xe0, 0xbf, 0xbf}},
        {3, {0xe1, 0x80, 0x80}, {0xec, 0xbf, 0xbf}},
        {3, {0xed, 0x80, 0x80}, {0xed, 0x9f, 0xbf}},
        {3, {0xee, 0x80, 0x80}, {0xef, 0xbf, 0xbf}},
        {4, {0xf0, 0x90, 0x80, 0x80}, {0xf0, 0xbf, 0xbf, 0xbf}},
        {4, {0xf1, 0x80, 0x80, 0x80}, {0xf3, 0xbf, 0xbf, 0xbf}},
        {4, {0xf4, 0x80, 0x80, 0x80}, {0xf4, 0x8f, 0xbf, 0xbf}},
    };
    for (size_t r = 0; r < COUNT_OF(rows); r++) {
        bool fits = rows[r].n == n;
        for (size_t i = 0; fits && i < n; i++)
            fits = s[i] >= rows[r].low[i] && s[i] <= rows[r].high[i];
        if (fits) return true;
    }
    return false;
}

/* Whether s can be cut into sequences of the grammar. The grammar is prefix-free. */
static bool utf8_text_reference(const uint8_t *s, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t step = 1;
        while (step <= 4 && step <= n - i && !utf8_reference(s + i, step)) step++;
        if (step > 4 || step > n - i) return false;
        i += step;
    }
    return true;
}

/* Whether bytes could follow that make the text valid. */
static bool utf8_begins_reference(const uint8_t *s, size_t n)
{
    static const uint8_t watches[] = {0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf};
    uint8_t last[8];
    for (size_t cut = 0; cut <= 3 && cut <= n; cut++) {
        if (!utf8_text_reference(s, n - cut)) continue;
        if (!cut) return true;
        if (n) memcpy(last, s + n - cut, cut);
        for (size_t more = 1; more + cut <= 4; more++) {
            for (int i = 0, all = more == 1 ? 6 : more == 2 ? 36 : 216; i < all; i++) {
                const int picks[] = {i % 6, i / 6 % 6, i / 36};
                for (size_t k = 0; k < more; k++) last[cut + k] = watches[picks[k]];
                if (utf8_text_reference(last, cut + more)) return true;
            }
        }
    }
    return false;
}

/* The text in memory of exactly its size, or NULL; the caller frees it. */
static char *text_copy(const char *text)
{
    if (!text) return NULL;
    char *copy = malloc(strlen(text) + 1);
    assert_non_null(copy);
    return strcpy(copy, text);
}

/* A text of n times c between two others; the caller frees it. */
static char *text_long(const char *before, char c, size_t n, const char *behind)
{
    char *text = malloc(strlen(before) + n + strlen(behind) + 1), *at = stpcpy(text, before);
    memset(at, c, n);
    strcpy(at + n, behind);
    return text;
}

#define TEST_WALL INT64_C(1700000000000)

/* A C string as a span. */
static struct span token_span(const char *text)
{
    return (struct span){text, strlen(text)};
}

#endif
