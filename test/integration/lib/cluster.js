'use strict';
// A cluster for a test: an engine, nodes that each reach it through a proxy of their own, and what
// every node tells those who read its events.

const net = require('node:net');
const { connect } = require('./client');
const { startRedis, keysOf } = require('./engine');
const { openEvents, position } = require('./events');
const http = require('./http');
const { Receiver, startReceiver } = require('./receiver');
const { start, run, cleanup, tempDir } = require('./server');
const { slow } = require('./variant');
const { until } = require('./wait');

const PREFIX = 'test';
const LINES = /level=(info|warn) msg="cluster: /; // what a node may say of its cluster
const READY = 30000 * slow; // a node waits 10 s for those who are slow to state their users

/** Between a node and the engine, where the network can be bad. Nothing is lost, as in TCP: bytes
 *  wait, or the connection ends. */
class EngineProxy {
  constructor(target) {
    Object.assign(this, { target, lag: 0, refusing: false, stalled: new Set(), pairs: new Set() });
    this.listener = net.createServer({ noDelay: true }, (node) => this.accept(node));
  }

  accept(node) {
    node.on('error', () => {});
    if (this.refusing) {
      node.resetAndDestroy();
      return;
    }
    const engine = net.connect({ port: this.target.port, host: '127.0.0.1', noDelay: true });
    const pair = { node, engine };
    this.pairs.add(pair);
    this.relay(pair, node, engine, 'up');
    this.relay(pair, engine, node, 'down');
  }

  relay(pair, from, to, way) {
    let tail = Promise.resolve();
    const later = (work) => {
      const due = this.lag && new Promise((resolve) => setTimeout(resolve, this.lag));
      tail = tail.then(() => due).then(() => to.destroyed || work());
    };
    if (this.stalled.has(way)) from.pause();
    from.on('data', (bytes) => later(() => to.write(bytes)));
    from.on('end', () => later(() => to.end()));
    from.on('error', () => {});
    from.on('close', () => {
      later(() => to.destroy());
      this.pairs.delete(pair);
    });
  }

  /** Ends all connections, with a reset. */
  cut() {
    for (const { node, engine } of [...this.pairs]) {
      node.resetAndDestroy();
      engine.resetAndDestroy();
    }
  }

  /** Whether connections end as soon as they are made; those there are stay. */
  refuse(on = true) {
    this.refusing = on;
  }

  /** Bytes wait from now on: those to the engine ('up'), those from it ('down'), or both. */
  stall(...ways) {
    for (const way of ways.length ? ways : ['up', 'down']) this.stalled.add(way);
    for (const { node, engine } of this.pairs) {
      if (this.stalled.has('up')) node.pause();
      if (this.stalled.has('down')) engine.pause();
    }
  }

  /** Bytes that waited go on. */
  flow() {
    this.stalled.clear();
    for (const { node, engine } of this.pairs) {
      node.resume();
      engine.resume();
    }
  }

  /** All bytes arrive so many ms later from now on, in order. */
  delay(ms) {
    this.lag = ms;
  }

  /** The engine cannot be reached at all, or again. */
  apart() {
    this.refuse();
    this.cut();
  }
  together() {
    this.refuse(false);
    this.flow();
    this.delay(0);
  }

  close() {
    this.listener.close();
    this.cut();
  }
}

async function startEngineProxy(t, target) {
  const proxy = new EngineProxy(target);
  await new Promise((resolve) => proxy.listener.listen(0, '127.0.0.1', resolve));
  proxy.port = proxy.listener.address().port;
  cleanup(t, () => proxy.close());
  return proxy;
}

/** What one node tells a reader of its events, over all its lives. A part is a stretch without a
 *  hole: { epoch, from, to, began, changes: [{ sequence, data, at }] }, `began` and `at` our moments;
 *  all changes behind `from` up to `to` are in it. */
class EventLog {
  constructor(node) {
    Object.assign(this, { node, parts: [], lastId: null, stopped: false, problem: null });
    this.done = this.run();
    this.done.catch((error) => { this.problem ??= error; });
  }

  async run() {
    while (!this.stopped) {
      const stream = await openEvents(this.node.server, { lastId: this.lastId, gaps: true, resets: true }).catch(() => null);
      if (stream) await this.follow(stream);
      else await new Promise((resolve) => setTimeout(resolve, 30)); // until the node is there again
    }
  }

  async follow(stream) {
    this.stream = stream;
    if (this.stopped) stream.cut();
    for (;;) {
      const more = await stream.until('more', () => stream.events.length > stream.at, 3600000).catch(() => false);
      if (stream.problem) throw stream.problem;
      if (!more) return; // it ended; what was whole has been taken
      this.take(stream.events[stream.at++]);
    }
  }

  take({ event, id, data }) {
    const { epoch, sequence } = position(id);
    const part = this.parts.at(-1);
    if (event === 'reset') this.parts.push({ epoch, from: sequence, to: sequence, began: Date.now(), changes: [] });
    else if (part?.epoch !== epoch) throw new Error(`${this.node.name}: a change ${id} behind ${this.lastId}, without a reset`);
    else {
      if (sequence <= part.to) throw new Error(`${this.node.name}: a change ${id} behind ${this.lastId}`);
      part.changes.push({ sequence, data, at: Date.now() });
      part.to = sequence;
    }
    this.lastId = id;
  }

  /** Every change so far. */
  get changes() {
    return this.parts.flatMap((part) => part.changes.map(({ data }) => data));
  }

  /** Those of a user, as `join`, `leave closed`. */
  of(id) {
    return this.changes.filter(({ user }) => user.user_id === id).map(({ change, reason }) => (reason ? `${change} ${reason}` : change));
  }

  /** Waits until a change is as wanted, and gives it. */
  wait(what, check, options) {
    return until(`${this.node.name}: ${what}`, () => {
      if (this.problem) throw this.problem;
      return this.changes.find(check);
    }, options);
  }

  async stop() {
    this.stopped = true;
    this.stream?.cut();
    await this.done;
  }
}

class Node {
  constructor(cluster, name, { args = [], env = {}, data, place = null, program }) {
    Object.assign(this, { cluster, name, args, env, data, place, program, server: null, paused: false, lives: 0 });
  }

  /** How it is started where it is: on a host of a network, as another build of the program. */
  get here() {
    const { place, program } = this;
    return { program, ...(place && { wrap: place.wrap, listen: [`${place.address}:${this.server?.port ?? 0}`] }) };
  }

  /** Starts the process, the first time or again on what it had. */
  async begin({ ready = true } = {}) {
    const { t, args, allow, env } = this.cluster;
    this.data ??= tempDir(t);
    this.proxy ??= await (this.place ? this.cluster.line(this.place) : startEngineProxy(t, this.cluster.engine));
    this.server = await start(t, {
      data: this.data, address: this.server, env: { ...env, ...this.env }, allow: [LINES, ...allow], ...this.here,
      args: ['--cluster', this.cluster.url ?? `redis://127.0.0.1:${this.proxy.port}/${PREFIX}`, '--node-name', this.name, ...args, ...this.args],
    });
    this.lives++;
    const { server } = this;
    cleanup(t, () => { if (this.server === server) this.resume(); }); // a stopped one does not end in order
    if (ready) await this.ready();
  }

  /** What /readyz says of the cluster: settled, joining or alone; null when it does not answer. */
  async state() {
    const answer = await http.get(this.server, '/readyz').catch(() => null);
    return answer?.json?.cluster ?? null;
  }

  async ready(options) {
    await until(`${this.name} ready in the cluster`, async () => {
      const { status, text, json } = await http.get(this.server, '/readyz');
      if (status !== 200 || json.cluster !== 'settled') throw new Error(`${status} ${text}`);
      return true;
    }, { within: READY, every: 30, giveUp: () => this.server.result, ...options });
  }

  alone(options) {
    return until(`${this.name} alone`, async () => (await this.state()) === 'alone', { within: 10000 * slow, ...options });
  }

  get living() {
    return Boolean(this.server && !this.server.stopped && !this.server.result);
  }

  kill() { return this.server.kill(); }
  stop() { return this.server.stop(); }
  async restart(options) {
    if (this.living) await this.stop();
    await this.begin(options);
  }

  pause() {
    if (!this.living || this.paused) return;
    this.paused = true;
    this.server.signal('SIGSTOP');
  }
  resume() {
    if (!this.paused) return;
    this.paused = false;
    if (this.living) this.server.signal('SIGCONT');
  }

  connect(id, options) { return connect(this.server, id, options); }
  get(path, options) { return http.json(this.server, path, options); }
  presence(id) { return http.presence(this.server, id); }
  online() { return http.onlineUsers(this.server); }

  /** The lines of --dump as values. */
  async dump() {
    const { code, stdout, stderr } = await run(['--dump', '--data', this.data], { deadline: 60000 * slow });
    if (code !== 0) throw new Error(`--dump of ${this.name}: ${code} ${stderr}`);
    return stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line));
  }
}

class Cluster {
  /** On a network: `url` names the engine for all, `line` makes what stands for a node's proxy. */
  constructor(t, { engine, args = [], env = {}, allow = [], events = true, url, line }) {
    Object.assign(this, { t, engine, args, env, allow, events, url, line, nodes: [], logs: {} });
  }

  node(name) {
    return this.nodes.find((one) => one.name === name);
  }
  get living() {
    return this.nodes.filter((one) => one.living);
  }

  /** One more node, from its first byte; with its events, unless `events` is false. */
  async add(name, { events = this.events, ready = true, ...options } = {}) {
    const node = new Node(this, name, options);
    this.nodes.push(node);
    this[name] = node;
    await node.begin({ ready });
    if (events) {
      this.logs[name] = new EventLog(node);
      cleanup(this.t, () => this.logs[name].stop());
      await until(`the events of ${name}`, () => this.logs[name].parts.length > 0);
    }
    return node;
  }

  /** All that live are in the cluster. */
  async ready(options) {
    for (const node of this.living) await node.ready(options);
  }

  /** Waits until every living node sees a user as `check` wants her. */
  async everywhere(id, what, check, options) {
    for (const node of this.living)
      await until(`${id} ${what} on ${node.name}`, async () => check(await node.presence(id)), options);
  }

  /** Waits until the events of all living nodes are in one epoch, and none lacks the last change
   *  of another: it was told it, or began behind it. */
  async quiet(options) {
    await until('all events to be told everywhere', () => {
      const parts = this.living.map(({ name }) => {
        const { problem, parts: all } = this.logs[name];
        if (problem) throw problem;
        return all.at(-1);
      });
      const last = Math.max(...parts.map(({ changes }) => changes.at(-1)?.sequence ?? 0));
      return parts.every(({ epoch, to }) => epoch === parts[0].epoch && to >= last);
    }, { within: 10000 * slow, ...options });
  }

  /** The epoch that the engine has now, as positions begin with it; null: none. */
  async epoch() {
    const epoch = await this.engine.command('HGET', keysOf(PREFIX).meta, 'epoch');
    return epoch && Number(epoch).toString(16).padStart(8, '0');
  }

  /** Stops all, and holds each to its promises. */
  async stop() {
    for (const node of this.nodes) node.resume();
    for (const log of Object.values(this.logs)) await log.stop();
    for (const node of this.living) await node.stop();
  }
}

/** Starts a cluster for the test `t`. Options: nodes (how many, or their names; args of each in
 *  `each`, directories in `data`, other options in `more`); engine (default: a real one); args, env,
 *  allow of all of them. */
async function startCluster(t, { nodes = 3, each = {}, data = {}, more = {}, engine, ...options } = {}) {
  const cluster = new Cluster(t, { engine: engine ?? (await startRedis(t)), ...options });
  const names = typeof nodes === 'number' ? [...'abcdefghijkl'].slice(0, nodes) : nodes;
  for (const name of names) await cluster.add(name, { args: each[name], data: data[name], ...more[name] });
  return cluster;
}

/** Who is told by the webhooks of a cluster: all that came, repeats included. */
class ClusterReceiver extends Receiver {
  take(request, body) {
    const { events } = JSON.parse(body);
    this.posts ??= [];
    this.posts.push(...events);
    return { path: request.url, headers: request.headers, events };
  }
}
const startClusterReceiver = (t, options) => startReceiver(t, { ...options, kind: ClusterReceiver });

module.exports = { startCluster, Cluster, EngineProxy, startEngineProxy, EventLog, startClusterReceiver, PREFIX };
