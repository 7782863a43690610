'use strict';
const assert = require('node:assert/strict');
const { test, unique, start, tcp, get, connect, slow, request } = require('./lib');

/** Sends bytes; returns the status (null for a plain end) and all that came. */
async function say(server, ...bytes) {
  const raw = await tcp(server);
  raw.write(...bytes);
  raw.socket.end();
  await Promise.race([
    raw.closed,
    new Promise((resolve) => setTimeout(resolve, 3000 * slow).unref()),
  ]);
  const text = raw.bytes.toString('latin1');
  raw.destroy();
  return { status: Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1] ?? NaN) || null, text };
}

const refused = (answer, what) =>
  assert.ok(answer.status >= 400 && answer.status < 500, `${what}: ${answer.text.slice(0, 200)}`);
const HEAD = 'Host: localhost\r\n';

test.anywhere(
  'H01 16,000 slashes, escaped header breaks, NUL bytes: 4xx and nothing injected',
  async (t) => {
    const server = await start(t);
    const other = await connect(server, unique('other'));
    refused(await say(server, `GET ${'/'.repeat(16000)} HTTP/1.1\r\n${HEAD}\r\n`), 'slashes');
    refused(
      await say(server, `GET /${'../'.repeat(2000)}etc/passwd HTTP/1.1\r\n${HEAD}\r\n`),
      'dots',
    );
    for (const path of [
      '/x%0d%0aSet-Cookie:a=b',
      '/api/presence/x%0d%0aSet-Cookie:a=b',
      '/ws/presence/x%0d%0aSet-Cookie:a=b',
      '/admin/users?q=%0d%0aSet-Cookie:a=b&limit=0',
    ]) {
      const answer = await say(server, `GET ${path} HTTP/1.1\r\n${HEAD}\r\n`);
      refused(answer, path);
      assert.doesNotMatch(answer.text.split('\r\n\r\n')[0], /^set-cookie/im, path);
    }
    const form = 'a=\0b&c=%00';
    refused(
      await say(
        server,
        `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Type: application/x-www-form-urlencoded\r\nContent-Length: ${form.length}\r\n\r\n`,
        form,
      ),
      'form with NUL',
    );
    const part =
      '--b\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\n\0\r\n--b--\r\n';
    const multipart = `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Type: multipart/form-data; boundary=b\r\nContent-Length: ${part.length}\r\n\r\n${part}`;
    const both = await say(server, multipart, multipart);
    refused(both, 'two multiparts');
    assert.equal((both.text.match(/^HTTP\/1\.1 400/gm) || []).length, 2, 'both are answered');
    await other.ping();
  },
);

const MALFORMED = {
  'both lengths': `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}`,
  'two different lengths': `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Length: 2\r\nContent-Length: 12\r\n\r\n{"users":[]}`,
  'a negative length': `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Length: -1\r\n\r\n`,
  'a length with a sign': `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Length: +12\r\n\r\n{"users":[]}`,
  'a length in hex': `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Length: 0xc\r\n\r\n{"users":[]}`,
  'a length beyond 64 bits': `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Length: 99999999999999999999999\r\n\r\n`,
  'a list as length': `POST /api/presence HTTP/1.1\r\n${HEAD}Content-Length: 12, 12\r\n\r\n{"users":[]}`,
  'an unknown transfer coding': `POST /api/presence HTTP/1.1\r\n${HEAD}Transfer-Encoding: xchunked\r\n\r\n`,
  'no Host': 'GET /healthz HTTP/1.1\r\n\r\n',
  'NUL in a header': `GET /healthz HTTP/1.1\r\n${HEAD}X: a\0b\r\n\r\n`,
  'NUL in the path': `GET /health\0z HTTP/1.1\r\n${HEAD}\r\n`,
  'a blank before the colon': `GET /healthz HTTP/1.1\r\n${HEAD}X : a\r\n\r\n`,
  'a header without a colon': `GET /healthz HTTP/1.1\r\n${HEAD}nonsense\r\n\r\n`,
  'a header without a name': `GET /healthz HTTP/1.1\r\n${HEAD}: a\r\n\r\n`,
  'a bare CR behind the version': `GET /healthz HTTP/1.1\rX: a\r\n${HEAD}\r\n`,
  'a bare CR before an encoding': `POST /api/presence/a/heartbeat HTTP/1.1\rTransfer-Encoding: chunked\r\n${HEAD}\r\n0\r\n\r\n`,
  'a bare CR in a header': `GET /healthz HTTP/1.1\r\n${HEAD}X: a\rY: b\r\n\r\n`,
  'a whole address with a user': `GET http://localhost@evil.example/healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'a whole address with a bad port': `GET http://localhost:99999/healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'a whole address with a fragment': `GET http://localhost#/healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'a whole address without a host': `GET http:///healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'blanks before a whole address without a path': `GET  https://localhost?/healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'a TAB before a whole address without a path': `GET\thttp://localhost?/healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'a whole address of another scheme': `GET ws://localhost/healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'a folded header': `GET /healthz HTTP/1.1\r\n${HEAD}X: a\r\n b\r\n\r\n`,
  'a blank in the path': `GET /health z HTTP/1.1\r\n${HEAD}\r\n`,
  'no path': `GET HTTP/1.1\r\n${HEAD}\r\n`,
  'no version': 'GET /healthz\r\n\r\n',
  'a bad version': `GET /healthz HTTP/x\r\n${HEAD}\r\n`,
  'version 2': `GET /healthz HTTP/2.0\r\n${HEAD}\r\n`,
  'an odd method': `G@T /healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'a path without a slash': `GET healthz HTTP/1.1\r\n${HEAD}\r\n`,
  'the preface of HTTP/2': 'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n',
  'a CONNECT': `CONNECT example.com:443 HTTP/1.1\r\n${HEAD}\r\n`,
  'a TRACE': `TRACE /healthz HTTP/1.1\r\n${HEAD}\r\n`,
};

for (const [what, bytes] of Object.entries(MALFORMED)) {
  test.anywhere(`H01 ${what}: refused, and the next client is served`, async (t) => {
    const server = await start(t);
    const answer = await say(server, bytes);
    if (answer.status !== 505 && answer.status !== 501) refused(answer, what);
    assert.equal((await get(server, '/healthz')).status, 200);
  });
}

const GARBAGE = {
  'a TLS hello': Buffer.from('16030100a5010000a10303', 'hex'),
  'binary noise': Buffer.from(Array.from({ length: 3000 }, (_, i) => (i * 7919) & 255)),
  'blank lines': Buffer.from('\r\n'.repeat(5000)),
  'one endless line': Buffer.from('x'.repeat(100000)),
  'endless headers': Buffer.from(`GET / HTTP/1.1\r\n${HEAD}${'X: y\r\n'.repeat(20000)}`),
};

for (const [what, bytes] of Object.entries(GARBAGE)) {
  test.anywhere(`H01 ${what}: 4xx or the end, and the next client is served`, async (t) => {
    const server = await start(t);
    const answer = await say(server, bytes);
    assert.ok(
      answer.status === null || (answer.status >= 400 && answer.status < 500),
      answer.text.slice(0, 100),
    );
    assert.equal((await get(server, '/healthz')).status, 200);
  });
}

test.anywhere('a long path is 414, a long head is 431', async (t) => {
  const server = await start(t);
  const long = await say(server, `GET /api/presence/${'x'.repeat(60000)} HTTP/1.1\r\n${HEAD}\r\n`);
  assert.ok([414, 431, 400].includes(long.status), `${long.status}`);
  const head = await say(
    server,
    `GET /healthz HTTP/1.1\r\n${HEAD}${Array.from({ length: 50 }, (_, i) => `X-${i}: ${'y'.repeat(1000)}\r\n`).join('')}\r\n`,
  );
  assert.equal(head.status, 431);
});

test.anywhere('errors never echo what was sent as markup or header', async (t) => {
  const server = await start(t);
  for (const path of [
    '/%3Cscript%3Ealert(1)%3C/script%3E',
    '/api/presence/%3Csvg%20onload=x%3E',
    '/api/nope?%3Cb%3E',
  ]) {
    const answer = await request(server, 'GET', path);
    assert.ok(answer.status >= 400);
    assert.match(answer.headers['content-type'], /^application\/json/);
    assert.equal(answer.headers['x-content-type-options'], 'nosniff');
  }
});
