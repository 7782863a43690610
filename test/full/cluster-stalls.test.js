'use strict';
// An engine that stalls again and again, at moments at random: what waited in it is done all at once
// when it goes on, behind the back of those who have given up waiting. Nobody ends by that, and all
// come back.
// STALLS: how many; SEED: the same moments again, as far as a machine keeps time.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, delay, dice: seeded, start, tempDir, within, slow } = require('../integration/lib');
const { startCluster, PREFIX } = require('../integration/lib/cluster');
const { noEngine } = require('../integration/lib/engine');

const STALLS = Number(process.env.STALLS || 20);
const SEED = Number(process.env.SEED || 1 + (Date.now() % 1000000));
const ARGS = ['--max-messages-per-second', '0'];
const BACK = { within: 30000 * slow };

/** The engine stands still for so long: it takes commands, and does them later. */
async function stall(engine, ms) {
  engine.pause();
  await delay(ms);
  engine.resume();
}

/** Users who change all the time, so that there is always an entry on its way; gives what ends them. */
async function restless(nodes, count) {
  const clients = [];
  for (let i = 0; i < count; i++) clients.push(await nodes[i % nodes.length].connect(`u${i}`));
  let turn = 0;
  const timer = setInterval(() => {
    clients[turn++ % count].send({ type: 'status', status: ['away', 'busy', 'online'][turn % 3] });
  }, 3);
  return () => clearInterval(timer);
}

test(`a node that has just started lives through an engine that stalls (SEED=${SEED})`, { skip: noEngine, timeout: 400000 * slow }, async (t) => {
  const dice = seeded(SEED);
  const all = await startCluster(t, { args: ARGS, events: false });
  for (let round = 0; round < STALLS / 4; round++) {
    await all.a.restart({ ready: false });
    for (let i = 0; i < 4; i++) {
      await stall(all.engine, 1500 + dice(1000));
      await delay(dice(1000));
    }
    await all.ready(BACK);
    assert.equal(all.a.server.result, null, all.a.server.stderr);
  }
  await all.stop();
});

test('of two nodes, of which one has a copy of the other\'s store, one stops', { skip: noEngine, timeout: 120000 * slow }, async (t) => {
  const all = await startCluster(t, { nodes: 2, args: ARGS, events: false, allow: [/with a copy of the store/] });
  await all.a.stop();
  const data = path.join(tempDir(t), 'copy');
  fs.cpSync(all.a.data, data, { recursive: true });
  await all.a.begin();
  const args = ['--cluster', `redis://127.0.0.1:${all.engine.port}/${PREFIX}`, '--node-name', 'a', ...ARGS];
  const both = [all.a.server, await start(t, { data, args, allow: [/cluster: /] })];
  const { code } = await within(90000 * slow, 'one of them to stop', Promise.race(both.map((one) => one.ended)));
  assert.equal(code, 2);
  assert.match(both.find((one) => one.result).stderr, /is in the cluster already; give this one an empty --data/);
  for (const one of both) { // they started in one minute: the other one may stop as well
    one.stopped = true;
    one.child.kill('SIGKILL');
    await one.ended;
  }
  await all.stop();
});

test(`nodes that end one epoch at the same moment are all in the next (SEED=${SEED})`, { skip: noEngine, timeout: 400000 * slow }, async (t) => {
  const dice = seeded(SEED);
  const all = await startCluster(t, { nodes: 2, args: ARGS, events: false });
  const rest = await restless(all.nodes, 40);
  t.after(rest);
  for (let round = 0; round < STALLS; round++) {
    await stall(all.engine, 1500 + dice(2000)); // both are alone, and want to join the other
    await delay(2800 + dice(900)); // both are about to find that there is nobody who could let them in
    await stall(all.engine, 300 + dice(500)); // too short to be alone: what they do meets in the engine
    await all.ready(BACK);
    for (const { name, server } of all.nodes) {
      const said = server.lines.filter((line) => /a new epoch"$/.test(line)).length;
      assert.ok(said <= 3 * (round + 1), `${name} says that it begins a new epoch ${said} times in ${round + 1} stalls`);
    }
  }
  rest();
  await all.stop();
});
