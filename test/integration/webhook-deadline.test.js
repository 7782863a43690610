'use strict';
// Variants: release asan
// --webhook-timeout holds for the whole request: for finding the host, and against a receiver that
// sends without end, which is never waited for.
const assert = require('node:assert/strict');
const dgram = require('node:dgram');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const tls = require('node:tls');
const { test, dice, sideBySide, start, startReceiver, heartbeat, stats, until, cleanup, cannotMount, tempDir, Authority, slow } = require('./lib');
const { threads } = require('./lib/proc');

const FAILS = /level=warn msg="webhook: cannot deliver to [^"]*; changes wait in the store"$/;
const WORKS = /level=warn msg="webhook: \S+ takes changes again, after \d+ s"$/;
const hook = async (server) => (await stats(server)).webhook;
const TIMEOUT = ['--webhook-timeout', '400ms'];

/** Writes `bytes` to a socket again and again, as fast as it takes them. */
function pour(socket, bytes) {
  const more = () => {
    while (!socket.destroyed && socket.write(bytes)) continue;
  };
  socket.on('drain', more);
  more();
}

/** A receiver that gives each socket to `serve`; the options of a server that tells it. */
async function listening(t, scheme, server) {
  const sockets = new Set();
  server.on('connection', (socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup(t, () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const secret = path.join(tempDir(t), 'secret');
  fs.writeFileSync(secret, '0123456789abcdef');
  return ['--webhook-url', `${scheme}://127.0.0.1:${server.address().port}/`, '--webhook-secret-file', secret];
}

const RECORDS = (type, payload, count) => Buffer.concat(Array(count).fill(Buffer.concat([Buffer.from([type, 3, 3, 0, payload.length]), payload])));
const secure = ({ pem, keyPem }, serve) => {
  const server = tls.createServer({ key: keyPem, cert: pem }, (socket) => {
    socket.on('error', () => {});
    serve(socket);
  });
  server.on('tlsClientError', () => {});
  return server;
};

// What a receiver can send without end: name, scheme, and the server.
const ENDLESS = [
  ['records of TLS that mean nothing (change_cipher_spec, 6 bytes each), for a hello', 'https',
    () => net.createServer((socket) => socket.once('data', () => pour(socket, RECORDS(20, Buffer.from([1]), 500))))],
  ['alerts that are warnings, for a hello', 'https',
    () => net.createServer((socket) => socket.once('data', () => pour(socket, RECORDS(21, Buffer.from([1, 112]), 500))))],
  ['interim answers', 'http', () => net.createServer((socket) => pour(socket, 'HTTP/1.1 100 Continue\r\n\r\n'.repeat(100)))],
  ['interim answers inside TLS', 'https', (issued) => secure(issued, (socket) => pour(socket, 'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n'))],
];

sideBySide(() => {
  for (const [what, scheme, make] of ENDLESS)
    test(`a receiver that sends without end: ${what}`, async (t) => {
      const authority = new Authority(tempDir(t));
      const args = await listening(t, scheme, make(authority.issue('127.0.0.1', { hosts: ['127.0.0.1'] })));
      const server = await start(t, { args: [...args, ...TIMEOUT, '--webhook-ca-file', authority.file], allow: [FAILS] });
      await heartbeat(server, 'alice');
      await until('the second try to fail', async () => (await hook(server)).failures >= 2, { within: 15000 * slow });
      const { last_error: error, pending } = await hook(server);
      assert.ok(/^no answer in time$|fatal|alert|message/i.test(error), error);
      assert.equal(pending, 1);
      await server.stop();
    });

  test('receivers that send whatever, without end: each request ends, nothing is delivered, nothing breaks', { timeout: 120000 * slow }, async (t) => {
    const dir = tempDir(t);
    const secret = path.join(dir, 'secret');
    fs.writeFileSync(secret, '0123456789abcdef');
    const authority = new Authority(dir);
    const issued = authority.issue('127.0.0.1', { hosts: ['127.0.0.1'] });
    const random = dice(11); // the same every time
    const bytes = (n) => Buffer.from(Array.from({ length: n }, () => random(256)));
    const record = () => Buffer.concat([Buffer.from([20 + random(5), 3, random(5), 0, 0]), bytes(random(40))]);
    const pieces = {
      records: () => { // with lengths that are right, and now and then not
        const one = record();
        one.writeUInt16BE(random(20) ? one.length - 5 : random(65536), 3);
        return one;
      },
      bytes: () => bytes(1 + random(100)),
      lines: () => Buffer.from(['HTTP/1.1 100 Continue\r\n\r\n', 'HTTP/1.1 102 x\r\n', 'X: y\r\n', '\r\n', '\n', 'HTTP/1.1 1', '03 \r\n'][random(7)]),
      interim: () => Buffer.from(`HTTP/1.1 ${100 + random(2) * 3} x\r\n${'A: b\r\n'.repeat(random(4))}\r\n`),
    };
    for (const [scheme, kind, inside] of [['https', 'records'], ['https', 'bytes'], ['http', 'bytes'], ['http', 'lines'], ['http', 'interim'], ['https', 'lines', true], ['https', 'interim', true]]) {
      const blob = Buffer.concat(Array.from({ length: 300 }, pieces[kind]));
      const serve = (socket) => pour(socket, blob);
      const receiver = inside ? secure(issued, serve) : net.createServer((socket) => (random(2) ? serve(socket) : socket.once('data', () => serve(socket))));
      const args = await listening(t, scheme, receiver);
      const server = await start(t, { args: [...args, ...TIMEOUT, '--webhook-ca-file', authority.file], allow: [FAILS] });
      await heartbeat(server, 'alice');
      await until(`${scheme} ${kind}: a failure`, async () => (await hook(server)).failures >= 1, { within: 15000 * slow });
      assert.equal((await hook(server)).pending, 1);
      await server.stop();
    }
  });

  test('a resolver that hangs holds a request for --webhook-timeout, with one thread; then it is found', { skip: cannotMount }, async (t) => {
    const receiver = await startReceiver(t, { name: 'receiver.example.test' });
    const dir = tempDir(t);
    const resolver = dgram.createSocket('udp4');
    let answers = false;
    resolver.on('message', (query, from) => { // RFC 1035 section 4.1
      if (!answers) return;
      const end = query.indexOf(0, 12) + 5;
      const head = Buffer.from(query.subarray(0, 12));
      const isA = query.readUInt16BE(end - 4) === 1;
      head.writeUInt16BE(0x8180, 2);
      head.writeUInt16BE(isA ? 1 : 0, 6);
      head.writeUInt32BE(0, 8);
      const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
      resolver.send(Buffer.concat([head, query.subarray(12, end), ...(isA ? [record] : [])]), from.port, from.address);
    });
    await new Promise((resolve) => resolver.bind(53, '127.53.53.54', resolve));
    cleanup(t, () => resolver.close());
    fs.writeFileSync(path.join(dir, 'resolv.conf'), 'nameserver 127.53.53.54\noptions timeout:3 attempts:3\n');
    const wrap = ['unshare', '-m', 'sh', '-c', 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"', 'sh', path.join(dir, 'resolv.conf')];
    const server = await start(t, { wrap, args: [...receiver.args, ...TIMEOUT], allow: [FAILS, WORKS] });
    await heartbeat(server, 'alice');
    for (let failures = 1; failures <= 3; failures++) {
      await until('a failure', async () => (await hook(server)).failures >= failures, { within: 15000 * slow });
      assert.equal((await hook(server)).last_error, 'cannot find receiver.example.test: the resolver does not answer in time');
      const asking = [...threads(server.pid).values()].filter((one) => one.name === 'resolver');
      assert.ok(asking.length <= 1, `${asking.length} threads wait for the resolver`);
    }
    answers = true;
    assert.deepEqual(await receiver.told(1, { within: 20000 * slow }), ['join alice']);
    await until('it to be noted', async () => (await hook(server)).delivered === 1);
    await server.stop();
  });
});
