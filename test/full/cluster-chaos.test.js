'use strict';
// Three nodes, while nodes and the engine are killed, stopped, emptied and cut off at random, under a
// load that holds the sockets and so knows the truth. In the end: no user doubled, missing, falsely
// gone, or there as a ghost, and all nodes tell one story.
// CHAOS_SECONDS: how long it goes on; SEED: the same decisions again; FAULTS: only these, by name.

const assert = require('node:assert/strict');
const { test, ahead, dice: seeded, slow } = require('../integration/lib');
const { startCluster, startClusterReceiver } = require('../integration/lib/cluster');
const { Chaos } = require('../integration/lib/cluster-chaos');
const { untilGone, checkCluster } = require('../integration/lib/cluster-checker');
const { ClusterLoad } = require('../integration/lib/cluster-load');
const { startRedis, noEngine } = require('../integration/lib/engine');

const SECONDS = Number(process.env.CHAOS_SECONDS || 240);
const SEED = Number(process.env.SEED || 1 + (Date.now() % 1000000));
const ONLY = process.env.FAULTS?.split(',');
const THRESHOLD = 30000;
const EVICTION = 15000; // five beats, and some more

const ARGS = ['--online-threshold', `${THRESHOLD}ms`, '--ping-interval', '5s', '--pong-timeout', '10s', '--grace', '5s',
  '--max-messages-per-second', '0'];

test(`nodes and the engine die, stop and are cut off, and all nodes tell one true story (SEED=${SEED})`, {
  skip: noEngine, timeout: (SECONDS + 300) * 1000 * slow,
}, async (t) => {
  ahead.ms = 500; // a clock that is asked through a stalled connection may be off by half the second it has
  t.diagnostic(`SEED=${SEED} CHAOS_SECONDS=${SECONDS}`);
  const dice = seeded(SEED);
  const receiver = await startClusterReceiver(t);
  const engine = await startRedis(t, { keep: true });
  const all = await startCluster(t, { engine, args: [...ARGS, ...receiver.args], allow: [/msg="webhook: /, /cannot reach the engine/] });
  const load = new ClusterLoad(all, dice, { threshold: THRESHOLD - EVICTION });
  await load.begin({ holders: 100, visitors: 30 });
  const chaos = new Chaos(t, all, load, dice, { only: ONLY });
  await chaos.run(SECONDS);
  assert.ok(Object.keys(chaos.done).length >= Math.min(ONLY?.length ?? 8, SECONDS / 10), JSON.stringify(chaos.done));
  t.diagnostic(JSON.stringify(chaos.done));

  await all.ready();
  await load.calm();
  const truth = load.truth();
  assert.ok(truth.held.size >= 90, `${truth.held.size} held a socket throughout`);
  // nobody is a ghost for longer than the threshold and 15 s
  await untilGone(t, all, truth.online, THRESHOLD + 15000 * slow);
  // what a node that was killed alone had seen last is its own knowledge: as much as a digest
  await checkCluster(all, { ...truth, exact: 15000, posts: receiver.posts ?? [] });
  await load.end();
  await all.stop();
});
