'use strict';
// Variants: asan tsan
// What one address may take: connections, upgrades a second, places in the door.
const assert = require('node:assert/strict');
const { test, sideBySide, start, startSecure, connect, refusal, rawConnect, tcp, upgrade, get, stats, until, slow } = require('./lib');

const from = (n) => ({ localAddress: `127.0.0.${n}` });

/** Two connections of one address; null, and none is left, if there is no place for both. */
async function both(server) {
  const tries = await Promise.allSettled([0, 1].map((i) => connect(server, `u${i}`, from(20))));
  const clients = tries.flatMap(({ value }) => value || []);
  if (clients.length === 2) return clients;
  await Promise.all(clients.map((client) => client.close()));
  return null;
}

sideBySide(() => {
  test('an address has at most --max-connections-per-address', async (t) => {
    const server = await startSecure(t, { args: ['--max-connections-per-address', '3'] });
    const first = [await connect(server, 'u0', from(20)), await connect(server.secure, 'u1', from(20)), await connect(server, 'u2', from(20))];
    for (const target of [server, server.secure]) {
      const refused = await refusal(target, 'u9', from(20));
      assert.equal(refused.status, 429);
      assert.match(refused.headers['retry-after'] || '1', /^\d+$/);
    }
    const raw = await tcp(server, from(20));
    raw.write(upgrade('u9'));
    assert.equal(JSON.parse((await raw.response()).body).error.code, 'too_many_from_address');
    const told = await refusal(server, 'u9', { ...from(20), origin: `http://127.0.0.1:${server.port}` });
    assert.ok(told.code === 4429 || told.status === 429, `${told.message}`);
    await connect(server, 'u9', from(21));
    assert.equal((await get(server, '/healthz', from(20))).status, 200, 'HTTP goes on');
    await first[0].close();
    await until('a place again', () => connect(server, 'u9', from(20)).catch(() => null));
    first[1].destroy();
    await until('a place again', () => connect(server, 'u8', from(20)).catch(() => null));
    assert.ok((await stats(server)).counters.address_refused >= 4);
  });

  test('places are given back however a connection ends', async (t) => {
    const server = await start(t, { args: ['--max-connections-per-address', '2', '--grace', '50ms'] });
    for (let round = 0; round < 10; round++) {
      const clients = await until('both places', () => both(server));
      if (round % 3 === 0) await Promise.all(clients.map((client) => client.close()));
      else if (round % 3 === 1) for (const client of clients) client.destroy();
      else for (const client of clients) client.reset();
      await Promise.all(clients.map((client) => client.closed));
    }
    for (let i = 0; i < 5; i++) { // refused ones take no place
      const raw = await tcp(server, from(20));
      raw.write(upgrade('u', { headers: { 'Sec-WebSocket-Version': '8' } }));
      await raw.head();
      raw.destroy();
    }
    await until('both places', () => both(server));
  });

  test('an address gets at most --max-upgrades-per-second', async (t) => {
    const server = await start(t, { args: ['--max-upgrades-per-second', '5'] });
    const began = Date.now();
    const results = await Promise.all(Array.from({ length: 40 }, (_, i) =>
      connect(server, `u${i}`, from(20)).then(() => 101, (error) => error.status)));
    const took = (Date.now() - began) / 1000;
    const let_in = results.filter((status) => status === 101).length;
    assert.ok(let_in >= 5 && let_in <= 5 + Math.ceil(5 * took) + 1, `${let_in} in ${took} s`);
    assert.equal(results.filter((status) => status === 429).length, 40 - let_in, `${results}`);
    const raw = await tcp(server, from(20));
    raw.write(upgrade('u'));
    const answer = await raw.response().catch(() => null);
    if (answer && answer.status === 429) assert.equal(JSON.parse(answer.body).error.code, 'too_many_upgrades');
    await connect(server, 'other', from(21));
    await until('let in again', () => connect(server, 'late', from(20)).catch(() => null), { within: 3000 * slow, every: 100 });
    assert.ok((await stats(server)).counters.address_refused >= 20);
  });

  test('upgrades at the allowed rate are never refused', async (t) => {
    const server = await start(t, { args: ['--max-upgrades-per-second', '10'] });
    for (let i = 0; i < 10; i++) (await rawConnect(server, `a${i}`, from(20))).destroy(); // a second's worth at once
    let refused = 0;
    for (let i = 0; i < 12; i++) {
      await new Promise((resolve) => setTimeout(resolve, 125)); // the rate itself is what is tested
      const raw = await rawConnect(server, `b${i}`, from(20)).catch(() => { refused++; return null; });
      raw?.destroy();
    }
    assert.equal(refused, 0);
  });

  test('past --max-pending-per-address the oldest pending connection of that address gives way', async (t) => {
    const server = await startSecure(t, { args: ['--max-pending-per-address', '10'] });
    for (const target of [server, { ...server.secure, port: server.secure.port, host: server.secure.host, sockets: server.sockets }]) {
      const neighbour = await tcp(target, { ...from(77), bare: true });
      const flood = [];
      for (let i = 0; i < 50; i++) flood.push(await tcp(target, { ...from(1), bare: true }));
      await until('40 to give way', () => flood.filter((raw) => raw.ended).length >= 40);
      assert.deepEqual(flood.slice(0, 40).filter((raw) => !raw.ended), [], 'the oldest first');
      assert.ok(flood.filter((raw) => !raw.ended).length <= 10);
      assert.equal((await get(server, '/healthz')).status, 200, 'the address itself is still served');
      await (await connect(server.secure, 'u')).close();
      assert.equal(neighbour.ended, false, 'another address is untouched');
      if (target === server) {
        neighbour.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
        assert.equal((await neighbour.response()).status, 200, 'another address is untouched');
      }
      for (const raw of [...flood, neighbour]) raw.destroy();
    }
    assert.ok((await stats(server)).counters.pending_displaced >= 80);
  });

  test('WebSockets and requests under way do not give way to a flood', async (t) => {
    const server = await start(t, { args: ['--max-pending-per-address', '5'] });
    const client = await connect(server, 'u');
    const flood = [];
    for (let i = 0; i < 30; i++) flood.push(await tcp(server));
    await until('some to give way', () => flood.filter((raw) => raw.ended).length >= 24);
    await client.ping();
    for (let i = 0; i < 10; i++) assert.equal((await get(server, '/healthz')).status, 200);
  });

  test('--max-pending-per-address 0 displaces nobody', async (t) => {
    const server = await start(t, { args: ['--max-pending-per-address', '0'] });
    const flood = [];
    for (let i = 0; i < 300; i++) flood.push(await tcp(server));
    assert.equal((await get(server, '/healthz')).status, 200);
    assert.equal(flood.filter((raw) => raw.ended).length, 0);
    assert.equal((await stats(server)).counters.pending_displaced, 0);
  });

  test('an IPv6 network of 64 bits is one address', async (t) => {
    const server = await start(t, { listen: ['127.0.0.1:0'], args: ['--max-connections-per-address', '2', '--trusted-proxy', '127.0.0.1'] });
    const as = (address) => ({ headers: { 'X-Forwarded-For': address } });
    await connect(server, 'a', as('2001:db8:1:2::1'));
    await connect(server, 'b', as('2001:db8:1:2:ffff::9'));
    assert.equal((await refusal(server, 'c', as('2001:db8:1:2::3'))).status, 429);
    await connect(server, 'd', as('2001:db8:1:3::1'));
  });

  test('a trusted proxy is exempt from every limit by address', async (t) => {
    const server = await start(t, {
      args: ['--trusted-proxy', '127.0.0.5', '--max-connections-per-address', '2', '--max-upgrades-per-second', '2', '--max-pending-per-address', '5'],
    });
    for (let i = 0; i < 12; i++) await connect(server, `u${i}`, from(5));
    const flood = [];
    for (let i = 0; i < 30; i++) flood.push(await tcp(server, from(5)));
    assert.equal((await get(server, '/healthz', from(5))).status, 200);
    assert.equal(flood.filter((raw) => raw.ended).length, 0);
    assert.equal((await stats(server)).counters.pending_displaced, 0);
  });
});
