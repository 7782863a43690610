'use strict';
// Variants: release asan
// What must not be started is not: open to the world without a key, with keys that are none.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, Authority, tempDir, refusedConfig, acceptedConfig, tokenKey, get, bearer, run } = require('./lib');

/** A file with this content in the directory. */
const file = (dir, name, content) => {
  fs.writeFileSync(path.join(dir, name), content);
  return path.join(dir, name);
};

test('beyond loopback only with a key for tokens, or --insecure', async (t) => {
  const key = tokenKey(t);
  const dir = tempDir(t);
  const one = new Authority(dir).issue('one');
  const password = file(dir, 'password', (await run(['--hash-password'], { wrap: ['sh', '-c', 'echo secret | "$@"', 'sh'] })).stdout);
  const secure = ['--tls-cert', one.cert, '--tls-key', one.key];
  for (const address of ['0.0.0.0:0', '[::]:0', '192.0.2.1:0', '[2001:db8::1]:0']) {
    const [host] = address.split(/:0$/);
    const listens = { '--listen': ['--listen', address], '--tls-listen': ['--listen', '127.0.0.1:0', '--tls-listen', address, ...secure] };
    for (const [option, args] of Object.entries(listens)) {
      const names = [option, host, '--insecure'];
      await refusedConfig(['--data', path.join(dir, 'data'), ...args], names);
      await refusedConfig(['--data', path.join(dir, 'data'), ...args, '--admin-password-file', password], names);
      await acceptedConfig([...args, ...key.args]);
      await acceptedConfig([...args, '--insecure']);
    }
  }
  for (const address of ['127.0.0.1:0', '127.255.0.3:0', '[::1]:0'])
    await acceptedConfig(['--listen', address, '--tls-listen', address, ...secure]);
  assert.equal(fs.existsSync(path.join(dir, 'data')), false);
});

test('keys for tokens that are none, or too weak', async (t) => {
  const dir = tempDir(t);
  const ec = (curve) => crypto.generateKeyPairSync('ec', { namedCurve: curve });
  const rsa = (bits) => crypto.generateKeyPairSync('rsa', { modulusLength: bits });
  const pem = (pair) => pair.publicKey.export({ type: 'spki', format: 'pem' });
  const rows = [
    ['--jwt-secret-file', file(dir, 'short', 'x'.repeat(31))],
    ['--jwt-secret-file', file(dir, 'short-with-line-end', `${'x'.repeat(31)}\n`)],
    ['--jwt-secret-file', file(dir, 'empty', '')],
    ['--jwt-secret-file', path.join(dir, 'missing')],
    ['--jwt-secret-file', dir],
    ['--jwt-public-key-file', file(dir, 'garbage', 'x'.repeat(200))],
    ['--jwt-public-key-file', file(dir, 'empty.pem', '')],
    ['--jwt-public-key-file', path.join(dir, 'missing.pem')],
    ['--jwt-public-key-file', file(dir, 'rsa-1024.pem', pem(rsa(1024)))],
    ['--jwt-public-key-file', file(dir, 'p384.pem', pem(ec('P-384')))],
    ['--jwt-public-key-file', file(dir, 'ed25519.pem', pem(crypto.generateKeyPairSync('ed25519')))],
    ['--jwt-public-key-file', file(dir, 'half.pem', pem(ec('P-256')).slice(0, 90))],
    ['--admin-password-file', path.join(dir, 'missing')],
    ['--admin-password-file', file(dir, 'plain', 'secret\n')],
    ['--admin-password-file', file(dir, 'empty.password', '')],
    ['--admin-password-file', file(dir, 'weak', 'pbkdf2-sha512:1:AAAA:AAAA\n')],
  ];
  for (const [option, name] of rows) {
    const line = await refusedConfig(['--data', path.join(dir, 'data'), '--listen', '127.0.0.1:0', option, name], [option, name]);
    assert.ok(!line.includes('xxxx') && !line.includes('secret\n'), 'the content is not told');
  }
  await refusedConfig(['--listen', '127.0.0.1:0', '--jwt-secret-file', `kid=${path.join(dir, 'missing')}`], ['--jwt-secret-file', path.join(dir, 'missing')]);
  for (const [option, name] of [
    ['--jwt-secret-file', file(dir, 'enough', 'x'.repeat(32))],
    ['--jwt-secret-file', `kid=${path.join(dir, 'enough')}`],
    ['--jwt-secret-file', file(dir, 'binary', crypto.randomBytes(64))],
    ['--jwt-public-key-file', file(dir, 'rsa.pem', pem(rsa(2048)))],
    ['--jwt-public-key-file', file(dir, 'rsa3.pem', pem(rsa(3072)))],
    ['--jwt-public-key-file', file(dir, 'ec.pem', pem(ec('P-256')))],
    ['--jwt-public-key-file', new Authority(dir).issue('one').leaf],
  ]) await acceptedConfig([option, name]);
});

test('addresses, origins and ranges that are none', async (t) => {
  for (const [option, value] of [
    ['--tls-listen', 'nowhere'], ['--redirect-listen', '127.0.0.1'], ['--metrics-listen', '1.2.3.4:99999'],
    ['--trusted-proxy', '10.0.0.0/33'], ['--trusted-proxy', '10.0.0/8'], ['--trusted-proxy', '::1/129'], ['--trusted-proxy', 'proxy.test'],
    ['--trusted-proxy', '10.0.0.0/'], ['--trusted-proxy', ''],
    ['--allow-origin', 'app.example.com'], ['--allow-origin', 'https://app.example.com/'], ['--allow-origin', 'https://app.example.com/path'],
    ['--allow-origin', '*'], ['--allow-origin', 'https://*.example.com'], ['--allow-origin', 'null'], ['--allow-origin', 'https://'],
    ['--allow-origin', 'https://user@app.example.com'], ['--allow-origin', 'https://a.test:0x50'],
    ['--tls-threads', '0'], ['--tls-threads', '65'], ['--admin-session', 'never'],
  ]) await refusedConfig(['--listen', '127.0.0.1:0', '--data', path.join(tempDir(t), 'data'), option, value], [option]);
  await acceptedConfig(['--trusted-proxy', '10.0.0.0/8', '--trusted-proxy', '::1', '--trusted-proxy', '192.0.2.7', '--trusted-proxy', 'fd00::/8',
    '--allow-origin', 'https://app.example.com', '--allow-origin', 'http://localhost:5173', '--allow-origin', 'https://[::1]:8443']);
});

test('beyond loopback with a key, the gate stands', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { listen: ['0.0.0.0:0'], args: key.args });
  server.host = '127.0.0.1';
  assert.equal((await get(server, '/api/presence/u')).status, 401);
  assert.equal((await get(server, '/healthz')).status, 200);
  assert.equal((await get(server, '/api/presence/u', bearer(await key.admin()))).status, 404);
});
