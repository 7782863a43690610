// SPDX-License-Identifier: MIT
// Users and connections over the last 24 hours, drawn as SVG, with a summary in words; what was at
// one moment is told under the pointer, and by keys.

import { request } from './api.js';
import { byId, element, on, setText, svg } from './dom.js';
import { chartPieces, clock, count, plural, roundTop } from './format.js';

const WIDTH = 720; // of the drawing, which the page scales
const HEIGHT = 150;
const DAY = 86400000; // ms
let points = []; // what is drawn: { x, at, users, connections }
let summary = '';
let now = 0; // when it was drawn, by the server's clock
let at = null; // the place in points that is told, or null

/** Connects the chart with pointer and keys. */
export function startChart() {
  on('chart-box', 'pointermove', ({ clientX }) => {
    const { left, width } = byId('chart').getBoundingClientRect();
    const x = ((clientX - left) / width) * WIDTH;
    tell(points.reduce((best, one, i) =>
      (Math.abs(one.x - x) < Math.abs(points[best].x - x) ? i : best), 0));
  });
  on('chart-box', 'pointerleave', () => tell(null));
  on('chart-box', 'blur', () => tell(null));
  on('chart-box', 'focus', () => tell(points.length - 1));
  on('chart-box', 'keydown', (event) => {
    const page = Math.ceil(points.length / 24);
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -page, PageUp: page,
      Home: -Infinity, End: Infinity }[event.key];
    if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    tell(Math.min(points.length - 1, Math.max(0, (at ?? points.length - 1) + step)));
  });
}

/** A moment in words: "12:55: 50 users, 93 connections". */
const pointText = (one) => `${clock(one.at, now)}: ${plural(one.users, 'user')}, ${
  plural(one.connections, 'connection')}`;

/** Tells what was at one of the points, or with null the summary. */
function tell(place) {
  at = points.length ? place : null;
  const one = at === null ? points.at(-1) : points[at];
  setText(byId('chart-text'), at === null ? summary : pointText(one));
  const box = byId('chart-box');
  box.classList.toggle('told', at !== null);
  if (!one) return;
  byId('chart-cursor')?.setAttribute('d', `M${one.x} 0V${HEIGHT}`);
  box.setAttribute('aria-valuemax', points.length - 1);
  box.setAttribute('aria-valuenow', at ?? points.length - 1);
  box.setAttribute('aria-valuetext', pointText(one));
}

/** Paths of a line, in pieces where samples are missing. */
const lines = (pieces, y, name) => pieces.map((piece) => svg('path', { class: `line ${name}`,
  d: `M${piece.map((one) => `${one.x} ${y(one[name])}`).join('L')}H${Math.max(piece.at(-1).x, piece[0].x + 1)}` }));

/** The summary: most and fewest, or what there is of a server that has just begun. */
function words() {
  if (!points.length) return 'No samples yet: there is one a minute.';
  const [first] = points;
  if (points.length === 1) return `${plural(first.users, 'user')} now, since ${clock(first.at, now)}.`;
  const [high, low] = [1, -1].map((sign) =>
    points.reduce((a, b) => ((b.users - a.users) * sign > 0 ? b : a), first));
  if (high.users === low.users) return `${plural(high.users, 'user')} all the time.`;
  return `Most ${count(high.users)} at ${clock(high.at, now)}, fewest ${count(low.users)} at ${
    clock(low.at, now)}.`;
}

/** Asks for the samples and draws them, from the first one on. */
export async function drawChart() {
  const { generated_at: made, interval_seconds: every, samples } = await request('history?hours=24');
  now = Date.parse(made);
  const begun = Date.parse(samples[0]?.at);
  const young = begun > now - DAY + 600000; // else a minute that is missing says nothing
  const from = young ? begun : now - DAY;
  const pieces = chartPieces(samples, every * 1000, from, now, WIDTH);
  points = pieces.flat();
  summary = words();
  byId('overview').hidden = false;
  byId('chart-box').hidden = points.length < 2;
  byId('chart-names').hidden = points.length < 2;
  setText(byId('overview-title'), young ? `Since ${clock(from, now)}` : 'The last 24 hours');
  if (points.length > 1) drawPieces(pieces, from);
  tell(at === null ? null : Math.min(at, points.length - 1));
}

/** Draws pieces of points that begin at a time. */
function drawPieces(pieces, from) {
  const top = roundTop(points.reduce((most, one) => Math.max(most, one.users, one.connections), 0));
  const y = (value) => Math.round((HEIGHT - 4 - (value / top) * (HEIGHT - 8)) * 10) / 10;
  byId('chart').replaceChildren(
    ...[0, top / 2, top].map((level) => svg('line', { x2: WIDTH, y1: y(level), y2: y(level) })),
    ...pieces.map((piece) => svg('path', { class: 'area', d: `M${piece[0].x} ${y(0)}L${
      piece.map((one) => `${one.x} ${y(one.users)}`).join('L')}L${
      Math.max(piece.at(-1).x, piece[0].x + 1)} ${y(0)}Z` })),
    ...lines(pieces, y, 'connections'), ...lines(pieces, y, 'users'),
    svg('path', { id: 'chart-cursor' }));
  const spans = (texts) => texts.map((text) => element('span', {}, text));
  byId('chart-levels').replaceChildren(...spans([top, top / 2, 0].map(count)));
  byId('chart-times').replaceChildren(...spans([0, 0.25, 0.5, 0.75, 1].map((part) =>
    clock(from + part * (now - from), now))));
}
