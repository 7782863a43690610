'use strict';
// --tls-self-signed makes a certificate for trying things out, keeps it, and renews it in time.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, secured, tempDir, shake, connect, get, selfSigned, DAY, refusedStart, run } = require('./lib');

const ARGS = ['--tls-self-signed', '--tls-listen', '127.0.0.1:0', '--tls-listen', '127.0.0.9:0'];

/** Starts on this data directory; gives the server and its certificate. */
async function begin(t, data, allow = []) {
  const server = await start(t, { data, args: ARGS, listening: 2, allow });
  const pem = fs.readFileSync(path.join(data, 'tls-cert.pem'), 'utf8');
  const made = new crypto.X509Certificate(pem);
  server.secure = secured(server, pem);
  return { server, pem, made };
}

test('a usable certificate, its key for the owner alone', async (t) => {
  const data = tempDir(t);
  const { server, made } = await begin(t, data);
  const mode = (name) => fs.statSync(path.join(data, name)).mode & 0o777;
  assert.equal(mode('tls-key.pem'), 0o600);
  assert.equal(mode('tls-cert.pem') & 0o022, 0);
  const socket = await shake(server.secure); // the certificate itself is trusted, nothing else
  assert.equal(socket.authorized, true);
  for (const name of ['localhost']) assert.ok(made.checkHost(name), name);
  for (const address of ['127.0.0.1', '::1', '127.0.0.9']) assert.ok(made.checkIP(address), address);
  assert.equal(made.checkHost('example.com'), undefined);
  assert.equal(made.publicKey.asymmetricKeyDetails.namedCurve, 'prime256v1');
  const [from, to] = [Date.parse(made.validFrom), Date.parse(made.validTo)];
  assert.ok(from <= Date.now() && from > Date.now() - 3 * DAY, made.validFrom);
  assert.ok(to > Date.now() + 395 * DAY && to - from <= 398 * DAY, made.validTo);
  assert.ok(made.checkIssued(made) && made.verify(made.publicKey), 'it vouches for itself');
  assert.ok(BigInt(`0x${made.serialNumber}`) > 0xffffffffn, 'a serial number by chance');
  for (const version of ['TLSv1.2', 'TLSv1.3']) {
    const client = await connect(server.secure, version, { minVersion: version, maxVersion: version });
    await client.ping();
  }
  assert.equal((await get(server.secure, '/healthz')).status, 200);
});

test('it is kept over a restart, and renewed only when it is needed', async (t) => {
  const data = tempDir(t);
  const first = await begin(t, data);
  await first.server.stop();
  const again = await begin(t, data);
  assert.equal(again.pem, first.pem, 'kept');
  await again.server.stop();
  const files = [path.join(data, 'tls-cert.pem'), path.join(data, 'tls-key.pem')];
  const hosts = ['localhost', '127.0.0.1', '::1', '127.0.0.9'];
  const made = (days) => selfSigned(...files, { dir: data, hosts, to: Date.now() + days * DAY }).fingerprint;
  const lives = made(31);
  const kept = await begin(t, data);
  assert.equal(kept.made.fingerprint256, lives, '31 days are enough');
  await kept.server.stop();
  const ends = made(29);
  const renewed = await begin(t, data, [/tls-cert\.pem|self-signed/]);
  assert.notEqual(renewed.made.fingerprint256, ends, '29 days are not');
  assert.ok(Date.parse(renewed.made.validTo) > Date.now() + 395 * DAY);
  assert.equal(fs.statSync(files[1]).mode & 0o777, 0o600);
  await renewed.server.stop();
});

test('without TLS to serve, and for a check, nothing is made', async (t) => {
  const data = path.join(tempDir(t), 'data');
  const checked = await run(['--check-config', '--data', data, ...ARGS]);
  assert.equal(checked.code, 0, checked.stderr);
  assert.equal(fs.existsSync(data), false);
  await refusedStart(['--data', data, '--listen', '127.0.0.1:0', '--tls-listen', '127.0.0.1:0'], ['--tls-listen', '--tls-cert']);
});
