'use strict';
// Variants: asan tsan
const assert = require('node:assert/strict');
const {
  test,
  start,
  connect,
  del,
  presence,
  json,
  until,
  within,
  slow,
  assertLeftOnce,
  assertNeverLeft,
  throughout,
  rawConnect,
} = require('./lib');

test('a kick closes every connection with 4403, and the user is offline at once', async (t) => {
  const server = await start(t, { args: ['--grace', '1h'] });
  const clients = [
    await connect(server, 'u'),
    await connect(server, 'u'),
    await connect(server, 'u'),
  ];
  const other = await connect(server, 'v');
  const answer = await del(server, '/admin/users/u/connections');
  assert.equal(answer.status, 200, answer.text);
  assert.deepEqual(answer.json, { user_id: 'u', closed: 3 });
  for (const client of clients) {
    const { code } = await within(2000 * slow, 'the close', client.closed);
    assert.equal(code, 4403);
  }
  await until('offline', async () => !(await presence(server, 'u')).online);
  await assertLeftOnce(server, 'u', 'kicked');
  await throughout(100, () => assert.ok(other.open));
  await assertNeverLeft(server, 'v');
});

test('a kick does not wait for a client that never answers', async (t) => {
  const server = await start(t, { args: ['--grace', '1h'] });
  const silent = await rawConnect(server, 'u');
  await del(server, '/admin/users/u/connections');
  await until('offline', async () => !(await presence(server, 'u')).online, {
    within: 1000 * slow,
  });
  assert.equal(await silent.closeCode(), 4403);
  await until('the server to let go', () => silent.ended);
});

test('who was kicked has the session on the timeline at once, long before the store has it', async (t) => {
  const server = await start(t, { args: ['--sync-interval', '1m', '--grace', '0'] });
  const timeline = async () => (await json(server, '/admin/users/u/sessions')).sessions;
  await connect(server, 'u');
  const [{ from }] = await timeline();
  await del(server, '/admin/users/u/connections');
  const ended = await timeline();
  assert.deepEqual(ended.map((one) => [one.from, one.reason]), [[from, 'kicked']]);
  assert.ok(ended[0].to >= from);
  assert.equal((await json(server, '/admin/users/u')).sessions, 0, 'the store has none');
  const again = await connect(server, 'u');
  await again.close();
  const last = await timeline();
  assert.equal(last[0].reason, 'closed');
  await connect(server, 'v'); // who never left has one under way, and who is only followed none
  assert.equal((await json(server, '/admin/users/v/sessions')).sessions.length, 1);
});

test('kicking a known user without connections closes nothing', async (t) => {
  const server = await start(t);
  const client = await connect(server, 'u');
  await client.close();
  await until('offline', async () => !(await presence(server, 'u')).online);
  const answer = await del(server, '/admin/users/u/connections');
  assert.equal(answer.status, 200);
  assert.deepEqual(answer.json, { user_id: 'u', closed: 0 });
});

test('in a cluster, too, the session under way has its begin and where the user is, and its end at once', async (t) => {
  const server = await start(t, { args: ['--cluster', 'redis://127.0.0.1:1/test', '--sync-interval', '1m'],
    allow: [/level=warn msg="(--cluster: cannot reach|cluster: the engine is away)/] });
  const before = Date.now();
  await connect(server, 'u');
  const timeline = async () => (await json(server, '/admin/users/u/sessions')).sessions;
  const [under] = await timeline();
  assert.deepEqual([under.to, under.address], [null, '127.0.0.1']);
  assert.ok(Date.parse(under.from) >= before - 1 && Date.parse(under.from) <= Date.now(), JSON.stringify(under));
  await del(server, '/admin/users/u/connections');
  assert.deepEqual((await timeline()).map(({ from, reason }) => [from, reason]), [[under.from, 'kicked']]);
});
