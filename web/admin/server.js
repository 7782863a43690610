// The panel about the server itself, from /admin/stats.

import { byId, element, setText, timeElement } from './dom.js';
import { ago, bytes, clock, count, lasting, visible } from './format.js';

const DAY = 86400000;

/** A certificate that ends within this is worth a warning. */
const SOON = 21 * DAY;

/** Limits that are sizes in bytes; the others are numbers, or times in milliseconds. */
const SIZES = new Set(['map-size', 'max-message', 'max-head', 'max-body', 'max-stream-buffer']);

/** Limits that are plain numbers. */
const NUMBERS = /^(workers|tls-threads|events|max-)/;

/** A limit in words. */
export function limitText(name, value) {
    if (SIZES.has(name)) return bytes(value);
    if (NUMBERS.test(name)) return value === 0 ? '0 (no limit of its own)' : count(value);
    return value < 1000 ? `${count(value)} ms` : lasting(value);
}

/** When a certificate ends, in words, and whether somebody should act. */
export function certificateText(notAfter, now) {
    const left = Date.parse(notAfter) - now;
    if (left <= 0) return { text: `expired ${ago(-left)}`, state: 'bad' };
    return {
        text: `expires in ${lasting(left)}, ${clock(Date.parse(notAfter), now)}`,
        state: left < SOON ? 'warn' : 'good',
    };
}

/** A list of names and values; a value may be text or an element. */
function facts(entries) {
    return entries.map(([label, value]) =>
        element('div', {}, element('dt', {}, label), element('dd', {}, value)));
}

/** Draws everything of the panel. */
export function drawServer(stats) {
    const now = Date.now();
    const { store, memory, connections } = stats;
    const started = Date.parse(stats.started_at);
    byId('server-facts').replaceChildren(...facts([
        ['Version', visible(stats.version)],
        ['Started', clock(started, now)],
        ['Running for', timeElement(null, (at) => lasting(Math.max(0, at - started)))],
        ['Memory', `${bytes(memory.resident_bytes)}, ${bytes(memory.anonymous_bytes)} of its own`],
        ['Connections', `${count(connections.current)} of ${count(connections.limit)} possible`],
        ['In the door', count(connections.pending)],
    ]));
    const writable = store.writable
        ? element('span', { class: 'state', 'data-state': 'good' }, 'takes writes')
        : element('span', { class: 'state', 'data-state': 'bad' },
            `cannot be written: ${visible(store.problem ?? 'no reason given')}`);
    const committed = Date.parse(store.last_commit);
    byId('store-facts').replaceChildren(...facts([
        ['State', writable],
        ['Known users', count(store.users)],
        ['Ended stays', count(store.sessions)],
        ['File', `${bytes(store.file_bytes)}, ${bytes(store.used_bytes)} in use`],
        ['Last write', timeElement(committed, (at) => ago(Math.max(0, at - committed)))],
    ]));
    drawCertificates(stats.certificates ?? [], now);
    byId('limit-facts').replaceChildren(...facts(Object.entries(stats.limits ?? {})
        .map(([name, value]) => [visible(name), limitText(name, value)])));
    byId('counter-facts').replaceChildren(...facts(Object.entries(stats.counters ?? {})
        .map(([name, value]) => [visible(name.replaceAll('_', ' ')), count(value)])));
}

/** Draws the certificates with how long they last. */
function drawCertificates(certificates, now) {
    setText(byId('no-certificates'), certificates.length ? ''
        : 'None: this server does not speak TLS itself.');
    byId('certificates').replaceChildren(...certificates.map(({ names, not_after: notAfter }) => {
        const { text, state } = certificateText(notAfter, now);
        return element('div', {}, element('dt', {}, names.map(visible).join(', ')),
            element('dd', {}, element('span', { class: 'state', 'data-state': state }, text)));
    }));
}
