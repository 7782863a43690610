'use strict';
// The admin page in Chromium against the real server. What a server has not yet is skipped.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { spawnSync } = require('node:child_process');
const nodeTest = require('node:test');
const { before, after } = nodeTest;
const { binary } = require('../integration/lib/variant');
const { start, cleanup, tempDir } = require('../integration/lib/server');
const { connect } = require('../integration/lib/client');
const { get } = require('../integration/lib/http');
const { startChromium, openPage, closePage, checkAxe, moments } = require('./lib/pages');

let chrome;
before(async () => { chrome = await startChromium(); });
after(() => chrome.close());

const OFTEN = [/ERR_/]; // the stream that a stopped server ends

/** Opens the page of a server; it ends before the server does. */
async function admin(t, server, { hash = '', allow = OFTEN } = {}) {
  const page = await openPage(chrome, `http://127.0.0.1:${server.port}/admin/${hash}`, { allow });
  cleanup(t, () => closePage(page));
  return page;
}

/** Whether the server has /admin/events, from the head of its answer. */
const streams = (server) => new Promise((resolve, reject) => {
  http.get({ host: server.host, port: server.port, path: '/admin/events' }, (answer) => {
    answer.destroy();
    resolve(answer.statusCode !== 404);
  }).on('error', reject);
});

let known; // what the first test found out
/** A test of a server that streams changes. */
function test(name, body) {
  nodeTest(name, { timeout: 60000 }, async (t) => {
    known ??= await streams(await start(t));
    return known ? body(t) : t.skip('no /admin/events in this server');
  });
}

const connected = (page) => page.waitForSelector('#connection[data-state="connected"]');
const text = (page, id) => page.locator(`#${id}`).innerText();
const untilText = (page, id, pattern) => page.waitForFunction(([name, source]) =>
  new RegExp(source).test(document.getElementById(name).innerText), [id, pattern.source]);

/** Waits until the list is these users: 'alice online live 1'. */
const untilLines = (page, wanted) => page.waitForFunction((lines) => {
  const found = [...document.querySelectorAll('#rows tr')].map((tr) =>
    [...tr.children].slice(0, 4).map((cell) => cell.textContent).join(' '));
  return JSON.stringify(found) === JSON.stringify(lines);
}, wanted);

test('changes arrive as they happen, and the totals are those of the server', async (t) => {
  const server = await start(t, { args: ['--grace', '1s'] });
  const page = await admin(t, server);
  await connected(page);
  assert.equal(await text(page, 'empty-title'), 'Nobody is online');
  const alice = await connect(server, 'alice');
  await untilLines(page, ['alice online live 1']);
  const second = await connect(server, 'alice');
  await connect(server, '__proto__');
  await untilLines(page, ['__proto__ online live 1', 'alice online live 2']);
  alice.send({ type: 'status', status: 'busy' });
  second.send({ type: 'status', status: 'away' });
  await untilLines(page, ['__proto__ online live 1', 'alice busy live 2']);
  await alice.close();
  await untilLines(page, ['__proto__ online live 1', 'alice away live 1']);
  second.destroy();
  await untilLines(page, ['__proto__ online live 1', 'alice away cached 0']);
  await untilLines(page, ['__proto__ online live 1']);
  await page.selectOption('#filter', 'offline');
  await untilLines(page, ['alice offline, connection lost stored 0']);
  await checkAxe(page);
});

test('a user in detail: connections, the timeline with its reasons, kick', async (t) => {
  const server = await start(t);
  await (await connect(server, 'a/b?é')).close();
  const client = await connect(server, 'a/b?é', { headers: { 'User-Agent': '<b>Agent</b>' } });
  const page = await admin(t, server, { hash: `#/user/${encodeURIComponent('a/b?é')}` });
  await untilText(page, 'connections', /<b>Agent<\/b>\s+127\.0\.0\.1\s+online/);
  await untilText(page, 'timeline', moments(/online since MOMENT[^]*from 127\.0\.0\.1/));
  await untilText(page, 'timeline', /offline .*[\d:]+ to .*[\d:]+, left or signed out/);
  await checkAxe(page);
  await page.click('#kick');
  await page.click('#kick-yes');
  await untilText(page, 'detail-note', /^Kicked: 1 connection closed, and the session ended\.$/);
  assert.equal((await client.closed).code, 4403);
  await untilText(page, 'timeline', /kicked by an admin/);
});

test('a restart of the server: broken, then right again', async (t) => {
  const data = tempDir(t);
  const server = await start(t, { data });
  await connect(server, 'alice');
  const page = await admin(t, server);
  await untilLines(page, ['alice online live 1']);
  await server.stop();
  await page.waitForSelector('#connection[data-state="broken"]');
  assert.match(await text(page, 'connection-text'), /last data at \d\d:\d\d:\d\d/);
  const again = await start(t, { data, address: server });
  await connect(again, 'bob');
  await connected(page);
  await untilLines(page, ['alice online cached 0', 'bob online live 1']);
});

test('the panel and the overview show what the server says of itself', async (t) => {
  const server = await start(t);
  await connect(server, 'alice');
  const page = await admin(t, server, { hash: '#/server' });
  await untilText(page, 'server-facts', /Version\s+\d+\.\d+\.\d+/);
  assert.equal(await text(page, 'health-word'), 'Healthy', await text(page, 'problems'));
  await untilText(page, 'limit-facts', /webhook-batch\s+\d+(?! ?s)/);
  assert.match(await text(page, 'store-facts'), /takes writes/);
  assert.match(await text(page, 'limit-facts'), /online-threshold\s+90 s\s+grace\s+5 s/);
  assert.match(await text(page, 'no-certificates'), /no TLS/);
  await page.click('#nav-people');
  await page.waitForSelector('#overview:not([hidden])');
  await untilText(page, 'chart-text', /^(No samples yet|\d+ users? now, since)/);
});

test('a node of a cluster whose engine is away says that it is alone', async (t) => {
  const server = await start(t, { args: ['--cluster', 'redis://127.0.0.1:1/test', '--node-name', 'a<b>'],
    allow: [/level=warn msg="(--cluster: cannot reach|cluster: the engine is away)/] });
  await connect(server, 'alice');
  const page = await admin(t, server);
  await untilText(page, 'cluster-note', /^This server is alone: /);
  await page.click('#nav-server');
  await untilText(page, 'cluster-facts', /State\s+alone for [^]*Engine\s+redis:\/\/127\.0\.0\.1:1\/test/);
  assert.match(await text(page, 'node-rows'), /^a<b> \(this one\)\s+alone\s+[01]\s+[01]\s/);
  await checkAxe(page);
});

nodeTest('sign in and out with the password of the server', { timeout: 60000 }, async (t) => {
  const hashed = spawnSync(binary, ['--hash-password'], { input: 'open sesame\n', encoding: 'utf8' });
  if (hashed.status !== 0) return t.skip('no --hash-password in this server');
  const file = path.join(tempDir(t), 'password');
  fs.writeFileSync(file, hashed.stdout, { mode: 0o600 });
  const server = await start(t, { args: ['--admin-password-file', file], allow: [/admin/] });
  await connect(server, 'alice');
  const page = await admin(t, server, { allow: [/status of 401/, ...OFTEN] });
  await page.fill('#password', 'wrong');
  await page.keyboard.press('Enter');
  await untilText(page, 'login-message', /^This is not the password\.$/);
  await page.waitForSelector('#login-button:enabled');
  await page.fill('#password', 'open sesame');
  await page.keyboard.press('Enter');
  await connected(page);
  await untilLines(page, ['alice online live 1']);
  await page.reload();
  await untilLines(page, ['alice online live 1']);
  await server.stop();
  await page.waitForSelector('#connection[data-state="broken"]');
  const again = await start(t, { data: server.data, address: server, args: ['--admin-password-file', file], allow: [/admin/] });
  await connected(page);
  await untilLines(page, ['alice online cached 0']);
  await page.reload(); // nobody has to sign in again
  await untilLines(page, ['alice online cached 0']);
  await connect(again, 'bob');
  await untilLines(page, ['alice online cached 0', 'bob online live 1']);
  await page.click('#logout');
  await untilText(page, 'login-message', /^You are signed out\.$/);
  await page.reload();
  await page.waitForSelector('#login:not([hidden])');
  return null;
});

nodeTest('a server without a stream: the list is loaded all the same', { timeout: 60000 }, async (t) => {
  const server = await start(t);
  if ((await get(server, '/favicon.svg')).status !== 200) return t.skip('no page in it');
  const client = await connect(server, 'alice');
  const page = await openPage(chrome, `http://127.0.0.1:${server.port}/admin/index.html`,
    { blank: true, allow: [/status of 404/, ...OFTEN] });
  cleanup(t, () => closePage(page));
  await page.route('**/admin/events', (route) => route.fulfill({ status: 404, body: '' }));
  await page.clock.install();
  await page.goto(`http://127.0.0.1:${server.port}/admin/index.html`);
  await untilLines(page, ['alice online live 1']);
  await untilText(page, 'connection-text', /^this server has no stream of changes/);
  await client.close();
  await connect(server, 'bob');
  await page.clock.runFor(31000);
  await untilLines(page, ['bob online live 1']);
  return null;
});
