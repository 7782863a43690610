'use strict';
// The client keeps the limits that the server's hello tells, says what they make impossible, and
// does not come back with all others at once.

const test = require('node:test');
const assert = require('node:assert/strict');
const { setMaxListeners } = require('node:events');
const { World, LATENCY, followable } = require('./lib/world');
const { dice } = require('../integration/lib/random');

const SECOND = 1000;
const MINUTE = 60 * SECOND;

const idsOf = (count, length = 8) => (
  Array.from({ length: count }, (_, i) => `u${String(i).padStart(length - 1, '0')}`));

test('--max-message 2048 and 900 watched users: one connection, every message fits', async () => {
  const world = new World(followable({ bytes: 2048, tells: true }));
  const client = await world.connected();
  const known = new Set();
  client.watch(idsOf(900), ({ user_id: id }) => known.add(id));
  await world.clock.advance(MINUTE);
  assert.deepEqual([world.sockets.length, known.size, world.told('error')], [1, 900, []]);
  const sizes = world.last.sent.map((text) => Buffer.byteLength(text));
  assert.ok(Math.max(...sizes) <= 2048, `${Math.max(...sizes)} bytes`);
});

test('--max-messages-per-second 5, 2, 1: no 4429, all are followed in the end', async () => {
  for (const rate of [5, 2, 1]) {
    const server = followable({ rate, tells: true });
    const world = new World(server);
    const client = await world.client();
    const known = new Set();
    client.setStatus('busy');
    client.setStatus('away', { manual: true });
    client.watch(idsOf(900), ({ user_id: id }) => known.add(id));
    client.startPresence('alice');
    for (let i = 0; i < 100; i++) { // and the page is restless
      world.page.send('offline');
      world.page.send('online');
      client.setStatus(i % 2 ? 'busy' : 'online');
      if (i % 10 === 0) client.setStatus('busy', { manual: true });
      await world.clock.advance(100);
    }
    await world.clock.advance(2 * MINUTE);
    assert.deepEqual([world.sockets.length, known.size, world.told('error')], [1, 900, []], `${rate}`);
    const last = world.last.sent.filter((text) => /"status"/.test(text) && !/manual/.test(text)).at(-1);
    assert.equal(JSON.parse(last).status, 'busy', 'the last status wanted is the last one sent');
  }
});

test('a server that does not tell its limits: after 1009 or 4429 half as much, and all goes well', async () => {
  for (const limits of [{ bytes: 1024 }, { rate: 5 }, { bytes: 512, rate: 3 }]) {
    const world = new World(followable(limits));
    const client = await world.client();
    const known = new Set();
    client.watch(idsOf(900, 100), ({ user_id: id }) => known.add(id));
    client.startPresence('alice');
    await world.clock.advance(5 * MINUTE);
    assert.equal(client.isConnected(), true);
    assert.equal(known.size, 900, JSON.stringify(limits));
    assert.ok(world.sockets.length <= 6, `${world.sockets.length} sockets`);
    const codes = world.told('error').map(({ code }) => code);
    assert.ok(codes.length > 0 && codes.every((code) => /^(closed_1009|too_fast)$/.test(code)), codes.join());
    const { length } = world.sockets;
    await world.clock.advance(60 * MINUTE);
    assert.equal(world.sockets.length, length, 'no loop');
  }
});

test('what the limits make impossible is an error, once, and nothing is sent', async () => {
  const world = new World(followable({ bytes: 128, max: 5, tells: true }));
  const client = await world.connected();
  const told = [];
  const long = ['"'.repeat(128), '\\'.repeat(100)];
  client.watch(['a', ...long, 'b', 'c'], ({ user_id: id }) => told.push(id),
    ({ userId, code, message }) => told.push(`${userId[0]} ${code} ${message}`));
  client.setStatus('busy', { manual: true, message: 'é'.repeat(140) });
  await world.clock.advance(MINUTE);
  assert.deepEqual(told.sort(), [
    '" message_too_large the limit of the server is 128',
    '\\ message_too_large the limit of the server is 128', 'a', 'b', 'c',
  ]);
  assert.deepEqual(world.told('error').map(({ code }) => code), ['message_too_large', 'message_too_large']);
  const refused = [];
  const ends = idsOf(4).map((id) => client.watch(id, () => {}, ({ code, userId }) => refused.push(`${userId} ${code}`)));
  await world.clock.advance(MINUTE);
  assert.deepEqual(refused, ['u0000002 too_many_watched', 'u0000003 too_many_watched']);
  assert.equal(world.told('error').length, 3);
  assert.equal(world.last.follows.size, 5);
  ends[0]();
  await world.clock.advance(MINUTE);
  assert.deepEqual([...world.last.follows].sort(), ['a', 'b', 'c', 'u0000001', 'u0000002']);
  assert.deepEqual([refused.length, world.sockets.length], [2, 1]);
  const none = new World(followable({ max: 0, tells: true }));
  const other = await none.connected();
  other.watch(idsOf(3), () => assert.fail('nobody can be followed'));
  await none.clock.advance(MINUTE);
  assert.deepEqual([none.last.sent.filter((text) => text !== 'ping'), none.told('error').length], [[], 1]);
});

test('whom the server refuses takes no place from who can be followed', async () => {
  const world = new World(followable({ max: 3, tells: true, forbidden: ['x', 'y'] }));
  const client = await world.connected();
  const told = [];
  client.watch(['x', 'a', 'y', 'b', 'c', 'd'], ({ user_id: id }) => told.push(id),
    ({ userId, code }) => told.push(`${userId} ${code}`));
  await world.clock.advance(MINUTE);
  assert.equal(told.filter((one) => one.length === 1).length, 3);
  assert.equal(told.filter((one) => / (forbidden|too_many_watched)$/.test(one)).length, 3);
  assert.equal(world.last.follows.size, 3);
});

// The first of them once found a page that froze too often for a message a second.
for (const seed of [979567409, Number(process.env.LIMITS_SEED || Date.now() % 1e9)]) test(`at random: whatever the limits are, they are kept, and what can be followed is (LIMITS_SEED=${seed})`, async () => {
  const below = dice(seed);
  for (let round = 0; round < 60; round++) {
    const name = `seed ${seed}, round ${round}`;
    const rate = [0, 1, 2, 3, 5, 10, 20, 100][below(8)];
    const bytes = [128, 200, 512, 2048, 4096, 65536][below(6)];
    const max = [0, 1, 10, 100, 1000][below(5)];
    const forbidden = idsOf(below(20), 12);
    const world = new World(followable({ rate, bytes, max, forbidden, tells: true }));
    const client = await world.client({ random: () => below(100) / 100 });
    client.startPresence('alice');
    const watches = [];
    for (let step = 0; step < 30; step++) {
      const dice = below(8);
      if (dice < 3) {
        const ids = idsOf(below(200), below(2) ? 12 : 4 + below(120));
        watches.push({ ids, end: client.watch(ids, () => {}) });
      } else if (dice === 3 && watches.length) watches.splice(below(watches.length), 1)[0].end();
      else if (dice === 4) client.setStatus(['online', 'away', 'busy'][below(3)]);
      else if (dice === 5) client.setStatus('busy', { manual: true, message: 'x'.repeat(below(140)) });
      else if (dice === 6) world.page.send(['online', 'offline', 'freeze', 'resume'][below(4)]);
      else if (below(4) === 0) world.last?.end(1006);
      await world.clock.advance(below(2000));
    }
    await world.clock.advance(20 * MINUTE);
    assert.equal(client.isConnected(), true, name);
    const closes = new Set(world.told('disconnected').map(({ code }) => code));
    closes.delete(1006);
    assert.deepEqual([...closes], [], `${name}: rate ${rate}, ${bytes} bytes, ${max} users`);
    for (const { sent } of world.sockets) {
      for (const text of sent) assert.ok(Buffer.byteLength(text) <= bytes, `${name}: ${text.length}`);
    }
    const wanted = new Set(watches.flatMap(({ ids }) => ids)
      .filter((id) => !forbidden.includes(id) && id.length + 33 <= bytes));
    assert.equal(world.last.follows.size, Math.min(wanted.size, max), `${name}: as many as can be`);
    for (const { end } of watches) end();
    client.stopPresence();
  }
});

test('a page that freezes again and again is not closed for it, and says in the end what it is', async () => {
  for (const rate of [1, 2, 5]) {
    const world = new World(followable({ rate, tells: true }));
    const client = await world.connected();
    for (let i = 0; i < 60; i++) {
      world.page.send(i % 2 ? 'resume' : 'freeze');
      await world.clock.advance(100);
    }
    world.page.send('freeze');
    await world.clock.advance(10000);
    assert.deepEqual([world.sockets.length, client.isConnected()], [1, true], `${rate}`);
    assert.equal(JSON.parse(world.last.sent.filter((text) => /"status"/.test(text)).at(-1)).status, 'away');
  }
});

test('a network that holds messages back and lets them go at once: no 4429', async () => {
  for (const rate of [5, 20]) {
    const world = new World(followable({ rate, tells: true }));
    const client = await world.connected();
    const known = new Set();
    client.watch(idsOf(1000, 100), ({ user_id: id }) => known.add(id));
    const { last } = world;
    const { answer } = last;
    let held = [];
    last.answer = (text) => held.push(text);
    for (let i = 0; i < 400; i++) {
      await world.clock.advance(i % 7 ? 50 : 700);
      const now = held;
      held = [];
      for (const text of now) answer(text);
    }
    last.answer = answer;
    await world.clock.advance(MINUTE);
    assert.deepEqual([world.told('disconnected'), known.size], [[], 1000]);
  }
});

// ---- Coming back -------------------------------------------------------------------------------

/** 200 clients of one server that dies: when each tries first, in ms after that. */
async function comeBack(greeting, { spread, code = 1006 } = {}) {
  const below = dice(5);
  const world = new World();
  setMaxListeners(0, world.page);
  world.greeting = greeting;
  const clients = [];
  for (let i = 0; i < 200; i++) {
    const client = await world.client({ random: () => below(1e6) / 1e6 });
    client.startPresence(`user-${i}`);
    clients.push(client);
  }
  await world.clock.advance(20 * SECOND);
  const first = [...world.sockets];
  if (spread !== undefined) {
    for (const one of first) one.message(JSON.stringify({ type: 'spread', spread_ms: spread }));
  }
  const died = world.clock.ms;
  for (const one of first) one.end(code);
  await world.clock.advance(5 * MINUTE);
  const tries = world.sockets.slice(200).map(({ began }) => began - died);
  assert.equal(tries.length, 200, 'one each');
  assert.ok(clients.every((one) => one.isConnected()));
  for (const one of clients) one.stopPresence();
  return tries;
}

/** The most of them in 100 ms, wherever these begin. */
function fullest(tries) {
  const sorted = [...tries].sort((a, b) => a - b);
  return Math.max(...sorted.map((at, i) => sorted.slice(i).filter((one) => one < at + 100).length));
}

test('P08 200 clients whose server dies: first tries in no 100 ms more than a tenth', async () => {
  for (const [greeting, options] of [
    [{ spread_ms: 3000 }, {}],
    [{ spread_ms: 0 }, { spread: 3000 }],
    [{ spread_ms: 3000 }, { spread: 20000 }],
  ]) {
    const tries = await comeBack(greeting, options);
    const most = options.spread ?? 3000;
    assert.ok(fullest(tries) <= 20, `${fullest(tries)} of 200`);
    assert.ok(Math.min(...tries) >= 1000 && Math.max(...tries) <= 1100 + most, 'as late as was told');
    assert.ok(Math.max(...tries) > 0.9 * most, 'over all of it');
  }
});

test('a small server sees no change: the first try after 1 s and a tenth', async () => {
  for (const greeting of [{}, { spread_ms: 0 }, { spread_ms: null }, { spread_ms: -5 }, { spread_ms: 'x' }]) {
    const tries = await comeBack(greeting);
    assert.ok(tries.every((at) => at >= 1000 && at <= 1100), JSON.stringify(greeting));
  }
  const closed = await comeBack({ spread_ms: 3000 }, { code: 1011 });
  assert.ok(closed.every((at) => at >= 1000 && at <= 1100), 'a close frame is no broken line');
  const less = await comeBack({ spread_ms: 3000 }, { spread: 0 });
  assert.ok(less.every((at) => at >= 1000 && at <= 1100), 'the latest word counts');
});

test('only the first try is spread; the delays after it stay, and a page that wakes does not wait', async () => {
  const world = new World();
  world.greeting = { spread_ms: 60000 };
  const client = await world.client({ random: () => 0.5 });
  client.startPresence('alice');
  await world.clock.advance(20 * SECOND);
  world.server = 'refuse';
  world.last.end(1006);
  await world.clock.advance(3 * MINUTE);
  assert.deepEqual(
    world.told('reconnecting').map(({ delay }) => delay),
    [1050 + 30000, 2100, 4200, 8400, 16800],
  );
  world.server = 'up';
  await world.clock.advance(MINUTE);
  await world.clock.advance(20 * SECOND);
  world.last.end(1006);
  const { length } = world.sockets;
  await world.clock.advance(2 * SECOND);
  world.page.send('online');
  await world.clock.advance(2 * LATENCY);
  assert.deepEqual([world.sockets.length, client.isConnected()], [length + 1, true]);
});
