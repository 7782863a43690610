'use strict';
// The examples, each with the same backend: a plain page, React, Vue and Svelte show who of the
// friends is online; the backend mints the tokens and takes what presence posts, and nobody else.

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { test: anyTest, release, start, tempDir, tokenKey, until, heartbeat, connect } = require('../integration/lib');
const { snippet, minting } = require('../integration/lib/snippets');
const { startChromium, servePages } = require('./lib/chromium');
const { makeBackend } = require('./example/server');

const test = (name, body) =>
  anyTest(name, { skip: !release && 'for the released program only' }, body);

/** A server of presence and a backend with a page of this kind, which know of each other. */
async function setUp(t, kind) {
  let backend;
  const site = await servePages(t, (request, response) => backend(request, response));
  const key = tokenKey(t);
  const webhookSecret = crypto.randomBytes(32).toString('hex');
  const file = path.join(tempDir(t), 'webhook-secret');
  fs.writeFileSync(file, `${webhookSecret}\n`);
  const server = await start(t, {
    args: [...key.args, '--allow-origin', site.origin, '--webhook-url', `${site.origin}/presence-events`, '--webhook-secret-file', file],
  });
  const presence = `http://127.0.0.1:${server.port}`;
  backend = await makeBackend({ with: kind, presence, secret: key.secret, webhookSecret });
  return { site, server, webhookSecret };
}

/** A browser of somebody's own, at the page. */
async function visit(t, site) {
  const context = await startChromium(t);
  const page = await context.newPage();
  const said = [];
  page.on('console', (message) => ['error', 'warning'].includes(message.type()) && said.push(message.text()));
  await page.goto(site.origin);
  await page.waitForSelector('form:visible');
  return { context, page, said };
}

/** Fills in the form and presses a button of it. */
async function enter(page, name, button) {
  await page.fill('[name=name]', name);
  await page.fill('[name=password]', 'secret');
  await page.click(`button:has-text("${button}")`);
}

const state = (page, wanted) => page.waitForSelector(`[role=status][data-state=${wanted}]`);
const shows = (page, user, status) => page.waitForFunction(
  ([id, text]) => [...document.querySelectorAll('li')].find((one) => one.dataset.user === id)
    ?.textContent.trim() === `${id}: ${text}`,
  [user, status],
);

for (const kind of ['plain', 'react', 'vue', 'svelte']) {
  test(`${kind}: a friend comes and goes, in the page and in the backend`, async (t) => {
    const { site } = await setUp(t, kind);
    const bob = await visit(t, site);
    await enter(bob.page, 'bob <b>', 'Register');
    await state(bob.page, 'connected');
    const anna = await visit(t, site);
    await enter(anna.page, 'anna', 'Register');
    await state(anna.page, 'connected');
    await shows(anna.page, 'bob <b>', 'online');
    await bob.page.click('text=Log out');
    await state(bob.page, 'stopped');
    await shows(anna.page, 'bob <b>', 'offline');
    await enter(bob.page, 'bob <b>', 'Log in');
    await shows(anna.page, 'bob <b>', 'online');
    await shows(bob.page, 'anna', 'online');
    await anna.page.reload(); // the session is still there, and so is the list
    await state(anna.page, 'connected');
    await shows(anna.page, 'bob <b>', 'online');
    assert.deepEqual([...anna.said, ...bob.said, ...anna.context.errors, ...bob.context.errors], []);

    await anna.page.click('text=Log out');
    await anna.page.waitForSelector('form:visible');
    await enter(anna.page, 'bob <b>', 'Register');
    await anna.page.waitForSelector('[role=alert]:has-text("this name is taken")');
    const log = async () => (await (await fetch(`${site.origin}/activity`)).json()).log;
    await until('the backend to know', async () => (await log()).length === 5);
    assert.deepEqual((await log()).reverse().map(({ user, change, reason }) => [user, change, reason]), [
      ['bob <b>', 'join', null], ['anna', 'join', null], ['bob <b>', 'leave', 'closed'],
      ['bob <b>', 'join', null], ['anna', 'leave', 'closed'],
    ]);
  });
}

test("the README's three lines: its token, its page, on another origin than the server's", async (t) => {
  const dir = tempDir(t);
  const routes = {};
  const site = await servePages(t, (request, response) => {
    const text = routes[`${request.method} ${request.url}`];
    response.writeHead(text ? 200 : 404, { 'Content-Type': request.url.endsWith('.js') ? 'text/javascript' : 'text/html' }).end(text?.());
  });
  const [, secret, ...flags] = /^\$ presence --jwt-secret-file (\S+) (--allow-origin) (\S+)$/m.exec(snippet('**1. The server**', '## Who of my friends is online'));
  fs.writeFileSync(path.join(dir, secret), `${crypto.randomBytes(32).toString('hex')}\n`);
  assert.equal(flags[1], 'http://localhost:3000');
  const server = await start(t, { args: ['--jwt-secret-file', path.join(dir, secret), flags[0], site.origin.replace('127.0.0.1', 'localhost')] });
  fs.writeFileSync(path.join(dir, 'token.mjs'), minting('Node').replace("'jwt-secret'", JSON.stringify(path.join(dir, secret))));
  const { presenceToken } = await import(path.join(dir, 'token.mjs'));
  const friends = Array.from({ length: 20 }, (_, i) => `friend ${i}`);
  const here = `127.0.0.1:${server.port}`;
  const page = snippet('**3. The page**', '## Who of my friends is online').replaceAll('127.0.0.1:8080', here);
  assert.equal(page.split('\n').at(-1), 'presenceService.watch(friends, (user) => show(user.user_id, user.online));');
  routes['POST /presence-token'] = () => presenceToken('me', friends);
  routes['GET /'] = () => '<!doctype html><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>';
  routes['GET /page.js'] = () => `const me = 'me', friends = ${JSON.stringify(friends)};
    globalThis.online = {};
    function show(id, is) { online[id] = is; }
    ${page}`;
  for (const id of [friends[3], friends[7]]) await connect(server, id, { protocols: ['presence.v1', `token.${presenceToken(id, [])}`] });
  const context = await startChromium(t);
  const tab = await context.newPage();
  await tab.goto(site.origin.replace('127.0.0.1', 'localhost'));
  await tab.waitForFunction(() => Object.keys(globalThis.online ?? {}).length === 20);
  const online = await tab.evaluate(() => globalThis.online);
  assert.deepEqual(Object.keys(online).filter((id) => online[id]), [friends[3], friends[7]]);
  assert.deepEqual(context.errors, []);
});

test("the README's check of a signature is true of what presence posts, and of nothing else", async (t) => {
  const code = snippet('Check the signature', '## Tell your backend');
  const { genuine } = await import(`data:text/javascript,${encodeURIComponent(`${code}\nexport { genuine };`)}`);
  const secret = crypto.randomBytes(32).toString('hex');
  const file = path.join(tempDir(t), 'webhook-secret');
  fs.writeFileSync(file, `${secret}\n`);
  const posted = [];
  const site = await servePages(t, async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    posted.push([request.headers, Buffer.concat(chunks)]);
    response.end();
  });
  const server = await start(t, { args: ['--webhook-url', site.origin, '--webhook-secret-file', file] });
  await heartbeat(server, 'Zo\u00eb');
  await until('a delivery', () => posted.length);
  const [headers, body] = posted[0];
  assert.equal(genuine(secret, headers, body), true);
  assert.equal(genuine(`${secret}\n`, headers, body), false);
  assert.equal(genuine(secret, {}, body), false);
  for (let i = 0; i < 100; i++) {
    const wrong = Buffer.from(body);
    wrong[crypto.randomInt(body.length)] ^= 1 << crypto.randomInt(8);
    assert.equal(genuine(secret, headers, wrong), false);
  }
});

test('the backend takes what presence posted, once, and nothing that is forged, changed or old', async (t) => {
  const { site, webhookSecret } = await setUp(t, 'plain');
  const user = (id) => ({ events: [{ change: 'join', user: { user_id: id, status: 'online' }, reason: null }] });
  let number = 0;
  /** The status of a delivery; whoever makes it may get parts of it wrong. */
  const post = async (id, { secret = webhookSecret, age = 0, change = (text) => text, delivery = `e-${++number}`, header = (text) => text } = {}) => {
    const body = JSON.stringify(user(id));
    const seconds = Math.floor(Date.now() / 1000) - age;
    const mac = crypto.createHmac('sha256', secret).update(`${seconds}.${body}`).digest('hex');
    const headers = { 'X-Presence-Delivery': delivery, 'X-Presence-Signature': header(`t=${seconds},v1=${mac}`) };
    return (await fetch(`${site.origin}/presence-events`, { method: 'POST', headers, body: change(body) })).status;
  };
  assert.equal(await post('right', { delivery: 'x' }), 200);
  assert.equal(await post('right', { delivery: 'x' }), 200, 'it comes again');
  assert.equal(await post('forged', { secret: `${webhookSecret}\n` }), 403);
  assert.equal(await post('old', { age: 400 }), 403);
  assert.equal(await post('young', { age: -400 }), 403);
  for (const header of ['', 't=1,v1=', 'v1=00', `t=1,v1=${'0'.repeat(64)}`]) assert.equal(await post('forged', { header: () => header }), 403, header);
  for (let i = 0; i < 60; i++) { // any one byte of the body or of the signature
    const at = crypto.randomInt(60);
    const flip = (text) => text.slice(0, at) + String.fromCharCode(text.charCodeAt(at) ^ 1) + text.slice(at + 1);
    assert.equal(await post('changed', i % 2 ? { change: flip } : { header: flip }), 403, `byte ${at}`);
  }
  const { log } = await (await fetch(`${site.origin}/activity`)).json();
  assert.deepEqual(log.map((one) => one.user), ['right']);
});
