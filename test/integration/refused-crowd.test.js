'use strict';
// Who is refused, and upgraded only to be told so, takes a descriptor until it has hung up; limits
// by address and in all do not see it. So there is a bound for all of these.
const assert = require('node:assert/strict');
const { test, start, tcp, upgrade, tokenKey, until } = require('./lib');

const MOST = 256;

test('a crowd without tokens is told so by close codes, but not all at once', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const origin = { headers: { Origin: 'http://localhost' } };
  const held = [];
  const hold = async () => {
    const raw = await tcp(server, { localAddress: '127.0.0.9' });
    raw.write(upgrade('x', origin));
    const { status } = await raw.head();
    held.push(raw);
    return status;
  };
  const statuses = [];
  const began = Date.now();
  while (statuses.length < 400) statuses.push(...(await Promise.all(Array.from({ length: 40 }, hold))));
  const opened = statuses.filter((one) => one === 101).length;
  assert.deepEqual([...new Set(statuses)].sort(), [101, 401]);
  if (Date.now() - began < 1500) assert.equal(opened, MOST);
  for (const raw of held) raw.destroy();
  await until('the places are free again', async () => (await hold()) === 101, { every: 100 });
  for (const raw of held) raw.destroy();
});
