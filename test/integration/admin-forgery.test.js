'use strict';
// Another site cannot act with an admin's cookie (CSRF), nor log anybody in.
const assert = require('node:assert/strict');
const { test, startSecure, passwordFile, tryLogin, login, bearer, get, del, request, connect } = require('./lib');

const FOREIGN = ['https://evil.test', 'null', 'http://127.0.0.1', 'http://127.0.0.1:1', 'http://127.0.0.1.evil.test', ''];
const form = { 'Content-Type': 'application/x-www-form-urlencoded' };

for (const kind of ['plain', 'TLS']) {
  test(`a page of another origin cannot use the session (${kind})`, async (t) => {
    const server = await startSecure(t, { args: [...passwordFile(t, 'secret').args, '--allow-origin', 'https://app.example.com'] });
    const target = kind === 'TLS' ? server.secure : server;
    const own = `${kind === 'TLS' ? 'https' : 'http'}://127.0.0.1:${target.port}`;
    const other = `${kind === 'TLS' ? 'http' : 'https'}://127.0.0.1:${target.port}`;
    const session = await login(target, 'secret');
    const client = await connect(target, 'u');
    const status = async (method, path, headers) => (await request(target, method, path, { headers: { ...session.headers, ...headers } })).status;
    for (const Origin of [...FOREIGN, other, 'https://app.example.com']) {
      assert.ok([401, 403].includes(await status('GET', '/admin/stats', { Origin })), `GET with Origin ${Origin}`);
      assert.ok([401, 403].includes(await status('DELETE', '/admin/users/u/connections', { Origin })), `DELETE with Origin ${Origin}`);
      assert.ok([401, 403].includes(await status('POST', '/admin/logout', { Origin })), `logout with Origin ${Origin}`);
    }
    for (const site of ['cross-site', 'same-site', 'nonsense']) {
      assert.ok([401, 403].includes(await status('GET', '/admin/stats', { 'Sec-Fetch-Site': site })), site);
      assert.ok([401, 403].includes(await status('DELETE', '/admin/users/u/connections', { 'Sec-Fetch-Site': site })), site);
      assert.ok([401, 403].includes(await status('DELETE', '/admin/users/u/connections', { Origin: own, 'Sec-Fetch-Site': site })), site);
    }
    await client.ping(); // nobody was kicked
    for (const headers of [{}, { Origin: own }, { 'Sec-Fetch-Site': 'same-origin' }, { 'Sec-Fetch-Site': 'none' }, { Origin: own, 'Sec-Fetch-Site': 'same-origin' }])
      assert.equal(await status('GET', '/admin/stats', headers), 200, JSON.stringify(headers));
    // a header that only a script of ours can set needs no such care
    assert.equal((await get(target, '/admin/stats', bearer(session.token, { 'Sec-Fetch-Site': 'cross-site' }))).status, 200);
    assert.equal(await status('DELETE', '/admin/users/u/connections', { Origin: own, 'Sec-Fetch-Site': 'same-origin' }), 200);
    assert.equal((await client.closed).code, 4403);
  });
}

test('a form on another page cannot log in', async (t) => {
  const server = await startSecure(t, { args: [...passwordFile(t, 'secret').args, '--allow-origin', 'https://app.example.com'] });
  for (const target of [server, server.secure]) {
    for (const Origin of FOREIGN) {
      const answer = await request(target, 'POST', '/admin/login', { body: 'password=secret', headers: { ...form, Origin } });
      assert.equal(answer.status, 403, `${Origin}: ${answer.text}`);
      assert.equal(answer.json.error.code, 'forbidden_origin');
      assert.equal(answer.headers['set-cookie'], undefined);
    }
    const scheme = target.tls ? 'https' : 'http';
    const own = await tryLogin(target, 'secret', { headers: { Origin: `${scheme}://127.0.0.1:${target.port}`, Host: `127.0.0.1:${target.port}` } });
    assert.equal(own.status, 200);
  }
  const crossed = await request(server, 'POST', '/admin/login', { body: 'password=secret', headers: { ...form, 'Sec-Fetch-Site': 'cross-site' } });
  assert.ok([200, 401, 403].includes(crossed.status));
});

test('no answer of /admin/ lets another origin read it', async (t) => {
  const server = await startSecure(t, { args: [...passwordFile(t, 'secret').args, '--allow-origin', 'https://app.example.com'] });
  const session = await login(server, 'secret');
  for (const Origin of ['https://app.example.com', 'https://evil.test'])
    for (const [method, path] of [['GET', '/admin/stats'], ['GET', '/admin/login'], ['OPTIONS', '/admin/stats'], ['DELETE', '/admin/users/u/connections'], ['POST', '/admin/login']]) {
      const { headers, status } = await request(server, method, path, { headers: { ...bearer(session.token).headers, Origin, 'Access-Control-Request-Method': 'DELETE' } });
      for (const name of Object.keys(headers)) assert.ok(!name.startsWith('access-control-'), `${method} ${path}: ${status} ${name}`);
    }
  assert.equal((await del(server, '/admin/users/u/connections', bearer(session.token))).status, 404);
});
