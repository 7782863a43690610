'use strict';
// Variants: release asan
// One who reads more slowly than it is told things: it is heard all the same, it lives as long as it
// takes what is sent, and what it asks for meanwhile does not pile up.

const assert = require('node:assert/strict');
const {
  test,
  sideBySide,
  start,
  rawConnect,
  connect,
  frame,
  OP,
  closePayload,
  presence,
  heartbeat,
  setStatus,
  assertLeftOnce,
  until,
  delay,
  stats,
  slow,
  window,
} = require('./lib');

const ARGS = ['--max-messages-per-second', '0', '--max-message', '1m', '--online-threshold', '60s'];
// Under the sanitizers the reader itself may not come to read for a second.
const SECOND = 1000 * window;
const BOUND = ['--ping-interval', `${SECOND}ms`, '--pong-timeout', `${SECOND}ms`];
const users = Array.from({ length: 250 }, (_, i) => `u${i}`);
const text = (message) => frame(OP.text, JSON.stringify(message));

/** A connection whose socket is full: it has asked 60 times for some 180 KB and reads nothing. */
async function behind(t, args) {
  const server = await start(t, { args: [...ARGS, ...args] });
  for (const id of users) {
    await heartbeat(server, id);
    await setStatus(server, id, { status: null, message: '😀'.repeat(139) });
  }
  const raw = await rawConnect(server, 'slow');
  await raw.ping();
  raw.socket.pause();
  for (let i = 0; i < 60; i++) raw.write(text({ type: 'watch', users }));
  let told = -1;
  await until('the socket to be full', async () => {
    const before = told;
    told = await snapshots(server);
    await delay(100);
    return told > 0 && told === before;
  }, { within: 20000 * slow });
  assert.ok(told < 60, `${told} snapshots went out`);
  return { server, raw };
}

/** How many snapshots were made, by the counter. */
async function snapshots(server) {
  return (await stats(server)).counters.snapshots;
}

sideBySide(() => {
  test('what one says whose socket is full is heard: pings, a status, its close', async (t) => {
    const { server, raw } = await behind(t, BOUND);
    const before = (await stats(server)).memory.anonymous_bytes;
    for (let i = 0; i < 20 * window; i++) {
      raw.write(text({ type: 'ping' })); // for longer than the bound
      if (i === 10) raw.write(text({ type: 'status', status: 'busy' }));
      await delay(150);
      assert.equal((await presence(server, 'slow')).source, 'live', `after ${i + 1} pings`);
    }
    await until('the status to be heard', async () => (await presence(server, 'slow')).status === 'busy');
    raw.write(Buffer.concat(Array.from({ length: 40000 }, () => text({ type: 'ping' }))));
    await delay(500);
    const grown = (await stats(server)).memory.anonymous_bytes - before;
    assert.ok(grown < 4 << 20 || slow > 1, `answers that are not read took ${grown} bytes`);
  });

  test('the close of one whose socket is full is heard', async (t) => {
    const { server, raw } = await behind(t, []);
    raw.write(frame(OP.close, closePayload(1000)));
    await until('offline', async () => !(await presence(server, 'slow')).online);
    await assertLeftOnce(server, 'slow', 'closed');
  });

  test('who says nothing but takes what is sent stays, and is found silent when that ends', async (t) => {
    const { server, raw } = await behind(t, BOUND);
    const began = Date.now();
    const heard = (await presence(server, 'slow')).last_seen;
    raw.socket.removeAllListeners('data');
    raw.socket.on('data', (chunk) => {
      raw.socket.pause();
      setTimeout(() => raw.socket.resume(), chunk.length / 1000); // 1 MB a second
    });
    raw.socket.resume();
    while (Date.now() - began < 5 * SECOND) { // the bound is 2
      const user = await presence(server, 'slow');
      assert.deepEqual([user.source, user.last_seen], ['live', heard], `after ${Date.now() - began} ms`);
      await delay(100);
    }
    raw.socket.removeAllListeners('data');
    raw.socket.pause();
    await until('offline', async () => !(await presence(server, 'slow')).online, { within: 15000 * slow });
    assert.equal((await presence(server, 'slow')).last_seen, heard);
    await assertLeftOnce(server, 'slow', 'timeout');
  });

  test('watches of one who does not read wait as they came, and are answered in order', async (t) => {
    const { server, raw } = await behind(t, []);
    const told = await snapshots(server);
    raw.write(text({ type: 'unwatch' }), text({ type: 'watch', users: ['u1', 'nobody'] }));
    await raw.socket.write(text({ type: 'status', status: 'away' }));
    await until('the status', async () => (await presence(server, 'slow')).status === 'away');
    assert.equal(await snapshots(server), told);
    const other = await connect(server, 'other');
    await other.ping();
    raw.socket.resume();
    let last;
    for (let whole = 0; whole < 61; ) {
      const message = await raw.frame(20000 * slow);
      if (message.opcode !== OP.text) continue;
      const { type, users: some, more } = JSON.parse(message.payload);
      if (type !== 'snapshot') continue;
      last = some;
      whole += !more;
    }
    assert.deepEqual(last.map((user) => user.user_id), ['u1', 'nobody']);
    assert.equal((await stats(server)).connections.watching, 2);
  });
});
