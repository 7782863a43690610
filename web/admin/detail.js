// SPDX-License-Identifier: MIT
// One user: what is said of them, the timeline of sessions, connections, kick.

import { atServer, request, steady, userPath } from './api.js';
import { badge, byId, element, facts, foreign, on, setBadge, setText, ticker } from './dom.js';
import { agentText, ago, clock, count, exactly, lasting, plural, timeline, visible } from './format.js';

const PAGE = 50; // sessions asked for at a time
const EVERY = 10000; // the open user is asked for this often, in ms
const AFTER_CHANGE = 200; // and this soon after a change,
const SETTLED = 2000; // and once more when the store has it

const status = badge();
const source = badge();
const hidden = badge('hidden');
const opened = new Set(); // groups of connections whose details are open
let refused; // called when the session has ended
let id = null; // the user shown
let user = null;
let sessions = []; // newest first
let next = null; // cursor of the next page
let due = 0; // when to ask again
let again = Infinity; // and when once more
let asking = null; // ends the question under way

/** The user shown, or null. */
export const shownUser = () => id;

/** Connects the panel; `close` is called when it is to go, `whenRefused` at a 401. */
export function startDetail(close, whenRefused) {
  refused = whenRefused;
  setText(hidden.lastChild, 'hidden from others');
  byId('detail-state').append(status, source, hidden);
  on('detail-close', 'click', close);
  on('detail-more', 'click', earlier);
  on('kick', 'click', askKick);
  on('kick-dialog', 'close', kick);
  on('detail', 'keydown', ({ key }) => key === 'Escape' && close());
  setInterval(() => id !== null && steady() >= Math.min(due, again) && !document.hidden && refresh(), 250);
}

/** Shows a user, or nobody for null. */
export function showUser(other) {
  if (id === other) return;
  [id, user, sessions, next, again] = [other, null, [], null, Infinity];
  opened.clear();
  asking?.abort();
  byId('detail').hidden = id === null;
  document.body.classList.toggle('has-detail', id !== null);
  if (id === null) return;
  byId('detail-name').replaceChildren(foreign(id));
  say('');
  byId('detail-body').hidden = true;
  byId('detail-name').focus();
  refresh();
}

const say = (text) => setText(byId('detail-note'), text);

/** A change of the user shown was told: asks again soon. */
export function userChanged() {
  due = Math.min(due, steady() + AFTER_CHANGE);
  again = steady() + SETTLED;
}

/** Does something for the user shown, and says why when it fails. */
async function attempt(prefix, work) {
  const mine = id;
  const still = () => id === mine;
  try {
    await work(still);
  } catch (error) {
    if (error.status === 401) refused();
    if (still()) say(`${prefix}: ${error.message}.`);
  }
}

/** Asks for the user and the newest sessions. */
function refresh() {
  due = steady() + EVERY;
  if (steady() >= again) again = Infinity;
  asking?.abort();
  const { signal } = asking = new AbortController();
  return attempt('Not shown', async () => {
    try {
      const [found, newest] = await Promise.all([request(userPath(id), { signal }),
        request(userPath(id, `/sessions?limit=${PAGE}`), { signal })]);
      if (signal.aborted) return;
      if (/^Not shown/.test(byId('detail-note').textContent)) say('');
      user = found;
      const last = newest.sessions.at(-1)?.from; // older ones stay, if no hole is before them
      const older = sessions[0]?.from >= last ? sessions.filter(({ from }) => from < last) : [];
      if (!older.length) next = newest.next;
      sessions = newest.sessions.concat(older);
      draw();
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  });
}

/** Loads the sessions before those shown. */
function earlier() {
  const cursor = next;
  return attempt('Not loaded', async (still) => {
    const path = userPath(id, `/sessions?limit=${PAGE}&cursor=${encodeURIComponent(cursor)}`);
    const page = await request(path);
    if (!still() || next !== cursor) return;
    sessions.push(...page.sessions);
    next = page.next;
    drawTimeline();
  });
}

/** The time since a moment in the words given; it ticks. */
const since = (iso, words) => ticker((now) => words(Math.max(0, now - Date.parse(iso))));

/** A moment with the time since it: "14:02 (3 min ago)". */
const moment = (iso, words) =>
  [`${clock(Date.parse(iso), atServer())} `, since(iso, (ms) => `(${words(ms)})`)];

/** What the user set by hand, in words: "Set by hand: busy, until 16:20 (25 min)". */
function manualWords({ manual, message }) {
  if (!manual) return [];
  const what = manual.status ?? (message ? 'the message' : 'nothing');
  return [`Set by hand: ${visible(what)}`, ...(manual.until
    ? [', until ', `${clock(Date.parse(manual.until), atServer())} `,
      ticker((now) => `(${lasting(Math.max(0, Date.parse(manual.until) - now))})`)] : [])];
}

function draw() {
  setBadge(status, user.status);
  setBadge(source, user.source);
  hidden.hidden = !user.invisible;
  byId('detail-message').hidden = !user.message;
  byId('detail-message').replaceChildren(foreign(user.message ?? ''));
  byId('detail-manual').replaceChildren(...manualWords(user));
  byId('detail-facts').replaceChildren(...facts([
    ...[['Online since', user.connected_at, lasting], ['Last seen', user.last_seen, ago],
      ['First seen', user.first_seen, ago]]
      .filter(([, at]) => at).map(([label, at, words]) => [label, ...moment(at, words)]),
    ['Ended sessions', count(user.sessions)],
  ]));
  drawTimeline();
  drawConnections();
  byId('detail-body').hidden = false;
}

function drawTimeline() {
  byId('timeline').replaceChildren(...timeline(sessions, atServer()).map((item) => {
    const { kind, text, from, to, reason, address } = item;
    return element('li', { 'data-kind': kind, 'data-reason': reason ?? (to === null ? 'open' : 'closed') },
      text, element('span', { class: 'muted' },
        to === null ? ticker((now) => exactly(Math.max(0, now - from))) : exactly(to - from),
        address ? `, from ${visible(address)}` : ''));
  }));
  byId('no-sessions').hidden = sessions.length > 0;
  byId('detail-more').hidden = !next;
}

/** Connections that differ in nothing that is shown at first, together. */
function groups(list) {
  const found = new Map();
  for (const one of list) {
    const key = JSON.stringify([agentText(one.agent), one.address, one.node, one.status]);
    if (!found.has(key)) found.set(key, []);
    found.get(key).push(one);
  }
  return [...found];
}

/** "2 ms", "2 to 9 ms", or a dash before the first was measured. */
function tripText(list) {
  const trips = list.map((one) => one.round_trip_ms).filter((trip) => trip !== null);
  if (!trips.length) return '\u2013';
  const [least, most] = [Math.min(...trips), Math.max(...trips)];
  return least === most ? `${count(most)} ms` : `${count(least)} to ${count(most)} ms`;
}

/** All that is known of one connection. */
function connectionFacts({ address, port, agent, connected_at: at, last_heard: heard }) {
  return element('p', { class: 'muted' },
    visible(`${address.includes(':') ? `[${address}]` : address}:${port}`), ', ', ...moment(at, lasting),
    ', heard ', since(heard, ago), element('br'), foreign(agent || 'no User-Agent'));
}

/** A line of the table of connections. */
function connectionRow([key, list]) {
  const [one] = list;
  const more = element('details', {}, element('summary', {}, agentText(one.agent),
    list.length > 1 ? element('b', {}, ` \u00d7\u00a0${list.length}`) : ''), ...list.map(connectionFacts));
  more.open = opened.has(key);
  more.addEventListener('toggle', () => (more.open ? opened.add(key) : opened.delete(key)));
  const oldest = list.reduce((a, b) => (b.connected_at < a.connected_at ? b : a));
  const cell = (...children) => element('td', {}, ...children);
  return element('tr', {}, element('th', { scope: 'row' }, more,
    element('span', { class: 'muted' }, foreign(one.address), one.node ? `, on ${visible(one.node)}` : '')),
  cell(badge(one.status)), cell(since(oldest.connected_at, lasting)), cell(tripText(list)));
}

function drawConnections() {
  const list = user.connection_list;
  if (!user.online && document.activeElement === byId('kick')) byId('detail-name').focus();
  byId('kick').hidden = !user.online;
  const none = user.online ? 'None: between two connections, or by heartbeats only.' : 'None.';
  const missing = user.unreachable?.length ? ` Not asked: ${user.unreachable.map(visible).join(', ')}.` : '';
  setText(byId('no-connections'), `${list.length ? '' : none}${missing}`);
  byId('connections').hidden = !list.length;
  const focused = [...byId('connection-rows').querySelectorAll('summary')].indexOf(document.activeElement);
  byId('connection-rows').replaceChildren(...groups(list).map(connectionRow));
  if (focused >= 0) {
    (byId('connection-rows').querySelectorAll('summary')[focused] ?? byId('detail-name')).focus();
  }
}

/** Asks whether the user is really to be kicked. */
function askKick() {
  byId('kick-name').replaceChildren(foreign(id));
  setText(byId('kick-what'), `Closes ${plural(user.connections, 'connection')} and ends the session. `
    + 'The user may come back if your application lets them.');
  const dialog = byId('kick-dialog');
  dialog.returnValue = '';
  dialog.dataset.id = id;
  dialog.showModal();
}

/** The dialog was closed: kicks when that was the answer. */
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
