'use strict';
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const {
  test,
  start,
  crowd,
  rawConnect,
  pages,
  json,
  heartbeats,
  stats,
  connect,
  until,
  slow,
  settled,
  onlineUsers,
  frame,
  OP,
  closePayload,
  tempDir,
  run,
} = require('./lib');

const sorted = (ids) => [...ids].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));

test('pages stay correct while users come and go', { timeout: 60000 * slow }, async (t) => {
  const server = await start(t, { args: ['--grace', '20ms'] });
  const count = 300;
  const stable = crowd(t, server, { prefix: 'stable-', count });
  await stable.connect();
  const ids = sorted(Array.from({ length: count }, (_, i) => `stable-${i}`));
  let churning = true;
  let churned = 0;
  const churn = async (k) => {
    while (churning) {
      const raw = await rawConnect(server, `stable-${Math.floor(Math.random() * count)}~${k}`); // names in between
      if (Math.random() < 0.5) {
        raw.write(frame(OP.close, closePayload(1000)));
        await raw.closeCode();
      }
      raw.destroy();
      churned++;
    }
  };
  const churners = Promise.all(Array.from({ length: 8 }, (_, k) => churn(k)));
  for (const limit of [1, 7, 50, 299, 1000]) {
    for (const path of ['/admin/online-users', '/admin/users?status=online', '/admin/users']) {
      if (limit === 1 && path === '/admin/users') continue; // grows as fast as we read
      const seen = (await pages(server, path, 'users', limit)).map((user) => user.user_id);
      assert.deepEqual(seen, sorted(seen), `${path}, limit ${limit}: sorted by bytes`);
      assert.equal(new Set(seen).size, seen.length, `${path}, limit ${limit}: nobody twice`);
      assert.deepEqual(
        seen.filter((id) => !id.includes('~')),
        ids,
        `${path}, limit ${limit}: nobody missing`,
      );
    }
  }
  churning = false;
  await churners;
  assert.ok(churned > 50, `only ${churned} came and went`);
});

test('count and connections are the totals, whatever the page', async (t) => {
  const server = await start(t);
  for (const id of ['c', 'a', 'b', 'a']) await connect(server, id);
  await heartbeats(server, ['h1', 'h2']);
  const first = await json(server, '/admin/online-users?limit=2');
  assert.deepEqual(
    [first.count, first.connections, first.users.map((user) => user.user_id)],
    [5, 4, ['a', 'b']],
  );
  assert.equal(typeof first.next, 'string');
  const second = await json(
    server,
    `/admin/online-users?limit=2&cursor=${encodeURIComponent(first.next)}`,
  );
  assert.deepEqual([second.count, second.users.map((user) => user.user_id)], [5, ['c', 'h1']]);
  const last = await json(
    server,
    `/admin/online-users?limit=2&cursor=${encodeURIComponent(second.next)}`,
  );
  assert.deepEqual([last.users.map((user) => user.user_id), last.next], [['h2'], null]);
  const { users, connections } = await stats(server);
  assert.deepEqual([users.online, users.live, users.cached, connections.current], [5, 3, 2, 4]);
  const exact = await json(server, '/admin/online-users?limit=5');
  assert.equal(exact.next, null, 'no empty page behind a full one');
});

test('a page of 100 is the default', async (t) => {
  const server = await start(t);
  await heartbeats(
    server,
    Array.from({ length: 101 }, (_, i) => `u${i}`),
  );
  await settled(server);
  for (const path of ['/admin/online-users', '/admin/users'])
    assert.equal((await json(server, path)).users.length, 100, path);
});

test('everyone known can be searched and filtered', async (t) => {
  const server = await start(t);
  const gone = ['Anna', 'anna', 'Joanna', 'a%b', 'a_b', 'aéb', 'zoë'];
  const here = ['bernd', 'annabel', 'a+b'];
  for (const id of gone) await (await connect(server, id)).close();
  for (const id of here) await connect(server, id);
  await settled(server);
  await until('all gone', async () => (await onlineUsers(server)).length === here.length);
  const list = async (query) => {
    const found = await pages(server, `/admin/users?${query}`, 'users', 2);
    return found.map((user) => user.user_id).filter((id) => !id.startsWith('~marker'));
  };
  assert.deepEqual(await list(''), sorted([...gone, ...here]));
  assert.deepEqual(await list('status=online'), sorted(here));
  assert.deepEqual(await list('status=offline'), sorted(gone));
  assert.ok(
    (await list('q=anna')).includes('annabel') && (await list('q=anna')).includes('Joanna'),
  );
  assert.ok(!(await list('q=anna')).includes('bernd'));
  for (const q of ['anna', 'ANNA', 'aNNa'])
    assert.deepEqual(await list(`q=${q}`), sorted(['Anna', 'anna', 'Joanna', 'annabel']), q);
  assert.deepEqual(await list(`q=${encodeURIComponent('A\u00c9B')}`), [], 'only A to Z');
  assert.deepEqual(await list('q=a%25b'), ['a%b']);
  assert.deepEqual(await list('q=a_b'), ['a_b']);
  assert.deepEqual(await list('q=a%2Bb'), ['a+b']);
  assert.deepEqual(await list(`q=${encodeURIComponent('aéb')}`), ['aéb']);
  assert.deepEqual(await list('q=anna&status=online'), ['annabel']);
  assert.deepEqual(await list('q=nobody'), []);
});

test('the timeline is paged, newest first', async (t) => {
  const server = await start(t);
  const users = ['a', 'b', 'c', 'd', 'e', 'f'];
  for (const id of users) {
    // as fast as it goes: stays of less than a millisecond
    for (let i = 0; i < 19; i++) await (await connect(server, id)).close();
    await connect(server, id);
  }
  await settled(server);
  for (const id of users) {
    const stays = await pages(server, `/admin/users/${id}/sessions`, 'sessions', 3);
    assert.equal(stays.length, 20);
    assert.deepEqual([stays[0].to, stays[0].reason], [null, null]);
    for (let i = 1; i < stays.length; i++) {
      assert.ok(
        stays[i].from <= stays[i - 1].from && stays[i].to <= stays[i - 1].from,
        JSON.stringify(stays),
      );
      assert.deepEqual([stays[i].reason, stays[i].address], ['closed', '127.0.0.1']);
    }
  }
});

test('pages of sessions miss none that began later than the running one, when UTC was stepped back', async (t) => {
  const dir = tempDir(t);
  const [data, dump] = [path.join(dir, 'data'), path.join(dir, 'dump')];
  const ahead = [1, 2, 3].map((n) => `2130-01-01T00:00:0${n}.000Z`);
  const lines = [
    { user: 'u', first_seen: ahead[0], last_seen: ahead[2], online_since: null, offline_since: ahead[2],
      status: 'offline', open: false, reason: 'closed', sessions: 3 },
    ...ahead.map((at) => ({ session: 'u', from: at, to: at, reason: 'closed', address: null })),
    { end: 'presence', users: 1, sessions: 3 },
  ];
  fs.writeFileSync(dump, lines.map((line) => `${JSON.stringify(line)}\n`).join(''));
  assert.equal((await run(['--restore', dump, '--data', data])).code, 0);
  const server = await start(t, { data });
  await connect(server, 'u');
  for (const limit of [1, 2, 3, 4]) {
    const found = [];
    for (let cursor = ''; cursor !== null; ) {
      const page = await json(server, `/admin/users/u/sessions?limit=${limit}${cursor}`);
      found.push(...page.sessions);
      cursor = page.next && `&cursor=${page.next}`;
    }
    assert.deepEqual(found.slice(1).map((one) => one.from), [...ahead].reverse(), `limit ${limit}`);
    assert.equal(found[0].reason, null);
  }
});
