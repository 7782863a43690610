/* Store, changes: the outbox of the webhook against a model. */
#include "unit.h"
#include "store.h"

enum { OUTBOX_MODEL_MAX = 400000 };

/* What the outbox should hold: the serial numbers of changes, and how they have been in batches. */
struct outbox_model {
    int first, next; /* serials of the oldest and of the next change */
    int given_up;    /* that the store said it gave up */
    uint8_t *place;  /* of each serial */
    int64_t wall;
};

/* True if a batch that was taken begins at a change, as far as batches were taken that say so. */
enum { PLACE_UNKNOWN, PLACE_BEGINS, PLACE_FOLLOWS };

/* Notes whether a taken begins at a change; it does so for ever. */
static void outbox_place(struct outbox_model *m, int serial, uint8_t place)
{
    if (m->place[serial]) assert_int_equal(m->place[serial], place);
    m->place[serial] = place;
}

/* A change that carries its serial number. */
static void outbox_add(struct store_batch *batch, struct outbox_model *m)
{
    char text[64];
    int n = snprintf(text, sizeof text, "{\"position\":\"0000000a-%d\"}", m->next++);
    store_batch_change(batch, m->wall, (struct span){text, (size_t)n}, false);
}

/* Reads the next serial of a taken's text; *at moves behind it. */
static int outbox_serial(const char *text, size_t len, size_t *at)
{
    static const char before[] = "{\"position\":\"0000000a-";
    if (*at >= len) return -1;
    if (*at) assert_int_equal(text[(*at)++], ',');
    assert_memory_equal(text + *at, before, sizeof before - 1);
    *at += sizeof before - 1;
    int n = 0;
    while (text[*at] != '"') n = n * 10 + text[(*at)++] - '0';
    *at += 2;
    return n;
}

/* Takes a taken and holds it against what is known: the oldest changes that are left, in order,
 * in the company in which they were seen before. Returns how many, and what the store calls the
 * last. */
static int outbox_take(struct store *st, struct outbox_model *m, size_t most, uint64_t *last)
{
    struct outbox_batch taken = {0};
    assert_true(store_outbox_close(st));
    int found = store_outbox_next(st, &taken), count = 0;
    assert_int_equal(found, m->first < m->next);
    size_t at = 0;
    for (int serial; (serial = outbox_serial(taken.text.at, taken.text.len, &at)) >= 0; count++) {
        assert_int_equal(serial, m->first + count);
        outbox_place(m, serial, count ? PLACE_FOLLOWS : PLACE_BEGINS);
    }
    if (count) outbox_place(m, m->first + count, PLACE_BEGINS); /* what comes behind it */
    assert_int_equal(taken.count, count);
    assert_true((size_t)count <= most);
    if (count) { /* the same text as that of its first change says */
        char want[32], name[DELIVERY_TEXT];
        snprintf(want, sizeof want, "0000000a-%d", m->first);
        assert_string_equal(outbox_batch_name(&taken, false, name), want);
    }
    *last = taken.last;
    buffer_free(&taken.text);
    store_outbox_pin(st, 0);
    return count;
}

/* Opens the model's store. */
static struct store *outbox_open(const struct test_place *p, size_t max, size_t outbox_batch_max)
{
    char err[512];
    struct store_options options = {.dir = p->dir,
                                    .map_size = 1 << 20,
                                    .outbox_max = max,
                                    .outbox_batch_max = outbox_batch_max};
    struct store *st = store_open(&options, &test_log, &test_counters, WHY(err));
    if (!st) fail_msg("%s", err);
    return st;
}

/* Rounds of changes, deliveries that go well or not, restarts and overflow. */
static void outbox_rounds(unsigned seed, size_t max, size_t outbox_batch_max)
{
    struct test_place p = place_make();
    struct store *st = outbox_open(&p, max, outbox_batch_max);
    struct outbox_model m = {.wall = 1000000};
    m.place = mem_new(OUTBOX_MODEL_MAX);
    struct store_batch batch = {0};
    uint64_t dead = atomic_load(&test_counters.webhook_dead);
    int unwritten = 0; /* changes delivered of which the store has not been told */
    srand(seed);
    for (int round = 0; round < 400; round++) {
        int what = rand() % 10, changes = what < 6 ? rand() % (round % 100 < 20 ? 60 : 12) : 0;
        uint64_t last;
        for (int i = 0; i < changes; i++) outbox_add(&batch, &m);
        if (rand() % 50 == 0) m.wall += STORE_BATCH_MS;
        if (changes) write_now(st, &batch);
        if (changes) unwritten = 0;
        int trimmed = (int)(atomic_load(&test_counters.webhook_dead) - dead);
        m.first += trimmed - m.given_up;
        m.given_up = trimmed;
        if (changes) assert_true((size_t)(m.next - m.first) <= max);
        if (what == 6) { /* kill -9: what the store was not told is delivered once more */
            store_batch_clear(&batch);
            store_close(st);
            st = outbox_open(&p, max, outbox_batch_max);
            m.first -= unwritten;
            unwritten = 0;
        }
        if (what < 7) continue;
        int count = outbox_take(st, &m, outbox_batch_max, &last);
        if (!count || what == 7) continue; /* it could not be delivered */
        m.first += count;
        atomic_store(&st->outbox_done, last);
        struct store_stats stats;
        store_stats(st, &stats); /* what is done with does not count, removed or not */
        assert_int_equal(stats.outbox, m.next - m.first);
        store_batch_delivered(&batch, last);
        unwritten += count;
        if (what == 8) write_now(st, &batch); /* otherwise with the changes to come */
        if (what == 8) unwritten = 0;
        store_stats(st, &stats);
        assert_int_equal(stats.outbox, m.next - m.first);
    }
    write_now(st, &batch);
    store_close(st);
    FILE *null = fopen("/dev/null", "w");
    assert_int_equal(store_command_check(p.dir, null, stderr), 0);
    fclose(null);
    buffer_free(&batch.ops);
    free(m.place);
    place_remove(&p);
}

static void outbox_keeps_order_and_company(void **state)
{
    (void)state;
    outbox_rounds(1, 1000000, 100);
    outbox_rounds(2, 1000000, 7);
    outbox_rounds(3, 1000000, 1);
}

static void outbox_gives_up_the_oldest(void **state)
{
    (void)state;
    outbox_rounds(4, 100, 10);
    outbox_rounds(5, 40, 4);
    outbox_rounds(6, 10, 1);
}

static void outbox_spares_what_is_being_delivered(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = outbox_open(&p, 20, 2);
    struct outbox_model m = {.wall = 1000000};
    struct store_batch batch = {0};
    struct store_stats stats;
    struct outbox_batch taken = {0};
    uint64_t dead = atomic_load(&test_counters.webhook_dead);
    for (int i = 0; i < 20; i++) outbox_add(&batch, &m);
    write_now(st, &batch);
    assert_true(store_outbox_close(st));
    for (int i = 0; i < 10; i++) outbox_add(&batch, &m);
    write_now(st, &batch); /* nothing is given up before it is known what is taken */
    assert_int_equal(store_outbox_next(st, &taken), 1);
    assert_int_equal(taken.count, 2);
    store_outbox_pin(st, taken.last);
    for (int i = 0; i < 10; i++) outbox_add(&batch, &m);
    write_now(st, &batch);
    store_stats(st, &stats);
    assert_int_equal(stats.outbox, 20);
    assert_int_equal(atomic_load(&test_counters.webhook_dead) - dead, 20);
    uint64_t last = taken.last;
    buffer_free(&taken.text);
    taken = (struct outbox_batch){0};
    assert_int_equal(store_outbox_next(st, &taken), 1); /* the same is the oldest still */
    assert_memory_equal(taken.text.at, "{\"position\":\"0000000a-0\"}", 24);
    buffer_free(&taken.text);
    atomic_store(&st->outbox_done, last); /* delivered: not given up before it is removed either */
    store_outbox_pin(st, 0);
    for (int i = 0; i < 2; i++) outbox_add(&batch, &m);
    write_now(st, &batch);
    assert_int_equal(atomic_load(&test_counters.webhook_dead) - dead, 22);
    store_stats(st, &stats);
    assert_int_equal(stats.outbox, 18);
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

static void outbox_seals_after_a_transaction(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = outbox_open(&p, 1000, 100);
    struct outbox_model m = {.wall = 1000000};
    struct store_batch batch = {0};
    struct outbox_batch taken = {0};
    outbox_add(&batch, &m);
    store_write_begins(st); /* as the writer does */
    assert_false(store_outbox_close(st));
    assert_false(store_outbox_close(st));
    struct store_commit commit = {.batch = &batch};
    assert_int_equal(store_transact(st, store_apply, &commit), 0);
    store_write_ended(st, 0);
    store_batch_clear(&batch);
    outbox_add(&batch, &m);
    write_now(st, &batch); /* not to be added to what was closed */
    assert_true(store_outbox_close(st));
    assert_int_equal(store_outbox_next(st, &taken), 1);
    assert_int_equal(taken.count, 1);
    buffer_free(&taken.text);
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

/* What is taken is the same when it is taken again, however a transaction lies to the close: what
 * came behind that may still get company. */
static void outbox_takes_only_what_is_sealed(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = outbox_open(&p, 1000, 100);
    struct outbox_model m = {.wall = 1000000};
    struct store_batch batch = {0};
    struct store_commit commit = {0};
    for (int during = 0; during < 2; during++) {
        struct outbox_batch first = {0}, again = {0};
        if (during) store_write_begins(st); /* as the writer does */
        assert_int_equal(store_outbox_close(st), !during);
        if (during) assert_int_equal(store_transact(st, store_apply, &commit), 0);
        if (during) store_write_ended(st, 0);
        outbox_add(&batch, &m);
        write_now(st, &batch);
        if (during) store_write_begins(st);
        if (during) assert_true(store_outbox_close(st));
        int found = store_outbox_next(st, &first);
        assert_int_equal(found, during); /* or it would wait for the next change */
        outbox_add(&batch, &m);
        commit.batch = &batch;
        if (during) assert_int_equal(store_transact(st, store_apply, &commit), 0);
        if (during) store_write_ended(st, 0);
        else write_now(st, &batch);
        store_batch_clear(&batch);
        assert_true(store_outbox_close(st));
        assert_int_equal(store_outbox_next(st, &again), 1);
        if (found) assert_int_equal(again.count, first.count);
        atomic_store(&st->outbox_done, again.last);
        store_outbox_pin(st, 0);
        buffer_free(&first.text);
        buffer_free(&again.text);
        commit.batch = NULL;
    }
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

static void outbox_clock_counts_waits_and_nothing_else(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 50; seed++) {
        struct outbox_clock clock = {.sum = rand() % 1000};
        int64_t now = rand(), until = now, want = clock.sum;
        srand(seed);
        for (int step = 0; step < 100; step++) {
            int64_t passes = rand() % 20, wait = rand() % 30;
            if (rand() % 10 == 0) passes += 172800000; /* it slept, or was stopped, for two days */
            for (int64_t ms = 0; ms < passes && now + ms < until; ms++) want++;
            now += passes;
            assert_int_equal(outbox_clock_read(&clock, now), want);
            if (rand() % 2) continue;
            until = rand() % 3 ? now + wait : now; /* a try, or the end of it */
            outbox_clock_run(&clock, now, until);
            assert_int_equal(outbox_clock_read(&clock, now), want);
        }
    }
}

/* Takes the taken of one change and has it removed; what the clock showed when it was written. */
static int64_t outbox_take_tried(struct store *st, struct store_batch *batch)
{
    struct outbox_batch taken = {0};
    assert_true(store_outbox_close(st));
    assert_int_equal(store_outbox_next(st, &taken), 1);
    assert_int_equal(taken.count, 1);
    int64_t tried = taken.tried;
    buffer_free(&taken.text);
    atomic_store(&st->outbox_done, taken.last);
    store_outbox_pin(st, 0);
    store_batch_delivered(batch, taken.last);
    write_now(st, batch);
    return tried;
}

static void outbox_sums_waits_over_restarts(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = outbox_open(&p, 1000, 1);
    struct store_batch batch = {0};
    struct outbox_model m = {.wall = 1000000};
    int64_t want[60], now = 1, sum = 0;
    srand(11);
    for (int i = 0; i < 60; i++) {
        int64_t wait = rand() % 3 ? rand() % 20 : 0; /* long over by the machine's own clock */
        store_outbox_try(st, now, now + wait);
        sum += wait;
        now += wait;
        m.wall += rand() % 2 ? 172800000 : -172800000; /* UTC is stepped */
        want[i] = sum;
        outbox_add(&batch, &m);
        write_now(st, &batch);
        if (rand() % 4) continue;
        store_close(st);
        st = outbox_open(&p, 1000, 1);
        now = 1; /* the machine too began anew */
        assert_int_equal(store_outbox_try(st, now, now), sum);
    }
    for (int i = 0; i < 60; i++) assert_int_equal(outbox_take_tried(st, &batch), want[i]);
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

/* What texts say of their position. */
static const struct {
    const char *text;
    uint32_t epoch;
    uint64_t sequence;
} POSITIONS[] = {
    {"{\"position\":\"0000000a-7\",\"change\":\"join\"}", 10, 7},
    {"{\"position\":\"fffffffe-18446744073709551615\"}", 0xfffffffe, UINT64_MAX},
    {"{\"position\":\"0000000a-07\"}", 0, 0},
    {"{\"position\":\"0000000a-7", 0, 0},
    {"{\"position\":\"", 0, 0},
    {"{\"position\":7}", 0, 0},
    {"{ \"position\":\"0000000a-7\"}", 0, 0},
    {"{}", 0, 0},
    {"", 0, 0},
};

static void changes_say_their_position(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(POSITIONS); i++) {
        size_t len = strlen(POSITIONS[i].text);
        char *exact = mem_new(len + 1);
        memcpy(exact, POSITIONS[i].text, len);
        exact = mem_resize(exact, len ? len : 1);
        struct position at = change_position((struct span){exact, len});
        assert_int_equal(at.epoch, POSITIONS[i].epoch);
        assert_true(at.sequence == POSITIONS[i].sequence);
        free(exact);
    }
}

/* A node's outbox: what others delivered is passed over, other epochs are forgotten, and a reset is
 * taken alone, whatever came before it and in which pieces; against a list. */
static void outbox_follows_a_log(void **state)
{
    (void)state;
    static struct {
        uint32_t epoch;
        uint64_t sequence;
        bool apart;
    } list[20000];
    struct test_place p = place_make();
    struct store *st = outbox_open(&p, 1000000, 9);
    struct store_batch batch = {0};
    size_t first = 0, count = 0, expect = 0;
    uint64_t sequence = 1, dead = atomic_load(&test_counters.webhook_dead);
    uint32_t epoch = 1;
    srand(20261129);
    for (int round = 0; round < 3000; round++) {
        int what = rand() % 100;
        if (what < 60) {
            bool apart = rand() % 10 == 0;
            char text[64];
            if (apart && rand() % 3 == 0) epoch++, sequence = (uint64_t)rand() % 50;
            sequence += 1 + (uint64_t)rand() % 3;
            int n = snprintf(text, sizeof text, "{\"position\":\"%08x-%d\"}", epoch, (int)sequence);
            if (apart && rand() % 2) { /* as a node does that joins */
                store_batch_forget(&batch, epoch);
                size_t kept = first;
                for (size_t i = first; i < count; i++) {
                    if (list[i].epoch == epoch) list[kept++] = list[i];
                    else expect++;
                }
                count = kept;
            }
            store_batch_change(&batch, 1000, (struct span){text, (size_t)n}, apart);
            list[count].epoch = epoch;
            list[count].apart = apart;
            list[count++].sequence = sequence;
            if (rand() % 3) write_now(st, &batch);
        } else if (what < 80) { /* the log says how far somebody came */
            struct position at = {epoch - (uint32_t)(rand() % 4 == 0), 0};
            uint64_t through = atomic_load(&st->outbox_done), before = through;
            write_now(st, &batch);
            if (count > first)
                at.sequence = list[first + (size_t)rand() % (count - first)].sequence;
            assert_true(store_outbox_pass(st, at, &through));
            size_t passed = first;
            for (size_t i = first; i < count; i++) {
                if (list[i].epoch != at.epoch) continue;
                if (list[i].sequence > at.sequence) break;
                passed = i + 1;
            }
            assert_int_equal(through > before, passed > first);
            first = passed;
            atomic_store(&st->outbox_done, through);
            if (rand() % 2) store_batch_delivered(&batch, through);
        } else if (what < 95) { /* we come further ourselves */
            struct outbox_batch taken = {0};
            write_now(st, &batch);
            assert_true(store_outbox_close(st));
            int found = store_outbox_next(st, &taken);
            assert_int_equal(found, first < count);
            for (size_t i = 0; i < taken.count; i++) {
                assert_true(!list[first + i].apart || taken.count == 1);
                if (!i) assert_true(taken.from.sequence == list[first].sequence);
                if (!i) assert_int_equal(taken.from.epoch, list[first].epoch);
            }
            if (found) assert_true(taken.to.sequence == list[first + taken.count - 1].sequence);
            if (found && rand() % 4) {
                atomic_store(&st->outbox_done, taken.last);
                first += taken.count;
            }
            store_outbox_pin(st, 0);
            buffer_free(&taken.text);
        } else if (what == 95) { /* kill -9: what the store was told is what it knows */
            write_now(st, &batch);
            store_batch_delivered(&batch, atomic_load(&st->outbox_done));
            write_now(st, &batch);
            store_close(st);
            st = outbox_open(&p, 1000000, 9);
        }
        if (count > COUNT_OF(list) - 10) break;
    }
    write_now(st, &batch);
    struct store_stats stats;
    store_stats(st, &stats);
    assert_int_equal(stats.outbox, count - first);
    assert_int_equal(atomic_load(&test_counters.webhook_dead) - dead, expect);
    assert_true(expect > 50);
    store_close(st);
    buffer_free(&batch.ops);
    place_remove(&p);
}

static void deliveries_are_named(void **state)
{
    (void)state;
    struct outbox_batch batch = {.from = {10, 7}, .to = {10, 9}};
    char name[DELIVERY_TEXT];
    assert_string_equal(outbox_batch_name(&batch, false, name), "0000000a-7");
    assert_string_equal(outbox_batch_name(&batch, true, name), "0000000a-7-9");
    batch.from = batch.to = (struct position){UINT32_MAX, UINT64_MAX};
    assert_string_equal(outbox_batch_name(&batch, true, name),
                        "ffffffff-18446744073709551615-18446744073709551615");
    batch.from = (struct position){0};
    assert_string_equal(outbox_batch_name(&batch, false, name), "");
}

static const struct CMUnitTest OUTBOX_TESTS[] = {
    cmocka_unit_test(changes_say_their_position),
    cmocka_unit_test(outbox_follows_a_log),
    cmocka_unit_test(deliveries_are_named),
    cmocka_unit_test(outbox_keeps_order_and_company),
    cmocka_unit_test(outbox_gives_up_the_oldest),
    cmocka_unit_test(outbox_spares_what_is_being_delivered),
    cmocka_unit_test(outbox_seals_after_a_transaction),
    cmocka_unit_test(outbox_takes_only_what_is_sealed),
    cmocka_unit_test(outbox_clock_counts_waits_and_nothing_else),
    cmocka_unit_test(outbox_sums_waits_over_restarts),
};
