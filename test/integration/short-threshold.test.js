'use strict';
// Variants: asan tsan
// --online-threshold may be any time: what the store says of the server's life counts after a crash,
// and the longer one of grace and threshold after a broken connection.

const assert = require('node:assert/strict');
const { test, sideBySide, start, tempDir, connect, heartbeat, presence, onlineUsers, stats, until, throughout, slow, window,
  delay, settled, assertNeverLeft, assertLeftOnce } = require('./lib');

const WARNING = /level=warn msg="--online-threshold is below --ping-interval \+ --pong-timeout: /;
const names = (count, prefix) => Array.from({ length: count }, (_, i) => `${prefix}${i}`);

sideBySide(() => {
  test('who was silent for longer than the threshold when the server was killed has not left', async (t) => {
    const data = tempDir(t);
    const threshold = 1500 * window;
    const options = { data, args: ['--online-threshold', `${threshold}ms`] };
    let server = await start(t, options);
    const ids = names(100, 'u');
    await Promise.all(ids.map((id) => connect(server, id)));
    await heartbeat(server, 'gone'); // and nothing after it: this one has left before the kill
    const { last_seen: seen } = await presence(server, 'u7');
    await throughout(1.5 * threshold, async () => assert.equal((await presence(server, 'u7')).last_seen, seen));
    await until('gone to be offline', async () => !(await presence(server, 'gone')).online);
    await settled(server); // its end is in the store
    await server.kill();

    server = await start(t, options);
    const found = await onlineUsers(server);
    assert.deepEqual(found.map((user) => user.user_id).sort(), [...ids].sort());
    assert.ok(found.every((user) => user.source === 'cached' && user.connections === 0));
    assert.equal(found.find((user) => user.user_id === 'u7').last_seen, seen, 'nothing is invented');
    await Promise.all(ids.slice(1).map((id) => connect(server, id)));
    await until('the one who stays away to leave', async () => !(await presence(server, 'u0')).online);
    assert.equal((await presence(server, 'u7')).source, 'live');
    const { counters } = await stats(server);
    assert.deepEqual([counters.joins, counters.leaves], [0, 1]);
    await assertNeverLeft(server, 'u7');
    await assertLeftOnce(server, 'u0', 'restart');
  });

  test('who was silent when the server stopped in order has the threshold from then on', async (t) => {
    const data = tempDir(t);
    const threshold = 1500 * window;
    const options = { data, args: ['--online-threshold', `${threshold}ms`] };
    let server = await start(t, options);
    await connect(server, 'u');
    await delay(1.5 * threshold);
    await server.stop();
    server = await start(t, options);
    assert.equal((await presence(server, 'u')).source, 'cached');
    await connect(server, 'u');
    await assertNeverLeft(server, 'u');
  });

  test('the server has long been dead: nobody is shown online, and each leaves once', async (t) => {
    const data = tempDir(t);
    const options = { data, args: ['--online-threshold', '1s'] };
    let server = await start(t, options);
    await connect(server, 'u');
    await settled(server);
    await server.kill();
    await delay(2500); // the threshold, and what the server may have lived behind its last sign
    server = await start(t, options);
    await until('u offline', async () => !(await presence(server, 'u')).online, { within: 1000 * slow });
    await assertLeftOnce(server, 'u', 'restart');
  });

  test('a heartbeat does not shorten the grace of a broken connection', async (t) => {
    const grace = 3000 * window;
    const server = await start(t, { args: ['--grace', `${grace}ms`, '--online-threshold', '1s'] });
    const client = await connect(server, 'u');
    client.reset();
    await until('cached', async () => (await presence(server, 'u')).source === 'cached');
    const began = Date.now();
    await heartbeat(server, 'u');
    await until('offline', async () => !(await presence(server, 'u')).online, { within: 2 * grace });
    const took = Date.now() - began;
    assert.ok(took > grace - 500 * slow, `offline after ${took} ms`);
    await assertLeftOnce(server, 'u', 'dropped');
  });

  test('one warning when the threshold is below what it takes to find a dead connection', async (t) => {
    const warned = async (args) => (await start(t, { args })).lines.filter((line) => WARNING.test(line)).length;
    assert.equal(await warned([]), 0);
    assert.equal(await warned(['--online-threshold', '35s']), 0);
    assert.equal(await warned(['--online-threshold', '34999ms']), 1);
    assert.equal(await warned('--online-threshold 6s --ping-interval 2s --pong-timeout 4s'.split(' ')), 0);
  });
});
