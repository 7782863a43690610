'use strict';
// Thousands of hostile sockets in a child process: silent, dripping, half-shaken. Each that the
// server ends is opened again, until the child is told to stop or its time is over.

const net = require('node:net');
const { fork } = require('node:child_process');
const { cleanup } = require('./server');

const SOURCES = 250; // addresses 127.1.0.1 and on

const KINDS = {
  silent: () => {},
  head: (socket) => {
    socket.write('GET /healthz HTTP/1.1\r\nHost: localhost\r\n');
    return () => socket.write('X');
  },
  hello: (socket, { hello }) => {
    socket.write(hello.subarray(0, 60));
    let at = 60;
    return () => at < hello.length - 1 && socket.write(hello.subarray(at, ++at));
  },
};

/** Keeps `count` sockets of each kind open: { kind, port, count } in `attacks`. */
function flood({ attacks, hello, seconds, host }) {
  const state = { open: 0, opened: 0, ended: 0 };
  let index = 0;
  let stopped = false;
  const live = new Set();
  const open = (kind, port, source) => {
    if (stopped) return;
    const socket = net.connect({ host, port, localAddress: `127.1.${source >> 8}.${1 + (source & 255)}` });
    let drip;
    socket.on('connect', () => {
      state.open++;
      state.opened++;
      socket.counted = true;
      drip = KINDS[kind](socket, { hello });
    });
    socket.drip = () => drip?.();
    live.add(socket);
    socket.on('error', () => {});
    socket.on('data', () => {});
    socket.on('close', () => {
      live.delete(socket);
      if (socket.counted) {
        state.open--;
        state.ended++;
      }
      setTimeout(() => open(kind, port, source), 200 + Math.random() * 800);
    });
  };
  for (const { kind, port, count } of attacks)
    for (let i = 0; i < count; i++, index++) {
      const source = index % SOURCES;
      setTimeout(() => open(kind, port, source), Math.random() * 8000);
    }
  const ticks = setInterval(() => {
    for (const socket of live) if (!socket.destroyed && Math.random() < 0.25) socket.drip();
    process.send?.(state);
  }, 500);
  setTimeout(() => {
    stopped = true;
    clearInterval(ticks);
    for (const socket of live) socket.destroy();
    process.exit(0);
  }, seconds * 1000);
}

/** Starts a flood in a child for the test `t`; `.state` is what it said last. */
function startFlood(t, options) {
  const child = fork(__filename, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], execArgv: [] });
  const handle = { state: { open: 0 }, ended: new Promise((resolve) => child.once('close', resolve)) };
  child.on('message', (state) => { handle.state = state; });
  cleanup(t, () => {
    child.kill('SIGKILL');
    return handle.ended;
  });
  child.send({ ...options, hello: options.hello.toString('base64') });
  return handle;
}

if (require.main === module) {
  process.on('disconnect', () => process.exit(0));
  process.once('message', (options) => flood({ ...options, hello: Buffer.from(options.hello, 'base64') }));
}

module.exports = { startFlood };
