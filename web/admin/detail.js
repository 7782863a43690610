// One user: connections, timeline of stays, kick.

import { request, userPath } from './api.js';
import { badge, byId, element, facts, foreign, on, setBadge, setText, ticker } from './dom.js';
import { ago, clock, count, lasting, plural, stayText, visible } from './format.js';

/** Stays asked for at a time. */
const STAYS = 50;

/** The open user is asked for again this often, in ms, and this soon after a change. */
const EVERY = 10000;
const AFTER_CHANGE = 300;

export class Detail {
  id = null; // the user shown
  user = null;
  stays = []; // newest first
  next = null; // cursor of the stays before
  due = 0; // when to ask again
  asking = null; // ends the question under way
  status = badge();
  source = badge();

  /** `refused` is called when the session has ended, `closed` when the panel is to go. */
  constructor({ refused, closed }) {
    this.refused = refused;
    byId('detail-state').append(this.status, this.source);
    on('detail-close', 'click', closed);
    on('detail-more', 'click', () => this.earlier());
    on('kick', 'click', () => this.askKick());
    on('kick-dialog', 'close', () => this.kick());
    on('detail', 'keydown', ({ key }) => key === 'Escape' && closed());
  }

  /** Shows a user, or nobody for null. */
  open(id) {
    if (this.id === id) return;
    Object.assign(this, { id, user: null, stays: [], next: null });
    this.asking?.abort();
    byId('detail').hidden = id === null;
    document.body.classList.toggle('has-detail', id !== null);
    if (id === null) return;
    byId('detail-name').replaceChildren(foreign(id));
    this.say('');
    byId('detail-body').hidden = true;
    byId('detail-name').focus();
    this.refresh();
  }

  /** Tells how something went. */
  say(text) {
    setText(byId('detail-note'), text);
  }

  /** A change of this user was told: asks again soon. */
  changed() {
    this.due = Math.min(this.due, Date.now() + AFTER_CHANGE);
  }

  /** To be called several times a second: asks again when it is time. */
  tick() {
    if (this.id !== null && Date.now() >= this.due && !document.hidden) this.refresh();
  }

  /** Does something for the user shown, and says why when it fails. */
  async attempt(prefix, work) {
    const { id } = this;
    try {
      await work(() => this.id === id);
    } catch (error) {
      if (error.status === 401) this.refused();
      if (this.id === id) this.say(`${prefix}: ${error.message}.`);
    }
  }

  /** Asks for the user and the newest stays. */
  async refresh() {
    const { id } = this;
    this.due = Date.now() + EVERY;
    this.asking?.abort();
    const { signal } = this.asking = new AbortController();
    await this.attempt('No answer', async () => {
      try {
        const [user, { sessions, next }] = await Promise.all([
          request(userPath(id), { signal }),
          request(userPath(id, `/sessions?limit=${STAYS}`), { signal }),
        ]);
        if (signal.aborted) return;
        if (!this.user) this.say('');
        this.user = user;
        const older = this.stays.slice(STAYS).filter((stay) => stay.from < sessions.at(-1)?.from);
        if (!older.length) this.next = next;
        this.stays = sessions.concat(older);
        this.draw();
      } catch (error) {
        if (!signal.aborted) throw error;
      }
    });
  }

  /** Loads the stays before those shown. */
  earlier() {
    const { id, next } = this;
    return this.attempt('No answer', async (still) => {
      const rest = `/sessions?limit=${STAYS}&cursor=${encodeURIComponent(next)}`;
      const page = await request(userPath(id, rest));
      if (!still() || this.next !== next) return;
      this.stays.push(...page.sessions);
      this.next = page.next;
      this.drawStays();
    });
  }

  /** Draws everything of the user. */
  draw() {
    const { user } = this;
    setBadge(this.status, user.status);
    setBadge(this.source, user.source);
    const times = [['Online since', user.connected_at, lasting], ['Last seen', user.last_seen, ago],
      ['First seen', user.first_seen, ago]].filter(([, at]) => at);
    byId('detail-facts').replaceChildren(...facts([
      ...times.map(([label, at, words]) => [label, `${clock(Date.parse(at), Date.now())} `,
        since(at, (ms) => `(${words(ms)})`)]),
      ['Ended stays', count(user.sessions)],
    ]));
    byId('kick').hidden = !user.online;
    const none = user.online ? 'None: between two connections, or by heartbeats only.' : 'None.';
    setText(byId('no-connections'), user.connection_list.length ? '' : none);
    byId('connections').replaceChildren(...user.connection_list.map((one) => {
      const host = one.address.includes(':') ? `[${one.address}]` : one.address;
      return element('li', { class: 'card' },
        element('div', { class: 'row' }, element('strong', {}, visible(`${host}:${one.port}`)),
          badge(one.status)),
        element('dl', { class: 'facts' }, ...facts([
          ['Agent', visible(one.agent) || 'not given'],
          ['Since', `${clock(Date.parse(one.connected_at), Date.now())} `,
            since(one.connected_at, (ms) => `(${lasting(ms)})`)],
          ['Last heard', since(one.last_heard, ago)],
          ['Round trip', one.round_trip_ms === null ? 'not measured yet'
            : `${count(one.round_trip_ms)} ms`],
        ])));
    }));
    this.drawStays();
    byId('detail-body').hidden = false;
  }

  /** Draws the timeline. */
  drawStays() {
    byId('timeline').replaceChildren(...this.stays.map((stay) => element('li',
      { 'data-reason': stay.reason ?? 'open' }, stayText(stay, Date.now()),
      element('span', { class: 'muted' },
        stay.to === null ? since(stay.from, lasting)
          : lasting(Date.parse(stay.to) - Date.parse(stay.from)),
        stay.address ? `, from ${visible(stay.address)}` : ''))));
    byId('no-stays').hidden = this.stays.length > 0;
    byId('detail-more').hidden = !this.next;
  }

  /** Asks whether the user is really to be kicked. */
  askKick() {
    const { connections } = this.user;
    byId('kick-name').replaceChildren(foreign(this.id));
    setText(byId('kick-what'), `Closes ${plural(connections, 'connection')} and ends the stay. `
      + 'The user may come back if your application lets them.');
    const dialog = byId('kick-dialog');
    dialog.returnValue = '';
    dialog.dataset.id = this.id;
    dialog.showModal();
  }

  /** The dialog was closed: kicks when that was the answer. */
  kick() {
    const { id } = this;
    const { returnValue, dataset } = byId('kick-dialog');
    if (returnValue !== 'kick' || dataset.id !== id) return null;
    return this.attempt('Not kicked', async (still) => {
      const { closed } = await request(userPath(id, '/connections'), { method: 'DELETE' });
      if (!still()) return;
      await this.refresh();
      this.say(`Kicked: ${plural(closed, 'connection')} closed.`);
      byId('detail-name').focus();
    });
  }
}

/** The time since a moment in the words given; it ticks. */
const since = (iso, words) => ticker((now) => words(Math.max(0, now - Date.parse(iso))));
