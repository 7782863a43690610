/* Routes: which path is which. */
#include "unit.h"

/* Which route a path takes, and which user it names. */
static void routes_match(void **unused)
{
    (void)unused;
    static const struct {
        const char *method, *path, *pattern, *id;
        enum error error;
    } rows[] = {
        {"GET", "/api/presence/alice", "/api/presence/{id}", "alice", ERROR_NONE},
        {"HEAD", "/api/presence/alice", "/api/presence/{id}", "alice", ERROR_NONE},
        {"GET", "/api/presence/a%2Fb", "/api/presence/{id}", "a/b", ERROR_NONE},
        {"GET", "/api/presence/100%25", "/api/presence/{id}", "100%", ERROR_NONE},
        {"GET", "/api/presence/a+b", "/api/presence/{id}", "a+b", ERROR_NONE},
        {"GET", "/api/presence/..", "/api/presence/{id}", "..", ERROR_NONE},
        {"GET", "/ws/presence/.", "/ws/presence/{id}", ".", ERROR_NONE},
        {"GET", "/api/presence/", "/api/presence/{id}", NULL, ERROR_INVALID_USER_ID},
        {"GET", "/api/presence/%", "/api/presence/{id}", NULL, ERROR_INVALID_USER_ID},
        {"GET", "/api/presence/%00", "/api/presence/{id}", NULL, ERROR_INVALID_USER_ID},
        {"GET", "/api/presence/%0a", "/api/presence/{id}", NULL, ERROR_INVALID_USER_ID},
        {"GET", "/api/presence/a/b", NULL, NULL, ERROR_NOT_FOUND},
        {"GET", "/api/presence", NULL, NULL, ERROR_METHOD_NOT_ALLOWED},
        {"POST", "/api/presence", "/api/presence", NULL, ERROR_NONE},
        {"POST", "/api/presence/a/heartbeat", "/api/presence/{id}/heartbeat", "a", ERROR_NONE},
        {"GET", "/api/presence/a/heartbeat", NULL, NULL, ERROR_METHOD_NOT_ALLOWED},
        {"DELETE", "/admin/users/a/connections", "/admin/users/{id}/connections", "a", ERROR_NONE},
        {"PUT", "/healthz", NULL, NULL, ERROR_METHOD_NOT_ALLOWED},
        {"GET", "/healthz/", NULL, NULL, ERROR_NOT_FOUND},
        {"GET", "/nothing", NULL, NULL, ERROR_NOT_FOUND},
        {"GET", "//////", NULL, NULL, ERROR_NOT_FOUND},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct seam_request raw = {.method = rows[i].method, .target = rows[i].path};
        struct http_request request = {.raw = &raw};
        struct http_response response = {0};
        const struct route *route = NULL;
        enum error error = route_find(&request, &response, &route);
        if (error != rows[i].error) fail_msg("%s: %s", rows[i].path, ERRORS[error].code);
        if (rows[i].pattern) assert_string_equal(route->pattern, rows[i].pattern);
        if (rows[i].id) assert_string_equal(request.id, rows[i].id);
        assert_int_equal(error == ERROR_METHOD_NOT_ALLOWED,
                         strstr(response.extra, "Allow: ") != NULL);
    }
}

static const struct CMUnitTest ROUTES_TESTS[] = {
    cmocka_unit_test(routes_match),
};
