'use strict';
// Half an hour in a bad place, or ten minutes where no step was asked for: five tabs in a real
// Chromium, whose clocks run fast, while the network is cut and swallows what is sent, the server is
// stopped and killed, and tabs are hidden, frozen, reloaded, logged out and in. At the end the
// clients, the API and the admin page agree. What happens is random; the seed is told, CHAOS_SEED
// repeats it, and CHAOS_MINUTES makes it longer.

const assert = require('node:assert/strict');
const { test: anyTest, release, start, startProxy, json, until, tempDir, dice: seeded } = require('../integration/lib');
const { startChromium, servePages } = require('./lib/chromium');

const test = (name, body) => anyTest(name, { skip: !release && 'for the released program only', timeout: 150000 * Math.max(1, MINUTES / 30) }, body);

const MINUTES = Number(process.env.CHAOS_MINUTES || (process.env.PRESENCE_THOROUGH ? 30 : 10));
const CALM = 200; // ms
const STEP = 3000; // ms of the tabs' time between two looks at what is to happen
const USERS = ['ann', 'ann', 'bob', '__proto__', 'a/b ü'];
const ARGS = ['--grace', '200ms', '--ping-interval', '500ms', '--pong-timeout', '500ms', '--online-threshold', '1s', '--max-messages-per-second', '0'];

/** A page that counts its open sockets and starts presence when it is there, unless logged out. */
const PAGE = `<!doctype html><title>tab</title><script type="module">
  import { PresenceService } from './presence.js';
  window.sockets = new Set();
  class Counted extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets.add(this);
      this.addEventListener('close', () => sockets.delete(this));
    }
  }
  const { user, apiUrl } = JSON.parse(new URLSearchParams(location.search).get('q'));
  window.client = new PresenceService({ apiUrl, WebSocket: Counted });
  window.log = (on) => (on ? client.startPresence(user) : client.stopPresence());
  window.most = () => [...sockets].filter(({ readyState }) => readyState < 2).length;
  log(!location.hash);
</script>`;

/** The server, the network in front of it, and what can happen to both. */
async function startWorld(t, site) {
  const options = { data: tempDir(t), args: [...ARGS, '--allow-origin', site.origin], allow: [/level=(info|warn)/] };
  const world = { server: await start(t, options), down: 0, cut: 0, hole: 0 };
  const address = { port: world.server.port };
  world.proxy = await startProxy(t, world.server);
  const drop = () => { for (const socket of world.proxy.sockets) socket.destroy(); };
  world.stop = async (killed) => {
    if (killed) await world.server.kill();
    else await world.server.stop();
  };
  world.start = async () => { world.server = await start(t, { ...options, address }); };
  world.cutOff = () => { world.proxy.listener.close(); drop(); };
  world.mend = async () => { await new Promise((resolve) => world.proxy.listener.listen(world.proxy.port, '127.0.0.1', resolve)); };
  world.swallow = (on) => { world.proxy.hole = on; if (!on) drop(); };
  return world;
}

test(`chaos: ${MINUTES} minutes of cuts, restarts, hidden tabs and reloads; then all agree`, async (t) => {
  const seed = Number(process.env.CHAOS_SEED || Date.now() % 1e9);
  t.diagnostic(`CHAOS_SEED=${seed}`);
  const below = seeded(seed);
  const site = await servePages(t, { '/': PAGE });
  const world = await startWorld(t, site);
  const context = await startChromium(t);
  const apiUrl = `http://127.0.0.1:${world.proxy.port}`;
  await context.clock.install();
  const tabs = await Promise.all(USERS.map(async (user) => {
    const page = await context.newPage();
    await page.goto(`${site.origin}/?q=${encodeURIComponent(JSON.stringify({ user, apiUrl }))}`);
    return { user, page, on: true, hidden: false };
  }));
  const counts = {};
  const note = (what) => { counts[what] = (counts[what] || 0) + 1; };
  const show = (tab, hidden) => tab.page.evaluate((state) => {
    Object.defineProperty(document, 'visibilityState', { value: state, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden ? 'hidden' : 'visible');

  /** What may happen to a tab. */
  const happenings = {
    hide: async (tab) => { tab.hidden = !tab.hidden; await show(tab, tab.hidden); },
    freeze: (tab) => tab.page.evaluate(() => { document.dispatchEvent(new Event('freeze')); document.dispatchEvent(new Event('resume')); }),
    reload: async (tab) => { tab.hidden = false; await tab.page.reload(); },
    'log in or out': async (tab) => { tab.on = !tab.on; await tab.page.evaluate((on) => { location.hash = on ? '' : 'out'; window.log(on); }, tab.on); },
    online: (tab) => tab.page.evaluate(() => { for (let i = 0; i < 20; i++) dispatchEvent(new Event(i % 2 ? 'online' : 'offline')); }),
  };
  const names = Object.keys(happenings);

  /** Lets the tabs' time pass, and looks that none has more than one socket. */
  const pass = async () => {
    await context.clock.runFor(STEP);
    const open = await Promise.all(tabs.map(({ page }) => page.evaluate(() => window.most?.() ?? 0)));
    assert.deepEqual(open.filter((count) => count > 1), []);
  };

  for (let step = 0; step < (MINUTES * 60000) / STEP; step++) {
    const dice = below(100);
    if (dice < 6 && !world.cut && !world.hole) {
      world.cut = 1 + below(30);
      world.cutOff();
      note('cut');
    } else if (dice < 10 && !world.cut && !world.hole) {
      world.hole = 1 + below(20);
      world.swallow(true);
      note('hole');
    } else if (dice < 14 && !world.down) {
      world.down = 1 + below(15);
      await world.stop(below(2));
      note('restart');
    } else if (dice < 44) {
      const name = names[below(names.length)];
      await happenings[name](tabs[below(tabs.length)]);
      note(name);
    }
    await pass();
    if (world.cut && !--world.cut) await world.mend();
    if (world.hole && !--world.hole) world.swallow(false);
    if (world.down && !--world.down) await world.start();
  }
  if (world.cut) await world.mend();
  if (world.hole) world.swallow(false);
  if (world.down) await world.start();
  t.diagnostic(JSON.stringify(counts));
  if (MINUTES >= 30) for (const what of ['cut', 'hole', 'restart', ...names]) assert.ok(counts[what], `${what} never happened`);

  const wanted = new Map();
  for (const { user, on } of tabs) if (on) wanted.set(user, (wanted.get(user) || 0) + 1);
  const list = [...wanted].map(([user, connections]) => `${user} ${connections}`).sort();
  // Chromium lets a page wait some seconds before it opens a socket when many before it failed, and
  // that is real time: so from here on the tabs' clocks go as ours does.
  await until('the clients to be where they should', async () => {
    await context.clock.runFor(CALM);
    await Promise.all(tabs.map(({ page }) => page.evaluate(() => { if (!window.client.isConnected()) dispatchEvent(new Event('online')); })));
    const states = await Promise.all(tabs.map(({ page }) => page.evaluate(() => [window.client.state, window.client.isConnected()])));
    const wrong = states.map(([state, connected], i) => [tabs[i].user, tabs[i].on, state, connected])
      .filter(([, on, state, connected]) => (on ? !connected : !['stopped', 'idle'].includes(state)));
    assert.deepEqual(wrong, []);
    return true;
  }, { within: 40000, every: CALM });
  await until('the API to agree', async () => {
    const { users, count } = await json(world.server, '/admin/online-users');
    assert.deepEqual(users.map((user) => `${user.user_id} ${user.connections}`).sort(), list);
    return count === list.length;
  }, { within: 10000 });

  const admin = await context.newPage();
  await admin.goto(`http://127.0.0.1:${world.server.port}/admin/`);
  const shown = () => admin.evaluate(() => [...document.querySelectorAll('#rows tr')].map((row) => [...row.cells].map((cell) => cell.textContent.trim())));
  await until('the admin page to agree', async () => {
    await context.clock.runFor(100);
    const rows = (await shown()).map((cells) => `${cells[0]} ${cells[3]}`).sort();
    assert.deepEqual(rows, list);
    return true;
  }, { within: 15000 });
  assert.deepEqual(context.errors, []);
});
