'use strict';
// Odd places to run in: as process 1 of a container, in a chroot with nothing but the program, with
// a log that nobody reads. And how much of its stacks a thread uses, when it has done everything.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync, spawn } = require('node:child_process');
const { test, start, startSecure, binary, connect, get, json, request, heartbeat, tempDir, cleanup, until, within, proc, shake,
  tryLogin, passwordFile, freePort, Authority } = require('../integration/lib');

/** Whether a command works here: the reason if not. */
function works(argv, why) {
  try {
    execFileSync(argv[0], argv.slice(1), { stdio: 'ignore' });
    return false;
  } catch {
    return why;
  }
}

const noNamespace = works(['unshare', '--fork', '--pid', '--mount-proc', 'true'], 'this user may make no namespace of processes: be root');
const noChroot = works(['chroot', '/', '/bin/true'], 'this user may not chroot: be root');

/** The child of a wrapper such as unshare. */
const onlyChild = (pid) => proc.descendants(pid)[0];

test('as process 1 it serves, reads its certificates again, and ends when told', { skip: noNamespace }, async (t) => {
  const server = await startSecure(t, {
    wrap: ['unshare', '--fork', '--pid', '--mount-proc', '--kill-child'], findPid: onlyChild, allow: [/certificates read again/],
  });
  assert.match(fs.readFileSync(`/proc/${server.pid}/status`, 'utf8'), /^NSpid:\t\d+\t1$/m);
  await heartbeat(server, 'ann');
  const client = await connect(server.secure, 'bob');
  server.signal('SIGHUP');
  await until('SIGHUP is obeyed', () => /certificates read again/.test(server.stderr));
  assert.equal((await json(server, '/api/presence/bob')).source, 'live');
  server.signal('SIGTERM');
  assert.equal((await within(5000, 'goodbye', client.closed)).code, 1012);
  assert.equal((await within(10000, 'the end', server.ended)).code, 0);
  server.stopped = true;
});

test('in a chroot that has nothing else', { skip: noChroot }, async (t) => {
  const root = tempDir(t);
  fs.copyFileSync(binary, path.join(root, 'presence'));
  fs.chmodSync(path.join(root, 'presence'), 0o755);
  const child = spawn('chroot', [root, '/presence', '--listen', '127.0.0.1:0', '--tls-listen', '127.0.0.1:0', '--tls-self-signed', '--data', '/data'],
    { stdio: ['ignore', 'ignore', 'pipe'], cwd: '/' });
  cleanup(t, () => child.kill('SIGKILL'));
  let said = '';
  child.stderr.setEncoding('utf8').on('data', (text) => { said += text; });
  const ended = new Promise((resolve) => { child.once('close', (code) => resolve(code)); });
  await until('it listens', () => said.split('listening').length > 2, { within: 10000, giveUp: () => child.exitCode !== null })
    .catch((error) => { throw new Error(`${error.message}: ${said}`); });
  const server = { host: '127.0.0.1', port: Number(/127\.0\.0\.1:(\d+) \(http\)/.exec(said)[1]), sockets: new Set() };
  const secure = { ...server, port: Number(/127\.0\.0\.1:(\d+) \(https\)/.exec(said)[1]), tls: { rejectUnauthorized: false } };
  await heartbeat(server, 'ann');
  const client = await connect(secure, 'bob');
  assert.equal((await json(server, '/admin/online-users')).count, 2);
  child.kill('SIGTERM');
  assert.equal((await within(5000, 'goodbye', client.closed)).code, 1012);
  assert.equal(await within(10000, 'the end', ended), 0, said);
  assert.ok(fs.statSync(path.join(root, 'data/data.mdb')).size > 0);
});

test('a log that nobody reads holds nobody up; what is dropped is counted', async (t) => {
  const dir = tempDir(t);
  const port = await freePort();
  // a pipe whose reading end is open, and never read
  const child = spawn('/bin/sh', ['-c', `exec "$0" "$@" 2>&3`, binary, '--listen', `127.0.0.1:${port}`, '--data', path.join(dir, 'data'), '--log-level', 'debug'],
    { stdio: ['ignore', 'ignore', 'ignore', 'pipe'] });
  child.stdio[3].pause();
  cleanup(t, () => child.kill('SIGKILL'));
  const server = { host: '127.0.0.1', port, sockets: new Set() };
  await until('it serves', async () => (await get(server, '/healthz')).status === 200, { within: 10000 });
  const dropped = async () => (await json(server, '/admin/stats')).counters.log_dropped;
  await until('lines are dropped', async () => {
    for (let i = 0; i < 50; i++) await heartbeat(server, `user-${i}`);
    const clients = await Promise.all(Array.from({ length: 20 }, (_, i) => connect(server, `user-${i}`)));
    await Promise.all(clients.map((one) => one.close()));
    return (await dropped()) > 0;
  }, { within: 60000 });
  assert.ok((await get(server, '/healthz')).ms < 1000);
  const ended = new Promise((resolve) => { child.once('exit', resolve); });
  child.kill('SIGTERM');
  assert.equal(await within(10000, 'the end', ended), 0);
});

const PAGE = 4096;
const STACK = 1024 * Number(/THREAD_STACK = (\d+) \* 1024/.exec(fs.readFileSync(path.join(__dirname, '../../presence.c'), 'utf8'))[1]);
const CIVETWEB = ['worker', 'door']; // it gives its threads 256 KiB

/** Of every thread but the first: how many bytes of its stack were never touched. A stack grows down
 *  to the beginning of its mapping, below which is a guard; above it others may be joined to it. */
function untouched(pid) {
  const maps = fs.readFileSync(`/proc/${pid}/maps`, 'utf8').split('\n').map((line) => /^([0-9a-f]+)-([0-9a-f]+) rw/.exec(line))
    .filter(Boolean).map(([, from, to]) => [Number.parseInt(from, 16), Number.parseInt(to, 16)]);
  const pages = fs.openSync(`/proc/${pid}/pagemap`, 'r');
  try {
    return fs.readdirSync(`/proc/${pid}/task`).filter((tid) => Number(tid) !== pid).map((tid) => {
      const name = fs.readFileSync(`/proc/${pid}/task/${tid}/comm`, 'utf8').trim();
      const call = fs.readFileSync(`/proc/${pid}/task/${tid}/syscall`, 'utf8').trim().split(' ');
      const at = call.length < 3 ? 0 : Number(call.at(-2));
      const map = maps.find(([from, to]) => from <= at && at < to);
      if (!map) return null;
      const bits = Buffer.alloc(((at - map[0]) / PAGE + 1 | 0) * 8);
      fs.readSync(pages, bits, 0, bits.length, (map[0] / PAGE) * 8);
      let free = 0;
      while (free < bits.length / 8 && !(bits[free * 8 + 7] & 0xc0)) free++; // present, or swapped out
      return { name: `${name} ${tid}`, free: free * PAGE, size: CIVETWEB.includes(name) ? 2 * STACK : STACK };
    }).filter(Boolean);
  } finally {
    fs.closeSync(pages);
  }
}

test('no thread uses more than two thirds of its stack, whatever it did', { timeout: 120000 }, async (t) => {
  const authority = new Authority(tempDir(t));
  const password = passwordFile(t, 'the password');
  const secret = path.join(tempDir(t), 'secret');
  fs.writeFileSync(secret, 'sixteen bytes and more');
  const server = await startSecure(t, {
    authority, certs: [authority.issue('localhost'), authority.issue('localhost', { kind: 'rsa' })],
    args: [...password.args, '--webhook-url', 'http://127.0.0.1:9/', '--webhook-secret-file', secret, '--tls-threads', '2'], allow: [/level=/],
  });
  const login = await tryLogin(server, 'the password');
  assert.equal(login.status, 200, login.text);
  const admin = { headers: { Authorization: `Bearer ${login.json.token}` } };
  for (const options of [{ minVersion: 'TLSv1.3' }, { maxVersion: 'TLSv1.2' }, { maxVersion: 'TLSv1.2', ciphers: 'aRSA' }, { ecdhCurve: 'P-384' }]) {
    for (let i = 0; i < 8; i++) (await shake(server.secure, options)).destroy();
  }
  const clients = await Promise.all(Array.from({ length: 20 }, (_, i) => connect(i % 2 ? server : server.secure, `user-${i}`)));
  const users = Array.from({ length: 300 }, (_, i) => `user-${i}`);
  for (const client of clients) {
    client.send({ type: 'watch', users: users.slice(0, 200) });
    client.send({ type: 'status', status: 'busy', manual: true, message: 'é'.repeat(70) });
    client.send(`${'['.repeat(1000)}`);
    await client.ping();
  }
  const targets = ['/admin/stats', '/admin/online-users?limit=1000', '/admin/users?q=user&sort=-last_seen&limit=1000', '/admin/users/user-1',
    '/admin/users/user-1/sessions', '/admin/history?hours=720', '/metrics', '/healthz'];
  for (let i = 0; i < 12; i++) { // each worker has its turn
    await Promise.all(targets.map((target) => get(server, target, admin)));
    await request(server, 'POST', '/api/presence', { ...admin, body: { users } });
    await request(server, 'POST', '/api/presence', { ...admin, body: `${'['.repeat(15)}${']'.repeat(15)}` });
    await heartbeat(server, `beat-${i}`, admin).catch(() => {});
  }
  server.signal('SIGHUP');
  await until('SIGHUP is obeyed', () => /certificates read again/.test(server.stderr));
  await Promise.all(clients.map((one) => one.close()));
  const found = await until('every thread waits', () => {
    const all = untouched(server.pid);
    return all.length >= 8 && all;
  });
  for (const { name, free, size } of found) {
    t.diagnostic(`${name}: ${(size - free) >> 10} of ${size >> 10} KiB`);
    assert.ok(free >= size / 3, `${name} has only ${free} bytes left of ${size}`);
  }
});
