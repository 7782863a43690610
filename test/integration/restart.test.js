'use strict';
// Variants: asan tsan
const assert = require('node:assert/strict');
const {
  test,
  sideBySide,
  start,
  tempDir,
  connect,
  heartbeat,
  presence,
  onlineUsers,
  sessions,
  stats,
  until,
  throughout,
  window,
  settled,
  assertLeftOnce,
  assertNeverLeft,
  timeline,
} = require('./lib');

const ARGS = ['--online-threshold', `${2000 * window}ms`];

sideBySide(() => {
  test('P04 after kill -9 users are cached, then offline exactly once, with the last last_seen before it', async (t) => {
    const data = tempDir(t);
    const first = await start(t, { data, args: ARGS });
    const client = await connect(first, 'u');
    await client.ping();
    await settled(first);
    const before = await presence(first, 'u');
    const [stay] = await sessions(first, 'u');
    await first.kill();

    const second = await start(t, { data, args: ARGS });
    const after = await presence(second, 'u');
    assert.deepEqual([after.online, after.source, after.connections], [true, 'cached', 0]);
    assert.ok(after.last_seen <= before.last_seen, 'nothing is invented');
    assert.ok(after.last_seen >= stay.from, 'the join is remembered');
    assert.deepEqual(
      (await onlineUsers(second)).map((user) => user.user_id).filter((id) => id === 'u'),
      ['u'],
    );
    assert.equal((await stats(second)).users.live, 0);
    await until('u offline', async () => !(await presence(second, 'u')).online);
    const gone = await presence(second, 'u');
    assert.equal(gone.last_seen, after.last_seen, 'last heard, not the time of noticing');
    assert.ok(
      Date.now() - Date.parse(gone.last_seen) >= 2000 * window - 50,
      'not before the threshold',
    );
    await assertLeftOnce(second, 'u', 'restart');
    await second.stop();

    const third = await start(t, { data, args: ARGS });
    assert.deepEqual(await presence(third, 'u'), gone);
    await assertLeftOnce(third, 'u', 'restart');
  });

  test('after SIGTERM the last_seen of the very end is kept', async (t) => {
    const data = tempDir(t);
    const first = await start(t, { data, args: ['--sync-interval', '1m'] });
    const client = await connect(first, 'u');
    await heartbeat(first, 'h');
    await client.ping();
    await client.close();
    const live = await connect(first, 'live');
    await live.ping();
    const before = [
      await presence(first, 'u'),
      await presence(first, 'h'),
      await presence(first, 'live'),
    ];
    await first.stop();
    const end = new Date().toISOString();

    const second = await start(t, { data, args: ['--online-threshold', '1h'] });
    const after = [
      await presence(second, 'u'),
      await presence(second, 'h'),
      await presence(second, 'live'),
    ];
    assert.equal(after[0].last_seen, before[0].last_seen);
    assert.equal(after[0].online, false);
    assert.equal(after[1].last_seen, before[1].last_seen);
    assert.deepEqual([after[1].online, after[1].source], [true, 'cached']);
    assert.ok(
      after[2].last_seen >= before[2].last_seen && after[2].last_seen <= end,
      'the answer to the close may count',
    );
    assert.deepEqual([after[2].online, after[2].source, after[2].connections], [true, 'cached', 0]);
    await assertLeftOnce(second, 'u', 'closed');
  });

  test('who comes back after a restart within the threshold never left', async (t) => {
    const data = tempDir(t);
    let server = await start(t, { data, args: ARGS });
    await connect(server, 'u');
    await settled(server);
    const [stay] = await sessions(server, 'u');
    for (const end of ['kill', 'stop']) {
      await server[end]();
      server = await start(t, { data, args: ARGS });
      assert.equal((await presence(server, 'u')).source, 'cached');
      await connect(server, 'u');
      assert.equal((await presence(server, 'u')).source, 'live');
    }
    await throughout(
      2200 * window,
      async () => assert.equal((await presence(server, 'u')).source, 'live'),
      { every: 50 },
    );
    await assertNeverLeft(server, 'u');
    assert.equal((await sessions(server, 'u'))[0].from, stay.from);
  });

  test('who was offline before a restart stays offline', async (t) => {
    const data = tempDir(t);
    const first = await start(t, { data, args: ARGS });
    const client = await connect(first, 'u');
    await client.close();
    const before = await until('u offline', async () => {
      const user = await presence(first, 'u');
      return !user.online && user;
    });
    await settled(first);
    await first.kill();
    const second = await start(t, { data, args: ARGS });
    assert.deepEqual(await presence(second, 'u'), before);
    assert.equal((await timeline(second, 'u')).length, 1);
  });
});
