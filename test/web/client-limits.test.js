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
  ['--max-messages-per-second 5', ['--max-messages-per-second', '5'], 900, 12],
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
