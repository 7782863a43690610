/* Who posts in a cluster: the three nodes of cluster.c, each with an outbox, and a receiver that is
 * slow and does not always answer. */
#include "unit.h"

/* A change, or a reset, in an outbox or at the receiver. */
struct hook_told {
    uint32_t epoch;
    uint64_t number;
    bool reset;
};

struct hook_told_list {
    struct hook_told *at;
    size_t count, room;
};

/* A node's part that is not struct node: the store, which outlives it, and the thread. */
struct hook_node {
    struct hook_told_list outbox;
    size_t done;
    bool follows;
    uint32_t epoch;
    int64_t until; /* as the hub last said */
    struct position delivered, posted;
    size_t posting; /* changes under way */
    int64_t answer_at;
};

static struct {
    struct hook_node nodes[RIG_NODES];
    struct hook_told_list had;                 /* by the receiver, in the order in which it came */
    struct hook_told_list all;                 /* that any node took from the log */
    size_t posts, repeats, resets, gaps, late; /* late: behind a reset */
} hooks;

static void hook_told_add(struct hook_told_list *list, struct hook_told told)
{
    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 256;
        list->at = mem_resize(list->at, list->room * sizeof *list->at);
    }
    list->at[list->count++] = told;
}

/* The receiver takes a change. It knows what it had by epoch and number. */
static void hook_receive(struct hook_told told)
{
    uint64_t most = 0;
    bool known = false, over = false, reset = false;
    for (size_t i = 0; i < hooks.had.count; i++) {
        const struct hook_told *had = &hooks.had.at[i];
        if (had->epoch != told.epoch) continue;
        if (had->number > most) most = had->number;
        reset |= had->reset && had->number >= told.number;
        known |= had->number == told.number && had->reset == told.reset;
    }
    if (hooks.had.count) {
        const struct hook_told *last = &hooks.had.at[hooks.had.count - 1];
        over = last->epoch != told.epoch && most;
    }
    if (over) hooks.late++;
    else if (known || (told.reset && told.number <= most)) hooks.repeats++;
    else if (reset) hooks.late++; /* the one before did not have it, and said so by a reset */
    else if (told.number <= most)
        fail_msg("%08x-%d comes behind %d for the first time", told.epoch, (int)told.number,
                 (int)most);
    if (over || known || told.number <= most) return;
    hooks.resets += told.reset;
    hook_told_add(&hooks.had, told);
}

/* hub_reset_webhook, and what the writer does of it. */
static void hook_reset(struct hook_node *h, struct node *node)
{
    if (node->replica.incarnations[INCARNATION_SELF]->kept) {
        size_t kept = 0;
        for (size_t i = 0; i < h->outbox.count; i++) {
            if (h->outbox.at[i].epoch != node->epoch) h->done -= i < h->done;
            else h->outbox.at[kept++] = h->outbox.at[i];
        }
        h->done = 0;
        h->outbox.count = kept;
        h->posting = 0;
    }
    node->told = node->shown->sequence;
    hook_told_add(&h->outbox, (struct hook_told){node->epoch, node->told, true});
}

/* The thread: what is under way is answered, or not; then the next, if it may. */
static void hook_thread(struct rig_node *n, struct hook_node *h)
{
    struct rig *rig = n->rig;
    if (h->posting && rig->now >= h->answer_at) {
        bool taken = below64(&rig->seed, 8);
        for (size_t i = 0; i < h->posting && taken; i++) hook_receive(h->outbox.at[h->done + i]);
        if (taken) {
            struct hook_told last = h->outbox.at[h->done + h->posting - 1];
            h->posted = (struct position){last.epoch, last.number};
            h->done += h->posting;
        }
        h->posting = 0;
    }
    if (h->posting) return;
    size_t through = h->done;
    for (size_t i = h->done; i < h->outbox.count; i++) { /* webhook_pass */
        if (h->outbox.at[i].epoch != h->delivered.epoch) continue;
        if (h->outbox.at[i].number > h->delivered.sequence) break;
        through = i + 1;
    }
    h->done = through;
    if (rig->now >= h->until || h->done == h->outbox.count) return;
    for (int i = 0; i < RIG_NODES; i++) {
        const struct hook_node *other = &hooks.nodes[i];
        if (!rig->nodes[i].alive || other == h || other->epoch != h->epoch) continue;
        if (rig->now < other->until) fail_msg("nodes %d and %d post", n->number, i);
    }
    h->posting = 1 + below64(&rig->seed, 5);
    if (h->posting > h->outbox.count - h->done) h->posting = h->outbox.count - h->done;
    h->answer_at = rig->now + (int64_t)below64(&rig->seed, below64(&rig->seed, 9) ? 100 : 6000);
    hooks.posts++;
}

static void hook_also(struct rig_node *n, enum rig_moment moment, const struct transition *t)
{
    struct hook_node *h = &hooks.nodes[n->number];
    struct node *node = &n->node;
    switch (moment) {
    case RIG_STARTS:
        h->follows = false;
        h->until = 0;
        h->posting = 0;
        h->epoch = node->epoch;
        h->delivered = h->posted = (struct position){0};
        break;
    case RIG_TURNS: {
        hook_thread(n, h); /* first: it may run on before its hub has read anything */
        const struct replica *r = &node->replica;
        h->delivered = (struct position){0};
        if (node->state == NODE_SETTLED) h->delivered = (struct position){r->epoch, r->delivered};
        h->until = node_posts_until(node);
        if (h->delivered.epoch && h->posted.epoch == h->delivered.epoch &&
            h->posted.sequence > node->posted)
            node->posted = h->posted.sequence;
        break;
    }
    case RIG_TELLS:
        if (t->kind == TRANSITION_CONNECTIONS || !h->follows) break;
        node->told = t->sequence;
        hook_told_add(&h->outbox, (struct hook_told){h->epoch, t->sequence, false});
        hook_told_add(&hooks.all, (struct hook_told){h->epoch, t->sequence, false});
        break;
    case RIG_TOLD:
        if (h->epoch == node->epoch) break;
        h->epoch = node->epoch;
        h->follows = !node_alone(node);
        if (h->follows) hook_reset(h, node);
        break;
    }
}

static int hook_told_compare(const void *left, const void *right)
{
    const struct hook_told *a = left, *b = right;
    if (a->epoch != b->epoch) return a->epoch < b->epoch ? -1 : 1;
    return a->number == b->number ? 0 : a->number < b->number ? -1 : 1;
}

/* Behind what the receiver lacks comes a reset, or nothing of that epoch; of the last epoch it
 * lacks nothing else. */
static void hook_compare(uint32_t epoch)
{
    for (size_t i = 0; i < hooks.all.count; i++) {
        struct hook_told told = hooks.all.at[i], next = {.number = UINT64_MAX};
        for (size_t k = 0; k < hooks.had.count; k++) {
            struct hook_told had = hooks.had.at[k];
            if (had.epoch == told.epoch && had.number >= told.number &&
                (had.number < next.number || !had.reset))
                if (had.number <= next.number) next = had;
        }
        if (next.number == told.number) continue;
        hooks.gaps++;
        if (next.number == UINT64_MAX ? told.epoch == epoch : !next.reset)
            fail_msg("%08x-%d is missing, %d comes next", told.epoch, (int)told.number,
                     (int)next.number);
    }
}

/* Runs three nodes, as cluster.c does, with or without faults. */
static void hook_run(uint64_t seed, bool faults)
{
    static struct rig rig;
    memset(&hooks, 0, sizeof hooks);
    rig_also = hook_also;
    rig_begin(&rig, seed);
    for (int step = 0; faults && step < RIG_STEPS; step++) rig_step(&rig, true);
    rig_quiet(&rig);
    rig_compare(&rig);
    rig_false_leaves(&rig);
    if (!faults) { /* everybody is settled: users come and go */
        for (int step = 0; step < 3000; step++) {
            rig_act(&rig.nodes[step % RIG_NODES]);
            rig_step(&rig, false);
        }
        for (int step = 0; step < 500; step++) rig_step(&rig, false);
        assert_int_equal(hooks.repeats, 0);
        assert_int_equal(hooks.resets, 1);
        assert_true(hooks.had.count > 100);
    }
    for (int i = 0; i < RIG_NODES; i++)
        assert_int_equal(hooks.nodes[i].done, hooks.nodes[i].outbox.count);
    qsort(hooks.all.at, hooks.all.count, sizeof *hooks.all.at, hook_told_compare);
    hook_compare(rig.epoch);
    if (!faults) assert_int_equal(hooks.gaps, 0);
    if (getenv("PRESENCE_SAY"))
        fprintf(stderr, "changes %d had %d posts %d repeats %d resets %d gaps %d late %d\n",
                (int)hooks.all.count, (int)hooks.had.count, (int)hooks.posts, (int)hooks.repeats,
                (int)hooks.resets, (int)hooks.gaps, (int)hooks.late);
    rig_also = NULL;
    rig_free(&rig);
    for (int i = 0; i < RIG_NODES; i++) free(hooks.nodes[i].outbox.at);
    free(hooks.had.at);
    free(hooks.all.at);
}

static void each_change_is_posted_once(void **unused)
{
    (void)unused;
    for (uint64_t seed = 1; seed <= 5; seed++) hook_run(seed * 77, false);
}

/* With every fault of cluster.c: one posts at a time, in order, and what is missing is told by a
 * reset. PRESENCE_SEED=N runs one. */
static void changes_are_posted_whatever_happens(void **unused)
{
    (void)unused;
    const char *one = getenv("PRESENCE_SEED"), *many = getenv("PRESENCE_SEEDS");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1;
    uint64_t count = one ? 1 : many ? strtoull(many, NULL, 10) : 30;
    for (uint64_t seed = first; seed < first + count; seed++) {
        if (getenv("PRESENCE_SAY")) fprintf(stderr, "seed %d\n", (int)seed);
        hook_run(seed * 0x9e3779b97f4a7c15u, true);
    }
}

static const struct CMUnitTest CLUSTER_WEBHOOK_TESTS[] = {
    cmocka_unit_test(each_change_is_posted_once),
    cmocka_unit_test(changes_are_posted_whatever_happens),
};
