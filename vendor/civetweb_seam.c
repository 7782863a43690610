/* SPDX-License-Identifier: MIT */
/* civetweb_seam.c - the one file that knows CivetWeb from the inside; see civetweb_seam.h.
 *
 * CivetWeb's source is included, not linked, so that its internals are in reach without a patch:
 * its socket calls are renamed away, its listening sockets never exist, its master thread runs the
 * door, and its workers get requests that have already been read. */

#define NO_SSL            /* the door does TLS, before CivetWeb sees a byte */
#define NO_CGI
#define NO_FILES
#define NO_CACHING
#define NO_THREAD_NAME    /* would cost a system call for every upgrade */
#define USE_WEBSOCKET
#define USE_IPV6
#define USE_STACK_SIZE (256 * 1024)
#define MAX_WORKER_THREADS (1024)

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/types.h>

static ssize_t seam_send(const void *bytes, size_t len);
static int seam_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
static void *seam_memory(void *);

/* CivetWeb's writes come back to us; there is nothing for it to read, to wait for,
 * to bind or to listen on. */
#define send(sock, bytes, len, flags) seam_send((bytes), (len))
#define recv(sock, bytes, len, flags) ((void)(bytes), (void)(len), (ssize_t)-1)
#define bind(sock, address, len) ((void)(address), 0)
#define listen(sock, backlog) ((void)(backlog), 0)
#define poll(fds, count, timeout) (-1)
#define getnameinfo(...) (-1) /* nobody reads the address as text */

/* It goes on with a worker less when it gets no thread, and with none and without a word when that
 * is its master; a worker that gets no memory ends alone. The server would listen and serve nobody:
 * we keep what failed and end the start, and memory that is not there is the caller's to answer. */
#define pthread_create(thread, attr, run, argument) seam_create((thread), (attr), (run), (argument))
#define malloc(size) seam_memory(malloc(size))
#define calloc(count, size) seam_memory(calloc((count), (size)))

#include "civetweb.c"

#undef send
#undef recv
#undef bind
#undef listen
#undef poll
#undef getnameinfo
#undef pthread_create
#undef malloc
#undef snprintf /* CivetWeb forbids itself the plain ones */
#undef calloc
#undef free

#include "civetweb_seam.h"

#if defined(__SANITIZE_THREAD__)
/* CivetWeb's stop flag is a plain volatile int; mg_stop and its master thread write it once. */
const char *__tsan_default_suppressions(void)
{
	return "race:mg_stop\nrace:master_thread_run\n";
}
#endif

struct seam {
	struct seam_ops ops;
	void *context;
	struct mg_context *civetweb;
	sem_t go;   /* posted by seam_run */
	sem_t done; /* posted when ops.run has returned */
};

/* What a worker is at; one for each thread. */
static _Thread_local struct {
	struct seam *seam;
	struct seam_item *item;
	char *own_buf; /* the worker's request buffer, while the item's stands in for it */
	int own_size;
} seam_worker;

/* Of the one CivetWeb that there is: why a thread of its start was not created, or 0; and what the
 * caller does when there is no memory. */
static int seam_create_failed;
static void (*seam_no_memory)(void);

static int seam_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *),
                       void *argument)
{
	int error = pthread_create(thread, attr, run, argument);
	if (error) seam_create_failed = error;
	return error;
}

static void *seam_memory(void *p)
{
	if (!p && seam_no_memory) seam_no_memory();
	return p;
}

/* Takes bytes that CivetWeb writes. */
static ssize_t seam_send(const void *bytes, size_t len)
{
	if (seam_worker.item)
		seam_worker.seam->ops.output(seam_worker.seam->context, seam_worker.item, bytes, len);
	return (ssize_t)len;
}

/* The master thread runs the door, and then waits for mg_stop, which sets the flag at once. */
static void *seam_init_thread(const struct mg_context *ctx, int thread_type)
{
	if (thread_type == 0) {
		struct seam *seam = ctx->user_data;
		close_all_listening_sockets((struct mg_context *)ctx);
		((struct mg_context *)ctx)->num_listening_sockets = 0;
		while (sem_wait(&seam->go)) continue; /* only EINTR */
		seam->ops.run(seam->context);
		sem_post(&seam->done);
		while (STOP_FLAG_IS_ZERO(&ctx->stop_flag)) mg_sleep(1);
	} else {
		prctl(PR_SET_NAME, "worker");
	}
	return NULL;
}

/* A worker takes an item: its bytes become the request buffer, and the socket is gone. The item's
 * address travels in the local address of CivetWeb's own queue entry. */
static int seam_init_connection(const struct mg_connection *constant, void **conn_data)
{
	struct mg_connection *conn = (struct mg_connection *)constant;
	struct seam_item *item;
	memcpy(&item, &conn->client.lsa.sin6.sin6_addr, sizeof item);
	conn->client.sock = INVALID_SOCKET;
	seam_worker.seam = conn->phys_ctx->user_data;
	seam_worker.item = item;
	seam_worker.own_buf = conn->buf;
	seam_worker.own_size = conn->buf_size;
	conn->buf = item->bytes;
	conn->buf_size = (int)item->size;
	conn->data_len = (int)item->used;
	conn->request_info.is_ssl = item->is_tls;
	item->upgraded = 0;
	*conn_data = item;
	return 0;
}

/* The worker is done with the item. */
static void seam_connection_closed(const struct mg_connection *constant)
{
	struct mg_connection *conn = (struct mg_connection *)constant;
	struct seam_item *item = seam_worker.item;
	if (!item) return;
	conn->buf = seam_worker.own_buf;
	conn->buf_size = seam_worker.own_size;
	seam_worker.item = NULL;
	seam_worker.seam->ops.finished(seam_worker.seam->context, item);
}

/* Whether one of the header lines of a name has an element, whatever the case: they are one list
 * (RFC 9110 section 5.3). CivetWeb looks at the first line, and for the letters anywhere in it. */
static int seam_list_has(const struct mg_request_info *ri, const char *name, const char *element)
{
	size_t wanted = strlen(element);
	for (int i = 0; i < ri->num_headers; i++) {
		const char *at = ri->http_headers[i].value;
		if (mg_strcasecmp(ri->http_headers[i].name, name)) continue;
		while (*(at += strspn(at, " \t,"))) {
			size_t len = strcspn(at, ","), used = len;
			while (used && (at[used - 1] == ' ' || at[used - 1] == '\t')) used--;
			if (used == wanted && !mg_strncasecmp(at, element, used)) return 1;
			at += len;
		}
	}
	return 0;
}

/* Copies the headers; where something else stands for the Host that is its value, and 1.0, which
 * need not send one, has it added. Returns how many there are. */
static int seam_take_headers(const struct mg_request_info *ri, const char *host,
                             struct seam_header headers[MG_MAX_HEADERS + 1])
{
	int count = 0, found = 0;
	for (int i = 0; i < ri->num_headers; i++) {
		struct seam_header header = {ri->http_headers[i].name, ri->http_headers[i].value};
		if (host && !mg_strcasecmp(header.name, "Host")) {
			header.value = host;
			found = 1;
		}
		headers[count++] = header;
	}
	if (host && !found && !strcmp(ri->http_version, "1.0"))
		headers[count++] = (struct seam_header){"Host", host};
	return count;
}

/* A parsed request, before CivetWeb does anything with it. */
static int seam_begin_request(struct mg_connection *conn)
{
	const struct mg_request_info *ri = &conn->request_info;
	_Static_assert(SEAM_HEADERS_MAX == MG_MAX_HEADERS, "what the door lets through is all seen");
	struct seam_header headers[MG_MAX_HEADERS + 1];
	int upgrades = seam_list_has(ri, "Connection", "upgrade") &&
	               seam_list_has(ri, "Upgrade", "websocket");
	conn->protocol_type = upgrades ? PROTOCOL_TYPE_WEBSOCKET : PROTOCOL_TYPE_HTTP1;
	struct seam_request request = {
	    .method = ri->request_method,
	    .target = seam_worker.item->asterisk ? "*" : ri->local_uri_raw,
	    .query = ri->query_string,
	    .version = ri->http_version,
	    .headers = headers,
	    .header_count = seam_take_headers(ri, seam_worker.item->authority, headers),
	    .wants_upgrade = upgrades,
	    .body = conn->buf + conn->request_len,
	    .body_len = (size_t)(conn->data_len - conn->request_len),
	};
	if (ri->local_uri_raw != ri->request_uri) { /* see seam_request.target */
		seam_worker.seam->ops.error(seam_worker.seam->context, seam_worker.item, 400,
		                            "an absolute target without a path");
		conn->must_close = 1;
		return 400;
	}
	int status = seam_worker.seam->ops.request(seam_worker.seam->context, seam_worker.item, &request);
	conn->request_info.acceptedWebSocketSubprotocol = request.subprotocol;
	if (status) conn->must_close = 1; /* one request for each visit of a worker */
	return status;
}

/* CivetWeb would answer with an error page of its own. */
static int seam_http_error(struct mg_connection *conn, int status, const char *message)
{
	(void)conn;
	if (!seam_worker.item) return 1;
	seam_worker.seam->ops.error(seam_worker.seam->context, seam_worker.item, status, message);
	return 0;
}

/* The 101 is written: no read loop. */
static void seam_websocket_ready(struct mg_connection *conn, void *data)
{
	(void)data;
	seam_worker.item->upgraded = 1;
	conn->must_close = 1;
}

/* Everybody may: who may what was decided in ops.request. Without a handler CivetWeb would look for
 * a password file on the disk, for every upgrade. */
static int seam_authorized(struct mg_connection *conn, void *data)
{
	(void)conn, (void)data;
	return 1;
}

static int seam_log_message(const struct mg_connection *conn, const char *message)
{
	struct mg_context *ctx = conn ? conn->phys_ctx : NULL;
	struct seam *seam = ctx ? ctx->user_data : seam_worker.seam;
	if (seam) seam->ops.log(seam->context, message);
	return 1;
}

/* Runs in place of the door where the start has failed. */
static void seam_run_nothing(void *context)
{
	(void)context;
}

/* Ends what mg_start2 has started with a thread too few. */
static void seam_abandon(struct seam *seam)
{
	struct mg_context *ctx = seam->civetweb;
	seam->ops.run = seam_run_nothing;
	sem_post(&seam->go);
	if (ctx->masterthreadid) { /* it joins the workers that there are */
		mg_stop(ctx);
		return;
	}
	pthread_mutex_lock(&ctx->thread_mutex);
	STOP_FLAG_ASSIGN(&ctx->stop_flag, 1);
	pthread_cond_broadcast(&ctx->sq_full);
	pthread_mutex_unlock(&ctx->thread_mutex);
	for (unsigned i = 0; i < ctx->cfg_worker_threads; i++)
		if (ctx->worker_threadids[i]) mg_join_thread(ctx->worker_threadids[i]);
	free_context(ctx);
}

struct seam *seam_start(const struct seam_ops *ops, void *context, int workers, int queue)
{
	static const struct mg_callbacks callbacks = {
	    .begin_request = seam_begin_request,
	    .log_message = seam_log_message,
	    .init_connection = seam_init_connection,
	    .connection_closed = seam_connection_closed,
	    .init_thread = seam_init_thread,
	    .http_error = seam_http_error,
	};
	char workers_text[16], queue_text[16];
	snprintf(workers_text, sizeof workers_text, "%d", workers);
	snprintf(queue_text, sizeof queue_text, "%d", queue);
	const char *options[] = {
	    "listening_ports", "127.0.0.1:0", /* never bound: see the macros above */
	    "num_threads", workers_text,
	    "connection_queue", queue_text,
	    "max_request_size", "1024",       /* the worker's own buffer, which no request uses */
	    "decode_url", "no",
	    "decode_query_string", "no",
	    "enable_auth_domain_check", "no",
	    "enable_keep_alive", "no",
	    NULL,
	};
	struct mg_init_data init = {.callbacks = &callbacks, .configuration_options = options};
	struct seam *seam = calloc(1, sizeof *seam);
	if (!seam) return NULL;
	sem_init(&seam->go, 0, 0);
	sem_init(&seam->done, 0, 0);
	seam->ops = *ops;
	seam->context = context;
	init.user_data = seam;
	seam_no_memory = ops->no_memory;
	seam_create_failed = 0;
	mg_init_library(MG_FEATURES_DEFAULT);
	seam->civetweb = mg_start2(&init, NULL);
	if (!seam->civetweb || seam_create_failed) {
		if (seam->civetweb) seam_abandon(seam);
		mg_exit_library();
		free(seam);
		errno = seam_create_failed ? seam_create_failed : EINVAL; /* its options are ours */
		return NULL;
	}
	mg_set_websocket_handler(seam->civetweb, "**", NULL, seam_websocket_ready, NULL, NULL, NULL);
	mg_set_auth_handler(seam->civetweb, "**", seam_authorized, NULL);
	return seam;
}

void seam_run(struct seam *seam)
{
	sem_post(&seam->go);
}

/* What CivetWeb's produce_socket does, for many at once: one lock, and no more wake-ups than there
 * are workers. */
void seam_submit(struct seam *seam, struct seam_item *const *items, int count)
{
	struct mg_context *ctx = seam->civetweb;
	pthread_mutex_lock(&ctx->thread_mutex);
	for (int i = 0; i < count; i++) {
		struct socket *entry = &ctx->squeue[ctx->sq_head++ % ctx->sq_size];
		memset(entry, 0, sizeof *entry);
		entry->sock = INVALID_SOCKET;
		entry->lsa.sin6.sin6_family = AF_INET6;
		memcpy(&entry->lsa.sin6.sin6_addr, &items[i], sizeof items[i]);
	}
	pthread_mutex_unlock(&ctx->thread_mutex);
	for (unsigned i = 0; i < ctx->cfg_worker_threads && (int)i < count; i++)
		pthread_cond_signal(&ctx->sq_full);
}

void seam_stop(struct seam *seam)
{
	while (sem_wait(&seam->done)) continue; /* its workers end at once when CivetWeb stops */
	mg_stop(seam->civetweb);
	mg_exit_library();
	free(seam);
}

const char *seam_version(void)
{
	return CIVETWEB_VERSION;
}
