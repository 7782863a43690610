'use strict';
// Variants: release asan
// Who is gone is not worked for, and who floods has no more than --max-pending-per-address places,
// whatever state their connections are in. Counted; test/full/gone-clients.test.js times it.
const assert = require('node:assert/strict');
const { test, start, tcp, heartbeats, get, until, slow } = require('./lib');

const other = { localAddress: '127.0.0.9' };
const DEAR = 'GET /admin/users?sort=-last_seen&q=zzz HTTP/1.1\r\nHost: localhost\r\n\r\n';

/** A counter or gauge of /metrics, which is soon answered beside any load. */
async function metric(server, name) {
  const { text } = await get(server, '/metrics', other);
  return Number(new RegExp(`^presence_${name} (\\d+)$`, 'm').exec(text)[1]);
}

/** A server that knows this many users. */
async function known(t, users, args) {
  const server = await start(t, { args: ['--online-threshold', '1h', ...args] });
  assert.equal(await heartbeats(server, Array.from({ length: users }, (_, i) => `u${i}`)), users);
  return server;
}

test('requests of a client whose socket was reset are not worked off', async (t) => {
  const server = await known(t, 4000, ['--workers', '2', '--max-pending-per-address', '0']);
  let asked = 0; // by this test
  const count = (name) => { asked++; return metric(server, name); };
  const before = await count('http_requests_total');
  const raws = [];
  for (let i = 0; i < 120; i++) raws.push(await tcp(server));
  for (const raw of raws) {
    raw.write(DEAR.repeat(20));
    raw.reset();
  }
  await until('all of them to be dropped', async () => (await count('connections_pending')) <= 1, { within: 30000 * slow });
  const served = (await count('http_requests_total')) - before - asked;
  assert.ok(served < raws.length / 2, `${served} of ${raws.length * 20} requests were answered to nobody`);
});

test('who closes only their half gets all answers', async (t) => {
  const server = await known(t, 500, ['--workers', '2']);
  await Promise.all(Array.from({ length: 20 }, async () => {
    const raw = await tcp(server);
    raw.write(DEAR.repeat(20));
    raw.socket.end();
    for (let i = 0; i < 20; i++) assert.equal((await raw.response(20000 * slow)).status, 200);
    raw.destroy();
  }));
});

const MOST = 16;

/** What fills the places of an address: each gets a connection and leaves it in one state. */
const STATES = {
  silent: () => {},
  'half a head': (raw) => raw.write('GET /healthz HTTP/1.1\r\nHost: loc'),
  'a dear request': (raw) => raw.write(DEAR),
  'dear requests, and gone': (raw) => { raw.write(DEAR.repeat(20)); raw.socket.end(); },
  'an answer nobody reads': (raw) => {
    raw.socket.pause();
    raw.write('GET /admin/users?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n'.repeat(20));
  },
  lingering: (raw) => raw.write('GET / HTTP/1.1\r\nX : y\r\n\r\n'),
  'kept alive': (raw) => raw.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n'),
};

for (const [what, fill] of [...Object.entries(STATES), ['every state in turn', null]]) {
  test(`one address has --max-pending-per-address places: ${what}`, async (t) => {
    const server = await known(t, 4000, ['--workers', '2', '--max-pending-per-address', String(MOST)]);
    const all = Object.values(STATES);
    let worst = 0;
    for (let i = 0; i < 300; i++) {
      const raw = await tcp(server);
      raw.socket.on('error', () => {});
      (fill || all[i % all.length])(raw);
      if (i % 10 === 9) worst = Math.max(worst, await metric(server, 'connections_pending'));
    }
    // and those a worker has at this moment, and the one that asks
    assert.ok(worst <= MOST + 2 + 1, `${worst} connections of one address`);
    assert.ok((await metric(server, 'pending_displaced_total')) > 100);
    assert.equal((await get(server, '/healthz')).status, 200, 'and the address itself is served');
  });
}
