'use strict';
// /api/events: the stream of /admin/events for backends, who show a token that may see everybody.
const assert = require('node:assert/strict');
const { test, start, connect, heartbeat, openEvents, json, get, request, tokenKey, passwordFile, login, bearer, forge, hmac, seconds,
  startReceiver, until } = require('./lib');

const open = (server, options) => openEvents(server, { path: '/api/events', ...options });
const refusal = (server, options) => open(server, options).then(() => assert.fail('was let in'), (error) => error);

test('where no gate stands anyone reads it: the same events as an admin, with the same positions', async (t) => {
  const server = await start(t, { args: ['--grace', '50ms'] });
  const [api, admin] = [await open(server), await openEvents(server)];
  assert.equal(api.response.headers['content-type'], 'text/event-stream; charset=utf-8');
  assert.equal(api.response.headers['cache-control'], 'no-store');
  const client = await connect(server, 'alice');
  client.send({ type: 'status', status: 'busy' });
  await client.ping();
  await connect(server, 'alice');
  await heartbeat(server, 'bob');
  await client.close();
  const end = (await json(server, '/admin/stats')).position;
  await Promise.all([api.reach(end), admin.reach(end)]);
  assert.deepEqual(api.events.slice(1), admin.events.slice(1));
  assert.deepEqual(api.events.map((one) => one.data.change ?? one.event),
    ['reset', 'join', 'status', 'status', 'join', 'connections']);
});

test('a stream resumes, by header or by query', async (t) => {
  const server = await start(t);
  const stream = await open(server);
  await stream.next();
  for (const id of ['a', 'b', 'c']) await heartbeat(server, id);
  const { id: lastId } = (await stream.next());
  stream.cut();
  for (const again of [await open(server, { lastId }), await open(server, { path: `/api/events?last_event_id=${lastId}` })]) {
    const users = [(await again.next()).data.user.user_id, (await again.next()).data.user.user_id];
    assert.deepEqual(users, ['b', 'c']);
    again.cut();
  }
  const other = await open(server, { lastId: lastId.replace(/^./, (digit) => (digit === '0' ? '1' : '0')) });
  assert.equal((await other.next()).event, 'reset');
});

test('a backend that reads users anew with POST /api/presence goes on behind its position', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const auth = bearer(await key.user('backend', { watch: '*' }));
  await connect(server, 'alice', bearer(await key.user('alice')));
  const stream = await open(server, auth);
  const reset = await stream.next();
  const read = async () => (await request(server, 'POST', '/api/presence', { body: { users: ['alice', 'bob'] }, ...auth })).json;
  const first = await read();
  assert.deepEqual(Object.keys(first), ['position', 'generated_at', 'users']);
  assert.equal(first.position, reset.id);
  assert.deepEqual(first.users.map((user) => user.online), [true, false]);
  const bob = await connect(server, 'bob', bearer(await key.user('bob')));
  const second = await read();
  assert.equal(second.position, (await stream.next()).id, 'what it has heard of is in the answer');
  assert.deepEqual(second.users.map((user) => user.online), [true, true]);
  await bob.close();
  const again = await open(server, { ...auth, lastId: second.position });
  const { event, data } = await again.next();
  assert.deepEqual([event, data.change, data.user.user_id], ['change', 'leave', 'bob']);
});

test('who is invisible seems to leave and to come back; only admins are told the truth, and a webhook is not', async (t) => {
  const receiver = await startReceiver(t);
  const server = await start(t, { args: ['--grace', '0', ...receiver.args] });
  const [api, admin] = [await open(server, { gaps: true }), await openEvents(server)];
  const set = (status) => request(server, 'PUT', '/api/presence/u/status', { body: { status } });
  const client = await connect(server, 'u');
  await set('invisible');
  client.send({ type: 'status', status: 'away' });
  await client.ping();
  await (await connect(server, 'u')).close();
  await set('busy');
  await set('invisible');
  await client.close();
  await set(null);
  await connect(server, 'u');
  const end = (await json(server, '/admin/stats')).position;
  await Promise.all([api.reach(end), admin.reach(end)]);
  const told = (stream) => stream.events.slice(1).map(({ data: { change, user, reason } }) => `${change} ${user.status}${reason ? ` ${reason}` : ''}${user.invisible ? ' invisible' : ''}`);
  const openTold = ['join online', 'leave offline closed', 'join busy', 'leave offline closed', 'join online'];
  assert.deepEqual(told(api), openTold);
  for (const { data: { user } } of api.events.slice(1)) assert.deepEqual([user.invisible, user.online || user.connected_at], [undefined, user.online ? true : null]);
  assert.ok(told(admin).filter((one) => one.endsWith(' invisible')).length >= 4, told(admin).join());
  assert.ok(told(admin).includes('leave offline closed invisible'), told(admin).join());
  await receiver.until('the webhook to be told', () => receiver.changes.length >= openTold.length);
  assert.deepEqual(receiver.changes.map(({ change, user, reason }) => `${change} ${user.status}${reason ? ` ${reason}` : ''}`), openTold);
});

test('who may: a token with watch "*" or admin, in the header or the query, and an admin\'s session', async (t) => {
  const key = tokenKey(t);
  const { args } = passwordFile(t, 'open sesame');
  const server = await start(t, { args: [...key.args, ...args] });
  const { token: session, cookie } = await login(server, 'open sesame');
  const all = await key.user('backend', { watch: '*' });
  const some = await key.user('backend', { watch: ['a', 'b'] });
  const admin = await key.admin();
  const forged = forge({ alg: 'HS256' }, { sub: 'x', watch: '*', exp: seconds() + 60 }, hmac('another secret'));
  for (const [options, status, code] of [
    [{}, 401, 'token_missing'],
    [bearer(await key.user('u')), 403, 'forbidden'],
    [bearer(some), 403, 'forbidden'],
    [bearer(await key.user('u', { watch: ['*'] })), 403, 'forbidden'], // in a list it is an id like any other
    [bearer(forged), 401, 'token_invalid'],
    [bearer(await key.user('u', { watch: '*', exp: seconds() - 60 })), 401, 'token_expired'],
    [{ path: `/api/events?token=${some}` }, 403, 'forbidden'],
    [{ path: `/api/events?token=${forged}` }, 401, 'token_invalid'],
    [{ headers: { Cookie: cookie.pair } }, 401, 'token_missing'], // of the pages of /admin/ only
  ]) {
    const refused = await refusal(server, options);
    assert.deepEqual([refused.status, refused.json.error.code], [status, code], JSON.stringify(options));
  }
  const streams = [];
  for (const options of [bearer(all), bearer(admin), bearer(session), { path: `/api/events?token=${all}` },
    { path: `/api/events?token=${admin}` }]) {
    const stream = await open(server, options);
    assert.equal((await stream.next()).event, 'reset');
    streams.push(stream);
  }
  await heartbeat(server, 'u', bearer(await key.user('u')));
  for (const stream of streams) assert.equal((await stream.next()).data.user.user_id, 'u');
  const refused = await openEvents(server, bearer(all)).then(() => assert.fail('was let in'), (error) => error);
  assert.equal(refused.status, 403, 'but /admin/events is for admins');
});

test('the stream ends when its token does', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const exp = seconds() + 2;
  const stream = await open(server, bearer(await key.user('backend', { watch: '*', exp })));
  await stream.next();
  await stream.closed;
  assert.ok(stream.whole && !stream.problem);
  assert.ok(Date.now() / 1000 >= exp - 0.01, 'not before its time');
});

test('pages of allowed origins may read it, of others not; other methods are refused', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, '--allow-origin', 'https://app.example.com'] });
  const { headers } = bearer(await key.user('backend', { watch: '*' }));
  const stream = await open(server, { headers: { ...headers, Origin: 'https://app.example.com' } });
  assert.equal(stream.response.headers['access-control-allow-origin'], 'https://app.example.com');
  const other = await open(server, { headers: { ...headers, Origin: 'https://evil.example.com' } });
  assert.equal(other.response.headers['access-control-allow-origin'], undefined, 'the browser keeps it from the page');
  other.cut();
  const post = await request(server, 'POST', '/api/events', { headers });
  assert.deepEqual([post.status, post.headers.allow], [405, 'GET, HEAD']);
  stream.cut();
  await until('it to be gone', async () => (await get(server, '/metrics', bearer(await key.admin()))).text.includes('presence_streams 0\n'));
});
