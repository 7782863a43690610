'use strict';
// Variants: asan tsan
// How TLS connections end, what comes with the upgrade request, and the wrong kind of client at
// either port.
const assert = require('node:assert/strict');
const http = require('node:http');
const https = require('node:https');
const { test, sideBySide, startSecure, startMangler, startProxy, tcp, rawConnect, connect, upgrade, frame, OP, closePayload, get, json,
  request, del, presence, until, slow, window, proc, shake, assertLeftOnce, stats, seen } = require('./lib');

const VERSIONS = ['TLSv1.2', 'TLSv1.3'];
const only = (version) => ({ minVersion: version, maxVersion: version });
const offline = (server, id) => until(`${id} to be offline`, async () => !(await presence(server, id)).online);

sideBySide(() => {
  test('O05 a TLS connection that ends without close_notify, half or whole, is noticed and leaks nothing', async (t) => {
    const server = await startSecure(t, { args: ['--grace', '200ms'] });
    const warm = await connect(server.secure, 'warm');
    await warm.close();
    const before = proc.descriptors(server.pid);
    const mangled = await startMangler(t, server.secure);
    for (const version of VERSIONS) {
      for (let i = 0; i < 5; i++) await rawConnect(mangled, `bare-${version}-${i}`, only(version));
      const inside = await tcp(mangled, only(version)); // in the middle of a request
      inside.write('GET /healthz HTTP/1.1\r\nHos');
      (await tcp(mangled, only(version))).write(''); // before its first request
    }
    mangled.mangler.fin(); // a FIN below TLS
    for (const version of VERSIONS) {
      for (let i = 0; i < 5; i++) await offline(server, `bare-${version}-${i}`);
      await assertLeftOnce(server, `bare-${version}-0`, 'dropped');
    }
    await until('no CLOSE_WAIT', () => proc.closeWait(server.secure.port) === 0);
    await until('no descriptor left', () => proc.descriptors(server.pid) <= before, { within: 8000 * slow });
  });

  test('a TLS half-close (close_notify, FIN) is answered by an end, user offline', async (t) => {
    const server = await startSecure(t, { args: ['--grace', '200ms'] });
    for (const version of VERSIONS) {
      const raw = await rawConnect(server.secure, `half-${version}`, only(version));
      raw.socket.end();
      await until('the server to end too', () => raw.ended);
      await offline(server, `half-${version}`);
      await assertLeftOnce(server, `half-${version}`, 'dropped');
    }
    const early = await tcp(server.secure);
    early.write(upgrade('early'));
    early.socket.end(); // close_notify right behind the request
    await until('the server to end too', () => early.ended);
    await until('no CLOSE_WAIT', () => proc.closeWait(server.secure.port) === 0);
  });

  test('a reset, and a close frame, over TLS', async (t) => {
    const server = await startSecure(t, { args: ['--grace', '200ms'] });
    const proxy = await startProxy(t, server.secure);
    const gone = await connect(server.secure, 'reset', { port: proxy.port });
    await gone.ping();
    for (const socket of proxy.sockets) socket.resetAndDestroy();
    await offline(server, 'reset');
    await assertLeftOnce(server, 'reset', 'dropped');
    const raw = await rawConnect(server.secure, 'clean');
    raw.write(frame(OP.close, closePayload(1000)));
    assert.equal(await raw.closeCode(), 1000);
    await until('the end of the connection', () => raw.ended);
    await assertLeftOnce(server, 'clean', 'closed');
  });

  test('keep-alive over TLS: many requests, one handshake', async (t) => {
    const server = await startSecure(t);
    for (const version of VERSIONS) {
      const { tls_handshakes: before } = (await stats(server)).counters;
      const agent = new https.Agent({ keepAlive: true, maxSockets: 1, ...only(version) });
      for (let i = 0; i < 30; i++) {
        assert.equal((await get(server.secure, '/healthz', { agent })).status, 200);
        assert.equal((await request(server.secure, 'POST', '/api/presence', { agent, body: { users: [`u${i}`] } })).status, 200);
        assert.equal((await get(server.secure, '/nope', { agent })).status, 404);
      }
      agent.destroy();
      assert.equal((await stats(server)).counters.tls_handshakes, before + 1);
      const raw = await tcp(server.secure, only(version));
      raw.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
      assert.equal((await raw.response()).status, 200);
      await until('the end that was asked for', () => raw.ended);
      assert.equal(raw.error, undefined, 'by close_notify, no reset');
    }
  });

  test('over TLS the close frame of the server is followed by close_notify only behind the client\'s own', async (t) => {
    const server = await startSecure(t, { args: ['--max-message', '256'] });
    let raw;
    for (let tries = 0; !raw || raw.ended; tries++) { // a slow machine may take the 2 s that are waited
      assert.ok(tries < 5, 'the client can still answer');
      raw = await rawConnect(server.secure, 'u');
      const [kicked] = await Promise.all([raw.closeCode(), del(server, '/admin/users/u/connections')]);
      assert.equal(kicked, 4403);
      await get(server, '/healthz'); // what was sent behind it is here too
    }
    raw.write(Buffer.concat([frame(OP.text, 'ping'), frame(OP.close, closePayload(4403))]));
    await until('the end', () => raw.ended);
    assert.equal(raw.error, undefined, 'by close_notify, no reset');
    const silent = await rawConnect(server.secure, 'v');
    await Promise.all([silent.closeCode(), del(server, '/admin/users/v/connections')]);
    await until('the end of one that does not answer', () => silent.ended);
    const bad = await rawConnect(server.secure, 'w');
    bad.write(Buffer.from([0xff, 0xff]));
    assert.equal(await bad.closeCode(), 1002);
    await until('the end behind what is no frame', () => bad.ended);
  });

  test('an idle TLS connection is given up, with close_notify', async (t) => {
    const server = await startSecure(t, { args: ['--keepalive-timeout', `${300 * window}ms`] });
    const raw = await tcp(server.secure);
    raw.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    assert.equal((await raw.response()).status, 200);
    await until('the end', () => raw.ended, { within: 9000 * slow }); // it may be 5 s late, as documented
    assert.equal(raw.error, undefined);
  });

  test('W01 frames in the same record as the upgrade request, behind it, and half a frame', async (t) => {
    const server = await startSecure(t);
    const ping = frame(OP.text, 'ping');
    const long = frame(OP.text, JSON.stringify({ type: 'ping', pad: 'x'.repeat(3000) }));
    const cases = {
      'the same record': (id) => [Buffer.concat([Buffer.from(upgrade(id)), ping])],
      'right behind': (id) => [Buffer.from(upgrade(id)), ping],
      'many in one record': (id) => [Buffer.concat([Buffer.from(upgrade(id)), ...Array(15).fill(ping)])],
      'half a frame': (id) => [Buffer.concat([Buffer.from(upgrade(id)), ping.subarray(0, 4)]), ping.subarray(4)],
      'one byte of a frame': (id) => [Buffer.concat([Buffer.from(upgrade(id)), ping.subarray(0, 1)]), ping.subarray(1)],
      'half a long one': (id) => [Buffer.concat([Buffer.from(upgrade(id)), long.subarray(0, 1500)]), long.subarray(1500)],
      'behind other requests': (id) => [Buffer.concat([Buffer.from(`GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n${upgrade(id)}`), ping])],
    };
    for (const version of VERSIONS) {
      for (const [index, [what, parts]] of Object.entries(cases).entries()) {
        const raw = await tcp(server.secure, only(version));
        for (const part of parts(`${version}-${index}`)) raw.write(part);
        if (what === 'behind other requests') assert.equal((await raw.response()).status, 200);
        assert.equal((await raw.head()).status, 101, what);
        assert.equal((await raw.message()).type, 'hello', what);
        const pongs = what === 'many in one record' ? 15 : 1;
        for (let i = 0; i < pongs; i++) {
          const answer = await raw.message();
          assert.ok(answer === 'pong' || answer.type === 'pong', what);
        }
        await raw.ping();
        raw.destroy();
      }
    }
  });

  test('plain HTTP at the TLS port is turned away at once', async (t) => {
    const server = await startSecure(t);
    const plain = seen(server, server.of('https')[0]);
    for (const text of ['GET / HTTP/1.1\r\nHost: localhost\r\n\r\n', upgrade('u'), 'X', '\r\n\r\n\r\n\r\n']) {
      const raw = await tcp(plain);
      raw.write(text);
      if (text.length < 5) raw.socket.end();
      await until('the end', () => raw.ended, { within: 2000 * slow });
      assert.ok(raw.bytes.length === 0 || raw.bytes[0] === 21 || /^HTTP\/1\.1 400 /.test(raw.bytes.toString('latin1')),
        `${raw.bytes.toString('latin1')}`);
      raw.destroy();
    }
    const answer = await get(plain, '/healthz').catch(() => null);
    if (answer) assert.equal(answer.status, 400);
    assert.equal((await get(server.secure, '/healthz')).status, 200);
  });

  test('TLS at the plain port is turned away at once', async (t) => {
    const server = await startSecure(t);
    const secure = seen(server, server.of('http')[0], { tls: server.secure.tls });
    for (const version of VERSIONS) {
      const began = Date.now();
      await assert.rejects(shake(secure, only(version)));
      assert.ok(Date.now() - began < 2000 * slow, `${Date.now() - began} ms`);
    }
    const answer = await new Promise((resolve, reject) => {
      http.get({ host: server.host, port: server.port, path: '/healthz', agent: false }, resolve).on('error', reject);
    });
    answer.resume();
    assert.equal(answer.statusCode, 200);
  });

  test('SIGTERM: wss clients get 1012, idle and half-shaken connections end, exit 0', async (t) => {
    const server = await startSecure(t);
    const client = await connect(server.secure, 'u');
    const raw = await tcp(server.secure);
    const silent = await tcp(server.secure, { bare: true });
    const stopped = server.stop();
    const { code, reason } = await client.closed;
    assert.equal(code, 1012);
    assert.match(reason, /^retry_after=\d+$/);
    await stopped;
    await until('all to end', () => raw.ended && silent.ended);
  });

  test('a busy mix over TLS leaves no descriptor, no CLOSE_WAIT, nobody online', async (t) => {
    const server = await startSecure(t, { args: ['--grace', '100ms'] });
    (await connect(server.secure, 'warm')).destroy();
    await offline(server, 'warm');
    const before = proc.descriptors(server.pid);
    for (let round = 0; round < 3; round++) {
      const clients = await Promise.all(Array.from({ length: 12 }, (_, i) => connect(server.secure, `m${i}`)));
      await Promise.all(clients.map((client, i) => {
        if (i % 3 === 0) return client.close();
        if (i % 3 === 1) client.destroy();
        else client.socket._socket.destroy();
        return client.closed;
      }));
      await Promise.allSettled(Array.from({ length: 6 }, () => get(server.secure, '/healthz')));
    }
    for (let i = 0; i < 12; i++) await offline(server, `m${i}`);
    await until('no CLOSE_WAIT', () => proc.closeWait(server.secure.port) === 0);
    await until('no descriptor left', () => proc.descriptors(server.pid) <= before, { within: 8000 * slow });
    assert.deepEqual((await json(server, '/admin/online-users')).count, 0);
  });
});
