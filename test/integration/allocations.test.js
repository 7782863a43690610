'use strict';
// How often memory is asked for, counted in the server itself, under asan: malloc costs, and fails.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, connect, get, heartbeat, batch, tempDir, preload, variant } = require('./lib');

const CLIENTS = 100;
const TIMES = 400;

/** What is done, and how often that asks for memory at most. Of a login: the connection, its HTTP part,
 *  its address, the bytes of the request, CivetWeb's copy of the path, the 101, the user. */
const ROWS = [
  { what: 'login', most: 7, act: ({ server, i }) => connect(server, `new${i}`) },
  { what: 'ping', most: 0, act: ({ client }) => client.ping() },
  { what: 'message', most: 0, act: ({ client }) => client.send({ type: 'heartbeat' }) ?? client.ping() },
  { what: 'status', most: 0, act: ({ client, i }) => client.send({ type: 'status', status: ['busy', 'away'][i % 2] }) ?? client.ping() },
  { what: 'heartbeat by HTTP', most: 8, act: ({ server, i }) => heartbeat(server, `http${i}`) },
  { what: 'user', most: 7, act: ({ server, i }) => get(server, `/api/presence/new${i}`) },
  { what: 'batch', most: 11, act: ({ server, i }) => batch(server, [`new${i}`, 'nobody']) },
];

test('what is done often asks for memory no more often than it says here', { skip: variant !== 'asan' && 'is counted under asan' }, async (t) => {
  const file = path.join(tempDir(t), 'count');
  fs.writeFileSync(file, '');
  const server = await start(t, {
    args: ['--sync-interval', '1m', '--max-messages-per-second', '0'],
    env: { ...preload(t, 'count_malloc.c'), COUNT_MALLOC: file },
  });
  const clients = [];
  for (let i = 0; i < CLIENTS; i++) clients.push(await connect(server, `before${i}`));
  for (const { what, most, act } of ROWS) {
    await act({ server, client: clients[0], i: TIMES }); // what is made once
    const before = fs.readFileSync(file).readBigUInt64LE();
    for (let i = 0; i < TIMES; i++) await act({ server, client: clients[i % CLIENTS], i });
    const each = Number(fs.readFileSync(file).readBigUInt64LE() - before) / TIMES;
    t.diagnostic(`${what}: ${each}`);
    assert.ok(each <= most + 0.1, `a ${what} asked ${each} times`); // what doubles now and then
  }
});
