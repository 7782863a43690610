'use strict';
// Variants: asan tsan
const assert = require('node:assert/strict');
const {
  test,
  start,
  connect,
  Follower,
  follow,
  get,
  json,
  presence,
  batch,
  heartbeat,
  request,
  until,
  run,
  tokenKey,
  bearer,
  putStatus,
  setStatus,
  still,
  slow,
  openEvents,
  assertNeverLeft,
  onlineUsers,
  sessions,
  delay,
} = require('./lib');

const status = async (server, id = 'u') => (await presence(server, id)).status;

test('a long status said right before the close is set, also where many others wait to be heard', async (t) => {
  const server = await start(t);
  const shy = await connect(server, 'shy');
  const others = await Promise.all(Array.from({ length: 40 }, (_, i) => connect(server, `other-${i}`)));
  server.signal('SIGSTOP'); // so that all of it is there at once
  shy.send({ type: 'status', manual: true, status: 'invisible', message: '\u{1F600}'.repeat(140) });
  const closed = shy.close();
  for (const other of others) other.send({ type: 'ping' });
  await delay(200);
  server.signal('SIGCONT');
  await closed;
  await connect(server, 'shy');
  assert.equal((await presence(server, 'shy')).online, false);
});

/** Holds that others see her offline, and the admin the truth. */
async function hidden(server, id, truth) {
  const shown = await presence(server, id);
  assert.deepEqual(
    { ...still(shown), message: undefined },
    {
      user_id: id,
      online: false,
      status: 'offline',
      source: 'stored',
      connections: 0,
      connected_at: null,
      last_seen: 0,
      message: undefined,
    },
  );
  assert.deepEqual((await batch(server, [id]))[0], shown);
  const admin = await json(server, `/admin/users/${id}`);
  assert.equal(admin.invisible, true);
  for (const [name, value] of Object.entries(truth)) assert.equal(admin[name], value, name);
  return shown;
}

test('P14 a manual status goes before the connections, and is one update', async (t) => {
  const server = await start(t, { args: ['--max-messages-per-second', '0'] });
  const a = await connect(server, 'u');
  const b = await connect(server, 'u');
  const me = await follow(server, 'me', ['u']);
  assert.equal((await setStatus(server, 'u', { status: 'away' })).status, 'away');
  assert.deepEqual(
    (await me.change()).map((user) => user.status),
    ['away'],
  );
  for (const says of ['busy', 'online', 'away', 'busy']) {
    a.send({ type: 'status', status: says });
    await a.ping();
    assert.equal(await status(server), 'away', says);
  }
  await b.close(); // the other one says busy
  await me.sees('u', (user) => user.connections === 1);
  assert.equal(await status(server), 'away');
  assert.equal((await setStatus(server, 'u', { status: null })).status, 'busy');
  await me.sees('u', (user) => user.status === 'busy');
  assert.ok(
    me.changes.flat().every((user) => user.online),
    'no leave, no join',
  );
  await assertNeverLeft(server, 'u');
});

test('P15 two devices that flip do not move a manual status', async (t) => {
  const server = await start(t, {
    args: ['--max-messages-per-second', '0', '--watch-interval', '0'],
  });
  const devices = [await connect(server, 'u'), await connect(server, 'u')];
  await setStatus(server, 'u', { status: 'busy' });
  const me = await follow(server, 'me', ['u']);
  for (let i = 0; i < 40; i++) {
    devices[i % 2].send({ type: 'status', status: i % 4 < 2 ? 'away' : 'online' });
    await devices[i % 2].ping();
    assert.equal(await status(server), 'busy');
  }
  await me.client.ping();
  assert.deepEqual(me.changes, []);
});

test('over the socket it is the same as over HTTP', async (t) => {
  const server = await start(t);
  const client = new Follower(await connect(server, 'u'));
  await client.watch(['u']);
  client.client.send({ type: 'status', status: 'busy', manual: true, message: 'in a meeting' });
  assert.equal((await client.sees('u', (user) => user.status === 'busy')).message, 'in a meeting');
  client.client.send({ type: 'status', status: 'away' }); // this connection's, under the manual one
  await client.client.ping();
  assert.equal(await status(server), 'busy');
  client.client.send({ type: 'status', status: null, manual: true });
  assert.equal((await client.sees('u', (user) => user.status === 'away')).message, undefined);
  client.client.send({ type: 'status', status: 'invisible', manual: true });
  await client.sees('u', (user) => !user.online);
  await hidden(server, 'u', { online: true, status: 'away', connections: 1 });
  assert.deepEqual(client.errors, []);
});

test('a message is shown everywhere, with or without a status', async (t) => {
  const server = await start(t);
  await connect(server, 'u');
  const me = await follow(server, 'me', ['u']);
  const text = `${'é'.repeat(136)}"\\😀x`; // 140 characters
  assert.equal((await setStatus(server, 'u', { status: null, message: text })).message, text);
  assert.equal((await me.change())[0].message, text);
  for (const user of [
    await presence(server, 'u'),
    (await onlineUsers(server)).find((one) => one.user_id === 'u'),
    (await json(server, '/admin/users?q=u')).users[0],
    await json(server, '/admin/users/u'),
  ])
    assert.equal(user.message, text);
  assert.equal((await presence(server, 'u')).status, 'online');
  await setStatus(server, 'u', { status: 'away', message: 'lunch' });
  assert.deepEqual(
    (await me.change()).map((user) => [user.status, user.message]),
    [['away', 'lunch']],
  );
  assert.equal((await setStatus(server, 'u', { status: 'away', message: '' })).message, undefined);
  assert.equal((await setStatus(server, 'u', { status: 'away', message: 'x' })).message, 'x');
  assert.equal(
    (await setStatus(server, 'u', { status: 'away', message: null })).message,
    undefined,
  );
  assert.equal('message' in (await presence(server, 'u')), false);
});

const WRONG = [
  [{ status: 'nope' }, 'invalid_status'],
  [{ status: 'offline' }, 'invalid_status'],
  [{ status: 5 }, 'invalid_status'],
  [{}, 'invalid_status'],
  [{ message: 'x' }, 'invalid_status'],
  [{ status: 'Busy' }, 'invalid_status'],
  [{ status: 'busy', message: 'x'.repeat(141) }, 'invalid_parameter'],
  [{ status: 'busy', message: 7 }, 'invalid_parameter'],
  [{ status: 'busy', message: 'a\nb' }, 'invalid_parameter'],
  [{ status: 'busy', message: 'a\u0085b' }, 'invalid_parameter'],
  [{ status: 'busy', message: '😀'.repeat(141) }, 'invalid_parameter'],
  [{ status: 'busy', expires_in: 0 }, 'invalid_parameter'],
  [{ status: 'busy', expires_in: -1 }, 'invalid_parameter'],
  [{ status: 'busy', expires_in: 1.5 }, 'invalid_parameter'],
  [{ status: 'busy', expires_in: '5' }, 'invalid_parameter'],
  [{ status: 'busy', expires_in: 31536001 }, 'invalid_parameter'],
];
test('what is wrong is refused, over HTTP and the socket, and changes nothing', async (t) => {
  const server = await start(t, { args: ['--max-messages-per-second', '0'] });
  const client = await connect(server, 'u');
  for (const [body, code] of WRONG) {
    const answer = await putStatus(server, 'u', body);
    assert.deepEqual([answer.status, answer.json.error.code], [400, code], JSON.stringify(body));
    client.send({ type: 'status', manual: true, ...body });
    assert.equal((await client.next('error')).code, code, JSON.stringify(body));
  }
  for (const body of ['', 'nope', '[1]x'])
    assert.equal(
      (await request(server, 'PUT', '/api/presence/u/status', { body })).json.error.code,
      'invalid_json',
    );
  for (const message of [
    { manual: 'yes', status: 'busy' },
    { status: 'busy', message: 'x' },
    { status: 'busy', expires_in: 5 },
  ]) {
    client.send({ type: 'status', ...message });
    assert.equal((await client.next('error')).code, 'invalid_parameter', JSON.stringify(message));
  }
  client.send({ type: 'status', status: 'invisible' });
  assert.equal((await client.next('error')).code, 'invalid_status', 'invisible is for manual only');
  assert.deepEqual(still(await presence(server, 'u')), {
    ...still(await presence(server, 'u')),
    status: 'online',
  });
  assert.equal('message' in (await presence(server, 'u')), false);
  for (const body of [
    { status: 'busy', expires_in: 31536000, message: '😀'.repeat(140) },
    { status: 'busy', expires_in: null },
  ])
    assert.equal((await putStatus(server, 'u', body)).status, 200, JSON.stringify(body));
});

test('the user herself and admins may set it, nobody else', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const own = bearer(await key.user('u'));
  await connect(server, 'u', own);
  assert.equal((await putStatus(server, 'u', { status: 'busy' }, own)).status, 200);
  assert.equal(
    (await putStatus(server, 'u', { status: 'away' }, bearer(await key.admin()))).json.status,
    'away',
  );
  for (const [sub, claims] of [
    ['v', {}],
    ['v', { watch: '*' }],
    ['U', {}],
  ]) {
    const answer = await putStatus(
      server,
      'u',
      { status: 'busy' },
      bearer(await key.user(sub, claims)),
    );
    assert.deepEqual([answer.status, answer.json.error.code], [403, 'forbidden'], sub);
  }
  assert.equal((await putStatus(server, 'u', { status: 'busy' })).status, 401);
  assert.equal(
    (await putStatus(server, 'nobody', { status: 'busy' }, bearer(await key.admin()))).json.error
      .code,
    'unknown_user',
  );
  const allowed = await request(server, 'GET', '/api/presence/u/status', bearer(await key.admin()));
  assert.deepEqual([allowed.status, allowed.headers.allow], [405, 'PUT']);
});

test('invisible: offline for all but admins; followers see a leave and a join', async (t) => {
  const server = await start(t);
  const client = await connect(server, 'u');
  const me = await follow(server, 'me', ['u']);
  const stream = await openEvents(server);
  const at = Date.now();
  const answer = await setStatus(server, 'u', { status: 'invisible' });
  assert.deepEqual(
    [answer.online, answer.status, answer.connections, answer.invisible],
    [true, 'online', 1, true],
  );
  const [left] = await me.change();
  assert.deepEqual([left.online, left.reason], [false, 'closed']);
  const shown = await hidden(server, 'u', {
    online: true,
    status: 'online',
    source: 'live',
    connections: 1,
  });
  assert.ok(Math.abs(Date.parse(shown.last_seen) - at) < 1000 * slow, shown.last_seen);
  const listed = (await onlineUsers(server)).find((user) => user.user_id === 'u');
  assert.deepEqual([listed.online, listed.invisible], [true, true]);
  const told = await stream.until('the change', () =>
    stream.events.find(({ data }) => data.user?.invisible),
  );
  assert.deepEqual([told.data.change, told.data.user.online], ['status', true]);
  await heartbeat(server, 'u');
  client.send({ type: 'status', status: 'away' });
  await (await connect(server, 'u')).close();
  await client.ping();
  assert.deepEqual(await presence(server, 'u'), shown, 'her last_seen stays where it was');
  assert.equal(me.changes.length, 1, 'and nobody hears of what she does');
  assert.equal((await setStatus(server, 'u', { status: null })).invisible, undefined);
  const [back] = await me.change();
  assert.deepEqual([back.online, back.status, back.connections], [true, 'away', 1]);
  await me.agrees(server);
  await assertNeverLeft(server, 'u');
});

test('invisible or not, last_seen is when she was heard, the same to all, and never goes back', async (t) => {
  const server = await start(t);
  const client = await connect(server, 'u');
  await client.ping();
  const heard = (await presence(server, 'u')).last_seen;
  const me = await follow(server, 'me', ['u']);
  const stream = await openEvents(server, { path: '/api/events' });
  await delay(50); // she is not heard, and somebody else hides her
  await setStatus(server, 'u', { status: 'invisible' });
  const told = await stream.until('the leave', () =>
    stream.events.find(({ data }) => data.change === 'leave'),
  );
  const [left] = await me.change();
  const shown = await presence(server, 'u');
  assert.deepEqual(
    [told.data.user.last_seen, left.last_seen, shown.last_seen],
    [heard, heard, heard],
  );
  await setStatus(server, 'u', { status: null });
  assert.equal((await presence(server, 'u')).last_seen, heard);
});

test('who is invisible leaves and comes unseen', async (t) => {
  const server = await start(t);
  const client = await connect(server, 'u');
  await setStatus(server, 'u', { status: 'invisible' });
  const me = await follow(server, 'me', ['u']);
  assert.equal(me.snapshots[0][0].online, false);
  const shown = await presence(server, 'u');
  await client.close();
  await until('offline', async () => !(await json(server, '/admin/users/u')).online);
  await until('stored', async () => (await sessions(server, 'u')).length === 1);
  assert.deepEqual(await presence(server, 'u'), shown);
  await connect(server, 'u');
  await hidden(server, 'u', { online: true, connections: 1 });
  assert.deepEqual(me.changes, []);
  await setStatus(server, 'u', { status: 'busy' });
  assert.deepEqual(
    (await me.change()).map((user) => [user.online, user.status]),
    [[true, 'busy']],
  );
});

test('it ends by itself: the automatic one is back, for followers too', async (t) => {
  const server = await start(t);
  const client = await connect(server, 'u');
  client.send({ type: 'status', status: 'away' });
  await client.ping();
  const me = await follow(server, 'me', ['u']);
  const at = Date.now();
  await setStatus(server, 'u', { status: 'busy', message: 'soon back', expires_in: 1 });
  await me.sees('u', (user) => user.status === 'busy');
  const user = await me.sees('u', (now) => now.status === 'away');
  assert.equal(user.message, undefined);
  assert.ok(Date.now() - at >= 1000, 'not before its time');
  await me.agrees(server);
  const manual = async () => (await json(server, '/admin/users/u')).manual;
  assert.equal(await manual(), null);
  const before = Date.now();
  await setStatus(server, 'u', { status: 'invisible', expires_in: 100 });
  const { status: set, until: end } = await manual();
  assert.equal(set, 'invisible');
  assert.ok(Date.parse(end) >= before + 99000 && Date.parse(end) <= Date.now() + 101000, end);
  await setStatus(server, 'u', { status: null, message: 'a message alone' });
  assert.deepEqual(await manual(), { status: null, until: null });
  await setStatus(server, 'u', { status: null });
  // Renewed before it ends, it goes on; made lasting, it stays.
  await setStatus(server, 'u', { status: 'busy', expires_in: 1 });
  await setStatus(server, 'u', { status: 'busy' });
  await setStatus(server, 'me', { status: 'away', expires_in: 1 });
  await me.watch(['me']);
  await me.sees('me', (one) => one.status === 'online');
  assert.equal(await status(server), 'busy');
});

test('set while offline it is shown on coming; its end is told while offline', async (t) => {
  const server = await start(t);
  await (await connect(server, 'u')).close();
  await until('stored', async () => (await sessions(server, 'u')).some((one) => one.to));
  const me = await follow(server, 'me', ['u']);
  const answer = await setStatus(server, 'u', { status: 'busy', message: 'on leave' });
  assert.deepEqual([answer.online, answer.status, answer.message], [false, 'offline', 'on leave']);
  assert.deepEqual(
    (await me.change()).map((user) => [user.online, user.message]),
    [[false, 'on leave']],
  );
  const client = await connect(server, 'u');
  await me.sees(
    'u',
    (user) => user.online && user.status === 'busy' && user.message === 'on leave',
  );
  await client.close();
  await setStatus(server, 'u', { status: 'busy', message: 'until then', expires_in: 1 });
  await me.sees('u', (user) => user.message === 'until then');
  await me.sees('u', (user) => !user.online && !user.message);
  await me.agrees(server);
  await connect(server, 'u');
  assert.equal(await status(server), 'online');
});

for (const how of ['stop', 'kill']) {
  test(`it is back after a restart (${how}), with what is left of its time`, async (t) => {
    let server = await start(t, { args: ['--online-threshold', '1h'] });
    for (const id of ['live', 'off', 'hid', 'short']) await connect(server, id);
    await (await connect(server, 'gone')).close();
    await setStatus(server, 'live', { status: 'busy', message: 'here' });
    await setStatus(server, 'gone', { status: 'away', message: 'out' });
    await setStatus(server, 'hid', { status: 'invisible' });
    await setStatus(server, 'short', { status: 'busy', expires_in: 2 });
    await setStatus(server, 'off', { status: 'busy' });
    await setStatus(server, 'off', { status: null });
    const shown = await presence(server, 'hid');
    if (how === 'kill') {
      const commits = async () => (await json(server, '/admin/stats')).counters.store_commits;
      await heartbeat(server, 'mark');
      await until(
        'the mark to be stored',
        async () => (await json(server, '/admin/users/mark')).first_seen && (await commits()) > 2,
      );
      const seen = await commits();
      await heartbeat(server, 'mark2');
      await until('a commit', async () => (await commits()) > seen);
      await server.kill();
    } else {
      await server.stop();
    }
    server = await start(t, { data: server.data, args: ['--online-threshold', '1h'] });
    const live = await presence(server, 'live');
    assert.deepEqual([live.source, live.status, live.message], ['cached', 'busy', 'here']);
    assert.equal((await presence(server, 'gone')).message, 'out');
    assert.equal(await status(server, 'off'), 'online');
    assert.deepEqual(await presence(server, 'hid'), shown);
    await hidden(server, 'hid', { online: true, source: 'cached' });
    await connect(server, 'gone');
    assert.equal(await status(server, 'gone'), 'away');
    await until('its end', async () => (await status(server, 'short')) === 'online', {
      within: 5000 * slow,
    });
  });
}

test('what has ended while the server was down is gone', async (t) => {
  const before = await start(t, { args: ['--online-threshold', '1h'] });
  await connect(before, 'u');
  await (await connect(before, 'v')).close();
  for (const id of ['u', 'v'])
    await setStatus(before, id, { status: 'busy', message: 'short', expires_in: 1 });
  const ends = Date.now() + 1000;
  await before.stop();
  await until('the end', () => Date.now() > ends);
  const server = await start(t, { data: before.data, args: ['--online-threshold', '1h'] });
  for (const id of ['u', 'v']) assert.equal('message' in (await presence(server, id)), false, id);
  assert.equal(await status(server), 'online');
  await connect(server, 'v');
  assert.equal(await status(server, 'v'), 'online');
});

test('--dump and --restore carry it, --check-store reads it', async (t) => {
  const server = await start(t);
  for (const id of ['a', 'b"\\', 'c']) await connect(server, id);
  await setStatus(server, 'a', { status: 'busy', message: 'é"\\', expires_in: 3600 });
  await setStatus(server, 'b"\\', { status: 'invisible' });
  await setStatus(server, 'c', { status: null, message: 'only this' });
  const shown = await batch(server, ['a', 'b"\\', 'c']);
  await server.stop();
  const dump = await run(['--dump', '--data', server.data]);
  const lines = dump.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  const manual = lines.filter((line) => line.manual);
  assert.deepEqual(
    manual.map((line) => [line.manual, line.status, line.message]),
    [
      ['a', 'busy', 'é"\\'],
      ['b"\\', 'invisible', ''],
      ['c', null, 'only this'],
    ],
  );
  assert.equal(lines.at(-1).manuals, 3);
  const fs = require('node:fs');
  const other = `${server.data}-restored`;
  t.after(() => fs.rmSync(other, { recursive: true, force: true }));
  fs.writeFileSync(`${server.data}/dump`, dump.stdout);
  const restored = await run(['--restore', `${server.data}/dump`, '--data', other]);
  assert.deepEqual([restored.code, restored.stderr], [0, '']);
  assert.deepEqual((await run(['--dump', '--data', other])).stdout, dump.stdout);
  assert.match((await run(['--check-store', '--data', other])).stdout, /^store ok: 3 users/);
  const again = await start(t, { data: other });
  const cached = shown.map((user) =>
    user.online ? { ...user, source: 'cached', connections: 0 } : user,
  );
  assert.deepEqual(
    (await batch(again, ['a', 'b"\\', 'c'])).map((user) => ({ ...user, last_seen: 0 })),
    cached.map((user) => ({ ...user, last_seen: 0 })),
  );
});

test('heartbeats and many commits do not lose it', async (t) => {
  const server = await start(t, { args: ['--sync-interval', '10ms', '--online-threshold', '1s'] });
  for (let i = 0; i < 5; i++) await heartbeat(server, `u${i}`);
  for (let i = 0; i < 5; i++)
    await setStatus(server, `u${i}`, { status: 'busy', message: `m${i}` });
  for (let round = 0; round < 30; round++) {
    const id = `u${round % 5}`;
    const client = await connect(server, id);
    const user = await presence(server, id);
    assert.deepEqual([user.status, user.message], ['busy', `m${round % 5}`], `round ${round}`);
    await client.close();
    await heartbeat(server, `x${round}`);
    if (round % 3 === 0)
      await until(
        'left',
        async () => (await get(server, `/api/presence/${id}`)).json.online === false,
      );
  }
});
