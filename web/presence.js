/* The browser client of presence: holds the WebSocket that makes a user online, and gets it back
 * whenever it is lost. An ES module without dependencies, for browsers and for Node 22 or later.
 *
 *     import { presenceService } from './presence.js';
 *     presenceService.startPresence('alice');        // after login
 *     presenceService.stopPresence();                // at logout
 *
 * The states, and what leads from one to the next:
 *
 *     idle          nothing was started yet               startPresence(): connecting
 *     connecting    the first try                         hello: connected; failure: reconnecting
 *     connected     the server said hello: online         end of the socket: reconnecting
 *     reconnecting  waits for the next try, or tries      hello: connected; used up: suspended
 *     suspended     tries every 30 s, or when woken up    hello: connected
 *     stopped       by stopPresence(), 4403 or giveUp     startPresence(): connecting
 *
 * At most one socket counts: the one of #try. What an older one still says is not heard. Nothing is
 * kept outside the instance (no storage, no channel), so a duplicated tab is a client of its own.
 *
 * #watched has an entry for each user that somebody here watches. A connection begins with nobody
 * followed; #follow() then makes up the difference between that and the entries, a message at a
 * time. What an entry knows is stale from the loss of a connection to the next snapshot. Watches
 * are called back in microtasks, so nothing they do comes in between here.
 * What everything means to an application is written in presence.d.ts. */

/** @typedef {import('./presence.js').PresenceClose} Close */
/** @typedef {import('./presence.js').PresenceSnapshot} Snapshot */
/** @typedef {import('./presence.js').PresenceUser} User */

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
  random: () => Math.random(),
  window: null,
  document: null,
};

const STATUSES = ['online', 'away', 'busy'];
const JITTER = 0.1; /* the part of a delay that is added at random, at most */
const RETRY_MAX = 3600000; /* ms that a server can ask to stay away */
const TIMER_MAX = 0x7fffffff; /* ms; a longer timer would fire at once */
const STATUS_PAUSE = 250; /* ms between two changes of status: servers take 20 messages a second */
const SHORTEST = 100; /* ms between two tries, at least */
const ALIVE = 1000; /* ms for which a message proves that the line works */
const WATCH_PAUSE = 125; /* ms for a message of watching: with status below 20 a second */
const WATCH_BURST = 1000; /* ms of them that may come at once: nothing waits for slow timers */
const WATCH_BYTES = 3400; /* of ids in a message: servers take 4,096 in all */
const WATCH_ERRORS = ['forbidden', 'too_many_watched', 'invalid_user_id'];

const CLOSE_STOP = 1000; /* the user leaves: offline at once */
const CLOSE_AWAY = 4001; /* what 1001 is to a browser, which does not let a page send that */
const CLOSE_RESTART = 1012;
const CLOSE_TOKEN = 4401;
const CLOSE_FORBIDDEN = 4403;

const CONNECTION_TIMERS = ['deadline', 'heartbeat', 'probe', 'status', 'manual', 'watch'];
const WINDOW_EVENTS = ['online', 'offline', 'pagehide', 'pageshow'];
const DOCUMENT_EVENTS = ['visibilitychange', 'freeze', 'resume'];

/** How many bytes a text has in UTF-8. */
const bytesOf = (text) => new TextEncoder().encode(text).length;

/** Says why the server could not take this user id, or returns it as a segment of a path. */
function encodeUserId(userId) {
  if (typeof userId !== 'string') throw new TypeError('presence: a user id is a string');
  let segment = '';
  try {
    segment = encodeURIComponent(userId);
  } catch {
    throw new TypeError('presence: a user id has no half of a surrogate pair');
  }
  const bytes = bytesOf(userId);
  if (bytes < 1 || bytes > 128) throw new TypeError('presence: a user id has 1 to 128 bytes');
  if (/[\u0000-\u001f\u007f-\u009f]/.test(userId)) {
    throw new TypeError('presence: a user id has no control characters');
  }
  return segment;
}

/** The WebSocket's address: ws for http, wss for https, the path of apiUrl kept; of the page's own
 *  origin when there is no apiUrl. */
function socketUrl(apiUrl, userId, location) {
  const segment = encodeUserId(userId);
  if (/^\.\.?$/.test(segment)) throw new TypeError('presence: URLs cannot hold the ids . and ..');
  let url;
  try {
    url = apiUrl ? new URL(apiUrl, location?.href) : new URL(location.origin);
  } catch {
    throw new TypeError(apiUrl ? `presence: apiUrl is not a URL: ${apiUrl}`
      : 'presence: apiUrl is needed, as there is no page with an origin');
  }
  if (!/^(http|ws)s?:$/.test(url.protocol)) {
    throw new TypeError(`presence: apiUrl begins with http or https: ${apiUrl}`);
  }
  url.protocol = url.protocol.replace('http', 'ws');
  url.hash = '';
  url.pathname = `${url.pathname.replace(/\/+$/, '')}/ws/presence/${segment}`;
  return url.href;
}

/** Milliseconds out of `retry_after=MS`, or null. */
function retryAfter(reason) {
  const found = /(?:^|[\s;,])retry_after=(\d{1,15})(?![\d.])/.exec(reason);
  return found ? Math.min(Number(found[1]), RETRY_MAX) : null;
}

/** A close that this side noticed or decided. */
const broken = (reason) => ({ code: 1006, reason, wasClean: false });

/** Checks options and returns them: those that are absent, undefined or null are left out. */
function checkOptions(options) {
  const checked = {};
  for (const name of Object.keys(options)) {
    const value = options[name];
    if (!Object.hasOwn(DEFAULTS, name)) throw new TypeError(`presence: no option ${name}`);
    if (value === undefined || value === null) continue;
    const number = typeof DEFAULTS[name] === 'number' || name === 'heartbeatInterval';
    if (number && !(typeof value === 'number' && value >= 0)) {
      throw new TypeError(`presence: ${name} is a number from 0 up`);
    }
    if ((name === 'getToken' || name === 'random') && typeof value !== 'function') {
      throw new TypeError(`presence: ${name} is a function`);
    }
    checked[name] = name === 'clock' ? { ...DEFAULTS.clock, ...value } : value;
  }
  return checked;
}

/** The presence of one user in one page; see presence.d.ts. */
export class PresenceService extends EventTarget {
  #options = { ...DEFAULTS };
  /** @type {Snapshot['state']} */ #state = 'idle';
  /** @type {string | null} */ #userId = null;
  #url = '';
  #attempt = 0; /* which try after the last hello is waited for or under way */
  #run = 0; /* counts starts and stops, so that old work can tell that it is old */
  /** The try or connection that counts.
   *  @type {{ socket: any, token: string, extra: boolean } | null} */
  #try = null;
  #lastTry = -Infinity; /* when it began */
  #notBefore = -Infinity; /* the server asked to stay away until then */
  #heard = -Infinity; /* when the last message came */
  #heartbeat = 25000; /* ms between two probes while connected */
  /** @type {string | null} */
  #refused = null; /* the token of the last close with 4401: never sent again */
  /** @type {Close | null} */ #lastClose = null;
  /** @type {number | null} */ #lastChange = null;
  #timers = new Map(); /* name: { id, due } */
  /** @type {[any, string[]][]} */ #page = []; /* where this listens, and to what */
  /** @type {Snapshot['status']} */
  #chosen = 'online'; /* the status that the application wants */
  #idle = false; /* the page has been hidden for long, or is frozen */
  #sent = 'online'; /* the status that the server has of this connection */
  #sentAt = -Infinity;
  /** @type {object | null} */ #manual = null; /* the manual status that is still to be sent */
  /** Who is watched: by id what is known, who wants to know, whether the server follows this user
   *  for this connection (or was asked to), why it will not, who was told so, and how many may
   *  be asked for in one message with this one.
   *  @type {Map<string, { user: User | null, watches: Set<any>, followed: boolean,
   *    error: any, told: Map<any, string>, most: number }>} */
  #watched = new Map();
  #planned = false; /* #follow() is about to run */
  #paced = -Infinity; /* when WATCH_PAUSE is over for all that was sent */
  /** @type {Set<string> | null} */ #asked = null; /* those of the watch that is not yet answered */
  /** @type {Snapshot | null} */ #snapshot = null;

  constructor(options = {}) {
    super();
    this.configure(options);
    this.#change();
  }

  // ---- What an application calls: presence.d.ts says all about it -----------------------------

  /** Changes options. */
  configure(options) {
    Object.assign(this.#options, checkOptions(options));
  }

  /** Makes the user online, and keeps her so. */
  startPresence(userId) {
    const url = socketUrl(this.#options.apiUrl, userId, this.#window.location);
    if (typeof this.#WebSocket !== 'function') {
      throw new TypeError('presence: no WebSocket here; there is an option for it');
    }
    if (this.#userId === userId && this.#url === url) {
      this.#wake('startPresence');
      return;
    }
    if (!this.#stop('another user')) return; // a listener has started or stopped something else
    ++this.#run;
    this.#userId = userId;
    this.#url = url;
    for (const entry of this.#watched.values()) entry.user = null; // it was another's to see
    this.#listen();
    this.#log(`start ${JSON.stringify(userId)} at ${url.split('?')[0]}`);
    this.#connect();
  }

  /** Takes the user offline. */
  stopPresence() {
    this.#stop('stopPresence');
  }

  /** Says what the user does. @param {any} status @param {any} options */
  setStatus(status, { manual = false, message, expiresIn } = {}) {
    const known = STATUSES.includes(status);
    if (manual && (known || status === 'invisible' || status === null)) {
      this.#manual = { type: 'status', manual, status, message, expires_in: expiresIn };
      this.#sendManual();
      return;
    }
    if (!known || manual) {
      throw new TypeError(`presence: a status is one of ${STATUSES.join(', ')}`);
    }
    if ((message ?? expiresIn ?? null) !== null) {
      throw new TypeError('presence: only a manual status has a message and an end');
    }
    this.#chosen = status;
    this.#change();
    this.#sendStatus();
  }

  /** Whether the server counts this connection. */
  isConnected() {
    return this.#state === 'connected';
  }

  /** Whose presence it is, or null. */
  getCurrentUserId() {
    return this.#userId;
  }

  /** Everything of this moment. */
  getSnapshot() {
    return /** @type {Snapshot} */ (this.#snapshot);
  }

  /** One of the states above. */
  get state() {
    return this.#state;
  }

  /** How the last connection ended, or null. */
  get lastClose() {
    return this.#lastClose;
  }

  /** Follows users; gives what ends that. */
  watch(ids, callback, onError) {
    const all = new Set(typeof ids === 'string' ? [ids] : [...ids]);
    for (const id of all) encodeUserId(id);
    if (typeof callback !== 'function') throw new TypeError('presence: watch needs a callback');
    const watch = { callback, onError, ended: false };
    for (const id of all) {
      const entry = this.#watched.get(id) ?? {
        user: null, watches: new Set(), followed: false, error: null, told: new Map(),
        most: Infinity,
      };
      this.#watched.set(id, entry);
      entry.watches.add(watch);
      if (entry.user) this.#tell([watch], 'callback', entry.user);
      if (entry.error) this.#deny(entry, watch);
    }
    this.#plan();
    return () => {
      watch.ended = true;
      for (const id of all) this.#watched.get(id)?.watches.delete(watch);
      this.#plan();
    };
  }

  /** What is known of a user who is watched, or null. */
  getUser(id) {
    const entry = this.#watched.get(id);
    return entry?.watches.size ? entry.user : null;
  }

  /** Listens to an event; gives what ends that. */
  on(type, listener) {
    const heard = (event) => listener(event.detail);
    this.addEventListener(type, heard);
    return () => this.removeEventListener(type, heard);
  }

  // ---- The state machine ----------------------------------------------------------------------

  /** Begins a try: asks for a token when there is somebody to ask, then opens the socket. All of
   *  it, up to the hello, has connectTimeout. `extra`: the page woke up, so it does not count. */
  #connect(extra = false) {
    const attempt = { socket: null, token: '', extra };
    this.#disarm('retry');
    this.#try = attempt;
    this.#lastTry = this.#options.clock.now();
    this.#arm('deadline', this.#options.connectTimeout, () => {
      this.#lost(attempt, broken('no hello in time'));
    });
    if (this.#attempt === 0) this.#change('connecting');
    if (this.#try === attempt) this.#askToken(attempt);
  }

  /** Opens the socket of a try once the application gave a token, or right away. */
  async #askToken(attempt) {
    const { getToken } = this.#options;
    if (!getToken) {
      this.#open(attempt);
      return;
    }
    try {
      attempt.token = (await getToken(this.#userId)) || '';
    } catch (error) {
      this.#failed(attempt, 'token_failed', `getToken: ${error?.message ?? error}`);
      return;
    }
    if (this.#try !== attempt) return;
    if (attempt.token === this.#refused) {
      this.#failed(attempt, 'token_unchanged', 'getToken gave the token that was refused');
    } else {
      this.#open(attempt);
    }
  }

  /** Makes the socket of a try and listens to it for as long as it is the one that counts. */
  #open(attempt) {
    const protocols = ['presence.v1', ...(attempt.token ? [`token.${attempt.token}`] : [])];
    let socket;
    this.#log('opening');
    try {
      socket = new this.#WebSocket(this.#url, protocols);
    } catch (error) {
      // what some engines say quotes the protocol, which is the token: the name must do
      this.#failed(attempt, 'socket_failed', `new WebSocket: ${error?.name ?? 'failed'}`);
      return;
    }
    attempt.socket = socket;
    socket.onopen = () => this.#log('open, waiting for hello');
    socket.onmessage = ({ data }) => this.#receive(attempt, data);
    socket.onclose = ({ code, reason, wasClean }) => {
      this.#lost(attempt, { code, reason, wasClean });
    };
    socket.onerror = () => this.#log('socket error');
  }

  /** One message. Types that are not known are ignored: newer servers have more of them. */
  #receive(attempt, data) {
    if (this.#try !== attempt) return;
    this.#heard = this.#options.clock.now();
    this.#disarm('probe');
    let message = null;
    try {
      if (data !== 'pong') message = JSON.parse(data);
    } catch {
      this.#log('a message that is not JSON');
    }
    const { type, users } = message ?? {};
    if (type === 'hello') this.#hello(message);
    if (type === 'presence') this.#know(users);
    if (type === 'snapshot') { // which comes in parts when it is long: the last one ends it
      const whole = message.more !== true;
      if (whole) this.#asked = null;
      this.#know(users);
      if (whole) this.#follow();
    }
    if (type === 'error') {
      const [code, text] = [String(message.code), String(message.message)];
      if (!this.#refuse(code, text)) this.#error(code, text, false);
    }
  }

  /** The server counts this connection: the user is online. The backoff begins anew, and so does
   *  following. */
  #hello(message) {
    if (this.#state === 'connected') return;
    const seconds = Number(message.heartbeat_seconds);
    const asked = seconds > 0 ? Math.max(seconds * 1000, 1000) : 25000;
    this.#heartbeat = this.#options.heartbeatInterval ?? asked;
    this.#disarm('deadline');
    this.#attempt = 0;
    this.#sent = 'online';
    this.#sentAt = -Infinity;
    this.#beat();
    const run = this.#run;
    this.#change('connected');
    if (this.#run !== run) return;
    this.#sendStatus();
    this.#sendManual();
    this.#follow();
    const { connection_id: connectionId, server } = message;
    this.#emit('connected', { userId: this.#userId, connectionId, server });
  }

  /** A try that came to nothing on this side. */
  #failed(attempt, code, text) {
    if (this.#try !== attempt) return;
    this.#error(code, text, false);
    this.#lost(attempt, broken(code));
  }

  /** The end of a try or a connection, whoever noticed it. `now`: try again at once. */
  #lost(attempt, close, now = false) {
    if (this.#try !== attempt) return;
    const { code, reason } = close;
    const { maxReconnectAttempts: most, giveUp, reconnectDelay, clock } = this.#options;
    const was = this.#state;
    this.#log(`lost: ${code} ${reason}`);
    if (code === CLOSE_FORBIDDEN) {
      this.#end(close, reason || 'forbidden', 'the server does not want this user here');
      return;
    }
    if (!attempt.extra || this.#attempt === 0) this.#attempt++;
    if (giveUp && this.#attempt > most) {
      this.#end(close, 'gave_up', `no connection after ${most} more attempts`);
      return;
    }
    this.#drop(CLOSE_AWAY);
    this.#lastClose = close;
    if (code === CLOSE_TOKEN) {
      this.#refused = attempt.token;
      // a token that ran out is replaced at once; one that was never any good is not
      now = was === 'connected' && clock.now() - this.#lastTry > reconnectDelay;
    }
    const run = this.#run;
    const told = this.#later(close, now);
    const going = () => this.#run === run; // no listener has started or stopped anything
    if (going() && was === 'connected') {
      this.#emit('disconnected', { code, reason, willReconnect: true });
    }
    if (going() && code >= 4400 && code !== 4408) {
      this.#error(reason || `closed_${code}`, `the server closed with ${code}`, false);
    }
    if (going() && told) this.#emit(...told);
  }

  /** Decides when the next try is, and goes to reconnecting or suspended. Returns the event that
   *  tells it, if there is one. */
  #later({ code, reason }, now) {
    const { reconnectDelay, maxReconnectDelay, probeDelay, clock } = this.#options;
    const maxAttempts = this.#options.maxReconnectAttempts;
    const first = this.#state !== 'suspended';
    const slow = this.#attempt > maxAttempts;
    const doubled = reconnectDelay * 2 ** Math.min(this.#attempt - 1, 30);
    const asked = code === CLOSE_RESTART ? retryAfter(reason) : null;
    let delay = this.#jitter(slow ? probeDelay : Math.min(doubled, maxReconnectDelay));
    if (now) delay = 0;
    if (asked !== null) {
      delay = Math.max(asked, SHORTEST);
      this.#notBefore = clock.now() + asked;
    }
    this.#log(`next try in ${Math.round(delay)} ms`);
    this.#arm('retry', delay, () => this.#connect());
    this.#change(slow ? 'suspended' : 'reconnecting');
    if (!slow) return ['reconnecting', { attempt: this.#attempt, delay, maxAttempts }];
    return first ? ['suspended', { delay }] : null;
  }

  /** Ends what runs, if anything; false when a listener has begun something new meanwhile. */
  #stop(reason) {
    if (this.#userId === null) return true;
    this.#disarm('manual'); // the last one wanted is sent, not left behind
    this.#sendManual();
    return this.#end({ code: CLOSE_STOP, reason, wasClean: true });
  }

  /** Everything ends, until startPresence(). With an error when the application did not ask for
   *  it. False when a listener has begun something new meanwhile. */
  #end(close, error = '', message = '') {
    const run = ++this.#run;
    this.#drop(CLOSE_STOP, close.reason);
    for (const name of [...this.#timers.keys()]) this.#disarm(name);
    for (const [target, names] of this.#page) {
      for (const name of names) target.removeEventListener(name, this.#onPage);
    }
    this.#page = [];
    this.#userId = null;
    this.#url = '';
    this.#attempt = 0;
    this.#refused = null;
    this.#notBefore = -Infinity;
    this.#idle = false;
    this.#chosen = 'online';
    this.#manual = null;
    this.#lastClose = close;
    this.#change('stopped');
    const { code, reason } = close;
    if (this.#run === run) this.#emit('disconnected', { code, reason, willReconnect: false });
    if (this.#run === run && error) this.#error(error, message, true);
    return this.#run === run;
  }

  /** Lets go of the socket: closed if it is not, and not listened to any more. */
  #drop(code, reason = '') {
    const socket = this.#try?.socket;
    this.#try = null;
    for (const name of CONNECTION_TIMERS) this.#disarm(name);
    this.#unfollow();
    if (!socket) return;
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {}; // closing one that is still connecting is an error to some
    try {
      if (socket.readyState < 2) socket.close(code, reason);
    } catch (error) {
      this.#log(`close: ${error?.name}`);
    }
  }

  // ---- Following others -----------------------------------------------------------------------

  /** Has #follow() run once, behind all that is watched now. */
  #plan() {
    if (!this.#planned) queueMicrotask(() => this.#follow());
    this.#planned = true;
  }

  /** Tells the server whom not to follow any more, then whom to follow: as many as a message takes,
   *  the next ones when that is answered and the pace allows it. */
  #follow() {
    const connected = this.#state === 'connected';
    this.#planned = false;
    if (connected && (this.#asked || this.#timers.has('watch'))) return;
    /** @type {string[]} */ const gone = [];
    /** @type {string[]} */ const wanted = [];
    let most = 0;
    for (const [id, { watches, followed, error, most: own }] of this.#watched) {
      if (watches.size) {
        if (followed || error) continue;
        wanted.push(id);
        most = Math.max(most, own);
      } else if (followed) gone.push(id);
      else this.#watched.delete(id);
    }
    if (!connected || gone.length + wanted.length === 0) return;
    const now = this.#options.clock.now();
    const paced = Math.max(this.#paced, now) + WATCH_PAUSE;
    if (paced > now + WATCH_BURST) {
      this.#arm('watch', paced - now - WATCH_BURST, () => this.#follow());
      return;
    }
    this.#paced = paced;
    const leaving = gone.length > 0;
    const users = new Set();
    let bytes = 0;
    for (const id of leaving ? gone : wanted) {
      const entry = /** @type {any} */ (this.#watched.get(id));
      if (!leaving && entry.most !== most) continue;
      bytes += bytesOf(JSON.stringify(id)) + 1;
      if (bytes > WATCH_BYTES || (!leaving && users.size === most)) break;
      users.add(id);
      entry.followed = true;
      if (leaving) this.#watched.delete(id);
    }
    this.#send(JSON.stringify({ type: leaving ? 'unwatch' : 'watch', users: [...users] }));
    if (!leaving) {
      this.#asked = users;
      return;
    }
    for (const entry of this.#watched.values()) { // there is room again
      if (entry.error?.code !== 'too_many_watched') continue;
      entry.error = null;
      entry.most = users.size;
    }
    this.#plan();
  }

  /** Takes what the server says of users for the truth. */
  #know(users) {
    for (const user of Array.isArray(users) ? users : []) {
      const entry = this.#watched.get(user?.user_id);
      if (entry?.followed) this.#set(entry, user, false);
    }
  }

  /** Nobody is followed any more: the connection is gone, and what is known is stale. */
  #unfollow() {
    this.#asked = null;
    for (const entry of this.#watched.values()) {
      Object.assign(entry, { followed: false, error: null, told: new Map(), most: Infinity });
      if (entry.user && !entry.user.stale) this.#set(entry, entry.user, true);
    }
  }

  /** The answer to a watch was an error. The server takes all of a message or nothing, so half as
   *  many are asked for at a time until it is known which one it refuses; when it follows as many
   *  as it will, that is true of all who wait. Returns false when the error is to be told. */
  #refuse(code, message) {
    const asked = this.#asked;
    if (!asked || !WATCH_ERRORS.includes(code)) return false;
    this.#asked = null;
    for (const [id, entry] of this.#watched) {
      if (asked.has(id)) entry.followed = false;
      else if (code !== 'too_many_watched' || entry.followed || entry.error) continue;
      entry.most = Math.min(entry.most, Math.ceil(asked.size / 2));
      if (asked.size > 1) continue;
      entry.user = null;
      entry.error = { code, message, userId: id };
      for (const watch of entry.watches) this.#deny(entry, watch);
    }
    this.#follow();
    return asked.size > 1;
  }

  /** Tells a watch why a user is not followed, once. */
  #deny({ error, told }, watch) {
    if (told.get(watch) !== error.code) this.#tell([watch], 'onError', error);
    told.set(watch, error.code);
  }

  /** Sets what is known of a user, and tells those who watch. */
  #set(entry, user, stale) {
    entry.user = Object.freeze({ ...user, stale });
    this.#tell(entry.watches, 'callback', entry.user);
  }

  /** Calls watches back, behind what is under way. */
  #tell(watches, name, detail) {
    for (const watch of watches) {
      queueMicrotask(() => {
        if (!watch.ended) watch[name]?.(detail);
      });
    }
  }

  // ---- Signs of life --------------------------------------------------------------------------

  /** Probes the line at every heartbeat; a timer that comes late is no harm. */
  #beat() {
    if (this.#heartbeat === 0) return;
    this.#arm('heartbeat', this.#heartbeat, () => {
      this.#beat();
      this.#probe();
    });
  }

  /** Asks the server for a sign of life. The socket is replaced when there is none in time; but a
   *  timer that was late proves nothing (the page was frozen, the machine slept), so the answer
   *  gets its time once more then. */
  #probe(again = false) {
    const { clock, probeTimeout } = this.#options;
    const attempt = this.#try;
    if (this.#timers.has('probe')) return;
    const due = clock.now() + probeTimeout;
    this.#send('ping');
    this.#arm('probe', probeTimeout, () => {
      if (!again && clock.now() > due + probeTimeout) this.#probe(true);
      else this.#lost(attempt, broken('no answer to a probe'), true);
    });
  }

  /** Something has changed for the better: the line is probed, or tried at once, but not within
   *  reconnectDelay of the last try and not before a time that the server asked for. */
  #wake(why) {
    const { clock, reconnectDelay } = this.#options;
    const now = clock.now();
    if (this.#state === 'connected') {
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

  /** Listens to the page, where there is one. */
  #listen() {
    const add = (target, names) => {
      if (typeof target?.addEventListener !== 'function') return;
      for (const name of names) target.addEventListener(name, this.#onPage);
      this.#page.push([target, names]);
    };
    add(this.#window, WINDOW_EVENTS);
    add(this.#document, DOCUMENT_EVENTS);
    if (this.#document?.visibilityState === 'hidden') this.#hidden();
  }

  /** What happens to the page. navigator.onLine is never asked: it is often wrong. */
  #onPage = (event) => {
    const hidden = this.#document?.visibilityState === 'hidden';
    this.#log(`page: ${event.type}`);
    switch (event.type) {
    case 'offline': // perhaps: the probe will tell
      if (this.#state === 'connected') this.#probe();
      break;
    case 'visibilitychange':
      if (hidden) this.#hidden();
      else this.#visible('visible');
      break;
    case 'pagehide':
      // A page that ends is closed with 1001 by the browser itself. One that is kept for the
      // back button must not keep its socket: nobody would hear the server any more.
      if (event.persisted && this.#try) {
        this.#lost(this.#try, { code: 1001, reason: 'pagehide', wasClean: true });
      }
      break;
    case 'freeze': // no timer will run
      this.#away();
      break;
    case 'online':
      this.#wake('online');
      break;
    default: // pageshow, resume
      if (hidden) this.#wake(event.type);
      else this.#visible(event.type);
    }
  };

  /** Nobody sees the page: away after a while. */
  #hidden() {
    this.#arm('away', this.#options.awayAfter, () => this.#away());
  }

  /** Nobody has seen the page for long, or nothing of it will run from now on. */
  #away() {
    if (this.#options.awayAfter === Infinity) return;
    this.#disarm('away');
    this.#idle = true;
    this.#change();
    this.#sendStatus(true);
  }

  /** Somebody sees the page. */
  #visible(why) {
    this.#disarm('away');
    this.#idle = false;
    this.#change();
    this.#sendStatus();
    this.#wake(why);
  }

  // ---- Small things ---------------------------------------------------------------------------

  /** The status that the server should have: a hidden page makes online away, nothing else.
   *  @returns {Snapshot['status']} */
  #status() {
    return this.#idle && this.#chosen === 'online' ? 'away' : this.#chosen;
  }

  /** Tells the server the status when it has another one, not too often unless it is `urgent`. */
  #sendStatus(urgent = false) {
    const status = this.#status();
    const now = this.#options.clock.now();
    const wait = this.#sentAt + STATUS_PAUSE - now;
    if (this.#state !== 'connected' || status === this.#sent) return;
    if (wait > 0 && !urgent) {
      this.#arm('status', wait, () => this.#sendStatus());
      return;
    }
    this.#sent = status;
    this.#sentAt = now;
    this.#send(JSON.stringify({ type: 'status', status }));
  }

  /** Sends the manual status that is wanted, once; not too often. */
  #sendManual() {
    if (this.#state !== 'connected' || !this.#manual || this.#timers.has('manual')) return;
    this.#send(JSON.stringify(this.#manual));
    this.#manual = null;
    this.#arm('manual', STATUS_PAUSE, () => this.#sendManual());
  }

  /** Sends text, if the socket still takes it; the probe or the close tells when it does not. */
  #send(text) {
    this.#log(`send ${text}`);
    try {
      this.#try?.socket.send(text);
    } catch (error) {
      this.#log(`send: ${error?.name}`);
    }
  }

  /** What the page has, unless the options say otherwise. */
  get #window() { return this.#options.window ?? globalThis; }
  get #document() { return this.#options.document ?? globalThis.document; }
  get #WebSocket() { return this.#options.WebSocket ?? globalThis.WebSocket; }

  /** A delay with up to a tenth added, so that clients do not come back all at once. */
  #jitter(delay) {
    const random = Number(this.#options.random());
    const added = delay * JITTER * Math.min(Math.max(random || 0, 0), 1);
    return Math.max(delay + added, SHORTEST);
  }

  /** Runs `work` in `ms`; there is one timer of a name. */
  #arm(name, ms, work) {
    const { clock } = this.#options;
    const wait = Math.min(ms, TIMER_MAX);
    this.#disarm(name);
    const id = clock.setTimeout(() => {
      this.#timers.delete(name);
      work();
    }, wait);
    this.#timers.set(name, { id, due: clock.now() + wait });
  }

  /** Takes a timer back, if there is one. */
  #disarm(name) {
    const timer = this.#timers.get(name);
    if (timer) this.#options.clock.clearTimeout(timer.id);
    this.#timers.delete(name);
  }

  /** Goes to a state (or stays). When anything differs from the last snapshot, there is a new one
   *  and an event. */
  #change(state = this.#state) {
    const old = this.#snapshot;
    if (state !== this.#state) {
      this.#log(`${this.#state} -> ${state}`);
      this.#lastChange = this.#options.clock.time();
      this.#state = state;
    }
    /** @type {Snapshot} */
    const next = {
      state,
      connected: state === 'connected',
      userId: this.#userId,
      attempt: Math.min(this.#attempt, this.#options.maxReconnectAttempts),
      status: this.#status(),
      lastChange: this.#lastChange,
    };
    if (old && Object.keys(next).every((key) => next[key] === old[key])) return;
    this.#snapshot = Object.freeze(next);
    if (old) this.#emit('change', this.#snapshot);
  }

  /** Tells the application of an error. */
  #error(code, message, final) {
    this.#log(`error ${code}: ${message}`);
    this.#emit('error', { code, message, final });
  }

  /** Tells the application of something. */
  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /** One step for the console; a token is in none of them. */
  #log(text) {
    const { debug } = this.#options;
    if (typeof debug === 'function') debug(text);
    else if (debug) console.log(`[presence] ${text}`);
  }
}

/** The instance that most pages need. */
export const presenceService = new PresenceService();
