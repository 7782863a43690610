/* SPDX-License-Identifier: MIT */
/* hiredis_seam.h - a connection to a Valkey or Redis: commands out, replies in, plain or over TLS.
 *
 * hiredis writes commands, reads replies and has the buffers between. The socket, which is
 * connected already and never waits, and the TLS context, whose handshake is done, are the
 * caller's. What a server sends has no other effect than a reply, or SEAM_REDIS_FAILED with a
 * sentence: the size of one reply, its depth and the number of its parts are bounded, as hiredis
 * alone would take memory for whatever a length announces, and free what is nested by calling
 * itself.
 *
 *   seam_redis_new
 *   seam_redis_add, as many commands as there are; seam_redis_write, until all is written
 *   seam_redis_read when the socket has bytes, then seam_redis_next until it says WAIT
 *   seam_redis_free
 */
#ifndef HIREDIS_SEAM_H
#define HIREDIS_SEAM_H

#include <hiredis/hiredis.h>
#include <mbedtls/ssl.h>
#include <stdbool.h>
#include <stddef.h>

enum {
	SEAM_REDIS_REPLY_MAX = 64 << 20, /* bytes of one reply, as it is sent */
	SEAM_REDIS_PARTS_MAX = 16384,    /* elements in all arrays of one reply */
	SEAM_REDIS_DEPTH_MAX = 8,        /* arrays in arrays */
};

/* The result of a call. */
enum seam_redis_result {
	SEAM_REDIS_DONE,      /* all is written; bytes were read and there may be more; a reply */
	SEAM_REDIS_WAIT,      /* the socket takes, or has, no more now; the next reply is not whole */
	SEAM_REDIS_FAILED,    /* the connection is over: seam_redis_why */
	SEAM_REDIS_NO_MEMORY, /* malloc gave NULL: no byte of a server decides this */
};

struct seam_redis;

/* A connection over this socket; ssl: NULL, or what speaks TLS on it. Both stay the caller's, and
 * outlive it. NULL: no memory. */
struct seam_redis *seam_redis_new(int fd, mbedtls_ssl_context *ssl);

/* Frees it; NULL is fine. The socket stays open. */
void seam_redis_free(struct seam_redis *);

/* Adds a command to what is to be written: DONE or NO_MEMORY. */
enum seam_redis_result seam_redis_add(struct seam_redis *, int count, const char **words,
                                      const size_t *lens);

/* Writes what the socket takes: DONE when nothing is left, WAIT, FAILED or NO_MEMORY. */
enum seam_redis_result seam_redis_write(struct seam_redis *);

/* Reads some: DONE, WAIT, FAILED or NO_MEMORY. To be called until it says WAIT, unless the caller
 * calls it again without waiting: TLS may have bytes that the socket has no more. */
enum seam_redis_result seam_redis_read(struct seam_redis *);

/* The next whole reply of what was read: DONE with *reply, which is the caller's to give to
 * freeReplyObject; WAIT, FAILED or NO_MEMORY. */
enum seam_redis_result seam_redis_next(struct seam_redis *, redisReply **reply);

/* Takes bytes as if they had been read; for tests. */
enum seam_redis_result seam_redis_feed(struct seam_redis *, const char *at, size_t len);

/* Why it failed, as the end of a sentence. */
const char *seam_redis_why(const struct seam_redis *);

/* Mbed TLS's f_send and f_recv for a socket that never waits; the context is a pointer to its
 * descriptor. */
int seam_redis_tls_send(void *fd, const unsigned char *at, size_t len);
int seam_redis_tls_receive(void *fd, unsigned char *out, size_t size);

#endif
