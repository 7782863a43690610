// The admin page: puts the parts together. One timer a second; drawing once a frame at most.

import { openStream, request } from './api.js';
import { Chart } from './chart.js';
import { Detail } from './detail.js';
import { byId, idle, setIcon, setText, tick } from './dom.js';
import { ago, clockSeconds, count, lasting } from './format.js';
import { List } from './list.js';
import { Model, parsePosition } from './model.js';
import { drawServer } from './server.js';
import { ChangeStream, health } from './stream.js';

const PAGE = 1000; // users a request
const POLL = 30000; // the list is asked for again this often when no stream tells changes
const STATS = 10000; // totals and the server's position
const HISTORY = 60000;
const COUNTS = 250; // the tiles change at most this often
const HIDDEN = 30000; // a tab hidden this long gives its stream back
const CHANGES = 1000; // changes applied a frame
const MISMATCH = 60000; // after a difference in numbers, the list is loaded at most this often

const model = new Model();
const chart = new Chart();
const detail = new Detail({ failed: sessionLost, closed: closeDetail });
const list = new List(model, { facts, more: moreOffline, changed: queryChanged });
const stream = new ChangeStream({ fetch: openStream, wake: schedule });

const state = {
    running: false, // signed in, and data is shown
    loading: '', // what the load under way says of itself
    loadAbort: null,
    stats: null,
    known: null, // the last position the server was heard to have
    knownAt: 0,
    lastData: 0, // when anything last came from the server
    lastLoad: 0, // when everybody was last loaded
    loadProblem: '',
    nextPoll: Infinity,
    nextStats: Infinity,
    nextHistory: Infinity,
    hiddenSince: 0,
    mismatchAt: -Infinity,
    countsAt: 0,
    dirty: false, // the view changed since it was drawn
    offline: { cursor: null, done: false, busy: false, text: null }, // stored users loaded
    until: 0, // when the session ends
};

/** What the list has to know to draw itself. */
function facts() {
    const limits = state.stats?.limits ?? {};
    const bounds = new Map([
        ['live', (limits['ping-interval'] ?? 0) + (limits['pong-timeout'] ?? 0)],
        ['cached', limits['online-threshold'] ?? 0],
    ]);
    const now = Date.now();
    const current = connection(now).state === 'connected';
    return { now, bounds, current, loading: state.loading && !model.complete,
        reached: state.lastLoad > 0 };
}

/** How the connection is doing. */
function connection(now) {
    return health({
        phase: stream.phase,
        problem: stream.problem,
        lastByte: stream.lastByte,
        waiting: stream.waiting,
        oldest: stream.oldest,
    }, {
        seen: model.seq,
        known: state.known && state.known.epoch === model.epoch ? state.known.seq : 0,
        knownAt: state.knownAt,
        loading: state.loading,
        now,
    });
}

// ---- Drawing ------------------------------------------------------------------------------------

let frame = 0;
let late = 0;
let countsLater = 0;

/** Has step() called in the next frame, or within a second in a hidden tab, which has no frames. */
function schedule() {
    if (!frame) frame = requestAnimationFrame(step);
    late ||= setTimeout(step, 1000);
}

/** Applies what has come, and draws what changed. */
function step() {
    cancelAnimationFrame(frame);
    clearTimeout(late);
    frame = 0;
    late = 0;
    if (!state.running) return;
    for (const event of stream.take(CHANGES)) apply(event);
    if (stream.phase === 'refused') checkSession();
    const noStream = stream.phase === 'waiting' || stream.phase === 'absent';
    if (noStream && !state.lastLoad && !state.loadAbort && !state.loadProblem) load();
    if (model.flush()) state.dirty = true;
    if (stream.waiting) schedule();
    if (document.hidden) return;
    if (state.dirty) list.draw();
    state.dirty = false;
    drawCounts();
    drawConnection();
}

/** Takes one event of the stream. A stream that is not understood is begun anew. */
function apply({ type, data }) {
    state.lastData = Date.now();
    try {
        const event = JSON.parse(data);
        if (type === 'reset') {
            model.reset(event.position);
            load();
        } else if (type === 'change') {
            hear(event.position);
            if (model.change(event) && event.user.user_id === detail.id) detail.changed();
        }
    } catch (error) {
        stream.forget();
        stream.fail(`the stream was not understood: ${error.message}`);
    }
}

/** Notes how far the server is, from an answer of any kind. */
function hear(text) {
    const position = parsePosition(text);
    if (!position) return;
    const { known } = state;
    if (known?.epoch === position.epoch && known.seq >= position.seq) return;
    state.known = position;
    state.knownAt = Date.now();
}

/** Draws the totals: the page's own once everybody is loaded, the server's before. */
function drawCounts() {
    const now = Date.now();
    if (now - state.countsAt < COUNTS) {
        countsLater ||= setTimeout(() => { countsLater = 0; schedule(); }, COUNTS);
        return;
    }
    state.countsAt = now;
    const { stats } = state;
    const own = model.complete && (stream.phase === 'open' || state.lastLoad > state.statsAt);
    if (!own && !stats) return;
    const totals = own ? model.totals : { ...stats.users, users: stats.users.online,
        connections: stats.connections.current };
    for (const name of ['users', 'connections', 'live', 'cached']) {
        setText(byId(`count-${name}`), count(totals[name]));
    }
    document.title = `${count(totals.users)} online \u2013 presence`;
}

/** Draws how the connection is, when data last came, and what happens next. */
function drawConnection() {
    const now = Date.now();
    const { state: how, text } = connection(now);
    const words = { connected: 'Live', behind: 'Behind', broken: 'Broken' }[how];
    const box = byId('connection');
    if (box.dataset.state !== how) box.dataset.state = how;
    setIcon(box.querySelector('svg'), how);
    setText(byId('connection-word'), words);
    let more = text;
    if (how === 'broken' && state.lastData) more += `; last data at ${clockSeconds(state.lastData)}`;
    setText(byId('connection-text'), more);
    const parts = [];
    if (state.lastLoad) parts.push(`List loaded at ${clockSeconds(state.lastLoad)}`);
    if (state.loadProblem) parts.push(state.loadProblem);
    if (how === 'broken' && state.nextPoll < Infinity) {
        parts.push(`next try in ${Math.max(0, Math.ceil((nextTry() - now) / 1000))} s`);
    }
    setText(byId('refreshed'), parts.join(', '));
    drawOfflineBar();
}

/** When the stream or the list is next tried. */
function nextTry() {
    return stream.phase === 'waiting' ? Math.min(stream.nextTry, state.nextPoll) : state.nextPoll;
}

// ---- Loading ------------------------------------------------------------------------------------

/** Loads everybody online, page by page in idle time. A later call ends an earlier one. */
async function load() {
    state.loadAbort?.abort();
    const abort = new AbortController();
    state.loadAbort = abort;
    state.nextPoll = Date.now() + POLL;
    const big = model.rows.size > PAGE;
    if (!model.complete) state.loading = 'loading the list';
    model.beginLoad();
    try {
        let cursor = null;
        let seen = 0;
        do {
            const query = cursor ? `&cursor=${encodeURIComponent(cursor)}` : '';
            const page = await request(`online-users?limit=${PAGE}${query}`,
                { signal: abort.signal });
            await idle();
            if (abort.signal.aborted) return;
            const position = parsePosition(page.position);
            if (position && stream.phase !== 'open') model.adopt(position.epoch);
            if (!model.page(page.users, page.position)) throw new Error('the server started anew');
            seen += page.users.length;
            if (page.next && (!model.complete || big)) {
                state.loading = `loading ${count(seen)} of ${count(page.count)}`;
            }
            state.lastData = Date.now();
            state.dirty = true;
            schedule();
            cursor = page.next;
        } while (cursor);
        model.endLoad();
        state.lastLoad = Date.now();
        state.loadProblem = '';
    } catch (error) {
        if (abort.signal.aborted) return;
        if (error.status === 401 || error.status === 403) checkSession();
        state.loadProblem = `could not load the list: ${error.message}`;
    }
    state.loadAbort = null;
    state.loading = '';
    state.nextPoll = Date.now() + POLL;
    state.dirty = true;
    schedule();
}

/** Asks for the totals, and compares them with the page's own when both are of the same moment. */
async function loadStats() {
    state.nextStats = Date.now() + STATS;
    try {
        const stats = await request('stats');
        state.stats = stats;
        state.statsAt = Date.now();
        state.lastData = state.statsAt;
        hear(stats.position);
        compare(stats);
        if (!byId('server').hidden) drawServer(stats);
        state.dirty = true;
    } catch (error) {
        if (error.status === 401 || error.status === 403) checkSession();
    }
    schedule();
}

/** The list must have as many users as the server counts; otherwise it is loaded again. */
function compare({ position, users }) {
    const at = parsePosition(position);
    if (!at || !model.complete || state.loading || stream.waiting) return;
    if (at.epoch !== model.epoch || at.seq !== model.seq || model.totals.users === users.online) {
        return;
    }
    if (Date.now() - state.mismatchAt < MISMATCH) return;
    state.mismatchAt = Date.now();
    load();
}

/** Asks for the samples of the overview. */
async function loadHistory() {
    state.nextHistory = Date.now() + HISTORY;
    try {
        await chart.refresh();
    } catch (error) {
        if (error.status === 401) checkSession();
    }
}

/** Everything again, and the stream at once if it is broken. */
function refresh() {
    setText(byId('found'), 'Refreshing');
    stream.open();
    load();
    loadStats();
    loadHistory();
}

// ---- Offline users, which are loaded on demand --------------------------------------------------

/** Another question was asked of the list. */
function queryChanged() {
    const { filter, text } = model.query;
    if (filter !== 'offline' && filter !== 'all') return drawOfflineBar();
    if (text !== state.offline.text) {
        state.offline = { cursor: null, done: false, busy: false, text };
        moreOffline();
    }
    return drawOfflineBar();
}

/** Loads one more page of offline users. The server tells capital from small letters. */
async function moreOffline() {
    const { offline } = state;
    if (offline.busy || offline.done) return;
    offline.busy = true;
    try {
        const query = new URLSearchParams({ status: 'offline', limit: PAGE });
        const typed = byId('search').value;
        if (typed) query.set('q', typed);
        if (offline.cursor) query.set('cursor', offline.cursor);
        const page = await request(`users?${query}`);
        await idle();
        if (offline !== state.offline) return;
        model.page(page.users, page.position);
        offline.cursor = page.next;
        offline.done = !page.next;
    } catch (error) {
        if (error.status === 401) checkSession();
        setText(byId('found'), `Offline users could not be loaded: ${error.message}`);
    }
    offline.busy = false;
    state.dirty = true;
    schedule();
}

/** Says how many offline users are loaded, and offers more. */
function drawOfflineBar() {
    const bar = byId('offline-bar');
    const { filter } = model.query;
    bar.hidden = filter !== 'offline' && filter !== 'all';
    if (bar.hidden) return;
    const { done, busy } = state.offline;
    const loaded = `${count(model.gone.size)} offline users loaded`;
    setText(byId('offline-text'), busy ? 'Loading offline users' : done ? `${loaded}, all there are`
        : `${loaded}, there are more. Search narrows them (capital letters count).`);
    byId('more').hidden = done;
}

// ---- Signing in and out -------------------------------------------------------------------------

/** Shows one of the parts of the page: loading, login, main. */
function show(part) {
    for (const id of ['starting', 'login', 'main']) byId(id).hidden = id !== part;
    byId('bar').hidden = part !== 'main';
}

/** Asks whether somebody is signed in, and begins with the data or the form. */
async function begin() {
    let session;
    try {
        session = await request('login');
    } catch (error) {
        if (error.status === 0) {
            setText(byId('starting-text'), 'The server does not answer. Trying again in 5 s.');
            setTimeout(begin, 5000);
            return;
        }
        session = error.status === 404 ? await withoutLogin() : { authenticated: false };
    }
    if (session.authenticated) run(session);
    else showLogin('');
}

/** A server without a login: whether it gives its data away all the same. */
async function withoutLogin() {
    try {
        await request('stats');
        return { authenticated: true, expires_at: null };
    } catch {
        return { authenticated: false };
    }
}

/** Shows the form, with a message. */
function showLogin(message) {
    stop();
    show('login');
    document.title = 'Sign in \u2013 presence';
    setText(byId('login-message'), message);
    byId('password').focus();
}

let wait = 0; // the timer of a login that has to wait

/** Tries the password. */
async function login(event) {
    event.preventDefault();
    const button = byId('login-button');
    button.disabled = true;
    try {
        const session = await request('login', { method: 'POST',
            body: { password: byId('password').value } });
        byId('password').value = '';
        run({ authenticated: true, expires_at: session.expires_at });
    } catch (error) {
        if (error.status === 429) {
            waitForLogin(Date.now() + 1000 * (error.retryAfter || 30));
            return;
        }
        const texts = new Map([
            [401, 'This is not the password.'],
            [404, 'This server has no password for admins. Start it with --admin-password-file, '
                + 'or use the API with a token that has "admin": true.'],
        ]);
        setText(byId('login-message'), texts.get(error.status) ?? error.message);
        byId('password').select();
    }
    button.disabled = false;
}

/** Counts down until the next try is allowed. */
function waitForLogin(until) {
    clearTimeout(wait);
    const left = Math.ceil((until - Date.now()) / 1000);
    byId('login-button').disabled = left > 0;
    // The countdown is not read out every second: only the first message is in the live part.
    setText(byId('login-countdown'), left > 0 ? `You can try again in ${left} s.` : '');
    setText(byId('login-message'), left > 0 ? 'Too many failures. Please wait.' : '');
    if (left > 0) wait = setTimeout(waitForLogin, 1000, until);
}

/** Ends the session. */
async function logout() {
    try {
        await request('logout', { method: 'POST' });
        showLogin('You are signed out.');
    } catch (error) {
        setText(byId('found'), `Not signed out: ${error.message}`);
    }
}

let checking = false;

/** Something was refused: the form when the session has ended. */
async function checkSession() {
    if (checking || !state.running) return;
    checking = true;
    try {
        const session = await request('login');
        if (session.authenticated) stream.fail('the server refused the stream');
        else sessionLost();
    } catch (error) {
        if (error.status !== 0) sessionLost();
    }
    checking = false;
}

/** The session has ended. */
function sessionLost() {
    if (state.running) showLogin('Your session has ended. Please sign in again.');
}

/** Shows the data and keeps it up to date. */
function run(session) {
    state.running = true;
    state.until = session.expires_at ? Date.parse(session.expires_at) : 0;
    byId('logout').hidden = !state.until;
    show('main');
    route();
    state.loading = 'loading the list';
    state.nextPoll = Date.now() + POLL;
    stream.open();
    loadStats();
    loadHistory();
    schedule();
}

/** Stops everything and forgets what was shown: who is signed out sees nothing. */
function stop() {
    state.running = false;
    state.loadAbort?.abort();
    stream.close();
    stream.forget();
    detail.close();
    model.forgetAll();
    Object.assign(state, { loading: '', stats: null, known: null, lastData: 0, lastLoad: 0,
        loadProblem: '', nextPoll: Infinity, nextStats: Infinity, nextHistory: Infinity });
    state.offline = { cursor: null, done: false, busy: false, text: null };
    list.draw();
}

// ---- Addresses within the page ------------------------------------------------------------------

/** Shows what the address names: #/, #/server, #/user/ID. */
function route() {
    if (!state.running) return;
    const hash = location.hash.slice(1);
    const server = hash === '/server';
    byId('people').hidden = server;
    byId('server').hidden = !server;
    byId('nav-people').setAttribute('aria-current', server ? 'false' : 'page');
    byId('nav-server').setAttribute('aria-current', server ? 'page' : 'false');
    if (server && state.stats) drawServer(state.stats);
    const id = hash.startsWith('/user/') ? decoded(hash.slice('/user/'.length)) : null;
    const before = detail.id;
    if (id) detail.open(id);
    else detail.close();
    list.select(id);
    if (!id && before && !server) list.focus(before);
}

/** A percent-encoded text, or null when it is none. */
function decoded(text) {
    try {
        return decodeURIComponent(text);
    } catch {
        return null;
    }
}

/** Closes the details. */
function closeDetail() {
    location.hash = '#/';
}

// ---- The one timer, and the beginning ------------------------------------------------------------

/** Once a second: times tick, and what is due is asked for. */
function second() {
    if (!state.running) return;
    const now = Date.now();
    stream.tick();
    if (document.hidden) {
        if (now - state.hiddenSince > HIDDEN && stream.phase !== 'closed') {
            stream.close('paused while this tab is hidden');
        }
        return;
    }
    if (state.until && now > state.until) checkSession();
    if (now >= state.nextStats) loadStats();
    if (now >= state.nextHistory && !chart.missing) loadHistory();
    if (now >= state.nextPoll) poll();
    tick(now);
    list.settle();
    list.drawTimes();
    drawConnection();
}

/** The list again, where no stream tells changes, or where it is so short that it costs nothing. */
function poll() {
    state.nextPoll = Date.now() + POLL;
    if (stream.phase === 'absent') stream.open();
    if (stream.phase !== 'open' || model.totals.users <= PAGE) load();
}

/** The tab was hidden or shown. */
function visibility() {
    state.hiddenSince = Date.now();
    if (document.hidden || !state.running) return;
    stream.open();
    second();
    state.dirty = true;
    schedule();
}

byId('refresh').addEventListener('click', refresh);
byId('logout').addEventListener('click', logout);
byId('login-form').addEventListener('submit', login);
byId('skip').addEventListener('click', (event) => {
    event.preventDefault();
    byId('people').hidden ? byId('server-title').focus() : byId('search').focus();
});
addEventListener('hashchange', route);
addEventListener('online', () => state.running && stream.open());
document.addEventListener('visibilitychange', visibility);
setInterval(second, 1000);
setInterval(() => detail.tick(Date.now()), 250);
list.drawHead();
begin();
