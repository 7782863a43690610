// ws_server.mjs - peer of the benchmark: presence as one writes it with npm `ws`.
//
//   node ws_server.mjs [PORT]
//
// A Map of users with their sockets, hello, pong to ping, and one user by GET. No store, no timers,
// no limits. PORT 0 or none: any free port.

import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

/** @type {Map<string, {sockets: Set<object>, connectedAt: Date, lastSeen: Date}>} */
const users = new Map();

/** The user as it is answered by the API. */
function describe(id) {
  const user = users.get(id);
  return {
    user_id: id,
    online: user !== undefined,
    status: user ? 'online' : 'offline',
    source: user ? 'live' : 'stored',
    connections: user ? user.sockets.size : 0,
    connected_at: user ? user.connectedAt.toISOString() : null,
    last_seen: user ? user.lastSeen.toISOString() : null,
  };
}

/** The id at the end of a path. */
function idOf(url) {
  return decodeURIComponent(url.slice(url.lastIndexOf('/') + 1));
}

/** Sends one JSON message. */
function send(socket, message) {
  socket.send(JSON.stringify(message));
}

const server = createServer((request, response) => {
  const body = JSON.stringify(describe(idOf(request.url)));
  response.writeHead(200, {
    'Content-Type': 'application/json',
    'Cache-Control': 'no-store',
    'Content-Length': Buffer.byteLength(body),
  });
  response.end(body);
});

const sockets = new WebSocketServer({ server, perMessageDeflate: false, maxPayload: 4096 });

sockets.on('connection', (socket, request) => {
  const id = idOf(request.url);
  const now = new Date();
  const user = users.get(id) ?? { sockets: new Set(), connectedAt: now, lastSeen: now };
  users.set(id, user);
  user.sockets.add(socket);
  send(socket, { type: 'hello', user_id: id, connection_id: '0', heartbeat_seconds: 25 });

  socket.on('message', (data) => {
    const text = data.toString();
    user.lastSeen = new Date();
    if (text === 'ping') {
      socket.send('pong');
    } else if (JSON.parse(text).type === 'ping') {
      send(socket, { type: 'pong', time: user.lastSeen.toISOString() });
    }
  });
  socket.on('close', () => {
    user.sockets.delete(socket);
    if (user.sockets.size === 0) users.delete(id);
  });
  socket.on('error', () => socket.terminate());
});

server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', 4096, () => {
  process.stderr.write(`listening on 127.0.0.1:${server.address().port}\n`);
});
