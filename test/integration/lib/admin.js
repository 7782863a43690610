'use strict';
// The admin's password and sessions.

const assert = require('node:assert/strict');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const path = require('node:path');
const { request } = require('./http');
const { tempDir } = require('./server');
const { binary } = require('./variant');

const hashes = new Map();

/** What --hash-password says of a password (asked once for each). */
function hashPassword(password) {
  if (!hashes.has(password))
    hashes.set(password, execFileSync(binary, ['--hash-password'], { input: `${password}\n`, encoding: 'utf8' }));
  return hashes.get(password);
}

/** A file with this password for the test `t`: { file, args }. */
function passwordFile(t, password) {
  const file = path.join(tempDir(t), 'admin-password');
  fs.writeFileSync(file, hashPassword(password), { mode: 0o600 });
  return { file, args: ['--admin-password-file', file] };
}

/** POST /admin/login as a script does it. */
const tryLogin = (server, password, options) =>
  request(server, 'POST', '/admin/login', { body: { password }, ...options });

/** The parts of the one Set-Cookie of an answer: { name, value, pair, attributes }. */
function cookieOf(answer) {
  const all = answer.headers['set-cookie'];
  assert.equal(all?.length, 1, JSON.stringify(answer.headers));
  const [pair, ...rest] = all[0].split(/;\s*/);
  const at = pair.indexOf('=');
  const attributes = Object.fromEntries(rest.map((one) => {
    const [name, value = true] = one.split('=');
    return [name.toLowerCase(), value];
  }));
  return { name: pair.slice(0, at), value: pair.slice(at + 1), pair, attributes };
}

/** Logs in; gives { token, expires_at, cookie, headers } (headers: the cookie for a request). */
async function login(server, password, options) {
  const answer = await tryLogin(server, password, options);
  assert.equal(answer.status, 200, answer.text);
  const cookie = cookieOf(answer);
  return { ...answer.json, cookie, headers: { Cookie: cookie.pair } };
}

module.exports = { hashPassword, passwordFile, tryLogin, login, cookieOf };
