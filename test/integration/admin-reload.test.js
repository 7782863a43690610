'use strict';
// Variants: asan tsan
// SIGHUP and the file of the admin's password.
const assert = require('node:assert/strict');
const fs = require('node:fs');
const { test, start, passwordFile, hashPassword, tryLogin, login, variant, until } = require('./lib');

/** Rounds of PBKDF2 that take some second. */
const TRY = { release: 1500000, asan: 400000, tsan: 60000 };

test('SIGHUP takes a changed password, keeps the old one when the file is broken', async (t) => {
  const password = passwordFile(t, 'first');
  const server = await start(t, { args: password.args, allow: [/level=info/, /level=error.*admin-password/] });
  await login(server, 'first');
  fs.writeFileSync(password.file, hashPassword('second'));
  server.signal('SIGHUP');
  let source = 2;
  const fresh = () => ({ localAddress: `127.0.0.${source++}` }); // so that nobody is slowed down
  await until('the new password', async () => (await tryLogin(server, 'second', fresh())).status === 200, { every: 100 });
  assert.equal((await tryLogin(server, 'first', fresh())).status, 401);
  fs.writeFileSync(password.file, 'second\n');
  server.signal('SIGHUP');
  await until('an error line', () => server.lines.some((line) => /level=error/.test(line) && line.includes(password.file)));
  await login(server, 'second', fresh());
});

test('SIGHUP while the old password is looked at: what it opens is nothing', async (t) => {
  const password = passwordFile(t, 'first');
  fs.writeFileSync(password.file, hashPassword('first', TRY[variant] ?? TRY.release)); // a second for a try
  const server = await start(t, { args: password.args, allow: [/level=info/] });
  const trying = tryLogin(server, 'first');
  await new Promise((resolve) => setTimeout(resolve, 200));
  fs.writeFileSync(password.file, hashPassword('second'));
  server.signal('SIGHUP');
  const answer = await trying;
  assert.equal(answer.status, 401, answer.text);
  assert.equal(answer.headers['set-cookie'], undefined);
  await login(server, 'second', { localAddress: '127.0.0.2' });
});
