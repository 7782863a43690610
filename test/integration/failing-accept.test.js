'use strict';
// Variants: release asan
// accept(2) fails for a reason that nobody thought of (a security module, a filter, a sick kernel).
const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { test, start, tempDir, connect, get, tcp, until, delay, proc, slow } = require('./lib');

let wrapper = null;
/** The program that makes accept4 fail. */
function failCall(t) {
  if (!wrapper) {
    wrapper = path.join(tempDir(t), 'fail_call');
    execFileSync('gcc', ['-O1', '-o', wrapper, path.join(__dirname, 'lib/fail_call.c')]);
  }
  return wrapper;
}

/** The descriptor of the socket that listens on a port. */
function listener(pid, port) {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const row = fs.readFileSync('/proc/net/tcp', 'utf8').split('\n').map((line) => line.trim().split(/\s+/))
    .find((columns) => columns[1]?.endsWith(`:${hex}`) && columns[3] === '0A');
  return Number(fs.readdirSync(`/proc/${pid}/fd`)
    .find((fd) => fs.readlinkSync(`/proc/${pid}/fd/${fd}`) === `socket:[${row[9]}]`));
}

const { EIO, EPERM, EACCES } = os.constants.errno;
const listen = ['127.0.0.1:0', '127.0.0.1:0'];

test('accept that fails with any errno is counted and waited for: no spinning, others served', async (t) => {
  const wrap = failCall(t);
  const plain = await start(t, { listen });
  const fd = listener(plain.pid, plain.addresses[0].port);
  await plain.stop();
  for (const error of [EIO, EPERM, EACCES]) {
    const server = await start(t, {
      listen, wrap: [wrap, String(error), String(fd)], allow: [/level=warn msg="cannot accept connections: /],
    });
    assert.equal(listener(server.pid, server.addresses[0].port), fd);
    const dead = [];
    for (let i = 0; i < 5; i++) dead.push(await tcp(server)); // the kernel takes them, nobody else
    Object.assign(server, server.addresses[1]);
    const metric = async () => Number(/^presence_accept_errors_total (\d+)$/m.exec((await get(server, '/metrics')).text)[1]);
    await until('counted', async () => (await metric()) > 0);
    const [cpu, since, before] = [proc.cpu(server.pid), Date.now(), await metric()];
    const client = await connect(server, 'u');
    for (let i = 0; i < 4; i++) {
      await client.ping();
      await delay(250);
    }
    const [ms, counted] = [Date.now() - since, (await metric()) - before];
    const share = (proc.cpu(server.pid) - cpu) / ms;
    assert.ok(share < 0.2 * slow, `${share} of a core, errno ${error}`);
    assert.ok(counted > 0 && counted < ms, `${counted} in ${ms} ms, errno ${error}`); // it rests for 200 ms
    assert.equal(server.lines.filter((line) => line.includes('cannot accept')).length, 1);
    assert.match(server.stderr, /cannot accept connections: .*; it is tried again and again/);
    for (const raw of dead) raw.destroy();
    await server.stop();
  }
});
