'use strict';
// Variants: release asan
const assert = require('node:assert/strict');
const {
  test,
  start,
  crowdChild,
  stats,
  presence,
  get,
  delay,
  until,
  heavy,
  slow,
  proc,
} = require('./lib');

test(
  '15,000 sockets in one server: all counted, and no thread works while they are idle',
  { timeout: 120000 * slow },
  async (t) => {
    const count = heavy(15000, 1000);
    const server = await start(t, { args: ['--ping-interval', '10m', '--pong-timeout', '10m'] });
    const half = count / 2;
    const [, second] = await Promise.all(
      ['a', 'b'].map((prefix) => crowdChild(t, server, { prefix, count: half })),
    );
    const totals = await stats(server);
    assert.equal(totals.connections.current, count);
    assert.deepEqual([totals.users.online, totals.users.live], [count, count]);
    assert.equal((await presence(server, `b${half - 1}`)).source, 'live');
    assert.ok((await get(server, '/healthz')).ms < 1000 * slow);

    const busy = () => [...proc.threads(server.pid)].map(([tid, { name, ms }]) => [tid, name, ms]);
    let before = busy();
    await until(
      'the store to be written',
      async () => {
        // then there is nothing left to do
        await delay(500);
        const now = busy();
        const still = JSON.stringify(now) === JSON.stringify(before);
        before = now;
        return still;
      },
      { within: 20000 * slow },
    );
    await delay(2000);
    const after = new Map(busy().map(([tid, name, ms]) => [tid, ms]));
    for (const [tid, name, ms] of before)
      assert.ok(
        after.get(tid) - ms <= 20 * slow,
        `${name} worked ${after.get(tid) - ms} ms while idle`,
      );

    second.kill('SIGKILL'); // half of them vanish at once
    await until('half of them', async () => (await stats(server)).connections.current === half);
    assert.equal((await presence(server, 'a0')).source, 'live');
  },
);
