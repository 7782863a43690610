'use strict';
// Which pages may talk to us: exact origins, and the server's own; the names it answers to.
const assert = require('node:assert/strict');
const { test, start, startSecure, tcp, upgrade, seen, tokenKey, bearer, get, json, request, stats, until } = require('./lib');

const APP = 'https://app.example.com';

/** An upgrade with these Origin lines: 101 or the error's status and code. */
async function ask(server, origins, headers = {}) {
  const raw = await tcp(server);
  raw.write(Buffer.from(upgrade('u', { headers, extra: origins.map((one) => `Origin: ${one}`) }), 'latin1'));
  const head = await raw.head();
  let code;
  if (head.status === 101) assert.equal((await raw.message()).type, 'hello');
  else {
    const length = Number(head.headers['content-length']);
    code = JSON.parse((await raw.read('a body', () => (raw.bytes.length >= length ? raw.take(length) : undefined))).toString()).error.code;
  }
  raw.destroy();
  return [head.status, code];
}

const good = [101, undefined];
const forbidden = [403, 'forbidden_origin'];

test('W12 only the exact origin: no prefix, suffix, other scheme or port', async (t) => {
  const server = await startSecure(t, { args: ['--allow-origin', APP, '--allow-origin', 'http://localhost:5173', '--allow-origin', 'https://[2001:db8::1]:8443'] });
  for (const target of [server, server.secure]) {
    for (const origin of [APP, 'http://localhost:5173', 'https://[2001:db8::1]:8443', 'https://APP.example.com', 'HTTPS://app.example.com', 'https://app.example.com:443'])
      assert.deepEqual(await ask(target, [origin]), good, origin);
    assert.deepEqual(await ask(target, []), good, 'no Origin: no browser');
    for (const origin of ['https://app.example.com.evil.test', 'https://evilapp.example.com', 'https://evil.test/app.example.com', 'http://app.example.com',
      'https://app.example.com:8443', 'https://app.example.com:4430', 'https://app.example.com:80', 'null', '', 'app.example.com', '//app.example.com', 'https://', 'https:app.example.com',
      'https://app.example.com@evil.test', 'https://evil.test@app.example.com', 'https://app.example.com/', 'https://app.example.com/x', 'https://app.example.com?x', 'https://app.example.com#x',
      'https://app.example.com, https://app.example.com', 'https://app.example.com https://evil.test', 'https://example.com', 'https://.example.com', 'https://*.example.com', 'https://app.example.com.',
      'wss://app.example.com', 'file://', 'chrome-extension://abc', 'httpss://app.example.com', 'https://app%2eexample.com', 'https://app.example.com\\@evil.test', 'https://app.exämple.com', 'http://localhost:5174', 'https://localhost:5173',
      'https://[2001:db8::1]', 'https://[2001:db8::2]:8443', 'x'.repeat(2000)])
      assert.deepEqual(await ask(target, [origin]), forbidden, JSON.stringify(origin));
    assert.deepEqual(await ask(target, [APP, APP]), forbidden, 'two Origin lines');
    assert.deepEqual(await ask(target, [APP, 'https://evil.test']), forbidden, 'two Origin lines');
    assert.deepEqual(await ask(target, ['https://evil.test', APP]), forbidden, 'two Origin lines');
  }
  await until('refusals to be counted', async () => (await stats(server)).counters.origins_refused >= 70);
});

test('pages of apps and extensions: any scheme may be allowed, and is compared whole', async (t) => {
  const id = 'abcdefghijklmnopabcdefghijklmnop';
  const uuid = '2f9a1c1e-8d4b-4a6e-9a3e-0b1c2d3e4f50';
  const allowed = ['capacitor://localhost', 'ionic://localhost', 'tauri://localhost', `chrome-extension://${id}`, `moz-extension://${uuid}`, 'app://NAME'];
  const server = await start(t, { args: allowed.flatMap((one) => ['--allow-origin', one]) });
  for (const Origin of allowed) {
    assert.deepEqual(await ask(server, [Origin]), good, Origin);
    const beat = await request(server, 'POST', '/api/presence/u/heartbeat', { headers: { Origin } });
    assert.deepEqual([beat.status, beat.headers['access-control-allow-origin']], [204, Origin]);
  }
  for (const origin of ['capacitor://localhost:80', 'capacitor://localhost.evil.test', 'capacitor://evil', 'capacitor://', 'capacitor://localhost/', 'xcapacitor://localhost', 'capacitorx://localhost',
    'http://localhost:1', 'https://localhost', `chrome-extension://${id}p`, `chrome-extension://${id.slice(1)}`, `chrome-extension://p${id.slice(1)}`, 'app://name', 'app://NAME.', 'app://NAME2',
    'tauri://localhost, tauri://localhost', 'tauri://a@localhost', 'null', 'file://', 'app:NAME'])
    assert.deepEqual(await ask(server, [origin]), forbidden, origin);
});

test('another site\'s page that hides whose it is may not change anything', async (t) => {
  const crossed = { 'Sec-Fetch-Site': 'cross-site' };
  const server = await start(t);
  const own = `http://127.0.0.1:${server.port}`;
  const changes = [['POST', '/api/presence/u/heartbeat'], ['PUT', '/api/presence/u/status'], ['DELETE', '/admin/users/u/connections'], ['POST', '/api/presence'], ['POST', '/admin/login']];
  for (const [method, path] of changes) {
    const body = method === 'POST' && path.endsWith('presence') ? { users: ['u'] } : method === 'PUT' ? { status: 'busy' } : undefined;
    const status = async (headers) => (await request(server, method, path, { body, headers })).status;
    assert.equal(await status(crossed), 403, `${method} ${path}`);
    for (const headers of [{}, { 'Sec-Fetch-Site': 'same-origin' }, { 'Sec-Fetch-Site': 'none' }, { ...crossed, Origin: own }])
      assert.notEqual(await status(headers), 403, `${method} ${path} ${JSON.stringify(headers)}`);
  }
  assert.deepEqual(await ask(server, [], crossed), forbidden);
  assert.deepEqual(await ask(server, [own], { ...crossed, Host: `127.0.0.1:${server.port}` }), good);
  for (const path of ['/', '/presence.js', '/api/presence/u', '/healthz']) // a link may lead here
    assert.equal((await get(server, path, { headers: crossed })).status, 200, path);
  // with keys it is the token that says who asks; but a cookie is sent by itself
  const key = tokenKey(t);
  const closed = await start(t, { args: key.args });
  const token = await key.user('u');
  const beat = async (headers) => (await request(closed, 'POST', '/api/presence/u/heartbeat', { headers })).status;
  assert.equal(await beat({ ...crossed, Authorization: `Bearer ${token}` }), 204);
  assert.equal(await beat({ ...crossed, Cookie: `presence_token=${token}` }), 401);
  assert.equal(await beat({ Cookie: `presence_token=${token}` }), 204);
  assert.deepEqual(await ask(closed, [], { ...crossed, Cookie: `presence_token=${token}` }), [401, 'token_missing']);
  assert.deepEqual(await ask(closed, [], { Cookie: `presence_token=${token}` }), good);
});

test('the own origin by plain HTTP and by https, any name it is called by', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: key.args });
  const token = await key.user('u');
  const plain = server.port;
  const secure = server.secure.port;
  const at = async (target, Host, origin) => (await ask(target, [origin], { Host, Authorization: `Bearer ${token}` }))[0];
  for (const [target, scheme, port] of [[server, 'http', plain], [server.secure, 'https', secure]]) {
    const standard = scheme === 'http' ? 80 : 443;
    for (const [host, origin, status] of [
      [`localhost:${port}`, `${scheme}://localhost:${port}`, 101],
      [`presence.example.com:${port}`, `${scheme}://presence.example.com:${port}`, 101],
      [`Presence.Example.com:${port}`, `${scheme}://presence.example.com:${port}`, 101],
      ['presence.example.com', `${scheme}://presence.example.com`, 101],
      [`presence.example.com:${standard}`, `${scheme}://presence.example.com`, 101],
      ['presence.example.com', `${scheme}://presence.example.com:${standard}`, 101],
      [`[::1]:${port}`, `${scheme}://[::1]:${port}`, 101],
      [`localhost:${port}`, `${scheme}://localhost`, 403],
      ['presence.example.com', `${scheme}://presence.example.com:${port}`, 403],
      [`localhost:${port}`, `${scheme}://127.0.0.1:${port}`, 403],
      [`localhost:${port}`, `${scheme === 'http' ? 'https' : 'http'}://localhost:${port}`, 403],
      ['presence.example.com', `${scheme === 'http' ? 'https' : 'http'}://presence.example.com`, 403],
      [`presence.example.com:${443 + 80 - standard}`, `${scheme}://presence.example.com`, 403],
    ]) assert.equal(await at(target, host, origin), status, `${scheme} ${host} ${origin}`);
  }
});

test('a foreign origin may not write, and reads without a word of CORS', async (t) => {
  const server = await start(t, { args: ['--allow-origin', APP] });
  for (const [Origin, write] of [['https://evil.test', 403], ['null', 403], [APP, 204], [`http://127.0.0.1:${server.port}`, 204], [undefined, 204]]) {
    const headers = Origin === undefined ? {} : { Origin };
    const beat = await request(server, 'POST', '/api/presence/u/heartbeat', { headers });
    assert.equal(beat.status, write, Origin);
    if (write === 403) assert.equal(beat.json.error.code, 'forbidden_origin');
    const many = await request(server, 'POST', '/api/presence', { headers, body: { users: ['u'] } });
    assert.equal(many.status, write === 403 ? 403 : 200, Origin);
    for (const method of ['PUT', 'DELETE']) {
      const { status } = await request(server, method, '/admin/users/nobody/connections', { headers });
      assert.equal(status === 403, write === 403 || Origin === APP, `${method} ${Origin}: ${status}`); // no page but ours under /admin/
    }
    for (const method of ['GET', 'HEAD']) {
      const answer = await request(server, method, '/api/presence/nobody', { headers });
      assert.ok([200, 404].includes(answer.status), `${method} ${Origin}: ${answer.status}`);
      assert.equal(answer.headers['access-control-allow-origin'], Origin === APP ? APP : undefined, `${method} ${Origin}`);
    }
  }
  assert.equal((await json(server, '/api/presence/u')).online, true);
});

test('open mode answers to localhost and addresses only: 421 for any other name', async (t) => {
  const server = await startSecure(t);
  const names = {
    200: ['localhost', `localhost:${server.port}`, 'LOCALHOST', 'app.localhost', 'a.b.localhost:8080', '127.0.0.1', '127.0.0.1:80', '[::1]', '[::1]:8080', '192.0.2.7', '[2001:db8::1]:1'],
    421: ['evil.test', `evil.test:${server.port}`, 'localhost.evil.test', 'evillocalhost', 'localhost.com', '127.0.0.1.evil.test', '127.0.0.1.nip.test', 'presence'],
  };
  for (const target of [server, server.secure]) {
    for (const [status, hosts] of Object.entries(names)) {
      for (const host of hosts) {
        for (const text of [`GET /healthz HTTP/1.1\r\nHost: ${host}\r\n\r\n`, `GET /admin/stats HTTP/1.1\r\nHost: ${host}\r\n\r\n`, `POST /api/presence/u/heartbeat HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 0\r\n\r\n`]) {
          const raw = await tcp(target);
          raw.write(text);
          const answer = await raw.response();
          if (status === '421') {
            // health tells nobody anything: it may be answered under any name
            if (text.includes('/healthz') && answer.status === 200) continue;
            assert.deepEqual([answer.status, JSON.parse(answer.body || '{}').error?.code], [421, 'misdirected_host'], `${host} ${text.split(' ')[1]}`);
          } else assert.ok([200, 204].includes(answer.status), `${host} ${text.split(' ')[1]}: ${answer.status}`);
          raw.destroy();
        }
        const [socket, code] = await ask(target, [], { Host: host });
        assert.deepEqual([socket, code], status === '421' ? [421, 'misdirected_host'] : good, host);
      }
    }
  }
});

test('with a key, or --insecure, every name is fine', async (t) => {
  const key = tokenKey(t);
  const closed = await start(t, { args: key.args });
  const open = await start(t, { listen: ['0.0.0.0:0'], args: ['--insecure'], allow: [/insecure|open/i] });
  for (const Host of ['presence.example.com', 'evil.test', 'localhost']) {
    assert.equal((await get(closed, '/api/presence/u', bearer(await key.user('u'), { Host }))).status, 404, Host);
    assert.equal((await get(seen(open, { host: '127.0.0.1', port: open.port }), '/api/presence/u', { headers: { Host } })).status, 404, Host);
  }
});
