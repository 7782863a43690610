// Who is known to the page: every user online and some offline ones, and the sorted, filtered view
// of them. Pure: no DOM, no network, no clock. Long work is a generator, run in slices by its caller.

/** Offline users kept at most; the ones that went longest ago are forgotten first. */
export const KEEP_OFFLINE = 20000;

const RUN = 1024; // rows sorted in one go
const SLICE = 8192; // rows filtered or merged in one go
const FEW = 64; // up to this many changes are put into the view one by one

const STATUS_RANK = new Map([['online', 0], ['busy', 1], ['away', 2], ['offline', 3]]);
const SOURCE_RANK = new Map([['live', 0], ['cached', 1], ['stored', 2]]);

/** What the list can be sorted by: the name of the column and the member of a row. */
const SORT_KEYS = new Map([
    ['user', 'id'],
    ['status', 'statusRank'],
    ['source', 'sourceRank'],
    ['connections', 'connections'],
    ['since', 'since'],
    ['seen', 'seen'],
]);

/** What the list can be filtered by. */
const FILTERS = new Map([
    ['online', (row) => row.online],
    ['live', (row) => row.source === 'live'],
    ['cached', (row) => row.source === 'cached'],
    ['available', (row) => row.status === 'online'],
    ['busy', (row) => row.status === 'busy'],
    ['away', (row) => row.status === 'away'],
    ['offline', (row) => !row.online],
    ['all', () => true],
]);

/** A position "EPOCH-SEQ" as { epoch, seq }, or null when it is none. */
export function parsePosition(text) {
    const match = /^([0-9a-f]+)-(\d+)$/.exec(text ?? '');
    return match ? { epoch: match[1], seq: Number(match[2]) } : null;
}

/** A user as the server writes it, as a row as of change number `seq`. */
function makeRow(user, reason, seq) {
    return {
        id: user.user_id,
        online: user.online,
        status: user.status,
        source: user.source,
        connections: user.connections,
        since: user.connected_at ? Date.parse(user.connected_at) : 0,
        seen: user.last_seen ? Date.parse(user.last_seen) : 0,
        reason,
        statusRank: STATUS_RANK.get(user.status) ?? 9,
        sourceRank: SOURCE_RANK.get(user.source) ?? 9,
        seq, // every change up to this one is in the row
        load: 0, // the load that last saw it
    };
}

/** Whether two rows of a user look the same. */
function sameLook(a, b) {
    return a.seen === b.seen && a.status === b.status && a.source === b.source &&
        a.connections === b.connections && a.since === b.since && a.reason === b.reason;
}

/** The order of rows by one member, users of the same value by id. */
function comparator(key, descending) {
    const sign = descending ? -1 : 1;
    return (a, b) => {
        if (a[key] < b[key]) return -sign;
        if (a[key] > b[key]) return sign;
        if (a.id === b.id) return 0;
        return a.id < b.id ? -1 : 1;
    };
}

/** The first place in a sorted list whose row is not before `row`. */
function lowerBound(list, row, compare) {
    let low = 0;
    let high = list.length;
    while (low < high) {
        const middle = (low + high) >>> 1;
        if (compare(list[middle], row) < 0) low = middle + 1;
        else high = middle;
    }
    return low;
}

/** Sorts a list in steps: runs of RUN rows, then merged pair by pair. Returns the sorted list. */
function* sortInSteps(list, compare) {
    let runs = [];
    for (let at = 0; at < list.length; at += RUN) {
        runs.push(list.slice(at, at + RUN).sort(compare));
        yield;
    }
    while (runs.length > 1) {
        const merged = [];
        for (let i = 0; i < runs.length; i += 2) {
            if (i + 1 === runs.length) merged.push(runs[i]);
            else merged.push(yield* mergeInSteps(runs[i], runs[i + 1], compare));
        }
        runs = merged;
    }
    return runs[0] ?? [];
}

/** Merges two sorted lists in steps. */
function* mergeInSteps(a, b, compare) {
    const out = new Array(a.length + b.length);
    let i = 0;
    let j = 0;
    for (let k = 0; k < out.length; k++) {
        if (j >= b.length || (i < a.length && compare(a[i], b[j]) <= 0)) out[k] = a[i++];
        else out[k] = b[j++];
        if (k % SLICE === SLICE - 1) yield;
    }
    return out;
}

export class Model {
    /** Nobody known, nothing asked. */
    constructor() {
        this.rows = new Map(); // id -> row
        this.gone = new Map(); // ids of offline rows, the longest gone first
        this.epoch = null; // the run of the server that the rows are of
        this.seq = 0; // the last change applied
        this.complete = false; // a load of everybody online has ended
        this.totals = { users: 0, connections: 0, live: 0, cached: 0 };
        this.view = []; // rows that match the query, in its order
        this.query = { text: '', filter: 'online', sort: 'user', descending: false };
        this.compare = comparator('id', false);
        this.changed = new Map(); // id -> its row when the view was last in order, or undefined
        this.building = null; // what a new view is being built for
        this.load = 0; // number of the load under way
        this.loadStart = 0; // the position its first page had
    }

    /** A change as the stream tells it. False when an answer had it already. */
    change(event) {
        const position = parsePosition(event.position);
        if (position?.epoch !== this.epoch) return false;
        this.seq = Math.max(this.seq, position.seq);
        const old = this.rows.get(event.user.user_id);
        if (old && position.seq <= old.seq) return false;
        this.put(makeRow(event.user, event.user.online ? null : event.reason, position.seq));
        return true;
    }

    /** The stream begins anew at a position: what comes after it will be told. */
    reset(text) {
        const position = parsePosition(text);
        this.adopt(position?.epoch ?? null);
        this.seq = position?.seq ?? 0;
    }

    /** The server's run is this one; sequence numbers of another one mean nothing any more. */
    adopt(epoch) {
        if (epoch === this.epoch) return;
        this.epoch = epoch;
        this.seq = 0;
        for (const row of this.rows.values()) row.seq = 0;
    }

    /** A load of everybody online begins. */
    beginLoad() {
        this.load++;
        this.loadStart = null;
    }

    /** A page of users as of a position. False when it is of another run of the server. */
    page(users, text) {
        const position = parsePosition(text);
        if (position && this.epoch === null) this.adopt(position.epoch);
        if (position && position.epoch !== this.epoch) return false;
        const seq = position?.seq ?? 0;
        this.loadStart ??= seq;
        for (const user of users) {
            const old = this.rows.get(user.user_id);
            if (old && old.seq > seq) {
                old.load = this.load;
                continue;
            }
            const reason = old && !old.online && !user.online ? old.reason : null;
            const row = makeRow(user, reason, seq);
            if (old && sameLook(old, row)) old.seq = seq;
            else this.put(row);
            this.rows.get(row.id).load = this.load;
        }
        return true;
    }

    /** The load has seen everybody: who was not on it and has no later change is offline. */
    endLoad() {
        const lost = [];
        for (const row of this.rows.values()) {
            if (row.online && row.load !== this.load && row.seq <= (this.loadStart ?? 0)) {
                lost.push(row);
            }
        }
        for (const row of lost) {
            const gone = { ...row, online: false, status: 'offline', source: 'stored', since: 0 };
            this.put({ ...gone, connections: 0, reason: null, statusRank: 3, sourceRank: 2 });
        }
        this.complete = true;
    }

    /** Takes a row in place of the user's last one. */
    put(row) {
        const old = this.rows.get(row.id);
        row.load = old?.load ?? 0;
        this.note(row.id, old);
        this.rows.set(row.id, row);
        this.add(old, -1);
        this.add(row, 1);
        this.gone.delete(row.id);
        if (!row.online) this.gone.set(row.id, true);
        if (this.gone.size > KEEP_OFFLINE) this.forget(this.gone.keys().next().value);
    }

    /** Lets go of an offline user. */
    forget(id) {
        this.note(id, this.rows.get(id));
        this.gone.delete(id);
        this.rows.delete(id);
    }

    /** Forgets everybody; the question stands. */
    forgetAll() {
        const { query, compare } = this;
        Object.assign(this, new Model(), { query, compare });
    }

    /** Remembers what the view has of a user. */
    note(id, old) {
        if (!this.changed.has(id)) this.changed.set(id, old);
    }

    /** Counts a row in (1) or out (-1). */
    add(row, sign) {
        if (!row?.online) return;
        this.totals.users += sign;
        this.totals.connections += sign * row.connections;
        if (row.source === 'live') this.totals.live += sign;
        else this.totals.cached += sign;
    }

    /** Whether a row belongs in the view. */
    matches(row) {
        const { text, filter } = this.query;
        return FILTERS.get(filter)(row) && (!text || row.id.toLowerCase().includes(text));
    }

    /** Brings the view up to date with all changes. True when it changed. */
    flush() {
        if (this.building || !this.changed.size) return false;
        const out = [];
        const into = [];
        for (const [id, old] of this.changed) {
            const row = this.rows.get(id);
            if (old && this.matches(old)) out.push(old);
            if (row && this.matches(row)) into.push(row);
        }
        this.changed.clear();
        if (out.length + into.length <= FEW) this.spliceView(out, into);
        else this.mergeView(new Set(out), into.sort(this.compare));
        return out.length + into.length > 0;
    }

    /** Takes few rows out of the view and others into it. */
    spliceView(out, into) {
        for (const row of out) {
            const at = lowerBound(this.view, row, this.compare);
            if (this.view[at] === row) this.view.splice(at, 1);
        }
        for (const row of into) this.view.splice(lowerBound(this.view, row, this.compare), 0, row);
    }

    /** The same for many: one walk over the view. `into` is sorted. */
    mergeView(out, into) {
        const view = [];
        let next = 0;
        for (const row of this.view) {
            if (out.has(row)) continue;
            while (next < into.length && this.compare(into[next], row) < 0) view.push(into[next++]);
            view.push(row);
        }
        while (next < into.length) view.push(into[next++]);
        this.view = view;
    }

    /**
     * Asks something else of the view, in steps; until the last one the old view stands. A later
     * call makes an earlier one end without effect. Text is compared without regard to case.
     */
    *ask(query) {
        const wanted = { ...this.query, ...query };
        wanted.text = wanted.text.toLowerCase();
        const token = {};
        this.building = token;
        this.query = wanted;
        this.compare = comparator(SORT_KEYS.get(wanted.sort), wanted.descending);
        this.changed.clear();
        const everyone = [...this.rows.values()];
        const found = [];
        for (let at = 0; at < everyone.length; at += SLICE) {
            yield;
            if (this.building !== token) return;
            for (const row of everyone.slice(at, at + SLICE)) if (this.matches(row)) found.push(row);
        }
        const sorting = sortInSteps(found, this.compare);
        let step = sorting.next();
        while (!step.done) {
            yield;
            if (this.building !== token) return;
            step = sorting.next();
        }
        this.view = step.value;
        this.building = null;
        this.flush();
    }
}

/**
 * Samples of the history as at most `width` points over [from, to], the highest of each stretch, in
 * pieces: where samples are missing for more than three intervals the line breaks.
 */
export function chartPieces(samples, interval, from, to, width) {
    const pieces = [];
    let piece = null;
    let last = -Infinity;
    for (const sample of samples) {
        const at = Date.parse(sample.at);
        if (!(at >= from && at <= to)) continue;
        const slot = Math.floor(((at - from) / (to - from)) * width);
        if (!piece || at - last > 3 * interval) {
            piece = [];
            pieces.push(piece);
        }
        last = at;
        const tail = piece.at(-1);
        if (tail?.slot === slot) {
            if (sample.users > tail.users) Object.assign(tail, sample, { at });
        } else {
            piece.push({ slot, at, users: sample.users, connections: sample.connections });
        }
    }
    return pieces;
}

/** A round number at or above `value` for the top of an axis: 1, 2, 4, 5, 10, 20, 40, 50 ... */
export function roundTop(value) {
    let unit = 1;
    while (unit * 10 < value) unit *= 10;
    for (const factor of [1, 2, 4, 5, 10]) if (unit * factor >= value) return unit * factor;
    return unit * 10;
}
