// The list of users: a real table of one page of the view. Rows are drawn again only where the row
// behind them changed.

import { byId, element, foreign, inSlices, setSource, setStatus, setText, sourceBadge,
    statusBadge } from './dom.js';
import { ago, clock, count, csvHead, csvLine, lasting, lastSeenText, reasonText } from './format.js';

/** While somebody points at a row or moves over it by key, rows keep their places this long. */
const HOLD = 3000;

/** Lines of the export made in one go. */
const CSV_SLICE = 2000;

export class List {
    /**
     * `facts` tells { now, bounds, current, loading, reached }; `more` is called when more offline
     * users are wanted, `changed` when another question was asked.
     */
    constructor(model, { facts, more, changed }) {
        Object.assign(this, { model, facts, more, changed });
        this.body = byId('rows');
        this.slots = []; // what is drawn: { tr, row, ...cells }
        this.ids = []; // ids on the page
        this.page = 0;
        this.held = false; // rows kept their places when last drawn
        this.heldUntil = 0;
        this.selected = null;
        this.asked = 0; // number of the last question asked of the view
        this.size = Number(byId('page-size').value);
        this.listen();
    }

    /** Connects the controls. */
    listen() {
        let typing;
        byId('search').addEventListener('input', () => {
            clearTimeout(typing);
            typing = setTimeout(() => this.ask({ text: byId('search').value }), 120);
        });
        byId('search-form').addEventListener('submit', (event) => event.preventDefault());
        byId('filter').addEventListener('change', () => this.ask({ filter: byId('filter').value }));
        byId('page-size').addEventListener('change', () => {
            const first = this.page * this.size;
            this.size = Number(byId('page-size').value);
            this.go(Math.floor(first / this.size));
        });
        for (const button of document.querySelectorAll('#users thead button')) {
            button.addEventListener('click', () => this.sortBy(button.dataset.sort));
        }
        byId('first').addEventListener('click', () => this.go(0));
        byId('previous').addEventListener('click', () => this.go(this.page - 1));
        byId('next').addEventListener('click', () => this.go(this.page + 1));
        byId('last').addEventListener('click', () => this.go(this.pages - 1));
        byId('more').addEventListener('click', () => this.more());
        byId('export').addEventListener('click', () => this.export());
        for (const kind of ['pointermove', 'focusin', 'keydown']) {
            this.body.addEventListener(kind, () => this.hold(), { passive: true });
        }
        this.body.addEventListener('pointerleave', () => this.release());
        this.body.addEventListener('keydown', (event) => this.key(event));
        this.body.addEventListener('click', (event) => this.click(event));
    }

    /** Rows keep their places for a while, so that nobody opens another row than the one aimed at. */
    hold() {
        this.heldUntil = Date.now() + HOLD;
    }

    /** Nobody is on the rows any more. */
    release() {
        this.heldUntil = 0;
        this.settle();
    }

    /** Draws what waited while the rows were held. */
    settle() {
        if (this.held && Date.now() >= this.heldUntil) this.draw();
    }

    /** How many pages the view has. */
    get pages() {
        return Math.max(1, Math.ceil(this.model.view.length / this.size));
    }

    /** Shows another page. */
    go(page) {
        this.page = Math.max(0, Math.min(page, this.pages - 1));
        this.heldUntil = 0;
        this.draw();
    }

    /** Sorts by a column, or turns the order when it is the one already. */
    sortBy(sort) {
        const { query } = this.model;
        const same = query.sort === sort;
        const newestFirst = ['since', 'seen', 'connections'].includes(sort);
        this.ask({ sort, descending: same ? !query.descending : newestFirst });
    }

    /** Asks something else of the view and shows its first page. */
    async ask(query) {
        const number = ++this.asked;
        this.page = 0;
        const steps = this.model.ask(query);
        steps.next(); // takes the question over at once
        this.drawHead();
        byId('users').setAttribute('aria-busy', 'true');
        await inSlices(steps);
        if (number !== this.asked) return;
        byId('users').removeAttribute('aria-busy');
        this.go(0);
        this.announce();
        this.changed();
    }

    /** Tells screen readers how many users match. */
    announce() {
        const found = this.model.view.length;
        setText(byId('found'), found ? `${count(found)} users match` : 'No user matches');
    }

    /** Draws the order arrows. */
    drawHead() {
        const { sort, descending } = this.model.query;
        for (const button of document.querySelectorAll('#users thead button')) {
            const th = button.closest('th');
            if (button.dataset.sort !== sort) th.removeAttribute('aria-sort');
            else th.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
        }
    }

    /** Draws the page, the pager and what stands in for an empty list. */
    draw() {
        const { model } = this;
        this.held = Date.now() < this.heldUntil;
        if (!this.held) {
            this.page = Math.min(this.page, this.pages - 1);
            const from = this.page * this.size;
            this.ids = model.view.slice(from, from + this.size).map((row) => row.id);
        }
        while (this.slots.length < this.ids.length) this.slots.push(this.makeSlot());
        while (this.slots.length > this.ids.length) this.slots.pop().tr.remove();
        this.ids.forEach((id, i) => {
            const row = model.rows.get(id);
            if (row) this.fill(this.slots[i], row);
        });
        this.drawPager();
        this.drawEmpty();
        this.drawTimes();
    }

    /** Draws where in the list the page is. */
    drawPager() {
        const total = this.model.view.length;
        const from = this.page * this.size;
        const to = Math.min(total, from + this.size);
        setText(byId('range'), total ? `${count(from + 1)} to ${count(to)} of ${count(total)}` : '');
        setText(byId('held'), this.held ? 'rows hold still while you are on them' : '');
        for (const [id, off] of [['first', this.page === 0], ['previous', this.page === 0],
            ['next', this.page >= this.pages - 1], ['last', this.page >= this.pages - 1]]) {
            const button = byId(id);
            // aria-disabled keeps the focus where it is when the end is reached.
            if (button.getAttribute('aria-disabled') !== String(off)) {
                button.setAttribute('aria-disabled', String(off));
            }
        }
        const pager = byId('pager');
        pager.hidden = total <= Number(byId('page-size').options[0].value);
        byId('export').disabled = !total;
    }

    /** Says why there is nothing to see. */
    drawEmpty() {
        const empty = byId('empty');
        const { query, view } = this.model;
        empty.hidden = view.length > 0;
        byId('users').hidden = view.length === 0;
        if (view.length) return;
        const { loading, reached } = this.facts();
        let title = 'Nobody is online';
        let text = 'A user appears here as soon as a page connects to /ws/presence/{userId}.';
        if (query.text || query.filter !== 'online') {
            title = 'No user matches';
            text = 'Try another search or filter.';
        }
        if (loading) [title, text] = ['Loading the list', 'One moment.'];
        else if (!reached) [title, text] = ['No data yet', 'The server does not answer.'];
        setText(byId('empty-title'), title);
        setText(byId('empty-text'), text);
    }

    /** A new line of the table. */
    makeSlot() {
        const link = element('a', { href: '#/' }, foreign(''));
        const status = statusBadge();
        const source = sourceBadge();
        const why = element('span', { class: 'why' });
        const connections = element('td', { class: 'number' });
        const since = element('time');
        const seen = element('time');
        const tr = element('tr', {},
            element('th', { scope: 'row' }, link),
            element('td', {}, status, why),
            element('td', { class: 'c-source' }, source),
            connections,
            element('td', { class: 'c-since' }, since),
            element('td', { class: 'c-seen' }, seen));
        connections.classList.add('c-devices');
        this.body.append(tr);
        return { tr, link, status, why, source, connections, since, seen, row: null };
    }

    /** Draws a user into a line, where it differs from what is there. */
    fill(slot, row) {
        slot.tr.setAttribute('aria-current', String(row.id === this.selected));
        if (slot.row === row) return;
        if (slot.row?.id !== row.id) {
            slot.link.href = userHash(row.id);
            slot.link.replaceChildren(foreign(row.id));
        }
        slot.row = row;
        setStatus(slot.status, row.status);
        setText(slot.why, row.reason ? `, ${reasonText(row.reason)}` : '');
        setSource(slot.source, row.source);
        setText(slot.connections, count(row.connections));
        for (const [time, at] of [[slot.since, row.since], [slot.seen, row.seen]]) {
            if (at) time.dateTime = new Date(at).toISOString();
            else time.removeAttribute('datetime');
        }
    }

    /** Brings the times on the page up to date. */
    drawTimes() {
        const { now, bounds, current } = this.facts();
        for (const { row, since, seen } of this.slots) {
            if (!row) continue;
            setText(since, row.since ? lasting(Math.max(0, now - row.since)) : '\u2013');
            const title = row.since ? `since ${clock(row.since, now)}` : '';
            if (since.title !== title) since.title = title;
            setText(seen, lastSeenText(row, now, bounds.get(row.source), current));
            const exact = row.seen ? `${clock(row.seen, now)}, ${ago(now - row.seen)}` : '';
            const hint = row.seen ? `last stamp ${exact}` : '';
            if (seen.title !== hint) seen.title = hint;
        }
    }

    /** Marks the user whose details are open. */
    select(id) {
        this.selected = id;
        for (const { tr, row } of this.slots) tr.setAttribute('aria-current', String(row?.id === id));
    }

    /** Moves the focus to a user's line if it is on the page, otherwise to the search. */
    focus(id) {
        const slot = this.slots.find(({ row }) => row?.id === id);
        (slot?.link ?? byId('search')).focus();
    }

    /** Up, down, home and end move from user to user. */
    key(event) {
        const at = this.slots.findIndex(({ link }) => link === document.activeElement);
        if (at < 0) return;
        const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.slots.length - 1 };
        const slot = this.slots[to[event.key]];
        if (!slot) return;
        event.preventDefault();
        slot.link.focus();
    }

    /** A click anywhere in a line is one on its link, unless text is being selected. */
    click(event) {
        if (event.target.closest('a') || !getSelection().isCollapsed) return;
        event.target.closest('tr')?.querySelector('a').click();
    }

    /** Saves what the view holds, all pages, as CSV. */
    async export() {
        const button = byId('export');
        button.disabled = true;
        const parts = [csvHead()];
        const { rows } = this.model;
        const view = this.model.view.slice();
        await inSlices(function* lines() {
            for (let at = 0; at < view.length; at += CSV_SLICE) {
                const some = view.slice(at, at + CSV_SLICE);
                parts.push(some.map((row) => csvLine(rows.get(row.id) ?? row)).join(''));
                yield;
            }
        }());
        const url = URL.createObjectURL(new Blob(parts, { type: 'text/csv;charset=utf-8' }));
        const stamp = new Date().toISOString().slice(0, 19).replace(/[:T]/g, '-');
        element('a', { href: url, download: `presence-${stamp}.csv` }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60000);
        button.disabled = false;
        setText(byId('found'), `${count(view.length)} users saved`);
    }
}

/** The address of a user's details on this page. */
export function userHash(id) {
    return `#/user/${encodeURIComponent(id)}`;
}
