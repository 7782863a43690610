'use strict';
// `./build.sh hostile`: tools made to hurt servers, against the released program, on loopback only.
// Bounded: about five minutes. Not part of the tests, since it takes the whole machine.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { spawn } = require('node:child_process');
const nodeTest = require('node:test');
const { start, startSecure, startMangler, Authority, tempDir, cleanup, connect, get, shake, heartbeats, presence, until, delay,
  proc, stats } = require('./lib');
const { startFlood } = require('./lib/flood');

const test = (name, body) => nodeTest(name, { timeout: 240000 }, body);

/** Runs a tool to its end, at most `seconds`; gives { code, output }. */
function tool(t, argv, seconds) {
  return new Promise((resolve, reject) => {
    const child = spawn('timeout', ['-k', '5', String(seconds), ...argv], { stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => { output += text; });
    cleanup(t, () => { if (child.exitCode === null) child.kill('SIGTERM'); });
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, output }));
  });
}

/** The value below which this part of the numbers lies. */
const quantile = (numbers, part) => [...numbers].sort((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(numbers.length * part))];

/** How long each of `count` goes of `work` took, in ms, `pause` apart. */
async function measure(count, work, pause = 0) {
  const took = [];
  for (let i = 0; i < count; i++) {
    const began = process.hrtime.bigint();
    await work(i);
    took.push(Number(process.hrtime.bigint() - began) / 1e6);
    if (pause) await delay(pause);
  }
  return took;
}

// the tool has one address, and all its connections are to stay
const FLOOD = ['--max-pending-per-address', '0'];

const SLOW = {
  'slow headers': ['-H', '-i', '2', '-x', '24', '-u', '/healthz'],
  'slow body': ['-B', '-i', '2', '-s', '200000', '-x', '10', '-f', 'application/json', '-u', '/api/presence'],
  'slow read': ['-X', '-w', '10', '-y', '20', '-n', '5', '-z', '32', '-k', '3', '-u', '/admin/users?limit=1000'],
};

for (const [what, args] of Object.entries(SLOW)) {
  test(`slowhttptest, ${what}: /healthz stays under 1 s`, async (t) => {
    const server = await start(t, { args: [...FLOOD, '--workers', '2'] });
    assert.equal(await heartbeats(server, Array.from({ length: 1000 }, (_, i) => `user-${i}`)), 1000);
    const at = args.indexOf('-u') + 1;
    const argv = ['slowhttptest', ...args.map((one, i) => (i === at ? `http://127.0.0.1:${server.port}${one}` : one)),
      '-c', '2000', '-r', '160', '-l', '15', '-p', '2', '-v', '1'];
    const ended = tool(t, argv, 30);
    let over = false;
    ended.then(() => { over = true; }, () => { over = true; });
    const took = [];
    let most = 0;
    while (!over) {
      const health = await get(server, '/healthz', { localAddress: '127.0.0.2' });
      assert.equal(health.status, 200);
      took.push(health.ms);
      if (took.length % 10 === 0) most = Math.max(most, (await stats(server)).connections.pending);
      await delay(40);
    }
    const { output } = await ended;
    t.diagnostic(`${what}: ${took.length} probes, p50 ${quantile(took, 0.5)} ms, worst ${Math.max(...took)} ms, up to ${most} pending`);
    assert.ok(/test|slow/i.test(output) && took.length > 50, `slowhttptest did not run: ${output.slice(0, 500)}`);
    assert.ok(most > 500 || what === 'slow read', `only ${most} connections were pending: ${output.slice(-500)}`);
    assert.ok(Math.max(...took) < 1000, `${Math.max(...took)} ms`);
    assert.doesNotMatch(output, /service available:\s+NO/, 'its own probe was served');
  });
}

test('10,000 silent, dripping and half-shaken sockets: a wss login under 50 ms more than undisturbed', async (t) => {
  const server = await startSecure(t);
  let hello;
  const tap = await startMangler(t, server.secure, () => (chunk) => {
    hello ??= Buffer.from(chunk);
    return [chunk];
  });
  (await shake(tap)).destroy();
  const holder = await connect(server, 'holder');
  const login = async (i) => {
    const client = await connect(server.secure, `login-${i}`, { localAddress: `127.0.0.${3 + (i % 200)}` });
    client.destroy();
  };
  await measure(30, login); // warm
  const before = await measure(150, login, 10);
  const cpu = proc.cpu(server.pid);
  const [plain, secure] = [server.port, server.secure.port];
  const flood = startFlood(t, {
    host: '127.0.0.1',
    hello,
    seconds: 60,
    attacks: [{ kind: 'silent', port: plain, count: 2500 }, { kind: 'head', port: plain, count: 2500 },
      { kind: 'silent', port: secure, count: 2500 }, { kind: 'hello', port: secure, count: 2500 }],
  });
  await until('9,000 sockets', () => flood.state.open >= 9000, { within: 25000, every: 100 });
  const began = Date.now();
  const during = [];
  while (Date.now() - began < 25000) during.push(...(await measure(10, login, 40)));
  const { open, ended } = flood.state;
  const pending = (await stats(server)).connections.pending;
  await holder.ping();
  assert.equal((await presence(server, 'holder')).source, 'live');
  const more = (part) => quantile(during, part) - quantile(before, part);
  t.diagnostic(`wss login undisturbed p50 ${quantile(before, 0.5).toFixed(1)} p99 ${quantile(before, 0.99).toFixed(1)} ms; ` +
    `beside ${open} sockets (${pending} pending, ${ended} given up) p50 ${quantile(during, 0.5).toFixed(1)} p99 ${quantile(during, 0.99).toFixed(1)} ms, ` +
    `${during.length} logins; server ${proc.cpu(server.pid) - cpu} ms of CPU, ${(proc.rss(server.pid) / 2 ** 20).toFixed(1)} MiB`);
  assert.ok(pending > 7000, `${pending} pending`);
  for (const part of [0.5, 0.9, 0.99]) assert.ok(more(part) < 50, `${more(part)} ms more at ${part}`);
});

// What testssl finds in any server whose certificate was made for a test.
const IGNORED = {
  cert_revocation: 'the authority of a test has no CRL and no OCSP responder to name',
  BREACH: 'the bundled files are packed, which are the same for everybody; answers are not (looked at below)',
};

test('testssl finds nothing of severity MEDIUM or above, RSA and ECDSA', async (t) => {
  const dir = tempDir(t);
  const authority = new Authority(dir);
  const scan = async (kind) => {
    const server = await startSecure(t, { authority, certs: [authority.issue('localhost', { kind })] });
    const file = path.join(dir, `${kind}.json`);
    const began = Date.now();
    const { code, output } = await tool(t, ['testssl', '--quiet', '--color', '0', '--warnings', 'off', '--nodns', 'none', '--ip', '127.0.0.1',
      '--add-ca', authority.file, '--connect-timeout', '5', '--openssl-timeout', '5', '--jsonfile', file, `localhost:${server.secure.port}`], 170);
    assert.notEqual(code, 124, `testssl did not end: ${output.slice(-1000)}`);
    const found = JSON.parse(fs.readFileSync(file, 'utf8'));
    assert.ok(found.length > 80, `only ${found.length} findings: ${output.slice(-1000)}`);
    const ids = new Map(found.map((one) => [one.id, one.finding]));
    assert.match(ids.get('TLS1_2') || '', /^offered/, 'it saw TLS 1.2');
    assert.match(ids.get('TLS1_3') || '', /^offered/, 'it saw TLS 1.3');
    for (const old of ['SSLv2', 'SSLv3', 'TLS1', 'TLS1_1']) assert.match(ids.get(old) || '', /^not offered/, old);
    const grave = found.filter(({ severity }) => ['MEDIUM', 'HIGH', 'CRITICAL', 'FATAL'].includes(severity));
    const ours = grave.filter(({ id }) => !IGNORED[id.replace(/ .*/, '')]);
    t.diagnostic(`testssl ${kind}: ${found.length} findings in ${Math.round((Date.now() - began) / 1000)} s, ignored: ` +
      `${grave.filter((one) => !ours.includes(one)).map((one) => one.id).join(', ') || 'none'}; LOW: ${found.filter(({ severity }) => severity === 'LOW').map((one) => `${one.id} (${one.finding})`).join(', ') || 'none'}`);
    assert.deepEqual(ours, [], kind);
    await heartbeats(server, Array.from({ length: 100 }, (_, i) => `user-${i}`));
    for (const at of ['/healthz', '/api/presence/user-1', '/admin/users', '/admin/stats', '/admin/login', '/metrics', '/nothing']) {
      const answer = await get(server.secure, at, { headers: { 'Accept-Encoding': 'gzip, deflate, br, *' } });
      assert.equal(answer.headers['content-encoding'], undefined, `${at} is packed`);
    }
  };
  await Promise.all(['rsa', 'ec'].map(scan));
});
