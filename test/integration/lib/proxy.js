'use strict';
// A TCP proxy in user space that can behave like a bad network.

const net = require('node:net');
const { cleanup } = require('./server');

class Proxy {
  constructor(target) {
    this.target = target;
    this.hole = false;
    this.lag = 0;
    this.sockets = new Set();
    this.listener = net.createServer({ allowHalfOpen: true, noDelay: true }, (client) => {
      const upstream = net.connect({
        port: target.port,
        host: target.host,
        allowHalfOpen: true,
        noDelay: true,
      });
      this.relay(client, upstream, () => this.lag);
      this.relay(upstream, client, () => 0);
    });
  }

  /** Everything disappears from now on, both ways, ends included. */
  blackHole() {
    this.hole = true;
  }

  /** Bytes from the clients arrive `ms` later from now on, in order. */
  delay(ms) {
    this.lag = ms;
  }

  relay(from, to, lag) {
    let tail = Promise.resolve();
    const later = (work) => {
      const ms = lag();
      tail = tail
        .then(() => (ms ? new Promise((resolve) => setTimeout(resolve, ms)) : undefined))
        .then(() => {
          if (!this.hole && !to.destroyed) work();
        });
    };
    this.sockets.add(from);
    from.on('data', (chunk) => later(() => to.write(chunk)));
    from.on('end', () => later(() => to.end()));
    from.on('error', () => later(() => to.destroy()));
    from.on('close', () => this.sockets.delete(from));
  }

  close() {
    this.listener.close();
    for (const socket of this.sockets) socket.destroy();
  }
}

/** Starts a proxy in front of the server; it goes away with the test. */
async function startProxy(t, target) {
  const proxy = new Proxy(target);
  await new Promise((resolve) => proxy.listener.listen(0, '127.0.0.1', resolve));
  proxy.port = proxy.listener.address().port;
  cleanup(t, () => proxy.close());
  return proxy;
}

module.exports = { startProxy };
