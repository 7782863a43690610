'use strict';
const assert = require('node:assert/strict');
const {
  test,
  start,
  rawConnect,
  connect,
  heartbeat,
  presence,
  json,
  get,
  post,
  batch,
  sessions,
  until,
  OP,
  frame,
  closePayload,
  stats,
  assertLeftOnce,
  ISO,
  CLOCK,
  del,
} = require('./lib');

const seen = async (server, id) => Date.parse((await presence(server, id)).last_seen);

/** Does something as the user; last_seen must come to lie within it. */
async function movesLastSeen(server, id, what, act) {
  while (Date.now() <= (await seen(server, id)) + CLOCK)
    await new Promise((resolve) => setTimeout(resolve, 1));
  const before = Date.now();
  await act();
  await until(`${what} moves last_seen`, async () => {
    const at = await seen(server, id);
    return at >= before - CLOCK && at <= Date.now() + CLOCK;
  });
}

test('last_seen moves with every byte the user sends', async (t) => {
  const server = await start(t);
  const raw = await rawConnect(server, 'u');
  await movesLastSeen(server, 'u', 'a bare ping', () => raw.ping());
  await movesLastSeen(server, 'u', 'a message', () =>
    raw.write(frame(OP.text, '{"type":"status","status":"away"}')),
  );
  await movesLastSeen(server, 'u', 'a refused message', () =>
    raw.write(frame(OP.text, 'nonsense')),
  );
  await movesLastSeen(server, 'u', 'a ping frame', () => raw.write(frame(OP.ping, 'x')));
  await movesLastSeen(server, 'u', 'an unasked pong frame', () => raw.write(frame(OP.pong, 'x')));
  const long = frame(OP.text, JSON.stringify({ type: 'ping', pad: 'x'.repeat(100) }));
  await movesLastSeen(server, 'u', 'half a header', () => raw.write(long.subarray(0, 1)));
  await movesLastSeen(server, 'u', 'half a payload', () => raw.write(long.subarray(1, 50)));
  await movesLastSeen(server, 'u', 'the other half', () => raw.write(long.subarray(50)));
  await movesLastSeen(server, 'u', 'an HTTP heartbeat', () => heartbeat(server, 'u'));
  await movesLastSeen(server, 'u', 'a clean close', () =>
    raw.write(frame(OP.close, closePayload(1000))),
  );
  await until('offline', async () => !(await presence(server, 'u')).online);
});

test('last_seen is the last time heard, not the time of noticing', async (t) => {
  const server = await start(t, { args: ['--ping-interval', '400ms', '--pong-timeout', '800ms'] });
  const raw = await rawConnect(server, 'u');
  const before = Date.now();
  await raw.ping();
  const after = Date.now();
  assert.equal(await raw.closeCode(), 4408);
  await until('offline', async () => !(await presence(server, 'u')).online);
  const at = await seen(server, 'u');
  assert.ok(at >= before - CLOCK && at <= after + CLOCK, `${before} <= ${at} <= ${after}`);
  assert.ok(Date.now() - at >= 1200 - 50, 'not before interval and timeout');
  await assertLeftOnce(server, 'u', 'timeout');
});

test('being asked about, or answered to, is no sign of life', async (t) => {
  const server = await start(t);
  await connect(server, 'u');
  const at = await seen(server, 'u');
  for (let i = 0; i < 20; i++) await batch(server, ['u']);
  await json(server, '/admin/users/u');
  assert.equal(await seen(server, 'u'), at);
});

for (const TZ of ['XXX-12:45', 'YYY+11', 'Asia/Kathmandu', ':/no/such/zone']) {
  test(`P06 times are UTC under TZ=${TZ}, never in the future, in every place`, async (t) => {
    const server = await start(t, { env: { TZ } });
    const started = Date.now();
    const client = await connect(server, 'u');
    await client.ping();
    client.send({ type: 'ping' });
    const times = [(await client.next('pong')).time];
    const user = await presence(server, 'u');
    times.push(user.last_seen, user.connected_at);
    const list = await json(server, '/admin/online-users');
    times.push(list.generated_at);
    assert.ok(list.users[0].last_seen <= list.generated_at);
    const detail = await json(server, '/admin/users/u');
    times.push(
      detail.connection_list[0].connected_at,
      detail.connection_list[0].last_heard,
      detail.first_seen,
    );
    times.push(
      await until('the stay on record', async () => (await sessions(server, 'u'))[0]?.from),
    );
    for (const time of times) {
      assert.match(time, ISO);
      assert.ok(
        Date.parse(time) >= started - CLOCK && Date.parse(time) <= Date.now() + CLOCK,
        `${time} is not about now`,
      );
    }
  });
}

test('P06 a user never seen has no time, is 404, and asking creates nothing', async (t) => {
  const server = await start(t);
  for (const path of ['/api/presence/ghost', '/admin/users/ghost', '/admin/users/ghost/sessions']) {
    const answer = await get(server, path);
    assert.equal(answer.status, 404, path);
    assert.equal(answer.json.error.code, 'unknown_user', path);
  }
  const [ghost] = await batch(server, ['ghost']);
  assert.deepEqual(ghost, {
    user_id: 'ghost',
    online: false,
    status: 'offline',
    source: 'stored',
    connections: 0,
    connected_at: null,
    last_seen: null,
  });
  const kick = await del(server, '/admin/users/ghost/connections');
  assert.equal(kick.status, 404);
  assert.equal((await post(server, '/api/presence/ghost', undefined)).status, 405);
  const again = await get(server, '/api/presence/ghost');
  assert.equal(again.status, 404);
  assert.deepEqual((await json(server, '/admin/users')).users, []);
  const { users } = await stats(server);
  assert.deepEqual([users.online, users.live, users.cached], [0, 0, 0]);
});
