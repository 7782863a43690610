'use strict';
// TCP ports for what cannot be told to take any (port 0) and say which.

const net = require('node:net');

/** Below those that the kernel gives to connections, so that none of another test takes one. */
const [FIRST, LAST] = [20000, 32767];

/** Listens, without keeping this process alive; null if somebody else does. */
const listen = (host, port) => new Promise((resolve) => {
  const server = net.createServer().unref();
  server.once('error', () => resolve(null)).listen(port, host, () => resolve(server));
});

/** A TCP port of 127.0.0.1 that is free, and is given to nobody else until this process ends: other
 *  test files run beside it, and see who has it by another address of this machine. */
async function freePort() {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST + 1));
    const claim = await listen('127.255.0.1', port);
    const free = claim && await listen('127.0.0.1', port);
    if (free) {
      free.close();
      return port;
    }
    claim?.close();
  }
}

module.exports = { freePort };
