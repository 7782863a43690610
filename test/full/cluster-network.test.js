'use strict';
// Three nodes and two engines on a real network, which loses, delays and cuts one way, while nodes
// and engines are killed, stopped, emptied and taken over from, and a clock is wrong. The load holds
// the sockets over lines that always work, and so knows the truth; in the end all nodes tell it.
// NETWORK_SECONDS: how long it goes on; SEED: the same decisions again; FAULTS: only these, by name.

const assert = require('node:assert/strict');
const { test, ahead, delay, dice: seeded, startSentinel, steppable, until, slow } = require('../integration/lib');
const { startCluster, startClusterReceiver, PREFIX } = require('../integration/lib/cluster');
const { Chaos, HEALED } = require('../integration/lib/cluster-chaos');
const { untilGone, checkCluster } = require('../integration/lib/cluster-checker');
const { ClusterLoad } = require('../integration/lib/cluster-load');
const { startRedis, noEngine } = require('../integration/lib/engine');
const { startNetwork, insideOwnNetwork, noNetwork, Line, HERE, FLOATING } = require('../integration/lib/network');

const SECONDS = Number(process.env.NETWORK_SECONDS || 240);
const SEED = Number(process.env.SEED || 1 + (Date.now() % 1000000));
const ONLY = process.env.FAULTS?.split(',');
const ASAN = process.env.PRESENCE_BIN_ASAN; // what a clock can be put under
const THRESHOLD = 60000;
const PAUSE = 30000; // the longest stop of a node, or of its line
const EVICTION = 15000; // five beats, and some more
const SEEN = 15000; // what a node that was killed alone had seen last is its own knowledge
const TEN_MINUTES = 600;

const ARGS = ['--insecure', '--online-threshold', `${THRESHOLD}ms`, '--ping-interval', '5s', '--pong-timeout', '10s', '--grace', '5s',
  '--max-messages-per-second', '0', '--cluster-log', '1m'];
const ALLOW = [/msg="webhook: /, /cannot reach the engine/];

class NetworkChaos extends Chaos {
  get faults() {
    return ONLY ?? [...super.faults.filter((name) => !['cutNode', 'restartNode'].includes(name)), 'cutUp', 'cutUp', 'cutDown', 'cutDown',
      'cutBoth', 'late', 'lossy', 'rollingRestart', 'loseTail', ...(this.divides ? ['twoPrimaries'] : []), ...(this.clock ? ['stepClock'] : [])];
  }

  /** A node's line is bad for a while. */
  async line(work) {
    const node = this.victim();
    if (!node) return false;
    node.hurt = true;
    await work(node.proxy);
    this.heal(200, this.pause, async () => {
      await node.proxy.together();
      await this.whole(node);
    });
    return true;
  }
  cutUp() { return this.line((line) => line.stall('up')); }
  cutDown() { return this.line((line) => line.stall('down')); }
  cutBoth() { return this.line((line) => line.apart()); }
  late() { return this.line((line) => line.delay(300)); }
  lossy() { return this.line((line) => line.lose(50 + this.dice(250))); }

  async rollingRestart() {
    if (!this.victim()) return false;
    for (const node of this.all.nodes) {
      node.hurt = true;
      await node.restart({ ready: false });
      await this.whole(node);
      await delay(this.dice(2000));
    }
    return true;
  }

  /** One node's UTC is ten minutes ahead for a while. */
  async stepClock() {
    if (this.stepped) return false;
    this.stepped = true;
    this.clock.set(TEN_MINUTES);
    this.heal(1000, 20000, () => {
      this.clock.set(0);
      this.stepped = false;
    });
    return true;
  }

  /** The replica takes over, without what it was not told. */
  async loseTail() {
    if (this.engineHurt) return false;
    this.engineHurt = true;
    await this.takeOver(async (old) => {
      await this.network.both(old.place, this.replica.place, 1000);
      await delay(200 + this.dice(2000));
      await old.kill();
    });
    return true;
  }

  /** The replica takes over while the old one lives, and some nodes still write to that. */
  async twoPrimaries() {
    if (this.engineHurt) return false;
    this.engineHurt = true;
    await this.takeOver(async (old) => {
      this.load.divided = true;
      await this.replica.promote();
      const places = this.all.nodes.map((node) => node.place);
      await this.network.float(this.replica.place, places.filter(() => this.dice(2)));
      await delay(200 + this.dice(12000));
      if (this.dice(2)) await old.kill();
    });
    return true;
  }

  async takeOver(before) {
    const [old, next] = [this.all.engine, this.replica];
    await next.caughtUp();
    await before(old);
    if (next.of) await next.promote();
    await this.network.float(next.place);
    this.all.engine = next;
    this.replica = old;
    await this.network.both(old.place, next.place, 0);
    this.heal(100, 5000, async () => {
      if (old.over) {
        old.of = next;
        await old.begin();
      } else {
        await old.follow(next);
      }
      await old.caughtUp();
      await this.all.ready({ within: HEALED });
      this.load.divided = this.engineHurt = false;
    });
  }
}

/** An engine and its replica on hosts of their own, and what a cluster needs to be on this network. */
async function engines(t, network, seeing) {
  const [one, two] = [await network.host('engine-1'), await network.host('engine-2')];
  const args = ['--repl-timeout', '10'];
  const engine = await startRedis(t, { place: one, keep: true, args });
  const replica = await startRedis(t, { place: two, of: engine, port: engine.port, keep: true, args });
  const places = {};
  for (const name of 'abc') places[name] = { place: await network.host(name) };
  return { engine, replica, more: places, line: (host) => new Line(network, host, () => [one, two, ...seeing]) };
}

/** What is true in the end: nobody is a ghost for longer than the threshold and 15 s, all say the same. */
async function checkStory(t, all, load, { posts, histories } = {}) {
  await all.ready();
  await load.calm();
  const truth = load.truth();
  await untilGone(t, all, truth.online, THRESHOLD + 15000 * slow);
  await checkCluster(all, { ...truth, posts, histories, exact: SEEN });
  return truth;
}

const skip = noEngine || noNetwork();
if (skip || insideOwnNetwork()) {
  test(`on a network that loses, delays and cuts one way all nodes tell one true story (SEED=${SEED})`, {
    skip, timeout: (SECONDS + 400) * 1000 * slow,
  }, async (t) => {
    ahead.ms = 1000; // a clock that is asked over a slow line may be off by half the second it has
    t.diagnostic(`SEED=${SEED} NETWORK_SECONDS=${SECONDS}`);
    const dice = seeded(SEED);
    const network = await startNetwork(t, { seed: SEED });
    const { replica, more, ...rest } = await engines(t, network, []);
    for (const { place } of [rest.engine, replica]) place.floats();
    const clock = ASAN ? steppable(t) : null;
    if (clock) more.c = { ...more.c, program: ASAN, env: { ...clock.env, ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:verify_asan_link_order=0` } };
    else t.diagnostic('no clock is stepped: PRESENCE_BIN_ASAN names no program, ./build.sh asan makes one');
    const receiver = await startClusterReceiver(t, { host: '0.0.0.0', name: HERE });
    await network.float(rest.engine.place);
    const all = await startCluster(t, {
      ...rest, more, nodes: ['a', 'b', 'c'], url: `redis://${FLOATING}:${rest.engine.port}/${PREFIX}`, args: [...ARGS, ...receiver.args], allow: ALLOW,
    });
    const load = new ClusterLoad(all, dice, { threshold: THRESHOLD - EVICTION });
    await load.begin({ holders: 100, visitors: 30 });
    const chaos = new NetworkChaos(t, all, load, dice, { pause: PAUSE });
    // Every other time two engines are written to at once: then each side has a history of its own.
    Object.assign(chaos, { network, replica, clock, divides: SEED % 2 === 1 });
    await chaos.run(SECONDS);
    const [arrived, lost] = await network.count();
    t.diagnostic(`${JSON.stringify(chaos.done)}, ${arrived} packets arrived, ${lost} were lost`);
    assert.ok(ONLY || Object.keys(chaos.done).length >= Math.min(10, SECONDS / 10), 'many things were done');
    assert.ok(arrived > 0, 'the nodes reach their engine over the wire');
    const truth = await checkStory(t, all, load, { posts: receiver.posts ?? [], histories: !chaos.done.twoPrimaries });
    assert.ok(truth.held.size >= 90, `${truth.held.size} held a socket throughout`);
    await load.end();
    await all.stop();
  });
  // Three Sentinels and the replica on one side, the primary on the other, and each side has nodes: the
  // Sentinels promote the replica while the old one lives, and still has a node that writes to it.
  test(`two primaries: Sentinels promote the other one while a node still writes to the first (SEED=${SEED})`, {
    skip, timeout: 400000 * slow,
  }, async (t) => {
    ahead.ms = 1000;
    const dice = seeded(SEED);
    const network = await startNetwork(t, { seed: SEED });
    const watching = [];
    for (const name of ['sentinel-1', 'sentinel-2', 'sentinel-3']) watching.push(await network.host(name));
    const { replica, ...rest } = await engines(t, network, watching);
    const main = rest.engine;
    const sentinels = [];
    for (const place of watching)
      sentinels.push(await startSentinel(t, `sentinel monitor main ${main.place.wire} ${main.port} 2
sentinel down-after-milliseconds main 2000
sentinel failover-timeout main 6000
`, { place }));
    const knows = (what, text) => until(`the Sentinels to know ${what}`, () => sentinels.every((one) => text.test(one.say('INFO', 'sentinel'))),
      { within: 60000 * slow, every: 200 });
    await knows('each other and the replica', /status=ok.*slaves=1,sentinels=3/);
    const hosts = sentinels.map(({ place, port }) => `${place.wire}:${port}`).join();
    const all = await startCluster(t, { ...rest, url: `redis+sentinel://${hosts}/${PREFIX}?master=main`, args: ARGS, allow: ALLOW });
    const load = new ClusterLoad(all, dice, { threshold: THRESHOLD - EVICTION });
    await load.begin({ holders: 60, visitors: 20 });
    let [first, second] = [main, replica];
    for (let round = 0; round < 2; round++) {
      const alone = all.nodes[dice(3)];
      const [here, there] = [[first.place, alone.place], [second.place, ...watching, ...all.nodes.filter((node) => node !== alone).map(({ place }) => place)]];
      load.divided = true;
      for (const one of here) for (const other of there) await network.both(one, other, 1000);
      await knows('the new primary', new RegExp(`address=${second.place.wire}:`));
      assert.equal(await first.info('role'), 'master', 'the old one lives, and knows nothing');
      for (const node of all.nodes) if (node !== alone) await node.ready();
      t.diagnostic(`${second.place.name} was promoted, ${alone.name} is ${await alone.state()}`);
      await delay(dice(20000)); // both write; long enough at times for each side to take the other for dead
      for (const one of here) for (const other of there) await network.both(one, other, 0);
      await until('the old one to be a replica', async () => (await first.info('role')) === 'slave', { within: 60000 * slow, every: 100 });
      [first, second] = [second, first];
      all.engine = first;
      second.of = first;
      await second.caughtUp();
      await all.ready();
      load.divided = false;
      await knows('all to be well', /status=ok.*slaves=1,sentinels=3/);
    }
    const truth = await checkStory(t, all, load, { histories: false }); // each side had one of its own
    assert.ok(truth.held.size >= 55, `${truth.held.size} held a socket throughout`);
    await load.end();
    await all.stop();
  });
}
