'use strict';
// A fake engine: as much of Redis as a node uses, with the two scripts' effects built in, and with
// faults on order. It trims a stream exactly where a real engine may leave some elements more.

const crypto = require('node:crypto');
const net = require('node:net');
const { Parser, RespError, Status, encodeReply, NO_ARRAY } = require('./resp');
const { cleanup } = require('./server');

const OK = new Status('OK');
const error = (text) => new RespError(text);
const NO_NUMBER = error('ERR value is not an integer or out of range');
const WRONG_TYPE = error('WRONGTYPE Operation against a key holding the wrong kind of value');
const BAD_ID = error('ERR Invalid stream ID specified as stream command argument');
const REFUSALS = {
  LOADING: error('LOADING Redis is loading the dataset in memory'),
  READONLY: error("READONLY You can't write against a read only replica."),
  OOM: error("OOM command not allowed when used memory > 'maxmemory'."),
};
const FREE = 'HELLO AUTH INFO CONFIG CLIENT SCRIPT COMMAND'.split(' '); // also while it is loading
const SHRINK = 'DEL EXPIRE FLUSHALL XTRIM XDEL'.split(' '); // writes that free memory

const LAST_SEQUENCE = (1n << 64n) - 1n;
const makeId = (ms, sequence) => (BigInt(ms) << 64n) | BigInt(sequence);
const idText = (id) => `${id >> 64n}-${id & LAST_SEQUENCE}`;
const sha1 = (text) => crypto.createHash('sha1').update(text, 'latin1').digest('hex');
const fixed = (n) => String(Math.round(n));

/** An id as a command has it; one without a sequence gets this one. */
function readId(text, sequence = 0n) {
  const [, ms, , given] = /^(\d{1,20})(-(\d{1,20}))?$/.exec(text) || [];
  if (ms === undefined) throw BAD_ID;
  return makeId(ms, given ?? sequence);
}

function readNumber(text) {
  if (!/^-?\d{1,15}$/.test(text)) throw NO_NUMBER;
  return Number(text);
}

class Stream {
  constructor() {
    this.elements = []; // { id, fields } in order
    this.last = 0n;
    this.deleted = 0n; // the greatest one that was removed but by trimming
    this.added = 0;
  }

  add(id, fields) {
    this.elements.push({ id, fields });
    this.last = id;
    this.added++;
  }

  /** Where the first element with this id or a greater one is. */
  place(id) {
    let [low, high] = [0, this.elements.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.elements[middle].id < id) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  trim(length) {
    const over = Math.max(0, this.elements.length - length);
    this.elements.splice(0, over);
    return over;
  }
}

const element = ({ id, fields }) => [idText(id), fields];

/** What a row of commands does; each gets its words behind the name, and the client's connection. */
const COMMANDS = {
  PING: { least: 0, run: (e, [text]) => text ?? new Status('PONG') },
  HELLO: {
    least: 0,
    run(e, words, client) {
      const [version = client.version, ...rest] = words;
      if (!/^[23]$/.test(version)) throw error('NOPROTO unsupported protocol version');
      for (let i = 0; i < rest.length; i++) {
        const option = rest[i].toUpperCase();
        if (option === 'AUTH' && i + 2 < rest.length) e.authenticate(client, rest[i + 1], rest[i + 2]);
        else if (option !== 'SETNAME' || i + 1 >= rest.length) throw error(`ERR Syntax error in HELLO option '${rest[i]}'`);
        i += option === 'AUTH' ? 2 : 1;
      }
      if (!client.known) throw error('NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time');
      client.version = Number(version);
      return new Map(Object.entries({ server: 'redis', version: e.version, proto: client.version, id: client.id, mode: 'standalone', role: 'master', modules: [] }));
    },
  },
  AUTH: {
    least: 1,
    run(e, words, client) {
      e.authenticate(client, words.length > 1 ? words[0] : 'default', words.at(-1));
      return OK;
    },
  },
  CLIENT: {
    least: 1,
    run(e, [what, name], client) {
      if (what.toUpperCase() === 'SETNAME') client.name = name;
      return what.toUpperCase() === 'GETNAME' ? client.name ?? null : OK;
    },
  },
  SELECT: { least: 1, run: (e, [db]) => (readNumber(db) < 16 && readNumber(db) >= 0 ? OK : error('ERR DB index is out of range')) },
  INFO: { least: 0, run: (e) => `# Server\r\nredis_version:${e.version}\r\nredis_mode:standalone\r\nrun_id:${e.runId}\r\ntcp_port:${e.port}\r\n` },
  CONFIG: {
    least: 2,
    run(e, [what, name]) {
      if (what.toUpperCase() !== 'GET') throw error(`ERR the fake has no CONFIG ${what}`);
      return new Map(name === 'maxmemory-policy' ? [[name, e.policy]] : []);
    },
  },
  TIME: {
    least: 0,
    run(e) {
      const now = e.now();
      return [String(Math.floor(now / 1000)), String((now % 1000) * 1000)];
    },
  },
  SCRIPT: {
    least: 1,
    run(e, [what, ...texts]) {
      switch (what.toUpperCase()) {
        case 'LOAD':
          e.scripts.set(sha1(texts[0]), scriptOf(texts[0]));
          return sha1(texts[0]);
        case 'EXISTS': return texts.map((one) => Number(e.scripts.has(one.toLowerCase())));
        case 'FLUSH': e.scripts.clear(); return OK;
        default: throw error(`ERR unknown subcommand '${what}'. Try SCRIPT HELP.`);
      }
    },
  },
  EVALSHA: {
    least: 2,
    run(e, [sha, count, ...words]) {
      const script = e.scripts.get(sha.toLowerCase());
      if (!script) throw error('NOSCRIPT No matching script. Please use EVAL.');
      return script(e, words.slice(0, count), words.slice(count));
    },
  },
  EVAL: {
    least: 2,
    run(e, [text, ...rest]) {
      e.scripts.set(sha1(text), scriptOf(text));
      return COMMANDS.EVALSHA.run(e, [sha1(text), ...rest]);
    },
  },
  HMGET: {
    least: 2,
    run(e, [key, ...fields]) {
      const hash = e.value(key, Map);
      return fields.map((one) => hash?.get(one) ?? null);
    },
  },
  HGET: { least: 2, most: 2, run: (e, [key, field]) => e.value(key, Map)?.get(field) ?? null },
  HSET: {
    least: 3,
    writes: true,
    run(e, [key, ...pairs]) {
      if (pairs.length % 2) throw error("ERR wrong number of arguments for 'hset' command");
      const hash = e.value(key, Map, true);
      const before = hash.size;
      for (let i = 0; i < pairs.length; i += 2) hash.set(pairs[i], pairs[i + 1]);
      return hash.size - before;
    },
  },
  DEL: { least: 1, writes: true, run: (e, keys) => keys.filter((key) => e.remove(key)).length },
  EXPIRE: {
    least: 2,
    writes: true,
    run(e, [key, seconds]) {
      const ms = readNumber(seconds) * 1000;
      if (!e.keys.has(key)) return 0;
      if (ms <= 0) e.remove(key);
      else e.expiry.set(key, Date.now() + ms);
      return 1;
    },
  },
  TYPE: { least: 1, run: (e, [key]) => new Status(!e.live(key) ? 'none' : e.keys.get(key) instanceof Stream ? 'stream' : 'hash') },
  FLUSHALL: {
    least: 0,
    writes: true,
    run(e) {
      e.keys.clear();
      e.expiry.clear();
      e.undo = [];
      return OK;
    },
  },
  XADD: {
    least: 4,
    writes: true,
    run(e, [key, ...words]) {
      let length = null;
      if (words[0].toUpperCase() === 'MAXLEN') {
        words.shift();
        if (/^[~=]$/.test(words[0])) words.shift();
        length = readNumber(words.shift());
      }
      const [given, ...fields] = words;
      const id = given === '*' ? null : readId(given);
      if (fields.length === 0 || fields.length % 2) throw error("ERR wrong number of arguments for 'xadd' command");
      if (id === 0n) throw error('ERR The ID specified in XADD must be greater than 0-0');
      return e.add(key, id, fields, length);
    },
  },
  XLEN: { least: 1, run: (e, [key]) => e.value(key, Stream)?.elements.length ?? 0 },
  XTRIM: { least: 3, writes: true, run: (e, [key, , ...words]) => e.value(key, Stream)?.trim(readNumber(words.at(-1))) ?? 0 },
  XDEL: {
    least: 2,
    writes: true,
    run(e, [key, ...ids]) {
      const stream = e.value(key, Stream);
      return ids.map((one) => readId(one)).filter((id) => {
        const at = stream?.place(id) ?? 0;
        if (stream?.elements[at]?.id !== id) return false;
        stream.elements.splice(at, 1);
        if (id > stream.deleted) stream.deleted = id;
        return true;
      }).length;
    },
  },
  XRANGE: { least: 3, run: (e, [key, from, to, ...rest]) => e.range(key, from, to, rest, false) },
  XREVRANGE: { least: 3, run: (e, [key, to, from, ...rest]) => e.range(key, from, to, rest, true) },
  XINFO: {
    least: 2,
    run(e, [what, key]) {
      if (what.toUpperCase() !== 'STREAM') throw error(`ERR the fake has no XINFO ${what}`);
      const stream = e.value(key, Stream);
      if (!stream) throw error('ERR no such key');
      const { elements, last, deleted, added } = stream;
      const first = elements[0];
      return new Map(Object.entries({ length: elements.length, 'radix-tree-keys': 1, 'radix-tree-nodes': 2,
        'last-generated-id': idText(last), 'max-deleted-entry-id': idText(deleted), 'entries-added': added,
        'recorded-first-entry-id': idText(first?.id ?? 0n), groups: 0,
        'first-entry': first ? element(first) : null, 'last-entry': first ? element(elements.at(-1)) : null }));
    },
  },
  XREAD: {
    least: 3,
    run(e, words, client) {
      let [count, block] = [Infinity, null];
      let at = 0;
      for (; at < words.length && words[at].toUpperCase() !== 'STREAMS'; at += 2) {
        const option = words[at].toUpperCase();
        if (option === 'COUNT') count = readNumber(words[at + 1]) || Infinity;
        else if (option === 'BLOCK') block = readNumber(words[at + 1]);
        else throw error('ERR syntax error');
      }
      const rest = words.slice(at + 1);
      if (!rest.length || rest.length % 2)
        throw error("ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.");
      const keys = rest.slice(0, rest.length / 2);
      const after = keys.map((key, i) => {
        const stream = e.value(key, Stream);
        const text = rest[keys.length + i];
        return text === '$' ? stream?.last ?? 0n : readId(text);
      });
      const look = () => {
        const found = keys.flatMap((key, i) => {
          const stream = e.live(key) && e.value(key, Stream);
          const from = stream ? stream.place(after[i] + 1n) : 0;
          const elements = stream ? stream.elements.slice(from, from + count) : [];
          return elements.length ? [[key, elements.map(element)]] : [];
        });
        return found.length === 0 ? null : client.version > 2 ? new Map(found) : found;
      };
      return look() ?? (block === null ? NO_ARRAY : e.block(client, look, block));
    },
  },
};

/** The effect of a script, by the marker in its first line. */
function scriptOf(text) {
  const [, name] = /^-- (append|renew)\b/.exec(text) || [];
  if (!name) throw error('ERR the fake knows a script by its first line, -- append or -- renew');
  return { append, renew }[name];
}

function append(e, [meta, log], [epoch, incarnation, n, records, length, entry]) {
  const [is, count, last] = COMMANDS.HMGET.run(e, [meta, 'epoch', 'count', incarnation]);
  if (is !== epoch) throw error(`EPOCH ${is ?? 0}`);
  if (Number(n) <= Number(last ?? 0)) return 0;
  if (Number(n) > Number(last ?? 0) + 1) throw error(`GAP ${last ?? 0}`);
  e.mayWrite('XADD');
  const before = e.value(log, Stream)?.last;
  e.add(log, null, ['e', epoch, 'b', count, 'd', entry], Number(length));
  const hash = e.value(meta, Map);
  e.undo.push({ meta, log, incarnation, count, last, before });
  hash.set('count', fixed(Number(count) + Number(records))).set(incarnation, fixed(Number(n)));
  return 1;
}

function renew(e, [meta, log], [old, next, run]) {
  const is = COMMANDS.HGET.run(e, [meta, 'epoch']) ?? '0';
  if (is !== old) return is;
  e.mayWrite('DEL');
  e.remove(meta);
  e.remove(log);
  const hash = e.value(meta, Map, true);
  hash.set('epoch', next).set('count', '0').set('run', run);
  return next;
}

class FakeEngine {
  constructor({ user = 'default', password = null, version = '7.0.15', policy = 'noeviction' } = {}) {
    Object.assign(this, { user, password, version, policy });
    this.keys = new Map(); // each a Map (a hash) or a Stream
    this.expiry = new Map();
    this.scripts = new Map(); // by SHA-1
    this.undo = []; // of the appends of this epoch, to lose the last of them
    this.clients = new Set();
    this.made = 0;
    this.commands = []; // the names of all that came
    this.clock = 0; // ms by which its clock is ahead
    this.faults = { refuse: null, answerLate: 0, executeLate: 0, paused: false, cut: null };
    this.runId = crypto.randomBytes(20).toString('hex');
    this.listener = net.createServer({ noDelay: true }, (socket) => this.accept(socket));
  }

  async listen(port = 0) {
    await new Promise((resolve, reject) => this.listener.once('error', reject).listen(port, '127.0.0.1', resolve));
    this.port = this.listener.address().port;
  }

  close() {
    this.listener.close();
    this.cut();
  }

  now() {
    return Date.now() + this.clock;
  }

  // ---- Faults ----

  /** The last k appends never were: as after a fail-over to a replica that was behind. */
  loseTail(k) {
    for (const { meta, log, incarnation, count, last, before } of this.undo.splice(Math.max(0, this.undo.length - k)).reverse()) {
      const hash = this.keys.get(meta).set('count', count);
      if (last === null) hash.delete(incarnation);
      else hash.set(incarnation, last);
      const stream = this.keys.get(log);
      stream.elements.pop();
      stream.last = before ?? 0n;
      stream.added--;
      if (before === undefined) this.keys.delete(log);
    }
  }

  /** Replies come so many ms later, to commands that were executed at once. */
  answerLate(ms) { this.faults.answerLate = ms; }

  /** Commands are executed so many ms after they came, also when their client has gone meanwhile. */
  executeLate(ms) { this.faults.executeLate = ms; }

  /** The next reply, or the next one to this command, is sent by half; then the connection is cut. */
  cutInMiddleOfAnswer(command = null) { this.faults.cut = { command: command?.toUpperCase() ?? null }; }

  /** Refuses from now on with LOADING, READONLY or OOM; null: no more. NOSCRIPT: forgets the scripts. */
  refuse(kind) {
    if (kind === 'NOSCRIPT') this.scripts.clear();
    else this.faults.refuse = kind;
  }

  /** Neither reads nor answers, as if stopped by a signal; connections are taken by the kernel. */
  pause() {
    this.faults.paused = true;
    for (const client of this.clients) client.socket.pause();
  }

  resume() {
    this.faults.paused = false;
    for (const client of this.clients) {
      client.socket.resume();
      this.work(client);
    }
  }

  /** Ends all connections. */
  cut() {
    for (const { socket } of this.clients) socket.destroy();
  }

  /** As if it had been started again with what it had, or by a replica in its place. */
  newRun() {
    this.runId = crypto.randomBytes(20).toString('hex');
    this.scripts.clear();
    this.cut();
  }

  /** Leaves only so many elements of a stream, of any name that ends in :log. */
  trim(length) {
    for (const [key, value] of this.keys) if (key.endsWith(':log')) value.trim(length);
  }

  // ---- Keys ----

  live(key) {
    if (this.expiry.get(key) <= Date.now()) this.remove(key);
    return this.keys.has(key);
  }

  /** The value of this kind under the key, made if asked; undefined when there is none. */
  value(key, kind, make = false) {
    if (!this.live(key) && make) this.keys.set(key, new kind());
    const value = this.keys.get(key);
    if (value && !(value instanceof kind)) throw WRONG_TYPE;
    return value;
  }

  remove(key) {
    this.expiry.delete(key);
    if (this.keys.get(key) instanceof Stream) this.undo = [];
    return this.keys.delete(key);
  }

  add(key, given, fields, length) {
    const had = this.value(key, Stream);
    const { last } = had ?? { last: 0n };
    const now = makeId(this.now(), 0n);
    const id = given ?? (now > last ? now : last + 1n);
    if (id <= last) throw error('ERR The ID specified in XADD is equal or smaller than the target stream top item');
    const stream = this.value(key, Stream, true);
    stream.add(id, fields);
    if (length !== null) stream.trim(length);
    return idText(id);
  }

  range(key, fromText, toText, rest, reverse) {
    const bound = (text, whole) => {
      if (text === '-') return 0n;
      if (text === '+') return (1n << 128n) - 1n;
      const open = text[0] === '(';
      return readId(open ? text.slice(1) : text, whole) + (open ? (whole ? -1n : 1n) : 0n);
    };
    const [from, to] = [bound(fromText, 0n), bound(toText, LAST_SEQUENCE)];
    const count = rest.length ? readNumber(rest[1]) : Infinity;
    const stream = this.value(key, Stream);
    if (!stream) return [];
    if (count === 0) return NO_ARRAY;
    const found = stream.elements.slice(stream.place(from), stream.place(to + 1n));
    return (reverse ? found.reverse() : found).slice(0, count).map(element);
  }

  // ---- Connections ----

  authenticate(client, user, password) {
    if (this.password === null && user !== 'default') throw error('WRONGPASS invalid username-password pair or user is disabled.');
    if (this.password !== null && (user !== this.user || password !== this.password))
      throw error('WRONGPASS invalid username-password pair or user is disabled.');
    client.known = true;
  }

  accept(socket) {
    const client = { socket, id: ++this.made, version: 2, known: this.password === null, queue: [], blocked: null, name: null };
    const parser = new Parser((words) => client.queue.push({ words, at: Date.now() }));
    this.clients.add(client);
    if (this.faults.paused) socket.pause();
    socket.on('data', (bytes) => {
      try {
        parser.take(bytes);
        this.work(client);
      } catch {
        socket.destroy(); // what came is no RESP
      }
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.clients.delete(client);
      clearTimeout(client.blocked?.timer);
    });
  }

  /** Does what a client asks, one command after the other, until one of them has to wait. */
  work(client) {
    while (client.queue.length && !client.blocked && !this.faults.paused) {
      const wait = client.queue[0].at + this.faults.executeLate - Date.now();
      if (wait > 0) {
        client.timer ??= setTimeout(() => {
          client.timer = null;
          this.work(client);
        }, wait);
        return;
      }
      const { words } = client.queue.shift();
      const reply = this.execute(client, words);
      if (reply !== undefined) this.answer(client, words[0].toUpperCase(), reply);
      this.wake();
    }
  }

  /** A reply; undefined when it comes later. */
  execute(client, [name, ...words]) {
    const command = name.toUpperCase();
    const row = COMMANDS[command];
    this.commands.push(command);
    try {
      if (!row) throw error(`ERR unknown command '${name}', with args beginning with: ${words.map((one) => `'${one}' `).join('')}`);
      if (words.length < row.least || words.length > (row.most ?? Infinity))
        throw error(`ERR wrong number of arguments for '${name.toLowerCase()}' command`);
      if (!client.known && command !== 'HELLO' && command !== 'AUTH') throw error('NOAUTH Authentication required.');
      if (this.faults.refuse === 'LOADING' && !FREE.includes(command)) throw REFUSALS.LOADING;
      if (row.writes) this.mayWrite(command);
      return row.run(this, words, client);
    } catch (problem) {
      if (!(problem instanceof RespError)) throw problem;
      return problem;
    }
  }

  mayWrite(command) {
    const { refuse } = this.faults;
    if (refuse === 'READONLY' || (refuse === 'OOM' && !SHRINK.includes(command))) throw REFUSALS[refuse];
  }

  /** Lets a client wait until `look` finds something, or for so many ms (0: for ever). */
  block(client, look, ms) {
    client.blocked = { look };
    if (ms) client.blocked.timer = setTimeout(() => this.unblock(client, NO_ARRAY), ms);
    return undefined;
  }

  wake() {
    for (const client of this.clients) {
      const found = client.blocked && !this.faults.paused && client.blocked.look();
      if (found) this.unblock(client, found);
    }
  }

  unblock(client, reply) {
    clearTimeout(client.blocked.timer);
    client.blocked = null;
    this.answer(client, 'XREAD', reply);
    setImmediate(() => this.work(client));
  }

  answer(client, command, reply) {
    const bytes = Buffer.from(encodeReply(reply, client.version), 'latin1');
    const { cut, answerLate } = this.faults;
    const half = cut && (cut.command ?? command) === command;
    if (half) this.faults.cut = null;
    const send = () => {
      if (client.socket.destroyed) return;
      if (half) client.socket.end(bytes.subarray(0, Math.ceil(bytes.length / 2)));
      else client.socket.write(bytes);
    };
    // a row of promises keeps the order when the delay changes
    if (answerLate || client.late) {
      const due = new Promise((resolve) => setTimeout(resolve, answerLate));
      client.late = (client.late ?? Promise.resolve()).then(() => due).then(send);
    } else {
      send();
    }
  }
}

/** Starts one for the test `t`. */
async function startFake(t, options = {}) {
  const engine = new FakeEngine(options);
  await engine.listen(options.port);
  cleanup(t, () => engine.close());
  return engine;
}

module.exports = { FakeEngine, startFake };
