'use strict';
// The tests of the React hook and the worked example with a real React: in Chromium, and on a server.
// react18.test.js and react19.test.js run them.

const assert = require('node:assert/strict');
const path = require('node:path');
const vm = require('node:vm');
const {
  test: anyTest,
  release,
  start,
  presence,
  json,
  until,
  unique,
  tokenKey,
  bearer,
} = require('../../integration/lib');
const { startChromium, servePages } = require('./chromium');
const { bundle } = require('./bundle');
const { makeBackend } = require('../example/server');

const test = (name, body) =>
  anyTest(name, { skip: !release && 'for the released program only' }, body);

/** Keeps what a page's console says that is no mere information. */
function complaints(page) {
  const found = [];
  page.on('console', (message) => {
    if (['error', 'warning'].includes(message.type())) found.push(message.text());
  });
  page.on('pageerror', (error) => found.push(error.stack));
  return found;
}

/** What the hook's tests render: what the hook gives, as text. */
const STATUS = `
  import { StrictMode } from 'react';
  import { PresenceService } from 'presence-client';
  import { usePresence, usePresenceStatus } from 'presence-client/react';

  export const count = { renders: 0, listeners: 0 };

  export class Counted extends PresenceService {
    on(type, listener) {
      count.listeners++;
      const off = super.on(type, listener);
      return () => {
        count.listeners--;
        off();
      };
    }
  }

  export function Status({ service }) {
    const { state, connected, attempt, userId, lastChange } = usePresenceStatus(service);
    count.renders++;
    return <p>{[state, connected, attempt, String(userId), typeof lastChange].join(' ')}</p>;
  }
  export const page = (service) => <StrictMode><Status service={service} /></StrictMode>;

  /** What usePresence() gives, as text: 'bob busy, carol offline stale'. */
  export function Others({ ids, service }) {
    const users = usePresence(ids, service);
    count.renders++;
    count.map = users;
    const text = ids.map((id) => users.get(id)).filter(Boolean)
      .map((user) => [user.user_id, user.status, user.stale ? 'stale' : ''].join(' ').trim());
    return <p>{text.join(', ') || 'nobody'}</p>;
  }
  export const others = (ids, service) => (
    <StrictMode><Others ids={ids} service={service} /></StrictMode>
  );
`;

/** A page around it: a socket that the test plays, and ways to put the component into the page. */
const BROWSER = `${STATUS}
  import { useEffect } from 'react';
  import { flushSync } from 'react-dom';
  import { createRoot, hydrateRoot } from 'react-dom/client';
  window.count = count;
  window.recovered = [];
  window.made = 0;
  window.WebSocket = class {
    constructor() { window.socket = this; this.readyState = 0; made++; }
    sent = [];
    send(text) { this.sent.push(text); }
    close() { this.readyState = 3; }
    say(message) { this.onmessage({ data: JSON.stringify(message) }); }
    hello() {
      this.readyState = 1;
      this.onmessage({ data: '{"type":"hello","heartbeat_seconds":25}' });
    }
  };
  window.service = new Counted();
  window.begin = (user) => { // the socket is made a microtask later
    service.startPresence(user);
    return new Promise((resolve) => setTimeout(resolve));
  };
  window.text = () => document.querySelector('#root').textContent;
  const root = () => document.querySelector('#root');
  window.show = (one) => {
    window.tree ??= createRoot(root());
    flushSync(() => tree.render(page(one)));
  };
  window.showOthers = (ids, one = service) => {
    window.tree ??= createRoot(root());
    flushSync(() => tree.render(others(ids, one)));
  };
  function Anyone({ ids }) {
    return <p>{[...usePresence(ids, service).keys()].join()}</p>;
  }
  window.anything = (ids) => {
    window.tree ??= createRoot(root());
    flushSync(() => tree.render(<StrictMode><Anyone ids={ids} /></StrictMode>));
  };
  function Session({ user }) {
    useEffect(() => {
      service.startPresence(user);
      return () => service.stopPresence();
    }, [user]);
    return <p>{user}</p>;
  }
  window.showSession = (user) => {
    window.tree ??= createRoot(root());
    flushSync(() => tree.render(<StrictMode><Session user={user} /></StrictMode>));
  };
  window.hydrateOthers = (ids) => {
    window.tree = hydrateRoot(root(), others(ids, service), {
      onRecoverableError: (error) => recovered.push(String(error)),
    });
  };
  window.hide = () => { flushSync(() => tree.unmount()); };
  window.hydrate = (one) => {
    window.tree = hydrateRoot(root(), page(one), {
      onRecoverableError: (error) => recovered.push(String(error)),
    });
  };
`;

const IDLE = 'idle false 0 null object';

/** Names the tests for one React: its package's name in test/. */
function testReact(react) {
  /** What a module exports that Node loads, as a server that renders pages does. */
  const onServer = async (source) => {
    const code = await bundle(path.join(__dirname, 'server.jsx'), { react, source, node: true });
    const module = { exports: {} };
    vm.runInThisContext(`(function (module, exports, require) {${code}\n})`)(
      module,
      module.exports,
      require,
    );
    return module.exports;
  };

  /** A page in Chromium with the component, `html` in its root. */
  const openPage = async (t, html = '') => {
    const script = await bundle(path.join(__dirname, 'status.jsx'), { react, source: BROWSER });
    const site = await servePages(t, {
      '/': `<!doctype html><title>hook</title><div id="root">${html}</div>
        <script type="module" src="/page.js"></script>`,
      '/page.js': script,
    });
    const context = await startChromium(t);
    const page = await context.newPage();
    const found = complaints(page);
    await page.goto(site.origin);
    return { page, found };
  };

  test(`${react}: the hook follows the client, in StrictMode, and lets go of it`, async (t) => {
    const { page, found } = await openPage(t);
    const text = () => page.evaluate(() => window.text());
    /** Does something in the page, and waits for what is shown then. */
    const after = async (work, shown) => {
      await page.evaluate(work);
      await page.waitForFunction((wanted) => window.text() === wanted, shown);
    };
    await page.evaluate(() => window.show(service));
    assert.equal(await text(), IDLE);
    assert.equal(await page.evaluate(() => count.listeners), 1);
    await after(() => service.startPresence('alice'), 'connecting false 0 alice number');
    await after(() => socket.hello(), 'connected true 0 alice number');
    await after(
      () => socket.onclose({ code: 1006, reason: '', wasClean: false }),
      'reconnecting false 1 alice number',
    );
    await after(() => dispatchEvent(new Event('online')), 'reconnecting false 1 alice number');
    await page.waitForFunction(() => socket.readyState === 0); // a second after the last
    await after(() => socket.hello(), 'connected true 0 alice number');

    // nothing has changed, so nothing is rendered
    const before = await page.evaluate(() => count.renders);
    await page.evaluate(() => {
      socket.onmessage({ data: 'pong' });
      service.setStatus('online');
    });
    await page.evaluate(
      () =>
        new Promise((resolve) => {
          requestAnimationFrame(() => setTimeout(resolve));
        }),
    );
    assert.equal(await page.evaluate(() => count.renders), before);

    await after(() => service.stopPresence(), 'stopped false 0 null number');
    await page.evaluate(() => window.hide());
    assert.equal(await page.evaluate(() => count.listeners), 0);
    await page.evaluate(() => service.startPresence('bob')); // nobody looks any more
    assert.deepEqual(found, []);
  });

  test(`${react}: another client in the same component`, async (t) => {
    const { page, found } = await openPage(t);
    await page.evaluate(() => {
      window.show(service);
      window.other = new service.constructor();
      other.startPresence('bob');
      window.show(other);
    });
    assert.equal(await page.evaluate(() => window.text()), 'connecting false 0 bob number');
    assert.equal(await page.evaluate(() => count.listeners), 1);
    await page.evaluate(() => service.startPresence('alice'));
    await page.evaluate(() => window.show()); // the default one
    assert.equal(await page.evaluate(() => window.text()), IDLE);
    assert.equal(await page.evaluate(() => count.listeners), 0);
    assert.deepEqual(found, []);
  });

  test(`${react}: usePresence follows users, batched, in StrictMode`, async (t) => {
    const { page, found } = await openPage(t);
    const shown = (wanted) => page.waitForFunction((text) => window.text() === text, wanted);
    const sent = () => page.evaluate(() => socket.sent.filter((one) => /watch/.test(one)));
    const quiet = () => page.evaluate(() => new Promise((resolve) => {
      requestAnimationFrame(() => setTimeout(resolve));
    }));
    await page.evaluate(async () => {
      await begin('alice');
      socket.hello();
      window.users = (status, ...ids) => ids.map((id) => ({ user_id: id, status }));
      showOthers(['bob', '__proto__']);
    });
    await shown('nobody');
    await quiet();
    assert.deepEqual(await sent(), ['{"type":"watch","users":["bob","__proto__"]}']);
    const first = await page.evaluate(() => {
      window.before = count.map;
      count.renders = 0;
      socket.say({ type: 'snapshot', users: users('busy', 'bob', '__proto__') });
    });
    assert.equal(first, undefined);
    await shown('bob busy, __proto__ busy');
    assert.equal(await page.evaluate(() => count.renders), 2, 'once, which StrictMode doubles');
    assert.equal(await page.evaluate(() => count.map !== before && before.size), 0);

    // another array with the same ids, or a render for another reason: the same Map, no new watch
    assert.equal(await page.evaluate(() => {
      window.before = count.map;
      showOthers(['bob', '__proto__']);
      return count.map === before;
    }), true);
    await quiet();
    assert.equal((await sent()).length, 1);

    // others: who stays is known at once, who is gone is unwatched
    assert.equal(await page.evaluate(() => {
      showOthers(['carol', 'bob']);
      return window.text();
    }), 'bob busy');
    await page.waitForFunction(() => socket.sent.length === 3);
    assert.deepEqual((await sent()).slice(1).sort(), [
      '{"type":"unwatch","users":["__proto__"]}', '{"type":"watch","users":["carol"]}',
    ]);
    await page.evaluate(() => socket.say({ type: 'snapshot', users: users('online', 'carol') }));
    await shown('carol online, bob busy');
    await page.evaluate(() => socket.onclose({ code: 1006, reason: '', wasClean: false }));
    await shown('carol online stale, bob busy stale');
    await page.evaluate(() => { window.old = socket; });
    await page.waitForFunction(() => socket !== old);
    await page.evaluate(() => socket.hello());
    await page.evaluate(() => {
      socket.say({ type: 'snapshot', users: users('away', 'bob', 'carol') });
    });
    await shown('carol away, bob away');

    // whom the server refuses from now on is not shown any more
    await page.evaluate(() => socket.onclose({ code: 1006, reason: '', wasClean: false }));
    await page.evaluate(() => { window.old = socket; });
    await page.waitForFunction(() => socket !== old);
    await page.evaluate(() => {
      socket.hello();
      socket.say({ type: 'error', code: 'forbidden', message: 'x' });
    });
    await page.waitForFunction(() => socket.sent.length === 2); // one of the two alone
    await page.evaluate(() => socket.say({ type: 'error', code: 'forbidden', message: 'x' }));
    const [one] = await page.evaluate(() => JSON.parse(socket.sent[1]).users);
    await page.waitForFunction(() => socket.sent.length === 3);
    const [other] = await page.evaluate(() => JSON.parse(socket.sent[2]).users);
    assert.deepEqual([one, other].sort(), ['bob', 'carol']);
    await shown(`${other} away stale`);

    await page.evaluate((id) => socket.say({ type: 'snapshot', users: users('busy', id) }), other);
    await shown(`${other} busy`);
    await page.evaluate(() => hide());
    await page.waitForFunction(() => /unwatch/.test(socket.sent.at(-1)));
    assert.equal(await page.evaluate((id) => service.getUser(id), other), null);
    assert.deepEqual(found.map((text) => text.replace(/: its claim watch.*/, '')), ['[presence] the token does not let this page see all whom it watches']);
  });

  test(`${react}: usePresence shows who is known at once: one Map, one render`, async (t) => {
    const { page, found } = await openPage(t);
    const result = await page.evaluate(async () => {
      const quiet = () => new Promise((resolve) => {
        requestAnimationFrame(() => setTimeout(resolve));
      });
      await begin('alice');
      socket.hello();
      service.watch(['bob', 'carol'], () => {});
      await quiet();
      socket.say({ type: 'snapshot', users: [{ user_id: 'bob', status: 'busy' }, { user_id: 'carol', status: 'away' }] });
      await quiet();
      count.renders = 0;
      showOthers(['bob', 'carol', 'dora']);
      const first = [text(), count.map, count.renders];
      await quiet();
      const then = [count.map === first[1], count.renders - first[2]];
      socket.say({ type: 'snapshot', users: [{ user_id: 'dora', status: 'online' }] });
      await quiet();
      return [first[0], ...then, text(), count.map === first[1]];
    });
    assert.deepEqual(result,
      ['bob busy, carol away', true, 0, 'bob busy, carol away, dora online', false]);
    assert.deepEqual(found, []);
  });

  test(`${react}: usePresence with what is no id shows the others, and the console says it`, async (t) => {
    const { page, found } = await openPage(t);
    const shown = await page.evaluate(async () => {
      const quiet = () => new Promise((resolve) => {
        requestAnimationFrame(() => setTimeout(resolve));
      });
      await begin('alice');
      socket.hello();
      const texts = [];
      const hostile = { [Symbol.iterator]() { throw new Error('mine'); } };
      const lists = [[undefined], [null, 'bob'], [], undefined, null, 'bob', ['bob', 42], 42, hostile,
        ['', 'bob'], ['x'.repeat(129)], ['\ud800', 'bob'], [Symbol('s'), 10n, {}, 'bob']];
      service.watch('bob', () => {});
      await quiet();
      socket.say({ type: 'snapshot', users: [{ user_id: 'bob', status: 'busy' }] });
      await quiet();
      for (const ids of lists) {
        anything(ids);
        await quiet();
        texts.push(text());
      }
      return texts;
    });
    assert.deepEqual(shown, ['', 'bob', '', '', '', 'bob', 'bob', '', '', 'bob', '', 'bob', 'bob']);
    const said = found.map((one) => one.split('\n')[0]);
    assert.ok(said.length >= 6 && said.every((one) => /^usePresence: presence: a user id /.test(one)), said.join('\n'));
  });

  test(`${react}: an effect that starts and stops, twice in StrictMode, makes one socket`, async (t) => {
    const { page, found } = await openPage(t);
    await page.evaluate(() => window.showSession('alice'));
    await page.waitForFunction(() => made > 0 && service.getCurrentUserId() === 'alice');
    assert.deepEqual([await page.evaluate(() => made), found], [1, []]);
  });

  test(`${react}: usePresence forgets what another user saw, before the server says more`, async (t) => {
    const { page, found } = await openPage(t);
    const shown = (wanted) => page.waitForFunction((text) => window.text() === text, wanted);
    const see = async () => {
      await page.waitForFunction(() => socket.sent.length === 1);
      await page.evaluate(() => {
        socket.say({ type: 'snapshot', users: [{ user_id: 'bob', status: 'busy' }] });
      });
      await shown('bob busy');
    };
    await page.evaluate(async () => {
      await begin('alice');
      socket.hello();
      showOthers(['bob']);
    });
    await see();
    await page.evaluate(() => service.stopPresence());
    await shown('bob busy stale');
    await page.evaluate(() => service.startPresence('carol'));
    await shown('nobody');
    await page.evaluate(() => socket.hello());
    await see();
    await page.evaluate(() => service.startPresence('dave')); // without a stop in between
    await shown('nobody');
    assert.deepEqual(found, []);
  });

  test(`${react}: usePresence: an empty Map from a server, taken over by a browser`, async (t) => {
    const source = `${STATUS}
      import { renderToString } from 'react-dom/server';
      export const html = () => renderToString(others(['bob']));
      export const map = () => count.map;`;
    const server = await onServer(source);
    const html = server.html();
    assert.equal(html, '<p>nobody</p>');
    assert.equal(server.map().size, 0);
    const { page, found } = await openPage(t, html);
    await page.evaluate(async () => {
      await begin('alice');
      socket.hello();
      service.watch('bob', () => {}); // known before the page is taken over
    });
    await page.waitForFunction(() => socket.sent.length === 1);
    await page.evaluate(() => {
      socket.say({ type: 'snapshot', users: [{ user_id: 'bob', status: 'busy' }] });
      hydrateOthers(['bob']);
    });
    await page.waitForFunction(() => window.text() === 'bob busy');
    assert.deepEqual([found, await page.evaluate(() => recovered)], [[], []]);
  });

  test(`${react}: rendered by a server, taken over by a browser that is connected`, async (t) => {
    const source = `${STATUS}
      import { renderToString } from 'react-dom/server';
      export const html = () => renderToString(page());
      export const busy = () => {
        const WebSocket = class { close() {} };
        const service = new PresenceService({ apiUrl: 'http://x', WebSocket });
        service.startPresence('alice');
        const rendered = renderToString(page(service));
        service.stopPresence();
        return rendered;
      };`;
    const server = await onServer(source);
    const html = server.html();
    assert.equal(html, `<p>${IDLE}</p>`);
    assert.equal(server.busy(), html, "a server never shows anybody's presence");

    const { page, found } = await openPage(t, html);
    assert.equal(await page.evaluate(() => window.text()), IDLE);
    await page.evaluate(async () => {
      await begin('alice');
      socket.hello();
      window.hydrate(service);
    });
    await page.waitForFunction(() => window.text() === 'connected true 0 alice number');
    assert.deepEqual([found, await page.evaluate(() => recovered)], [[], []]);
  });

  test(`${react}: the example: login, registration, logout, reload`, async (t) => {
    const key = tokenKey(t);
    const admin = bearer(await key.admin());
    let backend;
    const site = await servePages(t, (request, response) => backend(request, response));
    const server = await start(t, {
      args: [...key.args, '--allow-origin', site.origin, '--grace', '20s'],
    });
    backend = await makeBackend({
      presence: `http://127.0.0.1:${server.port}`,
      secret: key.secret,
      react,
    });
    const context = await startChromium(t);
    const page = await context.newPage();
    const found = complaints(page);
    const user = unique('anna');
    const state = (wanted) => page.waitForSelector(`[role=status][data-state=${wanted}]`);
    const fill = async (name, password) => {
      await page.fill('[name=name]', name);
      await page.fill('[name=password]', password);
    };
    const sessions = async () => (await json(server, `/admin/users/${user}/sessions`, admin)).sessions;

    await page.goto(site.origin);
    await page.waitForSelector('form');
    await state('idle');

    await fill(user, 'secret');
    await page.click('text=Register');
    await state('connected');
    assert.match(await page.textContent('[role=status]'), new RegExp(`^${user}: online, since `));
    const first = await presence(server, user, admin);
    assert.deepEqual(
      [first.source, first.connections],
      ['live', 1],
      'StrictMode leaves one connection',
    );

    await page.reload();
    await state('connected');
    const again = await presence(server, user, admin);
    assert.deepEqual(
      [again.connections, again.connected_at],
      [1, first.connected_at],
      'a reload is no event',
    );

    const tab = await context.newPage();
    await tab.goto(site.origin);
    await tab.waitForSelector('[data-state=connected]');
    const connections = async () => (await presence(server, user, admin)).connections;
    assert.equal(await connections(), 2);
    await tab.close();
    await until('the tab to be gone', async () => (await connections()) === 1); // or its end is last

    await page.click('text=Log out');
    await page.waitForSelector('form');
    await state('stopped');
    await until('offline at once', async () => !(await presence(server, user, admin)).online);
    await until('on record', async () => (await sessions())[0]?.reason === 'closed');
    assert.equal((await sessions()).length, 1);
    await page.reload();
    await page.waitForSelector('form');
    await state('idle');
    assert.equal((await presence(server, user, admin)).online, false);
    assert.deepEqual(found, []);

    await fill(user, 'guess');
    await page.click('text=Log in');
    await page.waitForSelector('[role=alert]');
    assert.equal(await page.textContent('[role=alert]'), 'wrong name or password');
    await state('idle');
    await fill(user, 'secret');
    await page.click('text=Log in');
    await state('connected');
    assert.equal((await presence(server, user, admin)).online, true);

    await server.stop();
    await state('reconnecting');
    assert.match(await page.textContent('[role=status]'), /: connection lost, try \d+, since /);
  });
}

module.exports = { testReact };
