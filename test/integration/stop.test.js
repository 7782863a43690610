'use strict';
// Variants: asan tsan
const assert = require('node:assert/strict');
const {
  test,
  start,
  crowd,
  connect,
  rawConnect,
  tcp,
  tempDir,
  heartbeat,
  dice,
  presence,
  until,
  slow,
  within,
  proc,
  delay,
  stats,
  upgrade,
  assertNeverLeft,
} = require('./lib');

const mayUnshare = process.getuid() === 0 ? false : 'needs root for a pid namespace';
const asPid1 = {
  wrap: ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child=KILL', '--'],
  findPid: (pid) => proc.descendants(pid)[0],
};

for (const [where, options, skip] of [
  ['', {}, false],
  [', also as PID 1', asPid1, mayUnshare],
]) {
  test(
    `O05 SIGTERM${where}: 100 clients get 1012, last_seen is saved, exit 0 within 5 s`,
    { skip },
    async (t) => {
      const data = tempDir(t);
      const server = await start(t, { data, ...options });
      const clients = crowd(t, server, { prefix: 'u', count: 100 });
      await clients.connect();
      const talker = await connect(server, 'talker');
      await talker.ping();
      const before = await presence(server, 'talker');
      await server.stop();
      await until('100 closes', () => clients.closes.length === 100);
      assert.deepEqual(new Set(clients.closes.map((one) => one.code)), new Set([1012]));
      assert.equal((await talker.closed).code, 1012);
      const again = await start(t, { data });
      const after = await presence(again, 'talker');
      assert.ok(after.last_seen >= before.last_seen);
    },
  );

  test(`SIGINT${where} is the same`, { skip }, async (t) => {
    const server = await start(t, options);
    const client = await connect(server, 'u');
    await server.stop({ signal: 'SIGINT' });
    assert.equal((await client.closed).code, 1012);
  });
}

test('clients that never answer, and pending ones, do not hold up the stop', async (t) => {
  const server = await start(t);
  const silent = [];
  for (let i = 0; i < 20; i++) silent.push(await rawConnect(server, `silent-${i}`));
  const pending = await tcp(server);
  pending.write('GET /heal');
  const idle = await tcp(server);
  idle.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
  await idle.response();
  const stopped = server.stop();
  for (const raw of silent) assert.equal(await raw.closeCode(), 1012);
  await stopped;
});

test('who was accepted in the last moment, and asks in the stop, gets an answer', async (t) => {
  const server = await start(t);
  const late = [];
  for (let i = 0; i < 5; i++) late.push(await tcp(server));
  await until('them to be accepted', async () => (await stats(server)).connections.pending >= late.length);
  const stopped = server.stop();
  await until('the stop', () => /msg="stopping by SIGTERM/.test(server.stderr));
  for (const one of late) one.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
  for (const one of late) assert.equal((await one.response()).status, 200);
  await stopped;
});

test('a second signal ends a stop that waits', async (t) => {
  const line = /^presence: stopped at once by a second signal; what was not written yet is lost$/;
  const server = await start(t, { allow: [line] });
  const silent = [];
  for (let i = 0; i < 20; i++) silent.push(await rawConnect(server, `silent-${i}`));
  server.stopped = true;
  server.signal('SIGTERM');
  for (const raw of silent) assert.equal(await raw.closeCode(), 1012); // it waits for their answers
  assert.equal(server.result, null);
  await until('the end', () => server.result ?? void server.signal('SIGTERM')); // a few are taken for the first
  assert.deepEqual(server.result, { code: 1, signal: null });
  assert.match(server.lines.at(-1), line);
  server.checkStderr();
});

// timeout(1) signals its child and, microseconds later, its whole group.
test('signals that come with the first are the same wish: it stops in order, and all that was answered is there', async (t) => {
  const random = dice(1);
  for (let round = 0; round < 5; round++) {
    const data = tempDir(t);
    const server = await start(t, { data, args: ['--sync-interval', '10s'] });
    await rawConnect(server, 'silent'); // which holds the stop up
    await heartbeat(server, 'u');
    const stopped = server.stop({ signal: ['SIGTERM', 'SIGINT'][random(2)] });
    for (let i = 0; i < 4; i++) {
      if (random(2)) await delay(random(20));
      server.signal(['SIGTERM', 'SIGINT'][random(2)]);
    }
    await stopped; // with 0
    const again = await start(t, { data });
    assert.equal((await presence(again, 'u')).source, 'cached');
    await again.stop();
  }
});

test('timeout(1) stops it in order', async (t) => {
  const server = await start(t, { wrap: ['timeout', '600'], findPid: (pid) => proc.descendants(pid)[0] });
  await rawConnect(server, 'silent'); // so that it has not ended before the second
  server.stopped = true;
  server.child.kill('SIGTERM'); // as at the end of its time
  assert.deepEqual(await within(20000 * slow, 'the end', server.ended), { code: 0, signal: null });
  assert.match(server.stderr, /msg="stopped; all changes are written"/);
  server.checkStderr();
});

test('a browser that comes while the server stops is told when to come back', async (t) => {
  const server = await start(t);
  const silent = await rawConnect(server, 'silent'); // which holds the stop up for a while
  const late = [];
  for (let i = 0; i < 20; i++) late.push(await tcp(server));
  for (const one of late) one.write(upgrade('late', { extra: ['Origin: http://localhost'] }).slice(0, -2));
  await until('them to wait in the door', async () => (await stats(server)).connections.pending >= late.length);
  const stopped = server.stop();
  assert.equal(await silent.closeCode(), 1012);
  const told = [];
  for (const one of late) {
    one.write('\r\n');
    const head = await one.head().catch(() => null);
    if (head?.status !== 101) continue; // the door had closed it
    const { code, reason } = await one.frame();
    assert.equal(code, 1012);
    told.push(Number(/^retry_after=(\d+)$/.exec(reason)[1]));
  }
  await stopped;
  assert.ok(told.length > 0, 'some were told');
  for (const ms of told) assert.ok(ms >= 500 && ms <= 2500, `${ms}`);
});

test('who is away for the grace time when the server stops is judged by the next one', async (t) => {
  const data = tempDir(t);
  const server = await start(t, { data, args: ['--grace', '500ms'] });
  const silent = await rawConnect(server, 'silent'); // which holds the stop up for two seconds
  const away = await connect(server, 'away');
  await away.close(1001);
  const stopped = server.stop({ deadline: 10000 * slow });
  assert.equal(await silent.closeCode(), 1012);
  await stopped;
  const again = await start(t, { data });
  assert.equal((await presence(again, 'away')).source, 'cached');
  await connect(again, 'away');
  await assertNeverLeft(again, 'away');
});

test('while stopping nobody new is let in', async (t) => {
  const server = await start(t);
  const silent = await rawConnect(server, 'silent');
  const stopped = server.stop();
  assert.equal(await silent.closeCode(), 1012);
  const late = await connect(server, 'late').then(
    () => 'let in',
    (error) => error.code || error.status,
  );
  assert.notEqual(late, 'let in');
  await stopped;
});
