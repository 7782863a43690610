'use strict';
// Variants: release asan
const assert = require('node:assert/strict');
const http = require('node:http');
const {
  test,
  unique,
  start,
  tcp,
  upgrade,
  get,
  post,
  request,
  batch,
  heartbeat,
  heartbeats,
  connect,
  json,
  ISO,
  slow,
  within,
  until,
  presence,
} = require('./lib');

const line = (method, path, headers = '') =>
  `${method} ${path} HTTP/1.1\r\nHost: localhost\r\n${headers}\r\n`;

test.anywhere('a connection serves many requests, one after another', async (t) => {
  const server = await start(t);
  const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
  const id = unique('u');
  for (let i = 0; i < 50; i++) {
    await heartbeat(server, id, { agent });
    assert.equal((await get(server, `/api/presence/${id}`, { agent })).status, 200);
    assert.equal((await get(server, '/nope', { agent })).status, 404);
    assert.equal((await request(server, 'HEAD', `/api/presence/${id}`, { agent })).status, 200);
    await batch(server, [id], { agent });
  }
  const sockets = Object.values(agent.freeSockets).flat();
  assert.equal(sockets.length, 1);
  assert.equal(sockets[0].localPort > 0, true);
  agent.destroy();

  const raw = await tcp(server);
  for (let i = 0; i < 20; i++) {
    raw.write(line('GET', `/api/presence/${id}`));
    assert.equal((await raw.response()).status, 200);
  }
});

test.anywhere('a pipelining client that reads late gets every answer', async (t) => {
  const server = await start(t);
  await heartbeats(server, Array.from({ length: 1000 }, () => unique('u')));
  const { requests: earlier } = (await json(server, '/admin/stats')).counters;
  const raw = await tcp(server);
  const count = 150; // read at once, but their answers are more than the sockets' buffers hold
  raw.socket.pause();
  raw.write(line('GET', '/admin/online-users?limit=1000').repeat(count));
  let before = -1;
  await until('the server to wait for the client', async () => {
    const { requests } = (await json(server, '/admin/stats')).counters;
    const still = requests === before + 1; // only this request is new
    before = requests;
    return still;
  }, { every: 50 });
  assert.ok(before - earlier < count, `${before - earlier} answers did not fill the buffers`);
  raw.socket.resume();
  for (let i = 0; i < count; i++) assert.equal((await raw.response()).status, 200, `answer ${i}`);
});

test.anywhere('pipelined requests are answered in order', async (t) => {
  const server = await start(t);
  const ids = Array.from({ length: 20 }, () => unique('u'));
  for (const id of ids) await heartbeat(server, id);
  const raw = await tcp(server);
  raw.write(
    ids
      .map((id, i) =>
        i % 4 === 3
          ? `POST /api/presence HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${JSON.stringify({ users: [id] }).length}\r\n\r\n${JSON.stringify({ users: [id] })}`
          : line('GET', `/api/presence/${id}`),
      )
      .join(''),
  );
  for (const [i, id] of ids.entries()) {
    const answer = await raw.response();
    assert.equal(answer.status, 200);
    const body = JSON.parse(answer.body);
    assert.equal((i % 4 === 3 ? body.users[0] : body).user_id, id);
  }
  raw.write(line('GET', '/healthz'));
  assert.equal((await raw.response()).status, 200);
});

test.anywhere('an upgrade may follow other requests on its connection', async (t) => {
  const server = await start(t);
  const raw = await tcp(server);
  const id = unique('u');
  raw.write(line('GET', '/healthz'));
  assert.equal((await raw.response()).status, 200);
  raw.write(line('GET', '/healthz'), upgrade(id));
  assert.equal((await raw.response()).status, 200);
  assert.equal((await raw.head()).status, 101);
  assert.equal((await raw.message()).type, 'hello');
  await raw.ping();
});

test.anywhere('Connection: close and HTTP/1.0 end after the answer', async (t) => {
  const server = await start(t);
  for (const text of [
    line('GET', '/healthz', 'Connection: close\r\n'),
    'GET /healthz HTTP/1.0\r\n\r\n',
  ]) {
    const raw = await tcp(server);
    raw.write(text);
    const answer = await raw.response();
    assert.equal(answer.status, 200);
    await within(2000 * slow, 'the end', raw.closed);
    assert.equal(raw.bytes.length, 0);
  }
});

test.anywhere('HEAD is GET without the body', async (t) => {
  const server = await start(t);
  const id = unique('u');
  await heartbeat(server, id);
  const raw = await tcp(server);
  for (const path of [
    `/api/presence/${id}`,
    '/healthz',
    '/readyz',
    '/admin/stats',
    '/admin/online-users',
    '/metrics',
    '/nope',
    `/api/presence/${unique('x')}`,
  ]) {
    raw.write(line('GET', path), line('HEAD', path));
    const got = await raw.response();
    const head = await raw.head();
    assert.equal(head.status, got.status, path);
    assert.equal(head.headers['content-type'], got.headers['content-type'], path);
    if (!/stats|metrics|online/.test(path))
      assert.equal(head.headers['content-length'], got.headers['content-length'], path);
  }
  raw.write(line('GET', '/healthz'));
  assert.equal((await raw.response()).status, 200, 'no body came between');
});

test.anywhere('unknown paths are 404 not_found', async (t) => {
  const server = await start(t);
  for (const path of [
    '/nope',
    '/api',
    '/api/',
    '/api/nope',
    '/api/presence/a/nope',
    '/api/presence/a/heartbeat/x',
    '/admin/nope',
    '/admin/users/a/nope',
    '/ws',
    '/ws/',
    '/ws/nope/a',
    '/healthz/',
    '/healthzz',
    '/metrics/x',
    '/index.php',
    '/.git/config',
  ]) {
    const answer = await get(server, path);
    assert.equal(answer.status, 404, path);
    assert.equal(answer.json.error.code, 'not_found', path);
  }
});

test.anywhere('a wrong method is 405 with the right ones in Allow', async (t) => {
  const server = await start(t);
  const wrong = [
    ['DELETE', '/api/presence/a', ['GET']],
    ['POST', '/api/presence/a', ['GET']],
    ['GET', '/api/presence/a/heartbeat', ['POST']],
    ['GET', '/api/presence', ['POST']],
    ['PUT', '/api/presence', ['POST']],
    ['POST', '/admin/online-users', ['GET']],
    ['POST', '/admin/users', ['GET']],
    ['DELETE', '/admin/users/a', ['GET']],
    ['POST', '/admin/users/a/sessions', ['GET']],
    ['GET', '/admin/users/a/connections', ['DELETE']],
    ['PATCH', '/admin/stats', ['GET']],
    ['POST', '/healthz', ['GET']],
    ['POST', '/readyz', ['GET']],
    ['POST', '/metrics', ['GET']],
    ['POST', '/ws/presence/a', ['GET']],
  ];
  for (const [method, path, allowed] of wrong) {
    const answer = await request(server, method, path);
    assert.equal(answer.status, 405, `${method} ${path}`);
    assert.equal(answer.json.error.code, 'method_not_allowed');
    const allow = (answer.headers.allow || '').split(/, */);
    for (const one of allowed) assert.ok(allow.includes(one), `${method} ${path}: Allow ${allow}`);
    assert.ok(!allow.includes(method), `${method} ${path}: Allow ${allow}`);
  }
  const head = await request(server, 'HEAD', '/ws/presence/a');
  assert.deepEqual([head.status, head.text, head.headers['sec-websocket-version']], [426, '', '13'], 'as GET (RFC 9110 section 9.3.2)');
});

test.anywhere('a batch answers in the order asked, each occurrence', async (t) => {
  const server = await start(t);
  const [a, b, ghost] = [unique('a'), unique('b'), unique('ghost')];
  await connect(server, a);
  await heartbeat(server, b);
  const users = await batch(server, [b, ghost, a, b, a]);
  assert.deepEqual(
    users.map((user) => user.source),
    ['cached', 'stored', 'live', 'cached', 'live'],
  );
  assert.equal(users[1].last_seen, null);
  const answer = await post(server, '/api/presence', { users: [] });
  assert.deepEqual([answer.status, answer.json.users], [200, []]);
  assert.match(answer.json.generated_at, ISO);
  await batch(
    server,
    Array.from({ length: 1000 }, (_, i) => `${'x'.repeat(100)}-${i}`),
  );
  assert.deepEqual((await batch(server, [a]))[0], await presence(server, a));
});

test.anywhere('a batch that is wrong is told why', async (t) => {
  const server = await start(t);
  const wrong = [
    ['nonsense', ['invalid_json']],
    ['', ['invalid_json']],
    ['{"users":["a"]', ['invalid_json']],
    ['{"users":["a"]} x', ['invalid_json']],
    ['{"users":["\xff"]}', ['invalid_json', 'invalid_user_id']],
    ['[]', ['invalid_request', 'invalid_parameter']],
    ['null', ['invalid_request', 'invalid_parameter']],
    ['{}', ['invalid_request', 'invalid_parameter']],
    ['{"users":"a"}', ['invalid_request', 'invalid_parameter']],
    ['{"users":{"0":"a"}}', ['invalid_request', 'invalid_parameter']],
    [JSON.stringify({ users: Array(1001).fill('a') }), ['invalid_parameter']],
    [
      `{"users":${'['.repeat(20000)}${']'.repeat(20000)}}`,
      ['invalid_json', 'invalid_request', 'invalid_parameter'],
    ],
  ];
  for (const [body, codes] of wrong) {
    const answer = await request(server, 'POST', '/api/presence', {
      body: Buffer.from(body, 'latin1'),
    });
    assert.equal(answer.status, 400, body.slice(0, 40));
    assert.ok(codes.includes(answer.json.error.code), `${body.slice(0, 40)}: ${answer.text}`);
  }
});

test.anywhere('query parameters out of bounds are 400', async (t) => {
  const server = await start(t);
  for (const query of [
    'limit=0',
    'limit=1001',
    'limit=-1',
    'limit=abc',
    'limit=',
    'limit=1.5',
    'limit=99999999999999999999',
    'limit=1%00',
  ]) {
    for (const path of ['/admin/online-users', '/admin/users']) {
      const answer = await get(server, `${path}?${query}`);
      assert.deepEqual(
        [answer.status, answer.json.error?.code],
        [400, 'invalid_parameter'],
        `${path}?${query}`,
      );
    }
  }
  for (const cursor of ['%00', '***', '%FF%FE', 'x'.repeat(3000), 'AAAA%3D%3D%3D%3D']) {
    for (const path of ['/admin/online-users', '/admin/users']) {
      const answer = await get(server, `${path}?cursor=${cursor}`);
      assert.deepEqual(
        [answer.status, answer.json.error?.code],
        [400, 'invalid_cursor'],
        `${path}?cursor=${cursor.slice(0, 20)}`,
      );
    }
  }
  const status = await get(server, '/admin/users?status=maybe');
  assert.deepEqual([status.status, status.json.error?.code], [400, 'invalid_parameter']);
  assert.equal((await get(server, '/admin/users?limit=1000')).status, 200);
  assert.equal((await get(server, '/admin/online-users?limit=1&unknown=x&&=')).status, 200);
});

test.anywhere('a body that is too big is 413', async (t) => {
  const server = await start(t);
  const big = await tcp(server);
  big.write('POST /api/presence HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n{');
  const answer = await big.response(2000 * slow);
  assert.deepEqual(
    [answer.status, JSON.parse(answer.body).error.code],
    [413, 'body_too_large'],
    'told before the body is there',
  );
  await within(2000 * slow, 'the end', big.closed);
});

test.anywhere('H05 everything on API and admin is no-store, errors too', async (t) => {
  const server = await start(t);
  const id = unique('u');
  await heartbeat(server, id);
  const asked = [
    ['GET', `/api/presence/${id}`],
    ['GET', '/api/presence/%00'],
    ['GET', `/api/presence/${unique('x')}`],
    ['POST', `/api/presence/${id}/heartbeat`],
    ['GET', '/api/nope'],
    ['DELETE', `/api/presence/${id}`],
    ['GET', '/admin/stats'],
    ['GET', '/admin/nope'],
    ['GET', '/admin/users?limit=0'],
    ['GET', '/admin/online-users'],
    ['GET', `/admin/users/${id}`],
    ['HEAD', '/admin/stats'],
  ];
  for (const [method, path] of asked) {
    const answer = await request(server, method, path);
    assert.equal(answer.headers['cache-control'], 'no-store', `${method} ${path}`);
    assert.equal(answer.headers['set-cookie'], undefined);
  }
  const lists = await json(server, '/admin/users?limit=1');
  assert.match(lists.generated_at, ISO);
});
