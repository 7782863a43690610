'use strict';
// Three nodes, while nodes and the engine are killed, stopped, emptied and cut off at random, under a
// load that holds the sockets and so knows the truth. In the end: no user doubled, missing, falsely
// gone, or there as a ghost, and all nodes tell one story.
// CHAOS_SECONDS: how long it goes on; SEED: the same decisions again.

const assert = require('node:assert/strict');
const { test, ahead, delay, dice: seeded, until, slow } = require('../integration/lib');
const { startCluster, startClusterReceiver } = require('../integration/lib/cluster');
const { checkCluster } = require('../integration/lib/cluster-checker');
const { ClusterLoad } = require('../integration/lib/cluster-load');
const { startRedis, keysOf, noEngine } = require('../integration/lib/engine');

const SECONDS = Number(process.env.CHAOS_SECONDS || 240);
const SEED = Number(process.env.SEED || 1 + (Date.now() % 1000000));
const THRESHOLD = 30000;
const PAUSE = 12000; // the longest stop: enough for an eviction, less than the threshold
const EVICTION = 15000; // five beats, and some more

const ARGS = ['--online-threshold', `${THRESHOLD}ms`, '--ping-interval', '5s', '--pong-timeout', '10s', '--grace', '5s',
  '--max-messages-per-second', '0'];

class Chaos {
  constructor(t, all, load, dice) {
    Object.assign(this, { t, all, load, dice, done: {}, healing: [] });
  }

  one(list) {
    return list[this.dice(list.length)];
  }

  /** Undoes something after a random time; the end of the test waits for all of it. */
  heal(least, most, work) {
    this.healing.push(delay(least + this.dice(most - least)).then(work));
  }

  /** A node that may be hurt: two stay as they are, so that users have somewhere to go. */
  victim() {
    const whole = this.all.living.filter((node) => !node.paused && !node.hurt);
    return whole.length >= 3 ? this.one(whole) : null;
  }

  async killNode() {
    const node = this.victim();
    if (!node) return false;
    await this.load.fragileOn(node, 3);
    await delay(500); // it has told of them
    node.hurt = true;
    await this.load.kill(node);
    this.heal(500, 20000, async () => {
      await node.begin();
      node.hurt = false;
    });
    return true;
  }

  async stopNode() {
    const node = this.victim();
    if (!node) return false;
    node.pause();
    this.heal(500, PAUSE, () => node.resume());
    return true;
  }

  async restartNode() { // as in a rolling restart
    const node = this.victim();
    if (!node) return false;
    node.hurt = true;
    await node.restart();
    node.hurt = false;
    return true;
  }

  async cutNode() {
    const node = this.victim();
    if (!node) return false;
    node.hurt = true;
    const { proxy } = node;
    this.one([() => proxy.apart(), () => proxy.stall('up'), () => proxy.stall('down'), () => proxy.stall(), () => proxy.delay(50 + this.dice(400)), () => proxy.cut()])();
    this.heal(200, PAUSE, () => {
      proxy.together();
      node.hurt = false;
    });
    return true;
  }

  async killEngine() {
    const { engine } = this.all;
    if (this.engineHurt) return false;
    this.engineHurt = true;
    engine.keep = this.dice(2) > 0; // with its file, which may be older, or without
    if (engine.keep) await engine.save();
    await delay(this.dice(3000));
    await engine.kill();
    this.heal(100, 8000, async () => {
      await engine.begin();
      this.engineHurt = false;
    });
    return true;
  }

  async stopEngine() {
    if (this.engineHurt) return false;
    this.engineHurt = true;
    this.all.engine.pause();
    this.heal(100, 6000, () => {
      this.all.engine.resume();
      this.engineHurt = false;
    });
    return true;
  }

  async tellEngine(...words) {
    if (this.engineHurt) return false;
    await this.all.engine.command(...words);
    return true;
  }
  flush() { return this.tellEngine('FLUSHALL'); }
  killClients() { return this.tellEngine('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'); }
  pauseClients() { return this.tellEngine('CLIENT', 'PAUSE', String(100 + this.dice(4000)), this.one(['ALL', 'WRITE'])); }
  trim() { return this.tellEngine('XTRIM', keysOf('test').log, 'MAXLEN', String(this.dice(20))); }
  forgetScripts() { return this.tellEngine('SCRIPT', 'FLUSH'); }

  async step() {
    const name = this.one(['killNode', 'killNode', 'stopNode', 'restartNode', 'cutNode', 'cutNode', 'killEngine', 'stopEngine', 'flush',
      'killClients', 'pauseClients', 'trim', 'forgetScripts']);
    const began = Date.now();
    if (await this[name]()) {
      this.done[name] = (this.done[name] ?? 0) + 1;
      this.t.diagnostic(`${((began - this.began) / 1000).toFixed(1)} s: ${name}`);
    }
  }

  async run(seconds) {
    this.began = Date.now();
    while (Date.now() < this.began + seconds * 1000) {
      await this.step();
      await delay(this.dice(5000));
    }
    while (this.healing.length) await Promise.all(this.healing.splice(0));
  }
}

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
  const chaos = new Chaos(t, all, load, dice);
  await chaos.run(SECONDS);
  assert.ok(Object.keys(chaos.done).length >= Math.min(8, SECONDS / 10), JSON.stringify(chaos.done));
  t.diagnostic(JSON.stringify(chaos.done));

  await all.ready();
  await load.calm();
  const truth = load.truth();
  assert.ok(truth.held.size >= 90, `${truth.held.size} held a socket throughout`);
  // nobody is a ghost for longer than the threshold and 15 s
  await until('those who are gone to be offline', async () => {
    for (const node of all.living) {
      const ids = (await node.online()).map((user) => user.user_id);
      if (ids.length !== truth.online.size || !ids.every((id) => truth.online.has(id))) return false;
    }
    return true;
  }, { within: THRESHOLD + 15000 * slow, every: 500 }).catch((error) => t.diagnostic(error.message)); // the checker says who
  // what a node that was killed alone had seen last is its own knowledge: as much as a digest
  await checkCluster(all, { ...truth, exact: 15000, posts: receiver.posts ?? [] });
  await load.end();
  await all.stop();
});
