'use strict';
// A service manager that starts the program as systemd does, see manager.pl: it holds the listening
// sockets over restarts, and hears what the program tells it.

const { spawn } = require('node:child_process');
const path = require('node:path');
const { binary, slow } = require('./variant');
const { cleanup, tempDir } = require('./server');
const { until, within } = require('./wait');

class Manager {
  constructor(child) {
    Object.assign(this, { child, lines: [], stderr: '', ends: 0, sockets: [], rest: '' });
    this.closed = new Promise((resolve) => child.once('close', resolve));
    child.stdout.setEncoding('utf8').on('data', (text) => {
      const lines = (this.rest + text).split('\n');
      this.rest = lines.pop();
      this.lines.push(...lines);
    });
    child.stderr.setEncoding('utf8').on('data', (text) => {
      this.stderr += text.replaceAll('\0', '');
      this.ends += text.split('\0').length - 1; // each comes behind the last words of one that ended
    });
  }

  /** What it has printed with this first word, of the service that runs or ran last. */
  said(word) {
    const from = this.lines.findLastIndex((line) => line.startsWith('started '));
    return this.lines.slice(Math.max(from, 0)).filter((line) => line.startsWith(`${word} `)).map((line) => line.slice(word.length + 1));
  }

  /** Starts the program with these arguments; `names` as LISTEN_FDNAMES has them. */
  async start(args, { names = this.sockets.map(({ name }) => name).join(':'), watchdog = '', wrap = [] } = {}) {
    const before = this.lines.length;
    this.child.stdin.write(`${['start', names, watchdog, ...wrap, binary, ...args].join('\t')}\n`);
    const started = await until('a process', () => this.lines.slice(before).find((line) => line.startsWith('started ')));
    this.pid = Number(started.slice(8));
  }

  /** Waits until it was told this, or more. */
  told(pattern) {
    return until(`told ${pattern}`, () => this.said('told').find((text) => pattern.test(text)), { within: 10000 * slow, every: 5, giveUp: () => this.said('ended').length });
  }

  /** How it ended, all that it wrote being read: an exit status, or `signal N`. */
  ended() {
    return until('its end', () => this.ends === this.lines.filter((line) => line.startsWith('started ')).length && this.said('ended')[0],
      { within: 10000 * slow, every: 5 });
  }

  async stop(signal = 'SIGTERM') {
    process.kill(this.pid, signal);
    return this.ended();
  }
}

/** A manager for the test `t` that holds these sockets: { name: address }, or a list of [name, address]. */
async function startManager(t, wanted = { http: '127.0.0.1' }) {
  const list = Array.isArray(wanted) ? wanted : Object.entries(wanted);
  const file = path.join(tempDir(t), 'notify');
  const child = spawn('perl', [path.join(__dirname, 'manager.pl'), file, ...list.map(([name, address]) => `${name}=${address}`)], { stdio: ['pipe', 'pipe', 'pipe'] });
  const manager = new Manager(child);
  child.stdin.on('error', () => {}); // it has ended: its last words are in stderr
  cleanup(t, () => {
    child.stdin.end();
    return within(10000 * slow, 'the end of the manager', manager.closed);
  });
  const found = await until('its sockets', () => {
    const sockets = manager.lines.filter((line) => line.startsWith('socket '));
    return sockets.length === list.length && sockets;
  }, { giveUp: () => child.exitCode !== null });
  manager.sockets = found.map((line) => line.split(' ')).map(([, name, port]) => ({ name, port: Number(port) }));
  return manager;
}

module.exports = { startManager };
