'use strict';
// Variants: release asan
// A reader of events that stops reading is dropped when --max-stream-buffer waits for it; it costs
// no memory of its own, disturbs nobody, and goes on where it was when it comes back.
const assert = require('node:assert/strict');
const {
  test,
  start,
  startSecure,
  connect,
  openEvents,
  stats,
  until,
  position,
  tcp,
  slow,
  release,
  proc,
} = require('./lib');

const ID = 'u'.repeat(128); // long events fill the socket's buffers sooner

/** Changes a user's status so often, as fast as the server takes it. */
async function shout(client, times) {
  for (let done = 0; done < times;) {
    for (let i = 0; i < 500 && done < times; i++, done++)
      client.send({ type: 'status', status: done % 2 ? 'online' : 'busy' });
    client.send({ type: 'ping' });
    await client.next('pong', 20000 * slow);
  }
}

const ARGS = ['--max-messages-per-second', '0', '--max-stream-buffer', '256k', '--events', '1000'];

for (const [what, starter] of [
  ['plain', start],
  ['TLS', startSecure],
]) {
  test(
    `a reader that stops is dropped at the cap, and others go on: ${what}`,
    { timeout: 120000 * slow },
    async (t) => {
      const plain = await starter(t, { args: ARGS });
      const server = plain.secure || plain;
      const [fast, stuck] = [await openEvents(server), await openEvents(server)];
      const client = await connect(plain, ID);
      await stuck.until('the join', () => stuck.events.length === 2);
      stuck.response.pause();
      stuck.request.socket.pause();
      await shout(client, 5000); // the ring is as large as it gets, but for what the reader holds back
      const before = proc.rss(plain.pid);
      await until(
        'the reader to be dropped',
        async () => {
          await shout(client, 2000);
          return (await stats(plain)).counters.streams_dropped === 1;
        },
        { within: 60000 * slow },
      );
      await shout(client, 2000);
      const grown = proc.rss(plain.pid) - before;
      assert.ok(!release || grown < 1 << 20, `${grown} bytes more`);
      const { connections, position: now } = await stats(plain);
      assert.equal(connections.streams, 1);
      await fast.reach(now, 20000 * slow);
      assert.equal(fast.problem, null);
      await client.ping();

      stuck.request.socket.resume();
      stuck.response.resume();
      await stuck.closed; // what it got is whole events, and perhaps a piece of one
      assert.equal(stuck.problem, null);
      assert.ok(position(stuck.lastId).sequence < position(now).sequence);
      const late = await openEvents(server, { lastId: stuck.lastId });
      assert.equal((await late.next()).event, 'reset'); // more than --events behind
      const soon = await openEvents(server, { lastId: fast.events.at(-900).id });
      assert.equal((await soon.next()).id, fast.events.at(-899).id);
      await soon.reach(now);
    },
  );
}

test('what a stream comes back for is not held against it', async (t) => {
  const count = 40000; // more than the sockets hold
  const server = await start(t, {
    args: [
      '--max-messages-per-second',
      '0',
      '--max-stream-buffer',
      '4k',
      '--events',
      `${2 * count}`,
    ],
  });
  const first = await openEvents(server);
  const client = await connect(server, ID);
  const { id: lastId } = await first.next();
  await shout(client, count);
  const again = await openEvents(server, { lastId });
  again.response.pause();
  again.request.socket.pause();
  await shout(client, 5); // it cannot have all yet, and more comes
  const { position: now, counters } = await stats(server);
  assert.equal(counters.streams_dropped, 0);
  again.request.socket.resume();
  again.response.resume();
  await again.reach(now, 20000 * slow);
  assert.equal(again.events[0].event, 'change');
  assert.equal((await stats(server)).counters.streams_dropped, 0);
});

test('readers that never read cost others nothing', async (t) => {
  const server = await start(t, { args: ARGS });
  const asleep = [];
  for (let i = 0; i < 50; i++) {
    const raw = await tcp(server);
    raw.socket.pause();
    raw.write('GET /admin/events HTTP/1.1\r\nHost: localhost\r\n\r\n');
    asleep.push(raw);
  }
  await until('all to be streams', async () => (await stats(server)).connections.streams === 50);
  const fast = await openEvents(server);
  const client = await connect(server, ID);
  await until(
    'all to be dropped',
    async () => {
      await shout(client, 2000);
      await client.ping();
      return (await stats(server)).counters.streams_dropped === 50;
    },
    { within: 60000 * slow },
  );
  await fast.reach((await stats(server)).position, 20000 * slow);
  assert.equal(fast.problem, null);
});
