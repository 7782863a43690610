'use strict';
// Random streams of frames, good and bad, against a decoder that others wrote: what the receiver of
// the `ws` package makes of the same bytes, the server must have answered. Ever other seeds; the one
// that fails is told, and FRAMES_SEED repeats it.

const assert = require('node:assert/strict');
const net = require('node:net');
const nodeTest = require('node:test');
const { Receiver } = require('ws');
const { start, upgrade, within, OP, frame } = require('../integration/lib');
const { dice } = require('../integration/lib/random');

const SECONDS = Number(process.env.FRAMES_SECONDS || 40);
const MAX_MESSAGE = 4096;

// the edges of UTF-8 (RFC 3629), right and wrong
const UTF8 = ['7f', 'c280', 'dfbf', 'e0a080', 'efbfbf', 'ed9fbf', 'ee8080', 'f0908080', 'f48fbfbf', 'efbfbd',
  '80', 'bf', 'c0', 'c080', 'c1bf', 'c3', 'e080', 'e08080', 'e09fbf', 'eda080', 'edbfbf', 'f08080', 'f0808080', 'f08fbfbf', 'f4908080', 'f5', 'f8888080', 'fe', 'ff',
].map((hex) => Buffer.from(hex, 'hex'));
const SIZES = [0, 1, 2, 125, 126, 127, 128, 1000, 4095, 4096];
const CODES = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999, 0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535];

/** One stream: the bytes, and whether there is wrong UTF-8 in it. */
function stream(random) {
  let wrong = false;
  const character = () => {
    if (random(8)) return choose(UTF8.slice(0, 10));
    wrong = true;
    return choose(UTF8);
  };
  const choose = (list) => list[random(list.length)];
  const parts = [];
  const text = () => {
    const kind = random(10);
    if (kind < 2) return Buffer.from('ping');
    if (kind < 4) return Buffer.alloc(choose(SIZES), 'x');
    return Buffer.concat([Buffer.from('"'), ...Array.from({ length: random(4) }, character), Buffer.from('"')]);
  };
  const control = () => parts.push(frame(choose([OP.ping, OP.pong]), Buffer.alloc(random(126), 'p')));
  for (let n = 1 + random(5); n > 0; n--) {
    const whole = text();
    if (random(3) === 0) control();
    if (random(2)) {
      parts.push(frame(OP.text, whole));
      continue;
    }
    for (let at = 0, first = true, last = false; !last; first = false) {
      const size = random(4) ? random(whole.length + 1) : 0;
      last = at + size >= whole.length && (random(2) === 0 || parts.length > 40);
      parts.push(frame(first ? OP.text : OP.continuation, whole.subarray(at, at + size), { fin: last }));
      at += size;
      if (!last && random(4) === 0) control();
    }
  }
  const payload = Buffer.alloc(2);
  payload.writeUInt16BE(choose(CODES));
  const ends = [
    () => frame(OP.close, random(4) ? Buffer.concat([payload, text().subarray(0, 100)]) : Buffer.alloc(random(2))),
    () => frame(OP.close, payload),
    () => frame(OP.text, 'x', { rsv: 1 + random(7) }),
    () => frame(choose([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]), 'x'),
    () => frame(OP.text, 'x', { mask: false }),
    () => frame(choose([OP.ping, OP.pong, OP.close]), Buffer.alloc(126)),
    () => frame(choose([OP.ping, OP.pong, OP.close]), payload, { fin: false }),
    () => frame(OP.continuation, 'x'),
    () => Buffer.concat([frame(OP.text, 'x', { fin: false }), frame(OP.text, 'y')]),
    () => frame(OP.text, Buffer.alloc(MAX_MESSAGE + 1, 'x')),
    () => Buffer.concat([frame(OP.text, Buffer.alloc(MAX_MESSAGE, 'x'), { fin: false }), frame(OP.continuation, 'y')]),
    () => frame(OP.binary, 'bytes'),
  ];
  parts.push(choose(ends)());
  return { bytes: Buffer.concat(parts), wrong };
}

/** What the other decoder makes of it, as answers that the server has to give. It unmasks in place. */
function expected(bytes) {
  const receiver = new Receiver({ isServer: true, maxPayload: MAX_MESSAGE, allowSynchronousEvents: true });
  const answers = [];
  let over = false;
  const say = (answer, last = false) => {
    if (!over) answers.push(answer);
    over ||= last;
  };
  return new Promise((resolve) => {
    receiver.on('message', (data, binary) => {
      if (binary) say('close 4400', true);
      else say(data.toString() === 'ping' ? 'pong' : 'error');
    });
    receiver.on('ping', (data) => say(`pong ${data.length}`));
    receiver.on('conclude', (code) => say(`close ${code}`, true));
    receiver.on('error', (error) => {
      const status = Object.getOwnPropertySymbols(error).map((one) => error[one]).find(Number.isInteger);
      say(`close ${status}`, true);
      resolve(answers);
    });
    receiver.write(bytes, () => setImmediate(() => resolve(answers)));
  });
}

/** What the server answers. */
function answered(server, pieces) {
  return within(20000, 'the end', new Promise((resolve, reject) => {
    const answers = [];
    let rest = Buffer.alloc(0);
    let open = false;
    const socket = net.connect({ host: server.host, port: server.port, noDelay: true }, () => socket.write(upgrade('somebody')));
    const take = () => {
      if (!open) {
        const end = rest.indexOf('\r\n\r\n');
        if (end < 0) return;
        assert.match(rest.subarray(0, end).toString(), /^HTTP\/1.1 101 /);
        rest = rest.subarray(end + 4);
        open = true;
        const send = () => {
          if (pieces.length && !socket.destroyed) socket.write(pieces.shift(), () => setImmediate(send));
        };
        send();
      }
      while (rest.length >= 2) {
        const wide = (rest[1] & 127) === 126;
        if (rest.length < (wide ? 4 : 2)) return;
        const size = wide ? rest.readUInt16BE(2) : rest[1] & 127;
        const at = wide ? 4 : 2;
        if (rest.length < at + size) return;
        const payload = rest.subarray(at, at + size);
        const opcode = rest[0] & 15;
        rest = rest.subarray(at + size);
        if (opcode === OP.pong) answers.push(`pong ${size}`);
        else if (opcode === OP.close) answers.push(`close ${size ? payload.readUInt16BE(0) : 1005}`);
        else if (payload.toString() === 'pong') answers.push('pong');
        else if (JSON.parse(payload.toString()).type === 'error') answers.push('error');
      }
    };
    socket.on('data', (data) => {
      rest = Buffer.concat([rest, data]);
      try {
        take();
      } catch (error) {
        reject(error);
      }
    });
    socket.on('error', reject);
    socket.on('close', () => resolve(answers));
    socket.on('end', () => socket.end());
  }));
}

nodeTest('streams of frames are taken as another decoder takes them', { timeout: (SECONDS + 60) * 1000 }, async (t) => {
  const server = await start(t, { args: ['--max-messages-per-second', '0', '--max-connections-per-user', '1000', '--max-message', String(MAX_MESSAGE)] });
  const end = Date.now() + SECONDS * 1000;
  let seed = Number(process.env.FRAMES_SEED) || Date.now() % 2 ** 31;
  let count = 0;
  const one = async () => {
    do {
      const own = seed++;
      const random = dice(own);
      const { bytes, wrong } = stream(random);
      const pieces = [];
      for (let at = 0; at < bytes.length;) {
        const size = random(3) ? bytes.length : 1 + random(200);
        pieces.push(bytes.subarray(at, at + size));
        at += size;
      }
      const [right, got] = await Promise.all([expected(Buffer.from(bytes)), answered(server, pieces)]);
      // wrong UTF-8 may be found at once, before the message is whole
      const early = wrong && got.at(-1) === 'close 1007' && got.length <= right.length;
      if (early) right.splice(got.length - 1, right.length, 'close 1007');
      assert.deepEqual(got, right, `FRAMES_SEED=${own}: ${bytes.toString('hex').slice(0, 400)}`);
      count++;
    } while (!process.env.FRAMES_SEED && Date.now() < end);
  };
  await Promise.all(process.env.FRAMES_SEED ? [one()] : Array.from({ length: 8 }, one));
  t.diagnostic(`${count} streams`);
});
