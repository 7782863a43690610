'use strict';
const assert = require('node:assert/strict');
const {
  test,
  lacks,
  start,
  connect,
  get,
  json,
  presence,
  until,
  slow,
  assertNeverLeft,
} = require('./lib');

const refusal = (promise) =>
  promise.then(
    () => {
      throw new Error('was let in');
    },
    (error) => error,
  );

test('O05 with every socket taken, pages are served and the next upgrade gets 503', async (t) => {
  const server = await start(t, { args: ['--max-connections', '20', '--workers', '2'] });
  const clients = [];
  for (let i = 0; i < 20; i++) clients.push(await connect(server, `u${i}`));
  const health = await get(server, '/healthz');
  assert.ok(health.status === 200 && health.ms < 1000 * slow, `${health.ms} ms`);
  const full = await refusal(connect(server, 'one-more'));
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
  assert.equal((await refusal(connect(server, 'u'))).status, 429);
  assert.equal((await presence(server, 'u')).connections, 2);
  await connect(server, 'v');
  await second.close();
  await until('a place again', () => connect(server, 'u').catch(() => null));
  await assertNeverLeft(server, 'u');
});

test(
  'an address has at most --max-connections-per-address',
  lacks('--max-connections-per-address'),
  async (t) => {
    const server = await start(t, { args: ['--max-connections-per-address', '3'] });
    const first = [];
    for (let i = 0; i < 3; i++)
      first.push(await connect(server, `u${i}`, { localAddress: '127.0.0.20' }));
    assert.equal(
      (await refusal(connect(server, 'u9', { localAddress: '127.0.0.20' }))).status,
      429,
    );
    await connect(server, 'u9', { localAddress: '127.0.0.21' });
    await first[0].close();
    await until('a place again', () =>
      connect(server, 'u9', { localAddress: '127.0.0.20' }).catch(() => null),
    );
  },
);

test(
  'an address gets at most --max-upgrades-per-second',
  lacks('--max-upgrades-per-second'),
  async (t) => {
    const server = await start(t, { args: ['--max-upgrades-per-second', '5'] });
    const results = await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        connect(server, `u${i}`, { localAddress: '127.0.0.20' }).then(
          () => 101,
          (error) => error.status,
        ),
      ),
    );
    assert.ok(results.filter((status) => status === 101).length >= 5);
    assert.ok(results.filter((status) => status === 429).length >= 20, `${results}`);
    await connect(server, 'other', { localAddress: '127.0.0.21' });
    await until('let in again', () =>
      connect(server, 'late', { localAddress: '127.0.0.20' }).catch(() => null),
    );
  },
);
