'use strict';
// The admin page: whether the server is well, rates, the chart under pointer and keys, a server that
// only tokens open, and every state on a narrow phone and in forced colours.

const assert = require('node:assert/strict');
const path = require('node:path');
const { MINUTE, test, admin, connection, text, untilText, untilUsers, three } = require('./lib/admin');
const { checkAxe, moments } = require('./lib/pages');

const load = (name) => import(path.resolve(__dirname, '../../web/admin', name));
const AT = Date.parse('2026-11-25T12:00:00Z');
const well = () => ({
  store: { writable: true, readable: true, problem: null, oldest_reader_seconds: 0 },
  connections: { current: 10, limit: 100 }, webhook: null, certificates: [], counters: {},
});
const cluster = () => ({ state: 'settled', log_delay_max_ms: 3, clock_offset_ms: 1, nodes: [], counters: { differences: 0 } });

test('a server that is well has no problem; each of these is one, the worst first', async () => {
  const { problems } = await load('health.js');
  assert.deepEqual(problems({ ...well(), cluster: cluster() }, {}, AT), []);
  const cases = [
    ['bad', /^The store cannot be written: no space<U\+202E>\./, (s) => Object.assign(s.store, { writable: false, problem: 'no space\u202e' })],
    ['bad', /^The store cannot be read: /, (s) => { s.store.readable = false; }],
    ['warn', /^A command has been reading the store for 20 min;/, (s) => { s.store.oldest_reader_seconds = 1200; }],
    ['warn', /^95 of 100 connections are taken: raise --max-connections/, (s) => { s.connections.current = 95; }],
    ['bad', /^The certificate of a, b expired 1 day ago\.$/, (s) => s.certificates.push({ names: ['a', 'b'], not_after: '2026-11-24T12:00:00Z' })],
    ['warn', /^The certificate of a expires in 12 days/, (s) => s.certificates.push({ names: ['a'], not_after: '2026-12-07T12:00:00Z' })],
    ['warn', /^The webhook fails: refused; 7 changes wait\.$/, (s) => { s.webhook = { last_error: 'refused', pending: 7 }; }],
    ['bad', /^This node is alone: /, (s) => { s.cluster = { ...cluster(), state: 'alone' }; }],
    ['warn', /^This node is taking over/, (s) => { s.cluster = { ...cluster(), state: 'joining' }; }],
    ['warn', /^Nothing is heard from n<U\+202E>, \?\.$/, (s) => { s.cluster = { ...cluster(), nodes: [{ state: 'silent', name: 'n\u202e' }, { state: 'settled', name: 'x' }, { state: 'silent', name: null }] }; }],
    ['warn', /came up to 1\.2 s late\.$/, (s) => { s.cluster = { ...cluster(), log_delay_max_ms: 1200 }; }],
    ['warn', /clock is -700 ms off/, (s) => { s.cluster = { ...cluster(), clock_offset_ms: 700 }; }],
    ['bad', /^Tables of nodes differed 2 times/, (s) => { s.cluster = { ...cluster(), counters: { differences: 2 } }; }],
  ];
  const everything = well();
  for (const [state, words, spoil] of cases) {
    const stats = well();
    spoil(stats);
    const found = problems(stats, {}, AT);
    assert.equal(found.length, 1, String(words));
    assert.equal(found[0][0], state, String(words));
    assert.match(found[0][1], words);
    spoil(everything);
  }
  const order = problems(everything, { log_dropped: { by: 3, at: AT - 60000 } }, AT);
  assert.match(order.at(-1)[1], /^3 lines of the log were dropped, 1 min ago: /);
  assert.deepEqual(order.map(([state]) => state), order.map(([state]) => state).sort(), 'bad before warn');
});

test('every counter that is watched or rated is one of the server', async () => {
  const source = require('node:fs').readFileSync(path.resolve(__dirname, '../../presence.c'), 'utf8');
  const page = require('node:fs').readFileSync(path.resolve(__dirname, '../../web/admin/health.js'), 'utf8');
  const watched = [...page.matchAll(/^ {2}\['(\w+)', /gm)].map(([, name]) => name);
  const rated = [.../RATED = \[([^\]]+)/.exec(page)[1].matchAll(/'(\w+)'/g)].map(([, name]) => name);
  assert.ok(watched.length >= 7 && rated.length >= 8);
  for (const name of [...watched, ...rated]) assert.match(source, new RegExp(`\\n {4}X\\(${name}, `), name);
});

test('rates are of the last two looks, at first of all the time; what grew is told for ten minutes', async () => {
  const { Looks } = await load('health.js');
  const looks = new Looks();
  const note = (seconds, counters, started = 'a', uptime = 100 + seconds) =>
    looks.note({ counters, started_at: started, uptime_seconds: uptime }, AT + seconds * 1000);
  note(0, { joins: 200, log_dropped: 5 });
  assert.deepEqual([looks.rates, looks.over, looks.grown], [[['joins', 2]], 100000, {}]);
  note(10, { joins: 250, log_dropped: 5 });
  assert.deepEqual([looks.rates, looks.over], [[['joins', 5]], 10000]);
  note(20, { joins: 250, log_dropped: 8 });
  assert.deepEqual(looks.grown, { log_dropped: { by: 3, at: AT + 20000 } });
  note(610, { joins: 250, log_dropped: 8 });
  assert.equal(looks.grown.log_dropped.by, 3);
  note(630, { joins: 250, log_dropped: 8 });
  assert.deepEqual(looks.grown, {});
  note(640, { joins: 10, log_dropped: 1 }, 'b', 5); // another run of the server
  assert.deepEqual([looks.rates, looks.grown], [[['joins', 2]], {}]);
});

test('the server panel begins with Healthy, and says what becomes wrong on the tab', async (t) => {
  const { server, page } = await admin(t, { users: 3 }, { hash: '#/server' });
  await untilText(page, 'health-word', /^Healthy$/);
  assert.equal(await page.isVisible('#nav-problems'), false);
  await untilText(page, 'limit-facts', /webhook-batch\s+100(?! s)/);
  assert.equal(await page.isVisible('#zero-facts'), false, 'zeros are folded');
  await page.click('#zeros summary');
  assert.match(await text(page, 'zero-facts'), /log dropped\s+0/);
  await untilText(page, 'rate-facts', /requests\s+[\d,.]+\/s/);
  Object.assign(server.counted, { log_dropped: 4 });
  server.more = { webhook: { url: 'https://hook.example.com', pending: 7, delivered: 1, failures: 2, dead: 0, last_error: 'it answered 500', last_success: null } };
  await page.click('#refresh');
  await untilText(page, 'nav-problems', /^2$/);
  assert.equal(await text(page, 'health-word'), '2 problems');
  assert.match(await text(page, 'problems'), /The webhook fails: it answered 500; 7 changes wait\.\s+4 lines of the log were dropped, just now/);
  assert.equal(await page.getAttribute('#nav-server', 'aria-label'), 'Server, 2 problems');
  await page.click('#nav-people');
  assert.equal(await page.isVisible('#nav-problems'), true);
  await checkAxe(page);
});

test('the chart tells any moment under the pointer and by keys', async (t) => {
  const { page } = await admin(t, { users: 1000 });
  await untilText(page, 'chart-text', /^Most /);
  const box = await page.locator('#chart').boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + 20);
  const moment = moments(/^MOMENT: [\d,]+ users, [\d,]+ connections$/);
  await untilText(page, 'chart-text', moment);
  assert.match(await page.getAttribute('#chart-box', 'class'), /told/);
  await page.mouse.move(box.x, box.y - 60);
  await untilText(page, 'chart-text', /^Most /);
  await page.focus('#chart-box');
  const value = () => page.getAttribute('#chart-box', 'aria-valuetext');
  const last = await value();
  assert.match(last, moment);
  assert.equal(await text(page, 'chart-text'), last);
  await page.keyboard.press('ArrowLeft');
  assert.notEqual(await value(), last);
  await page.keyboard.press('Home');
  assert.equal(await page.getAttribute('#chart-box', 'aria-valuenow'), '0');
  await page.keyboard.press('End');
  assert.equal(await value(), last);
  await checkAxe(page);
  await page.focus('#search');
  await untilText(page, 'chart-text', /^Most /);
});

test('a young server: the chart begins with the first sample, one sample is a sentence', async (t) => {
  const young = await admin(t, { users: 34, history: 'young' });
  await untilText(young.page, 'overview-title', moments(/^Since MOMENT$/));
  const from = await young.page.$eval('#chart .users', (one) => Number(/^M([\d.]+)/.exec(one.getAttribute('d'))[1]));
  assert.equal(from, 0);
  const first = await admin(t, { users: 34, history: 'one' });
  await untilText(first.page, 'chart-text', moments(/^3\d users now, since MOMENT\.$/));
  assert.equal(await first.page.isVisible('#chart-box'), false);
});

test('where only tokens open the server, the form asks for one and never for a password', async (t) => {
  const { server, page } = await admin(t, { users: three(), keysOnly: true }, { allow: [/status of 401/] });
  await page.waitForSelector('#login:not([hidden])');
  assert.equal(await text(page, 'login-label'), 'Token of an admin');
  assert.match(await text(page, 'login-why'), /no admin password/);
  await checkAxe(page);
  const enter = async (token) => {
    await page.waitForSelector('#login-button:enabled');
    await page.fill('#password', token);
    await page.keyboard.press('Enter');
  };
  await enter('no token \u20ac');
  await untilText(page, 'login-message', /^This is no token\.$/);
  await enter('bad.admin.token');
  await untilText(page, 'login-message', /^This token does not open it: /);
  await enter('good.admin.token');
  await connection(page, 'connected');
  await untilUsers(page, ['alice', 'bob', 'carol']);
  assert.equal(server.log.some((line) => line.startsWith('POST')), false);
  await page.click('#logout');
  await untilText(page, 'login-message', /^You are signed out\.$/);
  assert.equal(await text(page, 'login-label'), 'Token of an admin');
});

const AGENT = 'Mozilla/5.0 (X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0';
const wire = (i) => ({ address: '192.0.2.10', port: 50000 + i, agent: AGENT, status: 'online', round_trip_ms: 2 + 7 * i,
  connected_at: new Date(Date.now() - (i + 1) * MINUTE).toISOString(), last_heard: new Date().toISOString() });

/** Users of every kind. */
const everybody = () => ({ ...three(),
  eve: { invisible: true, message: 'a message that is rather long, and goes on for a while', connections: 2, list: [wire(0), wire(1)],
    manual: { status: 'invisible', until: new Date(Date.now() + 25 * MINUTE).toISOString() } },
  [`${'w'.repeat(60)}@${'example.'.repeat(8)}com`]: {}, 'a\u202eb': { status: 'away' } });

test('what is set by hand, and like connections together', async (t) => {
  const { server, page } = await admin(t, { users: everybody() }, { hash: '#/user/eve' });
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.match(await text(page, 'detail-state'), /online\s+live\s+hidden from others/);
  assert.match(await text(page, 'detail-manual'), moments(/^Set by hand: invisible, until MOMENT \(2\d min\)$/));
  assert.match(await text(page, 'detail-message'), /^a message that is rather long/);
  const rows = await page.$$eval('#connection-rows tr', (all) => all.map((one) => one.innerText.replace(/\s+/g, ' ')));
  assert.deepEqual(rows, ['Firefox 125 on Linux \u00d7 2 192.0.2.10 online 2 min 2 to 9 ms']);
  await page.click('#connection-rows summary');
  await untilText(page, 'connection-rows', /192\.0\.2\.10:50000[^]*192\.0\.2\.10:50001/);
  server.users.get('eve').list.push({ ...wire(2), node: 'node-b<b>', status: 'away', agent: 'app/1.2 (x)' });
  server.change('eve', {});
  await page.waitForFunction(() => document.querySelectorAll('#connection-rows tr').length === 2);
  assert.match(await page.locator('#connection-rows tr >> nth=1').innerText(), /^app 1\.2\s+192\.0\.2\.10, on node-b<b>\s+away/);
  assert.equal(await page.$eval('#connection-rows details', (one) => one.open), true, 'what was opened stays so');
  const listed = await page.$$eval('#rows tr', (all) => all.map((one) => one.innerText.replace(/\s+/g, ' ')));
  assert.ok(listed.some((line) => /^eve a message .* online ?, hidden live 2 /.test(line)), listed.join('\n'));
  await page.selectOption('#filter', 'hidden');
  await page.waitForFunction(() => document.querySelectorAll('#rows tr').length === 1);
});

for (const [name, options] of [['320 px', { viewport: { width: 320, height: 640 }, hasTouch: true }],
  ['forced colours', { forcedColors: 'active' }]]) {
  test(`every state, ${name}: nothing is cut off, and axe finds nothing`, async (t) => {
    const bad = { store: { writable: false, readable: true, problem: 'No space left on device', users: 9, sessions: 1, file_bytes: 1, used_bytes: 1, last_commit: null } };
    const { server, page } = await admin(t, { users: everybody(), more: bad }, options);
    const look = async () => {
      const over = await page.evaluate(() => [...document.querySelectorAll('body *')].filter((one) =>
        one.checkVisibility() && !one.closest('.hide, svg, pre, [hidden], #users th > *') && one.getBoundingClientRect().right > innerWidth + 1
          && getComputedStyle(one).position !== 'absolute').map((one) => one.outerHTML.slice(0, 120)));
      assert.deepEqual(over, []);
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
      await checkAxe(page);
    };
    await connection(page, 'connected');
    await look();
    await page.evaluate(() => { location.hash = '#/user/eve'; });
    await page.waitForSelector('#detail-body:not([hidden])');
    await page.click('#connection-rows summary');
    await page.click('#kick');
    await look();
    await page.keyboard.press('Escape');
    await look();
    await page.evaluate(() => { location.hash = '#/server'; });
    await untilText(page, 'problems', /cannot be written: No space left/);
    await look();
    await page.evaluate(() => { location.hash = '#/'; });
    for (const id of [...server.users.keys()]) if (server.users.get(id).online) server.leave(id);
    await untilText(page, 'empty-title', /^Nobody is online$/);
    await look();
  });
}
