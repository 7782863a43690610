/* Timers: the wheel fires in time, whatever the steps. */
#include "unit.h"

/* Every timer fires once, not before it is due and at most a tick after, whatever the steps. */
static void timers_fire_in_time(void **unused)
{
    (void)unused;
    enum { COUNT = 300, TICK = 1 << WHEEL_TICK_SHIFT };
    static const int64_t horizons[] = {100, 5000, 300000, 20000000, INT64_C(20000000000)};
    struct wheel wheel;
    struct timer timers[COUNT] = {0};
    int64_t due[COUNT] = {0}, hoped[COUNT] = {0}, now = 1000003;
    uint64_t seed = 42;
    size_t fired = 0, armed = 0;
    wheel_init(&wheel, now);
    for (int step = 0; step < 200000; step++) {
        size_t i = below64(&seed, COUNT);
        int64_t horizon = horizons[below64(&seed, 5)];
        if (below64(&seed, 4) == 0) {
            if (due[i]) armed--;
            timer_disarm(&wheel, &timers[i]);
            due[i] = 0;
        } else {
            if (!due[i]) armed++;
            due[i] = now + (int64_t)below64(&seed, (size_t)horizon) - horizon / 50;
            if (due[i] < 1) due[i] = 1;
            timer_arm(&wheel, &timers[i], due[i]);
            hoped[i] = due[i] > now ? due[i] : now; /* armed for the past: at once */
        }
        int64_t wait = wheel_wait(&wheel, now), first = INT64_MAX;
        for (int k = 0; k < COUNT; k++)
            if (due[k] && due[k] < first) first = due[k];
        assert_int_equal(wheel.armed, armed);
        if (!armed) assert_int_equal(wait, -1);
        else assert_true(wait >= 0 && now + wait <= (first > now ? first : now) + TICK);
        int64_t before = now;
        now +=
            below64(&seed, 2000) ? (int64_t)below64(&seed, 200) : (int64_t)below64(&seed, 40000000);
        for (struct timer *timer; (timer = wheel_pop(&wheel, now));) {
            size_t k = (size_t)(timer - timers);
            assert_true(due[k] && due[k] <= now);
            assert_true(hoped[k] + TICK > before);
            due[k] = 0;
            armed--;
            fired++;
        }
        for (int k = 0; k < COUNT; k++) assert_true(!due[k] || due[k] + TICK > now);
    }
    assert_true(fired > 5000);
    while (wheel_take(&wheel)) armed--;
    assert_int_equal(armed, 0);
}

static const struct CMUnitTest TIMERS_TESTS[] = {
    cmocka_unit_test(timers_fire_in_time),
};
