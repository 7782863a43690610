// SPDX-License-Identifier: MIT
// The nodes of a cluster, and a word at the top while this one is without the others.

import { atServer } from './api.js';
import { byId, element, facts, foreign, setText, ticker } from './dom.js';
import { ago, brief, clock, count, lasting, visible } from './format.js';

const LATE = 1000; // ms after which a change is late
const APART = 500; // ms between two clocks of which the server warns, too

/** How good a state is. */
const STATES = { settled: 'good', joining: 'warn', silent: 'warn', unknown: 'warn' };

/** What is wrong, for who does not know the word. */
const NOTES = {
  alone: 'This server is alone: it has no connection to the engine, or not all have come back to '
    + 'it. Users of other servers are shown as they were, until the online threshold is over.',
  joining: 'This server takes over the users of the others. Until then it shows those that it has.',
};

/** A text that says how good it is. */
export const state = (how, text) => element('span', { class: 'state', 'data-state': how }, text);

const stateOf = (name) => state(STATES[name] ?? 'bad', visible(name));
const time = (ms, limit) => state(Math.abs(ms) > limit ? 'warn' : 'good', brief(ms));

function nodeRow({ node_id: id, name, state: how, users, connections, last_entry_ms: age }, own, at) {
  const cell = (...children) => element('td', {}, ...children);
  const title = name === null ? 'nodes that are lost' : foreign(name);
  const heard = at - age;
  return element('tr', id === null ? {} : { title: id },
    element('th', { scope: 'row' }, title, id === own ? ' (this one)' : ''),
    cell(stateOf(how)), cell(count(users)), cell(count(connections)),
    cell(age === null ? 'never' : ticker((now) => ago(Math.max(0, now - heard)))));
}

/** Shows what /admin/stats says of the cluster; nothing where there is none. */
export function drawCluster({ cluster }) {
  const note = cluster && NOTES[cluster.state];
  byId('cluster').hidden = !cluster;
  byId('cluster-note').hidden = !note;
  if (!cluster) return;
  const at = atServer();
  const since = Date.parse(cluster.since);
  setText(byId('cluster-note'), note ? `${note} Since ${clock(since, at)}.` : '');
  const { differences, evicted, alone_seconds: alone } = cluster.counters;
  byId('cluster-facts').replaceChildren(...facts([
    ['State', stateOf(cluster.state), ' for ', ticker((now) => lasting(Math.max(0, now - since)))],
    ['Engine', visible(cluster.engine)],
    ['Delay of the log', time(cluster.log_delay_ms, LATE), ', lately at most ',
      time(cluster.log_delay_max_ms, LATE)],
    ['Clock, to the engine\u2019s', time(cluster.clock_offset_ms, APART)],
    ['Users here', `${count(cluster.own_users)}, ${count(cluster.own_connections)} connections`],
    ['Alone, or joining', `${lasting(alone * 1000)} since the start`],
    ['Taken for dead', state(evicted ? 'warn' : 'good', count(evicted))],
    ['Tables that differed', state(differences ? 'bad' : 'good', count(differences))],
  ]));
  const own = cluster.node_id;
  const order = (a, b) => (b.node_id === own) - (a.node_id === own)
    || (a.node_id === null) - (b.node_id === null)
    || (a.name ?? '').localeCompare(b.name ?? '', 'en', { numeric: true }) || String(a.node_id).localeCompare(b.node_id);
  byId('node-rows').replaceChildren(...[...cluster.nodes].sort(order)
    .map((node) => nodeRow(node, own, at)));
}
