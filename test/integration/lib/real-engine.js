'use strict';
// A redis-server of a test's own: the engine that --cluster names.

const fs = require('node:fs');
const net = require('node:net');
const path = require('node:path');
const { spawn, execFileSync } = require('node:child_process');
const { cleanup, tempDir } = require('./server');
const { PROGRAM } = require('./engine');
const { freePort } = require('./ports');
const { until } = require('./wait');

const listens = (port, host) => new Promise((resolve) => {
  const socket = net.connect(port, host)
    .once('connect', () => { socket.destroy(); resolve(true); })
    .once('error', () => resolve(false));
});

class Engine {
  constructor(t, port, args, place = null) {
    Object.assign(this, { port, args, place, host: place?.address ?? '127.0.0.1', dir: tempDir(t), child: null });
  }

  /** Starts it, again after a stop, and waits until it listens. */
  async start() {
    const log = fs.openSync(path.join(this.dir, 'log'), 'a');
    const usual = this.conf
      ? [this.conf, '--sentinel', '--port', `${this.port}`]
      : ['--port', `${this.port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', this.dir];
    const [program, ...argv] = [...(this.place?.wrap ?? []), PROGRAM, ...usual, ...this.args];
    this.child = spawn(program, argv, { stdio: ['ignore', log, log] });
    fs.closeSync(log);
    this.over = false;
    this.ended = new Promise((resolve) => {
      this.child.once('error', resolve).once('close', resolve);
    });
    this.ended.then(() => { this.over = true; });
    await until('redis-server to listen', () => listens(this.listening ?? this.port, this.host), { giveUp: () => this.over });
    return this;
  }

  /** Ends it, with all that is in it. */
  async kill() {
    this.child.kill('SIGCONT');
    this.child.kill('SIGKILL');
    await this.ended;
  }

  signal(name) {
    this.child.kill(name);
  }

  /** What it answers to a command. */
  say(...words) {
    return execFileSync('redis-cli', ['-h', this.host, '-p', `${this.port}`, ...words], { encoding: 'utf8' }).trim();
  }

  /** The names of its clients that are nodes. */
  nodes() {
    return [...this.say('CLIENT', 'LIST').matchAll(/ name=(presence-\S+)/g)].map(([, name]) => name);
  }

  url(prefix = 'test') {
    return `redis://127.0.0.1:${this.port}/${prefix}`;
  }
}

/** Starts a redis-server with these further arguments; it ends with the test. */
async function startEngine(t, args = [], { listening } = {}) {
  const engine = new Engine(t, await freePort(), args);
  engine.listening = listening;
  cleanup(t, () => engine.kill());
  return engine.start();
}

/** The same as a Sentinel, with this configuration, which it changes; on a host of a network too. */
async function startSentinel(t, text, { listening, place } = {}) {
  const sentinel = new Engine(t, await freePort(), [], place);
  const bind = place ? `bind 0.0.0.0\nprotected-mode no\nsentinel announce-ip ${place.wire}` : 'bind 127.0.0.1';
  sentinel.listening = listening;
  sentinel.conf = path.join(sentinel.dir, 'sentinel.conf');
  fs.writeFileSync(sentinel.conf, `${bind}\ndir ${sentinel.dir}\n${text}`);
  cleanup(t, () => sentinel.kill());
  return sentinel.start();
}

module.exports = { startEngine, startSentinel };
