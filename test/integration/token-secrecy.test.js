'use strict';
// Tokens, passwords and sessions are in no log line, no error, and no answer.
const assert = require('node:assert/strict');
const { test, startSecure, tokenKey, bearer, connect, refusal, get, post, request, tcp, upgrade, json, until } = require('./lib');

test('a token is never repeated: --log-level debug, errors, headers, admin answers', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args, '--log-level', 'debug'], allow: [/level=(debug|info|warn)/] });
  const good = await key.user('u');
  const bad = [await key.user('u', { exp: 5 }), await key.user('else'), `${good.slice(0, -4)}AAAA`, 'secret-word-that-is-no-token'];
  const admin = await key.admin();
  const told = [];
  for (const target of [server, server.secure]) {
    for (const token of [good, ...bad]) {
      const ways = [bearer(token), { headers: { Cookie: `presence_token=${token}` } }, { query: `?token=${token}` }, { protocols: ['presence.v1', `token.${token}`] }];
      for (const way of ways) {
        if (token === good) await (await connect(target, 'u', { headers: { 'User-Agent': 'x' }, ...way })).close();
        else told.push(JSON.stringify((await refusal(target, 'u', way)).headers));
        const { headers, query = '' } = way;
        for (const answer of [
          await get(target, `/api/presence/u${query}`, { headers }),
          await get(target, `/no-such-page${query}`, { headers }),
          await post(target, `/api/presence/u/heartbeat${query}`, undefined, { headers }),
          await request(target, 'DELETE', `/admin/users/u/connections${query}`, { headers }),
        ]) told.push(answer.text, JSON.stringify(answer.headers));
      }
      const raw = await tcp(target);
      raw.write(`GET /api/presence/u?token=${token} HTTP/9.9\r\nHost: localhost\r\n\r\n`);
      const answer = await raw.response();
      told.push(answer.body, JSON.stringify(answer.headers));
      raw.destroy();
      const odd = await tcp(target);
      odd.write(upgrade('u', { headers: { 'Sec-WebSocket-Protocol': `presence.v1, token.${token}`, 'Sec-WebSocket-Version': '8' } }));
      const refused = await odd.response();
      told.push(refused.body, JSON.stringify(refused.headers));
      odd.destroy();
    }
  }
  for (const path of ['/admin/users/u', '/admin/users', '/admin/stats', '/admin/users/u/sessions'])
    told.push(JSON.stringify(await json(server, path, bearer(admin))));
  await until('lines of the log', () => server.lines.length > 5);
  await server.stop();
  const everything = [server.stderr, ...told].join('\n');
  for (const token of [good, admin, ...bad]) {
    for (const part of token.split('.').filter((one) => one.length > 20 && !one.startsWith('eyJhbGciOi')))
      assert.ok(!everything.includes(part), `${part} in ${everything.split('\n').find((line) => line.includes(part))?.slice(0, 300)}`);
  }
  assert.ok(!everything.includes(key.secret), 'the secret');
});
