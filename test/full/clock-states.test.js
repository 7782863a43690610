'use strict';
// UTC is stepped by two days, forth and back, while everything that waits is waiting: grace,
// threshold, a status for a time, a request that is half there, a webhook's next try, a login that is
// slowed down, a token's end. What is a duration takes as long as ever. The released binary is
// static, so this is the build with AddressSanitizer.
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const {
  test, start, cleanup, tempDir, connect, rawConnect, heartbeat, putStatus, stats, json, tcp, until,
  passwordFile, tryLogin, tokenKey, bearer, get,
} = require('../integration/lib');

const DAYS = 2 * 86400;
const asan = process.env.PRESENCE_BIN_ASAN || (process.env.PRESENCE_VARIANT === 'asan' && process.env.PRESENCE_BIN);
const options = { skip: !asan && 'needs ./build.sh asan', timeout: 300000 };

/** A server whose clock can be stepped: server.step(seconds). */
async function startStepped(t, args, allow = []) {
  const dir = tempDir(t);
  const [preload, file] = [path.join(dir, 'clock.so'), path.join(dir, 'step')];
  execFileSync('gcc', ['-shared', '-fPIC', '-o', preload, path.join(__dirname, '../integration/lib/clock.c')]);
  fs.writeFileSync(file, '0');
  const server = await start(t, {
    args,
    allow: [/level=warn msg="webhook: /, ...allow],
    wrap: ['sh', '-c', 'shift; exec "$0" "$@"', asan],
    env: { LD_PRELOAD: preload, STEP_CLOCK: file, ASAN_OPTIONS: `${process.env.ASAN_OPTIONS ?? ''}:verify_asan_link_order=0` },
  });
  server.step = (seconds) => {
    fs.writeFileSync(`${file}.new`, String(seconds));
    fs.renameSync(`${file}.new`, file);
  };
  cleanup(t, () => server.step(0));
  return server;
}

/** Answers with `status`, and counts: { args, requests, status }. */
async function receiver(t) {
  const hook = { requests: 0, status: 500 };
  const server = http.createServer((request, response) => {
    hook.requests++;
    request.resume().on('end', () => response.writeHead(hook.status).end());
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup(t, () => { server.close(); server.closeAllConnections(); });
  const secret = path.join(tempDir(t), 'secret');
  fs.writeFileSync(secret, 'a secret that both sides know');
  hook.args = ['--webhook-url', `http://127.0.0.1:${server.address().port}/`, '--webhook-secret-file', secret];
  return hook;
}

for (const seconds of [DAYS, -DAYS]) {
  test(`UTC is stepped by ${seconds} s: every duration takes its time`, options, async (t) => {
    const hook = await receiver(t);
    const server = await startStepped(t, ['--grace', '5s', '--online-threshold', '10s', '--request-timeout', '7s', ...hook.args]);
    const began = performance.now();
    const after = () => (performance.now() - began) / 1000;
    (await rawConnect(server, 'dropped')).reset();
    await heartbeat(server, 'heard');
    const half = await tcp(server);
    half.write('GET /healthz HTTP/1.1\r\n');
    const live = await connect(server, 'live');
    await putStatus(server, 'live', { status: 'busy', expires_in: 8 });
    await until('a try', () => hook.requests > 0, { within: 20000 });
    server.step(seconds);
    const ends = {};
    const note = (name, ended) => { if (ended) ends[name] ??= after(); };
    half.response(60000).then(({ status }) => note('half', status === 408), () => {});
    const view = async (id) => (await get(server, `/api/presence/${id}`)).json; // of another time than ours
    await until('all have ended', async () => {
      note('dropped', !(await view('dropped')).online);
      note('heard', !(await view('heard')).online);
      note('status', (await view('live')).status === 'online');
      if (after() > 38) throw new Error(JSON.stringify(ends));
      return ends.dropped && ends.heard && ends.status && ends.half;
    }, { within: 40000, every: 50 });
    for (const [name, least] of [['dropped', 5], ['heard', 10], ['status', 8], ['half', 7]])
      assert.ok(ends[name] > least - 0.5 && ends[name] < least + 6, `${name}: ${ends[name]} s, not ${least}`);
    await live.ping();
    hook.status = 204;
    await until('delivered', async () => (await stats(server)).webhook.pending === 0, { within: 60000, every: 100 });
    const { counters } = await stats(server);
    assert.equal(counters.webhook_dead, 0);
    assert.equal(counters.heartbeat_timeouts, 0);
    half.destroy();
  });

  test(`UTC is stepped by ${seconds} s: a login stays slowed down for as long as was said`, options, async (t) => {
    const server = await startStepped(t, passwordFile(t, 'right').args);
    let wait = 0;
    await until('some seconds to wait', async () => {
      const answer = await tryLogin(server, 'wrong');
      wait = Number(answer.headers['retry-after'] || 0);
      return wait >= 4;
    }, { within: 60000, every: 100 });
    const told = performance.now();
    server.step(seconds);
    const soon = await tryLogin(server, 'right');
    if (performance.now() - told < (wait - 1) * 1000) assert.equal(soon.status, 429, 'a step does not end the wait');
    await until('the right one', async () => (await tryLogin(server, 'right')).status === 200, { within: (wait + 10) * 1000, every: 200 });
  });

  test(`UTC is stepped by ${seconds} s: a token is as good as UTC says`, options, async (t) => {
    const key = tokenKey(t);
    const server = await startStepped(t, key.args);
    const token = await key.user('u', { watch: '*' }); // for an hour
    const client = await connect(server, 'u', bearer(token));
    server.step(seconds);
    await until('the server to see it', async () => {
      const { status } = await get(server, '/api/presence/u', bearer(token));
      return status === (seconds > 0 ? 401 : 200);
    }, { within: 20000 });
    server.step(0);
    await until('and back', async () => (await get(server, '/api/presence/u', bearer(token))).status === 200, { within: 20000 });
    const again = await connect(server, 'u', bearer(token));
    await again.ping();
    if (client.open) await client.ping();
    assert.equal((await json(server, '/api/presence/u', bearer(token))).online, true);
  });
}
