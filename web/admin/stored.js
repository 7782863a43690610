// SPDX-License-Identifier: MIT
// Users of the store: page by page for who looks through them, and all that match for who searches.

import { count } from './format.js';

const PAGE = 1000; // users a request
const NEAR = 50; // of those whose ids begin with what is searched, first
export const MOST = 20000; // users loaded for one question

/** `request` is that of api.js; `take` gets users and their position, `failed` why there are none;
 *  `wake` is called when something changed. */
export class Stored {
  constructor({ request, take, failed, wake }) {
    Object.assign(this, { request, take, failed, wake });
    this.clear();
  }

  /** Forgets the question. */
  clear() {
    this.abort?.abort();
    this.abort = null; // ends the requests under way
    this.text = null; // what is searched, '' for everybody, null before the first question
    this.sort = '';
    this.scanned = 0; // users looked at for it
    this.found = 0; // users that came
    this.busy = false;
    this.done = false; // there are no more
    this.full = false; // no more are loaded
    this.problem = '';
    this.cursor = null;
  }

  /** Asks for users whose ids contain a text, in an order of the server's ('' for that of ids). */
  ask(text, sort = '') {
    if (text === this.text && sort === this.sort) return null;
    this.clear();
    Object.assign(this, { text, sort });
    return text ? this.run(() => this.search()) : this.more();
  }

  more() {
    return this.busy || this.done || this.full || this.problem ? null : this.run(() => this.page({}));
  }

  /** Goes on after a failure. */
  again() {
    if (this.busy || !this.problem) return null;
    const { text, sort } = this;
    this.text = null;
    return this.ask(text, sort);
  }

  /** Does some work, of which no more is heard once there is another question. */
  async run(work) {
    const { signal } = this.abort = new AbortController();
    Object.assign(this, { busy: true, problem: '' });
    this.wake();
    try {
      await work();
    } catch (error) {
      if (signal.aborted) return;
      this.problem = error.message;
      this.failed(error);
    }
    if (signal.aborted) return;
    this.busy = false;
    this.wake();
  }

  /** Asks for users and hands them over. The answer, or null when there is another question by now. */
  async load(query) {
    const { signal } = this.abort;
    const answer = await this.request(`users?${new URLSearchParams(query)}`, { signal });
    if (signal.aborted) return null;
    this.take(answer.users, answer.position);
    this.wake();
    return answer;
  }

  /** Ids that begin with the text, which the server looks up; then all that contain it, to the end. */
  async search() {
    let more = await this.load({ prefix: this.text, limit: NEAR });
    while (more && !this.done && !this.full) more = await this.page({ q: this.text });
  }

  /** One page of those not online. */
  async page(filter) {
    const { sort, cursor } = this;
    const answer = await this.load({ status: 'offline', limit: PAGE, ...filter, ...(sort && { sort }),
      ...(cursor && { cursor }) });
    if (!answer) return false;
    this.found += answer.users.length;
    this.scanned += answer.scanned ?? answer.users.length;
    this.cursor = answer.next;
    this.done = !answer.next;
    this.full = this.found >= MOST;
    return true;
  }
}

/** Which part of the list is shown, and how far it is known: "1 to 50 of 120", "1 to 50 of 100,019
 *  known, 20,566 loaded", "1 to 7 of 7, searching, 40,000 of 100,019". `stored` is null when only
 *  users online are asked for; `known` is how many there are in all. */
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

/** How far a search of all known users is: '' when it is over. */
export function searchText({ busy, full, problem, scanned }, known) {
  if (problem) return `the search stopped: ${problem}`;
  if (busy) return `searching, ${count(Math.min(scanned, known))} of ${count(known)}`;
  return full ? `the first ${count(MOST)} that match: search for more of the id` : '';
}
