'use strict';
// Variants: release asan tsan
// Many who follow one user, plain and by wss: the hub and its io threads send side by side.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const { test, connect, follow, until, startSecure, stats, heavy, slow, proc } = require('./lib');

const names = (count, prefix) => Array.from({ length: count }, (_, i) => `${prefix}${i}`);

/** How often each io thread has gone to sleep. */
const ioThreads = (server) =>
  [...proc.threads(server.pid)]
    .filter(([, { name }]) => name === 'io')
    .map(([tid]) =>
      Number(
        /^voluntary_ctxt_switches:\s*(\d+)$/m.exec(
          fs.readFileSync(`/proc/${server.pid}/task/${tid}/status`, 'utf8'),
        )[1],
      ),
    );

test('hundreds who follow one have every change in order, while others vanish', async (t) => {
  const server = await startSecure(t, {
    args: '--max-messages-per-second 0 --watch-interval 0 --max-pending-per-address 1000'.split(' '),
  });
  const star = await connect(server, 'star');
  const count = heavy(200, 100);
  const stay = await Promise.all([
    ...names(count, 'p').map((id) => follow(server, id, ['star', id])),
    ...names(count, 's').map((id) => follow(server.secure, id, ['star', id])),
  ]);
  const slept = ioThreads(server);
  assert.equal(slept.length, Math.min(os.availableParallelism() - 1, 3));
  const turns = 10;
  for (let turn = 1; turn <= turns; turn++) {
    const go = await Promise.all([
      ...names(10, 'g').map((id) => follow(server, id, ['star'])),
      ...names(10, 'h').map((id) => follow(server.secure, id, ['star'])),
    ]);
    star.send({ type: 'status', status: null, manual: true, message: `turn ${turn}` });
    for (const { client } of go) client.destroy();
    await star.ping();
  }
  for (const one of stay) {
    await one.sees('star', (user) => user.message === `turn ${turns}`, 10000 * slow);
    const told = one.changes
      .flat()
      .filter((user) => user.user_id === 'star')
      .map((user) => user.message);
    assert.deepEqual(told, Array.from({ length: turns }, (_, i) => `turn ${i + 1}`));
  }
  await stay[0].agrees(server);
  ioThreads(server).forEach((now, i) => assert.ok(now > slept[i], `io thread ${i} did nothing`));
  await until(
    'those who went to be gone',
    async () => (await stats(server)).connections.sockets === stay.length + 1,
  );
});
