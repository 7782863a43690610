// SPDX-License-Identifier: MIT
// The panel about the server itself, from /admin/stats: first whether it is well.

import { atServer } from './api.js';
import { state } from './cluster.js';
import { byId, element, facts, setIcon, setText, ticker } from './dom.js';
import { ago, bytes, certificateText, clock, count, lasting, limitText, plural, rate, renewalText,
  visible }
  from './format.js';
import { Looks, memoryText, problems, sorted } from './health.js';

const looks = new Looks();

/** Has the totals of now compared with those of before. */
export const noteStats = (stats) => looks.note(stats, atServer());

/** Shows what is wrong, on the tab and at the top of the panel. */
export function drawHealth(stats) {
  const found = problems(stats, looks.grown, atServer());
  const how = found.length ? found[0][0] : 'good';
  const box = byId('health');
  box.dataset.state = how;
  setIcon(box.querySelector('svg'), { good: 'connected', warn: 'behind', bad: 'broken' }[how]);
  setText(byId('health-word'), found.length ? plural(found.length, 'problem') : 'Healthy');
  const sentences = found.map(([, text]) => text);
  if (sentences.join('\n') !== [...byId('problems').children].map((li) => li.textContent).join('\n')) {
    byId('problems').replaceChildren(...found.map(([one, text]) =>
      element('li', { 'data-state': one }, text)));
  }
  const mark = byId('nav-problems');
  mark.hidden = !found.length;
  mark.dataset.state = how;
  setText(mark, `${count(found.length)}`);
  byId('nav-server').setAttribute('aria-label', found.length
    ? `Server, ${plural(found.length, 'problem')}` : 'Server');
}

/** Fills the panels. */
export function drawServer({ store, memory, connections, version, started_at: startedAt, webhook,
  certificates = [], limits = {}, limit_units: units = {}, counters = {}, cluster,
  landlock_version: landlock, acme }) {
  const now = atServer();
  const started = Date.parse(startedAt);
  const written = Date.parse(store.last_commit);
  const [counted, zeros] = sorted(counters, cluster?.counters);
  const panels = {
    server: [
      ['Version', visible(version)],
      ['Started', clock(started, now)],
      ['Running for', ticker((at) => lasting(Math.max(0, at - started)))],
      ['Memory', memoryText(memory)],
      ['Connections', `${count(connections.current)} of at most ${count(connections.limit)}`],
      ...(landlock === undefined ? [] : [['Sandbox', landlock ? `Landlock ${landlock}` : 'not in this kernel']]),
    ],
    store: [
      ['State', store.writable ? state('good', 'takes writes')
        : state('bad', `cannot be written: ${visible(store.problem ?? '')}`)],
      ['Known users', count(store.users)],
      ['Ended sessions', count(store.sessions)],
      ['File', `${bytes(store.file_bytes)}, ${bytes(store.used_bytes)} in use`],
      ['Last write', written ? ticker((at) => ago(Math.max(0, at - written))) : 'never'],
    ],
    webhook: webhook ? [
      ['Receiver', visible(webhook.url)],
      ['Waiting', count(webhook.pending)],
      ['Delivered', `${count(webhook.delivered)} since the start`],
      ['Last error', webhook.last_error ? state('warn', visible(webhook.last_error)) : 'none'],
    ] : [],
    certificate: certificates.map(({ names, not_after: notAfter }) => {
      const { text, state: how } = certificateText(notAfter, now, acme);
      return [names.map(visible).join(', '), state(how, text)];
    }).concat(acme ? [['Renewal', state(...renewalText(acme, now).reverse())]] : []),
    rate: looks.rates.map(([name, value]) => [name.replaceAll('_', ' '), rate(value)]),
    limit: Object.entries(limits).map(([name, value]) => [name, limitText(value, units[name])]),
    counter: counted.map(([name, value]) => [name, count(value)]),
    zero: zeros.map(([name, value]) => [name, count(value)]),
  };
  for (const [name, entries] of Object.entries(panels)) {
    byId(`${name}-facts`).replaceChildren(...facts(entries));
  }
  setText(byId('rate-over'), `over ${lasting(looks.over)}`);
  byId('webhook').hidden = !webhook;
  byId('zeros').hidden = !zeros.length;
  setText(byId('zeros-title'), `${plural(zeros.length, 'counter')} at zero`);
  setText(byId('no-certificates'), certificates.length ? '' : 'This server speaks no TLS itself.');
}
