'use strict';
// Bodies in chunks (RFC 9112 section 7.1), as clients send them that do not know the length before:
// Spring's RestTemplate, node's fetch with a stream, whoever speaks HTTP/2 to a proxy. And every
// shape in which two readers could see two different requests in the same bytes.
const assert = require('node:assert/strict');
const { test, unique, start, tcp, get, connect, delay, within, slow, passwordFile } = require('./lib');

const HEAD = 'Host: localhost\r\nTransfer-Encoding: chunked\r\n';
const NEXT = 'GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n';
const BODY = '{"users":["alice","bob"]}';
const post = (body, head = HEAD, version = '1.1') => `POST /api/presence HTTP/${version}\r\n${head}\r\n${body}`;
const chunk = (text, extension = '') => `${text.length.toString(16)}${extension}\r\n${text}\r\n`;
const END = '0\r\n\r\n';

/** Sends pieces, one after the other, and gives the answers that come: { status, text }. */
async function say(server, pieces, gap = 0) {
  const raw = await tcp(server);
  for (const piece of pieces) {
    if (raw.ended) break;
    raw.write(piece);
    if (gap) await delay(gap);
  }
  await within(10000 * slow, 'the end', raw.closed);
  const text = raw.bytes.toString('latin1');
  raw.destroy();
  const statuses = [...text.matchAll(/HTTP\/1\.1 (\d+) [A-Z]/g)].map((match) => Number(match[1])).filter((status) => status !== 100);
  return { statuses, text };
}

const GOOD = {
  'one chunk': chunk(BODY) + END,
  'a chunk a byte': [...BODY].map((one) => chunk(one)).join('') + END,
  'two chunks': chunk(BODY.slice(0, 10)) + chunk(BODY.slice(10)) + END,
  'capital digits and zeros before': `0000${BODY.length.toString(16).toUpperCase()}\r\n${BODY}\r\n000\r\n\r\n`,
  extensions: chunk(BODY, ';a=b; c="d e"') + '0;last\r\n\r\n',
  'a blank before an extension': chunk(BODY, ' ;a') + END,
  trailers: chunk(BODY) + '0\r\nX-Sum: 12\r\nHost: elsewhere\r\nContent-Length: 99\r\nTransfer-Encoding: gzip\r\n\r\n',
};

const BAD = {
  'a size that is none': 'xyz\r\n',
  'no size': `\r\n${BODY}\r\n${END}`,
  'a size with a sign': `+2\r\n{}\r\n${END}`,
  'a size with 0x': `0x2\r\n{}\r\n${END}`,
  'a blank before a size': ` 2\r\n{}\r\n${END}`,
  'a blank behind a size': `2 \r\n{}\r\n${END}`,
  'a size beyond 64 bits': `10000000000000002\r\n{}\r\n${END}`,
  'LF alone behind a size': `2\n{}\r\n${END}`,
  'LF alone behind an extension': `2;a\n{}\r\n${END}`,
  'CR alone behind a size': `2\r{}\r\n${END}`,
  'LF alone behind data': `2\r\n{}\n${END}`,
  'no line end behind data': `2\r\n{}${END}`,
  'data that is longer': `2\r\n{}{}\r\n${END}`,
  'data that is shorter': `4\r\n{}\r\n${END}\r\n`,
  'a control character in an extension': `2;a\x01\r\n{}\r\n${END}`,
  'a quoted value without an end': `2;a="\r\n{}\r\n${END}`,
  'LF alone at the end': `2\r\n{}\r\n0\r\n\n`,
  'a trailer without a colon': `2\r\n{}\r\n0\r\nnonsense\r\n\r\n`,
  'a trailer with a blank before the colon': `2\r\n{}\r\n0\r\nA : b\r\n\r\n`,
  'a folded trailer': `2\r\n{}\r\n0\r\nA: b\r\n c\r\n\r\n`,
};

const HEADS = {
  'a length too': [400, `${HEAD}Content-Length: 2\r\n`],
  'a length before it': [400, `Content-Length: 2\r\n${HEAD}`],
  'the coding twice': [400, `${HEAD}Transfer-Encoding: chunked\r\n`],
  'chunks in gzip': [400, 'Host: localhost\r\nTransfer-Encoding: chunked, gzip\r\n'],
  'gzip in chunks': [501, 'Host: localhost\r\nTransfer-Encoding: gzip, chunked\r\n'],
  'an empty element': [400, 'Host: localhost\r\nTransfer-Encoding: chunked,\r\n'],
  'a parameter': [400, 'Host: localhost\r\nTransfer-Encoding: chunked;q=1\r\n'],
  'another coding': [400, 'Host: localhost\r\nTransfer-Encoding: xchunked\r\n'],
  'identity': [400, 'Host: localhost\r\nTransfer-Encoding: identity\r\n'],
  'no coding': [400, 'Host: localhost\r\nTransfer-Encoding:\r\n'],
  'a folded coding': [400, 'Host: localhost\r\nTransfer-Encoding:\r\n chunked\r\n'],
  'a blank before the colon': [400, 'Host: localhost\r\nTransfer-Encoding : chunked\r\n'],
  'a vertical tab': [400, 'Host: localhost\r\nTransfer-Encoding: \x0bchunked\r\n'],
};

test.anywhere('a body in chunks is read, and what stands behind it is the next request', async (t) => {
  const server = await start(t);
  for (const [what, body] of Object.entries(GOOD)) {
    const { statuses, text } = await say(server, [post(body) + NEXT]);
    assert.deepEqual(statuses, [200, 200], `${what}: ${text}`);
    assert.match(text, /"user_id":"alice".*"user_id":"bob"/s, what);
  }
  for (const coding of ['CHUNKED', 'chunked  ', '\tchunked']) {
    const { statuses, text } = await say(server, [post(chunk(BODY) + END, `Host: localhost\r\nTransfer-Encoding: ${coding}\r\n`) + NEXT]);
    assert.deepEqual(statuses, [200, 200], text);
  }
  const id = unique('u');
  const none = await say(server, [`POST /api/presence/${id}/heartbeat HTTP/1.1\r\n${HEAD}\r\n${END}${NEXT}`]);
  assert.deepEqual(none.statuses, [204, 200], none.text);
});

test.anywhere('a body in chunks may be cut at every byte', async (t) => {
  const server = await start(t);
  const bytes = post(chunk(BODY.slice(0, 9), ';a=b') + chunk(BODY.slice(9)) + '0\r\nX: y\r\n\r\n') + NEXT;
  const cuts = Array.from({ length: bytes.length - 1 }, (_, i) => i + 1);
  const worker = async () => {
    for (let cut; (cut = cuts.pop());) {
      const { statuses, text } = await say(server, [bytes.slice(0, cut), bytes.slice(cut)], 2);
      assert.deepEqual(statuses, [200, 200], `cut at ${cut}: ${text}`);
    }
  };
  await Promise.all(Array.from({ length: 16 }, worker));
  const { statuses } = await say(server, [...bytes], 1);
  assert.deepEqual(statuses, [200, 200], 'byte by byte');
});

test.anywhere('what is no body in chunks is refused, and nothing behind it is a request', async (t) => {
  const server = await start(t);
  const other = await connect(server, unique('other'));
  await Promise.all(Object.entries(BAD).map(async ([what, body]) => {
    const { statuses, text } = await say(server, [post(body) + NEXT]);
    assert.deepEqual(statuses, [400], `${what}: ${text}`);
  }));
  await Promise.all(Object.entries(HEADS).map(async ([what, [status, head]]) => {
    const { statuses, text } = await say(server, [post(chunk(BODY) + END, head) + NEXT]);
    assert.deepEqual(statuses, [status], `${what}: ${text}`);
  }));
  const old = await say(server, [post(chunk(BODY) + END, HEAD, '1.0') + NEXT]);
  assert.deepEqual(old.statuses, [411], old.text);
  assert.match(old.text, /length_required/);
  await other.ping();
});

test('a body in chunks has at most --max-body bytes, its extensions and trailers --max-head', async (t) => {
  const server = await start(t, { args: ['--max-body', '2k', '--max-head', '1k', '--request-timeout', '2s'] });
  const padded = (size) => BODY.padEnd(size);
  const all = chunk(padded(2000)) + chunk(' '.repeat(48));
  assert.deepEqual((await say(server, [post(all + END) + NEXT])).statuses, [200, 200], 'as many as may be');
  for (const body of [all + chunk(' ') + END, `801\r\n`, 'ffffffffffffffff\r\n', '8000000000000000\r\n']) {
    const { statuses, text } = await say(server, [post(body) + NEXT]);
    assert.deepEqual(statuses, [413], text);
  }
  for (const body of [`2;${'x'.repeat(1100)}\r\n`, `${chunk(BODY)}0\r\nX: ${'y'.repeat(1100)}\r\n\r\n`, ...[chunk('{', `;${'x'.repeat(30)}`).repeat(40)]]) {
    const { statuses, text } = await say(server, [post(body) + NEXT]);
    assert.deepEqual(statuses, [431], text);
  }
  const cut = await say(server, [post(chunk(BODY))]);
  assert.deepEqual(cut.statuses, [408], 'the last chunk never comes');
  assert.equal((await get(server, '/healthz')).status, 200);
});

test('who has no token sends at most 32 KiB in chunks, as with a length', async (t) => {
  const server = await start(t, { args: [...passwordFile(t, 'secret').args, '--request-timeout', '2s'], allow: [/wrong admin password/] });
  const login = (body) => `POST /admin/login HTTP/1.1\r\n${HEAD}\r\n${body}`;
  const part = chunk('x'.repeat(6000));
  const raw = await tcp(server);
  raw.write(login(part));
  await delay(300); // its head is looked at meanwhile
  for (let i = 0; i < 9 && !raw.ended; i++) raw.write(part);
  await within(10000 * slow, 'the end', raw.closed);
  assert.match(raw.bytes.toString('latin1'), /^HTTP\/1\.1 413 /);
  raw.destroy();
  assert.deepEqual((await say(server, [login(part.repeat(5) + END) + NEXT])).statuses, [400, 200], 'not less than that');
});

test.anywhere('a client that expects 100 for chunks is told to go on', async (t) => {
  const server = await start(t);
  const raw = await tcp(server);
  raw.write(post('', `${HEAD}Expect: 100-continue\r\n`));
  assert.equal((await raw.head()).status, 100);
  raw.write(chunk(BODY) + END);
  assert.equal((await raw.response()).status, 200);
  raw.destroy();
});

test.anywhere("node's fetch may stream a body", async (t) => {
  const server = await start(t);
  const body = new ReadableStream({
    async start(controller) {
      for (const part of [BODY.slice(0, 5), BODY.slice(5)]) {
        controller.enqueue(new TextEncoder().encode(part));
        await delay(5);
      }
      controller.close();
    },
  });
  const answer = await fetch(`http://${server.host}:${server.port}/api/presence`, { method: 'POST', body, duplex: 'half' });
  assert.equal(answer.status, 200);
  assert.equal((await answer.json()).users.length, 2);
});
