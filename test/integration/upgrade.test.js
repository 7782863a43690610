'use strict';
// Variants: release
// An upgrade under load, as systemd does it with its sockets held: the old one stops, the new one
// starts. Nobody is refused, everybody is back with the first try when their time has come, and
// nobody was offline.
const assert = require('node:assert/strict');
const net = require('node:net');
const path = require('node:path');
const { test, startManager, tempDir, connect, get, sessions, batch, settled, until, within, delay, dice } = require('./lib');

const USERS = 150;

/** A user who stays: comes back when the server said so, and notes each try. */
async function faithful(server, id, log) {
  for (;;) {
    const client = await connect(server, id).catch((error) => error);
    log.tries.push({ id, error: client instanceof Error ? `${client.code} ${client.message}` : null });
    if (client instanceof Error) return;
    log.online.add(id);
    const { code, reason } = await client.closed;
    log.online.delete(id);
    if (log.over) return;
    log.closes.push({ id, code, reason });
    await delay(Number(/^retry_after=(\d+)$/.exec(reason)?.[1] ?? assert.fail(reason)));
  }
}

/** Connects again and again, until told to end: each connection must be taken and answered. */
async function knocking(server, log) {
  while (!log.over) {
    const answer = await get(server, '/healthz', { agent: false }).catch((error) => error);
    log.knocks++;
    if (answer.status !== 200) log.refused.push(`${answer.status || answer.code} ${server.tls ? 'https' : 'http'}`);
    await delay(5); // a load, and not all of the machine
  }
}

test('an upgrade with held sockets refuses nobody, and takes nobody offline', async (t) => {
  const manager = await startManager(t, { http: '127.0.0.1', https: '127.0.0.1' });
  const [server, secure] = manager.sockets.map(({ port }) => ({ host: '127.0.0.1', port, sockets: new Set() }));
  secure.tls = { rejectUnauthorized: false };
  const args = ['--data', path.join(tempDir(t), 'data'), '--sync-interval', '50ms', '--tls-self-signed'];
  const log = { tries: [], closes: [], refused: [], online: new Set(), knocks: 0, over: false };
  const ids = Array.from({ length: USERS }, (_, i) => `u${i}`);
  await manager.start(args);
  await manager.told(/READY=1/);
  const users = ids.map((id) => faithful(server, id, log));
  const knockers = [server, server, secure, secure].map((one) => knocking(one, log));
  await until('all online', () => log.online.size === USERS);

  for (let upgrade = 1; upgrade <= 2; upgrade++) {
    const { knocks } = log;
    assert.equal(await manager.stop(), '0');
    await until('connects while nothing runs', () => new Promise((resolve) => {
      const socket = net.connect(server.port, '127.0.0.1', () => { socket.destroy(); resolve(true); }).on('error', () => resolve(false));
    }));
    await manager.start(args);
    await manager.told(/READY=1/);
    assert.deepEqual((await batch(server, ids)).filter((user) => !user.online).map((user) => user.user_id), [], 'offline before they came back');
    await until('all back', () => log.online.size === USERS, { within: 20000 });
    assert.deepEqual((await batch(server, ids)).filter((user) => user.source !== 'live'), []);
    assert.equal(log.closes.length, upgrade * USERS);
    assert.ok(log.closes.every(({ code }) => code === 1012));
    assert.ok(log.knocks > knocks);
  }
  assert.deepEqual(log.tries.filter(({ error }) => error), [], 'a try that failed');
  assert.equal(log.tries.length, 3 * USERS, 'one try each, when their time had come');
  assert.deepEqual(log.refused, [], 'a connection that got no answer');
  for (const id of ids.slice(0, 20)) assert.deepEqual((await sessions(server, id)).map((one) => one.reason), [null], 'one session, and it goes on');
  assert.match((await get(server, '/metrics')).text, /^presence_leaves_total 0$/m);

  log.over = true;
  await within(10000, 'the knockers', Promise.all(knockers));
  assert.equal(await manager.stop(), '0');
  await within(10000, 'the users', Promise.all(users));
});

test('whenever it is stopped or killed, held sockets refuse nobody and nobody is offline', async (t) => {
  const seed = Number(process.env.SEED) || Date.now() % 1e6;
  const roll = dice(seed);
  const manager = await startManager(t);
  const server = { host: '127.0.0.1', port: manager.sockets[0].port, sockets: new Set() };
  const args = ['--data', path.join(tempDir(t), 'data'), '--sync-interval', '10ms'];
  const ids = Array.from({ length: 20 }, (_, i) => `r${i}`);
  await manager.start(args);
  await manager.told(/READY=1/);
  for (const id of ids) await connect(server, id);
  await until('all stored', async () => /^presence_store_commits_total [1-9]/m.test((await get(server, '/metrics')).text));
  await settled(server);
  const log = { over: false, knocks: 0, refused: [] };
  const knockers = [server, server].map((one) => knocking(one, log));
  for (let i = 0; i < 6; i++) {
    const before = log.knocks;
    const count = roll(8);
    await until('some knocks', () => log.knocks >= before + count);
    if (roll(3)) await manager.told(/READY=1/); // else it may be hit in the middle of its start
    await manager.stop(['SIGTERM', 'SIGKILL'][roll(2)]);
    await manager.start(args);
  }
  await manager.told(/READY=1/);
  log.over = true;
  await within(10000, 'the knockers', Promise.all(knockers));
  assert.deepEqual(log.refused.filter((one) => /ECONNREFUSED/.test(one)), [], `SEED=${seed}`);
  const gone = (await batch(server, ids)).filter((user) => !user.online);
  assert.deepEqual(gone.map((user) => user.user_id), [], `SEED=${seed}: offline`);
  assert.match((await get(server, '/metrics')).text, /^presence_leaves_total [01]$/m, 'nobody but who came to settle the store');
  assert.equal(await manager.stop(), '0');
});
