'use strict';
// Variants: release
// --acme against pebble, the ACME server that Let's Encrypt tests clients with: it refuses good
// nonces at random, looks at each name by itself, and gives certificates of 15 minutes.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const https = require('node:https');
const path = require('node:path');
const { test, sideBySide, start, launch, killTree, cleanup, secured, tempDir, shake, connect, get, until, slow, Authority } = require('./lib');
const { freePort } = require('./lib/engine');

const NAMES = ['one.example.com', 'two.example.com'];
const GOT = /level=info msg="acme: a certificate for /;
const MET = [GOT, /level=warn msg="acme: (there is no certificate for|no certificate from) /];

/** Starts a program for the test `t`; gives a function that ends it. */
function begin(t, argv, env = {}) {
  const { child, ended } = launch(argv, { env: { ...process.env, ...env } });
  const end = () => { killTree(child.pid); return ended; };
  cleanup(t, end);
  return end;
}

/** The body of an https answer of pebble's. */
const ask = (port, at, ca) => new Promise((resolve, reject) => {
  https.get({ host: '127.0.0.1', port, path: at, ca }, (answer) => {
    let text = '';
    answer.on('data', (part) => { text += part; });
    answer.on('end', () => resolve(text));
  }).on('error', reject);
});

/** Pebble, and a DNS in which every name is this machine: { args, tlsPort, httpPort, root(), again() }. */
async function startPebble(t, env) {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const { cert, key } = authority.issue('localhost');
  const [listen, manage, dns, challenges, httpPort, tlsPort] = await Promise.all(Array.from({ length: 6 }, freePort));
  const config = path.join(dir, 'pebble.json');
  fs.writeFileSync(config, JSON.stringify({ pebble: { listenAddress: `127.0.0.1:${listen}`, managementListenAddress: `127.0.0.1:${manage}`,
    certificate: cert, privateKey: key, httpPort, tlsPort, ocspResponderURL: '', externalAccountBindingRequired: false, certificateValidityPeriod: 900 } }));
  begin(t, ['pebble-challtestsrv', '-dns01', `127.0.0.1:${dns}`, '-http01', '', '-https01', '', '-tlsalpn01', '', '-management', `127.0.0.1:${challenges}`,
    '-defaultIPv6', '', '-defaultIPv4', '127.0.0.1']);
  const pebble = () => begin(t, ['pebble', '-config', config, '-dnsserver', `127.0.0.1:${dns}`], { PEBBLE_VA_NOSLEEP: '1', ...env });
  const ready = () => until('pebble', () => ask(listen, '/dir', authority.pem), { within: 10000 * slow });
  const fake = { end: pebble(), tlsPort, httpPort, args: ['--acme-agree', '--acme-email', 'ops@example.com', '--acme-server', `https://127.0.0.1:${listen}/dir`, '--acme-ca-file', authority.file],
    root: () => ask(manage, '/roots/0', authority.pem),
    async again() { await fake.end(); fake.end = pebble(); await ready(); } };
  await ready();
  return fake;
}

/** Starts a server that gets its certificate from pebble, and waits for it. */
async function certified(t, pebble, { names = NAMES, args = [], listening = 0, data } = {}) {
  const server = await start(t, { data, listening: 1 + listening, allow: MET,
    args: ['--tls-listen', `127.0.0.1:${pebble.tlsPort}`, ...names.flatMap((name) => ['--acme', name]), ...pebble.args, ...args] });
  await until('a certificate', () => server.lines.some((line) => GOT.test(line)), { within: 30000 * slow, giveUp: () => server.result });
  server.secure = secured(server, await pebble.root());
  return server;
}

sideBySide(() => {
  test('pebble, which refuses a third of the nonces: a certificate by TLS that its root vouches for', async (t) => {
    const pebble = await startPebble(t, { PEBBLE_WFE_NONCEREJECT: '33', PEBBLE_AUTHZREUSE: '0' });
    const server = await certified(t, pebble);
    for (const servername of NAMES) {
      const socket = await shake(server.secure, { servername });
      assert.equal(socket.authorized, true);
      socket.destroy();
    }
    const client = await connect(server.secure, 'alice', { servername: NAMES[0] });
    await client.ping();
    const { acme, certificates } = (await get(server, '/admin/stats')).json;
    const life = Date.parse(certificates[0].not_after) - Date.now();
    assert.ok(life > 800000 && life < 901000, `15 minutes: ${life}`);
    assert.ok(Date.parse(acme.renew_at) > Date.now() + 500000 && Date.parse(acme.renew_at) < Date.now() + 700000, acme.renew_at);
  });

  test('pebble by HTTP, and one that has forgotten everything: another account, another certificate', async (t) => {
    const pebble = await startPebble(t, { PEBBLE_WFE_NONCEREJECT: '5' });
    const data = tempDir(t);
    pebble.args.push('--redirect-listen', `127.0.0.1:${pebble.httpPort}`);
    const { tlsPort } = pebble;
    pebble.tlsPort = 0; // pebble does not find it there: the second attempt is by HTTP
    const first = await start(t, { data, listening: 2, allow: MET, args: ['--tls-listen', '127.0.0.1:0', '--acme', NAMES[0], ...pebble.args] });
    await until('a failure', () => first.lines.some((line) => /by tls-alpn-01 is invalid: /.test(line)), { within: 30000 * slow });
    first.signal('SIGHUP');
    await until('a certificate', () => first.lines.some((line) => GOT.test(line)), { within: 30000 * slow });
    const number = () => new crypto.X509Certificate(fs.readFileSync(path.join(data, 'acme-cert.pem'))).serialNumber;
    const was = number();
    await first.stop();
    await pebble.again();
    pebble.tlsPort = tlsPort;
    const second = await certified(t, pebble, { data, listening: 1 });
    assert.notEqual(number(), was);
    (await shake(second.secure, { servername: NAMES[1] })).destroy();
  });
});
