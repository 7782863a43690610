'use strict';
// A load on a cluster that knows the truth: who held a socket throughout, who left in order, who
// was lost with a node. It is what the checker holds the nodes against.

const { connect } = require('./client');
const { get, request } = require('./http');
const { cleanup } = require('./server');
const { putStatus } = require('./watch');
const { delay, until, within } = require('./wait');
const { slow } = require('./variant');

/** One who stays: with a socket on some node, and at once on another when it breaks. */
class Holder {
  constructor(load, id) {
    Object.assign(this, { load, id, client: null, node: null, places: [], missing: 0, over: false });
  }

  async begin(node) {
    await this.open(node);
    this.done = this.run();
  }

  async open(node) {
    this.client = await connect(node.server, this.id);
    this.node = node;
    const place = { name: node.name, from: Date.now(), to: Infinity };
    this.places.push(place);
    this.broke = this.client.closed.then(() => { this.since = place.to = Date.now(); });
  }

  async run() {
    for (;;) {
      await this.broke;
      while (!this.over) {
        const node = this.load.someNode();
        if (node && (await this.open(node).then(() => true, () => false))) break;
        await delay(100); // nobody takes it: again soon
      }
      this.missing = Math.max(this.missing, Date.now() - this.since);
      if (this.over) return;
    }
  }

  end() {
    this.over = true;
    this.client?.destroy();
    return this.done;
  }
}

/** One who comes and goes. */
class Visitor {
  constructor(load, id) {
    Object.assign(this, { load, id, left: 0, sure: true, over: false });
  }

  begin() {
    this.done = this.run();
  }

  async run() {
    const { load } = this;
    while (!this.over) {
      await load.pause();
      const node = load.someNode();
      if (!node || this.over) continue;
      const client = await connect(node.server, this.id).catch(() => null);
      if (!client) {
        this.sure = false; // it may have been let in, and have been lost with the node
        continue;
      }
      await Promise.race([load.pause(), client.closed]);
      const end = client.open ? await client.close().catch(() => ({ code: 1006 })) : { code: 1006 };
      client.destroy();
      if (end.code === 1000) this.left++;
      else this.sure = false;
      await this.shownOffline(node); // who is back before that has not left
    }
  }

  /** Waits, while the node answers, until it shows that the close of a moment ago was a leave. */
  async shownOffline(node) {
    const online = async () => (await get(node.server, `/api/presence/${this.id}`)).json.online;
    for (const end = Date.now() + 5000; Date.now() < end && await online().catch(() => false); await delay(20));
  }

  end() {
    this.over = true;
    return this.done;
  }
}

/** One who comes with some tabs, each anywhere, and is kicked from any node. */
class Kicked extends Visitor {
  async run() {
    const { load } = this;
    while (!this.over) {
      await load.pause();
      const places = Array.from({ length: 1 + load.dice(40) }, () => load.someNode());
      const tabs = await Promise.all(places.map((node) => node && connect(node.server, this.id).catch(() => null)));
      const node = load.someNode();
      const answer = node && await request(node.server, 'DELETE', `/admin/users/${this.id}/connections`).catch(() => null);
      const ends = tabs.map((tab) => tab && Promise.race([tab.closed, delay(2000)]));
      const gone = (await Promise.all(ends)).every((end) => end?.code === 4403);
      for (const tab of tabs) tab?.destroy();
      if (gone && answer?.status === 200) this.left++;
      else this.sure = false;
    }
  }
}

class ClusterLoad {
  /** `threshold`: for how long, in ms, nobody who is without a socket has left. Set `divided` while the
   *  nodes may not know of each other. */
  constructor(cluster, dice, { threshold }) {
    Object.assign(this, { cluster, dice, threshold, holders: [], visitors: [], losing: [], lost: new Map(), fragile: new Map(), steps: 0 });
  }

  /** A node that takes connections; null when there is none. */
  someNode() {
    const able = this.cluster.living.filter((node) => !node.paused);
    return able.length ? able[this.dice(able.length)] : null;
  }

  /** `pace`: how long visitors stay and stay away, as a part of 0.2 to 3.2 s; `moves`: who stays
   *  loses the socket now and then, too, and is elsewhere at once: only where all nodes hear of it. */
  async begin({ holders = 100, visitors = 30, kicked = 2, pace = 1, moves = false } = {}) {
    cleanup(this.cluster.t, () => this.end()); // or those who stay would go on trying for ever
    this.pause = () => delay((200 + this.dice(3000)) * pace);
    this.holders = Array.from({ length: holders }, (_, i) => new Holder(this, `holder${i}`));
    this.visitors = Array.from({ length: visitors }, (_, i) => new Visitor(this, `visitor${i}`));
    this.visitors.push(...Array.from({ length: kicked }, (_, i) => new Kicked(this, `kicked${i}`)));
    this.moves = moves;
    for (const holder of this.holders) await holder.begin(this.someNode());
    for (const visitor of this.visitors) visitor.begin();
    this.done = this.run();
  }

  /** Changes of those who stay: a status, also one by hand at any node; a second tab that comes and
   *  goes; another node. */
  async run() {
    while (!this.over) {
      await delay(this.dice(40));
      for (const one of this.losing.splice(0)) await this.lose(one);
      const holder = this.holders[this.dice(this.holders.length)];
      const { client } = holder;
      if (!client?.open) continue;
      this.steps++;
      const what = this.dice(16);
      if (what < 10) client.send({ type: 'status', status: ['online', 'away', 'busy'][this.dice(3)] });
      else if (what < 11) await this.byHand(holder.id);
      else if (what < 12 && this.moves) await this.lose(holder);
      else await this.tab(holder);
    }
  }

  /** Not where the first tab's node may be taken for dead: whoever comes elsewhere is then taken to
   *  have moved, and to go with the last tab there. */
  async tab(holder) {
    if (holder.node.hurt || holder.node.paused || this.divided) return;
    const node = this.someNode();
    const second = node && (await connect(node.server, holder.id).catch(() => null));
    if (!second) return;
    if (this.dice(2)) await second.close().catch(() => {});
    second.destroy();
  }

  /** Not while there is a second tab, with whose clean close she would leave. */
  async lose(holder) {
    holder.client.reset();
    await holder.broke;
  }

  async byHand(id) {
    const status = ['away', 'busy', null][this.dice(3)];
    const node = this.someNode();
    if (node) await putStatus(node.server, id, { status }).catch(() => {}); // it may be gone meanwhile
  }

  /** So many users on a node who do not come back when it is killed. */
  async fragileOn(node, count) {
    const made = [];
    for (let i = 0; i < count; i++) {
      const id = `fragile-${node.name}-${node.lives}-${this.fragile.size}`;
      const client = await connect(node.server, id);
      this.fragile.set(id, { node, life: node.lives, client });
      made.push(id);
    }
    return made;
  }

  /** A node that may not have told of them yet: nobody can know what becomes of them. */
  forgetFragile(node) {
    for (const [id, one] of this.fragile) if (one.node === node) this.fragile.delete(id);
  }

  /** A node is killed: those who do not come back are lost. */
  async kill(node) {
    await node.kill();
    for (const [id, one] of this.fragile) {
      if (one.node !== node || one.life !== node.lives) continue;
      this.lost.set(id, { at: Date.now() });
      this.fragile.delete(id);
    }
  }

  /** Ends what comes and goes; those who stay hold their sockets, and all of them have one. */
  async calm() {
    this.over = true;
    await this.done;
    await Promise.all(this.visitors.map((one) => one.end()));
    await until('everybody to have a socket again', () => this.holders.every(({ client }) => client.open), { within: 30000 * slow });
  }

  /** What the checker needs. Call it behind calm(). */
  truth() {
    const held = new Map(this.holders.filter((one) => one.missing < this.threshold).map(({ id, places }) => [id, places]));
    for (const [id, { node }] of this.fragile) held.set(id, new Set([node.name]));
    const left = new Map(this.visitors.filter((one) => one.sure).map((one) => [one.id, one.left]));
    const online = new Set([...this.holders.map(({ id }) => id), ...this.fragile.keys()]);
    return { held, lost: this.lost, left, online };
  }

  /** Everybody goes away, and nobody comes back. */
  async end() {
    this.over = true;
    await this.done;
    await Promise.all(this.visitors.map((one) => one.end()));
    for (const { client } of this.fragile.values()) client.destroy();
    await within(10000 * slow, 'the end of the load', Promise.all(this.holders.map((one) => one.end())));
  }
}

module.exports = { ClusterLoad };
