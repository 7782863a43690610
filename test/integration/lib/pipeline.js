'use strict';
// Many HTTP heartbeats quickly: pipelined on a few connections.

const { segment } = require('./http');
const { tcp } = require('./raw');
const { slow } = require('./variant');

const WINDOW = 32; // requests under way on one connection

/** A heartbeat for every id; returns how many were answered 204. */
async function heartbeats(server, ids, connections = 4) {
  let next = 0;
  let good = 0;
  const worker = async () => {
    const raw = await tcp(server);
    while (next < ids.length) {
      const part = ids.slice(next, next + WINDOW);
      next += part.length;
      raw.write(
        part
          .map(
            (id) =>
              `POST /api/presence/${segment(id)}/heartbeat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n`,
          )
          .join(''),
      );
      for (let i = 0; i < part.length; i++) {
        if ((await raw.response(20000 * slow)).status === 204) good++;
      }
    }
    raw.destroy();
  };
  await Promise.all(Array.from({ length: connections }, worker));
  return good;
}

module.exports = { heartbeats };
