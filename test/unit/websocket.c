/* WebSocket codec: against a reference, cut anywhere. */
#include "unit.h"

static void test_ws_key(void **state)
{
    (void)state;
    static const char *const bad[] = {NULL,
                                      "",
                                      "abc",
                                      "==",
                                      "dGhlIHNhbXBsZSBub25jZQ=",
                                      "dGhlIHNhbXBsZSBub25jZQ===",
                                      "dGhlIHNhbXBsZSBub25jZR==",
                                      "dGhlIHNhbXBsZSBub25jZ===",
                                      "dGhlIHNhbXBsZSBub25jZQA=",
                                      "dGhlIHNhbXBsZSBub25jZQAA",
                                      "dGhlIHNhbXBsZS=ub25jZQ==",
                                      "dGhlIHNhbXBsZS-ub25jZQ==",
                                      "dGhlIHNhbXBsZS_ub25jZQ==",
                                      "dGhlIHNhbXBsZSBub25jZQ= ",
                                      " GhlIHNhbXBsZSBub25jZQ==",
                                      "dGhlIHNhbXBsZSBub25jZQ==dGhlIHNhbXBsZSBub25jZQ=="};
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        if (ws_key_valid(bad[i])) fail_msg("key %s", bad[i]);
    assert_true(ws_key_valid("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_true(ws_key_valid("AAAAAAAAAAAAAAAAAAAAAA=="));
    assert_true(ws_key_valid("/////////////////////w=="));
    assert_true(ws_key_valid("+/09azAZAAAAAAAAAAAAAg=="));
}

static const struct ws_limits TEST_LIMITS = {4096, 4};

/* Appends a client's frame: masked, and the length in its shortest form. */
static void test_frame(struct buffer *b, uint8_t first, const char *payload, size_t len,
                       uint32_t mask)
{
    uint8_t head[14] = {first};
    size_t n = 2;
    head[1] = (uint8_t)(0x80 | (len < 126 ? len : len < 65536 ? 126 : 127));
    if (len >= 65536)
        for (int i = 0; i < 4; i++) head[n++] = 0;
    if (len >= 65536)
        for (int i = 0; i < 2; i++) head[n++] = (uint8_t)(len >> (24 - 8 * i));
    if (len >= 126)
        for (int i = 0; i < 2; i++) head[n++] = (uint8_t)(len >> (8 - 8 * i));
    uint8_t key[4] = {(uint8_t)(mask >> 24), (uint8_t)(mask >> 16), (uint8_t)(mask >> 8),
                      (uint8_t)mask};
    buffer_add(b, head, n);
    buffer_add(b, key, 4);
    for (size_t i = 0; i < len; i++) {
        char c = (char)((uint8_t)payload[i] ^ key[i % 4]);
        buffer_add(b, &c, 1);
    }
}

/* Appends an event as text: `text(hi)`, `close(1000,bye)`, `fail(1002)`. */
static void test_event(struct buffer *log, enum ws_kind kind, int code, const char *data,
                       size_t len)
{
    static const char *const names[] = {"more", "text", "binary", "ping", "pong", "close", "fail"};
    buffer_print(log, "%s%s(", log->len ? " " : "", names[kind]);
    if (kind == WS_CLOSE || kind == WS_FAIL) buffer_print(log, "%d", code);
    if (kind == WS_CLOSE && len) buffer_text(log, ",");
    for (size_t i = 0; i < len; i++) {
        bool plain = data[i] > ' ' && data[i] < 0x7f && data[i] != '%';
        if (plain) buffer_add(log, data + i, 1);
        else buffer_print(log, "%%%02X", (uint8_t)data[i]);
    }
    buffer_text(log, ")");
}

/* How a stream is cut: into pieces of `every` bytes, or of random size if that is 0. */
struct test_cut {
    size_t every;
    uint32_t seed;
};

/* Decodes one piece that lies in memory of its own. Adds the events to the log, and the texts of
 * failures to why. False after the last event there can be. */
static bool test_decode_piece(struct ws_partial **kept, const struct ws_limits *limits,
                              struct span piece, struct buffer *log, const char **why)
{
    struct ws_event event;
    for (size_t off = 0, used; off <= piece.len; off += used) {
        event = ws_decode(kept, limits, (uint8_t *)piece.at + off, piece.len - off, &used);
        assert_true(used <= piece.len - off);
        if (event.kind == WS_MORE) {
            assert_int_equal(off + used, piece.len);
            return true;
        }
        test_event(log, event.kind, event.code, event.data.at, event.data.len);
        if (event.kind == WS_FAIL) {
            assert_null(*kept);
            *why = event.reason;
        }
        if (event.kind == WS_FAIL || event.kind == WS_CLOSE) return false;
    }
    return true;
}

/* Decodes a stream that arrives in pieces; the log is NUL-terminated after. Returns the text of
 * the failure, or NULL. What is kept must never be much more than what arrived. */
static const char *test_decode(struct span stream, const struct ws_limits *limits,
                               struct test_cut cut, struct buffer *log)
{
    struct ws_partial *kept = NULL;
    const char *why = NULL;
    bool more = true;
    for (size_t off = 0, n; more && off < stream.len; off += n) {
        n = cut.every ? cut.every : 1 + below32(&cut.seed, below32(&cut.seed, 2) ? 12 : 3000);
        if (n > stream.len - off) n = stream.len - off;
        struct span piece = exact_copy(stream.at + off, n);
        more = test_decode_piece(&kept, limits, piece, log, &why);
        exact_free(piece);
        assert_true(ws_partial_size(kept) <= sizeof(struct ws_partial) + 256 + 2 * (off + n));
    }
    ws_partial_free(&kept);
    assert_int_equal(ws_partial_size(kept), 0);
    buffer_add(log, "", 1);
    return why;
}

/* The rules of RFC 6455 in the plainest way: the whole stream at hand, a byte at a time. Returns
 * the close code of the first fault in the frame at s, 0 if the n bytes show none. */
static int test_reference_fault(const uint8_t *s, size_t n, int open, int frames, size_t before,
                                const struct ws_limits *limits)
{
    int opcode = s[0] % 16;
    if (s[0] / 16 != 0 && s[0] / 16 != 8) return 1002;
    if (opcode != 0 && opcode != 1 && opcode != 2 && opcode != 8 && opcode != 9 && opcode != 10)
        return 1002;
    if (opcode >= 8 && s[0] < 0x80) return 1002;
    if (opcode == 0 && !open) return 1002;
    if ((opcode == 1 || opcode == 2) && open) return 1002;
    if (opcode == 0 && frames == limits->max_fragments) return 1009;
    if (n < 2) return 0;
    if (s[1] < 0x80) return 1002;
    uint64_t length = s[1] - 0x80;
    if (opcode >= 8 && length >= 126) return 1002;
    if (opcode == 8 && length == 1) return 1002;
    if (length == 126) {
        if (n < 4) return 0;
        length = s[2] * 256U + s[3];
        if (length <= 125) return 1002;
    } else if (length == 127) {
        if (n < 10) return 0;
        length = 0;
        for (int i = 2; i < 10; i++) length = length * 256 + s[i];
        if (length <= 65535 || s[2] >= 0x80) return 1002;
    }
    return opcode < 8 && (length > limits->max_message || length + before > limits->max_message)
               ? 1009
               : 0;
}

/* The event of a complete message or control frame, by the plain rules. Whether it is the last. */
static bool test_reference_event(struct buffer *log, int opcode, const char *at, size_t n)
{
    const uint8_t *data = (const uint8_t *)at;
    int code = opcode != 8 ? 0 : n ? data[0] * 256 + data[1] : 1005, fault = 0;
    bool known = (code >= 3000 && code < 5000) || (code >= 1007 && code < 1015) ||
                 (code >= 1000 && code < 1004);
    if (opcode == 8 && n && !known) fault = 1002;
    if (!fault && opcode == 8 && n && !utf8_text_reference(data + 2, n - 2)) fault = 1007;
    if (opcode == 1 && !utf8_text_reference(data, n)) fault = 1007;
    enum ws_kind kind = opcode == 1   ? WS_TEXT
                        : opcode == 2 ? WS_BINARY
                        : opcode == 9 ? WS_PING
                                      : WS_PONG;
    if (fault) test_event(log, WS_FAIL, fault, "", 0);
    else if (opcode == 8) test_event(log, WS_CLOSE, code, n ? at + 2 : "", n ? n - 2 : 0);
    else test_event(log, kind, 0, at, n);
    return fault || opcode == 8;
}

/* Decodes a whole stream by the plain rules; the log is NUL-terminated after. */
static void test_reference(struct span stream, const struct ws_limits *limits, struct buffer *log)
{
    const uint8_t *s = (const uint8_t *)stream.at;
    struct buffer message = {0};
    int open = 0, frames = 0;
    for (size_t i = 0; i < stream.len;) {
        size_t n = stream.len - i, opcode = s[i] % 16;
        int fault = test_reference_fault(s + i, n, open, frames, message.len, limits);
        if (fault) test_event(log, WS_FAIL, fault, "", 0);
        size_t coded = n > 1 ? s[i + 1] & 127U : 0, head = coded == 127 ? 14 : coded == 126 ? 8 : 6;
        if (fault || n < head) break;
        uint64_t length = coded;
        if (head > 6) length = 0;
        for (size_t k = 2; head > 6 && k < head - 4; k++) length = length * 256 + s[i + k];
        bool whole = n - head >= length;
        if (!whole) length = n - head;
        struct buffer payload = {0};
        for (size_t k = 0; k < length; k++) {
            char c = (char)(s[i + head + k] ^ s[i + head - 4 + k % 4]);
            buffer_add(opcode < 8 ? &message : &payload, &c, 1);
        }
        if (opcode < 8 && !open) open = (int)opcode;
        frames += opcode < 8;
        bool last = false;
        if ((!whole || s[i] < 0x80) && opcode < 8) { /* a text is refused at its first bad byte */
            last = open == 1 && !utf8_begins_reference((uint8_t *)message.at, message.len);
            if (last) test_event(log, WS_FAIL, 1007, "", 0);
        } else if (!whole) {
            last = true;
        } else if (opcode >= 8)
            last = test_reference_event(log, (int)opcode, payload.at, payload.len);
        else {
            last = test_reference_event(log, open, message.at, message.len);
            message.len = 0;
            open = frames = 0;
        }
        buffer_free(&payload);
        if (last || !whole) break;
        i += head + (size_t)length;
    }
    buffer_free(&message);
    buffer_add(log, "", 1);
}

/* Decodes the stream as a whole, byte by byte, in twos, sevens and randomly cut, and by the plain
 * rules: every time it must be the same. Returns the failure's text; log has the events. */
static const char *test_check(struct span stream, const struct ws_limits *limits, uint32_t seed,
                              struct buffer *log)
{
    const struct test_cut cuts[] = {
        {1, 0}, {2, 0}, {7, 0}, {0, seed | 1}, {0, (seed ^ 0x5555) | 1}};
    struct buffer other = {0};
    const char *why = test_decode(stream, limits, (struct test_cut){stream.len + 1, 0}, log);
    for (size_t i = 0; i <= COUNT_OF(cuts); i++) {
        other.len = 0;
        const char *other_why = why;
        if (i < COUNT_OF(cuts)) other_why = test_decode(stream, limits, cuts[i], &other);
        else test_reference(stream, limits, &other);
        if (strcmp(log->at, other.at) || why != other_why)
            fail_msg("seed %u: whole: %.300s (%s); %s %zu: %.300s (%s)", seed, log->at,
                     why ? why : "", i < COUNT_OF(cuts) ? "cut" : "reference", i, other.at,
                     other_why ? other_why : "");
    }
    buffer_free(&other);
    return why;
}

/* Makes a stream of a text: `81:payload` is a frame with that first byte, masked; `=8100` is these
 * bytes; blanks part them. */
static struct buffer test_stream(const char *text)
{
    struct buffer b = {0};
    for (uint32_t mask = 0x01fe8037; *text; mask = mask * 5 + 1) {
        size_t n = strcspn(text, " ");
        if (*text == '=') {
            for (size_t i = 1; i + 1 < n; i += 2) {
                char c = (char)(hex_value(text[i]) << 4 | hex_value(text[i + 1]));
                buffer_add(&b, &c, 1);
            }
        } else {
            uint8_t first = (uint8_t)(hex_value(text[0]) << 4 | hex_value(text[1]));
            test_frame(&b, first, text + 3, n - 3, mask);
        }
        text += n + (text[n] == ' ');
    }
    return b;
}

#define TEST_A25 "aaaaaaaaaaaaaaaaaaaaaaaaa"
#define TEST_A125 TEST_A25 TEST_A25 TEST_A25 TEST_A25 TEST_A25

static const struct test_ws_row {
    const char *what, *stream, *events, *why; /* why: a piece of the failure's text */
} TEST_WS[] = {
    {"a text", "81:Hello", "text(Hello)", NULL},
    {"the masked example of RFC 6455 5.7", "=818537fa213d7f9f4d5158", "text(Hello)", NULL},
    {"an empty text", "81:", "text()", NULL},
    {"an empty binary", "82:", "binary()", NULL},
    {"any bytes in a binary", "82:\xff\xc3\x01", "binary(%FF%C3%01)", NULL},
    {"125 bytes", "81:" TEST_A125, "text(" TEST_A125 ")", NULL},
    {"126 bytes", "81:a" TEST_A125, "text(a" TEST_A125 ")", NULL},
    {"two texts", "81:a 81:b", "text(a) text(b)", NULL},
    {"a ping and a pong", "89:hi 8a:ho 89: 8a:", "ping(hi) pong(ho) ping() pong()", NULL},
    {"a ping of 125 bytes", "89:" TEST_A125, "ping(" TEST_A125 ")", NULL},
    {"any bytes in a ping", "89:\xff", "ping(%FF)", NULL},
    {"a ping of 126 bytes, W07", "89:a" TEST_A125, "fail(1002)", "longer than 125"},
    {"a close of 126 bytes", "88:a" TEST_A125, "fail(1002)", "longer than 125"},
    {"a fragmented ping, W07", "09:a", "fail(1002)", "control frame is fragmented"},
    {"a fragmented close", "08:", "fail(1002)", "control frame is fragmented"},
    {"a fragmented pong", "0a:", "fail(1002)", "control frame is fragmented"},
    {"fragments", "01:a 00:b 80:c", "text(abc)", NULL},
    {"empty fragments", "01: 00: 80:", "text()", NULL},
    {"binary fragments", "02:a 80:\xff", "binary(a%FF)", NULL},
    {"a ping between fragments, W07", "01:a 89:p 80:b", "ping(p) text(ab)", NULL},
    {"a close between fragments", "01:a 88:\x03\xe8", "close(1000)", NULL},
    {"a message after fragments", "01:a 80:b 81:c 80:d", "text(ab) text(c) fail(1002)",
     "without a message"},
    {"an orphan continuation, W07", "80:a", "fail(1002)", "without a message"},
    {"an orphan fragment", "00:a", "fail(1002)", "without a message"},
    {"a new text in the middle, W07", "01:a 81:b", "fail(1002)", "inside a fragmented"},
    {"a new binary in the middle", "01:a 02:b", "fail(1002)", "inside a fragmented"},
    {"an e-acute over two fragments, W07", "01:h\xc3 80:\xa9", "text(h%C3%A9)", NULL},
    {"an emoji over four", "01:\xf0 00:\x9f 00:\x98 80:\x80", "text(%F0%9F%98%80)", NULL},
    {"bad UTF-8, W07", "81:a\xff", "fail(1007)", "text message"},
    {"UTF-8 that stops", "81:a\xc3", "fail(1007)", "text message"},
    {"a surrogate", "81:\xed\xa0\x80", "fail(1007)", "text message"},
    {"an overlong", "81:\xc0\xaf", "fail(1007)", "text message"},
    {"bad UTF-8 in fragments", "01:\xc3 80:\xc3", "fail(1007)", "text message"},
    {"bad UTF-8 in a fragment, judged at once", "01:\xff 89:p", "fail(1007)", "text message"},
    {"four fragments are allowed", "01:a 00:b 00:c 80:d", "text(abcd)", NULL},
    {"five are not", "01:a 00:b 00:c 00:d 80:e", "fail(1009)", "too many frames"},
    {"a ping is no fragment", "01:a 89: 00:b 89: 00:c 89: 80:d", "ping() ping() ping() text(abcd)",
     NULL},
    {"unmasked, W11", "=810161", "fail(1002)", "not masked"},
    {"unmasked and empty", "=8100", "fail(1002)", "not masked"},
    {"unmasked ping", "=8900", "fail(1002)", "not masked"},
    {"RSV1, W11", "c1:a", "fail(1002)", "reserved bit"},
    {"RSV2", "a1:a", "fail(1002)", "reserved bit"},
    {"RSV3", "91:a", "fail(1002)", "reserved bit"},
    {"RSV1 on a control frame", "c9:", "fail(1002)", "reserved bit"},
    {"opcode 3", "83:", "fail(1002)", "opcode"},
    {"opcode 7", "87:", "fail(1002)", "opcode"},
    {"opcode 11", "8b:", "fail(1002)", "opcode"},
    {"opcode 15", "8f:", "fail(1002)", "opcode"},
    {"a fault shows in the first byte", "=c1", "fail(1002)", "reserved bit"},
    {"a fault shows in the second byte", "=8100", "fail(1002)", "not masked"},
    {"16 bits for 125", "=81fe007d", "fail(1002)", "shortest form"},
    {"16 bits for 126", "=81fe007e", "", NULL},
    {"64 bits for 65535", "=81ff000000000000ffff", "fail(1002)", "shortest form"},
    {"64 bits for 0", "=81ff0000000000000000", "fail(1002)", "shortest form"},
    {"2^63, W06", "=82ff8000000000000000a5", "fail(1002)", "63 bits"},
    {"2^64 - 4, W06", "=82fffffffffffffffffca5", "fail(1002)", "63 bits"},
    {"2^63 - 1", "=82ff7fffffffffffffff", "fail(1009)", "larger than"},
    {"2 GiB less 128 KiB, W06", "=82ff000000007ffe0000a5", "fail(1009)", "larger than"},
    {"65536 at a limit of 4096", "=82ff0000000000010000", "fail(1009)", "larger than"},
    {"4096 is allowed", "=82fe1000", "", NULL},
    {"4097 is not", "=82fe1001", "fail(1009)", "larger than"},
    {"an empty close, W09", "88:", "close(1005)", NULL},
    {"a close of 1 byte, W09", "88:a", "fail(1002)", "half a code"},
    {"the same, seen in the head", "=8881", "fail(1002)", "half a code"},
    {"1000", "88:\x03\xe8", "close(1000)", NULL},
    {"1000 with a reason",
     "88:\x03\xe8"
     "bye",
     "close(1000,bye)", NULL},
    {"a reason of 123 bytes",
     "88:\x03\xe8" TEST_A25 TEST_A25 TEST_A25 TEST_A25 "aaaaaaaaaaaaaaaaaaaaaaa",
     "close(1000," TEST_A25 TEST_A25 TEST_A25 TEST_A25 "aaaaaaaaaaaaaaaaaaaaaaa)", NULL},
    {"1000 with a bad reason, W09", "88:\x03\xe8\xff", "fail(1007)", "close reason"},
    {"a bad code with a bad reason", "88:\x03\xe7\xff", "fail(1002)", "close code"},
    {"code 0, W09", "=8882000000000000", "fail(1002)", "close code"},
    {"nothing counts after a close", "88: 81:\xff =ff", "close(1005)", NULL},
    {"a head that stops", "81:a =81", "text(a)", NULL},
    {"a head that stops in the mask", "81:a =8185010203", "text(a)", NULL},
    {"a payload that stops", "81:a =818501020304", "text(a)", NULL},
    {"text, ping, binary, pong, close", "81:t 89:p 82:b 8a:q 88:\x0f\xa0!",
     "text(t) ping(p) binary(b) pong(q) close(4000,!)", NULL},
};

static void test_ws_rules(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TEST_WS); i++) {
        const struct test_ws_row *row = &TEST_WS[i];
        struct buffer stream = test_stream(row->stream), log = {0};
        struct span bytes = {stream.at, stream.len};
        const char *why = test_check(bytes, &TEST_LIMITS, 12, &log);
        if (strcmp(log.at, row->events)) fail_msg("%s: %s", row->what, log.at);
        if (!why != !row->why || (why && !strstr(why, row->why)))
            fail_msg("%s: %s", row->what, why);
        for (size_t cut = 1; cut < stream.len; cut++) { /* every cut in two */
            struct buffer again = {0};
            struct ws_partial *kept = NULL;
            struct span a = exact_copy(stream.at, cut),
                        b = exact_copy(stream.at + cut, stream.len - cut);
            if (test_decode_piece(&kept, &TEST_LIMITS, a, &again, &why))
                test_decode_piece(&kept, &TEST_LIMITS, b, &again, &why);
            buffer_add(&again, "", 1);
            if (strcmp(again.at, log.at)) fail_msg("%s, cut at %zu: %s", row->what, cut, again.at);
            ws_partial_free(&kept);
            exact_free(a);
            exact_free(b);
            buffer_free(&again);
        }
        buffer_free(&log);
        buffer_free(&stream);
    }
}

static void test_ws_slow_bytes(void **state)
{
    (void)state;
    static const struct ws_limits limits = {100000, 4}; /* W02 */
    struct buffer stream = {0}, log = {0};
    char payload[70000];
    memset(payload, 'x', sizeof payload);
    test_frame(&stream, 0x81, payload, 200, 0xa1b2c3d4);
    test_frame(&stream, 0x82, payload, sizeof payload, 0x00ff00ff);
    test_frame(&stream, 0x88, "\x03\xe8", 2, 1);
    assert_null(test_check((struct span){stream.at, stream.len}, &limits, 2, &log));
    assert_int_equal(log.len, strlen("text() binary() close(1000)") + 200 + sizeof payload + 1);
    buffer_free(&log);
    buffer_free(&stream);
}

static void test_ws_close_codes(void **state)
{
    (void)state;
    for (unsigned code = 0; code < 65536; code++) {
        char payload[2] = {(char)(code >> 8), (char)code};
        struct buffer stream = {0};
        struct ws_partial *kept = NULL;
        size_t used;
        bool valid = (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
                     (code >= 3000 && code <= 4999);
        if (ws_close_code_valid(code) != valid) fail_msg("code %u", code);
        test_frame(&stream, 0x88, payload, 2, 0x11223344);
        struct ws_event event =
            ws_decode(&kept, &TEST_LIMITS, (uint8_t *)stream.at, stream.len, &used);
        assert_int_equal(event.kind, valid ? WS_CLOSE : WS_FAIL);
        assert_int_equal(event.code, valid ? code : 1002);
        assert_null(kept);
        buffer_free(&stream);
    }
    assert_false(ws_close_code_valid(65536 + 1000));
}

static void test_ws_sum_of_fragments(void **state)
{
    (void)state;
    static const struct ws_limits limits = {10, 4};
    static const struct {
        const char *stream, *events;
    } rows[] = {
        {"81:0123456789", "text(0123456789)"},
        {"81:0123456789a", "fail(1009)"},
        {"01:0123 00:456 80:789", "text(0123456789)"},
        {"01:0123 00:456 80:789a", "fail(1009)"},
        {"01:0123 00:456 =80fe0400", "fail(1009)"},
        {"01:0123 00:456 =8084", "fail(1009)"},
        {"01:0123456789 80:", "text(0123456789)"},
        {"01:0123456789 89:more_than_ten_bytes 80:", "ping(more_than_ten_bytes) text(0123456789)"},
        {"01:01234567 80:8 81:0123456789", "text(012345678) text(0123456789)"},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buffer stream = test_stream(rows[i].stream), log = {0};
        test_check((struct span){stream.at, stream.len}, &limits, 3, &log);
        assert_string_equal(log.at, rows[i].events);
        buffer_free(&log);
        buffer_free(&stream);
    }
}

static void test_ws_memory(void **state)
{
    (void)state;
    struct ws_partial *kept = NULL;
    struct buffer stream = {0};
    struct ws_limits huge = {SIZE_MAX / 2, 4};
    size_t used;
    /* A whole frame is handed out from the input and costs nothing. */
    test_frame(&stream, 0x81, "hello", 5, 0x0a0b0c0d);
    struct ws_event event = ws_decode(&kept, &TEST_LIMITS, (uint8_t *)stream.at, stream.len, &used);
    assert_int_equal(event.kind, WS_TEXT);
    assert_ptr_equal(event.data.at, stream.at + 6);
    assert_null(kept);
    /* An announced length costs nothing either, W06. */
    uint8_t head[] = {0x82, 0xff, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3, 4, 5};
    event = ws_decode(&kept, &huge, head, sizeof head, &used);
    assert_int_equal(event.kind, WS_MORE);
    assert_int_equal(used, sizeof head);
    assert_true(ws_partial_size(kept) <= sizeof(struct ws_partial) + 256);
    ws_partial_free(&kept);
    assert_null(kept);
    /* Half a frame is kept, then freed by the call that finds nothing more. */
    test_frame(&stream, 0x81, "hello", 5, 0x0a0b0c0d);
    for (size_t i = 11; i < 22; i++) {
        event = ws_decode(&kept, &TEST_LIMITS, (uint8_t *)stream.at + i, 1, &used);
        assert_int_equal(event.kind, i < 21 ? WS_MORE : WS_TEXT);
        assert_non_null(kept);
    }
    event = ws_decode(&kept, &TEST_LIMITS, NULL, 0, &used);
    assert_int_equal(event.kind, WS_MORE);
    assert_null(kept);
    assert_int_equal(sizeof kept, sizeof(void *));
    /* A fragment is kept though it is empty. */
    uint8_t fragment[] = {0x01, 0x80, 0, 0, 0, 0};
    ws_decode(&kept, &TEST_LIMITS, fragment, sizeof fragment, &used);
    assert_non_null(kept);
    assert_int_equal(ws_partial_size(kept), sizeof(struct ws_partial));
    ws_partial_free(&kept);
    buffer_free(&stream);
}

/* Appends a random frame that, most of the time, the state of the stream allows. */
static void test_random_frame(uint32_t *seed, struct buffer *b, bool *open)
{
    static const char *const pieces[] = {"a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x98\x80"};
    static const size_t lengths[] = {0,  0,   1,   2,   3,   7,    8,    9,   16,
                                     40, 124, 125, 126, 127, 1000, 4096, 4097};
    static const char *const closes[] = {
        "\x03\xe8", "\x03\xe9gone", "\x0f\xa0\xc3\xa9", "\x03\xe8\xff", "\x03\xed", "\x03",
        "",         "\x0b\xb7"};
    struct buffer payload = {0};
    bool control = below32(seed, 4) == 0, final = control || below32(seed, 2);
    size_t len = lengths[below32(seed, control ? 12 : below32(seed, 4) ? 13 : COUNT_OF(lengths))];
    uint8_t opcode = control ? (uint8_t)(9 + below32(seed, 2))
                     : *open ? 0
                             : (uint8_t)(1 + below32(seed, 2));
    if (control && below32(seed, 8) == 0) {
        opcode = 8;
        buffer_text(&payload, closes[below32(seed, COUNT_OF(closes))]);
    }
    while (opcode != 8 && payload.len < len) buffer_text(&payload, pieces[below32(seed, 4)]);
    if (opcode != 8 && payload.len > len && (control || below32(seed, 8) == 0)) payload.len = len;
    if (!control) *open = !final;
    uint8_t first = (uint8_t)((final ? 0x80 : 0) | opcode);
    if (below32(seed, 24) == 0) first ^= (uint8_t)(1U << below32(seed, 8));
    size_t second = b->len + 1;
    test_frame(b, first, payload.at, payload.len, random32(seed));
    if (below32(seed, 24) == 0) b->at[second] ^= (char)(1U << (below32(seed, 2) ? 7 : 5));
    buffer_free(&payload);
}

/* A random stream: frames, then perhaps a byte spoilt, an end cut off, or a strange head. */
static struct buffer test_random_stream(uint32_t *seed)
{
    struct buffer b = {0};
    bool open = false;
    for (size_t n = 1 + below32(seed, 12); n; n--) test_random_frame(seed, &b, &open);
    size_t spoil = below32(seed, 6);
    if (spoil == 0) b.at[below32(seed, b.len)] ^= (char)(1U << below32(seed, 8));
    if (spoil == 1) b.len -= below32(seed, b.len);
    if (spoil == 2) {
        uint8_t head[10] = {0x82, 0xff};
        size_t small = below32(seed, 3);
        head[1] = (uint8_t)(0xff - (small == 0));
        for (size_t i = small == 2 ? 2 : 8; i < 10; i++) head[i] = (uint8_t)random32(seed);
        buffer_add(&b, head, small ? 10 : 4);
    }
    return b;
}

static void test_ws_any_cut_gives_the_same(void **state)
{
    (void)state;
    static const char *const kinds[] = {"text(",   "binary(", "ping(", "pong(",
                                        "close(1", "close(4", "fail("};
    size_t kind_seen[COUNT_OF(kinds)] = {0}, fault_seen[COUNT_OF(WS_FAULTS)] = {0};
    uint32_t seed = 1200;
    for (int round = 0; round < 6000; round++) {
        struct buffer stream = test_random_stream(&seed), log = {0};
        const char *why =
            test_check((struct span){stream.at, stream.len}, &TEST_LIMITS, seed, &log);
        for (size_t i = 0; i < COUNT_OF(kinds); i++)
            kind_seen[i] += strstr(log.at, kinds[i]) != NULL;
        for (size_t i = 0; i < COUNT_OF(WS_FAULTS); i++) fault_seen[i] += why == WS_FAULTS[i].text;
        buffer_free(&log);
        buffer_free(&stream);
    }
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (kind_seen[i] < 10) fail_msg("%s came %zu times", kinds[i], kind_seen[i]);
    for (size_t i = 1; i < COUNT_OF(WS_FAULTS); i++)
        if (fault_seen[i] < 5) fail_msg("%s: %zu times", WS_FAULTS[i].text, fault_seen[i]);
}

static void test_ws_every_prefix_gives_the_same(void **state)
{
    (void)state;
    uint32_t seed = 1201;
    for (int round = 0; round < 300; round++) {
        struct buffer stream = test_random_stream(&seed);
        for (size_t n = 0; n <= stream.len && n <= 100; n++) {
            struct buffer log = {0};
            test_check((struct span){stream.at, n}, &TEST_LIMITS, seed, &log);
            buffer_free(&log);
        }
        buffer_free(&stream);
    }
}

static void test_ws_every_head(void **state)
{
    (void)state;
    for (unsigned first = 0; first < 256; first++) {
        for (unsigned second = 0; second < 256; second++) {
            for (int open = 0; open < 2; open++) {
                struct buffer stream = test_stream(open ? "01:a" : ""), log = {0}, reference = {0};
                char head[] = {(char)first, (char)second, 0,  1,  2, 3, 4, 5, 6, 7, 8,
                               9,           10,           11, 12, 13};
                buffer_add(&stream, head, sizeof head);
                struct span bytes = {stream.at, stream.len};
                test_decode(bytes, &TEST_LIMITS, (struct test_cut){stream.len, 0}, &log);
                test_reference(bytes, &TEST_LIMITS, &reference);
                if (strcmp(log.at, reference.at))
                    fail_msg("%02x %02x: %s, not %s", first, second, log.at, reference.at);
                buffer_free(&stream);
                buffer_free(&log);
                buffer_free(&reference);
            }
        }
    }
}

static void test_ws_unmask(void **state)
{
    (void)state;
    static const uint8_t mask[4] = {0x12, 0x34, 0x80, 0xff};
    for (size_t len = 0; len < 40; len++) {
        for (size_t phase = 0; phase < 9; phase++) {
            uint8_t *at = malloc(len + 3);
            assert_non_null(at);
            for (size_t i = 0; i < len; i++) at[3 + i] = (uint8_t)(i * 7);
            ws_unmask(at + 3, len, mask, phase);
            for (size_t i = 0; i < len; i++)
                assert_int_equal(at[3 + i], (uint8_t)(i * 7) ^ mask[(phase + i) % 4]);
            free(at);
        }
    }
}

static void test_ws_encode(void **state)
{
    (void)state;
    static const struct {
        size_t len;
        const char *head;
        size_t head_len;
    } rows[] = {
        {0, "\x81\x00", 2},
        {125, "\x81\x7d", 2},
        {126, "\x81\x7e\x00\x7e", 4},
        {65535, "\x81\x7e\xff\xff", 4},
        {65536, "\x81\x7f\0\0\0\0\0\1\0\0", 10},
    };
    char *payload = malloc(65536);
    assert_non_null(payload);
    memset(payload, 'x', 65536);
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buffer b = {0};
        ws_encode(&b, WS_OP_TEXT, (struct span){payload, rows[i].len});
        assert_int_equal(b.len, rows[i].head_len + rows[i].len);
        assert_memory_equal(b.at, rows[i].head, rows[i].head_len);
        if (rows[i].len) assert_memory_equal(b.at + rows[i].head_len, payload, rows[i].len);
        buffer_free(&b);
    }
    uint8_t head[10];
    assert_int_equal(ws_encode_head(head, WS_OP_PONG, 3), 2);
    assert_int_equal(head[0], 0x8a);
    assert_int_equal(ws_encode_head(head, WS_OP_BINARY, (size_t)1 << 40), 10);
    assert_memory_equal(head, "\x82\x7f\0\0\1\0\0\0\0\0", 10);
    free(payload);
}

static void test_ws_encode_close(void **state)
{
    (void)state;
    static const struct {
        int code;
        const char *reason, *frame;
        size_t len;
    } rows[] = {
        {1000, NULL, "\x88\x02\x03\xe8", 4},
        {1000, "", "\x88\x02\x03\xe8", 4},
        {1012, "retry_after=5", "\x88\x0f\x03\xf4retry_after=5", 17},
        {4403, "kicked", "\x88\x08\x11\x33kicked", 10},
        {1005, "x", "\x88\x00", 2},
        {1006, "x", "\x88\x00", 2},
        {1015, NULL, "\x88\x00", 2},
        {0, NULL, "\x88\x00", 2},
        {-1, NULL, "\x88\x00", 2},
        {66536, NULL, "\x88\x00", 2},
    };
    for (size_t i = 0; i < COUNT_OF(rows); i++) {
        struct buffer b = {0};
        ws_encode_close(&b, rows[i].code, rows[i].reason);
        assert_int_equal(b.len, rows[i].len);
        assert_memory_equal(b.at, rows[i].frame, b.len);
        buffer_free(&b);
    }
}

static void test_ws_encode_close_cuts_the_reason(void **state)
{
    (void)state;
    for (size_t before = 100; before < 130; before++) {
        for (size_t c = 0; c < 3; c++) {
            static const char *const characters[] = {"a", "\xc3\xa9", "\xf0\x9f\x98\x80"};
            char reason[300];
            memset(reason, 'x', before);
            reason[before] = 0;
            while (strlen(reason) < 200) strcat(reason, characters[c]);
            struct buffer b = {0};
            ws_encode_close(&b, 1000, reason);
            size_t n = b.len - 4, step = strlen(characters[c]);
            assert_int_equal((uint8_t)b.at[1], n + 2);
            assert_true(n <= 123 && n + step > 123);
            assert_true(utf8_valid((struct span){b.at + 4, n}));
            assert_memory_equal(b.at + 4, reason, n);
            buffer_free(&b);
        }
    }
}

static const struct CMUnitTest WEBSOCKET_TESTS[] = {
    cmocka_unit_test(test_ws_key),
    cmocka_unit_test(test_ws_rules),
    cmocka_unit_test(test_ws_slow_bytes),
    cmocka_unit_test(test_ws_close_codes),
    cmocka_unit_test(test_ws_sum_of_fragments),
    cmocka_unit_test(test_ws_memory),
    cmocka_unit_test(test_ws_any_cut_gives_the_same),
    cmocka_unit_test(test_ws_every_prefix_gives_the_same),
    cmocka_unit_test(test_ws_every_head),
    cmocka_unit_test(test_ws_unmask),
    cmocka_unit_test(test_ws_encode),
    cmocka_unit_test(test_ws_encode_close),
    cmocka_unit_test(test_ws_encode_close_cuts_the_reason),
};
