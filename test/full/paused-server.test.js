'use strict';
// The server is held (SIGSTOP, a paused container, a machine that sleeps) for longer than each of its
// timeouts, with something waiting at every one of them. What came meanwhile counts; nothing hangs.
const assert = require('node:assert/strict');
const {
  test, start, connect, rawConnect, tcp, heartbeat, presence, stats, get, run, until, delay, upgrade,
  startReceiver, settled, frame, OP,
} = require('../integration/lib');

test('held for longer than every timeout, again and again: what waited is served', { timeout: 300000 }, async (t) => {
  const receiver = await startReceiver(t);
  const server = await start(t, {
    allow: [/level=warn msg="webhook: /],
    args: ['--ping-interval', '1s', '--pong-timeout', '1s', '--grace', '1s', '--online-threshold', '3s',
      '--request-timeout', '1s', '--keepalive-timeout', '1s', '--webhook-timeout', '1s', ...receiver.args],
  });
  const clients = [];
  for (let i = 0; i < 50; i++) clients.push(await connect(server, `live-${i}`));
  for (let round = 0; round < 4; round++) {
    const idle = await tcp(server);
    idle.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    await idle.response();
    const half = await tcp(server);
    half.write('GET /heal');
    const silent = await rawConnect(server, `silent-${round}`);
    await heartbeat(server, 'beats');
    receiver.answer = () => (round % 2 ? 500 : 200);

    process.kill(server.pid, 'SIGSTOP');
    const waiting = await tcp(server); // in the listener's queue
    waiting.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    const joining = await tcp(server);
    joining.write(upgrade(`joins-${round}`));
    idle.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    half.write('thz HTTP/1.1\r\nHost: localhost\r\n\r\n');
    for (const client of clients) client.socket.ping();
    const command = run(['--dump', '--data', server.data], { deadline: 60000 }); // does not wait for the server
    await delay(4500);
    assert.equal((await command).code, 0);
    process.kill(server.pid, 'SIGCONT');

    assert.equal((await waiting.response()).status, 200);
    assert.equal((await joining.response()).status, 101);
    for (const raw of [idle, half, waiting, joining]) raw.destroy();
    for (const client of clients) await client.ping();
    for (let i = 0; i < clients.length; i++) assert.equal((await presence(server, `live-${i}`)).source, 'live');
    silent.write(frame(OP.ping, ''));
    await until('ready', async () => (await get(server, '/readyz')).status === 200);
    await settled(server);
    silent.destroy();
  }
  receiver.answer = () => 200;
  await until('all delivered', async () => (await stats(server)).webhook.pending === 0, { within: 60000 });
  const told = receiver.changes.filter(({ change, user }) => change === 'leave' && user.user_id.startsWith('live-'));
  assert.deepEqual(told, [], 'nobody who was there has left');
  assert.equal((await run(['--check-store', '--data', server.data])).code, 0);
});
