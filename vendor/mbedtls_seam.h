/* SPDX-License-Identifier: MIT */
/* mbedtls_seam.h - TLS connections without buffers of their own, and what a peer's bytes can do to
 * one.
 *
 * Mbed TLS gives every connection a pair of record buffers, 33 KB with our configuration, and uses
 * them for the moment in which a record is read or written. Here each thread has one pair and
 * attaches it to the connection that it works on. In between a connection keeps 8 bytes, the
 * number of the next record to come, or what it has received of a handshake message that is not
 * whole yet.
 *
 *   mbedtls_ssl_setup, seam_tls_drop_buffers
 *   seam_tls_attach, then seam_tls_handshake, _read, _write, _close_notify, _alert, then
 *     seam_tls_detach; as often as there is something to do
 *   seam_tls_end_handshake, once the handshake is done
 *   seam_tls_free, mbedtls_ssl_free
 *
 * One thread at a time may call for a connection, any thread, and between attach and detach it is
 * the same one. The bytes of the peer are in memory, those for it go to a callback: nothing here
 * waits.
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
	SEAM_TLS_WRITE_MAX = 4096, /* bytes of data in one record that we write */
};

/* The result of a call: each has one meaning, and only the last is not the peer's doing. */
enum seam_tls_result {
	SEAM_TLS_DONE,      /* the handshake is complete; bytes were read; all is written */
	SEAM_TLS_WAIT,      /* the input is read to its end; the peer has to send more */
	SEAM_TLS_CLOSED,    /* by the peer's close_notify */
	SEAM_TLS_FAILED,    /* this connection is over; the alert that says why is among what is sent */
	SEAM_TLS_NO_MEMORY, /* malloc gave NULL; the context can only be freed */
};

/* The buffers of a thread, with the input of one call and where its output goes. */
struct seam_tls_buffers {
	unsigned char in[SEAM_TLS_IN_SIZE], out[SEAM_TLS_OUT_SIZE];
	const char *input; /* whole records; moves on as they are read */
	size_t input_len;
	void (*send)(struct seam_tls_buffers *, const unsigned char *at, size_t len); /* takes all */
	/* The seam's own, while it is attached: */
	mbedtls_ssl_context *ssl;
	unsigned char head[5]; /* of the record that was read last */
	bool alerted;          /* the last record sent in the clear, or in TLS 1.2, was an alert */
	int ticket_suite;      /* of the TLS 1.2 session that a ticket brought back; 0: none */
};

/* What a connection keeps while no buffers are attached. Zeroed for a new one; must not move, as
 * Mbed TLS has a pointer to it. */
struct seam_tls_idle {
	unsigned char counter[8]; /* number of the next record, when `in` is NULL */
	unsigned char *in;        /* NULL, or the used part of an inbound buffer */
	size_t in_len;
	struct seam_tls_secrets *secrets; /* TLS 1.3, after the handshake: what KeyUpdate begins with */
	struct seam_tls_buffers *buffers; /* those attached, or NULL */
	unsigned short updates;           /* KeyUpdates of late, see seam_tls_read */
	unsigned char alerts;             /* that were sent: warnings, if it goes on */
	bool reassembling;                /* not even the head of the next message is whole */
	bool update_pending;              /* the peer asked for a KeyUpdate of ours */
	bool resumed;                     /* the handshake took up an earlier session */
};

/* Frees the buffers of a context that was just set up; from now on it uses those attached. */
void seam_tls_drop_buffers(mbedtls_ssl_context *, struct seam_tls_idle *);

/* Attaches buffers, until the detach. The caller has set input, input_len and send. */
void seam_tls_attach(mbedtls_ssl_context *, struct seam_tls_idle *, struct seam_tls_buffers *);

/* Detaches them: SEAM_TLS_DONE, or SEAM_TLS_NO_MEMORY when the part of a message that has come
 * could not be copied. No byte of a peer decides which. */
enum seam_tls_result seam_tls_detach(mbedtls_ssl_context *, struct seam_tls_idle *);

/* Goes on with the handshake as far as the input brings it: DONE, WAIT or FAILED. Whatever failed
 * has its alert (RFC 8446 section 6.2), the peer's own alert and end aside; what Mbed TLS had not
 * sent before that is dropped if it is in the clear: a ServerHello of a bad key share. */
enum seam_tls_result seam_tls_handshake(mbedtls_ssl_context *, struct seam_tls_idle *);

/* Reads into `out`, which has room: DONE with *n bytes, WAIT, CLOSED or FAILED. */
enum seam_tls_result seam_tls_read(mbedtls_ssl_context *, struct seam_tls_idle *,
                                   unsigned char *out, size_t size, size_t *n);

/* Writes all: DONE or FAILED. */
enum seam_tls_result seam_tls_write(mbedtls_ssl_context *, struct seam_tls_idle *,
                                    const unsigned char *at, size_t len);

/* Ends TLS with a fatal alert (RFC 8446 section 6): what came is no record. Also for a context that
 * has sent nothing yet. */
void seam_tls_alert(mbedtls_ssl_context *, struct seam_tls_idle *, unsigned char alert);

/* Sends close_notify; nothing may be written after it. */
void seam_tls_close_notify(mbedtls_ssl_context *, struct seam_tls_idle *);

/* The ticket that the handshake of this thread was offered holds this session: said by the ticket
 * callback, which has no context. */
void seam_tls_ticket_is(struct seam_tls_buffers *, const mbedtls_ssl_session *);

/* Frees what only the handshake needed, after it: TLS 1.3 would keep 4 KB of it until the end. The
 * session is gone then; its ticket was sent. */
void seam_tls_end_handshake(mbedtls_ssl_context *, struct seam_tls_idle *);

/* Frees what an idle connection keeps; the context can only be freed after it. */
void seam_tls_free(mbedtls_ssl_context *, struct seam_tls_idle *);

/* Has Mbed TLS take its memory from seam_mem_calloc from now on, in the whole process. To be called
 * once, before the library is used. Does nothing under the address sanitizer, which is to see every
 * block come and go. */
void seam_mem_use(void);

/* [any] calloc and free, with free lists of each thread in front. musl's malloc is one lock: of
 * two threads that sign with P-256, a hundred small numbers each time, one waits for the other.
 * Measured with two: 5,400 to 5,700 signatures a second without, 7,200 to 7,900 with lists; and
 * full handshakes with P-256 for each CPU second of the server 1,640 without, 2,120 with.
 *
 * A block comes from malloc, and any thread may free it, also with free(): nothing stands before
 * it, and its size is asked of malloc. A thread keeps at most SEAM_MEM_LIST_MAX bytes, of the
 * blocks that it freed itself, whichever thread made them; they go back to malloc when it ends. As
 * with free() the content stays until the block is used again: Mbed TLS clears what is secret
 * before it frees it. */
void *seam_mem_calloc(size_t n, size_t size);
void seam_mem_free(void *);
enum {
	SEAM_MEM_LIST_MAX = 16 * 1024, /* bytes; a handshake with P-256 has less at a time */
	SEAM_MEM_BLOCK_MAX = 1020,     /* bytes of the largest block that is kept */
};

/* How many bytes this thread keeps; for tests. */
size_t seam_mem_listed(void);

#endif
