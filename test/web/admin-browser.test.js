'use strict';
// The admin page in Chromium, against a stand-in for the server.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const nodeTest = require('node:test');
const { startStandin } = require('./lib/standin');
const { startChromium, openPage, closePage, checkAxe } = require('./lib/pages');
const { traceTasks } = require('./lib/trace');

const { before, after } = nodeTest;
const test = (name, body) => nodeTest(name, { timeout: 60000 }, body);
const MINUTE = 60000;
let chrome;
before(async () => { chrome = await startChromium(); });
after(() => chrome.close());

/** Opens the admin page of a stand-in with these options, or with `blank` a page that is yet to go
 *  there; both end with the test. */
async function admin(t, options, { hash = '', ...more } = {}) {
  const server = await startStandin(options);
  const page = await openPage(chrome, `${server.url}/admin/${hash}`, more);
  t.after(async () => {
    await closePage(page).finally(() => server.close());
  });
  return { server, page };
}

/** Waits until the indicator has this state. */
const connection = (page, state) => page.waitForSelector(`#connection[data-state="${state}"]`);

/** The lines of the list as they can be read, without times. */
const lines = (page) => page.$$eval('#rows tr', (rows) => rows.map((tr) =>
  [...tr.children].slice(0, 4).map((cell) => cell.textContent).join(' | ')));

/** Waits until the list's first column is this. */
const untilUsers = (page, ids) => page.waitForFunction((wanted) => {
  const found = [...document.querySelectorAll('#rows th')].map((th) => th.innerText.trim());
  return JSON.stringify(found) === JSON.stringify(wanted);
}, ids);

const text = (page, id) => page.locator(`#${id}`).innerText();
const untilText = (page, id, pattern) => page.waitForFunction(([name, source]) =>
  new RegExp(source).test(document.getElementById(name).innerText), [id, pattern.source]);

const three = (now = Date.now()) => ({
  alice: { connections: 2, since: now - 42 * MINUTE, seen: now - 4000, first: now - 9e8, stays: [
    { from: '2026-11-24T12:20:00.000Z', to: '2026-11-24T13:02:00.000Z', reason: 'dropped',
      address: '192.0.2.10' },
    { from: '2026-11-24T08:00:00.000Z', to: '2026-11-24T08:01:00.000Z', reason: 'closed',
      address: '2001:db8::17' }] },
  bob: { status: 'away', source: 'cached', connections: 0, since: now - 12 * MINUTE },
  carol: { status: 'busy', since: now - 180 * MINUTE },
});

test('three users: words for status and source, totals, live changes, axe', async (t) => {
  const { server, page } = await admin(t, { users: three() });
  await connection(page, 'connected');
  assert.deepEqual(await lines(page), ['alice | online | live | 2', 'bob | away | cached | 0',
    'carol | busy | live | 1']);
  assert.deepEqual(await Promise.all(['users', 'connections', 'live', 'cached'].map((name) =>
    text(page, `count-${name}`))), ['3', '3', '2', '1']);
  assert.equal(await text(page, 'connection-word'), 'Live');
  assert.match(await text(page, 'connection-text'), /^list refreshed at \d\d:\d\d:\d\d$/);
  await checkAxe(page);
  server.join('dave', { connections: 3 });
  server.change('carol', { status: 'online' });
  server.leave('bob', 'timeout');
  await untilUsers(page, ['alice', 'carol', 'dave']);
  await untilText(page, 'count-connections', /^6$/);
  assert.deepEqual(await lines(page), ['alice | online | live | 2', 'carol | online | live | 1',
    'dave | online | live | 3']);
  await page.waitForFunction(() => document.title === '3 online \u2013 presence');
  await page.selectOption('#filter', 'offline');
  await untilUsers(page, ['bob']);
  assert.deepEqual(await lines(page), ['bob | offline, went silent | stored | 0']);
  await checkAxe(page);
});

test('relative times tick, and are never older than what the server would have told', async (t) => {
  const { page } = await admin(t, { users: { ann: { since: Date.now() - 9000 } } });
  await connection(page, 'connected');
  const read = () => page.$$eval('#rows tr', (rows) => rows.map((tr) =>
    [...tr.children].slice(4).map((cell) => cell.innerText)).flat());
  const [since] = await read();
  await page.waitForFunction((old) => document.querySelector('#rows .c-since').innerText !== old, since);
  assert.match((await read())[0], /^1?\d s$/);
  await page.waitForFunction(() => /^[2-9] s ago$/.test(document.querySelector('#rows .c-seen').innerText));
});

test('nobody online: the page says so, and the first user appears', async (t) => {
  const { server, page } = await admin(t, { users: 0, history: 'empty' });
  await connection(page, 'connected');
  assert.equal(await text(page, 'empty-title'), 'Nobody is online');
  assert.equal(await page.isVisible('#users'), false);
  assert.match(await text(page, 'chart-text'), /No samples yet/);
  await checkAxe(page);
  server.join('first');
  await untilUsers(page, ['first']);
  assert.equal(await page.isVisible('#empty'), false);
});

test('A01 100,000 users and 500 changes a second: no task over 200 ms, and nothing missed', async (t) => {
  const { server, page } = await admin(t, { users: 100000 }, { blank: true });
  server.churn(500);
  const tasks = await traceTasks(chrome, page, async () => {
    await page.goto(`${server.url}/admin/`);
    await connection(page, 'connected');
    for (const sort of ['connections', 'seen', 'id']) {
      await page.click(`button[data-sort="${sort}"]`);
      await page.waitForSelector('#users[aria-busy="false"]');
    }
    await page.fill('#search', '99');
    await page.waitForFunction(() => /99/.test(document.querySelector('#rows th').innerText));
    await page.fill('#search', '');
    await page.waitForFunction(() => !/99/.test(document.querySelector('#rows th').innerText));
    await page.click('#last');
    const until = server.churned + 1000;
    while (server.churned < until) await page.waitForTimeout(50);
  });
  t.diagnostic(`tasks: ${JSON.stringify(tasks)}`);
  assert.ok(tasks.count > 500, `the trace has tasks: ${tasks.count}`);
  assert.ok(tasks.cpu.longest > 0, 'the trace has the time of the processor');
  assert.equal(tasks.cpu.over200, 0, JSON.stringify(tasks));
  const pages = server.log.filter((line) => line.startsWith('GET /admin/online-users')).length;
  assert.ok(pages >= 99, `in pages of 1,000: ${pages}`);
  assert.equal(await page.$$eval('#rows tr', (rows) => rows.length) <= 50, true);
  server.stopChurn();
  const { online, connections, live, cached } = server.totals;
  for (const [name, value] of Object.entries({ users: online, connections, live, cached })) {
    await untilText(page, `count-${name}`, new RegExp(`^${value.toLocaleString('en')}$`));
  }
  await page.click('#first');
  await page.waitForFunction((total) => document.getElementById('range').innerText.endsWith(total),
    `of ${online.toLocaleString('en')}`);
  const seen = await lines(page);
  const wanted = server.order.map((id) => server.users.get(id)).filter((user) => user.online)
    .slice(0, 50).map((one) => `${one.id} | ${one.status} | ${one.source} | ${one.connections}`);
  assert.deepEqual(seen, wanted);
});

test('the trace would have told of a long task', async (t) => {
  const { page } = await admin(t, { users: 3 });
  const tasks = await traceTasks(chrome, page, () => page.evaluate(() => new Promise((resolve) => {
    setTimeout(() => {
      const end = performance.now() + 1500;
      while (performance.now() < end);
      resolve();
    });
  })));
  assert.deepEqual([tasks.cpu.over200, tasks.wall.over200 > 0], [1, true], JSON.stringify(tasks));
});

test('search, filter, sort and pages', async (t) => {
  const { server, page } = await admin(t, { users: 120 });
  await connection(page, 'connected');
  assert.equal(await text(page, 'range'), '1 to 50 of 120');
  await page.click('#next');
  assert.equal(await text(page, 'range'), '51 to 100 of 120');
  assert.match((await lines(page))[0], /^user-000050 /);
  await page.click('#last');
  assert.equal(await text(page, 'range'), '101 to 120 of 120');
  assert.equal(await page.getAttribute('#next', 'aria-disabled'), 'true');
  await page.click('#first');
  await page.fill('#search', 'USER-00011');
  await page.waitForFunction(() => document.querySelectorAll('#rows tr').length === 10);
  await page.fill('#search', '');
  await page.selectOption('#filter', 'busy');
  await untilText(page, 'found', /^24 users match$/);
  assert.deepEqual(new Set((await lines(page)).map((line) => line.split(' | ')[1])), new Set(['busy']));
  await page.selectOption('#filter', 'online');
  await untilText(page, 'found', /^120 users match$/);
  await page.click('button[data-sort="connections"]');
  await page.waitForSelector('th[aria-sort="descending"] [data-sort="connections"]');
  assert.match((await lines(page))[0], / 3$/);
  await page.click('button[data-sort="connections"]');
  await page.waitForSelector('th[aria-sort="ascending"] [data-sort="connections"]');
  assert.match((await lines(page))[0], / 0$/);
  await page.fill('#search', 'nobody like this');
  await page.waitForSelector('#empty:not([hidden])');
  assert.equal(await text(page, 'empty-title'), 'No user matches');
  await checkAxe(page);
  assert.equal(server.log.filter((line) => line.includes('online-users')).length, 1, 'loaded once');
});

test('offline users are loaded a page at a time, and the search asks the server', async (t) => {
  const users = { on: {} };
  for (let i = 0; i < 1500; i++) users[`off-${String(i).padStart(4, '0')}`] = { online: false };
  const { server, page } = await admin(t, { users });
  await connection(page, 'connected');
  await page.selectOption('#filter', 'offline');
  await untilText(page, 'stored-text', /^1,000 offline users loaded\. There are more/);
  await page.click('#more');
  await untilText(page, 'stored-text', /^1,500 offline users loaded\.$/);
  assert.equal(await page.isVisible('#more'), false);
  assert.equal(await text(page, 'range'), '1 to 50 of 1,500');
  await page.fill('#search', 'off-149');
  await page.waitForFunction(() => document.querySelectorAll('#rows tr').length === 10);
  await page.waitForFunction(() => /loaded\.$/.test(document.getElementById('stored-text').innerText));
  assert.ok(server.log.some((line) => /\/admin\/users\?status=offline.*q=off-149/.test(line)));
  server.join('off-1499');
  await page.waitForFunction(() => document.querySelectorAll('#rows tr').length === 9);
});

test('a user in detail: connections, timeline in words, link, back, keyboard', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { allow: [/status of 404/] });
  await connection(page, 'connected');
  await page.focus('#rows a');
  server.join('aaron');
  await untilUsers(page, ['aaron', 'alice', 'bob', 'carol']);
  await page.keyboard.press('Enter'); // the focus went down with its user
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.equal(new URL(page.url()).hash, '#/user/alice');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'detail-name');
  const cards = await page.$$eval('#connections > li', (all) => all.map((one) => one.innerText));
  assert.equal(cards.length, 2);
  assert.match(cards[0], /192\.0\.2\.10:50000\s+online\s+Agent\s+Mozilla\/5\.0 \(X11; Linux x86_64\)/);
  assert.match(cards[0], /Last heard\s+\d+ s ago\s+Round trip\s+23 ms/);
  assert.match(cards[1], /Round trip\s+not measured yet/);
  const timeline = await page.$$eval('#timeline li', (all) => all.map((one) => one.innerText));
  assert.match(timeline[0], /^since .*\d\d:\d\d, still online\s*42 min, from 127\.0\.0\.1$/);
  assert.match(timeline[1], /24 Nov( 2026)? 13:20 to 14:02, connection lost\s*42 min, from 192\.0\.2\.10$/);
  assert.match(timeline[2], /9:00 to 09:01, left or signed out\s*1 min, from 2001:db8::17$/);
  await checkAxe(page);
  server.leave('alice', 'timeout');
  await untilText(page, 'timeline', /went silent/);
  await untilText(page, 'no-connections', /^None\.$/);
  assert.equal(await page.isVisible('#kick'), false);
  await page.keyboard.press('Escape');
  await page.waitForSelector('#detail', { state: 'hidden' });
  await untilUsers(page, ['aaron', 'bob', 'carol']);
  await page.click('#rows a >> nth=2');
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.equal(await text(page, 'detail-name'), 'carol');
  await page.click('#detail-close');
  await page.waitForFunction(() => document.activeElement.innerText === 'carol'); // focus returns
  await page.goBack();
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.equal(await text(page, 'detail-name'), 'carol');
  await page.evaluate(() => { location.hash = '#/user/never-seen'; });
  await untilText(page, 'detail-note', /never seen/i);
  await page.evaluate(() => { location.hash = '#/user/%E0%A4%A'; });
  await page.waitForSelector('#detail', { state: 'hidden' });
});

test('a long timeline comes in pieces and keeps them', async (t) => {
  const stays = Array.from({ length: 120 }, (_, i) => ({ reason: 'closed', address: '192.0.2.1',
    from: new Date(Date.now() - (i + 2) * 3600000).toISOString(),
    to: new Date(Date.now() - (i + 2) * 3600000 + 60000).toISOString() }));
  const { server, page } = await admin(t, { users: { u: { stays } } }, { hash: '#/user/u' });
  const length = (n) => page.waitForFunction((wanted) =>
    document.querySelectorAll('#timeline li').length === wanted, n);
  await length(50);
  await page.click('#detail-more');
  await length(100);
  server.change('u', { status: 'away' });
  await page.waitForSelector('#detail-state [data-value="away"]');
  await length(100);
  await page.click('#detail-more');
  await length(121);
  assert.equal(await page.isVisible('#detail-more'), false);
});

test('kick: only after the question, and the user is shown offline', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { hash: '#/user/alice' });
  await page.click('#kick');
  assert.match(await text(page, 'kick-dialog'), /^Kick alice\?\s+Closes 2 connections and ends the stay/);
  assert.equal(await page.evaluate(() => document.activeElement.innerText), 'Cancel');
  await checkAxe(page);
  await page.keyboard.press('Escape');
  await page.click('#kick');
  await page.click('#kick-dialog button:has-text("Cancel")');
  assert.equal(server.users.get('alice').online, true);
  assert.equal(server.log.some((line) => line.startsWith('DELETE')), false);
  await page.click('#kick');
  await page.click('#kick-yes');
  await untilText(page, 'detail-note', /^Kicked: 2 connections closed\.$/);
  assert.deepEqual(server.log.filter((line) => line.startsWith('DELETE')),
    ['DELETE /admin/users/alice/connections']);
  await untilText(page, 'timeline', /kicked by an admin/);
  await untilUsers(page, ['bob', 'carol']);
});

test('sign in, wrong password, too many, sign out, session gone', async (t) => {
  const { server, page } = await admin(t, { users: three(), password: 'secret' },
    { allow: [/status of (401|429)|ERR_/] });
  await page.waitForSelector('#login:not([hidden])');
  assert.equal(await page.isVisible('#main'), false);
  await checkAxe(page);
  const attempt = async (password) => {
    await page.fill('#password', password);
    await page.keyboard.press('Enter');
  };
  await attempt('wrong');
  await untilText(page, 'login-message', /^This is not the password\.$/);
  await checkAxe(page);
  server.retryAfter = 2;
  for (let tries = 0; !/Too many/.test(await text(page, 'login-message')); tries++) {
    assert.ok(tries < 3);
    await page.waitForSelector('#login-button:enabled');
    const answered = page.waitForResponse((answer) => answer.url().endsWith('/login'));
    await attempt('wrong again');
    await answered;
    await page.waitForFunction(() => document.getElementById('login-message').innerText);
    await page.evaluate(() => new Promise(requestAnimationFrame));
  }
  assert.equal(await text(page, 'login-message'), 'Too many failures. Try again in 2 s.');
  assert.equal(await page.isDisabled('#login-button'), true);
  await checkAxe(page);
  await page.waitForSelector('#login-button:enabled');
  await attempt('secret');
  await connection(page, 'connected');
  await untilUsers(page, ['alice', 'bob', 'carol']);
  assert.equal(await page.inputValue('#password'), '');
  await page.click('#logout');
  await untilText(page, 'login-message', /^You are signed out\.$/);
  assert.equal(server.sessions.size, 0);
  assert.equal(await page.locator('#rows tr').count(), 0, 'who is signed out sees nothing');
  await attempt('secret');
  await untilUsers(page, ['alice', 'bob', 'carol']);
  server.sessions.clear();
  server.breakStreams();
  await untilText(page, 'login-message', /session has ended/);
  assert.equal(await page.locator('#rows tr').count(), 0);
});

test('a server without a password needs no form', async (t) => {
  const { page } = await admin(t, { users: 1 });
  await connection(page, 'connected');
  assert.equal(await page.isVisible('#logout'), false);
});

test('phone width: nothing is cut off, details take the page', async (t) => {
  const { page } = await admin(t, { users: { ...three(), ['w'.repeat(128)]: {} } },
    { viewport: { width: 360, height: 740 }, hasTouch: true });
  await connection(page, 'connected');
  const fits = () => page.evaluate(() => document.documentElement.scrollWidth <= 360
    && document.getElementById('users').getBoundingClientRect().right <= 360);
  assert.equal(await fits(), true);
  await checkAxe(page);
  await page.tap('#rows a >> nth=0');
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.equal(await page.isVisible('#list'), false);
  assert.equal(await fits(), true);
  await checkAxe(page);
  await page.tap('#nav-server');
  await untilText(page, 'server', /takes writes/);
  assert.equal(await fits(), true);
});

test('dark: its own colours, as readable', async (t) => {
  const { page } = await admin(t, { users: three(), certificates: [{ names: ['example.com'],
    not_after: new Date(Date.now() + 5 * 86400000).toISOString() }] },
  { colorScheme: 'dark', hash: '#/user/alice' });
  await page.waitForSelector('#detail-body:not([hidden])');
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor),
    'rgb(16, 20, 26)');
  await checkAxe(page);
  await page.click('#nav-server');
  await untilText(page, 'certificate-facts', /example\.com\s+expires in (4 days 23 h|5 days)/);
  await checkAxe(page);
});

test('the server panel: program, store, limits, counters', async (t) => {
  const { page } = await admin(t, { users: 3 }, { hash: '#/server' });
  await untilText(page, 'server-facts', /Version\s+0\.1\.0/);
  assert.match(await text(page, 'server-facts'), /Memory\s+30 MiB, 27 MiB of its own/);
  assert.match(await text(page, 'store-facts'), /State\s+takes writes\s+Known users\s+3/);
  assert.match(await text(page, 'limit-facts'), /online-threshold\s+90 s/);
  assert.match(await text(page, 'counter-facts'), /request errors\s+3/);
  assert.match(await text(page, 'no-certificates'), /no TLS/);
  await checkAxe(page);
});

test('A01 hostile ids are text: no markup, no script, no turned words', async (t) => {
  const ids = ['"><svg/onload=alert(1)>', '=1+1', '</script><script>alert(1)</script>',
    '<img src=x onerror=alert(1)>', '__proto__', 'constructor', 'a/b?c#d%2F', 'javascript:alert(1)',
    '\u202eadmin', '{{7*7}}', '\\x1b[2J', '&lt;b&gt;', 'a\u200bdmin', '..', "' OR 1=1 --"];
  const users = Object.fromEntries(ids.map((id) => [id, {}]));
  Object.defineProperty(users, '__proto__', { value: {}, enumerable: true });
  const agent = '<svg onload=alert(1)>\u202e\u001b[2J';
  users['=1+1'] = { list: [{ address: '::1', port: 9, agent, connected_at: new Date().toISOString(),
    last_heard: new Date().toISOString(), status: 'online', round_trip_ms: 1 }] };
  const { server, page } = await admin(t, { users });
  await connection(page, 'connected');
  const shown = await page.$$eval('#rows th', (all) => all.map((th) => th.textContent));
  assert.equal(shown.length, ids.length);
  for (const id of ids) {
    const wanted = id.replace('\u202e', '<U+202E>').replace('\u200b', '<U+200B>');
    assert.ok(shown.includes(wanted), `${wanted} in ${shown}`);
  }
  for (const id of ids.filter((one) => one !== '..')) {
    await page.evaluate((one) => { location.hash = `#/user/${encodeURIComponent(one)}`; }, id);
    await page.waitForSelector('#detail-body:not([hidden])');
    await page.waitForFunction((n) => document.getElementById('detail-name').textContent === n,
      id.replace('\u202e', '<U+202E>').replace('\u200b', '<U+200B>'));
  }
  await page.evaluate(() => { location.hash = '#/user/%3D1%2B1'; });
  await untilText(page, 'connections', /<svg onload=alert\(1\)><U\+202E><U\+001B>\[2J/);
  assert.match(await text(page, 'connections'), /\[::1\]:9/);
  await page.evaluate(() => { location.hash = '#/user/..'; });
  await untilText(page, 'detail-note', /only dots/);
  assert.equal(await page.locator('main script, #rows svg:not(.icon), main img').count(), 0);
  server.leave('__proto__');
  await page.waitForFunction((n) => document.querySelectorAll('#rows th').length === n, ids.length - 1);
  assert.equal(await page.evaluate(() => 'online' in Object.prototype), false);
});

test('A01 the export holds every row of the view, and no formula', async (t) => {
  const { page } = await admin(t, { users: { ...three(), '=1+1': {}, '@SUM(1)': {}, 'a"b,c': {} } });
  await connection(page, 'connected');
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#export')]);
  assert.match(download.suggestedFilename(), /^presence-\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d\.csv$/);
  const csv = fs.readFileSync(await download.path(), 'utf8').split('\r\n');
  assert.equal(csv[0], '\ufeff"user_id","online","status","source","connections","connected_at",'
    + '"last_seen","reason"');
  assert.deepEqual(csv.slice(1, -1).map((line) => line.split(',"true"')[0]),
    ['"\'=1+1"', '"\'@SUM(1)"', '"a""b,c"', '"alice"', '"bob"', '"carol"']);
  assert.match(csv[5], /^"bob","true","away","cached","0","2\d{3}-.*Z","2\d{3}-.*Z",""$/);
});

test('a broken stream is shown, and resumed without loading the list again', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { allow: [/status of 503|ERR_/] });
  await connection(page, 'connected');
  server.streamStatus = 503;
  server.breakStreams();
  await connection(page, 'broken');
  assert.equal(await text(page, 'connection-word'), 'Broken');
  assert.match(await text(page, 'connection-text'),
    /last data at \d\d:\d\d:\d\d, list refreshed at .*, next try in \d+ s$/);
  await checkAxe(page);
  server.join('missed');
  server.leave('bob', 'dropped');
  const lists = () => server.log.filter((line) => line.includes('online-users')).length;
  const before = lists();
  server.streamStatus = 0;
  await connection(page, 'connected');
  await untilUsers(page, ['alice', 'carol', 'missed']);
  assert.equal(lists(), before, 'the changes came by the stream');
});

test('a restarted server is another run: the list is loaded again', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { allow: [/ERR_/] });
  await connection(page, 'connected');
  server.join('dave');
  await untilUsers(page, ['alice', 'bob', 'carol', 'dave']);
  server.set('bob', { online: false });
  server.add('erin', {});
  server.restart();
  await untilUsers(page, ['alice', 'carol', 'dave', 'erin']);
  await connection(page, 'connected');
  server.leave('alice');
  await untilUsers(page, ['carol', 'dave', 'erin']);
});

test('a silent stream is behind, then broken; the list is polled every 30 s meanwhile', async (t) => {
  const { server, page } = await admin(t, { users: three() },
    { blank: true, allow: [/status of 503|ERR_/] });
  await page.clock.install();
  await page.goto(`${server.url}/admin/`);
  await connection(page, 'connected');
  server.mute = true;
  server.streamStatus = 503;
  server.join('dave');
  await page.clock.runFor(11000);
  await connection(page, 'behind');
  await untilText(page, 'connection-text', /^1 changes are missing/);
  await page.clock.runFor(11000);
  await untilText(page, 'connection-text', /^nothing heard for 2\d s/);
  await page.clock.runFor(9000);
  await untilUsers(page, ['alice', 'bob', 'carol', 'dave']);
  await page.clock.runFor(11000);
  await connection(page, 'broken');
  server.join('erin');
  await page.clock.runFor(31000);
  await untilUsers(page, ['alice', 'bob', 'carol', 'dave', 'erin']);
  server.down = true;
  await page.clock.runFor(31000);
  await untilText(page, 'connection-text', /last refresh failed, the server does not answer/);
  server.down = false;
  server.mute = false;
  server.streamStatus = 0;
  await page.click('#refresh');
  await connection(page, 'connected');
});

test('a server without a stream or a history: the list is polled, and the page says so', async (t) => {
  const { server, page } = await admin(t, { users: three(), events: false, history: false },
    { blank: true, allow: [/status of 404/] });
  await page.clock.install();
  await page.goto(`${server.url}/admin/`);
  await untilUsers(page, ['alice', 'bob', 'carol']);
  await untilText(page, 'connection-text', /^this server has no stream of changes/);
  assert.equal(await page.isVisible('#overview'), false);
  await checkAxe(page);
  server.leave('alice');
  await page.clock.runFor(31000);
  await untilUsers(page, ['bob', 'carol']);
});

test('the overview: a line with a gap, and in words', async (t) => {
  const { page } = await admin(t, { users: 1000 });
  await untilText(page, 'chart-text', /^Most [\d,]+ at .*, fewest [\d,]+ at /);
  assert.equal(await page.locator('#chart .line').count(), 2, 'one hour is missing');
});

test('a list that could not be loaded is not Live, and is loaded again', async (t) => {
  const { server, page } = await admin(t, { users: 3000 }, { blank: true, allow: [/ERR_/] });
  let pages = 0;
  await page.route('**/online-users*', (route) => (++pages === 3 ? route.abort() : route.continue()));
  await page.clock.install();
  await page.goto(`${server.url}/admin/`);
  await untilText(page, 'connection-text', /last refresh failed/);
  await page.clock.fastForward(2000);
  assert.equal(await text(page, 'connection-word'), 'Behind');
  await page.clock.fastForward(31000);
  server.change('user-000001', { status: 'busy' }); // a stream that says nothing for so long is Behind
  await connection(page, 'connected');
  assert.equal(await text(page, 'count-users'), '3,000');
  server.set('user-002999', { online: false });
  pages = 0;
  server.restart();
  await page.clock.fastForward(4000);
  await untilText(page, 'connection-text', /^the list is not complete, .*last refresh failed/);
  assert.equal(await text(page, 'connection-word'), 'Behind');
  await page.clock.fastForward(32000);
  server.change('user-000001', { status: 'away' });
  await connection(page, 'connected');
  assert.equal(await text(page, 'count-users'), '2,999');
});

test('a load that takes longer than the time between two is not begun anew', async (t) => {
  const { server, page } = await admin(t, { users: 4000, events: false },
    { blank: true, allow: [/status of 404/] });
  let held = null;
  await page.route('**/online-users*', (route) => { held = route; });
  await page.clock.install();
  await page.goto(`${server.url}/admin/`);
  for (let i = 0; i < 4; i++) {
    while (!held) await page.clock.runFor(100);
    await page.clock.runFor(12000);
    assert.equal(/cursor=/.test(held.request().url()), i > 0, `page ${i + 1} is asked for`);
    const route = held;
    held = null;
    await route.continue();
    await route.request().response();
  }
  while (!/list refreshed/.test(await text(page, 'connection-text'))) await page.clock.runFor(100);
});

test('a timeline that grows loses no stay, and has no hole in it', async (t) => {
  const stay = (i) => ({ reason: 'closed', address: '192.0.2.1',
    from: new Date(Date.now() - (i + 2) * 3600000).toISOString(),
    to: new Date(Date.now() - (i + 2) * 3600000 + 60000).toISOString() });
  const stays = Array.from({ length: 120 }, (_, i) => stay(i));
  const { server, page } = await admin(t, { users: { u: { stays } } }, { hash: '#/user/u' });
  const length = (n) => page.waitForFunction((wanted) =>
    document.querySelectorAll('#timeline li').length === wanted, n);
  await length(50);
  await page.click('#detail-more');
  await length(100);
  server.leave('u');
  server.join('u');
  await untilText(page, 'timeline', /under 1 s, from 127/);
  await length(101);
  for (let i = 0; i < 60; i++) stays.unshift(stay(-2 - i / 100));
  server.change('u', { status: 'away' });
  await page.waitForSelector('#detail-state [data-value="away"]');
  await length(50);
  while (await page.isVisible('#detail-more')) {
    const before = await page.locator('#timeline li').count();
    await page.click('#detail-more');
    await page.waitForFunction((n) => document.querySelectorAll('#timeline li').length > n, before);
  }
  await length(182);
});

test('why a user could not be shown goes away once she is', async (t) => {
  const { server, page } = await admin(t, { users: three() },
    { hash: '#/user/alice', allow: [/ERR_/] });
  await page.waitForSelector('#detail-body:not([hidden])');
  await page.route('**/users/alice', (route) => route.abort());
  server.change('alice', { status: 'busy' });
  await untilText(page, 'detail-note', /^Not shown/);
  await page.unroute('**/users/alice');
  server.change('alice', { status: 'away' });
  await page.waitForSelector('#detail-state [data-value="away"]');
  await untilText(page, 'detail-note', /^$/);
});

test('what is said of a kick is not said of the user opened meanwhile', async (t) => {
  const { page } = await admin(t, { users: three() }, { hash: '#/user/alice' });
  await page.waitForSelector('#detail-body:not([hidden])');
  let hold = null;
  await page.click('#kick');
  await page.route('**/users/{alice,carol}', (route) => { hold = route; });
  await page.click('#kick-yes');
  while (!hold) await page.waitForTimeout(20);
  await page.evaluate(() => { location.hash = '#/user/carol'; });
  await untilText(page, 'detail-name', /carol/);
  await page.waitForTimeout(500);
  assert.equal(await text(page, 'detail-note'), '');
});

test('the search asks the server again when only capitals differ', async (t) => {
  const users = { Alice: { online: false }, bob: {} };
  const { server, page } = await admin(t, { users });
  await connection(page, 'connected');
  await page.fill('#search', 'alice');
  await page.selectOption('#filter', 'offline');
  await untilText(page, 'stored-text', /^0 offline users loaded\.$/);
  await page.fill('#search', 'Alice');
  await untilUsers(page, ['Alice']);
  assert.ok(server.log.some((line) => /q=Alice/.test(line)));
});

/** A page whose admin is signed in. */
async function signedIn(t) {
  const { page } = await admin(t, { users: three(), password: 'secret' },
    { allow: [/ERR_|status of 401/] });
  await page.fill('#password', 'secret');
  await page.keyboard.press('Enter');
  await connection(page, 'connected');
  return page;
}

test('a failed sign-out is not a failed refresh', async (t) => {
  const page = await signedIn(t);
  await page.route('**/logout', (route) => route.abort());
  await page.click('#logout');
  await untilText(page, 'connection-text', /not signed out/);
  assert.doesNotMatch(await text(page, 'connection-text'), /refresh failed/);
});

test('a try that has no time yet is not announced', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { blank: true });
  let held = null;
  await page.route('**/events', (route) => { held = route; });
  await page.goto(`${server.url}/admin/`);
  await untilText(page, 'connection-text', /^connecting/);
  assert.doesNotMatch(await text(page, 'connection-text'), /Infinity/);
  while (!held) await page.waitForTimeout(20);
  await held.continue();
  await connection(page, 'connected');
});

test('times are by the clock of the server, whatever the clock of the browser says', async (t) => {
  for (const off of [-3600000, 3600000]) {
    const { server, page } = await admin(t, { users: three() }, { blank: true });
    await page.clock.install({ time: Date.now() + off });
    await page.goto(`${server.url}/admin/#/user/alice`);
    await untilText(page, 'rows', /alice[^]*42 min[^]*\d s ago/);
    await untilText(page, 'detail-facts', /Online since\s+\S.*\(42 min\)/);
    await page.clock.runFor(3000);
    await untilText(page, 'detail-facts', /Online since\s+\S.*\(42 min\)/);
    await untilText(page, 'rows', /alice[^]*42 min[^]*\d s ago/);
  }
});

test("the browser's clock set back or forth: the page goes on, and tells when it cannot", async (t) => {
  for (const off of [-3600000, 86400000]) {
    const { server, page } = await admin(t, { users: three() }, { blank: true, allow: [/ERR_/] });
    await page.clock.install();
    await page.goto(`${server.url}/admin/`);
    await connection(page, 'connected');
    await page.clock.setSystemTime(Date.now() + off);
    await page.clock.runFor(2000);
    await connection(page, 'connected');
    server.join('newcomer');
    await untilText(page, 'rows', /newcomer/);
    await untilText(page, 'rows', /alice[^]*42 min/);
    const asked = server.log.length;
    await page.clock.runFor(61000);
    const stats = server.log.slice(asked).filter((line) => /stats/.test(line)).length;
    assert.ok(stats >= 3, `${stats} times asked for the totals in a minute`);
    server.mute = true; // nothing is heard any more: that is seen, whatever the clock was set to
    server.users.get('alice').status = 'busy';
    await page.clock.runFor(21000);
    await connection(page, 'behind');
  }
});

test('who opens the page while the server is down can sign out later', async (t) => {
  const page = await signedIn(t);
  await page.route('**/login', (route) => route.abort());
  await page.reload();
  await connection(page, 'connected');
  assert.equal(await page.isVisible('#logout'), true);
});
