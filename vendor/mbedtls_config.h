/* SPDX-License-Identifier: MIT */
/* mbedtls_config.h - what is compiled of Mbed TLS (MBEDTLS_CONFIG_FILE).
 *
 * A TLS 1.2 and 1.3 server and client for the web of today: ECDHE, RSA and ECDSA certificates,
 * AES-GCM and ChaCha20-Poly1305, session tickets; the hashes, HMAC and signatures that tokens and
 * the WebSocket upgrade need; self-signed certificates, and requests for others. Nothing older, no
 * DTLS, no external PSK, no renegotiation, no debug output.
 *
 * Times in the comments: one core, static musl, gcc 12 -O2; of operations unless a handshake is
 * named. Where none of that is said, the library's default was the best or made no difference:
 * the window of ECP (2 to 6), tables of 4 KB for GCM, -O3.
 */
#ifndef PRESENCE_MBEDTLS_CONFIG_H
#define PRESENCE_MBEDTLS_CONFIG_H

/* ==== Platform ==== */

#define MBEDTLS_HAVE_ASM
#define MBEDTLS_HAVE_TIME
#define MBEDTLS_HAVE_TIME_DATE
#define MBEDTLS_PLATFORM_C
#define MBEDTLS_PLATFORM_MEMORY /* for seam_mem_use, see mbedtls_seam.h */
#define MBEDTLS_FS_IO
#define MBEDTLS_THREADING_C
#define MBEDTLS_THREADING_PTHREAD
#define MBEDTLS_DEPRECATED_REMOVED
#define MBEDTLS_VERSION_C
#define MBEDTLS_ERROR_C

/* ==== Random ==== */

/* From the kernel, see mbedtls_seam.c. The library's own generator opens /dev/urandom each time it
 * wants new entropy, which may be out of reach by then, and is no faster. */
#define MBEDTLS_PSA_CRYPTO_EXTERNAL_RNG

/* ==== Ciphers and hashes ==== */

#define MBEDTLS_AES_C
#define MBEDTLS_AESNI_C /* asks the processor; 4 KB of GCM in 10 us, otherwise in 25 */
#define MBEDTLS_AESCE_C
#define MBEDTLS_AES_ROM_TABLES /* read-only pages of the binary, not 8 KB of memory of our own */
#define MBEDTLS_GCM_C
#define MBEDTLS_CHACHA20_C
#define MBEDTLS_POLY1305_C
#define MBEDTLS_CHACHAPOLY_C
#define MBEDTLS_CIPHER_C
#define MBEDTLS_MD_C
#define MBEDTLS_SHA1_C /* Sec-WebSocket-Accept only */
#define MBEDTLS_SHA256_C
#define MBEDTLS_SHA384_C
#define MBEDTLS_SHA512_C
#define MBEDTLS_HKDF_C
#ifdef __aarch64__
#define MBEDTLS_SHA256_USE_ARMV8_A_CRYPTO_IF_PRESENT
#endif

/* ==== Keys and signatures ==== */

#define MBEDTLS_BIGNUM_C
#define MBEDTLS_MPI_WINDOW_SIZE 5 /* of exponents: RSA-2048 signs in 1,557 us, with 3 in 1,606 */
#define MBEDTLS_ECP_C
#define MBEDTLS_ECP_NIST_OPTIM          /* P-256 signs in 189 us, otherwise in 690 */
#define MBEDTLS_ECP_FIXED_POINT_OPTIM 1 /* 189 us, otherwise 485; 8 KB of read-only tables */
#define MBEDTLS_ECP_DP_SECP256R1_ENABLED
#define MBEDTLS_ECP_DP_SECP384R1_ENABLED
#define MBEDTLS_ECP_DP_CURVE25519_ENABLED
#define MBEDTLS_ECDH_C
#define MBEDTLS_ECDSA_C
#define MBEDTLS_RSA_C
#define MBEDTLS_PKCS1_V15
#define MBEDTLS_PKCS1_V21
#define MBEDTLS_PK_C
#define MBEDTLS_PK_PARSE_C
#define MBEDTLS_PK_PARSE_EC_EXTENDED
#define MBEDTLS_PK_PARSE_EC_COMPRESSED
#define MBEDTLS_PK_WRITE_C
#define MBEDTLS_PKCS5_C /* the admin's password */

/* PSA: TLS 1.3 is written against it. Its key store grows; the static one would end at 32 keys.
 * MBEDTLS_USE_PSA_CRYPTO would free the 1,376 bytes a connection has for its two ciphers. But then
 * every record sets its key up again, behind a lock (64 bytes in 2.0 us, not 0.6), and an RSA
 * signature takes 2,570 us in place of 1,568; an ECDSA handshake takes the same. Its driver for
 * P-256 (p256-m) is made for small processors: a handshake took 2,260 us with it, not 1,330. */
#define MBEDTLS_PSA_CRYPTO_C
#define MBEDTLS_PSA_KEY_STORE_DYNAMIC

/* ==== Certificates ==== */

#define MBEDTLS_ASN1_PARSE_C
#define MBEDTLS_ASN1_WRITE_C
#define MBEDTLS_OID_C
#define MBEDTLS_BASE64_C
#define MBEDTLS_PEM_PARSE_C
#define MBEDTLS_PEM_WRITE_C
#define MBEDTLS_X509_USE_C
#define MBEDTLS_X509_CRT_PARSE_C
#define MBEDTLS_X509_CREATE_C
#define MBEDTLS_X509_CRT_WRITE_C
#define MBEDTLS_X509_CSR_WRITE_C /* --acme */
#define MBEDTLS_X509_RSASSA_PSS_SUPPORT
#define MBEDTLS_X509_TRUSTED_CERTIFICATE_CALLBACK /* tls_trust_find */

/* ==== TLS ==== */

#define MBEDTLS_SSL_TLS_C
#define MBEDTLS_SSL_SRV_C
#define MBEDTLS_SSL_CLI_C
#define MBEDTLS_SSL_PROTO_TLS1_2
#define MBEDTLS_SSL_PROTO_TLS1_3
#define MBEDTLS_SSL_TLS1_3_COMPATIBILITY_MODE
#define MBEDTLS_SSL_TLS1_3_KEY_EXCHANGE_MODE_EPHEMERAL_ENABLED
#define MBEDTLS_SSL_TLS1_3_KEY_EXCHANGE_MODE_PSK_EPHEMERAL_ENABLED /* resumption by ticket */
#define MBEDTLS_KEY_EXCHANGE_ECDHE_ECDSA_ENABLED
#define MBEDTLS_KEY_EXCHANGE_ECDHE_RSA_ENABLED
#define MBEDTLS_SSL_EXTENDED_MASTER_SECRET
#define MBEDTLS_SSL_KEEP_PEER_CERTIFICATE /* TLS 1.3 requires it */
#define MBEDTLS_SSL_SESSION_TICKETS
#define MBEDTLS_SSL_TICKET_C
/* How much later than its client says, in ms, a ticket of TLS 1.3 may be used. It guards early
 * data, which is not compiled, against replays. Where handshakes queue for longer than the
 * library's 6 s, it would turn all of them into full ones, when that is least wanted. */
#define MBEDTLS_SSL_TLS1_3_TICKET_AGE_TOLERANCE 60000
#define MBEDTLS_SSL_SERVER_NAME_INDICATION
#define MBEDTLS_SSL_ALPN

/* A browser may send records of full length. Ours are short (SEAM_TLS_WRITE_MAX), but for a
 * handshake message: Mbed TLS sends each in one record, and a chain of certificates may be long. */
#define MBEDTLS_SSL_IN_CONTENT_LEN 16384
#define MBEDTLS_SSL_OUT_CONTENT_LEN 16384
#define MBEDTLS_SSL_ALL_ALERT_MESSAGES /* one for a bad MAC, too */

/* In order of preference where the peer has none. */
#define MBEDTLS_SSL_CIPHERSUITES                                                                   \
    MBEDTLS_TLS1_3_AES_128_GCM_SHA256, MBEDTLS_TLS1_3_CHACHA20_POLY1305_SHA256,                    \
        MBEDTLS_TLS1_3_AES_256_GCM_SHA384, MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,        \
        MBEDTLS_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,                                             \
        MBEDTLS_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,                                     \
        MBEDTLS_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,                                       \
        MBEDTLS_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,                                           \
        MBEDTLS_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384

#endif
