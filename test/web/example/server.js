'use strict';
// The example's backend: the page, accounts in memory, sessions by cookie, and tokens for presence.
//
//     node test/web/example/server.js http://127.0.0.1:8080 JWT-SECRET-FILE
//
// serves it on 127.0.0.1:3000. The presence server runs with the same --jwt-secret-file and with
// --allow-origin http://127.0.0.1:3000.

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { bundle } = require('../lib/bundle');

const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** A token for presence: the user, for a minute, signed with the secret of both servers. */
function makeToken(secret, user) {
  const claims = { sub: user, exp: Math.floor(Date.now() / 1000) + 60 };
  const text = `${part({ alg: 'HS256', typ: 'JWT' })}.${part(claims)}`;
  return `${text}.${crypto.createHmac('sha256', secret).update(text).digest('base64url')}`;
}

/** The body of a request as JSON, or {} when it is none. */
async function readBody(request) {
  let text = '';
  for await (const chunk of request) text += chunk;
  try {
    return JSON.parse(text) ?? {};
  } catch {
    return {};
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
}

/** A handler of the backend's requests. `presence` is where the presence server is, `react` which
 *  React the page gets. */
async function makeBackend({ presence, secret, react = 'react19' }) {
  const accounts = new Accounts();
  const script = await bundle(path.join(__dirname, 'main.jsx'), { react });
  const page = `<!doctype html>
<html lang="en" data-presence="${presence}">
<meta charset="utf-8">
<title>Example</title>
<link rel="icon" href="data:,">
<div id="root"></div>
<script type="module" src="/main.js"></script>
</html>
`;
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
    answer(response, 200, { user: { id: name } }, id);
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
      answer(response, 200, { user: name === undefined ? null : { id: name } });
    },
    'POST /token': (response, body, id) => {
      const name = accounts.sessions.get(id);
      if (name === undefined) answer(response, 401, { error: 'nobody is logged in' });
      else answer(response, 200, { token: makeToken(secret, name) });
    },
  };
  return async (request, response) => {
    const route = routes[`${request.method} ${request.url}`];
    const [, id] = /(?:^|; )session=(\w+)/.exec(request.headers.cookie || '') || [];
    if (route) route(response, await readBody(request), id);
    else if (request.url === '/main.js')
      response.writeHead(200, { 'Content-Type': 'text/javascript' }).end(script);
    else if (request.url === '/')
      response.writeHead(200, { 'Content-Type': 'text/html' }).end(page);
    else response.writeHead(404).end();
  };
}

/** Serves the example to whoever wants to look at it. */
async function main([presence = 'http://127.0.0.1:8080', file]) {
  const secret = file ? fs.readFileSync(file, 'utf8').trimEnd() : '';
  http.createServer(await makeBackend({ presence, secret })).listen(3000, '127.0.0.1', () => {
    console.log('http://127.0.0.1:3000');
  });
}

if (require.main === module) main(process.argv.slice(2));

module.exports = { makeBackend };
