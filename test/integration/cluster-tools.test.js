'use strict';
// Variants: release
// What the tests of clusters stand on: the checker finds what is planted, and nothing in a story that
// is sound; the proxy before an engine does what it says; logs, dumps and the load fit each other on
// a server that is no cluster.

const assert = require('node:assert/strict');
const { test, start, run, dice: seeded, tempDir, cleanup, until, throughout, within, slow } = require('./lib');
const { problemsOf, checkCluster } = require('./lib/cluster-checker');
const { Cluster, EventLog, startEngineProxy, startClusterReceiver } = require('./lib/cluster');
const { ClusterLoad } = require('./lib/cluster-load');
const { startFake } = require('./lib/engine');
const { RespClient } = require('./lib/resp');
const { request } = require('./lib/http');

const SEED = Number(process.env.SEED || 1 + (Date.now() % 1000000));
const MOMENT = Date.parse('2026-11-01T10:00:00Z');
const time = (ms) => new Date(MOMENT + ms).toISOString();

/** A sound story of three nodes: a log of random changes in two epochs, as each was told it. */
function story(seed) {
  const dice = seeded(seed);
  const names = ['a', 'b', 'c'];
  const ids = Array.from({ length: 12 }, (_, i) => `u${i}`);
  const online = new Map();
  const sessions = [];
  const logs = Object.fromEntries(names.map((name) => [name, { parts: [] }]));
  const posts = [];
  let now = 0;
  const left = new Map();
  const since = new Map();
  const user = (id) => ({ user_id: id, online: online.has(id), status: online.has(id) ? 'online' : 'offline', source: online.has(id) ? 'live' : 'stored',
    connections: online.get(id) ?? 0, connected_at: online.has(id) ? time(since.get(id)) : null, last_seen: time(now) });
  for (const epoch of ['00000001', 'ffffffff']) {
    let sequence = dice(5);
    for (const name of names) logs[name].parts.push({ epoch, from: sequence, to: sequence, began: MOMENT + now, changes: [] });
    for (let i = 0; i < 150; i++) {
      now += 1 + dice(500);
      sequence += 1 + dice(3);
      const id = ids[dice(ids.length)];
      let [change, reason] = ['connections', null];
      if (!online.has(id)) {
        change = 'join';
        online.set(id, 1);
        since.set(id, now);
      } else if (id !== 'u0' && dice(3) === 0) {
        [change, reason] = ['leave', 'closed'];
        online.delete(id);
        sessions.push({ session: id, from: time(since.get(id)), to: time(now), reason });
        left.set(id, (left.get(id) ?? 0) + 1);
      } else if (dice(2)) {
        change = 'status';
      } else {
        online.set(id, online.get(id) + 1);
      }
      const position = `${epoch}-${sequence}`;
      const data = { position, change, user: user(id), reason };
      if (change !== 'connections') posts.push(data, ...(dice(20) ? [] : [...posts.slice(-1 - dice(4)), data])); // another node took over
      for (const name of names) {
        const log = logs[name];
        if (dice(40) === 0) log.parts.push({ epoch, from: sequence, to: sequence, began: MOMENT + now, changes: [] }); // a reset took this one
        else {
          const seen = change === 'leave' ? structuredClone(data) : { ...data, user: { ...data.user, last_seen: time(now + dice(9)) } };
          log.parts.at(-1).changes.push({ sequence, data: seen });
          log.parts.at(-1).to = sequence;
        }
      }
    }
  }
  posts.splice(dice(posts.length / 2), 0, { position: 'ffffffff-0', change: 'reset', user: null, reason: null });
  for (const name of names) logs[name].parts.push({ epoch: `0000000${name}`, from: 0, to: 1, began: MOMENT + now,
    changes: [{ sequence: 1, data: { position: `0000000${name}-1`, change: 'leave', user: { user_id: 'u1', last_seen: time(0) }, reason: 'timeout' } }] }); // it was alone
  const lines = ids.map((id) => ({ user: id, first_seen: time(0), last_seen: time(now), online_since: online.has(id) ? time(since.get(id)) : null, status: 'online' }));
  const dump = () => [...structuredClone([...lines, ...sessions]), { end: 'presence' }];
  const dumps = Object.fromEntries(names.map((name) => [name, dump()]));
  return { logs, dumps, posts, held: online.has('u0') ? new Map([['u0', new Set(['a'])]]) : new Map(), online: new Set(online.keys()) };
}

/** All entries of a story's first epoch on one node. */
const parts = (told, name) => told.logs[name].parts.filter((part) => part.changes.length > 6);
const inside = (told, name) => parts(told, name)[0].changes;

/** What can go wrong: each makes one thing wrong in a sound story. */
const PLANTS = {
  'one node has another reason': (s) => { inside(s, 'b')[3].data.reason = 'node_lost'; },
  'one node has another connected_at': (s) => { inside(s, 'c')[2].data.user.connected_at = time(-1); },
  'one node was not told one in the middle': (s) => { inside(s, 'b').splice(3, 1); },
  'a position has two meanings': (s) => { inside(s, 'a')[4].data.user.user_id = 'somebody'; },
  'a leave for everybody, twice': (s) => {
    const found = s.logs.a.parts.filter(({ epoch }) => epoch === '00000001').flatMap(({ changes }) => changes).find(({ data }) => data.change === 'leave');
    for (const { parts: all } of Object.values(s.logs)) all.push({ epoch: '00000001', from: 998, to: 999, began: 0,
      changes: [{ sequence: 999, data: { ...found.data, position: '00000001-999', user: { ...found.data.user } } }, { sequence: 1000, data: { ...found.data, position: '00000001-1000' } }] });
  },
  'who held a socket has a leave': (s) => {
    for (const { parts: all } of Object.values(s.logs)) all[0].changes.push({ sequence: 5000, data: { position: '00000001-5000', change: 'leave', reason: 'node_lost', user: { user_id: 'u0', last_seen: 'x' } } });
  },
  'who held a socket has a leave on her own node, which was alone': (s) => { s.logs.a.parts.at(-1).changes[0].data.user.user_id = 'u0'; },
  'a user is only in one store': (s) => { s.dumps.b.splice(3, 1); },
  'a session has another reason': (s) => { s.dumps.c.find((line) => line.session).reason = 'kicked'; },
  'a session is only in two stores': (s) => { s.dumps.a.splice(s.dumps.a.findIndex((line) => line.session), 1); },
  'a session more': (s) => { s.dumps.a.unshift({ session: 'u3', from: time(-9), to: time(-8), reason: 'closed' }); },
  'last_seen is far apart': (s) => { const one = s.dumps.a.find((line) => line.online_since); one.last_seen = time(-9e6); },
  'a ghost': (s) => { for (const dump of Object.values(s.dumps)) dump.unshift({ user: 'ghost', online_since: time(0), last_seen: time(0) }); },
  'online nowhere': (s) => { s.online.add('nobody'); },
  'who was lost is still there': (s) => { s.lost = new Map([['u0', { at: 0 }]]); },
  'the webhook left one out': (s) => {
    const told = s.posts.filter(({ change }) => change !== 'reset').map(({ position }) => position);
    const epoch = told[0].slice(0, 8);
    const within = [...new Set(told.filter((position) => position.startsWith(epoch)))];
    const gone = within[Math.floor(within.length / 3) || 1]; // neither the first nor the last of its epoch
    s.posts = s.posts.filter(({ position }) => position !== gone);
  },
  'the webhook told one that never was': (s) => { const one = structuredClone(s.posts.at(-1)); one.position = 'ffffffff-7777'; s.posts.push(one); },
  'the webhook told one in two ways': (s) => { s.posts.push({ ...structuredClone(s.posts.at(-1)), reason: 'x' }); },
  'the webhook told them in another order': (s) => {
    const once = s.posts.filter((post, i) => s.posts.findIndex(({ position }) => position === post.position) === i);
    const [one, next] = once.filter(({ position }) => position.startsWith('ffffffff') && position !== 'ffffffff-0').slice(4);
    s.posts = s.posts.filter((post) => post.position !== one.position).flatMap((post) => (post.position === next.position ? [post, one] : [post]));
  },
};

test(`the checker: a sound story has no problem, and each planted fault is found (SEED=${SEED})`, () => {
  for (let seed = SEED; seed < SEED + 6; seed++) {
    assert.deepEqual(problemsOf(story(seed)), [], `story ${seed}`);
    for (const [what, plant] of Object.entries(PLANTS)) {
      const one = structuredClone(story(seed));
      if (!one.held.size && /held/.test(what)) continue;
      plant(one);
      assert.ok(problemsOf(one).length > 0, `${what}, story ${seed}`);
    }
  }
});

test('the checker: who was lost with a node leaves once', () => {
  const at = MOMENT;
  const leave = (sequence) => ({ sequence, data: { position: `00000001-${sequence}`, change: 'leave', reason: 'node_lost', user: { user_id: 'u', last_seen: time(0) } } });
  const join = (sequence) => ({ sequence, data: { position: `00000001-${sequence}`, change: 'join', reason: null, user: { user_id: 'u', last_seen: time(0) } } });
  const told = (...changes) => ({ parts: [{ epoch: '00000001', from: 0, to: 9, began: at - 1, changes }] });
  const session = { session: 'u', from: time(0), to: time(1), reason: 'node_lost' };
  const dump = (...lines) => [{ user: 'u', online_since: null, last_seen: time(0) }, ...lines];
  const check = (log, lines, more = []) => problemsOf({ logs: { a: log, b: { parts: [...log.parts, ...more] }, c: { parts: [...log.parts, ...more] } }, dumps: { a: lines, b: lines }, lost: new Map([['u', { at }]]) });
  assert.deepEqual(check(told(join(1), leave(2)), dump(session)), []);
  assert.equal(check(told(join(1)), dump(session)).length, 1, 'none');
  assert.equal(check(told(join(1), leave(2), join(3), leave(4)), dump(session)).length, 1, 'two');
  assert.equal(check(told(join(1), leave(2)), dump()).length, 2, 'no session, in two stores');
  const renewed = [{ epoch: '00000002', from: 0, to: 0, began: at + 1, changes: [] }];
  assert.deepEqual(check(told(join(1)), dump(session), renewed), [], 'a new epoch may have taken the leave');
});

test('the proxy before an engine: cut, stalled one way, late, refused', async (t) => {
  const engine = await startFake(t);
  const proxy = await startEngineProxy(t, engine);
  const client = new RespClient(proxy);
  assert.equal(await client.command('PING'), 'PONG');
  proxy.delay(60);
  const began = Date.now();
  assert.equal(await client.command('PING'), 'PONG');
  assert.ok(Date.now() - began >= 118, 'both ways');
  proxy.delay(0);

  proxy.stall('down');
  const count = () => engine.commands.length;
  let before = count();
  const waiting = client.command('PING');
  await until('it to reach the engine', () => count() === before + 1);
  let told = false;
  waiting.then(() => { told = true; });
  await throughout(80, () => assert.ok(!told));
  proxy.flow();
  assert.equal(await waiting, 'PONG');

  proxy.stall('up');
  before = count();
  const later = client.command('PING');
  const newcomer = new RespClient(proxy); // is as stalled as the others
  const its = newcomer.command('PING');
  await throughout(80, () => assert.equal(count(), before));
  proxy.flow();
  assert.deepEqual([await later, await its], ['PONG', 'PONG']);
  newcomer.close();

  proxy.refuse();
  assert.equal((await new RespClient(proxy).reply('PING')).kind, 'CLOSED');
  assert.equal(await client.command('PING'), 'PONG', 'those there are session');
  proxy.apart();
  await within(1000 * slow, 'the cut', client.ended);
  proxy.together();
  const again = new RespClient(proxy);
  assert.equal(await again.command('PING'), 'PONG');
  again.close();
});

/** A server that is no cluster, seen twice, as if by the readers of two nodes. */
async function seenTwice(t, options) {
  const server = await start(t, options);
  const cluster = new Cluster(t, { engine: null });
  for (const name of ['a', 'b']) {
    const node = { name, server, data: server.data, lives: 1, living: true, paused: false };
    node.dump = async () => {
      return (await run(['--dump', '--data', server.data])).stdout.split('\n').filter(Boolean).map((line) => JSON.parse(line));
    };
    cluster.nodes.push(node);
    cluster.logs[name] = new EventLog(node);
    cleanup(t, () => cluster.logs[name].stop());
  }
  await until('streams', () => Object.values(cluster.logs).every(({ parts: all }) => all.length > 0));
  return cluster;
}

test(`load, logs, dumps and webhook of one server pass the checker (SEED=${SEED})`, async (t) => {
  const receiver = await startClusterReceiver(t);
  const cluster = await seenTwice(t, { data: tempDir(t), args: ['--grace', '2s', '--history', '1d', ...receiver.args] });
  const load = new ClusterLoad(cluster, seeded(SEED), { threshold: 1000 });
  await load.begin({ holders: 20, visitors: 10, pace: 0.1 });
  const fragile = await load.fragileOn(cluster.nodes[0], 3);
  await until('a load', () => load.steps > 50, { within: 10000 * slow });
  cluster.logs.a.stream.cut(); // it comes back where it was
  load.losing.push(load.holders[3]); // and so does she
  await until('more', () => load.steps > 100 && load.visitors.every((one) => one.left > 0), { within: 20000 * slow });
  await load.calm();
  const truth = load.truth();
  assert.equal(truth.held.size, 23);
  await checkCluster(cluster, { ...truth, posts: receiver.posts });
  assert.ok(cluster.logs.a.changes.length > 40 && receiver.posts.length > 40);

  // and what is not true is found: she is kicked, and held nothing throughout
  await request(cluster.nodes[0].server, 'DELETE', `/admin/users/${fragile[0]}/connections`);
  await cluster.logs.b.wait('the kick', ({ change, user }) => change === 'leave' && user.user_id === fragile[0]);
  await assert.rejects(checkCluster(cluster, truth, { within: 1000 }), /held a socket throughout[^]*holds a socket, and is offline/);
  await load.end();
});

