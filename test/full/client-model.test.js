'use strict';
// The browser client in a random world, for a minute: servers that refuse, hang and lie, networks
// that go, tabs that sleep, applications that change their mind and fail. Ever other seeds; the one
// that fails is told, and CLIENT_SEED repeats it.

const assert = require('node:assert/strict');
const test = require('node:test');
const { World, SERVERS, pong } = require('../web/lib/world');
const { dice } = require('../integration/lib/random');

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const SECONDS = Number(process.env.CLIENT_SECONDS || 60);
const STEPS = 80;
const USERS = ['alice', 'bob', 'a/b ü'];
const CODES = [1000, 1001, 1002, 1006, 1007, 1009, 1011, 1012, 1013, 4400, 4401, 4408, 4429, 4999];

/** Every way in which a server can be. */
function servers(random) {
  return {
    ...SERVERS,
    /** Says hello to the user it was asked for, and goes after a while, in some way. */
    leaves(socket) {
      socket.answer = pong(socket);
      socket.later(() => socket.hello());
      const reason = random(2) ? `retry_after=${random(5000)}` : 'for no reason';
      socket.later(() => socket.end(CODES[random(CODES.length)], reason), random(2 * MINUTE));
    },
    /** Says what no server says. */
    babbles(socket) {
      socket.answer = pong(socket);
      socket.later(() => {
        socket.hello({ heartbeat_seconds: [25, 0, -1, 'x', null, 1e9][random(6)], spread_ms: random(3000) });
        const nonsense = ['', '{', '[]', 'null', '{"type":7}', '{"type":"snapshot"}', '{"type":"presence","users":7}',
          '{"type":"spread","spread_ms":-5}', '{"type":"error"}', '{"type":"unheard of","users":[{}]}', 'pong', '\u0000'];
        for (let i = 0; i < 4; i++) socket.message(nonsense[random(nonsense.length)]);
      });
    },
    /** Answers late. */
    slow(socket) {
      socket.answer = (text) => { if (text === 'ping') socket.later(() => socket.message('pong'), random(8 * SECOND)); };
      socket.later(() => socket.hello(), random(8 * SECOND));
    },
  };
}

/** One life of a client; throws when something that must hold does not. Gives how many sockets. */
async function live(seed) {
  const random = dice(seed);
  const world = new World();
  const known = servers(random);
  const names = Object.keys(known);
  const tokens = [() => 't', () => `t${random(1e9)}`, () => Promise.resolve('later'), () => Promise.reject(new Error('no token')), () => { throw new Error('thrown'); }];
  let getToken = tokens[0];
  const client = await world.client({ getToken: () => getToken(), random: () => random(1000) / 1000 });
  const watches = [];
  let user = null; // who was started last; null: nobody
  const choose = (list) => list[random(list.length)];
  const start = () => {
    user = choose(USERS);
    client.startPresence(user);
  };
  const acts = [
    () => world.page.send(choose(['online', 'offline', 'freeze', 'resume'])),
    () => world.page.send(choose(['pageshow', 'pagehide']), { persisted: random(2) > 0 }),
    () => world.page.show(random(2) > 0),
    () => { world.server = known[choose(names)]; },
    () => { world.server = known.up; },
    () => world.last?.end(choose(CODES)),
    () => world.last?.end(1012, `retry_after=${random(3000)}`),
    start,
    () => { client.stopPresence(); user = null; },
    () => { client.stopPresence(); start(); },
    () => client.renewToken(),
    () => { world.greeting = { expires_seconds: random(600) }; },
    () => client.setStatus(choose(['online', 'away', 'busy'])),
    () => client.setStatus('busy', { manual: true, message: 'm' }),
    () => watches.push(client.watch([choose(USERS), `x${random(9)}`], () => {})),
    () => watches.splice(random(watches.length + 1), 1).forEach((end) => end()),
    () => { getToken = choose(tokens); },
    () => world.clock.sleep(random(10 * MINUTE)),
    () => { world.clock.throttle = choose([0, SECOND, MINUTE]); },
  ];
  const check = (when) => {
    const where = `CLIENT_SEED=${seed}, ${when}: ${client.state}`;
    assert.ok(world.live.length <= 1, `${where}, ${world.live.length} sockets`);
    assert.equal(client.isConnected(), client.state === 'connected', where);
    if (!user) assert.equal(world.live.length, 0, where);
    const [socket] = world.live;
    if (socket) assert.ok(socket.url.endsWith(`/ws/presence/${encodeURIComponent(user)}`), `${where}, ${socket.url} for ${user}`);
  };
  start();
  for (let step = 0; step < STEPS; step++) {
    choose(acts)();
    check(`step ${step}`);
    await world.clock.advance(random(3) ? random(2 * SECOND) : random(MINUTE));
    check(`a while after step ${step}`);
  }
  // all is well again: it comes back by itself, if it was started and not told to stay away
  world.server = known.up;
  getToken = () => 'new'; // 't' may have been refused, and is not tried again then
  world.clock.throttle = 0;
  if (!user) start();
  world.page.show(true);
  world.page.send('resume');
  world.page.send('online');
  world.last?.end(1006);
  await world.clock.advance(5 * MINUTE);
  check('in the end');
  assert.equal(client.state, 'connected', `CLIENT_SEED=${seed}: in the end ${client.state}`);
  // the world's clock never stands still of itself: no storm of sockets in any second
  for (let i = 10; i < world.sockets.length; i++) {
    const ms = world.sockets[i].began - world.sockets[i - 10].began;
    assert.ok(ms > 0, `CLIENT_SEED=${seed}: ten sockets in ${ms} ms`);
  }
  client.stopPresence();
  for (const end of watches) end();
  await world.clock.advance(MINUTE);
  assert.deepEqual([world.clock.pending, world.live.length, world.page.listening], [0, 0, 0], `CLIENT_SEED=${seed}: something is left`);
  return world.sockets.length;
}

test('a client in a random world has at most one socket, for its user, and comes back', { timeout: (SECONDS + 300) * SECOND }, async (t) => {
  const end = Date.now() + SECONDS * SECOND;
  let seed = Number(process.env.CLIENT_SEED) || Date.now() % 2 ** 31;
  let lives = 0;
  let sockets = 0;
  do {
    sockets += await live(seed++);
    lives++;
  } while (!process.env.CLIENT_SEED && Date.now() < end);
  t.diagnostic(`${lives} lives, ${sockets} sockets`);
});
