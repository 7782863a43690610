// SPDX-License-Identifier: MIT
// The list of users: a table with one page of the view. Only cells that differ are touched.

import { badge, byId, element, foreign, inSlices, on, setBadge, setText } from './dom.js';
import { count, csvHead, csvUser, lasting, lastSeenText, plural, reasonText } from './format.js';
import { rangeText, searchText } from './stored.js';

const SIZE = 50; // users a page
const CSV_STEP = 1000; // lines of the export made at once
const TYPING = 40; // ms without another key until it is searched
const heads = document.querySelectorAll('#users thead button');
const slots = []; // lines drawn: { tr, row, and their parts }
let model;
let facts; // tells what is needed to draw, see admin.js
let changed; // called when another question is asked
let wanted; // called when the end of what is loaded is near
let page = 0;
let selected = null; // the user whose details are open
let asked = 0; // number of the last question
let told = 0; // and of the last one whose users were counted

/** Connects the list with its model and the page's controls. */
export function startList(theModel, theFacts, whenChanged, whenWanted) {
  [model, facts, changed, wanted] = [theModel, theFacts, whenChanged, whenWanted];
  let typing;
  on('search', 'input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => ask({ text: byId('search').value }), TYPING);
  });
  on('search-form', 'submit', (event) => event.preventDefault());
  on('filter', 'change', () => ask({ filter: byId('filter').value }));
  on('first', 'click', () => go(0));
  on('previous', 'click', () => go(page - 1));
  on('next', 'click', () => go(page + 1));
  on('last', 'click', () => go(Infinity));
  on('everyone', 'click', () => {
    byId('filter').value = 'all';
    ask({ filter: 'all' });
    byId('search').focus();
  });
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
  const ready = inSlices(model.ask(query));
  changed(); // the store is asked meanwhile
  await ready;
  if (number !== asked) return;
  byId('users').setAttribute('aria-busy', 'false');
  go(0);
}

/** Tells screen readers how many were found to the last question, once that is known. */
function tellFound({ stored }) {
  if (told === asked || model.building || stored?.busy) return;
  told = asked;
  setText(byId('found'), `${plural(model.view.length, 'user')} found`);
}

/** What is said where there are no users: [title, text, whether everyone known can be searched]. */
function emptyWords({ loading, reached, stored, known }) {
  const { text, filter } = model.query;
  if (loading) return ['Loading the list', ''];
  if (!reached) return ['No data yet', 'The server does not answer.'];
  if (stored?.busy || stored?.problem) {
    return ['No user yet', stored.text || stored.problem ? searchText(stored, known) : ''];
  }
  if (!text && filter === 'online') {
    return ['Nobody is online', 'Users appear here as soon as they connect. A page makes the first:'];
  }
  if (stored) return ['No user matches', text ? `of ${plural(known, 'known user')}` : ''];
  return [text ? 'Nobody online matches' : 'No user online is like this', '', text !== ''];
}

/** Draws the page and the pager. Who has the focus keeps it in another line. */
export function drawList() {
  model.flush();
  const { view, query } = model;
  const total = view.length;
  const last = Math.max(0, Math.ceil(total / SIZE) - 1); // of the pages
  page = Math.min(page, last);
  const from = page * SIZE;
  const shown = view.slice(from, from + SIZE);
  const focused = slots.find(({ link }) => link === document.activeElement)?.row.id;
  while (slots.length < shown.length) slots.push(makeSlot());
  while (slots.length > shown.length) slots.pop().tr.remove();
  shown.forEach((row, i) => fill(slots[i], row));
  if (focused !== undefined) slotOf(focused)?.link.focus();
  const all = facts();
  const { loading, reached, stored, known, online } = all;
  tellFound(all);
  if (stored && !stored.text && from + 2 * SIZE >= total) wanted();
  setText(byId('range'), rangeText({ from: from + 1, to: from + shown.length, total,
    filter: query.filter }, stored, { known, online }));
  for (const [id, off] of [['first', !page], ['previous', !page], ['next', page === last],
    ['last', page === last]]) {
    byId(id).setAttribute('aria-disabled', off); // disabled would lose the focus
  }
  for (const { dataset, parentNode } of heads) {
    const order = query.descending ? 'descending' : 'ascending';
    parentNode.setAttribute('aria-sort', dataset.sort === query.sort ? order : 'none');
  }
  byId('pager').hidden = !total || !(last || stored || query.text);
  byId('pages').hidden = !last;
  byId('export').disabled = !total;
  byId('users').hidden = !total && !loading;
  byId('skeleton').hidden = total > 0 || !loading;
  byId('empty').hidden = total > 0;
  const [title, text, everyone] = emptyWords({ loading, reached, stored, known });
  byId('empty').classList.toggle('hide', Boolean(loading)); // the skeleton shows it to who sees
  setText(byId('empty-title'), title);
  setText(byId('empty-text'), text);
  byId('everyone').hidden = !everyone;
  byId('first-user').hidden = total > 0 || title !== 'Nobody is online';
  drawTimes();
}

function makeSlot() {
  const link = element('a');
  const note = element('span', { class: 'muted note' });
  const status = badge();
  const why = element('span', { class: 'muted why' });
  const source = badge();
  const [devices, since, seen] = ['devices', 'since', 'seen'].map((name) =>
    element('td', { class: `c-${name}` }));
  const tr = element('tr', {}, element('th', { scope: 'row' }, link, note),
    element('td', {}, status, why), element('td', { class: 'c-source' }, source), devices, since, seen);
  byId('rows').append(tr);
  return { tr, link, note, status, why, source, devices, since, seen, row: null };
}

function fill(slot, row) {
  if (slot.row === row) return;
  if (slot.row?.id !== row.id) {
    slot.link.href = `#/user/${encodeURIComponent(row.id)}`;
    slot.link.replaceChildren(foreign(row.id));
    slot.tr.setAttribute('aria-current', row.id === selected);
  }
  if (slot.row?.message !== row.message) {
    slot.note.replaceChildren(...(row.message ? [' ', foreign(row.message)] : []));
  }
  slot.row = row;
  setBadge(slot.status, row.status, row.hidden && 'hidden');
  const reason = row.reason && reasonText(row.reason);
  setText(slot.why, [row.hidden && 'hidden', reason].filter(Boolean).map((one) => `, ${one}`).join(''));
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
