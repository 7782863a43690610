'use strict';
// Many sockets in a thread of their own, each of which says the same kind of bytes at once; and a
// thread that measures how long others' pings take meanwhile.

const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads');
const net = require('node:net');
const os = require('node:os');
const { frame, upgrade, OP } = require('./raw');
const { cleanup } = require('./server');

const DIGITS = '0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ';

/** Ids of four characters, none twice. */
function ids(from, count) {
  const all = [];
  for (let n = from; n < from + count; n++) {
    let id = '';
    for (let i = 0, left = n; i < 4; i++, left = Math.floor(left / 62)) id += DIGITS[left % 62];
    all.push(id);
  }
  return all;
}

/** What socket number `index` sends: `rounds` times a watch of `count` ids that nobody else names,
 *  and an unwatch. */
function watchBytes(index, { rounds, count, keep }) {
  const parts = [];
  for (let round = 0; round < rounds; round++) {
    const users = ids((index * rounds + round) * count, count);
    parts.push(frame(OP.text, JSON.stringify({ type: 'watch', users })));
    if (!keep) parts.push(frame(OP.text, JSON.stringify({ type: 'unwatch' })));
  }
  return Buffer.concat(parts);
}

function openSockets({ host, port, sockets, prefix, ...bytes }) {
  const state = { open: 0, closed: 0, received: 0, codes: {} };
  const all = [];
  const open = (index) =>
    new Promise((resolve, reject) => {
      const socket = net.connect({ host, port, localAddress: `127.0.0.${2 + (index % 50)}` });
      let stage = 'head';
      let had = Buffer.alloc(0);
      socket.on('connect', () => socket.write(upgrade(`${prefix}${index}`)));
      socket.on('data', (chunk) => {
        state.received += chunk.length;
        if (stage === 'head') {
          had = Buffer.concat([had, chunk]);
          if (!had.includes('"hello"')) return;
          stage = 'open';
          state.open++;
          resolve();
        } else if (chunk.length > 3 && chunk.at(-chunk.length) === 0x88) {
          const code = chunk.readUInt16BE(2);
          state.codes[code] = (state.codes[code] || 0) + 1;
        }
      });
      socket.on('error', () => {});
      socket.on('close', () => {
        state.closed++;
        if (stage === 'head') reject(new Error('no hello'));
      });
      all.push({ socket, bytes: watchBytes(index, bytes) });
    });
  parentPort.on('message', async (what) => {
    if (what === 'open') {
      for (let at = 0; at < sockets; at += 100)
        await Promise.all(Array.from({ length: Math.min(100, sockets - at) }, (_, i) => open(at + i)));
    } else if (what === 'send') {
      for (const one of all) one.socket.write(one.bytes);
    } else if (what === 'drop') {
      for (const one of all) one.socket.destroy();
    } else if (what === 'end') {
      process.exit(0);
    }
    parentPort.postMessage({ what, state });
  });
}

function measurePings({ host, port, id, every }) {
  try {
    os.setPriority(-15); // of this thread: what is measured is the server, not this machine
  } catch {
    /* not ours to set */
  }
  const socket = net.connect({ host, port, noDelay: true });
  const took = [];
  let sent = 0;
  let had = '';
  let over = false;
  const ping = () => {
    sent = performance.now();
    socket.write(frame(OP.text, 'ping'));
  };
  socket.on('connect', () => socket.write(upgrade(id)));
  socket.on('data', (chunk) => {
    had += chunk.toString('latin1');
    if (!sent && had.includes('"hello"')) {
      parentPort.postMessage({ what: 'open' });
      had = '';
      ping();
    } else if (sent && had.includes('pong')) {
      had = '';
      took.push(performance.now() - sent);
      if (!over) setTimeout(ping, every);
      else parentPort.postMessage({ what: 'told', took });
    }
  });
  parentPort.on('message', (what) => {
    if (what === 'tell') over = true;
    else process.exit(0);
  });
}

/** A thread, with ask(what) that resolves to its answer to that. */
function thread(t, data) {
  const worker = new Worker(__filename, { workerData: data });
  cleanup(t, () => worker.terminate());
  const wait = (what) =>
    new Promise((resolve, reject) => {
      const hear = (message) => {
        if (message.what !== what) return;
        worker.off('message', hear);
        resolve(message);
      };
      worker.on('message', hear);
      worker.once('error', reject);
    });
  return {
    wait,
    ask(what, answer = what) {
      const told = wait(answer);
      worker.postMessage(what);
      return told;
    },
  };
}

/** `sockets` open WebSockets whose bytes are made: send(), drop(), state(). */
async function watchers(t, server, options) {
  const { host, port } = server;
  const one = thread(t, { kind: 'watchers', host, port, prefix: 'w', ...options });
  await one.ask('open');
  return {
    send: () => one.ask('send'),
    drop: () => one.ask('drop'),
    state: async () => (await one.ask('state')).state,
  };
}

/** Pings of another connection, every so many ms; end() gives what each took, in ms. */
async function pinger(t, server, { id = 'pinger', every = 5 } = {}) {
  const one = thread(t, { kind: 'pinger', host: server.host, port: server.port, id, every });
  await one.wait('open');
  return { end: async () => (await one.ask('tell', 'told')).took };
}

if (!isMainThread && workerData?.kind === 'watchers') openSockets(workerData);
else if (!isMainThread && workerData?.kind === 'pinger') measurePings(workerData);

module.exports = { watchers, pinger, ids };
