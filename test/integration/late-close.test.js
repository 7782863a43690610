'use strict';
const assert = require('node:assert/strict');
const {
  test,
  start,
  startProxy,
  connect,
  rawConnect,
  presence,
  until,
  throughout,
  window,
  assertNeverLeft,
} = require('./lib');

test("P03 the old socket's late time-out does not take the returned user offline", async (t) => {
  const server = await start(t, {
    args: ['--ping-interval', '300ms', '--pong-timeout', '600ms', '--grace', '300ms'],
  });
  const proxy = await startProxy(t, server);
  await connect(server, 'u', { port: proxy.port });
  proxy.blackHole();
  await connect(server, 'u');
  assert.equal((await presence(server, 'u')).connections, 2);
  await until('the old socket to be given up', async () => {
    const user = await presence(server, 'u');
    assert.equal(user.online, true);
    return user.connections === 1;
  });
  await throughout(700, async () => assert.equal((await presence(server, 'u')).source, 'live'));
  await assertNeverLeft(server, 'u');
});

test("P03 the old socket's late close, with any code, does not either", async (t) => {
  const server = await start(t, { args: ['--grace', '200ms'] });
  const old = [await connect(server, 'u'), await connect(server, 'u'), await connect(server, 'u')];
  const silent = await rawConnect(server, 'u');
  const current = await connect(server, 'u');
  await old[0].close(1000);
  await old[1].close(1001);
  old[2].reset();
  silent.socket.end();
  await until('one connection left', async () => (await presence(server, 'u')).connections === 1);
  await throughout(500 * window, async () =>
    assert.equal((await presence(server, 'u')).source, 'live'),
  );
  await current.ping();
  await assertNeverLeft(server, 'u');
});
