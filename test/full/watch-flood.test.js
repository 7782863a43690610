'use strict';
// Watch messages within every limit: others hardly notice, and memory comes back.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const { test, start, connect, pinger, watchers, until, delay, slow, heavy } = require('../integration/lib');

const resident = (server) =>
  Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${server.pid}/status`, 'utf8'))[1]) / 1024;

for (const sockets of [500, heavy(2000, 500)]) {
  for (const rate of ['20', '0']) {
    test(`${sockets} sockets that watch and unwatch, --max-messages-per-second ${rate}`, async (t) => {
      const args = `--max-messages-per-second ${rate} --max-pending-per-address 4000`.split(' ');
      const server = await start(t, { args });
      const crowd = await watchers(t, server, { sockets, rounds: 9, count: 578 });
      const before = resident(server);
      let most = before;
      const look = setInterval(() => (most = Math.max(most, resident(server))), 20);
      const pings = await pinger(t, server, { every: rate === "0" ? 5 : 70 });
      await crowd.send();
      // A marker behind all that was sent: the crowd is quiet when it takes nothing for a while.
      let last = -1;
      let same = 0;
      await until('the crowd to be quiet', async () => {
        const { received, closed } = await crowd.state();
        same = received + closed === last ? same + 1 : 0;
        last = received + closed;
        await delay(100);
        return same > 5;
      }, { within: 60000 * slow });
      const state = await crowd.state();
      await crowd.drop();
      await delay(500);
      const took = await pings.end();
      took.sort((a, b) => a - b);
      const worst = took.at(-1);
      clearInterval(look);
      const after = await until('memory to come back', () => {
        const now = resident(server);
        return now < before + 30 && { now };
      }, { within: 5000 * slow }).catch(() => ({ now: resident(server) }));
      t.diagnostic(
        `worst ping ${worst.toFixed(1)} ms, p99 ${took[Math.floor(took.length * 0.99)].toFixed(1)} of ${took.length}, memory ${before.toFixed(1)} -> ${most.toFixed(1)} -> ${after.now.toFixed(1)} MB, closes ${JSON.stringify(state.codes)}, ${state.received} bytes back`,
      );
      assert.ok(worst < 50 * slow, `a ping took ${worst} ms`);
      assert.ok(after.now < before + 30, `${after.now} MB are left of ${before}`);
    });
  }
}
