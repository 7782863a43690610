/* What only tests need of the pure sections, for unit tests and fuzzers: included behind
 * presence.c. */
#ifndef UNIT_PURE_H
#define UNIT_PURE_H

/* Whether json_parse takes the text. */
static bool json_valid(struct span text, int max_depth)
{
    struct json_value ignored;
    return json_parse(text, max_depth, &ignored);
}

/* Appends the bytes percent-encoded; only what RFC 3986 section 2.3 calls unreserved stays. */
static void uri_encode(struct buffer *b, struct span in)
{
    static const char hex[] = "0123456789ABCDEF";
    for (size_t i = 0; i < in.len; i++) {
        uint8_t c = (uint8_t)in.at[i];
        bool stays = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || digit_is((char)c) ||
                     c == '-' || c == '.' || c == '_' || c == '~';
        char escaped[3] = {'%', hex[c >> 4], hex[c & 15]};
        buffer_add(b, stays ? &in.at[i] : escaped, stays ? 1 : sizeof escaped);
    }
}

/* Bytes of memory that are kept; 0 for NULL. */
static size_t ws_partial_size(const struct ws_partial *kept)
{
    return kept ? sizeof *kept + kept->message.size : 0;
}

#endif
