/* Fuzzes what looks at a request before CivetWeb does: its end is found at the same place however
 * the bytes arrive, and so is that of a body in chunks. And so are the first records of TLS. */

/* Reads a request that arrives in two pieces, and at once; both must say the same. */
static void fuzz_request(const uint8_t *data, size_t len, size_t cut)
{
    enum { MAX_HEAD = 1024, MAX_BODY = 4096 };
    char *whole = malloc(len + 1), *part = malloc(len + 1);
    memcpy(whole, data, len);
    memcpy(part, data, len);
    struct http_frame once = http_frame_read(whole, len, 0, MAX_HEAD, MAX_BODY);
    struct http_frame first = http_frame_read(part, cut, 0, MAX_HEAD, MAX_BODY);
    if (once.head > len || once.body > MAX_BODY) abort();
    if (!first.head && !first.error) {
        struct http_frame second = http_frame_read(part, len, cut, MAX_HEAD, MAX_BODY);
        if (second.head != once.head || second.body != once.body) abort();
        if (second.error != once.error || second.expects != once.expects) abort();
        if (second.chunked != once.chunked || second.asterisk != once.asterisk) abort();
        if (strcmp(second.authority, once.authority)) abort();
    } else if (first.head && !first.error) {
        if (first.head != once.head || first.body != once.body || once.error) abort();
        if (first.chunked != once.chunked) abort();
    }
    free(whole);
    free(part);
}

/* Reads a body in chunks that arrives in two pieces, and at once; both must come to the same. */
static void fuzz_chunks(const uint8_t *data, size_t len, size_t cut)
{
    enum { MAX_BODY = 1000, MAX_BESIDE = 100 };
    struct http_chunks once = {0}, twice = {0};
    char *whole = malloc(len + 1), *part = malloc(len + 1);
    size_t all = len, some = cut;
    memcpy(whole, data, len);
    memcpy(part, data, cut);
    enum error error = http_chunks_read(&once, whole, &all, MAX_BODY, MAX_BESIDE);
    enum error first = http_chunks_read(&twice, part, &some, MAX_BODY, MAX_BESIDE), last = first;
    memcpy(part + some, data + cut, len - cut);
    some += len - cut;
    if (!first && twice.state != CHUNK_DONE)
        last = http_chunks_read(&twice, part, &some, MAX_BODY, MAX_BESIDE);
    if (error != last || once.made > MAX_BODY || once.made > all || all > len) abort();
    if (!error && (once.state != twice.state || once.made != twice.made || all != some)) abort();
    if (!error && memcmp(whole, part, all)) abort();
    if (!error && once.state != CHUNK_DONE && all != once.made) abort();
    free(whole);
    free(part);
}

/* Looks at a first handshake message that arrives in two pieces, and at once: both say the same,
 * and only whole records were looked at. */
static void fuzz_hello(const uint8_t *data, size_t len, size_t cut)
{
    struct buffer whole = {0}, part = {0};
    struct tls_hello once = {0}, later = {0};
    buffer_add(&whole, data, len);
    buffer_add(&part, data, cut);
    bool ready = tls_hello_ready(&once, &whole), early = tls_hello_ready(&later, &part);
    if (later.scanned > cut || later.scanned > tls_whole_records(part.at, part.len).whole) abort();
    buffer_add(&part, data + cut, len - cut);
    if (!early && tls_hello_ready(&later, &part) != ready) abort();
    if (!early && (once.scanned != later.scanned || once.got != later.got)) abort();
    buffer_free(&whole);
    buffer_free(&part);
}

static void fuzz_head(const uint8_t *data, size_t len)
{
    if (!len) return;
    size_t cut = (size_t)data[0] * (len - 1) / 255;
    fuzz_request(data + 1, len - 1, cut);
    fuzz_chunks(data + 1, len - 1, cut);
    fuzz_hello(data + 1, len - 1, cut);
}
