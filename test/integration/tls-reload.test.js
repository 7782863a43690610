'use strict';
// Variants: asan tsan
// T04: a new certificate is taken without a stop, a broken one is not taken at all.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const https = require('node:https');
const path = require('node:path');
const { test, sideBySide, startSecure, Authority, tempDir, shown, connect, get, until, stats, hurried, slow } = require('./lib');

/** Puts a certificate and its key where the server looks for them. */
function put(place, made) {
  for (const [file, text] of [[place.cert, made.pem], [place.key, made.keyPem]]) {
    fs.writeFileSync(`${file}.new`, text, { mode: 0o600 });
    fs.renameSync(`${file}.new`, file);
  }
}

async function prepare(t, allow, env) {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const place = { cert: path.join(dir, 'live.pem'), key: path.join(dir, 'live.key') };
  const first = authority.issue('first');
  put(place, first);
  const server = await startSecure(t, { authority, certs: [place], allow, env });
  assert.equal(await shown(server.secure), first.fingerprint);
  return { server, authority, place, first };
}

const toBeShown = (server, made, options) =>
  until('the new certificate', async () => (await shown(server.secure)) === made.fingerprint, options);

sideBySide(() => {
  test('T04 SIGHUP: new connections get the new certificate, old ones live on', async (t) => {
    const { server, authority, place } = await prepare(t, [/reload|certificate|SIGHUP/i]);
    const old = await connect(server.secure, 'old');
    const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
    await get(server.secure, '/healthz', { agent });
    for (const kind of ['rsa', 'ec']) {
      const next = authority.issue('next', { kind });
      put(place, next);
      server.signal('SIGHUP');
      await toBeShown(server, next);
      await old.ping();
      assert.equal((await get(server.secure, '/healthz', { agent })).status, 200);
    }
    agent.destroy();
    assert.ok((await stats(server)).counters.tls_reloads >= 2);
    assert.equal((await old.close()).code, 1000);
  });

  test('T04 a broken file keeps the old certificate and is one error line', async (t) => {
    const { server, authority, place, first } = await prepare(t, [/level=error.*live\.(pem|key)/, /level=info/]);
    const old = await connect(server.secure, 'old');
    const errors = () => server.lines.filter((line) => /level=error/.test(line)).length;
    const other = authority.issue('other');
    const breaks = [
      ['garbage', () => fs.writeFileSync(place.cert, 'no certificate\n')],
      ['nothing in it', () => fs.writeFileSync(place.cert, '')],
      ['cut in the middle', () => fs.writeFileSync(place.cert, other.pem.slice(0, other.pem.length >> 1))],
      ['a certificate of another key', () => fs.writeFileSync(place.cert, other.pem)],
      ['an expired one', () => put(place, authority.issue('old', { to: Date.now() - 1000 }))],
      ['no file', () => fs.rmSync(place.cert)],
      ['a broken key', () => { fs.writeFileSync(place.cert, first.pem); fs.writeFileSync(place.key, 'no key\n'); }],
    ];
    for (const [what, work] of breaks) {
      const before = errors();
      work();
      server.signal('SIGHUP');
      await until(`an error line: ${what}`, () => errors() > before);
      assert.equal(await shown(server.secure), first.fingerprint, what);
      assert.equal((await get(server, '/healthz')).status, 200);
    }
    await old.ping();
    put(place, other);
    server.signal('SIGHUP');
    await toBeShown(server, other);
  });

  test('T04 a changed file is noticed without a signal, also when its halves come apart', async (t) => {
    const { server, authority, place } = await prepare(t, [/level=error.*live\.(pem|key)/, /level=info/], hurried(t, 4));
    const next = authority.issue('next');
    const old = await connect(server.secure, 'old');
    fs.writeFileSync(place.cert, next.pem);
    server.signal('SIGHUP'); // it looks before the key is there
    await until('an error line', () => server.lines.some((line) => /level=error/.test(line)));
    fs.writeFileSync(place.key, next.keyPem);
    await toBeShown(server, next, { within: 11000 + 2000 * slow, every: 200 });
    await old.ping();
  });

  test('SIGHUP stops nothing, TLS or not, however often', async (t) => {
    const { server } = await prepare(t, [/reload|certificate|SIGHUP/i, /level=info/]);
    const client = await connect(server.secure, 'u');
    for (let i = 0; i < 20; i++) server.signal('SIGHUP');
    for (let i = 0; i < 20; i++) await client.ping();
    assert.equal(server.result, null);
    assert.equal((await get(server.secure, '/healthz')).status, 200);
  });
});
