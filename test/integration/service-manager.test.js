'use strict';
// Variants: release asan
// As a service of systemd: what it tells, the sockets that it is passed, the watchdog of its hub.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, sideBySide, startManager, tempDir, connect, get, run, until, dice } = require('./lib');

const at = (manager, name = 'http') => ({ host: '127.0.0.1', port: manager.sockets.find((one) => one.name === name).port, sockets: new Set() });
const args = (t, ...more) => ['--data', path.join(tempDir(t), 'data'), ...more];

sideBySide(() => {
  test('it says when it is ready, reads its keys again and stops', async (t) => {
    const manager = await startManager(t);
    const secret = path.join(tempDir(t), 'secret');
    fs.writeFileSync(secret, 'a secret of more than thirty-two bytes\n');
    await manager.start(args(t, '--jwt-secret-file', secret));
    const port = manager.sockets[0].port;
    assert.equal(await manager.told(/READY=1/), `READY=1|STATUS=Serves 127.0.0.1:${port} (http)`);
    assert.equal((await get(at(manager), '/readyz')).status, 200, 'ready means that it answers');
    process.kill(manager.pid, 'SIGHUP');
    await until('ready again', () => manager.said('told').length === 3);
    assert.match(manager.said('told')[1], /^RELOADING=1\|MONOTONIC_USEC=\d+$/);
    assert.equal(manager.said('told')[2], 'READY=1');
    const [now] = process.hrtime();
    assert.ok(Math.abs(now - Number(/\d+$/.exec(manager.said('told')[1])[0]) / 1e6) < 60, 'by CLOCK_MONOTONIC');
    assert.equal(await manager.stop(), '0');
    assert.equal(manager.said('told')[3], 'STOPPING=1|STATUS=Stopping');
    assert.match(manager.stderr, /msg="keys for tokens read again"/);
    assert.match(manager.stderr, /msg="stopping by SIGTERM; 0 clients to be told"\n.*msg="stopped; all changes are written"\n$/);
  });

  test('the hub gives signs of life, and only as long as it has turns', async (t) => {
    const manager = await startManager(t);
    await manager.start(args(t), { watchdog: '100000' });
    await until('five signs', () => manager.said('told').filter((text) => text === 'WATCHDOG=1').length >= 5);
    assert.equal(await manager.stop(), '0');
    await manager.start(args(t), { watchdog: '100000', wrap: ['env', 'WATCHDOG_PID=1'] });
    await manager.told(/READY=1/);
    await connect(at(manager), 'u');
    assert.equal(await manager.stop(), '0');
    assert.deepEqual(manager.said('told').filter((text) => text === 'WATCHDOG=1'), [], 'the watchdog is another process\'s');
  });

  test('it serves on the sockets that it is passed, each by its name, in place of its options', async (t) => {
    const manager = await startManager(t, [['http', '127.0.0.1'], ['metrics', '127.0.0.1'], ['http', '127.0.0.1']]);
    const own = await startManager(t);
    await manager.start(args(t, '--listen', `127.0.0.1:${own.sockets[0].port}`, '--metrics-listen', '127.0.0.1:1'));
    const [first, metrics, second] = manager.sockets;
    assert.equal(await manager.told(/READY=1/),
      `READY=1|STATUS=Serves 127.0.0.1:${first.port} (http), 127.0.0.1:${second.port} (http), 127.0.0.1:${metrics.port} (metrics)`);
    for (const { port } of [first, second]) assert.equal((await get({ ...at(manager), port }, '/api/presence/nobody')).status, 404);
    assert.equal((await get(at(manager, 'metrics'), '/metrics')).status, 200);
    assert.equal((await get(at(manager, 'metrics'), '/')).status, 404, 'metrics and nothing else');
    for (const name of ['listen', 'metrics-listen']) assert.match(manager.stderr, new RegExp(`level=warn msg="--${name} has no effect: the service manager passes sockets named`));
    assert.equal(await manager.stop(), '0');
  });

  test('https and redirect are passed, too', async (t) => {
    const manager = await startManager(t, { https: '127.0.0.1', redirect: '127.0.0.1' });
    await manager.start(args(t, '--listen', '127.0.0.1:0', '--tls-self-signed'));
    assert.match(await manager.told(/READY=1/), /\(http\), 127\.0\.0\.1:\d+ \(https\), 127\.0\.0\.1:\d+ \(redirect\)$/);
    const answer = await get(at(manager, 'redirect'), '/x');
    assert.deepEqual([answer.status, answer.headers.location], [308, `https://127.0.0.1:${at(manager, 'https').port}/x`]);
    assert.equal((await get({ ...at(manager, 'https'), tls: { rejectUnauthorized: false } }, '/healthz')).status, 200);
    assert.equal(await manager.stop(), '0');
  });

  test('beyond loopback a passed socket needs keys for tokens, as an address does', async (t) => {
    const manager = await startManager(t, { http: '0.0.0.0' });
    await manager.start(args(t));
    assert.equal(await manager.ended(), '2');
    assert.match(manager.stderr, /^presence: --listen: 0\.0\.0\.0:\d+ is beyond loopback, .*\n$/);
  });

  const WRONG = [
    ['a name that is none', { http: '127.0.0.1' }, 'presence.socket', /^presence: LISTEN_FDNAMES: 'presence\.socket' of socket 3 is none of http, https, redirect, metrics; write FileDescriptorName=http into the socket unit\n$/],
    ['no name', { http: '127.0.0.1' }, '', /^presence: LISTEN_FDNAMES: '' of socket 3 is none of .*\n$/],
    ['fewer names than sockets', [['http', '127.0.0.1'], ['http', '127.0.0.1']], 'http', /^presence: LISTEN_FDNAMES: '' of socket 4 is none of .*\n$/],
    ['a datagram socket', { http: 'udp:127.0.0.1' }, 'http', /^presence: LISTEN_FDS: descriptor 3 \(http\) is no listening TCP socket; write ListenStream=ADDR:PORT into the socket unit, without Accept=yes\n$/],
    ['one that does not listen', { metrics: 'bound:127.0.0.1' }, 'metrics', /^presence: LISTEN_FDS: descriptor 3 \(metrics\) is no listening TCP socket; .*\n$/],
    ['a Unix socket', { http: `unix:/tmp/presence-test-${process.pid}` }, 'http', /^presence: LISTEN_FDS: descriptor 3 \(http\) is no listening TCP socket; .*\n$/],
  ];
  for (const [what, sockets, names, said] of WRONG) {
    test(`it refuses to start with ${what}`, async (t) => {
      const manager = await startManager(t, sockets);
      await manager.start(args(t), { names });
      t.after(() => fs.rmSync(`/tmp/presence-test-${process.pid}`, { force: true }));
      assert.equal(await manager.ended(), '2');
      assert.match(manager.stderr, said);
    });
  }

  test('an environment that makes no sense is a sentence, whatever is in it', async (t) => {
    const seed = Number(process.env.SEED) || Date.now() % 1e6;
    const roll = dice(seed);
    const words = ['', '0', '1', '-1', '3', '99999999999999999999', 'http', 'x', ':', '::', '/nowhere/at/all', '@', 'a'.repeat(300), '/'.repeat(200), '1e3', '5000000 '];
    const shell = (pid) => ['sh', '-c', `LISTEN_PID=${pid} exec "$@"`, 'sh'];
    for (let i = 0; i < 40; i++) {
      const env = Object.fromEntries(['LISTEN_FDS', 'LISTEN_FDNAMES', 'NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID'].filter(() => roll(10) < 6).map((name) => [name, words[roll(words.length)]]));
      // An address that cannot be had ends what would have served.
      const { code, stderr } = await run(['--data', path.join(tempDir(t), 'data'), '--listen', '192.0.2.1:1', '--insecure'], { env, wrap: shell('$$') });
      const last = stderr.trimEnd().split('\n').at(-1);
      // None of the words is a socket that can be reached, and nothing is passed.
      const wrong = Boolean(env.NOTIFY_SOCKET) || ![undefined, '0'].includes(env.LISTEN_FDS);
      const said = wrong ? /^presence: (LISTEN_FDS|LISTEN_FDNAMES|NOTIFY_SOCKET|WATCHDOG_USEC): .+/ : /cannot listen on 192\.0\.2\.1:1/;
      assert.ok(code === (wrong ? 2 : 1) && said.test(last), `SEED=${seed} ${JSON.stringify(env)}: ${code} ${stderr}`);
    }
  });
});
