'use strict';
// Starts the real binary, waits until it listens, and holds it to a clean end:
// exit 0, and nothing on stderr but the listening lines.

const assert = require('node:assert/strict');
const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const { binary, slow } = require('./variant');
const { until, within } = require('./wait');
const { descendants } = require('./proc');

const remote = process.env.PRESENCE_URL ? new URL(process.env.PRESENCE_URL) : null;
const LISTENING = /listening on (\[[^\]]+\]|[\w.]+):(\d+)(?: \((\w+)\))?/;
// Tests do with short times what takes minutes with those that fit together.
const SHORT = /level=warn msg="--online-threshold is below --ping-interval \+ --pong-timeout: /;
const LOGIN = /level=info msg="(admin logged in|wrong admin password) from [^"]+"$/;
const REFUSED = /level=info msg="(upgrade|page) refused: /;

// Whatever happens to this process, no server outlives it.
const running = new Set();
process.on('exit', () => {
  for (const child of running) killTree(child.pid);
});
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) {
  process.on(signal, () => process.exit(1));
}

const cleanups = new WeakMap();
/** Runs `work` after the test, last registered first. */
function cleanup(t, work) {
  if (!cleanups.has(t)) {
    const list = [];
    cleanups.set(t, list);
    t.after(async () => {
      const errors = [];
      for (const one of list.reverse()) {
        try {
          await one();
        } catch (error) {
          errors.push(error);
        }
      }
      if (errors.length) throw errors[0];
    });
  }
  cleanups.get(t).push(work);
}

/** A fresh directory, removed after the test. */
function tempDir(t, parent = os.tmpdir()) {
  const dir = fs.mkdtempSync(path.join(parent, 'presence-test-'));
  cleanup(t, () => fs.rmSync(dir, { recursive: true, force: true, maxRetries: 3 }));
  return dir;
}

function launch(argv, options) {
  const child = spawn(argv[0], argv.slice(1), { stdio: ['ignore', 'pipe', 'pipe'], ...options });
  running.add(child);
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text) => {
    output.stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text) => {
    output.stderr += text;
  });
  const ended = new Promise((resolve) => {
    child.once('error', (error) => {
      running.delete(child);
      resolve({ code: null, signal: null, error });
    });
    child.once('close', (code, signal) => {
      running.delete(child);
      resolve({ code, signal });
    });
  });
  return { child, output, ended };
}

/** Runs the program to its end: { code, signal, stdout, stderr, ms }. */
async function run(
  args,
  { env = {}, wrap = [], program = binary, deadline = 10000 * slow, cwd } = {},
) {
  const started = Date.now();
  const { child, output, ended } = launch([...wrap, program, ...args], {
    env: { ...process.env, ...env },
    cwd,
  });
  try {
    const { code, signal, error } = await within(
      deadline,
      `exit of presence ${args.join(' ')}`,
      ended,
    );
    if (error) throw error;
    return { code, signal, ...output, ms: Date.now() - started };
  } finally {
    if (running.has(child)) killTree(child.pid);
  }
}

function killTree(pid) {
  for (const one of [...descendants(pid), pid]) {
    try {
      process.kill(one, 'SIGKILL');
    } catch {
      /* already gone */
    }
  }
}

class Server {
  constructor({ child, output, ended }, { data, allow, exitCode }) {
    Object.assign(this, { child, output, ended, data, allow, exitCode });
    this.pid = child.pid;
    this.sockets = new Set(); // clients to be dropped with the server
    this.stopped = null; // the promise of its end, or true
    this.result = null;
    this.ended.then((result) => {
      this.result = result;
    });
  }

  get stderr() {
    return this.output.stderr;
  }
  get lines() {
    return this.stderr.split('\n').filter(Boolean);
  }

  /** The stderr lines that no start, login or refused upgrade explains, and nobody allowed. */
  get unexpected() {
    const allow = [LISTENING, LOGIN, SHORT, REFUSED, ...this.allow];
    return this.lines.filter((line) => !allow.some((pattern) => pattern.test(line)));
  }

  /** Where it listens for http, https, redirect or metrics. */
  of(kind) {
    return this.addresses.filter((one) => one.kind === kind);
  }

  /** Waits for `count` listening lines; the first of plain HTTP gives host and port. */
  async listening(count) {
    try {
      await until(
        'listening',
        () => {
          this.addresses = this.lines
            .map((line) => LISTENING.exec(line))
            .filter(Boolean)
            .map(([, host, port, kind = 'http']) => ({
              host: host.replace(/[[\]]/g, ''),
              port: Number(port),
              kind,
            }));
          return this.addresses.length >= count;
        },
        { within: 10000 * slow, every: 4, giveUp: () => this.result },
      );
    } catch (error) {
      this.stopped = true;
      if (!this.result) killTree(this.pid);
      throw new Error(`presence did not listen (${JSON.stringify(this.result)}):\n${this.stderr}`, {
        cause: error,
      });
    }
    Object.assign(this, this.of('http')[0] || this.addresses[0]);
  }

  /** A signal to the server itself, also behind a wrapper such as unshare. */
  signal(name) {
    process.kill(this.pid, name);
  }

  /** Stops the server and holds it to its promises. */
  stop(options) {
    this.stopped ??= this.end(options);
    return this.stopped;
  }

  async end({ signal = 'SIGTERM', deadline = 5000 * slow } = {}) {
    assert.equal(
      this.result,
      null,
      `presence ended by itself: ${JSON.stringify(this.result)}\n${this.stderr}`,
    );
    this.signal(signal);
    let result;
    try {
      result = await within(deadline, `exit after ${signal}`, this.ended);
    } finally {
      if (!this.result) killTree(this.child.pid);
      this.dropClients();
    }
    this.checkStderr();
    assert.deepEqual(result, { code: this.exitCode, signal: null }, this.stderr);
  }

  /** kill -9, as a crash. */
  async kill() {
    this.stopped = true;
    this.signal('SIGKILL');
    await this.ended;
    this.dropClients();
    this.checkStderr();
  }

  dropClients() {
    for (const socket of this.sockets) socket.destroy();
    this.sockets.clear();
  }

  checkStderr() {
    assert.deepEqual(this.unexpected, [], 'unexpected on stderr');
  }
}

/**
 * Starts a server for the test `t`. Options: args; env; wrap (argv in front of
 * the binary); program (another binary); data (directory, default a fresh one); listen (addresses);
 * listening (how many other addresses args name);
 * allow (patterns of expected stderr lines); exitCode; address (a { port } to
 * listen on again after a restart); findPid (from the wrapper's pid to the
 * server's). The store is written every 50 ms unless args say otherwise, so
 * that nobody waits for it.
 */
async function start(t, options = {}) {
  if (remote) return startRemote(t);
  const { args = [], env = {}, wrap = [], program = binary, allow = [], exitCode = 0, address } = options;
  const data = options.data || tempDir(t);
  const listen = options.listen || [`127.0.0.1:${address ? address.port : 0}`];
  const argv = [
    ...wrap,
    program,
    ...listen.flatMap((one) => ['--listen', one]),
    '--data',
    data,
    '--sync-interval',
    '50ms',
    ...args,
  ];
  const server = new Server(launch(argv, { env: { ...process.env, ...env } }), {
    data,
    allow,
    exitCode,
  });
  cleanup(t, async () => {
    if (!server.stopped) server.dropClients(); // a stop need not wait for them
    if (!server.stopped) await server.stop();
    await Promise.resolve(server.stopped).catch(() => {}); // the test has seen its errors
    server.dropClients();
  });
  await server.listening(listen.length + (options.listening || 0));
  if (options.findPid) server.pid = options.findPid(server.child.pid);
  return server;
}

/** A stand-in for a server that somebody else runs (PRESENCE_URL). */
function startRemote(t) {
  const server = {
    host: remote.hostname.replace(/[[\]]/g, ''),
    port: Number(remote.port || 80),
    sockets: new Set(),
  };
  cleanup(t, () => {
    for (const socket of server.sockets) socket.destroy();
  });
  return server;
}

module.exports = { start, run, launch, tempDir, cleanup, remote, killTree };
