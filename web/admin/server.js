// SPDX-License-Identifier: MIT
// The panel about the server and its cluster, from /admin/stats: first whether it is well.

import { atServer } from './api.js';
import { byId, cell, element, fill, fillFacts, foreign, heading, setIcon, setText, show, since, state }
  from './dom.js';
import { ago, brief, bytes, certificateText, clock, count, lasting, limitText, plural, rate, renewalText,
  visible } from './format.js';
import { APART, LATE, Looks, problems } from './health.js';

// What is wrong with a cluster, for who does not know the word.
const NOTES = {
  alone: 'This server is alone: it has no connection to the engine, or not all have come back to '
    + 'it. Users of other servers are shown as they were, until the online threshold is over.',
  joining: 'This server takes over the users of the others. Until then it shows those that it has.',
};

// How good a state of a node is; one that is not here is bad.
const STATES = { settled: 'good', joining: 'warn', silent: 'warn', unknown: 'warn' };

const looks = new Looks();
const stateOf = (name) => state(STATES[name] ?? 'bad', visible(name));
const within = (ms, limit) => state(Math.abs(ms) > limit ? 'warn' : 'good', brief(ms));

const counts = (entries, zeros) => entries.filter(([, value]) => !value === zeros)
  .map(([name, value]) => [name.replaceAll('_', ' '), count(value)]);

// What is wrong, on the tab and at the top of the panel.
function drawHealth(stats) {
  const found = problems(stats, looks.grown, atServer());
  const number = plural(found.length, 'problem');
  const how = found[0]?.[0] ?? 'good';
  const mark = byId('nav-problems');
  byId('health').dataset.state = mark.dataset.state = how;
  setIcon(byId('health').querySelector('svg'), { good: 'connected', warn: 'behind', bad: 'broken' }[how]);
  setText('health-word', found.length ? number : 'Healthy');
  if (byId('problems').textContent !== found.map(([, text]) => text).join('')) { // a selection in it stays
    fill('problems', ...found.map(([one, text]) => element('li', { 'data-state': one }, text)));
  }
  mark.hidden = !found.length;
  setText(mark, count(found.length));
  byId('nav-server').setAttribute('aria-label', found.length ? `Server, ${number}` : 'Server');
}

function nodeRow({ node_id: id, name, state: how, users, connections, last_entry_ms: age }, own, at) {
  const title = name === null ? 'nodes that are lost' : foreign(name);
  return element('tr', id === null ? {} : { title: id }, heading(title, id === own ? ' (this one)' : ''),
    cell(stateOf(how)), cell(count(users)), cell(count(connections)),
    cell(age === null ? 'never' : since(at - age, ago)));
}

// The cluster, and a word at the top of the page while this node is without the others.
function drawCluster(cluster, now) {
  const note = NOTES[cluster?.state];
  show({ cluster, 'cluster-note': note });
  if (!cluster) return;
  const { node_id: own, nodes, counters: { differences, evicted, alone_seconds: alone } } = cluster;
  setText('cluster-note', note ? `${note} Since ${clock(cluster.since, now)}.` : '');
  fillFacts('cluster-facts', [
    ['State', stateOf(cluster.state), ' for ', since(cluster.since, lasting)],
    ['Engine', visible(cluster.engine)],
    ['Delay of the log', within(cluster.log_delay_ms, LATE), ', lately at most ',
      within(cluster.log_delay_max_ms, LATE)],
    ['Clock, to the engine\u2019s', within(cluster.clock_offset_ms, APART)],
    ['Users here', `${count(cluster.own_users)}, ${count(cluster.own_connections)} connections`],
    ['Alone, or joining', `${lasting(alone * 1000)} since the start`],
    ['Was taken for dead', state(evicted ? 'warn' : 'good', count(evicted))],
    ['Tables that differed', state(differences ? 'bad' : 'good', count(differences))],
  ]);
  const rank = ({ node_id: id }) => (id === null) - (id === own); // this one first, the lost last
  const order = (a, b) => rank(a) - rank(b)
    || (a.name ?? '').localeCompare(b.name ?? '', 'en', { numeric: true })
    || String(a.node_id).localeCompare(b.node_id);
  fill('node-rows', ...[...nodes].sort(order).map((node) => nodeRow(node, own, now)));
}

// Shows the totals of now, and compares them with those of before.
export function drawServer(stats) {
  const { store, memory, connections, started_at: started, webhook, certificates, limits,
    limit_units: units, counters, cluster, landlock_version: landlock, acme } = stats;
  const now = atServer();
  looks.note(stats, now);
  drawHealth(stats);
  drawCluster(cluster, now);
  const counted = [...Object.entries(counters), ...Object.entries(cluster?.counters ?? {})
    .map(([name, value]) => [`cluster ${name}`, value])];
  const zeros = counts(counted, true);
  const panels = {
    server: [
      ['Version', visible(stats.version)],
      ['Started', clock(started, now)],
      ['Running for', since(started, lasting)],
      ['Memory', `${bytes(memory.resident_bytes)}, ${bytes(memory.anonymous_bytes)} of its own`],
      ['Connections', `${count(cluster?.own_connections ?? connections.current)} of at most ${count(connections.limit)}`],
      ['Sandbox', landlock ? `Landlock ${landlock}` : 'not in this kernel'],
    ],
    store: [
      ['State', store.writable ? state('good', 'takes writes')
        : state('bad', `cannot be written: ${visible(store.problem ?? '')}`)],
      ['Known users', count(store.users)],
      ['Ended sessions', count(store.sessions)],
      ['File', `${bytes(store.file_bytes)}, ${bytes(store.used_bytes)} in use`],
      ['Last write', store.last_commit ? since(store.last_commit, ago) : 'never'],
    ],
    webhook: webhook ? [
      ['Receiver', visible(webhook.url)],
      ['Waiting', count(webhook.pending)],
      ['Delivered', `${count(webhook.delivered)} since the start`],
      ['Last error', webhook.last_error ? state('warn', visible(webhook.last_error)) : 'none'],
    ] : [],
    certificate: [...certificates.map(({ names, not_after: end }) =>
      [names.map(visible).join(', '), state(...certificateText(end, now, acme))]),
    ...(acme ? [['Renewal', state(...renewalText(acme, now))]] : [])],
    rate: looks.rates.map(([name, value]) => [name.replaceAll('_', ' '), rate(value)]),
    limit: Object.entries(limits).map(([name, value]) => [name, limitText(value, units[name])]),
    counter: counts(counted, false),
    zero: zeros,
  };
  for (const [name, entries] of Object.entries(panels)) fillFacts(`${name}-facts`, entries);
  show({ webhook, zeros: zeros.length });
  setText('rate-over', `over ${lasting(looks.over)}`);
  setText('zeros-title', `${plural(zeros.length, 'counter')} at zero`);
  setText('no-certificates', certificates.length ? '' : 'This server speaks no TLS itself.');
}
