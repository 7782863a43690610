'use strict';
// Variants: release
// The samples of README.md, played to a real server: each answer, message and event there has the
// members of the real one, in their order.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { spawn, spawnSync } = require('node:child_process');
const { test, start, run, tempDir, cleanup, findProgram, freePort, Authority, startReceiver, connect, heartbeat, openEvents, get, json, presence, until, slow } = require('./lib');
const { startCluster } = require('./lib/cluster');
const { noEngine, startRedis } = require('./lib/engine');

const LINES = fs.readFileSync(path.join(__dirname, '../../README.md'), 'utf8').split('\n');

/** The members of a value, with those of what it holds; of a list, of its first. */
function shape(value) {
  if (Array.isArray(value)) return value.slice(0, 1).map(shape);
  if (value === null || typeof value !== 'object') return '';
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, shape(one)]));
}
const same = (said, real, what) => assert.equal(JSON.stringify(shape(said)), JSON.stringify(shape(real)), what);

/** The JSON of a sample's line, behind what stands before it; null where a part is left out. */
const sample = (line, mark) => (line.startsWith(`    ${mark}{`) && !line.includes('...') ? JSON.parse(line.slice(4 + mark.length)) : null);

test('the samples of the README have the members of real answers', async (t) => {
  const receiver = await startReceiver(t);
  const server = await start(t, { args: receiver.args });
  const stream = await openEvents(server);
  let alice = await connect(server, 'alice');
  const real = { hello: alice.hello };
  alice.send({ type: 'ping' });
  real.pong = await alice.next('pong');
  alice.send({ type: 'status', status: 'busy' });
  await alice.ping();
  let compared = 0;
  let gone = false;
  for (const [i, line] of LINES.entries()) {
    const asked = /^ {4}\$ curl http:\/\/127\.0\.0\.1:8080(\/\S*)$/.exec(line);
    if (!asked || !sample(LINES[i + 1], '')) continue;
    const said = sample(LINES[i + 1], '');
    if ((said.online === false || said.sessions) && !gone) { // "Leave wscat with CTRL+C, and ask again"
      await alice.close();
      await until('the stay to end', async () => (await json(server, '/admin/users/alice/sessions')).sessions.some(({ to }) => to));
      gone = true;
    }
    same(said, (await get(server, asked[1])).json, `line ${i + 1}: ${asked[1]}`);
    compared++;
  }
  assert.ok(gone && compared >= 4, `${compared} answers compared`);

  alice = await connect(server, 'alice');
  const bob = await connect(server, 'bob');
  alice.send({ type: 'watch', users: ['bob', 'carol'] });
  real.snapshot = await alice.next('snapshot');
  await bob.close();
  real.presence = await alice.next('presence');
  const messages = LINES.map((line) => sample(line, '< ')).filter(Boolean);
  for (const message of messages) same(message, real[message.type], message.type);
  assert.deepEqual([...new Set(messages.map(({ type }) => type))].sort(), ['hello', 'pong', 'presence', 'snapshot']);

  const posted = LINES.map((line) => sample(line, '')).find((one) => one?.events);
  await receiver.until('the end of a stay', () => receiver.changes.some(({ change }) => change === 'leave'));
  same(posted.events[0], receiver.changes.find(({ change }) => change === 'leave'), 'what a webhook is told');
  assert.deepEqual(Object.keys(posted), ['sent_at', 'events']); // lib/receiver.js holds requests to it

  await heartbeat(server, 'dora');
  const data = LINES.map((line) => sample(line, 'data: ')).filter(Boolean);
  assert.equal(data.length, 1);
  same(data[0], stream.events.find(({ event }) => event === 'reset').data, 'reset');
  const change = LINES.find((line) => line.startsWith('    data: {') && line.includes('...')).replace(',...}', '}').slice(10);
  const { user, ...rest } = JSON.parse(change);
  const told = stream.events.find(({ event }) => event === 'change').data;
  assert.deepEqual(['position', 'change', 'user', 'reason'], Object.keys(told));
  assert.ok(Object.keys({ ...rest, user }).every((name) => name in told) && Object.keys(user).every((name) => name in told.user));
});

/** The commands of a chapter that begin with this word, without the `$`. */
function commands(chapter, word) {
  const from = LINES.indexOf(`## ${chapter}`);
  const to = LINES.findIndex((line, i) => i > from && line.startsWith('## '));
  return LINES.slice(from, to).filter((line) => line.startsWith(`    $ ${word}`)).map((line) => line.slice(6));
}

test('the three commands of More than one machine make one server of two', { skip: noEngine, timeout: 60000 * slow }, async (t) => {
  const CHAPTER = 'More than one machine';
  assert.deepEqual(commands(CHAPTER, 'redis-server'), ['redis-server'], 'one with no options: the port is its own');
  const engine = await startRedis(t);
  const dir = tempDir(t);
  const nodes = [];
  for (const line of commands(CHAPTER, 'presence')) {
    const args = line.split(' ').slice(1).map((word) => word.replace('127.0.0.1:6379', `127.0.0.1:${engine.port}`));
    const [data] = args.splice(args.indexOf('--data'), 2).slice(1);
    const [listen] = args.splice(args.indexOf('--listen'), 2).slice(1);
    assert.match(listen, /^127\.0\.0\.1:808[01]$/);
    nodes.push(await start(t, { args, data: path.join(dir, data), allow: [/level=(info|warn) msg="cluster: /] }));
  }
  assert.equal(nodes.length, 2);
  for (const node of nodes) await until('it to be in the cluster', async () => (await json(node, '/readyz')).cluster === 'settled', { within: 30000 * slow });
  const [a, b] = nodes;
  await connect(a, 'alice');
  await until('alice on the other', async () => (await presence(b, 'alice')).online);
  assert.deepEqual((await json(b, '/admin/stats')).cluster.nodes.map(({ name }) => name).sort(), ['a', 'b']);
  await a.stop();
  assert.equal((await presence(b, 'alice')).source, 'cached', 'she may come back');
});

test('the options of the nodes of three machines are options', async (t) => {
  const from = LINES.findIndex((line) => line.includes('ExecStart') && LINES[LINES.indexOf(line) + 1].includes('--cluster '));
  const to = LINES.findIndex((line, i) => i >= from && !line.endsWith('\\'));
  const words = LINES.slice(from, to + 1).join(' ').replaceAll('\\', '').trim().split(/\s+/).slice(1);
  const secret = path.join(tempDir(t), 'secret');
  fs.writeFileSync(secret, 'x'.repeat(32));
  const args = words.map((word) => word.replace(/^\/etc\/presence\/\S+$/, secret).replace('10.0.0.11:8080', '127.0.0.1:0'));
  args.splice(args.indexOf('--cluster-ca-file'), 2);
  const { code, stdout, stderr } = await run([...args, '--check-config']);
  assert.deepEqual([code, stdout], [0, 'configuration ok\n'], stderr);
});

test('the load balancer of three machines: any node, and none that is not ready', { skip: noEngine, timeout: 90000 * slow }, async (t) => {
  const haproxy = findProgram('haproxy');
  if (!haproxy) return t.skip('there is no haproxy here: apt-get install haproxy');
  const from = LINES.indexOf('    frontend web');
  const to = LINES.findIndex((line, i) => i > from && !line.startsWith('    '));
  assert.ok(from > 0);
  const all = await startCluster(t, { nodes: 3, events: false, args: ['--trusted-proxy', '127.0.0.1'] });
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const [port, cert] = [await freePort(), authority.issue('127.0.0.1').both];
  const text = LINES.slice(from, to).map((line) => line.slice(4)).join('\n')
    .replace(':443', `127.0.0.1:${port}`).replace(/\/etc\/haproxy\/\S+/, cert)
    .replaceAll(/server ([abc]) \S+ check/g, (_, name) => `server ${name} 127.0.0.1:${all[name].server.port} check inter 200ms`);
  const config = path.join(dir, 'haproxy.cfg');
  fs.writeFileSync(config, `${text}\n`);
  const check = spawnSync(haproxy, ['-c', '-f', config], { encoding: 'utf8' });
  assert.deepEqual([check.status, check.stderr.match(/\[(?:ALERT|WARNING)\].*/g)], [0, null], check.stderr);
  const child = spawn(haproxy, ['-f', config, '-db'], { stdio: 'ignore' });
  cleanup(t, () => child.kill('SIGKILL'));
  const door = { host: '127.0.0.1', port, sockets: new Set(), tls: { ca: fs.readFileSync(authority.file) } };
  const ask = (at) => get(door, at).catch(() => ({}));
  await until('the load balancer', async () => (await ask('/readyz')).status === 200, { within: 20000 * slow });
  const alice = await connect(door, 'alice');
  await all.everywhere('alice', 'online', (user) => user.online);
  const nodes = new Set();
  for (let i = 0; i < 6; i++) nodes.add((await ask('/admin/stats')).json.cluster.name);
  assert.deepEqual([...nodes], ['a'], 'an admin stays with one node');
  await all.a.stop();
  await until('the admin to be at the next', async () => (await ask('/admin/stats')).json?.cluster.name === 'b', { within: 20000 * slow });
  await until('alice asked for', async () => (await ask('/api/presence/alice')).json?.online, { within: 20000 * slow });
  alice.socket.terminate();
  child.kill('SIGTERM');
  await all.stop();
  return null;
});
