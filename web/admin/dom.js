// SPDX-License-Identifier: MIT
// Small helpers around the DOM. Text goes in as text only; nothing here takes markup.

import { atServer } from './api.js';
import { pieces, visible } from './format.js';

export const byId = (id) => document.getElementById(id);

export const on = (id, kind, work) => byId(id).addEventListener(kind, work);

// Shows elements, or hides them: { id: whether it is seen }.
export function show(wanted) {
  for (const [id, seen] of Object.entries(wanted)) byId(id).hidden = !seen;
}

export const fill = (id, ...children) => byId(id).replaceChildren(...children);

function dress(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const element = (name, attributes = {}, ...children) =>
  dress(document.createElement(name), attributes, children);

export const svg = (name, attributes = {}, ...children) =>
  dress(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);

export const muted = (...children) => element('span', { class: 'muted' }, ...children);
export const cell = (...children) => element('td', {}, ...children);
export const heading = (...children) => element('th', { scope: 'row' }, ...children);

// A text that says how good it is: 'good', 'warn' or 'bad'.
export const state = (how, text) => element('span', { class: 'state', 'data-state': how }, text);

// Touches an element, or the one with this id, only when its text differs.
export function setText(target, text) {
  const found = typeof target === 'string' ? byId(target) : target;
  if (found.textContent !== `${text}`) found.textContent = text;
}

// Shapes: filled ones, then lines.
const FILLED = {
  online: 'M8 2.5a5.5 5.5 0 1 0 .1 0z',
  away: 'M9.5 2.6a5.5 5.5 0 1 0 4 8.3A5.6 5.6 0 0 1 9.5 2.6z',
  busy: 'M8 2.5a5.5 5.5 0 1 0 .1 0zM4.8 7v2h6.4V7z',
  live: 'M9.3 1.5L3 9.2h4l-.7 5.3L13 6.6H8.7z',
  behind: 'M8 1.8L1 14h14zM7.2 6h1.6v4H7.2zM7.2 11.2h1.6v1.6H7.2z',
};
const LINES = {
  offline: 'M8 3.3a4.7 4.7 0 1 0 .1 0z',
  cached: 'M9 2.5A5.6 5.6 0 0 1 13.6 8m-1.3 3.6a5.6 5.6 0 0 1-7 1.3m-2.6-3'
    + 'a5.6 5.6 0 0 1 2.5-6.8M8 5v3l2 1',
  stored: 'M3 6h10v7H3zM2 3h12v3H2z',
  connected: 'M3 8.6l3.3 3.2L13 4.8',
  broken: 'M3.8 3.8l8.4 8.4m0-8.4l-8.4 8.4',
  hidden: 'M2 8c3-5 9-5 12 0c-3 5-9 5-12 0zM3 13.5L13 2.5',
  refresh: 'M13 8a5 5 0 1 1-1.5-3.6M12 1.5v3.2H8.8',
  leave: 'M9 3H3v10h6M6.5 8H14m-2.6-2.7L14 8l-2.6 2.7',
};

export function setIcon(drawing, name) {
  if (drawing.dataset.icon === name) return;
  drawing.dataset.icon = name;
  drawing.replaceChildren(svg('path', { d: FILLED[name] ?? LINES[name],
    class: name in LINES ? 'stroke' : '' }));
}

// A drawing. It says nothing to screen readers: words stand beside it.
function icon(name) {
  const drawing = svg('svg', { class: 'icon', viewBox: '0 0 16 16', 'aria-hidden': 'true' });
  setIcon(drawing, name);
  return drawing;
}

for (const one of document.querySelectorAll('[data-icon]')) one.replaceWith(icon(one.dataset.icon));

const breakable = (text) => text.split(/(?<=[@._/:-])/).flatMap((part, i) =>
  (i ? [element('wbr'), part] : [part]));

// Text of others, isolated so that it cannot turn what stands around it; what misleads is a chip.
export const foreign = (text) => element('bdi', { class: 'id' }, ...pieces(text).flatMap(
  ({ text: part, code }) => (code ? [element('span', { class: 'chip' }, code)] : breakable(part))));

// A status or source in words and shape; setBadge makes it show one.
export function badge(value = 'offline') {
  const made = element('span', { class: 'badge' }, icon(value), element('span'));
  setBadge(made, value);
  return made;
}

// `shape` is another one than that of the value, or false.
export function setBadge(made, value, shape = false) {
  made.dataset.value = value;
  setIcon(made.firstChild, shape || value);
  setText(made.lastChild, visible(value));
}

// Fills a definition list with entries [name, ...values].
export const fillFacts = (id, entries) => fill(id, ...entries.map(([label, ...values]) =>
  element('div', {}, element('dt', {}, label), element('dd', {}, ...values))));

// Texts that tick() keeps up to date: element -> its words at a given time.
const ticking = new Map();

export function ticker(words) {
  const made = element('span', {}, words(atServer()));
  ticking.set(made, words);
  return made;
}

export const since = (at, words) => ticker((now) => words(Math.max(0, now - new Date(at))));

// Forgets those that left the page.
export function tick() {
  for (const [target, words] of ticking) {
    if (target.isConnected) setText(target, words(atServer()));
    else ticking.delete(target);
  }
}

// Runs a generator in slices, so that the page stays responsive.
export async function inSlices(steps) {
  for (;;) {
    const until = performance.now() + 8;
    while (performance.now() < until) if (steps.next().done) return;
    await idle();
  }
}

// Resolves when the browser has time, within 100 ms.
export const idle = () => new Promise((resolve) => {
  if (window.requestIdleCallback) requestIdleCallback(resolve, { timeout: 100 });
  else setTimeout(resolve, 0);
});
