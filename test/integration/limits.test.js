'use strict';
const assert = require('node:assert/strict');
const {
  test,
  start,
  connect,
  refusal,
  get,
  json,
  presence,
  until,
  slow,
  assertNeverLeft,
} = require('./lib');

test('O05 with every socket taken, pages are served and the next upgrade gets 503', async (t) => {
  const server = await start(t, { args: ['--max-connections', '20', '--workers', '2'] });
  const clients = [];
  for (let i = 0; i < 20; i++) clients.push(await connect(server, `u${i}`));
  const health = await get(server, '/healthz');
  assert.ok(health.status === 200 && health.ms < 1000 * slow, `${health.ms} ms`);
  const full = await refusal(server, 'one-more');
  assert.equal(full.status, 503);
  assert.match(full.headers['retry-after'], /^\d+$/);
  const { connections } = await json(server, '/admin/stats');
  assert.deepEqual([connections.current, connections.limit], [20, 20]);
  for (const client of clients) await client.ping();
  await clients[0].close();
  await until('a place again', () => connect(server, 'one-more').catch(() => null));
});

test('a user has at most --max-connections-per-user', async (t) => {
  const server = await start(t, { args: ['--max-connections-per-user', '2'] });
  await connect(server, 'u');
  const second = await connect(server, 'u');
  assert.equal((await refusal(server, 'u')).status, 429);
  assert.equal((await presence(server, 'u')).connections, 2);
  await connect(server, 'v');
  await second.close();
  await until('a place again', () => connect(server, 'u').catch(() => null));
  await assertNeverLeft(server, 'u');
});

test('of many connections of a user that come at once none over the limit counts', async (t) => {
  const server = await start(t, { args: ['--max-connections-per-user', '2'] });
  for (let round = 0; round < 20; round++) {
    const id = `u${round}`;
    const tries = await Promise.allSettled(Array.from({ length: 20 }, () => connect(server, id)));
    const open = tries.filter(({ status }) => status === 'fulfilled').map(({ value }) => value);
    assert.equal(open.length, 2, 'each with a hello');
    for (const client of open) await client.ping();
    for (const { reason } of tries.filter(({ status }) => status === 'rejected'))
      assert.match(reason.message, /429/);
    assert.equal((await presence(server, id)).connections, 2);
  }
});
