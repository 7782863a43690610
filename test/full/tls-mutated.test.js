'use strict';
// A1, in the longer run: two minutes of a TLS client that others wrote (tlslite-ng, from PyPI) and
// that says changed things, against the program under the address sanitizer where there is one.
// Hellos, key exchanges, Finished and data, in records of any size; those that were not changed work.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { spawn, spawnSync } = require('node:child_process');
const nodeTest = require('node:test');

if (process.env.PRESENCE_BIN_ASAN) { // before it is known which program is tested
  process.env.PRESENCE_BIN = process.env.PRESENCE_BIN_ASAN;
  process.env.PRESENCE_VARIANT = 'asan';
}
const { startSecure, Authority, tempDir, connect, get, findProgram, cleanup, within } = require('../integration/lib');

const HERE = path.join(__dirname, 'tls_mutator.py');
const MADE = path.join(__dirname, '../../build/test/tlslite'); // kept
const LIBRARY = 'tlslite-ng==0.8.2';
const SECONDS = Number(process.env.MUTATE_SECONDS || 120);

/** The Python that has the library: { file }, or { skip } with the reason. */
function python() {
  const system = findProgram('python3');
  if (!system) return { skip: 'there is no python3 here: install python3 and python3-venv' };
  const file = path.join(MADE, 'bin/python');
  const stamp = path.join(MADE, `${LIBRARY}.installed`);
  if (fs.existsSync(stamp)) return { file };
  fs.rmSync(MADE, { recursive: true, force: true });
  for (const argv of [[system, '-m', 'venv', MADE], [file, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', LIBRARY]]) {
    const { status, stdout, stderr } = spawnSync(argv[0], argv.slice(1), { encoding: 'utf8' });
    if (status !== 0) return { skip: `${LIBRARY} cannot be had (python3-venv and PyPI are needed): ${`${stdout}${stderr}`.trim().slice(-200)}` };
  }
  fs.writeFileSync(stamp, '');
  return { file };
}

const { file, skip } = python();

for (const kind of ['ec', 'rsa']) {
  nodeTest(`A1 a client that says changed things ends its own connections only (${kind})`, { skip, timeout: (SECONDS + 120) * 1000 }, async (t) => {
    const authority = new Authority(tempDir(t));
    const certs = [authority.issue('localhost', { kind })];
    const server = await startSecure(t, { authority, certs, args: ['--request-timeout', '3s'] });
    const other = await connect(server.secure, 'other');
    const seeds = [1, 2].map(() => Math.floor(Math.random() * 2 ** 31));
    t.diagnostic(`seeds ${seeds}`);
    const results = await Promise.all(seeds.map((seed) => {
      const child = spawn(file, [HERE, server.secure.host, server.secure.port, SECONDS / 2, seed], { stdio: ['ignore', 'pipe', 'pipe'] });
      cleanup(t, () => child.kill('SIGKILL'));
      let text = '';
      child.stdout.on('data', (chunk) => { text += chunk; });
      child.stderr.on('data', (chunk) => { text += chunk; });
      return within((SECONDS + 60) * 1000, 'the mutator', new Promise((resolve) => child.once('close', () => resolve(text))));
    }));
    for (const text of results) {
      t.diagnostic(text.trim());
      const { good, changed, wrong, slow } = JSON.parse(text);
      assert.deepEqual(wrong, []);
      assert.ok(good > 0 && changed > 0 && slow === 0, text);
    }
    await other.ping();
    assert.equal((await get(server.secure, '/healthz')).status, 200);
  });
}
