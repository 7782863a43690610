/* Log: whatever comes, a record is one line. */
#include "unit.h"

/* Random bytes: what comes out is UTF-8, nothing in it is hidden or ends the string, and it
 * fits. */
static void log_escapes_whatever_comes(void **unused)
{
    (void)unused;
    static const char *const some[] = {"\u202e",     "\u2028", "\u2069",   "\\",       "\"",
                                       "\n",         "\x9f",   "\xe2\x80", "\xc2\x85", "\u00e9",
                                       "\U0001f600", "a",      "\x7f",     "\ufeff"};
    srand(3);
    for (int round = 0; round < 10000; round++) {
        char text[64] = "", out[128];
        size_t size = 16 + (size_t)rand() % (sizeof out - 15);
        for (int i = rand() % 8; i; i--)
            strcat(text, some[rand() % (int)(sizeof some / sizeof *some)]);
        size_t n = log_escape(text, out, size);
        assert_true(n < size && n == strlen(out));
        for (size_t at = 0, step; at < n; at += step) {
            uint32_t point;
            step = utf8_step(out + at, n - at, &point);
            assert_true(step && !log_hides(point) && point != '"');
            if (point == '\\') {
                step = out[at + 1] == 'u' ? 6 : 2;
                assert_true(strchr("\"\\u", out[at + 1]) && at + step <= n);
            }
        }
    }
}

static void log_escapes(void **unused)
{
    (void)unused;
    char out[128];
    log_escape("a\"b\\c\nlevel=error\x1b[2J\x7f", out, sizeof out);
    assert_string_equal(out, "a\\\"b\\\\c\\u000alevel=error\\u001b[2J\\u007f");
    log_escape("\u202e\u2028\u2066\xc2\x85\ufeff\u200fa\u00e9\U0001f600\xff\xc3", out, sizeof out);
    assert_string_equal(
        out, "\\u202e\\u2028\\u2066\\u0085\\ufeff\\u200fa\u00e9\U0001f600\\ufffd\\ufffd");
    assert_true(log_escape("\x01\x01\x01\x01", out, 16) < 16);
}

/* What an operator asks for (SIGUSR2) is told whatever the level; all else by it. */
static void log_tells_what_was_asked_for(void **unused)
{
    (void)unused;
    struct log log = {.level = LOG_ERROR, .lock = PTHREAD_MUTEX_INITIALIZER};
    char text[256] = "";
    int ends[2], before = dup(STDERR_FILENO);
    assert_return_code(pipe(ends), errno);
    dup2(ends[1], STDERR_FILENO);
    log_line(&log, LOG_INFO, "passed over");
    log_write(&log, LOG_INFO, "asked for");
    dup2(before, STDERR_FILENO);
    close(before);
    close(ends[1]);
    assert_true(read(ends[0], text, sizeof text - 1) > 0);
    close(ends[0]);
    assert_non_null(strstr(text, "level=info msg=\"asked for\"\n"));
    assert_null(strstr(text, "passed over"));
}

static const struct CMUnitTest LOG_TESTS[] = {
    cmocka_unit_test(log_tells_what_was_asked_for),
    cmocka_unit_test(log_escapes),
    cmocka_unit_test(log_escapes_whatever_comes),
};
