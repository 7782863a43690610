'use strict';
// Variants: release asan
const assert = require('node:assert/strict');
const {
  test,
  start,
  tempDir,
  heartbeat,
  get,
  json,
  settled,
  connect,
  heavy,
  slow,
  delay,
} = require('./lib');

const PATHS = [
  '/api/presence/u',
  '/admin/users',
  '/admin/users/u',
  '/admin/users/u/sessions',
  '/admin/online-users',
];

test('S01 300 reads side by side', async (t) => {
  const server = await start(t, { args: ['--max-pending-per-address', '0'] });
  await heartbeat(server, 'u');
  const client = await connect(server, 'gone');
  await client.close();
  await settled(server);
  const answers = await Promise.all(
    Array.from({ length: 300 }, (_, i) => get(server, PATHS[i % PATHS.length])),
  );
  assert.deepEqual(
    answers.filter((one) => one.status !== 200).map((one) => one.text),
    [],
  );
});

test(
  'S01 kill -9 during reads never uses up the reader slots',
  { timeout: 120000 * slow },
  async (t) => {
    const data = tempDir(t);
    let server = await start(t, { data });
    await heartbeat(server, 'u');
    await settled(server);
    for (let round = 0; round < heavy(130, 20); round++) {
      await server.kill();
      server = await start(t, { data });
      const reads = Array.from({ length: 12 }, (_, i) =>
        get(server, PATHS[i % PATHS.length]).then(
          (one) => one.status,
          () => 'cut',
        ),
      );
      await delay(Math.random() * 8); // somewhere in the middle of them
      if (round % 10 === 0) assert.deepEqual(new Set(await Promise.all(reads)), new Set([200]));
    }
    for (const path of PATHS) await json(server, path);
  },
);
