// SPDX-License-Identifier: MIT
// The panel about the server itself, from /admin/stats.

import { atServer } from './api.js';
import { state } from './cluster.js';
import { byId, facts, setText, ticker } from './dom.js';
import { ago, bytes, certificateText, clock, count, lasting, limitText, renewalText,
  visible }
  from './format.js';

export function drawServer({ store, memory, connections, version, started_at: startedAt,
  certificates = [], limits = {}, counters = {}, cluster, acme }) {
  const now = atServer();
  const started = Date.parse(startedAt);
  const written = Date.parse(store.last_commit);
  const panels = {
    server: [
      ['Version', visible(version)],
      ['Started', clock(started, now)],
      ['Running for', ticker((at) => lasting(at - started))],
      ['Memory', `${bytes(memory.resident_bytes)}, ${bytes(memory.anonymous_bytes)} of its own`],
      ['Connections', `${count(connections.current)} of at most ${count(connections.limit)}`],
    ],
    store: [
      ['State', store.writable ? state('good', 'takes writes')
        : state('bad', `cannot be written: ${visible(store.problem ?? '')}`)],
      ['Known users', count(store.users)],
      ['Ended sessions', count(store.sessions)],
      ['File', `${bytes(store.file_bytes)}, ${bytes(store.used_bytes)} in use`],
      ['Last write', written ? ticker((at) => ago(Math.max(0, at - written))) : 'never'],
    ],
    certificate: certificates.map(({ names, not_after: notAfter }) => {
      const { text, state: how } = certificateText(notAfter, now, acme);
      return [names.map(visible).join(', '), state(how, text)];
    }).concat(acme ? [['Renewal', state(...renewalText(acme, now).reverse())]] : []),
    limit: Object.entries(limits).map(([name, value]) => [name, limitText(name, value)]),
    counter: [...Object.entries(counters), ...Object.entries(cluster?.counters ?? {})
      .map(([name, value]) => [`cluster ${name}`, value])]
      .map(([name, value]) => [name.replaceAll('_', ' '), count(value)]),
  };
  for (const [name, entries] of Object.entries(panels)) {
    byId(`${name}-facts`).replaceChildren(...facts(entries));
  }
  setText(byId('no-certificates'), certificates.length ? '' : 'This server speaks no TLS itself.');
}
