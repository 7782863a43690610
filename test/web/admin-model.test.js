'use strict';
// The pure parts of the admin page: positions, the list, the stream, words, CSV.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const test = require('node:test');
const path = require('node:path');

process.env.TZ = 'UTC';
const load = (name) => import(path.resolve(__dirname, '../../web/admin', name));

/** A user as the server writes one. */
const user = (id, facts = {}) => ({ user_id: id, online: true, status: 'online', source: 'live',
  connections: 1, connected_at: '2026-11-25T09:00:00.000Z', last_seen: '2026-11-25T09:04:00.000Z',
  ...facts });
const offline = (id, facts = {}) => user(id, { online: false, status: 'offline', source: 'stored',
  connections: 0, connected_at: null, ...facts });
const change = (seq, one, reason = null, epoch = 'aa') =>
  ({ position: `${epoch}-${seq}`, change: 'x', user: one, reason });
const ids = (model) => model.view.map((row) => row.id);
const finish = (steps) => { while (!steps.next().done); };

/** A model that has loaded these users at position aa-10. */
async function loaded(...users) {
  const { Model } = await load('model.js');
  const model = new Model();
  model.reset('aa-10');
  model.beginLoad();
  assert.equal(model.page(users, 'aa-10'), true);
  model.endLoad();
  model.flush();
  return model;
}

test('positions', async () => {
  const { parsePosition } = await load('model.js');
  assert.deepEqual(parsePosition('5939c933-1042'), { epoch: '5939c933', seq: 1042 });
  for (const bad of [null, undefined, '', '5939c933', '-1', '5939c933-', 'x-1', '5939c933-1x']) {
    assert.equal(parsePosition(bad), null, String(bad));
  }
});

test('a change that an answer had is ignored, the next one is not', async () => {
  const model = await loaded(user('a'));
  assert.equal(model.change(change(10, offline('a'), 'closed')), false);
  assert.equal(model.rows.get('a').online, true);
  assert.equal(model.change(change(11, offline('a'), 'dropped')), true);
  assert.deepEqual([model.rows.get('a').online, model.rows.get('a').reason], [false, 'dropped']);
  assert.equal(model.change(change(11, user('a'))), false, 'told twice');
  assert.equal(model.seq, 11);
});

test('a change of another run of the server is not applied', async () => {
  const model = await loaded(user('a'));
  assert.equal(model.change(change(99, offline('a'), 'closed', 'bb')), false);
  assert.equal(model.seq, 10);
  model.reset('bb-0');
  assert.equal(model.change(change(1, offline('a'), 'closed', 'bb')), true);
});

test('a page that is older than a change does not undo it', async () => {
  const model = await loaded(user('a'), user('b'));
  model.change(change(12, offline('a'), 'closed'));
  model.change(change(13, user('c')));
  model.beginLoad();
  model.page([user('a'), user('b')], 'aa-11');
  model.endLoad();
  model.flush();
  assert.deepEqual(ids(model), ['b', 'c']);
});

test('who is missing from a whole load, without a later change, is offline', async () => {
  const model = await loaded(user('a'), user('b'), user('c'));
  model.beginLoad();
  model.page([user('a')], 'aa-20');
  model.change(change(21, user('c', { status: 'away' })));
  model.page([user('d')], 'aa-22');
  model.endLoad();
  model.flush();
  assert.deepEqual(ids(model), ['a', 'c', 'd']);
  assert.deepEqual(model.totals, { users: 3, connections: 3, live: 3, cached: 0 });
  const b = model.rows.get('b');
  assert.deepEqual([b.online, b.status, b.source, b.connections], [false, 'offline', 'stored', 0]);
});

test('a page of another run is refused', async () => {
  const model = await loaded(user('a'));
  model.beginLoad();
  assert.equal(model.page([user('z')], 'bb-1'), false);
  assert.equal(model.rows.has('z'), false);
});

test('without positions (an older server) each load is the truth', async () => {
  const { Model } = await load('model.js');
  const model = new Model();
  for (const users of [[user('a'), user('b')], [user('b', { status: 'busy' }), user('c')]]) {
    model.beginLoad();
    assert.equal(model.page(users, undefined), true);
    model.endLoad();
  }
  model.flush();
  assert.deepEqual(ids(model), ['b', 'c']);
  assert.equal(model.rows.get('b').status, 'busy');
});

test('totals follow every kind of change', async () => {
  const model = await loaded(user('a', { connections: 2 }), user('b', { source: 'cached',
    connections: 0 }));
  assert.deepEqual(model.totals, { users: 2, connections: 2, live: 1, cached: 1 });
  model.change(change(11, user('b', { connections: 3 })));
  assert.deepEqual(model.totals, { users: 2, connections: 5, live: 2, cached: 0 });
  model.change(change(12, offline('a'), 'kicked'));
  assert.deepEqual(model.totals, { users: 1, connections: 3, live: 1, cached: 0 });
});

test('ids like __proto__ and constructor are ordinary users', async () => {
  const names = ['__proto__', 'constructor', 'hasOwnProperty', 'toString'];
  const model = await loaded(...names.map((id) => user(id)));
  assert.deepEqual(ids(model), [...names].sort());
  model.change(change(11, offline('__proto__'), 'closed'));
  model.flush();
  assert.equal(ids(model).includes('__proto__'), false);
  assert.equal({}.id, undefined);
});

test('search, filter and sort; equal values by id; the other way round', async () => {
  const model = await loaded(
    user('Bob', { status: 'away', connections: 3 }), user('bobby', { source: 'cached',
      connections: 0, invisible: true }), user('al', { status: 'busy' }), user('zoe'));
  const ask = (query) => { finish(model.ask(query)); return ids(model); };
  assert.deepEqual(ask({ text: 'BOB' }), ['Bob', 'bobby']);
  assert.deepEqual(ask({ text: '' }), ['Bob', 'al', 'bobby', 'zoe']);
  assert.deepEqual(ask({ filter: 'cached' }), ['bobby']);
  assert.deepEqual(ask({ filter: 'hidden' }), ['bobby']);
  assert.deepEqual(ask({ filter: 'busy' }), ['al']);
  assert.deepEqual(ask({ filter: 'available' }), ['bobby', 'zoe']);
  assert.deepEqual(ask({ filter: 'online', sort: 'connections', descending: true }),
    ['Bob', 'al', 'zoe', 'bobby']);
  assert.deepEqual(ask({ sort: 'statusRank', descending: false }), ['bobby', 'zoe', 'al', 'Bob']);
  model.change(change(11, offline('zoe'), 'closed'));
  assert.deepEqual(ask({ filter: 'offline' }), ['zoe']);
  assert.deepEqual(ask({ filter: 'all', sort: 'id', descending: true }),
    ['zoe', 'bobby', 'al', 'Bob']);
});

test('changes while a view is built are in it, and a newer question ends an older one', async () => {
  const model = await loaded(...Array.from({ length: 20000 }, (_, i) => user(`u${i}`)));
  const steps = model.ask({ sort: 'connections' });
  for (let i = 0; i < 5; i++) assert.equal(steps.next().done, false);
  model.change(change(11, user('u7', { connections: 9 })));
  model.change(change(12, user('new', { connections: 8 })));
  model.change(change(13, offline('u9'), 'closed'));
  assert.equal(model.flush(), false, 'not before it is built');
  finish(steps);
  assert.deepEqual(ids(model).slice(-2), ['new', 'u7']);
  assert.equal(model.view.length, 20000);
  assert.equal(ids(model).includes('u9'), false);
  const old = model.ask({ text: 'u1' });
  old.next();
  finish(model.ask({ text: 'new' }));
  finish(old);
  assert.deepEqual(ids(model), ['new']);
});

test('a long random life: the view always equals a fresh sort of what is known', async () => {
  let seed = 7;
  const random = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return seed % n; };
  const model = await loaded(...Array.from({ length: 50 }, (_, i) => user(`u${i}`)));
  let seq = 10;
  for (const sort of ['id', 'statusRank', 'sourceRank', 'connections', 'since', 'seen']) {
    finish(model.ask({ sort, descending: random(2) === 1 }));
    for (let round = 0; round < 200; round++) {
      for (let i = random(5); i >= 0; i--) {
        const id = `u${random(80)}`;
        const at = new Date(1.78e12 + random(1e6)).toISOString();
        model.change(change(++seq, random(3) ? user(id, { status: ['online', 'away', 'busy'][
          random(3)], connections: random(4), connected_at: at, last_seen: at }) : offline(id),
        'closed'));
      }
      model.flush();
      const expected = [...model.rows.values()].filter((row) => row.online).sort(model.compare);
      assert.deepEqual(ids(model), expected.map((row) => row.id));
      assert.equal(model.totals.users, expected.length);
    }
  }
});

test('offline users are kept up to a bound, the longest gone are forgotten', async () => {
  const { KEEP_OFFLINE } = await load('model.js');
  const model = await loaded(user('remains'));
  for (let i = 0; i < KEEP_OFFLINE + 5; i++) model.change(change(11 + i, offline(`u${i}`), 'closed'));
  assert.equal(model.rows.size, KEEP_OFFLINE + 1);
  assert.equal(model.rows.has('u4'), false);
  assert.equal(model.rows.has('u5'), true);
  finish(model.ask({ filter: 'offline' }));
  assert.equal(model.view.length, KEEP_OFFLINE);
  model.change(change(KEEP_OFFLINE + 99, offline('last'), 'closed'));
  model.flush();
  assert.equal(model.view.length, KEEP_OFFLINE);
  assert.equal(ids(model).includes('u5'), false);
});

test('the stream is taken apart the same however it is cut', async () => {
  const { SseParser } = await load('stream.js');
  const text = '\ufeffretry: 2000\n\n:\n\nevent: reset\r\nid: aa-1\r\ndata: {"a":1}\r\n\r\n'
    + 'event: change\rid: aa-2\rdata: one\rdata:two\r\rdata\n\nid: bad\0\ndata:  x\n\n: c\n';
  const whole = new SseParser();
  const expected = [
    { type: 'reset', data: '{"a":1}', id: 'aa-1' },
    { type: 'change', data: 'one\ntwo', id: 'aa-2' },
    { type: 'message', data: '', id: 'aa-2' },
    { type: 'message', data: ' x', id: 'aa-2' },
  ];
  assert.deepEqual(whole.push(text), expected);
  assert.equal(whole.retry, 2000);
  for (let size = 1; size < 12; size++) {
    const parser = new SseParser();
    const events = [];
    for (let at = 0; at < text.length; at += size) {
      events.push(...parser.push(text.slice(at, at + size)));
    }
    assert.deepEqual(events, expected, `in pieces of ${size}`);
    assert.equal(parser.retry, 2000);
  }
});

test('an event without an end is an error, not memory', async () => {
  const { SseParser } = await load('stream.js');
  const parser = new SseParser();
  assert.throws(() => {
    for (let i = 0; i < 100; i++) parser.push(`data: ${'x'.repeat(20000)}\n`);
  }, /too long/);
});

test('waits between attempts double up to 30 s, with 10 % at random', async () => {
  const { retryDelay } = await load('stream.js');
  assert.deepEqual([1, 2, 3, 4, 5, 9].map((n) => retryDelay(2000, n, 0)),
    [2000, 4000, 8000, 16000, 30000, 30000]);
  assert.equal(retryDelay(2000, 1, 0.5), 2100);
});

/** A ChangeStream whose answers and clock the test holds. */
async function fakeStream() {
  const { ChangeStream } = await load('stream.js');
  const asked = [];
  const clock = { now: 1000 };
  const stream = new ChangeStream({ now: () => clock.now, random: () => 0, wake() {},
    fetch: (init) => new Promise((resolve, reject) => {
      init.signal.addEventListener('abort', () => reject(new DOMException('x', 'AbortError')));
      asked.push({ ...init, resolve, reject });
    }) });
  const answer = () => {
    let feed;
    const body = new ReadableStream({ start(controller) { feed = controller; } });
    asked.at(-1).resolve(new Response(body, { headers: { 'Content-Type': 'text/event-stream' } }));
    return { send: (text) => feed.enqueue(new TextEncoder().encode(text)), end: () => feed.close() };
  };
  return { stream, asked, clock, answer };
}
const turns = async () => { for (let i = 0; i < 20; i++) await null; await new Promise(setImmediate); };

test('a broken stream resumes behind what was applied, not behind what was received', async () => {
  const { stream, asked, clock, answer } = await fakeStream();
  stream.open();
  assert.equal(asked[0].headers['Last-Event-ID'], undefined);
  const first = answer();
  first.send('id: aa-1\ndata: x\n\nid: aa-2\ndata: y\n\nid: aa-3\ndata: z\n\n');
  await turns();
  assert.equal(stream.phase, 'open');
  assert.deepEqual(stream.take(2).map((one) => one.id), ['aa-1', 'aa-2']);
  first.end();
  await turns();
  assert.deepEqual([stream.phase, stream.nextTry, stream.queue.length], ['waiting', 3000, 0]);
  clock.now = 2999;
  stream.tick();
  assert.equal(asked.length, 1);
  clock.now = 3000;
  stream.tick();
  assert.equal(asked[1].headers['Last-Event-ID'], 'aa-2');
});

test('a refusal, a missing route and a failure are told apart', async () => {
  for (const [status, phase] of [[401, 'refused'], [403, 'refused'], [404, 'absent'],
    [503, 'waiting']]) {
    const { stream, asked } = await fakeStream();
    stream.open();
    asked[0].resolve(new Response('', { status }));
    await turns();
    assert.equal(stream.phase, phase, String(status));
  }
  const { stream, asked } = await fakeStream();
  stream.open();
  asked[0].resolve(new Response('<html>', { headers: { 'Content-Type': 'text/html' } }));
  await turns();
  assert.equal(stream.phase, 'waiting', 'a page is no stream');
});

test('a silent stream is ended after 40 s; a comment is a sign of life', async () => {
  const { stream, clock, answer } = await fakeStream();
  stream.open();
  const feed = answer();
  await turns();
  clock.now += 30000;
  feed.send(':\n');
  await turns();
  clock.now += 40000;
  stream.tick();
  assert.equal(stream.phase, 'open');
  clock.now += 1;
  stream.tick();
  assert.deepEqual([stream.phase, stream.problem], ['waiting', 'nothing heard for too long']);
});

test('nothing more is read while too much waits', async () => {
  const { MAX_WAITING } = await load('stream.js');
  const { stream, answer } = await fakeStream();
  stream.open();
  const feed = answer();
  for (let i = 0; i < MAX_WAITING + 100; i++) {
    feed.send(`id: aa-${i}\ndata: x\n\n`);
    if (i % 50 === 0) await turns();
  }
  await turns();
  await turns();
  while (stream.queue.length < MAX_WAITING) await turns();
  for (let i = 0; i < 10; i++) await turns();
  assert.equal(stream.queue.length, MAX_WAITING);
  stream.take(200);
  while (stream.queue.length < MAX_WAITING - 100) await turns();
  assert.equal(stream.queue.at(-1).id, `aa-${MAX_WAITING + 99}`);
});

test('the connection is connected, behind or broken, and says why', async () => {
  const { health } = await load('stream.js');
  const fine = { phase: 'open', problem: '', lastByte: 100000, queue: [], oldest: 0 };
  const now = { seen: 5, known: 5, knownAt: 0, loading: '', now: 100000 };
  const of = (stream, more) => health({ ...fine, ...stream }, { ...now, ...more });
  assert.deepEqual(of({}, {}), { state: 'connected', text: '' });
  assert.deepEqual(of({}, { known: 9, knownAt: 98000 }), { state: 'connected', text: '' });
  assert.deepEqual(of({}, { known: 9, knownAt: 96000 }),
    { state: 'behind', text: '4 changes are missing' });
  assert.deepEqual(of({ lastByte: 79000 }, {}), { state: 'behind', text: 'nothing heard for 21 s' });
  assert.deepEqual(of({ queue: [1, 2, 3], oldest: 98000 }, {}),
    { state: 'behind', text: '3 changes wait to be shown' });
  assert.deepEqual(of({}, { loading: 'loading 1 of 2' }), { state: 'behind', text: 'loading 1 of 2' });
  for (const phase of ['closed', 'connecting', 'waiting', 'absent', 'refused']) {
    assert.deepEqual(of({ phase, problem: 'why' }, {}), { state: 'broken', text: 'why' });
  }
});

test('times in words', async () => {
  const { ago, lasting, exactly, clock, lastSeenText } = await load('format.js');
  for (const [ms, words] of [[0, 'just now'], [1999, 'just now'], [2000, '2 s ago'],
    [59999, '59 s ago'], [60000, '1 min ago'], [3599999, '59 min ago'], [3600000, '1 h ago'],
    [5400000, '1 h ago'], [86400000, '1 day ago'], [200000000, '2 days ago']]) {
    assert.equal(ago(ms), words);
  }
  for (const [ms, words] of [[999, 'under 1 s'], [42000, '42 s'], [420000, '7 min'],
    [3600000, '1 h'], [3780000, '1 h 3 min'], [86400000, '1 day'], [187200000, '2 days 4 h']]) {
    assert.equal(lasting(ms), words);
  }
  const now = Date.parse('2026-11-25T15:00:00Z');
  assert.equal(clock(Date.parse('2026-11-25T14:02:10Z'), now), '14:02');
  assert.equal(clock(Date.parse('2026-11-24T14:02:10Z'), now), '24 Nov 14:02');
  assert.equal(clock(Date.parse('2025-11-24T14:02:10Z'), now), '24 Nov 2025 14:02');
  for (const [ms, words] of [[999, 'under 1 s'], [59999, '59 s'], [60000, '1 min'], [432000, '7 min 12 s'],
    [599999, '9 min 59 s'], [600000, '10 min'], [671000, '11 min']]) assert.equal(exactly(ms), words);
  const row = { online: true, seen: now - 300000 };
  assert.equal(lastSeenText(row, now, 35000, true), 'under 35 s');
  assert.equal(lastSeenText(row, now, 35000, false), '5 min ago', 'not while the stream is broken');
  assert.equal(lastSeenText({ ...row, seen: now - 4000 }, now, 35000, true), '4 s ago');
  assert.equal(lastSeenText({ ...row, online: false }, now, 35000, true), '5 min ago');
  assert.equal(lastSeenText({ online: false, seen: 0 }, now, 0, true), 'never');
});

test('the timeline: when online, the gaps between with their reasons, seconds where it is short', async () => {
  const { timeline } = await load('format.js');
  const now = Date.parse('2026-11-25T15:00:00Z');
  const at = (text) => text && `${'2026-11-'.slice(0, 19 - text.length)}${text}Z`;
  const told = (...sessions) => timeline(sessions.map(([from, to, reason]) =>
    ({ from: at(from), to: at(to), reason: reason ?? null, address: '::1' })), now).map(({ text }) => text);
  assert.deepEqual(told(['25T14:20:00', null], ['25T13:20:00', '25T14:02:00', 'dropped'],
    ['24T23:20:00', '25T00:10:00', 'kicked']),
  ['online since 14:20', 'offline 14:02 to 14:20, connection lost', 'online 13:20 to 14:02',
    'offline 00:10 to 13:20, kicked by an admin', 'online 24 Nov 23:20 to 00:10']);
  assert.deepEqual(told(['25T14:00:05', '25T14:01:10', 'timeout'], ['25T13:00:00', '25T13:59:58', 'new\u202e']),
    ['offline since 14:01, went silent', 'online 14:00:05 to 14:01:10',
      'offline 13:59:58 to 14:00:05, new<U+202E>', 'online 13:00 to 13:59']);
  assert.deepEqual(told(['25T14:00:00', null], ['25T13:00:00', '25T14:00:00', 'restart']),
    ['online since 14:00', 'online 13:00 to 14:00'], 'no gap, no row');
  assert.deepEqual(told(['25T14:20:00', null], ['2025-11-25T13:00:00', '2025-11-25T14:02:00', 'dropped']),
    ['online since 14:20', 'offline 25 Nov 2025 14:02 to 14:20, connection lost',
      'online 25 Nov 2025 13:00 to 14:02'], 'a year away');
  assert.deepEqual(told(), []);
});

test('a random life: its timeline has no hole, nothing twice, and each end is told with its reason', async () => {
  const { timeline } = await load('format.js');
  let seed = 11;
  const random = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return seed % n; };
  for (let round = 0; round < 200; round++) {
    const sessions = [];
    let at = 1.78e12;
    for (let i = random(8); i >= 0; i--) {
      const from = at + random(3) * random(1e6);
      at = from + random(1e6);
      sessions.unshift({ from: new Date(from).toISOString(), to: new Date(at).toISOString(),
        reason: ['closed', 'kicked'][random(2)], address: null });
    }
    if (random(2)) Object.assign(sessions[0], { to: null, reason: null });
    const items = timeline(sessions, at + 1e6);
    for (let i = 1; i < items.length; i++) assert.equal(items[i].to, items[i - 1].from, JSON.stringify(items));
    const online = items.filter(({ kind }) => kind === 'online');
    assert.deepEqual(online.map(({ from }) => from), sessions.map(({ from }) => Date.parse(from)));
    for (const gap of items.filter(({ kind }) => kind === 'offline')) {
      assert.equal(gap.reason, sessions.find(({ to }) => Date.parse(to) === gap.from).reason);
      assert.ok(gap.to === null || gap.to > gap.from);
    }
  }
});

test('programs in words', async () => {
  const { agentText } = await load('format.js');
  const mozilla = (text) => agentText(`Mozilla/5.0 (${text}`);
  for (const [found, words] of [
    [mozilla('X11; Linux x86_64; rv:125.0) Gecko/20100101 Firefox/125.0'), 'Firefox 125 on Linux'],
    [mozilla('Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36'), 'Chrome 124 on Windows'],
    [mozilla('Windows NT 10.0) AppleWebKit/537.36 Chrome/124.0.0.0 Safari/537.36 Edg/124.0.0.0'), 'Edge 124 on Windows'],
    [mozilla('iPhone; CPU iPhone OS 17_4 like Mac OS X) AppleWebKit/605.1.15 Version/17.4 Mobile/15E148 Safari/604.1'), 'Safari 17 on iPhone'],
    [mozilla('Linux; Android 14) AppleWebKit/537.36 Chrome/124.0.0.0 Mobile Safari/537.36'), 'Chrome 124 on Android'],
    [mozilla('Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 Version/17.4 Safari/605.1.15'), 'Safari 17 on macOS'],
    [agentText('curl/8.1.2'), 'curl 8.1.2'], [agentText('\u202eevil'), '<U+202E>evil'], [agentText(''), 'unnamed program'],
    [agentText('(x)'), '(x)'],
  ]) assert.equal(found, words);
});

test('A01 what could mislead in an id is spelled out', async () => {
  const { visible, pieces } = await load('format.js');
  assert.deepEqual(pieces('a\u202eb '), [{ text: 'a' }, { code: 'U+202E' }, { text: 'b\u2423' }]);
  for (const [text, shown] of [
    ['alice', 'alice'], ['李雷 é', '李雷 é'], ['a b', 'a b'], ['"><svg/onload=x>', '"><svg/onload=x>'],
    ['admin\u202egpj', 'admin<U+202E>gpj'], ['a\u200bb', 'a<U+200B>b'], ['a\u00a0b', 'a<U+00A0>b'],
    [' a ', '\u2423a\u2423'], ['a  b', 'a\u2423\u2423b'], ['\x1b[2J', '<U+001B>[2J'],
    ['a\u2028b', 'a<U+2028>b'], ['\u2066x\u2069', '<U+2066>x<U+2069>'], ['\u{e0041}', '<U+E0041>'],
    ['\u{1f469}\u200d\u{1f467}', '\u{1f469}\u200d\u{1f467}'], ['\u{1f469}\u{1f3fd}\u200d\u{1f680}', '\u{1f469}\u{1f3fd}\u200d\u{1f680}'],
    ['\u2764\ufe0f', '\u2764\ufe0f'], ['a\u200d\u{1f467}', 'a<U+200D>\u{1f467}'], ['\u{1f469}\u200d', '\u{1f469}<U+200D>'],
    ['a\ufe0f', 'a<U+FE0F>'], ['1\ufe0f', '1<U+FE0F>'], ['\ud800', '<U+D800>'], ['a\nb', 'a<U+000A>b'],
  ]) assert.equal(visible(text), shown);
});

test('A01 no cell of the CSV is a formula, and every cell reads back', async () => {
  const { csvLine, csvUser, csvHead } = await load('format.js');
  for (const [text, cell] of [
    ['alice', '"alice"'], ['=1+1', '"\'=1+1"'], ['+1', '"\'+1"'], ['-1', '"\'-1"'],
    ['@SUM(1)', '"\'@SUM(1)"'], [' =1', '"\' =1"'], ['\u200b=1', '"\'\u200b=1"'],
    ['\uff1d1', '"\'\uff1d1"'], ['|cmd', '"\'|cmd"'], ['%00', '"\'%00"'],
    ['a"b', '"a""b"'], ['a;=1', '"a;=1"'], ['a,"=1"', '"a,""=1"""'], [null, '""'], [0, '"0"'],
  ]) assert.equal(csvLine([text]), `${cell}\r\n`);
  assert.equal(csvHead().startsWith('\ufeff"user_id","online","status"'), true);
  assert.equal(csvUser({ id: 'a', online: true, status: 'busy', source: 'live', connections: 2,
    since: Date.parse('2026-11-25T09:00:00Z'), seen: 0, reason: null }),
  '"a","true","busy","live","2","2026-11-25T09:00:00.000Z","",""\r\n');
});

test('sizes, limits and certificates in words', async () => {
  const { bytes, limitText, certificateText, renewalText, count, plural } = await load('format.js');
  for (const [value, words] of [[0, '0 bytes'], [1023, '1023 bytes'], [1024, '1 KiB'],
    [999424, '976 KiB'], [67108864, '64 MiB'], [9437184, '9 MiB'], [1610612736, '1.5 GiB']]) {
    assert.equal(bytes(value), words);
  }
  assert.deepEqual([count(100000), plural(1, 'user'), plural(0, 'user')],
    ['100,000', '1 user', '0 users']);
  for (const [name, value, words] of [['online-threshold', 90000, '90 s'],
    ['request-timeout', 500, '0.5 s'], ['history', 2592000000, '30 days'], ['workers', 4, '4'],
    ['max-connections', 0, '0'], ['max-message', 4096, '4 KiB'], ['map-size', 67108864, '64 MiB']]) {
    const unit = { 'map-size': 'bytes', 'max-message': 'bytes', workers: 'count', 'max-connections': 'count' };
    assert.equal(limitText(value, unit[name] ?? 'ms'), words);
  }
  const now = Date.parse('2026-11-25T12:00:00Z');
  assert.deepEqual(certificateText('2026-11-24T12:00:00Z', now),
    ['bad', 'expired 1 day ago']);
  assert.deepEqual(certificateText('2026-12-07T12:00:00Z', now),
    ['warn', 'expires in 12 days, 7 Dec 12:00']);
  assert.equal(certificateText('2027-02-07T12:00:00Z', now)[0], 'good');
  assert.equal(certificateText('2026-12-02T11:59:00Z', now)[0], 'bad', 'from 7 days before its end');
  assert.equal(certificateText('2026-12-02T11:59:00Z', now, { renew_at: '2026-11-30T12:00:00Z' })[0], 'good', 'a short one that is not due');
  assert.equal(certificateText('2026-12-02T11:59:00Z', now, { renew_at: '2026-11-24T12:00:00Z' })[0], 'bad', 'one that was due');
  assert.deepEqual(renewalText({ renew_at: null, failing_since: '2026-11-25T10:00:00Z', last_error: 'no\u202eanswer' }, now),
    ['warn', 'fails since 10:00: no<U+202E>answer']);
  assert.deepEqual(renewalText({ renew_at: null, failing_since: null, last_error: null }, now), ['good', 'as soon as it can be']);
});

test('the overview keeps peaks, and breaks where samples are missing', async () => {
  const { chartPieces, roundTop } = await load('format.js');
  const at = (minute, users) => ({ at: new Date(minute * 60000).toISOString(), users, connections: users });
  const pieces = chartPieces([at(0, 1), at(1, 9), at(2, 2), at(10, 5), at(11, 6), at(99, 7)], 60000,
    0, 12 * 60000, 6);
  assert.deepEqual(pieces.map((piece) => piece.map((one) => [one.x, one.users])),
    [[[0, 9], [1, 2]], [[5, 6]]]);
  assert.deepEqual([0, 3, 5, 11, 41, 99999, 100000].map(roundTop),
    [4, 4, 5, 20, 50, 100000, 100000]);
});

test('the two pages are at most 112 KiB, and name nothing elsewhere', () => {
  const web = path.resolve(__dirname, '../../web');
  const files = ['index.html', 'demo.js', 'demo.css', 'favicon.svg',
    ...fs.readdirSync(path.join(web, 'admin')).map((name) => `admin/${name}`)];
  const texts = files.map((name) => fs.readFileSync(path.join(web, name), 'utf8'));
  const size = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
  assert.ok(size <= 112 * 1024, `${size} bytes`);
  for (const text of texts) {
    assert.doesNotMatch(text.replaceAll('http://www.w3.org/2000/svg', ''), /https?:\/\//);
    assert.doesNotMatch(text, /innerHTML|insertAdjacentHTML|document\.write|\seval\(|style="|\son\w+="/);
  }
});

test('a page of offline users does not say from when a load is', async () => {
  const model = await loaded(user('a'), user('b'));
  model.beginLoad();
  model.page([offline('z')], 'aa-13', true); // asked for later, answered earlier
  model.change(change(12, user('new')));
  model.page([user('a'), user('b')], 'aa-11');
  model.endLoad();
  model.flush();
  assert.deepEqual(ids(model), ['a', 'b', 'new']);
});
