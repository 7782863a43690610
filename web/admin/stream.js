// SPDX-License-Identifier: MIT
// The stream of changes (Server-Sent Events, WHATWG HTML 9.2), read with fetch: unlike EventSource
// that shows a refusal and the comments of a silent stream, and can stop reading for a while.

import { steady } from './api.js';

export const MAX_WAITING = 5000; // changes; with so many waiting nothing more is read
const LATE = 20000; // ms without a byte; something comes every 15 s at least
const DEAD = 40000; // the same, and then the stream is ended
const MAX_DELAY = 30000; // ms between two attempts
const MAX_EVENT = 1 << 20; // characters

export class SseParser {
  rest = '';
  retry = null;
  event = { type: 'message', data: '', id: null };

  // The events that ended with this text. Throws when one does not end.
  push(text) {
    const lines = (this.rest + text).split(/\r\n|\n|\r(?!$)/);
    this.rest = lines.pop();
    if (this.rest.length + this.event.data.length > MAX_EVENT) throw new Error('an event too long');
    return lines.map((line) => this.line(line)).filter(Boolean);
  }

  // The event that a line ends, if it does.
  line(line) {
    const { event } = this;
    if (line === '') {
      this.event = { type: 'message', data: '', id: event.id };
      return event.data && { ...event, data: event.data.slice(0, -1) };
    }
    const [, name, value] = /^\ufeff?([^:]*):? ?([^]*)$/.exec(line);
    if (name === 'event') event.type = value;
    if (name === 'data') event.data += `${value}\n`;
    if (name === 'id' && !value.includes('\0')) event.id = value;
    if (name === 'retry' && /^\d+$/.test(value)) this.retry = Number(value);
    return null;
  }
}

// Ms before attempt number 1, 2 ...; `random` is in [0, 1).
export function retryDelay(base, attempt, random) {
  return Math.round(Math.min(MAX_DELAY, base * 2 ** (attempt - 1)) * (1 + 0.1 * random));
}

// `seen` is the last change applied, `known` the last one the server has had, since `knownAt`.
export function health(stream, { seen, known, knownAt, loading, now }) {
  const behind = (text) => ({ state: 'behind', text });
  if (stream.phase !== 'open') return { state: 'broken', text: stream.problem };
  const silent = now - stream.lastByte;
  if (silent > LATE) return behind(`nothing heard for ${Math.floor(silent / 1000)} s`);
  if (loading) return behind(loading);
  const { length } = stream.queue;
  if (length && now - stream.oldest > 1000) return behind(`${length} changes wait to be shown`);
  if (known > seen && now - knownAt > 3000) return behind(`${known - seen} changes are missing`);
  return { state: 'connected', text: '' };
}

export class ChangeStream {
  phase = 'closed'; // closed, connecting, open, waiting, absent, refused
  problem = 'connecting';
  queue = []; // events to be applied, oldest first
  oldest = 0; // since when they wait
  lastByte = 0;
  nextTry = 0;
  attempt = 0;
  base = 2000; // the first wait, as the server's `retry` says
  lastId = null; // the position up to which events were applied
  abort = null; // ends the answer being read
  resume = null; // lets the reader go on

  // `fetch` takes the options of the request; `wake` is called when queue or phase changed.
  constructor({ fetch, wake, random = Math.random, now = steady }) {
    Object.assign(this, { fetch, wake, random, now });
  }

  open() { if (this.phase !== 'open' && this.phase !== 'connecting') this.run(); }

  // Ends the stream. What was not applied is asked for again by the next one.
  close(problem, phase = 'closed') {
    this.abort?.abort();
    this.queue = [];
    this.resume?.();
    Object.assign(this, { phase, problem });
    this.wake();
  }

  fail(problem) {
    this.nextTry = this.now() + retryDelay(this.base, ++this.attempt, this.random());
    this.close(problem, 'waiting');
  }

  // The oldest events, at most `max`.
  take(max) {
    const taken = this.queue.splice(0, max);
    this.lastId = taken.at(-1)?.id ?? this.lastId;
    this.oldest = this.now();
    if (this.queue.length < MAX_WAITING) this.resume?.();
    return taken;
  }

  // To be called every second: notices a dead stream, and tries again when it is time.
  tick() {
    const now = this.now();
    if (this.phase === 'waiting' && now >= this.nextTry) this.run();
    const alive = this.resume || now - this.lastByte <= DEAD;
    if (!alive && /open|connecting/.test(this.phase)) this.fail('nothing heard for too long');
  }

  async run() {
    const { signal } = this.abort = new AbortController();
    Object.assign(this, { phase: 'connecting', lastByte: this.now() });
    const headers = { Accept: 'text/event-stream',
      ...(this.lastId && { 'Last-Event-ID': this.lastId }) };
    let problem = 'the server ended the stream';
    try {
      const answer = await this.fetch({ headers, signal });
      if (signal.aborted) return;
      const { status } = answer;
      const events = /^text\/event-stream/.test(answer.headers.get('Content-Type'));
      if (answer.ok && events) await this.read(answer.body, signal);
      else if (status === 401 || status === 403) this.close('not signed in', 'refused');
      else if (status === 404) this.close('this server has no stream of changes', 'absent');
      else problem = `the server answered ${status}`;
    } catch (error) {
      problem = this.phase === 'open' ? 'the stream broke' : 'the server does not answer';
      if (!(error instanceof TypeError)) problem += `: ${error.message}`;
    }
    if (!signal.aborted) this.fail(problem);
  }

  // Reads until the end, and pauses while too much waits to be applied.
  async read(body, signal) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    const parser = new SseParser();
    Object.assign(this, { phase: 'open', problem: '', attempt: 0 });
    this.wake();
    for (;;) {
      const { done, value } = await reader.read();
      if (signal.aborted || done) return;
      this.lastByte = this.now();
      const events = parser.push(value);
      this.base = Math.min(MAX_DELAY, parser.retry ?? this.base);
      if (events.length) {
        if (!this.queue.length) this.oldest = this.now();
        this.queue.push(...events);
        this.wake();
      }
      while (this.queue.length >= MAX_WAITING) {
        await new Promise((resolve) => { this.resume = resolve; });
        this.resume = null;
        this.lastByte = this.now();
      }
    }
  }
}
