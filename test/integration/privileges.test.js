'use strict';
// Variants: release asan
// --user: after binding, root is given up for good.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { test, startSecure, start, Authority, tempDir, tokenKey, bearer, refusedStart, connect, get, shown, until, run, hashPassword, tryLogin } = require('./lib');

const root = process.getuid() === 0;
const skip = !root && 'not root';
const NOBODY = root ? Number(execFileSync('id', ['-u', 'nobody'], { encoding: 'utf8' })) : 0;
const NOGROUP = root ? Number(execFileSync('id', ['-g', 'nobody'], { encoding: 'utf8' })) : 0;

/** What /proc says of a process: { Uid: [...], ... }. */
const status = (pid) => Object.fromEntries(fs.readFileSync(`/proc/${pid}/status`, 'utf8').trim().split('\n')
  .map((line) => [line.slice(0, line.indexOf(':')), line.slice(line.indexOf(':') + 1).trim().split(/\s+/).filter(Boolean)]));

test('real, effective, saved ids and groups are nobody\'s, in every thread, and no privilege comes back', { skip }, async (t) => {
  const dir = tempDir(t);
  fs.chmodSync(dir, 0o755);
  const data = path.join(dir, 'made', 'data');
  fs.mkdirSync(path.dirname(data));
  const server = await startSecure(t, { data, args: ['--user', 'nobody', '--redirect-listen', '127.0.0.1:0', '--metrics-listen', '127.0.0.1:0'], listening: 2 });
  for (const tid of ['.', ...fs.readdirSync(`/proc/${server.pid}/task`).map((one) => `task/${one}`)]) {
    const found = status(`${server.pid}/${tid}`);
    assert.deepEqual(found.Uid, Array(4).fill(String(NOBODY)), tid);
    assert.deepEqual(found.Gid, Array(4).fill(String(NOGROUP)), tid);
    assert.deepEqual(found.Groups.filter((one) => one !== String(NOGROUP)), [], tid);
    assert.deepEqual(found.NoNewPrivs, ['1'], tid);
    for (const set of ['CapEff', 'CapPrm', 'CapInh', 'CapAmb']) assert.match(found[set][0], /^0+$/, `${set} of ${tid}`);
  }
  for (const name of ['.', ...fs.readdirSync(data)]) {
    const { uid, mode } = fs.statSync(path.join(data, name));
    assert.equal(uid, NOBODY, name);
    assert.equal(mode & 0o077, 0, name);
  }
  const client = await connect(server.secure, 'u');
  await client.ping();
  await client.close();
});

test('SIGHUP reloads what the user may read, keeps the old of what it may not', { skip }, async (t) => {
  const dir = tempDir(t);
  fs.chmodSync(dir, 0o755);
  const authority = new Authority(dir);
  const place = { cert: path.join(dir, 'live.pem'), key: path.join(dir, 'live.key') };
  const put = (made, uid) => {
    for (const [file, text] of [[place.cert, made.pem], [place.key, made.keyPem]]) {
      fs.writeFileSync(file, text, { mode: 0o600 });
      fs.chownSync(file, uid, 0);
    }
    return made;
  };
  const first = put(authority.issue('first'), NOBODY);
  const server = await startSecure(t, { data: path.join(dir, 'data'), authority, certs: [place], args: ['--user', 'nobody'], allow: [/level=error.*live\.(pem|key)/, /level=info/] });
  assert.equal(await shown(server.secure), first.fingerprint);
  const next = put(authority.issue('next'), NOBODY);
  server.signal('SIGHUP');
  await until('the new certificate', async () => (await shown(server.secure)) === next.fingerprint);
  put(authority.issue('roots'), 0);
  server.signal('SIGHUP');
  await until('an error line', () => server.lines.some((line) => /level=error/.test(line)));
  assert.equal(await shown(server.secure), next.fingerprint, 'the old one stays');
});

test('files that only root may read are read before root is given up', { skip }, async (t) => {
  const dir = tempDir(t);
  fs.chmodSync(dir, 0o755);
  const key = tokenKey(t); // in a directory for root alone
  const server = await start(t, { data: path.join(dir, 'data'), args: ['--user', 'nobody', ...key.args] });
  assert.equal((await get(server, '/api/presence/u')).status, 401);
  await connect(server, 'u', bearer(await key.user('u')));
});

test('an unknown user, and a user who is not root', async (t) => {
  const data = path.join(tempDir(t), 'data');
  await refusedStart(['--data', data, '--listen', '127.0.0.1:0', '--user', 'no-such-user'], ['--user', 'no-such-user']);
  await refusedStart(['--check-config', '--user', 'no-such-user'], ['--user', 'no-such-user']);
  assert.equal(fs.existsSync(data), false);
  if (!root) return;
  const dir = tempDir(t);
  fs.chmodSync(dir, 0o777);
  const result = await run(['--data', path.join(dir, 'data'), '--listen', '127.0.0.1:0', '--user', 'daemon'],
    { wrap: ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOGROUP}`, '--clear-groups'] });
  assert.ok([1, 2].includes(result.code), JSON.stringify(result));
  assert.ok(result.stderr.includes('--user'), result.stderr);
});

test('Landlock: a file outside the directories that were named cannot be read, not even through a link', async (t) => {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const [named, outside] = ['named', 'outside'].map((name) => {
    fs.mkdirSync(path.join(dir, name));
    return path.join(dir, name, 'password');
  });
  fs.writeFileSync(named, hashPassword('first'));
  fs.writeFileSync(outside, hashPassword('second'));
  const server = await startSecure(t, { authority, args: ['--admin-password-file', named, '--log-level', 'debug'], allow: [/./] });
  if (!server.lines.some((line) => /walled off by Landlock/.test(line))) return t.skip('this kernel has no Landlock');
  fs.writeFileSync(`${named}.new`, hashPassword('third'));
  fs.renameSync(`${named}.new`, named);
  server.signal('SIGHUP');
  let source = 2;
  const login = (password) => tryLogin(server, password, { localAddress: `127.0.0.${source++}` });
  await until('a replaced file to be read', async () => (await login('third')).status === 200, { every: 100 });
  fs.rmSync(named);
  fs.symlinkSync(outside, named);
  server.signal('SIGHUP');
  await until('an error line', () => server.lines.some((line) => /level=error.*admin-password-file.*Permission denied/.test(line)));
  assert.equal((await login('second')).status, 401);
  assert.equal((await login('third')).status, 200, 'the old one stays');
});
