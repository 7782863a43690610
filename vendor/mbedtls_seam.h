/* mbedtls_seam.h - record buffers that are lent, not owned.
 *
 * Mbed TLS gives every connection a pair of record buffers, 21 KB with our configuration, and uses
 * them for the moment in which a record is read or written. Here a thread has one pair and lends it
 * to the connection it works on. What must be kept in between is 8 bytes, the number of the next
 * record to come, or the whole inbound buffer while a handshake message is half received.
 *
 *   mbedtls_ssl_setup, seam_tls_strip
 *   seam_tls_lend --> mbedtls_ssl_handshake, _read, _write, _close_notify --> seam_tls_take_back
 *   seam_tls_settle, once the handshake is done
 *   seam_tls_forget, mbedtls_ssl_free
 */
#ifndef MBEDTLS_SEAM_H
#define MBEDTLS_SEAM_H

#include <mbedtls/ssl.h>
#include <stdbool.h>

enum {
	SEAM_TLS_IN_SIZE = MBEDTLS_SSL_IN_CONTENT_LEN + 512, /* at least what Mbed TLS takes for one */
	SEAM_TLS_OUT_SIZE = MBEDTLS_SSL_OUT_CONTENT_LEN + 512,
};

/* What a context keeps while it has no buffers. Zeroed for a new one. */
struct seam_tls_kept {
	unsigned char counter[8];
	unsigned char *in; /* NULL, or a whole inbound buffer with its position in the context */
};

/* Takes the buffers of a context that was just set up, and frees them. */
void seam_tls_strip(mbedtls_ssl_context *, struct seam_tls_kept *);

/* Lends buffers of the sizes above; the context may be used until they are taken back. */
void seam_tls_lend(mbedtls_ssl_context *, struct seam_tls_kept *, unsigned char *in,
                   unsigned char *out);

/* Takes the buffers back. Everything that Mbed TLS wanted to send must have been taken by its send
 * callback. False when there was no memory to keep what is half received: then the context can only
 * be freed. */
bool seam_tls_take_back(mbedtls_ssl_context *, struct seam_tls_kept *);

/* Frees what only the handshake needed, after it: TLS 1.3 would keep 4 KB of it until the end. The
 * session is gone then; its ticket was sent. */
void seam_tls_settle(mbedtls_ssl_context *);

/* Frees what is kept; the context can only be freed after it. */
void seam_tls_forget(mbedtls_ssl_context *, struct seam_tls_kept *);

#endif
