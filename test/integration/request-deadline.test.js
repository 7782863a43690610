'use strict';
// Variants: release asan
const assert = require('node:assert/strict');
const { test, start, tcp, get, connect, until, delay, slow, window, json, proc } = require('./lib');

// many pending connections of one address, on purpose
const FLOOD = ['--max-pending-per-address', '0'];

const TIMEOUT = 1000 * window;
const ARGS = ['--request-timeout', `${TIMEOUT}ms`];

/** Sends `bytes` one by one every 50 ms until the server ends it. */
async function drip(server, before, bytes) {
  const raw = await tcp(server);
  const began = Date.now();
  raw.write(before);
  for (let i = 0; !raw.ended && Date.now() - began < TIMEOUT * 4; i++) {
    raw.write(bytes[i % bytes.length]);
    await delay(50);
  }
  const took = Date.now() - began;
  const text = raw.bytes.toString('latin1');
  assert.ok(raw.ended, 'still open');
  assert.ok(took >= TIMEOUT - 60 && took < TIMEOUT + 700 * slow, `ended after ${took} ms`);
  assert.ok(text === '' || /^HTTP\/1\.1 408 /.test(text), text);
  raw.destroy();
}

test('a request has one absolute deadline that bytes do not renew', async (t) => {
  const server = await start(t, { args: ARGS });
  await Promise.all([
    drip(server, 'GET /', 'a'),
    drip(server, 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n', 'X: y\r\n'),
    drip(
      server,
      'POST /api/presence HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n',
      '{',
    ),
    drip(
      server,
      'GET /ws/presence/u HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n',
      'X: y\r\n',
    ),
  ]);
});

test('a silent connection, and one idle between requests, is given up too', async (t) => {
  const server = await start(t, { args: [...ARGS, '--keepalive-timeout', `${TIMEOUT}ms`] });
  const silent = await tcp(server);
  const idle = await tcp(server);
  idle.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
  assert.equal((await idle.response()).status, 200);
  await until('the silent one to end', () => silent.ended, { within: TIMEOUT + 1000 * slow });
  await until('the idle one to end', () => idle.ended, { within: TIMEOUT + 1000 * slow });
  assert.equal(idle.bytes.length, 0);
});

test('a client that does not read its answer blocks nobody', async (t) => {
  const server = await start(t, { args: [...ARGS, '--workers', '1'] });
  const greedy = [];
  for (let i = 0; i < 5; i++) {
    const raw = await tcp(server);
    raw.socket.pause();
    raw.write('GET /admin/stats HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(2000));
    greedy.push(raw);
  }
  for (let i = 0; i < 10; i++) {
    const answer = await get(server, '/healthz');
    assert.ok(answer.status === 200 && answer.ms < (TIMEOUT + 1000) * slow, `${answer.ms} ms`);
  }
  await server.stop(); // while they still do not read
});

test('500 silent and 100 dripping connections delay nobody', async (t) => {
  const server = await start(t, { args: ['--request-timeout', '20s', '--workers', '2', ...FLOOD] });
  const raws = [];
  for (let i = 0; i < 600; i++)
    raws.push(await tcp(server, { localAddress: `127.0.0.${2 + (i % 10)}` }));
  let dripping = true;
  const drips = (async () => {
    while (dripping) {
      for (const raw of raws.slice(500)) raw.write('G');
      await delay(100);
    }
  })();
  const began = proc.cpu(server.pid);
  const since = Date.now();
  for (let i = 0; i < 30; i++) {
    const health = await get(server, '/healthz');
    assert.ok(health.ms < 500 * slow, `health took ${health.ms} ms`);
    const asked = Date.now();
    const client = await connect(server, `u${i}`);
    assert.ok(Date.now() - asked < 500 * slow, `login took ${Date.now() - asked} ms`);
    await client.ping();
  }
  dripping = false;
  await drips;
  const share = (proc.cpu(server.pid) - began) / (Date.now() - since);
  assert.ok(share < 0.5 * slow, `${share} of a core`);
  assert.ok((await json(server, '/admin/stats')).connections.pending >= 600);
});
