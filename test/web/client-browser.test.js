'use strict';
// The browser client in a real Chromium (and in node), against the real server.

const assert = require('node:assert/strict');
const path = require('node:path');
const {
  test: anyTest,
  release,
  start,
  startProxy,
  presence,
  stats,
  del,
  json,
  until,
  unique,
  tokenKey,
  bearer,
  seconds,
  segment,
  assertNeverLeft,
  assertLeftOnce,
} = require('../integration/lib');
const { startChromium, servePages } = require('./lib/chromium');
const { WEB } = require('./lib/world');

const test = (name, body) =>
  anyTest(name, { skip: !release && 'for the released program only' }, body);

/** A page whose presence is started as soon as it is there: the user and the options, as JSON, are
 *  in its query. `events` is what the client told and the last close by then, `shown` what the page
 *  did. */
const PAGE = `<!doctype html><title>page</title><script type="module">
  import { PresenceService } from './presence.js';
  const { user, ...options } = JSON.parse(new URLSearchParams(location.search).get('q'));
  if (window.mint) options.getToken = (id) => window.mint(id);
  window.events = [];
  window.shown = [];
  window.client = new PresenceService(options);
  for (const type of ['connected', 'disconnected', 'reconnecting', 'suspended', 'error']) {
    client.on(type, (detail) => events.push([type, detail, client.lastClose]));
  }
  addEventListener('pageshow', ({ persisted }) => shown.push(persisted));
  for (const type of ['freeze', 'resume']) document.addEventListener(type, () => shown.push(type));
  client.startPresence(user);
</script>`;

/** A server, a Chromium, and a site whose pages may use the server. */
async function setup(t, { args = [], whole } = {}) {
  const site = await servePages(t, { '/': PAGE, '/other': '<title>other</title>other' });
  const server = await start(t, { args: [...args, '--allow-origin', site.origin] });
  const context = await startChromium(t, { whole });
  const apiUrl = `http://127.0.0.1:${server.port}`;
  return { site, server, context, apiUrl };
}

/** The address of a page of `user`. */
const pageOf = (site, user, options) =>
  `${site.origin}/?q=${encodeURIComponent(JSON.stringify({ user, ...options }))}`;

/** Opens a page of `user`. */
async function openPage({ context, site, apiUrl }, user, options = {}) {
  const page = await context.newPage();
  await page.goto(pageOf(site, user, { apiUrl, ...options }));
  return page;
}

/** Waits until the page's client is in a state. */
const reach = (page, state) =>
  page.waitForFunction((wanted) => window.client?.state === wanted, state, { timeout: 15000 });

const told = (page, type) =>
  page.evaluate((one) => events.filter(([name]) => name === one).map(([, detail]) => detail), type);

test("from the server itself: the page's own origin, start, status, stop", async (t) => {
  const server = await start(t);
  const context = await startChromium(t);
  const page = await context.newPage();
  await page.goto(`http://127.0.0.1:${server.port}/`);
  const user = unique('own');
  await page.evaluate(async (id) => {
    const { presenceService } = await import('/presence.js');
    window.client = presenceService;
    presenceService.setStatus('busy');
    presenceService.startPresence(id);
  }, user);
  await reach(page, 'connected');
  await until('busy', async () => (await presence(server, user)).status === 'busy');
  assert.equal((await presence(server, user)).connections, 1);
  assert.deepEqual(await page.evaluate(() => [client.isConnected(), client.getCurrentUserId()]), [
    true,
    user,
  ]);
  await page.evaluate(() => client.stopPresence());
  await until('offline', async () => !(await presence(server, user)).online);
  await assertLeftOnce(server, user, 'closed');
  assert.deepEqual(context.errors, []);
});

test('ids of every kind arrive as they are', async (t) => {
  const world = await setup(t);
  const page = await openPage(world, 'first');
  await reach(page, 'connected');
  const ids = [
    'a/b',
    '100%',
    'a%2Fb',
    'a+b c',
    'x@y.example',
    'a?b#c',
    '\u{1f600}',
    '\u00e9',
    'e\u0301',
    'Bob',
    'bob',
    'end ',
    '...',
    '__proto__',
    'constructor',
    '\\',
    '\'"<>&',
  ];
  for (const id of ids) {
    await page.evaluate((one) => client.startPresence(one), id);
    await reach(page, 'connected');
    assert.deepEqual(await page.evaluate(() => events.at(-1)[1].userId), id);
    const user = await presence(world.server, id);
    assert.deepEqual([user.user_id, user.source], [id, 'live']);
  }
  assert.equal((await stats(world.server)).users.live, 1, 'each one was stopped');
});

test('a reload is no event, and the page is back', async (t) => {
  const world = await setup(t);
  const user = unique('reload');
  const page = await openPage(world, user);
  await reach(page, 'connected');
  const first = await presence(world.server, user);
  for (let i = 0; i < 3; i++) {
    await page.reload();
    await reach(page, 'connected');
  }
  const again = await presence(world.server, user);
  assert.deepEqual(
    [again.source, again.connections, again.connected_at],
    ['live', 1, first.connected_at],
  );
  await assertNeverLeft(world.server, user);
});

test('a tab that is closed: cached for the grace time, then offline, closed', async (t) => {
  const world = await setup(t, { args: ['--grace', '1s'] });
  const user = unique('closed');
  const page = await openPage(world, user);
  await reach(page, 'connected');
  await page.close();
  await until('cached', async () => (await presence(world.server, user)).source === 'cached');
  await until('offline', async () => !(await presence(world.server, user)).online);
  await assertLeftOnce(world.server, user, 'closed');
});

test('a duplicated tab has a socket of its own; closing one keeps the user online', async (t) => {
  const world = await setup(t, { args: ['--grace', '1s'] });
  const user = unique('tabs');
  const page = await openPage(world, user);
  await reach(page, 'connected');
  // a tab with an opener begins with a copy of its session storage, as a duplicated one does
  const [copy] = await Promise.all([
    world.context.waitForEvent('page'),
    page.evaluate(() => {
      window.open(location.href);
    }),
  ]);
  await reach(copy, 'connected');
  assert.equal((await presence(world.server, user)).connections, 2);
  const names = [...(await told(page, 'connected')), ...(await told(copy, 'connected'))].map(
    (one) => one.connectionId,
  );
  assert.equal(new Set(names).size, 2);
  assert.equal(await copy.evaluate(() => sessionStorage.length + localStorage.length), 0);
  await copy.close();
  await until('one left', async () => (await presence(world.server, user)).connections === 1);
  await assertNeverLeft(world.server, user);
  await page.evaluate(() => client.stopPresence());
  await until('offline', async () => !(await presence(world.server, user)).online);
  await assertLeftOnce(world.server, user, 'closed');
});

test('into the back-forward cache and back: closed at once, connected at once', async (t) => {
  const world = await setup(t, { whole: true });
  const user = unique('cache');
  const page = await openPage(world, user);
  await reach(page, 'connected');
  await page.evaluate(() => {
    location.href = '/other';
  });
  await page.waitForURL('**/other');
  await until('no connection', async () => (await presence(world.server, user)).connections === 0);
  await page.evaluate(() => history.back());
  await page.waitForURL('**/?q=*', { waitUntil: 'commit' });
  await reach(page, 'connected');
  // the same page as before, not a new one
  assert.deepEqual(await page.evaluate(() => shown), [false, 'freeze', 'resume', true]);
  assert.deepEqual(
    (await told(page, 'disconnected')).map((one) => one.reason),
    ['pagehide'],
  );
  const { connections, source, status } = await presence(world.server, user);
  assert.deepEqual([connections, source, status], [1, 'live', 'online']);
  assert.equal((await told(page, 'connected')).length, 2);
});

test('the network goes and comes back: noticed by the probe, back at once', async (t) => {
  const world = await setup(t);
  const proxy = await startProxy(t, world.server);
  const user = unique('network');
  const page = await openPage(world, user, {
    apiUrl: `http://127.0.0.1:${proxy.port}`,
    probeTimeout: 300,
    reconnectDelay: 500,
    maxReconnectAttempts: 1,
  });
  await reach(page, 'connected');
  proxy.blackHole();
  await world.context.setOffline(true); // sends the page `offline`
  await reach(page, 'suspended'); // where the next try would be in half a minute
  assert.equal(await page.evaluate(() => client.isConnected()), false);
  proxy.hole = false;
  await world.context.setOffline(false); // `online`
  await reach(page, 'connected');
  assert.equal((await told(page, 'suspended')).length, 1);
  await until(
    'one connection is live',
    async () => (await presence(world.server, user)).source === 'live',
  );
});

test('the server restarts: back when it said, the same stay', async (t) => {
  const world = await setup(t);
  const user = unique('restart');
  const page = await openPage(world, user);
  await reach(page, 'connected');
  const { connected_at: before } = await presence(world.server, user);
  await world.server.stop();
  await reach(page, 'reconnecting');
  const { code, reason } = await page.evaluate(() => events.find(([name]) => name === 'reconnecting')[2]);
  assert.equal(code, 1012);
  const [, asked] = /^retry_after=(\d+)$/.exec(reason);
  assert.equal((await told(page, 'reconnecting'))[0].delay, Number(asked));
  const again = await start(t, {
    data: world.server.data,
    address: world.server,
    args: ['--allow-origin', world.site.origin],
  });
  await reach(page, 'connected');
  const now = await presence(again, user);
  assert.deepEqual([now.source, now.connected_at], ['live', before]);
  await assertNeverLeft(again, user);
});

/** What a page has seen of a user so far, as 'busy' or 'busy stale'. */
const seen = (page, id) => page.evaluate((one) => (window.seen ?? {})[one] ?? [], id);

/** Follows users in a page; what it sees is in seen(). */
const follow = (page, ids) =>
  page.evaluate((all) => {
    window.seen = Object.fromEntries(all.map((id) => [id, []]));
    window.refused = [];
    window.endWatch = client.watch(
      all,
      (user) => {
        const message = user.message ? `: ${user.message}` : '';
        window.seen[user.user_id].push(`${user.status}${message}${user.stale ? ' stale' : ''}`);
      },
      ({ code, userId }) => refused.push([userId, code]),
    );
  }, ids);

/** Waits until that is all a page has seen of a user. */
const untilSeen = (page, id, wanted) =>
  page.waitForFunction(
    ([one, all]) => JSON.stringify(window.seen[one]) === JSON.stringify(all),
    [id, wanted],
    { timeout: 15000 },
  ).catch(async () => assert.deepEqual(await seen(page, id), wanted));

test('two users follow each other: come, change, go, over a restart', async (t) => {
  const world = await setup(t);
  const [alice, bob] = [unique('alice'), unique('bob')];
  const first = await openPage(world, alice);
  await reach(first, 'connected');
  await follow(first, [bob, 'nobody']);
  await untilSeen(first, bob, ['offline']);
  const second = await openPage(world, bob);
  await untilSeen(first, bob, ['offline', 'online']);
  await follow(second, [alice, bob]);
  await untilSeen(second, alice, ['online']);
  await second.evaluate(() => client.setStatus('away'));
  await untilSeen(first, bob, ['offline', 'online', 'away']);
  await second.evaluate(() => client.setStatus('busy', { manual: true, message: 'in a meeting' }));
  await untilSeen(first, bob, ['offline', 'online', 'away', 'busy: in a meeting']);
  await untilSeen(second, bob, ['online', 'away', 'busy: in a meeting']);
  await first.evaluate(() => { for (const all of Object.values(window.seen)) all.length = 0; });

  await world.server.stop();
  await untilSeen(first, bob, ['busy: in a meeting stale']);
  await untilSeen(first, 'nobody', ['offline stale']);
  await second.evaluate(() => client.stopPresence()); // she does not come back
  const again = await start(t, {
    data: world.server.data,
    address: world.server,
    args: ['--allow-origin', world.site.origin, '--online-threshold', '3s'],
  });
  await reach(first, 'connected');
  await untilSeen(first, 'nobody', ['offline stale', 'offline']);
  await until('bob has gone', async () => !(await presence(again, bob)).online);
  await first.waitForFunction((id) => /^offline/.test(window.seen[id].at(-1)), bob);
  const [stale, ...later] = await seen(first, bob);
  assert.equal(stale, 'busy: in a meeting stale');
  assert.ok(later.length <= 2 && later.every((one) => !/stale/.test(one)), String(later));
  const known = await first.evaluate((id) => client.getUser(id), bob);
  assert.deepEqual([known.user_id, known.stale, known.online], [bob, false, false]);

  await first.evaluate(() => endWatch());
  await until('unwatched', async () => (await stats(again)).connections.watching === 0);
  assert.equal(await first.evaluate((id) => client.getUser(id), bob), null);
  assert.deepEqual(await first.evaluate(() => refused), []);
  assert.deepEqual(world.context.errors, []);
});

test('1,000 users are followed, and again after a reconnect', async (t) => {
  const world = await setup(t);
  const page = await openPage(world, unique('many'));
  await reach(page, 'connected');
  const ids = Array.from({ length: 1000 }, (_, i) => `friend-${i}@example.com`);
  await follow(page, ids);
  const all = (wanted) => page.waitForFunction((text) => {
    const lists = Object.values(window.seen);
    return lists.length === 1000 && lists.every((one) => JSON.stringify(one) === text);
  }, JSON.stringify(wanted), { timeout: 15000 });
  await all(['offline']);
  assert.equal((await stats(world.server)).connections.watching, 1000);
  await world.server.stop();
  const again = await start(t, {
    data: world.server.data,
    address: world.server,
    args: ['--allow-origin', world.site.origin],
  });
  await all(['offline', 'offline stale', 'offline']);
  assert.equal((await stats(again)).connections.watching, 1000);
  assert.equal((await told(page, 'connected')).length, 2, 'never too fast');
  assert.deepEqual(await told(page, 'error'), []);
});

test('whom the token does not allow, and too many: the others are followed', async (t) => {
  const key = tokenKey(t);
  const world = await setup(t, { args: [...key.args, '--max-watch', '3'] });
  const user = unique('limited');
  const token = await key.user(user, { watch: ['a', 'b', 'c', 'd'] });
  const page = await world.context.newPage();
  await page.exposeFunction('mint', () => token);
  await page.goto(pageOf(world.site, user, { apiUrl: world.apiUrl }));
  await reach(page, 'connected');
  await follow(page, ['x', 'a', 'y', 'b', 'c', 'd']);
  await page.waitForFunction(() => refused.length === 3, null, { timeout: 15000 });
  const refused = Object.fromEntries(await page.evaluate(() => window.refused));
  const full = Object.keys(refused).find((id) => refused[id] === 'too_many_watched'); // any of four
  assert.deepEqual(refused, { x: 'forbidden', y: 'forbidden', [full]: 'too_many_watched' });
  for (const id of ['a', 'b', 'c', 'd', 'x', 'y']) {
    assert.deepEqual(await seen(page, id), id in refused ? [] : ['offline'], id);
  }
  assert.deepEqual((await told(page, 'error')).map((one) => one.code).sort(),
    ['forbidden', 'too_many_watched'], 'one for each refusal, which names whom it is about');
});

test('4401: the token runs out before getToken gives a new one, which is used then', async (t) => {
  const key = tokenKey(t);
  const world = await setup(t, { args: [...key.args, '--grace', '20s'] });
  const user = unique('expiry');
  const admin = bearer(await key.admin());
  const asked = [];
  let page = null;
  let first = null; // what is given until the page has heard of its end
  await world.context.exposeFunction('mint', async (id) => {
    asked.push(id);
    first ??= await key.user(id, { exp: seconds() + 2 });
    const over = await page?.evaluate(() => events.some(([, { code }]) => code === 4401));
    return over ? key.user(id) : first;
  });
  page = await openPage(world, user);
  await reach(page, 'connected');
  await page.waitForFunction(() => events.filter(([type]) => type === 'connected').length === 2);
  assert.ok(asked.length >= 2 && asked.every((id) => id === user));
  assert.deepEqual(
    (await told(page, 'error')).map(({ code, final }) => [code, final]),
    [['token_expired', false]],
  );
  assert.deepEqual(
    (await told(page, 'reconnecting')).map(({ attempt, delay }) => [attempt, delay]),
    [[1, 0]],
  );
  assert.equal((await presence(world.server, user, admin)).source, 'live');
});

test('renewToken: a new friend is followed by a new token, and nobody sees it', async (t) => {
  const key = tokenKey(t);
  const world = await setup(t, { args: [...key.args, '--grace', '20s'] });
  const user = unique('renews');
  const admin = bearer(await key.admin());
  const friends = [];
  await world.context.exposeFunction('mint', (id) => key.user(id, { watch: friends }));
  const page = await openPage(world, user);
  await reach(page, 'connected');
  await page.evaluate(() => {
    window.seen = [];
    window.denied = [];
    client.watch('newfriend', (one) => seen.push(one.status), ({ code }) => denied.push(code));
  });
  await page.waitForFunction(() => denied.length === 1);
  friends.push('newfriend');
  await page.evaluate(() => client.renewToken());
  await page.waitForFunction(() => seen.length === 1);
  assert.deepEqual(await page.evaluate(() => [seen, denied]), [['offline'], ['forbidden']]);
  const { sessions } = await json(world.server, `/admin/users/${user}/sessions`, admin);
  assert.deepEqual(sessions.map(({ to }) => to), [null], 'the same session');
});

test('P09 a refused token is never sent again', async (t) => {
  const key = tokenKey(t);
  const world = await setup(t, { args: key.args });
  const user = unique('refused');
  const admin = bearer(await key.admin());
  let token = await key.user(user, { exp: seconds() - 3600 });
  await world.context.exposeFunction('mint', () => token);
  const page = await openPage(world, user, {
    reconnectDelay: 50,
    maxReconnectDelay: 50,
    maxReconnectAttempts: 1000,
  });
  await page.waitForFunction(
    () => events.filter(([, { code }]) => code === 'token_unchanged').length > 5,
  );
  const { counters } = await json(world.server, '/admin/stats', admin);
  assert.equal(counters.tokens_refused, 1);
  assert.equal((await told(page, 'error'))[0].code, 'token_expired');
  token = await key.user(user);
  await reach(page, 'connected');
});

test("4403: kicked is final, somebody else's presence too", async (t) => {
  const key = tokenKey(t);
  const world = await setup(t, { args: key.args });
  const user = unique('kicked');
  const admin = bearer(await key.admin());
  await world.context.exposeFunction('mint', () => key.user(user));
  const page = await openPage(world, user);
  await reach(page, 'connected');
  assert.equal(
    (await del(world.server, `/admin/users/${segment(user)}/connections`, admin)).json.closed,
    1,
  );
  await reach(page, 'stopped');
  assert.deepEqual(await page.evaluate(() => client.lastClose), {
    code: 4403,
    reason: 'kicked',
    wasClean: true,
  });
  assert.deepEqual(
    (await told(page, 'error')).map(({ code, final }) => [code, final]),
    [['kicked', true]],
  );
  await page.evaluate(() => dispatchEvent(new Event('online')));
  await page.evaluate(() => client.startPresence('somebody-else')); // with the token of `user`
  await reach(page, 'stopped');
  await page.waitForFunction(() => events.at(-1)[1].code === 'forbidden');
  const { connections } = await json(world.server, '/admin/stats', admin);
  assert.deepEqual(
    [connections.current, (await presence(world.server, user, admin)).online],
    [0, false],
  );
});

test('hidden, visible, frozen, resumed: away and online again, on one socket', async (t) => {
  const world = await setup(t);
  const user = unique('hidden');
  const page = await openPage(world, user, { awayAfter: 100 });
  await reach(page, 'connected');
  // playwright keeps its pages visible and awake, so the page is told that it is not
  const show = (state) =>
    page.evaluate((value) => {
      Object.defineProperty(document, 'visibilityState', { configurable: true, value });
      document.dispatchEvent(new Event('visibilitychange'));
    }, state);
  const status = (wanted) =>
    until(wanted, async () => (await presence(world.server, user)).status === wanted);
  await show('hidden');
  await status('away');
  await show('visible');
  await status('online');
  await page.evaluate(() => document.dispatchEvent(new Event('freeze')));
  await status('away');
  await page.evaluate(() => document.dispatchEvent(new Event('resume')));
  await status('online');
  assert.deepEqual(
    [await told(page, 'disconnected'), (await told(page, 'connected')).length],
    [[], 1],
  );
});

test('a page of an origin that is not allowed is not connected, and goes on trying', async (t) => {
  const site = await servePages(t, { '/': PAGE });
  const server = await start(t);
  const context = await startChromium(t);
  const page = await openPage(
    { context, site, apiUrl: `http://127.0.0.1:${server.port}` },
    'alice',
    { maxReconnectAttempts: 0 },
  );
  await reach(page, 'suspended');
  assert.deepEqual(await told(page, 'connected'), []);
});

test('in node: a refused token is told and not sent again, and 4403 is final', async (t) => {
  const { PresenceService } = await import(path.join(WEB, 'presence.js'));
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const asked = [];
  const good = await key.user('alice');
  const client = new PresenceService({
    apiUrl: `http://127.0.0.1:${server.port}`,
    getToken: () => { asked.push(asked.length < 3 ? 'dead' : good); return asked.at(-1); },
    WebSocket: globalThis.WebSocket ?? require('ws'),
    reconnectDelay: 100,
    maxReconnectDelay: 100,
  });
  t.after(() => client.stopPresence());
  const errors = [];
  client.on('error', ({ code, final }) => errors.push(`${code} ${final}`));
  const connected = new Promise((resolve) => { client.on('connected', resolve); });
  client.startPresence('alice');
  await connected;
  assert.deepEqual(errors, ['token_invalid false', 'token_unchanged false', 'token_unchanged false']);
  const stopped = new Promise((resolve) => {
    client.on('change', ({ state }) => state === 'stopped' && resolve());
  });
  client.stopPresence();
  await stopped;
  const ended = new Promise((resolve) => { client.on('disconnected', resolve); });
  client.startPresence('bob'); // with the token of alice
  assert.deepEqual(await ended, { code: 4403, reason: "forbidden: the token is another user's: its sub is not the user in the path", willReconnect: false });
  assert.equal(errors.at(-1), 'forbidden true');
});

test('in node: the next token comes before the end of this one, and the user is never offline', async (t) => {
  const { PresenceService } = await import(path.join(WEB, 'presence.js'));
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, '--grace', '20s'] });
  const admin = bearer(await key.admin());
  const asked = [];
  let renew; // what waits for most of an hour
  const client = new PresenceService({
    apiUrl: `http://127.0.0.1:${server.port}`,
    getToken: (id) => key.user(id, { exp: seconds() + 3600, jti: String(asked.push(id)) }),
    WebSocket: globalThis.WebSocket ?? require('ws'),
    awayAfter: Infinity,
    clock: { setTimeout: (work, ms) => (ms > 600000 ? (renew = { work, ms }) : setTimeout(work, ms)) },
  });
  t.after(() => client.stopPresence());
  const next = () => new Promise((resolve) => { client.on('connected', resolve); });
  let connected = next();
  client.startPresence('u');
  await connected;
  assert.ok(renew.ms > 3470000 && renew.ms <= 3528000, `asked in ${renew.ms} ms of 3,600,000`);
  connected = next();
  renew.work();
  await connected;
  assert.deepEqual(asked, ['u', 'u']);
  const { sessions } = await json(server, '/admin/users/u/sessions', admin);
  assert.deepEqual(sessions.map(({ to }) => to), [null], 'one session');
});

test('in node: connects, probes, says its token, survives a restart, stops', async (t) => {
  const { PresenceService } = await import(path.join(WEB, 'presence.js'));
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const user = unique('node');
  const admin = bearer(await key.admin());
  const client = new PresenceService({
    apiUrl: `http://127.0.0.1:${server.port}`,
    getToken: () => key.user(user),
    WebSocket: globalThis.WebSocket ?? require('ws'),
    heartbeatInterval: 100,
  });
  t.after(() => client.stopPresence());
  const connected = () => new Promise((resolve) => client.on('connected', resolve));
  const first = connected();
  client.startPresence(user);
  assert.equal((await first).userId, user);
  assert.equal((await presence(server, user, admin)).source, 'live');
  await until(
    'probes',
    async () => (await json(server, '/admin/stats', admin)).counters.messages >= 3,
  );
  const second = connected();
  await server.stop();
  const again = await start(t, { data: server.data, address: server, args: key.args });
  await second;
  assert.equal((await presence(again, user, admin)).source, 'live');
  client.stopPresence();
  await until('offline', async () => !(await presence(again, user, admin)).online);
  const record = async () => (await json(again, `/admin/users/${user}/sessions`, admin)).sessions;
  await until('on record', async () => (await record())[0]?.reason === 'closed');
  assert.equal((await record()).length, 1);
});
