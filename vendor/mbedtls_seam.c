/* SPDX-License-Identifier: MIT */
/* mbedtls_seam.c - the one file that knows Mbed TLS from the inside, see mbedtls_seam.h; and where
 * its random numbers come from.
 *
 * What is relied on of Mbed TLS 3.6, all of it in ssl_msg.c and ssl_tls.c:
 *   - a handshake message that is not whole stands at SEAM_MESSAGE in the inbound buffer, with
 *     badmac_seen_or_in_hsfraglen bytes of in_hslen, and the next record is read behind it;
 *   - a handshake step that returns WANT_READ can be taken again;
 *   - MBEDTLS_ERR_SSL_INVALID_RECORD and _UNEXPECTED_MESSAGE leave the record where it is. */

#define MBEDTLS_ALLOW_PRIVATE_ACCESS

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "ssl_misc.h"
#include "ssl_tls13_keys.h"
#include <mbedtls/platform.h>
#include <mbedtls/psa_util.h>

#include "mbedtls_seam.h"

_Static_assert(SEAM_TLS_IN_SIZE >= MBEDTLS_SSL_IN_BUFFER_LEN, "room for the largest record");
_Static_assert(SEAM_TLS_OUT_SIZE >= MBEDTLS_SSL_OUT_BUFFER_LEN, "room for the largest record");
_Static_assert(MBEDTLS_SSL_SEQUENCE_NUMBER_LEN == 8, "what is kept of an inbound buffer");

enum {
	SEAM_MESSAGE = 13,       /* offset of a handshake message: counter, head of a record */
	SEAM_MESSAGE_HEAD = 4,   /* its type and length */
	SEAM_MESSAGE_LATER = 1 << 24, /* more than any message has: its length is not known yet */
	SEAM_KEY_UPDATE = 24,
	SEAM_UPDATE_COST = 64,   /* records of data that pay for a KeyUpdate */
	SEAM_UPDATES = 32,       /* of them in a row */
	SEAM_RENEGOTIATIONS = 4, /* that are declined politely */
};

/* The application traffic secrets of TLS 1.3 (RFC 8446 section 7.2). */
struct seam_tls_secrets {
	const mbedtls_ssl_ciphersuite_t *suite;
	unsigned char in[MBEDTLS_TLS1_3_MD_MAX_SIZE], out[MBEDTLS_TLS1_3_MD_MAX_SIZE];
};

/* Whether nothing in the inbound buffer will be looked at again but its counter. */
static bool seam_tls_clean(const mbedtls_ssl_context *ssl)
{
	return !ssl->in_left && !ssl->in_offt && !ssl->badmac_seen_or_in_hsfraglen &&
	       !ssl->keep_current_message && (!ssl->in_msglen || ssl->in_hslen >= ssl->in_msglen);
}

/* How much of the inbound buffer may be looked at again. */
static size_t seam_tls_used(const mbedtls_ssl_context *ssl)
{
	size_t fragment = SEAM_MESSAGE + ssl->badmac_seen_or_in_hsfraglen;
	size_t record = (size_t)(ssl->in_hdr - ssl->in_buf) + ssl->in_left;
	size_t message = (size_t)(ssl->in_msg - ssl->in_buf) + ssl->in_msglen;
	size_t data = ssl->in_offt ? (size_t)(ssl->in_offt - ssl->in_buf) + ssl->in_msglen : 0;
	size_t used = fragment > record ? fragment : record;
	used = used > message ? used : message;
	used = used > data ? used : data;
	return used < MBEDTLS_SSL_IN_BUFFER_LEN ? used : MBEDTLS_SSL_IN_BUFFER_LEN;
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

/* Mbed TLS wants bytes: those of the feed, then it must wait. Also while the length of the message
 * that comes in pieces is not known but could be, see seam_join. */
static int seam_receive(void *context, unsigned char *out, size_t size)
{
	struct seam_tls_kept *kept = context;
	struct seam_tls_loan *loan = kept->loan;
	mbedtls_ssl_context *ssl = loan->ssl;
	if (kept->joining && ssl->badmac_seen_or_in_hsfraglen >= SEAM_MESSAGE_HEAD)
		return MBEDTLS_ERR_SSL_WANT_READ;
	size_t n = loan->feed_len < size ? loan->feed_len : size;
	if (!n) return MBEDTLS_ERR_SSL_WANT_READ;
	/* Each renegotiation that is asked for is answered with a warning, which the peer may let us
	 * keep for it: few are. */
	if (kept->alerts > SEAM_RENEGOTIATIONS) return MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE;
	if (!ssl->in_left && n == sizeof loan->head) {
		memcpy(loan->head, loan->feed, n);
		/* RFC 8446 section 5: not before the first hello, nor behind the peer's Finished. */
		bool early = ssl->state <= MBEDTLS_SSL_CLIENT_HELLO && ssl->handshake &&
		             !ssl->handshake->hello_retry_request_flag;
		bool late = mbedtls_ssl_is_handshake_over(ssl) &&
		            ssl->tls_version == MBEDTLS_SSL_VERSION_TLS1_3;
		if (loan->head[0] == MBEDTLS_SSL_MSG_CHANGE_CIPHER_SPEC && (early || late))
			return MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE;
	}
	memcpy(out, loan->feed, n);
	loan->feed += n;
	loan->feed_len -= n;
	return (int)n;
}

/* Mbed TLS has records to send. */
static int seam_send(void *context, const unsigned char *at, size_t len)
{
	struct seam_tls_kept *kept = context;
	for (size_t i = 0; i + 5 <= len; i += 5 + ((size_t)at[i + 3] << 8 | at[i + 4])) {
		kept->loan->alerted = at[i] == MBEDTLS_SSL_MSG_ALERT;
		if (kept->loan->alerted && kept->alerts <= SEAM_RENEGOTIATIONS) kept->alerts++;
	}
	kept->loan->send(kept->loan, at, len);
	return (int)len;
}

void seam_tls_strip(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	memset(kept, 0, sizeof *kept);
	free(ssl->in_buf);
	free(ssl->out_buf);
	ssl->in_buf = ssl->out_buf = NULL;
	mbedtls_ssl_set_bio(ssl, kept, seam_send, seam_receive, NULL);
}

void seam_tls_lend(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept,
                   struct seam_tls_loan *loan)
{
	kept->loan = loan;
	loan->ssl = ssl;
	loan->alerted = false;
	loan->ticket_suite = 0;
	memset(loan->head, 0, sizeof loan->head);
	if (kept->in) {
		memcpy(loan->in, kept->in, kept->in_len);
		seam_tls_rebase(ssl, loan->in);
		mbedtls_zeroize_and_free(kept->in, kept->in_len);
		kept->in = NULL;
	} else {
		ssl->in_buf = loan->in;
		memcpy(loan->in, kept->counter, sizeof kept->counter);
		mbedtls_ssl_reset_in_pointers(ssl);
	}
	ssl->out_buf = loan->out;
	mbedtls_ssl_reset_out_pointers(ssl);
	mbedtls_ssl_update_out_pointers(ssl, ssl->transform_out);
}

enum seam_tls_result seam_tls_take_back(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	enum seam_tls_result result = SEAM_TLS_DONE;
	(void)mbedtls_ssl_flush_output(ssl); /* seam_send takes all: nothing is left in the buffer */
	if (seam_tls_clean(ssl)) {
		memcpy(kept->counter, ssl->in_buf, sizeof kept->counter);
		ssl->in_buf = NULL;
	} else {
		kept->in_len = seam_tls_used(ssl);
		if ((kept->in = malloc(kept->in_len))) {
			memcpy(kept->in, ssl->in_buf, kept->in_len);
			seam_tls_rebase(ssl, kept->in);
		} else {
			ssl->in_buf = NULL;
			result = SEAM_TLS_NO_MEMORY;
		}
	}
	ssl->out_buf = NULL;
	kept->loan = NULL;
	return result;
}

/* Makes handshake messages whole whose first record has less than their head, where Mbed TLS gives
 * up: as for any other message in pieces it is made to put the next record behind this one, and
 * told the length as soon as the head is there. True when the call that returned `error` is to be
 * made again. */
static bool seam_join(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept, int error)
{
	unsigned char *message = ssl->in_buf + SEAM_MESSAGE;
	if (error == MBEDTLS_ERR_SSL_INVALID_RECORD && !kept->joining &&
	    ssl->in_msgtype == MBEDTLS_SSL_MSG_HANDSHAKE && !ssl->badmac_seen_or_in_hsfraglen &&
	    ssl->in_msglen && ssl->in_msglen < SEAM_MESSAGE_HEAD) {
		memmove(message, ssl->in_msg, ssl->in_msglen);
		ssl->badmac_seen_or_in_hsfraglen = (unsigned)ssl->in_msglen;
		ssl->in_hslen = SEAM_MESSAGE_LATER;
		ssl->in_hdr = message + ssl->in_msglen;
		ssl->in_msglen = 0;
		mbedtls_ssl_update_in_pointers(ssl);
		kept->joining = true;
		return true;
	}
	if (error == MBEDTLS_ERR_SSL_WANT_READ && kept->joining &&
	    ssl->badmac_seen_or_in_hsfraglen >= SEAM_MESSAGE_HEAD) {
		ssl->in_hslen = SEAM_MESSAGE_HEAD + MBEDTLS_GET_UINT24_BE(message, 1);
		ssl->in_msg = message + 1; /* as if all but the first byte had just come in a record */
		ssl->in_msglen = ssl->badmac_seen_or_in_hsfraglen - 1;
		ssl->in_msgtype = MBEDTLS_SSL_MSG_HANDSHAKE;
		ssl->badmac_seen_or_in_hsfraglen = 1;
		kept->joining = false;
		return true;
	}
	return false;
}

/* What an error means while a message is being received that is longer than one may be: Mbed TLS
 * would wait until its buffer is full, and then call it a fault of its own. */
static int seam_too_long(const mbedtls_ssl_context *ssl, const struct seam_tls_kept *kept,
                         int error)
{
	bool too_long = ssl->badmac_seen_or_in_hsfraglen && !kept->joining &&
	                ssl->in_hslen > MBEDTLS_SSL_IN_CONTENT_LEN;
	return error && too_long ? MBEDTLS_ERR_SSL_ILLEGAL_PARAMETER : error;
}

/* The alert for a record that Mbed TLS calls invalid, by its head. */
static unsigned char seam_record_alert(const unsigned char head[5])
{
	size_t len = (size_t)head[3] << 8 | head[4];
	if (len > MBEDTLS_SSL_IN_CONTENT_LEN) return MBEDTLS_SSL_ALERT_MSG_RECORD_OVERFLOW;
	if (head[1] != 3 || head[2] > 3) return MBEDTLS_SSL_ALERT_MSG_PROTOCOL_VERSION;
	if (head[0] == MBEDTLS_SSL_MSG_ALERT && len) return MBEDTLS_SSL_ALERT_MSG_DECODE_ERROR;
	return MBEDTLS_SSL_ALERT_MSG_UNEXPECTED_MESSAGE;
}

/* The alert for an error that Mbed TLS returned without one (RFC 8446 section 6.2). */
static unsigned char seam_alert_for(const mbedtls_ssl_context *ssl, const unsigned char head[5],
                                    int error)
{
	/* Where the peer's key share is used: in TLS 1.3 while the ServerHello is made. Whatever
	 * mathematics say of it, the share was no valid one (section 4.2.8.2). */
	bool with_share = ssl->tls_version == MBEDTLS_SSL_VERSION_TLS1_3
	                      ? ssl->state == MBEDTLS_SSL_SERVER_HELLO
	                      : ssl->state == MBEDTLS_SSL_CLIENT_KEY_EXCHANGE;
	switch (error) {
	case MBEDTLS_ERR_SSL_INVALID_RECORD: return seam_record_alert(head);
	case MBEDTLS_ERR_SSL_INVALID_MAC: return MBEDTLS_SSL_ALERT_MSG_BAD_RECORD_MAC;
	case MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE: return MBEDTLS_SSL_ALERT_MSG_UNEXPECTED_MESSAGE;
	case MBEDTLS_ERR_SSL_BAD_PROTOCOL_VERSION: return MBEDTLS_SSL_ALERT_MSG_PROTOCOL_VERSION;
	case MBEDTLS_ERR_SSL_NO_APPLICATION_PROTOCOL:
		return MBEDTLS_SSL_ALERT_MSG_NO_APPLICATION_PROTOCOL;
	case MBEDTLS_ERR_SSL_UNSUPPORTED_EXTENSION: return MBEDTLS_SSL_ALERT_MSG_UNSUPPORTED_EXT;
	case MBEDTLS_ERR_SSL_UNRECOGNIZED_NAME: return MBEDTLS_SSL_ALERT_MSG_UNRECOGNIZED_NAME;
	case MBEDTLS_ERR_SSL_HANDSHAKE_FAILURE: return MBEDTLS_SSL_ALERT_MSG_HANDSHAKE_FAILURE;
	case MBEDTLS_ERR_SSL_DECODE_ERROR:
		if (!with_share) return MBEDTLS_SSL_ALERT_MSG_DECODE_ERROR;
		return MBEDTLS_SSL_ALERT_MSG_ILLEGAL_PARAMETER;
	case MBEDTLS_ERR_SSL_ILLEGAL_PARAMETER: return MBEDTLS_SSL_ALERT_MSG_ILLEGAL_PARAMETER;
	case MBEDTLS_ERR_SSL_ALLOC_FAILED:
	case MBEDTLS_ERR_MPI_ALLOC_FAILED:
	case MBEDTLS_ERR_ECP_ALLOC_FAILED: return MBEDTLS_SSL_ALERT_MSG_INTERNAL_ERROR;
	default:
		if (with_share) return MBEDTLS_SSL_ALERT_MSG_ILLEGAL_PARAMETER;
		return MBEDTLS_SSL_ALERT_MSG_INTERNAL_ERROR;
	}
}

void seam_tls_refuse(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept, unsigned char alert)
{
	(void)kept;
	if (!ssl->transform_out) {
		ssl->out_left = 0;
		mbedtls_ssl_reset_out_pointers(ssl);
	}
	(void)mbedtls_ssl_flush_output(ssl); /* neither of them fails, as seam_send takes all */
	(void)mbedtls_ssl_send_alert_message(ssl, MBEDTLS_SSL_ALERT_LEVEL_FATAL, alert);
}

/* Ends a connection by an error of Mbed TLS, and sees to it that an alert has been sent. Those in
 * TLS 1.3 cannot be told from data by looking: there it was sent if it was pending, or for a bad
 * MAC, which ssl_msg.c tells at once. */
static enum seam_tls_result seam_fail(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept,
                                      int error)
{
	bool hidden = ssl->transform_out &&
	              ssl->transform_out->tls_version == MBEDTLS_SSL_VERSION_TLS1_3;
	bool alerted = kept->loan->alerted ||
	               (hidden && (error == MBEDTLS_ERR_SSL_INVALID_MAC ||
	                           (ssl->alert_type && ssl->alert_reason == error)));
	if (!alerted && error != MBEDTLS_ERR_SSL_FATAL_ALERT_MESSAGE &&
	    error != MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY)
		seam_tls_refuse(ssl, kept, seam_alert_for(ssl, kept->loan->head, error));
	return SEAM_TLS_FAILED;
}

void seam_tls_ticket_has(struct seam_tls_loan *loan, const mbedtls_ssl_session *session)
{
	if (session->tls_version == MBEDTLS_SSL_VERSION_TLS1_2) loan->ticket_suite = session->ciphersuite;
}

/* Mbed TLS takes a session of TLS 1.2 up with whatever suite it would choose now. Where that is not
 * the session's own (RFC 5246 section 7.4.1.3), as after a change of certificates, the handshake is
 * made a full one before its answer is written. */
static void seam_check_ticket(mbedtls_ssl_context *ssl, const struct seam_tls_loan *loan)
{
	if (ssl->state != MBEDTLS_SSL_SERVER_HELLO || !loan->ticket_suite ||
	    ssl->tls_version != MBEDTLS_SSL_VERSION_TLS1_2 || !ssl->handshake->resume ||
	    ssl->session_negotiate->ciphersuite == loan->ticket_suite)
		return;
	ssl->handshake->resume = 0;
	ssl->handshake->new_session_ticket = 1;
}

/* What is sent behind our Finished of TLS 1.3 has the keys of data (RFC 8446 section 4.4.4). Mbed
 * TLS would send an alert about the client's Finished with those of the handshake, which no client
 * reads any more. It changes them itself where the handshake ends: nothing is sent until then. */
static void seam_change_keys(mbedtls_ssl_context *ssl)
{
	if (ssl->state == MBEDTLS_SSL_CLIENT_FINISHED && ssl->transform_application &&
	    ssl->transform_out != ssl->transform_application && !mbedtls_ssl_flush_output(ssl))
		mbedtls_ssl_set_outbound_transform(ssl, ssl->transform_application);
}

enum seam_tls_result seam_tls_handshake(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	while (ssl->state != MBEDTLS_SSL_HANDSHAKE_OVER) {
		seam_check_ticket(ssl, kept->loan);
		seam_change_keys(ssl);
		kept->resumed = ssl->handshake && ssl->handshake->resume;
		int error = mbedtls_ssl_handshake_step(ssl);
		if (!error || seam_join(ssl, kept, error)) continue;
		error = seam_too_long(ssl, kept, error);
		if (error == MBEDTLS_ERR_SSL_WANT_READ) return SEAM_TLS_WAIT;
		return seam_fail(ssl, kept, error);
	}
	return SEAM_TLS_DONE;
}

/* The next generation of a traffic secret, and the keys that follow from it. 0, or an error. */
static int seam_next_keys(const mbedtls_ssl_ciphersuite_t *suite, unsigned char *secret,
                          mbedtls_cipher_context_t *cipher, mbedtls_operation_t operation,
                          unsigned char *iv)
{
	psa_algorithm_t hash = mbedtls_md_psa_alg_from_type((mbedtls_md_type_t)suite->mac);
	size_t hash_len = PSA_HASH_LENGTH(hash);
	size_t key_bits = (size_t)mbedtls_cipher_get_key_bitlen(cipher);
	unsigned char next[MBEDTLS_TLS1_3_MD_MAX_SIZE];
	mbedtls_ssl_key_set keys;
	int error = mbedtls_ssl_tls13_hkdf_expand_label(
	    hash, secret, hash_len, MBEDTLS_SSL_TLS1_3_LBL_WITH_LEN(traffic_upd), NULL, 0, next, hash_len);
	if (!error)
		error = mbedtls_ssl_tls13_make_traffic_keys(hash, next, next, hash_len, key_bits / 8, 12,
		                                            &keys);
	if (!error) error = mbedtls_cipher_setkey(cipher, keys.client_write_key, (int)key_bits, operation);
	if (!error) {
		memcpy(iv, keys.client_write_iv, 12);
		memcpy(secret, next, hash_len);
	}
	mbedtls_platform_zeroize(next, sizeof next);
	mbedtls_platform_zeroize(&keys, sizeof keys);
	return error;
}

/* Follows a KeyUpdate that was just read (RFC 8446 section 4.6.3). What it asks of us is done
 * before the next write: many from a peer who does not read cost no memory. 0, or an error. */
static int seam_follow_update(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	/* No message may stand behind it in its record, and so many in a row are an attack. */
	if (!kept->secrets || ssl->in_hslen != SEAM_MESSAGE_HEAD + 1 || ssl->in_msglen != ssl->in_hslen ||
	    kept->updates > SEAM_UPDATES * SEAM_UPDATE_COST)
		return MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE;
	if (ssl->in_msg[SEAM_MESSAGE_HEAD] > 1) return MBEDTLS_ERR_SSL_ILLEGAL_PARAMETER;
	if (ssl->in_msg[SEAM_MESSAGE_HEAD]) kept->update_owed = true;
	kept->updates += SEAM_UPDATE_COST;
	memset(ssl->in_ctr, 0, MBEDTLS_SSL_SEQUENCE_NUMBER_LEN);
	return seam_next_keys(kept->secrets->suite, kept->secrets->in,
	                      &ssl->transform_in->cipher_ctx_dec, MBEDTLS_DECRYPT,
	                      ssl->transform_in->iv_dec);
}

/* Sends the KeyUpdate that is owed, and goes on with new keys. 0, or an error. */
static int seam_send_update(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	static const unsigned char update[] = {SEAM_KEY_UPDATE, 0, 0, 1, 0 /* nothing asked */};
	kept->update_owed = false;
	ssl->out_msgtype = MBEDTLS_SSL_MSG_HANDSHAKE;
	ssl->out_msglen = sizeof update;
	memcpy(ssl->out_msg, update, sizeof update);
	int error = mbedtls_ssl_write_record(ssl, 1);
	if (error) return error;
	memset(ssl->cur_out_ctr, 0, sizeof ssl->cur_out_ctr);
	return seam_next_keys(kept->secrets->suite, kept->secrets->out,
	                      &ssl->transform_out->cipher_ctx_enc, MBEDTLS_ENCRYPT,
	                      ssl->transform_out->iv_enc);
}

enum seam_tls_result seam_tls_read(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept,
                                   unsigned char *out, size_t size, size_t *n)
{
	struct seam_tls_loan *loan = kept->loan;
	for (;;) {
		int got = mbedtls_ssl_read(ssl, out, size);
		if (got > 0) {
			if (kept->updates) kept->updates--;
			*n = (size_t)got;
			return SEAM_TLS_DONE;
		}
		if (seam_join(ssl, kept, got)) continue;
		if (got == MBEDTLS_ERR_SSL_UNEXPECTED_MESSAGE &&
		    ssl->tls_version == MBEDTLS_SSL_VERSION_TLS1_3 &&
		    ssl->in_msgtype == MBEDTLS_SSL_MSG_HANDSHAKE && ssl->in_msg[0] == SEAM_KEY_UPDATE)
			got = seam_follow_update(ssl, kept);
		got = seam_too_long(ssl, kept, got);
		if (!got) continue; /* a KeyUpdate, or two records without data */
		if (got == MBEDTLS_ERR_SSL_WANT_READ && loan->feed_len) continue;
		if (got == MBEDTLS_ERR_SSL_WANT_READ) return SEAM_TLS_WAIT;
		if (got == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY) return SEAM_TLS_CLOSED;
		loan->alerted = got == MBEDTLS_ERR_SSL_INVALID_MAC; /* else it was no_renegotiation */
		return seam_fail(ssl, kept, got);
	}
}

enum seam_tls_result seam_tls_write(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept,
                                    const unsigned char *at, size_t len)
{
	if (kept->update_owed && seam_send_update(ssl, kept)) return SEAM_TLS_FAILED;
	while (len) {
		int n = mbedtls_ssl_write(ssl, at, len < SEAM_TLS_PIECE ? len : SEAM_TLS_PIECE);
		if (n <= 0) return SEAM_TLS_FAILED; /* what seam_send takes can fail by itself only */
		at += n;
		len -= (size_t)n;
	}
	return SEAM_TLS_DONE;
}

void seam_tls_goodbye(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	(void)kept;
	(void)mbedtls_ssl_close_notify(ssl); /* seam_send takes all */
}

void seam_tls_settle(mbedtls_ssl_context *ssl, struct seam_tls_kept *kept)
{
	if (ssl->tls_version == MBEDTLS_SSL_VERSION_TLS1_3 && ssl->session &&
	    (kept->secrets = malloc(sizeof *kept->secrets))) { /* without: KeyUpdate is refused */
		const mbedtls_ssl_tls13_application_secrets *from = &ssl->session->app_secrets;
		bool server = ssl->conf->endpoint == MBEDTLS_SSL_IS_SERVER;
		const unsigned char *client = from->client_application_traffic_secret_N;
		const unsigned char *own = from->server_application_traffic_secret_N;
		kept->secrets->suite = mbedtls_ssl_ciphersuite_from_id(ssl->session->ciphersuite);
		memcpy(kept->secrets->in, server ? client : own, sizeof kept->secrets->in);
		memcpy(kept->secrets->out, server ? own : client, sizeof kept->secrets->out);
	}
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
	if (kept->in) mbedtls_zeroize_and_free(kept->in, kept->in_len);
	if (kept->secrets) mbedtls_zeroize_and_free(kept->secrets, sizeof *kept->secrets);
	kept->secrets = NULL;
	kept->in = ssl->in_buf = ssl->out_buf = NULL;
}

/* A free block on a list. */
struct seam_block {
	struct seam_block *next;
};

enum {
	/* Blocks of a class have 16 n - 4 bytes: what fills a slot of musl's. With sizes of 16 n each
	 * would take the next slot, and an idle connection more memory. */
	SEAM_CLASS = 16,
	SEAM_SLOT = 4,
	SEAM_CLASSES = (SEAM_TLS_BLOCK_MAX + SEAM_SLOT) / SEAM_CLASS,
};

/* The free blocks of a thread, by class. */
struct seam_lists {
	struct seam_block *first[SEAM_CLASSES + 1];
	size_t bytes;
	bool open; /* its end is known, see seam_lists_end; only then is anything kept */
};

static _Thread_local struct seam_lists seam_lists;
static pthread_key_t seam_lists_key;
static pthread_once_t seam_lists_once = PTHREAD_ONCE_INIT;
static bool seam_lists_good;

/* A thread ends: gives its blocks back. What is freed after this goes to malloc at once. */
static void seam_lists_end(void *context)
{
	struct seam_lists *lists = context;
	lists->open = false;
	for (size_t i = 0; i <= SEAM_CLASSES; i++)
		for (struct seam_block *next, *block = lists->first[i]; block; block = next) {
			next = block->next;
			free(block);
		}
	memset(lists, 0, sizeof *lists);
}

/* See seam_lists_key. */
static void seam_lists_make_key(void)
{
	seam_lists_good = !pthread_key_create(&seam_lists_key, seam_lists_end);
}

/* Whether this thread may keep blocks: it must be sure to give them back. */
static bool seam_lists_open(void)
{
	if (seam_lists.open) return true;
	pthread_once(&seam_lists_once, seam_lists_make_key);
	seam_lists.open = seam_lists_good && !pthread_setspecific(seam_lists_key, &seam_lists);
	return seam_lists.open;
}

void *seam_tls_calloc(size_t n, size_t size)
{
	size_t bytes;
	if (__builtin_mul_overflow(n, size, &bytes)) return NULL;
	if (bytes > SEAM_TLS_BLOCK_MAX) return calloc(1, bytes);
	size_t class = (bytes + SEAM_SLOT + SEAM_CLASS - 1) / SEAM_CLASS;
	size_t room = class * SEAM_CLASS - SEAM_SLOT;
	struct seam_block *block = seam_lists.first[class];
	if (!block) return calloc(1, room);
	seam_lists.first[class] = block->next;
	seam_lists.bytes -= class * SEAM_CLASS;
	return memset(block, 0, room);
}

void seam_tls_free(void *at)
{
	if (!at) return;
	/* Rounded down: a block that something else took from malloc may be kept, too. */
	size_t class = (malloc_usable_size(at) + SEAM_SLOT) / SEAM_CLASS;
	if (!class || class > SEAM_CLASSES || seam_lists.bytes + class * SEAM_CLASS > SEAM_TLS_LIST_MAX ||
	    !seam_lists_open()) {
		free(at);
		return;
	}
	struct seam_block *block = at;
	block->next = seam_lists.first[class];
	seam_lists.first[class] = block;
	seam_lists.bytes += class * SEAM_CLASS;
}

size_t seam_tls_listed(void)
{
	return seam_lists.bytes;
}

void seam_tls_memory(void)
{
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
	return;
#endif
#endif
#ifndef __SANITIZE_ADDRESS__
	(void)mbedtls_platform_set_calloc_free(seam_tls_calloc, seam_tls_free); /* cannot fail */
#endif
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
