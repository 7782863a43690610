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
  dice,
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

test('a backup in place of a dump is refused with what to do, which then works', async (t) => {
  const server = await start(t);
  await heartbeat(server, 'u');
  await server.stop();
  const [backup, data] = [path.join(tempDir(t), 'backup'), path.join(tempDir(t), 'new')];
  assert.equal((await run(['--backup', backup, '--data', server.data])).code, 0);
  for (const [file, options] of [[backup, {}], ['-', { wrap: ['sh', '-c', `exec "$@" <'${backup}'`, 'sh'] }]]) {
    const { code, stderr } = await run(['--restore', file, '--data', data], options);
    assert.deepEqual([code, stderr], [1, `presence: --restore ${file}: it is a store, as --backup makes one; put it at data.mdb in an empty --data, for the user that serves, in place of --restore\n`]);
    assert.ok(!fs.existsSync(path.join(data, 'data.mdb')));
  }
  const bytes = fs.readFileSync(backup); // cut anywhere, or with another byte, it is one or the other, and never more
  const random = dice(5);
  const odd = path.join(tempDir(t), 'odd');
  for (const cut of [1, 2, 7, 8, 15, 16, 19, 20, 31, 32, 33, 100, 4096]) {
    const some = Buffer.from(bytes.subarray(0, cut));
    if (random(2)) some[random(Math.min(cut, 20))] ^= 1 << random(8);
    fs.writeFileSync(odd, some);
    const { code, signal, stderr } = await run(['--restore', odd, '--data', data]);
    assert.deepEqual([code, signal], [1, null]);
    assert.match(stderr, /: (it is a store, .*|line \d+ is none of a dump; nothing was restored)\n$/);
  }
  fs.copyFileSync(backup, path.join(data, 'data.mdb'));
  const again = await start(t, { data });
  assert.equal((await presence(again, 'u')).source, 'cached');
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

test('--backup to a name longer than any path is refused', async (t) => {
  const { code, stdout, stderr } = await run(['--data', tempDir(t), '--backup', `/${'x/'.repeat(2100)}`]);
  assert.deepEqual([code, stdout], [1, '']);
  assert.match(stderr, /^presence: the path of --backup is too long\n$/);
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
