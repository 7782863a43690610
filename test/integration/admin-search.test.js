'use strict';
// GET /admin/users over a million stored users: by prefix, by last_seen, by a part of the id. What a
// page costs is counted by what is looked at for it (counter users_scanned), not by time.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, run, tempDir, connect, crowd, heartbeat, get, json, stats, heavy, slow, until } = require('./lib');

const USERS = heavy(1000000, 30000);
const CHUNK = 64; // users read at a time: a page may look at one such piece more than it needs
const SCAN = 20000; // at most, for one page
const BASE = Date.UTC(2025, 0, 1);
const STEP = 7919; // a prime that does not divide the number: i * STEP runs through all places

const idOf = (i) => `user-${String(i).padStart(7, '0')}${i % 1000 === 7 ? '-rare' : ''}`;
/** When user i was last seen: all in another order than their ids, two of the same moment. */
const seenOf = (i) => BASE + Math.floor(((i * STEP) % USERS) / 2) * 1000;
/** The user at a place of that order; ties are in the order of ids. */
const inverse = (() => {
  let n = 1;
  while ((n * STEP) % USERS !== 1) n++;
  return n;
})();
function atPlace(place) {
  const pair = [place - (place % 2), place - (place % 2) + 1].map((one) => Number((BigInt(one) * BigInt(inverse)) % BigInt(USERS)));
  return pair.sort((a, b) => a - b)[place % 2];
}

/** A data directory with all of them, restored from a dump. */
async function million(t) {
  const dir = tempDir(t);
  const dump = path.join(dir, 'dump');
  const out = fs.openSync(dump, 'w');
  for (let i = 0; i < USERS;) {
    const lines = [];
    for (const end = Math.min(USERS, i + 20000); i < end; i++) {
      const seen = new Date(seenOf(i)).toISOString();
      lines.push(`{"user":"${idOf(i)}","first_seen":"${seen}","last_seen":"${seen}","online_since":null,"offline_since":"${seen}",` +
        '"status":"offline","open":false,"reason":"closed","sessions":0}\n');
    }
    fs.writeSync(out, lines.join(''));
  }
  fs.writeSync(out, `{"end":"presence","users":${USERS},"sessions":0,"samples":0}\n`);
  fs.closeSync(out);
  const data = path.join(dir, 'data');
  const restored = await run(['--data', data, '--restore', dump], { deadline: 120000 * slow });
  assert.deepEqual([restored.code, restored.stderr], [0, '']);
  fs.rmSync(dump);
  return data;
}

const scanned = async (server) => (await stats(server)).counters.users_scanned;

/** One page, and how many stored users were looked at for it. */
async function page(server, query) {
  const before = await scanned(server);
  const answer = await json(server, `/admin/users?${query}`);
  return { ...answer, ids: answer.users.map((user) => user.user_id), looked: (await scanned(server)) - before };
}

/** All pages of a query: every id in order, and the most that was looked at for one. */
async function everything(server, query) {
  const found = { ids: [], users: [], most: 0, pages: 0 };
  for (let cursor = ''; cursor !== null; found.pages++) {
    const one = await page(server, `${query}${cursor && `&cursor=${cursor}`}`);
    found.ids.push(...one.ids);
    found.users.push(...one.users);
    found.most = Math.max(found.most, one.looked);
    cursor = one.next;
  }
  return found;
}

test('over a million stored users every page looks at few of them', { timeout: 180000 * slow }, async (t) => {
  const server = await start(t, { data: await million(t) });

  await t.test('a prefix is a range of ids', async () => {
    const hundred = await page(server, 'prefix=user-00123&limit=1000');
    assert.deepEqual(hundred.ids, Array.from({ length: 100 }, (_, i) => idOf(12300 + i)));
    assert.equal(hundred.next, null);
    assert.ok(hundred.looked <= 100 + CHUNK, `${hundred.looked}`);
    const one = await page(server, `prefix=${idOf(USERS - 1)}`);
    assert.deepEqual([one.ids, one.next], [[idOf(USERS - 1)], null]);
    const none = await page(server, 'prefix=user-x');
    assert.deepEqual([none.ids, none.next, none.looked <= CHUNK], [[], null, true]);
    const many = await everything(server, 'prefix=user-000&limit=1000');
    assert.deepEqual(many.ids, Array.from({ length: 10000 }, (_, i) => idOf(i)));
    assert.ok(many.most <= 1000 + 2 * CHUNK, `${many.most}`);
    const both = await page(server, 'prefix=user-001&q=rare&limit=1000');
    assert.deepEqual(both.ids, Array.from({ length: 10 }, (_, i) => idOf(10000 + i * 1000 + 7)));
    assert.deepEqual((await page(server, 'prefix=user-00123&status=online')).ids, []);
  });

  await t.test('the order of last_seen is read from either end, and anywhere', async () => {
    const latest = await page(server, 'sort=-last_seen&limit=500');
    assert.deepEqual(latest.ids, Array.from({ length: 500 }, (_, i) => idOf(atPlace(USERS - 1 - i))));
    assert.ok(latest.looked <= 500 + CHUNK, `${latest.looked}`);
    const next = await page(server, `sort=-last_seen&limit=500&cursor=${latest.next}`);
    assert.deepEqual(next.ids, Array.from({ length: 500 }, (_, i) => idOf(atPlace(USERS - 501 - i))));
    const oldest = await page(server, 'sort=last_seen&limit=1');
    assert.deepEqual(oldest.ids, [idOf(atPlace(0))]);
    assert.ok(oldest.looked <= CHUNK);
    assert.equal(oldest.users[0].last_seen, new Date(BASE).toISOString());
    const middle = `s${(BASE + (USERS / 4) * 1000).toString(16).padStart(16, '0')}${Buffer.from('v').toString('hex')}`;
    const from = await page(server, `sort=last_seen&limit=100&cursor=${middle}`);
    assert.deepEqual(from.ids, Array.from({ length: 100 }, (_, i) => idOf(atPlace(USERS / 2 + 2 + i))));
    assert.ok(from.looked <= 100 + CHUNK, `${from.looked}`);
  });

  await t.test('a part of an id is looked for in steps', async () => {
    const rare = Array.from({ length: USERS / 1000 }, (_, i) => idOf(i * 1000 + 7));
    let sum = 0; // `scanned` is how far a search has come: all pages together have looked at everybody once
    for (let cursor = ''; cursor !== null;) {
      const one = await page(server, `q=RARE&limit=1000${cursor && `&cursor=${cursor}`}`);
      assert.ok(one.scanned <= SCAN + CHUNK, `${one.scanned}`);
      sum += one.scanned;
      cursor = one.next;
    }
    assert.equal(sum, USERS);
    const found = await everything(server, 'q=rare&limit=1000');
    assert.deepEqual(found.ids, rare);
    assert.ok(found.most <= SCAN + CHUNK, `${found.most}`);
    const seen = await everything(server, 'q=0007-rare&sort=-last_seen&limit=1000');
    assert.deepEqual([...seen.ids].sort(), rare.filter((id) => id.includes('0007-rare')));
    assert.ok(seen.most <= SCAN + CHUNK, `${seen.most}`);
    assert.deepEqual(seen.users.map((one) => one.last_seen), seen.users.map((one) => one.last_seen).sort().reverse());
  });

  await t.test('who is online is among them once, with the table\'s word', async () => {
    const client = await connect(server, idOf(12345)); // a stored one
    const other = await connect(server, 'user-0012345x'); // nobody has seen before
    for (const want of [['user-0012345', [idOf(12345), 'user-0012345x']], [idOf(12345), [idOf(12345), 'user-0012345x']]]) {
      const found = await page(server, `prefix=${want[0]}`);
      assert.deepEqual([found.ids, found.next], [want[1], null]);
      assert.deepEqual(found.users.map((user) => user.online), [true, true]);
    }
    const top = await page(server, 'sort=-last_seen&limit=3');
    assert.deepEqual(top.ids, [idOf(12345), 'user-0012345x', idOf(atPlace(USERS - 1))], 'who is online first, by id');
    const first = await page(server, 'sort=-last_seen&limit=1');
    const second = await page(server, `sort=-last_seen&limit=1&cursor=${first.next}`);
    assert.deepEqual([first.ids, second.ids], [[idOf(12345)], ['user-0012345x']]);
    const third = await page(server, `sort=-last_seen&limit=1&cursor=${second.next}`);
    assert.deepEqual(third.ids, [idOf(atPlace(USERS - 1))]);
    const place = `s${(seenOf(12345) - 1).toString(16).padStart(16, '0')}${Buffer.from('v').toString('hex')}`;
    const around = await page(server, `sort=last_seen&limit=2&cursor=${place}`);
    assert.ok(!around.ids.includes(idOf(12345)), 'not where the store had it');
    await client.close();
    await until('the store to know', async () => (await page(server, 'sort=-last_seen&limit=2&status=offline')).ids[0] === idOf(12345));
    await other.close();
    await until('and of the other', async () => (await page(server, 'sort=-last_seen&limit=1&status=offline')).ids[0] === 'user-0012345x');
    const offline = await page(server, 'sort=-last_seen&limit=3');
    assert.deepEqual(offline.ids, ['user-0012345x', idOf(12345), idOf(atPlace(USERS - 1))]);
    assert.ok(offline.looked <= 3 + CHUNK);
  });
});

test('sorted by last_seen, everybody is shown once, page by page, in any size', { timeout: 60000 * slow }, async (t) => {
  const server = await start(t, { args: ['--ping-interval', '10m', '--pong-timeout', '10m'] });
  const gone = Array.from({ length: 300 }, (_, i) => `gone-${i}`);
  for (const id of gone) await (await connect(server, id)).close();
  const here = await crowd(t, server, { prefix: 'here-', count: 400 });
  await here.connect();
  const cached = ['cached-1', 'cached-2'];
  for (const id of cached) await heartbeat(server, id);
  const online = [...Array.from({ length: 400 }, (_, i) => `here-${i}`), ...cached].sort();
  const all = [...gone, ...online].sort();
  await until('the store to know', async () => (await json(server, '/admin/users?sort=last_seen&status=offline&limit=1000')).users.length === gone.length);
  for (const limit of [1000, 97, 1]) {
    for (const sort of ['last_seen', '-last_seen']) {
      if (limit === 1 && sort === 'last_seen') continue;
      const { users, ids } = await everything(server, `sort=${sort}&limit=${limit}`);
      assert.deepEqual([...ids].sort(), all, `${sort}, ${limit}`);
      const [here, away] = [users.filter((user) => user.online), users.filter((user) => !user.online)];
      assert.deepEqual(users, sort === 'last_seen' ? [...away, ...here] : [...here, ...away], 'in two parts');
      assert.deepEqual(here.map((user) => user.user_id), online, `${sort}, ${limit}: who is online by id`);
      const stamps = away.map((user) => user.last_seen);
      const sorted = [...stamps].sort();
      assert.deepEqual(stamps, sort === 'last_seen' ? sorted : sorted.reverse(), `${sort}, ${limit}`);
    }
  }
  const only = await everything(server, 'sort=last_seen&status=online&limit=50');
  assert.deepEqual(only.ids, online);
  assert.equal(only.most, 0, 'the store has none of them');
  const offline = await everything(server, 'sort=last_seen&status=offline&limit=50');
  assert.deepEqual([...offline.ids].sort(), [...gone].sort());
  assert.deepEqual((await everything(server, 'sort=-last_seen&prefix=here-1&q=9&limit=3')).ids.sort(),
    all.filter((id) => id.startsWith('here-1') && id.includes('9')));
});

test('parameters that mean nothing are refused', async (t) => {
  const server = await start(t);
  for (const id of ['a', 'b', 'c']) await heartbeat(server, id);
  const { next: byId } = await json(server, '/admin/users?limit=1');
  const { next: online } = await json(server, '/admin/users?limit=1&sort=last_seen');
  const stored = 's000001a2122f635461'; // as this server makes them, and those before it made
  const long = 'x'.repeat(129);
  for (const [query, code] of [
    ['sort=seen', 'invalid_parameter'],
    ['sort=', 'invalid_parameter'],
    ['sort=--last_seen', 'invalid_parameter'],
    [`prefix=${long}`, 'invalid_parameter'],
    ['prefix=%00', 'invalid_parameter'],
    [`cursor=${online}`, 'invalid_cursor'],
    [`cursor=${stored}`, 'invalid_cursor'],
    [`sort=last_seen&cursor=${byId}`, 'invalid_cursor'],
    ['sort=last_seen&cursor=', 'invalid_cursor'],
    ['sort=last_seen&cursor=o', 'invalid_cursor'],
    [`sort=last_seen&cursor=${online}6`, 'invalid_cursor'],
    [`sort=last_seen&cursor=${online}zz`, 'invalid_cursor'],
    ['sort=last_seen&cursor=o1f', 'invalid_cursor'],
    [`sort=last_seen&cursor=o${'61'.repeat(129)}`, 'invalid_cursor'],
    [`sort=-last_seen&cursor=${stored.slice(0, -1)}`, 'invalid_cursor'],
    [`sort=-last_seen&cursor=${stored.slice(0, 17)}`, 'invalid_cursor'],
    [`sort=-last_seen&cursor=${stored}zz`, 'invalid_cursor'],
    ['sort=last_seen&cursor=sffffffffffffffff61', 'invalid_cursor'],
    [`sort=last_seen&cursor=s000001a2122f6354${'61'.repeat(129)}`, 'invalid_cursor'],
    ['sort=last_seen&limit=0', 'invalid_parameter'],
  ]) {
    const answer = await get(server, `/admin/users?${query}`);
    assert.deepEqual([answer.status, answer.json.error.code], [400, code], query);
  }
  const after = async (query) => (await json(server, `/admin/users?${query}`)).users.map((user) => user.user_id);
  assert.deepEqual(await after(`sort=last_seen&cursor=${online}`), ['b', 'c']);
  assert.deepEqual(await after(`sort=last_seen&cursor=${stored}`), ['a', 'b', 'c'], 'the stored ones come first');
  assert.deepEqual(await after(`sort=-last_seen&cursor=${stored}`), [], 'the stored ones come last');
  assert.deepEqual((await json(server, `/admin/users?prefix=${'x'.repeat(128)}`)).users, []);
  assert.equal((await json(server, '/admin/users?prefix=')).users.length, 3);
});
