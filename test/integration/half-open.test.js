'use strict';
const assert = require('node:assert/strict');
const {
  test,
  sideBySide,
  start,
  startProxy,
  connect,
  rawConnect,
  tcp,
  upgrade,
  presence,
  until,
  throughout,
  delay,
  slow,
  window,
  OP,
  frame,
  assertNeverLeft,
  assertLeftOnce,
  json,
  proc,
} = require('./lib');

sideBySide(() => {
  test('P12 a dead network shows within interval + timeout + grace', async (t) => {
    const server = await start(t, {
      args: ['--ping-interval', '2s', '--pong-timeout', '4s', '--grace', '3s'],
    });
    const proxy = await startProxy(t, server);
    const client = await connect(server, 'u', { port: proxy.port });
    await client.ping();
    proxy.blackHole();
    const cut = Date.now();
    await until('offline', async () => !(await presence(server, 'u')).online, {
      within: 9000 + 500 * slow,
    });
    const user = await presence(server, 'u');
    assert.ok(
      Math.abs(Date.parse(user.last_seen) - cut) < 200 * slow,
      `last heard ${user.last_seen}, cut ${new Date(cut).toISOString()}`,
    );
    await assertLeftOnce(server, 'u', 'timeout');
  });

  test('P12 one late pong is no event', async (t) => {
    const server = await start(t, {
      args: ['--ping-interval', '500ms', '--pong-timeout', `${1000 * window + 200 * slow}ms`, '--grace', '200ms'],
    });
    const proxy = await startProxy(t, server);
    const client = await connect(server, 'u', { port: proxy.port });
    let pings = 0;
    const pinged = new Promise((resolve) =>
      client.socket.on('ping', () => {
        if (++pings === 1) resolve();
      }),
    );
    proxy.delay(1000 * window); // the pong arrives shortly before the timeout
    await pinged;
    proxy.delay(0);
    const observed = throughout(3500 * window, async () => {
      const user = await presence(server, 'u');
      assert.deepEqual([user.online, user.source], [true, 'live']);
    });
    await observed;
    assert.ok(pings >= 3, `${pings} pings`);
    assert.ok(client.open);
    await assertNeverLeft(server, 'u');
  });

  test('a silent connection is pinged after the interval and closed with 4408 after the timeout', async (t) => {
    const server = await start(t, { args: ['--ping-interval', '400ms', '--pong-timeout', '600ms'] });
    const raw = await rawConnect(server, 'u');
    await raw.ping();
    const began = Date.now();
    const ping = await raw.frame();
    assert.equal(ping.opcode, OP.ping);
    const pingAfter = Date.now() - began;
    const code = await raw.closeCode();
    const closeAfter = Date.now() - began;
    assert.equal(code, 4408);
    assert.ok(pingAfter >= 350 && pingAfter < 400 + 400 * slow, `ping after ${pingAfter} ms`);
    assert.ok(closeAfter >= 950 && closeAfter < 1000 + 500 * slow, `close after ${closeAfter} ms`);
    await until('offline', async () => !(await presence(server, 'u')).online);
    await assertLeftOnce(server, 'u', 'timeout');
  });

  test('pings come every interval when the timeout is the longer of the two', async (t) => {
    const timeout = 3000 * slow; // nobody waits for it
    const server = await start(t, {
      args: ['--ping-interval', `${200 * window}ms`, '--pong-timeout', `${timeout}ms`],
    });
    const client = await connect(server, 'u');
    const began = Date.now();
    let pings = 0;
    client.socket.on('ping', () => pings++);
    await until('five pings', () => pings >= 5, { within: 6 * timeout });
    assert.ok(Date.now() - began < timeout, 'not one for each timeout');
    await assertNeverLeft(server, 'u');
  });

  test('an answering client is kept, and its round trip is known', async (t) => {
    const server = await start(t, {
      args: ['--ping-interval', `${500 * window}ms`, '--pong-timeout', `${800 * slow}ms`],
    });
    const client = await connect(server, 'u');
    assert.equal((await json(server, '/admin/users/u')).connection_list[0].round_trip_ms, null);
    const rtt = await until('a round trip', async () => {
      const value = (await json(server, '/admin/users/u')).connection_list[0].round_trip_ms;
      return value !== null && { value };
    });
    assert.ok(
      typeof rtt.value === 'number' && rtt.value >= 0 && rtt.value < 800 * slow,
      JSON.stringify(rtt),
    );
    await throughout(2500, () => assert.ok(client.open));
    await assertNeverLeft(server, 'u');
  });

  test('every byte counts as life, and half a frame does not suspend the timeout', async (t) => {
    const server = await start(t, {
      args: [
        '--ping-interval',
        `${600 * window}ms`,
        '--pong-timeout',
        `${600 * window}ms`,
        '--grace',
        '100ms',
      ],
    });
    const raw = await rawConnect(server, 'u');
    const bytes = frame(OP.text, JSON.stringify({ type: 'ping', pad: 'x'.repeat(90) }));
    for (let i = 0; i < 12 * window; i++) {
      // far beyond interval + timeout in all
      raw.write(bytes.subarray(i, i + 1));
      await delay(150);
      assert.equal((await presence(server, 'u')).source, 'live', `after ${i + 1} bytes`);
    }
    assert.equal(await raw.closeCode(), 4408, 'then silence in the middle of the frame');
    await until('offline', async () => !(await presence(server, 'u')).online);
    await assertLeftOnce(server, 'u', 'timeout');
  });

  test('O05 a half-closed peer goes offline and leaves no CLOSE_WAIT behind', async (t) => {
    const server = await start(t, { args: ['--grace', '300ms'] });
    const clients = [];
    for (let i = 0; i < 20; i++) clients.push(await rawConnect(server, `half-${i}`));
    const early = await tcp(server); // FIN together with the request
    early.write(upgrade('half-early'));
    early.socket.end();
    for (const client of clients) client.socket.end();
    await until('no CLOSE_WAIT', () => proc.closeWait(server.port) === 0);
    for (const client of clients) await until('the server to close too', () => client.ended);
    for (let i = 0; i < 20; i++) {
      await until('offline', async () => !(await presence(server, `half-${i}`)).online);
    }
    await assertLeftOnce(server, 'half-0', 'dropped');
    await until('no CLOSE_WAIT', () => proc.closeWait(server.port) === 0);
  });
});
