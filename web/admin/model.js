// SPDX-License-Identifier: MIT
// Who is known to the page, and the sorted, filtered view of them. Pure. Long work is a generator,
// run in slices by its caller.

export const KEEP_OFFLINE = 20000; // offline users; the longest gone are forgotten
const SLICE = 4096; // rows put into a new view in one step

const RANK = { online: 0, busy: 1, away: 2, offline: 3, live: 0, cached: 1, stored: 2 };

// "EPOCH-SEQ" as { epoch, seq }, or null.
export function parsePosition(text) {
  const match = /^([0-9a-f]+)-(\d+)$/.exec(text ?? '');
  return match && { epoch: match[1], seq: Number(match[2]) };
}

// A user of an answer as a row, which has every change up to number `seq`; `load` is the last that
// saw it.
const makeRow = ({ user_id: id, online, status, source, connections, connected_at: since, last_seen: seen,
  message = '', invisible: hidden = false }, reason, seq) => ({
  id, online, status, source, connections, message, hidden, reason, seq, load: 0, old: false,
  since: Date.parse(since) || 0, seen: Date.parse(seen) || 0,
  statusRank: RANK[status] ?? 9, sourceRank: RANK[source] ?? 9,
});

// A text as searches see it: capitals do not count, by the server's rule, which is A to Z.
const fold = (text) => text.replace(/[A-Z]/g, (one) => one.toLowerCase());

// The order of rows by one of their members, then by id.
function comparator(key, descending) {
  const sign = descending ? -1 : 1;
  return (a, b) => {
    if (a[key] !== b[key]) return a[key] < b[key] ? -sign : sign;
    return a.id < b.id ? -1 : Number(a.id > b.id);
  };
}

export class Model {
  query = { text: '', filter: 'online', sort: 'id', descending: false };
  compare = comparator('id', false);

  constructor() { this.clear(); }

  clear() {
    this.rows = new Map(); // id -> row
    this.gone = new Set(); // ids of offline rows, the longest gone first
    this.epoch = null; // the run of the server that the numbers are of
    this.seq = 0; // the last change applied
    this.complete = false; // everybody online has been loaded
    this.totals = { users: 0, connections: 0, live: 0, cached: 0 };
    this.view = []; // rows that match the query, in its order
    this.changed = new Set(); // rows that came since the view was in order
    this.building = null; // the question a new view is being built for
    this.load = 0; // number of the last load
    this.loadStart = null; // the number its first page was of
  }

  // Numbers of another run of the server mean nothing any more.
  adopt(epoch) {
    if (epoch === this.epoch) return;
    this.epoch = epoch;
    this.seq = 0;
    for (const row of this.rows.values()) row.seq = 0;
  }

  // The stream begins anew at a position; what comes after it will be told.
  reset(position) {
    const { epoch, seq } = parsePosition(position);
    this.adopt(epoch);
    this.seq = seq;
    this.complete = false; // what was before it is not known
  }

  // A change of the stream. False when an answer had it already.
  change({ position, user, reason }) {
    const { epoch, seq } = parsePosition(position);
    if (epoch !== this.epoch) return false;
    this.seq = Math.max(this.seq, seq);
    if (seq <= this.rows.get(user.user_id)?.seq) return false;
    this.put(makeRow(user, user.online ? null : reason, seq));
    return true;
  }

  beginLoad() {
    this.load++;
    this.loadStart = null;
  }

  // A page of the load, or of `stored` users. False when it is of another run of the server.
  page(users, position, stored = false) {
    const { epoch, seq } = parsePosition(position) ?? { epoch: this.epoch, seq: 0 };
    if (this.epoch === null) this.adopt(epoch);
    if (epoch !== this.epoch) return false;
    if (!stored) this.loadStart ??= seq;
    for (const user of users) {
      let row = this.rows.get(user.user_id);
      if (!row || row.seq <= seq) {
        row = makeRow(user, row && !row.online && !user.online ? row.reason : null, seq);
        this.put(row);
      }
      row.load = this.load;
    }
    return true;
  }

  // The load saw everybody: who was not on it, and has no later change, is offline.
  endLoad() {
    for (const row of [...this.rows.values()]) {
      if (row.online && row.load !== this.load && row.seq <= (this.loadStart ?? 0)) {
        this.put({ ...row, online: false, status: 'offline', source: 'stored', connections: 0,
          since: 0, statusRank: 3, sourceRank: 2 });
      }
    }
    this.complete = true;
  }

  put(row) {
    this.drop(row.id);
    this.rows.set(row.id, row);
    this.changed.add(row);
    this.tally(row, 1);
    if (!row.online) this.gone.add(row.id);
    const [longest] = this.gone;
    if (this.gone.size > KEEP_OFFLINE) this.drop(longest);
  }

  // Forgets a user, of whom the view may have the row yet.
  drop(id) {
    const row = this.rows.get(id);
    if (!row) return;
    row.old = true;
    this.tally(row, -1);
    this.rows.delete(id);
    this.gone.delete(id);
    this.changed.delete(row);
  }

  // Counts a row in (1) or out (-1).
  tally(row, sign) {
    if (!row.online) return;
    this.totals.users += sign;
    this.totals.connections += sign * row.connections;
    this.totals[row.source === 'live' ? 'live' : 'cached'] += sign;
  }

  matches(row) {
    const { text, filter } = this.query;
    const fits = { all: true, online: row.online, available: row.status === 'online',
      hidden: row.hidden && row.online }[filter] ?? (row.status === filter || row.source === filter);
    return fits && (!text || fold(row.id).includes(text));
  }

  // Brings the view up to date. True when it changed. A sort of two sorted runs is a merge.
  flush() {
    if (this.building || !this.changed.size) return false;
    const kept = this.view.filter((row) => !row.old);
    const come = [...this.changed].filter((row) => this.matches(row)).sort(this.compare);
    this.changed.clear();
    if (!come.length && kept.length === this.view.length) return false;
    this.view = kept.concat(come).sort(this.compare);
    return true;
  }

  // Asks something else of the view, in steps; a later call ends an earlier one.
  *ask(query) {
    const mine = { ...this.query, ...query };
    mine.text = fold(mine.text);
    this.building = this.query = mine;
    this.compare = comparator(mine.sort, mine.descending);
    this.changed.clear();
    const everyone = [...this.rows.values()];
    let view = [];
    for (let at = 0; at < everyone.length; at += SLICE) {
      yield;
      if (this.building !== mine) return;
      const some = everyone.slice(at, at + SLICE).filter((row) => this.matches(row));
      view = view.concat(some.sort(this.compare)).sort(this.compare);
    }
    this.view = view;
    this.building = null;
    this.flush();
  }
}
