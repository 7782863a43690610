/* TLS, certificates: keys, and who uses them when. */
#include "unit.h"

enum { TLS_SIGNERS = 3 };

/* A pair with a copy of a signer's key and no certificate. */
static void tls_pair_of(struct tls_pair *pair, const mbedtls_pk_context *key)
{
    *pair = (struct tls_pair){.keys = mem_new(sizeof *pair->keys), .key_count = 1};
    mbedtls_x509_crt_init(&pair->chain);
    mbedtls_pk_init(pair->keys);
    unsigned char der[2048];
    int len = mbedtls_pk_write_key_der(key, der, sizeof der);
    assert_true(len > 0);
    assert_int_equal(mbedtls_pk_parse_key(pair->keys, der + sizeof der - len, (size_t)len, NULL, 0,
                                          token_random, NULL),
                     0);
}

/* One thread that signs with its own key of a pair. */
struct tls_signing {
    mbedtls_pk_context *key, *check;
    int failed;
};

static void *tls_sign_run(void *argument)
{
    struct tls_signing *signing = argument;
    for (int i = 0; i < 5; i++) {
        unsigned char hash[SHA256_SIZE] = {(unsigned char)i},
                      signature[MBEDTLS_PK_SIGNATURE_MAX_SIZE];
        size_t len;
        int error = mbedtls_pk_sign(signing->key, MBEDTLS_MD_SHA256, hash, sizeof hash, signature,
                                    sizeof signature, &len, token_random, NULL);
        if (!error)
            error = mbedtls_pk_verify(signing->check, MBEDTLS_MD_SHA256, hash, sizeof hash,
                                      signature, len);
        signing->failed += error != 0;
    }
    return NULL;
}

/* An RSA key is there once for each thread that signs, none shares a byte with another, and each
 * signs what the certificate's key verifies; an EC key is there once. */
static void tls_rsa_keys_are_one_a_thread(void **unused)
{
    (void)unused;
    struct token_signer signer;
    struct tls_pair rsa, ec;
    struct tls_signing signing[TLS_SIGNERS];
    pthread_t threads[TLS_SIGNERS];
    token_signer_init(&signer);
    tls_pair_of(&rsa, &signer.pairs[TOKEN_RS256]);
    tls_pair_of(&ec, &signer.pairs[TOKEN_ES256]);
    assert_int_equal(tls_pair_copy_key(&rsa, TLS_SIGNERS), 0);
    assert_int_equal(tls_pair_copy_key(&ec, TLS_SIGNERS), 0);
    assert_int_equal(rsa.key_count, TLS_SIGNERS);
    assert_int_equal(ec.key_count, 1);
    for (int i = 0; i < TLS_SIGNERS; i++) {
        signing[i] = (struct tls_signing){&rsa.keys[i], &rsa.keys[i], 0};
        assert_int_equal(
            mbedtls_pk_check_pair(&signer.pairs[TOKEN_RS256], &rsa.keys[i], token_random, NULL), 0);
    }
    for (int i = 0; i < TLS_SIGNERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, tls_sign_run, &signing[i]), 0);
    for (int i = 0; i < TLS_SIGNERS; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(signing[i].failed, 0);
    }
    tls_pair_free(&rsa);
    tls_pair_free(&ec);
    token_signer_free(&signer);
}

static const struct CMUnitTest CERTIFICATES_TESTS[] = {
    crossing_test(tls_rsa_keys_are_one_a_thread),
};
