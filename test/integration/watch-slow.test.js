'use strict';
// Variants: release asan tsan
// Followers that do not read, vanish in the middle, or all come at once.

const assert = require('node:assert/strict');
const { Worker } = require('node:worker_threads');
const {
  test,
  start,
  connect,
  Follower,
  follow,
  batch,
  until,
  stats,
  heavy,
  release,
  slow,
  settled,
} = require('./lib');

const FAST = ['--max-messages-per-second', '0', '--watch-interval', '0', '--max-message', '1m'];
const MIB = 1 << 20;
const LONG = '😀'.repeat(139);
const names = (count, prefix = 'u') => Array.from({ length: count }, (_, i) => `${prefix}${i}`);
const anonymous = async (server) => (await stats(server)).memory.anonymous_bytes;
const watching = async (server) => (await stats(server)).connections.watching;

/** Everybody sets a message of their own: about 700 bytes to tell for each. */
async function round(clients, n) {
  for (const client of clients)
    client.send({ type: 'status', status: null, manual: true, message: `${n % 10}${LONG}` });
  await Promise.all(clients.map((client) => client.ping()));
}

/** Asks for /healthz again and again on a thread of its own; end() gives { worst, count }. */
function healthThread(server) {
  const worker = new Worker(
    `
    const { parentPort, workerData } = require('node:worker_threads');
    const http = require('node:http');
    let over = false, worst = 0, count = 0;
    parentPort.on('message', () => { over = true; });
    const ask = () => {
      const began = Date.now();
      http.get({ ...workerData, path: '/healthz', agent: false }, (answer) => {
        answer.resume().on('end', () => {
          if (answer.statusCode !== 200) throw new Error('healthz answered ' + answer.statusCode);
          worst = Math.max(worst, Date.now() - began);
          count++;
          if (!over) return void setTimeout(ask, 5);
          parentPort.postMessage({ worst, count });
          parentPort.close();
        });
      });
    };
    ask();`,
    { eval: true, workerData: { host: server.host, port: server.port } },
  );
  const told = new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  return {
    end: () => {
      worker.postMessage('end');
      return told;
    },
  };
}

test('O04 one who does not read costs nobody anything, and then gets the latest', async (t) => {
  const server = await start(t, { args: FAST });
  const users = names(heavy(200, 60));
  const clients = await Promise.all(users.map((id) => connect(server, id)));
  const stalled = await follow(server, 'stalled', users);
  const brisk = await follow(server, 'brisk', users);
  await round(clients, 0);
  const before = await anonymous(server);
  stalled.client.socket.pause();
  const rounds = heavy(120, 100); // some 17 MB: more than its socket's buffers hold
  for (let n = 1; n <= rounds; n++) {
    await round(clients, n);
    if (n % 20 === 0) await brisk.sees(users.at(-1), (user) => user.message[0] === String(n % 10));
  }
  await Promise.all(
    users.map((id) => brisk.sees(id, (user) => user.message[0] === String(rounds % 10))),
  );
  await brisk.agrees(server);
  const grown = (await anonymous(server)) - before;
  if (release) assert.ok(grown < 2 * MIB, `grew by ${grown} bytes`); // sanitizers have shadows
  clients[7].send({ type: 'status', status: null, manual: true, message: 'the last word' });
  await clients[7].ping();
  stalled.client.socket.resume();
  await stalled.sees('u7', (user) => user.message === 'the last word', 20000 * slow);
  await stalled.agrees(server);
  const told = stalled.changes.flat().length;
  assert.ok(
    told < (users.length * rounds) / 2 || heavy(false, true),
    `${told} of ${users.length * rounds} changes were told`,
  );
  await stalled.client.ping();
});

test('O04 those who vanish in the middle of a broadcast harm nobody', async (t) => {
  const server = await start(t, { args: FAST });
  const users = names(20);
  const clients = await Promise.all(users.map((id) => connect(server, id)));
  const stay = await Promise.all(names(10, 's').map((id) => follow(server, id, users)));
  for (let turn = 0; turn < heavy(8, 3); turn++) {
    const go = await Promise.all(names(30, 'g').map((id) => follow(server, id, users)));
    go.forEach((one, i) => i % 2 && one.client.socket.pause());
    for (let n = 0; n < 6; n++) {
      const told = round(clients, n);
      for (const one of go.splice(0, 5)) one.client.reset();
      await told;
    }
    await until(
      'those who went to be forgotten',
      async () => (await watching(server)) === stay.length * users.length,
    );
  }
  await round(clients, 9);
  for (const one of stay) {
    for (const id of users) await one.sees(id, (user) => user.message[0] === '9');
    await one.agrees(server);
  }
});

test('snapshots wait for one who does not read, and come whole and in order', async (t) => {
  const server = await start(t, { args: FAST });
  const users = Array.from(
    { length: 1000 },
    (_, i) => `${String(i).padStart(4, '0')}${'"\\'.repeat(62)}`,
  );
  const me = await follow(server, 'me', users);
  const before = await anonymous(server);
  const count = heavy(40, 30); // 400 KB each
  me.client.socket.pause();
  for (let i = 0; i < count; i++)
    me.client.send({ type: 'watch', users: i % 2 ? users : users.slice(0, 500) });
  me.client.send('ping');
  const other = await follow(server, 'other', users.slice(0, 3));
  await other.client.ping();
  const grown = (await anonymous(server)) - before;
  if (release) assert.ok(grown < 3 * MIB, `grew by ${grown} bytes`);
  me.client.socket.resume();
  await me.until('all snapshots', () => me.snapshots.length === count + 1, 20000 * slow);
  me.snapshots.forEach((snapshot, i) => {
    assert.deepEqual(
      snapshot.map((user) => user.user_id),
      i === 0 || i % 2 === 0 ? users : users.slice(0, 500),
      `snapshot ${i}`,
    );
  });
  await me.client.next('pong');
});

test('P08 everybody follows everybody through a restart: nobody is told offline', async (t) => {
  const count = heavy(200, 40);
  const users = names(count);
  const options = { args: [...FAST, '--online-threshold', '1h', '--watch-interval', '50ms'] };
  let server = await start(t, options);
  const join = async (id) => {
    for (;;) {
      try {
        const one = new Follower(await connect(server, id));
        await one.watch(users);
        return one;
      } catch (error) {
        if (!/hello|ECONN|closed/.test(error.message)) throw error;
      }
    }
  };
  await Promise.all(users.map(join));
  await settled(server); // a login is told before it is on the disk
  await server.kill();
  server = await start(t, { ...options, data: server.data });
  const before = await anonymous(server);
  const doctor = healthThread(server); // not delayed by what this thread has to read
  let peak = 0;
  let over = false;
  const watch = (async () => {
    while (!over) peak = Math.max(peak, (await anonymous(server)) - before);
  })();
  const followers = await Promise.all(users.map(join));
  for (const one of followers)
    for (const id of users) await one.sees(id, (user) => user.source === 'live', 20000 * slow);
  over = true;
  await watch;
  const { worst, count: asked } = await doctor.end();
  for (const one of followers) {
    assert.ok(
      [...one.snapshots, ...one.changes].flat().every((user) => user.online),
      'somebody was told to be offline',
    );
    assert.equal((await batch(server, [one.client.hello.user_id]))[0].online, true);
  }
  assert.equal(await watching(server), count * count);
  assert.ok(asked > 0, `healthz was asked ${asked} times`);
  assert.ok(worst < 1000 * slow, `healthz took ${worst} ms`);
  if (release) assert.ok(peak < 20 * MIB, `grew by ${peak} bytes`);
  t.diagnostic(
    `${count} users: healthz ${worst} ms, ${Math.round(peak / (count * count))} bytes an edge`,
  );
});
