'use strict';
const assert = require('node:assert/strict');
const {
  test,
  start,
  rawConnect,
  tcp,
  upgrade,
  request,
  presence,
  onlineUsers,
  json,
  segment,
  get,
} = require('./lib');

const INERT = [
  '"><svg/onload=x>',
  '=1+1',
  '</script><script>alert(1)</script>',
  '@SUM(1)',
  "' OR 1=1 --",
  '{{7*7}}',
  '${jndi:ldap://x}',
  'a"b level=error msg="forged"',
];
const REFUSED = [
  'a\n2026-11-25T09:00:00.000Z level=error msg="forged"',
  '\x1b[2J',
  'a\rlevel=error msg="forged"',
  '\u009b2J',
  '\0',
];

test('A01 ids that look like script or formulas are plain text in JSON', async (t) => {
  const server = await start(t);
  for (const id of INERT) {
    assert.equal((await rawConnect(server, id)).hello.user_id, id);
    assert.equal((await presence(server, id)).user_id, id);
    const answer = await get(server, `/admin/users/${segment(id)}`);
    assert.equal(answer.json.user_id, id);
    assert.equal(answer.headers['x-content-type-options'], 'nosniff');
  }
  assert.equal((await onlineUsers(server)).length, INERT.length);
});

for (const format of ['logfmt', 'json']) {
  test(`A01 no id, path or agent forges a log line (${format})`, async (t) => {
    const server = await start(t, {
      args: ['--log-level', 'debug', '--log-format', format],
      allow: [/./],
    });
    for (const id of REFUSED) {
      const escaped = encodeURIComponent(id);
      for (const [method, path] of [
        ['GET', `/api/presence/${escaped}`],
        ['POST', `/api/presence/${escaped}/heartbeat`],
        ['GET', `/admin/users/${escaped}`],
        ['GET', `/nope/${escaped}`],
        ['GET', `/admin/users?q=${escaped}`],
      ]) {
        const answer = await request(server, method, path);
        if (!/nope|q=/.test(path)) assert.equal(answer.status, 400, path);
      }
      const raw = await tcp(server);
      raw.write(upgrade('', { path: `/ws/presence/${escaped}` }));
      assert.equal((await raw.head()).status, 400);
    }
    for (const id of INERT) {
      const raw = await tcp(server);
      raw.write(
        upgrade(id, {
          headers: {
            'User-Agent': 'x" level=error msg="forged" \x1b[2J\x07\xff\xfe',
            Referer: '"\x1b[2J',
          },
        }),
      );
      await raw.head().catch(() => null);
      raw.destroy();
    }
    await server.stop();
    assert.ok(server.lines.length >= 1);
    for (const line of server.lines) {
      assert.doesNotMatch(line, /[\x00-\x08\x0b-\x1f\x7f-\x9f]/, 'control characters are escaped');
      if (format === 'json') {
        assert.equal(typeof JSON.parse(line), 'object');
      } else {
        assert.match(line, /^\d{4}-\S+Z level=(debug|info|warn|error) /, line);
        assert.doesNotMatch(
          line.replace(/"(\\.|[^"\\])*"/g, '""'),
          /forged/,
          'stays inside its quotes',
        );
      }
    }
  });
}

test('an agent of any bytes never makes the JSON invalid', async (t) => {
  const server = await start(t);
  const agents = [
    'plain',
    '\xff\xfe\xc3',
    '"quoted\\"',
    '\xed\xa0\x80',
    'é'.repeat(3),
    'x'.repeat(2000),
    '\xf0\x9f\x98',
  ];
  for (const [i, agent] of agents.entries()) {
    const raw = await tcp(server);
    raw.socket.write(Buffer.from(upgrade(`u${i}`, { headers: { 'User-Agent': agent } }), 'latin1'));
    assert.equal((await raw.head()).status, 101, JSON.stringify(agent));
    await raw.message();
    const detail = await json(server, `/admin/users/u${i}`); // json() decodes strictly
    assert.equal(typeof detail.connection_list[0].agent, 'string');
  }
  assert.equal((await json(server, '/admin/users/u0')).connection_list[0].agent, 'plain');
});
