'use strict';
// The released binary is static: nothing can be put between it and the clock. The sanitizer build is
// not, and the clock under it is stepped as an operator or NTP would step it.
const assert = require('node:assert/strict');
const { test, start, startReceiver, connect, heartbeat, json, stats, until, throughout, steppable, variant, slow, window } = require('./lib');

const HOURS = 3600;
const options = variant === 'asan' ? {} : { skip: 'runs with the asan build' };

test('P06 UTC is stepped by 12 hours and back under 100 sockets', options, async (t) => {
  const { env, set } = steppable(t);
  const server = await start(t, {
    args: ['--ping-interval', `${400 * window}ms`, '--pong-timeout', `${400 * slow}ms`, '--grace', '100ms'],
    env,
  });
  const clients = [];
  for (let i = 0; i < 100; i++) clients.push(await connect(server, `u${i}`));
  for (const seconds of [12 * HOURS, 0, -12 * HOURS, 0]) {
    set(seconds);
    await until('the server to see it', async () => {
      const { generated_at: now } = await json(server, '/admin/online-users');
      return Math.abs(Date.parse(now) - Date.now() - seconds * 1000) < 5000;
    });
    await throughout(1000 * window, async () => {
      const list = await json(server, '/admin/online-users?limit=1000');
      assert.equal(list.count, 100);
      for (const user of list.users) {
        const age = Date.parse(list.generated_at) - Date.parse(user.last_seen);
        assert.ok(user.source === 'live' && age >= 0 && age < 2000 * slow, `${user.user_id}: ${age} ms`);
      }
    });
  }
  assert.ok(clients.every((client) => client.open));
  assert.equal((await json(server, '/admin/stats')).counters.leaves, 0);
});

test('a step of UTC gives up no change that waits for a webhook, within one life or between two', options, async (t) => {
  const { env, set } = steppable(t);
  const receiver = await startReceiver(t);
  const allow = [/level=warn msg="webhook: (cannot deliver to [^"]*; changes wait in the store|\S+ takes changes again, after \d+ s)"$/];
  receiver.take = (request, body) => ({ events: JSON.parse(body).events }); // signed at another time
  const told = [];
  receiver.answer = () => 500;
  const args = [...receiver.args, '--webhook-give-up', '1d'];
  let server = await start(t, { args, env, allow });
  const webhook = async () => (await stats(server)).webhook;
  await heartbeat(server, 'alice');
  await until('a failure', async () => (await webhook()).failures === 1);
  set(48 * HOURS);
  await until('the next failure', async () => (await webhook()).failures === 3, { within: 15000 * slow });
  assert.deepEqual([(await webhook()).dead, (await webhook()).pending], [0, 1]);
  await server.stop();
  set(96 * HOURS);
  server = await start(t, { data: server.data, args, env, allow });
  await until('a failure', async () => (await webhook()).failures === 2, { within: 15000 * slow });
  set(0);
  receiver.answer = ({ events }) => {
    told.push(...events.map((one) => `${one.change} ${one.user.user_id}`));
    return 204;
  };
  await until('the change to be told', async () => told.length > 0, { within: 15000 * slow });
  assert.equal(told[0], 'join alice');
  await until('nothing to wait', async () => (await webhook()).pending === 0);
  assert.equal((await webhook()).dead, 0);
});
