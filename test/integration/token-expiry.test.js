'use strict';
// P09: no connection outlives its token.
const assert = require('node:assert/strict');
const { test, sideBySide, start, startSecure, tokenKey, bearer, connect, refusal, get, json, presence, until, throughout, seconds, slow } = require('./lib');

sideBySide(() => {
  test('P09 at exp a live connection is closed with 4401 token_expired, the user offline, reason expired', async (t) => {
    const key = tokenKey(t);
    const server = await startSecure(t, { args: [...key.args, '--grace', '20s'] });
    const admin = bearer(await key.admin());
    const exp = seconds() + 2;
    const token = await key.user('u', { exp });
    const clients = [
      await connect(server, 'u', bearer(token)),
      await connect(server.secure, 'u', bearer(token)),
      await connect(server, 'w', { protocols: ['presence.v1', `token.${await key.user('w', { exp })}`] }),
    ];
    const stays = await connect(server, 'stays', bearer(await key.user('stays')));
    for (const { hello } of clients) assert.ok(hello.expires_seconds >= 1 && hello.expires_seconds <= 2, JSON.stringify(hello));
    assert.ok(stays.hello.expires_seconds > 3500 && stays.hello.expires_seconds <= 3600, 'a client can have the next one in time');
    const ends = await Promise.all(clients.map((client) => client.closed.then((end) => ({ ...end, at: Date.now() / 1000 }))));
    for (const end of ends) {
      assert.deepEqual([end.code, end.reason], [4401, "token_expired: the token's exp has passed: get a new one"]);
      assert.ok(end.at >= exp - 0.01 && end.at < exp + 2 * slow, `${end.at - exp} s after exp`);
    }
    for (const id of ['u', 'w']) {
      await until('offline', async () => !(await presence(server, id, admin)).online, { within: 1500 * slow });
      await until('the stay to be on record', async () => {
        const { sessions } = await json(server, `/admin/users/${id}/sessions`, admin);
        return sessions.length === 1 && sessions[0].reason === 'expired';
      });
    }
    await stays.ping();
    assert.equal((await presence(server, 'stays', admin)).source, 'live');
  });

  test('P09 a newer token keeps the user online when the older connection ends', async (t) => {
    const key = tokenKey(t);
    const server = await start(t, { args: key.args });
    const admin = bearer(await key.admin());
    const old = await connect(server, 'u', bearer(await key.user('u', { exp: seconds() + 2 })));
    const next = await connect(server, 'u', bearer(await key.user('u')));
    assert.equal((await old.closed).code, 4401);
    await throughout(300, async () => assert.equal((await presence(server, 'u', admin)).source, 'live'));
    await next.ping();
    const { sessions } = await json(server, '/admin/users/u/sessions', admin);
    assert.deepEqual(sessions.map((one) => one.reason), [null]);
  });

  test('P09 a connection opened inside the skew lives until exp + 30 s; a token past it opens none', async (t) => {
    const key = tokenKey(t);
    const server = await start(t, { args: key.args });
    const exp = seconds() - 28;
    const token = await key.user('u', { exp });
    const client = await connect(server, 'u', bearer(token));
    await client.ping();
    const end = await client.closed;
    const at = Date.now() / 1000;
    assert.deepEqual([end.code, end.reason], [4401, "token_expired: the token's exp has passed: get a new one"]);
    assert.ok(at >= exp + 29.9 && at < exp + 32 * slow, `${at - exp} s after exp`);
    assert.equal((await refusal(server, 'u', bearer(token))).status, 401);
    assert.equal((await get(server, '/api/presence/u', bearer(token))).status, 401);
  });

  test('P09 many tokens that end in the same second end together, and nobody else', async (t) => {
    const key = tokenKey(t);
    const server = await start(t, { args: key.args });
    const admin = bearer(await key.admin());
    const exp = seconds() + 3;
    const clients = [];
    for (let i = 0; i < 40; i++)
      clients.push(await connect(server, `u${i}`, bearer(await key.user(`u${i}`, { exp: i % 2 ? exp : undefined, ...(i % 2 ? {} : { exp: seconds() + 3600 }) }))));
    const ends = await Promise.all(clients.filter((_, i) => i % 2).map((client) => client.closed));
    assert.ok(ends.every(({ code }) => code === 4401));
    for (let i = 0; i < 40; i += 2) await clients[i].ping();
    assert.equal((await json(server, '/admin/stats', admin)).users.live, 20);
  });

  test('an exp beyond any clock does not end early', async (t) => {
    const key = tokenKey(t);
    const server = await start(t, { args: key.args });
    for (const exp of [2 ** 31 - 1, 2 ** 31, 2 ** 32 + 5, 4102444800, 253402300799]) {
      const client = await connect(server, `u${exp}`, bearer(await key.user(`u${exp}`, { exp })));
      await client.ping();
    }
    await throughout(300, async () => assert.equal((await json(server, '/admin/stats', bearer(await key.admin()))).users.live, 5));
  });
});
