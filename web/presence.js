// SPDX-License-Identifier: MIT
/* The browser client of presence: holds the WebSocket that makes a user online, and gets it back
 * whenever it is lost. An ES module without dependencies, for browsers and for Node 22 or later.
 *
 * At most one socket counts, that of #try; an older one is not heard. Nothing is kept outside the
 * instance (no storage, no channel), so a duplicated tab is a client of its own.
 *
 * Whatever comes in (a call, a message, a timer, an event of the page) is a step. Steps run one
 * behind the other, even when a callback calls in; events are told behind a step, in order: no
 * callback sees half a step.
 *
 * #watched has an entry for each user that somebody here watches; #follow() makes up the difference
 * between that and whom the server follows for this connection. What an entry knows is stale from
 * the loss of a connection to the next snapshot.
 *
 * The states, and what everything means to an application, are in presence.d.ts. */

/** @typedef {import('./presence.js').PresenceClose} Close */
/** @typedef {import('./presence.js').PresenceSnapshot} Snapshot */

/** What can be configured, with its default. @type {Record<string, any>} */
const DEFAULTS = {
  apiUrl: '',
  getToken: null,
  maxReconnectAttempts: 5,
  giveUp: false,
  reconnectDelay: 1000,
  maxReconnectDelay: 30000,
  probeDelay: 30000,
  connectTimeout: 10000,
  probeTimeout: 5000,
  heartbeatInterval: null,
  awayAfter: 300000,
  debug: false,
  WebSocket: null,
  clock: {
    now: () => performance.now(),
    time: () => Date.now(),
    setTimeout: (work, ms) => setTimeout(work, ms),
    clearTimeout: (id) => clearTimeout(id),
  },
  random: Math.random,
  window: null,
  document: null,
};

const STATUSES = ['online', 'away', 'busy'];
/** What options are whose default does not tell. */
const KINDS = { getToken: 'function', WebSocket: 'function', heartbeatInterval: 'number' };
const RETRY_MAX = 3600000; // ms that a server can ask to stay away
const TIMER_MAX = 0x7fffffff; // ms; a longer timer would fire at once
const STATUS_PAUSE = 250; // ms between two changes of status
const SHORTEST = 100; // ms between two tries, at least
const ALIVE = 1000; // ms for which a message proves that the line works
const STABLE = 10000; // ms after which a connection was one: delays begin anew
const RENEW = 120000; // ms before a token's end, at most, at which the next one is asked for
const REFUSED = 100; // tokens that are remembered for having been refused
const MESSAGE = 4096; // bytes and messages a second that a server takes which does not say
const RATE = 20;
const SHARE = 0.8; // the part of the pace that is used: networks are uneven
const WATCH_BYTES = 3400; // of ids in a message, at most
const WATCH_HEAD = 30; // and of what is around them
const WATCH_COST = 100; // as many ids cost as much as a message

const CLOSE_STOP = 1000; // the user leaves: offline at once
const CLOSE_AWAY = 4001; // what 1001 is to a browser, which does not let a page send that
const CLOSE_BROKEN = 1006;
const CLOSE_TOO_BIG = 1009;
const CLOSE_RESTART = 1012;
const CLOSE_TOKEN = 4401;
const CLOSE_FORBIDDEN = 4403;

// EventTarget, or what on() needs of it where there is none, or no CustomEvent (React Native).
const native = globalThis.EventTarget && globalThis.CustomEvent;
const Target = native ? EventTarget : /** @type {typeof EventTarget} */ (class {
  #all = new Set(); // [type, listener]
  addEventListener(type, listener) { this.#all.add([type, listener]); }

  removeEventListener(type, listener) {
    for (const one of this.#all) if (one[0] === type && one[1] === listener) this.#all.delete(one);
  }

  dispatchEvent(event) {
    for (const [type, listener] of this.#all) {
      try {
        if (type === event.type) listener(event);
      } catch (error) {
        setTimeout(() => { throw error; });
      }
    }
    return true;
  }
});

// Does what is queued, and what comes to it meanwhile.
function drain(queue) {
  for (let next = queue.shift(); next; next = queue.shift()) next();
}

const misuse = (text) => new TypeError(`presence: ${text}`);

// What was thrown, in words.
function words(thrown, member = 'message', other = thrown) {
  try {
    return String(thrown?.[member] ?? other);
  } catch {
    return `a thrown ${typeof thrown}`;
  }
}

const bytesOf = (text) => encodeURIComponent(text).replace(/%../g, '.').length;

// A number that a server sent, if it is one from `least` up.
const numberOf = (value, least, other) => (
  typeof value === 'number' && value >= least && value < Infinity ? value : other);

// A user id as a segment of a path, or why the server could not take it.
function encodeUserId(userId) {
  if (typeof userId !== 'string') throw misuse('a user id is a string');
  let segment = '';
  let why = 'has no control characters';
  try {
    segment = encodeURIComponent(userId);
    const bytes = bytesOf(userId);
    if (bytes < 1 || bytes > 128) why = 'has 1 to 128 bytes';
    else if (!/[\u0000-\u001f\u007f-\u009f]/.test(userId)) return segment;
  } catch {
    why = 'has no half of a surrogate pair';
  }
  throw misuse(`a user id ${why}`);
}

// The WebSocket's address below apiUrl or, without one, the page's own origin.
function socketUrl(apiUrl, userId, location) {
  const segment = encodeUserId(userId);
  if (/^\.\.?$/.test(segment)) throw misuse('URLs cannot hold the ids . and ..');
  let url;
  try {
    url = apiUrl ? new URL(apiUrl, location?.href) : new URL(location.origin);
  } catch {
    throw misuse(apiUrl ? `apiUrl is not a URL: ${apiUrl}`
      : 'apiUrl is needed, as there is no page with an origin: ' // nor has that of a file
        + "configure({ apiUrl: 'https://presence.example.com' })");
  }
  if (!/^(http|ws)s?:$/.test(url.protocol)) throw misuse(`apiUrl begins with http or https: ${apiUrl}`);
  url.protocol = url.protocol.replace('http', 'ws');
  url.hash = '';
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/ws/presence/${segment}`;
  return url.href;
}

// A close as this side noticed or decided it, or of an event, which may leave out much.
const closeOf = (reason, code = CLOSE_BROKEN, wasClean = false) => ({
  code: Number.isInteger(code) ? code : CLOSE_BROKEN,
  reason: typeof reason === 'string' ? reason : '',
  wasClean: wasClean === true,
});

// Checks options; those that are undefined or null are left out.
function checkOptions(options) {
  const checked = {};
  for (const [name, given] of Object.entries(options)) {
    if (!Object.hasOwn(DEFAULTS, name)) throw misuse(`no option ${name}`);
    const value = name === 'apiUrl' && given instanceof URL ? given.href : given;
    if ((value ?? null) === null) continue;
    const kind = KINDS[name] ?? typeof DEFAULTS[name];
    if (kind === 'object' ? Object(value) !== value
      : kind !== 'boolean' && (typeof value !== kind || (kind === 'number' && !(value >= 0)))) {
      throw misuse(`${name} is a ${kind}${kind === 'number' ? ' from 0 up' : ''}`);
    }
    checked[name] = name === 'clock' ? { ...DEFAULTS.clock, ...value } : value;
  }
  return checked;
}

// What #watched has of a user whom the server does not follow.
const unfollowed = () => ({ followed: false, error: null, told: new Map(), most: Infinity });

/** The presence of one user in one page; see presence.d.ts. */
export class PresenceService extends Target {
  #options = { ...DEFAULTS };
  /** @type {Snapshot['state']} */ #state = 'idle';
  /** @type {string | null} */ #userId = null;
  #url = '';
  #attempt = 0; // which try after the last stable connection is waited for or under way
  #busy = false; // a step runs
  /** @type {(() => void)[]} */ #steps = []; // those that came meanwhile
  /** @type {(() => void)[]} */ #told = []; // what is to be told behind it, in order
  #telling = false;
  /** The try or connection that counts.
   *  @type {{ socket: any, token: string, extra: boolean } | null} */
  #try = null;
  #lastTry = -Infinity; // when it began
  #greeted = Infinity; // when its hello came
  #answered = false; // a probe of it was
  #spread = 0; // ms over which all come back whose lines break
  #notBefore = -Infinity; // the server asked to stay away so long
  #heard = -Infinity; // when the last message came
  #heartbeat = 25000; // ms between two probes while connected
  #next = ''; // the token for the next try, if it is known already
  #refused = new Set(); // tokens that were closed with 4401: never sent again
  #advised = new Set(); // what the console was told to mend
  #opened = false; // a socket has opened since the start: address and origin are right
  /** @type {Close | null} */ #lastClose = null;
  /** @type {number | null} */ #lastChange = null;
  #timers = new Map(); // name: { id, due, clock }
  #latest = 0; // the last time that the clock gave
  /** @type {[any, string][]} */ #page = []; // where this listens, and to what
  /** @type {Snapshot['status']} */
  #chosen = 'online'; // the status that the application wants
  #idle = false; // the page has been hidden for long, or is frozen
  #sent = 'online'; // the status that the server has of this connection
  #sentAt = -Infinity;
  /** @type {string | null} */ #manual = null; // the manual status that is still to be sent
  /** By id the user as known, the watches, whether the server follows this user for this connection
   *  (or was asked to), the error if it will not, which watches were told that, how many it may be
   *  asked for in one message with this one, and what the id takes in it. @type {Map<string, any>} */
  #watched = new Map();
  #sight = {}; // another one at each start: what one user saw is not told to the next
  #planned = false; // #follow() is about to run
  #message = MESSAGE; // bytes that the server takes
  #most = Infinity; // users that it follows
  #gap = 0; // ms that a message costs of the server's pace
  #burst = 0; // ms of it that may be used at once
  #care = 1; // the part of both that is used, as a divisor
  #paced = -Infinity; // when all that was sent is paid for
  #askedAt = 0;
  /** @type {Set<string> | null} */ #asked = null; // those of the watch not yet answered
  /** @type {Snapshot | null} */ #snapshot = null;

  constructor(options = {}) {
    super();
    this.configure(options);
    this.#change();
  }

  // ---- What an application calls: see presence.d.ts ----

  configure(options) { Object.assign(this.#options, checkOptions(options)); }

  startPresence(userId) {
    const url = socketUrl(this.#options.apiUrl, userId, this.#window.location);
    if (typeof this.#WebSocket !== 'function') { // Node before 22
      throw misuse('there is no WebSocket here; npm install ws, then: '
        + "import WebSocket from 'ws'; presenceService.configure({ WebSocket })");
    }
    this.#step(() => {
      if (this.#userId === userId && this.#url === url) {
        this.#wake('startPresence');
        return;
      }
      this.#stop('another user');
      this.#userId = userId;
      this.#url = url;
      this.#care = 1;
      this.#opened = false;
      this.#sight = {};
      for (const entry of this.#watched.values()) entry.user = null; // it was another's to see
      this.#listen();
      this.#log(`start ${JSON.stringify(userId)} at ${url.split('?')[0]}`);
      this.#connect();
    });
  }

  stopPresence() { this.#step(() => this.#stop('stopPresence')); }

  renewToken() {
    this.#step(() => { // who is not connected gets a new one with the next try
      if (this.#connected) this.#renew();
    });
  }

  /** @param {any} status @param {any} options */
  setStatus(status, { manual = false, message, expiresIn } = {}) {
    if (!STATUSES.includes(status) && !(manual && ['invisible', null].includes(status))) {
      throw misuse(`a status is one of ${STATUSES.join(', ')}`);
    }
    if (manual) {
      if (typeof (message ?? '') !== 'string' || !Number.isFinite(expiresIn ?? 0)) {
        throw misuse('message is a string, expiresIn a number of seconds');
      }
      const text = JSON.stringify({ type: 'status', manual: true, status, message, expires_in: expiresIn });
      this.#step(() => {
        this.#manual = text;
        this.#sendManual();
      });
      return;
    }
    if ((message ?? expiresIn ?? null) !== null) throw misuse('only a manual status has a message and an end');
    this.#step(() => {
      this.#chosen = status;
      this.#change();
      this.#sendStatus();
    });
  }

  isConnected() { return this.#connected; }
  getCurrentUserId() { return this.#userId; }
  getSnapshot() { return /** @type {Snapshot} */ (this.#snapshot); }
  get state() { return this.#state; }
  get lastClose() { return this.#lastClose; }

  watch(ids, callback, onError) {
    const all = new Set(typeof ids === 'string' ? [ids] : [...ids]);
    for (const id of all) encodeUserId(id);
    if (typeof callback !== 'function' || typeof (onError ?? callback) !== 'function') {
      throw misuse('watch needs a callback, and onError is one');
    }
    const watch = { callback, onError, ended: false };
    for (const id of all) {
      const entry = this.#watched.get(id)
        ?? { user: null, watches: new Set(), bytes: bytesOf(JSON.stringify(id)) + 1, ...unfollowed() };
      this.#watched.set(id, entry);
      entry.watches.add(watch);
      if (entry.user) this.#tell([watch], 'callback', entry.user);
      if (entry.error) this.#deny(id, entry.error);
    }
    this.#plan();
    return () => {
      watch.ended = true;
      for (const id of all) this.#watched.get(id)?.watches.delete(watch);
      this.#plan();
    };
  }

  getUser(id) {
    const entry = this.#watched.get(id);
    return entry?.watches.size ? entry.user : null;
  }

  on(type, listener) {
    if (typeof listener !== 'function') throw misuse('on needs a listener');
    const heard = (event) => listener(event.detail);
    this.addEventListener(type, heard);
    return () => this.removeEventListener(type, heard);
  }

  // ---- Steps ----

  #step(work) {
    this.#steps.push(work);
    if (this.#busy) return;
    this.#busy = true;
    try {
      drain(this.#steps);
    } finally {
      this.#busy = false;
    }
    if (this.#telling) return; // it goes on further out
    this.#telling = true;
    try {
      drain(this.#told);
    } finally {
      this.#telling = false;
    }
  }

  // ---- The state machine ----

  // Begins a try: token, socket, hello, within connectTimeout. `extra`: the page woke up, so it
  // does not count.
  #connect(extra = false) {
    const attempt = { socket: null, token: '', extra };
    this.#disarm('retry');
    this.#try = attempt;
    this.#lastTry = this.#now();
    this.#answered = false;
    this.#arm('deadline', this.#options.connectTimeout, () => {
      this.#lost(attempt, closeOf('no hello in time'));
    });
    if (this.#attempt === 0) this.#change('connecting');
    const next = this.#next;
    this.#next = '';
    this.#askToken(attempt, (token, wrong) => {
      if (wrong) this.#failed(attempt, 'token_failed', wrong);
      else if (this.#options.getToken && this.#refused.has(token)) {
        this.#failed(attempt, 'token_unchanged', 'getToken gave a token that was refused');
      } else {
        attempt.token = token;
        this.#open(attempt);
      }
    }, next);
  }

  // Asks the application for a token, unless one is known. `then` gets it, or what is wrong, if the
  // try still counts; a microtask later at least: who starts, stops and starts in one go makes one
  // socket.
  async #askToken(attempt, then, known = '') {
    const { getToken } = this.#options;
    let token;
    let wrong = '';
    try {
      token = await (known || getToken?.(this.#userId)) || '';
      if (typeof token !== 'string') wrong = `getToken: this is no text but a ${typeof token}`;
      else if (!/^[\w.-]*$/.test(token = token.trim())) {
        wrong = 'getToken gave what is no token: was it told an error, or was it sent elsewhere?';
      }
    } catch (error) {
      wrong = `getToken: ${words(error) || 'it failed'}`;
    }
    this.#step(() => {
      if (this.#try !== attempt) return;
      if (wrong) this.#advise(wrong);
      then(token, wrong);
    });
  }

  // Gets the next token while this one is good, and connects anew with it, within the server's
  // grace time. Where none comes the connection stays until the server ends it.
  #renew() {
    const attempt = this.#try;
    this.#askToken(attempt, (token, wrong) => {
      if (wrong) this.#error('token_failed', wrong);
      else if (!['', attempt?.token].includes(token)) {
        this.#next = token;
        this.#lost(attempt, closeOf('renew', CLOSE_AWAY), true);
      }
    });
  }

  #open(attempt) {
    const protocols = ['presence.v1', ...(attempt.token ? [`token.${attempt.token}`] : [])];
    this.#log('opening');
    try {
      const socket = attempt.socket = new this.#WebSocket(this.#url, protocols);
      socket.onopen = () => this.#step(() => {
        this.#opened = true;
        this.#log('open, waiting for hello');
      });
      socket.onmessage = ({ data }) => this.#step(() => this.#receive(attempt, data));
      socket.onclose = ({ reason, code, wasClean }) => {
        this.#step(() => this.#lost(attempt, closeOf(reason, code, wasClean)));
      };
      socket.onerror = () => this.#step(() => this.#log('socket error'));
    } catch (error) {
      // what some engines say quotes the protocol, which is the token: the name must do
      this.#failed(attempt, 'socket_failed', `new WebSocket: ${words(error, 'name', 'failed')}`);
    }
  }

  // Types of messages that are not known are ignored: newer servers have more of them.
  #receive(attempt, data) {
    if (this.#try !== attempt) return;
    this.#heard = this.#now();
    if (this.#disarm('probe')) this.#answered = true;
    let message = null;
    try {
      if (data !== 'pong') message = JSON.parse(data);
    } catch {
      this.#log('a message that is not JSON');
    }
    const { type, users, more } = message ?? {};
    if (type === 'hello') this.#hello(message);
    if (type === 'spread') this.#spread = numberOf(message.spread_ms, 0, this.#spread);
    if (type === 'presence') this.#know(users);
    if (type === 'snapshot') {
      this.#know(users);
      if (more === true) return; // a part of a long one
      this.#answeredWatch();
      this.#follow();
    }
    if (type === 'error') {
      const [code, text] = [words(message.code, ''), words(message.message, '')];
      if (!this.#refuse(code, text, users)) this.#error(code, text);
    }
  }

  // The server counts this connection: the user is online. Following begins anew, but not the
  // backoff: the connection may end at once.
  #hello(message) {
    if (this.#connected) return;
    const seconds = numberOf(message.heartbeat_seconds, Number.MIN_VALUE, 25);
    this.#heartbeat = this.#options.heartbeatInterval ?? Math.max(seconds * 1000, 1000);
    this.#disarm('deadline');
    this.#opened = true;
    this.#greeted = this.#now();
    this.#spread = numberOf(message.spread_ms, 0, 0);
    this.#limits(message);
    this.#sent = 'online';
    this.#sentAt = -Infinity;
    this.#beat();
    const life = numberOf(message.expires_seconds, 0, 0) * 1000;
    const early = Math.min(life / 10, RENEW) * (0.6 + 0.4 * this.#random()); // not all at once
    if (life > ALIVE) this.#arm('renew', life - early, () => this.#renew());
    this.#change('connected');
    const { connection_id: connectionId, server } = message;
    this.#emit('connected', { userId: this.#userId, connectionId, server });
    this.#sendStatus();
    this.#sendManual();
    this.#follow();
  }

  get #connected() { return this.#state === 'connected'; }
  get #room() { return this.#message - WATCH_HEAD; } // for ids in a message

  #limits({ max_message: bytes, max_messages_per_second: rate, max_watch: users }) {
    const messages = numberOf(rate, 0, RATE) / this.#care;
    this.#message = numberOf(bytes, 1, MESSAGE);
    this.#most = numberOf(users, 0, Infinity);
    this.#gap = messages ? 1000 / (messages * SHARE) : 0;
    this.#burst = Math.max(messages - 1, 1) * this.#gap;
    this.#paced = -Infinity;
  }

  #failed(attempt, code, text) {
    this.#error(code, text);
    this.#lost(attempt, closeOf(code));
  }

  // A try or connection ended. `now`: try again at once, unless the one before was not stable
  // either.
  #lost(attempt, close, now = false) {
    if (this.#try !== attempt) return;
    const { code, reason } = close;
    const [, error = reason, said = ''] = /^(\w+): ([^]*)$/.exec(reason) ?? [];
    const { maxReconnectAttempts: most, giveUp, reconnectDelay } = this.#options;
    const was = this.#connected;
    const stood = was ? this.#now() - this.#greeted : 0;
    this.#log(`lost: ${code} ${reason}`);
    if (code === CLOSE_FORBIDDEN) {
      if (said) this.#advise(said);
      this.#end(close, error || 'forbidden', said || 'the server does not want this user here');
      return;
    }
    if (this.#answered || stood >= STABLE) this.#attempt = 0;
    if (!attempt.extra || this.#attempt === 0) this.#attempt++;
    if (giveUp && this.#attempt > most) {
      this.#end(close, 'gave_up', `no connection after ${most} more attempts`);
      return;
    }
    this.#drop(CLOSE_AWAY);
    this.#lastClose = close;
    if (code === CLOSE_TOKEN) {
      this.#refused.delete(attempt.token);
      this.#refused.add(attempt.token);
      if (this.#refused.size > REFUSED) this.#refused.delete([...this.#refused][0]);
      // a token that ran out is replaced at once; one that was never any good is not
      now = stood > reconnectDelay;
      if (!was) this.#advise(this.#tokenAdvice(attempt, said || reason));
    } else if (code === CLOSE_BROKEN && !reason && !this.#opened) this.#advise(this.#noSocket());
    const tooMuch = code === CLOSE_TOO_BIG || reason === 'too_fast';
    if (tooMuch && this.#care < RATE) this.#care *= 2;
    const told = this.#later(close, now && this.#attempt === 1, was);
    if (was) this.#emit('disconnected', { code, reason, willReconnect: true });
    if (tooMuch || (code >= 4400 && code !== 4408)) {
      this.#error(error || `closed_${code}`, said || `the server closed with ${code}`);
    }
    if (told) this.#emit(...told);
  }

  // `said` is why the server refused the token of a try.
  #tokenAdvice({ token }, said) {
    if (token) return `the server refused what getToken gave: ${said}`;
    return this.#options.getToken ? 'the server wants a token, and getToken gave none'
      : 'the server wants a token: configure({ getToken: async (userId) => '
        + "(await fetch('/presence-token', { method: 'POST' })).text() })";
  }

  // A browser does not tell its page why a socket does not open.
  #noSocket() {
    const { host, origin, protocol } = new URL(this.#url);
    const page = this.#ofPage(() => this.#window.location?.origin);
    const own = page === origin.replace(/^ws/, 'http');
    let what = '';
    if (page === 'null') what = ' It takes no page of a file: have a web server give this one';
    else if (page && !own) what = ` For this page it has to be started with --allow-origin ${page}`;
    return `no WebSocket at ${protocol}//${host}: is the server up?${what}`;
  }

  // Decides when the next try is. Returns the event of that, if any. `now`: at once. `was`: a
  // connection has ended, not a try.
  #later({ code, reason }, now, was) {
    const { maxReconnectAttempts: maxAttempts, reconnectDelay, maxReconnectDelay, probeDelay } = this.#options;
    const first = this.#state !== 'suspended';
    const slow = this.#attempt > maxAttempts;
    const doubled = reconnectDelay * 2 ** Math.min(this.#attempt - 1, 30);
    const [, ms] = /(?:^|[\s;,])retry_after=(\d{1,15})(?![\d.])/.exec(reason) ?? [];
    const least = Math.min(slow ? probeDelay : Math.min(doubled, maxReconnectDelay), TIMER_MAX);
    let delay = Math.max(least * (1 + 0.1 * this.#random()), SHORTEST); // clients must not come all at once
    if (was && code === CLOSE_BROKEN && this.#spread) {
      delay += Math.min(this.#spread, RETRY_MAX) * this.#random();
    }
    if (now) delay = 0;
    if (ms && code === CLOSE_RESTART) {
      const asked = Math.min(Number(ms), RETRY_MAX);
      delay = Math.max(asked, SHORTEST, this.#attempt > 1 ? delay : 0);
      this.#notBefore = this.#now() + asked;
    }
    this.#log(`next try in ${Math.round(delay)} ms`);
    this.#arm('retry', delay, () => this.#connect());
    this.#change(slow ? 'suspended' : 'reconnecting');
    if (!slow) return ['reconnecting', { attempt: this.#attempt, delay, maxAttempts }];
    return first ? ['suspended', { delay }] : null;
  }

  #stop(reason) {
    if (this.#userId === null) return;
    this.#disarm('manual'); // the last one wanted is sent, not left behind
    this.#sendManual(true);
    this.#end(closeOf(reason, CLOSE_STOP, true));
  }

  // Everything ends, until startPresence(); with an error when the application did not ask for it.
  #end(close, error = '', message = '') {
    this.#drop(CLOSE_STOP, close.reason);
    for (const name of this.#timers.keys()) this.#disarm(name);
    for (const [target, name] of this.#page) this.#ofPage(() => target.removeEventListener(name, this.#onPage));
    this.#page = [];
    this.#userId = null;
    this.#url = '';
    this.#attempt = 0;
    this.#refused.clear();
    this.#next = '';
    this.#notBefore = -Infinity;
    this.#idle = false;
    this.#chosen = 'online';
    this.#manual = null;
    this.#lastClose = close;
    this.#change('stopped');
    this.#emit('disconnected', { code: close.code, reason: close.reason, willReconnect: false });
    if (error) this.#error(error, message, true);
  }

  #drop(code, reason = '') {
    const socket = this.#try?.socket;
    this.#try = null;
    for (const name of this.#timers.keys()) if (!/away|retry/.test(name)) this.#disarm(name);
    this.#unfollow();
    if (!socket) return;
    try {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.onerror = () => {}; // closing one that is still connecting is an error to some
    } catch { /* #try says it too */ }
    try {
      if (!(socket.readyState >= 2)) socket.close(code, reason);
    } catch (error) {
      this.#log(`close: ${words(error, 'name')}`);
    }
  }

  // ---- Following others ----

  // Has #follow() run once, behind all that is watched now.
  #plan() {
    if (!this.#planned) queueMicrotask(() => this.#step(() => this.#follow()));
    this.#planned = true;
  }

  // Tells the server whom not to follow any more, then whom to follow: as many as a message takes,
  // the next ones when that is answered and the pace allows it.
  #follow() {
    this.#planned = false;
    if (this.#connected && (this.#asked || this.#timers.has('watch'))) return;
    /** @type {string[][]} */ const [gone, wanted, long] = [[], [], []];
    let room = this.#most;
    for (const [id, { watches, followed, error, bytes }] of this.#watched) {
      if (followed) room--;
      if (watches.size && !followed && !error) (bytes > this.#room ? long : wanted).push(id);
      if (!watches.size && followed) gone.push(id);
      if (!watches.size && !followed) this.#watched.delete(id);
    }
    const leaving = gone.length > 0;
    if (!this.#connected) return;
    if (!leaving) this.#denyAll(long, 'message_too_large', this.#message);
    if (!leaving && room <= 0) { // why those are that it refused before, the server says
      const fresh = wanted.filter((id) => this.#watched.get(id).most === Infinity);
      this.#denyAll(fresh, 'too_many_watched', this.#most);
    }
    const users = this.#fitting(leaving ? gone : wanted, room > 0 ? room : Infinity, leaving);
    if (users.size === 0) return;
    if (!this.#pay(1 + users.size / WATCH_COST, 'watch', () => this.#follow())) return;
    for (const id of users) {
      if (leaving) this.#watched.delete(id);
      else this.#watched.get(id).followed = true;
    }
    this.#send(JSON.stringify({ type: leaving ? 'unwatch' : 'watch', users: [...users] }));
    if (!leaving) {
      this.#asked = users;
      this.#askedAt = this.#now();
      return;
    }
    for (const entry of this.#watched.values()) { // there is room again
      if (entry.error?.code !== 'too_many_watched') continue;
      entry.error = null;
      entry.most = users.size;
    }
    this.#plan();
  }

  // As many of these users as a message and the server take; not `leaving`, of those that may be
  // asked for with most others.
  #fitting(ids, room, leaving) {
    const pace = Math.max(this.#burst / this.#gap - 1, 1) * WATCH_COST || Infinity;
    const few = Math.min(pace, leaving ? pace : room);
    const users = new Set();
    const of = (id) => this.#watched.get(id);
    const able = ids.filter((id) => !of(id).error);
    const most = able.reduce((found, id) => Math.max(found, leaving ? Infinity : of(id).most), 0);
    let left = Math.min(WATCH_BYTES, this.#room) / this.#care;
    for (const id of able) {
      if (!leaving && of(id).most !== most) continue;
      left -= of(id).bytes;
      if (users.size && (left < 0 || users.size >= Math.min(most, few))) break;
      users.add(id);
    }
    return users;
  }

  // Says of these users what the server would: `limit` is why.
  #denyAll(ids, code, limit) {
    const message = `the limit of the server is ${limit}`;
    const news = ids.filter((id) => this.#deny(id, { code, message, userId: id }));
    if (news.length) this.#error(code, message);
  }

  // A watch is answered: the server has counted it by now, perhaps only now.
  #answeredWatch() {
    if (this.#asked) this.#paced += this.#now() - this.#askedAt;
    this.#asked = null;
  }

  #know(users) {
    for (const user of Array.isArray(users) ? users : []) {
      const entry = this.#watched.get(user?.user_id);
      if (entry?.followed) this.#set(entry, user, false);
    }
  }

  // The connection is gone, and what is known is stale.
  #unfollow() {
    this.#asked = null;
    for (const entry of this.#watched.values()) {
      Object.assign(entry, unfollowed());
      if (entry.user && !entry.user.stale) this.#set(entry, entry.user, true);
    }
  }

  // A watch was refused as a whole. Whom the error names is left out; if nobody, half as many are
  // asked for until it is clear who is meant. When the server follows as many as it will, that is
  // true of all who wait. False when the error is to be told.
  #refuse(code, message, users) {
    const asked = this.#asked;
    const refusals = ['forbidden', 'too_many_watched', 'invalid_user_id'];
    if (!asked || !refusals.includes(code)) return false;
    this.#answeredWatch();
    const named = new Set([users].flat().filter((id) => asked.has(id)));
    const unclear = !named.size && asked.size > 1;
    for (const [id, entry] of this.#watched) {
      if (asked.has(id)) entry.followed = false;
      else if (code !== 'too_many_watched' || entry.followed || entry.error) continue;
      if (unclear) entry.most = Math.min(entry.most, Math.ceil(asked.size / 2));
      if (unclear || (named.size && !named.has(id))) continue;
      if (code === 'forbidden') {
        this.#advise('the token does not let this page see all whom it watches: its claim watch names'
          + ' them, or is "*"; see renewToken()');
      }
      this.#deny(id, { code, message, userId: id });
    }
    this.#follow();
    return unclear;
  }

  // A user is not followed: tells those who watch why, each once. False when all knew.
  #deny(id, error) {
    const entry = this.#watched.get(id);
    const news = [...entry.watches].filter((watch) => entry.told.get(watch) !== error.code);
    Object.assign(entry, { user: null, error });
    for (const watch of news) entry.told.set(watch, error.code);
    this.#tell(news, 'onError', error);
    return news.length > 0;
  }

  #set(entry, user, stale) {
    entry.user = Object.freeze({ ...user, stale });
    this.#tell(entry.watches, 'callback', entry.user);
  }

  // Calls watches back, behind what is under way, unless another user has begun meanwhile.
  #tell(watches, name, detail) {
    const sight = this.#sight;
    for (const watch of watches) {
      queueMicrotask(() => {
        if (!watch.ended && this.#sight === sight) watch[name]?.(detail);
      });
    }
  }

  // ---- Signs of life ----

  // Probes the line at every heartbeat; a timer that comes late is no harm.
  #beat() {
    if (this.#heartbeat === 0) return;
    this.#arm('heartbeat', Math.max(this.#heartbeat, SHORTEST), () => {
      this.#beat();
      this.#probe();
    });
  }

  // Asks the server for a sign of life, if the pace allows it. Without one in time the socket is
  // replaced; but a timer that was late proves nothing (the page was frozen, the machine slept),
  // so the answer gets its time once more then.
  #probe(again = false) {
    const { probeTimeout } = this.#options;
    const attempt = this.#try;
    if (this.#timers.has('probe') || !this.#pay(1)) return;
    const due = this.#now() + probeTimeout;
    this.#send('ping');
    this.#arm('probe', probeTimeout, () => {
      if (!again && this.#now() > due + probeTimeout) this.#probe(true);
      else this.#lost(attempt, closeOf('no answer to a probe'), true);
    });
  }

  // Something has changed for the better: the line is probed, or tried at once, but not within
  // reconnectDelay of the last try and not before a time that the server asked for.
  #wake(why) {
    const { reconnectDelay } = this.#options;
    const now = this.#now();
    if (this.#connected) {
      if (now - this.#heard > ALIVE) this.#probe();
      return;
    }
    const earliest = Math.max(now, this.#lastTry + reconnectDelay, this.#notBefore);
    const retry = this.#timers.get('retry');
    if (!retry || (retry.due <= earliest && earliest > now)) return;
    this.#log(`${why}: next try in ${Math.round(earliest - now)} ms`);
    if (earliest === now) this.#connect(true);
    else this.#arm('retry', earliest - now, () => this.#connect(true));
  }

  #listen() {
    const add = (target, names) => this.#ofPage(() => {
      if (typeof target?.addEventListener !== 'function') return;
      for (const name of names) {
        this.#page.push([target, name]);
        target.addEventListener(name, this.#onPage);
      }
    });
    add(this.#window, ['online', 'offline', 'pagehide', 'pageshow']);
    add(this.#document, ['visibilitychange', 'freeze', 'resume']);
    if (this.#unseen()) this.#hidden();
  }

  // Does something with the page, or what is given for it, which may throw.
  #ofPage(work) {
    try {
      return work();
    } catch (error) {
      this.#error('page_failed', `window or document: ${words(error)}`);
      return null;
    }
  }

  #unseen() { return this.#ofPage(() => this.#document?.visibilityState === 'hidden'); }

  // What happens to the page. navigator.onLine is never asked: it is often wrong.
  #onPage = ({ type, persisted }) => this.#step(() => {
    const hidden = this.#unseen();
    this.#log(`page: ${type}`);
    switch (type) {
    case 'offline': // perhaps: the probe will tell
      if (this.#connected) this.#probe();
      break;
    case 'pagehide':
      // What ends is closed with 1001 by the browser itself. A page that is kept for the back
      // button must not keep its socket: nobody would hear the server any more.
      if (persisted && this.#try) this.#lost(this.#try, closeOf('pagehide', 1001, true));
      break;
    case 'freeze': // no timer will run
      this.#away();
      break;
    default: // visibilitychange, online, pageshow, resume
      if (hidden && type === 'visibilitychange') this.#hidden();
      else if (hidden || type === 'online') this.#wake(type);
      else this.#visible(type);
    }
  });

  #hidden() { this.#arm('away', this.#options.awayAfter, () => this.#away()); }

  // Nobody has seen the page for long, or nothing of it will run from now on.
  #away() {
    if (this.#options.awayAfter !== Infinity) this.#setIdle(true);
  }

  #visible(why) {
    this.#setIdle(false);
    this.#wake(why);
  }

  #setIdle(idle) {
    this.#disarm('away');
    this.#idle = idle;
    this.#change();
    this.#sendStatus(idle);
  }

  // ---- Small things ----

  /** The status that the server should have: a hidden page makes online away, nothing else.
   *  @returns {Snapshot['status']} */
  #status() {
    return this.#idle && this.#chosen === 'online' ? 'away' : this.#chosen;
  }

  // Tells the server the status if it has another; not too often, unless `urgent`.
  #sendStatus(urgent = false) {
    const status = this.#status();
    const wait = this.#sentAt + STATUS_PAUSE - this.#now();
    const again = () => this.#sendStatus();
    if (!this.#connected || status === this.#sent) return;
    if (wait > 0 && !urgent) this.#arm('status', wait, again);
    else if (this.#pay(1, urgent ? '' : 'status', again)) {
      this.#sent = status;
      this.#sentAt = this.#now();
      this.#send(JSON.stringify({ type: 'status', status }));
    } else if (urgent) this.#arm('status', STATUS_PAUSE, again);
  }

  // Sends the manual status, once; not too often either.
  #sendManual(urgent = false) {
    const text = this.#manual;
    const again = () => this.#sendManual();
    if (!this.#connected || !text || this.#timers.has('manual')) return;
    if (!this.#pay(1, urgent ? '' : 'manual', again)) return;
    this.#manual = null;
    if (bytesOf(text) > this.#message) {
      this.#error('message_too_large', `the server takes ${this.#message} bytes, no such status`);
      return;
    }
    this.#send(text);
    this.#arm('manual', STATUS_PAUSE, again);
  }

  // Pays for a message by the pace that the server allows; false when it is too early: `work` is
  // done later. Without a `name` one more message may go: it cannot wait.
  #pay(cost, name = '', work = () => {}) {
    const now = this.#now();
    const most = this.#burst + this.#gap;
    const owed = Math.min(Math.max(this.#paced - now, 0), most);
    const wait = Math.min(owed + cost * this.#gap - (name ? this.#burst : most), owed);
    if (wait > 0) {
      if (name) this.#arm(name, Math.ceil(wait), work);
      return false;
    }
    this.#paced = now + owed + cost * this.#gap;
    return true;
  }

  // Sends text, if the socket still takes it; the probe or the close tells when it does not.
  #send(text) {
    this.#log(`send ${text}`);
    try {
      this.#try?.socket.send(text);
    } catch (error) {
      this.#log(`send: ${words(error, 'name')}`);
    }
  }

  // What the page has, unless the options say otherwise.
  get #window() { return this.#options.window ?? globalThis; }
  get #document() { return this.#options.document ?? globalThis.document; }
  get #WebSocket() { return this.#options.WebSocket ?? globalThis.WebSocket; }

  #random() {
    try {
      const random = Number(this.#options.random());
      if (random >= 0 && random <= 1) return random;
      throw new TypeError(`${random} is not from 0 to 1`);
    } catch (error) {
      this.#error('random_failed', `random: ${words(error)}`);
      return Math.random();
    }
  }

  // Asks the clock; when it fails, our own goes on from there.
  #read(name) {
    try {
      const ms = this.#options.clock[name]();
      if (Number.isFinite(ms)) return ms;
      throw new TypeError(`${name}() gave no number`);
    } catch (error) {
      this.#ownClock(error);
      return this.#options.clock[name]();
    }
  }

  // Ms by a clock that never goes back.
  #now() { return (this.#latest = this.#read('now')); }

  #ownClock(error) {
    const { now } = DEFAULTS.clock;
    const ahead = this.#latest - now();
    this.#options.clock = { ...DEFAULTS.clock, now: () => now() + ahead };
    this.#error('clock_failed', `clock: ${words(error)}`);
  }

  // There is one timer of a name.
  #arm(name, ms, work) {
    const wait = Math.min(Math.max(ms, 0), TIMER_MAX);
    this.#disarm(name);
    const due = this.#now() + wait; // may change the clock
    const { clock } = this.#options;
    const timer = { id: null, due, clock };
    let early = true;
    let wrong = false;
    this.#timers.set(name, timer);
    try {
      timer.id = clock.setTimeout(() => {
        wrong ||= early;
        this.#step(() => {
          if (wrong || this.#timers.get(name) !== timer) return;
          this.#timers.delete(name);
          work();
        });
      }, wait);
      early = false;
      if (wrong) throw new TypeError('setTimeout did not wait');
    } catch (error) {
      wrong = true;
      this.#ownClock(error);
      this.#arm(name, ms, work);
    }
  }

  // Whether there was one.
  #disarm(name) {
    const timer = this.#timers.get(name);
    try {
      timer?.clock.clearTimeout(timer.id);
    } catch { /* then it fires, and is not known any more */ }
    return this.#timers.delete(name);
  }

  // Goes to a state, or stays. When anything differs from the last snapshot there is a new one.
  #change(state = this.#state) {
    const old = this.#snapshot;
    if (state !== this.#state) {
      this.#log(`${this.#state} -> ${state}`);
      this.#lastChange = this.#read('time');
      this.#state = state;
    }
    const connected = this.#connected;
    const attempt = connected ? 0 : Math.min(this.#attempt, this.#options.maxReconnectAttempts);
    /** @type {Snapshot} */
    const next = { state, connected, userId: this.#userId, attempt, status: this.#status(),
      lastChange: this.#lastChange };
    if (old && Object.keys(next).every((key) => next[key] === old[key])) return;
    this.#snapshot = Object.freeze(next);
    if (old) this.#emit('change', this.#snapshot);
  }

  #error(code, message, final = false) {
    this.#log(`error ${code}: ${message}`);
    this.#emit('error', { code, message, final });
  }

  #emit(type, detail) {
    const event = native ? new CustomEvent(type, { detail }) : { type, detail };
    this.#told.push(() => this.dispatchEvent(/** @type {any} */ (event)));
  }

  // Tells whoever sets this up what to mend, once: on the console, as a page that is not yet right
  // listens to no event. It goes to `debug`, where that is a function.
  #advise(text) {
    if (this.#advised.has(text) || this.#advised.size >= REFUSED) return;
    this.#advised.add(text);
    this.#log(text, 'warn');
  }

  // For the console; a token is in none of them.
  #log(text, level = 'log') {
    const { debug } = this.#options;
    if (!debug && level === 'log') return;
    this.#told.push(() => {
      if (debug !== this.#options.debug) return;
      try {
        if (typeof debug === 'function') debug(text);
        else console[level](`[presence] ${text}`);
      } catch (error) {
        this.#options.debug = false; // or this would be told for ever
        this.#error('debug_failed', `debug: ${words(error)}`);
      }
    });
  }
}

/** The instance that most pages need. */
export const presenceService = new PresenceService();
