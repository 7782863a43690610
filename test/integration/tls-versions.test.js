'use strict';
// TLS 1.2 and 1.3, by both kinds of certificate, and nothing older.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const https = require('node:https');
const { test, start, startSecure, Authority, tempDir, shake, refusedShake, shown, sessionOf, connect, get, json, presence,
  stats, until, heartbeat } = require('./lib');

const VERSIONS = ['TLSv1.2', 'TLSv1.3'];
const only = (version) => ({ minVersion: version, maxVersion: version });

/** A request and its answer: by then the handshake is done on both sides. */
const served = (socket) =>
  new Promise((resolve) => {
    socket.once('data', resolve);
    socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
  });

for (const kind of ['ec', 'p384', 'rsa']) {
  test(`wss and https with a certificate of ${kind}, TLS 1.2 and 1.3`, async (t) => {
    const authority = new Authority(tempDir(t));
    const certs = [authority.issue('localhost', { kind })];
    const server = await startSecure(t, { authority, certs });
    for (const version of VERSIONS) {
      const client = await connect(server.secure, `u-${version}`, only(version));
      const tls = client.socket._socket;
      assert.equal(tls.getProtocol(), version);
      assert.equal(tls.getPeerCertificate().fingerprint256, certs[0].fingerprint);
      await client.ping();
      const agent = new https.Agent({ keepAlive: true, ...only(version) });
      const user = await presence(server.secure, `u-${version}`, { agent });
      assert.equal(user.source, 'live');
      assert.deepEqual(user, await presence(server, `u-${version}`), 'the same through both doors');
      agent.destroy();
      assert.equal((await client.close()).code, 1000);
    }
    const { counters } = await stats(server);
    assert.ok(counters.tls_handshakes >= 4, JSON.stringify(counters));
  });
}

test('the whole chain is shown: a client that knows only the root trusts the leaf', async (t) => {
  const root = new Authority(tempDir(t));
  const server = await startSecure(t, { authority: root, certs: [root.below('middle').issue('localhost')] });
  for (const version of VERSIONS) {
    const socket = await shake(server.secure, only(version));
    assert.equal(socket.authorized, true);
    assert.equal(socket.getPeerCertificate(true).issuerCertificate.subject.CN, 'authority-middle');
    socket.destroy();
  }
});

test('a certificate file that holds its key needs no --tls-key', async (t) => {
  const authority = new Authority(tempDir(t));
  const one = authority.issue('localhost');
  const server = await startSecure(t, { authority, certs: [], args: ['--tls-cert', one.both] });
  assert.equal(await shown(server.secure), one.fingerprint);
});

test('older versions and weak ciphers are refused, and counted', async (t) => {
  const authority = new Authority(tempDir(t));
  const server = await startSecure(t, {
    authority,
    certs: [authority.issue('localhost', { kind: 'rsa' })],
  });
  const weak = 'ALL:COMPLEMENTOFALL@SECLEVEL=0';
  for (const version of ['TLSv1', 'TLSv1.1']) {
    const error = await refusedShake(server.secure, { ...only(version), ciphers: weak });
    assert.match(error.message, /alert protocol version|alert number 70/i, version);
  }
  const before = (await stats(server)).counters.tls_failures;
  const refused = ['NULL', 'AES128-SHA', 'AES256-SHA256', 'AES128-GCM-SHA256', 'aNULL', 'CAMELLIA', 'ARIA'];
  for (const ciphers of refused) {
    const error = await refusedShake(server.secure, {
      ...only('TLSv1.2'),
      ciphers: `${ciphers}:@SECLEVEL=0`,
    });
    assert.match(error.message, /alert|handshake failure/i, ciphers);
  }
  await until('failures to be counted', async () => (await stats(server)).counters.tls_failures >= before + refused.length);
  for (const ciphers of ['ECDHE-RSA-AES128-GCM-SHA256', 'ECDHE-RSA-AES256-GCM-SHA384']) {
    const socket = await shake(server.secure, { ...only('TLSv1.2'), ciphers });
    assert.equal(socket.getCipher().name, ciphers);
    assert.equal(socket.getEphemeralKeyInfo().type, 'ECDH', 'forward secret');
    socket.destroy();
  }
});

test('a client may not ask for another handshake inside a connection', async (t) => {
  const server = await startSecure(t);
  const socket = await shake(server.secure, only('TLSv1.2'));
  const ended = new Promise((resolve) => socket.on('close', resolve));
  socket.on('error', () => {});
  const answered = await new Promise((resolve) => {
    if (!socket.renegotiate({}, (error) => resolve(!error))) resolve(false);
    ended.then(() => resolve(false));
  });
  assert.equal(answered, false, 'renegotiated');
  assert.equal((await get(server.secure, '/healthz')).status, 200);
});

test('ALPN: http/1.1 is chosen, h2 never', async (t) => {
  const server = await startSecure(t);
  for (const version of VERSIONS) {
    for (const [offer, chosen] of [[['http/1.1'], 'http/1.1'], [['h2', 'http/1.1'], 'http/1.1'], [undefined, false]]) {
      const socket = await shake(server.secure, { ...only(version), ALPNProtocols: offer });
      assert.equal(socket.alpnProtocol, chosen, `${version} ${offer}`);
      socket.destroy();
    }
    const error = await refusedShake(server.secure, { ...only(version), ALPNProtocols: ['h2'] });
    assert.match(error.message, /no application protocol|alert number 120/i, version);
  }
});

test('a session is resumed in both versions, and only once it is known', async (t) => {
  const server = await startSecure(t);
  for (const version of VERSIONS) {
    const first = await shake(server.secure, only(version));
    assert.equal(first.isSessionReused(), false);
    const session = await sessionOf(first);
    const before = (await stats(server)).counters.tls_resumed;
    for (let i = 0; i < 3; i++) {
      const again = await shake(server.secure, { ...only(version), session });
      assert.equal(again.isSessionReused(), true, version);
      await served(again); // whoever goes before has not resumed
      again.destroy();
    }
    const client = await connect(server.secure, 'u', { ...only(version), session });
    assert.equal(client.socket._socket.isSessionReused(), true);
    await client.ping();
    await until('resumptions to be counted', async () => (await stats(server)).counters.tls_resumed === before + 4);
    first.destroy();
  }
});

test('B12 a ticket from before the kind of certificate changed is a full handshake', async (t) => {
  const authority = new Authority(tempDir(t));
  const place = authority.issue('localhost', { kind: 'ec' });
  const server = await startSecure(t, { authority, certs: [place], allow: [/level=info/] });
  for (const kind of ['rsa', 'ec', 'rsa']) {
    const sessions = [];
    for (const version of VERSIONS) {
      const socket = await shake(server.secure, only(version));
      sessions.push(await sessionOf(socket));
      socket.destroy();
    }
    const next = authority.issue('localhost', { kind });
    fs.copyFileSync(next.cert, place.cert);
    fs.copyFileSync(next.key, place.key);
    server.signal('SIGHUP');
    await until('the new certificate', async () => (await shown(server.secure)) === next.fingerprint);
    const before = (await stats(server)).counters;
    const again = await shake(server.secure, { ...only('TLSv1.2'), session: sessions[0] });
    assert.equal(again.isSessionReused(), false);
    assert.equal(again.getPeerCertificate().fingerprint256, next.fingerprint);
    const fresh = await sessionOf(again);
    await served(again);
    assert.equal((await stats(server)).counters.tls_resumed, before.tls_resumed, 'not counted');
    const resumed = await shake(server.secure, { ...only('TLSv1.2'), session: fresh });
    assert.equal(resumed.isSessionReused(), true, 'its own ticket is good');
    const newer = await shake(server.secure, { ...only('TLSv1.3'), session: sessions[1] });
    await served(newer);
    for (const socket of [again, resumed, newer]) socket.destroy();
  }
});

test('a ticket is good for another of the ciphers it could have been made with', async (t) => {
  const server = await startSecure(t);
  const ciphers = ['ECDHE-ECDSA-AES128-GCM-SHA256', 'ECDHE-ECDSA-CHACHA20-POLY1305', 'ECDHE-ECDSA-AES256-GCM-SHA384'];
  for (const [i, first] of ciphers.entries()) {
    const one = await shake(server.secure, { ...only('TLSv1.2'), ciphers: first });
    const session = await sessionOf(one);
    one.destroy();
    // a client that would rather have another now, and one that no longer has the ticket's own
    for (const list of [[ciphers[(i + 1) % 3], first], [first, ciphers[(i + 1) % 3]]]) {
      const again = await shake(server.secure, { ...only('TLSv1.2'), ciphers: list.join(':'), session });
      await served(again);
      again.destroy();
    }
  }
});

test('a ticket of another server, or a damaged one, is a full handshake and no failure', async (t) => {
  const authority = new Authority(tempDir(t));
  const certs = [authority.issue('localhost')];
  const one = await startSecure(t, { authority, certs });
  const other = await startSecure(t, { authority, certs });
  for (const version of VERSIONS) {
    const socket = await shake(other.secure, only(version));
    const session = await sessionOf(socket);
    socket.destroy();
    const again = await shake(one.secure, { ...only(version), session });
    assert.equal(again.isSessionReused(), false);
    assert.equal(again.authorized, true);
    again.destroy();
  }
});

test('SNI picks among two certificates; an unknown name and none get the first', async (t) => {
  const authority = new Authority(tempDir(t));
  const certs = [
    authority.issue('one.test', { hosts: ['one.test', '127.0.0.1'] }),
    authority.issue('two.test', { kind: 'rsa', hosts: ['two.test', '*.wild.test'] }),
  ];
  const server = await startSecure(t, { authority, certs });
  const lax = { checkServerIdentity: () => undefined };
  for (const version of VERSIONS) {
    for (const [servername, index] of [['one.test', 0], ['two.test', 1], ['TWO.test', 1], ['a.wild.test', 1],
      ['a.b.wild.test', 0], ['wild.test', 0], ['unknown.test', 0], ['', 0]]) {
      const fingerprint = await shown(server.secure, { ...only(version), servername, ...lax });
      assert.equal(fingerprint, certs[index].fingerprint, `${version} ${servername}`);
    }
  }
});

test('a plain and a TLS port, IPv6 too, serve the same users', async (t) => {
  const server = await startSecure(t, { tlsListen: ['127.0.0.1:0', '[::1]:0'] });
  const [four, six] = server.of('https');
  assert.deepEqual([four.host, six.host], ['127.0.0.1', '::1']);
  await connect(server, 'plain');
  await connect(server.secure, 'secure');
  await connect(Object.assign(Object.create(server.secure), six), 'six');
  const { users } = await json(server.secure, '/admin/online-users');
  assert.deepEqual(users.map((user) => user.user_id).sort(), ['plain', 'secure', 'six']);
  const [connection] = (await json(server, '/admin/users/secure')).connection_list;
  assert.equal(connection.address, '127.0.0.1');
  await heartbeat(server.secure, 'beat');
  assert.equal((await presence(server, 'beat')).source, 'cached');
});

test('without --tls-listen nothing of TLS is there', async (t) => {
  const server = await start(t);
  assert.deepEqual(server.of('https'), []);
  assert.equal((await stats(server)).counters.tls_handshakes, 0);
});
