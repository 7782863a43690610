/* Logins: who waits for a hash, and in which order. */
#include "unit.h"

/* A client of the model: an address that tries passwords in its own way. */
struct login_client {
    struct address_entry entry;
    enum { LOGIN_HAMMERS, LOGIN_WAITS, LOGIN_FORGETS, LOGIN_KNOWS } way;
    int64_t next, told; /* when it comes; when it was told to, or 0 */
    int64_t since;      /* of its first try */
};

/* When a client that was told to come after `wait` ms comes. */
static int64_t login_returns(const struct login_client *c, int64_t now, int64_t wait)
{
    if (c->way == LOGIN_HAMMERS) return now + 20 + rand() % 500;
    int64_t after = (wait + 999) / 1000 * 1000 + rand() % 400; /* Retry-After, and the way here */
    if (c->way == LOGIN_FORGETS && rand() % 3) after += rand() % 90000;
    return now + after;
}

/* Guessers of every kind from many addresses, and one who knows the password: whoever comes when
 * told gets in, and one who never guessed wrong does not wait for those who have. */
static void login_rounds(unsigned seed)
{
    enum { CLIENTS = 90 };
    static struct login_client clients[CLIENTS];
    static struct login_queue queue;
    struct login_client *waiting[CLIENTS], *at_it = NULL;
    int64_t now = 1000, done = 0, hash;
    int in_time = 0, known = 0;
    srand(seed);
    hash = 20 + rand() % 480;
    memset(clients, 0, sizeof clients);
    queue = (struct login_queue){.took = hash};
    for (int i = 0; i < CLIENTS; i++) {
        struct login_client *c = &clients[i];
        memcpy(c->entry.key, &i, sizeof i);
        c->way = i % 15 == 0 ? LOGIN_KNOWS : (int)(rand() % 3);
        c->next = now + rand() % 60000;
    }
    while (now < 300000) {
        struct login_client *c = &clients[0];
        for (int i = 1; i < CLIENTS; i++)
            if (clients[i].next < c->next) c = &clients[i];
        if (queue.busy && done <= c->next) { /* a hash is done; the next in turn is let in */
            now = done;
            queue.busy = false;
            if (at_it->way == LOGIN_KNOWS) address_clear_failures(&at_it->entry);
            else address_count_failure(&at_it->entry, now);
            if (at_it->way == LOGIN_KNOWS) known++;
            at_it->next = now + (at_it->way == LOGIN_KNOWS ? 40000 + rand() % 9000 : rand() % 900);
            at_it->told = 0;
            if (queue.waiting) {
                at_it = waiting[0];
                memmove(waiting, waiting + 1, (size_t)--queue.waiting * sizeof *waiting);
                queue.busy = true;
                done = now + hash;
            }
            continue;
        }
        now = c->next;
        int64_t blocked = address_blocked(&c->entry, now), wait = -1;
        bool guessed = address_has_failed(&c->entry, now);
        enum login_turn turn = login_ask(&queue, c->entry.key, guessed, blocked, now, &wait);
        bool told = c->told && now >= c->told && now < c->told + LOGIN_ON_TIME_MS;
        if (told && turn == LOGIN_LATER)
            fail_msg("seed %u: told %d ms ago", seed, (int)(now - c->told));
        in_time += told;
        if (blocked) assert_int_equal(turn, LOGIN_LATER);
        if (turn == LOGIN_LATER) {
            assert_true(wait >= 1 && wait >= blocked);
            if (!guessed) assert_true(wait <= CLIENTS * 1000);
            if (!c->told || now >= c->told || blocked) c->told = now + wait;
            else assert_int_equal(now + wait, c->told); /* a promise is kept */
            c->next = login_returns(c, now, wait);
        } else {
            c->next = INT64_MAX;
            if (turn == LOGIN_NOW) {
                assert_false(queue.busy);
                at_it = c;
                queue.busy = true;
                done = now + hash;
            } else waiting[queue.waiting++] = c;
            assert_true(queue.waiting <= 7); /* as many as can be in time at once */
        }
    }
    assert_true(in_time > 20 && known > 10);
}

static void logins_have_their_turn(void **state)
{
    (void)state;
    for (unsigned seed = 1; seed <= 20; seed++) login_rounds(seed);
}

/* However many guessers wait who are known, one who is not waits for none of them. */
static void logins_of_the_unsuspected_come_first(void **state)
{
    (void)state;
    struct login_queue *queue = mem_new(sizeof *queue);
    uint8_t key[16] = {1};
    int64_t wait, longest = 0;
    queue->busy = true;
    for (int i = 0; i < 300; i++) {
        memcpy(key + 4, &i, sizeof i);
        assert_int_equal(login_ask(queue, key, true, 0, 1000, &wait), LOGIN_LATER);
        if (wait > longest) longest = wait;
    }
    assert_true(longest >= LOGIN_PLACES * LOGIN_STEPS_LATER * LOGIN_STEP_MS);
    for (int i = 0; i < 5; i++) {
        key[1] = (uint8_t)(9 + i);
        assert_int_equal(login_ask(queue, key, false, 0, 1000, &wait), LOGIN_LATER);
        assert_int_equal(wait, 1000 + i * LOGIN_STEP_MS);
        assert_int_equal(login_ask(queue, key, false, 0, 1500, &wait), LOGIN_LATER); /* too early */
        assert_int_equal(wait, 500 + i * LOGIN_STEP_MS);
    }
    assert_int_equal(login_ask(queue, key, false, 0, 6000, &wait), LOGIN_NEXT);
    free(queue);
}

/* Many who were told to come, and come late all at once, do not take all workers one after the
 * other: few are let in, and the others get times at which they can be. */
static void logins_that_come_late_together(void **state)
{
    (void)state;
    enum { MANY = LOGIN_PLACES, HASH = 300 };
    struct login_queue *queue = mem_new(sizeof *queue);
    uint8_t key[16] = {1};
    int64_t wait, at[MANY], late = 61000;
    int let_in = 0, told = 0;
    queue->busy = true;
    queue->took = HASH;
    for (int i = 0; i < MANY; i++) {
        memcpy(key + 4, &i, sizeof i);
        assert_int_equal(login_ask(queue, key, false, 0, 1000, &wait), LOGIN_LATER);
    }
    for (int i = 0; i < MANY; i++) {
        memcpy(key + 4, &i, sizeof i);
        enum login_turn turn = login_ask(queue, key, true, 0, late, &wait);
        if (turn == LOGIN_NEXT) {
            queue->waiting++;
            let_in++;
        } else {
            assert_int_equal(turn, LOGIN_LATER);
            at[told++] = late + wait;
        }
    }
    assert_in_range(let_in, 0, 7); /* those in time, and LOGIN_LATE_MAX */
    for (int i = 0; i < told; i++) {
        int same = 0;
        for (int k = 0; k < told; k++) same += at[k] >= at[i] && at[k] < at[i] + LOGIN_ON_TIME_MS;
        /* of either kind one in the time of two hashes */
        assert_in_range(same, 1, 2 * (LOGIN_ON_TIME_MS / (2 * HASH) + 1));
    }
    free(queue);
}

static const struct CMUnitTest LOGINS_TESTS[] = {
    cmocka_unit_test(logins_have_their_turn),
    cmocka_unit_test(logins_of_the_unsuspected_come_first),
    cmocka_unit_test(logins_that_come_late_together),
};
