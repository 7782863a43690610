// SPDX-License-Identifier: MIT
// What would be wrong with the server, and how fast it counts, from /admin/stats. Pure.

import { ago, brief, certificateText, count, lasting, plural, visible } from './format.js';

export const LATE = 1000; // ms after which a change in the cluster's log is late
export const APART = 500; // ms between two clocks of which the server warns, too
const LONG = 600; // seconds that a command may read the store
const FULL = 0.9; // of the connections allowed

// What should not be counted up: a counter, what it says, and what to do.
const COUNTED = [
  ['accept_errors', 'connections could not be accepted', 'raise ulimit -n'],
  ['memory_refused', 'requests were refused for memory', 'raise --max-request-memory'],
  ['sessions_dropped', 'ended sessions were not stored', 'look at the disk'],
  ['store_failures', 'writes of the store failed and are tried again', 'look at the disk'],
  ['streams_dropped', 'streams were dropped, as they read too slowly', 'raise --max-stream-buffer'],
  ['webhook_dead', 'changes were given up for the webhook', 'look at its receiver'],
  ['log_dropped', 'lines of the log were dropped', 'whoever reads stderr is too slow'],
];

function clusterProblems({ state, log_delay_max_ms: delay, clock_offset_ms: apart, nodes, counters }) {
  const silent = nodes.filter((node) => node.state === 'silent').map(({ name }) => visible(name ?? '?'));
  return [
    state === 'alone' && ['bad', 'This node is alone: it cannot reach the engine, or not all came back.'],
    state === 'joining' && ['warn', 'This node is taking over the users of the others.'],
    silent.length && ['warn', `Nothing is heard from ${silent.join(', ')}.`],
    delay > LATE && ['warn', `Changes of other nodes came up to ${brief(delay)} late.`],
    Math.abs(apart) > APART && ['warn', `This machine\u2019s clock is ${brief(-apart)} off the engine\u2019s: set it.`],
    counters.differences > 0 && ['bad', `Tables of nodes differed ${plural(counters.differences, 'time')}: please report it.`],
  ];
}

// What is wrong, worst first, as [state, sentence]; nothing when all is well. `grown` are counters
// that grew lately: name -> { by, at }.
export function problems(stats, grown, now) {
  const { store, connections: { current, limit }, webhook, cluster, certificates, acme } = stats;
  const why = visible(store.problem ?? '');
  const found = [
    !store.writable && ['bad', `The store cannot be written: ${why}. Who is online is right; what `
      + 'changes is lost with a restart.'],
    store.readable === false && ['bad', `The store cannot be read: ${why}.`],
    store.oldest_reader_seconds > LONG && ['warn', 'A command has been reading the store for '
      + `${lasting(store.oldest_reader_seconds * 1000)}; its file grows meanwhile.`],
    limit > 0 && current >= FULL * limit && ['warn', `${count(current)} of ${count(limit)} connections are `
      + 'taken: raise --max-connections or ulimit -n.'],
    ...certificates.map(({ names, not_after: end }) => {
      const [how, text] = certificateText(end, now, acme);
      return how !== 'good' && [how, `The certificate of ${names.map(visible).join(', ')} ${text}.`];
    }),
    acme?.last_error && ['warn', `No new certificate could be had: ${visible(acme.last_error)}.`],
    webhook?.last_error && ['warn', `The webhook fails: ${visible(webhook.last_error)}; ${
      plural(webhook.pending, 'change')} wait.`],
    ...(cluster ? clusterProblems(cluster) : []),
    ...COUNTED.map(([name, what, then]) => grown[name] && ['warn', `${count(grown[name].by)} ${what}, ${
      ago(Math.max(0, now - grown[name].at))}: ${then}.`]),
  ].filter(Boolean);
  return found.sort((a, b) => (b[0] === 'bad') - (a[0] === 'bad'));
}

const KEPT = 600000; // ms that a counter which grew is told of
const RATED = ['joins', 'leaves', 'status_changes', 'upgrades', 'messages', 'updates', 'requests',
  'request_errors', 'store_commits', 'webhook_deliveries'];

export class Looks {
  last = null; // { at, counters, started }
  grown = {}; // see problems()
  rates = []; // [name, a second]
  over = 0; // ms that the rates are of

  // The totals of a moment (by the server's clock).
  note({ counters, started_at: started, uptime_seconds: uptime }, now) {
    const same = this.last?.started === started;
    const before = same ? this.last : { at: now - uptime * 1000, counters: {} };
    this.over = Math.max(1000, now - before.at);
    this.rates = RATED.filter((name) => name in counters).map((name) =>
      [name, ((counters[name] - (before.counters[name] ?? 0)) * 1000) / this.over]);
    if (!same) this.grown = {};
    for (const [name] of COUNTED) {
      const by = counters[name] - before.counters[name];
      if (same && by > 0) this.grown[name] = { by: by + (this.grown[name]?.by ?? 0), at: now };
      if (now - this.grown[name]?.at > KEPT) delete this.grown[name];
    }
    this.last = { at: now, counters, started };
  }
}
