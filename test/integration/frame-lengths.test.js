'use strict';
// Variants: release asan
const assert = require('node:assert/strict');
const { test, start, rawConnect, connect, frame, OP, proc, release } = require('./lib');

const M0 = Buffer.alloc(4);
const lengths = {
  '80 00 00 00 00 00 00 00': 1002,
  'FF FF FF FF FF FF FF FC': 1002,
  '00 00 00 00 7F FE 00 00': 1009,
  '7F FF FF FF FF FF FF FF': 1009,
};

for (const [hex, expected] of Object.entries(lengths)) {
  test(`W06 a frame that claims length ${hex} ends at its header, 50 times, with flat memory`, async (t) => {
    const server = await start(t);
    const other = await connect(server, 'other');
    const length = Buffer.from(hex.replaceAll(' ', ''), 'hex');
    const raws = [];
    for (let i = 0; i < 50; i++) raws.push(await rawConnect(server, `u${i}`));
    const before = proc.rss(server.pid);
    for (const raw of raws) raw.write(frame(OP.binary, '', { length, key: M0 }));
    for (const raw of raws) {
      const code = await raw.closeCode();
      assert.ok(code === 1002 || code === 1009, `${code}`);
      assert.equal(code, expected);
      await raw.closed;
    }
    if (release)
      assert.ok(proc.rss(server.pid) - before < 1e6, `${proc.rss(server.pid) - before} bytes more`);
    await other.ping();
  });
}

test('W06 the same for text, continuation and control frames', async (t) => {
  const server = await start(t);
  const length = Buffer.from('00000000 7FFE0000'.replace(' ', ''), 'hex');
  const text = await rawConnect(server, 'a');
  text.write(frame(OP.text, '', { length }));
  assert.equal(await text.closeCode(), 1009);
  const continuation = await rawConnect(server, 'b');
  continuation.write(frame(OP.text, 'x', { fin: false }), frame(OP.continuation, '', { length }));
  assert.equal(await continuation.closeCode(), 1009);
  const ping = await rawConnect(server, 'c');
  ping.write(frame(OP.ping, '', { length }));
  assert.equal(await ping.closeCode(), 1002);
});
