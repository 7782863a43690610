// watch_server.mjs - peer of the benchmark: following users as one writes it with npm `ws`.
//
//   node watch_server.mjs [PORT]
//
// A Map of users with their sockets, a Map of those who follow each. A change is made text once and
// sent to every follower at once: nothing is gathered, bounded or checked. PORT 0 or none: any free
// port.

import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';

/** @type {Map<string, {sockets: Set<object>, status: string, connectedAt: Date, lastSeen: Date}>} */
const users = new Map();
/** @type {Map<string, Set<object>>} */
const followers = new Map();

/** The user as followers are told. */
function describe(id) {
  const user = users.get(id);
  return {
    user_id: id,
    online: user !== undefined,
    status: user ? user.status : 'offline',
    source: user ? 'live' : 'stored',
    connections: user ? user.sockets.size : 0,
    connected_at: user ? user.connectedAt.toISOString() : null,
    last_seen: user ? user.lastSeen.toISOString() : null,
  };
}

/** Tells those who follow a user how the user is. */
function tell(id) {
  const text = JSON.stringify({ type: 'presence', users: [describe(id)] });
  for (const socket of followers.get(id) ?? []) socket.send(text);
}

/** Has a socket follow these users. */
function watch(socket, ids) {
  for (const id of ids) {
    if (!followers.has(id)) followers.set(id, new Set());
    followers.get(id).add(socket);
    socket.following.add(id);
  }
  socket.send(JSON.stringify({ type: 'snapshot', users: ids.map(describe) }));
}

const server = createServer((request, response) => {
  response.end('{"status":"ok"}\n');
});

const sockets = new WebSocketServer({ server, perMessageDeflate: false, maxPayload: 65536 });

sockets.on('connection', (socket, request) => {
  const id = decodeURIComponent(request.url.slice(request.url.lastIndexOf('/') + 1));
  const now = new Date();
  const user = users.get(id) ?? {
    sockets: new Set(),
    status: 'online',
    connectedAt: now,
    lastSeen: now,
  };
  users.set(id, user);
  user.sockets.add(socket);
  socket.following = new Set();
  socket.send(
    JSON.stringify({ type: 'hello', user_id: id, connection_id: '0', heartbeat_seconds: 25 }),
  );
  tell(id);

  socket.on('message', (data) => {
    const message = JSON.parse(data.toString());
    user.lastSeen = new Date();
    if (message.type === 'watch') watch(socket, message.users);
    if (message.type !== 'status' || message.status === user.status) return;
    user.status = message.status;
    tell(id);
  });
  socket.on('close', () => {
    for (const one of socket.following) followers.get(one).delete(socket);
    user.sockets.delete(socket);
    if (user.sockets.size === 0) users.delete(id);
    tell(id);
  });
  socket.on('error', () => socket.terminate());
});

server.listen(Number(process.argv[2] ?? 0), '127.0.0.1', 4096, () => {
  process.stderr.write(`listening on 127.0.0.1:${server.address().port}\n`);
});
