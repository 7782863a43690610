'use strict';
// The browser client against a world of its own: every sentence of what it promises.

const test = require('node:test');
const { describe } = test;
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { World, LATENCY, WEB, settle, pong, followable } = require('./lib/world');

/** Which URL a client makes of an id and its options. */
async function urlOf(userId, options = {}) {
  const world = new World('hang');
  const client = await world.client(options);
  client.startPresence(userId);
  await settle();
  const { url } = world.last;
  client.stopPresence();
  return url;
}

/** A server that closes each socket with what the list has for it, and is up behind its end. */
const closing =
  (...closes) =>
  (socket, world) => {
    const close = closes[socket.number];
    if (!close) {
      socket.answer = pong(socket);
      socket.later(() => socket.hello());
      return;
    }
    socket.later(() => {
      socket.open();
      if (close.hello) socket.hello();
      world.clock.add(() => socket.end(close.code, close.reason || ''), close.after || 0, false);
    });
  };

/** A token giver: the list in turn, then the last one for ever. */
function giver(...tokens) {
  const asked = [];
  const getToken = async (userId) => {
    asked.push(userId);
    return tokens[Math.min(asked.length, tokens.length) - 1];
  };
  return { getToken, asked };
}

const SECOND = 1000;
const MINUTE = 60 * SECOND;

// ---- Address and ids ---------------------------------------------------------------------------

test('the URL: http to ws, https to wss, the path kept, the id encoded', async () => {
  const rows = [
    ['http://a.example', 'alice', 'ws://a.example/ws/presence/alice'],
    ['https://a.example', 'alice', 'wss://a.example/ws/presence/alice'],
    ['https://a.example/', 'alice', 'wss://a.example/ws/presence/alice'],
    ['https://a.example:8443/p/q', 'alice', 'wss://a.example:8443/p/q/ws/presence/alice'],
    ['https://a.example/p/q//', 'alice', 'wss://a.example/p/q/ws/presence/alice'],
    ['https://a.example/p?tenant=1#x', 'alice', 'wss://a.example/p/ws/presence/alice?tenant=1'],
    ['ws://[::1]:9', 'alice', 'ws://[::1]:9/ws/presence/alice'],
    ['wss://a.example', 'alice', 'wss://a.example/ws/presence/alice'],
    ['/below', 'alice', 'wss://app.example.com/below/ws/presence/alice'],
    ['https://a.example', 'a/b', 'wss://a.example/ws/presence/a%2Fb'],
    ['https://a.example', 'a%2Fb', 'wss://a.example/ws/presence/a%252Fb'],
    ['https://a.example', 'a b+c?d#e', 'wss://a.example/ws/presence/a%20b%2Bc%3Fd%23e'],
    ['https://a.example', 'x@y.example', 'wss://a.example/ws/presence/x%40y.example'],
    ['https://a.example', '\u{1f600}', 'wss://a.example/ws/presence/%F0%9F%98%80'],
    ['https://a.example', ' ', 'wss://a.example/ws/presence/%20'],
    ['https://a.example', '...', 'wss://a.example/ws/presence/...'],
  ];
  for (const [apiUrl, id, url] of rows) assert.equal(await urlOf(id, { apiUrl }), url);
});

test("the URL: the page's own origin when there is no apiUrl", async () => {
  for (const apiUrl of [undefined, null, '']) {
    assert.equal(await urlOf('alice', { apiUrl }), 'wss://app.example.com/ws/presence/alice');
  }
});

test('an apiUrl that cannot be is a TypeError of startPresence', async () => {
  const world = new World();
  for (const apiUrl of ['ftp://a.example', 'http://', 'javascript:alert(1)']) {
    const client = await world.client({ apiUrl });
    assert.throws(() => client.startPresence('alice'), { name: 'TypeError', message: /apiUrl/ });
    assert.equal(client.state, 'idle');
  }
  const nowhere = await world.client({ window: {} });
  assert.throws(() => nowhere.startPresence('alice'), { message: /apiUrl is needed/ });
  const file = await world.client({ window: { location: { origin: 'null', href: 'file:///x' } } });
  assert.throws(() => file.startPresence('alice'), { message: /apiUrl is needed/ });
  assert.equal(world.sockets.length, 0);
});

test('ids such as __proto__ and constructor are ordinary users', async () => {
  for (const id of ['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'null', '0']) {
    const world = new World();
    const client = await world.client();
    client.startPresence(id);
    await world.clock.advance(SECOND);
    assert.equal(client.getCurrentUserId(), id);
    assert.equal(client.getSnapshot().userId, id);
    assert.equal(client.isConnected(), true);
    assert.equal(world.last.url, `wss://app.example.com/ws/presence/${id}`);
    assert.deepEqual(
      world.told('connected').map((one) => one.userId),
      [id],
    );
    client.stopPresence();
  }
});

test('an id that cannot be is a TypeError, and changes nothing', async () => {
  const world = new World();
  const client = await world.connected();
  const bad = [
    '',
    '.',
    '..',
    'a\nb',
    'a\u0000',
    'a\u0085',
    '\ud800',
    'x'.repeat(129),
    'é'.repeat(65),
    undefined,
    null,
    42,
    {},
    ['alice'],
  ];
  for (const id of bad) {
    assert.throws(() => client.startPresence(id), TypeError, JSON.stringify(id));
  }
  assert.equal(client.getCurrentUserId(), 'alice');
  assert.equal(client.isConnected(), true);
  for (const id of ['x'.repeat(128), 'é'.repeat(64)]) await urlOf(id);
});

// ---- Starting and stopping ---------------------------------------------------------------------

test('start, hello, stop: states, answers and events', async () => {
  const world = new World();
  const client = await world.client();
  const states = [];
  client.on('change', (snapshot) => states.push(snapshot.state));
  assert.deepEqual(
    [client.state, client.isConnected(), client.getCurrentUserId()],
    ['idle', false, null],
  );
  client.startPresence('alice');
  assert.deepEqual(
    [client.state, client.isConnected(), client.getCurrentUserId()],
    ['connecting', false, 'alice'],
  );
  await world.clock.advance(SECOND);
  assert.deepEqual(world.last.protocols, ['presence.v1']);
  assert.deepEqual([client.state, client.isConnected()], ['connected', true]);
  client.stopPresence();
  assert.deepEqual(
    [client.state, client.isConnected(), client.getCurrentUserId()],
    ['stopped', false, null],
  );
  assert.deepEqual(world.last.closed, { code: 1000, reason: 'stopPresence' });
  assert.deepEqual(client.lastClose, { code: 1000, reason: 'stopPresence', wasClean: true });
  assert.deepEqual(states, ['connecting', 'connected', 'stopped']);
  assert.deepEqual(world.log, [
    ['connected', { userId: 'alice', connectionId: 'c0', server: 'presence/9' }],
    ['disconnected', { code: 1000, reason: 'stopPresence', willReconnect: false }],
  ]);
});

test('open is not connected: only hello is', async () => {
  const world = new World('speechless');
  const client = await world.client();
  client.startPresence('alice');
  await world.clock.advance(SECOND);
  assert.equal(world.last.readyState, 1);
  assert.equal(client.state, 'connecting');
  world.last.hello();
  assert.equal(client.state, 'connected');
  world.last.hello({ connection_id: 'again' }); // a second one changes nothing
  assert.equal(world.told('connected').length, 1);
});

test('C09 after stop nothing is left, from every state, and start works again', async () => {
  const reach = {
    connecting: async () => new World('hang'),
    connected: async () => new World('up'),
    reconnecting: async () => new World('refuse'),
    suspended: async () => new World('refuse'),
  };
  for (const [state, make] of Object.entries(reach)) {
    const world = await make();
    const client = await world.client({ maxReconnectAttempts: state === 'suspended' ? 0 : 5 });
    client.startPresence('alice');
    await world.clock.advance(2 * LATENCY);
    world.page.show(false); // one timer more
    assert.equal(client.state, state);
    assert.notEqual(world.clock.pending, 0);
    client.stopPresence();
    assert.equal(client.state, 'stopped');
    assert.equal(world.clock.pending, 0, `${state}: timers`);
    assert.deepEqual(world.live, [], `${state}: sockets`);
    assert.equal(world.page.listening, 0, `${state}: listeners`);
    const { length } = world.sockets;
    world.page.send('online');
    world.page.show(true);
    world.page.send('pageshow', { persisted: true });
    await world.clock.advance(10 * MINUTE);
    assert.equal(world.sockets.length, length, `${state}: a socket after stop`);
    client.stopPresence(); // and again
    assert.deepEqual(client.getSnapshot(), {
      ...client.getSnapshot(),
      state: 'stopped',
      connected: false,
      userId: null,
      attempt: 0,
      status: 'online',
    });
    world.server = 'up';
    client.startPresence('alice');
    assert.equal(client.state, 'connecting', `${state}: started again`);
    await world.clock.advance(SECOND);
    assert.equal(client.state, 'connected', `${state}: started again`);
    client.stopPresence();
  }
});

test('C09 what is known is flagged stale after a drop, and fresh after the reconnect', async () => {
  const world = new World();
  const client = await world.connected();
  const before = client.getSnapshot();
  assert.equal(before, client.getSnapshot());
  assert.deepEqual(before, {
    state: 'connected',
    connected: true,
    userId: 'alice',
    attempt: 0,
    status: 'online',
    lastChange: before.lastChange,
  });
  world.last.end(1006);
  const stale = client.getSnapshot();
  assert.deepEqual([stale.state, stale.connected, stale.attempt], ['reconnecting', false, 1]);
  assert.equal(stale.lastChange, world.clock.time());
  await world.clock.advance(2 * SECOND);
  const fresh = client.getSnapshot();
  assert.deepEqual([fresh.state, fresh.connected, fresh.attempt], ['connected', true, 0]);
  assert.ok(fresh.lastChange > stale.lastChange);
  assert.ok(Object.isFrozen(fresh));
});

test('starting the same user again keeps the socket; another user replaces it', async () => {
  const world = new World();
  const client = await world.connected();
  client.startPresence('alice');
  await world.clock.advance(SECOND);
  assert.equal(world.sockets.length, 1);
  client.startPresence('bob');
  assert.deepEqual(world.sockets[0].closed, { code: 1000, reason: 'another user' });
  assert.equal(client.getCurrentUserId(), 'bob');
  await world.clock.advance(SECOND);
  assert.equal(world.live.length, 1);
  assert.match(world.last.url, /\/bob$/);
  assert.equal(client.isConnected(), true);
});

test('starting, stopping and starting in one go makes one socket', async () => {
  for (const getToken of [undefined, () => 't', async () => 't']) {
    const world = new World();
    const client = await world.client({ getToken });
    for (let i = 0; i < 3; i++) {
      client.startPresence('alice');
      client.stopPresence();
    }
    client.startPresence('alice');
    assert.equal(world.sockets.length, 0, 'a microtask later');
    await world.clock.advance(SECOND);
    assert.equal(world.sockets.length, 1);
    assert.equal(client.isConnected(), true);
  }
});

test('starting the same user while the line is down tries at once', async () => {
  const world = new World('refuse');
  const client = await world.client();
  client.startPresence('alice');
  await world.clock.advance(10 * SECOND); // tries at 0, 1, 3 and 7 s; the next is at 15
  assert.equal(world.sockets.length, 4);
  world.server = 'up';
  client.startPresence('alice');
  await world.clock.advance(2 * LATENCY);
  assert.equal(client.isConnected(), true);
});

test('a listener may stop or start: what it asked for is what remains', async () => {
  for (const type of ['disconnected', 'reconnecting', 'change']) {
    const world = new World();
    const client = await world.connected();
    const off = client.on(type, () => {
      off();
      client.stopPresence();
    });
    world.last.end(1006);
    await world.clock.advance(MINUTE);
    assert.equal(client.state, 'stopped', type);
    assert.equal(world.clock.pending, 0, type);
    assert.equal(world.sockets.length, 1, type);
    assert.equal(world.log.at(-1)[0], 'disconnected', type);
  }
  const world = new World();
  const client = await world.connected();
  client.on('error', () => client.startPresence('bob'));
  world.last.end(4403, 'kicked');
  await world.clock.advance(SECOND);
  assert.deepEqual([client.state, client.getCurrentUserId()], ['connected', 'bob']);
  const restart = client.on('disconnected', () => {
    restart();
    client.startPresence('carol');
  });
  client.startPresence('dave'); // its stop of bob starts carol, who came later
  await world.clock.advance(SECOND);
  assert.equal(client.getCurrentUserId(), 'carol');
  assert.equal(world.live.length, 1);
});

test('a listener of the last change may start again: the end is told before that', async () => {
  const world = new World();
  const client = await world.connected();
  const off = client.on('change', ({ state }) => {
    if (state !== 'stopped') return;
    off();
    client.startPresence('bob');
  });
  client.stopPresence();
  await world.clock.advance(SECOND);
  assert.deepEqual(
    world.log.map(([type]) => type),
    ['disconnected', 'connected'],
  );
  assert.equal(client.getCurrentUserId(), 'bob');
});

test('no change, no event: the snapshot is the same object', async () => {
  const world = new World();
  const client = await world.connected();
  let changes = 0;
  client.on('change', () => changes++);
  const before = client.getSnapshot();
  client.setStatus('online');
  client.startPresence('alice');
  world.page.show(false);
  world.page.show(true);
  await world.clock.advance(MINUTE);
  assert.deepEqual([client.getSnapshot() === before, changes], [true, 0]);
  client.setStatus('busy');
  assert.deepEqual([client.getSnapshot().status, changes], ['busy', 1]);
});

test('a clock may be a part of one', async () => {
  const world = new World();
  const { setTimeout, clearTimeout } = world.clock;
  const client = await world.client({ clock: { setTimeout, clearTimeout } });
  client.startPresence('alice');
  await world.clock.advance(SECOND);
  assert.equal(client.isConnected(), true);
  assert.ok(Math.abs(client.getSnapshot().lastChange - Date.now()) < MINUTE);
});

test("on() gives what takes the listener away; EventTarget's own ways work too", async () => {
  const world = new World();
  const client = await world.client();
  const heard = [];
  const off = client.on('connected', ({ userId }) => heard.push(`on ${userId}`));
  client.addEventListener('connected', ({ detail }) => heard.push(`event ${detail.userId}`), {
    once: true,
  });
  client.startPresence('alice');
  await world.clock.advance(SECOND);
  assert.deepEqual(heard, ['on alice', 'event alice']);
  off();
  world.last.end();
  await world.clock.advance(2 * SECOND);
  assert.equal(client.isConnected(), true);
  assert.deepEqual(heard, ['on alice', 'event alice']);
});

test('options that cannot be are a TypeError; undefined and null keep the default', async () => {
  const world = new World();
  const bad = [
    { apiurl: 'x' },
    { reconnectDelay: -1 },
    { reconnectDelay: '1000' },
    { maxReconnectAttempts: NaN },
    { getToken: 'abc' },
    { heartbeatInterval: '25' },
  ];
  for (const options of bad) {
    await assert.rejects(world.client(options), { name: 'TypeError', message: /^presence: / });
  }
  world.server = 'refuse';
  const client = await world.client({ reconnectDelay: undefined, maxReconnectAttempts: null });
  client.startPresence('alice');
  await world.clock.advance(MINUTE);
  assert.deepEqual(
    world.told('reconnecting').map((one) => one.delay),
    [1000, 2000, 4000, 8000, 16000],
  );
});

test('configure() changes what comes next', async () => {
  const world = new World('refuse');
  const client = await world.client();
  client.configure({
    apiUrl: 'https://other.example',
    reconnectDelay: 7000,
    maxReconnectAttempts: 1,
  });
  client.startPresence('alice');
  await world.clock.advance(SECOND);
  assert.equal(world.last.url, 'wss://other.example/ws/presence/alice');
  assert.deepEqual(world.told('reconnecting'), [{ attempt: 1, delay: 7000, maxAttempts: 1 }]);
  await world.clock.advance(7 * SECOND);
  assert.equal(client.state, 'suspended');
});

test('the default instance is a PresenceService that needs nothing to be made', async () => {
  const { presenceService, PresenceService } = await import(path.join(WEB, 'presence.js'));
  assert.ok(presenceService instanceof PresenceService);
  assert.equal(presenceService.state, 'idle');
  assert.throws(() => presenceService.startPresence('alice'), { message: /apiUrl is needed/ });
});

test('without a WebSocket class startPresence says so', async (t) => {
  const { PresenceService } = await import(path.join(WEB, 'presence.js'));
  const had = Object.getOwnPropertyDescriptor(globalThis, 'WebSocket');
  delete globalThis.WebSocket;
  t.after(() => had && Object.defineProperty(globalThis, 'WebSocket', had));
  const client = new PresenceService({ apiUrl: 'http://a.example' });
  assert.throws(() => client.startPresence('alice'), {
    name: 'TypeError',
    message: /there is no WebSocket here; npm install ws, then: import WebSocket from 'ws'; presenceService\.configure\(\{ WebSocket \}\)$/,
  });
  const world = new World();
  globalThis.WebSocket = world.WebSocket; // as in Node 22: the global one, and no page
  client.startPresence('alice');
  await settle();
  assert.equal(world.sockets.length, 1);
  client.stopPresence();
  delete globalThis.WebSocket;
});

// ---- Reconnecting ------------------------------------------------------------------------------

test('reconnect after 1, 2, 4, 8, 16 s, five times, then suspended: a try every 30 s', async () => {
  const world = new World('refuse');
  const client = await world.client();
  client.startPresence('alice');
  await world.clock.advance(31 * SECOND + 10 * LATENCY);
  assert.deepEqual(
    world.gaps.map((gap) => gap - LATENCY),
    [1000, 2000, 4000, 8000, 16000],
  );
  assert.deepEqual(world.log, [
    ...[1000, 2000, 4000, 8000, 16000].map((delay, i) => [
      'reconnecting',
      { attempt: i + 1, delay, maxAttempts: 5 },
    ]),
    ['suspended', { delay: 30000 }],
  ]);
  assert.equal(client.state, 'suspended');
  assert.equal(client.getSnapshot().attempt, 5);
  await world.clock.advance(5 * MINUTE);
  assert.deepEqual([...new Set(world.gaps.slice(5))], [30000 + LATENCY]);
  assert.equal(world.gaps.length, 5 + 9);
  assert.equal(world.told('suspended').length, 1); // said once
  assert.equal(client.state, 'suspended'); // while it tries, too
  world.server = 'up';
  await world.clock.advance(30 * SECOND + 2 * LATENCY);
  assert.equal(client.state, 'connected');
});

test('the delay is capped at 30 s, and up to a tenth is added at random', async () => {
  for (const random of [0, 0.5, 1]) {
    const world = new World('refuse');
    const client = await world.client({ maxReconnectAttempts: 8, random: () => random });
    client.startPresence('alice');
    await world.clock.advance(5 * MINUTE);
    const factor = 1 + random / 10;
    assert.deepEqual(
      world.told('reconnecting').map((one) => one.delay),
      [1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000].map((ms) => ms * factor),
    );
    assert.deepEqual(world.told('suspended'), [{ delay: 30000 * factor }]);
    client.stopPresence();
  }
});

test('C01 2,000 failures: every delay is finite, positive and capped', async () => {
  for (const random of [() => Math.random(), () => NaN, () => 7, () => -7, () => 'x']) {
    const world = new World('refuse');
    const client = await world.client({ maxReconnectAttempts: Infinity, random });
    client.startPresence('alice');
    while (world.sockets.length < 400) await world.clock.advance(10 * MINUTE);
    const delays = world.told('reconnecting').map((one) => one.delay);
    assert.ok(delays.length >= 399);
    for (const delay of [...delays, ...world.clock.asked]) {
      assert.ok(Number.isFinite(delay) && delay > 0 && delay <= 33000, String(delay));
    }
    for (const delay of delays.slice(5)) assert.ok(delay >= 30000, String(delay));
    client.stopPresence();
  }
});

test('delays of 0 do not make a tight loop', async () => {
  const world = new World('refuse');
  const client = await world.client({ reconnectDelay: 0, maxReconnectDelay: 0, probeDelay: 0 });
  client.startPresence('alice');
  await world.clock.advance(10 * SECOND);
  assert.equal(client.state, 'suspended');
  assert.ok(world.sockets.length > 50 && world.sockets.length <= 101, String(world.sockets.length));
  client.stopPresence();
  client.configure({ maxReconnectAttempts: Infinity });
  client.startPresence('alice');
  await world.clock.advance(2 * MINUTE);
  assert.ok(client.getSnapshot().attempt > 1100);
  assert.ok(world.told('reconnecting').every((one) => one.delay === 100));
});

test('giveUp: a full stop in place of suspended', async () => {
  const world = new World('refuse');
  const client = await world.client({ giveUp: true });
  client.startPresence('alice');
  await world.clock.advance(MINUTE);
  assert.equal(client.state, 'stopped');
  assert.deepEqual(world.log.slice(5), [
    ['disconnected', { code: 1006, reason: '', willReconnect: false }],
    ['error', { code: 'gave_up', message: 'no connection after 5 more attempts', final: true }],
  ]);
  assert.equal(world.sockets.length, 6);
  assert.equal(world.clock.pending, 0);
  world.page.send('online');
  await world.clock.advance(10 * MINUTE);
  assert.equal(world.sockets.length, 6);
});

test('the backoff begins anew after a stable connection, not after open or hello', async () => {
  const rows = [
    [9 * SECOND, null, { attempt: 5, delay: 16000, maxAttempts: 5 }],
    [10 * SECOND, null, { attempt: 1, delay: 1000, maxAttempts: 5 }],
    [2 * SECOND, 'online', { attempt: 1, delay: 1000, maxAttempts: 5 }], // an answered probe
  ];
  for (const [stands, wake, told] of rows) {
    const world = new World('trap');
    const client = await world.client();
    client.startPresence('alice');
    await world.clock.advance(8 * SECOND);
    assert.deepEqual(
      world.told('reconnecting').map((one) => one.delay),
      [1000, 2000, 4000, 8000],
    );
    world.server = 'up';
    await world.clock.advance(8 * SECOND);
    while (!client.isConnected()) await world.clock.advance(1);
    assert.equal(client.getSnapshot().attempt, 0, 'none is waited for');
    await world.clock.advance(stands);
    if (wake) world.page.send(wake);
    await world.clock.advance(2 * LATENCY);
    world.server = 'refuse';
    world.last.end(1006);
    assert.deepEqual(world.log.at(-1), ['reconnecting', told], `${stands}`);
  }
});

/** A server that says hello and closes: at once, or after some ms. */
const greeting = (code, reason = '', after = 0) => (socket, world) => socket.later(() => {
  socket.hello();
  if (after) world.clock.add(() => socket.end(code, reason), after, false);
  else socket.end(code, reason);
});

test('greeted and closed at once: tries after 1, 2, 4, 8, 16 s, then every 30 s', async () => {
  const rows = [
    [1011, 'internal', 0],
    [1000, '', 0],
    [1006, '', 0],
    [1009, '', 0],
    [4429, 'too_fast', 0],
    [1012, 'retry_after=0', 0],
    [1012, 'retry_after=500', 0],
    [4401, 'token_expired', 1500],
    [1011, '', 5000],
  ];
  for (const [code, reason, after] of rows) {
    const name = `${code} ${reason}`;
    const world = new World(greeting(code, reason, after));
    let count = 0;
    const client = await world.client({ getToken: () => `t${count++}` });
    client.startPresence('alice');
    await world.clock.advance(10 * MINUTE);
    const gaps = world.gaps.map((gap) => gap - after - LATENCY);
    if (code === 1012) assert.ok(gaps[0] >= 100 && gaps[0] <= 500, name); // as it was told
    else if (code === 4401) assert.equal(gaps[0], 0, name); // once
    else assert.equal(gaps[0], 1000, name);
    assert.deepEqual(gaps.slice(1, 5), [2000, 4000, 8000, 16000], name);
    assert.deepEqual([...new Set(gaps.slice(5))], [30000], name);
    assert.ok(world.sockets.length <= 25, `${name}: ${world.sockets.length} in ten minutes`);
    assert.equal(client.state === 'suspended' || client.isConnected(), true, name);
    world.server = 'up';
    await world.clock.advance(31 * SECOND);
    assert.equal(client.isConnected(), true, name);
    await world.clock.advance(MINUTE);
    world.last.end(1011);
    assert.deepEqual(world.told('reconnecting').at(-1).delay, 1000, `${name}: anew`);
    client.stopPresence();
  }
  const world = new World(greeting(1011));
  const client = await world.client({ giveUp: true });
  client.startPresence('alice');
  await world.clock.advance(MINUTE);
  assert.deepEqual([client.state, world.sockets.length], ['stopped', 6]);
});

test('at random: whatever a server does, no stretch of unstable connections is tried fast', async () => {
  let seed = 11;
  const random = (below) => {
    seed = (seed * 48271) % 2147483647;
    return seed % below;
  };
  for (let round = 0; round < 40; round++) {
    const trial = []; // of each socket: when it was made, and whether it stood long enough
    const world = new World((socket, { clock }) => {
      const mine = { began: clock.ms, stable: false };
      trial.push(mine);
      const dice = random(6);
      const code = [1000, 1006, 1009, 1011, 1013, 4400, 4408, 4429][random(8)];
      if (dice === 0) return; // nothing at all
      socket.later(() => {
        if (dice === 1) {
          socket.end(1006);
          return;
        }
        socket.hello();
        if (dice === 2) socket.end(code);
        else {
          const stands = random(dice === 3 ? 60000 : 9000);
          mine.stable = stands >= 10000;
          clock.add(() => socket.end(code), stands, false);
        }
      });
    });
    const client = await world.client({ random: () => random(100) / 100 });
    client.startPresence('alice');
    await world.clock.advance(20 * MINUTE);
    let unstable = 0;
    for (let i = 1; i < trial.length; i++) {
      unstable = trial[i - 1].stable ? 1 : unstable + 1;
      const least = unstable > 5 ? 30000 : 1000 * 2 ** (unstable - 1);
      const gap = trial[i].began - trial[i - 1].began;
      assert.ok(gap >= least, `round ${round}: ${gap} ms before try ${unstable}`);
    }
    assert.ok(trial.length > 10, `${trial.length}: it went on`);
    client.stopPresence();
    assert.deepEqual([world.clock.pending, world.live.length], [0, 0]);
  }
});

test('retry_after of a 1012 close is honoured to the ms, and nothing jumps it', async () => {
  const world = new World(closing({ code: 1012, reason: 'retry_after=7321', hello: true }));
  const client = await world.client({ random: () => 1 });
  client.startPresence('alice');
  await world.clock.advance(2 * LATENCY);
  assert.deepEqual(world.told('reconnecting'), [{ attempt: 1, delay: 7321, maxAttempts: 5 }]);
  await world.clock.advance(2 * SECOND);
  world.page.send('online');
  world.page.show(false);
  world.page.show(true);
  world.page.send('pageshow', { persisted: true });
  client.startPresence('alice');
  await world.clock.advance(5 * SECOND);
  assert.equal(world.sockets.length, 1);
  await world.clock.advance(SECOND);
  assert.deepEqual(world.gaps, [7321 + LATENCY]);
  assert.equal(client.isConnected(), true);
});

test('a retry_after that cannot be is the ordinary delay; a huge one is an hour', async () => {
  const rows = [
    ['', 1000],
    ['retry_after=', 1000],
    ['retry_after=-5', 1000],
    ['retry_after=x', 1000],
    ['retry_after=1.5', 1000],
    ['retry_after=99999999999', 3600000],
    ['retry_after=500', 500],
  ];
  for (const [reason, delay] of rows) {
    const world = new World(closing({ code: 1012, reason, hello: true }));
    const client = await world.client();
    client.startPresence('alice');
    await world.clock.advance(2 * LATENCY);
    assert.equal(world.told('reconnecting')[0].delay, delay, reason);
    client.stopPresence();
  }
  const loop = new World((socket) => socket.later(() => socket.end(1012, 'retry_after=0')));
  const looping = await loop.client();
  looping.startPresence('alice');
  await loop.clock.advance(10 * SECOND);
  assert.ok(loop.sockets.length <= 101, `${loop.sockets.length}, not a tight loop`);
  looping.stopPresence();
  const other = new World(closing({ code: 1013, reason: 'retry_after=500', hello: true }));
  const client = await other.client();
  client.startPresence('alice');
  await other.clock.advance(2 * LATENCY);
  assert.equal(other.told('reconnecting')[0].delay, 1000, 'only 1012 says when');
});

test('C02 two hours down, onLine stuck false: it comes back', async (t) => {
  const had = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
  Object.defineProperty(globalThis, 'navigator', { configurable: true, value: { onLine: false } });
  t.after(() =>
    had ? Object.defineProperty(globalThis, 'navigator', had) : delete globalThis.navigator,
  );
  const world = new World();
  const client = await world.connected();
  world.server = 'refuse';
  world.last.end(1006);
  world.page.send('offline');
  await world.clock.advance(120 * MINUTE);
  assert.equal(client.state, 'suspended');
  assert.ok(world.sockets.length > 220, `${world.sockets.length} tries`);
  world.server = 'up';
  await world.clock.advance(31 * SECOND);
  assert.equal(client.state, 'connected');
});

for (const state of ['reconnecting', 'suspended']) {
  test(`C02 ${state}: a try at once on visible, online, pageshow and resume`, async () => {
    const wakes = {
      online: (page) => page.send('online'),
      pageshow: (page) => page.send('pageshow', { persisted: true }),
      visible: (page) => page.show(true),
      resume: (page) => page.send('resume'),
    };
    for (const [name, wake] of Object.entries(wakes)) {
      const world = new World('refuse');
      const client = await world.client({ maxReconnectAttempts: state === 'suspended' ? 0 : 5 });
      world.page.visibilityState = name === 'visible' ? 'hidden' : 'visible';
      client.startPresence('alice');
      await world.clock.advance(10 * SECOND);
      assert.equal(client.state, state);
      const { length } = world.sockets;
      world.server = 'up';
      wake(world.page);
      await settle();
      assert.equal(world.sockets.length, length + 1, name);
      await world.clock.advance(2 * LATENCY);
      assert.equal(client.isConnected(), true, name);
    }
  });
}

test('a page that wakes up again and again: a try a second at most, none used up', async () => {
  const world = new World('refuse');
  const client = await world.client({ giveUp: true });
  client.startPresence('alice');
  await world.clock.advance(SECOND / 2); // the first try has failed, the next is in half a second
  const before = world.sockets.length;
  await world.clock.advance(3 * SECOND); // two more; waiting 4 s for the next
  const tried = world.sockets.length;
  assert.deepEqual([before, tried], [1, 3]);
  for (let i = 0; i < 300; i++) {
    world.page.send('online');
    await world.clock.advance(10);
  }
  assert.ok(world.sockets.length - tried <= 4, `${world.sockets.length - tried} tries in 3 s`);
  assert.ok(world.sockets.length - tried >= 3);
  assert.equal(client.state, 'reconnecting');
  assert.equal(client.getSnapshot().attempt, 3);
});

test('waking up never makes a try later than it was, nor does it use up an attempt', async () => {
  const world = new World(closing({ code: 1012, reason: 'retry_after=500', hello: true }));
  const client = await world.client();
  client.startPresence('alice');
  await world.clock.advance(100);
  world.page.send('online'); // the last try was just now, and half a second was asked for
  await world.clock.advance(SECOND);
  assert.deepEqual(world.gaps, [500 + LATENCY]);

  world.server = 'refuse';
  world.last.end(1006);
  await world.clock.advance(5 * SECOND); // tries after 1 and 3 s; the next after 7 s
  assert.equal(client.getSnapshot().attempt, 3);
  const { length } = world.sockets;
  world.page.send('online');
  await world.clock.advance(LATENCY);
  assert.equal(world.sockets.length, length + 1);
  assert.deepEqual(world.log.at(-1), ['reconnecting', { attempt: 3, delay: 4000, maxAttempts: 5 }]);
});

test('a hidden page that is resumed tries at once, and stays away', async () => {
  const world = new World('refuse');
  world.page.visibilityState = 'hidden';
  const client = await world.client({ awayAfter: 1000, maxReconnectAttempts: 0 });
  client.startPresence('alice');
  await world.clock.advance(10 * SECOND);
  world.server = 'up';
  world.page.send('resume');
  await world.clock.advance(2 * LATENCY);
  assert.equal(client.isConnected(), true);
  assert.deepEqual(
    [client.getSnapshot().status, world.last.sent],
    ['away', ['{"type":"status","status":"away"}']],
  );
});

// ---- Tokens ------------------------------------------------------------------------------------

test('a token goes into the subprotocols; every try asks for it', async () => {
  const world = new World('refuse');
  const { getToken, asked } = giver('t1', 't2');
  const client = await world.client({ getToken });
  client.startPresence('alice');
  await world.clock.advance(1500);
  assert.deepEqual(
    world.sockets.map((one) => one.protocols),
    [
      ['presence.v1', 'token.t1'],
      ['presence.v1', 'token.t2'],
    ],
  );
  assert.deepEqual(asked, ['alice', 'alice']);
  assert.doesNotMatch(world.last.url, /t1|t2|token/);
});

test('getToken may give a plain value, or nothing', async () => {
  for (const [given, protocols] of [
    ['abc', ['presence.v1', 'token.abc']],
    [null, ['presence.v1']],
    [undefined, ['presence.v1']],
    ['', ['presence.v1']],
  ]) {
    const world = new World();
    const client = await world.client({ getToken: () => given });
    client.startPresence('alice');
    await world.clock.advance(SECOND);
    assert.deepEqual(world.last.protocols, protocols);
    assert.equal(client.isConnected(), true);
  }
});

test('P09 4401 of a live connection: the token is asked for again, and used at once', async () => {
  const world = new World(
    closing({ code: 4401, reason: 'token_expired', hello: true, after: 5000 }),
  );
  const { getToken } = giver('old', 'new');
  const client = await world.client({ getToken });
  client.startPresence('alice');
  await world.clock.advance(5 * SECOND + 4 * LATENCY);
  assert.deepEqual(
    world.sockets.map((one) => one.protocols[1]),
    ['token.old', 'token.new'],
  );
  assert.deepEqual(world.gaps, [5 * SECOND + LATENCY]);
  assert.equal(client.isConnected(), true);
  assert.deepEqual(world.log.slice(1), [
    ['disconnected', { code: 4401, reason: 'token_expired', willReconnect: true }],
    ['error', { code: 'token_expired', message: 'the server closed with 4401', final: false }],
    ['reconnecting', { attempt: 1, delay: 0, maxAttempts: 5 }],
    ['connected', { userId: 'alice', connectionId: 'c1', server: 'presence/9' }],
  ]);
});

test('P09 a token that was refused is never sent again; a new one is', async () => {
  const refuse = { code: 4401, reason: 'token_invalid' };
  const world = new World(closing(refuse));
  let token = 'dead';
  const client = await world.client({ getToken: () => token });
  client.startPresence('alice');
  await world.clock.advance(5 * MINUTE);
  assert.equal(world.sockets.length, 1);
  assert.equal(client.state, 'suspended');
  assert.ok(world.told('error').filter((one) => one.code === 'token_unchanged').length > 5);
  token = 'alive';
  await world.clock.advance(31 * SECOND);
  assert.equal(client.isConnected(), true);
  assert.deepEqual(
    world.sockets.map((one) => one.protocols[1]),
    ['token.dead', 'token.alive'],
  );
});

test('tokens that are good for no time at all are not asked for in a tight loop', async () => {
  const world = new World((socket) =>
    socket.later(() => {
      socket.hello();
      socket.end(4401, 'token_expired');
    }),
  );
  let count = 0;
  const client = await world.client({ getToken: () => `t${count++}` });
  client.startPresence('alice');
  await world.clock.advance(MINUTE);
  assert.equal(count, 6, 'after 1, 2, 4, 8, 16 s');
});

test('renewToken: a new token on a new socket at once, the old one left as a page is', async () => {
  const world = new World();
  let count = 0;
  const client = await world.connected({ getToken: () => `t${count++}` });
  client.watch('bob', () => {});
  await world.clock.advance(SECOND);
  client.renewToken();
  client.renewToken();
  await world.clock.advance(4 * LATENCY);
  assert.deepEqual(world.sockets.map((one) => one.protocols[1]), ['token.t0', 'token.t1']);
  assert.equal(world.sockets[0].closed.code, 4001, 'no offline: it comes back within the grace time');
  assert.equal(client.isConnected(), true);
  assert.ok(world.last.sent.some((text) => text.includes('"watch"')), 'followed anew');
  assert.deepEqual(world.told('error'), []);
  world.last.end(1006);
  await world.clock.advance(LATENCY);
  client.renewToken();
  client.stopPresence();
  client.renewToken();
  await world.clock.advance(MINUTE);
  assert.deepEqual([world.sockets.length, client.state], [2, 'stopped'], 'nothing to renew while not connected');
});

test('the next token is asked for a tenth of its life before it ends, two minutes at most; without one nothing happens', async () => {
  const rows = [[100, 90, 94], [3600, 3480, 3528], [86400 * 60, 0x7fffffff / 1000 - 1, 0x7fffffff / 1000 + 1]];
  for (const [life, earliest, latest] of rows) {
    const world = new World();
    world.greeting = { expires_seconds: life };
    let count = 0;
    const client = await world.connected({ getToken: () => `t${count++}` });
    const began = world.clock.ms;
    await world.clock.advance(earliest * SECOND - 100);
    assert.equal(count, 1, `${life} s: too early`);
    await world.clock.advance((latest - earliest) * SECOND + 200);
    assert.deepEqual(world.sockets.map((one) => one.protocols[1]), ['token.t0', 'token.t1'], `${life} s`);
    assert.ok(world.last.began - began <= latest * SECOND + 100);
    assert.deepEqual([client.isConnected(), world.sockets[0].closed.code, world.told('error').length], [true, 4001, 0]);
    client.stopPresence();
    assert.equal(world.clock.pending, 0);
  }
  const answers = [() => 't', () => '', () => null, () => { throw new Error('broken'); }, () => Promise.reject(new Error('broken')), () => 42,
    () => '<html>'];
  for (const answer of answers) { // the connection stays
    const world = new World();
    world.greeting = { expires_seconds: 100 };
    let getToken = () => 't';
    const client = await world.connected({ getToken: () => getToken() });
    getToken = answer;
    await world.clock.advance(99 * SECOND);
    assert.deepEqual([world.sockets.length, client.isConnected()], [1, true], String(answer));
    assert.equal(world.told('error').length, /broken|42|html/.test(answer) ? 1 : 0, String(answer));
  }
  for (const expires_seconds of [0, 1, -5, '100', null, NaN, Infinity]) {
    const world = new World();
    world.greeting = { expires_seconds };
    let count = 0;
    await world.connected({ getToken: () => `t${count++}` });
    await world.clock.advance(60 * MINUTE);
    assert.equal(count, 1, `${expires_seconds}`);
  }
  const world = new World(); // a slow answer for a connection that is gone, and for another user
  world.greeting = { expires_seconds: 100 };
  const late = [];
  const client = await world.connected({ getToken: (id) => (late.push(id) === 1 ? 't0' : new Promise((resolve) => { late.resolve = resolve; })) });
  await world.clock.advance(95 * SECOND);
  const { resolve } = late;
  client.configure({ getToken: (id) => `for ${id}`.replace(' ', '.') });
  client.startPresence('bob');
  resolve('late');
  await world.clock.advance(SECOND);
  assert.deepEqual([world.last.protocols[1], client.getCurrentUserId()], ['token.for.bob', 'bob']);
});

test("a renewed token that waits for its try is not the next user's", async () => {
  const world = new World();
  let count = 0;
  const client = await world.connected({ getToken: (id) => `${id}${count++}` });
  client.renewToken();
  await world.clock.advance(3 * LATENCY);
  assert.equal(client.isConnected(), true);
  client.renewToken(); // so soon it has to wait
  await world.clock.advance(LATENCY);
  assert.deepEqual([client.state, count], ['reconnecting', 3]);
  client.startPresence('bob');
  await world.clock.advance(SECOND);
  assert.equal(world.last.protocols[1], 'token.bob3');
});

test('what a refusal says behind its code is the message of the error', async () => {
  const why = "the token's exp has passed: get a new one";
  const rows = [
    [4401, `token_expired: ${why}`, { code: 'token_expired', message: why, final: false }],
    [4401, 'token_invalid: a: b', { code: 'token_invalid', message: 'a: b', final: false }],
    [4401, 'token_invalid', { code: 'token_invalid', message: 'the server closed with 4401', final: false }],
    [4401, '', { code: 'closed_4401', message: 'the server closed with 4401', final: false }],
    [4403, `forbidden: ${why}`, { code: 'forbidden', message: why, final: true }],
    [4403, '', { code: 'forbidden', message: 'the server does not want this user here', final: true }],
    [4429, 'too_fast', { code: 'too_fast', message: 'the server closed with 4429', final: false }],
  ];
  for (const [code, reason, error] of rows) {
    const world = new World(closing({ code, reason, hello: true, after: 2000 }));
    const client = await world.client({ getToken: () => 't', debug: () => {} });
    client.startPresence('alice');
    await world.clock.advance(2 * SECOND + 3 * LATENCY);
    assert.deepEqual(world.told('error')[0], error);
    assert.equal(world.told('disconnected')[0].reason, reason);
  }
});

test('what a newcomer has to mend is on the console, once', async (t) => {
  const said = [];
  const { warn } = console;
  console.warn = (text) => said.push(text);
  t.after(() => { console.warn = warn; });
  /** What is said in a minute in which the server does this. */
  const hear = async (server, options, page) => {
    said.length = 0;
    const world = new World(server);
    if (page) world.page.location = page;
    const client = await world.client(options);
    client.startPresence('alice');
    await world.clock.advance(MINUTE);
    client.stopPresence();
    return said.map((text) => text.replace(/^\[presence\] /, ''));
  };
  const refuse = (reason) => closing({ code: 4401, reason }, { code: 4401, reason }, { code: 4401, reason });
  const missing = refuse('token_missing: there is no token');
  const apiUrl = 'https://presence.example.com/p';
  let count = 0;
  const getToken = () => `t${count++}`;
  assert.deepEqual(await hear(missing, {}), ["the server wants a token: configure({ getToken: async (userId) => (await fetch('/presence-token', { method: 'POST' })).text() })"]);
  assert.deepEqual(await hear(missing, { getToken: () => '' }), ['the server wants a token, and getToken gave none']);
  assert.deepEqual(await hear(refuse('token_invalid: its signature is wrong'), { getToken }), ['the server refused what getToken gave: its signature is wrong']);
  assert.deepEqual(await hear(closing({ code: 4401, reason: 'token_expired: x', hello: true, after: 2000 }), { getToken }), [], 'it ran out: nothing is wrong');
  const unseen = (socket) => socket.later(() => {
    socket.hello();
    for (const id of ['bob', 'carol']) socket.later(() => socket.message(JSON.stringify({ type: 'error', code: 'forbidden', message: 'no', users: [id] })), 1000);
  });
  said.length = 0;
  const world = new World(unseen);
  const client = await world.client({});
  client.watch(['bob', 'carol'], () => {});
  client.startPresence('alice');
  await world.clock.advance(MINUTE);
  client.stopPresence();
  assert.deepEqual(said, ['[presence] the token does not let this page see all whom it watches: its claim watch names them, or is "*"; see renewToken()']);
  assert.deepEqual(await hear('refuse', { apiUrl }), ['no WebSocket at wss://presence.example.com: is the server up? For this page it has to be started with --allow-origin https://app.example.com']);
  assert.deepEqual(await hear('refuse', {}), ['no WebSocket at wss://app.example.com: is the server up?']);
  assert.deepEqual(await hear('refuse', { apiUrl }, { origin: 'null', href: 'file:///x' }), ['no WebSocket at wss://presence.example.com: is the server up? It takes no page of a file: have a web server give this one']);
  assert.deepEqual(await hear('refuse', { apiUrl, window: {} }), ['no WebSocket at wss://presence.example.com: is the server up?'], 'in node');
  assert.deepEqual(await hear(closing({ hello: true, after: 2000, code: 1006 }, { code: 1006 }), { apiUrl }), [], 'it worked before: an outage');
  const steps = [];
  assert.deepEqual(await hear('refuse', { apiUrl, debug: (step) => steps.push(step) }), [], 'debug gets it');
  assert.equal(steps.filter((one) => one.startsWith('no WebSocket at ')).length, 1);
});

test('4401 without a getToken is tried again like any loss', async () => {
  const world = new World(closing({ code: 4401, reason: 'token_missing' }));
  const client = await world.client();
  client.startPresence('alice');
  await world.clock.advance(SECOND / 2);
  assert.equal(client.state, 'reconnecting');
  await world.clock.advance(SECOND);
  assert.equal(client.isConnected(), true);
});

test('getToken that throws, rejects or never answers is a failed try', async () => {
  const rows = [
    () => {
      throw new Error('broken');
    },
    async () => {
      throw new Error('broken');
    },
    () => Promise.reject('broken'),
  ];
  for (const getToken of rows) {
    const world = new World();
    const client = await world.client({ getToken });
    client.startPresence('alice');
    await world.clock.advance(SECOND / 2);
    assert.deepEqual(world.log, [
      ['error', { code: 'token_failed', message: 'getToken: broken', final: false }],
      ['reconnecting', { attempt: 1, delay: 1000, maxAttempts: 5 }],
    ]);
    client.configure({ getToken: () => 'fine' });
    await world.clock.advance(SECOND);
    assert.equal(client.isConnected(), true);
  }
  const world = new World();
  const answers = [];
  const getToken = () => new Promise((resolve) => answers.push(resolve));
  const client = await world.client({ getToken });
  client.startPresence('alice');
  await world.clock.advance(10 * SECOND);
  assert.deepEqual([client.state, client.lastClose.reason], ['reconnecting', 'no hello in time']);
  answers[0]('late'); // of a try that is over
  await world.clock.advance(SECOND);
  assert.deepEqual([world.sockets.length, answers.length], [0, 2]);
  answers[1]('in time');
  await world.clock.advance(SECOND);
  assert.deepEqual(
    world.sockets.map((one) => one.protocols[1]),
    ['token.in time'].slice(1),
  );
  assert.equal(world.told('error').at(-1).code, 'token_failed'); // it had a blank
});

test('a getToken that answers after stop opens nothing', async () => {
  const world = new World();
  let answer;
  const client = await world.client({
    getToken: () =>
      new Promise((resolve) => {
        answer = resolve;
      }),
  });
  client.startPresence('alice');
  client.stopPresence();
  answer('t');
  await world.clock.advance(MINUTE);
  assert.equal(world.sockets.length, 0);
});

test('4403 is final', async () => {
  for (const hello of [true, false]) {
    const world = new World(closing({ code: 4403, reason: 'kicked', hello }));
    const client = await world.client({ getToken: () => 't' });
    client.startPresence('alice');
    await world.clock.advance(2 * LATENCY);
    assert.equal(client.state, 'stopped');
    assert.deepEqual(world.log.slice(hello ? 1 : 0), [
      ['disconnected', { code: 4403, reason: 'kicked', willReconnect: false }],
      [
        'error',
        { code: 'kicked', message: 'the server does not want this user here', final: true },
      ],
    ]);
    assert.deepEqual(client.lastClose, { code: 4403, reason: 'kicked', wasClean: true });
    assert.equal(client.getCurrentUserId(), null);
    world.page.send('online');
    world.page.show(true);
    await world.clock.advance(10 * MINUTE);
    assert.deepEqual([world.sockets.length, world.clock.pending, world.page.listening], [1, 0, 0]);
  }
});

test("other closes: tried again, and told when it is the application's doing", async () => {
  const rows = [
    [1000, '', null],
    [1001, '', null],
    [1006, '', null],
    [1011, '', null],
    [1013, 'overloaded', null],
    [4408, 'heartbeat_timeout', null],
    [4429, 'too_many_connections', 'too_many_connections'],
    [4400, '', 'closed_4400'],
  ];
  for (const [code, reason, error] of rows) {
    const world = new World(closing({ code, reason, hello: true }));
    const client = await world.client();
    client.startPresence('alice');
    await world.clock.advance(2 * LATENCY);
    assert.equal(client.state, 'reconnecting', String(code));
    assert.deepEqual(
      world.told('error').map((one) => [one.code, one.final]),
      error ? [[error, false]] : [],
      String(code),
    );
    await world.clock.advance(2 * SECOND);
    assert.equal(client.isConnected(), true, String(code));
  }
});

test('an error message of the server is told, and changes nothing', async () => {
  const world = new World();
  const client = await world.connected();
  world.last.message('{"type":"error","code":"invalid_status","message":"a status is ..."}');
  assert.deepEqual(world.log, [
    ['error', { code: 'invalid_status', message: 'a status is ...', final: false }],
  ]);
  assert.equal(client.isConnected(), true);
});

test('messages that are not known, or are none, change nothing', async () => {
  const world = new World();
  const client = await world.connected();
  const odd = [
    '',
    'x',
    '{',
    'null',
    '1',
    '[]',
    '"hello"',
    '{}',
    '{"type":"snapshot","users":[]}',
    '{"type":"__proto__"}',
    '{"type":{}}',
    new ArrayBuffer(4),
    '{"type":"pong","time":"x"}',
  ];
  for (const data of odd) world.last.message(data);
  assert.deepEqual(world.log, []);
  assert.equal(client.isConnected(), true);
});

// ---- Following others --------------------------------------------------------------------------

const ONLINE = { online: true, status: 'online' };
const BUSY = { online: true, status: 'busy' };

/** A client of `alice`, connected to a server on which others can be followed. */
async function follower(options) {
  const server = followable(options);
  const world = new World(server);
  const client = await world.connected();
  return { server, world, client };
}

/** A watch that keeps what it was told: `log` as 'bob busy' or 'bob busy stale'. */
function watching(client, ids) {
  const log = [];
  const errors = [];
  const end = client.watch(
    ids,
    ({ user_id: id, status, stale }) => log.push(`${id} ${status}${stale ? ' stale' : ''}`),
    (error) => errors.push(error),
  );
  return { log, errors, end };
}

/** What a socket was asked about others: [type, ids]. */
const asked = (socket) =>
  socket.sent
    .filter((text) => /"(un)?watch"/.test(text))
    .map((text) => JSON.parse(text))
    .map(({ type, users }) => [type, users]);

describe('following', () => {
  test('the snapshot, then changes; a user is as the server says, and not stale', async () => {
    const { server, world, client } = await follower();
    server.set([['bob', { ...BUSY, message: 'in a meeting' }]]);
    const users = [];
    client.watch('bob', (user) => users.push(user));
    assert.equal(client.getUser('bob'), null);
    await world.clock.advance(SECOND);
    const first = { user_id: 'bob', ...BUSY, message: 'in a meeting', stale: false };
    assert.deepEqual(users, [first]);
    assert.equal(client.getUser('bob'), users[0]);
    server.set([['bob', { online: false, status: 'offline', reason: 'closed' }]]);
    await settle();
    assert.deepEqual(users, [
      first,
      { user_id: 'bob', online: false, status: 'offline', reason: 'closed', stale: false },
    ]);
    assert.equal(client.getUser('bob'), users[1]);
    assert.ok(Object.isFrozen(users[1]));
    assert.deepEqual(asked(world.last), [['watch', ['bob']]]);
    assert.equal(client.getUser('carol'), null);
  });

  test('a snapshot in parts is the answer when its last part is there', async () => {
    const { server, world, client } = await follower({ hold: true });
    const { log } = watching(client, ['bob', 'carol', 'dave']);
    await world.clock.advance(SECOND);
    const part = (id, more) =>
      world.last.message(JSON.stringify({ type: 'snapshot', users: [{ user_id: id, ...BUSY }], ...more }));
    part('bob', { more: true });
    part('carol', { more: true });
    client.watch('erin', () => {});
    await world.clock.advance(2 * SECOND);
    assert.deepEqual(log, ['bob busy', 'carol busy'], 'each part is known as it comes');
    assert.deepEqual(asked(world.last), [['watch', ['bob', 'carol', 'dave']]], 'one is under way');
    server.hold = false;
    part('dave', {});
    await world.clock.advance(2 * SECOND);
    assert.deepEqual(log.slice(2, 3), ['dave busy']);
    assert.deepEqual(asked(world.last).slice(1), [['watch', ['erin']]]);
  });

  test('before startPresence: it begins with the hello, in the first message', async () => {
    const server = followable();
    const world = new World(server);
    const client = await world.client();
    const { log } = watching(client, ['bob', 'carol', 'bob']);
    await world.clock.advance(SECOND);
    client.startPresence('alice');
    await world.clock.advance(3 * LATENCY);
    assert.deepEqual(log, ['bob offline', 'carol offline']);
    assert.deepEqual(world.last.sent, ['{"type":"watch","users":["bob","carol"]}']);
  });

  test('watches of one id share it; the later one is told at once, in a microtask', async () => {
    const { server, world, client } = await follower();
    server.set([['bob', ONLINE]]);
    const first = watching(client, 'bob');
    const second = watching(client, ['bob', 'carol']);
    await world.clock.advance(SECOND);
    assert.deepEqual(asked(world.last), [['watch', ['bob', 'carol']]]);
    const third = watching(client, new Set(['bob']));
    assert.deepEqual(third.log, []);
    await Promise.resolve();
    assert.deepEqual(third.log, ['bob online']);
    server.set([['bob', BUSY]]);
    await settle();
    assert.deepEqual(first.log, ['bob online', 'bob busy']);
    assert.deepEqual(second.log, ['bob online', 'carol offline', 'bob busy']);
    assert.deepEqual(third.log, ['bob online', 'bob busy']);
    await world.clock.advance(SECOND);
    assert.equal(asked(world.last).length, 1);
  });

  test('whom nobody watches any more is unwatched, and not before', async () => {
    const { server, world, client } = await follower();
    const first = watching(client, ['bob', 'carol']);
    const second = watching(client, 'bob');
    await world.clock.advance(SECOND);
    first.end();
    assert.equal(client.getUser('carol'), null);
    assert.equal(client.getUser('bob').status, 'offline');
    await world.clock.advance(SECOND);
    server.set([['bob', ONLINE]]);
    await settle();
    assert.deepEqual(asked(world.last).slice(1), [['unwatch', ['carol']]]);
    assert.deepEqual(first.log, ['bob offline', 'carol offline']);
    assert.deepEqual(second.log, ['bob offline', 'bob online']);
    second.end();
    second.end();
    await world.clock.advance(SECOND);
    assert.deepEqual(asked(world.last).slice(2), [['unwatch', ['bob']]]);
    world.last.message('{"type":"presence","users":[{"user_id":"bob","status":"busy"}]}');
    await settle();
    assert.equal(client.getUser('bob'), null);
    assert.equal(second.log.length, 2);
    assert.equal(world.clock.pending, 1, 'the heartbeat');
  });

  test('a watch that ends and begins again in one go asks nothing, and knows', async () => {
    const { server, world, client } = await follower();
    server.set([['bob', ONLINE]]);
    const first = watching(client, 'bob');
    await world.clock.advance(SECOND);
    first.end();
    const second = watching(client, 'bob');
    await world.clock.advance(SECOND);
    assert.deepEqual(second.log, ['bob online']);
    assert.equal(asked(world.last).length, 1);
    assert.deepEqual([...world.last.follows], ['bob']);
    second.end();
    await world.clock.advance(1); // the unwatch is sent
    const third = watching(client, 'bob');
    world.last.message('{"type":"presence","users":[{"user_id":"bob","status":"away"}]}');
    await settle();
    assert.deepEqual(third.log, [], 'the snapshot comes first');
    await world.clock.advance(SECOND);
    assert.deepEqual(third.log, ['bob online']);
    assert.deepEqual([...world.last.follows], ['bob']);
  });

  test('ended before the answer: nobody is told, and the server lets go', async () => {
    const { server, world, client } = await follower({ hold: true });
    const { log, end } = watching(client, 'bob');
    await world.clock.advance(SECOND);
    end();
    await world.clock.advance(SECOND);
    server.release();
    await world.clock.advance(SECOND);
    assert.deepEqual(log, []);
    assert.deepEqual([...world.last.follows], []);
  });

  test('a loss marks stale, once; the snapshot after the reconnect counts', async () => {
    const { server, world, client } = await follower();
    server.set([['bob', ONLINE], ['carol', BUSY]]);
    const { log } = watching(client, ['bob', 'carol']);
    await world.clock.advance(SECOND);
    log.length = 0;
    world.server = 'refuse';
    world.last.end(1006);
    await world.clock.advance(10 * SECOND); // some tries come to nothing
    assert.deepEqual(log, ['bob online stale', 'carol busy stale']);
    assert.deepEqual(client.getUser('bob'), { user_id: 'bob', ...ONLINE, stale: true });
    const late = watching(client, 'bob');
    await settle();
    assert.deepEqual(late.log, ['bob online stale']);
    log.length = 0;
    server.socket = null;
    server.set([['bob', { online: false, status: 'offline' }]]); // meanwhile
    world.server = server;
    await world.clock.advance(30 * SECOND);
    assert.equal(client.isConnected(), true);
    assert.deepEqual(log, ['bob offline', 'carol busy']);
    assert.deepEqual(late.log, ['bob online stale', 'bob offline']);
    assert.deepEqual(asked(world.last), [['watch', ['bob', 'carol']]]);
    assert.equal(client.getUser('carol').stale, false);
  });

  test('a loss right behind messages leaves one timer, that of the next try', async () => {
    const { world, client } = await follower();
    for (let i = 0; i < 10; i++) {
      watching(client, `u${i}`);
      await world.clock.advance(2 * LATENCY);
    }
    for (let i = 0; i < 20; i++) watching(client, `v${i}`);
    client.setStatus('busy', { manual: true });
    for (let i = 0; i < 20; i++) {
      watching(client, `w${i}`);
      await world.clock.advance(2 * LATENCY);
    }
    assert.equal(world.clock.pending, 3, 'the heartbeat and two pauses');
    world.last.end(1006);
    assert.equal(world.clock.pending, 1);
  });

  test('until the snapshot is there, what is known stays stale', async () => {
    const { server, world, client } = await follower();
    const { log } = watching(client, 'bob');
    await world.clock.advance(SECOND);
    server.hold = true;
    world.last.end(1006);
    await world.clock.advance(5 * SECOND);
    assert.equal(client.isConnected(), true);
    assert.equal(client.getUser('bob').stale, true);
    server.release();
    await settle();
    assert.deepEqual(log, ['bob offline', 'bob offline stale', 'bob offline']);
  });

  test('a watch that was not answered is asked for again after a reconnect', async () => {
    const { server, world, client } = await follower({ hold: true });
    const { log, errors } = watching(client, 'bob');
    await world.clock.advance(SECOND);
    server.hold = false;
    world.last.end(1006);
    await world.clock.advance(5 * SECOND);
    assert.deepEqual([log, errors], [['bob offline'], []]);
  });

  test('1,000 ids: messages below the limit, paced, and all of them again', async () => {
    const { world, client } = await follower();
    const ids = Array.from({ length: 1000 }, (_, i) => `user-${i}-\u{1f600}"\\`);
    const { log, errors } = watching(client, ids);
    const check = async () => {
      const began = world.clock.ms;
      while (world.last.follows?.size !== 1000 && world.clock.ms < began + 30 * SECOND) {
        await world.clock.advance(10);
      }
      const sent = asked(world.last);
      assert.deepEqual(sent.flatMap(([, users]) => users), ids);
      const sizes = world.last.sent.map((text) => Buffer.byteLength(text));
      assert.ok(Math.max(...sizes) < 3500, `${Math.max(...sizes)} bytes`);
      assert.ok(sent.length <= 9, `${sent.length} messages`);
    };
    await check();
    assert.equal(log.length, 1000);
    assert.deepEqual(world.clock.asked.filter((ms) => ms < SECOND), [], 'no timer to wait for');
    world.last.end(1006);
    await world.clock.advance(2 * SECOND);
    await check();
    await settle();
    assert.equal(log.length, 3000);
    assert.deepEqual([errors, world.told('error')], [[], []]);
    assert.ok(ids.every((id) => client.getUser(id).stale === false));
  });

  test('many components, each with its own watch, are one message; pace holds', async () => {
    const { world, client } = await follower();
    const ends = [];
    for (let i = 0; i < 100; i++) ends.push(watching(client, `user-${i}`).end);
    await world.clock.advance(10);
    assert.deepEqual(asked(world.last).map(([type, users]) => [type, users.length]), [
      ['watch', 100],
    ]);
    for (let i = 0; i < 300; i++) { // one comes and one goes, every 10 ms; and so does the status
      ends.shift()();
      ends.push(watching(client, `user-${100 + i}`).end);
      client.setStatus(i % 2 ? 'busy' : 'away');
      client.setStatus(i % 2 ? 'busy' : 'away', { manual: true });
      await world.clock.advance(10);
    }
    await world.clock.advance(2 * SECOND);
    assert.equal(world.sockets.length, 1, 'never too fast');
    const left = Array.from({ length: 100 }, (_, i) => `user-${300 + i}`);
    assert.deepEqual([...world.last.follows], left);
  });

  test('forbidden: only who is meant; the others are followed', async () => {
    const { server, world, client } = await follower({ forbidden: ['u7', 'u8', 'u30'] });
    const ids = Array.from({ length: 40 }, (_, i) => `u${i}`);
    const { log, errors } = watching(client, ids);
    await world.clock.advance(10 * SECOND);
    assert.equal(log.length, 37);
    assert.deepEqual(
      errors.map(({ userId }) => userId).sort(),
      ['u30', 'u7', 'u8'],
    );
    assert.deepEqual(errors[0], {
      code: 'forbidden', message: 'it is forbidden', userId: errors[0].userId,
    });
    assert.deepEqual(
      world.told('error'),
      Array(3).fill({ code: 'forbidden', message: 'it is forbidden', final: false }),
    );
    const { length } = world.last.sent;
    client.watch('u7', () => {}); // without onError
    const late = watching(client, ['u7', 'u9']);
    await world.clock.advance(10 * SECOND);
    assert.deepEqual([late.log, late.errors.map((one) => one.userId)], [['u9 offline'], ['u7']]);
    assert.equal(world.last.sent.length, length, 'it was not asked for again');
    late.end();
    const again = watching(client, 'u7');
    await world.clock.advance(SECOND);
    assert.equal(again.errors.length, 1);
    assert.equal(world.last.sent.length, length, 'there is another watch of it');
    again.end();
    late.log.length = late.errors.length = 0;
    server.forbidden = ['u8', 'u9']; // by another token
    world.last.end(1006);
    await world.clock.advance(2 * LATENCY);
    assert.equal(world.clock.pending, 1, 'the next try');
    await world.clock.advance(10 * SECOND);
    assert.deepEqual(asked(world.last)[0], ['watch', ids]);
    assert.equal(client.getUser('u7').stale, false);
    assert.equal(client.getUser('u9'), null, 'what is not confirmed is not kept');
    assert.deepEqual(errors.slice(3).map(({ userId }) => userId).sort(), ['u8', 'u9']);
  });

  test('forbidden: those the server names are left out, the rest is asked for once more', async () => {
    const forbidden = Array.from({ length: 12 }, (_, i) => `u${3 * i}`);
    const { world, client } = await follower({ forbidden, names: 10 });
    const ids = Array.from({ length: 40 }, (_, i) => `u${i}`);
    const { log, errors } = watching(client, ids);
    await world.clock.advance(10 * SECOND);
    assert.equal(log.length, 28);
    assert.deepEqual(errors.map(({ userId }) => userId).sort(), [...forbidden].sort());
    const rest = (left) => ids.filter((id) => !left.includes(id));
    assert.deepEqual(asked(world.last), [
      ['watch', ids], ['watch', rest(forbidden.slice(0, 10))], ['watch', rest(forbidden)],
    ]);
    assert.deepEqual([...world.last.follows], rest(forbidden));
    assert.deepEqual(
      world.told('error'),
      Array(2).fill({ code: 'forbidden', message: 'it is forbidden', final: false }),
    );
  });

  test('forbidden: names that were not asked for, or are none, name nobody', async () => {
    const { world, client } = await follower({ hold: true });
    const { log, errors } = watching(client, ['a', 'b']);
    await world.clock.advance(SECOND);
    world.last.message(JSON.stringify({ type: 'error', code: 'forbidden', message: 'x', users: ['z', 7, null] }));
    await world.clock.advance(SECOND);
    assert.deepEqual(asked(world.last), [['watch', ['a', 'b']], ['watch', ['a']]]);
    assert.deepEqual([log, errors], [[], []]);
  });

  test('a refused id that nobody watches any more is forgotten', async () => {
    const { server, world, client } = await follower({ forbidden: ['bob'] });
    const first = watching(client, 'bob');
    await world.clock.advance(SECOND);
    assert.equal(first.errors.length, 1);
    first.end();
    await world.clock.advance(SECOND);
    assert.equal(asked(world.last).length, 1, 'there is nothing to unwatch');
    server.forbidden = [];
    const second = watching(client, 'bob');
    await world.clock.advance(SECOND);
    assert.deepEqual([second.errors, second.log], [[], ['bob offline']]);
  });

  test('too many: as many as may be are followed; room that comes is used', async () => {
    const { world, client } = await follower({ max: 10 });
    const first = watching(client, ['a', 'b', 'c', 'd', 'e', 'f', 'g']);
    await world.clock.advance(SECOND);
    const second = watching(client, ['a', 'h', 'i', 'j', 'k', 'l']);
    await world.clock.advance(5 * SECOND);
    assert.deepEqual(second.log, ['a offline', 'h offline', 'i offline', 'j offline']);
    assert.deepEqual(
      second.errors.map(({ code, userId }) => [code, userId]),
      [['too_many_watched', 'k'], ['too_many_watched', 'l']],
    );
    assert.deepEqual(world.told('error').map(({ code }) => code), ['too_many_watched']);
    const { length } = world.last.sent;
    await world.clock.advance(10 * SECOND);
    assert.equal(world.last.sent.length, length);
    first.end(); // a is still watched
    await world.clock.advance(5 * SECOND);
    assert.deepEqual(second.log.slice(4), ['k offline', 'l offline']);
    assert.deepEqual([...world.last.follows].sort(), ['a', 'h', 'i', 'j', 'k', 'l']);
    assert.equal(second.errors.length, 2);
    const third = watching(client, ['m', 'n', 'o', 'p', 'q', 'r']);
    await world.clock.advance(5 * SECOND);
    const refused = third.errors.map((one) => one.userId);
    assert.deepEqual(refused, ['q', 'r']);
    watching(client, ['m', 'n', 'o', 'p']).end();
    const other = watching(client, 's');
    await world.clock.advance(5 * SECOND);
    assert.deepEqual(other.errors.map((one) => one.userId), ['s']);
    second.end(); // five of its six
    watching(client, ['x', 'y', 'z']);
    await world.clock.advance(5 * SECOND);
    assert.equal(third.errors.length, 2, 'each is told once');
    assert.equal(world.last.follows.size, 10);
  });

  test('room for one: the others who wait are not refused again', async () => {
    const { world, client } = await follower({ max: 2 });
    const ends = ['a', 'b'].map((id) => watching(client, id).end);
    await world.clock.advance(SECOND);
    const { log, errors } = watching(client, ['c', 'd', 'e']);
    await world.clock.advance(5 * SECOND);
    assert.deepEqual([log, errors.length], [[], 3]);
    ends[0]();
    await world.clock.advance(5 * SECOND);
    assert.deepEqual([log, errors.length], [['c offline'], 3]);
    ends[1]();
    await world.clock.advance(5 * SECOND);
    assert.deepEqual([log, errors.length], [['c offline', 'd offline'], 3]);
  });

  test('who begins to watch while a refused id is asked for again is told too', async () => {
    const { server, world, client } = await follower({ max: 1 });
    const { end } = watching(client, 'a');
    await world.clock.advance(SECOND);
    const first = watching(client, ['b', 'c']);
    await world.clock.advance(SECOND);
    assert.equal(first.errors.length, 2);
    server.hold = true;
    end();
    await world.clock.advance(SECOND);
    const second = watching(client, 'c');
    await settle();
    assert.equal(second.errors.length, 0);
    server.hold = false;
    server.release();
    await world.clock.advance(SECOND);
    assert.deepEqual(first.log, ['b offline']);
    assert.deepEqual([first.errors.length, second.errors.length], [2, 1]);
  });

  test('too many by far does not make many messages', async () => {
    const { world, client } = await follower({ max: 100 });
    const first = watching(client, Array.from({ length: 50 }, (_, i) => `a${i}`));
    await world.clock.advance(SECOND);
    const { log, errors } = watching(client, Array.from({ length: 1950 }, (_, i) => `u${i}`));
    await world.clock.advance(20 * SECOND);
    assert.deepEqual([log.length, errors.length], [50, 1900]);
    assert.equal(new Set(errors.map((one) => one.userId)).size, 1900);
    const { length } = asked(world.last);
    assert.ok(length < 30, `${length} messages`);
    first.end();
    await world.clock.advance(20 * SECOND);
    assert.deepEqual([log.length, errors.length], [100, 1900]);
    const more = asked(world.last).length - length;
    assert.ok(more < 20, `${more} messages`);
  });

  test("other errors are not the watch's", async () => {
    const { server, world, client } = await follower({ hold: true });
    const { log, errors } = watching(client, 'bob');
    await world.clock.advance(SECOND);
    world.last.message('{"type":"error","code":"invalid_parameter","message":"x"}');
    assert.equal(world.told('error').length, 1);
    server.release();
    await settle();
    world.last.message('{"type":"error","code":"forbidden","message":"x"}'); // of nothing asked
    assert.deepEqual([log, errors], [['bob offline'], []]);
    assert.equal(world.told('error').length, 2);
  });

  test('ids such as __proto__ and constructor, .. and emoji are ordinary ids', async () => {
    const { server, world, client } = await follower();
    const ids = ['__proto__', 'constructor', 'toString', '..', '.', '\u{1f600}', 'a"b\\', '0'];
    for (const id of ids) assert.equal(client.getUser(id), null);
    server.set(ids.map((id) => [id, BUSY]));
    const { log } = watching(client, ids);
    await world.clock.advance(SECOND);
    assert.deepEqual(log, ids.map((id) => `${id} busy`));
    for (const id of ids) assert.equal(client.getUser(id).user_id, id);
    world.last.message('{"type":"presence","users":[{"user_id":"toString","__proto__":{"x":1}}]}');
    assert.equal({}.x, undefined);
    assert.equal(client.getUser('toString').x, undefined);
  });

  test('what cannot be is a TypeError, and watches nobody', async () => {
    const { world, client } = await follower();
    for (const ids of [undefined, null, 42, {}, [42], ['bob', ''], '', '\ud800', 'a\nb',
      'x'.repeat(129)]) {
      assert.throws(() => client.watch(ids, () => {}), TypeError, JSON.stringify(ids));
    }
    for (const callback of [undefined, null, 'x', {}]) {
      assert.throws(() => client.watch('bob', callback), { message: /needs a callback/ });
    }
    client.watch([], () => {})();
    await world.clock.advance(SECOND);
    assert.deepEqual(world.last.sent, []);
  });

  test('messages of users that are none change nothing', async () => {
    const { world, client } = await follower();
    const { log } = watching(client, 'bob');
    await world.clock.advance(SECOND);
    for (const users of ['null', '1', '"bob"', '{}', '[null,1,"bob",{},[],{"user_id":{}}]']) {
      world.last.message(`{"type":"presence","users":${users}}`);
      world.last.message(`{"type":"snapshot","users":${users}}`);
    }
    world.last.message('{"type":"presence"}');
    world.last.message('{"type":"presence","users":[{"user_id":"carol","status":"busy"}]}');
    await settle();
    assert.deepEqual(log, ['bob offline']);
    assert.equal(client.getUser('carol'), null);
  });

  test('stop marks stale and keeps the watches; another user begins anew', async () => {
    const { server, world, client } = await follower();
    server.set([['bob', ONLINE]]);
    const { log, end } = watching(client, 'bob');
    await world.clock.advance(SECOND);
    client.stopPresence();
    await settle();
    assert.deepEqual(log, ['bob online', 'bob online stale']);
    assert.equal(client.getUser('bob').stale, true);
    assert.equal(world.clock.pending, 0);
    await world.clock.advance(MINUTE);
    client.startPresence('zoe');
    assert.equal(client.getUser('bob'), null, 'what alice saw is not for zoe');
    await world.clock.advance(SECOND);
    assert.deepEqual(log, ['bob online', 'bob online stale', 'bob online']);
    assert.deepEqual(asked(world.last), [['watch', ['bob']]]);
    client.startPresence('alice'); // in one go: what zoe saw is not told
    assert.equal(client.getUser('bob'), null);
    await settle();
    assert.deepEqual(log.slice(3), []);
    await world.clock.advance(SECOND);
    assert.deepEqual(log.slice(3), ['bob online']);
    client.stopPresence();
    end();
    client.startPresence('alice');
    await world.clock.advance(SECOND);
    assert.deepEqual(world.last.sent, []);
    assert.equal(log.length, 4);
  });

  test('a callback may do what it likes; one that throws disturbs nobody', async (t) => {
    const { server, world, client } = await follower();
    const thrown = [];
    const listeners = process.listeners('uncaughtException');
    process.removeAllListeners('uncaughtException');
    process.on('uncaughtException', (error) => thrown.push(error.message));
    t.after(() => {
      process.removeAllListeners('uncaughtException');
      for (const one of listeners) process.on('uncaughtException', one);
    });
    client.watch('bob', () => { throw new Error('mine'); });
    const { log } = watching(client, 'bob');
    await world.clock.advance(SECOND);
    assert.deepEqual([log, thrown], [['bob offline'], ['mine']]);
    const more = [];
    const end = client.watch('carol', (user) => {
      more.push(user.status);
      end();
      client.stopPresence();
      watching(client, 'dora');
    });
    await world.clock.advance(SECOND);
    server.set([['carol', BUSY]]);
    await world.clock.advance(SECOND);
    assert.deepEqual(more, ['offline']);
    assert.equal(client.state, 'stopped');
    assert.equal(world.clock.pending, 0);
  });

  test('at random: after quiet every watch knows what the server knows', async () => {
    let seed = 7;
    const random = (n) => {
      seed = (seed * 1103515245 + 12345) % 2147483648;
      return Math.floor((seed / 2147483648) * n);
    };
    const ids = Array.from({ length: 30 }, (_, i) => `u${i}`);
    const some = () => ids.filter(() => random(4) === 0);
    for (let round = 0; round < 60; round++) {
      const server = followable({ max: round % 2 ? 1000 : 20, forbidden: some().slice(0, 2) });
      const world = new World(server);
      const client = await world.client();
      const state = new Map(ids.map((id) => [id, 'offline']));
      const watches = [];
      client.startPresence('alice');
      for (let step = 0; step < 60; step++) {
        const kind = random(8);
        if (kind < 2) {
          const watch = { ids: some(), known: new Map(), refused: new Set() };
          const { known, refused } = watch;
          watch.end = client.watch(
            watch.ids,
            (user) => {
              known.set(user.user_id, `${user.status}${user.stale ? ' stale' : ''}`);
              refused.delete(user.user_id);
            },
            ({ userId }) => refused.add(userId),
          );
          watches.push(watch);
        } else if (kind < 4 && watches.length) {
          watches.splice(random(watches.length), 1)[0].end();
        } else if (kind < 6) {
          for (const id of some()) state.set(id, ['offline', 'online', 'busy'][random(3)]);
          const changed = [...state].map(([id, status]) => [id, { status }]);
          server.set(changed);
        } else if (kind === 6 && random(3) === 0) world.last?.end(1006);
        await world.clock.advance(random(300));
      }
      await world.clock.advance(MINUTE);
      assert.equal(client.isConnected(), true);
      const union = new Set(watches.flatMap((one) => one.ids));
      const allowed = [...union].filter((id) => !server.forbidden.includes(id));
      const { follows } = world.last;
      assert.equal(follows.size, Math.min(allowed.length, round % 2 ? 1000 : 20), `round ${round}`);
      for (const watch of watches) {
        for (const id of watch.ids) {
          if (!follows.has(id)) assert.ok(watch.refused.has(id), `round ${round}: ${id} not told`);
          else assert.equal(watch.known.get(id), state.get(id), `round ${round}: ${id}`);
        }
      }
      client.stopPresence();
      assert.equal(world.clock.pending, 0);
    }
  });

  test('a manual status: once connected, the last one wanted, not again', async () => {
    const world = new World();
    const client = await world.client();
    client.setStatus('busy', { manual: true });
    client.setStatus('away', { manual: true, message: 'lunch', expiresIn: 60 });
    client.startPresence('alice');
    await world.clock.advance(SECOND);
    assert.deepEqual(world.last.sent.map((text) => JSON.parse(text)), [
      { type: 'status', manual: true, status: 'away', message: 'lunch', expires_in: 60 },
    ]);
    assert.equal(client.getSnapshot().status, 'online');
    client.setStatus('invisible', { manual: true });
    client.setStatus('online', { manual: true });
    client.setStatus(null, { manual: true });
    await world.clock.advance(SECOND);
    assert.deepEqual(world.last.sent.slice(1).map((text) => JSON.parse(text)), [
      { type: 'status', manual: true, status: 'invisible' },
      { type: 'status', manual: true, status: null },
    ]);
    world.last.end(1006);
    client.setStatus('invisible', { manual: true });
    await world.clock.advance(2 * SECOND);
    assert.deepEqual(world.last.sent, ['{"type":"status","manual":true,"status":"invisible"}']);
    world.last.end(1006);
    await world.clock.advance(2 * SECOND);
    assert.deepEqual(world.last.sent, []);
    world.last.end(1006);
    client.setStatus('busy', { manual: true });
    client.stopPresence();
    client.startPresence('bob');
    await world.clock.advance(SECOND);
    assert.deepEqual(world.last.sent, [], "a status is the user's who set it");
    client.setStatus('busy', { manual: true });
    client.setStatus('away', { manual: true });
    client.setStatus(null, { manual: true });
    client.stopPresence(); // what was wanted last is not left behind
    assert.deepEqual(world.last.sent.map((text) => JSON.parse(text).status), ['busy', null]);
    await world.clock.advance(SECOND);
    assert.equal(world.clock.pending, 0);
    for (const bad of ['offline', '', undefined, 'ONLINE']) {
      assert.throws(() => client.setStatus(bad, { manual: true }), TypeError);
    }
    for (const bad of ['invisible', null]) {
      assert.throws(() => client.setStatus(bad, {}), TypeError);
    }
    for (const options of [{ message: 'x' }, { expiresIn: 1 }]) {
      assert.throws(() => client.setStatus('busy', options), { message: /only a manual/ });
    }
  });
});

// ---- The life of the page ----------------------------------------------------------------------

test('hidden: away after a delay; visible: online and a probe', async () => {
  const world = new World();
  const client = await world.connected();
  const statuses = () =>
    world.last.sent.filter((text) => text !== 'ping').map((text) => JSON.parse(text));
  world.page.show(false);
  await world.clock.advance(5 * MINUTE - 1);
  assert.deepEqual(statuses(), []);
  await world.clock.advance(1);
  assert.deepEqual(statuses(), [{ type: 'status', status: 'away' }]);
  assert.equal(client.getSnapshot().status, 'away');
  await world.clock.advance(10 * SECOND);
  const pings = () => world.last.sent.filter((text) => text === 'ping').length;
  const before = pings();
  world.page.show(true);
  assert.equal(pings(), before + 1);
  assert.deepEqual(statuses().at(-1), { type: 'status', status: 'online' });
  assert.equal(client.getSnapshot().status, 'online');
});

test('hidden for less than the delay is nothing', async () => {
  const world = new World();
  await world.connected();
  for (let i = 0; i < 5; i++) {
    world.page.show(false);
    await world.clock.advance(4 * MINUTE);
    world.page.show(true);
    await world.clock.advance(MINUTE);
  }
  assert.deepEqual([...new Set(world.last.sent)], ['ping']);
});

test('awayAfter: another delay, or never', async () => {
  const world = new World();
  await world.connected({ awayAfter: 1000 });
  world.page.show(false);
  await world.clock.advance(SECOND);
  assert.deepEqual(world.last.sent, ['{"type":"status","status":"away"}']);
  const never = new World();
  await never.connected({ awayAfter: Infinity });
  never.page.show(false);
  never.page.send('freeze');
  await never.clock.advance(60 * MINUTE);
  assert.deepEqual([...new Set(never.last.sent)], ['ping']);
  const long = new World(); // longer than a timer can be is not at once
  await long.connected({ awayAfter: 1e12 });
  long.page.show(false);
  await long.clock.advance(60 * MINUTE);
  assert.deepEqual([...new Set(long.last.sent)], ['ping']);
  assert.ok(Math.max(...long.clock.asked) < 2 ** 31);
});

test('a page that is hidden when presence starts is away after the delay', async () => {
  const world = new World();
  world.page.visibilityState = 'hidden';
  const client = await world.connected();
  await world.clock.advance(5 * MINUTE);
  assert.equal(client.getSnapshot().status, 'away');
});

test('setStatus: sent once connected, after a reconnect, not undone by the page', async () => {
  const world = new World();
  const client = await world.client();
  client.setStatus('busy');
  client.startPresence('alice');
  await world.clock.advance(SECOND);
  assert.deepEqual(world.last.sent, ['{"type":"status","status":"busy"}']);
  world.page.show(false);
  await world.clock.advance(6 * MINUTE);
  world.page.show(true);
  assert.equal(world.last.sent.filter((text) => text !== 'ping').length, 1);
  world.last.end(1006);
  await world.clock.advance(2 * SECOND);
  assert.deepEqual(world.last.sent, ['{"type":"status","status":"busy"}']);
  client.setStatus('online');
  await world.clock.advance(SECOND);
  assert.equal(world.last.sent.at(-1), '{"type":"status","status":"online"}');
  client.setStatus('online');
  await world.clock.advance(SECOND);
  assert.equal(world.last.sent.length, 2, 'what the server has already is not sent');
  for (const bad of ['offline', 'invisible', '', undefined, null, 'ONLINE', '__proto__']) {
    assert.throws(() => client.setStatus(bad), {
      name: 'TypeError',
      message: /a status is one of/,
    });
  }
  client.setStatus('away');
  client.stopPresence();
  client.startPresence('bob');
  await world.clock.advance(SECOND);
  assert.deepEqual(world.last.sent, [], "a status is the user's who set it");
});

test('a status that changes a hundred times a second: four are sent, and the last', async () => {
  const world = new World();
  const client = await world.connected();
  for (let i = 0; i < 100; i++) {
    client.setStatus(i % 2 ? 'busy' : 'away');
    await world.clock.advance(10);
  }
  client.setStatus('busy');
  await world.clock.advance(SECOND);
  const sent = world.last.sent.filter((text) => text !== 'ping');
  assert.ok(sent.length >= 3 && sent.length <= 6, String(sent.length));
  assert.equal(JSON.parse(sent.at(-1)).status, 'busy');
});

test('offline: the line is probed, and kept when it answers', async () => {
  const world = new World();
  const client = await world.connected();
  world.page.send('offline');
  assert.deepEqual(world.last.sent, ['ping']);
  await world.clock.advance(10 * SECOND);
  assert.equal(client.isConnected(), true);
  assert.equal(world.sockets.length, 1);
});

test('offline that is true, then online: back at once', async () => {
  const world = new World();
  const client = await world.connected();
  world.last.answer = null;
  world.server = 'refuse';
  world.page.send('offline');
  await world.clock.advance(5 * SECOND);
  assert.equal(client.isConnected(), false);
  await world.clock.advance(10 * MINUTE);
  world.server = 'up';
  world.page.send('online');
  await world.clock.advance(2 * LATENCY);
  assert.equal(client.isConnected(), true);
});

test('pagehide into the back-forward cache closes; pageshow from it connects at once', async () => {
  const world = new World();
  const client = await world.connected();
  await world.clock.advance(MINUTE);
  world.page.send('pagehide', { persisted: true });
  assert.equal(client.isConnected(), false);
  assert.equal(world.sockets[0].closed.code, 4001, 'what 1001 is to a browser');
  assert.deepEqual(client.lastClose, { code: 1001, reason: 'pagehide', wasClean: true });
  world.page.send('freeze');
  world.clock.sleep(60 * MINUTE);
  world.page.send('resume');
  world.page.send('pageshow', { persisted: true });
  await settle();
  assert.equal(world.live.length, 1);
  await world.clock.advance(2 * LATENCY);
  assert.equal(client.isConnected(), true);
  assert.equal(world.sockets.length, 2);
  assert.equal(client.getSnapshot().status, 'online');
});

test('pagehide of a page that ends is left to the browser, which closes with 1001', async () => {
  const world = new World();
  const client = await world.connected();
  world.page.send('pagehide', { persisted: false });
  assert.equal(world.last.closed, null);
  assert.equal(client.isConnected(), true);
});

test('freeze: away at once, as no timer will run; resume: online and a probe', async () => {
  const world = new World();
  const client = await world.connected();
  client.setStatus('busy');
  client.setStatus('online');
  world.page.show(false);
  world.page.send('freeze');
  assert.deepEqual(world.last.sent.map((text) => JSON.parse(text).status).at(-1), 'away');
  const { length } = world.last.sent;
  world.clock.sleep(60 * MINUTE);
  world.page.visibilityState = 'visible';
  world.page.send('resume');
  assert.deepEqual(world.last.sent.slice(length), ['{"type":"status","status":"online"}', 'ping']);
  await world.clock.advance(10 * SECOND);
  assert.equal(world.sockets.length, 1, 'a live socket is kept');
});

test('C05 stuck in CONNECTING, or open without a hello: replaced at the deadline', async () => {
  for (const server of ['hang', 'speechless']) {
    const world = new World(server);
    const client = await world.client();
    client.startPresence('alice');
    await world.clock.advance(10 * SECOND - 1);
    assert.equal(client.state, 'connecting');
    await world.clock.advance(1);
    assert.equal(client.state, 'reconnecting');
    assert.deepEqual(world.live, []);
    world.server = 'up';
    await world.clock.advance(2 * SECOND);
    assert.equal(client.isConnected(), true);
  }
});

test('C05 a zombie after waking: probed, replaced without an answer within 5 s', async () => {
  for (const wake of ['online', 'pageshow', 'resume', 'visibilitychange']) {
    const world = new World();
    const client = await world.connected();
    world.last.answer = null; // OPEN, but nobody is there
    world.clock.sleep(2 * SECOND);
    world.page.send(wake, { persisted: false });
    await world.clock.advance(5 * SECOND - 1);
    assert.equal(client.isConnected(), true, wake);
    await world.clock.advance(1);
    assert.equal(client.isConnected(), false, wake);
    assert.equal(client.lastClose.reason, 'no answer to a probe');
    await world.clock.advance(2 * LATENCY);
    assert.equal(client.isConnected(), true, wake);
    assert.deepEqual([world.sockets.length, world.live.length], [2, 1], wake);
    assert.equal(world.sockets[0].closed.code, 4001);
  }
});

test('C05 the answer to a probe keeps the socket; any message is one', async () => {
  const world = new World();
  const client = await world.connected();
  for (const answer of ['pong', '{"type":"pong","time":"x"}', '{"type":"presence","users":[]}']) {
    world.last.answer = (text) => text === 'ping' && world.last.message(answer);
    await world.clock.advance(2 * SECOND);
    world.page.send('online');
    await world.clock.advance(4 * SECOND);
  }
  assert.equal(world.sockets.length, 1);
  assert.equal(client.isConnected(), true);
});

test('C06 20 events in 100 ms while connected: one probe, none on a line that works', async () => {
  const world = new World();
  await world.connected();
  const twenty = async () => {
    for (let i = 0; i < 20; i++) {
      world.page.send('online');
      world.page.show(true);
      await world.clock.advance(5);
    }
  };
  await twenty(); // the hello was just now
  assert.deepEqual(world.last.sent, []);
  await world.clock.advance(2 * SECOND);
  await twenty();
  assert.deepEqual(world.last.sent, ['ping']);
  assert.equal(world.sockets.length, 1);
});

test('a line that dies in silence is noticed at the next heartbeat', async () => {
  const world = new World();
  const client = await world.connected();
  await world.clock.advance(10 * MINUTE);
  const pings = world.last.sent.filter((text) => text === 'ping').length;
  assert.equal(pings, 24, 'one every heartbeat_seconds of the hello');
  world.last.answer = null;
  await world.clock.advance(30 * SECOND + 2 * LATENCY);
  assert.equal(world.sockets.length, 2);
  assert.equal(client.isConnected(), true);
});

test('heartbeatInterval: another one, or none; a strange hello is taken as 25 s', async () => {
  const rows = [
    [{ heartbeatInterval: 5000 }, 25, 12],
    [{ heartbeatInterval: 0 }, 25, 0],
    [{}, 10, 6],
    [{}, 0, 2],
    [{}, -5, 2],
    [{}, 'x', 2],
    [{}, null, 2],
    [{}, 1e-9, 59],
  ];
  for (const [options, heartbeat, pings] of rows) {
    const world = new World();
    world.heartbeat = heartbeat;
    await world.connected(options);
    await world.clock.advance(MINUTE);
    assert.ok(
      Math.abs(world.last.sent.length - pings) <= 1,
      `${heartbeat}: ${world.last.sent.length}`,
    );
  }
});

test('the machine slept between a probe and its answer: that gets its time again', async () => {
  const world = new World();
  const client = await world.connected();
  await world.clock.advance(2 * SECOND);
  world.last.answer = null;
  world.page.send('online'); // a probe
  world.clock.sleep(60 * MINUTE); // and the lid is closed
  await world.clock.advance(0); // the late timer probes again
  assert.deepEqual(world.last.sent.slice(-2), ['ping', 'ping']);
  world.last.answer = pong(world.last);
  await world.clock.advance(10 * SECOND);
  assert.equal(world.sockets.length, 1);
  assert.equal(client.isConnected(), true);
});

test('C06 20 events in 100 ms while connecting, then a late close: one live socket', async () => {
  const world = new World('hang');
  const client = await world.client();
  client.startPresence('alice');
  await settle();
  const old = handlers(world.last);
  await world.clock.advance(10 * SECOND + SECOND); // the first is given up; the second is under way
  assert.equal(world.sockets.length, 2);
  assert.equal(world.sockets[0].onmessage, null);
  let most = 0;
  for (let i = 0; i < 20; i++) {
    const { page } = world;
    [
      () => page.send('online'),
      () => page.send('pageshow', { persisted: true }),
      () => page.show(false),
      () => page.show(true),
      () => client.startPresence('alice'),
    ][i % 5]();
    await world.clock.advance(5);
    most = Math.max(most, world.live.length);
  }
  assert.deepEqual([most, world.sockets.length], [1, 2]);
  old.onopen({});
  old.onmessage({ data: '{"type":"hello","heartbeat_seconds":25}' });
  assert.equal(client.isConnected(), false);
  world.last.hello();
  assert.equal(client.isConnected(), true);
  old.onclose({ code: 4403, reason: 'kicked', wasClean: true });
  old.onerror({});
  assert.equal(client.isConnected(), true);
  assert.equal(world.live.length, 1);
});

/** What a client listens with to a socket. */
function handlers({ onopen, onmessage, onclose, onerror }) {
  return { onopen, onmessage, onclose, onerror };
}

test('C06 late events after stop and start again are not heard', async () => {
  const world = new World();
  const client = await world.connected();
  const old = handlers(world.last);
  client.stopPresence();
  client.startPresence('alice');
  await world.clock.advance(SECOND);
  world.log.length = 0;
  old.onclose({ code: 1000, reason: 'stopPresence', wasClean: true });
  old.onmessage({ data: '{"type":"error","code":"x","message":"y"}' });
  assert.deepEqual(world.log, []);
  assert.equal(client.isConnected(), true);
});

test('C06 at random: never more than one live socket, whatever happens', async () => {
  let seed = 1;
  const random = (below) => {
    seed = (seed * 48271) % 2147483647;
    return seed % below;
  };
  for (let round = 0; round < 60; round++) {
    const world = new World();
    const client = await world.client({ getToken: () => 't', random: () => random(100) / 100 });
    client.startPresence('alice');
    for (let step = 0; step < 60; step++) {
      const servers = ['up', 'up', 'refuse', 'hang', 'speechless', 'mute', 'trap'];
      const { page } = world;
      const acts = [
        () => page.send('online'),
        () => page.send('offline'),
        () => page.show(false),
        () => page.show(true),
        () => page.send('pageshow', { persisted: true }),
        () => page.send('pagehide', { persisted: true }),
        () => page.send('freeze'),
        () => page.send('resume'),
        () => {
          world.server = servers[random(servers.length)];
        },
        () => world.last?.end(1006),
        () => world.last?.end(1012, 'retry_after=700'),
        () => client.startPresence('alice'),
        () => client.setStatus('busy'),
        () => {
          client.stopPresence();
          client.startPresence('alice');
        },
      ];
      acts[random(acts.length)]();
      assert.ok(
        world.live.length <= 1,
        `round ${round}, step ${step}: ${world.live.length} sockets`,
      );
      await world.clock.advance(random(3) ? random(2000) : random(MINUTE));
      assert.ok(
        world.live.length <= 1,
        `round ${round}, step ${step}: ${world.live.length} sockets`,
      );
      assert.equal(client.isConnected(), client.state === 'connected');
    }
    world.server = 'up';
    await world.clock.advance(MINUTE);
    assert.equal(client.isConnected(), true, `round ${round}: ${client.state}`);
    client.stopPresence();
    assert.deepEqual([world.clock.pending, world.live.length, world.page.listening], [0, 0, 0]);
  }
});

test('C07 timers once a minute, a proxy that cuts at 60 s: 10 minutes, no reconnect', async () => {
  const world = new World((socket, { clock }) => {
    let heard = clock.ms;
    const bytes = () => {
      heard = clock.ms;
    };
    socket.answer = (text) => {
      bytes();
      if (text === 'ping') socket.message('pong');
    };
    socket.later(() => {
      socket.hello();
      const watch = () => {
        // the server pings after 25 s of silence; the browser answers by itself
        if (clock.ms - heard >= MINUTE) socket.end(1006);
        else if (clock.ms - heard >= 25 * SECOND) bytes();
        if (socket.readyState === 1) socket.later(watch, 500);
      };
      watch();
    });
  });
  const client = await world.connected();
  world.clock.throttle = MINUTE;
  world.page.show(false);
  await world.clock.advance(10 * MINUTE);
  assert.deepEqual(world.log, []);
  assert.equal(world.sockets.length, 1);
  assert.equal(client.isConnected(), true);
  assert.ok(world.last.sent.filter((text) => text === 'ping').length >= 8);
});

test('C07 timers once a minute: a loss and a dead line are still mended', async () => {
  const world = new World();
  const client = await world.connected();
  world.clock.throttle = MINUTE;
  world.page.show(false);
  world.last.end(1006);
  await world.clock.advance(MINUTE + SECOND);
  assert.equal(client.isConnected(), true);
  world.last.answer = null;
  await world.clock.advance(4 * MINUTE);
  assert.equal(world.sockets.length, 3);
  assert.equal(client.isConnected(), true);
});

test('a socket that cannot be made: a failed try, and no token in its error', async () => {
  const world = new World();
  const client = await world.client({ getToken: () => 'secret', apiUrl: 'http://[::1]:1',
    WebSocket: class { constructor(_, [, token]) { throw new SyntaxError(`no ${token}`); } } });
  client.startPresence('alice');
  await world.clock.advance(SECOND / 2);
  assert.deepEqual(world.log, [
    ['error', { code: 'socket_failed', message: 'new WebSocket: SyntaxError', final: false }],
    ['reconnecting', { attempt: 1, delay: 1000, maxAttempts: 5 }],
  ]);
});

test('what is no token is told in words and on the console, and not sent', async (t) => {
  const warn = t.mock.method(console, 'warn', () => {});
  const rows = [['se cret', 1], ['<!doctype html><p>Log in', 1], ['{"error":"who?"}', 1], [{ token: 'a' }, 1], ['a.b-c_d.e\n', 0], ['', 0]];
  for (const [token, wrong] of rows) {
    const world = new World();
    const client = await world.client({ getToken: () => token });
    warn.mock.resetCalls();
    client.startPresence('alice');
    await world.clock.advance(SECOND / 2);
    assert.deepEqual([world.sockets.length, world.told('error').length, warn.mock.callCount()], wrong ? [0, 1, 1] : [1, 0, 0], String(token));
    if (wrong) assert.ok(!JSON.stringify([world.told('error'), warn.mock.calls[0].arguments]).includes('cret'));
    else assert.equal(world.last.protocols[1], token ? 'token.a.b-c_d.e' : undefined);
    client.stopPresence();
  }
});

// ---- The rest ----------------------------------------------------------------------------------

test('debug: every step, to the console or to a function, and never a token', async (t) => {
  const steps = [];
  const world = new World(
    closing({ code: 4401, reason: 'token_expired', hello: true, after: 2000 }, { code: 1006 }),
  );
  let count = 0;
  const getToken = () => `SECRET${count++}`;
  const client = await world.client({ debug: (step) => steps.push(step), getToken });
  client.startPresence('alice');
  await world.clock.advance(10 * SECOND);
  world.page.send('online');
  client.setStatus('busy');
  await world.clock.advance(SECOND);
  client.stopPresence();
  const text = steps.join('\n');
  for (const part of [
    'start "alice" at wss://app.example.com/ws/presence/alice',
    'idle -> connecting',
    'opening',
    'open, waiting for hello',
    'connecting -> connected',
    'lost: 4401 token_expired',
    'error token_expired',
    'next try in 0 ms',
    'connected -> reconnecting',
    'page: online',
    'send ping',
    'send {"type":"status","status":"busy"}',
    'connected -> stopped',
  ]) {
    assert.ok(text.includes(part), `${part} in\n${text}`);
  }
  assert.ok(count >= 2);
  assert.doesNotMatch(text, /SECRET/);

  const lines = [];
  t.mock.method(console, 'log', (line) => lines.push(line));
  const loud = await new World().client({ debug: true });
  loud.startPresence('alice');
  loud.stopPresence();
  const quiet = await new World().client();
  quiet.startPresence('alice');
  quiet.stopPresence();
  t.mock.restoreAll();
  assert.ok(lines.length >= 3);
  assert.ok(
    lines.every((line) => line.startsWith('[presence] ')),
    lines.join('\n'),
  );
  assert.equal(lines.filter((line) => line.includes('idle -> connecting')).length, 1);
});

test('two clients share nothing', async () => {
  const world = new World();
  const [one, other] = [await world.client(), await world.client()];
  one.startPresence('alice');
  other.startPresence('alice');
  await world.clock.advance(SECOND);
  assert.equal(world.live.length, 2);
  one.stopPresence();
  assert.deepEqual([one.isConnected(), other.isConnected(), world.live.length], [false, true, 1]);
  const source = fs.readFileSync(path.join(WEB, 'presence.js'), 'utf8');
  assert.doesNotMatch(source, /Storage|BroadcastChannel|SharedWorker|indexedDB|cookie|opener/);
});

test('the size of what is shipped', () => {
  assert.ok(fs.statSync(path.join(WEB, 'presence.js')).size < 48 * 1024); // what to mend is said in words
});

test('settle() is what the world needs', async () => {
  let done = false;
  Promise.resolve()
    .then(() => Promise.resolve())
    .then(() => {
      done = true;
    });
  await settle();
  assert.ok(done);
});
