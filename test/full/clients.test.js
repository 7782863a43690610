'use strict';
// Clients that others wrote, in JavaScript, Python and Go, as they come: hello, ping, a large
// snapshot, a change, a kick, and both ways in which a wrong token is refused; plain and TLS.

const assert = require('node:assert/strict');
const { once } = require('node:events');
const fs = require('node:fs');
const path = require('node:path');
const { spawn, spawnSync } = require('node:child_process');
const nodeTest = require('node:test');
const readline = require('node:readline');
const { startSecure, connect, heartbeat, del, tokenKey, bearer, within, until, findProgram, cleanup } = require('../integration/lib');

const HERE = path.join(__dirname, 'clients');
const MADE = path.join(__dirname, '../../build/test/clients'); // what was installed and built, kept
const FOLLOWED = 400; // users in the snapshot: 55 KB of text
const PYTHON = ['websockets==13.1', 'aiohttp==3.10.11'];

const users = Array.from({ length: FOLLOWED }, (_, i) => `c${i}`);

/** What a client got, kept until it is asked for. */
class Told {
  constructor() {
    this.kept = [];
    this.wanted = [];
  }

  push(what, more) {
    this.kept.push({ what, more });
    this.serve();
  }

  serve() {
    for (const one of [...this.wanted]) {
      const at = this.kept.findIndex(({ what }) => what === one.what);
      if (at < 0) continue;
      this.wanted.splice(this.wanted.indexOf(one), 1);
      one.resolve(this.kept.splice(at, 1)[0].more);
    }
  }

  next(what) {
    return new Promise((resolve) => {
      this.wanted.push({ what, resolve });
      this.serve();
    });
  }
}

/** Runs a program to its end: its output, or throws with it. */
function sure(argv, options) {
  const { status, error, stdout, stderr } = spawnSync(argv[0], argv.slice(1), { encoding: 'utf8', ...options });
  if (error) throw error;
  if (status) throw new Error(`${argv.join(' ')}: ${stdout}${stderr}`.slice(-2000));
  return stdout;
}

/** The Python that has the libraries; throws when they cannot be had. */
function python() {
  const file = path.join(MADE, 'python/bin/python');
  const stamp = path.join(MADE, 'python', `${PYTHON.join('-')}.installed`);
  if (fs.existsSync(stamp)) return file;
  fs.rmSync(path.join(MADE, 'python'), { recursive: true, force: true });
  sure([findProgram('python3'), '-m', 'venv', path.join(MADE, 'python')]);
  sure([file, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', ...PYTHON]);
  fs.writeFileSync(stamp, '');
  return file;
}

/** The program in Go; throws when its libraries cannot be had. */
function golang() {
  const file = path.join(MADE, 'go-clients');
  sure([findProgram('go'), 'build', '-o', file, '.'], { cwd: path.join(HERE, 'go'), env: { ...process.env, GOFLAGS: '-mod=readonly' } });
  return file;
}

/** What makes a program, once; { file } or { skip } with the reason. */
function make(tool, install, work) {
  if (!findProgram(tool)) return { skip: `there is no ${tool} here: ${install}` };
  try {
    fs.mkdirSync(MADE, { recursive: true });
    return { file: work() };
  } catch (error) {
    return { skip: `its libraries cannot be had: ${error.message.replace(/\s+/g, ' ').slice(-200)}` };
  }
}

/** A client that is a program: what it got. */
function runProgram(t, argv, { url, ca, token }) {
  const told = new Told();
  const child = spawn(argv[0], [...argv.slice(1), url, ca ? ca.file : '', token, users.join(',')], { stdio: ['ignore', 'pipe', 'inherit'] });
  cleanup(t, () => child.kill('SIGKILL'));
  readline.createInterface({ input: child.stdout }).on('line', (text) => {
    const what = JSON.parse(text);
    told.push(what.got, what);
  });
  return told;
}

/** A client that has the interface of a browser's: what it got. Made by `open(url,
 *  protocols)`. */
function runBrowserLike(open, { url, token }) {
  const told = new Told();
  const carry = (protocols, next) => {
    const socket = open(url, protocols);
    let following = 0;
    socket.addEventListener('message', ({ data }) => {
      if (data === 'pong') {
        told.push('pong', {});
        socket.send(JSON.stringify({ type: 'watch', users }));
        return;
      }
      const message = JSON.parse(data);
      if (message.type === 'hello') {
        assert.equal(socket.protocol, 'presence.v1');
        told.push('hello', message);
        socket.send('ping');
      } else if (message.type === 'snapshot') {
        following += message.users.length;
        if (!message.more) told.push('snapshot', { users: following });
      } else if (message.type === 'presence') {
        for (const user of message.users) told.push('presence', user);
      }
    });
    socket.addEventListener('error', () => {});
    socket.addEventListener('close', ({ code, reason }) => {
      socket.close(); // one that reconnects by itself is not to
      told.push('closed', { code, reason });
      next?.();
    }, { once: true });
  };
  // by protocols is the only way a browser has
  setImmediate(carry, ['presence.v1', `token.${token}`], () => carry(['presence.v1', 'token.x']));
  return told;
}

const { WebSocket: Ws } = require('ws');
const undici = require('undici');
const Reconnecting = require('reconnecting-websocket');

const BROWSER_LIKE = {
  ws: ({ ca }) => (url, protocols) => new Ws(url, protocols, { ca: ca?.pem }),
  undici: ({ ca }) => (url, protocols) =>
    new undici.WebSocket(url, { protocols, dispatcher: new undici.Agent({ connect: { ca: ca?.pem } }) }),
  'reconnecting-websocket': ({ ca }) => (url, protocols) => new Reconnecting(url, protocols, {
    WebSocket: class extends Ws { constructor(to, offered) { super(to, offered, { ca: ca?.pem }); } },
    maxRetries: 0,
  }),
};

/** The story that every client has to tell. `bare`: it can be answered without an upgrade. */
async function tell(t, client, { bare }) {
  const key = tokenKey(t);
  const server = await startSecure(t, { args: [...key.args] });
  const admin = bearer(await key.admin());
  for (const [scheme, seen] of [['ws', server], ['wss', server.secure]]) {
    const token = await key.user('me', { watch: '*' });
    const ca = scheme === 'wss' ? server.authority : null;
    const told = client(t, { url: `${scheme}://127.0.0.1:${seen.port}/ws/presence/me`, ca, token });
    const next = (what) => within(20000, `${what} by ${scheme}`, told.next(what)).catch((error) => {
      throw new Error(`${error.message}; got ${JSON.stringify(told.kept)}`);
    });
    assert.equal((await next('hello')).user_id, 'me');
    await next('pong');
    assert.equal((await next('snapshot')).users, FOLLOWED);
    const change = next('presence');
    const other = await connect(server, users[7], bearer(await key.user(users[7])));
    assert.deepEqual([(await change).user_id, (await change).online], [users[7], true]);
    const gone = next('presence');
    await other.close();
    assert.deepEqual([(await gone).user_id, (await gone).online], [users[7], false]);
    const closed = next('closed');
    await del(server, '/admin/users/me/connections', admin);
    assert.equal((await closed).code, 4403);
    if (bare) assert.equal((await next('refused')).status, 401);
    assert.equal((await next('closed')).code, 4401);
  }
}

nodeTest.describe('clients', { concurrency: 2 }, () => {
  for (const [name, open] of Object.entries(BROWSER_LIKE)) {
    nodeTest(`${name} for Node`, { timeout: 120000 }, (t) =>
      tell(t, (_, options) => runBrowserLike(open(options), options), { bare: false }));
  }
  const inPython = make('python3', 'apt-get install python3 python3-venv', python);
  for (const library of ['websockets', 'aiohttp']) {
    nodeTest(`${library} for Python`, { skip: inPython.skip, timeout: 120000 }, (t) =>
      tell(t, (own, options) => runProgram(own, [inPython.file, path.join(HERE, 'client.py'), library], options), { bare: true }));
  }
  const inGo = make('go', 'apt-get install golang-go, 1.21 or later', golang);
  for (const library of ['coder', 'gorilla']) {
    nodeTest(`${library}/websocket for Go`, { skip: inGo.skip, timeout: 120000 }, (t) =>
      tell(t, (own, options) => runProgram(own, [inGo.file, library], options), { bare: true }));
  }

  nodeTest('eventsource and undici read streams of events', { timeout: 60000 }, async (t) => {
    const key = tokenKey(t);
    const server = await startSecure(t, { args: [...key.args] });
    const { headers } = bearer(await key.admin());
    const url = `http://127.0.0.1:${server.port}/api/events`;
    const withHeaders = (input, init) => fetch(input, { ...init, headers: { ...init.headers, ...headers } });
    const dispatcher = new undici.Agent().compose((dispatch) => (options, handler) =>
      dispatch({ ...options, headers: { ...options.headers, ...headers } }, handler));
    const makers = {
      eventsource: () => new (require('eventsource').EventSource)(url, { fetch: withHeaders }),
      undici: () => new undici.EventSource(url, { dispatcher }),
    };
    for (const [name, open] of Object.entries(makers)) {
      const stream = open();
      const joined = [];
      const empty = [];
      stream.addEventListener('message', ({ data }) => empty.push(data));
      stream.addEventListener('change', ({ data, lastEventId }) => joined.push({ ...JSON.parse(data), lastEventId }));
      try {
        await within(10000, `${name} opens`, once(stream, 'open'));
        const id = `${name}-1`;
        await heartbeat(server, id, bearer(await key.user(id)));
        await until(`${name} is told`, () => joined.some((one) => one.user?.user_id === id && one.lastEventId));
        assert.deepEqual(empty, [], `${name} had a message without a name`);
      } finally {
        stream.close();
      }
    }
  });
});
