'use strict';
// Ten nodes, as more are rarely needed: all of them have all users, also when one dies; and what a
// quiet cluster costs its engine, of three nodes and of ten, since nobody pays for that but once.

const assert = require('node:assert/strict');
const { test, ahead, crowd, delay, json, until, slow } = require('../integration/lib');
const { startCluster } = require('../integration/lib/cluster');
const { checkCluster } = require('../integration/lib/cluster-checker');
const { startRedis, noEngine } = require('../integration/lib/engine');

const NODES = 10;
const USERS = 2000;
const THRESHOLD = 30000;
const ARGS = ['--online-threshold', `${THRESHOLD}ms`, '--ping-interval', '5s', '--pong-timeout', '10s', '--grace', '5s', '--max-pending-per-address', '100000'];
const QUIET = 30; // s: fifteen beats
const SEEN = 75; // s: three pings to each user, and as many digests

const names = (count) => [...'abcdefghij'].slice(0, count);

/** Waits until all living nodes show these users online, and nobody else. */
async function shown(all, count, options) {
  for (const node of all.living)
    await until(`${count} online on ${node.name}`, async () => (await json(node.server, '/admin/stats')).users.online === count, options);
}

test('ten nodes have the same 2,000 users, and when one is killed its users leave once', { skip: noEngine, timeout: 300000 * slow }, async (t) => {
  ahead.ms = 500;
  const all = await startCluster(t, { nodes: names(NODES), args: ARGS, allow: [/cannot reach the engine/] });
  const victim = all.nodes[NODES - 1];
  const crowds = all.nodes.map((node) => crowd(t, node.server, { prefix: `${node.name}-`, count: USERS / NODES }));
  await Promise.all(crowds.map((one) => one.connect(20)));
  await shown(all, USERS, { within: 30000 * slow });
  const lost = new Map(Array.from({ length: USERS / NODES }, (_, i) => [`${victim.name}-${i}`, { at: Date.now() }]));
  await victim.kill();
  await shown(all, USERS - lost.size, { within: THRESHOLD + 30000 * slow, every: 200 });
  const online = new Set();
  for (const node of all.living) for (let i = 0; i < USERS / NODES; i++) online.add(`${node.name}-${i}`);
  const held = new Map([...online].map((id) => [id, new Set([id[0]])]));
  await checkCluster(all, { held, lost, online });
  for (const { name } of all.living)
    assert.equal(all.logs[name].changes.filter(({ change, reason }) => change === 'leave' && reason === 'node_lost').length, lost.size, name);
  await victim.begin(); // it has all of them again
  await shown(all, online.size, { within: 30000 * slow });
  await checkCluster(all, { held, online });
  await all.stop();
});

/** Bytes a second into the engine and out of it while nothing happens but signs of life. */
async function quietBytes(t, count, users, seconds) {
  const engine = await startRedis(t);
  const all = await startCluster(t, { nodes: names(count), engine, args: ['--max-pending-per-address', '100000'], events: false });
  const crowds = all.nodes.map((node) => crowd(t, node.server, { prefix: `${node.name}-`, count: users / count }));
  await Promise.all(crowds.map((one) => one.connect(20)));
  await shown(all, users, { within: 30000 * slow });
  const totals = async () => [Number(await engine.info('total_net_input_bytes')), Number(await engine.info('total_net_output_bytes'))];
  const before = await totals();
  await delay(seconds * 1000); // what is measured is a time in which nothing happens
  const after = await totals();
  for (const one of crowds) one.drop();
  await all.stop();
  await engine.stop();
  return after.map((bytes, i) => Math.round((bytes - before[i]) / seconds));
}

test('a quiet cluster costs its engine beats and digests of who was seen, and no more', { skip: noEngine, timeout: 300000 * slow }, async (t) => {
  for (const [count, users, seconds] of [[3, 0, QUIET], [NODES, 0, QUIET], [NODES, USERS, SEEN]]) {
    const [into, out] = await quietBytes(t, count, users, seconds);
    t.diagnostic(`${count} nodes, ${users} users: ${into} B/s into the engine, ${out} B/s out of it`);
    // A beat of some hundred bytes every 2 s from each node, read by each and then waited for again;
    // of a user some bytes, at most every 15 s.
    const [wakes, seen] = [count * count * 150, users * 10];
    assert.ok(into < wakes + count * 300 + seen && out < wakes + seen * count, `${into} and ${out} B/s`);
  }
});
