// SPDX-License-Identifier: MIT
// One user: what is said of them, the timeline of sessions, connections, kick.

import { atServer, request, steady, userPath } from './api.js';
import { badge, byId, cell, element, fill, fillFacts, foreign, heading, muted, on, setText,
  show, since, ticker } from './dom.js';
import { agentText, ago, clock, count, exactly, lasting, plural, timeline, visible } from './format.js';

const PAGE = 50; // sessions asked for at a time
const EVERY = 10000; // the open user is asked for this often, in ms
const AFTER_CHANGE = 200; // and this soon after a change,
const SETTLED = 2000; // and once more when the store has it

const hidden = badge('hidden');
const opened = new Set(); // groups of connections whose details are open
let id = null; // the user shown
let user = null;
let sessions = []; // newest first
let next = null; // cursor of the next page
let due = 0; // when to ask again
let again = Infinity; // and when once more
let asking = null; // ends the question under way

export const shownUser = () => id;

// Nobody for null.
export function showUser(other) {
  if (id === other) return;
  [id, user, sessions, next, again] = [other, null, [], null, Infinity];
  opened.clear();
  asking?.abort();
  show({ detail: id !== null, 'detail-body': false });
  document.body.classList.toggle('has-detail', id !== null);
  if (id === null) return;
  fill('detail-name', foreign(id));
  say('');
  byId('detail-name').focus();
  refresh();
}

const say = (text) => setText('detail-note', text);

// A change of the user shown was told: asks again soon.
export function userChanged() {
  due = Math.min(due, steady() + AFTER_CHANGE);
  again = steady() + SETTLED;
}

// Says why something failed, to who still looks at this user.
async function attempt(prefix, work, signal) {
  const mine = id;
  const still = () => id === mine && !signal?.aborted;
  try {
    await work(still);
  } catch (error) {
    if (still()) say(`${prefix}: ${error.message}.`);
  }
}

const askSessions = (cursor, init) => request(userPath(id, `/sessions?${
  new URLSearchParams({ limit: PAGE, ...(cursor && { cursor }) })}`), init);

function refresh() {
  due = steady() + EVERY;
  if (steady() >= again) again = Infinity;
  asking?.abort();
  const { signal } = asking = new AbortController();
  return attempt('Not shown', async (still) => {
    const [found, newest] = await Promise.all([request(userPath(id), { signal }),
      askSessions(null, { signal })]);
    if (!still()) return;
    if (/^Not shown/.test(byId('detail-note').textContent)) say('');
    user = found;
    const last = newest.sessions.at(-1)?.from; // older ones stay, if no hole is before them
    const older = sessions[0]?.from >= last ? sessions.filter(({ from }) => from < last) : [];
    if (!older.length) next = newest.next;
    sessions = newest.sessions.concat(older);
    draw();
  }, signal);
}

function earlier() {
  const cursor = next;
  return attempt('Not loaded', async (still) => {
    const page = await askSessions(cursor);
    if (!still() || next !== cursor) return;
    sessions.push(...page.sessions);
    next = page.next;
    drawTimeline();
  });
}

// "14:02 (3 min ago)".
const moment = (iso, words) => [`${clock(iso, atServer())} `, since(iso, (ms) => `(${words(ms)})`)];

// "Set by hand: busy, until 16:20 (25 min)".
function manualWords({ manual, message }) {
  if (!manual) return [];
  const what = manual.status ?? (message ? 'the message' : 'nothing');
  return [`Set by hand: ${visible(what)}`, ...(manual.until ? [`, until ${clock(manual.until, atServer())} `,
    ticker((now) => `(${lasting(Math.max(0, new Date(manual.until) - now))})`)] : [])];
}

function draw() {
  const { invisible, message, connected_at: at, last_seen: seen, first_seen: first } = user;
  fill('detail-state', badge(user.status), badge(user.source), invisible ? hidden : '');
  fill('detail-message', foreign(message ?? ''));
  fill('detail-manual', ...manualWords(user));
  fillFacts('detail-facts', [
    ...[['Online since', at, lasting], ['Last seen', seen, ago], ['First seen', first, ago]]
      .filter(([, iso]) => iso).map(([label, iso, words]) => [label, ...moment(iso, words)]),
    ['Ended sessions', count(user.sessions)],
  ]);
  drawTimeline();
  drawConnections();
  show({ 'detail-message': message, 'detail-body': true });
}

function drawTimeline() {
  fill('timeline', ...timeline(sessions, atServer()).map(({ kind, text, from, to, reason, address }) =>
    element('li', { 'data-kind': kind, class: (reason ?? 'closed') !== 'closed' ? 'lost' : to ? '' : 'open' }, text,
      muted(to === null ? since(from, exactly) : exactly(to - from),
        address ? `, from ${visible(address)}` : ''))));
  show({ 'no-sessions': !sessions.length, 'detail-more': next });
}

// Connections that differ in nothing that is shown at first, together.
const groups = (list) => [...Map.groupBy(list, ({ agent, address, node, status }) =>
  JSON.stringify([agentText(agent), address, node, status]))];

// "2 ms", "2 to 9 ms", or a dash before the first was measured.
function tripText(list) {
  const trips = list.flatMap((one) => one.round_trip_ms ?? []);
  if (!trips.length) return '\u2013';
  const ends = new Set([Math.min(...trips), Math.max(...trips)]);
  return `${[...ends].map(count).join(' to ')} ms`;
}

const connectionFacts = ({ address, port, agent, connected_at: at, last_heard: heard }) =>
  element('p', { class: 'muted' },
    visible(`${address.includes(':') ? `[${address}]` : address}:${port}`), ', ', ...moment(at, lasting),
    ', heard ', since(heard, ago), element('br'), foreign(agent || 'no User-Agent'));

function connectionRow([key, list]) {
  const [one] = list;
  const more = element('details', {}, element('summary', {}, agentText(one.agent),
    list.length > 1 ? element('b', {}, ` \u00d7\u00a0${list.length}`) : ''), ...list.map(connectionFacts));
  more.open = opened.has(key);
  more.addEventListener('toggle', () => (more.open ? opened.add(key) : opened.delete(key)));
  const [oldest] = list.map((each) => each.connected_at).sort();
  return element('tr', {},
    heading(more, muted(foreign(one.address), one.node ? `, on ${visible(one.node)}` : '')),
    cell(badge(one.status)), cell(since(oldest, lasting)), cell(tripText(list)));
}

function drawConnections() {
  const { online, connection_list: list, unreachable = [] } = user;
  const name = byId('detail-name');
  if (!online && document.activeElement === byId('kick')) name.focus();
  show({ kick: online, connections: list.length });
  const none = online ? 'None: between two connections, or by heartbeats only.' : 'None.';
  const missing = unreachable.length ? ` Not asked: ${unreachable.map(visible).join(', ')}.` : '';
  setText('no-connections', `${list.length ? '' : none}${missing}`);
  const lines = () => [...byId('connection-rows').querySelectorAll('summary')];
  const focused = lines().indexOf(document.activeElement);
  fill('connection-rows', ...groups(list).map(connectionRow));
  if (focused >= 0) (lines()[focused] ?? name).focus();
}

function askKick() {
  fill('kick-name', foreign(id));
  setText('kick-what', `Closes ${plural(user.connections, 'connection')} and ends the session. `
    + 'The user may come back if your application lets them.');
  const dialog = byId('kick-dialog');
  dialog.returnValue = '';
  dialog.dataset.id = id;
  dialog.showModal();
}

// The dialog was closed.
function kick() {
  const { returnValue, dataset } = byId('kick-dialog');
  if (returnValue !== 'kick' || dataset.id !== id) return;
  attempt('Not kicked', async (still) => {
    const { closed } = await request(userPath(id, '/connections'), { method: 'DELETE' });
    if (still()) await refresh();
    if (!still()) return;
    say(`Kicked: ${plural(closed, 'connection')} closed, and the session ended.`);
    byId('detail-name').focus();
  });
}

const close = () => { location.hash = '#/'; };
setText(hidden.lastChild, 'hidden from others');
on('detail-close', 'click', close);
on('detail-more', 'click', earlier);
on('kick', 'click', askKick);
on('kick-dialog', 'close', kick);
on('detail', 'keydown', ({ key }) => key === 'Escape' && close());
setInterval(() => id !== null && steady() >= Math.min(due, again) && !document.hidden && refresh(), 250);
