'use strict';
// Variants: release
// A real browser connects by wss to a certificate that it trusts, and is told what it may not do.
const assert = require('node:assert/strict');
const { test: anyTest, release, startSecure, startBrowser, Authority, tempDir, tokenKey, passwordFile, presence, bearer, json } = require('./lib');

const test = (name, body) => anyTest(name, { skip: !release && 'for the released program only' }, body);

/** Where a server is, as a browser says it. */
const origin = (server) => `https://localhost:${server.secure.port}`;

/** In the page: opens a WebSocket; what came first, a message or the close. */
const socket = (page, url, protocols = []) =>
  page.evaluate(([at, offered]) => new Promise((resolve) => {
    const ws = new WebSocket(at, offered);
    window.kept = ws;
    ws.onmessage = ({ data }) => resolve({ message: JSON.parse(data), protocol: ws.protocol });
    ws.onclose = ({ code, reason, wasClean }) => resolve({ code, reason, wasClean });
  }), [url, protocols]);

const bySocket = (server, id) => `${origin(server).replace('https', 'wss')}/ws/presence/${id}`;

for (const kind of ['ec', 'rsa']) {
  test(`wss from a page of the own origin, a certificate of ${kind} under a trusted root`, async (t) => {
    const authority = new Authority(tempDir(t));
    const key = tokenKey(t);
    const server = await startSecure(t, { authority, certs: [authority.below('middle').issue('localhost', { kind })], args: key.args });
    const context = await startBrowser(t, authority);
    const page = await context.newPage();
    const answer = await page.goto(`${origin(server)}/healthz`);
    assert.equal(answer.status(), 200);
    const details = await answer.securityDetails();
    assert.deepEqual([details.protocol, details.issuer, details.subjectName], ['TLS 1.3', 'authority-middle', 'localhost']);
    const offered = ['presence.v1', `token.${await key.user('alice')}`];
    const { message, protocol, code } = await socket(page, bySocket(server, 'alice'), offered);
    assert.equal(code, undefined);
    assert.deepEqual([message.type, message.user_id, protocol], ['hello', 'alice', 'presence.v1']);
    const admin = bearer(await key.admin());
    assert.equal((await presence(server, 'alice', admin)).source, 'live');
    const pong = await page.evaluate(() => new Promise((resolve) => {
      window.kept.onmessage = ({ data }) => resolve(data);
      window.kept.send('ping');
    }));
    assert.equal(pong, 'pong');
    assert.match((await json(server, '/admin/users/alice', admin)).connection_list[0].agent, /Chrome/);
    // a token that is none, and one of somebody else: the page learns which
    assert.equal((await socket(page, bySocket(server, 'alice'), ['presence.v1', 'token.nonsense'])).code, 4401);
    assert.equal((await socket(page, bySocket(server, 'alice'))).code, 4401);
    assert.equal((await socket(page, bySocket(server, 'bob'), offered)).code, 4403);
  });
}

test('a root that the browser does not know is a warning, not a page', async (t) => {
  const server = await startSecure(t);
  const context = await startBrowser(t);
  const page = await context.newPage();
  await assert.rejects(page.goto(`${origin(server)}/healthz`), /ERR_CERT_AUTHORITY_INVALID/);
});

test('pages of other origins: by --allow-origin, or not at all', async (t) => {
  const authority = new Authority(tempDir(t));
  const certs = [authority.issue('localhost')];
  const key = tokenKey(t);
  const pages = await startSecure(t, { authority, certs });
  const allowing = await startSecure(t, { authority, certs, args: [...key.args, '--allow-origin', origin(pages)] });
  const closed = await startSecure(t, { authority, certs, args: key.args });
  const context = await startBrowser(t, authority);
  const page = await context.newPage();
  await page.goto(`${origin(pages)}/healthz`);
  const token = await key.user('alice', { watch: '*' });
  const ask = (server, path, more = {}) => page.evaluate(async ([url, bearerToken, options]) => {
    try {
      const answer = await fetch(url, { headers: { Authorization: `Bearer ${bearerToken}`, ...(options.body ? { 'Content-Type': 'application/json' } : {}) }, ...options });
      return [answer.status, await answer.text()];
    } catch (error) {
      return [error.name, ''];
    }
  }, [`${origin(server)}${path}`, token, more]);
  // with a preflight, since a page may not send Authorization without asking
  assert.deepEqual((await ask(allowing, '/api/presence/alice/heartbeat', { method: 'POST' }))[0], 204);
  const [status, text] = await ask(allowing, '/api/presence/alice');
  assert.deepEqual([status, JSON.parse(text).user_id], [200, 'alice']);
  assert.equal((await ask(allowing, '/api/presence', { method: 'POST', body: '{"users":["alice"]}' }))[0], 200);
  assert.equal((await ask(allowing, '/api/presence/nobody'))[0], 404, 'errors are readable too');
  for (const path of ['/api/presence/alice', '/api/presence']) assert.equal((await ask(closed, path))[0], 'TypeError');
  assert.equal((await ask(allowing, '/admin/stats'))[0], 'TypeError', 'no CORS on /admin/');
  const offered = ['presence.v1', `token.${token}`];
  assert.equal((await socket(page, bySocket(allowing, 'alice'), offered)).message?.type, 'hello');
  assert.equal((await socket(page, bySocket(closed, 'alice'), offered)).code, 1006);
});

test('the admin\'s cookie: sent back, Secure, out of reach of scripts', async (t) => {
  const authority = new Authority(tempDir(t));
  const server = await startSecure(t, { authority, args: passwordFile(t, 'secret').args });
  const context = await startBrowser(t, authority);
  const page = await context.newPage();
  await page.goto(`${origin(server)}/healthz`);
  const status = (path, options) => page.evaluate(async ([at, more]) => (await fetch(at, more)).status, [path, options || {}]);
  assert.equal(await status('/admin/stats'), 401);
  const post = (password) => ({ method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ password }) });
  assert.equal(await status('/admin/login', post('wrong')), 401);
  assert.equal(await status('/admin/login', post('secret')), 200);
  assert.equal(await status('/admin/stats'), 200);
  assert.equal(await page.evaluate(() => document.cookie), '');
  const [cookie] = await context.cookies();
  assert.deepEqual([cookie.name, cookie.secure, cookie.httpOnly, cookie.sameSite, cookie.path], ['presence_admin', true, true, 'Strict', '/']);
  assert.equal(await status('/admin/logout', { method: 'POST' }), 204);
  assert.equal(await status('/admin/stats'), 401);
  assert.deepEqual(await context.cookies(), []);
});
