/* HTTP messages: where a request ends, chunks, cookies, queries, errors. */
#include "unit.h"

/* Where requests end, and what is refused before CivetWeb sees it. */
static void http_frames_are_read(void **unused)
{
    (void)unused;
    static const struct {
        const char *text;
        size_t head, body;
        enum error error;
    } rows[] = {
        {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 27, 0, ERROR_NONE},
        {"GET / HTTP/1.1\r\nHost: a\r\n\r", 0, 0, ERROR_NONE},
        {"GET / HTTP/1.1\nHost: a\n\n", 24, 0, ERROR_NONE},
        {"GET / HTTP/1.1\nHost: a\n\r\n", 0, 0, ERROR_NONE}, /* CivetWeb does not take it */
        {"POST / HTTP/1.1\r\nContent-Length: 12\r\n\r\n", 39, 12, ERROR_NONE},
        {"POST / HTTP/1.1\r\ncontent-length:12\r\n\r\n", 38, 12, ERROR_NONE},
        {"POST / HTTP/1.1\r\nContent-Length: +12\r\n\r\n", 40, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 39, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length:\r\n\r\n", 36, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: 1 1\r\n\r\n", 40, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 57, 1,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", 41, 0, ERROR_BODY_TOO_LARGE},
        {"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", 57, 0,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 47, 0, ERROR_NONE},
        {"POST / HTTP/1.1\r\ntransfer-encoding:\tCHUNKED \r\n\r\n", 48, 0, ERROR_NONE},
        {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 47, 0, ERROR_LENGTH_REQUIRED},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 53, 0,
         ERROR_NOT_IMPLEMENTED},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: ,chunked\r\n\r\n", 48, 0, ERROR_NOT_IMPLEMENTED},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 53, 0,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked,\r\n\r\n", 48, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked;a=b\r\n\r\n", 51, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n", 48, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", 48, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", 39, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding : chunked\r\n\r\n", 48, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding:\r\n chunked\r\n\r\n", 49, 0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 75,
         0, ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n", 66, 0,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", 66, 4,
         ERROR_INVALID_REQUEST},
        {"POST / HTTP/1.1\r\nExpect: foo\r\n\r\n", 32, 0, ERROR_EXPECTATION_FAILED},
        {"GET / HTTP/1.1\r\nA: b\r\n c: d\r\n\r\n", 31, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA: b\x01\r\n\r\n", 25, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA: b\x7f\r\n\r\n", 25, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA:\tb\r\n\r\n", 24, 0, ERROR_NONE}, /* W03 */
        {"GET / HTTP/1.1\rA: b\r\n\r\n", 23, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA: b\rC: d\r\n\r\n", 29, 0, ERROR_INVALID_REQUEST},
        {"GET / HTTP/1.1\r\nA: b\r\r\n\r\n", 25, 0, ERROR_INVALID_REQUEST},
        {"\n\n", 2, 0, ERROR_NONE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t len = strlen(rows[i].text);
        char *text = malloc(len);
        for (size_t scanned = 0; scanned <= len; scanned += scanned ? 1 : len > 2 ? 2 : 3) {
            if (http_head_end(rows[i].text, scanned, 0))
                break;                       /* only what was there without an end */
            memcpy(text, rows[i].text, len); /* it is changed where it is read */
            struct http_frame frame = http_frame_read(text, len, scanned, 200, 1000);
            if (frame.head != rows[i].head || frame.body != rows[i].body ||
                frame.error != rows[i].error)
                fail_msg("row %zu, scanned %zu: %zu %zu %s", i, scanned, frame.head, frame.body,
                         ERRORS[frame.error].code);
        }
        assert_null(memchr(text, '\t', len) && rows[i].head ? text : NULL);
        free(text);
    }
}

enum { CHUNKS_BODY = 40, CHUNKS_BESIDE = 30 };

/* What a body in chunks is read as. */
struct chunks_read {
    enum error error;
    bool done;
    char text[512]; /* the body and, behind a |, what was sent after it */
};

/* Reads a body in chunks that comes in pieces of so many bytes, the first of `cut`. */
static struct chunks_read read_chunks(struct span text, size_t cut, size_t piece)
{
    struct chunks_read result = {0};
    struct http_chunks chunks = {0};
    char *at = malloc(text.len + 1);
    size_t len = 0, given = 0;
    for (size_t n = cut; given < text.len && chunks.state != CHUNK_DONE && !result.error;
         n = piece) {
        if (n > text.len - given) n = text.len - given;
        memcpy(at + len, text.at + given, n);
        given += n;
        len += n;
        result.error = http_chunks_read(&chunks, at, &len, CHUNKS_BODY, CHUNKS_BESIDE);
        if (!result.error && chunks.state != CHUNK_DONE) assert_int_equal(len, chunks.made);
    }
    result.done = chunks.state == CHUNK_DONE && !result.error;
    assert_true(chunks.made <= len && len <= text.len);
    if (result.done)
        snprintf(result.text, sizeof result.text, "%.*s|%.*s%.*s", (int)chunks.made, at,
                 (int)(len - chunks.made), at + chunks.made, (int)(text.len - given),
                 text.at + given);
    free(at);
    return result;
}

/* Bodies in chunks: what is read, what is refused (RFC 9112 section 7.1), and that it is the same
 * wherever the bytes are cut. */
static void http_chunks_are_read(void **unused)
{
    (void)unused;
    static const struct {
        const char *text, *body; /* NULL: not done yet */
        enum error error;
    } rows[] = {
        {"0\r\n\r\n", "|", ERROR_NONE},
        {"2\r\n{}\r\n0\r\n\r\n", "{}|", ERROR_NONE},
        {"2\r\n{}\r\n0\r\n\r\nGET /", "{}|GET /", ERROR_NONE},
        {"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n0\r\n\r\n", "{}|0\r\n\r\n", ERROR_NONE},
        {"a\r\n0123456789\r\n0\r\n\r\n", "0123456789|", ERROR_NONE},
        {"A\r\n0123456789\r\n00000\r\n\r\n", "0123456789|", ERROR_NONE},
        {"0000000000000002\r\n{}\r\n0000000000000000\r\n\r\n", "{}|", ERROR_NONE},
        {"2\r\n\r\n\r\n0\r\n\r\n", "\r\n|", ERROR_NONE},
        {"2;a=b\r\n{}\r\n0;c;d=\"e f\"\r\n\r\n", "{}|", ERROR_NONE},
        {"2 \t;a\r\n{}\r\n0\r\n\r\n", "{}|", ERROR_NONE},
        {"2; a = b ;c\r\n{}\r\n0\r\n\r\n", "{}|", ERROR_NONE},
        {"2;a=\"b\\\"; \\\\\" ; c=\"\"\r\n{}\r\n0\r\n\r\n", "{}|", ERROR_NONE},
        {"2;\r\n{}\r\n0;\r\n\r\n", "{}|", ERROR_NONE},
        {"2\r\n{}\r\n0\r\nA: b\r\nC:\r\n\r\nx", "{}|x", ERROR_NONE},
        {"2\r\n{}\r\n0\r\nContent-Length: 9\r\n\r\nx", "{}|x", ERROR_NONE},
        {"28\r\n0123456789012345678901234567890123456789\r\n0\r\n\r\n",
         "0123456789012345678901234567890123456789|", ERROR_NONE},
        {"", NULL, ERROR_NONE},
        {"2\r\n{}\r\n0\r\n\r", NULL, ERROR_NONE},
        {"2\r\n{}\r\n0\r\nA: b\r\n", NULL, ERROR_NONE},
        {"2\r\n{}\r\n", NULL, ERROR_NONE},
        {"29\r\n", NULL, ERROR_BODY_TOO_LARGE},
        {"27\r\n012345678901234567890123456789012345678\r\n2\r\n", NULL, ERROR_BODY_TOO_LARGE},
        {"ffffffffffffffff\r\n", NULL, ERROR_BODY_TOO_LARGE},
        {"8000000000000002\r\n{}", NULL, ERROR_BODY_TOO_LARGE},
        {"10000000000000002\r\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"00000000000000002\r\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"\r\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {";a\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {" 2\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2 \r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"+2\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"-2\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"0x2\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2g\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2_0\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"2;a\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2;a\x01\r\n{}", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"b\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"b\\\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"b\"c\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\"b\x7f\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=b\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;\"a\"\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;;\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;=b\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a b\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a \r\n", NULL, ERROR_INVALID_REQUEST},
        {"3;a=b \r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r\n{}\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r\n{}0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"2\r\n{}}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"3\r\n{}\r\n0\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\n\n", NULL, ERROR_INVALID_REQUEST},
        {"0\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA : b\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\n b\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA: b\r\n c\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\n: b\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA: b\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0\r\nA: b\x7f\r\n\r\n", NULL, ERROR_INVALID_REQUEST},
        {"0;0123456789012345678901234567890\r\n\r\n", NULL, ERROR_HEAD_TOO_LARGE},
        {"0\r\nA: 012345678901234567890123456\r\n\r\n", NULL, ERROR_HEAD_TOO_LARGE},
        {"1;012345678901234567\r\n{\r\n1;012345678901234567\r\n", NULL, ERROR_HEAD_TOO_LARGE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct span text = {rows[i].text, strlen(rows[i].text)};
        for (size_t cut = 0; cut <= 2 * text.len; cut++) { /* two pieces, then bytes one by one */
            bool one_by_one = cut > text.len;
            struct chunks_read got = read_chunks(text, one_by_one ? cut - text.len : cut,
                                                 one_by_one ? 1 : text.len + 1);
            if (got.error != rows[i].error || got.done != !!rows[i].body ||
                strcmp(got.text, rows[i].body ? rows[i].body : ""))
                fail_msg("row %zu, cut %zu: %s %d '%s'", i, cut, ERRORS[got.error].code, got.done,
                         got.text);
        }
    }
}

/* Passes over blanks. */
static const char *chunk_blanks(const char *at, const char *end)
{
    while (at < end && (*at == ' ' || *at == '\t')) at++;
    return at;
}

/* Passes over a token, which has a character at least, or a quoted string; NULL for neither. */
static const char *chunk_word(const char *at, const char *end, bool quoted)
{
    const char *start = at;
    if (!quoted || at == end || *at != '"') {
        while (at < end && http_is_token(*at)) at++;
        return at > start ? at : NULL;
    }
    for (at++; at < end && (*at == '\t' || (*at >= ' ' && *at < 127)); at++) {
        if (*at == '"') return at + 1;
        if (*at == '\\' && ++at < end && *at != '\t' && (*at < ' ' || *at == 127)) return NULL;
    }
    return NULL;
}

/* Passes over the extensions of a chunk, as their grammar is; a `;` may end the line. */
static const char *chunk_extensions(const char *at, const char *end)
{
    for (;;) {
        const char *here = at;
        at = chunk_blanks(at, end);
        if (at == end || *at != ';') return at == here ? at : NULL;
        at = chunk_blanks(at + 1, end);
        if (at < end && *at == '\r') return at;
        if (!(at = chunk_word(at, end, false))) return NULL;
        const char *equals = chunk_blanks(at, end);
        if (equals == end || *equals != '=') continue;
        if (!(at = chunk_word(chunk_blanks(equals + 1, end), end, true))) return NULL;
    }
}

/* A second reader of chunks, written as the grammar is, of bytes that are all there; true when it
 * accepts them. Knows neither bounds nor pieces. */
static bool chunks_by_grammar(struct span in, struct buffer *body)
{
    const char *at = in.at, *end = in.at + in.len;
    for (;;) {
        const char *line = at;
        while (at < end && isxdigit((unsigned char)*at)) at++;
        if (at == line || at - line > 16) return false;
        size_t size = strtoull(line, NULL, 16);
        if (!(at = chunk_extensions(at, end))) return false;
        if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return false;
        at += 2;
        if (!size) break;
        if ((size_t)(end - at) < size || (size_t)(end - at) - size < 2) return false;
        buffer_add(body, at, size);
        at += size;
        if (at[0] != '\r' || at[1] != '\n') return false;
        at += 2;
    }
    while (end - at >= 2 && *at != '\r') {
        const char *name = at;
        while (at < end && http_is_token(*at)) at++;
        if (at == name || at == end || *at != ':') return false;
        while (at < end && (*at == '\t' || (*at >= ' ' && *at < 127) || *at == ':')) at++;
        if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return false;
        at += 2;
    }
    if (end - at < 2 || at[0] != '\r' || at[1] != '\n') return false;
    buffer_text(body, "|");
    buffer_add(body, at + 2, (size_t)(end - at) - 2);
    return true;
}

/* Random bodies made of the pieces of right and wrong ones are read as the grammar says, however
 * they are cut. */
static void http_chunks_agree_with_the_grammar(void **unused)
{
    (void)unused;
    static const char *const pieces[] = {"\r\n", "\r\n", "\r\n", "0", "1", "2", "a", "F", ";", "=",
                                         " ", "\t", "\r", "\n", "A: b", ":", "x", "1\r\nx\r\n",
                                         "2\r\nxy\r\n", "0\r\n", "0\r\n\r\n", "\"", "3;a=b\r\n",
                                         "1;a=\"", "\\", "\"\r\n", ";a"};
    uint64_t seed = 4711;
    int taken = 0;
    for (int round = 0; round < 20000; round++) {
        struct buffer text = {0}, body = {0};
        for (int n = 1 + round % 9; n; n--) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            buffer_text(&text, pieces[(seed >> 33) % (sizeof pieces / sizeof *pieces)]);
        }
        struct span in = {text.at, text.len};
        bool good = chunks_by_grammar(in, &body);
        buffer_add(&body, "", 1);
        for (size_t cut = 0; cut <= text.len; cut++) {
            struct chunks_read got = read_chunks(in, cut, text.len);
            if (got.error == ERROR_BODY_TOO_LARGE || got.error == ERROR_HEAD_TOO_LARGE) break;
            if (got.done != good || (good && strcmp(got.text, body.at)))
                fail_msg("'%.*s' cut at %zu: %d '%s', by the grammar %d '%s'", (int)in.len, in.at,
                         cut, got.done, got.text, good, good ? body.at : "");
        }
        taken += good;
        buffer_free(&text);
        buffer_free(&body);
    }
    assert_true(taken > 150);
}

/* A head larger than allowed is refused as soon as it is, ended or not. */
static void http_long_heads_are_refused(void **unused)
{
    (void)unused;
    char text[400];
    memset(text, 'a', sizeof text);
    assert_int_equal(http_frame_read(text, 200, 0, 200, 0).error, ERROR_NONE);
    assert_int_equal(http_frame_read(text, 201, 0, 200, 0).error, ERROR_HEAD_TOO_LARGE);
    memcpy(text + 300, "\r\n\r\n", 4);
    assert_int_equal(http_frame_read(text, 400, 0, 200, 0).error, ERROR_HEAD_TOO_LARGE);
}

/* As many header lines as CivetWeb reads are let through; with one more the last would be lost. */
static void http_many_headers_are_refused(void **unused)
{
    (void)unused;
    struct buffer text = {0};
    buffer_text(&text, "GET / HTTP/1.1\r\n");
    for (int i = 0; i < SEAM_HEADERS_MAX; i++) buffer_print(&text, "H%d: a\r\n", i);
    size_t len = text.len;
    buffer_text(&text, "\r\n");
    assert_int_equal(http_frame_read(text.at, text.len, 0, 8192, 0).error, ERROR_NONE);
    text.len = len;
    buffer_text(&text, "X-Forwarded-For: 192.0.2.1\r\n\r\n");
    assert_int_equal(http_frame_read(text.at, text.len, 0, 8192, 0).error, ERROR_HEAD_TOO_LARGE);
    buffer_free(&text);
}

/* Every error of the table becomes an answer with its status, and valid JSON. */
static void http_errors_are_json(void **unused)
{
    (void)unused;
    for (int error = 1; error < ERROR_COUNT; error++) {
        struct http_response response = {0};
        struct buffer out = {0};
        struct json_value body, inner, code;
        http_set_error(&response, (enum error)error);
        assert_string_not_equal(http_phrase(response.status), "Unknown");
        assert_true(json_parse((struct span){response.body.at, response.body.len - 1}, 4, &body));
        assert_true(json_member(body, "error", &inner) && json_member(inner, "code", &code));
        assert_true(json_is(code, ERRORS[error].code));
        http_write(&out, &response, false, false);
        buffer_add(&out, "", 1);
        assert_non_null(strstr(out.at, "\r\nCache-Control: no-store\r\n"));
        buffer_free(&out);
        buffer_free(&response.body);
    }
}

/* A large body becomes the answer without a copy, to the same bytes as a small one; not behind bytes
 * that wait, and not for HEAD. */
static void http_bodies_are_moved(void **unused)
{
    (void)unused;
    for (int i = 0; i < 8; i++) {
        bool waits = i & 1, head_only = i & 2, large = i & 4;
        size_t size = large ? 250000 : HTTP_BODY_MOVED - 1;
        struct http_response response = {.status = 200, .type = JSON_TYPE};
        struct buffer out = {0};
        memset(buffer_room(&response.body, size), 'x', size);
        response.body.len = size;
        if (waits) buffer_text(&out, "waits");
        http_write(&out, &response, true, head_only);
        bool moves = large && !waits && !head_only;
        assert_int_equal(!response.body.at, moves);
        buffer_add(&out, "", 1);
        char *head = out.at + (waits ? 5 : 0), *body = strstr(head, "\r\n\r\n") + 4, length[40];
        assert_memory_equal(head, "HTTP/1.1 200 OK\r\n", 17);
        snprintf(length, sizeof length, "\r\nContent-Length: %zu\r\n", size);
        assert_non_null(strstr(head, length));
        assert_int_equal(strlen(body), head_only ? 0 : size);
        assert_int_equal(strspn(body, "x"), strlen(body));
        buffer_free(&out);
        buffer_free(&response.body);
    }
}

static void cookies(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        int result;
        const char *value;
    } rows[] = {
        {"token=abc", 3, "abc"},
        {"a=b; token=abc", 3, "abc"},
        {"a=b; token=abc; c=d", 3, "abc"},
        {"a=b;token=abc;c=d", 3, "abc"},
        {"a=b;  \ttoken=abc \t; c=d", 3, "abc"},
        {";;; token=abc", 3, "abc"},
        {"token=abc;", 3, "abc"},
        {"token=", 0, ""},
        {"token=; a=b", 0, ""},
        {"token=\"\"", 0, ""},
        {"token=\"abc\"", 3, "abc"},
        {"token=a=b==", 5, "a=b=="},
        {"token==", 1, "="},
        {"token=first; token=second", 5, "first"},
        {"token=; token=second", 0, ""},
        {"x=token=no; token=yes", 3, "yes"},
        {"a; token=abc", 3, "abc"},
        {"token; token=abc", 3, "abc"},
        {"token=!#$%&'()*+-./", 15, "!#$%&'()*+-./"},
        {"token=:<=>?@[]^_`{|}~", 15, ":<=>?@[]^_`{|}~"},
        {"token=1234567890123456", 16, "1234567890123456"},
        {"token=\"1234567890123456\"", 16, "1234567890123456"},
        {"token=12345678901234567", -2, NULL},
        {"token=\"12345678901234567\"", -2, NULL},
        {"token=a b", -2, NULL},
        {"token=a,b", -2, NULL},
        {"token=a\\b", -2, NULL},
        {"token=a\"b", -2, NULL},
        {"token=\"ab", -2, NULL},
        {"token=ab\"", -2, NULL},
        {"token=\"", -2, NULL},
        {"token=\"a\"b\"", -2, NULL},
        {"token=\"a b\"", -2, NULL},
        {"token=a\x7f", -2, NULL},
        {"token=a\x01", -2, NULL},
        {"token=\xc3\xa4", -2, NULL},
        {"token=a b; token=good", -2, NULL},
        {NULL, -1, NULL},
        {"", -1, NULL},
        {";", -1, NULL},
        {"token", -1, NULL},
        {"Token=abc", -1, NULL},
        {"TOKEN=abc", -1, NULL},
        {"xtoken=abc", -1, NULL},
        {"tokens=abc", -1, NULL},
        {"token =abc", -1, NULL},
        {"toke=abc", -1, NULL},
        {"a=token=abc", -1, NULL},
        {"a=\"; token\"", -1, NULL},
        {"a=b, token=abc", -1, NULL},
        {"=token", -1, NULL},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        char *header = text_copy(rows[i].header), *out = malloc(17);
        int expected = rows[i].value ? (int)strlen(rows[i].value) : rows[i].result;
        int result = cookie_get(header, "token", out, 17);
        if (result != expected) fail_msg("%s: %d", header ? header : "NULL", result);
        if (rows[i].value) assert_string_equal(out, rows[i].value);
        free(header);
        free(out);
    }
}

static const struct CMUnitTest HTTP_TESTS[] = {
    cmocka_unit_test(http_frames_are_read),
    cmocka_unit_test(http_chunks_are_read),
    cmocka_unit_test(http_chunks_agree_with_the_grammar),
    cmocka_unit_test(http_many_headers_are_refused),
    cmocka_unit_test(http_long_heads_are_refused),
    cmocka_unit_test(http_errors_are_json),
    cmocka_unit_test(http_bodies_are_moved),
    cmocka_unit_test(cookies),
};
