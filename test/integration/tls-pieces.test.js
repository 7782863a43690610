'use strict';
// A ClientHello in every number of pieces; records of every size; TCP cut anywhere.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { test, startSecure, startMangler, byteByByte, chopped, reframed, cut, tcp, upgrade, frame, OP, connect, get,
  post, batch, shake, heartbeats, slow, heavy, until } = require('./lib');

const VERSIONS = ['TLSv1.2', 'TLSv1.3'];
const only = (version) => ({ minVersion: version, maxVersion: version });

/** Both versions get through this shape of network: a login and a request. */
async function works(t, server, what, shape) {
  const mangled = await startMangler(t, server.secure, shape);
  for (const version of VERSIONS) {
    const socket = await shake(mangled, only(version)).catch((error) => assert.fail(`${what}, ${version}: ${error.message}`));
    socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
    const answer = await new Promise((resolve) => socket.once('data', resolve));
    assert.match(answer.toString(), /^HTTP\/1\.1 200 /, `${what}, ${version}`);
    socket.destroy();
  }
  const client = await connect(mangled, 'u');
  await client.ping();
  client.destroy();
}

test('a ClientHello of one byte a segment', async (t) => {
  const server = await startSecure(t);
  await works(t, server, 'byte by byte', byteByByte(2000));
});

test('a ClientHello in several records', async (t) => {
  const server = await startSecure(t);
  const shapes = {
    'cut behind the first byte': (payload) => cut(payload, [1]),
    'cut inside the handshake header': (payload) => cut(payload, [3]),
    'cut behind the handshake header': (payload) => cut(payload, [4]),
    'cut in the middle': (payload) => cut(payload, [payload.length >> 1]),
    'the last byte alone': (payload) => cut(payload, [payload.length - 1]),
    'three records': (payload) => cut(payload, [2, 40]),
    'eight records': (payload) => cut(payload, Array(8).fill(Math.ceil(payload.length / 8))),
    'a byte a record': (payload) => cut(payload, Array(payload.length).fill(1)),
  };
  const failed = [];
  for (const [what, split] of Object.entries(shapes))
    await works(t, server, what, reframed(split)).catch((error) => failed.push(error.message));
  assert.deepEqual(failed, []);
});

test('a ClientHello as large as browsers send it, and larger', async (t) => {
  const server = await startSecure(t);
  for (const size of [1700, 4000]) {
    // ALPN names fill it: the largest list of them that an extension of this size may hold
    const names = Array.from({ length: Math.ceil(size / 200) }, (_, i) => `${i}-${'x'.repeat(195)}`);
    const socket = await shake(server.secure, { ALPNProtocols: [...names, 'http/1.1'] });
    assert.equal(socket.alpnProtocol, 'http/1.1');
    socket.destroy();
    const mangled = await startMangler(t, server.secure, reframed((payload) => cut(payload, Array(3).fill(Math.ceil(payload.length / 4)))));
    (await shake(mangled, { ALPNProtocols: [...names, 'http/1.1'] })).destroy();
  }
});

test('broken hellos end at once and hurt nobody', async (t) => {
  const server = await startSecure(t);
  const other = await connect(server.secure, 'other');
  const head = (type, length) => Buffer.from([type, 3, 1, length >> 8, length & 255]);
  const broken = {
    'an empty handshake record': head(22, 0),
    'an alert first': Buffer.concat([head(21, 2), Buffer.from([2, 40])]),
    'application data first': Buffer.concat([head(23, 32), crypto.randomBytes(32)]),
    'a record longer than allowed': Buffer.concat([head(22, 0xffff), crypto.randomBytes(64)]),
    'a hello longer than allowed': Buffer.concat([head(22, 4), Buffer.from([1, 0xff, 0xff, 0xff])]),
    'a ServerHello': Buffer.concat([head(22, 40), Buffer.from([2, 0, 0, 36]), crypto.randomBytes(36)]),
    'a hello of chance': Buffer.concat([head(22, 104), Buffer.from([1, 0, 0, 100, 3, 3]), crypto.randomBytes(98)]),
    'SSL 2': Buffer.from('802e0100020015000000100100800200800300800400800500800600400700c0', 'hex'),
    'nothing of TLS': crypto.randomBytes(300).fill(0, 0, 1),
  };
  for (const [what, bytes] of Object.entries(broken)) {
    const raw = await tcp(server.secure, { bare: true });
    raw.write(bytes);
    raw.socket.end();
    await until(`${what} to be ended`, () => raw.ended, { within: 3000 * slow });
    raw.destroy();
  }
  await other.ping();
  (await shake(server.secure)).destroy();
});

/** Writes each piece as a record of its own. */
async function records(socket, pieces) {
  for (const piece of pieces) await new Promise((resolve) => socket.write(piece, resolve));
}

/** Lengths by chance that sum up to `total`; `sizes` come first. */
function lengths(total, sizes = []) {
  const found = [];
  let left = total;
  for (const size of sizes) {
    if (size > left) break;
    found.push(size);
    left -= size;
  }
  while (left > 0) {
    const size = Math.min(left, 1 + Math.floor(16384 * Math.random() ** 3));
    found.push(size);
    left -= size;
  }
  return found;
}

const SIZES = [1, 2, 15, 16, 17, 255, 256, 1023, 1024, 1025, 4095, 4096, 4097, 8192, 16383, 16384];

/** A body of the largest size for POST /api/presence: ids by chance, then blanks. */
function largeBody() {
  const ids = Array.from({ length: 1000 }, (_, i) => `${i}-${crypto.randomBytes(45).toString('base64url')}`);
  const text = JSON.stringify({ users: ids });
  return { ids, text: text.padEnd(256 * 1024, ' ') };
}

test('a request body in records of every size arrives as it was sent', async (t) => {
  const server = await startSecure(t);
  const { ids, text } = largeBody();
  const plain = await post(server, '/api/presence', text);
  assert.equal(plain.status, 200);
  const expected = plain.json.users;
  const body = Buffer.from(text);
  const head = Buffer.from(`POST /api/presence HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`);
  const ways = [[version => only(version), server.secure, SIZES]];
  for (let round = 0; round < heavy(3, 1); round++) ways.push([(version) => only(version), server.secure, []]);
  ways.push([(version) => only(version), await startMangler(t, server.secure, chopped(3000)), SIZES]);
  ways.push([(version) => only(version), await startMangler(t, server.secure, chopped(200)), []]);
  for (const [options, target, sizes] of ways) {
    for (const version of VERSIONS) {
      const raw = await tcp(target, options(version));
      for (let again = 0; again < 2; again++) {
        const whole = Buffer.concat([head, body]);
        const used = lengths(whole.length, sizes);
        await records(raw.socket, cut(whole, used));
        const answer = await raw.response();
        assert.equal(answer.status, 200, `${version} ${used.slice(0, 20)}`);
        assert.deepEqual(JSON.parse(answer.body).users, expected);
      }
      raw.destroy();
    }
  }
  assert.deepEqual(expected.map((user) => user.user_id), ids);
});

test('WebSocket messages in records of every size arrive as they were sent', async (t) => {
  const longest = 64 * 1024;
  const server = await startSecure(t, {
    args: ['--max-message', '64k', '--max-messages-per-second', '0'],
  });
  const message = (size) => {
    const empty = JSON.stringify({ type: 'ping', pad: '' }).length;
    const pad = 'é'.repeat(Math.max(0, (size - empty) >> 1)) + 'x'.repeat(Math.max(0, size - empty) & 1);
    return frame(OP.text, JSON.stringify({ type: 'ping', pad }));
  };
  const shapes = [server.secure, await startMangler(t, server.secure, chopped(1500))];
  for (const target of shapes) {
    for (const version of VERSIONS) {
      const raw = await tcp(target, only(version));
      raw.write(upgrade(`u-${version}`));
      assert.equal((await raw.head()).status, 101);
      assert.equal((await raw.message()).type, 'hello');
      for (const size of [30, 125, 126, 1000, 4096, 16384, 65535, longest]) {
        const bytes = message(size);
        await records(raw.socket, cut(bytes, lengths(bytes.length, size > 1000 ? SIZES.slice(0, 8) : [1, 2, 3])));
        assert.equal((await raw.message()).type, 'pong', `${size} bytes`);
      }
      // many messages in one record, one of them cut by its end
      const many = Buffer.concat([...Array.from({ length: 40 }, (_, i) => message(30 + i)), message(9000)]);
      await records(raw.socket, cut(many, [many.length - 5000]));
      for (let i = 0; i < 41; i++) assert.equal((await raw.message()).type, 'pong', `message ${i}`);
      raw.write(message(longest + 100));
      assert.equal(await raw.closeCode(), 1009);
      raw.destroy();
    }
  }
});

test('many requests in one record, and one request over many', async (t) => {
  const server = await startSecure(t);
  const raw = await tcp(server.secure);
  const request = 'GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n';
  raw.write(request.repeat(100));
  for (let i = 0; i < 100; i++) assert.equal((await raw.response()).status, 200, `answer ${i}`);
  for (const byte of request) await records(raw.socket, [byte]);
  assert.equal((await raw.response()).status, 200);
  assert.equal(await heartbeats(server.secure, Array.from({ length: 200 }, (_, i) => `u${i}`)), 200);
  await batch(server.secure, ['u0', 'u199', 'nobody']);
  assert.equal((await get(server.secure, '/api/presence/u7')).json.source, 'cached');
});
