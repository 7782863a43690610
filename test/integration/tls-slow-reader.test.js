'use strict';
// Variants: release asan
// Long answers over TLS to a client that reads slowly are the bytes that plain HTTP gives.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { test, startSecure, heartbeats, tcp, get, until, throughout, stats, timeline, heavy, slow, window, connect } = require('./lib');

const line = (path) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;

test('a thousand users, read slowly, byte for byte', async (t) => {
  const server = await startSecure(t, { args: ['--request-timeout', '30s'] });
  const ids = Array.from({ length: 1000 }, (_, i) => `${String(i).padStart(4, '0')}-${crypto.randomBytes(60).toString('base64url')}`);
  assert.equal(await heartbeats(server, ids), 1000);
  await timeline(server, ids[0]);
  const path = '/admin/users?limit=1000';
  const settle = (text) => text.replace(/"generated_at":"[^"]*"/, '"generated_at":""');
  let plain;
  await until('the list to be still', async () => {
    const before = plain;
    plain = settle((await get(server, path)).text);
    return plain === before;
  });
  assert.equal(JSON.parse(plain).users.length >= 1000, true);

  for (const version of ['TLSv1.2', 'TLSv1.3']) {
    const raw = await tcp(server.secure, { minVersion: version, maxVersion: version });
    const count = heavy(40, 12); // more than the buffers of both sides hold
    raw.socket.pause();
    const { requests: earlier } = (await stats(server)).counters;
    raw.write(line(path).repeat(count));
    let before = -1;
    await until('the server to wait for the client', async () => {
      const { requests } = (await stats(server)).counters;
      const still = requests === before + 1;
      before = requests;
      return still;
    }, { every: 50 });
    assert.ok(before - earlier < count || count < 40, `${before - earlier} of ${count} answers in the buffers`);
    for (let i = 0; i < 5; i++) assert.ok((await get(server.secure, '/healthz')).ms < 1000 * slow);
    for (let i = 0; i < count; i++) {
      if (i % 4 === 0) {
        raw.socket.resume();
        await new Promise((resolve) => setImmediate(resolve));
        raw.socket.pause(); // a little at a time
        setTimeout(() => raw.socket.resume(), 20);
      }
      const answer = await raw.response(20000 * slow);
      assert.equal(answer.status, 200);
      assert.ok(settle(answer.body) === plain, `${version}, answer ${i} differs`);
    }
    raw.destroy();
  }
});

test('a client of TLS that never reads is given up, and delays nobody', async (t) => {
  const server = await startSecure(t, { args: ['--request-timeout', `${1000 * window}ms`, '--workers', '1'] });
  const ids = Array.from({ length: 300 }, (_, i) => `u${i}`);
  assert.equal(await heartbeats(server, ids), 300);
  const greedy = [];
  for (let i = 0; i < 5; i++) {
    const raw = await tcp(server.secure);
    raw.socket.pause();
    raw.write(line('/admin/users?limit=1000').repeat(300));
    greedy.push(raw);
  }
  await throughout(500, async () => {
    const health = await get(server.secure, '/healthz');
    assert.ok(health.status === 200 && health.ms < 1000 * slow, `${health.ms} ms`);
  });
  const client = await connect(server.secure, 'u');
  await client.ping();
  await until('the greedy to be given up', async () => (await stats(server)).connections.pending <= 1, {
    within: 6000 * slow,
  });
});
