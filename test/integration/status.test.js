'use strict';
const assert = require('node:assert/strict');
const {
  test,
  start,
  connect,
  presence,
  json,
  until,
  throughout,
  delay,
  window,
  assertNeverLeft,
} = require('./lib');

const status = async (server) => (await presence(server, 'u')).status;
const say = (client, value) => client.send({ type: 'status', status: value });
const becomes = (server, value) =>
  until(`status ${value}`, async () => (await status(server)) === value);

test('P14 a change of status is one update, never a leave and a join', async (t) => {
  const server = await start(t);
  const client = await connect(server, 'u');
  const before = await presence(server, 'u');
  for (const value of ['away', 'busy', 'online', 'busy', 'away', 'away']) {
    say(client, value);
    await becomes(server, value);
    const now = await presence(server, 'u');
    assert.deepEqual({ ...now, last_seen: 0 }, { ...before, status: value, last_seen: 0 });
  }
  const [connection] = (await json(server, '/admin/users/u')).connection_list;
  assert.equal(connection.status, 'away');
  assert.deepEqual(
    (await json(server, '/admin/online-users')).users.map((user) => user.status),
    ['away'],
  );
  await assertNeverLeft(server, 'u');
  assert.deepEqual(client.queue, [], 'a status message has no reply');
});

test('P15 of two devices the most available status wins, without oscillation', async (t) => {
  const server = await start(t, { args: ['--max-messages-per-second', '1000'] });
  const idle = await connect(server, 'u');
  const active = await connect(server, 'u');
  say(idle, 'away');
  await idle.ping();
  for (let i = 0; i < 20; i++) {
    say(idle, 'away');
    say(active, 'online');
    await Promise.all([idle.ping(), active.ping()]);
    assert.equal(await status(server), 'online');
  }
  let stop = false;
  const chatter = (async () => {
    while (!stop) {
      say(idle, 'away');
      await idle.ping();
      say(active, 'online');
      await active.ping();
      await delay(5); // within the message rate
    }
  })();
  await throughout(500, async () => assert.equal(await status(server), 'online'), { every: 1 });
  stop = true;
  await chatter;
  await assertNeverLeft(server, 'u');
});

test('P15 online is more available than busy, busy more than away', async (t) => {
  const server = await start(t);
  const a = await connect(server, 'u');
  const b = await connect(server, 'u');
  const expected = {
    'away away': 'away',
    'away busy': 'busy',
    'busy away': 'busy',
    'busy busy': 'busy',
    'online busy': 'online',
    'away online': 'online',
  };
  for (const [pair, result] of Object.entries(expected)) {
    const [first, second] = pair.split(' ');
    say(a, first);
    say(b, second);
    await Promise.all([a.ping(), b.ping()]);
    assert.equal(await status(server), result, pair);
  }
  say(a, 'busy');
  say(b, 'online');
  await Promise.all([a.ping(), b.ping()]);
  await b.close();
  await becomes(server, 'busy'); // the one that is left decides
  await throughout(100 * window, async () => assert.equal(await status(server), 'busy'));
});

test('a new connection starts online, whatever the last one said', async (t) => {
  const server = await start(t);
  const first = await connect(server, 'u');
  say(first, 'away');
  await becomes(server, 'away');
  await first.close();
  await until('offline', async () => (await status(server)) === 'offline');
  await connect(server, 'u');
  assert.equal(await status(server), 'online');
});
