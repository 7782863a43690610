'use strict';
const assert = require('node:assert/strict');
const {
  test,
  unique,
  start,
  rawConnect,
  frame,
  closePayload,
  OP,
  within,
  slow,
  presence,
  until,
} = require('./lib');

// What a client may send in its close frame, and what may come back.
const ANSWERS = [
  ['an empty close', Buffer.alloc(0), [null, 1000]],
  ['code 1000', closePayload(1000), [1000]],
  ['code 1000 with a reason', closePayload(1000, 'bye'), [1000]],
  ['code 1000 with the longest reason', closePayload(1000, 'x'.repeat(123)), [1000]],
  ['code 1001', closePayload(1001), [1000, 1001]],
  ['code 3000', closePayload(3000), [1000, 3000]],
  ['code 4999', closePayload(4999), [1000, 4999]],
  ['a payload of one byte', Buffer.from([3]), [1002]],
  ...[0, 999, 1005, 1006, 1015, 2999, 5000, 65535].map((code) => [
    `code ${code}`,
    closePayload(code),
    [1002],
  ]),
  [
    'code 1000 with a reason of bad UTF-8',
    Buffer.concat([closePayload(1000), Buffer.from([0xff, 0xfe])]),
    [1007],
  ],
];

for (const [what, payload, allowed] of ANSWERS) {
  test.anywhere(
    `W09 a close with ${what} is answered rightly, and TCP ends within 2 s`,
    async (t) => {
      const server = await start(t);
      const id = unique('u');
      const raw = await rawConnect(server, id);
      raw.write(frame(OP.close, payload));
      const answer = await raw.frame(2000 * slow);
      assert.equal(answer.opcode, OP.close);
      assert.ok(allowed.includes(answer.code), `answered ${answer.code}`);
      assert.equal(raw.bytes.length, 0, 'nothing after the close frame');
      await within(2000 * slow, 'the end of TCP', raw.closed);
      assert.equal(raw.error, undefined);
      await until('no connection', async () => (await presence(server, id)).connections === 0);
    },
  );
}

test.anywhere('W09 nothing sent after the close is answered', async (t) => {
  const server = await start(t);
  const raw = await rawConnect(server, unique('u'));
  raw.write(frame(OP.close, closePayload(1000)), frame(OP.text, 'ping'), frame(OP.ping, 'x'));
  assert.equal(await raw.closeCode(), 1000);
  await within(2000 * slow, 'the end of TCP', raw.closed);
  assert.equal(raw.bytes.length, 0);
});
