'use strict';
// Variants: asan tsan
// Who may do what, by the token: every place it may come in, every algorithm, every permission.
const assert = require('node:assert/strict');
const { test, start, startSecure, tokenKey, bearer, connect, refusal, get, post, request, json, presence, heartbeat, batch, tcp,
  upgrade, until } = require('./lib');

const code = (answer) => answer.json.error.code;

for (const alg of ['HS256', 'RS256', 'ES256']) {
  test(`${alg} tokens by jose, in all four places`, async (t) => {
    const key = tokenKey(t, { alg });
    const server = await startSecure(t, { args: key.args });
    const token = await key.user('alice');
    const places = {
      bearer: bearer(token),
      'bearer in another case': { headers: { Authorization: `bearer ${token}` } },
      subprotocol: { protocols: ['presence.v1', `token.${token}`] },
      'subprotocol first': { protocols: [`token.${token}`, 'presence.v1'] },
      query: { query: `?token=${token}` },
      'query with others': { query: `?a=b&token=${token}&c=d` },
      cookie: { headers: { Cookie: `presence_token=${token}` } },
      'cookie with others': { headers: { Cookie: `a=b; presence_token=${token}; presence_tokens=x` } },
    };
    for (const [what, options] of Object.entries(places)) {
      for (const target of [server, server.secure]) {
        const client = await connect(target, 'alice', options);
        assert.equal(client.hello.user_id, 'alice', what);
        assert.equal(client.socket.protocol, options.protocols ? 'presence.v1' : '', what);
        await client.ping();
        await client.close();
      }
      const { headers, query = '', protocols } = options;
      if (protocols) continue;
      const user = await get(server, `/api/presence/alice${query}`, { headers });
      assert.deepEqual([user.status, user.json?.user_id], [200, 'alice'], what);
      assert.equal((await post(server, `/api/presence/alice/heartbeat${query}`, undefined, { headers })).status, 204, what);
    }
  });
}

test('the first place found counts: a bad token there is not saved by a good one elsewhere', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const good = await key.user('u');
  const bad = await key.user('u', { exp: 1 });
  const cookie = (token) => ({ Cookie: `presence_token=${token}` });
  for (const [headers, query] of [
    [{ Authorization: `Bearer ${bad}`, ...cookie(good) }, `?token=${good}`],
    [cookie(good), `?token=${bad}`],
    [cookie(bad), ''],
  ]) assert.equal((await refusal(server, 'u', { headers, query })).status, 401, JSON.stringify([Object.keys(headers), query.slice(0, 7)]));
  for (const protocols of [[`token.${bad}`, 'presence.v2'], ['presence.v1', `token.${bad}`]]) {
    const { status, code } = await refusal(server, 'u', { protocols, query: `?token=${good}` });
    assert.deepEqual([status, code], protocols.includes('presence.v1') ? [undefined, 4401] : [401, undefined]);
  }
  for (const [headers, query] of [
    [{ Authorization: `Bearer ${good}`, ...cookie(bad) }, `?token=${bad}`],
    [cookie(bad), `?token=${good}`],
  ]) await connect(server, 'u', { headers, query });
});

test('no token is 401 token_missing with WWW-Authenticate, everywhere', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  for (const [method, path] of [['GET', '/api/presence/u'], ['POST', '/api/presence'], ['POST', '/api/presence/u/heartbeat'],
    ['GET', '/admin/online-users'], ['GET', '/admin/users'], ['GET', '/admin/users/u'], ['GET', '/admin/users/u/sessions'],
    ['DELETE', '/admin/users/u/connections'], ['GET', '/admin/stats'], ['GET', '/metrics']]) {
    const body = path === '/api/presence' ? { users: ['u'] } : undefined;
    const answer = await request(server, method, path, { body });
    assert.deepEqual([answer.status, code(answer)], [401, 'token_missing'], `${method} ${path}`);
    assert.match(answer.headers['www-authenticate'], /^Bearer\b/);
  }
  const refused = await refusal(server, 'u');
  assert.equal(refused.status, 401);
  assert.match(refused.headers['www-authenticate'], /^Bearer\b/);
  for (const path of ['/healthz', '/readyz']) assert.equal((await get(server, path)).status, 200, path);
  assert.equal((await get(server, '/healthz', bearer('nonsense'))).status, 200);
  const admin = bearer(await key.admin());
  assert.equal((await get(server, '/api/presence/u', admin)).status, 404, 'nobody became known');
  await until('refusals to be counted', async () => (await json(server, '/admin/stats', admin)).counters.tokens_refused >= 11);
});

test('a token is for its own user: socket, heartbeat and reading', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const alice = bearer(await key.user('alice'));
  await connect(server, 'alice', alice);
  const refused = await refusal(server, 'bob', alice);
  assert.equal(refused.status, 403);
  for (const [method, path, body] of [['POST', '/api/presence/bob/heartbeat'], ['GET', '/api/presence/bob'], ['GET', '/api/presence/Alice'],
    ['POST', '/api/presence', { users: ['alice', 'bob'] }]]) {
    const answer = await request(server, method, path, { body, ...alice });
    assert.deepEqual([answer.status, code(answer)], [403, 'forbidden'], `${method} ${path}`);
  }
  assert.equal((await presence(server, 'alice', alice)).source, 'live');
  await batch(server, ['alice'], alice);
  await batch(server, ['alice', 'alice'], alice);
  await heartbeat(server, 'alice', alice);
  for (const path of ['/admin/online-users', '/admin/users', '/admin/users/alice', '/admin/stats', '/metrics']) {
    const answer = await get(server, path, alice);
    assert.equal(answer.status, 403, path);
  }
  assert.equal((await request(server, 'DELETE', '/admin/users/alice/connections', alice)).status, 403);
});

test('ids are compared byte by byte after one decoding', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  for (const id of ['a/b', '100%', 'a%2Fb', 'a+b c', '\u00e9', 'e\u0301', 'Bob', '"quoted\\"', '😀', 'x'.repeat(128)]) {
    const token = await key.user(id);
    const client = await connect(server, id, bearer(token));
    assert.equal(client.hello.user_id, id);
    await heartbeat(server, id, bearer(token));
  }
  for (const [sub, id] of [['\u00e9', 'e\u0301'], ['bob', 'Bob'], ['a%2Fb', 'a/b'], ['u ', 'u'], ['u\0x', 'u'], ['', 'u'], [['u'], 'u'], [7, '7'], [undefined, 'undefined'], [null, 'null']]) {
    const status = (await refusal(server, id, bearer(await key.sign({ sub })))).status;
    assert.ok(status === 403 || status === 401, `${JSON.stringify(sub)} as ${id}: ${status}`);
  }
});

test('watch: a list of ids, or everybody; nothing else', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  for (const id of ['bob', 'carol']) await heartbeat(server, id, bearer(await key.user(id)));
  const rows = [
    [['bob'], 'bob', 200], [['bob'], 'carol', 403], ['*', 'bob', 200], [['bob', 'carol'], 'carol', 200],
    [[], 'bob', 403], [undefined, 'bob', 403], ['bob', 'bob', 403], [{ bob: true }, 'bob', 403], [true, 'bob', 403], [['Bob', 'bo', 'bobb', null, 7], 'bob', 403],
    [['b*'], 'bob', 403], [null, 'bob', 403],
  ];
  for (const [watch, id, status] of rows) {
    const token = bearer(await key.user('alice', { watch }));
    const what = JSON.stringify([watch, id]);
    const single = (await get(server, `/api/presence/${id}`, token)).status;
    const many = (await post(server, '/api/presence', { users: ['alice', id] }, token)).status;
    // a claim of the wrong kind grants nothing: the token as a whole may also be refused for it
    if (status === 403) assert.ok([401, 403].includes(single) && [401, 403].includes(many), `${what}: ${single} ${many}`);
    else assert.deepEqual([single, many], [200, 200], what);
    assert.notEqual((await post(server, `/api/presence/${id}/heartbeat`, undefined, token)).status, 204, `${what} gives no voice`);
  }
  const watcher = bearer(await key.user('alice', { watch: '*' }));
  assert.equal((await get(server, '/api/presence/never-seen', watcher)).status, 404);
  assert.equal((await get(server, '/admin/stats', watcher)).status, 403, 'watching is no administration');
});

test('admin: true opens /admin, /metrics and all reading, but no other user\'s voice', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const admin = bearer(await key.admin());
  const client = await connect(server, 'u', bearer(await key.user('u')));
  for (const path of ['/admin/online-users', '/admin/users', '/admin/users/u', '/admin/users/u/sessions', '/admin/stats', '/metrics', '/api/presence/u'])
    assert.equal((await get(server, path, admin)).status, 200, path);
  await batch(server, ['u', 'nobody'], admin);
  assert.equal((await post(server, '/api/presence/u/heartbeat', undefined, admin)).status, 403);
  assert.equal((await refusal(server, 'u', admin)).status, 403);
  assert.equal((await request(server, 'DELETE', '/admin/users/u/connections', admin)).status, 200);
  assert.equal((await client.closed).code, 4403);
  for (const value of ['true', 1, 'yes', [true], {}, null, false]) {
    const status = (await get(server, '/admin/stats', bearer(await key.user('x', { admin: value })))).status;
    assert.ok(status === 403 || status === 401, `admin: ${JSON.stringify(value)}: ${status}`);
  }
});

test('admin by a token counts only as Bearer', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const token = await key.admin();
  assert.equal((await get(server, '/admin/stats', bearer(token))).status, 200);
  for (const [headers, query] of [[{ Cookie: `presence_token=${token}` }, ''], [{ Cookie: `presence_admin=${token}` }, ''], [{}, `?token=${token}`]])
    assert.equal((await get(server, `/admin/stats${query}`, { headers })).status, 401, JSON.stringify(Object.keys(headers)));
});

test('a browser is told by a close code: with an allowed Origin 101, then 4401 or 4403', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args, '--allow-origin', 'https://app.example.com'] });
  const expired = await key.user('u', { exp: 1000 });
  for (const target of [server, server.secure]) {
    const own = `${target.tls ? 'https' : 'http'}://${target.host}:${target.port}`;
    for (const origin of [own, 'https://app.example.com']) {
      for (const [options, close] of [
        [{}, 4401],
        [{ protocols: ['presence.v1', 'token.nonsense'] }, 4401],
        [{ protocols: ['presence.v1', `token.${expired}`] }, 4401],
        [{ protocols: ['presence.v1', `token.${await key.user('somebody-else')}`] }, 4403],
      ]) {
        const error = await refusal(target, 'u', { origin, ...options });
        assert.deepEqual([error.code, error.status], [close, undefined], `${origin}: ${error.message}`);
      }
      const client = await connect(target, 'u', { origin, protocols: ['presence.v1', `token.${await key.user('u')}`] });
      await client.close();
    }
    const foreign = await refusal(target, 'u', { origin: 'https://evil.test' });
    assert.equal(foreign.status, 403, 'a foreign page is not told');
  }
  const admin = bearer(await key.admin());
  const users = (await json(server, '/admin/users', admin)).users.map((user) => user.user_id);
  assert.deepEqual(users, ['u'], 'somebody refused is nobody');
  assert.equal((await json(server, '/admin/users/u/sessions', admin)).sessions.every((one) => one.reason === 'closed' || one.to === null), true);
  await until('none of them to stay', async () => (await json(server, '/admin/stats', admin)).connections.current === 0);
});

test('a client that offers presence.v1 is told by a close code, without an Origin too, as in Node', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args, '--max-connections-per-user', '1'] });
  const other = await key.user('somebody-else');
  const good = await key.user('u');
  for (const target of [server, server.secure]) {
    for (const [offered, options, close, status] of [
      [[], {}, 4401, 401],
      [['token.nonsense'], {}, 4401, 401],
      [[`token.${await key.user('u', { exp: 1000 })}`], {}, 4401, 401],
      [[`token.${other}`], {}, 4403, 403],
      [[], bearer(other), 4403, 403],
      [[], { query: '?token=x' }, 4401, 401],
    ]) {
      const told = await refusal(target, 'u', { protocols: ['presence.v1', ...offered], ...options });
      assert.deepEqual([told.code, told.status], [close, undefined], told.message);
      const plain = await refusal(target, 'u', offered.length ? { protocols: offered } : options);
      assert.equal(plain.status, status, 'who does not offer it gets the plain answer');
    }
    const client = await connect(target, 'u', { protocols: ['presence.v1', `token.${good}`] });
    const full = await refusal(target, 'u', { protocols: ['presence.v1', `token.${good}`] });
    assert.equal(full.code, 4429, 'a limit is told too');
    await client.close();
  }
  const foreign = await refusal(server, 'u', { origin: 'https://evil.test', protocols: ['presence.v1'] });
  assert.equal(foreign.status, 403, 'a foreign page is not told');
});

test('a refused browser costs no place: 4401 again and again under --max-connections', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, '--max-connections', '3', '--max-connections-per-user', '1'] });
  const origin = `http://127.0.0.1:${server.port}`;
  const mute = [];
  for (let i = 0; i < 10; i++) { // they do not answer the close frame
    const raw = await tcp(server);
    raw.write(upgrade('u', { headers: { Host: `127.0.0.1:${server.port}`, Origin: origin } }));
    assert.equal((await raw.head()).status, 101);
    assert.equal(await raw.closeCode(), 4401);
    mute.push(raw);
  }
  await connect(server, 'u', bearer(await key.user('u')));
  await until('the mute ones to be ended', () => mute.every((raw) => raw.ended));
});

test('P10 identity is the connection\'s, never the message\'s', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, '--max-messages-per-second', '0'] });
  const alice = await connect(server, 'alice', bearer(await key.user('alice')));
  const bob = await connect(server, 'bob', bearer(await key.user('bob')));
  const before = await presence(server, 'alice', bearer(await key.admin()));
  for (const message of [
    { type: 'status', status: 'away', user: 'alice' }, { type: 'status', status: 'away', user_id: 'alice' }, { type: 'status', status: 'away', userId: 'alice' },
    { type: 'status', status: 'busy', users: ['alice'] }, { type: 'ping', user_id: 'alice' }, { type: 'hello', user_id: 'alice' },
    { type: 'presence', users: [{ user_id: 'alice', online: false }] }, { type: 'offline', user_id: 'alice' },
  ]) {
    bob.send(message);
    await bob.ping();
  }
  await alice.ping();
  const after = await presence(server, 'alice', bearer(await key.admin()));
  assert.deepEqual([after.status, after.online, after.source, after.connected_at], ['online', true, 'live', before.connected_at]);
  const { sessions } = await json(server, '/admin/users/alice/sessions', bearer(await key.admin()));
  assert.deepEqual(sessions.map((one) => one.reason), [null], 'alice never left');
  const answer = await post(server, '/api/presence/bob/heartbeat', { user_id: 'alice' }, bearer(await key.user('bob')));
  assert.ok([204, 400].includes(answer.status));
});
