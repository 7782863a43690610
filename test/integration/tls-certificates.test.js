'use strict';
// A8, B11: certificates are tried in memory before they are used. A chain of any length that TLS has
// room for works; what can serve no handshake is refused with a sentence, and what works stays in
// use; one outside its time is used where there is nothing better.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, startSecure, Authority, tempDir, refusedConfig, shake, shown, run, get, until, stats, DAY, hurried, slow } = require('./lib');

const VERSIONS = ['TLSv1.2', 'TLSv1.3'];
const only = (version) => ({ minVersion: version, maxVersion: version });
const der = (pem) => (pem.match(/-----BEGIN[^]*?-----END CERTIFICATE-----/g) || [])
  .map((one) => Buffer.from(one.replace(/-----[^-]+-----|\s/g, ''), 'base64').length);
const bytes = (pem) => der(pem).reduce((sum, length) => sum + length, 0);

/** Certificates for a chain, of this many bytes in all: one of many names fills it up. */
function chainOf(authority, leaf, size) {
  let pem = leaf.pem;
  const filler = (names) => authority.issue('filler', {
    hosts: Array.from({ length: names }, (_, i) => `host-${i}.${'x'.repeat(40)}.test`) }).pem;
  const large = filler(40);
  while (bytes(pem) + bytes(large) <= size) pem += large;
  for (let names = 30; names > 0; names -= 1) {
    const one = filler(names);
    if (bytes(pem) + bytes(one) <= size) return pem + one;
  }
  return pem;
}

function put(place, pem, keyPem) {
  fs.writeFileSync(place.cert, pem);
  if (keyPem) fs.writeFileSync(place.key, keyPem, { mode: 0o600 });
}

const args = (dir, place) => ['--data', path.join(dir, 'data'), '--listen', '127.0.0.1:0', '--tls-listen', '127.0.0.1:0',
  '--tls-cert', place.cert, '--tls-key', place.key];

test('A8 chains of 2 to 16 KB work in both versions, also full ones', async (t) => {
  const authority = new Authority(tempDir(t));
  const leaf = authority.issue('localhost');
  for (const size of [2500, 4200, 8000, 16200]) {
    const pem = chainOf(authority, leaf, size);
    put(leaf, pem);
    const server = await startSecure(t, { authority, certs: [leaf] });
    for (const version of VERSIONS) {
      const socket = await shake(server.secure, only(version));
      assert.equal(socket.getPeerCertificate().fingerprint256, leaf.fingerprint, `${bytes(pem)} bytes, ${version}`);
      socket.destroy();
    }
    assert.equal((await get(server.secure, '/healthz')).status, 200);
    await server.stop();
  }
});

test('A8 what can serve no handshake is refused at the start, with a sentence', async (t) => {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const long = authority.issue('localhost');
  put(long, chainOf(authority, long, 20000));
  const names = ['subjectAltName=DNS:localhost'];
  const cases = [
    [long, /chain .* (leave out|too long)/],
    [authority.issue('for clients', { extensions: [...names, 'extendedKeyUsage=clientAuth'] }), /not for servers .*serverAuth/],
    [authority.issue('for mail', { kind: 'rsa', extensions: [...names, 'extendedKeyUsage=emailProtection'] }), /serverAuth/],
    [authority.issue('for encryption', { kind: 'rsa', extensions: [...names, 'keyUsage=keyEncipherment'] }), /digitalSignature/],
    [authority.issue('for certificates', { extensions: [...names, 'keyUsage=keyCertSign'] }), /digitalSignature/],
  ];
  for (const [made, sentence] of cases) {
    const line = await refusedConfig(args(dir, made), ['--tls-cert', made.cert]);
    assert.match(line, sentence);
  }
  const good = authority.issue('good', { extensions: [...names, 'keyUsage=digitalSignature', 'extendedKeyUsage=serverAuth,clientAuth'] });
  const second = ['--tls-cert', cases[1][0].cert, '--tls-key', cases[1][0].key];
  await refusedConfig([...args(dir, good), ...second], [cases[1][0].cert]);
  const any = authority.issue('any', { kind: 'rsa', extensions: [...names, 'extendedKeyUsage=anyExtendedKeyUsage'] });
  for (const made of [good, any]) {
    const result = await run(['--check-config', ...args(dir, made)]);
    assert.deepEqual([result.code, result.stdout, result.stderr], [0, 'configuration ok\n', '']);
  }
});

test('A8 at SIGHUP the old ones are kept, and TLS works on', async (t) => {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const place = { cert: path.join(dir, 'live.pem'), key: path.join(dir, 'live.key') };
  const first = authority.issue('first');
  put(place, first.pem, first.keyPem);
  const server = await startSecure(t, { authority, certs: [place], allow: [/level=error.*live\.pem/, /level=info/] });
  const errors = () => server.lines.filter((line) => /level=error/.test(line)).length;
  const long = authority.issue('long');
  const names = ['subjectAltName=DNS:localhost'];
  const mail = authority.issue('mail', { extensions: [...names, 'extendedKeyUsage=emailProtection'] });
  const signs = authority.issue('signs', { kind: 'rsa', extensions: [...names, 'keyUsage=keyEncipherment'] });
  const early = authority.issue('early', { from: Date.now() + DAY });
  for (const [pem, keyPem] of [[chainOf(authority, long, 18000), long.keyPem], [mail.pem, mail.keyPem], [signs.pem, signs.keyPem], [early.pem, early.keyPem]]) {
    const before = errors();
    put(place, pem, keyPem);
    server.signal('SIGHUP');
    await until('an error line', () => errors() > before);
    assert.equal(await shown(server.secure), first.fingerprint);
  }
  assert.equal((await stats(server)).counters.tls_reloads, 0);
  put(place, chainOf(authority, long, 9000), long.keyPem);
  server.signal('SIGHUP');
  await until('the new one', async () => (await shown(server.secure)) === long.fingerprint);
});

test('B11 one that is expired, or not valid yet, is used at the start, loudly', async (t) => {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const gauge = async (server) => Number(/^presence_tls_certificates_untimely (\d+)$/m.exec((await get(server, '/metrics')).text)[1]);
  const lax = { rejectUnauthorized: false };
  for (const [times, words] of [
    [{ from: Date.now() - 10 * DAY, to: Date.now() - DAY }, /level=error msg="--tls-cert: .* expired on .* used all the same/],
    [{ from: Date.now() + DAY, to: Date.now() + 10 * DAY }, /level=error msg="--tls-cert: .* becomes valid on .* used all the same/],
  ]) {
    const place = authority.issue('localhost', times);
    const checked = await run(['--check-config', ...args(dir, place)]);
    assert.deepEqual([checked.code, checked.stdout], [0, 'configuration ok\n']);
    assert.match(checked.stderr, words);
    const server = await startSecure(t, { authority, certs: [place], allow: [words, /level=info/] });
    assert.equal(server.lines.filter((line) => words.test(line)).length, 1, 'one line');
    assert.equal(await gauge(server), 1);
    for (const version of VERSIONS) (await shake(server.secure, { ...lax, ...only(version) })).destroy();
    const next = authority.issue('localhost', { from: Date.now() - 20 * DAY, to: Date.now() - 2 * DAY });
    put(place, next.pem, next.keyPem); // no better, no worse
    server.allow.push(/level=error.*expired on/);
    server.signal('SIGHUP');
    await until('the other', async () => (await shown(server.secure, lax)) === next.fingerprint);
    const good = authority.issue('localhost');
    put(place, good.pem, good.keyPem);
    server.signal('SIGHUP');
    await until('the good one', async () => (await shown(server.secure, lax)) === good.fingerprint);
    assert.equal(await gauge(server), 0);
    put(place, next.pem, next.keyPem);
    server.signal('SIGHUP');
    await until('a refusal', () => server.lines.some((line) => /old certificates stay/.test(line)));
    assert.equal(await shown(server.secure), good.fingerprint, 'what works is kept');
    await server.stop();
  }
});

test('certificates replaced with equal size, inode and times are noticed', async (t) => {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const place = { cert: path.join(dir, 'live.pem'), key: path.join(dir, 'live.key') };
  let [first, second] = [authority.issue('localhost'), authority.issue('localhost')];
  while (first.pem.length !== second.pem.length) second = authority.issue('localhost'); // DER of a signature varies
  put(place, first.pem, first.keyPem);
  const then = Math.floor(Date.now() / 1000) - 100;
  for (const file of [place.cert, place.key]) fs.utimesSync(file, then, then);
  const before = fs.statSync(place.cert);
  const server = await startSecure(t, { authority, certs: [place], allow: [/level=info/, /level=error.*live/],
    env: hurried(t, 4) });
  assert.equal(await shown(server.secure), first.fingerprint);
  for (const [file, text] of [[place.cert, second.pem], [place.key, second.keyPem]]) {
    fs.writeFileSync(file, text); // in place: the same inode
    fs.utimesSync(file, then, then);
  }
  const after = fs.statSync(place.cert);
  assert.deepEqual([after.size, after.ino, after.mtimeMs], [before.size, before.ino, before.mtimeMs]);
  await until('the new certificate', async () => (await shown(server.secure)) === second.fingerprint, { within: 11000 + 2000 * slow, every: 200 });
});
