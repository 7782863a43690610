'use strict';
// A1: a key share that is no valid one ends the connection it came on, with illegal_parameter, and
// nothing else: in a first hello, in the hello after a HelloRetryRequest, and in TLS 1.2.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { test, startSecure, Authority, tempDir, connect, get, stats, until } = require('./lib');
const { handmade, ALERT, GROUP, message, vec } = require('./lib/handmade');

const hex = (text) => Buffer.from(text, 'hex');
const PRIME = {
  p256: hex('ffffffff00000001000000000000000000000000ffffffffffffffffffffffff'),
  p384: hex('fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff'),
};

/** Shares of x25519 whose order is low, or whose length is wrong (RFC 7748 section 6.1). */
const X25519 = {
  'nothing': Buffer.alloc(0),
  '1 byte': Buffer.from([9]),
  '31 bytes': crypto.randomBytes(31),
  '33 bytes': crypto.randomBytes(33),
  'zero': Buffer.alloc(32),
  'one': hex('01'.padEnd(64, '0')),
  'order 8': hex('e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800'),
  'the other of order 8': hex('5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157'),
  'p - 1': hex('ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f'),
  'p': hex('edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f'),
  'p + 1': hex('eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f'),
};

/** Shares of a curve of this many bytes a coordinate that are no point. */
const noPoints = (size, curve) => ({
  'nothing': Buffer.alloc(0),
  'two coordinates alone': crypto.randomBytes(2 * size),
  'compressed': Buffer.concat([Buffer.from([2]), PRIME[curve]]),
  'hybrid': Buffer.concat([Buffer.from([6]), crypto.randomBytes(2 * size)]),
  'off the curve': Buffer.concat([Buffer.from([4]), crypto.randomBytes(2 * size).fill(0, 0, 1)]),
  'infinity': Buffer.from([0]),
  'infinity, filled up': Buffer.alloc(1 + 2 * size),
  'zero': Buffer.concat([Buffer.from([4]), Buffer.alloc(2 * size)]),
  'beyond the prime': Buffer.concat([Buffer.from([4]), PRIME[curve], PRIME[curve]]),
  'a byte more': Buffer.concat([crypto.createECDH(curve === 'p256' ? 'prime256v1' : 'secp384r1').generateKeys(), Buffer.alloc(1)]),
});

const CURVES = [['x25519', X25519], ['p256', noPoints(32, 'p256')], ['p384', noPoints(48, 'p384')]];

/** Every shape of every curve: [what, group, share]. */
const shapes = CURVES.flatMap(([curve, shares]) =>
  Object.entries(shares).map(([what, share]) => [`${curve}: ${what}`, GROUP[curve], share]));

/** The alert with which the server answers what `send` did on a new connection. */
async function answered(server, version, send) {
  const one = await handmade(server.secure, { version });
  await send(one);
  const alert = await one.alert();
  one.raw.destroy();
  return alert;
}

/** All shapes lead to that alert, one failure each, and others do not notice. */
async function refused(t, what, version, send) {
  const authority = new Authority(tempDir(t));
  const certs = [authority.issue('localhost', { kind: 'rsa' })]; // which leaves the group to the client
  const server = await startSecure(t, { authority, certs });
  const other = await connect(server.secure, 'other');
  const before = (await stats(server)).counters.tls_failures;
  const wrong = [];
  for (const [name, group, share] of shapes) {
    const alert = await answered(server, version, (one) => send(one, group, share)).catch((error) => error.message);
    if (alert !== ALERT.illegal_parameter) wrong.push(`${name}: ${alert}`);
    if (server.result) break;
  }
  assert.equal(server.result, null, `the server lives: ${what}`);
  assert.deepEqual(wrong, []);
  await other.ping();
  await (await handmade(server.secure, { version })).handshake();
  assert.equal((await get(server.secure, '/healthz')).status, 200);
  await until('all to be counted', async () => (await stats(server)).counters.tls_failures - before === shapes.length);
}

test('A1 a key share that is none, in a first hello', (t) =>
  refused(t, 'first hello', 13, (one, group, share) => one.say(one.hello({ groups: [group], shares: { [group]: share } }))));

test('A1 a key share that is none, in the hello after a HelloRetryRequest', (t) =>
  refused(t, 'second hello', 13, async (one, group, share) => {
    one.say(one.hello({ groups: [group], shares: {} }));
    const { retry, group: wanted } = await one.serverHello();
    assert.deepEqual([retry, wanted], [true, group]);
    one.say(one.hello({ groups: [group], shares: { [group]: share } }));
  }));

test('A1 a key share that is none, in the ClientKeyExchange of TLS 1.2', (t) =>
  refused(t, 'TLS 1.2', 12, async (one, group, share) => {
    const server = await one.flight12({ groups: [group] });
    assert.equal(server.group, group);
    one.say(message(16, vec(1, share)));
  }));
