// The list of users: a table with one page of the view. Only cells that differ are touched.

import { badge, byId, element, foreign, inSlices, on, setBadge, setText } from './dom.js';
import { clock, count, csvHead, csvUser, lasting, lastSeenText, reasonText } from './format.js';

/** Rows keep their places so long after somebody moved over them. */
const HOLD = 3000;

/** Lines of the export made in one step. */
const CSV_STEP = 1000;

/** The address of a user's details on this page. */
const userHash = (id) => `#/user/${encodeURIComponent(id)}`;

/** The columns' buttons. */
const heads = document.querySelectorAll('#users thead button');

export class List {
  slots = []; // lines drawn: { tr, row, and their parts }
  ids = []; // users on the page
  page = 0;
  heldUntil = 0;
  held = false; // rows kept their places when last drawn
  selected = null; // the user whose details are open
  asked = 0; // number of the last question asked of the view
  size = Number(byId('page-size').value);

  /** `facts` tells what admin.js says; `changed` is called after another question was asked. */
  constructor(model, { facts, changed }) {
    Object.assign(this, { model, facts, changed });
    let typing;
    on('search', 'input', () => {
      clearTimeout(typing);
      typing = setTimeout(() => this.ask({ text: byId('search').value }), 120);
    });
    on('search-form', 'submit', (event) => event.preventDefault());
    on('filter', 'change', () => this.ask({ filter: byId('filter').value }));
    on('page-size', 'change', () => {
      const first = this.page * this.size;
      this.size = Number(byId('page-size').value);
      this.go(Math.floor(first / this.size));
    });
    for (const head of heads) head.addEventListener('click', () => this.sortBy(head.dataset.sort));
    on('first', 'click', () => this.go(0));
    on('previous', 'click', () => this.go(this.page - 1));
    on('next', 'click', () => this.go(this.page + 1));
    on('last', 'click', () => this.go(Infinity));
    on('export', 'click', () => this.export());
    for (const kind of ['pointermove', 'focusin', 'keydown']) {
      on('rows', kind, () => { this.heldUntil = Date.now() + HOLD; });
    }
    on('rows', 'pointerleave', () => {
      this.heldUntil = 0;
      this.settle();
    });
    on('rows', 'keydown', (event) => this.key(event));
    on('rows', 'click', ({ target }) => {
      if (target.closest('a') || !getSelection().isCollapsed) return;
      target.closest('tr')?.querySelector('a').click();
    });
    this.drawHead();
  }

  /** How many pages the view has. */
  get pages() {
    return Math.max(1, Math.ceil(this.model.view.length / this.size));
  }

  /** Shows another page. */
  go(page) {
    this.page = Math.max(0, Math.min(page, this.pages - 1));
    this.heldUntil = 0;
    this.draw();
  }

  /** Draws what waited while the rows were held. */
  settle() {
    if (this.held && Date.now() >= this.heldUntil) this.draw();
  }

  /** Sorts by a column, or turns the order when that is the one already. */
  sortBy(sort) {
    const { query } = this.model;
    const down = query.sort === sort ? !query.descending : /since|seen|connections/.test(sort);
    this.ask({ sort, descending: down });
  }

  /** Asks something else of the view and shows its first page. */
  async ask(query) {
    const number = ++this.asked;
    const steps = this.model.ask(query);
    steps.next(); // takes the question over at once
    this.drawHead();
    byId('users').setAttribute('aria-busy', 'true');
    await inSlices(steps);
    if (number !== this.asked) return;
    byId('users').setAttribute('aria-busy', 'false');
    this.go(0);
    setText(byId('found'), `${count(this.model.view.length)} users match`);
    this.changed();
  }

  /** Draws the order arrows. */
  drawHead() {
    const { sort, descending } = this.model.query;
    for (const head of heads) {
      const order = descending ? 'descending' : 'ascending';
      head.closest('th').setAttribute('aria-sort', head.dataset.sort === sort ? order : 'none');
    }
  }

  /** Draws the page and the pager. */
  draw() {
    const { view, rows } = this.model;
    this.held = Date.now() < this.heldUntil;
    if (!this.held) {
      this.page = Math.min(this.page, this.pages - 1);
      const from = this.page * this.size;
      this.ids = view.slice(from, from + this.size).map((row) => row.id);
    }
    while (this.slots.length < this.ids.length) this.slots.push(this.makeSlot());
    while (this.slots.length > this.ids.length) this.slots.pop().tr.remove();
    this.ids.forEach((id, i) => this.fill(this.slots[i], rows.get(id)));
    const total = view.length;
    const from = this.page * this.size;
    setText(byId('range'), `${count(from + 1)} to ${count(Math.min(total, from + this.size))} of ${
      count(total)}`);
    setText(byId('held'), this.held ? 'rows hold still while you are on them' : '');
    const atEnd = this.page === this.pages - 1;
    for (const [id, off] of [['first', !this.page], ['previous', !this.page], ['next', atEnd],
      ['last', atEnd]]) {
      byId(id).setAttribute('aria-disabled', off); // disabled would lose the focus
    }
    byId('pager').hidden = total <= 25;
    byId('export').disabled = !total;
    byId('users').hidden = !total;
    byId('empty').hidden = total > 0;
    if (!total) this.drawEmpty();
    this.drawTimes();
  }

  /** Says why there is nothing to see. */
  drawEmpty() {
    const { loading, reached } = this.facts();
    const { text, filter } = this.model.query;
    let words = ['Nobody is online', 'Users appear here as soon as they connect.'];
    if (text || filter !== 'online') words = ['No user matches', 'Try another search or filter.'];
    if (!reached) words = ['No data yet', 'The server does not answer.'];
    if (loading) words = ['Loading the list', 'One moment.'];
    setText(byId('empty-title'), words[0]);
    setText(byId('empty-text'), words[1]);
  }

  /** A new line of the table. */
  makeSlot() {
    const link = element('a');
    const status = badge();
    const why = element('span', { class: 'muted why' });
    const source = badge();
    const [devices, since, seen] = ['devices', 'since', 'seen'].map((name) =>
      element('td', { class: `c-${name}` }));
    const tr = element('tr', {}, element('th', { scope: 'row' }, link),
      element('td', {}, status, why), element('td', { class: 'c-source' }, source),
      devices, since, seen);
    byId('rows').append(tr);
    return { tr, link, status, why, source, devices, since, seen, row: null };
  }

  /** Draws a user into a line, where it differs from what is there. */
  fill(slot, row) {
    if (!row || slot.row === row) return;
    if (slot.row?.id !== row.id) {
      slot.link.href = userHash(row.id);
      slot.link.replaceChildren(foreign(row.id));
      slot.tr.setAttribute('aria-current', row.id === this.selected);
    }
    slot.row = row;
    setBadge(slot.status, row.status);
    setText(slot.why, row.reason ? `, ${reasonText(row.reason)}` : '');
    setBadge(slot.source, row.source);
    setText(slot.devices, count(row.connections));
    const now = Date.now();
    slot.since.title = row.since ? `since ${clock(row.since, now)}` : '';
    slot.seen.title = row.seen ? `last told ${clock(row.seen, now)}` : '';
  }

  /** Brings the times on the page up to date. */
  drawTimes() {
    const { now, bounds, current } = this.facts();
    for (const { row, since, seen } of this.slots) {
      setText(since, row.since ? lasting(now - row.since) : '\u2013');
      setText(seen, lastSeenText(row, now, bounds[row.source], current));
    }
  }

  /** Marks the user whose details are open. */
  select(id) {
    this.selected = id;
    for (const { tr, row } of this.slots) tr.setAttribute('aria-current', row.id === id);
  }

  /** Moves the focus to a user's line if it is on the page, otherwise to the search. */
  focus(id) {
    (this.slots.find(({ row }) => row.id === id)?.link ?? byId('search')).focus();
  }

  /** Up, down, home and end move from user to user. */
  key(event) {
    const at = this.slots.findIndex(({ link }) => link === document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.slots.length - 1 };
    const slot = this.slots[to[event.key]];
    if (!slot) return;
    event.preventDefault();
    slot.link.focus();
  }

  /** Saves what the view holds, all pages, as CSV. */
  async export() {
    const parts = [csvHead()];
    const { view, rows } = this.model;
    await inSlices(function* lines() {
      for (let at = 0; at < view.length; at += CSV_STEP) {
        const some = view.slice(at, at + CSV_STEP);
        parts.push(some.map((row) => csvUser(rows.get(row.id) ?? row)).join(''));
        yield;
      }
    }());
    const url = URL.createObjectURL(new Blob(parts, { type: 'text/csv;charset=utf-8' }));
    const stamp = new Date().toISOString().slice(0, 19).replace(/[:T]/g, '-');
    element('a', { href: url, download: `presence-${stamp}.csv` }).click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
    setText(byId('found'), `${count(view.length)} users saved`);
  }
}
