'use strict';
const assert = require('node:assert/strict');
const { test, start, tcp, rawConnect, upgrade, frame, closePayload, OP, delay } = require('./lib');

const padded = (size) => {
  const bare = JSON.stringify({ type: 'ping', pad: '' }).length;
  return JSON.stringify({ type: 'ping', pad: 'x'.repeat(size - bare) });
};

test('W02 a frame of 200 B at one byte every 5 ms, upgrade included, is as one write', async (t) => {
  const server = await start(t);
  const raw = await tcp(server);
  const bytes = Buffer.concat([
    Buffer.from(upgrade('u')),
    frame(OP.text, padded(200)),
    frame(OP.close, closePayload(1000, 'bye')),
  ]);
  for (let i = 0; i < bytes.length; i++) {
    raw.write(bytes.subarray(i, i + 1));
    await delay(5);
  }
  assert.equal((await raw.head()).status, 101);
  assert.equal((await raw.message()).type, 'hello');
  assert.equal((await raw.message()).type, 'pong');
  const close = await raw.frame();
  assert.deepEqual([close.opcode, close.code], [OP.close, 1000]);
  await raw.closed;
});

test('W02 a frame of 70,000 B in small and in single bytes is as one write', async (t) => {
  const server = await start(t, { args: ['--max-message', '100000'] });
  for (const step of [1, 13, 4096, 70000]) {
    const raw = await rawConnect(server, 'u');
    const bytes = frame(OP.text, padded(70000));
    let at = 0;
    while (at < bytes.length) {
      const careful = at < 40 || at > bytes.length - 40;
      const size = careful ? 1 : step === 1 ? 701 : step;
      raw.write(bytes.subarray(at, Math.min(at + size, bytes.length)));
      at += size;
      if (careful && step === 1) await delay(2);
      else if (at % 3 === 0) await new Promise(setImmediate);
    }
    const answer = await raw.message();
    assert.equal(answer.type, 'pong', `steps of ${step}: ${JSON.stringify(answer)}`);
    raw.write(frame(OP.close, closePayload(1000)));
    assert.equal(await raw.closeCode(), 1000);
    raw.destroy();
  }
});

test('a message up to --max-message is read, one byte more is 1009', async (t) => {
  const server = await start(t, { args: ['--max-message', '1000'] });
  const raw = await rawConnect(server, 'u');
  raw.write(frame(OP.text, padded(1000)));
  assert.equal((await raw.message()).type, 'pong');
  raw.write(frame(OP.text, padded(1001)));
  assert.equal(await raw.closeCode(), 1009);
  await raw.closed;

  const pieces = await rawConnect(server, 'v');
  pieces.write(
    frame(OP.text, 'x'.repeat(600), { fin: false }),
    frame(OP.continuation, 'x'.repeat(401)),
  );
  assert.equal(await pieces.closeCode(), 1009, 'the limit holds over fragments');
});
