'use strict';
// The admin page in Chromium: the list, the search, the login, the panel, how it looks.

const assert = require('node:assert/strict');
const { test, admin, connection, lines, untilUsers, text, untilText, three, signedIn } = require('./lib/admin');
const { checkAxe, moments } = require('./lib/pages');

test('three users: words for status and source, totals, live changes, axe', async (t) => {
  const { server, page } = await admin(t, { users: three() });
  await connection(page, 'connected');
  assert.deepEqual(await lines(page), ['alice | online | live | 2', 'bob | away | cached | 0',
    'carol | busy | live | 1']);
  assert.deepEqual(await Promise.all(['users', 'connections', 'live', 'cached'].map((name) =>
    text(page, `count-${name}`))), ['3', '3', '2', '1']);
  assert.equal(await text(page, 'connection-word'), 'Live');
  assert.equal(await text(page, 'connection-text'), '', 'nothing to say while all is well');
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
  await untilText(page, 'found', /^24 users found$/);
  assert.deepEqual(new Set((await lines(page)).map((line) => line.split(' | ')[1])), new Set(['busy']));
  await page.selectOption('#filter', 'online');
  await untilText(page, 'found', /^120 users found$/);
  await page.click('button[data-sort="connections"]');
  await page.waitForSelector('th[aria-sort="descending"] [data-sort="connections"]');
  assert.match((await lines(page))[0], / 3$/);
  await page.click('button[data-sort="connections"]');
  await page.waitForSelector('th[aria-sort="ascending"] [data-sort="connections"]');
  assert.match((await lines(page))[0], / 0$/);
  await page.fill('#search', 'nobody like this');
  await page.waitForSelector('#empty:not([hidden])');
  assert.equal(await text(page, 'empty-title'), 'Nobody online matches');
  await checkAxe(page);
  await page.click('#everyone');
  await untilText(page, 'empty-text', /^of 120 known users$/);
  assert.deepEqual([await text(page, 'empty-title'), await page.inputValue('#filter')], ['No user matches', 'all']);
  assert.equal(await page.evaluate(() => document.activeElement.id), 'search');
  await checkAxe(page);
  assert.equal(server.log.filter((line) => line.includes('online-users')).length, 1, 'loaded once');
});

test('offline users are loaded a page at a time, and the search asks the server', async (t) => {
  const users = { on: {} };
  for (let i = 0; i < 1500; i++) users[`off-${String(i).padStart(4, '0')}`] = { online: false };
  const { server, page } = await admin(t, { users });
  await connection(page, 'connected');
  await page.selectOption('#filter', 'offline');
  await untilText(page, 'range', /^1 to 50 of 1,500 offline, 1,000 loaded$/);
  await page.click('#last'); // near the end of what is loaded the rest is asked for
  await untilText(page, 'range', /^951 to 1,000 of 1,500$/);
  await page.click('#next');
  await untilText(page, 'range', /^1,001 to 1,050 of 1,500$/);
  await page.selectOption('#filter', 'all');
  await untilText(page, 'range', /^1 to 50 of 1,501/);
  await page.selectOption('#filter', 'offline');
  await page.fill('#search', 'off-149');
  await page.waitForFunction(() => document.querySelectorAll('#rows tr').length === 10);
  await untilText(page, 'range', /^1 to 10 of 10$/);
  assert.ok(server.log.some((line) => /\/admin\/users\?status=offline.*q=off-149/.test(line)));
  server.join('off-1499');
  await page.waitForFunction(() => document.querySelectorAll('#rows tr').length === 9);
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

const RLO = String.fromCharCode(0x202e); // turns the text behind it
const node = (name, facts) => ({ node_id: Buffer.from(name).toString('hex').padEnd(16, '0').slice(0, 16), name,
  state: 'settled', users: 12, connections: 15, last_entry_ms: 900, ...facts });
/** What /admin/stats says of a cluster of three, and of users whose node nobody knows any more. */
const clustered = (facts = {}) => {
  const nodes = [node('a'), node('c', { state: 'joining', users: 0 }),
    node(`<b>${RLO}b</b>`, { state: 'silent', last_entry_ms: 9000 }),
    { ...node('x'), node_id: null, name: null, state: 'gone', last_entry_ms: null }];
  return { state: 'settled', since: new Date(Date.now() - 7200000).toISOString(), epoch: '5939c933',
    node_id: nodes[1].node_id, name: 'c', engine: 'redis://10.0.0.5:6379/presence', clock_offset_ms: -4,
    log_delay_ms: 3, log_delay_max_ms: 1400, own_users: 1234, own_connections: 1300, nodes,
    counters: { entries_written: 42, epochs: 1, evicted: 0, differences: 0, alone_seconds: 61 }, ...facts };
};
const states = (page, within) => page.$$eval(`${within} .state`, (all) => all.map((one) => [one.innerText, one.dataset.state].join(' ')));

test('the nodes of a cluster: this one first, how each is, and late changes', async (t) => {
  const { page } = await admin(t, { users: 3, cluster: clustered() }, { hash: '#/server' });
  await untilText(page, 'cluster-facts', /Engine\s+redis:\/\/10\.0\.0\.5:6379\/presence/);
  assert.equal(await page.isVisible('#cluster-note'), false);
  const rows = await page.$$eval('#node-rows tr', (all) => all.map((tr) => [...tr.children].map((cell) =>
    cell.innerText.replace(/^(just now|[0-8] s ago)$/, 'now').replace(/^(9|\d\d) s ago$/, '9 s ago')).join(' | ')));
  assert.deepEqual(rows, ['c (this one) | joining | 0 | 15 | now',
    '<b>U+202Eb</b> | silent | 12 | 15 | 9 s ago', 'a | settled | 12 | 15 | now',
    'nodes that are lost | gone | 12 | 15 | never']);
  assert.deepEqual(await states(page, '#node-rows'), ['joining warn', 'silent warn', 'settled good', 'gone bad']);
  assert.deepEqual(await states(page, '#cluster-facts'), ['settled good', '3 ms good', '1.4 s warn', '-4 ms good', '0 good', '0 good']);
  assert.match(await text(page, 'cluster-facts'), /Users here\s+1,234, 1,300 connections\s+Alone, or joining\s+1 min since the start/);
  assert.match(await text(page, 'counter-facts'), /cluster entries written\s+42/);
  await checkAxe(page);
});

test('a server that is alone says so on every part of the page', async (t) => {
  const { server, page } = await admin(t, { users: 3, cluster: clustered({ state: 'alone' }) });
  await untilText(page, 'cluster-note', moments(/^This server is alone: .* Since MOMENT\.$/));
  await checkAxe(page);
  await page.click('#nav-server');
  await untilText(page, 'problems', /^This node is alone/);
  assert.equal(await page.getAttribute('#health', 'data-state'), 'bad');
  assert.deepEqual((await states(page, '#cluster-facts'))[0], 'alone bad');
  server.cluster = clustered({ clock_offset_ms: 700, counters: { ...clustered().counters, differences: 2, evicted: 1 } });
  await page.click('#refresh');
  await untilText(page, 'cluster-facts', /700 ms/);
  assert.equal(await page.getAttribute('#cluster-note', 'hidden'), '');
  assert.deepEqual((await states(page, '#cluster-facts')).slice(3), ['700 ms warn', '1 warn', '2 bad']);
  server.cluster = undefined;
  await page.click('#refresh');
  await page.waitForSelector('#cluster', { state: 'hidden' });
});

test('the nodes of a cluster on a phone, in the dark: nothing is cut off', async (t) => {
  const cluster = clustered({ state: 'alone' });
  cluster.nodes.push(node('w'.repeat(64)));
  const { page } = await admin(t, { users: 3, cluster }, { hash: '#/server', colorScheme: 'dark', viewport: { width: 360, height: 740 } });
  await untilText(page, 'node-rows', /w{64}/);
  assert.equal(await page.evaluate(() => document.documentElement.scrollWidth <= 360
    && document.getElementById('nodes').getBoundingClientRect().right <= 360), true);
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
    const wanted = id.replace('\u202e', 'U+202E').replace('\u200b', 'U+200B');
    assert.ok(shown.includes(wanted), `${wanted} in ${shown}`);
  }
  for (const id of ids.filter((one) => one !== '..')) {
    await page.evaluate((one) => { location.hash = `#/user/${encodeURIComponent(one)}`; }, id);
    await page.waitForSelector('#detail-body:not([hidden])');
    await page.waitForFunction((n) => document.getElementById('detail-name').textContent === n,
      id.replace('\u202e', 'U+202E').replace('\u200b', 'U+200B'));
  }
  assert.deepEqual(await page.$$eval('#rows .chip', (all) => all.map((one) => one.innerText).sort()), ['U+200B', 'U+202E']);
  await page.evaluate(() => { location.hash = '#/user/%3D1%2B1'; });
  await untilText(page, 'connection-rows', /^<svg/);
  await page.click('#connection-rows summary');
  await untilText(page, 'connections', /<svg onload=alert\(1\)>U\+202EU\+001B\[2J/);
  assert.match(await text(page, 'connections'), /\[::1\]:9/);
  await page.evaluate(() => { location.hash = '#/user/..'; });
  await untilText(page, 'detail-note', /only dots/);
  assert.equal(await page.locator('main script, #rows svg:not(.icon), main img').count(), 0);
  server.leave('__proto__');
  await page.waitForFunction((n) => document.querySelectorAll('#rows th').length === n, ids.length - 1);
  assert.equal(await page.evaluate(() => 'online' in Object.prototype), false);
});

test('the overview: a line with a gap, and in words', async (t) => {
  const { page } = await admin(t, { users: 1000 });
  await untilText(page, 'chart-text', /^Most [\d,]+ at .*, fewest [\d,]+ at /);
  for (const line of ['users', 'connections']) assert.equal(await page.locator(`#chart .${line}`).count(), 2, 'one hour is missing');
});

test('a search forgets capitals, of who is online and of who is not', async (t) => {
  const users = { Alice: { online: false }, bob: {}, ALICIA: {} };
  const { server, page } = await admin(t, { users });
  await connection(page, 'connected');
  for (const text of ['alic', 'ALIC', 'Alic']) {
    await page.selectOption('#filter', 'online');
    await page.fill('#search', text);
    await untilUsers(page, ['ALICIA']);
    await page.selectOption('#filter', 'all');
    await untilUsers(page, ['ALICIA', 'Alice']);
  }
  while (!server.log.some((line) => /q=Alic/.test(line))) await page.waitForTimeout(20); // once typed
});

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

test('who opens the page while the server is down can sign out later', async (t) => {
  const page = await signedIn(t);
  await page.route('**/login', (route) => route.abort());
  await page.reload();
  await connection(page, 'connected');
  assert.equal(await page.isVisible('#logout'), true);
});
