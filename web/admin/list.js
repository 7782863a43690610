// SPDX-License-Identifier: MIT
// The list of users: a table with one page of the view. Only cells that differ are touched.

import { badge, byId, element, foreign, inSlices, on, setBadge, setText } from './dom.js';
import { count, csvHead, csvUser, lasting, lastSeenText, reasonText } from './format.js';

const SIZE = 50; // users a page
const CSV_STEP = 1000; // lines of the export made at once
const heads = document.querySelectorAll('#users thead button');
const slots = []; // lines drawn: { tr, row, and their parts }
let model;
let facts; // tells what is needed to draw, see admin.js
let changed; // called after another question was asked
let page = 0;
let selected = null; // the user whose details are open
let asked = 0; // number of the last question

/** Connects the list with its model and the page's controls. */
export function startList(theModel, theFacts, whenChanged) {
  [model, facts, changed] = [theModel, theFacts, whenChanged];
  let typing;
  on('search', 'input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => ask({ text: byId('search').value }), 120);
  });
  on('search-form', 'submit', (event) => event.preventDefault());
  on('filter', 'change', () => ask({ filter: byId('filter').value }));
  on('first', 'click', () => go(0));
  on('previous', 'click', () => go(page - 1));
  on('next', 'click', () => go(page + 1));
  on('last', 'click', () => go(Infinity));
  on('export', 'click', saveCsv);
  on('rows', 'click', ({ target }) => {
    if (target.closest('a') || !getSelection().isCollapsed) return;
    target.closest('tr')?.querySelector('a').click();
  });
  for (const { dataset, parentNode } of heads) {
    parentNode.addEventListener('click', () => {
      const { sort, descending } = model.query;
      const down = dataset.sort === sort ? !descending : /since|seen|conn/.test(dataset.sort);
      ask({ sort: dataset.sort, descending: down });
    });
  }
}

function go(number) {
  page = Math.max(0, number);
  drawList();
}

/** Asks something else of the view and shows its first page. */
async function ask(query) {
  const number = ++asked;
  byId('users').setAttribute('aria-busy', 'true');
  await inSlices(model.ask(query));
  if (number !== asked) return;
  byId('users').setAttribute('aria-busy', 'false');
  go(0);
  setText(byId('found'), `${count(model.view.length)} users match`);
  changed();
}

/** Draws the page and the pager. Who has the focus keeps it in another line. */
export function drawList() {
  model.flush();
  const { view, query } = model;
  const total = view.length;
  const last = Math.max(0, Math.ceil(total / SIZE) - 1);
  page = Math.min(page, last);
  const from = page * SIZE;
  const shown = view.slice(from, from + SIZE);
  const focused = slots.find(({ link }) => link === document.activeElement)?.row.id;
  while (slots.length < shown.length) slots.push(makeSlot());
  while (slots.length > shown.length) slots.pop().tr.remove();
  shown.forEach((row, i) => fill(slots[i], row));
  if (focused !== undefined) slotOf(focused)?.link.focus();
  setText(byId('range'), `${count(from + 1)} to ${count(from + shown.length)} of ${count(total)}`);
  for (const [id, off] of [['first', !page], ['previous', !page], ['next', page === last],
    ['last', page === last]]) {
    byId(id).setAttribute('aria-disabled', off); // disabled would lose the focus
  }
  for (const { dataset, parentNode } of heads) {
    const order = query.descending ? 'descending' : 'ascending';
    parentNode.setAttribute('aria-sort', dataset.sort === query.sort ? order : 'none');
  }
  byId('pager').hidden = !last;
  byId('export').disabled = !total;
  byId('users').hidden = !total;
  byId('empty').hidden = total > 0;
  const { loading, reached } = facts();
  let words = ['Nobody is online', 'Users appear here as soon as they connect.'];
  if (query.text || query.filter !== 'online') words = ['No user matches', ''];
  if (!reached) words = ['No data yet', 'The server does not answer.'];
  if (loading) words = ['Loading the list', ''];
  setText(byId('empty-title'), words[0]);
  setText(byId('empty-text'), words[1]);
  drawTimes();
}

function makeSlot() {
  const link = element('a');
  const status = badge();
  const why = element('span', { class: 'muted' });
  const source = badge();
  const [devices, since, seen] = ['devices', 'since', 'seen'].map((name) =>
    element('td', { class: `c-${name}` }));
  const tr = element('tr', {}, element('th', { scope: 'row' }, link),
    element('td', {}, status, why), element('td', {}, source), devices, since, seen);
  byId('rows').append(tr);
  return { tr, link, status, why, source, devices, since, seen, row: null };
}

function fill(slot, row) {
  if (slot.row === row) return;
  if (slot.row?.id !== row.id) {
    slot.link.href = `#/user/${encodeURIComponent(row.id)}`;
    slot.link.replaceChildren(foreign(row.id));
    slot.tr.setAttribute('aria-current', row.id === selected);
  }
  slot.row = row;
  setBadge(slot.status, row.status);
  setText(slot.why, row.reason ? `, ${reasonText(row.reason)}` : '');
  setBadge(slot.source, row.source);
  setText(slot.devices, count(row.connections));
}

export function drawTimes() {
  const { now, bounds, current } = facts();
  for (const { row, since, seen } of slots) {
    setText(since, row.since ? lasting(now - row.since) : '\u2013');
    setText(seen, lastSeenText(row, now, bounds[row.source], current));
  }
}

/** The line of a user, if it is on the page. */
const slotOf = (id) => slots.find(({ row }) => row.id === id);

/** Marks the user whose details are open; the focus goes back to the one they were of before. */
export function select(id, before) {
  selected = id;
  for (const { tr, row } of slots) tr.setAttribute('aria-current', row.id === id);
  if (id === null && before !== null) (slotOf(before)?.link ?? byId('search')).focus();
}

/** Saves what the view holds, all pages, as CSV. */
async function saveCsv() {
  const parts = [csvHead()];
  const { view } = model;
  await inSlices(function* lines() {
    for (let at = 0; at < view.length; at += CSV_STEP) {
      const some = view.slice(at, at + CSV_STEP);
      parts.push(some.map(csvUser).join(''));
      yield;
    }
  }());
  const url = URL.createObjectURL(new Blob(parts, { type: 'text/csv;charset=utf-8' }));
  const stamp = new Date().toISOString().slice(0, 19).replace(/[:T]/g, '-');
  element('a', { href: url, download: `presence-${stamp}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
  setText(byId('found'), `${count(view.length)} users saved`);
}
