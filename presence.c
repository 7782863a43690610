/* presence - tells an application which of its users are online, and when each was last seen.
 *
 * SPDX-License-Identifier: MIT
 * Copyright the presence authors. README.md has the licence.
 *
 * One process, one static binary, one directory. Clients hold a WebSocket at /ws/presence/{userId};
 * connected means online. Backends and admins ask over HTTP. The store is inside (LMDB), HTTP and
 * the upgrade are CivetWeb's, everything else is here.
 *
 *     sockets -> LISTENER -> worker (CivetWeb) -> HUB -> WRITER -> LMDB
 *                  |   HTTP answer        ^         |
 *                  +---- upgrade ---------+         +-> readers: worker threads
 *
 * Contents. Sections stand bottom-up: each calls only what is above it, so nothing needs a
 * prototype but a true cycle, and the compiler sees to it that this stays so.
 *
 *   1. Limits, types, errors           tables of errors, reasons, close codes; bounds
 *   2. Counters                        one table: field, metric, help
 *   3. Util                            failing, memory, clocks, random numbers; base64url, hashing
 *   4. Log                             one line a record, never blocks
 *   5. Ids and text                    UTF-8, user ids, percent-encoding, numbers; pure
 *   6. Hosts and addresses             names of hosts, origins, addresses, ranges; pure
 *   7. JSON                            bounded reader, writer; pure
 *   8. Options                         one table of all flags and commands
 *   9. Options: reading                command line, environment, file, help
 *  10. Tokens                          users' tokens: keys, checking, minting; pure but for files
 *  11. Passwords and admin sessions    the admin's password, and what a login gives; pure
 *  12. Store: records                  what is on the disk, byte by byte: tables of fields; pure
 *  13. Store: state                    struct store; the check of a file before it is mapped
 *  14. Store: files                    directory, locks, map
 *  15. Store: reads                    short read transactions
 *  16. Store: changes                  batches, and the work inside a transaction
 *  17. Store: opening, the writer thread  open, close; one transaction a batch
 *  18. Store: commands                 --backup, --check-store, --dump, --restore
 *  19. Timers                          a wheel over `now`; pure
 *  20. Limits by address               what is counted by address; pure
 *  21. Logins                          wrong passwords, the queue for hashing; pure
 *  22. Users                           the table: who is known, in order of ids; pure
 *  23. Presence rules                  when a user is online; pure
 *  24. Views and events                users and transitions as JSON; pure
 *  25. Watch graph                     who follows whom, what is to be told; pure
 *  26. WebSocket codec                 bytes to frames, frames to bytes; pure
 *  27. HTTP messages                   where a request ends, the text of an answer; pure
 *  28. Event loop                      jobs for other threads: an inbox with epoll, a queue
 *  29. TLS: connections                what a connection has of TLS
 *  30. TLS: certificates               which one a client gets; reading, trying, signing
 *  31. Transport                       a socket that never waits, plain or TLS
 *  32. Webhooks: the receiver          a connection to the operator's program
 *  33. Webhooks: delivery              batches from the outbox until they are taken
 *  34. Server                          struct server, and all that threads share
 *  35. Connections                     WebSockets and streams: made, written to, ended
 *  36. WebSocket messages              what a client says, and what follows
 *  37. Streams                         those who read /admin/events and /api/events
 *  38. Broadcast                       watchers are told, by several threads
 *  39. Signs of life                   pings, silence, what TCP knows
 *  40. Handoff                         a connection becomes the hub's; when crowds come back
 *  41. Hub                             the loop that owns all WebSockets; the table's only writer
 *  42. Listener: connections           every connection that is not a WebSocket
 *  43. Listener: requests              whole requests to workers, answers back
 *  44. Listener: accept                new connections, deadlines, the loop
 *  45. Assets                          the files of web/
 *  46. API: users                      /api/presence, /admin/online-users
 *  47. API: lists for admins           /admin/users, one user, sessions, kicks
 *  48. API: state of the server        /admin/stats, /metrics, events, history, files of web/
 *  49. API: who may                    authentication, logins
 *  50. Routes                          every path, from request to answer
 *  51. CivetWeb                        its request is ours, our answer its bytes; upgrades
 *  52. Sandbox and privileges          --user, Landlock
 *  53. Start                           limits, files, threads; signals; stop
 *  54. Main                            commands that print, main
 *
 * To change                      go to
 *   a flag                       Options: a row of OPTION_TABLE; presence(1)
 *   a route                      Routes: a row of ROUTES, a handler in an API section
 *   a command (--dump)           Options: a row of COMMAND_TABLE; Main: run_command
 *   a WebSocket message          WebSocket messages: a row of MESSAGES; presence-protocol(7)
 *   who may do what              Routes: the access of a row; API: who may: auth_allows
 *   when a user is offline       Presence rules: presence_disconnect, presence_tick; and when a
 *                                connection is silent: Signs of life, silence_judge
 *   a stored field               Store: records: a row of the record's FIELDS
 *   a counter                    Counters: a row of COUNTER_TABLE; presence-protocol(7)
 *   a gauge                      API: state of the server: api_metrics
 *   an error or close code       Limits, types, errors: ERROR_TABLE, CLOSE_TABLE
 *   a setting of TLS             TLS: certificates: tls_config_base; vendor/mbedtls_config.h
 *   a limit                      the enum at the top of its section, or Options
 *   what browsers load           web/presence.js and its tests in test/web
 *
 * Words:
 *   live         online with a connection
 *   connection   a client's socket from accept to close: first HTTP, then perhaps a WebSocket or a
 *                stream; what it has for HTTP is its HTTP part (struct http_conn)
 *   session      of a user: from online to offline. An admin's is a login session, TLS has its own
 *   heartbeat    a sign of life: any byte on a WebSocket, or POST .../heartbeat
 *   cached       online without a connection: waiting for --grace, or by heartbeats over HTTP
 *   transition   one change of a user; its position: an epoch, random for each start of the server,
 *                and its number in the order of all
 *   view         a user as somebody else sees one
 *   watcher      a connection that follows users; target: a user it follows; watch: the pair
 *   snapshot     the state of all targets, the answer to a watch message
 *   feed         the events of streams: one for admins, one for all
 *   pinned       of a user: kept in the table while offline; of a batch: not to be cut any more
 *   turn         what a thread does between two waits; the hub's has parts, each with its time
 *   dirty        not in the store yet; in flight: in the batch that is being written
 *   batch        changes for one transaction of the store; of the outbox: for one POST
 *   outbox       changes in the store that the webhook has not taken yet
 *   grant        what a worker allowed: the hub is to make a WebSocket or a stream of a connection
 *   job          a piece of work on its way to another thread, part of what it is about
 *   lane         requests of one cost, waiting for a worker
 *   refs         how many hold something; the last one frees it
 *   extension    (ext) what few of many have, off a pointer: of a user, of a connection
 *   seam         our thin layer around an embedded library, in vendor/
 *   mono, wall   ms of a clock that only goes forward; ms since 1970, which may be stepped
 *
 * Threads, and what each may touch:
 *   main               starts the others, waits for a signal, stops them in order; reads keys again
 *   listener           CivetWeb's master thread: every connection that is not being served
 *   handshake workers  (--tls-threads) handshakes of TLS, niced: the connected come first
 *   workers            CivetWeb's pool (--workers): one whole request at a time; they never wait
 *                      for a client, hold no WebSocket, and wait for the hub only when they ask it
 *                      to change something
 *   hub                every WebSocket and stream; the only one to change the presence table
 *   io threads         (one less than processors, at most three) help the hub to send what many
 *                      follow: the transports of a batch are theirs while it is queued,
 *                      nothing else
 *   reader             reads LMDB for the hub: users who are followed and not in the table
 *   writer             the only one to write LMDB
 *   webhook            (--webhook-url) reads the outbox in the store and posts it
 *   resolver           (--webhook-url) finds the webhook's host by its name; at most one
 * One owner a datum; hand-over is a job in the new owner's inbox or queue (Event
 * loop); struct connection says who has a connection when. Shared is only: the
 * presence table, written by the hub under table_lock and read by workers under it for
 * microseconds; certificates and keys of tokens, replaced as a whole by main and freed by the last
 * who uses them; what is counted by address, the admin's sessions, the webhook's secret and last
 * error, each under its lock; counters and totals, atomic; options, constant.
 *
 * Comments of functions in the sections that know threads begin with who may call: [hub], [worker]
 * and so on; [any]; [owner]: who has the connection; behind a semicolon the lock that is held.
 *
 * Locks, in the order in which they may be taken, although nearly all are held alone: table_lock;
 * loop.lock; store.turn; store.map_lock; store.lock; tls.lock; secrets_lock; session_lock;
 * refusal_lock; webhook.lock; the lock of each job_queue; login_lock; address_lock; and, while any
 * of them is held, log.lock. struct server, struct store and the struct that has a lock say what it
 * guards. Threads and order are asserted in the builds with a sanitizer (enum thread, enum
 * lock_rank), but for map_lock, which is a rwlock.
 *
 * What it promises:
 *   - A user with an open connection is online. The last clean close is offline at once; a line
 *     that breaks is forgiven for --grace; one that falls silent is noticed within --ping-interval
 *     + --pong-timeout, and its user is offline then.
 *   - last_seen is when the user was last heard from, never when silence was noticed.
 *   - What was committed survives kill -9 and power cuts; what changed since, in one
 *     --sync-interval and the time of a commit, does not. Nothing ever needs repair.
 *   - A slow, silent or hostile client costs memory within limits, never a thread.
 *   - No byte of a client, of a receiver of webhooks or of another process ends the process: only
 *     malloc's NULL leads to mem_die. A client's work is cut into turns, so others do not wait.
 *   - A heartbeat allocates nothing.
 *   - A webhook is told of every change that was committed, in order, at least once, unless it was
 *     tried in vain for too long or too many wait; those are counted.
 *   - A watcher has every change of its targets behind the snapshot, or the latest state; what
 *     waits for a slow one does not grow with changes.
 *   - A change is numbered in the table, made text once, and sent to every stream in order, exactly
 *     once; a stream that comes back misses none, or is told to begin again.
 *
 * The protocol in a few lines (presence-protocol(7) has it all):
 *   GET /ws/presence/alice, upgraded      -> {"type":"hello","user_id":"alice",...}
 *   ping                                  -> pong
 *   {"type":"ping"}                       -> {"type":"pong","time":"..."}
 *   {"type":"status","status":"away"}     this connection's word on its user, or its user's own
 *   {"type":"watch","users":["bob"]}      -> {"type":"snapshot",...}, {"type":"presence",...}
 *   anything wrong                        -> {"type":"error","code":"...","message":"..."}
 *   WebSocket pings are sent after 25 s of silence; any byte in answer is a sign of life.
 *   Close codes: 1000 and 1001 as usual, 1012 restart with retry_after=MS, 4400 misuse, 4401 get
 *   a new token, 4403 kicked or not allowed, 4408 silent, 4429 too fast; all are in CLOSE_TABLE.
 */

#include <arpa/inet.h>
#include <assert.h>
#include <ctype.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <inttypes.h>
#include <libgen.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <pwd.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include <lmdb_check.h>
#include <lmdb_seam.h>
#include <mbedtls/ecp.h>
#include <mbedtls/error.h>
#include <mbedtls/md.h>
#include <mbedtls/oid.h>
#include <mbedtls/pk.h>
#include <mbedtls/pkcs5.h>
#include <mbedtls/psa_util.h>
#include <mbedtls/platform_util.h>
#include <mbedtls/ssl.h>
#include <mbedtls/ssl_ticket.h>
#include <mbedtls/version.h>
#include <mbedtls/x509_crt.h>
#include <psa/crypto.h>

#include "civetweb_seam.h"
#include "mbedtls_seam.h"

/* ==== 1. Limits, types, errors ================================================================
 * What a client can meet: the limits of the protocol, which presence-protocol(7) gives too, every
 * error and every close code. A bound of one part of the program stands at the top of that part's
 * section; one that an operator may choose is an option.
 *
 * Each list is an X-macro table: one row makes the enum, the text and the check of the manual
 * pages, so that none of them can be forgotten. Nothing here has state, and every section may use
 * it. */

#define PRESENCE_VERSION "0.1.0"

enum {
    USER_ID_MAX = 128, /* bytes of a user id after decoding */
    BATCH_MAX = 1000,  /* users in one POST /api/presence */
    PAGE_MAX = 1000,   /* users or sessions on one page */
    PAGE_DEFAULT = 100,
    JSON_DEPTH_MAX = 16,
    WS_FRAGMENTS_MAX = 64,   /* frames one message may be cut into */
    IDS_A_MESSAGE = 100,     /* ids to follow or not that count as a message more */
    AGENT_MAX = 120,         /* bytes kept of a User-Agent */
    CLOSE_WAIT_MS = 2000,    /* from our close frame or last byte to the end of the socket */
    HISTORY_HOURS_MAX = 720, /* of one GET /admin/history */
    HISTORY_HOURS_DEFAULT = 24,
    STREAM_RETRY_MS = 2000,       /* a client of a stream waits this long before it comes back */
    STREAM_SILENCE_MS = 15000,    /* a comment is sent when a stream was silent this long */
    STATUS_TEXT_CHARACTERS = 140, /* of the message beside a manual status */
    STATUS_TEXT_MAX = 4 * STATUS_TEXT_CHARACTERS, /* bytes of it */
    EXPIRES_MAX_S = 31536000,                     /* longest life of a manual status */
};

/* Bytes that belong to someone else, without a NUL behind them. A span is passed by value and lives
 * no longer than what it points into; `at` of an empty one may be NULL, so memcmp and memcpy are
 * not called with it unless len is more than 0. */
struct span {
    const char *at;
    size_t len;
};

/* What a connection, or an admin by hand, says of a user, by availability: of several connections
 * the lowest number wins. Set by hand, OFFLINE makes the user invisible, and AUTOMATIC leaves the
 * status to the connections. The numbers are in the store: add, never renumber. */
enum status { STATUS_ONLINE, STATUS_BUSY, STATUS_AWAY, STATUS_OFFLINE, STATUS_AUTOMATIC };
static const char *const STATUS_NAMES[] = {"online", "busy", "away", "offline"};

/* Why a session ended: name, number, text in the API, meaning. The numbers are in the store, and
 * the texts are in the history that admins have kept: add, never renumber or rename. */
#define REASON_TABLE(X)                                                                            \
    X(NONE, 0, "none", "the session has not ended")                                                \
    X(CLOSED, 1, "closed", "the client closed the connection, or left the page and stayed away")   \
    X(DROPPED, 2, "dropped", "the connection broke without a close frame")                         \
    X(TIMEOUT, 3, "timeout", "nothing was heard for too long")                                     \
    X(KICKED, 4, "kicked", "an admin closed the user's connections")                               \
    X(EXPIRED, 5, "expired", "the token ran out")                                                  \
    X(RESTART, 6, "restart", "the server restarted and the user did not come back")                \
    X(NODE_LOST, 7, "node_lost", "the node of the cluster that held the connection was lost")
#define X(name, number, text, meaning) REASON_##name = number,
enum reason { REASON_TABLE(X) REASON_COUNT };
#undef X
#define X(name, number, text, meaning) [number] = text,
static const char *const REASON_NAMES[] = {REASON_TABLE(X)};
#undef X

/* Users whom an error names, so that who asked for many can leave those out. */
enum { NAMED_MAX = 10 };
/* The first users to whom an error applies, by id: a client that asked for a thousand can leave
 * these out and ask again. NAMED_MAX bounds the answer, not what was wrong. Ids are copied, as the
 * message they came in may be gone before the error is written. */
struct named {
    size_t count;
    uint8_t lens[NAMED_MAX];
    char ids[NAMED_MAX][USER_ID_MAX];
};

/* Close codes that the server sends: those of RFC 6455 section 7.4.1, and from the range for
 * applications, 4000 to 4999. The client library decides by them whether to come back, and with
 * which token: 4403 is final, 4401 wants a new token, after all others it tries again, later each
 * time. A new one is a row here, the row of an error that closes with it, and what web/presence.js
 * makes of it. */
#define CLOSE_TABLE(X)                                                                             \
    X(NORMAL, 1000, "answer to a clean close")                                                     \
    X(GOING_AWAY, 1001, "answer to a page that is left")                                           \
    X(PROTOCOL, 1002, "the frame breaks RFC 6455")                                                 \
    X(BAD_UTF8, 1007, "a text message or close reason is not UTF-8")                               \
    X(TOO_BIG, 1009, "the message is larger than --max-message")                                   \
    X(FAILED, 1011, "the server failed; its log says why")                                         \
    X(RESTART, 1012, "the server stops; reason retry_after=MS says when to come back")             \
    X(OVERLOADED, 1013, "the server is full; try later")                                           \
    X(MISUSE, 4400, "the message breaks the presence protocol")                                    \
    X(TOKEN, 4401, "the token is missing, wrong or has expired: get a new one")                    \
    X(KICKED, 4403, "kicked, or not allowed: stay away")                                           \
    X(TIMEOUT, 4408, "heartbeat timeout")                                                          \
    X(TOO_FAST, 4429, "too many messages or connections")
#define X(name, code, meaning) CLOSE_##name = code,
/* Two that the server never sends: what a client's close without a code counts as, and what a page
 * sends in place of 1001, which browsers do not let it say. */
enum close_code { CLOSE_TABLE(X) CLOSE_NO_STATUS = 1005, CLOSE_AWAY = 4001 };
#undef X

/* Everything a client can be refused for: code, HTTP status, WebSocket close code, text. A close
 * code of 0: on a WebSocket this error is a message, and the connection stays open, as the next
 * message may be right.
 *
 * Programs decide by the code, which never changes; the text is for people and may. It names the
 * option that set a limit, so that whoever reads it in a browser's console can tell the operator.
 */
#define ERROR_TABLE(X)                                                                             \
    X(NONE, "none", 200, 0, "no error")                                                            \
    X(INVALID_REQUEST, "invalid_request", 400, 0, "the request is not valid HTTP/1.1")             \
    X(INVALID_USER_ID, "invalid_user_id", 400, 0,                                                  \
      "a user id is 1 to 128 bytes of UTF-8 without control characters, percent-encoded once")     \
    X(INVALID_JSON, "invalid_json", 400, 0, "the body or message is not valid JSON")               \
    X(INVALID_PARAMETER, "invalid_parameter", 400, 0, "a parameter has a value it cannot have")    \
    X(INVALID_CURSOR, "invalid_cursor", 400, 0, "the cursor did not come from this server")        \
    X(NOT_FOUND, "not_found", 404, 0, "there is nothing at this path")                             \
    X(UNKNOWN_USER, "unknown_user", 404, 0, "this user was never seen")                            \
    X(METHOD_NOT_ALLOWED, "method_not_allowed", 405, 0, "this path does not take this method")     \
    X(REQUEST_TIMEOUT, "request_timeout", 408, 0, "the request did not arrive in time")            \
    X(LENGTH_REQUIRED, "length_required", 411, 0,                                                  \
      "HTTP/1.0 knows no chunks: send the body with a Content-Length")                             \
    X(BODY_TOO_LARGE, "body_too_large", 413, 0, "the body is larger than --max-body")              \
    X(EXPECTATION_FAILED, "expectation_failed", 417, 0, "only Expect: 100-continue is known")      \
    X(TOKEN_MISSING, "token_missing", 401, CLOSE_TOKEN, "a token is needed here")                  \
    X(TOKEN_INVALID, "token_invalid", 401, CLOSE_TOKEN, "the token is not accepted")               \
    X(TOKEN_EXPIRED, "token_expired", 401, CLOSE_TOKEN, "the token has run out: get a new one")    \
    X(FORBIDDEN, "forbidden", 403, CLOSE_KICKED, "the token does not allow this")                  \
    X(FORBIDDEN_ORIGIN, "forbidden_origin", 403, 0,                                                \
      "pages of this origin may not do this; see --allow-origin")                                  \
    X(MISDIRECTED_HOST, "misdirected_host", 421, 0,                                                \
      "without keys for tokens this server answers to localhost and addresses only")               \
    X(WRONG_PASSWORD, "wrong_password", 401, 0, "this is not the password")                        \
    X(TOO_MANY_FAILURES, "too_many_failures", 429, 0,                                              \
      "too many wrong passwords, or other logins are under way: try again after Retry-After")      \
    X(TLS_REQUIRED, "tls_required", 400, 0, "this port speaks TLS: use https:// or wss://")        \
    X(UPGRADE_REQUIRED, "upgrade_required", 426, 0,                                                \
      "this path speaks WebSocket version 13 (RFC 6455)")                                          \
    X(TOO_MANY_CONNECTIONS, "too_many_connections", 429, CLOSE_TOO_FAST,                           \
      "this user has --max-connections-per-user connections already")                              \
    X(TOO_MANY_FROM_ADDRESS, "too_many_from_address", 429, CLOSE_TOO_FAST,                         \
      "this address has --max-connections-per-address connections already")                        \
    X(TOO_MANY_UPGRADES, "too_many_upgrades", 429, CLOSE_TOO_FAST,                                 \
      "this address opens more than --max-upgrades-per-second connections")                        \
    X(HEAD_TOO_LARGE, "head_too_large", 431, 0,                                                    \
      "the request head is larger than --max-head, or has more than 64 header lines")              \
    X(INTERNAL, "internal", 500, CLOSE_FAILED, "the server failed; its log says why")              \
    X(OVERLOADED, "overloaded", 503, CLOSE_OVERLOADED,                                             \
      "the server holds --max-connections connections")                                            \
    X(STOPPING, "stopping", 503, CLOSE_RESTART, "the server is stopping")                          \
    X(NOT_IMPLEMENTED, "not_implemented", 501, 0,                                                  \
      "this method, or this transfer coding, is not known here")                                   \
    X(REQUEST_MEMORY, "request_memory", 503, 0,                                                    \
      "requests under way hold --max-request-memory, or those of one address a quarter of it")     \
    X(VERSION_NOT_SUPPORTED, "version_not_supported", 505, 0, "speak HTTP/1.0 or HTTP/1.1")        \
    X(INVALID_MESSAGE, "invalid_message", 400, 0, "a message is a JSON object with a type")        \
    X(UNKNOWN_TYPE, "unknown_type", 400, 0, "this message type is not known")                      \
    X(INVALID_STATUS, "invalid_status", 400, 0,                                                    \
      "a status is online, away or busy; a manual one also invisible or null")                     \
    X(TOO_MANY_WATCHED, "too_many_watched", 429, 0,                                                \
      "a connection follows at most --max-watch users")                                            \
    X(IDENTITY_MISMATCH, "identity_mismatch", 403, 0, "a connection speaks for its own user only") \
    X(PROTOCOL_MISUSE, "protocol_misuse", 400, CLOSE_MISUSE, "only text messages are understood")  \
    X(KICKED, "kicked", 403, CLOSE_KICKED, "an admin closed this connection; stay away")           \
    X(HEARTBEAT_TIMEOUT, "heartbeat_timeout", 408, CLOSE_TIMEOUT, "nothing was heard in time")     \
    X(TOO_FAST, "too_fast", 429, CLOSE_TOO_FAST, "more than --max-messages-per-second")
#define X(name, code, status, close_code, text) ERROR_##name,
enum error { ERROR_TABLE(X) ERROR_COUNT };
#undef X
/* A row as code reads it; the index is enum error. */
static const struct error_row {
    const char *code;
    int status;
    int close_code;
    const char *text;
} ERRORS[] = {
#define X(name, code, status, close_code, text) {code, status, close_code, text},
    ERROR_TABLE(X)
#undef X
};

/* ==== 2. Counters =============================================================================
 * What the server counts since its start. Any thread adds, without a lock; /metrics and
 * /admin/stats read. The table makes the struct, both answers and the check of the manual page. A
 * counter only grows: a rate is for whoever reads it to work out. */

#define COUNTER_TABLE(X)                                                                           \
    X(accepted, "accepted_total", "TCP connections accepted")                                      \
    X(accept_errors, "accept_errors_total", "accepts that failed, for want of descriptors mostly") \
    X(requests, "http_requests_total", "HTTP requests answered, upgrades included")                \
    X(request_errors, "http_errors_total", "HTTP requests answered with 4xx or 5xx")               \
    X(request_timeouts, "http_timeouts_total", "connections closed at --request-timeout")          \
    X(tls_handshakes, "tls_handshakes_total", "TLS handshakes done")                               \
    X(tls_resumed, "tls_resumed_total", "of them those that resumed a session")                    \
    X(tls_failures, "tls_failures_total", "TLS handshakes that failed or were cut")                \
    X(tls_reloads, "tls_reloads_total", "times certificates were read again")                      \
    X(tokens_refused, "tokens_refused_total", "requests with no token, a bad one, or a wrong one") \
    X(origins_refused, "origins_refused_total", "requests of pages of an origin not allowed")      \
    X(admin_logins, "admin_logins_total", "logins of the admin")                                   \
    X(admin_login_failures, "admin_login_failures_total", "wrong passwords of the admin")          \
    X(pending_displaced, "pending_displaced_total",                                                \
      "HTTP connections closed at --max-pending-per-address")                                      \
    X(memory_refused, "memory_refused_total",                                                      \
      "requests answered with 503, or cut, at --max-request-memory")                               \
    X(upgrades, "upgrades_total", "WebSocket connections opened")                                  \
    X(upgrades_refused, "upgrades_refused_total", "upgrades refused for a limit")                  \
    X(address_refused, "address_refused_total", "of them those refused for a limit by address")    \
    X(closes, "closes_total", "opened WebSocket connections ended")                                \
    X(heartbeat_timeouts, "heartbeat_timeouts_total", "WebSocket connections silent too long")     \
    X(protocol_errors, "protocol_errors_total", "WebSocket connections closed for bad frames")     \
    X(too_fast, "too_fast_total", "WebSocket connections closed for too many messages")            \
    X(messages, "messages_total", "WebSocket messages received")                                   \
    X(pings_sent, "pings_sent_total", "pings sent to silent connections")                          \
    X(streams_opened, "streams_total", "streams of events opened")                                 \
    X(streams_dropped, "streams_dropped_total", "streams dropped for --max-stream-buffer")         \
    X(joins, "joins_total", "users who came online")                                               \
    X(leaves, "leaves_total", "users who went offline")                                            \
    X(status_changes, "status_changes_total", "users whose status changed")                        \
    X(snapshots, "snapshots_total", "snapshots sent to connections that follow users")             \
    X(updates, "updates_total", "messages of changes sent to connections that follow users")       \
    X(kicks, "kicks_total", "connections closed by an admin")                                      \
    X(store_commits, "store_commits_total", "transactions committed")                              \
    X(store_records, "store_records_total", "records written")                                     \
    X(store_failures, "store_failures_total", "transactions that failed and are tried again")      \
    X(sessions_dropped, "sessions_dropped_total", "session records given up, as the disk failed")  \
    X(users_scanned, "users_scanned_total", "stored users looked at for pages of /admin/users")    \
    X(webhook_deliveries, "webhook_deliveries_total", "changes delivered to --webhook-url")        \
    X(webhook_failures, "webhook_failures_total", "requests to --webhook-url that failed")         \
    X(webhook_dead, "webhook_dead_total", "changes given up, never delivered to --webhook-url")    \
    X(log_dropped, "log_dropped_total", "log lines dropped because stderr did not take them")
/* [any] The counters themselves, one atomic each: field names are those of /admin/stats, metric
 * names begin with presence_ in /metrics. */
struct counters {
#define X(field, metric, help) _Atomic uint64_t field;
    COUNTER_TABLE(X)
#undef X
};

/* [any] Relaxed: a counter orders nothing, and nothing is decided by one. A reader may see a later
 * event counted before an earlier one. */
static inline void count_one(_Atomic uint64_t *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}

static inline void count_many(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ==== 3. Util =================================================================================
 * What every section may use: failing, memory, growing buffers, clocks, random numbers, text of
 * times, UTF-8, base64url, hashing. No state, and nothing here logs, for the log stands on it.
 *
 * Out of memory ends the process with one line on stderr. What was committed is in the store, a
 * supervisor starts the server again, and clients come back: that is tested, while a path for every
 * failing malloc would not be. So mem_new and mem_resize never return NULL, and a caller checks
 * nothing. Only malloc's own NULL may lead to mem_die. */

/* [any, signal handlers] Writes the last line of a process on stderr, with calls that are allowed
 * in a signal handler only. If stderr would block, the line is left out: a reader of the log that
 * hangs must not hold up the end. */
static void last_words(const char *line)
{
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&ready, 1, 0) != 1 || !(ready.revents & POLLOUT)) return;
    ssize_t ignored = write(STDERR_FILENO, line, strlen(line));
    (void)ignored;
}

/* [any] Ends the process: there is no memory left. _exit, because exit would flush stdio and run
 * handlers, which may need memory. Only what malloc and the like say may lead here, nothing that a
 * client or another process can send. */
static void mem_die(void)
{
    last_words("presence: out of memory; give the machine more or lower --max-connections\n");
    _exit(1);
}

/* [any] Ends the process, with file and line, where something is so that cannot be: a fault of this
 * program, or a promise of the kernel that it broke. abort leaves a core where the system keeps
 * cores. Nothing that a client sends may lead here. See fatal. */
__attribute__((noreturn)) static void fatal_at(const char *file, int line, const char *what)
{
    char text[256];
    snprintf(text, sizeof text, "presence: internal error at %s:%d: %s\n", file, line, what);
    last_words(text);
    abort();
}
#define fatal(what) fatal_at(__FILE__, __LINE__, what)

/* Where a function that fails writes the reason: one line without a newline, that names the option
 * or file, says what is wrong with it and what to do. The caller owns the bytes and gives the place
 * by value; they are written only on failure, so a caller may pass the same place to one function
 * after another and stop at the first that fails. */
struct why {
    char *text;
    size_t size; /* of text; a longer reason is cut */
};
enum { WHY_MAX = 512 }; /* bytes that suit every reason of options, certificates and the start */

/* An array as a place for a reason. */
#define WHY(array) ((struct why){(array), sizeof(array)})

/* Writes a reason as printf does, cut to the room there is. Returns false, so that a function fails
 * in one statement: return fail(why, ...). */
__attribute__((format(printf, 2, 3))) static bool fail(struct why why, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(why.text, why.size, format, args);
    va_end(args);
    return false;
}

/* A NUL-terminated text as a span. */
static inline struct span span_of(const char *text)
{
    return (struct span){text, strlen(text)};
}

/* The id of anything that holds one as `id` and `id_len`: a user, a request, a cursor. The span
 * ends with its holder. */
#define id_of(holder) ((struct span){(holder)->id, (holder)->id_len})

/* n zero bytes, owned by the caller; never NULL. n may be 0: then the pointer is one that can be
 * freed. */
static void *mem_new(size_t n)
{
    void *p = calloc(1, n ? n : 1);
    if (!p) mem_die();
    return p;
}

/* p moved to n bytes, owned by the caller; never NULL. What is new is not zeroed. */
static void *mem_resize(void *p, size_t n)
{
    p = realloc(p, n ? n : 1);
    if (!p) mem_die();
    return p;
}

/* A NUL-terminated copy of n bytes, owned by the caller. */
static char *mem_copy_text(const char *at, size_t n)
{
    char *p = mem_new(n + 1);
    memcpy(p, at, n);
    return p;
}

/* Bytes that grow. Zeroed it is empty and needs no other init; the owner calls buffer_free. A
 * pointer into it is good until the next call that may grow it. */
struct buffer {
    char *at;
    size_t len, size;
};

/* Gives the memory back; the buffer is empty and may be used again. */
static void buffer_free(struct buffer *b)
{
    free(b->at);
    *b = (struct buffer){0};
}

/* Room for n more bytes behind the content; returns where they go, and the caller adds to len what
 * it wrote. The size doubles, so that a buffer filled in small steps is copied a few times only. */
static char *buffer_room(struct buffer *b, size_t n)
{
    if (b->size - b->len < n) {
        size_t size = b->size ? b->size : 256;
        while (size - b->len < n) size *= 2;
        b->at = mem_resize(b->at, size);
        b->size = size;
    }
    return b->at + b->len;
}

static void buffer_add(struct buffer *b, const void *at, size_t n)
{
    if (!n) return;
    memcpy(buffer_room(b, n), at, n);
    b->len += n;
}

static void buffer_text(struct buffer *b, const char *text)
{
    buffer_add(b, text, strlen(text));
}

/* Appends as printf does. A first try goes into GUESS bytes or what is free, whichever is more; a
 * longer text is formatted once more. No NUL is counted in len. */
__attribute__((format(printf, 2, 3))) static void buffer_print(struct buffer *b, const char *format,
                                                               ...)
{
    enum { GUESS = 128 };
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    size_t room = b->size - b->len > GUESS ? b->size - b->len : GUESS;
    int n = vsnprintf(buffer_room(b, room), room, format, args);
    /* A va_list is used up by one call: the second goes over a copy. */
    if (n >= (int)room) vsnprintf(buffer_room(b, (size_t)n + 1), (size_t)n + 1, format, again);
    if (n > 0) b->len += (size_t)n;
    va_end(again);
    va_end(args);
}

/* Removes n bytes at the front and moves the others down. That costs their length each time: a
 * reader that takes small pieces of a large buffer keeps an offset and drops once. */
static void buffer_drop(struct buffer *b, size_t n)
{
    b->len -= n;
    if (b->len) memmove(b->at, b->at + n, b->len);
}

/* Milliseconds of a clock that only goes forward. CLOCK_BOOTTIME and not MONOTONIC, so that the
 * time in which the machine slept counts: after a night no user's connection is alive, and each
 * deadline has passed. */
static int64_t clock_mono_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Microseconds of a clock for short times: how long a piece of work took, without the machine's
 * sleep. */
static int64_t clock_work_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Milliseconds since 1970, UTC. The operator or NTP may step this clock at any moment, so no age
 * and no deadline is computed from it; server_now gives it together with the other one. */
static int64_t clock_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

enum { THREAD_STACK = 128 * 1024 }; /* musl's default is small; all our own threads get this much */

/* A moment: ms of clock_mono_ms, and what to add to have UTC. Sections that are pure take it as
 * `now` and ask no clock; tests pass what they like. */
struct instant {
    int64_t mono, offset;
};

/* UTC of a moment, ms since 1970. */
static inline int64_t wall_of(struct instant now)
{
    return now.mono + now.offset;
}

/* The earlier of a stored time and now, both wall ms: the clock may have been put back since it was
 * stored, and nobody is to be shown a time to come. */
static int64_t wall_not_later(struct instant now, int64_t stored)
{
    return stored < wall_of(now) ? stored : wall_of(now);
}

enum { TIME_TEXT = 32 };

/* Writes n as so many decimal digits, and a mark behind them; returns where the text goes on. */
static char *time_digits(char *out, int n, int digits, char mark)
{
    for (int i = digits - 1; i >= 0; i--, n /= 10) out[i] = (char)('0' + n % 10);
    out[digits] = mark;
    return out + digits + 1;
}

/* 2026-11-25T09:04:31.120Z for a wall time in ms (RFC 3339); returns out. By hand, as every event
 * and every user in a list has one or two. A time before 1970, which only a clock that is wrong
 * gives, is shown as 1970. */
static const char *time_text(int64_t wall_ms, char out[TIME_TEXT])
{
    if (wall_ms < 0) wall_ms = 0;
    time_t seconds = (time_t)(wall_ms / 1000);
    struct tm t;
    char *at = out;
    gmtime_r(&seconds, &t);
    at = time_digits(at, t.tm_year + 1900, 4, '-');
    at = time_digits(at, t.tm_mon + 1, 2, '-');
    at = time_digits(at, t.tm_mday, 2, 'T');
    at = time_digits(at, t.tm_hour, 2, ':');
    at = time_digits(at, t.tm_min, 2, ':');
    at = time_digits(at, t.tm_sec, 2, '.');
    at = time_digits(at, (int)(wall_ms % 1000), 3, 'Z');
    *at = 0;
    return out;
}

/* [any] Fills n bytes from the kernel's generator, for keys, salts and ids. Blocks only while the
 * machine boots and has no entropy yet. The process ends if there is no generator: a session key
 * that can be guessed is worse than no server. */
static void random_bytes(void *out, size_t n)
{
    for (size_t done = 0; done < n;) {
        ssize_t got = getrandom((char *)out + done, n - done, 0);
        /* More than 256 bytes may come in parts, and a signal may interrupt. */
        if (got < 0 && errno != EINTR) { /* a kernel before 3.17, or a filter of system calls */
            last_words("presence: the kernel gives no random numbers: getrandom(2) fails\n");
            _exit(1);
        }
        if (got > 0) done += (size_t)got;
    }
}

/* Reads the code point at the front of `left` bytes: its length in bytes, or 0 if there is no valid
 * UTF-8 (RFC 3629 section 3). Refused are an overlong form, which would give one id two spellings,
 * half of a surrogate pair, and what is above U+10FFFF. */
static size_t utf8_step(const char *text, size_t left, uint32_t *point)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    const uint8_t *at = (const uint8_t *)text;
    if (!left) return 0;
    *point = at[0];
    if (at[0] < 0x80) return 1;
    size_t n = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    /* 0xc0 and 0xc1 begin overlong forms only; 0x80 to 0xbf begin nothing; from 0xf5 on it is too
     * large. */
    if (at[0] < 0xc2 || at[0] > 0xf4 || left < n) return 0;
    uint32_t c = at[0] & (0x7fU >> n);
    for (size_t i = 1; i < n; i++) {
        if ((at[i] & 0xc0) != 0x80) return 0;
        c = c << 6 | (at[i] & 0x3f);
    }
    *point = c;
    bool bad = c < least[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff);
    return bad ? 0 : n;
}

/* Big-endian, as keys of the store: LMDB compares keys byte by byte, so those of numbers are then
 * in the order of the numbers. */
static void put_be64(uint8_t out[8], uint64_t n)
{
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)(n >> (56 - 8 * i));
}

static uint64_t get_be64(const uint8_t in[8])
{
    uint64_t n = 0;
    for (int i = 0; i < 8; i++) n = n << 8 | in[i];
    return n;
}

/* The struct that this member is part of. */
#define container_of(pointer, type, member)                                                        \
    ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* Lists after BSD's <sys/queue.h>, which musl does not have: names and meaning are those of
 * queue(3), so is what each costs. An element holds the links, nothing is allocated.
 *   LIST    doubly linked, a head of one pointer: whatever is taken out from the middle
 *   STAILQ  singly linked, first in first out, one pointer an element
 *   TAILQ   doubly linked with a tail: first in first out, and taken out from the middle
 * One thing is more than BSD has: LIST_REMOVE and TAILQ_REMOVE clear the links, so a zeroed element
 * is in no list and LIST_LINKED and TAILQ_LINKED tell. A zeroed LIST_HEAD is empty; the other heads
 * point into themselves: they need their INIT, and must not be copied. */
#define LIST_HEAD(name, type)                                                                      \
    struct name {                                                                                  \
        struct type *lh_first;                                                                     \
    }
#define LIST_ENTRY(type)                                                                           \
    struct {                                                                                       \
        struct type *le_next, **le_prev; /* le_prev: the pointer that leads here */                \
    }
#define LIST_FIRST(head) ((head)->lh_first)
#define LIST_NEXT(item, field) ((item)->field.le_next)
#define LIST_LINKED(item, field) ((item)->field.le_prev != NULL)
#define LIST_FOREACH(item, head, field)                                                            \
    for ((item) = LIST_FIRST(head); (item); (item) = LIST_NEXT(item, field))
#define LIST_INSERT_HEAD(head, item, field)                                                        \
    do {                                                                                           \
        if (((item)->field.le_next = (head)->lh_first))                                            \
            (head)->lh_first->field.le_prev = &(item)->field.le_next;                              \
        (head)->lh_first = (item);                                                                 \
        (item)->field.le_prev = &(head)->lh_first;                                                 \
    } while (0)
#define LIST_REMOVE(item, field)                                                                   \
    do {                                                                                           \
        if ((item)->field.le_next) (item)->field.le_next->field.le_prev = (item)->field.le_prev;   \
        *(item)->field.le_prev = (item)->field.le_next;                                            \
        (item)->field.le_next = NULL;                                                              \
        (item)->field.le_prev = NULL;                                                              \
    } while (0)
#define LIST_SWAP(a, b, type, field) /* the elements of two lists change places */                 \
    do {                                                                                           \
        struct type *swapped = (a)->lh_first;                                                      \
        if (((a)->lh_first = (b)->lh_first)) (a)->lh_first->field.le_prev = &(a)->lh_first;        \
        if (((b)->lh_first = swapped)) (b)->lh_first->field.le_prev = &(b)->lh_first;              \
    } while (0)

#define STAILQ_HEAD(name, type)                                                                    \
    struct name {                                                                                  \
        struct type *stqh_first, **stqh_last;                                                      \
    }
#define STAILQ_ENTRY(type)                                                                         \
    struct {                                                                                       \
        struct type *stqe_next;                                                                    \
    }
#define STAILQ_INIT(head) ((head)->stqh_first = NULL, (head)->stqh_last = &(head)->stqh_first)
#define STAILQ_FIRST(head) ((head)->stqh_first)
#define STAILQ_EMPTY(head) (!(head)->stqh_first)
#define STAILQ_NEXT(item, field) ((item)->field.stqe_next)
#define STAILQ_INSERT_TAIL(head, item, field)                                                      \
    do {                                                                                           \
        (item)->field.stqe_next = NULL;                                                            \
        *(head)->stqh_last = (item);                                                               \
        (head)->stqh_last = &(item)->field.stqe_next;                                              \
    } while (0)
#define STAILQ_REMOVE_HEAD(head, field)                                                            \
    do {                                                                                           \
        (head)->stqh_first = (head)->stqh_first->field.stqe_next;                                  \
        if (!(head)->stqh_first) (head)->stqh_last = &(head)->stqh_first;                          \
    } while (0)
#define STAILQ_CONCAT(to, from) /* all of `from` behind `to`; `from` is empty after it */          \
    do {                                                                                           \
        if (!(from)->stqh_first) break;                                                            \
        *(to)->stqh_last = (from)->stqh_first;                                                     \
        (to)->stqh_last = (from)->stqh_last;                                                       \
        STAILQ_INIT(from);                                                                         \
    } while (0)

#define TAILQ_HEAD(name, type)                                                                     \
    struct name {                                                                                  \
        struct type *tqh_first, **tqh_last;                                                        \
    }
#define TAILQ_ENTRY(type)                                                                          \
    struct {                                                                                       \
        struct type *tqe_next, **tqe_prev;                                                         \
    }
#define TAILQ_INIT(head) ((head)->tqh_first = NULL, (head)->tqh_last = &(head)->tqh_first)
#define TAILQ_FIRST(head) ((head)->tqh_first)
#define TAILQ_EMPTY(head) (!(head)->tqh_first)
#define TAILQ_NEXT(item, field) ((item)->field.tqe_next)
#define TAILQ_LINKED(item, field) ((item)->field.tqe_prev != NULL)
#define TAILQ_FOREACH(item, head, field)                                                           \
    for ((item) = TAILQ_FIRST(head); (item); (item) = TAILQ_NEXT(item, field))
#define TAILQ_INSERT_TAIL(head, item, field)                                                       \
    do {                                                                                           \
        (item)->field.tqe_next = NULL;                                                             \
        (item)->field.tqe_prev = (head)->tqh_last;                                                 \
        *(head)->tqh_last = (item);                                                                \
        (head)->tqh_last = &(item)->field.tqe_next;                                                \
    } while (0)
#define TAILQ_REMOVE(head, item, field)                                                            \
    do {                                                                                           \
        if ((item)->field.tqe_next)                                                                \
            (item)->field.tqe_next->field.tqe_prev = (item)->field.tqe_prev;                       \
        else (head)->tqh_last = (item)->field.tqe_prev;                                            \
        *(item)->field.tqe_prev = (item)->field.tqe_next;                                          \
        (item)->field.tqe_next = NULL;                                                             \
        (item)->field.tqe_prev = NULL;                                                             \
    } while (0)
#define TAILQ_CONCAT(to, from, field) /* all of `from` behind `to`; `from` is empty after it */    \
    do {                                                                                           \
        if (TAILQ_EMPTY(from)) break;                                                              \
        (from)->tqh_first->field.tqe_prev = (to)->tqh_last;                                        \
        *(to)->tqh_last = (from)->tqh_first;                                                       \
        (to)->tqh_last = (from)->tqh_last;                                                         \
        TAILQ_INIT(from);                                                                          \
    } while (0)

/* Orders two byte strings by their bytes, a prefix first: the order of users in lists, in the store
 * and in every cursor of a page. For UTF-8 that is the order of code points. */
static int bytes_compare(const void *a, size_t a_len, const void *b, size_t b_len)
{
    size_t len = a_len < b_len ? a_len : b_len;
    int order = len ? memcmp(a, b, len) : 0; /* an empty span may be NULL */
    return order ? order : (a_len > b_len) - (a_len < b_len);
}

/* The value of a base64url digit (RFC 4648 section 5), or -1. */
static int base64url_value(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '-' ? 62 : c == '_' ? 63 : -1;
}

/* Decodes base64url without padding (RFC 4648 section 5); returns how many bytes went to out. -1
 * for any other character, for a length that nothing has, for spare bits that are not zero, or when
 * it does not fit. The spare bits matter: a token or session must have one spelling only, or one
 * that was revoked would come back in another. */
static int base64url_decode(struct span in, void *out, size_t size)
{
    uint8_t *to = out;
    uint32_t bits = 0;
    size_t n = 0, rest = in.len % 4;
    if (rest == 1) return -1;
    for (size_t i = 0; i < in.len; i++) {
        int digit = base64url_value(in.at[i]);
        if (digit < 0) return -1;
        bits = bits << 6 | (uint32_t)digit;
        if (i % 4 == 0) continue;
        if (n == size) return -1;
        to[n++] = (uint8_t)(bits >> (6 - i % 4 * 2));
    }
    if (rest && (bits & (rest == 2 ? 15 : 3))) return -1;
    return (int)n;
}

/* Appends bytes as base64url without padding, as JWS wants it (RFC 7515 section 2). The last group
 * of one or two bytes gives two or three digits; buffer_add takes n + 1 of the four. */
static void base64url_encode(struct buffer *b, const void *bytes, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    const uint8_t *in = bytes;
    for (size_t i = 0; i < len; i += 3) {
        size_t n = len - i < 3 ? len - i : 3;
        uint32_t bits = (uint32_t)in[i] << 16;
        if (n > 1) bits |= (uint32_t)in[i + 1] << 8;
        if (n > 2) bits |= in[i + 2];
        char four[4];
        for (int k = 0; k < 4; k++) four[k] = digits[bits >> (18 - 6 * k) & 63];
        buffer_add(b, four, n + 1);
    }
}

/* True if two runs of bytes are equal, in a time that depends on their length only. With memcmp,
 * which stops at the first difference, a client could find a right HMAC byte by byte. volatile
 * keeps the compiler from stopping early, too; a unit test measures it. */
static bool bytes_equal_constant(const void *a, const void *b, size_t len)
{
    const volatile uint8_t *left = a, *right = b;
    volatile uint8_t difference = 0;
    for (size_t i = 0; i < len; i++) difference |= left[i] ^ right[i];
    return !difference;
}

/* One SipRound, as the paper has it (figure 2.1). */
static void sip_round(uint64_t v[4])
{
    v[0] += v[1];
    v[2] += v[3];
    v[1] = (v[1] << 13 | v[1] >> 51) ^ v[0];
    v[3] = (v[3] << 16 | v[3] >> 48) ^ v[2];
    v[0] = v[0] << 32 | v[0] >> 32;
    v[2] += v[1];
    v[0] += v[3];
    v[1] = (v[1] << 17 | v[1] >> 47) ^ v[2];
    v[3] = (v[3] << 21 | v[3] >> 43) ^ v[0];
    v[2] = v[2] << 32 | v[2] >> 32;
}

/* SipHash-2-4 (Aumasson, Bernstein 2012) of len bytes, for tables whose keys clients choose.
 * Whoever does not know the key cannot find ids or addresses that collide, which would make a
 * lookup as slow as a list. */
static uint64_t hash_keyed(const uint64_t key[2], const void *at, size_t len)
{
    const uint8_t *in = at;
    uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
                     key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
    for (size_t done = 0; done <= len; done += 8) {
        uint64_t word = 0;
        size_t n = len - done < 8 ? len - done : 8;
        if (n) memcpy(&word, in + done, n); /* an empty text may be NULL */
        word = le64toh(word);
        /* The last word has the length in its top byte, so that texts of zeros differ. */
        if (n < 8) word |= (uint64_t)len << 56;
        v[3] ^= word;
        sip_round(v);
        sip_round(v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for (int i = 0; i < 4; i++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* A hash map whose elements are embedded, by linear hashing (Litwin, 1980): chains in slots that
 * come and go one at a time, so no call has to move all elements, however many there are. A table
 * that doubles would stand still for 100 ms with a million watched users, under the hub. The array
 * of slots does double, but that is one realloc, which moves pages and not elements. Keys come from
 * strangers, hence SipHash with a key that nobody knows.
 *
 * It costs 16 bytes in an element and 8 to 16 beside it. Not so the watches of a watcher, see
 * watcher_seek: those tables are many and small, and 16 bytes more a watch is what they cost in
 * all. */
enum { MAP_SLOTS_MIN = 16 }; /* a power of two */
struct map_node {
    struct map_node *next; /* in the same slot */
    uint64_t hash;
};
struct map {
    uint64_t key[2]; /* of hash_keyed */
    struct map_node **slots;
    size_t used, size; /* slots; size is a power of two, used above or at half of it */
    size_t count;      /* elements */
};

/* A map without elements, owned by the caller until map_free. */
static void map_init(struct map *map)
{
    *map = (struct map){.used = MAP_SLOTS_MIN, .size = MAP_SLOTS_MIN};
    map->slots = mem_new(map->size * sizeof *map->slots);
    random_bytes(map->key, sizeof map->key);
}

/* Hands every element over to be freed; the map can be used no more. */
static void map_free(struct map *map, void (*free_node)(struct map_node *))
{
    for (size_t i = 0; i < map->used; i++) {
        for (struct map_node *node = map->slots[i], *next; node; node = next) {
            next = node->next;
            free_node(node);
        }
    }
    free(map->slots);
    *map = (struct map){0};
}

/* The slot of a hash: its low bits, one bit less where that slot is not in use yet. The elements of
 * a key are among those behind it with the same hash. */
static struct map_node **map_slot(const struct map *map, uint64_t hash)
{
    size_t slot = (size_t)hash & (map->size - 1);
    return &map->slots[slot < map->used ? slot : slot - map->size / 2];
}

/* One more slot: the elements of the one it was part of are shared out between both. */
static void map_split(struct map *map)
{
    if (map->used == map->size) {
        map->size *= 2;
        map->slots = mem_resize(map->slots, map->size * sizeof *map->slots);
    }
    struct map_node **low = &map->slots[map->used - map->size / 2], *node = *low;
    *low = map->slots[map->used++] = NULL;
    while (node) {
        struct map_node *next = node->next, **slot = map_slot(map, node->hash);
        node->next = *slot;
        *slot = node;
        node = next;
    }
}

/* One slot less: its elements go back to the one it was split from. */
static void map_join(struct map *map)
{
    if (map->used == map->size / 2) {
        map->size /= 2;
        map->slots = mem_resize(map->slots, map->size * sizeof *map->slots);
    }
    struct map_node *high = map->slots[--map->used];
    struct map_node **tail = &map->slots[map->used - map->size / 2];
    while (*tail) tail = &(*tail)->next;
    *tail = high;
}

/* Adds an element whose key is not there. */
static void map_add(struct map *map, struct map_node *node, uint64_t hash)
{
    if (++map->count > map->used) map_split(map);
    struct map_node **slot = map_slot(map, hash);
    *node = (struct map_node){*slot, hash};
    *slot = node;
}

/* Removes an element, which the caller still owns. Slots go at half as many elements, and not
 * one by one with them, so that one who comes and goes moves nothing. */
static void map_remove(struct map *map, struct map_node *node)
{
    struct map_node **place = map_slot(map, node->hash);
    while (*place != node) place = &(*place)->next;
    *place = node->next;
    map->count--;
    while (map->used > MAP_SLOTS_MIN && map->used > map->count * 2) map_join(map);
}

/* The kinds of threads that code here can ask for. ANY is main, before the others are started and
 * after they have ended, and whoever has no name here. */
enum thread { THREAD_ANY, THREAD_LISTENER, THREAD_WORKER, THREAD_HUB, THREAD_JOB, THREAD_WRITER };

/* The locks in the order in which they may be taken: while a thread holds one it may take those
 * that stand below it. In fact nearly all are held alone, and log.lock is the one that is taken
 * under others. What each guards stands where it is declared. */
enum lock_rank {
    RANK_TABLE,
    RANK_LOOP,
    RANK_STORE_TURN,
    RANK_STORE,
    RANK_TLS,
    RANK_SECRETS,
    RANK_SESSION,
    RANK_REFUSAL,
    RANK_WEBHOOK,
    RANK_JOBS,
    RANK_LOGIN,
    RANK_ADDRESS,
    RANK_LOG,
};

/* Owners and order are asserted in the builds with a sanitizer, where tests run; in others these
 * are nothing. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static _Thread_local struct {
    enum thread thread;
    uint32_t held; /* a bit for each rank */
} this_thread;

static void thread_is(enum thread thread)
{
    this_thread.thread = thread;
}

/* Notes that this thread takes a lock; before it does, so that a deadlock ends here, too. */
static void rank_take(enum lock_rank rank)
{
    if (this_thread.held >> rank) fatal("a lock is taken out of order");
    this_thread.held |= 1u << rank;
}

static void rank_give(enum lock_rank rank)
{
    if (!(this_thread.held >> rank & 1)) fatal("a lock is given back that was not taken");
    this_thread.held &= ~(1u << rank);
}

#define ASSERT_THREAD(which)                                                                       \
    do {                                                                                           \
        if (this_thread.thread != THREAD_ANY && this_thread.thread != THREAD_##which)              \
            fatal("this is for the thread " #which " only");                                       \
    } while (0)
#define ASSERT_HELD(which)                                                                         \
    do {                                                                                           \
        if (!(this_thread.held >> RANK_##which & 1)) fatal("the lock " #which " is not held");     \
    } while (0)
#else
#define thread_is(thread) ((void)0)
#define rank_take(rank) ((void)(rank))
#define rank_give(rank) ((void)(rank))
#define ASSERT_THREAD(which) ((void)0)
#define ASSERT_HELD(which) ((void)0)
#endif

static inline void lock_take(pthread_mutex_t *lock, enum lock_rank rank)
{
    rank_take(rank);
    pthread_mutex_lock(lock);
}

static inline void lock_give(pthread_mutex_t *lock, enum lock_rank rank)
{
    rank_give(rank);
    pthread_mutex_unlock(lock);
}

/* ==== 4. Log ==================================================================================
 * One line a record on stderr, as logfmt or JSON; any thread writes. A line is written whole or,
 * where stderr would block, dropped and counted: a log that nobody reads must not stop the server.
 * Whatever a client sent is escaped, so that no line can be forged and no terminal driven. Nothing
 * written here holds a token, a password or a cookie. */

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
static const char *const LOG_LEVELS[] = {"error", "warn", "info", "debug"};

enum { LOG_LINE_MAX = 1024 };

/* The log of a server or a command. Level and form are set once, before threads start. The lock
 * makes poll and write one step: of two threads that see room for one line, the second would block.
 * It is the last in the order of locks, so a line may be logged while any other is held. */
struct log {
    enum log_level level; /* records above it are not written */
    bool json;            /* JSON lines, not logfmt */
    pthread_mutex_t lock; /* one line at a time */
    struct counters *counters;
};

/* True if a terminal or a viewer of logs would not show the character, but act on it: control
 * characters, separators of lines, invisible ones, and those that turn the direction of text
 * around, by which one line can be made to look like another. */
static bool log_hides(uint32_t point)
{
    static const uint32_t ranges[][2] = {
        {0x00, 0x1f},     {0x7f, 0x9f},     {0x061c, 0x061c}, {0x200b, 0x200f},
        {0x2028, 0x202e}, {0x2060, 0x2069}, {0xfeff, 0xfeff}, {0xfff9, 0xfffb},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (point >= ranges[i][0] && point <= ranges[i][1]) return true;
    return false;
}

/* Escapes text for a quoted string of logfmt or JSON. What comes out is valid UTF-8 without a quote
 * and without anything of log_hides; a byte that is no UTF-8 becomes \ufffd. Stops before a
 * character that would not fit; returns how many bytes it wrote. */
static size_t log_escape(const char *text, char *out, size_t size)
{
    size_t n = 0, left = strlen(text);
    while (left && n + 8 < size) {
        uint32_t point;
        size_t len = utf8_step(text, left, &point);
        /* The replacement character: bytes that are no UTF-8 would make the line no JSON. */
        if (!len) point = 0xfffd;
        if (point == '"' || point == '\\') {
            out[n++] = '\\';
            out[n++] = (char)point;
        } else if (!len || log_hides(point)) {
            n += (size_t)snprintf(out + n, 8, "\\u%04x", (unsigned)point);
        } else {
            memcpy(out + n, text, len);
            n += len;
        }
        text += len ? len : 1;
        left -= len ? len : 1;
    }
    out[n] = 0;
    return n;
}

/* [any] Writes one record, as printf formats it, if its level is wanted. Never blocks, never fails
 * and allocates nothing: it is called where memory or descriptors have run out. All of the work but
 * the write is done before the lock is taken. */
__attribute__((format(printf, 3, 4))) static void log_line(struct log *log, enum log_level level,
                                                           const char *format, ...)
{
    if (level > log->level) return;
    char message[LOG_LINE_MAX / 2], safe[LOG_LINE_MAX - 128], line[LOG_LINE_MAX], when[TIME_TEXT];
    va_list args;
    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    /* One call for the whole text, with what a client sent in it: no caller can forget to escape.
     */
    log_escape(message, safe, sizeof safe);
    int n = snprintf(line, sizeof line,
                     log->json ? "{\"time\":\"%s\",\"level\":\"%s\",\"msg\":\"%s\"}\n"
                               : "%s level=%s msg=\"%s\"\n",
                     time_text(clock_wall_ms(), when), LOG_LEVELS[level], safe);
    lock_take(&log->lock, RANK_LOG);
    /* A pipe that polls writable takes PIPE_BUF bytes, more than a line, without blocking. */
    struct pollfd ready = {.fd = STDERR_FILENO, .events = POLLOUT};
    bool written = poll(&ready, 1, 0) == 1 && (ready.revents & POLLOUT) &&
                   write(STDERR_FILENO, line, (size_t)n) == n;
    lock_give(&log->lock, RANK_LOG);
    if (!written && log->counters) count_one(&log->counters->log_dropped);
}

/* ==== 5. Ids and text =========================================================================
 * What may be a user id, how it travels in a path or a query, UTF-8, hexadecimal and numbers.
 * Pure: no I/O, no memory, no state; every function works on bytes that are the caller's and says
 * false or a negative number for what it does not take.
 *
 * What comes in here was written by strangers. So lengths are checked before bytes are looked at,
 * and nothing is accepted in two spellings: what compares equal by bytes is the same. */

/* Writes a code point, one that is no surrogate and at most U+10FFFF: the reader of JSON escapes
 * has seen to that. Returns its length in bytes, 1 to 4. */
static size_t utf8_put(uint32_t c, char out[4])
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    size_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const uint8_t first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n - 1; i; i--, c >>= 6) out[i] = (char)(0x80 | (c & 0x3f));
    out[0] = (char)(first[n] | c);
    return n;
}

/* How many of the bytes at the front are surely ASCII: whole words of 8, tested at once. Most of
 * what clients send is, and 4 KB of it are 512 tests this way. */
static size_t utf8_skip_ascii(const char *at, size_t len)
{
    size_t n = 0;
    for (uint64_t word; len - n >= sizeof word; n += sizeof word) {
        memcpy(&word, at + n, sizeof word);
        if (word & UINT64_C(0x8080808080808080)) break;
    }
    return n;
}

/* True if the whole text is valid UTF-8 (RFC 3629); the empty text is. */
static bool utf8_valid(struct span text)
{
    size_t n = 0;
    while (n < text.len) {
        uint32_t point;
        n += utf8_skip_ascii(text.at + n, text.len - n);
        if (n == text.len) break;
        size_t step = utf8_step(text.at + n, text.len - n, &point);
        if (!step) return false;
        n += step;
    }
    return true;
}

/* True if the text can be the beginning of valid UTF-8: at its end a code point may lack bytes.
 * *whole is how many bytes are whole code points. By this a fragmented text message that is wrong
 * already is refused at once (RFC 6455 section 8.1), not when its sender chooses to end it. */
static bool utf8_begins(struct span text, size_t *whole)
{
    size_t n = 0, step = 1;
    uint32_t point;
    while (step) {
        n += utf8_skip_ascii(text.at + n, text.len - n);
        step = utf8_step(text.at + n, text.len - n, &point);
        n += step;
    }
    *whole = n;
    const uint8_t *at = (const uint8_t *)text.at + n;
    size_t left = text.len - n;
    if (!left) return true;
    if (at[0] < 0xc2 || at[0] > 0xf4) return false;
    if (left >= (at[0] >= 0xf0 ? 4U : at[0] >= 0xe0 ? 3U : 2U)) return false; /* no step: a fault */
    char guess[4]; /* if any bytes that could follow would do, the lowest or the highest ones do */
    for (int filler = 0x80; filler <= 0xbf; filler += 0x3f) {
        memset(guess, filler, sizeof guess);
        memcpy(guess, at, left);
        if (utf8_step(guess, sizeof guess, &point)) return true;
    }
    return false;
}

/* True if the bytes may be a user id: 1 to USER_ID_MAX bytes of UTF-8 without control characters
 * (C0, DEL, C1), which no application needs and which would go through logs and terminals. Nothing
 * is folded or normalised: ids are equal when their bytes are, as they are in the operator's
 * database. */
static bool user_id_valid(struct span id)
{
    if (id.len < 1 || id.len > USER_ID_MAX) return false;
    for (size_t n = 0, step; n < id.len; n += step) {
        uint32_t point;
        step = utf8_step(id.at + n, id.len - n, &point);
        if (!step || point < 0x20 || (point >= 0x7f && point < 0xa0)) return false;
    }
    return true;
}

/* True if the text may be the message beside a manual status: at most STATUS_TEXT_CHARACTERS of
 * valid UTF-8, none of them a control character. Characters are counted, not bytes: it is what a
 * person who types can count. The empty text is valid. */
static bool status_text_valid(struct span text)
{
    size_t n = 0, count = 0, step;
    for (uint32_t point; n < text.len; n += step, count++) {
        step = utf8_step(text.at + n, text.len - n, &point);
        if (!step || point < 0x20 || (point >= 0x7f && point < 0xa0)) return false;
    }
    return count <= STATUS_TEXT_CHARACTERS;
}

/* The value of a hexadecimal digit, or -1. */
static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Writes bytes as two hexadecimal digits each and a NUL, so out has 2 * bytes.len + 1. Returns
 * out. */
static const char *hex_text(struct span bytes, char *out)
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < bytes.len; i++) {
        out[2 * i] = digits[(unsigned char)bytes.at[i] >> 4];
        out[2 * i + 1] = digits[bytes.at[i] & 15];
    }
    out[2 * bytes.len] = 0;
    return out;
}

/* Reads what hex_text writes, in either case, into text.len / 2 bytes. False, with out of no
 * meaning, for an odd length or another character. */
static bool hex_parse(struct span text, char *out)
{
    if (text.len % 2) return false;
    for (size_t i = 0; i < text.len; i += 2) {
        int high = hex_value(text.at[i]), low = hex_value(text.at[i + 1]);
        if (high < 0 || low < 0) return false;
        out[i / 2] = (char)(high << 4 | low);
    }
    return true;
}

/* True for a decimal digit, whatever the locale. */
static bool digit_is(char c)
{
    return c >= '0' && c <= '9';
}

/* Decodes %XX once (RFC 3986 section 2.1), and '+' to a space where a form wrote it. Returns the
 * length; out then ends with a NUL that is not counted. -1 for an escape without its two digits,
 * or when text and NUL do not fit. Whatever bytes come out are not judged, a NUL among them
 * neither. */
static int percent_decode(struct span in, bool plus_is_space, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < in.len; i++) {
        char c = in.at[i];
        if (n + 1 >= size) return -1;
        if (c == '%') {
            int high = in.len - i > 2 ? hex_value(in.at[i + 1]) : -1;
            int low = in.len - i > 2 ? hex_value(in.at[i + 2]) : -1;
            if (high < 0 || low < 0) return -1;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        out[n++] = c;
    }
    if (n >= size) return -1;
    out[n] = 0;
    return (int)n;
}

/* Decodes a piece of a path exactly once: %2541 is `%41`, and '+' stays '+', which only forms
 * write for a space. Length and errors as percent_decode. */
static int uri_decode(struct span in, char *out, size_t size)
{
    return percent_decode(in, false, out, size);
}

/* The user id in one segment of a path: decoded once, NUL-terminated, its length in *len. False,
 * with out and *len of no meaning, for a bad escape, a raw '/', or what user_id_valid refuses. An
 * encoded slash is a part of the id: routes are found in the path as it was sent, before this. */
static bool uri_user_id(struct span segment, char out[USER_ID_MAX + 1], size_t *len)
{
    if (!segment.len || memchr(segment.at, '/', segment.len)) return false;
    int n = uri_decode(segment, out, USER_ID_MAX + 1);
    if (n < 0) return false;
    *len = (size_t)n;
    return user_id_valid((struct span){out, *len});
}

/* The value of the first `name=` in a query string (which may be NULL), decoded as forms encode
 * it. Returns its length, NUL-terminated in out; -1 when the name is not there; -2 when the value
 * has a bad escape, an encoded NUL, or does not fit. The first one counts: where a proxy looks at
 * a parameter, most look at that. */
static int query_get(const char *query, const char *name, char *out, size_t size)
{
    size_t name_len = strlen(name);
    for (const char *at = query; at && *at;) {
        size_t len = strcspn(at, "&");
        if (len > name_len && at[name_len] == '=' && !memcmp(at, name, name_len)) {
            struct span value = {at + name_len + 1, len - name_len - 1};
            int n = percent_decode(value, true, out, size);
            return n < 0 || memchr(out, 0, (size_t)n) ? -2 : n;
        }
        at += len + (at[len] == '&');
    }
    return -1;
}

/* Reads a number of 1 to 18 digits at *at, which 63 bits hold, and moves *at behind it. False if
 * none stands there or it is longer; *at is then somewhere within the digits. */
static bool digits_take(const char **at, int64_t *out)
{
    const char *start = *at;
    int64_t n = 0;
    for (; digit_is(**at) && *at - start < 18; ++*at) n = n * 10 + (**at - '0');
    *out = n;
    return *at > start && !digit_is(**at);
}

/* ==== 6. Hosts and addresses ==================================================================
 * Host names, origins, addresses, ranges, durations and sizes as options and headers write them.
 * Pure; no look-up of a name happens here.
 *
 * Two things are kept apart with care, since who may do what hangs on them: how a browser writes a
 * host or an origin (so that two are the same when their texts are), and what only looks like it.
 * For anything doubtful the answer is false. */

enum {
    ORIGIN_MAX = 301,   /* bytes of an origin as text, and its NUL */
    FORWARDED_MAX = 32, /* hops of X-Forwarded-For that are looked at */
};

/* Reads `1.2.3.4:PORT` or `[v6]:PORT`, numbers only: a name would need the resolver, which may
 * hang when the machine starts. False, with *out and *len of no meaning, for anything else; port 0
 * is allowed and means any. */
static bool address_parse(const char *text, struct sockaddr_storage *out, socklen_t *len)
{
    char host[INET6_ADDRSTRLEN];
    bool v6 = *text == '[';
    const char *start = text + v6;
    size_t host_len = strcspn(start, v6 ? "]" : ":");
    const char *behind = start + host_len;
    if (host_len >= sizeof host || (v6 && *behind++ != ']') || *behind++ != ':') return false;
    memcpy(host, start, host_len);
    host[host_len] = 0;
    int64_t port;
    if (strlen(behind) > 5 || !digits_take(&behind, &port) || *behind || port > 65535) return false;
    memset(out, 0, sizeof *out);
    struct sockaddr_in *in4 = (struct sockaddr_in *)out;
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)out;
    out->ss_family = v6 ? AF_INET6 : AF_INET;
    *(v6 ? &in6->sin6_port : &in4->sin_port) = htons((uint16_t)port);
    *len = v6 ? sizeof *in6 : sizeof *in4;
    return inet_pton(out->ss_family, host, v6 ? (void *)&in6->sin6_addr : &in4->sin_addr) == 1;
}

enum { ADDRESS_TEXT = INET6_ADDRSTRLEN + 8 };

/* `1.2.3.4:80` or `[::1]:80`, as address_parse reads it; "" for another family. Returns out, cut
 * if size is under ADDRESS_TEXT. */
static const char *address_text(const struct sockaddr_storage *address, char *out, size_t size)
{
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    char host[INET6_ADDRSTRLEN] = "";
    if (address->ss_family == AF_INET) {
        inet_ntop(AF_INET, &in4->sin_addr, host, sizeof host);
        snprintf(out, size, "%s:%u", host, ntohs(in4->sin_port));
    } else if (address->ss_family == AF_INET6) {
        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof host);
        snprintf(out, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        snprintf(out, size, "%s", "");
    }
    return out;
}

static const uint8_t ADDRESS_V4_MAPPED[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

static bool address_is_v4(const uint8_t address[16])
{
    return !memcmp(address, ADDRESS_V4_MAPPED, sizeof ADDRESS_V4_MAPPED);
}

/* The address as 16 bytes, IPv4 as v4-mapped (RFC 4291 section 2.5.5.2), and the port as a number;
 * all zero for another family. In this form addresses are compared, counted and stored. */
static void address_pack(const struct sockaddr_storage *address, uint8_t out[16], uint16_t *port)
{
    const struct sockaddr_in *in4 = (const struct sockaddr_in *)address;
    const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)address;
    memset(out, 0, 16);
    *port = 0;
    /* IPv4 that came in over an IPv6 socket is v4-mapped already, and the same. */
    if (address->ss_family == AF_INET) {
        memcpy(out, ADDRESS_V4_MAPPED, sizeof ADDRESS_V4_MAPPED);
        memcpy(out + 12, &in4->sin_addr, 4);
        *port = ntohs(in4->sin_port);
    } else if (address->ss_family == AF_INET6) {
        memcpy(out, &in6->sin6_addr, 16);
        *port = ntohs(in6->sin6_port);
    }
}

/* Text of what address_pack left, without port: v4-mapped as IPv4, all zero as "". Returns out,
 * which wants INET6_ADDRSTRLEN bytes; "" if it has fewer than the text. */
static const char *address_unpack_text(const uint8_t in[16], char *out, size_t size)
{
    static const uint8_t none[16];
    bool v4 = address_is_v4(in);
    if (!size) return "";
    if (!memcmp(in, none, sizeof none) ||
        !inet_ntop(v4 ? AF_INET : AF_INET6, v4 ? in + 12 : in, out, (socklen_t)size))
        out[0] = 0;
    return out;
}

/* True if only this machine can be at the address: 127/8, ::1, and 127/8 v4-mapped. Without tokens
 * the server listens on nothing else unless it is told --insecure. */
static bool address_is_loopback(const struct sockaddr_storage *address)
{
    uint8_t bytes[16];
    uint16_t port;
    address_pack(address, bytes, &port);
    if (address_is_v4(bytes)) return bytes[12] == 127;
    return !memcmp(bytes, &in6addr_loopback, sizeof bytes);
}

/* Units, the largest first: duration_text takes the first that fits. */
static const struct duration_unit {
    const char *name;
    int64_t ms;
} DURATION_UNITS[] = {{"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};

/* The milliseconds of a unit; "" is a second; 0 if there is no such unit. */
static int64_t duration_unit_ms(const char *name)
{
    if (!*name) return 1000;
    for (size_t i = 0; i < sizeof DURATION_UNITS / sizeof *DURATION_UNITS; i++)
        if (!strcmp(name, DURATION_UNITS[i].name)) return DURATION_UNITS[i].ms;
    return 0;
}

/* Reads `90`, `1.5s`, `250ms`, `30d`: digits, at most 9 decimals, a unit (none: seconds). False,
 * with *ms as it was, for anything else, for parts of a millisecond, and for more than 18 digits
 * or than 63 bits of ms. */
static bool duration_parse(const char *text, int64_t *ms)
{
    int64_t whole, part = 0, scale = 1, total;
    if (!digits_take(&text, &whole)) return false;
    if (*text == '.') {
        const char *start = ++text;
        if (!digits_take(&text, &part) || text - start > 9) return false;
        for (; start < text; start++) scale *= 10;
    }
    int64_t unit = duration_unit_ms(text);
    if (!unit || part * unit % scale) return false;
    if (__builtin_mul_overflow(whole, unit, &total) ||
        __builtin_add_overflow(total, part * unit / scale, &total))
        return false;
    *ms = total;
    return true;
}

/* The shortest text that duration_parse reads back as ms: `1m`, `90s`, `1.5s`, `250ms`, `0s`. What
 * --print-config prints is read again as it is. Returns out, cut if size is under 24. */
static const char *duration_text(int64_t ms, char *out, size_t size)
{
    const struct duration_unit *unit = DURATION_UNITS;
    while (unit->ms > 1 && (!ms || ms % unit->ms)) unit++;
    if (!ms) {
        snprintf(out, size, "0s");
    } else if (unit->ms > 1 || ms < 1000) {
        snprintf(out, size, "%" PRId64 "%s", ms / unit->ms, unit->name);
    } else {
        int part = (int)(ms % 1000), digits = 3;
        for (; part % 10 == 0; part /= 10) digits--;
        snprintf(out, size, "%" PRId64 ".%0*ds", ms / 1000, digits, part);
    }
    return out;
}

/* Reads a number of bytes, `4096`, `64k`, `8m` or `1g` (of 1024). False, with *bytes as it was,
 * for anything else and for more than 18 digits or 63 bits. */
static bool size_parse(const char *text, int64_t *bytes)
{
    static const char units[] = "kmg";
    int64_t n, unit = 1;
    if (!digits_take(&text, &n)) return false;
    if (*text) {
        const char *known = strchr(units, *text | 0x20);
        if (!known || text[1]) return false;
        unit <<= 10 * (known - units + 1);
    }
    if (__builtin_mul_overflow(n, unit, &n)) return false;
    *bytes = n;
    return true;
}

/* True if a comma-separated header value (which may be NULL) has an element that compares equal
 * (RFC 9110 section 5.6.1: blanks around and empty elements do not count). Quoted strings are not
 * known: no header that is read with this has them. */
static bool header_has(const char *value, const char *element,
                       int (*compare)(const char *, const char *, size_t))
{
    size_t element_len = strlen(element);
    for (const char *at = value; at && *at;) {
        at += strspn(at, " \t,");
        size_t len = strcspn(at, ",");
        const char *next = at + len;
        while (len && (at[len - 1] == ' ' || at[len - 1] == '\t')) len--;
        if (len && len == element_len && !compare(at, element, len)) return true;
        at = next;
    }
    return false;
}

/* As header_has, whatever the case: as Connection and Accept-Encoding are compared. */
static bool header_has_token(const char *value, const char *token)
{
    return header_has(value, token, strncasecmp);
}

/* As header_has, to the byte: as subprotocols and ETags are compared. */
static bool header_has_exact(const char *value, const char *element)
{
    return header_has(value, element, strncmp);
}

/* True if a Sec-WebSocket-Key (which may be NULL) is base64 of exactly 16 bytes, as RFC 6455
 * section 4.1 wants: 22 digits, the last with its four spare bits zero, and `==`. */
static bool ws_key_valid(const char *key)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    return key && strspn(key, digits) == 22 && strchr("AQgw", key[21]) && !strcmp(key + 22, "==");
}

/* An IPv6 address as browsers write it in a URL (URL standard, "IPv6 serializer"; RFC 5952 without
 * its dotted forms): groups in hexadecimal, the first of the longest runs of zero groups as `::`.
 * inet_ntop will not do: of ::ffff:1.2.3.4 it writes the dotted form, and the origin of a browser
 * would never be equal. Returns out. */
static const char *ipv6_text(const uint8_t in[16], char out[INET6_ADDRSTRLEN])
{
    /* A single zero group is not shortened (RFC 5952 section 4.2.2). */
    enum { GROUPS = 8 };
    int zeros = 1, first = GROUPS; /* the run to shorten: its length and where it begins */
    for (int i = 0, run = 0; i < GROUPS; i++) {
        run = in[2 * i] || in[2 * i + 1] ? 0 : run + 1;
        if (run > zeros) {
            zeros = run;
            first = i + 1 - run;
        }
    }
    char *at = out, *end = out + INET6_ADDRSTRLEN;
    for (int i = 0; i < GROUPS; i += i == first ? zeros : 1) {
        if (i == first) at += snprintf(at, (size_t)(end - at), "::");
        else
            at += snprintf(at, (size_t)(end - at), i && i != first + zeros ? ":%x" : "%x",
                           (unsigned)in[2 * i] << 8 | in[2 * i + 1]);
    }
    return out;
}

/* Reads the host at the front of text: a name of RFC 3986's characters, an IPv4 address, or an
 * IPv6 address in brackets. Writes it as browsers do, in lower case and an IPv6 address in its
 * shortest form. Returns how much of text it is; 0 if no host stands there or it does not fit.
 * Nothing may be percent-encoded: two spellings of one host would be two hosts to everyone who
 * compares. */
static size_t host_take(const char *text, char *out, size_t size)
{
    static const char name[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                               "-._~!$&'()*+,;=";
    bool v6 = *text == '[';
    size_t len = v6 ? strcspn(text, "]") : strspn(text, name);
    if (len >= size) return 0;
    for (size_t i = 0; i < len; i++)
        out[i] = (char)(text[i] >= 'A' && text[i] <= 'Z' ? text[i] | 0x20 : text[i]);
    out[len] = 0;
    if (!v6) return len;
    uint8_t address[16];
    char shortest[INET6_ADDRSTRLEN];
    if (text[len] != ']' || inet_pton(AF_INET6, out + 1, address) != 1) return 0;
    int n = snprintf(out, size, "[%s]", ipv6_text(address, shortest));
    return n < (int)size ? len + 1 : 0;
}

/* Reads `host[:port]` and nothing else: the host as host_take writes it, the port or -1. False,
 * with both of no meaning, for anything else, an empty port included. */
static bool host_parse(const char *text, char out[ORIGIN_MAX], int64_t *port)
{
    size_t len = host_take(text, out, ORIGIN_MAX);
    *port = -1;
    if (!len) return false;
    text += len;
    if (!*text) return true;
    return *text++ == ':' && strlen(text) <= 5 && digits_take(&text, port) && !*text &&
           *port <= 65535;
}

/* True if the host, as host_take writes it, is an IP address of either kind. */
static bool host_is_address(const char *host)
{
    struct in_addr in4;
    return *host == '[' || inet_pton(AF_INET, host, &in4) == 1;
}

/* True if a browser can have a page from the host (as host_take writes it) and write it so: an IP
 * address, or a name without RFC 3986's sub-delimiters, which no name in DNS has, whose last
 * label, not counting a dot at the end, is no number. Browsers take what ends in a number for an
 * IPv4 address and write it as four of them (URL standard, "ends in a number checker"). */
static bool host_is_web(const char *host)
{
    if (host_is_address(host)) return true;
    size_t end = strlen(host);
    if (strcspn(host, "!$&'()*+,;=") < end) return false;
    if (host[end - 1] == '.') end--;
    size_t start = end;
    while (start && host[start - 1] != '.') start--;
    /* 0x7f000001 is 127.0.0.1 to a browser: none sends it as a name. */
    const char *label = host + start;
    bool hex = end - start > 1 && label[0] == '0' && label[1] == 'x';
    size_t digits = hex ? 2 + strspn(label + 2, "0123456789abcdef") : strspn(label, "0123456789");
    return digits < end - start;
}

/* True if a Host header (which may be NULL) names this machine or an address, so that it cannot be
 * a name that somebody's DNS points here (rebinding: the page of a stranger would be our own
 * origin): `localhost`, `*.localhost` (RFC 6761 section 6.3), an IPv4 address of four decimal
 * numbers, or an IPv6 address in brackets; a port may follow. `localhost.` is refused: to browsers
 * it is another origin than localhost, and nobody types it. */
static bool host_is_local(const char *host_header)
{
    static const char local[] = ".localhost";
    char host[ORIGIN_MAX];
    int64_t port;
    if (!host_header || !host_parse(host_header, host, &port)) return false;
    size_t len = strlen(host), tail = sizeof local - 1;
    if (host_is_address(host)) return true;
    if (len && host[len - 1] == '.') host[--len] = 0; /* the same name, written out */
    if (!strcmp(host, local + 1)) return true;
    return len > tail && !strcmp(host + len - tail, local);
}

/* The server's own origin, as a browser would send it: the scheme of the request and its Host
 * header (which may be NULL; RFC 9110 section 7.2), without the scheme's own port. False, with out
 * of no meaning, if that is no host of RFC 3986 section 3.2.2, has a port above 65535, or makes an
 * origin that does not fit. */
static bool origin_of_host(bool secure, const char *host_header, char out[ORIGIN_MAX])
{
    char host[ORIGIN_MAX];
    int64_t port;
    if (!host_header || !host_parse(host_header, host, &port)) return false;
    char suffix[8] = "";
    if (port >= 0 && port != (secure ? 443 : 80))
        snprintf(suffix, sizeof suffix, ":%u", (unsigned)port);
    int n = snprintf(out, ORIGIN_MAX, "%s://%s%s", secure ? "https" : "http", host, suffix);
    return n < ORIGIN_MAX;
}

/* The span without the blanks around it (RFC 9110 section 5.6.3). */
static struct span span_trim(struct span s)
{
    while (s.len && (s.at[s.len - 1] == ' ' || s.at[s.len - 1] == '\t')) s.len--;
    for (; s.len && (*s.at == ' ' || *s.at == '\t'); s.len--) s.at++;
    return s;
}

/* Reads an origin that is none of the web: `capacitor://localhost`, `app://NAME`, those of
 * extensions. What its parts mean is known to who made the scheme, so it is compared as it is, but
 * for the scheme's case (RFC 3986 section 3.1). False for a text that no program sends as origin,
 * and for ws and wss: pages have none of these, and who writes them means http and https. */
static bool origin_parse_other(const char *text, char out[ORIGIN_MAX])
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    static const char scheme[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                 "0123456789+-.";
    static const char name[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                               "0123456789-._~";
    size_t len = strlen(text), front = strspn(text, scheme);
    if (len >= ORIGIN_MAX || !front || !strchr(letters, *text)) return false;
    if (strncmp(text + front, "://", 3)) return false;
    if ((front == 2 || front == 3) && !strncasecmp(text, "wss", front)) return false;
    const char *host = text + front + 3;
    size_t host_len = strspn(host, name);
    const char *behind = host + host_len;
    int64_t port;
    if (*behind == ':' && (behind++, !digits_take(&behind, &port))) return false;
    if (!host_len || *behind) return false;
    memcpy(out, text, len + 1);
    for (size_t i = 0; i < front; i++)
        if (out[i] >= 'A' && out[i] <= 'Z') out[i] |= 0x20;
    return true;
}

/* Reads an origin, `http://` or `https://` with a host and perhaps a port, and writes it as
 * browsers do (RFC 6454 section 6.2), so that two are the same when their texts are; or one of
 * another scheme, see origin_parse_other. False, with out of no meaning, for what no browser
 * sends: `null`, a path or a slash at the end, a user, a blank, two origins, `*`, a name that is
 * not ASCII, an IPv4 address in another form than four decimal numbers; and for more than 300
 * bytes. */
static bool origin_parse(const char *text, char out[ORIGIN_MAX])
{
    static const char http[] = "http://", https[] = "https://";
    bool secure = !strncasecmp(text, https, sizeof https - 1);
    if (!secure && strncasecmp(text, http, sizeof http - 1)) return origin_parse_other(text, out);
    text += secure ? sizeof https - 1 : sizeof http - 1;
    char host[ORIGIN_MAX];
    int64_t port;
    return host_parse(text, host, &port) && host_is_web(host) && origin_of_host(secure, text, out);
}

/* What X-Forwarded-Proto, from a trusted proxy, says of a request: the first of the list, which is
 * what the client speaks, in any case. Some proxies say wss and ws of an upgrade. Of anything else
 * `otherwise` is returned, which is how the connection to us is made. */
static bool forwarded_secure(const char *value, bool otherwise)
{
    static const struct {
        const char *scheme;
        bool secure;
    } known[] = {{"https", true}, {"wss", true}, {"http", false}, {"ws", false}};
    value += strspn(value, " \t,");
    struct span first = span_trim((struct span){value, strcspn(value, ",")});
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (first.len == strlen(known[i].scheme) &&
            !strncasecmp(first.at, known[i].scheme, first.len))
            return known[i].secure;
    return otherwise;
}

/* Packs the address that the text is, `1.2.3.4` or `2001:db8::1`, as address_pack does. False,
 * with out of no meaning, for any other text. */
static bool address_pack_text(struct span text, uint8_t out[16])
{
    char copy[INET6_ADDRSTRLEN];
    if (text.len >= sizeof copy) return false;
    memcpy(copy, text.at, text.len);
    copy[text.len] = 0;
    if (inet_pton(AF_INET6, copy, out) == 1) return true;
    memcpy(out, ADDRESS_V4_MAPPED, sizeof ADDRESS_V4_MAPPED);
    return inet_pton(AF_INET, copy, out + sizeof ADDRESS_V4_MAPPED) == 1;
}

/* The addresses that begin with the same bits; packed, so that IPv4 has 96 bits in common. */
struct range {
    uint8_t address[16]; /* all zero behind the bits */
    int bits;            /* 0 to 128 */
};

/* True if the packed address begins with the range's bits. IPv4 is only in ranges of IPv4 (which
 * may be written within ::ffff:0:0/96): `::/0` means every IPv6 address, not every address. */
static bool range_has(const struct range *range, const uint8_t address[16])
{
    int whole = range->bits / 8, rest = range->bits % 8;
    if (range->bits < 96 && address_is_v4(address)) return false;
    if (memcmp(range->address, address, (size_t)whole)) return false;
    return !rest || !((range->address[whole] ^ address[whole]) >> (8 - rest));
}

static bool ranges_have(const struct range *ranges, size_t count, const uint8_t address[16])
{
    for (size_t i = 0; i < count; i++)
        if (range_has(&ranges[i], address)) return true;
    return false;
}

/* Reads `192.0.2.1`, `10.0.0.0/8`, `::1` or `fd00::/8` (RFC 4632 section 3.1, RFC 4291 section
 * 2.3). False, with *out of no meaning, for anything else and for an address with bits set behind
 * those that count: whoever writes 10.0.0.1/8 may mean one address or many. */
static bool range_parse(const char *text, struct range *out)
{
    size_t len = strcspn(text, "/");
    if (!address_pack_text((struct span){text, len}, out->address)) return false;
    bool v4 = !memchr(text, ':', len);
    int64_t bits = v4 ? 32 : 128, most = bits;
    text += len;
    if (*text++ == '/' && (strlen(text) > 3 || !digits_take(&text, &bits) || *text || bits > most))
        return false;
    out->bits = (int)bits + (v4 ? 96 : 0);
    for (int bit = out->bits; bit < 128; bit++)
        if (out->address[bit / 8] & (0x80 >> bit % 8)) return false;
    return true;
}

/* Reads one element of X-Forwarded-For, a part of a C string: `1.2.3.4`, `1.2.3.4:80`,
 * `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:80`, blanks around it; proxies write all of
 * these. The port is dropped. False, with out of no meaning, for anything else. */
static bool forwarded_address(struct span element, uint8_t out[16])
{
    struct span host = span_trim(element);
    const char *end = host.at + host.len, *behind = end;
    const char *colon = memchr(host.at, ':', host.len);
    bool bracket = host.len && *host.at == '[';
    if (bracket) {
        behind = memchr(host.at, ']', host.len);
        if (!behind || !colon || colon > behind) return false;
        host.at++;
    } else if (colon && !memchr(colon + 1, ':', (size_t)(end - colon - 1))) {
        behind = colon;
    }
    host.len = (size_t)(behind - host.at);
    behind += bracket;
    int64_t port;
    if (behind != end && (*behind++ != ':' || end - behind > 5 || !digits_take(&behind, &port) ||
                          behind != end || port > 65535))
        return false;
    return address_pack_text(host, out);
}

/* Finds who a request is from. `values` are all its X-Forwarded-For headers in order, to whose
 * right end every proxy adds whom it was asked by. They count as far as trusted proxies wrote
 * them: from the peer, if it is in a range, leftwards to the first address that is in none. That
 * is the client; the leftmost if all are trusted. Everything further left a client may have
 * written itself.
 *
 * At something that is no address (an empty element too) the walk ends, and the last trusted hop
 * before it is the client: nobody vouches for what stands further left. So it is behind
 * FORWARDED_MAX hops, which bounds the work for a head full of commas. Returns true if the peer is
 * in a range; client is always set, to the peer where the headers say nothing. */
static bool forwarded_client(const char *const *values, int count, const struct range *ranges,
                             size_t range_count, const uint8_t peer[16], uint8_t client[16])
{
    memcpy(client, peer, 16);
    if (!ranges_have(ranges, range_count, peer)) return false;
    /* Each turn looks at the element that the last trusted hop has added. */
    ptrdiff_t end = -1; /* of what was not looked at in values[count]; -1: all of it was */
    for (int hop = 0; hop < FORWARDED_MAX && ranges_have(ranges, range_count, client); hop++) {
        if (end < 0 && count <= 0) break;
        if (end < 0) end = (ptrdiff_t)strlen(values[--count]);
        ptrdiff_t start = end;
        uint8_t address[16];
        while (start && values[count][start - 1] != ',') start--;
        struct span element = {values[count] + start, (size_t)(end - start)};
        if (!forwarded_address(element, address)) break;
        memcpy(client, address, sizeof address);
        end = start - 1;
    }
    return true;
}

/* What counts as one in limits by address: an IPv4 address as it is; of an IPv6 address the first
 * 64 bits, since whoever has one has the 2^64 beside it (RFC 4291 section 2.5.1). out may be in. */
static void address_group(const uint8_t in[16], uint8_t out[16])
{
    bool v4 = address_is_v4(in);
    for (int i = 0; i < 16; i++) out[i] = v4 || i < 8 ? in[i] : 0;
}

/* True if c may stand in the value of a cookie (RFC 6265 section 4.1.1). */
static bool cookie_octet(char c)
{
    return c > 0x20 && c < 0x7f && c != '"' && c != ',' && c != ';' && c != '\\';
}

/* The value of the first cookie of exactly that name in a Cookie header (which may be NULL; RFC
 * 6265 sections 4.2.1 and 5.4), without the quotes that may be around it. Returns its length,
 * NUL-terminated in out; -1 when the name is not there; -2, with out of no meaning, when the value
 * has a character that none may have, or does not fit. */
static int cookie_get(const char *header, const char *name, char *out, size_t size)
{
    size_t name_len = strlen(name);
    for (const char *at = header; at && *at;) {
        at += strspn(at, " \t;");
        size_t len = strcspn(at, ";");
        const char *next = at + len;
        if (len > name_len && at[name_len] == '=' && !memcmp(at, name, name_len)) {
            struct span value = span_trim((struct span){at + name_len + 1, len - name_len - 1});
            if (value.len > 1 && *value.at == '"' && value.at[value.len - 1] == '"')
                value = (struct span){value.at + 1, value.len - 2};
            if (value.len >= size) return -2;
            for (size_t i = 0; i < value.len; i++) {
                if (!cookie_octet(value.at[i])) return -2;
                out[i] = value.at[i];
            }
            out[value.len] = 0;
            return (int)value.len;
        }
        at = next;
    }
    return -1;
}

/* ==== 7. JSON =================================================================================
 * A strict reader (RFC 8259) over text that stays where it is, and a writer into a buffer. Pure.
 *
 * The reader's values are spans of the text: nothing is copied or allocated before somebody asks
 * for a string. Everything is checked once, by json_parse; the functions behind it walk through
 * what was accepted and cannot fail. There is no tree: messages have a handful of members, and a
 * walk through 100 bytes costs less than building one. */

/* What a value is. A number is text until json_number reads it. */
enum json_kind {
    JSON_NULL,
    JSON_FALSE,
    JSON_TRUE,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT
};

/* A value of a text that json_parse took; lives as long as that text. */
struct json_value {
    enum json_kind kind;
    struct span raw; /* the value's text, without the blanks around it */
};

/* Where a reader stands; json_skip_ and json_take_ functions move it behind what they accept, and
 * leave it anywhere when they return false: then the whole text is refused. */
struct json_reader {
    const char *at, *end;
};

static void json_skip_space(struct json_reader *r)
{
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t'))
        r->at++;
}

/* Takes the next character if it is c. */
static bool json_take(struct json_reader *r, char c)
{
    if (r->at == r->end || *r->at != c) return false;
    r->at++;
    return true;
}

/* Takes four hexadecimal digits: their number, or -1. */
static int32_t json_take_hex(struct json_reader *r)
{
    int32_t n = 0;
    if (r->end - r->at < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int digit = hex_value(*r->at++);
        if (digit < 0) return -1;
        n = n << 4 | digit;
    }
    return n;
}

/* Takes an escape whose backslash is gone: its code point, a pair of surrogates as one; -1 for an
 * unknown escape or half a pair (RFC 8259 sections 7 and 8.2), which no UTF-8 could stand for. */
static int32_t json_take_escape(struct json_reader *r)
{
    static const char names[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    if (r->at == r->end) return -1;
    char c = *r->at++;
    const char *known = memchr(names, c, sizeof names - 1);
    if (known) return meant[known - names];
    if (c != 'u') return -1;
    int32_t high = json_take_hex(r);
    if (high < 0xd800 || high > 0xdfff) return high;
    if (high > 0xdbff || !json_take(r, '\\') || !json_take(r, 'u')) return -1;
    int32_t low = json_take_hex(r);
    if (low < 0xdc00 || low > 0xdfff) return -1;
    return 0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00);
}

/* Skips a string; false if none stands there or it is not valid. That its bytes are UTF-8
 * json_parse has looked at for the whole text. */
static bool json_skip_string(struct json_reader *r)
{
    if (!json_take(r, '"')) return false;
    while (r->at < r->end) {
        uint8_t c = (uint8_t)*r->at++;
        if (c == '"') return true;
        if (c < 0x20 || (c == '\\' && json_take_escape(r) < 0)) return false;
    }
    return false;
}

/* Skips digits; false if there is not one. */
static bool json_skip_digits(struct json_reader *r)
{
    const char *start = r->at;
    while (r->at < r->end && digit_is(*r->at)) r->at++;
    return r->at > start;
}

/* Skips a number (RFC 8259 section 6); false if none stands there or it is not valid. */
static bool json_skip_number(struct json_reader *r)
{
    json_take(r, '-');
    if (!json_take(r, '0') && !json_skip_digits(r)) return false;
    if (json_take(r, '.') && !json_skip_digits(r)) return false;
    if (!json_take(r, 'e') && !json_take(r, 'E')) return true;
    if (!json_take(r, '+')) json_take(r, '-');
    return json_skip_digits(r);
}

/* Skips one of the three words; false if another text stands there. */
static bool json_skip_word(struct json_reader *r, const char *word)
{
    size_t len = strlen(word);
    if ((size_t)(r->end - r->at) < len || memcmp(r->at, word, len)) return false;
    r->at += len;
    return true;
}

/* Skips a member's name, the colon, and the blanks around them; false if they are not valid. */
static bool json_skip_key(struct json_reader *r)
{
    json_skip_space(r);
    if (!json_skip_string(r)) return false;
    json_skip_space(r);
    return json_take(r, ':');
}

/* What a value that begins with c must be; that it is one shows when it is skipped. */
static enum json_kind json_kind_of(char c)
{
    switch (c) {
    case '{': return JSON_OBJECT;
    case '[': return JSON_ARRAY;
    case '"': return JSON_STRING;
    case 't': return JSON_TRUE;
    case 'f': return JSON_FALSE;
    case 'n': return JSON_NULL;
    default: return JSON_NUMBER;
    }
}

/* Skips a value and the blanks before it; false if none stands there, it is not valid, or it nests
 * deeper than depth. Calls itself once a level, so depth bounds the stack: without it a body of
 * 256 KB of `[` would use up a worker's. */
static bool json_skip_value(struct json_reader *r, int depth)
{
    json_skip_space(r);
    enum json_kind kind = json_kind_of(r->at < r->end ? *r->at : 0);
    bool object = kind == JSON_OBJECT;
    char close = object ? '}' : ']';
    if (kind == JSON_STRING) return json_skip_string(r);
    if (kind == JSON_NUMBER) return json_skip_number(r);
    if (kind == JSON_TRUE) return json_skip_word(r, "true");
    if (kind == JSON_FALSE) return json_skip_word(r, "false");
    if (kind == JSON_NULL) return json_skip_word(r, "null");
    if (depth <= 0) return false;
    r->at++;
    json_skip_space(r);
    if (json_take(r, close)) return true;
    do {
        if (object && !json_skip_key(r)) return false;
        if (!json_skip_value(r, depth - 1)) return false;
        json_skip_space(r);
    } while (json_take(r, ','));
    return json_take(r, close);
}

/* Takes a value as json_skip_value skips it, and tells what and where it is. */
static bool json_take_value(struct json_reader *r, int depth, struct json_value *out)
{
    json_skip_space(r);
    const char *start = r->at;
    if (!json_skip_value(r, depth)) return false;
    *out = (struct json_value){json_kind_of(*start), {start, (size_t)(r->at - start)}};
    return true;
}

/* Reads a text that must be one JSON value in valid UTF-8 and nothing else but blanks; arrays and
 * objects nest at most max_depth deep (`[]` is 1). False if it is not, with *out as it was. What
 * is accepted here may be given to the functions below; they do not check again. */
static bool json_parse(struct span text, int max_depth, struct json_value *out)
{
    if (!text.len || !utf8_valid(text)) return false;
    struct json_reader r = {text.at, text.at + text.len};
    struct json_value value;
    if (!json_take_value(&r, max_depth, &value)) return false;
    json_skip_space(&r);
    if (r.at != r.end) return false;
    *out = value;
    return true;
}

/* Takes the next 1 to 4 bytes that the inside of a valid string stands for; returns how many. */
static size_t json_take_bytes(struct json_reader *r, char out[4])
{
    char c = *r->at++;
    if (c == '\\') return utf8_put((uint32_t)json_take_escape(r), out);
    out[0] = c;
    return 1;
}

/* True if the value is a string that stands for exactly these bytes, however it is escaped. */
static bool json_equals(struct json_value value, struct span text)
{
    if (value.kind != JSON_STRING) return false;
    struct json_reader r = {value.raw.at + 1, value.raw.at + value.raw.len - 1};
    size_t n = 0;
    while (r.at < r.end) {
        char bytes[4];
        size_t step = json_take_bytes(&r, bytes);
        if (text.len - n < step || memcmp(text.at + n, bytes, step)) return false;
        n += step;
    }
    return n == text.len;
}

static bool json_is(struct json_value value, const char *text)
{
    return json_equals(value, (struct span){text, strlen(text)});
}

/* The member of that name, the last one if there are several, as JavaScript's own reader has it;
 * names are compared decoded. False, with *out as it was, if there is none or the value is no
 * object. Walks through the whole object each time. */
static bool json_member(struct json_value object, const char *name, struct json_value *out)
{
    if (object.kind != JSON_OBJECT) return false;
    struct json_reader r = {object.raw.at + 1, object.raw.at + object.raw.len};
    struct json_value key, value;
    bool found = false;
    while (json_take_value(&r, 0, &key)) {
        json_skip_space(&r);
        r.at++;
        json_take_value(&r, INT_MAX, &value);
        if (json_is(key, name)) {
            *out = value;
            found = true;
        }
        json_skip_space(&r);
        r.at++;
    }
    return found;
}

/* The next item of an array; *cursor is 0 before the first and belongs to this function. False,
 * with *out as it was, behind the last and if the value is no array. */
static bool json_item(struct json_value array, size_t *cursor, struct json_value *out)
{
    if (array.kind != JSON_ARRAY) return false;
    const char *start = array.raw.at;
    struct json_reader r = {start + (*cursor ? *cursor : 1), start + array.raw.len};
    json_skip_space(&r);
    json_take(&r, ',');
    if (!json_take_value(&r, INT_MAX, out)) return false;
    *cursor = (size_t)(r.at - start);
    return true;
}

/* The bytes a string stands for, NUL-terminated, and their number (a \u0000 inside counts as one).
 * -1 if the value is no string, or bytes and NUL do not fit. */
static int json_string(struct json_value value, char *out, size_t size)
{
    if (value.kind != JSON_STRING) return -1;
    struct json_reader r = {value.raw.at + 1, value.raw.at + value.raw.len - 1};
    size_t n = 0;
    while (r.at < r.end) {
        char bytes[4];
        size_t step = json_take_bytes(&r, bytes);
        if (n + step >= size) return -1;
        memcpy(out + n, bytes, step);
        n += step;
    }
    if (n >= size) return -1;
    out[n] = 0;
    return (int)n;
}

/* The value of a number written as a whole one, without fraction and exponent. False, with *out as
 * it was, for another number or kind, or when 64 bits do not hold it. */
static bool json_number(struct json_value value, int64_t *out)
{
    if (value.kind != JSON_NUMBER) return false;
    bool negative = *value.raw.at == '-';
    int64_t n = 0;
    for (size_t i = negative; i < value.raw.len; i++) {
        char c = value.raw.at[i];
        int digit = negative ? '0' - c : c - '0';
        if (!digit_is(c) || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, digit, &n))
            return false;
    }
    *out = n;
    return true;
}

/* ---- The writer: members and items appended to a buffer, commas by itself. ----
 *
 *     json_begin(b);                        {
 *     json_text(b, "type", "presence");     "type":"presence"
 *     json_open(b, "users", '[');           ,"users":[
 *     json_span(b, NULL, alice);            "alice"
 *     json_span(b, NULL, bob);              ,"bob"
 *     json_close(b, ']');                   ]
 *     json_close(b, '}');                   }
 *
 * It keeps no state: the last byte written says if a comma is due. Every function takes the name of
 * a member, or NULL for an item of an array; names are ours and need no escapes. No blanks are
 * written: clients are promised the members and their order, and what is short is sent sooner. */

/* Appends what a JSON string needs in place of the character c (a quote, a backslash or a control
 * character). */
static void json_write_escape(struct buffer *b, uint8_t c)
{
    static const char controls[] = "\b\f\n\r\t", names[] = "bfnrt";
    const char *known = memchr(controls, c, sizeof controls - 1);
    char two[2] = {'\\', known ? names[known - controls] : (char)c};
    if (known || c >= 0x20) buffer_add(b, two, sizeof two);
    else buffer_print(b, "\\u%04x", c);
}

/* Appends the text as a JSON string with its quotes. Every byte that is not part of valid UTF-8
 * becomes U+FFFD, so what is written is always valid JSON, whatever a client or a file has sent.
 * Runs that need no escape are copied whole: ids are written for every change of a user. */
static void json_write_string(struct buffer *b, struct span text)
{
    size_t done = 0, n = 0;
    *buffer_room(b, text.len + 2) = '"';
    b->len++;
    while (n < text.len) {
        uint32_t point = (uint8_t)text.at[n];
        size_t step = point < 0x80 ? 1 : utf8_step(text.at + n, text.len - n, &point);
        if (step && point >= 0x20 && point != '"' && point != '\\') {
            n += step;
            continue;
        }
        buffer_add(b, text.at + done, n - done);
        if (step) json_write_escape(b, (uint8_t)point);
        else buffer_text(b, "\xef\xbf\xbd");
        done = ++n;
    }
    if (n > done) buffer_add(b, text.at + done, n - done);
    buffer_add(b, "\"", 1);
}

/* Appends the comma that is due and, for a member, its name and the colon. The first member or item
 * has none before it, nor has what begins a line (a dump's) or the buffer; that no value of ours
 * ends in one of these bytes makes the last one enough to tell. */
static void json_key(struct buffer *b, const char *name)
{
    size_t len = name ? strlen(name) : 0;
    char last = b->len ? b->at[b->len - 1] : '\n', *out = buffer_room(b, len + 4);
    if (last != '{' && last != '[' && last != '\n') *out++ = ',';
    if (name) {
        *out++ = '"';
        memcpy(out, name, len);
        out += len;
        *out++ = '"';
        *out++ = ':';
    }
    b->len = (size_t)(out - b->at);
}

/* Begins a text of its own, an object, whatever stands before it in the buffer. */
static void json_begin(struct buffer *b)
{
    buffer_add(b, "{", 1);
}

/* Opens an object or array, by its bracket. */
static void json_open(struct buffer *b, const char *name, char bracket)
{
    json_key(b, name);
    buffer_add(b, &bracket, 1);
}

static void json_close(struct buffer *b, char bracket)
{
    buffer_add(b, &bracket, 1);
}

/* A string of any bytes, as ids are. */
static void json_span(struct buffer *b, const char *name, struct span value)
{
    json_key(b, name);
    json_write_string(b, value);
}

static void json_text(struct buffer *b, const char *name, const char *value)
{
    json_span(b, name, (struct span){value, strlen(value)});
}

/* One of the words null, true and false, or another text that is JSON already. */
static void json_raw(struct buffer *b, const char *name, const char *json)
{
    json_key(b, name);
    buffer_text(b, json);
}

static void json_bool(struct buffer *b, const char *name, bool value)
{
    json_raw(b, name, value ? "true" : "false");
}

static void json_null(struct buffer *b, const char *name)
{
    json_raw(b, name, "null");
}

/* A string, or null where it is empty. */
static void json_text_or_null(struct buffer *b, const char *name, const char *value)
{
    if (*value) json_text(b, name, value);
    else json_null(b, name);
}

/* A whole number that is not negative. Written by hand: musl's snprintf takes some ten times as
 * long, and a view has a number and is written for each change that is told. */
static void json_uint(struct buffer *b, const char *name, uint64_t value)
{
    char digits[20]; /* of UINT64_MAX */
    size_t n = sizeof digits;
    do digits[--n] = (char)('0' + value % 10);
    while (value /= 10);
    json_key(b, name);
    buffer_add(b, digits + n, sizeof digits - n);
}

/* A whole number. */
static void json_int(struct buffer *b, const char *name, int64_t value)
{
    if (value >= 0) {
        json_uint(b, name, (uint64_t)value);
        return;
    }
    json_key(b, name);
    buffer_print(b, "%" PRId64, value);
}

/* A wall time as text (RFC 3339), or null where it is not known. Made in its place, not copied and
 * looked through for escapes: a view of a user has two of them. */
static void json_time(struct buffer *b, const char *name, int64_t wall_ms, bool known)
{
    if (!known) {
        json_null(b, name);
        return;
    }
    json_key(b, name);
    char *out = buffer_room(b, TIME_TEXT + 2), *text = out + 1;
    *out = '"';
    size_t len = strlen(time_text(wall_ms, text));
    text[len] = '"';
    b->len += len + 2;
}

/* Names one user more, once, unless there are enough. Returns true when there are: then the rest
 * need not be looked at. */
static bool named_add(struct named *named, struct span id)
{
    for (size_t i = 0; i < named->count; i++)
        if (!bytes_compare(named->ids[i], named->lens[i], id.at, id.len)) return false;
    memcpy(named->ids[named->count], id.at, id.len);
    named->lens[named->count++] = (uint8_t)id.len;
    return named->count == NAMED_MAX;
}

/* Appends the member "users" of an error, or nothing when nobody is named. */
static void named_write(struct buffer *b, const struct named *named)
{
    if (!named->count) return;
    json_open(b, "users", '[');
    for (size_t i = 0; i < named->count; i++)
        json_span(b, NULL, (struct span){named->ids[i], named->lens[i]});
    json_close(b, ']');
}

/* ==== 8. Options ==============================================================================
 * All options and commands, one table each. A row of OPTION_TABLE is: field, type, name, default,
 * least and most, argument, group, help. It makes the struct, and drives the command line, the
 * environment (PRESENCE_ and the name in capitals), --config, --print-config, --help and the check
 * of the manual page: a new option is one row here and its text in presence(1). One that has no
 * effect without another has a row in OPTION_NEEDS, too; what depends on the machine is checked at
 * the start (server_start).
 *
 * Options are constant once read. Where several sources name one, the stronger wins: the file is
 * the weakest, then the environment, then the command line. */

#define OPTION_TABLE(X)                                                                            \
    X(listen, LIST, "listen", "127.0.0.1:8080", 0, 0, "ADDR:PORT", "Network",                      \
      "address to serve on; may repeat; [::1]:8080 for IPv6; port 0 takes a free one")             \
    X(insecure, FLAG, "insecure", "no", 0, 1, "", "Network",                                       \
      "allow listening beyond loopback although anyone may then read and write everything")        \
    X(metrics_listen, LIST, "metrics-listen", "", 0, 0, "ADDR:PORT", "Network",                    \
      "address that serves /metrics, /healthz and /readyz only, to anyone; may repeat")            \
    X(allow_origin, ORIGINS, "allow-origin", "", 0, 0, "ORIGIN", "Network",                        \
      "https://app.example.com: pages of this origin may connect, as the server's own may; may"    \
      " repeat")                                                                                   \
    X(trusted_proxy, RANGES, "trusted-proxy", "", 0, 0, "RANGE", "Network",                        \
      "10.0.0.0/8 or ::1: whose X-Forwarded-For and X-Forwarded-Proto count; may repeat")          \
    X(user, TEXT, "user", "", 0, 0, "NAME", "Network",                                             \
      "once the addresses are bound, stop being root and be this user")                            \
    X(request_timeout, DURATION, "request-timeout", "10s", 100, 3600000, "TIME", "Network",        \
      "a request must have arrived whole within this time, however busily it drips")               \
    X(keepalive_timeout, DURATION, "keepalive-timeout", "15s", 100, 3600000, "TIME", "Network",    \
      "an idle HTTP connection is closed after this time")                                         \
    X(workers, COUNT, "workers", "0", 0, 256, "N", "Network",                                      \
      "threads that answer HTTP requests; 0: one a processor, at least 2")                         \
    X(tls_listen, LIST, "tls-listen", "", 0, 0, "ADDR:PORT", "TLS",                                \
      "address to serve https and wss on; may repeat")                                             \
    X(tls_cert, FILES, "tls-cert", "", 0, 0, "FILE", "TLS",                                        \
      "certificate with its chain, PEM, your own first; may repeat for other names or keys")       \
    X(tls_key, FILES, "tls-key", "", 0, 0, "FILE", "TLS",                                          \
      "its key, PEM, unencrypted; as many and in the order of --tls-cert, or none when each is in" \
      " the file of its certificate")                                                              \
    X(tls_self_signed, FLAG, "tls-self-signed", "no", 0, 1, "", "TLS",                             \
      "make a certificate in --data, to try it out: no client trusts it unasked")                  \
    X(tls_threads, COUNT, "tls-threads", "2", 1, 64, "N", "TLS", "threads for TLS handshakes")     \
    X(redirect_listen, LIST, "redirect-listen", "", 0, 0, "ADDR:PORT", "TLS",                      \
      "address whose plain HTTP is sent on to the first --tls-listen; may repeat")                 \
    X(jwt_secret_file, FILES, "jwt-secret-file", "", 0, 0, "[KID=]FILE", "Tokens",                 \
      "secret that tokens are signed with, HS256; may repeat, for rotation")                       \
    X(jwt_public_key_file, FILES, "jwt-public-key-file", "", 0, 0, "[KID=]FILE", "Tokens",         \
      "public key of those who sign tokens, PEM: RSA is RS256, P-256 is ES256; may repeat")        \
    X(jwt_issuer, TEXT, "jwt-issuer", "", 0, 0, "TEXT", "Tokens", "what a token's iss must be")    \
    X(jwt_audience, TEXT, "jwt-audience", "", 0, 0, "TEXT", "Tokens",                              \
      "what a token's aud must be or have")                                                        \
    X(token_lifetime, DURATION, "token-lifetime", "1h", 1000, 315360000000, "TIME", "Tokens",      \
      "for --mint-token: how long the token is valid")                                             \
    X(token_watch, TEXT, "token-watch", "", 0, 0, "IDS", "Tokens",                                 \
      "for --mint-token: users that its user may watch; ids with commas between, or *")            \
    X(token_admin, FLAG, "token-admin", "no", 0, 1, "", "Tokens",                                  \
      "for --mint-token: its user is an admin")                                                    \
    X(admin_password_file, TEXT, "admin-password-file", "", 0, 0, "FILE", "Admin",                 \
      "the admin's password as --hash-password prints it")                                         \
    X(admin_session, DURATION, "admin-session", "12h", 1000, 31536000000, "TIME", "Admin",         \
      "how long a login lasts")                                                                    \
    X(webhook_url, TEXT, "webhook-url", "", 0, 0, "URL", "Webhooks",                               \
      "http:// or https://: where joins, leaves and changes of status are posted")                 \
    X(webhook_secret_file, TEXT, "webhook-secret-file", "", 0, 0, "FILE", "Webhooks",              \
      "secret that what is posted is signed with, 16 to 4096 bytes")                               \
    X(webhook_ca_file, TEXT, "webhook-ca-file", "/etc/ssl/certs/ca-certificates.crt", 0, 0,        \
      "FILE", "Webhooks", "certificates of the CAs to trust for an https:// --webhook-url, PEM")   \
    X(webhook_batch, COUNT, "webhook-batch", "100", 1, 1000, "N", "Webhooks",                      \
      "changes in one request, at most")                                                           \
    X(webhook_timeout, DURATION, "webhook-timeout", "10s", 100, 300000, "TIME", "Webhooks",        \
      "a request must be answered within this time, connecting included")                          \
    X(webhook_outbox, COUNT, "webhook-outbox", "100000", 10, 10000000, "N", "Webhooks",            \
      "changes kept in the store while they cannot be delivered; then the oldest are given up")    \
    X(webhook_give_up, DURATION, "webhook-give-up", "1d", 1000, 31536000000, "TIME", "Webhooks",   \
      "a change that was tried in vain for this long is given up")                                 \
    X(threshold, DURATION, "online-threshold", "90s", 1000, 86400000, "TIME", "Presence",          \
      "a user without a connection counts as online this long after being last seen")              \
    X(grace, DURATION, "grace", "5s", 0, 3600000, "TIME", "Presence",                              \
      "a reload or a broken connection may come back within this time unnoticed")                  \
    X(ping_interval, DURATION, "ping-interval", "25s", 100, 3600000, "TIME", "Presence",           \
      "a connection silent this long is pinged")                                                   \
    X(pong_timeout, DURATION, "pong-timeout", "10s", 100, 3600000, "TIME", "Presence",             \
      "a pinged connection silent this much longer is dropped")                                    \
    X(watch_interval, DURATION, "watch-interval", "50ms", 0, 10000, "TIME", "Presence",            \
      "changes go to those who follow at most this often; 0: at once")                             \
    X(data, TEXT, "data", "./presence-data", 0, 0, "DIR", "Store", "directory of the store")       \
    X(sync_interval, DURATION, "sync-interval", "1s", 10, 60000, "TIME", "Store",                  \
      "joins and leaves reach the disk within this time, in one transaction")                      \
    X(history, DURATION, "history", "30d", 0, 3153600000000, "TIME", "Store",                      \
      "ended sessions and samples are kept this long; 0: for ever")                                \
    X(map_size, SIZE, "map-size", "64m", 65536, INT64_C(1) << 44, "BYTES", "Store",                \
      "address space first given to the store; it doubles by itself when full")                    \
    X(max_connections, COUNT, "max-connections", "0", 0, 10000000, "N", "Limits",                  \
      "WebSocket connections and streams in all; 0: what the descriptor limit allows")             \
    X(max_per_user, COUNT, "max-connections-per-user", "32", 1, 60000, "N", "Limits",              \
      "WebSocket connections of one user")                                                         \
    X(max_per_address, COUNT, "max-connections-per-address", "0", 0, 10000000, "N", "Limits",      \
      "WebSocket connections of one address, or IPv6 network of 64 bits; 0: no limit")             \
    X(max_upgrades, COUNT, "max-upgrades-per-second", "0", 0, 1000000, "N", "Limits",              \
      "WebSocket connections that one address may open in a second; 0: no limit")                  \
    X(max_pending, COUNT, "max-pending-per-address", "256", 0, 10000000, "N", "Limits",            \
      "connections of one address that are no WebSocket; at one more the oldest is closed; 0: no"  \
      " limit")                                                                                    \
    X(max_message, SIZE, "max-message", "4096", 128, 16777216, "BYTES", "Limits",                  \
      "longest WebSocket message taken")                                                           \
    X(max_rate, COUNT, "max-messages-per-second", "20", 0, 1000000, "N", "Limits",                 \
      "WebSocket messages of one connection, averaged over a second; 0: no limit")                 \
    X(max_watch, COUNT, "max-watch", "1000", 0, 100000, "N", "Limits",                             \
      "users that one connection may follow")                                                      \
    X(max_head, SIZE, "max-head", "32k", 1024, 65536, "BYTES", "Limits", "longest request head")   \
    X(max_body, SIZE, "max-body", "256k", 1024, 16777216, "BYTES", "Limits",                       \
      "longest request body")                                                                      \
    X(request_memory, SIZE, "max-request-memory", "64m", 1048576, INT64_C(1) << 40, "BYTES",       \
      "Limits", "memory held for requests under way; of one address at most a quarter of it")      \
    X(events, COUNT, "events", "10000", 0, 1000000, "N", "Limits",                                 \
      "changes kept in memory for streams that come back, once there was one")                     \
    X(max_stream, SIZE, "max-stream-buffer", "1m", 4096, 1073741824, "BYTES", "Limits",            \
      "a stream for which more than this waits is dropped")                                        \
    X(log_level, LEVEL, "log-level", "info", 0, 3, "LEVEL", "Log", "error, warn, info or debug")   \
    X(log_format, FORMAT, "log-format", "logfmt", 0, 1, "FORMAT", "Log", "logfmt or json")

/* How the text of a value is read, what it is checked against and how it is printed. The first four
 * are lists: the option may repeat. */
enum option_type {
    OPTION_LIST,    /* of addresses */
    OPTION_FILES,   /* a list of names of files */
    OPTION_ORIGINS, /* a list, kept as browsers write them */
    OPTION_RANGES,  /* a list of address ranges */
    OPTION_FLAG,
    OPTION_DURATION,
    OPTION_COUNT,
    OPTION_SIZE,
    OPTION_TEXT,
    OPTION_LEVEL,
    OPTION_FORMAT,
};

/* The values of a list, as they were written (of an origin: as browsers write it). Both levels
 * belong to the struct options that holds it. */
struct option_list {
    char **at;
    size_t count;
};

/* One field a row. Numbers of every kind are int64_t, flags and times in ms among them, so that the
 * table can reach each through one offset and type. */
struct options {
#define FIELD_LIST(field) struct option_list field;
#define FIELD_FILES(field) struct option_list field;
#define FIELD_ORIGINS(field) struct option_list field;
#define FIELD_RANGES(field) struct option_list field;
#define FIELD_FLAG(field) int64_t field;
#define FIELD_DURATION(field) int64_t field;
#define FIELD_COUNT(field) int64_t field;
#define FIELD_SIZE(field) int64_t field;
#define FIELD_TEXT(field) char *field;
#define FIELD_LEVEL(field) int64_t field;
#define FIELD_FORMAT(field) int64_t field;
#define X(field, type, name, initial, min, max, argument, group, help) FIELD_##type(field)
    OPTION_TABLE(X)
#undef X
};

/* A row as code that goes over all options sees it: where the field is in struct options, and what
 * a value may be. */
static const struct option_row {
    const char *name, *initial, *argument, *group, *help;
    enum option_type type;
    size_t offset;
    int64_t min, max;
} OPTIONS[] = {
#define X(field, type, name, initial, min, max, argument, group, help)                             \
    {name, initial, argument, group, help, OPTION_##type, offsetof(struct options, field),         \
     min,  max},
    OPTION_TABLE(X)
#undef X
};
enum { OPTION_COUNT_ALL = sizeof OPTIONS / sizeof *OPTIONS };

/* What the program does instead of serving: name, argument, help. SERVE has no name, as it is what
 * happens without a command. One at a time; COMMAND_COUNT is no command. */
#define COMMAND_TABLE(X)                                                                           \
    X(SERVE, "", "", "serve until SIGTERM or SIGINT")                                              \
    X(CHECK_CONFIG, "check-config", "", "check the options, then exit")                            \
    X(PRINT_CONFIG, "print-config", "", "print every option's value in the form --config reads")   \
    X(BACKUP, "backup", "FILE", "copy the store to FILE, also while a server runs")                \
    X(DUMP, "dump", "", "print users and sessions as JSON lines, also while a server runs")        \
    X(RESTORE, "restore", "FILE", "fill an empty store from what --dump printed; - is stdin")      \
    X(MINT_TOKEN, "mint-token", "USER", "print a token for USER, signed with --jwt-secret-file")   \
    X(HASH_PASSWORD, "hash-password", "", "read a password, print it for --admin-password-file")   \
    X(CHECK_STORE, "check-store", "", "read the whole store and say whether it is sound")          \
    X(LICENSES, "licenses", "", "print its licence and those of what is embedded")                 \
    X(VERSION, "version", "", "print versions")                                                    \
    X(HELP, "help", "", "print this help")
#define X(name, flag, argument, help) COMMAND_##name,
enum command { COMMAND_TABLE(X) COMMAND_COUNT };
#undef X
/* A row as code reads it; the index is enum command. */
static const struct command_row {
    const char *name, *argument, *help;
} COMMANDS[] = {
#define X(name, flag, argument, help) {flag, argument, help},
    COMMAND_TABLE(X)
#undef X
};

/* What the command line asked for besides options. */
struct command_line {
    enum command command;
    const char *file; /* its argument, if it takes one */
};

/* ==== 9. Options: reading =====================================================================
 * The command line, the environment and a file become struct options; --help and --print-config;
 * warnings for options that change nothing. Runs on main before there is any other thread; but for
 * the file of --config there is no I/O. A value that is not understood is never replaced by a
 * default: the program ends with a sentence that names the option and what to write instead. */

/* The row of a name, or NULL. */
static const struct option_row *option_find(const char *name, size_t len)
{
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++)
        if (strlen(OPTIONS[i].name) == len && !memcmp(OPTIONS[i].name, name, len))
            return &OPTIONS[i];
    return NULL;
}

static bool option_set_word(int64_t *out, const char *value, const char *const *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (!strcmp(value, words[i])) {
            *out = (int64_t)i;
            return true;
        }
    return false;
}

/* Reads a number of the row's type; the bounds are for the caller to check. A count is digits only,
 * as 4k users is more likely a slip than meant. */
static bool option_parse_number(const struct option_row *row, const char *value, int64_t *out)
{
    static const char *const no_yes[] = {"no", "yes"}, *const formats[] = {"logfmt", "json"};
    switch (row->type) {
    case OPTION_FLAG: return option_set_word(out, value, no_yes, 2);
    case OPTION_LEVEL: return option_set_word(out, value, LOG_LEVELS, 4);
    case OPTION_FORMAT: return option_set_word(out, value, formats, 2);
    case OPTION_DURATION: return duration_parse(value, out);
    case OPTION_COUNT: return !value[strspn(value, "0123456789")] && size_parse(value, out);
    default: return size_parse(value, out);
    }
}

/* A number as the user would write it for this option: 10s, not 10000. */
static const char *option_bound(const struct option_row *row, int64_t n, char out[32])
{
    if (row->type == OPTION_DURATION) return duration_text(n, out, 32);
    snprintf(out, 32, "%" PRId64, n);
    return out;
}

/* Whether an option may repeat. */
static bool option_is_list(const struct option_row *row)
{
    return row->type == OPTION_LIST || row->type == OPTION_FILES || row->type == OPTION_ORIGINS ||
           row->type == OPTION_RANGES;
}

/* Checks a value of a list and appends a copy. False with the reason in why, and the list as it
 * was. An origin is kept as a browser sends it (lower case, no default port), so that requests
 * compare bytes. */
static bool option_add(struct option_list *list, const struct option_row *row, const char *value,
                       struct why why)
{
    struct sockaddr_storage address;
    struct range range;
    socklen_t len;
    char origin[ORIGIN_MAX];
    const char *problem = NULL;
    if (row->type == OPTION_LIST && !address_parse(value, &address, &len))
        problem = "is no address; write 127.0.0.1:8080 or [::1]:8080";
    if (row->type == OPTION_RANGES && !range_parse(value, &range))
        problem = "is no range of addresses; write 10.0.0.0/8, 192.0.2.1 or fd00::/8, all zeros"
                  " behind the bits that count";
    if (row->type == OPTION_ORIGINS) {
        if (!origin_parse(value, origin))
            problem = "is no origin; write https://app.example.com, with a port unless it is the"
                      " usual one, or capacitor://localhost, and nothing behind";
        value = problem ? value : origin;
    }
    if (problem) return fail(why, "--%s: '%.200s' %s", row->name, value, problem);
    list->at = mem_resize(list->at, (list->count + 1) * sizeof *list->at);
    list->at[list->count++] = mem_copy_text(value, strlen(value));
    return true;
}

/* Sets one option. False, with the reason in why and the field as it was. A list grows: whoever
 * begins with a stronger source empties it first, see option_apply. An empty value is refused where
 * it could not be meant: PRESENCE_DATA= in a file of systemd is a mistake, not the current
 * directory. */
static bool option_set(struct options *options, const struct option_row *row, const char *value,
                       struct why why)
{
    void *field = (char *)options + row->offset;
    bool empty = !*value && (option_is_list(row) || (row->type == OPTION_TEXT && *row->initial));
    if (empty) return fail(why, "--%s: is empty; give it a %s", row->name, row->argument);
    if (option_is_list(row)) return option_add(field, row, value, why);
    if (row->type == OPTION_TEXT) {
        free(*(char **)field);
        *(char **)field = mem_copy_text(value, strlen(value));
        return true;
    }
    /* What to write instead, by type; lists and texts were dealt with above. */
    static const char *const remedies[] = {
        [OPTION_FLAG] = "write yes, no, or the option alone",
        [OPTION_DURATION] = "write a number with ms, s, m, h or d",
        [OPTION_COUNT] = "write a number",
        [OPTION_SIZE] = "write a number, with k, m or g if you like",
        [OPTION_LEVEL] = "write error, warn, info or debug",
        [OPTION_FORMAT] = "write logfmt or json",
    };
    int64_t n;
    char low[32], high[32];
    if (!option_parse_number(row, value, &n))
        return fail(why, "--%s: '%s' is not understood; %s", row->name, value, remedies[row->type]);
    if (n < row->min || n > row->max)
        return fail(why, "--%s: '%s' is out of bounds; give it %s to %s", row->name, value,
                    option_bound(row, row->min, low), option_bound(row, row->max, high));
    *(int64_t *)field = n;
    return true;
}

static void option_clear_list(struct options *options, const struct option_row *row)
{
    struct option_list *list = (void *)((char *)options + row->offset);
    for (size_t i = 0; i < list->count; i++) free(list->at[i]);
    free(list->at);
    *list = (struct option_list){0};
}

/* Sets an option from one source. The first time that this source names a list the list is emptied:
 * so --listen on the command line replaces what the file says, and a second --listen beside it
 * adds. `seen` has one bit for each option that this source named. */
static bool option_apply(struct options *options, const struct option_row *row, const char *value,
                         uint64_t *seen, struct why why)
{
    uint64_t bit = UINT64_C(1) << (row - OPTIONS);
    if (option_is_list(row) && !(*seen & bit)) option_clear_list(options, row);
    *seen |= bit;
    return option_set(options, row, value, why);
}

/* Sets every option to its default, which is read as a user's value would be: a default that its
 * own row does not allow ends the process in any test. */
static void options_init(struct options *options)
{
    _Static_assert(OPTION_COUNT_ALL <= 64, "option_apply keeps one bit an option");
    *options = (struct options){0};
    char err[WHY_MAX];
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        if (option_is_list(&OPTIONS[i]) && !*OPTIONS[i].initial) continue;
        if (!option_set(options, &OPTIONS[i], OPTIONS[i].initial, WHY(err))) fatal(err);
    }
}

static void options_free(struct options *options)
{
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        if (option_is_list(&OPTIONS[i])) option_clear_list(options, &OPTIONS[i]);
        if (OPTIONS[i].type == OPTION_TEXT) free(*(char **)((char *)options + OPTIONS[i].offset));
    }
}

enum { MISTAKES_MAX = 2, MISTAKES_NAME = 48 /* bytes of a name that is looked at */ };

/* How many letters are wrong, missing, too many, or have changed places with their neighbour
 * between two names (Damerau's distance, each place used once). Anything above MISTAKES_MAX is told
 * as MISTAKES_MAX + 1. Three rows of the usual table are enough: a swap looks two rows back. Names
 * longer than MISTAKES_NAME are near to nothing, which bounds the time. */
static int name_mistakes(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int rows[3][MISTAKES_NAME + 1];
    if (a_len > MISTAKES_NAME || b_len > MISTAKES_NAME) return MISTAKES_MAX + 1;
    for (size_t j = 0; j <= b_len; j++) rows[0][j] = (int)j;
    for (size_t i = 1; i <= a_len; i++) {
        int *row = rows[i % 3], *above = rows[(i - 1) % 3], *two = rows[(i + 1) % 3];
        row[0] = (int)i;
        for (size_t j = 1; j <= b_len; j++) {
            int least = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < least) least = above[j] + 1;
            if (row[j - 1] + 1 < least) least = row[j - 1] + 1;
            /* A swap of neighbours counts once, as it is one slip of the fingers. */
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                two[j - 2] + 1 < least)
                least = two[j - 2] + 1;
            row[j] = least;
        }
    }
    int mistakes = rows[a_len % 3][b_len];
    return mistakes <= MISTAKES_MAX ? mistakes : MISTAKES_MAX + 1;
}

/* The option, or if told to the command, that somebody may have meant; NULL if none is near. A
 * short name is within two letters of everything, so at least half of it must be right. */
static const char *name_meant(const char *name, size_t len, bool commands)
{
    static const char config[] = "config";
    const char *meant = NULL;
    int best = MISTAKES_MAX + 1, count = OPTION_COUNT_ALL + (commands ? COMMAND_COUNT : 0);
    for (int i = 0; i < count; i++) {
        const char *known =
            i < OPTION_COUNT_ALL ? OPTIONS[i].name : COMMANDS[i - OPTION_COUNT_ALL].name;
        if (!*known) known = config; /* in the place of the command that has no name */
        int mistakes = name_mistakes(name, len, known, strlen(known));
        if (mistakes >= best || 2 * mistakes > (int)strlen(known)) continue;
        best = mistakes;
        meant = known;
    }
    return meant;
}

/* Writes ` did you mean MEANT?` for a name that is none, or nothing. Returns out. */
static const char *name_hint(const char *name, size_t len, bool commands, char out[96])
{
    const char *meant = name_meant(name, len, commands);
    *out = 0;
    if (meant) snprintf(out, 96, " did you mean %s%s?", commands ? "--" : "", meant);
    return out;
}

/* The name of an option's environment variable: PRESENCE_MAX_MESSAGE for max-message. Returns out.
 */
static const char *option_env_name(const struct option_row *row, char out[64])
{
    int n = snprintf(out, 64, "PRESENCE_%s", row->name);
    for (int i = 0; i < n; i++) out[i] = out[i] == '-' ? '_' : (char)toupper((unsigned char)out[i]);
    return out;
}

/* Reads the environment, where commas separate the values of a list. False with the reason in why,
 * which names the variable. ONLINE_THRESHOLD_SECONDS is an older name of PRESENCE_ONLINE_THRESHOLD,
 * used only without the newer one. */
static bool options_from_env(struct options *options, struct why why)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        char name[64], line[WHY_MAX];
        const char *value = getenv(option_env_name(&OPTIONS[i], name));
        if (!value && !strcmp(OPTIONS[i].name, "online-threshold")) {
            snprintf(name, sizeof name, "ONLINE_THRESHOLD_SECONDS");
            value = getenv(name);
        }
        if (!value) continue;
        char *copy = mem_copy_text(value, strlen(value)), *rest = copy, *part;
        bool list = option_is_list(&OPTIONS[i]), good = true;
        while (good && (part = list ? strsep(&rest, ",") : copy)) {
            good = option_apply(options, &OPTIONS[i], part, &seen, WHY(line));
            if (!list) break;
        }
        free(copy);
        if (!good) return fail(why, "environment %s: %.400s", name, line);
    }
    return true;
}

/* Takes a value that begins with a backslash out of its escapes, in place: \xHH is a byte, \\ a
 * backslash. That is how --print-config writes what could not stand in a line as it is: blanks at
 * an end, a line end, a quote at both ends. False for any other escape and for \x00, which would
 * cut the value short. */
static bool config_unescape(char *value)
{
    char *to = value;
    for (const char *at = value; *at; at++, to++) {
        *to = *at;
        if (*at != '\\' || *++at == '\\') continue;
        int high = *at == 'x' ? hex_value(at[1]) : -1, low = high < 0 ? -1 : hex_value(at[2]);
        if (low < 0 || !(high | low)) return false;
        *to = (char)(high << 4 | low);
        at += 2;
    }
    *to = 0;
    return true;
}

/* True if a value has quotes around it, as other formats want them. Here they would become a part
 * of the value, and a file named "x" is what nobody means, so the reader refuses them. */
static bool config_quoted(const char *value)
{
    size_t len = strlen(value);
    return len > 1 && (*value == '"' || *value == '\'') && value[len - 1] == *value;
}

/* Prints a line that options_from_line reads as this value, whatever bytes it has. A value that
 * needs escapes begins with one, which is the mark that options_from_line looks for. */
static void config_print(FILE *out, const char *name, const char *value)
{
    static const char blanks[] = " \t\r";
    size_t len = strlen(value);
    bool plain = len && !strchr(" \t\r=\\", *value) && !strchr(blanks, value[len - 1]) &&
                 !strchr(value, '\n') && !config_quoted(value);
    size_t first = 1; /* the first character is escaped whole, so that the file stays UTF-8 */
    while (first < len && ((unsigned char)value[first] & 0xc0) == 0x80) first++;
    fprintf(out, "%s ", name);
    for (size_t i = 0; i < len; i++) {
        bool last_blank = i == len - 1 && strchr(blanks, value[i]);
        if (!plain && (i < first || last_blank || value[i] == '\n'))
            fprintf(out, "\\x%02x", (unsigned char)value[i]);
        else fprintf(out, !plain && value[i] == '\\' ? "\\%c" : "%c", value[i]);
    }
    putc('\n', out);
}

/* Reads one line of a configuration file: a name, blanks or '=', a value; blanks around the value
 * are no part of it, and a '#' begins a comment only at the start of a line, for a value may have
 * one. A flag without a value is yes. Changes the line. False with the reason in why. */
static bool options_from_line(struct options *options, char *line, uint64_t *seen, struct why why)
{
    char hint[96];
    line += strspn(line, " \t");
    if (!*line || *line == '#') return true;
    size_t name_len = strcspn(line, " \t=");
    char *value = line + name_len;
    value += strspn(value, " \t");
    if (*value == '=') value++;
    value += strspn(value, " \t");
    for (size_t n = strlen(value); n && strchr(" \t\r", value[n - 1]); n--) value[n - 1] = 0;
    const struct option_row *row = option_find(line, name_len);
    if (!row)
        return fail(why, "'%.*s' is no option;%s --help lists them", (int)name_len, line,
                    name_hint(line, name_len, false, hint));
    /* Before the escapes: a value that really has quotes is written with \x22. */
    if (config_quoted(value))
        return fail(why,
                    "--%s: %.200s has quotes around it, which would be a part of it;"
                    " leave them out",
                    row->name, value);
    if (*value == '\\' && !config_unescape(value))
        return fail(why,
                    "--%s: '%.200s' begins with a backslash, and then each means"
                    " something: write \\\\ for one, \\x20 for a blank",
                    row->name, value);
    return option_apply(options, row, row->type == OPTION_FLAG && !*value ? "yes" : value, seen,
                        why);
}

/* Reads a configuration file to its end or to the first error, which names file and line. A file
 * that cannot be read is an error, too: a server without its configuration would serve with
 * defaults. */
static bool options_from_file(struct options *options, const char *path, struct why why)
{
    FILE *file = fopen(path, "re");
    if (!file)
        return fail(why, "--config: cannot read %s: %s; name a readable file", path,
                    strerror(errno));
    char *line = NULL, problem[WHY_MAX];
    size_t size = 0, number = 0;
    uint64_t seen = 0;
    bool good = true;
    while (good && getline(&line, &size, file) >= 0) {
        number++;
        line[strcspn(line, "\n")] = 0;
        good = options_from_line(options, line, &seen, WHY(problem));
        if (!good) fail(why, "%.80s line %zu: %.400s", path, number, problem);
    }
    if (good && ferror(file)) {
        fail(why, "--config: cannot read %s: %s", path, strerror(errno));
        good = false;
    }
    free(line);
    fclose(file);
    return good;
}

/* The command that a flag names, or COMMAND_COUNT. */
static enum command command_find(const char *name, size_t len)
{
    for (int i = 1; i < COMMAND_COUNT; i++)
        if (strlen(COMMANDS[i].name) == len && !memcmp(COMMANDS[i].name, name, len)) return i;
    return COMMAND_COUNT;
}

/* Takes one argument of the command line; *i moves past the value it used. The command line is gone
 * over twice: with config_pass only --config is obeyed, so that the file is read first, wherever it
 * is named; the names are checked both times. `--name value` and `--name=value` are the same, but a
 * value that begins with -- must be written the second way: else a forgotten value would eat the
 * next option. False with the reason in why. */
static bool options_take(struct options *options, int argc, char **argv, int *i, bool config_pass,
                         uint64_t *seen, struct command_line *out, struct why why)
{
    const char *arg = argv[*i];
    if (!strcmp(arg, "-h")) arg = "--help";
    if (!strcmp(arg, "-V")) arg = "--version";
    if (strncmp(arg, "--", 2) || !arg[2])
        return fail(why, "'%s' is no option; they begin with --, and --help lists them", arg);
    const char *name = arg + 2, *equals = strchr(name, '='), *value = equals ? equals + 1 : NULL;
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    const struct option_row *row = option_find(name, len);
    enum command command = command_find(name, len);
    bool config = len == 6 && !memcmp(name, "config", 6);
    if (!row && !config && command == COMMAND_COUNT) {
        char hint[96];
        return fail(why, "--%.*s is no option;%s --help lists them", (int)len, name,
                    name_hint(name, len, true, hint));
    }
    /* Flags take a value only behind '=': --insecure no would be a flag and a stray word. */
    bool takes = config || (row ? row->type != OPTION_FLAG : *COMMANDS[command].argument != 0);
    if (takes && !value) {
        if (*i + 1 >= argc || !strncmp(argv[*i + 1], "--", 2))
            return fail(why, "--%.*s: the value is missing; write --%.*s %s", (int)len, name,
                        (int)len, name,
                        config ? "FILE"
                        : row  ? row->argument
                               : COMMANDS[command].argument);
        value = argv[++*i];
    }
    if (!takes && value && !row)
        return fail(why, "--%.*s: takes no value; leave '=%s' out", (int)len, name, value);
    if (config) return !config_pass || options_from_file(options, value, why);
    if (config_pass) return true;
    if (row) return option_apply(options, row, value ? value : "yes", seen, why);
    /* Two commands: which of them is meant is not guessed. One named twice is. */
    if (out->command != COMMAND_SERVE && out->command != command)
        return fail(why, "--%s and --%s exclude each other; give one", COMMANDS[out->command].name,
                    COMMANDS[command].name);
    out->command = command;
    out->file = value;
    return true;
}

/* Reads file, environment and command line, each stronger than the one before. False with the
 * reason in why; what was read up to there is set, and options_free is the caller's to call in any
 * case. */
static bool options_read(struct options *options, int argc, char **argv, struct command_line *out,
                         struct why why)
{
    *out = (struct command_line){COMMAND_SERVE, NULL};
    uint64_t seen = 0;
    for (int i = 1; i < argc; i++)
        if (!options_take(options, argc, argv, &i, true, &seen, out, why)) return false;
    if (!options_from_env(options, why)) return false;
    for (int i = 1; i < argc; i++)
        if (!options_take(options, argc, argv, &i, false, &seen, out, why)) return false;
    return true;
}

/* Prints one option's value in the form that --config reads; an empty list or text is left out,
 * which is how --config says it. */
static void option_print(const struct options *options, const struct option_row *row, FILE *out)
{
    static const char *const no_yes[] = {"no", "yes"}, *const formats[] = {"logfmt", "json"};
    const void *field = (const char *)options + row->offset;
    bool number = !option_is_list(row) && row->type != OPTION_TEXT;
    int64_t n = number ? *(const int64_t *)field : 0;
    char text[32];
    switch (row->type) {
    case OPTION_LIST:
    case OPTION_FILES:
    case OPTION_ORIGINS:
    case OPTION_RANGES:
        for (size_t i = 0; i < ((const struct option_list *)field)->count; i++)
            config_print(out, row->name, ((const struct option_list *)field)->at[i]);
        return;
    case OPTION_TEXT:
        if (**(char *const *)field) config_print(out, row->name, *(char *const *)field);
        return;
    case OPTION_FLAG: fprintf(out, "%s %s\n", row->name, no_yes[n]); return;
    case OPTION_LEVEL: fprintf(out, "%s %s\n", row->name, LOG_LEVELS[n]); return;
    case OPTION_FORMAT: fprintf(out, "%s %s\n", row->name, formats[n]); return;
    default: fprintf(out, "%s %s\n", row->name, option_bound(row, n, text)); return;
    }
}

static void options_print(const struct options *options, FILE *out)
{
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) option_print(options, &OPTIONS[i], out);
}

/* Prints one entry of the help: its name, and below it the text in lines of at most 80 columns. */
static void help_print(FILE *out, const char *name, const char *argument, const char *text)
{
    fprintf(out, "  --%s%s%s\n", name, *argument ? " " : "", argument);
    while (*text) {
        size_t len = strlen(text), cut = len;
        if (len > 74)
            for (cut = 74; text[cut] != ' ';) cut--;
        fprintf(out, "      %.*s\n", (int)cut, text);
        text += cut + (cut < len);
    }
}

/* Prints the help: what the program is, the options by group with their defaults, --config, which
 * is no option of the table as it cannot be in a file, and the commands. */
static void options_print_help(FILE *out)
{
    fprintf(out, "presence " PRESENCE_VERSION ": who is online, and when each was last seen\n\n"
                 "usage: presence [option ...] [command]\n");
    const char *group = "";
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        const struct option_row *row = &OPTIONS[i];
        char text[WHY_MAX];
        if (strcmp(group, row->group)) fprintf(out, "\n%s\n", group = row->group);
        bool bare = row->type == OPTION_FLAG || !*row->initial;
        snprintf(text, sizeof text, bare ? "%s" : "%s [%s]", row->help, row->initial);
        help_print(out, row->name, row->argument, text);
    }
    fprintf(out, "\nConfiguration\n");
    help_print(out, "config", "FILE",
               "read a file of the same names, one on a line, without the dashes. The environment"
               " is stronger than the file (PRESENCE_MAX_BODY for --max-body), the command line"
               " than both.");
    fprintf(out, "\nCommands\n");
    for (int i = 1; i < COMMAND_COUNT; i++)
        help_print(out, COMMANDS[i].name, COMMANDS[i].argument, COMMANDS[i].help);
    fprintf(out, "\nMore: man presence, man presence-protocol.\n");
}

/* True if there is a key for tokens: then a request must have a token where its route says so. */
static bool options_have_keys(const struct options *options)
{
    return options->jwt_secret_file.count + options->jwt_public_key_file.count > 0;
}

/* What an option needs to have an effect. */
enum option_need { NEED_KEY, NEED_NO_KEY, NEED_TLS, NEED_URL, NEED_PASSWORD, NEED_MINT };

/* Options that change nothing without another option or a command. Whoever gives one believes that
 * it does: the log says otherwise, and the server starts. */
static const struct option_needs {
    const char *option;
    enum option_need need;
} OPTION_NEEDS[] = {
    {"insecure", NEED_NO_KEY},
    {"tls-cert", NEED_TLS},
    {"tls-key", NEED_TLS},
    {"tls-self-signed", NEED_TLS},
    {"tls-threads", NEED_TLS},
    {"jwt-issuer", NEED_KEY},
    {"jwt-audience", NEED_KEY},
    {"token-lifetime", NEED_MINT},
    {"token-watch", NEED_MINT},
    {"token-admin", NEED_MINT},
    {"admin-session", NEED_PASSWORD},
    {"webhook-secret-file", NEED_URL},
    {"webhook-ca-file", NEED_URL},
    {"webhook-batch", NEED_URL},
    {"webhook-timeout", NEED_URL},
    {"webhook-outbox", NEED_URL},
    {"webhook-give-up", NEED_URL},
};

/* True if an option is other than its default. That is what can be known here, and enough: one that
 * was given with its default's value asks for nothing. */
static bool option_is_set(const struct options *options, const struct option_row *row)
{
    const void *field = (const char *)options + row->offset;
    int64_t initial;
    if (option_is_list(row)) return ((const struct option_list *)field)->count;
    if (row->type == OPTION_TEXT) return strcmp(*(char *const *)field, row->initial);
    return option_parse_number(row, row->initial, &initial) && initial != *(const int64_t *)field;
}

/* Why an option with this need has no effect, as the end of a sentence; NULL if it has one. */
static const char *option_lacks(const struct options *options, enum option_need need)
{
    bool has[] = {
        [NEED_KEY] = options_have_keys(options),
        [NEED_NO_KEY] = !options_have_keys(options),
        [NEED_TLS] = options->tls_listen.count > 0,
        [NEED_URL] = *options->webhook_url,
        [NEED_PASSWORD] = *options->admin_password_file,
        [NEED_MINT] = false, /* only a server is told of this */
    };
    static const char *const lacks[] = {
        [NEED_KEY] = "without --jwt-secret-file or --jwt-public-key-file",
        [NEED_NO_KEY] = "beside a key for tokens",
        [NEED_TLS] = "without --tls-listen",
        [NEED_URL] = "without --webhook-url",
        [NEED_PASSWORD] = "without --admin-password-file",
        [NEED_MINT] = "without --mint-token",
    };
    return has[need] ? NULL : lacks[need];
}

/* True if a variable of the environment is nearly an option of ours; then its name and what was
 * meant are written. Not every PRESENCE_ variable is a mistake: Kubernetes sets PRESENCE_PORT and
 * the like for a service of that name. So it must be near to a name, with at least half of it
 * right. PRESENCE_JWT_SECRET and its like are told, too: whoever puts the secret itself where its
 * file is to be named would run without keys. */
static bool env_is_mistyped(const char *variable, char name[64], char meant[64])
{
    static const char prefix[] = "PRESENCE_";
    size_t len = strcspn(variable, "=");
    if (len <= sizeof prefix - 1 || len >= 64 || strncmp(variable, prefix, sizeof prefix - 1))
        return false;
    snprintf(name, 64, "%.*s", (int)len, variable);
    strcpy(meant, "--config");
    if (!strcmp(name, "PRESENCE_CONFIG")) return true; /* a file is named on the command line */
    int best = MISTAKES_MAX + 1;
    for (size_t i = 0; i < OPTION_COUNT_ALL && best; i++) {
        char known[64];
        size_t known_len = strlen(option_env_name(&OPTIONS[i], known));
        int mistakes = name_mistakes(name, len, known, known_len);
        bool file = known_len == len + 5 && !memcmp(known, name, len) &&
                    !strcmp(known + len, "_FILE"); /* the secret itself, where its file is named */
        if (file) mistakes = 1;
        /* The prefix is the same in all names, so it does not count as right. */
        if (mistakes >= best || 2 * mistakes > (int)(known_len - (sizeof prefix - 1))) continue;
        best = mistakes;
        strcpy(meant, known);
    }
    return best && best <= MISTAKES_MAX;
}

/* Tells of each option that was given and has no effect. Called once, when the server starts or
 * with --check-config. */
static void options_warn(const struct options *options, struct log *log)
{
    for (size_t i = 0; i < sizeof OPTION_NEEDS / sizeof *OPTION_NEEDS; i++) {
        const struct option_needs *needs = &OPTION_NEEDS[i];
        const char *lack = option_lacks(options, needs->need);
        const struct option_row *row = option_find(needs->option, strlen(needs->option));
        if (lack && option_is_set(options, row))
            log_line(log, LOG_WARN, "--%s has no effect %s", needs->option, lack);
    }
    for (char **variable = environ; *variable; variable++) {
        char name[64], meant[64];
        if (env_is_mistyped(*variable, name, meant))
            log_line(log, LOG_WARN,
                     "environment %s is no option, and has no effect; did you mean"
                     " %s?",
                     name, meant);
    }
}

/* ==== 10. Tokens ==============================================================================
 * Who a request speaks for: users' tokens. JWT (RFC 7519) as JWS in its compact form (RFC 7515), by
 * the advice of RFC 8725: the key decides the algorithm, `none` does not exist, form and signature
 * are checked before any claim is read.
 *
 * Time is a parameter, the cryptography is Mbed TLS's, and but for the files of keys there is no
 * I/O. No text made here, for a client or for the log, holds any part of a token or a key. */

enum {
    TOKEN_MAX = 8192,      /* bytes of a token */
    TOKEN_SKEW_MS = 30000, /* how far the clocks of issuer and server may be apart */
    TOKEN_KID_MAX = 64,    /* bytes of a key's name */
    TOKEN_SECRET_MIN = 32, /* RFC 7518 section 3.2: as many bytes as the hash has */
    TOKEN_SECRET_MAX = 4096,
    TOKEN_PEM_MAX = 65536,
    TOKEN_RSA_MIN = 2048, /* bits; RFC 7518 section 3.3 */
    TOKEN_RSA_MAX = 8192,
    SHA256_SIZE = 32,
    PASSWORD_MAX = 4096,          /* bytes of the admin's password */
    PASSWORD_ITERATIONS = 210000, /* takes some 0.3 s: who guesses pays that for each guess */
    PASSWORD_ITERATIONS_MIN = 10000,
    PASSWORD_ITERATIONS_MAX = 10000000,
    SESSION_PAYLOAD = 24,       /* 8 bytes of expiry, 16 random ones */
    SESSION_TEXT = 32 + 1 + 43, /* payload and HMAC in base64url, a dot between */
};

/* The latest time a token may name, in seconds: the last of the year 9999. A claim in milliseconds
 * is later than this and refused, where it would otherwise be a token that never ends. */
#define TOKEN_TIME_MAX 253402300799.0

/* HMAC-SHA256 (RFC 2104). It can fail for want of memory only, which ends the process. */
static void hmac_sha256(struct span key, struct span text, uint8_t out[SHA256_SIZE])
{
    const mbedtls_md_info_t *sha256 = mbedtls_md_info_from_type(MBEDTLS_MD_SHA256);
    if (mbedtls_md_hmac(sha256, (const uint8_t *)key.at, key.len, (const uint8_t *)text.at,
                        text.len, out))
        mem_die();
}

/* True if these 32 bytes are the HMAC of text; takes as long for a wrong one as for the right. The
 * right one is cleared: it would be a valid signature of what was asked. */
static bool hmac_sha256_fits(struct span key, struct span text, const void *mac)
{
    uint8_t right[SHA256_SIZE];
    hmac_sha256(key, text, right);
    bool fits = bytes_equal_constant(right, mac, sizeof right);
    mbedtls_platform_zeroize(right, sizeof right);
    return fits;
}

/* What a key is good for, and nothing else: the token says which algorithm it wants, and only a key
 * of that kind is tried (RFC 8725 section 3.1). So nobody can have a public RSA key, which all
 * know, taken for an HMAC secret. */
enum token_kind { TOKEN_HS256, TOKEN_RS256, TOKEN_ES256, TOKEN_KIND_COUNT };
static const char *const TOKEN_ALGORITHMS[] = {"HS256", "RS256", "ES256"};

/* One key: a secret, or the public half of a pair. Fields of the other kind are empty. */
struct token_key {
    enum token_kind kind;
    char kid[TOKEN_KID_MAX + 1]; /* its name; "" if it has none */
    struct buffer secret;        /* HS256 */
    mbedtls_pk_context pk;       /* RS256, ES256 */
};

/* The keys that tokens may be signed with. Zeroed is empty; the owner frees it. Filled by one
 * thread, then used by any number at once, see token_key_fits; never changed while in use: a reload
 * makes another list. */
struct token_keys {
    struct token_key *at;
    size_t count;
};

/* Gives the memory back and leaves no trace of what was in it. */
static void secret_free(struct buffer *secret)
{
    if (secret->at) mbedtls_platform_zeroize(secret->at, secret->size);
    buffer_free(secret);
}

static void token_key_free(struct token_key *key)
{
    secret_free(&key->secret);
    mbedtls_pk_free(&key->pk);
}

/* Empties the list. */
static void token_keys_free(struct token_keys *keys)
{
    for (size_t i = 0; i < keys->count; i++) token_key_free(&keys->at[i]);
    free(keys->at);
    *keys = (struct token_keys){0};
}

/* Appends a key, which belongs to the list from then on. */
static void token_keys_add(struct token_keys *keys, const struct token_key *key)
{
    keys->at = mem_resize(keys->at, (keys->count + 1) * sizeof *keys->at);
    keys->at[keys->count++] = *key;
}

/* Reads a whole file of at most max bytes. The room is taken at once, so that the content never
 * moves and leaves no copy behind in freed memory. The caller gives it to secret_free, also on
 * failure. It may be a pipe (a secret from a program): at the start its writer is waited for, on a
 * reload it must have written already, as main cannot hang then. False with the reason in why,
 * which names the option. */
static bool secret_read(const char *option, const char *path, bool wait, size_t max,
                        struct buffer *out, struct why why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | (wait ? 0 : O_NONBLOCK));
    ssize_t got = fd < 0 ? -1 : 1;
    /* A buffer that grew would leave copies of the secret in freed memory. */
    buffer_room(out, max + 2); /* one byte too many shows in len; one is for a NUL */
    while (got > 0 && out->len <= max) {
        do got = read(fd, out->at + out->len, max + 1 - out->len);
        while (got < 0 && errno == EINTR);
        if (got > 0) out->len += (size_t)got;
    }
    out->at[out->len] = 0;
    if (got < 0)
        fail(why, "--%s: cannot read %.200s: %s; name a readable file", option, path,
             strerror(errno));
    else if (out->len > max)
        fail(why, "--%s: %.200s is too long, it may have %zu bytes; name another", option, path,
             max);
    if (fd >= 0) close(fd);
    return got >= 0 && out->len <= max;
}

/* Takes one line end off, if there is one: editors add it, and nobody means it. */
static void secret_trim(struct buffer *secret)
{
    if (!secret->len || secret->at[secret->len - 1] != '\n') return;
    secret->len--;
    if (secret->len && secret->at[secret->len - 1] == '\r') secret->len--;
    secret->at[secret->len] = 0;
}

/* Splits `[KID=]FILE`: copies the kid, or "", and returns the file. What stands before the first
 * '=' is a kid if it is UTF-8 of 1 to TOKEN_KID_MAX bytes without '/', else part of the name: so
 * ./a=b is a file. */
static const char *token_key_path(const char *value, char kid[TOKEN_KID_MAX + 1])
{
    size_t len = strcspn(value, "=/");
    if (value[len] != '=' || len > TOKEN_KID_MAX || !utf8_valid((struct span){value, len})) len = 0;
    memcpy(kid, value, len);
    kid[len] = 0;
    return len ? value + len + 1 : value;
}

/* Adds the secret of one --jwt-secret-file: the file's bytes less one line end; wait as in
 * secret_read. A PEM file is refused: a public key used as a secret would let everybody sign, as
 * everybody has it. False with the reason in why, and the list as it was. */
static bool token_keys_add_secret(struct token_keys *keys, const char *value, bool wait,
                                  struct why why)
{
    static const char option[] = "jwt-secret-file", pem[] = "-----BEGIN ";
    struct token_key key = {.kind = TOKEN_HS256};
    const char *path = token_key_path(value, key.kid);
    bool good = secret_read(option, path, wait, TOKEN_SECRET_MAX + 2, &key.secret, why);
    secret_trim(&key.secret);
    mbedtls_pk_init(&key.pk);
    if (good && (key.secret.len < TOKEN_SECRET_MIN || key.secret.len > TOKEN_SECRET_MAX)) {
        fail(why, "--%s: %.200s has %zu bytes; a secret has %d to %d: openssl rand -hex 32", option,
             path, key.secret.len, TOKEN_SECRET_MIN, TOKEN_SECRET_MAX);
        good = false;
    } else if (good && memmem(key.secret.at, key.secret.len, pem, sizeof pem - 1)) {
        fail(why, "--%s: %.200s is PEM, no secret; public keys go to --jwt-public-key-file", option,
             path);
        good = false;
    }
    if (good) token_keys_add(keys, &key);
    else token_key_free(&key);
    return good;
}

/* Takes the public key of the first certificate in a PEM text. Its dates and issuer are not looked
 * at: the operator who names the file vouches for it. False if one of the certificates is not
 * valid. The key moves out of the certificate, which is freed without it. */
static bool token_key_from_certificate(mbedtls_pk_context *pk, const struct buffer *pem)
{
    mbedtls_x509_crt certificate;
    mbedtls_x509_crt_init(&certificate);
    bool good = !mbedtls_x509_crt_parse(&certificate, (const uint8_t *)pem->at, pem->len + 1);
    if (good) {
        *pk = certificate.pk;
        mbedtls_pk_init(&certificate.pk);
    }
    mbedtls_x509_crt_free(&certificate);
    return good;
}

/* Fills in key and kind from a PEM text, which a NUL follows. Returns what is wrong with it, as the
 * end of a sentence, or NULL. A private key is refused, as it has no business here. RSA below 2048
 * bits is too weak (RFC 7518 section 3.3); above 8192 each check would take a worker too long. That
 * a point of an EC key lies on its curve is checked by Mbed TLS. */
static const char *token_key_parse(struct token_key *key, const struct buffer *pem)
{
    static const char private[] = "PRIVATE KEY-----", certificate[] = "-----BEGIN CERTIFICATE-----",
                      begin[] = "-----BEGIN ";
    const char *first = strstr(pem->at, begin);
    if (memmem(pem->at, pem->len, private, sizeof private - 1))
        return "holds a private key, which belongs to the issuer alone; take its public half:"
               " openssl pkey -pubout";
    if (!first) return "is not PEM; convert it: openssl pkey -pubin -inform DER";
    /* A certificate's chain may follow it; of bare keys there must be one only. */
    bool certified = !strncmp(first, certificate, sizeof certificate - 1);
    if (!certified && strstr(first + 1, begin))
        return "holds several keys; give each a file and an option of its own";
    if (certified ? !token_key_from_certificate(&key->pk, pem)
                  : mbedtls_pk_parse_public_key(&key->pk, (const uint8_t *)pem->at, pem->len + 1))
        return "has no key in it that is understood; take RSA of 2048 bits, or EC on P-256";
    mbedtls_pk_type_t type = mbedtls_pk_get_type(&key->pk);
    size_t bits = mbedtls_pk_get_bitlen(&key->pk);
    bool p256 = type == MBEDTLS_PK_ECKEY && mbedtls_ecp_keypair_get_group_id(
                                                mbedtls_pk_ec(key->pk)) == MBEDTLS_ECP_DP_SECP256R1;
    if (!p256 && (type != MBEDTLS_PK_RSA || bits < TOKEN_RSA_MIN || bits > TOKEN_RSA_MAX))
        return "is neither RSA of 2048 to 8192 bits nor EC on P-256; take one of these";
    key->kind = p256 ? TOKEN_ES256 : TOKEN_RS256;
    return NULL;
}

/* Adds the key of one --jwt-public-key-file, a PEM public key or certificate; wait as in
 * secret_read. False with the reason in why, and the list as it was. */
static bool token_keys_add_public(struct token_keys *keys, const char *value, bool wait,
                                  struct why why)
{
    static const char option[] = "jwt-public-key-file";
    struct token_key key = {.kind = TOKEN_RS256};
    struct buffer pem = {0};
    const char *path = token_key_path(value, key.kid), *problem = NULL;
    mbedtls_pk_init(&key.pk);
    bool good = secret_read(option, path, wait, TOKEN_PEM_MAX, &pem, why);
    if (good) problem = token_key_parse(&key, &pem);
    if (problem) fail(why, "--%s: %.200s %s", option, path, problem);
    secret_free(&pem); /* it may have been a private key */
    good = good && !problem;
    if (good) token_keys_add(keys, &key);
    else token_key_free(&key);
    return good;
}

/* What can be wrong with a token, and the text that a client is told. It says which check failed,
 * never what was compared: an issuer's mistake can be found by it, and a forger learns nothing. */
#define TOKEN_PROBLEM_TABLE(X)                                                                     \
    X(NONE, "the token is good")                                                                   \
    X(MISSING, "there is no token")                                                                \
    X(MALFORMED, "the token is not three parts in base64url, or too long, or holds no JSON")       \
    X(HEADER, "the token's typ is not JWT or at+jwt, or its crit asks for what is not known")      \
    X(ALGORITHM, "the token's alg is not HS256, RS256 or ES256, or is not that of the key")        \
    X(UNKNOWN_KEY, "the token was signed with a key that is not known")                            \
    X(SIGNATURE, "the token's signature is wrong")                                                 \
    X(EXPIRED, "the token has expired")                                                            \
    X(NOT_YET, "the token is not yet valid")                                                       \
    X(ISSUER, "the token's iss is not the issuer expected")                                        \
    X(AUDIENCE, "the token's aud is not for this server")                                          \
    X(SUBJECT, "the token's sub is not a valid user id")                                           \
    X(CLAIMS, "the token has no exp, or its exp, nbf or watch cannot be what it is")
#define X(name, text) TOKEN_##name,
enum token_problem { TOKEN_PROBLEM_TABLE(X) TOKEN_PROBLEM_COUNT };
#undef X
#define X(name, text) text,
static const char *const TOKEN_PROBLEMS[] = {TOKEN_PROBLEM_TABLE(X)};
#undef X

/* What a good token says. Whoever had it read gives it to token_free. */
struct token {
    char user[USER_ID_MAX + 1]; /* sub; has no NUL inside */
    size_t user_len;
    int64_t expires_ms; /* exp: wall time, without the skew */
    bool admin;
    bool watches_all;    /* watch is "*" */
    struct buffer watch; /* the array of ids as JSON, known to be valid; or empty */
};

/* Gives the memory back; the token says nothing after. */
static void token_free(struct token *token)
{
    buffer_free(&token->watch);
    *token = (struct token){0};
}

/* True if the token lets its bearer see this user: it is the bearer, the token's watch has the id
 * or is "*", or the token is an admin's. In an array "*" is an id like any other. Reads the array
 * from its begin: for many ids see token_may_watch_listed. */
static bool token_may_watch(const struct token *token, struct span id)
{
    if (token->admin || token->watches_all) return true;
    if (!bytes_compare(token->user, token->user_len, id.at, id.len)) return true;
    struct json_value item, watch = {JSON_ARRAY, {token->watch.at, token->watch.len}};
    if (!watch.raw.len) return false;
    for (size_t cursor = 0; json_item(watch, &cursor, &item);)
        if (json_equals(item, id)) return true;
    return false;
}

/* Ids in the order of their bytes, in one piece of memory: free() is enough. */
struct id_list {
    size_t count;
    struct span ids[]; /* their bytes follow */
};

/* Orders two spans by their bytes, for qsort. */
static int id_list_order(const void *a, const void *b)
{
    const struct span *one = a, *other = b;
    return bytes_compare(one->at, one->len, other->at, other->len);
}

/* The ids that a token's watch names, sorted, to be freed by the caller; NULL when it names none.
 * The token was read, so its array is valid JSON of valid ids. The room suffices, as a string in
 * JSON is longer than what it stands for. */
static struct id_list *id_list_of_token(const struct token *token)
{
    struct json_value item, watch = {JSON_ARRAY, {token->watch.at, token->watch.len}};
    size_t count = 0;
    if (!watch.raw.len) return NULL;
    for (size_t cursor = 0; json_item(watch, &cursor, &item);) count++;
    if (!count) return NULL;
    /* a string in JSON is longer than what it stands for */
    struct id_list *list = mem_new(sizeof *list + count * sizeof *list->ids + watch.raw.len);
    char *at = (char *)(list->ids + count), *end = at + watch.raw.len;
    for (size_t cursor = 0; json_item(watch, &cursor, &item);) {
        int len = json_string(item, at, (size_t)(end - at));
        if (len < 0) fatal("a checked token is no JSON");
        list->ids[list->count++] = (struct span){at, (size_t)len};
        at += len;
    }
    qsort(list->ids, list->count, sizeof *list->ids, id_list_order);
    return list;
}

static bool id_list_has(const struct id_list *list, struct span id)
{
    return list && bsearch(&id, list->ids, list->count, sizeof *list->ids, id_list_order);
}

/* token_may_watch for many ids: `may` is the token's list, made once. Without it a request for
 * 1,000 ids with a token of 950 would compare a million times. */
static bool token_may_watch_listed(const struct token *token, const struct id_list *may,
                                   struct span id)
{
    return token->admin || token->watches_all || id_list_has(may, id) ||
           !bytes_compare(token->user, token->user_len, id.at, id.len);
}

/* A token in its three parts, decoded. The spans point into `bytes` and into the token's text. */
struct token_parts {
    struct span header, payload, signature; /* decoded; they point into bytes */
    struct span covered;                    /* what was signed: the text before the second dot */
    char bytes[TOKEN_MAX / 4 * 3];
};

/* Cuts and decodes a token. False if it is longer than TOKEN_MAX, or is not three parts of
 * base64url: `bytes` has room for what TOKEN_MAX characters can decode to. */
static bool token_split(struct span text, struct token_parts *out)
{
    struct span *const parts[] = {&out->header, &out->payload, &out->signature};
    const char *at = text.at, *end = text.at + text.len;
    size_t used = 0;
    if (text.len > TOKEN_MAX) return false;
    for (int i = 0; i < 3; i++) {
        const char *dot = i < 2 ? memchr(at, '.', (size_t)(end - at)) : end;
        if (!dot) return false;
        int n = base64url_decode((struct span){at, (size_t)(dot - at)}, out->bytes + used,
                                 sizeof out->bytes - used);
        if (n < 0) return false;
        *parts[i] = (struct span){out->bytes + used, (size_t)n};
        /* The signature covers the text as it was sent, header and payload with the dot between
         * (RFC 7515 section 5.2); nothing is encoded again. */
        if (i == 1) out->covered = (struct span){text.at, (size_t)(dot - text.at)};
        used += (size_t)n;
        at = dot + (i < 2);
    }
    return true;
}

/* What a token's header asks for; kid points into the decoded header. */
struct token_header {
    enum token_kind kind;
    bool has_kid;
    struct json_value kid; /* a string */
};

/* True for `JWT` or `at+jwt` (RFC 9068), in any case. Other types are tokens of the same issuer for
 * something else, an ID token for example, and no access (RFC 8725 section 3.11). */
static bool token_type_known(struct json_value typ)
{
    char text[8];
    int n = json_string(typ, text, sizeof text);
    if (n < 0 || strlen(text) != (size_t)n) return false;
    return !strcasecmp(text, "JWT") || !strcasecmp(text, "at+jwt");
}

/* Reads a header. A `crit` is refused whatever it has: no extension is known here, and one that is
 * not understood must be (RFC 7515 section 4.1.11). Of members with the same name the last counts
 * (section 4), here and in the claims; the signature covers them all. */
static enum token_problem token_read_header(struct span text, struct token_header *out)
{
    struct json_value header, value;
    if (!json_parse(text, JSON_DEPTH_MAX, &header) || header.kind != JSON_OBJECT)
        return TOKEN_MALFORMED;
    *out = (struct token_header){.kind = TOKEN_KIND_COUNT};
    if (json_member(header, "alg", &value))
        for (int i = 0; i < TOKEN_KIND_COUNT; i++)
            if (json_is(value, TOKEN_ALGORITHMS[i])) out->kind = i;
    if (out->kind == TOKEN_KIND_COUNT) return TOKEN_ALGORITHM;
    if (json_member(header, "crit", &value)) return TOKEN_HEADER;
    if (json_member(header, "typ", &value) && !token_type_known(value)) return TOKEN_HEADER;
    out->has_kid = json_member(header, "kid", &out->kid);
    return out->has_kid && out->kid.kind != JSON_STRING ? TOKEN_MALFORMED : TOKEN_NONE;
}

/* [any] True if the token, which asks for the key's algorithm, was signed with it. Any number of
 * threads may use one key: of an RSA key Mbed TLS changes one number that it computes only once,
 * under the key's own lock (mbedtls_rsa_public); of an EC key nothing, as the tables of P-256 are
 * constants; of a secret nothing. An ES256 signature is two numbers of 32 bytes (RFC 7518 section
 * 3.4), which Mbed TLS wants as DER. */
static bool token_key_fits(struct token_key *key, const struct token_parts *parts)
{
    const uint8_t *signature = (const uint8_t *)parts->signature.at;
    size_t len = parts->signature.len;
    uint8_t hash[SHA256_SIZE], der[80];
    if (key->kind == TOKEN_HS256)
        return len == SHA256_SIZE &&
               hmac_sha256_fits((struct span){key->secret.at, key->secret.len}, parts->covered,
                                signature);
    if (mbedtls_md(mbedtls_md_info_from_type(MBEDTLS_MD_SHA256), (const uint8_t *)parts->covered.at,
                   parts->covered.len, hash))
        return false;
    if (key->kind == TOKEN_ES256) {
        if (mbedtls_ecdsa_raw_to_der(256, signature, len, der, sizeof der, &len)) return false;
        signature = der;
    }
    return !mbedtls_pk_verify(&key->pk, MBEDTLS_MD_SHA256, hash, sizeof hash, signature, len);
}

static bool token_key_named(const struct token_key *key, const struct token_header *header)
{
    return header->has_kid && *key->kid && json_is(header->kid, key->kid);
}

/* Looks for the key that signed the token: among those of its kid; where no key has that kid, among
 * those without one; among all if the token names none. So keys can be rotated with or without
 * names. Several keys may have one kid, and each of the right kind is tried. The problem told is
 * the one nearest to success. */
static enum token_problem token_check_signature(const struct token_keys *keys,
                                                const struct token_header *header,
                                                const struct token_parts *parts)
{
    enum token_problem problem = TOKEN_UNKNOWN_KEY;
    bool known = false;
    for (size_t i = 0; i < keys->count; i++) known = known || token_key_named(&keys->at[i], header);
    for (size_t i = 0; i < keys->count; i++) {
        struct token_key *key = &keys->at[i];
        /* A kid that no key has: the issuer names keys, this server's operator does not. */
        if (header->has_kid && (known ? !token_key_named(key, header) : *key->kid)) continue;
        if (key->kind == header->kind) {
            if (token_key_fits(key, parts)) return TOKEN_NONE;
            problem = TOKEN_SIGNATURE;
        } else if (problem == TOKEN_UNKNOWN_KEY) {
            problem = TOKEN_ALGORITHM;
        }
    }
    return problem;
}

/* Reads a NumericDate (RFC 7519 section 2), seconds with or without a fraction, to the nearest ms.
 * False if it is no number, negative, later than TOKEN_TIME_MAX or longer than any sense. The
 * bounds keep it far from what int64_t cannot hold. */
static bool token_read_time(struct json_value value, int64_t *ms)
{
    char text[32];
    if (value.kind != JSON_NUMBER || value.raw.len >= sizeof text) return false;
    memcpy(text, value.raw.at, value.raw.len);
    text[value.raw.len] = 0;
    double seconds = strtod(text, NULL);
    if (!(seconds >= 0 && seconds <= TOKEN_TIME_MAX)) return false;
    *ms = (int64_t)(seconds * 1000 + 0.5);
    return true;
}

/* Checks exp, nbf, iss and aud (RFC 7519 section 4.1), in that order. exp is required: a token that
 * never ends could not be taken back. Both times are given TOKEN_SKEW_MS, as issuer and server have
 * clocks of their own. aud may be a string or an array that has ours. */
static enum token_problem token_check_claims(struct json_value claims, int64_t wall_ms,
                                             const char *issuer, const char *audience,
                                             int64_t *expires_ms)
{
    struct json_value value, item;
    int64_t from;
    if (!json_member(claims, "exp", &value) || !token_read_time(value, expires_ms))
        return TOKEN_CLAIMS;
    if (wall_ms >= *expires_ms + TOKEN_SKEW_MS) return TOKEN_EXPIRED;
    if (json_member(claims, "nbf", &value)) {
        if (!token_read_time(value, &from)) return TOKEN_CLAIMS;
        if (wall_ms < from - TOKEN_SKEW_MS) return TOKEN_NOT_YET;
    }
    if (*issuer && !(json_member(claims, "iss", &value) && json_is(value, issuer)))
        return TOKEN_ISSUER;
    if (!*audience) return TOKEN_NONE;
    if (!json_member(claims, "aud", &value)) return TOKEN_AUDIENCE;
    bool meant = json_is(value, audience);
    for (size_t cursor = 0; !meant && json_item(value, &cursor, &item);)
        meant = json_is(item, audience);
    return meant ? TOKEN_NONE : TOKEN_AUDIENCE;
}

/* Takes the user id that a JSON string says; its length, or -1 if it is none. */
static int token_read_id(struct json_value value, char out[USER_ID_MAX + 1])
{
    int n = json_string(value, out, USER_ID_MAX + 1);
    return n >= 0 && user_id_valid((struct span){out, (size_t)n}) ? n : -1;
}

/* Takes the watch claim, "*" or an array of user ids; false if it is something else. The array is
 * kept as text: most tokens are checked once and never asked for it. */
static bool token_read_watch(struct json_value watch, struct token *out)
{
    char id[USER_ID_MAX + 1];
    struct json_value item;
    out->watches_all = json_is(watch, "*");
    if (out->watches_all) return true;
    if (watch.kind != JSON_ARRAY) return false;
    for (size_t cursor = 0; json_item(watch, &cursor, &item);)
        if (token_read_id(item, id) < 0) return false;
    buffer_add(&out->watch, watch.raw.at, watch.raw.len);
    return true;
}

/* Reads the claims of a token whose signature is right. On a problem out holds no memory. `admin`
 * must be true itself: "true" and 1 are no admin. */
static enum token_problem token_read_claims(struct span text, int64_t wall_ms, const char *issuer,
                                            const char *audience, struct token *out)
{
    struct json_value claims, value;
    if (!json_parse(text, JSON_DEPTH_MAX, &claims) || claims.kind != JSON_OBJECT)
        return TOKEN_MALFORMED;
    enum token_problem problem =
        token_check_claims(claims, wall_ms, issuer, audience, &out->expires_ms);
    if (problem) return problem;
    int n = json_member(claims, "sub", &value) ? token_read_id(value, out->user) : -1;
    if (n < 0) return TOKEN_SUBJECT;
    out->user_len = (size_t)n;
    /* Only behind a good signature, as everything in this function. */
    out->admin = json_member(claims, "admin", &value) && value.kind == JSON_TRUE;
    if (json_member(claims, "watch", &value) && !token_read_watch(value, out)) return TOKEN_CLAIMS;
    return TOKEN_NONE;
}

/* [any] Verifies a token: form, header and signature before any claim is looked at, so that nothing
 * a stranger wrote is read but as JSON. An issuer or audience of "" is not checked. TOKEN_NONE: out
 * is filled, and the caller's to give to token_free. Anything else: out says nothing and holds
 * nothing. */
static enum token_problem token_verify(const struct token_keys *keys, struct span text,
                                       int64_t wall_ms, const char *issuer, const char *audience,
                                       struct token *out)
{
    struct token_parts parts;
    struct token_header header;
    *out = (struct token){0};
    if (!text.len) return TOKEN_MISSING;
    if (!token_split(text, &parts)) return TOKEN_MALFORMED;
    enum token_problem problem = token_read_header(parts.header, &header);
    if (!problem) problem = token_check_signature(keys, &header, &parts);
    if (!problem) problem = token_read_claims(parts.payload, wall_ms, issuer, audience, out);
    if (problem) *out = (struct token){0};
    return problem;
}

/* Appends the watch claim for "*" or ids with commas between, nothing for "". False with the reason
 * in why, if one is no user id. */
static bool token_write_watch(struct buffer *b, const char *watch, struct why why)
{
    bool all = !strcmp(watch, "*");
    if (!*watch) return true;
    if (!all) json_open(b, "watch", '[');
    for (const char *at = watch, *next; at; at = next) {
        struct span id = {at, strcspn(at, ",")};
        next = at[id.len] ? at + id.len + 1 : NULL;
        if (!user_id_valid(id))
            return fail(why,
                        "--token-watch: '%.128s' is not \"*\" or user ids with commas"
                        " between; write alice,bob",
                        watch);
        json_span(b, all ? "watch" : NULL, id);
    }
    if (!all) json_close(b, ']');
    return true;
}

/* Appends the claims of a new token. False with the reason in why, if they cannot be. */
static bool token_write_claims(struct buffer *b, struct span user, int64_t wall_ms,
                               int64_t lifetime_ms, const char *watch, bool admin,
                               const char *issuer, const char *audience, struct why why)
{
    int64_t expires;
    if (!user_id_valid(user))
        return fail(why, "--mint-token: the user id is not valid; give it 1 to 128 bytes of"
                         " UTF-8 without control characters");
    if (lifetime_ms <= 0 || __builtin_add_overflow(wall_ms, lifetime_ms, &expires) ||
        expires > (int64_t)TOKEN_TIME_MAX * 1000)
        return fail(why, "--token-lifetime: is out of bounds; write 1h or 365d");
    json_begin(b);
    json_span(b, "sub", user);
    json_int(b, "iat", wall_ms / 1000);
    json_int(b, "exp", expires / 1000 + (expires % 1000 > 0));
    if (*issuer) json_text(b, "iss", issuer);
    if (*audience) json_text(b, "aud", audience);
    if (admin) json_bool(b, "admin", true);
    if (!token_write_watch(b, watch, why)) return false;
    json_close(b, '}');
    return true;
}

/* Appends a token signed with the first secret, valid from now for the lifetime, which is rounded
 * up to a whole second. watch is "*", ids with commas between, or ""; issuer and audience are left
 * out if "". False with the reason in why, and out as it was, if it cannot be made: a token longer
 * than TOKEN_MAX among others, which this server itself would refuse. */
static bool token_mint(const struct token_keys *keys, struct span user, int64_t wall_ms,
                       int64_t lifetime_ms, const char *watch, bool admin, const char *issuer,
                       const char *audience, struct buffer *out, struct why why)
{
    size_t i = 0, start = out->len;
    while (i < keys->count && keys->at[i].kind != TOKEN_HS256) i++;
    if (i == keys->count)
        return fail(why, "--mint-token: there is no secret to sign with; give it one with"
                         " --jwt-secret-file");
    const struct token_key *key = &keys->at[i];
    struct buffer json = {0};
    uint8_t mac[SHA256_SIZE];
    json_begin(&json);
    json_text(&json, "alg", "HS256");
    json_text(&json, "typ", "JWT");
    if (*key->kid) json_text(&json, "kid", key->kid);
    json_close(&json, '}');
    base64url_encode(out, json.at, json.len);
    json.len = 0;
    /* The text is written up to its end before it is known to be good; on failure it is cut off
     * again. */
    bool good =
        token_write_claims(&json, user, wall_ms, lifetime_ms, watch, admin, issuer, audience, why);
    buffer_text(out, ".");
    base64url_encode(out, json.at, json.len);
    hmac_sha256((struct span){key->secret.at, key->secret.len},
                (struct span){out->at + start, out->len - start}, mac);
    buffer_text(out, ".");
    base64url_encode(out, mac, sizeof mac);
    buffer_free(&json);
    if (good && out->len - start > TOKEN_MAX) {
        fail(why,
             "--token-watch: the token has more than %d bytes; name fewer users"
             " or \"*\"",
             TOKEN_MAX);
        good = false;
    }
    if (!good) out->len = start;
    return good;
}

/* ==== 11. Passwords and admin sessions ========================================================
 * The admin's password as it is kept, and what a login gives: a session, which is a signed text in
 * a cookie. Sessions need no memory in the server but for those that were ended early. Pure: time
 * is a parameter, no lock is taken and none held; the caller sees to that. */

/* What is kept of the admin's password: nothing that it could be read from. */
struct password {
    uint32_t iterations;
    uint8_t salt[16], hash[32];
};

static const char PASSWORD_SCHEME[] = "pbkdf2-sha512";

/* Hashes a password (PBKDF2 with HMAC-SHA512, RFC 8018 section 5.2) with the salt and as often as p
 * says. Takes some 0.3 s of a processor by intent, see PASSWORD_ITERATIONS: so it is for a thread
 * that nobody waits for, and never under a lock. */
static void password_derive(const struct password *p, struct span password, uint8_t out[32])
{
    if (mbedtls_pkcs5_pbkdf2_hmac_ext(MBEDTLS_MD_SHA512, (const uint8_t *)password.at, password.len,
                                      p->salt, sizeof p->salt, p->iterations, 32, out))
        mem_die();
}

/* Appends what --hash-password prints for a password, with a new salt and without line end:
 * SCHEME:ITERATIONS:SALT:HASH, the last two in base64url. */
static void password_hash(const char *password, size_t len, struct buffer *out)
{
    struct password p = {.iterations = PASSWORD_ITERATIONS};
    random_bytes(p.salt, sizeof p.salt);
    password_derive(&p, (struct span){password, len}, p.hash);
    buffer_print(out, "%s:%u:", PASSWORD_SCHEME, p.iterations);
    base64url_encode(out, p.salt, sizeof p.salt);
    buffer_text(out, ":");
    base64url_encode(out, p.hash, sizeof p.hash);
}

/* Reads such a line; false if it is none. The bounds of the iterations keep a file from making each
 * login take hours, or no time at all. */
static bool password_parse(const char *line, struct password *out)
{
    size_t scheme = strlen(PASSWORD_SCHEME), salt;
    int64_t n;
    if (strncmp(line, PASSWORD_SCHEME, scheme) || line[scheme] != ':') return false;
    line += scheme + 1;
    if (!digits_take(&line, &n) || *line++ != ':') return false;
    if (n < PASSWORD_ITERATIONS_MIN || n > PASSWORD_ITERATIONS_MAX) return false;
    salt = strcspn(line, ":");
    out->iterations = (uint32_t)n;
    return base64url_decode((struct span){line, salt}, out->salt, sizeof out->salt) ==
               sizeof out->salt &&
           line[salt] == ':' &&
           base64url_decode(span_of(line + salt + 1), out->hash, sizeof out->hash) ==
               sizeof out->hash;
}

/* Reads the file of --admin-password-file; wait as in secret_read. False with the reason in why,
 * and out as it was, if it is not one line as --hash-password prints it. */
static bool password_load(const char *path, bool wait, struct password *out, struct why why)
{
    static const char option[] = "admin-password-file";
    struct buffer line = {0};
    struct password p;
    bool good = secret_read(option, path, wait, 256, &line, why);
    if (good) {
        secret_trim(&line);
        good = strlen(line.at) == line.len && password_parse(line.at, &p);
        if (good) *out = p;
        else
            fail(why,
                 "--%s: %.200s is not one line as --hash-password prints it; make it with"
                 " presence --hash-password",
                 option, path);
    }
    secret_free(&line);
    return good;
}

/* True if it is the password. Slow, see password_derive: the caller sees to it that few ask at
 * once. Two threads may check with the same p. */
static bool password_check(const struct password *p, struct span password)
{
    uint8_t hash[sizeof p->hash];
    password_derive(p, password, hash);
    return bytes_equal_constant(hash, p->hash, sizeof hash);
}

/* What admin sessions are signed with, and those that were ended early. It has no lock: the caller
 * holds one over every session_check and session_revoke. */
struct session_keys {
    uint8_t secret[32];
    uint8_t (*revoked)[SESSION_PAYLOAD]; /* in no order; none is kept past its expiry */
    size_t revoked_count;
};

/* Makes the secret, new in each process: a restart ends all sessions, and nothing of them is on a
 * disk. */
static void session_keys_init(struct session_keys *keys)
{
    *keys = (struct session_keys){0};
    random_bytes(keys->secret, sizeof keys->secret);
}

static void session_keys_free(struct session_keys *keys)
{
    free(keys->revoked);
    mbedtls_platform_zeroize(keys, sizeof *keys);
}

static struct span session_secret(const struct session_keys *keys)
{
    return (struct span){(const char *)keys->secret, sizeof keys->secret};
}

/* Appends a new session, SESSION_TEXT characters that a cookie may have; *expires gets its end in
 * wall time. The payload is 8 bytes of expiry and 16 random ones, so no two sessions are the same
 * and each can be revoked by itself. Reads only the secret, which does not change: no lock is
 * needed. */
static void session_mint(const struct session_keys *keys, int64_t wall_ms, int64_t lifetime_ms,
                         struct buffer *out, int64_t *expires)
{
    uint8_t payload[SESSION_PAYLOAD], mac[SHA256_SIZE];
    *expires = wall_ms + lifetime_ms;
    put_be64(payload, (uint64_t)*expires);
    random_bytes(payload + 8, sizeof payload - 8);
    hmac_sha256(session_secret(keys), (struct span){(char *)payload, sizeof payload}, mac);
    base64url_encode(out, payload, sizeof payload);
    buffer_text(out, ".");
    base64url_encode(out, mac, sizeof mac);
}

/* True if this process signed the text; then payload has what it says. Its length is checked before
 * anything is decoded. */
static bool session_read(const struct session_keys *keys, struct span text,
                         uint8_t payload[SESSION_PAYLOAD])
{
    enum { DOT = SESSION_PAYLOAD / 3 * 4 };
    uint8_t mac[SHA256_SIZE];
    if (text.len != SESSION_TEXT || text.at[DOT] != '.') return false;
    struct span tail = {text.at + DOT + 1, text.len - DOT - 1};
    return base64url_decode((struct span){text.at, DOT}, payload, SESSION_PAYLOAD) > 0 &&
           base64url_decode(tail, mac, sizeof mac) == sizeof mac &&
           hmac_sha256_fits(session_secret(keys), (struct span){(char *)payload, SESSION_PAYLOAD},
                            mac);
}

/* True if the session was signed by this process, has not run out and was not revoked; then
 * *expires gets its end, else it is left. */
static bool session_check(const struct session_keys *keys, struct span text, int64_t wall_ms,
                          int64_t *expires)
{
    uint8_t payload[SESSION_PAYLOAD];
    if (!session_read(keys, text, payload)) return false;
    /* Only what this process signed comes here, so the expiry is one that session_mint wrote. */
    int64_t end = (int64_t)get_be64(payload);
    if (wall_ms >= end) return false;
    for (size_t i = 0; i < keys->revoked_count; i++)
        if (!memcmp(keys->revoked[i], payload, sizeof payload)) return false;
    *expires = end;
    return true;
}

/* Ends a session before its time, and forgets those that have run out since. False, and nothing
 * happens, for a text that is no valid session: so a stranger cannot fill the list, which holds at
 * most what was minted in one lifetime. */
static bool session_revoke(struct session_keys *keys, struct span text, int64_t wall_ms)
{
    int64_t expires;
    size_t kept = 0;
    for (size_t i = 0; i < keys->revoked_count; i++)
        if ((int64_t)get_be64(keys->revoked[i]) > wall_ms)
            memmove(keys->revoked[kept++], keys->revoked[i], SESSION_PAYLOAD);
    keys->revoked_count = kept;
    if (!session_check(keys, text, wall_ms, &expires)) return false;
    keys->revoked = mem_resize(keys->revoked, (kept + 1) * SESSION_PAYLOAD);
    /* The payload, not the text: it is what session_check compares, and half as long. */
    keys->revoked_count += session_read(keys, text, keys->revoked[kept]);
    return true;
}

/* ==== 12. Store: records ======================================================================
 * What is on the disk, byte by byte: the trees, and the fields of each record as a table. From a
 * table come the struct, its bytes, and its lines in --dump and --restore, so a field is one row.
 * Pure, and without locks: whoever has the bytes may read them.
 *
 * The trees of data.mdb, an LMDB environment:
 *
 *     tree            key                               value
 *     user_presence   id                                USER_FIELDS
 *     open            id                                -; the users whose session has not ended
 *     seen            last_seen (8), id                 -; all others, in the order of last_seen
 *     sessions        id, NUL, begin of session (8)     SESSION_FIELDS
 *     samples         begin of minute (8)               SAMPLE_FIELDS
 *     manual          id                                MANUAL_FIELDS, then the message, UTF-8
 *     outbox          number (8), from 1                CHANGE_FIELDS, then a JSON object
 *     meta            "schema" (4), "boots" (8), "alive" (8), "clean" (1), "tried" (8), "node" (8),
 *                     "position" (an epoch, 4, and a number, 8)
 *
 * A number in a key is big-endian, so that keys sort by it; all others are little-endian. An id
 * holds no NUL, so no id with a NUL behind it is the beginning of another's. Times are ms since
 * 1970. Each value that has FIELDS begins with the version of its record, in one byte.
 *
 * To add a field: a row at the end of its table, the record's next version (its RECORD below) and
 * the next STORE_SCHEMA, by which a store of before is refused with a sentence and not taken for
 * damaged. Nothing is migrated: a dump carries the data over. */

enum {
    STORE_SCHEMA = 2,        /* of all that is in the file */
    STORE_CHANGE_MAX = 2000, /* bytes of a change: LMDB keeps larger values on pages of their own */
    STORE_KEY_MAX = USER_ID_MAX + 9,
};

/* Stores n bytes of a number, the lowest first. */
static void store_put_le(uint8_t *out, uint64_t number, int n)
{
    for (int i = 0; i < n; i++) out[i] = (uint8_t)(number >> (8 * i));
}

/* Loads what store_put_le stored. */
static uint64_t store_take_le(const uint8_t *in, int n)
{
    uint64_t number = 0;
    for (int i = 0; i < n; i++) number |= (uint64_t)in[i] << (8 * i);
    return number;
}

/* The kinds of fields that are numbers. A record with a number beyond the last column is damaged.
 * How each kind looks in a dump: Store: commands, dump_KIND and restore_KIND. */
#define FIELD_TABLE(X)                                                                             \
    X(time, int64_t, 8, UINT64_MAX)  /* wall ms; 0 is never */                                     \
    X(spent, int64_t, 8, UINT64_MAX) /* ms that have passed */                                     \
    X(count, uint32_t, 4, UINT32_MAX)                                                              \
    X(flag, bool, 1, 1)                                                                            \
    X(status, uint8_t, 1, STATUS_OFFLINE)   /* enum status, of connections */                      \
    X(manual, uint8_t, 1, STATUS_AUTOMATIC) /* enum status, set by hand */                         \
    X(reason, uint8_t, 1, REASON_COUNT - 1)

/* Of each kind: its type, its bytes, how a field is put, and how it is taken: false if damaged. */
#define X(kind, type, bytes, last)                                                                 \
    typedef type field_##kind;                                                                     \
    enum { FIELD_BYTES_##kind = bytes };                                                           \
    static void field_put_##kind(uint8_t *out, type value)                                         \
    {                                                                                              \
        store_put_le(out, (uint64_t)value, bytes);                                                 \
    }                                                                                              \
    static bool field_take_##kind(const uint8_t *in, type *value)                                  \
    {                                                                                              \
        uint64_t number = store_take_le(in, bytes);                                                \
        *value = (type)number;                                                                     \
        return !(number > (last));                                                                 \
    }
FIELD_TABLE(X)
#undef X

/* An address of a client: IPv6, or IPv4 as ::ffff:a.b.c.d; all zero if it is unknown. */
typedef uint8_t field_address[16];
enum { FIELD_BYTES_address = sizeof(field_address) };
static void field_put_address(uint8_t *out, const field_address address)
{
    memcpy(out, address, sizeof(field_address));
}
static bool field_take_address(const uint8_t *in, field_address *address)
{
    memcpy(*address, in, sizeof(field_address));
    return true;
}

/* The records: offset, kind, member of the struct, name in a dump, meaning. The size of a field is
 * that of its kind. Rows stand in the order of a dump; offsets are the contract with every disk. */

/* user_presence, version 1, 40 bytes. Offset 0 is the version, here and below. */
#define USER_FIELDS(X)                                                                             \
    X(8, time, first_seen, "first_seen", "begin of the first session")                             \
    X(16, time, last_seen, "last_seen", "the user was last heard from")                            \
    X(24, time, online_since, "online_since", "begin of the session; 0: offline")                  \
    X(32, time, offline_since, "offline_since", "last_seen of the session that ended last")        \
    X(1, status, status, "status", "of the connections together")                                  \
    X(2, flag, open, "open", "the session has not ended")                                          \
    X(3, reason, reason, "reason", "why the session before ended")                                 \
    X(4, count, sessions, "sessions", "those that have ended")

/* sessions, version 1, 26 bytes: one that has ended. */
#define SESSION_FIELDS(X)                                                                          \
    X(2, time, to, "to", "its end")                                                                \
    X(1, reason, reason, "reason", "why it ended")                                                 \
    X(10, address, address, "address", "of its first connection")

/* samples, version 1, 9 bytes: how many there were when a minute began. */
#define SAMPLE_FIELDS(X)                                                                           \
    X(1, count, users, "users", "online")                                                          \
    X(5, count, connections, "connections", "open")

/* manual, version 1, 18 bytes and the message: what a user set by hand. */
#define MANUAL_FIELDS(X)                                                                           \
    X(1, manual, status, "status", "AUTOMATIC: only the message was set")                          \
    X(2, time, until, "until", "its end; 0: for good")                                             \
    X(10, time, hidden, "hidden", "while invisible, the last_seen that others see")

/* outbox, version 2, 18 bytes and the text: a change for the webhook. It is not dumped. */
#define CHANGE_FIELDS(X)                                                                           \
    X(1, flag, first, NULL, "it begins a batch")                                                   \
    X(2, time, at, NULL, "when it happened")                                                       \
    X(10, spent, tried, NULL, "what outbox_clock showed when it was written")

#define FIELD_MEMBER(offset, kind, member, ...) field_##kind member;
#define FIELD_BYTES(offset, kind, ...) +FIELD_BYTES_##kind
#define FIELD_PUT(offset, kind, member, ...) field_put_##kind(out + (offset), record->member);
#define FIELD_TAKE(offset, kind, member, ...) &&field_take_##kind(in + (offset), &record->member)

enum {
    STORE_USER_BYTES = 1 USER_FIELDS(FIELD_BYTES),
    STORE_SESSION_BYTES = 1 SESSION_FIELDS(FIELD_BYTES),
    STORE_SAMPLE_BYTES = 1 SAMPLE_FIELDS(FIELD_BYTES),
    STORE_MANUAL_BYTES = 1 MANUAL_FIELDS(FIELD_BYTES),
    STORE_CHANGE_BYTES = 1 CHANGE_FIELDS(FIELD_BYTES),
};

/* The decoded records: a value's fixed part, and what the key adds. Times are wall ms. */
struct user_record {
    USER_FIELDS(FIELD_MEMBER)
};

/* A session that has ended. */
struct session_record {
    int64_t from; /* in the key */
    SESSION_FIELDS(FIELD_MEMBER)
};

/* How many were online at a moment, for the chart of a day. */
struct sample {
    int64_t at; /* in the key */
    SAMPLE_FIELDS(FIELD_MEMBER)
};

/* What a user set by hand, without the message. */
struct manual_head {
    bool there; /* false: nothing is set, and the rest is of no meaning */
    MANUAL_FIELDS(FIELD_MEMBER)
};
/* The same with its message, which is the value's tail. */
struct manual_record {
    struct manual_head head;
    uint16_t len;
    char message[STATUS_TEXT_MAX];
};

/* One transition in the outbox. */
struct stored_change {
    uint64_t number; /* in the key */
    CHANGE_FIELDS(FIELD_MEMBER)
    struct span text; /* a JSON object, in the value that was read */
};

/* store_encode_NAME fills the fixed part of a value, `size` bytes. store_decode_NAME reads it;
 * false, with the record undefined, if the bytes are none of this version, or more than tail_max
 * follow them. */
#define RECORD(name, type, version, size, tail_max, FIELDS)                                        \
    static void store_encode_##name(const struct type *record, uint8_t *out)                       \
    {                                                                                              \
        *out = version;                                                                            \
        FIELDS(FIELD_PUT)                                                                          \
    }                                                                                              \
    static bool store_decode_##name(MDB_val value, struct type *record)                            \
    {                                                                                              \
        const uint8_t *in = value.mv_data;                                                         \
        return value.mv_size >= (size) && value.mv_size - (size) <= (tail_max) &&                  \
               *in == (version)FIELDS(FIELD_TAKE);                                                 \
    }
RECORD(user, user_record, 1, STORE_USER_BYTES, 0, USER_FIELDS)
RECORD(session, session_record, 1, STORE_SESSION_BYTES, 0, SESSION_FIELDS)
RECORD(sample, sample, 1, STORE_SAMPLE_BYTES, 0, SAMPLE_FIELDS)
RECORD(manual, manual_head, 1, STORE_MANUAL_BYTES, STATUS_TEXT_MAX, MANUAL_FIELDS)
RECORD(change, stored_change, 2, STORE_CHANGE_BYTES, STORE_CHANGE_MAX - STORE_CHANGE_BYTES,
       CHANGE_FIELDS)

/* The key of a session; returns its length. A begin before 1970 counts as 1970. */
static size_t store_session_key(struct span id, int64_t from, uint8_t out[STORE_KEY_MAX])
{
    memcpy(out, id.at, id.len);
    out[id.len] = 0;
    put_be64(out + id.len + 1, from < 0 ? 0 : (uint64_t)from);
    return id.len + 9;
}

/* Reads a session from its key and value; *id points into the key. False, with both undefined, if
 * they are damaged. */
static bool store_read_session(MDB_val key, MDB_val value, struct span *id,
                               struct session_record *r)
{
    const uint8_t *name = key.mv_data;
    if (key.mv_size < 10 || key.mv_size > STORE_KEY_MAX || name[key.mv_size - 9]) return false;
    *id = (struct span){key.mv_data, key.mv_size - 9};
    r->from = (int64_t)get_be64(name + key.mv_size - 8);
    return r->from >= 0 && store_decode_session(value, r);
}

/* Reads a sample from its key and value; false, with *s undefined, if they are damaged. */
static bool store_read_sample(MDB_val key, MDB_val value, struct sample *s)
{
    if (key.mv_size != 8) return false;
    s->at = (int64_t)get_be64(key.mv_data);
    return s->at >= 0 && store_decode_sample(value, s);
}

/* Reads what a user set by hand; false, with *m undefined, if it is damaged. */
static bool store_read_manual(MDB_val value, struct manual_record *m)
{
    if (!store_decode_manual(value, &m->head) || m->head.until < 0) return false;
    m->head.there = true;
    m->len = (uint16_t)(value.mv_size - STORE_MANUAL_BYTES);
    memcpy(m->message, (const char *)value.mv_data + STORE_MANUAL_BYTES, m->len);
    return status_text_valid((struct span){m->message, m->len});
}

/* Reads a change in the outbox, whose text points into the value; false, with *change undefined, if
 * it is damaged. */
static bool store_read_change(MDB_val key, MDB_val value, struct stored_change *change)
{
    if (key.mv_size != 8 || !store_decode_change(value, change)) return false;
    change->number = get_be64(key.mv_data);
    change->text = (struct span){(const char *)value.mv_data + STORE_CHANGE_BYTES,
                                 value.mv_size - STORE_CHANGE_BYTES};
    return change->text.len > 0;
}

/* A place in the order of `seen`: that of a user who is not online. */
struct seen_place {
    int64_t last_seen; /* wall ms */
    uint8_t id_len;
    char id[USER_ID_MAX];
};

/* The key of a place in `seen`; returns its length. */
static size_t store_seen_key(struct span id, int64_t last_seen, uint8_t out[STORE_KEY_MAX])
{
    put_be64(out, last_seen < 0 ? 0 : (uint64_t)last_seen);
    memcpy(out + 8, id.at, id.len);
    return id.len + 8;
}

/* Reads such a key; false, with *place undefined, if it is none. */
static bool store_read_seen(MDB_val key, struct seen_place *place)
{
    if (key.mv_size < 9 || key.mv_size > USER_ID_MAX + 8) return false;
    place->last_seen = (int64_t)get_be64(key.mv_data);
    place->id_len = (uint8_t)(key.mv_size - 8);
    memcpy(place->id, (const char *)key.mv_data + 8, place->id_len);
    return place->last_seen >= 0;
}

/* The name of a manual status, as requests and dumps have it, or NULL for the automatic one. */
static const char *manual_name(uint8_t status)
{
    return status == STATUS_OFFLINE  ? "invisible"
           : status < STATUS_OFFLINE ? STATUS_NAMES[status]
                                     : NULL;
}

/* ==== 13. Store: state ========================================================================
 * The store is the only owner of the files in --data: data.mdb, lock.mdb (LMDB's table of readers)
 * and presence.lock (one server at a time). Here is what its sections share: struct store, the
 * outbox as the writer knows it, the check of a file. Any thread may read; only the writer changes
 * the file. */

enum {
    STORE_LOCK_BYTES = 8192,   /* of lock.mdb at least: room for 126 read transactions */
    STORE_LOCK_SERVER = 32768, /* a server's: 510, as each of its workers may be reading */
    STORE_CHECK_MS = 20,       /* a server's start looks this long for damage in large trees */
    STORE_QUIET_MS = 10000,    /* reads that fail are logged once in this time */
    STORE_CHUNK = 64,          /* records that one read transaction copies out */
    STORE_HELD_MS = 250,       /* so long after the end of a stop a disk may hold the writer */
    STORE_PATH = PATH_MAX + 64,
    STORE_PROBLEM = LOG_LINE_MAX / 4, /* what is wrong with the store, in a line */
};

/* The trees of the file, in the order in which they are checked: those that decide the first answer
 * of a server stand first. */
#define TREE_TABLE(X)                                                                              \
    X(meta, "meta")                                                                                \
    X(open, "open")                                                                                \
    X(users, "user_presence")                                                                      \
    X(sessions, "sessions")                                                                        \
    X(seen, "seen")                                                                                \
    X(outbox, "outbox")                                                                            \
    X(samples, "samples")                                                                          \
    X(manual, "manual")
#define X(tree, name) name,
static const char *const TREE_NAMES[] = {TREE_TABLE(X)};
#undef X
enum { TREE_COUNT = sizeof TREE_NAMES / sizeof *TREE_NAMES };

/* LMDB believes what it reads from its map: a bad page is a crash, a missing one a SIGBUS. So no
 * file is mapped before it is checked: whole for the commands; for a server's start the two small
 * trees whole and the others for STORE_CHECK_MS, because a million stored users must not delay the
 * first answer. A store from before some tree was added passes, and is refused by its schema, with
 * a better reason. */
static const struct lmdb_check_trees STORE_TREES = {
    .names = TREE_NAMES, .count = TREE_COUNT, .required = 4, .whole = 2};

/* What store_open is asked for. */
struct store_options {
    const char *dir;
    size_t map_size;         /* to begin with; 0: as the file says */
    int64_t history_ms;      /* sessions that ended longer ago are removed bit by bit; 0: never */
    size_t outbox_max;       /* changes kept in the outbox */
    size_t outbox_batch_max; /* changes delivered together */
    bool read_only;          /* a command's view: one snapshot, also beside a running server */
};

/* The outbox is a queue of changes in the store, cut into batches. A batch is what one POST of the
 * webhook carries, and is always made of the same changes: a receiver that gets one again, after a
 * restart too, can tell by its first position. The cuts are therefore stored (`first` of a
 * change).
 *
 *     number   1 ... 40 | 41 ... 90 | 91 ... 120 | 121 ... 130 | next
 *     batch    gone     | pinned    | closed     | open        |
 *              ^ outbox_done        ^ outbox_pinned            ^ outbox_end.next
 *                                                ^ outbox_closed
 *
 *     open     the writer adds changes to it, until it is full, a minute old, or closed
 *     closed   final: the next change begins another batch (store_outbox_close)
 *     pinned   being delivered: not given up, however full the outbox is (store_outbox_pin).
 *              Between close and pin all batches are, as it is not known yet which will be taken
 *     gone     delivered, or given up by --webhook-give-up; the next commit of the hub removes it
 *
 * Beyond --webhook-outbox changes the oldest batches that are not pinned are removed whole. A
 * batch is closed only between transactions: one under way may still put a change into it, and
 * whether that will be committed is not known before its end. */

/* Where the outbox ends. */
struct outbox_end {
    uint64_t next; /* the number of the next change; never used twice while the program runs */
    size_t count;  /* changes in the last batch; 0: the next one begins a new batch */
    int64_t since; /* wall ms of its first */
};

/* How long delivery has been tried in vain, over all servers of this store: a change is given up by
 * the time that has passed here, not by a clock on the wall. Nothing passes while no server runs,
 * while delivery works, or beyond the end of the wait under way: a step of UTC, a machine that
 * slept and a process that was stopped give up nothing. Pure: `now` is monotonic ms. */
struct outbox_clock {
    int64_t sum;          /* ms up to `since` */
    int64_t since, until; /* it runs from here to there */
};

static int64_t outbox_clock_read(const struct outbox_clock *clock, int64_t now)
{
    int64_t end = now < clock->until ? now : clock->until;
    return clock->sum + (end > clock->since ? end - clock->since : 0);
}

/* Lets it run on, but no further than to `until`; with until = now it stands. */
static void outbox_clock_run(struct outbox_clock *clock, int64_t now, int64_t until)
{
    int64_t sum = outbox_clock_read(clock, now);
    *clock = (struct outbox_clock){.sum = sum, .since = now, .until = until};
}

struct store_batch;

/* A reader of another process, as it was when its slot was last looked at. */
struct store_slot {
    struct lmdb_reader is;
    int64_t since; /* monotonic ms of the first look that found it at this transaction */
};

/* An open store. Locks, in the order in which one thread takes them: turn, map_lock, lock.
 *
 *   map_lock  held shared from the begin to the end of a read transaction, exclusive while the map
 *             moves: LMDB may not be asked for a new map while a transaction of this process reads
 *             the old one. `lock` may be taken under it.
 *   turn      held only while map_lock is being taken. Readers come without end, and a rwlock may
 *             let them pass a waiting writer for ever; with `turn` in its hand the writer has only
 *             those to wait for that are in already.
 *   lock      guards the last part of the struct, for a few instructions; nothing is taken under it
 *             but log.lock, and never for the time of a system call that may wait for the disk. */
struct store {
    /* Set by store_open, constant from then on. */
    char *dir;
    struct log *log;
    struct counters *counters;
    struct store_options options;
    int lock_fd;       /* presence.lock, locked while it is open; -1 for commands */
    uint64_t boots;    /* servers that opened this store, this one included */
    int64_t was_alive; /* wall ms of the last commit before this opening */
    bool was_clean;    /* the server before this one stopped in order */
    uint64_t node;     /* which node of a cluster has this store: random, made once, never 0 */
    /* Up to where a cluster's log was in the store when it was opened; both 0: it never was. */
    uint32_t was_position_epoch;
    uint64_t was_position_number;

    /* The map, under map_lock. */
    pthread_rwlock_t map_lock;
    pthread_mutex_t turn;
    MDB_env *env; /* NULL after a reopening that failed; only the writer changes it */
#define X(tree, name) MDB_dbi tree;
    TREE_TABLE(X)
#undef X
    MDB_txn *snapshot; /* commands: the transaction of all their reads */

    /* Changes up to this number were delivered or given up. The webhook writes it, once a POST; the
     * hub, the writer and whoever asks for the figures read it. It publishes nothing but itself. */
    _Atomic uint64_t outbox_done;

    /* [writer] Nobody else looks at these. */
    struct buffer sweep;          /* the session key at which the removal of old ones goes on */
    struct outbox_end outbox_now; /* after the transaction under way */
    uint64_t outbox_keep;         /* up to this number it gives nothing up */
    size_t outbox_trimmed;        /* changes that it gives up */
    int64_t outbox_tried;         /* what outbox_clock showed when it began */
    int64_t look_at;              /* monotonic ms at which to look after the readers again */
    size_t last_txn;              /* of the last commit; 0: none since the file was mapped */

    /* [main] From store_start_writer to store_stop_writer. */
    pthread_t writer;
    bool running;
    void (*done)(void *context, struct store_batch *);
    void *context;

    pthread_mutex_t lock;       /* for all below */
    pthread_cond_t changed;     /* something below did; its clock is monotonic */
    struct store_slot *readers; /* by slot of lock.mdb */
    unsigned reader_count;
    int64_t read_failed_at;             /* when that was last logged, monotonic ms; 0: never */
    bool stopping, ended, all_written;  /* asked to stop; the writer has ended; and wrote all */
    int64_t give_up_at;                 /* monotonic ms; counts once stopping */
    struct store_batch *batch;          /* under way, or NULL */
    _Atomic bool writable;              /* the last commit went well; the hub looks without lock */
    int64_t failing_since, last_commit; /* monotonic, wall ms */
    char problem[STORE_PROBLEM];        /* why not writable, or "" */
    const char *displaced;        /* what store_displaced found last, and was logged; or NULL */
    bool writing;                 /* a transaction is under way */
    struct outbox_end outbox_end; /* as committed */
    uint64_t outbox_closed;       /* batches of changes below this number are closed */
    uint64_t outbox_pinned;       /* batches up to this number are pinned */
    enum {
        OUTBOX_CLOSE_NONE,
        OUTBOX_CLOSE_ASKED, /* the writer closes it at the end of the transaction under way */
        OUTBOX_CLOSE_GIVEN  /* it has, and who asked does not know yet */
    } outbox_close;
    struct outbox_clock outbox_clock;
};

/* The path of a file in the data directory; returns out. */
static const char *store_path(const char *dir, const char *name, char out[STORE_PATH])
{
    snprintf(out, STORE_PATH, "%s/%s", dir, name);
    return out;
}

/* Checks a data file as lmdb_check_file does, trees and all: for so many ms (0: to the end), and
 * for a transaction that the caller holds open (0: the newest). */
static bool store_check_file(const char *path, size_t transaction, int64_t budget_ms,
                             struct why why)
{
    return lmdb_check_file(path, &STORE_TREES, transaction, budget_ms, why.text, why.size);
}

/* ==== 14. Store: files ========================================================================
 * The directory, its locks, the map of the file, and what is done when somebody else moves, removes
 * or overwrites one of them. A second server is kept out by locks of the kernel, which end with the
 * process, never by a file that is there. Opening calls this; the writer looks after the files. */

static bool store_make_directory(const char *dir, struct why why)
{
    struct stat s;
    if (mkdir(dir, 0700) && errno != EEXIST)
        return fail(why, "cannot create %s: %s; choose another --data", dir, strerror(errno));
    if (stat(dir, &s)) return fail(why, "cannot use %s: %s", dir, strerror(errno));
    return S_ISDIR(s.st_mode) || fail(why, "%s is not a directory; choose another --data", dir);
}

/* [main] Takes the lock that one server, or one command that writes, holds on the directory for
 * its life; the kernel gives it back however the process ends. The pid inside is for people: of a
 * process in another container it is the number that it has there. */
static bool store_take_lock(struct store *st, struct why why)
{
    char path[STORE_PATH], pid[16] = "";
    store_path(st->dir, "presence.lock", path);
    st->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (st->lock_fd < 0)
        return fail(why, "cannot write %s: %s; presence needs to write there", path,
                    strerror(errno));
    if (flock(st->lock_fd, LOCK_EX | LOCK_NB)) {
        if (errno != EWOULDBLOCK) return fail(why, "cannot lock %s: %s", path, strerror(errno));
        if (pread(st->lock_fd, pid, sizeof pid - 1, 0) < 0) pid[0] = 0;
        /* A pid that is our own can only be that of a process in another namespace. */
        const char *where = atoi(pid) == getpid() ? " of another container" : "";
        return fail(why, "%s is in use by process %d%s; stop it or choose another --data", st->dir,
                    atoi(pid), where);
    }
    /* Always as long, so that a full disk has room for it from the second time on. */
    int n = snprintf(pid, sizeof pid, "%-10d\n", (int)getpid());
    errno = ENOSPC;
    return pwrite(st->lock_fd, pid, (size_t)n, 0) == n ||
           fail(why, "cannot write %s: %s", path, strerror(errno));
}

/* [main, writer] Gives that many bytes of lock.mdb, which LMDB writes through a map, their place
 * on the disk: a full disk is an error here and not a SIGBUS later. An errno code. The file only
 * grows, so it may be in use. Not while this process has it mapped: closing a descriptor of a file
 * drops all locks that the process has on it (fcntl(2)). */
static int store_reserve_lock(const char *dir, size_t size)
{
    char path[STORE_PATH], zeros[STORE_LOCK_SERVER] = {0};
    struct stat s;
    int fd = open(store_path(dir, "lock.mdb", path), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return errno;
    int rc = posix_fallocate(fd, 0, (off_t)size);
    if (rc == EOPNOTSUPP || rc == EINVAL) {
        rc = fstat(fd, &s) ? errno : 0;
        size_t missing = rc || s.st_size >= (off_t)size ? 0 : size - (size_t)s.st_size;
        errno = ENOSPC;
        if (missing && pwrite(fd, zeros, missing, s.st_size) != (ssize_t)missing) rc = errno;
    }
    close(fd);
    return rc;
}

/* [any] What LMDB calls in place of abort(3) when it finds pages that contradict each other. There
 * is nothing to return to: the process ends, and what was committed stays. */
static void store_on_assert(MDB_env *env, const char *text)
{
    struct store *st = mdb_env_get_userctx(env);
    log_line(st->log, LOG_ERROR, "store: %s/data.mdb is damaged (%s); restore a backup", st->dir,
             text);
    _exit(1);
}

/* Opens the trees in a transaction, with flags 0 or MDB_CREATE; once it was committed the handles
 * are good for all others. MDB_NOTFOUND if one is missing. */
static int store_open_trees(struct store *st, MDB_txn *txn, unsigned flags)
{
    int rc = 0;
#define X(tree, name)                                                                              \
    if (!rc) rc = mdb_dbi_open(txn, name, flags, &st->tree);
    TREE_TABLE(X)
#undef X
    return rc;
}

/* What a signal's handler finds here, as it has no argument: a global is the only way. Only one
 * store is open at a time. The pointers are atomic because the handler may run at any moment, on
 * any thread. */
static struct {
    MDB_env *_Atomic env;           /* the environment with its maps and slots, or NULL */
    const char *_Atomic unfinished; /* a file that a command has begun and not named, or NULL */
    char overwritten[STORE_PATH + 160], fault[STORE_PATH + 160]; /* said of SIGBUS and SIGSEGV */
} store_held;

/* Handler of SIGBUS and SIGSEGV, on any thread; it may call what is async-signal-safe only. A file
 * that somebody else cuts short or writes to under the maps is no error that LMDB could return:
 * the access fails, and all that is left is to say which file it was. */
static void store_faulted(int number, siginfo_t *info, void *context)
{
    (void)context;
    static atomic_flag told = ATOMIC_FLAG_INIT;
    MDB_env *env = atomic_load(&store_held.env);
    while (atomic_flag_test_and_set(&told)) pause(); /* another thread says it and ends us all */
    if (info->si_code > 0)                           /* else somebody has sent it */
        last_words(env && lmdb_has_address(env, info->si_addr) ? store_held.overwritten
                                                               : store_held.fault);
    signal(number, SIG_DFL);
    raise(number); /* to its usual end, when this returns */
}

/* [main] Has that handler called for the store in that directory. The texts are made here, as a
 * handler may not print. */
static void store_guard(const char *dir)
{
    struct sigaction action = {.sa_sigaction = store_faulted, .sa_flags = SA_SIGINFO};
    snprintf(store_held.overwritten, sizeof store_held.overwritten,
             "presence: %s/data.mdb or lock.mdb was cut short or overwritten while it was in use;"
             " restore a backup\n",
             dir);
    snprintf(store_held.fault, sizeof store_held.fault,
             "presence: a fault ends it; if %s/data.mdb or lock.mdb was overwritten, restore a"
             " backup, else please report it\n",
             dir);
    sigemptyset(&action.sa_mask);
#if !defined __SANITIZE_ADDRESS__ && !defined __SANITIZE_THREAD__ /* they report it themselves */
    sigaction(SIGBUS, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
#endif
}

/* True if the name still leads to that open file; also where that cannot be told, as a directory
 * that cannot be searched for a moment is no reason for an alarm. */
static bool store_is_in_place(const char *dir, const char *name, int fd)
{
    char path[STORE_PATH];
    struct stat named, open;
    if (fd < 0 || fstat(fd, &open)) return true;
    if (stat(store_path(dir, name, path), &named)) return errno != ENOENT && errno != ENOTDIR;
    return named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

/* [any] The name of a file of the store that was removed or replaced since it was opened, or NULL.
 * What is written then is gone when the process ends, a command beside it would read something
 * else, and a second server could start. The caller holds map_lock or is the writer: st->env is
 * open and stays so. */
static const char *store_displaced(struct store *st)
{
    int data = -1;
    mdb_env_get_fd(st->env, &data);
    return !store_is_in_place(st->dir, "data.mdb", data)                    ? "data.mdb"
           : !store_is_in_place(st->dir, "lock.mdb", lmdb_lock_fd(st->env)) ? "lock.mdb"
           : !store_is_in_place(st->dir, "presence.lock", st->lock_fd)      ? "presence.lock"
                                                                            : NULL;
}

/* True if with that file all that is written since is gone. Without one of the others only those
 * who come do not see that the store is in use. */
static bool store_is_lost(const char *displaced)
{
    return displaced && !strcmp(displaced, "data.mdb");
}

static void store_say_displaced(struct store *st, const char *name, char out[STORE_PROBLEM])
{
    snprintf(out, STORE_PROBLEM, "%s/%s was removed or replaced", st->dir, name);
}

/* [main, writer] Forgets the map; nobody may be reading. */
static void store_unmap(struct store *st)
{
    atomic_store(&store_held.env, NULL);
    if (st->snapshot) mdb_txn_abort(st->snapshot);
    if (st->env) mdb_env_close(st->env);
    st->snapshot = NULL;
    st->env = NULL;
    st->last_txn = 0;
}

/* [main, writer] Sets up an environment at path; an LMDB or errno code, with st->env NULL unless
 * it is 0. A command on a read-only file system does without room in lock.mdb. MDB_NOTLS: a slot
 * for readers belongs to a transaction and not to a thread, which may have two: a backup copies in
 * one of its own, beside the snapshot. */
static int store_map_path(struct store *st, const char *path, unsigned flags)
{
    size_t lock_size = st->options.read_only ? STORE_LOCK_BYTES : STORE_LOCK_SERVER;
    int rc = flags & MDB_NOLOCK ? 0 : store_reserve_lock(st->dir, lock_size);
    if (rc && !((flags & MDB_RDONLY) && (rc == EROFS || rc == EACCES))) return rc;
    rc = mdb_env_create(&st->env);
    if (rc) return rc;
    mdb_env_set_userctx(st->env, st);
    mdb_env_set_assert(st->env, store_on_assert);
    rc = mdb_env_set_maxdbs(st->env, TREE_COUNT);
    size_t size = st->options.read_only ? 0 : (st->options.map_size + 65535) / 65536 * 65536;
    if (!rc && size) rc = mdb_env_set_mapsize(st->env, size);
    if (!rc) rc = mdb_env_open(st->env, path, MDB_NOTLS | flags, 0600);
    if (rc) store_unmap(st);
    else atomic_store(&store_held.env, st->env);
    return rc;
}

/* [any] Ends the process if somebody has overwritten lock.mdb, whose locks nobody would get any
 * more: each thread would wait for ever. The next start makes a new one of it. */
static void store_check_lock(MDB_env *env)
{
    if (lmdb_lock_is_sound(env)) return;
    last_words(store_held.overwritten);
    _exit(1);
}

static size_t store_last_txn(MDB_env *env)
{
    MDB_envinfo info;
    mdb_env_info(env, &info);
    return info.me_last_txnid;
}

/* [writer] Ends the process if data.mdb says that another transaction was the last than the one
 * that this process committed last: somebody has copied another file over it. What would be
 * written now would be a mixture of both. */
static void store_check_data(const struct store *st)
{
    if (!st->last_txn || store_last_txn(st->env) == st->last_txn) return;
    last_words(store_held.overwritten);
    _exit(1);
}

/* [any] Begins a read transaction, also when another process has let the file outgrow the map, or
 * when processes that died have left no slot free. An LMDB code. Only a command may move its map
 * here, as nobody else reads in it; in a server that is the writer's. */
static int store_begin(struct store *st, MDB_txn **txn)
{
    store_check_lock(st->env);
    int rc = mdb_txn_begin(st->env, NULL, MDB_RDONLY, txn);
    if (rc == MDB_READERS_FULL && !mdb_reader_check(st->env, NULL))
        rc = mdb_txn_begin(st->env, NULL, MDB_RDONLY, txn);
    if (rc != MDB_MAP_RESIZED || !st->options.read_only) return rc;
    rc = mdb_env_set_mapsize(st->env, 0);
    return rc ? rc : mdb_txn_begin(st->env, NULL, MDB_RDONLY, txn);
}

/* [main, writer] Locks the data file itself, too: presence.lock may have been taken for a left-
 * over and removed under the server that holds it. EWOULDBLOCK if another one has the file. */
static int store_lock_data(struct store *st)
{
    int fd, rc = mdb_env_get_fd(st->env, &fd);
    return rc || !flock(fd, LOCK_EX | LOCK_NB) ? rc : errno;
}

/* [main, writer] Maps the data file, which has passed the check, locks it, and gives back the slots
 * of readers that died. An LMDB or errno code; then there is no map. */
static int store_map(struct store *st)
{
    int rc = store_map_path(st, st->dir, 0);
    if (rc) return rc;
    rc = store_lock_data(st);
    if (!rc) rc = mdb_reader_check(st->env, NULL);
    if (rc) store_unmap(st);
    return rc;
}

/* ==== 15. Store: reads ========================================================================
 * [any] Each call is one short transaction, and everything is copied out before it ends: as long
 * as one is open LMDB can use no page again that was freed since, and the map cannot grow. A read
 * that fails is logged and told apart from one that finds nothing: who could not be read is never
 * shown as offline. Workers call this, the reader of the hub, the webhook, and the commands. */

/* Logs that a read failed, once in STORE_QUIET_MS: strangers decide how often something is read. */
static void store_log_read(struct store *st, int rc)
{
    int64_t now = clock_mono_ms();
    lock_take(&st->lock, RANK_STORE);
    bool quiet = st->read_failed_at && now - st->read_failed_at < STORE_QUIET_MS;
    if (!quiet) st->read_failed_at = now;
    lock_give(&st->lock, RANK_STORE);
    log_line(st->log, quiet ? LOG_DEBUG : LOG_ERROR, "store: cannot read %s/data.mdb: %s", st->dir,
             mdb_strerror(rc));
}

/* Opens a read transaction, or takes the command's snapshot: 0, and store_end_read follows, which
 * gives map_lock back; or what went wrong, and nothing is held. */
static int store_try_read(struct store *st, MDB_txn **txn)
{
    *txn = NULL;
    if (st->options.read_only) {
        *txn = st->snapshot;
        return 0;
    }
    /* Through `turn`, see struct store. */
    lock_take(&st->turn, RANK_STORE_TURN);
    pthread_rwlock_rdlock(&st->map_lock);
    lock_give(&st->turn, RANK_STORE_TURN);
    int rc = st->env ? store_begin(st, txn) : MDB_PANIC;
    if (rc) pthread_rwlock_unlock(&st->map_lock);
    return rc;
}

/* The same; NULL, logged, if there is none. */
static MDB_txn *store_begin_read(struct store *st)
{
    MDB_txn *txn;
    int rc = store_try_read(st, &txn);
    if (rc) store_log_read(st, rc);
    return rc ? NULL : txn;
}

/* Ends what store_begin_read began. */
static void store_end_read(struct store *st, MDB_txn *txn)
{
    if (st->options.read_only) return;
    mdb_txn_abort(txn);
    pthread_rwlock_unlock(&st->map_lock);
}

/* The same, where rc is how the reads went: false, and logged, if that is neither 0 nor
 * MDB_NOTFOUND. */
static bool store_finish_read(struct store *st, MDB_txn *txn, int rc)
{
    store_end_read(st, txn);
    if (!rc || rc == MDB_NOTFOUND) return true;
    store_log_read(st, rc);
    return false;
}

/* Reads one user in a transaction: 0, MDB_NOTFOUND or what went wrong. The transaction may be one
 * that writes. */
static int store_find_user(struct store *st, MDB_txn *txn, struct span id, struct user_record *out)
{
    MDB_val key = {id.len, (void *)(uintptr_t)id.at}, value;
    if (!id.len || id.len > USER_ID_MAX) return MDB_NOTFOUND;
    int rc = mdb_get(txn, st->users, &key, &value);
    if (!rc && !store_decode_user(value, out)) rc = MDB_CORRUPTED;
    return rc;
}

/* A user with what they set by hand. */
struct stored_user {
    bool known;
    struct user_record record;
};

/* Reads a user in a transaction; 0, also when the user is not known, or what went wrong. */
static int store_find_stored(struct store *st, MDB_txn *txn, struct span id,
                             struct stored_user *out)
{
    int rc = store_find_user(st, txn, id, &out->record);
    out->known = !rc;
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* [any] The same in a transaction of its own; false if the read failed, which is logged. */
static bool store_get_stored(struct store *st, struct span id, struct stored_user *out)
{
    MDB_txn *txn = store_begin_read(st);
    if (!txn) return false;
    int rc = store_find_stored(st, txn, id, out);
    return store_finish_read(st, txn, rc);
}

/* One user copied out of a transaction. */
struct store_found {
    struct user_record record;
    uint8_t id_len;
    char id[USER_ID_MAX];
};

/* Copies up to max users behind `after` from the users or, index set, from those in `open`, where
 * an id without a record is passed over. *count is how many, *at_end that there are no more. 0 or
 * what went wrong. */
static int store_copy_users(struct store *st, MDB_txn *txn, bool index, struct span after, int max,
                            struct store_found *out, int *count, bool *at_end)
{
    MDB_cursor *cursor;
    MDB_val key = {after.len, (void *)(uintptr_t)after.at}, value;
    int rc = mdb_cursor_open(txn, index ? st->open : st->users, &cursor), n = 0;
    if (rc) return rc;
    rc = mdb_cursor_get(cursor, &key, &value, after.len ? MDB_SET_RANGE : MDB_FIRST);
    if (!rc && after.len && !bytes_compare(key.mv_data, key.mv_size, after.at, after.len))
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    for (; !rc && n < max; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct span id = {key.mv_data, key.mv_size};
        if (id.len > USER_ID_MAX) rc = MDB_CORRUPTED;
        else if (index) rc = store_find_user(st, txn, id, &out[n].record);
        else if (!store_decode_user(value, &out[n].record)) rc = MDB_CORRUPTED;
        if (rc == MDB_NOTFOUND) continue;
        if (rc) break;
        out[n].id_len = (uint8_t)id.len;
        memcpy(out[n++].id, id.at, id.len);
    }
    mdb_cursor_close(cursor);
    *count = n;
    *at_end = rc == MDB_NOTFOUND;
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Visits users behind `after` in byte order, STORE_CHUNK a transaction and none while visit runs,
 * as visit may take its time. So what it sees is of several moments, each user as of a moment
 * after the call. Stops when visit says so (false), after scan of them, or at the end, and only
 * then *at_end. False if a read failed. */
static bool store_visit_users(struct store *st, bool index, struct span after, size_t scan,
                              bool (*visit)(void *, struct span, const struct user_record *),
                              void *context, bool *at_end)
{
    struct store_found found[STORE_CHUNK];
    char last[USER_ID_MAX];
    *at_end = false;
    while (scan && !*at_end) {
        int count = 0, max = scan < STORE_CHUNK ? (int)scan : STORE_CHUNK;
        MDB_txn *txn = store_begin_read(st);
        if (!txn) return false;
        int rc = store_copy_users(st, txn, index, after, max, found, &count, at_end);
        if (!store_finish_read(st, txn, rc)) return false;
        for (int i = 0; i < count; i++) {
            if (visit(context, (struct span){found[i].id, found[i].id_len}, &found[i].record))
                continue;
            /* It had enough; who asks for a page wants to know whether that was the last one. */
            *at_end = *at_end && i == count - 1;
            return true;
        }
        if (!count) break;
        after = (struct span){last, found[count - 1].id_len};
        memcpy(last, found[count - 1].id, after.len);
        scan -= (size_t)count;
    }
    return true;
}

/* Visits every user whose session is open, in byte order, until visit returns false. What it costs
 * depends on their number, not on that of all users. False if a read failed. */
static bool store_each_open(struct store *st,
                            bool (*visit)(void *, struct span id, const struct user_record *),
                            void *context)
{
    bool at_end;
    return store_visit_users(st, true, (struct span){0}, SIZE_MAX, visit, context, &at_end);
}

/* Visits the users with an id greater than `after` (empty: all), in byte order, until visit
 * returns false or scan of them were visited; *at_end tells that there are no more. The last id
 * visited is the place to go on from. False if a read failed. */
static bool store_each_user(struct store *st, struct span after, size_t scan,
                            bool (*visit)(void *, struct span id, const struct user_record *),
                            void *context, bool *at_end)
{
    return store_visit_users(st, false, after, scan, visit, context, at_end);
}

/* What a user set by hand, with the user, copied out of a transaction. */
struct store_found_manual {
    struct user_record record;
    struct manual_record manual;
    uint8_t id_len;
    char id[USER_ID_MAX];
};

/* Copies up to max manual statuses behind `after`, and who set them; one whose user has no record
 * is passed over: no batch of ours leaves one, but there would be nobody to show. *count is how
 * many; MDB_NOTFOUND after the last. */
static int store_copy_manuals(struct store *st, MDB_txn *txn, struct span after, int max,
                              struct store_found_manual *out, int *count)
{
    MDB_cursor *cursor;
    MDB_val key = {after.len, (void *)(uintptr_t)after.at}, value;
    *count = 0;
    int rc = mdb_cursor_open(txn, st->manual, &cursor);
    if (rc) return rc;
    rc = mdb_cursor_get(cursor, &key, &value, after.len ? MDB_SET_RANGE : MDB_FIRST);
    if (!rc && after.len && !bytes_compare(key.mv_data, key.mv_size, after.at, after.len))
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    for (; !rc && *count < max; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        struct store_found_manual *found = &out[*count];
        struct span id = {key.mv_data, key.mv_size};
        if (id.len > USER_ID_MAX || !store_read_manual(value, &found->manual)) rc = MDB_CORRUPTED;
        else rc = store_find_user(st, txn, id, &found->record);
        if (rc == MDB_NOTFOUND) continue;
        if (rc) break;
        found->id_len = (uint8_t)id.len;
        memcpy(found->id, id.at, id.len);
        ++*count;
    }
    mdb_cursor_close(cursor);
    return rc;
}

/* [main] Visits every status that was set by hand, in byte order of the ids, STORE_CHUNK a
 * transaction. False if a read failed. */
static bool store_each_manual(struct store *st,
                              void (*visit)(void *, struct span id, const struct user_record *,
                                            const struct manual_record *),
                              void *context)
{
    struct store_found_manual *found = mem_new(STORE_CHUNK * sizeof *found);
    struct span after = {0};
    char last[USER_ID_MAX];
    int count, rc = 0;
    while (!rc) {
        MDB_txn *txn = store_begin_read(st);
        if (!txn) break;
        rc = store_copy_manuals(st, txn, after, STORE_CHUNK, found, &count);
        store_end_read(st, txn);
        for (int i = 0; i < count && (!rc || rc == MDB_NOTFOUND); i++)
            visit(context, (struct span){found[i].id, found[i].id_len}, &found[i].record,
                  &found[i].manual);
        if (!count) break;
        after = (struct span){last, found[count - 1].id_len};
        memcpy(last, found[count - 1].id, after.len);
    }
    free(found);
    if (rc && rc != MDB_NOTFOUND) store_log_read(st, rc);
    return rc == MDB_NOTFOUND;
}

/* Moves a cursor to the newest session of a user that began before that wall time or, where there
 * is none, to one of another user. LMDB finds the first key that is not below, and what is wanted
 * is the one before it: the very last of all users where there is none. An LMDB code. */
static int store_find_session(MDB_cursor *cursor, struct span id, int64_t before, MDB_val *key,
                              MDB_val *value)
{
    uint8_t bytes[STORE_KEY_MAX];
    *key = (MDB_val){store_session_key(id, before, bytes), bytes};
    int rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
    if (rc == MDB_NOTFOUND) return mdb_cursor_get(cursor, key, value, MDB_LAST);
    return rc ? rc : mdb_cursor_get(cursor, key, value, MDB_PREV);
}

/* Copies up to max sessions of a user that began before that wall time, the newest first. Their
 * number; -1 if the read failed. */
static int store_sessions(struct store *st, struct span id, int64_t before,
                          struct session_record *out, int max)
{
    MDB_cursor *cursor;
    if (!id.len || id.len > USER_ID_MAX) return 0;
    MDB_txn *txn = store_begin_read(st);
    if (!txn) return -1;
    MDB_val key, value;
    int n = 0, rc = mdb_cursor_open(txn, st->sessions, &cursor);
    if (!rc) {
        struct span owner;
        rc = store_find_session(cursor, id, before, &key, &value);
        for (; !rc && n < max; rc = mdb_cursor_get(cursor, &key, &value, MDB_PREV)) {
            if (!store_read_session(key, value, &owner, &out[n])) rc = MDB_CORRUPTED;
            if (rc || bytes_compare(owner.at, owner.len, id.at, id.len)) break;
            n++;
        }
        mdb_cursor_close(cursor);
    }
    return store_finish_read(st, txn, rc) ? n : -1;
}

/* Copies up to max samples of the wall times from `from` to `to`, the oldest first. Their number;
 * -1 if the read failed. */
static int store_samples(struct store *st, int64_t from, int64_t to, struct sample *out, int max)
{
    uint8_t bytes[8];
    MDB_cursor *cursor;
    MDB_val key = {sizeof bytes, bytes}, value;
    MDB_txn *txn = store_begin_read(st);
    if (!txn) return -1;
    put_be64(bytes, from < 0 ? 0 : (uint64_t)from);
    int n = 0, rc = mdb_cursor_open(txn, st->samples, &cursor);
    if (!rc) {
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        for (; !rc && n < max; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
            if (!store_read_sample(key, value, &out[n])) rc = MDB_CORRUPTED;
            if (rc || out[n].at > to) break;
            n++;
        }
        mdb_cursor_close(cursor);
    }
    return store_finish_read(st, txn, rc) ? n : -1;
}

/* Moves a cursor of `seen` to the first place behind one (NULL: to the end it comes from), up or
 * down. The place itself need not be there any more: its user may be online by now and gone from
 * here, so the walk goes on beside it, from what is there. An LMDB code. */
static int store_find_seen(MDB_cursor *cursor, const struct seen_place *after, bool down,
                           MDB_val *key, MDB_val *value)
{
    uint8_t bytes[STORE_KEY_MAX];
    if (!after) return mdb_cursor_get(cursor, key, value, down ? MDB_LAST : MDB_FIRST);
    struct span id = {after->id, after->id_len};
    const MDB_val from = {store_seen_key(id, after->last_seen, bytes), bytes};
    *key = from;
    int rc = mdb_cursor_get(cursor, key, value, MDB_SET_RANGE);
    bool same = !rc && !bytes_compare(key->mv_data, key->mv_size, from.mv_data, from.mv_size);
    if (rc == MDB_NOTFOUND && down) return mdb_cursor_get(cursor, key, value, MDB_LAST);
    if (rc || (!down && !same)) return rc;
    return mdb_cursor_get(cursor, key, value, down ? MDB_PREV : MDB_NEXT);
}

/* Copies up to max places of the users who are not online behind a place (NULL: from the end), the
 * oldest last_seen first or, down set, the latest. Their number, fewer than max when there are no
 * more; -1 if the read failed. */
static int store_seen(struct store *st, const struct seen_place *after, bool down,
                      struct seen_place *out, int max)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    MDB_txn *txn = store_begin_read(st);
    if (!txn) return -1;
    int n = 0, rc = mdb_cursor_open(txn, st->seen, &cursor);
    if (!rc) {
        const MDB_cursor_op step = down ? MDB_PREV : MDB_NEXT;
        rc = store_find_seen(cursor, after, down, &key, &value);
        for (; !rc && n < max; rc = mdb_cursor_get(cursor, &key, &value, step)) {
            if (!store_read_seen(key, &out[n])) rc = MDB_CORRUPTED;
            if (rc) break;
            n++;
        }
        mdb_cursor_close(cursor);
    }
    return store_finish_read(st, txn, rc) ? n : -1;
}

/* Is shown a user who is not online, with the stay that began last, or NULL; false: that is enough.
 */
typedef bool store_visit_leaver(void *context, struct span id, const struct user_record *user,
                                const struct session_record *stay);

/* A user who is not online, copied out of a transaction. */
struct store_leaver {
    struct seen_place place;
    struct user_record user;
    bool has_stay;
    struct session_record stay; /* the one that began last */
};

/* Copies the user at a place of `seen`, with a cursor of `sessions`: 0, or what went wrong.
 * MDB_NOTFOUND: no such user is offline. No batch of ours leaves such a place. */
static int store_copy_leaver(struct store *st, MDB_txn *txn, MDB_cursor *sessions,
                             const struct seen_place *place, struct store_leaver *out)
{
    struct span id = {place->id, place->id_len}, owner;
    MDB_val key, value;
    *out = (struct store_leaver){.place = *place};
    int rc = store_find_user(st, txn, id, &out->user);
    if (rc || out->user.open) return rc ? rc : MDB_NOTFOUND;
    rc = store_find_session(sessions, id, INT64_MAX, &key, &value);
    if (!rc && !store_read_session(key, value, &owner, &out->stay)) rc = MDB_CORRUPTED;
    out->has_stay = !rc && !bytes_compare(owner.at, owner.len, id.at, id.len);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Copies the users at the next STORE_CHUNK places behind one, which becomes the last of them; a
 * place without its user is passed over. *count is how many, *at_end that there are no more places.
 * 0 or what went wrong. */
static int store_copy_leavers(struct store *st, MDB_txn *txn, struct seen_place *place,
                              struct store_leaver *out, int *count, bool *at_end)
{
    MDB_cursor *seen, *sessions;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, st->seen, &seen);
    if (rc) return rc;
    rc = mdb_cursor_open(txn, st->sessions, &sessions);
    if (rc) {
        mdb_cursor_close(seen);
        return rc;
    }
    rc = store_find_seen(seen, place, false, &key, &value);
    for (int i = 0; !rc && i < STORE_CHUNK; i++) {
        if (!store_read_seen(key, place)) rc = MDB_CORRUPTED;
        else rc = store_copy_leaver(st, txn, sessions, place, &out[*count]);
        if (rc && rc != MDB_NOTFOUND) break;
        if (!rc) ++*count;
        rc = mdb_cursor_get(seen, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(sessions);
    mdb_cursor_close(seen);
    *at_end = rc == MDB_NOTFOUND;
    return *at_end ? 0 : rc;
}

/* Visits the users who are not online, in the order of last_seen: those behind a place, which is to
 * be {.last_seen = since} at first and is moved along, so that another call goes on there.
 * STORE_CHUNK a transaction, and none while visit runs. Who comes and leaves again meanwhile is
 * later in the order, so in the end nobody was missed who is not online then; they may have been
 * visited twice. Stops when visit says so, or at the end, and only then *at_end. False if a read
 * failed; what was visited until then was right. */
__attribute__((unused)) static bool store_leavers(struct store *st, struct seen_place *place,
                                                  store_visit_leaver *visit, void *context,
                                                  bool *at_end)
{
    struct store_leaver *found = mem_new(STORE_CHUNK * sizeof *found);
    bool good = true, more = true;
    *at_end = false;
    while (good && more && !*at_end) {
        struct seen_place scanned = *place;
        int count = 0, i = 0;
        MDB_txn *txn = store_begin_read(st);
        good = txn != NULL;
        if (txn) {
            int rc = store_copy_leavers(st, txn, &scanned, found, &count, at_end);
            good = store_finish_read(st, txn, rc);
        }
        while (good && more && i < count) {
            const struct store_leaver *one = &found[i++];
            more = visit(context, (struct span){one->place.id, one->place.id_len}, &one->user,
                         one->has_stay ? &one->stay : NULL);
            *place = one->place;
        }
        if (good && more) *place = scanned; /* also behind those that were passed over */
        *at_end = *at_end && good && i == count;
    }
    free(found);
    return good;
}

/* What is delivered together. */
struct outbox_batch {
    uint64_t last; /* the number of its last change */
    int64_t tried; /* what outbox_clock showed when that was written */
    size_t count;
    struct buffer text; /* the changes, with commas between; its owner frees it */
};

/* [webhook] Copies the first batch that is not done with into an empty one: 1, or 0 if there is
 * none that is closed; -1 if the read failed. */
static int store_outbox_next(struct store *st, struct outbox_batch *out)
{
    uint8_t bytes[8];
    MDB_cursor *cursor;
    MDB_val key = {sizeof bytes, bytes}, value;
    MDB_txn *txn = store_begin_read(st);
    if (!txn) return -1;
    put_be64(bytes, atomic_load(&st->outbox_done) + 1);
    lock_take(&st->lock, RANK_STORE);
    uint64_t closed = st->outbox_closed;
    lock_give(&st->lock, RANK_STORE);
    int rc = mdb_cursor_open(txn, st->outbox, &cursor);
    if (!rc) {
        struct stored_change change;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
        for (; !rc; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
            if (!store_read_change(key, value, &change)) rc = MDB_CORRUPTED;
            if (rc || change.number >= closed || (out->count && change.first)) break;
            if (out->count++) buffer_text(&out->text, ",");
            buffer_add(&out->text, change.text.at, change.text.len);
            out->last = change.number;
            out->tried = change.tried;
        }
        mdb_cursor_close(cursor);
    }
    if (!store_finish_read(st, txn, rc)) return -1;
    return out->count ? 1 : 0;
}

/* Closes the last batch; no transaction is under way, st->lock is held. */
static void store_close_outbox(struct store *st)
{
    st->outbox_end.count = 0;
    st->outbox_closed = st->outbox_end.next;
    st->outbox_pinned = UINT64_MAX;
}

/* [webhook] Closes the batches that are in the outbox: a later change begins a new one. From here
 * on all of them are pinned, until store_outbox_pin says which is. False while a transaction is
 * under way: the writer will close them at its end, and whoever asks again then is told so, once.
 */
static bool store_outbox_close(struct store *st)
{
    lock_take(&st->lock, RANK_STORE);
    bool closed = !st->writing || st->outbox_close == OUTBOX_CLOSE_GIVEN;
    if (!st->writing) store_close_outbox(st);
    st->outbox_close = closed ? OUTBOX_CLOSE_NONE : OUTBOX_CLOSE_ASKED;
    lock_give(&st->lock, RANK_STORE);
    return closed;
}

/* [webhook] Pins the batches up to that number, and no others; 0: none. */
static void store_outbox_pin(struct store *st, uint64_t number)
{
    lock_take(&st->lock, RANK_STORE);
    st->outbox_pinned = number;
    lock_give(&st->lock, RANK_STORE);
}

/* [webhook] Lets outbox_clock run until then, at most; with until = now it stands. What it shows
 * now. */
static int64_t store_outbox_try(struct store *st, int64_t now, int64_t until)
{
    lock_take(&st->lock, RANK_STORE);
    outbox_clock_run(&st->outbox_clock, now, until);
    int64_t shows = st->outbox_clock.sum;
    lock_give(&st->lock, RANK_STORE);
    return shows;
}

/* Fills *out; what cannot be read stays 0, and readable is false. */
struct store_stats {
    uint64_t users, sessions, open;
    uint64_t outbox; /* changes in it that are not done with */
    uint64_t map_size, used_bytes,
        file_bytes; /* address space; pages ever used; size of data.mdb */
    bool readable;  /* these figures could be read just now */
    bool writable;  /* the last commit went well */
    int64_t last_commit_wall;
    int64_t oldest_reader_ms;    /* how long a command has been reading; 0: none is */
    const char *displaced;       /* a file that was removed or replaced, or NULL */
    char problem[STORE_PROBLEM]; /* why not both, or "" */
    uint64_t boots;              /* servers that opened it, this one included */
    bool was_clean;              /* the server before this one stopped in order */
    int64_t was_alive;           /* and committed for the last time then */
};

/* Counts the changes in the outbox that are not done with: those that are, and were not removed
 * yet, are few, so they are counted one by one. 0 or what went wrong. */
static int store_count_outbox(struct store *st, MDB_txn *txn, uint64_t *count)
{
    MDB_stat stat;
    MDB_cursor *cursor;
    MDB_val key, value;
    uint64_t done = atomic_load(&st->outbox_done);
    int rc = mdb_stat(txn, st->outbox, &stat);
    if (!rc) rc = mdb_cursor_open(txn, st->outbox, &cursor);
    *count = 0;
    if (rc) return rc;
    *count = stat.ms_entries;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; !rc && key.mv_size == 8 && get_be64(key.mv_data) <= done; --*count)
        rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Looks through the slots of readers in other processes; for how many ms the oldest of their
 * transactions has been seen, 0 if there is none. Slots have no time, so it is that of our first
 * look at this transaction. The caller holds map_lock or is the writer: st->env is open and stays
 * so. */
static int64_t store_look_at_readers(struct store *st)
{
    int64_t now = clock_mono_ms(), oldest = now;
    lock_take(&st->lock, RANK_STORE);
    unsigned count = lmdb_slots(st->env);
    if (count > st->reader_count) {
        st->readers = mem_resize(st->readers, count * sizeof *st->readers);
        for (; st->reader_count < count; st->reader_count++)
            st->readers[st->reader_count] = (struct store_slot){0};
    }
    for (unsigned i = 0; i < count; i++) {
        struct lmdb_reader is = lmdb_slot(st->env, i);
        struct store_slot *r = &st->readers[i];
        if (is.id != r->is.id || is.transaction != r->is.transaction)
            *r = (struct store_slot){is, now};
        if (is.id && r->since < oldest) oldest = r->since;
    }
    lock_give(&st->lock, RANK_STORE);
    return now - oldest;
}

/* Fills the part of the figures that the file has; 0 or what went wrong. */
static int store_read_stats(struct store *st, MDB_txn *txn, struct store_stats *out)
{
    MDB_stat users, sessions, open;
    MDB_envinfo info;
    struct stat s;
    int fd, rc = mdb_stat(txn, st->users, &users);
    if (!rc) rc = mdb_stat(txn, st->sessions, &sessions);
    if (!rc) rc = mdb_stat(txn, st->open, &open);
    if (!rc) rc = store_count_outbox(st, txn, &out->outbox);
    if (!rc) rc = mdb_env_info(st->env, &info);
    if (!rc) rc = mdb_env_get_fd(st->env, &fd);
    if (!rc && fstat(fd, &s)) rc = errno;
    if (rc) return rc;
    out->users = users.ms_entries;
    out->sessions = sessions.ms_entries;
    out->open = open.ms_entries;
    out->map_size = info.me_mapsize;
    out->used_bytes = (uint64_t)(info.me_last_pgno + 1) * users.ms_psize;
    out->file_bytes = (uint64_t)s.st_size;
    out->oldest_reader_ms = store_look_at_readers(st);
    if (!st->options.read_only) out->displaced = store_displaced(st);
    return 0;
}

/* Fills *out; what cannot be read, which is logged, stays 0. Any thread. */
static void store_stats(struct store *st, struct store_stats *out)
{
    *out = (struct store_stats){
        .boots = st->boots, .was_clean = st->was_clean, .was_alive = st->was_alive};
    MDB_txn *txn;
    int rc = store_try_read(st, &txn);
    if (!rc) {
        rc = store_read_stats(st, txn, out);
        store_end_read(st, txn);
    }
    if (rc) store_log_read(st, rc);
    out->readable = !rc;
    lock_take(&st->lock, RANK_STORE);
    out->writable = st->writable;
    out->last_commit_wall = st->last_commit;
    memcpy(out->problem, st->problem, sizeof out->problem);
    lock_give(&st->lock, RANK_STORE);
    if (out->displaced) { /* writes go well, but nowhere */
        out->writable = false;
        store_say_displaced(st, out->displaced, out->problem);
    }
    if (rc && !*out->problem)
        snprintf(out->problem, sizeof out->problem, "cannot read %s/data.mdb: %s", st->dir,
                 mdb_strerror(rc));
}

/* ==== 16. Store: changes ======================================================================
 * A batch is what the hub has to tell the store: operations one behind the other in a buffer, which
 * is one allocation however many they are. It is built by the hub without a lock, handed over, and
 * written by the writer in one transaction. Operations are absolute ("the user is so now"), and a
 * transaction is all or nothing: so the whole may be tried again as often as the disk asks for.
 *
 * A full map grows; a disk that fails stops the writing, not the program. Beside `users` there are
 * two indexes, so that no question costs what all known users would: `open` has the ids of those
 * who are online, for the next start, and `seen` the others by last_seen, for lists. Every record
 * of a user is in exactly one of them, and both change in the transaction of the record. */

enum {
    STORE_RETRY_MS = 1000,
    STORE_LOOK_MS = 60000,       /* so often readers are looked for that died */
    STORE_SWEEP = 1000,          /* sessions that one commit looks at for their age, */
    STORE_SWEEP_EACH = 2,        /* and more for each that it adds: else they could outgrow it */
    STORE_SWEEP_SAMPLES = 100,   /* old samples that one commit removes */
    STORE_BATCH_MS = 60000,      /* changes further apart are not delivered together */
    STORE_RESTORE_BATCH = 10000, /* records a transaction */
    STORE_DUMP_LINE = 2048,      /* longest line of a dump */
};

/* One transaction's worth of work: built by the hub, the store's from store_submit until done,
 * then the hub's again. Zeroed is empty; buffer_free(&ops) ends it. */
struct store_batch {
    struct buffer ops;
    size_t users, sessions, samples, changes, manuals;
    bool last; /* of a server that stops in order: it carries the sign of that */
    /* With it the store has a cluster's log up to here; both 0: it says nothing of that. */
    uint32_t position_epoch;
    uint64_t position_number;
};

/* One operation, as it lies in `ops`: this, id_len bytes of the id, text_len bytes. Not aligned
 * there, so it is copied out. */
struct store_op {
    enum {
        STORE_USER,
        STORE_SESSION,
        STORE_WHOLE_USER,
        STORE_WHOLE_SESSION,
        STORE_SAMPLE,
        STORE_MANUAL,
        STORE_CHANGE,
        STORE_DELIVERED,
        STORE_LEAVER /* its text is a struct session_record, or empty */
    } kind;
    uint8_t id_len;
    bool shared; /* a session: the cluster's, see store_batch_session */
    uint16_t text_len;
    union {
        struct user_record user;
        struct session_record session;
        struct sample sample;
        int64_t at;       /* of a change, wall ms */
        uint64_t through; /* of what was delivered: the last number */
        struct manual_head manual;
    } as;
};

static void store_batch_add(struct store_batch *b, struct span id, struct store_op *op)
{
    assert(id.len >= 1 && id.len <= USER_ID_MAX);
    op->id_len = (uint8_t)id.len;
    buffer_add(&b->ops, op, sizeof *op);
    buffer_add(&b->ops, id.at, id.len);
    if (op->kind == STORE_USER || op->kind == STORE_WHOLE_USER) b->users++;
    else b->sessions++;
}

/* Adds the state of a user. While open, online_since counts; at the end of a session (open before,
 * not now) reason does, and last_seen becomes offline_since. first_seen is kept, or begins. */
static void store_batch_user(struct store_batch *b, struct span id, bool open, enum status status,
                             int64_t online_since, int64_t last_seen, enum reason reason)
{
    struct store_op op = {.kind = STORE_USER};
    op.as.user = (struct user_record){.open = open,
                                      .status = (uint8_t)status,
                                      .online_since = online_since,
                                      .last_seen = last_seen,
                                      .reason = (uint8_t)reason};
    store_batch_add(b, id, &op);
}

/* Adds a session that has ended, by which the user's `sessions` grow. A shared one is known to all
 * nodes of a cluster by its user and its begin, and may come more than once: one that is there is
 * replaced and not counted again. */
static void store_batch_session(struct store_batch *b, struct span id,
                                const struct session_record *session, bool shared)
{
    struct store_op op = {.kind = STORE_SESSION, .shared = shared, .as.session = *session};
    store_batch_add(b, id, &op);
}

/* Adds a sample; another one of the same minute is replaced. */
static void store_batch_sample(struct store_batch *b, const struct sample *sample)
{
    struct store_op op = {.kind = STORE_SAMPLE, .as.sample = *sample};
    buffer_add(&b->ops, &op, sizeof op);
    b->samples++;
}

/* Adds a change for the outbox, behind those that are there: a JSON object. */
static void store_batch_change(struct store_batch *b, int64_t at, struct span text)
{
    assert(text.len && text.len <= STORE_CHANGE_MAX - STORE_CHANGE_BYTES);
    struct store_op op = {.kind = STORE_CHANGE, .text_len = (uint16_t)text.len, .as.at = at};
    buffer_add(&b->ops, &op, sizeof op);
    buffer_add(&b->ops, text.at, text.len);
    b->changes++;
}

/* Adds that the outbox's changes up to that number were delivered, or given up: they are removed
 * with this batch. */
static void store_batch_delivered(struct store_batch *b, uint64_t through)
{
    struct store_op op = {.kind = STORE_DELIVERED, .as.through = through};
    buffer_add(&b->ops, &op, sizeof op);
}

/* Adds what a user has set by hand now, perhaps nothing. */
static void store_batch_manual(struct store_batch *b, struct span id,
                               const struct manual_head *head, struct span message)
{
    struct store_op op = {.kind = STORE_MANUAL, .id_len = (uint8_t)id.len, .as.manual = *head};
    assert(id.len >= 1 && id.len <= USER_ID_MAX && message.len <= STATUS_TEXT_MAX);
    op.text_len = (uint16_t)message.len;
    buffer_add(&b->ops, &op, sizeof op);
    buffer_add(&b->ops, id.at, id.len);
    buffer_add(&b->ops, message.at, message.len);
    b->manuals++;
}

/* Adds a user who is not online as another node of a cluster has them, with the stay that began
 * last, or NULL. The later last_seen decides which record holds, this or the stored one; of both
 * counts the earlier first_seen, and the larger number of sessions, in which the stay is. So it
 * does not matter how often, from how many nodes or in which order users are told. What a peer
 * says was decoded as records are, ids were looked at. */
__attribute__((unused)) static void store_batch_leaver(struct store_batch *b, struct span id,
                                                       const struct user_record *user,
                                                       const struct session_record *stay)
{
    struct store_op op = {.kind = STORE_LEAVER, .id_len = (uint8_t)id.len, .as.user = *user};
    assert(id.len >= 1 && id.len <= USER_ID_MAX);
    op.as.user.open = false;
    op.as.user.online_since = 0;
    op.text_len = stay ? sizeof *stay : 0;
    buffer_add(&b->ops, &op, sizeof op);
    buffer_add(&b->ops, id.at, id.len);
    buffer_add(&b->ops, stay, op.text_len);
    b->users++;
    b->sessions += stay != NULL;
}

static size_t store_batch_count(const struct store_batch *b)
{
    return b->users + b->sessions + b->samples + b->changes + b->manuals;
}

static bool store_batch_has_position(const struct store_batch *b)
{
    return b->position_epoch || b->position_number;
}

/* Moves all of one batch behind another; `from` is empty after it. */
static void store_batch_move(struct store_batch *to, struct store_batch *from)
{
    if (!store_batch_has_position(from)) {
        from->position_epoch = to->position_epoch;
        from->position_number = to->position_number;
    }
    to->position_epoch = from->position_epoch;
    to->position_number = from->position_number;
    if (to->ops.len) {
        buffer_add(&to->ops, from->ops.at, from->ops.len);
        to->users += from->users;
        to->sessions += from->sessions;
        to->samples += from->samples;
        to->changes += from->changes;
        to->manuals += from->manuals;
        buffer_free(&from->ops);
    } else {
        buffer_free(&to->ops);
        *to = *from;
    }
    *from = (struct store_batch){0};
}

/* Empties a batch that is not under way; its memory stays for the next. */
static void store_batch_clear(struct store_batch *b)
{
    b->ops.len = b->users = b->sessions = b->samples = b->changes = b->manuals = 0;
    b->last = false;
    b->position_epoch = 0;
    b->position_number = 0;
}

/* ---- Work inside a transaction: [writer; main before it runs] 0, or the LMDB or errno code that
 * ends the transaction, of which nothing remains then ---- */

static int store_put_meta(struct store *st, MDB_txn *txn, const char *name, uint8_t *bytes,
                          size_t n)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, value = {n, bytes};
    return mdb_put(txn, st->meta, &key, &value, 0);
}

/* Finds n bytes in meta, good while the transaction is; MDB_NOTFOUND if they are not there. */
static int store_get_meta(struct store *st, MDB_txn *txn, const char *name, size_t n,
                          const uint8_t **bytes)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, value;
    int rc = mdb_get(txn, st->meta, &key, &value);
    if (!rc) *bytes = value.mv_data;
    return !rc && value.mv_size != n ? MDB_CORRUPTED : rc;
}

static int store_put_number(struct store *st, MDB_txn *txn, const char *name, uint64_t number,
                            int n)
{
    uint8_t bytes[8];
    store_put_le(bytes, number, n);
    return store_put_meta(st, txn, name, bytes, (size_t)n);
}

/* Reads a number of n bytes from meta; MDB_NOTFOUND, with *number 0, if it is not there. */
static int store_get_number(struct store *st, MDB_txn *txn, const char *name, int n,
                            uint64_t *number)
{
    const uint8_t *bytes;
    int rc = store_get_meta(st, txn, name, (size_t)n, &bytes);
    *number = rc ? 0 : store_take_le(bytes, n);
    return rc;
}

enum { STORE_POSITION_BYTES = 4 + 8 };

static int store_put_position(struct store *st, MDB_txn *txn, uint32_t epoch, uint64_t number)
{
    uint8_t bytes[STORE_POSITION_BYTES];
    store_put_le(bytes, epoch, 4);
    store_put_le(bytes + 4, number, 8);
    return store_put_meta(st, txn, "position", bytes, sizeof bytes);
}

/* Reads what store_put_position put; 0 with both 0 if it is not there. */
static int store_get_position(struct store *st, MDB_txn *txn, uint32_t *epoch, uint64_t *number)
{
    const uint8_t *bytes;
    int rc = store_get_meta(st, txn, "position", STORE_POSITION_BYTES, &bytes);
    *epoch = rc ? 0 : (uint32_t)store_take_le(bytes, 4);
    *number = rc ? 0 : store_take_le(bytes + 4, 8);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Keeps `seen` in step with a user record; old is the one before, or NULL. A user who was offline
 * with the same last_seen, of whom something else has changed, is there already. */
static int store_put_seen(struct store *st, MDB_txn *txn, struct span id,
                          const struct user_record *r, const struct user_record *old)
{
    uint8_t bytes[STORE_KEY_MAX];
    MDB_val key = {0, bytes}, none = {0, NULL};
    bool was = old && !old->open, is = !r->open;
    if (was && is && old->last_seen == r->last_seen) return 0; /* the common case costs nothing */
    int rc = 0;
    if (was) {
        key.mv_size = store_seen_key(id, old->last_seen, bytes);
        rc = mdb_del(txn, st->seen, &key, NULL);
        if (rc == MDB_NOTFOUND) rc = 0;
    }
    if (rc || !is) return rc;
    key.mv_size = store_seen_key(id, r->last_seen, bytes);
    return mdb_put(txn, st->seen, &key, &none, 0);
}

/* Puts a user record and keeps `open` and `seen` in step with it; old is the one before, or NULL.
 */
static int store_put_user(struct store *st, MDB_txn *txn, struct span id,
                          const struct user_record *r, const struct user_record *old)
{
    bool was_open = old && old->open;
    uint8_t bytes[STORE_USER_BYTES];
    store_encode_user(r, bytes);
    MDB_val key = {id.len, (void *)(uintptr_t)id.at}, value = {sizeof bytes, bytes},
            none = {0, NULL};
    int rc = mdb_put(txn, st->users, &key, &value, 0);
    if (!rc) rc = store_put_seen(st, txn, id, r, old);
    if (rc || r->open == was_open) return rc;
    rc = r->open ? mdb_put(txn, st->open, &key, &none, 0) : mdb_del(txn, st->open, &key, NULL);
    /* An index that lacks what is to go is as it should be; --check-store tells of it. */
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Merges the state of a user into what is stored: the hub knows the running session, the store
 * what was before it. */
static int store_apply_user(struct store *st, MDB_txn *txn, struct span id,
                            const struct user_record *now)
{
    struct user_record r, old;
    int rc = store_find_user(st, txn, id, &r);
    bool known = !rc;
    if (rc == MDB_NOTFOUND)
        /* A first session may have ended before the first batch: last_seen is all there is then. */
        r = (struct user_record){.first_seen =
                                     now->online_since ? now->online_since : now->last_seen};
    else if (rc) return rc;
    old = r;
    r.open = now->open;
    r.status = now->status;
    r.last_seen = now->last_seen;
    r.online_since = now->open ? now->online_since : 0;
    if (!now->open) r.offline_since = now->last_seen;
    if (!now->open) r.reason = now->reason;
    return store_put_user(st, txn, id, &r, known ? &old : NULL);
}

static int store_put_session(struct store *st, MDB_txn *txn, struct span id,
                             const struct session_record *session, unsigned flags)
{
    uint8_t name[STORE_KEY_MAX], bytes[STORE_SESSION_BYTES];
    store_encode_session(session, bytes);
    MDB_val key = {store_session_key(id, session->from, name), name}, value = {sizeof bytes, bytes};
    return mdb_put(txn, st->sessions, &key, &value, flags);
}

/* Puts a session and counts it for its user, who is made if unknown; see store_batch_session. */
static int store_apply_session(struct store *st, MDB_txn *txn, struct span id,
                               const struct session_record *session, bool shared)
{
    struct user_record r, old;
    int rc = shared ? store_put_session(st, txn, id, session, MDB_NOOVERWRITE) : 0;
    if (rc == MDB_KEYEXIST) return store_put_session(st, txn, id, session, 0);
    if (rc) return rc;
    rc = store_find_user(st, txn, id, &r);
    bool known = !rc;
    if (rc == MDB_NOTFOUND)
        r = (struct user_record){.first_seen = session->from,
                                 .last_seen = session->to,
                                 .offline_since = session->to,
                                 .status = STATUS_OFFLINE,
                                 .reason = session->reason};
    else if (rc) return rc;
    old = r;
    r.sessions++;
    rc = store_put_user(st, txn, id, &r, known ? &old : NULL);
    if (shared) return rc;
    /* UTC may have been stepped back: no session replaces another that began at the same time. */
    struct session_record s = *session;
    while (!rc && (rc = store_put_session(st, txn, id, &s, MDB_NOOVERWRITE)) == MDB_KEYEXIST) {
        if (s.to <= s.from++) s.to = s.from;
        rc = 0;
    }
    return rc;
}

/* Merges a user as another node has them into what is stored, see store_batch_leaver. Who is online
 * here with the same last_seen has left: the node that was told of their end had nothing later. */
static int store_apply_leaver(struct store *st, MDB_txn *txn, struct span id,
                              const struct user_record *told, struct span stay)
{
    struct user_record r = *told, old;
    struct session_record session;
    int rc = store_find_user(st, txn, id, &old);
    bool known = !rc, later = true;
    if (rc && rc != MDB_NOTFOUND) return rc;
    if (known) {
        later = told->last_seen > old.last_seen || (told->last_seen == old.last_seen && old.open);
        if (!later) r = old;
        bool earlier = told->first_seen && told->first_seen < old.first_seen;
        r.first_seen = earlier || !old.first_seen ? told->first_seen : old.first_seen;
        r.sessions = told->sessions > old.sessions ? told->sessions : old.sessions;
    }
    bool moved = later || r.first_seen != old.first_seen || r.sessions != old.sessions;
    rc = moved ? store_put_user(st, txn, id, &r, known ? &old : NULL) : 0;
    if (rc || !stay.len) return rc;
    memcpy(&session, stay.at, sizeof session); /* it is not aligned there */
    return store_put_session(st, txn, id, &session, 0);
}

static int store_put_sample(struct store *st, MDB_txn *txn, const struct sample *sample)
{
    uint8_t at[8], bytes[STORE_SAMPLE_BYTES];
    put_be64(at, (uint64_t)sample->at);
    store_encode_sample(sample, bytes);
    MDB_val key = {sizeof at, at}, value = {sizeof bytes, bytes};
    return mdb_put(txn, st->samples, &key, &value, 0);
}

/* Puts a change at the end of the outbox: in the last batch or, if that is full, STORE_BATCH_MS
 * old, closed or of a time that is still to come, in a new one. MDB_APPEND, as numbers only grow.
 */
static int store_put_change(struct store *st, MDB_txn *txn, int64_t at, struct span text)
{
    struct outbox_end *end = &st->outbox_now;
    uint8_t number[8], bytes[STORE_CHANGE_MAX];
    /* UTC may have been put back: what seems to come before the batch began is not added to it. */
    bool apart = at < end->since || at - end->since >= STORE_BATCH_MS;
    bool first = !end->count || end->count >= st->options.outbox_batch_max || apart;
    if (first) end->since = at;
    end->count = first ? 1 : end->count + 1;
    put_be64(number, end->next++);
    struct stored_change change = {.first = first, .at = at, .tried = st->outbox_tried};
    store_encode_change(&change, bytes);
    memcpy(bytes + STORE_CHANGE_BYTES, text.at, text.len);
    MDB_val key = {sizeof number, number}, value = {STORE_CHANGE_BYTES + text.len, bytes};
    return mdb_put(txn, st->outbox, &key, &value, MDB_APPEND);
}

/* Removes the changes up to that number, which are the first ones. */
static int store_remove_changes(struct store *st, MDB_txn *txn, uint64_t through)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, st->outbox, &cursor);
    if (rc) return rc;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    while (!rc && key.mv_size == 8 && get_be64(key.mv_data) <= through) {
        rc = mdb_cursor_del(cursor, 0);
        if (!rc) rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Removes the oldest batches that are not pinned, whole, until the outbox has room again: what a
 * receiver gets late must be the same batches as before. */
static int store_trim_outbox(struct store *st, MDB_txn *txn)
{
    uint8_t number[8];
    MDB_stat stat;
    MDB_cursor *cursor;
    MDB_val key = {sizeof number, number}, value;
    struct stored_change change;
    int rc = mdb_stat(txn, st->outbox, &stat);
    if (rc || stat.ms_entries <= st->options.outbox_max || st->outbox_keep == UINT64_MAX) return rc;
    /* From the first that is not pinned: a batch under delivery goes only when it was delivered. */
    rc = mdb_cursor_open(txn, st->outbox, &cursor);
    if (rc) return rc;
    put_be64(number, st->outbox_keep + 1);
    rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    for (size_t left = stat.ms_entries; !rc; left--) {
        if (!store_read_change(key, value, &change)) rc = MDB_CORRUPTED;
        if (rc || (left <= st->options.outbox_max && change.first))
            break; /* between batches only */
        rc = mdb_cursor_del(cursor, 0);
        st->outbox_trimmed++;
        if (!rc) rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (rc == MDB_NOTFOUND) st->outbox_now.count = 0; /* the last batch is gone */
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Finds out where the outbox ends. The next change begins a new batch: the last one of the server
 * before may be under delivery already. */
static int store_find_outbox_end(struct store *st, MDB_txn *txn)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, st->outbox, &cursor);
    if (rc) return rc;
    rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
    if (!rc && key.mv_size != 8) rc = MDB_CORRUPTED;
    st->outbox_end = (struct outbox_end){.next = rc ? 1 : get_be64(key.mv_data) + 1};
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Puts what a user set by hand, or removes it. */
static int store_put_manual(struct store *st, MDB_txn *txn, struct span id,
                            const struct manual_head *head, struct span message)
{
    uint8_t bytes[STORE_MANUAL_BYTES + STATUS_TEXT_MAX];
    MDB_val key = {id.len, (void *)(uintptr_t)id.at};
    MDB_val value = {STORE_MANUAL_BYTES + message.len, bytes};
    if (!head->there) {
        int rc = mdb_del(txn, st->manual, &key, NULL);
        return rc == MDB_NOTFOUND ? 0 : rc;
    }
    store_encode_manual(head, bytes);
    memcpy(bytes + STORE_MANUAL_BYTES, message.at, message.len);
    return mdb_put(txn, st->manual, &key, &value, 0);
}

/* Applies one operation; the text is what follows the id. */
static int store_apply_op(struct store *st, MDB_txn *txn, const struct store_op *op, struct span id,
                          struct span text)
{
    switch (op->kind) {
    case STORE_USER: return store_apply_user(st, txn, id, &op->as.user);
    case STORE_SESSION: return store_apply_session(st, txn, id, &op->as.session, op->shared);
    case STORE_WHOLE_USER: return store_put_user(st, txn, id, &op->as.user, NULL);
    case STORE_WHOLE_SESSION: return store_put_session(st, txn, id, &op->as.session, 0);
    case STORE_SAMPLE: return store_put_sample(st, txn, &op->as.sample);
    case STORE_CHANGE: return store_put_change(st, txn, op->as.at, text);
    case STORE_DELIVERED: return store_remove_changes(st, txn, op->as.through);
    case STORE_LEAVER: return store_apply_leaver(st, txn, id, &op->as.user, text);
    case STORE_MANUAL: return store_put_manual(st, txn, id, &op->as.manual, text);
    }
    return EINVAL;
}

/* Removes sessions that ended before that wall time, among the next `count`, and keeps the place
 * to go on from. A commit looks at a bounded number of them, so a million old ones delay nobody;
 * in the end it comes by all. */
static int store_sweep(struct store *st, MDB_txn *txn, int64_t before, size_t count)
{
    MDB_cursor *cursor;
    MDB_val key = {st->sweep.len, st->sweep.at}, value;
    int rc = mdb_cursor_open(txn, st->sessions, &cursor);
    if (rc) return rc;
    rc = mdb_cursor_get(cursor, &key, &value, key.mv_size ? MDB_SET_RANGE : MDB_FIRST);
    for (size_t i = 0; !rc && i < count; i++) {
        struct span id;
        struct session_record r;
        if (!store_read_session(key, value, &id, &r)) rc = MDB_CORRUPTED;
        else if (r.to < before) rc = mdb_cursor_del(cursor, 0);
        if (!rc) rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    st->sweep.len = 0; /* at the end: the next commit begins anew */
    if (!rc) buffer_add(&st->sweep, key.mv_data, key.mv_size);
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Removes samples older than that wall time, at most STORE_SWEEP_SAMPLES. */
static int store_sweep_samples(struct store *st, MDB_txn *txn, int64_t before)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int rc = mdb_cursor_open(txn, st->samples, &cursor);
    if (rc) return rc;
    for (int i = 0; !rc && i < STORE_SWEEP_SAMPLES; i++) {
        struct sample sample;
        rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
        if (!rc && !store_read_sample(key, value, &sample)) rc = MDB_CORRUPTED;
        if (rc || sample.at >= before) break;
        rc = mdb_cursor_del(cursor, 0);
    }
    mdb_cursor_close(cursor);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* What one commit is made of. */
struct store_commit {
    const struct store_batch *batch; /* or NULL */
    bool clean;                      /* the last one of a clean stop */
};

/* Applies a commit: the batch, the room in the outbox, a piece of the sweep, and the signs of
 * life, which tell the next server until when this one lived (see server_evidence). Begins with
 * the outbox as it was committed last, as it may be a second try. */
static int store_apply(struct store *st, MDB_txn *txn, void *context)
{
    struct store_commit *commit = context;
    const struct buffer *ops = commit->batch ? &commit->batch->ops : &(struct buffer){0};
    int64_t now = clock_wall_ms(), history = st->options.history_ms;
    int rc = 0;
    st->outbox_now = st->outbox_end; /* becomes outbox_end when this is committed */
    st->outbox_trimmed = 0;
    for (size_t at = 0; !rc && at < ops->len;) {
        struct store_op op;
        memcpy(&op, ops->at + at, sizeof op);
        at += sizeof op;
        rc = store_apply_op(st, txn, &op, (struct span){ops->at + at, op.id_len},
                            (struct span){ops->at + at + op.id_len, op.text_len});
        at += (size_t)op.id_len + op.text_len;
    }
    if (!rc && commit->batch && commit->batch->changes) rc = store_trim_outbox(st, txn);
    if (!rc && commit->batch && store_batch_has_position(commit->batch))
        rc = store_put_position(st, txn, commit->batch->position_epoch,
                                commit->batch->position_number);
    size_t sweep = STORE_SWEEP;
    if (commit->batch) sweep += STORE_SWEEP_EACH * commit->batch->sessions;
    if (!rc && history) rc = store_sweep(st, txn, now - history, sweep);
    if (!rc && history) rc = store_sweep_samples(st, txn, now - history);
    if (!rc) rc = store_put_number(st, txn, "alive", (uint64_t)now, 8);
    if (!rc && st->outbox_tried)
        rc = store_put_number(st, txn, "tried", (uint64_t)st->outbox_tried, 8);
    return rc ? rc : store_put_number(st, txn, "clean", commit->clean, 1);
}

/* ---- Transactions: [writer; main before it runs] ---- */

/* Waits until no read transaction is open and keeps new ones waiting, until store_let_readers. See
 * struct store for why there are two locks. */
static void store_stop_readers(struct store *st)
{
    lock_take(&st->turn, RANK_STORE_TURN);
    pthread_rwlock_wrlock(&st->map_lock);
    lock_give(&st->turn, RANK_STORE_TURN);
}

static void store_let_readers(struct store *st)
{
    pthread_rwlock_unlock(&st->map_lock);
}

/* Doubles the map. Without address space for that the old one is taken again, and the write fails;
 * if not even that can be had nothing could be read any more, and the process ends: what is
 * committed stays. */
static int store_grow(struct store *st)
{
    MDB_envinfo info;
    int rc = mdb_env_info(st->env, &info);
    if (rc) return rc;
    if (info.me_mapsize > SIZE_MAX / 2) return MDB_MAP_FULL;
    /* The file is mapped elsewhere from here on: no reader may hold an address of the old map. */
    store_stop_readers(st);
    rc = mdb_env_set_mapsize(st->env, info.me_mapsize * 2);
    if (rc && mdb_env_set_mapsize(st->env, info.me_mapsize)) mem_die();
    store_let_readers(st);
    if (!rc) log_line(st->log, LOG_DEBUG, "store: map grown to %zu bytes", info.me_mapsize * 2);
    return rc;
}

/* Maps the file anew: LMDB refuses everything after a meta page could not be written. An LMDB or
 * errno code; then there is no map, reads fail, and the next write tries this again. */
static int store_reopen(struct store *st)
{
    MDB_txn *txn;
    store_stop_readers(st);
    store_unmap(st);
    int rc = store_map(st);
    if (!rc) rc = store_begin(st, &txn);
    if (!rc) {
        rc = store_open_trees(st, txn, 0);
        if (!rc) rc = mdb_txn_commit(txn);
        else mdb_txn_abort(txn);
    }
    if (rc) store_unmap(st);
    store_let_readers(st);
    return rc;
}

/* Runs work in a transaction and commits it; again, when the map had to grow or to be renewed. 0
 * when it is on the disk; otherwise nothing of it is, and the code says why. */
static int store_transact(struct store *st, int (*work)(struct store *, MDB_txn *, void *),
                          void *context)
{
    for (;;) {
        MDB_txn *txn;
        /* Each time: an operator may take the files away while the server runs. */
        if (st->env) store_check_lock(st->env);
        if (st->env) store_check_data(st);
        int rc = st->env ? mdb_txn_begin(st->env, NULL, 0, &txn) : MDB_PANIC;
        if (!rc) {
            rc = work(st, txn, context);
            if (!rc) rc = mdb_txn_commit(txn);
            else mdb_txn_abort(txn);
            if (!rc) st->last_txn = store_last_txn(st->env);
        }
        if (rc == MDB_MAP_FULL) rc = store_grow(st);
        else if (rc == MDB_PANIC) rc = store_reopen(st);
        else return rc;
        if (rc) return rc;
    }
}

/* Notes that a transaction begins, and what holds for the outbox in it: a batch that is closed or
 * pinned later is no matter of this transaction. */
static void store_write_begins(struct store *st)
{
    lock_take(&st->lock, RANK_STORE);
    st->writing = true;
    uint64_t done = atomic_load(&st->outbox_done);
    st->outbox_keep = st->outbox_pinned > done ? st->outbox_pinned : done;
    st->outbox_tried = outbox_clock_read(&st->outbox_clock, clock_mono_ms());
    lock_give(&st->lock, RANK_STORE);
}

/* Notes that a transaction has ended, with 0 or an error, and what it made of the outbox; then
 * answers who waited for that, see store_outbox_close. */
static void store_write_ended(struct store *st, int rc)
{
    lock_take(&st->lock, RANK_STORE);
    st->writing = false;
    if (!rc) st->outbox_end = st->outbox_now;
    if (st->outbox_close != OUTBOX_CLOSE_NONE) {
        store_close_outbox(st);
        st->outbox_close = OUTBOX_CLOSE_GIVEN;
    }
    lock_give(&st->lock, RANK_STORE);
}

/* Writes a batch (or none) and the signs of life, and counts it. 0 or what went wrong. */
static int store_write(struct store *st, const struct store_batch *batch, bool clean)
{
    ASSERT_THREAD(WRITER);
    struct store_commit commit = {.batch = batch, .clean = clean};
    store_write_begins(st);
    int rc = store_transact(st, store_apply, &commit);
    store_write_ended(st, rc);
    if (st->env) lmdb_release_pages(st->env); /* a large batch's, which LMDB would keep for ever */
    if (rc) {
        count_one(&st->counters->store_failures);
    } else {
        count_one(&st->counters->store_commits);
        count_many(&st->counters->store_records, batch ? store_batch_count(batch) : 0);
        count_many(&st->counters->webhook_dead, st->outbox_trimmed);
    }
    return rc;
}

/* What to do about a write that failed. A short write, which LMDB calls EIO, becomes ENOSPC in *rc
 * if the disk is full. */
static const char *store_remedy(const char *dir, int *rc)
{
    struct statvfs fs;
    if (*rc == EIO && !statvfs(dir, &fs) && fs.f_bavail < 16) *rc = ENOSPC;
    return *rc == ENOSPC || *rc == EDQUOT ? "free space in" : "check the disk under";
}

/* ==== 17. Store: opening, the writer thread ===================================================
 * A store is opened by a server, a command that reads, or a restore; what cannot be used is
 * refused with one line and left as it was. From then on the writer is the only thread that
 * changes the file: it takes batches from the hub, one at a time, and commits each as one
 * transaction. Main opens, starts, stops and closes; the hub submits. */

/* [main] A store that owns no file yet; store_close frees it. */
static struct store *store_new(const struct store_options *options, struct log *log,
                               struct counters *counters)
{
    struct store *st = mem_new(sizeof *st);
    pthread_condattr_t attributes;
    st->dir = mem_copy_text(options->dir, strlen(options->dir));
    st->options = *options;
    st->log = log;
    st->counters = counters;
    st->lock_fd = -1;
    st->writable = !options->read_only;
    pthread_rwlock_init(&st->map_lock, NULL);
    pthread_mutex_init(&st->turn, NULL);
    pthread_mutex_init(&st->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&st->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    return st;
}

/* [main] Closes the store and frees it; no other call may be under way, and no writer run. */
static void store_close(struct store *st)
{
    if (!st) return;
    store_unmap(st);
    if (st->lock_fd >= 0) close(st->lock_fd);
    pthread_rwlock_destroy(&st->map_lock);
    pthread_mutex_destroy(&st->turn);
    pthread_mutex_destroy(&st->lock);
    pthread_cond_destroy(&st->changed);
    buffer_free(&st->sweep);
    free(st->readers);
    free(st->dir);
    free(st);
}

/* Makes the names in a directory durable; an errno code. A file whose name is not on the disk is
 * not there after a power cut, however often it was synced. */
static int store_sync_directory(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return errno;
    int rc = fsync(fd) ? errno : 0;
    close(fd);
    return rc;
}

/* Work: what every store has from the beginning. */
static int store_found_meta(struct store *st, MDB_txn *txn, void *context)
{
    (void)context;
    int rc = store_open_trees(st, txn, MDB_CREATE);
    if (!rc) rc = store_put_number(st, txn, "boots", 0, 8);
    return rc ? rc : store_put_number(st, txn, "schema", STORE_SCHEMA, 4);
}

/* [main] Begins a new data file under another name, mapped in st; store_finish_file gives it its
 * own. So data.mdb is whole from its first moment, and an empty one was never left by us. It is
 * synced once, at the end. */
static bool store_begin_file(struct store *st, struct why why)
{
    char path[STORE_PATH];
    store_path(st->dir, "data.mdb.new", path);
    if (unlink(path) && errno != ENOENT)
        return fail(why, "cannot remove %s: %s", path, strerror(errno));
    int rc = store_map_path(st, path, MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOSYNC);
    if (!rc) rc = store_transact(st, store_found_meta, NULL);
    if (!rc) return true;
    const char *remedy = store_remedy(st->dir, &rc);
    return fail(why, "cannot create %s: %s; %s %s", path, mdb_strerror(rc), remedy, st->dir);
}

/* [main] Makes the file that store_begin_file began durable and names it data.mdb; st has no map
 * after. */
static bool store_finish_file(struct store *st, struct why why)
{
    char from[STORE_PATH], to[STORE_PATH];
    int rc = mdb_env_sync(st->env, 1);
    store_unmap(st);
    if (!rc &&
        rename(store_path(st->dir, "data.mdb.new", from), store_path(st->dir, "data.mdb", to)))
        rc = errno;
    if (!rc) rc = store_sync_directory(st->dir);
    if (!rc) return true;
    const char *remedy = store_remedy(st->dir, &rc);
    return fail(why, "cannot create %s/data.mdb: %s; %s %s", st->dir, mdb_strerror(rc), remedy,
                st->dir);
}

/* Copies the environment to an open file, also when a writer lets it outgrow the map meanwhile. An
 * LMDB or errno code. */
static int store_copy(struct store *st, int fd, unsigned flags)
{
    for (bool cleared = false;;) {
        if (ftruncate(fd, 0) || lseek(fd, 0, SEEK_SET)) return errno;
        int rc = mdb_env_copyfd2(st->env, fd, flags);
        if (rc == MDB_READERS_FULL && !cleared) {
            cleared = true; /* of readers that died; see store_begin */
            rc = mdb_reader_check(st->env, NULL);
            if (!rc) continue;
        }
        if (rc != MDB_MAP_RESIZED || !st->options.read_only) return rc;
        if (st->snapshot) mdb_txn_abort(st->snapshot);
        st->snapshot = NULL;
        rc = mdb_env_set_mapsize(st->env, 0);
        if (rc) return rc;
    }
}

/* [main] Opens a file that a signal which ends the command removes, and locks it, so that two
 * backups do not write to one; -1 with errno. A signal that comes in between waits: the file would
 * be there and nobody know of it. */
static int store_open_unfinished(const char *file)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int error = fd < 0 || flock(fd, LOCK_EX | LOCK_NB) ? errno : 0;
    if (!error) atomic_store(&store_held.unfinished, file);
    else if (fd >= 0) close(fd);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    return error ? -1 : fd;
}

/* [main] Copies the environment, compacted, to a file that has its name only once it is whole and
 * on the disk. */
static bool store_copy_file(struct store *st, const char *file, struct why why)
{
    char temporary[STORE_PATH];
    snprintf(temporary, sizeof temporary, "%s.tmp", file);
    int fd = store_open_unfinished(temporary);
    if (fd < 0) return fail(why, "cannot write %s: %s", temporary, strerror(errno));
    int rc = store_copy(st, fd, MDB_CP_COMPACT);
    /* LMDB cannot compact a file in which it lost count of a page; that harms nothing else. */
    if (rc == MDB_INCOMPATIBLE) rc = store_copy(st, fd, 0);
    if (!rc && fsync(fd)) rc = errno;
    if (!rc && rename(temporary, file)) rc = errno;
    if (rc) unlink(temporary);
    atomic_store(&store_held.unfinished, NULL);
    if (!rc) rc = store_sync_directory(dirname(temporary)); /* cuts the name there */
    close(fd);
    return !rc || fail(why, "cannot write %s: %s", file, mdb_strerror(rc));
}

/* Opens the trees of a file that passed the check, in a transaction; false if they are not of our
 * schema. There are no migrations: a dump by the presence that wrote the store carries it over. A
 * tree that is missing is one that was added without a new schema, before 0.1.0. */
static bool store_open_schema(struct store *st, MDB_txn *txn, struct why why)
{
    uint64_t schema = 0;
    int rc = mdb_dbi_open(txn, "meta", 0, &st->meta);
    if (!rc) rc = store_get_number(st, txn, "schema", 4, &schema);
    if (rc)
        return fail(why,
                    "%s/data.mdb has no schema (%s); restore a backup or choose another"
                    " --data",
                    st->dir, mdb_strerror(rc));
    if (schema > STORE_SCHEMA)
        return fail(why,
                    "%s/data.mdb has schema %" PRIu64 ", this presence knows %d;"
                    " use the newer presence",
                    st->dir, schema, STORE_SCHEMA);
    rc = store_open_trees(st, txn, 0);
    if (schema < STORE_SCHEMA || rc == MDB_NOTFOUND)
        return fail(why,
                    "%s/data.mdb is from an older presence; --dump it with that one, and"
                    " --restore the dump with this one into an empty --data",
                    st->dir);
    return !rc || fail(why, "cannot read %s/data.mdb: %s", st->dir, mdb_strerror(rc));
}

/* Work: finds out which node the store is of, or makes it one. */
static int store_find_node(struct store *st, MDB_txn *txn)
{
    int rc = store_get_number(st, txn, "node", 8, &st->node);
    if (rc != MDB_NOTFOUND) return rc;
    while (!st->node) random_bytes(&st->node, sizeof st->node);
    return store_put_number(st, txn, "node", st->node, 8);
}

/* Work: one more server has opened the store, and did not stop yet. What meta says of the one
 * before is kept in st. Only "boots" is there from the beginning. */
static int store_boot(struct store *st, MDB_txn *txn, void *context)
{
    (void)context;
    uint64_t boots, alive, clean, tried;
    int rc = store_find_outbox_end(st, txn);
    if (rc) return rc;
    rc = store_get_number(st, txn, "boots", 8, &boots);
    if (rc) return rc;
    rc = store_get_number(st, txn, "alive", 8, &alive);
    if (rc && rc != MDB_NOTFOUND) return rc;
    rc = store_get_number(st, txn, "clean", 1, &clean);
    if (rc && rc != MDB_NOTFOUND) return rc;
    rc = store_get_number(st, txn, "tried", 8, &tried);
    if (rc && rc != MDB_NOTFOUND) return rc;
    rc = store_get_position(st, txn, &st->was_position_epoch, &st->was_position_number);
    if (!rc) rc = store_find_node(st, txn);
    if (rc) return rc;
    st->outbox_clock = (struct outbox_clock){.sum = (int64_t)tried};
    st->boots = boots + 1;
    st->was_alive = (int64_t)alive;
    st->was_clean = clean;
    st->last_commit = clock_wall_ms();
    rc = store_put_number(st, txn, "boots", boots + 1, 8);
    if (!rc) rc = store_put_number(st, txn, "alive", (uint64_t)st->last_commit, 8);
    return rc ? rc : store_put_number(st, txn, "clean", 0, 1);
}

/* Begins the snapshot of a command and checks all of it. A server that commits twice before its
 * meta page is read takes that away; the next snapshot is as good. */
static bool store_begin_snapshot(struct store *st, const char *path, struct why why)
{
    for (int tries = 0; tries < 100; tries++) {
        if (st->snapshot) mdb_txn_abort(st->snapshot);
        st->snapshot = NULL;
        int rc = store_begin(st, &st->snapshot);
        if (rc) return fail(why, "cannot open %s: %s", path, mdb_strerror(rc));
        why.text[0] = 0;
        if (store_check_file(path, mdb_txn_id(st->snapshot), 0, why)) return true;
        if (why.text[0]) return false;
    }
    return fail(why, "%s is written to too fast to be read; try again", path);
}

/* Opens a command's view: one transaction, wholly checked, in which all reads of st take place. */
static bool store_open_snapshot(struct store *st, const char *path, struct why why)
{
    if (!lmdb_check_file(path, NULL, 0, 0, why.text, why.size)) return false;
    int rc = store_map_path(st, st->dir, MDB_RDONLY);
    if (rc) return fail(why, "cannot open %s: %s", path, mdb_strerror(rc));
    return store_begin_snapshot(st, path, why) && store_open_schema(st, st->snapshot, why);
}

/* Opens a server's store: made if there is none, checked, counted. The check comes before the map
 * and behind the lock: nobody else writes meanwhile. */
static bool store_open_server(struct store *st, const char *path, struct why why)
{
    MDB_txn *txn;
    if (!store_make_directory(st->dir, why) || !store_take_lock(st, why)) return false;
    if (access(path, F_OK)) {
        if (errno != ENOENT) return fail(why, "cannot open %s: %s", path, strerror(errno));
        if (!store_begin_file(st, why) || !store_finish_file(st, why)) return false;
    }
    if (!store_check_file(path, 0, STORE_CHECK_MS, why)) return false;
    int rc = store_map(st);
    if (rc == EWOULDBLOCK)
        return fail(why,
                    "%s is in use by another process, under which presence.lock was"
                    " removed; stop it or choose another --data",
                    path);
    if (!rc) rc = store_begin(st, &txn);
    if (rc) return fail(why, "cannot open %s: %s", path, mdb_strerror(rc));
    if (!store_open_schema(st, txn, why)) {
        mdb_txn_abort(txn);
        return false;
    }
    rc = mdb_txn_commit(txn);
    if (!rc) rc = store_transact(st, store_boot, NULL);
    if (!rc) return true;
    const char *remedy = store_remedy(st->dir, &rc);
    return fail(why, "cannot write %s: %s; %s %s", path, mdb_strerror(rc), remedy, st->dir);
}

/* [main] Opens the store in options->dir, which is made with mode 0700 if missing. The caller owns
 * it until store_close; log and counters must live longer. NULL if it cannot be used: `why` names
 * the path, the reason and the way out, and its data is as it was. */
static struct store *store_open(const struct store_options *options, struct log *log,
                                struct counters *counters, struct why why)
{
    char path[STORE_PATH];
    if (strlen(options->dir) >= PATH_MAX) {
        fail(why, "the path of --data is too long");
        return NULL;
    }
    struct store *st = store_new(options, log, counters);
    store_path(st->dir, "data.mdb", path);
    store_guard(st->dir);
    if (options->read_only ? store_open_snapshot(st, path, why) : store_open_server(st, path, why))
        return st;
    store_close(st);
    return NULL;
}

/* ---- The thread ---- */

/* Waits until something changed, at most that long; st->lock is held. It may return early. */
static void store_wait(struct store *st, int64_t ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (ms < 0) ms = 0;
    until.tv_sec += (time_t)(ms / 1000);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&st->changed, &st->lock, &until);
}

/* [writer; lock] Notes that a commit went well, and says so if the one before did not. */
static void store_commit_success(struct store *st)
{
    st->last_commit = clock_wall_ms();
    if (!st->writable)
        log_line(st->log, LOG_WARN,
                 "store: writes %s/data.mdb again, after %" PRId64 " s; nothing was"
                 " lost",
                 st->dir, (clock_mono_ms() - st->failing_since) / 1000);
    st->writable = true;
    st->problem[0] = 0;
}

/* [writer; lock] Notes that a commit failed, and says so if the one before did not: one line when
 * it begins and one when it ends, not one a second. */
static void store_commit_failure(struct store *st, int rc)
{
    const char *remedy = store_remedy(st->dir, &rc);
    snprintf(st->problem, sizeof st->problem, "cannot write %s/data.mdb: %s", st->dir,
             mdb_strerror(rc));
    if (st->writable) {
        st->failing_since = clock_mono_ms();
        log_line(st->log, LOG_ERROR, "store: %s; presence goes on in memory; %s %s", st->problem,
                 remedy, st->dir);
    }
    st->writable = false;
}

/* [writer] Gives back the slots of commands that died while they read, by which they would keep
 * the file growing and, when there are enough, all others from reading; once in STORE_LOOK_MS. */
static void store_look_after_readers(struct store *st)
{
    int dead = 0, rc;
    if (clock_mono_ms() < st->look_at) return;
    st->look_at = clock_mono_ms() + STORE_LOOK_MS;
    if (!st->env) return;
    rc = mdb_reader_check(st->env, &dead);
    if (rc)
        log_line(st->log, LOG_WARN, "store: cannot look for dead readers in %s/lock.mdb: %s",
                 st->dir, mdb_strerror(rc));
    if (dead) log_line(st->log, LOG_INFO, "store: %d readers had died and were cleared", dead);
    store_look_at_readers(st);
}

/* [writer] Looks whether the files of the store are where they were, and says when that changes. */
static void store_look_at_files(struct store *st)
{
    char problem[STORE_PROBLEM];
    const char *name = st->env ? store_displaced(st) : NULL;
    lock_take(&st->lock, RANK_STORE);
    bool changed = !st->displaced != !name || store_is_lost(st->displaced) != store_is_lost(name);
    st->displaced = name;
    lock_give(&st->lock, RANK_STORE);
    if (!changed) return;
    if (name) store_say_displaced(st, name, problem);
    if (store_is_lost(name))
        log_line(st->log, LOG_ERROR,
                 "store: %s; what is written is lost when presence ends:"
                 " put the file back",
                 problem);
    else if (name)
        log_line(st->log, LOG_ERROR,
                 "store: %s; others do not see that the store is in use:"
                 " put the file back, or start anew",
                 problem);
    else log_line(st->log, LOG_WARN, "store: the files in %s are back in their place", st->dir);
}

/* [writer] One attempt to write a batch, or the sign of a clean stop alone (NULL), and what follows
 * from it. When the batch is on the disk it is the hub's again, before this returns. True if it
 * was. */
static bool store_write_one(struct store *st, struct store_batch *batch)
{
    bool clean = !batch || batch->last;
    int rc = store_write(st, batch, clean);
    if (st->env) store_look_at_readers(st);
    store_look_after_readers(st);
    store_look_at_files(st);
    lock_take(&st->lock, RANK_STORE);
    if (rc) store_commit_failure(st, rc);
    else store_commit_success(st);
    if (!rc) st->batch = NULL;
    st->all_written = !rc && clean && !store_is_lost(st->displaced);
    lock_give(&st->lock, RANK_STORE);
    if (!rc && batch) st->done(st->context, batch);
    return !rc;
}

/* The writer's thread: takes batches until it is told to stop and everything is written, or until
 * there is no time left to try again. A batch that fails is tried again every STORE_RETRY_MS,
 * before any other: their order is that of what happened. */
static void *store_writer(void *context)
{
    struct store *st = context;
    prctl(PR_SET_NAME, "writer");
    thread_is(THREAD_WRITER);
    lock_take(&st->lock, RANK_STORE);
    while (st->batch || !st->stopping || !st->all_written) {
        if (!st->batch && !st->stopping) {
            store_wait(st, st->look_at - clock_mono_ms());
            lock_give(&st->lock, RANK_STORE);
            store_look_after_readers(st);
            store_look_at_files(st);
            lock_take(&st->lock, RANK_STORE);
            continue;
        }
        struct store_batch *batch = st->batch;
        lock_give(&st->lock, RANK_STORE);
        bool written = store_write_one(st, batch);
        lock_take(&st->lock, RANK_STORE);
        if (written && !batch) break; /* also when the file was removed: there is no more to do */
        int64_t left = st->stopping ? st->give_up_at - clock_mono_ms() : STORE_RETRY_MS;
        if (!written && left <= 0) break;
        if (!written) store_wait(st, left < STORE_RETRY_MS ? left : STORE_RETRY_MS);
    }
    st->ended = true;
    pthread_cond_broadcast(&st->changed);
    lock_give(&st->lock, RANK_STORE);
    return NULL;
}

/* [main] Starts the writer; it calls done(context, batch) on its own thread when a batch is on the
 * disk. False with errno set if there is no thread to be had. */
static bool store_start_writer(struct store *st, void (*done)(void *context, struct store_batch *),
                               void *context)
{
    pthread_attr_t attributes;
    st->done = done;
    st->context = context;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, THREAD_STACK);
    errno = pthread_create(&st->writer, &attributes, store_writer, st);
    st->running = !errno;
    pthread_attr_destroy(&attributes);
    return st->running;
}

/* [hub] Hands a batch to the writer and never waits for the disk. The one before must be done: so
 * there is one batch in memory at a time, and a slow disk makes it larger, not the queue longer. */
static void store_submit(struct store *st, struct store_batch *batch)
{
    lock_take(&st->lock, RANK_STORE);
    assert(!st->batch && !st->stopping);
    st->batch = batch;
    pthread_cond_broadcast(&st->changed);
    lock_give(&st->lock, RANK_STORE);
}

/* [main] Stops the writer when what was submitted and the sign of a clean stop are on the disk:
 * true. False when that could not be by give_up_at (mono): what was submitted is lost, and done
 * does not give its batch back. A writer that can act gives up by itself then. One that the disk
 * holds in a system call is left where it is STORE_HELD_MS later: st->running stays true, and what
 * the writer uses must stay until the process ends. */
static bool store_stop_writer(struct store *st, int64_t give_up_at)
{
    if (!st->running) return true;
    lock_take(&st->lock, RANK_STORE);
    st->stopping = true;
    st->give_up_at = give_up_at;
    pthread_cond_broadcast(&st->changed);
    for (int64_t left; !st->ended && (left = give_up_at + STORE_HELD_MS - clock_mono_ms()) > 0;)
        store_wait(st, left);
    bool ended = st->ended, written = st->all_written;
    lock_give(&st->lock, RANK_STORE);
    if (ended) pthread_join(st->writer, NULL);
    if (ended) st->running = false;
    return ended && written;
}

/* ==== 18. Store: commands =====================================================================
 * [main] --backup, --check-store, --dump and --restore: exit code 0, or 1 with one line on err. The
 * first three read one snapshot, which a running server does not disturb, and change nothing;
 * --restore makes a new file, and refuses a directory that has one: it never decides which of two
 * states is the better one.
 *
 * A dump is lines of JSON, one a record, for other programs, other machines and other versions of
 * this one: names in place of numbers, times as everywhere in the API. The fields are those of the
 * records (USER_FIELDS and so on), so a new field is in the dump and in --restore by itself. The
 * last line counts the others, so that half a dump is not taken for a whole one. What is not in a
 * dump: the outbox, which only means something to the server that made it, and the number of a
 * cluster's node with its position, which is this store's alone. */

/* Says why a command failed; 1, its exit code. */
static int store_command_fail(FILE *err, const char *why)
{
    fprintf(err, "presence: %s\n", why);
    return 1;
}

/* Handler of what ends a command from outside. Its snapshot ends with it, or the server beside it
 * could use no page again until it finds the reader dead; what it has written of a file is
 * removed. */
static void store_command_ended(int number)
{
    MDB_env *env = atomic_load(&store_held.env);
    const char *file = atomic_load(&store_held.unfinished);
    if (file) unlink(file); /* nothing here but what may be called in a signal handler */
    if (env) lmdb_forget_own(env);
    raise(number); /* SA_RESETHAND: to its usual end, when this returns */
}

/* Has signals end a command in order; who has them ignored, as nohup(1) does, has that still. A
 * reader of its output who ends before it (`| head`) is an error when it writes. */
static void store_command_signals(void)
{
    static const int ends[] = {SIGHUP, SIGINT, SIGTERM};
    struct sigaction old, new = {.sa_handler = store_command_ended, .sa_flags = SA_RESETHAND};
    sigemptyset(&new.sa_mask);
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++)
        if (!sigaction(ends[i], NULL, &old) && old.sa_handler != SIG_IGN)
            sigaction(ends[i], &new, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* Opens the store of a command that reads; NULL, and said why. The caller closes it; log and
 * counters, which a store needs and a command does not, must live as long. */
static struct store *store_command_open(const char *dir, struct log *log, struct counters *counters,
                                        FILE *err)
{
    char why[STORE_PATH * 2];
    struct store_options options = {.dir = dir, .read_only = true};
    store_command_signals();
    struct store *st = store_open(&options, log, counters, WHY(why));
    if (!st) store_command_fail(err, why);
    return st;
}

/* --backup FILE: a whole, compacted copy, which is a data.mdb. An existing FILE is refused: it may
 * be the last good backup. */
static int store_command_backup(const char *dir, const char *file, FILE *err)
{
    struct log log = {.level = LOG_ERROR, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct counters counters = {0};
    char why[STORE_PATH * 2] = "";
    if (strlen(file) >= PATH_MAX)
        return store_command_fail(err, "the path of --backup is too long");
    if (!access(file, F_OK)) {
        snprintf(why, sizeof why, "%s exists; name a new file", file);
        return store_command_fail(err, why);
    }
    struct store *st = store_command_open(dir, &log, &counters, err);
    if (!st) return 1;
    bool ok = store_copy_file(st, file, WHY(why));
    store_close(st);
    return ok ? 0 : store_command_fail(err, why);
}

/* What --check-store counts while it reads every record. */
struct store_tally {
    struct store *st;
    uint64_t users, sessions, open;
};

/* Looks at one record; what is wrong with it, or NULL. */
typedef const char *tally_look(struct store_tally *n, MDB_val key, MDB_val value);

/* A user, and their place in `open` or `seen`. */
static const char *tally_user(struct store_tally *n, MDB_val key, MDB_val value)
{
    uint8_t bytes[STORE_KEY_MAX];
    struct span id = {key.mv_data, key.mv_size};
    struct user_record user;
    MDB_val none;
    if (!user_id_valid(id) || !store_decode_user(value, &user)) return "a user record is damaged";
    /* From the record to the index; tally_indexes counts the other way. */
    n->users++;
    n->open += user.open;
    if (user.open)
        return mdb_get(n->st->snapshot, n->st->open, &key, &none)
                   ? "a user who is online is not in `open`"
                   : NULL;
    MDB_val place = {store_seen_key(id, user.last_seen, bytes), bytes};
    return mdb_get(n->st->snapshot, n->st->seen, &place, &none)
               ? "a user who is not online is not in `seen`"
               : NULL;
}

static const char *tally_session(struct store_tally *n, MDB_val key, MDB_val value)
{
    struct session_record session;
    struct span id;
    n->sessions++;
    return store_read_session(key, value, &id, &session) && user_id_valid(id)
               ? NULL
               : "a session record is damaged";
}

static const char *tally_sample(struct store_tally *n, MDB_val key, MDB_val value)
{
    struct sample sample;
    (void)n;
    return store_read_sample(key, value, &sample) ? NULL : "a sample is damaged";
}

static const char *tally_change(struct store_tally *n, MDB_val key, MDB_val value)
{
    struct stored_change change;
    struct json_value json;
    (void)n;
    return store_read_change(key, value, &change) &&
                   json_parse(change.text, JSON_DEPTH_MAX, &json) && json.kind == JSON_OBJECT
               ? NULL
               : "a change in the outbox is damaged";
}

static const char *tally_manual(struct store_tally *n, MDB_val key, MDB_val value)
{
    struct manual_record manual;
    (void)n;
    return store_read_manual(value, &manual) &&
                   user_id_valid((struct span){key.mv_data, key.mv_size})
               ? NULL
               : "a manual status is damaged";
}

/* Looks at every record of a tree; what is wrong with the first that is not sound, or NULL. */
static const char *tally_tree(struct store_tally *n, MDB_dbi tree, tally_look *look)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    const char *wrong = NULL;
    int rc = mdb_cursor_open(n->st->snapshot, tree, &cursor);
    if (rc) return mdb_strerror(rc);
    while (!wrong && !(rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)))
        wrong = look(n, key, value);
    mdb_cursor_close(cursor);
    return wrong || rc == MDB_NOTFOUND ? wrong : mdb_strerror(rc);
}

/* `open` and `seen` have every user once, so with as many entries they have nobody else. */
static const char *tally_indexes(struct store_tally *n)
{
    MDB_stat open, seen;
    int rc = mdb_stat(n->st->snapshot, n->st->open, &open);
    if (!rc) rc = mdb_stat(n->st->snapshot, n->st->seen, &seen);
    if (rc) return mdb_strerror(rc);
    if (open.ms_entries != n->open) return "`open` names users who are not online";
    return seen.ms_entries == n->users - n->open ? NULL : "`seen` names users who are online";
}

/* --check-store: reads everything; `store ok: N users, M sessions, K open` on out. */
static int store_command_check(const char *dir, FILE *out, FILE *err)
{
    struct log log = {.level = LOG_ERROR, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct counters counters = {0};
    char why[STORE_PATH + 128];
    struct store *st = store_command_open(dir, &log, &counters, err);
    if (!st) return 1;
    struct store_tally n = {.st = st};
    const char *wrong = tally_tree(&n, st->users, tally_user);
    if (!wrong) wrong = tally_indexes(&n);
    if (!wrong) wrong = tally_tree(&n, st->sessions, tally_session);
    if (!wrong) wrong = tally_tree(&n, st->samples, tally_sample);
    if (!wrong) wrong = tally_tree(&n, st->outbox, tally_change);
    if (!wrong) wrong = tally_tree(&n, st->manual, tally_manual);
    store_close(st);
    if (wrong) {
        snprintf(why, sizeof why, "%s/data.mdb: %s; restore a backup", dir, wrong);
        return store_command_fail(err, why);
    }
    fprintf(out, "store ok: %" PRIu64 " users, %" PRIu64 " sessions, %" PRIu64 " open\n", n.users,
            n.sessions, n.open);
    return 0;
}

/* ---- Fields as JSON: field_dump_KIND appends `,"name":value`; field_restore_KIND reads a member,
 * and is false if it is not there or no such value ---- */

/* A text that needs no escape, or null. */
static void field_dump_text(struct buffer *b, const char *name, const char *text)
{
    json_text_or_null(b, name, text ? text : "");
}

static void field_dump_time(struct buffer *b, const char *name, int64_t ms)
{
    json_time(b, name, ms, ms != 0);
}

static void field_dump_count(struct buffer *b, const char *name, uint32_t count)
{
    json_uint(b, name, count);
}

static void field_dump_flag(struct buffer *b, const char *name, bool flag)
{
    json_bool(b, name, flag);
}

static void field_dump_status(struct buffer *b, const char *name, uint8_t status)
{
    field_dump_text(b, name, STATUS_NAMES[status]);
}

static void field_dump_manual(struct buffer *b, const char *name, uint8_t status)
{
    field_dump_text(b, name, manual_name(status));
}

static void field_dump_reason(struct buffer *b, const char *name, uint8_t reason)
{
    field_dump_text(b, name, REASON_NAMES[reason]);
}

static void field_dump_address(struct buffer *b, const char *name, const field_address address)
{
    char text[INET6_ADDRSTRLEN];
    field_dump_text(b, name, *address_unpack_text(address, text, sizeof text) ? text : NULL);
}

/* The value must be what field_dump_time writes, to the byte: a time that only looks like one, such
 * as November 32, is refused and not moved to another day. */
static bool field_restore_time(struct json_value line, const char *name, int64_t *ms)
{
    char text[TIME_TEXT], again[TIME_TEXT];
    struct json_value value;
    struct tm t = {0};
    int fraction;
    *ms = 0;
    if (!json_member(line, name, &value)) return false;
    if (value.kind == JSON_NULL) return true;
    if (json_string(value, text, sizeof text) < 0 ||
        sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ", &t.tm_year, &t.tm_mon, &t.tm_mday, &t.tm_hour,
               &t.tm_min, &t.tm_sec, &fraction) != 7)
        return false;
    t.tm_year -= 1900;
    t.tm_mon--;
    *ms = (int64_t)timegm(&t) * 1000 + fraction;
    return *ms > 0 && !strcmp(time_text(*ms, again), text);
}

/* Until version 0.1.0 was released a user's `sessions` were `stays` in a dump. */
static bool field_restore_count(struct json_value line, const char *name, uint32_t *count)
{
    struct json_value value;
    int64_t n;
    if (!json_member(line, name, &value) &&
        (strcmp(name, "sessions") || !json_member(line, "stays", &value)))
        return false;
    if (!json_number(value, &n)) return false;
    *count = (uint32_t)n;
    return n >= 0 && n <= UINT32_MAX;
}

static bool field_restore_flag(struct json_value line, const char *name, bool *flag)
{
    struct json_value value;
    if (!json_member(line, name, &value)) return false;
    *flag = value.kind == JSON_TRUE;
    return *flag || value.kind == JSON_FALSE;
}

/* Reads a member that is one of n names. */
static bool field_restore_name(struct json_value line, const char *name, const char *const *names,
                               int n, uint8_t *out)
{
    struct json_value value;
    if (!json_member(line, name, &value)) return false;
    for (*out = 0; *out < n; (*out)++)
        if (json_is(value, names[*out])) return true;
    return false;
}

static bool field_restore_status(struct json_value line, const char *name, uint8_t *status)
{
    return field_restore_name(line, name, STATUS_NAMES, STATUS_OFFLINE + 1, status);
}

static bool field_restore_manual(struct json_value line, const char *name, uint8_t *status)
{
    struct json_value value;
    if (!json_member(line, name, &value)) return false;
    for (*status = 0; *status < STATUS_AUTOMATIC; (*status)++)
        if (json_is(value, manual_name(*status))) return true;
    return value.kind == JSON_NULL;
}

static bool field_restore_reason(struct json_value line, const char *name, uint8_t *reason)
{
    return field_restore_name(line, name, REASON_NAMES, REASON_COUNT, reason);
}

static bool field_restore_address(struct json_value line, const char *name, field_address *address)
{
    struct json_value value;
    char text[INET6_ADDRSTRLEN];
    memset(*address, 0, sizeof *address);
    if (!json_member(line, name, &value)) return false;
    if (value.kind == JSON_NULL) return true;
    if (json_string(value, text, sizeof text) < 0) return false;
    /* An IPv4 address is kept as ::ffff:a.b.c.d, as everywhere. */
    memcpy(*address, ADDRESS_V4_MAPPED, sizeof ADDRESS_V4_MAPPED);
    return inet_pton(AF_INET, text, *address + 12) == 1 || inet_pton(AF_INET6, text, *address) == 1;
}

#define FIELD_DUMP(offset, kind, member, name, ...) field_dump_##kind(b, name, record.member);
#define FIELD_RESTORE(offset, kind, member, name, ...)                                             \
    &&field_restore_##kind(line, name, &record->member)

/* ---- Records as lines: dump_NAME appends one but for its end, false if the record is damaged;
 * restore_NAME puts one into the batch, false if the line is none ---- */

/* Begins a line with the id of its user. */
static void dump_begin(struct buffer *b, const char *name, struct span id)
{
    json_begin(b);
    json_span(b, name, id);
}

static bool dump_user(struct buffer *b, MDB_val key, MDB_val value)
{
    struct user_record record;
    if (!store_decode_user(value, &record)) return false;
    dump_begin(b, "user", (struct span){key.mv_data, key.mv_size});
    USER_FIELDS(FIELD_DUMP)
    return true;
}

static bool dump_session(struct buffer *b, MDB_val key, MDB_val value)
{
    struct session_record record;
    struct span id;
    if (!store_read_session(key, value, &id, &record)) return false;
    dump_begin(b, "session", id);
    field_dump_time(b, "from", record.from);
    SESSION_FIELDS(FIELD_DUMP)
    return true;
}

static bool dump_sample(struct buffer *b, MDB_val key, MDB_val value)
{
    struct sample record;
    if (!store_read_sample(key, value, &record)) return false;
    json_begin(b);
    json_time(b, "sample", record.at, true);
    SAMPLE_FIELDS(FIELD_DUMP)
    return true;
}

static bool dump_manual(struct buffer *b, MDB_val key, MDB_val value)
{
    struct manual_record manual;
    if (!store_read_manual(value, &manual)) return false;
    const struct manual_head record = manual.head;
    dump_begin(b, "manual", (struct span){key.mv_data, key.mv_size});
    MANUAL_FIELDS(FIELD_DUMP)
    json_span(b, "message", (struct span){manual.message, manual.len});
    return true;
}

static bool restore_user(struct store_batch *batch, struct json_value line, struct span id)
{
    struct store_op op = {.kind = STORE_WHOLE_USER};
    struct user_record *record = &op.as.user;
    bool ok = true USER_FIELDS(FIELD_RESTORE);
    if (ok) store_batch_add(batch, id, &op);
    return ok;
}

static bool restore_session(struct store_batch *batch, struct json_value line, struct span id)
{
    struct store_op op = {.kind = STORE_WHOLE_SESSION};
    struct session_record *record = &op.as.session;
    bool ok = field_restore_time(line, "from", &record->from) SESSION_FIELDS(FIELD_RESTORE);
    if (ok) store_batch_add(batch, id, &op);
    return ok;
}

static bool restore_sample(struct store_batch *batch, struct json_value line, struct span id)
{
    struct sample sample, *record = &sample;
    (void)id; /* the time, once more */
    bool ok = field_restore_time(line, "sample", &sample.at) SAMPLE_FIELDS(FIELD_RESTORE);
    if (ok && sample.at) store_batch_sample(batch, &sample);
    return ok && sample.at;
}

static bool restore_manual(struct store_batch *batch, struct json_value line, struct span id)
{
    struct manual_head head = {.there = true}, *record = &head;
    struct json_value value;
    char message[STATUS_TEXT_MAX + 1];
    bool ok = json_member(line, "message", &value) MANUAL_FIELDS(FIELD_RESTORE);
    int len = ok ? json_string(value, message, sizeof message) : -1;
    struct span text = {message, len < 0 ? 0 : (size_t)len};
    if (len < 0 || !status_text_valid(text)) return false;
    store_batch_manual(batch, id, &head, text);
    return true;
}

/* What a dump has, in its order. */
static const struct dump_kind {
    const char *name;  /* the first member of its lines */
    const char *count; /* the member of the last line that counts them */
    bool later;        /* not in the first dumps, whose last line says nothing of it */
    size_t tree;       /* where struct store has it */
    bool (*dump)(struct buffer *b, MDB_val key, MDB_val value);
    bool (*restore)(struct store_batch *batch, struct json_value line, struct span id);
} DUMP_KINDS[] = {
    {"user", "users", false, offsetof(struct store, users), dump_user, restore_user},
    {"session", "sessions", false, offsetof(struct store, sessions), dump_session, restore_session},
    {"sample", "samples", true, offsetof(struct store, samples), dump_sample, restore_sample},
    {"manual", "manuals", true, offsetof(struct store, manual), dump_manual, restore_manual},
};
enum { DUMP_COUNT = sizeof DUMP_KINDS / sizeof *DUMP_KINDS };

/* Writes all records of a kind and adds how many to *count; 0, or an LMDB or errno code. */
static int dump_records(struct store *st, const struct dump_kind *kind, FILE *out, int64_t *count)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    MDB_dbi tree;
    struct buffer line = {0};
    memcpy(&tree, (const char *)st + kind->tree, sizeof tree);
    int rc = mdb_cursor_open(st->snapshot, tree, &cursor);
    if (rc) return rc;
    for (; !(rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)); ++*count) {
        line.len = 0;
        if (!kind->dump(&line, key, value)) rc = MDB_CORRUPTED;
        buffer_text(&line, "}\n");
        if (!rc && fwrite(line.at, line.len, 1, out) != 1) rc = errno;
        if (rc) break;
    }
    mdb_cursor_close(cursor);
    buffer_free(&line);
    return rc == MDB_NOTFOUND ? 0 : rc;
}

/* --dump: every record of one moment on out, then the line that counts them. */
static int store_command_dump(const char *dir, FILE *out, FILE *err)
{
    struct log log = {.level = LOG_ERROR, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct counters counters = {0};
    char why[STORE_PATH + 128];
    int rc = 0;
    struct buffer end = {0};
    struct store *st = store_command_open(dir, &log, &counters, err);
    if (!st) return 1;
    json_begin(&end);
    json_text(&end, "end", "presence");
    for (size_t i = 0; !rc && i < DUMP_COUNT; i++) {
        int64_t count = 0;
        rc = dump_records(st, &DUMP_KINDS[i], out, &count);
        json_int(&end, DUMP_KINDS[i].count, count);
    }
    store_close(st);
    buffer_text(&end, "}\n");
    if (!rc && (fwrite(end.at, end.len, 1, out) != 1 || fflush(out))) rc = errno;
    buffer_free(&end);
    if (!rc) return 0;
    snprintf(why, sizeof why, "cannot dump %s: %s", dir, mdb_strerror(rc));
    return store_command_fail(err, why);
}

/* A restore on its way. */
struct store_restore {
    struct store *st;
    struct store_batch batch;
    int64_t line, counts[DUMP_COUNT];
    bool ended; /* the last line was read, and its numbers are right */
};

/* Reads the last line of a dump: whether the numbers in it are those of the lines before. */
static bool restore_end(const struct store_restore *r, struct json_value line)
{
    for (size_t i = 0; i < DUMP_COUNT; i++) {
        struct json_value value;
        int64_t count = 0;
        bool there = json_member(line, DUMP_KINDS[i].count, &value);
        if (there ? !json_number(value, &count) : !DUMP_KINDS[i].later) return false;
        if (count != r->counts[i]) return false;
    }
    return true;
}

/* Puts a line into the batch; false if it is none of a dump, or of two kinds at once. */
static bool restore_line(struct store_restore *r, struct span text)
{
    char id[USER_ID_MAX + 1];
    struct json_value line, value, name = {0};
    size_t kind = DUMP_COUNT;
    if (r->ended || !json_parse(text, 1, &line)) return false; /* nothing stands behind the end */
    if (json_member(line, "end", &value)) {
        r->ended = restore_end(r, line);
        return r->ended;
    }
    for (size_t i = 0; i < DUMP_COUNT; i++) {
        if (!json_member(line, DUMP_KINDS[i].name, &value)) continue;
        if (kind != DUMP_COUNT) return false;
        kind = i;
        name = value;
    }
    int len = kind == DUMP_COUNT ? -1 : json_string(name, id, sizeof id);
    struct span owner = {id, len < 0 ? 0 : (size_t)len};
    if (!user_id_valid(owner) || !DUMP_KINDS[kind].restore(&r->batch, line, owner)) return false;
    r->counts[kind]++;
    return true;
}

/* Writes what the batch holds. */
static bool restore_write(struct store_restore *r, struct why why)
{
    int rc = store_write(r->st, &r->batch, true); /* "clean": no server has died in this file */
    store_batch_clear(&r->batch);
    if (!rc) return true;
    const char *remedy = store_remedy(r->st->dir, &rc);
    return fail(why, "cannot write %s: %s; %s it", r->st->dir, mdb_strerror(rc), remedy);
}

/* Reads a dump into the new file of r->st, STORE_RESTORE_BATCH records a transaction: one for all
 * would hold every changed page in memory. */
static bool restore_read(struct store_restore *r, FILE *in, struct why why)
{
    char text[STORE_DUMP_LINE];
    while (fgets(text, sizeof text, in)) {
        r->line++;
        if (!restore_line(r, (struct span){text, strlen(text)}))
            return fail(why, "line %" PRId64 " is none of a dump; nothing was restored", r->line);
        if (store_batch_count(&r->batch) >= STORE_RESTORE_BATCH && !restore_write(r, why))
            return false;
    }
    if (ferror(in)) return fail(why, "cannot read the dump: %s", strerror(errno));
    if (!r->ended)
        return fail(why, "the dump ends early, after line %" PRId64 "; nothing was restored",
                    r->line);
    return restore_write(r, why);
}

/* --restore: fills a directory that has no store with what --dump wrote. All of it or nothing: the
 * file has its name only when the last line was read and everything is on the disk. */
static int store_command_restore(const char *dir, FILE *in, const char *name, FILE *err)
{
    struct log log = {.level = LOG_ERROR, .lock = PTHREAD_MUTEX_INITIALIZER};
    struct counters counters = {0};
    char text[STORE_PATH * 2], path[STORE_PATH];
    struct why why = WHY(text);
    struct store_options options = {.dir = dir};
    if (strlen(dir) >= PATH_MAX) return store_command_fail(err, "the path of --data is too long");
    struct store_restore r = {.st = store_new(&options, &log, &counters)};
    store_path(dir, "data.mdb", path);
    /* The lock goes before the look: a server may be about to make the file. */
    bool ok = store_make_directory(dir, why) && store_take_lock(r.st, why);
    if (ok && (!access(path, F_OK) || errno != ENOENT))
        ok = fail(why, "%s exists; restore into an empty --data", path);
    if (ok) {
        ok = store_begin_file(r.st, why) && restore_read(&r, in, why) &&
             store_finish_file(r.st, why);
        if (!ok) unlink(store_path(dir, "data.mdb.new", path));
    }
    store_close(r.st);
    buffer_free(&r.batch.ops);
    if (ok) return 0;
    fprintf(err, "presence: --restore %s: %s\n", name, text);
    return 1;
}

/* ==== 19. Timers ==============================================================================
 * A hierarchical timing wheel (Varghese and Lauck, 1987) over a `now` that the caller passes, and
 * the rule by which a silent peer is pinged and given up. Arming, disarming and expiry cost the
 * same for one timer and for a million, and none allocates: a heap would cost log n for each
 * connection that opens, and nearly all timers here are disarmed or moved before they fire.
 *
 * A timer never fires early, and at most one tick late. The wheel owns no timer: they are members
 * of what they are for, which disarms them before it is freed. Pure; a wheel belongs to one thread
 * or to whoever holds the lock of what it is in. */

enum {
    WHEEL_TICK_SHIFT = 4, /* a tick is 16 ms: no rule here is finer than a tenth of a second */
    WHEEL_SLOT_BITS = 6,
    WHEEL_SLOTS = 1 << WHEEL_SLOT_BITS,
    WHEEL_LEVELS = 5, /* 2^30 ticks are half a year; beyond that see wheel_slot */
};

/* A member of what it is for, found again with container_of. Zeroed is disarmed. 24 bytes, of which
 * each connection and each user has one. */
struct timer {
    LIST_ENTRY(timer) list; /* linked while armed */
    int64_t due;            /* in ticks */
};
LIST_HEAD(timer_list, timer);

/* Level 0 has a slot for each of the next 64 ticks, level 1 for each of the next 64 times 64, and
 * so on. A timer stands where its distance fits, and moves down a level when the wheel comes to the
 * begin of its slot: at most WHEEL_LEVELS - 1 times in its life. */
struct wheel {
    int64_t tick;              /* all timers due before it are in `expired`, or have fired */
    size_t armed;              /* timers in all lists */
    struct timer_list expired; /* due, and not yet taken: wheel_pop gives them out one by one */
    struct timer_list slots[WHEEL_LEVELS][WHEEL_SLOTS];
};

static void wheel_init(struct wheel *wheel, int64_t now_ms)
{
    *wheel = (struct wheel){.tick = now_ms >> WHEEL_TICK_SHIFT};
}

/* The list that a due tick belongs to, seen from the wheel's present tick. Beyond the horizon that
 * is the slot of the top level which comes last: when the wheel is there, the timer is placed
 * anew. */
static struct timer_list *wheel_slot(struct wheel *wheel, int64_t due)
{
    int64_t ahead = due - wheel->tick;
    if (ahead < 0) return &wheel->expired;
    for (int level = 0; level < WHEEL_LEVELS; level++) {
        int shift = level * WHEEL_SLOT_BITS;
        if (ahead < INT64_C(1) << (shift + WHEEL_SLOT_BITS))
            return &wheel->slots[level][(due >> shift) & (WHEEL_SLOTS - 1)];
    }
    int shift = (WHEEL_LEVELS - 1) * WHEEL_SLOT_BITS;
    return &wheel->slots[WHEEL_LEVELS - 1][((wheel->tick >> shift) - 1) & (WHEEL_SLOTS - 1)];
}

/* Harmless when it is not armed, and then it does not need the right wheel either. */
static void timer_disarm(struct wheel *wheel, struct timer *timer)
{
    if (!LIST_LINKED(timer, list)) return;
    LIST_REMOVE(timer, list);
    wheel->armed--;
}

/* The tick at whose end a timer fires that is due at due_ms: rounded up, so that none is early. */
static int64_t timer_tick(int64_t due_ms)
{
    return (due_ms + (1 << WHEEL_TICK_SHIFT) - 1) >> WHEEL_TICK_SHIFT;
}

/* Has a timer fire at due_ms or at most one tick later; replaces what it was armed for. */
static void timer_arm(struct wheel *wheel, struct timer *timer, int64_t due_ms)
{
    timer_disarm(wheel, timer);
    timer->due = timer_tick(due_ms);
    LIST_INSERT_HEAD(wheel_slot(wheel, timer->due), timer, list);
    wheel->armed++;
}

/* Moves every timer of a list to where it belongs now, which may be that list again: so it is
 * emptied first. */
static void wheel_sort(struct wheel *wheel, struct timer_list *list)
{
    struct timer_list moving = {0};
    struct timer *timer;
    LIST_SWAP(&moving, list, timer, list);
    while ((timer = LIST_FIRST(&moving))) {
        LIST_REMOVE(timer, list);
        LIST_INSERT_HEAD(wheel_slot(wheel, timer->due), timer, list);
    }
}

/* Moves the wheel past one tick: what was due in it expires, and slots of the coarser levels that
 * begin there are spread over the finer ones. One step can move all timers of a slot, a million
 * after a restart: that costs 10 ns each, no allocation and no call. */
static void wheel_step(struct wheel *wheel)
{
    int64_t tick = wheel->tick++;
    wheel_sort(wheel, &wheel->slots[0][tick & (WHEEL_SLOTS - 1)]);
    for (int level = 1; level < WHEEL_LEVELS; level++) {
        int shift = level * WHEEL_SLOT_BITS;
        if (wheel->tick & ((INT64_C(1) << shift) - 1)) break;
        wheel_sort(wheel, &wheel->slots[level][(wheel->tick >> shift) & (WHEEL_SLOTS - 1)]);
    }
}

/* Takes one timer that is due at now_ms, disarmed; NULL when none is left. One at a time, so that
 * the caller can stop when its turn is over, and so that what a timer does may arm and disarm
 * others, also ones that are due. A `now` that went back changes nothing. An empty wheel jumps to
 * now. */
static struct timer *wheel_pop(struct wheel *wheel, int64_t now_ms)
{
    int64_t now = now_ms >> WHEEL_TICK_SHIFT;
    if (!wheel->armed && wheel->tick <= now) wheel->tick = now + 1;
    while (!LIST_FIRST(&wheel->expired) && wheel->tick <= now) wheel_step(wheel);
    struct timer *timer = LIST_FIRST(&wheel->expired);
    if (timer) timer_disarm(wheel, timer);
    return timer;
}

/* How many ms from now until wheel_pop can have something, at the latest; -1: nothing is armed.
 * May be early (a coarse slot has to be spread), never late. */
static int64_t wheel_wait(const struct wheel *wheel, int64_t now_ms)
{
    if (LIST_FIRST(&wheel->expired)) return 0;
    if (!wheel->armed) return -1;
    int64_t tick = wheel->tick;
    for (int i = 0; i < WHEEL_SLOTS; i++, tick++) {
        if (LIST_FIRST(&wheel->slots[0][tick & (WHEEL_SLOTS - 1)])) break;
        if (i && !(tick & (WHEEL_SLOTS - 1))) break; /* coarser slots are spread here */
    }
    int64_t wait = (tick << WHEEL_TICK_SHIFT) - now_ms;
    return wait > 0 ? wait : 0;
}

/* Takes any armed timer, disarmed, due or not; NULL when none is left: how the owner of a wheel
 * finds everything that has a timer in it when it ends. */
static struct timer *wheel_take(struct wheel *wheel)
{
    struct timer *timer = LIST_FIRST(&wheel->expired);
    for (int i = 0; !timer && i < WHEEL_LEVELS * WHEEL_SLOTS; i++)
        timer = LIST_FIRST(&wheel->slots[i / WHEEL_SLOTS][i % WHEEL_SLOTS]);
    if (timer) timer_disarm(wheel, timer);
    return timer;
}

/* What a look at a peer's silence finds: it is short, a ping is due now, the answer to a ping is
 * awaited, it has lasted too long. */
enum silence { SILENCE_SHORT, SILENCE_PING, SILENCE_WAITS, SILENCE_OVER };

/* Judges how long a peer has been silent: a ping is due `interval` after the last byte, the end
 * `timeout` after a ping that nothing followed. All times are ms of one clock.
 *
 * *pinged is the low half of the time of the last ping until something was heard, else 0: 4 bytes a
 * connection instead of 8. *due is when to look again unless it is OVER. Bytes need not move it, so
 * a heartbeat costs no timer: a look that comes too early finds SHORT and arms the next. While an
 * answer is awaited the next look is after `interval` at the latest, since whatever comes in
 * between makes the next ping due that much later: so a peer that dies is found within `interval` +
 * `timeout` of its last byte, whichever of the two is longer. */
static enum silence silence_judge(int64_t interval, int64_t timeout, int64_t heard, int64_t now,
                                  uint32_t *pinged, int64_t *due)
{
    enum silence found = SILENCE_WAITS;
    if (!*pinged || (int32_t)(*pinged - (uint32_t)heard) <= 0) { /* whatever was heard answers it */
        *pinged = 0;
        *due = heard + interval;
        if (now < *due) return SILENCE_SHORT;
        *pinged = (uint32_t)now ? (uint32_t)now : UINT32_MAX; /* that is a ms earlier */
        found = SILENCE_PING;
    }
    int64_t over = now - (uint32_t)((uint32_t)now - *pinged) + timeout;
    if (now >= over) return SILENCE_OVER;
    *due = over < now + interval ? over : now + interval;
    return found;
}

/* ==== 20. Limits by address ===================================================================
 * What is counted by address, so that one address cannot have it all: connections, those still in
 * the listener and what they hold, upgrades in the last second, passwords that were wrong. Keys are
 * what address_group makes: an IPv4 address, or the 64 bits of IPv6 that one household has.
 *
 * The table owns its entries. One with connections stays. One that only waits for time to pass is
 * on a list and goes by itself (address_sweep), so nothing is left of strangers. Of either list the
 * table keeps ADDRESS_EXPIRING_MAX, the latest: whoever has more addresses than that makes it
 * forget the first of them early, and gets for each of them no more than a fresh address has
 * anyway: a second's worth of upgrades, or ADDRESS_FREE_FAILURES passwords. So no flood costs more
 * than 65,536 entries, some 10 MB.
 *
 * Pure: no I/O, no clock, no lock. Called by the listener, by workers and by the hub, with
 * address_lock held. */

enum {
    ADDRESS_ENTRIES_MAX = 65536, /* addresses remembered of which nothing is open */
    ADDRESS_EXPIRING_MAX = ADDRESS_ENTRIES_MAX / 2, /* on one of the two lists */
    ADDRESS_SWEEP_MAX = 256,                        /* taken off a list by one address_sweep */
    ADDRESS_FREE_FAILURES = 3,                      /* wrong passwords before there is a wait */
    ADDRESS_WAIT_MAX_MS = 60000,                    /* after many of them */
    ADDRESS_FAILURE_MS = 600000,                    /* after the last all are forgotten */
};

/* What an entry waits for that is not in use: the end of its pace, a second at most, or that its
 * failures are forgotten, ten minutes. Two lists, since one list would make those of a second stand
 * behind those of ten minutes, and a sweep looks at the front only. */
enum address_expiry { EXPIRY_PACE, EXPIRY_FAILURE, EXPIRY_COUNT, EXPIRY_NONE = EXPIRY_COUNT };

/* What is known of one address. Those who count change it and then call address_settle, which may
 * free it. */
struct address_entry {
    struct map_node node;
    uint8_t key[16];
    TAILQ_ENTRY(address_entry) list;  /* of those that wait for its expiry */
    uint8_t expiry;                   /* enum address_expiry */
    uint32_t connections;             /* WebSockets */
    uint32_t http_conns;              /* connections in the listener */
    uint32_t ready;                   /* of them those that wait for a worker: the listener's */
    size_t held;                      /* bytes that all of them hold */
    TAILQ_HEAD(, http_conn) conns;    /* those, the oldest first; the listener's list */
    int64_t upgrades_until_us;        /* mono us: see address_take_upgrade */
    uint32_t failures;                /* wrong passwords in a row */
    int64_t failed_at, blocked_until; /* mono ms: of the last failure; 0 */
};

/* Entries that wait for time to pass, the one that was settled first at the front. */
struct address_list {
    TAILQ_HEAD(, address_entry) entries;
    size_t count;
};

/* Zero is no valid state: address_table_init. */
struct address_table {
    struct map map; /* by key; its hash is keyed, so strangers cannot choose who shares a slot */
    struct address_list expiring[EXPIRY_COUNT];
};

static void address_table_init(struct address_table *table)
{
    map_init(&table->map);
    for (int i = 0; i < EXPIRY_COUNT; i++) {
        TAILQ_INIT(&table->expiring[i].entries);
        table->expiring[i].count = 0;
    }
}

static void address_free(struct map_node *node)
{
    free(container_of(node, struct address_entry, node));
}

static void address_table_free(struct address_table *table)
{
    map_free(&table->map, address_free);
}

static struct address_entry *address_find(const struct address_table *table, const uint8_t key[16])
{
    uint64_t hash = hash_keyed(table->map.key, key, 16);
    for (struct map_node *node = *map_slot(&table->map, hash); node; node = node->next) {
        struct address_entry *entry = container_of(node, struct address_entry, node);
        if (node->hash == hash && !memcmp(entry->key, key, sizeof entry->key)) return entry;
    }
    return NULL;
}

/* The entry of this key, made if it is not there; never NULL. It is the table's, and valid until
 * the next address_settle, of whichever entry, or address_sweep: either may free it. Only one with
 * connections may be kept for longer. A new one stays until it is settled. */
static struct address_entry *address_make(struct address_table *table, const uint8_t key[16])
{
    struct address_entry *entry = address_find(table, key);
    if (entry) return entry;
    entry = mem_new(sizeof *entry);
    memcpy(entry->key, key, sizeof entry->key);
    entry->expiry = EXPIRY_NONE;
    TAILQ_INIT(&entry->conns);
    map_add(&table->map, &entry->node, hash_keyed(table->map.key, key, sizeof entry->key));
    return entry;
}

static void address_wake(struct address_table *table, struct address_entry *entry)
{
    if (entry->expiry == EXPIRY_NONE) return;
    struct address_list *list = &table->expiring[entry->expiry];
    TAILQ_REMOVE(&list->entries, entry, list);
    entry->expiry = EXPIRY_NONE;
    list->count--;
}

static void address_drop(struct address_table *table, struct address_entry *entry)
{
    map_remove(&table->map, &entry->node);
    address_wake(table, entry);
    free(entry);
}

/* True if something of the entry is open, so that no time makes it go. */
static bool address_in_use(const struct address_entry *entry)
{
    return entry->connections || entry->http_conns;
}

/* True if at now (mono ms) the entry's wrong passwords are still held against it. */
static bool address_has_failed(const struct address_entry *entry, int64_t now)
{
    return entry->failures && now - entry->failed_at < ADDRESS_FAILURE_MS;
}

/* True if at now (mono ms) an entry that is not in use still differs from a new one: else it can
 * go, and nobody can tell. */
static bool address_differs(const struct address_entry *entry, int64_t now)
{
    return address_has_failed(entry, now) || entry->upgrades_until_us > now * 1000;
}

/* Takes the front entry off a list, and frees it unless it is in use again. Entries that come into
 * use are not taken off at once: address_settle does that, which their end calls. */
static void address_evict(struct address_table *table, struct address_list *list)
{
    struct address_entry *oldest = TAILQ_FIRST(&list->entries);
    if (address_in_use(oldest)) address_wake(table, oldest);
    else address_drop(table, oldest);
}

/* Ends a change of an entry: one that is not in use is freed, or as long as it differs from a new
 * one put on the list of what it waits for. Where that list gets too long its front is dropped,
 * which is this entry only if there is no other: the caller's pointer is not to be used after it.
 * now is mono ms. */
static void address_settle(struct address_table *table, struct address_entry *entry, int64_t now)
{
    address_wake(table, entry);
    if (address_in_use(entry)) return;
    if (!address_differs(entry, now)) {
        address_drop(table, entry);
        return;
    }
    entry->expiry = address_has_failed(entry, now) ? EXPIRY_FAILURE : EXPIRY_PACE;
    struct address_list *list = &table->expiring[entry->expiry];
    TAILQ_INSERT_TAIL(&list->entries, entry, list);
    if (++list->count > ADDRESS_EXPIRING_MAX) address_evict(table, list);
}

/* Drops entries that time has made like new ones, at most ADDRESS_SWEEP_MAX of either list: who
 * calls holds a lock that every new connection takes. The sweep of a list ends at the first that
 * still waits. What stands behind it may wait for less, but no longer than ADDRESS_FAILURE_MS, or a
 * second, after it was settled. now is mono ms. */
static void address_sweep(struct address_table *table, int64_t now)
{
    for (int rest = 0; rest < EXPIRY_COUNT; rest++) {
        struct address_list *list = &table->expiring[rest];
        for (int i = 0; i < ADDRESS_SWEEP_MAX && list->count; i++) {
            const struct address_entry *oldest = TAILQ_FIRST(&list->entries);
            if (!address_in_use(oldest) && address_differs(oldest, now)) break;
            address_evict(table, list);
        }
    }
}

/* True if the address may open one more WebSocket, at most `rate` in a second (0: as many as it
 * likes). This is a leaky bucket kept as one number (GCRA): upgrades_until_us is when the bucket is
 * empty, each upgrade moves it 1/rate on, and a second's worth may come at once, as the pages of
 * one office do. One that is refused does not count: who keeps trying gets their rate. now_us is
 * mono. */
static bool address_take_upgrade(struct address_entry *entry, int64_t now_us, int64_t rate)
{
    if (!rate) return true;
    int64_t start = entry->upgrades_until_us > now_us ? entry->upgrades_until_us : now_us;
    int64_t until = start + (rate < 1000000 ? 1000000 / rate : 1);
    if (until - now_us > 1000000) return false;
    entry->upgrades_until_us = until;
    return true;
}

/* The ms that the address has to wait at now (mono ms) before it may try a password; or 0. */
static int64_t address_blocked(const struct address_entry *entry, int64_t now)
{
    return entry->blocked_until > now ? entry->blocked_until - now : 0;
}

/* Counts a wrong password. Returns the ms to wait before the next may be tried: nothing after the
 * first and second, which people mistype, a second after the third (ADDRESS_FREE_FAILURES), twice
 * as long after each further one, at most ADDRESS_WAIT_MAX_MS: 1,440 guesses a day and address. Ten
 * minutes after the last wrong one it starts anew. */
static int64_t address_count_failure(struct address_entry *entry, int64_t now)
{
    if (!address_has_failed(entry, now)) entry->failures = 0;
    if (entry->failures < UINT32_MAX) entry->failures++;
    int64_t wait = entry->failures < ADDRESS_FREE_FAILURES ? 0 : 1000;
    for (uint32_t n = ADDRESS_FREE_FAILURES; n < entry->failures && wait < ADDRESS_WAIT_MAX_MS; n++)
        wait *= 2;
    if (wait > ADDRESS_WAIT_MAX_MS) wait = ADDRESS_WAIT_MAX_MS;
    entry->failed_at = now;
    entry->blocked_until = now + wait;
    return wait;
}

static void address_clear_failures(struct address_entry *entry)
{
    entry->failures = 0;
    entry->failed_at = entry->blocked_until = 0;
}

/* ==== 21. Logins ==============================================================================
 * Who may try the admin's password next, and which refusals the log is told of. A password is slow
 * to check by design (a tenth of a second of a processor), and only one is hashed at a time, so
 * that guessing does not take the processors from those who are connected. Therefore guessers from
 * many addresses could keep the right password out for ever; the queue here keeps them from that.
 *
 * Who finds another at it, or has to wait after wrong passwords, is told when to come back
 * (Retry-After) and has a place at that time: LOGIN_STEP_MS apart from others not known to have
 * guessed, and LOGIN_STEPS_LATER times that among those who have. Who comes in time gets in, behind
 * the one under way and the few who were told about the same. So a worker waits for some hashes,
 * never for a client. The two kinds have places of their own: guessers cannot take those of others
 * once they have guessed wrong.
 *
 * Pure: no clock, no lock. Workers call it, the queue with login_lock held, refusals with
 * refusal_lock. Wrong passwords are counted in the table above. */

enum {
    LOGIN_PLACES = 128,  /* of each kind; beyond there is only a time, and no place */
    LOGIN_STEP_MS = 500, /* at least; twice what a hash takes where that is more */
    LOGIN_STEPS_LATER = 4,
    LOGIN_FIRST_MS = 1000,   /* from being told to the place */
    LOGIN_ON_TIME_MS = 2500, /* after that: surely in. Retry-After has no parts of a second */
    LOGIN_KEEP_MS = 60000,   /* after it: in if fewer than these wait, else told LOGIN_FIRST_MS */
    LOGIN_LATE_MAX = 2,
};

/* The answer to one who wants to try a password. */
enum login_turn {
    LOGIN_NOW,   /* nobody is at it */
    LOGIN_NEXT,  /* when the one under way is done */
    LOGIN_LATER, /* come back */
};

/* An address that was told when to come. */
struct login_place {
    uint8_t key[16];
    int64_t at; /* mono ms */
};

/* Fixed tables, as these places are a promise and not a need: where they are all taken one is told
 * a time without a place, and has as good a chance as others then. */
struct login_queue {
    struct login_place places[2][LOGIN_PLACES]; /* of those who guessed: [1] */
    int count[2];
    bool busy;    /* a password is being hashed */
    int waiting;  /* LOGIN_NEXT that wait for it */
    int64_t took; /* about how long one takes, ms */
};

/* Ends a place. The last one takes its index, so who walks over them goes backwards. */
static void login_leave(struct login_queue *queue, int kind, int i)
{
    queue->places[kind][i] = queue->places[kind][--queue->count[kind]];
}

/* Ends places that nobody came for, then finds the one of this address: its kind and *i, or -1. */
static int login_find(struct login_queue *queue, const uint8_t key[16], int64_t now, int *i)
{
    int found = -1;
    for (int kind = 0; kind < 2; kind++) {
        for (int n = queue->count[kind]; n--;) {
            const struct login_place *place = &queue->places[kind][n];
            if (place->at + LOGIN_KEEP_MS <= now) login_leave(queue, kind, n);
        }
        for (int n = 0; n < queue->count[kind]; n++) {
            if (memcmp(queue->places[kind][n].key, key, 16)) continue;
            found = kind;
            *i = n;
        }
    }
    return found;
}

/* Gives an address the first place that is free, not before `least` ms from now; returns how long
 * it is until then. One that comes late for the place it had need not find a free one again: it
 * would otherwise never get in where all places are always taken. */
static int64_t login_place(struct login_queue *queue, const uint8_t key[16], bool guessed,
                           bool late, int64_t now, int64_t least)
{
    int64_t step = 2 * queue->took, wait = least;
    if (step < LOGIN_STEP_MS) step = LOGIN_STEP_MS;
    if (guessed) step *= LOGIN_STEPS_LATER;
    if (late) step = 0;
    if (wait < LOGIN_FIRST_MS) wait = LOGIN_FIRST_MS;
    struct login_place *places = queue->places[guessed];
    for (int i = 0; i < queue->count[guessed]; i++) {
        int64_t apart = now + wait - places[i].at;
        if (apart <= -step || apart >= step) continue;
        wait = places[i].at + step - now;
        i = -1; /* it may be too near to another now */
    }
    if (queue->count[guessed] == LOGIN_PLACES) return wait;
    struct login_place *place = &places[queue->count[guessed]++];
    memcpy(place->key, key, 16);
    place->at = now + wait;
    return wait;
}

/* Tells an address whether it may try a password now; it has to wait `blocked` ms for its own wrong
 * ones (0: not at all). With LOGIN_LATER *wait is how long until it surely may. One who asks before
 * its time is told the same time again, so asking often gains nothing. LOGIN_NOW and LOGIN_NEXT use
 * the place up: who asks again meanwhile is a new one. */
static enum login_turn login_ask(struct login_queue *queue, const uint8_t key[16], bool guessed,
                                 int64_t blocked, int64_t now, int64_t *wait)
{
    int i = 0, kind = login_find(queue, key, now, &i);
    int64_t at = kind < 0 ? INT64_MAX : queue->places[kind][i].at;
    bool due = now >= at && !blocked, on_time = due && now < at + LOGIN_ON_TIME_MS;
    bool idle = !queue->busy && !queue->waiting && !blocked;
    if (kind >= 0 && !idle && now < at && at - now >= blocked) {
        *wait = at - now;
        return LOGIN_LATER;
    }
    if (kind >= 0) login_leave(queue, kind, i);
    if (idle) return LOGIN_NOW;
    if (on_time || (due && queue->waiting < LOGIN_LATE_MAX)) return LOGIN_NEXT;
    *wait = login_place(queue, key, guessed, due, now, blocked);
    return LOGIN_LATER;
}

/* Which refusals are told in the log: of each kind and address one a minute, and REFUSALS_MAX of
 * all, so that strangers fill no disk. It remembers by a hash, the latest where two meet: the worst
 * that follows is a line too many. */
enum { REFUSAL_SLOTS = 1024, REFUSALS_MAX = 100, REFUSAL_MS = 60000 };
struct refusal_log {
    struct refusal_slot {
        uint64_t hash;
        int64_t at; /* mono ms at which it was told; 0: never */
    } slots[REFUSAL_SLOTS];
    int64_t since; /* of the minute that is counted */
    int count;     /* told in it */
};

/* True if a refusal, of kind `what`, at now (mono ms, above 0) from this address, is to be told.
 * Then *last says that it is the last in this minute. */
static bool refusal_tells(struct refusal_log *log, const uint64_t seed[2], unsigned what,
                          const uint8_t address[16], int64_t now, bool *last)
{
    uint8_t key[16];
    address_group(address, key);
    uint64_t hash =
        hash_keyed(seed, key, sizeof key) ^ (what + UINT64_C(1)) * UINT64_C(0x9e3779b97f4a7c15);
    struct refusal_slot *slot = &log->slots[(hash ^ hash >> 32) % REFUSAL_SLOTS];
    if (!log->count || now - log->since >= REFUSAL_MS) {
        log->since = now;
        log->count = 0;
    }
    if (log->count >= REFUSALS_MAX) return false;
    if (slot->at && slot->hash == hash && now - slot->at < REFUSAL_MS) return false;
    *slot = (struct refusal_slot){.hash = hash, .at = now};
    *last = ++log->count == REFUSALS_MAX;
    return true;
}

/* ==== 22. Users ===============================================================================
 * The presence table: who is known at this moment, in the order of their ids. Here are its structs
 * and how users are found; the rules are in the next section.
 *
 * A user is in the table while online, and after that until the store has the last state: so a
 * reader that finds nobody here may believe the store. Offline users stay as well while a watcher
 * follows them (pinned), and while they have a status set by hand: so nobody has to ask the store
 * whether a user who comes is invisible. That costs some 270 bytes a status, of which a map beside
 * the table would save two thirds; but then an offline user's status would end, be told and be
 * written by a second copy of these rules.
 *
 * Times inside are monotonic ms; they become wall times with the offset of the moment they are
 * shown, so a stepped clock bends no age. Only the ends of sessions without a connection go by a
 * clock of their own, which stands still while the process does: nobody leaves for a silence that
 * was the server's.
 *
 * Pure: no I/O, no clock, no lock. [hub] changes it with table_lock held; the hub reads it without,
 * others with table_lock. The table owns its users; connections are the hub's. */

/* The table's view of one connection; the hub's struct connection begins with it. Some bits are the
 * hub's alone: they are here because there is room, and a connection has 140 bytes. */
struct session_conn {
    struct user *user;         /* NULL when not in the table */
    struct session_conn *next; /* of the same user */
    uint8_t address[16];       /* of the client, v4-mapped */
    uint16_t port;
    uint8_t status;          /* enum status this connection says */
    uint8_t state : 6;       /* of the connection; the table does not look at it, nor at these: */
    uint8_t watches_all : 1; /* the hub's: it may follow everybody */
    uint8_t is_stream : 1;   /* the hub's: no WebSocket, and never in the table */
    uint32_t expires;        /* s after its start at which its token ends; 0: never */
};

/* How a connection ended; what follows for the user stands in presence_disconnect: a close frame
 * with 1000, one with 1001, no close frame, silence, an admin, the end of the token, the server's
 * stop. */
enum ending { END_CLEAN, END_AWAY, END_DROPPED, END_TIMEOUT, END_KICKED, END_EXPIRED, END_STOP };

/* Live has connections; cached has none, and is online all the same. */
enum user_state { USER_OFFLINE, USER_CACHED, USER_LIVE, USER_NOT_HERE /* only in views */ };

/* [hub] A text that a manual status and transitions share; the last holder frees it. */
struct status_text {
    uint32_t holds;
    uint16_t len;
    char text[];
};

/* What a user set by hand: it goes before what the connections say. While there is one, its user is
 * in the table. */
struct manual {
    struct timer timer;          /* armed when it ends by itself */
    struct user *user;           /* whose it is */
    struct status_text *message; /* or NULL */
    int64_t until;               /* mono; 0: for good */
    int64_t hidden;              /* mono: while invisible, the last_seen that others see */
    uint8_t status;              /* enum status: OFFLINE is invisible, AUTOMATIC only the message */
};

/* What a user who has connections, no HTTP heartbeats and nothing set by hand does without: most
 * do, so it is not in struct user. */
struct user_ext {
    uint8_t address[16];     /* where the user was last heard from, v4-mapped; zero: not known */
    int64_t heartbeat_until; /* HTTP heartbeats keep the user online until then, by
                              * presence_clock; or 0 */
    struct manual *manual;   /* or NULL */
};

/* What of a user the store does not know yet, in the order of how soon it must. SEEN is a last_seen
 * that moved, written within SEEN_FLUSH_MS; STATE goes into the next batch. */
enum user_dirty { DIRTY_NONE, DIRTY_SEEN, DIRTY_STATE, DIRTY_IN_FLIGHT };

/* A user in the table: 80 bytes and the id. Each is one allocation, and its address is constant. */
struct user {
    struct timer timer;         /* while cached: the end of the session */
    LIST_ENTRY(user) list;      /* of those equally dirty; in none when not dirty */
    struct session_conn *conns; /* its connections */
    int64_t online_since;       /* mono */
    _Atomic int64_t last_seen;  /* mono; read by others without the lock */
    struct user_ext *ext;       /* while cached, heard by HTTP, or manual; otherwise NULL */
    uint16_t connections;
    uint8_t state;             /* enum user_state */
    uint8_t status : 4;        /* enum status: the manual one, else the automatic one */
    uint8_t automatic : 4;     /* enum status: of the connections, merged */
    uint8_t reason;            /* enum reason: of the last end, or of the one to come */
    uint8_t dirty : 4;         /* enum user_dirty */
    uint8_t dirty_again : 4;   /* changed while in flight: dirty as this after it */
    uint8_t pinned : 1;        /* stays in the table when offline: somebody watches */
    uint8_t manual_dirty : 1;  /* the store does not know yet what was set by hand */
    uint8_t was_invisible : 1; /* as of the last transition */
    uint8_t id_len;
    char id[]; /* not NUL-terminated */
};

/* One change of a user: what counters, streams, watchers and the webhook are told of. A value, not
 * a reference to the user, who may have changed again by the time that it is told; only the id is
 * read from the user, who stays in the table until the transitions are cleared.
 *
 * While online, a change of the status, or of what was set by hand, is STATUS whatever else changed
 * with it; CONNECTIONS is another number of them, or live to cached and back. QUIET is what a user
 * set by hand while offline: it has no number and is no event, but who watches is told. */
enum transition_kind {
    TRANSITION_JOIN,
    TRANSITION_LEAVE,
    TRANSITION_STATUS,
    TRANSITION_CONNECTIONS,
    TRANSITION_QUIET
};
static const char *const TRANSITION_NAMES[] = {"join", "leave", "status", "connections", "quiet"};
struct transition {
    uint64_t sequence;
    struct user *user;
    int64_t online_since, last_seen; /* mono */
    struct status_text *message;     /* held; or NULL */
    uint16_t connections;
    uint8_t kind;                  /* enum transition_kind */
    uint8_t state, status, reason; /* enums user_state, status, reason */
    bool was_invisible, invisible; /* before, and now */
};

LIST_HEAD(user_list, user);

/* Users in byte order of their ids, as lists and pages need them: sorted runs of pointers, each run
 * one allocation of 1 KB, and a sorted array of runs. Two binary searches find a user, an insertion
 * moves half a run at most, and a walk goes on behind any id, also one that is gone. It costs 8 to
 * 16 bytes a user, a tree 16 to 32. A million users are 8,000 to 16,000 runs. */
enum { RUN_MAX = 126 };
struct run {
    size_t count;
    struct user *users[RUN_MAX];
};
struct directory {
    struct run **runs;
    size_t count, size; /* of runs */
    size_t users;
};

enum {
    SEEN_FLUSH_MS = 15000, /* a last_seen that only moved reaches the store within this */
    SEEN_RINGS = SEEN_FLUSH_MS / 1000,
};

/* The whole table. The dirty lists and the wheels link users who are in the directory;
 * presence_free frees them by that alone. */
struct presence {
    int64_t grace, threshold; /* ms */
    int64_t stood_still;      /* ms that presence_clock is behind mono */
    int64_t judge_at;         /* mono: before it no session ends for want of a sign of life;
                                      * after the begin of a stop none does */
    struct directory directory;
    struct wheel wheel;   /* cached users, by presence_clock */
    struct wheel manuals; /* what was set by hand and ends by itself */
    size_t live, cached, connections;
    uint64_t sequence;              /* of the last transition */
    struct transition *transitions; /* since presence_clear_transitions */
    size_t transition_count, transition_size;
    struct user_list changed;          /* DIRTY_STATE */
    struct user_list in_flight;        /* DIRTY_IN_FLIGHT: in the batch that is being written */
    struct user_list seen[SEEN_RINGS]; /* DIRTY_SEEN, by the second in which they became so */
    struct user_list due;              /* DIRTY_SEEN: a ring that is being collected */
    size_t seen_ring;                  /* where to add */
    size_t seen_count;
    int64_t seen_turn;         /* mono: when the rings move on */
    bool collecting;           /* a batch is being filled, see presence_collect */
    struct store_batch ended;  /* sessions that ended, samples: not in a batch yet */
    uint64_t sessions_dropped; /* sessions given up: more than that were in `ended` */
    bool disk_fails;           /* the last batch could not be written, see presence_may_wait */
};

enum {
    PAUSE_MS = 250,       /* who wakes up so much later than meant to has stood still */
    PAUSE_READ_MS = 1000, /* see presence_resume */
};

/* What waits while the disk takes nothing; more is dropped and counted, see presence_may_wait. */
static const size_t ENDED_SESSIONS_MAX = 100000;
static const size_t CHANGES_MAX = 100000; /* for the webhook */
static const size_t SAMPLES_MAX = 1440;   /* a day of them */

static struct span user_id(const struct user *user)
{
    return (struct span){user->id, user->id_len};
}

/* Finds an id: *run and *at become its place, or where it would be inserted. Returns whether it is
 * there. Every lookup of a user is this: some 20 comparisons of ids, no allocation. */
static bool directory_seek(const struct directory *d, struct span id, size_t *run, size_t *at)
{
    size_t low = 0, high = d->count;
    while (low < high) { /* the last run whose first id is <= id */
        size_t mid = (low + high) / 2;
        const struct user *first = d->runs[mid]->users[0];
        if (bytes_compare(first->id, first->id_len, id.at, id.len) <= 0) low = mid + 1;
        else high = mid;
    }
    *run = low ? low - 1 : 0;
    *at = 0;
    if (!d->count) return false;
    const struct run *r = d->runs[*run];
    low = 0, high = r->count;
    while (low < high) {
        size_t mid = (low + high) / 2;
        const struct user *user = r->users[mid];
        int order = bytes_compare(user->id, user->id_len, id.at, id.len);
        if (!order) {
            *at = mid;
            return true;
        }
        if (order < 0) low = mid + 1;
        else high = mid;
    }
    *at = low;
    return false;
}

static struct run *directory_add_run(struct directory *d, size_t index)
{
    if (d->count == d->size) {
        d->size = d->size ? d->size * 2 : 8;
        d->runs = mem_resize(d->runs, d->size * sizeof *d->runs);
    }
    memmove(d->runs + index + 1, d->runs + index, (d->count - index) * sizeof *d->runs);
    d->count++;
    return d->runs[index] = mem_new(sizeof(struct run));
}

/* Adds a user whose id is not there yet. A full run is cut in two; at the very end a new one begins
 * instead, so that ids that come in order, as they do from the store at the start, fill their
 * runs. */
static void directory_insert(struct directory *d, struct user *user)
{
    size_t run, at;
    directory_seek(d, user_id(user), &run, &at);
    struct run *r = d->count ? d->runs[run] : directory_add_run(d, 0);
    if (r->count == RUN_MAX) {
        struct run *right = directory_add_run(d, run + 1);
        if (at < RUN_MAX) {
            right->count = RUN_MAX / 2;
            r->count -= right->count;
            memcpy(right->users, r->users + r->count, right->count * sizeof *r->users);
        }
        if (at > r->count || r->count == RUN_MAX) {
            at -= r->count;
            r = right;
        }
    }
    memmove(r->users + at + 1, r->users + at, (r->count - at) * sizeof *r->users);
    r->users[at] = user;
    r->count++;
    d->users++;
}

/* Removes a user who is there. A run joins its neighbour where both are a half of one together, not
 * sooner: so one who comes and goes at the border does not cut and join for ever. */
static void directory_remove(struct directory *d, const struct user *user)
{
    size_t run, at;
    if (!directory_seek(d, user_id(user), &run, &at)) fatal("a user is not in the directory");
    struct run *r = d->runs[run];
    r->count--;
    d->users--;
    memmove(r->users + at, r->users + at + 1, (r->count - at) * sizeof *r->users);
    size_t left = run && run + 1 == d->count ? run - 1 : run;
    if (left + 1 < d->count && d->runs[left]->count + d->runs[left + 1]->count <= RUN_MAX / 2) {
        struct run *a = d->runs[left], *b = d->runs[left + 1];
        memcpy(a->users + a->count, b->users, b->count * sizeof *b->users);
        a->count += b->count;
        run = left + 1;
    } else if (r->count) {
        return;
    }
    free(d->runs[run]);
    d->count--;
    memmove(d->runs + run, d->runs + run + 1, (d->count - run) * sizeof *d->runs);
}

/* [hub, or table_lock] The user with this id, or NULL. May be offline, see the top of the
 * section. */
static struct user *presence_find(const struct presence *p, struct span id)
{
    size_t run, at;
    return directory_seek(&p->directory, id, &run, &at) ? p->directory.runs[run]->users[at] : NULL;
}

/* A place in the directory, see presence_walk_after; {0} is the first user. */
struct presence_walk {
    size_t run, at;
};

/* A walk in byte order that begins behind this id; an empty id begins at the first. It is a place
 * and not a pointer: who gives the lock up begins the next walk at the last id that was seen. */
static struct presence_walk presence_walk_after(const struct presence *p, struct span id)
{
    struct presence_walk walk;
    if (directory_seek(&p->directory, id, &walk.run, &walk.at)) walk.at++;
    return walk;
}

/* The next user of a walk, or NULL at the end. The table must not change during a walk. */
static struct user *presence_walk_next(const struct presence *p, struct presence_walk *walk)
{
    while (walk->run < p->directory.count) {
        const struct run *r = p->directory.runs[walk->run];
        if (walk->at < r->count) return r->users[walk->at++];
        walk->run++;
        walk->at = 0;
    }
    return NULL;
}

/* A text, held once by the caller; NULL for an empty one. */
static struct status_text *status_text_new(struct span text)
{
    if (!text.len) return NULL;
    struct status_text *message = mem_new(sizeof *message + text.len);
    message->holds = 1;
    message->len = (uint16_t)text.len;
    memcpy(message->text, text.at, text.len);
    return message;
}

static struct status_text *status_text_hold(struct status_text *message)
{
    if (message) message->holds++;
    return message;
}

static void status_text_drop(struct status_text *message)
{
    if (message && !--message->holds) free(message);
}

static struct span status_text_span(const struct status_text *message)
{
    return message ? (struct span){message->text, message->len} : (struct span){"", 0};
}

static struct manual *user_manual(const struct user *user)
{
    return user->ext ? user->ext->manual : NULL;
}

static bool user_invisible(const struct user *user)
{
    const struct manual *manual = user_manual(user);
    return manual && manual->status == STATUS_OFFLINE;
}

static void manual_free(struct presence *p, struct manual *manual)
{
    if (!manual) return;
    timer_disarm(&p->manuals, &manual->timer);
    status_text_drop(manual->message);
    free(manual);
}

/* Forgets where a user was heard from and the heartbeats, when a session ends or a connection knows
 * better; what was set by hand stays, and with it the memory. */
static void user_clear_ext(struct user *user)
{
    if (!user->ext) return;
    memset(user->ext->address, 0, sizeof user->ext->address);
    user->ext->heartbeat_until = 0;
    if (user->ext->manual) return;
    free(user->ext);
    user->ext = NULL;
}

static void user_free(struct presence *p, struct user *user)
{
    if (user->ext) manual_free(p, user->ext->manual);
    free(user->ext);
    free(user);
}

/* Frees the table and its users. Connections that are still linked to them are the hub's, and must
 * not be used as such after it. */
static void presence_free(struct presence *p)
{
    for (size_t i = 0; i < p->directory.count; i++) {
        struct run *r = p->directory.runs[i];
        for (size_t j = 0; j < r->count; j++) user_free(p, r->users[j]);
        free(r);
    }
    free(p->directory.runs);
    for (size_t i = 0; i < p->transition_count; i++) status_text_drop(p->transitions[i].message);
    free(p->transitions);
    buffer_free(&p->ended.ops);
}

/* ==== 23. Presence rules ======================================================================
 * When a user is online, and what every sign of life, end and moment changes.
 *
 *   - With a connection a user is online (live).
 *   - When the last connection ends, it depends on how:
 *       on purpose: 1000, no code, one of an application,        offline at once
 *       a kick, an expired token
 *       after a silence that was too long                        offline at once: that was the time
 *                                                                to come back
 *       a page that is left (1001, 4001), a broken line          online (cached) for --grace: a
 *                                                                reload or a tunnel is no event
 *   - An HTTP heartbeat makes a user online (cached) for --online-threshold, and outlasts the end
 *     of a connection that was not on purpose.
 *   - After a restart of the server, users who were online are cached, until --online-threshold
 *     after the last evidence of them, see presence_restore: a restart is no event for those who
 *     come back.
 *   - last_seen is when something was heard from the user, never when silence was noticed.
 *   - What the user set by hand goes before what the connections say, and is kept while offline.
 *     Invisible is shown as offline to all but admins.
 *
 * A session lasts from online to offline. Each change becomes a transition in a list, which the hub
 * acts on and clears within the same turn, and makes its user dirty, until a batch with the new
 * state is in the store.
 *
 * All is the hub's, and main's before it runs. What workers read (state, status, reason,
 * connections, times, ext) changes under table_lock; what only the hub reads, such as dirty and
 * pinned, and last_seen, which is atomic, does not need it. Pure: every call takes `now`. Nothing
 * fails. */

static void presence_init(struct presence *p, int64_t grace, int64_t threshold, struct instant now)
{
    *p = (struct presence){.grace = grace, .threshold = threshold};
    p->seen_turn = now.mono + 1000;
    wheel_init(&p->wheel, now.mono);
    wheel_init(&p->manuals, now.mono);
}

/* The clock by which sessions without a connection end. It stands still while the process does. */
static int64_t presence_clock(const struct presence *p, struct instant now)
{
    return now.mono - p->stood_still;
}

/* The process has stood still for `gap` ms and goes on now (SIGSTOP, a paused container or machine,
 * a starved processor, a long start). What clients sent meanwhile waits in sockets, perhaps before
 * the listener: each has as much time left as before, and nobody is judged until that is read. */
static void presence_resume(struct presence *p, struct instant now, int64_t gap)
{
    p->stood_still += gap;
    if (p->judge_at < now.mono + PAUSE_READ_MS) p->judge_at = now.mono + PAUSE_READ_MS;
}

/* How many ms from now until presence_tick can have something to do, at the latest; -1: nothing
 * without a change. */
static int64_t presence_wait(const struct presence *p, int64_t now_ms)
{
    int64_t wait = wheel_wait(&p->wheel, now_ms - p->stood_still);
    int64_t manual = wheel_wait(&p->manuals, now_ms);
    if (wait >= 0 && wait < p->judge_at - now_ms) wait = p->judge_at - now_ms;
    return wait < 0 || (manual >= 0 && manual < wait) ? manual : wait;
}

/* Moves a user to the list of those equally dirty; NULL is none. */
static void user_mark_dirty(struct user_list *list, struct user *user, enum user_dirty dirty)
{
    if (LIST_LINKED(user, list)) LIST_REMOVE(user, list);
    if (list) LIST_INSERT_HEAD(list, user, list);
    user->dirty = (unsigned)dirty & 15u;
}

/* Notes that the store must hear of a user: of a new state, or only of a later last_seen. Nothing
 * is lost between two batches, whatever the order:
 *
 *   NONE -> SEEN -> STATE -> IN_FLIGHT -> NONE       collected, and committed
 *                              |     \
 *                              |      dirty_again -> SEEN or STATE when committed
 *                              STATE, if the batch is still being filled, see presence_collect */
static void presence_mark_dirty(struct presence *p, struct user *user, enum user_dirty dirty)
{
    if (user->dirty == DIRTY_IN_FLIGHT) {
        bool again = p->collecting && dirty == DIRTY_STATE; /* into this batch once more */
        if (!again && user->dirty_again < dirty) user->dirty_again = (unsigned)dirty & 15u;
        if (again) user_mark_dirty(&p->changed, user, dirty);
        return;
    }
    if (user->dirty >= dirty) return;
    if (dirty == DIRTY_SEEN) {
        p->seen_count++;
        user_mark_dirty(&p->seen[p->seen_ring], user, dirty);
    } else {
        if (user->dirty == DIRTY_SEEN) p->seen_count--;
        user_mark_dirty(&p->changed, user, dirty);
    }
}

/* Adds a transition to the list, with the state as it is now; the store has to hear of it, but for
 * the number of connections, which it does not know. A quiet one has the number of the last. */
static void presence_record(struct presence *p, struct user *user, enum transition_kind kind)
{
    if (p->transition_count == p->transition_size) {
        p->transition_size = p->transition_size ? p->transition_size * 2 : 64;
        p->transitions = mem_resize(p->transitions, p->transition_size * sizeof *p->transitions);
    }
    p->transitions[p->transition_count++] = (struct transition){
        .sequence = kind == TRANSITION_QUIET ? p->sequence : ++p->sequence,
        .user = user,
        .online_since = user->online_since,
        .last_seen = atomic_load_explicit(&user->last_seen, memory_order_relaxed),
        .connections = user->connections,
        .kind = (uint8_t)kind,
        .state = user->state,
        .status = user->status,
        .reason = user->reason,
        .message = user_manual(user) ? status_text_hold(user_manual(user)->message) : NULL,
        .was_invisible = user->was_invisible,
        .invisible = user_invisible(user),
    };
    user->was_invisible = user_invisible(user);
    if (kind != TRANSITION_CONNECTIONS) presence_mark_dirty(p, user, DIRTY_STATE);
}

/* Forgets the transitions, after the caller has acted on them. The memory stays for the next turn,
 * unless a crowd made it large. */
static void presence_clear_transitions(struct presence *p)
{
    for (size_t i = 0; i < p->transition_count; i++) status_text_drop(p->transitions[i].message);
    p->transition_count = 0;
    if (p->transition_size > 4096) {
        free(p->transitions);
        p->transitions = NULL;
        p->transition_size = 0;
    }
}

/* Notes that the user was heard: what every message, ping and pong costs. It allocates nothing,
 * takes constant time and, of all that changes a user, no lock: relaxed, since a reader that sees
 * the moment before is right too, and nothing else is published by it. */
static void presence_heard(struct presence *p, struct instant now, struct user *user)
{
    atomic_store_explicit(&user->last_seen, now.mono, memory_order_relaxed);
    if (user->dirty == DIRTY_NONE || user->dirty == DIRTY_IN_FLIGHT)
        presence_mark_dirty(p, user, DIRTY_SEEN);
}

/* The user with this id, made if they are not there: offline, in no list. The caller makes
 * something of that in the same call, else nobody would take them out again. */
static struct user *presence_make(struct presence *p, struct span id)
{
    struct user *user = presence_find(p, id);
    if (user) return user;
    user = mem_new(sizeof *user + id.len);
    memcpy(user->id, id.at, id.len);
    user->id_len = (uint8_t)id.len;
    user->status = STATUS_OFFLINE;
    user->automatic = STATUS_OFFLINE;
    directory_insert(&p->directory, user);
    return user;
}

/* The status of a user's connections taken together: the most available one, so that the phone in
 * the pocket does not make away of who sits at the desk. */
static enum status user_merge_status(const struct user *user)
{
    enum status best = STATUS_AWAY; /* nothing is above online: of thousands one is looked at */
    for (const struct session_conn *conn = user->conns; conn && best != STATUS_ONLINE;
         conn = conn->next)
        if (conn->status < best) best = conn->status;
    return best;
}

/* Takes what the connections say; the status that counts is the one set by hand, if there is one
 * and the user is online. Returns whether that changed. */
static bool user_set_automatic(struct user *user, enum status automatic)
{
    const struct manual *manual = user_manual(user);
    enum status before = user->status, status = automatic;
    if (manual && manual->status < STATUS_OFFLINE && automatic != STATUS_OFFLINE)
        status = manual->status;
    user->automatic = (unsigned)automatic & 15u;
    user->status = (unsigned)status & 15u;
    return status != before;
}

/* The only place that moves a user between live, cached and offline, as it keeps the totals. Who is
 * no longer cached has no end to wait for. */
static void user_set_state(struct presence *p, struct user *user, enum user_state state)
{
    p->live += (state == USER_LIVE) - (user->state == USER_LIVE);
    p->cached += (state == USER_CACHED) - (user->state == USER_CACHED);
    user->state = (uint8_t)state;
    if (state != USER_CACHED) timer_disarm(&p->wheel, &user->timer);
}

/* Begins a session if the user is offline, and makes the user live or cached. At most one
 * transition follows: a join says all of what it begins with. */
static void user_enter(struct presence *p, struct instant now, struct user *user,
                       enum user_state state, enum status automatic)
{
    bool joins = user->state == USER_OFFLINE;
    bool changes = user_set_automatic(user, automatic) && !joins;
    user_set_state(p, user, state);
    if (joins) { /* a session begins later than the one before it: they are told apart by that */
        user->online_since = now.mono > user->online_since ? now.mono : user->online_since + 1;
        presence_record(p, user, TRANSITION_JOIN);
    } else if (changes) {
        presence_record(p, user, TRANSITION_STATUS);
    }
}

static struct user_ext *user_make_ext(struct user *user)
{
    if (!user->ext) user->ext = mem_new(sizeof *user->ext);
    return user->ext;
}

/* Notes where a user was heard from; that lasts as long as the session. */
static struct user_ext *user_heard_at(struct user *user, const uint8_t address[16])
{
    user_make_ext(user);
    memcpy(user->ext->address, address, 16);
    return user->ext;
}

/* Where a user was last heard from, or NULL: after a restart it is not known. */
static const uint8_t *user_address(const struct user *user)
{
    if (user->conns) return user->conns->address;
    return user->ext ? user->ext->address : NULL;
}

/* True if one more record may wait for the store where `count` do. While the disk takes nothing
 * that is up to a limit: the state of users goes before their history. While it is only busy each
 * user in the table may have one: behind a restart a million can end during the first batch. */
static bool presence_may_wait(const struct presence *p, size_t count, size_t limit)
{
    return count < limit || (!p->disk_fails && count < p->directory.users);
}

/* Ends a session: the user is offline, and the store gets a record of it. It ends when the user was
 * last heard, not now. The address may be the user's own; NULL when it is not known. */
static void user_leave(struct presence *p, struct instant now, struct user *user,
                       enum reason reason, const uint8_t *address)
{
    struct session_record session = {
        .from = user->online_since + now.offset,
        .to = atomic_load_explicit(&user->last_seen, memory_order_relaxed) + now.offset,
        .reason = (uint8_t)reason,
    };
    if (address) memcpy(session.address, address, 16);
    if (session.to < session.from) session.to = session.from;
    if (presence_may_wait(p, p->ended.sessions, ENDED_SESSIONS_MAX))
        store_batch_session(&p->ended, user_id(user), &session, false);
    else p->sessions_dropped++;
    user->reason = (uint8_t)reason;
    user_set_automatic(user, STATUS_OFFLINE);
    user_clear_ext(user);
    user_set_state(p, user, USER_OFFLINE);
    presence_record(p, user, TRANSITION_LEAVE);
}

/* Keeps a user without connections online until `until`, by presence_clock, when the session
 * ends for `reason`. */
static void user_cache(struct presence *p, struct user *user, int64_t until, enum reason reason)
{
    user->reason = (uint8_t)reason;
    user_set_state(p, user, USER_CACHED);
    timer_arm(&p->wheel, &user->timer, until);
}

/* How soon the store must hear of a sign of life. Of the first one behind a restart with the next
 * batch: servers that die one after the other, each before its first last_seen is written, would
 * leave each other nothing but what the first of them knew, see presence_restore. */
static enum user_dirty user_heard_dirty(const struct user *user)
{
    bool back = user->state == USER_CACHED && user->reason == REASON_RESTART;
    return back ? DIRTY_STATE : DIRTY_SEEN;
}

/* A connection of a user opened. It is the caller's, who must end it with presence_disconnect
 * before it is freed. conn->status and conn->address count from now on. A user who was cached is
 * live again, and nobody hears of the gap but as another number of connections. */
static void presence_connect(struct presence *p, struct instant now, struct span id,
                             struct session_conn *conn)
{
    struct user *user = presence_make(p, id);
    conn->user = user;
    conn->next = user->conns;
    user->conns = conn;
    user->connections++;
    p->connections++;
    if (user->ext && user->ext->heartbeat_until <= presence_clock(p, now))
        user_clear_ext(user); /* the connection knows better */
    atomic_store_explicit(&user->last_seen, now.mono, memory_order_relaxed);
    presence_mark_dirty(p, user, user_heard_dirty(user));
    uint64_t before = p->sequence;
    user_enter(p, now, user, USER_LIVE, user_merge_status(user));
    if (p->sequence == before) presence_record(p, user, TRANSITION_CONNECTIONS);
}

/* Takes a connection out of its user's list: singly linked, 8 bytes less each, and a user has
 * few. */
static void user_remove_conn(struct presence *p, struct user *user, struct session_conn *conn)
{
    struct session_conn **place = &user->conns;
    while (*place != conn) place = &(*place)->next;
    *place = conn->next;
    conn->next = NULL;
    conn->user = NULL;
    user->connections--;
    p->connections--;
}

/* A connection ended. Of the user's last one it matters how, see the top of the section:
 *
 *   grace   online for --grace, since they may be back at once
 *   final   HTTP heartbeats count no more, since the user, or an admin, said so
 *
 * Without either, a timeout: offline at once, unless HTTP heartbeats keep them. END_STOP is the
 * server's own, for all connections of a user: the session goes on in the store with the status
 * that they had together, for the next server, and nobody is told. */
static void presence_disconnect(struct presence *p, struct instant now, struct session_conn *conn,
                                enum ending ending)
{
    static const struct {
        enum reason reason;
        bool grace, final;
    } endings[] = {
        [END_CLEAN] = {REASON_CLOSED, false, true},
        [END_AWAY] = {REASON_CLOSED, true, false},
        [END_DROPPED] = {REASON_DROPPED, true, false},
        [END_TIMEOUT] = {REASON_TIMEOUT, false, false},
        [END_KICKED] = {REASON_KICKED, false, true},
        [END_EXPIRED] = {REASON_EXPIRED, false, true},
        [END_STOP] = {REASON_RESTART, false, false},
    };
    struct user *user = conn->user;
    user_remove_conn(p, user, conn);
    if (user->conns && ending == END_STOP) return; /* so do the others, one after the other */
    if (user->conns) {
        bool changes = user_set_automatic(user, user_merge_status(user));
        presence_record(p, user, changes ? TRANSITION_STATUS : TRANSITION_CONNECTIONS);
        return;
    }
    enum reason reason = endings[ending].reason;
    int64_t clock = presence_clock(p, now);
    int64_t until = endings[ending].grace ? clock + p->grace : clock;
    if (ending == END_STOP) until = clock + p->threshold;
    if (!endings[ending].final && user->ext && user->ext->heartbeat_until > until) {
        until = user->ext->heartbeat_until;
        reason = REASON_TIMEOUT;
    }
    if (until > clock) {
        user_heard_at(user, conn->address);
        user_cache(p, user, until, reason);
        if (ending != END_STOP) presence_record(p, user, TRANSITION_CONNECTIONS);
    } else {
        user_leave(p, now, user, reason, conn->address);
    }
}

static void presence_set_status(struct presence *p, struct instant now, struct session_conn *conn,
                                enum status status)
{
    conn->status = (uint8_t)status;
    user_enter(p, now, conn->user, USER_LIVE, user_merge_status(conn->user));
}

/* A heartbeat by HTTP: online without a connection for the threshold, or for what is left of the
 * grace when that is longer: a sign of life shortens nothing. With connections it only notes until
 * when it will count. */
static void presence_heartbeat(struct presence *p, struct instant now, struct span id,
                               const uint8_t address[16])
{
    struct user *user = presence_make(p, id);
    int64_t until = presence_clock(p, now) + p->threshold;
    bool grace = user->state == USER_CACHED && user->reason != REASON_RESTART &&
                 user->timer.due > timer_tick(until);
    user_heard_at(user, address)->heartbeat_until = until;
    atomic_store_explicit(&user->last_seen, now.mono, memory_order_relaxed);
    presence_mark_dirty(p, user, user_heard_dirty(user));
    if (user->state == USER_OFFLINE) user_enter(p, now, user, USER_CACHED, STATUS_ONLINE);
    if (user->state == USER_CACHED && !grace) user_cache(p, user, until, REASON_TIMEOUT);
}

/* Ends the session of a user without connections at once; nothing when not cached. */
static void presence_end(struct presence *p, struct instant now, struct user *user,
                         enum reason reason)
{
    if (user->state == USER_CACHED) user_leave(p, now, user, reason, user_address(user));
}

/* What the store knows of the server before this one, see presence_restore. */
struct evidence {
    int64_t alive;   /* wall: until then it may have run */
    int64_t silence; /* ms that a last_seen in the store may be behind somebody who is there */
};

/* A user whom the store says to be online, at the start of the server: cached until the threshold
 * after the last evidence that they were there.
 *
 * That is not the stored last_seen alone, which reaches the store up to SEEN_FLUSH_MS late and
 * moves only with every ping. Who was not known to have left while the server lived was there as
 * long as it did: so a server that comes back after an hour starts with nobody, and one that comes
 * back within the threshold with everybody. But for no longer than a silence can last
 * (before.silence): servers that die one after the other, before anybody comes back, would each be
 * evidence for the next, and keep ghosts.
 *
 * Stamps from the future, of a clock that has been put back since, count as now. No transition:
 * nothing has changed. */
static void presence_restore(struct presence *p, struct instant now, struct span id,
                             enum status status, int64_t online_since_wall, int64_t last_seen_wall,
                             struct evidence before)
{
    int64_t wall = wall_of(now);
    if (last_seen_wall > wall) last_seen_wall = wall;
    int64_t there = last_seen_wall + before.silence;
    if (there > before.alive) there = before.alive;
    if (there > wall) there = wall;
    if (there < last_seen_wall) there = last_seen_wall;
    if (online_since_wall > last_seen_wall) online_since_wall = last_seen_wall;
    struct user *user = presence_make(p, id);
    user_set_automatic(user, status < STATUS_OFFLINE ? status : STATUS_ONLINE);
    user->online_since = online_since_wall - now.offset;
    atomic_store_explicit(&user->last_seen, last_seen_wall - now.offset, memory_order_relaxed);
    user_cache(p, user, there - now.offset - p->stood_still + p->threshold, REASON_RESTART);
}

/* What a user wants to set by hand. */
struct manual_update {
    enum status status; /* OFFLINE is invisible, AUTOMATIC is what the connections say */
    int64_t lifetime;   /* ms; 0: for good */
    size_t len;         /* of the message */
    char message[STATUS_TEXT_MAX];
};

/* Gives a user what was set by hand, in place of what there was. The caller tells of it, or not.
 * until and hidden are mono. */
static void user_put_manual(struct presence *p, struct user *user, enum status status,
                            int64_t until, int64_t hidden, struct span message)
{
    struct user_ext *ext = user_make_ext(user);
    manual_free(p, ext->manual);
    struct manual *manual = ext->manual = mem_new(sizeof *manual);
    manual->user = user;
    manual->status = (uint8_t)status;
    manual->until = until;
    manual->hidden = hidden;
    manual->message = status_text_new(message);
    if (until) timer_arm(&p->manuals, &manual->timer, until);
    user_set_automatic(user, user->automatic);
}

/* Takes away what was set by hand, if there is something; the rest of ext stays with whom it is
 * still for. The caller tells of it (user_tell_manual), unless it tells of more. */
static void user_take_manual(struct presence *p, struct user *user)
{
    if (!user_manual(user)) return;
    manual_free(p, user->ext->manual);
    user->ext->manual = NULL;
    bool cached = user->state == USER_CACHED, heard = user->ext->heartbeat_until > 0;
    if (!cached && !heard) user_clear_ext(user);
    user_set_automatic(user, user->automatic);
}

/* Tells the store and all others that what a user set by hand has changed. */
static void user_tell_manual(struct presence *p, struct user *user)
{
    user->manual_dirty = true;
    presence_record(p, user, user->state == USER_OFFLINE ? TRANSITION_QUIET : TRANSITION_STATUS);
}

/* Sets by hand what the user wishes, or goes back to what the connections say. At most one
 * transition follows, none if all stays as it was. Who becomes invisible seems to leave now, last
 * heard when they were: what others saw of their last_seen stands still from then on, and does not
 * go back when they show again. */
static void presence_set_manual(struct presence *p, struct instant now, struct user *user,
                                const struct manual_update *update)
{
    const struct manual *old = user_manual(user);
    struct span message = {update->message, update->len};
    if (update->status == STATUS_AUTOMATIC && !update->len) {
        if (!old) return;
        user_take_manual(p, user);
        user_tell_manual(p, user);
        return;
    }
    struct span before = status_text_span(old ? old->message : NULL);
    bool same = old && old->status == update->status &&
                !bytes_compare(before.at, before.len, message.at, message.len);
    if (same && !old->until && !update->lifetime) return;
    int64_t hidden = user_invisible(user)
                         ? old->hidden
                         : atomic_load_explicit(&user->last_seen, memory_order_relaxed);
    user_put_manual(p, user, update->status, update->lifetime ? now.mono + update->lifetime : 0,
                    hidden, message);
    if (!same) {
        user_tell_manual(p, user);
    } else { /* only its end moved */
        user->manual_dirty = true;
        presence_mark_dirty(p, user, DIRTY_STATE);
    }
}

/* Puts a user into the table who is offline, as the store says; one who is there already stays as
 * they are. No transition: nothing has changed. The caller gives the user a reason to stay, which
 * is to be pinned or a manual status, or the next presence_forget takes them out again. */
static struct user *presence_recall(struct presence *p, struct instant now, struct span id,
                                    const struct user_record *record)
{
    struct user *user = presence_find(p, id);
    if (user) return user;
    user = presence_make(p, id);
    user->reason = record->reason;
    atomic_store_explicit(&user->last_seen, wall_not_later(now, record->last_seen) - now.offset,
                          memory_order_relaxed);
    return user;
}

/* [main] Gives a user what the store says was set by hand, at the start, behind presence_restore of
 * those who were online. What has ended meanwhile is taken out of the store with the first batch; a
 * stamp from the future counts as now. */
static void presence_restore_manual(struct presence *p, struct instant now, struct span id,
                                    const struct user_record *record, const struct manual_record *m)
{
    int64_t wall = wall_of(now), hidden = wall_not_later(now, m->head.hidden);
    struct user *user = presence_recall(p, now, id, record);
    if (m->head.until && m->head.until <= wall) {
        user->manual_dirty = true;
        presence_mark_dirty(p, user, DIRTY_STATE);
        return;
    }
    user_put_manual(p, user, m->head.status, m->head.until ? m->head.until - now.offset : 0,
                    hidden - now.offset, (struct span){m->message, m->len});
    user->was_invisible = user_invisible(user);
}

/* Ends the sessions whose time is over, and what was set by hand for a time, of at most so many
 * users: after a restart a million can be due at once. False when that many were; then it is to be
 * called again soon, and presence_wait says so too. */
static bool presence_tick(struct presence *p, struct instant now, size_t most)
{
    struct timer *timer;
    while (now.mono >= p->judge_at && most &&
           (timer = wheel_pop(&p->wheel, presence_clock(p, now)))) {
        struct user *user = container_of(timer, struct user, timer);
        user_leave(p, now, user, user->reason, user_address(user));
        most--;
    }
    while (most && (timer = wheel_pop(&p->manuals, now.mono))) {
        struct user *user = container_of(timer, struct manual, timer)->user;
        user_take_manual(p, user);
        user_tell_manual(p, user);
        most--;
    }
    return most;
}

/* Keeps how many users and connections there are, as those of the minute that began at `at` (wall).
 * While the disk is full, up to SAMPLES_MAX. */
static void presence_sample(struct presence *p, int64_t at)
{
    struct sample sample = {at, (uint32_t)(p->live + p->cached), (uint32_t)p->connections};
    if (p->ended.samples < SAMPLES_MAX) store_batch_sample(&p->ended, &sample);
}

/* True if the store has to be told something: at once, or when the rings move on. */
static bool presence_is_dirty(const struct presence *p)
{
    return LIST_FIRST(&p->changed) || p->seen_count || p->ended.ops.len;
}

/* Adds one user's state to a batch, as it is now, and moves the user to those in flight. */
static void presence_collect_user(struct presence *p, struct instant now, struct user *user,
                                  struct store_batch *batch)
{
    int64_t seen = atomic_load_explicit(&user->last_seen, memory_order_relaxed) + now.offset;
    bool online = user->state != USER_OFFLINE;
    struct span id = user_id(user);
    store_batch_user(batch, id, online, user->automatic, user->online_since + now.offset, seen,
                     user->reason);
    if (user->manual_dirty) {
        const struct manual *manual = user_manual(user);
        struct manual_head head = {.there = manual != NULL};
        if (manual) head.status = manual->status;
        if (manual && manual->until) head.until = manual->until + now.offset;
        if (user_invisible(user)) head.hidden = manual->hidden + now.offset;
        store_batch_manual(batch, id, &head, status_text_span(manual ? manual->message : NULL));
    }
    user->manual_dirty = false;
    if (user->dirty == DIRTY_SEEN) p->seen_count--;
    user->dirty_again = DIRTY_NONE;
    user_mark_dirty(&p->in_flight, user, DIRTY_IN_FLIGHT);
}

/* Adds at most so many users to a batch: those that changed, and those whose last_seen moved long
 * enough ago (all of them if asked). Returns whether that was all; otherwise the next call goes on.
 * Until presence_committed they are in flight; there is one batch at a time.
 *
 * A batch is one transaction, so it must not have the end of a session without the user's state
 * after it. Sessions end, and users change again, between two calls: therefore each call takes the
 * sessions that ended since, a user in flight who changes is collected once more, and the batch is
 * whole only when nobody is left who changed. The caller collects faster than users change: see
 * hub_turn for the time that each has. */
static bool presence_collect(struct presence *p, struct instant now, bool all, size_t most,
                             struct store_batch *batch)
{
    struct user *user;
    store_batch_move(batch, &p->ended);
    p->collecting = true;
    for (;;) {
        while (most && ((user = LIST_FIRST(&p->changed)) || (user = LIST_FIRST(&p->due)))) {
            presence_collect_user(p, now, user, batch);
            most--;
        }
        if (!most) return false;
        if (all ? !p->seen_count : p->seen_turn > now.mono) break;
        if (p->seen_turn < now.mono - SEEN_FLUSH_MS) p->seen_turn = now.mono - SEEN_FLUSH_MS;
        p->seen_turn += 1000;
        p->seen_ring = (p->seen_ring + 1) % SEEN_RINGS;
        LIST_SWAP(&p->due, &p->seen[p->seen_ring], user, list);
    }
    p->collecting = false;
    return true;
}

/* Takes a user out of the table who is offline, if nobody watches, nothing is set by hand and the
 * store knows all. */
static void presence_forget(struct presence *p, struct user *user)
{
    if (user->state != USER_OFFLINE || user->dirty || user->pinned || user_manual(user)) return;
    directory_remove(&p->directory, user);
    user_free(p, user);
}

/* Nobody watches this user any more; they may be freed by it. */
static void presence_unpin(struct presence *p, struct instant now, struct user *user)
{
    user->pinned = false;
    if (user->state == USER_OFFLINE && user->online_since >= now.mono)
        presence_mark_dirty(p, user, DIRTY_SEEN); /* see presence_committed */
    presence_forget(p, user);
}

/* The batch in flight is in the store: of its users, at most so many at a time, those who changed
 * meanwhile are dirty again, and those offline are forgotten. One who came and went so fast that
 * the last session's begin is ahead of the clock is kept for another round: a next session must
 * begin later still. Returns whether those were all. */
static bool presence_committed(struct presence *p, struct instant now, size_t most)
{
    struct user *user;
    while (most-- && (user = LIST_FIRST(&p->in_flight))) {
        user_mark_dirty(NULL, user, DIRTY_NONE);
        if (user->dirty_again) {
            presence_mark_dirty(p, user, user->dirty_again);
        } else if (user->state == USER_OFFLINE && user->online_since >= now.mono) {
            presence_mark_dirty(p, user, DIRTY_SEEN);
        } else {
            presence_forget(p, user);
        }
    }
    return !LIST_FIRST(&p->in_flight);
}

/* ==== 24. Views and events ====================================================================
 * A user as others see one, as JSON, and the rings of events: transitions as text, each made once
 * and kept for all who read them.
 *
 * A view is a copy, so that answers are written without the table's lock. It is the truth, which is
 * for admins; what goes to anybody else passes view_hide first. The same holds for events: each
 * feed has a ring of its own, the admins' with the truth, the other with what everybody may see.
 *
 * Pure. [any] makes views, of the table with table_lock held; rings are the hub's. */

/* A user as shown, copied out of the table or the store: the truth until view_hide. Times are wall
 * ms, and none is later than the moment of the copy: a clock that went back since shows no
 * future. */
struct user_view {
    bool known;
    bool invisible; /* others see the user as offline, last seen at `hidden` */
    uint8_t state, status;
    uint8_t reason; /* enum reason: of the last end; only of users of the table */
    uint16_t connections;
    int64_t connected_at, last_seen, hidden;
    struct span message; /* in the table, whose lock is held, or in a view_texts */
    uint8_t id_len;
    char id[USER_ID_MAX];
};

/* Messages copied for views, freed together with the answer that they are for. Zeroed is empty. */
struct view_texts {
    struct view_texts *next;
    char text[];
};

/* Copies a view's message, which is the table's until then, before the lock is given up;
 * view_texts_free frees the copy. */
static void view_keep(struct user_view *view, struct view_texts **texts)
{
    if (!view->message.len) return;
    struct view_texts *copy = mem_new(sizeof *copy + view->message.len);
    memcpy(copy->text, view->message.at, view->message.len);
    view->message.at = copy->text;
    copy->next = *texts;
    *texts = copy;
}

static void view_texts_free(struct view_texts **texts)
{
    while (*texts) {
        struct view_texts *next = (*texts)->next;
        free(*texts);
        *texts = next;
    }
}

/* [hub, or table_lock] Copies a user of the table. The message is not copied: see view_keep. */
static void view_user(struct user_view *view, const struct user *user, struct instant now)
{
    int64_t seen = atomic_load_explicit(&user->last_seen, memory_order_relaxed);
    const struct manual *manual = user_manual(user);
    *view = (struct user_view){
        .known = true,
        .state = user->state,
        .status = user->state == USER_OFFLINE ? STATUS_OFFLINE : user->status,
        .reason = user->reason,
        .connections = user->connections,
        .connected_at = user->online_since + now.offset,
        .last_seen = (seen < now.mono ? seen : now.mono) + now.offset,
        .message = status_text_span(manual ? manual->message : NULL),
        .invisible = user_invisible(user),
        .id_len = user->id_len,
    };
    if (view->invisible) view->hidden = manual->hidden + now.offset;
    memcpy(view->id, user->id, user->id_len);
}

/* Makes of the truth what everybody may see: an invisible user is offline, as one who closed the
 * last connection at `hidden`. The message stays, as it does for who is really offline. */
static void view_hide(struct user_view *view)
{
    if (!view->invisible) return;
    view->invisible = false;
    view->state = USER_OFFLINE;
    view->status = STATUS_OFFLINE;
    view->reason = REASON_CLOSED;
    view->connections = 0;
    view->last_seen = view->hidden;
}

/* Fills a view from the store, for a user who is not in the table: offline, whatever the store's
 * open flag says, since all that are open were put into the table at the start. Nothing is set by
 * hand, for the same reason. */
static void view_record(struct user_view *view, struct span id, const struct user_record *record,
                        struct instant now)
{
    *view = (struct user_view){
        .known = true,
        .status = STATUS_OFFLINE,
        .last_seen = wall_not_later(now, record->last_seen),
        .id_len = (uint8_t)id.len,
    };
    memcpy(view->id, id.at, id.len);
}

/* Fills a view with how a user stood after a transition, told now: later changes are not in it. */
static void view_transition(struct user_view *view, const struct transition *t, struct instant now)
{
    int64_t seen = t->last_seen < now.mono ? t->last_seen : now.mono;
    *view = (struct user_view){
        .known = true,
        .state = t->state,
        .status = t->status,
        .connections = t->connections,
        .connected_at = t->online_since + now.offset,
        .last_seen = seen + now.offset,
        .message = status_text_span(t->message),
        .invisible = t->invisible,
        .id_len = t->user->id_len,
    };
    memcpy(view->id, t->user->id, t->user->id_len);
}

/* Appends the members of a user, without the closing brace: a text of its own, or the item of a
 * list. The order of the members is a promise: clients of other languages may read by place. */
static void view_write_members(struct buffer *out, const struct user_view *view)
{
    static const char *const sources[] = {"stored", "cached", "live"};
    bool online = view->state != USER_OFFLINE;
    json_span(out, "user_id", (struct span){view->id, view->id_len});
    json_bool(out, "online", online);
    json_text(out, "status", STATUS_NAMES[view->status]);
    json_text(out, "source", sources[view->state]);
    json_uint(out, "connections", view->connections);
    json_time(out, "connected_at", view->connected_at, online);
    json_time(out, "last_seen", view->last_seen, view->known);
    if (view->message.len) json_span(out, "message", view->message);
    if (view->invisible) json_bool(out, "invisible", true);
}

/* Appends a user: a member of that name, or with NULL an item of a list or a whole text. */
static void view_write_user(struct buffer *out, const char *name, const struct user_view *view)
{
    json_open(out, name, '{');
    view_write_members(out, view);
    json_close(out, '}');
}

/* ---- Events: transitions as text, each made once, kept for all who read them ---- */

enum {
    POSITION_TEXT = 32, /* 8 hexadecimal digits, a dash, 20 decimal ones, and the NUL fit */
    EVENT_HEAD = 64,    /* the lines of a stream before an event's JSON */
    EVENT_MAX = 1536,   /* bytes of that JSON with the longest id and message */
};
_Static_assert(EVENT_MAX <= STORE_CHANGE_MAX - STORE_CHANGE_BYTES, "the outbox takes every event");

/* A place in the order of transitions: which run of the server (random), and which of its
 * transitions. A client that comes back with one of another run is told to begin again, as what
 * happened in between is not known. */
struct position {
    uint32_t epoch;
    uint64_t sequence;
};

static const char *position_text(struct position position, char out[POSITION_TEXT])
{
    snprintf(out, POSITION_TEXT, "%08" PRIx32 "-%" PRIu64, position.epoch, position.sequence);
    return out;
}

/* Reads what position_text wrote; false, with *out undefined, if it is anything else. It comes from
 * clients (Last-Event-ID): only the one spelling counts. */
static bool position_parse(struct span text, struct position *out)
{
    enum { EPOCH_DIGITS = 8 };
    char again[POSITION_TEXT];
    *out = (struct position){0};
    if (text.len < EPOCH_DIGITS + 2 || text.len >= POSITION_TEXT) return false;
    for (size_t i = 0; i < text.len; i++) {
        int digit = hex_value(text.at[i]);
        if (i == EPOCH_DIGITS) continue;
        if (digit < 0) return false;
        if (i < EPOCH_DIGITS) out->epoch = out->epoch << 4 | (uint32_t)digit;
        else out->sequence = out->sequence * 10 + (uint64_t)digit;
    }
    position_text(*out, again); /* leading zeros, overflow, too many digits: not the same again */
    return strlen(again) == text.len && !memcmp(again, text.at, text.len);
}

/* Appends the member "position". */
static void position_write(struct buffer *out, struct position position)
{
    char text[POSITION_TEXT];
    json_text(out, "position", position_text(position, text));
}

/* What a transition is to those who do not see who is invisible. False if it is nothing to them:
 *
 *   becomes invisible while online   a leave
 *   shows again while online         a join
 *   either while offline             nothing
 *   anything while invisible         nothing
 *   anything else                    what it is */
static bool transition_shows(const struct transition *t, enum transition_kind *kind)
{
    bool moves = t->was_invisible != t->invisible;
    if (t->invisible ? t->was_invisible : moves && t->state == USER_OFFLINE) return false;
    if (moves && t->invisible && t->state == USER_OFFLINE) return false;
    *kind = !moves ? t->kind : t->invisible ? TRANSITION_LEAVE : TRANSITION_JOIN;
    return true;
}

/* Appends a transition as a JSON object of at most EVENT_MAX bytes: the truth, which is for admins,
 * or what everybody may see. Of what is nothing to everybody it appends nothing. */
static void event_write(struct buffer *out, uint32_t epoch, const struct transition *t,
                        struct instant now, bool truth)
{
    struct user_view view;
    enum transition_kind kind = t->kind;
    enum reason reason = t->reason;
    view_transition(&view, t, now);
    if (!truth) {
        if (!transition_shows(t, &kind)) return;
        if (t->invisible) reason = REASON_CLOSED;
        view.hidden = view.last_seen;
        view_hide(&view);
    }
    json_begin(out);
    position_write(out, (struct position){epoch, t->sequence});
    json_text(out, "change", TRANSITION_NAMES[kind]);
    view_write_user(out, "user", &view);
    json_text_or_null(out, "reason", kind == TRANSITION_LEAVE ? REASON_NAMES[reason] : "");
    json_close(out, '}');
}

/* Where an event is: its number, and the first of its bytes. */
struct event_slot {
    uint64_t sequence, start;
};

/* The last events as text. All readers share it: each has only a place in it, so a thousand streams
 * cost no more memory than one. Bytes are counted from the first one ever added; byte n is at
 * n & (size - 1). The events that are kept are counted too, and event n has slots[n & (room - 1)].
 * Their sequences only grow, but may jump: what changes nothing has a number as well. Both rings
 * grow as they fill, to what the limit and the slowest reader need, and are never shrunk but by
 * events_drop. Zeroed but for its limit it has seen nothing. [hub]
 *
 *     event    0 ... | first ...      | epoch ...              | next
 *              gone  | till all who   | also for those         |
 *                    | read have them | who come back          | */
struct events {
    size_t limit;         /* events kept although nobody is behind them */
    bool kept;            /* otherwise only the number of the last one is */
    uint64_t last;        /* sequence of the last event, also of one without text */
    uint64_t forgotten;   /* of the last one that is gone: who has less has to begin again */
    uint64_t first, next; /* events, counted: the oldest kept, and the one to come */
    uint64_t epoch;       /* the first of this epoch */
    uint64_t end;         /* bytes added */
    char *bytes;
    size_t size;
    struct event_slot *slots;
    size_t room;
};

static struct event_slot *events_slot(const struct events *e, uint64_t n)
{
    return &e->slots[n & (e->room - 1)];
}

static uint64_t events_start(const struct events *e, uint64_t n)
{
    return n == e->next ? e->end : events_slot(e, n)->start;
}

/* Forgets all events and gives the memory back; from now on they are only counted. Where nobody
 * reads a stream no text is made for one. */
static void events_drop(struct events *e)
{
    free(e->bytes);
    free(e->slots);
    *e = (struct events){.limit = e->limit, .last = e->last, .forgotten = e->last, .end = e->end};
}

static void events_keep(struct events *e)
{
    e->kept = true;
}

/* Copies what is kept to where it belongs in a ring that has room for `need` bytes more: in pieces,
 * as the borders of both rings fall differently. */
static void events_grow_bytes(struct events *e, size_t need)
{
    uint64_t from = events_start(e, e->first);
    size_t size = e->size ? e->size : 16384;
    while (size - (size_t)(e->end - from) < need) size *= 2;
    if (size == e->size) return;
    char *bytes = mem_new(size);
    for (uint64_t at = from; at < e->end;) {
        size_t here = (size_t)at & (e->size - 1), there = (size_t)at & (size - 1);
        size_t n = e->size - here;
        if (n > e->end - at) n = (size_t)(e->end - at);
        if (n > size - there) n = size - there;
        memcpy(bytes + there, e->bytes + here, n);
        at += n;
    }
    free(e->bytes);
    e->bytes = bytes;
    e->size = size;
}

/* The same for the slots, with room for one more. */
static void events_grow_slots(struct events *e)
{
    if (e->next - e->first < e->room) return;
    size_t room = e->room ? e->room * 2 : 64;
    struct event_slot *slots = mem_new(room * sizeof *slots);
    for (uint64_t n = e->first; n < e->next; n++) slots[n & (room - 1)] = *events_slot(e, n);
    free(e->slots);
    e->slots = slots;
    e->room = room;
}

/* Appends bytes to the ring, which has room for them. */
static void events_put(struct events *e, struct span text)
{
    for (size_t n, done = 0; done < text.len; done += n, e->end += n) {
        size_t at = (size_t)e->end & (e->size - 1);
        n = e->size - at < text.len - done ? e->size - at : text.len - done;
        memcpy(e->bytes + at, text.at + done, n);
    }
}

/* Adds an event, whose sequence is greater than the last one's, in the lines of a stream (WHATWG
 * HTML section 9.2): kept as they are sent, so that each stream has only a place in the ring, and
 * no text of its own. An event that is nothing to the readers of this ring has no JSON: only its
 * number counts. Where events are not kept that is all that is done. */
static void events_add(struct events *e, struct position position, struct span json)
{
    assert(position.sequence > e->last);
    e->last = position.sequence;
    if (!e->kept) e->forgotten = e->last;
    if (!e->kept || !json.len) return;
    char head[EVENT_HEAD], text[POSITION_TEXT];
    int len =
        snprintf(head, sizeof head, "event: change\nid: %s\ndata: ", position_text(position, text));
    events_grow_bytes(e, (size_t)len + json.len + 2);
    events_grow_slots(e);
    *events_slot(e, e->next++) = (struct event_slot){position.sequence, e->end};
    events_put(e, (struct span){head, (size_t)len});
    events_put(e, json);
    events_put(e, (struct span){"\n\n", 2});
}

/* Forgets the oldest events beyond the limit, and all that are of an epoch before, as far as they
 * end at or before this byte, which is where the slowest reader is: nobody's next byte is taken
 * away. */
static void events_trim(struct events *e, uint64_t behind)
{
    while ((e->next - e->first > e->limit || e->first < e->epoch) &&
           events_start(e, e->first + 1) <= behind) {
        if (e->first >= e->epoch) e->forgotten = events_slot(e, e->first)->sequence;
        e->first++;
    }
}

/* Begins an epoch: the next event comes behind this sequence, which may be less than the last one's
 * was, and nobody is given again what was before. Who reads now gets that to its end, as a stream
 * may be in the middle of an event, and behind it this text, lines of a stream that tell of the
 * epoch. */
__attribute__((unused)) static void events_reset(struct events *e, uint64_t sequence,
                                                 struct span text)
{
    if (e->kept && text.len) {
        events_grow_bytes(e, text.len);
        events_grow_slots(e);
        *events_slot(e, e->next++) = (struct event_slot){sequence, e->end};
        events_put(e, text);
    }
    e->last = e->forgotten = sequence;
    e->epoch = e->next;
}

/* Where someone goes on who has all events up to a sequence: at the first with a greater one. False
 * if some behind it are gone, or if it has not come yet: then the client has to begin again. */
static bool events_find(const struct events *e, uint64_t sequence, uint64_t *at)
{
    uint64_t low = e->first > e->epoch ? e->first : e->epoch, high = e->next;
    if (sequence > e->last || sequence < e->forgotten) return false;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        if (events_slot(e, middle)->sequence > sequence) high = middle;
        else low = middle + 1;
    }
    *at = events_start(e, low);
    return true;
}

/* The bytes from a place on that lie in one piece; empty at the end. Valid until the next
 * events_add or events_trim. */
static struct span events_span(const struct events *e, uint64_t at)
{
    if (at == e->end) return (struct span){"", 0};
    size_t here = (size_t)at & (e->size - 1), n = e->size - here;
    if (n > e->end - at) n = (size_t)(e->end - at);
    return (struct span){e->bytes + here, n};
}

/* ==== 25. Watch graph =========================================================================
 * Who follows whom, and what is to be told.
 *
 * A target is a followed user id, anybody's, also one never seen. Between it and each watcher is a
 * watch. A change gives the target a new version; a watch that has sent another one is due. Due
 * watches wait in their watcher's queue, each at most once, for as long as it cannot be sent: what
 * it is told then is the state of that moment. A snapshot is written the same way, part by part,
 * and brings its watches up to date. So memory does not grow with changes, however slowly somebody
 * reads, and nobody is told an old state behind a newer one.
 *
 * Each target has a digest of what its watchers were told last. A change that others do not see (a
 * heartbeat, two changes that cancel out, anything of an invisible user) gives the same digest, and
 * is passed over without a look at the watches. That is right only while all of them were told the
 * same. A snapshot or a change that is written between a change and its spread tells one watcher
 * more than the others: if the digest stayed, and the next change went back to what the others
 * know, it would be passed over, and that one watcher would be left with the state in between. So
 * target_write clears the digest of a target that has changed and was not spread: 0 is the digest
 * of nothing, and the next spread looks at all watches.
 *
 * Targets are freed when nobody needs them any more: no watch, no snapshot to come, no read of the
 * store, no change to be spread. That is looked at later, some at a time (watch_graph_sweep), since
 * a watcher of thousands may go in one call, and a page that is reloaded comes back for the same.
 *
 * [hub] only. Pure but for the table of users, which it reads, and pins and unpins users in. It
 * owns targets, watches and snapshots; watchers are members of connections. */

/* A watcher follows a target: 44 bytes. It is in the target's list and in the watcher's slots. One
 * that ends while it is in the queue stays there without a target, and is freed when its turn
 * comes: to take it out of a list with one link would cost a walk. */
struct watch {
    struct watch_target *to; /* NULL: ended while in the queue, which frees it */
    struct watcher *of;
    LIST_ENTRY(watch) list;  /* of to's */
    STAILQ_ENTRY(watch) due; /* of's queue */
    struct watch_sent {
        uint32_t version : 31; /* to->version, when the watcher has heard of it */
        uint32_t queued : 1;   /* it is in the queue */
    } sent[];                  /* one */
};
enum { WATCH_BYTES = sizeof(struct watch) + sizeof(struct watch_sent) }; /* 44: musl's slot of 48 */

/* A user id that somebody follows, or a snapshot or a read has to do with. While it is there, its
 * user, if ever seen, is pinned in the table, once it is resolved. */
struct watch_target {
    struct map_node node;
    LIST_HEAD(, watch) watches;
    STAILQ_ENTRY(watch_target) changed;      /* while is_changed: of those that changed */
    STAILQ_ENTRY(watch_target) unreferenced; /* while is_unreferenced: perhaps nobody needs it */
    uint64_t digest;       /* of what all have been told, see view_digest; 0: not the same */
    uint32_t version : 31; /* grows with each change */
    uint32_t is_changed : 1;
    uint32_t needs;              /* snapshots to come and reads under way that name it */
    uint32_t stamp;              /* of the message that named it last */
    uint32_t made, made_version; /* the turn and version of its text */
    uint32_t text_at, text_len;  /* in watches.text, without the closing brace */
    uint8_t reason;              /* of the text: enum reason, NONE while online */
    bool resolved : 1;           /* the table has the user, or nobody has ever seen them */
    bool reading : 1;            /* the store is being asked */
    bool is_unreferenced : 1;
    uint8_t id_len;
    char id[];
};
STAILQ_HEAD(target_queue, watch_target);

/* An answer to come: these users, in this order, each of which needs its target until it is
 * written. It begins when all of them are resolved, and may be cut into several messages. */
struct snapshot {
    STAILQ_ENTRY(snapshot) list;
    size_t count, checked, written; /* users; those known to be resolved; those written */
    struct watch_target *users[];
};

enum watcher_message { WATCHER_NOTHING, WATCHER_SNAPSHOT, WATCHER_CHANGES };

/* A connection's part in the graph, in its conn_ext. It is in a list of the graph while there may
 * be something to tell it. */
struct watcher {
    LIST_ENTRY(watcher) list; /* busy, serving or waiting of the graph, or none */
    struct watch **slots;     /* by what they lead to; open addressing, `size` of them */
    size_t size, count;
    STAILQ_HEAD(, watch) due; /* the queue of due watches */
    size_t queued;            /* how many those are */
    STAILQ_HEAD(, snapshot) snapshots;
    size_t backlog; /* users in snapshots */
    bool stalled;   /* its socket is full: its backlog is not in the graph's */
};

LIST_HEAD(watchers, watcher);

/* All watches, and in which order watchers are served. A target is in one of the three queues at
 * most, a busy watcher in one of the lists. */
struct watch_graph {
    struct map targets;
    struct target_queue changed;   /* since the last spread began */
    struct target_queue spreading; /* of those before it, whose watchers have still to know */
    struct target_queue unreferenced;
    size_t unreferenced_count;
    size_t backlog;          /* users in snapshots that can be written, of all watchers */
    struct watchers busy;    /* may have something to be told */
    struct watchers serving; /* the same: those whose turn it is, before any of `busy` */
    struct watchers waiting; /* for the store, see watch_target.reading */
    uint32_t stamp, turn;
    size_t full;        /* WATCH_FULL; tests take less */
    struct buffer text; /* of users, made in this turn */
};

enum {
    WATCH_MESSAGE_MAX = 16 * 1024, /* bytes of a message to one who follows */
    WATCH_USER_MAX = 1536,         /* bytes of one user in it and of its end, see EVENT_MAX */
    WATCH_FULL = WATCH_MESSAGE_MAX - WATCH_USER_MAX, /* after so many no further user begins */
    WATCH_TEXT_KEPT = 256 * 1024,                    /* memory that the texts may keep */
};

static struct span target_id(const struct watch_target *target)
{
    return (struct span){target->id, target->id_len};
}

static void watch_graph_init(struct watch_graph *w)
{
    *w = (struct watch_graph){.turn = 1, .full = WATCH_FULL};
    STAILQ_INIT(&w->changed);
    STAILQ_INIT(&w->spreading);
    STAILQ_INIT(&w->unreferenced);
    map_init(&w->targets);
}

static void target_free(struct map_node *node)
{
    free(container_of(node, struct watch_target, node));
}

/* Frees the graph, with the targets that are left in it; no watcher is left. */
static void watch_graph_free(struct watch_graph *w)
{
    map_free(&w->targets, target_free);
    buffer_free(&w->text);
}

/* The target with this id, or NULL when nobody follows them. Where nobody is followed at all this
 * costs nothing: it is asked for every change of every user. */
static struct watch_target *watch_graph_find(const struct watch_graph *w, struct span id)
{
    if (!w->targets.count) return NULL;
    uint64_t hash = hash_keyed(w->targets.key, id.at, id.len);
    for (struct map_node *node = *map_slot(&w->targets, hash); node; node = node->next) {
        struct watch_target *e = container_of(node, struct watch_target, node);
        if (node->hash == hash && !bytes_compare(e->id, e->id_len, id.at, id.len)) return e;
    }
    return NULL;
}

/* Notes that perhaps nobody needs this one any more; watch_graph_sweep looks. Called wherever the
 * last need may have gone. */
static void target_unreference(struct watch_graph *w, struct watch_target *e)
{
    if (LIST_FIRST(&e->watches) || e->needs || e->is_changed || e->is_unreferenced) return;
    e->is_unreferenced = true;
    STAILQ_INSERT_TAIL(&w->unreferenced, e, unreferenced);
    w->unreferenced_count++;
}

/* The target with this id, made if there is none; somebody has to need it before the sweep. */
static struct watch_target *watch_graph_make(struct watch_graph *w, struct span id)
{
    struct watch_target *e = watch_graph_find(w, id);
    if (e) return e;
    e = mem_new(sizeof *e + id.len);
    e->id_len = (uint8_t)id.len;
    memcpy(e->id, id.at, id.len);
    map_add(&w->targets, &e->node, hash_keyed(w->targets.key, id.at, id.len));
    target_unreference(w, e);
    return e;
}

/* [hub; table_lock] Frees the targets that nobody needs, of at most so many that it looks at; their
 * users may leave the table. One that is needed again by now stays. */
static void watch_graph_sweep(struct watch_graph *w, struct presence *p, struct instant now,
                              size_t most)
{
    for (; w->unreferenced_count && most; most--) {
        struct watch_target *e = STAILQ_FIRST(&w->unreferenced);
        STAILQ_REMOVE_HEAD(&w->unreferenced, unreferenced);
        w->unreferenced_count--;
        e->is_unreferenced = false;
        if (LIST_FIRST(&e->watches) || e->needs || e->is_changed) continue;
        struct user *user = presence_find(p, target_id(e));
        if (user && user->pinned) presence_unpin(p, now, user);
        map_remove(&w->targets, &e->node);
        free(e);
    }
}

static void watcher_init(struct watcher *watcher)
{
    *watcher = (struct watcher){0};
    STAILQ_INIT(&watcher->due);
    STAILQ_INIT(&watcher->snapshots);
}

/* Moves a watcher to another list of the graph; NULL is none. */
static void watcher_list(struct watchers *list, struct watcher *watcher)
{
    if (LIST_LINKED(watcher, list)) LIST_REMOVE(watcher, list);
    if (list) LIST_INSERT_HEAD(list, watcher, list);
}

/* True if a watcher has nothing: nobody to follow, nothing to be told. Then it may be freed. */
static bool watcher_idle(const struct watcher *watcher)
{
    return !watcher->count && !watcher->queued && STAILQ_EMPTY(&watcher->snapshots);
}

/* Where in a watcher's slots the watch of a target is, or has its place. There must be a free one.
 *
 * Open addressing by the target's address, 8 bytes a slot, at most three quarters full: most
 * watchers have few watches, and a map of linked nodes (see struct map) would add 16 bytes to the
 * 44 of each. It moves all at once when it grows, which --max-watch bounds. The hash needs no key:
 * where a target stands in memory is nothing that a client can choose. */
static size_t watcher_seek(const struct watcher *watcher, const struct watch_target *to)
{
    size_t at = (size_t)(((uintptr_t)to >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20);
    for (;; at++) {
        const struct watch *watch = watcher->slots[at & (watcher->size - 1)];
        if (!watch || watch->to == to) return at & (watcher->size - 1);
    }
}

static struct watch *watcher_find(const struct watcher *watcher, const struct watch_target *to)
{
    return watcher->count ? watcher->slots[watcher_seek(watcher, to)] : NULL;
}

/* Gives a watcher another number of slots, a power of two. */
static void watcher_resize(struct watcher *watcher, size_t size)
{
    struct watch **old = watcher->slots;
    size_t count = watcher->size;
    watcher->slots = mem_new(size * sizeof *watcher->slots);
    watcher->size = size;
    for (size_t i = 0; i < count; i++)
        if (old[i]) watcher->slots[watcher_seek(watcher, old[i]->to)] = old[i];
    free(old);
}

/* Has a watcher follow a target that it does not follow yet. It counts as told: the caller owes a
 * snapshot with this target, which says all there is. */
static void watcher_follow(struct watcher *watcher, struct watch_target *to)
{
    if ((watcher->count + 1) * 4 > watcher->size * 3)
        watcher_resize(watcher, watcher->size ? watcher->size * 2 : 4);
    struct watch *watch = mem_new(WATCH_BYTES);
    watch->to = to;
    watch->of = watcher;
    watch->sent->version = to->version;
    LIST_INSERT_HEAD(&to->watches, watch, list);
    watcher->slots[watcher_seek(watcher, to)] = watch;
    watcher->count++;
}

/* Takes a watch away from its target, and frees it unless the queue has to; its watcher's slots
 * must not have it any more. */
static void watch_end(struct watch_graph *w, struct watch *watch)
{
    struct watch_target *to = watch->to;
    LIST_REMOVE(watch, list);
    watch->to = NULL;
    target_unreference(w, to);
    if (!watch->sent->queued) free(watch);
}

/* Has a watcher follow a target no longer; nothing if it does not. What was to be told is not.
 * Slots behind the hole are placed anew until a free one: open addressing without marks for the
 * deleted. */
static void watcher_let_go(struct watch_graph *w, struct watcher *watcher,
                           const struct watch_target *to)
{
    struct watch *watch = watcher_find(watcher, to);
    if (!watch) return;
    size_t mask = watcher->size - 1, hole = watcher_seek(watcher, to);
    watcher->slots[hole] = NULL;
    for (size_t at = (hole + 1) & mask; watcher->slots[at]; at = (at + 1) & mask) {
        struct watch *moved = watcher->slots[at]; /* those behind close the gap */
        watcher->slots[at] = NULL;
        watcher->slots[watcher_seek(watcher, moved->to)] = moved;
    }
    watcher->count--;
    watch_end(w, watch);
    if (watcher->size > 4 && watcher->count < watcher->size / 8)
        watcher_resize(watcher, watcher->size / 2);
}

/* Has a watcher follow nobody; snapshots that were asked for still come. */
static void watcher_let_all_go(struct watch_graph *w, struct watcher *watcher)
{
    for (size_t i = 0; i < watcher->size; i++)
        if (watcher->slots[i]) watch_end(w, watcher->slots[i]);
    free(watcher->slots);
    watcher->slots = NULL;
    watcher->size = watcher->count = 0;
}

/* Frees the first snapshot to come, written or not. */
static void watcher_drop_snapshot(struct watch_graph *w, struct watcher *watcher)
{
    struct snapshot *snapshot = STAILQ_FIRST(&watcher->snapshots);
    for (size_t i = snapshot->written; i < snapshot->count; i++) {
        snapshot->users[i]->needs--;
        target_unreference(w, snapshot->users[i]);
    }
    watcher->backlog -= snapshot->count;
    if (!watcher->stalled) w->backlog -= snapshot->count;
    STAILQ_REMOVE_HEAD(&watcher->snapshots, list);
    free(snapshot);
}

/* Puts a watch at the end of its watcher's queue, if it is not in it. */
static void watcher_push(struct watcher *watcher, struct watch *watch)
{
    if (watch->sent->queued) return;
    STAILQ_INSERT_TAIL(&watcher->due, watch, due);
    watch->sent->queued = true;
    watcher->queued++;
}

/* Takes the first watch out of the queue; NULL if it had ended, and is freed. */
static struct watch *watcher_pop(struct watcher *watcher)
{
    struct watch *watch = STAILQ_FIRST(&watcher->due);
    STAILQ_REMOVE_HEAD(&watcher->due, due);
    watch->sent->queued = false;
    watcher->queued--;
    if (watch->to) return watch;
    free(watch);
    return NULL;
}

/* Ends all that a watcher has, which is idle and in no list after it. */
static void watcher_end(struct watch_graph *w, struct watcher *watcher)
{
    watcher_list(NULL, watcher);
    watcher_let_all_go(w, watcher);
    while (watcher->queued) watcher_pop(watcher);
    while (!STAILQ_EMPTY(&watcher->snapshots)) watcher_drop_snapshot(w, watcher);
}

/* Puts a snapshot behind those that a watcher waits for; takes it over. Its targets are needed. */
static void watcher_add_snapshot(struct watch_graph *w, struct watcher *watcher,
                                 struct snapshot *snapshot)
{
    for (size_t i = 0; i < snapshot->count; i++) snapshot->users[i]->needs++;
    watcher->backlog += snapshot->count;
    if (!watcher->stalled) w->backlog += snapshot->count;
    STAILQ_INSERT_TAIL(&watcher->snapshots, snapshot, list);
}

/* Notes that a watcher's socket is full, or no longer. What such a one waits for is not in the
 * graph's sum, by which watch messages are put off: those who do not read must not keep others from
 * asking. */
static void watcher_stall(struct watch_graph *w, struct watcher *watcher, bool stalled)
{
    if (stalled == watcher->stalled) return;
    watcher->stalled = stalled;
    if (stalled) w->backlog -= watcher->backlog;
    else w->backlog += watcher->backlog;
}

/* Notes that the user with this id has changed: a new version, to be spread later, together with
 * what else changes until then. Returns the target, or NULL when nobody follows them. */
static struct watch_target *watch_graph_changed(struct watch_graph *w, struct span id)
{
    struct watch_target *e = watch_graph_find(w, id);
    if (!e) return NULL;
    e->version++;
    if (!e->is_changed) STAILQ_INSERT_TAIL(&w->changed, e, changed);
    e->is_changed = true;
    return e;
}

/* How a target's user stands, as others may see. */
static void target_view(const struct presence *p, struct instant now, const struct watch_target *e,
                        struct user_view *view)
{
    struct span id = target_id(e);
    const struct user *user = presence_find(p, id);
    if (user) {
        view_user(view, user, now);
        view_hide(view);
        return;
    }
    *view = (struct user_view){.status = STATUS_OFFLINE, .id_len = e->id_len};
    memcpy(view->id, e->id, e->id_len);
}

/* A number that differs when others see a user change: in all that is shown but the last_seen of
 * one who is online, which moves with every ping. 64 bits of SipHash: two states of a user that
 * meet are a matter of 2^-64, and nobody can look for them. */
static uint64_t view_digest(const struct watch_graph *w, const struct user_view *view)
{
    struct {
        int64_t known, state, status, connections, moment;
        uint64_t message;
    } all = {view->known,
             view->state,
             view->status,
             view->connections,
             view->state == USER_OFFLINE ? view->last_seen : view->connected_at,
             hash_keyed(w->targets.key, view->message.at, view->message.len)};
    return hash_keyed(w->targets.key, &all, sizeof all);
}

/* Puts the watches of changed targets into their watchers' queues, and those watchers among the
 * busy. A target in which others see no change is passed over, see the top of the section. Stops
 * after so many watches, at the end of a target's: then `spreading` is not empty, and the next call
 * goes on. What changes meanwhile waits for the round after. */
static void watch_graph_spread(struct watch_graph *w, const struct presence *p, struct instant now,
                               size_t most)
{
    struct watch *watch;
    if (STAILQ_EMPTY(&w->spreading)) STAILQ_CONCAT(&w->spreading, &w->changed);
    for (size_t looked = 0; !STAILQ_EMPTY(&w->spreading) && looked < most; looked++) {
        struct watch_target *e = STAILQ_FIRST(&w->spreading);
        struct user_view view;
        STAILQ_REMOVE_HEAD(&w->spreading, changed);
        e->is_changed = false;
        target_unreference(w, e);
        target_view(p, now, e, &view);
        uint64_t digest = view_digest(w, &view);
        if (digest == e->digest) continue;
        e->digest = digest;
        LIST_FOREACH (watch, &e->watches, list) {
            struct watcher *of = watch->of;
            looked++;
            if (watch->sent->queued || watch->sent->version == e->version) continue;
            watcher_push(of, watch);
            if (!LIST_LINKED(of, list)) watcher_list(&w->busy, of);
        }
    }
}

/* The watcher whose turn it is to be told something, or NULL. Who becomes busy meanwhile is behind
 * all who are busy now: nobody waits longer than one round, however often others ask. */
static struct watcher *watch_graph_next(struct watch_graph *w)
{
    if (!LIST_FIRST(&w->serving)) LIST_SWAP(&w->serving, &w->busy, watcher, list);
    return LIST_FIRST(&w->serving);
}

/* Begins a turn in which texts of users are made: those of the last are not used any more, since a
 * text has a last_seen. What a crowd made large is given back. */
static void watch_graph_begin_turn(struct watch_graph *w)
{
    w->turn++;
    w->text.len = 0;
    if (w->text.size > WATCH_TEXT_KEPT) buffer_free(&w->text);
}

/* Appends a target's user as JSON, made once a turn and version, however many are told; with the
 * reason where the user is offline and this is a change, not a snapshot. Who is told between a
 * change and its spread knows more than the others: then the digest is cleared, see the top of the
 * section. */
static void target_write(struct watch_graph *w, const struct presence *p, struct instant now,
                         struct watch_target *e, bool is_change, struct buffer *out)
{
    if (e->made != w->turn || e->made_version != e->version) {
        struct user_view view;
        size_t at = w->text.len;
        target_view(p, now, e, &view);
        json_begin(&w->text);
        view_write_members(&w->text, &view);
        e->made = w->turn;
        e->made_version = e->version;
        e->text_at = (uint32_t)at;
        e->text_len = (uint32_t)(w->text.len - at);
        e->reason = view.state == USER_OFFLINE ? view.reason : REASON_NONE;
        e->digest = view_digest(w, &view);
    }
    if (e->is_changed) e->digest = 0;
    json_key(out, NULL);
    buffer_add(out, w->text.at + e->text_at, e->text_len);
    if (is_change && e->reason) json_text(out, "reason", REASON_NAMES[e->reason]);
    json_close(out, '}');
}

/* True if the first snapshot to come can be written: the store was asked for all its users. It is
 * looked at again and again while the reader works, so it goes on where it stopped. */
static bool snapshot_ready(struct snapshot *snapshot)
{
    while (snapshot->checked < snapshot->count && snapshot->users[snapshot->checked]->resolved)
        snapshot->checked++;
    return snapshot->checked == snapshot->count;
}

/* Takes the watches at the front of the queue away that are not due any more: ended, or told by a
 * snapshot meanwhile. After it the queue is empty, or there is something to tell. */
static void watcher_skip(struct watcher *watcher)
{
    struct watch *first;
    while ((first = STAILQ_FIRST(&watcher->due)) &&
           (!first->to || first->sent->version == first->to->version))
        watcher_pop(watcher);
}

/* Appends users of the first snapshot to come, as many as a message has room for; their watches, if
 * they are still there, have heard of them. Returns whether some are left for the next message. */
static bool watcher_write_snapshot(struct watch_graph *w, const struct presence *p,
                                   struct instant now, struct watcher *watcher, struct buffer *out)
{
    struct snapshot *snapshot = STAILQ_FIRST(&watcher->snapshots);
    json_begin(out);
    json_text(out, "type", "snapshot");
    json_open(out, "users", '[');
    while (snapshot->written < snapshot->count && out->len < w->full) {
        struct watch_target *e = snapshot->users[snapshot->written++];
        target_write(w, p, now, e, false, out);
        struct watch *watch = watcher_find(watcher, e);
        if (watch) watch->sent->version = e->version;
        e->needs--;
        target_unreference(w, e);
    }
    bool more = snapshot->written < snapshot->count;
    json_close(out, ']');
    if (more) json_bool(out, "more", true);
    json_close(out, '}');
    if (!more) watcher_drop_snapshot(w, watcher);
    return more;
}

/* Appends users who changed, as many as a message has room for; there is one, see watcher_skip. */
static void watcher_write_changes(struct watch_graph *w, const struct presence *p,
                                  struct instant now, struct watcher *watcher, struct buffer *out)
{
    json_begin(out);
    json_text(out, "type", "presence");
    json_open(out, "users", '[');
    while (watcher->queued && out->len < w->full) {
        struct watch *watch = watcher_pop(watcher);
        if (!watch || watch->sent->version == watch->to->version) continue;
        target_write(w, p, now, watch->to, true, out);
        watch->sent->version = watch->to->version;
    }
    buffer_text(out, "]}");
}

/* Appends the next message that a watcher is to be told, whole and of at most WATCH_MESSAGE_MAX
 * bytes, since clients give up what is larger than they care for; snapshots come first. Returns
 * what it is, and in *more whether it is a part of a snapshot that another follows; NOTHING when
 * there is nothing to tell, or not yet: a watcher with snapshots then waits for the store. */
static enum watcher_message watcher_fill(struct watch_graph *w, const struct presence *p,
                                         struct instant now, struct watcher *watcher,
                                         struct buffer *out, bool *more)
{
    *more = false;
    if (!STAILQ_EMPTY(&watcher->snapshots)) {
        if (!snapshot_ready(STAILQ_FIRST(&watcher->snapshots))) return WATCHER_NOTHING;
        *more = watcher_write_snapshot(w, p, now, watcher, out);
        return WATCHER_SNAPSHOT;
    }
    watcher_skip(watcher);
    if (!watcher->queued) return WATCHER_NOTHING;
    watcher_write_changes(w, p, now, watcher, out);
    return WATCHER_CHANGES;
}

/* Frees what an idle watcher has kept, before its connection goes. */
static void watcher_free(struct watcher *watcher)
{
    watcher_list(NULL, watcher);
    free(watcher->slots);
}

/* ==== 26. WebSocket codec =====================================================================
 * RFC 6455, the server's side: bytes to frames to messages, and back. Pure: no I/O, no clock.
 *
 *     byte 0    FIN, three reserved bits, opcode      ws_fault_first
 *     byte 1    MASK, length: 0 to 125, 126, 127      ws_fault_second
 *     2 or 8    the length if it was 126 or 127       ws_fault_length
 *     4         the mask: clients always have one
 *     payload   unmasked in place                     ws_take_payload
 *
 * A frame that is whole in the input is handed out from the input; only what is half received
 * takes memory, in a ws_partial of its own, so a connection that is idle costs none. Every byte is
 * judged as soon as it is there and in its order, so that what a client is told does not depend on
 * how the network cut its bytes, and nobody can make us keep what is wrong already. */

enum {
    WS_OP_CONTINUE = 0,
    WS_OP_TEXT = 1,
    WS_OP_BINARY = 2,
    WS_OP_CLOSE = 8,
    WS_OP_PING = 9,
    WS_OP_PONG = 10
};
enum { WS_CONTROL_MAX = 125, WS_REASON_MAX = 123 };

/* Everything a client's frames can be refused for: name, close code, text. */
#define WS_FAULT_TABLE(X)                                                                          \
    X(NONE, 0, "no fault")                                                                         \
    X(RESERVED, CLOSE_PROTOCOL, "a reserved bit is set, but no extension was agreed on")           \
    X(OPCODE, CLOSE_PROTOCOL, "the opcode is not known")                                           \
    X(CONTROL_FRAGMENT, CLOSE_PROTOCOL, "a control frame is fragmented")                           \
    X(ORPHAN, CLOSE_PROTOCOL, "a continuation without a message to continue")                      \
    X(INTERLEAVED, CLOSE_PROTOCOL, "a new message inside a fragmented one")                        \
    X(FRAGMENTS, CLOSE_TOO_BIG, "the message is cut into too many frames")                         \
    X(UNMASKED, CLOSE_PROTOCOL, "a client's frame is not masked")                                  \
    X(CONTROL_LENGTH, CLOSE_PROTOCOL, "a control frame is longer than 125 bytes")                  \
    X(CLOSE_LENGTH, CLOSE_PROTOCOL, "a close frame has half a code")                               \
    X(LENGTH, CLOSE_PROTOCOL, "the length is not in its shortest form or over 63 bits")            \
    X(TOO_BIG, CLOSE_TOO_BIG, "the message is larger than --max-message")                          \
    X(CLOSE_CODE, CLOSE_PROTOCOL, "a close code that may not be sent")                             \
    X(CLOSE_UTF8, CLOSE_BAD_UTF8, "the close reason is not UTF-8")                                 \
    X(TEXT_UTF8, CLOSE_BAD_UTF8, "a text message is not UTF-8")
#define X(name, code, text) WS_FAULT_##name,
/* Each fault is a row of WS_FAULT_TABLE; 0 is none. */
enum ws_fault { WS_FAULT_TABLE(X) };
#undef X
/* The row of each fault: the close code to send, and the reason in it. */
static const struct ws_fault_row {
    uint16_t code;
    const char *text;
} WS_FAULTS[] = {
#define X(name, code, text) {code, text},
    WS_FAULT_TABLE(X)
#undef X
};

enum ws_kind { WS_MORE, WS_TEXT, WS_BINARY, WS_PING, WS_PONG, WS_CLOSE, WS_FAIL };

/* What a client may make us keep. */
struct ws_limits {
    size_t max_message; /* bytes of a message, over all its frames */
    int max_fragments;  /* frames of a message */
};

/* What ws_decode found. The data is in the input or in the partial: good until the next call. */
struct ws_event {
    enum ws_kind kind;
    uint16_t code;      /* WS_CLOSE: the peer's, or 1005; WS_FAIL: the one to send */
    const char *reason; /* WS_FAIL: why, a static text */
    struct span data;   /* the payload; of a WS_CLOSE the reason; until the next call */
};

/* The head of a frame, decoded. */
struct ws_head {
    size_t len; /* of the payload */
    uint8_t mask[4];
    uint8_t opcode;
    bool final;
    bool stored; /* its payload went into the partial's message */
};

/* What is half received: a head, the payload of a frame, or the frames of a message before its
 * last. Kept on the heap, only while there is something to keep. */
struct ws_partial {
    struct buffer message;         /* the data so far, unmasked */
    size_t checked;                /* bytes of it that are whole code points, of a text */
    struct ws_head frame;          /* in_payload: the frame being received */
    size_t got;                    /* in_payload: bytes of its payload so far */
    int fragments;                 /* frames of the message that are complete */
    uint8_t opcode;                /* of the fragmented message; 0: there is none */
    bool in_payload;               /* a head is complete, its payload is not */
    uint8_t have;                  /* bytes of a head that is not complete */
    uint8_t bytes[WS_CONTROL_MAX]; /* that head, or the payload of a control frame */
};

/* Input that was not taken yet; what was is behind it, unmasked. */
struct ws_input {
    uint8_t *at;
    size_t left;
};

/* Frees what is kept; *kept is NULL after. */
static void ws_partial_free(struct ws_partial **kept)
{
    if (*kept) buffer_free(&(*kept)->message);
    free(*kept);
    *kept = NULL;
}

/* What is kept, made if there was nothing. */
static struct ws_partial *ws_partial_get(struct ws_partial **kept)
{
    if (!*kept) *kept = mem_new(sizeof **kept);
    return *kept;
}

/* Frees what is kept if all of it was handed out. At the begin of a call: the event of the one
 * before may have pointed into it. */
static void ws_partial_settle(struct ws_partial **kept)
{
    struct ws_partial *p = *kept;
    if (p && !p->have && !p->in_payload && !p->opcode) ws_partial_free(kept);
}

/* True if a peer may send the close code (RFC 6455 section 7.4 and the IANA registry): 1004 to
 * 1006 and 1015 stand for what no frame says. */
static bool ws_close_code_valid(unsigned code)
{
    if (code >= 1000 && code <= 1014) return code < 1004 || code > 1006;
    return code >= 3000 && code <= 4999;
}

/* Unmasks in place (RFC 6455 section 5.3) len bytes that begin phase bytes into the payload: by
 * words of 8, with the key turned to the phase. */
static void ws_unmask(uint8_t *at, size_t len, const uint8_t mask[4], size_t phase)
{
    uint8_t key[8];
    uint64_t wide, word;
    for (size_t i = 0; i < sizeof key; i++) key[i] = mask[(phase + i) & 3];
    memcpy(&wide, key, sizeof wide);
    size_t n = 0;
    for (; len - n >= sizeof word; n += sizeof word) {
        memcpy(&word, at + n, sizeof word);
        word ^= wide;
        memcpy(at + n, &word, sizeof word);
    }
    for (; n < len; n++) at[n] ^= key[n & 7];
}

/* The size of a head whose first two bytes are there: two, the longer length, the mask. */
static size_t ws_head_size(const uint8_t *in)
{
    int length = in[1] & 0x7f;
    return 2 + (length == 126 ? 2 : length == 127 ? 8 : 0) + 4;
}

/* The length that a head announces; all its bytes but the mask's must be there. */
static uint64_t ws_head_length(const uint8_t *in)
{
    int length = in[1] & 0x7f;
    if (length == 126) return (uint64_t)in[2] << 8 | in[3];
    return length == 127 ? get_be64(in + 2) : (uint64_t)length;
}

/* What is wrong with the first byte of a head (RFC 6455 sections 5.2, 5.4, 5.5): of its bits, its
 * opcode, and whether it may stand behind the frames before it. The number of frames is bounded
 * since each costs work, while an empty one costs its sender next to nothing. */
static enum ws_fault ws_fault_first(const struct ws_partial *p, const struct ws_limits *limits,
                                    uint8_t first)
{
    int opcode = first & 0x0f;
    /* Control frames may come between fragments; data may only continue the open message. */
    bool final = first & 0x80, open = p && p->opcode;
    if (first & 0x70) return WS_FAULT_RESERVED;
    if (opcode > WS_OP_PONG || (opcode > WS_OP_BINARY && opcode < WS_OP_CLOSE))
        return WS_FAULT_OPCODE;
    if (opcode >= WS_OP_CLOSE) return final ? WS_FAULT_NONE : WS_FAULT_CONTROL_FRAGMENT;
    if (opcode == WS_OP_CONTINUE && !open) return WS_FAULT_ORPHAN;
    if (opcode != WS_OP_CONTINUE && open) return WS_FAULT_INTERLEAVED;
    return open && p->fragments >= limits->max_fragments ? WS_FAULT_FRAGMENTS : WS_FAULT_NONE;
}

/* What is wrong with the second byte of a head (RFC 6455 sections 5.1, 5.5). */
static enum ws_fault ws_fault_second(uint8_t first, uint8_t second)
{
    int opcode = first & 0x0f, length = second & 0x7f;
    if (!(second & 0x80)) return WS_FAULT_UNMASKED;
    if (opcode >= WS_OP_CLOSE && length > WS_CONTROL_MAX) return WS_FAULT_CONTROL_LENGTH;
    return opcode == WS_OP_CLOSE && length == 1 ? WS_FAULT_CLOSE_LENGTH : WS_FAULT_NONE;
}

/* What is wrong with the length in a head (RFC 6455 section 5.2, and --max-message). The sum with
 * the frames before is compared by a subtraction: a length of 63 bits must not overflow it. */
static enum ws_fault ws_fault_length(const struct ws_partial *p, const struct ws_limits *limits,
                                     const uint8_t *in)
{
    int coded = in[1] & 0x7f;
    uint64_t length = ws_head_length(in);
    if ((coded == 126 && length < 126) || (coded == 127 && (length < 65536 || length >> 63)))
        return WS_FAULT_LENGTH;
    size_t before = p && p->opcode ? p->message.len : 0;
    bool control = (in[0] & 0x0f) >= WS_OP_CLOSE;
    return !control && length > limits->max_message - before ? WS_FAULT_TOO_BIG : WS_FAULT_NONE;
}

/* The first fault in the n bytes of a head that are there. They are judged in their order, so the
 * answer is the same however they arrived. */
static enum ws_fault ws_fault_head(const struct ws_partial *p, const struct ws_limits *limits,
                                   const uint8_t *in, size_t n)
{
    enum ws_fault fault = ws_fault_first(p, limits, in[0]);
    if (fault || n < 2) return fault;
    fault = ws_fault_second(in[0], in[1]);
    if (fault || n < ws_head_size(in) - 4) return fault;
    return ws_fault_length(p, limits, in);
}

/* Moves the head from the input to what is kept, byte by byte, until it is whole or faulty. False
 * if the input ended before. Heads are cut only where a segment ends, so this need not be fast. */
static bool ws_gather_head(struct ws_partial *p, const struct ws_limits *limits,
                           struct ws_input *input, enum ws_fault *fault)
{
    while (p->have < 2 || p->have < ws_head_size(p->bytes)) {
        if (!input->left) return false;
        p->bytes[p->have++] = *input->at++;
        input->left--;
        *fault = ws_fault_head(p, limits, p->bytes, p->have);
        if (*fault) return false;
    }
    p->have = 0;
    return true;
}

/* Takes the head of the current frame, or the one that is kept. False if the input ends before it
 * or with it kept, or if *fault says what is wrong with it; what there is of it is kept. */
static bool ws_take_head(struct ws_partial **kept, const struct ws_limits *limits,
                         struct ws_input *input, struct ws_head *frame, enum ws_fault *fault)
{
    struct ws_partial *p = *kept;
    if (!input->left) return false;
    if (p && p->in_payload) {
        *frame = p->frame;
        return true;
    }
    const uint8_t *head = input->at;
    if (!(p && p->have) && input->left >= 2 && input->left >= ws_head_size(head)) {
        *fault = ws_fault_head(p, limits, head, input->left);
        if (*fault) return false;
        input->at += ws_head_size(head);
        input->left -= ws_head_size(head);
    } else {
        p = ws_partial_get(kept);
        head = p->bytes;
        if (!ws_gather_head(p, limits, input, fault)) return false;
    }
    *frame = (struct ws_head){.opcode = head[0] & 0x0f, .final = head[0] & 0x80};
    frame->len = (size_t)ws_head_length(head);
    memcpy(frame->mask, head + ws_head_size(head) - 4, sizeof frame->mask);
    return true;
}

/* Looks at what came of a text message that is not complete. A fault in it is found at once: who
 * sent it need not send the rest, and cannot hold the connection with it. */
static enum ws_fault ws_check_text(struct ws_partial *p)
{
    size_t whole;
    if (p->message.len == p->checked) return WS_FAULT_NONE; /* perhaps there is none yet */
    struct span text = {p->message.at + p->checked, p->message.len - p->checked};
    if (!utf8_begins(text, &whole)) return WS_FAULT_TEXT_UTF8;
    p->checked += whole;
    return WS_FAULT_NONE;
}

/* Takes the payload of the frame, unmasked: from the input if all of it is there, otherwise by way
 * of what is kept. False if it is not complete, or if *fault says what is wrong with what came.
 *
 * The payload of data goes behind what the message has so far, that of a control frame into
 * partial->bytes: it may come between two fragments (RFC 6455 section 5.4), and has at most 125
 * bytes. */
static bool ws_take_payload(struct ws_partial **kept, struct ws_input *input, struct ws_head *frame,
                            struct span *payload, enum ws_fault *fault)
{
    struct ws_partial *p = *kept;
    size_t got = p && p->in_payload ? p->got : 0;
    size_t n = frame->len - got < input->left ? frame->len - got : input->left;
    char *at = (char *)input->at;
    ws_unmask(input->at, n, frame->mask, got);
    input->at += n;
    input->left -= n;
    /* Half a payload has to be kept: what is in the input is the caller's to use again. */
    frame->stored = n < frame->len && frame->opcode < WS_OP_CLOSE;
    if (n < frame->len) {
        p = ws_partial_get(kept);
        if (frame->stored) buffer_add(&p->message, at, n);
        else memcpy(p->bytes + got, at, n);
        at = frame->stored ? p->message.at : (char *)p->bytes;
        p->frame = *frame;
        p->got = got + n;
    }
    if (p) p->in_payload = got + n < frame->len;
    if (frame->stored && (frame->opcode ? frame->opcode : p->opcode) == WS_OP_TEXT)
        *fault = ws_check_text(p);
    if (*fault) return false;
    *payload = (struct span){at, frame->len};
    return got + n == frame->len;
}

/* Makes the event of a complete close frame (RFC 6455 sections 5.5.1, 7.1.5). */
static enum ws_fault ws_finish_close(struct span payload, struct ws_event *event)
{
    const uint8_t *in = (const uint8_t *)payload.at;
    unsigned code = payload.len ? (unsigned)in[0] << 8 | in[1] : CLOSE_NO_STATUS;
    struct span reason = {payload.len ? payload.at + 2 : "", payload.len ? payload.len - 2 : 0};
    if (payload.len && !ws_close_code_valid(code)) return WS_FAULT_CLOSE_CODE;
    if (!utf8_valid(reason)) return WS_FAULT_CLOSE_UTF8;
    *event = (struct ws_event){.kind = WS_CLOSE, .code = (uint16_t)code, .data = reason};
    return WS_FAULT_NONE;
}

/* Makes the event of a message whose last frame is complete, or keeps the fragment and leaves the
 * event alone (RFC 6455 sections 5.4, 8.1). */
static enum ws_fault ws_finish_data(struct ws_partial **kept, const struct ws_head *frame,
                                    struct span data, struct ws_event *event)
{
    struct ws_partial *p = *kept;
    int opcode = frame->opcode ? frame->opcode : p->opcode;
    if (!frame->final || !frame->opcode) {
        p = ws_partial_get(kept);
        if (!frame->stored) buffer_add(&p->message, data.at, data.len);
        p->opcode = (uint8_t)opcode;
        p->fragments++;
        if (!frame->final) return opcode == WS_OP_TEXT ? ws_check_text(p) : WS_FAULT_NONE;
        data = (struct span){p->message.len ? p->message.at : "", p->message.len};
    }
    /* The event points into the partial, so it stays until the caller is done. */
    if (p) p->opcode = 0; /* the next call frees it */
    if (opcode == WS_OP_TEXT && !utf8_valid(data)) return WS_FAULT_TEXT_UTF8;
    *event = (struct ws_event){.kind = opcode == WS_OP_TEXT ? WS_TEXT : WS_BINARY, .data = data};
    return WS_FAULT_NONE;
}

/* Does what a complete frame asks for: makes its event, or keeps the fragment. */
static enum ws_fault ws_finish_frame(struct ws_partial **kept, const struct ws_head *frame,
                                     struct span payload, struct ws_event *event)
{
    if (frame->opcode == WS_OP_CLOSE) return ws_finish_close(payload, event);
    if (frame->opcode < WS_OP_CLOSE) return ws_finish_data(kept, frame, payload, event);
    *event =
        (struct ws_event){.kind = frame->opcode == WS_OP_PING ? WS_PING : WS_PONG, .data = payload};
    return WS_FAULT_NONE;
}

/* Decodes the next event from len bytes that a client sent (RFC 6455 sections 5 to 8), unmasks
 * them in place, and says in *used how many it took. To be called again with the rest, if only
 * with nothing, until it says WS_MORE: then all is taken, and *kept is NULL unless something is
 * half received. One event a call, so that the caller may stop between two messages when its turn
 * is over.
 *
 * Memory grows with bytes received, never with a length announced. WS_FAIL frees *kept; after it
 * and after WS_CLOSE there is no further call, and the owner frees *kept with ws_partial_free. */
static struct ws_event ws_decode(struct ws_partial **kept, const struct ws_limits *limits,
                                 uint8_t *in, size_t len, size_t *used)
{
    struct ws_input input = {in, len};
    struct ws_event event = {.kind = WS_MORE};
    enum ws_fault fault = WS_FAULT_NONE;
    /* What the call before handed out is over. Then frame by frame, until one makes an event: a
     * fragment makes none. */
    ws_partial_settle(kept);
    while (event.kind == WS_MORE && !fault) {
        struct ws_head frame;
        struct span payload;
        if (!ws_take_head(kept, limits, &input, &frame, &fault) ||
            !ws_take_payload(kept, &input, &frame, &payload, &fault))
            break;
        fault = ws_finish_frame(kept, &frame, payload, &event);
    }
    *used = len - input.left;
    if (!fault) return event;
    ws_partial_free(kept);
    return (struct ws_event){
        .kind = WS_FAIL, .code = WS_FAULTS[fault].code, .reason = WS_FAULTS[fault].text};
}

/* The head of a final, unmasked frame with len bytes; returns the head's size, 2, 4 or 10. */
static size_t ws_encode_head(uint8_t out[10], int opcode, size_t len)
{
    out[0] = (uint8_t)(0x80 | opcode);
    if (len < 126) {
        out[1] = (uint8_t)len;
        return 2;
    }
    if (len < 65536) {
        out[1] = 126;
        out[2] = (uint8_t)(len >> 8);
        out[3] = (uint8_t)len;
        return 4;
    }
    out[1] = 127;
    put_be64(out + 2, len);
    return 10;
}

/* Appends a whole frame (RFC 6455 section 5.2); a server's are not masked. */
static void ws_encode(struct buffer *b, int opcode, struct span payload)
{
    uint8_t head[10];
    buffer_add(b, head, ws_encode_head(head, opcode, payload.len));
    buffer_add(b, payload.at, payload.len);
}

/* Appends a close frame; the reason (which may be NULL) is cut to 123 bytes between characters. A
 * code that may not be sent, 1005 above all, leaves the frame empty (RFC 6455 section 7.4.1). */
static void ws_encode_close(struct buffer *b, int code, const char *reason)
{
    char payload[WS_CONTROL_MAX] = {(char)(code >> 8), (char)code};
    size_t len = reason ? strlen(reason) : 0;
    if (len > WS_REASON_MAX)
        for (len = WS_REASON_MAX; len && (reason[len] & 0xc0) == 0x80;) len--;
    if (len) memcpy(payload + 2, reason, len);
    bool sendable = code > 0 && ws_close_code_valid((unsigned)code);
    ws_encode(b, WS_OP_CLOSE, (struct span){payload, sendable ? len + 2 : 0});
}

/* ==== 27. HTTP messages =======================================================================
 * The parts of HTTP/1.1 (RFC 9110, RFC 9112) that are ours: where a request ends, before anybody
 * parses it, and the text of an answer. Pure but for the date.
 *
 * CivetWeb parses requests, but the listener has to know where one ends without blocking a worker,
 * and two readers of the same bytes are how requests are smuggled. So whatever the two could see
 * differently is refused or made plain here: CivetWeb is given one request, without transfer
 * codings, with every header line looked at.
 *
 *     http_head_end      is the head all there?
 *     http_frame_read    its length, and what it must not have; makes it plain
 *     http_chunks_read   a body in chunks becomes one with a length, where it lies
 *
 * An error found here ends the connection: where the next request begins nobody can say. */

/* What the head of a request says about its own length, read before CivetWeb sees it. */
struct http_frame {
    size_t head;                /* bytes up to and with the empty line; 0: not all there yet */
    size_t body;                /* Content-Length, or 0 */
    bool chunked;               /* the body is in chunks, and tells its length as it comes */
    bool expects;               /* Expect: 100-continue */
    bool asterisk;              /* OPTIONS *: what it is about is no path, but the server */
    char authority[ORIGIN_MAX]; /* of an absolute target, empty without one */
    enum error error;           /* what to refuse it with, or ERROR_NONE */
};

/* Finds the empty line that ends a head, having looked at `scanned` bytes before, so that a head
 * that comes a byte at a time is not read anew for each; 0 when it is not there yet. Exactly what
 * CivetWeb takes for one: two CR LF, or two bare LF. */
static size_t http_head_end(const char *at, size_t len, size_t scanned)
{
    const char *p = at + (scanned > 3 ? scanned - 3 : 0), *end = at + len;
    while ((p = memchr(p, '\n', (size_t)(end - p)))) {
        if (p + 1 < end && p[1] == '\n') return (size_t)(p - at) + 2;
        if (p + 2 < end && p > at && p[-1] == '\r' && p[1] == '\r' && p[2] == '\n')
            return (size_t)(p - at) + 3;
        p++;
    }
    return 0;
}

/* Takes a header's value if the line has this name; no blank may stand before the colon (RFC 9112
 * section 5). */
static bool http_line_value(struct span line, const char *name, struct span *value)
{
    size_t n = strlen(name);
    if (line.len <= n || strncasecmp(line.at, name, n) || line.at[n] != ':') return false;
    const char *from = line.at + n + 1, *to = line.at + line.len;
    while (from < to && (*from == ' ' || *from == '\t')) from++;
    while (to > from && (to[-1] == ' ' || to[-1] == '\t' || to[-1] == '\r')) to--;
    *value = (struct span){from, (size_t)(to - from)};
    return true;
}

/* Reads a Content-Length; -1 when it is not digits only: `+5`, `5,5` and the empty one are read in
 * different ways by others. */
static int64_t http_length(struct span text)
{
    int64_t n = 0;
    if (!text.len || text.len > 18) return -1;
    for (size_t i = 0; i < text.len; i++) {
        if (text.at[i] < '0' || text.at[i] > '9') return -1;
        n = n * 10 + (text.at[i] - '0');
    }
    return n;
}

/* True if a byte may stand in a token (RFC 9110 section 5.6.2). */
static bool http_is_token(char byte)
{
    unsigned char c = (unsigned char)byte;
    return c < 0x7f && (isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c)));
}

/* True if a line begins with a field name and its colon: a token, nothing between (RFC 9112
 * section 5.1). Also false for the obsolete folding of lines (section 5.2), which proxies join and
 * others cut. */
static bool http_line_named(struct span line)
{
    size_t n = 0;
    while (n < line.len && http_is_token(line.at[n])) n++;
    return n && n < line.len && line.at[n] == ':';
}

/* What a transfer coding means for us (RFC 9112 sections 6.1, 6.3): chunked alone is read; what
 * ends in chunked has a length, but a coding that we do not know; of anything else nobody can say
 * where the body ends. */
static enum error http_coding(struct span value)
{
    static const char chunked[] = "chunked";
    size_t n = sizeof chunked - 1;
    if (value.len < n || strncasecmp(value.at + value.len - n, chunked, n))
        return ERROR_INVALID_REQUEST;
    if (value.len == n) return ERROR_NONE;
    char before = value.at[value.len - n - 1];
    return before == ',' || before == ' ' || before == '\t' ? ERROR_NOT_IMPLEMENTED
                                                            : ERROR_INVALID_REQUEST;
}

/* Which of the header lines that say how long a body is were seen: there may be one of them in
 * all. */
struct http_lengths {
    bool content, coding;
};

/* Looks at one header line; a problem found first stays. A transfer coding is for us alone: its
 * name is spoilt, so that CivetWeb does not look for chunks that are gone. */
static void http_frame_line(struct http_frame *frame, char *at, size_t len, size_t max_body,
                            struct http_lengths *seen)
{
    struct span line = {at, len}, value;
    enum error error = ERROR_NONE;
    if (!http_line_named(line)) {
        error = ERROR_INVALID_REQUEST;
    } else if (http_line_value(line, "Content-Length", &value)) {
        int64_t n = http_length(value);
        if (n < 0 || seen->content || seen->coding) error = ERROR_INVALID_REQUEST;
        else if ((uint64_t)n > max_body) error = ERROR_BODY_TOO_LARGE;
        else frame->body = (size_t)n;
        seen->content = true;
    } else if (http_line_value(line, "Transfer-Encoding", &value)) {
        error = seen->content || seen->coding ? ERROR_INVALID_REQUEST : http_coding(value);
        seen->coding = true;
        *at = 'X';
    } else if (http_line_value(line, "Expect", &value)) {
        frame->expects = value.len == 12 && !strncasecmp(value.at, "100-continue", 12);
        if (!frame->expects) error = ERROR_EXPECTATION_FAILED;
    }
    if (!frame->error) frame->error = error;
}

/* Makes an absolute target (RFC 9112 section 3.2.2) the path in it, by blanks in place of scheme
 * and authority: nothing moves. The authority is kept, as it stands for the Host. Without a path
 * it is the root's. False for a target that is none: no host, or a user's name before it, which
 * would make somebody else's host look like ours (RFC 9110 section 4.2.4). Another scheme is left
 * alone, and refused behind CivetWeb. */
static bool http_take_authority(struct http_frame *frame, char *at, size_t line)
{
    char *target = memchr(at, ' ', line), *end = at + line, host[ORIGIN_MAX];
    int64_t port;
    if (!target || end - ++target < 8) return true;
    size_t scheme = strncasecmp(target, "http://", 7) ? 8 : 7;
    if (scheme == 8 && strncasecmp(target, "https://", 8)) return true;
    char *authority = target + scheme, *path = authority;
    while (path < end && !strchr("/?# \r\n", *path)) path++;
    size_t len = (size_t)(path - authority);
    if (path == end || *path == '#' || len >= sizeof frame->authority) return false;
    memcpy(frame->authority, authority, len);
    if (!host_parse(frame->authority, host, &port)) return false;
    if (*path != '/') *--path = '/';
    memset(target, ' ', (size_t)(path - target));
    return true;
}

/* Methods that are known, if not to every path; of others there is nothing to say here. */
static const char *const HTTP_METHODS[] = {"GET",    "HEAD",    "POST", "PUT",
                                           "DELETE", "OPTIONS", "PATCH"};

/* Looks at the request line: CivetWeb does not know all methods, nor what to do with an asterisk.
 * What is no request line is left to it. */
static enum error http_frame_first(struct http_frame *frame, char *at, size_t line)
{
    size_t method = 0;
    while (method < line && http_is_token(at[method])) method++;
    if (!method || method + 1 >= line || at[method] != ' ') return ERROR_NONE;
    bool known = false;
    for (size_t i = 0; i < sizeof HTTP_METHODS / sizeof *HTTP_METHODS; i++)
        known |= strlen(HTTP_METHODS[i]) == method && !memcmp(at, HTTP_METHODS[i], method);
    const char *blank = memchr(at + method + 1, ' ', line - method - 1);
    bool version = blank && (size_t)(at + line - blank) > 7 && !memcmp(blank + 1, "HTTP/1.", 7);
    if (!known) return version ? ERROR_NOT_IMPLEMENTED : ERROR_NONE;
    if (!version) return ERROR_NONE;
    frame->asterisk =
        blank == at + method + 2 && at[method + 1] == '*' && !memcmp(at, "OPTIONS", method);
    if (frame->asterisk) at[method + 1] = '/';
    return http_take_authority(frame, at, line) ? ERROR_NONE : ERROR_INVALID_REQUEST;
}

/* Reads how long the request at the front of the bytes is. Tabs in the head become blanks, which
 * mean the same and which CivetWeb takes; control characters are refused, also a CR that ends no
 * line (RFC 9112 section 2.2): behind the version CivetWeb would begin a header there that was not
 * looked at. So are more header lines than CivetWeb reads: the last ones, say a proxy's
 * X-Forwarded-For, would not be seen. */
static struct http_frame http_frame_read(char *at, size_t len, size_t scanned, size_t max_head,
                                         size_t max_body)
{
    struct http_frame frame = {.head = http_head_end(at, len, scanned)};
    /* Also without an end: who sends no empty line is cut off here, not by memory. */
    if ((frame.head ? frame.head : len) > max_head) frame.error = ERROR_HEAD_TOO_LARGE;
    if (len && (unsigned char)*at < ' ' && *at != '\r' && *at != '\n') /* TLS, say: not awaited */
        frame.error = ERROR_INVALID_REQUEST;
    if (!frame.head || frame.error) return frame;
    struct http_lengths seen = {0};
    int lines = 0;
    size_t from = (size_t)((char *)memchr(at, '\n', frame.head) - at) + 1; /* the request line */
    frame.error = http_frame_first(&frame, at, from);
    size_t first = from - (from > 1 && at[from - 2] == '\r' ? 2 : 1);
    bool old = first >= 8 && !memcmp(at + first - 8, "HTTP/1.0", 8);
    while (from < frame.head) {
        size_t to = (size_t)((char *)memchr(at + from, '\n', frame.head - from) - at);
        size_t line = to - from;
        if (line && at[from + line - 1] == '\r') line--;
        if (line) http_frame_line(&frame, at + from, line, max_body, &seen);
        if (line && ++lines > SEAM_HEADERS_MAX) frame.error = ERROR_HEAD_TOO_LARGE;
        from = to + 1;
    }
    if (old) frame.expects = false; /* it knows no 100: RFC 9110 section 10.1.1 */
    /* A proxy of HTTP/1.0 passes the chunks on as a body without a length. */
    if (old && seen.coding && !frame.error)
        frame.error = ERROR_LENGTH_REQUIRED; /* nor chunks: RFC 9112 section 6.1 */
    frame.chunked = seen.coding && !frame.error;
    /* Behind the lines, whose ends they may be: a bare CR is found by what follows it. */
    for (size_t i = 0; i < frame.head; i++) {
        unsigned char c = (unsigned char)at[i];
        if (c >= 0x20 && c != 0x7f) continue;
        bool ends = c == '\n' || (c == '\r' && at[i + 1] == '\n'); /* the head's last is a LF */
        if (c == '\t') at[i] = ' ';
        else if (!ends) frame.error = ERROR_INVALID_REQUEST;
    }
    return frame;
}

/* What is read next of a body in chunks (RFC 9112 section 7.1). One byte at a time, since it may
 * be cut anywhere; only data is taken in runs. */
enum chunk_state {
    CHUNK_SIZE,       /* a digit of a chunk's size, or what may stand behind it */
    CHUNK_BLANK,      /* blanks before a `;` */
    CHUNK_EXT,        /* behind the `;`: blanks, then a name */
    CHUNK_EXT_NAME,   /* in the name */
    CHUNK_EXT_EQUALS, /* blanks behind it, then `=` or the next `;` */
    CHUNK_EXT_VALUE,  /* behind the `=`: blanks, then a token or a quoted string */
    CHUNK_EXT_TOKEN,
    CHUNK_EXT_QUOTED,
    CHUNK_EXT_ESCAPE, /* behind a backslash in it */
    CHUNK_EXT_END,    /* behind it */
    CHUNK_SIZE_LF,    /* the LF of the line of a size */
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    CHUNK_TRAILER, /* the beginning of a trailer line, or of the empty line behind them */
    CHUNK_TRAILER_NAME,
    CHUNK_TRAILER_VALUE,
    CHUNK_TRAILER_LF,
    CHUNK_END_LF,
    CHUNK_DONE,
};

/* How far a body in chunks was read. Zeroed is its beginning. */
struct http_chunks {
    uint8_t state;  /* enum chunk_state */
    uint8_t digits; /* of the size that is being read */
    size_t left;    /* that size; then what is still to come of the chunk */
    size_t made;    /* bytes of the body so far */
    size_t beside;  /* bytes of extensions and trailers, which are thrown away */
};

enum { CHUNK_DIGITS_MAX = 16 /* of a size: what 64 bits hold */ };

/* True if a byte may stand in a quoted string or the value of a header: no control character but a
 * tab. */
static bool http_is_text(char byte)
{
    unsigned char c = (unsigned char)byte;
    return c == '\t' || (c >= 0x20 && c != 0x7f);
}

/* Reads one byte of a chunk's size; every line ends in CR LF and nothing else, since others who
 * read the same bytes may see an end where we see none. A size beyond the body's bound is refused
 * before a byte of it has come. */
static enum error http_chunk_size(struct http_chunks *chunks, char byte, size_t max_body)
{
    int digit = hex_value(byte);
    if (digit >= 0) {
        if (++chunks->digits > CHUNK_DIGITS_MAX) return ERROR_INVALID_REQUEST;
        chunks->left = chunks->left << 4 | (size_t)digit;
        return ERROR_NONE;
    }
    if (!chunks->digits) return ERROR_INVALID_REQUEST;
    if (byte == '\r') chunks->state = CHUNK_SIZE_LF;
    else if (byte == ';') chunks->state = CHUNK_EXT;
    else if (byte == ' ' || byte == '\t') chunks->state = CHUNK_BLANK;
    else return ERROR_INVALID_REQUEST;
    return chunks->left > max_body - chunks->made ? ERROR_BODY_TOO_LARGE : ERROR_NONE;
}

/* Goes on to a state if the byte is the one that has to stand here. */
static enum error http_chunk_expect(struct http_chunks *chunks, char byte, char wanted,
                                    enum chunk_state next)
{
    chunks->state = (uint8_t)next;
    return byte == wanted ? ERROR_NONE : ERROR_INVALID_REQUEST;
}

/* Reads one byte of an extension (RFC 9112 section 7.1.1), which means nothing to us. Its grammar
 * is held to all the same: in a quoted string that has no end, a proxy before us may take the end
 * of the line for a part of it, and see another request than we do. A bare `;` is let pass: some
 * send it. */
static enum error http_chunk_extension(struct http_chunks *chunks, char byte)
{
    bool blank = byte == ' ' || byte == '\t', token = http_is_token(byte);
    enum chunk_state state = (enum chunk_state)chunks->state, next = CHUNK_DONE; /* it cannot be */
    switch (state) {
    case CHUNK_EXT: next = token ? CHUNK_EXT_NAME : blank ? CHUNK_EXT : CHUNK_DONE; break;
    case CHUNK_EXT_NAME:
    case CHUNK_EXT_EQUALS:
        next = byte == '='                        ? CHUNK_EXT_VALUE
               : token && state == CHUNK_EXT_NAME ? CHUNK_EXT_NAME
               : blank                            ? CHUNK_EXT_EQUALS
                                                  : CHUNK_DONE;
        break;
    case CHUNK_EXT_VALUE:
        next = byte == '"' ? CHUNK_EXT_QUOTED
               : token     ? CHUNK_EXT_TOKEN
               : blank     ? CHUNK_EXT_VALUE
                           : CHUNK_DONE;
        break;
    case CHUNK_EXT_TOKEN: next = token ? CHUNK_EXT_TOKEN : blank ? CHUNK_BLANK : CHUNK_DONE; break;
    case CHUNK_EXT_QUOTED:
        if (http_is_text(byte)) next = CHUNK_EXT_QUOTED;
        if (byte == '"') next = CHUNK_EXT_END;
        if (byte == '\\') next = CHUNK_EXT_ESCAPE;
        break;
    case CHUNK_EXT_ESCAPE: next = http_is_text(byte) ? CHUNK_EXT_QUOTED : CHUNK_DONE; break;
    default: next = blank ? CHUNK_BLANK : CHUNK_DONE; /* CHUNK_EXT_END */
    }
    bool ends = state == CHUNK_EXT_NAME || state == CHUNK_EXT_TOKEN || state == CHUNK_EXT_END;
    if (byte == ';' && (ends || state == CHUNK_EXT_EQUALS)) next = CHUNK_EXT;
    if (byte == '\r' && (ends || state == CHUNK_EXT)) next = CHUNK_SIZE_LF;
    chunks->state = (uint8_t)next;
    return next == CHUNK_DONE ? ERROR_INVALID_REQUEST : ERROR_NONE;
}

/* Reads one byte of what is no data. Trailers (RFC 9112 section 7.1.2) have to look like header
 * lines, and are thrown away: what they say came too late to be looked at. */
static enum error http_chunk_byte(struct http_chunks *chunks, char byte, size_t max_body)
{
    switch ((enum chunk_state)chunks->state) {
    case CHUNK_SIZE: return http_chunk_size(chunks, byte, max_body);
    case CHUNK_BLANK:
        if (byte == ' ' || byte == '\t') return ERROR_NONE;
        return http_chunk_expect(chunks, byte, ';', CHUNK_EXT);
    case CHUNK_EXT:
    case CHUNK_EXT_NAME:
    case CHUNK_EXT_EQUALS:
    case CHUNK_EXT_VALUE:
    case CHUNK_EXT_TOKEN:
    case CHUNK_EXT_QUOTED:
    case CHUNK_EXT_ESCAPE:
    case CHUNK_EXT_END: return http_chunk_extension(chunks, byte);
    case CHUNK_SIZE_LF:
        chunks->digits = 0;
        return http_chunk_expect(chunks, byte, '\n', chunks->left ? CHUNK_DATA : CHUNK_TRAILER);
    case CHUNK_DATA_CR: return http_chunk_expect(chunks, byte, '\r', CHUNK_DATA_LF);
    case CHUNK_DATA_LF: return http_chunk_expect(chunks, byte, '\n', CHUNK_SIZE);
    case CHUNK_TRAILER:
        chunks->state = byte == '\r' ? CHUNK_END_LF : CHUNK_TRAILER_NAME;
        return byte == '\r' || http_is_token(byte) ? ERROR_NONE : ERROR_INVALID_REQUEST;
    case CHUNK_TRAILER_NAME:
        if (http_is_token(byte)) return ERROR_NONE;
        return http_chunk_expect(chunks, byte, ':', CHUNK_TRAILER_VALUE);
    case CHUNK_TRAILER_VALUE:
        if (byte == '\r') chunks->state = CHUNK_TRAILER_LF;
        return byte == '\r' || http_is_text(byte) ? ERROR_NONE : ERROR_INVALID_REQUEST;
    case CHUNK_TRAILER_LF: return http_chunk_expect(chunks, byte, '\n', CHUNK_TRAILER);
    case CHUNK_END_LF: return http_chunk_expect(chunks, byte, '\n', CHUNK_DONE);
    case CHUNK_DATA:
    case CHUNK_DONE: break; /* not here: http_chunks_read */
    }
    return ERROR_INVALID_REQUEST;
}

/* Reads on in a body of chunks: behind its `made` bytes at `at` stand what has come since. The
 * data is moved together, the rest thrown away: afterwards *len is what there is of the body, and
 * once it is DONE also what was sent behind it.
 *
 *     before   body so far | 5 CR LF h e l l o CR LF 3 ...      *len: all of it
 *     after    body so far h e l l o | 3 ...                    made: 5 more
 *
 * Extensions and trailers may have max_beside bytes in all: without a bound a client could send
 * them for ever, and no body would grow. */
static enum error http_chunks_read(struct http_chunks *chunks, char *at, size_t *len,
                                   size_t max_body, size_t max_beside)
{
    enum error error = ERROR_NONE;
    size_t in = chunks->made;
    while (in < *len && chunks->state != CHUNK_DONE && !error) {
        if (chunks->state == CHUNK_DATA) {
            size_t n = *len - in < chunks->left ? *len - in : chunks->left;
            memmove(at + chunks->made, at + in, n);
            in += n;
            chunks->made += n;
            chunks->left -= n;
            if (!chunks->left) chunks->state = CHUNK_DATA_CR;
            continue;
        }
        bool counts = (chunks->state >= CHUNK_BLANK && chunks->state <= CHUNK_EXT_END) ||
                      chunks->state >= CHUNK_TRAILER;
        error = http_chunk_byte(chunks, at[in++], max_body);
        if (counts && ++chunks->beside > max_beside && !error) error = ERROR_HEAD_TOO_LARGE;
    }
    memmove(at + chunks->made, at + in, *len - in);
    *len -= in - chunks->made;
    return error;
}

/* What may take long to answer. Beginnings of paths as sent, which is how routes are found too. Not
 * a login: one password is looked at a time, and who comes meanwhile is told so at once. */
static const char *const HTTP_COSTLY[] = {
    "/admin/users", "/admin/online-users", "/admin/history",
    "/admin/stats", "/api/presence ",      "/api/presence?",
};

/* The target of a request, and what stands behind it, in bytes that may be all of it or not yet. */
static struct span http_target(const char *at, size_t len)
{
    const char *target = memchr(at, ' ', len), *end = at + len;
    if (!target) return (struct span){0};
    while (target < end && *target == ' ') target++;
    return (struct span){target, (size_t)(end - target)};
}

static bool span_begins(struct span span, const char *text)
{
    size_t n = strlen(text);
    return span.len >= n && !memcmp(span.at, text, n);
}

/* True if a request, whole and in order, is one of HTTP_COSTLY: it waits in a lane of its own, so
 * that lists cannot hold all workers. */
static bool http_is_costly(const char *at, size_t len)
{
    struct span target = http_target(at, len);
    for (size_t i = 0; i < sizeof HTTP_COSTLY / sizeof *HTTP_COSTLY; i++)
        if (span_begins(target, HTTP_COSTLY[i])) return true;
    return false;
}

/* True if a request asks how the server is, which needs to know nothing of any user. */
static bool http_is_probe(const char *at, size_t len)
{
    static const char *const probes[] = {"/healthz ", "/healthz?", "/readyz ",
                                         "/readyz?",  "/metrics ", "/metrics?"};
    struct span target = http_target(at, len);
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++)
        if (span_begins(target, probes[i])) return true;
    return false;
}

/* Copies the value of a header out of a head that may be cut or wrong, as text; false when no
 * whole line has it, more than one has, or it does not fit. For what is said of a request that
 * nobody could parse. */
static bool http_find_header(const char *at, size_t len, const char *name, char *out, size_t size)
{
    int found = 0;
    const char *line = memchr(at, '\n', len), *end = at + len;
    for (const char *next; line && (next = memchr(line + 1, '\n', (size_t)(end - line - 1)));
         line = next) {
        struct span text = {line + 1, (size_t)(next - line - 1)}, value;
        if (!text.len || *text.at == '\r') break;
        if (!http_line_value(text, name, &value)) continue;
        if (found++ || value.len >= size || memchr(value.at, 0, value.len)) return false;
        memcpy(out, value.at, value.len);
        out[value.len] = 0;
    }
    return found == 1;
}

/* The reason phrase of a status (RFC 9110 section 15). */
static const char *http_phrase(int status)
{
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        {200, "OK"},
        {204, "No Content"},
        {304, "Not Modified"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {408, "Request Timeout"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {417, "Expectation Failed"},
        {421, "Misdirected Request"},
        {426, "Upgrade Required"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++)
        if (phrases[i].status == status) return phrases[i].phrase;
    return "Unknown";
}

/* An answer being made, by a worker or the listener. Who made it frees body, location, texts and
 * named. */
struct http_response {
    int status;
    const char *type; /* of the body; NULL: no body and no length, as 204 wants it */
    struct buffer body;
    struct span fixed;        /* a body that needs no copy, in place of the buffer */
    struct buffer location;   /* a Location; freed by who frees body */
    char extra[256];          /* further header lines, each with CR LF */
    bool cacheable;           /* otherwise Cache-Control: no-store */
    bool varies;              /* by Origin */
    const char *allow_origin; /* whose pages may read it (CORS), or NULL */
    bool is_stream; /* the body has no end of its own: no length; it is the hub's to send */
    bool resumes;   /* the stream goes on behind this event */
    struct position position;
    uint32_t logouts;         /* see struct stream */
    uint8_t feed;             /* enum feed_kind */
    uint32_t expires;         /* s from now at which the stream ends; 0: never */
    char detail[224];         /* a more exact text for the error that is returned, or "" */
    struct view_texts *texts; /* messages of the users in it; freed by who frees body */
    struct named *named;      /* whom the error names, or NULL; freed by who frees body */
};

static const char JSON_TYPE[] = "application/json";

/* Adds a header line. Values come from tables and from what was checked, never from a client as it
 * is: no CR LF can be in them. One that does not fit is a fault of the program. */
__attribute__((format(printf, 2, 3))) static void http_add_header(struct http_response *response,
                                                                  const char *format, ...)
{
    size_t len = strlen(response->extra);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(response->extra + len, sizeof response->extra - len, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof response->extra - len)
        fatal("a header is longer than the room for all");
}

/* Makes the response an error from the table, with its text or, where there is one, the response's
 * more exact one. What the body had is gone; header lines that were added stay. */
static void http_set_error(struct http_response *response, enum error error)
{
    const struct error_row *row = &ERRORS[error];
    const char *message = *response->detail ? response->detail : row->text;
    response->status = row->status;
    response->type = JSON_TYPE;
    response->body.len = 0;
    response->fixed = (struct span){0};
    json_begin(&response->body);
    json_open(&response->body, "error", '{');
    json_text(&response->body, "code", row->code);
    json_text(&response->body, "message", message);
    if (response->named) named_write(&response->body, response->named);
    buffer_text(&response->body, "}}\n");
    if (row->status == 401) http_add_header(response, "WWW-Authenticate: Bearer\r\n");
    if (row->status == 503) http_add_header(response, "Retry-After: 5\r\n");
    if (error == ERROR_UPGRADE_REQUIRED)
        http_add_header(response, "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n");
}

enum {
    HTTP_HEAD_GUESS = 640,   /* bytes of the head of an answer, as a rule */
    HTTP_BODY_MOVED = 16384, /* a body of so many bytes is not copied behind the head */
};

/* Appends the head of an answer (RFC 9112 sections 4 and 5). What a page may do with it is said in
 * each of them: nosniff, no-store where nothing else is said, and CORS only for an origin of
 * --allow-origin. */
static void http_write_head(struct buffer *out, const struct http_response *response, size_t body,
                            bool keep_alive)
{
    time_t now = (time_t)(clock_wall_ms() / 1000);
    struct tm t;
    char date[40];
    strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &t));
    buffer_print(out, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: %s\r\n", response->status,
                 http_phrase(response->status), date,
                 keep_alive                ? "keep-alive"
                 : response->status == 426 ? "Upgrade, close" /* RFC 9110 section 7.8 */
                                           : "close");
    if (!response->cacheable) buffer_text(out, "Cache-Control: no-store\r\n");
    if (response->type)
        buffer_print(out, "Content-Type: %s\r\nX-Content-Type-Options: nosniff\r\n",
                     response->type);
    if (response->type && !response->is_stream) buffer_print(out, "Content-Length: %zu\r\n", body);
    if (response->location.len)
        buffer_print(out, "Location: %.*s\r\n", (int)response->location.len, response->location.at);
    if (response->varies) buffer_text(out, "Vary: Origin\r\n");
    if (response->allow_origin)
        buffer_print(out,
                     "Access-Control-Allow-Origin: %s\r\n"
                     "Access-Control-Allow-Credentials: true\r\n",
                     response->allow_origin);
    buffer_text(out, response->extra);
    buffer_text(out, "\r\n");
}

/* True if the buffer of a body becomes that of the whole answer; see http_write. */
static bool http_moves_body(const struct http_response *response)
{
    return !response->fixed.at && response->body.len >= HTTP_BODY_MOVED;
}

/* Appends the whole answer to out. A HEAD request gets the same without the body. A large body is
 * not copied: if nothing waits in out, the head is put before it and out takes its buffer, so that
 * a page of 1,000 users is not in memory twice. The response's body may be gone after this. */
static void http_write(struct buffer *out, struct http_response *response, bool keep_alive,
                       bool head_only)
{
    struct buffer *body = &response->body;
    struct span text = response->fixed;
    if (!text.at) text = (struct span){body->at, body->len};
    if (head_only || !response->type) text.len = 0;
    if (!out->len && text.len && http_moves_body(response)) {
        struct buffer head = {0};
        http_write_head(&head, response, body->len, keep_alive);
        body->at = mem_resize(body->at, body->len + head.len);
        memmove(body->at + head.len, body->at, body->len);
        memcpy(body->at, head.at, head.len);
        body->size = body->len += head.len;
        buffer_free(&head);
        buffer_free(out);
        *out = *body;
        *body = (struct buffer){0};
        return;
    }
    buffer_room(out, HTTP_HEAD_GUESS + text.len); /* once, not in steps */
    http_write_head(out, response, response->fixed.at ? response->fixed.len : body->len,
                    keep_alive);
    buffer_add(out, text.at, text.len);
}

/* ==== 28. Event loop ==========================================================================
 * How threads hand work to each other. A `job` is a piece of work that is part of what it is about,
 * so handing it over allocates nothing and cannot fail. It goes into the inbox of a loop, whose one
 * thread runs it between its events (the hub, the listener), or into a queue from which any of a
 * few threads takes it (handshakes, reads of the store, broadcast). What a job is about belongs to
 * whoever has the job: the sender touches it no more until it comes back. */

struct server;

/* Work for another thread, embedded in what it is about; container_of leads back. */
struct job {
    TAILQ_ENTRY(job) entry;                     /* of one list at a time */
    void (*run)(struct server *, struct job *); /* may free the job, or hand it on */
    bool waiting; /* in a job_queue, no thread has begun it; under the queue's lock */
};
TAILQ_HEAD(job_list, job);

/* [any] Starts a thread with a stack of THREAD_STACK; false with errno set. */
static bool thread_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, THREAD_STACK);
    int error = pthread_create(thread, &attr, run, argument);
    pthread_attr_destroy(&attr);
    errno = error;
    return !error;
}

/* [any] How many processors this process may run on. */
static size_t processor_count(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) ? 1 : (size_t)CPU_COUNT(&set);
}

/* Jobs, and the threads that run them in the order in which they came. Set by main before there
 * are threads: server, name, niceness, worth, threads, count; the rest is under the lock, which is
 * never held while a job runs. */
struct job_queue {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* for the threads: jobs, or the end */
    pthread_cond_t done; /* for job_queue_finish: nothing waits, nothing runs */
    struct job_list jobs;
    size_t waiting, running;
    bool quitting;
    size_t worth; /* jobs that wait before a thread is woken; more than 1 if who adds them helps */
    struct server *server;
    const char *name; /* of the threads, as ps(1) and top(1) show them */
    int niceness;
    pthread_t *threads;
    size_t count;
};

/* [main] Makes an empty queue without threads. */
static void job_queue_init(struct job_queue *queue, struct server *server, size_t worth)
{
    *queue = (struct job_queue){.server = server, .worth = worth};
    pthread_mutex_init(&queue->lock, NULL);
    pthread_cond_init(&queue->wake, NULL);
    pthread_cond_init(&queue->done, NULL);
    TAILQ_INIT(&queue->jobs);
}

/* [any] Adds a job behind the others. */
static void job_queue_add(struct job_queue *queue, struct job *job)
{
    lock_take(&queue->lock, RANK_JOBS);
    TAILQ_INSERT_TAIL(&queue->jobs, job, entry);
    job->waiting = true;
    if (++queue->waiting >= queue->worth) pthread_cond_signal(&queue->wake);
    lock_give(&queue->lock, RANK_JOBS);
}

/* [any; queue.lock] Takes a job out of the queue. */
static void job_queue_remove(struct job_queue *queue, struct job *job)
{
    ASSERT_HELD(JOBS);
    TAILQ_REMOVE(&queue->jobs, job, entry);
    job->waiting = false;
    queue->waiting--;
}

/* [any] Takes a job back that no thread has begun. False if one has: then it is that thread's, or
 * wherever it was handed on to. The job is one that was added and has not come back yet. */
static bool job_queue_cancel(struct job_queue *queue, struct job *job)
{
    lock_take(&queue->lock, RANK_JOBS);
    bool waiting = job->waiting;
    if (waiting) job_queue_remove(queue, job);
    lock_give(&queue->lock, RANK_JOBS);
    return waiting;
}

/* [any; queue.lock] Runs the first job without the lock, which is held again after. */
static void job_queue_run_first(struct job_queue *queue)
{
    struct job *job = TAILQ_FIRST(&queue->jobs);
    job_queue_remove(queue, job);
    queue->running++;
    lock_give(&queue->lock, RANK_JOBS);
    job->run(queue->server, job); /* from here on it may be anybody's */
    lock_take(&queue->lock, RANK_JOBS);
    if (!--queue->running && !queue->waiting) pthread_cond_signal(&queue->done);
}

/* [handshake, reader, io] A thread of the queue, until it is told to end and nothing waits any
 * more: whoever waits for a job always gets it back. */
static void *job_queue_thread(void *argument)
{
    thread_is(THREAD_JOB);
    struct job_queue *queue = argument;
    prctl(PR_SET_NAME, queue->name);
    if (queue->niceness) setpriority(PRIO_PROCESS, 0, queue->niceness); /* Linux: this thread's */
    lock_take(&queue->lock, RANK_JOBS);
    while (queue->waiting || !queue->quitting) {
        if (queue->waiting) job_queue_run_first(queue);
        else pthread_cond_wait(&queue->wake, &queue->lock);
    }
    lock_give(&queue->lock, RANK_JOBS);
    return NULL;
}

/* [main] Starts the queue's threads. False with errno set if one of them cannot be had; those that
 * run are still ended by job_queue_stop. */
static bool job_queue_start(struct job_queue *queue, const char *name, int niceness, size_t count)
{
    queue->name = name;
    queue->niceness = niceness;
    queue->threads = mem_new(count * sizeof *queue->threads);
    for (; queue->count < count; queue->count++)
        if (!thread_start(&queue->threads[queue->count], job_queue_thread, queue)) return false;
    return true;
}

/* [the only one who adds jobs] Runs jobs beside the threads until all that were added are done:
 * who waits for them works instead of sleeping, and a queue without threads works too. */
static void job_queue_finish(struct job_queue *queue)
{
    lock_take(&queue->lock, RANK_JOBS);
    while (queue->waiting) job_queue_run_first(queue);
    while (queue->running) pthread_cond_wait(&queue->done, &queue->lock);
    lock_give(&queue->lock, RANK_JOBS);
}

/* [main, once all who add jobs have ended] Ends the threads when they have done what waits. Also
 * for a queue that was never set up, or whose threads were not all to be had. */
static void job_queue_stop(struct job_queue *queue)
{
    if (!queue->threads) return;
    lock_take(&queue->lock, RANK_JOBS);
    queue->quitting = true;
    pthread_cond_broadcast(&queue->wake);
    lock_give(&queue->lock, RANK_JOBS);
    while (queue->count) pthread_join(queue->threads[--queue->count], NULL);
    free(queue->threads);
    queue->threads = NULL;
}

/* What an event of a loop is about. It stands in the low bits of epoll's data beside the address,
 * which is a multiple of 8: what a pointer leads to cannot be found out by comparing it with others
 * (C11 6.5.8p5 leaves that undefined). */
enum poll_tag { POLL_WAKE, POLL_LISTEN_SOCKET, POLL_CONNECTION, POLL_TAG_MASK = 3 };

static uint64_t poll_data(enum poll_tag tag, const void *about)
{
    assert(!((uintptr_t)about & POLL_TAG_MASK));
    return (uint64_t)(uintptr_t)about | tag;
}

static enum poll_tag poll_tag(const struct epoll_event *event)
{
    return (enum poll_tag)(event->data.u64 & POLL_TAG_MASK);
}

static void *poll_about(const struct epoll_event *event)
{
    return (void *)(uintptr_t)(event->data.u64 & ~(uint64_t)POLL_TAG_MASK);
}

/* An epoll set with an inbox. */
struct loop {
    int epoll;
    int wake;             /* eventfd in the epoll set, tagged POLL_WAKE */
    pthread_mutex_t lock; /* inbox, signalled */
    struct job_list inbox;
    bool signalled;        /* a wake-up is on its way since the inbox was taken */
    struct job_list taken; /* the loop's own: out of the inbox, not run yet */
};

/* [main] Makes an empty loop; false with errno set.
 *
 * The three modes of epoll, and why. The eventfd is edge-triggered: each write wakes the loop once
 * and nobody spends a read(2) on it. The hub's sockets are level-triggered: it reads a bounded
 * piece of each a turn, and epoll brings the rest again without any bookkeeping. The listener's are
 * oneshot: after an event the socket may go to a worker, and must be silent until whoever has it
 * then asks for the next event (http_conn_poll); that is also the moment the listener owns it. */
static bool loop_init(struct loop *loop)
{
    *loop = (struct loop){.epoll = epoll_create1(EPOLL_CLOEXEC),
                          .wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    TAILQ_INIT(&loop->inbox);
    TAILQ_INIT(&loop->taken);
    pthread_mutex_init(&loop->lock, NULL);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET,
                                .data.u64 = poll_data(POLL_WAKE, loop)};
    return loop->epoll >= 0 && loop->wake >= 0 &&
           !epoll_ctl(loop->epoll, EPOLL_CTL_ADD, loop->wake, &event);
}

static void loop_close(struct loop *loop)
{
    if (loop->epoll >= 0) close(loop->epoll);
    if (loop->wake >= 0) close(loop->wake);
    pthread_mutex_destroy(&loop->lock);
}

/* [any] Adds or changes what a descriptor is watched for; false with errno set. data is
 * poll_data's. */
static bool loop_poll(struct loop *loop, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return !epoll_ctl(loop->epoll, operation, fd, &event);
}

/* [any] Wakes the loop. The write fails only where 2^64 wake-ups wait. */
static void loop_wake(struct loop *loop)
{
    uint64_t one = 1;
    if (write(loop->wake, &one, sizeof one) != sizeof one) fatal("an eventfd takes no wake-up");
}

/* [any] Adds a job to the inbox and wakes the loop. The first since the inbox was taken writes to
 * the eventfd; those behind it cost no system call. */
static void loop_submit(struct loop *loop, struct job *job)
{
    lock_take(&loop->lock, RANK_LOOP);
    TAILQ_INSERT_TAIL(&loop->inbox, job, entry);
    bool wake = !loop->signalled;
    loop->signalled = true;
    lock_give(&loop->lock, RANK_LOOP);
    if (wake) loop_wake(loop);
}

/* [any] Adds a job to the inbox and has a descriptor watched, without waking the loop: it runs the
 * job when it next wakes. Both are done under the lock, and a loop takes its inbox before it acts
 * on events: so the job always runs before the descriptor's first event, which may free what the
 * job is part of. False with errno set when the descriptor cannot be watched; the job is in the
 * inbox all the same. */
static bool loop_park(struct loop *loop, struct job *job, int operation, int fd, uint32_t events,
                      uint64_t data)
{
    lock_take(&loop->lock, RANK_LOOP);
    TAILQ_INSERT_TAIL(&loop->inbox, job, entry);
    bool polled = loop_poll(loop, operation, fd, events, data);
    lock_give(&loop->lock, RANK_LOOP);
    return polled;
}

/* [the loop's thread] Takes what is in the inbox, behind what was taken before. */
static void loop_take_jobs(struct loop *loop)
{
    lock_take(&loop->lock, RANK_LOOP);
    TAILQ_CONCAT(&loop->taken, &loop->inbox, entry);
    loop->signalled = false;
    lock_give(&loop->lock, RANK_LOOP);
}

/* [the loop's thread] Runs the next job that was taken. */
static void loop_run_job(struct loop *loop, struct server *server)
{
    struct job *job = TAILQ_FIRST(&loop->taken);
    TAILQ_REMOVE(&loop->taken, job, entry); /* before it runs: it may free itself, or come again */
    job->run(server, job);
}

/* [the loop's thread] Runs what is in the inbox. */
static void loop_run_jobs(struct loop *loop, struct server *server)
{
    loop_take_jobs(loop);
    while (!TAILQ_EMPTY(&loop->taken)) loop_run_job(loop, server);
}

/* [the loop's thread] The same, also what comes meanwhile, but at least one job and no more than
 * fit until then by clock_work_us. The rest stays in `taken`, and a loop that has some must not
 * sleep: they were signalled already, so no wake-up comes for them. */
static void loop_run_jobs_until(struct loop *loop, struct server *server, int64_t until)
{
    for (bool over = false; !over;) {
        if (TAILQ_EMPTY(&loop->taken)) loop_take_jobs(loop);
        if (TAILQ_EMPTY(&loop->taken)) return;
        loop_run_job(loop, server);
        over = clock_work_us() >= until;
    }
    if (TAILQ_EMPTY(&loop->taken)) loop_take_jobs(loop);
}

/* [the loop's thread] Waits for events, at most wait_ms (-1: for ever); 0 when interrupted. */
static int loop_wait(struct loop *loop, struct epoll_event *events, int max, int64_t wait_ms)
{
    int n = epoll_wait(loop->epoll, events, max, wait_ms > INT_MAX ? INT_MAX : (int)wait_ms);
    if (n < 0 && errno != EINTR) fatal("epoll_wait");
    return n < 0 ? 0 : n;
}

/* ==== 29. TLS: connections ====================================================================
 * What one connection has of TLS (RFC 8446, RFC 5246). Mbed TLS does the work, on bytes that are in
 * memory already: nothing here waits or touches a socket. A connection keeps no record buffers; the
 * thread that works on it attaches a pair of its own, see vendor/mbedtls_seam.h, so an idle user
 * costs 3 KB and not 36.
 *
 * Who may touch a struct tls: whoever has its connection, one thread at a time, and no lock guards
 * it. It changes hands through queues, which order memory:
 *
 * - [listener] reads bytes of the handshake into `in`, looks at them with tls_hello_look and
 *   queues the connection. From then on it leaves all of it alone, also on a timeout: it only says
 *   that nobody wants the result.
 * - [handshake] sets the context up, takes the handshake as far as the whole records in
 *   `in` bring it, writes what there is to say to the socket, and queues the connection back.
 * - [listener] again: waits for more, or reads the request once the handshake is done. With a
 *   request the connection goes to a CivetWeb worker and comes back with the answer, or goes to
 *   the hub with an upgrade, which has it until its end.
 *
 * What they share is struct tls_shared: the certificates in use, under its lock; the keys of
 * tickets, under a lock of Mbed TLS's; and of each certificate the chain, which only is read. */

enum {
    TLS_HEAD = 5,                  /* bytes before a record's content: type, version, length */
    TLS_CONTENT_MAX = 16384 + 256, /* of a record, enciphered (RFC 8446 section 5.2) */
    TLS_CHUNK = 16 * 1024,         /* enciphered at a time, before the socket is asked */
    TLS_TICKET_SECONDS = 86400,    /* a session can be resumed this long */
    TLS_SELF_DAYS = 397,           /* life of a certificate of our own */
    TLS_RENEW_DAYS = 30,           /* before its end a new one is made */
};

/* A certificate with its chain, and its key.
 *
 * Mbed TLS holds a mutex of an RSA key for the whole private operation, as it changes the blinding
 * values in it: with one key all handshake workers together sign no faster than one of them. So an
 * RSA key is there once for each of them, see tls_offer: on two processors 590 to 600 handshakes a
 * second in place of 390 to 420. An EC key has nothing that changes, and is there once. */
struct tls_pair {
    mbedtls_x509_crt chain;
    mbedtls_pk_context *keys; /* one, or for RSA one for each handshake worker */
    size_t key_count;
    char *file; /* where the certificate was read */
};

/* Certificates in use. Never changed once made: a reload makes another, and this one is freed by
 * the last connection that was made with it. Each of them holds a reference, as Mbed TLS keeps
 * pointers into it. */
struct tls_config {
    _Atomic int refs;
    mbedtls_ssl_config ssl;
    struct tls_shared *shared;
    struct tls_pair *pairs;
    size_t count;
};

/* What all TLS connections share. `lock` guards `config` and is held for as long as it takes to
 * copy the pointer and count a reference; nothing is taken or called under it. Taken by handshake
 * workers, by main on a reload, by workers for /metrics and /admin/stats. */
struct tls_shared {
    pthread_mutex_t lock;               /* config */
    struct tls_config *config;          /* NULL: there is no TLS */
    mbedtls_ssl_ticket_context tickets; /* its keys change by themselves; has a lock of its own */
    size_t signers;                     /* handshake workers: keys of an RSA certificate */
    _Atomic size_t signer;              /* the number that the next thread which signs gets */
    struct counters *counters;
};

/* The buffers of one thread, 34 KB, made when it first works on a TLS connection and freed when it
 * ends. Between a tls_attach and its tls_detach they belong to one connection. */
struct tls_buffers {
    struct seam_tls_buffers seam; /* must be first, see tls_send */
    struct buffer output;         /* records to send */
    size_t signer; /* which of the keys this thread signs with, from 1; 0: not yet said */
};

/* One connection. Idle it has no buffer at all: `in` and `out` are freed whenever they are empty.
 */
struct tls {
    mbedtls_ssl_context ssl;
    struct seam_tls_idle idle;
    struct tls_config *config;
    struct buffer in;   /* the beginning of a record that has not come whole yet */
    struct buffer out;  /* records that the socket did not take yet */
    bool set_up, open;  /* the context exists; the handshake is done */
    bool ended, broken; /* by close_notify; by an error, and told so by an alert */
};

/* What stands at the front of the bytes that a peer sent. */
struct tls_records {
    size_t whole;  /* bytes that are whole records */
    uint8_t alert; /* what follows them can be no record, for this reason; 0: it may become one */
};

/* How far a first handshake message has been looked at. Zeroed for a new connection. It makes sure
 * that each byte is looked at once, however small the pieces are in which they come: a client that
 * sends a byte at a time costs no more than its system calls. */
struct tls_hello {
    size_t scanned;  /* bytes of whole records that were looked at */
    size_t got;      /* bytes of the message in them */
    uint8_t head[4]; /* its type and length */
};

static int tls_random(void *unused, unsigned char *out, size_t n)
{
    (void)unused;
    random_bytes(out, n);
    return 0;
}

/* Mbed TLS has bytes to send. They are collected and written after the call, so that a handshake's
 * answer is one segment, and no call into Mbed TLS ends half way because a socket is full. */
static void tls_send(struct seam_tls_buffers *seam, const unsigned char *at, size_t len)
{
    buffer_add(&((struct tls_buffers *)seam)->output, at, len);
}

/* A thread ends: clears its buffers, which had plain text and keys in them, and frees them. */
static void tls_buffers_free(void *context)
{
    struct tls_buffers *buffers = context;
    buffer_free(&buffers->output);
    mbedtls_platform_zeroize(buffers, sizeof *buffers);
    free(buffers);
}

static pthread_key_t tls_buffers_key;
static pthread_once_t tls_buffers_once = PTHREAD_ONCE_INIT;

static void tls_make_key(void)
{
    if (pthread_key_create(&tls_buffers_key, tls_buffers_free))
        fatal("no thread-specific key is left");
}

/* The buffers of this thread; made on first use. Through pthread_getspecific, for its destructor
 * frees them with any thread, CivetWeb's among them. */
static struct tls_buffers *tls_buffers_get(void)
{
    pthread_once(&tls_buffers_once, tls_make_key);
    struct tls_buffers *buffers = pthread_getspecific(tls_buffers_key);
    if (!buffers) {
        buffers = mem_new(sizeof *buffers);
        buffers->seam.send = tls_send;
        if (pthread_setspecific(tls_buffers_key, buffers)) mem_die();
    }
    return buffers;
}

/* Attaches the buffers of this thread to a connection, with whole records that it may read. Every
 * tls_attach has its tls_detach in the same function: a thread has one pair. */
static struct tls_buffers *tls_attach(struct tls *tls, struct span input)
{
    struct tls_buffers *buffers = tls_buffers_get();
    buffers->seam.input = input.at;
    buffers->seam.input_len = input.len;
    seam_tls_attach(&tls->ssl, &tls->idle, &buffers->seam);
    return buffers;
}

/* Ends what tls_attach began; what is in the output is still to be sent. The seam says that there
 * is no memory only when malloc did, never for what a peer sent. */
static void tls_detach(struct tls *tls)
{
    if (seam_tls_detach(&tls->ssl, &tls->idle) == SEAM_TLS_NO_MEMORY) mem_die();
}

/* The alert for bytes that cannot be the head of a record (RFC 8446 section 5.1); 0: they can. The
 * version is looked at by its first byte only, as the RFC asks for a record. */
static uint8_t tls_head_alert(const unsigned char head[TLS_HEAD])
{
    size_t content = (size_t)head[3] << 8 | head[4];
    if (head[0] < 20 || head[0] > 23) return MBEDTLS_SSL_ALERT_MSG_UNEXPECTED_MESSAGE;
    if (head[1] != 3) return MBEDTLS_SSL_ALERT_MSG_PROTOCOL_VERSION;
    return content > TLS_CONTENT_MAX ? MBEDTLS_SSL_ALERT_MSG_RECORD_OVERFLOW : 0;
}

/* [owner] Looks how many bytes at the front are whole records. Only these are given to Mbed TLS,
 * which then never asks for bytes that are not there yet. */
static struct tls_records tls_whole_records(const char *at, size_t len)
{
    struct tls_records found = {0};
    while (len - found.whole >= TLS_HEAD) {
        const unsigned char *head = (const unsigned char *)at + found.whole;
        size_t content = (size_t)head[3] << 8 | head[4];
        found.alert = tls_head_alert(head);
        /* An alert is for what is behind the whole records: these are acted on first. */
        if (found.alert || len - found.whole < TLS_HEAD + content) break;
        found.whole += TLS_HEAD + content;
    }
    return found;
}

/* [listener] True if the records at the front hold the first handshake message, as far as it is
 * worth waiting for: whole, or so much of it that a handshake worker is to take it, or something
 * that Mbed TLS is to refuse. Until then a client has neither a context nor a worker's time:
 * whoever opens a connection and sends half a hello costs its bytes, HELD_MAX at most.
 *
 * A message may come in several records (RFC 8446 section 5.1), so its head, type and length, is
 * put together in hello->head; `got` counts what came of the message, `scanned` the bytes of whole
 * records. A record that is no handshake, or an empty one, is for Mbed TLS to refuse. */
static bool tls_hello_ready(struct tls_hello *hello, const struct buffer *in)
{
    enum { HANDSHAKE = 22, MESSAGE_MAX = 16384, HELD_MAX = 8192 /* without a handshake worker */ };
    const uint8_t *head = hello->head;
    while (in->len - hello->scanned >= TLS_HEAD) {
        const uint8_t *at = (const uint8_t *)in->at + hello->scanned;
        size_t len = (size_t)at[3] << 8 | at[4];
        if (tls_head_alert(at) || in->len - hello->scanned < TLS_HEAD + len) break;
        if (at[0] != HANDSHAKE || !len) return true;
        for (size_t i = 0; i < len && hello->got + i < sizeof hello->head; i++)
            hello->head[hello->got + i] = at[TLS_HEAD + i];
        hello->got += len;
        hello->scanned += TLS_HEAD + len;
        /* RFC 8446 section 4: one byte of type, three of length. */
        size_t need = (size_t)head[1] << 16 | (size_t)head[2] << 8 | head[3];
        if (hello->got >= sizeof hello->head &&
            (hello->got - sizeof hello->head >= need || need > MESSAGE_MAX))
            return true;
    }
    return hello->scanned > HELD_MAX;
}

/* What is to be done with the beginning of a handshake message. */
enum hello_step { HELLO_WAIT, HELLO_HANDSHAKE, HELLO_REFUSE };

/* [listener] Looks at what has come of a handshake: HELLO_HANDSHAKE when a handshake worker is to
 * go on with it; HELLO_REFUSE, with the alert to send, when it is no TLS and there is no context
 * yet that could say so; HELLO_WAIT when more must come. */
static enum hello_step tls_hello_look(const struct tls *tls, struct tls_hello *hello,
                                      uint8_t *alert)
{
    bool ready = tls->set_up || tls_hello_ready(hello, &tls->in);
    /* Whole records of a first message are in front until it is whole; behind them comes what is
     * new. */
    size_t known = tls->set_up ? 0 : hello->scanned;
    struct tls_records next = {0};
    if (tls->in.len) next = tls_whole_records(tls->in.at + known, tls->in.len - known);
    *alert = next.alert;
    if (next.alert && !next.whole && !tls->set_up) return HELLO_REFUSE;
    return ready && (known || next.whole || next.alert) ? HELLO_HANDSHAKE : HELLO_WAIT;
}

/* ==== 30. TLS: certificates ===================================================================
 * Which certificate a client gets; tickets; reading certificates and trying them before they are
 * used; making one of our own. Runs on main at the start and on a reload, on handshake workers for
 * tls_choose and tickets. It promises that a certificate which no client could use is never put in
 * the place of one that works, and that a reload disturbs no connection. */

/* True if a DNS name of a certificate is for a host name. A leading `*.` stands for exactly one
 * label (RFC 9525 section 6.3): *.example.com is not for example.com, nor for a.b.example.com. Case
 * does not count. */
static bool tls_name_matches(struct span pattern, struct span host)
{
    if (pattern.len > 2 && !memcmp(pattern.at, "*.", 2)) {
        const char *dot = memchr(host.at, '.', host.len);
        if (!dot || dot == host.at) return false;
        host.len -= (size_t)(dot + 1 - host.at);
        host.at = dot + 1;
        pattern = (struct span){pattern.at + 2, pattern.len - 2};
    }
    return pattern.len == host.len && !strncasecmp(pattern.at, host.at, host.len);
}

/* True if a certificate is for this host name, by its subjectAltName; the common name is not looked
 * at, as no browser does any more. */
static bool tls_pair_is_for(const struct tls_pair *pair, struct span host)
{
    enum { TAG = 0x1f, DNS_NAME = 2 }; /* RFC 5280 section 4.2.1.6 */
    const mbedtls_x509_sequence *name = &pair->chain.subject_alt_names;
    for (; name && name->buf.p; name = name->next) {
        struct span pattern = {(const char *)name->buf.p, name->buf.len};
        if ((name->buf.tag & TAG) == DNS_NAME && tls_name_matches(pattern, host)) return true;
    }
    return false;
}

/* [handshake] Offers a certificate to the handshake, with the key that is this thread's: two
 * threads never wait for each other to sign. A thread gets its number when it first offers. Should
 * there be more threads than keys, two have one, and Mbed TLS's mutex in it keeps them apart. 0, or
 * Mbed TLS's error: no memory. */
static int tls_offer(mbedtls_ssl_context *ssl, struct tls_shared *shared, struct tls_pair *pair)
{
    struct tls_buffers *buffers = tls_buffers_get();
    if (!buffers->signer) buffers->signer = 1 + atomic_fetch_add(&shared->signer, 1);
    size_t key = (buffers->signer - 1) % pair->key_count;
    return mbedtls_ssl_set_hs_own_cert(ssl, &pair->chain, &pair->keys[key]);
}

/* [handshake] Mbed TLS has read a ClientHello and asks for certificates. It gets all that
 * fit the name which the client wants (RFC 6066 section 3) and takes the first whose kind of key
 * the client knows. If none of ours fits, it gets the first one and others for its first name, so
 * that a client by address or without SNI still has the choice between RSA and ECDSA; whether to go
 * on with a name that is not its own is for the client to say.
 *
 * mbedtls_ssl_conf_cert_cb and not conf_sni: the latter is called only for a client that sends a
 * name, and keys of the configuration, which all threads share, would be used for the others. The
 * callback has no context: `own` is a member of the tls_config that tls_config_make made. After a
 * HelloRetryRequest it is called again and appends again, which does no harm. */
static int tls_choose(mbedtls_ssl_context *ssl)
{
    const mbedtls_ssl_config *own = mbedtls_ssl_context_get_config(ssl);
    const struct tls_config *config =
        (const void *)((const char *)own - offsetof(struct tls_config, ssl));
    struct span host;
    host.at = (const char *)mbedtls_ssl_get_hs_sni(ssl, &host.len);
    size_t offered = 0;
    int error = 0;
    for (size_t i = 0; host.at && !error && i < config->count; i++) {
        if (!tls_pair_is_for(&config->pairs[i], host)) continue;
        error = tls_offer(ssl, config->shared, &config->pairs[i]);
        offered++;
    }
    if (offered || error) return error;
    const mbedtls_x509_buf *name = &config->pairs[0].chain.subject_alt_names.buf;
    host = (struct span){(const char *)name->p, name->len};
    for (size_t i = 0; !error && i < config->count; i++)
        if (!i || (host.at && tls_pair_is_for(&config->pairs[i], host)))
            error = tls_offer(ssl, config->shared, &config->pairs[i]);
    return error;
}

/* [handshake] Reads a ticket that a client offers, and notes what it holds, see
 * seam_tls_ticket_is. */
static int tls_parse_ticket(void *context, mbedtls_ssl_session *session, unsigned char *at,
                            size_t len)
{
    struct tls_shared *shared = context;
    int error = mbedtls_ssl_ticket_parse(&shared->tickets, session, at, len);
    if (!error) seam_tls_ticket_is(&tls_buffers_get()->seam, session);
    return error;
}

/* [handshake] Makes a ticket. Its keys are in memory only and change by themselves: after a
 * restart each client makes one full handshake. */
static int tls_write_ticket(void *context, const mbedtls_ssl_session *session, unsigned char *at,
                            const unsigned char *end, size_t *len, uint32_t *lifetime)
{
    struct tls_shared *shared = context;
    return mbedtls_ssl_ticket_write(&shared->tickets, session, at, end, len, lifetime);
}

/* Writes the reason for a file that Mbed TLS did not take. Returns false. */
static bool tls_file_problem(const char *option, const char *path, int error, const char *remedy,
                             struct why why)
{
    char text[128];
    mbedtls_strerror(error, text, sizeof text);
    return fail(why, "--%s: %.200s: %s; %s", option, path, text, remedy);
}

/* True if it is a regular file that can be read; false with the reason in why. Mbed TLS would say
 * of all of these only that it cannot open it, and would wait for a pipe. */
static bool tls_file_readable(const char *option, const char *path, struct why why)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat info;
    bool good = fd >= 0 && !fstat(fd, &info) && S_ISREG(info.st_mode);
    if (!good)
        fail(why, "--%s: cannot read %.200s: %s; name a readable PEM file", option, path,
             fd < 0 ? strerror(errno) : "it is no file");
    if (fd >= 0) close(fd);
    return good;
}

/* [main] Reads a certificate with its key, and checks that they belong together. False with the
 * reason in why; the pair is to be freed with tls_pair_free in any case. A chain of which a part is
 * not understood is refused whole: clients would miss a link that the operator believes to be
 * there. */
static bool tls_pair_read(struct tls_pair *pair, const char *cert, const char *key, struct why why)
{
    static const char option[] = "tls-cert";
    const char *key_option = cert == key ? option : "tls-key";
    mbedtls_x509_crt_init(&pair->chain);
    pair->keys = mem_new(sizeof *pair->keys);
    pair->key_count = 1;
    mbedtls_pk_init(pair->keys);
    pair->file = mem_copy_text(cert, strlen(cert));
    if (!tls_file_readable(option, cert, why)) return false;
    if (!tls_file_readable(key_option, key, why)) return false;
    int error = mbedtls_x509_crt_parse_file(&pair->chain, cert);
    if (error)
        return tls_file_problem(option, cert, error > 0 ? MBEDTLS_ERR_X509_INVALID_FORMAT : error,
                                "name a PEM file with the whole chain, your certificate first",
                                why);
    error = mbedtls_pk_parse_keyfile(pair->keys, key, NULL, tls_random, NULL);
    if (error)
        return tls_file_problem(key_option, key, error,
                                "name a PEM file with an unencrypted RSA or ECDSA key", why);
    if (mbedtls_pk_check_pair(&pair->chain.pk, pair->keys, tls_random, NULL))
        return fail(why, "--%s: %.200s is not the key of %.200s; name the one that is", key_option,
                    key, cert);
    return true;
}

/* [main] Makes as many keys of an RSA key as threads sign with it; an EC key is left as it is. 0,
 * or Mbed TLS's error. Called once, before the pair is used: afterwards threads hold pointers to
 * the keys. The copies are some 2 KB each, with 64 threads 128 KB a certificate. */
static int tls_pair_copy_key(struct tls_pair *pair, size_t count)
{
    if (mbedtls_pk_get_type(pair->keys) != MBEDTLS_PK_RSA || count < 2) return 0;
    const mbedtls_pk_info_t *rsa = mbedtls_pk_info_from_type(MBEDTLS_PK_RSA);
    pair->keys = mem_resize(pair->keys, count * sizeof *pair->keys);
    int error = 0;
    while (!error && pair->key_count < count) {
        mbedtls_pk_context *copy = &pair->keys[pair->key_count++];
        mbedtls_pk_init(copy);
        error = mbedtls_pk_setup(copy, rsa);
        if (!error) error = mbedtls_rsa_copy(mbedtls_pk_rsa(*copy), mbedtls_pk_rsa(*pair->keys));
    }
    return error;
}

static void tls_pair_free(struct tls_pair *pair)
{
    mbedtls_x509_crt_free(&pair->chain);
    for (size_t i = 0; i < pair->key_count; i++) mbedtls_pk_free(&pair->keys[i]);
    free(pair->keys);
    free(pair->file);
}

/* True if a certificate has expired, or is not valid yet. Most clients refuse it then; but the
 * clock may be what is wrong: a machine without a battery knows the time only after its start. So
 * it is never a reason not to start, only not to replace a good one. */
static bool tls_pair_untimely(const struct tls_pair *pair)
{
    return mbedtls_x509_time_is_past(&pair->chain.valid_to) ||
           mbedtls_x509_time_is_future(&pair->chain.valid_from);
}

/* Writes the sentence about a certificate outside its time. */
static void tls_pair_untimely_text(const struct tls_pair *pair, struct why why)
{
    bool past = mbedtls_x509_time_is_past(&pair->chain.valid_to);
    const mbedtls_x509_time *t = past ? &pair->chain.valid_to : &pair->chain.valid_from;
    fail(why, "--tls-cert: %.200s %s %04d-%02d-%02d; %s", pair->file,
         past ? "expired on" : "becomes valid on", t->year, t->mon, t->day,
         past ? "renew it" : "wait, or set the clock");
}

/* One end of a handshake that is tried in memory. */
struct tls_trial {
    mbedtls_ssl_context ssl;
    mbedtls_ssl_config config;
    struct buffer in;
    struct tls_trial *peer;
};

static int tls_trial_send(void *context, const unsigned char *at, size_t len)
{
    struct tls_trial *end = context;
    buffer_add(&end->peer->in, at, len);
    return (int)len;
}

static int tls_trial_receive(void *context, unsigned char *out, size_t size)
{
    struct tls_trial *end = context;
    size_t n = end->in.len < size ? end->in.len : size;
    if (!n) return MBEDTLS_ERR_SSL_WANT_READ;
    memcpy(out, end->in.at, n);
    buffer_drop(&end->in, n);
    return (int)n;
}

/* [main] What client and server agree on in any case, and the trial, too; 0, or Mbed TLS's error.
 * TLS 1.2 and 1.3; X25519 first, which browsers prefer and vendor/mbedtls_curve.c makes fast. The
 * suites are in vendor/mbedtls_config.h. */
static int tls_config_base(mbedtls_ssl_config *ssl, int endpoint)
{
    static const uint16_t groups[] = {
        MBEDTLS_SSL_IANA_TLS_GROUP_X25519,
        MBEDTLS_SSL_IANA_TLS_GROUP_SECP256R1,
        MBEDTLS_SSL_IANA_TLS_GROUP_SECP384R1,
        MBEDTLS_SSL_IANA_TLS_GROUP_NONE,
    };
    int error = mbedtls_ssl_config_defaults(ssl, endpoint, MBEDTLS_SSL_TRANSPORT_STREAM,
                                            MBEDTLS_SSL_PRESET_DEFAULT);
    mbedtls_ssl_conf_rng(ssl, tls_random, NULL);
    mbedtls_ssl_conf_min_tls_version(ssl, MBEDTLS_SSL_VERSION_TLS1_2);
    mbedtls_ssl_conf_groups(ssl, groups);
    return error;
}

/* Sets one end up; 0, or Mbed TLS's error. The client end does not verify: whether a CA is trusted
 * is not what is tried. */
static int tls_trial_init(struct tls_trial *end, struct tls_trial *peer, int endpoint)
{
    mbedtls_ssl_init(&end->ssl);
    mbedtls_ssl_config_init(&end->config);
    end->peer = peer;
    int error = tls_config_base(&end->config, endpoint);
    mbedtls_ssl_conf_authmode(&end->config, MBEDTLS_SSL_VERIFY_NONE);
    mbedtls_ssl_set_bio(&end->ssl, end, tls_trial_send, tls_trial_receive, NULL);
    return error;
}

static void tls_trial_free(struct tls_trial *end)
{
    mbedtls_ssl_free(&end->ssl);
    mbedtls_ssl_config_free(&end->config);
    buffer_free(&end->in);
}

/* [main] Shakes hands with oneself, in memory: 0 if a client of this version gets a connection with
 * the pair, or Mbed TLS's error. It finds what no look at the file does: a chain that is too long
 * for a message, a certificate that is for something else, a kind of key that has no cipher suite.
 */
static int tls_pair_try(struct tls_pair *pair, mbedtls_ssl_protocol_version version)
{
    enum { TURNS = 8 /* more than any handshake takes */ };
    struct tls_trial client = {0}, server = {0};
    int error = tls_trial_init(&client, &server, MBEDTLS_SSL_IS_CLIENT);
    int other = tls_trial_init(&server, &client, MBEDTLS_SSL_IS_SERVER);
    mbedtls_ssl_conf_max_tls_version(&client.config, version);
    mbedtls_ssl_conf_min_tls_version(&client.config, version);
    if (!other) other = mbedtls_ssl_conf_own_cert(&server.config, &pair->chain, pair->keys);
    if (!error) error = other;
    if (!error) error = mbedtls_ssl_setup(&client.ssl, &client.config);
    if (!error) error = mbedtls_ssl_setup(&server.ssl, &server.config);
    if (!error) error = mbedtls_ssl_set_hostname(&client.ssl, NULL);
    /* Both ends take turns until neither waits for the other. */
    int ours = error ? error : MBEDTLS_ERR_SSL_WANT_READ, theirs = ours;
    for (int i = 0; i < TURNS && (ours || theirs); i++) {
        if (theirs == MBEDTLS_ERR_SSL_WANT_READ) theirs = mbedtls_ssl_handshake(&client.ssl);
        if (ours == MBEDTLS_ERR_SSL_WANT_READ) ours = mbedtls_ssl_handshake(&server.ssl);
    }
    tls_trial_free(&client);
    tls_trial_free(&server);
    return ours ? ours : theirs;
}

/* [main] True if a handshake of each version works with a pair; false with the reason in why, the
 * likely cause if one of those known holds. A client of one version only would otherwise be the
 * first to find out. */
static bool tls_pair_works(struct tls_pair *pair, struct why why)
{
    static const char auth[] = MBEDTLS_OID_SERVER_AUTH;
    enum { MESSAGE_MAX = 16384, AROUND = 5 /* bytes for each certificate of a message */ };
    mbedtls_x509_crt *chain = &pair->chain;
    int error = tls_pair_try(pair, MBEDTLS_SSL_VERSION_TLS1_3);
    const char *version = error ? "1.3" : "1.2";
    if (!error) error = tls_pair_try(pair, MBEDTLS_SSL_VERSION_TLS1_2);
    if (!error) return true;
    /* It does not. Mbed TLS's error says little, so the usual causes are looked for. */
    size_t len = 0;
    for (const mbedtls_x509_crt *c = chain; c; c = c->next) len += c->raw.len + AROUND;
    if (mbedtls_x509_crt_check_key_usage(chain, MBEDTLS_X509_KU_DIGITAL_SIGNATURE))
        return fail(why,
                    "--tls-cert: %.200s is not for signatures (keyUsage); have one"
                    " issued with digitalSignature",
                    pair->file);
    if (mbedtls_x509_crt_check_extended_key_usage(chain, auth, sizeof auth - 1))
        return fail(why,
                    "--tls-cert: %.200s is not for servers (extendedKeyUsage); have"
                    " one issued with serverAuth",
                    pair->file);
    if (len + AROUND > MESSAGE_MAX)
        return fail(why,
                    "--tls-cert: the chain in %.200s has %zu bytes, and a handshake"
                    " room for %d; leave out the root and what no client needs",
                    pair->file, len, MESSAGE_MAX);
    return fail(why,
                "--tls-cert: no handshake of TLS %s works with %.200s (-0x%04x);"
                " make another",
                version, pair->file, (unsigned)-error);
}

/* [any] Gives a reference back; the last to do so frees the certificates. NULL is fine. The order
 * of the decrement is the default, sequentially consistent one: what others did with the config is
 * before its end. */
static void tls_config_drop(struct tls_config *config)
{
    if (!config || atomic_fetch_sub(&config->refs, 1) > 1) return;
    mbedtls_ssl_config_free(&config->ssl);
    for (size_t i = 0; i < config->count; i++) tls_pair_free(&config->pairs[i]);
    free(config->pairs);
    free(config);
}

/* Sets what Mbed TLS is to do for new connections; 0, or its error. */
static int tls_config_set(struct tls_config *config)
{
    static const char *alpn[] = {"http/1.1", NULL};
    mbedtls_ssl_config *ssl = &config->ssl;
    int error = tls_config_base(ssl, MBEDTLS_SSL_IS_SERVER);
    mbedtls_ssl_conf_cert_cb(ssl, tls_choose);
    mbedtls_ssl_conf_session_tickets_cb(ssl, tls_write_ticket, tls_parse_ticket, config->shared);
    return error ? error : mbedtls_ssl_conf_alpn_protocols(ssl, alpn);
}

/* [main] A configuration of these certificates with one reference, to be given back with
 * tls_config_drop; NULL with the reason in why. Without keys each certificate's file has its key.
 * Every pair is read and tried before anything is used, so that a reload is all or nothing. */
static struct tls_config *tls_config_make(struct tls_shared *shared, char *const *certs,
                                          size_t count, char *const *keys, size_t key_count,
                                          struct why why)
{
    struct tls_config *config = mem_new(sizeof *config);
    config->refs = 1;
    config->shared = shared;
    config->pairs = mem_new(count * sizeof *config->pairs);
    mbedtls_ssl_config_init(&config->ssl);
    /* count is raised before a pair is read: tls_config_drop frees one that was read in part, too.
     */
    bool good = true;
    while (good && config->count < count) {
        size_t i = config->count++;
        good = tls_pair_read(&config->pairs[i], certs[i], key_count ? keys[i] : certs[i], why) &&
               tls_pair_works(&config->pairs[i], why);
    }
    int error = good ? tls_config_set(config) : 0;
    for (size_t i = 0; good && !error && i < config->count; i++)
        error = tls_pair_copy_key(&config->pairs[i], shared->signers);
    if (error) good = tls_file_problem("tls-cert", certs[0], error, "make another", why);
    if (good) return config;
    tls_config_drop(config);
    return NULL;
}

/* How many of the certificates are outside their time; *first is one of them. NULL has none. */
static size_t tls_config_untimely(const struct tls_config *config, const struct tls_pair **first)
{
    size_t count = 0;
    for (size_t i = 0; config && i < config->count; i++) {
        if (!tls_pair_untimely(&config->pairs[i])) continue;
        *first = &config->pairs[i];
        count++;
    }
    return count;
}

/* [main; tls.lock] Makes `config` the one for new connections, and gives the old one's
 * reference back: connections that were made with it keep it until their end. */
static void tls_config_use(struct tls_shared *shared, struct tls_config *config)
{
    lock_take(&shared->lock, RANK_TLS);
    struct tls_config *old = shared->config;
    shared->config = config;
    lock_give(&shared->lock, RANK_TLS);
    tls_config_drop(old);
}

/* [any; tls.lock] The current configuration, to be given back with tls_config_drop. The
 * reference is counted under the lock, or main could free it in between. */
static struct tls_config *tls_config_take(struct tls_shared *shared)
{
    lock_take(&shared->lock, RANK_TLS);
    struct tls_config *config = shared->config;
    atomic_fetch_add(&config->refs, 1);
    lock_give(&shared->lock, RANK_TLS);
    return config;
}

/* [any; tls.lock] How many certificates in use are outside their time; 0 without TLS. */
static size_t tls_untimely(struct tls_shared *shared)
{
    const struct tls_pair *first;
    lock_take(&shared->lock, RANK_TLS);
    size_t count = tls_config_untimely(shared->config, &first);
    lock_give(&shared->lock, RANK_TLS);
    return count;
}

/* A time of a certificate, which is UTC, as wall ms. */
static int64_t tls_wall_time(const mbedtls_x509_time *t)
{
    struct tm tm = {.tm_year = t->year - 1900,
                    .tm_mon = t->mon - 1,
                    .tm_mday = t->day,
                    .tm_hour = t->hour,
                    .tm_min = t->min,
                    .tm_sec = t->sec};
    return (int64_t)timegm(&tm) * 1000;
}

/* [worker] Appends the names that a certificate is for, as JSON strings with commas between: DNS
 * names and addresses, as a browser goes by them; other kinds are left out. */
static void tls_write_names(struct buffer *out, const mbedtls_x509_crt *cert)
{
    enum { TAG = 0x1f, DNS_NAME = 2, ADDRESS = 7 }; /* RFC 5280 section 4.2.1.6 */
    const mbedtls_x509_sequence *name = &cert->subject_alt_names;
    for (; name && name->buf.p; name = name->next) {
        char text[INET6_ADDRSTRLEN];
        struct span shown = {(const char *)name->buf.p, name->buf.len};
        int kind = name->buf.tag & TAG;
        if (kind == ADDRESS && (shown.len == 4 || shown.len == 16)) {
            inet_ntop(shown.len == 4 ? AF_INET : AF_INET6, name->buf.p, text, sizeof text);
            shown = span_of(text);
        } else if (kind != DNS_NAME) {
            continue;
        }
        json_span(out, NULL, shown);
    }
}

/* [worker] Appends the certificates in use as JSON objects with commas between, for /admin/stats.
 */
static void tls_write_certificates(struct buffer *out, struct tls_shared *shared)
{
    struct tls_config *config = tls_config_take(shared);
    for (size_t i = 0; i < config->count; i++) {
        const mbedtls_x509_crt *cert = &config->pairs[i].chain;
        json_open(out, NULL, '{');
        json_open(out, "names", '[');
        tls_write_names(out, cert);
        json_close(out, ']');
        json_time(out, "not_after", tls_wall_time(&cert->valid_to), true);
        json_close(out, '}');
    }
    tls_config_drop(config);
}

/* [main] Sets the shared part up, for so many handshake workers; false if Mbed TLS cannot. The key
 * for threads' buffers is made here, so that if there is none left it shows before there are
 * clients. */
static bool tls_shared_init(struct tls_shared *shared, size_t signers, struct counters *counters)
{
    shared->signers = signers;
    shared->counters = counters;
    pthread_mutex_init(&shared->lock, NULL);
    pthread_once(&tls_buffers_once, tls_make_key); /* if it fails, then before there are clients */
    mbedtls_ssl_ticket_init(&shared->tickets);
    return !mbedtls_ssl_ticket_setup(&shared->tickets, tls_random, NULL, MBEDTLS_CIPHER_AES_256_GCM,
                                     TLS_TICKET_SECONDS);
}

/* [main] Frees the shared part, after the last connection. */
static void tls_shared_free(struct tls_shared *shared)
{
    tls_config_use(shared, NULL);
    mbedtls_ssl_ticket_free(&shared->tickets);
}

/* Writes a file that only its owner may read, in place of the one of that name: a new file, synced,
 * then renamed, so that a crash leaves the old one or the new one. O_EXCL, so that nobody's link is
 * followed. False with errno set. */
static bool tls_write_file(const char *path, const char *text)
{
    char next[PATH_MAX];
    size_t len = strlen(text);
    if (snprintf(next, sizeof next, "%s.new", path) >= (int)sizeof next) return false;
    unlink(next);
    int fd = open(next, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = fd >= 0 && write(fd, text, len) == (ssize_t)len && !fsync(fd);
    if (fd >= 0) good = !close(fd) && good;
    return good && !rename(next, path);
}

/* YYYYMMDDhhmmss of a moment that many days from now, as certificates want it. */
static void tls_time_text(int days, char out[16])
{
    struct tm t;
    time_t when = (time_t)(clock_wall_ms() / 1000) + (time_t)days * 86400;
    strftime(out, 16, "%Y%m%d%H%M%S", gmtime_r(&when, &t));
}

/* [main] Signs a certificate for localhost and the addresses, with its own key; 0, or Mbed TLS's
 * error. Valid from yesterday, for a client's clock may be slow, and no longer than browsers accept
 * (397 days). The serial number is positive and of 16 bytes, random, so that a new certificate is
 * not taken for an old one of the same issuer. It is no CA: a browser that was told to trust it
 * trusts nothing else by that. */
static int tls_self_sign(mbedtls_pk_context *key, const struct sockaddr_storage *addresses,
                         size_t count, char *out, size_t size)
{
    mbedtls_x509_san_list *names = mem_new((count + 1) * sizeof *names);
    mbedtls_x509write_cert cert;
    char from[16], to[16];
    uint8_t serial[16];
    random_bytes(serial, sizeof serial);
    serial[0] = (serial[0] & 0x7f) | 0x40; /* positive, and as long as it looks */
    tls_time_text(-1, from);
    tls_time_text(TLS_SELF_DAYS, to);
    static char host[] = "localhost";
    names[0].node.type = MBEDTLS_X509_SAN_DNS_NAME;
    names[0].node.san.unstructured_name =
        (mbedtls_x509_buf){.p = (unsigned char *)host, .len = sizeof host - 1};
    for (size_t i = 0; i < count; i++) {
        bool v4 = addresses[i].ss_family == AF_INET;
        void *at = v4 ? (void *)&((struct sockaddr_in *)&addresses[i])->sin_addr
                      : (void *)&((struct sockaddr_in6 *)&addresses[i])->sin6_addr;
        names[i].next = &names[i + 1];
        names[i + 1].node.type = MBEDTLS_X509_SAN_IP_ADDRESS;
        names[i + 1].node.san.unstructured_name = (mbedtls_x509_buf){.p = at, .len = v4 ? 4 : 16};
    }
    mbedtls_x509write_crt_init(&cert);
    mbedtls_x509write_crt_set_version(&cert, MBEDTLS_X509_CRT_VERSION_3);
    mbedtls_x509write_crt_set_md_alg(&cert, MBEDTLS_MD_SHA256);
    mbedtls_x509write_crt_set_subject_key(&cert, key);
    mbedtls_x509write_crt_set_issuer_key(&cert, key);
    int error = mbedtls_x509write_crt_set_subject_name(&cert, "CN=presence self-signed");
    if (!error) error = mbedtls_x509write_crt_set_issuer_name(&cert, "CN=presence self-signed");
    if (!error) error = mbedtls_x509write_crt_set_serial_raw(&cert, serial, sizeof serial);
    if (!error) error = mbedtls_x509write_crt_set_validity(&cert, from, to);
    if (!error) error = mbedtls_x509write_crt_set_basic_constraints(&cert, 0, -1);
    if (!error) error = mbedtls_x509write_crt_set_subject_alternative_name(&cert, names);
    if (!error)
        error = mbedtls_x509write_crt_pem(&cert, (unsigned char *)out, size, tls_random, NULL);
    mbedtls_x509write_crt_free(&cert);
    free(names);
    return error;
}

/* [main] True if a certificate made earlier can be used for TLS_RENEW_DAYS more. It is kept then:
 * whoever told a browser to trust it is not asked again with each start. */
static bool tls_self_good(const char *cert, const char *key)
{
    struct tls_pair pair;
    char err[WHY_MAX];
    /* A renewal in time, for a server that is restarted once a month. */
    time_t soon = (time_t)(clock_wall_ms() / 1000) + TLS_RENEW_DAYS * 86400;
    struct tm t;
    gmtime_r(&soon, &t);
    mbedtls_x509_time then = {t.tm_year + 1900, t.tm_mon + 1, t.tm_mday,
                              t.tm_hour,        t.tm_min,     t.tm_sec};
    bool good = tls_pair_read(&pair, cert, key, WHY(err)) && !tls_pair_untimely(&pair) &&
                mbedtls_x509_time_cmp(&pair.chain.valid_to, &then) > 0;
    tls_pair_free(&pair);
    return good;
}

/* [main] Makes a certificate of our own for these addresses, unless the files hold a good one. The
 * key is written first: with a crash in between the pair does not fit, and the next start makes
 * both anew. False with the reason in why. */
static bool tls_self_make(const char *cert, const char *key,
                          const struct sockaddr_storage *addresses, size_t count, struct why why)
{
    char cert_text[4096], key_text[1024];
    if (tls_self_good(cert, key)) return true;
    mbedtls_pk_context pk;
    mbedtls_pk_init(&pk);
    int error = mbedtls_pk_setup(&pk, mbedtls_pk_info_from_type(MBEDTLS_PK_ECKEY));
    if (!error)
        error = mbedtls_ecp_gen_key(MBEDTLS_ECP_DP_SECP256R1, mbedtls_pk_ec(pk), tls_random, NULL);
    if (!error) error = tls_self_sign(&pk, addresses, count, cert_text, sizeof cert_text);
    if (!error) error = mbedtls_pk_write_key_pem(&pk, (unsigned char *)key_text, sizeof key_text);
    mbedtls_pk_free(&pk);
    if (error) return tls_file_problem("tls-self-signed", cert, error, "use --tls-cert", why);
    /* Both as files that only the owner may read. */
    bool good = tls_write_file(key, key_text) && tls_write_file(cert, cert_text);
    mbedtls_platform_zeroize(key_text, sizeof key_text);
    if (!good) fail(why, "--tls-self-signed: cannot write %.200s: %s", cert, strerror(errno));
    return good;
}

/* ==== 31. Transport ===========================================================================
 * A socket as the listener, the workers and the hub see it, plain or TLS: bytes in, bytes out. No
 * call here ever waits: what the socket does not take now is the caller's to offer again (plain) or
 * kept in tls->out (TLS). A transport belongs to whoever has its connection. TLS differs in two
 * ways only: the handshake, which is the handshake workers', and that bytes which were counted as
 * written may still wait in tls->out (transport_unsent). */

/* What transport_read and transport_write return beside a count: the other side has ended in order;
 * nothing to be had now, wait for epoll; broken, nothing will ever come or go again. */
enum { TRANSPORT_END = 0, TRANSPORT_AGAIN = -1, TRANSPORT_BROKEN = -2 };

/* Part of every connection, so as small as can be. round_trip stands here since the place behind fd
 * is free: it is the connection's, written by the hub and read by workers for lists of sessions. */
struct transport {
    struct tls *tls;             /* NULL: plain */
    int fd;                      /* -1 once closed */
    _Atomic uint32_t round_trip; /* ms the last ping took; UINT32_MAX: none yet */
};

/* What recv or send has returned, in the words of this section. */
static ssize_t transport_result(ssize_t n)
{
    if (n >= 0) return n;
    return errno == EAGAIN || errno == EWOULDBLOCK ? TRANSPORT_AGAIN : TRANSPORT_BROKEN;
}

/* Reads bytes as they are on the line, before any deciphering. */
static ssize_t transport_receive(int fd, void *out, size_t size)
{
    ssize_t n;
    do n = recv(fd, out, size, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return transport_result(n);
}

/* Sends bytes as they are to be on the line. */
static ssize_t transport_transmit(int fd, const void *at, size_t len)
{
    ssize_t n;
    do n = send(fd, at, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return transport_result(n);
}

/* True if records wait for the socket: then it is to be watched for EPOLLOUT, and transport_write
 * of nothing sends on. */
static bool transport_unsent(const struct transport *transport)
{
    return transport->tls && transport->tls->out.len;
}

/* [owner] Sends the records that Mbed TLS has just made in the thread's output buffer. What the
 * socket does not take moves to tls->out, behind what waits there: records must not change places,
 * since each is enciphered with the number of its turn. False if the connection is broken. */
static bool transport_send_output(struct transport *transport, struct tls_buffers *buffers)
{
    enum { OUTPUT_KEPT = 64 * 1024 /* memory that a thread's output may keep */ };
    struct buffer *output = &buffers->output;
    struct tls *tls = transport->tls;
    ssize_t n = output->len && !tls->out.len
                    ? transport_transmit(transport->fd, output->at, output->len)
                    : 0;
    size_t sent = n > 0 ? (size_t)n : 0;
    if (n != TRANSPORT_BROKEN && sent < output->len)
        buffer_add(&tls->out, output->at + sent, output->len - sent);
    output->len = 0;
    if (output->size > OUTPUT_KEPT) buffer_free(output);
    return n != TRANSPORT_BROKEN;
}

/* Sends records that wait. True if none is left; otherwise *result says why. */
static bool transport_send_waiting(struct transport *transport, ssize_t *result)
{
    struct buffer *out = &transport->tls->out;
    ssize_t n = out->len ? transport_transmit(transport->fd, out->at, out->len) : 0;
    if (n > 0) buffer_drop(out, (size_t)n);
    if (n >= 0 && !out->len) {
        buffer_free(out);
        return true;
    }
    *result = n == TRANSPORT_BROKEN ? TRANSPORT_BROKEN : TRANSPORT_AGAIN;
    return false;
}

/* [owner] Ends TLS with an alert that says why (RFC 8446 section 6), as far as the socket takes it.
 * Before there is a context the alert is written by hand, in clear: the client has not agreed on
 * keys yet. */
static void transport_refuse_tls(struct transport *transport, uint8_t alert)
{
    struct tls *tls = transport->tls;
    const uint8_t plain[] = {21, 3, 3, 0, 2, MBEDTLS_SSL_ALERT_LEVEL_FATAL, alert};
    if (tls->set_up && !tls->broken) {
        struct tls_buffers *buffers = tls_attach(tls, (struct span){0});
        seam_tls_alert(&tls->ssl, &tls->idle, alert);
        tls_detach(tls);
        transport_send_output(transport, buffers);
    } else if (!tls->broken) {
        transport_transmit(transport->fd, plain,
                           sizeof plain); /* nothing was sent before: it is taken */
    }
    tls->broken = true;
}

/* [owner] Deciphers the whole records at the front of `at` in place: content is always shorter than
 * its record. Returns the bytes of content. A close_notify or a failure ends up in tls->ended or
 * tls->broken. Mbed TLS may answer (a key update, an alert): that is sent here. */
static size_t transport_decipher(struct transport *transport, char *at, size_t whole, size_t size)
{
    struct tls *tls = transport->tls;
    struct tls_buffers *buffers = tls_attach(tls, (struct span){at, whole});
    enum seam_tls_result result = SEAM_TLS_DONE;
    size_t made = 0, n = 0;
    while (result == SEAM_TLS_DONE && made < size) {
        result = seam_tls_read(&tls->ssl, &tls->idle, (unsigned char *)at + made, size - made, &n);
        if (result == SEAM_TLS_DONE) made += n;
    }
    if (result == SEAM_TLS_CLOSED) tls->ended = true;
    else if (result == SEAM_TLS_FAILED) tls->broken = true;
    tls_detach(tls);
    if (!transport_send_output(transport, buffers)) tls->broken = true;
    return made;
}

/* True if these bytes more still do not make the record whole that tls->in begins. A client that
 * drips one byte at a time would otherwise have 16 KiB copied for each of them. */
static bool transport_lacks_record(const struct tls *tls, size_t more)
{
    const unsigned char *head = (const unsigned char *)tls->in.at;
    return tls->in.len >= TLS_HEAD && !tls_head_alert(head) &&
           tls->in.len + more < TLS_HEAD + ((size_t)head[3] << 8 | head[4]);
}

/* [owner] transport_read for TLS. Old and new bytes are gathered in `out`, the whole records are
 * deciphered there, and only the rest, less than a record, is kept in tls->in. So an idle
 * connection holds no buffer, and `out` is the only copy. */
static ssize_t transport_read_tls(struct transport *transport, char *out, size_t size)
{
    struct tls *tls = transport->tls;
    size_t len = tls->in.len, made = 0;
    if (tls->broken) return TRANSPORT_BROKEN;
    if (tls->ended) return TRANSPORT_END;
    if (len >= size) return TRANSPORT_BROKEN; /* never: what is kept is less than a record */
    ssize_t n = transport_receive(transport->fd, out + len, size - len);
    if (n == TRANSPORT_BROKEN) return n;
    if (n > 0 && transport_lacks_record(tls, (size_t)n)) {
        buffer_add(&tls->in, out + len, (size_t)n); /* however few bytes come: no other is moved */
        return TRANSPORT_AGAIN;
    }
    if (len) memcpy(out, tls->in.at, len);
    if (n > 0) len += (size_t)n;
    struct tls_records records = tls_whole_records(out, len);
    if (records.whole || n > 0) {
        tls->in.len = 0;
        size_t rest = len - records.whole;
        if (rest) buffer_add(&tls->in, out + records.whole, rest);
        else buffer_free(&tls->in);
    }
    if (records.whole) made = transport_decipher(transport, out, records.whole, size);
    if (records.alert && !tls->ended) transport_refuse_tls(transport, records.alert);
    if (made) return (ssize_t)made;
    if (tls->broken) return TRANSPORT_BROKEN;
    return tls->ended || n == TRANSPORT_END ? TRANSPORT_END : TRANSPORT_AGAIN;
}

/* [owner] transport_write for TLS: enciphers and sends TLS_CHUNK at a time, and stops at the first
 * chunk of which the socket left something. So at most one chunk of a client that does not read is
 * kept enciphered; the rest stays with the caller, who knows when to give up. */
static ssize_t transport_write_tls(struct transport *transport, const char *at, size_t len)
{
    struct tls *tls = transport->tls;
    ssize_t result = TRANSPORT_AGAIN;
    size_t done = 0;
    if (tls->broken) return TRANSPORT_BROKEN;
    if (!transport_send_waiting(transport, &result)) return result;
    while (done < len && !tls->out.len) {
        size_t chunk = len - done < TLS_CHUNK ? len - done : TLS_CHUNK;
        struct tls_buffers *buffers = tls_attach(tls, (struct span){0});
        if (seam_tls_write(&tls->ssl, &tls->idle, (const unsigned char *)at + done, chunk) !=
            SEAM_TLS_DONE)
            tls->broken = true;
        tls_detach(tls);
        if (!transport_send_output(transport, buffers) || tls->broken) return TRANSPORT_BROKEN;
        done += chunk;
    }
    return (ssize_t)done;
}

/* Reads what is there: a count, TRANSPORT_END, TRANSPORT_AGAIN or TRANSPORT_BROKEN. With TLS `size`
 * must be more than a record; then no whole record is left unread, which matters since epoll does
 * not tell of bytes that are in our memory already. */
static ssize_t transport_read(struct transport *transport, void *out, size_t size)
{
    return transport->tls ? transport_read_tls(transport, out, size)
                          : transport_receive(transport->fd, out, size);
}

/* True if the other side has ended, as far as is known without reading. */
static bool transport_ended(const struct transport *transport)
{
    return transport->tls && (transport->tls->ended || transport->tls->broken);
}

/* True if bytes wait in the socket. A close that waits is none. */
static bool transport_has_bytes(const struct transport *transport)
{
    char byte;
    return recv(transport->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) > 0;
}

/* Writes what goes out now: a count (perhaps short), TRANSPORT_AGAIN or TRANSPORT_BROKEN. What was
 * counted may still wait, see transport_unsent. */
static ssize_t transport_write(struct transport *transport, const void *at, size_t len)
{
    return transport->tls ? transport_write_tls(transport, at, len)
                          : transport_transmit(transport->fd, at, len);
}

/* Ends our side of TLS (close_notify, RFC 8446 section 6.1), as far as the socket takes it. It is
 * left out where records wait: it would have to go behind them. */
static void transport_notify(struct transport *transport)
{
    struct tls *tls = transport->tls;
    if (!tls || !tls->open || tls->broken || tls->out.len) return;
    struct tls_buffers *buffers = tls_attach(tls, (struct span){0});
    seam_tls_close_notify(&tls->ssl, &tls->idle);
    tls_detach(tls);
    transport_send_output(transport, buffers);
    tls->open = false;
}

/* Says that nothing more will be written; reading goes on. */
static void transport_finish(struct transport *transport)
{
    transport_notify(transport);
    shutdown(transport->fd, SHUT_WR); /* fails only when the peer is gone already */
}

/* Reads and throws away, undeciphered; returns as transport_read does. */
static ssize_t transport_drain(struct transport *transport)
{
    char scrap[4096];
    return transport_receive(transport->fd, scrap, sizeof scrap);
}

/* Begins TLS on a socket that was just accepted; the handshake is still to be done. The context is
 * set up with the first whole hello: a client that only connects costs none. */
static void transport_begin_tls(struct transport *transport)
{
    transport->tls = mem_new(sizeof *transport->tls);
    mbedtls_ssl_init(&transport->tls->ssl);
}

/* Frees what a connection has of TLS: from now on it is plain. */
static void transport_forget_tls(struct transport *transport)
{
    struct tls *tls = transport->tls;
    transport->tls = NULL;
    if (!tls) return;
    seam_tls_free(&tls->ssl, &tls->idle);
    mbedtls_ssl_free(&tls->ssl);
    tls_config_drop(tls->config);
    buffer_free(&tls->in);
    buffer_free(&tls->out);
    free(tls);
}

/* What a handshake has come to. */
enum handshake { HANDSHAKE_MORE, HANDSHAKE_DONE, HANDSHAKE_FAILED };

/* Gives a connection its TLS context, with the certificates that are in use now; a reload does not
 * touch it any more. False when Mbed TLS has no memory for it. */
static bool transport_set_up_tls(struct tls *tls, struct tls_shared *shared)
{
    tls->config = tls_config_take(shared);
    if (mbedtls_ssl_setup(&tls->ssl, &tls->config->ssl)) return false;
    seam_tls_drop_buffers(&tls->ssl, &tls->idle);
    tls->set_up = true;
    return true;
}

/* [handshake] Takes the handshake as far as the whole records in tls->in bring it, and sends
 * what it has to say: at its end an alert, if it failed. This is the slow part of TLS, arithmetic
 * that anybody may ask for: so it is never done by the listener or the hub. */
static enum handshake transport_handshake(struct transport *transport, struct tls_shared *shared)
{
    struct tls *tls = transport->tls;
    struct tls_records records = tls_whole_records(tls->in.at, tls->in.len);
    if (!tls->set_up && !transport_set_up_tls(tls, shared)) return HANDSHAKE_FAILED;
    struct tls_buffers *buffers = tls_attach(tls, (struct span){tls->in.at, records.whole});
    enum seam_tls_result result = seam_tls_handshake(&tls->ssl, &tls->idle);
    size_t read = records.whole - buffers->seam.input_len;
    tls_detach(tls);
    bool sent = transport_send_output(transport, buffers);
    buffer_drop(&tls->in, read);
    if (!tls->in.len) buffer_free(&tls->in);
    tls->broken = result == SEAM_TLS_FAILED || !sent;
    if (result == SEAM_TLS_WAIT && sent && records.alert)
        transport_refuse_tls(transport, records.alert);
    if (tls->broken) return HANDSHAKE_FAILED;
    if (result == SEAM_TLS_WAIT) return HANDSHAKE_MORE;
    tls->open = true;
    if (tls->idle.resumed) count_one(&shared->counters->tls_resumed);
    seam_tls_end_handshake(&tls->ssl, &tls->idle);
    return HANDSHAKE_DONE;
}

static void transport_close(struct transport *transport)
{
    transport_notify(transport);
    close(transport->fd);
    transport->fd = -1;
    transport_forget_tls(transport);
}

/* ==== 32. Webhooks: the receiver ==============================================================
 * One request to the operator's program (--webhook-url), from the look-up of its name to the last
 * byte of its answer, plain or over TLS. All but the look-up runs on the webhook's own thread, on
 * which nobody waits.
 *
 *     webhook_conn_find       the resolver, in a thread of its own      --webhook-timeout
 *     webhook_conn_connect    each address a share of what is left            |
 *     webhook_conn_secure     TLS, if it is https                             |
 *     webhook_conn_write      the request                                     |
 *     webhook_conn_read_head  1xx are passed over                             v
 *     webhook_conn_skip_body  at most WEBHOOK_BODY_MS
 *
 * A request has one absolute deadline. It is looked at before every wait and, since who sends
 * without end is never waited for, whenever bytes are taken from the socket: neither a receiver
 * that drips nor one that floods can hold the thread. What went wrong becomes a text for the log
 * and /admin/stats; what follows from it is Webhooks: delivery's. */

enum {
    WEBHOOK_URL_MAX = 2048,
    WEBHOOK_SECRET_MIN = 16,
    WEBHOOK_SECRET_MAX = 4096,
    WEBHOOK_HEAD_MAX = 16384, /* bytes of the head of an answer */
    WEBHOOK_BODY_MAX = 65536, /* bytes read of its body, to throw them away */
    WEBHOOK_BODY_MS = 1000,   /* and how long it may take */
    WEBHOOK_FIRST_MS = 1000,  /* wait after the first failure; it doubles */
    WEBHOOK_LAST_MS = 300000, /* up to this */
    WEBHOOK_CLOSE_MS = 20,    /* wait for a transaction under way */
    WEBHOOK_STOP_MS = 800,    /* at a stop: for an answer under way */
    WEBHOOK_WHY = 320,        /* bytes of the text of an error */
    WEBHOOK_SIGNATURE = 96,   /* bytes of the text of a signature */
    WEBHOOK_GONE = 410,       /* this answer says: never again */
};

/* A URL to post to (RFC 3986, RFC 9110 section 4.2), taken apart once at the start. */
struct webhook_url {
    bool secure;     /* https */
    bool is_address; /* the host is an IP address */
    uint16_t port;
    char host[ORIGIN_MAX];            /* without brackets */
    char origin[ORIGIN_MAX];          /* scheme, host, and the port if it is not the usual one */
    const char *authority;            /* that without the scheme: for the Host header */
    char target[WEBHOOK_URL_MAX + 2]; /* path and query */
};

/* [main] Reads a URL; false, with *out undefined, if it is none of http or https, names a user, or
 * has a fragment or a character that a URL cannot have: the target is written into a request as it
 * is. */
static bool webhook_url_parse(const char *text, struct webhook_url *out)
{
    static const char http[] = "http://", https[] = "https://";
    char authority[ORIGIN_MAX];
    int64_t port;
    out->secure = !strncasecmp(text, https, sizeof https - 1);
    if (!out->secure && strncasecmp(text, http, sizeof http - 1)) return false;
    text += out->secure ? sizeof https - 1 : sizeof http - 1;
    size_t len = strcspn(text, "/?");
    if (len >= sizeof authority) return false;
    memcpy(authority, text, len);
    authority[len] = 0;
    if (!host_parse(authority, out->host, &port) || !host_is_web(out->host) || !port) return false;
    if (!origin_of_host(out->secure, authority, out->origin)) return false;
    text += len;
    if (strlen(text) > WEBHOOK_URL_MAX) return false;
    /* No blank or control character: it would end the request line, or begin another header. */
    for (const char *c = text; *c; c++)
        if (*c <= ' ' || *c >= 0x7f || strchr("#\"<>\\^`{|}", *c)) return false;
    snprintf(out->target, sizeof out->target, "%s%s", *text == '/' ? "" : "/", text);
    out->authority = strstr(out->origin, "://") + 3;
    out->port = (uint16_t)(port > 0 ? port : out->secure ? 443 : 80);
    out->is_address = host_is_address(out->host);
    /* getaddrinfo wants an IPv6 address without brackets. */
    if (*out->host == '[') { /* whose end is a bracket */
        size_t inside = strlen(out->host) - 2;
        memmove(out->host, out->host + 1, inside);
        out->host[inside] = 0;
    }
    return true;
}

/* [webhook] The signature of a body sent at that second: `t=SECONDS,v1=HEX`, where HEX is
 * HMAC-SHA256 over SECONDS, a dot and the body. The second is signed too, so that a receiver can
 * refuse what somebody recorded and sends again. Returns out. */
static const char *webhook_sign(struct span secret, int64_t seconds, struct span body,
                                char out[WEBHOOK_SIGNATURE])
{
    struct buffer text = {0};
    uint8_t mac[SHA256_SIZE];
    buffer_print(&text, "%" PRId64 ".", seconds);
    buffer_add(&text, body.at, body.len);
    hmac_sha256(secret, (struct span){text.at, text.len}, mac);
    buffer_free(&text);
    int len = snprintf(out, WEBHOOK_SIGNATURE, "t=%" PRId64 ",v1=", seconds);
    hex_text((struct span){(const char *)mac, sizeof mac}, out + len);
    return out;
}

/* How long to wait after so many failures in a row, ms: 1, 2, 4 ... 300 s, and up to 10 % more,
 * which a random number decides: several servers must not knock together at a receiver that comes
 * back. */
static int64_t webhook_backoff(unsigned failures, uint16_t random)
{
    int64_t wait = WEBHOOK_LAST_MS;
    if (failures < 10) wait = (int64_t)WEBHOOK_FIRST_MS << (failures ? failures - 1 : 0);
    if (wait > WEBHOOK_LAST_MS) wait = WEBHOOK_LAST_MS;
    return wait + wait * random / (10 * UINT16_MAX);
}

/* The head of an answer. */
struct response_head {
    size_t size; /* with the empty line at its end */
    int status;
    int64_t length; /* Content-Length; -1 when it is not said, or badly */
};

/* [webhook] Reads the head at the front of an answer (RFC 9112 section 4): 1, or 0 when it is not
 * all there yet; -1 when what stands there is none, or too long. Of a Content-Length that is no
 * number nothing is believed. */
static int response_head_read(const char *at, size_t len, struct response_head *out)
{
    static const char version[] = "HTTP/1.";
    enum { VERSION = sizeof version - 1, LINE = VERSION + 6 }; /* digit, blank, three, and one */
    if (memcmp(at, version, len < VERSION ? len : VERSION)) return -1;
    size_t end = http_head_end(at, len < WEBHOOK_HEAD_MAX ? len : WEBHOOK_HEAD_MAX, 0);
    if (!end) return len < WEBHOOK_HEAD_MAX ? 0 : -1;
    const char *code = at + VERSION + 2;
    if (end < LINE || !digit_is(at[VERSION]) || at[VERSION + 1] != ' ') return -1;
    if (!digit_is(code[0]) || !digit_is(code[1]) || !digit_is(code[2]) || *code == '0') return -1;
    if (code[3] != ' ' && code[3] != '\r' && code[3] != '\n') return -1;
    *out = (struct response_head){.size = end, .length = -1};
    out->status = (code[0] - '0') * 100 + (code[1] - '0') * 10 + (code[2] - '0');
    for (const char *line = at, *next; line < at + end; line = next) {
        struct span value;
        next = (const char *)memchr(line, '\n', (size_t)(at + end - line)) + 1;
        if (http_line_value((struct span){line, (size_t)(next - 1 - line)}, "Content-Length",
                            &value))
            out->length = http_length(value);
    }
    return 1;
}

/* How a delivery went; what stands behind FAILED ends the thread. */
enum webhook_result { WEBHOOK_DELIVERED, WEBHOOK_FAILED, WEBHOOK_IS_GONE, WEBHOOK_STOPPED };

/* A name being looked up, in a thread of its own: getaddrinfo knows no deadline, and may hang for
 * minutes on a dead resolver. Who asked may stop waiting; the last owner frees it. There is at
 * most one, since who asks again waits for the one under way. */
struct webhook_lookup {
    _Atomic int owners; /* who asked, and the thread */
    int ready;          /* eventfd: readable once it is done */
    _Atomic bool done;  /* the two below are there */
    int error;          /* of getaddrinfo */
    struct addrinfo *addresses;
    char host[ORIGIN_MAX], port[8];
};

/* The thread and what others may know of it. */
struct webhook {
    const struct options *options;
    struct log *log;
    struct counters *counters;
    struct store *store;
    struct loop *hub; /* woken when store.outbox_done has moved */
    struct webhook_url url;
    bool tls12;                    /* the thread's: see webhook_conn_begin */
    struct webhook_lookup *lookup; /* the thread's: one it asked for, or NULL */
    pthread_t thread;
    bool running;            /* the thread was started */
    int wake;                /* eventfd: look at the outbox again, or at stop_by */
    _Atomic int64_t stop_by; /* mono: be done by then; 0: go on */
    pthread_mutex_t lock;    /* all below */
    struct buffer secret;
    int64_t last_success;         /* wall ms, or 0 */
    char last_error[WEBHOOK_WHY]; /* why the last request failed; "" if it did not */
};

/* What a request by https has more. Made for each: there is one request a batch, and no session to
 * resume. */
struct webhook_tls {
    mbedtls_ssl_context ssl;
    mbedtls_ssl_config config;
    mbedtls_x509_crt roots;
};

/* One request on its way. [webhook] */
struct webhook_conn {
    struct webhook *hook;
    int fd;
    int64_t deadline;         /* mono */
    struct webhook_tls tls;   /* see webhook_conn_begin */
    mbedtls_ssl_context *ssl; /* of it; NULL: plain */
    bool signs_new;           /* see webhook_conn_begin */
    char *why;                /* what went wrong: WEBHOOK_WHY bytes */
};

/* [any] True once the thread is to end. */
static bool webhook_stopping(const struct webhook *hook)
{
    return atomic_load(&hook->stop_by);
}

/* [any] Wakes the thread: it looks at the outbox, or at stop_by. */
static void webhook_wake(struct webhook *hook)
{
    uint64_t one = 1;
    if (write(hook->wake, &one, sizeof one) != sizeof one) fatal("an eventfd takes no wake-up");
}

/* Says what went wrong, as printf does, unless something before it did: the first reason is the
 * one that explains the others. False, for the caller to return. */
__attribute__((format(printf, 2, 3))) static bool webhook_fail(char *why, const char *format, ...)
{
    if (*why) return false;
    va_list args;
    va_start(args, format);
    vsnprintf(why, WEBHOOK_WHY, format, args);
    va_end(args);
    return false;
}

/* [webhook] Waits until a descriptor (-1: none) is ready for these events, somebody wakes the
 * thread, or that moment has come. True if the descriptor is ready. Waits an hour at most, so that
 * the difference always fits an int; callers loop. */
static bool webhook_poll(struct webhook *hook, int fd, short events, int64_t until)
{
    struct pollfd waits[2] = {{.fd = hook->wake, .events = POLLIN}, {.fd = fd, .events = events}};
    int64_t left = until - clock_mono_ms();
    uint64_t count;
    int n = poll(waits, 2, left < 0 ? 0 : left > 3600000 ? 3600000 : (int)left);
    if (n > 0 && waits[0].revents && read(hook->wake, &count, sizeof count) < 0 && errno != EAGAIN)
        fatal("an eventfd cannot be read");
    return n > 0 && waits[1].revents;
}

/* [webhook] The moment at which a request's time is up: its own, or that of a stop. */
static int64_t webhook_conn_end(const struct webhook_conn *conn)
{
    int64_t stop_by = atomic_load(&conn->hook->stop_by);
    return stop_by && stop_by < conn->deadline ? stop_by : conn->deadline;
}

/* [webhook] Waits for a request's socket, or another descriptor; false when its time is up. */
static bool webhook_conn_wait(struct webhook_conn *conn, int fd, short events)
{
    for (;;) {
        int64_t until = webhook_conn_end(conn);
        if (webhook_poll(conn->hook, fd, events, until)) return true;
        if (clock_mono_ms() >= until) return webhook_fail(conn->why, "no answer in time");
    }
}

/* What send or recv returned, as Mbed TLS wants to have it. Every loop of a request, those inside
 * Mbed TLS too, moves bytes: here each ends with the request's time, also if it never has to
 * wait. */
static int webhook_conn_result(const struct webhook_conn *conn, ssize_t n, int wait)
{
    if (n > 0 && clock_mono_ms() >= webhook_conn_end(conn)) return MBEDTLS_ERR_SSL_TIMEOUT;
    if (n >= 0) return (int)n;
    bool again = errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR;
    return again ? wait : MBEDTLS_ERR_ERROR_GENERIC_ERROR;
}

/* Mbed TLS's f_send: sends bytes as far as the socket takes them. */
static int webhook_conn_send(void *context, const unsigned char *at, size_t len)
{
    const struct webhook_conn *conn = context;
    ssize_t n = send(conn->fd, at, len, MSG_NOSIGNAL);
    return webhook_conn_result(conn, n, MBEDTLS_ERR_SSL_WANT_WRITE);
}

/* Mbed TLS's f_recv: receives what is there. */
static int webhook_conn_receive(void *context, unsigned char *out, size_t size)
{
    const struct webhook_conn *conn = context;
    return webhook_conn_result(conn, recv(conn->fd, out, size, 0), MBEDTLS_ERR_SSL_WANT_READ);
}

/* [webhook] After a call that returned a negative code: waits for what it wants. False if it is an
 * error, or the time is up. */
static bool webhook_conn_again(struct webhook_conn *conn, int code)
{
    if (code == MBEDTLS_ERR_SSL_WANT_READ) return webhook_conn_wait(conn, conn->fd, POLLIN);
    if (code == MBEDTLS_ERR_SSL_WANT_WRITE) return webhook_conn_wait(conn, conn->fd, POLLOUT);
    if (code == MBEDTLS_ERR_SSL_TIMEOUT) return webhook_fail(conn->why, "no answer in time");
    if (code == MBEDTLS_ERR_SSL_RECEIVED_NEW_SESSION_TICKET) return true; /* and not kept */
    char text[128];
    if (code == MBEDTLS_ERR_ERROR_GENERIC_ERROR)
        return webhook_fail(conn->why, "the connection broke: %s", strerror(errno));
    mbedtls_strerror(code, text, sizeof text);
    return webhook_fail(conn->why, "%s", text);
}

/* [webhook] Writes all bytes; false, with the reason said, if it cannot. */
static bool webhook_conn_write(struct webhook_conn *conn, struct span text)
{
    while (text.len) {
        const unsigned char *at = (const unsigned char *)text.at;
        int n = conn->ssl ? mbedtls_ssl_write(conn->ssl, at, text.len)
                          : webhook_conn_send(conn, at, text.len);
        if (n < 0 && !webhook_conn_again(conn, n)) return false;
        if (n <= 0) continue;
        text.at += n;
        text.len -= (size_t)n;
    }
    return true;
}

/* [webhook] Reads what comes next: how many bytes, 0 at the end, -1 when it failed. An end without
 * close_notify is an end too: only the head of the answer counts, and that is whole or the request
 * has failed. */
static ssize_t webhook_conn_read(struct webhook_conn *conn, char *out, size_t size)
{
    for (;;) {
        unsigned char *to = (unsigned char *)out;
        int n = conn->ssl ? mbedtls_ssl_read(conn->ssl, to, size)
                          : webhook_conn_receive(conn, to, size);
        if (n == MBEDTLS_ERR_SSL_PEER_CLOSE_NOTIFY || n == MBEDTLS_ERR_SSL_CONN_EOF) n = 0;
        if (n >= 0) return n;
        if (!webhook_conn_again(conn, n)) return -1;
    }
}

/* [webhook] Connects to the first of the addresses that answers; each gets its share of the time,
 * so that a dead IPv6 address before a good IPv4 one does not use it up. */
static bool webhook_conn_connect(struct webhook_conn *conn, const struct addrinfo *addresses)
{
    int64_t deadline = conn->deadline;
    int count = 0, error = 0;
    for (const struct addrinfo *a = addresses; a; a = a->ai_next) count++;
    for (const struct addrinfo *a = addresses; a; a = a->ai_next, count--) {
        /* What an address before this one failed for is forgotten: the last reason is told. */
        int64_t now = clock_mono_ms();
        socklen_t len = sizeof error;
        *conn->why = 0;
        conn->deadline = now + (deadline - now) / count;
        conn->fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        error = conn->fd < 0 || connect(conn->fd, a->ai_addr, a->ai_addrlen) ? errno : 0;
        if (error == EINPROGRESS && webhook_conn_wait(conn, conn->fd, POLLOUT) &&
            getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len))
            error = errno;
        conn->deadline = deadline;
        if (!error) return true;
        if (conn->fd >= 0) close(conn->fd);
        conn->fd = -1;
        if (webhook_stopping(conn->hook)) break;
    }
    return webhook_fail(conn->why, "cannot connect: %s", strerror(error));
}

/* [webhook, resolver] One owner less of a look-up; the last one frees it. NULL is fine. */
static void lookup_drop(struct webhook_lookup *lookup)
{
    if (!lookup || atomic_fetch_sub(&lookup->owners, 1) > 1) return;
    if (lookup->addresses) freeaddrinfo(lookup->addresses);
    close(lookup->ready);
    free(lookup);
}

/* [resolver] The thread of a look-up. `done` is stored behind what it tells of: sequentially
 * consistent, so who sees it sees that. */
static void *lookup_run(void *argument)
{
    struct webhook_lookup *lookup = argument;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    uint64_t one = 1;
    prctl(PR_SET_NAME, "resolver");
    /* This may take minutes; nothing of the webhook's is touched until it is over. */
    lookup->error = getaddrinfo(lookup->host, lookup->port, &hints, &lookup->addresses);
    if (lookup->error) lookup->addresses = NULL;
    atomic_store(&lookup->done, true);
    if (write(lookup->ready, &one, sizeof one) != sizeof one) fatal("an eventfd takes no wake-up");
    lookup_drop(lookup);
    return NULL;
}

/* [webhook] Begins to look a name up; NULL with errno if the machine has no descriptor or thread
 * for it. Two own it: the caller and the thread, which is detached, since nobody could wait for
 * it. */
static struct webhook_lookup *lookup_begin(const struct webhook_url *url)
{
    struct webhook_lookup *lookup = mem_new(sizeof *lookup);
    pthread_attr_t attributes;
    pthread_t thread;
    atomic_init(&lookup->owners, 2);
    strcpy(lookup->host, url->host);
    snprintf(lookup->port, sizeof lookup->port, "%u", url->port);
    lookup->ready = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int error = lookup->ready < 0 ? errno : pthread_attr_init(&attributes);
    if (!error) {
        pthread_attr_setstacksize(&attributes, THREAD_STACK);
        pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        error = pthread_create(&thread, &attributes, lookup_run, lookup);
        pthread_attr_destroy(&attributes);
    }
    if (!error) return lookup;
    if (lookup->ready >= 0) close(lookup->ready);
    free(lookup);
    errno = error;
    return NULL;
}

/* [webhook] Finds the addresses of the host, within the request's time. They are in the look-up,
 * which is the webhook's; NULL when there are none. A look-up that was given up is taken up again;
 * one that ended meanwhile is old, and made anew: names move. */
static const struct addrinfo *webhook_conn_find(struct webhook_conn *conn)
{
    struct webhook *hook = conn->hook;
    if (hook->lookup && atomic_load(&hook->lookup->done)) { /* of a request before, and old */
        lookup_drop(hook->lookup);
        hook->lookup = NULL;
    }
    if (!hook->lookup) hook->lookup = lookup_begin(&hook->url);
    const struct webhook_lookup *lookup = hook->lookup;
    if (!lookup) {
        webhook_fail(conn->why, "cannot look %.100s up: %s", hook->url.host, strerror(errno));
        return NULL;
    }
    char why[WEBHOOK_WHY] = "", *said = conn->why;
    conn->why = why;
    while (!atomic_load(&lookup->done) && webhook_conn_wait(conn, lookup->ready, POLLIN)) continue;
    conn->why = said;
    const char *problem = !atomic_load(&lookup->done) ? "the resolver does not answer in time"
                          : lookup->error             ? gai_strerror(lookup->error)
                                                      : NULL;
    if (!problem) return lookup->addresses;
    webhook_fail(conn->why, "cannot find %.100s: %s", hook->url.host, problem);
    return NULL;
}

/* [webhook] Finds the host and connects to it. */
static bool webhook_conn_open(struct webhook_conn *conn)
{
    const struct webhook_url *url = &conn->hook->url;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST}, *number;
    char port[8];
    if (!url->is_address) {
        const struct addrinfo *found = webhook_conn_find(conn);
        return found && webhook_conn_connect(conn, found);
    }
    snprintf(port, sizeof port, "%u", url->port);
    int error = getaddrinfo(url->host, port, &hints, &number); /* asks nobody */
    if (error)
        return webhook_fail(conn->why, "cannot find %.100s: %s", url->host, gai_strerror(error));
    bool good = webhook_conn_connect(conn, number);
    freeaddrinfo(number);
    return good;
}

/* [webhook] True if a certificate is for this IP address, by its subjectAltName (RFC 5280 section
 * 4.2.1.6). */
static bool cert_has_address(const mbedtls_x509_crt *cert, const char *host)
{
    enum { TAG = 0x1f, ADDRESS = 7 }; /* RFC 5280 section 4.2.1.6 */
    uint8_t packed[16];
    bool v4 = !strchr(host, ':');
    if (!address_pack_text((struct span){host, strlen(host)}, packed)) return false;
    struct span wanted = {(const char *)packed + (v4 ? 12 : 0), v4 ? 4 : 16};
    const mbedtls_x509_sequence *name = &cert->subject_alt_names;
    for (; name && name->buf.p; name = name->next)
        if ((name->buf.tag & TAG) == ADDRESS &&
            !bytes_compare(name->buf.p, name->buf.len, wanted.at, wanted.len))
            return true;
    return false;
}

/* Mbed TLS asks about a certificate that it has looked at. It compares names; for a host that is
 * an address there is none to send or compare (RFC 6066 section 3), so that is done here. */
static int webhook_verify(void *context, mbedtls_x509_crt *cert, int depth, uint32_t *flags)
{
    const struct webhook_url *url = context;
    if (!depth && url->is_address && !cert_has_address(cert, url->host))
        *flags |= MBEDTLS_X509_BADCERT_CN_MISMATCH;
    return 0;
}

/* [main, webhook] Reads whom to trust, anew for each request: an updated file counts without a
 * restart. False with the reason in why. What Mbed TLS does not know in the file is passed over,
 * as in every system's list there are kinds of keys it has not. */
static bool webhook_read_roots(const char *path, mbedtls_x509_crt *roots, char *why)
{
    static const char option[] = "webhook-ca-file";
    char err[WHY_MAX];
    mbedtls_x509_crt_init(roots);
    if (!tls_file_readable(option, path, WHY(err))) return webhook_fail(why, "%s", err);
    int error = mbedtls_x509_crt_parse_file(roots, path);
    if (error >= 0 && roots->version) return true;
    if (error >= 0) error = MBEDTLS_ERR_X509_INVALID_FORMAT;
    tls_file_problem(option, path, error,
                     "name a PEM file of those who sign the receiver's"
                     " certificate",
                     WHY(err));
    return webhook_fail(why, "%s", err);
}

/* [webhook] Prepares a context for a request; 0, or what Mbed TLS says against it. At least TLS
 * 1.2, the certificate is verified and cannot be told not to be. */
static int webhook_tls_set(struct webhook_tls *tls, struct webhook_conn *conn)
{
    /* What is left without RSA-PSS; see webhook_conn_begin. */
    static const uint16_t old_signatures[] = {
        MBEDTLS_TLS1_3_SIG_ECDSA_SECP256R1_SHA256, MBEDTLS_TLS1_3_SIG_ECDSA_SECP384R1_SHA384,
        MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA256,       MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA384,
        MBEDTLS_TLS1_3_SIG_RSA_PKCS1_SHA512,       MBEDTLS_TLS1_3_SIG_NONE,
    };
    struct webhook_url *url = &conn->hook->url;
    mbedtls_ssl_config *config = &tls->config;
    char host[ORIGIN_MAX];
    int error = mbedtls_ssl_config_defaults(
        config, MBEDTLS_SSL_IS_CLIENT, MBEDTLS_SSL_TRANSPORT_STREAM, MBEDTLS_SSL_PRESET_DEFAULT);
    mbedtls_ssl_conf_rng(config, tls_random, NULL);
    mbedtls_ssl_conf_min_tls_version(config, MBEDTLS_SSL_VERSION_TLS1_2);
    if (conn->hook->tls12) {
        mbedtls_ssl_conf_max_tls_version(config, MBEDTLS_SSL_VERSION_TLS1_2);
        mbedtls_ssl_conf_sig_algs(config, old_signatures);
    }
    mbedtls_ssl_conf_authmode(config, MBEDTLS_SSL_VERIFY_REQUIRED);
    mbedtls_ssl_conf_ca_chain(config, &tls->roots, NULL);
    mbedtls_ssl_conf_verify(config, webhook_verify, url);
    mbedtls_ssl_conf_session_tickets(config, MBEDTLS_SSL_SESSION_TICKETS_DISABLED);
    if (!error) error = mbedtls_ssl_setup(&tls->ssl, config);
    strcpy(host, url->host);
    size_t len = strlen(host);
    if (len && host[len - 1] == '.') host[len - 1] = 0; /* RFC 6066: without the dot at the end */
    if (!error) error = mbedtls_ssl_set_hostname(&tls->ssl, url->is_address ? NULL : host);
    mbedtls_ssl_set_bio(&tls->ssl, conn, webhook_conn_send, webhook_conn_receive, NULL);
    return error;
}

/* [webhook] Shakes hands, and is sure of whom it talks to. The rest of the request is TLS after
 * it; *tls is to be freed in any case. */
static bool webhook_conn_secure(struct webhook_conn *conn, struct webhook_tls *tls)
{
    char text[128];
    mbedtls_ssl_init(&tls->ssl);
    mbedtls_ssl_config_init(&tls->config);
    if (!webhook_read_roots(conn->hook->options->webhook_ca_file, &tls->roots, conn->why))
        return false;
    int error = webhook_tls_set(tls, conn);
    if (error) return webhook_conn_again(conn, error);
    while ((error = mbedtls_ssl_handshake(&tls->ssl))) {
        /* What is wrong with the certificate says more than the alert that follows from it. */
        uint32_t flags = mbedtls_ssl_get_verify_result(&tls->ssl);
        bool waits = error == MBEDTLS_ERR_SSL_WANT_READ || error == MBEDTLS_ERR_SSL_WANT_WRITE;
        if (!waits && flags && flags != UINT32_MAX) { /* all bits: it did not come to that */
            mbedtls_x509_crt_verify_info(text, sizeof text, "", flags);
            text[strcspn(text, "\n")] = 0;
            return webhook_fail(conn->why, "its certificate is not accepted: %s", text);
        }
        /* The one fault that a second try without those signatures can mend. */
        conn->signs_new = error == MBEDTLS_ERR_SSL_ILLEGAL_PARAMETER &&
                          mbedtls_ssl_get_version_number(&tls->ssl) == MBEDTLS_SSL_VERSION_TLS1_2;
        if (error == MBEDTLS_ERR_SSL_CONN_EOF)
            return webhook_fail(conn->why, "it ended the TLS handshake");
        if (!webhook_conn_again(conn, error)) return false;
    }
    conn->ssl = &tls->ssl;
    return true;
}

/* Frees what webhook_conn_secure made, also where it failed half way. */
static void webhook_tls_free(struct webhook_tls *tls)
{
    mbedtls_ssl_free(&tls->ssl);
    mbedtls_ssl_config_free(&tls->config);
    mbedtls_x509_crt_free(&tls->roots);
}

/* [webhook] Connects, and makes it TLS for https. For TLS 1.3 we have to offer the signatures of
 * RSA-PSS, which Mbed TLS cannot read in TLS 1.2: who answers with one there is asked again at
 * once, for TLS 1.2 without them, and so from now on until that fails. *tls is to be freed if it
 * is true. */
static bool webhook_conn_begin(struct webhook_conn *conn, struct webhook_tls *tls)
{
    struct webhook *hook = conn->hook;
    for (;;) {
        if (!webhook_conn_open(conn)) return false;
        if (!hook->url.secure || webhook_conn_secure(conn, tls)) return true;
        webhook_tls_free(tls);
        close(conn->fd);
        conn->fd = -1;
        hook->tls12 = conn->signs_new && !hook->tls12;
        if (!hook->tls12) return false;
        *conn->why = 0;
    }
}

/* [webhook] Reads the head of the answer into a buffer, passing over interim ones (RFC 9110
 * section 15.2); false without one. */
static bool webhook_conn_read_head(struct webhook_conn *conn, struct buffer *in,
                                   struct response_head *head)
{
    enum { CHUNK = 4096 };
    for (;;) {
        int found = in->len ? response_head_read(in->at, in->len, head) : 0;
        if (found < 0) return webhook_fail(conn->why, "the answer is no HTTP/1.1");
        if (found && head->status >= 200) return true;
        if (found && head->status == 101)
            return webhook_fail(conn->why, "answered 101"); /* which nobody asked for */
        if (found) {
            buffer_drop(in, head->size);
            continue;
        }
        ssize_t n = webhook_conn_read(conn, buffer_room(in, CHUNK), CHUNK);
        if (n <= 0) return webhook_fail(conn->why, "the connection ended without an answer");
        in->len += (size_t)n;
    }
}

/* [webhook] Reads the body and throws it away, so that the other side can write it and does not
 * see a reset: as far as it is known to go, for a second, and not more than WEBHOOK_BODY_MAX. How
 * it goes does not matter: the status has been said. */
static void webhook_conn_skip_body(struct webhook_conn *conn, const struct buffer *in,
                                   const struct response_head *head)
{
    char bytes[4096];
    int64_t soon = clock_mono_ms() + WEBHOOK_BODY_MS;
    /* Without a length it goes to the end of the connection, or to the bound. */
    size_t read = in->len - head->size, most = WEBHOOK_BODY_MAX;
    if (head->length >= 0 && head->length < WEBHOOK_BODY_MAX) most = (size_t)head->length;
    if (head->status == 204 || head->status == 304) most = 0;
    if (soon < conn->deadline) conn->deadline = soon;
    for (ssize_t n = 1; n > 0 && read < most && !webhook_stopping(conn->hook); read += (size_t)n)
        if ((n = webhook_conn_read(conn, bytes, sizeof bytes)) < 0) return;
}

/* [webhook] Sends a request and reads the status of the answer; 0 when there is none, with the
 * reason said. Connection: close: there may be hours between two, and a kept connection would be
 * stale. */
static int webhook_conn_exchange(struct webhook_conn *conn, struct span request)
{
    struct response_head head = {0};
    struct buffer in = {0};
    if (!webhook_conn_begin(conn, &conn->tls)) return 0;
    /* Who refuses a request may answer before it has come, and close: so if it could not be written
     * the answer is looked for all the same. */
    webhook_conn_write(conn, request);
    bool good = webhook_conn_read_head(conn, &in, &head);
    if (good) webhook_conn_skip_body(conn, &in, &head);
    if (conn->ssl) {
        mbedtls_ssl_close_notify(conn->ssl);
        webhook_tls_free(&conn->tls);
        conn->ssl = NULL;
    }
    close(conn->fd);
    buffer_free(&in);
    return good ? head.status : 0;
}

/* ==== 33. Webhooks: delivery ==================================================================
 * The thread that takes batches from the outbox and posts them until they are taken: in order,
 * each again and again until it was answered with 2xx, was given up, or is told to stop. It only
 * reads the store; that a batch is done it says in store.outbox_done, and the hub has the writer
 * remove it.
 *
 *     POST /presence HTTP/1.1
 *     X-Presence-Delivery: 5939c933-1042         the first position: the same for every attempt
 *     X-Presence-Signature: t=SECONDS,v1=HMAC    of this attempt
 *
 *     {"sent_at":"...","events":[{"position":"5939c933-1042","change":"join",...},...]}
 *
 * So a batch comes at least once: a server that dies between the answer and that transaction posts
 * it again, under the same name and with the same events. */

/* The position of the first change of a batch, which names the delivery: the same for every
 * attempt, so that the receiver knows a batch that it has taken already. "" if the store's text is
 * damaged. */
static const char *outbox_batch_position(const struct outbox_batch *batch, char out[POSITION_TEXT])
{
    struct json_reader reader = {batch->text.at, batch->text.at + batch->text.len};
    struct json_value first, position;
    if (!json_take_value(&reader, JSON_DEPTH_MAX, &first) ||
        !json_member(first, "position", &position) || json_string(position, out, POSITION_TEXT) < 0)
        *out = 0;
    return out;
}

/* [webhook] Makes the request that delivers a batch: the time and the signature are of this
 * attempt, the events are the store's text. */
static void webhook_write(struct webhook *hook, const struct outbox_batch *batch,
                          struct buffer *out)
{
    struct buffer body = {0};
    char signature[WEBHOOK_SIGNATURE];
    int64_t wall = clock_wall_ms();
    char first[POSITION_TEXT];
    json_begin(&body);
    json_time(&body, "sent_at", wall, true);
    json_open(&body, "events", '[');
    buffer_add(&body, batch->text.at, batch->text.len); /* objects, commas between them */
    buffer_text(&body, "]}");
    lock_take(&hook->lock, RANK_WEBHOOK);
    webhook_sign((struct span){hook->secret.at, hook->secret.len}, wall / 1000,
                 (struct span){body.at, body.len}, signature);
    lock_give(&hook->lock, RANK_WEBHOOK);
    buffer_print(out,
                 "POST %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: presence/" PRESENCE_VERSION
                 "\r\nConnection: close\r\nContent-Type: application/json\r\n"
                 "Content-Length: %zu\r\nX-Presence-Signature: %s\r\n"
                 "X-Presence-Delivery: %s\r\n\r\n",
                 hook->url.target, hook->url.authority, body.len, signature,
                 outbox_batch_position(batch, first));
    buffer_add(out, body.at, body.len);
    buffer_free(&body);
}

/* [webhook] Delivers a batch, or says why not. */
static enum webhook_result webhook_post(struct webhook *hook, const struct outbox_batch *batch,
                                        char why[WEBHOOK_WHY])
{
    struct buffer request = {0};
    struct webhook_conn conn = {.hook = hook, .fd = -1, .why = why};
    *why = 0;
    webhook_write(hook, batch, &request);
    conn.deadline = clock_mono_ms() + hook->options->webhook_timeout;
    int status = webhook_conn_exchange(&conn, (struct span){request.at, request.len});
    buffer_free(&request);
    if (status >= 200 && status < 300) return WEBHOOK_DELIVERED;
    if (!status && webhook_stopping(hook)) return WEBHOOK_STOPPED;
    if (status) snprintf(why, WEBHOOK_WHY, "answered %d", status);
    return status == WEBHOOK_GONE ? WEBHOOK_IS_GONE : WEBHOOK_FAILED;
}

/* [webhook] Says that a batch is done with, delivered or given up, and wakes the hub to have it
 * removed. */
static void webhook_finish(struct webhook *hook, const struct outbox_batch *batch,
                           _Atomic uint64_t *counter)
{
    count_many(counter, batch->count);
    atomic_store(&hook->store->outbox_done, batch->last);
    loop_wake(hook->hub);
}

/* [webhook] Remembers a request that went well, and logs it if the one before did not. */
static void webhook_record_success(struct webhook *hook, int64_t failing_since)
{
    if (failing_since)
        log_line(hook->log, LOG_WARN, "webhook: %s takes changes again, after %" PRId64 " s",
                 hook->url.origin, (clock_mono_ms() - failing_since) / 1000);
    lock_take(&hook->lock, RANK_WEBHOOK);
    hook->last_success = clock_wall_ms();
    *hook->last_error = 0;
    lock_give(&hook->lock, RANK_WEBHOOK);
}

/* [webhook] Remembers a request that failed, and logs it if the one before did not: a receiver
 * that is down for a day is two lines, not a thousand. */
static void webhook_record_failure(struct webhook *hook, bool first, bool gone, const char *why)
{
    count_one(&hook->counters->webhook_failures);
    if (gone)
        log_line(hook->log, LOG_WARN,
                 "webhook: %s answered 410: it is told nothing more until the"
                 " next start",
                 hook->url.origin);
    else if (first)
        log_line(hook->log, LOG_WARN,
                 "webhook: cannot deliver to %s: %s; changes wait in the"
                 " store",
                 hook->url.origin, why);
    lock_take(&hook->lock, RANK_WEBHOOK);
    snprintf(hook->last_error, sizeof hook->last_error, "%s", why);
    lock_give(&hook->lock, RANK_WEBHOOK);
}

/* [webhook] Waits for the next batch and takes it once it is final; false when the thread is to
 * end. The batch is the caller's to free, and pinned in the store until the caller says so:
 * otherwise it could be given up for want of room while it is delivered, and counted as both. */
static bool webhook_take(struct webhook *hook, struct outbox_batch *batch)
{
    while (!webhook_stopping(hook)) {
        bool closed = store_outbox_close(hook->store);
        int found = closed ? store_outbox_next(hook->store, batch) : 0;
        if (closed) store_outbox_pin(hook->store, found > 0 ? batch->last : 0);
        if (found > 0) return true;
        buffer_free(&batch->text);
        *batch = (struct outbox_batch){0};
        /* A transaction under way ends soon; a store that cannot be read is tried again; otherwise
         * there is nothing to do until somebody wakes the thread. */
        int64_t wait = !closed ? WEBHOOK_CLOSE_MS : found < 0 ? STORE_RETRY_MS : 3600000;
        webhook_poll(hook, -1, 0, clock_mono_ms() + wait);
    }
    return false;
}

/* [webhook] Waits after so many failures in a row, or until the thread is to end. The outbox's
 * clock runs meanwhile: this is time in which delivery was tried. */
static void webhook_back_off(struct webhook *hook, unsigned failures)
{
    uint16_t random;
    random_bytes(&random, sizeof random);
    int64_t now = clock_mono_ms(), until = now + webhook_backoff(failures, random);
    store_outbox_try(hook->store, now, until);
    while (!webhook_stopping(hook) && clock_mono_ms() < until) webhook_poll(hook, -1, 0, until);
}

/* [webhook] The thread: delivers batch after batch until it is told to stop, or was answered 410.
 *
 * A batch is given up when it was tried in vain for --webhook-give-up, measured by the outbox's
 * clock, which runs only while the receiver fails: neither a server that was off for a week nor a
 * queue that is long makes changes old. So the clock is let run for the length of an attempt at
 * most where the one before failed, and stands behind each; and the first batch after a success is
 * posted however old it is. */
static void *webhook_run(void *argument)
{
    struct webhook *hook = argument;
    struct outbox_batch batch = {0};
    char why[WEBHOOK_WHY];
    unsigned failures = 0;
    int64_t failing_since = 0;
    enum webhook_result result = WEBHOOK_FAILED;
    prctl(PR_SET_NAME, "webhook");
    while (result < WEBHOOK_IS_GONE && webhook_take(hook, &batch)) {
        int64_t now = clock_mono_ms();
        int64_t end = failures ? now + hook->options->webhook_timeout : now;
        int64_t tried = store_outbox_try(hook->store, now, end);
        /* one that is too old has its chance too, if nothing is known against the receiver */
        bool old = tried - batch.tried > hook->options->webhook_give_up;
        result = failures && old ? WEBHOOK_FAILED : webhook_post(hook, &batch, why);
        now = clock_mono_ms();
        store_outbox_try(hook->store, now, now);
        if (result == WEBHOOK_DELIVERED) {
            webhook_record_success(hook, failing_since);
            webhook_finish(hook, &batch, &hook->counters->webhook_deliveries);
            failures = 0;
            failing_since = 0;
        } else if (failures && old) {
            webhook_finish(hook, &batch, &hook->counters->webhook_dead);
        } else if (result != WEBHOOK_STOPPED) {
            webhook_record_failure(hook, !failures, result == WEBHOOK_IS_GONE, why);
            if (!failures++) failing_since = clock_mono_ms();
            store_outbox_pin(hook->store, 0); /* from here on it may be given up */
            if (result == WEBHOOK_FAILED) webhook_back_off(hook, failures);
        }
        buffer_free(&batch.text);
        batch = (struct outbox_batch){0};
    }
    return NULL;
}

/* [main] Reads the secret, and has it used from the next request on; wait as secret_read has it.
 * False with one line in err and the old one in use. */
static bool webhook_read_secret(struct webhook *hook, bool wait, struct why why)
{
    const char *path = hook->options->webhook_secret_file;
    struct buffer secret = {0}, old;
    bool good =
        secret_read("webhook-secret-file", path, wait, WEBHOOK_SECRET_MAX + 2, &secret, why);
    secret_trim(&secret);
    if (good && (secret.len < WEBHOOK_SECRET_MIN || secret.len > WEBHOOK_SECRET_MAX)) {
        good = fail(why,
                    "--webhook-secret-file: %.200s has %zu bytes; a secret has %d to %d:"
                    " openssl rand -hex 32",
                    path, secret.len, WEBHOOK_SECRET_MIN, WEBHOOK_SECRET_MAX);
    }
    lock_take(&hook->lock, RANK_WEBHOOK);
    old = good ? hook->secret : secret;
    if (good) hook->secret = secret;
    lock_give(&hook->lock, RANK_WEBHOOK);
    secret_free(&old);
    return good;
}

/* [any] True if there is somebody to tell. */
static bool webhook_wanted(const struct webhook *hook)
{
    return *hook->options->webhook_url;
}

/* [main] Sets a webhook up as the options say, but for what it is connected to; false with one
 * line in err if they are not good. The file of roots is read to find a wrong one now, not at the
 * first change. */
static bool webhook_init(struct webhook *hook, const struct options *options, struct why why)
{
    mbedtls_x509_crt roots;
    char said[WEBHOOK_WHY] = "";
    hook->options = options;
    hook->wake = -1;
    /* The lock is there in any case: /admin/stats takes it. */
    pthread_mutex_init(&hook->lock, NULL);
    if (!webhook_wanted(hook)) return true;
    if (!webhook_url_parse(options->webhook_url, &hook->url))
        return fail(why, "--webhook-url: this is no URL to post to; write"
                         " https://app.example.com/presence, without user and fragment");
    if (!*options->webhook_secret_file)
        return fail(why, "--webhook-url: needs --webhook-secret-file, which what is posted"
                         " is signed with");
    if (!webhook_read_secret(hook, true, why)) return false;
    bool good = !hook->url.secure || webhook_read_roots(options->webhook_ca_file, &roots, said);
    if (hook->url.secure) mbedtls_x509_crt_free(&roots);
    if (!good) fail(why, "%s", said);
    return good;
}

/* [main] Asks the thread to end, and not to begin anything; see webhook_wait. */
static void webhook_stop(struct webhook *hook)
{
    if (!hook->running) return;
    atomic_store(&hook->stop_by, clock_mono_ms() + WEBHOOK_STOP_MS);
    webhook_wake(hook);
}

/* [main] Waits for the end of a thread that was asked for it, which is at most WEBHOOK_STOP_MS
 * away. */
static void webhook_wait(struct webhook *hook)
{
    if (!hook->running) return;
    pthread_join(hook->thread, NULL);
    hook->running = false;
}

/* [main] Frees what webhook_init and the thread, which has ended, took. A look-up that hangs is
 * left to its own thread: then the process ends. */
static void webhook_free(struct webhook *hook)
{
    lookup_drop(hook->lookup);
    if (hook->wake >= 0) close(hook->wake);
    secret_free(&hook->secret);
    pthread_mutex_destroy(&hook->lock);
}

/* ==== 34. Server ==============================================================================
 * struct server and the structs that cross threads, with the owner of each field. Nothing here does
 * anything. Tags: [hub], [listener] and so on are the only thread to touch it; * is also read by
 * workers, as said there; what has no tag is set by main before there are threads, and constant. */

/* Where a connection stands, from accept to close; in session.state. The owner of the connection is
 * told by it, see below. */
enum connection_state {
    /* HTTP: the listener's, or a thread's to which it gave the connection. */
    CONNECTION_HELLO,     /* some of a handshake's next records may be there */
    CONNECTION_HANDSHAKE, /* with a handshake worker, or waiting for one */
    CONNECTION_REQUEST,   /* some of a request may be there */
    CONNECTION_BUSY,      /* with a worker, or waiting for one */
    CONNECTION_IDLE,      /* kept alive; nothing of the next request is there */
    CONNECTION_FLUSH,     /* the client has not taken all of its answer */
    CONNECTION_LINGER,    /* all is said; the client is given time to read it and to end */
    /* A WebSocket or a stream: the hub's. Over TLS our close frame is not followed by the end of
     * TLS until the client's has come: some libraries (Python's asyncio) take close_notify for the
     * end of both ways, and then tell their application 1006 in place of our code. */
    CONNECTION_OPEN,
    CONNECTION_CLOSING,   /* our close frame is out, the client's is awaited */
    CONNECTION_FINISHING, /* nothing more is sent; only the end is awaited */
    /* Freed by its owner at the end of the turn: events that were fetched already may be of it. */
    CONNECTION_DEAD,
};

/* [hub] A User-Agent, shared by the connections that sent it. */
struct agent {
    size_t refs;
    char text[];
};

/* Every connection is one of these, from accept(2) to close(2).
 *
 * Who owns it, and so is the only one to read or write it:
 *
 *     accept -> LISTENER <----job----> handshake worker        HELLO, HANDSHAKE
 *      close <-/   ^  |
 *                 job seam_submit
 *                  |  v
 *                 worker --job--> HUB -> close                  OPEN, CLOSING, FINISHING
 *                    \--> close
 *
 * The way of a request, by functions:
 *
 *     listener   listener_accept, listener_read, (handshake_run on a handshake worker, and back,)
 *                listener_advance until it is whole, listener_make_ready, lane_serve, seam_submit
 *     worker     seam_request, api_answer, a handler of ROUTES; seam_finished, http_conn_served,
 *                http_conn_send; or, granted, http_conn_hand_over
 *     listener   listener_take_back: what the socket did not take, the next request, the end
 *     hub        hub_adopt: a WebSocket or a stream from here on
 *
 * Who frees it: whoever owns it when it ends. The listener and workers at once (http_conn_end). The
 * hub marks it DEAD (connection_end) and frees it at the end of a turn (hub_free_closed), since
 * events that were fetched may be of it; at the server's end hub_free.
 *
 * - The listener has it in every HTTP state but two. In HANDSHAKE it is a handshake worker's from
 *   job_queue_add until its job is back in the listener's inbox, in BUSY a worker's from
 *   seam_submit to http_conn_served. The mutexes on these ways order the memory of both sides.
 * - Meanwhile nobody else can end it: one that has to give way to a newer one of its address
 *   (listener_displace) is only marked http->given_up, which the listener acts on when it is back.
 *   The list of its address, http->address and http->held are under address_lock, whoever has it.
 * - A worker gives it to the listener (loop_submit, loop_park), to the hub (http_conn_hand_over) or
 *   ends it. A socket is in one epoll set at a time, and silent while a worker has it
 *   (EPOLLONESHOT).
 * - The hub has it for good. It drops `http` as it takes the connection over; `ext` stands in the
 *   same place. Fields marked * it changes under table_lock, or they are atomic or constant, since
 *   workers read them for lists of sessions.
 *
 * 200,000 idle users are 200,000 of these and nothing else on the heap: so what is needed before
 * the upgrade only hangs off one pointer, and what most do without off another. */
struct connection {
    struct session_conn session; /* * first: the table's view; address, state */
    struct timer timer;          /* the deadline of the state, or silence */
    struct transport transport;  /* * its round_trip */
    uint64_t number;             /* * shown as connection_id; 0: HTTP, or refused */
    int64_t connected_at;        /* * mono: when the hub got it */
    _Atomic int64_t heard_at;    /* * mono: last byte; of a stream: when something was last sent */
    uint32_t pinged;             /* low half of mono at the last ping; 0: answered, or none */
    uint32_t paced;              /* us that the messages so far are ahead of the pace */
    struct agent *agent;         /* * or NULL */
    union {
        struct ws_partial *partial; /* a frame or message half received, or NULL */
        struct stream *stream;      /* session.is_stream */
    };
    union {
        struct http_conn *http; /* before the hub has it */
        struct conn_ext *ext;   /* after: what a WebSocket has beyond this, or NULL */
    };
};
_Static_assert(sizeof(struct connection) <= 140, "fits musl's slots of 144 bytes");

/* Where a connection is, and so how it may give way to a newer one of its address. The listener
 * alone reads and writes it, also for one that a worker has: as far as it knows. */
enum http_conn_place {
    PLACE_ELSEWHERE, /* with a worker or on its way back: it ends when it is back */
    PLACE_LISTENER,  /* the listener's own, and in no queue: it ends at once */
    PLACE_READY,     /* in a lane: it ends at once, unanswered */
    PLACE_HANDSHAKE, /* in the handshake workers' queue, or with one of them */
};

/* A request whose body is long is looked at by its head first: a stranger's is refused before it is
 * read. */
enum http_conn_vet {
    VET_NONE,   /* not looked at yet, or there is no need */
    VET_ASKED,  /* a worker is at it */
    VET_PASSED, /* the sender may */
};

/* What a worker has granted a request: the hub is to make a WebSocket or a stream of its
 * connection. The client's address and the end of its token are in the session already. */
enum grant_kind { GRANT_NONE, GRANT_WEBSOCKET, GRANT_STREAM };
struct grant {
    uint8_t kind; /* enum grant_kind */
    uint8_t id_len;
    char id[USER_ID_MAX];
    enum error refuse; /* the WebSocket is only opened to be closed with this error's code, or 0 */
    struct id_list *may; /* whom it may follow, unless session.watches_all; or NULL */
    const char *agent;   /* the User-Agent, in the bytes of the request; or NULL */
    uint32_t logouts;    /* of a stream: see struct stream */
    uint8_t feed;        /* enum feed_kind */
    bool resumes;        /* it goes on behind this event: */
    struct position position;
};

/* What a connection has until its upgrade: a request on its way in, an answer on its way out. */
struct http_conn {
    struct job job;        /* to a handshake worker, back to the listener, on to the hub */
    struct seam_item item; /* the request's bytes */
    struct connection *c;  /* whose it is */
    struct server *server;
    TAILQ_ENTRY(http_conn) entry; /* of a lane, or of those that give way in this turn */
    int64_t deadline;             /* mono: of the handshake and the first request together */
    uint8_t kind;                 /* enum listen_kind: where it came in */
    uint8_t handshake;            /* enum handshake: what a handshake worker came to */
    struct tls_hello hello;       /* how much of the first one is there */
    bool polled;                  /* in the listener's epoll set */
    uint8_t place;                /* enum http_conn_place; the listener's, as is the next */
    bool given_up;             /* displaced: to be closed when it is back; see listener_displace */
    uint8_t lane;              /* enum lane_kind */
    uint32_t read_in;          /* the turn in which its last bytes came */
    bool keep_alive;           /* after this answer */
    size_t scanned;            /* bytes already searched for the end of the head */
    size_t head;               /* bytes of the head of the request at the front; 0: not there */
    size_t whole;              /* bytes of all of it; 0: not known */
    struct http_chunks chunks; /* how far its body was read, if that is in chunks */
    bool chunked;
    bool expects;        /* the client waits for a 100 before it sends the body */
    uint8_t vet;         /* enum http_conn_vet */
    const char *listed;  /* its Origin, when one of --allow-origin; once head is known */
    struct buffer aside; /* the request, while a worker looks at a copy of its head */
    size_t held;         /* bytes that are counted as this connection's */
    struct buffer out;   /* the answer */
    struct grant grant;  /* what the hub is to make of it, if it is to have it */
    struct address_entry
        *address; /* the entry of its address, unless exempt; under address_lock, */
    TAILQ_ENTRY(http_conn) neighbours; /* as is the list of those of the same address */
};

/* [hub] What most WebSockets do without most of the time: bytes that wait, users that are followed.
 * Made when first needed (connection_ext), freed when nothing of it is needed (connection_settle).
 */
struct conn_ext {
    struct watcher watcher;
    struct connection *c; /* whose it is */
    struct id_list *may;  /* whom its token lets it follow, or NULL: nobody, or all */

    /* Output. While blocked nothing but `out` is sent, and no change is told. */
    struct buffer out; /* bytes the socket did not take yet */
    bool blocked;      /* out goes first, or records of TLS do */
    uint32_t interest; /* what epoll watches its socket for */

    /* Input that waits: length (uint32_t) and bytes of each message. */
    struct buffer held;               /* watches, see connection_hold */
    struct buffer late;               /* messages not looked at yet, see connection_put_off */
    TAILQ_ENTRY(conn_ext) held_entry; /* linked: in hub.held */
    TAILQ_ENTRY(conn_ext) late_entry; /* linked: in hub.late */
    int64_t ids, ids_at;              /* thousandths of ids ahead of the pace, as of when: mono */

    /* What its TCP takes of bytes that are ahead of a ping, see connection_lives. */
    bool behind;      /* bytes before the last ping were not acknowledged yet */
    uint64_t acked;   /* behind: bytes that its TCP has acknowledged */
    int64_t acked_at; /* mono: when that last grew; or 0 */
};

TAILQ_HEAD(ext_list, conn_ext);

/* The events of turns that have ended, and who reads them: as admins see them, or as all do. */
enum feed_kind { FEED_ADMIN, FEED_OPEN, FEED_COUNT };
struct feed {
    struct events events;
    LIST_HEAD(, stream) streams; /* the open ones */
    int64_t streamless_at;       /* mono: when the last stream ended */
    uint64_t fed;                /* bytes of events that were offered to them */
};

/* [hub] What a client of /admin/events or /api/events has beyond its connection. */
struct stream {
    struct connection *c;
    struct feed *feed;       /* what it reads */
    LIST_ENTRY(stream) list; /* of feed.streams; linked while open */
    struct buffer own;       /* to be sent before events: the head, a reset, a comment */
    uint64_t at;             /* of feed.events: what is to be sent next */
    uint64_t caught_up;      /* what it came back for ends here; not held against it */
    bool blocked;            /* waits until the socket takes more */
    uint32_t logouts;        /* an admin's session opened it when there were so many; or 0 */
};

/* The hub's bounds. Most say how much is done for one before the others have their turn: the hub is
 * one thread, and whatever it does for one client all others wait for. */
enum {
    HUB_EVENTS = 512,  /* fetched from epoll at a time */
    HUB_AGENTS = 64,   /* agents remembered for sharing */
    HUB_NAP_MS = 1000, /* the longest sleep while a user is cached; see hub_wake */

    /* The parts of a turn, us of work. Their sum, some 5 ms, is what a ping may have to wait for
     * when everybody asks for everything; sockets have the largest, as they cannot be told to wait.
     * While they have more, what is for many (watches, snapshots, broadcast) is cut to the least
     * that still goes on. */
    HUB_JOBS_US = 500,
    HUB_INPUT_US = 1500,
    HUB_TIMERS_US = 250,
    HUB_WORK_US = 500,       /* each of: put off messages, watches that waited, telling, freeing */
    HUB_WORK_LEAST_US = 150, /* in its place while sockets have more */

    /* Each of: ending what has run out, filling a batch for the store, taking one that is written.
     * After a restart a million users can be due at once; of these so many at a time are looked at
     * under the table's lock. */
    HUB_TABLE_US = 500,
    TABLE_SHARE = 64,

    /* Read of one socket at a time. TLS must have room for a whole record; a plain socket is read
     * in pieces as long as the longest message of the default --max-message. */
    HUB_READ_SIZE = 20 * 1024,
    HUB_READ_PLAIN = 4096,

    /* What is kept for a client that does not read. Above OUT_READ_MAX nothing more is read from
     * it, so it cannot ask for more; above HUB_OUT_MAX it is dropped. */
    OUT_READ_MAX = 32 * 1024,
    HUB_OUT_MAX = 256 * 1024,

    /* Sent to one before the others have their turn. */
    STREAM_TURN = 256 * 1024,
    STREAM_BATCH = 64 * 1024, /* bytes of events after which the streams are sent them */
    WATCH_TURN = 64 * 1024,

    /* Messages that are longer are put off while more than EVENTS_FEW sockets wait to be looked at;
     * a ping or a status is not. */
    MESSAGE_SHORT = 512,
    EVENTS_FEW = 8,

    /* Watches: ids acted on in one turn as they are read, and users in snapshots not written yet,
     * or to be freed, over all, above which watches wait as text. So a crowd that comes back and
     * asks for everything costs memory for its messages, not for what they ask for. */
    WATCH_AT_ONCE = 256,
    WATCH_BACKLOG_MAX = 100000,
    WATCH_SPREAD = 8192, /* watches of users who changed looked at in one turn */
    WATCH_SWEEP = 1024,  /* users whom nobody follows any more freed in one turn */
    KICK_SHARE = 64,     /* connections closed for a kick before the clock is looked at */

    /* Broadcast: writes side by side before the hub looks what came of them; the text of those that
     * differ from the one before, and the longest that one can be; writes in a batch, which one
     * thread takes; and batches that wait before an io thread is woken: for fewer the hub is done
     * before the thread has begun. */
    BROADCAST_MAX = 2048,
    BROADCAST_TEXT = 256 * 1024,
    BROADCAST_ROOM = 2 * WATCH_MESSAGE_MAX,
    BROADCAST_SHARE = 32,
    BROADCAST_WORTH = 2,
    IO_THREADS_MAX = 3,

    /* How clients come back after the server was gone, see hub_crowd: CROWD_FEW may at once, more
     * take as long as the server needs for so many in a second, and CROWD_SPREAD_MS at least. */
    CROWD_FEW = 100,
    CROWD_SPREAD_MS = 3000,
    CROWD_TLS_RATE = 2000,
    CROWD_PLAIN_RATE = 10000,
    CROWD_TURN = 128, /* connections told in one turn */
};
_Static_assert(HUB_READ_SIZE > TLS_HEAD + TLS_CONTENT_MAX, "see transport_read");

/* Bytes on their way to one connection. */
struct io_write {
    struct connection *c;
    uint32_t at, len; /* in broadcast.text */
    ssize_t result;   /* what transport_write returned */
};

/* Some of them in a row, which one thread takes at a time: so the lock is taken once for
 * BROADCAST_SHARE writes, each of which is a system call. */
struct io_batch {
    struct job job;
    struct broadcast *broadcast;
    size_t from, to; /* of broadcast.writes */
};

/* What many connections are told. The time goes to the system's send(), so the hub and its io
 * threads call it side by side. All here is the hub's; from the moment a batch is queued until
 * broadcast_deliver returns, its writes and their connections' transports are whoever's who has the
 * batch, who sends from the text and sets the results. No memory is had for a message. */
struct broadcast {
    struct job_queue queue; /* of batches */
    size_t filled;          /* writes */
    size_t queued;          /* of them in batches that were queued */
    struct buffer text;     /* BROADCAST_TEXT bytes that stay where they are */
    struct io_write writes[BROADCAST_MAX];
    struct io_batch batches[BROADCAST_MAX / BROADCAST_SHARE];
};

/* [hub] The number of connections at which all were last told over which time to come back; see
 * hub_crowd. */
struct crowd {
    int64_t level;     /* 0, or CROWD_FEW times a power of two */
    int64_t spread_ms; /* what is being told */
    bool telling;      /* some connections have not heard of it */
    uint8_t id_len;    /* the walk over the users goes on behind this one */
    char id[USER_ID_MAX];
};

/* What the hub has for itself. Nobody else touches it but for the locks and atomics inside: loop
 * and reader, which take work; stop_event. */
struct hub {
    struct loop loop;
    struct wheel wheel; /* connections */
    pthread_t thread;

    /* The turn. */
    struct epoll_event events[HUB_EVENTS];
    int event_at, event_count;      /* events not acted on yet: what was no time for */
    int64_t until;                  /* clock_work_us: end of the present part of the turn */
    int64_t turned_at;              /* mono: when the last turn began */
    uint8_t scratch[HUB_READ_SIZE]; /* bytes of the socket being read */

    /* Connections. */
    struct ext_list held;    /* those whose watches wait, in order */
    struct ext_list late;    /* those with messages not looked at yet, in order */
    bool looking;            /* one of these is being acted on: it is put off no more */
    size_t ids;              /* of watches acted on in this turn */
    struct connection *dead; /* freed at the end of the turn, linked by session.next */
    struct buffer reply;     /* to the connection being handled; see connection_flush */
    struct named named;      /* whom the next error in it names */
    struct agent *agents[HUB_AGENTS];
    struct crowd crowd; /* how many connections there are, as clients were told */

    /* Who is told what. */
    struct feed feeds[FEED_COUNT];
    struct buffer event;        /* the one being made */
    struct watch_graph graph;   /* who follows whom */
    struct buffer outgoing;     /* the message being made; kept, so that few allocate */
    struct broadcast broadcast; /* what watchers are told */
    int64_t spread_at;          /* mono: not before this changes are told again */

    /* The store. A batch is in flight from store_submit to hub_batch_done, one at a time. */
    struct job_queue reader;  /* reads of the store: the hub never waits for a disk */
    int64_t sample_at;        /* mono: when the next minute begins */
    struct store_batch batch; /* in flight while batch_under_way */
    struct job batch_done;
    bool batch_filling;   /* and is not with the writer yet */
    bool batch_under_way; /* with the writer, or its users are still in flight */
    int64_t sync_at;      /* mono: not before this is the next batch due */
    int64_t sign_at;      /* mono: the store hears that we live, see server_sign_ms */
    uint64_t delivered;   /* store.outbox_done that the writer knows, or will soon */

    /* The end. */
    bool running; /* the thread was started; main's */
    bool stopping, quitting, stopped;
    int64_t stop_by;     /* mono: sockets still open then are cut */
    int64_t stop_spread; /* ms over which clients were told to come back */
    int stop_event;      /* eventfd: told when no socket is left after hub_stop */
};

enum { LISTENER_READ_SIZE = 64 * 1024 };

TAILQ_HEAD(http_conn_list, http_conn);

/* What a listening socket is for. */
enum listen_kind { LISTEN_HTTP, LISTEN_TLS, LISTEN_REDIRECT, LISTEN_METRICS };

/* One address of --listen, --tls-listen, --redirect-listen or --metrics-listen. */
struct listen_socket {
    int fd;
    enum listen_kind kind;
    struct sockaddr_storage address; /* as bound */
};

/* Requests of one kind on their way to the workers. Those that can take long (lists, histories)
 * have a lane of their own, and never all workers: what is soon answered does not stand behind
 * them. Probes have one because they are answered from the first moment; all others wait until the
 * table has the users of the store, see server_restore. */
enum lane_kind { LANE_PROBE, LANE_QUICK, LANE_COSTLY, LANE_COUNT };
/* One of them. The listener's but for the atomics, which a worker changes when it is done. */
struct lane {
    struct http_conn_list ready; /* whole requests for which no worker was free */
    int most;                    /* with the workers at a time */
    _Atomic int under_way;       /* with the workers */
    _Atomic bool starved;        /* some are ready: a worker that is done wakes the listener */
};

/* What the listener has for itself. Others touch what is atomic, the loop's inbox, the queue, and
 * `held` under address_lock. */
struct listener {
    struct loop loop;
    struct wheel wheel; /* connections in the listener */
    struct lane lanes[LANE_COUNT];
    uint32_t turn;                 /* counts the turns of the loop */
    size_t memory;                 /* what requests under way may hold; see listener_init */
    size_t held;                   /* what they do */
    _Atomic int64_t memory_logged; /* mono: when it was last said that it is not enough */
    struct http_conn_list gone;    /* displaced in this turn, see listener_give_up */
    _Atomic int64_t count;         /* connections that are not the hub's */
    struct timer pause;            /* accepting goes on when it fires */
    bool paused;
    int64_t paused_logged; /* mono */
    bool quitting;
    size_t handshaking;          /* connections with the handshake workers */
    struct job_queue handshakes; /* for them */
    char scratch[LISTENER_READ_SIZE];
};

/* What tokens and the admin's password are checked with. Never changed once made: SIGHUP makes
 * another (server_read_secrets), and this one is freed by the last who uses it. So a worker checks
 * a token without holding a lock. */
struct secrets {
    _Atomic int refs;
    struct token_keys keys;
    struct password password; /* all zero without --admin-password-file */
};

/* The whole program; set up by main before any thread runs. What has no tag is constant after that.
 *
 * The locks. Each is held for microseconds, and never while something waits for a client, a disk or
 * another thread; enum lock_rank has their order.
 *   table_lock    The presence table. The hub alone changes it, and takes the lock to change what
 *                 workers read, never to read; workers take it to read. So what the hub changes is
 *                 seen whole, and the hub itself reads for nothing. Fields that move with every
 *                 byte (last_seen, heard_at) are atomic in place of that. While it is held only
 *                 memory is touched.
 *   loop.lock     An inbox. Taken under nothing; loop_park makes a system call under it.
 *   address_lock  The entries of addresses: the listener counts, workers count, and whoever has a
 *                 connection changes its list and its bytes in there.
 *   session_lock  The admin's sessions; login_lock: who is hashing a password, with login_done;
 *                 refusal_lock: what was logged of refusals; secrets_lock: the pointer to the
 *                 secrets, for as long as it takes to count one more user of them.
 * Locks of others stand with what they guard: store, TLS, webhook, log, job queues. */
struct server {
    struct options options;
    struct log log;
    struct counters counters;    /* [any] atomic */
    _Atomic int64_t wall_offset; /* [any] UTC minus mono, ms; see server_now */
    struct instant started;
    int64_t max_connections;      /* WebSockets and streams */
    _Atomic int64_t connections;  /* [worker +, hub -] WebSockets and streams, open or closing */
    _Atomic int64_t streams;      /* [hub] of them the open streams */
    _Atomic int64_t watching;     /* [hub] users followed, over all connections */
    _Atomic int64_t refused;      /* [worker +, hub -] open only to be closed; in no other count */
    uint32_t epoch;               /* [like presence] of positions: random for each start */
    _Atomic uint64_t last_number; /* [hub] of a connection; upper half random for each start */
    _Atomic bool stopping;        /* [main] no new connections; readyz says so */
    _Atomic bool restored;        /* [main] the table has the users of the store; readyz says so */
    int64_t stop_by;              /* [main] mono: the end of a stop, set before others hear of it */
    long landlock;                /* version by which it is sandboxed, 0: not at all */
    struct store *store;          /* its own locks */
    pthread_mutex_t table_lock;   /* presence */
    struct presence presence;     /* [hub; others with table_lock, only reading] */
    struct hub hub;               /* [hub] but for its loop and queues */
    struct listener listener;     /* [listener] but for its loop, queue, atomics, and `held` */
    struct tls_shared tls;        /* its own lock */
    pthread_mutex_t secrets_lock; /* secrets */
    struct secrets *secrets;      /* [main] in use; replaced as a whole, see secrets_take */
    pthread_mutex_t session_lock; /* sessions */
    struct session_keys sessions; /* [worker] of admins */
    _Atomic uint32_t logouts;     /* [worker] of them that have ended, and 1; see struct stream */
    pthread_mutex_t login_lock;   /* logins */
    pthread_cond_t login_done;    /* it is no longer busy */
    struct login_queue logins;    /* [worker] */
    struct range *trusted;        /* of --trusted-proxy */
    size_t trusted_count;
    pthread_mutex_t refusal_lock;           /* refusal_log */
    struct refusal_log refusal_log;         /* [any] */
    _Atomic uint64_t refusals[ERROR_COUNT]; /* [any] of upgrades, by reason */
    pthread_mutex_t address_lock;   /* addresses, the connections listed there, listener.held */
    struct address_table addresses; /* [listener, worker, hub] */
    struct webhook webhook;         /* its own thread and lock */
    struct listen_socket *listen_sockets; /* [listener] the descriptors */
    size_t listen_socket_count;
    struct seam *seam;
};

/* ==== 35. Connections =========================================================================
 * WebSockets and streams as the hub has them: made, written to, ended; and what several threads ask
 * struct server (server_*). A connection is never freed inside its own handler: one that ends is
 * DEAD, out of the table and its socket closed, and is freed at the end of a turn in which no
 * fetched event is left (hub_free_closed). So every function here may end the connection it is
 * given, and callers look at its state, not at a return value. */

enum {
    STOP_RETRY_MS = 500,   /* the first client of a server that stops comes back then */
    STOP_SPREAD_MS = 2000, /* and the last one so much later, or a ms each */
};

/* [any] This moment. UTC is monotonic time plus an offset that only moves when UTC is stepped by
 * more than JITTER_MS: so a moment that was told once is told the same for ever, and two moments
 * keep their order. The offset is relaxed: whoever reads an old one tells a time that was right a
 * moment ago. */
static struct instant server_now(struct server *server)
{
    enum { JITTER_MS = 10 };
    struct instant now = {.mono = clock_mono_ms()};
    int64_t offset = clock_wall_ms() - now.mono;
    now.offset = atomic_load_explicit(&server->wall_offset, memory_order_relaxed);
    if (offset > now.offset + JITTER_MS || offset < now.offset - JITTER_MS) {
        atomic_store_explicit(&server->wall_offset, offset, memory_order_relaxed);
        now.offset = offset;
    }
    return now;
}

/* [any] True if limits by address are not for this one: a trusted proxy speaks for many. */
static bool server_exempts(const struct server *server, const uint8_t address[16])
{
    return ranges_have(server->trusted, server->trusted_count, address);
}

/* [any] Gives back the place of a WebSocket among those of its address; upgrade_reserve_address
 * took it. */
static void server_release_address(struct server *server, const uint8_t address[16])
{
    uint8_t key[16];
    if (!server->options.max_per_address || server_exempts(server, address)) return;
    address_group(address, key);
    lock_take(&server->address_lock, RANK_ADDRESS);
    struct address_entry *entry = address_make(&server->addresses, key); /* it is there */
    entry->connections--;
    address_settle(&server->addresses, entry, clock_mono_ms());
    lock_give(&server->address_lock, RANK_ADDRESS);
}

/* [hub, or table_lock] The position of the last transition. */
static struct position server_position(const struct server *server)
{
    return (struct position){server->epoch, server->presence.sequence};
}

/* [worker] Takes a place among the connections; whoever ends one gives it back. Counting first and
 * taking back what was too much needs no lock: for a moment the count may be above the limit, never
 * what is granted. */
static enum error server_reserve(struct server *server)
{
    if (atomic_load(&server->stopping)) return ERROR_STOPPING;
    if (atomic_fetch_add(&server->connections, 1) < server->max_connections) return ERROR_NONE;
    atomic_fetch_sub(&server->connections, 1);
    return ERROR_OVERLOADED;
}

/* [any] Counts an upgrade that was refused, and logs it, since the page sees no more than 1006. A
 * client that is refused again and again must not fill the log: refusal_tells says each (error,
 * address) once and stops at a number a minute. `detail`, `origin` and `host` may be NULL. */
static void server_count_refusal(struct server *server, enum error error, const uint8_t address[16],
                                 int64_t now, const char *detail, const char *origin,
                                 const char *host)
{
    char from[INET6_ADDRSTRLEN];
    bool last = false;
    count_one(&server->refusals[error]);
    lock_take(&server->refusal_lock, RANK_REFUSAL);
    bool tell =
        refusal_tells(&server->refusal_log, server->addresses.map.key, error, address, now, &last);
    lock_give(&server->refusal_lock, RANK_REFUSAL);
    if (!tell) return;
    log_line(&server->log, LOG_INFO, "upgrade refused: %s from %s, origin %.100s, host %.100s: %s",
             ERRORS[error].code, address_unpack_text(address, from, sizeof from),
             origin ? origin : "-", host ? host : "-",
             detail && *detail ? detail : ERRORS[error].text);
    if (last)
        log_line(&server->log, LOG_INFO,
                 "upgrade refused: no more is told within this minute; see"
                 " presence_upgrades_refused_by_reason_total");
}

/* [hub] The number of a new connection, as connection_id shows it. The upper half is random for
 * each start, so a number names one connection also across restarts; relaxed, since only the hub
 * adds. */
static uint64_t server_number(struct server *server)
{
    return atomic_fetch_add_explicit(&server->last_number, 1, memory_order_relaxed) + 1;
}

static struct connection *connection_of_timer(struct timer *timer)
{
    return container_of(timer, struct connection, timer);
}

/* [whoever has it] Frees the HTTP part of a connection, once it is out of the listener's lists and
 * counts (http_conn_leave). */
static void http_conn_free(struct http_conn *p)
{
    buffer_free(&p->out);
    buffer_free(&p->aside);
    free(p->item.bytes);
    free(p->item.authority);
    free(p->grant.may);
    free(p);
}

/* [hub] Shares a User-Agent with connections that sent the same lately: most clients are of a few
 * kinds, and a copy each would be a third of what an idle user costs. Cut to AGENT_MAX bytes at a
 * whole character. NULL for none; hub_drop_agent gives it back. */
static struct agent *hub_share_agent(struct hub *hub, const char *text)
{
    size_t len = text ? strnlen(text, AGENT_MAX) : 0;
    while (len && ((unsigned char)text[len] & 0xc0) == 0x80) len--;
    if (!len) return NULL;
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (size_t i = 0; i < len; i++) hash = (hash ^ (unsigned char)text[i]) * 16777619u;
    struct agent **slot = &hub->agents[hash % HUB_AGENTS];
    if (*slot && !strncmp((*slot)->text, text, len) && !(*slot)->text[len]) {
        (*slot)->refs++;
        return *slot;
    }
    struct agent *agent = mem_new(sizeof *agent + len + 1);
    memcpy(agent->text, text, len);
    agent->refs = 2; /* the caller and the slot */
    if (*slot && !--(*slot)->refs) free(*slot);
    return *slot = agent;
}

/* [hub] Gives an agent back; NULL is fine. */
static void hub_drop_agent(struct agent *agent)
{
    if (agent && !--agent->refs) free(agent);
}

/* [hub] Takes a connection out of the table, if it is there; its user may go offline. One that was
 * only opened to be told why not never was in it, and is no close. */
static void connection_leave(struct server *server, struct connection *c, struct instant now,
                             enum ending ending)
{
    if (!c->session.user) return;
    lock_take(&server->table_lock, RANK_TABLE);
    presence_disconnect(&server->presence, now, &c->session, ending);
    lock_give(&server->table_lock, RANK_TABLE);
    count_one(&server->counters.closes); /* one that was only opened to be refused is no close */
}

/* [hub] A stream gets no more events; its socket may live a little longer. What the feed keeps is
 * kept for EVENTS_KEEP_MS from now on, so that the client can come back. */
static void stream_leave(struct server *server, struct stream *s, struct instant now)
{
    if (!LIST_LINKED(s, list)) return;
    LIST_REMOVE(s, list);
    buffer_free(&s->own);
    atomic_fetch_sub(&server->streams, 1);
    s->feed->streamless_at = now.mono;
}

/* [hub] What a WebSocket has beyond its struct, made if there is nothing. */
static struct conn_ext *connection_ext(struct connection *c)
{
    ASSERT_THREAD(HUB);
    if (!c->ext) {
        c->ext = mem_new(sizeof *c->ext);
        c->ext->c = c;
        c->ext->interest = EPOLLIN;
        watcher_init(&c->ext->watcher);
    }
    return c->ext;
}

/* [hub] True if bytes wait for its socket. */
static bool connection_blocked(const struct connection *c)
{
    return c->ext && c->ext->blocked;
}

/* [hub] Has epoll watch a connection for what it is to be heard of: its bytes, unless what we keep
 * for it is too much already, so that a client which asks and does not read is stopped by TCP; and
 * room for more, while something waits for that. Where neither is left EPOLLERR and EPOLLHUP still
 * come. */
static void connection_interest(struct server *server, struct connection *c)
{
    struct conn_ext *ext = c->ext;
    if (!ext || c->session.state == CONNECTION_DEAD) return;
    bool full = ext->out.len >= OUT_READ_MAX ||
                ext->held.len + ext->late.len >= (size_t)server->options.max_message;
    uint32_t interest = (full ? 0 : EPOLLIN) | (ext->blocked ? EPOLLOUT : 0);
    if (interest == ext->interest) return; /* none at all: that it is over is told all the same */
    ext->interest = interest;
    loop_poll(&server->hub.loop, EPOLL_CTL_MOD, c->transport.fd, interest,
              poll_data(POLL_CONNECTION, c));
}

/* [hub] Frees the ext if nothing of it is needed. The pace of ids (ext->ids) outlives the rest for
 * a moment: a client could otherwise ask for much, leave, and begin anew with a clean slate. */
static void connection_settle(struct server *server, struct connection *c)
{
    struct conn_ext *ext = c->ext;
    if (!ext || ext->blocked || ext->may || ext->held.len || ext->acked_at) return;
    if (ext->late.len) return;
    if (!watcher_idle(&ext->watcher)) return;
    int64_t pace = server->options.max_rate * IDS_A_MESSAGE; /* a ms, in thousandths */
    bool open = c->session.state == CONNECTION_OPEN;
    if (open && ext->ids > (clock_mono_ms() - ext->ids_at) * pace) return;
    connection_interest(server, c);
    watcher_free(&ext->watcher);
    free(ext);
    c->ext = NULL;
}

static bool connection_reads(const struct connection *c)
{
    return !c->ext || (c->ext->interest & EPOLLIN);
}

static void hub_unlist_held(struct hub *hub, struct conn_ext *ext)
{
    if (TAILQ_LINKED(ext, held_entry)) TAILQ_REMOVE(&hub->held, ext, held_entry);
}

static void hub_unlist_late(struct hub *hub, struct conn_ext *ext)
{
    if (TAILQ_LINKED(ext, late_entry)) TAILQ_REMOVE(&hub->late, ext, late_entry);
}

/* [hub] True if more may be owed to a connection now: it takes what it is sent, and most of what it
 * asked for before is written. Else its watches are held: memory for it is bounded by --max-watch.
 */
static bool connection_may_ask(const struct server *server, const struct connection *c)
{
    const struct watcher *watcher = &c->ext->watcher;
    return !c->ext->blocked &&
           (!watcher->backlog || watcher->backlog < (size_t)server->options.max_watch);
}

/* [hub] Puts a connection whose watches wait in the row of those that hub_work serves, if nothing
 * of its own keeps it. Called wherever that may have changed. */
static void connection_list_held(struct server *server, struct connection *c)
{
    struct hub *hub = &server->hub;
    struct conn_ext *ext = c->ext;
    if (!ext || !ext->held.len || TAILQ_LINKED(ext, held_entry)) return;
    if (connection_may_ask(server, c)) TAILQ_INSERT_TAIL(&hub->held, ext, held_entry);
}

/* [hub] Drops what a connection has asked for and not been given a turn for. */
static void connection_drop_held(struct server *server, struct connection *c)
{
    if (!c->ext) return;
    hub_unlist_held(&server->hub, c->ext);
    hub_unlist_late(&server->hub, c->ext);
    buffer_free(&c->ext->held);
    buffer_free(&c->ext->late);
}

/* [hub] A connection follows nobody any more. */
static void connection_unwatch(struct server *server, struct connection *c)
{
    if (!c->ext) return;
    struct watch_graph *w = &server->hub.graph;
    connection_drop_held(server, c);
    atomic_fetch_sub(&server->watching, (int64_t)c->ext->watcher.count);
    watcher_end(w, &c->ext->watcher);
    c->ext->acked_at = 0;
    free(c->ext->may);
    c->ext->may = NULL;
    connection_settle(server, c);
}

/* [hub] The end of a connection: out of the table, socket closed, DEAD. What it follows, and
 * itself, are freed by hub_free_closed: that takes long for thousands who end at once, and others'
 * bytes wait behind it. The reply under way was for it, and is dropped. session.next links the
 * dead, as it is out of its user's list. */
static void connection_end(struct server *server, struct connection *c, struct instant now,
                           enum ending ending)
{
    ASSERT_THREAD(HUB);
    if (c->session.state == CONNECTION_DEAD) return;
    connection_leave(server, c, now, ending);
    c->session.state = CONNECTION_DEAD;
    timer_disarm(&server->hub.wheel, &c->timer);
    transport_close(&c->transport);
    if (c->session.is_stream) stream_leave(server, c->stream, now);
    else ws_partial_free(&c->partial);
    if (c->ext) {
        buffer_free(&c->ext->out);
        c->ext->blocked = false;
        connection_drop_held(server, c);
    }
    c->session.next = (struct session_conn *)server->hub.dead;
    server->hub.dead = c;
    server->hub.reply.len = 0;
    atomic_fetch_sub(c->number ? &server->connections : &server->refused, 1);
    if (c->number && !c->session.is_stream) server_release_address(server, c->session.address);
}

/* [hub] Frees the dead, as many as there is time for. None while fetched events are left: they may
 * be of them. */
static void hub_free_closed(struct server *server)
{
    struct hub *hub = &server->hub;
    if (hub->event_at < hub->event_count) return;
    for (bool over = false; hub->dead && !over; over = clock_work_us() >= hub->until) {
        struct connection *c = hub->dead;
        hub->dead = (struct connection *)c->session.next;
        if (c->ext) watcher_stall(&hub->graph, &c->ext->watcher, false);
        connection_unwatch(server, c);
        hub_drop_agent(c->agent);
        if (c->session.is_stream) free(c->stream);
        free(c);
    }
}

/* [hub] Keeps what the socket did not take, and waits until it takes more. What the client says is
 * still heard. It is told no changes meanwhile (its watcher is stalled): it gets the latest state
 * when it reads again, so what is kept does not grow with them. Above HUB_OUT_MAX it is given up.
 */
static void connection_keep(struct server *server, struct connection *c, struct instant now,
                            const char *at, size_t len)
{
    struct conn_ext *ext = connection_ext(c);
    ext->blocked = true;
    watcher_stall(&server->hub.graph, &ext->watcher, true);
    hub_unlist_held(&server->hub, ext);
    buffer_add(&ext->out, at, len);
    if (ext->out.len > HUB_OUT_MAX) connection_end(server, c, now, END_DROPPED);
    else connection_interest(server, c);
}

/* [hub] Goes on after transport_write has returned `result` for these bytes. */
static void connection_written(struct server *server, struct connection *c, struct instant now,
                               struct span bytes, ssize_t result)
{
    size_t sent = result > 0 ? (size_t)result : 0;
    if (result == TRANSPORT_BROKEN) connection_end(server, c, now, END_DROPPED);
    else if (sent < bytes.len || transport_unsent(&c->transport))
        connection_keep(server, c, now, bytes.at + sent, bytes.len - sent);
    else if (c->session.state == CONNECTION_FINISHING) transport_finish(&c->transport);
}

/* [hub] Sends hub.reply, which was made for this connection, behind what still waits. Must end
 * every handler that may have made one: the reply is one buffer for all, so that answers of one
 * turn go out in one write and an idle connection has none. */
static void connection_flush(struct server *server, struct connection *c, struct instant now)
{
    ASSERT_THREAD(HUB);
    struct span reply = {server->hub.reply.at, server->hub.reply.len};
    server->hub.reply.len = 0;
    if (c->session.state == CONNECTION_DEAD || !reply.len) return;
    ssize_t n = connection_blocked(c) ? TRANSPORT_AGAIN
                                      : transport_write(&c->transport, reply.at, reply.len);
    connection_written(server, c, now, reply, n);
}

/* [hub] The socket takes more. When all is out the connection is told changes again, and what it
 * asked for meanwhile gets its turn. */
static void connection_writable(struct server *server, struct connection *c, struct instant now)
{
    struct conn_ext *ext = c->ext;
    ssize_t n = transport_write(&c->transport, ext->out.at, ext->out.len);
    if (n == TRANSPORT_BROKEN) {
        connection_end(server, c, now, END_DROPPED);
        return;
    }
    if (n < 0) return;
    buffer_drop(&ext->out, (size_t)n);
    ext->blocked = ext->out.len || transport_unsent(&c->transport);
    connection_interest(server, c);
    if (ext->blocked) return;
    buffer_free(&ext->out);
    watcher_stall(&server->hub.graph, &ext->watcher, false);
    if (!watcher_idle(&ext->watcher)) watcher_list(&server->hub.graph.busy, &ext->watcher);
    connection_list_held(server, c);
    connection_settle(server, c);
    if (c->session.state == CONNECTION_FINISHING) transport_finish(&c->transport);
}

/* [hub] Ends a WebSocket with a close frame, the reply's last (RFC 6455 section 7): out of the
 * table now, while the socket lives until the client has closed it too, at most CLOSE_WAIT_MS. A
 * socket that was closed at once would lose our last bytes where the client's are unread (TCP
 * answers with a reset). Code CLOSE_NO_STATUS sends an empty frame. Nothing if it is closing
 * already. */
static void connection_close(struct server *server, struct connection *c, struct instant now,
                             int code, const char *reason, enum ending ending)
{
    if (c->session.state != CONNECTION_OPEN) return;
    connection_leave(server, c, now, ending);
    connection_unwatch(server, c);
    ws_encode_close(&server->hub.reply, code, reason);
    ws_partial_free(&c->partial);
    c->session.state = c->transport.tls ? CONNECTION_CLOSING : CONNECTION_FINISHING;
    timer_arm(&server->hub.wheel, &c->timer, now.mono + CLOSE_WAIT_MS);
}

/* [hub] Closes for an error of the table that has a close code. */
static void connection_close_error(struct server *server, struct connection *c, struct instant now,
                                   enum error error, enum ending ending)
{
    connection_close(server, c, now, ERRORS[error].close_code, ERRORS[error].code, ending);
}

/* [hub] Closes as the server stops: come back in so many ms. */
static void connection_close_restart(struct server *server, struct connection *c,
                                     struct instant now, int64_t retry_after)
{
    char reason[40];
    snprintf(reason, sizeof reason, "retry_after=%" PRId64, retry_after);
    connection_close(server, c, now, CLOSE_RESTART, reason, END_STOP);
}

/* [hub] Closes one that came while the server stops: it comes back with the others, at any time of
 * their spread. */
static void connection_close_late(struct server *server, struct connection *c, struct instant now)
{
    uint32_t any;
    int64_t spread = server->hub.stop_spread;
    random_bytes(&any, sizeof any);
    if (spread < STOP_SPREAD_MS) spread = STOP_SPREAD_MS;
    connection_close_restart(server, c, now, STOP_RETRY_MS + any % spread);
}

/* [hub] Adds a text message to the reply. */
static void hub_reply_text(struct hub *hub, const char *text)
{
    ws_encode(&hub->reply, WS_OP_TEXT, span_of(text));
}

/* [hub] Begins a JSON message of this type; returns where its members go, hub_reply_end adds it to
 * the reply. */
static struct buffer *hub_reply_begin(struct hub *hub, const char *type)
{
    hub->outgoing.len = 0;
    json_begin(&hub->outgoing);
    json_text(&hub->outgoing, "type", type);
    return &hub->outgoing;
}

/* [hub] See hub_reply_begin. */
static void hub_reply_end(struct hub *hub)
{
    json_close(&hub->outgoing, '}');
    ws_encode(&hub->reply, WS_OP_TEXT, (struct span){hub->outgoing.at, hub->outgoing.len});
}

/* [hub] Adds an error message: why the client was refused, and for whom (hub.named). */
static void hub_reply_error(struct hub *hub, enum error error)
{
    struct buffer *text = hub_reply_begin(hub, "error");
    json_text(text, "code", ERRORS[error].code);
    json_text(text, "message", ERRORS[error].text);
    named_write(text, &hub->named);
    hub->named.count = 0;
    hub_reply_end(hub);
}

/* ==== 36. WebSocket messages ==================================================================
 * What a client says, and what follows: heartbeats, statuses, users to follow. All of it is the
 * hub's but the reads of the store. The way of a message, and where it may have to wait:
 *
 *     socket -> connection_readable -> connection_frame -> connection_message -> MESSAGES
 *                                             |                    |                |
 *                                  too fast: closed            hub.late         hub.held
 *                                                             (hub_look)       (hub_work)
 *
 * Whatever a client sends has a bounded cost in one turn. Frames have a pace. A long message waits
 * in hub.late while others' bytes wait; a watch waits in hub.held while there is too much to tell.
 * Both serve one message of each connection in turn, and keep messages as the text they came as,
 * whose memory counts against --max-message: a connection that fills it is not read from any more,
 * and TCP stops the client. */

/* [hub] {"type":"ping"}: answered with the time of the server. */
static enum error message_ping(struct server *server, struct connection *c, struct instant now,
                               struct json_value message)
{
    (void)c, (void)message;
    json_time(hub_reply_begin(&server->hub, "pong"), "time", wall_of(now), true);
    hub_reply_end(&server->hub);
    return ERROR_NONE;
}

/* [hub, worker] Reads what a user wishes to set by hand, from the members of a message or body. An
 * expiry is kept as a duration: the caller's clock says from when. */
static enum error manual_parse(struct json_value object, struct manual_update *update)
{
    struct json_value value;
    char text[STATUS_TEXT_MAX + 1];
    int64_t seconds = 0;
    *update = (struct manual_update){.status = STATUS_AUTOMATIC};
    if (!json_member(object, "status", &value)) return ERROR_INVALID_STATUS;
    for (uint8_t i = 0; i < STATUS_AUTOMATIC; i++)
        if (json_is(value, manual_name(i))) update->status = i;
    if (update->status == STATUS_AUTOMATIC && value.kind != JSON_NULL) return ERROR_INVALID_STATUS;
    if (json_member(object, "message", &value) && value.kind != JSON_NULL) {
        int len = json_string(value, text, sizeof text);
        if (len < 0 || !status_text_valid((struct span){text, (size_t)len}))
            return ERROR_INVALID_PARAMETER;
        update->len = (size_t)len;
        memcpy(update->message, text, update->len);
    }
    if (json_member(object, "expires_in", &value) && value.kind != JSON_NULL) {
        if (!json_number(value, &seconds) || seconds < 1 || seconds > EXPIRES_MAX_S)
            return ERROR_INVALID_PARAMETER;
        update->lifetime = seconds * 1000;
    }
    return ERROR_NONE;
}

/* [hub] "status" with "manual":true: what its user sets by hand, for all their connections and
 * beyond them, until it expires or is set again. The table keeps it and the store has it. */
static enum error message_manual(struct server *server, struct connection *c, struct instant now,
                                 struct json_value message)
{
    struct manual_update update;
    enum error error = manual_parse(message, &update);
    if (error) return error;
    lock_take(&server->table_lock, RANK_TABLE);
    presence_set_manual(&server->presence, now, c->session.user, &update);
    lock_give(&server->table_lock, RANK_TABLE);
    return ERROR_NONE;
}

/* [hub] {"type":"status","status":"away"}: what this connection says of its user; of several
 * connections the most available wins. Members that only mean something when a status is set by
 * hand are refused without "manual":true: a client that forgot it would otherwise believe that it
 * had set one. "offline" is not among the statuses: a connection is a presence. */
static enum error message_status(struct server *server, struct connection *c, struct instant now,
                                 struct json_value message)
{
    struct json_value status, value;
    if (json_member(message, "manual", &value)) {
        if (value.kind == JSON_TRUE) return message_manual(server, c, now, message);
        if (value.kind != JSON_FALSE) return ERROR_INVALID_PARAMETER;
    }
    if (json_member(message, "message", &value) || json_member(message, "expires_in", &value))
        return ERROR_INVALID_PARAMETER;
    if (!json_member(message, "status", &status)) return ERROR_INVALID_STATUS;
    for (int i = STATUS_ONLINE; i < STATUS_OFFLINE; i++) {
        if (!json_is(status, STATUS_NAMES[i])) continue;
        lock_take(&server->table_lock, RANK_TABLE);
        presence_set_status(&server->presence, now, &c->session, i);
        lock_give(&server->table_lock, RANK_TABLE);
        return ERROR_NONE;
    }
    return ERROR_INVALID_STATUS;
}

/* Targets of whom the store is asked, since they are followed and not in the table. The hub's, but
 * the reader's from job_queue_add until the job is back in the hub's inbox. */
struct watch_read {
    struct job job;
    size_t count;
    struct watch_target **users; /* needed until the answer is there; only their ids are read */
    struct stored_user *found;
    struct hub_ask *ask; /* whom the answer is for as well, see hub_set_manual; or NULL */
    bool failed;         /* some could not be read: they count as never seen */
};

/* A cycle: who asks has the reader look first, and what the reader found answers who asked. */
static void hub_ask_found(struct server *server, struct hub_ask *ask, bool failed);

/* [hub] The store has answered; watchers that wait for that go on. A user may have come, and gone,
 * since the store was read: as a target of the graph they are still in the table, which counts. */
static void hub_watch_found(struct server *server, struct job *job)
{
    struct watch_read *read = container_of(job, struct watch_read, job);
    struct watch_graph *w = &server->hub.graph;
    struct instant now = server_now(server);
    lock_take(&server->table_lock, RANK_TABLE);
    for (size_t i = 0; i < read->count; i++) {
        struct watch_target *e = read->users[i];
        struct span id = {e->id, e->id_len};
        if (read->found[i].known)
            presence_recall(&server->presence, now, id, &read->found[i].record)->pinned = true;
        e->resolved = true;
        e->reading = false;
        e->needs--;
        target_unreference(w, e);
    }
    lock_give(&server->table_lock, RANK_TABLE);
    struct watcher *watcher;
    while ((watcher = LIST_FIRST(&w->waiting))) watcher_list(&w->busy, watcher);
    if (read->ask) hub_ask_found(server, read->ask, read->failed);
    free(read->users);
    free(read->found);
    free(read);
}

/* [reader] Asks the store for targets that are not in the table, in short transactions: one that is
 * open keeps the writer from using pages again. A read that failed, which is logged, finds nobody.
 */
static void reader_find_watched(struct server *server, struct job *job)
{
    ASSERT_THREAD(JOB);
    enum { CHUNK = 64 };
    struct watch_read *read = container_of(job, struct watch_read, job);
    struct store *st = server->store;
    for (size_t at = 0; at < read->count; at += CHUNK) {
        MDB_txn *txn = store_begin_read(st);
        int rc = 0;
        for (size_t i = at; txn && !rc && i < read->count && i < at + CHUNK; i++) {
            const struct watch_target *e = read->users[i];
            rc = store_find_stored(st, txn, (struct span){e->id, e->id_len}, &read->found[i]);
        }
        if (txn) store_end_read(st, txn);
        if (rc) store_log_read(st, rc);
        read->failed = read->failed || !txn || rc;
    }
    read->job.run = hub_watch_found;
    loop_submit(&server->hub.loop, &read->job);
}

/* [hub] A read of at most so many targets, none yet. */
static struct watch_read *watch_read_new(size_t most)
{
    struct watch_read *read = mem_new(sizeof *read);
    read->job.run = reader_find_watched;
    read->users = mem_new(most * sizeof(struct watch_target *));
    read->found = mem_new(most * sizeof(struct stored_user));
    return read;
}

/* [hub] Adds a target to a read. It stays in the graph until the read is done. */
static void watch_read_add(struct watch_read *read, struct watch_target *e)
{
    e->reading = true;
    e->needs++;
    read->users[read->count++] = e;
}

/* [hub] Has the users of a snapshot resolved, which is written when all of them are. Those in the
 * table are pinned there, so that what the watcher is told of them stays at hand while they are
 * followed. Of the others the store is asked, once for all watchers of one: they are offline, and
 * have a last_seen. */
static void hub_resolve(struct server *server, struct snapshot *snapshot)
{
    struct watch_read *read = NULL;
    for (size_t i = 0; i < snapshot->count; i++) {
        struct watch_target *e = snapshot->users[i];
        if (e->resolved || e->reading) continue;
        struct user *user = presence_find(&server->presence, (struct span){e->id, e->id_len});
        if (user) {
            user->pinned = true;
            e->resolved = true;
            continue;
        }
        if (!read) read = watch_read_new(snapshot->count);
        watch_read_add(read, e);
    }
    if (read) job_queue_add(&server->hub.reader, &read->job);
}

/* [hub] Has the store asked for a user who is not in the table; hub_ask_found follows, with the
 * user in the table unless never seen. They are a target meanwhile, as if somebody followed them:
 * so whatever they do before the answer is there keeps them in the table. */
static void hub_find_user(struct server *server, struct span id, struct hub_ask *ask)
{
    struct watch_read *read = watch_read_new(1);
    watch_read_add(read, watch_graph_make(&server->hub.graph, id));
    read->ask = ask;
    job_queue_add(&server->hub.reader, &read->job);
}

/* [hub] True if a connection may follow this user: themselves, or whom the token names. */
static bool connection_may_watch(const struct connection *c, struct span id)
{
    const struct user *self = c->session.user;
    return c->session.watches_all || !bytes_compare(self->id, self->id_len, id.at, id.len) ||
           (c->ext && id_list_has(c->ext->may, id));
}

/* [hub] Checks the ids in a message, and, if `may`, that the connection may follow them all. *count
 * is how many. Before anything is changed: a watch is taken as a whole or not at all. */
static enum error watch_check(const struct connection *c, struct json_value users, bool may,
                              size_t *count)
{
    struct json_value item;
    char id[USER_ID_MAX + 1];
    *count = 0;
    if (users.kind != JSON_ARRAY) return ERROR_INVALID_PARAMETER;
    for (size_t cursor = 0; json_item(users, &cursor, &item); (*count)++) {
        int len = json_string(item, id, sizeof id);
        struct span text = {id, len < 0 ? 0 : (size_t)len};
        if (!user_id_valid(text)) return ERROR_INVALID_USER_ID;
        if (may && !connection_may_watch(c, text)) return ERROR_FORBIDDEN;
    }
    return ERROR_NONE;
}

/* [hub] Has the error name those whom the connection may not follow, so that a client can leave
 * them out. All are valid ids. */
static void watch_name_forbidden(struct server *server, const struct connection *c,
                                 struct json_value users)
{
    struct json_value item;
    char id[USER_ID_MAX + 1];
    for (size_t cursor = 0; json_item(users, &cursor, &item);) {
        int len = json_string(item, id, sizeof id);
        struct span text = {id, len < 0 ? 0 : (size_t)len};
        if (!user_id_valid(text) || connection_may_watch(c, text)) continue;
        if (named_add(&server->hub.named, text)) return;
    }
}

/* [hub] True if so many ids more keep within the pace: IDS_A_MESSAGE of them count as one message.
 * Twice --max-watch may come at once, so that one list can be let go and another be taken. The
 * bucket is in thousandths of an id: at 1 message a second it drains by 100 an ms. */
static bool connection_ids_in_pace(const struct server *server, struct connection *c,
                                   struct instant now, size_t ids)
{
    int64_t rate = server->options.max_rate, most = 2000 * server->options.max_watch;
    if (!rate) return true;
    if (most < 1000 * IDS_A_MESSAGE) most = 1000 * IDS_A_MESSAGE;
    struct conn_ext *ext = connection_ext(c);
    int64_t left = ext->ids - (now.mono - ext->ids_at) * rate * IDS_A_MESSAGE;
    ext->ids = (left > 0 ? left : 0) + 1000 * (int64_t)ids;
    ext->ids_at = now.mono;
    return ext->ids <= most;
}

/* [hub] True if a watch of so many has to wait: for those before it, for its own connection to take
 * what it asked for, or for the sum of all. A short message can ask for a snapshot many times its
 * size: what a crowd asks for at once is spread over turns, and kept as the messages meanwhile. */
static bool watch_waits(const struct server *server, const struct connection *c, size_t count)
{
    const struct hub *hub = &server->hub;
    return c->ext->held.len || !TAILQ_EMPTY(&hub->held) || !connection_may_ask(server, c) ||
           hub->graph.backlog + hub->graph.unreferenced_count >= WATCH_BACKLOG_MAX ||
           (hub->ids && hub->ids + count > WATCH_AT_ONCE);
}

/* [hub] Keeps a watch or unwatch to be acted on later, as the text it came as: that takes less
 * memory than what it asks for. Those of one connection stay in order, the connections take turns.
 * Each is its length (uint32_t) and its bytes. */
static void connection_hold(struct server *server, struct connection *c, struct span text)
{
    struct buffer *held = &connection_ext(c)->held;
    uint32_t len = (uint32_t)text.len;
    buffer_add(held, &len, sizeof len);
    buffer_add(held, text.at, text.len);
    connection_list_held(server, c);
    connection_interest(server, c);
}

/* [hub] Has a connection follow these users too; a snapshot of them is the answer. All of them or
 * none. A user who is named twice counts once: the graph's stamp marks whom this call has seen. */
static enum error watch_users(struct server *server, struct connection *c, struct json_value users,
                              size_t count)
{
    struct watch_graph *w = &server->hub.graph;
    struct json_value item;
    size_t most = (size_t)server->options.max_watch, fresh = 0;
    server->hub.ids += count;
    struct snapshot *snapshot = mem_new(sizeof *snapshot + count * sizeof *snapshot->users);
    struct watcher *watcher = &connection_ext(c)->watcher;
    char id[USER_ID_MAX + 1];
    w->stamp++;
    for (size_t cursor = 0; json_item(users, &cursor, &item);) {
        int len = json_string(item, id, sizeof id);
        struct watch_target *e = watch_graph_make(w, (struct span){id, (size_t)len});
        if (e->stamp == w->stamp) continue; /* named twice */
        e->stamp = w->stamp;
        fresh += !watcher_find(watcher, e);
        snapshot->users[snapshot->count++] = e;
    }
    /* All or none: nothing has been changed yet. Targets that were made for it and have no
     * watcher are swept like those that lost their last. */
    if (watcher->count + fresh > most) {
        free(snapshot);
        connection_settle(server, c);
        return ERROR_TOO_MANY_WATCHED;
    }
    for (size_t i = 0; i < snapshot->count; i++)
        if (!watcher_find(watcher, snapshot->users[i])) watcher_follow(watcher, snapshot->users[i]);
    atomic_fetch_add(&server->watching, (int64_t)fresh);
    watcher_add_snapshot(w, watcher, snapshot);
    hub_resolve(server, snapshot);
    if (!LIST_LINKED(watcher, list)) watcher_list(&w->busy, watcher);
    return ERROR_NONE;
}

/* [hub] {"type":"watch","users":["bob"]}: follow these too. The order matters: what is wrong is
 * refused at once and costs none of the pace; what is right counts, also when it has to wait, since
 * otherwise waiting would be a way around the pace. */
static enum error message_watch(struct server *server, struct connection *c, struct instant now,
                                struct json_value message)
{
    struct json_value users;
    size_t count;
    if (!json_member(message, "users", &users)) return ERROR_INVALID_PARAMETER;
    enum error error = watch_check(c, users, true, &count);
    if (error == ERROR_FORBIDDEN) watch_name_forbidden(server, c, users);
    if (error) return error;
    if (!connection_ids_in_pace(server, c, now, count)) return ERROR_TOO_FAST;
    connection_ext(c);
    if (!watch_waits(server, c, count)) return watch_users(server, c, users, count);
    connection_hold(server, c, message.raw);
    return ERROR_NONE;
}

/* [hub] Has a connection follow these users no longer, or nobody when `all`. Ids that it does not
 * follow are no error: two tabs of a page may let the same one go. */
static void unwatch_users(struct server *server, struct connection *c, struct json_value users,
                          bool all)
{
    struct watch_graph *w = &server->hub.graph;
    struct json_value item;
    struct watcher *watcher = &c->ext->watcher;
    size_t before = watcher->count;
    char id[USER_ID_MAX + 1];
    if (all) watcher_let_all_go(w, watcher);
    for (size_t cursor = 0; !all && json_item(users, &cursor, &item);) {
        int len = json_string(item, id, sizeof id);
        const struct watch_target *e = watch_graph_find(w, (struct span){id, (size_t)len});
        if (e) watcher_let_go(w, watcher, e);
    }
    atomic_fetch_sub(&server->watching, (int64_t)(before - watcher->count));
    connection_settle(server, c);
}

/* [hub] {"type":"unwatch","users":["bob"]}: follow these no longer, or, without users, nobody.
 * There is no answer. It is heard also from a client whose socket is full, since it makes things
 * better; behind a watch that waits it waits, too. */
static enum error message_unwatch(struct server *server, struct connection *c, struct instant now,
                                  struct json_value message)
{
    struct json_value users;
    bool all = !json_member(message, "users", &users);
    size_t count = 0;
    enum error error = all ? ERROR_NONE : watch_check(c, users, false, &count);
    if (error || !c->ext) return error;
    if (!connection_ids_in_pace(server, c, now, count)) return ERROR_TOO_FAST;
    if (c->ext->held.len) connection_hold(server, c, message.raw);
    else unwatch_users(server, c, users, all);
    return ERROR_NONE;
}

/* [hub] Acts on the first message that waits of a connection. It was valid JSON when it came; whom
 * the token lets it follow cannot have changed, but its count may be too much by now. */
static enum error connection_take_held(struct server *server, struct connection *c)
{
    struct buffer *held = &c->ext->held;
    struct json_value message, users, type;
    uint32_t len;
    size_t count;
    memcpy(&len, held->at, sizeof len);
    char *text = mem_copy_text(held->at + sizeof len, len);
    buffer_drop(held, sizeof len + len);
    if (!held->len) buffer_free(held);
    json_parse((struct span){text, len}, JSON_DEPTH_MAX, &message); /* it was when it came */
    json_member(message, "type", &type);
    bool named = json_member(message, "users", &users);
    enum error error = ERROR_NONE;
    if (json_is(type, "unwatch")) unwatch_users(server, c, users, !named);
    else if (!(error = watch_check(c, users, true, &count)))
        error = watch_users(server, c, users, count);
    free(text);
    return error;
}

/* [hub] Acts on watches that waited, one of each connection in turn, while there is time and room.
 * A connection goes back to the end of the row if it has more, or out of it while its own socket is
 * full. */
static void hub_work(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    const struct watch_graph *w = &hub->graph;
    for (bool over = false; !TAILQ_EMPTY(&hub->held) && !over;
         over = clock_work_us() >= hub->until) {
        struct conn_ext *ext = TAILQ_FIRST(&hub->held);
        struct connection *c = ext->c;
        if (w->backlog + w->unreferenced_count >= WATCH_BACKLOG_MAX) return;
        hub_unlist_held(hub, ext);
        enum error error = connection_take_held(server, c);
        connection_list_held(server, c); /* behind the others */
        connection_interest(server, c);
        if (error) hub_reply_error(hub, error);
        connection_flush(server, c, now);
    }
}

/* What a client may say: a type and who acts on it. A handler checks everything before it changes
 * anything; its error goes back as an error message and the WebSocket stays open, but for TOO_FAST.
 * One that calls connection_hold is acted on by connection_take_held, which has to know it. */
static const struct message_row {
    const char *type;
    enum error (*handle)(struct server *, struct connection *, struct instant, struct json_value);
} MESSAGES[] = {
    {"ping", message_ping},
    {"status", message_status},
    {"watch", message_watch},
    {"unwatch", message_unwatch},
};

/* [hub] True if a message is kept to be acted on later: a long one while others' bytes wait to be
 * looked at, and what the same connection says behind such a one. A thousand of them, acted on as
 * they are read, would be a tenth of a second for everybody else. */
static bool connection_put_off(struct server *server, struct connection *c, struct span text)
{
    struct hub *hub = &server->hub;
    bool busy = !TAILQ_EMPTY(&hub->late) || hub->event_count - hub->event_at > EVENTS_FEW;
    bool behind = c->ext && c->ext->late.len;
    if (hub->looking || !(behind || (busy && text.len > MESSAGE_SHORT))) return false;
    struct buffer *late = &connection_ext(c)->late;
    uint32_t len = (uint32_t)text.len;
    buffer_add(late, &len, sizeof len);
    buffer_add(late, text.at, text.len);
    if (!TAILQ_LINKED(c->ext, late_entry)) TAILQ_INSERT_TAIL(&hub->late, c->ext, late_entry);
    connection_interest(server, c);
    return true;
}

/* [hub] Acts on one text message; what is returned goes back to the client. Bare "ping" is answered
 * for clients that are a line of shell. A user_id in it must be that of the connection: one that
 * says another has a bug that would otherwise stay unseen. */
static enum error connection_message(struct server *server, struct connection *c,
                                     struct instant now, struct span text)
{
    struct json_value message, type, who;
    bool line = text.len == 5 && text.at[4] == '\n'; /* as line-minded tools send it */
    if ((text.len == 4 || line) && !memcmp(text.at, "ping", 4)) {
        hub_reply_text(&server->hub, "pong");
        return ERROR_NONE;
    }
    /* Behind the bare ping, which is a sign of life and costs nothing. */
    if (connection_put_off(server, c, text)) return ERROR_NONE;
    if (!json_parse(text, JSON_DEPTH_MAX, &message)) return ERROR_INVALID_JSON;
    if (message.kind != JSON_OBJECT || !json_member(message, "type", &type))
        return ERROR_INVALID_MESSAGE;
    char id[USER_ID_MAX + 1];
    if (json_member(message, "user_id", &who)) {
        int len = json_string(who, id, sizeof id);
        const struct user *user = c->session.user;
        if (len != user->id_len || memcmp(id, user->id, user->id_len))
            return ERROR_IDENTITY_MISMATCH;
    }
    for (size_t i = 0; i < sizeof MESSAGES / sizeof *MESSAGES; i++)
        if (json_is(type, MESSAGES[i].type)) return MESSAGES[i].handle(server, c, now, message);
    return ERROR_UNKNOWN_TYPE;
}

/* [hub] True if one more frame keeps within --max-messages-per-second; a second's worth may come at
 * once. c->paced drains in connection_take, by the time since the last byte. */
static bool connection_in_pace(const struct server *server, struct connection *c)
{
    int64_t rate = server->options.max_rate;
    if (!rate) return true;
    c->paced += (uint32_t)(1000000 / rate);
    return c->paced <= 1000000 + 1000000 / rate;
}

/* [hub] Closes for more than the pace, with a code of its own (4429): a client that comes back at
 * once would do the same again. */
static void connection_too_fast(struct server *server, struct connection *c, struct instant now)
{
    count_one(&server->counters.too_fast);
    connection_close_error(server, c, now, ERROR_TOO_FAST, END_DROPPED);
}

/* [hub] Acts on messages that were put off, one of each connection in turn, while there is time.
 * The text is copied out of the buffer, as acting on it may end the connection or keep more behind
 * it. */
static void hub_look(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    for (bool over = false; !TAILQ_EMPTY(&hub->late) && !over;
         over = clock_work_us() >= hub->until) {
        struct connection *c = TAILQ_FIRST(&hub->late)->c;
        struct buffer *late = &c->ext->late;
        uint32_t len;
        memcpy(&len, late->at, sizeof len);
        char *text = mem_copy_text(late->at + sizeof len, len);
        hub_unlist_late(hub, c->ext);
        buffer_drop(late, sizeof len + len);
        if (late->len) TAILQ_INSERT_TAIL(&hub->late, c->ext, late_entry); /* behind the others */
        else buffer_free(late);
        hub->looking = true;
        enum error error = connection_message(server, c, now, (struct span){text, len});
        hub->looking = false;
        free(text);
        if (error == ERROR_TOO_FAST) connection_too_fast(server, c, now);
        else if (error) hub_reply_error(hub, error);
        connection_interest(server, c);
        connection_flush(server, c, now);
    }
}

/* [hub] The client closed: the answer carries its code back (RFC 6455 section 5.5.1). Codes that
 * say that it failed count as a broken line, for which its user has --grace. 4001 is what 1001
 * would be if browsers let a page say that. */
static void connection_closed_by_client(struct server *server, struct connection *c,
                                        struct instant now, int code)
{
    bool away = code == CLOSE_GOING_AWAY || code == CLOSE_AWAY;
    bool clean = code == CLOSE_NORMAL || code == CLOSE_NO_STATUS || code >= 3000;
    enum ending ending = away ? END_AWAY : clean ? END_CLEAN : END_DROPPED;
    connection_close(server, c, now, code, "", ending);
    c->session.state = CONNECTION_FINISHING;
}

/* [hub] Acts on one decoded event of the codec. The pace counts every frame, pings too: each costs
 * us a system call for the answer. A close does not count, nor what is an end anyway. */
static void connection_frame(struct server *server, struct connection *c, struct instant now,
                             const struct ws_event *event)
{
    struct hub *hub = &server->hub;
    if (event->kind == WS_MORE) return;
    if (event->kind != WS_CLOSE && event->kind != WS_FAIL && !connection_in_pace(server, c)) {
        connection_too_fast(server, c, now);
        return;
    }
    enum error error;
    switch (event->kind) {
    case WS_TEXT:
        count_one(&server->counters.messages);
        error = connection_message(server, c, now, event->data);
        if (error == ERROR_TOO_FAST) connection_too_fast(server, c, now);
        else if (error) hub_reply_error(hub, error);
        return;
    /* Nothing here is binary: a client that sends it does not speak this protocol. */
    case WS_BINARY:
        connection_close_error(server, c, now, ERROR_PROTOCOL_MISUSE, END_DROPPED);
        return;
    case WS_PING: ws_encode(&hub->reply, WS_OP_PONG, event->data); return;
    /* Also one that nobody asked for (RFC 6455 section 5.5.3): it answers no ping. */
    case WS_PONG:
        if (c->pinged)
            atomic_store_explicit(&c->transport.round_trip, (uint32_t)now.mono - c->pinged,
                                  memory_order_relaxed);
        c->pinged = 0;
        return;
    case WS_CLOSE: connection_closed_by_client(server, c, now, event->code); return;
    case WS_FAIL:
        count_one(&server->counters.protocol_errors);
        connection_close(server, c, now, event->code, event->reason, END_DROPPED);
        c->session.state = CONNECTION_FINISHING; /* no close frame can be told from what follows */
        return;
    case WS_MORE: return;
    }
}

/* [hub] Looks for the client's close frame behind ours. What is no frame ends the wait, too: we may
 * have closed in the middle of one, and cannot find the next. */
static void connection_await_close(struct connection *c, const struct ws_limits *limits,
                                   uint8_t *at, size_t len)
{
    for (enum ws_kind kind = WS_PING; kind != WS_MORE && c->session.state == CONNECTION_CLOSING;) {
        size_t used = 0;
        kind = ws_decode(&c->partial, limits, at, len, &used).kind;
        at += used;
        len -= used;
        if (kind != WS_CLOSE && kind != WS_FAIL) continue;
        ws_partial_free(&c->partial);
        c->session.state = CONNECTION_FINISHING;
        if (!connection_blocked(c)) transport_finish(&c->transport);
    }
}

/* [hub] Takes bytes from the client; any byte is a sign of life. `at` is changed: frames are
 * unmasked in place. */
static void connection_take(struct server *server, struct connection *c, struct instant now,
                            uint8_t *at, size_t len)
{
    ASSERT_THREAD(HUB);
    const struct ws_limits limits = {(size_t)server->options.max_message, WS_FRAGMENTS_MAX};
    if (c->session.state != CONNECTION_OPEN) { /* behind our close frame nothing else counts */
        connection_await_close(c, &limits, at, len);
        return;
    }
    int64_t quiet_us = (now.mono - atomic_load_explicit(&c->heard_at, memory_order_relaxed)) * 1000;
    /* The pace drains with time: what a silent client saves up is at most a second, since paced
     * is never below 0. */
    c->paced = quiet_us < c->paced ? c->paced - (uint32_t)quiet_us : 0;
    atomic_store_explicit(&c->heard_at, now.mono, memory_order_relaxed);
    /* Atomics: workers read last_seen, and a lock for each message would stop them. */
    presence_heard(&server->presence, now, c->session.user);
    for (enum ws_kind kind = WS_PING; kind != WS_MORE && c->session.state == CONNECTION_OPEN;) {
        size_t used = 0; /* asked until WS_MORE, even with nothing left: the decoder cleans up */
        struct ws_event event = ws_decode(&c->partial, &limits, at, len, &used);
        at += used;
        len -= used;
        kind = event.kind;
        connection_frame(server, c, now, &event);
    }
    connection_flush(server, c, now);
}

/* [hub] Reads once from a socket that has something; level-triggered epoll brings the rest in the
 * next turn. Plain sockets are read in small pieces so that others get theirs; TLS must have room
 * for a record. The end is looked for behind the bytes: a client may send its last words and close.
 */
static void connection_readable(struct server *server, struct connection *c, struct instant now)
{
    size_t most = c->transport.tls ? HUB_READ_SIZE : HUB_READ_PLAIN;
    ssize_t n = transport_read(&c->transport, server->hub.scratch, most);
    if (n > 0) connection_take(server, c, now, server->hub.scratch, (size_t)n);
    bool over = n == TRANSPORT_END || n == TRANSPORT_BROKEN || transport_ended(&c->transport);
    if (over && c->session.state != CONNECTION_DEAD) connection_end(server, c, now, END_DROPPED);
}

/* [hub] Arms the timer, at the latest for the end of the token. */
static void connection_arm(struct server *server, struct connection *c, int64_t due)
{
    int64_t end = c->connected_at + (int64_t)c->session.expires * 1000;
    timer_arm(&server->hub.wheel, &c->timer, c->session.expires && end < due ? end : due);
}

/* ==== 37. Streams =============================================================================
 * Who reads the events of /admin/events and /api/events, as fast as each can. The hub's. An event
 * is made text once, in the ring of its feed, as Server-Sent Events has it; a stream is a place in
 * that ring, so a thousand streams cost no copy. What is sent to all is:
 *
 *     head, "retry:" | reset, or events since Last-Event-ID | events ... | ":" in silence
 *
 * A stream that is more than --max-stream-buffer behind is dropped, and comes back with the id of
 * its last event; if that is not in the ring any more it is told to begin again (reset). */

enum { EVENTS_KEEP_MS = 3600000 }; /* without a stream events are kept this much longer */

/* [hub] Says that a stream is over; the socket lives until the client has closed it too. There is
 * no word for the end in Server-Sent Events: a client comes back when the answer ends, and is told
 * then. */
static void stream_finish(struct server *server, struct stream *s, struct instant now)
{
    struct connection *c = s->c;
    if (c->session.state != CONNECTION_OPEN) return;
    stream_leave(server, s, now);
    if (s->blocked)
        loop_poll(&server->hub.loop, EPOLL_CTL_MOD, c->transport.fd, EPOLLIN,
                  poll_data(POLL_CONNECTION, c));
    s->blocked = false;
    c->session.state = CONNECTION_FINISHING;
    transport_finish(&c->transport);
    timer_arm(&server->hub.wheel, &c->timer, now.mono + CLOSE_WAIT_MS);
}

/* [hub] The bytes that a stream is to be sent next; empty when it has all. */
static struct span stream_next(const struct stream *s)
{
    if (s->own.len) return (struct span){s->own.at, s->own.len};
    return events_span(&s->feed->events, s->at);
}

/* [hub] Sends what waits, as far as the socket takes it and others have not waited too long
 * (STREAM_TURN); the rest follows when the socket takes more. May end the connection. */
static void stream_send(struct server *server, struct stream *s, struct instant now)
{
    ASSERT_THREAD(HUB);
    struct connection *c = s->c;
    size_t budget = STREAM_TURN;
    bool blocked = false;
    while (!blocked) {
        struct span next = stream_next(s);
        if (!next.len && !transport_unsent(&c->transport)) break;
        if (next.len > budget) next.len = budget;
        ssize_t n = budget ? transport_write(&c->transport, next.at, next.len) : TRANSPORT_AGAIN;
        if (n == TRANSPORT_BROKEN) {
            connection_end(server, c, now, END_DROPPED);
            return;
        }
        size_t sent = n > 0 ? (size_t)n : 0;
        if (sent) atomic_store_explicit(&c->heard_at, now.mono, memory_order_relaxed);
        if (s->own.len) buffer_drop(&s->own, sent);
        else s->at += sent;
        budget -= sent;
        blocked = n < 0 || sent < next.len || transport_unsent(&c->transport);
    }
    if (!s->own.len) buffer_free(&s->own);
    if (blocked == s->blocked) return;
    s->blocked = blocked;
    loop_poll(&server->hub.loop, EPOLL_CTL_MOD, c->transport.fd, blocked ? EPOLLOUT : EPOLLIN,
              poll_data(POLL_CONNECTION, c));
}

/* [hub] Sends every stream of a feed what is new, drops those that are more than
 * --max-stream-buffer behind, and forgets the events that nobody needs. What a stream came back for
 * does not count against it: it could never catch up. */
static void streams_feed(struct server *server, struct feed *feed, struct instant now)
{
    struct events *events = &feed->events;
    uint64_t behind = events->end;
    for (struct stream *s = LIST_FIRST(&feed->streams), *next; s; s = next) {
        next = LIST_NEXT(s, list);
        if (!s->blocked) stream_send(server, s, now);
        if (!LIST_LINKED(s, list)) continue;
        uint64_t from = s->at > s->caught_up ? s->at : s->caught_up;
        uint64_t waits = s->blocked ? events->end - from + s->own.len : 0;
        if (waits > (uint64_t)server->options.max_stream) {
            count_one(&server->counters.streams_dropped);
            connection_end(server, s->c, now, END_DROPPED);
        } else if (s->at < behind) {
            behind = s->at;
        }
    }
    events_trim(events, behind);
    feed->fed = events->end;
}

/* [hub] Something happened at a stream's socket: it takes more, or the client has ended. What a
 * client sends is read and thrown away. */
static void stream_event(struct server *server, struct stream *s, struct instant now)
{
    struct connection *c = s->c;
    if (s->blocked) {
        stream_send(server, s, now);
        return;
    }
    ssize_t n = transport_read(&c->transport, server->hub.scratch, HUB_READ_SIZE);
    if (n == TRANSPORT_END || n == TRANSPORT_BROKEN || transport_ended(&c->transport))
        connection_end(server, c, now, END_DROPPED);
}

/* [hub] A stream's timer: ends one whose token has run out, and sends a comment where nothing else
 * was sent, so that proxies do not take it for dead. */
static void stream_timer(struct server *server, struct stream *s, struct instant now)
{
    struct connection *c = s->c;
    if (c->session.expires && now.mono >= c->connected_at + (int64_t)c->session.expires * 1000) {
        stream_finish(server, s, now);
        return;
    }
    int64_t sent = atomic_load_explicit(&c->heard_at, memory_order_relaxed);
    if (!s->blocked && now.mono >= sent + STREAM_SILENCE_MS) {
        buffer_text(&s->own, ":\n"); /* all events are sent: between two of them */
        stream_send(server, s, now);
        sent = now.mono;
    }
    if (c->session.state != CONNECTION_OPEN) return;
    if (s->blocked) sent = now.mono;
    connection_arm(server, c, sent + STREAM_SILENCE_MS);
}

/* [hub] Has a change kept for the webhook, as everybody may see it, in the batch that also tells
 * the store of its user: both are committed in one transaction, so no change is lost or told before
 * it is true. hub.event is empty, or has the text already. What may not wait is given up and
 * counted. */
static void hub_tell_webhook(struct server *server, const struct transition *t, struct instant now)
{
    struct store_batch *batch = &server->presence.ended;
    enum transition_kind kind;
    if (!webhook_wanted(&server->webhook) || !transition_shows(t, &kind)) return;
    if (kind == TRANSITION_CONNECTIONS) return;
    if (!presence_may_wait(&server->presence, batch->changes, CHANGES_MAX)) {
        count_one(&server->counters.webhook_dead);
        return;
    }
    struct buffer *event = &server->hub.event;
    if (!event->len) event_write(event, server->epoch, t, now, false);
    store_batch_change(batch, wall_of(now), (struct span){event->at, event->len});
}

/* [hub] Notes that a user changed, if somebody follows them: their watchers are to be told. From
 * now on the user stays in the table also when offline. */
static void hub_mark_targets(struct server *server, struct user *user)
{
    struct watch_target *target =
        watch_graph_changed(&server->hub.graph, (struct span){user->id, user->id_len});
    if (!target) return;
    user->pinned = true;
    target->resolved = true;
}

/* [hub] Makes a transition an event of a feed, if somebody reads it or has read it lately; leaves
 * its JSON in hub.event. What waits long is sent at once: thousands of changes in one turn must not
 * pile up. */
static void feed_add(struct server *server, struct feed *feed, const struct transition *t,
                     struct instant now)
{
    struct hub *hub = &server->hub;
    struct events *events = &feed->events;
    bool stale = !LIST_FIRST(&feed->streams) && now.mono - feed->streamless_at > EVENTS_KEEP_MS;
    if (events->kept && stale) events_drop(events);
    hub->event.len = 0;
    if (events->kept)
        event_write(&hub->event, server->epoch, t, now, feed == &hub->feeds[FEED_ADMIN]);
    events_add(events, (struct position){server->epoch, t->sequence},
               (struct span){hub->event.at, hub->event.len});
    if (events->end - feed->fed >= STREAM_BATCH) streams_feed(server, feed, now);
}

/* [hub] Acts on what changed in the table since the last time, in order: counters, log, watchers,
 * streams, webhook. The only reader of the table's transitions. Must run before anything shows a
 * position to a client. */
static void hub_take_transitions(struct server *server, struct instant now)
{
    ASSERT_THREAD(HUB);
    struct hub *hub = &server->hub;
    struct presence *p = &server->presence;
    struct counters *counters = &server->counters;
    _Atomic uint64_t *const kinds[] = {&counters->joins, &counters->leaves,
                                       &counters->status_changes, NULL, NULL};
    for (size_t i = 0; i < p->transition_count; i++) {
        const struct transition *t = &p->transitions[i];
        if (kinds[t->kind]) count_one(kinds[t->kind]);
        if (server->log.level >= LOG_DEBUG)
            log_line(&server->log, LOG_DEBUG, "%s user=%.*s%s%s", TRANSITION_NAMES[t->kind],
                     t->user->id_len, t->user->id, t->kind == TRANSITION_LEAVE ? " reason=" : "",
                     t->kind == TRANSITION_LEAVE ? REASON_NAMES[t->reason] : "");
        if (hub->graph.targets.count) hub_mark_targets(server, t->user);
        if (t->kind == TRANSITION_QUIET) continue;
        for (int k = 0; k < FEED_COUNT; k++) feed_add(server, &hub->feeds[k], t, now);
        hub_tell_webhook(server, t, now);
    }
    for (int k = 0; k < FEED_COUNT; k++) streams_feed(server, &hub->feeds[k], now);
    presence_clear_transitions(p);
    count_many(&counters->sessions_dropped, p->sessions_dropped);
    p->sessions_dropped = 0;
}

/* ==== 38. Broadcast ===========================================================================
 * Watchers are told what changed. Nearly all of the time goes to the system's send(), once for each
 * of them. Therefore the hub fills an array of writes and its io threads send them beside it, 32 at
 * a time:
 *
 *     hub   fill 32 | fill 32 | fill 32 | ... | send what is left | what came of each
 *     io            send 32 | send 32 | ...
 *
 * The hub alone decides what each is told and what came of it; io threads see bytes and sockets.
 * While they send the hub touches no connection that has a write, since it does nothing but fill:
 * of one watcher there is at most one write at a time. */

/* [io threads, hub] Sends the writes of a batch. */
static void io_batch_run(struct server *server, struct job *job)
{
    (void)server;
    struct io_batch *batch = container_of(job, struct io_batch, job);
    struct broadcast *broadcast = batch->broadcast;
    for (struct io_write *w = broadcast->writes + batch->from; w < broadcast->writes + batch->to;
         w++)
        w->result = transport_write(&w->c->transport, broadcast->text.at + w->at, w->len);
}

/* [hub] True if there is room for another write. */
static bool broadcast_has_room(const struct broadcast *broadcast)
{
    return broadcast->filled < BROADCAST_MAX &&
           broadcast->text.size - broadcast->text.len >= BROADCAST_ROOM;
}

/* [hub] Queues the writes that are in no batch yet as one. */
static void broadcast_queue(struct broadcast *broadcast)
{
    struct io_batch *batch = &broadcast->batches[broadcast->queued / BROADCAST_SHARE];
    batch->from = broadcast->queued;
    batch->to = broadcast->queued = broadcast->filled;
    job_queue_add(&broadcast->queue, &batch->job);
}

/* [hub] Adds a write of what was added to the text from `at` on. The same bytes in a row are kept
 * once: mostly all who follow a user are told the same. */
static void broadcast_fill(struct broadcast *broadcast, struct connection *c, size_t at)
{
    ASSERT_THREAD(HUB);
    size_t len = broadcast->text.len - at;
    struct io_write *w = &broadcast->writes[broadcast->filled++];
    assert(broadcast->text.size == BROADCAST_TEXT); /* what io threads read has not moved */
    *w = (struct io_write){c, (uint32_t)at, (uint32_t)len, TRANSPORT_AGAIN};
    if (w > broadcast->writes && w[-1].len == len &&
        !memcmp(broadcast->text.at + w[-1].at, broadcast->text.at + at, len)) {
        w->at = w[-1].at;
        broadcast->text.len = at;
    }
    if (broadcast->filled % BROADCAST_SHARE == 0) broadcast_queue(broadcast);
}

/* [hub] Returns how many writes there are, when all were tried as far as their sockets took them.
 * They are the caller's until the next broadcast_fill; the text is for the caller to empty. */
static size_t broadcast_deliver(struct broadcast *broadcast)
{
    size_t count = broadcast->filled;
    if (broadcast->queued < count) broadcast_queue(broadcast);
    job_queue_finish(&broadcast->queue);
    broadcast->filled = broadcast->queued = 0;
    return count;
}

/* [main] Sets an empty broadcast up, without io threads; it works without. */
static void broadcast_init(struct broadcast *broadcast)
{
    job_queue_init(&broadcast->queue, NULL, BROADCAST_WORTH);
    for (size_t i = 0; i < sizeof broadcast->batches / sizeof *broadcast->batches; i++)
        broadcast->batches[i] = (struct io_batch){.job.run = io_batch_run, .broadcast = broadcast};
    broadcast->text.at = mem_new(BROADCAST_TEXT); /* pages that are never used cost nothing */
    broadcast->text.size = BROADCAST_TEXT;
}

/* [hub] Appends a frame with the next message that a watcher is to be told. False when there is
 * nothing, or not yet: a snapshot may wait for the store. Counted when its last part is written. */
static bool watcher_write(struct server *server, struct connection *c, struct instant now,
                          struct buffer *out)
{
    struct hub *hub = &server->hub;
    if (c->session.state != CONNECTION_OPEN || !c->ext || c->ext->blocked) return false;
    struct watcher *watcher = &c->ext->watcher;
    bool more;
    hub->outgoing.len = 0;
    enum watcher_message kind =
        watcher_fill(&hub->graph, &server->presence, now, watcher, &hub->outgoing, &more);
    if (!kind) {
        if (!STAILQ_EMPTY(&watcher->snapshots)) watcher_list(&hub->graph.waiting, watcher);
        connection_settle(server, c);
        return false;
    }
    if (!more)
        count_one(kind == WATCHER_SNAPSHOT ? &server->counters.snapshots
                                           : &server->counters.updates);
    ws_encode(out, WS_OP_TEXT, (struct span){hub->outgoing.at, hub->outgoing.len});
    return true;
}

/* [hub] Tells a watcher the rest, as far as the socket takes it. After WATCH_TURN it is made to
 * wait as if its socket were full: epoll brings it back in the next turn, behind the others. */
static void watcher_send(struct server *server, struct connection *c, struct instant now)
{
    struct buffer *reply = &server->hub.reply;
    size_t sent = 0;
    while (watcher_write(server, c, now, reply)) {
        sent += reply->len;
        connection_flush(server, c, now);
        bool goes_on = c->session.state == CONNECTION_OPEN && !connection_blocked(c);
        if (goes_on && sent > WATCH_TURN) connection_keep(server, c, now, "", 0);
    }
}

/* [hub] Fills writes for those whose turn it is, until the time of this part of the turn is over. A
 * watcher leaves the row here; hub_written puts it back if there is more for it. */
static void hub_fill_broadcast(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    struct broadcast *broadcast = &hub->broadcast;
    struct watcher *watcher;
    bool over = false;
    while (!over && broadcast_has_room(broadcast) && (watcher = watch_graph_next(&hub->graph))) {
        struct connection *c = container_of(watcher, struct conn_ext, watcher)->c;
        size_t at = broadcast->text.len;
        watcher_list(NULL, watcher);
        if (watcher_write(server, c, now, &broadcast->text)) broadcast_fill(broadcast, c, at);
        over = clock_work_us() >= hub->until;
    }
}

/* [hub] Goes on after a write: with the next message for the same watcher while there is time,
 * otherwise in another turn. A connection that broke ends here, and its user may go offline: what
 * that changes is taken at once. */
static void hub_written(struct server *server, const struct io_write *w, struct instant now)
{
    struct hub *hub = &server->hub;
    struct connection *c = w->c;
    struct span bytes = {hub->broadcast.text.at + w->at, w->len};
    connection_written(server, c, now, bytes, w->result);
    if (clock_work_us() < hub->until) watcher_send(server, c, now);
    else if (c->session.state == CONNECTION_OPEN && c->ext && !c->ext->blocked)
        watcher_list(&hub->graph.busy, &c->ext->watcher);
    connection_list_held(server, c);
    if (server->presence.transition_count) hub_take_transitions(server, now);
}

/* [hub] Tells watchers what changed, at most once in --watch-interval, and answers those who asked
 * to follow: a first message to each side by side, as that is mostly all. Stands at the end of a
 * turn: the table is as the transitions left it. What there is no time for is for the next turn. */
static void hub_watch(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    struct watch_graph *w = &hub->graph;
    struct broadcast *broadcast = &hub->broadcast;
    bool due = !STAILQ_EMPTY(&w->changed) && now.mono >= hub->spread_at;
    if (due && STAILQ_EMPTY(&w->spreading))
        hub->spread_at = now.mono + server->options.watch_interval;
    if (due || !STAILQ_EMPTY(&w->spreading))
        watch_graph_spread(w, &server->presence, now, WATCH_SPREAD);
    bool over = !watch_graph_next(w);
    /* Those who wait now are served in this turn, each once; those who come meanwhile are behind
     * them. */
    if (!over) watch_graph_begin_turn(w);
    while (!over) {
        hub_fill_broadcast(server, now);
        size_t count = broadcast_deliver(broadcast);
        for (const struct io_write *one = broadcast->writes; one < broadcast->writes + count; one++)
            hub_written(server, one, now);
        broadcast->text.len = 0;
        over = clock_work_us() >= hub->until || !watch_graph_next(w);
    }
    /* Targets nobody follows any more leave the graph, and their users the table, if nothing
     * else holds them. */
    if (!w->unreferenced_count) return;
    lock_take(&server->table_lock, RANK_TABLE);
    watch_graph_sweep(w, &server->presence, now, WATCH_SWEEP);
    lock_give(&server->table_lock, RANK_TABLE);
}

/* ==== 39. Signs of life =======================================================================
 * Pings, silence, and what TCP knows of a connection that has output waiting. The hub's.
 *
 *     heard --(--ping-interval)--> ping --(--pong-timeout)--> closed, its user offline
 *
 * Any byte is a sign of life and ends this. A timer is not moved by bytes: it looks at heard_at
 * when it fires, so that a message costs no list operation. A client that is slow is not a client
 * that is gone: where bytes are ahead of the ping, what its TCP acknowledges counts in place of the
 * answer. */

/* The kernel's struct tcp_info as far as it is read here (Linux 4.6); not every libc has it all. */
struct tcp_facts {
    uint8_t states[8];
    uint32_t before[4], unacked, between[7], last_ack_recv, behind[11]; /* unacked: packets */
    uint64_t pacing[2], bytes_acked, bytes_received;
    uint32_t packets[2], notsent_bytes;
};

/* [hub] What TCP says of a connection: bytes that the other side has acknowledged, how long ago it
 * was last heard of, ms, and whether more is on its way. False when it is over. */
static bool connection_tcp(const struct connection *c, uint64_t *acked, int64_t *quiet, bool *more)
{
    struct tcp_facts facts = {0};
    socklen_t len = sizeof facts;
    if (getsockopt(c->transport.fd, IPPROTO_TCP, TCP_INFO, &facts, &len)) return false;
    *acked = facts.bytes_acked;
    *quiet = facts.last_ack_recv;
    *more = facts.unacked || facts.notsent_bytes || connection_blocked(c);
    return true;
}

/* [hub] Notes, before a ping is sent, whether other bytes are ahead of it: then it may be long on
 * its way, and connection_lives is asked. */
static void connection_ping_sent(struct connection *c)
{
    uint64_t acked;
    int64_t quiet;
    bool more;
    if (!connection_tcp(c, &acked, &quiet, &more)) return;
    if (!more) return;
    struct conn_ext *ext = connection_ext(c);
    ext->behind = true;
    ext->acked = acked;
    ext->acked_at = atomic_load_explicit(&c->heard_at, memory_order_relaxed);
}

/* [hub] When a client that was behind at the last ping was last known to live, by what its TCP took
 * of the bytes that wait for it: only as many as it reads are acknowledged. 0 when that says
 * nothing. What others see of last_seen does not move by it: a kernel that acknowledges is not a
 * user. */
static int64_t connection_lives(const struct connection *c, struct instant now)
{
    struct conn_ext *ext = c->ext;
    uint64_t acked;
    int64_t quiet;
    bool more;
    if (!ext) return 0;
    if (!ext->behind || !connection_tcp(c, &acked, &quiet, &more)) return ext->acked_at;
    if (acked != ext->acked) ext->acked_at = now.mono - quiet;
    ext->acked = acked;
    ext->behind = more; /* otherwise it has the ping now, and its time to answer */
    return ext->acked_at;
}

/* [hub] A connection was heard, or nothing was ahead of its ping: what its TCP took says nothing.
 */
static void connection_forget_acked(struct server *server, struct connection *c)
{
    if (!c->ext || !c->ext->acked_at) return;
    c->ext->behind = false;
    c->ext->acked_at = 0;
    connection_settle(server, c);
}

/* [hub] A connection stayed silent too long, and is dropped, unless it takes what is ahead of its
 * ping: then the time runs anew from the last byte that it took. If it was the server that stood
 * still (a stopped process, a paused machine), the answer waits in the socket: that is read first,
 * and judged in the next turn. There is no --grace behind a silence: that was the time. */
static void connection_drop_silent(struct server *server, struct connection *c, struct instant now)
{
    if (connection_reads(c) && transport_has_bytes(&c->transport)) {
        connection_readable(server, c, now);
        if (c->session.state == CONNECTION_OPEN) connection_arm(server, c, now.mono + 1);
        return;
    }
    int64_t interval = server->options.ping_interval, soon = now.mono + interval;
    int64_t drop_at = connection_lives(c, now) + interval + server->options.pong_timeout;
    if (now.mono < drop_at) {
        connection_arm(server, c, drop_at < soon ? drop_at : soon); /* see silence_judge */
        return;
    }
    count_one(&server->counters.heartbeat_timeouts);
    connection_close_error(server, c, now, ERROR_HEARTBEAT_TIMEOUT, END_TIMEOUT);
    connection_flush(server, c, now);
}

/* [hub] Looks how long a connection has been silent, and sets the timer for the next look: pings
 * it, waits for the answer, or drops it. */
static void connection_silence(struct server *server, struct connection *c, struct instant now)
{
    const struct options *options = &server->options;
    int64_t heard = atomic_load_explicit(&c->heard_at, memory_order_relaxed), due;
    enum silence silence = silence_judge(options->ping_interval, options->pong_timeout, heard,
                                         now.mono, &c->pinged, &due);
    if (silence == SILENCE_OVER) {
        connection_drop_silent(server, c, now);
        return;
    }
    connection_arm(server, c, due);
    if (silence != SILENCE_WAITS) connection_forget_acked(server, c);
    if (silence != SILENCE_PING) return;
    count_one(&server->counters.pings_sent);
    connection_ping_sent(c);
    ws_encode(&server->hub.reply, WS_OP_PING, (struct span){"", 0});
    connection_flush(server, c, now);
}

/* [hub] A connection's timer: pings a silent one, drops one that stayed silent, ends one whose
 * token has run out, cuts one that does not finish closing. */
static void connection_timer(struct server *server, struct connection *c, struct instant now)
{
    if (c->session.state != CONNECTION_OPEN) {
        connection_end(server, c, now, END_DROPPED);
    } else if (c->session.is_stream) {
        stream_timer(server, c->stream, now);
    } else if (c->session.expires &&
               now.mono >= c->connected_at + (int64_t)c->session.expires * 1000) {
        connection_close_error(server, c, now, ERROR_TOKEN_EXPIRED, END_EXPIRED);
        connection_flush(server, c, now);
    } else {
        connection_silence(server, c, now);
    }
}

/* ==== 40. Handoff =============================================================================
 * A worker has granted an upgrade or a stream; here the hub takes the connection over, for good. It
 * is the same object: what was HTTP's hangs off it as `http` and is freed here. From now on the
 * socket is in the hub's epoll set, its timer in the hub's wheel, its place is counted in
 * server.connections, or in server.refused if it is only opened to be told why not; connection_end
 * gives that back. */

enum { STREAM_GONE_MS = 120000 }; /* TCP gives a client up that takes nothing for this long */

/* The text of a connection's number, as the protocol and the admin API show it. */
static const char *connection_id_text(uint64_t number, char out[17])
{
    snprintf(out, 17, "%016" PRIx64, number);
    return out;
}

/* [hub] How long all clients should take to come back together, should this process end without a
 * word: what it needs to take as many in. Few come back at once, as they always did. */
static int64_t server_spread_ms(const struct server *server)
{
    int64_t count = (int64_t)server->presence.connections;
    int64_t rate = server->options.tls_listen.count ? CROWD_TLS_RATE : CROWD_PLAIN_RATE;
    if (count <= CROWD_FEW) return 0;
    int64_t needed = count * 1000 / rate;
    return needed > CROWD_SPREAD_MS ? needed : CROWD_SPREAD_MS;
}

/* [hub] Adds the first message to the reply. It names the limits, since a client that has to find
 * them out by breaking them is closed for it, comes back, and breaks them again. */
static void hub_reply_hello(struct server *server, const struct connection *c, struct span id)
{
    const struct options *options = &server->options;
    struct buffer *text = hub_reply_begin(&server->hub, "hello");
    char number[17];
    json_span(text, "user_id", id);
    json_text(text, "connection_id", connection_id_text(c->number, number));
    json_int(text, "heartbeat_seconds", (options->ping_interval + 999) / 1000);
    json_int(text, "max_message", options->max_message);
    json_int(text, "max_messages_per_second", options->max_rate);
    json_int(text, "max_watch", options->max_watch);
    json_int(text, "spread_ms", server_spread_ms(server));
    json_text(text, "server", "presence/" PRESENCE_VERSION);
    hub_reply_end(&server->hub);
}

/* [hub] Tells the connections of one user over which time to come back; returns how many. Sending
 * may be the end of one, so the next is taken first. */
static size_t hub_tell_crowd(struct server *server, struct user *user, struct instant now)
{
    struct hub *hub = &server->hub;
    size_t count = 0;
    for (struct session_conn *conn = user->conns, *next; conn; conn = next, count++) {
        struct connection *c = (struct connection *)conn;
        next = conn->next; /* sending may be the end of this one */
        json_int(hub_reply_begin(hub, "spread"), "spread_ms", hub->crowd.spread_ms);
        hub_reply_end(hub);
        connection_flush(server, c, now);
    }
    return count;
}

/* [hub] When the connections became more than CROWD_FEW, and each time they doubled, all are told
 * over which time to come back; some at a time, for the sake of others. On the way down nobody is
 * told: a client that waits too long does no harm, and the next hello says it anew. A level counts
 * as left only at half of it, so that a client that comes and goes at its border makes no storm of
 * messages. */
static void hub_crowd(struct server *server, struct instant now)
{
    struct crowd *crowd = &server->hub.crowd;
    struct presence *p = &server->presence;
    int64_t count = (int64_t)p->connections, level = crowd->level;
    while (count > (level ? level * 2 : CROWD_FEW)) level = level ? level * 2 : CROWD_FEW;
    if (level > crowd->level) {
        crowd->spread_ms = server_spread_ms(server);
        crowd->telling = true;
        crowd->id_len = 0;
    }
    while (level && count < level / 2) level = level > CROWD_FEW ? level / 2 : 0;
    crowd->level = level;
    if (!crowd->telling) return;
    struct presence_walk walk = presence_walk_after(p, (struct span){crowd->id, crowd->id_len});
    struct user *user = NULL;
    for (size_t told = 0; told < CROWD_TURN && (user = presence_walk_next(p, &walk));) {
        size_t conns = hub_tell_crowd(server, user, now);
        told += conns ? conns : 1; /* a user without any costs a look */
        crowd->id_len = user->id_len;
        memcpy(crowd->id, user->id, user->id_len);
    }
    crowd->telling = user && !server->hub.stopping;
}

/* [hub] Why a new WebSocket is closed at once, if it is. The worker that granted it has looked at
 * its user's connections, but others may have come since: such a refusal is counted here. */
static enum error hub_refusal(struct server *server, const struct connection *c,
                              const struct grant *grant, struct instant now)
{
    if (grant->refuse) return grant->refuse;
    enum error error = server->hub.stopping ? ERROR_STOPPING : ERROR_NONE;
    const struct span id = {grant->id, grant->id_len};
    const struct user *user = presence_find(&server->presence, id);
    if (!error && user && user->connections >= server->options.max_per_user) {
        count_one(&server->counters.upgrades_refused);
        error = ERROR_TOO_MANY_CONNECTIONS;
    }
    if (error) server_count_refusal(server, error, c->session.address, now.mono, NULL, NULL, NULL);
    return error;
}

/* [hub] Takes over what all connections have from their HTTP part. It is off the connection after
 * this, and the caller's to free: what is in its place means something else from now on. */
static struct http_conn *hub_take_over(struct connection *c, struct instant now)
{
    struct http_conn *p = c->http;
    c->ext = NULL;
    c->session.state = CONNECTION_OPEN;
    c->connected_at = now.mono;
    atomic_store_explicit(&c->heard_at, now.mono, memory_order_relaxed);
    return p;
}

/* [hub] Makes a WebSocket of a connection: in the table, watched, timed. Its 101 and hello go out
 * in one write, and bytes that came behind the request are its first. */
static void hub_adopt(struct server *server, struct job *job)
{
    ASSERT_THREAD(HUB);
    struct connection *c = container_of(job, struct http_conn, job)->c;
    struct hub *hub = &server->hub;
    struct instant now = server_now(server);
    struct http_conn *p = hub_take_over(c, now);
    struct grant *grant = &p->grant;
    const struct seam_item *item = &p->item;
    struct span id = {grant->id, grant->id_len};
    /* No ping has been answered yet. A connection that is only opened to be refused has no
     * number: it is in no count but `refused`. */
    c->transport.round_trip = UINT32_MAX;
    if (!grant->refuse) c->number = server_number(server); /* 0: has no place, see connection_end */
    c->agent = hub_share_agent(hub, grant->agent);
    /* The 101 goes before everything: whatever is said next, the hello, an error or a close, is
     * behind it in the same write. */
    buffer_add(&hub->reply, p->out.at, p->out.len);
    if (grant->may) connection_ext(c)->may = grant->may;
    grant->may = NULL;
    enum error refuse = hub_refusal(server, c, grant, now);
    if (!loop_poll(&hub->loop, EPOLL_CTL_ADD, c->transport.fd, EPOLLIN,
                   poll_data(POLL_CONNECTION, c))) {
        log_line(&server->log, LOG_ERROR, "cannot watch a connection: %s", strerror(errno));
        connection_end(server, c, now, END_DROPPED);
    } else if (refuse == ERROR_STOPPING) {
        connection_close_late(server, c, now);
    } else if (refuse) {
        connection_close_error(server, c, now, refuse, END_DROPPED);
    } else {
        count_one(&server->counters.upgrades);
        lock_take(&server->table_lock, RANK_TABLE);
        presence_connect(&server->presence, now, id, &c->session);
        lock_give(&server->table_lock, RANK_TABLE);
        connection_arm(server, c, now.mono + server->options.ping_interval);
        hub_reply_hello(server, c, id);
    }
    connection_flush(server, c, now);
    /* A client may send frames with its request. They are looked at also where the connection
     * was refused: behind our close frame only the close of the client counts. */
    if (item->len > item->used)
        connection_take(server, c, now, (uint8_t *)item->bytes + item->used,
                        item->len - item->used);
    http_conn_free(p);
}

/* [hub] Begins a stream: where it goes on if it comes back, otherwise with a reset, which tells it
 * to read the lists anew: its position is that of the table at this moment, so lists that are read
 * after it miss nothing. `retry` stands in the block of the first event: some clients deliver a
 * block of its own as an empty event. */
static void stream_begin(struct server *server, struct stream *s, const struct grant *a)
{
    struct feed *feed = s->feed = &server->hub.feeds[a->feed];
    struct instant now = server_now(server);
    char position[POSITION_TEXT];
    events_keep(&feed->events);
    /* With the first event's block: some clients deliver one of its own as an empty event. */
    buffer_print(&s->own, "retry: %d\n", STREAM_RETRY_MS);
    /* What a client comes back for may be gone, or be of an epoch before this one, which may have
     * begun since a worker granted the stream. */
    bool resumes = a->resumes && a->position.epoch == server->epoch;
    if (!resumes || !events_find(&feed->events, a->position.sequence, &s->at)) {
        position_text(server_position(server), position);
        buffer_print(&s->own, "event: reset\nid: %s\ndata: ", position);
        json_begin(&s->own);
        json_text(&s->own, "position", position);
        json_time(&s->own, "generated_at", wall_of(now), true);
        buffer_text(&s->own, "}\n\n");
        s->at = feed->events.end;
    }
    /* Until it has all that was there when it came it may be as far behind as it is. */
    s->caught_up = feed->events.end;
    LIST_INSERT_HEAD(&feed->streams, s, list);
    count_one(&server->counters.streams_opened);
    atomic_fetch_add(&server->streams, 1);
}

/* [hub] True if an admin's session opened the stream, and one has ended since: perhaps that one. */
static bool stream_logged_out(const struct server *server, const struct stream *s)
{
    return s->logouts && s->logouts != atomic_load(&server->logouts);
}

/* [hub] Makes a stream of a connection: the head of its answer goes out before the first events.
 * TCP gives up a client that takes nothing, since nobody would notice: streams are not pinged. */
static void hub_adopt_stream(struct server *server, struct job *job)
{
    ASSERT_THREAD(HUB);
    struct connection *c = container_of(job, struct http_conn, job)->c;
    struct hub *hub = &server->hub;
    struct instant now = server_now(server);
    struct http_conn *p = hub_take_over(c, now);
    struct stream *s = c->stream = mem_new(sizeof *s);
    unsigned gone = STREAM_GONE_MS;
    s->c = c;
    c->session.is_stream = true;
    c->number = server_number(server);
    s->own = p->out;
    p->out = (struct buffer){0};
    s->logouts = p->grant.logouts;
    hub_take_transitions(server, now); /* the events are as new as the table */
    setsockopt(c->transport.fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &gone, sizeof gone);
    stream_begin(server, s, &p->grant);
    http_conn_free(p);
    if (!loop_poll(&hub->loop, EPOLL_CTL_ADD, c->transport.fd, EPOLLIN,
                   poll_data(POLL_CONNECTION, c))) {
        log_line(&server->log, LOG_ERROR, "cannot watch a stream: %s", strerror(errno));
        connection_end(server, c, now, END_DROPPED);
        return;
    }
    connection_arm(server, c, now.mono + STREAM_SILENCE_MS);
    stream_send(server, s, now);
    if (hub->stopping || stream_logged_out(server, s)) stream_finish(server, s, now);
}

/* ==== 41. Hub =================================================================================
 * The loop of the thread that owns every WebSocket and stream and is the only one to change the
 * presence table, and what others ask of it. One writer: so rules of presence need no care for
 * threads, and every change has its place in one order. Nothing here waits but loop_wait; what must
 * be read of the store, the reader reads. A turn is at most some 5 ms long, whatever clients ask
 * for: each part of it has its time. */

enum {
    SAMPLE_MS = 60000, /* how often users and connections are counted for history */
};

/* A question of a worker, which lives on its stack while it waits; the hub always answers within a
 * few turns, also while it stops: it outlives the workers. */
struct hub_ask {
    struct job job;
    sem_t done;
    struct span id;
    const uint8_t *address;
    size_t count; /* out */
    const struct manual_update *update;
    bool failed;            /* out: the store could not be read */
    struct user_view *view; /* out: the user as they see themselves; not known: never seen */
    struct view_texts **texts;
};

/* [worker] Puts a question to the hub and waits until it was acted on. */
static void hub_ask(struct server *server, struct hub_ask *ask,
                    void (*run)(struct server *, struct job *))
{
    ASSERT_THREAD(WORKER);
    ask->job.run = run;
    sem_init(&ask->done, 0, 0);
    loop_submit(&server->hub.loop, &ask->job);
    while (sem_wait(&ask->done)) continue; /* only EINTR */
    sem_destroy(&ask->done);
}

/* Question: an HTTP heartbeat of a user. */
static void hub_heartbeat(struct server *server, struct job *job)
{
    struct hub_ask *ask = container_of(job, struct hub_ask, job);
    struct instant now = server_now(server);
    lock_take(&server->table_lock, RANK_TABLE);
    presence_heartbeat(&server->presence, now, ask->id, ask->address);
    lock_give(&server->table_lock, RANK_TABLE);
    sem_post(&ask->done);
}

/* [hub] Sets a user's status by hand and answers the worker that asked; the user is in the table
 * now. A user who is not was never seen, or the store could not be read (ask->failed). */
static void hub_ask_found(struct server *server, struct hub_ask *ask, bool failed)
{
    struct instant now = server_now(server);
    struct user *user = presence_find(&server->presence, ask->id);
    ask->failed = failed && !user;
    if (user) {
        lock_take(&server->table_lock, RANK_TABLE);
        presence_set_manual(&server->presence, now, user, ask->update);
        view_user(ask->view, user, now);
        view_keep(ask->view, ask->texts);
        lock_give(&server->table_lock, RANK_TABLE);
    }
    sem_post(&ask->done);
}

/* [hub] Question: set a user's status by hand, who may be in the store alone. */
static void hub_set_manual(struct server *server, struct job *job)
{
    struct hub_ask *ask = container_of(job, struct hub_ask, job);
    if (presence_find(&server->presence, ask->id)) hub_ask_found(server, ask, false);
    else hub_find_user(server, ask->id, ask);
}

/* [hub] Question: close all connections of a user, who is offline after it; count is how many. Of
 * thousands some in each turn: it posts itself again behind what came meanwhile. */
static void hub_kick(struct server *server, struct job *job)
{
    struct hub_ask *ask = container_of(job, struct hub_ask, job);
    struct instant now = server_now(server);
    struct user *user = presence_find(&server->presence, ask->id);
    bool over = !user;
    for (; !over && user->conns; over = clock_work_us() >= server->hub.until) {
        for (int share = KICK_SHARE; user->conns && share; share--) {
            struct connection *c = (struct connection *)user->conns;
            connection_close_error(server, c, now, ERROR_KICKED, END_KICKED);
            connection_flush(server, c, now);
            ask->count++;
        }
    }
    /* Behind what came meanwhile: a kick of thousands is no reason for others to wait. */
    if (user && user->conns) {
        loop_submit(&server->hub.loop, job);
        return;
    }
    lock_take(&server->table_lock, RANK_TABLE);
    if (user) presence_end(&server->presence, now, user, REASON_KICKED);
    lock_give(&server->table_lock, RANK_TABLE);
    count_many(&server->counters.kicks, ask->count);
    sem_post(&ask->done);
}

/* [hub] Question: end the streams that a session opened. Which one has ended is not known here:
 * clients whose session is good come back, and miss nothing. */
static void hub_log_out(struct server *server, struct job *job)
{
    struct hub_ask *ask = container_of(job, struct hub_ask, job);
    struct instant now = server_now(server);
    for (struct stream *s = LIST_FIRST(&server->hub.feeds[FEED_ADMIN].streams), *next; s;
         s = next) {
        next = LIST_NEXT(s, list);
        if (stream_logged_out(server, s)) stream_finish(server, s, now);
    }
    sem_post(&ask->done);
}

/* [hub] Begins a part of a turn, which is to take so long. */
static void hub_begin_part(struct hub *hub, int64_t us)
{
    hub->until = clock_work_us() + us;
}

/* [writer] The batch is in the store. */
static void hub_batch_written(void *context, struct store_batch *batch)
{
    struct server *server = context;
    if (batch->changes) webhook_wake(&server->webhook);
    buffer_free(&batch->ops); /* here, since a hundred megabytes take the kernel 10 ms */
    loop_submit(&server->hub.loop, &server->hub.batch_done);
}

/* [hub] The batch is in the store: users who are offline and have nothing to be stored any more
 * leave the table, a slice at a time; the job posts itself again behind what came meanwhile. */
static void hub_batch_done(struct server *server, struct job *job)
{
    struct hub *hub = &server->hub;
    struct instant now = server_now(server);
    bool done = false;
    hub_begin_part(hub, HUB_TABLE_US);
    for (bool over = false; !done && !over; over = clock_work_us() >= hub->until) {
        lock_take(&server->table_lock, RANK_TABLE);
        done = presence_committed(&server->presence, now, TABLE_SHARE);
        lock_give(&server->table_lock, RANK_TABLE);
    }
    hub->batch_under_way = !done;
    if (!done) loop_submit(&hub->loop, job);
}

/* How often the store hears that the server lives, while somebody is online: often enough for the
 * next server to tell by the threshold which users left together with this one. */
static int64_t server_sign_ms(const struct options *options)
{
    int64_t often = options->threshold / 4 < SEEN_FLUSH_MS ? options->threshold / 4 : SEEN_FLUSH_MS;
    return often > options->sync_interval ? often : options->sync_interval;
}

/* [hub] Fills the batch, as far as there is time; true when it is whole, see presence_collect. The
 * last one, when the hub quits, is filled at once: nobody waits any more. */
static bool hub_fill_batch(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    bool done = false;
    hub_begin_part(hub, hub->quitting ? INT32_MAX : HUB_TABLE_US);
    for (bool over = false; !done && !over; over = clock_work_us() >= hub->until) {
        lock_take(&server->table_lock, RANK_TABLE);
        done = presence_collect(&server->presence, now, hub->quitting, TABLE_SHARE, &hub->batch);
        lock_give(&server->table_lock, RANK_TABLE);
    }
    return done;
}

/* [hub] Hands the writer what the store must hear, at most one batch a sync interval and one at a
 * time; from time to time one with nothing but the moment, which every commit writes. Users in
 * flight stay in the table until it is written. */
static void hub_sync(struct server *server, struct instant now)
{
    ASSERT_THREAD(HUB);
    struct hub *hub = &server->hub;
    const struct presence *p = &server->presence;
    bool sign = p->live + p->cached && now.mono >= hub->sign_at;
    /* What the webhook delivered leaves the outbox in the same transaction as changes come in. */
    uint64_t delivered = atomic_load(&server->store->outbox_done);
    if (delivered > hub->delivered) store_batch_delivered(&server->presence.ended, delivered);
    hub->delivered = delivered;
    /* One batch at a time: users in flight keep their state until it is written, and a slow disk
     * makes batches larger, not more. */
    if (hub->batch_under_way) return;
    if (!hub->batch_filling) {
        if (!presence_is_dirty(p) && !sign) return;
        if (now.mono < hub->sync_at && !hub->quitting) return;
        hub->sync_at = now.mono + server->options.sync_interval;
    }
    hub->batch_filling = !hub_fill_batch(server, now);
    if (hub->batch_filling) return;
    hub->batch.last = hub->quitting; /* one commit less, where each may take seconds */
    if (!hub->batch.ops.len && !sign) return;
    hub->sign_at = now.mono + server_sign_ms(&server->options);
    hub->batch_under_way = true;
    store_submit(server->store, &hub->batch);
}

/* [hub] Ends what has run out, and tells of it, as far as there is time. Telling goes along slice
 * by slice: the table keeps a transition for each user who changed, and a million of them are not
 * to pile up. */
static void hub_expire(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    server->presence.disk_fails = !atomic_load(&server->store->writable);
    hub_begin_part(hub, HUB_TABLE_US);
    for (bool over = false; !over; over = over || clock_work_us() >= hub->until) {
        lock_take(&server->table_lock, RANK_TABLE);
        over = presence_tick(&server->presence, now, TABLE_SHARE);
        lock_give(&server->table_lock, RANK_TABLE);
        hub_take_transitions(server, now);
    }
}

/* [hub] Tells every client to come back later, each at another time, and closes. The users stay
 * online in the store: the next start waits for them. */
static void hub_stop(struct server *server, struct job *job)
{
    (void)job;
    struct hub *hub = &server->hub;
    struct presence *p = &server->presence;
    struct instant now = server_now(server);
    hub->stopping = true;
    hub->stop_by = now.mono + CLOSE_WAIT_MS;
    /* Nobody can come back any more: the next start judges which users are still online. */
    p->judge_at = INT64_MAX;
    hub_take_transitions(server, now);
    for (int k = 0; k < FEED_COUNT; k++)
        for (struct stream *s; (s = LIST_FIRST(&hub->feeds[k].streams));)
            stream_finish(server, s, now);
    /* Each is told another moment: all at once would be more than the next server can take in. */
    int64_t count = (int64_t)p->connections, i = 0;
    int64_t spread = hub->stop_spread = count > STOP_SPREAD_MS ? count : STOP_SPREAD_MS;
    struct presence_walk walk = {0};
    for (struct user *user; (user = presence_walk_next(p, &walk));) {
        while (user->conns) {
            struct connection *c = (struct connection *)user->conns;
            connection_close_restart(server, c, now, STOP_RETRY_MS + i++ * spread / count);
            connection_flush(server, c, now);
        }
    }
}

/* [hub] The last job: what is left to tell the store goes out in one more batch, then the hub ends.
 * A batch that is under way comes first, for as long as the stop may take. */
static void hub_quit(struct server *server, struct job *job)
{
    (void)job;
    server->hub.quitting = true;
    server->hub.stop_by = server->stop_by;
}

/* [hub] Counts users and connections once a minute, for the history. A minute that was slept
 * through, or that is stepped over, is not counted. */
static void hub_sample(struct server *server, struct instant now)
{
    int64_t wall = wall_of(now), minute = wall - wall % SAMPLE_MS;
    if (now.mono < server->hub.sample_at || server->hub.stopping) return;
    presence_sample(&server->presence, minute);
    server->hub.sample_at = now.mono + (minute + SAMPLE_MS - wall);
}

/* [hub] True if a turn left something for which there was no time: the next must not sleep. */
static bool hub_has_work(const struct hub *hub)
{
    const struct watch_graph *w = &hub->graph;
    return !TAILQ_EMPTY(&hub->loop.taken) || hub->dead || !TAILQ_EMPTY(&hub->late) ||
           hub->batch_filling || !STAILQ_EMPTY(&w->spreading) || LIST_FIRST(&w->busy) ||
           LIST_FIRST(&w->serving) || w->unreferenced_count ||
           (!TAILQ_EMPTY(&hub->held) && w->backlog + w->unreferenced_count < WATCH_BACKLOG_MAX);
}

/* Makes a wait end at a moment, unless it ends before; -1 is for ever. */
static void wait_until(int64_t *wait, int64_t at, int64_t now)
{
    int64_t ms = at > now ? at - now : 0;
    if (*wait < 0 || ms < *wait) *wait = ms;
}

/* [hub] How long the hub may sleep, ms; -1 for ever: until the first of all it has to do by itself.
 * Whoever adds a reason to act at a time adds it here, or the hub sleeps through it. */
static int64_t hub_wait(const struct server *server, int64_t now)
{
    const struct hub *hub = &server->hub;
    const struct presence *p = &server->presence;
    if (hub_has_work(hub) || hub->crowd.telling) return 0;
    int64_t wait = wheel_wait(&hub->wheel, now), rules = presence_wait(p, now);
    int64_t sign_at = hub->sign_at > hub->sync_at ? hub->sign_at : hub->sync_at;
    if (rules >= 0) wait_until(&wait, now + rules, now);
    if (p->cached) wait_until(&wait, now + HUB_NAP_MS, now); /* see hub_wake */
    if (p->live + p->cached && !hub->batch_under_way) wait_until(&wait, sign_at, now);
    if (!STAILQ_EMPTY(&hub->graph.changed)) wait_until(&wait, hub->spread_at, now);
    if (!hub->stopping) wait_until(&wait, hub->sample_at, now);
    if (!hub->batch_under_way && presence_is_dirty(p))
        wait_until(&wait, hub->quitting ? now : hub->sync_at, now);
    if ((hub->stopping && !hub->stopped) || hub->quitting) wait_until(&wait, hub->stop_by, now);
    return wait;
}

/* [hub] Tells main that no socket is left, or that those left had their time; once. */
static void hub_report_stop(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    if (!hub->stopping || hub->stopped) return;
    if (atomic_load(&server->connections) && now.mono < hub->stop_by) return;
    hub->stopped = true;
    uint64_t one = 1;
    if (write(hub->stop_event, &one, sizeof one) != sizeof one)
        fatal("an eventfd takes no wake-up");
}

/* [hub] Acts on what happened at one socket. Writing comes first: it may free what is kept, and so
 * let reading go on. An event may be of one that ended in this turn. */
static void hub_event(struct server *server, const struct epoll_event *event, struct instant now)
{
    if (poll_tag(event) == POLL_WAKE) return;
    struct connection *c = poll_about(event);
    if (c->session.state == CONNECTION_DEAD) return;
    if (c->session.is_stream) {
        stream_event(server, c->stream, now);
        return;
    }
    if (connection_blocked(c) && (event->events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
        connection_writable(server, c, now);
    if (c->session.state == CONNECTION_DEAD) return;
    bool over = event->events & (EPOLLERR | EPOLLHUP);
    if (connection_reads(c) && (over || event->events & EPOLLIN))
        connection_readable(server, c, now);
    else if (over) connection_end(server, c, now, END_DROPPED);
}

/* [hub] Acts on what happened at sockets, as far as there is time. What is left comes before
 * anything that happens later: nobody is passed over twice. */
static void hub_input(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    for (bool over = false; hub->event_at < hub->event_count && !over;) {
        hub_event(server, &hub->events[hub->event_at++], now);
        over = clock_work_us() >= hub->until;
    }
}

/* [hub] A turn begins, `wait` ms after the last one at the latest, if all is well. If it is much
 * later than that, the process stood still, and the users without a connection are given that time.
 * They are the reason why the hub sleeps only for naps while there are such: in a long sleep that
 * ends when it should, a pause cannot be seen. */
static void hub_wake(struct server *server, int64_t wait)
{
    struct hub *hub = &server->hub;
    struct instant now = server_now(server);
    int64_t gap = now.mono - hub->turned_at;
    hub->turned_at = now.mono;
    if (wait < 0 || gap - wait < PAUSE_MS || !server->presence.cached) return;
    presence_resume(&server->presence, now, gap);
    log_line(&server->log, LOG_DEBUG, "stood still for %" PRId64 " ms", gap);
}

/* [hub] One turn. Its order is the invariant of the program, so none of the parts may be moved:
 *
 * - Events are fetched only when those of the last turn are used up: nobody is passed over, and the
 *   dead can be freed at a moment when no event of them is left.
 * - hub_wake before anything judges by time: if the process stood still, users are given that time.
 * - Jobs before sockets. New connections are there when their first bytes are looked at, and a
 *   worker that waits for an answer holds a thread. Their moment is read before that of the
 *   sockets, so what is heard in this turn never moves a last_seen back.
 * - Sockets before timers: a byte that waits in a socket is a sign of life, and must be heard
 *   before a timer takes its connection for silent. hub_free_closed waits for the end, as events
 *   may be left.
 * - Messages that were put off (hub_look), then watches (hub_work), behind all fresh bytes: they
 *   are long, and pings are not to wait for them. With input left they get the least.
 * - hub_expire behind all that was heard: a user who came back within the grace is not let go. It
 *   ends with hub_take_transitions, which takes what the table did in the whole turn, in that
 *   order: counters, streams and webhook see each change once, and never one before those before
 *   it.
 * - hub_crowd behind this turn's connects, which it counts.
 * - hub_watch behind it: it tells watchers the state of the table, and what it tells must not be
 *   older than what a stream was told. A watcher whose socket turns out to be broken ends in there,
 *   and hub_watch takes that transition itself, see hub_written.
 * - hub_sync behind everything that changes users and tells of it: what the webhook is to be told
 *   is in the batch of the user's new state, and a session's end never without it.
 * - hub_free_closed behind all of these: until here anybody may hold a pointer to a connection that
 *   ended. hub_report_stop only counts what is left.
 *
 * Each part has its time, and does something in every turn; what it leaves is for the next turn, so
 * that nobody waits long for an answer whatever others ask for. */
static void hub_turn(struct server *server)
{
    struct hub *hub = &server->hub;
    int64_t wait = 0;
    if (hub->event_at == hub->event_count) {
        wait = hub_wait(server, clock_mono_ms());
        hub->event_at = 0;
        hub->event_count = loop_wait(&hub->loop, hub->events, HUB_EVENTS, wait);
    }
    hub_wake(server, wait);
    hub->ids = 0;
    hub_begin_part(hub, HUB_JOBS_US);
    loop_run_jobs_until(&hub->loop, server, hub->until);
    struct instant now = server_now(server); /* behind the jobs, which have their own */
    hub_begin_part(hub, HUB_INPUT_US);
    hub_input(server, now);
    hub_begin_part(hub, HUB_TIMERS_US);
    struct timer *timer;
    bool over = false;
    while (!over && (timer = wheel_pop(&hub->wheel, now.mono))) {
        connection_timer(server, connection_of_timer(timer), now);
        over = clock_work_us() >= hub->until;
    }
    int64_t share = hub->event_at < hub->event_count ? HUB_WORK_LEAST_US : HUB_WORK_US;
    hub_begin_part(hub, share);
    hub_look(server, now);
    hub_begin_part(hub, share);
    hub_work(server, now);
    hub_crowd(server, now);
    hub_expire(server, now);
    hub_begin_part(hub, share);
    hub_watch(server, now);
    hub_sample(server, now);
    hub_sync(server, now);
    hub_begin_part(hub, share);
    hub_free_closed(server);
    hub_report_stop(server, now);
}

/* The hub's thread, until hub_quit was called and the last batch is with the writer. */
static void *hub_run(void *argument)
{
    thread_is(THREAD_HUB);
    struct server *server = argument;
    struct hub *hub = &server->hub;
    prctl(PR_SET_NAME, "hub");
    hub->turned_at = clock_mono_ms();
    while (!hub->quitting || (hub->batch_under_way && clock_mono_ms() < hub->stop_by))
        hub_turn(server);
    hub_sync(server, server_now(server));
    return NULL;
}

/* [main] Sets the hub up; its thread is started later. False with errno set, and what was opened
 * left to hub_free. */
static bool hub_init(struct server *server, struct instant now)
{
    struct hub *hub = &server->hub;
    int64_t wall = wall_of(now);
    wheel_init(&hub->wheel, now.mono);
    for (int k = 0; k < FEED_COUNT; k++)
        hub->feeds[k].events = (struct events){.limit = (size_t)server->options.events};
    hub->sample_at = now.mono + SAMPLE_MS - wall % SAMPLE_MS;
    hub->batch_done.run = hub_batch_done;
    watch_graph_init(&hub->graph);
    broadcast_init(&hub->broadcast);
    job_queue_init(&hub->reader, server, 1);
    TAILQ_INIT(&hub->held);
    TAILQ_INIT(&hub->late);
    hub->stop_event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return loop_init(&hub->loop) && hub->stop_event >= 0;
}

/* [main] Frees the hub, which has ended, with the connections that had no time to close: all have
 * an armed timer, so the wheel has them all. */
static void hub_free(struct server *server)
{
    struct hub *hub = &server->hub;
    struct instant now = server_now(server);
    for (struct timer *timer; (timer = wheel_take(&hub->wheel));)
        connection_end(server, connection_of_timer(timer), now, END_STOP);
    hub->event_at = hub->event_count;
    hub->until = INT64_MAX;
    hub_free_closed(server);
    job_queue_stop(&hub->broadcast.queue);
    for (int i = 0; i < HUB_AGENTS; i++) hub_drop_agent(hub->agents[i]);
    buffer_free(&hub->reply);
    buffer_free(&hub->event);
    buffer_free(&hub->outgoing);
    buffer_free(&hub->broadcast.text);
    watch_graph_free(&hub->graph);
    for (int k = 0; k < FEED_COUNT; k++) events_drop(&hub->feeds[k].events);
    buffer_free(&hub->batch.ops);
    loop_close(&hub->loop);
    if (hub->stop_event >= 0) close(hub->stop_event);
}

/* ==== 42. Listener: connections ===============================================================
 * One thread (CivetWeb's master thread, which has no other work) that owns the listening sockets
 * and every connection that is not, or not at present, being served. It accepts, waits until a
 * whole request is there, gives it to a worker, and takes the connection back for what is slow: a
 * client that does not read its answer, the next request, the end. Every wait has one absolute
 * deadline that bytes do not renew: a client that drips a byte a second has no more time than a
 * silent one. Ten thousand silent clients cost memory, never a thread; what they hold is counted
 * where it changes (http_conn_hold) and bounded over all and for one address. See struct connection
 * for its owners. */

/* The listener's bounds; what an operator may want to set is an option. */
enum {
    LISTENER_EVENTS = 256,
    LISTENER_ACCEPTS = 64,    /* of one listening socket a turn, so that others get theirs */
    LISTENER_QUEUE = 256,     /* quick requests with the workers at a time; see seam_submit */
    LISTENER_PAUSE_MS = 200,  /* accepting rests this long when descriptors ran out */
    LISTENER_SWEEP_MS = 5000, /* how late the deadline of a kept-alive connection may be set */

    /* Bytes of a handshake read at a time: more than one record, so that what is kept of one that
     * has not come whole always leaves room. */
    LISTENER_HELLO_MAX = 32 * 1024,

    /* Bytes of a body waited for before it is known who sends it; and of one that anybody may send,
     * which is a password, each character of it escaped. */
    LISTENER_BODY_FREE = 4096,
    LISTENER_BODY_OPEN = 32 * 1024,

    /* A connection that holds no more than this has the last eighth of the memory as well: bodies
     * cannot keep out what is small. */
    LISTENER_SMALL = 16 * 1024,

    HANDSHAKE_NICE = 10, /* clients that are connected come before those that want to be */
    QUIET_MS = 60000,    /* the same trouble is logged once in this time */
};

static struct http_conn *http_conn_of_item(struct seam_item *item)
{
    return container_of(item, struct http_conn, item);
}

/* [address_lock] Takes a connection off the list of its address. */
static void http_conn_unlist(struct server *server, struct http_conn *p)
{
    ASSERT_HELD(ADDRESS);
    struct address_entry *entry = p->address;
    if (!entry) return;
    TAILQ_REMOVE(&entry->conns, p, neighbours);
    p->address = NULL;
    entry->http_conns--;
    if (p->place == PLACE_READY) entry->ready--;
    entry->held -= p->held;
    address_settle(&server->addresses, entry, clock_mono_ms());
}

/* [owner; address_lock] Counts `bytes` as what a connection holds, in place of what was counted.
 * False, with nothing changed, when it would be more than before and too much: over all, or for one
 * address. The last eighth is for connections that hold little, so that bodies do not keep
 * everybody out. `must` counts without asking: the memory is there already, or an answer has to be
 * given. */
static bool http_conn_count(struct server *server, struct http_conn *p, size_t bytes, bool must)
{
    ASSERT_HELD(ADDRESS);
    struct listener *listener = &server->listener;
    size_t most =
        bytes <= LISTENER_SMALL ? listener->memory : listener->memory - listener->memory / 8;
    size_t all = listener->held - p->held + bytes;
    size_t own = p->address ? p->address->held - p->held + bytes : 0;
    if (!must && bytes > p->held && (all > most || own > listener->memory / 4)) return false;
    listener->held = all;
    if (p->address) p->address->held = own;
    p->held = bytes;
    return true;
}

/* [owner] Counts what a connection holds, and `more` that it is about to; see
 * http_conn_count. A refusal is counted, and logged once in QUIET_MS: whoever wins the exchange
 * writes the line. */
static bool http_conn_hold(struct http_conn *p, size_t more, bool must)
{
    struct server *server = p->server;
    const struct tls *tls = p->c->transport.tls;
    size_t bytes = p->item.size + p->aside.size + p->out.size + more;
    if (tls) bytes += tls->in.size + tls->out.size;
    lock_take(&server->address_lock, RANK_ADDRESS);
    bool held = http_conn_count(server, p, bytes, must);
    lock_give(&server->address_lock, RANK_ADDRESS);
    if (held) return true;
    int64_t now = clock_mono_ms(), last = atomic_load(&server->listener.memory_logged);
    count_one(&server->counters.memory_refused);
    if (last && now - last < QUIET_MS) return false;
    if (atomic_compare_exchange_strong(&server->listener.memory_logged, &last, now))
        log_line(&server->log, LOG_WARN,
                 "requests are refused: all under way hold --max-request-memory, or those of one"
                 " address a quarter of it");
    return false;
}

/* [whoever has it] A connection is the listener's no more: off the list of its address, out of the
 * counts. The lock is taken in any case: the listener may be about to do the same. */
static void http_conn_leave(struct http_conn *p)
{
    struct server *server = p->server;
    lock_take(&server->address_lock, RANK_ADDRESS);
    http_conn_unlist(server, p);
    http_conn_count(server, p, 0, true);
    lock_give(&server->address_lock, RANK_ADDRESS);
    atomic_fetch_sub(&server->listener.count, 1);
}

/* [listener; address_lock] The connection of an address that gives way to p, the newest: the oldest
 * that is ready where these are more than half, else the oldest that only waits or shakes hands. So
 * a client that floods with requests does not keep out one that has not asked yet, and one that
 * floods with silence does not keep out one that has. Only where workers have them all it is one of
 * theirs. */
static struct http_conn *http_conn_choose(const struct address_entry *entry,
                                          const struct http_conn *p)
{
    ASSERT_HELD(ADDRESS);
    struct http_conn *one = TAILQ_FIRST(&entry->conns), *other = NULL;
    bool ready = entry->ready > entry->http_conns / 2;
    for (; one != p; one = TAILQ_NEXT(one, neighbours)) {
        if (one->place != PLACE_ELSEWHERE && (one->place == PLACE_READY) == ready) return one;
        if (!other || (other->place == PLACE_ELSEWHERE && one->place != PLACE_ELSEWHERE))
            other = one;
    }
    return other;
}

/* [listener] Puts a new connection on the list of its address. Returns the one that has to give way
 * for it, off the list already; NULL if there is room. One that a worker has is only marked here:
 * it may be freed as soon as the lock is not held. */
static struct http_conn *http_conn_enter(struct server *server, struct http_conn *p, int64_t now)
{
    int64_t most = server->options.max_pending;
    struct http_conn *oldest = NULL;
    uint8_t key[16];
    if (server_exempts(server, p->c->session.address)) return NULL;
    address_group(p->c->session.address, key);
    lock_take(&server->address_lock, RANK_ADDRESS);
    address_sweep(&server->addresses, now);
    struct address_entry *entry = p->address = address_make(&server->addresses, key);
    TAILQ_INSERT_TAIL(&entry->conns, p, neighbours);
    if (++entry->http_conns > most && most) oldest = http_conn_choose(entry, p);
    if (oldest) {
        http_conn_unlist(server, oldest);
        count_one(&server->counters.pending_displaced);
    }
    if (oldest && oldest->place == PLACE_ELSEWHERE) {
        oldest->given_up = true;
        oldest = NULL;
    }
    lock_give(&server->address_lock, RANK_ADDRESS);
    return oldest;
}

/* [whoever has it] Frees a connection whose socket is closed. */
static void http_conn_end(struct http_conn *p)
{
    struct connection *c = p->c;
    http_conn_leave(p);
    http_conn_free(p);
    free(c);
}

/* [whoever has it] Frees the bytes of a request; nothing of them is needed any more. */
static void http_conn_forget_request(struct http_conn *p)
{
    free(p->item.bytes);
    free(p->item.authority);
    p->item.bytes = p->item.authority = NULL;
    p->item.len = p->item.size = p->item.used = 0;
}

/* [listener] Ends a connection that the listener owns. */
static void listener_close(struct server *server, struct http_conn *p)
{
    ASSERT_THREAD(LISTENER);
    timer_disarm(&server->listener.wheel, &p->c->timer);
    transport_close(&p->c->transport);
    http_conn_end(p);
}

/* [whoever has it] Has the socket reported once (EPOLLONESHOT). The last thing its owner does:
 * after it the listener may own the connection already. A socket that cannot be watched is shut;
 * its deadline ends it. */
static void http_conn_poll(struct http_conn *p, uint32_t events)
{
    int operation = p->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    p->polled = true;
    if (!loop_poll(&p->server->listener.loop, operation, p->c->transport.fd, events | EPOLLONESHOT,
                   poll_data(POLL_CONNECTION, p->c))) {
        log_line(&p->server->log, LOG_ERROR, "cannot watch a connection: %s", strerror(errno));
        shutdown(p->c->transport.fd, SHUT_RDWR); /* its deadline ends it */
    }
}

/* [listener] Begins a state with its deadline. */
static void http_conn_begin(struct http_conn *p, enum connection_state state, int64_t deadline)
{
    ASSERT_THREAD(LISTENER);
    p->c->session.state = state & 0x3f;
    timer_arm(&p->server->listener.wheel, &p->c->timer, deadline);
}

/* [listener] Says that the answer is complete, and waits for the client's end, at most
 * CLOSE_WAIT_MS. A socket that was closed with unread bytes would answer with a reset, and the
 * client lose our last words (RFC 9112 section 9.6). */
static void listener_linger(struct server *server, struct http_conn *p, int64_t now)
{
    (void)server;
    transport_finish(&p->c->transport);
    http_conn_begin(p, CONNECTION_LINGER, now + CLOSE_WAIT_MS);
    http_conn_poll(p, EPOLLIN);
}

/* [listener] Reads on and throws away, until the client ends: a close with bytes unread would reset
 * the connection, and the client lose its answer. */
static void listener_drain(struct server *server, struct http_conn *p)
{
    ssize_t n = transport_drain(&p->c->transport);
    if (n == TRANSPORT_END || n == TRANSPORT_BROKEN) listener_close(server, p);
    else http_conn_poll(p, EPOLLIN);
}

/* [listener] Sends what is left of an answer. Then: the next request, which may be here already and
 * is taken up by a job, so that a client which sends thousands at once waits its turn; or waiting
 * for one; or the end. */
static void listener_flush(struct server *server, struct http_conn *p, int64_t now)
{
    ssize_t n = transport_write(&p->c->transport, p->out.at, p->out.len);
    if (n == TRANSPORT_BROKEN) {
        listener_close(server, p);
        return;
    }
    if (n > 0) buffer_drop(&p->out, (size_t)n);
    if (!p->out.len) {
        buffer_free(&p->out);
        http_conn_hold(p, 0, true);
    }
    if (p->out.len || transport_unsent(&p->c->transport)) {
        http_conn_poll(p, EPOLLOUT);
    } else if (p->keep_alive && p->item.len) { /* the next request is here: listener_take_back */
        timer_disarm(&server->listener.wheel, &p->c->timer);
        p->place = PLACE_ELSEWHERE;
        p->c->session.state = CONNECTION_REQUEST;
        loop_submit(&server->listener.loop, &p->job);
    } else if (p->keep_alive) {
        http_conn_begin(p, CONNECTION_IDLE, now + server->options.keepalive_timeout);
        http_conn_poll(p, EPOLLIN);
    } else {
        listener_linger(server, p, now);
    }
}

/* [listener] The Origin of a request, also of one that is cut or wrong, when it is one of
 * --allow-origin: its page may read the answer. NULL if there is none; never under /admin/. */
static const char *listener_find_listed(const struct server *server, const struct http_conn *p)
{
    const struct option_list *allowed = &server->options.allow_origin;
    char text[ORIGIN_MAX], origin[ORIGIN_MAX];
    bool serves = p->kind == LISTEN_HTTP || p->kind == LISTEN_TLS;
    if (!allowed->count || !serves || !p->item.len) return NULL;
    if (span_begins(http_target(p->item.bytes, p->item.len), "/admin/")) return NULL;
    if (!http_find_header(p->item.bytes, p->item.len, "Origin", text, sizeof text)) return NULL;
    if (!origin_parse(text, origin)) return NULL;
    for (size_t i = 0; i < allowed->count; i++)
        if (!strcmp(origin, allowed->at[i])) return allowed->at[i];
    return NULL;
}

/* [listener] Counts an upgrade that is refused before anybody has parsed it, say for its cookies:
 * the page sees no more than 1006. */
static void listener_count_refusal(struct server *server, const struct http_conn *p, int64_t now,
                                   enum error error)
{
    char origin[ORIGIN_MAX], host[ORIGIN_MAX];
    const struct seam_item *item = &p->item;
    if (!item->len || !span_begins(http_target(item->bytes, item->len), "/ws/")) return;
    bool has_origin = http_find_header(item->bytes, item->len, "Origin", origin, sizeof origin);
    bool has_host = http_find_header(item->bytes, item->len, "Host", host, sizeof host);
    server_count_refusal(server, error, p->c->session.address, now, NULL,
                         has_origin ? origin : NULL, has_host ? host : NULL);
}

/* [whoever has it] Makes the error of the table the answer to a request that nobody has parsed, or
 * could; it ends the connection. */
static void http_conn_set_error(struct server *server, struct http_conn *p, enum error error)
{
    struct http_response response = {.allow_origin = p->listed};
    response.varies = server->options.allow_origin.count > 0;
    http_set_error(&response, error);
    http_write(&p->out, &response, false, false);
    buffer_free(&response.body);
    count_one(&server->counters.requests);
    count_one(&server->counters.request_errors);
    p->keep_alive = false;
}

/* [listener] Answers with an error of the table and ends the connection: where the next request
 * would begin is not known any more. */
static void listener_refuse(struct server *server, struct http_conn *p, int64_t now,
                            enum error error)
{
    if (!p->head) p->listed = listener_find_listed(server, p);
    listener_count_refusal(server, p, now, error);
    http_conn_set_error(server, p, error);
    http_conn_forget_request(p);
    http_conn_hold(p, 0, true);
    http_conn_begin(p, CONNECTION_FLUSH, now + server->options.request_timeout);
    listener_flush(server, p, now);
}

/* [listener] True if the workers have as many requests of a lane as they may. Then a worker that is
 * done wakes us: the flag is set first and the count read again, while a worker lowers the count
 * first and then reads the flag (http_conn_served); both are sequentially consistent, so one of the
 * two sees the other. */
static bool lane_starves(struct lane *lane)
{
    if (atomic_load(&lane->under_way) < lane->most) return false;
    atomic_store(&lane->starved, true);
    return atomic_load(&lane->under_way) >= lane->most; /* none finished in between */
}

/* [listener] Closes those of the connections whose socket was reset meanwhile, which reading would
 * tell only behind what has come before it: nobody reads their answers. One that was only half
 * closed stays, and so do those that were read in this turn. Returns how many are left. */
static int listener_drop_reset(struct server *server, struct http_conn **ready, int count)
{
    struct pollfd sockets[LISTENER_QUEUE];
    int asked = 0, left = 0;
    for (int i = 0; i < count; i++) {
        bool fresh = ready[i]->read_in == server->listener.turn;
        sockets[i] = (struct pollfd){.fd = fresh ? -1 : ready[i]->c->transport.fd};
        asked += !fresh;
    }
    if (asked && poll(sockets, (nfds_t)count, 0) <= 0) return count;
    for (int i = 0; i < count; i++) {
        if (asked && sockets[i].revents & (POLLHUP | POLLERR)) listener_close(server, ready[i]);
        else ready[left++] = ready[i];
    }
    return left;
}

/* [listener] Gives whole requests of a lane to the workers, as many as they may have. The rest
 * stays here, where a client that goes away or is displaced can still be taken out. */
static void lane_serve(struct server *server, struct lane *lane)
{
    ASSERT_THREAD(LISTENER);
    while (!TAILQ_EMPTY(&lane->ready) && !lane_starves(lane)) {
        struct http_conn *ready[LISTENER_QUEUE];
        struct seam_item *items[LISTENER_QUEUE];
        int count = 0, room = lane->most - atomic_load(&lane->under_way);
        if (room > LISTENER_QUEUE) room = LISTENER_QUEUE;
        for (struct http_conn *p; count < room && (p = TAILQ_FIRST(&lane->ready));) {
            TAILQ_REMOVE(&lane->ready, p, entry);
            if (p->address) p->address->ready--;
            p->place = PLACE_LISTENER;
            ready[count++] = p;
        }
        count = listener_drop_reset(server, ready, count);
        for (int i = 0; i < count; i++) {
            ready[i]->place = PLACE_ELSEWHERE;
            items[i] = &ready[i]->item;
        }
        if (!count) continue;
        atomic_fetch_add(&lane->under_way, count);
        seam_submit(server->seam, items, count);
    }
}

/* [listener] Closes the connections of a lane: the start failed before they could be served. */
static void lane_close(struct server *server, struct lane *lane)
{
    for (struct http_conn *p; (p = TAILQ_FIRST(&lane->ready));) {
        TAILQ_REMOVE(&lane->ready, p, entry);
        if (p->address) p->address->ready--;
        p->place = PLACE_LISTENER;
        listener_close(server, p);
    }
}

/* ==== 43. Listener: requests ==================================================================
 * Bytes become whole requests, requests go to the workers, answers come back. A worker is never
 * given half a request, so it never waits for a client.
 *
 *     REQUEST --whole--> lane --> worker --answered--> IDLE    kept alive, all sent
 *        ^  \--body is long, head alone--> worker --may--> REQUEST
 *        |                                      |----> FLUSH   the client has not taken all
 *        |                                      |----> LINGER  the last answer; its end is awaited
 *        |                                      \----> hub     an upgrade, a stream
 *        \-- next request, from IDLE or FLUSH
 *
 * With TLS the states HELLO and HANDSHAKE come first, in turns, until the handshake is done. A
 * sender of a long body is looked at by the head first (listener_vet): a stranger's megabyte is
 * refused before it is read. */

/* [listener] Looks for the head of a request, from where it looked last: a head that drips is
 * scanned once. Empty lines before a request are skipped (RFC 9112 section 2.2). False when the
 * request was refused. */
static bool listener_find_head(struct server *server, struct http_conn *p, int64_t now)
{
    struct seam_item *item = &p->item;
    const struct options *options = &server->options;
    size_t blank = 0;
    const char *text = item->bytes;
    while (blank < item->len && (text[blank] == '\r' || text[blank] == '\n')) blank++;
    item->len -= blank;
    if (blank) memmove(item->bytes, item->bytes + blank, item->len);
    struct http_frame frame = http_frame_read(item->bytes, item->len, p->scanned,
                                              (size_t)options->max_head, (size_t)options->max_body);
    if (frame.error) {
        listener_refuse(server, p, now, frame.error);
        return false;
    }
    p->scanned = item->len;
    p->head = frame.head;
    if (frame.head) p->listed = listener_find_listed(server, p);
    item->asterisk = frame.asterisk;
    if (*frame.authority) item->authority = mem_copy_text(frame.authority, strlen(frame.authority));
    p->chunked = frame.chunked;
    p->expects = frame.expects;
    /* A body in chunks is whole when its last chunk says so. */
    if (frame.head && !frame.chunked) p->whole = frame.head + frame.body;
    return true;
}

/* [listener] Reads on in a body that is in chunks (RFC 9112 section 7.1), and takes their frames
 * out in place, as CivetWeb is to see a plain body. False when the request was refused. */
static bool listener_read_chunks(struct server *server, struct http_conn *p, int64_t now)
{
    const struct options *options = &server->options;
    size_t len = p->item.len - p->head;
    enum error error = http_chunks_read(&p->chunks, p->item.bytes + p->head, &len,
                                        (size_t)options->max_body, (size_t)options->max_head);
    p->item.len = p->head + len;
    if (p->chunks.state == CHUNK_DONE) p->whole = p->head + p->chunks.made;
    if (error) listener_refuse(server, p, now, error);
    return !error;
}

/* [listener] Puts a connection into its lane: with a whole request, or with a head alone to be
 * vetted. It has no deadline there: the rest is the server's own time. */
static void listener_make_ready(struct server *server, struct http_conn *p)
{
    p->item.is_tls = p->c->transport.tls != NULL;
    timer_disarm(&server->listener.wheel, &p->c->timer);
    p->c->session.state = CONNECTION_BUSY;
    p->place = PLACE_READY;
    if (p->address) p->address->ready++;
    /* A head that is vetted is never costly, whatever it asks for: only who sends it is looked
     * at. */
    bool costly = p->vet != VET_ASKED && http_is_costly(p->item.bytes, p->head);
    bool probe = http_is_probe(p->item.bytes, p->head);
    p->lane = probe ? LANE_PROBE : costly ? LANE_COSTLY : LANE_QUICK;
    TAILQ_INSERT_TAIL(&server->listener.lanes[p->lane].ready, p, entry);
}

/* [listener] Has a worker look at the head of a request alone. A copy, as CivetWeb changes what it
 * reads and the request will be read again; what has come of the body waits in `aside`. */
static void listener_vet(struct server *server, struct http_conn *p, int64_t now)
{
    struct seam_item *item = &p->item;
    if (!http_conn_hold(p, p->head + 1, false)) {
        listener_refuse(server, p, now, ERROR_REQUEST_MEMORY);
        return;
    }
    p->aside = (struct buffer){.at = item->bytes, .len = item->len, .size = item->size};
    item->size = p->head + 1;
    item->bytes = mem_new(item->size);
    memcpy(item->bytes, p->aside.at, p->head);
    item->len = item->used = p->head;
    p->vet = VET_ASKED;
    listener_make_ready(server, p);
}

/* [listener] True if the sender's token is to be looked at before more of the body is waited for.
 * Without keys or a password there is nothing to look at. */
static bool listener_wants_vet(const struct server *server, const struct http_conn *p)
{
    const struct options *options = &server->options;
    if (p->vet != VET_NONE || (!options_have_keys(options) && !*options->admin_password_file))
        return false;
    size_t body = p->whole ? p->whole - p->head : p->chunks.made;
    return body > LISTENER_BODY_FREE;
}

/* [listener] Looks whether a whole request is there, and acts on it; otherwise waits for more. Ends
 * with the connection given on, closed, or watched. */
static void listener_advance(struct server *server, struct http_conn *p, int64_t now)
{
    struct seam_item *item = &p->item;
    if (!p->head && !listener_find_head(server, p, now)) return;
    if (p->head && !p->whole && !listener_read_chunks(server, p, now)) return;
    if (p->whole && item->len >= p->whole) {
        item->used = p->whole;
        listener_make_ready(server, p);
        return;
    }
    /* A whole request is not vetted: it is looked at as it is answered. */
    if (p->head && listener_wants_vet(server, p)) {
        listener_vet(server, p, now);
        return;
    }
    /* Who expects a 100 has it as soon as we want the body, and only then: what was refused or
     * vetted above never needs to be sent. It is written once, on a socket that took nothing
     * before: a short write is the end. */
    static const char go_on[] = "HTTP/1.1 100 Continue\r\n\r\n"; /* RFC 9110 section 10.1.1 */
    if (p->expects &&
        transport_write(&p->c->transport, go_on, sizeof go_on - 1) != sizeof go_on - 1) {
        listener_close(server, p);
        return;
    }
    p->expects = false;
    http_conn_poll(p, EPOLLIN);
}

/* [listener] Reads what is there of a request. The memory is asked for before it is had: a refusal
 * costs none. */
static void listener_read(struct server *server, struct http_conn *p, int64_t now)
{
    ASSERT_THREAD(LISTENER);
    struct seam_item *item = &p->item;
    char *scratch = server->listener.scratch;
    ssize_t n = transport_read(&p->c->transport, scratch, LISTENER_READ_SIZE);
    /* TLS that went wrong was told so by an alert, which the client is to read. */
    if (n == TRANSPORT_BROKEN && transport_ended(&p->c->transport)) {
        listener_linger(server, p, now);
        return;
    }
    if (n <= 0 && n != TRANSPORT_AGAIN) {
        listener_close(server, p);
        return;
    }
    /* The first byte of the next request begins its time. */
    if (p->c->session.state == CONNECTION_IDLE && n > 0) {
        p->deadline = now + server->options.request_timeout;
        http_conn_begin(p, CONNECTION_REQUEST, p->deadline);
    }
    /* Grown by what came, not doubled: ten thousand heads of 300 bytes are all there is mostly. */
    size_t needed = n > 0 ? item->len + (size_t)n + 1 : 0;
    size_t more = needed > item->size ? needed - item->size : 0;
    if ((more || p->c->transport.tls) && !http_conn_hold(p, more, false)) {
        listener_refuse(server, p, now, ERROR_REQUEST_MEMORY);
        return;
    }
    /* With TLS bytes may have come and be no whole record yet: they count. */
    if (n == TRANSPORT_AGAIN) {
        http_conn_poll(p, EPOLLIN);
        return;
    }
    if (more) item->bytes = mem_resize(item->bytes, item->size = needed);
    memcpy(item->bytes + item->len, scratch, (size_t)n);
    item->len += (size_t)n;
    p->read_in = server->listener.turn;
    listener_advance(server, p, now);
}

/* A cycle: the end of a handshake's step reads on, and perhaps begins the next one. */
static void handshake_run(struct server *server, struct job *job);

/* [listener] Gives a connection to the handshake workers. It has no deadline there; what it had
 * goes on counting when it is back. */
static void listener_handshake(struct server *server, struct http_conn *p)
{
    timer_disarm(&server->listener.wheel, &p->c->timer);
    p->c->session.state = CONNECTION_HANDSHAKE;
    p->place = PLACE_HANDSHAKE;
    server->listener.handshaking++;
    p->job.run = handshake_run;
    job_queue_add(&server->listener.handshakes, &p->job);
}

/* [listener] The client ended in the middle of its handshake, or before: then it may have been a
 * look at the port, and is no failure. */
static void listener_cut_hello(struct server *server, struct http_conn *p)
{
    if (p->c->transport.tls->in.len || p->c->transport.tls->set_up)
        count_one(&server->counters.tls_failures);
    listener_close(server, p);
}

/* [listener] What stands at the beginning of a first handshake message is none: told so by an
 * alert, or in plain HTTP if it does not look like TLS at all. */
static void listener_refuse_hello(struct server *server, struct http_conn *p, int64_t now,
                                  uint8_t alert)
{
    struct buffer *in = &p->c->transport.tls->in;
    bool is_tls = in->at[p->hello.scanned] < ' ' && in->at[p->hello.scanned + 1] == 3;
    count_one(&server->counters.tls_failures);
    if (is_tls || p->hello.scanned) {
        transport_refuse_tls(&p->c->transport, alert);
        listener_linger(server, p, now);
    } else {
        transport_forget_tls(&p->c->transport);
        listener_refuse(server, p, now, ERROR_TLS_REQUIRED);
    }
}

/* [listener] Reads what is there of a handshake; whole records are a handshake worker's. There is
 * always room: it has taken all whole records, and less than one is left. */
static void listener_read_hello(struct server *server, struct http_conn *p, int64_t now)
{
    struct tls *tls = p->c->transport.tls;
    ssize_t n = TRANSPORT_AGAIN;
    if (!transport_send_waiting(&p->c->transport, &n) && n == TRANSPORT_BROKEN) {
        listener_cut_hello(server, p);
        return;
    }
    n = transport_receive(p->c->transport.fd, server->listener.scratch,
                          LISTENER_HELLO_MAX - tls->in.len);
    if (n == TRANSPORT_END || n == TRANSPORT_BROKEN) {
        listener_cut_hello(server, p);
        return;
    }
    if (n > 0) buffer_add(&tls->in, server->listener.scratch, (size_t)n);
    if (!http_conn_hold(p, 0, false)) {
        listener_close(server, p);
        return;
    }
    uint8_t alert;
    switch (tls_hello_look(tls, &p->hello, &alert)) {
    case HELLO_REFUSE: listener_refuse_hello(server, p, now, alert); return;
    case HELLO_HANDSHAKE: listener_handshake(server, p); return;
    default:
        http_conn_poll(p, transport_unsent(&p->c->transport) ? EPOLLIN | EPOLLOUT : EPOLLIN);
        return;
    }
}

/* [listener] A handshake worker gave a connection back. What came meanwhile is read at once: the
 * request mostly follows the handshake's last record. */
static void listener_handshake_done(struct server *server, struct job *job)
{
    ASSERT_THREAD(LISTENER);
    struct http_conn *p = container_of(job, struct http_conn, job);
    int64_t now = clock_mono_ms();
    p->place = PLACE_LISTENER;
    server->listener.handshaking--;
    if (p->given_up) {
        listener_close(server, p);
        return;
    }
    if (p->handshake == HANDSHAKE_FAILED) {
        count_one(&server->counters.tls_failures);
        listener_linger(server, p, now);
        return;
    }
    if (p->handshake == HANDSHAKE_DONE) count_one(&server->counters.tls_handshakes);
    http_conn_begin(p, p->handshake == HANDSHAKE_DONE ? CONNECTION_REQUEST : CONNECTION_HELLO,
                    p->deadline);
    if (p->handshake == HANDSHAKE_DONE)
        listener_read(server, p, now); /* the request may be here already */
    else listener_read_hello(server, p, now);
}

/* [handshake] Takes a handshake a step further and gives the connection back. Does no work
 * any more once the server stops. */
static void handshake_run(struct server *server, struct job *job)
{
    ASSERT_THREAD(JOB);
    struct http_conn *p = container_of(job, struct http_conn, job);
    bool useless = atomic_load(&server->stopping);
    p->handshake =
        (uint8_t)(useless ? HANDSHAKE_FAILED : transport_handshake(&p->c->transport, &server->tls));
    p->job.run = listener_handshake_done;
    loop_submit(&server->listener.loop, &p->job);
}

/* [listener] The deadline of a state has come. A client that has begun a request is told so (408);
 * in any other state there is nothing to answer. */
static void listener_expire(struct server *server, struct http_conn *p, int64_t now)
{
    if (p->c->session.state <= CONNECTION_REQUEST) count_one(&server->counters.request_timeouts);
    if (p->c->session.state == CONNECTION_REQUEST && p->item.len)
        listener_refuse(server, p, now, ERROR_REQUEST_TIMEOUT);
    else listener_close(server, p);
}

/* [listener] Has a connection closed at the end of the turn: an event of it may have been fetched
 * already. */
static void listener_give_up(struct server *server, struct http_conn *p)
{
    p->c->session.state = CONNECTION_DEAD;
    p->place = PLACE_ELSEWHERE;
    TAILQ_INSERT_TAIL(&server->listener.gone, p, entry);
}

/* [listener] A worker gave a connection back, in the state it set. Its deadline begins now: the
 * time with workers was the server's. */
static void listener_take_back(struct server *server, struct job *job)
{
    ASSERT_THREAD(LISTENER);
    struct http_conn *p = container_of(job, struct http_conn, job);
    int64_t now = clock_mono_ms();
    p->place = PLACE_LISTENER;
    if (p->given_up) { /* and it may have an event in this turn */
        listener_give_up(server, p);
        return;
    }
    switch (p->c->session.state) {
    case CONNECTION_IDLE:
        http_conn_begin(p, CONNECTION_IDLE, now + server->options.keepalive_timeout);
        return;
    case CONNECTION_FLUSH:
        http_conn_begin(p, CONNECTION_FLUSH, now + server->options.request_timeout);
        http_conn_poll(p, EPOLLOUT);
        return;
    case CONNECTION_LINGER: listener_linger(server, p, now); return;
    default:
        /* A vetted request keeps its deadline: being asked for a token gives no time. */
        if (p->vet == VET_NONE) p->deadline = now + server->options.request_timeout;
        http_conn_begin(p, CONNECTION_REQUEST, p->deadline);
        listener_advance(server, p, now);
        return;
    }
}

/* [worker] Hands a connection on to the hub, with the bytes behind its request. Its socket leaves
 * the listener's epoll set first: from loop_submit on the hub may close it, and a new connection
 * have its number. */
static void http_conn_hand_over(struct server *server, struct http_conn *p)
{
    ASSERT_THREAD(WORKER);
    if (p->polled) epoll_ctl(server->listener.loop.epoll, EPOLL_CTL_DEL, p->c->transport.fd, NULL);
    http_conn_leave(p);
    p->job.run = p->grant.kind == GRANT_STREAM ? hub_adopt_stream : hub_adopt;
    loop_submit(&server->hub.loop, &p->job);
}

/* [worker] Takes the served request off the front; what is behind it is the next one, and keeps no
 * more memory than it needs. A connection between requests holds no buffer at all. */
static void http_conn_next_request(struct http_conn *p)
{
    struct seam_item *item = &p->item;
    p->head = p->whole = p->scanned = 0;
    p->listed = NULL;
    free(item->authority);
    item->authority = NULL;
    p->chunks = (struct http_chunks){0};
    p->chunked = p->expects = false;
    p->vet = VET_NONE;
    item->len -= item->used;
    if (!item->len) {
        http_conn_forget_request(p);
        return;
    }
    memmove(item->bytes, item->bytes + item->used, item->len);
    item->used = 0;
    item->size = item->len + 1;
    item->bytes = mem_resize(item->bytes, item->size);
}

/* [worker] The sender of a body may send it: the request goes on being waited for, from its own
 * bytes. The copy that CivetWeb has changed is freed. */
static void http_conn_go_on(struct http_conn *p)
{
    free(p->item.bytes);
    p->item.bytes = p->aside.at;
    p->item.len = p->aside.len;
    p->item.size = p->aside.size;
    p->item.used = 0;
    p->aside = (struct buffer){0};
    http_conn_hold(p, 0, true);
    p->c->session.state = CONNECTION_REQUEST;
    p->job.run = listener_take_back;
    loop_submit(&p->server->listener.loop, &p->job);
}

/* [worker] Sends the answer as far as the socket takes it, without waiting, and passes the
 * connection on: to the listener when something remains to be waited for, or to its end. Writing
 * here and not in the listener saves it a wake-up for nearly every answer. An unread rest of the
 * request keeps the socket open for a moment, see listener_linger. */
static void http_conn_send(struct server *server, struct http_conn *p)
{
    struct loop *loop = &server->listener.loop;
    ssize_t n = transport_write(&p->c->transport, p->out.at, p->out.len);
    /* The next request, or what is left of a body that nobody wants. */
    bool rest = p->item.len > p->item.used || p->aside.at;
    if (n > 0) buffer_drop(&p->out, (size_t)n);
    if (!p->out.len) buffer_free(&p->out);
    bool sent = !p->out.len && !transport_unsent(&p->c->transport);
    /* The common end of a connection that is not kept: all is sent and nothing of the client is
     * unread, so closing loses nothing. */
    if (n == TRANSPORT_BROKEN || (sent && !p->keep_alive && !rest)) {
        transport_close(&p->c->transport);
        http_conn_end(p);
        return;
    }
    p->job.run = listener_take_back;
    if (p->keep_alive) http_conn_next_request(p);
    else http_conn_forget_request(p);
    buffer_free(&p->aside);
    http_conn_hold(p, 0, true);
    /* The state says what the listener is to do; it takes it from there (listener_take_back). */
    p->c->session.state = (uint8_t)(!sent            ? CONNECTION_FLUSH
                                    : !p->keep_alive ? CONNECTION_LINGER
                                    : rest           ? CONNECTION_REQUEST
                                                     : CONNECTION_IDLE);
    if (p->c->session.state != CONNECTION_IDLE) {
        loop_submit(loop, &p->job);
        return;
    }
    /* The common way costs the listener no wake-up: it sets the deadline when it next wakes. */
    int operation = p->polled ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    p->polled = true;
    if (!loop_park(loop, &p->job, operation, p->c->transport.fd, EPOLLIN | EPOLLONESHOT,
                   poll_data(POLL_CONNECTION, p->c)))
        log_line(&server->log, LOG_ERROR, "cannot watch a connection: %s", strerror(errno));
}

/* [worker] The request is answered, or the upgrade or stream granted. The connection is somebody
 * else's after the first line; the lane is told last, see lane_starves. */
static void http_conn_served(struct server *server, struct http_conn *p)
{
    ASSERT_THREAD(WORKER);
    struct lane *lane = &server->listener.lanes[p->lane];
    if (p->grant.kind) http_conn_hand_over(server, p);
    else if (p->vet == VET_PASSED && p->aside.at) http_conn_go_on(p);
    else http_conn_send(server, p);
    atomic_fetch_sub(&lane->under_way, 1);
    if (atomic_exchange(&lane->starved, false)) loop_wake(&server->listener.loop);
}

/* [listener] Has a connection, which is off the list of its address, give way to a newer one. One
 * that a handshake worker has at this moment is closed when it comes back; there is one of these a
 * thread. */
static void listener_displace(struct server *server, struct http_conn *p)
{
    ASSERT_THREAD(LISTENER);
    if (p->place == PLACE_READY) TAILQ_REMOVE(&server->listener.lanes[p->lane].ready, p, entry);
    if (p->place == PLACE_HANDSHAKE) {
        p->given_up = true;
        if (!job_queue_cancel(&server->listener.handshakes, &p->job)) return;
        server->listener.handshaking--;
    }
    listener_give_up(server, p);
}

/* ==== 44. Listener: accept ====================================================================
 * New connections, the deadlines of all, and the loop of the listener. Accepting never ends the
 * server: without descriptors it rests and tries again, while what is connected goes on being
 * served. There is no limit of HTTP connections over all but that of descriptors; each address has
 * one (--max-pending-per-address), at which the newest displaces another. */

/* [listener] Lets a new connection in. It may displace an older one of its address: until it is on
 * the list its place is ELSEWHERE, so it is not chosen itself. */
static struct http_conn *listener_admit(struct server *server,
                                        const struct listen_socket *listening, int fd,
                                        const struct sockaddr_storage *peer, int64_t now)
{
    struct connection *c = mem_new(sizeof *c);
    struct http_conn *p = c->http = mem_new(sizeof *p);
    p->c = c;
    p->server = server;
    c->transport.fd = fd;
    address_pack(peer, c->session.address, &c->session.port);
    atomic_fetch_add(&server->listener.count, 1);
    count_one(&server->counters.accepted);
    p->kind = (uint8_t)listening->kind;
    p->deadline = now + server->options.request_timeout;
    if (listening->kind == LISTEN_TLS) transport_begin_tls(&p->c->transport);
    http_conn_begin(p, p->c->transport.tls ? CONNECTION_HELLO : CONNECTION_REQUEST, p->deadline);
    struct http_conn *oldest = http_conn_enter(server, p, now);
    if (oldest) listener_displace(server, oldest);
    p->place = PLACE_LISTENER;
    return p;
}

/* [listener] Watches the listening sockets, or rests from them. */
static void listener_poll(struct server *server, uint32_t events)
{
    for (size_t i = 0; i < server->listen_socket_count; i++)
        loop_poll(&server->listener.loop, EPOLL_CTL_MOD, server->listen_sockets[i].fd, events,
                  poll_data(POLL_LISTEN_SOCKET, &server->listen_sockets[i]));
}

/* [listener] Rests from accepting after an error that will not go away at once: what is connected
 * goes on being served, and nothing spins. Without descriptors or memory no listening socket gives
 * anything; any other reason is that of this one, and the others go on. */
static void listener_pause(struct server *server, struct listen_socket *listening, int64_t now)
{
    struct listener *listener = &server->listener;
    int error = errno;
    bool full = error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
    count_one(&server->counters.accept_errors);
    if (!listener->paused_logged || now - listener->paused_logged > QUIET_MS)
        log_line(&server->log, LOG_WARN, "cannot accept connections: %s; %s", strerror(error),
                 full ? "raise the descriptor limit (ulimit -n) or lower --max-connections"
                      : "it is tried again and again");
    listener->paused_logged = now;
    listener->paused = full;
    /* Level-triggered, a socket that cannot be accepted from would be reported for ever. */
    if (full) listener_poll(server, 0);
    else
        loop_poll(&listener->loop, EPOLL_CTL_MOD, listening->fd, 0,
                  poll_data(POLL_LISTEN_SOCKET, listening));
    timer_arm(&listener->wheel, &listener->pause, now + LISTENER_PAUSE_MS);
}

/* True if an accept failed for the one connection that it would have given (accept(2)): the next
 * may be fine. */
static bool accept_lost_one(int error)
{
    static const int errors[] = {ECONNABORTED, EINTR,       EPERM,      EPROTO,
                                 ENETDOWN,     ENETUNREACH, EHOSTDOWN,  EHOSTUNREACH,
                                 ENONET,       ENOPROTOOPT, EOPNOTSUPP, ETIMEDOUT};
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (error == errors[i]) return true;
    return false;
}

/* [listener] Accepts what waits at a listening socket. The sockets are read after all of them are
 * accepted: by then most have their request, and need not be watched for it. */
static void listener_accept(struct server *server, struct listen_socket *listening, int64_t now)
{
    ASSERT_THREAD(LISTENER);
    struct http_conn *admitted[LISTENER_ACCEPTS];
    int count = 0, lost = 0;
    while (count + lost < LISTENER_ACCEPTS && !server->listener.paused) {
        struct sockaddr_storage peer = {0};
        socklen_t len = sizeof peer;
        int fd =
            accept4(listening->fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) admitted[count++] = listener_admit(server, listening, fd, &peer, now);
        else if (errno == EAGAIN || errno == EBADF) break;
        else if (accept_lost_one(errno) &&
                 ++lost < LISTENER_ACCEPTS) /* so many: it does not go away */
            count_one(&server->counters.accept_errors);
        else {
            listener_pause(server, listening, now);
            break;
        }
    }
    for (int i = 0; i < count; i++) {
        if (admitted[i]->c->session.state == CONNECTION_DEAD) continue;
        if (admitted[i]->c->transport.tls) listener_read_hello(server, admitted[i], now);
        else listener_read(server, admitted[i], now);
    }
}

/* [listener] Stops accepting for good: new clients are refused by the kernel. */
static void listener_shut(struct server *server, struct job *job)
{
    (void)job;
    for (size_t i = 0; i < server->listen_socket_count; i++) {
        if (server->listen_sockets[i].fd >= 0) close(server->listen_sockets[i].fd);
        server->listen_sockets[i].fd = -1;
    }
}

/* [listener] Ends listener_run as soon as no request is with the workers. */
static void listener_quit(struct server *server, struct job *job)
{
    (void)job;
    server->listener.quitting = true;
}

/* [listener] Acts on one event. One that comes for a connection which gave way in this turn counts
 * no more. */
static void listener_event(struct server *server, const struct epoll_event *event, int64_t now)
{
    if (poll_tag(event) == POLL_LISTEN_SOCKET) listener_accept(server, poll_about(event), now);
    if (poll_tag(event) != POLL_CONNECTION) return;
    struct http_conn *p = ((struct connection *)poll_about(event))->http;
    if (p->c->session.state == CONNECTION_DEAD) return;
    if (p->c->session.state == CONNECTION_FLUSH) listener_flush(server, p, now);
    else if (p->c->session.state == CONNECTION_LINGER) listener_drain(server, p);
    else if (p->c->session.state == CONNECTION_HELLO) listener_read_hello(server, p, now);
    else listener_read(server, p, now);
}

/* [listener] Acts on one timer. */
static void listener_timer(struct server *server, struct timer *timer, int64_t now)
{
    if (timer != &server->listener.pause) {
        listener_expire(server, connection_of_timer(timer)->http, now);
        return;
    }
    server->listener.paused = false;
    listener_poll(server, EPOLLIN);
}

/* [listener] True if a request, or a handshake, is with others who will give it back. */
static bool listener_is_busy(struct listener *listener)
{
    bool busy = listener->handshaking;
    for (int i = 0; i < LANE_COUNT; i++)
        busy = busy || !TAILQ_EMPTY(&listener->lanes[i].ready) ||
               atomic_load(&listener->lanes[i].under_way);
    return busy;
}

/* [listener] The listener's thread, until listener_quit. When it ends it has closed every
 * connection it owned.
 *
 * A turn: jobs first, since they give connections back whose events may have been fetched
 * (loop_park relies on it); then events; then those that gave way are closed, when no event can be
 * of them any more; then deadlines, behind the bytes that may have met them; last the lanes, which
 * take what all of that made ready. After a pause of the whole process deadlines wait (judge_at)
 * until what lies in the sockets has been read: it was in time. */
static void listener_run(void *context)
{
    thread_is(THREAD_LISTENER);
    struct server *server = context;
    struct listener *listener = &server->listener;
    struct epoll_event events[LISTENER_EVENTS];
    int64_t judge_at = 0; /* after a pause what waits in sockets is read before a deadline counts */
    prctl(PR_SET_NAME, "listener");
    listener_poll(server, EPOLLIN);
    for (;;) {
        for (int i = 0; i < LANE_COUNT && listener->quitting; i++)
            atomic_store(&listener->lanes[i].starved, true); /* have the last worker wake us */
        /* Whoever is with a worker comes back; nobody else is waited for. */
        if (listener->quitting && !listener_is_busy(listener)) break;
        int64_t now = clock_mono_ms(), wait = wheel_wait(&listener->wheel, now);
        /* loop_park leaves deadlines in the inbox without waking us: they must be set within
         * LISTENER_SWEEP_MS while there is any connection. */
        if (atomic_load(&listener->count) && (wait < 0 || wait > LISTENER_SWEEP_MS))
            wait = LISTENER_SWEEP_MS;
        if (wait >= 0 && wait < judge_at - now) wait = judge_at - now;
        int64_t wake_by = wait < 0 ? INT64_MAX : now + wait + PAUSE_MS;
        int count = loop_wait(&listener->loop, events, LISTENER_EVENTS, wait);
        now = clock_mono_ms();
        listener->turn++;
        if (now > wake_by) judge_at = now + PAUSE_READ_MS;
        loop_run_jobs(&listener->loop, server);
        for (int i = 0; i < count; i++) listener_event(server, &events[i], now);
        for (struct http_conn *p; (p = TAILQ_FIRST(&listener->gone));) {
            TAILQ_REMOVE(&listener->gone, p, entry);
            listener_close(server, p);
        }
        for (struct timer *timer; now >= judge_at && (timer = wheel_pop(&listener->wheel, now));)
            listener_timer(server, timer, now);
        lane_serve(server, &listener->lanes[LANE_PROBE]);
        for (int i = LANE_PROBE + 1; i < LANE_COUNT; i++) {
            if (atomic_load(&server->restored)) lane_serve(server, &listener->lanes[i]);
            else if (listener->quitting) lane_close(server, &listener->lanes[i]);
        }
    }
    loop_run_jobs(&listener->loop, server);
    timer_disarm(&listener->wheel, &listener->pause);
    for (struct timer *timer; (timer = wheel_take(&listener->wheel));)
        listener_close(server, connection_of_timer(timer)->http);
}

/* [main] Opens one listening socket; false with errno set. TCP_NODELAY is inherited by what it
 * accepts: every write here is a whole message, and Nagle's algorithm would hold the second of two
 * back. */
static bool listen_socket_open(struct listen_socket *listening, const char *text)
{
    socklen_t len;
    int on = 1;
    if (!address_parse(text, &listening->address, &len)) fatal("an option was not checked");
    listening->fd =
        socket(listening->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listening->fd < 0) return false;
    /* Without it a restart fails while connections of the server before are in TIME_WAIT. */
    setsockopt(listening->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listening->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on); /* inherited by accept */
    /* [::] is IPv6 alone, so that an address for each family can be given in any order. */
    if (listening->address.ss_family == AF_INET6)
        setsockopt(listening->fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
    return !bind(listening->fd, (struct sockaddr *)&listening->address, len) &&
           !listen(listening->fd, 4096) &&
           !getsockname(listening->fd, (struct sockaddr *)&listening->address, &len);
}

/* How many workers there are. A worker never waits for a client, so more than one a processor give
 * no more answers, only more switches: each new connection wakes one. Two at least: a list of all
 * users takes one for a while, see struct lane. */
static int server_workers(const struct options *options)
{
    size_t processors = processor_count();
    return options->workers    ? (int)options->workers
           : processors <= 2   ? 2
           : processors <= 256 ? (int)processors
                               : 256;
}

/* [main] Sets the listener up; its sockets are open already but not yet watched. An address may
 * hold a quarter of the memory, so that is no less than four of the largest requests. False with
 * errno set. */
static bool listener_init(struct server *server, struct instant now)
{
    struct listener *listener = &server->listener;
    job_queue_init(&listener->handshakes, server, 1);
    for (int i = 0; i < LANE_COUNT; i++) TAILQ_INIT(&listener->lanes[i].ready);
    TAILQ_INIT(&listener->gone);
    wheel_init(&listener->wheel, now.mono);
    int workers = server_workers(&server->options);
    /* of an address no less than one request as large as they may be */
    const struct options *options = &server->options;
    listener->memory = 4 * (size_t)(options->max_head + options->max_body + 2 * LISTENER_READ_SIZE);
    if (listener->memory < (size_t)options->request_memory)
        listener->memory = (size_t)options->request_memory;
    listener->lanes[LANE_PROBE].most = LISTENER_QUEUE;
    listener->lanes[LANE_QUICK].most = LISTENER_QUEUE;
    /* One worker is always free for what is quick. */
    listener->lanes[LANE_COSTLY].most = workers > 1 ? workers - 1 : 1;
    if (!loop_init(&listener->loop)) return false;
    for (size_t i = 0; i < server->listen_socket_count; i++)
        if (!loop_poll(&listener->loop, EPOLL_CTL_ADD, server->listen_sockets[i].fd, 0,
                       poll_data(POLL_LISTEN_SOCKET, &server->listen_sockets[i])))
            return false;
    return true;
}

/* ==== 45. Assets ==============================================================================
 * The files of web/, compiled in by the build with their type, hash and gzip form. Constant; the
 * table is generated (build/gen/assets.inc), never committed. */

/* A file, with the path it has in a URL. */
struct asset {
    const char *path, *type, *etag;
    const unsigned char *data;
    size_t len;
    const unsigned char *gzip; /* NULL when it would not be smaller */
    size_t gzip_len;
};

#include "assets.inc"

/* The asset at a path, or NULL. /admin/ is its index; there is no other directory. */
static const struct asset *asset_find(const char *path)
{
    if (!strcmp(path, "/admin/")) path = "/admin/index.html";
    for (size_t i = 0; i < sizeof ASSETS / sizeof *ASSETS; i++)
        if (ASSETS[i].path && !strcmp(path, ASSETS[i].path)) return &ASSETS[i];
    return NULL;
}

/* ==== 46. API: users ==========================================================================
 * /api/presence and /admin/online-users: request to response, on a worker's thread and free of
 * CivetWeb's types but the parsed request. What all handlers promise (those of the next sections
 * too):
 *
 * A handler fills a response and returns ERROR_NONE, or an error of the table, whose text and
 * status then replace what it has filled. It keeps nothing; struct http_response says who frees
 * what.
 *
 * The table is read under its lock for microseconds, API_CHUNK users a hold, and copied: JSON is
 * made without it, since the hub waits for that lock. The store is read in short transactions,
 * since a long one keeps old pages. Only the hub changes anything: a handler that wants a change
 * asks it (hub_ask), and waits until it is made.
 *
 * Asking creates nobody: a user who was never seen is not known for having been asked about. */

/* A request as handlers see it: parsed, its sender found out and let pass. */
struct http_request {
    const struct seam_request *raw;
    const struct token *token; /* of who asks; NULL: nobody was asked */
    struct instant now;
    uint8_t address[16];      /* of the client */
    uint16_t port;            /* 0: it came by a proxy */
    bool head_only;           /* HEAD */
    bool open;                /* nobody is asked for a token where this came in */
    bool secure;              /* by TLS, ours or a trusted proxy's */
    bool preflight;           /* a browser asks what a page may do */
    uint8_t origin;           /* enum origin */
    const char *listed;       /* its Origin, when ORIGIN_LISTED */
    uint32_t logouts;         /* the server's, before anything was looked at */
    char allow[64];           /* the methods of its path */
    char id[USER_ID_MAX + 1]; /* {userId} of the path, decoded */
    size_t id_len;
};

/* Whose page sent a request, by its Origin header (RFC 6454). */
enum origin {
    ORIGIN_NONE, /* none: no browser, or a plain GET of one */
    ORIGIN_OWN,
    ORIGIN_LISTED, /* one of --allow-origin; never under /admin/ */
    ORIGIN_FOREIGN,
};

/* Seconds from now until a token ends, at least one; a token that is good only by the skew between
 * two clocks has that skew too. By it a connection ends with its token. */
static uint32_t request_expires(const struct token *token, struct instant now)
{
    int64_t wall = wall_of(now), end = token->expires_ms;
    if (end <= wall) end += TOKEN_SKEW_MS;
    int64_t left = (end - wall + 999) / 1000;
    return left < 1 ? 1 : left > UINT32_MAX ? UINT32_MAX : (uint32_t)left;
}

/* How many headers of a name there are; *value is the last one's, and as it was without one. Who
 * needs exactly one asks for 1: of two that differ a proxy before us may have believed the
 * other. */
static int request_header(const struct seam_request *request, const char *name, const char **value)
{
    int count = 0;
    for (int i = 0; i < request->header_count; i++) {
        if (strcasecmp(request->headers[i].name, name)) continue;
        *value = request->headers[i].value;
        count++;
    }
    return count;
}

/* [worker; table_lock] Copies a user out of the table, the message into texts; false if it is not
 * there. */
static bool api_copy(struct server *server, struct span id, struct instant now,
                     struct user_view *view, struct view_texts **texts)
{
    const struct user *user = presence_find(&server->presence, id);
    if (!user) return false;
    view_user(view, user, now);
    view_keep(view, texts);
    return true;
}

/* Fills a view with what the store has of a user who is not in the table, perhaps nothing: then
 * the view is not known, and its last_seen null. */
static void api_view_stored(struct user_view *view, struct span id,
                            const struct stored_user *stored, struct instant now)
{
    if (!stored->known) {
        *view = (struct user_view){.status = STATUS_OFFLINE, .id_len = (uint8_t)id.len};
        memcpy(view->id, id.at, id.len);
        return;
    }
    view_record(view, id, &stored->record, now);
}

/* [worker] Looks one user up; view->known tells whether they were ever seen. The table is asked
 * again after the store: one who came meanwhile may be invisible by now, and then the last_seen
 * that the store has is nobody's business. False when the store failed. */
static bool api_look_up(struct server *server, struct span id, struct instant now,
                        struct user_view *view, struct view_texts **texts)
{
    struct stored_user stored;
    bool here = false;
    for (int look = 0; look < 2; look++) {
        lock_take(&server->table_lock, RANK_TABLE);
        here = api_copy(server, id, now, view, texts);
        lock_give(&server->table_lock, RANK_TABLE);
        if (here) return true;
        if (look) break; /* not even after the store was read: its word counts */
        if (!store_get_stored(server->store, id, &stored)) return false;
    }
    api_view_stored(view, id, &stored, now);
    return true;
}

/* Begins a JSON answer; returns where its text goes. */
static struct buffer *api_json(struct http_response *response)
{
    response->status = 200;
    response->type = JSON_TYPE;
    return &response->body;
}

/* Reads ?limit=; the default when absent, -1 when it is not 1 to PAGE_MAX. */
static int api_limit(const struct http_request *request)
{
    char text[16];
    int len = query_get(request->raw->query, "limit", text, sizeof text);
    if (len == -1) return PAGE_DEFAULT;
    int64_t n = len > 0 ? http_length((struct span){text, (size_t)len}) : -1;
    return n >= 1 && n <= PAGE_MAX ? (int)n : -1;
}

/* Appends the cursor behind an id, its bytes in hexadecimal; null for none. Clients are told to
 * take it as it is: this way it needs no escapes in a query, and cannot be mistaken for an id. */
static void api_write_next(struct buffer *out, struct span id)
{
    char text[2 * USER_ID_MAX + 1];
    json_text_or_null(out, "next", hex_text(id, text));
}

/* Reads an id in hexadecimal; false if it is none. */
static bool api_parse_id(struct span text, char id[USER_ID_MAX], size_t *len)
{
    *len = text.len / 2;
    return *len <= USER_ID_MAX && hex_parse(text, id) && user_id_valid((struct span){id, *len});
}

/* Reads ?cursor= back into an id; *len is 0 without one. False when it is none of ours. A cursor
 * is a place, not a user: it stays good when the user is gone, and across restarts. */
static bool api_cursor(const struct http_request *request, char id[USER_ID_MAX], size_t *len)
{
    char text[2 * USER_ID_MAX + 1];
    int n = query_get(request->raw->query, "cursor", text, sizeof text);
    *len = 0;
    return n == -1 || (n > 0 && api_parse_id((struct span){text, (size_t)n}, id, len));
}

enum {
    API_CHUNK = 64, /* users copied at a time, so that the lock is short */
    API_LOOK = 512, /* users passed over at most meanwhile */
};

/* [worker] Copies the next API_CHUNK users of the table behind an id, those gone offline only if
 * wanted; *after becomes how far it looked, and false means that the end was reached. */
static bool api_copy_users(struct server *server, struct instant now, bool offline_too,
                           struct user_view *after, struct user_view *views, size_t *count,
                           struct view_texts **texts)
{
    *count = 0;
    lock_take(&server->table_lock, RANK_TABLE);
    struct presence_walk walk =
        presence_walk_after(&server->presence, (struct span){after->id, after->id_len});
    const struct user *user = NULL, *last = NULL;
    for (int looked = 0; looked < API_LOOK && *count < API_CHUNK; looked++) {
        user = presence_walk_next(&server->presence, &walk);
        if (!user) break;
        last = user;
        if (!offline_too && user->state == USER_OFFLINE) continue;
        view_user(&views[*count], user, now);
        view_keep(&views[(*count)++], texts);
    }
    if (last) {
        view_user(after, last, now);
        after->message = (struct span){0}; /* the table's */
    }
    lock_give(&server->table_lock, RANK_TABLE);
    sched_yield(); /* a long list is made in the time that the hub leaves */
    return user != NULL;
}

/* GET /api/presence/{userId}: one user as everybody may see them; 404 when never seen. */
static enum error api_get_user(struct server *server, const struct http_request *request,
                               struct http_response *response)
{
    struct user_view view;
    if (!api_look_up(server, (struct span){request->id, request->id_len}, request->now, &view,
                     &response->texts))
        return ERROR_INTERNAL;
    if (!view.known) return ERROR_UNKNOWN_USER;
    view_hide(&view);
    view_write_user(api_json(response), NULL, &view);
    return ERROR_NONE;
}

/* [worker] Fills those views, which have their ids, whose users are in the table and that have
 * nothing yet: one hold of its lock a chunk. How many are still without. */
static size_t api_copy_many(struct server *server, struct instant now, struct user_view *views,
                            size_t count, struct view_texts **texts)
{
    size_t missing = 0;
    /* A hold of the lock a chunk: the hub waits for 64 users, not for 1,000. */
    for (size_t at = 0; at < count; at += API_CHUNK) {
        lock_take(&server->table_lock, RANK_TABLE);
        for (size_t i = at; i < count && i < at + API_CHUNK; i++) {
            struct span id = {views[i].id, views[i].id_len};
            if (views[i].state != USER_NOT_HERE) continue;
            missing += !api_copy(server, id, now, &views[i], texts);
        }
        lock_give(&server->table_lock, RANK_TABLE);
    }
    return missing;
}

/* [worker] Fills views, which have their ids, with what the table knows and, of the others, with
 * what the store has, in one transaction: who leaves the table is in the store. See api_look_up
 * for why the table is asked twice. False when the store failed. */
static bool api_look_up_many(struct server *server, struct instant now, struct user_view *views,
                             size_t count, struct view_texts **texts)
{
    for (size_t i = 0; i < count; i++) views[i].state = USER_NOT_HERE;
    if (!api_copy_many(server, now, views, count, texts)) return true;
    struct stored_user *stored = mem_new(count * sizeof *stored);
    MDB_txn *txn = store_begin_read(server->store);
    int rc = 0;
    for (size_t i = 0; txn && !rc && i < count; i++) {
        struct span id = {views[i].id, views[i].id_len};
        if (views[i].state == USER_NOT_HERE)
            rc = store_find_stored(server->store, txn, id, &stored[i]);
    }
    if (txn) store_end_read(server->store, txn);
    if (rc) store_log_read(server->store, rc);
    bool read = txn && !rc;
    if (read) api_copy_many(server, now, views, count, texts);
    for (size_t i = 0; read && i < count; i++) {
        char id[USER_ID_MAX];
        if (views[i].state != USER_NOT_HERE) continue;
        memcpy(id, views[i].id, views[i].id_len);
        api_view_stored(&views[i], (struct span){id, views[i].id_len}, &stored[i], now);
    }
    free(stored);
    return read;
}

/* [worker] Reads the ids of a batch into views; *count is how many. `may` is the list of the
 * token, sorted: a token with 950 ids would otherwise be looked through for each of 1,000. */
static enum error api_read_batch(const struct http_request *request, const struct id_list *may,
                                 struct json_value users, struct user_view *views, size_t *count)
{
    struct json_value item;
    *count = 0;
    for (size_t cursor = 0; json_item(users, &cursor, &item); (*count)++) {
        char id[USER_ID_MAX + 1];
        int len = json_string(item, id, sizeof id);
        struct span span = {id, len < 0 ? 0 : (size_t)len};
        if (*count == BATCH_MAX) return ERROR_INVALID_PARAMETER;
        if (!user_id_valid(span)) return ERROR_INVALID_USER_ID;
        if (request->token && !token_may_watch_listed(request->token, may, span))
            return ERROR_FORBIDDEN;
        views[*count].id_len = (uint8_t)span.len;
        memcpy(views[*count].id, id, span.len);
    }
    return ERROR_NONE;
}

/* [worker] Names those of a refused batch whom the token does not let its bearer see, at most
 * NAMED_MAX: so a client can leave them out and ask again. */
static void api_name_forbidden(const struct http_request *request, const struct id_list *may,
                               struct json_value users, struct http_response *response)
{
    struct json_value item;
    char id[USER_ID_MAX + 1];
    response->named = mem_new(sizeof *response->named);
    for (size_t cursor = 0; json_item(users, &cursor, &item);) {
        int len = json_string(item, id, sizeof id);
        struct span span = {id, len < 0 ? 0 : (size_t)len};
        if (!user_id_valid(span) || token_may_watch_listed(request->token, may, span)) continue;
        if (named_add(response->named, span)) return;
    }
}

/* [worker] POST /api/presence {"users":[...]}: up to BATCH_MAX users in the order asked, each as
 * often as asked; null last_seen for one never seen. The position is read before the users are:
 * every change up to it is in the answer, perhaps later ones too. */
static enum error api_post_batch(struct server *server, const struct http_request *request,
                                 struct http_response *response)
{
    struct json_value body, users;
    struct span text = {request->raw->body, request->raw->body_len};
    if (!json_parse(text, JSON_DEPTH_MAX, &body)) return ERROR_INVALID_JSON;
    bool asks = body.kind == JSON_OBJECT && json_member(body, "users", &users);
    if (!asks || users.kind != JSON_ARRAY) {
        fail(WHY(response->detail), "the body is {\"users\":[\"id\", ...]}");
        return ERROR_INVALID_PARAMETER;
    }
    /* The ids are read first, all of them: a batch is answered as a whole or not at all. */
    struct user_view *views = mem_new(BATCH_MAX * sizeof *views);
    struct id_list *may = request->token ? id_list_of_token(request->token) : NULL;
    size_t count;
    enum error error = api_read_batch(request, may, users, views, &count);
    if (error == ERROR_INVALID_PARAMETER)
        fail(WHY(response->detail), "ask for at most %d users at once", BATCH_MAX);
    if (error == ERROR_FORBIDDEN) api_name_forbidden(request, may, users, response);
    free(may);
    lock_take(&server->table_lock, RANK_TABLE);
    struct position position = server_position(server);
    lock_give(&server->table_lock, RANK_TABLE);
    if (!error && !api_look_up_many(server, request->now, views, count, &response->texts))
        error = ERROR_INTERNAL;
    if (!error) {
        struct buffer *out = api_json(response);
        json_begin(out);
        position_write(out, position);
        json_time(out, "generated_at", wall_of(request->now), true);
        json_open(out, "users", '[');
        for (size_t i = 0; i < count; i++) {
            view_hide(&views[i]);
            view_write_user(out, NULL, &views[i]);
        }
        buffer_text(out, "]}");
    }
    free(views);
    return error;
}

/* POST /api/presence/{userId}/heartbeat: online for --online-threshold, without a socket. 204,
 * once the hub has it. */
static enum error api_post_heartbeat(struct server *server, const struct http_request *request,
                                     struct http_response *response)
{
    struct hub_ask ask = {.id = {request->id, request->id_len}, .address = request->address};
    hub_ask(server, &ask, hub_heartbeat);
    response->status = 204;
    return ERROR_NONE;
}

/* [worker] PUT /api/presence/{userId}/status: what the user sets by hand. The answer is the user
 * as they see themselves: with what others are not shown. */
static enum error api_put_status(struct server *server, const struct http_request *request,
                                 struct http_response *response)
{
    struct json_value body;
    struct manual_update update;
    struct user_view view = {0};
    struct span text = {request->raw->body, request->raw->body_len};
    if (!json_parse(text, JSON_DEPTH_MAX, &body)) return ERROR_INVALID_JSON;
    enum error error = manual_parse(body, &update);
    if (error == ERROR_INVALID_PARAMETER)
        fail(WHY(response->detail),
             "message is a text of at most %d characters, none of them a control character, or"
             " null; expires_in is 1 to %d seconds",
             STATUS_TEXT_CHARACTERS, EXPIRES_MAX_S);
    if (error) return error;
    struct hub_ask ask = {.id = {request->id, request->id_len},
                          .update = &update,
                          .view = &view,
                          .texts = &response->texts};
    hub_ask(server, &ask, hub_set_manual);
    if (ask.failed) return ERROR_INTERNAL;
    if (!view.known) return ERROR_UNKNOWN_USER;
    view_write_user(api_json(response), NULL, &view);
    return ERROR_NONE;
}

/* [worker] GET /admin/online-users?limit=&cursor=: everyone online, by id. The counts are of all,
 * of the moment of the position; a page is read in chunks behind it, and who comes or goes
 * meanwhile may be on it. */
static enum error api_online_users(struct server *server, const struct http_request *request,
                                   struct http_response *response)
{
    int limit = api_limit(request);
    struct user_view after = {0}, views[API_CHUNK];
    size_t after_len, count;
    if (limit < 0) return ERROR_INVALID_PARAMETER;
    if (!api_cursor(request, after.id, &after_len)) return ERROR_INVALID_CURSOR;
    after.id_len = (uint8_t)after_len;
    struct buffer *out = api_json(response);
    lock_take(&server->table_lock, RANK_TABLE);
    /* Before any user is read: who comes later is in a later event. */
    size_t users = server->presence.live + server->presence.cached;
    size_t connections = server->presence.connections;
    struct position position = server_position(server); /* before the users are read */
    lock_give(&server->table_lock, RANK_TABLE);
    json_begin(out);
    position_write(out, position);
    json_int(out, "online_threshold_seconds", server->options.threshold / 1000);
    json_time(out, "generated_at", wall_of(request->now), true);
    json_uint(out, "count", users);
    json_uint(out, "connections", connections);
    json_open(out, "users", '[');
    struct user_view last = after;
    bool end = false, more = false; /* more: there is one behind a full page */
    for (int written = 0; !end && !more;) {
        end = !api_copy_users(server, request->now, false, &after, views, &count, &response->texts);
        for (size_t i = 0; i < count && !more; i++) {
            more = written == limit;
            if (more) break;
            written++;
            view_write_user(out, NULL, &views[i]);
            last = views[i];
        }
    }
    json_close(out, ']');
    api_write_next(out, (struct span){last.id, more ? last.id_len : 0});
    json_close(out, '}');
    return ERROR_NONE;
}

/* ==== 47. API: lists for admins ===============================================================
 * Pages of all users, one user with every connection, sessions, kicks. These are the costly
 * requests: they have a lane of their own (HTTP_COSTLY), and each looks at a bounded number of
 * users.
 *
 * A page of all users has two sources. The table has who is online, or was so until the store had
 * it; the store has everybody whom it has written. Of the same user the table's word counts, and
 * the table is read first: who leaves it in between is in the store by then, so nobody is missed.
 *
 *     by id          table and store in step, merged       page_make, page_merge
 *     -last_seen     online by id | store, latest first    page_make_seen
 *     last_seen      store, oldest first | online by id
 *
 * A cursor is a place behind a user, not the user: it is good when they are gone. */

enum {
    API_SCAN_MAX = 20000, /* stored users looked at for one page: a filter may find few */
};

/* The values of ?sort=, in this order. */
enum page_sort { SORT_ID, SORT_SEEN, SORT_SEEN_DOWN };
static const char *const PAGE_SORTS[] = {"user_id", "last_seen", "-last_seen"};

/* The parts of a page by last_seen. Who is online was seen now, whatever their stamp says, and
 * comes in the order of ids; the others in that of the store's index `seen`, which has nobody who
 * is online. */
enum page_part { PART_ONLINE, PART_STORED };

/* A page of /admin/users while it is being made. */
struct user_page {
    struct instant now;
    struct buffer *out;
    struct view_texts **texts;
    char q[USER_ID_MAX + 1];      /* ids must contain it */
    char prefix[USER_ID_MAX + 1]; /* ids must begin with it */
    int status;                   /* enum status wanted, or -1 */
    enum page_sort sort;
    int limit, written;
    bool full;             /* and one more was found */
    bool failed;           /* the store did */
    enum page_part part;   /* by last_seen: the part that `last` is in */
    struct user_view last; /* how far the page has come; known once it is anywhere */
};

/* Some users behind a place, in order of ids, and how far all of them are known: to `reach`, or to
 * the end. */
struct page_chunk {
    struct instant now;
    struct user_view users[API_CHUNK];
    size_t count;
    struct user_view reach;
    bool more; /* behind reach; otherwise it reaches to the end */
};

static bool page_has_prefix(const struct user_page *page, const struct user_view *view)
{
    size_t len = strlen(page->prefix);
    return view->id_len >= len && !memcmp(view->id, page->prefix, len);
}

/* True if a user belongs on the page. ?status=online means every status of those online. */
static bool page_wants(const struct user_page *page, const struct user_view *view)
{
    bool any_online = page->status == STATUS_ONLINE && view->status != STATUS_OFFLINE;
    if (page->status >= 0 && !any_online && view->status != page->status) return false;
    if (!page_has_prefix(page, view)) return false;
    return !*page->q || memmem(view->id, view->id_len, page->q, strlen(page->q));
}

/* Puts a user on the page if they belong there, and moves the page's place to them; false when
 * they do and the page is full. By that one more is known to be there, and only then there is a
 * next page. */
static bool page_add(struct user_page *page, const struct user_view *view)
{
    bool wanted = page_wants(page, view);
    page->full = wanted && page->written == page->limit;
    if (page->full) return false;
    page->last = *view;
    if (!wanted) return true;
    page->written++;
    view_write_user(page->out, NULL, view);
    return true;
}

/* The store's visitor: keeps a user for the page. */
static bool page_chunk_keep(void *context, struct span id, const struct user_record *record)
{
    struct page_chunk *chunk = context;
    struct user_view *view = &chunk->users[chunk->count++];
    view_record(view, id, record, chunk->now);
    chunk->reach = *view;
    return true;
}

static int view_compare(const struct user_view *a, const struct user_view *b)
{
    return bytes_compare(a->id, a->id_len, b->id, b->id_len);
}

/* [worker] Puts the users of the table and of the store on the page, as far as both are known; of
 * the same one the table's word counts. Behind the nearer of the two reaches the other source may
 * have users whom this one has not named yet. False when the page is full or there is nothing
 * behind. */
static bool page_merge(struct user_page *page, const struct page_chunk *table,
                       const struct page_chunk *stored)
{
    /* Up to the nearer reach both sources are known; NULL: to the end. */
    const struct user_view *bound = NULL;
    if (table->more) bound = &table->reach;
    if (stored->more && (!bound || view_compare(&stored->reach, bound) < 0)) bound = &stored->reach;
    for (size_t t = 0, s = 0; t < table->count || s < stored->count;) {
        int order = t == table->count    ? 1
                    : s == stored->count ? -1
                                         : view_compare(&table->users[t], &stored->users[s]);
        const struct user_view *view = order <= 0 ? &table->users[t] : &stored->users[s];
        if (bound && view_compare(view, bound) > 0) break;
        if (!page_has_prefix(page, view)) return false; /* nor does any behind it */
        if (!page_add(page, view)) return false;
        t += order <= 0;
        s += order >= 0;
    }
    if (bound) page->last = *bound;
    return bound != NULL;
}

/* Moves a page that stands before the ids with its prefix to the first of them, which is the
 * prefix itself. Places are behind an id, never at one, so that one is looked up here. False when
 * the store failed. */
static bool page_enter_prefix(struct server *server, struct user_page *page)
{
    struct user_view view;
    struct span prefix = {page->prefix, strlen(page->prefix)};
    if (bytes_compare(page->last.id, page->last.id_len, prefix.at, prefix.len) >= 0) return true;
    if (!api_look_up(server, prefix, page->now, &view, page->texts)) return false;
    if (view.known) page_add(page, &view); /* the first: there is room */
    page->last = view;
    return true;
}

/* [worker] Makes the page, chunk by chunk: first of the table, then of the store. So who leaves
 * the table in between, for the store, is seen at least once. *end is true when there is nothing
 * behind the page; it is not when the page is full, or API_SCAN_MAX users were looked at. False
 * when the store failed. */
static bool page_make(struct server *server, struct user_page *page, bool *end)
{
    struct page_chunk table = {.now = page->now}, stored = table;
    if (!page_enter_prefix(server, page)) return false;
    for (int looked = 0; looked < API_SCAN_MAX; looked += API_CHUNK) {
        bool at_end;
        table.reach = page->last;
        table.more = api_copy_users(server, page->now, true, &table.reach, table.users,
                                    &table.count, page->texts);
        stored.now = page->now;
        stored.count = 0;
        struct span after = {page->last.id, page->last.id_len};
        if (!store_each_user(server->store, after, API_CHUNK, page_chunk_keep, &stored, &at_end))
            return false;
        stored.more = !at_end && stored.count;
        count_many(&server->counters.users_scanned, stored.count);
        if (page_merge(page, &table, &stored)) continue;
        *end = !page->full;
        return true;
    }
    *end = false;
    return true;
}

/* [worker] Puts users on the page that the table has online, behind the place of the page or from
 * the first. False when the page is full, or enough were looked at for it. */
static bool page_add_online(struct server *server, struct user_page *page, bool from_first)
{
    /* The table has the order of ids itself, so a page costs what it looks at, whatever is behind
     * it. */
    struct user_view after = from_first ? (struct user_view){0} : page->last, views[API_CHUNK];
    size_t count;
    bool more = true;
    for (int looked = 0; more && looked < API_SCAN_MAX; looked += API_LOOK) {
        more = api_copy_users(server, page->now, false, &after, views, &count, page->texts);
        for (size_t i = 0; i < count; i++) {
            if (!page_add(page, &views[i])) return false;
            page->part = PART_ONLINE;
        }
        if (!more) break;
        page->last = after;
        page->part = PART_ONLINE;
    }
    return !more;
}

/* Makes views of users in the index: by the table's word if they are there, as who is followed or
 * has a status set by hand is, otherwise by the store's. Who is online by now gets no id in the
 * view: they belong to the other part. */
static void page_view_places(struct server *server, const struct user_page *page,
                             const struct seen_place *places, int count, struct user_view *views)
{
    lock_take(&server->table_lock, RANK_TABLE);
    for (int i = 0; i < count; i++) {
        struct user_record record = {.last_seen = places[i].last_seen};
        if (!api_copy(server, id_of(&places[i]), page->now, &views[i], page->texts))
            view_record(&views[i], id_of(&places[i]), &record, page->now);
        else if (views[i].state != USER_OFFLINE) views[i].id_len = 0;
    }
    lock_give(&server->table_lock, RANK_TABLE);
}

/* [worker] Puts users on the page from the index `seen`, behind the place of the page or from the
 * first. False when the page is full, enough were looked at for it, or the store failed, which
 * page->failed says. */
static bool page_add_stored(struct server *server, struct user_page *page, bool from_first)
{
    struct seen_place places[STORE_CHUNK], after = {.last_seen = page->last.last_seen};
    struct user_view views[STORE_CHUNK];
    int count = STORE_CHUNK;
    after.id_len = page->last.id_len;
    memcpy(after.id, page->last.id, after.id_len);
    for (int looked = 0; count == STORE_CHUNK; looked += STORE_CHUNK, from_first = false) {
        if (looked >= API_SCAN_MAX) return false;
        count = store_seen(server->store, from_first ? NULL : &after, page->sort == SORT_SEEN_DOWN,
                           places, STORE_CHUNK);
        page->failed = count < 0;
        if (page->failed) return false;
        page_view_places(server, page, places, count, views);
        count_many(&server->counters.users_scanned, (uint64_t)count);
        for (int i = 0; i < count; i++) {
            if (views[i].id_len && !page_add(page, &views[i])) return false;
            page->part = PART_STORED;
            page->last = views[i];
            page->last.known = true;
            page->last.last_seen = places[i].last_seen; /* also one of the future: it is a place */
            page->last.id_len = places[i].id_len;
            after = places[i];
        }
    }
    return true;
}

/* [worker] Makes a page sorted by last_seen: both parts, in the order of the sort. Places move as
 * users do: who comes or goes while somebody reads page after page changes part, and may be missed
 * or shown twice; no cursor could prevent that. *end as page_make; false when the store failed. */
static bool page_make_seen(struct server *server, struct user_page *page, bool *end)
{
    bool down = page->sort == SORT_SEEN_DOWN, over = true;
    bool offline = page->status == STATUS_OFFLINE, stored = page->status < 0 || offline;
    for (int i = 0; i < 2 && over; i++) {
        enum page_part part = down == !i ? PART_ONLINE : PART_STORED;
        bool here = page->last.known && page->part == part;
        if (!i && page->last.known && !here) continue; /* the page begins behind this part */
        if (part == PART_ONLINE && !offline) over = page_add_online(server, page, !here);
        if (part == PART_STORED && stored) over = page_add_stored(server, page, !here);
    }
    *end = over;
    return !page->failed;
}

/* [worker] Appends where a page goes on that is sorted by last_seen:
 *
 *     o ID           behind this user, among who is online
 *     s STAMP ID     behind this place in the index: ms since 1970 in 16 digits
 *
 * ID in hexadecimal. None of them is a cursor of the order by ids, nor one of those here. */
static void page_write_next(const struct user_page *page, bool end)
{
    struct span id = {page->last.id, end ? 0 : page->last.id_len};
    if (page->sort == SORT_ID || end) {
        api_write_next(page->out, id);
        return;
    }
    char text[2 * USER_ID_MAX + 18] = "o";
    if (page->part == PART_STORED)
        snprintf(text, sizeof text, "s%016" PRIx64, (uint64_t)page->last.last_seen);
    hex_text(id, text + strlen(text));
    json_text(page->out, "next", text);
}

/* [worker] Reads what page_write_next wrote; false when it is none of ours. That the place has a
 * user is not looked at: it is good however long it was kept. */
static bool page_read_cursor(struct user_page *page, const struct http_request *request)
{
    char text[2 * USER_ID_MAX + 18], stamp[8] = {0};
    int n = query_get(request->raw->query, "cursor", text, sizeof text);
    if (n == -1) return true;
    size_t front = n > 0 && *text == 'o' ? 1 : 1 + 2 * sizeof stamp, len;
    if (n <= 0 || (*text != 'o' && *text != 's') || (size_t)n <= front) return false;
    page->part = *text == 'o' ? PART_ONLINE : PART_STORED;
    struct user_view *last = &page->last;
    if (!hex_parse((struct span){text + 1, front - 1}, stamp) ||
        !api_parse_id((struct span){text + front, (size_t)n - front}, last->id, &len))
        return false;
    last->last_seen = (int64_t)get_be64((const uint8_t *)stamp);
    last->id_len = (uint8_t)len;
    last->known = true;
    return last->last_seen >= 0;
}

/* [worker] Reads the parameters of /admin/users. Any that says nothing is refused: a page that was
 * filtered by less than was asked for would look right. */
static enum error page_read(struct user_page *page, const struct http_request *request)
{
    char text[16];
    size_t len;
    const char *query = request->raw->query;
    page->limit = api_limit(request);
    page->status = -1;
    int n = query_get(query, "status", text, sizeof text), sort = -1;
    /* -1 stays for every status; a name that is none is refused below. */
    for (int i = 0; n > 0 && i <= STATUS_OFFLINE; i++)
        if (!strcmp(text, STATUS_NAMES[i])) page->status = i;
    if (page->limit < 0 || (n != -1 && page->status < 0)) return ERROR_INVALID_PARAMETER;
    if (query_get(query, "q", page->q, sizeof page->q) == -2) return ERROR_INVALID_PARAMETER;
    if (query_get(query, "prefix", page->prefix, sizeof page->prefix) == -2)
        return ERROR_INVALID_PARAMETER;
    n = query_get(query, "sort", text, sizeof text);
    for (int i = 0; n > 0 && i <= SORT_SEEN_DOWN; i++)
        if (!strcmp(text, PAGE_SORTS[i])) sort = i;
    if (n != -1 && sort < 0) return ERROR_INVALID_PARAMETER;
    page->sort = n == -1 ? SORT_ID : (enum page_sort)sort;
    if (page->sort != SORT_ID)
        return page_read_cursor(page, request) ? ERROR_NONE : ERROR_INVALID_CURSOR;
    if (!api_cursor(request, page->last.id, &len)) return ERROR_INVALID_CURSOR;
    page->last.id_len = (uint8_t)len;
    return ERROR_NONE;
}

/* [worker] GET /admin/users?q=&prefix=&status=&sort=&limit=&cursor=: everyone known. A page may
 * hold fewer users than asked for, even none, and still have a next one: only so many are looked
 * at for it. */
static enum error api_users(struct server *server, const struct http_request *request,
                            struct http_response *response)
{
    struct user_page page = {
        .now = request->now, .out = api_json(response), .texts = &response->texts};
    enum error error = page_read(&page, request);
    if (error == ERROR_INVALID_PARAMETER)
        fail(WHY(response->detail),
             "limit is 1 to %d, status is online, busy, away or offline, sort is user_id, last_seen"
             " or -last_seen, q and prefix are at most %d bytes",
             PAGE_MAX, USER_ID_MAX);
    if (error) return error;
    lock_take(&server->table_lock, RANK_TABLE);
    struct position position = server_position(server); /* before anything is read */
    lock_give(&server->table_lock, RANK_TABLE);
    json_begin(page.out);
    position_write(page.out, position);
    json_time(page.out, "generated_at", wall_of(page.now), true);
    json_open(page.out, "users", '[');
    bool end = false;
    bool by_id = page.sort == SORT_ID;
    if (!(by_id ? page_make : page_make_seen)(server, &page, &end)) return ERROR_INTERNAL;
    json_close(page.out, ']');
    page_write_next(&page, end);
    json_close(page.out, '}');
    return ERROR_NONE;
}

/* A connection as it is shown, copied out of the table: a user may have thousands, and text is not
 * made while the hub waits for the lock. */
struct connection_view {
    int64_t connected_at, heard_at; /* mono */
    uint64_t number;
    uint32_t round_trip;
    uint8_t address[16];
    uint16_t port;
    uint8_t status;
    char agent[AGENT_MAX + 1];
};

/* [worker; table_lock] Copies a connection. */
static void api_view_connection(struct connection_view *view, const struct connection *c)
{
    *view = (struct connection_view){
        .connected_at = c->connected_at,
        .heard_at = atomic_load_explicit(&c->heard_at, memory_order_relaxed),
        .number = c->number,
        .round_trip = atomic_load_explicit(&c->transport.round_trip, memory_order_relaxed),
        .port = c->session.port,
        .status = c->session.status,
    };
    memcpy(view->address, c->session.address, sizeof view->address);
    if (c->agent) snprintf(view->agent, sizeof view->agent, "%s", c->agent->text);
}

/* [worker] Appends one connection of a user, an item of a list. round_trip_ms is null until a ping
 * was answered. */
static void api_write_connection(struct buffer *out, const struct connection_view *c,
                                 struct instant now)
{
    char number[17], address[64];
    json_open(out, NULL, '{');
    json_text(out, "connection_id", connection_id_text(c->number, number));
    json_text(out, "address", address_unpack_text(c->address, address, sizeof address));
    json_uint(out, "port", c->port);
    json_text(out, "agent", c->agent);
    json_time(out, "connected_at", c->connected_at + now.offset, true);
    json_time(out, "last_heard", c->heard_at + now.offset, true);
    json_text(out, "status", STATUS_NAMES[c->status]);
    if (c->round_trip == UINT32_MAX) json_null(out, "round_trip_ms");
    else json_uint(out, "round_trip_ms", c->round_trip);
    json_close(out, '}');
}

/* [worker] Copies a user out of the table, with the position and the JSON of the connections, all
 * of one moment. False when the user is not there. The room for connections is taken without the
 * lock, since it may be megabytes; so it is looked first how much is needed, and again whether
 * that is still enough. */
static bool api_copy_user(struct server *server, struct span id, struct instant now,
                          struct user_view *view, struct position *position,
                          struct buffer *connections, struct view_texts **texts)
{
    struct connection_view *list = NULL;
    const struct user *user;
    size_t room = 0, count = 0;
    lock_take(&server->table_lock, RANK_TABLE);
    while ((user = presence_find(&server->presence, id)) && user->connections > room) {
        room = user->connections;
        lock_give(&server->table_lock, RANK_TABLE);
        free(list);
        list = mem_new(room * sizeof *list);
        lock_take(&server->table_lock, RANK_TABLE);
    }
    *position = server_position(server);
    if (user) view_user(view, user, now);
    if (user) view_keep(view, texts);
    for (const struct session_conn *conn = user ? user->conns : NULL; conn; conn = conn->next)
        api_view_connection(&list[count++], (const struct connection *)conn);
    lock_give(&server->table_lock, RANK_TABLE);
    for (size_t i = 0; i < count; i++) api_write_connection(connections, &list[i], now);
    free(list);
    return user != NULL;
}

/* [worker] GET /admin/users/{userId}: one user with every connection. Who is not in the table was
 * offline at the position, whatever the store has heard since. */
static enum error api_admin_user(struct server *server, const struct http_request *request,
                                 struct http_response *response)
{
    struct user_view view = {0};
    struct stored_user stored = {0};
    struct position position;
    struct buffer connections = {0};
    struct span id = {request->id, request->id_len};
    bool here =
        api_copy_user(server, id, request->now, &view, &position, &connections, &response->texts);
    bool read = store_get_stored(server->store, id, &stored);
    enum error error = !read                    ? ERROR_INTERNAL
                       : !here && !stored.known ? ERROR_UNKNOWN_USER
                                                : ERROR_NONE;
    if (!error) {
        if (!here) api_view_stored(&view, id, &stored, request->now);
        struct buffer *out = api_json(response);
        int64_t first = stored.known ? stored.record.first_seen : view.connected_at;
        json_begin(out);
        view_write_members(out, &view);
        json_time(out, "first_seen", wall_not_later(request->now, first), true);
        json_uint(out, "sessions", stored.known ? stored.record.sessions : 0);
        position_write(out, position);
        json_open(out, "connection_list", '[');
        buffer_add(out, connections.at, connections.len);
        buffer_text(out, "]}");
    }
    buffer_free(&connections);
    return error;
}

/* [worker] Appends one session of a user; a running one has no end yet. Times are as stored, also
 * those of a clock that was ahead: a session's start is its key, which must not change with the
 * moment that it is asked for. A reason that this version does not know is one of a later version's
 * store. */
static void api_write_session(struct buffer *out, const struct session_record *session,
                              bool running)
{
    char address[64];
    const char *reason = session->reason < REASON_COUNT ? REASON_NAMES[session->reason] : "unknown";
    json_open(out, NULL, '{');
    json_time(out, "from", session->from, true);
    json_time(out, "to", session->to, !running);
    json_text_or_null(out, "reason", running ? "" : reason);
    json_text_or_null(out, "address",
                      address_unpack_text(session->address, address, sizeof address));
    json_close(out, '}');
}

/* [worker] The session that a user is in, if any; it is in the store only when it has ended. */
static bool api_running_session(struct server *server, struct span id, struct instant now,
                                struct session_record *session)
{
    lock_take(&server->table_lock, RANK_TABLE);
    const struct user *user = presence_find(&server->presence, id);
    bool online = user && user->state != USER_OFFLINE;
    if (online) {
        *session = (struct session_record){.from = user->online_since + now.offset};
        if (user_address(user)) memcpy(session->address, user_address(user), 16);
    }
    lock_give(&server->table_lock, RANK_TABLE);
    return online;
}

/* [worker] GET /admin/users/{userId}/sessions?limit=&cursor=: the timeline, newest first; the
 * first page begins with the running session. The cursor is the start of the last session shown;
 * behind the running one it is just above the first stored, which may have begun later if UTC was
 * stepped back. */
static enum error api_sessions(struct server *server, const struct http_request *request,
                               struct http_response *response)
{
    struct user_view view;
    struct span id = {request->id, request->id_len};
    char text[24];
    int limit = api_limit(request);
    int len = query_get(request->raw->query, "cursor", text, sizeof text);
    struct span cursor = {text, len > 0 ? (size_t)len : 0};
    int64_t before = len == -1 ? INT64_MAX : http_length(cursor);
    if (limit < 0) return ERROR_INVALID_PARAMETER;
    if (before < 0) return ERROR_INVALID_CURSOR;
    if (!api_look_up(server, id, request->now, &view, &response->texts)) return ERROR_INTERNAL;
    if (!view.known) return ERROR_UNKNOWN_USER;
    struct session_record *sessions = mem_new((size_t)(limit + 1) * sizeof *sessions);
    bool running = len == -1 && api_running_session(server, id, request->now, &sessions[0]);
    int stored = store_sessions(server->store, id, before, sessions + running, limit + 1 - running);
    int count = stored < 0 ? 0 : stored + running, shown = count < limit ? count : limit;
    struct buffer *out = api_json(response);
    json_begin(out);
    json_span(out, "user_id", id);
    json_open(out, "sessions", '[');
    for (int i = 0; i < shown; i++) api_write_session(out, &sessions[i], running && !i);
    json_close(out, ']');
    /* The place behind the last one shown; see above for the one behind a running session. */
    int64_t from = running && limit == 1 ? sessions[1].from + 1 : sessions[limit - 1].from;
    char next[24] = "";
    if (count > limit) snprintf(next, sizeof next, "%" PRId64, from);
    json_text_or_null(out, "next", next);
    json_close(out, '}');
    free(sessions);
    return stored < 0 ? ERROR_INTERNAL : ERROR_NONE;
}

/* [worker] DELETE /admin/users/{userId}/connections: closes them all with 4403; the user is
 * offline. What keeps them from coming back is the application's: a token that it does not give. */
static enum error api_kick(struct server *server, const struct http_request *request,
                           struct http_response *response)
{
    struct user_view view;
    struct span id = {request->id, request->id_len};
    if (!api_look_up(server, id, request->now, &view, &response->texts)) return ERROR_INTERNAL;
    if (!view.known) return ERROR_UNKNOWN_USER;
    /* Somebody who is known and has no connection: none is closed, and that is no error. */
    struct hub_ask ask = {.id = id};
    hub_ask(server, &ask, hub_kick);
    struct buffer *out = api_json(response);
    json_begin(out);
    json_span(out, "user_id", id);
    json_uint(out, "closed", ask.count);
    json_close(out, '}');
    return ERROR_NONE;
}

/* Bytes of this process (proc(5), statm): resident, and of those anonymous. Zeros when the kernel
 * does not tell, as in a sandbox without /proc. */
static void api_memory(int64_t *resident, int64_t *anonymous)
{
    long total = 0, pages = 0, shared = 0, size = sysconf(_SC_PAGESIZE);
    FILE *file = fopen("/proc/self/statm", "re");
    if (file && fscanf(file, "%ld %ld %ld", &total, &pages, &shared) != 3) pages = shared = 0;
    if (file) fclose(file);
    *resident = (int64_t)pages * size;
    *anonymous = (int64_t)(pages - shared) * size;
}

/* [worker] Appends the member "webhook" of the stats, or that there is none. */
static void stats_write_webhook(struct buffer *out, struct server *server, uint64_t pending)
{
    struct webhook *hook = &server->webhook;
    const struct counters *counters = &server->counters;
    char error[WEBHOOK_WHY];
    if (!webhook_wanted(hook)) {
        json_null(out, "webhook");
        return;
    }
    json_open(out, "webhook", '{');
    json_text(out, "url", hook->url.origin);
    json_uint(out, "pending", pending);
    json_uint(out, "delivered", atomic_load(&counters->webhook_deliveries));
    json_uint(out, "failures", atomic_load(&counters->webhook_failures));
    json_uint(out, "dead", atomic_load(&counters->webhook_dead));
    lock_take(&hook->lock, RANK_WEBHOOK);
    int64_t success = hook->last_success;
    memcpy(error, hook->last_error, sizeof error);
    lock_give(&hook->lock, RANK_WEBHOOK);
    json_text_or_null(out, "last_error", error);
    json_time(out, "last_success", success, success > 0);
    json_close(out, '}');
}

/* Totals as of now, for stats and metrics. */
struct totals {
    size_t live, cached, connections;
    struct position position; /* of these three */
    int64_t sockets, streams, watching, pending, held, resident, anonymous, uptime_ms;
    struct store_stats store;
};

/* [worker] Gathers the totals, each under its own lock: only the first three are of one moment. */
static void api_totals(struct server *server, struct instant now, struct totals *t)
{
    *t = (struct totals){.uptime_ms = now.mono - server->started.mono};
    lock_take(&server->table_lock, RANK_TABLE);
    t->live = server->presence.live;
    t->cached = server->presence.cached;
    t->connections = server->presence.connections;
    t->position = server_position(server);
    lock_give(&server->table_lock, RANK_TABLE);
    t->sockets = atomic_load(&server->connections);
    t->streams = atomic_load(&server->streams);
    t->watching = atomic_load(&server->watching);
    t->pending = atomic_load(&server->listener.count);
    lock_take(&server->address_lock, RANK_ADDRESS);
    t->held = (int64_t)server->listener.held;
    lock_give(&server->address_lock, RANK_ADDRESS);
    api_memory(&t->resident, &t->anonymous);
    store_stats(server->store, &t->store);
}

/* ==== 48. API: state of the server ============================================================
 * /admin/stats, /metrics, streams of events, history, health, and the files of web/. Nothing here
 * changes anything but api_events and api_admin_events, which hand their connection to the hub. */

/* [worker] Appends the member "store" of the stats. */
static void stats_write_store(struct buffer *out, const struct store_stats *store)
{
    json_open(out, "store", '{');
    json_bool(out, "writable", store->writable);
    json_bool(out, "readable", store->readable);
    json_text_or_null(out, "problem", store->problem);
    json_uint(out, "users", store->users);
    json_uint(out, "sessions", store->sessions);
    json_uint(out, "map_bytes", store->map_size);
    json_uint(out, "used_bytes", store->used_bytes);
    json_uint(out, "file_bytes", store->file_bytes);
    json_int(out, "oldest_reader_seconds", store->oldest_reader_ms / 1000);
    json_time(out, "last_commit", store->last_commit_wall, store->last_commit_wall > 0);
    json_close(out, '}');
}

/* Appends the member "limits" of the stats: every option that is a number, so that none is
 * forgotten. */
static void stats_write_limits(struct buffer *out, const struct options *options)
{
    json_open(out, "limits", '{');
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        const struct option_row *row = &OPTIONS[i];
        if (row->type == OPTION_COUNT || row->type == OPTION_SIZE || row->type == OPTION_DURATION)
            json_int(out, row->name, *(const int64_t *)((const char *)options + row->offset));
    }
    json_close(out, '}');
}

/* [worker] GET /admin/stats: totals, limits, memory, store, uptime, counters. */
static enum error api_stats(struct server *server, const struct http_request *request,
                            struct http_response *response)
{
    struct totals t;
    struct buffer *out = api_json(response);
    api_totals(server, request->now, &t);
    json_begin(out);
    json_text(out, "version", PRESENCE_VERSION);
    json_int(out, "uptime_seconds", t.uptime_ms / 1000);
    json_time(out, "started_at", server->started.mono + request->now.offset, true);
    position_write(out, t.position);
    json_open(out, "users", '{');
    json_uint(out, "online", t.live + t.cached);
    json_uint(out, "live", t.live);
    json_uint(out, "cached", t.cached);
    json_uint(out, "known", t.store.users);
    json_close(out, '}');
    json_open(out, "connections", '{');
    json_uint(out, "current", t.connections);
    json_int(out, "sockets", t.sockets);
    json_int(out, "streams", t.streams);
    json_int(out, "watching", t.watching);
    json_int(out, "pending", t.pending);
    json_int(out, "limit", server->max_connections);
    json_close(out, '}');
    json_open(out, "memory", '{');
    json_int(out, "resident_bytes", t.resident);
    json_int(out, "anonymous_bytes", t.anonymous);
    json_close(out, '}');
    stats_write_store(out, &t.store);
    json_int(out, "landlock_version", server->landlock);
    json_open(out, "certificates", '[');
    if (server->options.tls_listen.count) tls_write_certificates(out, &server->tls);
    json_close(out, ']');
    stats_write_webhook(out, server, t.store.outbox);
    stats_write_limits(out, &server->options);
    json_open(out, "counters", '{');
#define X(field, metric, help) json_uint(out, #field, atomic_load(&server->counters.field));
    COUNTER_TABLE(X)
#undef X
    buffer_text(out, "}}");
    return ERROR_NONE;
}

/* Appends one gauge in Prometheus' text format. */
static void metrics_gauge(struct buffer *out, const char *name, const char *help, int64_t value)
{
    buffer_print(out, "# HELP presence_%s %s\n# TYPE presence_%s gauge\n", name, help, name);
    buffer_print(out, "presence_%s %" PRId64 "\n", name, value);
}

/* Appends how many upgrades were refused, by the code of the error; those that were. */
static void metrics_refusals(struct buffer *out, const struct server *server)
{
    static const char name[] = "presence_upgrades_refused_by_reason_total";
    buffer_print(out, "# HELP %s upgrades refused, by the code of the error\n", name);
    buffer_print(out, "# TYPE %s counter\n", name);
    for (int i = 0; i < ERROR_COUNT; i++) {
        uint64_t count = atomic_load(&server->refusals[i]);
        if (count)
            buffer_print(out, "%s{reason=\"%s\"} %" PRIu64 "\n", name, ERRORS[i].code, count);
    }
}

/* [worker] GET /metrics: Prometheus text format 0.0.4. */
static enum error api_metrics(struct server *server, const struct http_request *request,
                              struct http_response *response)
{
    struct totals t;
    api_totals(server, request->now, &t);
    struct buffer *out = &response->body;
    response->status = 200;
    response->type = "text/plain; version=0.0.4; charset=utf-8";
    metrics_gauge(out, "users_live", "users with a connection", (int64_t)t.live);
    metrics_gauge(out, "users_cached", "users believed online without a connection",
                  (int64_t)t.cached);
    metrics_gauge(out, "connections", "WebSocket connections of users", (int64_t)t.connections);
    metrics_gauge(out, "streams", "streams of events", t.streams);
    metrics_gauge(out, "watching", "users followed, over all connections", t.watching);
    metrics_gauge(out, "connections_limit", "WebSocket connections and streams allowed",
                  server->max_connections);
    metrics_gauge(out, "connections_pending", "HTTP connections, those in a handshake among them",
                  t.pending);
    metrics_gauge(out, "request_memory_bytes", "bytes held for requests under way", t.held);
    metrics_gauge(out, "resident_bytes", "resident memory", t.resident);
    metrics_gauge(out, "store_writable", "1 when the store takes writes", t.store.writable);
    metrics_gauge(out, "store_readable", "1 when the store can be read", t.store.readable);
    metrics_gauge(out, "store_used_bytes", "bytes of the store in use",
                  (int64_t)t.store.used_bytes);
    metrics_gauge(out, "store_oldest_reader_seconds",
                  "seconds that a command has been reading the store",
                  t.store.oldest_reader_ms / 1000);
    metrics_gauge(out, "landlock_version", "version of Landlock that walls it off, 0 for none",
                  server->landlock);
    metrics_gauge(out, "webhook_pending", "changes not yet delivered to --webhook-url",
                  (int64_t)t.store.outbox);
    metrics_gauge(out, "tls_certificates_untimely",
                  "certificates in use that are expired or not yet valid",
                  (int64_t)tls_untimely(&server->tls));
    metrics_gauge(out, "uptime_seconds", "seconds since the start", t.uptime_ms / 1000);
#define X(field, metric, help)                                                                     \
    buffer_print(out,                                                                              \
                 "# HELP presence_" metric " " help "\n# TYPE presence_" metric                    \
                 " counter\npresence_" metric " %" PRIu64 "\n",                                    \
                 atomic_load(&server->counters.field));
    COUNTER_TABLE(X)
#undef X
    metrics_refusals(out, server);
    return ERROR_NONE;
}

/* [worker] Where a stream is to go on: header Last-Event-ID (WHATWG HTML section 9.2.4) or
 * ?last_event_id=, for clients that cannot set it. False if it is not said, or is no position: then
 * the stream begins with a reset. */
static bool events_wanted(const struct http_request *request, struct position *position)
{
    char text[POSITION_TEXT];
    const char *value = text;
    if (!request_header(request->raw, "Last-Event-ID", &value) &&
        query_get(request->raw->query, "last_event_id", text, sizeof text) < 0)
        return false;
    return position_parse((struct span){value, strlen(value)}, position);
}

/* [worker] Answers with a stream of Server-Sent Events. The answer is only its head; the
 * connection goes to the hub, which sends the rest. A HEAD request takes no place. */
static enum error stream_answer(struct server *server, const struct http_request *request,
                                struct http_response *response)
{
    /* The place among the connections is taken now: once the head is sent the stream cannot be
     * refused any more. */
    enum error error = request->head_only ? ERROR_NONE : server_reserve(server);
    if (error) return error;
    response->status = 200;
    response->type = "text/event-stream; charset=utf-8";
    http_add_header(response, "X-Accel-Buffering: no\r\n"); /* for nginx: pass it on at once */
    response->is_stream = true;
    response->resumes = events_wanted(request, &response->position);
    if (!request->token) return ERROR_NONE;
    response->expires = request_expires(request->token, request->now);
    response->logouts = request->token->user_len ? 0 : request->logouts; /* else a session's */
    return ERROR_NONE;
}

/* GET /admin/events: every change as it happens. */
static enum error api_admin_events(struct server *server, const struct http_request *request,
                                   struct http_response *response)
{
    response->feed = FEED_ADMIN;
    return stream_answer(server, request, response);
}

/* GET /api/events: every change that everybody may see. */
static enum error api_events(struct server *server, const struct http_request *request,
                             struct http_response *response)
{
    response->feed = FEED_OPEN;
    return stream_answer(server, request, response);
}

/* [worker] GET /admin/history?hours=: how many users and connections there were, minute by minute.
 * Read in chunks: a month is 43,200 samples, and a read transaction that is long keeps old pages
 * of the store. */
static enum error api_history(struct server *server, const struct http_request *request,
                              struct http_response *response)
{
    enum { CHUNK = 512 }; /* samples read in one transaction */
    char text[16];
    struct sample samples[CHUNK];
    int64_t wall = wall_of(request->now), hours = HISTORY_HOURS_DEFAULT;
    int len = query_get(request->raw->query, "hours", text, sizeof text), count = CHUNK;
    if (len != -1) hours = len > 0 ? http_length((struct span){text, (size_t)len}) : -1;
    if (hours < 1 || hours > HISTORY_HOURS_MAX) {
        fail(WHY(response->detail), "hours is 1 to %d", HISTORY_HOURS_MAX);
        return ERROR_INVALID_PARAMETER;
    }
    struct buffer *out = api_json(response);
    json_begin(out);
    json_time(out, "generated_at", wall, true);
    json_int(out, "interval_seconds", SAMPLE_MS / 1000);
    json_open(out, "samples", '[');
    /* A chunk that is not full was the last one. */
    for (int64_t from = wall - hours * 3600000; count == CHUNK; from = samples[CHUNK - 1].at + 1) {
        count = store_samples(server->store, from, wall, samples, CHUNK);
        if (count < 0) return ERROR_INTERNAL;
        for (int i = 0; i < count; i++) {
            json_open(out, NULL, '{');
            json_time(out, "at", samples[i].at, true);
            json_uint(out, "users", samples[i].users);
            json_uint(out, "connections", samples[i].connections);
            json_close(out, '}');
        }
    }
    buffer_text(out, "]}");
    return ERROR_NONE;
}

/* GET /healthz: the process answers. It reads nothing, so that a store that hangs does not get a
 * server restarted which serves who is connected. */
static enum error api_healthz(struct server *server, const struct http_request *request,
                              struct http_response *response)
{
    (void)server, (void)request;
    buffer_text(api_json(response), "{\"status\":\"ok\"}\n");
    return ERROR_NONE;
}

/* [worker] GET /readyz: 200 when everything works, 503 with the reason when not. */
static enum error api_readyz(struct server *server, const struct http_request *request,
                             struct http_response *response)
{
    (void)request;
    struct store_stats store;
    store_stats(server->store, &store);
    struct buffer *out = api_json(response);
    bool stopping = atomic_load(&server->stopping), starting = !atomic_load(&server->restored);
    if (!stopping && !starting && store.writable && store.readable) {
        buffer_text(out, "{\"status\":\"ready\"}\n");
        return ERROR_NONE;
    }
    response->status = 503;
    json_begin(out);
    json_text(out, "status", stopping ? "stopping" : starting ? "starting" : "degraded");
    json_text(out, "reason",
              stopping   ? "the server is stopping"
              : starting ? "the users of the store are being read"
                         : store.problem);
    buffer_text(out, "}\n");
    return ERROR_NONE;
}

/* GET /admin: its page is one segment further, so that what it names beside itself is found. The
 * Location is relative: a proxy may have it behind a path of its own. */
static enum error api_admin(struct server *server, const struct http_request *request,
                            struct http_response *response)
{
    (void)server, (void)request;
    buffer_text(&response->location, "admin/"); /* a proxy may have it behind a path of its own */
    response->status = 308;
    response->type = "text/plain";
    return ERROR_NONE;
}

enum { ASSET_TAG_MAX = 64 };

/* [worker] True if a client has the version with this tag already (RFC 9110 section 13.1.2): one
 * of its If-None-Match has it, weak or strong, or is `*`. */
static bool request_knows(const struct seam_request *request, const char *tag)
{
    char weak[ASSET_TAG_MAX + 2];
    snprintf(weak, sizeof weak, "W/%s", tag);
    for (int i = 0; i < request->header_count; i++) {
        const char *value = request->headers[i].value;
        if (strcasecmp(request->headers[i].name, "If-None-Match")) continue;
        if (header_has_exact(value, "*") || header_has_exact(value, tag) ||
            header_has_exact(value, weak))
            return true;
    }
    return false;
}

/* [worker] A bundled file, with its hash as ETag; the gzip form has another, since it is not the
 * same bytes (RFC 9110 section 8.8.3.3). At the root it is the demo where anyone may do
 * everything, else a page that says only what this is. */
static enum error api_asset(struct server *server, const struct http_request *request,
                            struct http_response *response)
{
    const char *path = request->raw->target;
    if (!strcmp(path, "/"))
        path = options_have_keys(&server->options) ? "/closed.html" : "/index.html";
    const struct asset *asset = asset_find(path);
    if (!asset) return ERROR_NOT_FOUND;
    bool gzip = false;
    for (int i = 0; i < request->raw->header_count && asset->gzip; i++) {
        const struct seam_header *header = &request->raw->headers[i];
        if (!strcasecmp(header->name, "Accept-Encoding"))
            gzip |= header_has_token(header->value, "gzip");
    }
    char tag[ASSET_TAG_MAX]; /* both forms have one: they are not the same bytes */
    snprintf(tag, sizeof tag, "%.*s%s\"", (int)strlen(asset->etag) - 1, asset->etag,
             gzip ? "-gzip" : "");
    /* no-cache means: ask each time, by the tag. The policy lets a page load nothing from
     * elsewhere, run no script that is written into it, and be in no frame, where another site
     * could have an admin click. */
    response->cacheable = true;
    http_add_header(response,
                    "ETag: %s\r\nCache-Control: no-cache\r\nVary: Accept-Encoding\r\n"
                    "Content-Security-Policy: default-src 'self'; base-uri 'none';"
                    " frame-ancestors 'none'\r\n",
                    tag);
    response->status = 304;
    /* With the headers that it would have with 200 (RFC 9110 section 15.4.5). */
    if (request_knows(request->raw, tag)) return ERROR_NONE;
    response->status = 200;
    response->type = asset->type;
    if (gzip) http_add_header(response, "Content-Encoding: gzip\r\n");
    response->fixed = gzip ? (struct span){(const char *)asset->gzip, asset->gzip_len}
                           : (struct span){(const char *)asset->data, asset->len};
    return ERROR_NONE;
}

/* [worker] Any request to --redirect-listen: 308 to the same target over TLS (RFC 9110 section
 * 15.4.9), on the host that was asked for, which has to be one that a browser can write: nothing
 * else of a stranger's goes into a Location. */
static enum error api_redirect(struct server *server, const struct http_request *request,
                               struct http_response *response)
{
    const struct seam_request *raw = request->raw;
    const char *header = "";
    char host[ORIGIN_MAX];
    int64_t asked;
    fail(WHY(response->detail), "name the host in a Host header");
    if (request_header(raw, "Host", &header) != 1 || !host_parse(header, host, &asked) ||
        !host_is_web(host))
        return ERROR_INVALID_REQUEST;
    uint8_t unused[16];
    uint16_t port = 0;
    for (size_t i = 0; i < server->listen_socket_count && !port; i++)
        if (server->listen_sockets[i].kind == LISTEN_TLS)
            address_pack(&server->listen_sockets[i].address, unused, &port);
    buffer_print(&response->location, "https://%s", host);
    if (port != 443) buffer_print(&response->location, ":%u", port);
    buffer_print(&response->location, "%s%s%s", raw->target, raw->query ? "?" : "",
                 raw->query ? raw->query : "");
    response->status = 308;
    response->type = "text/plain";
    return ERROR_NONE;
}

/* Whom a path is for, where tokens are asked for; auth_allows has the rules. */
enum access {
    ACCESS_ANYONE,
    ACCESS_USER,    /* the user in the path */
    ACCESS_OWNER,   /* the user in the path, or an admin */
    ACCESS_WATCHER, /* who may see the user in the path */
    ACCESS_READER,  /* who has a token; the handler looks at each user */
    ACCESS_ALL,     /* who may see everybody */
    ACCESS_ADMIN,
};

/* ==== 49. API: who may ========================================================================
 * Tokens, passwords and logins of admins: who may send a request. Every route names whom it is for
 * (enum access), and api_answer or upgrade_request ask here before anything else is done.
 *
 * Three things prove something: a token signed with one of the operator's keys, an admin's
 * session, and nothing at all, where the configuration asks for nothing. A cookie is sent by a
 * browser whatever page asks it to, so it counts only where no other site's page can have sent the
 * request (request_is_own, request_is_crossed).
 *
 * Secrets are compared in constant time (Passwords, Tokens), and wiped where they were copied. */

/* [any] The secrets in use, to be given back with secrets_drop. main replaces them as a whole when
 * keys are read again, so who has them sees one set to the end. */
static struct secrets *secrets_take(struct server *server)
{
    lock_take(&server->secrets_lock, RANK_SECRETS);
    struct secrets *secrets = server->secrets;
    atomic_fetch_add(&secrets->refs, 1);
    lock_give(&server->secrets_lock, RANK_SECRETS);
    return secrets;
}

/* [any] Gives secrets back; the last to do so frees them. NULL is fine. */
static void secrets_drop(struct secrets *secrets)
{
    if (!secrets || atomic_fetch_sub(&secrets->refs, 1) > 1) return;
    token_keys_free(&secrets->keys);
    free(secrets);
}

/* True if another site's page made a browser send this without saying whose page it is
 * (Sec-Fetch-Site without Origin: a link, an image, a form by GET): then what the browser adds by
 * itself, a cookie or its place past authentication, proves nothing. */
static bool request_is_crossed(const struct seam_request *raw)
{
    const char *value = "";
    if (request_header(raw, "Origin", &value)) return false;
    return request_header(raw, "Sec-Fetch-Site", &value) && !strcasecmp(value, "cross-site");
}

/* The token among the offered subprotocols: `presence.v1, token.JWT`. A browser's WebSocket can
 * send no header of its own, and what is in a URL is logged by every proxy. */
static struct span subprotocol_token(const char *offered)
{
    static const char prefix[] = "token.";
    for (const char *at = offered; *at;) {
        at += strspn(at, " ,");
        size_t len = strcspn(at, " ,");
        if (len > sizeof prefix - 1 && !memcmp(at, prefix, sizeof prefix - 1))
            return (struct span){at + sizeof prefix - 1, len - (sizeof prefix - 1)};
        at += len;
    }
    return (struct span){0};
}

/* [worker] The token of a request, empty if there is none. An admin's comes in the header only: no
 * page of somebody else's can make a browser send that. The first place that has one counts:
 * header Authorization (RFC 6750 section 2.1), subprotocol, `?token=`, cookie presence_token; the
 * cookie not where another site's page may have had it sent with a request that changes something.
 * A place that has something else than a token is refused, not passed over. */
static struct span request_token(const struct seam_request *raw, bool header_only,
                                 char room[TOKEN_MAX + 2])
{
    struct span found = {0}, none = {".", 1}; /* which is refused as no token */
    const char *value = "";
    int count = request_header(raw, "Authorization", &value);
    if (count > 1) return none;
    if (count && !strncasecmp(value, "Bearer ", 7)) {
        value += 7 + strspn(value + 7, " ");
        return (struct span){value, strlen(value)};
    }
    if (header_only) return found;
    for (int i = 0; i < raw->header_count && !found.len; i++)
        if (!strcasecmp(raw->headers[i].name, "Sec-WebSocket-Protocol"))
            found = subprotocol_token(raw->headers[i].value);
    if (found.len) return found;
    int n = query_get(raw->query, "token", room, TOKEN_MAX + 2);
    if (n == -2) return none; /* too long, or no text */
    if (n > 0) return (struct span){room, (size_t)n};
    /* The cookie is last, since a browser adds it to whatever asks; an upgrade changes something,
     * for it makes its user online. */
    bool reads = !strcmp(raw->method, "GET") || !strcmp(raw->method, "HEAD");
    if ((raw->wants_upgrade || !reads) && request_is_crossed(raw)) return found;
    n = request_header(raw, "Cookie", &value)
            ? cookie_get(value, "presence_token", room, TOKEN_MAX + 2)
            : -1;
    return n == -2 ? none : n > 0 ? (struct span){room, (size_t)n} : found;
}

/* True if a cookie may speak for an admin: not from another site's page (Fetch standard,
 * Sec-Fetch-Site), nor from another subdomain of ours, which SameSite would let pass. */
static bool request_is_own(const struct http_request *request)
{
    const char *site = "none";
    if (request->origin != ORIGIN_NONE && request->origin != ORIGIN_OWN) return false;
    return request_header(request->raw, "Sec-Fetch-Site", &site) < 2 &&
           (!strcmp(site, "same-origin") || !strcmp(site, "none"));
}

/* The session of a request, as text in room: in the header Authorization, or where cookies count
 * in the cookie presence_admin. Empty if there is none. */
static struct span request_session(const struct http_request *request, bool cookies,
                                   char room[TOKEN_MAX + 2])
{
    const char *value = "";
    struct span text = request_token(request->raw, true, room);
    if (text.len || !cookies || !request_is_own(request)) return text;
    int n = request_header(request->raw, "Cookie", &value) == 1
                ? cookie_get(value, "presence_admin", room, TOKEN_MAX + 2)
                : -1;
    return (struct span){room, n > 0 ? (size_t)n : 0};
}

/* True if the text is an admin's session; the token then says what it may and how long. */
static bool session_opens(struct server *server, struct span text, int64_t wall_ms,
                          struct token *token)
{
    lock_take(&server->session_lock, RANK_SESSION);
    bool good = session_check(&server->sessions, text, wall_ms, &token->expires_ms);
    lock_give(&server->session_lock, RANK_SESSION);
    token->admin = good;
    return good;
}

/* What a good token may on a route for these: ERROR_NONE or ERROR_FORBIDDEN. */
static enum error auth_allows(enum access access, const struct http_request *request,
                              const struct token *token)
{
    struct span id = {request->id, request->id_len};
    bool own = !bytes_compare(token->user, token->user_len, id.at, id.len), good = true;
    if (access == ACCESS_USER) good = own;
    if (access == ACCESS_OWNER) good = own || token->admin;
    if (access == ACCESS_WATCHER) good = token_may_watch(token, id);
    if (access == ACCESS_ALL) good = token->admin || token->watches_all;
    if (access == ACCESS_ADMIN) good = token->admin;
    return good ? ERROR_NONE : ERROR_FORBIDDEN;
}

/* True if this route requires authentication in this configuration. */
static bool auth_required(const struct server *server, enum access access,
                          const struct http_request *request)
{
    const struct options *options = &server->options;
    /* Without keys everybody may do everything, but what the password guards. */
    if (access == ACCESS_ANYONE || request->open) return false;
    return options_have_keys(options) || (access == ACCESS_ADMIN && *options->admin_password_file);
}

/* [worker] ERROR_NONE if a request may pass: anybody's where none is required, else who has a
 * token or a session that allows it. The token is the caller's to free, whatever the result;
 * request->token is it, or NULL where nobody was asked. A session is tried first: its text cannot
 * be a JWT, which has two dots. */
static enum error auth_check(struct server *server, enum access access,
                             struct http_request *request, struct http_response *response,
                             struct token *token)
{
    *token = (struct token){0};
    if (!auth_required(server, access, request)) return ERROR_NONE;
    int64_t wall_ms = wall_of(request->now);
    char room[TOKEN_MAX + 2];
    struct span text = request_session(request, access == ACCESS_ADMIN, room);
    enum token_problem problem = TOKEN_NONE;
    if (!session_opens(server, text, wall_ms, token)) {
        /* Read anew: a token may come in more places than a session. */
        struct secrets *secrets = secrets_take(server);
        text = request_token(request->raw, access == ACCESS_ADMIN, room);
        problem = token_verify(&secrets->keys, text, wall_ms, server->options.jwt_issuer,
                               server->options.jwt_audience, token);
        secrets_drop(secrets);
    }
    mbedtls_platform_zeroize(room, sizeof room);
    enum error error = ERROR_TOKEN_INVALID;
    if (problem == TOKEN_MISSING) error = ERROR_TOKEN_MISSING;
    else if (problem == TOKEN_EXPIRED) error = ERROR_TOKEN_EXPIRED;
    else if (problem) fail(WHY(response->detail), "%s", TOKEN_PROBLEMS[problem]);
    else error = auth_allows(access, request, token);
    if (!error) request->token = token;
    return error;
}

/* [worker] GET /admin/login: if the caller is an admin, and how long. Always 200: the admin page
 * asks it before it shows a login, and an error would be one in the console of each visitor. */
static enum error api_login_state(struct server *server, const struct http_request *request,
                                  struct http_response *response)
{
    struct http_request asked = *request;
    struct http_response unused = {0};
    struct token token;
    enum error error = auth_check(server, ACCESS_ADMIN, &asked, &unused, &token);
    struct buffer *out = api_json(response);
    json_begin(out);
    json_bool(out, "authenticated", !error);
    json_time(out, "expires_at", token.expires_ms, !error && asked.token);
    json_close(out, '}');
    token_free(&token);
    return ERROR_NONE;
}

/* [worker] Reads the password out of a login's body, JSON or a form, as curl --data sends it; its
 * length, or an error. */
static enum error login_password(const struct http_request *request, char out[PASSWORD_MAX + 1],
                                 size_t *len, struct http_response *response)
{
    static const char form[] = "application/x-www-form-urlencoded";
    const char *type = "";
    struct span body = {request->raw->body, request->raw->body_len};
    struct json_value value, password;
    int n = -1;
    fail(WHY(response->detail),
         "the body is {\"password\":\"...\"}, of at most %d bytes, or a form", PASSWORD_MAX);
    /* The type counts for a form only: JSON is read whatever it is called. */
    bool posted = request_header(request->raw, "Content-Type", &type) == 1 &&
                  !strncasecmp(type, form, sizeof form - 1);
    if (posted && body.len && *body.at != '{') { /* curl --data says that JSON is a form */
        char *text = mem_copy_text(body.at, body.len);
        n = query_get(text, "password", out, PASSWORD_MAX + 1);
        mbedtls_platform_zeroize(text, body.len);
        free(text);
    } else if (!json_parse(body, JSON_DEPTH_MAX, &value)) {
        return ERROR_INVALID_JSON;
    } else if (value.kind == JSON_OBJECT && json_member(value, "password", &password)) {
        n = json_string(password, out, PASSWORD_MAX + 1);
    }
    if (n < 0) return ERROR_INVALID_PARAMETER;
    *len = (size_t)n;
    return ERROR_NONE;
}

/* [worker] Waits for the turn of an address, as far as it may; true if it has it, otherwise *wait
 * is set. One password is hashed at a time, since that takes a core for a while; who may come
 * next, and who has to come back later, is login_ask's (Logins). */
static bool login_begin(struct server *server, const uint8_t key[16], int64_t now, int64_t *wait)
{
    struct login_queue *queue = &server->logins;
    lock_take(&server->address_lock, RANK_ADDRESS);
    const struct address_entry *known = address_find(&server->addresses, key);
    int64_t blocked = known ? address_blocked(known, now) : 0;
    bool guessed = known && address_has_failed(known, now);
    lock_give(&server->address_lock, RANK_ADDRESS);
    lock_take(&server->login_lock, RANK_LOGIN);
    enum login_turn turn = login_ask(queue, key, guessed, blocked, now, wait);
    if (turn == LOGIN_NEXT) {
        queue->waiting++;
        while (queue->busy) pthread_cond_wait(&server->login_done, &server->login_lock);
        queue->waiting--;
    }
    if (turn != LOGIN_LATER) queue->busy = true;
    lock_give(&server->login_lock, RANK_LOGIN);
    return turn != LOGIN_LATER;
}

/* [worker] The turn is the next one's; this one took so many ms. The mean is for Retry-After. */
static void login_end(struct server *server, int64_t took)
{
    lock_take(&server->login_lock, RANK_LOGIN);
    server->logins.busy = false;
    server->logins.took = (3 * server->logins.took + took) / 4; /* a mean that forgets */
    pthread_cond_signal(&server->login_done);
    lock_give(&server->login_lock, RANK_LOGIN);
}

/* [worker] Tries a password for an address, when it is its turn. *wait gets the ms until it surely
 * is. */
static enum error login_try(struct server *server, const uint8_t address[16], int64_t now,
                            const struct password *right, struct span password, int64_t *wait)
{
    uint8_t key[16];
    address_group(address, key);
    if (!login_begin(server, key, now, wait)) return ERROR_TOO_MANY_FAILURES;
    int64_t start = clock_mono_ms();
    /* The slow part: without any lock, but one at a time, see login_begin. */
    bool good = password_check(right, password);
    lock_take(&server->address_lock, RANK_ADDRESS);
    struct address_entry *entry = address_make(&server->addresses, key);
    if (good) address_clear_failures(entry);
    else address_count_failure(entry, clock_mono_ms());
    address_settle(&server->addresses, entry, clock_mono_ms());
    lock_give(&server->address_lock, RANK_ADDRESS);
    login_end(server, clock_mono_ms() - start);
    return good ? ERROR_NONE : ERROR_WRONG_PASSWORD;
}

/* Sets the cookie of a session (RFC 6265bis), or with a lifetime of 0 takes it away. HttpOnly: no
 * script can read it; Strict: no other site's page has it sent. */
static void login_set_cookie(struct http_response *response, const struct http_request *request,
                             struct span session, int64_t lifetime_ms)
{
    http_add_header(response,
                    "Set-Cookie: presence_admin=%.*s; Path=/; HttpOnly; SameSite=Strict;"
                    " Max-Age=%" PRId64 "%s\r\n",
                    (int)session.len, session.at, lifetime_ms / 1000,
                    request->secure ? "; Secure" : "");
}

/* Makes a session, its end in *expires, for who knew the password. Refused when that has changed
 * since: the change may have ended all sessions before there was this one. */
static enum error login_open(struct server *server, int64_t wall_ms, const struct secrets *known,
                             struct buffer *session, int64_t *expires)
{
    lock_take(&server->session_lock, RANK_SESSION);
    session_mint(&server->sessions, wall_ms, server->options.admin_session, session, expires);
    lock_give(&server->session_lock, RANK_SESSION);
    struct secrets *used = secrets_take(server); /* looked at last: a later change ends it */
    bool same = !memcmp(&used->password, &known->password, sizeof used->password);
    secrets_drop(used);
    return same ? ERROR_NONE : ERROR_WRONG_PASSWORD;
}

/* [worker] POST /admin/login: a session for the admin's password, as cookie for the page and as
 * token for programs. */
static enum error api_login(struct server *server, const struct http_request *request,
                            struct http_response *response)
{
    /* Before the body is looked at: there is nothing to guess. */
    if (!*server->options.admin_password_file) {
        fail(WHY(response->detail), "there is no --admin-password-file to log in with");
        return ERROR_NOT_FOUND;
    }
    char password[PASSWORD_MAX + 1], address[64];
    size_t len = 0;
    int64_t wait, expires = 0;
    enum error error = login_password(request, password, &len, response);
    if (error) return error;
    *response->detail = 0;
    struct buffer session = {0}, *out;
    struct secrets *secrets = secrets_take(server);
    error = login_try(server, request->address, request->now.mono, &secrets->password,
                      (struct span){password, len}, &wait);
    if (!error) error = login_open(server, wall_of(request->now), secrets, &session, &expires);
    secrets_drop(secrets);
    mbedtls_platform_zeroize(password, sizeof password);
    address_unpack_text(request->address, address, sizeof address);
    /* In whole seconds, rounded up: who comes back then is not too early. */
    if (error == ERROR_TOO_MANY_FAILURES)
        http_add_header(response, "Retry-After: %" PRId64 "\r\n", (wait + 999) / 1000);
    if (error == ERROR_WRONG_PASSWORD) {
        count_one(&server->counters.admin_login_failures);
        log_line(&server->log, LOG_INFO, "wrong admin password from %s", address);
    }
    if (error) {
        buffer_free(&session);
        return error;
    }
    count_one(&server->counters.admin_logins);
    log_line(&server->log, LOG_INFO, "admin logged in from %s", address);
    out = api_json(response);
    login_set_cookie(response, request, (struct span){session.at, session.len},
                     server->options.admin_session);
    json_begin(out);
    json_span(out, "token", (struct span){session.at, session.len});
    json_time(out, "expires_at", expires, true);
    json_close(out, '}');
    buffer_free(&session);
    return ERROR_NONE;
}

/* [worker] Has the hub end the streams that an admin's session opened which is gone; counted
 * before, so that a stream that is just being opened sees it too. */
static void sessions_ended(struct server *server)
{
    struct hub_ask ask = {0};
    atomic_fetch_add(&server->logouts, 1);
    hub_ask(server, &ask, hub_log_out);
}

/* [worker] POST /admin/logout: ends the session that the request has, here and in the browser. 204
 * also without one. */
static enum error api_logout(struct server *server, const struct http_request *request,
                             struct http_response *response)
{
    char room[TOKEN_MAX + 2];
    struct span text = request_session(request, true, room);
    lock_take(&server->session_lock, RANK_SESSION);
    bool ended = session_revoke(&server->sessions, text, wall_of(request->now));
    lock_give(&server->session_lock, RANK_SESSION);
    mbedtls_platform_zeroize(room, sizeof room);
    if (ended) sessions_ended(server);
    login_set_cookie(response, request, (struct span){"", 0}, 0);
    response->status = 204;
    return ERROR_NONE;
}

/* [worker] OPTIONS: what a path takes (RFC 9110 section 9.3.7), and the preflight by which a
 * browser asks whether a page of --allow-origin may do it (Fetch standard, CORS protocol). */
static enum error api_options(struct server *server, const struct http_request *request,
                              struct http_response *response)
{
    (void)server;
    response->status = 204;
    if (request->preflight && request->listed)
        http_add_header(response,
                        "Access-Control-Allow-Methods: %s\r\n"
                        "Access-Control-Allow-Headers: authorization, content-type\r\n"
                        "Access-Control-Max-Age: 600\r\n",
                        request->allow);
    else http_add_header(response, "Allow: %s\r\n", request->allow);
    return ERROR_NONE;
}

/* ==== 50. Routes ==============================================================================
 * Every path, and the way of a request from it to its answer:
 *
 *     seam_request (CivetWeb)       request_admit: its host, its client, whose page sent it
 *       route_find                  path and method -> a row of ROUTES; the id in it
 *       upgrade_request             an upgrade: auth_pass, limits, then the hub
 *       api_answer
 *         auth_pass                 who asks, and may they
 *         route->handle             fills the response
 *         http_set_error            if one of these failed
 *
 *     Whom a route is for (enum access)      who passes, where tokens are asked for
 *       ANYONE                               everybody, without a token
 *       USER                                 a token of the user in the path
 *       OWNER                                that, or an admin's
 *       WATCHER                              a token that may see the user in the path
 *       READER                               any good token; the handler looks at each user
 *       ALL                                  a token that may see everybody, or an admin's
 *       ADMIN                                an admin's token or session
 *
 * The manual's list of routes is checked against ROUTES by a test. */

enum method { METHOD_GET, METHOD_POST, METHOD_PUT, METHOD_DELETE, METHOD_OPTIONS, METHOD_UPGRADE };
static const char *const METHODS[] = {"GET", "POST", "PUT", "DELETE", "OPTIONS", "GET"};

/* A path and method. {id} is one segment, a user id percent-encoded. An upgrade has no handler
 * here: it is upgrade_request's. */
static const struct route {
    enum method method;
    enum access access;
    const char *pattern;
    enum error (*handle)(struct server *, const struct http_request *, struct http_response *);
} ROUTES[] = {
    {METHOD_UPGRADE, ACCESS_USER, "/ws/presence/{id}", NULL},
    {METHOD_GET, ACCESS_WATCHER, "/api/presence/{id}", api_get_user},
    {METHOD_POST, ACCESS_READER, "/api/presence", api_post_batch},
    {METHOD_POST, ACCESS_USER, "/api/presence/{id}/heartbeat", api_post_heartbeat},
    {METHOD_GET, ACCESS_ALL, "/api/events", api_events},
    {METHOD_PUT, ACCESS_OWNER, "/api/presence/{id}/status", api_put_status},
    {METHOD_GET, ACCESS_ADMIN, "/admin/online-users", api_online_users},
    {METHOD_GET, ACCESS_ADMIN, "/admin/users", api_users},
    {METHOD_GET, ACCESS_ADMIN, "/admin/users/{id}", api_admin_user},
    {METHOD_GET, ACCESS_ADMIN, "/admin/users/{id}/sessions", api_sessions},
    {METHOD_DELETE, ACCESS_ADMIN, "/admin/users/{id}/connections", api_kick},
    {METHOD_GET, ACCESS_ADMIN, "/admin/stats", api_stats},
    {METHOD_GET, ACCESS_ADMIN, "/admin/history", api_history},
    {METHOD_GET, ACCESS_ADMIN, "/admin/events", api_admin_events},
    {METHOD_GET, ACCESS_ANYONE, "/admin", api_admin},
    {METHOD_GET, ACCESS_ANYONE, "/admin/login", api_login_state},
    {METHOD_POST, ACCESS_ANYONE, "/admin/login", api_login},
    {METHOD_POST, ACCESS_ANYONE, "/admin/logout", api_logout},
    {METHOD_GET, ACCESS_ADMIN, "/metrics", api_metrics},
    {METHOD_GET, ACCESS_ANYONE, "/healthz", api_healthz},
    {METHOD_GET, ACCESS_ANYONE, "/readyz", api_readyz},
    {METHOD_GET, ACCESS_ANYONE, "/", api_asset},
};
enum { ROUTE_COUNT = sizeof ROUTES / sizeof *ROUTES };

/* True if a path as sent matches a pattern; *id becomes the segment that stands for {id}, still
 * encoded: so an encoded slash is a part of the id. */
static bool route_matches(const char *pattern, const char *path, struct span *id)
{
    while (*pattern && *pattern != '{') {
        if (*pattern++ != *path++) return false;
    }
    if (!*pattern) return !*path;
    *id = (struct span){path, strcspn(path, "/")};
    return !strcmp(pattern + strlen("{id}"), path + id->len);
}

/* [worker] Finds the route of a request and decodes its user id. On an error that concerns the
 * method the Allow header is set (RFC 9110 section 10.2.1). HEAD is GET without the body. */
static enum error route_find(struct http_request *request, struct http_response *response,
                             const struct route **found)
{
    static const struct route asset_route = {METHOD_GET, ACCESS_ANYONE, "", api_asset};
    static const struct route options_route = {METHOD_OPTIONS, ACCESS_ANYONE, "", api_options};
    const char *path = request->raw->target, *method = request->raw->method;
    char *allow = request->allow;
    request->head_only = !strcmp(method, "HEAD");
    if (request->head_only) method = "GET";
    *found = NULL;
    /* All rows are looked at, also behind the one that fits: Allow names all methods of a path. */
    for (int i = 0; i < ROUTE_COUNT; i++) {
        struct span id = {0};
        const struct route *route = &ROUTES[i];
        if (!route_matches(route->pattern, path, &id)) continue;
        size_t len = strlen(allow);
        bool reads = !strcmp(METHODS[route->method], "GET");
        snprintf(allow + len, sizeof request->allow - len, "%s%s", len ? ", " : "",
                 reads ? "GET, HEAD" : METHODS[route->method]);
        if (strcmp(METHODS[route->method], method)) continue;
        *found = route;
        if (id.at && !uri_user_id(id, request->id, &request->id_len)) return ERROR_INVALID_USER_ID;
    }
    /* OPTIONS *, about the server (RFC 9110 section 9.3.7); see http_frame_first. */
    if (!strcmp(path, "*")) strcpy(allow, "GET, HEAD, POST, PUT, DELETE, OPTIONS");
    if (!*allow && asset_find(path)) {
        strcpy(allow, "GET, HEAD");
        if (!strcmp(method, "GET")) *found = &asset_route;
    }
    if (*allow && !strcmp(method, "OPTIONS")) *found = &options_route;
    if (*found) return ERROR_NONE;
    if (!*allow) return ERROR_NOT_FOUND;
    http_add_header(response, "Allow: %s\r\n", allow);
    return ERROR_METHOD_NOT_ALLOWED;
}

/* As auth_check; who is turned away is counted. */
static enum error auth_pass(struct server *server, const struct route *route,
                            struct http_request *request, struct http_response *response,
                            struct token *token)
{
    enum error error = auth_check(server, route->access, request, response, token);
    if (error) count_one(&server->counters.tokens_refused);
    return error;
}

/* [worker] Answers a request that is no upgrade. */
static void api_answer(struct server *server, const struct route *route, enum error error,
                       struct http_request *request, struct http_response *response)
{
    struct token token = {0};
    if (!error) error = auth_pass(server, route, request, response, &token);
    if (!error && (error = route->handle(server, request, response)) == ERROR_FORBIDDEN)
        count_one(&server->counters.tokens_refused); /* authentication had let it pass */
    token_free(&token);
    if (error) http_set_error(response, error);
    count_one(&server->counters.requests);
    if (response->status >= 400) count_one(&server->counters.request_errors);
}

/* ==== 51. CivetWeb ============================================================================
 * What a CivetWeb worker calls: its request becomes ours, our answer becomes bytes in the
 * connection, an upgrade becomes a grant for the hub. All of it is a worker's. CivetWeb parses and
 * frames; it never sees a socket, and never answers by itself. See vendor/civetweb_seam.h. For one
 * request:
 *
 *     seam_request  admit (host, origin) -> route -> [vet] -> upgrade_request or api_answer
 *     seam_error    in place of it, where CivetWeb cannot parse the request
 *     seam_output   the 101 of an upgrade, which CivetWeb computes
 *     seam_finished where the connection goes next (http_conn_served) */

enum { REFUSED_MAX = 256 }; /* WebSockets open only to be closed with the reason */

/* True if the connection may be kept after this answer (RFC 9112 section 9.3): HTTP/1.1 unless it
 * says close, HTTP/1.0 only if it says keep-alive. Not while the server stops: a kept connection
 * would hold it up. */
static bool request_keeps_alive(const struct server *server, const struct seam_request *request)
{
    bool close = false, keep = false;
    for (int i = 0; i < request->header_count; i++) {
        if (strcasecmp(request->headers[i].name, "Connection")) continue;
        close |= header_has_token(request->headers[i].value, "close");
        keep |= header_has_token(request->headers[i].value, "keep-alive");
    }
    if (close || atomic_load(&server->stopping)) return false;
    return keep || !strcmp(request->version, "1.1");
}

/* Checks that an upgrade may be granted by its form (RFC 6455 section 4.2.1). Another version is
 * told which one is spoken (426), so that a client can fall back. */
static enum error upgrade_check(const struct seam_request *request)
{
    const char *value = NULL;
    bool get = !strcmp(request->method, "GET") && !strcmp(request->version, "1.1");
    if (!request->wants_upgrade || !get) return ERROR_UPGRADE_REQUIRED;
    if (request_header(request, "Sec-WebSocket-Version", &value) != 1 || strcmp(value, "13"))
        return ERROR_UPGRADE_REQUIRED;
    if (request_header(request, "Sec-WebSocket-Key", &value) != 1 || !ws_key_valid(value))
        return ERROR_INVALID_REQUEST;
    return ERROR_NONE;
}

/* [worker] Takes a place among those of an address, and one of its upgrades a second; see
 * server_release_address. The pace is checked behind the count, so that a refusal for the count
 * uses none of it. */
static enum error upgrade_reserve_address(struct server *server, const struct http_request *request)
{
    const struct options *options = &server->options;
    struct address_table *addresses = &server->addresses;
    enum error error = ERROR_NONE;
    uint8_t key[16];
    if (!options->max_per_address && !options->max_upgrades) return ERROR_NONE;
    if (server_exempts(server, request->address)) return ERROR_NONE;
    address_group(request->address, key);
    lock_take(&server->address_lock, RANK_ADDRESS);
    struct address_entry *entry = address_make(addresses, key);
    if (options->max_per_address && entry->connections >= options->max_per_address)
        error = ERROR_TOO_MANY_FROM_ADDRESS;
    else if (!address_take_upgrade(entry, request->now.mono * 1000, options->max_upgrades))
        error = ERROR_TOO_MANY_UPGRADES;
    else entry->connections += options->max_per_address > 0;
    address_settle(addresses, entry, request->now.mono);
    lock_give(&server->address_lock, RANK_ADDRESS);
    if (error) count_one(&server->counters.address_refused);
    return error;
}

/* [worker] Checks the limits of an upgrade, and takes a place among the connections if they allow
 * it. That of the user is checked again by the hub: of two at once both may pass here. Places are
 * taken last, so that a refusal has nothing to give back but what it took. */
static enum error upgrade_reserve(struct server *server, const struct http_request *request)
{
    if (atomic_load(&server->stopping)) return ERROR_STOPPING;
    lock_take(&server->table_lock, RANK_TABLE);
    const struct user *user =
        presence_find(&server->presence, (struct span){request->id, request->id_len});
    bool many = user && user->connections >= server->options.max_per_user;
    lock_give(&server->table_lock, RANK_TABLE);
    if (many) return ERROR_TOO_MANY_CONNECTIONS;
    enum error error = upgrade_reserve_address(server, request);
    if (error) return error;
    if (!(error = server_reserve(server))) return ERROR_NONE;
    server_release_address(server, request->address);
    return error;
}

/* True if a client offers our subprotocol, presence.v1: then it is one that knows our close codes.
 */
static bool upgrade_offers_ours(const struct seam_request *raw)
{
    for (int i = 0; i < raw->header_count; i++)
        if (!strcasecmp(raw->headers[i].name, "Sec-WebSocket-Protocol") &&
            header_has_exact(raw->headers[i].value, "presence.v1"))
            return true;
    return false;
}

/* [worker] True if one that is refused may be upgraded to be told why: it is a browser or offers
 * our subprotocol, since no WebSocket class shows the status of an upgrade that failed, in Node
 * neither; and not too many are, whom no other limit holds. Takes a place among these if so. */
static bool upgrade_reserve_refused(struct server *server, const struct seam_request *raw)
{
    const char *origin;
    if (!request_header(raw, "Origin", &origin) && !upgrade_offers_ours(raw)) return false;
    if (atomic_fetch_add(&server->refused, 1) < REFUSED_MAX) return true;
    atomic_fetch_sub(&server->refused, 1);
    return false;
}

/* [worker] See server_count_refusal. */
static void upgrade_count_refusal(struct server *server, const struct http_request *request,
                                  enum error error, const char *detail)
{
    const char *origin = NULL, *host = NULL;
    request_header(request->raw, "Origin", &origin);
    request_header(request->raw, "Host", &host);
    server_count_refusal(server, error, request->address, request->now.mono, detail, origin, host);
}

/* [worker] Grants an upgrade or refuses it. A client that could not see why it failed is upgraded
 * even when a limit speaks against it, and closed at once with the reason; not when REFUSED_MAX
 * are. */
static enum error upgrade_request(struct server *server, struct http_conn *p,
                                  const struct route *route, struct http_request *request,
                                  struct http_response *response, struct seam_request *raw)
{
    const char *value = NULL;
    enum error error = upgrade_check(raw), refuse;
    if (error) return error;
    struct token token;
    /* From here on a refusal may be told by a close code, see upgrade_reserve_refused. The token is
     * used up here: what the hub must know of it later is its end and whom it lets its user follow.
     */
    refuse = auth_pass(server, route, request, response, &token);
    uint32_t expires = request->token ? request_expires(&token, request->now) : 0;
    bool watches_all = !request->token || token.admin || token.watches_all;
    struct id_list *may = watches_all ? NULL : id_list_of_token(&token);
    token_free(&token);
    request->token = NULL;
    if (!refuse) {
        refuse = upgrade_reserve(server, request);
        if (refuse) count_one(&server->counters.upgrades_refused);
    }
    if (refuse) free(may);
    if (refuse && !upgrade_reserve_refused(server, raw)) return refuse;
    if (refuse) upgrade_count_refusal(server, request, refuse, response->detail);
    /* CivetWeb may still refuse, then seam_finished gives all of this back. Until it is the hub's
     * nobody else looks at the session. */
    struct session_conn *session = &p->c->session;
    struct grant *grant = &p->grant;
    memcpy(session->address, request->address, 16); /* the client's, also behind a proxy */
    session->port = request->port;
    session->expires = expires;
    session->watches_all = watches_all;
    *grant = (struct grant){.kind = GRANT_WEBSOCKET, .refuse = refuse, .may = refuse ? NULL : may};
    grant->id_len = (uint8_t)request->id_len;
    memcpy(grant->id, request->id, request->id_len);
    if (request_header(raw, "User-Agent", &value)) grant->agent = value;
    /* A browser fails the connection where the subprotocol it asked for is not named. */
    if (upgrade_offers_ours(raw)) raw->subprotocol = "presence.v1";
    count_one(&server->counters.requests);
    return ERROR_NONE;
}

/* [worker] Grants a stream, whose head the hub sends. It has no place of its own to reserve: the
 * route has taken one among the connections. */
static void grant_stream(struct http_conn *p, const struct http_response *response)
{
    p->c->session.expires = response->expires;
    p->grant = (struct grant){.kind = GRANT_STREAM,
                              .logouts = response->logouts,
                              .feed = response->feed,
                              .resumes = response->resumes,
                              .position = response->position};
}

/* True if --metrics-listen serves a route: only what tells nothing of anybody, since it asks for no
 * token. */
static bool route_is_metrics(const struct route *route)
{
    return route->handle == api_metrics || route->handle == api_healthz ||
           route->handle == api_readyz;
}

/* [worker] Finds who a request is from, and whether it came over TLS: what trusted proxies say
 * counts. A client behind a proxy has no port. */
static void request_find_client(const struct server *server, const struct http_conn *p,
                                struct http_request *request)
{
    const struct seam_request *raw = request->raw;
    const char *forwarded[FORWARDED_MAX], *scheme = NULL;
    const uint8_t *peer = p->c->session.address;
    int count = 0;
    request->port = p->c->session.port;
    request->secure = p->item.is_tls;
    for (int i = raw->header_count - 1; i >= 0; i--) {
        const struct seam_header *header = &raw->headers[i];
        if (!strcasecmp(header->name, "X-Forwarded-For") && count < FORWARDED_MAX)
            forwarded[FORWARDED_MAX - ++count] = header->value;
        if (!strcasecmp(header->name, "X-Forwarded-Proto")) scheme = header->value;
    }
    if (!forwarded_client(forwarded + FORWARDED_MAX - count, count, server->trusted,
                          server->trusted_count, peer, request->address))
        return;
    if (memcmp(peer, request->address, 16)) request->port = 0;
    if (scheme) request->secure = forwarded_secure(scheme, request->secure);
}

/* [worker] Whose page sent a request: none, our own (the Origin is that of the Host), one of
 * --allow-origin, or foreign. Two Origins, or one that is none, are foreign. Below /admin/ no other
 * origin is ever listed. */
static enum origin request_find_origin(const struct server *server, struct http_request *request)
{
    static const char admin[] = "/admin/";
    const struct seam_request *raw = request->raw;
    const struct option_list *allowed = &server->options.allow_origin;
    const char *value, *host;
    char origin[ORIGIN_MAX], own[ORIGIN_MAX];
    int count = request_header(raw, "Origin", &value);
    if (!count) return ORIGIN_NONE;
    if (count > 1 || !origin_parse(value, origin)) return ORIGIN_FOREIGN;
    if (request_header(raw, "Host", &host) == 1 && origin_of_host(request->secure, host, own) &&
        !strcmp(origin, own))
        return ORIGIN_OWN;
    if (!strncmp(raw->target, admin, sizeof admin - 1)) return ORIGIN_FOREIGN;
    for (size_t i = 0; i < allowed->count && !request->listed; i++)
        if (!strcmp(origin, allowed->at[i])) request->listed = allowed->at[i];
    return request->listed ? ORIGIN_LISTED : ORIGIN_FOREIGN;
}

/* [worker] Checks that a request may be looked at: it names its host, in open mode one that is this
 * machine, so that nobody's DNS can make us a part of their site (RFC 9110 section 7.4); and it is
 * not the page of somebody else that wants to do more than read. Without keys there is no token
 * that a foreign page would lack: there its origin is all that keeps it out. */
static enum error request_admit(struct server *server, const struct http_conn *p,
                                struct http_request *request)
{
    const struct seam_request *raw = request->raw;
    const char *value = NULL;
    int hosts = request_header(raw, "Host", &value);
    request_find_client(server, p, request);
    /* Before anything is made of the request: two names of hosts are two requests for whoever
     * stands between. */
    if (!strcmp(raw->version, "1.1") && hosts != 1)
        return ERROR_INVALID_REQUEST; /* RFC 9112 section 3.2 */
    if (p->kind == LISTEN_REDIRECT || request->open) return ERROR_NONE;
    bool any = options_have_keys(&server->options) || server->options.insecure;
    if (!any && hosts && !host_is_local(value)) return ERROR_MISDIRECTED_HOST;
    request->origin = (uint8_t)request_find_origin(server, request);
    bool asks = !strcmp(raw->method, "OPTIONS");
    request->preflight = asks && request->origin != ORIGIN_NONE &&
                         request_header(raw, "Access-Control-Request-Method", &value);
    /* A WebSocket is no read, although it is a GET: browsers let any page open one anywhere, and
     * send cookies along. */
    bool reads = raw->wants_upgrade ? false
                 : asks             ? !request->preflight
                                    : !strcmp(raw->method, "GET") || !strcmp(raw->method, "HEAD");
    bool crossed = !options_have_keys(&server->options) && request_is_crossed(raw);
    if (reads || (request->origin != ORIGIN_FOREIGN && !crossed)) return ERROR_NONE;
    count_one(&server->counters.origins_refused);
    return ERROR_FORBIDDEN_ORIGIN;
}

/* [worker] Counts the memory of an answer, and makes one that is too much an error. Small ones are
 * given in any case: an error must be told. */
static void answer_hold(struct server *server, struct http_conn *p, struct http_response *response)
{
    enum { SAID_IN_ANY_CASE = 4096, HEAD_GUESS = 1024 };
    size_t body = response->fixed.at ? response->fixed.len : response->body.len;
    bool must = body <= SAID_IN_ANY_CASE;
    size_t copy = http_moves_body(response) ? 0 : body;
    if (http_conn_hold(p, response->body.size + copy + HEAD_GUESS, must)) return;
    buffer_free(&response->body);
    buffer_free(&response->location);
    response->extra[0] = 0;
    response->is_stream = response->cacheable = false;
    *response->detail = 0;
    http_set_error(response, ERROR_REQUEST_MEMORY);
    count_one(&server->counters.request_errors);
}

/* [worker] Looks at the head of a request alone: may its sender send the body? Returns what the
 * request is to be refused with. */
static enum error request_vet(struct server *server, const struct http_conn *p,
                              const struct route *route, struct http_request *request,
                              struct http_response *response)
{
    if (route->access == ACCESS_ANYONE) {
        size_t body = p->whole ? p->whole - p->head : p->chunks.made;
        return body > LISTENER_BODY_OPEN ? ERROR_BODY_TOO_LARGE : ERROR_NONE;
    }
    struct token token;
    enum error error = auth_pass(server, route, request, response, &token);
    token_free(&token);
    request->token = NULL;
    return error;
}

/* [worker] seam_ops.request: one parsed request. From the general to the particular: host and
 * origin, route, who is asking, what they ask. Returns the status, or 0 to have CivetWeb write its
 * 101. */
static int seam_request(void *context, struct seam_item *item, struct seam_request *raw)
{
    thread_is(THREAD_WORKER);
    struct server *server = context;
    struct http_conn *p = http_conn_of_item(item);
    struct http_request request = {.raw = raw,
                                   .now = server_now(server),
                                   .open = p->kind == LISTEN_METRICS,
                                   .logouts = atomic_load(&server->logouts)};
    struct http_response response = {0};
    static const struct route redirect = {METHOD_GET, ACCESS_ANYONE, "", api_redirect};
    const struct route *route = &redirect;
    enum error error = request_admit(server, p, &request);
    if (!error && p->kind != LISTEN_REDIRECT) error = route_find(&request, &response, &route);
    if (!error && request.open && !route_is_metrics(route)) error = ERROR_NOT_FOUND;
    /* Only the head is here; who may send the body gets no answer yet, and the request comes
     * again whole. */
    if (!error && p->vet == VET_ASKED) {
        error = request_vet(server, p, route, &request, &response);
        if (!error) {
            p->vet = VET_PASSED;
            return 200; /* nothing is said yet */
        }
    }
    if (!error && route->method == METHOD_UPGRADE) {
        error = upgrade_request(server, p, route, &request, &response, raw);
        if (!error) return 0;
    }
    /* A page whose WebSocket fails learns nothing of why: the log says it to the operator. */
    if (error && (raw->wants_upgrade || error == ERROR_UPGRADE_REQUIRED))
        upgrade_count_refusal(server, &request, error, response.detail);
    /* Errors too may be read by the page of a listed origin, and caches are told that answers
     * differ by it. */
    response.allow_origin = request.listed ? request.listed : p->listed;
    response.varies = server->options.allow_origin.count > 0;
    /* After a vetted head that was refused the body is still to come, and nobody reads it. */
    p->keep_alive =
        request_keeps_alive(server, raw) && error != ERROR_UPGRADE_REQUIRED && p->vet != VET_ASKED;
    api_answer(server, route, error, &request, &response);
    answer_hold(server, p, &response);
    /* The head of a stream is made here as that of any answer; the hub sends it. A HEAD request has
     * its answer and no stream. */
    bool streams = response.is_stream && !request.head_only;
    if (streams) grant_stream(p, &response);
    http_write(&p->out, &response, p->keep_alive && !streams, request.head_only);
    buffer_free(&response.body);
    buffer_free(&response.location);
    view_texts_free(&response.texts);
    free(response.named);
    return response.status;
}

/* seam_ops.error: CivetWeb found the request wrong before we saw it. Its own page would be HTML in
 * a form that no client of ours knows. */
static void seam_error(void *context, struct seam_item *item, int status, const char *message)
{
    thread_is(THREAD_WORKER);
    struct server *server = context;
    struct http_conn *p = http_conn_of_item(item);
    log_line(&server->log, LOG_DEBUG, "request refused: %s", message);
    http_conn_set_error(server, p,
                        status == 505   ? ERROR_VERSION_NOT_SUPPORTED
                        : status == 413 ? ERROR_HEAD_TOO_LARGE
                        : status >= 500 ? ERROR_INTERNAL
                                        : ERROR_INVALID_REQUEST);
}

/* seam_ops.output: CivetWeb's 101. */
static void seam_output(void *context, struct seam_item *item, const char *at, size_t len)
{
    (void)context;
    struct http_conn *p = http_conn_of_item(item);
    buffer_add(&p->out, at, len);
}

/* [worker] seam_ops.finished: nothing more will come from the worker. A grant that CivetWeb did not
 * follow up with its 101 gives its places back here. */
static void seam_finished(void *context, struct seam_item *item)
{
    thread_is(THREAD_WORKER);
    struct server *server = context;
    struct http_conn *p = http_conn_of_item(item);
    if (p->grant.kind == GRANT_WEBSOCKET && !item->upgraded) { /* CivetWeb refused it */
        bool refused = p->grant.refuse;
        atomic_fetch_sub(refused ? &server->refused : &server->connections, 1);
        if (!refused) server_release_address(server, p->c->session.address);
        free(p->grant.may);
        p->grant = (struct grant){0};
    }
    bool quiet = p->vet == VET_PASSED && p->aside.at; /* the head was all right: see seam_request */
    if (!p->out.len && !p->grant.kind && !quiet)
        seam_error(context, item, 400, "CivetWeb had no answer");
    http_conn_served(server, p);
}

/* seam_ops.log. CivetWeb warns of what clients do, so it is for debugging only. */
static void seam_log(void *context, const char *message)
{
    struct server *server = context;
    log_line(&server->log, LOG_DEBUG, "civetweb: %s", message);
}

static const struct seam_ops SEAM_OPS = {
    .run = listener_run,
    .request = seam_request,
    .error = seam_error,
    .output = seam_output,
    .finished = seam_finished,
    .log = seam_log,
    .no_memory = mem_die,
};

/* ==== 52. Sandbox and privileges ==============================================================
 * After the start the process can reach its own files and sockets only: --user, which gives up
 * root, and Landlock (landlock(7)), which gives up files, ports and signals. Both are for good and
 * for every thread that starts later, so they come after the addresses are bound and before the
 * first thread. A kernel without Landlock is no error: the server runs as it would have, and
 * /metrics says so. */

/* [main] True if --user can be obeyed; false with the reason in why. Asked before anything is made,
 * so that --check-config finds it, too. */
static bool server_check_user(const struct options *options, struct why why)
{
    const struct passwd *user = *options->user ? getpwnam(options->user) : NULL;
    if (*options->user && !user)
        fail(why, "--user: there is no user %.200s; name one of /etc/passwd", options->user);
    else if (user && geteuid() && geteuid() != user->pw_uid)
        fail(why,
             "--user: only root can become %.200s; start as root, or leave it"
             " out",
             options->user);
    else return true;
    return false;
}

/* [main] Stops being root, for good: --user. Groups first, then the group, then the user: after
 * setresuid there is no right to the others any more. A data directory that does not exist yet is
 * made here, for root may be alone in being able to; one that exists is left as it is, for it may
 * belong to someone else. PR_SET_NO_NEW_PRIVS, in any case: no program that is started could gain
 * rights, and Landlock requires it. False with the reason in why. */
static bool server_become_user(const struct options *options, struct why why)
{
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    if (!*options->user) return true;
    const struct passwd *user = getpwnam(options->user);
    uid_t uid = user ? user->pw_uid : geteuid(); /* it was there: server_check_user */
    gid_t gid = user ? user->pw_gid : getegid();
    if (geteuid() == uid) return true;
    /* EEXIST and all other errors are store_open's to tell, which says more of them. */
    if (!mkdir(options->data, 0700) && chown(options->data, uid, gid))
        return fail(why, "--user: cannot give %.200s to %.200s: %s", options->data, options->user,
                    strerror(errno));
    if (!setgroups(1, &gid) && !setresgid(gid, gid, gid) && !setresuid(uid, uid, uid)) return true;
    return fail(why, "--user: cannot become %.200s: %s; start as root, or leave it out",
                options->user, strerror(errno));
}

/* What Landlock (landlock(7), Linux 5.13) is asked for: its header is not everywhere. */
enum {
    LANDLOCK_FILES_READ = 1 << 2,   /* read a file */
    LANDLOCK_FILES_DATA = 0x412e,   /* and write, truncate, make, remove it, read a directory */
    LANDLOCK_ABI_QUERY = 1,         /* landlock_create_ruleset: tell the version */
    LANDLOCK_PATH_BENEATH = 1,      /* the kind of a rule */
    LANDLOCK_NET = 1 << 0 | 1 << 1, /* bind and connect a TCP socket */
    LANDLOCK_CONNECT = 1 << 1,
    LANDLOCK_NET_PORT = 2,            /* the kind of a rule */
    LANDLOCK_SCOPE = 1 << 0 | 1 << 1, /* abstract sockets of others, signals to others */
};
/* The kernel's struct landlock_ruleset_attr. Versions 1 to 3 know the first member, 4 and 5 the
 * first two: its size, given with it, says which are meant. */
struct landlock_rules {
    uint64_t files, net, scope;
};
/* The kernel's struct landlock_path_beneath_attr, packed as there. */
struct landlock_rule {
    uint64_t files;
    int32_t fd;
} __attribute__((packed));

/* Allows these rights on a file, or on a directory and all beneath it. One that is not there needs
 * no rule. */
static void sandbox_allow(int ruleset, const char *path, uint64_t files)
{
    struct landlock_rule rule = {.files = files, .fd = open(path, O_PATH | O_CLOEXEC)};
    if (rule.fd < 0) return;
    syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_PATH_BENEATH, &rule, 0);
    close(rule.fd);
}

/* Allows a file to be read, and what may replace it on a reload: so the directories that it is in,
 * by its name and by the name behind all links (certbot has links into another directory). */
static void sandbox_allow_file(int ruleset, const char *path)
{
    char text[PATH_MAX];
    if (strlen(path) < sizeof text)
        sandbox_allow(ruleset, dirname(strcpy(text, path)), LANDLOCK_FILES_READ);
    if (realpath(path, text)) sandbox_allow(ruleset, dirname(text), LANDLOCK_FILES_READ);
}

/* Allows TCP connections to a port, of any address: Landlock knows no addresses. */
static void sandbox_allow_port(int ruleset, uint16_t port)
{
    const struct {
        uint64_t rights, port;
    } rule = {LANDLOCK_CONNECT, port};
    syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_NET_PORT, &rule, 0);
}

/* [main] Allows what a webhook needs: its port, the file of certificates and, to find a host by its
 * name, the resolver's files. Of /etc nothing else is opened: a resolv.conf that is replaced there,
 * and is no link to another directory, is read by the next start. */
static void sandbox_allow_webhook(int ruleset, const struct webhook *hook)
{
    enum { DNS = 53 };
    static const char *const files[] = {"/etc/resolv.conf", "/etc/hosts"};
    char real[PATH_MAX];
    if (!webhook_wanted(hook)) return;
    sandbox_allow_port(ruleset, hook->url.port);
    if (hook->url.secure) sandbox_allow_file(ruleset, hook->options->webhook_ca_file);
    sandbox_allow_file(ruleset, hook->options->webhook_secret_file);
    if (hook->url.is_address) return;
    sandbox_allow_port(ruleset, DNS);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        sandbox_allow(ruleset, files[i], LANDLOCK_FILES_READ);
        if (realpath(files[i], real) && strncmp(real, "/etc/", 5))
            sandbox_allow(ruleset, dirname(real), LANDLOCK_FILES_READ);
    }
}

/* [main] Takes from the process what it has no business with, for good and for all threads that
 * start later: files but those of --data and the directories of certificates, keys and passwords;
 * new TCP sockets but the webhook's; signals to others. A hole in a parser then reads no other file
 * and calls nobody. As far as the kernel can: each version of Landlock knows more rights, and
 * asking for one that it does not know fails, so rights, size and fields go by its version.
 * server->landlock is what /metrics says of it. */
static void server_enter_sandbox(struct server *server)
{
    static const size_t lists[] = {
        offsetof(struct options, tls_cert),
        offsetof(struct options, tls_key),
        offsetof(struct options, jwt_secret_file),
        offsetof(struct options, jwt_public_key_file),
    };
    /* By version of Landlock: all rights on files that it knows (2: refer, 3: truncate, 5: ioctl).
     */
    static const uint64_t rights[] = {0, 0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff};
    const struct options *options = &server->options;
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_ABI_QUERY);
#if defined __SANITIZE_ADDRESS__ || defined __SANITIZE_THREAD__
    abi = 0; /* they start a program that knows the names of functions */
#endif
    if (abi < 1) return;
    struct landlock_rules rules = {
        .files = rights[abi > 5 ? 5 : abi],
        .net = abi < 4 ? 0 : LANDLOCK_NET,
        .scope = abi < 6 ? 0 : LANDLOCK_SCOPE,
    };
    size_t known = abi < 4 ? 8 : abi < 6 ? 16 : 24;
    int ruleset = (int)syscall(SYS_landlock_create_ruleset, &rules, known, 0);
    if (ruleset < 0) return;
    sandbox_allow(ruleset, options->data, rules.files & LANDLOCK_FILES_DATA);
    /* For /metrics: the memory of the process. */
    sandbox_allow(ruleset, "/proc/self", LANDLOCK_FILES_READ);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        const struct option_list *list = (const void *)((const char *)options + lists[i]);
        for (size_t n = 0; n < list->count; n++) {
            char kid[TOKEN_KID_MAX + 1];
            sandbox_allow_file(ruleset, i < 2 ? list->at[n] : token_key_path(list->at[n], kid));
        }
    }
    if (*options->admin_password_file) sandbox_allow_file(ruleset, options->admin_password_file);
    sandbox_allow_webhook(ruleset, &server->webhook);
    bool done = !syscall(SYS_landlock_restrict_self, ruleset, 0);
    if (done) server->landlock = abi;
    close(ruleset);
    log_line(&server->log, LOG_DEBUG,
             done ? "sandboxed by Landlock, version %ld" : "Landlock, version %ld, refuses", abi);
}

/* ==== 53. Start ===============================================================================
 * From options to a server that answers, and back: limits, files, threads, signals, an ordered
 * stop. All on main, which owns the certificates, keys and secrets that it replaces on a reload.
 * Nothing here is for a client. Exit status: 0 fine, 1 failed at run time, 2 wrong usage or
 * configuration, which a supervisor should not try again. */

#include "licenses.inc"

enum {
    DESCRIPTOR_RESERVE = 64, /* for the store, the log, and clients that speak HTTP */
    FILES_LOOK_S = 5,        /* how often the files of certificates are looked at */
    STOP_MS = 4500,          /* of a stop: what is not written then is given up; README: 5 s */
};

/* Prints one line on stderr and returns the status to exit with, so that a command can fail in one
 * statement. */
__attribute__((format(printf, 2, 3))) static int complain(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("presence: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return status;
}

/* [main] Takes all descriptors that the system gives, and works out how many connections that
 * allows. At a limit of its own the server answers with 503 or 1013; without descriptors accept
 * fails, and nobody gets an answer. A few are kept back for the store, the log and HTTP. False with
 * the reason in why if --max-connections asks for more. */
static bool server_set_limits(struct server *server, struct why why)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit)) limit.rlim_cur = limit.rlim_max = 1024;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit)) getrlimit(RLIMIT_NOFILE, &limit);
    /* The largest value of --max-connections, too. */
    int64_t most = limit.rlim_cur > 10000000 ? 10000000 : (int64_t)limit.rlim_cur;
    most -= most > 4 * DESCRIPTOR_RESERVE ? DESCRIPTOR_RESERVE : most / 4;
    int64_t asked = server->options.max_connections;
    server->max_connections = asked ? asked : most;
    if (server->max_connections <= most) return true;
    return fail(why,
                "--max-connections: the descriptor limit allows %" PRId64 ", not %" PRId64
                "; raise 'ulimit -n' or lower it",
                most, asked);
}

/* The listening options, and what their sockets are for. In the order of enum listen_kind, by which
 * server_announce finds a row. */
static const struct listen_row {
    size_t offset;
    enum listen_kind kind;
    const char *option, *what;
} LISTENS[] = {
    {offsetof(struct options, listen), LISTEN_HTTP, "listen", "http"},
    {offsetof(struct options, tls_listen), LISTEN_TLS, "tls-listen", "https"},
    {offsetof(struct options, redirect_listen), LISTEN_REDIRECT, "redirect-listen", "redirect"},
    {offsetof(struct options, metrics_listen), LISTEN_METRICS, "metrics-listen", "metrics"},
};
enum { LISTEN_COUNT = sizeof LISTENS / sizeof *LISTENS };

static const struct option_list *listen_list(const struct options *options,
                                             const struct listen_row *row)
{
    return (const struct option_list *)((const char *)options + row->offset);
}

/* [main] Refuses to serve more than this machine without keys for tokens: anybody could then be any
 * user, and an admin. True, too, if --insecure says that it is meant. The metrics and redirect
 * listeners show and change nothing of users. */
static bool server_check_addresses(const struct server *server, struct why why)
{
    const struct options *options = &server->options;
    bool keys = options_have_keys(options);
    for (const struct listen_row *row = LISTENS; row < LISTENS + LISTEN_COUNT; row++) {
        const struct option_list *list = listen_list(options, row);
        bool serves = row->kind == LISTEN_HTTP || row->kind == LISTEN_TLS;
        for (size_t i = 0; i < list->count; i++) {
            struct sockaddr_storage address;
            socklen_t len;
            if (!address_parse(list->at[i], &address, &len)) fatal("an option was not checked");
            if (!serves || options->insecure || keys || address_is_loopback(&address)) continue;
            return fail(why,
                        "--%s: %s is beyond loopback, where anyone could read and write everything;"
                        " add --jwt-secret-file, listen on 127.0.0.1 or [::1], or add --insecure",
                        row->option, list->at[i]);
        }
    }
    return true;
}

static void own_pair_paths(const struct options *options, char cert[PATH_MAX], char key[PATH_MAX])
{
    snprintf(cert, PATH_MAX, "%s/tls-cert.pem", options->data);
    snprintf(key, PATH_MAX, "%s/tls-key.pem", options->data);
}

/* [main] Reads the certificates that the options name and has new connections use them. False with
 * the reason in why, and the old ones in use. A certificate outside its time takes the place of
 * none that is good: it is taken only where nothing better is, at the start above all, and the log
 * says so. */
static bool server_read_certificates(struct server *server, struct why why)
{
    const struct options *options = &server->options;
    struct option_list certs = options->tls_cert, keys = options->tls_key;
    char cert[PATH_MAX], key[PATH_MAX], *own_cert = cert, *own_key = key;
    if (!certs.count) { /* --tls-self-signed */
        own_pair_paths(options, cert, key);
        certs = (struct option_list){&own_cert, 1};
        keys = (struct option_list){&own_key, 1};
    }
    struct tls_config *config =
        tls_config_make(&server->tls, certs.at, certs.count, keys.at, keys.count, why);
    if (!config) return false;
    const struct tls_pair *untimely = NULL, *old = NULL;
    if (tls_config_untimely(config, &untimely)) {
        tls_pair_untimely_text(untimely, why);
        /* Only main writes tls.config, so it may read it without the lock. */
        if (server->tls.config && !tls_config_untimely(server->tls.config, &old)) {
            tls_config_drop(config);
            return false;
        }
        log_line(&server->log, LOG_ERROR, "%s; it is used all the same", why.text);
    }
    tls_config_use(&server->tls, config);
    return true;
}

/* [main; secrets_lock; session_lock] Reads the keys of tokens and the admin's
 * password and has them used from now on; wait as in secret_read. All or nothing: false with the
 * reason in why, and the old ones in use. A request that has the old ones goes on with them: they
 * are counted, and the last to use them frees them. With a new password all sessions of the admin
 * end, as whoever changed it may have been robbed of the old one; the hub is told, which closes
 * their streams. */
static bool server_read_secrets(struct server *server, bool wait, struct why why)
{
    const struct option_list *secret = &server->options.jwt_secret_file;
    const struct option_list *public = &server->options.jwt_public_key_file;
    struct secrets *secrets = mem_new(sizeof *secrets), *unused = secrets;
    secrets->refs = 1;
    bool good = true, changed = false;
    for (size_t i = 0; good && i < secret->count; i++)
        good = token_keys_add_secret(&secrets->keys, secret->at[i], wait, why);
    for (size_t i = 0; good && i < public->count; i++)
        good = token_keys_add_public(&secrets->keys, public->at[i], wait, why);
    if (good && *server->options.admin_password_file)
        good = password_load(server->options.admin_password_file, wait, &secrets->password, why);
    if (good) {
        lock_take(&server->secrets_lock, RANK_SECRETS);
        unused = server->secrets;
        changed = !unused || memcmp(&unused->password, &secrets->password, sizeof unused->password);
        server->secrets = secrets;
        lock_give(&server->secrets_lock, RANK_SECRETS);
    }
    if (changed) { /* what the old password opened ends with it */
        lock_take(&server->session_lock, RANK_SESSION);
        session_keys_free(&server->sessions);
        session_keys_init(&server->sessions);
        lock_give(&server->session_lock, RANK_SESSION);
        if (server->hub.running) sessions_ended(server);
    }
    secrets_drop(unused);
    return good;
}

/* [main] Takes the ranges of --trusted-proxy out of the options, which have them as text. */
static void server_read_ranges(struct server *server)
{
    const struct option_list *list = &server->options.trusted_proxy;
    server->trusted = mem_new((list->count + 1) * sizeof *server->trusted);
    for (; server->trusted_count < list->count; server->trusted_count++)
        if (!range_parse(list->at[server->trusted_count], &server->trusted[server->trusted_count]))
            fatal("an option was not checked");
}

/* [main] True if the TLS options fit together and their files are good; false with the reason in
 * why. The certificates are in use then. */
static bool server_check_tls(struct server *server, struct why why)
{
    const struct options *options = &server->options;
    const struct option_list *certs = &options->tls_cert, *keys = &options->tls_key;
    const char *problem = NULL;
    if (options->redirect_listen.count && !options->tls_listen.count)
        problem = "--redirect-listen: there is no --tls-listen to send clients to; add one";
    else if (keys->count && keys->count != certs->count)
        problem = "--tls-key: give one for each --tls-cert, in the same order, or none at all";
    else if (options->tls_listen.count && !certs->count && !options->tls_self_signed)
        problem = "--tls-listen: needs --tls-cert and --tls-key, or --tls-self-signed";
    else if (certs->count && options->tls_self_signed)
        problem = "--tls-self-signed: there is a --tls-cert already; give one of the two";
    /* Without certificates there is nothing to read yet: --tls-self-signed makes one later. */
    if (problem) fail(why, "%s", problem);
    return !problem && (!certs->count || server_read_certificates(server, why));
}

/* [main] Makes the certificate of --tls-self-signed, for the addresses that are bound: it comes
 * behind server_listen, for port 0 and names, and behind the store, whose directory it goes to. */
static bool server_sign_itself(struct server *server, struct why why)
{
    const struct options *options = &server->options;
    char cert[PATH_MAX], key[PATH_MAX];
    if (!options->tls_self_signed || !options->tls_listen.count) return true;
    struct sockaddr_storage *addresses =
        mem_new((server->listen_socket_count + 2) * sizeof *addresses);
    socklen_t len;
    size_t count = 2;
    address_parse("127.0.0.1:0", &addresses[0], &len);
    address_parse("[::1]:0", &addresses[1], &len);
    for (size_t i = 0; i < server->listen_socket_count; i++)
        if (server->listen_sockets[i].kind == LISTEN_TLS)
            addresses[count++] = server->listen_sockets[i].address;
    own_pair_paths(options, cert, key);
    bool good =
        tls_self_make(cert, key, addresses, count, why) && server_read_certificates(server, why);
    free(addresses);
    return good;
}

/* [main] Opens the listening sockets; false with the reason in why. What was opened is
 * server_stop's to close. */
static bool server_listen(struct server *server, struct why why)
{
    size_t count = 0;
    for (const struct listen_row *row = LISTENS; row < LISTENS + LISTEN_COUNT; row++)
        count += listen_list(&server->options, row)->count;
    server->listen_sockets = mem_new(count * sizeof *server->listen_sockets);
    for (const struct listen_row *row = LISTENS; row < LISTENS + LISTEN_COUNT; row++) {
        const struct option_list *list = listen_list(&server->options, row);
        for (size_t i = 0; i < list->count; i++) {
            struct listen_socket *listening =
                &server->listen_sockets[server->listen_socket_count++];
            listening->kind = row->kind;
            if (listen_socket_open(listening, list->at[i])) continue;
            return fail(why, "--%s: cannot listen on %s: %s; choose another address", row->option,
                        list->at[i], strerror(errno));
        }
    }
    return true;
}

/* [main] What the store knows of the server before this one. One that stopped in order said when.
 * One that died may have lived until it would have given its next sign; nobody who was online then
 * is called offline for that time. */
static struct evidence server_evidence(const struct server *server)
{
    const struct options *options = &server->options;
    const struct store *st = server->store;
    return (struct evidence){
        .alive = st->was_alive + (st->was_clean ? 0 : server_sign_ms(options)),
        .silence =
            options->ping_interval + options->pong_timeout + SEEN_FLUSH_MS + options->sync_interval,
    };
}

/* Visitor of store_each_open: a user who was online when the server last ran. */
static bool server_restore_user(void *context, struct span id, const struct user_record *record)
{
    struct server *server = context;
    lock_take(&server->table_lock, RANK_TABLE);
    presence_restore(&server->presence, server->started, id, record->status, record->online_since,
                     record->last_seen, server_evidence(server));
    lock_give(&server->table_lock, RANK_TABLE);
    return true;
}

/* Visitor of store_each_manual: a user who set something by hand. */
static void server_restore_manual(void *context, struct span id, const struct user_record *record,
                                  const struct manual_record *manual)
{
    struct server *server = context;
    lock_take(&server->table_lock, RANK_TABLE);
    presence_restore_manual(&server->presence, server->started, id, record, manual);
    lock_give(&server->table_lock, RANK_TABLE);
}

/* [main] Fills the table from the store: a second or two for a million users. Meanwhile the
 * listener takes connections, workers answer probes, and all other requests wait: nobody may be
 * shown, or come, before it is known whether they are online and whether they are invisible. The
 * hub does not run yet. Users who were online have the time that this took on top. False if the
 * store cannot be read; then the requests that wait are never served. */
static bool server_restore(struct server *server)
{
    if (!store_each_open(server->store, server_restore_user, server) ||
        !store_each_manual(server->store, server_restore_manual, server))
        return false;
    struct instant now = server_now(server);
    int64_t took = now.mono - server->started.mono;
    if (took >= PAUSE_MS) presence_resume(&server->presence, now, took);
    atomic_store(&server->restored, true);
    loop_wake(&server->listener.loop);
    return true;
}

/* How many io threads are worth having: the hub has a processor of its own. */
static size_t server_io_threads(void)
{
    size_t others = processor_count() - 1;
    return others > IO_THREADS_MAX ? IO_THREADS_MAX : others;
}

/* [main] Logs on which addresses the server listens, with the port that the system chose for 0: the
 * only lines of a start at the default log level, but for a warning when the rules of presence do
 * not fit together. Tests and supervisors wait for them. */
static void server_announce(struct server *server)
{
    const struct options *options = &server->options;
    if (options->threshold < options->ping_interval + options->pong_timeout)
        log_line(&server->log, LOG_WARN,
                 "--online-threshold is below --ping-interval + --pong-timeout: a dead connection"
                 " keeps its user online for longer than the threshold");
    for (size_t i = 0; i < server->listen_socket_count; i++) {
        char text[64];
        address_text(&server->listen_sockets[i].address, text, sizeof text);
        log_line(&server->log, LOG_INFO, "listening on %s (%s)", text,
                 LISTENS[server->listen_sockets[i].kind].what);
    }
}

/* [main] Starts the thread of the webhook, if there is one; false with errno set. */
static bool server_start_webhook(struct server *server)
{
    struct webhook *hook = &server->webhook;
    if (!webhook_wanted(hook)) return true;
    hook->log = &server->log;
    hook->counters = &server->counters;
    hook->store = server->store;
    hook->hub = &server->hub.loop;
    hook->running = hook->wake >= 0 && thread_start(&hook->thread, webhook_run, hook);
    return hook->running;
}

/* Writes the reason for a thread that could not be had. Returns false. */
static bool server_lacks_thread(struct why why, const char *what)
{
    return fail(why,
                "cannot start the %s: %s; allow it more threads (ulimit -u) or memory"
                " (ulimit -v)",
                what, strerror(errno));
}

/* [main] Opens store, sockets and threads, and fills the presence table. False with the reason in
 * why; what was opened is left to server_stop, which knows what there is. The order is by what each
 * step needs or takes away:
 *
 * 1. With --user the sockets first, as only root can bind ports below 1024; then root is given up,
 *    so that the files of the store belong to the user. Without --user the store comes first: its
 *    lock is what keeps a second server of the same directory from taking the addresses.
 * 2. The certificate of our own, which needs the bound addresses and a place in the store's
 *    directory.
 * 3. The sandbox: all files that are named are open or allowed by then, and no thread runs yet
 *    that would be outside of it.
 * 4. The writer, and the descriptors of hub and listener, so that nobody can submit to a loop that
 *    is not there. Then those who work for the two: webhook, reader, io threads, handshake
 *    workers.
 * 5. CivetWeb's workers and, with seam_run, the listener. From now on probes are answered; all
 *    other requests wait for step 6. Clients that came earlier wait in the kernel's queue of the
 *    socket.
 * 6. The presence table, from the store. It may take a second, in which a load balancer is to see
 *    that the server lives; hence behind step 5.
 * 7. The hub, the only one to change that table, when it is whole. */
static bool server_start(struct server *server, struct why why)
{
    const struct options *options = &server->options;
    struct store_options store = {.dir = options->data,
                                  .map_size = (size_t)options->map_size,
                                  .history_ms = options->history,
                                  .outbox_max = (size_t)options->webhook_outbox};
    size_t tenth = store.outbox_max / 10, batch = (size_t)options->webhook_batch;
    store.outbox_batch_max = batch < tenth ? batch : tenth; /* batches are given up whole */
    /* Numbers of connections and positions of events begin anew in each process, at a random place:
     * what a client remembers of the last one is never taken for one of this. */
    uint32_t boot;
    random_bytes(&boot, sizeof boot);
    server->last_number = (uint64_t)boot << 32;
    server->epoch = boot;
    server->started = server_now(server);
    bool drops = *options->user; /* only root can bind low ports, only the user owns the store */
    if (drops && !server_listen(server, why)) return false;
    if (!server_become_user(options, why)) return false;
    server->store = store_open(&store, &server->log, &server->counters, why);
    if (!server->store || (!drops && !server_listen(server, why))) return false;
    if (!server_sign_itself(server, why)) return false;
    server_enter_sandbox(server);
    server->webhook.wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    presence_init(&server->presence, options->grace, options->threshold, server->started);
    /* From here on there are threads: the sandbox and the user are for all of them. */
    if (!store_start_writer(server->store, hub_batch_written, server))
        return server_lacks_thread(why, "writer of the store");
    if (!hub_init(server, server->started) || !listener_init(server, server->started))
        return fail(why, "cannot start: %s", strerror(errno));
    if (!server_start_webhook(server)) return server_lacks_thread(why, "thread of --webhook-url");
    if (!job_queue_start(&server->hub.reader, "reader", 0, 1))
        return server_lacks_thread(why, "reader of the store");
    if (!job_queue_start(&server->hub.broadcast.queue, "io", 0, server_io_threads()))
        return server_lacks_thread(why, "hub's io threads");
    size_t handshakers = options->tls_listen.count ? (size_t)options->tls_threads : 0;
    if (!job_queue_start(&server->listener.handshakes, "handshake", HANDSHAKE_NICE, handshakers))
        return server_lacks_thread(why, "threads of --tls-threads");
    /* What the listener keeps under way at most: seam_submit never waits for room. */
    int queue = 0;
    for (int i = 0; i < LANE_COUNT; i++) queue += server->listener.lanes[i].most;
    server->seam = seam_start(&SEAM_OPS, server, server_workers(options), queue);
    if (!server->seam) return server_lacks_thread(why, "threads of --workers");
    seam_run(server->seam);
    if (!server_restore(server))
        return fail(why, "--data: cannot read who was online in %s; run --check-store",
                    options->data);
    server->hub.running = thread_start(&server->hub.thread, hub_run, server);
    return server->hub.running || server_lacks_thread(why, "hub");
}

/* [signal handler] A second signal: no more patience. What is in the store stays; the last
 * --sync-interval may be lost. */
static void stop_now(int signal)
{
    (void)signal;
    last_words("presence: stopped at once by a second signal; what was not written yet is lost\n");
    _exit(1);
}

/* [main] A server's signals from its first moment: what asks for nothing that it knows does not end
 * it, and SIGHUP waits until it can be obeyed. A write that fails, to a pipe or a full file, is an
 * error where it is made, and no signal. */
static void server_ignore_signals(void)
{
    static const int ignored[] = {SIGPIPE, SIGXFSZ, SIGUSR1, SIGUSR2,   SIGALRM,
                                  SIGIO,   SIGPROF, SIGPWR,  SIGSTKFLT, SIGVTALRM};
    sigset_t later;
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) signal(ignored[i], SIG_IGN);
    for (int n = SIGRTMIN; n <= SIGRTMAX; n++) signal(n, SIG_IGN);
    sigemptyset(&later);
    sigaddset(&later, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &later, NULL);
}

/* A number that differs when a file was written or replaced: times, inode, size. 0: there is none.
 */
static uint64_t file_stamp(const char *path)
{
    struct stat info;
    if (stat(path, &info)) return 0;
    uint64_t n = (uint64_t)info.st_mtim.tv_sec * 1000000000u + (uint64_t)info.st_mtim.tv_nsec;
    /* Whoever copies a file with its times (cp -p, rsync -a) leaves its ctime new. */
    n = n * 31 + (uint64_t)info.st_ctim.tv_sec * 1000000000u + (uint64_t)info.st_ctim.tv_nsec;
    return (n ^ (uint64_t)info.st_ino << 20) + (uint64_t)info.st_size;
}

/* A number that differs when one of the files of certificates did. */
static uint64_t server_stamp(const struct options *options)
{
    uint64_t n = 0;
    for (size_t i = 0; i < options->tls_cert.count; i++)
        n = n * 31 + file_stamp(options->tls_cert.at[i]);
    for (size_t i = 0; i < options->tls_key.count; i++)
        n = n * 31 + file_stamp(options->tls_key.at[i]);
    return n;
}

/* [main] Reads certificates again and, after SIGHUP, keys and secrets. Each by itself, and bad ones
 * change nothing: the log says which stay in use. */
static void server_reload(struct server *server, bool keys)
{
    char err[WHY_MAX];
    if (keys && !server_read_secrets(server, false, WHY(err)))
        log_line(&server->log, LOG_ERROR, "%s; the old keys stay in use", err);
    if (keys && webhook_wanted(&server->webhook) &&
        !webhook_read_secret(&server->webhook, false, WHY(err)))
        log_line(&server->log, LOG_ERROR, "%s; the old secret stays in use", err);
    if (!server->options.tls_listen.count) return;
    if (server_read_certificates(server, WHY(err))) {
        count_one(&server->counters.tls_reloads);
        log_line(&server->log, LOG_INFO, "certificates read again");
    } else {
        log_line(&server->log, LOG_ERROR, "%s; the old certificates stay in use", err);
    }
}

/* [main] Waits for SIGTERM or SIGINT, which every thread has blocked; the next one ends the process
 * at once. Meanwhile SIGHUP, or a change of their files, has the certificates read again. A change
 * is obeyed when it looks the same at two looks in a row, so that files which are being written are
 * not read half. */
static void server_wait(struct server *server, const sigset_t *signals)
{
    uint64_t used = server_stamp(&server->options), seen = used;
    const struct timespec wait = {.tv_sec = server->options.tls_cert.count ? FILES_LOOK_S : 3600};
    for (;;) {
        int signal = sigtimedwait(signals, NULL, &wait);
        if (signal == SIGTERM || signal == SIGINT) break;
        uint64_t stamp = server_stamp(&server->options);
        bool settled = stamp != used && stamp == seen;
        seen = stamp;
        if (signal != SIGHUP && !settled) continue;
        used = stamp;
        server_reload(server, signal == SIGHUP);
    }
    /* From here on a second signal is not waited for: the operator has seen the first and is not
     * content. */
    struct sigaction action = {.sa_handler = stop_now};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    pthread_sigmask(SIG_UNBLOCK, signals, NULL);
}

/* [main] Waits until the hub has said goodbye to all its sockets, or they had their time
 * (CLOSE_WAIT_MS). */
static void server_wait_for_hub(struct server *server)
{
    struct pollfd event = {.fd = server->hub.stop_event, .events = POLLIN};
    while (poll(&event, 1, -1) < 0) continue; /* only EINTR */
}

/* [main] Stops in order, and takes down what a failed start left: each part is stopped only if it
 * was started. False when the last batch could not be written. The order keeps two promises:
 * whoever got an answer has its change in the store, and nothing is freed that a thread may still
 * use.
 *
 * 1. `stopping` is set: requests are answered with 503, and /readyz says so to a load balancer.
 *    The webhook begins no more deliveries, and has its time while the others end.
 * 2. The listener closes its sockets, so that nobody new comes; then the hub tells every client
 *    when to come back (1012), spread over some time, and waits for their closes. Workers still
 *    run: a request that waits for the hub gets its answer.
 * 3. The listener ends, and with it CivetWeb's workers: after this nothing is handed to the hub.
 * 4. Handshake workers, which work for the listener, and the reader, which works for the hub and
 *    tells it of each read; the hub runs still. The webhook before the last batch, which has how
 *    far it came.
 * 5. The hub gives its last batch to the writer and ends; then the writer, when that is committed.
 * 6. What they used: table, store, sockets.
 *
 * One deadline holds for all of it: what the clients leave of the five seconds is the disk's. */
static bool server_stop(struct server *server)
{
    struct job shut = {.run = listener_shut}, quit = {.run = listener_quit};
    struct job stop = {.run = hub_stop}, end = {.run = hub_quit};
    bool written = true;
    server->stop_by = clock_mono_ms() + STOP_MS;
    atomic_store(&server->stopping, true);
    webhook_stop(&server->webhook);
    if (server->seam) {
        loop_submit(&server->listener.loop, &shut);
        if (server->hub.running) {
            loop_submit(&server->hub.loop, &stop);
            server_wait_for_hub(server);
        }
        loop_submit(&server->listener.loop, &quit);
        seam_stop(server->seam);
    }
    job_queue_stop(&server->listener.handshakes);
    job_queue_stop(&server->hub.reader); /* the hub, which is told of each read, still runs */
    webhook_wait(&server->webhook);      /* before the last batch, which has how far it came */
    if (server->hub.running) {
        loop_submit(&server->hub.loop, &end);
        pthread_join(server->hub.thread, NULL);
    }
    if (server->store) {
        written = store_stop_writer(server->store, server->stop_by);
        /* A writer that the disk holds still uses its batch, the store and the hub's loop. All of
         * it stays where it is until the process ends, which is at once. */
        if (server->store->running) return written;
        if (server->hub.loop.epoll > 0) hub_free(server);
        store_close(server->store);
        presence_free(&server->presence);
    }
    if (server->listener.loop.epoll > 0) loop_close(&server->listener.loop);
    for (size_t i = 0; i < server->listen_socket_count; i++)
        if (server->listen_sockets[i].fd >= 0) close(server->listen_sockets[i].fd);
    free(server->listen_sockets);
    return written;
}

/* [main] Serves until a signal; returns the exit status. The signals are blocked before the first
 * thread is started, as each inherits that: only server_wait takes them. */
static int server_serve(struct server *server)
{
    char err[WHY_MAX] = "";
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* inherited by every thread */
    bool started = server_start(server, WHY(err));
    if (started) {
        server_announce(server);
        server_wait(server, &signals);
    }
    bool written = server_stop(server);
    if (!started) return complain(1, "%s", err);
    if (written) return 0;
    return complain(1, "the last changes could not be written to %s", server->options.data);
}

/* ==== 54. Main ================================================================================
 * Commands that do one thing and end, and main, which reads the options and chooses. A command
 * writes what it was asked for to stdout, and one line to stderr if it fails. */

static void print_version(void)
{
    printf("presence " PRESENCE_VERSION "\nCivetWeb %s, LMDB %d.%d.%d, Mbed TLS %s\n",
           seam_version(), MDB_VERSION_MAJOR, MDB_VERSION_MINOR, MDB_VERSION_PATCH,
           MBEDTLS_VERSION_STRING);
}

/* Runs --restore from a file or, for "-", stdin; returns the exit status. */
static int command_restore(const char *dir, const char *path)
{
    FILE *in = strcmp(path, "-") ? fopen(path, "re") : stdin;
    if (!in)
        return complain(2, "--restore: cannot read %s: %s; name a file that --dump wrote", path,
                        strerror(errno));
    int status = store_command_restore(dir, in, path, stderr);
    if (in != stdin) fclose(in);
    return status;
}

/* [main] Runs --mint-token; returns the exit status. All secrets are read though only the first
 * signs, so that a bad file is noticed here and not by the server. */
static int command_mint(const struct options *options, const char *user)
{
    struct token_keys keys = {0};
    struct buffer token = {0};
    char err[WHY_MAX];
    bool good = true;
    for (size_t i = 0; good && i < options->jwt_secret_file.count; i++)
        good = token_keys_add_secret(&keys, options->jwt_secret_file.at[i], true, WHY(err));
    good = good && token_mint(&keys, span_of(user), clock_wall_ms(), options->token_lifetime,
                              options->token_watch, options->token_admin, options->jwt_issuer,
                              options->jwt_audience, &token, WHY(err));
    if (good) printf("%.*s\n", (int)token.len, token.at);
    token_keys_free(&keys);
    buffer_free(&token);
    return good ? 0 : complain(2, "%s", err);
}

/* The terminal as it was before --hash-password hid what is typed. Global, as the handler of a
 * signal has no other way to it. */
static struct termios terminal_before;

/* [signal handler] What ends --hash-password early: the terminal shows again what is typed, and the
 * signal does what it would have. */
static void terminal_restore(int number)
{
    tcsetattr(STDIN_FILENO, TCSANOW, &terminal_before);
    raise(number); /* SA_RESETHAND: to its usual end, when this returns */
}

/* Has the terminal not show what is typed, until terminal_restore or the caller undoes it. The
 * handlers are set before the terminal is changed, so that no signal finds it hidden for ever. */
static void terminal_hide(void)
{
    struct sigaction action = {.sa_handler = terminal_restore, .sa_flags = SA_RESETHAND};
    struct termios hidden = terminal_before;
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGQUIT, &action, NULL);
    hidden.c_lflag &= ~(tcflag_t)ECHO;
    tcsetattr(STDIN_FILENO, TCSAFLUSH, &hidden);
}

/* [main] Runs --hash-password: one line of stdin, which a terminal does not show; returns the exit
 * status. The password is cleared, so that no core and no swap has it for longer than needed. */
static int command_hash_password(void)
{
    char line[PASSWORD_MAX + 2] = "";
    bool typed = !tcgetattr(STDIN_FILENO, &terminal_before);
    if (typed) {
        fputs("Password: ", stderr);
        terminal_hide();
    }
    /* getchar and no fgets: a NUL among the bytes must be seen. */
    size_t len = 0;
    for (int c; len < sizeof line && (c = getchar()) != EOF && c != '\n';) line[len++] = (char)c;
    if (typed) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &terminal_before);
        fputc('\n', stderr);
    }
    if (len && line[len - 1] == '\r') len--;
    if (!len || len > PASSWORD_MAX || memchr(line, 0, len))
        return complain(
            2,
            "--hash-password: write a password of 1 to %d bytes, without NUL, and a line"
            " end on stdin",
            PASSWORD_MAX);
    struct buffer text = {0};
    password_hash(line, len, &text);
    printf("%.*s\n", (int)text.len, text.at);
    buffer_free(&text);
    mbedtls_platform_zeroize(line, sizeof line);
    return 0;
}

/* [main] Does what the command line asks for; returns the exit status. Up to the switch are
 * commands that need nothing but options and the store; behind it what a server needs is read and
 * checked, for --check-config, too, which so finds all that would keep a server from starting but a
 * taken address. Mbed TLS's memory is set up before its first call. */
static int run_command(struct server *server, const struct command_line *line)
{
    char err[WHY_MAX];
    const char *dir = server->options.data;
    switch (line->command) {
    case COMMAND_PRINT_CONFIG: options_print(&server->options, stdout); return 0;
    case COMMAND_BACKUP: return store_command_backup(dir, line->file, stderr);
    case COMMAND_DUMP: return store_command_dump(dir, stdout, stderr);
    case COMMAND_RESTORE: return command_restore(dir, line->file);
    case COMMAND_MINT_TOKEN: return command_mint(&server->options, line->file);
    case COMMAND_HASH_PASSWORD: return command_hash_password();
    case COMMAND_CHECK_STORE: return store_command_check(dir, stdout, stderr);
    case COMMAND_LICENSES: return fwrite(LICENSES, 1, sizeof LICENSES - 1, stdout) ? 0 : 1;
    case COMMAND_VERSION: print_version(); return 0;
    case COMMAND_HELP: options_print_help(stdout); return 0;
    default: break;
    }
    /* Before anything slow: SIGHUP may come from the first moment on, and must not end the process.
     */
    if (line->command != COMMAND_CHECK_CONFIG) server_ignore_signals();
    seam_mem_use();
    bool good = psa_crypto_init() == PSA_SUCCESS;
    good = good &&
           tls_shared_init(&server->tls, (size_t)server->options.tls_threads, &server->counters);
    if (!good) return complain(1, "Mbed TLS cannot start");
    server_read_ranges(server);
    address_table_init(&server->addresses);
    good = server_set_limits(server, WHY(err)) && server_check_addresses(server, WHY(err)) &&
           server_read_secrets(server, true, WHY(err)) &&
           server_check_user(&server->options, WHY(err)) && server_check_tls(server, WHY(err)) &&
           webhook_init(&server->webhook, &server->options, WHY(err));
    int status = !good ? complain(2, "%s", err) : 0;
    if (good) options_warn(&server->options, &server->log);
    if (good && line->command == COMMAND_CHECK_CONFIG) puts("configuration ok");
    else if (good) status = server_serve(server);
    if (server->webhook.options) webhook_free(&server->webhook);
    secrets_drop(server->secrets);
    session_keys_free(&server->sessions);
    address_table_free(&server->addresses);
    free(server->trusted);
    tls_shared_free(&server->tls);
    mbedtls_psa_crypto_free();
    return status;
}

/* [main] Takes the descriptors 0 to 2 where whoever started us has closed them: else a file of the
 * store would get one of them, and what is meant for stdout or stderr would be written into it. To
 * read stdin or to write stdout fails then, so that --dump does not say that it has written what
 * nobody has got; what is said on stderr is lost, as was asked for. The first thing in main. */
static int main_take_descriptors(void)
{
    for (int fd = 0; fd <= STDERR_FILENO; fd++) {
        static const int modes[] = {O_WRONLY, O_RDONLY, O_RDWR};
        if (fcntl(fd, F_GETFD) >= 0) continue;
        if (open("/dev/null", modes[fd]) == fd) continue; /* the lowest that is free */
        return complain(1,
                        "descriptor %d is closed and /dev/null cannot be opened: %s; start it with"
                        " 0, 1 and 2 open",
                        fd, strerror(errno));
    }
    return 0;
}

/* [main] Reads the options, then runs. The locks are made before anything can use them; `server` is
 * static, as it is zero then and too large for a stack. What stdout did not take is an error, too:
 * a --dump to a full disk must not end with 0. */
int main(int argc, char **argv)
{
    static struct server server;
    struct command_line line;
    char err[WHY_MAX];
    if (main_take_descriptors()) return 1;
    umask(077); /* what is made is the owner's alone, and not less than that either */
    options_init(&server.options);
    pthread_mutex_init(&server.table_lock, NULL);
    pthread_mutex_init(&server.secrets_lock, NULL);
    pthread_mutex_init(&server.session_lock, NULL);
    server.logouts = 1;
    pthread_mutex_init(&server.login_lock, NULL);
    pthread_cond_init(&server.login_done, NULL);
    pthread_mutex_init(&server.refusal_lock, NULL);
    pthread_mutex_init(&server.address_lock, NULL);
    pthread_mutex_init(&server.log.lock, NULL);
    server.log.counters = &server.counters;
    bool good = options_read(&server.options, argc, argv, &line, WHY(err));
    server.log.level = (enum log_level)server.options.log_level;
    server.log.json = server.options.log_format != 0;
    int status = good ? run_command(&server, &line) : complain(2, "%s", err);
    options_free(&server.options);
    if ((fflush(stdout) || ferror(stdout)) && !status)
        status = complain(1, "cannot write the output: %s", strerror(errno));
    return status;
}
