'use strict';
// Variants: release asan
const assert = require('node:assert/strict');
const {
  test,
  start,
  run,
  release,
  tcp,
  connect,
  rawConnect,
  get,
  upgrade,
  until,
  delay,
  proc,
  heavy,
  slow,
  frame,
  OP,
  closePayload,
} = require('./lib');

test('O01 out of descriptors: no spinning, old sockets served, few log lines, then accepts again', async (t) => {
  const server = await start(t, {
    wrap: ['sh', '-c', 'ulimit -n 64; exec "$@"', 'sh'],
    allow: [/level=(warn|error|info)/],
  });
  const old = [];
  for (let i = 0; i < 5; i++) old.push(await connect(server, `old-${i}`));
  const held = [];
  for (let i = 0; i < 200; i++) {
    const raw = await tcp(server);
    raw.write(upgrade(`held-${i}`));
    held.push(raw);
  }
  const cpu = proc.cpu(server.pid);
  const since = Date.now();
  while (Date.now() - since < 4000) {
    for (const client of old) await client.ping();
    await delay(500);
  }
  const share = (proc.cpu(server.pid) - cpu) / (Date.now() - since);
  assert.ok(share < 0.2 * slow, `${share} of a core`);
  assert.ok(server.unexpected.length === 0 && server.lines.length <= 10, server.stderr);
  for (const raw of held.slice(0, 180)) raw.destroy();
  await until(
    'room again',
    async () => {
      const client = await connect(server, 'new').catch(() => null);
      return client && client.ping().then(() => true);
    },
    { within: 15000 * slow },
  );
  for (const client of old) assert.ok(client.open);
});

test(
  '1,000 connects of every kind leave no descriptor behind',
  { timeout: 90000 * slow },
  async (t) => {
    const server = await start(t, { args: ['--grace', '100ms'] });
    for (let i = 0; i < 4; i++) await get(server, '/healthz');
    await until('all quiet', () => proc.descriptors(server.pid) < 64);
    await delay(200); // whatever is opened lazily is open now
    const before = proc.descriptors(server.pid);
    const kinds = [
      async (i) => {
        await get(server, `/api/presence/u${i}`);
      },
      async (i) => {
        await (await connect(server, `u${i}`)).close();
      },
      async (i) => {
        (await rawConnect(server, `u${i}`)).reset();
      },
      async (i) => {
        (await rawConnect(server, `u${i}`)).destroy();
      },
      async () => {
        (await tcp(server)).destroy();
      },
      async () => {
        const raw = await tcp(server);
        raw.write('GET /');
        raw.reset();
      },
      async (i) => {
        const raw = await tcp(server);
        raw.write(upgrade(`u${i}`));
        raw.destroy();
      },
      async (i) => {
        const raw = await rawConnect(server, `u${i}`);
        raw.write(frame(OP.text, 'x', { mask: false }));
        await raw.closeCode();
        raw.destroy();
      },
      async (i) => {
        const raw = await rawConnect(server, `u${i}`);
        raw.write(frame(OP.close, closePayload(1000)));
        raw.destroy();
      },
      async () => {
        const raw = await tcp(server);
        raw.write('nonsense\r\n\r\n');
        raw.destroy();
      },
    ];
    const count = heavy(1000, 200);
    for (let i = 0; i < count; i += 20) {
      await Promise.all(Array.from({ length: 20 }, (_, k) => kinds[(i + k) % kinds.length](i + k)));
    }
    await until('every descriptor back', () => proc.descriptors(server.pid) <= before, {
      within: 10000 * slow,
    });
  },
);

test('random numbers need no file: behind Landlock every handshake failed from the ten thousandth on', { skip: !release && 'libraries are files' }, async () => {
  const { code, stdout, stderr } = await run(['--check-config'], { wrap: ['sh', '-c', 'ulimit -n 3; exec "$@"', 'sh'] });
  assert.deepEqual([code, stdout, stderr], [0, 'configuration ok\n', '']);
});
