'use strict';
// The admin's password and sessions.

const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { request } = require('./http');
const { tempDir } = require('./server');

const ITERATIONS = 10000; // as few as are taken, so that a test is soon done

/** A line as --hash-password prints it, made by node. */
function hashPassword(password, iterations = ITERATIONS) {
  const salt = crypto.randomBytes(16);
  const hash = crypto.pbkdf2Sync(password, salt, iterations, 32, 'sha512');
  return `pbkdf2-sha512:${iterations}:${salt.toString('base64url')}:${hash.toString('base64url')}\n`;
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
