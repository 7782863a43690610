/* Options: every flag there and back, durations, sizes, the errors. */
#include "unit.h"

/* Reads one command line; the line of an error is in err. */
static bool options_try(struct options *options, struct command_line *line, char *err,
                        char *arguments)
{
    char *argv[32] = {"presence"};
    int argc = 1;
    for (char *word; (word = strsep(&arguments, " "));)
        if (*word) argv[argc++] = word;
    options_init(options);
    return options_read(options, argc, argv, line, (struct why){err, WHY_MAX});
}

/* Every option's default lies within its own bounds, is printed, and is read back as the same. */
static void options_round_trip(void **unused)
{
    (void)unused;
    struct options first, second;
    char *text = NULL, err[WHY_MAX];
    size_t size = 0;
    struct option_set seen = {0};
    options_init(&first);
    FILE *out = open_memstream(&text, &size);
    options_print(&first, out);
    fclose(out);
    options_init(&second);
    char *rest = text;
    for (char *line; (line = strsep(&rest, "\n"));)
        if (!options_from_line(&second, line, &seen, WHY(err))) fail_msg("%s", err);
    for (size_t i = 0; i < OPTION_COUNT_ALL; i++) {
        const struct option_row *row = &OPTIONS[i];
        const char *a = (char *)&first + row->offset, *b = (char *)&second + row->offset;
        if (row->type == OPTION_TEXT) assert_string_equal(*(char *const *)a, *(char *const *)b);
        else if (option_is_list(row))
            assert_int_equal(((struct option_list *)b)->count, ((struct option_list *)a)->count);
        else assert_int_equal(*(const int64_t *)a, *(const int64_t *)b);
    }
    free(text);
    options_free(&first);
    options_free(&second);
}

/* Wrong command lines: the error names the option. */
static void options_errors_name_the_option(void **unused)
{
    (void)unused;
    static const struct {
        const char *arguments, *names;
    } rows[] = {
        {"--nonsense", "--nonsense"},
        {"nonsense", "'nonsense'"},
        {"--grace", "--grace"},
        {"--grace soon", "--grace"},
        {"--grace -1s", "--grace"},
        {"--workers -1", "--workers"},
        {"--workers 9999", "--workers"},
        {"--listen 8080", "--listen"},
        {"--listen [::1", "--listen"},
        {"--listen 1.2.3.4:70000", "--listen"},
        {"--log-level loud", "--log-level"},
        {"--config /nonexistent/file", "/nonexistent/file"},
        {"--version=1", "--version"},
        {"--dump --help", "--dump"},
        {"--backup", "--backup"},
        {"--data=", "--data"},
        {"--insecure=perhaps", "--insecure"},
        {"--", "'--'"},
        {"--max-message 1", "--max-message"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct options options;
        struct command_line line;
        char err[WHY_MAX] = "", arguments[64];
        snprintf(arguments, sizeof arguments, "%s", rows[i].arguments);
        assert_false(options_try(&options, &line, err, arguments));
        if (!strstr(err, rows[i].names)) fail_msg("%s: %s", rows[i].arguments, err);
        assert_null(strchr(err, '\n'));
        options_free(&options);
    }
}

/* Lists replace the weaker source's whole list and grow within one. */
static void options_lists(void **unused)
{
    (void)unused;
    struct options options;
    struct command_line line;
    char err[WHY_MAX], arguments[] = "--listen [::1]:1 --listen=127.0.0.1:2 --insecure --dump";
    assert_true(options_try(&options, &line, err, arguments));
    assert_int_equal(options.listen.count, 2);
    assert_string_equal(options.listen.at[0], "[::1]:1");
    assert_int_equal(options.insecure, 1);
    assert_int_equal(line.command, COMMAND_DUMP);
    options_free(&options);
}

static const struct test_duration_row {
    const char *text;
    int64_t ms; /* -1: refused */
    const char *short_text;
} TEST_DURATIONS[] = {
    {"90", 90000, "90s"},
    {"0", 0, "0s"},
    {"0ms", 0, "0s"},
    {"1ms", 1, "1ms"},
    {"250ms", 250, "250ms"},
    {"0.25s", 250, "250ms"},
    {"1.5s", 1500, "1.5s"},
    {"1500ms", 1500, "1.5s"},
    {"1.5", 1500, "1.5s"},
    {"1.050s", 1050, "1.05s"},
    {"1.005s", 1005, "1.005s"},
    {"60s", 60000, "1m"},
    {"61s", 61000, "61s"},
    {"1m", 60000, "1m"},
    {"1.5m", 90000, "90s"},
    {"1h", 3600000, "1h"},
    {"36h", 129600000, "36h"},
    {"24h", 86400000, "1d"},
    {"30d", 2592000000, "30d"},
    {"0.5d", 43200000, "12h"},
    {"1.000000000s", 1000, "1s"},
    {"007s", 7000, "7s"},
    {"9223372036854775.807s", INT64_MAX, "9223372036854775.807s"},
    {"9223372036854775.808s", -1, NULL},
    {"9223372036854776s", -1, NULL},
    {"106751991167d", 9223372036828800000, "106751991167d"},
    {"106751991168d", -1, NULL},
    {"999999999999999999d", -1, NULL},
    {"1000000000000000000ms", -1, NULL},
    {"99999999999999999999", -1, NULL},
    {"18446744073709551616ms", -1, NULL},
    {"", -1, NULL},
    {"s", -1, NULL},
    {"-1", -1, NULL},
    {"-1s", -1, NULL},
    {"+1s", -1, NULL},
    {" 1s", -1, NULL},
    {"1s ", -1, NULL},
    {"1 s", -1, NULL},
    {"1.s", -1, NULL},
    {".5s", -1, NULL},
    {"1..5s", -1, NULL},
    {"1.5.5s", -1, NULL},
    {"1.0000000000s", -1, NULL},
    {"1.0005s", -1, NULL},
    {"0.5ms", -1, NULL},
    {"1S", -1, NULL},
    {"1sec", -1, NULL},
    {"1w", -1, NULL},
    {"1e3", -1, NULL},
    {"0x10", -1, NULL},
    {"1,5s", -1, NULL},
    {"inf", -1, NULL},
};

static void test_durations(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TEST_DURATIONS); i++) {
        const struct test_duration_row *row = &TEST_DURATIONS[i];
        int64_t ms = -7;
        char text[32];
        bool valid = duration_parse(row->text, &ms);
        if (valid != (row->ms >= 0)) fail_msg("duration %s", row->text);
        if (ms != (valid ? row->ms : -7)) fail_msg("duration %s: %" PRId64, row->text, ms);
        if (valid) assert_string_equal(duration_text(ms, text, sizeof text), row->short_text);
    }
}

static void test_durations_come_back(void **state)
{
    (void)state;
    static const int64_t units[] = {1, 10, 100, 1000, 60000, 3600000, 86400000};
    uint32_t seed = 7;
    for (int round = 0; round < 50000; round++) {
        int64_t ms = (int64_t)random32(&seed) << below32(&seed, 31) >> below32(&seed, 60);
        int64_t back = -1;
        char text[32], plain[32];
        if (round % 2) ms = (int64_t)below32(&seed, 5000) * units[below32(&seed, 7)];
        assert_true(duration_parse(duration_text(ms, text, sizeof text), &back));
        if (back != ms) fail_msg("%" PRId64 " as %s is %" PRId64, ms, text, back);
        snprintf(plain, sizeof plain, "%" PRId64 "ms", ms);
        assert_true(strlen(text) <= strlen(plain));
    }
}

static const struct test_size_row {
    const char *text;
    int64_t bytes; /* -1: refused */
} TEST_SIZES[] = {
    {"0", 0},
    {"4096", 4096},
    {"64k", 65536},
    {"64K", 65536},
    {"8m", 8388608},
    {"8M", 8388608},
    {"2g", 2147483648},
    {"8589934591g", 9223372035781033984},
    {"8589934592g", -1},
    {"999999999999999999k", -1},
    {"9999999999999999999", -1},
    {"", -1},
    {"k", -1},
    {"-1", -1},
    {"+1", -1},
    {" 1", -1},
    {"1 ", -1},
    {"1kb", -1},
    {"1kk", -1},
    {"1t", -1},
    {"1\x0b", -1},
    {"1\xeb", -1},
    {"1.5k", -1},
    {"0x10", -1},
};

static void test_sizes(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TEST_SIZES); i++) {
        const struct test_size_row *row = &TEST_SIZES[i];
        int64_t bytes = -7;
        bool valid = size_parse(row->text, &bytes);
        if (valid != (row->bytes >= 0)) fail_msg("size %s", row->text);
        if (bytes != (valid ? row->bytes : -7)) fail_msg("size %s: %" PRId64, row->text, bytes);
    }
}

static const struct CMUnitTest OPTIONS_TESTS[] = {
    cmocka_unit_test(options_round_trip),
    cmocka_unit_test(options_errors_name_the_option),
    cmocka_unit_test(options_lists),
    cmocka_unit_test(test_durations),
    cmocka_unit_test(test_durations_come_back),
    cmocka_unit_test(test_sizes),
};
