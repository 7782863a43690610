'use strict';
// Variants: asan tsan
// Many TLS connections at once, each stopped in the middle of something while the others go on:
// what is half there of one must never meet what is there of another.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const { test, startSecure, startMangler, chopped, cut, tcp, upgrade, frame, OP, get, post, heartbeats, connect, heavy, slow, shake, until,
  stats } = require('./lib');

const VERSIONS = ['TLSv1.2', 'TLSv1.3'];
const PATIENT = { args: ['--request-timeout', '40s'] };
const only = (version) => ({ minVersion: version, maxVersion: version });

/** A gate: `pass` opens it for everybody who waits. */
function gate() {
  let pass;
  const open = new Promise((resolve) => { pass = resolve; });
  return { open, pass, waiting: 0 };
}

/** A shape that lets `before` bytes of a connection through, then holds the rest at the gate. */
const heldAfter = (before, at) => () => {
  let left = before();
  return (chunk) => {
    if (left < 0) return [chunk];
    if (chunk.length <= left) {
      left -= chunk.length;
      return [chunk];
    }
    const pieces = [chunk.subarray(0, left)];
    const rest = chunk.subarray(left);
    left = -1;
    at.waiting++;
    return [...pieces, at.open.then(() => rest)];
  };
};

test('half a ClientHello of many, while others shake hands', async (t) => {
  const server = await startSecure(t, PATIENT);
  const at = gate();
  const held = await startMangler(t, server.secure, heldAfter(() => 1 + Math.floor(Math.random() * 200), at));
  const halves = Array.from({ length: 40 }, (_, i) => shake(held, only(VERSIONS[i % 2])));
  await until('all to be half there', () => at.waiting === 40);
  for (let i = 0; i < 8; i++) (await shake(server.secure, only(VERSIONS[i % 2]))).destroy();
  at.pass();
  for (const socket of await Promise.all(halves)) {
    assert.equal(socket.authorized, true);
    socket.destroy();
  }
});

test('a handshake of many stopped at any byte, while others shake hands and talk', async (t) => {
  const server = await startSecure(t, PATIENT);
  const other = await connect(server.secure, 'other');
  const at = gate();
  const held = await startMangler(t, server.secure, heldAfter(() => 150 + Math.floor(Math.random() * 250), at));
  const login = (i) => connect(held, `u${i}`, only(VERSIONS[i % 2]));
  const halves = Array.from({ length: 40 }, (_, i) => login(i));
  await until('all to be stopped', () => at.waiting === 40);
  for (let i = 0; i < 8; i++) {
    await other.ping();
    await (await connect(server.secure, `v${i}`, only(VERSIONS[i % 2]))).close();
  }
  at.pass();
  const clients = await Promise.all(halves);
  await Promise.all(clients.map((client) => client.ping()));
  assert.equal((await stats(server)).users.live >= 41, true);
});

test('half a record of many WebSockets, while others talk', async (t) => {
  const server = await startSecure(t, { args: ['--max-message', '32k', '--max-messages-per-second', '0'] });
  const message = (size) => frame(OP.text, JSON.stringify({ type: 'ping', pad: crypto.randomBytes(size).toString('base64url') }));
  for (const version of VERSIONS) {
    const at = gate();
    let rest = [];
    const held = await startMangler(t, server.secure, () => {
      let holding = false;
      const hold = (chunk) => {
        if (!holding) return [chunk];
        holding = false;
        const cutAt = 1 + Math.floor(Math.random() * (chunk.length - 2));
        at.waiting++;
        return [chunk.subarray(0, cutAt), at.open.then(() => chunk.subarray(cutAt))];
      };
      rest.push(() => { holding = true; });
      return hold;
    });
    const raws = [];
    for (let i = 0; i < 30; i++) {
      const raw = await tcp(held, only(version));
      raw.write(upgrade(`${version}-${i}`));
      assert.equal((await raw.head()).status, 101);
      assert.equal((await raw.message()).type, 'hello');
      raws.push(raw);
    }
    for (const begin of rest) begin(); // the next record of each is cut
    rest = [];
    for (const [i, raw] of raws.entries()) raw.write(message(20 + i * 500));
    await until('all to be half there', () => at.waiting === 30);
    const other = await connect(server.secure, 'other', only(version));
    for (let i = 0; i < 10; i++) {
      await other.ping();
      assert.equal((await get(server.secure, '/healthz')).status, 200);
    }
    at.pass();
    for (const raw of raws) {
      assert.equal((await raw.message()).type, 'pong');
      await raw.ping();
      raw.destroy();
    }
    await other.close();
  }
});

test('bodies and messages of many clients, cut by chance, side by side', async (t) => {
  const server = await startSecure(t, { args: ['--max-message', '32k', '--max-messages-per-second', '0'] });
  const mangled = await startMangler(t, server.secure, chopped(900));
  const rounds = heavy(4, 2);
  const byHttp = async (n) => {
    for (let round = 0; round < rounds; round++) {
      const users = Array.from({ length: 120 }, (_, i) => `${n}-${round}-${i}-${crypto.randomBytes(30).toString('base64url')}`);
      const answer = await post(mangled, '/api/presence', { users }, only(VERSIONS[n % 2]));
      assert.equal(answer.status, 200);
      assert.deepEqual(answer.json.users.map((user) => user.user_id), users);
    }
  };
  const bySocket = async (n) => {
    const raw = await tcp(mangled, only(VERSIONS[n % 2]));
    raw.write(upgrade(`u${n}`));
    assert.equal((await raw.head()).status, 101);
    for (let round = 0; round < rounds; round++) {
      const bytes = frame(OP.text, JSON.stringify({ type: 'ping', pad: crypto.randomBytes(9000).toString('base64url') }));
      for (const piece of cut(bytes, [700, 1, 5000])) raw.write(piece);
      let answer;
      do answer = await raw.message(20000 * slow); while (answer.type === 'hello');
      assert.equal(answer.type, 'pong');
    }
    raw.destroy();
  };
  await Promise.all([...Array.from({ length: 12 }, (_, n) => byHttp(n)), ...Array.from({ length: 12 }, (_, n) => bySocket(n))]);
});

test('answers to many slow readers, each stopped in the middle of a record', async (t) => {
  const server = await startSecure(t, { args: ['--request-timeout', '30s'] });
  const ids = Array.from({ length: 1000 }, (_, i) => `${i}-${crypto.randomBytes(60).toString('base64url')}`);
  assert.equal(await heartbeats(server, ids), 1000);
  const path = '/api/presence';
  const count = heavy(25, 8);
  const bodies = Array.from({ length: 10 }, (_, n) => JSON.stringify({ users: ids.slice(n * 30, n * 30 + 700) }));
  const settle = (text) => text.replace(/"(generated_at|position)":"[^"]*"/g, '');
  const expected = [];
  for (const body of bodies) expected.push(settle((await post(server, path, body)).text));
  const raws = [];
  for (const [n, body] of bodies.entries()) {
    const raw = await tcp(server.secure, only(VERSIONS[n % 2]));
    raw.socket.pause();
    for (let i = 0; i < count; i++) raw.write(`POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    raws.push(raw);
  }
  for (let i = 0; i < 10; i++) {
    const client = await connect(server.secure, `u${i}`);
    await client.ping();
    await client.close();
  }
  await Promise.all(raws.map(async (raw, n) => {
    raw.socket.resume();
    for (let i = 0; i < count; i++) {
      const answer = await raw.response(30000 * slow);
      assert.equal(answer.status, 200);
      assert.ok(settle(answer.body) === expected[n], `client ${n}, answer ${i} differs`);
    }
    raw.destroy();
  }));
});
