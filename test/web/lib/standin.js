'use strict';
// A stand-in for the server, for the admin page's tests: it keeps the contract of /admin/ (lists
// with positions, events, history, login) over users that the test moves, and can misbehave in
// ways that the real server cannot be made to on demand. Started by hand it serves the page:
//   node test/web/lib/standin.js [USERS [CHANGES_PER_SECOND [PASSWORD]]]

const crypto = require('node:crypto');
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');

const WEB = path.resolve(__dirname, '../../../web');
const TYPES = {
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.svg': 'image/svg+xml; charset=utf-8',
};
const RING = 10000; // changes that a stream can resume over
const LIMITS = {
  'request-timeout': 10000, workers: 4, 'online-threshold': 90000, grace: 5000,
  'ping-interval': 25000, 'pong-timeout': 10000, history: 2592000000, 'map-size': 67108864,
  'max-connections': 0, 'max-connections-per-user': 32, 'max-message': 4096, 'webhook-batch': 100,
};
const UNITS = Object.fromEntries(Object.keys(LIMITS).map((name) => [name,
  /^(workers|max-connections|webhook-batch)/.test(name) ? 'count' : /size|message/.test(name) ? 'bytes' : 'ms']));

const iso = (ms) => (ms ? new Date(ms).toISOString() : null);
const byBytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b));

class Standin {
  /** See startStandin. */
  constructor({ users = 0, password = null, events = true, history = true, certificates = [],
    cluster, more = {}, keysOnly = false }) {
    Object.assign(this, { password, events, history, certificates, cluster, more, keysOnly });
    this.users = new Map(); // id -> user
    this.order = []; // ids by their bytes
    this.epoch = crypto.randomBytes(4).toString('hex');
    this.seq = 0;
    this.ring = []; // { seq, text } of the last changes
    this.streams = new Set();
    this.sessions = new Set();
    this.failures = 0;
    this.locked = 0; // until when logins are refused
    this.retryAfter = 3;
    this.log = []; // 'METHOD path' of every request
    this.down = false; // every request is cut
    this.streamStatus = 0; // answer streams with this status instead
    this.mute = false; // streams stay open and say nothing
    this.hold = 0; // ms that every list page waits
    this.scan = 20000; // users looked at for a page of /admin/users
    this.counted = { accepted: 120345, requests: 4210, request_errors: 3, messages: 88000, log_dropped: 0 };
    this.lie = 0; // added to the count of users in the totals
    this.started = Date.now();
    const now = Date.now();
    const statuses = ['online', 'online', 'online', 'away', 'busy'];
    if (typeof users === 'number') {
      for (let i = 0; i < users; i++) {
        this.set(`user-${String(i).padStart(6, '0')}`, {
          status: statuses[i % 5], source: i % 9 === 4 ? 'cached' : 'live',
          connections: i % 9 === 4 ? 0 : 1 + (i % 3), since: now - 60000 - i * 7919 % 36000000,
          seen: now - i * 37 % 60000,
        });
      }
      this.order = [...this.users.keys()];
    } else for (const [id, facts] of Object.entries(users)) this.add(id, facts);
    this.server = http.createServer((request, response) => this.answer(request, response));
    this.server.keepAliveTimeout = 60000;
  }

  /** Makes a user known, without a change. */
  set(id, { online = true, status = 'online', source = 'live', connections = 1, since = Date.now(),
    seen = Date.now(), first = since, sessions = [], list, message, invisible, manual } = {}) {
    this.users.set(id, online
      ? { id, online, status, source, connections, since, seen, first, sessions, list, message,
        invisible, manual }
      : { id, online, status: 'offline', source: 'stored', connections: 0, since: 0, seen, first,
        sessions, list: [] });
  }

  /** The same, and puts it where the lists have it. */
  add(id, facts) {
    if (!this.users.has(id)) {
      let low = 0;
      let high = this.order.length;
      while (low < high) {
        const middle = (low + high) >> 1;
        if (byBytes(this.order[middle], id) < 0) low = middle + 1;
        else high = middle;
      }
      this.order.splice(low, 0, id);
    }
    this.set(id, facts);
  }

  /** Where the server is. */
  get position() {
    return `${this.epoch}-${this.seq}`;
  }

  /** A user as the API writes it. */
  json(user) {
    return { user_id: user.id, online: user.online, status: user.status, source: user.source,
      connections: user.connections, connected_at: iso(user.since), last_seen: iso(user.seen),
      message: user.message, invisible: user.invisible };
  }

  /** Tells a change of a user to every stream. */
  tell(id, change, reason = null) {
    this.seq++;
    const data = { position: this.position, change, user: this.json(this.users.get(id)), reason };
    const text = `event: change\nid: ${this.position}\ndata: ${JSON.stringify(data)}\n\n`;
    this.ring.push({ seq: this.seq, text });
    if (this.ring.length > RING) this.ring.shift();
    if (!this.mute) for (const stream of this.streams) stream.write(text);
  }

  /** A user comes online. */
  join(id, facts = {}) {
    const old = this.users.get(id);
    this.add(id, { first: old?.first, sessions: old?.sessions, ...facts });
    this.tell(id, 'join');
  }

  /** A user goes offline. */
  leave(id, reason = 'closed') {
    const { since, seen, first, sessions } = this.users.get(id);
    sessions.unshift({ from: iso(since), to: iso(seen), reason, address: '127.0.0.1' });
    this.set(id, { online: false, seen, first, sessions });
    this.tell(id, 'leave', reason);
  }

  /** A user's status, connections or source change. */
  change(id, facts) {
    Object.assign(this.users.get(id), { seen: Date.now() }, facts);
    this.tell(id, facts.status ? 'status' : 'connections');
  }

  /** Changes users at random, so many times a second, until stopChurn(). */
  churn(rate) {
    const began = Date.now();
    let done = 0;
    this.churned = 0;
    this.timer = setInterval(() => {
      const due = Math.floor(((Date.now() - began) / 1000) * rate);
      for (; done < due; done++) {
        const id = this.order[Math.floor(Math.random() * this.order.length)];
        const user = this.users.get(id);
        const dice = Math.random();
        if (!user.online) this.join(id);
        else if (dice < 0.4) this.leave(id, ['closed', 'dropped', 'timeout'][done % 3]);
        else if (dice < 0.7) this.change(id, { status: ['online', 'away', 'busy'][done % 3] });
        else this.change(id, { source: 'live', connections: user.connections + 1 });
        this.churned++;
      }
    }, 10);
  }

  /** Ends churn(). */
  stopChurn() {
    clearInterval(this.timer);
  }

  /** How many are online, in all ways. */
  get totals() {
    const totals = { online: 0, live: 0, cached: 0, connections: 0 };
    for (const user of this.users.values()) {
      if (!user.online) continue;
      totals.online++;
      totals[user.source]++;
      totals.connections += user.connections;
    }
    return totals;
  }

  /** Cuts every stream. */
  breakStreams() {
    for (const stream of this.streams) stream.destroy();
  }

  /** As a restart: another epoch, numbers from 0, streams cut. */
  restart() {
    this.epoch = crypto.randomBytes(4).toString('hex');
    this.seq = 0;
    this.ring = [];
    this.breakStreams();
  }

  /** One request. */
  answer(request, response) {
    const url = new URL(request.url, 'http://standin');
    this.log.push(`${request.method} ${url.pathname}${url.search}`);
    if (this.down) return request.socket.destroy();
    response.setHeader('X-Content-Type-Options', 'nosniff');
    if (request.method === 'GET' && this.file(url.pathname, response)) return null;
    response.setHeader('Cache-Control', 'no-store');
    let body = '';
    request.on('data', (chunk) => { body += chunk; });
    return request.on('end', () => this.route(request, response, url, body));
  }

  /** Whether the path is a file of web/, which it sends then. */
  file(pathname, response) {
    const name = pathname.replace(/\/$/, '/index.html');
    const file = path.join(WEB, name);
    if (!TYPES[path.extname(file)] || !file.startsWith(WEB) || !fs.existsSync(file)) return false;
    response.writeHead(200, { 'Content-Type': TYPES[path.extname(file)], 'Cache-Control': 'no-cache',
      'Content-Security-Policy': "default-src 'self'" });
    response.end(fs.readFileSync(file));
    return true;
  }

  /** Sends JSON. */
  send(response, status, json, headers = {}) {
    response.writeHead(status, { 'Content-Type': 'application/json', ...headers });
    response.end(json === null ? '' : JSON.stringify(json));
  }

  /** Sends a refusal. */
  refuse(response, status, code, headers) {
    const message = code === 'unknown_user' ? 'this user was never seen' : code.replace(/_/g, ' ');
    this.send(response, status, { error: { code, message } }, headers);
  }

  /** Everything that is no file. */
  route(request, response, url, body) {
    const cookie = /presence_session=(\w+)/.exec(request.headers.cookie ?? '')?.[1];
    const allowed = this.keysOnly ? request.headers.authorization === 'Bearer good.admin.token'
      : !this.password || this.sessions.has(cookie);
    const { method } = request;
    const where = `${method} ${url.pathname}`;
    if (where === 'GET /admin/login') {
      const until = this.password && allowed ? iso(Date.now() + 3600000) : null;
      return this.send(response, 200, { authenticated: allowed, expires_at: until,
        password: this.password !== null });
    }
    if (where === 'POST /admin/login') return this.login(response, body);
    if (where === 'POST /admin/logout') {
      this.sessions.delete(cookie);
      response.writeHead(204);
      return response.end();
    }
    if (!allowed) return this.refuse(response, 401, 'token_missing');
    if (where === 'GET /admin/events' && this.events) return this.stream(request, response);
    if (where === 'GET /admin/stats') return this.send(response, 200, this.stats());
    if (where === 'GET /admin/history' && this.history) {
      return this.send(response, 200, this.samples(Number(url.searchParams.get('hours') ?? 24)));
    }
    if (where === 'GET /admin/online-users') {
      const { online: count, connections } = this.totals;
      return this.list(response, url, (user) => user.online,
        { online_threshold_seconds: 90, count, connections });
    }
    if (where === 'GET /admin/users') {
      const fold = (text) => text.replace(/[A-Z]/g, (one) => one.toLowerCase());
      const q = fold(url.searchParams.get('q') ?? '');
      const prefix = url.searchParams.get('prefix') ?? '';
      const status = url.searchParams.get('status');
      return this.list(response, url, (user) => fold(user.id).includes(q) && user.id.startsWith(prefix)
        && (!status || (status === 'online' ? user.online : user.status === status)), {});
    }
    const match = /^\/admin\/users\/([^/]+)(\/sessions|\/connections)?$/.exec(url.pathname);
    return match ? this.user(response, method, decodeURIComponent(match[1]), match[2], url)
      : this.refuse(response, 404, 'not_found');
  }

  /** POST /admin/login. */
  login(response, body) {
    if (!this.password) return this.refuse(response, 404, 'not_found');
    if (Date.now() < this.locked) {
      return this.refuse(response, 429, 'too_many_failures', { 'Retry-After': this.retryAfter });
    }
    if (JSON.parse(body).password !== this.password) {
      if (++this.failures >= 3) {
        this.failures = 0;
        this.locked = Date.now() + 1000 * this.retryAfter;
      }
      return this.refuse(response, 401, 'wrong_password');
    }
    const token = crypto.randomBytes(8).toString('hex');
    this.sessions.add(token);
    return this.send(response, 200, { token, expires_at: iso(Date.now() + 3600000) },
      { 'Set-Cookie': `presence_session=${token}; HttpOnly; SameSite=Strict; Path=/` });
  }

  /** A page of users that match. */
  list(response, url, matches, more) {
    const limit = Number(url.searchParams.get('limit') ?? 100);
    const cursor = url.searchParams.get('cursor');
    const after = cursor ? Buffer.from(cursor, 'base64url').toString() : null;
    let at = after === null ? 0 : this.order.indexOf(after) + 1;
    const users = [];
    const end = Math.min(this.order.length, at + this.scan); // no more are looked at for a page
    const first = at;
    for (; at < end && users.length < limit; at++) {
      const user = this.users.get(this.order[at]);
      if (matches(user)) users.push(this.json(user));
    }
    const rest = at === end && end < this.order.length
      || this.order.slice(at, end).some((id) => matches(this.users.get(id)));
    const next = rest ? Buffer.from(this.order[at - 1]).toString('base64url') : null;
    const answer = { generated_at: iso(Date.now()), position: this.position, ...more, users,
      scanned: at - first, next };
    setTimeout(() => this.send(response, 200, answer), this.hold);
  }

  /** One user, the sessions, or a kick. */
  user(response, method, id, rest, url) {
    const user = this.users.get(id);
    if (!user) return this.refuse(response, 404, 'unknown_user');
    if (method === 'DELETE' && rest === '/connections') {
      const closed = user.connections;
      if (user.online) this.leave(id, 'kicked');
      return this.send(response, 200, { user_id: id, closed });
    }
    if (rest === '/sessions') {
      const open = user.online ? [{ from: iso(user.since), to: null, reason: null,
        address: '127.0.0.1' }] : [];
      const all = [...open, ...user.sessions];
      const limit = Number(url.searchParams.get('limit') ?? 100);
      const from = Number(url.searchParams.get('cursor') ?? 0);
      const next = from + limit < all.length ? String(from + limit) : null;
      return this.send(response, 200, { user_id: id, sessions: all.slice(from, from + limit), next });
    }
    const list = user.list ?? Array.from({ length: user.connections }, (_, i) => ({
      address: `192.0.2.${10 + i}`, port: 50000 + i, agent: 'Mozilla/5.0 (X11; Linux x86_64)',
      connected_at: iso(user.since), last_heard: iso(user.seen), status: user.status,
      round_trip_ms: i ? null : 23,
    }));
    return this.send(response, 200, { ...this.json(user), manual: user.manual ?? null,
      first_seen: iso(user.first),
      sessions: user.sessions.length, position: this.position,
      connection_list: list.map((one, i) => ({ connection_id: `5939c9390000000${i}`, ...one })) });
  }

  /** GET /admin/stats. */
  stats() {
    const { connections, ...users } = this.totals;
    return {
      version: '0.1.0', position: this.position, started_at: iso(this.started),
      uptime_seconds: Math.floor((Date.now() - this.started) / 1000),
      users: { ...users, online: users.online + this.lie, known: this.users.size },
      connections: { current: connections, sockets: connections, pending: 1,
        limit: Math.max(19936, 2 * connections) },
      memory: { resident_bytes: 31457280, anonymous_bytes: 28311552 },
      store: { writable: true, readable: true, problem: null, users: this.users.size, sessions: 421,
        map_bytes: 67108864, used_bytes: 9437184, file_bytes: 12582912,
        last_commit: iso(Date.now() - 700) },
      limits: LIMITS, limit_units: UNITS, landlock_version: 4, certificates: this.certificates,
      cluster: this.cluster, counters: { ...this.counted, joins: this.seq, kicks: 0 }, ...this.more,
    };
  }

  /** GET /admin/history: a day with a night, and an hour in which nothing ran. */
  samples(hours) {
    const now = Math.floor(Date.now() / 60000) * 60000;
    const samples = [];
    const { online } = this.totals;
    const minutes = { empty: 0, one: 1, young: 40 }[this.history] ?? hours * 60;
    for (let i = minutes - 1; i >= 0; i--) {
      const day = Math.sin(((i / 60 + 4) / 24) * 2 * Math.PI);
      if (i > 300 && i < 360) continue;
      const users = Math.round(online * (0.62 + 0.34 * day + 0.04 * Math.sin(i / 17)));
      samples.push({ at: iso(now - i * 60000), users, connections: Math.round(users * 1.3) });
    }
    return { generated_at: iso(Date.now()), interval_seconds: 60, samples };
  }

  /** GET /admin/events. */
  stream(request, response) {
    if (this.streamStatus) return this.refuse(response, this.streamStatus, 'overloaded');
    response.writeHead(200, { 'Content-Type': 'text/event-stream; charset=utf-8' });
    response.write('retry: 2000\n\n');
    const [epoch, seq] = (request.headers['last-event-id'] ?? '').split('-');
    const oldest = this.ring.length ? this.ring[0].seq - 1 : this.seq;
    if (epoch === this.epoch && Number(seq) >= oldest) {
      for (const one of this.ring) if (one.seq > Number(seq)) response.write(one.text);
    } else {
      const data = { position: this.position, generated_at: iso(Date.now()) };
      response.write(`event: reset\nid: ${this.position}\ndata: ${JSON.stringify(data)}\n\n`);
    }
    this.streams.add(response);
    const beat = setInterval(() => this.mute || response.write(':\n'), 15000);
    return response.on('close', () => {
      clearInterval(beat);
      this.streams.delete(response);
    });
  }

  /** Ends it, with everything that is open. */
  close() {
    this.stopChurn();
    this.breakStreams();
    this.server.closeAllConnections();
    return new Promise((resolve) => { this.server.close(resolve); });
  }
}

/**
 * Starts a stand-in. Options: users (how many, or an object of id -> facts), password, events and
 * history (false: 404; history 'empty', 'one' or 'young'), certificates, cluster (that member of the
 * totals), more (other members of them), keysOnly (tokens open it, there is no password), port.
 */
async function startStandin(options = {}) {
  const standin = new Standin(options);
  await new Promise((resolve) => { standin.server.listen(options.port ?? 0, '127.0.0.1', resolve); });
  standin.port = standin.server.address().port;
  standin.url = `http://127.0.0.1:${standin.port}`;
  return standin;
}

if (require.main === module) {
  const [users = '3', rate = '0', password = null] = process.argv.slice(2);
  startStandin({ users: Number(users), password, port: 8090 }).then((standin) => {
    if (Number(rate)) standin.churn(Number(rate));
    process.stdout.write(`${standin.url}/admin/\n`);
  });
}

module.exports = { startStandin };
