'use strict';
// One who follows users: keeps what it is told, and holds every message to its rules.

const assert = require('node:assert/strict');
const { isDeepStrictEqual } = require('node:util');
const { connect } = require('./client');
const { batch, checkUser, request, segment } = require('./http');
const { slow } = require('./variant');
const { within } = require('./wait');

class Follower {
  constructor(client) {
    this.client = client;
    this.view = new Map(); // of the users followed, as last told
    this.following = new Set(); // asked for, and not let go since
    this.snapshots = []; // the users of each, of all its parts
    this.parts = []; // the users so far of the one whose last part is to come
    this.changes = []; // the users of each presence message
    this.errors = [];
    this.problem = null;
    this.waiters = new Set();
    client.socket.on('message', (data, binary) => {
      try {
        assert.ok(data.length <= 16384, `a message of ${data.length} bytes`);
        if (!binary && data[0] === 0x7b) this.take(JSON.parse(data.toString()));
      } catch (error) {
        this.problem ??= error;
      }
      for (const waiter of [...this.waiters]) waiter();
    });
  }

  take(message) {
    if (message.type === 'error') this.errors.push(message.code);
    if (message.type !== 'snapshot' && message.type !== 'presence') return;
    const change = message.type === 'presence';
    const { type, users, more, ...rest } = message;
    assert.deepEqual([rest, more], [{}, change ? undefined : more && true], type);
    const ids = [...this.parts, ...users].map((user) => user.user_id);
    assert.equal(new Set(ids).size, ids.length, `somebody twice in ${ids}`);
    if (change) assert.deepEqual(this.parts, [], 'a change between the parts of a snapshot');
    if (change || more) assert.ok(users.length > 0, 'nobody in it');
    for (const { reason, ...user } of message.users) {
      checkUser(user);
      assert.equal(user.invisible, undefined, JSON.stringify(user));
      if (!change || user.online) assert.equal(reason, undefined, JSON.stringify(user));
      else assert.match(reason, /^(closed|dropped|timeout|kicked|expired|restart|node_lost)$/);
      if (change)
        assert.ok(this.view.has(user.user_id), `${user.user_id} changed before a snapshot`);
      this.view.set(user.user_id, user);
    }
    if (change) this.changes.push(users);
    else this.parts.push(...users);
    if (change || more) return;
    this.snapshots.push(this.parts);
    this.parts = [];
  }

  /** Resolves to what `check` returns as soon as that is true. */
  async until(what, check, deadline = 5000 * slow) {
    let wake;
    const found = new Promise((resolve, reject) => {
      wake = () => {
        const value = !this.problem && check();
        if (this.problem) reject(this.problem);
        else if (value) resolve(value);
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

  /** Asks for users and waits for their whole snapshot. */
  async watch(users) {
    const index = this.snapshots.length;
    for (const id of users) this.following.add(id);
    this.client.send({ type: 'watch', users });
    return this.until('a snapshot', () => this.snapshots[index]);
  }

  /** Lets users go, or all. A change on its way may still come. */
  unwatch(users) {
    for (const id of users || [...this.following]) this.following.delete(id);
    this.client.send(users ? { type: 'unwatch', users } : { type: 'unwatch' });
  }

  /** Waits until a user is as `check` wants her. */
  sees(id, check, deadline) {
    return this.until(
      `${id} as wanted`,
      () => this.view.has(id) && check(this.view.get(id)) && this.view.get(id),
      deadline,
    );
  }

  /** The next presence message that this one has not been given yet. */
  async change(deadline) {
    this.given ??= 0;
    await this.until('a change', () => this.changes.length > this.given, deadline);
    return this.changes[this.given++];
  }

  /** Waits until what this one knows of those it follows is what the API answers; the last_seen of
   *  who is online moves without a change. */
  async agrees(server, options) {
    const ids = [...this.following];
    const plain = (users) => users.map((user) => (user.online ? { ...user, last_seen: 0 } : user));
    const deadline = Date.now() + 5000 * slow;
    while (ids.length) {
      const real = plain(await batch(server, ids, options));
      const told = () => plain(ids.map((id) => this.view.get(id) || {}));
      const same = () => isDeepStrictEqual(told(), real);
      const found = await this.until('agreement with the API', same, 200 * slow).catch(() => false);
      if (found) return;
      if (this.problem) throw this.problem;
      if (Date.now() > deadline)
        assert.deepEqual(told(), real, 'what was told, and what the API answers');
    }
  }
}

/** Connects `id`, who follows these users; their snapshot has come. */
async function follow(server, id, users, options) {
  const follower = new Follower(await connect(server, id, options));
  await follower.watch(users);
  return follower;
}

/** PUT of a manual status; options are those of request(). */
const putStatus = (server, id, body, options) =>
  request(server, 'PUT', `/api/presence/${segment(id)}/status`, { body, ...options });

/** The same, which must work; gives the user. */
async function setStatus(server, id, body, options) {
  const answer = await putStatus(server, id, body, options);
  assert.equal(answer.status, 200, answer.text);
  return answer.json;
}

/** A user without the moment that moves by itself. */
const still = (user) => ({ ...user, last_seen: 0 });

module.exports = { Follower, follow, putStatus, setStatus, still };
