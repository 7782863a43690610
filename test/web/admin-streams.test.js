'use strict';
// The admin page in Chromium when its stream, the server or a clock is not as it should be.

const assert = require('node:assert/strict');
const { test, admin, connection, untilUsers, text, untilText, three } = require('./lib/admin');
const { checkAxe } = require('./lib/pages');

test('a broken stream is shown, and resumed without loading the list again', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { allow: [/status of 503|ERR_/] });
  await connection(page, 'connected');
  server.streamStatus = 503;
  server.breakStreams();
  await connection(page, 'broken');
  assert.equal(await text(page, 'connection-word'), 'Broken');
  assert.match(await text(page, 'connection-text'),
    /last data at \d\d:\d\d:\d\d, list refreshed at .*, next try in \d+ s$/);
  await checkAxe(page);
  server.join('missed');
  server.leave('bob', 'dropped');
  const lists = () => server.log.filter((line) => line.includes('online-users')).length;
  const before = lists();
  server.streamStatus = 0;
  await connection(page, 'connected');
  await untilUsers(page, ['alice', 'carol', 'missed']);
  assert.equal(lists(), before, 'the changes came by the stream');
});

test('a restarted server is another run: the list is loaded again', async (t) => {
  const { server, page } = await admin(t, { users: three() }, { allow: [/ERR_/] });
  await connection(page, 'connected');
  server.join('dave');
  await untilUsers(page, ['alice', 'bob', 'carol', 'dave']);
  server.set('bob', { online: false });
  server.add('erin', {});
  server.restart();
  await untilUsers(page, ['alice', 'carol', 'dave', 'erin']);
  await connection(page, 'connected');
  server.leave('alice');
  await untilUsers(page, ['carol', 'dave', 'erin']);
});

test('a silent stream is behind, then broken; the list is polled every 30 s meanwhile', async (t) => {
  const { server, page } = await admin(t, { users: three() },
    { blank: true, allow: [/status of 503|ERR_/] });
  await page.clock.install();
  await page.goto(`${server.url}/admin/`);
  await connection(page, 'connected');
  server.mute = true;
  server.streamStatus = 503;
  server.join('dave');
  await page.clock.runFor(11000);
  await connection(page, 'behind');
  await untilText(page, 'connection-text', /^1 changes are missing/);
  await page.clock.runFor(11000);
  await untilText(page, 'connection-text', /^nothing heard for 2\d s/);
  await page.clock.runFor(9000);
  await untilUsers(page, ['alice', 'bob', 'carol', 'dave']);
  await page.clock.runFor(11000);
  await connection(page, 'broken');
  server.join('erin');
  await page.clock.runFor(31000);
  await untilUsers(page, ['alice', 'bob', 'carol', 'dave', 'erin']);
  server.down = true;
  await page.clock.runFor(31000);
  await untilText(page, 'connection-text', /last refresh failed, the server does not answer/);
  server.down = false;
  server.mute = false;
  server.streamStatus = 0;
  await page.click('#refresh');
  await connection(page, 'connected');
});

test('a server without a stream or a history: the list is polled, and the page says so', async (t) => {
  const { server, page } = await admin(t, { users: three(), events: false, history: false },
    { blank: true, allow: [/status of 404/] });
  await page.clock.install();
  await page.goto(`${server.url}/admin/`);
  await untilUsers(page, ['alice', 'bob', 'carol']);
  await untilText(page, 'connection-text', /^this server has no stream of changes/);
  assert.equal(await page.isVisible('#overview'), false);
  await checkAxe(page);
  server.leave('alice');
  await page.clock.runFor(31000);
  await untilUsers(page, ['bob', 'carol']);
});

test('a list that could not be loaded is not Live, and is loaded again', async (t) => {
  const { server, page } = await admin(t, { users: 3000 }, { blank: true, allow: [/ERR_/] });
  let pages = 0;
  await page.route('**/online-users*', (route) => (++pages === 3 ? route.abort() : route.continue()));
  await page.clock.install();
  await page.goto(`${server.url}/admin/`);
  await untilText(page, 'connection-text', /last refresh failed/);
  await page.clock.fastForward(2000);
  assert.equal(await text(page, 'connection-word'), 'Behind');
  await page.clock.fastForward(31000);
  server.change('user-000001', { status: 'busy' }); // a stream that says nothing for so long is Behind
  await connection(page, 'connected');
  assert.equal(await text(page, 'count-users'), '3,000');
  server.set('user-002999', { online: false });
  pages = 0;
  server.restart();
  await page.clock.fastForward(4000);
  await untilText(page, 'connection-text', /^the list is not complete, .*last refresh failed/);
  assert.equal(await text(page, 'connection-word'), 'Behind');
  await page.clock.fastForward(32000);
  server.change('user-000001', { status: 'away' });
  await connection(page, 'connected');
  assert.equal(await text(page, 'count-users'), '2,999');
});

test('a load that takes longer than the time between two is not begun anew', async (t) => {
  const { server, page } = await admin(t, { users: 4000, events: false },
    { blank: true, allow: [/status of 404/] });
  let held = null;
  await page.route('**/online-users*', (route) => { held = route; });
  await page.clock.install();
  await page.goto(`${server.url}/admin/`);
  for (let i = 0; i < 4; i++) {
    while (!held) await page.clock.runFor(100);
    await page.clock.runFor(12000);
    assert.equal(/cursor=/.test(held.request().url()), i > 0, `page ${i + 1} is asked for`);
    const route = held;
    held = null;
    await route.continue();
    await route.request().response();
  }
  while (!/list refreshed/.test(await text(page, 'connection-text'))) await page.clock.runFor(100);
});

test('times are by the clock of the server, whatever the clock of the browser says', async (t) => {
  for (const off of [-3600000, 3600000]) {
    const { server, page } = await admin(t, { users: three() }, { blank: true });
    await page.clock.install({ time: Date.now() + off });
    await page.goto(`${server.url}/admin/#/user/alice`);
    await untilText(page, 'rows', /alice[^]*42 min[^]*\d s ago/);
    await untilText(page, 'detail-facts', /Online since\s+\S.*\(42 min\)/);
    await page.clock.runFor(3000);
    await untilText(page, 'detail-facts', /Online since\s+\S.*\(42 min\)/);
    await untilText(page, 'rows', /alice[^]*42 min[^]*\d s ago/);
  }
});

test("the browser's clock set back or forth: the page goes on, and tells when it cannot", async (t) => {
  for (const off of [-3600000, 86400000]) {
    const { server, page } = await admin(t, { users: three() }, { blank: true, allow: [/ERR_/] });
    await page.clock.install();
    await page.goto(`${server.url}/admin/`);
    await connection(page, 'connected');
    await page.clock.setSystemTime(Date.now() + off);
    await page.clock.runFor(2000);
    await connection(page, 'connected');
    server.join('newcomer');
    await untilText(page, 'rows', /newcomer/);
    await untilText(page, 'rows', /alice[^]*42 min/);
    const asked = server.log.length;
    await page.clock.runFor(61000);
    const stats = server.log.slice(asked).filter((line) => /stats/.test(line)).length;
    assert.ok(stats >= 3, `${stats} times asked for the totals in a minute`);
    server.mute = true; // nothing is heard any more: that is seen, whatever the clock was set to
    server.users.get('alice').status = 'busy';
    await page.clock.runFor(21000);
    await connection(page, 'behind');
  }
});
