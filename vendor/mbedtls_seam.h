/* SPDX-License-Identifier: MIT */
/* mbedtls_seam.h - what a connection has of TLS while nobody works on it, and what its peer's bytes
 * can make of it.
 *
 * Mbed TLS gives every connection a pair of record buffers, 33 KB with our configuration, and uses
 * them for the moment in which a record is read or written. Here a thread has one pair and lends it
 * to the connection it works on. What must be kept in between is 8 bytes, the number of the next
 * record to come, or what was received of a handshake message that is not whole yet.
 *
 *   mbedtls_ssl_setup, seam_tls_strip
 *   seam_tls_lend --> seam_tls_handshake, _read, _write, _goodbye, _refuse --> seam_tls_take_back
 *   seam_tls_settle, once the handshake is done
 *   seam_tls_forget, mbedtls_ssl_free
 *
 * Nothing a peer sends has another effect than SEAM_TLS_WAIT, _DONE, _CLOSED or _FAILED for its own
 * connection. Beyond what the library does by itself:
 *   - a failure always has its alert, see seam_tls_handshake;
 *   - a handshake message may come in records of any size, also with its head cut (RFC 8446
 *     section 5.1), up to 16 KiB;
 *   - KeyUpdate of TLS 1.3 is followed and answered (section 4.6.3), within bounds;
 *   - a change_cipher_spec of TLS 1.3 where none may be is refused (section 5);
 *   - a ticket of TLS 1.2 whose ciphers are no longer ours leads to a full handshake.
 */
#ifndef MBEDTLS_SEAM_H
#define MBEDTLS_SEAM_H

#include <mbedtls/ssl.h>
#include <stdbool.h>

enum {
	SEAM_TLS_IN_SIZE = MBEDTLS_SSL_IN_CONTENT_LEN + 512, /* at least what Mbed TLS takes for one */
	SEAM_TLS_OUT_SIZE = MBEDTLS_SSL_OUT_CONTENT_LEN + 512,
	SEAM_TLS_PIECE = 4096, /* most of what is written that goes into one record */
};

/* What a call has come to: each has one meaning, and only the last is not the peer's doing. */
enum seam_tls_result {
	SEAM_TLS_DONE,      /* the handshake is complete; there are bytes; all is kept */
	SEAM_TLS_WAIT,      /* all that was lent is read; the peer has to send more */
	SEAM_TLS_CLOSED,    /* by the peer's close_notify */
	SEAM_TLS_FAILED,    /* this connection is over; the alert that says why is among what is sent */
	SEAM_TLS_NO_MEMORY, /* malloc gave NULL; the context can only be freed */
};

/* What a thread lends: its buffers, the records that may be read, and where to send. */
struct seam_tls_loan {
	unsigned char in[SEAM_TLS_IN_SIZE], out[SEAM_TLS_OUT_SIZE];
	const char *feed; /* whole records; moves on as they are read */
	size_t feed_len;
	void (*send)(struct seam_tls_loan *, const unsigned char *at, size_t len); /* takes all */
	/* The seam's own, while it is lent: */
	mbedtls_ssl_context *ssl;
	unsigned char head[5]; /* of the record that was read last */
	bool alerted;          /* the last record sent in the clear, or in TLS 1.2, was an alert */
	int ticket_suite;      /* of the TLS 1.2 session that a ticket brought back; 0: none */
};

/* What a connection keeps while nothing is lent to it. Zeroed for a new one; must not move. */
struct seam_tls_kept {
	unsigned char counter[8];
	unsigned char *in; /* NULL, or the used part of an inbound buffer */
	size_t in_len;
	struct seam_tls_secrets *secrets; /* TLS 1.3, after the handshake: what KeyUpdate begins with */
	struct seam_tls_loan *loan;
	unsigned short updates;           /* KeyUpdates of late, see seam_tls_read */
	unsigned char alerts;             /* that were sent: warnings, if it goes on */
	bool joining;                     /* not even the head of the next message is whole */
	bool update_owed;                 /* the peer asked for a KeyUpdate of ours */
	bool resumed;                     /* the handshake took up an earlier session */
};

/* Takes the buffers of a context that was just set up, frees them, and has it read from and send to
 * what is lent from now on. */
void seam_tls_strip(mbedtls_ssl_context *, struct seam_tls_kept *);

/* Lends buffers, until they are taken back. The caller has set feed and send. */
void seam_tls_lend(mbedtls_ssl_context *, struct seam_tls_kept *, struct seam_tls_loan *);

/* Takes the buffers back: SEAM_TLS_DONE, or SEAM_TLS_NO_MEMORY when what is half received could not
 * be kept. No byte of a peer decides which. */
enum seam_tls_result seam_tls_take_back(mbedtls_ssl_context *, struct seam_tls_kept *);

/* Goes on with the handshake as far as the feed brings it: DONE, WAIT or FAILED. Whatever failed
 * has its alert (RFC 8446 section 6.2), the peer's own alert and end aside; what Mbed TLS had not
 * sent before that is dropped if it is in the clear: a ServerHello of a bad key share. */
enum seam_tls_result seam_tls_handshake(mbedtls_ssl_context *, struct seam_tls_kept *);

/* Reads into `out`, which has room: DONE with *n bytes, WAIT, CLOSED or FAILED. */
enum seam_tls_result seam_tls_read(mbedtls_ssl_context *, struct seam_tls_kept *,
                                   unsigned char *out, size_t size, size_t *n);

/* Writes all: DONE or FAILED. */
enum seam_tls_result seam_tls_write(mbedtls_ssl_context *, struct seam_tls_kept *,
                                    const unsigned char *at, size_t len);

/* Ends TLS with a fatal alert (RFC 8446 section 6): what came is no record. Also for a context that
 * has sent nothing yet. */
void seam_tls_refuse(mbedtls_ssl_context *, struct seam_tls_kept *, unsigned char alert);

/* Ends it with close_notify. */
void seam_tls_goodbye(mbedtls_ssl_context *, struct seam_tls_kept *);

/* The ticket that the handshake of this thread was offered holds this session: said by the ticket
 * callback, which has no context. */
void seam_tls_ticket_has(struct seam_tls_loan *, const mbedtls_ssl_session *);

/* Frees what only the handshake needed, after it: TLS 1.3 would keep 4 KB of it until the end. The
 * session is gone then; its ticket was sent. */
void seam_tls_settle(mbedtls_ssl_context *, struct seam_tls_kept *);

/* Frees what is kept; the context can only be freed after it. */
void seam_tls_forget(mbedtls_ssl_context *, struct seam_tls_kept *);

/* Has Mbed TLS take its memory from seam_tls_calloc from now on, in the whole process. To be called
 * once, before the library is used. Does nothing under the address sanitizer, which is to see every
 * block come and go. */
void seam_tls_memory(void);

/* calloc and free, with free lists of each thread in front. musl's malloc is one lock: of two threads
 * that sign with P-256, a hundred small numbers each time, one waits for the other. Measured with
 * two: 5,400 to 5,700 signatures a second before, 7,200 to 7,900 with lists; and a third more full
 * handshakes with P-256 for each CPU second of the server (1,640 before, 2,120 with).
 *
 * A block comes from malloc, and anyone may free it, also with free(): nothing stands before it, and
 * its size is asked of malloc. A thread keeps at most SEAM_TLS_LIST_MAX bytes, of the blocks that it
 * freed itself, whoever made them; they go back to malloc when it ends. As with free() the content
 * stays until the block is used again: Mbed TLS clears what is secret before it frees it. */
void *seam_tls_calloc(size_t n, size_t size);
void seam_tls_free(void *);
enum {
	SEAM_TLS_LIST_MAX = 16 * 1024, /* bytes; a handshake with P-256 has less at a time */
	SEAM_TLS_BLOCK_MAX = 1020,     /* bytes of the largest block that is kept */
};

/* How many bytes this thread keeps; for tests. */
size_t seam_tls_listed(void);

#endif
