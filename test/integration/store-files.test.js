'use strict';
// Variants: release asan
// What an operator, or a script of theirs, may do to the files of the store while it is in use.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const {
  test, sideBySide, start, run, tempDir, connect, heartbeat, heartbeats, get, settled, until, within, release, slow,
} = require('./lib');

const metric = async (server, name) =>
  Number(new RegExp(`^presence_${name} (\\d+)$`, 'm').exec((await get(server, '/metrics')).text)[1]);

sideBySide(() => {
  for (const name of ['data.mdb', 'lock.mdb', 'presence.lock']) {
    test(`${name} is moved away under the server: /readyz and the log say so, and that it is back`, async (t) => {
      const server = await start(t, { allow: [/level=(error|warn) msg="store: /] });
      const file = path.join(server.data, name);
      await heartbeat(server, 'u');
      await settled(server);
      fs.renameSync(file, `${file}.away`);
      const ready = await get(server, '/readyz');
      assert.deepEqual([ready.status, ready.json.reason], [503, `${file} was removed or replaced`]);
      assert.equal(await metric(server, 'store_writable'), 0);
      await heartbeat(server, 'v'); // a write: it looks with every one
      await until('the line', () => server.stderr.includes(`${file} was removed or replaced; ${name === 'data.mdb' ? 'what is written is lost' : 'others do not see'}`));
      fs.renameSync(`${file}.away`, file);
      assert.equal((await get(server, '/readyz')).status, 200);
      await heartbeat(server, 'w');
      await until('the other line', () => /are back in their place/.test(server.stderr));
      assert.equal(server.lines.filter((line) => line.includes('level=error')).length, 1);
      await server.stop();
      const check = await run(['--check-store', '--data', server.data]);
      assert.match(check.stdout, /^store ok: 4 users/, check.stderr);
    });
  }

  test('data.mdb is replaced under the server: it says so, and does not claim at its end that all is written', async (t) => {
    const server = await start(t, {
      exitCode: 1, allow: [/level=error msg="store: .*removed or replaced/, /^presence: the last changes could not be written/],
    });
    await heartbeat(server, 'u');
    await settled(server);
    const file = path.join(server.data, 'data.mdb');
    assert.equal((await run(['--backup', `${file}.copy`, '--data', server.data])).code, 0);
    fs.renameSync(`${file}.copy`, file);
    assert.equal((await get(server, '/readyz')).status, 503);
    await connect(server, 'v');
    await until('the line', () => server.stderr.includes('removed or replaced'));
    await server.stop();
    assert.match(server.stderr, /presence: the last changes could not be written/);
  });

  for (const name of ['lock.mdb', 'presence.lock']) {
    test(`${name} is removed under the server: all is written all the same, and it ends with 0`, async (t) => {
      const server = await start(t, { allow: [/level=error msg="store: .*removed or replaced; others/] });
      fs.unlinkSync(path.join(server.data, name));
      for (let i = 0; i < 20; i++) await heartbeat(server, `u${i}`);
      await until('the line', () => server.stderr.includes('removed or replaced'));
      await server.stop();
      const check = await run(['--check-store', '--data', server.data]);
      assert.match(check.stdout, /^store ok: 20 users/, check.stderr);
    });
  }

  test('a backup is copied over data.mdb under the server: it ends with the line that says so', async (t) => {
    for (const later of [0, 1, 3, 30]) {
      const server = await start(t, {
        args: ['--sync-interval', '20ms'], allow: [/^presence: .*data.mdb or lock.mdb was cut short or overwritten/],
      });
      const copy = path.join(tempDir(t), 'backup');
      await heartbeats(server, Array.from({ length: 50 }, (_, i) => `a${i}`));
      await settled(server);
      assert.equal((await run(['--backup', copy, '--data', server.data])).code, 0);
      for (let i = 0; i <= later; i++) {
        await heartbeat(server, `b${i}`);
        await settled(server);
      }
      const fd = fs.openSync(path.join(server.data, 'data.mdb'), 'r+');
      fs.writeSync(fd, fs.readFileSync(copy));
      fs.closeSync(fd);
      server.stopped = true;
      await Promise.race([server.ended, heartbeat(server, 'c').catch(() => {})]);
      await within(20000 * slow, 'its end', server.ended);
      assert.deepEqual(server.result, { code: 1, signal: null }, server.stderr);
      assert.match(server.lines.at(-1), /overwritten while it was in use; restore a backup/);
    }
  });

  const spoil = {
    'data.mdb is cut to nothing': (data) => fs.truncateSync(path.join(data, 'data.mdb'), 0),
    'data.mdb is cut short': (data) => fs.truncateSync(path.join(data, 'data.mdb'), 16384),
    'data.mdb is emptied by a copy': (data) => fs.writeFileSync(path.join(data, 'data.mdb'), ''),
    'lock.mdb is cut to nothing': (data) => fs.truncateSync(path.join(data, 'lock.mdb'), 0),
    'data.mdb is overwritten': (data) => {
      const file = path.join(data, 'data.mdb');
      const fd = fs.openSync(file, 'r+');
      fs.writeSync(fd, Buffer.alloc(fs.fstatSync(fd).size, 0xa5));
      fs.closeSync(fd);
    },
    'lock.mdb is overwritten': (data) => {
      const fd = fs.openSync(path.join(data, 'lock.mdb'), 'r+');
      fs.writeSync(fd, Buffer.alloc(8192, 0xa5));
      fs.closeSync(fd);
    },
  };
  for (const [what, spoilt] of Object.entries(spoil)) {
    test(`${what} under the server: if it dies, a line names the store`, { skip: !release && 'the sanitizers have their own report' }, async (t) => {
      const server = await start(t);
      await heartbeats(server, Array.from({ length: 1000 }, (_, i) => `user-${i}`));
      await settled(server);
      spoilt(server.data);
      const busy = async () => {
        for (let i = 0; i < 40 && !server.result; i++)
          await Promise.race([server.ended, Promise.all([heartbeat(server, `new-${i}`), get(server, '/admin/users?limit=100'), get(server, '/readyz')])]);
      };
      await within(20000 * slow, 'an end or an answer', Promise.race([server.ended, busy().catch(() => server.ended)]));
      const lines = server.lines.filter((line) => !/listening on/.test(line));
      server.stopped = true;
      if (!server.result) { // it got by: with an error that says why, or with pages it had
        server.signal('SIGKILL');
        await server.ended;
        assert.ok(lines.every((line) => line.includes(server.data)), lines.join('\n'));
        return;
      }
      assert.ok(['SIGBUS', 'SIGSEGV'].includes(server.result.signal) || server.result.code === 1, JSON.stringify(server.result));
      assert.ok(lines.at(-1).includes(`${server.data}/data.mdb`), `${JSON.stringify(server.result)} ${lines.join('\n')}`);
      assert.match(lines.at(-1), /restore a backup/);
    });
  }
});
