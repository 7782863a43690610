// SPDX-License-Identifier: MIT
// The list of users: a table with one page of the view. Only cells that differ are touched.

import { shownUser } from './detail.js';
import { badge, byId, element, foreign, heading, inSlices, on, setBadge, setText, show } from './dom.js';
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
let asked = 0; // number of the last question
let told = 0; // and of the last one whose users were counted

export function startList(theModel, theFacts, whenChanged, whenWanted) {
  [model, facts, changed, wanted] = [theModel, theFacts, whenChanged, whenWanted];
  let typing;
  on('search', 'input', () => {
    clearTimeout(typing);
    typing = setTimeout(() => ask({ text: byId('search').value }), TYPING);
  });
  on('search-form', 'submit', (event) => event.preventDefault());
  on('filter', 'change', () => ask({ filter: byId('filter').value }));
  for (const [id, step] of Object.entries({ first: -Infinity, previous: -1, next: 1, last: Infinity })) {
    on(id, 'click', () => go(page + step));
  }
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

async function ask(query) {
  const number = ++asked;
  const busy = (yes) => byId('users').setAttribute('aria-busy', yes);
  busy(true);
  const ready = inSlices(model.ask(query));
  changed(); // the store is asked meanwhile
  await ready;
  if (number !== asked) return;
  busy(false);
  go(0);
}

// Tells screen readers how many were found, once that is known.
function tellFound({ stored }) {
  if (told === asked || model.building || stored?.busy) return;
  told = asked;
  setText('found', `${plural(model.view.length, 'user')} found`);
}

// What is said where there are no users: [title, text, whether everyone known can be searched].
function emptyWords({ loading, reached, stored, known }) {
  const { text, filter } = model.query;
  if (loading) return ['Loading the list', ''];
  if (!reached) return ['No data yet', 'The server does not answer.'];
  const searching = stored && (stored.text || stored.problem) ? searchText(stored, known) : '';
  if (stored?.busy || stored?.problem) return ['No user yet', searching];
  if (!text && filter === 'online') {
    return ['Nobody is online', 'Users appear here as soon as they connect. A page makes the first:'];
  }
  if (stored) return ['No user matches', text ? `of ${plural(known, 'known user')}` : ''];
  return [text ? 'Nobody online matches' : 'No user online is like this', '', text !== ''];
}

// Draws the page and the pager. Who has the focus keeps it in another line.
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
  shown.forEach((row, i) => fillSlot(slots[i], row));
  if (focused !== undefined) slotOf(focused)?.link.focus();
  const all = facts();
  const { loading, stored } = all;
  tellFound(all);
  if (stored && !stored.text && from + 2 * SIZE >= total) wanted();
  setText('range', rangeText({ from: from + 1, to: from + shown.length, total, filter: query.filter },
    stored, all));
  for (const [id, end] of [['first', 0], ['previous', 0], ['next', last], ['last', last]]) {
    byId(id).setAttribute('aria-disabled', page === end); // disabled would lose the focus
  }
  for (const { dataset, parentNode } of heads) {
    const order = query.descending ? 'descending' : 'ascending';
    parentNode.setAttribute('aria-sort', dataset.sort === query.sort ? order : 'none');
  }
  const [title, text, everyone] = emptyWords(all);
  byId('export').disabled = !total;
  byId('empty').classList.toggle('hide', Boolean(loading)); // the skeleton shows it to who sees
  setText('empty-title', title);
  setText('empty-text', text);
  show({ pager: total && (last || stored || query.text), pages: last, users: total || loading,
    skeleton: !total && loading, empty: !total, everyone,
    'first-user': !total && title === 'Nobody is online' });
  drawTimes();
}

function makeSlot() {
  const [link, note, why] = [element('a'), element('span', { class: 'muted note' }),
    element('span', { class: 'muted why' })];
  const [status, source] = [badge(), badge()];
  const [known, devices, since, seen] = ['source', 'devices', 'since', 'seen'].map((name) =>
    element('td', { class: `c-${name}` }));
  known.append(source);
  const tr = element('tr', {}, heading(link, note), element('td', {}, status, why), known, devices, since, seen);
  byId('rows').append(tr);
  return { tr, link, note, status, why, source, devices, since, seen };
}

function fillSlot(slot, row) {
  if (slot.row === row) return;
  if (slot.row?.id !== row.id) {
    slot.link.href = `#/user/${encodeURIComponent(row.id)}`;
    slot.link.replaceChildren(foreign(row.id));
    slot.tr.setAttribute('aria-current', row.id === shownUser());
  }
  if (slot.row?.message !== row.message) {
    slot.note.replaceChildren(...(row.message ? [' ', foreign(row.message)] : []));
  }
  slot.row = row;
  setBadge(slot.status, row.status, row.hidden && 'hidden');
  setText(slot.why, (row.hidden ? ', hidden' : '') + (row.reason ? `, ${reasonText(row.reason)}` : ''));
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

const slotOf = (id) => slots.find(({ row }) => row.id === id);

// Marks the user whose details are open; the focus goes back to the one they were of before.
export function select(id, before) {
  for (const { tr, row } of slots) tr.setAttribute('aria-current', row.id === id);
  if (id === null && before !== null) (slotOf(before)?.link ?? byId('search')).focus();
}

async function saveCsv() {
  const parts = [csvHead()];
  const { view } = model;
  await inSlices(function* lines() {
    for (let at = 0; at < view.length; at += CSV_STEP) {
      parts.push(view.slice(at, at + CSV_STEP).map(csvUser).join(''));
      yield;
    }
  }());
  const href = URL.createObjectURL(new Blob(parts, { type: 'text/csv;charset=utf-8' }));
  const stamp = new Date().toISOString().slice(0, 19).replace(/[:T]/g, '-');
  element('a', { href, download: `presence-${stamp}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 60000);
  setText('found', `${count(view.length)} users saved`);
}
