'use strict';
// Variants: release
// Where memory or threads are too few, the start ends with a line, or everything is served; it never
// listens and serves nobody.
const assert = require('node:assert/strict');
const { spawn, execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, run, binary, tempDir, cleanup, killTree, get, heartbeats, until, within, release, slow } = require('./lib');

const LISTENING = /listening on 127\.0\.0\.1:(\d+) \(http\)/;
const missing = (() => {
  try {
    execFileSync('prlimit', ['--version'], { stdio: 'ignore' });
    return false;
  } catch {
    return 'needs prlimit (util-linux)';
  }
})();

/** Starts it under limits, and tells how that went: 'served', or the line with which it ended. */
async function outcome(t, limits, args = [], options = {}) {
  const data = tempDir(t);
  if (options.uid) fs.chownSync(data, options.uid, options.uid);
  const argv = [...limits, '--', binary, '--listen', '127.0.0.1:0', '--data', path.join(data, 'd'), ...args];
  const child = spawn('prlimit', argv, { stdio: ['ignore', 'ignore', 'pipe'], ...options });
  cleanup(t, () => killTree(child.pid));
  let stderr = '';
  child.stderr.on('data', (text) => { stderr += text; });
  let end = null;
  const ended = new Promise((resolve) => child.once('close', (code, signal) => resolve((end = { code, signal }))));
  await until(`an end, or a line: ${limits}`, () => end || LISTENING.test(stderr), { within: 20000 * slow });
  if (LISTENING.test(stderr)) {
    const server = { host: '127.0.0.1', port: Number(LISTENING.exec(stderr)[1]), sockets: new Set() };
    // A memory that is just enough for the start may not be for a request: then it says that.
    const served = await within(20000 * slow, `an answer: ${limits}`, Promise.race([
      get(server, '/healthz').then((one) => one.status === 200, () => false), ended.then(() => false)]));
    child.kill('SIGTERM');
    await within(20000 * slow, `the end: ${limits}`, ended);
    if (served && end.code === 0) return 'served';
  }
  const lines = stderr.split('\n').filter((line) => line && !/ level=info /.test(line));
  const [last, ...more] = lines.filter((line) => line.startsWith('presence: '));
  assert.ok(end.code === 1 && last && !more.length, `${limits}: ${JSON.stringify(end)}\n${stderr}`);
  assert.match(last, /^presence: (out of memory|cannot|--data: cannot read who was online|.*: (Out of memory|Cannot allocate))/i, `${limits}`);
  // another thread may have lacked memory at the same time, and said so
  for (const line of lines) assert.match(line, /^presence: | level=error .*: (Out of memory|Cannot allocate)/, `${limits}\n${stderr}`);
  return last;
}

/** The outcomes for each n, two at a time. */
async function sweep(numbers, run) {
  const found = [];
  const rest = [...numbers];
  const work = async () => { for (let n; (n = rest.shift()) !== undefined;) found.push([n, await run(n)]); };
  await Promise.all([work(), work()]);
  return found.sort((a, b) => a[0] - b[0]).map(([, how]) => how);
}

const KIB = 1024;
const steps = (from, to, count) => Array.from({ length: count }, (_, i) => Math.round(from + ((to - from) * (i + Math.random())) / count));

test('any bound of memory: served, or ended with a line', { skip: missing || (!release && 'the sanitizers reserve terabytes'), timeout: 120000 }, async (t) => {
  const found = await sweep(steps(fs.statSync(binary).size + 400 * KIB, 9000 * KIB, 80), (bytes) => outcome(t, [`--as=${bytes}`], ['--map-size', '1m']));
  assert.equal(found.at(-1), 'served');
  assert.ok(new Set(found).size >= 3, found.join('\n'));
});

test('a store that gets no address space to grow: presence goes on, and is stored when there is some', {
  skip: missing || (!release && 'the sanitizers reserve terabytes'), timeout: 60000,
}, async (t) => {
  const server = await start(t, { args: ['--map-size', '2m', '--online-threshold', '1h'],
    allow: [/level=error msg="store: .*(Cannot allocate memory|Out of memory)/, /level=(info|warn) msg="store: .*again/] });
  const limit = (bytes) => execFileSync('prlimit', ['--pid', `${server.pid}`, `--as=${bytes}:unlimited`]);
  const names = (from, count) => Array.from({ length: count }, (_, i) => `somebody-whose-name-is-long-${from + i}`);
  const ready = async () => (await get(server, '/readyz')).status === 200;
  await heartbeats(server, names(0, 1000));
  const size = () => 1024 * Number(/^VmSize:\s+(\d+)/m.exec(fs.readFileSync(`/proc/${server.pid}/status`, 'utf8'))[1]);
  let from = 1000;
  await until('the store to be full', async () => {
    limit(size() + 1000 * KIB); // enough for some users, but the map wants 2 MiB more
    await heartbeats(server, names(from, 500));
    from += 500;
    return !(await ready());
  }, { within: 30000 });
  for (let i = 0; i < 3; i++) {
    assert.equal((await get(server, '/api/presence/nobody')).status, 404, 'the store is read');
    assert.equal((await get(server, `/api/presence/${names(from - 1, 1)}`)).json.online, true);
    await new Promise((resolve) => { setTimeout(resolve, 600); });
  }
  limit('unlimited');
  await until('all to be stored', ready, { within: 20000 });
  await server.stop();
  const check = await run(['--data', server.data, '--check-store']);
  assert.deepEqual([check.code, Number(/^store ok: (\d+) users/.exec(check.stdout)[1])], [0, from]);
});

test('any number of threads: served, or ended with a line that names which', {
  skip: missing || (!release && 'the sanitizers start threads of their own') || (process.getuid() !== 0 && 'needs root, to be another user'),
  timeout: 120000,
}, async (t) => {
  const uid = 60000 + Math.floor(Math.random() * 5000); // of whom nothing else runs
  const args = ['--workers', '3', '--tls-listen', '127.0.0.1:0', '--tls-self-signed', '--tls-threads', '2'];
  const found = [];
  for (let n = 1; n <= 18; n++) found.push(await outcome(t, [`--nproc=${n}`], args, { uid, gid: uid }));
  assert.equal(found.at(-1), 'served', found.join('\n'));
  const failed = found.filter((how) => how !== 'served');
  for (const how of failed) assert.match(how, /^presence: cannot start the .*: Resource temporarily unavailable; allow it more threads/);
  for (const which of ['writer of the store', 'hub', 'reader of the store', 'threads of --tls-threads', 'threads of --workers'])
    assert.ok(failed.some((how) => how.includes(`cannot start the ${which}:`)), `${which}\n${found.join('\n')}`);
  assert.ok(failed.filter((how) => how.includes('--workers')).length >= 4, 'each worker, and who leads them');
});
