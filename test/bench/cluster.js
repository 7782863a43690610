'use strict';
// Measures three nodes of a cluster and their engine, all on this machine. Called by run.sh, which
// makes rows of what it prints, one a line: what | ours | more | ratio | bar | condition; a line with
// "!" in place of ours says why something could not be measured.
//
//   node cluster.js [whole | quick | trial]      trial: so small that it shows only that all works
//
// Every measurement has a bound in time, and everything it starts ends with it.

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { delay, follow, heartbeats, proc, tempDir, until, within } = require('../integration/lib');
const { json } = require('../integration/lib/http');
const { run } = require('../integration/lib/server');
const { startCluster } = require('../integration/lib/cluster');

const LOAD = path.join(__dirname, '../../build/bench/load');
const LOADS = { // users on each node, seconds and changes/s of each; changes; users; known, online
  whole: { each: 3000, seconds: 5, rate: 20000, changes: 8000, users: 18000, known: 1000000, online: 100000 },
  quick: { each: 1000, seconds: 2, rate: 20000, changes: 2000, users: 5000, known: 50000, online: 5000 },
  trial: { each: 50, seconds: 1, rate: 500, changes: 300, users: 200, known: 1000, online: 200 },
};
const SIZES = LOADS[process.argv[2] || 'whole'];
const BEFORE = 1145608; // bytes of the program before it knew clusters
const ARGS = ['--max-pending-per-address', '1000000', '--max-messages-per-second', '0', '--watch-interval', '0', '--grace', '0s'];

const row = (...cells) => process.stdout.write(`${cells.join('|')}\n`);
const stats = (node) => json(node.server, '/admin/stats');
const round = (value) => Number(value.toPrecision(3));

/** What node:test gives a test, as far as lib/ uses it. */
class Bench {
  constructor() {
    this.works = [];
  }
  after(work) {
    this.works.push(work);
  }
  async end() {
    for (const work of this.works.splice(0)) await work();
  }
}

/** Lets the load generator hold users on a node, `${prefix}0` and so on, until it is ended. */
function hold(t, node, prefix, count, more = []) {
  const args = ['hold', '--port', node.server.port, '-n', count, '--sources', 50, '-c', 400, '--settle', 0, '--path', `/ws/presence/${prefix}{i}`, ...more];
  const child = spawn(LOAD, args.map(String), { stdio: ['ignore', 'pipe', 'inherit'] });
  let text = '';
  child.stdout.on('data', (bytes) => { text += bytes; });
  const ended = new Promise((resolve) => child.once('close', () => resolve(text && JSON.parse(text))));
  t.after(() => {
    if (child.exitCode === null) child.kill('SIGKILL');
    return ended;
  });
  return { ended, end: () => child.kill('SIGTERM') };
}

const connected = (node, count) => until(`${count} users on ${node.name}`, async () => (await stats(node)).connections.sockets >= count,
  { within: 60000, every: 50 });
const shown = (cluster, count) => until(`${count} users everywhere`, async () => {
  for (const node of cluster.living) if ((await stats(node)).users.online < count) return false;
  return true;
}, { within: 60000, every: 50 });

/** Changes a second that all three apply: more is offered than the bar asks for. */
async function throughput(t) {
  const cluster = await startCluster(t, { args: ARGS, events: false });
  const { each, seconds, rate } = SIZES;
  const loads = cluster.nodes.map((node) => hold(t, node, node.name, each, ['--rate', rate, '--seconds', seconds, '--beat', 'status', '--settle', 3]));
  for (const node of cluster.nodes) await connected(node, each);
  const counters = async () => Promise.all(cluster.nodes.map(async (node) => (await stats(node)).counters.status_changes));
  let [began, before] = [Date.now(), await counters()];
  await until('the first change', async () => {
    const now = await counters();
    if (now.every((value, i) => value === before[i])) {
      began = Date.now();
      before = now;
      return false;
    }
    return true;
  }, { within: 30000, every: 10 });
  let [last, at] = [before, began];
  await until('the last change', async () => {
    const now = await counters();
    if (now.some((value, i) => value !== last[i])) {
      [last, at] = [now, Date.now()];
      return false;
    }
    return Date.now() - at > 500;
  }, { within: 60000, every: 20 });
  const told = last.map((value, i) => value - before[i]);
  const results = await Promise.all(loads.map((one) => one.ended));
  const sent = results.reduce((sum, one) => sum + one.sent, 0);
  const ours = round(Math.min(...told) / ((at - began) / 1000));
  row('changes/s through three nodes', ours, `sent ${sent}, applied ${told.join(' ')} in ${at - began} ms`, '-', 50000, `${ours} >= 50000`);
}

/** A change on A at a watcher on B, at 1,000 changes a second of 100 users. */
async function latency(t) {
  const cluster = await startCluster(t, { args: ARGS, events: false });
  const { a, b } = cluster;
  const ids = Array.from({ length: 100 }, (_, i) => `u${i}`);
  const clients = [];
  for (const id of ids) clients.push(await a.connect(id));
  await shown(cluster, 100);
  const follower = await follow(b.server, 'watcher', ids);
  const [sent, took] = [new Map(), []];
  const ways = ['busy', 'away'];
  follower.client.socket.on('message', (data) => {
    const now = performance.now();
    if (!data.includes('"presence"')) return;
    for (const user of JSON.parse(data.toString()).users) {
      const since = sent.get(`${user.user_id} ${user.status}`);
      if (since) took.push(now - since);
      sent.delete(`${user.user_id} ${user.status}`);
    }
  });
  const count = SIZES.changes;
  const began = performance.now();
  for (let done = 0; done < count;) {
    const due = Math.min(count, Math.floor(performance.now() - began));
    for (; done < due; done++) {
      const at = done % 100;
      const status = ways[Math.floor(done / 100) % 2];
      sent.set(`${ids[at]} ${status}`, performance.now());
      clients[at].send({ type: 'status', status });
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  await until('the last to be told', () => took.length === count, { within: 2000 }).catch(() => {});
  took.sort((x, y) => x - y);
  const at = (share) => round(took[Math.floor(took.length * share)]);
  row('change on A to watcher on B at 1,000/s, p99 ms', at(0.99), `told ${took.length} of ${count}`, '-', 10, `${at(0.99)} <= 10`);
  row('  the same, p50 ms', at(0.5), '-', '-', '-', '');
}

/** What users of another node cost, then their eviction, and stating them again in a new epoch. */
async function crowd(t) {
  const cluster = await startCluster(t, { args: ARGS, events: false });
  const { a, b, c } = cluster;
  const count = SIZES.users; // on one node: a process may have only so many descriptors
  await delay(2000); // the first beats
  const before = proc.own(b.server.pid);
  const load = hold(t, a, 'u', count, ['--seconds', 300]);
  await connected(a, count);
  await shown(cluster, count);
  await delay(1500); // the stores have them
  const bytes = round((proc.own(b.server.pid) - before) / count);
  row('bytes a remote online user', bytes, `${count} users, anonymous memory`, '-', 150, `${bytes} <= 150`);

  let began = Date.now();
  const epoch = await cluster.epoch();
  await cluster.engine.command('FLUSHALL');
  await until('a new epoch that all are in', async () => {
    const now = await cluster.epoch();
    if (now === null || now === epoch) return false;
    for (const node of cluster.nodes) {
      const { position, users } = await stats(node);
      if (!position.startsWith(now) || users.live < count || (await node.state()) !== 'settled') return false;
    }
    return true;
  }, { within: 60000, every: 20 });
  const restated = (Date.now() - began) / 1000;
  row('s until all is stated again after FLUSHALL', restated, `${count} users; the bar is for 100,000`, '-', 5, `${restated} <= 5`);

  await a.kill();
  load.end();
  const cached = async () => Promise.all([b, c].map(async (node) => (await stats(node)).users.cached));
  await until('the eviction to begin', async () => {
    began = Date.now();
    return (await cached()).some((value) => value > 0);
  }, { within: 40000, every: 5 });
  await until('all to be cached', async () => (await cached()).every((value) => value === count), { within: 60000, every: 5 });
  const evicted = (Date.now() - began) / 1000;
  row("s for a node's eviction to be applied by all", evicted, `${count} users; the bar is 3 s for 100,000`, '-', round(3 * count / 100000),
    `${evicted} <= ${3 * count / 100000}`);
}

/** Makes a store of many who were here once. */
async function fill(t, known) {
  const [dir, dump] = [path.join(tempDir(t), 'data'), path.join(tempDir(t), 'dump')];
  const file = fs.createWriteStream(dump);
  const now = Date.now() - 3600000;
  for (let i = 0; i < known; i++) {
    const at = new Date(now - i).toISOString();
    const line = { user: `known${i}`, first_seen: at, last_seen: at, online_since: null, offline_since: at, status: 'offline', open: false, reason: 'closed', sessions: 1 };
    if (!file.write(`${JSON.stringify(line)}\n`)) await new Promise((resolve) => file.once('drain', resolve));
  }
  file.end(`${JSON.stringify({ end: 'presence', users: known, sessions: 0, samples: 0, manuals: 0 })}\n`);
  await new Promise((resolve) => file.once('close', resolve));
  const { code, stderr } = await run(['--restore', dump, '--data', dir], { deadline: 120000 });
  if (code !== 0) throw new Error(`--restore: ${stderr}`);
  fs.rmSync(dump);
  return dir;
}

/** From the start of a node without a store to its being ready, and knowing all. */
async function joining(t) {
  const { known, online } = SIZES;
  const cluster = await startCluster(t, { nodes: ['a'], args: [...ARGS, '--online-threshold', '1h'], data: { a: await fill(t, known) } });
  const ids = Array.from({ length: online }, (_, i) => `online${i}`);
  await within(120000, 'the heartbeats', heartbeats(cluster.a.server, ids, 32));
  await shown(cluster, online);
  const began = Date.now();
  const d = await cluster.add('d', { events: false });
  const ready = (Date.now() - began) / 1000;
  row(`s to join ${known} known and ${online} online`, ready, '-', '-', 15, `${ready} <= 15`);
  const { users } = await stats(d);
  if (users.online < online) throw new Error(`it was ready with ${users.online} of ${online} online`);
  await until('it to know all', async () => (await stats(d)).users.known >= known + online, { within: 60000, every: 100 });
  row('  s until it knows all who were ever here', (Date.now() - began) / 1000, '-', '-', '-', '');
}

function size() {
  const { size: bytes } = fs.statSync(path.resolve(process.env.PRESENCE_BIN || path.join(__dirname, '../../build/presence')));
  row('binary, bytes more than without clusters', bytes - BEFORE, `${bytes} in all`, '-', 102400, `${bytes - BEFORE} <= 102400`);
}

async function main() {
  size();
  for (const [what, measure] of Object.entries({ throughput, latency, crowd, joining })) {
    const t = new Bench();
    try {
      await within(300000, what, measure(t));
    } catch (error) {
      row(`cluster: ${what}`, '!', error.message.split('\n')[0].replace(/\|/g, '/'));
    }
    await t.end().catch((error) => row(`cluster: ${what}, the end`, '!', error.message.split('\n')[0].replace(/\|/g, '/')));
  }
}

main();
