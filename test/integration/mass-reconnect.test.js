'use strict';
// Variants: release asan tsan
const assert = require('node:assert/strict');
const {
  test,
  start,
  tempDir,
  crowd,
  batch,
  get,
  until,
  heavy,
  slow,
  proc,
  sessions,
  settled,
} = require('./lib');

test('P08 first retries after a restart are spread: no 100 ms bucket over 10 %', async (t) => {
  const count = 200;
  const server = await start(t);
  const clients = crowd(t, server, { prefix: 'u', count });
  await clients.connect();
  await server.stop();
  await until('all close frames', () => clients.closes.length === count);
  const delays = clients.closes.map(({ code, reason }) => {
    assert.equal(code, 1012);
    const match = /^retry_after=(\d+)$/.exec(reason);
    assert.ok(match, reason);
    return Number(match[1]);
  });
  const buckets = new Map();
  for (const ms of delays)
    buckets.set(Math.floor(ms / 100), (buckets.get(Math.floor(ms / 100)) || 0) + 1);
  const fullest = Math.max(...buckets.values());
  assert.ok(fullest <= count / 10, `${fullest} of ${count} clients in one 100 ms bucket`);
  assert.ok(new Set(delays).size > count / 2, 'different for each client');
  assert.ok(Math.max(...delays) <= 60000, 'within a minute');
});

test('P08 a restart under 2,000 users: healthy within 1 s, nobody falsely offline, memory bounded', async (t) => {
  const count = heavy(2000, 400);
  const data = tempDir(t);
  const first = await start(t, { data });
  const clients = crowd(t, first, { prefix: 'user-', count, again: true });
  await clients.connect();
  const ids = Array.from({ length: count }, (_, i) => `user-${i}`);
  const everybodyOnline = async (server) => {
    for (let i = 0; i < count; i += 1000) {
      const gone = (await batch(server, ids.slice(i, i + 1000))).filter((user) => !user.online);
      assert.deepEqual(gone, [], 'falsely offline');
    }
  };
  await everybodyOnline(first);
  await first.stop();
  const second = await start(t, { data, address: first });
  const began = Date.now();
  while (clients.open < count) {
    assert.ok(Date.now() - began < 20000 * slow, `${clients.open} of ${count} came back`);
    const health = await get(second, '/healthz');
    assert.ok(
      health.status === 200 && health.ms < 1000 * slow,
      `health ${health.status} after ${health.ms} ms`,
    );
    await everybodyOnline(second);
  }
  const ready = await get(second, '/readyz');
  assert.equal(ready.status, 200);
  await everybodyOnline(second);
  if (heavy(true, false))
    assert.ok(proc.rss(second.pid) < 32e6, `${proc.rss(second.pid)} bytes resident`);
  await settled(second);
  for (const id of [ids[0], ids[count - 1]]) assert.equal((await sessions(second, id)).length, 1);
});
