/* SPDX-License-Identifier: MIT */
/* civetweb_seam.h - the few calls through which presence uses CivetWeb.
 *
 * CivetWeb never sees a socket. The listener (presence.c) reads and decrypts a whole request, the seam
 * lets one of CivetWeb's worker threads parse it and act on it, and everything CivetWeb writes
 * comes back as bytes. Nothing here waits for a client.
 *
 *   listener --seam_submit(item)--> worker: parse --ops.request--> answer, or 0 for the upgrade
 *                                             --ops.output---> bytes for the client
 *                                             --ops.finished-> the item is the caller's again
 */
#ifndef CIVETWEB_SEAM_H
#define CIVETWEB_SEAM_H

#include <stddef.h>
#include <sys/socket.h>

/* One request on its way through a worker; the caller embeds it in its connection. */
struct seam_item {
	char *bytes;   /* the request: head and whole body; changed in place while parsed */
	size_t len;    /* how many bytes there are; those behind `used` are the next request's */
	size_t size;   /* how many the buffer holds, more than len */
	size_t used;   /* bytes of this request, head and body */
	int is_tls;    /* came over TLS */
	int upgraded;  /* out: CivetWeb has answered 101 */
	int asterisk;  /* the target is an asterisk; a slash stands in its place */
	char *authority; /* what stands for the Host, or NULL; the caller's */
};

/* CivetWeb reads this many header lines and leaves out those behind: nobody may send more. */
enum { SEAM_HEADERS_MAX = 64 };

struct seam_header {
	const char *name, *value;
};

/* A parsed request. All strings live in the item's bytes, NUL-terminated, until ops.finished. */
struct seam_request {
	const char *method;
	const char *target;       /* path as sent: nothing decoded, no dot segments removed; or an
	                           * asterisk. Requests with scheme and authority before it are refused:
	                           * the caller takes them off, see seam_item.authority */
	const char *query;        /* behind the '?', or NULL */
	const char *version;      /* "1.0" or "1.1" */
	const struct seam_header *headers;
	int header_count;
	int wants_upgrade;        /* Connection: Upgrade and Upgrade: websocket are both there, in whatever
	                           * line of these names */
	const char *body;
	size_t body_len;
	const char *subprotocol;  /* in/out: set it to a string that outlives the call to have it echoed */
};

/* What the caller does. All but run are called on a worker thread. */
struct seam_ops {
	/* Runs in CivetWeb's master thread, in place of its accept loop, until the caller ends it. */
	void (*run)(void *context);
	/* Answers through its own output and returns the status, or returns 0 to let CivetWeb upgrade. */
	int (*request)(void *context, struct seam_item *, struct seam_request *);
	/* CivetWeb refused the request before it reached ops.request. */
	void (*error)(void *context, struct seam_item *, int status, const char *message);
	/* CivetWeb has bytes for the client: the head of its 101. */
	void (*output)(void *context, struct seam_item *, const char *bytes, size_t len);
	/* Last word on this item: it belongs to the caller again. */
	void (*finished)(void *context, struct seam_item *);
	/* CivetWeb has something to say; never about one request's content. */
	void (*log)(void *context, const char *message);
	/* There is no memory for CivetWeb; does not return. */
	void (*no_memory)(void);
};

struct seam;

/* Starts the threads, all or none; the workers wait for items, ops.run for seam_run. NULL with
 * errno set if there is no thread to be had. */
struct seam *seam_start(const struct seam_ops *, void *context, int workers, int queue);

/* Lets ops.run begin. To be called once, before seam_stop in any case. */
void seam_run(struct seam *);

/* Gives items to the workers, in this order. The caller keeps at most `queue` items under way, so
 * that this never waits. */
void seam_submit(struct seam *, struct seam_item *const *items, int count);

/* Joins all threads; ops.run must have been told to return, with no item left under way. */
void seam_stop(struct seam *);

/* Version of the library, for --version. */
const char *seam_version(void);

#endif
