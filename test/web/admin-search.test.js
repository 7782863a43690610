'use strict';
// The admin page's search of users who are not online: the pure part over a server that the test
// holds, and the page in Chromium.

const assert = require('node:assert/strict');
const path = require('node:path');
const { test, admin, connection, lines, text, untilUsers, untilText } = require('./lib/admin');
const { checkAxe } = require('./lib/pages');

const load = (name) => import(path.resolve(__dirname, '../../web/admin', name));

/** A Stored over ids, whose requests wait until they are answered: { stored, asked, taken }. */
async function held(ids, { scan = 3, limit = 1000 } = {}) {
  const { Stored } = await load('stored.js');
  const asked = [];
  const taken = [];
  const answer = (query) => {
    const [q, prefix] = [query.get('q') ?? '', query.get('prefix') ?? ''];
    const matching = (id) => id.toLowerCase().includes(q.toLowerCase()) && id.startsWith(prefix);
    const from = query.get('cursor') ? ids.indexOf(query.get('cursor')) + 1 : 0;
    const part = ids.slice(from, prefix ? ids.length : from + scan).filter((id, i, all) => i < all.length);
    const users = part.filter(matching).slice(0, Math.min(limit, Number(query.get('limit'))));
    const last = ids[from + scan - 1];
    return { users: users.map((id) => ({ user_id: id })), position: 'aa-1', scanned: Math.min(scan, ids.length - from),
      next: prefix || from + scan >= ids.length ? null : last };
  };
  const stored = new Stored({ wake() {},
    take: (users) => taken.push(...users.map((one) => one.user_id)),
    request: (url, { signal }) => new Promise((resolve, reject) => {
      const query = new URLSearchParams(url.split('?')[1]);
      asked.push({ query, url, signal, fail: (message) => reject(new Error(message)), go: () => resolve(answer(query)) });
      // An answer that has come already is not taken back by the abort.
      if (asked.length % 2) signal.addEventListener('abort', () => reject(new Error('the server does not answer')));
    }) });
  return { stored, asked, taken };
}
const turns = async () => { for (let i = 0; i < 20; i++) await null; };
const all = ['Anna', 'anna', 'bob', 'carl', 'joanna', 'zoe', 'zz'];

test('a search asks for the ids that begin with it, then for all that contain it, to the end', async () => {
  const { rangeText, searchText } = await load('stored.js');
  const { stored, asked, taken } = await held(all);
  const done = stored.ask('anna');
  assert.equal(asked[0].url, 'users?prefix=anna&limit=50');
  assert.equal(searchText(stored, 7), 'searching, 0 of 7');
  asked[0].go();
  await turns();
  assert.deepEqual(taken, ['anna'], 'the id itself, before anybody was looked through');
  assert.equal(asked[1].query.get('q'), 'anna');
  asked[1].go();
  await turns();
  assert.equal(searchText(stored, 7), 'searching, 3 of 7');
  assert.equal(rangeText({ from: 1, to: 2, total: 2, filter: 'all' }, stored, { known: 7, online: 0 }),
    '1 to 2 of 2, searching, 3 of 7');
  asked[2].go();
  await turns();
  asked[3].go();
  await done;
  assert.deepEqual([...new Set(taken)].sort(), ['Anna', 'anna', 'joanna']);
  assert.deepEqual([stored.busy, stored.done, stored.scanned, searchText(stored, 7)], [false, true, 7, '']);
  assert.equal(stored.ask('anna'), null, 'the same question is not asked twice');
});

test('another question ends the one before, whatever of it still comes', async () => {
  const { stored, asked, taken } = await held(all);
  stored.ask('anna');
  const last = stored.ask('zoe');
  assert.equal(asked[0].signal.aborted, true);
  asked[0].go();
  for (let i = 1; stored.busy; i++) {
    asked[i]?.go();
    await turns();
  }
  await last;
  assert.deepEqual([...new Set(taken)], ['zoe']);
});

test('a failure is said, not tried again by itself, and goes on from the button', async () => {
  const { stored, asked, taken } = await held(all);
  stored.ask('');
  asked[0].fail('no disk');
  await turns();
  assert.deepEqual([stored.busy, stored.problem], [false, 'no disk']);
  assert.equal(stored.more(), null);
  stored.again();
  asked[1].go();
  await turns();
  assert.deepEqual([stored.problem, taken.length], ['', 3]);
});

test('no more are loaded for one question than the page keeps', async () => {
  const { MOST, rangeText, searchText } = await load('stored.js');
  const { stored, asked } = await held(Array.from({ length: MOST + 3000 }, (_, i) => `u${i}`), { scan: 1000 });
  stored.ask('u');
  for (let i = 0; stored.busy; i++) {
    asked[i]?.go();
    await turns();
  }
  assert.deepEqual([stored.full, stored.found, asked.length], [true, MOST, 1 + MOST / 1000]);
  assert.match(searchText(stored, 23000), /^the first 20,000 that match/);
  stored.ask('');
  for (let i = asked.length - 1; stored.busy || stored.more(); i++) {
    asked[i].go();
    await turns();
  }
  assert.equal(rangeText({ from: 1, to: 50, total: MOST, filter: 'all' }, stored, { known: 23000, online: 0 }),
    '1 to 50 of 23,000 known, 20,000 loaded; search finds the others');
});

test('random searches, cut off at random: the last one finds what there is, and says so', async () => {
  let seed = 5;
  const random = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return Math.floor(seed / 7) % n; };
  const ids = [...new Set(Array.from({ length: 60 }, () => Array.from({ length: 3 }, () => 'abAB'[random(4)]).join('')))].sort();
  for (let round = 0; round < 300; round++) {
    const { stored, asked, taken } = await held(ids, { scan: 1 + random(9) });
    let q = '';
    let before = 0;
    for (let words = 1 + random(4); words > 0; words--) {
      q = Array.from({ length: 1 + random(2) }, () => 'abAB'[random(4)]).join('');
      stored.ask(q);
      if (words === 1) break;
      for (let i = random(6); i > 0; i--) {
        asked[random(asked.length)].go();
        await turns();
      }
    }
    before = asked.findLastIndex((one) => one.url === `users?prefix=${q}&limit=50`);
    for (let i = before; stored.busy; i++) {
      asked[i]?.go();
      await turns();
    }
    const wanted = ids.filter((id) => id.toLowerCase().includes(q.toLowerCase()));
    const found = new Set(taken);
    assert.ok(wanted.every((id) => found.has(id)), `${q}: ${[...found]} of ${wanted}`);
    assert.ok(stored.done && stored.scanned === ids.length, `${q}: ${stored.scanned} of ${ids.length}`);
  }
});

const many = (n) => Object.fromEntries(Array.from({ length: n }, (_, i) =>
  [`known-${String(i).padStart(5, '0')}`, { online: i % 10 === 0 }]));

test('nobody is said to be missing before everybody was looked through', async (t) => {
  const { server, page } = await admin(t, { users: { ...many(900), 'z-Rare': { online: false } } });
  await connection(page, 'connected');
  server.scan = 100;
  await page.selectOption('#filter', 'all');
  await untilText(page, 'range', /^1 to 50 of 901/);
  server.hold = 30; // each page takes a moment
  await page.fill('#search', 'RARE');
  await untilText(page, 'empty-text', /^searching, [1-8]00 of 901$/);
  assert.equal(await text(page, 'empty-title'), 'No user yet');
  await checkAxe(page);
  await untilUsers(page, ['z-Rare']);
  await untilText(page, 'range', /^1 to 1 of 1$/);
  await untilText(page, 'found', /^1 user found$/);
  await page.fill('#search', 'nobody');
  await untilText(page, 'empty-text', /^searching, /);
  await untilText(page, 'empty-text', /^of 901 known users$/);
  assert.equal(await text(page, 'empty-title'), 'No user matches');
  await page.fill('#search', 'known-00007');
  await untilUsers(page, ['known-00007']);
  assert.deepEqual(await lines(page), ['known-00007 | offline | stored | 0']);
});

test('a search that fails says why, and goes on from the button', async (t) => {
  const { page } = await admin(t, { users: many(30) }, { allow: [/ERR_/] });
  await connection(page, 'connected');
  await page.route('**/users?*q=*', (route) => route.abort());
  await page.selectOption('#filter', 'all');
  await page.fill('#search', '00007');
  await untilText(page, 'stored-text', /^Offline users could not be loaded: the server does not answer\.$/);
  assert.match(await text(page, 'empty-text'), /^the search stopped: the server does not answer$/);
  await checkAxe(page);
  await page.unroute('**/users?*q=*');
  await page.click('#more');
  await untilUsers(page, ['known-00007']);
  await page.waitForSelector('#stored', { state: 'hidden' }); // it goes a moment behind the list
});

test('who looks through everybody by last seen gets them in that order from the server', async (t) => {
  const { server, page } = await admin(t, { users: many(30) });
  await connection(page, 'connected');
  await page.selectOption('#filter', 'offline');
  await untilText(page, 'range', /^1 to 27 of 27$/);
  await page.click('button[data-sort="seen"]');
  await page.waitForSelector('th[aria-sort="descending"] [data-sort="seen"]');
  await untilText(page, 'range', /^1 to 27 of 27$/);
  const asked = (line) => line.includes('users?status=offline&limit=1000&sort=-last_seen');
  while (!server.log.some(asked)) await page.waitForTimeout(20);
});
