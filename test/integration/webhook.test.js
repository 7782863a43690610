'use strict';
// Variants: asan tsan
// --webhook-url: every change reaches the receiver, in order and signed, whatever happens to either
// side; and whatever the receiver does, users do not feel it.
const assert = require('node:assert/strict');
const dgram = require('node:dgram');
const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { test, dice, sideBySide, start, startReceiver, connect, heartbeat, openEvents, presence, get, del, stats, json, until, cleanup, tempDir,
  refusedConfig, acceptedConfig, cannotMount, Authority, DAY, run, heavy, hurried, slow } = require('./lib');

const FAILS = /level=warn msg="webhook: cannot deliver to [^"]*; changes wait in the store"$/;
const WORKS = /level=warn msg="webhook: \S+ takes changes again, after \d+ s"$/;
const GONE = /level=warn msg="webhook: \S+ answered 410: it is told nothing more until the next start"$/;
const QUIET = ['--ping-interval', '10m', '--pong-timeout', '10m'];

const hook = async (server) => (await stats(server)).webhook;
const count = (server, pattern) => server.lines.filter((line) => pattern.test(line)).length;

/** Users who come online by HTTP, one after the other: as many joins. */
async function join(server, ids) {
  for (const id of ids) await heartbeat(server, id);
}
const ids = (prefix, from, to) => Array.from({ length: to - from }, (_, i) => `${prefix}${from + i}`);
const joins = (names) => names.map((id) => `join ${id}`);

/** A receiver of bytes: `serve` gets each socket. Gives the options of a server that tells it. */
async function rawReceiver(t, serve) {
  const sockets = new Set();
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    serve(socket);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup(t, () => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const secret = path.join(tempDir(t), 'secret');
  fs.writeFileSync(secret, '0123456789abcdef');
  return ['--webhook-url', `http://127.0.0.1:${server.address().port}/`, '--webhook-secret-file', secret];
}

test('joins, leaves and changes of status are posted in order, as streams tell them', async (t) => {
  const receiver = await startReceiver(t, { path: '/hook/a%20b?x=1' });
  const server = await start(t, { args: [...receiver.args, '--grace', '100ms'] });
  const stream = await openEvents(server);
  const first = await connect(server, 'al"ice');
  const second = await connect(server, 'al"ice'); // more connections: not told
  first.send({ type: 'status', status: 'away' });
  second.send({ type: 'status', status: 'busy' });
  await second.ping();
  await second.close();
  first.socket.terminate();
  await heartbeat(server, 'bob');
  await del(server, '/admin/users/bob/connections');
  const told = await receiver.told(6);
  assert.deepEqual(told.filter((one) => one.includes('al"ice')),
    ['join al"ice', 'status al"ice', 'status al"ice', 'leave al"ice dropped']);
  assert.deepEqual(told.filter((one) => one.includes('bob')), ['join bob', 'leave bob kicked']);
  await stream.reach((await json(server, '/admin/stats')).position);
  const streamed = stream.events.filter((one) => one.event === 'change' && one.data.change !== 'connections').map((one) => one.data);
  assert.deepEqual(receiver.changes, streamed);
  for (const { path: target, headers } of receiver.requests) {
    assert.equal(target, '/hook/a%20b?x=1');
    assert.equal(headers.host, `127.0.0.1:${receiver.port}`);
    assert.equal(headers.connection, 'close');
  }
  const state = await hook(server);
  assert.match(state.last_success, /Z$/);
  assert.deepEqual({ ...state, last_success: null },
    { url: receiver.origin, pending: 0, delivered: 6, failures: 0, dead: 0, last_error: null, last_success: null });
  const { counters } = await stats(server);
  assert.deepEqual([counters.webhook_deliveries, counters.webhook_failures, counters.webhook_dead], [6, 0, 0]);
  const metrics = (await get(server, '/metrics')).text;
  for (const line of ['presence_webhook_deliveries_total 6', 'presence_webhook_failures_total 0', 'presence_webhook_dead_total 0',
    'presence_webhook_pending 0'])
    assert.ok(metrics.includes(`\n${line}\n`), line);
});

test('without --webhook-url nothing is kept', async (t) => {
  const server = await start(t);
  await join(server, ['a', 'b']);
  assert.equal(await hook(server), null);
  await server.stop();
  const receiver = await startReceiver(t);
  const next = await start(t, { data: server.data, args: receiver.args });
  await join(next, ['c']);
  assert.deepEqual(await receiver.told(1), ['join c']);
});

test('requests have at most --webhook-batch changes', async (t) => {
  const receiver = await startReceiver(t);
  const held = new Promise((resolve) => {
    receiver.answer = () => {
      resolve();
      return 500;
    };
  });
  const server = await start(t, { args: [...receiver.args, '--webhook-batch', '7'], allow: [FAILS, WORKS] });
  await join(server, ['first']);
  await held; // and what comes now waits a second
  await join(server, ids('u', 0, 40));
  receiver.answer = () => 200;
  assert.deepEqual(await receiver.told(41), joins(['first', ...ids('u', 0, 40)]));
  const sizes = receiver.requests.filter((one) => one.answer === 200).map((one) => one.events.length);
  assert.equal(sizes.reduce((a, b) => a + b), 41);
  assert.ok(sizes.every((size) => size <= 7), `${sizes}`);
  assert.ok(sizes.some((size) => size === 7), `${sizes}`);
});

test('after a restart with a smaller --webhook-batch a request that waited keeps its changes', async (t) => {
  const receiver = await startReceiver(t);
  receiver.answer = () => 500;
  const server = await start(t, { args: [...receiver.args, '--webhook-batch', '50', '--sync-interval', '1m'], allow: [FAILS] });
  await join(server, ids('u', 0, 20));
  await server.stop();
  receiver.answer = () => 200;
  const sizes = () => receiver.requests.filter((one) => one.answer === 200).map((one) => one.events.length);
  const next = await start(t, { data: server.data, args: [...receiver.args, '--webhook-batch', '2'] });
  assert.deepEqual(await receiver.told(20), joins(ids('u', 0, 20)));
  const waited = sizes().length;
  assert.ok(waited <= 3, `${sizes()}`); // the first alone, and what was written at the stop
  await join(next, ids('v', 0, 5));
  await receiver.told(25);
  assert.ok(sizes().slice(waited).every((size) => size <= 2), `${sizes()}`);
});

test('what could not be delivered is tried again, the same, and what came meanwhile follows', async (t) => {
  const receiver = await startReceiver(t);
  const elsewhere = await startReceiver(t);
  const answers = [500, { status: 302, headers: { Location: elsewhere.url } }, 404];
  const errors = [];
  receiver.answer = () => answers.shift() ?? 200;
  const server = await start(t, { args: receiver.args, allow: [FAILS, WORKS], env: hurried(t, 4) });
  await join(server, ['a']);
  for (let tries = 1; tries <= 3; tries++) {
    await receiver.until(`try ${tries}`, () => receiver.requests.length === tries, { within: 10000 * slow });
    await until('it to be noted', async () => (await hook(server)).failures === tries);
    errors.push((await hook(server)).last_error);
    await join(server, [`more-${tries}`]);
  }
  assert.deepEqual(errors, ['answered 500', 'answered 302', 'answered 404']);
  assert.deepEqual(await receiver.told(4, { within: 15000 * slow }), joins(['a', 'more-1', 'more-2', 'more-3']));
  const firsts = receiver.requests.slice(0, 4);
  assert.equal(new Set(firsts.map((one) => one.delivery)).size, 1);
  assert.deepEqual(firsts.map((one) => one.events.length), [1, 1, 1, 1]);
  await until('all to be delivered', async () => (await hook(server)).delivered === 4);
  const { failures, dead, pending, last_error: error } = await hook(server);
  assert.deepEqual([failures, dead, pending, error], [3, 0, 0, null]);
  assert.deepEqual([count(server, FAILS), count(server, WORKS)], [1, 1], server.stderr);
  assert.equal(elsewhere.requests.length, 0, 'a redirect is not followed');
});

test('kill -9 before the answer: after the start all is delivered, in the same company', async (t) => {
  const receiver = await startReceiver(t);
  receiver.answer = () => null;
  const server = await start(t, { args: receiver.args });
  await join(server, ['a']);
  await receiver.told(1);
  await join(server, ids('b', 0, 20));
  await until('them to be stored', async () => (await hook(server)).pending === 21);
  await server.kill();
  let lives = 1;
  for (; lives < 4; lives++) { // and again and again
    const known = receiver.requests.length;
    const next = await start(t, { data: server.data, args: receiver.args });
    await receiver.until('the same again', () => receiver.requests.length > known, { within: 10000 * slow });
    await join(next, [`c${lives}`]);
    await until('it to be stored', async () => (await hook(next)).pending === 21 + lives);
    await next.kill();
  }
  receiver.answer = () => 204;
  const last = await start(t, { data: server.data, args: receiver.args });
  const told = await receiver.told(20 + lives);
  assert.deepEqual(told.slice(0, 24), joins(['a', ...ids('b', 0, 20), 'c1', 'c2', 'c3']));
  await until('nothing to wait', async () => (await hook(last)).pending === 0);
  assert.equal(receiver.requests.filter((one) => one.events[0].user.user_id === 'a').length, lives + 1);
});

test('kill -9 behind the answer: told twice, the same delivery', async (t) => {
  const receiver = await startReceiver(t);
  const server = await start(t, { args: [...receiver.args, '--sync-interval', '1m'] });
  await join(server, ['a']); // the first batch is written at once, the next one in a minute
  await receiver.told(1);
  await until('it to be noted', async () => (await hook(server)).delivered === 1);
  assert.equal((await hook(server)).pending, 0);
  await server.kill();
  const next = await start(t, { data: server.data, args: receiver.args });
  await join(next, ['b']);
  await receiver.told(2);
  assert.deepEqual(receiver.requests.map((one) => one.events.map((event) => event.user.user_id).join()), ['a', 'a', 'b']);
  assert.equal(receiver.requests[0].delivery, receiver.requests[1].delivery);
});

test('a stop in order leaves nothing to tell twice, and nothing is lost over many', async (t) => {
  const receiver = await startReceiver(t);
  const data = tempDir(t);
  for (let life = 0; life < 5; life++) {
    const server = await start(t, { data, args: receiver.args });
    await join(server, ids(`life${life}-`, 0, 5));
    if (life % 2) await receiver.told((life + 1) * 5);
    await server.stop();
  }
  const server = await start(t, { data, args: receiver.args });
  const told = await receiver.told(25);
  assert.deepEqual(told, joins([0, 1, 2, 3, 4].flatMap((life) => ids(`life${life}-`, 0, 5))));
  await server.stop();
  assert.equal(receiver.requests.reduce((sum, one) => sum + one.events.length, 0), receiver.changes.length, 'each once');
});

test('many lives, ended at random, and a receiver that fails at random: all is told, in order', { timeout: 120000 * slow }, async (t) => {
  const receiver = await startReceiver(t);
  const random = dice(20261125); // the same every time
  const data = tempDir(t);
  const said = [];
  for (let life = 0; life < heavy(40, 12); life++) {
    receiver.answer = () => [200, 200, 204, 500, null][random(5)];
    const args = [...receiver.args, '--webhook-batch', `${[1, 3, 100][random(3)]}`];
    const server = await start(t, { data, args, allow: [FAILS, WORKS] });
    const names = ids(`life${life}-`, 0, random(30));
    await join(server, names);
    said.push(...joins(names));
    await until('them to be stored', async () => (await stats(server)).store.users === said.length);
    const more = random(4); // deliveries to wait for: wherever that happens to be
    const known = receiver.requests.length;
    await until('some deliveries', async () => receiver.requests.length >= known + more || (await hook(server)).pending === 0 ||
      receiver.requests.at(-1)?.answer === null || (await hook(server)).last_error);
    if (random(3)) await server.kill();
    else await server.stop();
  }
  receiver.answer = () => 200;
  const last = await start(t, { data, args: receiver.args });
  assert.deepEqual(await receiver.told(said.length, { within: 20000 * slow }), said);
  await until('nothing to wait', async () => (await hook(last)).pending === 0);
  assert.ok(receiver.requests.length > receiver.seen.size, 'some were told twice');
});

test('410: nothing more is sent until the next start', async (t) => {
  const receiver = await startReceiver(t);
  receiver.answer = () => 410;
  const server = await start(t, { args: receiver.args, allow: [GONE] });
  await join(server, ['a']);
  await until('the end of it', () => count(server, GONE) === 1);
  await join(server, ['b', 'c']);
  await until('them to be stored', async () => (await hook(server)).pending === 3);
  assert.equal((await hook(server)).last_error, 'answered 410');
  await server.stop();
  assert.equal(receiver.requests.length, 1);
  receiver.answer = () => 200;
  await start(t, { data: server.data, args: receiver.args });
  assert.deepEqual(await receiver.told(3), joins(['a', 'b', 'c']));
});

test('users do not wait for a receiver that says nothing, drips, or does not listen', async (t) => {
  const silent = await rawReceiver(t, () => {});
  const dripping = await rawReceiver(t, (socket) => {
    const timer = setInterval(() => socket.write('H'), 20);
    socket.on('close', () => clearInterval(timer));
  });
  const closed = [...silent];
  closed[1] = 'http://127.0.0.1:1/';
  for (const [args, error] of [[silent, /^no answer in time$/], [dripping, /^(no answer in time|the answer is no HTTP\/1\.1)$/],
    [closed, /^cannot connect: /]]) {
    const server = await start(t, { args: [...args, ...QUIET, '--webhook-timeout', '300ms'], allow: [FAILS] });
    for (let i = 0; i < 50; i++) {
      const client = await connect(server, `u${i}`);
      await client.ping();
      if (i % 2) await client.close();
    }
    assert.equal((await presence(server, 'u0')).source, 'live');
    assert.equal((await stats(server)).users.online, 25);
    await until('an error', async () => error.test((await hook(server)).last_error), { within: 10000 * slow });
    await until('all to be stored', async () => (await hook(server)).pending === 75);
    await server.stop();
  }
});

test('an answer is what its status says, whatever else is in it', async (t) => {
  const before = 'HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n';
  const answers = [
    (socket) => socket.end(`${before}HTTP/1.1 202 Accepted\r\n\r\n`),
    (socket) => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'), // and stays open
    (socket) => socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n'), // without end
    (socket) => socket.end(`HTTP/1.0 299 x\n\n${'x'.repeat(1 << 20)}`),
    (socket) => [...'HTTP/1.1 204 No Content\r\n\r\n'].forEach((c, i) => setTimeout(() => socket.write(c), i)),
    (socket) => socket.resetAndDestroy(),
    (socket) => socket.end('220 mail ESMTP\r\n'),
    (socket) => socket.end(),
  ];
  const errors = ['answer', 'no HTTP/1.1', 'without an answer'];
  const bodies = [];
  let tries = 0;
  const args = await rawReceiver(t, (socket) => {
    let text = '';
    let answered = false;
    socket.on('data', (chunk) => {
      text += chunk;
      if (answered || !text.endsWith(']}')) return;
      answered = true;
      bodies.push(JSON.parse(text.slice(text.indexOf('\r\n\r\n') + 4)).events.map((one) => one.user.user_id).join());
      (answers[tries++] || answers[0])(socket);
    });
  });
  const server = await start(t, { args, allow: [FAILS, WORKS], env: hurried(t, 4) });
  for (let i = 0; i < 5; i++) {
    await join(server, [`u${i}`]);
    await until(`u${i}`, async () => (await hook(server)).delivered === i + 1, { within: 10000 * slow });
  }
  await join(server, ['last']);
  for (let failures = 1; failures <= 3; failures++) {
    await until('a failure', async () => (await hook(server)).failures === failures, { within: 10000 * slow });
    const { last_error: error } = await hook(server);
    if (failures === 1) assert.match(error, /broke|answer/);
    else assert.ok(error.includes(errors[failures - 1]), error);
  }
  await until('the last', async () => (await hook(server)).delivered === 6, { within: 10000 * slow });
  assert.deepEqual(bodies, ['u0', 'u1', 'u2', 'u3', 'u4', 'last', 'last', 'last', 'last']);
});

test('a receiver that refuses before it has read all is heard', async (t) => {
  const args = await rawReceiver(t, (socket) => {
    socket.end('HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n');
  });
  const server = await start(t, { args: [...args, '--webhook-batch', '1000'], allow: [FAILS] });
  await join(server, ids('someone-with-a-long-name-', 0, 200));
  await until('413', async () => /^(answered 413|the connection broke.*)$/.test((await hook(server)).last_error), { within: 10000 * slow });
});

test('beyond --webhook-outbox the oldest are given up, and the rest comes in order', async (t) => {
  const receiver = await startReceiver(t);
  await receiver.close();
  const server = await start(t, { args: [...receiver.args, '--webhook-outbox', '20', '--webhook-batch', '2'], allow: [FAILS] });
  const names = ids('u', 0, 100);
  await join(server, names);
  await until('all to be counted', async () => {
    const { dead, pending } = await hook(server);
    return dead + pending === 100;
  });
  const { dead, pending } = await hook(server);
  assert.ok(pending >= 19 && pending <= 22, `${pending}`); // a parcel is given up whole, or being delivered
  assert.equal((await stats(server)).counters.webhook_dead, dead);
  await server.stop();
  const again = await startReceiver(t, { port: receiver.port });
  const next = await start(t, { data: server.data, args: again.args });
  assert.deepEqual(await again.told(pending), joins(names.slice(-pending)));
  await until('nothing to wait', async () => (await hook(next)).pending === 0);
  assert.equal((await hook(next)).dead, 0, 'counted since the start');
});

test('what was not delivered for --webhook-give-up is given up, what is younger is delivered', async (t) => {
  const receiver = await startReceiver(t);
  receiver.answer = () => 503;
  const server = await start(t, { args: [...receiver.args, '--webhook-give-up', '2s', '--webhook-batch', '1'], allow: [FAILS, WORKS] });
  await join(server, ids('old', 0, 5));
  await until('them to be given up', async () => (await hook(server)).dead === 5, { within: 20000 * slow });
  assert.equal((await hook(server)).pending, 0);
  const tried = receiver.requests.length;
  assert.ok(tried < 5, `${tried} tries: those behind the first are not tried any more`);
  receiver.answer = () => 200;
  await join(server, ['new']);
  await receiver.until('the new one', () => receiver.changes.some((one) => one.user.user_id === 'new'), { within: 20000 * slow });
  await until('it to be noted', async () => (await hook(server)).delivered === 1);
  assert.equal((await hook(server)).dead, 5);
});

test('SIGHUP reads the secret again; a bad one changes nothing', async (t) => {
  const receiver = await startReceiver(t);
  const server = await start(t, { args: receiver.args, allow: [/level=error msg="--webhook-secret-file: .*; the old secret stays in use"/] });
  await join(server, ['a']);
  await receiver.told(1);
  fs.writeFileSync(receiver.secretFile, 'short');
  server.signal('SIGHUP');
  await until('a word of it', () => /the old secret stays in use/.test(server.stderr));
  await join(server, ['b']);
  await receiver.told(2);
  const next = 'another secret, for the next day';
  fs.writeFileSync(`${receiver.secretFile}.new`, next);
  fs.renameSync(`${receiver.secretFile}.new`, receiver.secretFile);
  server.signal('SIGHUP');
  const old = receiver.secret;
  receiver.answer = () => 200;
  const take = receiver.take.bind(receiver);
  let changed = false;
  receiver.take = (request, body) => { // until the signal has arrived the old one is right
    try {
      return take(request, body);
    } catch (error) {
      receiver.secret = changed ? old : next;
      changed = true;
      return take(request, body);
    }
  };
  for (let i = 0; !changed; i++) {
    assert.ok(i < 200);
    await join(server, [`c${i}`]);
    await receiver.told(3 + i);
  }
  await join(server, ['d']);
  await receiver.until('d', () => receiver.changes.at(-1).user.user_id === 'd');
  assert.equal(receiver.secret, next);
});

test('a stop does not wait for a delivery under way, which the next start repeats', async (t) => {
  const receiver = await startReceiver(t);
  receiver.answer = () => null;
  const server = await start(t, { args: [...receiver.args, '--webhook-timeout', '5m'] });
  await join(server, ['a', 'b']);
  await receiver.until('a request', () => receiver.requests.length === 1);
  await server.stop(); // within its deadline, exit 0, nothing on stderr
  receiver.answer = () => 200;
  await start(t, { data: server.data, args: receiver.args });
  assert.deepEqual(await receiver.told(2), joins(['a', 'b']));
});

test('a stop does not wait for a resolver that hangs', { skip: cannotMount }, async (t) => {
  const receiver = await startReceiver(t);
  const dir = tempDir(t);
  const resolver = dgram.createSocket('udp4');
  const asked = new Promise((resolve) => resolver.once('message', resolve)); // and never answered
  await new Promise((resolve) => resolver.bind(53, '127.53.53.53', resolve));
  cleanup(t, () => resolver.close());
  fs.writeFileSync(path.join(dir, 'resolv.conf'), 'nameserver 127.53.53.53\n');
  const wrap = ['unshare', '-m', 'sh', '-c', 'mount --bind "$1" /etc/resolv.conf && shift && exec "$@"', 'sh', path.join(dir, 'resolv.conf')];
  const args = ['--webhook-url', 'http://receiver.example.test/', '--webhook-secret-file', receiver.secretFile];
  const server = await start(t, { wrap, args });
  await join(server, ['a', 'b']);
  await asked;
  await server.stop();
  const next = await start(t, { data: server.data, args: receiver.args });
  assert.deepEqual(await receiver.told(2), joins(['a', 'b']));
  await next.stop();
});

test('a stop waits a moment for an answer that is on its way', async (t) => {
  const receiver = await startReceiver(t);
  const server = await start(t, { args: receiver.args });
  let stopped;
  receiver.answer = () => {
    stopped = server.stop();
    return 200;
  };
  await join(server, ['a']);
  await receiver.told(1);
  await stopped;
  receiver.answer = () => 200;
  const next = await start(t, { data: server.data, args: receiver.args });
  await join(next, ['b']);
  assert.deepEqual(await receiver.told(2), joins(['a', 'b']));
  await until('it to be noted', async () => (await hook(next)).pending === 0);
  assert.equal(receiver.requests.length, 2, 'a was not told twice');
});

sideBySide(() => {
  test('https: delivered to whom the certificate names, by name or address', async (t) => {
    const authority = new Authority(tempDir(t));
    const cert = authority.issue('localhost');
    const rsa = authority.issue('localhost', { kind: 'rsa', hosts: ['localhost'] });
    const below = authority.below('deeper').issue('localhost', { hosts: ['127.0.0.1'] });
    for (const [name, host, { pem, keyPem }, versions] of [
      ['localhost', '127.0.0.1', cert, {}],
      ['127.0.0.1', '127.0.0.1', cert, {}],
      ['[::1]', '::1', cert, {}],
      ['LocalHost', '127.0.0.1', rsa, { maxVersion: 'TLSv1.2' }],
      ['localhost', '127.0.0.1', rsa, { minVersion: 'TLSv1.3' }],
      ['127.0.0.1', '127.0.0.1', below, {}],
    ]) {
      const receiver = await startReceiver(t, { name, host, tls: { cert: pem, key: keyPem, ...versions } });
      const server = await start(t, { args: [...receiver.args, '--webhook-ca-file', authority.file] });
      await join(server, ids('u', 0, 30));
      assert.deepEqual(await receiver.told(30), joins(ids('u', 0, 30)));
      assert.equal((await hook(server)).url, receiver.origin.toLowerCase());
      await server.stop();
    }
  });

  test('https: not delivered to anybody else', async (t) => {
    const dir = tempDir(t);
    const authority = new Authority(dir);
    const other = new Authority(dir, 'other');
    const wrong = /^its certificate is not accepted: .*(does not match|Common Name)/;
    const cases = [
      ['localhost', other.issue('localhost'), /^its certificate is not accepted: .*not correctly signed/],
      ['localhost', authority.issue('a', { hosts: ['a.example'] }), wrong],
      ['localhost', authority.issue('localhost', { hosts: ['127.0.0.1'] }), wrong],
      ['127.0.0.1', authority.issue('127.0.0.1', { hosts: ['localhost', '127.0.0.2', '::1'] }), wrong],
      ['127.0.0.1', authority.issue('127.0.0.1', { extensions: ['extendedKeyUsage=serverAuth'] }), wrong],
      ['localhost', authority.issue('localhost', { from: Date.now() - 9 * DAY, to: Date.now() - DAY }), /not accepted: .*expired/],
      ['localhost', authority.issue('localhost', { from: Date.now() + DAY }), /not accepted: .*future/],
      ['localhost', authority.issue('localhost', { extensions: ['subjectAltName=DNS:localhost', 'extendedKeyUsage=clientAuth'] }),
        /not accepted: .*usage/i],
    ];
    for (const [name, { pem, keyPem }, error] of cases) {
      const receiver = await startReceiver(t, { name, tls: { cert: pem, key: keyPem } });
      const server = await start(t, { args: [...receiver.args, '--webhook-ca-file', authority.file], allow: [FAILS] });
      await join(server, ['a']);
      await until(`${error}`, async () => error.test((await hook(server)).last_error), { within: 10000 * slow }).catch(async (problem) => {
        throw new Error(`${(await hook(server)).last_error}`, { cause: problem });
      });
      assert.equal(receiver.requests.length, 0);
      await server.stop();
      assert.equal(receiver.requests.length, 0);
    }
  });

  test('https: a plain server, an old one and a silent one are errors, not crashes', async (t) => {
    const authority = new Authority(tempDir(t));
    const { pem, keyPem } = authority.issue('localhost');
    const plain = await startReceiver(t);
    const old = await startReceiver(t, { tls: { cert: pem, key: keyPem, maxVersion: 'TLSv1.1', minVersion: 'TLSv1' } });
    const silent = (await rawReceiver(t, () => {}))[1];
    const ends = (await rawReceiver(t, (socket) => socket.end()))[1];
    for (const url of [plain.url, old.url, silent, ends]) {
      const args = ['--webhook-url', url.replace('http:', 'https:'), '--webhook-secret-file', plain.secretFile, '--webhook-timeout', '500ms',
        '--webhook-ca-file', authority.file];
      const server = await start(t, { args, allow: [FAILS] });
      await join(server, ['a']);
      await until('an error', async () => (await hook(server)).last_error, { within: 10000 * slow });
      await server.stop();
    }
    assert.equal(plain.requests.length + old.requests.length, 0);
  });

  test('starts that cannot be: exit 2 and one line', async (t) => {
    const dir = tempDir(t);
    const file = (name, text) => {
      fs.writeFileSync(path.join(dir, name), text);
      return path.join(dir, name);
    };
    const good = file('good', '0123456789abcdef\n');
    const base = ['--data', path.join(dir, 'data'), '--listen', '127.0.0.1:0'];
    const missing = path.join(dir, 'missing');
    const url = 'http://127.0.0.1:9/';
    const secure = 'https://127.0.0.1:9/';
    for (const [args, names] of [
      [['--webhook-url', url], ['--webhook-url', '--webhook-secret-file']],
      [['--webhook-url', 'ftp://a/', '--webhook-secret-file', good], ['--webhook-url', 'https://']],
      [['--webhook-url', 'http://user:hush@a/', '--webhook-secret-file', good], ['--webhook-url']],
      [['--webhook-url', url, '--webhook-secret-file', missing], ['--webhook-secret-file', missing]],
      [['--webhook-url', url, '--webhook-secret-file', file('short', '0123456789abcde\n')], ['--webhook-secret-file', '15 bytes', '16']],
      [['--webhook-url', url, '--webhook-secret-file', file('long', 'x'.repeat(4097))], ['--webhook-secret-file', '4097 bytes', '4096']],
      [['--webhook-url', secure, '--webhook-secret-file', good, '--webhook-ca-file', missing], ['--webhook-ca-file', missing]],
      [['--webhook-url', secure, '--webhook-secret-file', good, '--webhook-ca-file', good], ['--webhook-ca-file', good]],
      [['--webhook-url', secure, '--webhook-secret-file', good, '--webhook-ca-file', dir], ['--webhook-ca-file', dir]],
      [['--webhook-batch', '1001'], ['--webhook-batch', '1000']],
      [['--webhook-outbox', '9'], ['--webhook-outbox', '10']],
    ]) {
      const line = await refusedConfig([...base, ...args], names);
      assert.ok(!line.includes('hush'), line);
    }
    await acceptedConfig([...base, '--webhook-url', url, '--webhook-secret-file', good, '--webhook-ca-file', missing]);
    assert.equal(fs.existsSync(path.join(dir, 'data')), false);
    const shown = await run([...base, '--webhook-url', secure, '--webhook-secret-file', good, '--print-config']);
    assert.match(shown.stdout, /^webhook-url https:\/\/127\.0\.0\.1:9\/$/m);
  });
});
