'use strict';
// Files of tests that another test runs: longer, or with another program.

const path = require('node:path');
const { spawn } = require('node:child_process');

/** Runs a file of tests by itself, with further arguments of node: { code, output }. */
function runFile(t, file, env, args = []) {
  return new Promise((resolve, reject) => {
    const all = { ...process.env, ...env };
    delete all.NODE_TEST_CONTEXT; // its tests are its own
    const child = spawn(process.execPath, ['--test-reporter=tap', ...args, path.join(__dirname, '../..', file)], { env: all, stdio: ['ignore', 'pipe', 'pipe'] });
    t.after(() => child.kill('SIGTERM'));
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => { output += text; });
    child.once('error', reject).once('close', (code) => resolve({ code, output }));
  });
}

module.exports = { runFile };
