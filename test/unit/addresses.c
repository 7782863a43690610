/* Limits by address: the table against a list, its bounds and its end. */
#include "unit.h"

/* Of each kind and address one a minute, of all REFUSALS_MAX: against a list. */
static void refusals_are_told_once_a_minute(void **state)
{
    (void)state;
    enum { ADDRESSES = 40, KINDS = 3 };
    static struct refusal_log log;
    const uint64_t seed[2] = {1, 2};
    static int64_t told[ADDRESSES][KINDS];
    int64_t now = 1, since = 0;
    int count = 0, missed = 0, tells = 0;
    srand(8);
    memset(told, 0, sizeof told);
    for (int step = 0; step < 20000; step++) {
        now += rand() % 300;
        int from = rand() % ADDRESSES, what = rand() % KINDS;
        uint8_t address[16] = {[0] = 0x20, [5] = (uint8_t)from, [15] = (uint8_t)rand()};
        bool last = false;
        bool tell = refusal_tells(&log, seed, (unsigned)what, address, now, &last);
        if (!count || now - since >= REFUSAL_MS) since = now, count = 0;
        bool due = !told[from][what] || now - told[from][what] >= REFUSAL_MS;
        if (tell && !due) missed++; /* another took its slot: a line too many */
        if (!tell) assert_true(!due || count >= REFUSALS_MAX);
        if (tell) {
            assert_true(count < REFUSALS_MAX);
            told[from][what] = now;
            count++;
            tells++;
        }
        assert_int_equal(last, tell && count == REFUSALS_MAX);
    }
    assert_true(tells > 1000 && missed < tells / 4);
}

/* A table whose hash is the same in every run. */
static void test_table(struct address_table *table)
{
    address_table_init(table);
    table->map.key[0] = UINT64_C(0x0706050403020100);
    table->map.key[1] = UINT64_C(0x0f0e0d0c0b0a0908);
}

/* The n-th of many keys, half of them IPv4. */
static const uint8_t *test_key(uint32_t n, uint8_t out[16])
{
    static const uint8_t v6[16] = {0x20, 0x01, 0x0d, 0xb8};
    memcpy(out, v6, 16);
    if (n & 1) memcpy(out, ADDRESS_V4_MAPPED, 12);
    uint32_t at = htonl(n);
    memcpy(out + (n & 1 ? 12 : 4), &at, 4);
    return out;
}

/* Every entry stands in its slot and in the list of its rest, as often as the counts say. */
static void test_check_table(const struct address_table *table)
{
    size_t entries = 0, expiring[EXPIRY_COUNT + 1] = {0};
    const struct map *map = &table->map;
    assert_true(map->used >= MAP_SLOTS_MIN && map->used >= map->size / 2);
    assert_true(map->used <= map->size && !(map->size & (map->size - 1)));
    assert_true(map->count <= map->used);
    assert_true(map->used == MAP_SLOTS_MIN || map->used <= 2 * map->count);
    for (size_t i = 0; i < map->used; i++) {
        for (struct map_node *node = map->slots[i]; node; node = node->next, entries++) {
            struct address_entry *entry = container_of(node, struct address_entry, node);
            assert_ptr_equal(map_slot(map, node->hash), &map->slots[i]);
            assert_ptr_equal(address_find(table, entry->key), entry);
            expiring[entry->expiry]++;
        }
    }
    assert_int_equal(entries, map->count);
    for (int rest = 0; rest < EXPIRY_COUNT; rest++) {
        const struct address_list *list = &table->expiring[rest];
        struct address_entry *entry, *const *place = &list->entries.tqh_first;
        size_t n = 0;
        TAILQ_FOREACH (entry, &list->entries, list) {
            assert_ptr_equal(entry->list.tqe_prev, place);
            assert_int_equal(entry->expiry, rest);
            place = &entry->list.tqe_next;
            n++;
        }
        assert_ptr_equal(list->entries.tqh_last, place);
        assert_int_equal(n, table->expiring[rest].count);
        assert_int_equal(n, expiring[rest]);
    }
}

enum { TEST_MODEL_KEYS = 60 };

/* One address of the model. */
struct address_model {
    bool there;
    uint32_t connections, http_conns, failures;
    int64_t until_us, failed_at, blocked_until;
    int expiry;          /* enum address_expiry */
    uint64_t rest_since; /* higher is later */
};

/* Whether the model's address has failures that count. */
static bool model_failed(const struct address_model *m, int64_t now)
{
    return m->failures && now < m->failed_at + 600000;
}

/* Whether the model's address has anything to remember. */
static bool model_rests(const struct address_model *m, int64_t now)
{
    return model_failed(m, now) || m->until_us > now * 1000;
}

/* What address_settle does. */
static void model_settle(struct address_model *m, int64_t now, uint64_t step)
{
    m->expiry = EXPIRY_NONE;
    if (m->connections || m->http_conns) return;
    if (!model_rests(m, now)) {
        *m = (struct address_model){.expiry = EXPIRY_NONE};
        return;
    }
    m->expiry = model_failed(m, now) ? EXPIRY_FAILURE : EXPIRY_PACE;
    m->rest_since = step;
}

/* What address_sweep does: each list from the one that has rested longest to one that waits. */
static void model_sweep(struct address_model *model, int64_t now)
{
    for (int rest = 0; rest < EXPIRY_COUNT; rest++) {
        for (;;) {
            struct address_model *oldest = NULL;
            for (int i = 0; i < TEST_MODEL_KEYS; i++)
                if (model[i].there && model[i].expiry == rest &&
                    (!oldest || model[i].rest_since < oldest->rest_since))
                    oldest = &model[i];
            if (!oldest || model_rests(oldest, now)) break;
            *oldest = (struct address_model){.expiry = EXPIRY_NONE};
        }
    }
}

/* The ms to wait after that many failures in a row. */
static int64_t model_wait(uint32_t failures)
{
    static const int64_t waits[] = {0, 0, 0, 1000, 2000, 4000, 8000, 16000, 32000};
    return failures < COUNT_OF(waits) ? waits[failures] : 60000;
}

/* One random change of an address, in the table and in the model. */
static void model_step(struct address_table *table, struct address_model *m, const uint8_t key[16],
                       uint64_t *seed, int64_t now, uint64_t step)
{
    static const int64_t rates[] = {0, 1, 3, 10, 1000};
    struct address_entry *entry = address_make(table, key);
    size_t what = below64(seed, 10);
    if (!m->there) *m = (struct address_model){.there = true, .expiry = EXPIRY_NONE};
    if (what == 0) {
        entry->connections++, m->connections++;
    } else if ((what == 1 || what == 8) && m->connections) {
        entry->connections--, m->connections--;
    } else if (what == 2) {
        entry->http_conns++, m->http_conns++;
    } else if ((what == 3 || what == 9) && m->http_conns) {
        entry->http_conns--, m->http_conns--;
    } else if (what == 4) {
        int64_t rate = rates[below64(seed, COUNT_OF(rates))];
        int64_t now_us = now * 1000 + (int64_t)below64(seed, 1000);
        int64_t ahead = m->until_us > now_us ? m->until_us - now_us : 0;
        bool taken = !rate || ahead + 1000000 / rate <= 1000000;
        assert_int_equal(address_take_upgrade(entry, now_us, rate), taken);
        if (taken && rate) m->until_us = now_us + ahead + 1000000 / rate;
    } else if (what == 5) {
        m->failures = model_failed(m, now) ? m->failures + 1 : 1;
        m->failed_at = now;
        m->blocked_until = now + model_wait(m->failures);
        assert_int_equal(address_count_failure(entry, now), m->blocked_until - now);
    } else if (what == 6 && below64(seed, 3) == 0) {
        address_clear_failures(entry);
        m->failures = 0;
        m->failed_at = m->blocked_until = 0;
    }
    address_settle(table, entry, now);
    model_settle(m, now, step);
}

/* Everything that is open ends. */
static void model_close(struct address_table *table, struct address_model *model,
                        uint8_t keys[TEST_MODEL_KEYS][16], int64_t now, uint64_t step)
{
    for (int i = 0; i < TEST_MODEL_KEYS; i++) {
        struct address_entry *entry = address_find(table, keys[i]);
        if (!entry || entry->expiry != EXPIRY_NONE) continue;
        entry->connections = entry->http_conns = model[i].connections = model[i].http_conns = 0;
        address_settle(table, entry, now);
        model_settle(&model[i], now, step + (uint64_t)i);
    }
}

/* 100,000 random steps: the table is at each of them what a naive list is. */
static void addresses_agree_with_a_list(void **state)
{
    (void)state;
    struct address_table table;
    struct address_model model[TEST_MODEL_KEYS] = {0};
    uint8_t keys[TEST_MODEL_KEYS][16];
    int64_t now = 1000;
    uint64_t seed = 99;
    size_t most = 0, least = SIZE_MAX;
    test_table(&table);
    for (uint32_t i = 0; i < TEST_MODEL_KEYS; i++) test_key(i, keys[i]);
    for (uint64_t round = 1; round <= 100000; round++) {
        uint64_t step = round * 2 * TEST_MODEL_KEYS;
        size_t some = round / 5000 % 2 ? TEST_MODEL_KEYS : 5, k = below64(&seed, some);
        model_step(&table, &model[k], keys[k], &seed, now, step);
        if (round % 7000 == 0) model_close(&table, model, keys, now, step + 1);
        if (below64(&seed, 50) == 0) {
            address_sweep(&table, now);
            model_sweep(model, now);
        }
        if (below64(&seed, 3) == 0) now += (int64_t)below64(&seed, 100);
        if (below64(&seed, 500) == 0) now += (int64_t)below64(&seed, 700000);
        size_t there = 0;
        for (size_t i = 0; i < TEST_MODEL_KEYS; i++) {
            const struct address_model *m = &model[i];
            const struct address_entry *entry = address_find(&table, keys[i]);
            assert_int_equal(!!entry, m->there);
            if (!entry) continue;
            there++;
            if (entry->connections != m->connections || entry->http_conns != m->http_conns ||
                entry->failures != m->failures || entry->failed_at != m->failed_at ||
                entry->blocked_until != m->blocked_until || entry->expiry != m->expiry ||
                entry->upgrades_until_us != m->until_us || memcmp(entry->key, keys[i], 16))
                fail_msg("key %zu in round %d", i, (int)round);
            int64_t wait = m->blocked_until - now;
            assert_int_equal(address_blocked(entry, now), wait > 0 ? wait : 0);
        }
        assert_int_equal(table.map.count, there);
        if (round % 100 == 0) test_check_table(&table);
        if (there > most) most = there;
        if (there < least && round > 10000) least = there;
    }
    if (most < TEST_MODEL_KEYS / 2 || least > most / 2) fail_msg("%zu to %zu", least, most);
    address_table_free(&table);
}

/* A second's worth at once, then one every 1/rate; what is refused costs nothing. */
static void upgrades_are_paced(void **state)
{
    (void)state;
    static const int64_t rates[] = {1, 2, 3, 5, 7, 10, 100, 250};
    for (size_t i = 0; i < COUNT_OF(rates); i++) {
        struct address_entry entry = {0};
        int64_t rate = rates[i], cost = 1000000 / rate, now = 5000000;
        for (int round = 0; round < 2; round++, now += 10000000) {
            for (int n = 0; n < rate; n++) assert_true(address_take_upgrade(&entry, now, rate));
            for (int n = 0; n < 50; n++) assert_false(address_take_upgrade(&entry, now, rate));
            int64_t full = now + cost * rate - 1000000; /* a second ahead but for the rounding */
            for (int n = 1; n <= 3; n++) {
                assert_false(address_take_upgrade(&entry, full + n * cost - 1, rate));
                assert_true(address_take_upgrade(&entry, full + n * cost, rate));
                assert_false(address_take_upgrade(&entry, full + n * cost, rate));
            }
        }
    }
    struct address_entry entry = {0};
    for (int n = 0; n < 1000; n++) assert_true(address_take_upgrade(&entry, 1, 0));
    assert_int_equal(entry.upgrades_until_us, 0);
    for (int n = 0; n < 1000; n++) assert_true(address_take_upgrade(&entry, 1, 5000000));
    assert_int_equal(entry.upgrades_until_us, 1001);
    entry = (struct address_entry){0};
    for (int n = 0; n < 100; n++) /* at the allowed rate none is refused */
        assert_true(address_take_upgrade(&entry, 1000 + n * 100000, 10));
}

/* Three are free; then the waits, to the ms; then ten minutes forget, or a success. */
static void failures_make_wait(void **state)
{
    (void)state;
    static const int64_t waits[] = {0,     0,     1000,  2000,  4000,  8000,
                                    16000, 32000, 60000, 60000, 60000, 60000};
    struct address_entry entry = {0};
    int64_t now = 123456;
    assert_int_equal(address_blocked(&entry, now), 0);
    for (size_t i = 0; i < COUNT_OF(waits); i++) {
        assert_int_equal(address_blocked(&entry, now), 0);
        assert_int_equal(address_count_failure(&entry, now), waits[i]);
        assert_int_equal(address_blocked(&entry, now), waits[i]);
        if (waits[i]) assert_int_equal(address_blocked(&entry, now + waits[i] - 1), 1);
        now += waits[i];
        assert_int_equal(address_blocked(&entry, now), 0);
    }
    address_count_failure(&entry, now);
    assert_int_equal(address_count_failure(&entry, now + 599999), 60000);
    now += 599999;
    assert_int_equal(address_count_failure(&entry, now + 600000), 0);
    now += 600000;
    assert_int_equal(address_count_failure(&entry, now), 0);
    assert_int_equal(address_count_failure(&entry, now), 1000);
    address_clear_failures(&entry);
    assert_int_equal(address_blocked(&entry, now), 0);
    assert_int_equal(address_count_failure(&entry, now), 0);
    entry.failures = UINT32_MAX;
    assert_int_equal(address_count_failure(&entry, now), 60000);
    assert_int_equal(entry.failures, UINT32_MAX);
}

/* An entry is gone when nothing is open and nothing waits, not a ms before. */
static void addresses_go_when_idle(void **state)
{
    (void)state;
    struct address_table table;
    uint8_t key[16];
    test_table(&table);
    test_key(1, key);
    for (int what = 0; what < 4; what++) {
        struct address_entry *entry = address_make(&table, key);
        int64_t now = 50000, end = now;
        if (what == 0) entry->connections = 1;
        if (what == 1) entry->http_conns = 1;
        if (what == 2) address_take_upgrade(entry, now * 1000, 1), end = now + 1000;
        if (what == 3) address_count_failure(entry, now), end = now + 600000;
        address_settle(&table, entry, now);
        address_sweep(&table, what < 2 ? now + 100000000 : end - 1);
        assert_ptr_equal(address_find(&table, key), entry);
        if (what < 2) {
            entry->connections = entry->http_conns = 0;
            address_settle(&table, entry, now);
        } else {
            address_sweep(&table, end);
        }
        assert_null(address_find(&table, key));
        test_check_table(&table);
    }
    struct address_entry *entry = address_make(&table, key);
    address_take_upgrade(entry, 0, 1);
    address_settle(&table, entry, 999);
    entry->http_conns++; /* in use again, and not settled yet */
    address_sweep(&table, 5000);
    assert_ptr_equal(address_find(&table, key), entry);
    test_check_table(&table);
    entry->http_conns--;
    address_settle(&table, entry, 1000);
    assert_int_equal(table.map.count, 0);
    address_table_free(&table);
}

/* A sweep does a bounded piece of work, and many of them forget everything. */
static void sweeps_forget(void **state)
{
    (void)state;
    enum { COUNT = 3000 };
    struct address_table table;
    uint8_t key[16];
    test_table(&table);
    for (uint32_t i = 0; i < COUNT; i++) {
        struct address_entry *entry = address_make(&table, test_key(i, key));
        if (i % 3 == 0) address_count_failure(entry, i);
        else if (i % 3 == 1) address_take_upgrade(entry, i * 1000, 1);
        else entry->connections = 1;
        address_settle(&table, entry, i);
    }
    assert_int_equal(table.map.count, COUNT);
    address_sweep(&table, 0);
    address_sweep(&table, 999);
    assert_int_equal(table.map.count, COUNT);
    for (size_t left = COUNT / 3, now = 10000; left; now++) {
        size_t gone = left < ADDRESS_SWEEP_MAX ? left : ADDRESS_SWEEP_MAX;
        address_sweep(&table, (int64_t)now);
        left -= gone;
        assert_int_equal(table.expiring[EXPIRY_PACE].count, left);
        assert_int_equal(table.expiring[EXPIRY_FAILURE].count, COUNT / 3);
    }
    address_sweep(&table, 600000 + 29); /* the failures up to 27 */
    assert_int_equal(table.expiring[EXPIRY_FAILURE].count, COUNT / 3 - 10);
    for (int i = 0; i < COUNT / ADDRESS_SWEEP_MAX; i++) address_sweep(&table, 1000000);
    assert_int_equal(table.map.count, COUNT / 3);
    test_check_table(&table);
    for (uint32_t i = 2; i < COUNT; i += 3) {
        struct address_entry *entry = address_find(&table, test_key(i, key));
        assert_non_null(entry);
        entry->connections = 0;
        address_settle(&table, entry, 1000000);
    }
    assert_int_equal(table.map.count, 0);
    test_check_table(&table);
    address_table_free(&table);
}

/* What only waits for time is bounded: the one that has rested longest goes, and no other kind. */
static void resting_addresses_are_bounded(void **state)
{
    (void)state;
    enum { MORE = 100, PACED = 10, OPEN = 10 };
    struct address_table table;
    uint8_t key[16];
    uint32_t n = 0;
    test_table(&table);
    for (uint32_t i = 0; i < PACED + OPEN; i++) {
        struct address_entry *entry = address_make(&table, test_key(n++, key));
        if (i < PACED) address_take_upgrade(entry, 1000000, 1);
        else entry->connections = 1;
        address_settle(&table, entry, 1000);
    }
    for (uint32_t i = 0; i < ADDRESS_EXPIRING_MAX + MORE; i++) {
        struct address_entry *entry = address_make(&table, test_key(n++, key));
        address_count_failure(entry, 1000);
        address_settle(&table, entry, 1000);
        if (i == ADDRESS_EXPIRING_MAX - 1) { /* the first is heard of again, the second in use */
            entry = address_find(&table, test_key(PACED + OPEN, key));
            address_settle(&table, entry, 1000);
            address_find(&table, test_key(PACED + OPEN + 1, key))->http_conns++;
        }
    }
    assert_int_equal(table.expiring[EXPIRY_FAILURE].count, ADDRESS_EXPIRING_MAX);
    assert_int_equal(table.map.count, ADDRESS_EXPIRING_MAX + PACED + OPEN + 1);
    for (uint32_t i = 0; i < n; i++) {
        bool gone = i >= PACED + OPEN + 2 && i < PACED + OPEN + 1 + MORE;
        if (!address_find(&table, test_key(i, key)) != gone) fail_msg("%u of %u", i, n);
    }
    test_check_table(&table);
    assert_int_equal(2 * ADDRESS_EXPIRING_MAX, ADDRESS_ENTRIES_MAX);
    address_table_free(&table);
}

/* Who knows the key of one table knows nothing of another's. */
static void address_tables_have_their_own_keys(void **state)
{
    (void)state;
    struct address_table a, b;
    address_table_init(&a);
    address_table_init(&b);
    assert_memory_not_equal(a.map.key, b.map.key, sizeof a.map.key);
    address_table_free(&a);
    address_table_free(&b);
}

/* Slots come and go with the entries, whose places in memory do not change. */
static void address_tables_grow_and_shrink(void **state)
{
    (void)state;
    enum { COUNT = 20000 };
    struct address_table table;
    struct address_entry **entries = calloc(COUNT, sizeof *entries);
    uint8_t key[16];
    test_table(&table);
    for (uint32_t i = 0; i < COUNT; i++) {
        entries[i] = address_make(&table, test_key(i, key));
        assert_ptr_equal(address_make(&table, key), entries[i]);
        entries[i]->connections = 1;
        address_settle(&table, entries[i], 1);
        if (i % 997 == 0) test_check_table(&table);
    }
    test_check_table(&table);
    assert_int_equal(table.map.count, COUNT);
    assert_int_equal(table.map.used, COUNT);
    size_t longest = 0;
    for (size_t i = 0; i < table.map.used; i++) {
        size_t n = 0;
        for (struct map_node *node = table.map.slots[i]; node; node = node->next) n++;
        if (n > longest) longest = n;
    }
    assert_true(longest < 16);
    for (uint32_t i = 0; i < COUNT; i++) {
        uint32_t k = (uint32_t)((uint64_t)i * 7919 % COUNT); /* 7919 is prime to COUNT */
        assert_ptr_equal(address_find(&table, test_key(k, key)), entries[k]);
        entries[k]->connections = 0;
        address_settle(&table, entries[k], 1);
        assert_null(address_find(&table, key));
        if (i % 997 == 0) test_check_table(&table);
    }
    assert_int_equal(table.map.count, 0);
    assert_int_equal(table.map.used, MAP_SLOTS_MIN);
    assert_true(table.map.size <= 2 * MAP_SLOTS_MIN);
    free(entries);
    address_table_free(&table);
}

/* Keys that meet in one slot, which takes their seed to find, are still told apart. */
static void addresses_may_collide(void **state)
{
    (void)state;
    enum { COUNT = 60 };
    struct address_table table;
    uint8_t keys[COUNT][16];
    test_table(&table);
    uint32_t n = 0;
    for (int i = 0; i < COUNT; i++)
        while (hash_keyed(table.map.key, test_key(n++, keys[i]), 16) & 0x3ff) continue;
    for (int i = 0; i < COUNT; i++) {
        struct address_entry *entry = address_make(&table, keys[i]);
        entry->connections = (uint32_t)i + 1;
        address_settle(&table, entry, 1);
        assert_ptr_equal(table.map.slots[0], &entry->node);
    }
    for (int i = 0; i < COUNT; i++)
        assert_int_equal(address_find(&table, keys[i])->connections, i + 1);
    test_check_table(&table);
    for (int i = 0; i < COUNT; i++) { /* first, last and middle of the chain */
        int k = i % 3 == 0 ? i / 3 : i % 3 == 1 ? COUNT - 1 - i / 3 : 20 + i / 3;
        struct address_entry *entry = address_find(&table, keys[k]);
        assert_int_equal(entry->connections, k + 1);
        entry->connections = 0;
        address_settle(&table, entry, 1);
        assert_null(address_find(&table, keys[k]));
        test_check_table(&table);
    }
    assert_int_equal(table.map.count, 0);
    address_table_free(&table);
}

static const struct CMUnitTest ADDRESSES_TESTS[] = {
    cmocka_unit_test(refusals_are_told_once_a_minute),
    cmocka_unit_test(addresses_agree_with_a_list),
    cmocka_unit_test(upgrades_are_paced),
    cmocka_unit_test(failures_make_wait),
    cmocka_unit_test(addresses_go_when_idle),
    cmocka_unit_test(sweeps_forget),
    cmocka_unit_test(resting_addresses_are_bounded),
    cmocka_unit_test(address_tables_have_their_own_keys),
    cmocka_unit_test(address_tables_grow_and_shrink),
    cmocka_unit_test(addresses_may_collide),
};
