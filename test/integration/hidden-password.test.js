'use strict';
// Variants: release asan
// --hash-password at a terminal: what is typed is hidden, and shown again however it ends.
const assert = require('node:assert/strict');
const { execFileSync, spawn } = require('node:child_process');
const fs = require('node:fs');
const { test, binary, proc, until, within, cleanup, killTree, slow } = require('./lib');

const missing = (() => {
  try {
    execFileSync('script', ['--version'], { stdio: 'ignore' });
    return false;
  } catch {
    return 'needs script (bsdutils)';
  }
})();

for (const how of ['a line', 'SIGINT', 'SIGTERM', 'SIGQUIT']) {
  test(`--hash-password, ended by ${how}, leaves a terminal that shows what is typed`, { skip: missing }, async (t) => {
    const command = `ulimit -c 0; ${binary} --hash-password; stty -a`;
    const child = spawn('script', ['-qec', command, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
    cleanup(t, () => killTree(child.pid));
    let text = '';
    child.stdout.on('data', (more) => { text += more; });
    const ended = new Promise((resolve) => child.once('close', resolve));
    await until('the prompt', () => text.includes('Password: '), { within: 10000 * slow });
    const pid = proc.descendants(child.pid).find((one) => fs.readFileSync(`/proc/${one}/comm`, 'utf8').startsWith('presence'));
    const tty = () => execFileSync('stty', ['-a', '-F', fs.readlinkSync(`/proc/${pid}/fd/0`)]).toString();
    await until('hidden', () => / -echo\b/.test(tty()));
    if (how === 'a line') child.stdin.write('secret\n');
    else process.kill(pid, how);
    await until('what stty says', () => /\bechoctl\b/.test(text), { within: 10000 * slow });
    child.stdin.end();
    await within(10000 * slow, 'its end', ended);
    assert.match(text.slice(text.indexOf('speed')), / echo /);
    assert.ok(!text.includes('secret'));
  });
}
