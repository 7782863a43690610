/* Fuzzes what headers and options say of hosts and addresses: origins, hosts, ranges,
 * X-Forwarded-For, and cookies. What was accepted once is accepted again and stays as it is. */

/* The text in memory of exactly its size. */
static char *fuzz_copy(const char *text)
{
    char *copy = malloc(strlen(text) + 1);
    return strcpy(copy, text);
}

/* An origin of another scheme, in small letters, has a host, and is none of a WebSocket. */
static void fuzz_other_origin(const char *origin)
{
    const char *rest = strstr(origin, "://");
    if (!rest || !rest[3] || strchr(rest + 3, '/')) abort();
    if (!strncmp(origin, "ws://", 5) || !strncmp(origin, "wss://", 6)) abort();
    for (const char *at = origin; at < rest; at++)
        if (*at >= 'A' && *at <= 'Z') abort();
}

/* An origin has one form, of the characters a host may have; it comes from that host. */
static void fuzz_origin(const char *text)
{
    char origin[ORIGIN_MAX], again[ORIGIN_MAX];
    if (!origin_parse(text, origin)) return;
    if (!origin_parse(origin, again) || strcmp(origin, again)) abort();
    if (strpbrk(origin, " \t\r\n,@?#\\%*\"") || strlen(origin) > 300) abort();
    bool secure = !strncmp(origin, "https://", 8);
    const char *host = origin + (secure ? 8 : 7);
    if (!secure && strncmp(origin, "http://", 7)) {
        fuzz_other_origin(origin);
        return;
    }
    if (strchr(host, '/') || !origin_of_host(secure, host, again) || strcmp(origin, again)) abort();
    for (const char *at = origin; *at; at++)
        if (*at <= ' ' || *at >= 0x7f || (*at >= 'A' && *at <= 'Z')) abort();
}

/* The origin of a host is that of the host in it; the name that is local stays so. */
static void fuzz_host(const char *text)
{
    char origin[ORIGIN_MAX], again[ORIGIN_MAX];
    bool local = host_is_local(text);
    for (int secure = 0; secure < 2; secure++) {
        if (!origin_of_host(secure, text, origin)) {
            if (local && strlen(text) < 280) abort();
            continue;
        }
        const char *host = origin + strlen(secure ? "https://" : "http://");
        if (!origin_of_host(secure, host, again) || strcmp(origin, again)) abort();
        if (host_is_local(host) != local) abort();
        if (origin_parse(origin, again) && strcmp(origin, again)) abort();
        bool address = *host == '[' || !host[strspn(host, "0123456789.:")];
        if (local && !address && !strstr(host, "localhost")) abort();
    }
}

/* A range has its first and last address, and one of them with one bit flipped not if it counts;
 * written anew it is the same range. */
static void fuzz_range(const char *text)
{
    struct range range, again;
    char host[INET6_ADDRSTRLEN], anew[INET6_ADDRSTRLEN + 8];
    uint8_t last[16];
    if (!range_parse(text, &range)) return;
    if (range.bits < 0 || range.bits > 128 || !range_has(&range, range.address)) abort();
    memcpy(last, range.address, sizeof last);
    for (int i = range.bits; i < 128; i++) last[i / 8] |= (uint8_t)(0x80 >> i % 8);
    if (!range_has(&range, last) && !(range.bits < 96 && address_is_v4(last))) abort();
    if (range.bits) last[(range.bits - 1) / 8] ^= (uint8_t)(0x80 >> (range.bits - 1) % 8);
    if (range.bits && range_has(&range, last)) abort();
    inet_ntop(AF_INET6, range.address, host, sizeof host);
    snprintf(anew, sizeof anew, "%s/%d", host, range.bits);
    if (!range_parse(anew, &again) || again.bits != range.bits) abort();
    if (memcmp(again.address, range.address, sizeof again.address)) abort();
}

/* Each line of the text is a header. Whoever is not trusted is the client; whatever a trusted
 * proxy wrote to the right of it all is. */
static void fuzz_forwarded(const char *text)
{
    enum { LINES = 6 };
    static const char *const trusted[] = {"10.0.0.0/8", "fd00::/8", "127.0.0.1"};
    struct range ranges[3];
    char *lines[LINES + 1];
    int count = 0;
    uint8_t peer[16], client[16], other[16];
    for (int i = 0; i < 3; i++)
        if (!range_parse(trusted[i], &ranges[i])) abort();
    for (const char *at = text; count < LINES; at += strcspn(at, "\n") + 1) {
        char *line = fuzz_copy(at);
        line[strcspn(line, "\n")] = 0;
        lines[count++] = fuzz_copy(line);
        free(line);
        if (!at[strcspn(at, "\n")]) break;
    }
    const char *const *values = (const char *const *)lines;
    address_pack_text((struct span){"192.0.2.1", 9}, peer);
    if (forwarded_client(values, count, ranges, 3, peer, client)) abort();
    if (memcmp(client, peer, sizeof peer)) abort();
    address_pack_text((struct span){"127.0.0.1", 9}, peer);
    if (!forwarded_client(values, count, ranges, 3, peer, client)) abort();
    lines[count] = "198.51.100.7"; /* now it was all forged */
    if (!forwarded_client(values, count + 1, ranges, 3, peer, other)) abort();
    address_pack_text((struct span){"198.51.100.7", 12}, peer);
    if (memcmp(other, peer, sizeof peer)) abort();
    address_group(client, other);
    address_group(other, peer);
    if (memcmp(other, peer, sizeof peer)) abort();
    while (count) free(lines[--count]);
}

/* A cookie that was found has only what may be in one, and is found again. */
static void fuzz_cookie(const char *text)
{
    char small[8], out[256], header[300], again[256];
    int n = cookie_get(text, "q", out, sizeof out), m = cookie_get(text, "q", small, sizeof small);
    if (n < -2 || n >= (int)sizeof out || (n < 0) > (m < 0)) abort();
    if (n < 0) return;
    if (strlen(out) != (size_t)n || strpbrk(out, " \t\",;\\")) abort();
    if (m != (n < (int)sizeof small ? n : -2)) abort();
    snprintf(header, sizeof header, "a=b; q=\"%s\"; q=c", out);
    if (cookie_get(header, "q", again, sizeof again) != n || strcmp(again, out)) abort();
}

static void fuzz_hosts(const uint8_t *data, size_t len)
{
    char *text = malloc(len + 1);
    if (len) memcpy(text, data, len);
    text[len] = 0;
    char *exact = fuzz_copy(text); /* up to the first NUL */
    fuzz_origin(exact);
    fuzz_host(exact);
    fuzz_range(exact);
    fuzz_forwarded(exact);
    fuzz_cookie(exact);
    free(exact);
    free(text);
}
