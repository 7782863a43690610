/* SPDX-License-Identifier: MIT */
/* hiredis_seam.c - the one file that calls hiredis, see hiredis_seam.h.
 *
 * What is relied on of hiredis 1.2: redisContext.funcs is the way in and out (its ssl.c uses it for
 * OpenSSL); a reader's fn makes the objects of replies, and a NULL from one of them ends the
 * reader; whoever sets err and errstr of a context has it fail. */

#include <errno.h>
#include <mbedtls/error.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "hiredis_seam.h"

enum { SEAM_TLS_PIECE = 4096 }; /* bytes of a record that we write */

struct seam_redis {
	redisContext *context;
	mbedtls_ssl_context *ssl;
	redisReplyObjectFunctions make; /* hiredis' own, but for arrays */
	void *(*make_array)(const redisReadTask *, size_t); /* its own for those */
	size_t parts;      /* of the reply that is being read */
	size_t fed;        /* bytes since the last reply was whole */
	size_t writing;    /* bytes of a record that Mbed TLS could not write whole; 0: none */
	bool refused;      /* the reply is too deep, or has too many parts */
	bool waits;        /* the last read or write would have had to wait */
};

/* Has the context fail with a sentence; returns -1, as the functions of its table do. */
static ssize_t seam_redis_fail(redisContext *context, int kind, const char *why)
{
	context->err = kind;
	snprintf(context->errstr, sizeof context->errstr, "%s", why);
	return -1;
}

/* What a call into Mbed TLS that did not move a byte means: 0 to wait, or -1. */
static ssize_t seam_redis_tls_end(redisContext *context, int code)
{
	struct seam_redis *redis = context->privctx;
	char text[96];
	/* A ticket of TLS 1.3 comes at any time, and is not kept. */
	if (code == MBEDTLS_ERR_SSL_WANT_READ || code == MBEDTLS_ERR_SSL_WANT_WRITE ||
	    code == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET) {
		redis->waits = code != MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET;
		return 0;
	}
	if (!code || code == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY || code == MBEDTLS_ERR_SSL_CONN_EOF)
		return seam_redis_fail(context, REDIS_ERR_EOF, "it ended the connection");
	if (code == MBEDTLS_ERR_ERROR_GENERIC_ERROR)
		return seam_redis_fail(context, REDIS_ERR_IO, strerror(errno));
	mbedtls_strerror(code, text, sizeof text);
	return seam_redis_fail(context, REDIS_ERR_OTHER, text);
}

/* hiredis wants bytes. */
static ssize_t seam_redis_receive(redisContext *context, char *out, size_t size)
{
	struct seam_redis *redis = context->privctx;
	redis->waits = false;
	if (redis->ssl) {
		int n = mbedtls_ssl_read(redis->ssl, (unsigned char *)out, size);
		if (n <= 0) return seam_redis_tls_end(context, n);
		redis->fed += (size_t)n;
		return n;
	}
	ssize_t n = recv(context->fd, out, size, 0);
	if (n > 0) redis->fed += (size_t)n;
	if (n > 0) return n;
	if (!n) return seam_redis_fail(context, REDIS_ERR_EOF, "it ended the connection");
	if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
		return seam_redis_fail(context, REDIS_ERR_IO, strerror(errno));
	redis->waits = errno != EINTR;
	return 0;
}

/* hiredis has bytes in obuf. A record that Mbed TLS could not send whole is in its own buffer: it
 * wants to be asked with the same length again, and says then that those bytes are written. */
static ssize_t seam_redis_send(redisContext *context)
{
	struct seam_redis *redis = context->privctx;
	size_t len = sdslen(context->obuf);
	redis->waits = false;
	if (redis->ssl) {
		size_t piece = len < SEAM_TLS_PIECE ? len : SEAM_TLS_PIECE;
		if (redis->writing) piece = redis->writing;
		int n = mbedtls_ssl_write(redis->ssl, (const unsigned char *)context->obuf, piece);
		redis->writing = n > 0 ? 0 : piece;
		return n > 0 ? n : seam_redis_tls_end(context, n ? n : MBEDTLS_ERR_SSL_WANT_WRITE);
	}
	ssize_t n = send(context->fd, context->obuf, len, MSG_NOSIGNAL);
	if (n >= 0) return n;
	if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)
		return seam_redis_fail(context, REDIS_ERR_IO, strerror(errno));
	redis->waits = errno != EINTR;
	return 0;
}

/* Nothing of hiredis' asynchronous side is used; its own table names it, so it is linked. */
static const redisContextFuncs seam_redis_funcs = {
	.read = seam_redis_receive,
	.write = seam_redis_send,
};

/* Makes an array of a reply, or refuses it. */
static void *seam_redis_make_array(const redisReadTask *task, size_t elements)
{
	struct seam_redis *redis = task->privdata;
	int depth = 0;
	for (const redisReadTask *up = task->parent; up; up = up->parent) depth++;
	redis->refused = depth >= SEAM_REDIS_DEPTH_MAX || elements > SEAM_REDIS_PARTS_MAX ||
	                 redis->parts + elements > SEAM_REDIS_PARTS_MAX;
	if (redis->refused) return NULL;
	redis->parts += elements;
	return redis->make_array(task, elements);
}

struct seam_redis *seam_redis_new(int fd, mbedtls_ssl_context *ssl)
{
	struct seam_redis *redis = calloc(1, sizeof *redis);
	redisOptions options = {.type = REDIS_CONN_USERFD,
	                        .options = REDIS_OPT_NONBLOCK | REDIS_OPT_NO_PUSH_AUTOFREE,
	                        .endpoint.fd = fd};
	redisContext *context = redis ? redisConnectWithOptions(&options) : NULL;
	if (!context || context->err) {
		if (context) (void)redisFreeKeepFd(context);
		free(redis);
		return NULL;
	}
	redis->context = context;
	redis->ssl = ssl;
	redis->make = *context->reader->fn;
	redis->make_array = redis->make.createArray;
	redis->make.createArray = seam_redis_make_array;
	context->reader->fn = &redis->make;
	context->reader->privdata = redis;
	context->reader->maxelements = SEAM_REDIS_PARTS_MAX;
	context->funcs = &seam_redis_funcs;
	context->privctx = redis;
	return redis;
}

void seam_redis_free(struct seam_redis *redis)
{
	if (!redis) return;
	/* Without a close in the table the descriptor stays as it is. */
	redisFree(redis->context);
	free(redis);
}

/* What an error of hiredis means. */
static enum seam_redis_result seam_redis_failed(const struct seam_redis *redis)
{
	bool memory = redis->context->err == REDIS_ERR_OOM && !redis->refused;
	return memory ? SEAM_REDIS_NO_MEMORY : SEAM_REDIS_FAILED;
}

enum seam_redis_result seam_redis_add(struct seam_redis *redis, int count, const char **words,
                                      const size_t *lens)
{
	/* It fails for want of memory only; on a connection that is over the command goes nowhere. */
	int error = redisAppendCommandArgv(redis->context, count, words, lens);
	return error == REDIS_OK ? SEAM_REDIS_DONE : SEAM_REDIS_NO_MEMORY;
}

enum seam_redis_result seam_redis_write(struct seam_redis *redis)
{
	int done = 0;
	while (!done) {
		if (redisBufferWrite(redis->context, &done) != REDIS_OK) return seam_redis_failed(redis);
		if (!done && redis->waits) return SEAM_REDIS_WAIT;
	}
	return SEAM_REDIS_DONE;
}

enum seam_redis_result seam_redis_read(struct seam_redis *redis)
{
	if (redisBufferRead(redis->context) != REDIS_OK) return seam_redis_failed(redis);
	return redis->waits ? SEAM_REDIS_WAIT : SEAM_REDIS_DONE;
}

enum seam_redis_result seam_redis_feed(struct seam_redis *redis, const char *at, size_t len)
{
	redis->fed += len;
	if (redisReaderFeed(redis->context->reader, at, len) == REDIS_OK) return SEAM_REDIS_DONE;
	return SEAM_REDIS_NO_MEMORY;
}

enum seam_redis_result seam_redis_next(struct seam_redis *redis, redisReply **reply)
{
	void *found = NULL;
	if (redis->context->err) return seam_redis_failed(redis);
	if (redisGetReplyFromReader(redis->context, &found) != REDIS_OK) {
		if (redis->refused)
			seam_redis_fail(redis->context, REDIS_ERR_PROTOCOL, "a reply has too many parts");
		return seam_redis_failed(redis);
	}
	if (found) {
		redis->parts = 0;
		redis->fed = redis->context->reader->len - redis->context->reader->pos;
		*reply = found;
		return SEAM_REDIS_DONE;
	}
	if (redis->fed <= SEAM_REDIS_REPLY_MAX) return SEAM_REDIS_WAIT;
	seam_redis_fail(redis->context, REDIS_ERR_PROTOCOL, "a reply has more than 64 MB");
	return SEAM_REDIS_FAILED;
}

const char *seam_redis_why(const struct seam_redis *redis)
{
	return redis->context->errstr;
}

/* The result of a system call as Mbed TLS wants it. */
static int seam_redis_tls_result(ssize_t n, int wait)
{
	if (n >= 0) return (int)n;
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return wait;
	return MBEDTLS_ERR_ERROR_GENERIC_ERROR;
}

int seam_redis_tls_send(void *fd, const unsigned char *at, size_t len)
{
	return seam_redis_tls_result(send(*(int *)fd, at, len, MSG_NOSIGNAL),
	                             MBEDTLS_ERR_SSL_WANT_WRITE);
}

int seam_redis_tls_receive(void *fd, unsigned char *out, size_t size)
{
	return seam_redis_tls_result(recv(*(int *)fd, out, size, 0), MBEDTLS_ERR_SSL_WANT_READ);
}
