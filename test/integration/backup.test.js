'use strict';
// Variants: asan tsan
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const {
  test,
  start,
  run,
  tempDir,
  connect,
  heartbeat,
  heartbeats,
  presence,
  sessions,
  settled,
  storeFile,
  until,
} = require('./lib');

const ODD = ['a"b', 'x\\y', '\u{1F600}', 'a/b', '=1+1', '<b>'];

/** A server with some history: 300 heartbeat users, odd ids, stays that ended. */
async function history(t, data) {
  const server = await start(t, { data });
  await heartbeats(
    server,
    Array.from({ length: 300 }, (_, i) => `user-${i}`),
  );
  for (const id of ODD) {
    const client = await connect(server, id);
    await client.close();
  }
  await connect(server, 'live');
  await settled(server);
  return server;
}

const lines = (text) =>
  text
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

test('--dump, hot or cold, is JSON lines; --restore makes the same store of it', async (t) => {
  const data = tempDir(t);
  const server = await history(t, data);
  const hot = await run(['--dump', '--data', data]);
  assert.deepEqual([hot.code, hot.stderr], [0, '']);
  const text = hot.stdout;
  for (const id of [...ODD, 'user-0', 'user-299', 'live'])
    assert.ok(
      lines(text).some((line) => JSON.stringify(line).includes(JSON.stringify(id))),
      id,
    );
  const before = { user: await presence(server, ODD[0]), stays: await sessions(server, ODD[0]) };
  await server.stop();

  const cold = await run(['--dump', '--data', data]);
  assert.equal(cold.code, 0);
  const file = path.join(tempDir(t), 'dump');
  fs.writeFileSync(file, cold.stdout);
  const copy = tempDir(t);
  const restored = await run(['--restore', file, '--data', copy]);
  assert.deepEqual([restored.code, restored.stderr], [0, ''], JSON.stringify(restored));
  assert.deepEqual(lines((await run(['--dump', '--data', copy])).stdout), lines(cold.stdout));
  const check = await run(['--check-store', '--data', copy]);
  assert.equal(check.code, 0, check.stderr);
  assert.match(check.stdout, /^store ok: 30[78] users/);

  const again = await start(t, { data: copy });
  assert.deepEqual(await presence(again, ODD[0]), before.user);
  assert.deepEqual(await sessions(again, ODD[0]), before.stays);
  assert.deepEqual((await presence(again, 'live')).source, 'cached');
});

test('--restore refuses a directory with something in it, and a broken dump', async (t) => {
  const data = tempDir(t);
  const server = await history(t, data);
  await server.stop();
  const dump = (await run(['--dump', '--data', data])).stdout;
  const file = path.join(tempDir(t), 'dump');
  fs.writeFileSync(file, dump);
  const before = fs.readFileSync(storeFile(data));
  const full = await run(['--restore', file, '--data', data]);
  assert.ok(full.code > 0 && full.stderr.includes(data), JSON.stringify(full));
  assert.ok(fs.readFileSync(storeFile(data)).equals(before));

  for (const [what, text] of [
    ['cut', dump.slice(0, dump.length - 20)],
    ['foreign', 'hello\n'],
    ['JSON of another kind', '{"a":1}\n'],
  ]) {
    fs.writeFileSync(file, text);
    const result = await run(['--restore', file, '--data', path.join(tempDir(t), 'new')]);
    assert.ok(result.signal === null && result.code > 0, `${what}: ${JSON.stringify(result)}`);
    assert.equal(result.stderr.trim().split('\n').length, 1, what);
    assert.ok(result.stderr.includes(file), `${what}: ${result.stderr}`);
  }
  const missing = await run(['--restore', '/no/such/dump', '--data', path.join(tempDir(t), 'new')]);
  assert.ok(missing.code > 0 && missing.stderr.includes('/no/such/dump'));
});

test('--backup of a running server is a store that starts', async (t) => {
  const data = tempDir(t);
  const server = await history(t, data);
  const file = path.join(tempDir(t), 'backup');
  let busy = true;
  const load = (async () => {
    for (let i = 0; busy; i++) await heartbeat(server, `busy-${i % 100}`);
  })();
  const result = await run(['--backup', file, '--data', data]);
  busy = false;
  await load;
  assert.deepEqual([result.code, result.stderr], [0, '']);
  const copy = tempDir(t);
  fs.copyFileSync(file, path.join(copy, path.basename(storeFile(data))));
  const check = await run(['--check-store', '--data', copy]);
  assert.equal(check.code, 0, check.stderr);
  const second = await start(t, { data: copy });
  for (const id of ['user-0', 'user-299', 'live', ...ODD]) await presence(second, id);
  assert.deepEqual(await sessions(second, ODD[1]), await sessions(server, ODD[1]));

  const over = await run(['--backup', file, '--data', data]);
  assert.ok(over.code > 0 && over.stderr.includes(file), 'an existing file is not overwritten');
});

test('P06 a last_seen from the future, in a restored store, is never shown, and heals', async (t) => {
  const data = tempDir(t);
  const first = await start(t, { data });
  const client = await connect(first, 'u');
  await client.close();
  await settled(first);
  await first.stop();
  const ahead = 12 * 3600 * 1000;
  const shifted = (await run(['--dump', '--data', data])).stdout
    .replace(
      /"(\d{4}-\d\d-\d\dT[\d:.]+Z)"/g,
      (_, time) => `"${new Date(Date.parse(time) + ahead).toISOString()}"`,
    )
    .replace(/\b1\d{12}\b/g, (ms) => String(Number(ms) + ahead));
  const file = path.join(tempDir(t), 'dump');
  fs.writeFileSync(file, shifted);
  const copy = tempDir(t);
  assert.equal((await run(['--restore', file, '--data', copy])).code, 0);
  const second = await start(t, { data: copy });
  assert.equal((await presence(second, 'u')).online, false); // presence() checks that no time is ahead
  const back = await connect(second, 'u');
  await back.ping();
  const before = Date.now();
  await back.ping();
  await until('now heard', async () => {
    const at = Date.parse((await presence(second, 'u')).last_seen);
    return at >= before - 1 && at <= Date.now() + 1; // two clocks, each cut to a millisecond
  });
});
