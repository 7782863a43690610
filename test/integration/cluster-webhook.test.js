'use strict';
// --webhook-url in a cluster: of three nodes one posts what happens at all of them, another goes on
// when that one is gone, and nobody posts while nobody can know what the others do.
const assert = require('node:assert/strict');
const { test, start, startReceiver, connect, heartbeat, openEvents, get, stats, until, throughout, cleanup, delay, dice,
  heavy, slow } = require('./lib');
const { startRedis } = require('./lib/engine');

const LOG = [/msg="cluster: /, /webhook: cannot deliver/, /webhook: \S+ takes changes again/];
const BEATS_MS = 10000; // five beats: a node that is silent for so long is taken for dead

const settled = async (node) => JSON.parse((await get(node, '/readyz')).text).cluster === 'settled';
const hook = async (node) => (await stats(node)).webhook;

/** Nodes a, b, c ... of a cluster, all settled, and the receiver that they tell. */
async function startCluster(t, { count = 3, args = [] } = {}) {
  const engine = await startRedis(t);
  const receiver = await startReceiver(t, { clustered: true });
  const options = (name) => ({ allow: LOG, args: ['--cluster', `redis://127.0.0.1:${engine.port}/test`, '--node-name', name,
    ...receiver.args.map((one) => (one === receiver.url ? `${one}?${name}` : one)), '--online-threshold', '10m', ...args] });
  const nodes = await Promise.all(['a', 'b', 'c'].slice(0, count).map(async (name) => {
    const node = await start(t, options(name));
    return Object.assign(node, { name, options: options(name) });
  }));
  for (const node of nodes) await until(`${node.name} to settle`, () => settled(node), { within: 20000 * slow });
  await receiver.until('the reset', () => receiver.changes.length === 1, { within: 10000 * slow });
  assert.equal(receiver.changes[0].change, 'reset');
  await until('nothing to wait', async () => (await Promise.all(nodes.map(hook))).every((one) => one.pending === 0), { within: 10000 * slow });
  /** The name of the node that posts. */
  const poster = () => receiver.requests.at(-1).path.split('?')[1];
  return { engine, receiver, nodes, poster };
}

/** A stream's changes, as the webhook has them. */
const streamed = (stream) => stream.events.filter((one) => one.event === 'change' && one.data.change !== 'connections').map((one) => one.data);
const places = (events) => events.map((one) => [one.position, one.change, one.user?.user_id].join(' '));

/** Users come and go by sockets at random nodes, until stop() is called: many at first, and then a hundred a second, since
 *  most of these tests wait meanwhile for a node to be taken for dead. */
function load(nodes, seed) {
  const random = dice(seed);
  const held = [];
  let number = 0;
  let over = false;
  const work = (async () => {
    while (!over) {
      const alive = nodes.filter((node) => !node.stopped && !node.asleep);
      const node = alive[random(alive.length)];
      if (random(3) || !held.length) {
        await heartbeat(node, `user-${number++}`).catch((error) => {
          if (!node.stopped && !node.asleep) throw error;
        });
      } else {
        held.push(null);
        held.pop();
        const client = held.splice(random(held.length), 1)[0];
        await client.close().catch(() => {});
      }
      if (!random(4) && !node.stopped && !node.asleep)
        held.push(await connect(node, `held-${number++}`).catch(() => null));
      for (let i = held.length - 1; i >= 0; i--) if (!held[i]) held.splice(i, 1);
      if (number > heavy(2000, 400)) await delay(10);
    }
  })();
  return {
    stop: async () => {
      over = true;
      await work;
      return number;
    },
  };
}

/** Waits until the receiver has all that a stream had, and compares. */
async function compare(receiver, stream, ms = 15000) {
  const wanted = () => {
    const first = streamed(stream)[0].position;
    return [places(streamed(stream)), places(receiver.changes.slice(receiver.changes.findIndex((one) => one.position === first)))];
  };
  await receiver.until('all changes', () => {
    const [all, told] = wanted();
    return told.length >= all.length;
  }, { within: ms * slow }).catch((error) => {
    const [all, told] = wanted();
    throw new Error(`${all.length} changes, ${told.length} told; missing ${all.filter((one) => !told.includes(one)).slice(0, 5)}`, { cause: error });
  });
  const [all, told] = wanted();
  assert.deepEqual(told, all);
  assert.equal(receiver.problem, null);
}

test('every change at any node is posted once, in order, by one node', { timeout: 90000 * slow }, async (t) => {
  const { receiver, nodes, poster } = await startCluster(t);
  const stream = await openEvents(nodes[0], { gaps: true });
  const working = load(nodes, 1);
  await until('changes', () => streamed(stream).length > heavy(1500, 200), { within: 60000 * slow });
  await working.stop();
  await until('nothing to wait', async () => (await Promise.all(nodes.map(hook))).every((one) => one.pending === 0), { within: 10000 * slow });
  await compare(receiver, stream);
  assert.equal(receiver.repeats, 0);
  assert.equal(new Set(receiver.requests.map((one) => one.path)).size, 1, 'one node posts');
  for (const node of nodes) {
    const { delivered, dead } = await hook(node);
    assert.equal(dead, 0);
    assert.equal(delivered > 0, node.name === poster());
  }
});

test('kill -9 of the node that posts: another goes on, nothing is missing', { timeout: 120000 * slow }, async (t) => {
  const { receiver, nodes, poster } = await startCluster(t);
  const victim = nodes.find((node) => node.name === poster());
  const others = nodes.filter((node) => node !== victim);
  const stream = await openEvents(others[0], { gaps: true });
  const working = load(nodes, 2);
  await until('changes', () => receiver.changes.length > heavy(300, 50), { within: 30000 * slow });
  await victim.kill();
  const known = receiver.requests.length;
  await until('another to post', () => receiver.requests.length > known + 3, { within: (BEATS_MS + 15000) * slow });
  assert.notEqual(poster(), victim.name);
  await working.stop();
  await compare(receiver, stream);
  // It comes back with an outbox that has a gap, and takes nothing away from who posts now.
  const now = poster();
  const back = await start(t, { data: victim.data, ...victim.options });
  await until('it to settle', () => settled(back), { within: 20000 * slow });
  await heartbeat(back, 'the-last');
  await compare(receiver, stream);
  assert.equal(poster(), now);
  await until('nothing to wait', async () => (await hook(back)).pending === 0, { within: 10000 * slow });
  assert.ok(receiver.changes.filter((one) => one.change === 'reset').length === 1, 'no other reset');
});

test('a node that posts and stops in order hands on at once', { timeout: 120000 * slow }, async (t) => {
  const { receiver, nodes, poster } = await startCluster(t);
  const rest = [...nodes];
  for (let round = 0; round < 2; round++) {
    const index = rest.findIndex((node) => node.name === poster());
    const [leaver] = rest.splice(index, 1);
    const stream = await openEvents(rest[0], { gaps: true });
    const working = load(rest, 3 + round);
    await until('changes', () => streamed(stream).length > heavy(200, 30), { within: 30000 * slow });
    await leaver.stop();
    await until('another to post', () => poster() !== leaver.name, { within: 5000 * slow });
    await working.stop();
    await compare(receiver, stream);
    stream.cut();
  }
});

test('a node that posts and is stopped for 15 s: another goes on, and it does not post when it goes on', { timeout: 150000 * slow }, async (t) => {
  const { receiver, nodes, poster } = await startCluster(t);
  const victim = nodes.find((node) => node.name === poster());
  const others = nodes.filter((node) => node !== victim);
  const stream = await openEvents(others[0], { gaps: true });
  const working = load(nodes, 5);
  await until('changes', () => receiver.changes.length > heavy(300, 50), { within: 30000 * slow });
  victim.asleep = true;
  victim.signal('SIGSTOP');
  cleanup(t, () => victim.signal('SIGCONT'));
  const since = Date.now();
  await until('15 s, and another to post', () => Date.now() - since > 15000 && poster() !== victim.name, { within: (BEATS_MS + 15000) * slow });
  const known = receiver.requests.length;
  victim.signal('SIGCONT');
  await until('it to join', async () => receiver.requests.length > known + 20 && settled(victim), { within: 20000 * slow });
  await throughout(3000, () => receiver.until('no problem', () => true));
  await working.stop();
  await compare(receiver, stream);
  const late = receiver.requests.slice(known).filter((one) => one.path.endsWith(`?${victim.name}`));
  assert.deepEqual(late.map((one) => one.delivery), []);
});

test('the engine is away: nothing is posted, then a reset and what comes', { timeout: 120000 * slow }, async (t) => {
  const { engine, receiver, nodes } = await startCluster(t);
  await heartbeat(nodes[0], 'before');
  await receiver.until('it', () => receiver.changes.length === 2);
  await until('all to know that it was taken', async () => (await Promise.all(nodes.map(hook))).every((one) => one.pending === 0), { within: 5000 * slow });
  await engine.kill();
  await until('all to be alone', async () => !(await Promise.all(nodes.map(settled))).some(Boolean), { within: 10000 * slow });
  const known = receiver.requests.length;
  const dead = (await Promise.all(nodes.map(hook))).map((one) => one.dead);
  for (let i = 0; i < 30; i++) await heartbeat(nodes[i % 3], `alone-${i}`);
  await throughout(6000, () => assert.equal(receiver.requests.length, known));
  await engine.begin();
  for (const node of nodes) await until(`${node.name} to settle`, () => settled(node), { within: 25000 * slow });
  await heartbeat(nodes[1], 'behind');
  await receiver.until('it', () => receiver.changes.at(-1).user?.user_id === 'behind', { within: 10000 * slow });
  assert.deepEqual(places(receiver.changes).map((one) => one.split(' ').slice(1).join(' ')),
    ['reset ', 'join before', 'reset ', 'join behind']);
  for (const { events } of receiver.requests)
    assert.ok(events.length === 1 || events.every((one) => one.change !== 'reset'), 'a reset comes by itself');
  assert.deepEqual((await Promise.all(nodes.map(hook))).map((one, i) => one.dead - dead[i]), [10, 10, 10], 'what was not told is counted');
});

test('what was not taken before the engine was emptied is posted before the reset', { timeout: 120000 * slow }, async (t) => {
  const { engine, receiver, nodes } = await startCluster(t);
  receiver.answer = () => 503;
  const stream = await openEvents(nodes[0], { gaps: true });
  for (let i = 0; i < 60; i++) await heartbeat(nodes[i % 3], `waits-${i}`);
  await until('all to be stored', async () => {
    assert.deepEqual((await Promise.all(nodes.map(hook))).map((one) => one.pending), [60, 60, 60]);
    return true;
  }, { within: 5000 * slow });
  await until('the stream', () => streamed(stream).length === 60);
  const waiting = places(streamed(stream));
  stream.cut();
  await engine.kill();
  await engine.begin();
  receiver.answer = () => 200;
  await until('all to settle', async () => (await Promise.all(nodes.map(settled))).every(Boolean), { within: 30000 * slow });
  await receiver.until('the second reset', () => receiver.changes.filter((one) => one.change === 'reset').length === 2, { within: 20000 * slow });
  const told = places(receiver.changes);
  assert.deepEqual(told.slice(1, -1), waiting);
  await until('nothing to wait', async () => (await Promise.all(nodes.map(hook))).every((one) => one.pending === 0), { within: 10000 * slow });
  assert.deepEqual((await Promise.all(nodes.map(hook))).map((one) => one.dead), [0, 0, 0]);
});
