'use strict';
// Variants: release asan
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, run, tempDir, connect, presence, slow } = require('./lib');

test('S06 a second server on the same directory is refused and told which pid holds it', async (t) => {
  const data = tempDir(t);
  const first = await start(t, { data });
  const client = await connect(first, 'u');
  for (const dir of [data, `${data}/`, `${data}/../${data.split('/').pop()}`]) {
    const second = await run(['--listen', '127.0.0.1:0', '--data', dir]);
    assert.deepEqual([second.code, second.signal], [1, null], second.stderr);
    assert.ok(second.ms < 2000 * slow, `${second.ms} ms`);
    assert.equal(second.stderr.trim().split('\n').length, 1, second.stderr);
    assert.match(second.stderr, new RegExp(`\\b${first.pid}\\b`));
    assert.doesNotMatch(second.stderr, /listening on/);
  }
  await client.ping();
  assert.equal((await presence(first, 'u')).source, 'live');
});

test('S06 a presence.lock that was taken for a left-over and removed lets no second server in', async (t) => {
  const data = tempDir(t);
  const first = await start(t, { data, allow: [/presence\.lock was removed or replaced; others do not see/] });
  await connect(first, 'u');
  fs.rmSync(path.join(data, 'presence.lock'));
  for (let i = 0; i < 2; i++) {
    const second = await run(['--listen', '127.0.0.1:0', '--data', data]);
    assert.equal(second.code, 1, second.stderr);
    assert.match(second.stderr, /data\.mdb is in use by another process, under which presence\.lock was removed; stop it/);
  }
  assert.equal((await presence(first, 'u')).source, 'live');
  await first.stop();
  await start(t, { data });
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
