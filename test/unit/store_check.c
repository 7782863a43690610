/* Store, check of the file: damage of every kind is found, and none crashes. */
#include "unit.h"
#include "store.h"

/* LMDB's file format, data version 1, as these tests know it: they make damage by it. */
struct lmdb_tree {
    uint32_t pad;
    uint16_t flags, depth;
    size_t branches, leaves, overflows, entries, root;
};

struct lmdb_page {
    size_t number;
    uint16_t pad, flags;
    uint16_t lower, upper;
    uint16_t nodes[];
};

struct lmdb_meta {
    uint32_t magic, version;
    size_t address, map_size;
    struct lmdb_tree free, named;
    size_t last_page, transaction;
};

struct lmdb_node {
    uint16_t low, high, flags, key_len;
};

enum {
    LMDB_BRANCH = 1,
    LMDB_LEAF = 2,
    LMDB_NODE_OVERFLOW = 1,
    LMDB_HEAD = offsetof(struct lmdb_page, nodes),
};

static void store_refuses_damaged_files(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    fill(st, 0, 20000);
    store_close(st);
    struct buffer good = file_read(p.file);
    char *bad = mem_new(good.len);

    expect_refused(&p, good.at, 0, (struct damage){.says = "is empty"});
    expect_refused(&p, good.at, 1, (struct damage){.says = "is damaged or no store"});
    expect_refused(&p, good.at, 4096, (struct damage){.says = "is damaged or no store"});
    expect_refused(&p, good.at, 8192, (struct damage){.says = "restore a backup"});
    expect_refused(&p, good.at, good.len / 2, (struct damage){.says = "end of the file"});
    expect_refused(&p, good.at, good.len / 2 + 1234, (struct damage){.says = "end of the file"});
    random_bytes(bad, good.len);
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged or no store"});
    memset(bad, 0, good.len);
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged or no store"});
    memcpy(bad, "SQLite format 3", 16);
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged or no store"});
    memcpy(bad, good.at, 8192);
    random_bytes(bad + 8192, good.len - 8192); /* all but the meta pages */
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged"});
    memcpy(bad, good.at, good.len);
    memset(bad + 16, 0, 4); /* the first meta's magic */
    expect_refused(&p, bad, good.len, (struct damage){.says = "is damaged or no store"});

    file_write(p.file, good.at, good.len); /* and the whole one is taken */
    st = open_good(p.dir);
    store_close(st);
    free(bad);
    buffer_free(&good);
    place_remove(&p);
}

static void store_never_crashes_on_damage(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    fill(st, 0, 3000);
    fill(st, 0, 1500); /* so that there are free pages */
    store_close(st);
    struct buffer good = file_read(p.file);
    char *bad = mem_new(good.len);
    unsigned seed = 1;
    for (int round = 0; round < 150; round++) {
        memcpy(bad, good.at, good.len);
        int kind = round % 3;
        for (int i = 0; i < (kind ? 1 + round / 10 : 1); i++) {
            size_t at = (size_t)rand_r(&seed) * 16 % good.len, n = kind == 2 ? 1 : 700;
            if (kind == 0) at = at / 4096 * 4096, n = 4096;         /* a whole page */
            if (kind == 1 && at % 4096 > 64) at = at / 4096 * 4096; /* heads of pages */
            for (size_t k = at; k < at + n && k < good.len; k++) bad[k] = (char)rand_r(&seed);
        }
        expect_refused(&p, bad, good.len, (struct damage){.may_open = true, .may_be_whole = true});
    }
    free(bad);
    buffer_free(&good);
    place_remove(&p);
}

static void store_check_finds_damaged_pages(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    fill(st, 0, 6000);
    store_close(st);
    struct buffer good = file_read(p.file);
    size_t pages = good.len / 4096, found = 0, used = 0;
    for (size_t page = 2; page < pages; page++) {
        char path[128], err[512] = "";
        snprintf(path, sizeof path, "%s/one", p.root);
        struct buffer bad = {0};
        buffer_add(&bad, good.at, good.len);
        uint16_t flags;
        memcpy(&flags, bad.at + page * 4096 + 10, 2);
        used += flags == LMDB_LEAF || flags == LMDB_BRANCH;
        memset(bad.at + page * 4096 + 10, 0xff, 2);
        file_write(path, bad.at, bad.len);
        found += !store_check_file(path, 0, 0, WHY(err));
        buffer_free(&bad);
    }
    /* Every page of a tree is looked at; free ones need not be. */
    assert_true(used > 100);
    assert_true(found >= used * 9 / 10);
    buffer_free(&good);
    place_remove(&p);
}

/* The newest meta page of a file. */
static struct lmdb_meta meta_of(const char *file)
{
    struct lmdb_meta meta[2];
    memcpy(&meta[0], file + LMDB_HEAD, sizeof meta[0]);
    memcpy(&meta[1], file + 4096 + LMDB_HEAD, sizeof meta[1]);
    return meta[meta[1].transaction > meta[0].transaction];
}

/* Where the record of the users' tree is, in the page that is the root of the main tree. */
static char *users_tree_at(char *file)
{
    static const char name[] = "user_presence";
    struct lmdb_page *p = (struct lmdb_page *)(void *)(file + meta_of(file).named.root * 4096);
    for (size_t i = 0; i < (size_t)(p->lower - LMDB_HEAD) / 2; i++) {
        char *node = (char *)p + p->nodes[i] + sizeof(struct lmdb_node);
        if (!memcmp(node, name, sizeof name - 1)) return node + sizeof name - 1;
    }
    return NULL;
}

/* Every kind of damage that the check knows, made by hand in a sound file. */
enum kind_of_damage {
    BAD_NUMBER,
    BAD_FLAGS,
    BAD_LOWER,
    BAD_NODE_LOW,
    BAD_NODE_HIGH,
    BAD_KEY,
    BAD_VALUE,
    BAD_KIND,
    BAD_ORDER,
    BAD_BOUND,
    BAD_TWICE,
    BAD_CHILD,
    BAD_ENTRIES,
    BAD_DEPTH,
    BAD_TREE_FLAGS,
    BAD_FREE_COUNT,
    BAD_FREE_ORDER,
    BAD_FREE_USED,
    BAD_KINDS
};

static const char *const DAMAGE_SAYS[BAD_KINDS] = {
    "holds something else", "holds something else", "holds something else",
    "a bad node",           "a bad node",           "a bad key",
    "a bad value",          "a bad value",          "out of order",
    "out of order",         "used twice",           "cannot exist",
    "entries where",        "holds something else", "not presence's own",
    "list of free pages",   "list of free pages",   "used twice"};

/* Makes one kind of damage in a file whose users have a branch for a root. */
static void make_damage(char *file, enum kind_of_damage kind)
{
    struct lmdb_tree users;
    memcpy(&users, users_tree_at(file), sizeof users);
    struct lmdb_page *branch = (struct lmdb_page *)(void *)(file + users.root * 4096);
    struct lmdb_node *child[2];
    for (int i = 0; i < 2; i++)
        child[i] = (struct lmdb_node *)(void *)((char *)branch + branch->nodes[i + 1]);
    struct lmdb_page *leaf = (struct lmdb_page *)(void *)(file + child[0]->low * 4096);
    struct lmdb_node *node = (struct lmdb_node *)(void *)((char *)leaf + leaf->nodes[1]);
    /* The last free list: its count, then its pages, the largest first. */
    size_t root = meta_of(file).free.root;
    struct lmdb_page *list = (struct lmdb_page *)(void *)(file + root * 4096);
    size_t last = (size_t)(list->lower - LMDB_HEAD) / 2 - 1, numbers[3];
    char *free_at = (char *)list + list->nodes[last] + sizeof *node + sizeof(size_t);
    memcpy(numbers, free_at, sizeof numbers);
    assert_true(branch->flags == LMDB_BRANCH && leaf->flags == LMDB_LEAF && numbers[0] >= 2);
    switch (kind) {
    case BAD_NUMBER: leaf->number++; break;
    case BAD_FLAGS: leaf->flags = LMDB_BRANCH; break;
    case BAD_LOWER: leaf->lower = 4098; break;
    case BAD_NODE_LOW: leaf->nodes[1] = (uint16_t)(leaf->upper - 2); break;
    case BAD_NODE_HIGH: leaf->nodes[1] = 4092; break;
    case BAD_KEY: node->key_len = 4096; break;
    case BAD_VALUE: node->low = 4096; break;
    case BAD_KIND: node->flags = LMDB_NODE_OVERFLOW; break;
    case BAD_ORDER:
        leaf->nodes[1] ^= leaf->nodes[2];
        leaf->nodes[2] ^= leaf->nodes[1];
        leaf->nodes[1] ^= leaf->nodes[2];
        break;
    case BAD_BOUND: ((char *)(child[0] + 1))[0] = 'z'; break;
    case BAD_TWICE: child[1]->low = child[0]->low; break;
    case BAD_CHILD: child[1]->high = 0xffff; break;
    case BAD_ENTRIES: users.entries++; break;
    case BAD_DEPTH: users.depth++; break;
    case BAD_TREE_FLAGS: users.flags = MDB_DUPSORT; break;
    case BAD_FREE_COUNT: numbers[0] = 4096; break;
    case BAD_FREE_ORDER: numbers[1] = numbers[2]; break;
    case BAD_FREE_USED: numbers[2] = users.root < numbers[1] ? users.root : 2; break;
    case BAD_KINDS: break;
    }
    memcpy(free_at, numbers, sizeof numbers);
    memcpy(users_tree_at(file), &users, sizeof users);
}

static void store_check_knows_each_kind_of_damage(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    char path[128], err[512];
    fill(st, 0, 3000);
    store_close(st);
    struct buffer good = file_read(p.file);
    snprintf(path, sizeof path, "%s/one", p.root);
    for (int kind = 0; kind <= BAD_KINDS; kind++) {
        char *bad = mem_new(good.len);
        memcpy(bad, good.at, good.len);
        make_damage(bad, (enum kind_of_damage)kind);
        file_write(path, bad, good.len);
        free(bad);
        err[0] = 0;
        bool ok = store_check_file(path, 0, 0, WHY(err));
        assert_int_equal(ok, kind == BAD_KINDS); /* the last one is no damage at all */
        if (!ok && (!strstr(err, DAMAGE_SAYS[kind]) || !strstr(err, path)))
            fail_msg("%d: %s", kind, err);
    }
    buffer_free(&good);
    place_remove(&p);
}

static void store_check_finds_records_that_disagree(void **state)
{
    (void)state;
    struct test_place p = place_make();
    struct store *st = open_good(p.dir);
    char text[1024] = "", said[1024] = "";
    fill(st, 0, 300);
    FILE *out = fmemopen(text, sizeof text - 1, "w"), *err = fmemopen(said, sizeof said - 1, "w");
    store_close(st);
    assert_int_equal(store_command_check(p.dir, out, err), 0);
    fflush(out);
    assert_string_equal(text, "store ok: 300 users, 300 sessions, 100 open\n");
    st = open_good(p.dir);
    MDB_txn *txn;
    MDB_val key = {7, "u000003"};
    assert_int_equal(mdb_txn_begin(st->env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_del(txn, st->open, &key, NULL), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    store_close(st);
    assert_int_equal(store_command_check(p.dir, out, err), 1);
    fflush(err);
    assert_non_null(strstr(said, "not in `open`"));
    fclose(out);
    fclose(err);
    place_remove(&p);
}

static void store_refuses_a_foreign_lmdb_file(void **state)
{
    (void)state;
    struct test_place p = place_make();
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi;
    MDB_val key = {1, "k"}, value = {1, "v"};
    assert_int_equal(mkdir(p.dir, 0700), 0);
    mdb_env_create(&env);
    assert_int_equal(mdb_env_open(env, p.dir, 0, 0600), 0);
    assert_int_equal(mdb_txn_begin(env, NULL, 0, &txn), 0);
    assert_int_equal(mdb_dbi_open(txn, NULL, 0, &dbi), 0);
    assert_int_equal(mdb_put(txn, dbi, &key, &value, 0), 0);
    assert_int_equal(mdb_txn_commit(txn), 0);
    mdb_env_close(env);
    struct buffer file = file_read(p.file);
    expect_refused(&p, file.at, file.len,
                   (struct damage){.says = "was written by another program"});
    buffer_free(&file);
    assert_int_equal(unlink(p.file), 0);
    mdb_env_create(&env);
    assert_int_equal(mdb_env_open(env, p.dir, 0, 0600), 0); /* and one without anything in it */
    mdb_env_close(env);
    file = file_read(p.file);
    expect_refused(&p, file.at, file.len, (struct damage){.says = "is no store of presence"});
    buffer_free(&file);
    place_remove(&p);
}

static void seen_that_disagrees_is_found(void **state)
{
    (void)state;
    static const char *const says[] = {"is not in `seen`", "`seen` names users who are online",
                                       "a change in the outbox is damaged"};
    for (int i = 0; i < 3; i++) {
        struct test_place p = place_make();
        struct store *st = open_good(p.dir);
        char said[1024] = "";
        uint8_t bytes[STORE_KEY_MAX];
        struct user_record r;
        MDB_txn *txn;
        fill(st, 0, 30);
        assert_int_equal(store_get_user(st, span_of("u000001"), &r), 1);
        MDB_val key = {store_seen_key(span_of("u000001"), r.last_seen, bytes), bytes};
        MDB_val none = {0, NULL}, change = {11, "\1\1........{"}, number = {8, "\0\0\0\0\0\0\0\1"};
        assert_int_equal(mdb_txn_begin(st->env, NULL, 0, &txn), 0);
        if (i == 0) assert_int_equal(mdb_del(txn, st->seen, &key, NULL), 0);
        bytes[7] ^= 1;
        if (i == 1) assert_int_equal(mdb_put(txn, st->seen, &key, &none, 0), 0);
        if (i == 2) assert_int_equal(mdb_put(txn, st->outbox, &number, &change, 0), 0);
        assert_int_equal(mdb_txn_commit(txn), 0);
        store_close(st);
        FILE *null = fopen("/dev/null", "w"), *err = fmemopen(said, sizeof said - 1, "w");
        assert_int_equal(store_command_check(p.dir, null, err), 1);
        fclose(err);
        fclose(null);
        assert_non_null(strstr(said, says[i]));
        place_remove(&p);
    }
}

static const struct CMUnitTest STORE_CHECK_TESTS[] = {
    cmocka_unit_test(store_refuses_damaged_files),
    cmocka_unit_test(store_never_crashes_on_damage),
    cmocka_unit_test(store_check_finds_damaged_pages),
    cmocka_unit_test(store_check_knows_each_kind_of_damage),
    cmocka_unit_test(store_check_finds_records_that_disagree),
    cmocka_unit_test(store_refuses_a_foreign_lmdb_file),
    cmocka_unit_test(seen_that_disagrees_is_found),
};
