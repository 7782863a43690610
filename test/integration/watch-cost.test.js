'use strict';
// Variants: release asan
// What messages may cost: the pace counts ids, a turn of the hub has an end, memory has a bound.

const assert = require('node:assert/strict');
const {
  test,
  start,
  connect,
  rawConnect,
  frame,
  OP,
  ids,
  watchers,
  until,
  delay,
  stats,
  slow,
  heavy,
} = require('./lib');

const FAST = ['--max-messages-per-second', '0', '--max-pending-per-address', '4000'];
const MIB = 1 << 20;
const text = (message) => frame(OP.text, JSON.stringify(message));

test('a hundred ids count as a message: two full lists may come at once, no more', async (t) => {
  const server = await start(t);
  const list = (at) => text({ type: 'watch', users: ids(at * 500, 500) });
  const modest = await rawConnect(server, 'modest');
  for (const at of [0, 2]) {
    modest.write(list(at), list(at + 1), text({ type: 'unwatch' }));
  }
  for (let whole = 0; whole < 4; ) {
    const message = await modest.message();
    whole += message.type === 'snapshot' && !message.more;
  }
  await modest.ping();
  const greedy = await rawConnect(server, 'greedy');
  greedy.write(...[0, 1, 2, 3, 4, 5, 6, 7, 8].map(list));
  assert.equal(await greedy.closeCode(), 4429);
  assert.equal((await stats(server)).counters.too_fast, 1);
});

test('who asks for much waits, others are answered in between', async (t) => {
  const server = await start(t, { args: FAST });
  const sockets = 60;
  const rounds = heavy(30, 20);
  const crowd = await watchers(t, server, { sockets, rounds, count: 578 });
  const other = await connect(server, 'other');
  const handled = async () => (await stats(server)).counters.messages;
  const began = await handled();
  await crowd.send();
  const between = [];
  for (let before = await handled(); before < began + sockets * rounds; ) {
    await other.ping();
    const after = await handled();
    if (before > began) between.push(after - before);
    before = after;
  }
  between.sort((a, b) => a - b);
  const median = between[between.length >> 1];
  assert.ok(median < 8 * sockets, `${median} messages were acted on between two answers`);
});

test('watches that are let go before they are answered take no memory that grows', async (t) => {
  const server = await start(t, { args: FAST });
  const anonymous = async () => (await stats(server)).memory.anonymous_bytes;
  const sockets = heavy(200, 60);
  const crowd = await watchers(t, server, { sockets, rounds: 9, count: 578 });
  const before = await anonymous();
  let most = before;
  await crowd.send();
  await until('all to be answered', async () => {
    most = Math.max(most, await anonymous());
    await delay(20);
    return (await stats(server)).counters.snapshots === sockets * 9;
  }, { within: 30000 * slow });
  // 578 that each follows, the same again that it is owed, and what waits as text
  const allowed = sockets * (2 * 578 * 170 + 16384) + 4 * MIB;
  assert.ok(most - before < allowed || slow > 1, `${most - before} bytes, ${allowed} are allowed`);
  await crowd.drop();
  await until('memory to come back', async () => (await anonymous()) < before + 4 * MIB || slow > 1, {
    within: 20000,
  });
});
