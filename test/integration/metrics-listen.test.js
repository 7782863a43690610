'use strict';
// --metrics-listen serves measurements to anyone, and nothing else to anybody.
const assert = require('node:assert/strict');
const { test, start, seen, get, request, refusal, tokenKey, bearer, connect, acceptedConfig, startSecure } = require('./lib');

test('metrics, health and readiness without a token; everything else is not there', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, '--metrics-listen', '127.0.0.1:0'], listening: 1 });
  const metrics = seen(server, server.of('metrics')[0]);
  await connect(server, 'u', bearer(await key.user('u')));
  for (const headers of [{}, { Host: 'prometheus.internal:9100' }, { Origin: 'https://evil.test' }]) {
    const answer = await get(metrics, '/metrics', { headers });
    assert.equal(answer.status, 200);
    assert.match(answer.text, /^presence_\w+ 1$/m);
    assert.equal(answer.headers['access-control-allow-origin'], undefined);
    assert.equal((await get(metrics, '/healthz', { headers })).status, 200);
    assert.equal((await get(metrics, '/readyz', { headers })).status, 200);
  }
  const admin = bearer(await key.admin());
  for (const path of ['/', '/admin/', '/admin/stats', '/admin/online-users', '/api/presence/u', '/presence.js', '/admin/login'])
    assert.equal((await get(metrics, path, admin)).status, 404, path);
  assert.equal((await request(metrics, 'POST', '/api/presence/u/heartbeat', bearer(await key.user('u')))).status, 404);
  assert.equal((await request(metrics, 'POST', '/admin/login', { body: { password: 'x' } })).status, 404);
  assert.equal((await refusal(metrics, 'u', bearer(await key.user('u')))).status, 404);
});

test('the other ports give metrics to admins only', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args, '--metrics-listen', '127.0.0.1:0'], listening: 1 });
  for (const target of [server, server.secure]) {
    assert.equal((await get(target, '/metrics')).status, 401);
    assert.equal((await get(target, '/metrics', bearer(await key.user('u')))).status, 403);
    assert.equal((await get(target, '/metrics', bearer(await key.admin()))).status, 200);
  }
});

test('it may stand beyond loopback', async () => {
  await acceptedConfig(['--listen', '127.0.0.1:0', '--metrics-listen', '0.0.0.0:0', '--metrics-listen', '[::]:0']);
});
