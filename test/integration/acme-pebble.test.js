'use strict';
// Variants: release
// --acme against pebble, the ACME server that Let's Encrypt tests clients with: it refuses good
// nonces at random, looks at each name by itself, and gives certificates of 15 minutes.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { test, sideBySide, start, secured, tempDir, shake, connect, get, until, slow } = require('./lib');
const { startPebble } = require('./lib/pebble');

const NAMES = ['one.example.com', 'two.example.com'];
const GOT = /level=info msg="acme: a certificate for /;
const MET = [GOT, /level=warn msg="acme: (there is no certificate for|no certificate from) /];

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
