'use strict';
// Watch messages within every limit: others hardly notice, and memory comes back. An idle server
// beside it is pinged too: what takes long there is this machine, not the load.

const assert = require('node:assert/strict');
const { test, start, pinger, watchers, until, delay, stats, slow, heavy } = require('../integration/lib');

const MIB = 1 << 20;
const anonymous = async (server) => (await stats(server)).memory.anonymous_bytes;

/** Waits until nothing more comes back to the crowd. */
async function quiet(crowd) {
  let last = -1;
  let same = 0;
  await until('the crowd to be quiet', async () => {
    const { received, closed } = await crowd.state();
    same = received + closed === last ? same + 1 : 0;
    last = received + closed;
    await delay(100);
    return same > 5;
  }, { within: 200000 * slow });
}

for (const sockets of [500, heavy(2000, 500)]) {
  for (const rate of ['20', '0']) {
    const name = `${sockets} sockets that watch and unwatch, --max-messages-per-second ${rate}`;
    test(name, { timeout: 300000 * slow }, async (t) => {
      const args = `--max-messages-per-second ${rate} --max-pending-per-address 4000`.split(' ');
      const server = await start(t, { args });
      const idle = await start(t, { args });
      const crowd = await watchers(t, server, { sockets, rounds: 9, count: 578 });
      const before = await anonymous(server);
      const pings = await Promise.all([server, idle].map((one) => pinger(t, one, { every: 70 })));
      await crowd.send();
      let most = 0;
      let over = false;
      const looked = (async () => {
        for (; !over; await delay(50)) most = Math.max(most, await anonymous(server));
      })();
      await quiet(crowd);
      const { codes, received } = await crowd.state();
      await crowd.drop();
      await delay(500);
      over = true;
      await looked;
      const [worst, noise] = (await Promise.all(pings.map((one) => one.end()))).map((took) => Math.max(...took));
      t.diagnostic(
        `worst ping ${worst.toFixed(1)} ms, of an idle server ${noise.toFixed(1)} ms; memory at most ${(most / MIB).toFixed(1)} MiB; closes ${JSON.stringify(codes)}, ${received} bytes back`,
      );
      assert.ok(worst < 50 * slow + 2 * noise, `a ping took ${worst} ms, of an idle server ${noise} ms`);
      const allowed = sockets * (2 * 578 * 170 + 16384) + 4 * MIB; // as in watch-cost.test.js
      assert.ok(most - before < allowed || slow > 1, `${most - before} bytes, ${allowed} are allowed`);
      await until('memory to come back', async () => (await anonymous(server)) < before + 8 * MIB || slow > 1, {
        within: 60000,
      });
    });
  }
}
