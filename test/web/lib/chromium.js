'use strict';
// A real Chromium and a web server for its pages, for the tests of the browser client.

const http = require('node:http');
const fs = require('node:fs');
const path = require('node:path');
const { after } = require('node:test');
const { cleanup, CHROMIUM, SHELL } = require('../../integration/lib');
const { WEB } = require('./world');

const started = new Map(); // those of this process, from when each is first wanted
after(async () => { for (const one of started.values()) await (await one).close(); });

/** Starts what was not started yet, with the back-forward cache that people have. */
function launched(options) {
  const { chromium } = require('playwright-core');
  if (!started.has(options)) {
    started.set(options, chromium.launch({ ...options, ignoreDefaultArgs: ['--disable-back-forward-cache'] }));
  }
  return started.get(options);
}

/** A context of its own for the test `t`, in the Chromium of this file: playwright's; what its pages
 *  throw is in `context.errors`. With `whole` it is one that has all that browsers have. */
async function startChromium(t, { whole = false } = {}) {
  const context = await (await launched(whole ? CHROMIUM : SHELL)).newContext();
  context.errors = [];
  context.on('weberror', (error) => context.errors.push(error.error().stack));
  cleanup(t, () => context.close());
  return context;
}

const TYPES = { '.js': 'text/javascript', '.html': 'text/html', '.css': 'text/css' };

/** Serves pages for the test `t`: `routes` maps paths to text, and what is not among them is taken
 *  from web/; or it is a handler of everything. Gives { origin }. */
async function servePages(t, routes) {
  const server = http.createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://x');
    if (typeof routes === 'function') {
      routes(request, response);
      return;
    }
    const found = { '/favicon.ico': '', ...routes }[pathname];
    const file = path.join(WEB, path.basename(pathname));
    const body = found ?? (fs.existsSync(file) ? fs.readFileSync(file) : null);
    if (body === null) response.writeHead(404).end();
    else {
      const type = TYPES[path.extname(pathname)] || 'text/html';
      response.writeHead(200, { 'Content-Type': `${type}; charset=utf-8` }).end(body);
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  cleanup(t, () => {
    server.close();
    server.closeAllConnections();
  });
  return { origin: `http://127.0.0.1:${server.address().port}` };
}

module.exports = { startChromium, servePages };
