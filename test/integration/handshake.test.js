'use strict';
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { test, unique, start, tcp, upgrade, get, connect } = require('./lib');

async function handshake(server, options, id = unique('u')) {
  const raw = await tcp(server);
  raw.write(upgrade(id, options));
  return { raw, ...(await raw.head()) };
}

const good = {
  'Connection: keep-alive, Upgrade': { headers: { Connection: 'keep-alive, Upgrade' } },
  'Connection without blanks': { headers: { Connection: 'keep-alive,Upgrade' } },
  'two Connection lines': {
    headers: { Connection: null },
    extra: ['Connection: keep-alive', 'Connection: Upgrade'],
  },
  'two Connection lines, the other way round': {
    headers: { Connection: null },
    extra: ['Connection: Upgrade', 'Connection: keep-alive'],
  },
  'lower-case values': { headers: { Connection: 'upgrade' } },
  'mixed-case value of Upgrade': { headers: { Upgrade: 'WebSocket' } },
  'lower-case names': {
    headers: { Host: null, Upgrade: null, Connection: null, 'Sec-WebSocket-Version': null },
    extra: [
      'host: localhost',
      'upgrade: websocket',
      'connection: upgrade',
      'sec-websocket-version: 13',
    ],
  },
  'a TAB after the colon': {
    headers: { Upgrade: null, Connection: null },
    extra: ['Upgrade:\twebsocket', 'Connection:\tUpgrade'],
  },
  'no blank after the colon': { headers: { Upgrade: null }, extra: ['Upgrade:websocket'] },
  'blanks behind the value': { headers: { Upgrade: null }, extra: ['Upgrade: websocket  '] },
};

for (const [what, options] of Object.entries(good)) {
  test.anywhere(`W03 ${what} is a good handshake`, async (t) => {
    const server = await start(t);
    const { raw, status, headers } = await handshake(server, options);
    assert.equal(status, 101);
    assert.match(headers.connection, /^upgrade$/i);
    assert.match(headers.upgrade, /^websocket$/i);
    assert.equal(headers['sec-websocket-protocol'], undefined);
    assert.equal(headers['sec-websocket-extensions'], undefined);
    assert.equal((await raw.message()).type, 'hello');
    await raw.ping();
  });
}

test.anywhere('the accept key is the one of RFC 6455', async (t) => {
  const server = await start(t);
  const key = crypto.randomBytes(16).toString('base64');
  const { headers } = await handshake(server, { headers: { 'Sec-WebSocket-Key': key } });
  const accept = crypto
    .createHash('sha1')
    .update(`${key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
    .digest('base64');
  assert.equal(headers['sec-websocket-accept'], accept);
});

const offers = [
  ['presence.v1, token.X', 'presence.v1'],
  ['token.X,presence.v1', 'presence.v1'],
  ['presence.v1', 'presence.v1'],
  ['chat', undefined],
  ['presence.v10, Presence.v1, presence.v', undefined],
];

test.anywhere('W03 of the subprotocols exactly presence.v1 is echoed', async (t) => {
  const server = await start(t);
  for (const [offer, echo] of offers) {
    const { status, headers, lines } = await handshake(server, {
      headers: { 'Sec-WebSocket-Protocol': offer },
    });
    assert.equal(status, 101, offer);
    assert.equal(headers['sec-websocket-protocol'], echo, offer);
    assert.ok(!lines.join('\n').includes('token'), 'a token is never echoed');
  }
  const two = await handshake(server, {
    extra: ['Sec-WebSocket-Protocol: token.X', 'Sec-WebSocket-Protocol: presence.v1'],
  });
  assert.deepEqual([two.status, two.headers['sec-websocket-protocol']], [101, 'presence.v1']);
});

test.anywhere('W04 other versions are refused with the one we speak', async (t) => {
  const server = await start(t);
  for (const version of ['8', '25', null, '13, 8', '', '1 3', '013', '0', '-13']) {
    const id = unique('u');
    const { raw, status, headers } = await handshake(
      server,
      { headers: { 'Sec-WebSocket-Version': version } },
      id,
    );
    assert.ok(status === 426 || status === 400, `version ${version}: ${status}`);
    assert.equal(headers['sec-websocket-version'], '13', `version ${version}`);
    if (status === 426) assert.match(headers.upgrade || '', /websocket/i);
    raw.destroy();
    assert.equal((await get(server, `/api/presence/${id}`)).status, 404, 'it was no presence');
  }
});

test.anywhere('a plain GET of the socket path is 426 with Upgrade', async (t) => {
  const server = await start(t);
  for (const headers of [
    {},
    { Connection: 'Upgrade' },
    { Upgrade: 'websocket' },
    { Connection: 'Upgrade', Upgrade: 'h2c' },
  ]) {
    const raw = await tcp(server);
    const lines = Object.entries(headers)
      .map(([name, value]) => `${name}: ${value}\r\n`)
      .join('');
    raw.write(`GET /ws/presence/${unique('u')} HTTP/1.1\r\nHost: localhost\r\n${lines}\r\n`);
    const answer = await raw.response();
    assert.equal(answer.status, 426, JSON.stringify(headers));
    assert.match(answer.headers.upgrade, /websocket/i);
    assert.equal(answer.headers['sec-websocket-version'], '13');
    assert.equal(JSON.parse(answer.body).error.code, 'upgrade_required');
    raw.destroy();
  }
});

const many = Array.from({ length: 100 }, (_, i) => `X-Header-${i}: ${i}`);
const key = () => crypto.randomBytes(16).toString('base64');
const bad = {
  'no key': { headers: { 'Sec-WebSocket-Key': null } },
  'an empty key': { headers: { 'Sec-WebSocket-Key': '' } },
  'the key `abc`': { headers: { 'Sec-WebSocket-Key': 'abc' } },
  'a key of 200 characters': { headers: { 'Sec-WebSocket-Key': 'A'.repeat(198) + '==' } },
  'a key of 15 bytes': { headers: { 'Sec-WebSocket-Key': Buffer.alloc(15).toString('base64') } },
  'a key of 17 bytes': { headers: { 'Sec-WebSocket-Key': Buffer.alloc(17).toString('base64') } },
  'a key with other characters': { headers: { 'Sec-WebSocket-Key': 'AAAAAAAAAAAAAAAAAAA*AA==' } },
  'two keys': { extra: [`Sec-WebSocket-Key: ${key()}`] },
  'one header of 40 KB': { extra: [`X-Long: ${'x'.repeat(40 * 1024)}`] },
  'a POST': { method: 'POST' },
  'HTTP/1.0': { version: '1.0' },
};

for (const [what, options] of Object.entries(bad)) {
  test.anywhere(`W05 ${what} is refused, and nobody else notices`, async (t) => {
    const server = await start(t);
    const other = await connect(server, unique('other'));
    const raw = await tcp(server);
    let request = upgrade(unique('u'), options);
    if (options.method)
      request = request
        .replace('GET', options.method)
        .replace('\r\n\r\n', '\r\nContent-Length: 0\r\n\r\n');
    if (options.version) request = request.replace('HTTP/1.1', `HTTP/${options.version}`);
    raw.write(request);
    const { status } = await raw.head();
    assert.ok(status >= 400 && status < 500, `${status}`);
    if (what.includes('40 KB')) assert.equal(status, 431);
    await other.ping();
    await connect(server, unique('next'));
  });
}

test.anywhere('W05 a hundred more headers: 101 or 4xx, and nobody else notices', async (t) => {
  const server = await start(t);
  const other = await connect(server, unique('other'));
  const { raw, status } = await handshake(server, { extra: many });
  if (status === 101) await raw.ping();
  else assert.ok(status >= 400 && status < 500, `${status}`);
  await other.ping();
});

const extensions = [
  'constructor',
  '__proto__',
  'permessage-deflate',
  'permessage-deflate; client_max_window_bits',
  'permessage-deflate; server_max_window_bits=0',
  'permessage-deflate; client_max_window_bits=99999999999',
  'permessage-deflate; a="b;c,d"',
  'permessage-deflate,,,permessage-deflate',
  'x-webkit-deflate-frame',
  ';',
  '"',
  ',',
];

test.anywhere('W05 W11 whatever extension is offered, none is negotiated', async (t) => {
  const server = await start(t);
  for (const offer of extensions) {
    const { raw, status, headers } = await handshake(server, {
      headers: { 'Sec-WebSocket-Extensions': offer },
    });
    assert.equal(status, 101, offer);
    assert.equal(headers['sec-websocket-extensions'], undefined, offer);
    await raw.ping();
    raw.destroy();
  }
});
