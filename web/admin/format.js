// SPDX-License-Identifier: MIT
// Words for the page: times, sizes, reasons, ids made visible, CSV. Pure: `now` is a parameter.

const numbers = new Intl.NumberFormat('en');
const format = (options) => new Intl.DateTimeFormat('en-GB', options);
const time = format({ timeStyle: 'short' });
const seconds = format({ timeStyle: 'medium' });
const day = format({ day: 'numeric', month: 'short' });
const year = format({ dateStyle: 'medium' });

/** Why a session ended, in plain words. */
const REASONS = new Map([
  ['closed', 'left or signed out'],
  ['dropped', 'connection lost'],
  ['timeout', 'went silent'],
  ['kicked', 'kicked by an admin'],
  ['expired', 'token ran out'],
  ['restart', 'stayed away after a server restart'],
  ['node_lost', 'stayed away after a server was lost'],
]);

/** The reason in plain words; one this page does not know is shown as it is. */
export const reasonText = (reason) => REASONS.get(reason) ?? visible(String(reason));

/** A whole number with separators: 100,000. */
export const count = (value) => numbers.format(value);

/** A number with its noun: 1 connection, 3 connections. */
export const plural = (value, noun) => `${count(value)} ${noun}${value === 1 ? '' : 's'}`;

/** A size in bytes, with a unit of 1024. */
export function bytes(value) {
  const unit = value < 1024 ? 0 : Math.floor(Math.log2(value) / 10);
  const rest = value / 1024 ** unit;
  return `${Number(rest.toFixed(rest < 100 ? 1 : 0))} ${['bytes', 'KiB', 'MiB', 'GiB'][unit]}`;
}

/** How long: under 1 s, 42 s, 7 min, 1 h 3 min, 2 days 4 h. */
export function lasting(ms) {
  if (ms < 1000) return 'under 1 s';
  if (ms < 60000) return `${Math.floor(ms / 1000)} s`;
  const min = Math.floor(ms / 60000);
  if (min < 60) return `${min} min`;
  const h = Math.floor(min / 60);
  if (h < 24) return min % 60 ? `${h} h ${min % 60} min` : `${h} h`;
  const days = plural(Math.floor(h / 24), 'day');
  return h % 24 ? `${days} ${h % 24} h` : days;
}

/** The same, with the seconds below ten minutes: 7 min 12 s. */
export function exactly(ms) {
  const rest = Math.floor(ms / 1000) % 60;
  const short = ms >= 60000 && ms < 600000 && rest;
  return short ? `${Math.floor(ms / 60000)} min ${rest} s` : lasting(ms);
}

/** A short time, exact: 12 ms, 1.4 s; it may be negative. */
export const brief = (ms) => (Math.abs(ms) < 1000 ? `${ms} ms` : `${(ms / 1000).toFixed(1)} s`);

/** How long ago: just now, 12 s ago, 3 min ago, 2 h ago, 4 days ago. */
export function ago(ms) {
  if (ms < 2000) return 'just now';
  return `${lasting(ms).replace(/ (h|days?) .*/, ' $1')} ago`;
}

/** The day of a time: '' today, "24 Nov", "24 Nov 2025". */
function dayText(at, now) {
  if (new Date(at).getFullYear() !== new Date(now).getFullYear()) return year.format(at);
  return day.format(at) === day.format(now) ? '' : day.format(at);
}

/** The time of day, with the day when that is not today. */
export const clock = (at, now) => `${dayText(at, now)} ${time.format(at)}`.trim();

/** The time of day with seconds. */
export const clockSeconds = (at) => seconds.format(at);

/** A stretch of time: "13:20 to 14:02", with seconds when it is below ten minutes. */
function stretch(from, to, now) {
  const short = to - from < 600000;
  const start = `${dayText(from, now)} ${(short ? seconds : time).format(from)}`.trim();
  const same = day.format(from) === day.format(to);
  return `${start} to ${`${same ? '' : dayText(to, now)} ${(short ? seconds : time).format(to)}`.trim()}`;
}

/**
 * The timeline of a user from the sessions, newest first: when online, and the gaps between, which
 * have the reason. Items { kind: 'online' | 'offline', text, from, to, reason, address }; `to` is
 * null for what lasts.
 */
export function timeline(sessions, now) {
  const items = [];
  let next = null; // begin of the session after this one
  for (const { from: iso, to: end, reason, address } of sessions) {
    const from = Date.parse(iso);
    const to = end === null ? null : Date.parse(end);
    if (to !== null && (next === null || next > to)) {
      const when = next === null ? `since ${clock(to, now)}` : stretch(to, next, now);
      items.push({ kind: 'offline', from: to, to: next, reason,
        text: `offline ${when}${reason ? `, ${reasonText(reason)}` : ''}` });
    }
    items.push({ kind: 'online', from, to, reason: null, address,
      text: `online ${to === null ? `since ${clock(from, now)}` : stretch(from, to, now)}` });
    next = from;
  }
  return items;
}

const PROGRAMS = [[/\bEdg(?:A|iOS)?\/(\d+)/, 'Edge'], [/\bOPR\/(\d+)/, 'Opera'],
  [/\bSamsungBrowser\/(\d+)/, 'Samsung Internet'], [/\b(?:Firefox|FxiOS)\/(\d+)/, 'Firefox'],
  [/\b(?:Chrome|CriOS)\/(\d+)/, 'Chrome'], [/\bVersion\/(\d+).*Safari\//, 'Safari']];
const SYSTEMS = [[/iPhone|iPod/, 'iPhone'], [/iPad/, 'iPad'], [/Android/, 'Android'],
  [/Windows/, 'Windows'], [/CrOS/, 'ChromeOS'], [/Mac OS X|Macintosh/, 'macOS'], [/Linux/, 'Linux']];

/** A User-Agent in words, "Firefox 125 on Linux"; of a program that is none of these its own first. */
export function agentText(agent) {
  if (!agent) return 'unnamed program';
  const system = SYSTEMS.find(([pattern]) => pattern.test(agent))?.[1];
  for (const [pattern, name] of PROGRAMS) {
    const version = pattern.exec(agent)?.[1];
    if (version) return `${name} ${version}${system ? ` on ${system}` : ''}`;
  }
  if (system && agent.startsWith('Mozilla/')) return `browser on ${system}`;
  return visible(agent.replace(/^([\w.-]+)\/([\w.]+).*/, '$1 $2'));
}

/**
 * When a user was last heard from. The server tells changes, not heartbeats: while the stream is
 * current, who is online was heard within `bound` ms, or the end of the session would have been told.
 */
export function lastSeenText(row, now, bound, current) {
  if (!row.seen) return 'never';
  const age = Math.max(0, now - row.seen);
  return row.online && current && bound && age > bound ? `under ${bound / 1000} s` : ago(age);
}

// What cannot be seen or turns the direction of text; and blanks other than the space.
const MISLEADING =
  /[\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f]|(?! )\p{Zs}/gu;

// A character between two emoji, or behind one, that makes them one picture: it misleads nobody.
const JOINED = new RegExp('(?<=\\p{Extended_Pictographic}[\\ufe0f\\p{Emoji_Modifier}]?)\\u200d'
  + '(?=\\p{Extended_Pictographic})|(?<=\\p{Extended_Pictographic})\\ufe0f', 'uy');

/** Text of others in pieces: { text } as it is, { code: 'U+202E' } for what could mislead. */
export function pieces(text) {
  const found = [];
  const add = (part) => {
    const blanks = part.replace(/^ +| +$| {2,}/g, (all) => '\u2423'.repeat(all.length));
    if (part) found.push({ text: blanks });
  };
  let done = 0;
  for (const { 0: one, index } of text.matchAll(MISLEADING)) {
    JOINED.lastIndex = index;
    if (JOINED.test(text)) continue;
    add(text.slice(done, index));
    found.push({ code: `U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, '0')}` });
    done = index + one.length;
  }
  add(text.slice(done));
  return found;
}

/** The same as one string, where no chip can be: <U+202E>. */
export const visible = (text) =>
  pieces(text).map(({ text: part, code }) => part ?? `<${code}>`).join('');

/** A line of CSV (RFC 4180). What a spreadsheet takes for a formula gets an apostrophe in front. */
export function csvLine(cells) {
  return `${cells.map((value) => {
    const text = String(value ?? '');
    const risky = /^[\s\p{Cf}]*[=+\-@|%\uff1d\uff0b\uff0d\uff20\u2212]/u.test(text);
    return `"${(risky ? `'${text}` : text).replaceAll('"', '""')}"`;
  }).join(',')}\r\n`;
}

/** The first line of the export, with the mark of UTF-8 for spreadsheets. */
export const csvHead = () => `\ufeff${csvLine(['user_id', 'online', 'status', 'source',
  'connections', 'connected_at', 'last_seen', 'reason'])}`;

/** A user as a line of the export. */
export function csvUser(row) {
  const iso = (ms) => (ms ? new Date(ms).toISOString() : '');
  return csvLine([row.id, row.online, row.status, row.source, row.connections, iso(row.since),
    iso(row.seen), row.reason]);
}

/** When a certificate ends, in words, and how good that is. */
export function certificateText(notAfter, now, acme = null) {
  const at = Date.parse(notAfter);
  const days = (at - now) / 86400000;
  if (at <= now) return { text: `expired ${ago(now - at)}`, state: 'bad' };
  // One that the server renews by itself, and not yet, is well however short its life is.
  const well = days >= 21 || Date.parse(acme?.renew_at ?? '') > now;
  return { text: `expires in ${lasting(at - now)}, ${clock(at, now)}`,
    state: well ? 'good' : days < 7 ? 'bad' : 'warn' };
}

/** How it goes with the certificate that the server gets by itself: [text, state]. */
export function renewalText({ renew_at: renewAt, failing_since: since, last_error: error }, now) {
  if (error) return [`fails since ${clock(Date.parse(since), now)}: ${visible(error)}`, 'warn'];
  return [renewAt ? clock(Date.parse(renewAt), now) : 'as soon as it can be', 'good'];
}

/** A limit of the server in words; `unit` is ms, bytes or count. */
export function limitText(value, unit) {
  if (unit === 'bytes') return bytes(value);
  if (unit !== 'ms') return count(value);
  return value % 60000 || !value ? `${count(value / 1000)} s` : lasting(value);
}

/** A number a second: 12,000/s, 3.4/s, 0.05/s. */
export const rate = (value) => `${value >= 10 ? count(Math.round(value)) : Number(value.toPrecision(2))}/s`;

/** Samples as points on [0, width], the peak of each stretch; in pieces where some are missing. */
export function chartPieces(samples, interval, from, to, width) {
  const pieces = [];
  let last = -Infinity;
  for (const { at: iso, users, connections } of samples) {
    const at = Date.parse(iso);
    if (!(at >= from && at <= to)) continue;
    if (at - last > 3 * interval) pieces.push([]);
    last = at;
    const piece = pieces.at(-1);
    const x = Math.floor(((at - from) / (to - from)) * width);
    const tail = piece.at(-1);
    if (tail?.x !== x) piece.push({ x, at, users, connections });
    else if (users > tail.users) Object.assign(tail, { at, users, connections });
  }
  return pieces;
}

/** A round number at or above `value` for the top of an axis: 4, 10, 20, 40, 50, 100 ... */
export function roundTop(value) {
  const unit = 10 ** Math.max(0, Math.floor(Math.log10(value)));
  return Math.max(4, [1, 2, 4, 5, 6, 8, 10].find((factor) => unit * factor >= value) * unit);
}
