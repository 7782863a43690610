// SPDX-License-Identifier: MIT
// Online users over the last 24 hours, drawn as SVG, with a summary in words.

import { request } from './api.js';
import { byId, element, setText, svg } from './dom.js';
import { chartPieces, clock, count, roundTop } from './format.js';

const WIDTH = 720; // of the drawing, which the page scales
const HEIGHT = 150;

/** Asks for the samples and draws them. */
export async function drawChart() {
  const { generated_at: at, interval_seconds: every, samples } = await request('history?hours=24');
  const to = Date.parse(at);
  const from = to - 86400000;
  const pieces = chartPieces(samples, every * 1000, from, to, WIDTH);
  const points = pieces.flat();
  const [high, low] = [1, -1].map((sign) =>
    points.reduce((a, b) => ((b.users - a.users) * sign > 0 ? b : a), points[0]));
  const top = roundTop(high?.users ?? 0);
  const y = (users) => Math.round((HEIGHT - 4 - (users / top) * (HEIGHT - 8)) * 10) / 10;
  byId('overview').hidden = false;
  byId('chart').replaceChildren(
    ...[0, top / 2, top].map((level) => svg('line', { x2: WIDTH, y1: y(level), y2: y(level) })),
    ...pieces.flatMap((piece) => {
      const line = piece.map((one) => `${one.x} ${y(one.users)}`).join('L');
      const end = Math.max(piece.at(-1).x, piece[0].x + 1);
      return [svg('path', { class: 'area', d: `M${piece[0].x} ${y(0)}L${line}L${end} ${y(0)}Z` }),
        svg('path', { class: 'line', d: `M${line}H${end}` })];
    }));
  const spans = (texts) => texts.map((text) => element('span', {}, text));
  byId('chart-levels').replaceChildren(...spans([top, top / 2, 0].map(count)));
  byId('chart-times').replaceChildren(...spans([0, 0.25, 0.5, 0.75, 1].map((part) =>
    clock(from + part * (to - from), to))));
  setText(byId('chart-text'), points.length ? `Most ${count(high.users)} at ${clock(high.at, to)
  }, fewest ${count(low.users)} at ${clock(low.at, to)}.` : 'No samples yet.');
}
