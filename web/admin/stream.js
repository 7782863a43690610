// The stream of changes (Server-Sent Events, WHATWG HTML 9.2), read with fetch: unlike EventSource
// that shows the status of the answer, the comments by which a silent stream is told from a dead
// one, and lets the page stop reading when it cannot keep up.

/** Changes that wait to be applied; beyond this nothing more is read. */
export const MAX_WAITING = 5000;

/** The server sends something at least every 15 s: this long without a byte is late, then dead. */
const LATE = 20000;
const DEAD = 40000;

/** Waits between attempts: doubled up to this. */
const MAX_DELAY = 30000;

/** Characters of one unfinished event; beyond it the stream is not what it should be. */
const MAX_EVENT = 1 << 20;

/** Takes the text of a stream apart, however it is cut: push() gives the events that ended. */
export class SseParser {
    /** Nothing read yet. */
    constructor() {
        this.rest = '';
        this.first = true;
        this.lastId = null;
        this.retry = null;
        this.clear();
    }

    /** An event begins. */
    clear() {
        this.type = '';
        this.data = [];
        this.size = 0;
    }

    /** More text has come. Throws when an event does not end. */
    push(text) {
        let all = this.rest + text;
        if (this.first && all) {
            this.first = false;
            if (all.startsWith('\ufeff')) all = all.slice(1);
        }
        const events = [];
        let at = 0;
        for (;;) {
            const end = lineEnd(all, at);
            if (end < 0) break;
            this.line(all.slice(at, end), events);
            at = end + (all[end] === '\r' && all[end + 1] === '\n' ? 2 : 1);
        }
        this.rest = all.slice(at);
        if (this.rest.length + this.size > MAX_EVENT) throw new Error('an event without an end');
        return events;
    }

    /** One whole line. */
    line(line, events) {
        if (line === '') {
            if (this.data.length) {
                const data = this.data.join('\n');
                events.push({ type: this.type || 'message', data, id: this.lastId });
            }
            this.clear();
            return;
        }
        const colon = line.indexOf(':');
        const name = colon < 0 ? line : line.slice(0, colon);
        const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
        if (name === 'event') this.type = value;
        if (name === 'id' && !value.includes('\0')) this.lastId = value;
        if (name === 'retry' && /^\d+$/.test(value)) this.retry = Number(value);
        if (name === 'data') {
            this.data.push(value);
            this.size += value.length;
        }
    }
}

/** Where the line that begins at `at` ends, or -1 when that is not known yet. */
function lineEnd(text, at) {
    const feed = text.indexOf('\n', at);
    const back = text.indexOf('\r', at);
    if (back < 0 || (feed >= 0 && feed < back)) return feed;
    return back + 1 < text.length ? back : -1;
}

/** How long to wait before attempt number `attempt`, counted from 1. */
export function retryDelay(base, attempt, random) {
    const delay = Math.min(MAX_DELAY, base * 2 ** (attempt - 1));
    return Math.round(delay * (1 + 0.1 * random));
}

/**
 * What to say of the connection: { state: 'connected' | 'behind' | 'broken', text }. `stream` is
 * { phase, lastByte, waiting, oldest, nextTry }; `seen` is the last change applied, `known` the
 * last one the server was heard to have had, since `knownAt`; `loading` is a text while it loads.
 */
export function health(stream, { seen, known, knownAt, loading, now }) {
    if (stream.phase === 'absent') {
        return { state: 'broken', text: 'this server has no stream of changes' };
    }
    if (stream.phase !== 'open') return { state: 'broken', text: stream.problem };
    const silent = now - stream.lastByte;
    if (silent > LATE) {
        return { state: 'behind', text: `nothing heard for ${Math.floor(silent / 1000)} s` };
    }
    if (loading) return { state: 'behind', text: loading };
    if (stream.waiting && now - stream.oldest > 1000) {
        return { state: 'behind', text: `${stream.waiting} changes wait to be shown` };
    }
    if (known > seen && now - knownAt > 3000) {
        return { state: 'behind', text: `${known - seen} changes have not arrived` };
    }
    return { state: 'connected', text: '' };
}

export class ChangeStream {
    /**
     * `wake` is called when something waits in `queue` or `phase` changed. `fetch` as the
     * browser's, with the path already known.
     */
    constructor({ fetch, wake, random = Math.random, now = Date.now }) {
        Object.assign(this, { fetch, wake, random, now });
        this.phase = 'closed'; // closed, connecting, open, waiting, absent, refused
        this.problem = 'connecting';
        this.queue = []; // events to be applied, oldest first
        this.oldest = 0; // when the oldest of them came
        this.lastByte = 0;
        this.nextTry = 0;
        this.attempt = 0;
        this.base = 2000;
        this.lastId = null;
        this.abort = null;
        this.resume = null; // lets the reader go on
    }

    /** How many changes wait to be applied. */
    get waiting() {
        return this.queue.length;
    }

    /** Connects now, unless it is. */
    open() {
        if (this.phase === 'open' || this.phase === 'connecting') return;
        this.run().catch((error) => this.fail(error.message));
    }

    /** Ends the stream; what was taken in and not applied is thrown away and asked for again. */
    close(problem = 'closed') {
        this.phase = 'closed';
        this.problem = problem;
        this.drop();
        this.wake();
    }

    /** Forgets the position: the next stream begins with a reset. */
    forget() {
        this.lastId = null;
    }

    /** Takes the oldest events out, at most `max`. */
    take(max) {
        const taken = this.queue.splice(0, max);
        const last = taken.findLast((event) => event.id !== null);
        if (last) this.lastId = last.id;
        this.oldest = this.now();
        if (this.queue.length < MAX_WAITING) this.resume?.();
        return taken;
    }

    /** To be called every second: notices a dead stream, and tries again when it is time. */
    tick() {
        const now = this.now();
        const silent = now - this.lastByte > DEAD && !this.resume;
        if (silent && (this.phase === 'open' || this.phase === 'connecting')) {
            this.fail('nothing heard for too long');
        }
        if (this.phase === 'waiting' && now >= this.nextTry) this.open();
    }

    /** Lets go of the answer being read. */
    drop() {
        this.abort?.abort();
        this.abort = null;
        this.queue = [];
        this.resume?.();
        this.resume = null;
    }

    /** The stream is not there; it is tried again later. */
    fail(problem) {
        this.drop();
        this.attempt++;
        this.phase = 'waiting';
        this.problem = problem;
        this.nextTry = this.now() + retryDelay(this.base, this.attempt, this.random());
        this.wake();
    }

    /** One connection from its request to its end. */
    async run() {
        this.drop();
        const abort = new AbortController();
        this.abort = abort;
        this.phase = 'connecting';
        this.lastByte = this.now();
        const headers = { Accept: 'text/event-stream' };
        if (this.lastId) headers['Last-Event-ID'] = this.lastId;
        let problem = 'the server ended the stream';
        try {
            const answer = await this.fetch({ headers, cache: 'no-store', signal: abort.signal });
            if (this.abort !== abort) return;
            if (!this.accept(answer)) return;
            await this.read(answer.body.getReader(), abort);
        } catch (error) {
            problem = this.phase === 'open' ? 'the stream broke' : 'the server does not answer';
            if (!(error instanceof TypeError) && error.name !== 'AbortError') {
                problem = `the stream broke: ${error.message}`;
            }
        }
        if (this.abort === abort) this.fail(problem);
    }

    /** Whether the answer is a stream; otherwise says what it is instead. */
    accept(answer) {
        const type = answer.headers.get('Content-Type') ?? '';
        if (answer.status === 200 && type.startsWith('text/event-stream')) {
            this.phase = 'open';
            this.attempt = 0;
            this.problem = '';
            this.wake();
            return true;
        }
        this.drop();
        if (answer.status === 401 || answer.status === 403) {
            this.phase = 'refused';
            this.problem = 'not signed in';
        } else if (answer.status === 404 || answer.status === 405) {
            this.phase = 'absent';
            this.problem = 'this server has no stream of changes';
        } else {
            this.fail(`the server answered ${answer.status}`);
            return false;
        }
        this.wake();
        return false;
    }

    /** Reads until the end, and waits while too much waits to be applied. */
    async read(reader, abort) {
        const decoder = new TextDecoder();
        const parser = new SseParser();
        for (;;) {
            const { done, value } = await reader.read();
            if (this.abort !== abort || done) return;
            this.lastByte = this.now();
            const events = parser.push(decoder.decode(value, { stream: true }));
            if (parser.retry !== null) this.base = Math.min(MAX_DELAY, parser.retry);
            if (events.length) {
                if (!this.queue.length) this.oldest = this.now();
                for (const event of events) this.queue.push(event);
                this.wake();
            }
            if (this.queue.length >= MAX_WAITING) {
                await new Promise((resolve) => { this.resume = resolve; });
                this.resume = null;
                if (this.abort !== abort) return;
                this.lastByte = this.now();
            }
        }
    }
}
