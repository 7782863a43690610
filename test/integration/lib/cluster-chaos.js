'use strict';
// What is done at random to a cluster: nodes and the engine are killed, stopped, emptied and cut off,
// and everything is mended again after a while.

const assert = require('node:assert/strict');
const { delay } = require('./wait');
const { slow } = require('./variant');
const { keysOf } = require('./engine');
const { PREFIX } = require('./cluster');

const PAUSE = 12000; // the longest stop: enough for an eviction, less than the threshold
const HEALED = 90000 * slow; // the engine may be hurt as well, again and again

class Chaos {
  /** `pause`: for how long a node is stopped or cut off at most, in ms; `only`: the names of what may be
   *  done. */
  constructor(t, all, load, dice, { pause = PAUSE, only } = {}) {
    Object.assign(this, { t, all, load, dice, pause, only, done: {}, healing: [] });
  }

  /** The names of what may be done, those that are done more often more than once. */
  get faults() {
    return ['killNode', 'killNode', 'stopNode', 'restartNode', 'cutNode', 'cutNode', 'killEngine', 'stopEngine', 'flush', 'killClients',
      'pauseClients', 'trim', 'forgetScripts'];
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

  /** Waits until a node is in the cluster again: before, others may not know who is there. */
  async whole(node) {
    await node.ready({ within: HEALED });
    node.hurt = false;
  }

  async killNode() {
    const node = this.victim();
    if (!node) return false;
    await this.load.fragileOn(node, 3);
    await delay(500); // it has told of them, if somebody hears it
    if (await node.state() !== 'settled') this.load.forgetFragile(node);
    node.hurt = true;
    await this.load.kill(node);
    this.heal(500, 20000, async () => {
      await node.begin({ ready: false });
      await this.whole(node);
    });
    return true;
  }

  async stopNode() {
    const node = this.victim();
    if (!node) return false;
    node.hurt = true;
    node.pause();
    this.heal(500, this.pause, () => {
      node.resume();
      return this.whole(node);
    });
    return true;
  }

  async restartNode() { // as in a rolling restart
    const node = this.victim();
    if (!node) return false;
    node.hurt = true;
    await node.restart({ ready: false });
    await this.whole(node);
    return true;
  }

  async cutNode() {
    const node = this.victim();
    if (!node) return false;
    node.hurt = true;
    const { proxy } = node;
    this.one([() => proxy.apart(), () => proxy.stall('up'), () => proxy.stall('down'), () => proxy.stall(), () => proxy.delay(50 + this.dice(400)), () => proxy.cut()])();
    this.heal(200, this.pause, () => {
      proxy.together();
      return this.whole(node);
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
  trim() { return this.tellEngine('XTRIM', keysOf(PREFIX).log, 'MAXLEN', String(this.dice(20))); }
  forgetScripts() { return this.tellEngine('SCRIPT', 'FLUSH'); }

  async step() {
    const name = this.one(this.only ?? this.faults);
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
      for (const { name, server } of this.all.nodes)
        assert.ok(!server.result || server.stopped, `${name} ended by itself: ${JSON.stringify(server.result)}\n${server.stderr}`);
      await delay(this.dice(5000));
    }
    while (this.healing.length) await Promise.all(this.healing.splice(0));
  }
}

module.exports = { Chaos, HEALED };
