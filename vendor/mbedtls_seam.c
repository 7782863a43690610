/* mbedtls_seam.c - the one file that knows Mbed TLS from the inside, see mbedtls_seam.h; and where
 * its random numbers come from. */

#define MBEDTLS_ALLOW_PRIVATE_ACCESS

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "ssl_misc.h"
#include <mbedtls/platform.h>

#include "mbedtls_seam.h"

_Static_assert(SEAM_TLS_IN_SIZE >= MBEDTLS_SSL_IN_BUFFER_LEN, "room for the largest record");
_Static_assert(SEAM_TLS_OUT_SIZE >= MBEDTLS_SSL_OUT_BUFFER_LEN, "room for the largest record");
_Static_assert(MBEDTLS_SSL_SEQUENCE_NUMBER_LEN == 8, "what is kept of an inbound buffer");

/* Whether nothing in the inbound buffer will be looked at again but its counter. */
static bool seam_tls_clean(const mbedtls_ssl_context *ssl)
{
	return !ssl->in_left && !ssl->in_offt && !ssl->badmac_seen_or_in_hsfraglen &&
	       !ssl->keep_current_message && (!ssl->in_msglen || ssl->in_hslen >= ssl->in_msglen);
}

/* Makes the context look at the same content in another inbound buffer. */
static void seam_tls_rebase(mbedtls_ssl_context *ssl, unsigned char *to)
{
	unsigned char *from = ssl->in_buf;
	ssl->in_buf = to;
	ssl->in_ctr = to + (ssl->in_ctr - from);
	ssl->in_hdr = to + (ssl->in_hdr - from);
	ssl->in_len = to + (ssl->in_len - from);
	ssl->in_iv = to + (ssl->in_iv - from);
	ssl->in_msg = to + (ssl->in_msg - from);
	if (ssl->in_offt) ssl->in_offt = to + (ssl->in_offt - from);
}

void seam_tls_strip(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	memset(kept, 0, sizeof *kept);
	free(ssl->in_buf);
	free(ssl->out_buf);
	ssl->in_buf = ssl->out_buf = NULL;
}

void seam_tls_lend(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept, unsigned char *in,
                   unsigned char *out)
{
	if (kept->in) {
		memcpy(in, kept->in, MBEDTLS_SSL_IN_BUFFER_LEN);
		seam_tls_rebase(ssl, in);
		mbedtls_zeroize_and_free(kept->in, MBEDTLS_SSL_IN_BUFFER_LEN);
		kept->in = NULL;
	} else {
		ssl->in_buf = in;
		memcpy(in, kept->counter, sizeof kept->counter);
		mbedtls_ssl_reset_in_pointers(ssl);
	}
	ssl->out_buf = out;
	mbedtls_ssl_reset_out_pointers(ssl);
	mbedtls_ssl_update_out_pointers(ssl, ssl->transform_out);
}

bool seam_tls_take_back(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	bool good = !ssl->out_left;
	if (seam_tls_clean(ssl)) {
		memcpy(kept->counter, ssl->in_buf, sizeof kept->counter);
		ssl->in_buf = NULL;
	} else if ((kept->in = malloc(MBEDTLS_SSL_IN_BUFFER_LEN))) {
		memcpy(kept->in, ssl->in_buf, MBEDTLS_SSL_IN_BUFFER_LEN);
		seam_tls_rebase(ssl, kept->in);
	} else {
		ssl->in_buf = NULL;
		good = false;
	}
	ssl->out_buf = NULL;
	return good;
}

void seam_tls_settle(mbedtls_ssl_context *ssl)
{
	if (ssl->handshake) {
		mbedtls_ssl_handshake_free(ssl);
		mbedtls_free(ssl->handshake);
		ssl->handshake = NULL;
		mbedtls_ssl_transform_free(ssl->transform_negotiate);
		mbedtls_free(ssl->transform_negotiate);
		ssl->transform_negotiate = NULL;
	}
	if (ssl->session) mbedtls_ssl_session_free(ssl->session);
	mbedtls_free(ssl->session);
	ssl->session = ssl->session_in = ssl->session_out = NULL;
}

void seam_tls_forget(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	if (kept->in) mbedtls_zeroize_and_free(kept->in, MBEDTLS_SSL_IN_BUFFER_LEN);
	kept->in = ssl->in_buf = ssl->out_buf = NULL;
}

/* PSA's random numbers: see MBEDTLS_PSA_CRYPTO_EXTERNAL_RNG in mbedtls_config.h. */
psa_status_t mbedtls_psa_external_get_random(mbedtls_psa_external_random_context_t *context,
                                             uint8_t *output, size_t output_size,
                                             size_t *output_length)
{
	(void)context;
	size_t got = 0;
	while (got < output_size) {
		ssize_t n = getrandom(output + got, output_size - got, 0);
		if (n < 0 && errno != EINTR) return PSA_ERROR_INSUFFICIENT_ENTROPY;
		if (n > 0) got += (size_t)n;
	}
	*output_length = got;
	return PSA_SUCCESS;
}
