'use strict';
// Variants: release asan
// Records of any size are joined; what is no record, or none that may come now, is told by an alert
// (RFC 8446 sections 5 and 6, RFC 5246 section 6).
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { test, startSecure, startMangler, reframed, cut, connect, get, shake, stats, tcp, until, proc, upgrade } = require('./lib');
const { handmade, ALERT, GROUP, RECORD, message, record } = require('./lib/handmade');

const VERSIONS = [12, 13];
const bySize = (size) => (one) => cut(one, Array(Math.ceil(one.length / size)).fill(size));

test('B26 handshake messages in records of 1 to 5 bytes, each one of them', async (t) => {
  const server = await startSecure(t);
  for (const version of VERSIONS) {
    for (const size of [1, 2, 3, 4, 5]) {
      const one = await handmade(server.secure, { version, split: bySize(size) });
      await one.handshake().catch((error) => assert.fail(`${version}, ${size}: ${error.message}`));
      await one.works();
      one.raw.destroy();
    }
    for (const lengths of [[1, 3], [2, 1, 1], [3, 1], [3, 2], [3, 300], [1, 1, 1, 1], [4], [5]]) {
      const one = await handmade(server.secure, { version, split: (bytes) => cut(bytes, lengths) });
      await one.handshake().catch((error) => assert.fail(`${version}, ${lengths}: ${error.message}`));
      await one.works();
      one.raw.destroy();
    }
  }
});

test('B26 also in the hello after a HelloRetryRequest, and when each record comes alone', async (t) => {
  const server = await startSecure(t);
  for (const size of [1, 2, 3, 50]) {
    const one = await handmade(server.secure, { split: bySize(size) });
    await one.handshake({ groups: [GROUP.p384], shares: {} });
    await one.works();
    one.raw.destroy();
  }
  for (const version of VERSIONS) {
    const one = await handmade(server.secure, { version, split: bySize(2) });
    const write = one.raw.write.bind(one.raw);
    let last = Promise.resolve();
    one.raw.write = (...records) => { // one after the other, so that the server sees most of them alone
      for (const bytes of records) last = last.then(() => new Promise((resolve) => setImmediate(() => resolve(write(bytes)))));
    };
    await one.handshake();
    await one.works();
    one.raw.destroy();
  }
});

test('B26 two handshake messages in pieces do not mix with other records', async (t) => {
  const server = await startSecure(t);
  const first = (one) => one.hello().subarray(0, 2);
  for (const [what, type, payload] of [['an alert', RECORD.alert, [1, 90]], ['a change_cipher_spec', RECORD.ccs, [1]], ['data', RECORD.data, [1, 2, 3]]]) {
    const one = await handmade(server.secure);
    one.raw.write(record(RECORD.handshake, first(one)), record(type, Buffer.from(payload)));
    assert.equal(await one.alert(), ALERT.unexpected_message, what);
    one.raw.destroy();
  }
});

test('a hello in records of one byte costs the server as much a byte, however long it is', async (t) => {
  const server = await startSecure(t);
  const cost = async (pad) => {
    const before = proc.cpu(server.pid);
    for (let i = 0; i < 8; i++) {
      const one = await handmade(server.secure, { split: bySize(1) });
      await one.handshake({ pad });
      await one.works();
      one.raw.destroy();
    }
    return proc.cpu(server.pid) - before;
  };
  await cost(100);
  const [small, large] = [await cost(1000), await cost(12000)];
  assert.ok(large <= 30 * (small + 20), `${small} ms for 1,000 bytes, ${large} for 12,000`);
});

test('a hello of 16 KiB works, a longer one has an alert', async (t) => {
  const server = await startSecure(t);
  for (const version of VERSIONS) {
    const length = (await handmade(server.secure, { version })).hello().length;
    for (const split of [(one) => [one], bySize(4000), bySize(1)]) {
      const fits = await handmade(server.secure, { version, split });
      await fits.handshake({ pad: 16384 - 4 - length });
      await fits.works();
      fits.raw.destroy();
    }
    for (const pad of [17000, 20000, 60000]) {
      const one = await handmade(server.secure, { version, split: bySize(16000) });
      one.say(one.hello({ pad }));
      assert.equal(await one.alert(), ALERT.illegal_parameter, `${pad}`);
      one.raw.destroy();
    }
  }
});

test('an alert says what is wrong with a hello', async (t) => {
  const server = await startSecure(t);
  const none = [GROUP.x448, GROUP.p521];
  const cases = [
    ['no common group', 13, (one) => one.say(one.hello({ groups: none, shares: { [none[0]]: Buffer.alloc(56) } })), ALERT.handshake_failure],
    ['no common group, TLS 1.2', 12, (one) => one.say(one.hello({ groups: none })), ALERT.handshake_failure],
    ['no common cipher', 13, (one) => one.say(one.hello({ suites: [0x1304] })), ALERT.handshake_failure],
    ['no common cipher, TLS 1.2', 12, (one) => one.say(one.hello({ suites: [0x002f] })), ALERT.handshake_failure],
    ['a record of unknown type', 13, (one) => one.raw.write(record(24, Buffer.alloc(4))), ALERT.unexpected_message],
    ['a record of unknown type behind half a hello', 13,
      (one) => one.raw.write(record(22, one.hello().subarray(0, 20)), record(24, Buffer.alloc(4))), ALERT.unexpected_message],
    ['a record that is too long', 13, (one) => one.raw.write(record(22, Buffer.alloc(9), 0x4101)), ALERT.record_overflow],
    ['a record of more than 2^14 bytes in the clear', 13, (one) => one.raw.write(record(22, Buffer.alloc(16385, 1))), ALERT.record_overflow],
    ['an empty record', 13, (one) => one.raw.write(record(22, Buffer.alloc(0))), ALERT.unexpected_message],
    ['data', 13, (one) => one.raw.write(record(23, Buffer.alloc(32))), ALERT.unexpected_message],
    ['a change_cipher_spec before any hello', 13, (one) => one.raw.write(record(20, Buffer.from([1]))), ALERT.unexpected_message],
    ['a Finished', 13, (one) => one.say(message(20, Buffer.alloc(32))), ALERT.unexpected_message],
    ['a hello cut short', 13, (one) => one.say(message(1, one.hello().subarray(4, 60))), ALERT.decode_error],
    ['SSL 3 and no more', 12, (one) => { const hello = one.hello(); hello[5] = 0; one.say(hello); }, ALERT.protocol_version],
  ];
  const wrong = [];
  for (const [what, version, act, expected] of cases) {
    const one = await handmade(server.secure, { version });
    act(one);
    const alert = await one.alert().catch((error) => error.message);
    if (alert !== expected) wrong.push(`${what}: ${alert}`);
    one.raw.destroy();
  }
  assert.deepEqual(wrong, []);
  (await shake(server.secure)).destroy();
});

/** What is wrong with a record once the handshake is done, or before the client's Finished. */
const wrongRecords = (one) => {
  const good = one.out.seal(RECORD.data, Buffer.from('GET / HTTP/1.1\r\n'));
  const bad = Buffer.from(good);
  bad[bad.length - 1] ^= 1;
  const unknown = Buffer.from(good);
  unknown[0] = 24;
  return [
    ['a bad MAC', bad, ALERT.bad_record_mac],
    ['a record of unknown type', unknown, ALERT.unexpected_message],
    ['a record that is too long', record(RECORD.data, Buffer.alloc(9), 0x4101), ALERT.record_overflow],
    ['a change_cipher_spec', record(RECORD.ccs, Buffer.from([1])), one.version === 13 ? ALERT.unexpected_message : ALERT.bad_record_mac],
    ['half a record, then an end', good.subarray(0, 9), 'end'],
  ];
};

test('an alert says what is wrong with a record, on a connection and on a WebSocket', async (t) => {
  const server = await startSecure(t);
  const other = await connect(server.secure, 'other');
  const wrong = [];
  for (const version of VERSIONS) {
    for (const where of ['before a request', 'on a WebSocket']) {
      for (let i = 0; i < 5; i++) {
        const one = await handmade(server.secure, { version });
        await one.handshake();
        if (where === 'on a WebSocket') {
          one.send(upgrade(`u${i}`));
          await one.receive(/"hello"/);
        }
        const [what, bytes, expected] = wrongRecords(one)[i];
        one.raw.write(bytes);
        if (expected === 'end') one.raw.socket.end();
        const alert = await one.alert().catch((error) => error.message);
        const fine = alert === expected || (expected === 'end' && alert === ALERT.close_notify);
        if (!fine) wrong.push(`${version}, ${where}, ${what}: ${alert}`);
        one.raw.destroy();
      }
    }
  }
  assert.deepEqual(wrong, []);
  await other.ping();
});

test('a bad Finished is told, in the clear and enciphered', async (t) => {
  const server = await startSecure(t);
  for (const version of VERSIONS) {
    const one = await handmade(server.secure, { version });
    const say = one.say.bind(one);
    one.say = (bytes, options) => say(bytes[0] === 20 ? message(20, crypto.randomBytes(bytes.length - 4)) : bytes, options);
    const alert = await one.handshake().then(() => one.alert(), ({ message: text }) => Number(/^alert (\d+)$/.exec(text)?.[1]));
    assert.equal(alert, ALERT.decrypt_error, `TLS ${version}`);
    one.raw.destroy();
  }
});

test('KeyUpdate is followed and answered, alone and in pieces, and not without end', async (t) => {
  const server = await startSecure(t);
  const one = await handmade(server.secure);
  await one.handshake();
  const update = (asks) => {
    one.say(message(24, Buffer.from([asks])));
    one.out = one.out.next();
  };
  for (const asks of [0, 1, 1, 0]) {
    update(asks);
    await one.works();
  }
  assert.equal(one.updated, 2, 'answers to the two that asked');
  one.split = bySize(1);
  update(1);
  update(1); // two before an answer: one is enough
  one.split = (bytes) => [bytes];
  await one.works();
  assert.equal(one.updated, 3);
  one.send(upgrade('u'));
  await one.receive(/"hello"/);
  update(1);
  one.send(Buffer.concat([Buffer.from([0x81, 0x84, 0, 0, 0, 0]), Buffer.from('ping')]));
  await one.receive(/pong/);
  assert.equal(one.updated, 4);
  for (const [what, bytes, expected] of [
    ['a request that is none', message(24, Buffer.from([2])), ALERT.illegal_parameter],
    ['one that is too long', message(24, Buffer.from([0, 0])), ALERT.unexpected_message],
    ['one with a message behind it', Buffer.concat([message(24, Buffer.from([0])), message(24, Buffer.from([0]))]), ALERT.unexpected_message],
  ]) {
    const bad = await handmade(server.secure);
    await bad.handshake();
    bad.say(bytes);
    assert.equal(await bad.alert(), expected, what);
    bad.raw.destroy();
  }
  const write = one.raw.write.bind(one.raw);
  const sixty = [];
  one.raw.write = (bytes) => sixty.push(bytes);
  for (let i = 0; i < 60; i++) update(0);
  write(...sixty);
  assert.equal(await one.alert(), ALERT.unexpected_message, 'sixty in a row');
});

test('who asks for another handshake again and again is not answered for ever', async (t) => {
  const server = await startSecure(t);
  const one = await handmade(server.secure, { version: 12 });
  await one.handshake();
  const hello = () => one.out.seal(RECORD.handshake, message(1, Buffer.alloc(0)));
  for (let i = 0; i < 3; i++) one.raw.write(hello());
  await one.works().catch((error) => assert.match(error.message, /alert 100/));
  one.raw.write(...Array.from({ length: 500 }, hello));
  const alerts = [];
  for (let next; (next = await one.record());) if (next.type === RECORD.alert) alerts.push(next.payload[1]);
  assert.ok(alerts.length < 10, `${alerts.length} alerts`);
  assert.equal(alerts.at(-1), ALERT.unexpected_message);
});

test('half a hello that is cut counts as a failure, a look at the port does not', async (t) => {
  const server = await startSecure(t);
  const failures = async () => (await stats(server)).counters.tls_failures;
  const look = await tcp(server.secure, { bare: true });
  look.socket.end();
  await look.closed;
  assert.equal(await failures(), 0);
  const ends = [
    (one) => one.raw.write(record(22, one.hello()).subarray(0, 40)),
    (one) => one.raw.write(record(22, one.hello().subarray(0, 40))),
    (one) => one.raw.write(Buffer.from([22])),
    async (one) => { one.say(one.hello()); await one.serverHello(); },
  ];
  for (const [i, end] of ends.entries()) {
    const one = await handmade(server.secure);
    await end(one);
    one.raw.socket.end();
    await until(`failure ${i + 1} to be counted`, async () => (await failures()) === i + 1);
    one.raw.destroy();
  }
  assert.equal((await get(server.secure, '/healthz')).status, 200);
  const mangled = await startMangler(t, server.secure, reframed((payload) => cut(payload, [1, 1, 1])));
  (await shake(mangled)).destroy();
});
