// One user: connections, timeline of stays, kick.

import { request, userPath } from './api.js';
import { byId, element, foreign, setSource, setStatus, setText, sourceBadge, statusBadge,
    timeElement } from './dom.js';
import { ago, clock, count, lasting, plural, stayText, visible } from './format.js';

/** Stays asked for at a time. */
const STAYS = 50;

/** The open user is asked for again this often, in ms, and this soon after a change. */
const EVERY = 10000;
const AFTER_CHANGE = 300;

export class Detail {
    /** `failed` is called with an error that concerns the whole page; `closed` with the id. */
    constructor({ failed, closed }) {
        Object.assign(this, { failed, closed });
        this.panel = byId('detail');
        this.id = null;
        this.user = null;
        this.stays = [];
        this.next = null; // cursor of the stays before
        this.due = 0; // when to ask again
        this.asking = null;
        this.status = statusBadge();
        this.source = sourceBadge();
        byId('detail-state').append(this.status, this.source);
        byId('detail-close').addEventListener('click', () => this.closed());
        byId('detail-more').addEventListener('click', () => this.moreStays());
        byId('kick').addEventListener('click', () => this.askKick());
        byId('kick-dialog').addEventListener('close', () => this.kickAnswered());
        this.panel.addEventListener('keydown', (event) => {
            if (event.key === 'Escape' && !byId('kick-dialog').open) this.closed();
        });
    }

    /** Shows a user. */
    async open(id) {
        if (this.id === id) return;
        this.id = id;
        this.user = null;
        this.stays = [];
        this.next = null;
        byId('detail-name').replaceChildren(foreign(id));
        setText(byId('detail-note'), '');
        byId('detail-body').hidden = true;
        this.panel.hidden = false;
        document.body.classList.add('has-detail');
        byId('detail-name').focus();
        await this.refresh();
    }

    /** Hides the panel. */
    close() {
        this.asking?.abort();
        this.id = null;
        this.panel.hidden = true;
        document.body.classList.remove('has-detail');
    }

    /** A change of this user was told: asks again soon. */
    changed() {
        this.due = Math.min(this.due, Date.now() + AFTER_CHANGE);
    }

    /** To be called several times a second: asks again when it is time. */
    tick(now) {
        if (this.id !== null && now >= this.due && !document.hidden) this.refresh();
    }

    /** Asks for the user and the newest stays. */
    async refresh() {
        const { id } = this;
        this.due = Date.now() + EVERY;
        this.asking?.abort();
        this.asking = new AbortController();
        const { signal } = this.asking;
        try {
            const [user, stays] = await Promise.all([
                request(userPath(id), { signal }),
                request(userPath(id, `/sessions?limit=${STAYS}`), { signal }),
            ]);
            if (this.id !== id) return;
            this.user = user;
            this.takeNewest(stays);
            setText(byId('detail-note'), '');
            this.draw();
        } catch (error) {
            if (signal.aborted || this.id !== id) return;
            if (error.status === 401) this.failed(error);
            const unknown = error.code === 'unknown_user';
            const text = unknown ? 'This user was never seen.' : `No answer: ${error.message}`;
            setText(byId('detail-note'), text);
            if (unknown) byId('detail-body').hidden = true;
        }
    }

    /** Takes the newest page of stays, and keeps older ones that were loaded before. */
    takeNewest({ sessions, next }) {
        const oldest = sessions.at(-1)?.from;
        const older = this.stays.filter((stay) => stay.from < oldest);
        if (!older.length || this.stays.length <= STAYS) this.next = next;
        this.stays = this.stays.length <= STAYS ? sessions : [...sessions, ...older];
    }

    /** Loads the stays before those shown. */
    async moreStays() {
        const { id, next } = this;
        if (!next) return;
        try {
            const cursor = encodeURIComponent(next);
            const rest = `/sessions?limit=${STAYS}&cursor=${cursor}`;
            const page = await request(userPath(id, rest));
            if (this.id !== id || this.next !== next) return;
            this.stays.push(...page.sessions);
            this.next = page.next;
            this.draw();
        } catch (error) {
            if (error.status === 401) this.failed(error);
            if (this.id === id) setText(byId('detail-note'), `No answer: ${error.message}`);
        }
    }

    /** Draws everything of the user. */
    draw() {
        const { user } = this;
        const now = Date.now();
        setStatus(this.status, user.status);
        setSource(this.source, user.source);
        const facts = [];
        if (user.connected_at) {
            const since = Date.parse(user.connected_at);
            facts.push(['Online since', clock(since, now), timeElement(since,
                (at) => ` (${lasting(Math.max(0, at - since))})`)]);
        }
        facts.push(...[['Last seen', user.last_seen], ['First seen', user.first_seen]]
            .filter(([, at]) => at)
            .map(([label, at]) => [label, clock(Date.parse(at), now), agoElement(at)]));
        facts.push(['Ended stays', count(user.sessions)]);
        byId('detail-facts').replaceChildren(...facts.map(([label, ...values]) =>
            element('div', {}, element('dt', {}, label), element('dd', {}, ...values))));
        byId('kick').hidden = !user.online;
        this.drawConnections(user.connection_list, now);
        this.drawStays(now);
        byId('detail-body').hidden = false;
    }

    /** Draws the connections, one card each. */
    drawConnections(connections, now) {
        const cached = 'None. Still counted as online: the page may be reloading, or sends '
            + 'heartbeats over HTTP.';
        setText(byId('no-connections'), this.user.online ? cached : 'None.');
        byId('no-connections').hidden = connections.length > 0;
        byId('connections').replaceChildren(...connections.map((one) => {
            const badge = statusBadge();
            setStatus(badge, one.status);
            const since = Date.parse(one.connected_at);
            const host = one.address.includes(':') ? `[${one.address}]` : one.address;
            const trip = one.round_trip_ms === null ? 'not measured yet'
                : `${count(one.round_trip_ms)} ms`;
            const parts = [
                ['Agent', one.agent ? visible(one.agent) : 'none given'],
                ['Since', `${clock(since, now)} `, agoElement(one.connected_at)],
                ['Last heard', agoElement(one.last_heard, false)],
                ['Round trip', trip],
            ];
            return element('li', { class: 'card' },
                element('div', { class: 'card-head' },
                    element('span', { class: 'mono' }, visible(`${host}:${one.port}`)), badge),
                element('dl', {}, ...parts.map(([label, ...values]) => element('div', {},
                    element('dt', {}, label), element('dd', {}, ...values)))));
        }));
    }

    /** Draws the timeline, the newest stay first. */
    drawStays(now) {
        byId('timeline').replaceChildren(...this.stays.map((stay) => {
            const from = Date.parse(stay.from);
            const to = stay.to === null ? null : Date.parse(stay.to);
            const lasted = to === null
                ? timeElement(null, (at) => lasting(Math.max(0, at - from)))
                : element('span', {}, lasting(to - from));
            const where = stay.address ? `from ${visible(stay.address)}` : '';
            return element('li', { 'data-reason': stay.reason ?? 'open' },
                element('span', { class: 'stay' }, stayText(stay, now)),
                element('span', { class: 'muted' }, lasted, where && `, ${where}`));
        }));
        byId('no-stays').hidden = this.stays.length > 0;
        byId('detail-more').hidden = !this.next;
    }

    /** Asks whether the user is really to be kicked. */
    askKick() {
        const { id, user } = this;
        byId('kick-name').replaceChildren(foreign(id));
        const closes = user.connections
            ? `closes ${user.connections === 1 ? 'the connection' : `all ${
                plural(user.connections, 'connection')}`} of this user and ends the stay`
            : 'ends the stay of this user';
        setText(byId('kick-what'), `This ${closes}. The user is offline at once, and may come `
            + 'back if your application lets them.');
        const dialog = byId('kick-dialog');
        dialog.returnValue = '';
        dialog.dataset.id = id;
        dialog.showModal();
    }

    /** The dialog was closed: kicks when that was the answer. */
    async kickAnswered() {
        const dialog = byId('kick-dialog');
        const { id } = dialog.dataset;
        if (dialog.returnValue !== 'kick' || id !== this.id) return;
        const note = byId('detail-note');
        try {
            const { closed } = await request(userPath(id, '/connections'), { method: 'DELETE' });
            await this.refresh();
            const what = `Kicked: ${plural(closed, 'connection')} closed.`;
            if (this.id === id) setText(note, what);
            byId('detail-name').focus();
        } catch (error) {
            if (error.status === 401) this.failed(error);
            if (this.id === id) setText(note, `Not kicked: ${error.message}`);
        }
    }
}

/** A relative time that ticks, in brackets unless told otherwise. */
function agoElement(iso, brackets = true) {
    const at = Date.parse(iso);
    return timeElement(at, (now) => {
        const text = ago(Math.max(0, now - at));
        return brackets ? ` (${text})` : text;
    });
}
