'use strict';
const assert = require('node:assert/strict');
const {
  test,
  unique,
  start,
  connect,
  json,
  get,
  stats,
  presence,
  checkUser,
  until,
  ISO,
  heartbeat,
  timeline,
} = require('./lib');

test('one user in detail: every connection with address, agent, since, last heard, status', async (t) => {
  const server = await start(t);
  const before = Date.now();
  const first = await connect(server, 'u', {
    headers: { 'User-Agent': 'Browser/1.0' },
    localAddress: '127.0.0.33',
  });
  const second = await connect(server, 'u');
  first.send({ type: 'status', status: 'away' });
  await first.ping();
  const detail = checkUser(await json(server, '/admin/users/u'));
  assert.deepEqual([detail.connections, detail.status], [2, 'online']);
  assert.match(detail.first_seen, ISO);
  const byId = new Map(detail.connection_list.map((one) => [one.connection_id, one]));
  assert.deepEqual(
    new Set(byId.keys()),
    new Set([first.hello.connection_id, second.hello.connection_id]),
  );
  const mine = byId.get(first.hello.connection_id);
  assert.deepEqual(
    [mine.address, mine.agent, mine.status, mine.round_trip_ms],
    ['127.0.0.33', 'Browser/1.0', 'away', null],
  );
  assert.equal(mine.port, first.socket._socket.localPort);
  for (const one of byId.values()) {
    assert.ok(
      Date.parse(one.connected_at) >= before - 1 && one.connected_at <= one.last_heard,
      JSON.stringify(one),
    );
    assert.ok(one.last_heard <= detail.last_seen, JSON.stringify(detail));
  }
  assert.equal(byId.get(second.hello.connection_id).status, 'online');
  const earliest = [...byId.values()].map((one) => one.connected_at).sort()[0];
  assert.equal(detail.connected_at, earliest, 'since the first connection of the stay');

  await first.close();
  await second.close();
  await until('offline', async () => !(await presence(server, 'u')).online);
  const gone = checkUser(await json(server, '/admin/users/u'));
  assert.deepEqual(gone.connection_list, []);
  assert.equal(gone.first_seen, detail.first_seen);
});

test('the same user object everywhere', async (t) => {
  const server = await start(t);
  await connect(server, 'u');
  await heartbeat(server, 'h');
  await (await connect(server, 'gone')).close();
  await until('gone', async () => !(await presence(server, 'gone')).online);
  await timeline(server, 'gone');
  const all = (await json(server, '/admin/users?limit=1000')).users.filter(
    (user) => !user.user_id.startsWith('~'),
  );
  assert.deepEqual(
    all.map((user) => user.user_id),
    ['gone', 'h', 'u'],
  );
  for (const user of all) {
    const single = await presence(server, user.user_id);
    assert.deepEqual(user, single);
    assert.deepEqual(Object.keys(single), [
      'user_id',
      'online',
      'status',
      'source',
      'connections',
      'connected_at',
      'last_seen',
    ]);
    const detail = await json(server, `/admin/users/${user.user_id}`);
    for (const key of Object.keys(single)) assert.deepEqual(detail[key], single[key], key);
  }
  const online = (await json(server, '/admin/online-users')).users;
  assert.deepEqual(
    online,
    all.filter((user) => user.online),
  );
});

test('stats hold the totals, limits, memory and store', async (t) => {
  const server = await start(t, { args: ['--max-connections', '77'] });
  await connect(server, 'u');
  await connect(server, 'u');
  await heartbeat(server, 'h');
  const found = await stats(server);
  assert.match(found.version, /^\d+\.\d+/);
  assert.ok(found.uptime_seconds >= 0 && found.uptime_seconds < 600);
  assert.deepEqual([found.users.online, found.users.live, found.users.cached], [2, 1, 1]);
  assert.deepEqual([found.connections.current, found.connections.limit], [2, 77]);
  assert.equal(typeof found.connections.pending, 'number');
  assert.equal(found.store.writable, true);
  for (const group of ['counters', 'memory', 'limits'])
    assert.equal(typeof found[group], 'object', group);
  assert.deepEqual(Object.keys(found.limit_units), Object.keys(found.limits));
  const { limit_units: units } = found;
  assert.deepEqual(['webhook-batch', 'grace', 'map-size', 'max-connections'].map((name) => units[name]),
    ['count', 'ms', 'bytes', 'count']);
  for (const [name, value] of Object.entries(found.counters))
    assert.ok(Number.isSafeInteger(value) && value >= 0, `${name}: ${value}`);
});

test.anywhere('health and readiness', async (t) => {
  const server = await start(t);
  const health = await get(server, '/healthz');
  assert.deepEqual([health.status, health.json], [200, { status: 'ok' }]);
  const ready = await get(server, '/readyz');
  assert.deepEqual([ready.status, ready.json.status], [200, 'ready']);
});

test('metrics are Prometheus text, each series told once with help and type', async (t) => {
  const server = await start(t);
  await connect(server, unique('u'));
  const answer = await get(server, '/metrics');
  assert.equal(answer.status, 200);
  assert.match(answer.headers['content-type'], /^text\/plain; version=0\.0\.4/);
  assert.ok(answer.text.endsWith('\n'));
  const types = new Map();
  const series = new Set();
  for (const line of answer.text.trimEnd().split('\n')) {
    const comment = /^# (HELP|TYPE) (presence_\w+|process_\w+) (.+)$/.exec(line);
    if (comment) {
      if (comment[1] === 'TYPE') {
        assert.match(comment[3], /^(counter|gauge|histogram|summary)$/);
        assert.ok(!types.has(comment[2]), line);
        types.set(comment[2], comment[3]);
      }
      continue;
    }
    const sample =
      /^((?:presence|process)_\w+)(\{[^}]*\})? (-?\d+(?:\.\d+)?(?:e[+-]?\d+)?|NaN|\+Inf)$/.exec(
        line,
      );
    assert.ok(sample, line);
    assert.ok(
      types.has(sample[1].replace(/_(bucket|sum|count)$/, '')) || types.has(sample[1]),
      `no TYPE before ${line}`,
    );
    if (types.get(sample[1]) === 'counter') assert.match(sample[1], /_total$/);
    assert.ok(!series.has(sample[1] + (sample[2] || '')), `twice: ${line}`);
    series.add(sample[1] + (sample[2] || ''));
  }
  assert.ok(series.size > 10);
});
