'use strict';
// A TCP client that says exactly what a test wants to say: HTTP requests and
// WebSocket frames made by hand.

const crypto = require('node:crypto');
const net = require('node:net');
const tls = require('node:tls');
const { segment } = require('./http');
const { slow } = require('./variant');
const { within } = require('./wait');

const OP = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/** One frame as a client sends it. `length` overrides the declared one (a
 *  Buffer of the 8 length bytes), `mask: false` leaves the mask away. */
function frame(
  opcode,
  payload = '',
  { fin = true, rsv = 0, mask = true, key = crypto.randomBytes(4), length } = {},
) {
  const data = Buffer.from(payload);
  const first = (fin ? 0x80 : 0) | (rsv << 4) | opcode;
  const bit = mask ? 0x80 : 0;
  let head;
  if (length) {
    head = Buffer.concat([Buffer.from([first, bit | 127]), length]);
  } else if (data.length < 126) {
    head = Buffer.from([first, bit | data.length]);
  } else if (data.length < 65536) {
    head = Buffer.from([first, bit | 126, data.length >> 8, data.length & 255]);
  } else {
    head = Buffer.alloc(10);
    head[0] = first;
    head[1] = bit | 127;
    head.writeBigUInt64BE(BigInt(data.length), 2);
  }
  if (!mask) return Buffer.concat([head, data]);
  const masked = Buffer.from(data);
  for (let i = 0; i < masked.length; i++) masked[i] ^= key[i & 3];
  return Buffer.concat([head, key, masked]);
}

/** The payload of a close frame. */
function closePayload(code, reason = '') {
  const bytes = Buffer.from(reason);
  const payload = Buffer.alloc(2 + bytes.length);
  payload.writeUInt16BE(code);
  bytes.copy(payload, 2);
  return payload;
}

/** The text of an upgrade request. `headers` replaces or (null) removes the
 *  usual ones; `extra` are further lines. */
function upgrade(id, { headers = {}, extra = [], path = `/ws/presence/${segment(id)}` } = {}) {
  const all = {
    Host: 'localhost',
    Upgrade: 'websocket',
    Connection: 'Upgrade',
    'Sec-WebSocket-Key': crypto.randomBytes(16).toString('base64'),
    'Sec-WebSocket-Version': '13',
    ...headers,
  };
  const lines = Object.entries(all)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name}: ${value}`);
  return `GET ${path} HTTP/1.1\r\n${[...lines, ...extra].join('\r\n')}\r\n\r\n`;
}

class Raw {
  constructor(socket) {
    this.socket = socket;
    this.bytes = Buffer.alloc(0);
    this.ended = false; // the server sent FIN or RST
    this.waiters = new Set();
    const wake = () => {
      for (const waiter of [...this.waiters]) waiter();
    };
    socket.on('data', (chunk) => {
      this.bytes = Buffer.concat([this.bytes, chunk]);
      wake();
    });
    this.closed = new Promise((resolve) => {
      const done = () => {
        this.ended = true;
        wake();
        resolve();
      };
      socket.on('end', done);
      socket.on('close', done);
      socket.on('error', (error) => {
        this.error = error;
        done();
      });
    });
  }

  write(...parts) {
    return this.socket.write(Buffer.concat(parts.map((part) => Buffer.from(part))));
  }

  /** Resolves to what `take` returns as soon as it is not undefined. */
  async read(what, take, deadline = 5000 * slow) {
    let wake;
    const found = new Promise((resolve, reject) => {
      wake = () => {
        const value = take();
        if (value !== undefined) resolve(value);
        else if (this.ended)
          reject(
            new Error(
              `connection ended (${this.error?.code || 'no error'}) before ${what}: ${JSON.stringify(this.bytes.toString('latin1', 0, 500))}`,
            ),
          );
      };
      this.waiters.add(wake);
      wake();
    });
    try {
      return await within(deadline, what, found);
    } finally {
      this.waiters.delete(wake);
    }
  }

  take(count) {
    const taken = this.bytes.subarray(0, count);
    this.bytes = this.bytes.subarray(count);
    return taken;
  }

  /** An HTTP response head: { status, headers, lines }. */
  head(deadline) {
    return this.read(
      'a response head',
      () => {
        const end = this.bytes.indexOf('\r\n\r\n');
        if (end < 0) return undefined;
        const [first, ...lines] = this.take(end + 4)
          .toString('latin1')
          .trimEnd()
          .split('\r\n');
        const headers = {};
        for (const line of lines) {
          const colon = line.indexOf(':');
          headers[line.slice(0, colon).toLowerCase()] = line.slice(colon + 1).trim();
        }
        return { status: Number(first.split(' ')[1]), headers, lines };
      },
      deadline,
    );
  }

  /** A whole HTTP response with its Content-Length body. */
  async response(deadline) {
    const head = await this.head(deadline);
    const length = Number(head.headers['content-length'] || 0);
    const body = await this.read(
      'a response body',
      () => (this.bytes.length >= length ? this.take(length) : undefined),
      deadline,
    );
    return { ...head, body: body.toString() };
  }

  /** The next frame from the server: { opcode, fin, payload, code?, reason? }. */
  frame(deadline) {
    return this.read(
      'a frame',
      () => {
        const b = this.bytes;
        if (b.length < 2) return undefined;
        let size = b[1] & 127;
        let at = 2;
        if (size === 126) {
          if (b.length < 4) return undefined;
          size = b.readUInt16BE(2);
          at = 4;
        } else if (size === 127) {
          if (b.length < 10) return undefined;
          size = Number(b.readBigUInt64BE(2));
          at = 10;
        }
        if (b.length < at + size) return undefined;
        const whole = this.take(at + size);
        const found = {
          opcode: whole[0] & 15,
          fin: whole[0] >> 7 === 1,
          rsv: (whole[0] >> 4) & 7,
          masked: whole[1] >> 7 === 1,
          payload: Buffer.from(whole.subarray(at)),
        };
        if (found.opcode === OP.close) {
          found.code = size >= 2 ? found.payload.readUInt16BE(0) : null;
          found.reason = found.payload.subarray(2).toString();
        }
        return found;
      },
      deadline,
    );
  }

  /** The next text message, parsed if it is JSON. Other frames are skipped. */
  async message(deadline) {
    for (;;) {
      const found = await this.frame(deadline);
      if (found.opcode === OP.close) throw new Error(`closed ${found.code} ${found.reason}`);
      if (found.opcode !== OP.text) continue;
      const text = found.payload.toString();
      try {
        return JSON.parse(text);
      } catch {
        return text;
      }
    }
  }

  /** How the server ended it: the close code, or null for a plain drop. */
  async closeCode(deadline = 5000 * slow) {
    for (;;) {
      let found;
      try {
        found = await this.frame(deadline);
      } catch (error) {
        if (this.ended) return null;
        throw error;
      }
      if (found.opcode === OP.close) return found.code;
    }
  }

  /** A bare ping and its pong; other messages in between are skipped. */
  async ping() {
    this.write(frame(OP.text, 'ping'));
    while ((await this.message()) !== 'pong');
  }

  destroy() {
    this.socket.destroy();
  }
  reset() {
    this.socket.resetAndDestroy();
  }
}

/** A connection to the server (or to a proxy's port): plain TCP, or TLS where the server is seen
 *  through it; `bare` is TCP in any case. */
async function tcp(
  server,
  { port = server.port, host = server.host, allowHalfOpen = true, bare = false, ...options } = {},
) {
  const secure = server.tls && !bare;
  const all = { port, host, allowHalfOpen, noDelay: true, ...(secure ? server.tls : {}), ...options };
  const socket = secure ? tls.connect(all) : net.connect(all);
  const raw = new Raw(socket);
  server.sockets.add(raw);
  socket.on('close', () => server.sockets.delete(raw));
  await new Promise((resolve, reject) => {
    socket.once(secure ? 'secureConnect' : 'connect', resolve);
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('closed while connecting')));
  });
  return raw;
}

/** A hand-made WebSocket of user `id`, after its hello. */
async function rawConnect(server, id, options = {}) {
  const raw = await tcp(server, options);
  raw.write(upgrade(id));
  const head = await raw.head();
  if (head.status !== 101) throw Object.assign(new Error(`upgrade answered ${head.status}`), head);
  raw.hello = await raw.message();
  return raw;
}

module.exports = { OP, frame, closePayload, upgrade, tcp, rawConnect };
