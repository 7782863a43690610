'use strict';
// Variants: release
// A refusal says what is wrong and what to write: each kind of wrong token, in the answer and behind
// the code in the close frame; each Origin, with the flag that lets it in; and the flag does.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, request, tokenKey, bearer, forge, hmac, seconds, until, refusal, dice } = require('./lib');

const SOURCE = fs.readFileSync(path.join(__dirname, '../../presence.c'), 'utf8');
const [, TABLE] = /#define TOKEN_PROBLEM_TABLE\(X\)((?:.*\\\n)*.*)/.exec(SOURCE);
/** Name, code and text of each kind. */
const KINDS = [...TABLE.replaceAll('\\\n', ' ').matchAll(/X\((\w+), (\w+),\s*((?:"(?:\\.|[^"\\])*"\s*)+)\)/g)]
  .map(([, name, error, text]) => ({ name, code: error.toLowerCase(), text: [...text.matchAll(/"(?:\\.|[^"\\])*"/g)].map(([part]) => JSON.parse(part)).join('') }))
  .filter(({ name }) => name !== 'NONE');

/** How an upgrade is refused that can be told by a close code. */
async function refused(server, user, token) {
  const headers = { Origin: `http://127.0.0.1:${server.port}` };
  const { code, reason } = await refusal(server, user, { protocols: ['presence.v1', ...(token ? [`token.${token}`] : [])], headers });
  return { code, reason };
}

test('every kind of wrong token has its own words, in the answer and in the close frame', async (t) => {
  const key = tokenKey(t, { kid: 'app' });
  const rsa = tokenKey(t, { alg: 'RS256' });
  const server = await start(t, { args: [...key.args, ...rsa.args, '--jwt-issuer', 'app', '--jwt-audience', 'presence'] });
  const claims = (more) => ({ sub: 'alice', exp: seconds() + 60, iss: 'app', aud: 'presence', ...more });
  const head = { alg: 'HS256', typ: 'JWT', kid: 'app' };
  const good = (more, header) => forge({ ...head, ...header }, claims(more), hmac(key.secret));
  const other = crypto.generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey;
  const tokens = {
    MISSING: '',
    MALFORMED: 'nonsense',
    HEADER: good({}, { typ: 'JWE' }),
    ALGORITHM: good({}, { alg: 'none' }),
    UNKNOWN_KEY: null, // only without a key that has no name, see below
    SECRET: forge(head, claims(), hmac(`${key.secret}\n`)), // the trap: the line end is no part of it
    SIGNATURE: forge({ alg: 'RS256' }, claims(), (text) => crypto.sign('sha256', Buffer.from(text), other).toString('base64url')),
    EXPIRED: good({ exp: seconds() - 60 }),
    NOT_YET: good({ nbf: seconds() + 600 }),
    ISSUER: good({ iss: 'other' }),
    AUDIENCE: good({ aud: ['other'] }),
    SUBJECT: good({ sub: 42 }),
    TIMES: good({ exp: Date.now() + 60000 }), // the trap: milliseconds
    WATCH: good({ watch: 'bob' }),
    OTHER_USER: good({ sub: 'bob' }),
    NOT_WATCHED: good({ watch: ['carol'] }),
    NOT_ALL: good({ watch: ['carol'] }),
    NOT_ADMIN: good({ watch: '*' }),
  };
  const OVER_HTTP = { NOT_WATCHED: '/api/presence/bob', NOT_ALL: '/api/events', NOT_ADMIN: '/admin/users' };
  assert.deepEqual(Object.keys(tokens), KINDS.map(({ name }) => name), 'every kind of the table is tried');
  for (const { name, code, text } of KINDS) {
    const token = tokens[name];
    if (token === null) continue;
    const status = code === 'forbidden' ? 403 : 401;
    const answer = await request(server, 'GET', OVER_HTTP[name] || '/ws/presence/alice',
      { headers: { ...(token ? bearer(token).headers : {}), ...(OVER_HTTP[name] ? {} : { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Version': '13', 'Sec-WebSocket-Key': Buffer.alloc(16).toString('base64') }) } });
    assert.deepEqual([answer.status, answer.json.error], [status, { code, message: text }], name);
    if (OVER_HTTP[name]) continue;
    const told = await refused(server, 'alice', token);
    assert.deepEqual(told, { code: status === 401 ? 4401 : 4403, reason: `${code}: ${text}` });
    assert.ok(Buffer.byteLength(told.reason) <= 123);
  }
  const named = await start(t, { args: key.args });
  const { text } = KINDS.find(({ name }) => name === 'UNKNOWN_KEY');
  assert.equal((await refused(named, 'alice', good({}, { kid: 'old' }))).reason, `token_invalid: ${text}`);
  assert.match(text, /--jwt-secret-file KID=FILE$/);
});

test('a page that is refused is told the flag that lets it in, in the answer and in the log; and it does', async (t) => {
  const server = await start(t);
  const seed = crypto.randomInt(2 ** 32);
  const below = dice(seed);
  const pick = (list) => list[below(list.length)];
  const origins = ['https://app.example.com', 'http://localhost:5173', 'https://APP.example.com:443', 'capacitor://localhost', 'http://[2001:db8::1]:8080'];
  for (let i = 0; i < 40; i++) {
    const name = Array.from({ length: 1 + below(20) }, () => pick('abcxyz019')).join(''); // with a z behind it: 0x is a number, an address
    origins.push(`${pick(['http', 'https', 'HTTP'])}://${name}${pick(['', '.example', '.Example.com'])}z${pick(['', ':80', ':443', ':5173', ':65535'])}`);
  }
  const beat = (one, Origin) => request(one, 'POST', '/api/presence/u/heartbeat', { headers: { Origin } });
  const flags = [];
  for (const origin of origins) {
    const { status, json } = await beat(server, origin);
    assert.deepEqual([status, json.error.code], [403, 'forbidden_origin'], origin);
    const [, flag] = /^to allow pages of this origin, start with --allow-origin (\S+)$/.exec(json.error.message) || assert.fail(json.error.message);
    flags.push(flag);
  }
  const allowing = await start(t, { args: [...new Set(flags)].flatMap((one) => ['--allow-origin', one]) });
  for (const origin of origins) assert.equal((await beat(allowing, origin)).status, 204, `seed ${seed}: ${origin}`);

  // in the log: an upgrade; what a browser asks before it posts; an answer that it keeps to itself
  const line = (what, from) => `level=info msg="${what} refused: forbidden_origin from ${from}, origin ${origins[0]}, host 127.0.0.1:${server.port}: to allow pages of this origin, start with --allow-origin https://app.example.com"`;
  const Origin = origins[0];
  assert.equal((await refusal(server, 'u', { headers: { Origin }, localAddress: '127.0.0.2' })).status, 403);
  const preflight = { Origin, 'Access-Control-Request-Method': 'POST' };
  assert.equal((await request(server, 'OPTIONS', '/api/presence', { headers: preflight, localAddress: '127.0.0.3' })).status, 403);
  assert.equal((await request(server, 'GET', '/api/presence/u', { headers: { Origin }, localAddress: '127.0.0.4' })).status, 404);
  assert.equal((await request(server, 'GET', '/presence.js', { headers: { Origin }, localAddress: '127.0.0.5' })).status, 200);
  for (const [what, from] of [['upgrade', '127.0.0.2'], ['page', '127.0.0.3'], ['page', '127.0.0.4']])
    await until(`the log: ${what}`, () => server.lines.some((one) => one.endsWith(line(what, from))));
  assert.ok(!server.stderr.includes('127.0.0.5'), 'the client is for all');
  const said = async (headers, at = '/api/presence/u/heartbeat') => (await request(server, 'POST', at, { headers })).json.error.message;
  for (const none of ['null', 'file://', 'https://app.example.com/']) assert.match(await said({ Origin: none }), /^this Origin is none: open the page by http or https, not from a file/);
  assert.match(await said({ Origin: origins[0] }, '/admin/logout'), /^under \/admin\/ only the server's own pages/);
});

test('behind a proxy that speaks https it says what the proxy needs, and that helps', async (t) => {
  const Host = 'localhost';
  const headers = { Host, Origin: `https://${Host}` };
  const ask = (server, more) => request(server, 'POST', '/api/presence/u/heartbeat', { headers: { ...headers, ...more } });
  const plain = await start(t);
  const [, flag, address] = /^a proxy in front speaks https: start with (--trusted-proxy) (\S+), and have it send X-Forwarded-Proto$/.exec((await ask(plain)).json.error.message);
  const trusting = await start(t, { args: [flag, address] });
  assert.equal((await ask(trusting)).json.error.message, 'the proxy in front is to send X-Forwarded-Proto: https');
  assert.equal((await ask(trusting, { 'X-Forwarded-Proto': 'https' })).status, 204);
});
