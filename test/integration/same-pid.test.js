'use strict';
// Variants: release asan
// Containers that share a data directory: processes in different pid namespaces, with the same pid.
const assert = require('node:assert/strict');
const { spawn, execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const {
  test, start, run, binary, tempDir, cleanup, killTree, proc, heartbeat, heartbeats, get, settled, until, readers, slow,
} = require('./lib');

const asPid1 = ['unshare', '--pid', '--fork', '--mount-proc', '--kill-child=KILL', '--'];
const mayUnshare = (() => {
  try {
    execFileSync(asPid1[0], [...asPid1.slice(1), 'true'], { stdio: 'ignore' });
    return false;
  } catch {
    return 'no pid namespaces here (needs root)';
  }
})();
const findPid = (pid) => proc.descendants(pid)[0];

test('server and commands of two containers, all of them pid 1, share a store', { skip: mayUnshare }, async (t) => {
  const data = tempDir(t);
  const server = await start(t, { data, wrap: asPid1, findPid });
  await heartbeats(server, Array.from({ length: 2500 }, (_, i) => `user-${i}`));
  await settled(server);
  const inside = (...args) => run([...args, '--data', data], { wrap: asPid1 });

  // A dump that is under way is not taken for the server, nor the other way round.
  const dump = spawn(asPid1[0], [...asPid1.slice(1), binary, '--dump', '--data', data], { stdio: ['ignore', 'pipe', 'pipe'] });
  let [text, said] = ['', ''];
  dump.stderr.on('data', (more) => { said += more; });
  const ended = new Promise((resolve) => dump.once('close', resolve));
  cleanup(t, () => killTree(dump.pid));
  await until('its snapshot', () => readers(data).length, { within: 10000 * slow });
  await until('its age', async () => {
    await heartbeat(server, 'busy');
    return /^presence_store_oldest_reader_seconds [1-9]/m.test((await get(server, '/metrics')).text);
  }, { every: 100, within: 20000 * slow });
  for (let i = 0; i < 5; i++) {
    const file = path.join(tempDir(t), 'data.mdb');
    for (const [what, result] of [
      ['backup', await inside('--backup', file)],
      ['check', await inside('--check-store')],
      ['check of the copy', await run(['--check-store', '--data', path.dirname(file)])],
    ]) assert.deepEqual([result.code, result.stderr], [0, ''], what);
    assert.equal((await get(server, '/admin/users')).status, 200);
  }
  dump.stdout.on('data', (more) => { text += more; });
  assert.equal(await ended, 0, said);
  assert.equal(text.split('\n').filter((line) => line.startsWith('{"user"')).length, 2501);
  assert.doesNotMatch(text, /"busy"/); // one moment, before that user came
  assert.equal((await get(server, '/readyz')).status, 200);
});

test('a second server in another container is refused and told what to do', { skip: mayUnshare }, async (t) => {
  const data = tempDir(t);
  await start(t, { data, wrap: asPid1, findPid });
  const { code, stderr } = await run(['--listen', '127.0.0.1:0', '--data', data], { wrap: asPid1 });
  assert.equal(code, 1, stderr);
  assert.match(stderr, /in use by process 1 of another container; stop it or choose another --data\n$/);
  assert.ok(fs.existsSync(path.join(data, 'data.mdb')));
});
