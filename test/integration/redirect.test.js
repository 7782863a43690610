'use strict';
// --redirect-listen sends every plain request to https, and nowhere else.
const assert = require('node:assert/strict');
const { test, startSecure, tcp, seen, upgrade, until, slow, window, get } = require('./lib');

const ARGS = ['--redirect-listen', '127.0.0.1:0'];

/** One raw request to the redirecting port; the answer. */
async function ask(server, text) {
  const raw = await tcp(server.redirect);
  raw.write(text);
  const answer = await raw.response();
  raw.destroy();
  return answer;
}

async function begin(t, options) {
  const server = await startSecure(t, { args: ARGS, listening: 1, ...options });
  server.redirect = seen(server, server.of('redirect')[0]);
  return server;
}

test('308 to the same place by https, for every method', async (t) => {
  const server = await begin(t);
  const { port } = server.secure;
  const rows = [
    ['GET', '/', 'example.com', `https://example.com:${port}/`],
    ['GET', '/api/presence/a%2Fb?x=1&y=%20', 'example.com', `https://example.com:${port}/api/presence/a%2Fb?x=1&y=%20`],
    ['GET', '/admin/', 'example.com:80', `https://example.com:${port}/admin/`],
    ['GET', '/', '127.0.0.1:8080', `https://127.0.0.1:${port}/`],
    ['GET', '/', '[::1]:8080', `https://[::1]:${port}/`],
    ['GET', '/', '[::1]', `https://[::1]:${port}/`],
    ['HEAD', '/healthz', 'localhost', `https://localhost:${port}/healthz`],
    ['POST', '/api/presence', 'localhost', `https://localhost:${port}/api/presence`],
    ['DELETE', '/admin/users/x/connections', 'localhost', `https://localhost:${port}/admin/users/x/connections`],
    ['OPTIONS', '*', 'example.com', `https://example.com:${port}/`],
    ['OPTIONS', '/x', 'example.com', `https://example.com:${port}/x`],
    ['GET', '//evil.test/x', 'example.com', `https://example.com:${port}//evil.test/x`],
    ['GET', '/%0d%0aSet-Cookie:%20a=b', 'example.com', `https://example.com:${port}/%0d%0aSet-Cookie:%20a=b`],
  ];
  for (const [method, target, host, location] of rows) {
    const body = method === 'GET' || method === 'HEAD' ? '' : 'Content-Length: 0\r\n';
    const raw = await tcp(server.redirect);
    raw.write(`${method} ${target} HTTP/1.1\r\nHost: ${host}\r\n${body}\r\n`);
    const { status, headers } = await raw.head();
    raw.destroy();
    assert.equal(status, 308, `${method} ${target}`);
    assert.equal(headers.location, location, `${method} ${target}`);
    assert.equal(new URL(headers.location).host.replace(/:\d+$/, ''), host.replace(/:\d+$/, ''), 'the same host');
    assert.equal(headers['set-cookie'], undefined);
  }
  const websocket = await ask(server, upgrade('u', { headers: { Host: 'example.com' } }));
  assert.deepEqual([websocket.status, websocket.headers.location], [308, `https://example.com:${port}/ws/presence/u`]);
  assert.equal((await get(server.secure, '/api/presence/u')).status, 404, 'and was no presence');
});

test('a hostile Host injects nothing', async (t) => {
  const server = await begin(t);
  const hosts = ['', 'a b', 'user@evil.test', 'user:pass@evil.test', 'evil.test/x', 'evil.test/../', 'evil.test?x', 'evil.test#x',
    'evil.test\\x', '"><script>', 'example.com:80:80', 'example.com:port', 'example.com:999999', '[::1', '::1', '[x]', 'a,b',
    'example.com\tx', 'ex\x01ample.com', 'exämple.com', 'a'.repeat(300), '%0d%0aX-Evil: 1', 'http://evil.test', 'example.com;x', ':80'];
  for (const host of hosts) {
    const raw = await tcp(server.redirect);
    raw.write(Buffer.from(`GET /x HTTP/1.1\r\nHost: ${host}\r\n\r\n`, 'latin1'));
    const { status, headers, lines } = await raw.head();
    raw.destroy();
    assert.equal(headers['x-evil'], undefined);
    if (status === 308) {
      // a port that is none may be overlooked, since ours takes its place
      const [name] = host.split(':');
      assert.match(name, /^([a-z.]+)$/, `Host ${JSON.stringify(host)}: ${lines.join(' | ')}`);
      assert.equal(headers.location, `https://${name}:${server.secure.port}/x`);
    } else {
      assert.equal(status, 400, `Host ${JSON.stringify(host)}: ${lines.join(' | ')}`);
      assert.equal(headers.location, undefined, JSON.stringify(host));
    }
  }
  for (const text of [
    'GET /x HTTP/1.1\r\n\r\n',
    'GET /x HTTP/1.1\r\nHost: a.test\r\nHost: b.test\r\n\r\n',
    'GET /x y HTTP/1.1\r\nHost: a.test\r\n\r\n',
    'GET x HTTP/1.1\r\nHost: a.test\r\n\r\n',
    'GET \\\\evil.test HTTP/1.1\r\nHost: a.test\r\n\r\n',
    'nonsense\r\n\r\n',
  ]) {
    const answer = await ask(server, text);
    assert.equal(answer.status, 400, text);
    assert.equal(answer.headers.location, undefined, text);
  }
});

test('an absolute target names the host, Host does not (RFC 9112 section 3.2.2)', async (t) => {
  const server = await begin(t);
  const rows = [['http://example.com/x?y', 'example.com', '/x?y'], ['http://example.com', 'example.com', '/'], ['HTTPS://EXAMPLE.com:81?y', 'example.com', '/?y']];
  for (const [target, host, path] of rows) {
    const { status, headers } = await ask(server, `GET ${target} HTTP/1.1\r\nHost: other.test\r\n\r\n`);
    assert.deepEqual([status, headers.location], [308, `https://${host}:${server.secure.port}${path}`], target);
  }
  const answer = await ask(server, 'GET http://example.com@evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n');
  assert.deepEqual([answer.status, answer.headers.location], [400, undefined]);
});

test('the redirecting port has the deadlines and the manners of the others', async (t) => {
  const server = await begin(t, { args: [...ARGS, '--request-timeout', `${500 * window}ms`] });
  const silent = await tcp(server.redirect);
  silent.write('GET / HT');
  await until('the end', () => silent.ended, { within: 3000 * slow });
  for (let i = 0; i < 3; i++) assert.equal((await ask(server, 'GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n')).status, 308);
});
