'use strict';
const assert = require('node:assert/strict');
const {
  CLOCK,
  test,
  sideBySide,
  start,
  connect,
  heartbeat,
  presence,
  onlineUsers,
  json,
  post,
  until,
  throughout,
  slow,
  window,
  assertNeverLeft,
  assertLeftOnce,
  timeline,
} = require('./lib');

const THRESHOLD = 1000 * window; // the least there is
const ARGS = ['--online-threshold', `${THRESHOLD}ms`];

sideBySide(() => {
  test('a user of HTTP heartbeats is cached until the threshold, then offline with reason timeout', async (t) => {
    const server = await start(t, { args: ARGS });
    const before = Date.now();
    await heartbeat(server, 'h');
    const after = Date.now();
    const user = await presence(server, 'h');
    assert.deepEqual(
      [user.online, user.status, user.source, user.connections],
      [true, 'online', 'cached', 0],
    );
    const at = Date.parse(user.last_seen);
    assert.ok(at >= before - CLOCK && at <= after + CLOCK, user.last_seen);
    assert.deepEqual(
      (await onlineUsers(server)).map((one) => one.user_id),
      ['h'],
    );

    await until('offline', async () => !(await presence(server, 'h')).online);
    const gone = Date.now();
    assert.ok(
      gone - at >= THRESHOLD - 20 && gone - at < THRESHOLD + 2000 * slow,
      `offline after ${gone - at} ms`,
    );
    assert.equal((await presence(server, 'h')).last_seen, user.last_seen);
    assert.deepEqual(await onlineUsers(server), []);
    await assertLeftOnce(server, 'h', 'timeout');
  });

  test('heartbeats in time keep a user online in one stay; a late one starts the next', async (t) => {
    const server = await start(t, { args: ARGS });
    for (let i = 0; i < 6; i++) {
      await heartbeat(server, 'h');
      await throughout(THRESHOLD / 3, async () =>
        assert.equal((await presence(server, 'h')).online, true),
      );
    }
    await assertNeverLeft(server, 'h');
    await until('offline', async () => !(await presence(server, 'h')).online);
    await heartbeat(server, 'h');
    assert.equal((await presence(server, 'h')).online, true);
    const stays = await timeline(server, 'h');
    assert.deepEqual(
      stays.map((one) => one.reason),
      [null, 'timeout'],
    );
  });

  test('a heartbeat next to a socket leaves the socket in charge', async (t) => {
    const server = await start(t, { args: [...ARGS, '--grace', '100ms'] });
    const client = await connect(server, 'u');
    await heartbeat(server, 'u');
    assert.equal((await presence(server, 'u')).source, 'live');
    await throughout(THRESHOLD * 1.5, async () =>
      assert.equal((await presence(server, 'u')).source, 'live'),
    );
    await client.close(1000);
    await until('offline', async () => !(await presence(server, 'u')).online);
    await assertLeftOnce(server, 'u', 'closed');
  });

  test('a heartbeat takes any body a beacon may send', async (t) => {
    const server = await start(t);
    for (const [type, body] of [
      ['text/plain;charset=UTF-8', 'hello'],
      ['application/json', '{}'],
      ['application/x-www-form-urlencoded', 'a=b'],
      ['application/octet-stream', '\0'],
    ]) {
      const answer = await post(server, '/api/presence/beacon/heartbeat', body, {
        headers: { 'Content-Type': type },
      });
      assert.equal(answer.status, 204, type);
    }
    assert.equal((await presence(server, 'beacon')).online, true);
  });

  test('the threshold in force is told by the online list', async (t) => {
    const server = await start(t, { env: { ONLINE_THRESHOLD_SECONDS: '33' } });
    assert.equal((await json(server, '/admin/online-users')).online_threshold_seconds, 33);
  });
});
