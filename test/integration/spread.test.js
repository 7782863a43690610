'use strict';
// How clients learn over which time to come back when the server dies, and which limits they keep.

const assert = require('node:assert/strict');
const { test, start, connect, rawConnect, stats, until, frame, OP } = require('./lib');

test('hello tells the limits in force', async (t) => {
  const usual = await connect(await start(t), 'u');
  const { max_message, max_messages_per_second, max_watch, spread_ms } = usual.hello;
  assert.deepEqual([max_message, max_messages_per_second, max_watch, spread_ms], [4096, 20, 1000, 0]);
  assert.deepEqual(Object.keys(usual.hello), ['type', 'user_id', 'connection_id', 'heartbeat_seconds',
    'max_message', 'max_messages_per_second', 'max_watch', 'spread_ms', 'server']);
  const args = '--max-message 2048 --max-messages-per-second 0 --max-watch 7'.split(' ');
  const { hello } = await connect(await start(t, { args }), 'u');
  assert.deepEqual([hello.max_message, hello.max_messages_per_second, hello.max_watch], [2048, 0, 7]);
});

test('more than 100 connections, and each doubling, are told to all; fewer to nobody', async (t) => {
  const server = await start(t, { args: ['--max-messages-per-second', '0'] });
  const crowd = [];
  const more = async (count) => {
    while (crowd.length < count) crowd.push(await rawConnect(server, `u${crowd.length}`));
  };
  const fewer = async (count) => {
    for (const one of crowd.splice(count)) one.destroy();
    await until('them to go', async () => (await stats(server)).connections.current === count);
  };
  /** What one was told of before the answer to a ping. */
  const before = async (one) => {
    const found = [];
    one.write(frame(OP.text, 'ping'));
    for (let message; (message = await one.message()) !== 'pong';) found.push(message);
    return found;
  };
  /** How often all who are there were told since the last call; it must be the same for each. */
  const told = async () => {
    const first = [];
    for (let i = 0; i < 10; i++) first.push(...(await before(crowd[0]))); // turns: all are told
    const found = await Promise.all(crowd.map(before));
    found[0].unshift(...first);
    for (const all of found) {
      assert.deepEqual(all, found[0]);
      for (const one of all) assert.deepEqual(one, { type: 'spread', spread_ms: 3000 });
    }
    return found[0].length;
  };
  await more(100);
  assert.equal(await told(), 0);
  assert.ok(crowd.every((one) => one.hello.spread_ms === 0));
  await more(101);
  assert.equal(crowd[100].hello.spread_ms, 3000);
  assert.equal(await told(), 1);
  await fewer(50);
  await more(120);
  assert.equal(await told(), 0, 'half of it is not left');
  await fewer(49);
  await more(101);
  assert.equal(await told(), 1);
  await more(200);
  assert.equal(await told(), 0);
  await more(201);
  assert.equal(await told(), 1);
  await fewer(0);
  assert.equal((await connect(server, 'u')).hello.spread_ms, 0);
});
