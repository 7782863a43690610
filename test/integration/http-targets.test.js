'use strict';
// What RFC 9110 and RFC 9112 say of targets, methods, lists and conditions, beyond what browsers do.
const assert = require('node:assert/strict');
const zlib = require('node:zlib');
const { test, start, tcp, tokenKey, upgrade, get } = require('./lib');

/** Says something on a connection of its own; gives the answer. */
async function ask(server, text) {
  const raw = await tcp(server);
  raw.write(text);
  const answer = text.startsWith('HEAD') ? await raw.head() : await raw.response();
  raw.destroy();
  return answer;
}
const line = (first, ...headers) => `${[first, ...headers].join('\r\n')}\r\n\r\n`;

test("an absolute target's authority counts, and Host is ignored", async (t) => {
  const server = await start(t); // in open mode, where only this machine is answered
  const good = ['http://localhost/healthz', 'HTTP://LOCALHOST:81/healthz', 'https://127.0.0.1/healthz', 'http://[::1]:80/healthz', 'http://localhost./healthz'];
  for (const target of good) {
    const answer = await ask(server, line(`GET ${target} HTTP/1.1`, 'Host: evil.example'));
    assert.deepEqual([answer.status, answer.body.slice(0, 9)], [200, '{"status"'], target);
  }
  assert.equal((await ask(server, line('GET http://localhost/healthz HTTP/1.0'))).status, 200, '1.0 needs no Host');
  for (const target of ['http://localhost', 'http://localhost?x=/healthz', 'http://localhost/']) {
    const answer = await ask(server, line(`GET ${target} HTTP/1.1`, 'Host: localhost'));
    assert.equal(answer.status, 200, target);
    assert.match(answer.headers['content-type'], /^text\/html/, `${target} is the page`);
  }
  assert.equal((await ask(server, line('GET http://evil.example/healthz HTTP/1.1', 'Host: localhost'))).status, 421);
  assert.equal((await ask(server, line('GET http://evil.example/healthz HTTP/1.0'))).status, 421);
  for (const target of ['http://localhost@evil.example/healthz', 'http://a:b@localhost/healthz', 'http:///healthz', 'http://localhost#/healthz', 'http://local host/healthz',
    'http://localhost:x/healthz', 'http://localhost:99999/healthz', `http://${'a'.repeat(400)}/healthz`, 'ws://localhost/healthz', 'localhost:80', 'http:/localhost/healthz'])
    assert.equal((await ask(server, line(`GET ${target} HTTP/1.1`, 'Host: localhost'))).status, 400, target);
  assert.equal((await ask(server, line('GET http://localhost/healthz HTTP/1.1'))).status, 400, '1.1 has a Host even so');
  assert.equal((await ask(server, line('GET http://localhost/healthz HTTP/1.1', 'Host: a', 'Host: b'))).status, 400);
  const raw = await tcp(server); // the next request on the connection has its own
  raw.write(line('GET http://localhost/healthz HTTP/1.1', 'Host: evil.example') + line('GET /healthz HTTP/1.1', 'Host: evil.example'));
  assert.equal((await raw.response()).status, 200);
  assert.equal((await raw.response()).status, 421);
  raw.destroy();
});

test('an absolute target is the own origin, also of an upgrade', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args, allow: [/upgrade refused/] });
  const token = await key.user('alice');
  const say = (host, origin) => ask(server, upgrade('alice', { path: `http://${host}/ws/presence/alice?token=${token}`, headers: { Host: 'evil.example', Origin: origin } }));
  assert.equal((await say('app.example', 'http://app.example')).status, 101);
  assert.equal((await say('app.example', 'http://evil.example')).status, 403);
});

test('localhost with a dot behind it is this machine', async (t) => {
  const server = await start(t);
  for (const host of ['localhost.', 'localhost.:80', 'LOCALHOST.', 'app.localhost.'])
    assert.equal((await ask(server, line('GET /healthz HTTP/1.1', `Host: ${host}`))).status, 200, host);
  for (const host of ['localhost.evil.example', 'notlocalhost.', '.'])
    assert.notEqual((await ask(server, line('GET /healthz HTTP/1.1', `Host: ${host}`))).status, 200, host);
});

test('OPTIONS * is about the server; an asterisk is no target of anything else', async (t) => {
  const server = await start(t);
  const answer = await ask(server, line('OPTIONS * HTTP/1.1', 'Host: localhost'));
  assert.deepEqual([answer.status, answer.headers.allow], [204, 'GET, HEAD, POST, PUT, DELETE, OPTIONS']);
  assert.equal((await ask(server, line('OPTIONS * HTTP/1.1', 'Host: evil.example'))).status, 421);
  for (const first of ['GET * HTTP/1.1', 'POST * HTTP/1.1', 'OPTIONS ** HTTP/1.1', 'OPTIONS *a HTTP/1.1'])
    assert.equal((await ask(server, line(first, 'Host: localhost', 'Content-Length: 0'))).status, 400, first);
  const raw = await tcp(server);
  raw.write(line('OPTIONS * HTTP/1.1', 'Host: localhost') + line('OPTIONS / HTTP/1.1', 'Host: localhost'));
  await raw.response();
  assert.equal((await raw.response()).headers.allow, 'GET, HEAD', 'and of the next request nothing is left');
  raw.destroy();
});

test('a method that is not known is 501, one that the path has not is 405', async (t) => {
  const server = await start(t);
  for (const method of ['BREW', 'get', 'TRACE', 'CONNECT', 'PROPFIND', 'M-SEARCH', 'GETT', 'G']) {
    const answer = await ask(server, line(`${method} /healthz HTTP/1.1`, 'Host: localhost', 'Content-Length: 0'));
    assert.deepEqual([answer.status, JSON.parse(answer.body).error.code], [501, 'not_implemented'], method);
  }
  for (const method of ['POST', 'PUT', 'DELETE', 'PATCH']) {
    const answer = await ask(server, line(`${method} /healthz HTTP/1.1`, 'Host: localhost', 'Content-Length: 0'));
    assert.deepEqual([answer.status, answer.headers.allow], [405, 'GET, HEAD'], method);
  }
  for (const method of ['G@T', 'GE T', '']) {
    const answer = await ask(server, line(`${method} /healthz HTTP/1.1`, 'Host: localhost'));
    assert.ok([400, 501].includes(answer.status), method);
  }
});

test('HEAD of the path of the WebSocket is as GET', async (t) => {
  const server = await start(t);
  const [head, read] = [await ask(server, line('HEAD /ws/presence/x HTTP/1.1', 'Host: localhost')), await ask(server, line('GET /ws/presence/x HTTP/1.1', 'Host: localhost'))];
  const same = ({ status, headers: { date, ...headers } }) => ({ status, headers });
  assert.deepEqual(same(head), same(read));
  assert.equal(head.status, 426);
  assert.equal((await ask(server, upgrade('x').replace('GET', 'HEAD'))).status, 426, 'nor does it upgrade');
});

test('several lines of Upgrade and Connection are one list', async (t) => {
  const server = await start(t, { allow: [/upgrade refused/] });
  const say = (Upgrade, Connection, extra) => ask(server, upgrade('u', { headers: { Upgrade, Connection }, extra }));
  for (const args of [['h2c', 'Upgrade', ['Upgrade: websocket']], ['websocket', 'keep-alive', ['Connection: Upgrade']], ['h2c, WebSocket', 'keep-alive, upgrade', []], ['h2c', 'HTTP2-Settings', ['Upgrade: foo/1, websocket', 'Connection: close, Upgrade']]])
    assert.equal((await say(...args)).status, 101, JSON.stringify(args));
  for (const args of [['h2c', 'Upgrade', []], ['websockets', 'Upgrade', []], ['websocket', 'upgraded', []], [null, 'Upgrade', ['Upgrades: websocket']]])
    assert.equal((await say(...args)).status, 426, JSON.stringify(args));
});

test('If-None-Match: weak, lists, the asterisk; plain and packed have different tags', async (t) => {
  const server = await start(t);
  const packed = { 'Accept-Encoding': 'gzip' };
  const [plain, gzip] = [await get(server, '/presence.js'), await tcp(server)];
  gzip.write(line('GET /presence.js HTTP/1.1', 'Host: localhost', 'Accept-Encoding: gzip'));
  const head = await gzip.head();
  const bytes = await gzip.read('the body', () => (gzip.bytes.length >= Number(head.headers['content-length']) ? gzip.bytes : undefined));
  gzip.destroy();
  assert.equal(zlib.gunzipSync(bytes).toString(), plain.text);
  const [tag, other] = [plain.headers.etag, head.headers.etag];
  assert.match(tag, /^"[^"]+"$/);
  assert.match(other, /^"[^"]+"$/);
  assert.notEqual(tag, other);
  const ask304 = async (match, headers = {}) =>
    (await ask(server, line('GET /presence.js HTTP/1.1', 'Host: localhost', `If-None-Match: ${match}`, ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`)))).status;
  for (const match of [tag, `W/${tag}`, '*', `"a", ${tag}`, `"a",W/${tag} , "b"`]) assert.equal(await ask304(match), 304, match);
  for (const match of [other, tag.toUpperCase() === tag ? '"x"' : tag.toUpperCase(), tag.slice(1, -1), `w/${tag}`, '"*"', '', `${tag.slice(0, -1)}`]) assert.equal(await ask304(match), 200, match);
  for (const match of [other, `W/${other}`, '*']) assert.equal(await ask304(match, packed), 304, match);
  assert.equal(await ask304(tag, packed), 200);
  const two = await ask(server, line('GET /presence.js HTTP/1.1', 'Host: localhost', 'If-None-Match: "a"', `If-None-Match: ${tag}`));
  assert.deepEqual([two.status, two.headers.etag], [304, tag], 'two lines are one list');
});

test('files are kept and asked for again, everything else is no-store', async (t) => {
  const server = await start(t);
  for (const path of ['/', '/admin/', '/presence.js', '/presence.d.ts', '/use-presence-status.js', '/use-presence-status.d.ts', '/favicon.svg', '/admin/admin.js']) {
    const { headers } = await get(server, path).catch(() => ask(server, line(`GET ${path} HTTP/1.1`, 'Host: localhost')));
    assert.equal(headers['cache-control'], 'no-cache', path);
    assert.ok(headers.etag, path);
  }
  for (const path of ['/healthz', '/readyz', '/metrics', '/nothing', '/admin'])
    assert.equal((await get(server, path)).headers['cache-control'], 'no-store', path);
});
