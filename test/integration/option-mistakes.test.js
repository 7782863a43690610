'use strict';
// Options that are mistyped, quoted or without effect: what cannot be meant is refused, with what
// may have been; what changes nothing is told, and the server starts.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { test, dice, sideBySide, run, start, refusedConfig, tempDir, tokenKey, passwordFile, Authority } = require('./lib');

const WARNED = /level=warn msg="(.*)"$/;
const check = async (args, options) => {
  const result = await run([...args, '--check-config'], options);
  assert.equal(result.code, 0, result.stderr);
  assert.equal(result.stdout, 'configuration ok\n');
  return result.stderr.split('\n').filter(Boolean).map((line) => WARNED.exec(line)?.[1] ?? line);
};

sideBySide(() => {
  test('a mistyped name is refused, on the command line and in a file, with the one that is near', async (t) => {
    const file = path.join(tempDir(t), 'config');
    for (const [name, meant] of [['lisen', 'listen'], ['listne', 'listen'], ['garce', 'grace'], ['online-treshold', 'online-threshold'], ['max_message', 'max-message'],
      ['jwt-secretfile', 'jwt-secret-file'], ['webhook-ulr', 'webhook-url'], ['dta', 'data'], ['tls-keys', 'tls-key']]) {
      await refusedConfig([`--${name}`, 'x'], [`--${name}`, `did you mean --${meant}?`]);
      fs.writeFileSync(file, `${name} x\n`);
      await refusedConfig(['--config', file], [file, `'${name}'`, `did you mean ${meant}?`]);
    }
    for (const [name, meant] of [['check-confg', 'check-config'], ['bakcup', 'backup'], ['confg', 'config'], ['hlep', 'help']]) await refusedConfig([`--${name}`], [`did you mean --${meant}?`]);
    for (const name of ['no-such-option', 'x', 'port', 'ab']) {
      const line = await refusedConfig([`--${name}`, 'x'], [`--${name}`, '--help']);
      assert.ok(!line.includes('did you mean'), line);
    }
  });

  test('quotes around a value in a file are refused, since they would be a part of it', async (t) => {
    const file = path.join(tempDir(t), 'config');
    for (const line of ['data "/srv/presence"', "data '/srv/presence'", 'jwt-issuer = "https://login.example.com"', 'grace "5s"', 'listen="127.0.0.1:0"', "insecure 'yes'"]) {
      fs.writeFileSync(file, `${line}\n`);
      await refusedConfig(['--config', file], [file, 'line 1', `--${/^[\w-]+/.exec(line)[0]}`, 'quotes']);
    }
    fs.writeFileSync(file, 'jwt-issuer a "b" c\ntoken-watch it\'s\n');
    assert.match((await run(['--config', file, '--print-config'])).stdout, /^jwt-issuer a "b" c$[^]*^token-watch it's$/m);
  });

  test('a variable that is nearly one of ours is told; others of the same beginning are not', async () => {
    const env = {
      PRESENCE_GARCE: '5s', PRESENCE_MAX_MESAGE: '1', PRESENCE_JWT_SECRET_FILES: '/x', PRESENCE_ADMIN_PASSWORD: 'x',
      PRESENCE_PORT: 'tcp://10.0.0.1:8080', PRESENCE_SERVICE_HOST: '10.0.0.1', PRESENCE_PORT_8080_TCP: 'x', PRESENCE_SERVICE_PORT: '1', PRESENCE_URL: 'x', PRESENCE_: 'x', PRESENCE: 'x', XPRESENCE_GARCE: '1',
    };
    const lines = await check([], { env });
    assert.deepEqual(lines.sort(), [['ADMIN_PASSWORD', 'ADMIN_PASSWORD_FILE'], ['GARCE', 'GRACE'], ['JWT_SECRET_FILES', 'JWT_SECRET_FILE'], ['MAX_MESAGE', 'MAX_MESSAGE']].map(([name, meant]) =>
      `environment PRESENCE_${name} is no option, and has no effect; did you mean PRESENCE_${meant}?`));
    assert.deepEqual(await check([], { env: { PRESENCE_GRACE: '5s' } }), []);
    assert.deepEqual(await check([], { env: { PRESENCE_CONFIG: '/etc/presence.conf' } }), ['environment PRESENCE_CONFIG is no option, and has no effect; did you mean --config?']);
  });

  test('an option without effect is told once, and the server starts', async (t) => {
    const dir = tempDir(t);
    const { cert, key } = new Authority(dir).issue('localhost');
    const secret = path.join(dir, 'secret');
    fs.writeFileSync(secret, '0123456789abcdef');
    const keys = tokenKey(t).args;
    const noKey = 'without --jwt-secret-file or --jwt-public-key-file';
    const hook = ['--webhook-url', 'http://127.0.0.1:9/', '--webhook-secret-file', secret];
    const rows = [
      [['--jwt-issuer', 'x'], noKey, keys],
      [['--jwt-audience', 'x'], noKey, keys],
      [['--tls-self-signed'], 'without --tls-listen', ['--tls-listen', '127.0.0.1:0']],
      [['--tls-cert', cert, '--tls-key', key], 'without --tls-listen', ['--tls-listen', '127.0.0.1:0']],
      [['--tls-threads', '3'], 'without --tls-listen', ['--tls-listen', '127.0.0.1:0', '--tls-self-signed']],
      [['--webhook-secret-file', secret], 'without --webhook-url', hook.slice(0, 2)],
      [['--webhook-batch', '3'], 'without --webhook-url', hook],
      [['--webhook-timeout', '3s'], 'without --webhook-url', hook],
      [['--webhook-outbox', '300'], 'without --webhook-url', hook],
      [['--webhook-give-up', '3h'], 'without --webhook-url', hook],
      [['--webhook-ca-file', cert], 'without --webhook-url', hook],
      [['--admin-session', '1h'], 'without --admin-password-file', passwordFile(t, 'secret').args],
      [['--token-watch', '*'], 'without --mint-token', null],
      [['--token-lifetime', '2h'], 'without --mint-token', null],
      [['--token-admin'], 'without --mint-token', null],
      [[...keys, '--insecure'], 'beside a key for tokens', null],
    ];
    for (const [args, lack, cure] of rows) {
      const told = args.filter((one) => one.startsWith('--') && !(lack.startsWith('beside') && one.startsWith('--jwt')));
      assert.deepEqual(await check(args), told.map((one) => `${one} has no effect ${lack}`));
      if (cure) assert.deepEqual(await check([...args, ...cure]), []);
    }
    const server = await start(t, { args: ['--jwt-issuer', 'x'], allow: [/level=warn msg="--jwt-issuer has no effect/] });
    assert.equal(server.lines.filter((line) => line.includes('no effect')).length, 1);
    await server.stop();
    assert.deepEqual(await check([]), []);
  });

  test('what --print-config prints is read by --config as the same, whatever the values', async (t) => {
    const dir = tempDir(t);
    const file = path.join(dir, 'config');
    const random = dice(20); // the same every time
    const letters = ['=', ' ', '\t', '"', "'", '#', '\\', '\n', '\r', 'x', 'x20', 'ä', '\u{1f600}', ',', '-', ' = ', '\\n', '""', '\u00a0', '\x01', '%'];
    const value = () => Array.from({ length: 1 + random(6) }, () => letters[random(letters.length)]).join('');
    for (let round = 0; round < 60; round++) {
      const args = ['--data', '--jwt-issuer', '--token-watch', '--webhook-secret-file', '--tls-cert', '--tls-cert', '--user']
        .filter(() => random(3)).map((name) => `${name}=${value()}`);
      if (round === 0) args.splice(0, args.length, '--data==x', '--jwt-issuer= x ', '--user="x"');
      const first = await run([...args, '--print-config']);
      assert.deepEqual([first.code, first.stderr], [0, ''], JSON.stringify(args));
      fs.writeFileSync(file, first.stdout);
      const again = await run(['--config', file, '--print-config']);
      assert.deepEqual([again.code, again.stderr, again.stdout], [0, '', first.stdout], JSON.stringify(args));
      for (const one of args) { // and it is the value that was given, not only one that stays the same
        const [, name, given] = /^--([\w-]+)=([^]*)$/.exec(one);
        const read = first.stdout.split('\n').filter((line) => line.startsWith(`${name} `)).map((line) => line.slice(name.length + 1)).map((text) =>
          text.startsWith('\\') ? Buffer.from(Buffer.from(text).toString('latin1').replace(/\\(?:x(..)|(\\))/g, (_, hex) => (hex ? String.fromCharCode(parseInt(hex, 16)) : '\\')), 'latin1').toString() : text);
        assert.ok(read.includes(given), `${JSON.stringify(one)}: ${JSON.stringify(read)}`);
      }
    }
    for (const text of ['\\', '\\q', '\\x', '\\x2', '\\xg0', '\\x00', '\\x20\\']) {
      fs.writeFileSync(file, `data ${text}\n`);
      await refusedConfig(['--config', file], [file, '--data', 'backslash']);
    }
  });
});
