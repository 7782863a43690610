'use strict';
// Variants: asan tsan
// kill -9 at random moments under load. The client side keeps a log of what
// the server acknowledged and when; after every restart each user must be in a
// state that this log allows.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const {
  CLOCK,
  test,
  start,
  run,
  tempDir,
  cleanup,
  rawConnect,
  frame,
  closePayload,
  OP,
  batch,
  pages,
  delay,
  heavy,
  slow,
  window,
} = require('./lib');

const SYNC = 50; // --sync-interval of start() in ms
const SLACK = SYNC + 250 * window; // what is older than this at the kill must be in the file
const USERS = 24;
const ROUNDS = heavy(200, 20);

/** One user's life until the server dies: events are { joined, asked, done }. */
async function live(server, user, over) {
  const pause = (most) => Promise.race([delay(Math.random() * most), over.ended]);
  while (!over.now) {
    // Coming back while believed online is no news, so its time may come to
    // the file later: then the old bound of last_seen stays.
    const before = user.events.at(-1) || user.base;
    const event = {
      joined: true,
      asked: before.joined ? before.asked : Date.now(),
      done: Infinity,
    };
    user.events.push(event);
    const raw = await rawConnect(server, user.id);
    event.done = Date.now();
    for (let i = Math.floor(Math.random() * 4); i > 0; i--) {
      await raw.ping();
      await pause(40);
    }
    if (Math.random() < 0.3) await pause(600); // some stay for long
    const end = { joined: false, asked: Date.now(), done: Infinity };
    user.events.push(end);
    raw.write(frame(OP.close, closePayload(1000)));
    const code = await raw.closeCode();
    raw.destroy();
    if (code !== 1000) return; // it was the kill
    end.done = Date.now();
    if (Math.random() < 0.3) await pause(600); // some stay away for long
  }
}

/** Watches how late this process gets its turn: on a machine that is too busy
 *  for us, the server may be late by as much. */
function watchDelay() {
  let last = Date.now();
  let worst = 0;
  const look = () => {
    worst = Math.max(worst, Date.now() - last - 10);
    last = Date.now();
  };
  const timer = setInterval(look, 10);
  return {
    /** The worst delay since the last call, in ms. */
    take() {
      look();
      const found = worst;
      worst = 0;
      return found;
    },
    end: () => clearInterval(timer),
  };
}

/** The states that the log allows: the one after the last event before `due`,
 *  which must have been kept, or after any later one. */
function allowed(user, due) {
  let first = -1;
  user.events.forEach((event, index) => {
    if (event.done <= due) first = index;
  });
  const states = user.events.slice(Math.max(first, 0));
  if (first < 0) states.unshift(user.base);
  return states;
}

test(
  `${ROUNDS} times kill -9 under load: nothing committed is lost, nothing is invented`,
  { timeout: 170000 * slow },
  async (t) => {
    const parent = fs.existsSync('/dev/shm') ? '/dev/shm' : os.tmpdir();
    const data = tempDir(t, parent);
    const args = ['--online-threshold', '1h', '--grace', '1h'];
    const users = Array.from({ length: USERS }, (_, i) => ({
      id: `user-${i}`,
      base: { joined: null, asked: 0 },
      events: [],
    }));
    let server = await start(t, { data, args });
    let mustBeKept = 0;
    let checked = 0;
    const late = watchDelay();
    cleanup(t, late.end);

    for (let round = 0; round < ROUNDS; round++) {
      const over = { now: false };
      late.take();
      over.ended = new Promise((resolve) => {
        over.end = resolve;
      });
      const lives = users.map((user) => live(server, user, over).catch(() => {})); // the kill ends them
      await delay(50 + Math.random() * (round % 4 === 0 ? 800 : 300) * window);
      const killed = Date.now();
      const due = killed - SLACK - 2 * late.take();
      await server.kill();
      over.now = true;
      over.end();
      await Promise.all(lives);

      server = await start(t, { data, args });
      const found = await batch(
        server,
        users.map((user) => user.id),
      );
      for (const [i, user] of users.entries()) {
        const states = allowed(user, due);
        const now = found[i];
        const told = `round ${round}, killed ${new Date(killed).toISOString()}: ${JSON.stringify(now)}\nallowed ${JSON.stringify(states)}\nlog ${JSON.stringify(user.events)}`;
        const never = now.last_seen === null;
        const match = states.find((state) =>
          state.joined === null ? never : !never && state.joined === now.online,
        );
        assert.ok(match, told);
        if (!never) {
          assert.ok(
            Date.parse(now.last_seen) >= match.asked - CLOCK,
            `last_seen too early, ${told}`,
          );
          assert.ok(Date.parse(now.last_seen) <= killed + 50 * slow, `last_seen too late, ${told}`);
        }
        if (now.online) assert.deepEqual([now.source, now.connections], ['cached', 0], told);
        if (states[0] !== user.base) mustBeKept++;
        user.base = {
          joined: never ? null : now.online,
          asked: never ? 0 : Date.parse(now.last_seen),
        };
        user.events = [];
        checked++;
      }
    }
    t.diagnostic(`${checked} users checked, ${mustBeKept} of them with news that had to be kept`);
    assert.ok(mustBeKept > ROUNDS, 'the test has teeth');
    const stays = await pages(server, `/admin/users/user-0/sessions`, 'sessions', 100);
    assert.ok(
      stays.slice(1).every((one) => one.to !== null),
      'at most the newest stay is open: no ghosts',
    );
    await server.stop();
    const check = await run(['--check-store', '--data', data]);
    assert.equal(check.code, 0, check.stderr);
  },
);
