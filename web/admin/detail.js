// SPDX-License-Identifier: MIT
// One user: connections, timeline of sessions, kick.

import { atServer, request, steady, userPath } from './api.js';
import { badge, byId, element, facts, foreign, on, setBadge, setText, ticker } from './dom.js';
import { ago, clock, count, lasting, plural, sessionText, visible } from './format.js';

const PAGE = 50; // sessions asked for at a time
const EVERY = 10000; // the open user is asked for this often, in ms
const AFTER_CHANGE = 300; // and this soon after a change

const status = badge();
const source = badge();
let refused; // called when the session has ended
let id = null; // the user shown
let user = null;
let sessions = []; // newest first
let next = null; // cursor of the next page
let due = 0; // when to ask again
let asking = null; // ends the question under way

/** The user shown, or null. */
export const shownUser = () => id;

/** Connects the panel; `close` is called when it is to go, `whenRefused` at a 401. */
export function startDetail(close, whenRefused) {
  refused = whenRefused;
  byId('detail-state').append(status, source);
  on('detail-close', 'click', close);
  on('detail-more', 'click', earlier);
  on('kick', 'click', askKick);
  on('kick-dialog', 'close', kick);
  on('detail', 'keydown', ({ key }) => key === 'Escape' && close());
  setInterval(() => id !== null && steady() >= due && !document.hidden && refresh(), 250);
}

/** Shows a user, or nobody for null. */
export function showUser(other) {
  if (id === other) return;
  [id, user, sessions, next] = [other, null, [], null];
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
    drawStays();
  });
}

/** The time since a moment in the words given; it ticks. */
const since = (iso, words) => ticker((now) => words(Math.max(0, now - Date.parse(iso))));

/** A moment with the time since it: "14:02 (3 min ago)". */
const moment = (iso, words) =>
  [`${clock(Date.parse(iso), atServer())} `, since(iso, (ms) => `(${words(ms)})`)];

function draw() {
  setBadge(status, user.status);
  setBadge(source, user.source);
  byId('detail-facts').replaceChildren(...facts([
    ...[['Online since', user.connected_at, lasting], ['Last seen', user.last_seen, ago],
      ['First seen', user.first_seen, ago]]
      .filter(([, at]) => at).map(([label, at, words]) => [label, ...moment(at, words)]),
    ['Ended sessions', count(user.sessions)],
  ]));
  byId('kick').hidden = !user.online;
  const none = user.online ? 'None: between two connections, or by heartbeats only.' : 'None.';
  setText(byId('no-connections'), user.connection_list.length ? '' : none);
  byId('connections').replaceChildren(...user.connection_list.map((one) => {
    const host = one.address.includes(':') ? `[${one.address}]` : one.address;
    const trip = one.round_trip_ms;
    return element('li', { class: 'card' },
      element('div', { class: 'row' }, element('strong', {}, visible(`${host}:${one.port}`)),
        badge(one.status)),
      element('dl', { class: 'facts' }, ...facts([
        ['Agent', visible(one.agent) || 'not given'],
        ['Since', ...moment(one.connected_at, lasting)],
        ['Last heard', since(one.last_heard, ago)],
        ['Round trip', trip === null ? 'not measured yet' : `${count(trip)} ms`],
      ])));
  }));
  drawStays();
  byId('detail-body').hidden = false;
}

function drawStays() {
  byId('timeline').replaceChildren(...sessions.map(({ from, to, reason, address }) => element('li',
    { 'data-reason': reason ?? 'open' }, sessionText({ from, to, reason }, atServer()),
    element('span', { class: 'muted' },
      to === null ? since(from, lasting) : lasting(Date.parse(to) - Date.parse(from)),
      address ? `, from ${visible(address)}` : ''))));
  byId('no-sessions').hidden = sessions.length > 0;
  byId('detail-more').hidden = !next;
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
    say(`Kicked: ${plural(closed, 'connection')} closed.`);
    byId('detail-name').focus();
  });
}
