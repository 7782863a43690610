'use strict';
const assert = require('node:assert/strict');
const { test, start, tcp, slow } = require('./lib');

const post = (length, expect) =>
  `POST /api/presence HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${length}\r\nExpect: ${expect}\r\n\r\n`;

test.anywhere(
  'H06 Expect: 100-continue with the body held back is answered within 100 ms',
  async (t) => {
    const server = await start(t);
    for (const expect of ['100-continue', '100-Continue']) {
      const raw = await tcp(server);
      const body = '{"users":["a"]}';
      const began = Date.now();
      raw.write(post(body.length, expect));
      const first = await raw.head();
      assert.ok(Date.now() - began < 100 * slow, `${Date.now() - began} ms`);
      assert.equal(first.status, 100);
      raw.write(body);
      const answer = await raw.response();
      assert.equal(answer.status, 200);
      assert.equal(JSON.parse(answer.body).users[0].user_id, 'a');
    }
  },
);

test.anywhere('H06 with the body sent at once the answer comes all the same', async (t) => {
  const server = await start(t);
  const raw = await tcp(server);
  raw.write(post(12, '100-continue'), '{"users":[]}');
  let answer = await raw.head();
  if (answer.status === 100) answer = await raw.head();
  assert.equal(answer.status, 200);
});

test.anywhere('H06 a body that is too big is refused instead of invited', async (t) => {
  const server = await start(t);
  const raw = await tcp(server);
  raw.write(post(100000000, '100-continue'));
  assert.equal((await raw.head()).status, 413);
});

test.anywhere('H06 HTTP/1.0 knows no 100: it is ignored there (RFC 9110 section 10.1.1)', async (t) => {
  const server = await start(t);
  const raw = await tcp(server);
  raw.write(post(12, '100-continue').replace('HTTP/1.1', 'HTTP/1.0'));
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(raw.bytes.length, 0, raw.bytes.toString());
  raw.write('{"users":[]}');
  assert.equal((await raw.head()).status, 200);
});

test.anywhere('H06 any other expectation is 417', async (t) => {
  const server = await start(t);
  for (const expect of ['foo', '100-continue, foo', '200-ok']) {
    const raw = await tcp(server);
    raw.write(post(12, expect), '{"users":[]}');
    const answer = await raw.response();
    assert.deepEqual(
      [answer.status, JSON.parse(answer.body).error.code],
      [417, 'expectation_failed'],
      expect,
    );
  }
});
