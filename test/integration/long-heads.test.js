'use strict';
// What the manual allows fits into a request's head by default; and whom no handler answers is told
// why as everybody else is: in the log, and readable for a page of an allowed origin.
const assert = require('node:assert/strict');
const { test, start, tcp, tokenKey, connect, get, upgrade, until, slow } = require('./lib');

const APP = 'https://app.example.com';
const COOKIES = Array.from({ length: 8 }, (_, i) => `c${i}=${'y'.repeat(1020)}`).join('; '); // 8 KB

/** A token of exactly this many bytes. */
async function tokenOf(key, bytes) {
  for (let pad = 0; pad < 4; pad++) {
    const base = (await key.user('alice', { watch: ['bob'], pad: '' })).length;
    const token = await key.user('alice', { watch: ['bob'], pad: 'x'.repeat(Math.floor(((bytes - base) * 3) / 4) + pad - 2) });
    if (token.length === bytes) return token;
  }
  throw new Error('no such token');
}

test('a token of 8,192 bytes fits in each of its places, beside 8 KB of cookies', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const token = await tokenOf(key, 8192);
  const places = {
    query: { query: `?token=${token}`, headers: { Cookie: COOKIES } },
    Authorization: { headers: { Authorization: `Bearer ${token}`, Cookie: COOKIES } },
    cookie: { headers: { Cookie: `${COOKIES}; presence_token=${token}` } },
    subprotocol: { protocols: ['presence.v1', `token.${token}`], headers: { Cookie: COOKIES } },
  };
  for (const [where, { query = '', ...options }] of Object.entries(places)) {
    const client = await connect(server, 'alice', { query, ...options }).catch((error) => assert.fail(`${where}: ${error.message}`));
    await client.close();
    if (where === 'subprotocol') continue;
    const answer = await get(server, `/api/presence/bob${query}`, { headers: options.headers });
    assert.deepEqual([answer.status, answer.json.error.code], [404, 'unknown_user'], where);
  }
});

test('an upgrade refused for its head is told in the log, with its origin and host', async (t) => {
  const server = await start(t, { allow: [/upgrade refused/] });
  for (let i = 0; i < 3; i++) {
    const raw = await tcp(server);
    raw.write(upgrade('alice', { headers: { Origin: APP, Cookie: 'z'.repeat(40000) } }));
    assert.equal((await raw.response()).status, 431);
    raw.destroy();
  }
  await until('the line', () => /upgrade refused: head_too_large from 127\.0\.0\.1, origin https:\/\/app\.example\.com, host localhost/.test(server.stderr));
  assert.equal(server.lines.filter((line) => line.includes('head_too_large')).length, 1, 'once a minute');
});

const WRONG = {
  'a head that is too long': [431, (o) => `GET /api/presence/u HTTP/1.1\r\nHost: localhost\r\n${o}X: ${'x'.repeat(40000)}\r\n\r\n`],
  'too many header lines': [431, (o) => `GET /api/presence/u HTTP/1.1\r\nHost: localhost\r\n${o}${'X: y\r\n'.repeat(70)}\r\n`],
  'a body that is too long': [413, (o) => `POST /api/presence HTTP/1.1\r\nHost: localhost\r\n${o}Content-Length: 99999999\r\n\r\n`],
  'chunks in HTTP/1.0': [411, (o) => `POST /api/presence HTTP/1.0\r\nHost: localhost\r\n${o}Transfer-Encoding: chunked\r\n\r\n`],
  'another expectation': [417, (o) => `POST /api/presence HTTP/1.1\r\nHost: localhost\r\n${o}Expect: tea\r\nContent-Length: 2\r\n\r\n{}`],
  'version 1.2': [505, (o) => `GET /api/presence/u HTTP/1.2\r\nHost: localhost\r\n${o}\r\n`],
  'a request that is not whole in time': [408, (o) => `POST /api/presence HTTP/1.1\r\nHost: localhost\r\n${o}Content-Length: 20\r\n\r\n{`],
  'a head that is not whole in time': [408, (o) => `POST /api/presence HTTP/1.1\r\nHost: localhost\r\n${o}X: `],
  'a blank before a colon': [400, (o) => `GET /api/presence/u HTTP/1.1\r\nHost: localhost\r\n${o}X : y\r\n\r\n`],
  'no Host': [400, (o) => `GET /api/presence/u HTTP/1.1\r\n${o}\r\n`],
  'no path': [400, (o) => `GET api HTTP/1.1\r\nHost: localhost\r\n${o}\r\n`],
  'bad chunks': [400, (o) => `POST /api/presence HTTP/1.1\r\nHost: localhost\r\n${o}Transfer-Encoding: chunked\r\n\r\nx\r\n`],
  'a coding that is not known': [501, (o) => `POST /api/presence HTTP/1.1\r\nHost: localhost\r\n${o}Transfer-Encoding: gzip, chunked\r\n\r\n`],
};

test('every error names the allowed origin whose page asked, and no other', async (t) => {
  const server = await start(t, { args: ['--allow-origin', APP, '--request-timeout', '1s'] });
  await Promise.all(Object.entries(WRONG).map(async ([what, [status, bytes]]) => {
    const say = async (lines) => {
      const raw = await tcp(server);
      raw.write(bytes(lines));
      const answer = await raw.response(5000 * slow);
      raw.destroy();
      assert.equal(answer.status, status, `${what}: ${answer.body}`);
      assert.match(answer.headers.vary || '', /origin/i, what);
      return answer.headers['access-control-allow-origin'];
    };
    assert.equal(await say(`Origin: ${APP}\r\n`), APP, what);
    assert.equal(await say('oRIGIN:HTTPS://APP.example.com \r\n'), APP, what);
    for (const lines of ['', 'Origin: https://evil.example\r\n', `Origin: ${APP}.evil.example\r\n`, `Origin: ${APP}\r\nOrigin: ${APP}\r\n`, `X-Origin: ${APP}\r\n`])
      assert.equal(await say(lines), undefined, `${what}: ${lines}`);
  }));
  const raw = await tcp(server);
  raw.write(`GET /admin/users HTTP/1.1\r\nHost: localhost\r\nOrigin: ${APP}\r\nX : y\r\n\r\n`);
  assert.equal((await raw.response()).headers['access-control-allow-origin'], undefined, 'never under /admin/');
  raw.destroy();
});
