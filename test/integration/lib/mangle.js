'use strict';
// A TCP proxy that forwards every byte, but cut at other places, and that can end a connection
// below TLS: with a FIN and no close_notify.

const net = require('node:net');
const { cleanup } = require('./server');

const RECORD_HEAD = 5;
const HANDSHAKE = 22;

/** Cuts a buffer at these lengths; what is left is the last piece. */
function cut(buffer, lengths) {
  const pieces = [];
  let at = 0;
  for (const length of lengths) {
    if (at >= buffer.length) break;
    pieces.push(buffer.subarray(at, at + length));
    at += length;
  }
  if (at < buffer.length) pieces.push(buffer.subarray(at));
  return pieces;
}

/** The first `count` bytes one by one, the rest as it comes. */
const byteByByte = (count = Infinity) => () => {
  let left = count;
  return (chunk) => {
    const pieces = cut(chunk, Array(Math.min(left, chunk.length)).fill(1));
    left -= Math.min(left, chunk.length);
    return pieces;
  };
};

/** Pieces of 1 to `max` bytes, by chance. */
const chopped = (max) => () => (chunk) => {
  const pieces = [];
  for (let at = 0; at < chunk.length; ) {
    const length = 1 + Math.floor(Math.random() * max);
    pieces.push(chunk.subarray(at, at + length));
    at += length;
  }
  return pieces;
};

/** The first record, which must be the ClientHello, as several records: `split` takes its payload
 *  and gives the payloads. They leave in one piece, so that only the record layer is odd. */
const reframed = (split) => () => {
  let bytes = Buffer.alloc(0);
  let done = false;
  return (chunk) => {
    if (done) return [chunk];
    bytes = Buffer.concat([bytes, chunk]);
    if (bytes.length < RECORD_HEAD) return [];
    const end = RECORD_HEAD + bytes.readUInt16BE(3);
    if (bytes.length < end) return [];
    if (bytes[0] !== HANDSHAKE) throw new Error('the first record is no handshake');
    done = true;
    const records = split(bytes.subarray(RECORD_HEAD, end)).map((payload) => {
      const head = Buffer.from(bytes.subarray(0, RECORD_HEAD));
      head.writeUInt16BE(payload.length, 3);
      return Buffer.concat([head, payload]);
    });
    return [Buffer.concat([...records, bytes.subarray(end)])];
  };
};

class Mangler {
  constructor(target, shape) {
    this.target = target;
    this.pieces = 0;
    this.pairs = new Set();
    this.listener = net.createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
      const upstream = net.connect({ port: target.port, host: target.host, allowHalfOpen: true, noDelay: true });
      const pair = { client, upstream };
      this.pairs.add(pair);
      this.forward(client, upstream, shape());
      this.forward(upstream, client, (chunk) => [chunk]);
      upstream.on('close', () => this.pairs.delete(pair));
    });
  }

  forward(from, to, pieces) {
    let tail = Promise.resolve();
    const write = (piece) => new Promise((resolve) => {
      this.pieces++;
      if (to.destroyed) resolve();
      else to.write(piece, () => setImmediate(resolve));
    });
    from.on('data', (chunk) => {
      from.pause();
      tail = tail.then(async () => {
        for (const piece of pieces(chunk)) await write(await piece);
        from.resume();
      });
    });
    from.on('end', () => { tail = tail.then(() => to.destroyed || to.end()); });
    from.on('error', () => to.destroy());
  }

  /** Every connection ends towards the server: a FIN, and no word of TLS. */
  fin() {
    for (const { upstream } of this.pairs) upstream.end();
  }

  close() {
    this.listener.close();
    for (const { client, upstream } of this.pairs) {
      client.destroy();
      upstream.destroy();
    }
  }
}

/** Starts such a proxy in front of a server (a shape may give promises of pieces too); gives the server as seen through it. */
async function startMangler(t, server, shape = () => (chunk) => [chunk]) {
  const mangler = new Mangler({ host: server.host, port: server.port }, shape);
  await new Promise((resolve) => mangler.listener.listen(0, '127.0.0.1', resolve));
  cleanup(t, () => mangler.close());
  return Object.assign(Object.create(server), { host: '127.0.0.1', port: mangler.listener.address().port, mangler });
}

module.exports = { startMangler, cut, byteByByte, chopped, reframed };
