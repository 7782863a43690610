'use strict';
// Commands killed with -9 beside a busy server: within a minute their pages are used again, and the
// file stops growing.
const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, binary, tempDir, heartbeats, get, json, run, until, delay, cleanup } = require('../integration/lib');

test('commands killed with -9 for three minutes: the file stays small, reads go on', { timeout: 400000 }, async (t) => {
  const data = tempDir(t);
  const server = await start(t, { data, allow: [/level=info msg="store: \d+ readers had died and were cleared"$/] });
  const ids = Array.from({ length: 3000 }, (_, i) => `user-${i}`);
  await heartbeats(server, ids);
  let busy = true;
  const load = (async () => {
    while (busy) await heartbeats(server, ids.slice(0, 200));
  })();
  const size = () => fs.statSync(path.join(data, 'data.mdb')).size;
  const kill = async () => {
    const child = spawn(binary, ['--dump', '--data', data], { stdio: ['ignore', 'pipe', 'ignore'] });
    const ended = new Promise((resolve) => child.once('exit', resolve));
    cleanup(t, () => child.kill('SIGKILL'));
    await delay(20 + Math.random() * 60);
    child.kill('SIGKILL');
    await ended;
  };
  const sizes = [];
  for (let minute = 0; minute < 3; minute++) {
    const end = Date.now() + 62000;
    while (Date.now() < end) {
      await kill();
      if (Math.random() < 0.1) assert.equal((await get(server, '/admin/users')).status, 200);
    }
    sizes.push(size());
  }
  busy = false;
  await load;
  assert.ok(server.lines.some((line) => /readers had died/.test(line)), server.stderr);
  assert.ok(sizes[2] < sizes[1] * 1.3, `it goes on growing: ${sizes}`);
  await until('nobody reads', async () => (await json(server, '/admin/stats')).store.oldest_reader_seconds === 0, { within: 70000, every: 1000 });
  assert.equal((await get(server, '/readyz')).status, 200);
  assert.match((await run(['--check-store', '--data', data])).stdout, /^store ok: 3000 users/);
});
