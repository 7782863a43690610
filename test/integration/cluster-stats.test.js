'use strict';
// Variants: release tsan
// What operators read of a cluster: /metrics and /admin/stats of each node, while all is well and
// when it is not; what the engine has to allow; and that every counter of a cluster moves.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, connect, get, heartbeat, json, run, tempDir, until, slow } = require('./lib');
const { startCluster } = require('./lib/cluster');
const { noEngine, startRedis } = require('./lib/engine');

const root = path.join(__dirname, '../..');
const read = (name) => fs.readFileSync(path.join(root, name), 'utf8');
const skip = noEngine;
const COUNTERS = [.../#define CLUSTER_COUNTER_TABLE\(X\)[^]*?\nstruct/.exec(read('presence.c'))[0]
  .matchAll(/X\((\w+),\s*"(\w+)"/g)].map(([, field, metric]) => ({ field, metric }));
// What no test of whole programs can bring about, and the unit test that does.
const ELSEWHERE = { differences: ['test/unit/cluster_stats.c', 'tables_that_differ_are_counted'] };
const moved = new Set(Object.keys(ELSEWHERE));

const stats = async (node) => (await json(node.server, '/admin/stats')).cluster;
/** The metrics of a node by their names, without what all begin with. */
async function metrics(node) {
  const { text } = await get(node.server, '/metrics');
  return Object.fromEntries([...text.matchAll(/^presence_(\w+) (-?[\d.]+)$/gm)].map(([, name, value]) => [name, Number(value)]));
}
const states = ({ nodes }) => Object.fromEntries(nodes.map(({ name, state }) => [name, state]));
const row = ({ nodes }, wanted) => nodes.find(({ name }) => name === wanted);

/** Waits until the stats of a node are as `check` wants them. */
async function shows(node, what, check, options = { within: 30000 * slow }) {
  let last;
  await until(`${node.name} to show ${what}`, async () => check(last = await stats(node)), options)
    .catch((error) => { throw new Error(`${error.message}: ${JSON.stringify(last)}`); });
  return last;
}

/** The counters of all nodes, and which of them have moved since. */
const counters = async (all) => Object.fromEntries(await Promise.all(all.living.map(async (node) => [node.name, (await stats(node)).counters])));
/** The same at a moment between two beats, when all have read what all wrote. */
async function quiet(all) {
  let last = null;
  await until('a moment in which nobody writes', async () => {
    const old = last;
    last = await counters(all);
    return JSON.stringify(old) === JSON.stringify(last);
  }, { every: 100, within: 20000 * slow });
  return last;
}
function movedSince(before, after) {
  const found = {};
  for (const [name, now] of Object.entries(after)) {
    found[name] = {};
    for (const { field } of COUNTERS) if (now[field] > (before[name]?.[field] ?? 0)) found[name][field] = now[field] - (before[name]?.[field] ?? 0);
    for (const field of Object.keys(found[name])) moved.add(field);
  }
  return found;
}

test('a cluster in numbers: while all is well, and when something fails', { skip, timeout: 150000 * slow }, async (t) => {
  const all = await startCluster(t, { args: ['--grace', '2s', '--online-threshold', '20s', '--ping-interval', '3s', '--pong-timeout', '3s'] });
  const { a, b, c } = all;

  await t.test('each node has its own users, those of others, and all nodes', async () => {
    await a.connect('alice');
    await a.connect('alice');
    await b.connect('bob');
    await b.connect('alice');
    await heartbeat(b.server, 'carol');
    await all.everywhere('carol', 'online', (user) => user.online);
    const seen = Object.fromEntries(await Promise.all(all.nodes.map(async (node) => [node.name, await metrics(node)])));
    for (const [name, own, remote, connections] of [['a', 1, 2, 2], ['b', 3, 0, 2], ['c', 0, 3, 0]]) {
      const { cluster_state: state, cluster_nodes: nodes, users_live: live, users_cached: cached, connections: sum, ...rest } = seen[name];
      assert.deepEqual([state, nodes, live, cached, sum], [2, 3, 2, 1, 4], name);
      assert.deepEqual([rest.cluster_own_users, rest.cluster_remote_users, rest.cluster_own_connections, rest.cluster_remote_connections],
        [own, remote, connections, 4 - connections], name);
      assert.ok(rest.cluster_log_delay_seconds <= rest.cluster_log_delay_max_seconds && rest.cluster_log_delay_max_seconds < 2 * slow, name);
      assert.ok(Math.abs(rest.cluster_clock_offset_seconds) < 0.5, name);
    }
    const ids = new Set();
    for (const node of all.nodes) {
      const said = await stats(node);
      assert.deepEqual([said.state, said.name, said.nodes[0].node_id], ['settled', node.name, said.node_id]);
      assert.match(said.engine, /^redis:\/\/127\.0\.0\.1:\d+\/test$/);
      assert.equal(said.epoch, await all.epoch());
      assert.deepEqual(states(said), { a: 'settled', b: 'settled', c: 'settled' });
      assert.deepEqual(['a', 'b', 'c'].map((one) => [row(said, one).users, row(said, one).connections]), [[1, 2], [3, 2], [0, 0]]);
      for (const one of said.nodes) assert.ok(one.last_entry_ms <= 4000 * slow, JSON.stringify(one));
      assert.deepEqual(Object.keys(said.counters), COUNTERS.map(({ field }) => field));
      for (const { field, metric } of COUNTERS) assert.ok((await metrics(node))[metric] >= said.counters[field], metric);
      ids.add(said.node_id);
    }
    assert.equal(ids.size, 3);
  });

  await t.test('what is written by one is read by all, byte by byte', async () => {
    const before = await quiet(all);
    await until('beats of all', async () => Object.values(movedSince(before, await counters(all))).every(({ entries_written: n }) => n >= 2), { within: 20000 * slow });
    const now = movedSince(before, await quiet(all));
    const sum = (field) => Object.values(now).reduce((total, one) => total + one[field], 0);
    for (const [name, one] of Object.entries(now)) assert.deepEqual([one.entries_read, one.bytes_read], [sum('entries_written'), sum('bytes_written')], name);
  });

  await t.test('an engine that was emptied: another epoch for all, and nothing else', async () => {
    const before = await counters(all);
    const old = await all.epoch();
    await all.engine.command('FLUSHALL');
    for (const node of all.nodes) await shows(node, 'another epoch', ({ state, epoch }) => state === 'settled' && epoch !== old);
    const now = movedSince(before, await counters(all));
    for (const [name, one] of Object.entries(now)) assert.deepEqual([one.epochs >= 1, one.evictions, one.evicted, one.joins], [true, undefined, undefined, undefined], name);
  });

  await t.test('a node that is alone says so, and does not know of the others', async () => {
    const before = await counters(all);
    a.proxy.apart();
    const alone = await shows(a, 'that it is alone', ({ state }) => state === 'alone');
    assert.deepEqual(states(alone), { a: 'alone', b: 'unknown', c: 'unknown' });
    assert.deepEqual([row(alone, 'a').users, row(alone, 'a').connections, row(alone, 'b').connections], [1, 2, 0]);
    const seen = await metrics(a);
    assert.deepEqual([seen.cluster_state, seen.cluster_nodes], [0, 1]);
    await shows(a, 'seconds alone', ({ counters: now }) => now.alone_seconds > before.a.alone_seconds);
    a.proxy.together();
    await shows(a, 'that it is back', ({ state, nodes }) => state === 'settled' && nodes.every((one) => one.state === 'settled'));
    const now = movedSince(before, await counters(all));
    assert.ok(now.a.joins >= 1 && now.a.snapshots_taken >= 1 && now.a.alone_seconds >= 1, JSON.stringify(now));
    assert.ok((now.b.snapshots_given ?? 0) + (now.c.snapshots_given ?? 0) >= 1, JSON.stringify(now));
  });

  await t.test('a node that stands still is silent, then gone, with users who may come back; then it is back', async () => {
    const before = await counters(all);
    b.pause();
    // Ten seconds before the threshold; its users are cached one record each.
    await shows(a, 'that b is gone', (said) => row(said, 'b')?.state === 'gone' && row(said, 'b').connections === 0);
    assert.equal((await metrics(a)).cluster_nodes, 2);
    await shows(a, 'nothing of b any more', (said) => !row(said, 'b'));
    b.resume();
    await shows(b, 'that it is back', ({ state, counters: now }) => state === 'settled' && now.evicted > 0);
    await shows(a, 'b again', (said) => row(said, 'b')?.state === 'settled' && row(said, 'b').connections === 2);
    const now = movedSince(before, await counters(all));
    assert.equal((now.a.evictions ?? 0) + (now.c.evictions ?? 0), 1, JSON.stringify(now));
    assert.ok(now.b.evicted >= 1);
  });
  await all.stop();
});

test('whom silence took offline is counted on every node, with how long that was', { skip, timeout: 60000 * slow }, async (t) => {
  const all = await startCluster(t, { args: ['--online-threshold', '4s', '--ping-interval', '1s', '--pong-timeout', '1s'] });
  for (const id of ['u1', 'u2']) await heartbeat(all.a.server, id);
  for (const node of all.nodes) {
    await until(`two leaves on ${node.name}`, async () => (await metrics(node)).leaves_total === 2, { within: 20000 * slow });
    const { detection_delay_seconds_count: count, detection_delay_seconds_sum: sum } = await metrics(node);
    assert.equal(count, 2);
    assert.ok(sum >= 8 && sum < 8 + 10 * slow, `${sum} s`);
  }
  await all.stop();
});

test('every counter of a cluster was moved, here or by a unit test', { skip }, () => {
  for (const [file, name] of Object.values(ELSEWHERE)) assert.match(read(file), new RegExp(`cmocka_unit_test\\(${name}\\)`));
  assert.ok(COUNTERS.length > 10);
  assert.deepEqual(COUNTERS.map(({ field }) => field).filter((field) => !moved.has(field)), []);
});

test('the line of rights in the manual is all that nodes need, and without any of them no node starts', { skip, timeout: 120000 * slow }, async (t) => {
  const [, line] = /^ACL SETUSER presence on >PASSWORD ~\{PREFIX\}:\* ([^]*?)\n\.Ed/m.exec(read('man/presence.1'));
  const rights = line.split(/\s+/);
  const [, said] = /^ {4}user presence on >\S+ ~\{presence\}:\* (.*)$/m.exec(read('README.md'));
  assert.deepEqual(said.split(' '), rights, 'the README has the same');
  assert.ok(rights.length > 10);
  const secret = path.join(tempDir(t), 'password');
  fs.writeFileSync(secret, 'open sesame\n');
  const engine = await startRedis(t);
  const allow = (list) => engine.command('ACL', 'SETUSER', 'presence', 'reset', 'on', '>open sesame', '~{test}:*', ...list);
  await allow(rights);
  const args = ['--cluster-user', 'presence', '--cluster-password-file', secret];
  const all = await startCluster(t, { engine, nodes: 2, args });
  await connect(all.a.server, 'alice');
  await all.add('c'); // it takes a copy
  await all.c.ready();
  await engine.command('SCRIPT', 'FLUSH');
  await connect(all.c.server, 'carol');
  await all.everywhere('carol', 'online', (user) => user.online);
  await engine.command('FLUSHALL');
  for (const node of all.nodes) await shows(node, 'another epoch', ({ state, counters: now }) => state === 'settled' && now.epochs > 0);
  assert.deepEqual(await engine.command('ACL', 'LOG'), [], 'nothing was refused');
  await all.stop();
  for (const right of rights) {
    await allow(rights.filter((one) => one !== right));
    const { code, stderr } = await run(['--listen', '127.0.0.1:0', '--data', tempDir(t), '--cluster', `redis://127.0.0.1:${engine.port}/test`, ...args]);
    assert.equal(code, 2, `without ${right}: ${stderr}`);
    assert.ok(stderr.includes(`ACL SETUSER presence ~{test}:* ${rights.join(' ')}`), stderr);
  }
});
