/* Unit tests: presence.c as it is, with its main out of the way, under cmocka. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#define main presence_main
#include "../presence.c"
#undef main

#include <cmocka.h>

/* The thread sanitizer has nothing to see where there is one thread, and takes minutes for it. */
#ifdef __SANITIZE_THREAD__
enum { ONLY_THREADS = 1 };
#else
enum { ONLY_THREADS = 0 };
#endif

#include "pure_extra.c"
#include "token_extra.c"
#include "unit_core.c"
#include "unit_curve.c"
#include "unit_pure.c"
#include "unit_gate.c"
#include "unit_store.c"
#include "unit_token.c"
#include "unit_tls.c"
#include "unit_events.c"
#include "unit_webhook.c"
#include "unit_watch.c"

int main(void)
{
    int failed = 0;
    if (ONLY_THREADS) {
        cmocka_set_skip_filter("password_*");
    } else {
        failed += cmocka_run_group_tests_name("core", CORE_TESTS, NULL, NULL);
        failed += cmocka_run_group_tests_name("curve", CURVE_TESTS, NULL, NULL);
        failed += cmocka_run_group_tests_name("pure", PURE_TESTS, NULL, NULL);
        failed += cmocka_run_group_tests_name("gate", GATE_TESTS, NULL, NULL);
    }
    failed += cmocka_run_group_tests_name("token", TOKEN_TESTS, token_setup, token_teardown);
    failed += cmocka_run_group_tests_name("tls", TLS_TESTS, NULL, NULL);
    failed += cmocka_run_group_tests_name("store", STORE_TESTS, NULL, NULL);
    failed += cmocka_run_group_tests_name("events", EVENT_TESTS, NULL, NULL);
    failed += cmocka_run_group_tests_name("webhook", WEBHOOK_TESTS, NULL, NULL);
    failed += cmocka_run_group_tests_name("watch", WATCH_TESTS, NULL, NULL);
    return failed ? 1 : 0;
}
