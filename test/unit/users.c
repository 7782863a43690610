/* Users: the directory keeps its order. */
#include "unit.h"

/* Users stay in byte order, each once, through random insertions and removals. */
static void directory_keeps_order(void **unused)
{
    (void)unused;
    enum { COUNT = 3000 };
    struct directory d = {0};
    struct user *users[COUNT];
    bool in[COUNT] = {0};
    size_t count = 0;
    uint64_t seed = 7;
    for (int i = 0; i < COUNT; i++) {
        char id[16];
        int len = snprintf(id, sizeof id, "%c%d", "aZ\xc3"[i % 3], i * 7919 % 100003);
        users[i] = mem_new(sizeof **users + (size_t)len);
        memcpy(users[i]->id, id, (size_t)len);
        users[i]->id_len = (uint8_t)len;
    }
    for (int step = 0; step < 60000; step++) {
        bool grow = step % 20000 < 12000;
        size_t i = below64(&seed, COUNT);
        if (!in[i] && (grow || below64(&seed, 3) == 0)) directory_insert(&d, users[i]);
        else if (in[i] && (!grow || below64(&seed, 3) == 0)) directory_remove(&d, users[i]);
        else continue;
        in[i] = !in[i];
        count += in[i] ? 1 : (size_t)-1;
        if (step % 97) continue;
        size_t seen = 0;
        const struct user *last = NULL;
        for (size_t r = 0; r < d.count; r++) {
            assert_true(d.runs[r]->count > 0 && d.runs[r]->count <= RUN_MAX);
            for (size_t k = 0; k < d.runs[r]->count; k++, seen++) {
                const struct user *user = d.runs[r]->users[k];
                if (last)
                    assert_true(bytes_compare(last->id, last->id_len, user->id, user->id_len) < 0);
                last = user;
            }
        }
        assert_int_equal(seen, count);
        for (int k = 0; k < COUNT; k += 13) {
            size_t run, at;
            assert_int_equal(
                directory_seek(&d, (struct span){users[k]->id, users[k]->id_len}, &run, &at),
                in[k]);
        }
    }
    for (int i = 0; i < COUNT; i++) {
        if (in[i]) directory_remove(&d, users[i]);
        free(users[i]);
    }
    assert_int_equal(d.count, 0);
    free(d.runs);
}

/* Ids that come in order fill their runs: memory for a user is one pointer, not two. */
static void directory_fills_runs_in_order(void **unused)
{
    (void)unused;
    struct directory d = {0};
    enum { COUNT = RUN_MAX * 40 };
    for (int i = 0; i < COUNT; i++) {
        struct user *user = mem_new(sizeof *user + 9); /* snprintf adds a NUL */
        user->id_len = (uint8_t)snprintf(user->id, 9, "%08d", i);
        directory_insert(&d, user);
    }
    assert_int_equal(d.count, 40);
    for (size_t r = 0; r < d.count; r++) {
        for (size_t k = 0; k < d.runs[r]->count; k++) free(d.runs[r]->users[k]);
        free(d.runs[r]);
    }
    free(d.runs);
}

static const struct CMUnitTest USERS_TESTS[] = {
    cmocka_unit_test(directory_keeps_order),
    cmocka_unit_test(directory_fills_runs_in_order),
};
