/* Fuzzes what other nodes, or whoever else may write to the engine, can say to a node: entries,
 * records and pieces of a copy, as bytes; and a whole node that is told a row of them. Whatever it
 * is told, its totals are those of its users, and what it says of a user follows from what is said.
 *
 * An input is a row of steps: a byte that says which, a byte with the length of what is for it, and
 * that. */

enum fuzz_step {
    FUZZ_RAW_ENTRY,   /* an entry as it is, */
    FUZZ_ENTRY,       /* and one whose head is good: a byte says whose; then its records */
    FUZZ_OTHER_EPOCH, /* of an epoch that is not ours */
    FUZZ_RAW_PIECE,   /* a piece as it is, */
    FUZZ_PIECE,       /* and one whose begin is good: a byte with its kind; then the rest */
    FUZZ_TIME,        /* a byte: time passes, with what a node does in its turns */
    FUZZ_TELL,        /* a byte: the engine is up, down, refuses, has a hole, a new epoch */
    FUZZ_USER,        /* a byte: a user of ours comes, goes, is heard */
    FUZZ_STEPS
};

enum { FUZZ_USERS = 4, FUZZ_WRITERS = 4 };

struct fuzz_node {
    struct node node;
    struct presence shown;
    struct session_conn conns[FUZZ_USERS];
    struct instant now;
    uint32_t random;
    uint64_t n[FUZZ_WRITERS]; /* of the last entry of each; the first is the node itself */
    uint64_t incarnation;     /* of the node, when n[0] was counted */
    uint64_t pieces;          /* of the copy that is under way, so far */
    struct leavers_wish wish; /* what is to be read of the store */
    bool wishes;
};

static struct span fuzz_user(int user)
{
    return (struct span){&"abcd"[user], 1};
}

static uint32_t fuzz_node_random(void *context)
{
    struct fuzz_node *f = context;
    return f->random = f->random * 1664525 + 1013904223 ? f->random : 1;
}

static void fuzz_node_asks(void *context, struct engine_ask *ask)
{
    (void)context;
    buffer_free(&ask->text);
    free(ask);
}

static void fuzz_node_reads(void *context, const struct leavers_wish *wish, bool first)
{
    struct fuzz_node *f = context;
    (void)first;
    f->wish = *wish;
    f->wishes = true;
}

/* Memory of exactly this size, so that whoever reads beyond it is seen. */
static struct buffer fuzz_exact(const void *head, size_t head_len, const void *at, size_t len)
{
    struct buffer b = {.at = malloc(head_len + len + !(head_len + len)), .len = head_len + len};
    b.size = b.len;
    if (head_len) memcpy(b.at, head, head_len);
    if (len) memcpy(b.at + head_len, at, len);
    return b;
}

/* What a node says of its users follows from what it was told of them. */
static void fuzz_check_table(const struct presence *p, const struct replica *r)
{
    size_t live = 0, cached = 0, connections = 0, users = 0;
    uint64_t checksum = 0;
    struct presence_walk walk = {0};
    for (struct user *user; (user = presence_walk_next(p, &walk)); users++) {
        enum user_state state = USER_OFFLINE;
        for (const struct said *said = user->said; said; said = said->next) {
            if (said->holder >= r->count || !said->state || said->state > USER_LIVE) abort();
            if (said->state > state) state = (enum user_state)said->state;
            checksum ^= said_hash(r, user, said);
        }
        if (state != user->state || (state != USER_LIVE && user->connections)) abort();
        if (user->state && user->status >= STATUS_OFFLINE) abort();
        live += user->state == USER_LIVE;
        cached += user->state == USER_CACHED;
        connections += user->connections;
        if (!user_id_valid(user_id(user))) abort();
    }
    if (p->live != live || p->cached != cached || p->connections != connections) abort();
    if (p->directory.users != users || checksum != r->checksum) abort();
}

static void fuzz_check(struct fuzz_node *f)
{
    const struct node *node = &f->node;
    presence_clear_transitions(&f->shown);
    if (node->state == NODE_SETTLED) fuzz_check_table(&f->shown, &node->replica);
    else if (node->state != NODE_INSTALLING) fuzz_check_table(&f->shown, &node->before);
    if (node->state == NODE_READING) fuzz_check_table(&node->next, &node->replica);
}

/* What the hub does in a turn. */
static void fuzz_turn(struct fuzz_node *f)
{
    struct store_batch batch = {0};
    presence_tick(&f->node.own, f->now, SIZE_MAX);
    for (int i = 0; i < 8; i++) {
        f->node.kicked.len = 0;
        bool done = node_work(&f->node, f->now, f->now.mono, 3);
        fuzz_check(f);
        if (done) break;
    }
    while (node_busy(&f->node)) node_work(&f->node, f->now, f->now.mono, 1000);
    if (f->wishes) { /* the store has one user, who left */
        struct buffer users = {0};
        struct user_record left = {.last_seen = f->now.mono};
        struct session_record ended = {.from = 1, .to = f->now.mono};
        f->wishes = false;
        if (!f->wish.place.id_len) piece_leaver(&users, fuzz_user(0), &left, &ended, 1);
        node_leavers_read(&f->node, &f->wish, &users, users.len ? LEAVERS_MORE : LEAVERS_END);
    }
    node_tick(&f->node, f->now, SIZE_MAX);
    buffer_free(&f->node.leavers.ops);
    f->node.leavers = (struct store_batch){0};
    if (presence_collect(&f->shown, f->now, false, SIZE_MAX, &batch))
        while (!presence_committed(&f->shown, f->now, SIZE_MAX)) continue;
    fuzz_check(f);
    buffer_free(&batch.ops);
}

static void fuzz_tells(struct fuzz_node *f, struct engine_tell *tell)
{
    for (int i = 0; i < 16 && !node_tell(&f->node, f->now, f->now.mono, tell); i++) fuzz_check(f);
    fuzz_check(f);
    buffer_free(&tell->text);
    fuzz_turn(f);
}

/* An entry in the log, behind what was read. */
static void fuzz_tell_entry(struct fuzz_node *f, uint32_t epoch, const void *at, size_t len)
{
    struct engine_entry head = {{1, 1}, f->node.replica.next, epoch, (uint32_t)len};
    struct engine_tell tell = {.kind = ENGINE_ENTRIES, .request = f->node.generation};
    tell.text = fuzz_exact(&head, sizeof head, at, len);
    fuzz_tells(f, &tell);
}

/* One whose head is good, of the node itself or of another. */
static void fuzz_tell_records(struct fuzz_node *f, unsigned whose, const uint8_t *at, size_t len)
{
    unsigned writer = whose % FUZZ_WRITERS;
    struct buffer out = {0};
    struct record ignored;
    struct taker in = {at, at + len, false};
    uint64_t records = 0;
    while (in.at < in.end && !in.bad) record_read(&in, f->now.mono, &ignored), records++;
    if (f->incarnation != f->node.incarnation) {
        f->incarnation = f->node.incarnation;
        f->n[0] = 0;
    }
    struct entry head = {.node = writer ? writer : f->node.id,
                         .incarnation = writer ? 100 + writer : f->incarnation,
                         .n = ++f->n[writer],
                         .read = f->node.replica.next - (whose & 64 ? 1 : 0),
                         .time = f->now.mono,
                         .records = records};
    entry_write(&out, &head);
    buffer_add(&out, at, len);
    fuzz_tell_entry(f, f->node.replica.epoch, out.at, out.len);
    buffer_free(&out);
}

static void fuzz_tell_piece(struct fuzz_node *f, bool good, const uint8_t *at, size_t len)
{
    struct buffer out = {0};
    struct engine_tell tell = {.kind = ENGINE_CAME, .request = f->node.request + f->node.chunk};
    if (good && len) {
        put_byte(&out, ENTRY_VERSION);
        put_byte(&out, *at % PIECE_KINDS);
        put_number(&out, f->node.pieces);
        put_fixed(&out, 1);
        put_number(&out, f->node.replica.next);
        if (*at % PIECE_KINDS == PIECE_HISTORY) put_fixed(&out, f->node.question);
        at++, len--;
    }
    tell.text = fuzz_exact(out.at, out.len, at, len);
    buffer_free(&out);
    fuzz_tells(f, &tell);
}

static void fuzz_tell_other(struct fuzz_node *f, unsigned what)
{
    struct engine_tell tell = {.epoch = what & 128 ? 8 : 7, .same_run = !(what & 64)};
    static const enum engine_tell_kind kinds[] = {ENGINE_UP,       ENGINE_DOWN,  ENGINE_REFUSED,
                                                  ENGINE_HOLE,     ENGINE_EPOCH, ENGINE_CLOCK,
                                                  ENGINE_APPENDED, ENGINE_UP};
    tell.kind = kinds[what % 8];
    tell.last_read = what >> 3 & 3 ? LAST_READ_THERE : LAST_READ_LOST;
    tell.last = (struct stream_id){(uint64_t)f->now.mono, 1};
    tell.incarnation = f->node.incarnation;
    fuzz_tells(f, &tell);
}

static void fuzz_own_user(struct fuzz_node *f, unsigned what)
{
    int user = (int)(what % FUZZ_USERS);
    struct session_conn *conn = &f->conns[user];
    struct presence *own = &f->node.own;
    if (what >> 2 & 1 && conn->user)
        presence_disconnect(own, f->now, conn, (enum ending)((what >> 3) % END_STOP));
    else if (what >> 3 & 1) presence_heartbeat(own, f->now, fuzz_user(user), (uint8_t[16]){1});
    else if (conn->user) presence_heard(own, f->now, conn->user);
    else presence_connect(own, f->now, fuzz_user(user), conn);
    fuzz_turn(f);
}

/* A kick, or something that is set by hand. */
static void fuzz_order(struct fuzz_node *f, unsigned what)
{
    struct span id = fuzz_user((int)(what % FUZZ_USERS));
    struct user *shown = presence_find(&f->shown, id);
    struct manual_update update = {
        .status = (enum status)((what >> 3) % (STATUS_AUTOMATIC + 1)),
        .lifetime = what & 4 ? 5000 : 0,
    };
    if (what & 64) node_kick(&f->node, f->now, id);
    else if (shown) node_set_manual(&f->node, f->now, shown, &update);
    fuzz_turn(f);
}

/* A stop in order, at any moment. */
static void fuzz_stop(struct fuzz_node *f)
{
    node_leave(&f->node, f->now, f->now.mono);
    fuzz_check(f);
    node_keep_orders(&f->node, f->now);
    node_keep_own(&f->node, f->now);
    fuzz_check(f);
}

/* The readers alone, byte by byte to the end. */
static void fuzz_readers(const uint8_t *data, size_t len)
{
    struct buffer exact = fuzz_exact(NULL, 0, data, len);
    const uint8_t *at = (const uint8_t *)exact.at;
    struct taker in = {at, at + len, false};
    struct record record;
    struct entry entry;
    if (entry_read(&in, &entry) == ENTRY_GOOD)
        for (uint64_t i = 0; i < entry.records && !in.bad; i++)
            record_read(&in, entry.time, &record);
    in = (struct taker){at, at + len, false};
    while (in.at < in.end && !in.bad) {
        const uint8_t *from = in.at;
        struct buffer again = {0};
        record_read(&in, 1764000000000, &record);
        if (in.at < from || in.at > in.end) abort();
        if (in.bad) break;
        /* What was read is written back as something that is read as the same again. */
        record_write(&again, 1764000000000, &record);
        struct buffer copy = fuzz_exact(NULL, 0, again.at, again.len), last = {0};
        struct taker back = {(const uint8_t *)copy.at, (const uint8_t *)copy.at + copy.len, false};
        record_read(&back, 1764000000000, &record);
        if (back.bad || back.at != back.end) abort();
        record_write(&last, 1764000000000, &record);
        if (last.len != again.len || memcmp(last.at, again.at, last.len)) abort();
        buffer_free(&again);
        buffer_free(&copy);
        buffer_free(&last);
    }
    buffer_free(&exact);
}

static void fuzz_steps(const uint8_t *data, size_t len)
{
    struct fuzz_node *f = mem_new(sizeof *f);
    f->now = (struct instant){1764000000000, 0};
    f->random = 1;
    presence_init(&f->shown, 3000, 20000, f->now);
    f->node = (struct node){.ask = fuzz_node_asks,
                            .random = fuzz_node_random,
                            .read_leavers = fuzz_node_reads,
                            .context = f};
    strcpy(f->node.name, "node");
    node_init(&f->node, f->now, &f->shown, 9);
    fuzz_tell_other(f, 8); /* up */
    while (len >= 2) {
        unsigned step = data[0] % FUZZ_STEPS;
        size_t own = data[1] < len - 2 ? data[1] : len - 2;
        const uint8_t *at = data + 2;
        if (step == FUZZ_RAW_ENTRY) fuzz_tell_entry(f, f->node.replica.epoch, at, own);
        else if (step == FUZZ_ENTRY && own) fuzz_tell_records(f, *at, at + 1, own - 1);
        else if (step == FUZZ_OTHER_EPOCH) fuzz_tell_entry(f, 8, at, own);
        else if (step == FUZZ_RAW_PIECE || step == FUZZ_PIECE)
            fuzz_tell_piece(f, step == FUZZ_PIECE, at, own);
        else if (step == FUZZ_TIME && own) {
            f->now.mono += *at * 64;
            fuzz_turn(f);
        } else if (step == FUZZ_TELL && own) fuzz_tell_other(f, *at);
        else if (step == FUZZ_USER && own && *at & 128) fuzz_order(f, *at);
        else if (step == FUZZ_USER && own) fuzz_own_user(f, *at);
        data += 2 + own;
        len -= 2 + own;
    }
    fuzz_stop(f);
    node_free(&f->node);
    presence_free(&f->shown);
    free(f);
}

static void fuzz_cluster(const uint8_t *data, size_t len)
{
    fuzz_readers(data, len);
    fuzz_steps(data, len);
}
