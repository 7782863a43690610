// Online users over time, drawn as SVG, with a slider to read single values.

import { request } from './api.js';
import { byId, element, on, setText, svg } from './dom.js';
import { chartPieces, clock, count, plural, roundTop } from './format.js';

/** The drawing's own measure; the page scales it. */
const WIDTH = 720;
const HEIGHT = 150;

export class Chart {
  points = [];

  /** Nothing drawn yet. */
  constructor() {
    const slider = byId('chart-slider');
    on('chart-slider', 'input', () => this.read());
    on('chart', 'pointermove', ({ clientX }) => {
      const { left, width } = byId('chart').getBoundingClientRect();
      slider.value = ((clientX - left) / width) * WIDTH;
      this.read();
    });
  }

  /** Asks for the samples and draws them; without a history in the server there is no chart. */
  async refresh() {
    const hours = byId('chart-hours').value;
    const { generated_at: at, interval_seconds: every, samples } =
      await request(`history?hours=${hours}`);
    if (hours !== byId('chart-hours').value) return;
    this.to = Date.parse(at);
    this.from = this.to - hours * 3600000;
    byId('overview').hidden = false;
    this.draw(chartPieces(samples, every * 1000, this.from, this.to, WIDTH));
  }

  /** Draws the pieces of the line. */
  draw(pieces) {
    this.points = pieces.flat();
    const { points } = this;
    const high = points.reduce((a, b) => (b.users > a.users ? b : a), points[0]);
    const low = points.reduce((a, b) => (b.users < a.users ? b : a), points[0]);
    const top = roundTop(high?.users ?? 0);
    const y = (users) => Math.round((HEIGHT - 4 - (users / top) * (HEIGHT - 8)) * 10) / 10;
    this.marker = svg('line', { class: 'marker', y1: 0, y2: HEIGHT });
    byId('chart').replaceChildren(
      ...[0, top / 2, top].map((at) => svg('line', { x2: WIDTH, y1: y(at), y2: y(at) })),
      ...pieces.flatMap((piece) => {
        const line = piece.map((one) => `${one.x} ${y(one.users)}`).join('L');
        const end = Math.max(piece.at(-1).x, piece[0].x + 1);
        return [svg('path', { class: 'area', d: `M${piece[0].x} ${y(0)}L${line}L${end} ${y(0)}Z` }),
          svg('path', { class: 'line', d: `M${line}H${end}` })];
      }), this.marker);
    const spans = (texts) => texts.map((text) => element('span', {}, text));
    byId('chart-levels').replaceChildren(...spans([top, top / 2, 0].map(count)));
    byId('chart-times').replaceChildren(...spans([0, 0.25, 0.5, 0.75].map((part) =>
      clock(this.from + part * (this.to - this.from), this.to))), element('span', {}, 'now'));
    setText(byId('chart-text'), points.length ? `Most ${count(high.users)} at ${
      clock(high.at, this.to)}, fewest ${count(low.users)} at ${clock(low.at, this.to)}.`
      : 'No samples yet: one is kept every minute.');
    byId('chart-slider').disabled = !points.length;
    this.read();
  }

  /** Reads the value at the slider. */
  read() {
    if (!this.points.length) return;
    const slider = byId('chart-slider');
    const x = Number(slider.value);
    const near = this.points.reduce((a, b) => (Math.abs(b.x - x) < Math.abs(a.x - x) ? b : a));
    const none = Math.abs(near.x - x) > 8;
    const at = none ? this.from + (x / WIDTH) * (this.to - this.from) : near.at;
    const text = `${clock(at, this.to)}: ${none ? 'no sample, the server did not run'
      : `${plural(near.users, 'user')}, ${plural(near.connections, 'connection')}`}`;
    setText(byId('chart-value'), text);
    slider.setAttribute('aria-valuetext', text);
    for (const name of ['x1', 'x2']) this.marker.setAttribute(name, none ? x : near.x);
  }
}
