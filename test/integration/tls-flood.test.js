'use strict';
// Variants: release asan
// Handshakes are the dearest thing a stranger can ask for. One address that begins them faster than
// they are made has --max-pending-per-address of them, in the handshakers' queue too.
const assert = require('node:assert/strict');
const net = require('node:net');
const tls = require('node:tls');
const { test, startSecure, Authority, tempDir, tcp, json, slow } = require('./lib');

/** The first bytes that a client of TLS says. */
const firstWords = () => new Promise((resolve) => {
  const listener = net.createServer((socket) => socket.once('data', (bytes) => {
    socket.destroy();
    listener.close();
    resolve(bytes);
  }));
  listener.listen(0, '127.0.0.1', () => tls.connect(listener.address().port, '127.0.0.1').on('error', () => {}));
});

test('a flood of handshakes of one address does not keep others waiting', async (t) => {
  const authority = new Authority(tempDir(t));
  const certs = [authority.issue('localhost', { kind: 'rsa4096' })];
  const server = await startSecure(t, { authority, certs, args: ['--max-pending-per-address', '8', '--tls-threads', '1'] });
  const hello = await firstWords();
  for (let sent = 0; sent < 480; sent += 6) {
    await Promise.all(Array.from({ length: 6 }, async () => {
      const raw = await tcp(server.secure, { bare: true, localAddress: '127.0.0.9' });
      raw.write(hello);
    }));
    await new Promise((resolve) => setTimeout(resolve, 4)); // the server takes them into its queue
  }
  const began = Date.now();
  const stats = await json(server.secure, '/admin/stats');
  assert.ok(Date.now() - began < 1500 * slow, `${Date.now() - began} ms`);
  assert.ok(stats.connections.pending <= 40, `${stats.connections.pending} pending`);
  assert.ok(stats.counters.pending_displaced >= 300, `${stats.counters.pending_displaced} displaced`);
});
