'use strict';
// Variants: release
// The fake engine of the other tests is held against a real one: what random commands answer is the
// same, in both versions of the protocol. And each of its faults is what it says.

const assert = require('node:assert/strict');
const { isDeepStrictEqual } = require('node:util');
const { test, dice: seeded, until, throughout, within, slow } = require('./lib');
const { startRedis, startFake, SCRIPTS, keysOf, noEngine, randomEpoch, randomIncarnation } = require('./lib/engine');
const { RespClient, RespError, Status } = require('./lib/resp');

const SEED = Number(process.env.SEED || 1 + (Date.now() % 1000000));
const { meta, log } = keysOf('test');
const KEYS = ['h', 's', meta, log];

/** Ids of elements as their place among all that were seen, so that clocks do not matter. */
class Places {
  constructor() {
    this.ids = [];
  }
  see(id) {
    if (!this.ids.includes(id)) this.ids.push(id);
    return `#${this.ids.indexOf(id)}`;
  }
}

/** A reply as plain values, with its types, to be compared. */
function plain(reply, places) {
  if (reply instanceof RespError) {
    // a real engine adds where in a script an error came up
    return ['error', reply.message.replace(/ ?script: .*$/, '')];
  }
  if (reply instanceof Status) return ['status', String(reply)];
  if (reply instanceof Map) return ['map', ...[...reply].map(([key, value]) => [key, plain(value, places)])];
  if (Array.isArray(reply)) return reply.map((one) => plain(one, places));
  return typeof reply === 'string' && /^\d{13}-\d+$/.test(reply) ? places.see(reply) : reply;
}

/** Of INFO, HELLO, TIME and XINFO only what a node reads: the rest differs by nature. */
function essence([name], reply) {
  const text = (pattern) => String(reply).match(pattern)?.[0];
  if (reply instanceof RespError) return reply;
  if (name === 'INFO') return [typeof reply, text(/redis_version:\S+/), text(/run_id:[0-9a-f]{40}\r\n/)?.length];
  if (name === 'TIME') return reply.map((one) => /^\d+$/.test(one));
  if (name !== 'HELLO' && name !== 'XINFO') return reply;
  const pairs = reply instanceof Map ? [...reply] : Array.from({ length: reply.length / 2 }, (_, i) => [reply[2 * i], reply[2 * i + 1]]);
  return [reply instanceof Map, ...pairs.filter(([key]) => !/radix|^id$/.test(key))];
}

/** One random command. `ids` gives the id that an engine has at a place, so it is a function of it. */
function randomCommand(dice, state) {
  const one = (list) => list[dice(list.length)];
  const key = () => (dice(40) ? one(KEYS) : 'nothing');
  const stream = () => (dice(10) ? one(['s', log]) : key());
  const field = () => one(['a', 'b', 'epoch', 'count', state.incarnation]);
  const id = () => one(['0', '0-0', '1-1', '5', '5-3', '9-2', '-', '+', '(5-1', 'x', '7-x', '18446744073709551615-1', ...state.known(4)]);
  const append = () => {
    const words = [2, meta, log, dice(12) ? state.epoch() : '77', state.incarnation, state.n() + one([0, 1, 1, 1, 1, 1, 2, -1]),
      1 + dice(200), 5 + dice(20), '\0\r\n\xff'.repeat(dice(4))];
    return dice(20) ? ['EVALSHA', state.sha.append, ...words] : ['EVAL', SCRIPTS.append, ...words];
  };
  return one([
    () => ['PING'], () => ['PING', 'x'], () => ['TIME'], () => ['INFO', 'server'], () => ['SELECT', one(['0', '0', 'x', '99'])],
    () => ['HELLO', one(['2', '3', '4'])], () => ['CLIENT', 'SETNAME', 'me'], () => ['CLIENT', 'GETNAME'],
    () => ['CONFIG', 'GET', one(['maxmemory-policy', 'nothing'])], () => ['NONSENSE', 'a', 'b'],
    () => ['AUTH', 'someone', 'wrong'], () => ['SCRIPT', 'EXISTS', state.sha.append, state.sha.renew, 'f'.repeat(40)],
    () => (dice(10) ? ['SCRIPT', 'LOAD', one(Object.values(SCRIPTS))] : ['SCRIPT', 'FLUSH']), () => ['EVALSHA', 'f'.repeat(40), '0'],
    () => ['HGET', key(), field()], () => ['HMGET', key(), field(), field(), 'z'], () => ['HSET', one(['h', 's']), 'a', String(dice(9))],
    () => ['HSET', 'h', 'a', '1', 'b'], () => ['TYPE', key()], () => ['XLEN', key()], () => ['GET'.repeat(2)],
    () => (dice(8) ? ['TYPE', 's'] : ['DEL', key(), key()]), () => (dice(20) ? ['XLEN', 's'] : ['FLUSHALL']),
    () => ['EXPIRE', key(), one(['100', 'x', dice(10) ? '100' : '-1'])],
    () => ['XADD', one(['s', 's', 's', 'h']), `${dice(3) ? state.next() : dice(9)}-${dice(4)}`, 'f', String(dice(9))],
    () => ['XADD', 's', 'MAXLEN', one(['~', '=']), String(dice(6)), `${state.next()}-0`, 'f', 'v'],
    () => ['XADD', 's', 'MAXLEN', String(dice(6)), `${state.next()}-1`, 'f', 'v', 'g'], () => ['XADD', 's', '0-0', 'f', 'v'],
    () => ['XRANGE', stream(), id(), id()], () => ['XRANGE', stream(), id(), '+', 'COUNT', '3'], () => ['XRANGE', stream(), '-', id()],
    () => ['XREVRANGE', stream(), id(), id(), 'COUNT', one(['1', '2', '0', 'x'])],
    () => ['XRANGE', stream(), id(), id(), 'COUNT', String(dice(4))], () => ['XRANGE', stream(), '-', '+'],
    () => ['XREVRANGE', stream(), '+', '-', 'COUNT', '1'], () => ['XINFO', 'STREAM', stream()],
    () => ['XREAD', 'COUNT', String(1 + dice(3)), 'STREAMS', stream(), one(['0', '$', '5-1', ...state.known(2)]).replace('(', '')],
    () => ['XREAD', 'BLOCK', '1', 'STREAMS', 's', stream(), one(['0', '3', 'x']), one(['0-0', '$', '9'])],
    () => ['XREAD', 'STREAMS', 's', log, '0'], () => ['XTRIM', 's', 'MAXLEN', String(dice(5))], () => ['XDEL', 's', '1-1', `${dice(9)}-1`],
    append, append, append, append, append, append,
    () => (dice(4) ? append() : ['EVALSHA', state.sha.renew, 2, meta, log, dice(4) ? state.epoch() : '99', randomEpoch(), 'run']),
  ])();
}

/** Runs random commands against both; the first difference, or null. */
async function difference(real, fake, { seed, commands, version }) {
  const dice = seeded(seed);
  const sides = [real, fake].map((engine) => ({ client: new RespClient(engine), places: new Places() }));
  let number = 1;
  const { ids } = sides[0].places;
  const incarnation = randomIncarnation();
  const state = {
    incarnation,
    sha: {},
    epoch: () => fake.keys.get(meta)?.get?.('epoch') ?? '0',
    n: () => Number(fake.keys.get(meta)?.get?.(incarnation) ?? 0),
    next: () => (number += dice(2)),
    known: (count) => Array.from({ length: count }, () => (ids.length ? `${dice(2) ? '' : '('}#${Math.max(0, ids.length - 1 - dice(12))}` : '3')),
  };
  const both = async (words) => {
    const replies = await Promise.all(sides.map(({ client, places }) =>
      client.reply(...words.map((one) => String(one).replace(/^(\(?)#(\d+)$/, (_, open, at) => open + places.ids[at])))));
    // where a stream begins anew an id may come again
    if (/^(DEL|EXPIRE|FLUSHALL)$/.test(words[0]) || words[1] === state.sha.renew)
      for (const { places } of sides) places.ids.length = 0;
    return replies.map((reply, i) => plain(essence(words, reply), sides[i].places));
  };
  try {
    for (const side of sides) await side.client.command('FLUSHALL');
    for (const [name, text] of Object.entries(SCRIPTS)) [state.sha[name]] = await both(['SCRIPT', 'LOAD', text]);
    await both(['HELLO', version]);
    for (let i = 0; i < commands; i++) {
      const words = i % 97 ? randomCommand(dice, state) : ['SCRIPT', 'LOAD', SCRIPTS[i % 2 ? 'append' : 'renew']];
      if (words[0] === 'HELLO' && words[1] !== '4') words[1] = version;
      const [wanted, got] = await both(words);
      if (!isDeepStrictEqual(wanted, got))
        return `command ${i} ${JSON.stringify(words)}: real ${JSON.stringify(wanted)}, fake ${JSON.stringify(got)}`;
    }
    return null;
  } finally {
    for (const side of sides) await side.client.close();
  }
}

// one element a node: then MAXLEN ~ is exact
const EXACT = ['--stream-node-max-entries', '1'];

test(`random commands: the fake engine answers as a real one (SEED=${SEED})`, { skip: noEngine }, async (t) => {
  const [real, fake] = [await startRedis(t, { args: EXACT }), await startFake(t)];
  for (const version of [2, 3])
    assert.equal(await difference(real, fake, { seed: SEED + version, commands: 2000, version: String(version) }), null);
  const seen = new Set(fake.commands);
  for (const one of 'EVALSHA EVAL HMGET XADD XREAD XRANGE XREVRANGE XINFO DEL EXPIRE'.split(' ')) assert.ok(seen.has(one), one);
});

test('a fake that differs in one thing is found', { skip: noEngine }, async (t) => {
  const real = await startRedis(t, { args: EXACT });
  const faults = {
    'trims one less': (fake) => {
      const { add } = fake;
      fake.add = (key, id, fields, length) => add.call(fake, key, id, fields, length === null ? null : length + 1);
    },
    'takes an id that is there': (fake) => {
      const { range } = fake;
      fake.range = (key, from, to, rest, reverse) => range.call(fake, key, from.replace('(', ''), to, rest, reverse);
    },
    'forgets to expire at once': (fake) => { fake.remove = () => false; },
    'another type is no error': (fake) => {
      const { value } = fake;
      fake.value = (...args) => {
        try {
          return value.apply(fake, args);
        } catch {
          return undefined;
        }
      };
    },
  };
  for (const [what, plant] of Object.entries(faults)) {
    const fake = await startFake(t);
    plant(fake);
    let found = null;
    for (let seed = SEED; !found && seed < SEED + 8; seed++) found = await difference(real, fake, { seed, commands: 1000, version: '2' });
    assert.notEqual(found, null, what);
  }
});

/** A log with some entries, in an engine of either kind. */
async function filled(engine, entries = 10) {
  const client = new RespClient(engine);
  const [epoch, incarnation] = [randomEpoch(), randomIncarnation()];
  const sha = { append: await client.command('SCRIPT', 'LOAD', SCRIPTS.append), renew: await client.command('SCRIPT', 'LOAD', SCRIPTS.renew) };
  assert.equal(await client.command('EVALSHA', sha.renew, 2, meta, log, '0', epoch, 'run'), epoch);
  const append = (n, records = 1) => client.reply('EVALSHA', sha.append, 2, meta, log, epoch, incarnation, n, records, 1000, `entry ${n}`);
  for (let n = 1; n <= entries; n++) assert.equal(await append(n, n), 1);
  return { client, epoch, incarnation, sha, append };
}

for (const [kind, begin] of [['fake', startFake], ['real', startRedis]]) {
  const skip = kind === 'real' && noEngine;
  test(`${kind} engine: appends are numbered, repeated ones change nothing, a gap and another epoch are refused`, { skip }, async (t) => {
    const { client, epoch, incarnation, sha, append } = await filled(await begin(t));
    assert.equal(await append(7), 0);
    assert.equal((await append(12)).message, 'GAP 10');
    assert.deepEqual(await client.command('HMGET', meta, 'epoch', 'count', incarnation, 'run'), [epoch, '55', '10', 'run']);
    assert.deepEqual((await client.command('XRANGE', log, '-', '+', 'COUNT', 4)).map(([, fields]) => fields[3]), ['0', '1', '3', '6']);
    const other = await client.reply('EVALSHA', sha.append, 2, meta, log, '5', incarnation, 11, 1, 1000, 'x');
    assert.equal(other.message, `EPOCH ${epoch}`);
    assert.equal(await client.command('EVALSHA', sha.renew, 2, meta, log, '0', '9', 'run'), epoch);
    await client.command('FLUSHALL');
    assert.equal((await append(11)).message, 'EPOCH 0');
    client.close();
  });

  test(`${kind} engine: who waits in XREAD is answered by the next append, or by nothing`, { skip }, async (t) => {
    const engine = await begin(t);
    const { client, append } = await filled(engine, 1);
    const reader = new RespClient(engine);
    const [[, had]] = await reader.command('XREAD', 'COUNT', 256, 'BLOCK', 2000, 'STREAMS', log, '0');
    const waiting = reader.command('XREAD', 'BLOCK', 5000, 'STREAMS', log, 'other', had[0][0], '0');
    const ping = reader.command('PING'); // waits for its turn
    await append(2);
    const [[key, found], ...none] = await waiting;
    assert.deepEqual([key, found.length, found[0][1].at(-1), none], [log, 1, 'entry 2', []]);
    assert.equal(await ping, 'PONG');
    assert.equal(await reader.command('XREAD', 'BLOCK', 10, 'STREAMS', log, '$'), null);
    reader.close();
    client.close();
  });
}

test('faults of the fake: the tail is lost, with what meta says of it', async (t) => {
  const fake = await startFake(t);
  const { client, epoch, incarnation, append } = await filled(fake);
  fake.loseTail(3);
  assert.deepEqual(await client.command('HMGET', meta, 'epoch', 'count', incarnation), [epoch, '28', '7']);
  assert.equal(await client.command('XLEN', log), 7);
  assert.equal((await append(11)).message, 'GAP 7');
  assert.equal(await append(8, 8), 1);
  fake.loseTail(100);
  assert.deepEqual(await client.command('HMGET', meta, 'epoch', 'count', incarnation), [epoch, '0', null]);
  assert.equal(await client.command('TYPE', log), 'none');
  fake.trim(0);
  client.close();
});

test('faults of the fake: refusals, a new run, scripts that are gone', async (t) => {
  const fake = await startFake(t);
  const { client, append, sha } = await filled(fake);
  for (const kind of ['READONLY', 'OOM']) {
    fake.refuse(kind);
    assert.equal((await append(11)).kind, kind);
    assert.equal(await append(10), 0);
    assert.equal((await client.reply('XADD', 's', '*', 'a', 'b')).kind, kind);
    assert.equal(await client.command('XLEN', log), 10);
  }
  fake.refuse('LOADING');
  assert.equal((await client.reply('PING')).kind, 'LOADING');
  assert.match(await client.command('INFO', 'server'), /run_id:[0-9a-f]{40}/);
  fake.refuse(null);
  fake.refuse('NOSCRIPT');
  assert.equal((await append(11)).kind, 'NOSCRIPT');
  assert.equal(await client.command('SCRIPT', 'LOAD', SCRIPTS.append), sha.append);
  assert.equal(await append(11), 1);
  const run = fake.runId;
  fake.newRun();
  await within(1000 * slow, 'the cut', client.ended);
  const again = new RespClient(fake);
  assert.ok(!(await again.command('INFO')).includes(run));
  assert.equal(await again.command('XLEN', log), 11);
  again.close();
});

test('faults of the fake: late, stopped, cut', async (t) => {
  const fake = await startFake(t);
  const { client, append } = await filled(fake);
  const other = new RespClient(fake);
  fake.answerLate(150);
  let began = Date.now();
  const late = append(11);
  const later = client.command('PING'); // late too, and behind it
  fake.answerLate(150);
  await until('the append to be there', () => fake.keys.get(log).elements.length === 11, { every: 2 });
  fake.answerLate(0);
  assert.equal(await other.command('XLEN', log), 11);
  assert.ok(Date.now() - began < 140, 'it was there before it was answered');
  assert.deepEqual([await late, await later], [1, 'PONG']);
  assert.ok(Date.now() - began >= 145);

  fake.executeLate(100);
  began = Date.now();
  append(12);
  await throughout(60, () => assert.equal(fake.keys.get(log).elements.length, 11));
  await until('it to be done', () => fake.keys.get(log).elements.length === 12);
  fake.executeLate(0);

  fake.pause();
  const waiting = append(13);
  const stranger = new RespClient(fake); // the kernel still takes it
  const told = stranger.command('PING');
  await throughout(80, () => assert.equal(fake.keys.get(log).elements.length, 12));
  fake.resume();
  assert.deepEqual([await waiting, await told], [1, 'PONG']);

  fake.cutInMiddleOfAnswer('XRANGE');
  assert.equal(await client.command('PING'), 'PONG');
  assert.equal((await client.reply('XRANGE', log, '-', '+')).kind, 'CLOSED');
  assert.equal((await stranger.command('XRANGE', log, '-', '+')).length, 13);
  for (const one of [other, stranger]) one.close();
});

test('faults of the fake: a password', async (t) => {
  const fake = await startFake(t, { user: 'me', password: 'secret' });
  const client = new RespClient(fake);
  assert.equal((await client.reply('PING')).kind, 'NOAUTH');
  assert.equal((await client.reply('AUTH', 'me', 'wrong')).kind, 'WRONGPASS');
  assert.equal(await client.command('AUTH', 'me', 'secret'), 'OK');
  assert.equal((await client.command('HELLO', '3', 'AUTH', 'me', 'secret', 'SETNAME', 'a')).get('proto'), 3);
  client.close();
});

test('a real engine under our hand: stopped, killed, from its file, a replica that takes over', { skip: noEngine }, async (t) => {
  const engine = await startRedis(t, { keep: true });
  const { client } = await filled(engine, 5);
  await engine.save();
  await engine.command('XTRIM', log, 'MAXLEN', 0);
  const run = await engine.info('run_id');
  engine.pause();
  await throughout(50, () => assert.equal(engine.over, false));
  engine.resume();
  await engine.cut();
  await within(1000 * slow, 'the cut', client.ended);
  await engine.restart();
  assert.equal(await engine.command('XLEN', log), 5, 'an older state');
  assert.notEqual(await engine.info('run_id'), run);
  const replica = await startRedis(t, { of: engine });
  await replica.caughtUp();
  await replica.promote();
  assert.equal(await replica.command('XLEN', log), 5);
  assert.equal(await replica.command('SET', 'a', 'b'), 'OK');
  engine.keep = false;
  await engine.restart();
  assert.equal(await engine.command('XLEN', log), 0, 'all is gone');
  await engine.stop();
});
