'use strict';
// TCP ports for what cannot be told to take any (port 0) and say which.

const net = require('node:net');

/** Below those that the kernel gives to connections, so that none of another test takes one. */
const [FIRST, COUNT] = [20000, 6000];

/** Listens, without keeping this process alive; null if somebody else does. */
const listen = (port) => new Promise((resolve) => {
  const server = net.createServer().unref();
  server.once('error', () => resolve(null)).listen(port, '127.0.0.1', () => resolve(server));
});

/** A TCP port of 127.0.0.1 that is free, and is given to nobody else until this process ends: other
 *  test files run beside it, and see that it is taken by another port, which is a claim and nothing else. */
async function freePort() {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * COUNT);
    const claim = await listen(port + COUNT);
    const free = claim && await listen(port);
    if (free) {
      free.close();
      return port;
    }
    claim?.close();
  }
}

module.exports = { freePort };
