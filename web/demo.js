// SPDX-License-Identifier: MIT
// The demo page: a user in this tab, others who are followed or online, a network that can be cut.

import { request, userPath } from './admin/api.js';
import { badge, byId, element, fill, foreign, muted, on, setText, show, since, tick } from './admin/dom.js';
import { ago, clockSeconds, plural, visible } from './admin/format.js';
import { PresenceService } from './presence.js';

const EVERY = 2000; // ms between two looks at who is online
const LOG = 100; // lines kept

let cut = false;
let live = null; // the last real socket
let reconnected = 0;
let lost = false;

// A WebSocket, or while the network is cut one that fails as on a dead line.
function Socket(url, protocols) {
  if (!cut) return (live = new WebSocket(url, protocols));
  const dead = { readyState: 0, send() {}, close() {} };
  setTimeout(() => dead.onclose?.({ code: 1006, reason: '', wasClean: false }), 300);
  return dead;
}

const client = new PresenceService({ WebSocket: Socket });

// Cuts the network, or mends it. A page cannot end a socket without saying goodbye, so it breaks
// the protocol: the server takes that for a lost connection, as it would a pulled cable.
function setCut(now) {
  cut = now;
  byId('cut').setAttribute('aria-pressed', cut);
  setText('cut', cut ? 'Mend the network' : 'Cut the network');
  note(cut ? 'You cut the network' : 'You mended the network');
  if (!cut) dispatchEvent(new Event('online')); // as a browser tells it
  if (!cut || live?.readyState !== WebSocket.OPEN) return;
  const tell = live.onclose;
  live.onclose = live.onmessage = null;
  live.send(new Uint8Array(1));
  tell({ code: 1006, reason: 'cut', wasClean: false });
}

function note(text) {
  const log = byId('log');
  log.prepend(element('li', {}, element('time', {}, clockSeconds(Date.now())), text));
  while (log.children.length > LOG) log.lastChild.remove();
}

function showState(state, text) {
  byId('you').dataset.state = state;
  setText('state', text);
  setText('reconnected', reconnected);
  if (state === 'connected') setText('attempt', '0');
  setTimeout(look, 100);
}

function running(name) {
  show({ start: name === null, running: name !== null });
  fill('me', foreign(name ?? ''));
}

// Goes online with a name, and remembers it for a reload of this tab.
function start(name) {
  client.startPresence(name);
  sessionStorage.setItem('name', name);
  running(name);
  showState('trying', 'Connecting');
}

// What the user has set in another tab, or before a reload.
async function recall() {
  try {
    const { status, invisible, message = '' } =
      await request(`admin/${userPath(client.getCurrentUserId())}`);
    byId('status').value = invisible ? 'invisible' : status;
    byId('message').value = message;
  } catch (error) {
    note(error.message);
  }
}

client.on('connected', () => {
  if (lost) reconnected++;
  else recall();
  note(lost ? 'Connected again' : 'Connected');
  lost = false;
  showState('connected', 'Online');
});
client.on('disconnected', ({ code, willReconnect }) => {
  lost = willReconnect;
  if (willReconnect) note(`Connection lost (${code})`);
});
client.on('reconnecting', ({ attempt, delay, maxAttempts }) => {
  setText('attempt', `${attempt} of ${maxAttempts}`);
  note(`Attempt ${attempt} of ${maxAttempts} in ${(delay / 1000).toFixed(1)} s`);
  showState('trying', 'Reconnecting');
});
client.on('suspended', ({ delay }) => {
  note(`Suspended: from now on one try every ${Math.round(delay / 1000)} s`);
  showState('trying', 'Suspended');
});
client.on('error', ({ code, message, final }) => {
  note(`${message} (${code})`);
  if (!final) return;
  sessionStorage.removeItem('name');
  running(null);
});

const onName = (form, input, work) => on(form, 'submit', (event) => {
  event.preventDefault();
  try {
    work(byId(input).value.trim());
  } catch (error) {
    note(error.message);
  }
});
onName('start', 'name', start);
on('stop', 'click', () => {
  client.stopPresence();
  sessionStorage.removeItem('name');
  if (cut) setCut(false);
  note('You went offline');
  lost = false;
  running(null);
  showState('off', '');
  byId('status').value = 'online';
  byId('message').value = '';
  byId('name').focus();
});
on('cut', 'click', () => setCut(!cut));
for (const id of ['status', 'message']) {
  on(id, 'change', () => {
    const status = byId('status').value;
    client.setStatus(status === 'online' ? null : status,
      { manual: true, message: byId('message').value });
    setTimeout(look, 100);
  });
}

const followed = new Set();

function follow(id) {
  if (followed.has(id)) return;
  const stop = element('button', { 'aria-label': `Stop following ${visible(id)}` }, 'Stop');
  const about = element('span', { class: 'about' }, muted('not known yet'));
  const item = element('li', {}, foreign(id), about, stop);
  const end = client.watch(id, ({ status, message = '', source, stale }) => about.replaceChildren(
    muted(foreign(message), stale ? ' (stale)' : ''), badge(status), badge(source)),
  (error) => about.replaceChildren(element('span', {}, error.message)));
  stop.addEventListener('click', () => {
    end();
    followed.delete(id);
    item.remove();
  });
  followed.add(id);
  byId('followed').append(item);
}
onName('follow', 'whom', (id) => {
  follow(id);
  byId('whom').value = '';
});

// Looks who is online; not by a stream, for which a browser has six connections a server only.
async function look() {
  if (document.hidden) return;
  try {
    const { users, count } = await request('admin/online-users?limit=100');
    setText('count', count);
    show({ nobody: !count });
    fill('others', ...users.map((user) => element('li', {}, foreign(user.user_id),
      muted(user.user_id === client.getCurrentUserId() ? 'you, ' : '',
        plural(user.connections, 'connection'), ', ', since(user.last_seen, ago)),
      badge(user.status), badge(user.source))));
  } catch (error) {
    setText('count', error.status === 401 ? 'only admins see them' : error.message);
  }
}

setInterval(tick, 1000);
setInterval(look, EVERY);
document.addEventListener('visibilitychange', look);
const name = sessionStorage.getItem('name') ?? '';
byId('name').value = name;
if (name) start(name);
look();
