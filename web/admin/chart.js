// SPDX-License-Identifier: MIT
// Users and connections over the last 24 hours, drawn as SVG, with a summary in words; what was at
// one moment is told under the pointer, and by keys.

import { request } from './api.js';
import { byId, element, fill, on, setText, show, svg } from './dom.js';
import { chartPieces, clock, count, plural, roundTop } from './format.js';

const WIDTH = 720; // of the drawing
const HEIGHT = 150;
const DAY = 86400000; // ms
let points = []; // what is drawn: { x, at, users, connections }
let summary = '';
let now = 0; // when it was drawn, by the server's clock
let at = null; // the place in points that is told, or null for the summary

// "12:55: 50 users, 93 connections".
const pointText = ({ at: moment, users, connections }) =>
  `${clock(moment, now)}: ${plural(users, 'user')}, ${plural(connections, 'connection')}`;

function tell(place) {
  at = points.length ? place : null;
  setText('chart-text', at === null ? summary : pointText(points[at]));
  const box = byId('chart-box');
  box.classList.toggle('told', at !== null);
  const told = at ?? points.length - 1;
  if (told < 0) return;
  byId('chart-cursor')?.setAttribute('d', `M${points[told].x} 0V${HEIGHT}`);
  box.setAttribute('aria-valuemax', points.length - 1);
  box.setAttribute('aria-valuenow', told);
  box.setAttribute('aria-valuetext', pointText(points[told]));
}

// Most and fewest, or what there is of a server that has just begun.
function words() {
  if (!points.length) return 'No samples yet: there is one a minute.';
  const [first] = points;
  if (points.length === 1) return `${plural(first.users, 'user')} now, since ${clock(first.at, now)}.`;
  const high = points.reduce((a, b) => (b.users > a.users ? b : a));
  const low = points.reduce((a, b) => (b.users < a.users ? b : a));
  if (high.users === low.users) return `${plural(high.users, 'user')} all the time.`;
  return `Most ${count(high.users)} at ${clock(high.at, now)}, fewest ${count(low.users)} at ${
    clock(low.at, now)}.`;
}

// Draws the samples, from the first one on.
export async function drawChart() {
  const { generated_at: made, interval_seconds: every, samples } = await request('history?hours=24');
  now = Date.parse(made);
  const begun = Date.parse(samples[0]?.at);
  const young = begun > now - DAY + 600000; // else a minute that is missing says nothing
  const from = young ? begun : now - DAY;
  const pieces = chartPieces(samples, every * 1000, from, now, WIDTH);
  points = pieces.flat();
  summary = words();
  const many = points.length > 1;
  show({ overview: true, 'chart-box': many, 'chart-names': many });
  setText('overview-title', young ? `Since ${clock(from, now)}` : 'The last 24 hours');
  if (many) drawPieces(pieces, from);
  tell(at && Math.min(at, points.length - 1));
}

function drawPieces(pieces, from) {
  const top = roundTop(Math.max(...points.map(({ users, connections }) => Math.max(users, connections))));
  const y = (value) => Math.round((HEIGHT - 4 - (value / top) * (HEIGHT - 8)) * 10) / 10;
  const path = (piece, name) => `${piece.map((one) => `${one.x} ${y(one[name])}`).join('L')}H${
    Math.max(piece.at(-1).x, piece[0].x + 1)}`;
  const lines = (name) => pieces.map((piece) => svg('path', { class: `line ${name}`, d: `M${path(piece, name)}` }));
  fill('chart', ...[0, top / 2, top].map((level) => svg('line', { x2: WIDTH, y1: y(level), y2: y(level) })),
    ...pieces.map((piece) => svg('path', { class: 'area',
      d: `M${piece[0].x} ${y(0)}L${path(piece, 'users')}V${y(0)}Z` })),
    ...lines('connections'), ...lines('users'), svg('path', { id: 'chart-cursor' }));
  const spans = (id, texts) => fill(id, ...texts.map((text) => element('span', {}, text)));
  spans('chart-levels', [top, top / 2, 0].map(count));
  spans('chart-times', [0, 0.25, 0.5, 0.75, 1].map((part) => clock(from + part * (now - from), now)));
}

on('chart-box', 'pointermove', ({ clientX }) => {
  const { left, width } = byId('chart').getBoundingClientRect();
  const far = points.map(({ x }) => Math.abs(x - ((clientX - left) / width) * WIDTH));
  tell(far.indexOf(Math.min(...far)));
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
