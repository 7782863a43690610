'use strict';
// Tokens that must not be taken: other algorithms, other keys, other times, other shapes.
const assert = require('node:assert/strict');
const crypto = require('node:crypto');
const fs = require('node:fs');
const path = require('node:path');
const { once } = require('node:events');
const { execFileSync, spawn } = require('node:child_process');
const { test, start, tempDir, TokenKey, tokenKey, bearer, forge, hmac, seconds, refusal, connect, get, post, until, run, tcp } = require('./lib');
const jose = require('jose');
const { binary } = require('./lib/variant');

/** Refused as invalid on a socket and by HTTP, with an error that does not repeat the token. */
async function invalid(server, token, what, id = 'u') {
  const answer = await get(server, `/api/presence/${id}`, bearer(token));
  assert.equal(answer.status, 401, `${what}: ${answer.status} ${answer.text}`);
  assert.ok(['token_invalid', 'token_expired'].includes(answer.json.error.code), `${what}: ${answer.text}`);
  assert.match(answer.headers['www-authenticate'] || '', /^Bearer\b/, what);
  if (token.length > 20) assert.ok(!answer.text.includes(token.slice(0, 20)), `${what}: the token in ${answer.text}`);
  assert.equal((await refusal(server, id, bearer(token))).status, 401, what);
  return answer.json.error;
}

test('algorithm confusion: a public key is no secret, none is no signature', async (t) => {
  const dir = tempDir(t);
  const keys = ['RS256', 'ES256'].map((alg) => new TokenKey(dir, { alg }));
  const secret = new TokenKey(dir);
  const server = await start(t, { args: [...keys, secret].flatMap((key) => key.args) });
  const claims = { sub: 'u', exp: seconds() + 600 };
  for (const { publicPem, pair, alg } of keys) {
    const der = pair.publicKey.export({ type: 'spki', format: 'der' });
    for (const material of [publicPem, publicPem.trim(), der])
      await invalid(server, forge({ alg: 'HS256', typ: 'JWT' }, claims, hmac(material)), `${alg} as a secret`);
  }
  const { pair } = keys[0];
  const rsa = (hash, options = {}) => (text) => crypto.sign(hash, text, { key: pair.privateKey, ...options }).toString('base64url');
  for (const alg of ['none', 'None', 'NONE', 'nOnE', '', 'HS', 'hs256', 'HS256 ', 'HS257', null, 0, ['HS256'], { a: 1 }, undefined]) {
    await invalid(server, forge({ alg }, claims), `alg ${JSON.stringify(alg)} unsigned`);
    await invalid(server, forge({ alg }, claims, hmac(secret.secret)), `alg ${JSON.stringify(alg)} signed`);
  }
  const other = (hash) => (text) => crypto.createHmac(hash, secret.secret).update(text).digest('base64url');
  await invalid(server, forge({ alg: 'HS512' }, claims, other('sha512')), 'HS512');
  await invalid(server, forge({ alg: 'HS384' }, claims, other('sha384')), 'HS384');
  await invalid(server, forge({ alg: 'RS512' }, claims, rsa('sha512')), 'RS512');
  await invalid(server, forge({ alg: 'PS256' }, claims, rsa('sha256', { padding: crypto.constants.RSA_PKCS1_PSS_PADDING })), 'PS256');
  await invalid(server, forge({ alg: 'RS256' }, claims, rsa('sha1')), 'RS256 over SHA-1');
  await invalid(server, forge({ alg: 'HS256' }, claims, rsa('sha256')), 'RS256 called HS256');
  await invalid(server, forge({ alg: 'RS256' }, claims, hmac(secret.secret)), 'HS256 called RS256');
  await invalid(server, forge({ alg: 'ES256' }, claims, rsa('sha256')), 'RS256 called ES256');
  const ec = keys[1].pair.privateKey;
  await invalid(server, forge({ alg: 'ES256' }, claims, (text) => crypto.sign('sha256', text, ec).toString('base64url')), 'ES256 as DER');
  await invalid(server, forge({ alg: 'ES256' }, claims, () => Buffer.alloc(64).toString('base64url')), 'ES256 of zeros');
  const [r, s] = [Buffer.alloc(32, 0xff), Buffer.alloc(32, 0xff)];
  await invalid(server, forge({ alg: 'ES256' }, claims, () => Buffer.concat([r, s]).toString('base64url')), 'ES256 out of range');
  await invalid(server, forge({ alg: 'HS256' }, claims, () => ''), 'HS256 without signature');
  await invalid(server, forge({ alg: 'HS256' }, claims, (text) => hmac(secret.secret)(text).slice(0, 20)), 'half a signature');
  await invalid(server, forge({ alg: 'HS256' }, claims, hmac('')), 'signed with nothing');
  for (const header of [{ crit: ['exp'] }, { crit: ['b64'], b64: false }, { jwk: secret.signer.toString('hex') }, { b64: false }])
    if (header.crit) await invalid(server, forge({ alg: 'HS256', ...header }, claims, hmac(secret.secret)), JSON.stringify(header));
  const good = forge({ alg: 'HS256', typ: 'JWT' }, claims, hmac(secret.secret));
  await connect(server, 'u', bearer(good));
});

test('keys that the token itself brings are not looked at', async (t) => {
  const dir = tempDir(t);
  const key = new TokenKey(dir, { alg: 'ES256' });
  const server = await start(t, { args: key.args });
  const own = new TokenKey(dir, { alg: 'ES256' });
  const jwk = await jose.exportJWK(own.pair.publicKey);
  for (const header of [{ jwk }, { jku: 'http://127.0.0.1:1/keys' }, { x5u: 'http://127.0.0.1:1/' }, { kid: '../../dev/null' }, { kid: own.file }])
    await invalid(server, await own.sign({ sub: 'u' }, header), JSON.stringify(Object.keys(header)));
});

test('every flipped bit of a token is noticed', async (t) => {
  const dir = tempDir(t);
  for (const alg of ['HS256', 'ES256']) {
    const key = new TokenKey(dir, { alg });
    const server = await start(t, { args: key.args });
    const token = await key.user('u');
    const parts = token.split('.').map((part) => Buffer.from(part, 'base64url'));
    for (const [index, part] of parts.entries()) {
      for (const at of [0, part.length >> 1, part.length - 1]) {
        for (const bit of [0, 7]) {
          const flipped = Buffer.from(part);
          flipped[at] ^= 1 << bit;
          const text = parts.map((one, i) => (i === index ? flipped : one).toString('base64url')).join('.');
          assert.equal((await get(server, '/api/presence/u', bearer(text))).status, 401, `${alg}, part ${index}, byte ${at}, bit ${bit}`);
        }
      }
    }
    await server.stop();
  }
});

test('shapes that are no token', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const token = await key.user('u');
  const [head, body, signature] = token.split('.');
  const standard = forge({ alg: 'HS256' }, { sub: 'u', exp: seconds() + 600, pad: '~~~~????>>>>' }, hmac(key.secret));
  const shapes = {
    'two parts': `${head}.${body}`,
    'two dots': '..',
    'four parts': `${token}.${signature}`,
    'an empty head': `.${body}.${signature}`,
    'an empty body': `${head}..${signature}`,
    padded: `${token}=`,
    'padded head': `${head}=.${body}.${signature}`,
    'a blank inside': `${head}.${body} .${signature}`,
    'a star': `${head}.${body}.*${signature.slice(1)}`,
    'base64, not base64url': standard.replace(/-/g, '+').replace(/_/g, '/'),
    'one character more': `${token}A`,
    'a length that no bytes have': `${head}.${body}.${'A'.repeat(45)}`,
    'loose last bits': `${token.slice(0, -1)}${String.fromCharCode(token.charCodeAt(token.length - 1) + 1)}`,
    'JSON itself': '{"alg":"none"}.{"sub":"u"}.',
    word: 'nonsense',
    'a percent sign': '%2e%2e',
  };
  for (const [what, text] of Object.entries(shapes)) {
    if (text === standard) continue;
    await invalid(server, text, what);
  }
  const sign = (header, claims) => forge(header, claims, hmac(key.secret));
  const alg = { alg: 'HS256' };
  const bodies = {
    'no JSON': 'nonsense', 'an array': '[]', 'a string': '"u"', null: 'null', 'a number': '7', nothing: '', 'cut JSON': '{"sub":"u","exp":99999999999',
    'two values': '{"sub":"u","exp":99999999999}{}', 'bad UTF-8': Buffer.from([0x7b, 0xff, 0x7d]).toString('latin1'),
    'too deep': `{"sub":"u","exp":99999999999,"x":${'['.repeat(500)}${']'.repeat(500)}}`,
    'no exp': '{"sub":"u"}', 'exp a string': '{"sub":"u","exp":"99999999999"}', 'exp null': '{"sub":"u","exp":null}', 'exp true': '{"sub":"u","exp":true}',
    'exp negative': '{"sub":"u","exp":-1}', 'exp 0': '{"sub":"u","exp":0}', 'exp an array': '{"sub":"u","exp":[99999999999]}',
    'nbf a string': '{"sub":"u","exp":99999999999,"nbf":"0"}',
    'no sub': '{"exp":99999999999}', 'sub null': '{"sub":null,"exp":99999999999}', 'sub empty': '{"sub":"","exp":99999999999}',
  };
  for (const [what, text] of Object.entries(bodies)) {
    const answer = await get(server, '/api/presence/u', bearer(sign(alg, text)));
    assert.ok([401, 403].includes(answer.status), `${what}: ${answer.status}`);
    assert.ok([401, 403].includes((await refusal(server, 'u', bearer(sign(alg, text)))).status), what);
  }
  for (const header of ['nonsense', '[]', '"HS256"', '', '{}', '{"typ":"JWT"}'])
    await invalid(server, sign(header, { sub: 'u', exp: seconds() + 600 }), `header ${header}`);
  for (const exp of [seconds() + 600.5, 253402300799])
    await connect(server, 'u', bearer(sign(alg, { sub: 'u', exp })));
});

test('sizes: a large token is taken or refused whole, an oversized one is no crash', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, '--max-head', '64k'] });
  await connect(server, 'u', bearer(await key.user('u', { watch: Array.from({ length: 100 }, (_, i) => `friend-${i}`) })));
  for (const size of [4000, 20000, 40000]) {
    const token = await key.user('u', { pad: 'x'.repeat(size) });
    const { status } = await get(server, '/api/presence/u', bearer(token));
    assert.ok([200, 401, 431].includes(status), `${size}: ${status}`);
    const forged = `${token.slice(0, -10)}AAAAAAAAAA`;
    assert.ok([401, 431].includes((await get(server, '/api/presence/u', bearer(forged))).status));
    assert.ok([401, 414, 431].includes((await get(server, `/api/presence/u?token=${forged}`)).status));
  }
  for (const value of ['', 'Bearer', 'Bearer ', 'Bearer  ', 'Basic dTpw', 'Bearer a b c', `Bearer ${'A'.repeat(60000)}`]) {
    const raw = await tcp(server);
    raw.write(`GET /api/presence/u HTTP/1.1\r\nHost: localhost\r\nAuthorization: ${value}\r\n\r\n`);
    const answer = await raw.response();
    assert.ok([401, 431].includes(answer.status), `${value.slice(0, 20)}: ${answer.status}`);
    raw.destroy();
  }
  const two = await tcp(server);
  const good = await key.user('u');
  two.write(`GET /api/presence/u HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\nAuthorization: Bearer ${good}\r\n\r\n`);
  assert.ok([400, 401].includes((await two.response()).status), 'two Authorization lines');
});

test('times: exp and nbf, and 30 s of clock skew on either side', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: key.args });
  const now = seconds();
  const rows = [
    [{ exp: now - 31 }, 'token_expired'], [{ exp: now - 3600 }, 'token_expired'], [{ exp: now - 24 }, 200], [{ exp: now + 5 }, 200],
    [{ nbf: now + 45 }, 'token_invalid'], [{ nbf: now + 3600 }, 'token_invalid'], [{ nbf: now + 25 }, 200], [{ nbf: now - 5 }, 200],
    [{ exp: now + 3600, nbf: now - 3600, iat: now + 3600 }, 200],
    [{ exp: now - 31, nbf: now - 60 }, 'token_expired'],
  ];
  for (const [claims, expected] of rows) {
    const token = await key.user('u', claims);
    const what = JSON.stringify(Object.fromEntries(Object.entries(claims).map(([name, value]) => [name, value - now])));
    if (expected === 200) {
      const client = await connect(server, 'u', bearer(token));
      assert.equal((await get(server, '/api/presence/u', bearer(token))).status, 200, what);
      await client.close();
    } else {
      const error = await invalid(server, token, what);
      // contract: expired is told as expired or as invalid, the message says which kind of wrong
      if (expected === 'token_expired') assert.match(`${error.code} ${error.message}`, /expired/, what);
      else assert.match(error.message, /not yet|before|nbf/i, what);
    }
  }
});

test('issuer and audience', async (t) => {
  const key = tokenKey(t);
  const server = await start(t, { args: [...key.args, '--jwt-issuer', 'https://issuer.test', '--jwt-audience', 'presence'] });
  const good = { iss: 'https://issuer.test', aud: 'presence' };
  for (const claims of [good, { ...good, aud: ['other', 'presence'] }, { ...good, aud: ['presence'] }])
    await connect(server, 'u', bearer(await key.user('u', claims)));
  for (const claims of [{}, { ...good, iss: undefined }, { ...good, aud: undefined }, { ...good, iss: 'https://issuer.test/' }, { ...good, iss: 'HTTPS://issuer.test' },
    { ...good, iss: ['https://issuer.test'] }, { ...good, aud: 'Presence' }, { ...good, aud: 'presence2' }, { ...good, aud: [] }, { ...good, aud: ['other'] },
    { ...good, aud: { presence: true } }, { ...good, aud: [['presence']] }, { ...good, aud: null }])
    await invalid(server, await key.user('u', claims), JSON.stringify(claims));
  const admin = await key.admin({ aud: 'presence' });
  assert.equal((await get(server, '/admin/stats', bearer(admin))).status, 401, 'admins too');
  const lax = await start(t, { args: key.args });
  await connect(lax, 'u', bearer(await key.user('u', { iss: 'anybody', aud: ['anything'] })));
});

test('kid: two secrets side by side; the old one goes with a SIGHUP', async (t) => {
  const dir = tempDir(t);
  const [old, next] = ['old', 'next'].map((kid) => new TokenKey(dir, { kid }));
  const server = await start(t, { args: [...old.args, ...next.args], allow: [/level=info/, /level=error.*old/] });
  const tokens = { old: await old.user('u'), next: await next.user('u') };
  for (const token of Object.values(tokens)) await connect(server, 'u', bearer(token));
  const sign = (key, kid) => key.sign({ sub: 'u' }, { kid });
  await invalid(server, await sign(old, 'next'), 'signed by another than it says');
  await invalid(server, await sign(next, 'old'), 'signed by another than it says');
  // the file now holds another secret: tokens of the old one end, those of the other stay good
  const fresh = crypto.randomBytes(32).toString('base64url');
  fs.writeFileSync(old.file, fresh);
  server.signal('SIGHUP');
  await until('the old secret to be gone', async () => (await get(server, '/api/presence/u', bearer(tokens.old))).status === 401);
  assert.equal((await get(server, '/api/presence/u', bearer(tokens.next))).status, 200);
  const renewed = new TokenKey(dir, { kid: 'old', secret: fresh });
  await connect(server, 'u', bearer(await renewed.user('u')));
  // a broken file keeps what was
  fs.writeFileSync(old.file, 'short');
  server.signal('SIGHUP');
  await until('an error line', () => server.lines.some((line) => /level=error/.test(line) && line.includes('old')));
  await connect(server, 'u', bearer(await renewed.user('u')));
  await connect(server, 'u', bearer(tokens.next));
  const refused = await post(server, '/api/presence/u/heartbeat', undefined, bearer(tokens.old));
  assert.equal(refused.status, 401);
});

/** A named pipe, and who opens it for writing as soon as somebody reads it. */
function namedPipe(t) {
  const pipe = path.join(tempDir(t), 'secret');
  execFileSync('mkfifo', [pipe]);
  const flags = fs.constants.O_WRONLY | fs.constants.O_NONBLOCK; // fails while nobody reads
  return { pipe, writer: () => until('a reader', () => fs.openSync(pipe, flags)) };
}

test('a secret out of a pipe: who writes it is waited for, and a SIGHUP waits for nobody', async (t) => {
  const { pipe, writer } = namedPipe(t);
  const write = async () => {
    const fd = await writer();
    fs.writeSync(fd, 'x'.repeat(40));
    fs.closeSync(fd);
  };
  const [server] = await Promise.all([
    start(t, { args: ['--jwt-secret-file', pipe], allow: [/level=info/, /level=error.*secret/] }),
    write(),
  ]);
  const refused = (what) => until(what, () => server.lines.some((line) => /level=error/.test(line) && line.includes(what)));
  server.signal('SIGHUP'); // nobody writes
  await refused('has 0 bytes');
  const silent = fs.openSync(pipe, fs.constants.O_RDWR | fs.constants.O_NONBLOCK);
  server.signal('SIGHUP'); // somebody might
  await refused('Resource temporarily unavailable');
  fs.closeSync(silent);
  assert.equal((await get(server, '/healthz')).status, 200);
});

test('Ctrl-C ends the wait for who writes a secret', async (t) => {
  const { pipe, writer } = namedPipe(t);
  const child = spawn(binary, ['--jwt-secret-file', pipe, '--mint-token', 'alice'], { stdio: 'ignore' });
  const ended = once(child, 'exit');
  const fd = await writer();
  child.kill('SIGINT');
  assert.deepEqual(await ended, [null, 'SIGINT']);
  fs.closeSync(fd);
});

test('kinds of keys side by side, and a public key from a certificate', async (t) => {
  const dir = tempDir(t);
  const keys = [new TokenKey(dir), new TokenKey(dir, { alg: 'RS256', kid: 'rsa' }), new TokenKey(dir, { alg: 'ES256', kid: 'ec' })];
  const { Authority } = require('./lib');
  const made = new Authority(dir).issue('signer');
  const args = [...keys.flatMap((key) => key.args), '--jwt-public-key-file', `cert=${made.leaf}`];
  const server = await start(t, { args });
  for (const key of keys) await connect(server, 'u', bearer(await key.user('u')));
  const byCertificate = await new jose.SignJWT({ sub: 'u', exp: seconds() + 600 }).setProtectedHeader({ alg: 'ES256', kid: 'cert' })
    .sign(crypto.createPrivateKey(made.keyPem));
  await connect(server, 'u', bearer(byCertificate));
  await invalid(server, await keys[2].sign({ sub: 'u' }, { kid: 'cert' }), 'the other key of that kind');
});

test('--mint-token makes what jose takes, and the server', async (t) => {
  const key = tokenKey(t);
  const file = key.file;
  const mint = async (...args) => {
    const result = await run([...args, '--jwt-secret-file', file]);
    assert.deepEqual([result.code, result.stderr], [0, ''], JSON.stringify(result));
    assert.match(result.stdout, /^[\w-]+\.[\w-]+\.[\w-]+\n$/);
    const token = result.stdout.trim();
    const checked = await jose.jwtVerify(token, key.signer, { algorithms: ['HS256'], requiredClaims: ['exp', 'sub'] });
    return { token, ...checked };
  };
  const plain = await mint('--mint-token', 'alice');
  assert.equal(plain.payload.sub, 'alice');
  assert.ok(Math.abs(plain.payload.exp - seconds() - 3600) <= 5, JSON.stringify(plain.payload));
  assert.deepEqual([plain.payload.admin, plain.payload.watch], [undefined, undefined]);
  const rich = await mint('--mint-token', 'é "quoted" \\ /', '--token-lifetime', '90s', '--token-watch', 'bob,carol', '--token-admin');
  assert.equal(rich.payload.sub, 'é "quoted" \\ /');
  assert.deepEqual([rich.payload.watch, rich.payload.admin], [['bob', 'carol'], true]);
  assert.ok(Math.abs(rich.payload.exp - seconds() - 90) <= 5);
  const all = await mint('--mint-token', 'alice', '--token-watch', '*', '--jwt-issuer', 'me', '--jwt-audience', 'you');
  assert.deepEqual([[all.payload.watch].flat(), all.payload.iss, [all.payload.aud].flat()], [['*'], 'me', ['you']]);
  const server = await start(t, { args: key.args });
  await connect(server, 'alice', bearer(plain.token));
  assert.equal((await get(server, '/api/presence/alice', bearer(all.token))).status, 200);
  assert.equal((await get(server, '/admin/stats', bearer(rich.token))).status, 200);
  const named = await run(['--mint-token', 'u', '--jwt-secret-file', `blue=${file}`]);
  assert.equal((await jose.jwtVerify(named.stdout.trim(), key.signer)).protectedHeader.kid, 'blue');
  const none = await run(['--mint-token', 'alice']);
  assert.equal(none.code, 2);
  assert.ok(none.stderr.includes('--jwt-secret-file'), none.stderr);
  const bad = await run(['--mint-token', 'x'.repeat(129), '--jwt-secret-file', file]);
  assert.equal(bad.code, 2);
});
