// SPDX-License-Identifier: MIT
// Words for the page: times, sizes, reasons, ids made visible, CSV. Pure: `now` is a parameter.

const numbers = new Intl.NumberFormat('en');
const format = (options) => new Intl.DateTimeFormat('en-GB', options);
const time = format({ timeStyle: 'short' });
const seconds = format({ timeStyle: 'medium' });
const day = format({ day: 'numeric', month: 'short' });
const year = format({ dateStyle: 'medium' });

// Why a session ended.
const REASONS = {
  __proto__: null,
  closed: 'left or signed out',
  dropped: 'connection lost',
  timeout: 'went silent',
  kicked: 'kicked by an admin',
  expired: 'token ran out',
  restart: 'stayed away after a server restart',
  node_lost: 'stayed away after a server was lost',
};

// One this page does not know is shown as it is.
export const reasonText = (reason) => REASONS[reason] ?? visible(String(reason));

export const count = (value) => numbers.format(value);

export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? '' : 's'}`;

export function bytes(value) {
  const unit = value < 1024 ? 0 : Math.floor(Math.log2(value) / 10);
  const rest = value / 1024 ** unit;
  return `${Number(rest.toFixed(rest < 100 ? 1 : 0))} ${['bytes', 'KiB', 'MiB', 'GiB'][unit]}`;
}

// Under 1 s, 42 s, 7 min, 1 h 3 min, 2 days 4 h.
export function lasting(ms) {
  const [s, min, h] = [1000, 60000, 3600000].map((unit) => Math.floor(ms / unit));
  if (!s) return 'under 1 s';
  if (!min) return `${s} s`;
  if (!h) return `${min} min`;
  if (h < 24) return min % 60 ? `${h} h ${min % 60} min` : `${h} h`;
  const days = plural(Math.floor(h / 24), 'day');
  return h % 24 ? `${days} ${h % 24} h` : days;
}

// With the seconds below ten minutes: 7 min 12 s.
export function exactly(ms) {
  const rest = Math.floor(ms / 1000) % 60;
  return lasting(ms) + (ms >= 60000 && ms < 600000 && rest ? ` ${rest} s` : '');
}

// 12 ms, 1.4 s, also below zero.
export const brief = (ms) => (Math.abs(ms) < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`);

// Just now, 12 s ago, 2 h ago, 4 days ago.
export function ago(ms) {
  if (ms < 2000) return 'just now';
  return `${lasting(ms).replace(/ (h|days?) .*/, ' $1')} ago`;
}

// '' today, "24 Nov", "24 Nov 2025".
function dayText(at, now) {
  const [date, today] = [new Date(at), new Date(now)];
  if (date.getFullYear() !== today.getFullYear()) return year.format(date);
  return day.format(date) === day.format(today) ? '' : day.format(date);
}

// The time of day, with the day when that is not today.
export const clock = (at, now, hours = time) =>
  `${dayText(at, now)} ${hours.format(new Date(at))}`.trim();

export const clockSeconds = (at) => seconds.format(at);

// "13:20 to 14:02", with seconds when it is below ten minutes.
function stretch(from, to, now) {
  const hours = to - from < 600000 ? seconds : time;
  const same = new Date(from).toDateString() === new Date(to).toDateString();
  return `${clock(from, now, hours)} to ${same ? hours.format(to) : clock(to, now, hours)}`;
}

// The timeline of sessions, newest first: when online, and the gaps between, which have the reason.
// `to` is null for what lasts.
export function timeline(sessions, now) {
  const items = [];
  const add = (kind, from, to, reason, address) => items.push({ kind, from, to, reason, address,
    text: `${kind} ${to === null ? `since ${clock(from, now)}` : stretch(from, to, now)}${
      reason ? `, ${reasonText(reason)}` : ''}` });
  let next = null; // begin of the session after this one
  for (const { from: iso, to: end, reason, address } of sessions) {
    const from = Date.parse(iso);
    const to = end && Date.parse(end);
    if (to !== null && (next === null || next > to)) add('offline', to, next, reason);
    add('online', from, to, null, address);
    next = from;
  }
  return items;
}

const PROGRAMS = { Edge: /\bEdg(?:A|iOS)?\/(\d+)/, Opera: /\bOPR\/(\d+)/,
  'Samsung Internet': /\bSamsungBrowser\/(\d+)/, Firefox: /\b(?:Firefox|FxiOS)\/(\d+)/,
  Chrome: /\b(?:Chrome|CriOS)\/(\d+)/, Safari: /\bVersion\/(\d+).*Safari\// };
const SYSTEMS = { iPhone: /iPhone|iPod/, iPad: /iPad/, Android: /Android/, Windows: /Windows/,
  ChromeOS: /CrOS/, macOS: /Mac OS X|Macintosh/, Linux: /Linux/ };

// A User-Agent in words, "Firefox 125 on Linux"; of a program that is none of these its own first.
export function agentText(agent) {
  if (!agent) return 'unnamed program';
  const system = Object.keys(SYSTEMS).find((name) => SYSTEMS[name].test(agent));
  for (const [name, pattern] of Object.entries(PROGRAMS)) {
    const version = pattern.exec(agent)?.[1];
    if (version) return `${name} ${version}${system ? ` on ${system}` : ''}`;
  }
  if (system && agent.startsWith('Mozilla/')) return `browser on ${system}`;
  return visible(agent.replace(/^([\w.-]+)\/([\w.]+).*/, '$1 $2'));
}

// The server tells changes, not heartbeats: while the stream is current, who is online was heard
// within `bound` ms, or the end of the session would have been told.
export function lastSeenText(row, now, bound, current) {
  if (!row.seen) return 'never';
  const age = Math.max(0, now - row.seen);
  return row.online && current && bound && age > bound ? `under ${bound / 1000} s` : ago(age);
}

// What cannot be seen or turns the direction of text, and blanks other than the space; but not what
// stands between two emoji, or behind one, and makes them one picture: it misleads nobody.
const EMOJI = String.raw`\p{Extended_Pictographic}`;
const MISLEADING = new RegExp(String.raw`(?!(?<=${EMOJI}[\ufe0f\p{Emoji_Modifier}]?)\u200d(?=${EMOJI})|(?<=${EMOJI})\ufe0f)`
  + String.raw`([\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f]|(?! )\p{Zs})`, 'u');

// Text of others in pieces: { text } as it is, { code: 'U+202E' } for what could mislead.
export const pieces = (text) => text.split(MISLEADING).map((part, i) => (i % 2
  ? { code: `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}` }
  : { text: part.replace(/^ +| +$| {2,}/g, (all) => '\u2423'.repeat(all.length)) }))
  .filter(({ text: part }) => part !== '');

// The same as one string, where no chip can be: <U+202E>.
export const visible = (text) =>
  pieces(text).map(({ text: part, code }) => part ?? `<${code}>`).join('');

// A line of CSV (RFC 4180). What a spreadsheet takes for a formula gets an apostrophe in front.
export function csvLine(cells) {
  return `${cells.map((value) => {
    const text = String(value ?? '');
    const risky = /^[\s\p{Cf}]*[=+\-@|%\uff1d\uff0b\uff0d\uff20\u2212]/u.test(text);
    return `"${(risky ? `'${text}` : text).replaceAll('"', '""')}"`;
  }).join(',')}\r\n`;
}

// The export: column -> what it has of a row.
const COLUMNS = { user_id: 'id', online: 'online', status: 'status', source: 'source',
  connections: 'connections', connected_at: 'since', last_seen: 'seen', reason: 'reason' };

// The first line, with the mark of UTF-8 for spreadsheets.
export const csvHead = () => `\ufeff${csvLine(Object.keys(COLUMNS))}`;

export const csvUser = (row) => csvLine(Object.values(COLUMNS).map((key) => (
  /since|seen/.test(key) ? (row[key] || '') && new Date(row[key]).toISOString() : row[key])));

// [How good it is, words].
export function certificateText(notAfter, now, acme = null) {
  const left = Date.parse(notAfter) - now;
  const days = left / 86400000;
  if (left <= 0) return ['bad', `expired ${ago(-left)}`];
  // One that the server renews by itself, and not yet, is well however short its life is.
  const well = days >= 21 || Date.parse(acme?.renew_at) > now;
  return [well ? 'good' : days < 7 ? 'bad' : 'warn',
    `expires in ${lasting(left)}, ${clock(notAfter, now)}`];
}

// The same of the certificate that the server gets by itself.
export function renewalText({ renew_at: renewAt, failing_since: since, last_error: error }, now) {
  if (error) return ['warn', `fails since ${clock(since, now)}: ${visible(error)}`];
  return ['good', renewAt ? clock(renewAt, now) : 'as soon as it can be'];
}

// A limit of the server; `unit` is ms, bytes or count.
export function limitText(value, unit) {
  if (unit === 'bytes') return bytes(value);
  if (unit !== 'ms') return count(value);
  return value % 60000 || !value ? `${count(value / 1000)} s` : lasting(value);
}

// 12,000/s, 3.4/s, 0.05/s.
export const rate = (value) => `${value >= 10 ? count(Math.round(value)) : Number(value.toPrecision(2))}/s`;

// Samples as points on [0, width], the peak of each stretch; in pieces where some are missing.
export function chartPieces(samples, interval, from, to, width) {
  const pieces = [];
  let last = -Infinity;
  for (const { at: iso, users, connections } of samples) {
    const at = Date.parse(iso);
    if (!(at >= from && at <= to)) continue;
    if (at - last > 3 * interval) pieces.push([]);
    last = at;
    const point = { x: Math.floor(((at - from) / (to - from)) * width), at, users, connections };
    const piece = pieces.at(-1);
    const tail = piece.at(-1);
    if (tail?.x !== point.x) piece.push(point);
    else if (users > tail.users) Object.assign(tail, point);
  }
  return pieces;
}

// A round number at or above `value` for the top of an axis: 4, 10, 20, 40, 50, 100 ...
export function roundTop(value) {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(value)));
  return Math.max(4, [1, 2, 4, 5, 6, 8, 10].find((factor) => unit * factor >= value) * unit);
}
