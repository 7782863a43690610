'use strict';
// Variants: asan tsan
// What moves which counter, and by how much: a table of actions. Of each, exactly the counters that
// its row names move; and every counter that the program has is moved by a row.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { describe } = require('node:test');
const { test, start, startSecure, startReceiver, connect, refusal, shake, tcp, rawConnect, upgrade, openEvents, heartbeat, get, del, request, until, tempDir,
  tokenKey, bearer, passwordFile, tryLogin, OP, frame, heavy, slow, window } = require('./lib');

const SOURCE = fs.readFileSync(path.join(__dirname, '../../presence.c'), 'utf8');
const TABLE = /#define COUNTER_TABLE\(X\)[^]*?\nstruct counters/.exec(SOURCE)[0];
const COUNTERS = [...TABLE.matchAll(/X\((\w+),\s*"(\w+)_total"/g)].map(([, field, metric]) => ({ field, metric: `presence_${metric}_total` }));

// Commits follow from clocks too, a sample each minute for one: only rows about them look at them.
const BY_THE_CLOCK = new Set(['store_commits', 'store_records']);
// What no row can reach in seconds, and the test that does.
const ELSEWHERE = { sessions_dropped: ['test/unit/rules.c', 'sessions_beyond_the_most_are_counted'],
  acme_certificates: ['test/integration/acme.test.js', 'the first certificate'], acme_failures: ['test/integration/acme.test.js', 'whatever the server answers'] };

const ORIGIN = (server) => `http://127.0.0.1:${server.port}`;
const QUIET = ['--ping-interval', '10m', '--pong-timeout', '10m'];
const FAILS = /level=warn msg="webhook: /;

/** The state of all counters, by --metrics-listen and one connection that is counted before. */
async function reader(server) {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const metrics = Object.assign(Object.create(server), server.of('metrics')[0]);
  let reads = 0;
  const read = async () => {
    const { text } = await get(metrics, '/metrics', { agent });
    const values = Object.fromEntries(COUNTERS.map(({ field, metric }) => [field, Number(new RegExp(`^${metric} (\\d+)$`, 'm').exec(text)[1])]));
    values.requests -= reads++; // each read is seen by the next one
    return values;
  };
  await read();
  return { read, close: () => agent.destroy() };
}

const changed = (before, after) => Object.fromEntries(COUNTERS.map(({ field }) => [field, after[field] - before[field]]).filter(([field, n]) => n && !BY_THE_CLOCK.has(field)));

const open = { accepted: 1, requests: 1, upgrades: 1, joins: 1 };
const gone = { closes: 1, leaves: 1 };
const asked = { accepted: 1, requests: 1 };
const refused = { ...asked, request_errors: 1 };

// name; what moves, exactly; the options of the server; what is done. `atLeast`: these and others
// move, by no sure number. `any`: these may, as far as the limits let them.
const ROWS = [
  ['a WebSocket opens, sends two messages, and closes', { moves: { ...open, messages: 2, ...gone } }, async (server) => {
    const client = await connect(server, 'u');
    await client.ping();
    client.send({ type: 'ping' });
    await client.next('pong');
    await client.close();
  }],
  ['a second tab is no join, and the end of one no leave', { moves: { accepted: 2, requests: 2, upgrades: 2, joins: 1, closes: 1 } }, async (server) => {
    await connect(server, 'u');
    await (await connect(server, 'u')).close();
  }],
  ['an HTTP heartbeat', { moves: { ...asked, joins: 1 } }, (server) => heartbeat(server, 'u')],
  ['an answer that is an error', { moves: refused }, (server) => get(server, '/nowhere')],
  ['a request that CivetWeb refuses', { moves: refused }, async (server) => {
    const raw = await tcp(server);
    raw.write('GET / HTTP/3.7\r\nHost: localhost\r\n\r\n');
    await raw.response();
    raw.destroy();
  }],
  ['half a request', { moves: { accepted: 1, requests: 1, request_errors: 1, request_timeouts: 1 }, args: ['--request-timeout', `${300 * window}ms`] }, async (server) => {
    const raw = await tcp(server);
    raw.write('GET / HTTP/1.1\r\nHost');
    assert.equal((await raw.response()).status, 408);
    raw.destroy();
  }],
  ['a connection that says nothing', { moves: { accepted: 1, request_timeouts: 1 }, args: ['--request-timeout', `${300 * window}ms`] }, async (server) => {
    const raw = await tcp(server);
    await until('its end', () => raw.ended);
    raw.destroy();
  }],
  ['a body more than the memory for requests holds', { moves: { accepted: 2, requests: 1, request_errors: 1, memory_refused: 1 }, args: ['--max-request-memory', '1m'],
    allow: [/level=warn msg="requests are refused: all under way hold/] }, async (server) => {
    const head = 'POST /api/presence HTTP/1.1\r\nHost: localhost\r\nContent-Length: 262144\r\n\r\n';
    const held = [await tcp(server), await tcp(server)];
    for (const raw of held) raw.write(head + ' '.repeat(250000));
    assert.equal((await Promise.race(held.map((raw) => raw.response()))).status, 503);
    for (const raw of held) raw.destroy();
  }],
  ['one connection more than may be pending', { moves: { accepted: 3, pending_displaced: 1 }, args: ['--max-pending-per-address', '2'] }, async (server) => {
    const all = [];
    for (let i = 0; i < 3; i++) all.push(await tcp(server, { localAddress: '127.0.0.3' }));
    await until('the first to give way', () => all[0].ended);
  }],
  ['a status by message', { moves: { ...open, messages: 1, status_changes: 1 } }, async (server) => {
    const client = await connect(server, 'u');
    client.send({ type: 'status', status: 'away' });
  }],
  ['a status by hand', { moves: { accepted: 2, requests: 2, joins: 1, status_changes: 1 } }, async (server) => {
    await heartbeat(server, 'u');
    assert.equal((await request(server, 'PUT', '/api/presence/u/status', { body: { status: 'busy' } })).status, 200);
  }],
  ['a user who is followed comes', { moves: { accepted: 2, requests: 2, upgrades: 1, joins: 2, messages: 1, snapshots: 1, updates: 1 } }, async (server) => {
    const client = await connect(server, 'u');
    client.send({ type: 'watch', users: ['friend'] });
    await client.next('snapshot');
    await heartbeat(server, 'friend');
    await client.next('presence');
  }],
  ['messages faster than allowed', { moves: { ...open, too_fast: 1, ...gone }, any: ['messages'], args: ['--max-messages-per-second', '2', '--grace', '0'] }, async (server) => {
    const raw = await rawConnect(server, 'u');
    raw.write(Buffer.concat(Array.from({ length: 200 }, () => frame(OP.text, '{"type":"ping"}'))));
    assert.equal(await raw.closeCode(), 4429);
  }],
  ['a frame that is none', { moves: { ...open, protocol_errors: 1, ...gone }, args: ['--grace', '0'] }, async (server) => {
    const raw = await rawConnect(server, 'u');
    raw.write(Buffer.from([0xff, 0xff]));
    assert.equal(await raw.closeCode(), 1002);
  }],
  ['a client that answers no ping', { moves: { ...open, pings_sent: 1, heartbeat_timeouts: 1, ...gone }, args: ['--ping-interval', '100ms', '--pong-timeout', '100ms'] }, async (server) => {
    await rawConnect(server, 'u');
  }],
  ['a kick', { moves: { accepted: 2, requests: 2, upgrades: 1, joins: 1, kicks: 1, ...gone } }, async (server) => {
    await connect(server, 'u');
    await del(server, '/admin/users/u/connections');
  }],
  ['a stream of events', { moves: { ...asked, streams_opened: 1 } }, (server) => openEvents(server)],
  ['a stream that nobody reads', { atLeast: { streams_opened: 1, streams_dropped: 1 }, args: ['--max-stream-buffer', '4096', '--max-messages-per-second', '0'] }, async (server, { read }) => {
    const stream = await openEvents(server);
    const client = await connect(server, 'u'.repeat(128));
    stream.response.pause();
    stream.request.socket.pause();
    for (let done = 0; (await read()).streams_dropped === 0; done += 500) {
      assert.ok(done < 100000);
      for (let i = 0; i < 500; i++) client.send({ type: 'status', status: i % 2 ? 'online' : 'busy' });
      await client.ping();
    }
  }],
  ['a page of another origin', { moves: { ...refused, origins_refused: 1 } }, (server) =>
    request(server, 'POST', '/api/presence/u/heartbeat', { headers: { Origin: 'https://evil.test' } })],
  ['a page of another origin asks for a WebSocket', { moves: { ...refused, origins_refused: 1 } }, (server) => refusal(server, 'u', { origin: 'https://evil.test' })],
  ['no token', { moves: { ...refused, tokens_refused: 1 }, key: true }, (server) => get(server, '/api/presence/u')],
  ['an upgrade without a token, by a program', { moves: { ...refused, tokens_refused: 1 }, key: true }, (server) => refusal(server, 'u')],
  ['an upgrade without a token, by a browser, which is told by a close code', { moves: { ...asked, tokens_refused: 1 }, key: true }, async (server) => {
    assert.equal((await refusal(server, 'u', { origin: ORIGIN(server) })).code, 4401);
  }],
  ['a batch with a user the token may not see', { moves: { ...refused, tokens_refused: 1 }, key: true }, async (server, { key }) => {
    assert.equal((await request(server, 'POST', '/api/presence', { body: { users: ['other'] }, ...bearer(await key.user('u')) })).status, 403);
  }],
  ['a connection more than a user may have', { moves: { accepted: 2, requests: 2, request_errors: 1, upgrades: 1, joins: 1, upgrades_refused: 1 }, args: ['--max-connections-per-user', '1'] }, async (server) => {
    await connect(server, 'u');
    await refusal(server, 'u');
  }],
  ['the same by a browser', { moves: { accepted: 2, requests: 2, upgrades: 1, joins: 1, upgrades_refused: 1 }, args: ['--max-connections-per-user', '1'] }, async (server) => {
    await connect(server, 'u');
    assert.equal((await refusal(server, 'u', { origin: ORIGIN(server) })).code, 4429);
  }],
  ['a connection more than an address may have', { moves: { accepted: 2, requests: 2, request_errors: 1, upgrades: 1, joins: 1, upgrades_refused: 1, address_refused: 1 },
    args: ['--max-connections-per-address', '1'] }, async (server) => {
    await connect(server, 'u');
    await refusal(server, 'v');
  }],
  ['a wrong password and the right one', { moves: { accepted: 2, requests: 2, request_errors: 1, admin_login_failures: 1, admin_logins: 1 }, password: true }, async (server) => {
    await tryLogin(server, 'wrong');
    await tryLogin(server, 'secret');
  }],
  ['a handshake of TLS, and one that resumes it', { moves: { accepted: 2, requests: 2, tls_handshakes: 2, tls_resumed: 1 }, tls: true }, async (server) => {
    let session;
    for (let i = 0; i < 2; i++) {
      const socket = await shake(server.secure, { session, maxVersion: 'TLSv1.2' });
      session = socket.getSession();
      socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n');
      await new Promise((resolve) => socket.on('end', resolve).resume());
    }
  }],
  ['a handshake that fails', { moves: { accepted: 1, tls_failures: 1 }, tls: true }, async (server) => {
    const raw = await tcp(Object.assign(Object.create(server.secure), { tls: undefined }));
    raw.write(Buffer.from([22, 3, 1, 0, 4, 9, 0, 0, 0]));
    await until('its end', () => raw.ended);
    raw.destroy();
  }],
  ['SIGHUP with TLS', { moves: { tls_reloads: 1 }, tls: true, allow: [/certificates read again/] }, (server) => server.signal('SIGHUP')],
  ['a page of the users known', { moves: { accepted: 2, requests: 2, joins: 1, leaves: 1, users_scanned: 1 }, args: ['--online-threshold', '1s'] }, async (server, { read }) => {
    await heartbeat(server, 'u');
    await until('it to be offline', async () => (await read()).leaves === 1);
    await get(server, '/admin/users?q=u');
  }],
  ['a change that a webhook takes', { moves: { ...asked, joins: 1, webhook_deliveries: 1 }, hook: () => 204 }, (server) => heartbeat(server, 'u')],
  ['a change that a webhook takes the second time', { moves: { ...asked, joins: 1, webhook_failures: 1, webhook_deliveries: 1 }, hook: (tries) => (tries === 1 ? 500 : 204), allow: [FAILS] },
    (server) => heartbeat(server, 'u')],
  ['a change that no webhook takes', { atLeast: { webhook_failures: 1, webhook_dead: 1 }, hook: () => 500, args: ['--webhook-give-up', '1s'], allow: [FAILS] }, (server) => heartbeat(server, 'u')],
  ['a join is committed', { atLeast: { store_commits: 1, store_records: 1 } }, (server) => heartbeat(server, 'u')],
  ['a file that may not grow', { atLeast: { store_failures: 1 }, wrap: ['sh', '-c', "trap '' XFSZ; ulimit -f 400; exec \"$@\"", 'sh'], allow: [/level=error msg="store: cannot write/], exitCode: 1,
    stop: 'SIGKILL' }, async (server, { read }) => {
    for (let n = 0; (await read()).store_failures === 0; n++) await heartbeat(server, `${n}-${'x'.repeat(100)}`);
  }],
  ['a log that nobody reads', { atLeast: { log_dropped: 1 }, password: true, wrap: ['bash', '-c', 'exec "$@" 2> >(head -n 4 >&2)', 'bash'] }, async (server, { read }) => {
    for (let n = 0; (await read()).log_dropped === 0; n++) await tryLogin(server, 'wrong', { localAddress: `127.0.1.${n % 250}` });
  }],
  ['no descriptor is left', { atLeast: { accept_errors: 1 }, wrap: ['sh', '-c', 'ulimit -n 64; exec "$@"', 'sh'], allow: [/level=warn msg="cannot accept/] }, async (server, { read }) => {
    const held = [];
    for (let i = 0; i < 80; i++) held.push(await tcp(server));
    await until('it to be noticed', async () => (await read()).accept_errors > 0);
    for (const raw of held) raw.destroy();
  }],
];

test('every counter is moved by a row, or by a test elsewhere', () => {
  assert.ok(COUNTERS.length > 35, 'the table is read');
  const moved = new Set(ROWS.flatMap(([, { moves, atLeast }]) => Object.keys(moves ?? atLeast)));
  for (const [field, [file, name]] of Object.entries(ELSEWHERE)) {
    assert.match(fs.readFileSync(path.join(__dirname, '../..', file), 'utf8'), new RegExp(`(cmocka_unit_test\\(|^test\\(')${name}`, 'm'));
    moved.add(field);
  }
  assert.deepEqual(COUNTERS.map(({ field }) => field).filter((field) => !moved.has(field)), [], 'no row moves them');
  assert.deepEqual([...moved].filter((field) => !COUNTERS.some((one) => one.field === field)), [], 'no counter has the name');
});

describe('side by side', { concurrency: heavy(8, 3) }, () => {
  for (const [what, { moves, atLeast, any = [], args = [], key, password, tls, hook, allow = [], wrap, stop, exitCode }, act] of ROWS)
    test(`counted: ${what}`, async (t) => {
      const all = [...QUIET, ...args, '--metrics-listen', '127.0.0.1:0'];
      const tokens = key && tokenKey(t);
      if (key) all.push(...tokens.args);
      if (password) all.push(...passwordFile(t, 'secret').args);
      if (hook) {
        const receiver = await startReceiver(t);
        receiver.answer = () => hook(receiver.requests.length);
        all.push(...receiver.args);
      }
      const server = await (tls ? startSecure : start)(t, { args: all, listening: 1, allow, wrap, exitCode });
      const counters = await reader(server);
      const before = await counters.read();
      await act(server, { read: async () => changed0(before, await counters.read()), key: tokens });
      let now;
      const wanted = moves ?? atLeast;
      await until('the counters to move', async () => {
        now = changed0(before, await counters.read());
        return Object.entries(wanted).every(([field, n]) => now[field] >= n);
      }, { within: 20000 * slow }).catch((error) => assert.deepEqual(now, wanted, error.message));
      const sure = Object.entries(changed(before, await counters.read())).filter(([field]) => !any.includes(field));
      if (moves) assert.deepEqual(Object.fromEntries(sure), moves);
      counters.close();
      if (stop) await server.kill();
    });
});

/** How far each has moved. */
function changed0(before, after) {
  return Object.fromEntries(COUNTERS.map(({ field }) => [field, after[field] - before[field]]));
}
