/* Fuzzes what reads the answer to a webhook: its head is the same however the bytes arrive, lies
 * within them, and interim answers come to an end. The same bytes are read as a URL. */

/* Reads the heads in memory of exactly the bytes' size. */
static void fuzz_heads(const uint8_t *data, size_t len, size_t cut)
{
    char *whole = malloc(len ? len : 1), *part = malloc(cut ? cut : 1);
    struct response_head once = {0}, first = {0};
    memcpy(whole, data, len);
    memcpy(part, data, cut);
    int all = len ? response_head_read(whole, len, &once) : 0;
    int some = cut ? response_head_read(part, cut, &first) : 0;
    if (some && (all != some || first.size != once.size || first.status != once.status ||
                 first.length != once.length))
        abort();
    if (all > 0) {
        if (once.size > len || once.size > CALL_HEAD_MAX || once.length < -1) abort();
        if (once.status < 100 || once.status > 999 || whole[once.size - 1] != '\n') abort();
        if (once.status < 200) fuzz_heads(data + once.size, len - once.size, 0);
    }
    free(whole);
    free(part);
}

/* Reads a URL; what is accepted can be written into a request as it is. */
static void fuzz_url(const uint8_t *data, size_t len)
{
    struct call_url url;
    char *text = mem_copy_text((const char *)data, len);
    if (call_url_parse(text, &url)) {
        if (*url.target != '/' || !url.port || !*url.host || !*url.authority) abort();
        for (const char *c = url.target; *c; c++)
            if (*c <= ' ' || *c >= 0x7f) abort();
        for (const char *c = url.authority; *c; c++)
            if (*c <= ' ' || *c >= 0x7f || strchr("/?#@", *c)) abort();
    }
    free(text);
}

static void fuzz_response(const uint8_t *data, size_t len)
{
    if (!len) return;
    fuzz_heads(data + 1, len - 1, (size_t)data[0] * (len - 1) / 255);
    fuzz_url(data, len);
}
