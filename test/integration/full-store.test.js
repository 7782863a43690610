'use strict';
// Variants: asan tsan
const assert = require('node:assert/strict');
const fs = require('node:fs');
const {
  test,
  start,
  run,
  tempDir,
  connect,
  heartbeat,
  heartbeats,
  get,
  presence,
  batch,
  pages,
  until,
  heavy,
  slow,
  cannotMount,
  onTmpfs,
  settled,
  storeFile,
} = require('./lib');

const GROWTH = [/level=info .*map grown/];
const names = (count, prefix = 'user') => Array.from({ length: count }, (_, i) => `${prefix}-${i}`);

test('S02 a map of 1 MiB grows under 50,000 users', { timeout: 120000 * slow }, async (t) => {
  const data = tempDir(t);
  const count = heavy(50000, 10000);
  const server = await start(t, {
    data,
    args: ['--map-size', '1m', '--online-threshold', '1h'],
    allow: GROWTH,
  });
  const watcher = await connect(server, 'watcher');
  assert.equal(await heartbeats(server, names(count)), count);
  await watcher.ping();
  await settled(server);
  assert.equal((await get(server, '/readyz')).status, 200);
  await server.stop();
  assert.ok(fs.statSync(storeFile(data)).size > 1 << 20, 'more than the first map');

  const check = await run(['--data', data, '--check-store']);
  assert.deepEqual([check.code, check.stderr], [0, '']);
  const known = Number(/^store ok: (\d+) users/.exec(check.stdout)[1]);
  assert.ok(known >= count + 1, check.stdout);
  const again = await start(t, {
    data,
    args: ['--map-size', '1m', '--online-threshold', '1h'],
    allow: GROWTH,
  });
  const users = await pages(again, '/admin/users', 'users', 1000);
  const ids = new Set(users.map((user) => user.user_id));
  assert.equal(ids.size, users.length, 'each exactly once');
  assert.deepEqual(
    names(count).filter((id) => !ids.has(id)),
    [],
  );
});

test(
  'S02 a full disk turns writes off, keeps presence, says so once, and recovers',
  { skip: cannotMount, timeout: 120000 * slow },
  async (t) => {
    const data = tempDir(t);
    const records = [/level=(warn|error|info)/, /store|disk|space|writ/i];
    const server = await start(t, {
      data,
      args: ['--map-size', '1m', '--online-threshold', '1h'],
      wrap: onTmpfs(data, 'size=4m'),
      allow: records,
    });
    const inside = `/proc/${server.pid}/root${data}`; // the server's own view of its disk
    const old = await connect(server, 'old');
    await heartbeats(server, names(500, 'before'));
    await settled(server);
    assert.equal((await get(server, '/readyz')).status, 200);

    fillDisk(`${inside}/filler`);
    const count = heavy(20000, 5000);
    assert.equal(await heartbeats(server, names(count)), count, 'presence goes on');
    const degraded = await until('degraded readiness', async () => {
      const answer = await get(server, '/readyz');
      return answer.status === 503 && answer;
    });
    assert.equal(degraded.json.status, 'degraded');
    assert.equal(typeof degraded.json.reason, 'string');
    assert.equal((await get(server, '/healthz')).status, 200);
    await old.ping();
    const late = await connect(server, 'late');
    assert.equal((await presence(server, 'late')).source, 'live');
    assert.equal((await presence(server, 'old')).source, 'live');
    assert.equal((await presence(server, 'before-1')).online, true);
    const sample = names(count).filter((_, i) => i % 40 === 0);
    assert.deepEqual(
      (await batch(server, sample.slice(0, 1000))).filter((user) => !user.online),
      [],
    );
    await late.close();
    await until('late offline', async () => !(await presence(server, 'late')).online);
    assert.ok(server.lines.filter((line) => /level=error/.test(line)).length <= 1, server.stderr);
    assert.ok(server.lines.length <= 4, server.stderr);

    fs.rmSync(`${inside}/filler`);
    await until('ready again', async () => (await get(server, '/readyz')).status === 200, {
      within: 30000 * slow,
    });
    await heartbeat(server, 'after');
    await settled(server);
    assert.ok(server.lines.length <= 8, server.stderr);
    const users = await pages(server, '/admin/users', 'users', 1000);
    const ids = new Set(users.map((user) => user.user_id));
    assert.deepEqual(
      ['old', 'late', 'after', ...names(500, 'before')].filter((id) => !ids.has(id)),
      [],
    );
  },
);

/** Leaves not one free block on the file's disk. */
function fillDisk(file) {
  const fd = fs.openSync(file, 'w');
  for (const size of [65536, 4096, 1]) {
    const block = Buffer.alloc(size);
    try {
      for (;;) fs.writeSync(fd, block);
    } catch (error) {
      assert.equal(error.code, 'ENOSPC');
    }
  }
  fs.closeSync(fd);
}
