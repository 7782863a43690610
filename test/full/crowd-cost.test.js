'use strict';
// Thousands of connections that end at once, or are looked at: the pings of others hardly notice.

const assert = require('node:assert/strict');
const { test, start, crowd, pinger, watchers, request, get, json, until, delay, slow } = require('../integration/lib');

const COUNT = 4000; // this process has the other ends
const ARGS = '--max-connections-per-user 60000 --max-pending-per-address 4000 --max-messages-per-second 0'.split(' ');

/** Holds the worst ping while `work` runs to 50 ms, beside that of an idle server. */
async function worstPing(t, server, work) {
  const idle = await start(t, { args: ARGS });
  const pings = await Promise.all([server, idle].map((one) => pinger(t, one)));
  await delay(100);
  await work();
  const [worst, noise] = (await Promise.all(pings.map((one) => one.end()))).map((took) => Math.max(...took));
  t.diagnostic(`worst ping ${worst.toFixed(1)} ms, of an idle server ${noise.toFixed(1)} ms`);
  assert.ok(worst < 50 * slow + 2 * noise, `a ping took ${worst} ms, of an idle server ${noise} ms`);
}

/** Many connections of one user. */
async function many(t) {
  const server = await start(t, { args: ARGS });
  const all = crowd(t, server, { prefix: 'one', count: COUNT, same: true });
  await all.connect(200);
  assert.equal((await json(server, '/admin/users/one')).connections, COUNT);
  return { server, all };
}

test('a user with thousands of connections is kicked', async (t) => {
  const { server } = await many(t);
  await worstPing(t, server, async () => {
    const answer = await request(server, 'DELETE', '/admin/users/one/connections');
    assert.equal(answer.json.closed, COUNT, answer.text);
  });
});

test('a user with thousands of connections is looked at', async (t) => {
  const { server } = await many(t);
  await worstPing(t, server, async () => {
    for (let i = 0; i < 20; i++) {
      const answer = await get(server, '/admin/users/one');
      assert.equal(answer.json.connection_list.length, COUNT);
    }
  });
});

test('thousands close at once', async (t) => {
  const server = await start(t, { args: ARGS });
  const all = crowd(t, server, { prefix: 'u', count: COUNT });
  await all.connect(200);
  await worstPing(t, server, async () => {
    all.drop();
    await until('all to be gone', async () => {
      await delay(50);
      return (await json(server, '/admin/stats')).connections.current <= 1;
    }, { within: 20000 * slow });
  });
});

test('thousands who follow a thousand each end at once', async (t) => {
  const server = await start(t, { args: ARGS });
  const all = await watchers(t, server, { sockets: COUNT, prefix: 'u', rounds: 2, count: 450, keep: true });
  await all.send();
  const following = async () => (await json(server, '/admin/stats')).connections.watching;
  await until('all to follow', async () => (await following()) === COUNT * 900, { within: 60000 * slow });
  await worstPing(t, server, async () => {
    await all.drop();
    await until('all to be let go', async () => (await following()) === 0, { within: 20000 * slow });
  });
});
