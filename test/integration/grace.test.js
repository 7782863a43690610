'use strict';
// Variants: asan tsan
const assert = require('node:assert/strict');
const {
  test,
  sideBySide,
  start,
  connect,
  rawConnect,
  presence,
  until,
  throughout,
  slow,
  window,
  assertNeverLeft,
  assertLeftOnce,
  timeline,
} = require('./lib');

const GRACE = 600;
const ARGS = ['--grace', `${GRACE}ms`];

sideBySide(() => {
  test('a clean close 1000 is offline at once', async (t) => {
    const server = await start(t, { args: ['--grace', '1h'] });
    const client = await connect(server, 'u');
    assert.equal((await client.close(1000, 'logout')).code, 1000);
    const user = await until(
      'offline',
      async () => {
        const now = await presence(server, 'u');
        return !now.online && now;
      },
      { within: 500 * slow },
    );
    assert.ok(Date.now() - Date.parse(user.last_seen) < 500 * slow);
    await assertLeftOnce(server, 'u', 'closed');
  });

  // How the last connection can go, and the reason it gives when nobody returns.
  const ends = {
    'close 1001': { reason: 'closed', end: (client) => client.close(1001) },
    'close 4001': { reason: 'closed', end: (client) => client.close(4001) },
    'a reset': { reason: 'dropped', end: (client) => client.reset() },
    'an end without a close frame': {
      reason: 'dropped',
      end: (client) => client.socket._socket.end(),
    },
  };

  for (const [what, { reason, end }] of Object.entries(ends)) {
    test(`after ${what} the user is cached for the grace time, then offline with reason ${reason}`, async (t) => {
      const server = await start(t, { args: ARGS });
      const client = await connect(server, 'u');
      await client.ping();
      const began = Date.now();
      await end(client);
      const cached = await until(
        'cached',
        async () => {
          const user = await presence(server, 'u');
          return user.source === 'cached' && user;
        },
        { within: GRACE - 50 },
      );
      assert.deepEqual([cached.online, cached.status, cached.connections], [true, 'online', 0]);
      await until('offline', async () => !(await presence(server, 'u')).online);
      const took = Date.now() - began;
      assert.ok(took >= GRACE - 50 && took < GRACE + 700 * slow, `offline after ${took} ms`);
      const user = await presence(server, 'u');
      assert.equal(user.last_seen, cached.last_seen);
      assert.ok(
        Date.parse(user.last_seen) <= began + 100 * slow,
        'last_seen is not the time of noticing',
      );
      await assertLeftOnce(server, 'u', reason);
    });
  }

  test('P13 a reload within the grace time is no event', async (t) => {
    const server = await start(t, { args: ARGS });
    let client = await connect(server, 'u');
    for (const end of [...Object.values(ends), ...Object.values(ends)]) {
      await end.end(client);
      await until(
        'the old one to be gone',
        async () => (await presence(server, 'u')).source === 'cached',
      );
      client = await connect(server, 'u');
      assert.equal((await presence(server, 'u')).source, 'live');
    }
    await throughout(GRACE + 500, async () => {
      const user = await presence(server, 'u');
      assert.deepEqual([user.online, user.source, user.connections], [true, 'live', 1]);
    });
    await assertNeverLeft(server, 'u');
  });

  test('the grace time is counted from the last going, not the first', async (t) => {
    const server = await start(t, { args: ['--grace', `${2000 * window}ms`] });
    for (let i = 0; i < 3; i++) {
      const client = await connect(server, 'u');
      await throughout(700 * window, async () =>
        assert.equal((await presence(server, 'u')).source, 'live'),
      );
      await client.close(1001);
      await throughout(700 * window, async () =>
        assert.equal((await presence(server, 'u')).source, 'cached'),
      );
    }
    await until('offline', async () => !(await presence(server, 'u')).online);
    await assertLeftOnce(server, 'u', 'closed');
  });

  test('a clean close ends the grace time of a socket that was dropped before', async (t) => {
    const server = await start(t, { args: ['--grace', '1h'] });
    const dropped = await rawConnect(server, 'u');
    const last = await connect(server, 'u');
    dropped.reset();
    await until('one connection', async () => (await presence(server, 'u')).connections === 1);
    await last.close(1000);
    await until('offline', async () => !(await presence(server, 'u')).online);
    assert.equal((await timeline(server, 'u')).length, 1);
    await assertLeftOnce(server, 'u', 'closed');
  });
});
