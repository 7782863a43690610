'use strict';
// A flood of clients who ask for dear things and are gone at once. Timed, and so no part of the
// tests by default: test/integration/gone-clients.test.js counts the same.
const assert = require('node:assert/strict');
const net = require('node:net');
const { fork } = require('node:child_process');
const { test, start, cleanup, heartbeats, get, proc, delay, slow } = require('../integration/lib');

const USERS = 30000;
const PIPELINED = 20;
const PROCESSES = 3;
const SECONDS = 12;
const MOST = 15000; // connections of one process

/** In a child: connects, asks PIPELINED times, is gone; again and again, 60 at a time. */
function flood({ port, seconds }) {
  const bytes = 'GET /admin/users?sort=-last_seen&q=zzz HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(PIPELINED);
  const end = Date.now() + seconds * 1000;
  let made = 0;
  const one = () => {
    if (Date.now() > end || made++ >= MOST) return;
    const socket = net.connect({ host: '127.0.0.1', port });
    socket.on('error', () => {});
    socket.on('connect', () => socket.write(bytes, () => socket.destroy()));
    socket.on('close', () => setImmediate(one));
  };
  for (let i = 0; i < 60; i++) one();
  setTimeout(() => process.send({ made }, () => process.exit(0)), seconds * 1000 + 500);
}

if (process.argv[2] === 'flood') {
  process.once('message', flood);
} else {
  test('clients who ask for lists and are gone keep nobody waiting, and hold no descriptors', { timeout: 240000 * slow }, async (t) => {
    const server = await start(t, { args: ['--online-threshold', '1h'] });
    const ids = Array.from({ length: USERS }, (_, i) => `user-${i}`);
    assert.equal(await heartbeats(server, ids, 8), USERS);
    const children = Array.from({ length: PROCESSES }, () => fork(__filename, ['flood'], { execArgv: [] }));
    for (const child of children) cleanup(t, () => child.kill('SIGKILL'));
    const ended = children.map((child) => new Promise((resolve) => child.once('message', resolve)));
    for (const child of children) child.send({ port: server.port, seconds: SECONDS });
    await delay(500);
    const took = [];
    let descriptors = 0;
    for (const end = Date.now() + (SECONDS - 1) * 1000; Date.now() < end;) {
      const began = Date.now();
      assert.equal((await get(server, '/healthz', { deadline: 60000 })).status, 200);
      took.push(Date.now() - began);
      descriptors = Math.max(descriptors, proc.descriptors(server.pid));
      await delay(50);
    }
    const made = (await Promise.all(ended)).reduce((sum, one) => sum + one.made, 0);
    took.sort((a, b) => a - b);
    t.diagnostic(`${made} connections; /healthz: ${took.length} times, median ${took[took.length >> 1]} ms, worst ${took.at(-1)} ms; ${descriptors} descriptors`);
    assert.ok(made > 500, `only ${made} connections were made`);
    assert.ok(took.at(-1) < 1000 * slow, `/healthz took ${took.at(-1)} ms`);
    assert.ok(descriptors < 256 + 100, `${descriptors} descriptors`);
  });
}
