'use strict';
// The examples' backend: the page, accounts in memory, sessions by cookie, tokens for presence, and
// who came and went, as presence posts it (its --webhook-url).
//
//     node test/web/example/server.js plain http://127.0.0.1:8080 JWT-SECRET-FILE WEBHOOK-SECRET-FILE
//
// serves that page (or react, vue, svelte) on 127.0.0.1:3000. The presence server runs with the same
// secrets, --webhook-url http://127.0.0.1:3000/presence-events and
// --allow-origin http://127.0.0.1:3000.

const crypto = require('node:crypto');
const { once } = require('node:events');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { bundle } = require('../lib/bundle');

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** A token for presence: the user, who may see these friends, for as long as a login lasts; signed
 *  with the secret of both servers. */
function makeToken(secret, user, friends) {
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 12 * 3600, watch: friends };
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${crypto.createHmac('sha256', secret).update(text).digest('base64url')}`;
}

/** The body of a request, the bytes as they came. */
async function readBody(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** The same as JSON, or {} when it is none. */
function parse(body) {
  try {
    return JSON.parse(body) ?? {};
  } catch {
    return {};
  }
}

/** Whether presence has signed this body, in the last five minutes. */
function genuine(secret, headers, body) {
  const [, seconds, mac] = /^t=(\d+),v1=([0-9a-f]{64})$/.exec(headers['x-presence-signature']) || [];
  if (!mac || Math.abs(Date.now() / 1000 - seconds) > 300) return false;
  const right = crypto.createHmac('sha256', secret).update(`${seconds}.`).update(body).digest();
  return crypto.timingSafeEqual(right, Buffer.from(mac, 'hex'));
}

/** Who came and went, by what presence posts. */
class Activity {
  constructor() {
    this.log = []; // the latest first
    this.last = ''; // the delivery that was taken last: it may come again
  }

  /** Takes a delivery whose signature is right. */
  take(delivery, { events = [] }) {
    if (delivery === this.last) return;
    this.last = delivery;
    for (const { change, user, reason } of events) {
      if (change === 'reset') continue; // of a cluster: changes before it may be missing
      this.log.unshift({ user: user.user_id, change, status: user.status, reason });
    }
    this.log.length = Math.min(this.log.length, 100);
  }
}

const hash = (password, salt) => crypto.scryptSync(String(password), salt, 32);

/** Accounts and who is logged in, in memory. */
class Accounts {
  constructor() {
    this.users = new Map(); // name: { salt, hash }
    this.sessions = new Map(); // what the cookie holds: name
  }

  /** Whether there is such an account now and was none before. */
  register({ name, password }) {
    if (typeof name !== 'string' || !name || this.users.has(name)) return false;
    const salt = crypto.randomBytes(16);
    this.users.set(name, { salt, hash: hash(password, salt) });
    return true;
  }

  /** Whether name and password belong together. */
  check({ name, password }) {
    const user = this.users.get(name);
    return Boolean(user) && crypto.timingSafeEqual(user.hash, hash(password, user.salt));
  }

  /** What a page knows of whoever is logged in; here all are friends of each other. */
  view(name) {
    return { id: name, friends: [...this.users.keys()].filter((one) => one !== name) };
  }
}

const read = (name) => fs.readFileSync(path.join(__dirname, name), 'utf8');

/** What a browser gets of the page made `with` plain, react, vue or svelte. */
async function makeFiles({ with: kind, presence, react }) {
  const plain = kind === 'plain';
  const entry = { react: 'react/main.jsx', vue: 'vue/main.js', svelte: 'svelte/main.js' }[kind];
  const page = `<!doctype html>
<html lang="en" data-presence="${presence}">
<meta charset="utf-8">
<title>Example</title>
<link rel="icon" href="data:,">
<div id="root">${plain ? read('plain/body.html') : ''}</div>
<script type="module" src="/main.js"></script>
</html>
`;
  return {
    '/': page,
    '/main.js': plain ? read('plain/main.js') : await bundle(path.join(__dirname, entry), { react }),
    ...(plain ? { '/ask.js': read('ask.js') } : {}),
  };
}

/** A handler of the backend's requests. `presence` is where the presence server is, `secret` what
 *  tokens are signed with, `webhookSecret` what presence signs with; `react` which React. */
async function makeBackend({
  presence, secret, webhookSecret = '', with: kind = 'react', react = 'react19',
}) {
  const accounts = new Accounts();
  const activity = new Activity();
  const files = await makeFiles({ with: kind, presence, react });
  /** Answers with JSON. */
  const answer = (response, status, body, cookie) => {
    const headers = { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' };
    if (cookie) headers['Set-Cookie'] = `session=${cookie}; HttpOnly; SameSite=Strict; Path=/`;
    response.writeHead(status, headers).end(JSON.stringify(body));
  };
  /** Begins a session. */
  const enter = (response, { name }) => {
    const id = crypto.randomBytes(16).toString('hex');
    accounts.sessions.set(id, name);
    answer(response, 200, { user: accounts.view(name) }, id);
  };
  const routes = {
    'POST /register': (response, body) =>
      accounts.register(body)
        ? enter(response, body)
        : answer(response, 409, { error: 'this name is taken' }),
    'POST /login': (response, body) =>
      accounts.check(body)
        ? enter(response, body)
        : answer(response, 403, { error: 'wrong name or password' }),
    'POST /logout': (response, body, id) => {
      accounts.sessions.delete(id);
      answer(response, 200, {});
    },
    'GET /session': (response, body, id) => {
      const name = accounts.sessions.get(id);
      answer(response, 200, { user: name === undefined ? null : accounts.view(name) });
    },
    'POST /token': (response, body, id) => {
      const name = accounts.sessions.get(id);
      if (name === undefined) answer(response, 401, { error: 'nobody is logged in' });
      else {
        const { friends } = accounts.view(name);
        answer(response, 200, { token: makeToken(secret, name, friends) });
      }
    },
    'POST /presence-events': (response, body, id, { headers, bytes }) => {
      if (!webhookSecret || !genuine(webhookSecret, headers, bytes)) {
        answer(response, 403, { error: 'this is not from presence' });
        return;
      }
      activity.take(headers['x-presence-delivery'], body);
      answer(response, 200, {});
    },
    'GET /activity': (response) => answer(response, 200, { log: activity.log }),
  };
  return async (request, response) => {
    const route = routes[`${request.method} ${request.url}`];
    const [, id] = /(?:^|; )session=(\w+)/.exec(request.headers.cookie || '') || [];
    if (route) {
      const bytes = await readBody(request);
      route(response, parse(bytes), id, { headers: request.headers, bytes });
    } else if (files[request.url] !== undefined) {
      const type = request.url === '/' ? 'text/html' : 'text/javascript';
      response.writeHead(200, { 'Content-Type': `${type}; charset=utf-8` }).end(files[request.url]);
    } else response.writeHead(404).end();
  };
}

/** A secret is the text of its file, less its line end. */
const readSecret = (file) => fs.readFileSync(file, 'utf8').replace(/\r?\n$/, '');

/** Serves an example to whoever wants to look at it. */
async function main([kind, presence, file, webhookFile]) {
  if (!['plain', 'react', 'vue', 'svelte'].includes(kind) || !file) {
    console.error('usage: server.js plain|react|vue|svelte URL JWT-SECRET-FILE [WEBHOOK-SECRET-FILE]');
    process.exit(2);
  }
  const webhookSecret = webhookFile && readSecret(webhookFile);
  const backend = await makeBackend({ with: kind, presence, secret: readSecret(file), webhookSecret });
  await once(http.createServer(backend).listen(3000, '127.0.0.1'), 'listening');
  console.log('http://127.0.0.1:3000');
}

if (require.main === module)
  main(process.argv.slice(2)).catch(({ message }) => {
    console.error(`server.js: ${message}`); // a file that is not there, a port that is taken
    process.exit(1);
  });

module.exports = { makeBackend };
