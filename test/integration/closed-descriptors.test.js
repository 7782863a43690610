'use strict';
// Variants: release asan
// Some supervisors start a program with stdin, stdout or stderr closed. Then the first files it
// opens get the descriptors 0 to 2, and what it says is written into them.
const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const {
  test, sideBySide, start, run, binary, freePort, tempDir, cleanup, killTree, connect, heartbeat, heartbeats,
  settled, get, until, within, passwordFile, tryLogin, slow, cannotMount,
} = require('./lib');

/** Every way to close some of 0, 1 and 2. */
const SUBSETS = [1, 2, 3, 4, 5, 6, 7].map((bits) => [0, 1, 2].filter((fd) => bits & (1 << fd)));
const closing = (fds) => [
  'sh', '-c', `exec "$@" ${fds.map((fd) => (fd ? `${fd}>&-` : '<&-')).join(' ')}`, 'sh',
];

/** A server whose stderr may be closed, so that it cannot say where it listens. */
async function startClosed(t, fds, args) {
  const port = await freePort();
  const [first, ...rest] = closing(fds);
  const argv = [...rest, binary, '--listen', `127.0.0.1:${port}`, '--sync-interval', '50ms', ...args];
  const child = spawn(first, argv, { stdio: ['ignore', 'pipe', 'pipe'] });
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
  cleanup(t, () => killTree(child.pid));
  const server = { host: '127.0.0.1', port, pid: child.pid, ended, sockets: new Set() };
  cleanup(t, () => server.sockets.forEach((socket) => socket.destroy()));
  await until('served', async () => (await get(server, '/healthz')).status === 200, { within: 10000 * slow });
  return server;
}

/** What the descriptors of a process are. */
const openFiles = (pid) => Object.fromEntries(
  fs.readdirSync(`/proc/${pid}/fd`).map((fd) => [fd, fs.readlinkSync(`/proc/${pid}/fd/${fd}`)]));

sideBySide(() => {
  for (const fds of SUBSETS) {
    test(`a server started without ${fds.join(', ')} keeps its store whole`, async (t) => {
      const data = tempDir(t);
      const server = await startClosed(t, fds, ['--data', data, '--log-level', 'debug', ...passwordFile(t, 'right').args]);
      const files = openFiles(server.pid);
      for (const fd of fds) assert.equal(files[fd], '/dev/null', JSON.stringify(files));
      for (const [fd, file] of Object.entries(files)) assert.ok(fd > 2 || !file.startsWith(data), `${fd}: ${file}`);
      await connect(server, 'u');
      await heartbeats(server, Array.from({ length: 50 }, (_, i) => `u${i}`));
      await tryLogin(server, 'wrong'); // said on stderr
      process.kill(server.pid, 'SIGTERM');
      assert.deepEqual(await within(10000 * slow, 'the end', server.ended), { code: 0, signal: null });
      const check = await run(['--check-store', '--data', data]);
      assert.match(check.stdout, /^store ok: 51 users/, check.stderr);
    });
  }

  test('no command started without 0, 1 or 2 harms the store or says it did what it did not', async (t) => {
    const data = tempDir(t);
    const server = await start(t, { data });
    await heartbeat(server, 'u');
    await settled(server);
    const dump = path.join(tempDir(t), 'dump');
    fs.writeFileSync(dump, (await run(['--dump', '--data', data])).stdout);
    for (const fds of SUBSETS) {
      const wrap = closing(fds);
      const out = fds.includes(1) ? 1 : 0; // the exit status of who prints
      const [file, copy] = [path.join(tempDir(t), 'backup'), tempDir(t)];
      const status = async (...args) => (await run(args, { wrap })).code;
      assert.equal(await status('--dump', '--data', data), out, `--dump without ${fds}`);
      assert.equal(await status('--check-store', '--data', data), out, `--check-store without ${fds}`);
      assert.equal(await status('--version'), out, `--version without ${fds}`);
      assert.equal(await status('--backup', file, '--data', data), 0, `--backup without ${fds}`);
      assert.equal(await status('--restore', dump, '--data', copy), 0, `--restore without ${fds}`);
      fs.mkdirSync(`${copy}/backup`);
      fs.renameSync(file, `${copy}/backup/data.mdb`);
      for (const dir of [data, copy, `${copy}/backup`]) {
        const check = await run(['--check-store', '--data', dir]);
        assert.match(check.stdout, /^store ok: 2 users/, `${fds}: ${check.stderr}`);
      }
      if (!fds.includes(0)) continue;
      const none = await run(['--restore', '-', '--data', `${copy}/new`], { wrap });
      assert.equal(none.code, 1, 'a dump from a stdin that is closed');
      assert.ok(!fs.existsSync(`${copy}/new/data.mdb`));
    }
  });

  test('without /dev/null a closed descriptor is said, and nothing is opened', { skip: cannotMount }, async (t) => {
    const data = path.join(tempDir(t), 'new');
    const script = 'mount -t tmpfs none /dev && exec "$@" <&-';
    const { code, stderr } = await run(['--data', data], { wrap: ['unshare', '-m', 'sh', '-c', script, 'sh'] });
    assert.equal(code, 1, stderr);
    assert.match(stderr, /^presence: descriptor 0 is closed and \/dev\/null cannot be opened: .*\n$/);
    assert.ok(!fs.existsSync(data));
  });
});
