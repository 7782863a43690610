/* Unit tests of presence.c under cmocka, a file for each section. */
#include "unit/unit.h"

#include "unit/acme.c"
#include "unit/addresses.c"
#include "unit/broadcast.c"
#include "unit/certificates.c"
#include "unit/cluster.c"
#include "unit/cluster_webhook.c"
#include "unit/cluster_stats.c"
#include "unit/connections.c"
#include "unit/curve.c"
#include "unit/engine.c"
#include "unit/events.c"
#include "unit/hosts.c"
#include "unit/http.c"
#include "unit/hub.c"
#include "unit/json.c"
#include "unit/log.c"
#include "unit/logins.c"
#include "unit/options.c"
#include "unit/outbox.c"
#include "unit/passwords.c"
#include "unit/records.c"
#include "unit/roots.c"
#include "unit/routes.c"
#include "unit/rules.c"
#include "unit/store.c"
#include "unit/store_check.c"
#include "unit/store_commands.c"
#include "unit/text.c"
#include "unit/timers.c"
#include "unit/tokens.c"
#include "unit/users.c"
#include "unit/util.c"
#include "unit/watch.c"
#include "unit/webhooks.c"
#include "unit/websocket.c"

/* The groups, in the order of the sections. */
static const struct {
    const char *name;
    const struct CMUnitTest *tests;
    size_t count;
    bool threads; /* its code is that of several threads */
    int (*setup)(void **);
    int (*teardown)(void **);
} GROUPS[] = {
    {"util", UTIL_TESTS, COUNT_OF(UTIL_TESTS), true, NULL, NULL},
    {"log", LOG_TESTS, COUNT_OF(LOG_TESTS), false, NULL, NULL},
    {"text", TEXT_TESTS, COUNT_OF(TEXT_TESTS), false, NULL, NULL},
    {"hosts", HOSTS_TESTS, COUNT_OF(HOSTS_TESTS), false, NULL, NULL},
    {"json", JSON_TESTS, COUNT_OF(JSON_TESTS), false, NULL, NULL},
    {"options", OPTIONS_TESTS, COUNT_OF(OPTIONS_TESTS), false, NULL, NULL},
    {"tokens", TOKENS_TESTS, COUNT_OF(TOKENS_TESTS), true, token_setup, token_teardown},
    {"passwords", PASSWORDS_TESTS, COUNT_OF(PASSWORDS_TESTS), false, NULL, NULL},
    {"curve", CURVE_TESTS, COUNT_OF(CURVE_TESTS), false, NULL, NULL},
    {"records", RECORDS_TESTS, COUNT_OF(RECORDS_TESTS), true, NULL, NULL},
    {"store_check", STORE_CHECK_TESTS, COUNT_OF(STORE_CHECK_TESTS), true, NULL, NULL},
    {"store", STORE_TESTS, COUNT_OF(STORE_TESTS), true, NULL, NULL},
    {"outbox", OUTBOX_TESTS, COUNT_OF(OUTBOX_TESTS), true, NULL, NULL},
    {"store_commands", STORE_COMMANDS_TESTS, COUNT_OF(STORE_COMMANDS_TESTS), true, NULL, NULL},
    {"timers", TIMERS_TESTS, COUNT_OF(TIMERS_TESTS), false, NULL, NULL},
    {"addresses", ADDRESSES_TESTS, COUNT_OF(ADDRESSES_TESTS), false, NULL, NULL},
    {"logins", LOGINS_TESTS, COUNT_OF(LOGINS_TESTS), false, NULL, NULL},
    {"users", USERS_TESTS, COUNT_OF(USERS_TESTS), false, NULL, NULL},
    {"rules", RULES_TESTS, COUNT_OF(RULES_TESTS), false, NULL, NULL},
    {"events", EVENTS_TESTS, COUNT_OF(EVENTS_TESTS), true, NULL, NULL},
    {"watch", WATCH_TESTS, COUNT_OF(WATCH_TESTS), true, NULL, NULL},
    {"websocket", WEBSOCKET_TESTS, COUNT_OF(WEBSOCKET_TESTS), false, NULL, NULL},
    {"http", HTTP_TESTS, COUNT_OF(HTTP_TESTS), false, NULL, NULL},
    {"certificates", CERTIFICATES_TESTS, COUNT_OF(CERTIFICATES_TESTS), true, NULL, NULL},
    {"roots", ROOTS_TESTS, COUNT_OF(ROOTS_TESTS), false, NULL, NULL},
    {"webhooks", WEBHOOKS_TESTS, COUNT_OF(WEBHOOKS_TESTS), true, NULL, NULL},
    {"acme", ACME_TESTS, COUNT_OF(ACME_TESTS), false, acme_setup, acme_teardown},
    {"cluster", CLUSTER_TESTS, COUNT_OF(CLUSTER_TESTS), false, NULL, NULL},
    {"cluster_webhook", CLUSTER_WEBHOOK_TESTS, COUNT_OF(CLUSTER_WEBHOOK_TESTS), false, NULL, NULL},
    {"cluster_stats", CLUSTER_STATS_TESTS, COUNT_OF(CLUSTER_STATS_TESTS), false, NULL, NULL},
    {"engine", ENGINE_TESTS, COUNT_OF(ENGINE_TESTS), true, real_start, real_stop},
    {"connections", CONNECTIONS_TESTS, COUNT_OF(CONNECTIONS_TESTS), true, NULL, NULL},
    {"broadcast", BROADCAST_TESTS, COUNT_OF(BROADCAST_TESTS), true, NULL, NULL},
    {"hub", HUB_TESTS, COUNT_OF(HUB_TESTS), true, NULL, NULL},
    {"routes", ROUTES_TESTS, COUNT_OF(ROUTES_TESTS), false, NULL, NULL},
};

/* Whether a test is to run: under the thread sanitizer those in which threads cross, and where all
 * is wanted (./build.sh test STEP) whatever belongs to code of several threads. */
static bool test_wanted(size_t group, const struct CMUnitTest *test)
{
    if (!ONLY_THREADS || test->initial_state == CROSSING) return true;
    return GROUPS[group].threads && getenv("PRESENCE_THOROUGH");
}

int main(void)
{
    int failed = 0;
    for (size_t i = 0; i < COUNT_OF(GROUPS); i++) {
        struct CMUnitTest tests[100];
        size_t count = 0;
        assert(GROUPS[i].count <= COUNT_OF(tests));
        for (size_t k = 0; k < GROUPS[i].count; k++)
            if (test_wanted(i, &GROUPS[i].tests[k])) tests[count++] = GROUPS[i].tests[k];
        if (count)
            failed += _cmocka_run_group_tests(GROUPS[i].name, tests, count, GROUPS[i].setup,
                                              GROUPS[i].teardown);
    }
    return failed ? 1 : 0;
}
