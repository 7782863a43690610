'use strict';
const assert = require('node:assert/strict');
const {
  test,
  unique,
  start,
  tcp,
  upgrade,
  rawConnect,
  connect,
  request,
  presence,
  batch,
  onlineUsers,
  json,
  pages,
  post,
  segment,
  heartbeat,
  timeline,
  settled,
  sessions,
  del,
  until,
  OP,
  frame,
  closePayload,
} = require('./lib');

/** Status and error code of an upgrade to this path (101 for a good one). */
async function upgradeStatus(server, path) {
  const raw = await tcp(server);
  raw.write(upgrade('', { path }));
  const head = await raw.head();
  let code = null;
  if (head.status !== 101) {
    const length = Number(head.headers['content-length']);
    const body = await raw.read('a body', () =>
      raw.bytes.length >= length ? raw.take(length).toString() : undefined,
    );
    code = JSON.parse(body).error.code;
  } else {
    await raw.message();
  }
  raw.destroy();
  return [head.status, code];
}

/** What every surface says to this escaped id: [name, status, error code]. */
async function everySurface(server, escaped, plain) {
  const found = [];
  const say = async (method, path) => {
    const answer = await request(server, method, path);
    found.push([
      `${method} ${path.replace(escaped, 'ID')}`,
      answer.status,
      answer.json?.error?.code ?? null,
    ]);
  };
  found.push(['upgrade', ...(await upgradeStatus(server, `/ws/presence/${escaped}`))]);
  await say('POST', `/api/presence/${escaped}/heartbeat`);
  await say('GET', `/api/presence/${escaped}`);
  await say('GET', `/admin/users/${escaped}`);
  await say('GET', `/admin/users/${escaped}/sessions`);
  await say('DELETE', `/admin/users/${escaped}/connections`);
  if (plain !== undefined) {
    const answer = await post(server, '/api/presence', { users: [plain] });
    found.push(['batch', answer.status, answer.json?.error?.code ?? null]);
  }
  return found;
}

const GOOD = {
  '1 byte': 'a',
  '128 bytes': 'x'.repeat(128),
  '128 bytes, an emoji at the limit': `${'x'.repeat(124)}\u{1F600}`,
  '128 bytes of two-byte letters': 'é'.repeat(64),
  '32 emoji': '\u{1F600}'.repeat(32),
};

const BAD = {
  'no byte': '',
  '129 bytes': 'x'.repeat(129),
  '511 bytes': 'x'.repeat(511),
  '512 bytes': 'x'.repeat(512),
  '1024 bytes': 'x'.repeat(1024),
  'an emoji across the limit': `${'x'.repeat(126)}\u{1F600}`,
  '65 two-byte letters': 'é'.repeat(65),
  'a newline': 'a\nb',
  'a carriage return': 'a\rb',
  ESC: '\x1b[2J',
  NUL: 'a\0b',
  DEL: 'a\x7fb',
  'a C1 control': 'a\u0085b',
};

// Ids that only exist as bytes of a path.
const BAD_BYTES = {
  'a lone continuation byte': '%80',
  'a cut emoji': 'x%F0%9F%98',
  'overlong UTF-8': '%C0%AF',
  'a surrogate': '%ED%A0%80',
  'beyond U+10FFFF': '%F4%90%80%80',
  'the byte FF': '%FF',
  'no hex digits': '%zz',
  'a cut escape': 'a%4',
  'a lone percent sign': 'a%',
};

for (const [what, id] of Object.entries(GOOD)) {
  test(`S04 an id of ${what} is good on every surface`, async (t) => {
    const server = await start(t);
    for (const [surface, status, code] of await everySurface(server, encodeURIComponent(id), id)) {
      if (/sessions/.test(surface) && status === 404) continue; // not yet on record
      assert.ok([101, 200, 204].includes(status), `${surface}: ${status} ${code}`);
    }
    assert.equal((await presence(server, id)).user_id, id);
    assert.equal((await timeline(server, id)).length > 0, true);
  });
}

for (const [what, id] of Object.entries(BAD)) {
  test(`S04 an id of ${what} is 400 on every surface`, async (t) => {
    const server = await start(t);
    for (const [surface, status, code] of await everySurface(server, encodeURIComponent(id), id)) {
      assert.deepEqual([status, code], [400, 'invalid_user_id'], surface);
    }
    assert.deepEqual(await pages(server, '/admin/users', 'users', 1000), []);
  });
}

for (const [what, escaped] of Object.entries(BAD_BYTES)) {
  test(`S04 an id with ${what} is 400 on every surface`, async (t) => {
    const server = await start(t);
    for (const [surface, status, code] of await everySurface(server, escaped)) {
      assert.deepEqual([status, code], [400, 'invalid_user_id'], surface);
    }
  });
}

test('S04 a batch with anything but good ids is refused', async (t) => {
  const server = await start(t);
  for (const bad of [7, null, true, {}, ['a'], '']) {
    const answer = await post(server, '/api/presence', { users: ['good', bad] });
    assert.equal(answer.status, 400, JSON.stringify(bad));
  }
  for (const body of ['{"users":["\\ud800"]}', '{"users":["\\u0000"]}', '{"users":["a\\nb"]}']) {
    assert.equal((await post(server, '/api/presence', body)).status, 400, body);
  }
});

const IDS = [
  'a/b',
  '100%',
  'a%2Fb',
  'a+b c',
  'x@y.example',
  'a?b#c',
  '\u{1F600}',
  '\u00e9',
  'e\u0301',
  'Bob',
  'bob',
  'bob ',
  ' bob',
  '.',
  '..',
  '...',
  'a\\b',
  '"quoted"',
  "it's",
  '=1+1',
  '<b>&amp;',
  ';,:=',
  '~',
  '\u200b',
  '\ufeff',
  '\u2028',
  '/',
  '//',
  '../../etc/passwd',
  'heartbeat',
  'status',
  '%',
  '%00',
  '$(reboot)',
  'null',
  '*',
  '__proto__',
  '\ud7ff',
  '\u{10FFFF}',
];

test('H03 ids come through every surface byte by byte, and are different users', async (t) => {
  const server = await start(t);
  const raws = [];
  for (const id of IDS) {
    const raw = await rawConnect(server, id);
    assert.equal(raw.hello.user_id, id);
    raws.push(raw);
  }
  for (const id of IDS) {
    const user = await presence(server, id);
    assert.deepEqual(
      [user.user_id, user.source, user.connections],
      [id, 'live', 1],
      JSON.stringify(id),
    );
    const detail = await json(server, `/admin/users/${segment(id)}`);
    assert.deepEqual([detail.user_id, detail.connection_list.length], [id, 1]);
  }
  await batch(server, IDS);
  const byBytes = [...IDS].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  assert.deepEqual(
    (await onlineUsers(server)).map((user) => user.user_id),
    byBytes,
  );
  for (const id of IDS) {
    await heartbeat(server, id);
  }
  await settled(server);
  for (const id of IDS) assert.equal((await sessions(server, id)).length, 1, JSON.stringify(id));
  const known = (await pages(server, '/admin/users', 'users', 7))
    .map((user) => user.user_id)
    .filter((id) => !id.startsWith('~marker'));
  assert.deepEqual(known, byBytes);
  for (const id of IDS)
    assert.equal(
      (await del(server, `/admin/users/${segment(id)}/connections`)).json.closed,
      1,
      JSON.stringify(id),
    );
  await until('all offline', async () => (await onlineUsers(server)).length === 0);
});

test.anywhere('H03 escapes are decoded exactly once, in either case', async (t) => {
  const server = await start(t);
  const name = unique('u');
  for (const [escaped, id] of [
    ['%2f', '/'],
    ['%2F', '/'],
    ['%252F', '%2F'],
    ['%25252F', '%252F'],
    ['%41', 'A'],
    ['%c3%A9', 'é'],
    ['+', '+'],
    ['%2B', '+'],
    ['%20', ' '],
  ]) {
    const [status] = await upgradeStatus(server, `/ws/presence/${name}${escaped}`);
    assert.equal(status, 101, escaped);
    assert.equal((await presence(server, `${name}${id}`)).user_id, `${name}${id}`, escaped);
  }
});

test.anywhere('H03 a path is never normalised into another route or user', async (t) => {
  const server = await start(t);
  const name = unique('u');
  const client = await connect(server, name);
  for (const path of [
    `/api/presence/x/../${name}`,
    `/api/./presence/${name}`,
    `/api//presence/${name}`,
    `/api/presence/${name}/`,
    `/api/presence/${name}/.`,
    `/api/presence/%2E%2E/presence/${name}`,
    `//api/presence/${name}`,
    `/API/presence/${name}`,
  ]) {
    const answer = await request(server, 'GET', path);
    assert.ok(
      answer.status === 404 || answer.status === 400,
      `${path}: ${answer.status} ${answer.text}`,
    );
  }
  await client.close();
});

test.anywhere('a query behind the id is not part of it', async (t) => {
  const server = await start(t);
  const name = unique('u');
  const raw = await tcp(server);
  raw.write(upgrade('', { path: `/ws/presence/${name}?x=1&y=/z` }));
  assert.equal((await raw.head()).status, 101);
  assert.equal((await raw.message()).user_id, name);
  assert.equal((await request(server, 'GET', `/api/presence/${name}?a=b`)).json.user_id, name);
  raw.write(frame(OP.close, closePayload(1000)));
  assert.equal(await raw.closeCode(), 1000);
});
