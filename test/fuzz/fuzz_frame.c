/* Fuzzes the WebSocket decoder: however a stream is cut, the events are the same. The first byte
 * chooses the limits, the second the cut, the rest is what the client sends. */

/* Adds an event to the log, byte for byte. */
static void fuzz_log(struct buffer *log, const struct ws_event *event)
{
    uint32_t len = (uint32_t)event->data.len;
    buffer_add(log, &event->kind, sizeof event->kind);
    buffer_add(log, &event->code, sizeof event->code);
    buffer_add(log, &event->reason, sizeof event->reason);
    buffer_add(log, &len, sizeof len);
    buffer_add(log, event->data.at, event->data.len);
}

/* Decodes a piece in memory of its own. False after the last event there can be. */
static bool fuzz_piece(struct ws_partial **kept, const struct ws_limits *limits,
                       const uint8_t *data, size_t len, struct buffer *log)
{
    uint8_t *piece = malloc(len ? len : 1);
    memcpy(piece, data, len);
    enum ws_kind kind = WS_TEXT;
    for (size_t off = 0, used; kind != WS_MORE && kind < WS_CLOSE; off += used) {
        struct ws_event event = ws_decode(kept, limits, piece + off, len - off, &used);
        kind = event.kind;
        if (used > len - off || (kind == WS_MORE && off + used != len)) abort();
        if (kind == WS_FAIL && (*kept || !event.reason || event.code < 1002)) abort();
        if (kind == WS_TEXT && !utf8_valid(event.data)) abort();
        if (kind < WS_PING && event.data.len > limits->max_message) abort();
        if (kind >= WS_PING && event.data.len > WS_CONTROL_MAX) abort();
        if (kind != WS_MORE) fuzz_log(log, &event);
    }
    free(piece);
    return kind == WS_MORE;
}

/* Decodes a stream in pieces: of one size, or, when that is 0, of sizes that seed leads to. */
static void fuzz_stream(const struct ws_limits *limits, const uint8_t *data, size_t len,
                        size_t every, uint32_t seed, struct buffer *log)
{
    struct ws_partial *kept = NULL;
    for (size_t off = 0, n; off < len; off += n) {
        seed = seed * 1664525 + 1013904223;
        n = every ? every : 1 + (seed >> 24) % (seed & 1024 ? 9 : 200);
        if (n > len - off) n = len - off;
        if (!fuzz_piece(&kept, limits, data + off, n, log)) break;
        if (ws_partial_size(kept) > sizeof *kept + 256 + 2 * (off + n)) abort();
    }
    ws_partial_free(&kept);
}

static void fuzz_frame(const uint8_t *data, size_t len)
{
    if (len < 2) return;
    struct ws_limits limits = {(size_t)16 << (data[0] & 15), 1 + (data[0] >> 4)};
    struct buffer whole = {0}, cut = {0};
    fuzz_stream(&limits, data + 2, len - 2, len, 0, &whole);
    const size_t every[] = {1, data[1] % 16, 0};
    for (size_t i = 0; i < sizeof every / sizeof *every; i++) {
        cut.len = 0;
        fuzz_stream(&limits, data + 2, len - 2, every[i], data[1], &cut);
        if (cut.len != whole.len || (cut.len && memcmp(cut.at, whole.at, cut.len))) abort();
    }
    buffer_free(&whole);
    buffer_free(&cut);
}
