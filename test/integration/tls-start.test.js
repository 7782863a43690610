'use strict';
// Variants: release asan
// Certificates that cannot be used are told at the start, with the option and the file.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, startSecure, Authority, tempDir, shown, refusedStart, refusedConfig, acceptedConfig, makeKey } = require('./lib');

test('bad certificates and keys: exit 2 and one line naming option and file', async (t) => {
  const dir = tempDir(t);
  const data = path.join(dir, 'data');
  const authority = new Authority(dir);
  const good = authority.issue('good');
  const other = authority.issue('other');
  const rsa = authority.issue('rsa', { kind: 'rsa' });
  const file = (name, text) => {
    fs.writeFileSync(path.join(dir, name), text);
    return path.join(dir, name);
  };
  const garbage = file('garbage.pem', 'this is no certificate\n');
  const nothing = file('nothing.pem', '');
  const half = file('half.pem', good.pem.slice(0, good.pem.length >> 1));
  const damaged = file('damaged.pem', good.pem.replace(/[A-Za-z]{6}/g, (text, at) => (at > 100 && at < 160 ? 'AAAAAA' : text)));
  const badKey = file('bad.key', good.keyPem.slice(0, 80));
  const small = file('big.pem', 'x'.repeat(3 << 20));
  const missing = path.join(dir, 'missing.pem');
  const cases = {
    'no such certificate': [[[missing, good.key]], ['--tls-cert', missing]],
    'no such key': [[[good.cert, missing]], ['--tls-key', missing]],
    'a directory': [[[dir, good.key]], ['--tls-cert', dir]],
    'a directory for a key': [[[good.cert, dir]], ['--tls-key', dir]],
    'another key': [[[good.cert, other.key]], ['--tls-key', other.key]],
    'a key of another kind': [[[good.cert, rsa.key]], ['--tls-key', rsa.key]],
    'the second pair is wrong': [[[good.cert, good.key], [other.cert, good.key]], ['--tls-key', good.key]],
    'garbage for a certificate': [[[garbage, good.key]], ['--tls-cert', garbage]],
    'garbage for a key': [[[good.cert, garbage]], ['--tls-key', garbage]],
    'an empty certificate': [[[nothing, good.key]], ['--tls-cert', nothing]],
    'half a certificate': [[[half, good.key]], ['--tls-cert', half]],
    'a damaged certificate': [[[damaged, good.key]], ['--tls-cert', damaged]],
    'half a key': [[[good.cert, badKey]], ['--tls-key', badKey]],
    'a huge file': [[[small, good.key]], ['--tls-cert', small]],
  };
  for (const [what, [pairs, names]] of Object.entries(cases)) {
    const args = pairs.flatMap(([cert, key]) => ['--tls-cert', cert, '--tls-key', key]);
    const line = await refusedConfig(['--data', data, '--listen', '127.0.0.1:0', '--tls-listen', '127.0.0.1:0', ...args], names);
    assert.ok(!line.includes('PRIVATE'), what);
  }
  assert.equal(fs.existsSync(data), false, 'nothing was made');
});

test('a certificate file without its key, and counts that do not match', async (t) => {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const [one, two] = [authority.issue('one'), authority.issue('two')];
  const base = ['--data', path.join(dir, 'data'), '--listen', '127.0.0.1:0', '--tls-listen', '127.0.0.1:0'];
  await refusedConfig([...base, '--tls-cert', one.cert], ['--tls-', one.cert]);
  await refusedConfig([...base, '--tls-cert', one.cert, '--tls-cert', two.cert, '--tls-key', one.key], ['--tls-key', '--tls-cert']);
  await refusedConfig([...base, '--tls-cert', one.cert, '--tls-key', one.key, '--tls-key', two.key], ['--tls-key', '--tls-cert']);
  await refusedConfig([...base, '--tls-key', one.key], ['--tls-cert']);
  await refusedConfig(base, ['--tls-listen', '--tls-cert']);
  await refusedConfig(['--listen', '127.0.0.1:0', '--redirect-listen', '127.0.0.1:0'], ['--redirect-listen', '--tls-listen']);
  await acceptedConfig([...base, '--tls-cert', one.both]);
  await acceptedConfig([...base, '--tls-cert', one.cert, '--tls-key', one.key, '--tls-cert', two.cert, '--tls-key', two.key]);
  assert.equal(fs.existsSync(path.join(dir, 'data')), false);
});

test('a key that only root may read is told to whom it is not', { skip: process.getuid() !== 0 && 'not root' }, async (t) => {
  const dir = tempDir(t);
  fs.chmodSync(dir, 0o755);
  const one = new Authority(dir).issue('one');
  fs.chmodSync(path.dirname(one.key), 0o755);
  const data = path.join(dir, 'data');
  fs.mkdirSync(data, { mode: 0o777 });
  fs.chmodSync(data, 0o777);
  await refusedStart(
    ['--data', data, '--listen', '127.0.0.1:0', '--tls-listen', '127.0.0.1:0', '--tls-cert', one.cert, '--tls-key', one.key],
    ['--tls-key', one.key, 'ermission denied'],
    { wrap: ['setpriv', '--reuid=65534', '--regid=65534', '--clear-groups'] },
  );
});

test('an encrypted key is refused with a line that says so', async (t) => {
  const dir = tempDir(t);
  const one = new Authority(dir).issue('one');
  const locked = path.join(dir, 'locked.key');
  const { createPrivateKey } = require('node:crypto');
  fs.writeFileSync(locked, createPrivateKey(one.keyPem).export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'x' }));
  await refusedStart(['--listen', '127.0.0.1:0', '--tls-listen', '127.0.0.1:0', '--tls-cert', one.cert, '--tls-key', locked, '--data', path.join(dir, 'd')],
    ['--tls-key', locked]);
});

test('keys in the other form (SEC 1, PKCS 1), a chain with CRLF, and text between are taken', async (t) => {
  const dir = tempDir(t);
  const { createPrivateKey } = require('node:crypto');
  const authority = new Authority(dir);
  for (const [kind, type] of [['ec', 'sec1'], ['rsa', 'pkcs1']]) {
    const one = authority.issue('one', { kind });
    fs.writeFileSync(one.key, createPrivateKey(one.keyPem).export({ type, format: 'pem' }));
    fs.writeFileSync(one.cert, `subject=one\n${one.pem}\nissuer\n${authority.pem}`.replace(/\n/g, '\r\n'));
    const server = await startSecure(t, { authority, certs: [one] });
    assert.equal(await shown(server.secure), one.fingerprint, kind);
    await server.stop();
  }
  assert.ok(makeKey('ec').includes('PRIVATE KEY'));
});
