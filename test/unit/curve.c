/* vendor/mbedtls_curve.c: X25519 by another way than Mbed TLS's own. */
#include "unit.h"

#include <psa/crypto.h>

/* A private key of X25519 in the key store. */
static psa_key_id_t curve_key(const char *hex)
{
    uint8_t bytes[32];
    psa_key_id_t id = 0;
    psa_key_attributes_t attributes = PSA_KEY_ATTRIBUTES_INIT;
    for (int i = 0; i < 32; i++)
        bytes[i] = (uint8_t)strtoul((char[]){hex[2 * i], hex[2 * i + 1], 0}, NULL, 16);
    psa_set_key_usage_flags(&attributes, PSA_KEY_USAGE_DERIVE);
    psa_set_key_algorithm(&attributes, PSA_ALG_ECDH);
    psa_set_key_type(&attributes, PSA_KEY_TYPE_ECC_KEY_PAIR(PSA_ECC_FAMILY_MONTGOMERY));
    assert_int_equal(psa_import_key(&attributes, bytes, sizeof bytes, &id), PSA_SUCCESS);
    return id;
}

/* Whether the bytes are these. */
static void curve_expect(const uint8_t *bytes, size_t len, const char *hex)
{
    char text[65] = "";
    assert_int_equal(len, 32);
    for (size_t i = 0; i < len; i++) snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    assert_string_equal(text, hex);
}

/* The keys of RFC 7748 section 6.1: public from private, and what both agree upon. */
static void test_curve_agrees(void **state)
{
    uint8_t alice_public[32], bob_public[32], secret[32];
    size_t len;
    (void)state;
    assert_int_equal(psa_crypto_init(), PSA_SUCCESS);
    psa_key_id_t alice =
        curve_key("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    psa_key_id_t bob =
        curve_key("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
    assert_int_equal(psa_export_public_key(alice, alice_public, 32, &len), PSA_SUCCESS);
    curve_expect(alice_public, len,
                 "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a");
    assert_int_equal(psa_export_public_key(bob, bob_public, 32, &len), PSA_SUCCESS);
    curve_expect(bob_public, len,
                 "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
    assert_int_equal(psa_raw_key_agreement(PSA_ALG_ECDH, alice, bob_public, 32, secret, 32, &len),
                     PSA_SUCCESS);
    curve_expect(secret, len, "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    assert_int_equal(psa_raw_key_agreement(PSA_ALG_ECDH, bob, alice_public, 32, secret, 32, &len),
                     PSA_SUCCESS);
    curve_expect(secret, len, "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    psa_destroy_key(alice);
    psa_destroy_key(bob);
    mbedtls_psa_crypto_free();
}

/* Points of low order, in every encoding, would make a secret that everybody knows (RFC 8446
 * section 7.4.2). */
static void test_curve_refuses_low_order(void **state)
{
    static const uint8_t points[][32] = {
        {0},
        {1},
        {0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3,
         0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32,
         0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
        {0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1,
         0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c,
         0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
    };
    uint8_t secret[32], near_p[32];
    size_t len;
    (void)state;
    assert_int_equal(psa_crypto_init(), PSA_SUCCESS);
    psa_key_id_t key =
        curve_key("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a");
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++)
        assert_int_not_equal(
            psa_raw_key_agreement(PSA_ALG_ECDH, key, points[i], 32, secret, 32, &len), PSA_SUCCESS);
    memset(near_p, 0xff, sizeof near_p); /* p - 1, p and p + 1 for p = 2^255 - 19 */
    for (int low = 0xec; low <= 0xee; low++)
        for (int high = 0x7f; high <= 0xff; high += 0x80) { /* the highest bit does not count */
            near_p[0] = (uint8_t)low;
            near_p[31] = (uint8_t)high;
            assert_int_not_equal(
                psa_raw_key_agreement(PSA_ALG_ECDH, key, near_p, 32, secret, 32, &len),
                PSA_SUCCESS);
        }
    psa_destroy_key(key);
    mbedtls_psa_crypto_free();
}

static const struct CMUnitTest CURVE_TESTS[] = {
    cmocka_unit_test(test_curve_agrees),
    cmocka_unit_test(test_curve_refuses_low_order),
};
