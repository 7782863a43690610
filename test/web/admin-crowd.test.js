'use strict';
// The admin page in Chromium with 100,000 users, and what is exported of a list.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const { test, browser, admin, connection, lines, untilText, three } = require('./lib/admin');
const { traceTasks } = require('./lib/trace');

test('A01 100,000 users and 500 changes a second: no task over 200 ms, and nothing missed', async (t) => {
  const { server, page } = await admin(t, { users: 100000 }, { blank: true });
  server.churn(500);
  const tasks = await traceTasks(browser(), page, async () => {
    await page.goto(`${server.url}/admin/`);
    await connection(page, 'connected');
    for (const sort of ['connections', 'seen', 'id']) {
      await page.click(`button[data-sort="${sort}"]`);
      await page.waitForSelector('#users[aria-busy="false"]');
    }
    await page.fill('#search', '99');
    await page.waitForFunction(() => /99/.test(document.querySelector('#rows th').innerText));
    await page.fill('#search', '');
    await page.waitForFunction(() => !/99/.test(document.querySelector('#rows th').innerText));
    await page.click('#last');
    const until = server.churned + 1000;
    while (server.churned < until) await page.waitForTimeout(50);
  });
  t.diagnostic(`tasks: ${JSON.stringify(tasks)}`);
  assert.ok(tasks.count > 500, `the trace has tasks: ${tasks.count}`);
  assert.ok(tasks.cpu.longest > 0, 'the trace has the time of the processor');
  assert.equal(tasks.cpu.over200, 0, JSON.stringify(tasks));
  const pages = server.log.filter((line) => line.startsWith('GET /admin/online-users')).length;
  assert.ok(pages >= 99, `in pages of 1,000: ${pages}`);
  assert.equal(await page.$$eval('#rows tr', (rows) => rows.length) <= 50, true);
  server.stopChurn();
  const { online, connections, live, cached } = server.totals;
  for (const [name, value] of Object.entries({ users: online, connections, live, cached })) {
    await untilText(page, `count-${name}`, new RegExp(`^${value.toLocaleString('en')}$`));
  }
  await page.click('#first');
  await page.waitForFunction((total) => document.getElementById('range').innerText.endsWith(total),
    `of ${online.toLocaleString('en')}`);
  const seen = await lines(page);
  const wanted = server.order.map((id) => server.users.get(id)).filter((user) => user.online)
    .slice(0, 50).map((one) => `${one.id} | ${one.status} | ${one.source} | ${one.connections}`);
  assert.deepEqual(seen, wanted);
});

test('the trace would have told of a long task', async (t) => {
  const { page } = await admin(t, { users: 3 });
  const tasks = await traceTasks(browser(), page, () => page.evaluate(() => new Promise((resolve) => {
    setTimeout(() => {
      const end = performance.now() + 1500;
      while (performance.now() < end);
      resolve();
    });
  })));
  assert.deepEqual([tasks.cpu.over200, tasks.wall.over200 > 0], [1, true], JSON.stringify(tasks));
});

test('A01 the export holds every row of the view, and no formula', async (t) => {
  const { page } = await admin(t, { users: { ...three(), '=1+1': {}, '@SUM(1)': {}, 'a"b,c': {} } });
  await connection(page, 'connected');
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#export')]);
  assert.match(download.suggestedFilename(), /^presence-\d{4}-\d\d-\d\d-\d\d-\d\d-\d\d\.csv$/);
  const csv = fs.readFileSync(await download.path(), 'utf8').split('\r\n');
  assert.equal(csv[0], '\ufeff"user_id","online","status","source","connections","connected_at",'
    + '"last_seen","reason"');
  assert.deepEqual(csv.slice(1, -1).map((line) => line.split(',"true"')[0]),
    ['"\'=1+1"', '"\'@SUM(1)"', '"a""b,c"', '"alice"', '"bob"', '"carol"']);
  assert.match(csv[5], /^"bob","true","away","cached","0","2\d{3}-.*Z","2\d{3}-.*Z",""$/);
});
