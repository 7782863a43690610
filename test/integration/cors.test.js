'use strict';
// H05: what a browser on another, allowed origin may do, and what its preflight is told.
const assert = require('node:assert/strict');
const { test, startSecure, tokenKey, bearer, request, get, post, heartbeat } = require('./lib');

const APP = 'https://app.example.com';
const OTHER = 'http://localhost:5173';
const cors = (headers) => Object.fromEntries(Object.entries(headers).filter(([name]) => name.startsWith('access-control-')));
const list = (text) => (text || '').split(/\s*,\s*/).filter(Boolean).map((one) => one.toLowerCase()).sort();

/** The preflight of a request. */
const preflight = (server, path, Origin, method, headers = {}) =>
  request(server, 'OPTIONS', path, { headers: { Origin, 'Access-Control-Request-Method': method, ...headers } });

test('a preflight without credentials: 204 for allowed origins only', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args, '--allow-origin', APP, '--allow-origin', OTHER] });
  for (const target of [server, server.secure]) {
    for (const [path, method] of [['/api/presence/u', 'GET'], ['/api/presence', 'POST'], ['/api/presence/u/heartbeat', 'POST']]) {
      for (const origin of [APP, OTHER]) {
        const answer = await preflight(target, path, origin, method, { 'Access-Control-Request-Headers': 'authorization, content-type' });
        assert.equal(answer.status, 204, `${origin} ${path}`);
        assert.equal(answer.text, '');
        const found = cors(answer.headers);
        assert.equal(found['access-control-allow-origin'], origin);
        assert.equal(found['access-control-allow-credentials'], 'true');
        assert.ok(list(found['access-control-allow-methods']).includes(method.toLowerCase()), found['access-control-allow-methods']);
        assert.ok(!list(found['access-control-allow-methods']).includes('delete'), 'only what the path has');
        assert.deepEqual(list(found['access-control-allow-headers']), ['authorization', 'content-type']);
        assert.equal(found['access-control-max-age'], '600');
        assert.ok(list(answer.headers.vary).includes('origin'), answer.headers.vary);
        assert.equal(answer.headers['cache-control'], 'no-store');
      }
      for (const origin of ['https://evil.test', 'null', 'https://app.example.com.evil.test', 'http://app.example.com', '']) {
        const answer = await preflight(target, path, origin, method);
        assert.equal(answer.status, 403, `${origin} ${path}`);
        assert.equal(answer.json.error.code, 'forbidden_origin');
        assert.deepEqual(cors(answer.headers), {});
      }
    }
  }
});

test('/admin/ has no CORS, preflights there are refused', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args, '--allow-origin', APP] });
  const admin = await key.admin();
  for (const path of ['/admin/stats', '/admin/users/u/connections', '/admin/login', '/admin/logout']) {
    for (const origin of [APP, 'https://evil.test']) {
      const answer = await preflight(server, path, origin, 'GET');
      assert.deepEqual(cors(answer.headers), {}, path);
      assert.ok(answer.status >= 400 || answer.status === 204, `${path}: ${answer.status}`);
    }
  }
  const read = await get(server, '/admin/stats', bearer(admin, { Origin: APP }));
  assert.deepEqual(cors(read.headers), {});
});

test('answers to an allowed origin name it, errors too; Vary and no-store are kept', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args, '--allow-origin', APP, '--allow-origin', OTHER] });
  const token = await key.user('u');
  await heartbeat(server, 'u', bearer(token));
  const requests = [
    ['GET', '/api/presence/u', {}, bearer(token), 200], ['HEAD', '/api/presence/u', {}, bearer(token), 200],
    ['POST', '/api/presence', { body: { users: ['u'] } }, bearer(token), 200], ['POST', '/api/presence/u/heartbeat', {}, bearer(token), 204],
    ['GET', '/api/presence/u', {}, {}, 401], ['GET', '/api/presence/other', {}, bearer(token), 403],
    ['POST', '/api/presence', { body: 'no json' }, bearer(token), 400], ['GET', '/api/nothing', {}, bearer(token), 404], ['PUT', '/api/presence', {}, bearer(token), 405],
  ];
  for (const [method, path, options, { headers = {} }, status] of requests) {
    for (const Origin of [APP, OTHER]) {
      const answer = await request(server, method, path, { ...options, headers: { ...headers, Origin } });
      assert.equal(answer.status, status, `${method} ${path}`);
      assert.equal(answer.headers['access-control-allow-origin'], Origin, `${method} ${path} ${status}`);
      assert.equal(answer.headers['access-control-allow-credentials'], 'true');
      assert.ok(list(answer.headers.vary).includes('origin'));
      assert.equal(answer.headers['cache-control'], 'no-store');
    }
    const none = await request(server, method, path, { ...options, headers });
    assert.equal(none.status, status);
    assert.deepEqual(cors(none.headers), {}, `${method} ${path} without Origin`);
    const foreign = await request(server, method, path, { ...options, headers: { ...headers, Origin: 'https://evil.test' } });
    assert.deepEqual(cors(foreign.headers), {}, `${method} ${path} from elsewhere`);
    assert.equal(foreign.status, method === 'GET' || method === 'HEAD' ? status : 403);
  }
  const own = await post(server, '/api/presence', { users: ['u'] }, bearer(token, { Origin: `http://127.0.0.1:${server.port}` }));
  assert.equal(own.status, 200);
});

test('the client may be loaded by pages of any origin, nothing else of the server', async (t) => {
  for (const args of [[], ['--allow-origin', APP]]) {
    const server = await startSecure(t, { args });
    const allowed = async (path, Origin) => (await request(server, 'GET', path, Origin ? { headers: { Origin } } : {})).headers['access-control-allow-origin'];
    for (const path of ['/presence.js', '/use-presence-status.js']) {
      for (const Origin of ['https://evil.test', 'null', `http://127.0.0.1:${server.port}`, undefined]) assert.equal(await allowed(path, Origin), '*', `${path} ${Origin}`);
      const { status, headers } = await request(server, 'GET', path, { headers: { Origin: APP } });
      assert.equal(headers['access-control-allow-origin'], args.length ? APP : '*');
      assert.equal(list(headers.vary).includes('origin'), args.length > 0);
      const known = await request(server, 'GET', path, { headers: { Origin: 'https://evil.test', 'If-None-Match': headers.etag } });
      assert.deepEqual([status, known.status, known.headers['access-control-allow-origin']], [200, 304, '*'], 'from the cache too');
    }
    for (const path of ['/', '/presence.d.ts', '/demo.js', '/closed.css', '/admin/', '/admin/admin.js', '/healthz', '/nothing.js']) assert.equal((await fetch(`http://127.0.0.1:${server.port}${path}`, { headers: { Origin: 'https://evil.test' } })).headers.get('access-control-allow-origin'), null, path);
  }
});

test('OPTIONS that is no preflight: 204 with Allow', async (t) => {
  const server = await startSecure(t, { args: ['--allow-origin', APP] });
  for (const [path, methods] of [['/api/presence', ['post']], ['/api/presence/u', ['get', 'head']], ['/api/presence/u/heartbeat', ['post']], ['/healthz', ['get', 'head']], ['/admin/users/u/connections', ['delete']]]) {
    const answer = await request(server, 'OPTIONS', path);
    assert.equal(answer.status, 204, path);
    for (const method of methods) assert.ok(list(answer.headers.allow).includes(method), `${path}: ${answer.headers.allow}`);
    assert.deepEqual(cors(answer.headers), {});
  }
  assert.equal((await request(server, 'OPTIONS', '/nothing')).status, 404);
});
