// Online users over time, drawn as SVG, with a slider to read single values.

import { request } from './api.js';
import { byId, element, setText, svg } from './dom.js';
import { clock, count, plural } from './format.js';
import { chartPieces, roundTop } from './model.js';

const HOUR = 3600000;

/** The drawing's own measure; the page scales it. */
const WIDTH = 720;
const HEIGHT = 150;
const TOP = 8;
const BOTTOM = 4;

export class Chart {
    /** Nothing drawn yet. */
    constructor() {
        this.hours = 24;
        this.points = [];
        this.from = 0;
        this.to = 0;
        this.missing = false; // the server has no history
        byId('chart-hours').addEventListener('change', () => {
            this.hours = Number(byId('chart-hours').value);
            this.refresh().catch((error) => setText(byId('chart-text'), error.message));
        });
        byId('chart-slider').addEventListener('input', () => this.read());
        byId('chart').addEventListener('pointermove', (event) => {
            const box = byId('chart').getBoundingClientRect();
            const at = (event.clientX - box.left) / box.width;
            byId('chart-slider').value = String(Math.round(at * WIDTH));
            this.read();
        });
    }

    /** Asks for the samples and draws them. */
    async refresh() {
        const { hours } = this;
        let history;
        try {
            history = await request(`history?hours=${hours}`);
        } catch (error) {
            if (error.status !== 404) throw error;
            this.missing = true;
            byId('overview').hidden = true;
            return;
        }
        if (hours !== this.hours) return;
        this.to = Date.parse(history.generated_at);
        this.from = this.to - hours * HOUR;
        const interval = history.interval_seconds * 1000;
        this.draw(chartPieces(history.samples, interval, this.from, this.to, WIDTH));
    }

    /** Draws the pieces of the line. */
    draw(pieces) {
        byId('overview').hidden = false;
        this.points = pieces.flat();
        const peak = this.points.reduce((most, one) => Math.max(most, one.users), 0);
        this.top = Math.max(4, roundTop(peak));
        const x = (at) => ((at - this.from) / (this.to - this.from)) * WIDTH;
        const y = (users) => TOP + (1 - users / this.top) * (HEIGHT - TOP - BOTTOM);
        const round = (value) => Math.round(value * 10) / 10;
        const parts = [0, 0.5, 1].map((part) => svg('line', {
            class: 'grid', x1: 0, x2: WIDTH, y1: round(y(part * this.top)),
            y2: round(y(part * this.top)),
        }));
        for (const piece of pieces) {
            const line = piece.map(({ at, users }) => `${round(x(at))} ${round(y(users))}`);
            if (line.length === 1) line.push(`${round(x(piece[0].at) + 1)} ${line[0].split(' ')[1]}`);
            const start = line[0].split(' ')[0];
            const end = line.at(-1).split(' ')[0];
            const floor = round(y(0));
            parts.push(svg('path', {
                class: 'area', d: `M${start} ${floor}L${line.join('L')}L${end} ${floor}Z`,
            }));
            parts.push(svg('path', { class: 'line', d: `M${line.join('L')}` }));
        }
        this.marker = svg('line', { class: 'marker', x1: -9, x2: -9, y1: 0, y2: HEIGHT });
        byId('chart').replaceChildren(...parts, this.marker);
        byId('chart-levels').replaceChildren(...[1, 0.5, 0].map((part) =>
            element('span', {}, count(part * this.top))));
        byId('chart-times').replaceChildren(...[0, 0.25, 0.5, 0.75, 1].map((part) =>
            element('span', {}, part === 1 ? 'now'
                : clock(this.from + part * (this.to - this.from), this.to))));
        this.summary(peak);
        this.read();
    }

    /** Says in words what the drawing shows. */
    summary(peak) {
        if (!this.points.length) {
            setText(byId('chart-text'), 'No samples yet: one is kept every minute.');
            return;
        }
        const low = this.points.reduce((least, one) => (one.users < least.users ? one : least));
        const high = this.points.find((one) => one.users === peak);
        setText(byId('chart-text'), `Most ${count(peak)} at ${clock(high.at, this.to)}, fewest ${
            count(low.users)} at ${clock(low.at, this.to)}.`);
    }

    /** Reads the value at the slider. */
    read() {
        const slider = byId('chart-slider');
        slider.disabled = !this.points.length;
        if (!this.points.length) {
            setText(byId('chart-value'), '');
            return;
        }
        const slot = Number(slider.value);
        const nearest = this.points.reduce((best, one) =>
            (Math.abs(one.slot - slot) < Math.abs(best.slot - slot) ? one : best));
        const far = Math.abs(nearest.slot - slot) > 8;
        const at = this.from + (slot / WIDTH) * (this.to - this.from);
        const text = far ? `${clock(at, this.to)}: no sample, the server did not run`
            : `${clock(nearest.at, this.to)}: ${plural(nearest.users, 'user')}, ${
                plural(nearest.connections, 'connection')}`;
        setText(byId('chart-value'), text);
        slider.setAttribute('aria-valuetext', text);
        const where = String(far ? slot : nearest.slot);
        this.marker.setAttribute('x1', where);
        this.marker.setAttribute('x2', where);
    }
}
