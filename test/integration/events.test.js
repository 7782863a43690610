'use strict';
// Variants: asan tsan
// /admin/events: every change once, in order, and what a stream is told when it comes back.
const fs = require('node:fs');
const assert = require('node:assert/strict');
const {
  test,
  start,
  startSecure,
  connect,
  heartbeat,
  openEvents,
  position,
  get,
  del,
  request,
  json,
  stats,
  until,
  tcp,
  tokenKey,
  bearer,
  passwordFile,
  hashPassword,
  login,
  seconds,
  rawConnect,
  frame,
  closePayload,
  OP,
  slow,
  hurried,
} = require('./lib');

/** The next change, as [change, user id, reason]. */
const told = async (stream) => {
  const { event, data } = await stream.next();
  return event === 'reset' ? ['reset'] : [data.change, data.user.user_id, data.reason];
};

test('a new stream begins with retry and a reset, then tells each change with the user as of it', async (t) => {
  const server = await start(t, { args: ['--grace', '100ms'] });
  const stream = await openEvents(server);
  const { headers } = stream.response;
  assert.equal(headers['content-type'], 'text/event-stream; charset=utf-8');
  assert.equal(headers['cache-control'], 'no-store');
  assert.equal(headers['x-accel-buffering'], 'no');
  assert.equal(headers['content-length'], undefined);
  assert.equal(headers.connection, 'close');
  const reset = await stream.next();
  assert.equal(stream.retry, 2000);
  assert.equal(reset.event, 'reset');
  assert.deepEqual(Object.keys(reset.data), ['position', 'generated_at']);
  assert.equal(position(reset.id).sequence, 0);

  const first = await connect(server, 'al"ice');
  const join = await stream.next();
  assert.deepEqual(
    [join.data.change, join.data.user.user_id, join.data.user.connections],
    ['join', 'al"ice', 1],
  );
  assert.equal(position(join.id).sequence, 1);
  const second = await connect(server, 'al"ice');
  const more = await stream.next();
  assert.deepEqual(
    [more.data.change, more.data.user.connections, more.data.user.source],
    ['connections', 2, 'live'],
  );
  first.send({ type: 'status', status: 'away' });
  second.send({ type: 'status', status: 'busy' });
  const status = await stream.next();
  assert.deepEqual([status.data.change, status.data.user.status], ['status', 'busy']);
  await second.close();
  const fewer = await stream.next();
  assert.deepEqual(
    [fewer.data.change, fewer.data.user.status, fewer.data.user.connections],
    ['status', 'away', 1],
  );
  first.socket.terminate();
  const cached = await stream.next();
  assert.deepEqual(
    [cached.data.change, cached.data.user.source, cached.data.user.connections],
    ['connections', 'cached', 0],
  );
  const leave = await stream.next();
  assert.deepEqual(
    [leave.data.change, leave.data.reason, leave.data.user.source, leave.data.user.connected_at],
    ['leave', 'dropped', 'stored', null],
  );
  await heartbeat(server, 'bob');
  assert.deepEqual(await told(stream), ['join', 'bob', null]);
  await del(server, '/admin/users/bob/connections');
  assert.deepEqual(await told(stream), ['leave', 'bob', 'kicked']);
  assert.equal(position(stream.lastId).sequence, 8);
  assert.equal((await json(server, '/admin/stats')).position, stream.lastId);
});

test('changes of the same moment are told apart, each with its own state', async (t) => {
  const server = await start(t);
  const stream = await openEvents(server);
  await stream.next();
  const raw = await rawConnect(server, 'u');
  const says = (status) => frame(OP.text, JSON.stringify({ type: 'status', status }));
  raw.write(...['away', 'busy', 'online', 'busy'].map(says), frame(OP.close, closePayload(1000)));
  const events = [];
  for (let i = 0; i < 6; i++) events.push((await stream.next()).data);
  assert.deepEqual(
    events.map((one) => [one.change, one.user.status, one.user.online]),
    [
      ['join', 'online', true],
      ['status', 'away', true],
      ['status', 'busy', true],
      ['status', 'online', true],
      ['status', 'busy', true],
      ['leave', 'offline', false],
    ],
  );
});

test('a stream that comes back gets what it missed, by header or by query, and no reset', async (t) => {
  const server = await start(t);
  const stream = await openEvents(server);
  await stream.next();
  for (const id of ['a', 'b', 'c']) await heartbeat(server, id);
  for (const id of ['a', 'b']) assert.deepEqual(await told(stream), ['join', id, null]);
  const lastId = stream.events[2].id;
  stream.cut();
  await heartbeat(server, 'd');
  for (const options of [{ lastId }, { query: `?last_event_id=${lastId}` }]) {
    const again = await openEvents(server, options);
    assert.deepEqual(
      [await told(again), await told(again)],
      [
        ['join', 'c', null],
        ['join', 'd', null],
      ],
    );
    assert.equal(again.retry, 2000);
    again.cut();
  }
  const listed = await json(server, '/admin/online-users'); // the position of a list will do
  const behind = await openEvents(server, { lastId: listed.position });
  await heartbeat(server, 'e');
  assert.deepEqual(await told(behind), ['join', 'e', null]);
});

test('a stream that cannot go on gets a reset', async (t) => {
  const server = await start(t, { args: ['--events', '3'] });
  const stream = await openEvents(server);
  const begin = (await stream.next()).id;
  for (const id of ['a', 'b', 'c', 'd']) await heartbeat(server, id);
  for (let i = 0; i < 4; i++) await stream.next();
  const { epoch } = position(begin);
  const other = epoch.replace(/^./, (digit) => (digit === '0' ? '1' : '0'));
  const bad = [
    begin,
    `${other}-4`,
    `${epoch}-5`,
    `${epoch}-99999999999999999999`,
    `${epoch}-04`,
    `${epoch}-`,
    epoch,
    'x',
    `${epoch}-4x`,
    `${epoch}-${'4'.repeat(200)}`,
  ];
  for (const lastId of bad) {
    const again = await openEvents(server, { lastId });
    const first = await again.next();
    assert.deepEqual([first.event, first.id], ['reset', `${epoch}-4`], lastId);
    again.cut();
  }
  const good = await openEvents(server, { lastId: `${epoch}-1` }); // 2, 3 and 4 are kept
  assert.deepEqual(
    [(await good.next()).id, (await good.next()).id, (await good.next()).id],
    [`${epoch}-2`, `${epoch}-3`, `${epoch}-4`],
  );
  const now = await openEvents(server, { lastId: `${epoch}-4` });
  await heartbeat(server, 'e');
  assert.equal((await now.next()).id, `${epoch}-5`);
});

test('another run of the server is another epoch: a reset', async (t) => {
  const server = await start(t);
  await heartbeat(server, 'a');
  const before = (await json(server, '/admin/online-users')).position;
  await server.stop();
  const next = await start(t, { data: server.data });
  await heartbeat(next, 'b');
  const stream = await openEvents(next, { lastId: before });
  const first = await stream.next();
  assert.equal(first.event, 'reset');
  assert.notEqual(position(first.id).epoch, position(before).epoch);
});

test('a stop ends streams cleanly, with everything said', async (t) => {
  const server = await startSecure(t);
  const streams = [await openEvents(server), await openEvents(server.secure)];
  const client = await connect(server, 'u');
  client.socket.on('close', () => {});
  for (const stream of streams) {
    await stream.next();
    await stream.next();
  }
  const stopped = server.stop();
  for (const stream of streams) {
    await stream.closed;
    assert.ok(stream.whole && stream.rest === '' && !stream.problem, `${stream.problem}`);
    assert.equal(stream.events.length, 2);
  }
  await stopped;
});

test('over TLS the same events arrive', async (t) => {
  const server = await startSecure(t);
  const [plain, secure] = [await openEvents(server), await openEvents(server.secure)];
  for (let i = 0; i < 50; i++) await heartbeat(server, `user-${i}`);
  const end = (await json(server, '/admin/stats')).position;
  await Promise.all([plain.reach(end), secure.reach(end)]);
  assert.deepEqual(secure.events.slice(1), plain.events.slice(1));
  assert.equal(plain.events.length, 51);
});

test('HTTP/1.0 and a request behind it in the same segment', async (t) => {
  const server = await start(t);
  const raw = await tcp(server);
  raw.write('GET /admin/events HTTP/1.0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
  const head = await raw.head();
  assert.deepEqual(
    [head.status, head.headers['content-length'], head.headers.connection],
    [200, undefined, 'close'],
  );
  await raw.read('the reset', () => (raw.bytes.includes('event: reset') ? true : undefined));
  await heartbeat(server, 'a');
  await raw.read('the join', () => (raw.bytes.includes('"change":"join"') ? true : undefined));
  assert.ok(!raw.bytes.includes('"status":"ok"'));
  raw.socket.end(); // a client that ends its half has gone
  await until('the stream to end', async () => (await stats(server)).connections.streams === 0);
});

test('HEAD answers the head only, other methods are refused', async (t) => {
  const server = await start(t, { args: ['--max-connections', '1'] });
  const stream = await openEvents(server); // takes the only place
  const raw = await tcp(server);
  raw.write(
    'HEAD /admin/events HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n',
  );
  const head = await raw.head();
  assert.deepEqual(
    [head.status, head.headers['content-type'], head.headers['content-length']],
    [200, 'text/event-stream; charset=utf-8', undefined],
  );
  const health = await raw.head();
  assert.equal(health.status, 200);
  const post = await request(server, 'POST', '/admin/events');
  assert.deepEqual([post.status, post.headers.allow], [405, 'GET, HEAD']);
  stream.cut();
});

test('streams count as connections, and are counted', async (t) => {
  const server = await start(t, { args: ['--max-connections', '3'] });
  const streams = [await openEvents(server), await openEvents(server)];
  await connect(server, 'u');
  const refused = await openEvents(server).then(
    () => assert.fail('was let in'),
    (error) => error,
  );
  assert.deepEqual([refused.status, refused.json.error.code], [503, 'overloaded']);
  const { connections, counters } = await stats(server);
  assert.deepEqual([connections.streams, connections.sockets, connections.current], [2, 3, 1]);
  assert.deepEqual([counters.streams_opened, counters.streams_dropped, counters.closes], [2, 0, 0]);
  assert.match((await get(server, '/metrics')).text, /^presence_streams 2$/m);
  streams[0].cut();
  await until('its place', async () => (await stats(server)).connections.streams === 1);
  const again = await openEvents(server);
  assert.equal((await again.next()).event, 'reset');
});

test('only admins; the stream ends when the token does', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  for (const [headers, status] of [
    [{}, 401],
    [bearer(await key.user('u')).headers, 403],
  ]) {
    const refused = await openEvents(server, { headers }).then(
      () => assert.fail('was let in'),
      (error) => error,
    );
    assert.equal(refused.status, status);
  }
  const exp = seconds() + 2;
  const short = await openEvents(server, bearer(await key.admin({ exp })));
  const long = await openEvents(server, bearer(await key.admin()));
  await short.closed;
  assert.ok(short.whole && !short.problem);
  assert.ok(Date.now() / 1000 >= exp - 0.01, 'not before its time');
  await heartbeat(server, 'u', bearer(await key.user('u')));
  await long.until('the join', () => long.events.length === 2);
  const { connections } = await json(server, '/admin/stats', bearer(await key.admin()));
  assert.equal(connections.streams, 1);
});

test('silence is broken by a comment, between events', { timeout: 40000 * slow }, async (t) => {
  const server = await startSecure(t, { env: hurried(t, 5) });
  const streams = [await openEvents(server), await openEvents(server.secure)];
  await Promise.all(
    streams.map((stream) => stream.until('a comment', () => stream.comments === 1, 25000 * slow)),
  );
  await heartbeat(server, 'a');
  for (const stream of streams) await stream.until('the join', () => stream.events.length === 2);
});

test('the root page is the demo without a key and a plain page with one; /admin is sent on', async (t) => {
  const open = await start(t);
  const key = tokenKey(t);
  const closed = await start(t, { args: key.args });
  assert.equal((await get(open, '/')).text, (await get(open, '/index.html')).text);
  const page = await get(closed, '/');
  assert.deepEqual([page.status, page.headers['content-security-policy']], [200, "default-src 'self'; base-uri 'none'; frame-ancestors 'none'"]);
  assert.equal(page.text, (await get(closed, '/closed.html')).text);
  assert.notEqual(page.text, (await get(closed, '/index.html')).text);
  assert.match(page.text, /href="\/admin\/"/);
  assert.doesNotMatch(page.text, /<style|<script|style=/);
  assert.equal(
    (await get(closed, '/closed.css')).headers['content-type'],
    'text/css; charset=utf-8',
  );
  for (const server of [open, closed]) {
    const raw = await tcp(server);
    raw.write('GET /admin HTTP/1.1\r\nHost: localhost\r\n\r\n');
    const head = await raw.head();
    assert.deepEqual([head.status, head.headers.location], [308, 'admin/'], 'also behind a path');
    raw.destroy();
  }
});

test('a logout ends the streams of sessions: the others come back and miss nothing; tokens are not concerned', async (t) => {
  const key = tokenKey(t);
  const password = passwordFile(t, 'secret');
  const server = await start(t, { args: [...key.args, ...password.args], allow: [/level=info/] });
  const [gone, stays] = [await login(server, 'secret'), await login(server, 'secret')];
  const byToken = await openEvents(server, bearer(await key.admin()));
  const streams = [await openEvents(server, gone), await openEvents(server, stays)];
  for (const stream of [byToken, ...streams]) assert.equal((await stream.next()).event, 'reset');
  assert.equal((await request(server, 'POST', '/admin/logout', gone)).status, 204);
  for (const stream of streams) {
    await stream.closed;
    assert.ok(stream.whole);
  }
  assert.equal((await get(server, '/admin/events', gone)).status, 401);
  await connect(server, 'u', bearer(await key.user('u')));
  const again = await openEvents(server, { ...stays, lastId: streams[1].lastId });
  for (const stream of [again, byToken]) assert.equal((await stream.next()).data.change, 'join');

  fs.writeFileSync(password.file, hashPassword('other'));
  server.signal('SIGHUP');
  await again.closed;
  assert.ok(!byToken.over, 'a changed password ends sessions only');
  assert.equal((await request(server, 'POST', '/admin/logout')).status, 204, 'no session, no end');
  assert.ok(!byToken.over);
});
