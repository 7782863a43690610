'use strict';
// Every code of the table of errors in presence.c is what somebody is answered, with its status or
// its close code; the few that need more than a request have a test of their own, named here.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const nodeTest = require('node:test');
const { start, startSecure, connect, upgrade, frame, request, tokenKey, passwordFile, within, delay, OP } = require('../integration/lib');

const ROOT = path.join(__dirname, '../..');
const source = fs.readFileSync(path.join(ROOT, 'presence.c'), 'utf8');
const table = source.slice(source.indexOf('#define ERROR_TABLE(X)')).split('\n\n')[0];
const CODES = Object.fromEntries([...source.matchAll(/^ {4}X\(([A-Z0-9_]+), (\d{4}), "/gm)].map(([, name, code]) => [`CLOSE_${name}`, Number(code)]));
const ROWS = new Map([...table.replaceAll('\\\n', ' ').matchAll(/X\([A-Z_]+, "(\w+)", *(\d+), (\w+),/g)]
  .map(([, code, status, close]) => [code, { status: Number(status), close: CODES[close] ?? Number(close) }]));

/** Where a code that is not asked for here has its test. */
const ELSEWHERE = {
  none: null,
  internal: 'test/integration/full-store.test.js',
  stopping: 'test/integration/stop.test.js',
  request_memory: 'test/integration/request-memory.test.js',
  too_many_failures: 'test/integration/admin-slowdown.test.js',
};

/** What a server says to these bytes, until it closes or says no more: text. */
function answerTo({ host, port }, bytes) {
  return within(15000, 'an answer', new Promise((resolve, reject) => {
    let text = '';
    const socket = net.connect({ host, port }, () => socket.write(bytes));
    socket.setEncoding('latin1').on('data', (more) => {
      text += more;
      if (/"error":.*\}\}\s*$/s.test(text)) socket.destroy();
    });
    socket.on('close', () => resolve(text)).on('error', reject);
  }));
}

const ask = (lines, body = '') => (world) => answerTo(world.open, `${lines.join('\r\n')}\r\n\r\n${body}`);
const get = (target, ...headers) => ask([`GET ${target} HTTP/1.1`, 'Host: localhost', ...headers]);
const post = (target, body, ...headers) => ask([`POST ${target} HTTP/1.1`, 'Host: localhost', `Content-Length: ${body.length}`, ...headers], body);
const withToken = (claims, target) => async ({ keyed, key }) =>
  answerTo(keyed, `GET ${target} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${await key.sign(claims)}\r\n\r\n`);
const upgrades = (world, id, server = world.open) => answerTo(server, upgrade(id));

/** The error message that a WebSocket gets for one of its own. */
const told = (message) => async ({ open }) => {
  const client = await connect(open, 'told');
  client.send(message);
  const error = await client.next('error');
  await client.close();
  return `HTTP/1.1 0 \r\n\r\n${JSON.stringify({ error })}`;
};

const HTTP = {
  invalid_request: get('/healthz', 'no header'),
  invalid_user_id: get('/api/presence/%00'),
  invalid_json: post('/api/presence', '{'),
  invalid_parameter: get('/admin/users?limit=0'),
  invalid_cursor: get('/admin/users?cursor=!'),
  not_found: get('/nothing/here'),
  unknown_user: get('/api/presence/never'),
  method_not_allowed: ask(['DELETE /healthz HTTP/1.1', 'Host: localhost']),
  request_timeout: ({ hasty }) => answerTo(hasty, 'GET /healthz HTTP/1.1\r\nHost: loc'),
  length_required: ask(['POST /api/presence HTTP/1.0', 'Host: localhost', 'Transfer-Encoding: chunked']),
  body_too_large: ask(['POST /api/presence HTTP/1.1', 'Host: localhost', 'Content-Length: 99999999']),
  expectation_failed: post('/api/presence', '{}', 'Expect: a miracle'),
  token_missing: ({ keyed }) => answerTo(keyed, 'GET /api/presence/a HTTP/1.1\r\nHost: localhost\r\n\r\n'),
  token_invalid: ({ keyed }) => answerTo(keyed, 'GET /api/presence/a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n'),
  token_expired: withToken({ sub: 'a', exp: 1000 }, '/api/presence/a'),
  forbidden: withToken({ sub: 'a' }, '/api/presence/b'),
  forbidden_origin: post('/api/presence/a/heartbeat', '', 'Origin: https://evil.example'),
  misdirected_host: ask(['GET /api/presence/a HTTP/1.1', 'Host: evil.example']),
  wrong_password: async ({ keyed }) => {
    const { status, text } = await request(keyed, 'POST', '/admin/login', { body: { password: 'wrong' } });
    return `HTTP/1.1 ${status} \r\n\r\n${text}`;
  },
  tls_required: ({ secure }) => answerTo(secure, 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'),
  upgrade_required: get('/ws/presence/a'),
  too_many_connections: async (world) => {
    await connect(world.narrow, 'twice', { localAddress: '127.0.0.2' });
    return upgrades(world, 'twice', world.narrow);
  },
  too_many_from_address: async (world) => {
    await connect(world.narrow, 'near', { localAddress: '127.0.0.1' });
    return upgrades(world, 'far', world.narrow);
  },
  too_many_upgrades: async (world) => {
    for (let i = 0; i < 20; i++) {
      connect(world.slow, `v${i}`).catch(() => {}); // one of the two is too many
      const text = await Promise.race([upgrades(world, `u${i}`, world.slow), delay(200).then(() => '')]);
      if (text) return text;
    }
    return '';
  },
  head_too_large: get('/healthz', `X: ${'x'.repeat(70000)}`),
  overloaded: async (world) => {
    await connect(world.single, 'only', { localAddress: '127.0.0.2' });
    return upgrades(world, 'another', world.single);
  },
  not_implemented: ask(['POST /api/presence HTTP/1.1', 'Host: localhost', 'Transfer-Encoding: gzip, chunked']),
  version_not_supported: ask(['GET /healthz HTTP/3.0', 'Host: localhost']),
};

const MESSAGES = {
  invalid_message: told('[]'),
  unknown_type: told({ type: 'unheard of' }),
  invalid_status: told({ type: 'status', status: 'asleep' }),
  too_many_watched: told({ type: 'watch', users: ['a', 'b', 'c', 'd', 'e', 'f'] }),
  identity_mismatch: told({ type: 'status', status: 'busy', user_id: 'somebody' }),
};

const CLOSES = {
  protocol_misuse: async ({ open }) => {
    const client = await connect(open, 'misuse');
    client.socket.send(Buffer.from('bytes'));
    return client.closed;
  },
  kicked: async ({ open }) => {
    const client = await connect(open, 'kicked');
    await request(open, 'DELETE', '/admin/users/kicked/connections');
    return client.closed;
  },
  heartbeat_timeout: async ({ hasty }) => (await connect(hasty, 'silent', { autoPong: false })).closed,
  too_fast: async ({ open }) => {
    const client = await connect(open, 'fast');
    client.socket._socket.write(Buffer.concat(Array.from({ length: 200 }, () => frame(OP.text, 'ping'))));
    return client.closed;
  },
};

nodeTest('every error is answered to somebody, with its status', { timeout: 240000 }, async (t) => {
  assert.ok(ROWS.size > 35, `${ROWS.size} rows were read`);
  const key = tokenKey(t);
  const secure = await startSecure(t);
  const world = {
    key,
    open: await start(t, { args: ['--max-watch', '5'] }),
    keyed: await start(t, { args: [...key.args, ...passwordFile(t, 'the password').args] }),
    hasty: await start(t, { args: ['--request-timeout', '300ms', '--ping-interval', '1s', '--pong-timeout', '1s'] }),
    narrow: await start(t, { args: ['--max-connections-per-user', '1', '--max-connections-per-address', '1'] }),
    slow: await start(t, { args: ['--max-upgrades-per-second', '1'] }),
    single: await start(t, { args: ['--max-connections', '1'] }),
    secure: secure.secure,
  };
  for (const code of ROWS.keys()) {
    await t.test(code, async () => {
      const { status, close } = ROWS.get(code);
      if (HTTP[code] || MESSAGES[code]) {
        const text = await (HTTP[code] || MESSAGES[code])(world);
        assert.ok(text.includes(`"code":"${code}"`), `${code}: ${text.slice(0, 600)}`);
        if (HTTP[code]) assert.match(text, new RegExp(`^HTTP/1.1 ${status} `), `${code}: ${text.slice(0, 100)}`);
      } else if (CLOSES[code]) {
        assert.equal((await within(15000, code, CLOSES[code](world))).code, close);
      } else {
        assert.ok(code in ELSEWHERE, `${code} is answered to nobody here: ask for it, or name its test`);
        if (ELSEWHERE[code]) assert.ok(fs.existsSync(path.join(ROOT, ELSEWHERE[code])), ELSEWHERE[code]);
      }
    });
  }
});
