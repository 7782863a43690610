'use strict';
// The HTTP API as a client sees it. Every answer is checked against what the
// contract promises of all answers, so each test proves it again.

const assert = require('node:assert/strict');
const http = require('node:http');
const https = require('node:https');
const { slow } = require('./variant');

/** How far two clock readings of one machine may differ, in ms. */
const CLOCK = 2;
/** By how much more a server's UTC may be ahead of ours, see hurried(). */
const ahead = { ms: 0 };

const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;

/** A user id as a path segment; `.` and `..` must not look like folders. */
const segment = (id) => (/^\.\.?$/.test(id) ? id.replace(/\./g, '%2E') : encodeURIComponent(id));

/** One request on a connection of its own (unless an agent is given); by https where the server is
 *  seen through TLS. */
function request(
  server,
  method,
  path,
  { body, headers = {}, agent = false, deadline = 10000 * slow, localAddress } = {},
) {
  return new Promise((resolve, reject) => {
    const payload =
      body === undefined || typeof body === 'string' || Buffer.isBuffer(body)
        ? body
        : JSON.stringify(body);
    const all = { ...headers };
    if (payload !== undefined) {
      all['Content-Type'] ??= 'application/json';
      all['Content-Length'] ??= Buffer.byteLength(payload);
    } else if (method !== 'GET' && method !== 'HEAD') {
      all['Content-Length'] ??= 0;
    }
    const started = Date.now();
    const sent = (server.tls ? https : http).request(
      {
        ...server.tls,
        host: server.host,
        port: server.port,
        method,
        path,
        headers: all,
        agent,
        localAddress,
      },
      (response) => {
        const chunks = [];
        response.on('data', (chunk) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          clearTimeout(timer);
          try {
            resolve(check(method, path, response, Buffer.concat(chunks), Date.now() - started));
          } catch (error) {
            reject(error);
          }
        });
      },
    );
    const timer = setTimeout(
      () => sent.destroy(new Error(`no answer to ${method} ${path} in ${deadline} ms`)),
      deadline,
    );
    sent.on('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    sent.end(payload);
  });
}

function check(method, path, response, bytes, ms) {
  const { statusCode: status, headers } = response;
  const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes); // throws on invalid UTF-8
  const answer = { status, headers, text, ms };
  if (/^application\/json/.test(headers['content-type'] || '') && text)
    answer.json = JSON.parse(text);
  if (/^\/(api|admin)\//.test(path)) {
    assert.equal(headers['cache-control'], 'no-store', `${method} ${path}: Cache-Control`);
    if (text || method === 'HEAD')
      assert.match(headers['content-type'] || '', /^application\/json\b/, `${method} ${path}`);
  }
  if (status >= 400 && text && path !== '/readyz') {
    assert.equal(typeof answer.json?.error?.code, 'string', `${method} ${path}: ${status} ${text}`);
    assert.equal(
      typeof answer.json.error.message,
      'string',
      `${method} ${path}: ${status} ${text}`,
    );
  }
  return answer;
}

const get = (server, path, options) => request(server, 'GET', path, options);
const post = (server, path, body, options) => request(server, 'POST', path, { body, ...options });
const del = (server, path, options) => request(server, 'DELETE', path, options);

async function json(server, path, options) {
  const answer = await get(server, path, options);
  assert.equal(answer.status, 200, `GET ${path}: ${answer.status} ${answer.text}`);
  return answer.json;
}

/** Holds a user object to the contract and returns it. */
function checkUser(user) {
  const shape = JSON.stringify(user);
  assert.equal(typeof user.user_id, 'string', shape);
  assert.equal(typeof user.online, 'boolean', shape);
  if (user.online) {
    assert.match(user.status, /^(online|away|busy)$/, shape);
    assert.match(user.source, /^(live|cached)$/, shape);
    assert.equal(user.connections > 0, user.source === 'live', shape);
  } else {
    assert.equal(user.status, 'offline', shape);
    assert.equal(user.source, 'stored', shape);
    assert.equal(user.connections, 0, shape);
    assert.equal(user.connected_at, null, shape);
  }
  if (user.connected_at !== null) assert.match(user.connected_at, ISO, shape);
  if (user.last_seen !== null) {
    assert.match(user.last_seen, ISO, shape);
    assert.ok(
      Date.parse(user.last_seen) <= Date.now() + CLOCK + ahead.ms,
      `last_seen in the future: ${shape}`,
    );
  }
  return user;
}

/** GET /api/presence/{id}, which must know the user. */
const presence = async (server, id, options) =>
  checkUser(await json(server, `/api/presence/${segment(id)}`, options));

/** POST /api/presence: the users in the order asked. */
async function batch(server, ids, options) {
  const answer = await post(server, '/api/presence', { users: ids }, options);
  assert.equal(answer.status, 200, answer.text);
  assert.match(answer.json.generated_at, ISO);
  assert.deepEqual(
    answer.json.users.map((user) => user.user_id),
    ids,
  );
  return answer.json.users.map(checkUser);
}

/** POST heartbeat. */
async function heartbeat(server, id, options) {
  const answer = await post(server, `/api/presence/${segment(id)}/heartbeat`, undefined, options);
  assert.equal(answer.status, 204, answer.text);
  assert.equal(answer.text, '');
}

/** Every page of a list, concatenated: `key` names the array. */
async function pages(server, path, key, limit) {
  const all = [];
  let cursor = null;
  do {
    const query = `${path.includes('?') ? '&' : '?'}limit=${limit}${cursor ? `&cursor=${encodeURIComponent(cursor)}` : ''}`;
    const page = await json(server, path + query);
    assert.ok(page[key].length <= limit, `page of ${page[key].length}, limit ${limit}`);
    assert.ok(
      page.next === null || (typeof page.next === 'string' && page[key].length > 0),
      `next: ${page.next}`,
    );
    all.push(...page[key]);
    cursor = page.next;
  } while (cursor);
  return all;
}

/** The online list, every page. */
async function onlineUsers(server) {
  const users = await pages(server, '/admin/online-users', 'users', 1000);
  return users.map(checkUser);
}

/** A user's stays, newest first. */
async function sessions(server, id) {
  const found = await pages(server, `/admin/users/${segment(id)}/sessions`, 'sessions', 1000);
  for (const one of found) {
    assert.match(one.from, ISO);
    if (one.to === null) assert.equal(one.reason, null, JSON.stringify(one));
    else assert.ok(ISO.test(one.to) && one.to >= one.from && one.reason, JSON.stringify(one));
  }
  return found;
}

const stats = (server) => json(server, '/admin/stats');

module.exports = {
  CLOCK,
  ahead,
  ISO,
  segment,
  request,
  get,
  post,
  del,
  json,
  checkUser,
  presence,
  batch,
  heartbeat,
  pages,
  onlineUsers,
  sessions,
  stats,
};
