'use strict';
// Variants: release asan tsan
// Commands that end in the middle, beside a running server: what they read stays in the file only
// as long as they do.
const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const {
  test, start, run, binary, tempDir, cleanup, heartbeat, heartbeats, get, json, connect, putStatus,
  settled, until, within, delay, heavy, slow, window, readers, SLOTS_AT, SLOT_SIZE,
} = require('./lib');

/** Gives every slot of lock.mdb that is free to a reader of this id. */
function fillSlots(data, id) {
  const fd = fs.openSync(path.join(data, 'lock.mdb'), 'r+');
  const bytes = fs.readFileSync(fd);
  const count = Math.floor((bytes.length - SLOTS_AT) / SLOT_SIZE);
  const slot = Buffer.alloc(16);
  slot.writeBigUInt64LE(1n);
  slot.writeInt32LE(id, 8);
  for (let i = 0; i < count; i++)
    if (!bytes.readInt32LE(SLOTS_AT + i * SLOT_SIZE + 8)) fs.writeSync(fd, slot, 0, 16, SLOTS_AT + i * SLOT_SIZE);
  const number = Buffer.alloc(4);
  number.writeUInt32LE(count);
  fs.writeSync(fd, number, 0, 4, 56);
  fs.closeSync(fd);
}

/** A server with more users than a pipe takes of their dump. */
async function startFull(t, options) {
  const data = tempDir(t);
  const server = await start(t, { data, ...options });
  await heartbeats(server, Array.from({ length: 2500 }, (_, i) => `user-${i}`));
  await settled(server);
  return server;
}

/** A --dump that waits for its reader, with its snapshot: { child, ended }. */
async function startDump(t, server) {
  const child = spawn(binary, ['--dump', '--data', server.data], { stdio: ['ignore', 'pipe', 'pipe'] });
  let stderr = '';
  child.stderr.on('data', (text) => { stderr += text; });
  const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
  cleanup(t, () => child.kill('SIGKILL'));
  await until('its snapshot', () => readers(server.data).length > 0, { within: 10000 * slow });
  return { child, ended, stderr: () => stderr };
}

const metric = async (server, name) =>
  Number(new RegExp(`^presence_${name} (\\d+)$`, 'm').exec((await get(server, '/metrics')).text)[1]);

test('a command that is interrupted, or whose reader leaves, ends its snapshot', async (t) => {
  const server = await startFull(t);
  for (const end of ['SIGINT', 'SIGTERM', 'SIGHUP', 'close']) {
    const dump = await startDump(t, server);
    if (end === 'close') dump.child.stdout.destroy();
    else dump.child.kill(end);
    const result = await within(10000 * slow, `the end by ${end}`, dump.ended);
    assert.deepEqual(result, end === 'close' ? { code: 1, signal: null } : { code: null, signal: end });
    assert.deepEqual(readers(server.data), [], end);
    if (end === 'close') assert.match(dump.stderr(), /^presence: cannot dump .*: (Broken pipe|Connection reset by peer)\n$/);
  }
});

test('readers that died have all slots: they are cleared, and nobody is refused', async (t) => {
  const server = await startFull(t);
  await putStatus(server, 'user-1', { status: 'busy' });
  await settled(server);
  for (let round = 0; round < 3; round++) {
    fillSlots(server.data, 4_190_000 - round); // a pid, or an id, that nobody has
    const paths = ['/api/presence/user-1', '/admin/users', '/admin/users/user-1/sessions', '/readyz'];
    for (const at of paths) assert.equal((await get(server, at)).status, 200, at);
    await (await connect(server, 'user-1')).close();
    fillSlots(server.data, 4_180_000 - round);
    const check = await run(['--check-store', '--data', server.data]);
    assert.equal(check.code, 0, check.stderr);
    fillSlots(server.data, 4_170_000 - round);
    const backup = await run(['--backup', path.join(tempDir(t), 'copy'), '--data', server.data]);
    assert.equal(backup.code, 0, backup.stderr);
  }
});

test('/readyz and /metrics say that the store cannot be read, and for how long a command has read it', async (t) => {
  const server = await startFull(t, { allow: [/level=error msg="store: cannot read .*READERS_FULL/] });
  assert.equal(await metric(server, 'store_oldest_reader_seconds'), 0);
  const dump = await startDump(t, server);
  await until('its age', async () => {
    await heartbeat(server, 'busy');
    return (await metric(server, 'store_oldest_reader_seconds')) >= 2;
  }, { within: 20000 * slow, every: 100 });
  assert.ok((await json(server, '/admin/stats')).store.oldest_reader_seconds >= 2);
  assert.equal(await metric(server, 'store_readable'), 1);

  fillSlots(server.data, readers(server.data)[0].id); // as many as there is room for, all alive
  const ready = await get(server, '/readyz');
  assert.equal(ready.status, 503, ready.text);
  assert.match(ready.json.reason, /^cannot read .*data\.mdb: .*READERS_FULL/);
  assert.equal(await metric(server, 'store_readable'), 0);
  assert.equal((await json(server, '/admin/stats')).store.readable, false);
  for (let i = 0; i < 20; i++) assert.equal((await get(server, '/admin/users')).status, 500);
  assert.ok(server.lines.length < 4, `a line for every read:\n${server.stderr}`);

  dump.child.kill('SIGKILL');
  await dump.ended;
  assert.equal((await get(server, '/readyz')).status, 200);
  assert.equal(await metric(server, 'store_oldest_reader_seconds'), 0);
});

test('a restore killed at any moment has restored all or nothing, and the next one works', async (t) => {
  const server = await startFull(t);
  const dump = path.join(tempDir(t), 'dump');
  const text = (await run(['--dump', '--data', server.data])).stdout;
  fs.writeFileSync(dump, text);
  let whole = 0;
  for (let i = 0; i < heavy(12, 6); i++) {
    const data = path.join(tempDir(t), 'new');
    const child = spawn(binary, ['--restore', dump, '--data', data], { stdio: 'ignore' });
    const ended = new Promise((resolve) => child.once('exit', resolve));
    await delay(Math.random() * 60 * window);
    child.kill(['SIGKILL', 'SIGTERM', 'SIGINT'][i % 3]);
    await within(10000 * slow, 'its end', ended);
    if (fs.existsSync(path.join(data, 'data.mdb'))) whole++;
    else assert.equal((await run(['--restore', dump, '--data', data])).code, 0);
    assert.equal((await run(['--dump', '--data', data])).stdout, text);
    assert.ok(!fs.existsSync(path.join(data, 'data.mdb.new')));
  }
  t.diagnostic(`${whole} were there before`);
});

test('commands killed at any moment leave a whole store, no snapshot and no half file', async (t) => {
  const server = await startFull(t);
  const copies = tempDir(t);
  const random = (n) => Math.floor(Math.random() * n);
  for (let i = 0; i < heavy(60, 12); i++) {
    const args = [['--dump'], ['--check-store'], ['--backup', path.join(copies, `${i}`)]][random(3)];
    const signal = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGPIPE', 'SIGKILL'][random(5)];
    const child = spawn(binary, [...args, '--data', server.data], { stdio: ['ignore', 'pipe', 'ignore'] });
    const ended = new Promise((resolve) => child.once('exit', (...how) => resolve(how)));
    const wrote = heartbeat(server, `user-${random(600)}`);
    await delay(random(12) * window);
    child.kill(signal);
    child.stdout.destroy();
    await within(10000 * slow, `the end of ${args} by ${signal}`, ended);
    await wrote;
    if (signal === 'SIGKILL') continue;
    const half = fs.readdirSync(copies).filter((name) => name === `${i}.tmp`);
    assert.deepEqual(half, [], `${args} ${signal}`);
  }
  fillSlots(server.data, 4_190_000);
  assert.equal((await get(server, '/admin/users')).status, 200); // clears all that died
  assert.deepEqual(readers(server.data), []);
  for (const name of fs.readdirSync(copies).filter((one) => !one.endsWith('.tmp'))) {
    fs.mkdirSync(path.join(copies, `of-${name}`));
    fs.renameSync(path.join(copies, name), path.join(copies, `of-${name}`, 'data.mdb'));
    const check = await run(['--check-store', '--data', path.join(copies, `of-${name}`)]);
    assert.equal(check.code, 0, check.stderr);
  }
  const check = await run(['--check-store', '--data', server.data]);
  assert.equal(check.code, 0, check.stderr);
});
