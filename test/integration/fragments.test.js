'use strict';
const assert = require('node:assert/strict');
const { test, unique, start, rawConnect, frame, OP, connect } = require('./lib');

const CLOSES = {
  'a ping of 126 bytes': [1002, [frame(OP.ping, 'x'.repeat(126))]],
  'a fragmented ping': [1002, [frame(OP.ping, 'x', { fin: false })]],
  'a fragmented close': [1002, [frame(OP.close, '', { fin: false })]],
  'an orphan continuation': [1002, [frame(OP.continuation, 'x')]],
  'an orphan first part of a continuation': [1002, [frame(OP.continuation, 'x', { fin: false })]],
  'a continuation after a whole message': [
    1002,
    [frame(OP.text, 'ping'), frame(OP.continuation, 'x')],
  ],
  'new text in the middle of a message': [
    1002,
    [frame(OP.text, 'x', { fin: false }), frame(OP.text, 'ping')],
  ],
  'new binary in the middle of a message': [
    1002,
    [frame(OP.text, 'x', { fin: false }), frame(OP.binary, 'x')],
  ],
  'an unmasked frame': [1002, [frame(OP.text, 'ping', { mask: false })]],
  'an unmasked ping': [1002, [frame(OP.ping, '', { mask: false })]],
  RSV1: [1002, [frame(OP.text, 'ping', { rsv: 4 })]],
  RSV2: [1002, [frame(OP.text, 'ping', { rsv: 2 })]],
  'RSV3 on a ping': [1002, [frame(OP.ping, '', { rsv: 1 })]],
  'RSV1 on a continuation': [
    1002,
    [frame(OP.text, 'pi', { fin: false }), frame(OP.continuation, 'ng', { rsv: 4 })],
  ],
  ...Object.fromEntries(
    [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].map((opcode) => [
      `opcode ${opcode}`,
      [1002, [frame(opcode, '')]],
    ]),
  ),
  'bad UTF-8': [1007, [frame(OP.text, Buffer.from([0x68, 0xff, 0x68]))]],
  'UTF-8 cut at the end': [1007, [frame(OP.text, Buffer.from([0x68, 0xc3]))]],
  'overlong UTF-8': [1007, [frame(OP.text, Buffer.from([0xc0, 0xaf]))]],
  'a surrogate in UTF-8': [1007, [frame(OP.text, Buffer.from([0xed, 0xa0, 0x80]))]],
  'beyond U+10FFFF': [1007, [frame(OP.text, Buffer.from([0xf4, 0x90, 0x80, 0x80]))]],
  'bad UTF-8 across fragments': [
    1007,
    [
      frame(OP.text, Buffer.from([0xc3]), { fin: false }),
      frame(OP.continuation, Buffer.from([0x28])),
    ],
  ],
  'UTF-8 cut by the end of the last fragment': [
    1007,
    [frame(OP.text, 'x', { fin: false }), frame(OP.continuation, Buffer.from([0xe2, 0x82]))],
  ],
};

for (const [what, [code, frames]] of Object.entries(CLOSES)) {
  const name = /mask|RSV/.test(what) ? 'W11' : 'W07';
  test.anywhere(`${name} ${what} closes with ${code}`, async (t) => {
    const server = await start(t);
    const other = await connect(server, unique('other'));
    const raw = await rawConnect(server, unique('u'));
    raw.write(...frames);
    assert.equal(await raw.closeCode(), code);
    raw.socket.end();
    await raw.closed;
    await other.ping();
  });
}

// Autobahn 6.4.1 to 6.4.4: the text is beyond U+10FFFF in its middle, and its end never comes.
const [GOOD, BAD] = [Buffer.from('\u03ba\u1f79\u03c3\u03bc\u03b5'), Buffer.from([0xf4, 0x90, 0x80, 0x80])];
const EARLY = {
  'in a fragment': [frame(OP.text, GOOD, { fin: false }), frame(OP.continuation, BAD, { fin: false })],
  'in the first bytes that cannot be, in a fragment': [frame(OP.text, GOOD, { fin: false }), frame(OP.continuation, BAD.subarray(0, 2), { fin: false })],
  'in a frame': [frame(OP.text, Buffer.concat([GOOD, BAD, GOOD])).subarray(0, -GOOD.length)],
  'in the first bytes that cannot be, in a frame': [frame(OP.text, Buffer.concat([GOOD, BAD, GOOD])).subarray(0, -GOOD.length - 2)],
};

for (const [what, bytes] of Object.entries(EARLY)) {
  test.anywhere(`W07 bad UTF-8 ${what} closes with 1007 before the message is complete`, async (t) => {
    const raw = await rawConnect(await start(t), unique('u'));
    raw.write(...bytes);
    assert.equal(await raw.closeCode(), 1007);
  });
}

test.anywhere('W07 a ping between text fragments: the pong, then the message', async (t) => {
  const server = await start(t);
  const raw = await rawConnect(server, unique('u'));
  raw.write(
    frame(OP.text, 'pi', { fin: false }),
    frame(OP.ping, 'between'),
    frame(OP.continuation, 'ng'),
  );
  const pong = await raw.frame();
  assert.deepEqual([pong.opcode, pong.payload.toString()], [OP.pong, 'between']);
  assert.equal(await raw.message(), 'pong');
});

test.anywhere('W07 a ping is answered with its payload, up to 125 bytes', async (t) => {
  const server = await start(t);
  const raw = await rawConnect(server, unique('u'));
  for (const payload of ['', 'x', 'x'.repeat(125)]) {
    raw.write(frame(OP.ping, payload));
    const pong = await raw.frame();
    assert.deepEqual(
      [pong.opcode, pong.fin, pong.rsv, pong.masked, pong.payload.toString()],
      [OP.pong, true, 0, false, payload],
    );
  }
});

test.anywhere(
  'W07 an é over two fragments, or with empty fragments between, is fine',
  async (t) => {
    const server = await start(t);
    const raw = await rawConnect(server, unique('u'));
    const text = Buffer.from('{"type":"ping","pad":"é\u{1F600}"}');
    for (const cut of [1, 20, 22, 23, 24, 25, 26, text.length - 1]) {
      raw.write(
        frame(OP.text, text.subarray(0, cut), { fin: false }),
        frame(OP.continuation, '', { fin: false }),
        frame(OP.continuation, text.subarray(cut)),
      );
      assert.equal((await raw.message()).type, 'pong', `cut at ${cut}`);
    }
  },
);

test.anywhere(
  'W07 a message in a flood of tiny fragments ends the connection, not the server',
  async (t) => {
    const server = await start(t);
    const other = await connect(server, unique('other'));
    const raw = await rawConnect(server, unique('u'));
    raw.write(frame(OP.text, '', { fin: false }));
    const empty = Buffer.concat(Array(1000).fill(frame(OP.continuation, '', { fin: false })));
    for (let i = 0; i < 20 && !raw.ended; i++) raw.write(empty);
    const code = await raw.closeCode();
    assert.ok([1002, 1008, 1009, 4400, 4429, null].includes(code), `${code}`);
    await other.ping();
  },
);
