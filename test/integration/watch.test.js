'use strict';
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
  request,
  heartbeat,
  del,
  until,
  tokenKey,
  bearer,
  setStatus,
  still,
  slow,
  heavy,
  crowd,
  stats,
  frame,
  rawConnect,
  OP,
} = require('./lib');

const FAST = ['--max-messages-per-second', '0'];
const ids = (count, prefix = 'u') => Array.from({ length: count }, (_, i) => `${prefix}${i}`);
const metric = async (server, name) =>
  Number(
    new RegExp(`^presence_${name} (\\d+)$`, 'm').exec((await get(server, '/metrics')).text)[1],
  );

/** An error, and nothing else, is the answer; the connection stays. */
async function refused(follower, message, code) {
  const [before, errors] = [follower.snapshots.length, follower.errors.length];
  follower.client.send(message);
  await follower.client.ping();
  assert.equal(
    await follower.until('an error', () => follower.errors[errors]),
    code,
    JSON.stringify(message),
  );
  await follower.client.ping();
  assert.equal(follower.snapshots.length, before);
}

test('a snapshot has exactly the users asked for, each once, in order', async (t) => {
  const server = await start(t);
  await connect(server, 'bob');
  await heartbeat(server, 'carol');
  await (await connect(server, 'gone')).close();
  const asked = ['gone', 'bob', 'never', 'me', 'carol'];
  const me = new Follower(await connect(server, 'me'));
  const told = await me.watch([...asked, 'bob', 'never']);
  assert.deepEqual(
    told.map((user) => user.user_id),
    asked,
  );
  assert.deepEqual(
    told.map((user) => user.source),
    ['stored', 'live', 'stored', 'live', 'cached'],
  );
  assert.deepEqual(told[2], {
    user_id: 'never',
    online: false,
    status: 'offline',
    source: 'stored',
    connections: 0,
    connected_at: null,
    last_seen: null,
  });
  await me.agrees(server);
  assert.equal((await get(server, '/api/presence/never')).status, 404, 'asking makes nobody known');
  assert.equal(await metric(server, 'watching'), 5);
});

test('who is only in the store is shown as the API shows her', async (t) => {
  const before = await start(t);
  await (await connect(before, 'old')).close();
  await setStatus(before, 'old', { status: null, message: 'gone fishing' });
  await before.stop();
  const server = await start(t, { data: before.data });
  const me = await follow(server, 'me', ['old', 'never']);
  assert.deepEqual(me.snapshots[0][0], await presence(server, 'old'));
  assert.equal(me.snapshots[0][0].message, 'gone fishing');
  const client = await connect(server, 'old');
  await me.sees('old', (user) => user.online);
  await client.close();
  assert.equal(
    (await me.sees('old', (user) => !user.online)).last_seen,
    (await presence(server, 'old')).last_seen,
  );
});

test('changes follow the snapshot: none is lost, none comes before it', async (t) => {
  const server = await start(t, { args: [...FAST, '--watch-interval', '0'] });
  const bob = await connect(server, 'bob');
  for (let round = 0; round < heavy(60, 15); round++) {
    const me = new Follower(await connect(server, `me${round}`));
    const says = ['away', 'busy', 'online'][round % 3];
    bob.send({ type: 'status', status: says === 'busy' ? 'away' : 'busy' });
    me.client.send({ type: 'watch', users: ['bob'] });
    bob.send({ type: 'status', status: says });
    me.following.add('bob');
    await bob.ping();
    await me.sees('bob', (user) => user.status === says);
    await me.agrees(server);
    await me.client.close();
  }
});

test('what is in a snapshot is not told again', async (t) => {
  const server = await start(t, { args: ['--watch-interval', '400ms'] });
  const bob = await connect(server, 'bob');
  const first = await follow(server, 'first', ['bob']);
  bob.send({ type: 'status', status: 'away' });
  await first.change(); // the interval begins
  bob.send({ type: 'status', status: 'busy' });
  await bob.ping();
  const second = await follow(server, 'second', ['bob']);
  assert.equal(second.snapshots[0][0].status, 'busy');
  assert.equal((await first.change())[0].status, 'busy');
  bob.send({ type: 'status', status: 'online' });
  assert.equal((await first.change())[0].status, 'online');
  assert.deepEqual(
    (await second.change()).map((user) => user.status),
    ['online'],
  );
  assert.equal(second.changes.length, 1);
});

test('changes within an interval are one message, with the latest states', async (t) => {
  const server = await start(t, { args: [...FAST, '--watch-interval', '500ms'] });
  const clients = await Promise.all(['a', 'b', 'c'].map((id) => connect(server, id)));
  const me = await follow(server, 'me', ['a', 'b', 'c']);
  clients[0].send({ type: 'status', status: 'away' });
  assert.equal((await me.change()).length, 1, 'the first after a while is told at once');
  for (let i = 0; i < 20; i++)
    for (const client of clients) client.send({ type: 'status', status: i % 2 ? 'busy' : 'away' });
  await Promise.all(clients.map((client) => client.ping()));
  const told = await me.change();
  assert.deepEqual(told.map((user) => [user.user_id, user.status]).sort(), [
    ['a', 'busy'],
    ['b', 'busy'],
    ['c', 'busy'],
  ]);
  await me.agrees(server);
  assert.equal(me.changes.length, 2);
});

test('what went and came back within an interval is not told', async (t) => {
  const server = await start(t, { args: [...FAST, '--watch-interval', '300ms'] });
  const [a, b] = [await connect(server, 'a'), await connect(server, 'b')];
  const me = await follow(server, 'me', ['a', 'b']);
  b.send({ type: 'status', status: 'away' });
  await me.change();
  a.send({ type: 'status', status: 'busy' });
  a.send({ type: 'status', status: 'online' });
  await a.ping();
  b.send({ type: 'status', status: 'busy' });
  assert.deepEqual(
    (await me.change()).map((user) => user.user_id),
    ['b'],
  );
});

test('signs of life alone are no change', async (t) => {
  const server = await start(t, { args: [...FAST, '--watch-interval', '0'] });
  const bob = await connect(server, 'bob');
  const me = await follow(server, 'me', ['bob', 'me']);
  for (let i = 0; i < 30; i++) await bob.ping();
  await heartbeat(server, 'bob');
  await me.client.ping();
  assert.deepEqual(me.changes, []);
});

const ENDS = {
  closed: async (server, client) => client.close(1000),
  dropped: async (server, client) => client.destroy(),
  kicked: async (server) => del(server, '/admin/users/bob/connections'),
};
for (const [reason, end] of Object.entries(ENDS)) {
  test(`an end is told with its reason: ${reason}`, async (t) => {
    const server = await start(t, { args: ['--grace', '50ms'] });
    const bob = await connect(server, 'bob');
    const me = await follow(server, 'me', ['bob']);
    await end(server, bob);
    const last = await me.until('offline', () => me.changes.flat().find((user) => !user.online));
    assert.equal(last.reason, reason);
    await me.agrees(server);
    await connect(server, 'bob');
    assert.equal((await me.sees('bob', (user) => user.online)).source, 'live');
  });
}

test('a second device is a change of connections', async (t) => {
  const server = await start(t);
  const first = await connect(server, 'bob');
  const me = await follow(server, 'me', ['bob']);
  const second = await connect(server, 'bob');
  await me.sees('bob', (user) => user.connections === 2);
  await second.close();
  await me.sees('bob', (user) => user.connections === 1);
  first.reset();
  await me.sees('bob', (user) => user.source === 'cached' && user.connections === 0);
  assert.ok(
    me.changes.flat().every((user) => user.online),
    'never offline',
  );
});

test('one may follow oneself, and somebody never seen', async (t) => {
  const server = await start(t);
  const me = await follow(server, 'me', ['me', 'later']);
  me.client.send({ type: 'status', status: 'away' });
  await me.sees('me', (user) => user.status === 'away');
  await connect(server, 'later');
  await me.sees('later', (user) => user.online);
});

test('who is let go is not told of, the others are', async (t) => {
  const server = await start(t, { args: FAST });
  const clients = Object.fromEntries(
    await Promise.all(ids(4).map(async (id) => [id, await connect(server, id)])),
  );
  const me = await follow(server, 'me', ids(4));
  me.unwatch(['u0', 'nobody', 'u0']);
  me.unwatch([]);
  await me.client.ping();
  for (const client of Object.values(clients)) client.send({ type: 'status', status: 'busy' });
  await Promise.all(['u1', 'u2', 'u3'].map((id) => me.sees(id, (user) => user.status === 'busy')));
  assert.equal(me.view.get('u0').status, 'online');
  assert.equal(await metric(server, 'watching'), 3);
  me.unwatch();
  await me.client.ping();
  const told = me.changes.length;
  for (const client of Object.values(clients)) client.send({ type: 'status', status: 'away' });
  await clients.u3.ping();
  await me.client.ping();
  assert.equal(me.changes.length, told);
  assert.equal(await metric(server, 'watching'), 0);
  assert.deepEqual(me.errors, []);
  assert.deepEqual(
    (await me.watch(['u0'])).map((user) => user.status),
    ['away'],
  );
});

test('watching again gives another snapshot and still one message a change', async (t) => {
  const server = await start(t);
  const bob = await connect(server, 'bob');
  const me = await follow(server, 'me', ['bob']);
  await me.watch(['bob', 'other']);
  await me.watch(['bob']);
  bob.send({ type: 'status', status: 'away' });
  assert.equal((await me.change()).length, 1);
  await me.client.ping();
  assert.equal(me.changes.length, 1);
  assert.equal(await metric(server, 'watching'), 2);
});

test('more than --max-watch in all: nothing is followed, and the connection stays', async (t) => {
  const server = await start(t, { args: ['--max-watch', '5', ...FAST] });
  const me = await follow(server, 'me', ids(3));
  await refused(me, { type: 'watch', users: ['x', 'y', 'z'] }, 'too_many_watched');
  assert.equal(await metric(server, 'watching'), 3);
  await connect(server, 'x');
  await me.watch(['u0', 'u1', 'u2', 'x', 'y']); // five in all
  await refused(me, { type: 'watch', users: ['z'] }, 'too_many_watched');
  me.unwatch(['x']);
  await me.watch(['z']);
  const none = await start(t, { args: ['--max-watch', '0'] });
  const other = new Follower(await connect(none, 'other'));
  await refused(other, { type: 'watch', users: ['other'] }, 'too_many_watched');
  assert.deepEqual(await other.watch([]), []);
});

const WRONG = {
  'no users': [{ type: 'watch' }, 'invalid_parameter'],
  'users that are no list': [{ type: 'watch', users: 'bob' }, 'invalid_parameter'],
  null: [{ type: 'watch', users: null }, 'invalid_parameter'],
  'a number': [{ type: 'watch', users: ['bob', 5] }, 'invalid_user_id'],
  'an empty id': [{ type: 'watch', users: ['bob', ''] }, 'invalid_user_id'],
  'an id that is too long': [{ type: 'watch', users: ['x'.repeat(129)] }, 'invalid_user_id'],
  'a control character': [{ type: 'watch', users: ['bob', 'a\u0007b'] }, 'invalid_user_id'],
  'half a pair': ['{"type":"watch","users":["\\ud800"]}', 'invalid_json'],
  'letting go of no list': [{ type: 'unwatch', users: {} }, 'invalid_parameter'],
  'letting go of what is no id': [{ type: 'unwatch', users: ['bob', ''] }, 'invalid_user_id'],
};
test('what is wrong is refused whole', async (t) => {
  const server = await start(t, { args: FAST });
  const me = await follow(server, 'me', ['bob']);
  for (const [message, code] of Object.values(WRONG)) await refused(me, message, code);
  assert.equal(await metric(server, 'watching'), 1);
  await connect(server, 'bob');
  await me.sees('bob', (user) => user.online);
});

test('a token says whom one may follow', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, ...FAST] });
  const as = async (sub, claims) =>
    new Follower(await connect(server, sub, bearer(await key.user(sub, claims))));
  const nobody = await as('nobody');
  assert.equal((await nobody.watch(['nobody'])).length, 1);
  await refused(nobody, { type: 'watch', users: ['nobody', 'bob'] }, 'forbidden');
  const list = await as('list', { watch: ['bob', 'é', 'c"d', '*', 'bobby'] });
  assert.equal((await list.watch(['é', 'list', 'c"d', 'bob', '*', 'bobby'])).length, 6);
  for (const id of ['bo', 'bobb', 'carol', 'e'])
    await refused(list, { type: 'watch', users: ['bob', id] }, 'forbidden');
  const empty = await as('empty', { watch: [] });
  await refused(empty, { type: 'watch', users: ['bob'] }, 'forbidden');
  const all = await as('all', { watch: '*' });
  assert.equal((await all.watch(['bob', 'carol'])).length, 2);
  const admin = new Follower(await connect(server, 'root', bearer(await key.admin())));
  assert.equal((await admin.watch(['bob', 'carol'])).length, 2);
  assert.ok([nobody, list, empty, all, admin].every((one) => one.client.open));
});

test('a refused watch names whom it may not follow, at most ten of them', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, ...FAST] });
  const client = await connect(server, 'list', bearer(await key.user('list', { watch: ['bob', 'é"'] })));
  const refusedFor = async (users) => {
    client.send({ type: 'watch', users });
    const error = await client.next('error');
    assert.deepEqual(Object.keys(error), ['type', 'code', 'message', ...(error.users ? ['users'] : [])]);
    return [error.code, error.users];
  };
  assert.deepEqual(await refusedFor(['bob', 'x"\\é', 'list', 'é"', 'eve', 'x"\\é']), ['forbidden', ['x"\\é', 'eve']]);
  const many = ids(30, 'no');
  assert.deepEqual(await refusedFor(['bob', ...many]), ['forbidden', many.slice(0, 10)]);
  assert.deepEqual(await refusedFor('bob'), ['invalid_parameter', undefined], 'the next error names nobody');
  client.send({ type: 'watch', users: ['bob', 'list'] });
  assert.equal((await client.next('snapshot')).users.length, 2);
});

test('a refused batch names whom the token does not show, at most ten of them', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, ...FAST] });
  const auth = { headers: { Authorization: `Bearer ${await key.user('list', { watch: ['bob'] })}` } };
  const ask = (users) => request(server, 'POST', '/api/presence', { body: { users }, ...auth });
  const refusedFor = async (users) => {
    const { status, json } = await ask(users);
    return [status, json.error.code, json.error.users];
  };
  assert.deepEqual(await refusedFor(['bob', 'x"\\', 'list', 'eve', 'eve']), [403, 'forbidden', ['x"\\', 'eve']]);
  const many = ids(999, 'no');
  assert.deepEqual(await refusedFor(['bob', ...many]), [403, 'forbidden', many.slice(0, 10)]);
  assert.deepEqual(await refusedFor(['bob', '']), [400, 'invalid_user_id', undefined]);
  assert.equal((await ask(['bob', 'list'])).status, 200);
});

test('a snapshot of a thousand long ids comes in parts of at most 16 KiB, in order', async (t) => {
  const server = await start(t, { args: ['--max-message', '1m'] });
  const users = Array.from(
    { length: 1000 },
    (_, i) => `${String(i).padStart(4, '0')}${'"\\'.repeat(62)}`,
  );
  await heartbeat(server, users[7]);
  const raw = await rawConnect(server, 'raw');
  raw.write(frame(OP.text, JSON.stringify({ type: 'watch', users })));
  const parts = [];
  do {
    const { opcode, fin, payload } = await raw.frame();
    assert.deepEqual([opcode, fin], [OP.text, true]);
    assert.ok(payload.length <= 16384, `${payload.length} bytes`);
    parts.push(JSON.parse(payload.toString()));
  } while (parts.at(-1).more);
  assert.ok(parts.length > 10, `${parts.length} parts`);
  assert.deepEqual(
    parts.map(({ users: some, ...rest }) => rest),
    parts.map((_, i) => ({ type: 'snapshot', ...(i < parts.length - 1 && { more: true }) })),
  );
  const told = parts.flatMap((one) => one.users);
  assert.deepEqual(
    told.map((user) => user.user_id),
    users,
  );
  assert.deepEqual(
    told.filter((user) => user.online).map((user) => user.user_id),
    [users[7]],
  );
  assert.equal((await stats(server)).counters.snapshots, 1);
});

test('POST /api/presence: a thousand users are what each is alone', async (t) => {
  const before = await start(t);
  for (const id of ids(40, 'old')) await heartbeat(before, id);
  await setStatus(before, 'old1', { status: 'busy', message: 'old one' });
  await setStatus(before, 'old2', { status: 'invisible' });
  await before.stop();
  const server = await start(t, { data: before.data, args: ['--online-threshold', '3s'] });
  await until('old ones to go', async () => (await stats(server)).users.online === 0, {
    within: 10000 * slow,
  });
  for (const id of ids(40, 'new')) await heartbeat(server, id);
  await setStatus(server, 'new1', { status: 'away', message: 'new one' });
  await setStatus(server, 'new2', { status: 'invisible' });
  const asked = Array.from(
    { length: 1000 },
    (_, i) => `${['old', 'new', 'never'][i % 3]}${(i * 7) % 44}`,
  );
  const told = await batch(server, asked);
  const single = new Map();
  for (const id of new Set(asked)) {
    const answer = await get(server, `/api/presence/${id}`);
    single.set(id, answer.status === 404 ? null : answer.json);
  }
  for (const user of told) {
    const alone = single.get(user.user_id);
    if (alone) assert.deepEqual(user, alone);
    else assert.equal(user.last_seen, null);
  }
  assert.ok(told.filter((user) => user.message === 'old one').length > 5);
  assert.ok(told.filter((user) => user.message === 'new one' && user.status === 'away').length > 5);
  assert.ok(told.filter((user) => user.user_id === 'new2').every((user) => !user.online));
});

test('an end lets everything go', async (t) => {
  const server = await start(t, { args: FAST });
  const targets = crowd(t, server, { prefix: 'u', count: 50 });
  await targets.connect();
  for (let round = 0; round < 5; round++) {
    const followers = await Promise.all(ids(20, 'f').map((id) => follow(server, id, ids(50))));
    assert.equal(await metric(server, 'watching'), 1000);
    await Promise.all(followers.map((one, i) => (i % 2 ? one.client.close() : one.client.reset())));
    await until('nobody followed', async () => (await metric(server, 'watching')) === 0);
  }
  assert.deepEqual(
    still(await presence(server, 'u7')),
    still((await json(server, '/admin/online-users')).users.find((user) => user.user_id === 'u7')),
  );
});
