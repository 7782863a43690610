'use strict';
// RESP, the protocol of Redis and Valkey, versions 2 and 3: what goes in and out as bytes, and a
// small client. Strings are latin1 on both sides, so that any byte is one character.

const net = require('node:net');
const { slow } = require('./variant');
const { within } = require('./wait');

const CRLF = '\r\n';

/** An error reply: its first word is its kind. */
class RespError extends Error {
  get kind() {
    return this.message.split(' ')[0];
  }
}
/** A reply that is a status, such as OK. */
class Status extends String {}

/** A command as a client sends it. */
const encodeCommand = (words) =>
  Buffer.from(`*${words.length}${CRLF}${words.map((one) => `$${String(one).length}${CRLF}${one}${CRLF}`).join('')}`, 'latin1');

/** A reply: null, number, string, Status, RespError, array, or a Map, which in RESP2 is an array. */
function encodeReply(value, version = 2) {
  if (value === null) return version > 2 ? '_\r\n' : '$-1\r\n';
  if (value === NO_ARRAY) return version > 2 ? '_\r\n' : '*-1\r\n';
  if (value instanceof RespError) return `-${value.message}${CRLF}`;
  if (value instanceof Status) return `+${value}${CRLF}`;
  if (typeof value === 'number') return `:${value}${CRLF}`;
  if (typeof value === 'string') return `$${value.length}${CRLF}${value}${CRLF}`;
  const map = value instanceof Map;
  const flat = map ? [...value].flat() : value;
  const head = map && version > 2 ? `%${value.size}` : `*${flat.length}`;
  return head + CRLF + flat.map((one) => encodeReply(one, version)).join('');
}
const NO_ARRAY = Symbol('the null that RESP2 sends in place of an array');

/** Takes bytes in pieces, gives whole values. Commands are arrays of strings, so both sides use it. */
class Parser {
  constructor(found) {
    this.found = found;
    this.text = '';
    this.at = 0;
  }

  take(bytes) {
    this.text = this.text.slice(this.at) + bytes.toString('latin1');
    this.at = 0;
    for (;;) {
      const before = this.at;
      const value = this.value();
      if (value === undefined) {
        this.at = before;
        return;
      }
      this.found(value);
    }
  }

  /** One value, or undefined when it is not whole yet. */
  value() {
    const end = this.text.indexOf(CRLF, this.at);
    if (end < 0) return undefined;
    const kind = this.text[this.at];
    const rest = this.text.slice(this.at + 1, end);
    this.at = end + 2;
    switch (kind) {
      case '+': return new Status(rest);
      case '-': return new RespError(rest);
      case ':': return Number(rest);
      case '_': return null;
      case '$': return this.bytes(Number(rest));
      case '=': return this.bytes(Number(rest))?.slice(4); // after "txt:"
      case '*': return Number(rest) < 0 ? null : this.many(Number(rest));
      case '%': {
        const flat = this.many(2 * Number(rest));
        if (flat === undefined) return undefined;
        return new Map(Array.from({ length: flat.length / 2 }, (_, i) => [flat[2 * i], flat[2 * i + 1]]));
      }
      default: throw new Error(`no RESP: ${JSON.stringify(kind + rest)}`);
    }
  }

  bytes(size) {
    if (size < 0) return null;
    if (this.text.length < this.at + size + 2) return undefined;
    const value = this.text.slice(this.at, this.at + size);
    this.at += size + 2;
    return value;
  }

  many(count) {
    const all = [];
    for (let i = 0; i < count; i++) {
      const value = this.value();
      if (value === undefined) return undefined;
      all.push(value);
    }
    return all;
  }
}

/** A connection to an engine: commands go out at once, replies come in order. */
class RespClient {
  constructor({ port, host = '127.0.0.1' }) {
    this.waiting = [];
    this.socket = net.connect({ port, host, noDelay: true });
    const parser = new Parser((value) => this.waiting.shift()(value));
    this.socket.on('data', (bytes) => parser.take(bytes));
    this.socket.on('error', (error) => { this.error = error; });
    this.ended = new Promise((resolve) => this.socket.once('close', () => {
      this.over = true;
      for (const one of this.waiting.splice(0)) one(new RespError(`CLOSED ${this.error?.message ?? 'by the engine'}`));
      resolve();
    }));
  }

  /** The reply to a command, errors included. */
  reply(...words) {
    if (this.over) return Promise.resolve(new RespError('CLOSED before'));
    this.socket.write(encodeCommand(words));
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** The same within a time; an error is thrown, a status is a string. */
  async command(...words) {
    const value = await within(5000 * slow, `reply to ${words[0]}`, this.reply(...words));
    if (value instanceof RespError) throw value;
    return value instanceof Status ? String(value) : value;
  }

  close() {
    this.socket.destroy();
    return this.ended;
  }
}

module.exports = { RespClient, RespError, Status, Parser, encodeReply, NO_ARRAY };
