'use strict';
// The rules of presence on a real server, at random: users who connect, break, reload, send heartbeats
// and log out, while the server is killed, stopped in order and held, with every order of grace,
// threshold, ping interval and timeout. Who was there all the time, by what the client knows, has never
// left; and at the end nobody stays. SEED and SECONDS choose another run.

const assert = require('node:assert/strict');
const { test, start, tempDir, connect, heartbeat, sessions, onlineUsers, delay, until, settled, slow, dice: seeded } =
  require('../integration/lib');

const USERS = 40;
const SECONDS = Number(process.env.SECONDS || 20);
const MARGIN = 300 * slow; // what a busy machine takes between two lines of this file

/** Numbers and choices that a seed repeats. */
function chance(seed) {
  const below = seeded(seed);
  return { below, pick: (list) => list[below(list.length)] };
}

/** What a client can be sure of: until when its user has to be online, and how often it may have left. */
class Sure {
  constructor() {
    Object.assign(this, { since: 0, until: 0, at: 0, breaks: 0, log: [] });
  }

  note(what) {
    this.log.push(`${new Date().toISOString().slice(17, 23)} ${what} ${this.breaks}`);
  }

  /** It was heard, as an answer said at `now`; that keeps it until `end`. */
  heard(now, end) {
    if (now > this.until) {
      this.left();
      this.since = now;
    }
    this.note('heard');
    this.keep(Math.max(this.until, end));
  }

  /** It has to be online until then. */
  keep(end) {
    Object.assign(this, { until: end, at: Date.now() });
    this.note(`kept for ${end - this.at}`);
  }

  /** What was asked of a server that died may have had its effect, a stay, or none. */
  unknown() {
    this.breaks++;
    this.note('unknown');
  }

  /** It has left, or may have. */
  left() {
    if (this.until) this.breaks++;
    this.until = 0;
    this.note('left');
  }
}

async function live(world, user) {
  const { dice, times } = world;
  while (!world.over) {
    const server = await until('a server', () => world.server, { within: 20000 * slow });
    const began = Date.now();
    try {
      if (dice.below(3) === 0) {
        await heartbeat(server, user.id);
        if (world.server === server) user.sure.heard(Date.now(), began + times.threshold);
        else user.sure.unknown();
      } else {
        const client = await connect(server, user.id);
        if (world.server !== server) {
          user.sure.unknown();
          continue;
        }
        user.sure.heard(Date.now(), Infinity);
        user.client = client;
        await Promise.race([delay(dice.below(2500)), client.closed]);
        user.client = null;
        if (world.server === server && !client.open) user.sure.left(); // silent: this process was late
        if (world.server !== server || !client.open) continue; // the restart knows
        const end = dice.pick(['reset', 'away', 'away', 'clean']);
        const kept = Date.now() + times.grace;
        if (end === 'reset') client.reset();
        else client.socket.close(end === 'clean' ? 1000 : 1001);
        if (end === 'clean') user.sure.left();
        else user.sure.keep(kept);
        await client.closed;
      }
    } catch {
      user.sure.unknown(); // the server was killed meanwhile
    }
    await delay(dice.pick([0, 50, 300, times.grace - MARGIN, times.threshold - MARGIN, times.threshold + MARGIN]));
  }
}

/** Everything of the server's that ends by itself, moved by a pause; Infinity stays. */
async function hold(world) {
  const [from, length] = [Date.now(), world.dice.pick([600, 1500, 4000])];
  process.kill(world.server.pid, 'SIGSTOP');
  await delay(length);
  process.kill(world.server.pid, 'SIGCONT');
  const gap = Date.now() - from - MARGIN;
  for (const { sure } of world.users) if (sure.at < from && sure.until > from) sure.until += Math.max(gap, 0);
}

async function restart(world, t, options, how) {
  const { server } = world;
  world.server = null; // what is under way now is sure of nothing
  const killed = Date.now();
  for (const { sure } of world.users) {
    if (sure.until > killed && sure.since < killed - 1000 * slow) sure.keep(killed + world.times.threshold);
    else sure.left(); // it is late, or perhaps not in the store yet
  }
  await server[how]();
  world.server = await start(t, { ...options, address: server });
}

async function round(t, seed) {
  const dice = chance(seed);
  const times = {
    grace: dice.pick([300, 1000, 4000]) * slow,
    threshold: dice.pick([1500, 2500, 5000]) * slow,
    interval: dice.pick([200, 500, 3000]) * slow,
    timeout: dice.pick([2000, 5000]) * slow,
  };
  t.diagnostic(`SEED=${seed} ${JSON.stringify(times)}`);
  const options = {
    data: tempDir(t),
    args: ['--grace', `${times.grace}ms`, '--online-threshold', `${times.threshold}ms`,
      '--ping-interval', `${times.interval}ms`, '--pong-timeout', `${times.timeout}ms`],
  };
  const users = Array.from({ length: USERS }, (_, i) => ({ id: `u${i}`, sure: new Sure(), client: null }));
  const world = { dice, times, users, server: await start(t, options), over: false };
  const lives = users.map((user) => live(world, user));
  for (const end = Date.now() + SECONDS * 1000; Date.now() < end;) {
    await delay(500 + dice.below(2500));
    if (dice.below(2)) await hold(world);
    else await restart(world, t, options, dice.pick(['kill', 'kill', 'stop']));
  }
  world.over = true;
  for (const { client } of users) client?.reset();
  await Promise.all(lives);
  for (const one of [...world.server.sockets]) one.destroy();
  const longest = times.grace + times.threshold + times.interval + times.timeout;
  await until('all to be gone', async () => (await onlineUsers(world.server)).length === 0,
    { within: 2 * longest + 10000 * slow });
  await settled(world.server);
  let stays = 0;
  for (const { id, sure } of users) {
    const ended = await sessions(world.server, id).catch(() => []);
    stays += ended.length;
    assert.ok(ended.every((one) => one.from <= one.to), JSON.stringify(ended));
    // the last stay ends in any case
    const told = `${id} left ${ended.length} times, ${sure.breaks} could be: ${JSON.stringify(ended)}\n${sure.log.join('\n')}`;
    assert.ok(ended.length <= sure.breaks + 1, told);
  }
  t.diagnostic(`${stays} stays, ${users.reduce((sum, { sure }) => sum + sure.breaks, 0)} could have been`);
  await world.server.stop();
}

test('kill -9, SIGSTOP, every order of grace and threshold: who is there has not left', { timeout: 600000 * slow }, async (t) => {
  const seed = Number(process.env.SEED || 0);
  for (let i = 1; i <= (seed ? 1 : 6); i++) await round(t, seed || i);
});
