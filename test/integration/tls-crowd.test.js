'use strict';
// Variants: release asan tsan
// T03: many handshakes side by side, all kinds, under sanitizers too.
const assert = require('node:assert/strict');
const { test, startSecure, Authority, tempDir, shake, sessionOf, connect, stats, until, heavy, slow, json } = require('./lib');

const SIDE = 200;

test('T03 200 handshakes side by side, of both versions and kinds, fresh and resumed', async (t) => {
  const authority = new Authority(tempDir(t));
  const certs = [
    authority.issue('ec.test', { hosts: ['ec.test'] }),
    authority.issue('rsa.test', { kind: 'rsa', hosts: ['rsa.test'] }),
  ];
  const server = await startSecure(t, { authority, certs, args: ['--request-timeout', `${10 * slow}s`] });
  const kinds = [];
  for (const version of ['TLSv1.2', 'TLSv1.3'])
    for (const servername of ['ec.test', 'rsa.test']) {
      const options = { minVersion: version, maxVersion: version, servername };
      const socket = await shake(server.secure, options);
      kinds.push({ options }, { options: { ...options, session: await sessionOf(socket) }, resumed: true });
      socket.destroy();
    }
  await until('the first four to be counted', async () => (await stats(server)).counters.tls_handshakes === 4);
  const before = (await stats(server)).counters;
  const rounds = heavy(3, 1);
  for (let round = 0; round < rounds; round++) {
    const sockets = await Promise.all(Array.from({ length: SIDE }, (_, i) => shake(server.secure, kinds[i % kinds.length].options)));
    for (const [i, socket] of sockets.entries()) {
      const { options, resumed = false } = kinds[i % kinds.length];
      assert.equal(socket.getProtocol(), options.minVersion);
      assert.equal(socket.isSessionReused(), resumed, JSON.stringify([i, options.servername]));
    }
    const answers = await Promise.all(sockets.map((socket) => new Promise((resolve, reject) => {
      socket.once('data', resolve);
      socket.once('error', reject);
      socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    })));
    for (const answer of answers) assert.match(answer.toString(), /^HTTP\/1\.1 200 /);
    for (const socket of sockets) socket.destroy();
  }
  await until('all to be counted', async () => (await stats(server)).counters.tls_handshakes >= before.tls_handshakes + SIDE * rounds);
  const after = (await stats(server)).counters;
  assert.equal(after.tls_handshakes - before.tls_handshakes, SIDE * rounds, 'handshakes');
  assert.equal(after.tls_resumed - before.tls_resumed, (SIDE / 2) * rounds, 'resumed');
  assert.equal(after.tls_failures, before.tls_failures, 'failures');
});

test('T03 100 wss users come side by side, are all there, and all go', async (t) => {
  const server = await startSecure(t);
  const clients = await Promise.all(Array.from({ length: 100 }, (_, i) => connect(server.secure, `u${i}`)));
  await Promise.all(clients.map((client) => client.ping()));
  assert.deepEqual((await stats(server)).users.live, 100);
  await Promise.all(clients.map((client) => client.close()));
  await until('all to be gone', async () => (await json(server, '/admin/online-users')).count === 0);
});
