'use strict';
// Variants: release asan
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, run, refusedStart, tempDir, json, get, connect, presence, slow } = require('./lib');

const WRONG = [
  [['--no-such-option'], ['--no-such-option']],
  [['--no-such-option=1'], ['--no-such-option']],
  [['-x'], ['-x']],
  [['stray'], ['stray']],
  [['--grace'], ['--grace']],
  [['--grace', '--workers', '3'], ['--grace']],
  [
    ['--grace', 'banana'],
    ['--grace', 'banana'],
  ],
  [['--grace', ''], ['--grace']],
  [
    ['--grace', '-1s'],
    ['--grace', '-1s'],
  ],
  [['--grace', '5 s'], ['--grace']],
  [
    ['--grace', '5x'],
    ['--grace', '5x'],
  ],
  [['--grace', '99999999999999999999d'], ['--grace']],
  [['--workers', '257'], ['--workers']],
  [
    ['--workers', 'many'],
    ['--workers', 'many'],
  ],
  [['--workers', '4k'], ['--workers']],
  [['--map-size', '1'], ['--map-size']],
  [['--max-message', '-5'], ['--max-message']],
  [
    ['--log-level', 'loud'],
    ['--log-level', 'loud'],
  ],
  [
    ['--log-format', 'xml'],
    ['--log-format', 'xml'],
  ],
  [
    ['--listen', 'nowhere'],
    ['--listen', 'nowhere'],
  ],
  [
    ['--listen', '127.0.0.1'],
    ['--listen', '127.0.0.1'],
  ],
  [
    ['--listen', '127.0.0.1:99999'],
    ['--listen', '99999'],
  ],
  [['--listen', '127.0.0.1:http'], ['--listen']],
  [['--listen', '::1:8080'], ['--listen']],
  [['--listen', '300.0.0.1:8080'], ['--listen']],
  [['--config', '/no/such/file'], ['/no/such/file']],
  [
    ['--listen', '0.0.0.0:0'],
    ['0.0.0.0', '--insecure'],
  ],
  [
    ['--listen', '[::]:0'],
    ['::', '--insecure'],
  ],
  [
    ['--listen', '127.0.0.1:0', '--listen', '0.0.0.0:0'],
    ['0.0.0.0', '--insecure'],
  ],
];

for (const [args, names] of WRONG) {
  test(`wrong use is one line and exit 2: ${args.join(' ') || '(nothing)'}`, async (t) => {
    await refusedStart(['--data', path.join(tempDir(t), 'data'), ...args], names);
    await refusedStart(['--check-config', ...args], names);
  });
}

test('a wrong value in the environment or in a file is told with its place', async (t) => {
  const dir = tempDir(t);
  await refusedStart(['--check-config'], ['PRESENCE_GRACE', 'banana'], {
    env: { PRESENCE_GRACE: 'banana' },
  });
  await refusedStart(['--check-config'], ['ONLINE_THRESHOLD_SECONDS', 'x'], {
    env: { ONLINE_THRESHOLD_SECONDS: 'x' },
  });
  const file = path.join(dir, 'config');
  fs.writeFileSync(file, '# a comment\n\ngrace 5s\nworkers none\n');
  const line = await refusedStart(['--check-config', '--config', file], [file, 'workers', 'none']);
  assert.match(line, /\b4\b/, 'the line number');
  fs.writeFileSync(file, 'no-such-option 1\n');
  await refusedStart(['--check-config', '--config', file], [file, 'no-such-option']);
  await refusedStart(['--check-config', '--config', dir], [dir]);
});

test('--check-config says so and touches nothing', async (t) => {
  const dir = path.join(tempDir(t), 'data');
  const result = await run(['--check-config', '--data', dir, '--grace', '1500ms']);
  assert.deepEqual([result.code, result.stdout, result.stderr], [0, 'configuration ok\n', '']);
  assert.equal(fs.existsSync(dir), false);
});

test('--licenses begins with the licence in the README, and has those of what is embedded', async () => {
  const { code, stdout, stderr } = await run(['--licenses']);
  assert.deepEqual([code, stderr], [0, '']);
  const readme = fs.readFileSync(path.join(__dirname, '../../README.md'), 'utf8');
  const [, block] = /^## Licence\n\n((?: {4}.*\n|\n)+)/m.exec(readme);
  const own = block.trimEnd().replace(/^ {4}/gm, '');
  assert.match(own, /^MIT License\n\nCopyright \(c\) 2026 the presence authors\n\nPermission is hereby granted[^]*SOFTWARE\.$/);
  assert.ok(stdout.startsWith(`${own}\n\n`), stdout.slice(0, 200));
  const parts = [...stdout.matchAll(/^={8} (.*) ={8}$/gm)].map(([, name]) => name.split(/[ :]/)[0]);
  assert.deepEqual([...new Set(parts)], ['CivetWeb', 'hiredis', 'LMDB', 'Mbed', 'musl']);
  for (const text of ['The CivetWeb developers', 'Pieter Noordhuis', 'The OpenLDAP Public License', 'Apache License', 'Rich Felker'])
    assert.ok(stdout.includes(text), text);
});

test('--version, --help and --print-config go to stdout with exit 0', async () => {
  const version = await run(['--version']);
  assert.deepEqual([version.code, version.stderr], [0, '']);
  assert.match(version.stdout.split('\n')[0], /^presence \d+\.\d+\S*$/);
  const help = await run(['--help']);
  assert.deepEqual([help.code, help.stderr], [0, '']);
  for (const name of [
    '--listen',
    '--data',
    '--grace',
    '--online-threshold',
    '--sync-interval',
    '--max-message',
    '--check-store',
    '--backup',
    '--restore',
  ]) {
    assert.ok(help.stdout.includes(name), name);
  }
  assert.ok(
    help.stdout.split('\n').every((line) => line.length <= 80),
    'fits a terminal',
  );
});

function parseConfig(text) {
  return Object.fromEntries(
    text
      .trim()
      .split('\n')
      .map((line) => {
        const at = line.indexOf(' ');
        return at < 0 ? [line, ''] : [line.slice(0, at), line.slice(at + 1)];
      }),
  );
}

test('--print-config shows every option, and --config reads it back', async (t) => {
  const dir = tempDir(t);
  const args = [
    '--grace',
    '1500ms',
    '--workers',
    '3',
    '--listen',
    '127.0.0.1:0',
    '--listen',
    '[::1]:0',
    '--data',
    path.join(dir, 'my data'),
    '--max-message',
    '2000',
    '--log-level',
    'warn',
  ];
  const first = await run(['--print-config', ...args]);
  assert.deepEqual([first.code, first.stderr], [0, '']);
  assert.equal(first.stdout.split('\n').filter((line) => line.startsWith('listen ')).length, 2);
  const values = parseConfig(first.stdout);
  assert.ok(['1500ms', '1.5s'].includes(values.grace), values.grace);
  assert.equal(values.workers, '3');
  const file = path.join(dir, 'config');
  fs.writeFileSync(file, first.stdout);
  const second = await run(['--print-config', '--config', file]);
  assert.deepEqual([second.code, second.stdout, second.stderr], [0, first.stdout, '']);
  assert.equal((await run(['--check-config', '--config', file])).code, 0);
});

test('the command line wins over the environment, the environment over the file, the file over the default', async (t) => {
  const file = path.join(tempDir(t), 'config');
  fs.writeFileSync(file, 'grace 1s\nping-interval 1s\nworkers 2\n');
  const result = await run(['--print-config', '--config', file, '--grace', '3s'], {
    env: { PRESENCE_GRACE: '2s', PRESENCE_PING_INTERVAL: '2s' },
  });
  const values = parseConfig(result.stdout);
  assert.deepEqual([values.grace, values['ping-interval'], values.workers], ['3s', '2s', '2']);
  const named = parseConfig(
    (await run(['--print-config'], { env: { ONLINE_THRESHOLD_SECONDS: '33' } })).stdout,
  );
  assert.equal(named['online-threshold'], '33s');
});

test('durations are numbers with a unit; a bare number is seconds', async () => {
  const shown = async (value) =>
    parseConfig((await run(['--print-config', '--online-threshold', value])).stdout)[
      'online-threshold'
    ];
  assert.equal(await shown('1d'), await shown('24h'));
  assert.equal(await shown('60m'), await shown('1h'));
  assert.equal(await shown('3600'), await shown('1h'));
  assert.equal(await shown('3600000ms'), await shown('1h'));
  assert.equal(await shown('0.5h'), await shown('30m'));
  assert.notEqual(await shown('1h'), await shown('1d'));
});

test('--option=value and a missing data directory work', async (t) => {
  const data = path.join(tempDir(t), 'data');
  const server = await start(t, { data, args: ['--online-threshold=44s'] });
  assert.equal((await json(server, '/admin/online-users')).online_threshold_seconds, 44);
  assert.equal(fs.statSync(data).mode & 0o077, 0, 'for the owner alone');
});

test('an address in use is told with exit 1', async (t) => {
  const server = await start(t);
  const result = await run(['--listen', `127.0.0.1:${server.port}`, '--data', tempDir(t)]);
  assert.deepEqual([result.code, result.signal], [1, null]);
  assert.ok(result.ms < 2000 * slow);
  assert.equal(result.stderr.trim().split('\n').length, 1, result.stderr);
  assert.ok(result.stderr.includes(`127.0.0.1:${server.port}`), result.stderr);
  assert.match(result.stderr, /in use/i);
});

test('several addresses, IPv6 too, serve the same users', async (t) => {
  const server = await start(t, { listen: ['127.0.0.1:0', '[::1]:0', '127.0.0.9:0'] });
  assert.deepEqual(
    server.addresses.map((one) => one.host),
    ['127.0.0.1', '::1', '127.0.0.9'],
  );
  const at = server.addresses.map((one) => Object.assign(Object.create(server), one));
  for (const [i, one] of at.entries()) await connect(one, `u${i}`);
  for (const one of at) {
    for (const i of [0, 1, 2]) assert.equal((await presence(one, `u${i}`)).source, 'live');
  }
  const addresses = [];
  for (const i of [0, 1, 2])
    addresses.push((await json(server, `/admin/users/u${i}`)).connection_list[0].address);
  assert.deepEqual([addresses[0], addresses[1]], ['127.0.0.1', '::1']);
});

test('--insecure allows other addresses in open mode', async (t) => {
  const server = await start(t, {
    listen: ['0.0.0.0:0'],
    args: ['--insecure'],
    allow: [/insecure|open/i],
  });
  server.host = '127.0.0.1';
  assert.equal((await get(server, '/healthz')).status, 200);
});
