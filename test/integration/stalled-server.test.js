'use strict';
// A server that was held up (a paused container or machine, a starved processor) does not take its
// own silence for that of its clients: what they sent meanwhile counts first.
const assert = require('node:assert/strict');
const { test, start, connect, rawConnect, tcp, heartbeat, presence, stats, delay, until, frame, upgrade, closePayload,
  OP, heavy, slow, window } = require('./lib');

test('pongs that arrived while the server stood still are read before anybody is dropped', async (t) => {
  const COUNT = heavy(1500, 700); // more than the hub looks at in one turn
  const pong = 2000 * window;
  const server = await start(t, {
    args: ['--ping-interval', `${pong}ms`, '--pong-timeout', `${pong}ms`, '--grace', '100ms'],
  });
  const clients = [];
  for (let i = 0; i < COUNT; i += 50)
    clients.push(...(await Promise.all(Array.from({ length: 50 }, (_, k) => rawConnect(server, `u${i + k}`)))));
  // all are heard at one moment, so that all are pinged at one moment
  for (const client of clients) client.write(frame(OP.ping, ''));
  await until('pings', async () => (await stats(server)).counters.pings_sent >= COUNT, { within: 20000 * slow });
  process.kill(server.pid, 'SIGSTOP');
  for (const client of clients) client.write(frame(OP.pong, ''));
  await delay(pong + 1000);
  process.kill(server.pid, 'SIGCONT');
  await (await connect(server, 'probe')).ping(); // behind the turn in which the timers fire
  await delay(200 * window);
  const { counters } = await stats(server);
  assert.deepEqual([counters.heartbeat_timeouts, counters.leaves], [0, 0]);
  for (const client of clients) client.destroy();
});

test('a pause that is shorter than the server would have slept counts, too', async (t) => {
  const grace = 1000 * window;
  const server = await start(t, { args: ['--grace', `${grace}ms`, '--sync-interval', '10s'] });
  const tab = await rawConnect(server, 'u');
  tab.write(frame(OP.close, closePayload(1001)));
  assert.equal(await tab.closeCode(), 1001);
  const closed = Date.now();
  process.kill(server.pid, 'SIGSTOP');
  await delay(grace - 200);
  process.kill(server.pid, 'SIGCONT');
  await delay(closed + grace + 200 - Date.now());
  assert.equal((await presence(server, 'u')).online, true, 'its time stood still, too');
  await until('u to leave', async () => !(await presence(server, 'u')).online, { within: 2 * grace + 10000 * slow });
});

test('heartbeats and reloads that waited while the server stood still come in time', async (t) => {
  const COUNT = 50;
  const time = 3000 * window; // so long may a user without a connection be silent
  // and a request take less than the pause: what has arrived is read before that is judged
  const server = await start(t, {
    args: ['--online-threshold', `${time}ms`, '--grace', `${time}ms`, '--request-timeout', `${1.5 * time}ms`],
  });
  const ids = Array.from({ length: COUNT }, (_, i) => `u${i}`);
  const posts = [];
  for (const id of ids) {
    await heartbeat(server, `h-${id}`);
    posts.push(await tcp(server));
  }
  const tabs = await Promise.all(ids.map((id) => rawConnect(server, `r-${id}`)));
  for (const tab of tabs) tab.write(frame(OP.close, closePayload(1001)));
  for (const tab of tabs) assert.equal(await tab.closeCode(), 1001);
  await Promise.all(ids.map((id) => heartbeat(server, `h-${id}`)));
  await heartbeat(server, 'silent'); // who sends nothing leaves when its time is over, and not before
  process.kill(server.pid, 'SIGSTOP');
  const stopped = Date.now();
  ids.forEach((id, i) => posts[i].write(`POST /api/presence/h-${id}/heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`));
  const again = await Promise.all(ids.map(() => tcp(server)));
  ids.forEach((id, i) => again[i].write(upgrade(`r-${id}`)));
  await delay(2 * time);
  process.kill(server.pid, 'SIGCONT');
  assert.equal((await presence(server, 'silent')).online, true);
  for (const post of posts) assert.equal((await post.response()).status, 204);
  for (const tab of again) assert.equal((await tab.head()).status, 101);
  for (const tab of again) assert.equal((await tab.message()).type, 'hello');
  await until('the silent one to leave', async () => !(await presence(server, 'silent')).online,
    { within: 2 * time + 5000 * slow });
  const { counters } = await stats(server);
  assert.equal(counters.joins, 2 * COUNT + 1, 'nobody came twice');
  for (const id of ids) assert.equal((await presence(server, `r-${id}`)).source, 'live');
  assert.ok(Date.now() - stopped > 2.5 * time, 'the silent one had its whole time');
});
