'use strict';
// Variants: release asan
// T02: clients that say nothing, or too little, at the TLS port cost memory until an absolute
// deadline, and never a thread.
const assert = require('node:assert/strict');
const { test, startSecure, startMangler, byteByByte, tcp, shake, get, connect, until, delay, slow, window, proc, stats } = require('./lib');

const TIMEOUT = 1200 * window;

/** The first record of a client, as it says it. */
async function hello(t, server) {
  let first;
  const mangled = await startMangler(t, server.secure, () => (chunk) => {
    first ??= Buffer.from(chunk);
    return [chunk];
  });
  (await shake(mangled)).destroy();
  return first;
}

test('T02 silent, half-shaken and dripping clients end in time, new ones are served at once', async (t) => {
  const server = await startSecure(t, { args: ['--request-timeout', `${TIMEOUT}ms`, '--workers', '1'] });
  const bytes = await hello(t, server);
  await until('only this connection', async () => (await stats(server)).connections.pending <= 1);
  const ends = [];
  const watch = async (opening, began = Date.now()) => {
    const raw = await opening;
    ends.push(raw.closed.then(() => Date.now() - began));
    return raw;
  };
  const bare = () => tcp(server.secure, { bare: true });
  for (let i = 0; i < 60; i++) await watch(bare()); // silent
  for (let i = 0; i < 10; i++) (await watch(bare())).write(bytes.subarray(0, bytes.length >> 1));
  for (let i = 0; i < 5; i++) (await watch(bare())).write(bytes); // the answer is never read
  for (let i = 0; i < 5; i++) await watch(tcp(server.secure)); // shaken, then silent
  let dripping = true;
  const drips = [];
  const drip = async (raw, text) => {
    for (let i = 0; dripping && !raw.ended; i++) {
      raw.write(text.subarray(i % text.length, (i % text.length) + 1));
      await delay(60);
    }
  };
  for (let i = 0; i < 10; i++) drips.push(drip(await watch(bare()), bytes.subarray(0, bytes.length - 1)));
  for (let i = 0; i < 10; i++) {
    const raw = await watch(tcp(server.secure));
    raw.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n');
    drips.push(drip(raw, Buffer.from('X: y\r\n')));
  }
  assert.ok((await stats(server)).connections.pending >= 100);
  const began = proc.cpu(server.pid);
  const since = Date.now();
  for (let i = 0; i < 8; i++) {
    const asked = Date.now();
    const client = await connect(server.secure, `u${i}`);
    await client.ping();
    assert.ok(Date.now() - asked < 1000 * slow, `login took ${Date.now() - asked} ms`);
    assert.ok((await get(server, '/healthz')).ms < 1000 * slow);
  }
  const took = await Promise.all(ends);
  const share = (proc.cpu(server.pid) - began) / (Date.now() - since);
  dripping = false;
  await Promise.all(drips);
  assert.equal(took.length, 100);
  assert.ok(Math.min(...took) >= TIMEOUT - 60, `one ended after ${Math.min(...took)} ms`);
  assert.ok(Math.max(...took) <= TIMEOUT + 900 * slow, `one ended after ${Math.max(...took)} ms`);
  assert.ok(share < 0.5 * slow, `${share} of a core`);
  await until('nothing to be pending', async () => (await stats(server)).connections.pending <= 1, { within: 8000 * slow });
  assert.ok(!(await get(server.secure, '/healthz')).text.includes('error'));
});

test('a handshake that drips may finish within the deadline, and be served', async (t) => {
  const server = await startSecure(t, { args: ['--request-timeout', '20s'] });
  const slowly = await startMangler(t, server.secure, byteByByte(900));
  const client = await connect(slowly, 'u');
  await client.ping();
});
