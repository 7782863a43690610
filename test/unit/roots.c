/* Calling out: whom to trust. */
#include "unit.h"

enum { ROOTS_KEYS = 3, ROOTS_POOL = 60, ROOTS_DER = 700, ROOTS_CHAIN = 4 };

/* One name in three writings, and another; Mbed TLS takes the third for the same as the first. */
static const char *const ROOTS_NAMES[] = {"CN=Root", "CN=ROOT", "CN=#1304526f6f74", "CN=Other"};

/* A certificate, and what it was made of. */
struct roots_cert {
    unsigned subject, issuer, key, signer;
    size_t len;
    uint8_t der[ROOTS_DER];
};

struct roots_pool {
    mbedtls_pk_context keys[ROOTS_KEYS];
    struct roots_cert certs[ROOTS_POOL];
    uint64_t seed;
};

static void roots_sign(struct roots_pool *pool, struct roots_cert *out, unsigned serial)
{
    static const uint8_t usage[] = {3, 2, 7, 0x80};
    uint8_t der[ROOTS_DER], number[] = {1, (uint8_t)serial};
    mbedtls_x509write_cert cert;
    bool old = below64(&pool->seed, 10) == 0, ca = below64(&pool->seed, 3) != 0;
    mbedtls_x509write_crt_init(&cert);
    mbedtls_x509write_crt_set_version(&cert, MBEDTLS_X509_CRT_VERSION_3);
    mbedtls_x509write_crt_set_md_alg(&cert, MBEDTLS_MD_SHA256);
    mbedtls_x509write_crt_set_subject_key(&cert, &pool->keys[out->key]);
    mbedtls_x509write_crt_set_issuer_key(&cert, &pool->keys[out->signer]);
    must(!mbedtls_x509write_crt_set_subject_name(&cert, ROOTS_NAMES[out->subject]));
    must(!mbedtls_x509write_crt_set_issuer_name(&cert, ROOTS_NAMES[out->issuer]));
    must(!mbedtls_x509write_crt_set_serial_raw(&cert, number, sizeof number));
    must(!mbedtls_x509write_crt_set_validity(&cert, "20200101000000",
                                             old ? "20210101000000" : "20991231235959"));
    must(!mbedtls_x509write_crt_set_basic_constraints(&cert, ca, -1));
    if (below64(&pool->seed, 8) == 0) /* may sign, but no certificates */
        must(!mbedtls_x509write_crt_set_extension(&cert, MBEDTLS_OID_KEY_USAGE,
                                                  sizeof MBEDTLS_OID_KEY_USAGE - 1, 1, usage,
                                                  sizeof usage));
    int len = mbedtls_x509write_crt_der(&cert, der, sizeof der, token_random, NULL);
    must(len > 0);
    out->len = (size_t)len;
    memcpy(out->der, der + sizeof der - len, out->len);
    mbedtls_x509write_crt_free(&cert);
}

static void roots_make(struct roots_pool *pool, uint64_t seed)
{
    *pool = (struct roots_pool){.seed = seed};
    for (int i = 0; i < ROOTS_KEYS; i++) {
        mbedtls_pk_init(&pool->keys[i]);
        must(!mbedtls_pk_setup(&pool->keys[i], mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY)));
        must(!mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(pool->keys[i]),
                                  token_random, NULL));
    }
    for (unsigned i = 0; i < ROOTS_POOL; i++) {
        struct roots_cert *cert = &pool->certs[i];
        cert->subject = (unsigned)below64(&pool->seed, COUNT_OF(ROOTS_NAMES));
        cert->issuer = (unsigned)below64(&pool->seed, COUNT_OF(ROOTS_NAMES));
        cert->key = (unsigned)below64(&pool->seed, ROOTS_KEYS);
        cert->signer = (unsigned)below64(&pool->seed, ROOTS_KEYS);
        if (below64(&pool->seed, 2)) { /* signs itself */
            cert->issuer = cert->subject;
            cert->signer = cert->key;
        }
        roots_sign(pool, cert, i);
    }
}

static void roots_free(struct roots_pool *pool)
{
    for (int i = 0; i < ROOTS_KEYS; i++) mbedtls_pk_free(&pool->keys[i]);
}

static void roots_add_pem(struct buffer *text, const uint8_t *der, size_t len)
{
    static const char begin[] = "-----BEGIN CERTIFICATE-----\n",
                      end[] = "-----END CERTIFICATE-----\n";
    unsigned char pem[2048];
    size_t size;
    must(!mbedtls_pem_write_buffer(begin, end, der, len, pem, sizeof pem, &size));
    buffer_add(text, pem, size - 1);
}

/* A file with some of them, as people make it: with words between, blocks of other kinds, broken
 * ones; or one alone in DER. A zero is behind it. */
static void roots_write(struct roots_pool *pool, struct buffer *text)
{
    static const char *const noise[] = {
        "",
        "# Root of everything\n",
        "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nMAMCAQA=\n-----END CERTIFICATE-----\n",
        "-----BEGIN PRIVATE KEY-----\nMAMCAQA=\n-----END PRIVATE KEY-----\n",
        "\r\n\r\n",
    };
    size_t count = below64(&pool->seed, 7);
    text->len = 0;
    for (size_t i = 0; i < count; i++) {
        const struct roots_cert *cert = &pool->certs[below64(&pool->seed, ROOTS_POOL)];
        const char *between = noise[below64(&pool->seed, COUNT_OF(noise))];
        buffer_add(text, between, strlen(between));
        roots_add_pem(text, cert->der, cert->len);
    }
    if (count == 1 && below64(&pool->seed, 2)) {
        text->len = 0;
        buffer_add(text, pool->certs[0].der, pool->certs[0].len);
    }
    *buffer_room(text, 1) = 0;
}

/* What a server sends: a certificate, and some more that may belong to it. */
static void roots_send(struct roots_pool *pool, mbedtls_x509_crt *chain)
{
    size_t count = 1 + below64(&pool->seed, ROOTS_CHAIN);
    mbedtls_x509_crt_init(chain);
    while (count--) {
        const struct roots_cert *next = &pool->certs[below64(&pool->seed, ROOTS_POOL)];
        must(!mbedtls_x509_crt_parse_der(chain, next->der, next->len));
    }
}

/* One question asked both ways; whether the answer is that it is trusted. */
static bool roots_ask(struct roots_pool *pool, struct buffer *roots)
{
    mbedtls_x509_crt chain, list;
    uint32_t flags, expected;
    uint64_t seed = pool->seed;
    roots_write(pool, roots);
    roots_send(pool, &chain);
    mbedtls_x509_crt_init(&list);
    struct tls_trust trust = {.roots = roots, .host = "host.example.com"};
    bool pem = strstr(roots->at, "-----BEGIN");
    (void)mbedtls_x509_crt_parse(&list, (const uint8_t *)roots->at, roots->len + pem);
    int wanted = mbedtls_x509_crt_verify(&chain, &list, NULL, NULL, &expected, NULL, NULL);
    int error = mbedtls_x509_crt_verify_with_ca_cb(&chain, tls_trust_find, &trust,
                                                   &mbedtls_x509_crt_profile_default, NULL, &flags,
                                                   tls_trust_verify, &trust);
    if (error != wanted || flags != expected) print_message("at %" PRIx64 "\n", seed);
    assert_int_equal(error, wanted);
    assert_int_equal(flags, expected);
    mbedtls_x509_crt_free(&chain);
    mbedtls_x509_crt_free(&list);
    return !error;
}

/* Who is trusted is whom Mbed TLS trusts that has read the whole file. PRESENCE_SEED=N: one pool
 * of certificates; others in each run, and more where all is wanted (./build.sh test STEP). */
static void tls_roots_trust_as_the_whole_list_does(void **unused)
{
    (void)unused;
    static struct roots_pool pool;
    struct buffer roots = {0};
    const char *one = getenv("PRESENCE_SEED");
    uint64_t seed = one ? strtoull(one, NULL, 10) : (uint64_t)clock_mono_ms();
    unsigned trusted = 0, asked = 0;
    for (int pools = one ? 1 : getenv("PRESENCE_THOROUGH") ? 8 : 2; pools--; seed++) {
        roots_make(&pool, seed);
        print_message("PRESENCE_SEED=%" PRIu64 "\n", seed);
        for (int i = 0; i < 300; i++, asked++) trusted += roots_ask(&pool, &roots);
        roots_free(&pool);
    }
    assert_in_range(trusted, asked / 20, asked - asked / 20);
    buffer_free(&roots);
}

static const struct CMUnitTest ROOTS_TESTS[] = {
    cmocka_unit_test(tls_roots_trust_as_the_whole_list_does),
};
