'use strict';
const assert = require('node:assert/strict');
const { test, start, run, tempDir, connect, presence, slow } = require('./lib');

test('S06 a second server on the same directory is refused and told which pid holds it', async (t) => {
  const data = tempDir(t);
  const first = await start(t, { data });
  const client = await connect(first, 'u');
  for (const path of [data, `${data}/`, `${data}/../${data.split('/').pop()}`]) {
    const second = await run(['--listen', '127.0.0.1:0', '--data', path]);
    assert.deepEqual([second.code, second.signal], [1, null], second.stderr);
    assert.ok(second.ms < 2000 * slow, `${second.ms} ms`);
    assert.equal(second.stderr.trim().split('\n').length, 1, second.stderr);
    assert.match(second.stderr, new RegExp(`\\b${first.pid}\\b`));
    assert.doesNotMatch(second.stderr, /listening on/);
  }
  await client.ping();
  assert.equal((await presence(first, 'u')).source, 'live');
});

test('S06 a lock left by kill -9 does not block the next start', async (t) => {
  const data = tempDir(t);
  for (let i = 0; i < 5; i++) {
    const server = await start(t, { data });
    await connect(server, 'u');
    await server.kill();
  }
  await start(t, { data });
});

test('S06 two that start at once: exactly one wins', async (t) => {
  const data = tempDir(t);
  for (let i = 0; i < 5; i++) {
    const results = await Promise.allSettled([
      start(t, { data }),
      start(t, { data }),
      start(t, { data }),
    ]);
    const won = results.filter((one) => one.status === 'fulfilled').map((one) => one.value);
    assert.equal(won.length, 1, results.map((one) => one.reason?.message).join('\n'));
    await won[0].stop();
  }
});
