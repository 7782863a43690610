'use strict';
// Variants: release
// Three nodes and one engine are one presence server: what each shows, tells and keeps is the same,
// whoever is connected where, and whatever dies.

const assert = require('node:assert/strict');
const { test, ahead, sideBySide, dice: seeded, del, delay, follow, get, heartbeat, openEvents, position, putStatus, request, sessions, setStatus,
  steppable, throughout, until, within, slow } = require('./lib');
const { startCluster } = require('./lib/cluster');
const { checkCluster } = require('./lib/cluster-checker');
const { ClusterLoad } = require('./lib/cluster-load');
const { noEngine, startRedis } = require('./lib/engine');

const SEED = Number(process.env.SEED || 1 + (Date.now() % 1000000));
const THRESHOLD = 10000;
const argsOf = (threshold) => ['--online-threshold', `${threshold}ms`, '--ping-interval', '3s', '--pong-timeout', '3s', '--grace', '2s',
  '--watch-interval', '0', '--max-messages-per-second', '0'];
const AT_ONCE = { within: 2000 * slow }; // counted generously: it is a matter of ms
const EVICTED = { within: 20000 * slow }; // five beats of 2 s, and a round of them for those who are slow
const LEFT = { within: THRESHOLD + 15000 * slow };
const skip = noEngine;

const cluster = (t, options) => startCluster(t, { args: argsOf(THRESHOLD), ...options });
const live = (connections) => (user) => user.online && user.source === 'live' && user.connections === connections;
const offline = (user) => !user.online;

/** The one change of this kind of a user, which all living nodes tell at the same position. */
async function toldOnce(all, id, kind, options = AT_ONCE) {
  const found = [];
  for (const { name } of all.living) {
    const log = all.logs[name];
    await log.wait(`${kind} of ${id}`, ({ change, user }) => change === kind && user.user_id === id, options);
    found.push(...log.changes.filter(({ change, user }) => change === kind && user.user_id === id));
  }
  assert.equal(new Set(found.map((one) => one.position)).size, 1, `${kind} of ${id}: ${JSON.stringify(found)}`);
  assert.equal(found.length, all.living.length);
  return found[0];
}

/** Nobody is told that one of these users has left. */
function nobodyLeft(all, ids) {
  for (const { name } of all.nodes)
    assert.deepEqual(all.logs[name].changes.filter(({ change, user }) => change === 'leave' && ids.includes(user.user_id)), [], name);
}

const names = (prefix, count) => Array.from({ length: count }, (_, i) => `${prefix}${i}`);

sideBySide(() => {
  test('what happens on one node is shown and told by all', { skip, timeout: 60000 * slow }, async (t) => {
    const all = await cluster(t);
    const { a, b, c } = all;

    await t.test('a user on a is shown by b and c: alone, in lists, in events, to watchers', async () => {
      const watcher = await follow(b.server, 'watcher', ['alice']);
      const client = await a.connect('alice');
      assert.ok((await a.presence('alice')).online, 'a client reads what it wrote');
      await all.everywhere('alice', 'live', live(1), AT_ONCE);
      await watcher.sees('alice', live(1), AT_ONCE.within);
      for (const node of all.living) assert.ok((await node.online()).some((user) => user.user_id === 'alice'), node.name);
      await toldOnce(all, 'alice', 'join');
      await client.close();
      await all.everywhere('alice', 'offline', offline, AT_ONCE);
      await watcher.sees('alice', offline, AT_ONCE.within);
      assert.equal((await toldOnce(all, 'alice', 'leave')).reason, 'closed');
      for (const node of all.living)
        await until(`the stay on ${node.name}`, async () => (await sessions(node.server, 'alice')).map(({ reason }) => reason).join() === 'closed', AT_ONCE);
    });

    await t.test('a clean close here with a tab there changes the number of connections, and nothing else', async () => {
      const [one, other] = [await a.connect('tabs'), await b.connect('tabs')];
      await all.everywhere('tabs', 'live twice', live(2), AT_ONCE);
      one.send({ type: 'status', status: 'away' });
      other.send({ type: 'status', status: 'busy' });
      await all.everywhere('tabs', 'as the most available says', ({ status }) => status === 'busy' || status === 'away', AT_ONCE);
      await one.close();
      await all.everywhere('tabs', 'live once, as the other says', (user) => live(1)(user) && user.status === 'busy', AT_ONCE);
      assert.ok(other.open);
      nobodyLeft(all, ['tabs']);
      await other.close();
      await toldOnce(all, 'tabs', 'leave');
    });

    await t.test('a status set by hand on c is everywhere, and the last one wins', async () => {
      const client = await a.connect('manual');
      await all.everywhere('manual', 'live', live(1), AT_ONCE);
      await setStatus(c.server, 'manual', { status: 'busy', message: 'in a meeting' });
      assert.equal((await c.presence('manual')).status, 'busy', 'who set it reads it');
      await all.everywhere('manual', 'busy', ({ status, message }) => status === 'busy' && message === 'in a meeting', AT_ONCE);
      await setStatus(b.server, 'manual', { status: 'away' });
      await all.everywhere('manual', 'away', ({ status }) => status === 'away', AT_ONCE);
      assert.equal((await putStatus(a.server, 'manual', { status: 'nonsense' })).status, 400);
      await client.close();
      await all.everywhere('manual', 'offline', offline, AT_ONCE);
    });

    await t.test('a kick on b of a user on a and c: one leave everywhere, each closes its own', async () => {
      const clients = await Promise.all([...Array(99).fill(a), c].map((node) => node.connect('kicked')));
      await all.everywhere('kicked', 'live', live(100), AT_ONCE);
      const answer = await del(b.server, '/admin/users/kicked/connections');
      assert.equal(answer.status, 200, answer.text);
      for (const client of clients) assert.equal((await within(AT_ONCE.within, 'the close', client.closed)).code, 4403);
      await all.everywhere('kicked', 'offline', offline, AT_ONCE);
      await delay(100); // what is told behind it
      assert.equal((await toldOnce(all, 'kicked', 'leave')).reason, 'kicked');
    });

    await t.test('who breaks on a and is back on b within the grace has not left', async () => {
      const client = await a.connect('moved');
      await all.everywhere('moved', 'live', live(1), AT_ONCE);
      client.reset();
      await all.everywhere('moved', 'cached', ({ online, source }) => online && source === 'cached', AT_ONCE);
      const again = await b.connect('moved');
      await all.everywhere('moved', 'live', live(1), AT_ONCE);
      await throughout(2500, () => nobodyLeft(all, ['moved'])); // longer than the grace on a
      await again.close();
      await toldOnce(all, 'moved', 'leave');
    });

    await t.test('the last clean close ends what another node keeps for the grace', async () => {
      const [one, other] = [await a.connect('out'), await b.connect('out')];
      await all.everywhere('out', 'live', live(2), AT_ONCE);
      one.reset();
      await all.everywhere('out', 'live once', live(1), AT_ONCE);
      await other.close();
      await all.everywhere('out', 'offline', offline, { within: 1000 * slow });
      assert.equal((await toldOnce(all, 'out', 'leave')).reason, 'closed');
    });

    await t.test('a heartbeat over HTTP on c is seen everywhere', async () => {
      await heartbeat(c.server, 'beating');
      assert.equal((await c.presence('beating')).source, 'cached');
      await all.everywhere('beating', 'cached', ({ source }) => source === 'cached', AT_ONCE);
    });

    await t.test('a stream that was read on a goes on at b, without a reset', async () => {
      const stream = await openEvents(a.server, { gaps: true });
      await stream.next();
      const client = await c.connect('resumed');
      await stream.until('the join', () => stream.events.some(({ data }) => data.user?.user_id === 'resumed'));
      const { lastId } = stream;
      stream.cut();
      await client.close();
      const rest = await openEvents(b.server, { lastId, gaps: true });
      const next = await rest.until('the leave', () => rest.events.find(({ data }) => data.user?.user_id === 'resumed'));
      assert.deepEqual([next.event, next.data.change, rest.events[0].event], ['change', 'leave', 'change']);
      rest.cut();
    });

    await until('who only beat to be gone', async () => !(await a.presence('beating')).online, LEFT);
    await checkCluster(all, { online: new Set(['watcher']), held: new Map([['watcher', new Set('b')]]) });
    await all.stop();
  });

  test(`random changes on three nodes leave them alike (SEED=${SEED})`, { skip, timeout: 60000 * slow }, async (t) => {
    const all = await cluster(t);
    const dice = seeded(SEED);
    const load = new ClusterLoad(all, dice, { threshold: THRESHOLD - 2000 });
    await load.begin({ holders: 30, visitors: 20, moves: true, pace: 0.5 });
    for (const end = Date.now() + 6000; Date.now() < end; await delay(dice(60))) {
      const node = load.someNode();
      const id = `random${dice(10)}`;
      const what = [
        () => heartbeat(node.server, id),
        () => putStatus(node.server, id, { status: ['away', 'busy'][dice(2)] }),
        () => request(node.server, 'DELETE', `/admin/users/${id}/connections`),
        () => node.connect(id).then((client) => (dice(2) ? client.close() : client.reset())),
      ][dice(4)];
      await what();
    }
    await load.calm();
    await until('those at random to be gone', async () => (await all.a.online()).every((user) => !user.user_id.startsWith('random')), LEFT);
    await checkCluster(all, load.truth());
    await load.end();
    await all.stop();
  });

  test('a node is killed: who does not come back leaves once, who does has not left', { skip, timeout: 90000 * slow }, async (t) => {
    const all = await cluster(t);
    const { a, b, c } = all;
    const [lost, back, others] = [names('lost', 20), names('back', 10), names('other', 5)];
    for (const id of [...lost, ...back]) await a.connect(id);
    for (const id of others) await c.connect(id);
    await all.everywhere('other4', 'live', live(1), AT_ONCE);
    await b.connect('back0'); // has a second tab where nothing happens
    const at = Date.now();
    await a.kill();
    await delay(1000);
    for (const id of back.slice(1)) await b.connect(id);
    await throughout(3000, () => nobodyLeft(all, [...lost, ...back, ...others]));
    for (const id of [lost[0], lost[19]]) assert.ok((await b.presence(id)).online, 'not before the threshold');
    for (const id of lost) assert.equal((await toldOnce(all, id, 'leave', LEFT)).reason, 'node_lost');
    assert.ok(Date.now() - at >= THRESHOLD - 3000, 'the threshold has passed since the last sign of life');
    nobodyLeft(all, [...back, ...others]);
    await checkCluster(all, {
      online: new Set([...back, ...others]), lost: new Map(lost.map((id) => [id, { at }])),
      held: new Map([...back.map((id) => [id, new Set('ab')]), ...others.map((id) => [id, new Set('c')])]),
    });
    await a.begin(); // it was gone for long, and knows at once what happened
    await checkCluster(all, { online: new Set([...back, ...others]) });
    await all.stop();
  });

  test('a node starts again on its store: who comes back to any node was never offline', { skip, timeout: 90000 * slow }, async (t) => {
    const all = await cluster(t);
    const { a, b, c } = all;
    const ids = names('u', 20);
    for (const id of ids) await a.connect(id);
    await all.everywhere('u19', 'live', live(1), AT_ONCE);
    await a.restart();
    assert.ok((await b.presence('u3')).online);
    for (const [i, id] of ids.entries()) if (i) await [a, b, c][i % 3].connect(id);
    await all.everywhere('u1', 'live', live(1), AT_ONCE);
    await c.kill();
    await c.begin();
    await Promise.all(ids.filter((id, i) => i && i % 3 === 2).map((id) => c.connect(id)));
    await toldOnce(all, 'u0', 'leave', LEFT);
    nobodyLeft(all, ids.slice(1));
    await checkCluster(all, { online: new Set(ids.slice(1)), held: new Map(ids.slice(1).map((id) => [id, new Set('abc')])) });
    await all.stop();
  });

  test('a node that joins late knows all there is, and all there was', { skip, timeout: 60000 * slow }, async (t) => {
    const all = await cluster(t);
    const { a, b } = all;
    const ids = names('u', 200);
    for (const [i, id] of ids.entries()) await [a, b][i % 2].connect(id);
    const gone = await b.connect('gone');
    await setStatus(a.server, 'u7', { status: 'busy' });
    await gone.close();
    await all.everywhere('gone', 'offline', offline, AT_ONCE);
    const d = await all.add('d');
    assert.equal((await d.online()).length, 200, 'ready is to have all');
    assert.equal((await d.presence('u7')).status, 'busy');
    await until('who left before it came', async () => (await sessions(d.server, 'gone')).length === 1, AT_ONCE);
    const client = await d.connect('new');
    await all.everywhere('new', 'live', live(1), AT_ONCE);
    await client.close();
    await toldOnce(all, 'new', 'leave');
    await checkCluster(all, { online: new Set(ids), held: new Map(ids.map((id) => [id, new Set('ab')])) });
    await all.stop();
  });

  test('FLUSHALL: everybody stays online, readers begin again in a new epoch', { skip, timeout: 60000 * slow }, async (t) => {
    const all = await cluster(t);
    const ids = names('u', 60);
    for (const [i, id] of ids.entries()) await all.nodes[i % 3].connect(id);
    const watcher = await follow(all.b.server, 'watcher', ids);
    await all.everywhere('u59', 'live', live(1), AT_ONCE);
    const before = await all.epoch();
    await all.engine.command('FLUSHALL');
    await all.a.connect('after'); // what is written next is refused
    await until('a new epoch', async () => ![null, before].includes(await all.epoch()), { within: 10000 * slow });
    const counts = async () => {
      for (const node of all.living) assert.equal((await node.online()).filter(({ user_id: id }) => ids.includes(id)).length, 60, node.name);
    };
    await counts();
    await until('all settled in it', async () => {
      await counts();
      const epoch = await all.epoch();
      return all.nodes.every(({ name }) => all.logs[name].parts.at(-1).epoch === epoch);
    }, { within: 15000 * slow, every: 100 });
    await all.ready();
    await all.everywhere('after', 'live', live(1), AT_ONCE);
    assert.ok(watcher.changes.flat().every((user) => user.online), 'a watcher sees nobody leave');
    nobodyLeft(all, ids);
    for (const { name } of all.nodes) assert.ok(all.logs[name].parts.length >= 2, `${name}: a reset`);
    const client = await all.c.connect('later');
    await all.everywhere('later', 'live', live(1), AT_ONCE);
    assert.equal(position((await toldOnce(all, 'later', 'join')).position).epoch, await all.epoch());
    await client.close();
    await toldOnce(all, 'later', 'leave');
    await checkCluster(all, { held: new Map(ids.map((id) => [id, new Set('abc')])), online: new Set([...ids, 'after', 'watcher']) });
    await all.stop();
  });

  for (const [way, seconds] of [['back', -7200], ['ahead', 7200]])
    test(`the engine's clock is set ${way} by two hours: everybody has the time that is left`, { skip, timeout: 90000 * slow }, async (t) => {
      const clock = steppable(t);
      ahead.ms = 7200000 + 1000; // all that is shown is by the engine's clock
      const all = await cluster(t, { engine: await startRedis(t, { env: clock.env }), allow: [/msg="cluster: the clock of this machine is /] });
      const { a, b, c } = all;
      await b.connect('live');
      await a.connect('lost');
      await heartbeat(c.server, 'beat');
      for (const id of ['live', 'lost', 'beat']) await all.everywhere(id, 'online', (user) => user.online, AT_ONCE);
      await a.kill();
      clock.set(seconds);
      await throughout(6000, () => nobodyLeft(all, ['live', 'lost', 'beat']));
      for (const id of ['lost', 'beat']) await toldOnce(all, id, 'leave', LEFT);
      nobodyLeft(all, ['live']);
      await all.stop();
    });

  test('what changes nothing for anybody moves no position: who reads the changes is not behind', { skip, timeout: 60000 * slow }, async (t) => {
    const all = await cluster(t);
    for (const node of all.nodes) await node.connect(`of-${node.name}`);
    for (const node of all.nodes) await all.everywhere(`of-${node.name}`, 'live', live(1), AT_ONCE);
    const stats = (node) => get(node.server, '/admin/stats').then(({ json }) => json);
    const now = async () => {
      const found = await Promise.all(all.nodes.map(stats));
      return { positions: found.map(({ position: text }) => text), read: Math.min(...found.map((one) => one.cluster.counters.entries_read)) };
    };
    const told = all.logs.a.changes.at(-1).position;
    const before = await now();
    assert.deepEqual(before.positions, [told, told, told]);
    await until('some beats', async () => (await now()).read >= before.read + 6, { within: 20000 * slow, every: 100 });
    assert.deepEqual((await now()).positions, before.positions);
    await all.stop();
  });

  test('without its engine each node goes on alone with its own users, and comes back', { skip, timeout: 90000 * slow }, async (t) => {
    const all = await cluster(t);
    const { a, b, c } = all;
    const ids = names('u', 30);
    for (const [i, id] of ids.entries()) await all.nodes[i % 3].connect(id);
    const going = await a.connect('going');
    await all.everywhere('going', 'live', live(1), AT_ONCE);
    await all.engine.stop();
    for (const node of all.nodes) await node.alone();
    const answer = await a.get('/readyz');
    assert.deepEqual([answer.status, answer.cluster], ['ready', 'alone']);
    await going.close();
    const coming = await a.connect('coming');
    assert.ok(live(1)(await a.presence('coming')) && offline(await a.presence('going')), 'its own are exact');
    assert.ok((await b.presence('going')).online, 'others are as they were');
    for (const id of ids) assert.ok((await c.presence(id)).online, id);
    await all.engine.begin(); // empty
    await all.ready();
    await all.everywhere('coming', 'live', live(1), AT_ONCE);
    await all.everywhere('going', 'offline', offline, LEFT);
    nobodyLeft(all, ids);
    await coming.close();
    await toldOnce(all, 'coming', 'leave');
    await checkCluster(all, { held: new Map(ids.map((id) => [id, new Set('abc')])), online: new Set(ids) });
    await all.stop();
  });

  test('a node that is cut off is alone, reads its eviction, and states its users again', { skip, timeout: 90000 * slow }, async (t) => {
    const all = await cluster(t, { args: argsOf(30000) });
    const { a, b, c } = all;
    const ids = names('u', 30);
    for (const [i, id] of ids.entries()) await all.nodes[i % 3].connect(id);
    await all.everywhere('u29', 'live', live(1), AT_ONCE);
    a.proxy.apart();
    await a.alone();
    assert.deepEqual([await b.state(), await c.state()], ['settled', 'settled']);
    const client = await a.connect('meanwhile');
    await until('its users to be cached elsewhere', async () => (await b.presence('u0')).source === 'cached', EVICTED);
    assert.equal((await b.presence('u1')).source, 'live');
    a.proxy.together();
    await a.ready();
    await all.everywhere('u0', 'live', live(1), AT_ONCE);
    await all.everywhere('meanwhile', 'live', live(1), AT_ONCE);
    nobodyLeft(all, ids);
    assert.ok(client.open, 'its sockets were never closed');
    await client.close();
    await toldOnce(all, 'meanwhile', 'leave');
    await checkCluster(all, { held: new Map(ids.map((id) => [id, new Set('abc')])), online: new Set(ids) });
    await all.stop();
  });
});
