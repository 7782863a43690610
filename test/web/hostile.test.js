'use strict';
// Whatever the application hands over - for every option, argument and callback - the client stays
// right and says what is wrong: one socket at most, something under way while presence is started,
// and the state it says it has.

const test = require('node:test');
const assert = require('node:assert/strict');
const { World, LATENCY, settle, pong, followable } = require('./lib/world');
const { dice } = require('../integration/lib/random');

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const OPTIONS = [
  'apiUrl', 'getToken', 'maxReconnectAttempts', 'giveUp', 'reconnectDelay', 'maxReconnectDelay',
  'probeDelay', 'connectTimeout', 'probeTimeout', 'heartbeatInterval', 'awayAfter', 'debug',
  'WebSocket', 'clock', 'random', 'window', 'document',
];

/** Throws whatever is done to it. */
const trap = () => {
  const no = () => { throw new Error('mine'); };
  return new Proxy(() => {}, {
    get: no, set: no, has: no, apply: no, construct: no, ownKeys: no, getPrototypeOf: no,
    defineProperty: no, deleteProperty: no, getOwnPropertyDescriptor: no,
  });
};

const cyclic = () => {
  const one = {};
  one.one = one;
  return one;
};

/** What an application could hand over, each made anew: name and maker. */
const VALUES = [
  ['undefined', () => undefined],
  ['null', () => null],
  ['NaN', () => NaN],
  ['Infinity', () => Infinity],
  ['-Infinity', () => -Infinity],
  ['-1', () => -1],
  ['0', () => 0],
  ['1e308', () => 1e308],
  ['5e-324', () => 5e-324],
  ['a BigInt', () => 10n],
  ['a symbol', () => Symbol('s')],
  ['an empty text', () => ''],
  ['a text', () => 'x'],
  ['half a pair', () => '\ud800'],
  ['true', () => true],
  ['an object', () => ({})],
  ['no prototype', () => Object.create(null)],
  ['cyclic', cyclic],
  ['an array', () => [1, 2]],
  ['a trap', trap],
  ['a revoked proxy', () => {
    const { proxy, revoke } = Proxy.revocable({}, {});
    revoke();
    return proxy;
  }],
  ['a getter that throws', () => ({
    get message() { throw new Error('mine'); },
    get name() { throw new Error('mine'); },
    get then() { throw new Error('mine'); },
  })],
  ['toString that throws', () => ({ toString() { throw new Error('mine'); } })],
  ['a function', () => () => 1],
  ['a class', () => class { send() {} close() {} }],
  ['a thenable that never answers', () => ({ then() {} })],
  ['a thenable that throws', () => ({ then() { throw new Error('mine'); } })],
  ['a frozen object', () => Object.freeze({})],
];

/** Keeps what would end the process: errors of listeners and promises nobody waits for. */
function uncaught(t) {
  const found = [];
  t.mock.method(console, 'log', () => {}); // some options have the client write to it
  const keep = (error) => found.push(error);
  const had = ['uncaughtException', 'unhandledRejection'].map((name) => {
    const listeners = process.listeners(name);
    process.removeAllListeners(name);
    process.on(name, keep);
    return [name, listeners];
  });
  t.after(() => {
    for (const [name, listeners] of had) {
      process.removeAllListeners(name);
      for (const one of listeners) process.on(name, one);
    }
  });
  return found;
}

/** What is true at any time, in words: '' when it is. */
function wrong(world, client) {
  const { state } = client;
  const live = world.live.length;
  const started = client.getCurrentUserId() !== null;
  if (live > 1) return `${live} sockets`;
  if (client.isConnected() !== (state === 'connected')) return 'isConnected() is not the state';
  if (client.isConnected() && live !== 1) return 'connected without a socket';
  if (started && live + world.clock.pending === 0) return 'neither a socket nor a timer';
  if (started === ['idle', 'stopped'].includes(state)) return `${state} as somebody`;
  if (!started && (live || world.clock.pending || world.page.listening)) return 'something is left';
  if (client.getSnapshot().state !== state) return 'the snapshot is another one';
  for (const { delay } of world.told('reconnecting')) {
    if (!(delay >= 0 && Number.isFinite(delay))) return `a delay of ${delay}`;
  }
  for (const { code, message, final } of world.told('error')) {
    if (!code || typeof message !== 'string' || typeof final !== 'boolean') return `error ${code}`;
  }
  return '';
}

/** Does what may throw an error of its own or a TypeError, and nothing else. */
function attempt(work) {
  try {
    work();
    return true;
  } catch (error) {
    assert.ok(error instanceof TypeError || error?.message === 'mine', String(error?.stack));
    return false;
  }
}

for (const name of OPTIONS) {
  test(`${name}: whatever it is, a TypeError, or presence goes on`, async (t) => {
    const stray = uncaught(t);
    for (const [what, make] of VALUES) {
      if (name === 'clock' && what !== 'a BigInt') continue; // below
      const world = new World();
      const client = await world.client({ maxReconnectAttempts: 2 });
      const taken = attempt(() => client.configure({ [name]: make() }));
      attempt(() => client.startPresence('alice'));
      for (let i = 0; i < 5; i++) {
        await world.clock.advance(3 * SECOND);
        assert.equal(wrong(world, client), '', `${what}`);
        assert.ok(world.sockets.length < 100, `${what}: ${world.sockets.length} sockets`);
      }
      world.last?.end(1006);
      world.page.show(false);
      world.page.show(true);
      await world.clock.advance(MINUTE);
      assert.equal(wrong(world, client), '', `${what}`);
      attempt(() => client.stopPresence());
      assert.equal(wrong(world, client), '', `${what} after a stop`);
      const fresh = { getToken: () => 't', WebSocket: world.WebSocket, random: () => 0, debug: false,
        window: world.page, document: world.page, apiUrl: 'https://a.example', connectTimeout: 1000,
        reconnectDelay: 1000, maxReconnectDelay: 30000, probeDelay: 30000, probeTimeout: 5000,
        heartbeatInterval: 25000, maxReconnectAttempts: 5, giveUp: false };
      client.configure(fresh);
      client.startPresence('alice');
      await world.clock.advance(2 * MINUTE);
      assert.equal(client.isConnected(), true, `${what} was ${taken ? 'taken' : 'refused'}`);
      client.stopPresence();
      assert.equal(wrong(world, client), '', `${what} after all`);
    }
    await settle();
    assert.deepEqual(stray.filter((error) => error?.message !== 'mine'), []);
  });
}

test('a getToken that gives or throws whatever it likes: an error says it, tries go on', async (t) => {
  const stray = uncaught(t);
  for (const [what, make] of VALUES) {
    for (const how of ['gives', 'throws', 'rejects']) {
      const world = new World();
      const getToken = () => {
        if (how === 'throws') throw make();
        return how === 'gives' ? make() : Promise.reject(make());
      };
      const client = await world.client({ getToken });
      client.startPresence('alice');
      await world.clock.advance(12 * SECOND);
      assert.equal(wrong(world, client), '', `${how} ${what}`);
      const codes = new Set(world.told('error').map(({ code }) => code));
      const silent = how === 'gives' && /^(undefined|null|0|an empty text|NaN|a text|.*never answers)$/;
      if (silent && silent.test(what)) assert.deepEqual([...codes], [], what);
      else assert.match([...codes].join(), /^(token_failed|socket_failed)$/, `${how} ${what}`);
      client.configure({ getToken: () => 'fine' });
      await world.clock.advance(MINUTE);
      assert.equal(client.isConnected(), true, `${how} ${what}`);
      client.stopPresence();
    }
  }
  assert.deepEqual(stray, []);
});

test('a refused token is not sent again, whatever came between', async () => {
  const sent = [];
  const world = new World((socket) => {
    sent.push(socket.protocols[1]);
    socket.later(() => socket.end(4401, 'token_invalid'));
  });
  let count = 0;
  const client = await world.client({ getToken: () => 'AB'[count++ % 2] });
  client.startPresence('alice');
  await world.clock.advance(5 * MINUTE);
  assert.deepEqual(sent, ['token.A', 'token.B']);
  assert.ok(world.told('error').filter(({ code }) => code === 'token_unchanged').length > 5);
  client.stopPresence();
  client.startPresence('bob'); // another user, another list
  await world.clock.advance(SECOND);
  assert.equal(sent.length, 3);
  client.configure({ getToken: () => `t${count++}` });
  await world.clock.advance(300 * MINUTE);
  assert.equal(new Set(sent).size, sent.length - 1, 'each once but for A');
});

test('debug and random that throw: said once, and the client goes on without them', async () => {
  for (const [what, make] of VALUES) {
    const world = new World();
    let called = 0;
    const client = await world.client({ debug: () => { called++; throw make(); } });
    client.startPresence('alice');
    await world.clock.advance(SECOND);
    assert.equal(client.isConnected(), true, what);
    assert.deepEqual([called, world.told('error').map(({ code }) => code)], [1, ['debug_failed']]);
    client.configure({ random: () => { throw make(); } });
    world.last.end(1006);
    assert.equal(wrong(world, client), '', what);
    await world.clock.advance(2 * SECOND);
    assert.equal(client.isConnected(), true, what);
    assert.equal(world.told('error').at(-1).code, 'random_failed');
    client.stopPresence();
  }
});

test('delays that are not finite are long, never at once', async () => {
  for (const option of ['probeDelay', 'maxReconnectDelay', 'reconnectDelay']) {
    for (const random of [0, 1]) {
      const world = new World('refuse');
      const client = await world.client({
        [option]: Infinity, maxReconnectAttempts: 0, random: () => random,
      });
      client.startPresence('alice');
      await world.clock.advance(MINUTE);
      assert.ok(world.sockets.length <= 3, `${option}: ${world.sockets.length}`);
      assert.ok(world.clock.asked.every((ms) => ms >= 0 && ms < 2 ** 31));
      assert.equal(wrong(world, client), '');
      world.server = 'up';
      world.page.send('online'); // wakes it all the same
      await world.clock.advance(31 * SECOND);
      assert.equal(client.isConnected(), true);
      client.stopPresence();
    }
  }
});

test('a manual status that cannot be is a TypeError, and breaks nothing', async () => {
  const world = new World();
  const client = await world.client();
  for (const [what, make] of VALUES) {
    const value = make();
    for (const member of ['message', 'expiresIn', 'manual']) {
      attempt(() => client.setStatus('busy', { manual: true, [member]: value }));
    }
    attempt(() => client.setStatus('busy', value));
    attempt(() => client.setStatus(value, { manual: true }));
    attempt(() => client.setStatus(value));
    client.startPresence('alice');
    await world.clock.advance(SECOND);
    assert.equal(client.isConnected(), true, what);
    client.stopPresence();
    assert.equal(wrong(world, client), '', what);
  }
  for (const message of [10n, cyclic(), Symbol('s'), {}, 5]) {
    assert.throws(() => client.setStatus('busy', { manual: true, message }), {
      name: 'TypeError', message: /^presence: message is a string/,
    });
  }
});

test('arguments: ids, callbacks and listeners that cannot be are TypeErrors', async (t) => {
  const stray = uncaught(t);
  const world = new World(followable());
  const client = await world.connected();
  for (const [what, make] of VALUES) {
    attempt(() => client.startPresence(make()));
    client.startPresence('alice');
    attempt(() => client.watch(make(), () => {}));
    attempt(() => client.watch([make()], () => {}));
    attempt(() => client.watch('bob', make()));
    attempt(() => client.watch('bob', () => {}, make()));
    attempt(() => client.on('change', make()));
    attempt(() => client.on(make(), () => {}));
    attempt(() => client.configure(make()));
    client.configure({ apiUrl: 'https://app.example.com', window: world.page });
    assert.equal(client.getUser(make()), null);
    await world.clock.advance(5 * SECOND);
    assert.equal(wrong(world, client), '', what);
    assert.equal(client.isConnected(), true, what);
  }
  await settle(); // what was called and threw was the application's own
  const others = stray.filter(({ message }) => !/^mine$|Class constructors/.test(message));
  assert.deepEqual(others, []);
});

test('a clock that fails: said once, and our own goes on', async () => {
  const bad = {
    'throws when set': (clock) => ({ ...clock, setTimeout() { throw new Error('mine'); } }),
    'does not wait': (clock) => ({ ...clock, setTimeout: (work) => work() }),
    'now is NaN': (clock) => ({ ...clock, now: () => NaN }),
    'now is a BigInt': (clock) => ({ ...clock, now: () => 10n }),
    'time throws': (clock) => ({ ...clock, time() { throw Symbol('s'); } }),
    'no functions': () => ({ now: 1, time: 2, setTimeout: 3, clearTimeout: 4 }),
    'clear throws': (clock) => ({ ...clock, clearTimeout() { throw new Error('mine'); } }),
  };
  for (const [what, make] of Object.entries(bad)) {
    const world = new World();
    const client = await world.client({ clock: make(world.clock), reconnectDelay: 100 });
    const connected = new Promise((resolve) => { client.on('connected', resolve); });
    client.startPresence('alice');
    await world.clock.advance(SECOND);
    await connected;
    const codes = world.told('error').map(({ code }) => code);
    assert.deepEqual(codes, what === 'clear throws' ? [] : ['clock_failed'], what);
    assert.ok(world.clock.asked.every((ms) => ms >= 0));
    const again = new Promise((resolve) => { client.on('connected', resolve); });
    world.last.end(1006);
    assert.ok(world.told('reconnecting').at(-1).delay >= 100, what);
    const pump = setInterval(() => world.clock.advance(SECOND), 10); // the network is the world's
    await again;
    clearInterval(pump);
    client.stopPresence();
    assert.deepEqual([world.live.length, client.state], [0, 'stopped'], what);
  }
});

test('events are told in order, even when a listener of one wakes the client or stops it', async () => {
  const rows = {
    'startPresence': (client) => client.startPresence('alice'),
    'another user': (client) => client.startPresence('bob'),
    'stopPresence': (client) => client.stopPresence(),
    'setStatus': (client) => client.setStatus('busy'),
  };
  for (const [what, act] of Object.entries(rows)) {
    const world = new World();
    const client = await world.client({
      reconnectDelay: 0, WebSocket: class { constructor() { throw new Error('no'); } },
    });
    client.configure({ WebSocket: world.WebSocket });
    client.startPresence('alice');
    await world.clock.advance(15 * SECOND);
    client.configure({ WebSocket: class { constructor() { throw new Error('no'); } } });
    const first = [];
    const second = [];
    let acted = false;
    client.on('change', ({ state }) => {
      first.push(state);
      if (state !== 'reconnecting' || acted) return;
      acted = true;
      act(client);
    });
    for (const type of ['disconnected', 'reconnecting', 'error']) {
      client.on(type, (detail) => first.push(`${type} ${detail.attempt ?? detail.code}`));
    }
    client.on('change', ({ state }) => second.push(state));
    world.last.end(1006);
    await settle();
    assert.deepEqual(first.slice(0, 3), ['reconnecting', 'disconnected 1006', 'reconnecting 1'], what);
    assert.deepEqual(second, first.filter((one) => !one.includes(' ')), `${what}: all hear the same`);
    assert.equal(wrong(world, client), '', what);
    client.stopPresence();
  }
});

test('what alice saw is not called back once bob has begun, not even late', async () => {
  for (const between of [() => {}, (client) => client.stopPresence()]) {
    const server = followable({ forbidden: ['eve'] });
    const world = new World(server);
    const client = await world.connected();
    const heard = [];
    client.watch(['carol', 'dora'], ({ user_id: id, status, stale }) => heard.push(`${id} ${status} ${stale}`),
      ({ userId, code }) => heard.push(`${userId} ${code}`));
    await world.clock.advance(SECOND);
    heard.length = 0;
    server.set([['carol', { status: 'busy' }]]); // called back in a microtask
    world.last.message('{"type":"error","code":"forbidden","message":"x"}');
    between(client);
    client.startPresence('bob');
    await settle();
    assert.deepEqual(heard, []);
    await world.clock.advance(SECOND);
    assert.deepEqual(heard, ['carol busy false', 'dora offline false'], "bob's own");
  }
});

test('at random: callbacks that call in, sockets that misbehave, servers that do', async (t) => {
  const stray = uncaught(t);
  const seed = Number(process.env.HOSTILE_SEED || Date.now() % 1e9);
  t.diagnostic(`HOSTILE_SEED=${seed}`);
  const below = dice(seed);
  const value = () => VALUES[below(VALUES.length)][1]();
  for (let round = 0; round < 120; round++) {
    const world = new World();
    let budget = 0; // how often callbacks may call in before the next action
    let client = null;
    const calls = [
      () => client.startPresence(['alice', 'bob'][below(2)]),
      () => client.stopPresence(),
      () => client.setStatus(['online', 'away', 'busy'][below(3)]),
      () => client.setStatus('busy', { manual: true, message: 'm' }),
      () => client.watch(['carol', 'dora'], callback, callback)(),
      () => client.watch(`u${below(9)}`, callback),
      () => client.configure({ reconnectDelay: below(3000) }),
      () => client.configure({ [OPTIONS[below(12)]]: value() }),
      () => world.page.send(['online', 'offline', 'freeze', 'resume', 'pageshow'][below(5)]),
      () => world.last?.end(1006),
    ];
    const call = () => {
      if (!client || budget <= 0) return;
      budget--;
      attempt(calls[below(calls.length)]);
    };
    const sometimes = (result) => {
      if (below(3) === 0) call();
      if (below(12) === 0) throw value();
      return below(4) ? result : value();
    };
    const mine = () => {
      if (budget < 0) return; // the end of the round
      if (below(3) === 0) call();
      if (below(12) === 0) throw new Error('mine');
    };
    function callback() { mine(); }
    class Rough extends world.WebSocket {
      constructor(...all) {
        if (below(12) === 0) throw value();
        super(...all);
        if (below(6) === 0) call();
        if (below(12) === 0) this.hello();
        if (below(20) === 0) return; // frozen, below
      }

      send(text) {
        if (below(20) === 0) this.end(1006);
        if (below(8) === 0) call();
        if (below(20) === 0) throw value();
        super.send(text);
        if (below(6) === 0) this.message(['pong', '{"type":"snapshot","users":[]}', 'x'][below(3)]);
      }

      close(...all) {
        super.close(...all);
        if (below(4) === 0) call();
        if (below(6) === 0) throw value();
      }
    }
    client = await world.client({
      WebSocket: Rough,
      getToken: () => sometimes(['t1', 't2', Promise.resolve('t3')][below(3)]),
      random: () => sometimes(below(100) / 100),
      debug: () => { if (below(5) === 0) call(); if (below(50) === 0) throw value(); },
      maxReconnectAttempts: below(6),
      giveUp: below(8) === 0,
    });
    for (const type of ['change', 'connected', 'disconnected', 'reconnecting', 'error']) {
      client.on(type, mine);
    }
    const servers = ['up', 'up', 'refuse', 'hang', 'speechless', 'mute', 'trap', (socket) => {
      socket.answer = pong(socket);
      socket.later(() => {
        socket.hello({ heartbeat_seconds: [25, NaN, -1, 'x', {}, 1e9][below(6)],
          max_message: [128, 0, null, 4096, 'x'][below(5)], max_watch: [0, 1, {}, 5][below(4)],
          max_messages_per_second: [1, 0, -1, [], 20][below(5)], spread_ms: [0, -1, 'x', 900][below(4)] });
        socket.message(['{"type":"error","code":{"toString":1}}', '{"type":"spread"}', '[]',
          '{"type":"snapshot","users":{},"more":1}'][below(4)]);
        if (below(2)) socket.end([1011, 4401, 4403, 1012, 4429, 1009, NaN, 'x'][below(8)], value());
      });
    }];
    for (let step = 0; step < 40; step++) {
      budget = 5;
      if (below(4) === 0) world.server = servers[below(servers.length)];
      else attempt(calls[below(calls.length)]);
      const name = `seed ${seed}, round ${round}, step ${step}`;
      assert.equal(wrong(world, client), '', name);
      await world.clock.advance(below(3) ? below(2000) : below(MINUTE));
      assert.equal(wrong(world, client), '', name);
    }
    budget = -1;
    world.server = 'up';
    client.configure({ WebSocket: world.WebSocket, getToken: () => `fine${round}`, random: () => 0,
      reconnectDelay: 1000, maxReconnectDelay: 30000, probeDelay: 30000, connectTimeout: 10000,
      probeTimeout: 5000, heartbeatInterval: 25000, maxReconnectAttempts: 5, debug: false,
      apiUrl: 'https://app.example.com', giveUp: false });
    client.stopPresence();
    client.startPresence('alice');
    await world.clock.advance(2 * LATENCY + MINUTE);
    assert.equal(client.isConnected(), true, `seed ${seed}, round ${round}: ${client.state}`);
    client.stopPresence();
    assert.equal(wrong(world, client), '', `seed ${seed}, round ${round}: at the end`);
  }
  await settle(); // what is uncaught is told behind what it was thrown in
  assert.deepEqual(stray.filter((error) => error?.message !== 'mine'), []);
});
