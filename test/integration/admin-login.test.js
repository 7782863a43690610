'use strict';
// The admin's login: password, session cookie, its life and its end.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { test, start, startSecure, dice, passwordFile, hashPassword, tryLogin, login, cookieOf, bearer, tokenKey, get, json, request, del, connect,
  until, slow, ISO, run, tempDir } = require('./lib');

const PAGES = ['/admin/stats', '/admin/online-users', '/admin/users', '/metrics'];

/** Whether these headers open the admin's pages. */
async function opens(server, headers, what) {
  const statuses = [];
  for (const path of PAGES) statuses.push((await get(server, path, { headers })).status);
  assert.equal(new Set(statuses).size, 1, `${what}: ${statuses}`);
  return statuses[0] === 200;
}

test('--hash-password salts, and never repeats itself or the password', async () => {
  const ask = async (input) => run(['--hash-password'], { wrap: ['sh', '-c', `printf '${input}' | "$@"`, 'sh'] });
  const lines = await Promise.all([ask('secret\\n'), ask('secret')]);
  for (const { code, stdout, stderr } of lines) {
    assert.deepEqual([code, stderr], [0, '']);
    const [, iterations, salt, hash] = /^pbkdf2-sha512:(\d+):([\w-]+):([\w-]+)\n$/.exec(stdout) || assert.fail(stdout);
    assert.ok(Number(iterations) >= 100000, iterations);
    assert.ok(Buffer.from(salt, 'base64url').length >= 16);
    const bytes = Buffer.from(hash, 'base64url');
    assert.ok(bytes.length >= 32);
    const again = crypto.pbkdf2Sync('secret', Buffer.from(salt, 'base64url'), Number(iterations), bytes.length, 'sha512');
    assert.ok(again.equals(bytes), 'what an independent library says');
    assert.ok(!stdout.includes('secret'));
  }
  assert.notEqual(lines[0].stdout, lines[1].stdout);
  assert.notEqual((await ask('')).code, 0);
});

test('a line of --hash-password, put in the file, opens', async (t) => {
  const file = path.join(tempDir(t), 'admin-password');
  fs.writeFileSync(file, (await run(['--hash-password'], { wrap: ['sh', '-c', 'echo secret | "$@"', 'sh'] })).stdout);
  const server = await start(t, { args: ['--admin-password-file', file] });
  await login(server, 'secret');
  assert.equal((await tryLogin(server, 'Secret')).status, 401);
});

test('a session sent as Bearer opens /api/ too, as cookie only /admin/ and /metrics', async (t) => {
  const server = await start(t, { args: [...tokenKey(t).args, ...passwordFile(t, 'secret').args] });
  const session = await login(server, 'secret');
  const cookie = { headers: session.headers };
  for (const [method, path, good] of [['GET', '/api/presence/nobody', 404], ['PUT', '/api/presence/nobody/status', 404], ['GET', '/admin/stats', 200], ['GET', '/metrics', 200]]) {
    const body = method === 'PUT' ? { status: 'busy' } : undefined;
    assert.equal((await request(server, method, path, { body, ...bearer(session.token) })).status, good, `Bearer ${path}`);
    assert.equal((await request(server, method, path, { body, ...cookie })).status, path.startsWith('/api') ? 401 : good, `cookie ${path}`);
  }
});

test('login by JSON and by form gives a session for cookie and Bearer', async (t) => {
  const password = 'cörrect horse &=+%20 battery"\\';
  const server = await startSecure(t, { args: [...passwordFile(t, password).args, '--admin-session', '1h'] });
  assert.equal(await opens(server, {}, 'nothing'), false);
  assert.deepEqual(await json(server, '/admin/login'), { authenticated: false, expires_at: null, password: true });
  const form = new URLSearchParams({ password }).toString();
  for (const target of [server, server.secure]) {
    for (const options of [
      { body: { password } },
      { body: JSON.stringify({ password }), headers: { 'Content-Type': 'application/json; charset=utf-8' } },
      { body: form, headers: { 'Content-Type': 'application/x-www-form-urlencoded' } },
      { body: `other=1&${form}&x=`, headers: { 'Content-Type': 'application/x-www-form-urlencoded; charset=UTF-8' } },
    ]) {
      const answer = await request(target, 'POST', '/admin/login', options);
      assert.equal(answer.status, 200, answer.text);
      assert.deepEqual(Object.keys(answer.json).sort(), ['expires_at', 'token']);
      assert.match(answer.json.expires_at, ISO);
      const life = Date.parse(answer.json.expires_at) - Date.now();
      assert.ok(life > 3590000 && life <= 3600500, `${life} ms`);
      const { name, value, attributes, pair } = cookieOf(answer);
      assert.equal(name, 'presence_admin');
      assert.match(value, /^[\w.~-]{20,}$/);
      const { secure = false, 'max-age': age, expires, ...rest } = attributes;
      assert.deepEqual(rest, { path: '/', httponly: true, samesite: 'Strict' });
      assert.equal(secure, Boolean(target.tls), 'Secure over TLS only');
      assert.ok(Number(age) >= 3595 && Number(age) <= 3600, `Max-Age ${age}`);
      assert.equal(expires, undefined);
      assert.equal(await opens(target, { Cookie: pair }, 'the cookie'), true);
      assert.equal(await opens(target, { Cookie: `a=b; ${pair}; c=d` }, 'among others'), true);
      assert.equal(await opens(target, { Authorization: `Bearer ${answer.json.token}` }, 'Bearer'), true);
      const state = await json(target, '/admin/login', { headers: { Cookie: pair } });
      assert.deepEqual(state, { authenticated: true, expires_at: answer.json.expires_at, password: true });
    }
  }
  const { counters } = await json(server, '/admin/stats', await login(server, password));
  assert.deepEqual([counters.admin_logins, counters.admin_login_failures], [9, 0]);
});

test('what is no login', async (t) => {
  const server = await start(t, { args: passwordFile(t, 'secret').args });
  const type = (name) => ({ headers: { 'Content-Type': name } });
  const wrong = [
    [{ body: { password: 7 } }, 400], [{ body: {} }, 400], [{ body: [] }, 400], [{ body: '{"password":' }, 400], [{ body: '' }, 400],
    [{ body: 'password=secret', ...type('text/plain') }, [400, 401, 415]],
    [{ body: 'pass=secret', ...type('application/x-www-form-urlencoded') }, [400, 401]],
  ];
  for (const [options, status] of wrong) {
    const answer = await request(server, 'POST', '/admin/login', options);
    assert.ok([status, 429].flat().includes(answer.status), `${JSON.stringify(options)}: ${answer.status}`);
    assert.equal(answer.headers['set-cookie'], undefined);
  }
  for (const method of ['PUT', 'DELETE', 'PATCH']) assert.equal((await request(server, method, '/admin/login')).status, 405, method);
  const bare = await start(t);
  assert.equal((await tryLogin(bare, 'secret')).status, 404, 'without a password file');
});

test('a wrong password is 401 wrong_password; near misses too', async (t) => {
  const server = await start(t, { args: passwordFile(t, 'secret').args });
  for (const [index, password] of ['Secret', 'secret ', 'secre', 'secrett', '', 'x'.repeat(3000)].entries()) {
    const answer = await tryLogin(server, password, { localAddress: `127.0.0.${10 + index}` });
    assert.ok(answer.status === 401 || (answer.status === 400 && (password === '' || password.length > 1000)), `${password.slice(0, 10)}: ${answer.status}`);
    if (answer.status === 401) assert.equal(answer.json.error.code, 'wrong_password');
    assert.equal(answer.headers['set-cookie'], undefined);
    assert.ok(!answer.text.includes('secret'), answer.text);
  }
  await login(server, 'secret');
});

test('logout revokes that session and no other, and clears the cookie', async (t) => {
  const server = await start(t, { args: passwordFile(t, 'secret').args });
  const [one, two] = [await login(server, 'secret'), await login(server, 'secret')];
  assert.notEqual(one.token, two.token);
  const answer = await request(server, 'POST', '/admin/logout', { headers: one.headers });
  assert.equal(answer.status, 204);
  const cookie = cookieOf(answer);
  assert.equal(cookie.name, 'presence_admin');
  assert.equal(cookie.attributes['max-age'], '0');
  assert.deepEqual([cookie.attributes.path, cookie.attributes.httponly], ['/', true]);
  assert.equal(await opens(server, one.headers, 'the cookie'), false);
  assert.equal(await opens(server, { Authorization: `Bearer ${one.token}` }, 'its token'), false);
  assert.equal(await opens(server, two.headers, 'the other'), true);
  assert.equal((await json(server, '/admin/login', { headers: one.headers })).authenticated, false);
  const byToken = await request(server, 'POST', '/admin/logout', bearer(two.token));
  assert.equal(byToken.status, 204);
  assert.equal(await opens(server, two.headers, 'the other'), false);
  const again = await request(server, 'POST', '/admin/logout', { headers: one.headers });
  assert.ok([204, 401].includes(again.status));
});

test('a session ends after --admin-session', async (t) => {
  const password = passwordFile(t, 'secret');
  const server = await start(t, { args: [...password.args, '--admin-session', '2s'] });
  const session = await login(server, 'secret');
  assert.equal(session.cookie.attributes['max-age'], '2');
  assert.ok(await opens(server, session.headers, 'fresh') || Date.now() >= Date.parse(session.expires_at));
  await until('its end', async () => (await get(server, '/admin/stats', session)).status === 401, { within: 3500 + 2500 * slow });
  assert.ok(Date.now() >= Date.parse(session.expires_at), 'not before its time');
  assert.equal((await get(server, '/admin/stats', bearer(session.token))).status, 401);
});

const fileOf = (server) => path.join(server.data, 'admin-sessions');

test('a session outlives the server, who signed out stays so, and a new password ends all', async (t) => {
  const password = passwordFile(t, 'secret');
  const args = password.args;
  const first = await start(t, { args });
  const [kept, ended] = [await login(first, 'secret'), await login(first, 'secret')];
  assert.equal((await request(first, 'POST', '/admin/logout', { headers: ended.headers })).status, 204);
  assert.equal(fs.statSync(fileOf(first)).mode & 0o777, 0o600);
  const { data } = first;
  await first.kill();
  const second = await start(t, { data, args });
  assert.equal(await opens(second, kept.headers, 'after kill -9'), true);
  assert.equal(await opens(second, bearer(kept.token).headers, 'after kill -9'), true);
  assert.equal(await opens(second, ended.headers, 'signed out before it'), false);
  await second.stop();
  const before = fs.readFileSync(fileOf(second));
  fs.writeFileSync(password.file, hashPassword('other'));
  const third = await start(t, { data, args });
  assert.equal(await opens(third, kept.headers, 'with another password'), false);
  const other = await login(third, 'other');
  fs.writeFileSync(password.file, hashPassword('third'));
  third.signal('SIGHUP');
  await until('its end', async () => (await get(third, '/admin/stats', other)).status === 401);
  await third.stop();
  fs.writeFileSync(password.file, hashPassword('other'));
  const fourth = await start(t, { data, args });
  assert.equal(await opens(fourth, other.headers, 'of a password that was changed and is back'), false);
  await fourth.stop();
  fs.writeFileSync(fileOf(fourth), before); // of another password: not taken
  const fifth = await start(t, { data, args });
  assert.equal(await opens(fifth, kept.headers, 'with the file of another password'), false);
});

test('a file of sessions that is cut or changed anywhere opens nothing, and is made anew', async (t) => {
  const { args } = passwordFile(t, 'secret');
  let server = await start(t, { args });
  const { data } = server;
  const random = dice(7);
  for (let round = 0; round < 6; round++) {
    const session = await login(server, 'secret');
    const ended = await login(server, 'secret');
    await request(server, 'POST', '/admin/logout', { headers: ended.headers });
    await server.stop();
    const bytes = fs.readFileSync(fileOf(server));
    if (round % 2) fs.writeFileSync(fileOf(server), bytes.subarray(0, random(bytes.length - 1)));
    else {
      bytes[random(72)] ^= 1 << random(8); // in the head; a place is as good as another
      fs.writeFileSync(fileOf(server), bytes);
    }
    server = await start(t, { data, args });
    const open = await opens(server, session.headers, `round ${round}`);
    assert.equal(await opens(server, ended.headers, 'signed out'), false, `round ${round}`);
    assert.equal(open, false, `round ${round}`);
  }
});

test('a file of sessions that cannot be written is no reason not to start, and says so', async (t) => {
  const { args } = passwordFile(t, 'secret');
  const data = tempDir(t);
  fs.symlinkSync('elsewhere', path.join(data, 'admin-sessions')); // is not followed; what is no file at all is refused, see bad-directory
  const server = await start(t, { data, args, allow: [/level=info/, /level=warn.*admin-sessions.*restart will end/] });
  await login(server, 'secret');
  assert.ok(server.lines.some((line) => /level=warn.*admin-sessions: .*(loop|symbolic links)/.test(line)), server.lines.join('\n'));
});

test('a tampered, cut, empty, foreign or doubled cookie opens nothing', async (t) => {
  const server = await start(t, { args: passwordFile(t, 'secret').args });
  const { cookie: { value }, token } = await login(server, 'secret');
  const swap = (at) => value.slice(0, at) + (value[at] === 'A' ? 'B' : 'A') + value.slice(at + 1);
  const values = [swap(0), swap(value.length >> 1), value.slice(0, -1), value.slice(1), value.slice(0, 8), '', `${value}A`, `${value}${value}`,
    value.toUpperCase(), 'A'.repeat(value.length), '"', 'null', 'x'.repeat(5000), `${value}%20`];
  for (let at = 2; at < value.length; at += 7) values.push(swap(at));
  for (const one of values) assert.equal((await get(server, '/admin/stats', { headers: { Cookie: `presence_admin=${one}` } })).status, 401, one);
  for (const one of [swap(3), '', 'x'])
    assert.equal((await get(server, '/admin/stats', bearer(one))).status, 401);
  for (const name of ['Presence_admin', 'presence_admin2', 'xpresence_admin', 'presence_token'])
    assert.equal((await get(server, '/admin/stats', { headers: { Cookie: `${name}=${value}` } })).status, 401, name);
  assert.equal((await get(server, `/admin/stats?token=${token}`)).status, 401, 'a session in the URL');
  const both = (await get(server, '/admin/stats', { headers: { Cookie: `presence_admin=x; presence_admin=${value}` } })).status;
  assert.ok([200, 401].includes(both));
});

test('tokens and sessions side by side: either opens, a session is no user', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, ...passwordFile(t, 'secret').args] });
  const session = await login(server, 'secret');
  assert.equal(await opens(server, session.headers, 'the session'), true);
  assert.equal(await opens(server, bearer(await key.admin()).headers, 'the token'), true);
  assert.equal((await get(server, '/admin/stats', bearer(await key.user('u')))).status, 403);
  const client = await connect(server, 'u', bearer(await key.user('u')));
  assert.equal((await get(server, '/api/presence/u', session)).status, 401, 'the cookie is for /admin/');
  assert.equal((await request(server, 'POST', '/api/presence/u/heartbeat', session)).status, 401);
  assert.equal((await del(server, '/admin/users/u/connections', session)).status, 200);
  assert.equal((await client.closed).code, 4403);
});

test('with a password alone users need no token, admins need the password', async (t) => {
  const server = await start(t, { args: passwordFile(t, 'secret').args });
  await connect(server, 'u');
  assert.equal((await get(server, '/api/presence/u')).status, 200);
  for (const path of [...PAGES, '/admin/users/u', '/admin/users/u/sessions']) {
    const answer = await get(server, path);
    assert.deepEqual([answer.status, answer.json.error.code], [401, 'token_missing'], path);
  }
  assert.equal((await del(server, '/admin/users/u/connections')).status, 401);
});
