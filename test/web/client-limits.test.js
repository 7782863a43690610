'use strict';
// The client at a real server whose limits are below the defaults: it is told them, keeps them, and
// holds one connection.

const assert = require('node:assert/strict');
const path = require('node:path');
const { test, start, unique, json, until } = require('../integration/lib');
const { WEB } = require('./lib/world');

/** A client of a server, in Node; `log` has how connections ended, and errors. */
async function clientOf(t, server, options = {}) {
  const { PresenceService } = await import(path.join(WEB, 'presence.js'));
  const client = new PresenceService({
    apiUrl: `http://127.0.0.1:${server.port}`,
    WebSocket: globalThis.WebSocket ?? require('ws'),
    ...options,
  });
  t.after(() => client.stopPresence());
  const log = [];
  client.on('disconnected', ({ code, reason }) => log.push(`${code} ${reason}`));
  client.on('error', ({ code }) => log.push(code));
  return { client, log };
}

for (const [what, args, count, length] of [
  ['--max-message 2048', ['--max-message', '2048'], 900, 12],
  ['--max-message 128', ['--max-message', '128'], 40, 60],
  ['--max-messages-per-second 5', ['--max-messages-per-second', '5'], 900, 60],
  ['--max-messages-per-second 1', ['--max-messages-per-second', '1'], 100, 12],
  ['the defaults, ids as long as can be', [], 1000, 128],
]) {
  test(`${what}: ${count} users are followed over one connection`, async (t) => {
    const server = await start(t, { args });
    const { client, log } = await clientOf(t, server);
    const known = new Set();
    const ids = Array.from({ length: count }, (_, i) => `u${i}-`.padEnd(length, 'x'));
    client.setStatus('busy');
    client.setStatus('away', { manual: true });
    client.watch(ids, ({ user_id: id }) => known.add(id));
    client.startPresence(unique('limit'));
    await until('all to be known', () => {
      assert.deepEqual(log, []);
      return known.size === count;
    }, { within: 60000 });
    assert.equal(client.isConnected(), true);
    const { counters } = await json(server, '/admin/stats');
    assert.equal(counters.upgrades, 1, 'one connection was enough');
  });
}

test('what the limits make impossible is an error of the client, and the connection stays', async (t) => {
  const server = await start(t, { args: ['--max-message', '128', '--max-watch', '3'] });
  const { client, log } = await clientOf(t, server);
  const told = [];
  client.watch(['a', '"'.repeat(100), 'b', 'c', 'd'], ({ user_id: id }) => told.push(id),
    ({ userId, code }) => told.push(`${userId[0]} ${code}`));
  client.setStatus('busy', { manual: true, message: 'm'.repeat(140) });
  client.startPresence(unique('limit'));
  await until('all to be told', () => told.length === 5);
  assert.deepEqual(told.sort(), ['" message_too_large', 'a', 'b', 'c', 'd too_many_watched'].sort());
  assert.deepEqual(log.sort(), ['message_too_large', 'message_too_large', 'too_many_watched']);
  assert.equal(client.isConnected(), true);
});

test('P08 200 clients of a server that is killed: no tenth of them tries within the same 100 ms', async (t) => {
  const server = await start(t);
  let seed = 7; // the same random numbers each time: what is looked at is what they are used for
  const random = () => {
    seed = (seed * 48271) % 2147483647;
    return seed / 2147483647;
  };
  const delays = [];
  const clients = await Promise.all(Array.from({ length: 200 }, async (_, i) => {
    const { client } = await clientOf(t, server, { random });
    client.on('reconnecting', ({ attempt, delay }) => attempt === 1 && delays.push(delay));
    const known = new Promise((resolve) => { client.watch('nobody', resolve); });
    client.startPresence(`p08-${i}`);
    await known;
    return client;
  }));
  // whatever the server has said before this is heard before its answer
  await Promise.all(clients.map((client) => new Promise((resolve) => { client.watch('none', resolve); })));
  await server.kill();
  await until('all to have noticed', () => delays.length === 200);
  const buckets = new Map();
  for (const delay of delays) {
    const bucket = Math.floor(delay / 100);
    buckets.set(bucket, (buckets.get(bucket) ?? 0) + 1);
  }
  const most = Math.max(...buckets.values());
  assert.ok(most <= 20, `${most} of 200 in 100 ms`);
  assert.ok(Math.min(...delays) >= 1000 && Math.max(...delays) >= 3000, 'spread over three seconds');
  for (const client of clients) client.stopPresence();
});
