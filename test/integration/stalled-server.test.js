'use strict';
// A server that was held up (a paused container or machine, a starved processor) does not take its
// own silence for that of its clients: what they sent meanwhile counts first.
const assert = require('node:assert/strict');
const { test, start, connect, rawConnect, stats, delay, until, frame, OP, heavy, slow } = require('./lib');

test('pongs that arrived while the server stood still are read before anybody is dropped', async (t) => {
  const COUNT = heavy(1500, 700); // more than the hub looks at in one turn
  const pong = heavy(2000, 7000);
  const server = await start(t, {
    args: ['--ping-interval', `${pong}ms`, '--pong-timeout', `${pong}ms`, '--grace', '100ms'],
  });
  const clients = [];
  for (let i = 0; i < COUNT; i += 50)
    clients.push(...(await Promise.all(Array.from({ length: 50 }, (_, k) => rawConnect(server, `u${i + k}`)))));
  // all are heard at one moment, so that all are pinged at one moment
  for (const client of clients) client.write(frame(OP.ping, ''));
  await until('pings', async () => (await stats(server)).counters.pings_sent >= COUNT, 20000 * slow);
  process.kill(server.pid, 'SIGSTOP');
  for (const client of clients) client.write(frame(OP.pong, ''));
  await delay(pong + 1000);
  process.kill(server.pid, 'SIGCONT');
  await (await connect(server, 'probe')).ping(); // behind the turn in which the timers fire
  await delay(200 * slow);
  const { counters } = await stats(server);
  assert.deepEqual([counters.heartbeat_timeouts, counters.leaves], [0, 0]);
  for (const client of clients) client.destroy();
});
