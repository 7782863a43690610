/* Fuzzes the JSON reader and writer: what is accepted can be walked, and comes back when it is
 * written; what is written is always accepted. */

/* Reads a string, writes it, reads it again: it must be the same. */
static void fuzz_string(struct json_value value)
{
    size_t size = value.raw.len;
    char *bytes = malloc(size), *again = malloc(size);
    struct buffer b = {0};
    int n = json_string(value, bytes, size);
    if (n < 0 || !utf8_valid((struct span){bytes, (size_t)n})) abort();
    if (json_string(value, again, (size_t)n) != -1) abort();
    json_write_string(&b, (struct span){bytes, (size_t)n});
    struct json_value back;
    if (!json_parse((struct span){b.at, b.len}, 0, &back)) abort();
    if (json_string(back, again, size) != n || memcmp(bytes, again, (size_t)n)) abort();
    if (!json_equals(value, (struct span){bytes, (size_t)n})) abort();
    buffer_free(&b);
    free(bytes);
    free(again);
}

/* Visits every value below this one; appends it, without blanks, to the buffer. */
static void fuzz_walk(struct json_value value, struct buffer *b)
{
    struct json_value inner;
    size_t cursor = 0;
    int64_t n;
    char text[32];
    if (!json_valid(value.raw, JSON_DEPTH_MAX)) abort();
    if (value.kind == JSON_STRING) fuzz_string(value);
    if (json_number(value, &n) && value.raw.at[value.raw.len - 1] != '0') {
        size_t len = (size_t)snprintf(text, sizeof text, "%" PRId64, n);
        if (len != value.raw.len || memcmp(text, value.raw.at, len)) abort();
    }
    json_member(value, "a", &inner);
    if (value.kind != JSON_ARRAY) {
        buffer_add(b, value.raw.at, value.raw.len);
        return;
    }
    buffer_add(b, "[", 1);
    while (json_item(value, &cursor, &inner)) {
        if (b->at[b->len - 1] != '[') buffer_add(b, ",", 1);
        fuzz_walk(inner, b);
    }
    struct json_reader rest = {value.raw.at + (cursor ? cursor : 1), value.raw.at + value.raw.len};
    json_skip_space(&rest);
    if (!json_take(&rest, ']') || rest.at != rest.end) abort();
    buffer_add(b, "]", 1);
}

static void fuzz_json(const uint8_t *data, size_t len)
{
    struct span text = {(const char *)data, len};
    struct json_value value;
    struct buffer b = {0};
    bool valid = json_parse(text, JSON_DEPTH_MAX, &value);
    if (valid && !json_valid(text, JSON_DEPTH_MAX + 1)) abort();
    if (valid) {
        fuzz_walk(value, &b);
        if (!json_valid((struct span){b.at, b.len}, JSON_DEPTH_MAX)) abort();
    }
    b.len = 0;
    json_write_string(&b, text);
    if (!json_parse((struct span){b.at, b.len}, 0, &value)) abort();
    if (utf8_valid(text) && !json_equals(value, text)) abort();
    buffer_free(&b);
}
