/* JSON: the reader against its grammar and random documents, the writer. */
#include "unit.h"

/* Texts that RFC 8259 allows. */
static const char *const TEST_JSON_GOOD[] = {
    "null",
    "true",
    "false",
    " \t\r\n0 ",
    "-0",
    "1",
    "-1",
    "10",
    "1.0",
    "1.50",
    "-0.0",
    "1e1",
    "1E1",
    "1e+1",
    "1e-1",
    "0e1",
    "0.0e-0",
    "123456789012345678901234567890",
    "1E400",
    "\"\"",
    "\"a\"",
    "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
    "\"\\u0000\"",
    "\"\\u00e9\"",
    "\"\\uD83D\\uDE00\"",
    "\"\\ud83d\\ude00x\"",
    "\"\\uFFFF\"",
    "\"\x7f\"",
    "\"\xc3\xa9\"",
    "\"\xf0\x9f\x98\x80\"",
    "\"\xe2\x80\xa8\"",
    "\"\\u005C\"",
    "\"\\\\u\"",
    "\"\xef\xbb\xbf\"",
    "[]",
    "[ ]",
    "[1]",
    "[1,2]",
    " [ 1 , 2 ] ",
    "[[]]",
    "[[],{}]",
    "[null,true,false,\"\",1,[],{}]",
    "{}",
    "{ }",
    "{\"a\":1}",
    "{ \"a\" : 1 , \"b\" : 2 }",
    "{\"\":0}",
    "{\"a\":1,\"a\":2}",
    "{\"a\":{\"b\":[{}]}}",
    "{\"\\u0061\":1}",
    "[\"]\",\"}\"]",
    "[\"\\\"]\"]",
    "[[[[]]]]",
    "\"-\"",
    "[-1,-0]",
};

/* Texts that it does not allow. */
static const char *const TEST_JSON_BAD[] = {
    "",
    " ",
    "n",
    "nul",
    "nulL",
    "NULL",
    "nullx",
    "null null",
    "True",
    "tru",
    "fals",
    "undefined",
    "NaN",
    "Infinity",
    "-Infinity",
    "-",
    "+1",
    "+",
    "01",
    "-01",
    "00",
    "1.",
    ".1",
    "-.1",
    "1.e1",
    "1e",
    "1e+",
    "1E-",
    "1ee1",
    "1e1.0",
    "1.2.3",
    "0x1",
    "1_0",
    "1 2",
    "--1",
    "1-",
    "0-",
    "\"",
    "\"a",
    "a\"",
    "'a'",
    "\"a\"b",
    "\"\\\"",
    "\"\\",
    "\"\\x\"",
    "\"\\a\"",
    "\"\\U0041\"",
    "\"\\0\"",
    "\"\\'\"",
    "\"\\u\"",
    "\"\\u0\"",
    "\"\\u00\"",
    "\"\\u000\"",
    "\"\\u000g\"",
    "\"\\u 041\"",
    "\"\\u+041\"",
    "\"\\ud83d\"",
    "\"\\ud83dx\"",
    "\"\\ud83d\\n\"",
    "\"\\ud83d\\u\"",
    "\"\\ud83d\\u0041\"",
    "\"\\ud83d\\ud83d\"",
    "\"\\ude00\"",
    "\"\\ude00\\ud83d\"",
    "\"\\udfff\"",
    "\"\\ude00\\ude00\"",
    "\"\\ud83d\\ue000\"",
    "\"\t\"",
    "\"\n\"",
    "\"\x01\"",
    "\"\x1f\"",
    "\"\xff\"",
    "\"\xc3\"",
    "\"\xc0\x80\"",
    "\"\xed\xa0\x80\"",
    "\"\xf4\x90\x80\x80\"",
    "\"\x80\"",
    "\xef\xbb\xbfnull",
    "\xc2\xa0null",
    "\vnull",
    "\fnull",
    "[",
    "]",
    "[1",
    "[1,",
    "[1,]",
    "[,1]",
    "[,]",
    "[1,,2]",
    "[1 2]",
    "[1;2]",
    "[1}",
    "[1]]",
    "[[1]",
    "[]]",
    "[\"a\"",
    "[\"a",
    "[a]",
    "[1]x",
    "{",
    "}",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\":1,}",
    "{,}",
    "{,\"a\":1}",
    "{\"a\" 1}",
    "{\"a\"}",
    "{\"a\",1}",
    "{a:1}",
    "{1:1}",
    "{'a':1}",
    "{null:1}",
    "{\"a\":1 \"b\":2}",
    "{\"a\":1]",
    "{\"a\"::1}",
    "{\"a\":}",
    "{}}",
    "{[]:1}",
    "[1]//x",
    "/**/1",
    "[1]#",
    "{\"a\":1}{}",
    "\"a\",",
    "1,",
    "[\"\\u00",
    "[[[[[]]]]]",
    "[{\"a\":[[[1]]]}]",
    "{\"a\":{\"a\":{\"a\":{\"a\":{}}}}}",
};

static void test_json_accepts(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TEST_JSON_GOOD); i++) {
        struct span text = exact_copy(TEST_JSON_GOOD[i], strlen(TEST_JSON_GOOD[i]));
        struct json_value value;
        if (!json_parse(text, 4, &value)) fail_msg("refused: %s", TEST_JSON_GOOD[i]);
        assert_false(strchr(" \t\r\n", value.raw.at[0]));
        assert_false(strchr(" \t\r\n", value.raw.at[value.raw.len - 1]));
        exact_free(text);
    }
}

static void test_json_refuses(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TEST_JSON_BAD); i++) {
        struct span text = exact_copy(TEST_JSON_BAD[i], strlen(TEST_JSON_BAD[i]));
        if (json_valid(text, 4)) fail_msg("accepted: %s", TEST_JSON_BAD[i]);
        exact_free(text);
    }
    assert_false(json_valid((struct span){"1\0", 2}, 4));
    assert_false(json_valid((struct span){"\0"
                                          "1",
                                          2},
                            4));
    assert_false(json_valid((struct span){"\"a\0b\"", 5}, 4));
    assert_false(json_valid((struct span){NULL, 0}, 4));
}

static void test_json_refuses_every_prefix(void **state)
{
    (void)state;
    static const char text[] =
        "{\"a\\ud83d\\ude00\xc3\xa9\":[-1.5e+10,true,false,null,\"\\n\",{}],\"b\":{}}";
    for (size_t n = 0; n < sizeof text; n++) {
        struct span part = exact_copy(text, n);
        assert_int_equal(json_valid(part, 3), n == sizeof text - 1);
        exact_free(part);
    }
}

static void test_json_depth(void **state)
{
    (void)state;
    char text[2 * 1000 + 1];
    for (int depth = 0; depth <= 40; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        struct span all = {depth ? text : "1", depth ? 2 * (size_t)depth : 1};
        assert_true(json_valid(all, depth));
        assert_int_equal(json_valid(all, JSON_DEPTH_MAX), depth <= JSON_DEPTH_MAX);
        if (depth) assert_false(json_valid(all, depth - 1));
    }
    memset(text, '[', sizeof text);
    assert_false(json_valid((struct span){text, sizeof text}, JSON_DEPTH_MAX));
}

/* A value of a text that must be valid. */
static struct json_value test_json(const char *text)
{
    struct json_value value;
    assert_true(json_parse((struct span){text, strlen(text)}, 16, &value));
    return value;
}

static void test_json_kinds(void **state)
{
    (void)state;
    static const char *const texts[] = {"null", "false", "true", "-1", "\"\"", "[]", "{}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++) {
        struct json_value value = test_json(texts[i]), other = {.raw.len = 7};
        char out[8];
        int64_t n = 7;
        size_t cursor = 0;
        assert_int_equal(value.kind, i);
        assert_int_equal(value.raw.len, strlen(texts[i]));
        assert_int_equal(json_string(value, out, sizeof out), value.kind == JSON_STRING ? 0 : -1);
        assert_int_equal(json_number(value, &n), value.kind == JSON_NUMBER);
        assert_int_equal(n, value.kind == JSON_NUMBER ? -1 : 7);
        assert_int_equal(json_is(value, ""), value.kind == JSON_STRING);
        assert_false(json_member(value, "", &other));
        assert_false(json_item(value, &cursor, &other));
        assert_int_equal(other.raw.len, 7);
    }
}

static void test_json_members(void **state)
{
    (void)state;
    struct json_value value;
    struct json_value object = test_json(
        " { \"a\" : 1 , \"b\":[1,{\"c\":9}] ,\"\\u0063\":\"\\u0078\", \"a\":{\"a\":3}, \"\":5,"
        "\"n\\u0000\":6,\"\\u00e9\\ud83d\\ude00\":7 } ");
    assert_true(json_member(object, "a", &value));
    assert_int_equal(value.kind, JSON_OBJECT);
    assert_int_equal(value.raw.len, 7);
    assert_true(json_member(value, "a", &value));
    assert_int_equal(value.raw.at[0], '3');
    assert_true(json_member(object, "b", &value));
    assert_memory_equal(value.raw.at, "[1,{\"c\":9}]", value.raw.len);
    assert_true(json_member(object, "c", &value));
    assert_true(json_is(value, "x"));
    assert_false(json_is(value, ""));
    assert_false(json_is(value, "xy"));
    assert_true(json_member(object, "", &value));
    assert_int_equal(value.raw.at[0], '5');
    assert_true(json_member(object, "\xc3\xa9\xf0\x9f\x98\x80", &value));
    assert_int_equal(value.raw.at[0], '7');
    value.raw.len = 99;
    assert_false(json_member(object, "n", &value));
    assert_false(json_member(object, "A", &value));
    assert_false(json_member(object, "aa", &value));
    assert_false(json_member(test_json("{}"), "a", &value));
    assert_false(json_member(test_json("[\"a\",1]"), "a", &value));
    assert_int_equal(value.raw.len, 99);
}

static void test_json_items(void **state)
{
    (void)state;
    static const char *const items[] = {"1", "\"a,]\"", "[2,[3]]", "{\"a\":[4]}", "null"};
    struct json_value array = test_json(" [1 , \"a,]\",[2,[3]] ,{\"a\":[4]}, null ] "), item;
    size_t cursor = 0;
    for (size_t i = 0; i < COUNT_OF(items); i++) {
        assert_true(json_item(array, &cursor, &item));
        assert_int_equal(item.raw.len, strlen(items[i]));
        assert_memory_equal(item.raw.at, items[i], item.raw.len);
    }
    assert_false(json_item(array, &cursor, &item));
    assert_false(json_item(array, &cursor, &item));
}

static const struct test_string_row {
    const char *text, *bytes;
    int len;
} TEST_STRINGS[] = {
    {"\"\"", "", 0},
    {"\"abc\"", "abc", 3},
    {"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t", 8},
    {"\"a\\u0000b\"", "a\0b", 3},
    {"\"\\u007f\\u0080\\u07ff\"", "\x7f\xc2\x80\xdf\xbf", 5},
    {"\"\\u0800\\uFFFF\"", "\xe0\xa0\x80\xef\xbf\xbf", 6},
    {"\"\\ud800\\udc00\"", "\xf0\x90\x80\x80", 4},
    {"\"\\uDBFF\\uDFFF\"", "\xf4\x8f\xbf\xbf", 4},
    {"\"\xc3\xa9\"", "\xc3\xa9", 2},
};

static void test_json_strings(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TEST_STRINGS); i++) {
        const struct test_string_row *row = &TEST_STRINGS[i];
        size_t size = (size_t)row->len + 1;
        char *out = malloc(size);
        assert_non_null(out);
        assert_int_equal(json_string(test_json(row->text), out, size), row->len);
        assert_memory_equal(out, row->bytes, size);
        assert_int_equal(json_string(test_json(row->text), out, size - 1), -1);
        assert_int_equal(json_string(test_json(row->text), out, 0), -1);
        free(out);
    }
}

static const struct test_number_row {
    const char *text;
    bool whole;
    int64_t n;
} TEST_NUMBERS[] = {
    {"0", true, 0},
    {"-0", true, 0},
    {"3600", true, 3600},
    {"-1", true, -1},
    {"9223372036854775807", true, INT64_MAX},
    {"-9223372036854775808", true, INT64_MIN},
    {"9223372036854775808", false, 0},
    {"-9223372036854775809", false, 0},
    {"92233720368547758070", false, 0},
    {"1.0", false, 0},
    {"1e3", false, 0},
    {"1E3", false, 0},
    {"\"1\"", false, 0},
    {"true", false, 0},
};

static void test_json_numbers(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(TEST_NUMBERS); i++) {
        const struct test_number_row *row = &TEST_NUMBERS[i];
        int64_t n = 77;
        if (json_number(test_json(row->text), &n) != row->whole) fail_msg("number %s", row->text);
        assert_true(n == (row->whole ? row->n : 77));
    }
}

static const struct test_write_row {
    const char *bytes;
    size_t len;
    const char *json;
} TEST_WRITES[] = {
    {"", 0, "\"\""},
    {"abc", 3, "\"abc\""},
    {"a\"b\\c", 5, "\"a\\\"b\\\\c\""},
    {"\b\f\n\r\t", 5, "\"\\b\\f\\n\\r\\t\""},
    {"\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\x7f\""},
    {"\xc3\xa9\xf0\x9f\x98\x80", 6, "\"\xc3\xa9\xf0\x9f\x98\x80\""},
    {"a\xff"
     "b",
     3,
     "\"a\xef\xbf\xbd"
     "b\""},
    {"\xc3", 1, "\"\xef\xbf\xbd\""},
    {"\xe2\x82", 2, "\"\xef\xbf\xbd\xef\xbf\xbd\""},
    {"</script>", 9, "\"</script>\""},
};

static void test_json_writes(void **state)
{
    (void)state;
    struct buffer b = {0};
    for (size_t i = 0; i < COUNT_OF(TEST_WRITES); i++) {
        struct span bytes = exact_copy(TEST_WRITES[i].bytes, TEST_WRITES[i].len);
        b.len = 0;
        json_write_string(&b, bytes);
        buffer_add(&b, "", 1);
        assert_string_equal(b.at, TEST_WRITES[i].json);
        exact_free(bytes);
    }
    b.len = 0;
    json_write_string(&b, (struct span){NULL, 0});
    buffer_text(&b, ",{");
    json_write_key(&b, "a");
    buffer_text(&b, "1");
    json_write_key(&b, "b");
    buffer_text(&b, "{");
    json_write_key(&b, "c");
    buffer_text(&b, "[],");
    json_write_key(&b, "d");
    buffer_text(&b, "2}}");
    buffer_add(&b, "", 1);
    assert_string_equal(b.at, "\"\",{\"a\":1,\"b\":{\"c\":[],\"d\":2}}");
    buffer_free(&b);
}

/* A text of every kind of value, and the commas between: names and items, empty ones, a second text
 * behind the first. */
static void test_json_writer(void **state)
{
    (void)state;
    static const struct {
        int64_t n;
        const char *text;
    } numbers[] = {{0, "0"},
                   {9, "9"},
                   {10, "10"},
                   {-1, "-1"},
                   {INT64_MAX, "9223372036854775807"},
                   {INT64_MIN, "-9223372036854775808"}};
    struct buffer b = {0};
    json_open(&b, NULL, '[');
    for (size_t i = 0; i < COUNT_OF(numbers); i++) json_int(&b, NULL, numbers[i].n);
    json_uint(&b, NULL, UINT64_MAX);
    json_close(&b, ']');
    buffer_add(&b, "", 1);
    assert_string_equal(b.at, "[0,9,10,-1,9223372036854775807,-9223372036854775808,"
                              "18446744073709551615]");
    b.len = 0;
    json_begin(&b);
    json_text(&b, "ends in a brace", "{");
    json_span(&b, "and", (struct span){"\"[", 2});
    json_open(&b, "empty", '{');
    json_close(&b, '}');
    json_open(&b, "list", '[');
    json_open(&b, NULL, '[');
    json_close(&b, ']');
    json_open(&b, NULL, '{');
    json_bool(&b, "yes", true);
    json_bool(&b, "no", false);
    json_close(&b, '}');
    json_null(&b, NULL);
    json_text_or_null(&b, NULL, "");
    json_text_or_null(&b, NULL, "x");
    json_close(&b, ']');
    json_time(&b, "at", 1795597471120, true);
    json_time(&b, "never", 1795597471120, false);
    json_close(&b, '}');
    size_t first = b.len;
    struct json_value value;
    assert_true(json_parse((struct span){b.at, first}, 3, &value));
    json_begin(&b); /* whatever stands before it */
    json_uint(&b, "n", 1);
    buffer_text(&b, "}\n");
    json_open(&b, NULL, '{'); /* nor does a line need a comma */
    json_close(&b, '}');
    buffer_add(&b, "", 1);
    assert_string_equal(
        b.at, "{\"ends in a brace\":\"{\",\"and\":\"\\\"[\",\"empty\":{},\"list\":[[],"
              "{\"yes\":true,\"no\":false},null,null,\"x\"],\"at\":\"2026-11-25T09:04:31.120Z\","
              "\"never\":null}{\"n\":1}\n{}");
    buffer_free(&b);
}

static void test_json_strings_come_back(void **state)
{
    (void)state;
    static const char *const pieces[] = {"a",        "\"",           "\\",
                                         "\n",       "\x1f",         "\x7f",
                                         "\xc3\xa9", "\xe2\x80\xa8", "\xf0\x9f\x98\x80",
                                         "\xff",     "\xc3",         "\xed\xa0\x80",
                                         "\\u0041"};
    uint32_t seed = 70;
    size_t whole = 0;
    for (int round = 0; round < 5000; round++) {
        struct buffer bytes = {0}, json = {0};
        size_t kinds = round % 2 ? COUNT_OF(pieces) : 9; /* even rounds are valid UTF-8 */
        for (size_t n = below32(&seed, 20); n; n--)
            buffer_text(&bytes, pieces[below32(&seed, kinds)]);
        struct span text = {bytes.at ? bytes.at : "", bytes.len};
        json_write_string(&json, text);
        struct json_value value;
        char back[512];
        assert_true(json_parse((struct span){json.at, json.len}, 0, &value));
        int n = json_string(value, back, sizeof back);
        assert_true(n >= 0 && utf8_valid((struct span){back, (size_t)n}));
        if (utf8_valid(text)) {
            assert_int_equal(n, text.len);
            assert_memory_equal(back, text.at, text.len);
            assert_true(json_equals(value, text));
            whole++;
        }
        buffer_free(&bytes);
        buffer_free(&json);
    }
    assert_true(whole >= 2500 && whole < 5000);
}

/* Appends a random value; depth bounds its nesting. */
static void test_random_json(uint32_t *seed, struct buffer *b, int depth)
{
    static const char *const scalars[] = {"null",
                                          "true",
                                          "false",
                                          "0",
                                          "-12.5e+3",
                                          "\"\"",
                                          "\"a\\u00e9\\\"\"",
                                          "\"\xf0\x9f\x98\x80\"",
                                          " 7 "};
    size_t kind = below32(seed, 4);
    if (!depth || kind < 2) {
        buffer_text(b, scalars[below32(seed, COUNT_OF(scalars))]);
        return;
    }
    buffer_text(b, kind == 2 ? "[" : "{ ");
    for (size_t n = below32(seed, 4), i = 0; i < n; i++) {
        if (i) buffer_text(b, " ,");
        if (kind == 3) buffer_print(b, "\"k%zu\" :", i);
        test_random_json(seed, b, depth - 1);
    }
    buffer_text(b, kind == 2 ? "]" : "}");
}

/* Counts the values in a value by way of the readers, and looks each member up by name. */
static size_t test_walk(struct json_value value)
{
    struct json_value inner;
    size_t total = 1, cursor = 0;
    while (json_item(value, &cursor, &inner)) total += test_walk(inner);
    for (int i = 0; i < 4; i++) {
        char name[3] = {'k', (char)('0' + i)};
        if (json_member(value, name, &inner)) total += test_walk(inner);
    }
    return total;
}

/* Counts the values in a text by its characters: every value but the first follows a [ that is not
 * closed at once, a colon or, in an array, a comma. */
static size_t test_count_values(struct span text)
{
    size_t total = 1;
    char stack[32];
    int depth = 0;
    for (size_t i = 0; i < text.len; i++) {
        char c = text.at[i];
        if (c == '"')
            for (i++; text.at[i] != '"'; i++) i += text.at[i] == '\\';
        else if (c == '[' || c == '{') stack[depth++] = c;
        else if (c == ']' || c == '}') depth--;
        total += c == ':' || (c == '[' && text.at[i + 1] != ']') ||
                 (c == ',' && stack[depth - 1] == '[');
    }
    return total;
}

static void test_json_random_documents(void **state)
{
    (void)state;
    uint32_t seed = 700;
    for (int round = 0; round < 3000; round++) {
        struct buffer b = {0};
        struct json_value value;
        test_random_json(&seed, &b, 6);
        struct span text = exact_copy(b.at, b.len);
        if (!json_parse(text, 6, &value)) fail_msg("refused: %.*s", (int)b.len, b.at);
        assert_int_equal(test_walk(value), test_count_values(text));
        exact_free(text);
        buffer_free(&b);
    }
}

static const struct CMUnitTest JSON_TESTS[] = {
    cmocka_unit_test(test_json_accepts),
    cmocka_unit_test(test_json_refuses),
    cmocka_unit_test(test_json_refuses_every_prefix),
    cmocka_unit_test(test_json_depth),
    cmocka_unit_test(test_json_kinds),
    cmocka_unit_test(test_json_members),
    cmocka_unit_test(test_json_items),
    cmocka_unit_test(test_json_strings),
    cmocka_unit_test(test_json_numbers),
    cmocka_unit_test(test_json_writes),
    cmocka_unit_test(test_json_writer),
    cmocka_unit_test(test_json_strings_come_back),
    cmocka_unit_test(test_json_random_documents),
};
