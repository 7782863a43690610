'use strict';
// A reader of /admin/events, as WHATWG HTML section 9.2 reads a stream, but strict: it throws on
// whatever the server should never send. And a page's model of who is online, kept as the manual
// says: read the list, ignore what it has already, take the rest in order.

const assert = require('node:assert/strict');
const http = require('node:http');
const https = require('node:https');
const { slow } = require('./variant');
const { within } = require('./wait');
const { json, checkUser } = require('./http');

const POSITION = /^[0-9a-f]{8}-(0|[1-9]\d*)$/;

/** A position as { epoch, sequence }. */
function position(text) {
  assert.match(text, POSITION);
  return { epoch: text.slice(0, 8), sequence: Number(text.slice(9)) };
}

class EventStream {
  constructor(request, response) {
    Object.assign(this, { request, response, rest: '', fields: {} });
    this.events = []; // { event, id, data } in order
    this.at = 0; // those that next() has given
    this.comments = 0;
    this.retry = null;
    this.lastId = null;
    this.bytes = 0;
    this.whole = false; // ended by the server, not broken
    this.problem = null;
    this.waiters = new Set();
    response.setEncoding('utf8');
    response.on('data', (text) => {
      this.bytes += Buffer.byteLength(text);
      try {
        this.take(text);
      } catch (error) {
        this.problem ??= error;
      }
      this.wake();
    });
    response.on('end', () => {
      this.whole = true;
    });
    this.closed = new Promise((resolve) => {
      response.once('close', () => {
        this.over = true;
        this.wake();
        resolve();
      });
    });
    response.on('error', () => {});
  }

  wake() {
    for (const waiter of [...this.waiters]) waiter();
  }

  take(text) {
    const lines = (this.rest + text).split('\n');
    this.rest = lines.pop();
    for (const line of lines) this.line(line);
  }

  line(line) {
    if (line === '') {
      this.dispatch();
      return;
    }
    const [, name, value] = /^(\w*): ?(.*)$/.exec(line) || assert.fail(`line ${line}`);
    if (name === '') this.comments++;
    else if (name === 'retry') this.retry = Number(value);
    else {
      assert.ok(['event', 'id', 'data'].includes(name), line);
      assert.equal(this.fields[name], undefined, line);
      this.fields[name] = value;
    }
  }

  dispatch() {
    const { event, id, data } = this.fields;
    this.fields = {};
    assert.ok(data !== undefined, 'a block without an event: some clients deliver it');
    const found = { event, id, data: JSON.parse(data) };
    assert.equal(found.data.position, id);
    position(id);
    if (event === 'change') {
      assert.match(found.data.change, /^(join|leave|status|connections)$/);
      checkUser(found.data.user);
      assert.equal(found.data.user.online, found.data.change !== 'leave', data);
      assert.equal(found.data.reason === null, found.data.change !== 'leave', data);
    } else {
      assert.equal(event, 'reset');
      assert.ok(this.resets || this.events.length === 0, 'a reset is the first event');
    }
    if (this.lastId && event !== 'reset' && position(id).epoch === position(this.lastId).epoch) {
      const step = position(id).sequence - position(this.lastId).sequence;
      assert.ok(this.gaps ? step >= 1 : step === 1, `${this.lastId}, then ${id}`);
    }
    this.lastId = id;
    this.events.push(found);
  }

  /** Resolves to what `check` returns as soon as that is true; asked again whenever something came. */
  async until(what, check, deadline = 5000 * slow) {
    let wake;
    const found = new Promise((resolve, reject) => {
      wake = () => {
        const value = this.problem || check();
        if (this.problem) reject(this.problem);
        else if (value) resolve(value);
        else if (this.over) reject(new Error(`the stream ended before ${what}`));
      };
      this.waiters.add(wake);
      wake();
    });
    try {
      return await within(deadline, what, found);
    } finally {
      this.waiters.delete(wake);
    }
  }

  /** The next event. */
  async next(deadline) {
    await this.until('an event', () => this.events.length > this.at, deadline);
    return this.events[this.at++];
  }

  /** Waits for the change after which the stream is at this position. */
  reach(text, deadline) {
    const wanted = position(text);
    return this.until(
      `position ${text}`,
      () => {
        if (!this.lastId) return false;
        const { epoch, sequence } = position(this.lastId);
        return epoch === wanted.epoch && sequence >= wanted.sequence;
      },
      deadline,
    );
  }

  /** Goes away without a word. */
  cut() {
    this.request.destroy();
  }
}

/** Opens a stream. Options: lastId (header) or query, gaps (numbers may jump), resets (also in the
 *  middle, as in a cluster), and those of http.request. Rejects with .status and .json when the
 *  answer is not 200. */
function openEvents(server, { lastId, query = '', headers = {}, gaps = false, resets = false, ...options } = {}) {
  return new Promise((resolve, reject) => {
    const request = (server.tls ? https : http).request({
      ...server.tls,
      host: server.host,
      port: server.port,
      path: `/admin/events${query}`,
      headers: { ...headers, ...(lastId ? { 'Last-Event-ID': lastId } : {}) },
      agent: false,
      ...options,
    });
    request.on('error', reject);
    request.on('response', (response) => {
      server.sockets.add(request);
      request.on('close', () => server.sockets.delete(request));
      if (response.statusCode === 200) {
        resolve(Object.assign(new EventStream(request, response), { gaps, resets }));
        return;
      }
      let text = '';
      response.on('data', (chunk) => {
        text += chunk;
      });
      response.on('end', () =>
        reject(
          Object.assign(new Error(`events answered ${response.statusCode}`), {
            status: response.statusCode,
            headers: response.headers,
            json: JSON.parse(text),
          }),
        ),
      );
    });
    request.end();
  });
}

/** Who is online, as a page knows it. */
class Model {
  constructor() {
    this.users = new Map();
    this.positions = new Map(); // of the answer a user is from
    this.epoch = null;
    this.base = 0; // everybody else is from the list at this sequence
    this.resets = 0;
    this.seen = 0; // the last change taken
  }

  /** Reads the whole list, page by page; each page has a position of its own. */
  async read(server, { limit = 1000, options } = {}) {
    this.users.clear();
    this.positions.clear();
    let cursor = '';
    let first = null;
    for (let path; cursor !== null; cursor = path.next) {
      path = await json(
        server,
        `/admin/online-users?limit=${limit}${cursor ? `&cursor=${cursor}` : ''}`,
        options,
      );
      const at = position(path.position);
      first ??= at;
      for (const user of path.users) {
        checkUser(user);
        this.users.set(user.user_id, user);
        this.positions.set(user.user_id, at.sequence);
      }
    }
    this.epoch = first.epoch;
    this.base = first.sequence;
  }

  /** Takes one change, unless it is in the answer already. */
  take({ event, data }) {
    assert.equal(event, 'change');
    const { epoch, sequence } = position(data.position);
    assert.equal(epoch, this.epoch);
    this.seen = sequence;
    const id = data.user.user_id;
    if (sequence <= (this.positions.get(id) ?? this.base)) return;
    if (data.user.online) this.users.set(id, data.user);
    else this.users.delete(id);
  }

  /** What a list shows of each user, by id; last_seen moves without a change. */
  shown() {
    return Object.fromEntries(
      [...this.users]
        .sort(([a], [b]) => (a < b ? -1 : 1))
        .map(([id, { last_seen, ...user }]) => [id, user]),
    );
  }
}

module.exports = { EventStream, openEvents, Model, position };
