'use strict';
// The released binary is static: nothing can be put between it and the clock. The sanitizer build is
// not, and the clock under it is stepped as an operator or NTP would step it.
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, connect, json, until, throughout, tempDir, variant, slow } = require('./lib');

const HOURS = 3600;
const options = variant === 'asan' ? {} : { skip: 'runs with the asan build' };

test('P06 UTC is stepped by 12 hours and back under 100 sockets', options, async (t) => {
  const dir = tempDir(t);
  const preload = path.join(dir, 'step_clock.so');
  const step = path.join(dir, 'step');
  execFileSync('gcc', ['-shared', '-fPIC', '-o', preload, path.join(__dirname, 'lib/step_clock.c')]);
  fs.writeFileSync(step, '0');
  const server = await start(t, {
    args: ['--ping-interval', `${400 * slow}ms`, '--pong-timeout', `${400 * slow}ms`, '--grace', '100ms'],
    env: {
      LD_PRELOAD: preload,
      STEP_CLOCK: step,
      ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:verify_asan_link_order=0`,
    },
  });
  const clients = [];
  for (let i = 0; i < 100; i++) clients.push(await connect(server, `u${i}`));
  for (const seconds of [12 * HOURS, 0, -12 * HOURS, 0]) {
    fs.writeFileSync(`${step}.new`, String(seconds));
    fs.renameSync(`${step}.new`, step);
    await until('the server to see it', async () => {
      const { generated_at: now } = await json(server, '/admin/online-users');
      return Math.abs(Date.parse(now) - Date.now() - seconds * 1000) < 5000;
    });
    await throughout(1000 * slow, async () => {
      const list = await json(server, '/admin/online-users?limit=1000');
      assert.equal(list.count, 100);
      for (const user of list.users) {
        const age = Date.parse(list.generated_at) - Date.parse(user.last_seen);
        assert.ok(user.source === 'live' && age >= 0 && age < 2000 * slow, `${user.user_id}: ${age} ms`);
      }
    });
  }
  assert.ok(clients.every((client) => client.open));
  assert.equal((await json(server, '/admin/stats')).counters.leaves, 0);
});
