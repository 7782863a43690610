// Small helpers around the DOM. Text goes in as text only; nothing here takes markup.

import { visible } from './format.js';

const SVG = 'http://www.w3.org/2000/svg';

/** The element with this id. */
export function byId(id) {
    return document.getElementById(id);
}

/** A new element with attributes and children; strings become text, null and false are left out. */
export function element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
        if (value !== null && value !== false) made.setAttribute(key, value === true ? '' : value);
    }
    made.append(...children.filter((child) => child !== null && child !== false));
    return made;
}

/** A new SVG element with attributes and children. */
export function svg(name, attributes = {}, ...children) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
}

/** A drawing from the page's symbols; it says nothing to screen readers, the words beside it do. */
export function icon(name) {
    const drawing = svg('svg', { class: 'icon', 'aria-hidden': 'true' }, svg('use'));
    setIcon(drawing, name);
    return drawing;
}

/** Makes an icon show another symbol. */
export function setIcon(drawing, name) {
    const use = drawing.firstChild;
    if (use.getAttribute('href') !== `#i-${name}`) use.setAttribute('href', `#i-${name}`);
}

/** Sets an element's text, and touches it only when it differs. */
export function setText(target, text) {
    if (target.textContent !== text) target.textContent = text;
}

/** Shows text of others, isolated so that it cannot turn what stands around it. */
export function foreign(text) {
    return element('bdi', { class: 'id' }, visible(text));
}

/** Status in words and shape; update it with setStatus. */
export function statusBadge() {
    return element('span', { class: 'status' }, icon('offline'), element('span'));
}

/** Makes a badge of statusBadge show a status. */
export function setStatus(badge, status) {
    const known = ['online', 'away', 'busy', 'offline'].includes(status) ? status : 'offline';
    if (badge.dataset.status !== known) badge.dataset.status = known;
    setIcon(badge.firstChild, known);
    setText(badge.lastChild, visible(status));
}

/** Whether a user is live or cached, in words and shape; update it with setSource. */
export function sourceBadge() {
    return element('span', { class: 'source' }, icon('live'), element('span'));
}

/** Makes a badge of sourceBadge show a source. */
export function setSource(badge, source) {
    const known = ['live', 'cached', 'stored'].includes(source) ? source : 'stored';
    if (badge.dataset.source !== known) badge.dataset.source = known;
    setIcon(badge.firstChild, known);
    setText(badge.lastChild, visible(source));
}

/** A point in time that is shown as a text which tick() keeps up to date. */
export function timeElement(at, words) {
    const made = element('time', at ? { datetime: new Date(at).toISOString() } : {});
    ticking.set(made, words);
    setText(made, words(Date.now()));
    return made;
}

/** What shows a relative time: element -> its words at a given time. */
const ticking = new Map();

/** Brings every relative time up to date, and forgets those that left the page. */
export function tick(now) {
    for (const [target, words] of ticking) {
        if (target.isConnected) setText(target, words(now));
        else ticking.delete(target);
    }
}

/** Runs a generator in slices of a few milliseconds, so that the page stays responsive. */
export async function inSlices(steps) {
    for (;;) {
        const until = performance.now() + 8;
        do {
            if (steps.next().done) return;
        } while (performance.now() < until);
        await idle();
    }
}

/** Resolves when the browser has time, within 100 ms. */
export function idle() {
    return new Promise((resolve) => {
        if (window.requestIdleCallback && !document.hidden) {
            requestIdleCallback(resolve, { timeout: 100 });
        } else {
            setTimeout(resolve, 0);
        }
    });
}
