'use strict';
// The README's recipe for certbot, with Debian's certbot and pebble: the first certificate, who
// runs which hook when, and renewals through --acme-webroot while the server has the port.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, run, secured, shake, tempDir, until, slow, needs } = require('../integration/lib');
const { startPebble } = require('../integration/lib/pebble');

const NAME = 'presence.example.com';

test('certbot as the README has it', { skip: needs('certbot', 'apt-get install certbot').skip, timeout: 120000 * slow }, async (t) => {
  const pebble = await startPebble(t, { PEBBLE_WFE_NONCEREJECT: '0', PEBBLE_AUTHZREUSE: '0' });
  const dir = tempDir(t);
  const [etc, root, store] = ['etc', 'root', 'store'].map((name) => path.join(dir, name));
  for (const one of [etc, root, path.join(store, 'renewal-hooks/deploy')]) fs.mkdirSync(one, { recursive: true });
  const script = (file, text) => fs.writeFileSync(file, `#!/bin/sh -e\n${text}`, { mode: 0o755 });
  const hook = path.join(dir, 'presence-certificate');
  // what the README's does, but for the owner
  script(hook, ['fullchain', 'privkey'].map((name) => `install -m 640 "$RENEWED_LINEAGE"/${name}.pem ${etc}/${name}.pem.new\nmv ${etc}/${name}.pem.new ${etc}/${name}.pem\n`).join(''));
  const ran = path.join(dir, 'ran');
  script(path.join(store, 'renewal-hooks/deploy/mark'), `echo run >>${ran}\n`);
  const certbot = async (...args) => {
    const { code, stdout, stderr } = await run([...args, '--config-dir', store, '--work-dir', dir, '--logs-dir', dir, '--non-interactive'],
      { program: 'certbot', env: { REQUESTS_CA_BUNDLE: pebble.ca }, deadline: 60000 * slow });
    return { code, text: stdout + stderr };
  };
  const get = (...args) => certbot('certonly', ...args, '--server', pebble.url, '--http-01-port', String(pebble.httpPort), '--agree-tos',
    '--register-unsafely-without-email', '--key-type', 'ecdsa', '-d', NAME, '--deploy-hook', hook);
  const first = await get('--standalone');
  assert.equal(first.code, 0, first.text);
  const number = () => new crypto.X509Certificate(fs.readFileSync(path.join(etc, 'fullchain.pem'))).serialNumber;
  const was = number();
  assert.equal(fs.existsSync(ran), false, 'renewal-hooks/deploy is not run by the first one');
  const server = await start(t, { listening: 2, allow: [/certificates read again/], args: ['--tls-listen', `127.0.0.1:${pebble.tlsPort}`,
    '--tls-cert', path.join(etc, 'fullchain.pem'), '--tls-key', path.join(etc, 'privkey.pem'),
    '--redirect-listen', `127.0.0.1:${pebble.httpPort}`, '--acme-webroot', root] });
  server.secure = secured(server, await pebble.root());
  const shown = async () => (await shake(server.secure, { servername: NAME })).getPeerCertificate().serialNumber;
  assert.equal(await shown(), was);
  const taken = await get('--standalone', '--force-renewal');
  assert.notEqual(taken.code, 0, 'the port is taken');
  const second = await get('--webroot', '-w', root, '--force-renewal');
  assert.equal(second.code, 0, second.text);
  assert.notEqual(number(), was);
  await until('the new one is served', async () => (await shown()) === number(), { within: 15000 * slow });
  const now = number();
  const renewed = await certbot('renew', '--force-renewal', '--no-random-sleep-on-renew');
  assert.equal(renewed.code, 0, renewed.text);
  assert.notEqual(number(), now, 'both hooks');
  assert.equal(fs.readFileSync(ran, 'utf8').trim().split('\n').at(-1), 'run');
  await until('the newest is served', async () => (await shown()) === number(), { within: 15000 * slow });
});
