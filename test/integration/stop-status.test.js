'use strict';
// A stop of the server is nothing that its users did: it changes no status, and nobody is told of
// any change.
const assert = require('node:assert/strict');
const { test, start, startReceiver, connect, presence, stats, tempDir, until } = require('./lib');

test('a stop does not take the status of one of several connections for that of all', async (t) => {
  const data = tempDir(t);
  const receiver = await startReceiver(t);
  const server = await start(t, { data, args: receiver.args });
  const away = [await connect(server, 'first'), await connect(server, 'second')];
  const online = await connect(server, 'first');
  away.unshift(await connect(server, 'second')); // the one that says away came last, then first
  away[1].send({ type: 'status', status: 'away' });
  away[2].send({ type: 'status', status: 'away' });
  await Promise.all([...away, online].map((client) => client.ping()));
  for (const id of ['first', 'second']) assert.equal((await presence(server, id)).status, 'online');
  await receiver.told(2);
  await server.stop();
  const again = await start(t, { data, args: receiver.args });
  for (const id of ['first', 'second']) {
    const user = await presence(again, id);
    assert.deepEqual([user.source, user.status], ['cached', 'online'], id);
  }
  await until('the webhook to be up to date', async () => (await stats(again)).webhook.pending === 0);
  assert.deepEqual(receiver.changes.map((one) => `${one.change} ${one.user.user_id}`), ['join first', 'join second']);
});
