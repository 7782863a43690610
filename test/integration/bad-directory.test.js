'use strict';
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { test, run, start, heartbeat, freePort, tempDir, slow, cannotMount, onTmpfs, binary } = require('./lib');

/** Runs a server that must refuse this directory, and never open its port. */
async function refused(data, reason, options) {
  const port = await freePort();
  let opened = false;
  let ended = false;
  const knock = async () => {
    while (!ended) {
      await new Promise((resolve) => {
        const socket = net.connect(port, '127.0.0.1');
        socket.on('connect', () => {
          opened = true;
          socket.destroy();
        });
        socket.on('error', () => {});
        socket.on('close', () => setTimeout(resolve, 2));
      });
    }
  };
  const knocking = knock();
  const result = await run(['--listen', `127.0.0.1:${port}`, '--data', data], options);
  ended = true;
  await knocking;
  const told = JSON.stringify(result);
  assert.ok(result.signal === null && result.code > 0 && result.code < 126, told);
  assert.ok(result.ms < 2000 * slow, told);
  assert.equal(result.stderr.trim().split('\n').length, 1, told);
  assert.ok(result.stderr.includes(data), told);
  assert.match(result.stderr, reason);
  assert.doesNotMatch(result.stderr, /listening on/);
  assert.equal(opened, false, 'the port was opened');
}

/** A directory that a server has had. */
async function whole(t) {
  const server = await start(t);
  await heartbeat(server, 'u');
  await server.stop();
  return server.data;
}

test('S07 a file in the place of the directory', async (t) => {
  const file = path.join(tempDir(t), 'file');
  fs.writeFileSync(file, 'mine');
  await refused(file, /not a directory/i);
  assert.equal(fs.readFileSync(file, 'utf8'), 'mine');
});

test('S07 a directory below one that is missing', async (t) => {
  await refused(path.join(tempDir(t), 'missing', 'deeper'), /no such file or directory/i);
});

test('S07 a directory below a file', async (t) => {
  const file = path.join(tempDir(t), 'file');
  fs.writeFileSync(file, '');
  await refused(path.join(file, 'data'), /not a directory/i);
});

const PEM = ['tls-cert', 'tls-key', 'acme-account', 'acme-cert', 'acme-order'].map((name) => `${name}.pem`);
const FILES = ['data.mdb', 'data.mdb.new', 'lock.mdb', 'presence.lock', 'admin-sessions', ...PEM, ...PEM.map((name) => `${name}.new`)];
const KINDS = [
  ['a pipe', (file) => execFileSync('mkfifo', [file])],
  ['a directory', (file) => fs.mkdirSync(file)],
  ['a device', (file) => fs.symlinkSync('/dev/zero', file)],
];

for (const [kind, make] of KINDS)
  test(`${kind} in the place of any of its files is refused at once, and left`, async (t) => {
    const data = tempDir(t);
    const dump = path.join(tempDir(t), 'dump');
    const { stdout } = await run(['--dump', '--data', await whole(t)]);
    fs.writeFileSync(dump, stdout);
    for (const name of FILES) {
      const file = path.join(data, name);
      const reason = new RegExp(`: ${file} is no regular file; remove it$`, 'm');
      make(file);
      const { mode, ino } = fs.lstatSync(file);
      await refused(data, reason);
      for (const command of [['--check-store'], ['--dump'], ['--backup', path.join(data, 'copy')], ['--restore', dump]]) {
        const result = await run([...command, '--data', data]);
        assert.deepEqual([result.code, result.signal], [1, null], `${command} ${name} ${result.stderr}`);
        assert.match(result.stderr, reason);
      }
      const after = fs.lstatSync(file);
      assert.deepEqual([after.mode, after.ino], [mode, ino]);
      fs.rmSync(file, { recursive: true });
    }
    assert.deepEqual(fs.readdirSync(data), []);
    assert.equal((await run(['--restore', dump, '--data', data])).code, 0); // nothing else was in the way
  });

test('its files may be links to files elsewhere', async (t) => {
  const data = tempDir(t);
  const elsewhere = path.join(tempDir(t), 'store');
  fs.copyFileSync(path.join(await whole(t), 'data.mdb'), elsewhere);
  fs.symlinkSync(elsewhere, path.join(data, 'data.mdb'));
  await (await start(t, { data })).stop();
});

const isRoot = process.getuid() === 0;
const asNobody = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--'];

test(
  'S07 not root: a directory of somebody else',
  { skip: isRoot ? false : 'needs root to become another user' },
  async (t) => {
    const dir = tempDir(t);
    fs.chmodSync(dir, 0o755);
    fs.mkdirSync(path.join(dir, 'unreadable'), { mode: 0o700 });
    fs.mkdirSync(path.join(dir, 'unwritable'), { mode: 0o755 });
    const program = path.join(dir, 'presence'); // the build may lie where nobody may look
    fs.copyFileSync(binary, program);
    fs.chmodSync(program, 0o755);
    for (const name of ['unreadable', 'unwritable']) {
      await refused(path.join(dir, name), /permission denied/i, { wrap: asNobody, program });
    }
  },
);

test('S07 a read-only mount', { skip: cannotMount }, async (t) => {
  const dir = tempDir(t);
  await refused(dir, /read-only file system/i, { wrap: onTmpfs(dir, 'ro,size=1m') });
});

test('whatever the umask, directory and files that it makes are its user\'s alone, and are that', async (t) => {
  for (const umask of ['0', '0177', '0277', '0777']) {
    const data = path.join(tempDir(t), 'new');
    const server = await start(t, { data, wrap: ['sh', '-c', `umask ${umask} && exec "$@"`, 'sh'] });
    await heartbeat(server, 'u');
    await server.stop();
    const mode = (name) => (fs.statSync(path.join(data, name)).mode & 0o777).toString(8);
    assert.deepEqual(['.', 'data.mdb', 'lock.mdb', 'presence.lock'].map(mode), ['700', '600', '600', '600'], umask);
  }
});
