'use strict';
// Variants: release
// The pages say what the program does, and nothing else: every option, command, route, message,
// code, reason and metric, with its default, bounds and text, in both directions.
//
// A check takes all texts and returns what is wrong. So each can be given a text that was broken on
// purpose, and the last table here does that: a check that notices nothing is itself a failure.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const path = require('node:path');
const { execFileSync } = require('node:child_process');
const { test, start, run, tempDir, connect, openEvents, request, get, heartbeat, passwordFile, login, startReceiver, until } = require('./lib');

const root = path.join(__dirname, '../..');
const read = (name) => fs.readFileSync(path.join(root, name), 'utf8');

// ---- presence.c ----

/** The arguments of each X(...) of a table, strings without quotes and put together. */
function table(source, name) {
  const [body] = new RegExp(`#define ${name}\\(X\\)(?:.*\\\\\\n)*.*`).exec(source) || assert.fail(name);
  const token = /"(?:[^"\\]|\\.)*"|[(),]|[^"(),\\\s]+|\\/g;
  const rows = [];
  let depth = 0;
  for (const [part] of body.slice(body.indexOf('(X)') + 3).matchAll(token)) {
    if (part === '\\' || (depth === 0 && part !== '(' && part !== 'X')) continue;
    if (part === '(' && depth++ === 0) rows.push(['']);
    else if (part === ')' && --depth === 0) continue;
    else if (part === ',' && depth === 1) rows.at(-1).push('');
    else if (depth) rows.at(-1)[rows.at(-1).length - 1] += part[0] === '"' ? JSON.parse(part) : part;
  }
  return rows;
}

/** The close code of an error's row: a name of CLOSE_TABLE, or 0. */
const closeCode = (source, name) => (name === '0' ? 0
  : table(source, 'CLOSE_TABLE').find(([short]) => `CLOSE_${short}` === name)?.[1] ?? assert.fail(name));

/** A C number: digits, or INT64_C(n)<<n. */
function number(text) {
  const shifted = /^INT64_C\((\d+)\)<<(\d+)$/.exec(text);
  const value = shifted ? shifted[1] * 2 ** shifted[2] : Number(text);
  return Number.isFinite(value) ? value : assert.fail(text);
}

const options = (source) => table(source, 'OPTION_TABLE').map(([, type, name, initial, min, max, argument]) => (
  { type, name, initial, argument, min: number(min), max: number(max) }));
const commands = (source) => table(source, 'COMMAND_TABLE').filter(([, name]) => name)
  .map(([, name, argument]) => ({ name, argument }));

/** `METHOD /path/{userId}` of each route. */
function routes(source) {
  const methods = { UPGRADE: 'GET' };
  const [, body] = /\} ROUTES\[\] = \{\n([^;]*)\};/.exec(source);
  return [...body.matchAll(/\{METHOD_(\w+), ACCESS_\w+, "([^"]+)"/g)]
    .map(([, method, at]) => `${methods[method] || method} ${at.replace('{id}', '{userId}')}`);
}

// ---- The pages ----

/** The text of a section of a manual page. */
function section(page, title) {
  const at = page.indexOf(`\n.Sh ${title}\n`);
  assert.ok(at >= 0, `no section ${title}`);
  const end = page.indexOf('\n.Sh ', at + 5);
  return page.slice(at + title.length + 6, end < 0 ? undefined : end + 1);
}

/** The items of a list whose tags look like this: [match, text up to the next such item]. */
function items(text, tag) {
  const found = [...text.matchAll(tag)];
  return found.map((match, i) => [match, text.slice(match.index + match[0].length, found[i + 1]?.index)]);
}

/** The text of a section of the README. */
function chapter(readme, title) {
  const at = readme.indexOf(`\n## ${title}\n`);
  assert.ok(at >= 0, `no chapter ${title}`);
  const end = readme.indexOf('\n## ', at + 4);
  return readme.slice(at, end < 0 ? undefined : end);
}

/** Every piece of JSON that a manual page shows, with where it stands. */
function pageJson(page) {
  return [...page.matchAll(/^\.Bd -literal.*\n([[{][^]*?)\.Ed$|^\.Li (\{".*\})$|^\.Li (\{"\S*\})/gm)]
    .map((match) => ({ text: match[1] || match[2] || match[3], at: match.index }));
}

/** Every piece of JSON in the README: on a line of a block, or between backticks. */
const readmeJson = (readme) => [...readme.matchAll(/^ {4}(?:[<>] )?(\{.*|\[(?!\w+\]$).*)$|`(\{"[^`]*)`/gm)]
  .map((match) => ({ text: match[1] || match[2], at: match.index }));

/** What a duration or size means, in ms or bytes: `10s`, `8 KiB`, `10,000`; a bare number is itself. */
function amount(text) {
  const units = { ms: 1, s: 1000, m: 60000, h: 3600000, d: 86400000, KiB: 1024, MiB: 1 << 20 };
  const [, digits, unit] = /^([\d,]+) ?(\w*)$/.exec(text) || [null, text, ''];
  return Number(digits.replaceAll(',', '')) * (unit ? units[unit] ?? NaN : 1);
}

/** The same for a default or bound as an option of this type is written: k, m and g are sizes. */
function written(type, text) {
  const sizes = { k: 1024, m: 1 << 20, g: 1 << 30 };
  if (type === 'DURATION') return amount(text);
  return /[kmg]$/.test(text) ? Number(text.slice(0, -1)) * sizes[text.at(-1)] : Number(text);
}

/** Problems when two lists are not the same set. */
function differ(documented, real) {
  return [
    ...real.filter((one) => !documented.includes(one)).map((one) => `not documented: ${one}`),
    ...documented.filter((one) => !real.includes(one)).map((one) => `does not exist: ${one}`),
    ...documented.filter((one, i) => documented.indexOf(one) !== i).map((one) => `documented twice: ${one}`),
  ];
}

const parses = (found, least) => [
  ...(found.length < least ? [`only ${found.length} examples`] : []),
  ...found.filter(({ text }) => { try { JSON.parse(text); return false; } catch { return true; } })
    .map(({ text }) => `no JSON: ${text}`),
];

/** The files of web/ that applications name. */
const FILES = ['/admin/', '/presence.js', '/presence.d.ts', '/use-presence-status.js', '/use-presence-status.d.ts'].map((at) => `GET ${at}`);

const CONSTANTS = {
  USER_ID_MAX: [/A user id is 1 to (\d+) bytes/, 1],
  BATCH_MAX: [/Up to ([\d,]+) users at once/, 1],
  PAGE_MAX: [/is 1 to (\d+), \d+ when it is absent/, 1],
  PAGE_DEFAULT: [/is 1 to \d+, (\d+) when it is absent/, 1],
  JSON_DEPTH_MAX: [/JSON nests at most (\d+) levels/, 1],
  WS_FRAGMENTS_MAX: [/in at most (\d+) frames/, 1],
  AGENT_MAX: [/is at most (\d+) bytes of the/, 1],
  API_SCAN_MAX: [/At most ([\d,]+) users are looked at/, 1],
  HUB_OUT_MAX: [/when (\d+) KiB wait for it/, 1024],
  OUT_READ_MAX: [/While more than (\d+) KiB wait nothing is read/, 1024],
  WATCH_BACKLOG_MAX: [/owed to a connection, ([\d,]+) to all that read/, 1],
  IDS_A_MESSAGE: [/Every (\d+) ids to follow or not count as one message more/, 1],
  CLOSE_WAIT_MS: [/is cut after (\d+) seconds/, 1000],
  HISTORY_HOURS_MAX: [/1 to (\d+), \d+ when it is absent. A minute/, 1],
  HISTORY_HOURS_DEFAULT: [/1 to \d+, (\d+) when it is absent. A minute/, 1],
  SAMPLES_MAX: [/the first ([\d,]+) are kept and written later/, 1],
  STREAM_RETRY_MS: [/first says .Li retry: (\d+) /, 1],
  STREAM_SILENCE_MS: [/After (\d+) seconds of silence a comment/, 1000],
  CALL_BODY_MAX: [/up to (\d+) KiB of it are read/, 1024],
  WEBHOOK_LAST_MS: [/seconds and so on, (\d+) at most/, 1000],
  SEEN_FLUSH_MS: [/may be up to (\d+) seconds/, 1000],
};

/** Names in capitals, file names and joints at which a diagnostic is put together at run time. */
const JOINTS = /\b[A-Z][A-Z_]*\b|; |\/data\.mdb|^(?:store|cluster): /;

const CHECKS = {
  'the list of sections in presence.c is its banners': ({ source }) => {
    const head = source.slice(0, source.indexOf('*/'));
    const listed = [...head.matchAll(/^ \* {2,}(\d+\. .*?)(?: {2,}.*)?$/gm)].map((match) => match[1]);
    const banners = [...source.matchAll(/^\/\* ==== (\d+\. .*?) =+$/gm)].map((match) => match[1]);
    return listed.join('\n') === banners.join('\n') && listed.length > 15 ? [] : differ(listed, banners).concat('order');
  },

  'every option is in --help with its default': ({ source, help }) => options(source).flatMap(({ name, type, initial }) => {
    const found = items(help, /^ +--([a-z-]+)/gm).find(([match]) => match[1] === name);
    if (!found) return [`not in --help: --${name}`];
    return type === 'FLAG' || !initial || found[1].includes(`[${initial}]`) ? [] : [`--help does not say ${initial} for --${name}`];
  }),

  '--help names nothing else': ({ source, help }) => differ(
    [...help.matchAll(/^ +--([a-z-]+)/gm)].map((match) => match[1]),
    [...options(source), ...commands(source)].map(({ name }) => name).concat('config'),
  ),

  'presence.1 has every option, with default and bounds': ({ source, manual }) => {
    const text = section(manual, 'OPTIONS');
    const found = items(text, /^\.It Fl -([a-z-]+)(?: Ar (\S+))?$/gm);
    const all = options(source);
    return differ(found.map(([match]) => match[1]), all.map(({ name }) => name).concat('config')).concat(all.flatMap((option) => {
      const [match, body] = found.find(([one]) => one[1] === option.name) || [];
      if (!match) return [];
      const [, initial, min, max] = /^Default (\S+?)(?:; from (\S+) to (\S+?))?\.$/m.exec(body) || [];
      const bounded = ['DURATION', 'SIZE', 'COUNT'].includes(option.type);
      const problems = [];
      if ((match[2] || '') !== option.argument) problems.push(`--${option.name} takes ${option.argument}`);
      if (initial !== (option.initial || 'none')) problems.push(`--${option.name}: default ${option.initial}, page ${initial}`);
      for (const [what, value] of bounded ? [['min', min], ['max', max]] : []) {
        if (written(option.type, value ?? '') !== option[what]) problems.push(`--${option.name}: ${what} ${option[what]}, page ${value}`);
      }
      return problems;
    }));
  },

  'presence.1 has every command': ({ source, manual }) => differ(
    items(section(manual, 'COMMANDS'), /^\.It Fl -([a-z-]+)(?: Ar (\S+))?$/gm).map(([match]) => `${match[1]} ${match[2] || ''}`),
    commands(source).map(({ name, argument }) => `${name} ${argument}`),
  ),

  'no page names an option or command that does not exist': ({ source, manual, protocol, readme }) => {
    const known = [...options(source), ...commands(source)].map(({ name }) => name).concat('config');
    const named = [manual, protocol].flatMap((page) => [...page.matchAll(/\bFl -([a-z-]+)/g)])
      .concat([...manual.matchAll(/^(?:\.Dl )?\$ presence .*$|^ExecStart=.*$/gm)].flatMap(([line]) => [...line.matchAll(/--([a-z-]+)/g)]))
      .concat([...readme.replaceAll(/^ {4}# (?!presence|head).*$/gm, '').matchAll(/--([a-z][a-z-]*)/g)]).map((match) => match[1]);
    return [...new Set(named)].filter((name) => name !== 'name' && !known.includes(name)).map((name) => `does not exist: --${name}`);
  },

  'a value in brackets behind an option is its default': ({ source, protocol, readme }) => {
    const said = [...protocol.matchAll(/^\.Fl -([a-z-]+)\n(?:bytes )?\(([\d,]+(?: ?[A-Za-z]+)?)\)/gm)]
      .concat([...readme.matchAll(/`--([a-z-]+)` (?:bytes )?\(([\d,]+(?: ?[A-Za-z]+)?)(?: bytes)?\)/g)]);
    const all = options(source);
    return said.filter(([, name, value]) => {
      const option = all.find((one) => one.name === name);
      return !option || written(option.type, option.initial) !== amount(value);
    }).map(([, name, value]) => `--${name} is not ${value}`).concat(said.length < 12 ? [`only ${said.length} defaults`] : []);
  },

  'presence.1 has the names of the environment and no others': ({ source, manual }) => {
    const names = options(source).map(({ name }) => `PRESENCE_${name.toUpperCase().replaceAll('-', '_')}`);
    const extra = [...source.matchAll(/"([A-Z_]+)"\);\n *value = getenv\(name\)|getenv\("([A-Z_]+)"\)/g)].map((match) => match[1] || match[2]);
    const listed = [...section(manual, 'ENVIRONMENT').matchAll(/^\.It Ev (.*)/gm)].flatMap((match) => match[1].split(' , '));
    return differ(listed, ['PRESENCE_NAME', ...extra]).concat([...manual.matchAll(/\bEv (\S+)/g)].map((match) => match[1])
      .filter((name) => !['PRESENCE_NAME', ...extra, ...names].includes(name)).map((name) => `does not exist: ${name}`));
  },

  'every diagnostic is a text of the program': ({ source, seams, manual }) => {
    const text = (source + seams).replace(/"\s*PRI\w+\s*"/g, '').replace(/"\s*\n\s*"/g, '');
    const found = [...section(manual, 'DIAGNOSTICS').matchAll(/^\.It Sy "(.*)"$/gm)].map((match) => match[1]);
    return found.flatMap((line) => line.split(JOINTS).map((part) => part.trim()).filter((part) => part.length > 3)
      .filter((part) => !text.includes(part)).map((part) => `${part} | ${line}`)).concat(found.length < 15 ? ['too few'] : []);
  },

  'every line about a cluster is a diagnostic': ({ source, manual }) => {
    const text = source.replace(/"\s*PRI\w+\s*"/g, '').replace(/"\s*\n\s*"/g, '');
    const said = section(manual, 'DIAGNOSTICS');
    const lines = [...text.matchAll(/(?:log_line|engine_fail_wrong)\([^;]*?"(--cluster[^"]*|cluster: [^"]*)"/g)].map((match) => match[1])
      .concat([...text.matchAll(/\[CAUSE_\w+\] = \{LOG_(?!DEBUG)\w+,\s*"([^"]*)"\}/g)].map((match) => `cluster: ${match[1]}`));
    const joints = /%[.*\d]*(?:zu|[sdu])?/;
    return lines.filter((line) => line.split(joints).some((part) => !said.includes(part)))
      .concat(lines.length < 20 ? [`only ${lines.length}`] : []);
  },

  'every route is in presence-protocol.7 with its method': ({ source, protocol }) => differ(
    items(section(protocol, 'ROUTES'), /^\.It Ic (\S+) Pa (\S+)$/gm).map(([match]) => `${match[1]} ${match[2]}`),
    [...routes(source), ...FILES],
  ),

  'every route is in the README with its method': ({ source, readme }) => differ(
    [...chapter(readme, 'HTTP API at a glance').matchAll(/^\| ([A-Z]+) ([^|]*)\|/gm)]
      .flatMap(([, method, cell]) => [...cell.matchAll(/`(\/[^`]*)`/g)].map((match) => `${method} ${match[1]}`)),
    [...routes(source), ...FILES],
  ),

  'every error is in presence-protocol.7 with status, close code and text': ({ source, protocol }) => differ(
    items(section(protocol, 'ERROR CODES'), /^\.It Cm (\w+) , (\d+)(?: , (\d+))?$/gm)
      .map(([match, text]) => `${match[1]} ${match[2]} ${match[3] || 0}: ${text.trim().split('\n')[0]}`),
    table(source, 'ERROR_TABLE').filter(([name]) => name !== 'NONE')
      .map(([, code, status, close, text]) => `${code} ${status} ${closeCode(source, close)}: ${text}`),
  ),

  'every kind of wrong token is in presence-protocol.7 with code and text': ({ source, protocol }) => differ(
    items(protocol.slice(protocol.indexOf('.Ss What is wrong with a token'), protocol.indexOf('.Sh ORIGINS')), /^\.It Cm (\w+)$/gm)
      .map(([match, text]) => `${match[1]}: ${text.trim().split('\n')[0]}`),
    table(source, 'TOKEN_PROBLEM_TABLE').filter(([name]) => name !== 'NONE').map(([, error, text]) => (
      `${table(source, 'ERROR_TABLE').find(([name]) => name === error)[1]}: ${text}`)),
  ),

  'every close code is in presence-protocol.7': ({ source, protocol }) => differ(
    [...section(protocol, 'CLOSE CODES').matchAll(/^\.It (\d+) Ta (.*)$/gm)].map((match) => `${match[1]} ${match[2]}`),
    table(source, 'CLOSE_TABLE').map(([, code, text]) => `${code} ${text}`),
  ),

  'every close code is in the README': ({ source, readme }) => differ(
    [...chapter(readme, 'Close codes at a glance').matchAll(/^\| ([\d, ]+) \|/gm)].flatMap((match) => match[1].split(', ')),
    table(source, 'CLOSE_TABLE').map(([, code]) => code),
  ),

  'every reason is in presence-protocol.7': ({ source, protocol }) => differ(
    [...section(protocol, 'REASONS').matchAll(/^\.It Cm (\w+) Ta (.*)$/gm)].map((match) => `${match[1]} ${match[2]}`),
    table(source, 'REASON_TABLE').filter(([name]) => name !== 'NONE').map(([, , text, meaning]) => `${text} ${meaning}`),
  ),

  'every reason has words on the admin page': ({ source, words }) => differ(
    [...words.matchAll(/^  (\w+): '[^']+',$/gm)].map((match) => match[1]),
    table(source, 'REASON_TABLE').filter(([name]) => name !== 'NONE').map(([, , text]) => text),
  ),

  'every counter is in presence-protocol.7': ({ source, protocol }) => differ(
    items(section(protocol, 'METRICS'), /^\.It Va presence_(\w+) Pq Va (\w+)$/gm)
      .map(([match, text]) => `${match[2]} ${match[1]}: ${text.trim().split('\n')[0]}`),
    ['COUNTER_TABLE', 'CLUSTER_COUNTER_TABLE'].flatMap((name) => table(source, name))
      .map(([field, metric, text]) => `${field} ${metric}: ${text}`),
  ),

  'every gauge and histogram is in presence-protocol.7': ({ source, protocol }) => {
    const found = items(section(protocol, 'METRICS'), /^\.It Va (\w+)$/gm).map(([match, text]) => `${match[1]}: ${text.trim().split('\n')[0]}`);
    return table(source, 'GAUGE_TABLE').map(([, , metric, text]) => `${metric}: ${text}`)
      .concat(table(source, 'HISTOGRAM_TABLE').map(([, metric, text]) => `${metric}: ${text}`))
      .filter((one) => !found.includes(one)).map((one) => `not documented: ${one}`);
  },

  'every message is in presence-protocol.7': ({ source, protocol }) => {
    const text = section(protocol, 'WEBSOCKET');
    const between = (from, to) => text.slice(text.indexOf(from), text.indexOf(to))
      .matchAll(/^\.It Cm (.*)$/gm);
    const names = (from, to) => [...between(from, to)].flatMap((match) => match[1].split(' , '));
    const [, known] = /\} MESSAGES\[\] = \{\n([^;]*)\};/.exec(source);
    return differ(names('.Ss From the client', '.Ss From the server'), [...known.matchAll(/\{"(\w+)"/g)].map((match) => match[1]))
      .concat(differ(names('.Ss From the server', '.Ss Heartbeats'),
        [...new Set([...source.matchAll(/(?:hub_reply_begin\([^,]+, |json_text\(out, "type", )"(\w+)"/g)].map((match) => match[1]))]));
  },

  'the limits in presence-protocol.7 are those of the program': ({ source, protocol }) => Object.entries(CONSTANTS).flatMap(([name, [pattern, unit]]) => {
    const real = new RegExp(`\\b${name} = ([\\d* ]+)`).exec(source)[1].split('*').reduce((a, b) => a * b, 1);
    const said = pattern.exec(protocol.replaceAll('\n', ' '));
    return said && amount(said[1]) * unit === real ? [] : [`${name} is ${real}, the page says ${said && said[0]}`];
  }),

  'the JSON in the pages is JSON': ({ readme, protocol }) => [...parses(readmeJson(readme), 9), ...parses(pageJson(protocol), 14)],

  'the tasks in the README are those of build.sh': ({ readme, tasks }) => {
    const known = [...tasks.matchAll(/^ {2}(\w+)/gm)].map((match) => match[1]);
    const named = [...readme.matchAll(/\.\/build\.sh (\w+)/g)].map((match) => match[1]);
    return ['run', 'test', 'bench'].filter((task) => !named.includes(task)).map((task) => `not named: ${task}`)
      .concat(named.filter((task) => !known.includes(task)).map((task) => `does not exist: ${task}`));
  },

  'HISTORY in presence.1 begins with this version, its protocol and its schema': ({ source, manual }) => {
    const [, version] = /#define PRESENCE_VERSION "(.*)"/.exec(source);
    const [, schema] = /\bSTORE_SCHEMA = (\d+)/.exec(source);
    const [, first, text] = /\n\.It (\S+)\n([^]*?)\n\.(?:It|El)\b/.exec(section(manual, 'HISTORY'));
    const flat = text.replaceAll('\n', ' ');
    return [[first, version], [/protocol \.Li (presence\.v\d+)/.exec(flat)?.[1], /"(presence\.v\d+)"/.exec(source)[1]],
      [/store schema (\d+)/.exec(flat)?.[1], schema]].filter(([said, real]) => said !== real).map(([said, real]) => `${said}, not ${real}`);
  },

  'what the README names for who works on it is there': ({ source, readme }) => {
    const text = readme.slice(readme.indexOf('\n## Working on it\n'));
    const files = [...text.matchAll(/`((?:man|web|test|\.ci)\/[^`\n]+|[\w-]+\.test\.js)`/g)].map((match) => match[1]);
    const words = text.replace(/`[^`\n]*\.\w+`/g, '').match(/\b[A-Za-z]+(?:_[A-Za-z]+)+\b/g).filter((word) => !word.endsWith('KIND'));
    const there = (file) => ['', 'test/integration/'].some((folder) => fs.existsSync(path.join(root, folder + file)));
    return files.filter((file) => !there(file)).concat(words.filter((word) => !new RegExp(`\\b${word}\\b`).test(source)))
      .concat(files.length > 8 && words.length > 10 ? [] : ['files and names'])
      .map((name) => `not there: ${name}`);
  },

  'the manual pages are of this version': ({ source, protocol, readme }) => {
    const [, version] = /#define PRESENCE_VERSION "(.*)"/.exec(source);
    return [protocol, readme].flatMap((page) => [...page.matchAll(/"server":"presence\/([^"]*)"/g)])
      .filter((match) => match[1] !== version).map((match) => `version ${match[1]}, not ${version}`);
  },
};

// A change that each check must notice: check, text, what is replaced, by what.
const BREAKS = [
  ['the list of sections in presence.c is its banners', 'source', '. Timers ==', '. Clocks =='],
  ['the list of sections in presence.c is its banners', 'source', '. Timers  ', '. Clocks  '],
  ['every option is in --help with its default', 'help', '--grace', '--patience'],
  ['every option is in --help with its default', 'help', '[5s]', '[6s]'],
  ['--help names nothing else', 'help', '\nStore', '\n  --colour\n\nStore'],
  ['presence.1 has every option, with default and bounds', 'manual', '.It Fl -grace Ar TIME', '.It Fl -patience Ar TIME'],
  ['presence.1 has every option, with default and bounds', 'manual', 'Default 5s;', 'Default 6s;'],
  ['presence.1 has every option, with default and bounds', 'manual', 'Default 15s; from 100ms', 'Default 15s; from 10ms'],
  ['presence.1 has every option, with default and bounds', 'manual', '256k; from 1k to 16m', '256k; from 1k to 1g'],
  ['presence.1 has every option, with default and bounds', 'source', 'X(grace, DURATION, "grace"', 'X(grace, DURATION, "patience"'],
  ['presence.1 has every command', 'manual', '.It Fl -dump', '.It Fl -print'],
  ['presence.1 has every command', 'manual', '.It Fl -restore Ar FILE', '.It Fl -restore'],
  ['presence.1 has every command', 'source', 'X(DUMP, "dump"', 'X(DUMP, "export"'],
  ['no page names an option or command that does not exist', 'readme', '`--workers`', '`--threads`'],
  ['no page names an option or command that does not exist', 'protocol', '.Fl -max-message', '.Fl -longest-message'],
  ['no page names an option or command that does not exist', 'manual', 'ExecStart=/usr/local/bin/presence --data', 'ExecStart=/usr/local/bin/presence --dir'],
  ['a value in brackets behind an option is its default', 'protocol', '(25 s)', '(20 s)'],
  ['a value in brackets behind an option is its default', 'readme', '`--max-head` bytes (32', '`--max-head` bytes (9'],
  ['presence.1 has the names of the environment and no others', 'manual', '.It Ev ONLINE_THRESHOLD_SECONDS', '.It Ev ONLINE_SECONDS'],
  ['presence.1 has the names of the environment and no others', 'manual', '.Ev PRESENCE_LISTEN', '.Ev PRESENCE_ADDRESS'],
  ['every diagnostic is a text of the program', 'manual', 'name a new file"', 'name another file"'],
  ['every line about a cluster is a diagnostic', 'manual', 'is empty: all nodes', 'is empty: some nodes'],
  ['every line about a cluster is a diagnostic', 'source', '"the others took this node', '"all took this node'],
  ['every line about a cluster is a diagnostic', 'source', '" +evalsha +time', '" +eval +time'],
  ['every route is in presence-protocol.7 with its method', 'protocol', '.It Ic DELETE Pa', '.It Ic POST Pa'],
  ['every route is in presence-protocol.7 with its method', 'source', '"/healthz"', '"/livez"'],
  ['every route is in the README with its method', 'readme', '| POST `/api/presence` |', '| PUT `/api/presence` |'],
  ['every route is in the README with its method', 'readme', '`/healthz`, `/readyz` |', '`/healthz` |'],
  ['every error is in presence-protocol.7 with status, close code and text', 'protocol', 'unknown_user , 404', 'unknown_user , 410'],
  ['every error is in presence-protocol.7 with status, close code and text', 'protocol', '\nnothing was heard in time\n', '\nnothing was said in time\n'],
  ['every error is in presence-protocol.7 with status, close code and text', 'source', '"kicked", 403, CLOSE_KICKED', '"kicked", 403, CLOSE_TOKEN'],
  ['every kind of wrong token is in presence-protocol.7 with code and text', 'protocol', '\nthe token\'s exp has passed', '\nthe token\'s end has passed'],
  ['every kind of wrong token is in presence-protocol.7 with code and text', 'source', 'X(OTHER_USER, FORBIDDEN', 'X(OTHER_USER, TOKEN_INVALID'],
  ['every close code is in presence-protocol.7', 'protocol', '.It 4408 Ta', '.It 4409 Ta'],
  ['every close code is in the README', 'readme', '\n| 4408 |', '\n| 4409 |'],
  ['every reason is in presence-protocol.7', 'protocol', '.It Cm dropped Ta', '.It Cm broken Ta'],
  ['every reason has words on the admin page', 'words', '  node_lost: ', '  node_gone: '],
  ['every counter is in presence-protocol.7', 'protocol', 'presence_kicks_total Pq', 'presence_kicked_total Pq'],
  ['every counter is in presence-protocol.7', 'protocol', 'presence_cluster_joins_total Pq', 'presence_cluster_joined_total Pq'],
  ['every counter is in presence-protocol.7', 'source', 'X(kicks, "kicks_total"', 'X(kicks, "kicked_total"'],
  ['every gauge and histogram is in presence-protocol.7', 'protocol', '.It Va process_max_fds', '.It Va process_most_fds'],
  ['every gauge and histogram is in presence-protocol.7', 'source', 'X(FANOUT, "presence_fanout', 'X(FANOUT, "presence_fan'],
  ['presence.1 has the names of the environment and no others', 'source', 'getenv("NOTIFY_SOCKET")', 'getenv("NOTICE_SOCKET")'],
  ['every message is in presence-protocol.7', 'protocol', '.It Cm unwatch', '.It Cm unfollow'],
  ['every message is in presence-protocol.7', 'protocol', '.It Cm hello', '.It Cm welcome'],
  ['the limits in presence-protocol.7 are those of the program', 'protocol', 'in at most 64 frames', 'in at most 32 frames'],
  ['the limits in presence-protocol.7 are those of the program', 'source', 'USER_ID_MAX = 128', 'USER_ID_MAX = 64'],
  ['the limits in presence-protocol.7 are those of the program', 'protocol', 'up to 64 KiB of it', 'up to 32 KiB of it'],
  ['the JSON in the pages is JSON', 'readme', '"connections":1,"connected_at"', '"connections":1"connected_at"'],
  ['the JSON in the pages is JSON', 'readme', '`{"error":{', '`{"error":{{'],
  ['the JSON in the pages is JSON', 'protocol', '"sessions":0,', '"sessions":0'],
  ['the JSON in the pages is JSON', 'protocol', '.Li {"type":"status",', '.Li {"type":status",'],
  ['the tasks in the README are those of build.sh', 'readme', './build.sh bench', './build.sh measure'],
  ['HISTORY in presence.1 begins with this version, its protocol and its schema', 'source', 'STORE_SCHEMA = ', 'STORE_SCHEMA = 9'],
  ['HISTORY in presence.1 begins with this version, its protocol and its schema', 'manual', '.It 0.', '.It 9.'],
  ['what the README names for who works on it is there', 'readme', '`OPTION_NEEDS`', '`OPTION_WISHES`'],
  ['what the README names for who works on it is there', 'readme', '`man/presence.1`, HISTORY', '`man/presence.9`, HISTORY'],
  ['the tasks in the README are those of build.sh', 'tasks', '\n  run ', '\n  start '],
  ['the manual pages are of this version', 'source', 'PRESENCE_VERSION "', 'PRESENCE_VERSION "9.'],
];

async function readTexts() {
  const help = await run(['--help']);
  assert.deepEqual([help.code, help.stderr], [0, '']);
  return {
    source: read('presence.c'),
    seams: read('vendor/lmdb_check.c'),
    readme: read('README.md'),
    manual: read('man/presence.1'),
    protocol: read('man/presence-protocol.7'),
    words: read('web/admin/format.js'),
    help: help.stdout,
    tasks: execFileSync('bash', [path.join(root, 'build.sh'), 'help'], { encoding: 'utf8' }),
  };
}

let reading = null;
/** All texts, read once. */
const texts = () => (reading ??= readTexts());

for (const [name, check] of Object.entries(CHECKS)) {
  test(`docs: ${name}`, async () => assert.deepEqual(check(await texts()), []));
}

test('docs: each check notices a change', async () => {
  const files = await texts();
  const notices = (check, changed) => { try { return CHECKS[check](changed).length > 0; } catch { return true; } };
  for (const [check, file, from, to] of BREAKS) {
    assert.ok(files[file].includes(from), `${check}: ${file} does not have ${from}`);
    assert.ok(notices(check, { ...files, [file]: files[file].replaceAll(from, to) }), `${check}: ${from} -> ${to} unnoticed`);
  }
  assert.deepEqual(differ(Object.keys(CHECKS), [...new Set(BREAKS.map(([check]) => check))]), []);
});

test('docs: every option is read from the environment', async () => {
  const all = options(read('presence.c'));
  const words = { LIST: '127.0.0.1:1,[::1]:2', FILES: '/a,/b', ORIGINS: 'https://a.test,http://b.test:81', RANGES: '10.0.0.0/8,::1', HOSTS: 'a.test,b.test', FLAG: 'yes', TEXT: '/elsewhere', LEVEL: 'debug', FORMAT: 'json' };
  const unit = { DURATION: 'ms' };
  const env = Object.fromEntries(all.map(({ type, name, max }) => (
    [`PRESENCE_${name.toUpperCase().replaceAll('-', '_')}`, words[type] || `${max}${unit[type] || ''}`])));
  const [before, after] = [await run(['--print-config']), await run(['--print-config'], { env })];
  assert.deepEqual([after.code, after.stderr], [0, '']);
  const value = (text, name) => text.split('\n').filter((line) => line.startsWith(`${name} `)).join();
  for (const { name } of all) assert.notEqual(value(after.stdout, name), value(before.stdout, name), name);
});

// ---- The pages and a running server ----

/** What a node whose engine is not there says. */
const AWAY = [/level=warn msg="(--cluster: cannot reach the engine|cluster: the engine is away)/];

/** The names in a value, all the way down; of a list those of its first entry. */
function shape(value) {
  if (Array.isArray(value)) return value.slice(0, 1).map(shape);
  if (value === null || typeof value !== 'object') return '';
  return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, shape(one)]));
}

test('docs: the answers in presence-protocol.7 have the members of real ones', async (t) => {
  const protocol = read('man/presence-protocol.7');
  const [data, dump] = [tempDir(t), path.join(tempDir(t), 'dump')];
  const sample = { sample: new Date(Math.floor(Date.now() / 60000) * 60000).toISOString(), users: 1, connections: 1 };
  const end = { end: 'presence', users: 0, sessions: 0, samples: 1 };
  fs.writeFileSync(dump, [sample, end].map((line) => `${JSON.stringify(line)}\n`).join(''));
  assert.equal((await run(['--data', data, '--restore', dump])).code, 0);
  const server = await start(t, { data, args: ['--sync-interval', '20ms', ...passwordFile(t, 'secret').args] });
  const admin = await login(server, 'secret');
  const stream = await openEvents(server, admin);
  await (await connect(server, 'gone')).close();
  await until('history', async () => (await get(server, '/admin/users/gone/sessions', admin)).json.sessions.length);
  const alice = await connect(server, 'alice');
  await heartbeat(server, 'bob');
  await connect(server, 'dora');
  const id = { '/admin/users/{userId}/sessions': 'gone', '/admin/users/{userId}/connections': 'bob', '/api/presence/{userId}/status': 'dora' };
  const examples = (text) => pageJson(text).map((one) => shape(JSON.parse(one.text)));
  let compared = 0;
  for (const [[, method, route], text] of items(section(protocol, 'ROUTES'), /^\.It Ic (\S+) Pa (\S+)$/gm)) {
    const answers = examples(text);
    if (!answers.length) continue;
    const body = {
      'POST /api/presence': { users: ['alice', 'carol'] },
      'POST /admin/login': { password: 'secret' },
      'PUT /api/presence/{userId}/status': { status: 'busy', message: 'in a meeting', expires_in: 3600 },
    }[`${method} ${route}`];
    const answer = await request(server, method, route.replace('{userId}', id[route] || 'alice'), { body, headers: admin.headers });
    assert.equal(answer.status, 200, `${method} ${route}: ${answer.text}`);
    assert.ok(answers.some((one) => JSON.stringify(one) === JSON.stringify(shape(answer.json))), `${method} ${route}: ${answer.text}`);
    compared++;
  }
  assert.ok(compared >= 7, `${compared} routes compared`);

  await stream.until('gone to leave', () => stream.events.some(({ data: { change } }) => change === 'leave'));
  const [reset, change] = [stream.events[0], stream.events.find(({ data: { change: one } }) => one === 'leave')];
  assert.deepEqual(examples(section(protocol, 'EVENTS')), [reset, change].map(({ data: one }) => shape(one)));

  const user = (await request(server, 'GET', '/api/presence/alice')).json;
  const said = section(protocol, 'DESCRIPTION');
  assert.deepEqual(examples(said)[0], shape(user));

  alice.send({ type: 'ping' });
  alice.send({ type: 'status', status: 'gone' });
  const [pong, error] = [await alice.next('pong'), await alice.next('error')];
  const bob = await connect(server, 'bob');
  alice.send({ type: 'watch', users: ['bob'] });
  const snapshot = await alice.next('snapshot');
  await bob.close();
  const spread = { type: 'spread', spread_ms: 3000 }; // spread.test.js has it from the program
  const messages = [alice.hello, spread, pong, snapshot, await alice.next('presence'), error];
  const spoken = section(protocol, 'WEBSOCKET').split('.Ss From the server')[1];
  assert.deepEqual(examples(spoken), messages.map(shape));
});

test('docs: /admin/stats and /metrics are in presence-protocol.7', async (t) => {
  const protocol = read('man/presence-protocol.7');
  const receiver = await startReceiver(t); // so that there is a member for it
  // A node whose engine is away has all that one has which is not.
  const acme = ['--tls-listen', '127.0.0.1:0', '--acme', 'a.example.com', '--acme-agree', '--acme-server', 'http://127.0.0.1:1/'];
  const server = await start(t, { args: [...receiver.args, ...acme, '--cluster', 'redis://127.0.0.1:1/test'], listening: 1, allow: [...AWAY, /msg="acme: /] });
  const stats = (await request(server, 'GET', '/admin/stats')).json;
  const [, text] = items(section(protocol, 'ROUTES'), /^\.It Ic (\S+) Pa (\S+)$/gm).find(([match]) => match[2] === '/admin/stats');
  const said = new Set([...text.matchAll(/\bVa ([\w ,]+)/g)].flatMap((match) => match[1].split(/[ ,]+/)));
  const { counters, limits, limit_units: units, ...rest } = stats;
  const { cluster: { counters: clusterCounters, nodes: [node] } } = rest;
  const real = ['counters', 'limits', 'limit_units', ...Object.keys(node), ...Object.keys(rest), ...Object.values(rest)
    .map((one) => (Array.isArray(one) ? one[0] : one))
    .flatMap((one) => (one && typeof one === 'object' ? Object.keys(one) : []))];
  assert.deepEqual(real.filter((name) => !said.has(name)), []);
  assert.deepEqual([...said].filter((name) => name && !real.includes(name)), []);
  const source = read('presence.c');
  assert.deepEqual(Object.keys(counters), table(source, 'COUNTER_TABLE').map(([field]) => field));
  assert.deepEqual(Object.keys(clusterCounters), table(source, 'CLUSTER_COUNTER_TABLE').map(([field]) => field));
  assert.deepEqual(Object.keys(units), Object.keys(limits));
  assert.deepEqual(Object.keys(limits), options(source).filter(({ type }) => ['DURATION', 'SIZE', 'COUNT'].includes(type)).map(({ name }) => name));

  const metrics = (await request(server, 'GET', '/metrics')).text;
  const kinds = Object.fromEntries([...metrics.matchAll(/^# TYPE (\w+) (\w+)$/gm)].map((match) => [match[1], match[2]]));
  const [gauges, totals, histograms] = section(protocol, 'METRICS').split(/\.Ss (?:Counters|Histograms)/);
  const listed = (part, kind) => items(part, /^\.It Va (\w+)(?: Pq Va \w+)?$/gm)
    .map(([match, body]) => `${kind} ${match[1]} ${body.trim().split('\n')[0]}`);
  assert.deepEqual(differ([...listed(gauges, 'gauge'), ...listed(totals, 'counter'), ...listed(histograms, 'histogram')],
    [...metrics.matchAll(/^# HELP (\w+) (.*)$/gm)].map((match) => `${kinds[match[1]]} ${match[1]} ${match[2]}`)), []);
});
