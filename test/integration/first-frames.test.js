'use strict';
const assert = require('node:assert/strict');
const {
  test,
  unique,
  start,
  tcp,
  upgrade,
  frame,
  closePayload,
  OP,
  delay,
  presence,
} = require('./lib');

const ping = frame(OP.text, 'ping');

test.anywhere(
  'W01 frames that arrive together with the upgrade request are not lost',
  async (t) => {
    const server = await start(t);
    for (let count = 1; count <= 10; count += 3) {
      const raw = await tcp(server);
      raw.write(upgrade(unique('u')), ...Array(count).fill(ping));
      assert.equal((await raw.head()).status, 101);
      assert.equal((await raw.message()).type, 'hello');
      for (let i = 0; i < count; i++) assert.equal(await raw.message(), 'pong');
      raw.destroy();
    }
  },
);

test.anywhere('W01 nor is half a frame', async (t) => {
  const server = await start(t);
  for (let cut = 0; cut <= ping.length; cut++) {
    const raw = await tcp(server);
    const request = upgrade(unique('u'));
    raw.write(request, ping, ping.subarray(0, cut));
    assert.equal((await raw.head()).status, 101);
    assert.equal((await raw.message()).type, 'hello');
    assert.equal(await raw.message(), 'pong');
    raw.write(ping.subarray(cut));
    assert.equal(await raw.message(), 'pong', `cut at ${cut}`);
    raw.destroy();
  }
});

test('W01 nor a close, nor a big message behind the request', async (t) => {
  const server = await start(t, { args: ['--max-message', '100000'] });
  const raw = await tcp(server);
  raw.write(
    upgrade('u'),
    frame(OP.text, JSON.stringify({ type: 'ping', pad: 'x'.repeat(90000) })),
    frame(OP.close, closePayload(1000)),
  );
  assert.equal((await raw.head()).status, 101);
  assert.equal((await raw.message()).type, 'hello');
  assert.equal((await raw.message()).type, 'pong');
  assert.equal(await raw.closeCode(), 1000);
  assert.equal((await presence(server, 'u')).online, false);
});

test('W01 a request and frames in any two pieces', async (t) => {
  const server = await start(t);
  const id = 'split';
  const whole = Buffer.concat([Buffer.from(upgrade(id)), ping, ping]);
  for (let cut = 1; cut < whole.length; cut += 7) {
    const raw = await tcp(server);
    raw.write(whole.subarray(0, cut));
    await delay(1); // its own packet
    raw.write(whole.subarray(cut));
    assert.equal((await raw.head()).status, 101, `cut at ${cut}`);
    assert.equal((await raw.message()).user_id, id);
    assert.equal(await raw.message(), 'pong');
    assert.equal(await raw.message(), 'pong');
    raw.destroy();
  }
});
