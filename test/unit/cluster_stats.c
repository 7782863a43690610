/* What a node says of the cluster: the delay of the log, whose users and connections are whose, and
 * what it counts. On the rig of cluster.c. */
#include "unit.h"
#include "model.h"

/* The longest delay is that of the last one to two minutes, whatever was asked in between. Held
 * against a list of all delays. */
static void delays_are_kept_by_the_minute(void **unused)
{
    (void)unused;
    uint64_t seed = 20261130;
    for (int round = 0; round < 200; round++) {
        enum { NOTES = 300 };
        int64_t at[NOTES], ms[NOTES], mono = (int64_t)below64(&seed, 1000000);
        struct log_delay d = {.minute = mono};
        for (int i = 0; i < NOTES; i++) {
            mono += (int64_t)below64(&seed, below64(&seed, 40) ? 3000 : 200000);
            at[i] = mono;
            ms[i] = (int64_t)below64(&seed, 5000) - 500;
            log_delay_note(&d, mono, ms[i]);
            assert_int_equal(d.last, ms[i] > 0 ? ms[i] : 0);
            int64_t now = mono + (int64_t)below64(&seed, below64(&seed, 5) ? 1000 : 150000);
            int64_t least = 0, most = 0, found = log_delay_most(d, now);
            for (int k = 0; k <= i; k++) {
                if (at[k] > now - LOG_DELAY_MINUTE && ms[k] > least) least = ms[k];
                if (at[k] >= now - 2 * LOG_DELAY_MINUTE && ms[k] > most) most = ms[k];
            }
            assert_true(found >= least && found <= most);
        }
    }
}

/* Counts anew what the incarnations of a table say: it is what was counted as they said it. */
static void stats_recount(const struct replica *r)
{
    for (size_t i = 0; i < r->count; i++) {
        const struct incarnation *inc = r->incarnations[i];
        size_t users = 0, connections = 0, live = 0;
        struct presence_walk walk = {0};
        for (struct user *user; (user = presence_walk_next(r->table, &walk));) {
            for (const struct said *said = user->said; said; said = said->next) {
                if (said->holder != i) continue;
                users++;
                live += !said->evicted;
                connections += said->connections;
            }
        }
        assert_int_equal(inc->users, users);
        assert_int_equal(inc->live, live);
        assert_int_equal(inc->connections, connections);
    }
}

/* Whatever happens to a cluster, each node knows how many users and connections each has; and the
 * list of nodes has all of them, once. */
static void what_nodes_say_is_counted(void **unused)
{
    (void)unused;
    static struct rig rig;
    size_t connections = 0, gone = 0, unknown = 0;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        rig_begin(&rig, seed * 0x9e3779b97f4a7c15u);
        for (int step = 0; step < 3000; step++) {
            rig_step(&rig, true);
            for (int i = 0; i < RIG_NODES; i++) {
                const struct node *node = &rig.nodes[i].node;
                if (!rig.nodes[i].alive || node->state == NODE_INSTALLING) continue;
                const struct replica *r = node_alone(node) ? &node->before : &node->replica;
                struct cluster_stats c = {0};
                size_t users = 0;
                stats_recount(r);
                if (node->state == NODE_READING) stats_recount(&node->replica);
                cluster_list_nodes(node, &c);
                for (size_t k = 0; k < c.row_count; k++) {
                    users += c.rows[k].users;
                    connections += c.rows[k].connections;
                    gone += !strcmp(c.rows[k].state, "gone");
                    unknown += !strcmp(c.rows[k].state, "unknown");
                    for (size_t j = 0; j < k; j++) assert_true(c.rows[j].id != c.rows[k].id);
                }
                for (size_t k = 0; k < r->count; k++) users -= r->incarnations[k]->users;
                assert_int_equal(users, 0);
                assert_true(c.rows[0].id == node->id && c.living >= 1 && c.living <= RIG_NODES);
                free(c.rows);
            }
        }
        rig_free(&rig);
    }
    assert_true(connections && gone && unknown);
}

/* Tables that differ are counted, and all state their users again. */
static void tables_that_differ_are_counted(void **unused)
{
    (void)unused;
    static struct rig rig;
    uint64_t differences = 0, epochs = 0;
    rig_begin(&rig, 4711);
    for (int step = 0; step < 1000; step++) rig_step(&rig, false);
    uint64_t before[RIG_NODES];
    for (int i = 0; i < RIG_NODES; i++) {
        assert_int_equal(rig.nodes[i].node.state, NODE_SETTLED);
        assert_int_equal(rig.nodes[i].node.count.differences, 0);
        before[i] = rig.nodes[i].node.count.epochs;
    }
    rig.nodes[1].node.replica.checksum ^= 1;
    for (int step = 0; step < 500; step++) rig_step(&rig, false);
    for (int i = 0; i < RIG_NODES; i++) {
        differences += rig.nodes[i].node.count.differences;
        epochs += rig.nodes[i].node.count.epochs > before[i];
    }
    assert_true(differences >= 1);
    assert_int_equal(epochs, RIG_NODES);
    rig_quiet(&rig);
    rig_free(&rig);
}

static const struct CMUnitTest CLUSTER_STATS_TESTS[] = {
    cmocka_unit_test(delays_are_kept_by_the_minute),
    cmocka_unit_test(what_nodes_say_is_counted),
    cmocka_unit_test(tables_that_differ_are_counted),
};
