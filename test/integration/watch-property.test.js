'use strict';
// Variants: asan tsan
// Random users, followers, drops, manual statuses and restarts: after quiet, what every follower
// was told is what the API answers. PROPERTY_SEED repeats a run, PROPERTY_SECONDS makes it longer.

const { test, dice, start, connect, Follower, heartbeat, del, putStatus, slow, heavy } = require('./lib');

const FOLLOWING_USER = 'u0'; // is not kicked: she follows others herself
const USERS = Array.from({ length: 8 }, (_, i) => `u${i}`);
const FOLLOWERS = ['f0', 'f1', 'f2', 'f3', FOLLOWING_USER];
const longer = process.env.PROPERTY_SECONDS;
const SECONDS = Number(longer || 20); // fewer rounds where more do not fit in these

class World {
  constructor(t, seed, interval) {
    this.t = t;
    this.roll = dice(seed);
    this.args = [
      '--grace',
      '30ms',
      '--online-threshold',
      '1h',
      '--max-messages-per-second',
      '0',
      '--watch-interval',
      interval,
    ];
    this.clients = []; // { id, client } of users
    this.followers = [];
    this.restarts = 0;
    this.following = null; // one follower at a time does something
  }

  pick(list) {
    return list[this.roll(list.length)];
  }

  some(list) {
    return list.filter(() => this.roll(2));
  }

  async begin(data) {
    this.server = await start(this.t, { data, args: this.args });
    this.followers = await Promise.all(FOLLOWERS.map((id) => this.join(id)));
  }

  /** Says goodbye to all, so that nothing of a socket is left when the server has gone. */
  async end() {
    const open = [...this.clients, ...this.followers].filter(({ client }) => client.open);
    await Promise.all(open.map(({ client }) => client.close()));
  }

  async join(id) {
    const follower = new Follower(await connect(this.server, id));
    await follower.watch(this.some([...USERS, 'never', ...FOLLOWERS]));
    return follower;
  }

  async restart() {
    this.restarts++;
    if (this.roll(2)) await this.server.stop();
    else await this.server.kill();
    this.clients = [];
    await this.begin(this.server.data);
  }

  async act() {
    const id = this.pick(USERS);
    const mine = this.clients.length ? this.pick(this.clients) : null;
    switch (this.roll(mine ? 12 : 3)) {
      case 0:
      case 1:
        this.clients.push({ id, client: await connect(this.server, id) });
        return;
      case 2:
        await this.set(id);
        return;
      case 3:
        await heartbeat(this.server, id);
        return;
      case 4:
        if (mine.id !== FOLLOWING_USER)
          await del(this.server, `/admin/users/${mine.id}/connections`);
        return;
      case 5:
        await this.leave(mine, () => mine.client.close(this.pick([1000, 1001])));
        return;
      case 6:
        await this.leave(mine, () => mine.client.destroy());
        return;
      case 7:
        await this.leave(mine, () => mine.client.reset());
        return;
      case 8:
      case 9:
        mine.client.send({ type: 'status', status: this.pick(['online', 'away', 'busy']) });
        return;
      default:
        await (this.following ??= this.follow().finally(() => {
          this.following = null;
        }));
    }
  }

  async leave(one, how) {
    this.clients.splice(this.clients.indexOf(one), 1);
    await how();
  }

  async set(id) {
    const status = this.pick(['online', 'away', 'busy', 'invisible', 'invisible', null]);
    const message = this.pick([null, '', 'hello', 'é"\\', 'x'.repeat(140)]);
    const expires_in = this.pick([null, null, 1]);
    await putStatus(this.server, id, { status, message, expires_in }); // 404 for one never seen
  }

  async follow() {
    const at = this.roll(this.followers.length);
    const follower = this.followers[at];
    switch (this.roll(4)) {
      case 0:
        follower.client.destroy();
        this.followers[at] = await this.join(FOLLOWERS[at]);
        return;
      case 1:
        follower.unwatch(this.some(USERS));
        return;
      case 2:
        follower.unwatch();
        return;
      default:
        await follower.watch(this.some([...USERS, ...FOLLOWERS]));
    }
  }

  async round() {
    this.clients = this.clients.filter(({ client }) => client.open);
    const actions = 1 + this.roll(6);
    for (let i = 0; i < actions; i++) {
      if (this.roll(2)) await this.act();
      else await Promise.all([this.act(), this.act()]);
    }
    await Promise.all(this.followers.map((one) => one.agrees(this.server)));
  }
}

for (const [interval, rounds] of [
  ['0', heavy(800, 100)],
  ['20ms', heavy(200, 30)],
]) {
  test(
    `every follower ends up with what the API answers (--watch-interval ${interval})`,
    { timeout: 120000 * slow + SECONDS * 1000 },
    async (t) => {
      const seed = Number(process.env.PROPERTY_SEED) || (Date.now() % 1000000) + 1;
      const world = new World(t, seed, interval);
      await world.begin();
      const end = Date.now() + (SECONDS / 2) * 1000;
      let round = 0;
      try {
        for (; (longer || round < rounds) && Date.now() < end; round++) {
          if (round % 60 === 59) await world.restart();
          await world.round();
        }
      } catch (error) {
        error.message = `PROPERTY_SEED=${seed}, round ${round}: ${error.message}`;
        throw error;
      }
      t.diagnostic(`${round} rounds, ${world.restarts} restarts, seed ${seed}`);
      await world.end();
    },
  );
}

// Hundreds of sockets were cut in the middle of a write: node 20 then waits for ever, after its last
// line, for requests of handles that it has closed (Environment::CleanupHandles).
process.on('exit', (code) => process.reallyExit(code));
