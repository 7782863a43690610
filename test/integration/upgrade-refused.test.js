'use strict';
// An upgrade that is refused: the user's page sees 1006 and no more, so the log and /metrics tell
// the operator why.
const assert = require('node:assert/strict');
const { test, start, tcp, upgrade, connect, tokenKey, get, request, until } = require('./lib');

const LINE = /level=info msg="upgrade refused: (\w+) from ([\w.:]+), origin (\S+), host (\S+): (.*)"$/;
const told = (server) => server.lines.map((line) => LINE.exec(line)).filter(Boolean).map(([, ...parts]) => parts);

/** The upgrades refused by reason, as /metrics has them. */
async function reasons(server) {
  const { text } = await get(server, '/metrics');
  return Object.fromEntries([...text.matchAll(/^presence_upgrades_refused_by_reason_total\{reason="(\w+)"\} (\d+)$/gm)].map(([, reason, n]) => [reason, Number(n)]));
}

/** Sends an upgrade; resolves to the status of the answer. */
async function ask(server, { id = 'u', localAddress = '127.0.0.1', ...options } = {}) {
  const raw = await tcp(server, { localAddress });
  raw.write(upgrade(id, options));
  const { status } = await raw.head();
  raw.destroy();
  return status;
}

test('one line a minute for each reason and address, with origin and Host; all are counted', async (t) => {
  const server = await start(t, { args: ['--max-connections-per-user', '1'] });
  const Host = `localhost:${server.port}`;
  const client = await connect(server, 'full');
  const rows = [
    ['forbidden_origin', 403, { headers: { Host, Origin: 'https://evil.test' } }, 'https://evil.test', Host],
    ['misdirected_host', 421, { headers: { Host: 'presence.example.com' } }, '-', 'presence.example.com'],
    ['upgrade_required', 426, { headers: { Host, 'Sec-WebSocket-Version': '8' } }, '-', Host],
    ['invalid_user_id', 400, { path: '/ws/presence/%00', headers: { Host } }, '-', Host],
    ['too_many_connections', 429, { id: 'full', headers: { Host } }, '-', Host],
    ['too_many_connections', 101, { id: 'full', headers: { Host, Origin: `http://${Host}` }, localAddress: '127.0.0.7' }, `http://${Host}`, Host],
  ];
  const want = {};
  for (const [reason, status, options] of rows) {
    for (let i = 0; i < 5; i++) assert.equal(await ask(server, options), status, reason);
    want[reason] = (want[reason] ?? 0) + 5;
  }
  // a proxy that does not pass Upgrade on makes it a plain GET
  assert.equal((await get(server, '/ws/presence/u', { headers: { Host }, localAddress: '127.0.0.9' })).status, 426);
  want.upgrade_required++;
  assert.deepEqual(await reasons(server), want);
  const lines = told(server);
  assert.deepEqual(lines.map(([reason, , origin, host]) => [reason, origin, host]),
    [...rows.map(([reason, , , origin, host]) => [reason, origin, host]), ['upgrade_required', '-', Host]]);
  assert.deepEqual(lines.map(([, from]) => from), [...rows.map(([, , { localAddress }]) => localAddress ?? '127.0.0.1'), '127.0.0.9']);
  for (const [, , , , text] of lines) assert.ok(text.length > 10);
  await client.close();
});

test('strangers fill no log: after a hundred lines in a minute one says that no more come', async (t) => {
  const server = await start(t);
  const options = (i) => ({ localAddress: `127.0.2.${1 + i}`, headers: { Host: `localhost:${server.port}`, Origin: 'https://evil.test' } });
  for (let i = 0; i < 120; i++) assert.equal(await ask(server, options(i)), 403);
  await until('all to be told', () => server.lines.some((line) => /no more is told within this minute; see /.test(line)));
  assert.equal(told(server).filter(([reason]) => reason === 'forbidden_origin').length, 100);
  assert.deepEqual(await reasons(server), { forbidden_origin: 120 });
});

test('what a token is refused for is in the line, the token is not; no stranger forges a line', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const token = await key.user('somebody');
  const as = (text) => ({ headers: { Authorization: `Bearer ${text}` } });
  assert.equal(await ask(server, as(token)), 403);
  assert.equal(await ask(server, as(`${token}x`)), 401);
  assert.equal(await ask(server), 401);
  // how a terminal would show it is not left to a stranger: bidi controls, separators, bytes of no text
  const Origin = Buffer.from('a"b\\c\u202ed\u2028e\u2066f\u200fg\xa0', 'utf8').toString('latin1').replace(/\xc2\xa0$/, '\xff');
  const raw = await tcp(server);
  raw.write(Buffer.from(upgrade('u', { headers: { Origin } }), 'latin1'));
  assert.equal((await raw.head()).status, 403);
  raw.destroy();
  await until('all to be told', () => told(server).length === 4);
  assert.deepEqual(told(server).map(([reason]) => reason), ['forbidden', 'token_invalid', 'token_missing', 'forbidden_origin']);
  assert.equal(told(server)[3][2], 'a\\"b\\\\c\\u202ed\\u2028e\\u2066f\\u200fg\\ufffd');
  assert.ok(!server.stderr.includes(token.split('.')[2]) && !server.stderr.includes(token.split('.')[1]));
});
