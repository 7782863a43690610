'use strict';
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const {
  test,
  start,
  run,
  tempDir,
  connect,
  get,
  post,
  setStatus,
  onlineUsers,
  heartbeats,
  settled,
  storeFile,
  slow,
} = require('./lib');

/** A store of 2,000 users, stopped cleanly. */
async function makeStore(t) {
  const data = tempDir(t);
  const server = await start(t, { data });
  await heartbeats(
    server,
    Array.from({ length: 2000 }, (_, i) => `user-${i}`),
  );
  await settled(server);
  await server.stop();
  return storeFile(data);
}

const DAMAGE = {
  'cut to 0': () => Buffer.alloc(0),
  'cut to 4096': (bytes) => bytes.subarray(0, 4096),
  'cut in half': (bytes) => bytes.subarray(0, bytes.length / 2),
  'cut inside the first page': (bytes) => bytes.subarray(0, 100),
  'random bytes': (bytes) => crypto.randomBytes(bytes.length),
  'random bytes in the first pages': (bytes) =>
    Buffer.concat([crypto.randomBytes(8192), bytes.subarray(8192)]),
  zeros: (bytes) => Buffer.alloc(bytes.length),
  'another format': () =>
    Buffer.concat([Buffer.from('SQLite format 3\0'), Buffer.alloc(8192 - 16)]),
  'a text': () => Buffer.from('hello: this is no store\n'.repeat(1000)),
};

test(
  'S03 a damaged or foreign file is refused with a line that names it, and left as it is',
  { timeout: 120000 * slow },
  async (t) => {
    const store = await makeStore(t);
    const good = fs.readFileSync(store);
    for (const [what, change] of Object.entries(DAMAGE)) {
      const dir = tempDir(t);
      const file = path.join(dir, path.basename(store));
      const bad = change(good);
      for (const command of [['--listen', '127.0.0.1:0'], ['--check-store'], ['--dump']]) {
        fs.writeFileSync(file, bad);
        const result = await run([...command, '--data', dir]);
        const told = `${what}, ${command[0]}: ${JSON.stringify(result)}`;
        assert.ok(result.signal === null && result.code !== 0, told);
        assert.ok(result.ms < 2000 * slow, told);
        assert.equal(result.stderr.trim().split('\n').length, 1, told);
        assert.ok(result.stderr.includes(dir), told);
        assert.doesNotMatch(result.stderr, /listening on/, told);
        assert.ok(fs.readFileSync(file).equals(bad), `${told}: the file was touched`);
      }
    }
  },
);

test(
  'S03 damage in the middle is found by --check-store, and no crash',
  { timeout: 120000 * slow },
  async (t) => {
    const store = await makeStore(t);
    const dir = path.dirname(store);
    const good = fs.readFileSync(store);
    assert.equal((await run(['--data', dir, '--check-store'])).code, 0);
    const bad = Buffer.from(good);
    for (let at = 8192; at + 4096 <= bad.length; at += 4096) crypto.randomFillSync(bad, at, 4096);
    fs.writeFileSync(store, bad);
    const result = await run(['--data', dir, '--check-store']);
    assert.ok(result.signal === null && result.code !== 0, JSON.stringify(result));
    assert.ok(result.stderr.includes(dir), result.stderr);
    assert.ok(fs.readFileSync(store).equals(bad), 'the file was touched');
  },
);

test('an invisible user is never shown, also while the store cannot be read', async (t) => {
  const data = tempDir(t);
  const first = await start(t, { data });
  const shy = await connect(first, 'shy');
  await setStatus(first, 'shy', { status: 'invisible' });
  await shy.close();
  await settled(first);
  await first.stop();
  const allow = [/level=error msg="store: /];
  const server = await start(t, { data, allow });
  const watcher = await connect(server, 'watcher');
  const fd = fs.openSync(storeFile(data), 'r+');
  fs.writeSync(fd, Buffer.alloc(fs.fstatSync(fd).size - 8192), 0, null, 8192); // all but the heads
  fs.closeSync(fd);
  const shown = async () => {
    const { status, json: user } = await get(server, '/api/presence/shy');
    assert.deepEqual([status, user.online, user.status], [200, false, 'offline']);
  };
  await shown();
  const again = await connect(server, 'shy');
  await shown();
  assert.equal((await post(server, '/api/presence/shy/heartbeat')).status, 204);
  await shown();
  assert.equal((await get(server, '/api/presence/stranger')).status, 500, 'the store is needed');
  const beat = await post(server, '/api/presence/watcher/heartbeat');
  assert.equal(beat.status, 204, 'who is here needs no store');
  assert.deepEqual(
    (await onlineUsers(server)).map((one) => one.user_id),
    ['shy', 'watcher'], // the admin's list is the truth
  );
  await again.close();
  await watcher.close();
  await server.kill();
});
