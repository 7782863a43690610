'use strict';
// Many light WebSockets: in this process (Crowd), or in a child of its own
// (crowdChild), since a process may hold only so many descriptors.

const { fork } = require('node:child_process');
const net = require('node:net');
const { frame, upgrade, OP } = require('./raw');
const { cleanup } = require('./server');

const SOURCES = 50; // loopback addresses that the clients come from

class Crowd {
  /** Users are `${prefix}${0..count-1}`, or all are `prefix` when `same`. With `again`, a lost connection is
   *  opened again at once, and every 50 ms until it works. */
  constructor({ host, port, prefix, count, again = false, same = false }) {
    Object.assign(this, { host, port, prefix, count, again, same });
    this.sockets = new Array(count).fill(null);
    this.open = 0; // those that have their hello
    this.closes = []; // { user, code, reason } of every close frame
    this.stopped = false;
  }

  /** Opens all, `parallel` at a time; resolves when every one has its hello. */
  async connect(parallel = 100) {
    let next = 0;
    const worker = async () => {
      while (next < this.count) await this.one(next++);
    };
    await Promise.all(Array.from({ length: Math.min(parallel, this.count) }, worker));
  }

  one(index) {
    return new Promise((resolve, reject) => {
      const id = this.same ? this.prefix : `${this.prefix}${index}`;
      const socket = net.connect({
        host: this.host,
        port: this.port,
        noDelay: true,
        localAddress: `127.0.0.${2 + (index % SOURCES)}`,
      });
      this.sockets[index] = socket;
      let bytes = Buffer.alloc(0);
      let stage = 'head';
      socket.on('connect', () => socket.write(upgrade(id)));
      socket.on('error', () => {});
      socket.on('data', (chunk) => {
        bytes = bytes.length ? Buffer.concat([bytes, chunk]) : chunk;
        if (stage === 'head') {
          const end = bytes.indexOf('\r\n\r\n');
          if (end < 0) return;
          if (!bytes.subarray(0, 12).equals(Buffer.from('HTTP/1.1 101'))) {
            socket.destroy();
            return;
          }
          bytes = bytes.subarray(end + 4);
          stage = 'hello';
        }
        while (
          (bytes.length >= 2 && bytes.length >= 2 + (bytes[1] & 127) && (bytes[1] & 127) < 126) ||
          (bytes.length >= 4 &&
            (bytes[1] & 127) === 126 &&
            bytes.length >= 4 + bytes.readUInt16BE(2))
        ) {
          const wide = (bytes[1] & 127) === 126;
          const at = wide ? 4 : 2;
          const size = wide ? bytes.readUInt16BE(2) : bytes[1] & 127;
          const opcode = bytes[0] & 15;
          const payload = bytes.subarray(at, at + size);
          if (opcode === OP.text && stage === 'hello') {
            stage = 'open';
            this.open++;
            resolve();
          } else if (opcode === OP.ping) {
            socket.write(frame(OP.pong, payload));
          } else if (opcode === OP.close) {
            this.closes.push({
              user: id,
              code: size >= 2 ? payload.readUInt16BE(0) : null,
              reason: payload.subarray(2).toString(),
            });
            socket.end(frame(OP.close, payload));
          }
          bytes = bytes.subarray(at + size);
        }
        if (!bytes.length) bytes = Buffer.alloc(0); // lets the chunk go
      });
      socket.on('close', () => {
        if (stage === 'open') this.open--;
        if (this.stopped) return;
        if (this.again)
          setTimeout(
            () => this.stopped || this.one(index).then(resolve, reject),
            stage === 'open' ? 0 : 50,
          );
        else if (stage !== 'open') reject(new Error(`no hello for ${id}`));
      });
    });
  }

  /** All go away at once, without a close frame. */
  drop() {
    this.stopped = true;
    for (const socket of this.sockets) socket?.destroy();
  }
}

/** A crowd for the test `t` in this process. */
function crowd(t, server, options) {
  const made = new Crowd({ host: server.host, port: server.port, ...options });
  cleanup(t, () => made.drop());
  return made;
}

/** A crowd in a process of its own; resolves when all have their hello. */
async function crowdChild(t, server, options) {
  const child = fork(__filename, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execArgv: [] });
  const ended = new Promise((resolve) => child.once('close', resolve));
  cleanup(t, () => {
    child.kill('SIGKILL');
    return ended;
  });
  await new Promise((resolve, reject) => {
    child.on('message', (message) =>
      message.error ? reject(new Error(message.error)) : resolve(),
    );
    child.once('close', (code) => reject(new Error(`crowd ended (${code})`)));
    child.send({ host: server.host, port: server.port, ...options });
  });
  return child;
}

if (require.main === module) {
  process.on('disconnect', () => process.exit(0));
  process.once('message', (options) => {
    new Crowd(options).connect(options.parallel).then(
      () => process.send({ ok: true }),
      (error) => process.send({ error: error.message }),
    );
  });
}

module.exports = { crowd, crowdChild };
