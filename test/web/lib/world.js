'use strict';
// A world for the browser client in which nothing is real and nothing takes time: a clock that the
// test moves, a page whose events it sends, and sockets to a server that does what it is told.

const path = require('node:path');

const WEB = path.join(__dirname, '../../../web');
const LATENCY = 5; // ms until anything on the network has an effect

/** Lets promises go on. */
const settle = () => new Promise((resolve) => setImmediate(resolve));

/** A clock whose timers fire when the test moves it; `throttle` lets the client's fire only at
 *  multiples of that many ms, as in a hidden tab. The network is never throttled. */
class Clock {
  constructor() {
    this.ms = 1000;
    this.throttle = 0;
    this.timers = new Map();
    this.next = 1;
    this.asked = []; // every delay that the client asked for
    this.now = () => this.ms;
    this.time = () => 1700000000000 + this.ms;
    this.setTimeout = (work, ms) => {
      this.asked.push(ms);
      return this.add(work, ms, true);
    };
    this.clearTimeout = (id) => this.timers.delete(id);
  }

  add(work, ms, own) {
    this.timers.set(this.next, { due: this.ms + ms, work, own });
    return this.next++;
  }

  /** The client's timers that have not fired. */
  get pending() {
    return [...this.timers.values()].filter((one) => one.own).length;
  }

  when({ due, own }) {
    return own && this.throttle ? Math.ceil(due / this.throttle) * this.throttle : due;
  }

  /** Moves on by `ms`, firing what is due in order. */
  async advance(ms) {
    const end = this.ms + ms;
    await settle();
    for (;;) {
      let first = null;
      for (const [id, timer] of this.timers) {
        const due = Math.max(this.when(timer), this.ms);
        if (due <= end && (!first || due < first.due)) first = { id, due, work: timer.work };
      }
      if (!first) break;
      this.timers.delete(first.id);
      this.ms = first.due;
      first.work();
      await settle();
    }
    this.ms = end;
  }

  /** Time passes in which nothing runs: the machine sleeps. */
  sleep(ms) {
    this.ms += ms;
  }
}

/** A page: a target of events with a visibility. */
class Page extends EventTarget {
  constructor() {
    super();
    this.visibilityState = 'visible';
    this.location = { origin: 'https://app.example.com', href: 'https://app.example.com/a/b?c#d' };
    this.listening = 0;
  }

  addEventListener(...args) {
    this.listening++;
    super.addEventListener(...args);
  }

  removeEventListener(...args) {
    this.listening--;
    super.removeEventListener(...args);
  }

  send(type, members = {}) {
    this.dispatchEvent(Object.assign(new Event(type), members));
  }

  show(visible) {
    this.visibilityState = visible ? 'visible' : 'hidden';
    this.send('visibilitychange');
  }
}

/** Everything a client needs. `server` is a name of SERVERS or a function that gets each socket. */
class World {
  constructor(server = 'up') {
    const world = this;
    this.server = server;
    this.clock = new Clock();
    this.page = new Page();
    this.sockets = [];
    this.log = [];
    this.heartbeat = 25;
    this.greeting = {}; // what else a hello says

    this.WebSocket = class {
      constructor(url, protocols) {
        for (const one of protocols) {
          if (!/^[\w!#$%&'*+.^`|~-]+$/.test(one)) {
            throw Object.assign(new Error(`bad protocol ${one}`), { name: 'SyntaxError' });
          }
        }
        Object.assign(this, { url, protocols, readyState: 0, sent: [], closed: null });
        this.number = world.sockets.push(this) - 1;
        this.began = world.clock.ms;
        const decide = typeof world.server === 'function' ? world.server : SERVERS[world.server];
        decide(this, world);
      }

      /** What the server or the network does, after the latency. */
      later(work, ms = LATENCY) {
        world.clock.add(() => work(), ms, false);
      }

      open() {
        if (this.readyState !== 0) return;
        this.readyState = 1;
        this.onopen?.({});
      }

      hello(members = {}) {
        this.open();
        this.message(
          JSON.stringify({
            type: 'hello',
            user_id: 'alice',
            connection_id: `c${this.number}`,
            heartbeat_seconds: world.heartbeat,
            server: 'presence/9',
            ...world.greeting,
            ...members,
          }),
        );
      }

      message(data) {
        if (this.readyState === 1) this.onmessage?.({ data });
      }

      end(code = 1006, reason = '') {
        if (this.readyState === 3) return;
        this.readyState = 3;
        if (code === 1006) this.onerror?.({});
        this.onclose?.({ code, reason, wasClean: code !== 1006 });
      }

      send(text) {
        if (this.readyState === 0) throw Object.assign(new Error(), { name: 'InvalidStateError' });
        this.sent.push(text);
        this.later(() => this.answer?.(text));
      }

      close(code, reason) {
        // as the WebSocket standard says what a page may close with
        if (code !== 1000 && !(code >= 3000 && code <= 4999)) {
          throw Object.assign(new Error(), { name: 'InvalidAccessError' });
        }
        if (this.readyState > 1) return;
        this.closed = { code, reason };
        this.readyState = 2;
        this.later(() => this.end(code, reason));
      }
    };
  }

  /** A client in this world; what it tells goes to `log`. */
  async client(options = {}) {
    const { PresenceService } = await import(path.join(WEB, 'presence.js'));
    const { clock, page, WebSocket } = this;
    const client = new PresenceService({
      clock,
      WebSocket,
      window: page,
      document: page,
      random: () => 0,
      ...options,
    });
    for (const type of ['connected', 'disconnected', 'reconnecting', 'suspended', 'error']) {
      client.on(type, (detail) => this.log.push([type, detail]));
    }
    return client;
  }

  /** A client of `alice` that is connected. */
  async connected(options) {
    const client = await this.client(options);
    client.startPresence('alice');
    await this.clock.advance(2 * LATENCY);
    this.log.length = 0;
    return client;
  }

  get last() {
    return this.sockets.at(-1);
  }

  /** Sockets that are open or on the way. */
  get live() {
    return this.sockets.filter((one) => one.readyState < 2);
  }

  /** When each socket was made, as ms since the one before. */
  get gaps() {
    return this.sockets.slice(1).map((one, i) => one.began - this.sockets[i].began);
  }

  /** What was told of one kind. */
  told(type) {
    return this.log.filter(([one]) => one === type).map(([, detail]) => detail);
  }
}

const pong = (socket) => (text) => {
  if (text === 'ping') socket.message('pong');
};

/** What a server can do with a new socket. */
const SERVERS = {
  up(socket) {
    socket.answer = pong(socket);
    socket.later(() => socket.hello());
  },
  refuse: (socket) => socket.later(() => socket.end(1006)),
  hang: () => {},
  /** Opens, and never says hello. */
  speechless: (socket) => socket.later(() => socket.open()),
  /** Opens, says hello, and nothing after it. */
  mute: (socket) => socket.later(() => socket.hello()),
  /** Opens and is gone. */
  trap(socket) {
    socket.later(() => {
      socket.open();
      socket.end(1006);
    });
  },
};

/** A server on which others can be followed; it holds clients to its limits. `set()` changes a user
 *  and tells the followers. Options: `max`, how many a connection may follow; `forbidden`, ids;
 *  `hold`, no watch is answered until it is false and release() was called; `bytes` of a message and
 *  `rate` of them a second, at most; `tells`, its hello says so, and ids cost, while all that may be
 *  watched passes at once; `names`, so many of the forbidden are named in an error. */
function followable({
  max = 1000, forbidden = [], hold = false, bytes = 4096, rate = 20, tells = false, names = 0,
} = {}) {
  const users = new Map();
  const held = [];
  const show = (id) => ({ user_id: id, online: false, status: 'offline', ...users.get(id) });
  const refuse = (socket, code, ids = []) => {
    const named = ids.length ? { users: ids.slice(0, names) } : {};
    socket.message(JSON.stringify({ type: 'error', code, message: `it is ${code}`, ...named }));
  };
  const watch = (socket, ids) => {
    const refused = ids.filter((id) => server.forbidden.includes(id));
    if (refused.length) return refuse(socket, 'forbidden', refused);
    const all = new Set([...socket.follows, ...ids]);
    if (all.size > max) return refuse(socket, 'too_many_watched');
    socket.follows = all;
    return socket.message(JSON.stringify({ type: 'snapshot', users: ids.map(show) }));
  };
  const server = (socket, world) => {
    let paced = 0; // as the server counts: a second's worth may come at once
    let last = 0;
    socket.follows = new Set();
    socket.answer = (text) => {
      const { type, users: ids } = text === 'ping' ? {} : JSON.parse(text);
      const cost = rate ? (1 + (tells && ids ? ids.length / 100 : 0)) * 1000 / rate : 0;
      const full = rate ? Math.max(1000, tells ? (1 + max / 100) * 1000 / rate : 0) : 0;
      paced = Math.max(0, paced - (world.clock.ms - last)) + cost;
      last = world.clock.ms;
      if (Buffer.byteLength(text) > bytes) return socket.end(1009);
      if (paced > full + cost) return socket.end(4429, 'too_fast');
      if (text === 'ping') return socket.message('pong');
      if (type === 'unwatch') ids.forEach((id) => socket.follows.delete(id));
      if (type !== 'watch') return null;
      if (!server.hold) return watch(socket, ids);
      return held.push(() => watch(socket, ids));
    };
    server.socket = socket;
    const limits = { max_message: bytes, max_messages_per_second: rate, max_watch: max };
    socket.later(() => socket.hello(tells ? limits : {}));
  };
  return Object.assign(server, {
    forbidden,
    hold,
    /** Changes users, and tells of them in one message. */
    set(changes) {
      for (const [id, members] of changes) users.set(id, members);
      const told = changes.map(([id]) => id).filter((id) => server.socket?.follows.has(id));
      if (told.length) {
        server.socket.message(JSON.stringify({ type: 'presence', users: told.map(show) }));
      }
    },
    /** Answers what was held. */
    release() {
      for (const answer of held.splice(0)) answer();
    },
  });
}

module.exports = { World, SERVERS, LATENCY, WEB, settle, pong, followable };
