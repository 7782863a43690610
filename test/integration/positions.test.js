'use strict';
// Variants: asan tsan
// The property behind positions: whatever happens, a page that reads a list and takes the changes
// behind its position knows what the server knows. No change is missed, none doubled, and they come
// in order (EventStream checks that the numbers have no gap).
const assert = require('node:assert/strict');
const {
  test,
  start,
  startSecure,
  connect,
  post,
  request,
  json,
  openEvents,
  Model,
  position,
  segment,
  heartbeat,
  until,
  heavy,
  slow,
  dice: seeded,
} = require('./lib');

/** A page: its stream is cut now and then, and comes back where it was; after a reset it reads the
 *  list again, in pages, while everything goes on. */
class Page {
  constructor(server, dice, limit) {
    Object.assign(this, {
      server,
      dice,
      limit,
      model: new Model(),
      lastId: null,
      cuts: 0,
      taken: 0,
    });
  }

  /** Opens the stream and follows it until it ends. */
  async follow() {
    this.stream = await openEvents(this.server, { lastId: this.lastId });
    const { stream } = this;
    if (this.stopped) stream.cut();
    for (;;) {
      try {
        await stream.until('more', () => stream.events.length > stream.at, 3600000);
      } catch (error) {
        if (stream.problem || !stream.over) throw error;
        return; // cut; what was whole has been taken
      }
      const next = stream.events[stream.at++];
      if (next.event === 'reset') {
        this.model.resets++;
        await this.model.read(this.server, { limit: this.limit });
      } else {
        const before = position(this.lastId); // also across a cut: none missed, none doubled
        assert.deepEqual(position(next.id), { ...before, sequence: before.sequence + 1 });
        this.model.take(next);
        this.taken++;
      }
      this.lastId = next.id;
    }
  }

  async run() {
    while (!this.stopped) {
      await this.follow();
      this.cuts++;
    }
  }

  begin() {
    this.done = this.run();
    this.done.catch(() => {}); // awaited in the end
  }

  cut() {
    this.stream?.cut();
  }

  stop() {
    this.stopped = true;
    this.cut();
    return this.done;
  }
}

/** Users who come, leave, change their status and are kicked at random. */
class Commotion {
  constructor(server, dice, count) {
    Object.assign(this, { server, dice, clients: new Map() });
    this.ids = Array.from({ length: count }, (_, i) => `user ${i} "${'x'.repeat(i % 40)}`);
  }

  async step() {
    const id = this.ids[this.dice(this.ids.length)];
    const own = this.clients.get(id) || [];
    const client = own.length ? own[this.dice(own.length)] : null;
    switch (this.dice(8)) {
      case 0:
      case 1:
      case 2:
        if (own.length >= 3) return;
        this.clients.set(id, [...own, await connect(this.server, id)]);
        return;
      case 3:
        if (!client) return;
        this.clients.set(
          id,
          own.filter((one) => one !== client),
        );
        await client.close();
        return;
      case 4:
        if (!client) return;
        this.clients.set(
          id,
          own.filter((one) => one !== client),
        );
        client.socket.terminate();
        return;
      case 5:
        client?.send({ type: 'status', status: ['online', 'away', 'busy'][this.dice(3)] });
        return;
      case 6:
        await heartbeat(this.server, id);
        return;
      default:
        if (this.dice(3)) return;
        this.clients.delete(id);
        await request(this.server, 'DELETE', `/admin/users/${segment(id)}/connections`);
    }
  }
}

/** Steps one after the other, in a few rows beside each other; in each a cut of some page every
 *  EVERY steps, somewhere among them. */
async function commotion(all, { steps, pages = [] }) {
  const EVERY = 20;
  const { dice } = all;
  const row = async () => {
    for (let i = 0, at = 0; i < steps; i++) {
      if (i % EVERY === 0) at = dice(EVERY);
      await all.step();
      if (pages.length && i % EVERY === at) pages[dice(pages.length)].cut();
    }
  };
  await Promise.all([row(), row(), row(), row()]);
}

/** All pages know what the list shows, once everything has been told. */
async function agree(server, pages) {
  await until(
    'quiet',
    async () => {
      const { position: at, users } = await json(server, '/admin/online-users?limit=1000');
      const told = (page) => page.lastId && position(page.lastId).sequence >= position(at).sequence;
      if (!pages.every(told)) return false;
      const truth = Object.fromEntries(users.map(({ last_seen, ...user }) => [user.user_id, user]));
      const after = await json(server, '/admin/stats');
      if (after.position !== at) return false; // somebody's grace has just ended
      for (const page of pages) assert.deepEqual(page.model.shown(), truth);
      return true;
    },
    { within: 20000 * slow, every: 50 },
  );
}

const SEED = Number(process.env.SEED || 1 + (Date.now() % 1000000));

for (const [what, args, starter] of [
  ['pages of 1000', [], start],
  ['pages of 7, a ring of 20', ['--events', '20'], start],
  ['through TLS, streams dropped early', ['--max-stream-buffer', '4k'], startSecure],
]) {
  test(
    `random changes, cut streams, ${what}: every page agrees with the list (SEED=${SEED})`,
    {
      timeout: 120000 * slow,
    },
    async (t) => {
      const dice = seeded(SEED);
      const plain = await starter(t, {
        args: ['--grace', '60ms', '--online-threshold', '1s', ...args],
      });
      const server = plain.secure || plain;
      const limit = what.includes('of 7') ? 7 : 1000;
      const pages = Array.from({ length: 4 }, () => new Page(server, dice, limit));
      const steps = server === plain ? heavy(1500, 100) : heavy(400, 60); // handshakes cost
      for (const page of pages) page.begin();
      await commotion(new Commotion(server, dice, 60), { steps, pages });
      await agree(server, pages);
      const resets = pages.reduce((sum, page) => sum + page.model.resets, 0);
      const cuts = pages.reduce((sum, page) => sum + page.cuts, 0);
      const taken = pages.reduce((sum, page) => sum + page.taken, 0);
      assert.ok(cuts > steps / 15 && taken > steps * 3, `${cuts} cuts, ${taken} changes`);
      if (!args.includes('--events')) assert.equal(resets, pages.length);
      await Promise.all(pages.map((page) => page.stop()));
    },
  );
}

/** A user without what moves without a change, and what changes do not tell. */
const bare = ({ last_seen, first_seen, sessions, position: at, connection_list, manual, ...user }) => user;

/** Holds an answer against all changes of each user: up to the position they are in it, those behind
 *  it may be. `exact`: none behind it is. */
function hold({ at, shown, exact, all }, changes, ids) {
  for (const id of ids) {
    const own = changes.get(id) || [];
    const before = own.filter(({ sequence }) => sequence <= at).at(-1);
    const later = exact ? [] : own.filter(({ sequence }) => sequence > at);
    const allowed = [...(before ? [before] : []), ...later].map(({ user }) => user);
    const found = shown.get(id);
    const what = `${id} at ${at}: ${JSON.stringify(found)}, but ${JSON.stringify(own)}`;
    if (found && !before && !found.online) continue; // first seen meanwhile: offline, as of then
    if (found) {
      assert.ok(
        allowed.some((user) => JSON.stringify(user) === JSON.stringify(found)),
        what,
      );
    } else {
      const absent = all ? !before : !before || allowed.some((user) => !user.online);
      assert.ok(absent, what);
    }
  }
}

test(
  `answers under random changes are true to their positions (SEED=${SEED})`,
  {
    timeout: 120000 * slow,
  },
  async (t) => {
    const dice = seeded(SEED);
    const server = await start(t, { args: ['--grace', '30ms', '--sync-interval', '10ms'] });
    const stream = await openEvents(server);
    await stream.next();
    const everybody = new Commotion(server, dice, 200);
    const answers = [];
    let over = false;
    const ask = async () => {
      for (let n = 0; !over; n++) {
        const all = n % 2 > 0;
        const { users, position: at } = await json(
          server,
          `/admin/${all ? 'users' : 'online-users'}?limit=1000`,
        );
        answers.push({ at, all, shown: new Map(users.map((user) => [user.user_id, bare(user)])) });
        const id = everybody.ids[dice(everybody.ids.length)];
        const one = await request(server, 'GET', `/admin/users/${segment(id)}`);
        if (one.status === 200)
          answers.push({
            at: one.json.position,
            exact: true,
            ids: [id],
            shown: new Map([[id, bare(one.json)]]),
          });
      }
    };
    const asking = [ask(), ask(), ask()];
    await commotion(everybody, { steps: heavy(1500, 100) });
    over = true;
    await Promise.all(asking);
    await stream.reach((await json(server, '/admin/stats')).position);
    const changes = new Map();
    for (const { event, data } of stream.events) {
      if (event === 'reset') continue;
      const id = data.user.user_id;
      if (!changes.has(id)) changes.set(id, []);
      changes.get(id).push({ sequence: position(data.position).sequence, user: bare(data.user) });
    }
    for (const answer of answers)
      hold({ ...answer, at: position(answer.at).sequence }, changes, answer.ids || everybody.ids);
    assert.ok(answers.length > heavy(300, 20), `${answers.length} answers`);
  },
);

test('every answer with a position has all changes up to it', async (t) => {
  const server = await start(t, { args: ['--max-messages-per-second', '0'] });
  const paths = ['/admin/online-users', '/admin/users', '/admin/stats', '/admin/users/u'];
  const client = await connect(server, 'u');
  const at = async (path) => position((await json(server, path)).position).sequence;
  for (let i = 0; i < 20; i++) {
    client.send({ type: 'status', status: i % 2 ? 'online' : 'busy' });
    client.send({ type: 'ping' });
    await client.next('pong');
    for (const path of paths) assert.equal(await at(path), i + 2, path);
    const shown = await json(server, '/admin/users/u');
    assert.equal(shown.status, i % 2 ? 'online' : 'busy');
    assert.equal(shown.connection_list[0].status, shown.status);
  }
  const stats = await json(server, '/admin/stats');
  assert.deepEqual([stats.users.online, position(stats.position).sequence], [1, 21]);
  const batch = await post(server, '/api/presence', { users: ['u'] });
  assert.equal(position(batch.json.position).sequence, 21);
});
