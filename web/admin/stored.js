// SPDX-License-Identifier: MIT
// Users of the store: page by page for who looks through them, and all that match for who searches.

import { count } from './format.js';

const PAGE = 1000; // users a request
const NEAR = 50; // of those whose ids begin with what is searched, first
export const MOST = 20000; // users loaded for one question

// The pages of a list, each when it is wanted.
export async function* pages(request, path, query, signal) {
  for (let cursor = {}; cursor;) {
    const answer = await request(`${path}?${new URLSearchParams({ ...query, ...cursor })}`, { signal });
    yield answer;
    cursor = answer.next && { cursor: answer.next };
  }
}

// `request` is that of api.js; `take` gets users and their position; `wake` is called when something
// changed.
export class Stored {
  constructor({ request, take, wake }) {
    Object.assign(this, { request, take, wake });
    this.clear();
  }

  // Forgets the question, and what still comes of it.
  clear() {
    this.abort?.abort();
    this.abort = new AbortController();
    this.text = null; // what is searched, '' for everybody, null before the first question
    this.sort = '';
    this.list = null; // pages of users who are not online
    this.scanned = 0; // users looked at for it
    this.found = 0; // users that came
    this.busy = false;
    this.done = false; // there are no more
    this.full = false; // no more are loaded
    this.problem = '';
  }

  // Asks for users whose ids contain a text, in an order of the server's ('' for that of ids).
  ask(text, sort = '') {
    if (text === this.text && sort === this.sort) return null;
    this.clear();
    const query = { status: 'offline', limit: PAGE, ...(text && { q: text }), ...(sort && { sort }) };
    Object.assign(this, { text, sort, list: pages(this.request, 'users', query, this.abort.signal) });
    return this.more();
  }

  more() {
    return this.busy || this.done || this.full || this.problem ? null : this.run(this.abort.signal);
  }

  // Goes on after a failure.
  again() {
    if (this.busy || !this.problem) return null;
    const { text, sort } = this;
    this.text = null;
    return this.ask(text, sort);
  }

  // Takes the next page of everybody. Of a search, the ids that begin with the text, which the
  // server looks up; then all that contain it, to the end.
  async run(signal) {
    const { text, list } = this;
    const hand = ({ users, position }) => {
      this.take(users, position);
      this.wake();
    };
    this.busy = true;
    this.wake();
    try {
      if (text) {
        const query = new URLSearchParams({ prefix: text, limit: NEAR });
        const near = await this.request(`users?${query}`, { signal });
        if (!signal.aborted) hand(near);
      }
      while (!signal.aborted && this.busy) {
        const { value } = await list.next();
        if (signal.aborted) return;
        const { users, scanned = users.length, next } = value;
        this.found += users.length;
        this.scanned += scanned;
        this.done = !next;
        this.full = this.found >= MOST;
        this.busy = Boolean(text) && !this.done && !this.full;
        hand(value);
      }
    } catch (error) {
      if (!signal.aborted) Object.assign(this, { busy: false, problem: error.message });
    }
    this.wake();
  }
}

// "1 to 50 of 120", "1 to 50 of 100,019 known, 20,566 loaded", "1 to 7 of 7, searching, 40,000 of
// 100,019". `stored` is null when only users online are asked for; `known` is how many there are.
export function rangeText({ from, to, total, filter }, stored, { known, online }) {
  const here = `${count(from)} to ${count(to)} of`;
  if (!stored || (stored.done && !stored.text)) return `${here} ${count(total)}`;
  if (!stored.text) {
    const [all, word] = filter === 'all' ? [known, 'known'] : [known - online, 'offline'];
    const rest = stored.full ? '; search finds the others' : '';
    return `${here} ${count(Math.max(all, total))} ${word}, ${count(total)} loaded${rest}`;
  }
  return `${here} ${count(total)}${searchText(stored, known).replace(/^(?=.)/, ', ')}`;
}

// How far a search is; '' when it is over.
export function searchText({ busy, full, problem, scanned }, known) {
  if (problem) return `the search stopped: ${problem}`;
  if (busy) return `searching, ${count(Math.min(scanned, known))} of ${count(known)}`;
  return full ? `the first ${count(MOST)} that match: search for more of the id` : '';
}
