/* A page without framework and bundler: the client comes from the presence server itself. */

import { ask, getToken, WORDS } from '/ask.js';

const apiUrl = document.documentElement.dataset.presence;
const { presenceService } = await import(`${apiUrl}/presence.js`);
presenceService.configure({ apiUrl, getToken });

const $ = (selector) => document.querySelector(selector);
let end = () => {}; // ends the watch

/** One line of the list. */
function show({ user_id: id, status }) {
  const line = [...$('ul').children].find((one) => one.dataset.user === id);
  line.textContent = `${id}: ${status}`;
}

/** Somebody is logged in, or nobody: null. Presence goes with it. */
function enter(user) {
  $('form').hidden = Boolean(user);
  $('main').hidden = !user;
  end();
  $('ul').replaceChildren();
  if (!user) return presenceService.stopPresence();
  $('h1').textContent = `Hello ${user.id}`;
  for (const id of user.friends) {
    const line = document.createElement('li');
    line.dataset.user = id;
    line.textContent = `${id}: not known`;
    $('ul').append(line);
  }
  presenceService.startPresence(user.id);
  end = presenceService.watch(user.friends, show);
  return undefined;
}

/** Logs in or registers with what is in the form. */
async function submit(event, path) {
  event.preventDefault();
  const form = new FormData($('form'));
  $('[role=alert]').textContent = '';
  try {
    const body = { name: form.get('name'), password: form.get('password') };
    enter((await ask('POST', path, body)).user);
  } catch (error) {
    $('[role=alert]').textContent = error.message;
  }
}

presenceService.on('change', ({ state, attempt }) => {
  $('[role=status]').dataset.state = state;
  $('[role=status]').textContent = `${WORDS[state]}${state === 'reconnecting' ? ` ${attempt}` : ''}`;
});
$('form').addEventListener('submit', (event) => submit(event, '/login'));
$('#register').addEventListener('click', (event) => submit(event, '/register'));
$('#logout').addEventListener('click', () => {
  enter(null); // offline at once, whatever becomes of the request
  ask('POST', '/logout');
});
enter((await ask('GET', '/session')).user); // a reload: the session is still there
