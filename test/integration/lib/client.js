'use strict';
// A WebSocket client of the presence protocol, on the `ws` package.

const WebSocket = require('ws');
const { segment } = require('./http');
const { slow } = require('./variant');
const { within } = require('./wait');

class Client {
  constructor(socket) {
    this.socket = socket;
    this.queue = []; // messages nobody has taken yet
    this.wanted = []; // { matches, resolve } waiting for one
    socket.on('message', (data, binary) => this.arrived(binary ? data : parse(data.toString())));
    this.closed = new Promise((resolve) => {
      socket.on('close', (code, reason) => resolve({ code, reason: reason.toString() }));
    });
  }

  arrived(message) {
    const index = this.wanted.findIndex((one) => one.matches(message));
    if (index < 0) this.queue.push(message);
    else this.wanted.splice(index, 1)[0].resolve(message);
  }

  /** The next message of this type (or equal to this text), whenever it comes. */
  want(type) {
    const matches = (message) => message === type || message.type === type;
    const index = this.queue.findIndex(matches);
    if (index >= 0) return Promise.resolve(this.queue.splice(index, 1)[0]);
    return new Promise((resolve) => this.wanted.push({ matches, resolve }));
  }

  /** The same, within a time. */
  next(type) {
    return within(5000 * slow, `message ${type}`, this.want(type));
  }

  /** Sends text as it is, anything else as JSON. */
  send(message) {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  /** A round trip: everything sent before has been handled after it. */
  async ping() {
    this.send('ping');
    await this.next('pong');
  }

  /** Closes with the handshake and waits for its end. */
  async close(code = 1000, reason) {
    this.socket.close(code, reason);
    return within(5000 * slow, 'close handshake', this.closed);
  }

  /** The connection vanishes with a reset. */
  reset() {
    this.socket._socket.resetAndDestroy();
  }

  /** The connection ends without a close frame. */
  destroy() {
    this.socket.terminate();
  }

  get open() {
    return this.socket.readyState === WebSocket.OPEN;
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

/**
 * Connects user `id` and waits for its hello. Options are those of `ws`, and:
 * port (a proxy's), protocols, query. A refused upgrade rejects with .status and .headers, one that
 * was closed before its hello with .code and .reason; by wss where the server is seen through TLS.
 */
async function connect(server, id, { port = server.port, protocols = [], query = '', ...options } = {}) {
  const host = server.host.includes(':') ? `[${server.host}]` : server.host;
  const socket = new WebSocket(
    `${server.tls ? 'wss' : 'ws'}://${host}:${port}/ws/presence/${segment(id)}${query}`,
    protocols,
    // of a socket that is gone already `ws` would wait for the end of its closing handshake
    { closeTimeout: 1000 * slow, ...server.tls, ...options },
  );
  const client = new Client(socket);
  server.sockets.add(client);
  socket.on('close', () => server.sockets.delete(client));
  let refused;
  const failed = new Promise((_, reject) => {
    socket.on('unexpected-response', (request, response) => {
      refused = Object.assign(new Error(`upgrade answered ${response.statusCode}`), {
        status: response.statusCode,
        headers: response.headers,
      });
      request.destroy();
      reject(refused);
    });
    socket.on('error', (error) => reject(refused || error));
    socket.on('close', (code, reason) =>
      reject(
        Object.assign(new Error(`closed ${code} ${reason} before hello`), {
          code,
          reason: reason.toString(),
        }),
      ),
    );
  });
  failed.catch(() => {});
  client.hello = await within(10000 * slow, 'hello', Promise.race([client.want('hello'), failed]));
  return client;
}

/** How the server turns this user down: the error of connect(); throws when it does not. */
const refusal = (...args) =>
  connect(...args).then(
    () => {
      throw new Error(`was let in: ${args[1]} ${JSON.stringify(args[2])}`);
    },
    (error) => error,
  );

module.exports = { connect, refusal };
