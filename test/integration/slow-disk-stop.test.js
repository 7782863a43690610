'use strict';
// A stop while the disk is slow: the five seconds that it may take are the disk's.
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, run, tempDir, crowd, presence, settled, stats, until, slow } = require('./lib');
const { frame, closePayload, OP } = require('./lib/raw');

const USERS = 300;

/** A server with USERS in its store, and a disk that is slow for `ms` from slow() on. */
async function serve(t, ms, sync) {
  const dir = tempDir(t);
  const wrapper = path.join(dir, 'slow_sync');
  const flag = path.join(dir, 'slow');
  execFileSync('gcc', ['-O1', '-o', wrapper, path.join(__dirname, 'lib/slow_sync.c')]);
  const server = await start(t, {
    data: path.join(dir, 'data'), args: ['--sync-interval', sync], wrap: [wrapper, flag, String(ms)],
    allow: [/the last changes could not be written to /],
  });
  const users = crowd(t, server, { prefix: 'u', count: USERS });
  await users.connect();
  await settled(server);
  assert.equal(await openInStore(server), USERS);
  return { server, users, slow: () => fs.writeFileSync(flag, '') };
}

/** How many users are open in the store, as --check-store counts them. */
async function openInStore(server) {
  const { code, stdout } = await run(['--data', server.data, '--check-store']);
  assert.equal(code, 0);
  return Number(/ (\d+) open$/m.exec(stdout)[1]);
}

/** All leave. */
async function leave(server, users) {
  for (const socket of users.sockets) socket.write(frame(OP.close, closePayload(1000)));
  await until('them to be gone', async () => (await stats(server)).connections.current === 0);
}

/** Stops it; how long that took, ms. */
async function stop(server, code) {
  const began = Date.now();
  server.exitCode = code;
  await server.stop({ deadline: 5500 * slow });
  return Date.now() - began;
}

test('fdatasync of 4 s: who left before a stop is offline in the store, and it ends with 0', async (t) => {
  // All that the users' leaving changes is written after SIGTERM: one commit, and the last.
  const { server, users, slow: slowDisk } = await serve(t, 4000, '3s');
  slowDisk();
  await leave(server, users);
  const took = await stop(server, 0);
  assert.ok(took >= 3000, `it waited: ${took} ms`);
  assert.ok(took < 5000 * slow, `${took} ms`);
  assert.equal(await openInStore(server), 0);
});

test('a disk that does not answer is given up within five seconds, with 1', async (t) => {
  const { server, users, slow: slowDisk } = await serve(t, 60000, '3s');
  slowDisk();
  await leave(server, users);
  const took = await stop(server, 1);
  assert.ok(took < 5000 * slow, `${took} ms`);
  assert.equal(await openInStore(server), USERS, 'the next server waits for them');
  const again = await start(t, { data: server.data });
  assert.equal((await presence(again, 'u0')).source, 'cached');
});
