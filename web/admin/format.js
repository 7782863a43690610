// Words for the page: times, sizes, reasons, ids made visible, CSV. Pure: `now` is a parameter.

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

const numbers = new Intl.NumberFormat('en');
const timeOfDay = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit' });
const timeWithSeconds = new Intl.DateTimeFormat('en-GB', {
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
});
const dayOfYear = new Intl.DateTimeFormat('en-GB', { day: 'numeric', month: 'short' });
const dayAndYear = new Intl.DateTimeFormat('en-GB', {
    day: 'numeric',
    month: 'short',
    year: 'numeric',
});

/** Why a stay ended, in plain words. */
const REASONS = new Map([
    ['closed', 'left or signed out'],
    ['dropped', 'connection lost'],
    ['timeout', 'went silent'],
    ['kicked', 'kicked by an admin'],
    ['expired', 'token ran out'],
    ['restart', 'did not come back after a server restart'],
]);

/** The reason in plain words; one this page does not know is shown as it is. */
export function reasonText(reason) {
    return REASONS.get(reason) ?? visible(String(reason));
}

/** A whole number with separators: 100,000. */
export function count(value) {
    return numbers.format(value);
}

/** A number with its noun: 1 connection, 3 connections. */
export function plural(value, noun) {
    return `${count(value)} ${noun}${value === 1 ? '' : 's'}`;
}

/** A size in bytes, at most four digits and a unit of 1024. */
export function bytes(value) {
    const units = ['bytes', 'KiB', 'MiB', 'GiB', 'TiB'];
    let unit = 0;
    let rest = value;
    while (rest >= 1024 && unit < units.length - 1) {
        rest /= 1024;
        unit++;
    }
    const digits = unit && rest < 100 ? 1 : 0;
    return `${rest.toFixed(digits).replace(/\.0$/, '')} ${units[unit]}`;
}

/** How long something lasted: "under 1 s", "42 s", "7 min", "1 h 3 min", "2 days 4 h". */
export function lasting(ms) {
    if (ms < SECOND) return 'under 1 s';
    if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s`;
    if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min`;
    if (ms < DAY) return two(Math.floor(ms / HOUR), 'h', Math.floor((ms % HOUR) / MINUTE), 'min');
    const days = Math.floor(ms / DAY);
    return two(days, days === 1 ? 'day' : 'days', Math.floor((ms % DAY) / HOUR), 'h');
}

/** Two parts of a length of time, the second only when it is not zero. */
function two(first, unit, second, smaller) {
    return second ? `${first} ${unit} ${second} ${smaller}` : `${first} ${unit}`;
}

/** How long ago: "just now", "12 s ago", "3 min ago", "2 h ago", "4 days ago". */
export function ago(ms) {
    if (ms < 2 * SECOND) return 'just now';
    if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s ago`;
    if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min ago`;
    if (ms < DAY) return `${Math.floor(ms / HOUR)} h ago`;
    const days = Math.floor(ms / DAY);
    return days === 1 ? '1 day ago' : `${count(days)} days ago`;
}

/** The time of day, with the day when it is not today and the year when it is not this one. */
export function clock(at, now) {
    const time = timeOfDay.format(at);
    const day = dayText(at, now);
    return day ? `${day} ${time}` : time;
}

/** The day of a time: '' today, "24 Nov", "24 Nov 2025". */
export function dayText(at, now) {
    const there = new Date(at);
    const here = new Date(now);
    if (there.getFullYear() !== here.getFullYear()) return dayAndYear.format(at);
    const same = there.getMonth() === here.getMonth() && there.getDate() === here.getDate();
    return same ? '' : dayOfYear.format(at);
}

/** The time of day with seconds, for what happened just now. */
export function clockSeconds(at) {
    return timeWithSeconds.format(at);
}

/** A stay in plain words: "13:20 to 14:02, connection lost", "since 14:05, still online". */
export function stayText(stay, now) {
    const from = Date.parse(stay.from);
    if (stay.to === null) return `since ${clock(from, now)}, still online`;
    const to = Date.parse(stay.to);
    const end = dayText(from, now) === dayText(to, now) ? timeOfDay.format(to) : clock(to, now);
    return `${clock(from, now)} to ${end}, ${reasonText(stay.reason)}`;
}

/**
 * When a user was last heard from, as far as this page can know. The server sends changes, not
 * every heartbeat: an online user whose stamp is older than `bound` was heard within it, for
 * otherwise the server would have told the end of the stay. Only while the stream is `current`.
 */
export function lastSeenText(row, now, bound, current) {
    if (!row.seen) return 'never';
    const age = Math.max(0, now - row.seen);
    if (row.online && current && bound && age > bound) return `under ${lasting(bound)} ago`;
    return ago(age);
}

// What has no look of its own or changes the look of others: control characters, invisible ones,
// those that turn the direction of text, other blanks than the space, lone surrogates, private use.
const INVISIBLE = /[\p{C}\p{Zl}\p{Zp}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\ufe00-\ufe0f]/u;
const INVISIBLE_ALL = new RegExp(INVISIBLE.source, 'gu');
const BLANK = /(?! )\p{Zs}|^ +| +$| {2,}/gu;

/** Text of others as it may be shown: every character that could mislead is spelled out. */
export function visible(text) {
    const plain = INVISIBLE.test(text) ? text.replace(INVISIBLE_ALL, spelled) : text;
    return plain.replace(BLANK, (blanks) =>
        /^ +$/.test(blanks) ? '\u2423'.repeat(blanks.length) : spelled(blanks),
    );
}

/** A character by its number: <U+202E>. */
function spelled(character) {
    const hex = character.codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
    return `<U+${hex}>`;
}

/** The columns of the CSV export. */
const COLUMNS = ['user_id', 'online', 'status', 'source', 'connections', 'connected_at',
    'last_seen', 'reason'];

/**
 * One cell of CSV (RFC 4180), always in quotes. A text that a spreadsheet would take for a formula
 * gets an apostrophe in front, which makes it text there.
 */
export function csvCell(value) {
    const text = String(value ?? '');
    const risky = /^[\s\p{Cf}]*[=+\-@|%\uff1d\uff0b\uff0d\uff20\u2212]|^[\t\r\n]/u.test(text);
    return `"${(risky ? `'${text}` : text).replaceAll('"', '""')}"`;
}

/** The first line of the export. The mark in front tells spreadsheets that it is UTF-8. */
export function csvHead() {
    return `\ufeff${COLUMNS.map(csvCell).join(',')}\r\n`;
}

/** A row of the list as a line of the export. */
export function csvLine(row) {
    const iso = (ms) => (ms ? new Date(ms).toISOString() : '');
    return `${[row.id, row.online, row.status, row.source, row.connections, iso(row.since),
        iso(row.seen), row.reason].map(csvCell).join(',')}\r\n`;
}
