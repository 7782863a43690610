'use strict';
// Variants: asan tsan
// /admin/history: samples of each minute, kept in the store, pruned after --history.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const {
  test,
  start,
  run,
  tempDir,
  get,
  json,
  connect,
  heartbeat,
  heartbeats,
  until,
  hurried,
  slow,
} = require('./lib');

const MINUTE = 60000;
const HOUR = 60 * MINUTE;

/** The wall time of the last full minute, so many minutes ago. */
const minute = (ago) => Math.floor(Date.now() / MINUTE - ago) * MINUTE;
const iso = (ms) => new Date(ms).toISOString();

/** A directory whose store has these samples, [at, users, connections]. */
async function withSamples(t, samples) {
  const dir = tempDir(t);
  const file = path.join(tempDir(t), 'dump');
  const lines = samples.map(([at, users, connections]) => ({
    sample: iso(at),
    users,
    connections,
  }));
  const end = { end: 'presence', users: 0, sessions: 0, samples: samples.length };
  fs.writeFileSync(file, [...lines, end].map((line) => `${JSON.stringify(line)}\n`).join(''));
  const restored = await run(['--data', dir, '--restore', file]);
  assert.deepEqual([restored.code, restored.stderr], [0, '']);
  return dir;
}

const dumped = async (dir) =>
  (await run(['--data', dir, '--dump'])).stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));

test('history shows the hours asked for, oldest first', async (t) => {
  const samples = [
    [800 * HOUR, 1, 1],
    [719 * HOUR, 2, 3],
    [25 * HOUR, 4, 5],
    [23 * HOUR, 6, 7],
    [2 * HOUR, 8, 9],
    [MINUTE, 12, 15],
  ].map(([ago, users, connections]) => [minute(0) - ago, users, connections]);
  const future = [minute(0) + 5 * HOUR, 99, 99]; // the clock was wrong then
  const dir = await withSamples(t, [...samples, future]);
  const server = await start(t, { data: dir, args: ['--history', '0'] });
  const shown = async (query) => {
    const {
      generated_at: now,
      interval_seconds: interval,
      samples: found,
      ...rest
    } = await json(server, `/admin/history${query}`);
    assert.deepEqual([interval, Object.keys(rest)], [60, []]);
    assert.ok(Math.abs(Date.parse(now) - Date.now()) < 60000 * slow);
    return found.filter(({ at }) => Date.parse(at) <= samples.at(-1)[0]); // it adds its own
  };
  const as = ([at, users, connections]) => ({ at: iso(at), users, connections });
  assert.deepEqual(await shown(''), samples.slice(3).map(as));
  assert.deepEqual(await shown('?hours=24'), samples.slice(3).map(as));
  assert.deepEqual(await shown('?hours=1'), samples.slice(5).map(as));
  assert.deepEqual(await shown('?hours=26'), samples.slice(2).map(as));
  assert.deepEqual(await shown('?hours=720'), samples.slice(1).map(as));
  for (const hours of ['0', '721', '-1', 'x', '', '1.5', '99999999999999999999']) {
    const refused = await get(server, `/admin/history?hours=${hours}`);
    assert.deepEqual([refused.status, refused.json.error.code], [400, 'invalid_parameter'], hours);
  }
});

test('a month of minutes is answered whole', async (t) => {
  const from = minute(720 * 60 - 5);
  const samples = Array.from({ length: 720 * 60 - 10 }, (_, i) => [from + i * MINUTE, i, 2 * i]);
  const dir = await withSamples(t, samples);
  const server = await start(t, { data: dir });
  const { samples: found } = await json(server, '/admin/history?hours=720');
  assert.ok(found.length >= samples.length);
  for (let i = 0; i < samples.length; i++) {
    const { at, users, connections } = found[i];
    assert.deepEqual([Date.parse(at), users, connections], samples[i]);
  }
});

test('samples older than --history go, a few with each write', async (t) => {
  const old = Array.from({ length: 350 }, (_, i) => [minute(2000) + i * MINUTE, 1, 1]);
  const young = Array.from({ length: 10 }, (_, i) => [minute(30) + i * MINUTE, 2, 2]);
  const dir = await withSamples(t, [...old, ...young]);
  const server = await start(t, {
    data: dir,
    args: ['--history', '1d', '--sync-interval', '10ms'],
  });
  const left = async () =>
    (await dumped(dir)).filter((line) => line.sample && line.users === 1).length;
  let before = await left();
  assert.ok(before >= 150, `${before} left by the start`);
  for (let i = 0; before; i++) {
    await heartbeat(server, `u${i}`);
    const now = await until('a write', async () => {
      const found = await left();
      return found < before ? { found } : null;
    });
    assert.ok(before - now.found <= 200, `${before} to ${now.found} at once`); // one write, or two
    before = now.found;
  }
  const { samples } = await json(server, '/admin/history?hours=720');
  assert.deepEqual(
    samples.slice(0, 10).map(({ at, users }) => [Date.parse(at), users]),
    young.map(([at, users]) => [at, users]),
  );
});

test('each minute is counted, at its begin', { timeout: 120000 * slow }, async (t) => {
  const env = hurried(t, 20, { utc: true });
  const began = Date.now();
  const server = await start(t, { args: ['--online-threshold', '1h', '--ping-interval', '5m', '--pong-timeout', '5m'], env });
  const now = async () => Date.parse((await json(server, '/admin/history')).generated_at);
  await connect(server, 'alice');
  await connect(server, 'alice');
  await heartbeats(server, ['bob', 'carol']);
  const settled = await now();
  const found = await until(
    'a minute to begin',
    async () => {
      const { samples } = await json(server, '/admin/history');
      return samples.find(({ at }) => Date.parse(at) > settled);
    },
    { within: 70000 * slow, every: 50 },
  );
  assert.deepEqual([found.users, found.connections, Date.parse(found.at) % MINUTE], [3, 2, 0]);
  const { samples } = await json(server, '/admin/history');
  assert.ok(
    samples.every(({ at }) => Date.parse(at) > began),
    'nothing before the start',
  );
  await server.stop();
  assert.deepEqual(
    (await dumped(server.data)).filter((line) => line.sample === found.at),
    [{ sample: found.at, users: 3, connections: 2 }],
  );
  const checked = await run(['--data', server.data, '--check-store']);
  assert.deepEqual([checked.code, checked.stdout], [0, 'store ok: 3 users, 0 sessions, 3 open\n']);
});

test('dump and restore carry samples; a dump without any is taken', async (t) => {
  const samples = [
    [minute(3), 1, 2],
    [minute(2), 0, 0],
    [minute(1), 4294967295, 4294967295],
  ];
  const dir = await withSamples(t, samples);
  const lines = await dumped(dir);
  assert.deepEqual(lines, [
    ...samples.map(([at, users, connections]) => ({ sample: iso(at), users, connections })),
    { end: 'presence', users: 0, sessions: 0, samples: 3, manuals: 0 },
  ]);
  const file = path.join(tempDir(t), 'dump');
  const text = (list) => list.map((line) => `${JSON.stringify(line)}\n`).join('');
  const restore = async (list) => {
    fs.writeFileSync(file, text(list));
    return (await run(['--data', tempDir(t), '--restore', file])).code;
  };
  assert.equal(await restore(lines), 0);
  assert.equal(await restore([{ end: 'presence', users: 0, sessions: 0 }]), 0); // of an older presence
  for (const list of [
    [...lines.slice(1)], // one is missing
    [
      { ...lines[0], users: -1 },
      { ...lines[3], samples: 1 },
    ],
    [
      { ...lines[0], connections: 4294967296 },
      { ...lines[3], samples: 1 },
    ],
    [
      { ...lines[0], sample: 'yesterday' },
      { ...lines[3], samples: 1 },
    ],
    [
      { ...lines[0], sample: null },
      { ...lines[3], samples: 1 },
    ],
  ])
    assert.equal(await restore(list), 1, JSON.stringify(list));
});
