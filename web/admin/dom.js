// Small helpers around the DOM. Text goes in as text only; nothing here takes markup.

import { visible } from './format.js';

/** The element with this id. */
export const byId = (id) => document.getElementById(id);

/** Has `work` done at every event of a kind on the element with this id. */
export const on = (id, kind, work) => byId(id).addEventListener(kind, work);

/** Sets attributes and adds children; strings become text. */
function dress(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** A new element. */
export function element(name, attributes = {}, ...children) {
  return dress(document.createElement(name), attributes, children);
}

/** A new SVG element. */
export function svg(name, attributes = {}, ...children) {
  return dress(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);
}

/** Sets an element's text, and touches it only when it differs. */
export function setText(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/** Makes a drawing show one of the page's symbols. */
export function setIcon(drawing, name) {
  const use = drawing.firstElementChild;
  if (use.getAttribute('href') !== `#i-${name}`) use.setAttribute('href', `#i-${name}`);
}

/** Text of others, isolated so that it cannot turn what stands around it. */
export const foreign = (text) => element('bdi', { class: 'id' }, visible(text));

/** A status or source in words and shape; setBadge makes it show one. */
export function badge(value) {
  const made = element('span', { class: 'badge' },
    svg('svg', { class: 'icon', 'aria-hidden': 'true' }, svg('use')), element('span'));
  if (value) setBadge(made, value);
  return made;
}

/** Makes a badge show another value. */
export function setBadge(made, value) {
  if (made.dataset.value === value) return;
  made.dataset.value = value;
  setIcon(made.firstChild, value);
  setText(made.lastChild, visible(value));
}

/** A definition list's entries from [name, ...values]. */
export const facts = (entries) => entries.map(([label, ...values]) =>
  element('div', {}, element('dt', {}, label), element('dd', {}, ...values)));

/** What shows a relative time: element -> its words at a given time. */
const ticking = new Map();

/** A text that tick() keeps up to date: `words` of the time now. */
export function ticker(words) {
  const made = element('span', { class: 'ticks' }, words(Date.now()));
  ticking.set(made, words);
  return made;
}

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
    while (performance.now() < until) if (steps.next().done) return;
    await idle();
  }
}

/** Resolves when the browser has time, within 100 ms. */
export function idle() {
  return new Promise((resolve) => {
    if (window.requestIdleCallback) requestIdleCallback(resolve, { timeout: 100 });
    else setTimeout(resolve, 0);
  });
}
