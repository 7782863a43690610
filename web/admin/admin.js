// SPDX-License-Identifier: MIT
// The admin page: puts the parts together.

import { atServer, onRefused, openStream, request, setToken, steady } from './api.js';
import { drawChart } from './chart.js';
import { showUser, shownUser, userChanged } from './detail.js';
import { byId, idle, on, setIcon, setText, show, tick } from './dom.js';
import { clockSeconds, count } from './format.js';
import { drawList, drawTimes, select, startList } from './list.js';
import { Model, parsePosition } from './model.js';
import { drawServer } from './server.js';
import { pages, Stored } from './stored.js';
import { ChangeStream, health } from './stream.js';

const PAGE = 1000; // users a request
const POLL = 30000; // ms between two loads of the list when no stream tells changes
const STATS = 10000; // between two looks at the totals
const HISTORY = 60000; // and at the history
const CHANGES = 1000; // changes applied a frame
const LONG = 5000; // a list of more users is drawn
const CALM = 250; // at most this often, in ms
const HIDDEN = 30000; // a tab hidden this long gives its stream back: browsers have six a server

const model = new Model();
const stream = new ChangeStream({ fetch: openStream, wake: schedule });
const stored = new Stored({
  request,
  take(users, position) {
    if (!model.page(users, position, true)) throw new Error('the server started anew');
  },
  wake: changed,
});

// What is known of the server.
const fresh = () => ({
  running: false, // signed in, and data is shown
  loading: '', // how far the load is
  loader: null, // ends the load under way
  loaded: 0, // when that last ended
  problem: '', // of the last load
  stats: null,
  known: null, // the last position the server is known to have had, and since when: { epoch, seq, at }
  heard: 0, // when data last came
  drawn: 0,
  dirty: false, // the list changed since
  due: { stats: 0, history: 0, poll: Infinity }, // when to ask
});
let state = fresh();
let hiddenSince = 0;

const connection = () => health(stream, {
  seen: model.seq,
  known: state.known?.epoch === model.epoch ? state.known.seq : 0,
  knownAt: state.known?.at,
  loading: state.loading || (model.complete ? '' : 'the list is not complete'),
  now: steady(),
});

// Whether the store has to answer the question, too.
const wantsStored = () => /offline|all/.test(model.query.filter);

// What the list has to know to draw itself.
function facts() {
  const limits = state.stats?.limits ?? {};
  return {
    now: atServer(),
    bounds: { live: limits['ping-interval'] + limits['pong-timeout'],
      cached: limits['online-threshold'] }, // a user of this source was heard within, in ms
    current: connection().state === 'connected',
    loading: state.loading && !model.complete,
    reached: state.loaded > 0,
    stored: wantsStored() ? stored : null,
    known: state.stats?.users.known ?? 0,
    online: model.totals.users,
  };
}

// ---- Drawing ----

let frame = 0;
let late = 0;

// Has step() called in the next frame, or within CALM: a hidden tab has no frames.
function schedule() {
  frame ||= requestAnimationFrame(step);
  late ||= setTimeout(step, CALM);
}

function changed() {
  state.dirty = true;
  schedule();
}

// Applies what has come, and draws what changed.
function step() {
  cancelAnimationFrame(frame);
  clearTimeout(late);
  frame = late = 0;
  if (!state.running) return;
  stream.take(CHANGES).forEach(apply);
  if (stream.phase === 'refused') checkSession();
  const alone = /waiting|absent/.test(stream.phase); // no stream begins the first load
  if (alone && !state.loaded && !state.loader && !state.problem) load();
  if (stream.queue.length) schedule();
  if (!document.hidden) draw();
}

// An event that is not understood begins the stream anew.
function apply({ type, data }) {
  state.heard = steady();
  try {
    const event = JSON.parse(data);
    hear(event.position);
    if (type === 'reset') {
      model.reset(event.position);
      load();
    }
    if (type === 'change' && model.change(event)) {
      state.dirty = true;
      if (event.user.user_id === shownUser()) userChanged();
    }
  } catch (error) {
    stream.lastId = null;
    stream.fail(`the stream was not understood: ${error.message}`);
  }
}

// Notes how far the server is.
function hear(text) {
  const { known } = state;
  const position = parsePosition(text);
  if (!position || (known?.epoch === position.epoch && known.seq >= position.seq)) return;
  state.known = { ...position, at: steady() };
}

// Draws at every change while the list is short, seldom when it is long.
function draw() {
  drawConnection();
  if (model.rows.size > LONG && steady() - state.drawn < CALM) {
    late ||= setTimeout(step, CALM);
    return;
  }
  state.drawn = steady();
  if (state.dirty) drawList();
  state.dirty = false;
  const { stats } = state;
  if (!model.complete && !stats) return;
  const totals = model.complete ? model.totals
    : { ...stats.users, users: stats.users.online, connections: stats.connections.current };
  for (const name of ['users', 'connections', 'live', 'cached']) setText(`count-${name}`, count(totals[name]));
  document.title = `${count(totals.users)} online \u2013 presence`;
}

// A moment of this page as the server's clock showed it.
const shown = (at) => clockSeconds(at + atServer() - steady());

function drawConnection() {
  const { state: how, text } = connection();
  const box = byId('connection');
  box.dataset.state = how;
  setIcon(box.querySelector('svg'), how);
  setText('connection-word', { connected: 'Live', behind: 'Behind', broken: 'Broken' }[how]);
  const broken = how === 'broken';
  const next = Math.min(state.due.poll, stream.phase === 'waiting' ? stream.nextTry : Infinity);
  setText('connection-text', [
    text,
    broken && state.heard && `last data at ${shown(state.heard)}`,
    how !== 'connected' && state.loaded && `list refreshed at ${shown(state.loaded)}`,
    state.problem,
    broken && next < Infinity && `next try in ${Math.max(0, Math.ceil((next - steady()) / 1000))} s`,
  ].filter(Boolean).join(', '));
  show({ stored: stored.problem && wantsStored() });
  setText('stored-text', `Offline users could not be loaded: ${stored.problem}.`);
}

// ---- Loading ----

// Everybody online, page by page in idle time. A later call ends an earlier one.
async function load() {
  state.loader?.abort();
  const { signal } = state.loader = new AbortController();
  const mine = state;
  const quiet = model.complete && model.totals.users <= PAGE;
  if (!quiet) state.loading = 'loading the list';
  model.beginLoad();
  try {
    let seen = 0;
    for await (const { users, position, count: all } of pages(request, 'online-users', { limit: PAGE }, signal)) {
      await idle();
      if (signal.aborted) return;
      hear(position);
      if (stream.phase !== 'open' && position) model.adopt(parsePosition(position).epoch);
      if (!model.page(users, position)) throw new Error('the server started anew');
      seen += users.length;
      state.heard = steady();
      if (!quiet) state.loading = `loading ${count(seen)} of ${count(all)}`;
      changed();
    }
    model.endLoad();
    state.loaded = steady();
    state.problem = '';
  } catch (error) {
    if (signal.aborted) return;
    state.problem = `last refresh failed, ${error.message}`;
  }
  Object.assign(mine, { loader: null, loading: '' });
  mine.due.poll = steady() + POLL;
  changed();
}

async function loadStats() {
  const mine = state;
  mine.due.stats = steady() + STATS;
  try {
    mine.stats = await request('stats');
    mine.heard = steady();
    hear(mine.stats.position);
    drawServer(mine.stats);
  } catch { /* asked again soon; the stream tells how the connection is */ }
  changed();
}

// A server without a history is not asked again.
async function loadHistory() {
  state.due.history = steady() + HISTORY;
  try {
    await drawChart();
  } catch (error) {
    if (error.status === 404) state.due.history = Infinity;
  }
}

function askStored() {
  const { sort, descending } = model.query;
  if (!wantsStored()) stored.clear();
  else stored.ask(byId('search').value, sort === 'seen' ? `${descending ? '-' : ''}last_seen` : '');
  schedule();
}

// ---- Signing in and out ----

const showData = (yes) => show({ starting: false, login: !yes, main: yes, bar: yes });

// The session, or a rejection. A server without logins may give its data to anyone.
async function session() {
  let found;
  try {
    found = await request('login');
  } catch (error) {
    if (error.status !== 404) throw error;
    await request('stats');
    return { expires_at: null };
  }
  if (found.authenticated) return found;
  throw Object.assign(new Error(), { status: 401, password: found.password });
}

// Forgets what was shown, and shows the form. Where there is no password, it asks for an admin's
// token, which is kept as long as this page is.
function showLogin(message, password = !byId('login-form').dataset.token) {
  state.loader?.abort();
  state = fresh();
  stored.clear();
  setToken('');
  stream.close('');
  stream.lastId = null;
  showUser(null);
  byId('kick-dialog').close();
  model.clear();
  drawList();
  byId('login-form').dataset.token = password ? '' : 'yes';
  show({ 'login-why': !password });
  setText('login-label', password ? 'Admin password' : 'Token of an admin');
  setText('login-message', message);
  showData(false);
  document.title = 'Sign in \u2013 presence';
  byId('password').focus();
}

async function login(event) {
  event.preventDefault();
  const button = byId('login-button');
  const input = byId('password');
  const { token } = byId('login-form').dataset;
  let text = '';
  let wait = 0;
  button.disabled = true;
  try {
    if (token) {
      const value = input.value.trim();
      if (!/^[\w.-]+$/.test(value)) throw new Error('This is no token.');
      setToken(value);
      await request('stats');
      run({});
    } else run(await request('login', { method: 'POST', body: { password: input.value } }));
    input.value = '';
  } catch (error) {
    setToken('');
    if (error.status === 429) wait = error.retryAfter || 30;
    text = { 401: token ? `This token does not open it: ${error.message}.` : 'This is not the password.',
      403: 'This token is not one of an admin ("admin":true).',
      404: 'This server has no admin password (--admin-password-file).',
      429: `Too many failures. Try again in ${wait} s.` }[error.status] ?? error.message;
    input.select();
  }
  setText('login-message', text);
  setTimeout(() => { button.disabled = false; }, wait * 1000);
}

async function logout() {
  try {
    if (!byId('login-form').dataset.token) await request('logout', { method: 'POST' });
    showLogin('You are signed out.');
  } catch (error) {
    state.problem = `not signed out, ${error.message}`;
  }
}

// Something was refused: perhaps the session has ended.
async function checkSession() {
  if (!state.running || state.checking) return;
  state.checking = true;
  try {
    await session();
    if (stream.phase === 'refused') stream.fail('the server refused the stream');
  } catch (error) {
    if (error.status) showLogin('Your session has ended. Please sign in again.');
  }
  state.checking = false;
}

function run({ expires_at: until }) {
  Object.assign(state, { running: true, loading: 'loading the list' });
  show({ logout: until !== null, overview: false, 'chart-box': false }); // not known: shown
  showData(true);
  route();
  stream.open();
  second();
  schedule();
}

// Shows what the address names: #/, #/server, #/user/ID.
function route() {
  if (!state.running) return;
  const server = location.hash === '#/server';
  for (const [id, here] of [['people', !server], ['server', server]]) {
    byId(id).hidden = !here;
    byId(`nav-${id}`).setAttribute('aria-current', here && 'page');
  }
  let id = null;
  try {
    id = decodeURIComponent(/^#\/user\/(.+)$/.exec(location.hash)?.[1] ?? '') || null;
  } catch { /* not an id: nobody is shown */ }
  const before = server ? null : shownUser();
  showUser(id);
  select(id, before);
}

// Once a second: times tick, and what is due is asked for.
function second() {
  const now = steady();
  const { running, due } = state;
  if (!running) return;
  stream.tick();
  if (document.hidden) {
    if (now - hiddenSince > HIDDEN) stream.close('paused while this tab is hidden');
    return;
  }
  if (now >= due.stats) loadStats();
  if (now >= due.history) loadHistory();
  if (now >= due.poll && !state.loader && (
    stream.phase !== 'open' || !model.complete || model.totals.users <= PAGE)) {
    if (stream.phase !== 'waiting') stream.open();
    load();
  }
  tick();
  drawTimes();
  drawConnection();
}

function visibility() {
  hiddenSince = steady();
  if (document.hidden || !state.running) return;
  stream.open();
  second();
  changed();
}

function refresh() {
  stream.open();
  load();
  loadStats();
  loadHistory();
}

startList(model, facts, askStored, () => stored.more());
onRefused(checkSession);
const here = new URL('..', document.baseURI).href.replace(/\/$/, '');
setText('first-code', `import { PresenceService } from '${here}/presence.js';
new PresenceService({ apiUrl: '${here}' }).startPresence('alice');`);
on('refresh', 'click', refresh);
on('more', 'click', () => stored.again());
on('logout', 'click', logout);
on('login-form', 'submit', login);
addEventListener('hashchange', route);
addEventListener('online', () => state.running && stream.open());
document.addEventListener('visibilitychange', visibility);
setInterval(second, 1000);
session().then(run, ({ status, password }) => {
  if (status) showLogin('', password);
  else run({}); // no answer: tried again there
});
