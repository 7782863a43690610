'use strict';
const assert = require('node:assert/strict');
const {
  test,
  start,
  connect,
  presence,
  stats,
  json,
  until,
  assertLeftOnce,
  assertNeverLeft,
  delay,
  timeline,
} = require('./lib');

test('P01 closing one of several tabs is no event until the last, then exactly one', async (t) => {
  const server = await start(t);
  const tabs = [];
  for (let i = 0; i < 3; i++) tabs.push(await connect(server, 'u'));
  const other = await connect(server, 'v');

  assert.equal(new Set([...tabs, other].map((one) => one.hello.connection_id)).size, 4);
  const totals = await stats(server);
  assert.equal(totals.users.online, 2);
  assert.equal(totals.connections.current, 4);
  const list = await json(server, '/admin/online-users');
  assert.equal(list.count, 2);
  assert.equal(list.connections, 4);
  assert.equal(list.next, null);
  assert.deepEqual(
    list.users.map((user) => [user.user_id, user.connections]),
    [
      ['u', 3],
      ['v', 1],
    ],
  );

  for (const left of [2, 1]) {
    await tabs.pop().close();
    await until(
      `${left} connections`,
      async () => (await presence(server, 'u')).connections === left,
    );
    const user = await presence(server, 'u');
    assert.deepEqual([user.online, user.source, user.status], [true, 'live', 'online']);
    await assertNeverLeft(server, 'u');
  }
  await tabs.pop().close();
  await until('u offline', async () => !(await presence(server, 'u')).online);
  await assertLeftOnce(server, 'u', 'closed');
  assert.equal((await presence(server, 'v')).online, true);
  assert.equal((await stats(server)).users.online, 1);
});

test('a tab that opens again after the last one closed starts a new stay', async (t) => {
  const server = await start(t);
  for (let stay = 1; stay <= 3; stay++) {
    const tab = await connect(server, 'u');
    await tab.close();
    await until('u offline', async () => !(await presence(server, 'u')).online);
    await delay(2); // stays that start in different milliseconds
  }
  const stays = await timeline(server, 'u');
  assert.deepEqual(
    stays.map((one) => one.reason),
    ['closed', 'closed', 'closed'],
  );
  for (let i = 1; i < stays.length; i++)
    assert.ok(stays[i].to <= stays[i - 1].from, 'newest first, no overlap');
});
