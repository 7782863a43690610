'use strict';
// The samples of README.md that applications copy, as programs: taken out of it as they stand there.

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { findProgram } = require('./tools');

const README = fs.readFileSync(path.join(__dirname, '../../../README.md'), 'utf8');

/** The code under a line that begins so, the first behind `after`: indented, up to what is not. */
function snippet(title, after) {
  const lines = README.slice(README.indexOf(after)).split('\n');
  assert.ok(README.includes(after), `no "${after}" in the README`);
  const from = lines.findIndex((line) => line.startsWith(title)) + 1;
  assert.ok(from > 0, `no "${title}" behind "${after}"`);
  const begin = lines.findIndex((line, i) => i >= from && line.startsWith('    '));
  const end = lines.findIndex((line, i) => i >= begin && line && !line.startsWith('    '));
  return lines.slice(begin, end).map((line) => line.slice(4)).join('\n').trim();
}

/** The sample of a language that mints a token, and that which asks for users. */
const minting = (language) => snippet(`**${language}**`, '**2. Your backend mints a token**');
const asking = (language) => snippet(`**${language}**`, '**From a backend**');

/**
 * How a language runs: its program, Debian's package, the file, and the sample in it. That prints a
 * token for each argument, with that user and bob for friends, and one of `lonely` with what the
 * language has for none.
 */
const LANGUAGES = {
  Node: {
    tool: 'node',
    install: 'apt-get install nodejs',
    file: 'mint.mjs',
    program: (code) => `${code}
for (const user of process.argv.slice(2)) console.log(presenceToken(user, [user, 'bob']));
console.log(presenceToken('lonely', undefined));`,
  },
  Python: {
    tool: 'python3',
    install: 'apt-get install python3',
    file: 'mint.py',
    program: (code) => `${code}
import sys
for user in sys.argv[1:]: print(presence_token(user, [user, 'bob']))
print(presence_token('lonely', None))`,
  },
  PHP: {
    tool: 'php',
    install: 'apt-get install php-cli',
    file: 'mint.php',
    program: (code) => `<?php
${code}
foreach (array_slice($argv, 1) as $user) echo presence_token($user, [$user, 'bob']), "\\n";
echo presence_token('lonely', null), "\\n";`,
  },
  Ruby: {
    tool: 'ruby',
    install: 'apt-get install ruby',
    file: 'mint.rb',
    program: (code) => `${code}
ARGV.each { |user| puts presence_token(user, [user, 'bob']) }
puts presence_token('lonely', nil)`,
  },
  Go: {
    tool: 'go',
    install: 'apt-get install golang-go',
    file: 'mint.go',
    args: ['run'],
    slow: true, // to compile
    program: (code) => `package main
import ("bytes"; "crypto/hmac"; "crypto/sha256"; "encoding/base64"; "encoding/json"; "fmt"; "os"; "time")
${code}
func print(user string, friends []string) {
	token, err := presenceToken(user, friends)
	if err != nil { panic(err) }
	fmt.Println(token)
}
func main() {
	for _, user := range os.Args[1:] { print(user, []string{user, "bob"}) }
	print("lonely", nil)
}`,
  },
  Java: {
    tool: 'java',
    probe: 'javac',
    install: 'apt-get install default-jdk-headless',
    file: 'Mint.java',
    slow: true,
    program: (code) => `import java.nio.file.*; import java.util.*; import java.util.function.*; import java.util.stream.*;
import javax.crypto.*; import javax.crypto.spec.*;
class Mint {
${code}
  public static void main(String[] users) throws Exception {
    for (String user : users) System.out.println(presenceToken(user, List.of(user, "bob")));
    System.out.println(presenceToken("lonely", List.of()));
  }
}`,
  },
};

/** Runs a program of a language in this directory to its end: what it printed, without the last line
 *  end. */
async function runProgram(language, dir, text, args = []) {
  const { tool, file, args: before = [] } = LANGUAGES[language];
  fs.writeFileSync(path.join(dir, file), text);
  const env = { ...process.env, LC_ALL: 'C.UTF-8', GOTOOLCHAIN: 'local', GOFLAGS: '-mod=mod', PYTHONDONTWRITEBYTECODE: '1' };
  const program = tool === 'node' ? process.execPath : findProgram(tool);
  const child = spawn(program, [...before, file, ...args], { cwd: dir, env, stdio: ['ignore', 'pipe', 'pipe'] });
  const out = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr']) child[name].setEncoding('utf8').on('data', (more) => { out[name] += more; });
  const code = await new Promise((resolve, reject) => { child.on('error', reject).on('close', resolve); });
  assert.deepEqual([code, out.stderr], [0, ''], `${language}: ${out.stderr}`);
  return out.stdout.trimEnd();
}

/** Why a language cannot be run here, or false. */
const lacks = (language) => {
  const { tool, probe = tool, install } = LANGUAGES[language];
  return !findProgram(probe) && `there is no ${probe} here: ${install}`;
};

module.exports = { snippet, minting, asking, LANGUAGES, runProgram, lacks };
