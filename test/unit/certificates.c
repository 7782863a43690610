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

/* ---- Mbed TLS's memory: free lists of each thread ---- */

/* A block is as long as was asked for and zero, new or used before; sizes that overflow have
 * none. */
static void tls_blocks_are_zero(void **unused)
{
    (void)unused;
    for (int round = 0; round < 2; round++)
        for (size_t n = 0; n < SEAM_MEM_BLOCK_MAX + 100; n++) {
            unsigned char *at = seam_mem_calloc(1, n), *other = seam_mem_calloc(n, 1);
            assert_true(at && other && at != other);
            for (size_t i = 0; i < n; i++) assert_true(!at[i] && !other[i]);
            memset(at, 0xff, n);
            memset(other, 0xff, n);
            seam_mem_free(at);
            seam_mem_free(other);
        }
    seam_mem_free(NULL);
    assert_null(seam_mem_calloc(SIZE_MAX / 2, 3));
}

/* What a thread keeps is bounded, whatever it frees and whoever made it; a large block is not kept;
 * a kept block is the next of its size. */
static void *tls_lists_are_bounded_run(void *argument)
{
    enum { COUNT = 1000 };
    void *blocks[COUNT];
    assert_int_equal(seam_mem_listed(), 0); /* of a new thread */
    for (size_t size = 1; size < 2000; size += 97) {
        for (int i = 0; i < COUNT; i++)
            blocks[i] = i % 2 ? seam_mem_calloc(1, size) : malloc(size); /* as another's would be */
        for (int i = 0; i < COUNT; i++) {
            size_t before = seam_mem_listed();
            seam_mem_free(blocks[i]);
            assert_true(seam_mem_listed() <= SEAM_MEM_LIST_MAX);
            if (size > SEAM_MEM_BLOCK_MAX + 64) assert_int_equal(seam_mem_listed(), before);
        }
    }
    void *last = seam_mem_calloc(1, 1); /* the list of the smallest was filled first */
    size_t kept = seam_mem_listed();
    seam_mem_free(last);
    assert_true(seam_mem_listed() > kept);
    assert_ptr_equal(seam_mem_calloc(1, 1), last);
    assert_int_equal(seam_mem_listed(), kept);
    seam_mem_free(last);
    return argument;
}

static void tls_lists_are_bounded(void **unused)
{
    (void)unused;
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, tls_lists_are_bounded_run, NULL), 0);
    pthread_join(thread, NULL); /* the leak sanitizer sees whether all came back */
}

/* Blocks that threads hand to each other. */
struct tls_exchange {
    pthread_mutex_t lock;
    unsigned char *at[64]; /* the first four bytes are the size */
    _Atomic uint32_t seed;
    _Atomic int bad;
};

static void *tls_exchange_run(void *argument)
{
    struct tls_exchange *exchange = argument;
    uint32_t seed = exchange->seed++;
    int bad = 0;
    for (int i = 0; i < 20000; i++) {
        uint32_t size = 4 + (uint32_t)below32(&seed, SEAM_MEM_BLOCK_MAX + 200), place;
        unsigned char *mine = seam_mem_calloc(1, size), *theirs;
        for (uint32_t j = 0; j < size; j++) bad += mine[j] != 0;
        memset(mine, (int)(size & 0xff), size);
        memcpy(mine, &size, sizeof size);
        place = (uint32_t)below32(&seed, 64);
        pthread_mutex_lock(&exchange->lock);
        theirs = exchange->at[place];
        exchange->at[place] = mine;
        pthread_mutex_unlock(&exchange->lock);
        if (!theirs) continue;
        memcpy(&size, theirs, sizeof size);
        for (uint32_t j = sizeof size; j < size; j++) bad += theirs[j] != (size & 0xff);
        seam_mem_free(theirs);
    }
    exchange->bad += bad;
    return NULL;
}

/* A block that another thread made is freed and used again by this one; none has two owners. */
static void tls_blocks_change_threads(void **unused)
{
    (void)unused;
    struct tls_exchange exchange = {.lock = PTHREAD_MUTEX_INITIALIZER, .seed = 1};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, tls_exchange_run, &exchange), 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 64; i++) seam_mem_free(exchange.at[i]);
    assert_int_equal(exchange.bad, 0);
}

static const struct CMUnitTest CERTIFICATES_TESTS[] = {
    crossing_test(tls_rsa_keys_are_one_a_thread),
    cmocka_unit_test(tls_blocks_are_zero),
    crossing_test(tls_lists_are_bounded),
    crossing_test(tls_blocks_change_threads),
};
