'use strict';
// --acme gets a certificate by itself and renews it, whatever the server that signs does meanwhile.
// That server is a strict one of ours (lib/fake-acme.js); acme-pebble.test.js has a real one.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { test, sideBySide, start, run, secured, seen, tempDir, shake, refusedShake, connect, get, request, until, slow, heavy, dice, startAcme, Authority, DAY, refusedConfig } = require('./lib');

const NAMES = ['one.example.com', 'two.example.com'];
const FAILED = /level=warn msg="acme: no certificate from /;
const NONE = /level=warn msg="acme: there is no certificate for /;
const GOT = /level=info msg="acme: a certificate for /;
const SOON = /level=warn msg="acme: it came soon after the one before\. No other is asked for in (1m|60s)"$/;

const options = (fake, names = NAMES) => [...names.flatMap((name) => ['--acme', name]), '--acme-agree', '--acme-server', fake.url];

/** Starts a server that gets its certificate from a fake, which looks at its names. */
async function begin(t, fake, { data, args = [], listening = 0, names, allow = [] } = {}) {
  fake.seen = {}; // it waits for the ports of this one
  const server = await start(t, { data, args: ['--tls-listen', '127.0.0.1:0', ...options(fake, names), ...args],
    listening: 1 + listening, allow: [NONE, GOT, SOON, FAILED, ...allow] });
  fake.validates(server);
  server.secure = secured(server, fake.issuer.pem);
  return server;
}

/** The certificate that a new connection gets. */
async function shown(server) {
  const socket = await shake(server.secure, { servername: NAMES[0], rejectUnauthorized: false });
  const cert = new crypto.X509Certificate(socket.getPeerCertificate().raw);
  socket.destroy();
  return cert;
}

const serial = (pem) => new crypto.X509Certificate(pem).serialNumber;
const stats = async (server) => (await get(server, '/admin/stats')).json;
const named = (server, name) => connect(server.secure, name, { servername: NAMES[0] });

/** Waits until a new connection gets the newest certificate that was issued. */
const arrives = (server, fake, { least = 1 } = {}) => until('the new certificate', async () =>
  fake.issued.length >= least && (await shown(server)).serialNumber === serial(fake.issued.at(-1)),
{ within: 15000 * slow, giveUp: () => server.result });

test('the first certificate: until then one of its own, and then it is there without a restart', async (t) => {
  const fake = await startAcme(t);
  let open;
  const gate = new Promise((resolve) => { open = resolve; });
  fake.before = ({ step }) => (step === 'finalize' ? gate.then(() => undefined) : undefined);
  const server = await begin(t, fake);
  const own = await shown(server);
  assert.equal(own.issuer, own.subject, 'signed by itself');
  await until('all names looked at', () => fake.steps('finalize').length);
  assert.equal((await stats(server)).acme.renew_at, null);
  open();
  await arrives(server, fake);
  assert.deepEqual(fake.problems, []);
  assert.deepEqual(fake.looked, ['tls-alpn-01', 'tls-alpn-01']);
  const client = await named(server, 'alice'); // trusts the fake's issuer alone
  await client.ping();
  for (const version of ['TLSv1.2', 'TLSv1.3']) (await shake(server.secure, { servername: NAMES[1], minVersion: version, maxVersion: version })).destroy();
  const files = ['acme-account.pem', 'acme-cert.pem'];
  for (const name of files) assert.equal(fs.statSync(path.join(server.data, name)).mode & 0o777, 0o600, name);
  await until('the order is done with', () => !fs.existsSync(path.join(server.data, 'acme-order.pem')));
  const made = new crypto.X509Certificate(fs.readFileSync(path.join(server.data, 'acme-cert.pem')));
  assert.equal(made.publicKey.asymmetricKeyDetails.namedCurve, 'prime256v1');
  assert.equal(server.lines.filter((line) => NONE.test(line)).length, 1);
  const said = await until('the end of the order', async () => ((one) => one.acme.renew_at && one)(await stats(server)));
  const [from, to] = [made.validFrom, made.validTo].map((one) => Date.parse(one));
  const renew = (Date.parse(said.acme.renew_at) - from) / (to - from);
  assert.ok(renew >= 0.66 && renew < 0.71, `after two thirds of its life: ${renew}`);
  assert.deepEqual([said.acme.names, said.acme.last_error, said.acme.server], [NAMES, null, fake.url]);
  assert.deepEqual([said.counters.acme_certificates, said.counters.acme_failures], [1, 0]);
  const metrics = (await get(server, '/metrics')).text;
  const gauge = (name) => Number(new RegExp(`^presence_${name} (\\d+)$`, 'm').exec(metrics)[1]);
  assert.equal(Date.parse(said.certificates[0].not_after), to);
  assert.equal(gauge('acme_renewal_seconds'), Math.floor(Date.parse(said.acme.renew_at) / 1000));
});

test('it is kept over a restart, and asked for again when the names or the server are others', async (t) => {
  const fake = await startAcme(t);
  const data = tempDir(t);
  const first = await begin(t, fake, { data });
  await arrives(first, fake);
  await first.stop();
  const again = await begin(t, fake, { data });
  assert.equal((await shown(again)).serialNumber, serial(fake.issued[0]), 'from the start on');
  await again.stop();
  assert.equal(fake.issued.length, 1);
  const third = await begin(t, fake, { data, names: [NAMES[0]] });
  await arrives(third, fake, { least: 2 });
  await third.stop();
  const other = await startAcme(t);
  const fourth = await begin(t, other, { data, names: [NAMES[0]] });
  await arrives(fourth, other);
  await fourth.stop();
  assert.deepEqual([...fake.problems, ...other.problems], []);
  assert.equal(fake.accounts.size, 1);
});

test('by HTTP on --redirect-listen, when TLS is not let through', async (t) => {
  const fake = await startAcme(t);
  const server = await begin(t, fake, { args: ['--redirect-listen', '127.0.0.1:0'], listening: 1 });
  const tlsPort = fake.seen.tls;
  fake.seen.tls = 1;
  await until('a failure', () => server.lines.some((line) => FAILED.test(line)), { within: 10000 * slow });
  assert.match((await stats(server)).acme.last_error, /one\.example\.com by tls-alpn-01 is invalid: tls: /);
  server.signal('SIGHUP');
  await arrives(server, fake);
  assert.equal(fake.looked.at(-1), 'http-01');
  fake.seen.tls = tlsPort;
  const plain = seen(server, server.of('redirect')[0]);
  const answer = await request(plain, 'GET', '/.well-known/acme-challenge/abc', { headers: { Host: NAMES[0] } });
  assert.equal(answer.status, 404, 'no challenge is under way');
  assert.equal((await request(plain, 'GET', '/x', { headers: { Host: NAMES[0] } })).status, 308);
});

test('who looks for a challenge that is not there gets no handshake, and no client is taken for one', async (t) => {
  const fake = await startAcme(t);
  fake.before = ({ step }) => (step === 'challenge' ? 'hang' : undefined);
  const server = await begin(t, fake);
  await until('a challenge', () => fake.steps('challenge').length);
  const ask = (servername, ALPNProtocols) => ({ servername, ALPNProtocols, rejectUnauthorized: false });
  await refusedShake(server.secure, ask('three.example.com', ['acme-tls/1']));
  const both = await shake(server.secure, ask(NAMES[0], ['acme-tls/1', 'http/1.1']));
  assert.equal(both.alpnProtocol, 'http/1.1');
  both.destroy();
  const looked = await shake(server.secure, ask(NAMES[0], ['acme-tls/1']));
  assert.equal(looked.getPeerCertificate().subjectaltname, `DNS:${NAMES[0]}`);
  looked.write('GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n');
  const said = [];
  looked.on('data', (part) => said.push(part));
  await new Promise((resolve) => looked.on('close', resolve));
  assert.deepEqual(said, [], 'nothing is spoken');
  assert.equal((await get(server, '/healthz')).status, 200);
});

test('renewal when the server says so: those who are connected stay, new ones get the new one', async (t) => {
  const fake = await startAcme(t);
  fake.window = { start: Date.now() + 30 * DAY, end: Date.now() + 31 * DAY };
  const server = await begin(t, fake);
  await arrives(server, fake);
  const client = await named(server, 'alice');
  server.signal('SIGHUP'); // asks at once
  await until('asked when', () => fake.steps('renewal').length);
  const at = await until('the window', async () => ((one) => one > Date.now() + 29 * DAY && one < Date.now() + 32 * DAY && one)(Date.parse((await stats(server)).acme.renew_at)));
  assert.ok(at);
  fake.window = { start: Date.now() - 2000, end: Date.now() - 1000 };
  server.signal('SIGHUP');
  await arrives(server, fake, { least: 2 });
  await until('the line that says so', () => server.lines.some((line) => SOON.test(line)));
  const first = new crypto.X509Certificate(fake.issued[0]);
  const [, id] = fake.steps('renewal')[0].path.split('/renewal/');
  const [key, number] = id.split('.').map((one) => Buffer.from(one, 'base64url').toString('hex').toUpperCase());
  assert.equal(number.replace(/^00/, ''), first.serialNumber.replace(/^00/, ''));
  assert.equal(key.length, 40);
  assert.equal(fake.replaces, id, 'the new order says which it replaces');
  await client.ping();
  const bob = await named(server, 'bob');
  await bob.ping();
  assert.equal(client.open, true);
  assert.deepEqual(fake.problems, []);
});

test('whatever the server answers: one line says why, the old one is served, and it goes on after it', async (t) => {
  const fake = await startAcme(t);
  fake.window = { start: 1000, end: 2000 };
  const server = await begin(t, fake);
  await arrives(server, fake);
  await until('the line that says so', () => server.lines.some((one) => GOT.test(one)));
  const old = serial(fake.issued[0]);
  const problem = (status, type, detail, headers) => ({ status, headers, json: { type: `urn:ietf:params:acme:error:${type}`, detail } });
  const json = (value) => ({ status: 200, json: value });
  const foreign = new Authority(tempDir(t)).issue('one.example.com', { hosts: NAMES });
  const rows = [ // step, answer, what is said
    ['directory', 'drop', /ended without an answer/],
    ['directory', { status: 500, json: {} }, /its directory: answered 500/],
    ['directory', { status: 200, body: 'no JSON' }, /its directory: the answer is no JSON object/],
    ['directory', { status: 200, body: '[]' }, /its directory: the answer is no JSON object/],
    ['directory', { status: 302, headers: { Location: 'http://127.0.0.1:1/' }, json: {} }, /answered 302/],
    ['directory', json({ newNonce: 'x' }), /names 'x', which is no URL/],
    ['directory', json({ newNonce: 'https://127.0.0.1/x' }), /not on the port of its directory/],
    ['directory', json({ newNonce: `http://192.0.2.1:${fake.port}/` }), /not on the port of its directory/],
    ['directory', json({}), /does not say its newNonce/],
    ['directory', json({ meta: { externalAccountRequired: true } }), /external account/],
    ['directory', { status: 200, body: 'x'.repeat(300000) }, /more than 262144 bytes/],
    ['directory', { raw: `HTTP/1.1 200 OK\r\n\r\n${'{'.repeat(99)}` }, /does not say how long it is/],
    ['directory', { raw: 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n' }, /bad chunks/],
    ['directory', { raw: 'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{}' }, /ended within the answer/],
    ['directory', { raw: 'SSH-2.0-x\r\n\r\n' }, /no HTTP/],
    ['nonce', { status: 200 }, /its nonce: answered 200 without one/],
    ['nonce', { status: 200, headers: { 'Replay-Nonce': 'a"b' } }, /its nonce: answered 200 without one/],
    ['account', problem(400, 'badNonce', 'never'), /its account: answered 400, badNonce: never/],
    ['account', problem(403, 'unauthorized', 'go away "now"'), /its account: answered 403, unauthorized: go away/],
    ['account', json({ status: 'deactivated' }), /the account is deactivated/],
    ['account', json({ status: 'valid' }), /does not say the account's URL/],
    ['order', problem(429, 'rateLimited', 'too many', { 'Retry-After': '70000' }), /its order: answered 429, rateLimited: too many/],
    ['order', problem(503, 'serverInternal', 'down', { 'Retry-After': new Date(Date.now() + 365 * DAY).toUTCString() }), /its order: answered 503/],
    ['order', { status: 201, json: { status: 'pending' } }, /does not say the order's URL/],
    ['order', { status: 400, json: { type: 'urn:ietf:params:acme:error:malformed', detail: 'all', subproblems: [{ type: 'urn:ietf:params:acme:error:rejectedIdentifier', detail: 'not this one' }] } }, /rejectedIdentifier: not this one/],
    ['authorization', json({ status: 'pending', identifier: { type: 'dns', value: 'evil.example.com' }, challenges: [] }), /authorizes 'evil.example.com', which was not asked for/],
    ['authorization', json({ status: 'pending', identifier: { type: 'dns', value: NAMES[0] }, challenges: [{ type: 'dns-01', token: 'x', url: 'x' }] }), /none of the challenges/],
    ['authorization', json({ status: 'pending', identifier: { type: 'dns', value: NAMES[0] }, challenges: [{ type: 'tls-alpn-01', token: '../x', url: 'x' }] }), /the token of its challenge is none/],
    ['authorization', json({ status: 'revoked', identifier: { type: 'dns', value: NAMES[0] } }), /one\.example\.com is revoked/],
    ['challenge', problem(400, 'malformed', 'what?'), /its challenge: answered 400/],
    ['order-again', json({ status: 'invalid', error: { type: 'urn:ietf:params:acme:error:caa', detail: 'CAA forbids' } }), /the order is invalid: caa: CAA forbids/],
    ['finalize', problem(400, 'badCSR', 'no'), /answered 400, badCSR: no/],
    ['certificate', { status: 200, body: '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n' }, /none that can be read/],
    ['certificate', { status: 200, body: foreign.pem }, /it is for another key/],
    ['certificate', { status: 200, body: '' }, /none that can be read/],
  ];
  rows.unshift(['account', 'drop', /ended without an answer/]); // by then it is known that a renewal is due
  let asked = fake.requests.length;
  for (const [step, answer, said] of rows) {
    if (!said) continue;
    let told = false;
    fake.before = (one) => { if (one.step !== step) return undefined; told = true; return answer; };
    const lines = server.lines.length;
    server.signal('SIGHUP');
    const line = await until(`${step} ${said}`, () => server.lines.slice(lines).find((one) => FAILED.test(one)), { within: 10000 * slow });
    assert.match(line, said, step);
    assert.ok(told, step);
    assert.equal(server.lines.slice(lines).filter((one) => !/read again/.test(one)).length, 1, 'one line each');
    if (/rateLimited/.test(line)) assert.match(line, /trying again in 70000s/);
    if (/answered 503/.test(line)) assert.match(line, /trying again in (24h|1d)"?$/); // what is longer is taken for a day
    assert.ok(fake.requests.length - asked < 60, `${step}: not asked without end: ${fake.requests.length - asked}`);
    asked = fake.requests.length;
    assert.equal((await shown(server)).serialNumber, old, 'the old one is served');
  }
  fake.before = () => undefined;
  assert.equal((await stats(server)).counters.acme_failures, rows.filter(([, , said]) => said).length);
  const before = fake.issued.length;
  server.signal('SIGHUP');
  await arrives(server, fake, { least: before + 1 });
  assert.equal((await stats(server)).acme.last_error, null);
});

sideBySide(() => {
  test('nonces that are refused at random, and answers that take their time', async (t) => {
    const fake = await startAcme(t);
    const roll = dice(Date.now());
    fake.refuses = () => roll(3) === 0;
    fake.delay = 2;
    fake.retry = null;
    const server = await begin(t, fake);
    await arrives(server, fake);
    assert.deepEqual(fake.problems, []);
  });

  test('certificates that live for a minute and a half are renewed by themselves, again and again', async (t) => {
    const fake = await startAcme(t);
    fake.life = () => ({ from: Date.now() - 58000, to: Date.now() + 32000 }); // two thirds are over in 2 s
    const server = await begin(t, fake);
    await arrives(server, fake);
    const client = await named(server, 'alice');
    await until('two more', () => fake.issued.length > 2, { within: 40000 * slow });
    await client.ping();
    assert.deepEqual(fake.problems, []);
  });

  test('a stop while the server does not answer is at once, and the order goes on at the next start', async (t) => {
    const fake = await startAcme(t);
    const data = tempDir(t);
    fake.before = ({ step }) => (step === 'finalize' ? 'hang' : undefined);
    const server = await begin(t, fake, { data });
    await until('it hangs', () => fake.steps('finalize').length);
    await server.stop();
    assert.equal(server.lines.filter((line) => FAILED.test(line)).length, 0, 'a stop is no failure');
    fake.before = () => undefined;
    const again = await begin(t, fake, { data });
    await arrives(again, fake);
    assert.equal(fake.steps('order').length, 1, 'one order for both');
  });

  test('an order that is stuck at the server is not taken up for ever', async (t) => {
    const fake = await startAcme(t);
    const data = tempDir(t);
    fake.before = ({ step }) => (step === 'finalize' ? 'hang' : undefined);
    const first = await begin(t, fake, { data });
    await until('it hangs', () => fake.steps('finalize').length);
    await first.stop();
    const stuck = fake.steps('order-again').at(-1)?.path ?? fake.steps('finalize')[0].path.replace('finalize', 'order');
    const hours = (n) => Date.now() / 1000 + n * 3600;
    fs.utimesSync(path.join(data, 'acme-order.pem'), hours(-2), hours(-2));
    fake.before = ({ path: at }) => (at === stuck ? { status: 200, json: { status: 'processing' } } : undefined);
    const again = await begin(t, fake, { data });
    await arrives(again, fake);
    assert.equal(fake.steps('order').length, 2);
    await again.stop();
  });

  test('the files of the certificate in use are gone: it is served, and the next one comes all the same', async (t) => {
    const fake = await startAcme(t);
    const server = await begin(t, fake);
    await arrives(server, fake);
    await until('the order is done with', () => !fs.existsSync(path.join(server.data, 'acme-order.pem')));
    fs.unlinkSync(path.join(server.data, 'acme-cert.pem'));
    let looked;
    fake.before = async ({ step }) => { if (step === 'finalize') looked = await shown(server); };
    fake.window = { start: 1000, end: 2000 };
    server.signal('SIGHUP');
    await arrives(server, fake, { least: 2 });
    assert.equal(looked.serialNumber, serial(fake.issued[0]), 'the old one, until the new one is there');
    assert.ok(fs.existsSync(path.join(server.data, 'acme-cert.pem')));
  });

  test('a certificate on the disk that is damaged is told of, and replaced', async (t) => {
    const fake = await startAcme(t);
    const data = tempDir(t);
    const first = await begin(t, fake, { data });
    await arrives(first, fake);
    await first.stop();
    const file = path.join(data, 'acme-cert.pem');
    fs.truncateSync(file, fs.statSync(file).size - 40);
    const again = await begin(t, fake, { data, allow: [/acme-cert\.pem.*another is got in its place/] });
    await arrives(again, fake, { least: 2 });
    await again.stop();
    fs.writeFileSync(path.join(data, 'acme-account.pem'), 'rubbish');
    const { code, stderr } = await run(['--listen', '127.0.0.1:0', '--data', data, '--tls-listen', '127.0.0.1:0', ...options(fake)]);
    assert.equal(code, 1);
    assert.match(stderr, /acme-account\.pem holds no key of P-256.*remove it for a new account/);
  });

  test('a clock that is wrong: what comes is used, the log says so, and the server is not asked again and again', async (t) => {
    for (const [life, said] of [ // as it looks to a clock that is behind, or ahead
      [() => ({ from: Date.now() + 2 * DAY, to: Date.now() + 92 * DAY }), /becomes valid on .*set the clock; it is used all the same/],
      [() => ({ from: Date.now() - 92 * DAY, to: Date.now() - 2 * DAY }), /expired on .*it is used all the same/],
    ]) {
      const fake = await startAcme(t);
      fake.life = life;
      const server = await begin(t, fake, { allow: [said, /is the clock right\?/] });
      await arrives(server, fake);
      await until('a line', () => server.lines.some((line) => said.test(line)));
      const orders = fake.steps('order').length;
      await get(server, '/healthz');
      assert.equal(orders, 1);
      const { acme, certificates } = await stats(server);
      assert.ok(acme.renew_at, 'it is known when next');
      assert.equal(Date.parse(certificates[0].not_after), Date.parse(new crypto.X509Certificate(fake.issued[0]).validTo));
      await server.stop();
      assert.equal(fake.steps('order').length, 1, 'asked once');
    }
  });

  test('--acme-webroot serves what certbot puts there, and nothing else', async (t) => {
    const root = tempDir(t);
    const dir = path.join(root, '.well-known/acme-challenge');
    fs.mkdirSync(dir, { recursive: true });
    fs.writeFileSync(path.join(dir, 'to-Ken_1'), 'to-Ken_1.proof');
    fs.writeFileSync(path.join(root, 'secret'), 'x');
    fs.symlinkSync(path.join(root, 'secret'), path.join(dir, 'link'));
    fs.mkdirSync(path.join(dir, 'dir'));
    const certs = new Authority(tempDir(t)).issue('localhost');
    const server = await start(t, { listening: 2, args: ['--tls-listen', '127.0.0.1:0', '--tls-cert', certs.cert, '--tls-key', certs.key,
      '--redirect-listen', '127.0.0.1:0', '--acme-webroot', root] });
    const plain = seen(server, server.of('redirect')[0]);
    const ask = (at, method = 'GET') => request(plain, method, at, { headers: { Host: 'example.com' } });
    const found = await ask('/.well-known/acme-challenge/to-Ken_1');
    assert.deepEqual([found.status, found.text], [200, 'to-Ken_1.proof']);
    for (const name of ['other', '../../secret', '..%2f..%2fsecret', 'link', 'dir', '', '.', 'to-Ken_1/', 'to-Ken_1%00'])
      assert.notEqual((await ask(`/.well-known/acme-challenge/${name}`)).status, 200, name);
    assert.equal((await ask('/.well-known/acme-challenge/to-Ken_1', 'POST')).status, 308);
    assert.equal((await ask('/secret')).status, 308);
  });

  test('an https server is trusted by --acme-ca-file alone', async (t) => {
    const https = require('node:https');
    const authority = new Authority(tempDir(t));
    const { pem, keyPem } = authority.issue('localhost');
    let count = 0;
    const server = https.createServer({ cert: pem, key: keyPem }, (_, response) => { count++; response.writeHead(503, { 'Content-Length': 2 }); response.end('{}'); });
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
    t.after(() => new Promise((resolve) => { server.close(resolve); server.closeAllConnections(); }));
    const url = `https://127.0.0.1:${server.address().port}/directory`;
    for (const [ca, said, most] of [[new Authority(tempDir(t)).file, /its certificate is not accepted/, 0], [authority.file, /its directory: answered 503/, 1]]) {
      const one = await start(t, { listening: 1, allow: [NONE, FAILED], args: ['--tls-listen', '127.0.0.1:0', '--acme', NAMES[0], '--acme-agree', '--acme-server', url, '--acme-ca-file', ca] });
      await until('a failure', () => one.lines.some((line) => FAILED.test(line)), { within: 10000 * slow });
      assert.match((await stats(one)).acme.last_error, said);
      assert.equal(count, most);
      await one.stop();
    }
  });
});

test('mistakes are told before anything is served', async (t) => {
  const fake = { url: 'http://127.0.0.1:1/directory' };
  const tls = ['--listen', '127.0.0.1:0', '--tls-listen', '127.0.0.1:0'];
  const good = ['--acme', NAMES[0], '--acme-agree'];
  const { cert, key } = new Authority(tempDir(t)).issue('localhost');
  const ca = ['--acme-ca-file', cert];
  const rows = [
    [['--listen', '127.0.0.1:0', ...good], ['--acme', '--tls-listen', 'add one']],
    [[...tls, '--acme', NAMES[0], ...ca], ['--acme-agree', 'terms of https://acme-v02.api.letsencrypt.org', 'letsencrypt.org/repository']],
    [[...tls, '--acme', NAMES[0], '--acme-server', fake.url], ['--acme-agree', 'termsOfService', 'http://127.0.0.1:1']],
    [[...tls, ...good, '--tls-cert', cert, '--tls-key', key], ['--acme', '--tls-cert', 'one of them']],
    [[...tls, ...good, '--tls-self-signed'], ['--acme', '--tls-self-signed']],
    [[...tls, ...good, '--acme', 'ONE.example.com', ...ca], ['--acme', 'one.example.com is named twice']],
    [[...tls, ...good, '--acme-server', 'http://acme.example.com/directory'], ['--acme-server', 'https://']],
    [[...tls, ...good, '--acme-server', 'acme.example.com'], ['--acme-server', 'no URL', '/directory']],
    [[...tls, ...good, '--acme-email', 'me', ...ca], ['--acme-email', "'me'", 'ops@example.com']],
    [[...tls, ...good, '--acme-email', 'a@b,c@d', ...ca], ['--acme-email']],
    [[...tls, ...good, '--acme-ca-file', '/nowhere'], ['--acme-ca-file', '/nowhere']],
    ...['*.example.com', '192.0.2.1', '[2001:db8::1]', 'https://example.com', 'example.com:443', 'localhost', 'example', 'a..example.com', '-a.example.com',
      'a-.example.com', 'example.com.', '.example.com', 'exa_mple.com', 'bücher.example', `${'a'.repeat(64)}.com`, `${'a.'.repeat(130)}com`, '']
      .map((name) => [[...tls, '--acme', name, '--acme-agree'], ['--acme', name ? 'is ' : 'empty']]),
  ];
  for (const [args, said] of rows) await refusedConfig([...args, '--data', path.join(tempDir(t), 'x')], said);
  const fine = await run(['--check-config', ...tls, ...good, '--acme', `${'a'.repeat(63)}.xn--bcher-kva.example`, ...ca]);
  assert.deepEqual([fine.code, fine.stdout], [0, 'configuration ok\n']);
  const idle = await run(['--check-config', '--listen', '127.0.0.1:0', '--acme-agree', '--acme-webroot', '/tmp']);
  assert.match(idle.stderr, /--acme-agree has no effect without --acme"/);
  assert.match(idle.stderr, /--acme-webroot has no effect without --redirect-listen"/);
});

/** The number of the certificate in a server's file. */
const kept = (data) => serial(fs.readFileSync(path.join(data, 'acme-cert.pem')));

/** Starts a renewal that is killed where `kills` says so, then once more: what is served from the
 *  start on is good, and the new one comes. Gives whether it was killed. */
async function interrupted(t, fake, data, moment, kills) {
  const known = fake.issued.map(serial);
  let server = null;
  let killed = false;
  fake[moment] = async (asked) => {
    if (killed || !kills(asked)) return undefined;
    killed = true;
    await until('the start', () => server);
    await server.kill();
    return 'drop';
  };
  server = await begin(t, fake, { data });
  const fresh = () => !known.includes(kept(data));
  await until('a kill, or the end', () => killed || fresh(), { within: 15000 * slow });
  if (killed) await server.ended;
  else await server.stop();
  fake[moment] = () => undefined;
  const again = await begin(t, fake, { data });
  const first = (await shown(again)).serialNumber;
  assert.ok(known.includes(first) || first === kept(data), 'a good one is served from the start on');
  await until('a new one', async () => fresh() && (await shown(again)).serialNumber === kept(data), { within: 15000 * slow })
    .catch((error) => { throw new Error(`${error.message}\n${server.stderr}${again.stderr}\n${JSON.stringify(fake.requests.slice(-24).map(({ n, step, at }) => `${n} ${step} ${at}`))}`); });
  await again.stop();
  assert.deepEqual(fake.problems, []);
  return killed;
}

/** A fake, and a directory with a certificate of its that it wants renewed. */
async function aged(t) {
  const fake = await startAcme(t);
  const data = tempDir(t);
  const first = await begin(t, fake, { data });
  await arrives(first, fake);
  await first.stop();
  fake.window = { start: 1000, end: 2000 };
  const copy = () => {
    const dir = path.join(tempDir(t), 'data');
    fs.cpSync(data, dir, { recursive: true });
    return dir;
  };
  return { fake, copy };
}

sideBySide(() => {
  for (const moment of ['before', 'after']) {
    test(`kill -9 at every request of a renewal, ${moment} it has its effect`, { timeout: 120000 * slow }, async (t) => {
      const { fake, copy } = await aged(t);
      let k = 0;
      for (let killed = true; killed;) {
        const from = fake.requests.length + ++k;
        const orders = fake.steps('order').length;
        killed = await interrupted(t, fake, copy(), moment, () => fake.requests.length >= from);
        assert.ok(fake.steps('order').length - orders <= 2, `killed at ${k}: at most one order is lost`);
      }
      assert.ok(k >= 12, `${k} requests`);
    });
  }

  test('kill -9, lost answers and refused nonces at random moments', { timeout: 120000 * slow }, async (t) => {
    const seed = Date.now() % 1e6;
    const roll = dice(seed);
    t.diagnostic(`seed ${seed}`);
    const { fake, copy } = await aged(t);
    const data = copy();
    fake.refuses = () => roll(6) === 0;
    for (let i = 0; i < heavy(6, 2); i++) await interrupted(t, fake, data, roll(2) ? 'before' : 'after', () => roll(8) === 0);
  });
});
