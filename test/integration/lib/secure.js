'use strict';
// A server that also speaks TLS, and the same server as seen through it.

const tls = require('node:tls');
const { Authority } = require('./certs');
const { start, tempDir } = require('./server');

/** The server at another of its addresses; every client function takes it. With `ca` it is a
 *  TLS address, and its clients trust that authority. */
const seen = (server, address, more = {}) => Object.assign(Object.create(server), address, more);

/** Starts a server on a plain and a TLS port. Options are those of start(), and: authority (one
 *  is made when there is none), certs (made by it; default one of P-256). The result's `.secure`
 *  is the server seen through TLS. */
async function startSecure(t, { authority, certs, tlsListen = ['127.0.0.1:0'], args = [], listening = 0, ...options } = {}) {
  const issuer = authority || new Authority(tempDir(t));
  const list = certs || [issuer.issue('localhost')];
  const server = await start(t, {
    ...options,
    args: [
      ...tlsListen.flatMap((one) => ['--tls-listen', one]),
      ...list.flatMap(({ cert, key }) => ['--tls-cert', cert, '--tls-key', key]),
      ...args,
    ],
    listening: listening + tlsListen.length,
  });
  server.authority = issuer;
  server.certs = list;
  server.secure = secured(server, issuer.pem);
  return server;
}

/** The server as seen through its first TLS address. */
const secured = (server, ca) => seen(server, server.of('https')[0], { tls: { ca } });

/** A handshake and nothing else: resolves to the open TLSSocket. Options are node's. */
function shake(server, options = {}) {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host: server.host, port: server.port, ...server.tls, ...options });
    server.sockets.add(socket);
    socket.once('secureConnect', () => resolve(socket));
    socket.once('error', reject);
    socket.once('close', () => {
      server.sockets.delete(socket);
      reject(new Error('closed in the handshake'));
    });
  });
}

/** Why a handshake failed: the error; throws when it worked. */
const refusedShake = (server, options) =>
  shake(server, options).then(
    (socket) => {
      socket.destroy();
      throw new Error(`the handshake worked: ${socket.getProtocol()} ${JSON.stringify(options)}`);
    },
    (error) => error,
  );

/** A session that the server lets this connection resume. */
async function sessionOf(socket) {
  if (socket.getProtocol() === 'TLSv1.2') return socket.getSession(); // came with the handshake
  const ticket = new Promise((resolve) => socket.once('session', resolve));
  socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n');
  return ticket;
}

/** The fingerprint of the certificate a new connection is shown. */
async function shown(server, options) {
  const socket = await shake(server, options);
  const { fingerprint256 } = socket.getPeerCertificate();
  socket.destroy();
  return fingerprint256;
}

module.exports = { startSecure, secured, seen, shake, refusedShake, shown, sessionOf };
