'use strict';
// Variants: release
// --completion: each shell that is here completes with what it prints.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync, spawnSync } = require('node:child_process');
const { test, run, tempDir } = require('./lib');

const source = fs.readFileSync(path.join(__dirname, '../../presence.c'), 'utf8');
const NAMES = ['OPTION_TABLE', 'COMMAND_TABLE'].flatMap((table) => {
  const [body] = new RegExp(`#define ${table}\\(X\\)(?:.*\\\\\\n)*.*`).exec(source);
  return [...body.matchAll(/X\(\w+, (?:[A-Z]+, )?"([a-z-]+)"/g)].map((match) => `--${match[1]}`);
}).concat('--config').sort();

const missing = (shell) => (spawnSync(shell, ['-c', ':']).error ? `${shell} is not installed: apt-get install ${shell}` : false);

// What is typed, and all that may stand behind it.
const CASES = [
  ['presence --tls-c', ['--tls-cert']],
  ['presence --log-level d', ['debug']],
  ['presence --log-format ', ['json', 'logfmt']],
  ['presence --completion ', ['bash', 'fish', 'zsh']],
  ['presence --listen ', []],
  ['presence --insecure --check-', ['--check-config', '--check-store']],
  ['presence --data DIR/', ['DIR/sub']],
  ['presence --tls-key DIR/k', ['DIR/key.pem']],
  ['presence --', NAMES],
];

/** A directory with a file and a directory in it, and the completion of this shell. */
async function prepared(t, shell) {
  const dir = tempDir(t);
  fs.mkdirSync(path.join(dir, 'sub'));
  fs.writeFileSync(path.join(dir, 'key.pem'), '');
  const { code, stdout, stderr } = await run(['--completion', shell]);
  assert.deepEqual([code, stderr], [0, '']);
  const file = path.join(tempDir(t), shell === 'zsh' ? '_presence' : 'presence');
  fs.writeFileSync(file, stdout);
  return { dir, file };
}

test('bash completes names, words, files and directories, behind a blank and behind =', async (t) => {
  const { dir, file } = await prepared(t, 'bash');
  const script = '. "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _presence; printf "%s\\n" "${COMPREPLY[@]}"';
  const complete = (words) => execFileSync('bash', ['-u', '-c', script, 'bash', file, ...words], { encoding: 'utf8' }).split('\n').filter(Boolean).sort();
  for (const [typed, wanted] of CASES) {
    const words = typed.replace('DIR', dir).split(' ');
    assert.deepEqual(complete(words), wanted.map((one) => one.replace('DIR', dir)), typed);
  }
  assert.deepEqual(complete(['presence', '--log-level', '=', 'w']), ['warn']);
  assert.deepEqual(complete(['presence', '--log-format', '=']), ['json', 'logfmt']);
});

test('fish completes the same', { skip: missing('fish') }, async (t) => {
  const { dir, file } = await prepared(t, 'fish');
  const home = tempDir(t);
  for (const [typed, wanted] of CASES) {
    const line = typed.replace('DIR', dir);
    const out = execFileSync('fish', ['--no-config', '-c', 'source $argv[1]; complete -C $argv[2]', file, line], { encoding: 'utf8', env: { ...process.env, HOME: home } });
    const found = out.split('\n').filter(Boolean).map((one) => one.split('\t')[0].replace(/(.)\/$/, '$1')).sort();
    if (typed.endsWith('--')) assert.deepEqual(NAMES.filter((name) => !found.includes(name)), []);
    else assert.deepEqual(found, wanted.map((one) => one.replace('DIR', dir)), typed);
  }
});

test('zsh completes what is clear, at a terminal', { skip: missing('zsh') }, async (t) => {
  const { dir, file } = await prepared(t, 'zsh');
  const script = path.join(tempDir(t), 'terminal.zsh');
  fs.writeFileSync(script, `zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "PS1= PS2= ; unset zle_bracketed_paste; fpath=(\${(q)1} \\$fpath); autoload -Uz compinit; compinit -u -D; presence() print -r -- GIVEN: \\$*; print REA''DY"
local line
while zpty -r z line; do [[ $line == *READY* ]] && break; done
for typed in "\${@[2,-1]}"; do
  zpty -w -n z "$typed"$'\\t'$'\\n'
  while zpty -r z line; do [[ $line == GIVEN:* ]] && break; done
  print -rn -- "$line"
done
zpty -d z
`);
  const cases = CASES.filter(([, found]) => found.length === 1).concat([['presence --log-level=d', ['--log-level=debug']]]);
  const typed = cases.map(([line]) => line.replace('DIR', dir));
  const out = execFileSync('zsh', ['-f', script, path.dirname(file), ...typed], { encoding: 'utf8', timeout: 30000, env: { ...process.env, TERM: 'dumb' } });
  const given = out.split('\n').filter(Boolean).map((line) => line.trim().split(' ').at(-1).replace(/\/$/, ''));
  assert.deepEqual(given, cases.map(([, [wanted]]) => wanted.replace('DIR', dir)));
});

test('another shell is told which there are', async () => {
  const { code, stdout, stderr } = await run(['--completion', 'tcsh']);
  assert.deepEqual([code, stdout, stderr], [2, '', 'presence: --completion: there is none for tcsh; write bash, zsh or fish\n']);
});
