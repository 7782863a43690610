'use strict';
// H04: X-Forwarded-For and -Proto count only from a trusted proxy, and only as far as it goes.
const assert = require('node:assert/strict');
const { test, start, startSecure, connect, refusal, rawConnect, tcp, upgrade, json, get, passwordFile, tryLogin, cookieOf, tokenKey, bearer } = require('./lib');

let users = 0;

/** The address that the server gives a client which says this. */
async function addressOf(server, lines, { localAddress = '127.0.0.1', host } = {}) {
  const id = `u${users++}`;
  const raw = await tcp(server, { localAddress: host ? undefined : localAddress, ...(host ? { host } : {}) });
  raw.write(upgrade(id, { extra: lines.map((one) => (one.includes(': ') ? one : `X-Forwarded-For: ${one}`)) }));
  const head = await raw.head();
  if (head.status !== 101) return head.status;
  await raw.message();
  const [connection] = (await json(server, `/admin/users/${id}`)).connection_list;
  raw.destroy();
  return connection.address;
}

test('H04 the rightmost address that is no trusted proxy', async (t) => {
  const server = await start(t, { args: ['--trusted-proxy', '127.0.0.1', '--trusted-proxy', '10.0.0.0/8', '--trusted-proxy', 'fd00::/8'] });
  const rows = [
    [['203.0.113.9'], '203.0.113.9'],
    [['203.0.113.9, 10.1.2.3'], '203.0.113.9'],
    [['1.1.1.1, 203.0.113.9, 10.1.2.3, 10.255.0.1'], '203.0.113.9'],
    [['forged, 203.0.113.9'], '203.0.113.9'],
    [['1.1.1.1, 2.2.2.2, 203.0.113.9'], '203.0.113.9'],
    [['127.0.0.1, 203.0.113.9'], '203.0.113.9'],
    [['1.1.1.1', '203.0.113.9'], '203.0.113.9'],
    [['1.1.1.1', '203.0.113.9, 10.9.9.9', '10.1.1.1'], '203.0.113.9'],
    [['203.0.113.9', '10.1.1.1'], '203.0.113.9'],
    [['  203.0.113.9  ,  10.1.1.1  '], '203.0.113.9'],
    [['203.0.113.9,10.1.1.1'], '203.0.113.9'],
    [['2001:db8::7'], '2001:db8::7'],
    [['2001:DB8:0:0::7'], '2001:db8::7'],
    [['1.1.1.1, 2001:db8::7, fd12::1'], '2001:db8::7'],
    [['11.0.0.1, 10.0.0.1'], '11.0.0.1'],
    [['9.255.255.255'], '9.255.255.255'],
    [['x-forwarded-for: 203.0.113.9'], '203.0.113.9'],
    [[], '127.0.0.1'],
    [['10.1.1.1, 10.2.2.2'], '10.1.1.1'],
  ];
  for (const [lines, address] of rows) assert.equal(await addressOf(server, lines), address, JSON.stringify(lines));
  // what cannot be read ends the walk: nothing left of it counts
  for (const lines of [['203.0.113.9, nonsense'], ['203.0.113.9, 999.1.1.1'], ['203.0.113.9, 10.1.1'], ['1.1.1.1, , '], ['unknown'], ['_hidden'], [''], ['203.0.113.9, <script>'], [`${'1.1.1.1, '.repeat(200)}x`]]) {
    const found = await addressOf(server, lines);
    assert.ok(found === '127.0.0.1' || found === 400, `${JSON.stringify(lines).slice(0, 60)}: ${found}`);
  }
  // with a port, as some proxies write it, the address is either understood or not taken
  for (const [line, address] of [['203.0.113.9:5555', '203.0.113.9'], ['[2001:db8::7]:5555', '2001:db8::7'], ['[2001:db8::7]', '2001:db8::7']])
    assert.ok([address, '127.0.0.1'].includes(await addressOf(server, [line])), line);
});

test('H04 so many headers that the one of the proxy is not read: refused', async (t) => {
  const server = await start(t, { args: ['--trusted-proxy', '127.0.0.1'] });
  const forged = (junk) => ['9.9.9.9', ...Array.from({ length: junk }, (_, i) => `X-${i}: y`), '203.0.113.9'];
  assert.equal(await addressOf(server, forged(40)), '203.0.113.9');
  for (const junk of [58, 60, 64, 200]) {
    const found = await addressOf(server, forged(junk));
    assert.ok(found === '203.0.113.9' || found === 431, `${junk}: ${found}`);
  }
});

test('H04 a peer that is not trusted is not believed', async (t) => {
  const server = await start(t, { args: ['--trusted-proxy', '127.0.0.1'], listen: ['127.0.0.1:0', '[::1]:0'] });
  for (const localAddress of ['127.0.0.2', '127.0.0.77'])
    for (const lines of [['203.0.113.9'], ['203.0.113.9, 127.0.0.1'], ['127.0.0.1'], ['X-Real-IP: 203.0.113.9'], ['Forwarded: for=203.0.113.9']])
      assert.equal(await addressOf(server, lines, { localAddress }), localAddress, JSON.stringify(lines));
  const six = Object.assign(Object.create(server), server.addresses[1]);
  assert.equal(await addressOf(six, ['203.0.113.9'], { host: '::1' }), '::1', 'IPv6 loopback is another address');
  const bare = await start(t);
  assert.equal(await addressOf(bare, ['203.0.113.9']), '127.0.0.1', 'without --trusted-proxy nobody is');
});

test('H04 IPv6 proxies, ranges, and one that is both', async (t) => {
  const server = await start(t, { args: ['--trusted-proxy', '::1/128', '--trusted-proxy', '127.0.0.0/30'], listen: ['127.0.0.1:0', '[::1]:0'] });
  const six = Object.assign(Object.create(server), server.addresses[1]);
  assert.equal(await addressOf(six, ['203.0.113.9'], { host: '::1' }), '203.0.113.9');
  assert.equal(await addressOf(six, ['2001:db8::1, ::1'], { host: '::1' }), '2001:db8::1');
  for (const [localAddress, address] of [['127.0.0.3', '203.0.113.9'], ['127.0.0.4', '127.0.0.4']])
    assert.equal(await addressOf(server, ['203.0.113.9'], { localAddress }), address);
});

test('X-Forwarded-Proto from a proxy decides the own origin and the cookie\'s Secure', async (t) => {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args, ...passwordFile(t, 'secret').args, '--trusted-proxy', '127.0.0.1'] });
  const token = await key.user('u');
  const host = 'presence.example.com';
  const at = (scheme, headers, localAddress = '127.0.0.1') =>
    connect(server, 'u', { localAddress, headers: { Host: host, Origin: `${scheme}://${host}`, Authorization: `Bearer ${token}`, ...headers } }).then(
      (client) => client.close().then(() => 101),
      (error) => error.status,
    );
  const https = { 'X-Forwarded-Proto': 'https' };
  assert.equal(await at('https', https), 101);
  assert.equal(await at('http', https), 403);
  assert.equal(await at('http', {}), 101);
  assert.equal(await at('https', {}), 403);
  assert.equal(await at('http', { 'X-Forwarded-Proto': 'http' }), 101);
  assert.equal(await at('https', https, '127.0.0.2'), 403, 'not from elsewhere');
  assert.equal(await at('http', https, '127.0.0.2'), 101);
  const secure = async (headers, localAddress) => cookieOf(await tryLogin(server, 'secret', { headers, localAddress })).attributes.secure === true;
  assert.equal(await secure(https), true);
  assert.equal(await secure({}), false);
  assert.equal(await secure(https, '127.0.0.2'), false);
  assert.equal(await secure({ 'X-Forwarded-Proto': 'ftp' }), false);
  // some proxies say it in the words of WebSocket (Traefik), as a list, or in capitals
  for (const [value, scheme] of [['wss', 'https'], ['ws', 'http'], ['WSS', 'https'], ['Https', 'https'], ['https, http', 'https'], ['http,https', 'http'],
    ['wss,ws', 'https'], [' https ', 'https']]) {
    const said = { 'X-Forwarded-Proto': value };
    const other = scheme === 'https' ? 'http' : 'https';
    assert.deepEqual([await at(scheme, said), await at(other, said)], [101, 403], value);
    assert.equal(await secure(said), scheme === 'https', value);
    assert.equal(await at('http', said, '127.0.0.2'), 101, 'not from elsewhere');
  }
});

test('failed logins behind a proxy are counted for the client, not for the proxy', async (t) => {
  const server = await start(t, { args: [...passwordFile(t, 'secret').args, '--trusted-proxy', '127.0.0.1'] });
  const from = (address) => ({ headers: { 'X-Forwarded-For': address } });
  for (let i = 0; i < 3; i++) assert.equal((await tryLogin(server, 'wrong', from('203.0.113.9'))).status, 401);
  assert.equal((await tryLogin(server, 'wrong', from('203.0.113.9'))).status, 429);
  assert.equal((await tryLogin(server, 'wrong', from(`1.1.1.1, 203.0.113.9`))).status, 429, 'forged left entries do not help');
  assert.equal((await tryLogin(server, 'secret', from('203.0.113.10'))).status, 200);
});

test('limits by address count the client behind the proxy', async (t) => {
  const server = await start(t, { args: ['--trusted-proxy', '127.0.0.1', '--max-connections-per-address', '2'] });
  const from = (address) => ({ headers: { 'X-Forwarded-For': address } });
  for (let i = 0; i < 2; i++) await connect(server, `a${i}`, from('203.0.113.9'));
  assert.equal((await refusal(server, 'a2', from('203.0.113.9'))).status, 429);
  assert.equal((await refusal(server, 'a2', from('5.5.5.5, 203.0.113.9'))).status, 429);
  for (let i = 0; i < 2; i++) await connect(server, `b${i}`, from('203.0.113.10'));
  for (let i = 0; i < 4; i++) await rawConnect(server, `proxy${i}`); // the proxy itself is exempt
  assert.equal((await get(server, '/healthz')).status, 200);
  assert.equal(typeof bearer, 'function');
});
